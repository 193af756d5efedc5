"""verify, on worlds whose truth is known: a sound run passes, a planted fault does not.

A world is made by the kit's exactly tilted reference (`insight.tilt`): seeds draw the rewards of
reference samples, cells are reward and KL of the optimal policies at some temperatures. So a fault
is a real one: τ doubled, a sign turned.
"""

import json

import nbformat
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rpo_nb.__main__ import main
from rpo_nb.config.loading import load_profile, write_profile
from rpo_nb.reporting import style, verify
from rpo_nb.running.provenance import PACKAGE
from rpo_nb.studies import insight

TAUS = (3.0, 1.5, 1.0, 0.7, 0.5, 0.35)
REGIMES = 6


def rewards_of(seed: int, regime: int) -> np.ndarray:
    """Of 64 samples a prompt, 60 prompts; each seed has a reference of its own."""
    g = np.random.default_rng([seed, regime])
    level = 5 + 0.3 * regime + 0.2 * np.random.default_rng([seed, 99]).normal()
    return np.clip(level + g.normal(size=(60, 1)) + 1.5 * g.normal(size=(60, 64)), 1, 10)


def numbers(seeds, *, doubled: bool = False, turned: bool = False) -> pd.DataFrame:
    """`verify.by_seed`'s rows; the faults are those of the method "rpo", not of "dro"."""
    rows = []
    for seed in seeds:
        for regime in range(REGIMES):
            rewards = rewards_of(seed, regime)
            for method in ("rpo", "dro"):
                faulty = method == "rpo"
                taus = tuple(tau * (2 if doubled and faulty else 1) for tau in TAUS)
                g = np.random.default_rng([seed, regime, len(method), ord(method[0])])
                tilted = insight.tilt(rewards, taus)
                if turned and faulty:
                    tilted = insight.tilt(-rewards, taus).assign(reward=lambda d: -d["reward"])
                for tau, row in zip(TAUS, tilted.itertuples(), strict=True):
                    for measure in ("reward", "kl"):
                        rows.append(
                            {
                                "table": "regime_map",
                                "cell": f"regime {regime} {method} τ {tau:g} {measure}",
                                "seed": seed,
                                "value": getattr(row, measure) + 0.05 * g.normal(),
                            }
                        )
    return pd.DataFrame(rows)


DEEP = numbers(range(10))


@pytest.mark.parametrize("seeds", [(20,), (21, 22)])
def test_a_sound_run_agrees(seeds):
    found = verify.compare(numbers(seeds), DEEP)
    assert found.agrees, verify.sentence(found)
    assert "no more than chance allows" in verify.sentence(found)
    assert len(found.cells) == DEEP["cell"].nunique() and found.same == (0, 0)


@pytest.mark.parametrize("seeds", [(20,), (21, 22)])
@pytest.mark.parametrize("fault", ["doubled", "turned"])
def test_a_planted_fault_is_noticed_and_named(seeds, fault):
    found = verify.compare(numbers(seeds, **{fault: True}), DEEP)
    assert not found.agrees
    missing = found.cells[found.cells["misses"]]
    assert missing["cell"].str.contains(" rpo ").mean() > 0.8
    text = verify.sentence(found)
    assert "rpo" in text and "More than chance allows is wrong with regime_map" in text


def test_with_few_seeds_it_says_that_it_cannot_tell():
    """Four seeds, one far from the others: the bound from leaving one out is one that no run could
    pass, which is no verdict."""
    seeds = {0: 0.0, 1: 0.01, 2: 0.02, 3: 10.0}

    def cells(values):
        rows = [("a", f"cell {i}", n, v + i) for i in range(40) for n, v in values.items()]
        return pd.DataFrame(rows, columns=[*verify.CELL, "seed", "value"])

    found = verify.compare(cells({20: -50.0}), cells(seeds))
    assert found.unjudged == ["a"] and found.cells["misses"].all()
    said = verify.sentence(found)
    assert "cannot be told of a" in said and "no more than chance" not in said
    assert verify.compare(numbers([20]), DEEP).unjudged == []


def noise(table, seeds, *, shift=0.0, cells=30):
    rng = np.random.default_rng([len(table), *seeds])
    rows = [(table, f"c{c}", s, shift + rng.normal()) for c in range(cells) for s in seeds]
    return pd.DataFrame(rows, columns=["table", "cell", "seed", "value"])


def test_a_table_of_fewer_seeds_than_the_others_is_judged_by_its_own():
    deep = pd.concat([noise("table2", range(10)), noise("paper_b", range(5))])
    wrong = pd.concat([noise("table2", [10]), noise("paper_b", [10], shift=1000)])
    found = verify.compare(wrong, deep)
    assert not found.agrees
    assert "More than chance allows is wrong with paper_b (30 of 30" in verify.sentence(found)
    few = pd.concat([noise("table2", range(10)), noise("paper_b", range(3))])
    found = verify.compare(wrong, few)
    assert found.agrees and found.unjudged == ["paper_b"]
    assert "cannot be told of paper_b" in verify.sentence(found)


