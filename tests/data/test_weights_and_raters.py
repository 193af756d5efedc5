"""Several rewards, raters, weights."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from rpo_nb.config.schema import DataConfig
from rpo_nb.data import kinds, reading
from rpo_nb.data.raters import ratings, strictness
from rpo_nb.data.splits import split_feedback, standardise
from rpo_nb.data.summary import aspect_table
from tests.data.shaped import BAD, GOOD, Q, load, rewards, told

SHARED = next(
    (
        folder / "shared" / "data"
        for folder in Path(__file__).resolve().parents[3:5]
        if (folder / "shared" / "data").is_dir()
    ),
    Path("nowhere"),
)


# ---- several rewards, raters, weights ------------------------------------------------------------

ASPECTS = [
    {"prompt": Q, "response": GOOD, "helpfulness": 4, "verbosity": 1},
    {"prompt": Q, "response": BAD, "helpfulness": "1", "verbosity": None},
]


def test_one_of_several_rewards_or_their_weighted_sum():
    with pytest.raises(
        ValueError,
        match="several columns could be the reward.*helpfulness, "
        "verbosity.*data.reward=helpfulness",
    ):
        load(ASPECTS)
    feedback, _ = load(ASPECTS, reward="Helpfulness")
    assert rewards(feedback) == {GOOD: 4, BAD: 1} and kinds.aspects(feedback) == [
        "helpfulness",
        "verbosity",
    ]
    assert aspect_table(feedback)["completions"].tolist() == [2, 1]
    summed, report = load(ASPECTS, reward={"helpfulness": 0.65, "verbosity": -0.4})
    assert rewards(summed) == {GOOD: pytest.approx(2.2)} and told(report) == {"score is missing": 1}
    assert DataConfig(reward={"helpfulness:0.65": None, "verbosity:-0.4": None}).reward_parts() == {
        "helpfulness": 0.65,
        "verbosity": -0.4,
    }
    with pytest.raises(ValueError, match="data.reward names helpfulnes,"):
        load(ASPECTS, reward="helpfulnes")


def test_ultrafeedbacks_aspects():
    rows = [
        {
            "instruction": Q,
            "completions": [
                {
                    "response": text,
                    "overall_score": 5,
                    "annotations": {a: {"Rating": str(s)} for a in ("helpfulness", "honesty")},
                }
                for text, s in ((GOOD, 5), (BAD, 2))
            ],
        }
    ]
    assert (
        rewards(load(rows)[0]) == {GOOD: 5, BAD: 5} and load(rows)[0].features == reading.FEATURES
    )
    feedback, _ = load(rows, reward="honesty")
    assert rewards(feedback) == {GOOD: 5, BAD: 2} and kinds.aspects(feedback) == [
        "helpfulness",
        "honesty",
    ]


def rated(strict=2.0, n=30):
    """Two raters of the same n texts, the second `strict` lower, and each one more text of the same
    worth."""
    worth = np.random.default_rng(0).normal(0, 1, n)
    rows = [
        {"prompt": Q, "completion": f"c{i}", "score": float(w - shift), "rater": rater}
        for i, w in enumerate(worth)
        for rater, shift in (("Ann", 0.0), ("Bob", strict))
    ]
    return [
        *rows,
        {"prompt": Q, "completion": "by Ann", "score": 0.0, "rater": "Ann"},
        {"prompt": Q, "completion": "by Bob", "score": -strict, "rater": "Bob"},
    ]


def test_strictness_is_taken_out_and_no_rating_is_lost():
    feedback, report = load(rated())
    assert rewards(feedback)["by Ann"] == pytest.approx(rewards(feedback)["by Bob"], abs=1e-9)
    assert told(report, "kept")["rater's own mean and spread were taken out"] == 2 and not told(
        report
    )
    assert len(ratings(feedback)) == 62 and feedback["rater"][0] == "Ann; Bob"
    plain, _ = load(rated(), level_raters=False)
    assert rewards(plain)["by Ann"] - rewards(plain)["by Bob"] == pytest.approx(2.0)
    table = strictness(feedback).set_index("rater")
    assert table.loc["Bob", "difference"] == pytest.approx(-2) and table.loc[
        "Ann", "agreement"
    ] == pytest.approx(1)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_four_raters_of_translations_lose_no_rating():
    feedback, report = load(SHARED / "mqm_ted_ende.jsonl.gz")
    given = ratings(feedback)
    assert len(given) == 7406 and not told(report)
    assert given["rating"].sum() == pytest.approx(
        sum(
            json.loads(line)["reward"]
            for line in gzip.decompress(
                (SHARED / "mqm_ted_ende.jsonl.gz").read_bytes()
            ).splitlines()
        )
    )
    assert strictness(feedback)["mean"].is_monotonic_decreasing  # rater4 is the strictest


def test_weights_enter_the_standardisation():
    rows = [
        {"prompt": f"p{i}", "completion": f"{i}{j}", "reward": i % 5 + 4 * j, "weight": 1 + 2 * j}
        for i in range(30)
        for j in range(2)
    ]
    feedback, _ = load(rows)
    splits = split_feedback(feedback, config=DataConfig(validation=5), seed=0)
    scores, weights = np.array(splits.train["reward"]), np.array(splits.train["weight"])
    assert (
        splits.reward_mean
        == pytest.approx(np.average(scores, weights=weights))
        != pytest.approx(scores.mean())
    )
    assert (standardise(scores, splits) ** 2 * weights).sum() / weights.sum() == pytest.approx(1)
    assert any("weights, 1 to 3" in note for note in kinds.kind_notes(feedback, []))
    for bad in (-1, "heavy", float("inf")):
        assert told(load([*rows, rows[0] | {"completion": "x", "weight": bad}])[1]) == {
            "weight is not a number of 0 and more": 1
        }
