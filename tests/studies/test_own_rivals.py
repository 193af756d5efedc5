"""Several losses of one's own: what they ask for is the kit's, and they stand in one table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rpo_nb import __main__ as command
from rpo_nb import store
from rpo_nb.config import loading
from rpo_nb.reporting import contents
from rpo_nb.studies import own_method, own_tables
from rpo_nb.studies.lab import REFERENCE
from rpo_nb.studies.own_method import Policy, Setting, Told
from rpo_nb.training import own

ROOT = Path(__file__).parent.parent.parent
FIVE = ("a_star", "dro_fixed", "reward_weighted", "qrpo_per_token", "kto_balanced")
TWINS = """
from rpo_nb import objectives

def kto(policy_logps, ref_logps, desirable, kl, temperature):
    return objectives.kto(policy_logps, ref_logps, desirable, kl, beta=temperature)

def heard(policy_logps, desirable, kl):
    assert kl >= 0
    return -policy_logps * (desirable + kl * ~desirable)

def deaf(policy_logps, desirable, kl):
    return -policy_logps * (desirable + 0 * kl * ~desirable)

def qrpo(policy_logps, ref_logps, rewards, ref_rewards, temperature):
    return objectives.qrpo(policy_logps, ref_logps, rewards, ref_rewards, beta=temperature)
"""


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """(profile, folder, comparison by name): the kit's KTO and QRPO as a user's losses, one after
    the other."""
    file = tmp_path_factory.mktemp("own") / "twins.py"
    file.write_text(TWINS, encoding="utf-8")
    profile = loading.load_profile("smoke", sizes="small", **{"lab.prompts": 8})
    out, found = tmp_path_factory.mktemp("out"), {}
    for name in ("kto", "qrpo"):
        mine = own.read(f"{file}:{name}")
        settings = own_method.settings_of(mine, profile, (0.3,))
        found[name] = own_method.compare(profile, mine, settings, out, progress=False)
    return profile, out, found


@pytest.mark.parametrize("name", ["kto", "qrpo"])
def test_the_kits_loss_with_what_it_asks_for_makes_the_kits_policy(name, compared):
    profile, out, found = compared
    c, kits = found[name], name.upper()
    np.testing.assert_array_equal(c.log_ratio[c.own.words], c.log_ratio[kits])
    np.testing.assert_array_equal(c.reward[c.own.words], c.reward[kits])
    assert not np.array_equal(c.log_ratio[kits], c.log_ratio["DRO"])
    folders = []
    with own.named(c.own):
        for method in (c.own.words, kits):
            policy = Policy(profile, "stronger", 0, c.settings[method][0])
            folders.append(policy.study.run(policy.setting.spec).folder(out))
    a, b = ((folder / "policy" / "model.safetensors").read_bytes() for folder in folders)
    assert folders[0] != folders[1] and a == b


def test_a_loss_is_given_the_trainers_z0(compared):
    """Imitation of what is desirable lifts other prompts' completions too: z0 is above 0 then."""
    profile, out, found = compared
    told = []
    for name in ("heard", "deaf"):
        mine = replace(found["kto"].own, name=name)
        (setting,) = own_method.settings_of(mine, profile)
        policy = Policy(profile, "stronger", 0, setting)
        with own.named(mine):
            (one,) = own_method.rows_of([policy], mine, out, workers=1, progress=False).values()
        told.append(one.log_ratio)
    assert np.isfinite(told).all() and not np.array_equal(*told)


def test_the_kits_methods_are_not_trained_again_for_the_second_loss(compared):
    _, _, found = compared
    first, second = found["kto"], found["qrpo"]
    for method in {*first.reward} - {first.own.words}:
        np.testing.assert_array_equal(first.log_ratio[method], second.log_ratio[method])
        assert first.seconds.get(method) == second.seconds.get(method)


