"""The audit: its numbers beside statsmodels and closed forms, and how often it errs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from rpo_nb.judging import audit
from rpo_nb.judging.gold import COLUMNS, pocket_gold
from rpo_nb.judging.judges import Checker
from rpo_nb.judging.planted import Planted, self_test
from rpo_nb.pocket import checker
from tests.judging.pairs import Scripted


def toy_gold(n: int, *, seed: int = 0) -> pd.DataFrame:
    """Gold pairs of random lengths and sides, two sets."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "id": str(i),
            "set": "easy" if rng.random() < 0.4 else "hard",
            "prompt": f"prompt {i}",
            "paraphrase": f"prompt {i}, please",
            "output_a": f"{i} a" + "x" * rng.integers(1, 90),
            "output_b": f"{i} b" + "y" * rng.integers(1, 90),
            "better": "ab"[rng.integers(2)],
        }
        for i in range(n)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


@pytest.fixture(scope="module")
def gold():
    return toy_gold(300)


def checked(judge, gold):
    return audit.checks(audit.ask_gold(judge, gold)).set_index("check")


# ---- the numbers ---------------------------------------------------------------------------------


def test_the_mean_and_its_interval_are_students_but_for_one_pair_at_either_bound():
    points = np.random.default_rng(0).choice([0.0, 0.5, 1.0], 300, p=[0.2, 0.3, 0.5])
    found, theirs = audit.mean_of(points, (0.0, 1.0)), DescrStatsW(points)
    assert found.value == pytest.approx(theirs.mean)
    assert (found.low, found.high) == pytest.approx(theirs.tconfint_mean(), abs=6e-4)
    assert found.high - found.low > np.diff(theirs.tconfint_mean())[0]
    same = audit.mean_of(np.ones(300), (0.0, 1.0))
    assert same.low == pytest.approx(1 - stats.t.ppf(0.975, 299) / np.sqrt(300 * 299))


def test_the_preference_for_the_longer_is_a_regression_with_an_intercept_a_set():
    rng = np.random.default_rng(1)
    longer, sets = rng.random(400) < 0.3, rng.choice(["a", "b", "c"], 400)
    points = (rng.random(400) < 0.55 + 0.2 * longer + 0.1 * (sets == "b")).astype(float)
    design = np.column_stack([longer, *(sets == name for name in "abc")]).astype(float)
    fitted = sm.OLS(points, design).fit(cov_type="HC2")
    found = audit.length_preference(points, longer, sets)
    assert found.value == pytest.approx(0.5 + fitted.params[0] / 2)
    assert found.error == pytest.approx(fitted.bse[0] / 2, rel=0.05)


def test_one_set_is_welchs_test():
    rng = np.random.default_rng(2)
    one, other = rng.choice([0.0, 0.5, 1.0], 150), rng.choice([0.0, 1.0], 90)
    points, longer = np.concatenate([one, other]), np.repeat([True, False], [150, 90])
    found = audit.length_preference(points, longer, np.full(240, "all"))
    theirs = stats.ttest_ind(one, other, equal_var=False)
    assert (found.value - 0.5) / found.error == pytest.approx(theirs.statistic, rel=0.02)
    assert found.df == pytest.approx(theirs.df, rel=0.02)


def test_changes_have_clopper_and_pearsons_interval_and_the_five_p_are_holms(gold):
    asked = audit.ask_gold(Planted(gold, "coin", strength=0.4), gold)
    table = audit.checks(asked).set_index("check")
    changed = int(asked["first_order"].ne(asked["again"]).sum())
    assert table.loc["repeats", ["low", "high"]].tolist() == pytest.approx(
        proportion_confint(changed, 300, method="beta")
    )
    points = audit.right(asked).to_numpy()
    raw = [
        audit.p_value(found.value, found.error, found.df, 0.5)
        for found in (
            audit.mean_of(points, (0.0, 1.0)),
            audit.mean_of(
                asked["first_order"].eq("a") / 2 + asked["second_order"].eq("b") / 2, (0.0, 1.0)
            ),
            audit.length_preference(
                points, asked["longer"].eq(asked["better"]).to_numpy(), asked["set"].to_numpy()
            ),
        )
    ]
    raw.append(stats.binomtest(changed, 300, 0.05, alternative="greater").pvalue)
    excess = asked["first_order"].ne(asked["paraphrase"]) * 1.0 - (
        asked["first_order"].ne(asked["again"])
    )
    more = audit.mean_of(excess.to_numpy(), (-1.0, 1.0))
    raw.append(stats.t.sf((more.value - 0.05) / more.error, more.df))
    expected = multipletests(np.array(raw, float), method="holm")[1]
    assert table["p"].tolist() == pytest.approx(expected.tolist())


