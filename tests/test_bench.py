"""The benchmarks: they run, their tables merge, their fits are right, and the READMEs say what
results.csv says."""

import json
import math
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import before, cases, growth, policy, released, suite, surroundings, tables
from benchmarks.measuring import Detail, Ratio
from benchmarks.sides import Stepper
from benchmarks.workloads import Case, CountedPositions, configuration, fresh, real_lengths
from rpo_nb import objectives
from rpo_nb.config.arguments import parser
from rpo_nb.policy import logps
from rpo_nb.running import provenance
from tests.tensors import counted_flops

measuring = pytest.importorskip("benchmarks.measuring", reason="the benchmarks are in the clone")


def test_a_step_of_ours_over_a_plain_one_is_measured_and_written(tmp_path):
    found = {}
    for shape in ("T5, tiny", "Llama, tiny"):
        case = Case.even(shape, prompts=2, completions=4, prompt=6, completion=4, steps=2)
        found[shape], noted = cases.steps(
            shape, case, ("rpo", "plain"), cases.Settings(repetitions=1)
        )
        assert all((seconds > 0).all() and len(seconds) == 1 for seconds in found[shape].values())
        tables.write(
            tmp_path,
            "sft",
            [measuring.ratio(shape, "plain", found[shape]["rpo"], found[shape]["plain"], 0.7)],
            noted,
            "here",
        )
    written = pd.read_csv(tmp_path / "results.csv")
    assert list(written.columns) == tables.COLUMNS and written["name"].tolist() == [
        "T5, tiny",
        "Llama, tiny",
    ]
    assert (written["ratio_low"] <= written["ratio"]).all() and (
        written["ratio"] <= written["ratio_high"]
    ).all()
    assert (written["n"] == 1).all()
    details = pd.read_csv(tmp_path / "details.csv")
    tokens = details[
        (details["name"] == "Llama, tiny") & (details["what"] == "tokens of all rows")
    ]["value"]
    assert tokens.tolist() == [8 * 10]


def test_a_checkout_is_measured_by_names_that_may_have_moved():
    threads = torch.get_num_threads()
    found = before.seconds({"T5": "T5, tiny"})
    torch.set_num_threads(threads)
    assert all(second > 0 for second in found.values())
    steps = {f"T5, {side} step" for side in before.SIDES}
    assert set(found) == {"import of rpo_nb", "T5, sampling", *steps}
    with pytest.raises(ValueError, match="this commit has no Stepper in rpo_nb.store"):
        before.either("Stepper", "rpo_nb.store", "rpo_nb.nothing")


def test_two_checkouts_are_compared_pair_by_pair():
    now, then = pd.DataFrame({"a step": [2.0, 3.0, 4.0]}), pd.DataFrame({"a step": [2.0, 2.0, 2.0]})
    (row,) = before.compared("abc", now, then).to_dict("records")
    assert row == {
        "name": "a step",
        "commit": "abc",
        "seconds": 3.0,
        "seconds_before": 2.0,
        "ratio": 1.5,
        "ratio_low": 1.0,
        "ratio_high": 2.0,
        "n": 3,
    }
    committed = pd.read_csv(before.FILE)
    assert committed.columns.tolist() == list(row)


