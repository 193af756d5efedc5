"""The pictures of the data draw the numbers they claim to draw."""

import numpy as np
import pytest

from rpo_nb.data.feedback import load_feedback
from rpo_nb.reporting import data_figures
from rpo_nb.reporting.style import save

SIZES = (1, 2, 3, 3, 5)  # completions of each prompt


@pytest.fixture
def feedback():
    rng = np.random.default_rng(0)
    completions = [(i, j, "word " * (i + j + 1)) for i, n in enumerate(SIZES) for j in range(n)]
    return load_feedback(
        [
            {"prompt": f"p{i}", "completion": f"{text}{i}{j}", "reward": rng.integers(2, 21) / 2}
            for i, j, text in completions
        ]
    )


def bars(axis):
    return [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in axis.containers[0]]


def test_reward_histogram_counts_each_score(feedback):
    rewards = np.array(feedback["reward"])
    axis = data_figures.reward_histogram(feedback).axes[0]
    drawn = {round(x, 6): n for x, n in bars(axis) if n}
    assert drawn == {float(score): int((rewards == score).sum()) for score in np.unique(rewards)}
    assert axis.lines[0].get_xdata()[0] == pytest.approx(rewards.mean())
    assert f"mean {rewards.mean():.2f}, standard deviation {rewards.std():.2f}" in axis.get_title(
        loc="left"
    )


def test_reward_histogram_of_continuous_rewards_has_30_bins():
    rng = np.random.default_rng(1)
    rows = [
        {"prompt": "p", "completion": f"c{i}", "reward": r}
        for i, r in enumerate(rng.uniform(1, 10, 500))
    ]
    feedback = load_feedback(rows)
    heights = [n for _, n in bars(data_figures.reward_histogram(feedback).axes[0])]
    assert len(heights) == 30 and sum(heights) == 500


def test_one_reward_only_is_one_bar():
    feedback = load_feedback([{"prompt": "p", "completion": c, "reward": 7} for c in "abc"])
    assert bars(data_figures.reward_histogram(feedback).axes[0]) == [(7.0, 3)]
    for draw in (
        data_figures.completions_per_prompt,
        data_figures.length_against_reward,
        data_figures.sparsity_curve,
    ):
        assert draw(feedback).axes


def test_completions_per_prompt(feedback):
    axis = data_figures.completions_per_prompt(feedback).axes[0]
    assert bars(axis) == [(1, 1), (2, 1), (3, 2), (4, 0), (5, 1)]
    assert [text.get_text() for text in axis.texts] == ["1", "1", "2", "", "1"]
    assert "14 for 5 prompts" in axis.get_title(loc="left")


def test_length_against_reward_shows_every_completion_and_the_medians(feedback):
    axis = data_figures.length_against_reward(feedback).axes[0]
    words = np.array([len(text.split()) for text in feedback["completion"]])
    points = axis.collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], words, rtol=0.0203)
    np.testing.assert_allclose(points[:, 1], feedback["reward"], atol=0.126)
    x, y = axis.lines[0].get_data()
    first = words <= np.quantile(words, 1 / data_figures.LENGTH_BINS)
    assert (x[0], y[0]) == (np.median(words[first]), np.median(np.array(feedback["reward"])[first]))


def test_sparsity_curve(feedback):
    axis = data_figures.sparsity_curve(feedback).axes[0]
    np.testing.assert_allclose(bars(axis), [(2, 0.2), (3, 0.4), (4, 0.8), (5, 0.8), (6, 1.0)])
    assert "40.0% of prompts have fewer than 3" in axis.get_title(loc="left")
    colours = [bar.get_facecolor() for bar in axis.containers[0]]
    assert colours[1] != colours[0] == colours[2]


def test_same_feedback_same_bytes(feedback, tmp_path):
    for folder in ("a", "b"):
        save(data_figures.length_against_reward(feedback), tmp_path / folder, "x")
    for ending in ("svg", "png"):
        assert (tmp_path / f"a/figures/x.{ending}").read_bytes() == (
            tmp_path / f"b/figures/x.{ending}"
        ).read_bytes()
