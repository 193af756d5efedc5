"""The verdict on each of paper B's learnings."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from rpo_nb import intervals
from rpo_nb.config.studies import PaperB
from rpo_nb.studies.paper_b.grid import LEARNT, TRUTH, Run
from rpo_nb.studies.paper_b.tables import FEWEST, difference, present


def verdicts(results: pd.DataFrame, curves: pd.DataFrame, config: PaperB) -> pd.DataFrame:
    """The paper's seven learnings against what came out: learning, verdict, sentence. Differences
    are of the mean test reward.

    "more": holds when the interval of the difference lies above 0; "same": holds when it contains 0
    (with few seeds it is wide, and says so). A learning whose runs are not there is left out.
    """
    k = config.k
    dpo, simpo, kto = Run("dpo"), Run("simpo"), Run("kto")
    bwd, sqloo = Run("bwd"), Run("sqloo")
    wide = {loss: replace(loss, k=k) for loss in (bwd, sqloo)}
    online = {loss: replace(wide[loss], online=True) for loss in (bwd, sqloo)}
    alike = "offline, DPO, SimPO and RPO-bwd do alike"
    claims = [
        (alike, "same", [dpo], [simpo]),
        (alike, "same", [dpo], [bwd]),
        ("offline, they do better than KTO", "more", [dpo, simpo, bwd], [kto]),
        ("offline, they do better than RPO-sqloo", "more", [dpo, simpo, bwd], [sqloo]),
        (f"offline, K = {k} does as K = 2 (bwd)", "same", [wide[bwd]], [bwd]),
        (f"offline, K = {k} does as K = 2 (sqloo)", "same", [wide[sqloo]], [sqloo]),
        ("online, bwd does better than sqloo", "more", [online[bwd]], [online[sqloo]]),
        (
            "online does better than offline with the true judge (bwd)",
            "more",
            [online[bwd]],
            [wide[bwd]],
        ),
    ]
    iterated = {"offline DPO": dpo, "offline bwd": wide[bwd], "online bwd": online[bwd]}
    for words, run in iterated.items():
        last = replace(run, iteration=config.iterations)
        claims.append((f"iterations help ({words})", "more", [last], [run]))
    claims.append(
        (
            "with a learnt reward model, online gains over offline vanish (bwd)",
            "more",
            [wide[bwd]],
            [replace(online[bwd], judge=LEARNT)],
        )
    )
    rows = []
    for learning, kind, ahead, behind in claims:
        if ahead == behind or not all(present(results, run) for run in (*ahead, *behind)):
            continue
        mean, low, high = difference(results, ahead, behind)
        first, second = (", ".join(run.name for run in runs) for runs in (ahead, behind))
        told = f"{first} less {second}: {mean:+.2f}"
        seeds = results["seed"].nunique()
        if seeds < FEWEST:
            rows.append((learning, "one seed: not decided", told))
            continue
        told += f" [{low:+.2f}, {high:+.2f}] over {seeds} seeds"
        inside = low <= 0 <= high
        same, more = (
            "not told apart" if inside else "differs",
            "holds" if low > 0 else "is reversed" if high < 0 else "not decided",
        )
        verdict = same if kind == "same" else more
        rows.append((learning, verdict, told))
    rows += [
        (f"with a learnt reward model, the policy hacks the reward ({run})", *_hacked(found))
        for run, found in hacking(curves).groupby("run", sort=False)
    ]
    return pd.DataFrame(rows, columns=["learning", "verdict", "sentence"])


def hacking(curves: pd.DataFrame) -> pd.DataFrame:
    """Trainings on the learnt reward: run, seed; learnt_gain and truth_gain, the change of the
    validation rewards from the reference to the last step; truth_late, that of the truth from the
    middle of the training to its end."""
    rows = []
    for (run, seed), curve in curves[curves["judge"].eq(LEARNT)].groupby(
        ["run", "seed"], sort=False
    ):
        curve = curve.sort_values("step").reset_index(drop=True)
        first, last = curve.iloc[0], curve.iloc[-1]
        middle = curve.loc[(curve["step"] - last["step"] / 2).abs().idxmin()]
        rows.append(
            {
                "run": run,
                "seed": seed,
                "learnt_gain": float(last[LEARNT] - first[LEARNT]),
                "truth_gain": float(last[TRUTH] - first[TRUTH]),
                "truth_late": float(last[TRUTH] - middle[TRUTH]),
            }
        )
    return pd.DataFrame(rows, columns=["run", "seed", "learnt_gain", "truth_gain", "truth_late"])


def _hacked(found: pd.DataFrame) -> tuple[str, str]:
    """Verdict and sentence: hacked when the learnt reward rose on average and the truth fell, over
    the whole training or its second half, by more than the interval over seeds."""
    (learnt, *_), whole, late = (
        intervals.student(found[name]) for name in ("learnt_gain", "truth_gain", "truth_late")
    )
    told = (
        f"the learnt reward rose by {learnt:+.2f}, the truth by {whole[0]:+.2f} "
        f"[{whole[1]:+.2f}, {whole[2]:+.2f}] over the training, "
        f"by {late[0]:+.2f} [{late[1]:+.2f}, {late[2]:+.2f}] in its second half; {len(found)} "
        "seeds"
    )
    if len(found) < FEWEST:
        return "one seed: not decided", told
    if learnt > 0 and min(whole[2], late[2]) < 0:
        return "seen", told
    return ("gains vanish" if whole[1] <= 0 <= whole[2] else "not seen"), told


def stability(curves: pd.DataFrame) -> pd.DataFrame:
    """How steady a training is: run, seed, largest fall of the validation reward from its best so
    far, and the KL at its end."""
    rows = []
    for (run, seed), curve in curves.groupby(["run", "seed"], sort=False):
        truth = curve.sort_values("step")[TRUTH]
        rows.append(
            {
                "run": run,
                "seed": seed,
                "largest_fall": float((truth.cummax() - truth).max()),
                "kl": float(curve["kl"].iloc[-1]),
            }
        )
    return pd.DataFrame(rows)