def test_rows_of_earlier_code_choose_and_report_and_stay(compared, tmp_path, monkeypatch):
    """The settings are chosen on rows that are then still there to be reported."""
    profile, _, found = compared
    lab = profile.lab.model_copy(update={"seeds": (0, 1), "prompts": 4})
    profile, mine = profile.model_copy(update={"lab": lab}), found["kto"].own
    settings = own_method.settings_of(mine, profile, (0.3, 1.0))
    kits = own_method.rivals(profile, 2)
    with own.named(mine):
        keys = {
            Policy(profile, "stronger", seed, setting).key
            for seed in (*lab.tuning_seeds, *lab.seeds)
            for tried in (*kits.values(), [Setting(REFERENCE, 1.0, 1)])
            for setting in tried
        }
    before = [
        {"key": key, "code": "earlier", "reward": [5.0] * 4, "log_ratio": [0.5] * 4}
        for key in (*sorted(keys), "of other settings")
    ]
    file = tmp_path / own_method.ROWS_FILE
    store.atomic_write(file, store.packed(pd.DataFrame(before)))
    trained, make = [], own_method.train_group

    def noted(group, *rest):
        trained.extend(policy for policy in group if policy.setting.spec.method != own.NAME)
        return make(group, *rest)

    monkeypatch.setattr(own_method, "train_group", noted)
    c = own_method.compare(profile, mine, settings, tmp_path, progress=False)
    # one of each for its seconds, and the references that the loss starts from
    asked = [policy for policy in trained if policy.setting.spec == REFERENCE]
    assert [policy.seed for policy in asked] == [0, 1] and len(trained) == len(kits) + 2
    assert {policy.seed for policy in trained if policy not in asked} == {0}
    np.testing.assert_array_equal(c.log_ratio["reference"], 0)
    # seed 7 with two settings each; seed 1
    assert c.other_code == c.stored == 2 * len(kits) + len(kits)
    np.testing.assert_array_equal(c.reward["KTO"][0, 1], [5.0] * 4)
    after = {row["key"]: row["code"] for row in store.unpacked(file)}
    assert after.keys() == {row["key"] for row in before}
    assert list(after.values()).count("earlier") == len(before) - len(kits) - 2


