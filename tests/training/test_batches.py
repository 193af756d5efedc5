"""Test_batches."""

import copy

import numpy as np
import pytest
import torch

from rpo_nb import objectives
from rpo_nb.config.objective import Objective, Setting
from rpo_nb.policy import encoding, load
from rpo_nb.policy.logps import score_completions
from rpo_nb.training.batches import micro_batches, mismatched_rows, prompt_groups
from rpo_nb.training.checkpoints import history
from rpo_nb.training.trainer import make_trainer
from tests.training.rows import CONFIG, PROMPTS, TEXTS, make, weights


def test_two_items_with_the_same_prompt_are_two_tuples(pair, tmp_path):
    """Two people's pairs about one prompt, or two prompts cut to the same tokens: DPO of each pair,
    by plain transformers."""
    model, tokenizer = copy.deepcopy(pair[0]).double(), pair[1]
    load.set_dropout(model, 0.0)
    rows = encoding.encode(
        tokenizer, PROMPTS[:1] * 4, TEXTS[:4], max_prompt_tokens=16, max_completion_tokens=16
    )
    ref = -np.arange(4.0)
    setting = Setting("bwd", beta=0.1, gap=1000.0)
    groups = prompt_groups(rows, [0, 0, 1, 1], rewards=np.zeros(4), ref_logps=ref)
    trainer = make_trainer(
        model,
        tokenizer,
        groups,
        Objective(method="reward_aware", setting=setting),
        config=CONFIG,
        output_dir=tmp_path,
        seed=0,
    )

    def logp(prompt, completion):
        if model.config.is_encoder_decoder:
            logits = model(
                input_ids=torch.tensor([prompt]), labels=torch.tensor([completion])
            ).logits[0]
        else:
            logits = model(input_ids=torch.tensor([prompt + completion])).logits[
                0, len(prompt) - 1 : -1
            ]
        return logits.log_softmax(-1)[torch.arange(len(completion)), torch.tensor(completion)].sum()

    ratios = torch.stack([logp(*row) for row in rows]) - torch.from_numpy(ref)
    wanted = -torch.nn.functional.logsigmoid(0.1 * (ratios[0::2] - ratios[1::2])).mean()
    found = trainer.compute_loss(
        trainer.model,
        trainer.batch(groups)
        | {"ref_logps": torch.from_numpy(ref), "rewards": torch.zeros(4).double()},
    )
    torch.testing.assert_close(found, wanted)
    weights = [p for p in model.parameters() if p.requires_grad]
    for mine, theirs in zip(
        *(torch.autograd.grad(loss, weights, allow_unused=True) for loss in (found, wanted)),
        strict=True,
    ):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            # T5 normalises in float32 whatever its weights are, and these are wild.
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sizes", [[2, 2], [4, 4, 4], [3, 1, 4, 2], [1] * 5, [8, 1, 1], [4]])
def test_mismatched_rows_are_of_other_prompts(sizes):
    # a prompt's rows need not stand together
    ids = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    partner, real = mismatched_rows(ids)
    assert sorted(partner.tolist()) == list(range(len(ids)))  # every completion is read once
    assert (real == (ids[partner] != ids)).all()
    if 2 * max(sizes) <= sum(sizes):
        assert real.all()


