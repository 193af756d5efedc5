"""PolicyTrainer: losses against the formulas, accumulation, KTO's pairs, determinism, resuming,
errors."""

import copy

import numpy as np
import pytest
import torch

from rpo_nb import objectives
from rpo_nb.config.objective import Objective, Setting
from rpo_nb.config.schema import TrainingConfig
from rpo_nb.policy import encoding, load
from rpo_nb.policy.logps import score_completions
from rpo_nb.training.batches import micro_batches, mismatched_rows, prompt_groups
from rpo_nb.training.checkpoints import history
from rpo_nb.training.trainer import make_trainer

PROMPTS = [
    "write about a red lamp",
    "please write about the boat",
    "two chair in the garden",
    "a kind book",
]
TEXTS = [
    "the red lamp stands in the garden.",
    "a lamp waits.",
    "the boat lies near the harbour.",
    "it is very bad.",
    "a chair.",
    "two chair waits under the mat.",
    "the book is kind.",
    "a book lies.",
]
WIDTH = 16  # places that value_pooling "all" is the mean over
CONFIG = TrainingConfig(
    epochs=2,
    batch_size=4,
    learning_rate=1e-2,
    warmup_steps=0,
    report_to=(),
    logging_steps=1,
    threads=1,
)


def make(pair, method, tmp_path, *, config=CONFIG, reduce="sum", seed=0, rewards=None, **objective):
    """A trainer on 4 prompts of 2 completions, and the rows it was made of."""
    torch.manual_seed(seed)  # DRO's value network
    model, tokenizer = copy.deepcopy(pair[0]), pair[1]
    load.set_dropout(model, 0.0)
    rows = encoding.encode(
        tokenizer,
        [p for p in PROMPTS for _ in range(2)],
        TEXTS,
        max_prompt_tokens=16,
        max_completion_tokens=16,
    )
    sums, lengths = score_completions(pair[0], tokenizer, rows)
    rewards = np.linspace(-1, 1, 8) if rewards is None else rewards
    prompt_ids = [0, 0, 1, 1, 2, 2, 3, 3]
    partner, real = mismatched_rows(prompt_ids)
    others = [rows[i][1] for i in partner]
    theirs, their_lengths = score_completions(
        pair[0], tokenizer, [(p, c) for (p, _), c in zip(rows, others, strict=True)]
    )
    groups = prompt_groups(
        rows,
        prompt_ids,
        rewards=rewards,
        ref_logps=sums if reduce == "sum" else sums / lengths,
        log_partition=np.full(8, 0.3),
        desirable=np.asarray(rewards) >= 0,
        mismatched=others if method == "kto" else (),
        mismatched_ref_logps=theirs if reduce == "sum" else theirs / their_lengths,
        mismatched_real=real,
    )
    return make_trainer(
        model,
        tokenizer,
        groups,
        Objective(method=method, reduce=reduce, **objective),
        config=config,
        output_dir=tmp_path,
        seed=seed,
        prompt_width=WIDTH,
    )


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.fixture(params=["tiny_t5", "tiny_llama"])
def pair(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_before_the_first_step_every_log_ratio_is_zero(pair, tmp_path, reduce):
    trainer = make(pair, "rpo", tmp_path, reduce=reduce)
    batch = trainer.batch(trainer.train_dataset)
    with torch.no_grad():
        ratio = trainer.model(**batch)["logps"] - batch["ref_logps"]
    # batches of another shape sum in another order; nothing else moves it
    assert ratio.abs().max() < 2e-5


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("sft", lambda o, b: objectives.sft(o["logps"])),
        (
            "rpo",
            lambda o, b: objectives.rpo(
                o["logps"], b["ref_logps"], b["rewards"], b["log_partition"], tau=0.5
            ),
        ),
        (
            "dro",
            lambda o, b: objectives.dro(
                o["logps"], b["ref_logps"], b["rewards"], o["values"], tau=0.5
            ),
        ),
    ],
)
def test_the_step_loss_is_the_mean_over_rows(pair, tmp_path, method, expected):
    trainer = make(pair, method, tmp_path, tau=0.5)
    batch = trainer.batch(trainer.train_dataset)
    loss, out = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    torch.testing.assert_close(loss, expected(out, batch).mean())


