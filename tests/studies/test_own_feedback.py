"""A loss of one's own on a user's feedback: beside the study's policies, by the study's judge."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import transformers
from statsmodels.stats.multitest import multipletests

from rpo_nb import __main__ as command
from rpo_nb import intervals, store
from rpo_nb.config.loading import load_profile
from rpo_nb.experiment import generations, inputs
from rpo_nb.reporting.rendering import read_table
from rpo_nb.running.progress import time_words
from rpo_nb.studies import deep, own_feedback, own_losses, prediction
from rpo_nb.training import own
from tests.studies.test_deep_feedback import study  # noqa: F401, a fixture

RIVALS = Path(__file__).parent.parent.parent / "examples" / "rivals.py"


@pytest.fixture
def place(study, tmp_path, monkeypatch):  # noqa: F811
    """The profile, and a copy of its study's folder: its parts alone, as a clone has them."""
    profile, out = study
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path / "cache"))
    inputs._splits.cache_clear()
    (tmp_path / "out" / deep.PARTS).mkdir(parents=True)
    for file in (out / deep.PARTS).iterdir():
        (tmp_path / "out" / deep.PARTS / file.name).write_bytes(file.read_bytes())
    return profile, tmp_path / "out"


@pytest.fixture
def trained(monkeypatch):
    """The number of rewards a prompt, of every policy that is trained; 0 of one without."""
    seen, train = [], transformers.Trainer.train

    def counted(self, *args, **kwargs):
        if type(self).__name__ == "PolicyTrainer":
            first = self.train_dataset[0]
            seen.append(np.shape(first.get("ref_rewards", ()))[-1:] or (0,))
        return train(self, *args, **kwargs)

    monkeypatch.setattr(transformers.Trainer, "train", counted)
    return seen


def test_losses_stand_beside_the_studys_policies_which_are_not_trained_again(place, trained):
    profile, out = place
    wanted = [own.read(f"{RIVALS}:dro_fixed"), own.read(f"{RIVALS}:a_star"), "qrpo"]
    lines = list(own_feedback.make(wanted, profile, out, workers=1))
    assert len(trained) == 3 * len(profile.seeds)
    assert sorted(one for (one,) in trained) == [0, 0, *[own_feedback.TEXTS] * 4]
    table, leads = (
        read_table(out / "tables/losses.csv"),
        read_table(out / "tables/losses_leads.csv"),
    )
    assert list(table.loc[~table["added"], "policy"].sort_values()) == ["RPO", "SFT", "reference"]
    mine = ["dro_fixed τ 0.3", "a_star τ 0.3", "QRPO β 0.3"]
    assert list(leads["policy"].unique()) == mine and len(leads) == 3 * 5
    assert (out / "figures" / "losses.png").is_file()
    assert all(any(line.startswith(name) for line in lines) for name in mine)

    # by hand: what the judge says of what the policies said
    seed = profile.seeds[1]
    judge = prediction.judge_of(profile, out, seed)
    rows = generations.load_generations(_generations(profile, out))
    for method, name in (("sft", "SFT"), ("rpo", "RPO")):
        said = rows[rows["method"].eq(method) & rows["seed"].eq(seed)]
        kept = store.read_sealed(out / f"lab/feedback-seed{seed}.json")["rewards"][name]
        scores = judge.score(said["prompt"].tolist(), said["completion"].tolist())
        np.testing.assert_allclose([kept[str(p)] for p in said["prompt_id"]], scores, atol=1e-5)

    # nothing of it is made again, and another loss is made alone
    trained.clear()
    before = (out / "tables/losses.csv").read_bytes()
    assert list(own_feedback.make(wanted, profile, out)) == lines
    assert not trained and (out / "tables/losses.csv").read_bytes() == before
    more = [*wanted, own.read(f"{RIVALS}:reward_weighted")]
    list(own_feedback.make(more, profile, out))
    assert len(trained) == len(profile.seeds)
    assert len(read_table(out / "tables/losses.csv")) == 7
    *_, last, _ = list(own_feedback.make(wanted[:1], profile, out))
    assert "not in these tables: QRPO β 0.3, a_star τ 0.3, reward_weighted τ 1;" in last
    lines = Path(profile.data.source).read_text(encoding="utf-8").splitlines()
    texts = [line["prompt"] for line in map(json.loads, lines)]
    told = (out / f"lab/feedback-seed{seed}.json").read_text(encoding="utf-8")
    assert not [text for text in texts if text in told]


