"""The pocket experiments."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rpo_nb import pocket
from rpo_nb.config.studies import PaperB
from rpo_nb.reporting.decisions import FAILS, HOLDS, OPEN
from rpo_nb.studies.paper_b import grid as paper_b_grid
from rpo_nb.studies.paper_b import learnings, tables
from rpo_nb.studies.paper_b.grid import UNSEEN, Run, is_synthetic, prompts_of, rows_of

# The pocket experiments ---------------------------------------------------------------------------


def test_prompts_in_and_out_of_distribution_are_what_their_names_say():
    config = PaperB(prompts=30, valid=20, test=25, iterations=2)
    found = prompts_of(config, 3)
    assert {name: len(prompts) for name, prompts in found.items()} == {
        "train_1": 30,
        "train_2": 30,
        "synthetic": 30,
        "valid": 20,
        "test": 25,
        "ood_values": 25,
        "ood_combinations": 25,
    }
    every = [prompt for prompts in found.values() for prompt in prompts]
    assert len(set(every)) == len(every) and found == prompts_of(config, 3) != prompts_of(config, 4)
    wishes = {name: [pocket.parse(prompt) for prompt in prompts] for name, prompts in found.items()}
    seen = [
        w for name in ("train_1", "train_2", "synthetic", "valid", "test") for w in wishes[name]
    ]
    unseen = UNSEEN
    assert not any(w.object in unseen["object"] or w.place in unseen["place"] for w in seen)
    assert all(
        w.object in unseen["object"] or w.place in unseen["place"] for w in wishes["ood_values"]
    )
    pairs = {(w.colour, w.object) for w in seen}
    assert not any(
        (w.colour, w.object) in pairs or w.object in unseen["object"] or w.place in unseen["place"]
        for w in wishes["ood_combinations"]
    )
    assert all(is_synthetic(prompt) for prompt in found["synthetic"])


def test_the_grid_names_what_the_tables_need_and_runs_follow_those_they_start_from():
    grid = paper_b_grid.grid(PaperB())
    names = [run.name for run in grid]
    assert len(set(names)) == len(names) == 26 and names[0] == "sft"
    assert all(grid.index(run.start) < grid.index(run) for run in grid if run.start)
    some = paper_b_grid.grid(PaperB(runs=("dpo-iteration3",)))
    assert [run.name for run in some] == [
        "sft",
        "dpo",
        "dpo-iteration2",
        "dpo-iteration3",
    ] and some[-1].prompts == "train_3"
    assert names[4:9] == ["bwd-k2", "bwd-k4", "sqloo-k2", "sqloo-k4", "online-bwd-truth"]
    assert {"dpo-synthetic", "bwd-k4-eta0.3", "online-bwd-truth-iteration2"} <= set(names)
    assert {"rpo-empirical", "online-bwd-gated", "online-sqloo-learnt"} <= set(names)
    with pytest.raises(ValueError, match="'ppo' is unknown"):
        paper_b_grid.grid(PaperB(runs=("ppo",)))


RUNS = {run.name: run for run in paper_b_grid.grid(PaperB())}


def frame(values, seeds=(0, 1, 2)):
    """results of runs whose rewards are given by name, plus a little a seed."""
    rows = [
        {
            "run": name,
            **RUNS[name].columns,
            "seed": seed,
            "split": split,
            "prompt": f"{split} {seed}",
            "truth": value + 0.1 * seed,
            "learnt": 0.0,
            "win_rate": 0.5 + value / 100,
            "kl": 1.0,
        }
        for name, value in values.items()
        for seed in seeds
        for split in paper_b_grid.SPLITS[:4]
    ]
    return pd.DataFrame(rows)


def test_rows_are_selected_by_columns_whatever_they_are_called():
    results = frame(dict.fromkeys(RUNS, 5.0)).assign(run="unnamed")
    for run in RUNS.values():
        mine = rows_of(results, run)
        assert len(mine) == 3 * 4 and (mine[list(run.columns)].nunique() <= 1).all()
    assert len(rows_of(results, Run("dpo"), Run("kto"))) == 2 * 3 * 4
    assert rows_of(results, Run("bwd", k=3)).empty
    with pytest.raises(KeyError, match="iteration"):
        rows_of(results.drop(columns="iteration"), Run("dpo"))


def test_tables_have_the_papers_columns_and_numbers_beside():
    results = frame({run.name: 5.0 + i for i, run in enumerate(paper_b_grid.grid(PaperB()))})
    two, three, four = (
        tables.table2(results, PaperB()),
        tables.table3(results),
        tables.table4(results, PaperB()),
    )
    for table in (two, three, four):
        assert {"metric", "prompts", "mean", "ci_low", "ci_high", "seeds", "published"} <= set(
            table
        ) and (table["seeds"] == 3).all()
    assert len(two) == 12 * 2 * 3 and len(three) == 2 * 2 * 4 and len(four) == 3 * 4 * 2 * 4
    cell = two.query(
        "loss == 'rpo-bwd' and k == '4' and responses == 'Online' and rm == 'Learnt' "
        "and metric == 'win_rate' and "
        "prompts == 'test'"
    ).iloc[0]
    assert (cell["published"], cell["published_ci"]) == ("57.3", "1.6") and cell[
        "mean"
    ] == pytest.approx(
        50 + 5 + [run.name for run in paper_b_grid.grid(PaperB())].index("online-bwd-learnt")
    )
    first = two.query("loss == 'dpo' and metric == 'avg_reward' and prompts == 'test'").iloc[0]
    assert first["mean"] == pytest.approx(6.1) and first["ci_high"] - first[
        "mean"
    ] == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-4)
    third = four.query(
        "training == 'Online RPO-bwd' and iteration == '3' and metric == "
        "'avg_reward' and prompts == 'test'"
    )
    assert third["published"].item() == "6.056"
    assert tables.eta_sweep(results.assign(entropy=1.0), PaperB())["eta"].tolist() == [
        "0.3 × suggested",
        "1 × suggested",
        "3 × suggested",
    ]
    gains = tables.bridge(results, PaperB())
    assert gains["log_z"].tolist()[0] == "cancelled (sqloo)" and gains["gain"].notna().sum() == 4


def test_verdicts_follow_the_differences_and_their_intervals():
    curves = pd.DataFrame(
        {"run": "dpo", "seed": 0, "step": [0, 1], "truth": [1.0, 2.0], "learnt": 0.0, "kl": 0.0}
    ).assign(**RUNS["dpo"].columns)
    flat = {run.name: 5.0 for run in paper_b_grid.grid(PaperB())}
    results = frame(flat | {"online-bwd-truth": 8.0, "online-sqloo-truth": 9.0})
    found = learnings.verdicts(results, curves, PaperB()).set_index("learning")["verdict"]
    assert found["online, bwd does better than sqloo"] == FAILS
    assert found["online does better than offline with the true judge (bwd)"] == HOLDS
    assert set(found["offline, DPO, SimPO and RPO-bwd do alike"]) == {HOLDS}
    vanish = "with a learnt reward model, online gains over offline vanish (bwd)"
    assert found[vanish] == HOLDS and found["iterations help (offline DPO)"] == OPEN
    kept = frame(flat | {"online-bwd-learnt": 7.0})
    found = learnings.verdicts(kept, curves, PaperB()).set_index("learning")["verdict"]
    assert found[vanish] == FAILS
    noisy = frame(flat)
    noisy.loc[(noisy["run"] == "kto") & (noisy["seed"] == 0), "truth"] -= 3
    told = (
        learnings.verdicts(noisy, curves, PaperB())
        .set_index("learning")
        .loc["offline, they do better than KTO"]
    )
    assert told["verdict"] == OPEN and "+1.00 [" in told["sentence"]
    assert told["smallest"] > 1 and "would have been seen" in told["sentence"]
    known = stats.ttest_1samp([3.0, 0, 0], 0).confidence_interval(0.95)
    assert (told["low"], told["high"]) == pytest.approx((known.low, known.high))
    alone = learnings.verdicts(frame(flat, seeds=(0,)), curves, PaperB())
    assert set(alone["verdict"]) == {OPEN} and alone["low"].isna().all()
    assert alone["sentence"].str.contains("with one seed").all()
    assert not alone["sentence"].str.contains("[", regex=False).any()


def test_no_less_says_which_differences_it_would_have_seen():
    """From half a point behind on it is less; the run sees what is far enough from that, on either
    side."""
    curves = pd.DataFrame(columns=["run", "judge", "seed", "step", "truth", "learnt"])
    noisy = frame(dict.fromkeys(RUNS, 5.0))
    noisy.loc[noisy["run"].eq("online-bwd-learnt") & noisy["seed"].eq(0), "truth"] += 3
    found = learnings.verdicts(noisy, curves, PaperB()).set_index("learning")
    told = found.loc["with a learnt reward model, online gains over offline vanish (bwd)"]
    low, high = (f"{end - 0.5:.2f}" for end in (-told["smallest"], told["smallest"]))
    assert told["verdict"] == OPEN
    assert told["sentence"].endswith(
        f"; a difference below {low} or above {high} would have been seen"
    )


def test_seeds_that_agree_by_luck_are_no_surer_than_their_prompts():
    rng, rows = np.random.default_rng(0), []
    for name in ("dpo", "dpo-iteration3"):
        for seed in range(2):
            noise = rng.normal(size=20)
            found = pd.DataFrame({"truth": 5 + noise - noise.mean(), "prompt": range(20)})
            found["prompt"] += 20 * seed
            rows.append(found.assign(run=name, **RUNS[name].columns, seed=seed, split="test"))
    curves = pd.DataFrame(columns=["run", "judge", "seed", "step", "truth", "learnt"])
    results = pd.concat(rows)
    found = learnings.verdicts(results, curves, PaperB()).iloc[0]
    assert abs(found["difference"]) < 1e-9 and found["verdict"] == OPEN
    pairs = results.pivot(index=["seed", "prompt"], columns="run", values="truth")
    error = (pairs["dpo-iteration3"] - pairs["dpo"]).groupby("seed").sem()
    assert found["high"] >= 0.99 * np.sqrt((error**2).mean() / 2)


def test_pure_noise_decides_no_learning():
    rng, decided = np.random.default_rng(0), []
    curves = pd.DataFrame(columns=["run", "judge", "seed", "step", "truth", "learnt"])
    flat = frame(dict.fromkeys(RUNS, 5.0))
    for _ in range(20):
        noisy = flat.assign(truth=rng.normal(size=len(flat)))
        found = learnings.verdicts(noisy, curves, PaperB())
        decided.append(found["verdict"].ne(OPEN).any())
    assert np.mean(decided) <= 0.1


def test_hacking_is_a_learnt_reward_that_rises_while_the_truth_falls():
    def curves(truths, apart=(0, 0.01, 0.02), seeds=(0, 1, 2)):
        """truths, and `apart` more for every seed."""
        return pd.concat(
            [
                pd.DataFrame(
                    {
                        "run": "online-bwd-learnt",
                        **RUNS["online-bwd-learnt"].columns,
                        "seed": seed,
                        "step": [0, 10, 20],
                        "truth": np.array(truths) + seed * np.array(apart),
                        "learnt": [0.0, 1.0, 2.0],
                    }
                )
                for seed in seeds
            ]
        )

    def verdict(curves):
        found = learnings.verdicts(frame({"sft": 5.0}), curves, PaperB())
        assert found["learning"].str.contains("hacks the reward").tolist() == [True]
        return found["verdict"].item()

    for truths, expected in (
        ([5, 7, 6], HOLDS),
        ([5, 4, 4.5], HOLDS),
        ([5, 6, 7], FAILS),
        ([5, 5, 5.0], OPEN),
    ):
        assert verdict(curves(truths)) == expected
    assert learnings.hacking(curves([5, 7, 6])).iloc[0].tolist()[2:] == [2.0, 1.0, -1.0]
    # the truth's gains over the seeds are -1, 0 and 1
    assert verdict(curves([5, 5, 4.0], apart=(0, 0, 1))) == OPEN
    assert verdict(curves([5, 5, 4.0], seeds=[0])) == OPEN
