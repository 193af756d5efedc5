"""A researcher's own loss: a function in a file that its owner names, trained like any method.

    def loss(policy_logps, ref_logps, rewards, temperature):
        return 0.5 * (policy_logps - ref_logps - rewards / temperature) ** 2

The file is code, and it is run: by `python -m rpo_nb lab --method my.py:loss` alone, which its
owner types. No profile, no data and no model can name it. `registered` gives it a row of
`config.methods` and a line of `training.losses`, as every method has them, so that the one trainer
trains it. docs/own_objective.md says what its arguments are.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rpo_nb import checks
from rpo_nb.config.methods import METHOD_NAMES, ROWS, STEPS, Method
from rpo_nb.config.objective import Objective
from rpo_nb.running.provenance import PACKAGE, code_key, source_modules
from rpo_nb.training.losses import LOSSES

NAME = "own"  # of its row and its line
# what a loss may ask for by name: tensors [n], of which prompt_ids and lengths int64; a float
PLAIN = ("policy_logps", "ref_logps", "rewards", "prompt_ids", "lengths", "temperature")
# what only a loss that names it is given: **kwargs does not ask for it. desirable: bool [n], KTO's.
# What costs more: rewards [n, m] of the reference's own texts, QRPO's; z0, KTO's.
NAMED = ("desirable", "ref_rewards", "kl")
ARGUMENTS = (*PLAIN, *NAMED)
REF_REWARDS = 16  # of a prompt: experiment.inputs.QRPO_SAMPLES
COLOUR = "#6A1B9A"  # of no method of the kit
MODULE = "rpo_nb_own_objective"  # what a user's file is called while it runs
# where modules are that nobody edits, beside site-packages; and the kit, whose code is in the key
KEPT = (*map(sysconfig.get_path, ("stdlib", "platstdlib")), PACKAGE)


@dataclass(frozen=True)
class Own:
    """A loss by its file and function, with the file's text: what is run is the text as it was
    read, whatever becomes of the file."""

    path: str  # as it was typed
    name: str
    source: str

    @property
    def words(self) -> str:
        """ "my.py:loss", without folders."""
        return f"{Path(self.path).name}:{self.name}"

    def key(self) -> dict[str, str]:
        """What its policies are beside their recipe: its text, the code that calls it, and the
        code of the kit that it imports."""
        code = code_key("training.own", *source_modules(self.source))
        return {"function": self.name, "source": self.source, "code": code}

    def module(self) -> ModuleType:
        """The file's module, made anew: what it keeps in globals begins anew. Raises ValueError
        where it cannot be run."""
        spec = importlib.util.spec_from_loader(MODULE, _Text(self))
        module = importlib.util.module_from_spec(spec)
        sys.modules[MODULE] = module  # where a dataclass looks for its module
        with self._told("cannot be run"):
            spec.loader.exec_module(module)
        return module

    def function(self, module: ModuleType) -> Callable[..., Any]:
        """Its function. Raises ValueError where the module has none of that name."""
        found = getattr(module, self.name, None)
        if not callable(found):
            others = [
                name
                for name, value in vars(module).items()
                if inspect.isfunction(value) and value.__module__ == module.__name__
            ]
            raise ValueError(
                f"{Path(self.path).name} has no function {self.name!r}; it has "
                f"{', '.join(others) or 'none'}"
            )
        return found

    def wanted(self, function: Callable[..., Any]) -> tuple[str, ...]:
        """Which of ARGUMENTS it takes. Raises ValueError for one that it would not be given, and
        where policy_logps is missing."""
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError:  # a builtin
            raise ValueError(
                f"{self.words} does not say what it takes; write a function around it"
            ) from None
        known = f"name its arguments among {', '.join(ARGUMENTS)}"
        for one in parameters:
            if one.kind is one.POSITIONAL_ONLY or (
                one.default is one.empty
                and one.name not in ARGUMENTS
                and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
            ):
                raise ValueError(
                    f"{self.words} takes {one.name!r}, but arguments are given by name; {known}"
                )
        every = PLAIN if any(one.kind is one.VAR_KEYWORD for one in parameters) else ()
        names = {one.name for one in parameters} | set(every)
        wanted = tuple(name for name in ARGUMENTS if name in names)
        if "policy_logps" not in wanted:
            raise ValueError(f"{self.words} takes no policy_logps, so nothing is learnt; {known}")
        return wanted

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """What goes wrong in the file, as one sentence with its line."""
        try:
            yield
        except SyntaxError as error:
            where = f"line {error.lineno}: {error.msg}"
            raise ValueError(f"{self.words} {what}: {where}; mend it there") from error
        except Exception as error:
            lines = [
                frame.lineno
                for frame in traceback.extract_tb(error.__traceback__)
                if frame.filename == self.path
            ]
            where = f"line {lines[-1]}: " if lines else ""
            said = f"{type(error).__name__}: {error}".split("\n")[0]
            raise ValueError(f"{self.words} {what}: {where}{said}; mend it there") from error


class _Text(importlib.abc.SourceLoader):
    """Loads the text that was read; writes no bytecode beside a user's file."""

    def __init__(self, own: Own):
        self.own = own

    def get_filename(self, fullname: str) -> str:
        return self.own.path

    def get_data(self, path: str) -> bytes:
        if path != self.own.path:
            raise OSError("there is only the text")
        return self.own.source.encode()


