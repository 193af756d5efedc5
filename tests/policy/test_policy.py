"""Log-probabilities: against transformers' own loss, in and out of groups, and whatever the
padding."""

import pytest
import torch

from rpo_nb.policy import encoding, forward, load, prefixes
from rpo_nb.policy import logps as policy_logps
from rpo_nb.policy.logps import collate, sequence_logps

PROMPTS = ["the cat", "a dog sat on the mat", "the cat", "one two"]
TEXTS = ["sat on a mat", "the dog", "sat", "three four five one"]


def batch_of(pair, dtype=None):
    model, tokenizer = pair
    rows = encoding.encode(
        tokenizer, PROMPTS, TEXTS, max_prompt_tokens=16, max_completion_tokens=16
    )
    return collate(rows, pad_id=tokenizer.pad_token_id), rows


def expanded(model, rows):
    """input_ids, attention_mask, labels of whole rows, put together by hand."""

    def padded(sequences, value):
        return torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(s) for s in sequences], batch_first=True, padding_value=value
        )

    if model.config.is_encoder_decoder:
        ids, labels = [p for p, _ in rows], [c for _, c in rows]
    else:
        ids, labels = [p + c for p, c in rows], [[forward.IGNORE] * len(p) + c for p, c in rows]
    return padded(ids, 0), padded([[1] * len(i) for i in ids], 0), padded(labels, forward.IGNORE)


@pytest.fixture(params=["tiny_t5", "tiny_llama"])
def pair(request):
    model, tokenizer = request.getfixturevalue(request.param)
    model.eval()
    return model, tokenizer


