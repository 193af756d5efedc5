"""Cached reference log-probabilities: what is rounding, and what another model's."""

import numpy as np
import pytest
import torch

from rpo_nb.experiment import references

ROWS = [([1, 2], [3] * length) for length in (2, 23, 64)]


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Score the rows, then look at them again when each token says so much more: one number, or one
    a row."""
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model").mkdir()
    model = torch.nn.Linear(1, 1)
    shift = {}

    def scored(model, tokenizer, encoded, *, bf16):
        lengths = torch.tensor([float(len(completion)) for _, completion in encoded])
        more = {len(done): by for (_, done), by in zip(ROWS, shift["token"], strict=True)}
        return (torch.tensor([more[int(n)] for n in lengths]) - 1.5) * lengths, lengths

    monkeypatch.setattr(references, "score_completions", scored)

    def ask(token, *, bf16):
        for shift["token"] in (3 * [0.0], token if isinstance(token, list) else 3 * [token]):
            found = references.reference_logps(
                str(tmp_path / "model"), model, None, ROWS, bf16=bf16
            )
        return found

    return ask


def test_bfloat16_rounds_otherwise_beside_other_rows(asked):
    """SmolLM2's differ by 0.006 a token in the middle, in one row of hundreds by 0.05."""
    for token in (0.03, [0.01, 0.15, -0.02]):
        found = asked(token, bf16=True)
        np.testing.assert_array_equal(found["mean"], np.float32(-1.5))


@pytest.mark.parametrize(
    "token, bf16",
    [(0.1, True), (-0.2, True), ([0.0, 0.0, 0.5], True), (0.03, False), ([0.0, 0.03, 0.0], False)],
)
def test_another_models_are_refused_by_name(asked, token, bf16):
    with pytest.raises(ValueError, match="are not the model's; delete reference_logps/"):
        asked(token, bf16=bf16)