def read(text: str) -> Own:
    """The loss that "my.py:loss" names, tried on a few rows before anything is trained. Raises
    ValueError in one sentence: no such file or function, another signature, a file that needs its
    neighbours, numbers that are not one a row, not finite or without a gradient."""
    path, _, name = text.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise ValueError(f"--method {text!r} names no function; give FILE.py:FUNCTION")
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"--method {text!r}: there is no file {path}; look at the path")
    try:
        own = Own(str(file), name, file.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"--method {text!r}: {path} is not UTF-8 text; save it so") from None
    _stands_alone(own)
    before = set(sys.modules)
    try:
        function = own.function(own.module())
        _try(own, function)
    finally:
        _came_alone(own, before)
    return own


def _stands_alone(own: Own) -> None:
    """ValueError where the file says that it imports another one of its owner's: a change there
    would go unnoticed, since a policy is known by the text of this file."""
    with own._told("cannot be read"):
        tree = ast.parse(own.source)
    names = [
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else ["." * node.level + (node.module or "")]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    ]
    near = {Path.cwd(), Path(own.path).resolve().parent}
    for name in names:
        top = name.split(".")[0]
        spec = importlib.util.find_spec(top) if top else None
        # what is not found now may be when the file has made its way there
        beside = any((folder / f"{top}.py").is_file() or (folder / top).is_dir() for folder in near)
        if not top or (beside if spec is None else not _is_installed(spec)):
            raise _neighbour(own, name)


def _came_alone(own: Own, before: set[str]) -> None:
    """ValueError where what ran brought a file of its owner's, however it came to it. That is
    forgotten, so that it is noticed the next time, too."""
    new = set(sys.modules) - before
    specs = {name: getattr(sys.modules[name], "__spec__", None) for name in new if "." not in name}
    others = sorted(name for name, spec in specs.items() if spec and not _is_installed(spec))
    others = [name for name in others if name != MODULE]
    for name in new:
        if name.split(".")[0] in others:
            del sys.modules[name]
    if others:
        raise _neighbour(own, others[0])


def _is_installed(spec: ModuleSpec) -> bool:
    """Whether a module is the kit's, the standard library's or of an installed package."""
    places = spec.submodule_search_locations or ([spec.origin] if spec.has_location else [])
    return all(
        {"site-packages", "dist-packages"} & {*Path(place).parts}
        or any(Path(place).is_relative_to(folder) for folder in KEPT)
        for place in places
    )


def _neighbour(own: Own, name: str) -> ValueError:
    return ValueError(
        f"{Path(own.path).name} imports {name}, which is no installed package, so that its changes "
        "would go unnoticed; put all of the loss into one file"
    )


def _try(own: Own, function: Callable[..., Any]) -> None:
    """Call it as the first step does, where policy and reference are the same: 2 prompts with 4
    completions each."""
    g = torch.Generator().manual_seed(0)
    ref = -20 - 5 * torch.rand(8, generator=g)
    policy = ref.clone().requires_grad_()
    rewards = torch.randn(8, generator=g)
    batch = {
        "ref_logps": ref,
        "rewards": rewards,
        "prompt_numbers": torch.arange(2).repeat_interleave(4),
        "lengths": torch.arange(8, 16),
        "rows": torch.arange(8),
        "desirable": rewards >= rewards.mean(),
        "ref_rewards": torch.randn(8, REF_REWARDS, generator=g),
    }
    losses = call(own, function, policy * 1, batch, 1.0, torch.tensor(0.0))
    if not losses.isfinite().all():
        row = int((~losses.isfinite()).nonzero()[0])
        raise checks.NotFinite(
            f"{own.words} is {losses[row].item()} for row {row} of the trial: policy_logps and "
            f"ref_logps {ref[row]:.3g}, rewards {rewards[row]:.3g}, temperature 1; mend it"
        )
    losses.mean().backward()
    if policy.grad is None:  # its gradient goes to a weight of its own, which nobody trains
        raise _without_gradient(own)


