"""What the hub, or the way to it, refused: one reason and one remedy for every error that its clients raise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

PAGES = {"model": "https://huggingface.co/{}", "dataset": "https://huggingface.co/datasets/{}"}


class Problem(NamedTuple):
    """Two halves of a sentence: what is wrong, and what to do."""

    reason: str
    remedy: str


def problem(error: BaseException, name: str, *, kind: str = "model") -> Problem:
    """What an error of huggingface_hub, datasets or transformers means for a hub id. kind: "model" or "dataset".

    The clients wrap each other's errors, so causes and contexts are looked at, too; datasets keeps only the words of some.
    """
    from huggingface_hub import errors

    page, chain = PAGES[kind].format(name), list(_chain(error))
    told = " ".join(str(one) for one in chain)
    status = next((one.response.status_code for one in chain if isinstance(one, errors.HfHubHTTPError)), None)
    if any(isinstance(one, errors.GatedRepoError) for one in chain) or any(
            words in told for words in ("is a gated dataset", "trying to access a gated repo")):
        return _gated(page, accepted_is_open=status == 403 or "ask for access" in told)
    if status == 401 and not any(isinstance(one, errors.RepositoryNotFoundError) for one in chain):
        return Problem("the hub refuses the token (401)", "log in again with `hf auth login`, or correct HF_TOKEN")
    if any(isinstance(one, errors.RepositoryNotFoundError) for one in chain) or "doesn't exist on the Hub" in told:
        return Problem(f"the hub has no such {kind}, or it is private",
                       "check the name, or log in with `hf auth login` if it is private")
    if any(isinstance(one, (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError))
           or type(one).__name__ in ("ConnectError", "ConnectTimeout", "ReadTimeout") for one in chain) \
            or "couldn't connect" in told:
        return Problem("the hub cannot be reached and it is not in the local cache",
                       "check the network (and HF_HUB_OFFLINE), or give a local folder")
    return Problem(f"{type(error).__name__}: {_first_line(error)}", "check the name and the network, or give a local folder")


def _gated(page: str, *, accepted_is_open: bool) -> Problem:
    from huggingface_hub import get_token

    if accepted_is_open or get_token():
        return Problem("it is gated and your account has no access", f"accept its terms at {page} with the account of your token")
    return Problem("it is gated and you are not logged in",
                   f"accept its terms at {page}, then log in with `hf auth login` (or set HF_TOKEN)")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
