"""Fixtures that more than one test module uses."""

import itertools
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def world():
    """A tiny language whose sums can be written out: all 40 texts of at most 3 tokens over 3 token types, float64.

    sequences: the texts; ref [40]: log πref, an autoregressive model with random logits a prefix (index 3 ends the text);
    reward [40]; tau; log_z: log Σ_y πref(y)·exp(r(y)/τ); best [40]: log π* = ref + r/τ − log Z.
    """
    generator = torch.Generator().manual_seed(0)
    sequences = [s for length in range(4) for s in itertools.product(range(3), repeat=length)]
    step = {s: torch.randn(4, generator=generator, dtype=torch.float64).log_softmax(0) for s in sequences if len(s) < 3}
    ref = torch.stack([sum(step[s[:i]][t] for i, t in enumerate(s)) + (step[s][3] if len(s) < 3 else 0) for s in sequences])
    reward = torch.randn(len(sequences), generator=generator, dtype=torch.float64)
    tau = 0.5
    log_z = (ref.exp() * (reward / tau).exp()).sum().log()
    return SimpleNamespace(sequences=sequences, ref=ref, reward=reward, tau=tau, log_z=log_z, best=ref + reward / tau - log_z)