def _without_gradient(own: Own) -> ValueError:
    return ValueError(
        f"{own.words} has no gradient, so nothing is learnt; compute it from policy_logps, "
        "without detach"
    )


def call(
    own: Own,
    function: Callable[..., Any],
    policy_logps: Tensor,
    batch: dict,
    temperature: float,
    kl: Tensor | None = None,
) -> Tensor:
    """Its loss of each row, [n]; of one that returns a mean, the mean for each.

    batch: ref_logps, rewards, prompt_numbers, lengths and rows (their numbers), [n] each, and where
    it is asked for desirable [n] and ref_rewards [n, m]. Raises ValueError for another shape and a
    mean that is not finite; NotFinite, when gradients are computed, for a gradient that is not.
    """
    others = {"policy_logps": policy_logps.clone(), "temperature": temperature, "kl": kl}

    def given(name: str) -> Any:
        if name in others:
            return others[name]
        # copies: a loss that changes its arguments changes nothing of ours
        value = batch["prompt_numbers" if name == "prompt_ids" else name].clone()
        return value.long() if name in ("prompt_ids", "lengths") else value

    wanted = {name: given(name) for name in own.wanted(function)}
    with own._told("fails"):
        losses = function(**wanted)
    n = len(policy_logps)
    if not isinstance(losses, Tensor) or losses.shape not in ((), (n,)):
        what = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        shape = f"shape {what}" if isinstance(losses, Tensor) else f"a {what}"
        raise ValueError(
            f"{own.words} returns {shape} for {n} rows; return a tensor with one number a row, or "
            "their mean"
        )
    if not losses.requires_grad:
        raise _without_gradient(own)
    if not losses.shape and not losses.isfinite():
        raise checks.NotFinite(
            f"{own.words} returns {losses.item()} as a mean; return one number a row to see which"
        )
    rows = batch["rows"]

    def finite(gradient: Tensor) -> None:
        if not gradient.isfinite().all():
            row = rows[(~gradient.isfinite()).nonzero()[0, 0]].item()
            raise checks.NotFinite(
                f"the gradient of {own.words} is not finite at row {row}, where its value is; mend "
                "it there (√0 and 0·log 0 are usual causes)"
            )

    policy_logps.register_hook(finite)
    return losses.expand(n)


def row_of(own: Own) -> Method:
    """Its row of `config.methods`. One that asks for kl is trained as KTO is, whose z0 the trainer
    computes over a whole step before the loss is called; any other has an objective of its own."""
    wanted = own.wanted(own.function(own.module()))
    needs = ("prompt_numbers", "lengths")
    if "ref_rewards" in wanted:
        needs += ("reference_rewards",)
    # the field through which a temperature comes to a run, and what else of a preset is read
    if "kl" in wanted:
        reads = ("reduce", "kto_kl", *STEPS)
        return Method(own.name, COLOUR, "kto", "kto_beta", "β", reads, (*needs, "mismatched"))
    return Method(own.name, COLOUR, NAME, "rpo_tau", "τ", ("reduce", *STEPS), needs)


@contextmanager
def named(own: Own) -> Iterator[None]:
    """While the block runs, the kit has a method "own": a row and a title, by which its policies
    are known. As a method of the kit is registered, but for a name that profiles know."""
    with _entered(ROWS, NAME, row_of(own)), _entered(METHOD_NAMES, NAME, own.name):
        yield


@contextmanager
def registered(own: Own) -> Iterator[None]:
    """While the block runs, "own" has a row, a title and a loss, of a module made anew, so that it
    can be trained. Train nothing else in the block: a loss that asks for kl stands in KTO's
    place."""
    function = own.function(own.module())

    def loss(objective: Objective, out: dict, batch: dict, kl: Any) -> Tensor:
        temperature = objective.tau if objective.method == NAME else objective.beta
        return call(own, function, out["logps"], batch, temperature, kl)

    with named(own), _entered(LOSSES, ROWS[NAME].objective, loss):
        yield


@contextmanager
def _entered(table: dict[str, Any], key: str, value: Any) -> Iterator[None]:
    """While the block runs, the table has this value; then what it had."""
    before = dict(table)
    table[key] = value
    try:
        yield
    finally:
        if key in before:
            table[key] = before[key]
        else:
            del table[key]
