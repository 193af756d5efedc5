"""The suite."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from rpo_nb.config.schema import EvaluationConfig
from rpo_nb.evaluation import metrics
from rpo_nb.evaluation.suite import MEASURES, MetricSuite
from tests.evaluation.texts import random_texts

# The suite ----------------------------------------------------------------------------------------


def test_score_has_every_metric_and_an_interval_where_items_exist(suite):
    completions, references = random_texts(30, 9), random_texts(30, 10)
    rewards, fluency = np.linspace(1, 10, 30), np.linspace(0, 1, 30)
    values = suite.score(["p"] * 30, completions, references, rewards, fluency)
    assert tuple(values) == tuple(MEASURES)
    for name, v in values.items():
        assert v.value is not None and math.isfinite(v.value) and v.reason == ""
        assert (v.per_item is None) == (name in ("bleu", "sacrebleu", "distinct_1", "distinct_2"))
        if v.per_item is not None:
            assert v.value == pytest.approx(v.per_item.mean()) and len(v.per_item) == 30
        if name in (
            "bertscore_f1",
            "rouge_l",
            "meteor",
            "toxicity",
            "length_ratio",
            "reward",
            "fluency",
        ):
            assert v.ci[0] < v.value < v.ci[1]
        else:
            assert v.ci is None
    # The interval of a mean: about ±1.96 standard errors.
    low, high = values["reward"].ci
    assert (high - low) / 2 == pytest.approx(1.96 * rewards.std() / math.sqrt(30), rel=0.25)
    assert tuple(suite.score(["p"] * 30, completions, references)) == tuple(MEASURES)[:-2]
    again = suite.score(["p"] * 30, completions, references, rewards, fluency)
    assert all(
        again[name].value == v.value and again[name].ci == v.ci for name, v in values.items()
    )


def test_many_cells_score_as_one_by_one(suite):
    references = random_texts(12, 11)
    cells = [
        {"prompts": ["p"] * 12, "completions": random_texts(12, seed), "references": references}
        for seed in (12, 13, 12)
    ]
    many = suite.score_many(cells)
    for cell, values in zip(cells, many, strict=True):
        single = suite.score(**cell)
        assert tuple(single) == tuple(values)
        assert [v.value for v in values.values()] == pytest.approx(
            [v.value for v in single.values()], abs=1e-6
        )
    assert suite.score_many([]) == []


def test_empty_completions_score_zero_and_crash_nothing(suite):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = suite.score(["p", "p"], ["", ""], ["the cat", "a red lamp"])
    for name in (
        "bertscore_f1",
        "rouge_l",
        "bleu",
        "sacrebleu",
        "meteor",
        "self_bleu",
        "length_ratio",
    ):
        assert values[name].value == 0.0, name
    assert 0 <= values["toxicity"].value < 0.3
    assert values["distinct_1"].value is None and values["distinct_1"].reason
    one = suite.score(["p"], ["the cat"], ["the cat"])
    assert one["rouge_l"].value == 1.0 and one["rouge_l"].ci is None
    assert one["self_bleu"].value is None and one["self_bleu"].reason


def test_missing_resources_are_not_measured_and_say_why(tmp_path, monkeypatch):
    def nowhere():
        raise LookupError("no wordnet")

    monkeypatch.setattr(metrics, "load_wordnet", nowhere)
    poor = MetricSuite(
        EvaluationConfig(bertscore=str(tmp_path / "no-model"), toxicity="hub"), resamples=50
    )
    with pytest.warns(UserWarning, match="could not be loaded"):
        values = poor.score(["p", "p"], ["the big auto", "a"], ["the big car", "a"])
    for name in ("bertscore_f1", "toxicity"):
        assert (
            values[name].value is None
            and values[name].ci is None
            and "could not be loaded" in values[name].reason
        )
    assert values["rouge_l"].value > 0 and values["meteor"].value is not None
    notes = "\n".join(poor.footnotes)
    assert (
        "BERTScore F1: not measured" in notes
        and "Toxicity: not measured" in notes
        and "no synonyms" in notes
    )
    assert str(tmp_path) not in notes and str(tmp_path) not in values["bertscore_f1"].reason


def test_footnotes_name_models_and_versions(suite):
    notes = "\n".join(suite.footnotes)
    for word in (
        "all-MiniLM-L6-v2",
        "layer 3 of 6",
        "alt-profanity-check",
        "rouge-score",
        "smooth:exp",
        "nltk",
        "evaluate",
    ):
        assert word in notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"completions": ["a"]}, "cell 0: .* have \\[2, 1, 2\\] rows"),
        ({"prompts": [], "completions": [], "references": []}, "above 0"),
        ({"references": ["a", " "]}, "cell 0: reference 1 has no word"),
        ({"rewards": [1.0, float("nan")]}, "cell 0: reward 1 is not finite"),
    ],
)
def test_bad_cells_are_refused(suite, change, message):
    cell = {"prompts": ["p", "p"], "completions": ["a", "b"], "references": ["a", "b"]} | change
    with pytest.raises(ValueError, match=message):
        suite.score(**cell)