def test_what_was_judged_before_a_stop_is_not_made_again(place, trained, monkeypatch):
    profile, out = place
    seed, wanted = profile.seeds[0], [own.read(f"{RIVALS}:dro_fixed"), own.read(f"{RIVALS}:a_star")]
    said = own_feedback.said

    def stopped(profile, policy, prepared, out):
        if policy.name.startswith("a_star"):
            raise KeyboardInterrupt
        return said(profile, policy, prepared, out)

    monkeypatch.setattr(own_feedback, "said", stopped)
    with pytest.raises(KeyboardInterrupt):
        own_feedback.judged(profile, seed, out, wanted)
    kept = store.read_sealed(out / f"lab/feedback-seed{seed}.json")["rewards"]
    assert "dro_fixed τ 0.3" in kept and "a_star τ 0.3" not in kept
    shutil.rmtree(out / "runs")  # as on another machine
    trained.clear()
    monkeypatch.setattr(own_feedback, "said", said)
    found = own_feedback.judged(profile, seed, out, wanted)["rewards"]
    assert trained == [(own_feedback.TEXTS,)]  # a_star alone
    assert {name: found[name] for name in kept} == kept and "a_star τ 0.3" in found


def _generations(profile, out):
    generations.ensure_runs(profile, out, progress=False)
    return out


def test_rewards_of_the_references_texts_are_on_the_scale_of_the_datas(place):
    profile, out = place
    own_profile = deep.of_seed(profile, profile.seeds[0])
    judge = prediction.judge_of(own_profile, out, profile.seeds[0])
    prepared = inputs.prepare(own_profile, "small", profile.seeds[0])
    found = own_feedback.reference_rewards(own_profile, prepared, judge, out)
    train = prepared.splits.train
    assert found.shape == (len(train), own_feedback.TEXTS)
    scores = judge.score(list(train["prompt"]), list(train["completion"]))
    (file,) = (out / "runs").glob("reference-*/completions-own*.json")
    texts = store.read_sealed(file)["completions"]
    prompts = list(dict.fromkeys(train["prompt"]))
    for place, prompt in enumerate(prompts):
        mine = texts[place * own_feedback.TEXTS : (place + 1) * own_feedback.TEXTS]
        raw = judge.score([prompt] * own_feedback.TEXTS, mine)
        expected = (raw - scores.mean()) / scores.std()
        for row in np.flatnonzero(np.array(train["prompt"]) == prompt):
            np.testing.assert_allclose(found[row], expected, atol=1e-4)


def test_leads_are_differences_with_holms_correction():
    g = np.random.default_rng(0)
    base = g.normal(size=(4, 50))
    rewards = {"reference": base, "SFT": base + 0.5, "mine": base + 2 + g.normal(size=(4, 1)) / 20}
    table, apart = own_losses.standing(rewards, ["mine"]), own_losses.leads(rewards, ["mine"])
    assert list(table["policy"]) == ["mine", "SFT", "reference"]
    assert list(apart["outcome"]) == ["ahead of"] * 2
    np.testing.assert_allclose(apart["lead"], [table["gain"][0], table["gain"][0] - 0.5])
    same = own_losses.leads(rewards | {"mine": base}, ["mine"])
    assert list(same["outcome"]) == [own_losses.own_tables.SAME, "behind"]
    one = {name: values[:1] for name, values in rewards.items()}
    undecided = own_losses.leads(one, ["mine"])
    assert set(undecided["outcome"]) == {"not decided against"}
    (line,) = own_losses.told(own_losses.standing(one, ["mine"]), undecided)
    assert line.endswith("not decided against reference, SFT (one seed decides nothing)")


