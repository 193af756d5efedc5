"""A researcher's own loss in the lab: trained as the kit's, tuned alike, stored, told, shown."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rpo_nb import __main__ as command
from rpo_nb import intervals
from rpo_nb.config import loading
from rpo_nb.studies import lab, own_method, own_page, own_tables
from rpo_nb.studies.own_method import OwnSpec, Policy, Setting, Spec, Told
from rpo_nb.training import own

ROOT = Path(__file__).parent.parent.parent
BY_HAND = """
def v_free(policy_logps, ref_logps, rewards, temperature):
    return 0.5 * (policy_logps - ref_logps - rewards / temperature) ** 2

def plain(policy_logps, ref_logps, rewards):
    return -policy_logps
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    file = tmp_path_factory.mktemp("own") / "my.py"
    file.write_text(BY_HAND, encoding="utf-8")
    return own.read(f"{file}:v_free")


@pytest.fixture(scope="module")
def two_seeds():
    return loading.load_profile("smoke", sizes="small", **{"lab.seeds": [0, 1]})


@pytest.fixture(scope="module")
def made(mine, two_seeds, tmp_path_factory):
    """(comparison, folder): RPO without V̂, by hand, at τ = 1 beside everything, two seeds."""
    out = tmp_path_factory.mktemp("out")
    settings = own_method.settings_of(mine, two_seeds)
    return own_method.compare(two_seeds, mine, settings, out, progress=False), out


# Training -----------------------------------------------------------------------------------------


def test_the_kits_rpo_written_by_hand_says_the_same_and_has_the_same_weights(made, mine, two_seeds):
    found, out = made
    kits = "RPO V̂ = 0"
    np.testing.assert_array_equal(found.reward[mine.words], found.reward[kits])
    np.testing.assert_array_equal(found.log_ratio[mine.words], found.log_ratio[kits])
    assert not np.array_equal(found.log_ratio[mine.words], found.log_ratio["RPO eq. 19"])
    folders = []
    with own.registered(mine):
        for name in (mine.words, kits):
            policy = Policy(two_seeds, "stronger", 1, found.settings[name][0])
            run = policy.study.run(policy.setting.spec)
            folders.append(run.folder(out))
            assert run.recipe["training"]["learning_rate"] == 1e-3
    a, b = ((folder / "policy" / "model.safetensors").read_bytes() for folder in folders)
    assert folders[0] != folders[1] and a == b
    outcome = own_tables.outcomes(own_tables.standing(found), mine.words).set_index("method")
    assert outcome.loc[kits, "outcome"] == own_tables.SAME
    assert outcome.loc["SFT", "outcome"] != own_tables.SAME


def test_nothing_is_trained_twice_and_a_changed_loss_is_trained_again(
    made, mine, two_seeds, monkeypatch
):
    found, out = made
    trained = []
    monkeypatch.setattr(own_method, "train_group", lambda group, *_: trained.extend(group))
    options = {"workers": 1, "progress": False}
    policies = [
        Policy(two_seeds, "stronger", seed, settings[0])
        for settings in found.settings.values()
        for seed in (0, 1)
    ]
    with own.registered(mine):
        again = own_method.rows_of(policies, mine, out, **options)
        assert not trained and all(told.here for told in again.values())
        changed = replace(mine, source=mine.source.replace("0.5", "0.25"))
        spec = replace(found.settings[mine.words][0].spec, own=changed)
        with pytest.raises(KeyError):  # it is not made here, so that there is nothing to read
            own_method.rows_of(
                [Policy(two_seeds, "stronger", 0, Setting(spec, 1.0, 1))], changed, out, **options
            )
    assert [policy.setting.spec.own for policy in trained] == [changed]


