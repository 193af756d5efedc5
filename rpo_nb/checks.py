"""What the losses and the partition estimators ask of their inputs; every refusal is one sentence
that names it.

The finite check costs one concatenation and one reduction a call, so it stays on during training
(on a GPU: one synchronisation a step); only when it fails is the row looked for.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor


def tensor_of(values, device: torch.device | None = None) -> Tensor:
    """A tensor as it is, anything else copied: sharing the memory of a read-only numpy array is not
    safe."""
    return values.to(device) if isinstance(values, Tensor) else torch.tensor(values, device=device)


def floats(values) -> Tensor:
    """`values` as float64 if it is float64, else as float32; gradients pass."""
    tensor = tensor_of(values)
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def rows(**named) -> list[Tensor]:
    """The arguments as floats of one shape [n], finite; ValueError names the argument and the row
    that is not."""
    tensors = {name: floats(value) for name, value in named.items()}
    first = next(iter(tensors))
    if tensors[first].dim() != 1:
        raise ValueError(
            f"{first} has shape {tuple(tensors[first].shape)}; give a vector with one value a row"
        )
    same_shape(**tensors)
    finite(**tensors)
    return list(tensors.values())


def same_shape(**tensors: Tensor) -> None:
    """ValueError names the first argument whose shape is not that of the one given first."""
    (first, reference), *others = tensors.items()
    for name, tensor in others:
        if tensor.shape != reference.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} but {first} has "
                f"{tuple(reference.shape)}; "
                "give them row for row"
            )


def weights(values) -> np.ndarray:
    """Weights of rows as float64 [n]; ValueError names the row whose weight is below 0 or not
    finite."""
    found = np.asarray(values, dtype=np.float64)
    wrong = np.flatnonzero(~(np.isfinite(found) & (found >= 0)))
    if len(wrong):
        raise ValueError(
            f"weights is {found[wrong[0]]} at row {wrong[0]}; a weight is a number, 0 or more"
        )
    return found


class NotFinite(ValueError):
    """A number that is nan or infinite: bad input, or a training that has diverged."""


def finite(**tensors: Tensor) -> None:
    """ValueError names the first argument and row that holds a nan or an infinity."""
    flat = [tensor.detach().reshape(-1) for tensor in tensors.values()]
    if torch.isfinite(torch.cat(flat)).all():
        return
    for name, tensor in tensors.items():
        bad = (~torch.isfinite(tensor)).nonzero()
        if len(bad):
            place = bad[0].tolist()
            where = "".join([f"row {place[0]}", *(f", column {i}" for i in place[1:])])
            raise NotFinite(
                f"{name} is {tensor[tuple(place)].item()} at {where}; drop or repair that row first"
            )


def number(name: str, value, *, above: float = -math.inf) -> float:
    """`value` as a finite float greater than `above`; ValueError names it otherwise."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = math.nan
    if not (math.isfinite(result) and result > above):
        wanted = "a finite number" + (f" above {above:g}" if above > -math.inf else "")
        raise ValueError(f"{name} is {value!r}; it must be {wanted}")
    return result


def known(name: str, value: str, choices: Collection[str]) -> None:
    """ValueError lists the choices when `value` is none of them."""
    if value not in choices:
        raise ValueError(f"{name} {value!r} is unknown; choose one of {', '.join(choices)}")