def test_the_leads_of_all_losses_are_corrected_together_and_agree_from_both_sides():
    g = np.random.default_rng(0)
    base, names = g.normal(size=(3, 40)), ["A", "B", "C"]
    spread = {name: 0.5 * g.normal(size=(3, 1)) + 0.3 * g.normal(size=(3, 40)) for name in names}
    rewards = {"reference": base, "SFT": base + 0.1 * g.normal(size=(3, 40))}
    rewards |= {name: base + place + spread[name] for place, name in enumerate(names)}
    apart = own_losses.leads(rewards, names).set_index(["policy", "other"])
    assert len(apart) == 3 * 4
    once = [(a, b) for a, b in apart.index if b not in names or a < b]
    found = [intervals.seeds_and_prompts(rewards[a] - rewards[b]) for a, b in once]
    raw = [2 * scipy.stats.t.sf(abs(one.value) / one.error, one.df) for one in found]
    holm = multipletests(raw, method="holm")[1]
    np.testing.assert_allclose(apart.loc[once, "p"], holm)
    for a, b in itertools.permutations(names, 2):
        mine, theirs = apart.loc[(a, b)], apart.loc[(b, a)]
        assert (mine["low"], mine["lead"]) == (-theirs["high"], -theirs["lead"])
        assert mine["p"] == theirs["p"]
        assert {mine["outcome"], theirs["outcome"]} in (
            {"ahead of", "behind"},
            {"not decided against"},
        )
    assert apart.loc[("C", "A"), "outcome"] == "ahead of"  # so that both kinds are seen
    assert "not decided against" in set(apart["outcome"])


def test_a_key_has_all_that_rewards_are_made_from(study):  # noqa: F811
    profile, _ = study

    def keys(made):
        return {policy.name: policy.key(made) for policy in own_feedback.policies(made, ["qrpo"])}

    def other(part, **values):
        return profile.model_copy(
            update={part: getattr(profile, part).model_copy(update=values)} if part else values
        )

    large = profile.sizes["small"].model_copy(update={"id": "pocket"})
    judged = profile.evaluation.model_copy(update={"judge_size": "large"})
    judged_by_large = other(
        None, sizes={"small": profile.sizes["small"], "large": large}, evaluation=judged
    )
    wider = large.model_copy(update={"d_model": 2 * large.d_model})
    judged_by_wider = judged_by_large.model_copy(
        update={"sizes": {"small": profile.sizes["small"], "large": wider}}
    )
    made = [
        profile,
        other(None, generation="vllm"),
        other("training", lora=False),
        other("training", quantize="4bit"),
        other("training", bf16=True),
        other("decoding", temperature=0.5),
        other("evaluation", judge_comparisons=50),
        judged_by_large,
        judged_by_wider,
    ]
    found = [keys(one) for one in made]
    for name in ("reference", "SFT", "QRPO β 0.3"):
        assert len({one[name] for one in found}) == len(made)


def test_a_temperature_and_the_studys_decoding_are_the_kits_method_s_too(study):  # noqa: F811
    profile, _ = study
    loss = own.read(f"{RIVALS}:dro_fixed")
    *_, first, second = own_feedback.policies(profile, [loss, "qrpo"], (0.7,))
    assert (first.name, second.name) == ("dro_fixed τ 0.7", "QRPO β 0.7")
    assert second.run.recipe["objective"]["beta"] == 0.7
    with pytest.raises(ValueError, match="takes one; 2 were given"):
        own_feedback.policies(profile, ["qrpo"], (0.1, 0.7))
    with pytest.raises(ValueError, match="--temperatures is -1"):
        own_feedback.policies(profile, ["qrpo"], (-1.0,))
    released = load_profile("smoke", feedback=profile.data.source, preset="released,paper")
    (qrpo,) = (one for one in own_feedback.policies(released, ["qrpo"]) if one.added)
    assert qrpo.run.decoding == released.decoding
    paper = load_profile("smoke", feedback=profile.data.source, preset="paper,released")
    (same,) = (one for one in own_feedback.policies(paper, ["qrpo"]) if one.added)
    assert qrpo.run == same.run and qrpo.run.recipe["objective"]["reduce"] == "sum"