def test_the_smallest_share_is_found_in_four_samples_of_five():
    for n in (60, 419):
        share = audit.smallest_share(n, 0.05, 0.01)
        counts = np.arange(n + 1)
        refused = stats.binom.sf(counts - 1, n, 0.05) <= 0.01
        assert stats.binom.pmf(counts, n, share)[refused].sum() == pytest.approx(0.8)
    assert np.isnan(audit.smallest_share(1, 0.05, 0.01))


# ---- what is asked -------------------------------------------------------------------------------


def test_choices_are_of_the_completion_whatever_its_place(gold):
    asked = audit.ask_gold(Scripted(lambda p, one, two: "first" if one > two else "second"), gold)
    expected = np.where(gold["output_a"] > gold["output_b"], "a", "b").tolist()
    for column in audit.CHOICES:
        assert asked[column].tolist() == expected
    first = audit.ask_gold(Scripted(lambda *_: "first"), gold)
    assert set(first["first_order"]) == {"a"} and set(first["second_order"]) == {"b"}


def test_gold_of_another_index_is_the_same_gold(gold):
    judge = Planted(gold, "longer")
    expected = audit.ask_gold(judge, gold)
    for index in (range(7, 307), [f"row {i}" for i in range(300)], np.arange(300)[::-1]):
        found = audit.ask_gold(judge, gold.set_axis(index))
        pd.testing.assert_frame_equal(found, expected)


def test_only_pairs_of_sets_that_compare_are_counted_for_length(gold):
    """A set whose longer completions are all the better ones compares nothing."""
    alike = toy_gold(50, seed=4)
    longer = alike["output_a"].str.len() > alike["output_b"].str.len()
    same = alike["output_a"].str.len() == alike["output_b"].str.len()
    alike = alike.assign(set="alike", better=np.where(longer, "a", "b"))[~same]
    judge = Planted(pd.concat([gold, alike]), "fair")
    few, more = checked(judge, gold), checked(judge, pd.concat([gold, alike]))
    assert more.loc["accuracy", "n"] == 300 + len(alike)
    assert more.loc["length"].drop("p").equals(few.loc["length"].drop("p"))
    assert few.loc["length", "n"] <= 300
    none = checked(judge, alike).loc["length"]
    assert none["n"] == 0 and np.isnan(none["value"]) and none["says"] == "too few pairs to tell"


def test_a_missing_choice_leaves_its_pair_out_and_is_counted(gold):
    def answer(prompt, first, second):
        return None if prompt == "prompt 3" and first.startswith("3 b") else "first"

    asked = audit.ask_gold(Scripted(answer), gold)
    assert audit.unanswered(asked) == 1
    assert audit.checks(asked).set_index("check").loc["accuracy", "n"] == 299
    none = audit.checks(audit.ask_gold(Scripted(lambda *_: None), gold))
    assert none["p"].isna().all() and not none["found"].any()
    assert set(none["says"]) == {"too few pairs to tell"}


def test_a_remark_is_said_once_with_the_sum_of_its_counts_and_of_all_questions():
    class Remarking(Scripted):
        def compare(self, prompts, first, second):
            self.long = sum(text.startswith("7 ") for text in first)
            self.asked = len(prompts)
            return super().compare(prompts, first, second)

        def remarks(self):
            said = [f"judge x: {self.long:,} of {self.asked:,} questions are long."]
            return ["as told", *said * bool(self.long)]

    asked = audit.ask_gold(Remarking(lambda *_: "first"), toy_gold(301))
    # twice in both orders, once in one half of the second time, once with the other prompt
    said = ["as told", "judge x: 4 of 1,204 questions are long."]
    assert asked.attrs["remarks"] == said


def test_pairs_without_a_set_have_a_line_of_their_own(gold):
    mixed = gold.assign(set=gold["set"].replace("easy", "all"))
    asked = audit.ask_gold(Scripted(lambda *_: "first"), mixed)
    sizes = audit.by_set(asked).set_index("set")["n"]
    easy = int(gold["set"].eq("easy").sum())
    assert sizes.to_dict() == {"hard": len(gold) - easy, "no set": easy, "all": len(gold)}


def test_the_checker_is_always_right_on_the_pockets_gold():
    pocket = pocket_gold(40)
    table = checked(Checker(checker.score), pocket)
    assert table.loc["accuracy", "value"] == 1 and table.loc["accuracy", "found"]
    assert table["value"].drop("accuracy").tolist() == [0.5, 0.5, 0, 0]
    assert not table["found"].drop("accuracy").any()
    sets = audit.by_set(audit.ask_gold(Checker(checker.score), pocket))
    assert sets[["set", "accuracy", "n"]].values.tolist() == [["all", 1.0, 40]]


