"""Fixtures that the tests of this room share."""

from __future__ import annotations

import copy

import pytest
import torch

from rpo_nb.training.samples import Reader, respond
from tests.training.aligned import PROMPTS, length
from tests.training.models import PROMPTS
from tests.training.rows import PROMPTS


@pytest.fixture(params=["tiny_t5", "tiny_llama"])
def pair(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def calm_t5(tiny_t5):
    """A T5 as T5 initialises itself: the shared fixture's weights are wild on purpose, too wild to
    train."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(**{**tiny_t5[0].config.to_dict(), "initializer_factor": 1.0})
    ).eval(), tiny_t5[1]


@pytest.fixture(params=["tiny_t5", "tiny_llama"])
def pair(request):
    model, tokenizer = request.getfixturevalue(request.param)
    return copy.deepcopy(model).eval(), tokenizer


@pytest.fixture(scope="module")
def calm(tiny_t5):
    """A T5 as T5 initialises itself, its reader, and scored responses of its own."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(**{**tiny_t5[0].config.to_dict(), "initializer_factor": 1.0, "dropout_rate": 0.0})
    ).eval()
    reader = Reader(tiny_t5[1], max_prompt_tokens=16, max_new_tokens=6)
    return (
        model.requires_grad_(False),
        reader,
        respond(model, model, PROMPTS, 3, length, reader, seed=1),
    )


@pytest.fixture
def folder(tmp_path, tiny_t5):
    """A policy with its tokenizer, as a user has one."""
    model, tokenizer = tiny_t5
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"
