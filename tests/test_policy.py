"""Log-probabilities: against transformers' own loss, in and out of groups, and whatever the padding."""

import pytest
import torch

from rpo_nb import policy

PROMPTS = ["the cat", "a dog sat on the mat", "the cat", "one two"]
TEXTS = ["sat on a mat", "the dog", "sat", "three four five one"]


def batch_of(pair, dtype=None):
    model, tokenizer = pair
    rows = policy.encode(tokenizer, PROMPTS, TEXTS, max_prompt_tokens=16, max_completion_tokens=16)
    return policy.collate(rows, pad_id=tokenizer.pad_token_id, seq2seq=model.config.is_encoder_decoder), rows


def expanded(model, batch):
    """input_ids, attention_mask, labels row for row."""
    group = batch["group"] if model.config.is_encoder_decoder else torch.arange(len(batch["labels"]))
    return batch["input_ids"][group], batch["attention_mask"][group], batch["labels"]


@pytest.fixture(params=["tiny_t5", "tiny_llama"])
def pair(request):
    model, tokenizer = request.getfixturevalue(request.param)
    model.eval()
    return model, tokenizer


def test_sums_are_transformers_own_loss(pair):
    model, _ = pair
    batch, _ = batch_of(pair)
    ids, mask, labels = expanded(model, batch)
    with torch.no_grad():
        theirs = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        sums = policy.sequence_logps(model, ids, mask, labels, reduce="sum")
        means = policy.sequence_logps(model, ids, mask, labels, reduce="mean")
    tokens = (labels != policy.IGNORE).sum(-1)
    torch.testing.assert_close(-sums.sum() / tokens.sum(), theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(means, sums / tokens)


def test_grouped_equals_ungrouped_with_gradients_in_float64(pair):
    import copy

    model = copy.deepcopy(pair[0]).double()
    batch, _ = batch_of(pair)
    single = policy.sequence_logps(model, *expanded(model, batch), reduce="sum")
    grouped, states = policy.grouped_logps(model, batch, reduce="sum")
    assert grouped.dtype == torch.float64
    torch.testing.assert_close(single, grouped, rtol=1e-12, atol=1e-12)
    weights = torch.randn(len(single), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parameters = [p for p in model.parameters() if p.requires_grad]
    for a, b in zip(torch.autograd.grad((single * weights).sum(), parameters, allow_unused=True),
                    torch.autograd.grad((grouped * weights).sum(), parameters, allow_unused=True), strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # T5's layer norm is float32 whatever the model's dtype
    if model.config.is_encoder_decoder:
        assert len(states) == 3  # "the cat" is encoded once


def test_a_row_does_not_feel_its_neighbours_padding(pair):
    model, tokenizer = pair
    batch, rows = batch_of(pair)
    together, _ = policy.score_completions(model, tokenizer, rows)
    alone = torch.cat([policy.score_completions(model, tokenizer, [r])[0] for r in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert model.training is False


def test_scores_come_back_in_the_rows_order_and_count_the_end_token(pair):
    model, tokenizer = pair
    _, rows = batch_of(pair)
    sums, lengths = policy.score_completions(model, tokenizer, rows, tokens_at_once=20)
    assert lengths.tolist() == [len(c) for _, c in rows] and all(c[-1] == tokenizer.eos_token_id for _, c in rows)
    backwards, _ = policy.score_completions(model, tokenizer, rows[::-1], tokens_at_once=40)
    torch.testing.assert_close(sums, backwards.flip(0), rtol=1e-5, atol=1e-5)


def test_a_nan_names_the_row(pair):
    import copy

    model = copy.deepcopy(pair[0])
    with torch.no_grad():
        next(iter(model.parameters())).fill_(float("nan"))
    with pytest.raises(ValueError, match="row 0: its log-probability"):
        policy.score_completions(model, pair[1], batch_of(pair)[1])


@pytest.mark.parametrize(("change", "message"), [
    (lambda b: {**b, "reduce": "max"}, "reduce is 'max'"),
    (lambda b: {**b, "labels": b["labels"][:2]}, "shapes do not fit"),
    (lambda b: {**b, "labels": torch.full_like(b["labels"], policy.IGNORE)}, "row 0 has no completion token"),
])
def test_bad_arguments_are_named(pair, change, message):
    batch, _ = batch_of(pair)
    ids, mask, labels = expanded(pair[0], batch)
    arguments = change({"input_ids": ids, "attention_mask": mask, "labels": labels, "reduce": "sum"})
    with pytest.raises(ValueError, match=message):
        policy.sequence_logps(pair[0], **arguments)


def test_bf16_logits_are_accumulated_in_float32():
    logits = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.tensor([[1, 2, 3], [4, 5, policy.IGNORE]])
    logps = policy.token_logps(logits, labels)
    assert logps.dtype == torch.float32 and logps[1, 2] == 0
    expected = torch.log_softmax(logits.float(), -1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(logps[0], expected[0])


def test_saved_policies_load_from_a_folder_with_dropout_off_and_strangers_are_named(tmp_path, tiny_t5):
    model, tokenizer = tiny_t5
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    loaded, _ = policy.load_policy(tmp_path / "m", dropout=0.25)
    assert {m.p for m in loaded.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}
    assert {m.dropout for m in loaded.modules() if isinstance(getattr(m, "dropout", None), float)} == {0.25}  # attention
    rows = policy.encode(tokenizer, PROMPTS, TEXTS, max_prompt_tokens=16, max_completion_tokens=16)
    torch.testing.assert_close(*(policy.score_completions(m, tokenizer, rows)[0] for m in (model.eval(), loaded)))
    with pytest.raises(ValueError, match="could not be loaded"):
        policy.load_policy(tmp_path / "nowhere")
