"""Paper B's Tables 2 to 4, the bridge to paper A, the verdict on each of its learnings, and Figures 1 to 4: frames in, frames out.

results and curves are those of `paper_b.load`. Intervals are Student's t over seeds, 95 %: other references, data and samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from rpo_nb import objectives
from rpo_nb.alignment import mean_interval
from rpo_nb.config import PaperB, Profile
from rpo_nb.figures import STYLE
from rpo_nb.paper_b import BRIDGE, GATED, LEARNT, SPLITS, TRUTH, World
from rpo_nb.reporting import published_numbers
from rpo_nb.reward_aware import SURE

METRICS = {"avg_reward": TRUTH, "win_rate": "win_rate"}  # the paper's -> the measure
PAPER_PROMPTS = {"valid": "lmsys_valid", "test": "lmsys_test", **dict.fromkeys(("ood_values", "ood_combinations", "ood"), "alpacaeval")}
FEWEST = 2  # seeds that an interval needs
BESIDE = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}  # of a legend: "best" still covers bands and error bars
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6b6b6b", "#000000")


def _cell(results: pd.DataFrame, run: str, split: str, metric: str, published: object = None) -> dict:
    """mean, ci_low, ci_high, seeds of a measure over seeds, and the paper's number with the half width of its interval."""
    values = results.query("run == @run and split == @split").sort_values("seed")[METRICS[metric]]
    scale = 100.0 if metric == "win_rate" else 1.0
    mean, low, high = mean_interval(scale * values.to_numpy())
    number, half = published if isinstance(published, list) else (published, None)
    missing = {None, "null"}
    return {"metric": metric, "prompts": split, "mean": mean, "ci_low": low, "ci_high": high, "seeds": len(values),
            "published": np.nan if number in missing else number, "published_ci": np.nan if half in missing else half}


def _present(results: pd.DataFrame, run: str) -> bool:
    return bool(results["run"].eq(run).any())


def _splits(results: pd.DataFrame) -> list[str]:
    """Those of SPLITS that there are."""
    return [split for split in SPLITS if results["split"].eq(split).any()]


def table2(results: pd.DataFrame, config: PaperB) -> pd.DataFrame:
    """Loss, k, responses and rm as in the paper, the 8B numbers beside; average ground-truth reward and win rate (%) over the
    reference, on test prompts and on both kinds out of distribution (both beside AlpacaEval)."""
    rows = []
    for line in published_numbers()["paper_b"]["table2"]:
        if line["base"] != "8b":
            continue
        k = config.k if line["k"] == "4" else line["k"]
        run = {"sft": "sft", "dpo": "dpo", "simpo": "simpo", "kto": "kto"}.get(line["loss"])
        if run is None:
            loss = line["loss"].removeprefix("rpo-")
            run = f"online-{loss}-{TRUTH if line['rm'] == 'GT' else LEARNT}" if line["responses"] == "Online" else f"{loss}-k{k}"
        if _present(results, run):
            named = {name: "" if line[name] == "null" else line[name] for name in ("responses", "rm")}
            rows += [{"loss": line["loss"], "k": "" if k == "null" else str(k), **named,
                      **_cell(results, run, split, metric, line[metric].get(PAPER_PROMPTS[split]))}
                     for metric in METRICS for split in _splits(results)[1:]]
    return pd.DataFrame(rows)


def table3(results: pd.DataFrame) -> pd.DataFrame:
    """DPO on prompts of the distribution and on a narrow writer's (the paper's synthetic ones), by where it is evaluated."""
    rows = []
    for line in published_numbers()["paper_b"]["table3"]:
        run = {"lmsys": "dpo", "synthetic": "dpo-synthetic"}[line["prompts"]]
        if _present(results, run):
            rows += [{"training_prompts": "in distribution" if run == "dpo" else "synthetic",
                      **_cell(results, run, split, metric, line[metric].get(PAPER_PROMPTS[split]))}
                     for metric in METRICS for split in _splits(results)]
    return pd.DataFrame(rows)


