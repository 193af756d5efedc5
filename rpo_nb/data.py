"""Read, check, repair, split and standardise scalar feedback: completions of a prompt, each with a reward.

`load_feedback` reads any source into one row a completion and reports every defect (`rpo_nb.defects`): what cannot be used is
set aside, what can be meant in one way only is repaired, and everything sound goes on. `split_feedback` follows paper A:
validation on top-scored rows, rewards standardised over the training split.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pandas as pd

from rpo_nb import sources
from rpo_nb.config import DataConfig
from rpo_nb.defects import Report, summarise_report, write_report, write_table

__all__ = ["Splits", "group_key", "load_feedback", "prompt_table", "rank_correlation", "sparsity", "sparsity_warning",
           "split_feedback", "standardise", "summarise", "summarise_report", "write_report", "write_table"]

FEATURES = datasets.Features({"prompt_id": datasets.Value("int64"), "prompt": datasets.Value("string"),
                              "completion": datasets.Value("string"), "reward": datasets.Value("float64"),
                              "model": datasets.Value("string")})
CHARACTERS_A_TOKEN = 8  # text with more than this many characters for each token allowed is surely cut (English has about 4)
SPARSE = 3  # completions; with fewer, an estimate over the prompt's own completions is mostly noise
FEW_TOP = 10  # prompts; with fewer of the top score, validation goes down to the next best
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")  # not tab, LF, CR


class Shape(NamedTuple):
    """How a kind of row names its parts; the first name that is present counts."""

    prompt: str
    completions: str  # "": the row itself is the one completion
    text: tuple[str, ...]
    score: tuple[str, ...]


ULTRAFEEDBACK = Shape("instruction", "completions", ("response",), ("overall_score",))
NESTED = Shape("prompt", "responses", ("text",), ("reward",))
FLAT = Shape("prompt", "", ("completion", "response"), sources.SCORE_KEYS)


class Answer(NamedTuple):
    """One sound completion and where it stood."""

    line: int
    field: str
    prompt: str
    completion: str
    reward: float
    model: str
    flat: bool


def load_feedback(source: Any, *, config: DataConfig | None = None, return_report: bool = False):
    """Scalar feedback as a Dataset, one row a completion, the rows of a prompt together.

    source: a hub id; a folder saved by datasets; a .json, .jsonl, .jsonl.gz, .parquet or .csv file; or rows in memory (a list
    of dicts, a Dataset). Rows are UltraFeedback's (instruction, completions[{response, overall_score}]), nested (prompt,
    responses[{text, reward}]) or flat (prompt, completion or response, reward or score or label).
    Returns columns prompt_id (int, from 0 in order of appearance; one for each prompt text), prompt, completion, reward
    (float64, as given), model; with return_report also the report, a list of dicts line, field, reason, remedy, action.
    Raises ValueError: no such source, nothing usable in it, or with config.strict the first entry that would be set aside
    (copies of a completion are looked for last).
    """
    config = config or DataConfig()
    name = Path(source).name if isinstance(source, (str, Path)) else "feedback"
    report = Report(name, strict=config.strict)
    prompts: dict[str, list[Answer]] = {}
    strange: dict = {}
    for line, row in sources.rows(source, split=config.split, report=report):
        shape = _shape(row)
        if isinstance(row, dict) and not shape:
            strange = strange or row
        for answer in _answers(line, row, shape, config, report):
            prompts.setdefault(answer.prompt, []).append(answer)
    if not prompts:
        raise ValueError(_nothing_usable(name, report.sorted(), strange))
    prompts = {prompt: _one_each(answers, report) for prompt, answers in prompts.items()}
    feedback = datasets.Dataset.from_dict({
        "prompt_id": [i for i, answers in enumerate(prompts.values()) for _ in answers],
        **{column: [getattr(answer, column) for answers in prompts.values() for answer in answers]
           for column in ("prompt", "completion", "reward", "model")}}, features=FEATURES)
    return (feedback, report.sorted()) if return_report else feedback


def _nothing_usable(name: str, report: list[dict], strange: dict) -> str:
    if strange and all(row["reason"] == "row has no known keys" for row in report):
        columns = ", ".join(key for key in strange if key is not sources.REPEATED_KEYS)
        return (f"{name}: the columns {ascii(columns)} are not feedback; name them instruction and completions (UltraFeedback), "
                "prompt and responses, or prompt, completion, reward")
    first = next((row for row in report if row["action"] == "dropped"), None)
    if first is None:
        return f"{name}: there is not one row in it; give a file with feedback"
    return (f"{name}: nothing in it can be used; the first of {len(report)} defects is on line {first['line']}, "
            f"{first['field'] or 'the whole line'}: {first['reason']}; {first['remedy']}")


def _shape(row: Any) -> Shape | None:
    """The kind of row, by its keys; None if there is no telling."""
    if not isinstance(row, dict):
        return None
    if "completions" in row or "responses" in row:
        return ULTRAFEEDBACK if "completions" in row else NESTED
    if any(key in row for key in FLAT.text + FLAT.score):
        return FLAT
    return ULTRAFEEDBACK if "instruction" in row else None


def _answers(line: int, row: Any, shape: Shape | None, config: DataConfig, report: Report) -> Iterator[Answer]:
    """The sound completions of a row; everything else goes to the report."""
    if not shape:
        report.add(line, "", "row has no known keys" if isinstance(row, dict) else "row is not an object", row)
        return
    _report_repeated(line, "", row, report)
    prompt = _text(line, shape.prompt, row.get(shape.prompt), config.max_prompt_tokens, report)
    if not shape.completions:
        if prompt is not None:
            yield from _answer(line, "", row, shape, prompt, config, report)
        return
    items = row.get(shape.completions)
    if not isinstance(items, list) or not items:
        reason = "are missing" if items is None else "are not a list" if not isinstance(items, list) else "are an empty list"
        report.add(line, shape.completions, f"completions {reason}", items)
    elif prompt is not None:
        for i, item in enumerate(items):
            yield from _answer(line, f"{shape.completions}[{i}]", item, shape, prompt, config, report)


def _answer(line: int, where: str, item: Any, shape: Shape, prompt: str, config: DataConfig, report: Report) -> Iterator[Answer]:
    """One completion if it is sound, else nothing."""
    if not isinstance(item, dict):
        report.add(line, where, "completion is not an object", item)
        return
    prefix = f"{where}." if where else ""
    if where:
        _report_repeated(line, prefix, item, report)
    text_key = next((key for key in shape.text if key in item), shape.text[0])
    score_key = next((key for key in shape.score if key in item), shape.score[0])
    text = _text(line, prefix + text_key, item.get(text_key), config.max_completion_tokens, report)
    reward = _reward(line, prefix + score_key, item, score_key, config, report)
    model = item.get("model")
    model = "" if model is None else _valid_unicode(line, f"{prefix}model", str(model), report)
    if text is not None and reward is not None:
        yield Answer(line, prefix + text_key, prompt, text, reward, model, flat=not where)


def _report_repeated(line: int, prefix: str, item: dict, report: Report) -> None:
    for key in item.get(sources.REPEATED_KEYS, ()):
        report.add(line, _valid_unicode(line, prefix, prefix + key, report), "key is given twice")


def _text(line: int, field: str, value: Any, max_tokens: int, report: Report) -> str | None:
    """The text as it stands, valid Unicode; None if there is none."""
    if not isinstance(value, str) or not value.strip():
        reason = "missing" if value is None else "not a string" if not isinstance(value, str) else "empty"
        report.add(line, field, f"text is {reason}", value)
        return None
    value = _valid_unicode(line, field, value, report)
    if _CONTROL.search(value):
        report.add(line, field, "text has control characters")
    if len(value) > CHARACTERS_A_TOKEN * max_tokens:
        report.add(line, field, "text is over-long")
    return value


def _valid_unicode(line: int, field: str, text: str, report: Report) -> str:
    """Lone surrogates cannot be written as UTF-8, nor stored by Arrow."""
    if _LONE_SURROGATE.search(text):
        report.add(line, _LONE_SURROGATE.sub("\ufffd", field), "text is not valid Unicode")
        return _LONE_SURROGATE.sub("\ufffd", text)
    return text


def _reward(line: int, field: str, item: dict, key: str, config: DataConfig, report: Report) -> float | None:
    """The score as a finite number in range; None if it is not one."""
    value = item.get(key)
    quoted = isinstance(value, str) and sources.NUMBER.fullmatch(value)
    if isinstance(value, bool) or not (quoted or isinstance(value, (Real, Decimal))):
        reason = "missing" if value is None else "a boolean" if isinstance(value, bool) else "not a number"
        report.add(line, field, f"score is {reason}", value)
        return None
    try:
        score = float(value)
    except OverflowError:  # an integer beyond the largest float
        score = math.inf
    if key == "overall_score" and score == 10:
        score = _overall_score(line, field, item.get("annotations"), config, report)
    if not math.isfinite(score) or not config.reward_min <= score <= config.reward_max:
        report.add(line, field, "score is out of range" if math.isfinite(score) else "score is not finite", value)
        return None
    if quoted:
        report.add(line, field, "score is a number in quotes")
    return score


def _overall_score(line: int, field: str, annotations: Any, config: DataConfig, report: Report) -> float:
    """UltraFeedback's score-10 fault: many a 10 of its first release stood for 1.

    The rule is the data set's own correction (OpenBMB/UltraFeedback, issue 8): with m the mean of the fine-grained ratings
    (1 to 5, "N/A" left out), m <= 2 becomes 1; 2 < m <= 4 had to be annotated again, which nobody can do offline; m > 4 is right.
    """
    rated = [aspect["Rating"] for aspect in annotations.values() if isinstance(aspect, dict) and "Rating" in aspect] \
        if isinstance(annotations, dict) else []
    ratings = [float(rating) for rating in rated if sources.NUMBER.fullmatch(str(rating))]
    if ratings and np.mean(ratings) <= 2:
        repair = config.repair_overall_score
        report.add(line, field, "overall_score 10 with ratings of 2 or less", action="repaired" if repair else "kept")
        return 1.0 if repair else 10.0
    if ratings and np.mean(ratings) <= 4:
        report.add(line, field, "overall_score 10 with ratings of 2 to 4")
    elif rated and not ratings:
        report.add(line, field, "overall_score 10 without any rating")
    return 10.0


def _one_each(answers: list[Answer], report: Report) -> list[Answer]:
    """The prompt's answers without copies. Of copies that differ in score the first with the lower median score stays:
    a score that some rater gave, and rather too low than too high."""
    copies: dict[str, list[Answer]] = {}
    for answer in answers:
        copies.setdefault(answer.completion, []).append(answer)
    kept = []
    for same in copies.values():
        scores = sorted(answer.reward for answer in same)
        stays = next(answer for answer in same if answer.reward == scores[(len(scores) - 1) // 2])
        kept.append(stays)
        for answer in same:
            if answer is not stays:
                reason = "same completion, same score" if scores[0] == scores[-1] else "same completion, different scores"
                report.add(answer.line, answer.field, reason, answer.reward)
    if not all(answer.flat for answer in answers):  # flat rows are one completion each: several make a prompt
        lines = sorted({answer.line for answer in answers})
        for line in lines if len(lines) > 1 else ():
            report.add(line, "prompt", "prompt is spread over rows")
    if len(kept) == 1:
        report.add(kept[0].line, "prompt", "prompt has one completion")
    elif len({answer.reward for answer in kept}) == 1:
        report.add(kept[0].line, "prompt", "all rewards of the prompt are equal")
    return kept


@dataclass(frozen=True)
class Splits:
    """Feedback for training, for validation and for what must see neither. Rewards are raw."""

    train: datasets.Dataset
    validation: datasets.Dataset  # one top-scored row a prompt
    held_out: datasets.Dataset
    reward_mean: float  # of train
    reward_std: float  # of train, ddof 0
    notes: list[str]  # what a reader of the results should know about the split


def group_key(prompt: str) -> str:
    """Prompts equal but for white space and letter case have one key: they never stand on two sides of a split."""
    return " ".join(prompt.split()).casefold()


def split_feedback(feedback: datasets.Dataset, *, config: DataConfig, seed: int) -> Splits:
    """Split by prompt, everything drawn by `seed`; the three parts share no prompt, nor one that differs in white space or case.

    validation: paper A's rule, rows of the data's top score, one a prompt, up to config.validation. (Where fewer than 10
    prompts reach the very top, as with continuous rewards, the best row of the best prompts; a note says so.)
    held_out: config.held_out prompts, all their rows. train: up to config.prompts prompts, at most
    config.completions_per_prompt rows each. Too few prompts for all of this: the parts shrink in proportion, with a note.
    Raises ValueError if there are fewer than 2 prompts, or if the training rewards are all equal.
    """
    rng = np.random.default_rng([seed, 0])
    table = feedback.select_columns(["prompt_id", "reward"]).to_pandas()
    first = table.drop_duplicates("prompt_id")
    keys = pd.Series([group_key(prompt) for prompt in feedback.select(first.index)["prompt"]], index=first["prompt_id"])
    if keys.nunique() < 2:
        raise ValueError("feedback has fewer than 2 different prompts; give at least one to train on and one to validate on")
    notes = []
    variants = len(keys) - keys.nunique()
    if variants:
        notes.append(f"{variants} prompts repeat another but for white space or case; such twins stay on one side of the split.")
    table = table.iloc[rng.permutation(len(table))]  # from here on "first" means "drawn"
    order = table["prompt_id"].unique()
    validation_size, held_out_size = _sizes(config, keys.nunique(), notes)
    validation = _validation_rows(table, keys, validation_size, notes)
    free = order[~np.isin(keys.loc[order], keys.loc[table.loc[validation, "prompt_id"]])]
    held_out = free[:held_out_size]
    free = free[~np.isin(keys.loc[free], keys.loc[held_out])][: config.prompts]
    train = table[table["prompt_id"].isin(free)].groupby("prompt_id").head(config.completions_per_prompt or len(table)).index
    rewards = table.loc[train, "reward"].sort_index().to_numpy()
    if len(rewards) == 0 or rewards.min() == rewards.max():
        raise ValueError(f"the {len(rewards)} training rewards are all equal: no signal; give feedback whose scores differ")
    parts = [feedback.select(np.sort(rows)) for rows in (train, validation, table.index[table["prompt_id"].isin(held_out)])]
    notes.append(f"Train: {len(free)} prompts, {len(rewards)} completions. Validation: {len(validation)} prompts. "
                 f"Held out: {len(held_out)} prompts.")
    return Splits(*parts, float(rewards.mean()), float(rewards.std()), notes)


def _sizes(config: DataConfig, prompts: int, notes: list[str]) -> tuple[int, int]:
    """Prompts of validation and held_out, in proportion if there are too few (without config.prompts, half should train)."""
    wanted = (config.validation, config.held_out)
    train = config.prompts or math.ceil(prompts / 2)
    if sum(wanted) + train <= prompts:
        return wanted
    share = prompts / (sum(wanted) + train)
    sizes = max(1, int(wanted[0] * share)), int(wanted[1] * share)
    notes.append(f"The feedback has {prompts} prompts, fewer than the {sum(wanted) + train} asked for: "
                 f"validation was reduced to {sizes[0]} prompts, held out to {sizes[1]}.")
    return sizes


def _validation_rows(table: pd.DataFrame, keys: pd.Series, size: int, notes: list[str]) -> np.ndarray:
    """Index labels of the validation rows: top-scored, one a prompt (prompts alike in `keys` count as one)."""
    best = table.groupby("prompt_id", sort=False)["reward"].max()
    top = best.max()
    available = keys.loc[best.index[best == top]].nunique()
    floor = top
    if available < min(size, FEW_TOP):
        floor = best.nlargest(size).min()
        notes.append(f"Only {available} of the prompts reach the top score {top:g}: validation takes the best completion of the "
                     f"{size} best prompts, down to {floor:g}.")
    elif available < size:
        notes.append(f"{available} prompts reach the top score {top:g}: validation has these instead of {size}.")
    rows = table[table["reward"] >= floor].sort_values("reward", ascending=False, kind="stable")
    drawn = rows.assign(key=keys.loc[rows["prompt_id"]].to_numpy()).drop_duplicates("key")
    return drawn.index[:size].to_numpy()


def standardise(rewards, splits: Splits) -> np.ndarray:
    """Rewards [n] in standard deviations from the training mean: (r - mean) / (std + 1e-8), as in paper A's code.

    float32 stays float32, everything else becomes float64. Raises ValueError on a reward that is not finite.
    """
    rewards = np.asarray(rewards)
    rewards = rewards if rewards.dtype == np.float32 else rewards.astype(np.float64)
    if not np.isfinite(rewards).all():
        raise ValueError(f"reward {np.flatnonzero(~np.isfinite(rewards))[0]} is not finite; load the feedback with load_feedback")
    return (rewards - rewards.dtype.type(splits.reward_mean)) / rewards.dtype.type(splits.reward_std + 1e-8)


def prompt_table(feedback: datasets.Dataset) -> pd.DataFrame:
    """One row a prompt: prompt_id, completions (how many), best and spread (largest minus smallest reward)."""
    rewards = feedback.select_columns(["prompt_id", "reward"]).to_pandas().groupby("prompt_id")["reward"]
    spread = rewards.max() - rewards.min()
    return pd.DataFrame({"completions": rewards.size(), "best": rewards.max(), "spread": spread}).reset_index()


def sparsity(feedback: datasets.Dataset, *, fewer_than: int = SPARSE) -> float:
    """Share of prompts with fewer than this many completions, 0 to 1."""
    return float((prompt_table(feedback)["completions"] < fewer_than).mean())


def sparsity_warning(feedback: datasets.Dataset) -> str:
    """One sentence if any prompt has fewer than 3 completions, else ""."""
    share = sparsity(feedback)
    if not share:
        return ""
    return (f"{share:.1%} of the prompts have fewer than {SPARSE} completions: their log-partition is estimated from next to "
            "nothing (consider the pooled estimator, or drop them).")


def rank_correlation(words: pd.Series, rewards: pd.Series) -> float:
    """Spearman's correlation of two columns; NaN where one of them is constant."""
    return words.corr(rewards, method="spearman") if min(words.nunique(), rewards.nunique()) > 1 else math.nan


def summarise(feedback: datasets.Dataset) -> pd.DataFrame:
    """What there is, as rows (quantity, value)."""
    prompts, frame = prompt_table(feedback), feedback.select_columns(["completion", "reward"]).to_pandas()
    words = frame["completion"].str.split().str.len()
    quantities = {
        "prompts": len(prompts), "completions": len(frame), "models": len(feedback.unique("model")),
        "completions per prompt, least": prompts["completions"].min(),
        "completions per prompt, most": prompts["completions"].max(),
        "share of prompts with fewer than 3 completions": sparsity(feedback),
        "share of prompts whose rewards are all equal": (prompts["spread"] == 0).mean(),
        "reward, mean": frame["reward"].mean(), "reward, standard deviation": frame["reward"].std(ddof=0),
        "reward, least": frame["reward"].min(), "reward, most": frame["reward"].max(),
        "share of prompts that reach the top reward": (prompts["best"] == prompts["best"].max()).mean(),
        "words per completion, median": words.median(), "words per completion, 90th percentile": words.quantile(0.9),
        "rank correlation of length and reward": rank_correlation(words, frame["reward"]),
    }
    return pd.DataFrame({"quantity": quantities.keys(), "value": [float(value) for value in quantities.values()]})