def test_stored_rows_are_used_and_said_to_be(made, mine, two_seeds, tmp_path, monkeypatch):
    found, out = made
    (tmp_path / "lab").mkdir()
    shutil.copy(out / own_method.ROWS_FILE, tmp_path / own_method.ROWS_FILE)
    trained, make = [], own_method.train_group

    def noted(group, *rest):
        trained.extend(group)
        return make(group, *rest)

    monkeypatch.setattr(own_method, "train_group", noted)
    settings = found.settings[mine.words]
    again = own_method.compare(two_seeds, mine, settings, tmp_path, progress=False)
    names = sorted((policy.setting.spec.method, policy.seed) for policy in trained)
    # the researcher's and the references it starts from; of the others one each, for its seconds
    assert names == sorted(
        [("own", 0), ("own", 1), ("reference", 0), ("reference", 1)]
        + [(m, 0) for m in ("best_of_k", "dro", "kto", "qrpo", "rpo", "rpo", "sft")]
    )
    assert again.stored == 7 and again.other_code == 0  # seed 1
    assert "7 policies of the kit's methods were trained before: their" in own_page.rows_note(again)
    np.testing.assert_array_equal(again.reward["KTO"], found.reward["KTO"])
    np.testing.assert_allclose(again.log_ratio["KTO"], found.log_ratio["KTO"], atol=1e-8)
    assert set(again.seconds) == set(found.settings)
    assert all(np.isfinite(seconds).all() and seconds for seconds in again.seconds.values())


def test_rows_of_another_world_are_not_ours(made, two_seeds):
    found, _ = made
    setting = found.settings["KTO"][0]
    other = two_seeds.model_copy(update={"lab": two_seeds.lab.model_copy(update={"prompts": 17})})
    policies = [
        Policy(two_seeds, "stronger", 0, setting),
        Policy(other, "stronger", 0, setting),
        Policy(two_seeds, "stronger", 1, setting),
        Policy(two_seeds, "on_policy", 0, setting),
        Policy(two_seeds, "stronger", 0, Setting(setting.spec, 2.0, 1)),
        Policy(two_seeds, "stronger", 0, Setting(Spec("reference"), 1.0, 1)),
    ]
    assert len({policy.key for policy in policies}) == len(policies)


def test_a_loss_that_diverges_names_step_and_row(two_seeds, tmp_path):
    file = tmp_path / "my.py"
    file.write_text(
        "def loss(policy_logps, ref_logps, rewards):\n"
        "    here = (policy_logps - ref_logps).abs() < 0.01\n"
        "    return -policy_logps * rewards / here.float()\n",
        encoding="utf-8",
    )
    loss = own.read(f"{file}:loss")
    policy = Policy(two_seeds, "stronger", 0, own_method.settings_of(loss, two_seeds)[0])
    with pytest.raises(ValueError, match=r"step \d+: .*training row \d+ is not finite"):
        own_method.train_group([policy], loss, tmp_path)


# Settings -----------------------------------------------------------------------------------------


def settings(tmp_path: Path, more: str, profile, *given) -> list[tuple[float, float]]:
    file = tmp_path / "my.py"
    file.write_text(BY_HAND + more, encoding="utf-8")
    found = own_method.settings_of(own.read(f"{file}:v_free"), profile, *given)
    rate = profile.training.learning_rate
    assert {one.epochs for one in found} == {1}
    return [(one.spec.tau, round(one.rate * rate, 9)) for one in found]


def test_what_is_tried_comes_from_the_command_the_function_its_file_or_the_lab(tmp_path):
    profile = loading.load_profile("pocket")
    module = "\nTEMPERATURES = [1, 2]\nLEARNING_RATES = [1e-3]\n"
    function = module + "v_free.temperatures = (3.0,)\n"
    rate = profile.training.learning_rate
    assert settings(tmp_path, "", profile) == [(tau, rate) for tau in profile.lab.taus]
    assert settings(tmp_path, module, profile) == [(1.0, 1e-3), (2.0, 1e-3)]
    assert settings(tmp_path, function, profile) == [(3.0, 1e-3)]
    assert settings(tmp_path, function, profile, (4.0,), (1e-4, 2e-4)) == [
        (4.0, 1e-4),
        (4.0, 2e-4),
    ]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("TEMPERATURES = [0.1, -1]", "my.py:v_free: temperatures is -1; it must be a finite"),
        ("LEARNING_RATES = ['fast']", "my.py:v_free: learning_rates is 'fast'"),
        ("TEMPERATURES = 3", "temperatures is 3; give a list of numbers"),
        ("TEMPERATURES = range(1, 11)", "has 10 settings; try at most 9, since every other method"),
    ],
)
def test_a_wrong_list_is_told(more, words, tmp_path):
    with pytest.raises(ValueError, match=re.escape(words)):
        settings(tmp_path, more + "\n", loading.load_profile("pocket"))