def test_ten_temperatures_and_a_rate_of_the_file_are_no_settings_to_tune(place, tmp_path):
    profile, out = place
    file = tmp_path / "mine.py"
    file.write_text(
        "TEMPERATURES = [float(n) for n in range(1, 11)]\nLEARNING_RATES = [1.0, 2.0]\n"
        "def loss(policy_logps, rewards, temperature):\n"
        "    return -rewards * policy_logps / temperature\n"
    )
    mine = own.read(f"{file}:loss")
    assert own_feedback.policies(profile, [mine])[-1].name == "loss τ 5"
    line = next(own_feedback.make([mine], profile, out))
    assert "mine.py:loss: its learning rates are not read" in line
    assert f"the profile's {profile.training.learning_rate:g}" in line


def test_where_a_step_is_cut_makes_another_policy_of_ones_own(study):  # noqa: F811
    profile, _ = study
    cut = profile.training.model_copy(update={"micro_batch_tokens": 128})
    loss = own.read(f"{RIVALS}:dro_fixed")
    first, other = (
        {one.name: one.key(made) for one in own_feedback.policies(made, [loss])}
        for made in (profile, profile.model_copy(update={"training": cut}))
    )
    assert [name for name in first if first[name] != other[name]] == ["dro_fixed τ 0.3"]


def test_what_another_judge_said_of_other_losses_is_told_to_be_left_out(place, capsys):
    profile, out = place
    seed, file = profile.seeds[0], out / f"lab/feedback-seed{profile.seeds[0]}.json"
    kept = {"judge": "reward_model", "identity": "another processor's", "right": 0.5}
    kept |= {"keys": {"mine τ 1": "0"}, "rewards": {"mine τ 1": {}}}
    file.parent.mkdir()
    store.write_sealed(file, kept)
    found = own_feedback.judged(profile, seed, out, [own.read(f"{RIVALS}:dro_fixed")])
    assert "mine τ 1" not in found["rewards"]
    assert (
        f"seed {seed}: another judge judged mine τ 1, so they are left out"
        in capsys.readouterr().out
    )


def test_a_model_of_the_hub_is_here_before_a_key_is_made_of_it(place, monkeypatch):
    profile, out = place
    order = []
    monkeypatch.setattr(inputs, "fetch", lambda profile: order.append("fetched"))
    monkeypatch.setattr(own_feedback, "policies", lambda *_: order.append("keys") or [])
    with pytest.raises(ValueError, match="decodes otherwise"):  # no policy is its reference
        list(own_feedback.make(["qrpo"], profile, out))
    assert order == ["fetched", "keys"]


def test_the_time_left_is_told_by_kinds_of_steps(monkeypatch, capsys):
    times = iter([100.0, 110.0, 150.0, 450.0])
    monkeypatch.setattr(own_feedback.time, "monotonic", lambda: next(times))
    clock = own_feedback.Clock(0, ["judge", "of the study", "added", "added"], 0.0)
    for what in ("judge", "SFT", "a", "b"):
        clock.told(what)
    lines = capsys.readouterr().out.splitlines()
    # three steps as long as the one known, two as the longest, one as its own kind's
    left = [f"{time_words(seconds)} of this seed" for seconds in (300.0, 200.0, 40.0)]
    assert [line.partition("; ")[2] for line in lines] == [*left, ""]
    assert lines[0].startswith("seed 0, 1 of 4: judge, 100 s")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--temperatures 0.1,0.3", "--temperatures takes one; 2 were given"),
        ("--learning-rates 1e-4,2e-4", "leave --learning-rates out"),
        ("--set lab.seeds=[0,1]", "does not read lab.seeds; leave it out"),
        ("--set methods=sft", "keep reference among the methods"),
        ("--set preset=released", "preset released decodes otherwise"),
    ],
)
def test_what_nothing_reads_is_refused(options, words, study, tmp_path, capsys):  # noqa: F811
    profile, _ = study
    given = ["lab", "--method", f"{RIVALS}:dro_fixed", "--profile", "smoke"]
    given += ["--feedback", profile.data.source, "--output-dir", str(tmp_path / "out")]
    assert command.main([*given, *options.split()]) != 0
    assert words in capsys.readouterr().err
    assert not list(tmp_path.rglob("recipe.json"))