def test_the_five_rivals_run_and_stand_in_one_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RPO_NB_PROFILE", "smoke")
    methods = [f"{ROOT / 'examples' / 'rivals.py'}:{name}" for name in FIVE]
    small = "sizes=small lab.prompts=4"  # of fewer training prompts the one step is warm-up
    arguments = ["lab", "--method", *methods, "--temperatures", "1", "--set", small]
    assert command.main([*arguments, "--output-dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("changes the mean reward of its reference by") == 5
    table = pd.read_csv(tmp_path / "tables" / "rivals.csv")
    every = table[table["regime"] == "all"]
    mine = [f"rivals.py:{name}" for name in FIVE]
    assert sorted(every["method"]) == sorted(
        [*mine, "reference", "SFT", "best-of-K SFT", "KTO", "DRO", "QRPO", "RPO eq. 19"]
        + ["RPO V̂ = 0"]
    )
    assert every["gain"].is_monotonic_decreasing and table["gain"].notna().all()
    assert every["over"].nunique() == 1
    assert (tmp_path / "tables" / "rivals.md").is_file()
    for name in FIVE:
        page = tmp_path / "lab" / f"rivals-{name}"
        standing = pd.read_csv(page / "tables" / "standing.csv").set_index(["regime", "method"])
        row = every.set_index("method").loc[f"rivals.py:{name}"]
        assert row["gain"] == standing.loc[("all", f"rivals.py:{name}"), "gain"]
        assert row["page"] == page.name and row["tried"] == 1
    # each is a policy of its own
    assert every.set_index("method").loc[mine, "kl"].nunique() == 5


def page(mine, gain, kto, settings, over="seeds 0, 1"):
    """A page's standing and tuning."""
    methods, ends = [mine, "KTO", "reference"], ("_low", "_high")
    rows = [
        {"regime": regime, "over": over, "method": method, "setting": "s", "gain": value, "kl": 1.0}
        | {f"{name}{end}": np.nan for name in ("gain", "kl") for end in ends}
        | {"lead": gain - value, "prompts": 4, "seeds": 2}
        for regime in ("stronger", "all")
        for method, value in zip(methods, (gain, kto, 0.0), strict=True)
    ]
    tried = pd.DataFrame({"method": sorted([mine, "KTO"] * settings)})
    return pd.DataFrame(rows), tried


def test_one_table_of_pages_has_a_method_once_unless_they_differ():
    pages = {
        "x-a": page("x.py:a", 1.0, 0.5, 3),
        "x-b": page("x.py:b", 2.0, 0.5, 3),
        "y-c": page("y.py:c", 0.2, 0.7, 1),
    }
    found = own_tables.together(pages)
    every = found[found["regime"] == "all"]
    assert len(found) == 2 * len(every) and (found["regime"].iloc[: len(every)] == "all").all()
    assert list(every["method"]) == ["x.py:b", "x.py:a", "KTO", "KTO", "y.py:c", "reference"]
    assert list(every["page"]) == ["x-b", "x-a", "y-c", "x-a", "y-c", "x-a"]
    assert list(every["tried"].fillna(0)) == [3, 3, 1, 3, 1, 0]
    assert "lead" not in found  # which is over one loss


def test_what_is_not_over_the_same_stands_in_a_ranking_of_its_own():
    old, tuning = page("y.py:old", 9.0, 0.5, 3)
    pages = {
        "x-a": page("x.py:a", 1.0, 0.5, 3),
        "x-b": page("x.py:b", 2.0, 0.7, 3, over="seed 0"),
        "x-c": page("x.py:c", 0.2, 0.5, 3),
        "y-old": (old.drop(columns="over"), tuning),  # of a version that did not say
    }
    found = own_tables.together(pages)
    every = found[found["regime"] == "all"]
    assert list(every["method"]) == [
        *("x.py:a", "KTO", "x.py:c", "reference"),
        *("x.py:b", "KTO", "reference"),
        *("y.py:old", "KTO", "reference"),
    ]
    assert list(every["over"].unique()) == ["seeds 0, 1", "seed 0", "as page y-old alone"]


def test_a_standing_says_what_it_is_over(compared, monkeypatch):
    profile, out, found = compared
    mine = found["kto"].own

    def rows(policies, *_, **__):
        return {one: Told(np.full(8, 5.0), np.zeros(8), "", True) for one in policies}

    monkeypatch.setattr(own_method, "rows_of", rows)

    def over(temperatures=(0.3,), **changed):
        one = loading.load_profile("smoke", **{"sizes": "small", "lab.prompts": 8} | changed)
        settings = own_method.settings_of(mine, one, temperatures)
        table = own_tables.standing(own_method.compare(one, mine, settings, out))
        return dict(zip(table["regime"], table["over"], strict=True))

    first = over()
    assert first["stronger"].startswith("seed 0; settings ")
    assert first["all"] == f"stronger; {first['stronger']}"
    # how a loss is tuned is its own affair, and in the column tried
    assert over((0.3, 1.0)) == first
    two = over(**{"lab.regimes": ["stronger", "on_policy"], "lab.seeds": [0, 1]})
    assert two["all"].startswith("stronger, on_policy; seeds 0, 1; settings ")
    settings = two["all"].split("; ")[-1]
    assert first["all"].endswith(settings)
    changes = [
        {"training.epochs": 2},
        {"data.prompts": 20},
        {"decoding.max_new_tokens": 20},
        {"lab.taus": [0.1, 1.0]},
        {"lab.tuning_seeds": [8]},
    ]
    others = [over(**changed)["all"] for changed in changes]
    assert len({first["all"], *others}) == 1 + len(changes)


def test_a_loss_that_cannot_be_tried_stops_all_before_anything_is_trained(tmp_path, capsys):
    good = f"{ROOT / 'examples' / 'rivals.py'}:a_star"
    arguments = ["lab", "--profile", "smoke", "--output-dir", str(tmp_path / "out"), "--method"]
    assert command.main([*arguments, good, "none.py:loss"]) == 2
    assert "there is no file none.py" in capsys.readouterr().err
    assert command.main([*arguments, good, "--temperatures", "-1"]) == 2
    assert "temperatures is -1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_losses_of_one_folder_are_refused_before_anything_is_trained(tmp_path, capsys):
    """The second one's page would replace the first one's."""
    losses = [tmp_path / place / "my.py" for place in ("a", "b")]
    for file in losses:
        file.parent.mkdir()
        file.write_text(TWINS, encoding="utf-8")
    a, b = (f"{file}:qrpo" for file in losses)
    arguments = ["lab", "--profile", "smoke", "--output-dir", str(tmp_path / "out"), "--method"]
    assert command.main([*arguments, a, f"{losses[0]}:kto", b]) == 2
    said = capsys.readouterr().err
    assert f"{a} and {b} would both be written to lab/my-qrpo; rename one of the files" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["rivals", "losses", "losses_leads"])
def test_the_report_knows_the_table(name):
    assert contents.shown(name).about and not contents.shown("no_such_table").about


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("taus=0.1", "does not read taus; use --temperatures, or --set lab.taus for the kit's"),
        ("methods=rpo", "does not read methods; leave it out"),
        ("preset=paper", "does not read preset; leave it out"),
        ("presets.paper.rpo_tau=0.5", "does not read presets.paper.rpo_tau; leave it out"),
        ("seeds=0,1", "does not read seeds; use --set lab.seeds, which this profile has"),
        ("lab.tuning=3", "does not read lab.tuning; use --temperatures and --learning-rates"),
        ("lab.estimators=[none]", "does not read lab.estimators; leave it out"),
        ("lab.rows=100", "does not read lab.rows; leave it out"),
        ("paper_b.seeds=[0]", "does not read paper_b.seeds; leave it out"),
        ("evaluation.judge_epochs=2", "does not read evaluation.judge_epochs; leave it out"),
    ],
)
def test_a_setting_that_the_lab_does_not_read_is_refused(given, words, tmp_path, capsys):
    loss = f"{ROOT / 'examples' / 'rivals.py'}:a_star"
    arguments = ["lab", "--profile", "smoke", "--output-dir", str(tmp_path / "out")]
    assert command.main([*arguments, "--method", loss, "--set", given]) == 2
    assert f"lab --method {words}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
