"""Cached reference log-probabilities: what is rounding, and what another model's."""

import numpy as np
import pytest
import torch

from rpo_nb.experiment import references

ROWS = [([1, 2], [3] * length) for length in (2, 23, 64)]


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Score the rows, then look at them again when each token says so much more."""
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model").mkdir()
    model = torch.nn.Linear(1, 1)
    shift = {"token": 0.0}

    def scored(model, tokenizer, encoded, *, bf16):
        lengths = torch.tensor([float(len(completion)) for _, completion in encoded])
        return -1.5 * lengths + shift["token"] * lengths, lengths

    monkeypatch.setattr(references, "score_completions", scored)

    def ask(token, *, bf16):
        for shift["token"] in (0.0, token):
            found = references.reference_logps(
                str(tmp_path / "model"), model, None, ROWS, bf16=bf16
            )
        return found

    return ask


def test_bfloat16_rounds_otherwise_beside_other_rows(asked):
    found = asked(0.03, bf16=True)  # SmolLM2's differ by up to 0.012 a token
    np.testing.assert_array_equal(found["mean"], np.float32(-1.5))


@pytest.mark.parametrize("token, bf16", [(0.2, True), (-0.2, True), (0.03, False)])
def test_another_models_are_refused_by_name(asked, token, bf16):
    with pytest.raises(ValueError, match="are not the model's; delete reference_logps/"):
        asked(token, bf16=bf16)