def test_dro_trains_policy_and_value_together_and_its_value_sees_only_the_prompt(pair, tmp_path):
    trainer = make(pair, "dro", tmp_path)
    batch = trainer.batch(trainer.train_dataset)
    trainer.compute_loss(trainer.model, batch).backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in trainer.model.value.parameters()
    )
    with torch.no_grad():
        values = trainer.model(**batch)["values"]
    # two completions of a prompt have one value
    torch.testing.assert_close(values[0::2], values[1::2])


@pytest.mark.parametrize("pooling", ["masked", "all"])
def test_dros_value_is_of_the_prompts_states_in_plain_transformers(pair, tmp_path, pooling):
    """ "all" as the authors have it: every prompt padded to their max_length, and the mean over all
    of its places."""
    trainer = make(pair, "dro", tmp_path, value_pooling=pooling)
    model, tokenizer = pair
    asked = encoding.encode(
        tokenizer, PROMPTS, ["a"] * 4, max_prompt_tokens=16, max_completion_tokens=4
    )
    ids = torch.tensor(
        [prompt + [tokenizer.pad_token_id] * (WIDTH - len(prompt)) for prompt, _ in asked]
    )
    mask = torch.tensor([[1] * len(prompt) + [0] * (WIDTH - len(prompt)) for prompt, _ in asked])
    core = model.get_encoder() if model.config.is_encoder_decoder else model.model
    with torch.no_grad():
        states = core(input_ids=ids, attention_mask=mask).last_hidden_state
        counted = torch.ones_like(mask) if pooling == "all" else mask
        expected = trainer.model.value(
            (states * counted[..., None]).sum(1) / counted.sum(1, keepdim=True)
        ).squeeze(-1)
        # whatever else is in a pass
        for items in (trainer.train_dataset, *([item] for item in trainer.train_dataset)):
            found = trainer.model(**trainer.batch(items))["values"]
            rows = torch.tensor([row for item in items for row in item["rows"]])
            torch.testing.assert_close(found, expected[rows // 2], rtol=1e-4, atol=1e-5)


def test_pooling_over_all_places_needs_their_number(tiny_t5, tmp_path):
    groups = make(tiny_t5, "dro", tmp_path).train_dataset
    with pytest.raises(ValueError, match="value_pooling 'all'.*prompt_width"):
        make_trainer(
            tiny_t5[0],
            tiny_t5[1],
            groups,
            Objective(method="dro", value_pooling="all"),
            config=CONFIG,
            output_dir=tmp_path,
            seed=0,
        )


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
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


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


@pytest.fixture(scope="module")
def calm_t5(tiny_t5):
    """A T5 as T5 initialises itself: the shared fixture's weights are wild on purpose, too wild to
    train."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(**{**tiny_t5[0].config.to_dict(), "initializer_factor": 1.0})
    ).eval(), tiny_t5[1]


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


def test_the_same_seed_gives_the_same_bits_and_another_does_not(calm_t5, tmp_path):
    first, again, other = (
        make(calm_t5, "rpo", tmp_path / n, seed=s) for n, s in (("a", 0), ("b", 0), ("c", 1))
    )
    for trainer in (first, again, other):
        trainer.train()
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_training_lowers_the_rpo_loss_and_moves_with_the_reward(calm_t5, tmp_path):
    trainer = make(
        calm_t5,
        "rpo",
        tmp_path,
        config=CONFIG.model_copy(update={"epochs": 25, "learning_rate": 2e-3, "batch_size": 8}),
    )
    trainer.train()
    curve = history(trainer)
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]
    assert curve[-1]["log_ratio_desirable"] > curve[-1]["log_ratio_undesirable"]


def test_an_interrupted_run_resumes_to_the_same_bits(calm_t5, tmp_path):
    config = CONFIG.model_copy(update={"save_steps": 2, "epochs": 3})
    undisturbed = make(calm_t5, "dro", tmp_path / "a", config=config)
    undisturbed.train()
    stopped = make(calm_t5, "dro", tmp_path / "b", config=config)
    original = stopped.training_step

    def breaks(*args, **kwargs):
        if stopped.state.global_step == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    stopped.training_step = breaks
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    resumed = make(calm_t5, "dro", tmp_path / "b", config=config)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == undisturbed.state.global_step == 6
    assert torch.equal(weights(undisturbed), weights(resumed))


def test_a_non_finite_reward_stops_training_with_the_rows(tiny_t5, tmp_path):
    trainer = make(tiny_t5, "rpo", tmp_path, rewards=np.array([0, 1, 2, np.nan, 4, 5, 6, 7.0]))
    with pytest.raises(ValueError, match=r"step 0: rewards is nan at row \d.*training rows.*3"):
        trainer.compute_loss(trainer.model, trainer.batch(trainer.train_dataset))


def test_lora_trains_adapters_only_and_leaves_the_base_alone(tiny_t5, tmp_path):
    base = copy.deepcopy(tiny_t5[0])
    before = torch.cat([p.detach().flatten() for p in base.parameters()])
    trainer = make((load.add_lora(base, 4), tiny_t5[1]), "rpo", tmp_path)
    trainable = [n for n, p in trainer.model.named_parameters() if p.requires_grad]
    assert trainable and all("lora_" in n for n in trainable)
    trainer.train()
    with trainer.model.policy.disable_adapter():
        rows = trainer.train_dataset[0]["encoded"]
        torch.testing.assert_close(
            score_completions(trainer.model.policy, tiny_t5[1], rows)[0],
            score_completions(tiny_t5[0], tiny_t5[1], rows)[0],
        )
    assert before.numel() and any(
        p.grad is not None or p.abs().sum() > 0
        for n, p in trainer.model.named_parameters()
        if "lora_B" in n
    )


def test_fp16_an_unknown_method_and_an_empty_data_set_are_refused(tiny_t5, tmp_path):
    with pytest.raises(ValueError, match="fp16 is refused.*bf16"):
        make_trainer(
            copy.deepcopy(tiny_t5[0]).half(),
            tiny_t5[1],
            [{"rows": [0]}],
            Objective(method="sft"),
            config=CONFIG,
            output_dir=tmp_path,
            seed=0,
        )
    with pytest.raises(ValueError, match="'sft', 'kto', 'dro', 'rpo'"):
        Objective(method="ppo")
    with pytest.raises(ValueError, match="no training row left"):
        make_trainer(
            tiny_t5[0],
            tiny_t5[1],
            [],
            Objective(method="sft"),
            config=CONFIG,
            output_dir=tmp_path,
            seed=0,
        )


def test_a_run_is_keyed_by_what_its_method_reads():
    assert (
        Objective(method="sft", tau=1).read_fields() == Objective(method="sft", tau=2).read_fields()
    )
    assert (
        Objective(method="rpo", tau=1).read_fields() != Objective(method="rpo", tau=2).read_fields()
    )
    assert (
        Objective(method="rpo", beta=1).read_fields()
        == Objective(method="rpo", beta=2).read_fields()
    )
    assert (
        Objective(method="kto", beta=1).read_fields()
        != Objective(method="kto", beta=2).read_fields()
    )


def test_a_training_shorter_than_logging_steps_still_has_a_learning_curve(calm_t5, tmp_path):
    trainer = make(
        calm_t5, "sft", tmp_path, config=CONFIG.model_copy(update={"logging_steps": 500})
    )
    trainer.train()
    assert len(history(trainer)) == 1 and history(trainer)[0]["loss"] > 0