def test_a_loss_without_temperature_has_none_to_try(mine):
    profile = loading.load_profile("pocket")
    plain = replace(mine, name="plain")
    (only,) = own_method.settings_of(plain, profile)
    assert only.words == "plain, rate × 1, epochs × 1"
    with pytest.raises(ValueError, match="takes no temperature, but 2 are to be tried"):
        own_method.settings_of(plain, profile, (0.1, 1.0))


@pytest.mark.parametrize("name", ["pocket", "smoke", "lab-overnight"])
def test_every_method_has_as_many_settings_and_the_recommended_one_first(name):
    profile = loading.load_profile(name)
    for count in range(1, own_method.MOST_SETTINGS + 1):
        found = own_method.rivals(profile, count)
        assert {len(set(one)) for one in found.values()} == {count}
    first = {
        name: one[0] for name, one in own_method.rivals(loading.load_profile("pocket"), 1).items()
    }
    fixed = lab.presets()["fixed"]
    assert first["DRO"].spec.tau == fixed.dro_tau and first["KTO"].spec.tau == fixed.kto_beta
    assert {one[1:] for one in first.values()} == {(1.0, 1)}
    assert len(first) == 7


def test_each_regime_takes_what_is_best_on_the_tuning_seed_alone(mine, monkeypatch, tmp_path):
    profile = loading.load_profile("pocket", **{"lab.regimes": ["stronger", "on_policy"]})
    best = {"stronger": 0.3, "on_policy": 1.0}

    def rows(policies, *_, **__):
        found = {}
        for one in policies:
            seed7 = one.seed == 7
            right = one.setting.spec.tau == best[one.regime]
            # on other seeds the setting that is taken looks worst
            mean = 5.0 + (right if seed7 else -right)
            found[one] = Told(np.full(200, mean), np.zeros(200), "", True)
        return found

    monkeypatch.setattr(own_method, "rows_of", rows)
    monkeypatch.setattr(own_method, "step_seconds", lambda *_: 0.1)
    wanted = own_method.settings_of(mine, profile)
    found = own_method.compare(profile, mine, wanted, tmp_path)
    for name in (mine.words, "DRO", "RPO V̂ = 0"):
        assert {r: found.chosen[name, r].spec.tau for r in best} == best
        assert (found.reward[name] == 4.0).all()
    tried = own_tables.tuning(found)
    taus = len(profile.lab.taus)
    assert len(tried) == taus * 8 and tried.groupby("method")["chosen"].agg(len).eq(taus).all()


def test_other_data_and_the_tuning_seed_are_refused(mine, tmp_path):
    profile = loading.load_profile("smoke", sizes="small")
    wanted = own_method.settings_of(mine, profile)
    other = profile.model_copy(
        update={"data": profile.data.model_copy(update={"source": "mine.jsonl"})}
    )
    with pytest.raises(ValueError, match="only the pocket world's checker knows; leave --feedback"):
        own_method.compare(other, mine, wanted, tmp_path)
    seven = loading.load_profile("smoke", sizes="small", **{"lab.seeds": [6, 7]})
    with pytest.raises(ValueError, match="seed 7 chooses the settings; report others: lab.seeds"):
        own_method.compare(seven, mine, wanted, tmp_path)


# Tables and the page ------------------------------------------------------------------------------


def test_the_probability_of_improvement_is_mann_whitneys_u():
    g = np.random.default_rng(0)
    first = g.normal(0.3, 1, (4, 5, 1)).round(1)  # with ties
    second = g.normal(0, 1, (4, 5, 1)).round(1)
    u = [
        stats.mannwhitneyu(a[:, 0], b[:, 0]).statistic / 25
        for a, b in zip(first, second, strict=True)
    ]
    value, low, high = own_tables.improvement(first, second)[:3]
    assert value == pytest.approx(np.mean(u)) and low < value < high
    assert own_tables.improvement(second, first).value == pytest.approx(1 - value)
    assert own_tables.improvement(first, first).value == 0.5
    one = own_tables.improvement(first[:, :1], second[:, :1])
    assert np.isnan(one.low) and np.isnan(one.high)