def test_ktos_z0_is_the_clamped_mean_over_mismatched_pairs(pair, tmp_path):
    trainer = make(pair, "kto", tmp_path)
    with torch.no_grad():  # away from the reference, so that the log-ratios are not 0
        for i, p in enumerate(trainer.model.parameters()):
            p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    batch = trainer.batch(trainer.train_dataset)
    loss, out = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    tokenizer = pair[1]
    rows = encoding.encode(
        tokenizer,
        [p for p in PROMPTS for _ in range(2)],
        TEXTS[2:] + TEXTS[:2],
        max_prompt_tokens=16,
        max_completion_tokens=16,
    )
    mine, theirs = (
        score_completions(m, tokenizer, rows)[0] for m in (trainer.model.policy, pair[0])
    )
    z0 = (mine - theirs).mean().clamp(min=0)
    torch.testing.assert_close(
        loss,
        objectives.kto(out["logps"], batch["ref_logps"], batch["desirable"], z0, beta=1.0).mean(),
        rtol=1e-4,
        atol=1e-4,
    )
    released = make(pair, "kto", tmp_path, kto_kl="matched")
    released.model.load_state_dict(trainer.model.state_dict())
    matched = (out["logps"] - batch["ref_logps"]).mean()
    torch.testing.assert_close(
        released.compute_loss(released.model, batch),
        objectives.kto(
            out["logps"], batch["ref_logps"], batch["desirable"], matched.detach(), beta=1.0
        ).mean(),
    )


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("sft", {}),
        ("rpo", {}),
        ("dro", {}),
        ("dro", {"value_pooling": "all"}),
        ("kto", {}),
        ("kto", {"kto_kl": "matched"}),
    ],
)
def test_accumulation_gives_the_same_weights(calm_t5, tmp_path, method, more):
    whole = make(calm_t5, method, tmp_path / "a", **more)
    budget = 20 if "value_pooling" not in more else 40  # there a prompt counts with its padding
    parts = make(
        calm_t5,
        method,
        tmp_path / "b",
        config=CONFIG.model_copy(update={"micro_batch_tokens": budget}),
        **more,
    )
    assert [
        len(micro_batches(t.train_dataset[:2], t.micro_batch_tokens, width=t.collate.width))
        for t in (whole, parts)
    ] == [1, 2]
    for trainer in (whole, parts):
        # Adam would blow float noise up to whole steps
        trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=1e-3)
        trainer.train()
    assert whole.state.global_step == parts.state.global_step == 4
    torch.testing.assert_close(weights(whole), weights(parts), rtol=1e-3, atol=1e-4)
    for a, b in zip(history(whole), history(parts), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)


@pytest.mark.parametrize("budget", [1000, 20])
def test_ktos_matched_z0_is_of_the_log_ratios_that_the_loss_has(
    calm_t5, tmp_path, budget, monkeypatch
):
    """As in the authors' code, under dropout: the mean over the very log-ratios of the step, in
    however many passes."""
    trainer = make(
        calm_t5,
        "kto",
        tmp_path,
        config=CONFIG.model_copy(update={"micro_batch_tokens": budget, "batch_size": 8}),
        kto_kl="matched",
    )
    load.set_dropout(trainer.model, 0.3)
    seen, given = [], []

    def kto(logps, ref_logps, desirable, kl, **more):
        seen.append((logps - ref_logps).detach())
        given.append(float(kl))
        return losses(logps, ref_logps, desirable, kl, **more)

    losses = objectives.kto
    monkeypatch.setattr(objectives, "kto", kto)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.0)
    trainer.train()
    passes = len(micro_batches(trainer.train_dataset, budget))
    # two epochs of one step
    assert passes == (1 if budget == 1000 else 4) and len(seen) == 2 * passes
    for step in (0, 1):
        z0 = torch.cat(seen[step * passes : (step + 1) * passes]).mean()
        assert given[step * passes : (step + 1) * passes] == pytest.approx(
            [float(z0)] * passes, rel=1e-4
        )
    assert given[0] != given[-1]  # the steps drop other units


def test_micro_batches_keep_whole_prompts_within_the_budget_and_long_ones_together():
    items = [{"encoded": [([0] * n, [0] * n)] * 2} for n in (10, 2, 30, 3, 9, 2)]  # 3n tokens each
    parts = micro_batches(items, 60)
    sizes = [[len(item["encoded"][0][0]) for item in part] for part in parts]
    # 90 tokens are more than 60: the prompt stands alone
    assert sizes == [[30], [10, 9], [3, 2, 2]]
    assert micro_batches(items, 1000) == [items]  # one pass keeps the order, and with it the bits
    more = micro_batches(items, 60, at_least=5)
    assert len(more) == 5 and sorted(id(i) for part in more for i in part) == sorted(map(id, items))
    assert len(micro_batches(items[:2], 60, at_least=5)) == 2