def test_an_earlier_commit_is_recorded_by_its_hash(tmp_path, monkeypatch):
    """A name such as HEAD means another commit later."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)

    class Side(subprocess.Popen):
        def __init__(self, words, **options):
            measured = ["echo", '{"a step": 2.0}']
            super().__init__(measured if words[0] == "taskset" else words, **options)

    monkeypatch.setattr(subprocess, "Popen", Side)
    monkeypatch.setattr(measuring, "ROOT", tmp_path)
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "rpo_nb")
    monkeypatch.setattr(before, "FILE", tmp_path / "before.csv")
    (row,) = pd.read_csv(before.compare("HEAD", 2), dtype=str).to_dict("records")
    known = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert len(row["commit"]) >= 7 and known.startswith(row["commit"]) and row["n"] == "2"


def test_trl_trains_on_the_very_same_tokens(tmp_path):
    pytest.importorskip("trl", minversion="1.0", reason="an older TRL keeps its rows otherwise")
    case = Case.even("Llama, tiny", prompts=2, completions=2, prompt=5, completion=4, steps=2)
    stepper = Stepper(case, "trl", tmp_path)  # raises when they differ
    batch = next(iter(stepper.trainer.get_train_dataloader()))
    assert (
        int(batch["attention_mask"].sum()) == 4 * 9 and int(batch["completion_mask"].sum()) == 4 * 4
    )
    assert (
        not stepper.trainer.args.gradient_checkpointing
        and not stepper.trainer.args.bf16
        and "ref_logps" in batch
    )


def test_sides_take_turns_after_a_round_that_does_not_count():
    order = []
    found = measuring.interleaved(
        {name: lambda name=name: order.append(name) or len(order) for name in "ab"}, 2
    )
    assert (
        "".join(order) == "ab" * 3
        and found["a"].tolist() == [3, 5]
        and found["b"].tolist() == [4, 6]
    )


def test_a_ratio_is_of_medians_and_lies_within_its_pairs():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = rng.lognormal(size=(2, 5))
        found = measuring.ratio("a", "b", a, b)
        assert found.low <= found.ratio <= found.high and found.n == 5
    assert measuring.ratio(
        "a", "b", np.array([1.0, 9, 2]), np.array([2.0, 3, 8])
    ).ratio == pytest.approx(2 / 3)


@pytest.mark.parametrize("power", [0.0, 0.8, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_found_with_its_interval(power):
    x = np.repeat([32, 64, 128, 256, 512], 3)
    exact = measuring.exponent(x, 7.0 * x**power)
    assert exact.value == pytest.approx(power, abs=1e-9) and exact.high - exact.low < 1e-6
    inside = 0
    for seed in range(100):
        noisy = measuring.exponent(
            x, x**power * np.random.default_rng(seed).lognormal(sigma=0.1, size=len(x))
        )
        inside += noisy.low <= power <= noisy.high
    assert 88 <= inside <= 100  # of 95 % intervals


@pytest.mark.parametrize(
    ("x", "y"),
    [([1, 2], [1, 2]), ([1, 2, 0], [1, 2, 3]), ([1, 2, 3], [1, -2, 3]), ([2, 2, 2], [1, 2, 3])],
)
def test_an_exponent_of_too_little_is_refused(x, y):
    with pytest.raises(ValueError, match="an exponent needs three or more points"):
        measuring.exponent(x, y)


def test_growth_compares_seconds_with_the_work():
    sizes = [1, 2, 4, 8]
    found = growth.growth("g", [(x, 3 * x**1.5) for x in sizes], [(x, 5 * x**2) for x in sizes])
    assert (
        found.ratio == pytest.approx(0.75)
        and found.low <= found.ratio <= found.high
        and found.goal == 1.0
    )


@pytest.mark.parametrize("shape", ["T5, tiny", "Llama, tiny"])
def test_the_work_of_a_step_is_near_what_torch_counts(shape):
    case = Case.even(shape, prompts=1, completions=1, prompt=24, completion=24, steps=1)
    counted = counted_flops(fresh(case.config), case, backward=True)
    assert growth.work(case) == pytest.approx(counted, rel=0.15)


def test_merging_replaces_rows_of_the_same_name_and_machine_in_their_place(tmp_path):
    def ratios(*values):
        return [
            Ratio(name, "b", value, value, value, math.nan, 5)
            for name, value in zip("xyz", values, strict=False)
        ]

    tables.write(
        tmp_path,
        "one",
        ratios(1.0, 2.0),
        [Detail("x", "a", "seconds", 1, 1, 1, 5), Detail("x", "b", "seconds", 1, 1, 1, 5)],
        "here",
    )
    tables.write(tmp_path, "one", ratios(3.0), [Detail("x", "a", "seconds", 9, 9, 9, 5)], "here")
    tables.write(tmp_path, "one", ratios(4.0), [], "there")
    table = pd.read_csv(tmp_path / "results.csv")
    assert list(zip(table["name"], table["machine"], table["ratio"], strict=True)) == [
        ("x", "here", 3),
        ("y", "here", 2),
        ("x", "there", 4),
    ]
    # a benchmark's details are replaced as one
    assert pd.read_csv(tmp_path / "details.csv")["value"].tolist() == [9]
    assert (
        len(
            tables.write(
                tmp_path, "two", [Ratio("x", "another", 5.0, 5.0, 5.0, math.nan, 5)], [], "here"
            )
        )
        == 1
    )
    assert len(pd.read_csv(tmp_path / "results.csv")) == 4  # another baseline is another row


def test_the_table_marks_a_missed_goal_and_keeps_machines_apart():
    rows = pd.DataFrame(
        [
            ["x", "b", 0.5, 0.4, 0.6, 0.7, 5, "m"],
            ["y", "b", 0.8, 0.7, 0.9, 0.7, 5, "m"],
            ["z", "b", 3.0, np.nan, np.nan, np.nan, 1, "k"],
        ],
        columns=tables.COLUMNS,
    )
    text = tables.markdown(rows)
    assert (
        "| x | b | **0.50** | 0.40 to 0.60, n = 5 | 0.7 |" in text
        and "| 0.7, missed |" in text
        and text.count("missed") == 1
    )
    assert "On m:" in text and "On k:" in text and "z" not in tables.markdown(rows, only_goals=True)


def test_marks_must_be_there_once():
    assert (
        tables.filled(f"a\n{tables.START}\nold\n{tables.END}\nb", "new")
        == f"a\n{tables.START}\nnew\n{tables.END}\nb"
    )
    with pytest.raises(ValueError, match="once each"):
        tables.filled("no marks", "new")


@pytest.mark.parametrize("name", tables.READMES)
def test_the_readmes_say_what_results_csv_says(name):
    results = pd.read_csv(tables.HERE / "results.csv")
    assert (
        list(results.columns) == tables.COLUMNS
        and not results.duplicated(["name", "baseline", "machine"]).any()
    )
    assert not results["machine"].str.contains("quick").any()
    text = (tables.ROOT / name).read_text(encoding="utf-8")
    assert text == tables.filled(text, tables.markdown(results, only_goals=tables.READMES[name])), (
        "run tables.fill_readmes()"
    )


def test_the_released_way_trains_on_the_loss_it_says():
    case = Case("T5, tiny", real_lengths(2, limit=12), 8)
    model, rewards, tau = fresh(case.config), case.rewards, 5.0
    inputs, labels = released.padded(case.encoded, 16)
    assert inputs.shape == labels.shape == (8, 16) and int((labels != -100).sum()) == sum(
        len(c) for _, c in case.encoded
    )
    with torch.no_grad():
        means = logps.sequence_logps(model, inputs, (inputs != 0).long(), labels, reduce="mean")
        torch.testing.assert_close(
            released.mean_logps(model, inputs, labels), means, rtol=1e-4, atol=1e-4
        )
        v = released.values(model, inputs, labels, case.prompt_ids, rewards.tolist(), tau)
    groups = [means[i : i + 4] + torch.tensor(rewards[i : i + 4]) / tau for i in (0, 4)]
    torch.testing.assert_close(
        v,
        tau * torch.stack([g.logsumexp(0) for g in groups]).repeat_interleave(4).float(),
        rtol=1e-4,
        atol=1e-4,
    )
    expected = objectives.rpo(means, means, torch.tensor(rewards).float(), v / tau, tau=tau).mean()
    before = [p.detach().clone() for p in model.parameters()]
    losses = released.train(
        model, case.encoded, case.prompt_ids, rewards.tolist(), length=16, tau=tau
    )
    assert losses == [pytest.approx(float(expected), rel=1e-3)]
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_positions_are_counted_with_their_padding():
    for shape, expected in (("T5, tiny", 2 * 7 + 2 * 3), ("Llama, tiny", 2 * 7)):
        model = fresh(configuration(shape))
        counted, ids = CountedPositions(model), torch.ones(2, 7, dtype=torch.long)
        model(
            input_ids=ids,
            **(
                {"labels": torch.ones(2, 3, dtype=torch.long)}
                if model.config.is_encoder_decoder
                else {}
            ),
        )
        assert counted.count == expected


def test_real_lengths_are_of_four_completions_and_within_the_limit():
    lengths = real_lengths(50, limit=100)
    assert len(lengths) == 50 and all(
        len(c) == 4 and min(p, *c) >= 2 and max(p, *c) <= 100 for p, c in lengths
    )
    assert lengths == real_lengths(50, limit=100) != real_lengths(50, limit=100, seed=1)


def test_the_reproductions_minutes_are_those_of_the_papers_tables_and_never_of_a_cache(
    tmp_path, monkeypatch, capsys
):
    jobs = {
        "01_data_prep": 10.0,
        "03_train-small-seed0": 200.0,
        "03_train-small-seed1": 100.0,
        "07_partition_lab": 500.0,
        "09_report": 50.0,
    }
    trained = tmp_path / "results" / "pocket" / "tables" / "timings.csv"
    trained.parent.mkdir(parents=True)
    manifest = {"seconds": {"jobs": jobs, "wall": 450.0}, "hardware": {"cores": 2}}
    (tmp_path / "results" / "pocket" / "manifest.json").write_text(
        json.dumps(manifest), encoding="utf-8"
    )
    monkeypatch.setattr(surroundings, "ROOT", tmp_path)
    trained.write_text("seconds\n150\n100\n")
    assert suite.bench(["reproduction"], output=tmp_path / "fresh") == tmp_path / "fresh"
    row = pd.read_csv(tmp_path / "fresh" / "results.csv").iloc[0]
    assert (
        row["ratio"] == 0.3
        and row["goal"] == 0.6
        and row["name"].endswith("its jobs' seconds over 2 cores")
    )
    seconds = pd.read_csv(tmp_path / "fresh" / "details.csv").set_index("what")["value"]
    assert (
        seconds["07_partition_lab, its jobs added up"] == 500
        and seconds["03_train, its jobs added up"] == 300
    )
    assert seconds["everything, as a clock shows"] == 450
    trained.write_text("seconds\n250\n100\n")
    suite.bench(["reproduction"], output=tmp_path / "cached")
    assert "came from a cache" in capsys.readouterr().out and not (tmp_path / "cached").exists()


def test_a_policys_seconds_are_told_by_stage(tmp_path, monkeypatch):
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path))  # put back afterwards
    found = policy.seconds("small", tmp_path, profile_name="smoke")
    stages = {"start-up", "reference", "inputs", "training", "sampling", "scoring", "metrics"}
    assert set(found) == stages | {"steps"} and min(found.values()) > 0
    assert found["steps"] < found["training"]


def test_an_unknown_benchmark_is_refused():
    with pytest.raises(ValueError, match="no benchmark speed; there are sft, "):
        suite.bench(["speed"])
    with pytest.raises(ValueError, match="--repetitions is 0"):
        suite.bench(["start"], repetitions=0)


@pytest.mark.parametrize("name", suite.BENCHMARKS)
def test_a_title_is_the_whole_first_sentence(name, monkeypatch, capsys, tmp_path):
    told = " ".join(suite.BENCHMARKS[name].__doc__.split())

    def nothing(settings):
        return [], []

    nothing.__doc__ = suite.BENCHMARKS[name].__doc__
    monkeypatch.setitem(suite.BENCHMARKS, name, nothing)
    suite.bench([name], output=tmp_path)
    title = capsys.readouterr().out.splitlines()[0].removeprefix(f"{name}: ")
    assert told.startswith(f"{title}.") and title[-1].isalnum() | (title[-1] == ")")


def test_a_first_sentence_ends_at_its_stop_and_not_at_the_end_of_a_line():
    told = "How long it\n    takes, in\n\n    Other words. And more.\n"
    assert measuring.first_sentence("A cost,\n    e.g. of T5. And more.") == "A cost, e.g. of T5"
    assert measuring.first_sentence(told) == "How long it takes, in"


def test_the_command_names_every_benchmark(capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["bench", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert f": {' '.join(suite.BENCHMARKS)} --" in told
