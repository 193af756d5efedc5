"""What the tests of objectives are made of."""

import collections
import types

import torch

F64 = torch.float64


def vector(*values):
    return torch.tensor(values, dtype=F64)


def random(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


A, B, C, D = (random(5, seed=s, scale=2.0) for s in range(4))


class FixedModel(torch.nn.Module):
    """What TRL's loss needs of a model: it returns the token log-probabilities it was made with."""

    is_gradient_checkpointing = False

    def __init__(self, log_probs):
        super().__init__()
        logged = {
            "entropy": torch.zeros_like(log_probs),
            "mean_logits": torch.zeros_like(log_probs),
            "is_top1": log_probs > 0,
        }
        self.output = types.SimpleNamespace(log_probs=log_probs, **logged)

    def forward(self, **inputs):
        return self.output


def trl_trainer(policy, ref, **settings):
    accelerator = types.SimpleNamespace(
        device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x
    )
    return types.SimpleNamespace(
        model=policy,
        ref_model=ref,
        accelerator=accelerator,
        args=types.SimpleNamespace(gradient_checkpointing_kwargs=None),
        precompute_ref_logps=False,
        aux_loss_enabled=False,
        _total_train_tokens=0,
        _tp_size=1,
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
        **settings,
    )
