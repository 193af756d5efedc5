"""What the policies wrote, with its reward and what was missed: of the pocket world, whose checker
tells."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from rpo_nb.config.methods import METHOD_NAMES, METHODS
from rpo_nb.config.schema import Profile
from rpo_nb.pocket import checker
from rpo_nb.pocket.prompts import parse
from rpo_nb.pocket.violations import lost
from rpo_nb.reporting.rendering import number
from rpo_nb.reporting.tables import at_main_setting

# what a text is told to have missed or done, by the keys of `violations.lost`
LOST = {
    "object": "the {object}",
    "colour": "the colour {colour}",
    "place": "the place, {place}",
    "tone": "the {tone} tone",
    "count": "the number of sentences, {count}",
    "mention": "the word {mention}",
    "avoid": "{avoid} is said",
    "fluency": "a sentence that is none, so at most {cap:g} points",
    "rude": "rude",
    "repeated": "says a sentence twice",
    "long": "too long",
}


def violations(prompt: str, text: str) -> list[str]:
    """What a text of the pocket world lost points for, in words. Raises ValueError when the prompt
    is not a pocket prompt."""
    if checker.parts(prompt, text)["fluency"] == 0:
        return ["no sentence of it is one, so no wish counts"]
    wish = vars(parse(prompt))
    return [
        LOST[name].format(**wish, cap=checker.CAP) for name in lost(prompt, text) if name in LOST
    ]


def _read(out: Path, profile: Profile) -> pd.DataFrame:
    """The generations of the largest size and the first seed, RPO at each preset's own
    temperature."""
    size, seed, found = list(profile.sizes)[-1], min(profile.seeds), []
    for preset in profile.presets:
        path = out / "generations" / f"{preset}-{size}-seed{seed}.jsonl.gz"
        if path.is_file():
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                found += [json.loads(line) for line in lines if line.strip()]
    return at_main_setting(pd.DataFrame(found), profile) if found else pd.DataFrame()


def _who(rows: pd.DataFrame, presets: Sequence[str]) -> str:
    """ "KTO (paper, fixed)", the method alone where all presets say the same."""
    method = METHOD_NAMES.get(rows["method"].iloc[0], rows["method"].iloc[0])
    named = [preset for preset in presets if preset in set(rows["preset"])]
    return method if named == list(presets) else f"{method} ({', '.join(named)})"


def samples(out: Path | str, profile: Profile, prompts: int = 3) -> list[dict]:
    """The first prompts with the target text and every method's completions: prompt, target and
    rows, each a dict of who (method and presets), text, and in the pocket world reward ("7.50") and
    lost (`violations`); presets that say the same stand together. [] without generations."""
    rows = _read(Path(out), profile)
    if rows.empty:
        return []
    order = {method: i for i, method in enumerate(METHODS)}
    rows = rows.assign(rank=rows["method"].map(order)).sort_values(
        ["prompt_id", "rank"], kind="stable"
    )
    presets, shown = list(dict.fromkeys(rows["preset"])), []
    for _, group in list(rows.groupby("prompt_id", sort=True))[:prompts]:
        prompt, target = group["prompt"].iloc[0], group["reference"].iloc[0]
        said = [("target text", target)]
        for (_, text), same in group.groupby(["method", "completion"], sort=False):
            said.append((_who(same, presets), text))
        shown.append(
            {"prompt": prompt, "rows": [_told(prompt, *one, profile.pocket_world) for one in said]}
        )
    return shown


def _told(prompt: str, who: str, text: str, known: bool) -> dict:
    if not known:
        return {"who": who, "text": text, "reward": "", "lost": []}
    reward = number(checker.score(prompt, text), 2)
    return {"who": who, "text": text, "reward": reward, "lost": violations(prompt, text)}