def test_seeds_share_the_prompts_that_both_asked():
    g = np.random.default_rng(2)
    values = g.normal(size=(3, 50))
    apart = [[f"{seed} {i}" for i in range(50)] for seed in range(3)]
    found = own_tables.estimate(values, apart)
    means = intervals.over_seeds(values.mean(1), prompts=values.std(1, ddof=1) / np.sqrt(50))
    assert found[:3] == pytest.approx(means[:3]) and found.value == pytest.approx(values.mean())
    together = [[f"{i}" for i in range(50)]] * 3
    wanted = intervals.seeds_and_prompts(values)
    assert own_tables.estimate(values, together)[:3] == pytest.approx(wanted[:3])


def test_the_table_is_the_rows_summed_up(made, mine):
    found, _ = made
    table = own_tables.standing(found).set_index(["method", "regime"])
    rewards = found.reward
    for method in ("SFT", mine.words):
        row = table.loc[(method, "all")]
        gain = (rewards[method] - rewards["reference"]).mean()
        assert row["gain"] == pytest.approx(gain)
        assert row["lead"] == pytest.approx((rewards[mine.words] - rewards[method]).mean())
        assert row["kl"] == pytest.approx(found.log_ratio[method].mean())
        assert row["gain_low"] < gain < row["gain_high"]
    assert table.loc[("reference", "all"), "gain"] == 0
    assert np.isnan(table.loc[(mine.words, "all"), "improvement"])


def test_the_page_is_the_same_bytes_and_names_no_place(made, mine, two_seeds, tmp_path):
    found, _ = made
    pages = [own_page.write(found, two_seeds, tmp_path / name) for name in ("a", "b")]
    files = [
        {f.relative_to(page.parent): f.read_bytes() for f in page.parent.rglob("*") if f.is_file()}
        for page in pages
    ]
    assert files[0] == files[1]
    text = pages[0].read_text(encoding="utf-8")
    assert str(Path(mine.path).parent) not in text and str(tmp_path) not in text
    assert "def v_free(policy_logps" in text
    (same,) = re.findall(r"<li>The same reward for every prompt as (.*?)\.</li>", text)
    assert "RPO V̂ = 0" in same.split(", ")
    # seconds are beside the page
    slower = replace(found, seconds={name: [9.0] for name in found.seconds})
    assert own_page.write(slower, two_seeds, tmp_path / "a").read_text(encoding="utf-8") == text
    table = pd.read_csv(pages[0].parent / "tables" / "standing.csv")
    assert set(table["method"]) == {*found.settings, "reference"}
    assert own_page.told(slower)[-1].startswith("a step took 9 s here, SFT's 9 s; ")


def test_a_source_is_text_on_the_page(made, two_seeds, tmp_path):
    found, _ = made
    evil = replace(found, own=replace(found.own, source="# <script>alert(1)</script>\n"))
    text = own_page.write(evil, two_seeds, tmp_path).read_text(encoding="utf-8")
    assert "<script>" not in text and "&lt;script&gt;" in text


# As the README has it -----------------------------------------------------------------------------


def test_the_readmes_example_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Your own objective")[1]
    source, typed = (
        re.search(p, section, re.S)[1] for p in (r"```python\n(.*?)```", r"```\n(\.venv.*?)```")
    )
    assert len(source.strip().splitlines()) == 8
    (tmp_path / "reward_weighted.py").write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RPO_NB_PROFILE", "smoke")
    words = typed.split()
    assert words[:4] == [".venv/bin/python", "-m", "rpo_nb", "lab"]
    out = ["--output-dir", "out", "--set", "sizes=small data.prompts=8 lab.prompts=4"]
    assert command.main([*words[3:], *out]) == 0
    printed = capsys.readouterr().out
    assert "reward_weighted.py:reward_weighted changes the mean reward" in printed
    tried = pd.read_csv("out/lab/reward_weighted-reward_weighted/tables/tuning.csv")
    assert tried["method"].value_counts().eq(3).all() and tried["method"].nunique() == 8
    assert pd.api.types.is_numeric_dtype(tried["stronger"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "none.py:loss"], "there is no file none.py"),
        (["--method", "none.py"], "names no function; give FILE.py:FUNCTION"),
    ],
)
def test_the_command_tells_what_is_wrong_in_one_sentence(arguments, words, capsys):
    assert command.main(["lab", "--profile", "smoke", *arguments]) == 2
    told = capsys.readouterr().err
    assert words in told and len(told.strip().splitlines()) == 1


def test_its_own_kind_of_policy_has_a_name(mine):
    assert OwnSpec("own", 0.3, own=mine).words == "v_free τ 0.3"