def table4(results: pd.DataFrame, config: PaperB) -> pd.DataFrame:
    """Iterations (0 is the reference) of offline DPO, offline bwd and online bwd; the paper's numbers: 8B for DPO, 70B for the others."""
    first = {"Offline DPO": "dpo", "Offline RPO-bwd": f"bwd-k{config.k}", "Online RPO-bwd": f"online-bwd-{TRUTH}"}
    printed = {line["prompts"]: line for line in published_numbers()["paper_b"]["table4"] if line["prompts"] != "SFT"}
    starts = {line["base"]: line for line in published_numbers()["paper_b"]["table4"] if line["prompts"] == "SFT"}
    rows = []
    for name, run in first.items():
        for i in range(config.iterations + 1):
            this = "sft" if i == 0 else run if i == 1 else f"{run}-iteration{i}"
            line = printed.get(f"{name}-Iter-{i}", {}) if i else starts[printed[f"{name}-Iter-1"]["base"]]
            if _present(results, this) and _present(results, run):
                rows += [{"training": name, "iteration": str(i),
                          **_cell(results, this, split, metric, line.get(metric, {}).get(PAPER_PROMPTS[split]))}
                         for metric in METRICS for split in _splits(results)]
    return pd.DataFrame(rows).drop(columns="published_ci", errors="ignore")


def reward_models(profile: Profile, out: str | Path, results: pd.DataFrame) -> pd.DataFrame:
    """The learnt judges: accuracy on held-out comparisons, and the mean true test reward of online bwd trained on each, and on the truth."""
    rows = []
    for judge in (TRUTH, LEARNT, GATED):
        run = f"online-bwd-{judge}"
        if not _present(results, run):
            continue
        held_out = [] if judge == TRUTH else [World(profile, seed, Path(out)).reward_model(judge).held_out["correct"]
                                              for seed in profile.paper_b.seeds]
        mean, low, high = mean_interval([correct.mean() for correct in held_out]) if held_out else (np.nan,) * 3
        rows.append({"judge": judge, **_cell(results, run, "test", "avg_reward"), "accuracy": mean, "accuracy_low": low, "accuracy_high": high,
                     "comparisons": sum(map(len, held_out)) if held_out else np.nan})
    return pd.DataFrame(rows).drop(columns=["published", "published_ci"], errors="ignore")


def eta_sweep(results: pd.DataFrame, config: PaperB) -> pd.DataFrame:
    """Offline bwd at multiples of the suggested η: mean test reward, KL, entropy."""
    rows = []
    for eta in sorted({1.0, *config.etas}):
        run = f"bwd-k{config.k}" + ("" if eta == 1 else f"-eta{eta:g}")
        if _present(results, run):
            mean = results.query("run == @run and split == 'test'")[["kl", "entropy"]].mean()
            rows.append({"eta": f"{eta:g} × suggested", **_cell(results, run, "test", "avg_reward"), **mean.to_dict()})
    return pd.DataFrame(rows).drop(columns=["published", "published_ci"], errors="ignore")


def bridge(results: pd.DataFrame, config: PaperB) -> pd.DataFrame:
    """Paper A's RPO against sqloo on the same tuples, steps and strength of the KL term: the squared distance with log Z estimated
    (each Ẑ) or cancelled. gain: sqloo's mean reward less the estimate's, seed by seed."""
    own = f"sqloo-k{config.k}"
    rows = []
    for run in (own, *(f"rpo-{estimator}" for estimator in BRIDGE)):
        if _present(results, run) and _present(results, own):
            gain, low, high = _difference(results, [own], [run])
            kl = results.query("run == @run and split == 'test'")["kl"]
            rows.append({"log_z": "cancelled (sqloo)" if run == own else f"estimated, {run.removeprefix('rpo-')}",
                         **_cell(results, run, "test", "avg_reward"), "kl": float(kl.mean()),
                         **({} if run == own else {"gain": gain, "gain_low": low, "gain_high": high})})
    return pd.DataFrame(rows).drop(columns=["published", "published_ci"], errors="ignore")


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """One of the tables as read: a line a policy, a column a metric and prompts, the paper's number beside."""
    if table.empty:
        return table
    keys = [c for c in table.columns if c not in ("metric", "prompts", "mean", "ci_low", "ci_high", "seeds", "published", "published_ci")]
    digits = np.where(table["metric"].eq("win_rate"), 1, 2)
    ours = [f"{m:.{d}f}" + ("" if np.isnan(low) else f" [{low:.{d}f}, {high:.{d}f}]")
            for m, low, high, d in zip(table["mean"], table["ci_low"], table["ci_high"], digits)]
    cells = [f"{text} ({theirs})" if isinstance(theirs, str) else text for text, theirs in zip(ours, table["published"])]
    shown = table[keys].assign(column=table["metric"] + ", " + table["prompts"], cell=cells)
    lines = shown.pivot_table(index=keys, columns="column", values="cell", aggfunc="first", sort=False)
    return lines.rename_axis(columns=None).reset_index()


