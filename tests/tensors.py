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


def trl_kto(trl, shift, *, beta, desirable, undesirable):
    """TRL's KTO of the fixture `trl`: its mean loss, labels [8], and the log-probabilities [8] of
    the mismatched pairs by policy and reference. shift: how far z0 is from 0; desirable,
    undesirable: λ_D and λ_U."""
    policy, ref = FixedModel(trl.policy), FixedModel(trl.ref)
    labels = torch.tensor([True, False, True, True, False, False, True, False])
    mismatched = {policy: random(8, seed=7) + shift, ref: random(8, seed=8)}
    trainer = trl_trainer(
        policy,
        ref,
        calculate_KL=True,
        beta=beta,
        loss_type="kto",
        desirable_weight=desirable,
        undesirable_weight=undesirable,
        _compute_kl_logps=lambda model, batch: mismatched[model],
    )
    loss = trl.trl.KTOTrainer._compute_loss(trainer, policy, trl.inputs | {"label": labels}, False)
    return loss, labels, (mismatched[policy], mismatched[ref])


def counted_flops(model, case, *, backward):
    """What torch counts of the log-probabilities of a case's one pair: fused attention, which it
    does not count on a CPU, is off; causal attention is counted whole."""
    from torch.utils.flop_counter import FlopCounterMode

    from rpo_nb.policy import forward, logps

    model.set_attn_implementation("eager")
    ((prompt, completion),) = case.encoded
    joined = prompt + completion, [forward.IGNORE] * len(prompt) + completion
    ids, labels = (
        torch.tensor([row])
        for row in ((prompt, completion) if case.config.is_encoder_decoder else joined)
    )
    args = model, ids, torch.ones_like(ids), labels
    logps.sequence_logps(*args, reduce="sum")  # the first also looks at the head
    with FlopCounterMode(display=False) as counter:
        found = logps.sequence_logps(*args, reduce="sum").sum()
        if backward:
            found.backward()
    return counter.get_total_flops()