def test_an_exact_tie_of_a_judge_by_scores_is_no_preference_for_what_is_shown_first(gold):
    halves = gold["id"].astype(int) % 2 == 0
    even = set(gold.loc[halves, "output_a"]) | set(gold.loc[halves, "output_b"])
    better = {row.output_a if row.better == "a" else row.output_b for row in gold.itertuples()}
    judge = Checker(lambda prompt, text: 0.0 if text in even else float(text in better))
    asked = audit.ask_gold(judge, gold)
    table = audit.checks(asked).set_index("check")
    assert asked["tie"].sum() == halves.sum() > 100
    assert table.loc["position", "value"] == 0.5 and not table.loc["position", "found"]
    assert table.loc["accuracy", "value"] == 1 - halves.mean() / 2
    count = f"the same score in {halves.sum()} of {len(gold)} pairs"
    assert any(count in remark for remark in asked.attrs["remarks"])
    always = audit.ask_gold(Scripted(lambda *_: "first"), gold)  # it has seen the order
    assert not always["tie"].any()
    assert audit.checks(always).set_index("check").loc["position", "value"] == 1


# ---- how often it errs ---------------------------------------------------------------------------


def test_planted_biases_are_found_and_fair_noisy_judges_are_not(gold):
    table = self_test(gold).set_index("bias")
    assert table["passed"].all()
    assert (table.loc[["longer", "first", "coin"], "found"] >= 8).all()
    turned = checked(Planted(gold, "longer", strength=0.5), gold)
    assert turned.loc["length", "value"] > 0.5 and "longer" in turned.loc["length", "says"]


@pytest.mark.parametrize("bias", ["fair", "first"])
def test_equal_texts_under_other_prompts_are_other_pairs(bias):
    """ "yes" and "no" to every prompt: a judge knows which is better of each, and errs on some."""
    alike = toy_gold(300, seed=2).assign(output_a="yes", output_b="no")
    asked = audit.ask_gold(Planted(alike, bias), alike)
    sure = asked["first_order"].eq(asked["second_order"])  # the order decided none of these
    assert sure.mean() == (1 if bias == "fair" else pytest.approx(0.7 + 0.3 * 0.5, abs=0.15))
    assert audit.right(asked).mean() == pytest.approx(0.8 if bias == "fair" else 0.71, abs=0.07)
    assert asked["first_order"].eq(asked["paraphrase"]).all()


def test_where_no_bias_could_be_shown_the_smallest_is_none_and_the_check_does_not_tell():
    """Always the first shown is the strongest leaning that there is; three pairs cannot show it."""
    few = checked(Scripted(lambda *_: "first"), toy_gold(3))
    assert few.loc["position", "value"] == 1 and not few["found"].any()
    told = few.loc[["accuracy", "position", "paraphrase"]]
    assert told["smallest"].isna().all() and set(told["says"]) == {"too few pairs to tell"}
    for n in (2, 5, 10, 20, 40):
        table = checked(Scripted(lambda *_: "first"), toy_gold(n))
        assert (table["null"] + table["smallest"]).dropna().le(1).all()
    assert table.loc["position", "found"] and table["smallest"].notna().all()


def test_the_false_alarm_rate_is_what_it_says():
    """100 fair noisy judges, each with gold of its own: any bias named in 5 %, so in at most 11 of
    100 (99 % of the binomial)."""
    alarms = 0
    for seed in range(100):
        gold = toy_gold(120, seed=seed)
        judge = Planted(gold, "fair", accuracy=0.7, seed=seed)
        alarms += bool(checked(judge, gold)["found"].drop("accuracy").any())
    assert alarms <= stats.binom.ppf(0.99, 100, 0.05)


def test_a_judge_that_flips_is_not_taken_for_one_that_leans():
    """40 judges that throw a coin in half of the questions: position or length is named in 5 % at
    most, so in at most 5 of 40 (99 % of the binomial)."""
    gold, leaning, flipping = toy_gold(150, seed=11), 0, 0
    for seed in range(40):
        found = checked(Planted(gold, "coin", strength=0.5, seed=seed), gold)["found"]
        leaning += bool(found["position"] or found["length"])
        flipping += bool(found["repeats"])
    assert leaning <= stats.binom.ppf(0.99, 40, 0.05) and flipping == 40


def test_the_smallest_position_bias_is_found_about_as_often_as_it_says():
    """A judge that follows the order on twice the smallest bias of the questions: 80 % of draws,
    here between 60 % and 97 %."""
    gold = toy_gold(300, seed=7)
    smallest = checked(Planted(gold, "fair"), gold).loc["position", "smallest"]
    found = 0
    for seed in range(40):
        judge = Planted(gold, "first", strength=2 * smallest, seed=seed)
        found += bool(checked(judge, gold).loc["position", "found"])
    assert 24 <= found <= 39


def test_intervals_of_accuracy_cover_it():
    """Of 200 judges that are right in 80 % of the pairs, the interval holds 80 % in 95 %."""
    rng, hits = np.random.default_rng(5), 0
    for _ in range(200):
        found = audit.mean_of((rng.random(150) < 0.8).astype(float), (0.0, 1.0))
        hits += found.low <= 0.8 <= found.high
    assert 180 <= hits <= 199