# ---- the learnings ----------------------------------------------------------------------------------------------------------

def _difference(results: pd.DataFrame, ahead: Sequence[str], behind: Sequence[str]) -> tuple[float, float, float]:
    """Mean test reward of some runs less that of others, paired by seed, with its interval over seeds."""
    means = [results[results["run"].isin(runs) & results["split"].eq("test")].groupby("seed")[TRUTH].mean() for runs in (ahead, behind)]
    return mean_interval((means[0] - means[1]).dropna().to_numpy())


def verdicts(results: pd.DataFrame, curves: pd.DataFrame, config: PaperB) -> pd.DataFrame:
    """The paper's seven learnings against what came out: learning, verdict, sentence. Differences are of the mean test reward.

    "more": holds when the interval of the difference lies above 0; "same": holds when it contains 0 (with few seeds it is wide, and
    says so). A learning whose runs are not there is left out.
    """
    k = config.k
    online = {f"{loss}-{judge}": f"online-{loss}-{judge}" for loss in ("bwd", "sqloo") for judge in (TRUTH, LEARNT)}
    last = f"-iteration{config.iterations}" if config.iterations > 1 else ""
    claims = [
        ("offline, DPO, SimPO and RPO-bwd do alike", "same", ["dpo"], ["simpo"]),
        ("offline, DPO, SimPO and RPO-bwd do alike", "same", ["dpo"], ["bwd-k2"]),
        ("offline, they do better than KTO", "more", ["dpo", "simpo", "bwd-k2"], ["kto"]),
        ("offline, they do better than RPO-sqloo", "more", ["dpo", "simpo", "bwd-k2"], ["sqloo-k2"]),
        (f"offline, K = {k} does as K = 2 (bwd)", "same", [f"bwd-k{k}"], ["bwd-k2"]),
        (f"offline, K = {k} does as K = 2 (sqloo)", "same", [f"sqloo-k{k}"], ["sqloo-k2"]),
        ("online, bwd does better than sqloo", "more", [online[f"bwd-{TRUTH}"]], [online[f"sqloo-{TRUTH}"]]),
        ("online does better than offline with the true judge (bwd)", "more", [online[f"bwd-{TRUTH}"]], [f"bwd-k{k}"]),
        ("iterations help (offline DPO)", "more", [f"dpo{last}"], ["dpo"]),
        ("iterations help (offline bwd)", "more", [f"bwd-k{k}{last}"], [f"bwd-k{k}"]),
        ("iterations help (online bwd)", "more", [f"online-bwd-{TRUTH}{last}"], [f"online-bwd-{TRUTH}"]),
        ("with a learnt reward model, online gains over offline vanish (bwd)", "more", [f"bwd-k{k}"], [online[f"bwd-{LEARNT}"]]),
    ]
    rows = []
    for learning, kind, ahead, behind in claims:
        if ahead == behind or not all(_present(results, run) for run in (*ahead, *behind)):
            continue
        mean, low, high = _difference(results, ahead, behind)
        told = f"{', '.join(ahead)} less {', '.join(behind)}: {mean:+.2f}"
        seeds = results["seed"].nunique()
        if seeds < FEWEST:
            rows.append((learning, "one seed: not decided", told))
            continue
        told += f" [{low:+.2f}, {high:+.2f}] over {seeds} seeds"
        inside = low <= 0 <= high
        same, more = "not told apart" if inside else "differs", "holds" if low > 0 else "is reversed" if high < 0 else "not decided"
        verdict = same if kind == "same" else more
        rows.append((learning, verdict, told))
    rows += [(f"with a learnt reward model, the policy hacks the reward ({run})", *_hacked(found))
             for run, found in hacking(curves).groupby("run", sort=False)]
    return pd.DataFrame(rows, columns=["learning", "verdict", "sentence"])