def test_sums_are_transformers_own_loss(pair):
    model, _ = pair
    ids, mask, labels = expanded(model, batch_of(pair)[1])
    with torch.no_grad():
        theirs = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        sums = sequence_logps(model, ids, mask, labels, reduce="sum")
        means = sequence_logps(model, ids, mask, labels, reduce="mean")
    tokens = (labels != forward.IGNORE).sum(-1)
    torch.testing.assert_close(-sums.sum() / tokens.sum(), theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(means, sums / tokens)


def flat_gradient(model, value):
    """The gradient of a number, of all trained parameters, one vector."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.cat(
        [
            g.flatten()
            for g in torch.autograd.grad(
                value, parameters, allow_unused=True, materialize_grads=True
            )
        ]
    )


# 0: every row in a bucket of its own; 1e12: one
@pytest.mark.parametrize("launch, keep", [(0.0, True), (1e4, True), (1e12, True), (1e4, False)])
@pytest.mark.parametrize("lora", [False, True])
def test_grouped_equals_ungrouped_with_gradients_in_float64(pair, launch, keep, lora, monkeypatch):
    """Losses and gradients of prompts read once are those of whole rows read one by one, whatever
    the buckets."""
    import copy

    monkeypatch.setitem(prefixes.LAUNCH, "cpu", (launch, 0.0))
    monkeypatch.setattr(policy_logps, "worth_keeping", lambda *args: keep)
    model = copy.deepcopy(pair[0])
    if lora:
        model = load.add_lora(model, 4)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_B" in name:
                    p.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    model = model.double()
    load.set_dropout(model, 0.0)
    batch, rows = batch_of(pair)
    single = policy_logps.sequence_logps(model, *expanded(model, rows), reduce="sum")
    grouped = policy_logps.grouped_logps(model.train(), batch, reduce="sum")
    # "the cat" is read once
    assert (
        prefixes.reads_cache(model)
        and grouped.logps.dtype == torch.float64
        and len(grouped.states) == 3
    )
    torch.testing.assert_close(single, grouped.logps, rtol=1e-12, atol=1e-12)
    weights = torch.randn(
        len(single), dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    ours, theirs = (
        flat_gradient(model, (logps * weights).sum()) for logps in (grouped.logps, single)
    )
    # 1e-6: the layer norms are float32 whatever the model's dtype
    assert float(theirs.norm()) > 0 and float((ours - theirs).norm()) < 1e-6 * float(theirs.norm())


@pytest.mark.parametrize("keep", [True, False])
def test_mismatched_completions_are_scored_beside_without_gradient(pair, keep, monkeypatch):
    monkeypatch.setattr(policy_logps, "worth_keeping", lambda *args: keep)
    model, _ = pair
    batch, rows = batch_of(pair)
    others = [rows[i][1] for i in (1, 2, 3, 0)]
    beside = policy_logps.collate(rows, pad_id=0, mismatched=others)
    scored = policy_logps.grouped_logps(model, beside, reduce="mean")
    swapped = policy_logps.sequence_logps(
        model,
        *expanded(model, [(p, c) for (p, _), c in zip(rows, others, strict=True)]),
        reduce="mean",
    )
    torch.testing.assert_close(scored.mismatched, swapped, rtol=1e-4, atol=1e-4)
    assert scored.logps.requires_grad and not scored.mismatched.requires_grad
    torch.testing.assert_close(
        scored.logps,
        policy_logps.grouped_logps(model, batch, reduce="mean").logps,
        rtol=1e-5,
        atol=1e-5,
    )


def test_prompts_with_one_completion_each_and_models_without_a_cache_give_the_same_numbers(
    pair, monkeypatch
):
    model, _ = pair
    batch, rows = batch_of(pair)
    whole = policy_logps.sequence_logps(model, *expanded(model, rows), reduce="sum")
    torch.testing.assert_close(
        policy_logps.grouped_logps(
            model, policy_logps.collate(rows[1:], pad_id=0), reduce="sum"
        ).logps,
        whole[1:],
        rtol=1e-5,
        atol=1e-5,
    )
    usual = policy_logps.grouped_logps(model, batch, reduce="sum")
    monkeypatch.setitem(prefixes.LAUNCH, "cpu", (0.0, 0.0))  # worth it at any size, but impossible
    monkeypatch.setattr(prefixes, "reads_cache", lambda _: False)
    without = policy_logps.grouped_logps(
        model, batch | {"mismatched": batch["labels"]}, reduce="sum"
    )
    torch.testing.assert_close(without.logps, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(without.mismatched, without.logps)
    real = batch["attention_mask"].bool()
    # what a value network reads
    torch.testing.assert_close(without.states[real], usual.states[real], rtol=1e-4, atol=1e-4)


def test_a_model_without_a_cache_of_keys_and_values_says_so(tiny_llama):
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=len(tiny_llama[1]),
        hidden_size=16,
        num_hidden_layers=1,
        state_size=4,
        tie_word_embeddings=True,
    )
    model = MambaForCausalLM(config).eval()
    with pytest.warns(
        UserWarning, match="MambaForCausalLM reads every prompt again for each of its completions"
    ):
        assert prefixes.reads_cache(model) is False
    assert prefixes.reads_cache(model) is False  # and is not asked again


def test_a_cache_that_gives_other_states_is_not_used(tiny_llama, monkeypatch):
    import copy

    model = copy.deepcopy(tiny_llama[0])
    honest = prefixes._of_rows
    # the keys of other prompts
    monkeypatch.setattr(prefixes, "_of_rows", lambda cache, group: honest(cache, group.flip(0)))
    with pytest.warns(UserWarning, match="LlamaForCausalLM reads every prompt again"):
        assert prefixes.reads_cache(model) is False


def test_exact_padding_computes_the_batch_as_it_is_padded(tiny_t5):
    """The authors' value network averages over padding: its states must be those of the padded
    batch."""
    model, _ = tiny_t5
    batch, _ = batch_of(tiny_t5)
    with torch.no_grad():
        theirs = model.encoder(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
        torch.testing.assert_close(
            policy_logps.grouped_logps(model, batch, reduce="sum", exact_padding=True).states,
            theirs,
        )


@pytest.mark.parametrize("overhead", [0.0, 3.0, 20.0, 1e9])
def test_buckets_are_the_cheapest_of_all(overhead):
    """Against every way to cut a sorted list."""
    import itertools

    lengths = [7, 3, 9, 3, 12, 1, 8]

    def cost(parts):
        return sum(len(p) * max(lengths[i] for i in p) + overhead for p in parts)

    order = sorted(range(7), key=lambda i: -lengths[i])
    ways = []
    for cuts in itertools.product([False, True], repeat=6):
        parts = [[order[0]]]
        for i, cut in zip(order[1:], cuts, strict=True):
            parts.append([i]) if cut else parts[-1].append(i)
        ways.append(cost(parts))
    found = prefixes.buckets(lengths, overhead)
    assert sorted(i for part in found for i in part) == list(range(7))
    assert cost(found) == min(ways)


def test_a_row_does_not_feel_its_neighbours_padding(pair):
    model, tokenizer = pair
    batch, rows = batch_of(pair)
    together, _ = policy_logps.score_completions(model, tokenizer, rows)
    alone = torch.cat([policy_logps.score_completions(model, tokenizer, [r])[0] for r in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert model.training is False


def test_scores_come_back_in_the_rows_order_and_count_the_end_token(pair):
    model, tokenizer = pair
    _, rows = batch_of(pair)
    sums, lengths = policy_logps.score_completions(model, tokenizer, rows, tokens_at_once=20)
    assert lengths.tolist() == [len(c) for _, c in rows] and all(
        c[-1] == tokenizer.eos_token_id for _, c in rows
    )
    backwards, _ = policy_logps.score_completions(model, tokenizer, rows[::-1], tokens_at_once=40)
    torch.testing.assert_close(sums, backwards.flip(0), rtol=1e-5, atol=1e-5)


def test_a_nan_names_the_row(pair):
    import copy

    model = copy.deepcopy(pair[0])
    with torch.no_grad():
        next(iter(model.parameters())).fill_(float("nan"))
    with pytest.raises(ValueError, match="row 0: its log-probability"):
        policy_logps.score_completions(model, pair[1], batch_of(pair)[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: {**b, "reduce": "max"}, "reduce is 'max'"),
        (lambda b: {**b, "labels": b["labels"][:2]}, "shapes do not fit"),
        (
            lambda b: {**b, "labels": torch.full_like(b["labels"], forward.IGNORE)},
            "row 0 has no completion token",
        ),
    ],
)
def test_bad_arguments_are_named(pair, change, message):
    ids, mask, labels = expanded(pair[0], batch_of(pair)[1])
    arguments = change(
        {"input_ids": ids, "attention_mask": mask, "labels": labels, "reduce": "sum"}
    )
    with pytest.raises(ValueError, match=message):
        policy_logps.sequence_logps(pair[0], **arguments)


def test_bf16_logits_are_accumulated_in_float32():
    logits = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.tensor([[1, 2, 3], [4, 5, forward.IGNORE]])
    logps = policy_logps.token_logps(logits, labels)
    assert logps.dtype == torch.float32 and logps[1, 2] == 0
    expected = (
        torch.log_softmax(logits.float(), -1)
        .gather(-1, labels.clamp(min=0).unsqueeze(-1))
        .squeeze(-1)
    )
    torch.testing.assert_close(logps[0], expected[0])


def test_saved_policies_load_from_a_folder_with_dropout_off_and_strangers_are_named(
    tmp_path, tiny_t5
):
    model, tokenizer = tiny_t5
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    loaded, _ = load.load_policy(tmp_path / "m", dropout=0.25)
    assert {m.p for m in loaded.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}
    # attention
    assert {
        m.dropout for m in loaded.modules() if isinstance(getattr(m, "dropout", None), float)
    } == {0.25}
    rows = encoding.encode(
        tokenizer, PROMPTS, TEXTS, max_prompt_tokens=16, max_completion_tokens=16
    )
    torch.testing.assert_close(
        *(policy_logps.score_completions(m, tokenizer, rows)[0] for m in (model.eval(), loaded))
    )
    with pytest.raises(ValueError, match="could not be loaded"):
        load.load_policy(tmp_path / "nowhere")