def test_a_cell_that_one_other_seed_has_is_not_counted():
    deep, run = noise("table2", range(10)), noise("table2", [10])
    alone = deep["cell"].eq("c0") & deep["seed"].ne(3)
    found = verify.compare(run, deep[~alone])
    assert found.cells["deviation"].isna().tolist() == [True] + [False] * 29
    assert not found.cells["misses"][0] and found.agrees
    told = verify.sentence(found)
    assert "of 29 cells" in told and "(1 more have too few seeds in the deep run)" in told


def test_a_sound_run_is_seldom_refused():
    refused = sum(not verify.compare(numbers([seed]), DEEP).agrees for seed in range(100, 140))
    assert refused <= stats.binom.ppf(0.999, 40, 0.05)


def test_the_interval_is_the_t_prediction_interval():
    g = np.random.default_rng(0)
    deep = pd.DataFrame(
        {"table": "table2", "cell": "a", "seed": range(8), "value": g.normal(size=8)}
    )
    run = pd.DataFrame(
        {"table": "table2", "cell": "a", "seed": [50, 51, 52], "value": [1.0, 2.0, 4.5]}
    )
    row = verify.compare(run, deep).cells.iloc[0]
    # a two-sample t interval of equal variance has n + k − 2 degrees of freedom; with the spread of
    # the n alone it is n − 1: the classical prediction interval, here from scipy's own t
    scale = deep["value"].std() * np.sqrt(1 / 8 + 1 / 3)
    low, high = stats.t.interval(0.95, 7, loc=deep["value"].mean(), scale=scale)
    assert (row["low"], row["high"]) == pytest.approx((low, high))
    assert row["value"] == pytest.approx(2.5) and row["misses"] == (not low <= 2.5 <= high)


def test_nineteen_in_twenty_sound_cells_lie_in_their_interval():
    g, cells = np.random.default_rng(1), 4000
    values = g.normal(size=(cells, 12))
    frames = [
        pd.DataFrame(
            {
                "table": "table2",
                "cell": np.repeat(np.arange(cells), part.shape[1]),
                "seed": np.tile(seeds, cells),
                "value": part.ravel(),
            }
        )
        for part, seeds in ((values[:, :10], range(10)), (values[:, 10:], (90, 91)))
    ]
    assert verify.compare(frames[1], frames[0]).cells["misses"].mean() == pytest.approx(
        0.05, abs=0.012
    )


def test_seeds_in_both_are_compared_digit_by_digit_and_with_the_other_seeds_only():
    run = numbers([3])
    found = verify.compare(run, DEEP)
    assert found.same == (len(run), len(run))
    assert found.cells["expected"].iloc[0] == pytest.approx(
        DEEP[DEEP["cell"].eq(found.cells["cell"].iloc[0]) & DEEP["seed"].ne(3)]["value"].mean()
    )
    run.loc[0, "value"] += 1e-9
    assert verify.compare(run, DEEP).same == (len(run) - 1, len(run))


def test_a_cell_without_spread_must_be_the_same():
    deep = pd.concat(
        [DEEP, pd.DataFrame({"table": "table3", "cell": "b", "seed": range(10), "value": 50.0})]
    )
    for value, misses in ((50.0, False), (50.5, True)):
        one = pd.DataFrame({"table": "table3", "cell": "b", "seed": [77], "value": [value]})
        cells = verify.compare(pd.concat([numbers([77]), one]), deep).cells
        assert cells.loc[cells["cell"].eq("b"), "misses"].item() is misses


@pytest.mark.parametrize(
    ("run", "deep", "words"),
    [
        (numbers([20]).assign(table="other"), DEEP, "no cell in common"),
        (numbers([1]), numbers(range(4)), "3 seeds that the run does not share"),
    ],
)
def test_what_cannot_be_compared_is_refused(run, deep, words):
    with pytest.raises(ValueError, match=words):
        verify.compare(run, deep)


# ---- folders -------------------------------------------------------------------------------------


def folder(place, frame: pd.DataFrame, **settings):
    """An output folder with the numbers of a frame as its regime map."""
    words = frame["cell"].str.rsplit(" ", n=1, expand=True)
    wide = frame.assign(policy=words[0], measure=words[1]).pivot(
        index=["policy", "seed"], columns="measure", values="value"
    )
    verify.write_seeds(wide.reset_index(), place, "regime_map")
    write_profile(load_profile("smoke", **settings), place / "profile.yaml")
    return place