def hacking(curves: pd.DataFrame) -> pd.DataFrame:
    """Trainings on the learnt reward: run, seed; learnt_gain and truth_gain, the change of the validation rewards from the reference to
    the last step; truth_late, that of the truth from the middle of the training to its end."""
    rows = []
    for (run, seed), curve in curves[curves["run"].str.endswith(LEARNT)].groupby(["run", "seed"], sort=False):
        curve = curve.sort_values("step").reset_index(drop=True)
        first, last = curve.iloc[0], curve.iloc[-1]
        middle = curve.loc[(curve["step"] - last["step"] / 2).abs().idxmin()]
        rows.append({"run": run, "seed": seed, "learnt_gain": float(last[LEARNT] - first[LEARNT]), "truth_gain": float(last[TRUTH] - first[TRUTH]),
                     "truth_late": float(last[TRUTH] - middle[TRUTH])})
    return pd.DataFrame(rows, columns=["run", "seed", "learnt_gain", "truth_gain", "truth_late"])


def _hacked(found: pd.DataFrame) -> tuple[str, str]:
    """Verdict and sentence: hacked when the learnt reward rose on average and the truth fell, over the whole training or its second
    half, by more than the interval over seeds."""
    (learnt, *_), whole, late = (mean_interval(found[name]) for name in ("learnt_gain", "truth_gain", "truth_late"))
    told = (f"the learnt reward rose by {learnt:+.2f}, the truth by {whole[0]:+.2f} [{whole[1]:+.2f}, {whole[2]:+.2f}] over the training, "
            f"by {late[0]:+.2f} [{late[1]:+.2f}, {late[2]:+.2f}] in its second half; {len(found)} seeds")
    if len(found) < FEWEST:
        return "one seed: not decided", told
    if learnt > 0 and min(whole[2], late[2]) < 0:
        return "seen", told
    return ("gains vanish" if whole[1] <= 0 <= whole[2] else "not seen"), told


def stability(curves: pd.DataFrame) -> pd.DataFrame:
    """How steady a training is: run, seed, largest fall of the validation reward from its best so far, and the KL at its end."""
    rows = []
    for (run, seed), curve in curves.groupby(["run", "seed"], sort=False):
        truth = curve.sort_values("step")[TRUTH]
        rows.append({"run": run, "seed": seed, "largest_fall": float((truth.cummax() - truth).max()), "kl": float(curve["kl"].iloc[-1])})
    return pd.DataFrame(rows)


# ---- figures ----------------------------------------------------------------------------------------------------------------

def _lines(axis: object, curves: pd.DataFrame, runs: dict[str, str], y: str, style: str = "-") -> None:
    """Mean over seeds by step, the band from the least to the most."""
    for colour, (run, label) in zip(COLOURS, runs.items()):
        rows = curves[curves["run"].eq(run)].groupby("step")[y].agg(["mean", "min", "max"])
        if len(rows):
            axis.plot(rows.index, rows["mean"], style, color=colour, label=label, marker="o", markersize=3)
            axis.fill_between(rows.index, rows["min"], rows["max"], color=colour, alpha=0.15, linewidth=0)


def _panels(draw: Sequence[tuple[dict[str, str], str, str]], curves: pd.DataFrame, width: float = 5.6) -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width * len(draw), 3.4), layout="constrained")
        for axis, (runs, y, label) in zip(figure.subplots(1, len(draw), squeeze=False)[0], draw):
            _lines(axis, curves, runs, y)
            axis.set(xlabel="optimiser step", ylabel=label)
            if axis.lines:
                axis.legend(**BESIDE)
        return figure


