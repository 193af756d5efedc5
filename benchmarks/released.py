"""The baseline of the whole run: RPO as the authors' scripts go about it, in plain PyTorch.

Their way of working and nothing else (formulas: docs of the preset `released`): prompts and
completions are padded to the maximum length; V̂ is made before training, its reference
log-probabilities one row at a time; the reference runs in every training step again; log-softmax is
taken over the logits of every position in float32; micro-batches are accumulated to 32 rows.
Dropout is off and nothing is logged or evaluated, which favours them. T5-like models.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

BATCH, MICRO_BATCH = 32, 16


def padded(rows: Sequence[tuple[list[int], list[int]]], length: int) -> tuple[Tensor, Tensor]:
    """input_ids [n, length] padded with 0 and labels [n, length] padded with −100."""
    inputs, labels = (
        torch.zeros(len(rows), length, dtype=torch.long),
        torch.full((len(rows), length), -100),
    )
    for i, (prompt, completion) in enumerate(rows):
        inputs[i, : len(prompt)] = torch.tensor(prompt)[:length]
        labels[i, : len(completion)] = torch.tensor(completion)[:length]
    return inputs, labels


def mean_logps(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """[n] mean log-probability of the labelled tokens."""
    logits = model(input_ids=inputs, attention_mask=(inputs != 0).long(), labels=labels).logits
    keep = labels != -100
    chosen = (
        torch.log_softmax(logits.float(), -1)
        .gather(-1, labels.clamp(min=0).unsqueeze(-1))
        .squeeze(-1)
    )
    return (chosen * keep).sum(-1) / keep.sum(-1).clamp(min=1)


@torch.no_grad()
def values(
    reference: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    prompt_ids: Sequence[int],
    rewards: Sequence[float],
    tau: float,
) -> Tensor:
    """V̂ [n] = τ log Σ_j exp(m_ref(y_j)) exp(r_j/τ) over the rows of a prompt, a forward pass a
    row."""
    terms = defaultdict(list)
    for i, prompt in enumerate(prompt_ids):
        terms[prompt].append(
            mean_logps(reference, inputs[i : i + 1], labels[i : i + 1]) + rewards[i] / tau
        )
    of_prompt = {prompt: tau * torch.cat(parts).logsumexp(0) for prompt, parts in terms.items()}
    return torch.stack([of_prompt[prompt] for prompt in prompt_ids])


def train(
    model: nn.Module,
    rows: Sequence[tuple[list[int], list[int]]],
    prompt_ids: Sequence[int],
    rewards: Sequence[float],
    *,
    length: int = 512,
    tau: float = 5.0,
    learning_rate: float = 1e-4,
    seed: int = 0,
) -> list[float]:
    """V̂ and one epoch of RPO; the loss of each step. The model is trained in place."""
    place = next(model.parameters()).device
    inputs, labels = (tensor.to(place) for tensor in padded(rows, length))
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    reward = torch.tensor(rewards, dtype=torch.float32, device=place)
    v = values(reference, inputs, labels, prompt_ids, rewards, tau)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    order, losses = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)), []
    for step in order.split(BATCH):
        losses.append(0.0)
        for part in step.split(MICRO_BATCH):
            with torch.no_grad():
                ref = mean_logps(reference, inputs[part], labels[part])
            loss = (
                0.5
                * (
                    mean_logps(model, inputs[part], labels[part])
                    - ref
                    - (reward[part] - v[part]) / tau
                )
                ** 2
            ).sum() / len(step)
            loss.backward()
            losses[-1] += loss.item()
        optimizer.step()
        optimizer.zero_grad()
    return losses
