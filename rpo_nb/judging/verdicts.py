"""Pairs, verdicts and win rates: Tables III and IV of paper A.

    pairs = make_pairs(generations, profile, table="table3")
    bench = {seed: judges_for(profile, out, seed) for seed in profile.seeds}
    verdicts = ask(bench, pairs, out, "table3")  # stored in <out>/verdicts/, kept if nothing
    changed win_rates(verdicts), quality(verdicts, pairs, bench)

Every pair is shown in both orders. The same choice twice is the verdict; a choice that changes
with the order is a tie; a missing one makes the verdict null, which is counted and left out of
the rate. The judges of `judges.py` score one completion at a time, so for them a flip is an exact
tie of scores and nothing else; the flip rate says more of a judge that reads both. The language
models of `language_models.py` read both; where they give log-odds a second verdict stands beside
the strict one: the sign of the log-odds averaged over both orders, in which a leaning to one
position cancels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rpo_nb.config.keys import content_key
from rpo_nb.config.schema import LLMJudge, Profile
from rpo_nb.config.settings import check_judges
from rpo_nb.experiment import inputs
from rpo_nb.judging.judges import Checker, Judge, Reply
from rpo_nb.judging.language_models import LanguageModelJudge
from rpo_nb.judging.local import LocalJudge
from rpo_nb.judging.reward_model import RewardModel
from rpo_nb.judging.reward_training import learnt, limits
from rpo_nb.pocket import checker
from rpo_nb.running.provenance import model_key, step_code
from rpo_nb.store import (
    again,
    atomic_write,
    file_digest,
    packed,
    read_sealed,
    unpacked,
    write_sealed,
)

BASELINES = {
    "table3": ("reference", "sft", "best_of_k", "kto", "dro"),
    "table4": ("reference", "sft", "best_of_k"),
}
CELL = ["preset", "size", "seed"]
# one pair; a judge has one verdict on it
KEYS = ["preset", "size", "tau", "seed", "prompt_id", "method", "baseline"]
CHOICES = ["first_order", "second_order", "verdict"]
COLUMNS = ["preset", "judge", *KEYS[1:], *CHOICES]
AVERAGE = ["log_odds", "verdict_average"]  # further columns, of judges by log-odds only
SIDES = ("method", "baseline", None)
FIELDS = {  # what may stand in a verdict's row
    **{order: lambda value: value in SIDES for order in CHOICES[:2]},
    **{verdict: lambda value: value in (*SIDES, "tie") for verdict in (CHOICES[2], AVERAGE[1])},
    AVERAGE[0]: lambda value: value is None or (type(value) in (int, float) and np.isfinite(value)),
}


# ---- pairs ---------------------------------------------------------------------------------------


def make_pairs(generations: pd.DataFrame, profile: Profile, *, table: str) -> pd.DataFrame:
    """RPO's completion beside each baseline's for the same preset, size, seed and prompt.

    generations: the columns of design.md. table: "table3" (RPO at its preset's own τ against every
    baseline) or "table4" (RPO at every τ of the profile, and at the preset's own, against
    reference, sft and best_of_k, in profile.table4_presets). Returns KEYS (tau is RPO's), prompt,
    method_completion, baseline_completion. Raises ValueError when a baseline completed other
    prompts than RPO.
    """
    if table not in BASELINES:
        raise ValueError(f"table is {table!r}; it must be one of {', '.join(BASELINES)}")
    wanted = generations[
        generations["preset"].isin(list(profile.presets))
        & generations["size"].isin(list(profile.sizes))
        & generations["seed"].isin(profile.seeds)
    ]
    rpo = wanted[wanted["method"].eq("rpo")]
    if table == "table3":
        own = rpo["preset"].map({name: preset.rpo_tau for name, preset in profile.presets.items()})
        rpo = rpo[np.isclose(rpo["tau"].astype(float), own.astype(float))]
    else:
        rpo = rpo[rpo["preset"].isin(profile.table4_presets)]
        swept = [
            bool(np.isclose(tau, profile.rpo_taus(preset)).any())
            for preset, tau in zip(rpo["preset"], rpo["tau"], strict=True)
        ]
        rpo = rpo[np.array(swept, dtype=bool)]
    rpo = rpo[[*CELL, "method", "tau", "prompt_id", "prompt", "completion"]].rename(
        columns={"completion": "method_completion"}
    )
    parts = []
    for baseline in (b for b in BASELINES[table] if b in profile.methods):
        other = wanted[wanted["method"].eq(baseline)][[*CELL, "prompt_id", "prompt", "completion"]]
        both = rpo.merge(other[CELL].drop_duplicates(), on=CELL)
        merged = both.merge(
            other.rename(columns={"completion": "baseline_completion"}),
            on=[*CELL, "prompt_id", "prompt"],
            how="left",
            validate="many_to_one",
            indicator=True,
        )
        alone = merged[merged["_merge"].ne("both")]
        if len(alone):
            cell = " ".join(str(alone.iloc[0][k]) for k in CELL)
            raise ValueError(
                f"generations of {cell}: {baseline} has no row for prompt "
                f"{alone.iloc[0]['prompt_id']}, which rpo "
                "has; generate that cell again"
            )
        parts.append(merged.drop(columns="_merge").assign(baseline=baseline))
    columns = [*KEYS, "prompt", "method_completion", "baseline_completion"]
    if not parts:
        return pd.DataFrame(columns=columns)
    return pd.concat(parts)[columns].sort_values(KEYS, ignore_index=True)


def judge_pairs(judge: Judge, pairs: pd.DataFrame) -> pd.DataFrame:
    """Ask a judge about every pair in both orders.

    Returns COLUMNS. first_order and second_order: "method", "baseline" or None, RPO shown first and
    second. verdict: the choice that both orders give, "tie" when they differ, None when one is
    missing. A pair with an empty completion is not asked about: its verdict is None. Of a language
    model also AVERAGE: the log-odds in favour of RPO, mean over both orders, and their sign as
    "method", "baseline" or "tie" (exactly 0); NaN and None where an order has none.
    """
    texts = pairs[["method_completion", "baseline_completion"]].fillna("")
    asked = pairs[texts.apply(lambda column: column.str.strip().ne("")).all(axis=1)]
    prompts, rpo = asked["prompt"].tolist(), asked["method_completion"].tolist()
    baseline = asked["baseline_completion"].tolist()
    # in one call: what a judge makes of a text may depend on the texts beside it
    replies = judge.replies(prompts * 2, rpo + baseline, baseline + rpo)
    shown_first = _in_favour(replies[: len(asked)], {"first": "method", "second": "baseline"})
    shown_second = _in_favour(replies[len(asked) :], {"first": "baseline", "second": "method"})
    choices = pd.DataFrame(
        {
            "first_order": [choice for choice, _ in shown_first],
            "second_order": [choice for choice, _ in shown_second],
            "verdict": [
                _agreed(one, other)
                for (one, _), (other, _) in zip(shown_first, shown_second, strict=True)
            ],
        },
        index=asked.index,
        dtype=object,
    )
    rows = pairs[KEYS].assign(judge=judge.name).join(choices)
    rows[CHOICES] = rows[CHOICES].astype(object).where(rows[CHOICES].notna(), None)
    rows = rows[COLUMNS]
    if not judge.by_log_odds:
        return rows
    odds = pd.DataFrame(
        {"first": [o for _, o in shown_first], "second": [o for _, o in shown_second]},
        index=asked.index,
        dtype=float,
    )
    mean = odds.mean(axis=1, skipna=False).reindex(pairs.index)
    average = [
        None if np.isnan(m) else "method" if m > 0 else "baseline" if m < 0 else "tie" for m in mean
    ]
    return rows.assign(log_odds=mean, verdict_average=pd.Series(average, pairs.index, object))


def _in_favour(replies: Sequence[Reply], who: Mapping[str, str]) -> list[tuple[str | None, float]]:
    """Of each reply whose completion it chose, None for none, and its log-odds in favour of RPO,
    NaN for none. who: whose completion stood "first" and "second"."""
    sign = 1 if who["first"] == "method" else -1
    return [
        (
            who.get(reply.choice),
            np.nan if reply.log_odds is None else sign * reply.log_odds,
        )
        for reply in replies
    ]


def _agreed(one: str | None, other: str | None) -> str | None:
    """The verdict of two choices, one an order."""
    if one is None or other is None:
        return None
    return one if one == other else "tie"


# ---- the bench and its files ---------------------------------------------------------------------


def judges_for(profile: Profile, out: str | Path, seed: int) -> list[Judge]:
    """The profile's judges for one seed. The reward model is trained once and kept in
    <out>/runs/judges/, named by what it was made from; a language model is loaded when it is first
    asked. Raises ValueError for an unknown judge, for the checker outside the pocket, and for a
    language model that is missing."""
    bench: list[Judge] = []
    described = profile.evaluation.llm_judges
    check_judges(profile)
    for name in profile.evaluation.judges:
        if name == "checker":
            bench.append(Checker(checker.score))
        elif name == "reward_model":
            bench.append(reward_model(profile, Path(out), seed))
        else:
            bench.append(build(name, described[name]))
    return bench


def reward_model(profile: Profile, out: Path, seed: int) -> RewardModel:
    """The judge that learnt from the held-out feedback, trained once and kept in
    <out>/runs/judges/."""
    size = judge_size(profile)
    reference = inputs.reference_path(profile, size, seed)
    return learnt(
        reward_model_folder(profile, out, seed, reference),
        reference,
        inputs.splits(profile, seed, size).held_out,
        profile=profile,
        size=size,
        seed=seed,
    )


def judge_size(profile: Profile) -> str:
    """The size whose reference the reward model starts from."""
    return profile.evaluation.judge_size or next(iter(profile.sizes))


def reward_model_folder(profile: Profile, out: Path, seed: int, reference: str | Path) -> Path:
    """Where the reward model of a seed is kept, named by all that it is made from."""
    settings = profile.evaluation
    held_out = inputs.splits(profile, seed, judge_size(profile)).held_out
    key = content_key(
        [
            model_key(reference),
            _digest(held_out.to_pandas()),
            settings.judge_comparisons,
            settings.judge_epochs,
            limits(profile.data),
            step_code("reward model"),
            profile.training.threads,
            profile.training.bf16,
            seed,
            *([settings.judge_loss] if settings.judge_loss != "bradley_terry" else []),
            *([["lora", settings.judge_lora_rank]] if settings.judge_lora_rank else []),
        ]
    )
    return out / "runs" / "judges" / f"reward_model-seed{seed}-{key}"


def ask(
    bench: Mapping[int, Sequence[Judge]], pairs: pd.DataFrame, out: str | Path, table: str
) -> pd.DataFrame:
    """Verdicts of every judge on every pair, each seed's pairs by that seed's judges; one file a
    judge in <out>/verdicts/.

    A stored file that the same judges made from the same pairs is read instead, and a line says so;
    not so when a judge was unreachable for some of its pairs, whose verdicts are null: those it is
    asked again.
    """
    missing = sorted(set(pairs["seed"]) - set(bench))
    if missing:
        raise ValueError(
            f"pairs hold seed {missing[0]}, which has no judges; add "
            f"judges_for(profile, out, {missing[0]})"
        )
    out, parts = Path(out), []
    for name in [judge.name for judge in next(iter(bench.values()))]:
        judges = {seed: next(j for j in bench[seed] if j.name == name) for seed in sorted(bench)}
        path, stamp = (
            out / "verdicts" / f"{table}-{name}.jsonl.gz",
            out / "runs" / "judges" / f"{table}-{name}.json",
        )
        limit = next(judge.most_prompts for judge in judges.values())
        key = content_key(
            [
                _digest(pairs),
                *([] if limit is None else [limit]),
                {str(seed): judge.identity for seed, judge in judges.items()},
                step_code("verdicts"),
            ]
        )
        if (
            path.is_file()
            and (known := read_sealed(stamp))
            and known["inputs"] == key
            and not known["failed"]
        ):
            if known["file"] == file_digest(path):
                print(f"{table}, {name}: the {len(pairs):,} stored verdicts are up to date")
                parts.append(_read(path))
                continue
            again(path, "is not as it was written")
        judged = [
            judge_pairs(judge, _asked(judge, pairs[pairs["seed"].eq(seed)]))
            for seed, judge in judges.items()
        ]
        rows = pd.concat(judged).sort_values(KEYS, ignore_index=True)
        atomic_write(path, packed(rows))
        failed = sum(judge.failed() for judge in judges.values())
        write_sealed(stamp, {"inputs": key, "file": file_digest(path), "failed": failed})
        print(f"{table}, {name}: {len(rows):,} pairs judged in both orders")
        for line in dict.fromkeys(line for judge in judges.values() for line in judge.remarks()):
            print(f"{table}, {line}")
        parts.append(rows)
    return pd.concat(parts, ignore_index=True)


def _asked(judge: Judge, pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs a judge is asked about: all, or those of the first prompts."""
    if judge.most_prompts is None:
        return pairs
    first = sorted(pairs["prompt_id"].unique())[: judge.most_prompts]
    return pairs[pairs["prompt_id"].isin(first)]


def load_verdicts(out: str | Path, table: str) -> pd.DataFrame:
    """The stored verdicts of all judges on a table. Raises ValueError when there are none."""
    folder = Path(out) / "verdicts"
    paths = sorted(folder.glob(f"{table}-*.jsonl.gz"))
    if not paths:
        raise ValueError(
            f"no verdicts of {table} in {str(folder)!r}; run the notebook that asks "
            "the judges first"
        )
    return pd.concat([_read(path) for path in paths], ignore_index=True)


def _read(path: Path) -> pd.DataFrame:
    rows = unpacked(path)
    for number, row in enumerate(rows, 1):
        wrong = next(
            (field for field, good in FIELDS.items() if field in row and not good(row[field])), None
        )
        if wrong:
            raise ValueError(
                f"verdicts/{path.name}, row {number}: {wrong} is {row[wrong]!r:.60}, "
                "which no judge gives; delete the "
                "file and judge again (python -m rpo_nb judge)"
            )
    kinds = dict.fromkeys([*CHOICES, "verdict_average"], object) | {"log_odds": float}
    columns = [*COLUMNS, *(AVERAGE if rows and AVERAGE[0] in rows[0] else ())]
    return pd.DataFrame(
        {c: pd.Series([row[c] for row in rows], dtype=kinds.get(c)) for c in columns}
    )


def _digest(frame: pd.DataFrame) -> str:
    return hashlib.sha256(
        frame.to_json(orient="split", index=False, double_precision=15).encode()
    ).hexdigest()


def build(name: str, settings: LLMJudge) -> LanguageModelJudge:
    """The judge that a profile's evaluation.llm_judges describes."""
    from rpo_nb.judging.endpoint import EndpointJudge

    return {"local": LocalJudge, "endpoint": EndpointJudge}[settings.kind](name, settings)
