"""What is known of each completion, and which prompts are worth a look."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from rpo_nb.pocket import checker, violations
from rpo_nb.studies.browse.stored import policy_name

PROMPT = ["split", "prompt_id"]  # what tells a prompt of a shelf
ORDERS = ("asked", "loss", "disagreement")  # of prompts: as asked, or the largest first


def scored(rows: pd.DataFrame, pocket_world: bool) -> pd.DataFrame:
    """Rows of `stored.rows` with reward (1 to 10; the pocket's where it is not stored, missing
    elsewhere) and lost (keys of `violations.WORDS`, none outside the pocket world)."""
    if not pocket_world:
        return rows.assign(reward=rows["reward"].astype(float), lost=[()] * len(rows))
    stored = rows["reward"].notna().all()
    texts = list(zip(rows["prompt"], rows["completion"], strict=True))
    lost = _each(texts, lambda prompt, text: tuple(violations.lost(prompt, text)))
    reward = rows["reward"] if stored else _each(texts, checker.score)
    return rows.assign(reward=pd.Series(reward, rows.index, dtype=float), lost=lost)


def _each(texts: list[tuple[str, str]], value: Callable[[str, str], object]) -> list:
    """A value of every prompt and completion, of equal ones once; None where there is none."""
    known = {one: value(*one) for one in dict.fromkeys(texts) if isinstance(one[1], str)}
    return [known.get(one) for one in texts]


def between(verdicts: pd.DataFrame, shown: pd.DataFrame) -> pd.DataFrame:
    """The verdicts on pairs of which both policies are among the rows that are shown."""
    policies = shown.drop_duplicates(["preset", "method", "tau"])
    mine = policies[policies["method"].eq("rpo")]
    mine, theirs = (
        set(zip(those["preset"], those[name], strict=True))
        for those, name in ((mine, "tau"), (policies, "method"))
    )
    both = [
        (one.preset, one.tau) in mine and (one.preset, one.baseline) in theirs
        for one in verdicts.itertuples()
    ]
    return verdicts[pd.Series(both, verdicts.index, dtype=bool)]


def losses(
    shown: pd.DataFrame, rows: pd.DataFrame, pairs: pd.DataFrame, *, by_preset: bool
) -> pd.Series:
    """Of each prompt (PROMPT), by how much a policy that is shown is worse than the reference: the
    most points of reward, in hundredths as the page has them, 0 where none is; without rewards, how
    many verdicts say so.

    rows: all of the shelf, since the reference may not be shown. pairs: of `between`. by_preset:
    each preset has a reference of its own, as in paper A.
    """
    if rows["reward"].notna().any():
        keys = [*(["preset"] if by_preset else []), *PROMPT]
        # not the one that is drawn again
        reference = rows[rows["method"].eq("reference") & rows["policy"].eq("reference")]
        own = reference.drop_duplicates(keys).set_index(keys)["reward"].rename("own")
        both = shown.join(own, on=keys)
        behind = (both["own"].round(2) - both["reward"].round(2)).round(2).clip(lower=0)
        return behind.groupby([both[name] for name in PROMPT]).max()
    lost = pairs["baseline"].eq("reference") & pairs["verdict"].eq("baseline")
    return _by_prompt(lost, pairs)


def disagreements(pairs: pd.DataFrame) -> pd.Series:
    """Of each prompt, on how many pairs the judges that gave a verdict gave different ones. pairs:
    of `between`."""
    pair = ["preset", "tau", "baseline", "prompt_id"]
    found = pairs.groupby(pair, dropna=False)["verdict"].nunique().gt(1).reset_index()
    return _by_prompt(found["verdict"], found)


def _by_prompt(values: pd.Series, of: pd.DataFrame) -> pd.Series:
    """Sums by prompt, by PROMPT; a verdict is on prompts of paper A, which have no split."""
    total = values.astype(float).groupby(of["prompt_id"]).sum()
    total.index = pd.MultiIndex.from_tuples([("", one) for one in total.index], names=PROMPT)
    return total


def outcomes(verdicts: pd.DataFrame, method: str, preset: str, tau: float) -> dict[str, dict]:
    """Of a policy's completion of one prompt, judge -> {"wins over": [policies], "even with": …,
    "loses to": …, "no verdict with": …}. verdicts: of that prompt."""
    here = verdicts[verdicts["preset"].eq(preset)]
    pairs = here[here["tau"].eq(tau)] if method == "rpo" else here[here["baseline"].eq(method)]
    words = {"method": "wins over", "baseline": "loses to", "tie": "even with"}
    if method != "rpo":
        words |= {"method": "loses to", "baseline": "wins over"}
    told: dict[str, dict] = {}
    for row in pairs.itertuples():
        mine = method == "rpo"
        other = policy_name(row.baseline) if mine else policy_name("rpo", row.tau)
        of_judge = told.setdefault(row.judge, {})
        of_judge.setdefault(words.get(row.verdict, "no verdict with"), []).append(other)
    return told