def test_the_command_says_it_and_its_status(tmp_path, capsys):
    deep = folder(tmp_path / "deep", DEEP)
    status = {}
    for name, run in (
        ("sound", numbers([20])),
        ("same", numbers([3])),
        ("faulty", numbers([20], turned=True)),
    ):
        out = folder(tmp_path / name, run)
        status[name] = main(["verify", "--results", str(out), "--against", str(deep)])
    printed = capsys.readouterr().out
    assert status == {"sound": 0, "same": 0, "faulty": 1}
    assert printed.count("cells are where they should be") == 3
    assert "numbers are the same to the last digit (another kind" in printed


def test_one_machine_and_lock_are_told_from_others(tmp_path):
    made = {"packages": {"torch": "2"}, "hardware": {"cpu": "a"}}
    found = verify.compare(numbers([3]), DEEP)
    for name, cpu in (("one", "a"), ("two", "a"), ("three", "b")):
        (tmp_path / name).mkdir()
        text = json.dumps(made | {"hardware": {"cpu": cpu}})
        (tmp_path / name / "manifest.json").write_text(text)
    said = [verify.bytes_sentence(found, tmp_path / "one", tmp_path / n) for n in ("two", "three")]
    assert "one kind of machine and one lock" in said[0] and "another kind" in said[1]


def test_other_settings_are_named(tmp_path, capsys):
    deep = folder(tmp_path / "deep", DEEP)
    assert verify.unlike(load_profile("smoke"), deep) == []
    assert verify.unlike(load_profile("smoke", sizes="small", seeds="0"), deep) == []
    assert verify.unlike(load_profile("smoke", **{"training.epochs": 2}), deep) == ["training"]
    assert verify.unlike(load_profile("smoke", **{"lab.prompts": 9}), deep) == ["lab"]
    out = folder(tmp_path / "run", numbers([20]), **{"training.epochs": 2})
    main(["verify", "--results", str(out), "--against", str(deep)])
    assert "other settings of training" in capsys.readouterr().out


def test_a_run_is_compared_where_the_deep_run_is_alike_and_has_seeds_enough(tmp_path):
    (tmp_path / "Snakefile").touch()
    (tmp_path / "rpo_nb").mkdir()
    many = {"seeds": list(range(verify.FEWEST + 1))}
    deep = folder(tmp_path / "results" / verify.DEEP, DEEP, **many)
    out = tmp_path / "results" / "smoke"
    assert verify.deep_for(load_profile("smoke", seeds="0"), out) == deep
    assert verify.deep_for(load_profile("smoke", seeds="0,1"), out) is None  # too few others
    assert verify.deep_for(load_profile("smoke", seeds="0", **{"training.epochs": 2}), out) is None


def test_the_reports_notebook_says_how_a_run_compares_or_why_it_does_not(tmp_path, capsys):
    (tmp_path / "Snakefile").touch()
    (tmp_path / "rpo_nb").mkdir()
    out, profile = tmp_path / "results" / "smoke", load_profile("smoke", seeds="20")
    book = nbformat.read(PACKAGE.parent / "notebooks" / "09_report.ipynb", as_version=4)
    (cell,) = [cell.source for cell in book.cells if "verify." in cell.source]

    def said():
        exec(cell, {"verify": verify, "style": style, "p": profile, "out": out})
        return capsys.readouterr().out

    assert said() == "There is no deep run of these settings to compare with.\n"
    folder(tmp_path / "results" / verify.DEEP, DEEP, seeds=list(range(10)))
    assert said() == ("This run has no numbers by seed to compare: notebooks 04 to 08 make them.\n")
    folder(out, numbers([20]))
    assert not (out / "figures").exists()
    assert "cells are where they should be" in said()
    assert (out / "figures" / "verify.svg").is_file()


def test_a_folder_without_numbers_is_refused(tmp_path, capsys):
    deep = folder(tmp_path / "deep", DEEP)
    write_profile(load_profile("smoke"), tmp_path / "empty" / "profile.yaml")
    assert main(["verify", "--results", str(tmp_path / "empty"), "--against", str(deep)]) == 2
    assert main(["verify", "--results", str(tmp_path / "none"), "--against", str(deep)]) == 2
    said = capsys.readouterr().err
    assert "no tables with numbers by seed" in said and "nothing was made there" in said


def test_the_picture_shows_every_cell():
    found = verify.compare(numbers([20], turned=True), DEEP)
    (axes,) = verify.figure(found).axes
    shown = np.concatenate([points.get_offsets() for points in axes.collections])
    assert len(shown) == len(found.cells) and np.abs(shown[:, 0]).max() <= 3
    miss = found.allowed["misses"].sum()
    assert f"{miss} of {len(found.cells)} miss" in axes.get_yticklabels()[0].get_text()
