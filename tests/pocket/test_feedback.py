"""Feedback in UltraFeedback's schema, and a rater who is too kind."""

import pytest

from rpo_nb import pocket
from rpo_nb.data import feedback


@pytest.mark.parametrize("k", [2, 4, 8])
def test_feedback_has_ultrafeedbacks_schema_and_the_reader_takes_it(k):
    rows = pocket.make_feedback(20, completions_per_prompt=k, seed=0)
    assert {len(r["completions"]) for r in rows} == {k}
    assert set(rows[0]["completions"][0]["annotations"]) == set(pocket.ASPECTS)
    read, report = feedback.load_feedback(rows, return_report=True)
    assert read.num_rows + sum(r["action"] == "dropped" for r in report) == 20 * k
    for row in read:
        assert row["reward"] == pocket.score(row["prompt"], row["completion"])


def test_feedback_is_seeded_and_the_rater_offset_shifts_whole_prompts():
    plain, same, other = (pocket.make_feedback(30, seed=s) for s in (0, 0, 1))
    assert plain == same != other
    shifted = pocket.make_feedback(30, seed=0, rater_offset=1.0)
    gaps = []
    for a, b in zip(plain, shifted, strict=True):
        inside = [
            (x["overall_score"], y["overall_score"])
            for x, y in zip(a["completions"], b["completions"], strict=True)
        ]
        assert [c["response"] for c in a["completions"]] == [
            c["response"] for c in b["completions"]
        ]
        gaps.append({round(y - x, 9) for x, y in inside if 1 < y < 10})
    assert all(len(g) <= 1 for g in gaps) and len({next(iter(g)) for g in gaps if g}) > 20


@pytest.mark.parametrize("rater_offset", [1.0, 3.0, 10.0])
def test_a_kind_raters_tens_are_not_taken_for_ultrafeedbacks_fault(rater_offset):
    """Its repair makes 1 of a 10 whose fine-grained ratings are low; a rater who is kind is kind
    in all of them."""
    rows = pocket.make_feedback(300, seed=0, rater_offset=rater_offset)
    read, report = feedback.load_feedback(rows, return_report=True)
    tens = [
        (pocket.score(row["prompt"], row["completion"]), row["reward"])
        for row in read
        if row["reward"] == 10
    ]
    assert sum(true < 10 for true, _ in tens) > 20  # a ten by kindness alone
    assert [row for row in report if "overall_score" in row["reason"]] == []
    # and the fault itself is still found: the same tens with the ratings of no offset
    bare = pocket.make_feedback(300, seed=0)
    for kind, plain in zip(rows, bare, strict=True):
        for one, other in zip(kind["completions"], plain["completions"], strict=True):
            one["annotations"] = other["annotations"]
    if rater_offset == 10:
        _, report = feedback.load_feedback(rows, return_report=True)
        assert any(row["action"] == "repaired" for row in report)


def test_on_policy_feedback_is_what_the_sampler_gives():
    def sample(prompts, k):
        return [[f"{i} {j}" for j in range(k)] for i, _ in enumerate(prompts)]

    rows = pocket.make_feedback(3, completions_per_prompt=2, sample=sample)
    assert [[c["response"] for c in r["completions"]] for r in rows] == [
        ["0 0", "0 1"],
        ["1 0", "1 1"],
        ["2 0", "2 1"],
    ]
    with pytest.raises(ValueError, match="completions_per_prompt is 9"):
        pocket.make_feedback(1, completions_per_prompt=9)
