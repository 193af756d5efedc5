"""What the machine refuses, each as one sentence with its remedy: room on the disk, memory, and
what the hub cannot give.

A refusal is a ValueError, since its sentence is for the user; every other error passes as it is.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

# ---- the disk ------------------------------------------------------------------------------------

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your quota on this disk is used up",
    errno.EFBIG: "a file may not grow so large here (ulimit -f)",
}
# safetensors raises an error of its own, without an errno
FULL_WORDS = ("No space left on device", "Disk quota exceeded", "File too large")


class DiskFull(OSError, ValueError):
    """There was no room for a file. A ValueError because its one sentence tells the user what to
    do."""


@contextmanager
def room_for(path: Path | str) -> Iterator[None]:
    """Turn a full disk while `path` is written into one sentence. Other errors pass. Raises
    DiskFull.

    What was written in part is the caller's to remove: `atomic_write` and `finished` do.
    """
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        number, free = getattr(error, "errno", None), _free_mib(Path(path))
        import resource  # not on Windows

        limited = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
        # torch.save does not say why it failed
        torchs = "inline_container.cc" in str(error) and (limited or free < 16)
        if number not in FULL and not torchs and not any(word in str(error) for word in FULL_WORDS):
            raise
        number = (
            errno.EFBIG
            if FULL_WORDS[2] in str(error) or (torchs and free >= 16)
            else number
            if number in FULL
            else errno.ENOSPC
        )
        remedy = (
            "raise the limit"
            if number == errno.EFBIG
            else f"free some space ({free:.0f} MiB are left)"
        )
        told = DiskFull(
            f"{FULL[number]}: {'/'.join(Path(path).parts[-2:])} could not be written; "
            f"{remedy} and start again: what is "
            "done is kept"
        )
        told.errno = number
        raise told from error


def _free_mib(path: Path) -> float:
    """What is left on the disk of a path that may not be there yet."""
    return (
        shutil.disk_usage(
            next(folder for folder in path.absolute().parents if folder.is_dir())
        ).free
        / 2**20
    )


# ---- memory --------------------------------------------------------------------------------------


class OutOfMemory(ValueError, MemoryError):
    """There was not enough memory. A ValueError because its one sentence tells the user what to
    change."""


@contextmanager
def memory_advice(where: str, remedy: str) -> Iterator[None]:
    """Turn a failed allocation (a GPU's, or torch's on the CPU) into one sentence: what ran out,
    where, and what to change.

    where: what was done, e.g. "training rpo large seed 0, 16 rows a forward pass". remedy: the
    settings to change, by name. Other errors pass. Raises OutOfMemory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemory) or not _is_out_of_memory(error):
            raise
        asked = re.search(r"[Tt]ried to allocate (\d[\d.]* \w+)", str(error))
        more = f" for {asked[1]} more" if asked else ""
        raise OutOfMemory(
            f"{where}: {_memory(error)} has no room{more}; {remedy}, then start again: "
            "what is done is kept"
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    """torch reports a full CPU memory, and some CUDA libraries a full GPU, as a bare
    RuntimeError."""
    words = (
        "DefaultCPUAllocator: can't allocate memory",
        "CUDA error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
    )
    # torch's class by its name: this module is read where torch is not
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return named or isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _memory(error: Exception) -> str:
    """Which memory ran out, and how large it is."""
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return "the machine's memory"
    import torch

    if not torch.cuda.is_available():
        return "the GPU"
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    return f"the GPU ({device.name}, {device.total_memory / 2**30:.0f} GiB)"


# ---- the hub -------------------------------------------------------------------------------------

PAGES = {"model": "https://huggingface.co/{}", "dataset": "https://huggingface.co/datasets/{}"}


class Problem(NamedTuple):
    """Two halves of a sentence: what is wrong, and what to do."""

    reason: str
    remedy: str


UNREACHED = Problem(
    "the hub cannot be reached and it is not in the local cache",
    "check the network (and HF_HUB_OFFLINE), or give a local folder",
)


def hub_problem(error: BaseException, name: str, *, kind: str = "model") -> Problem:
    """What an error of huggingface_hub, datasets or transformers means for a hub id. kind: "model"
    or "dataset".

    The clients wrap each other's errors, so causes and contexts are looked at, too; datasets keeps
    only the words of some.
    """
    from huggingface_hub import errors

    page, chain = PAGES[kind].format(name), list(_chain(error))
    told = " ".join(str(one) for one in chain)
    status = next(
        (one.response.status_code for one in chain if isinstance(one, errors.HfHubHTTPError)), None
    )
    if any(isinstance(one, errors.GatedRepoError) for one in chain) or any(
        words in told for words in ("is a gated dataset", "trying to access a gated repo")
    ):
        return _gated(page, accepted_is_open=status == 403 or "ask for access" in told)
    if status == 401 and not any(isinstance(one, errors.RepositoryNotFoundError) for one in chain):
        return Problem(
            "the hub refuses the token (401)",
            "log in again with `hf auth login`, or correct HF_TOKEN",
        )
    if (
        any(isinstance(one, errors.RepositoryNotFoundError) for one in chain)
        or "doesn't exist on the Hub" in told
    ):
        return Problem(
            f"the hub has no such {kind}, or it is private",
            "check the name, or log in with `hf auth login` if it is private",
        )
    if (
        any(
            isinstance(
                one,
                (
                    errors.OfflineModeIsEnabled,
                    errors.LocalEntryNotFoundError,
                    ConnectionError,
                    TimeoutError,
                ),
            )
            or type(one).__name__ in ("ConnectError", "ConnectTimeout", "ReadTimeout")
            for one in chain
        )
        or "couldn't connect" in told
    ):
        return UNREACHED
    if "trust_remote_code" in told:
        return Problem(
            "it brings code of its own, which is never run here",
            "give a model that transformers knows",
        )
    return Problem(
        f"{type(error).__name__}: {_first_line(error)}",
        "check the name and the network, or give a local folder",
    )


def _gated(page: str, *, accepted_is_open: bool) -> Problem:
    from huggingface_hub import get_token

    if accepted_is_open or get_token():
        return Problem(
            "it is gated and your account has no access",
            f"accept its terms at {page} with the account of your token",
        )
    return Problem(
        "it is gated and you are not logged in",
        f"accept its terms at {page}, then log in with `hf auth login` (or set HF_TOKEN)",
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