def distances_figure(explicit: float = 2.0) -> Figure:
    """Loss and gradient of each distance for a pair, by the gap of its implicit rewards; the explicit gap is `explicit`."""
    gap = torch.linspace(-6, 10, 400, dtype=torch.float64, requires_grad=True)
    pair = torch.stack([gap, torch.zeros_like(gap)], -1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for colour, (name, distance, target) in zip(COLOURS, (("sq", "sq", explicit), ("bwd", "bwd", explicit), ("fwd", "fwd", explicit),
                                                              ("DPO: bwd, δ* = ∞", "bwd", SURE))):
            loss = objectives.reward_aware(pair, torch.tensor([target, 0.0], dtype=gap.dtype).expand_as(pair), distance=distance)
            (slope,) = torch.autograd.grad(loss.sum(), gap, retain_graph=True)
            left.plot(gap.detach(), loss.detach(), color=colour, label=name)
            right.plot(gap.detach(), slope, color=colour)
        left.set(ylim=(-0.1, 4), xlabel="implicit gap a₁ − a₂", title="loss")
        right.set(ylim=(-3, 3), xlabel="implicit gap a₁ − a₂", title="gradient")
        left.axvline(explicit, color="#999999", linewidth=0.8)
        right.axvline(explicit, color="#999999", linewidth=0.8)
        left.legend()
        return figure


REWARD = "mean ground-truth reward, validation"


def figure1(curves: pd.DataFrame, config: PaperB) -> Figure:
    """Learning curves of the offline losses, and of the online ones."""
    offline = {"dpo": "DPO", "simpo": "SimPO", "kto": "KTO", "bwd-k2": "bwd, K = 2", f"bwd-k{config.k}": f"bwd, K = {config.k}",
               "sqloo-k2": "sqloo, K = 2", f"sqloo-k{config.k}": f"sqloo, K = {config.k}"}
    online = {f"online-{loss}-{judge}": f"online {loss}, {judge}" for judge in (TRUTH, LEARNT) for loss in ("bwd", "sqloo")}
    return _panels([(offline, TRUTH, REWARD), (online, TRUTH, REWARD)], curves)


def figure2(curves: pd.DataFrame) -> Figure:
    """Reward and KL(πθ ‖ πref) of online bwd against online sqloo, with the true judge."""
    runs = {f"online-{loss}-{TRUTH}": f"online {loss}" for loss in ("bwd", "sqloo")}
    return _panels([(runs, TRUTH, REWARD), (runs, "kl", "KL(πθ ‖ πref), nats")], curves)


def figure3(results: pd.DataFrame, config: PaperB) -> Figure:
    """Mean test reward by iteration, in and out of distribution, with intervals over seeds."""
    table = table4(results, config).query("metric == 'avg_reward' and prompts != 'valid'")
    with matplotlib.rc_context(STYLE):
        panels = table["prompts"].nunique() or 1
        figure = Figure(figsize=(11 if panels > 1 else 5, 3.4), layout="constrained")
        for axis, (prompts, rows) in zip(figure.subplots(1, panels, sharey=True, squeeze=False)[0], table.groupby("prompts", sort=False)):
            for colour, (name, line) in zip(COLOURS, rows.groupby("training", sort=False)):
                errors = [(line["mean"] - line["ci_low"]).fillna(0), (line["ci_high"] - line["mean"]).fillna(0)]
                axis.errorbar(line["iteration"].astype(int), line["mean"], errors, color=colour, marker="o", capsize=3, label=name)
            axis.set(title=prompts.replace("_", " "), xlabel="iteration", xticks=range(config.iterations + 1))
        figure.axes[0].set_ylabel("mean ground-truth reward")
        if len(table):
            figure.axes[-1].legend(**BESIDE)
        return figure


def figure4(curves: pd.DataFrame) -> Figure:
    """Reward hacking: the learnt reward the policy is trained on, and the ground truth, each in standard deviations of itself
    from the first evaluation, by step; bands from the least to the most over seeds."""
    runs = [*(f"online-{loss}-{LEARNT}" for loss in ("bwd", "sqloo")), f"online-bwd-{GATED}"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 3.4), layout="constrained")
        for axis, run in zip(figure.subplots(1, 3, sharey=True), runs):
            rows = curves[curves["run"].eq(run)]
            for colour, name, label in ((COLOURS[1], LEARNT, "learnt reward"), (COLOURS[0], TRUTH, "ground truth")):
                scale = rows[name].std() if len(rows) > 1 else math.nan
                moved = rows.assign(y=rows[name].sub(rows.groupby("seed")[name].transform("first")) / scale)
                _lines(axis, moved.assign(run=label), {label: label}, "y")
                for line in axis.lines[-1:]:
                    line.set_color(colour)
                for band in axis.collections[-1:]:
                    band.set_color(colour)
            axis.set(title=run, xlabel="optimiser step")
            if axis.lines:
                axis.legend()
        figure.axes[0].set_ylabel("change, standard deviations over the run")
        return figure
