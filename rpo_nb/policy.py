"""Policies: load them, encode rows for them, and read the log-probability of a completion, for T5-like and causal models.

A policy is any transformers model of one of the two kinds; a reference is a policy that is not trained. One function gives
log-probabilities (`sequence_logps`); `grouped_logps` gives the same numbers for a batch of whole prompts, the encoder run
once a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

IGNORE = -100  # transformers' label for "no loss here"


def load_policy(path: str | Path, *, dropout: float = 0.0, bf16: bool = False, lora_rank: int = 0, shape: Any = None) -> tuple[nn.Module, Any]:
    """A model and its tokenizer from a folder or hub id, safetensors only, no remote code.

    dropout: rate set in every dropout layer (0: log-ratios are exactly 0 before the first step). lora_rank: above 0 wraps
    the model with peft; the reference is then the same model with its adapter switched off.
    Raises ValueError with the remedy when the model cannot be found.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    path = str(path)
    try:
        config = AutoConfig.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"model {path!r} could not be loaded ({str(error).splitlines()[0]}); give a folder or an accessible hub id") from error
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_pretrained(path, dtype=torch.bfloat16 if bf16 else torch.float32, use_safetensors=True)
    set_dropout(model, dropout)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if lora_rank:
        model = add_lora(model, lora_rank)
    return model, tokenizer


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set the rate of every dropout layer, whatever the model's configuration calls it."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        for name, value in vars(module).items():  # attention layers keep their rate as a number
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, rate)


def add_lora(model: nn.Module, rank: int) -> nn.Module:
    """The model with LoRA adapters on its attention projections (peft's own choice of modules for the architecture)."""
    from peft import LoraConfig, TaskType, get_peft_model

    kind = TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM
    return get_peft_model(model, LoraConfig(task_type=kind, r=rank, lora_alpha=2 * rank, lora_dropout=0.0))


def token_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """log-softmax of logits[..., V] at labels[...], in float32 (float64 stays), 0 where labels are −100."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    keep = labels != IGNORE
    chosen = logits.gather(-1, labels.where(keep, 0).unsqueeze(-1)).squeeze(-1)
    return (chosen - logits.logsumexp(-1)).where(keep, 0.0)


def reduce_logps(logps: Tensor, labels: Tensor, reduce: str) -> Tensor:
    """Token log-probabilities [n, T] to one number a row: their sum, or their mean over the labelled tokens."""
    if reduce not in ("sum", "mean"):
        raise ValueError(f"reduce is {reduce!r}; it must be 'sum' or 'mean'")
    total = logps.sum(-1)
    return total if reduce == "sum" else total / (labels != IGNORE).sum(-1).clamp(min=1)


def sequence_logps(model: nn.Module, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, *, reduce: str) -> Tensor:
    """log πθ(y|x) of each row, shape [n], float32 (float64 for a float64 model).

    T5-like: input_ids [n, S] is the prompt, labels [n, T] the completion. Causal: both are [n, S], the prompt's labels
    −100; the shift is done here. reduce: "sum" (paper A, eq. 19) or "mean" over the completion's tokens, its end token
    included (the authors' code). Raises ValueError for shapes that do not fit and for a row without a label.
    """
    seq2seq = model.config.is_encoder_decoder
    if input_ids.shape != attention_mask.shape or len(labels) != len(input_ids) or (not seq2seq and labels.shape != input_ids.shape):
        raise ValueError(f"shapes do not fit: input_ids {tuple(input_ids.shape)}, attention_mask {tuple(attention_mask.shape)}, "
                         f"labels {tuple(labels.shape)}")
    shifted = labels if seq2seq else labels[:, 1:]
    empty = (shifted == IGNORE).all(-1)
    if bool(empty.any()):
        raise ValueError(f"row {int(empty.nonzero()[0])} has no completion token left: every label is −100")
    if seq2seq:
        # The decoder reads the labels moved right; passing them as inputs spares the model its own unused loss.
        logits = model(input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=shift_right(model, labels), use_cache=False).logits
    else:
        logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits[:, :-1]
    return reduce_logps(token_logps(logits, shifted), shifted, reduce)


def shift_right(model: nn.Module, labels: Tensor) -> Tensor:
    """The decoder's inputs for these labels: the start token, then the labels without the last."""
    start = labels.new_full((len(labels), 1), model.config.decoder_start_token_id)
    return torch.cat([start, labels[:, :-1]], 1).masked_fill(torch.cat([start, labels[:, :-1]], 1) == IGNORE, model.config.pad_token_id)


def grouped_logps(model: nn.Module, batch: dict[str, Tensor], *, reduce: str) -> tuple[Tensor, Tensor]:
    """log πθ(y|x) [n] of a collated batch, and the prompts' hidden states that a value network reads: [U, S, d], or of a
    causal model the last layer's, [n, S, d].

    T5-like: the encoder runs once for each of the batch's U distinct prompts; row i reads states[group[i]]. Causal models
    run row by row.
    """
    labels = batch["labels"]
    if not model.config.is_encoder_decoder:
        out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, output_hidden_states=True)
        return reduce_logps(token_logps(out.logits[:, :-1], labels[:, 1:]), labels[:, 1:], reduce), out.hidden_states[-1]
    states = model.get_encoder()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    return decoder_logps(model, states, batch, reduce=reduce), states


def decoder_logps(model: nn.Module, states: Tensor, batch: dict[str, Tensor], *, reduce: str) -> Tensor:
    """log πθ of the batch's labels [n, T] under prompts that are already encoded, states [U, S, d]; T5-like models."""
    group, labels = batch["group"], batch["labels"]
    logits = model(encoder_outputs=(states[group],), attention_mask=batch["attention_mask"][group],
                   decoder_input_ids=shift_right(model, labels), use_cache=False).logits
    return reduce_logps(token_logps(logits, labels), labels, reduce)


def encode(tokenizer: Any, prompts: Sequence[str], completions: Sequence[str], *, max_prompt_tokens: int, max_completion_tokens: int,
           ) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompt and completion for each row, each truncated to its limit; the completion ends with the end token."""
    eos = tokenizer.eos_token_id

    def ids(texts, limit, end):
        distinct = list(dict.fromkeys(texts))
        encoded = tokenizer(distinct, add_special_tokens=False)["input_ids"] if distinct else []
        table = {t: e[: limit - 1] + [eos] if end else e[:limit] for t, e in zip(distinct, encoded, strict=True)}
        return [table[t] for t in texts]

    return list(zip(ids(prompts, max_prompt_tokens, is_t5_like(tokenizer)), ids(completions, max_completion_tokens, True), strict=True))


def is_t5_like(tokenizer: Any) -> bool:
    """T5's tokenizers end every text with the end token; causal ones do not end a prompt."""
    return tokenizer("a")["input_ids"][-1:] == [tokenizer.eos_token_id]


def collate(rows: Sequence[tuple[list[int], list[int]]], *, pad_id: int, seq2seq: bool) -> dict[str, Tensor]:
    """Encoded rows to a batch: input_ids and attention_mask, labels [n, T], group [n] (row → its prompt, 0 to U−1).

    T5-like: the inputs are the U distinct prompts, [U, S]. Causal: every row's prompt and completion, [n, S].
    """
    from torch.nn.utils.rnn import pad_sequence

    index = {prompt: i for i, prompt in enumerate(dict.fromkeys(tuple(prompt) for prompt, _ in rows))}
    if seq2seq:
        inputs, labels = list(index), [c for _, c in rows]
    else:
        inputs, labels = [p + c for p, c in rows], [[IGNORE] * len(p) + c for p, c in rows]
    tensors = [torch.tensor(i) for i in inputs]
    return {
        "input_ids": pad_sequence(tensors, batch_first=True, padding_value=pad_id),
        "attention_mask": pad_sequence([torch.ones_like(t) for t in tensors], batch_first=True),
        "labels": pad_sequence([torch.tensor(x) for x in labels], batch_first=True, padding_value=IGNORE),
        "group": torch.tensor([index[tuple(prompt)] for prompt, _ in rows]),
    }


def exchange(batch: dict[str, Tensor], index: Tensor, *, pad_id: int) -> dict[str, Tensor]:
    """A causal model's batch in which row i keeps its prompt and takes the completion of row index[i]."""
    rows = zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
    prompts = [row[(mask == 1) & (labels == IGNORE)].tolist() for row, mask, labels in rows]
    completions = [labels[labels != IGNORE].tolist() for labels in batch["labels"]]
    rows = collate([(prompts[i], completions[j]) for i, j in enumerate(index.tolist())], pad_id=pad_id, seq2seq=False)
    return {name: tensor.to(index.device) for name, tensor in rows.items()}


def score_completions(model: nn.Module, tokenizer: Any, rows: Sequence[tuple[list[int], list[int]]], *, batch_size: int = 256) -> tuple[Tensor, Tensor]:
    """Sum of the completion's log-probabilities [n] and its number of tokens [n], in length-sorted batches; no gradient.

    Raises ValueError naming the row when a log-probability is not finite.
    """
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i][0]), len(rows[i][1])), reverse=True)
    sums = torch.empty(len(rows), dtype=torch.float32)
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chunk = order[start : start + batch_size]
            batch = collate([rows[i] for i in chunk], pad_id=tokenizer.pad_token_id, seq2seq=model.config.is_encoder_decoder)
            sums[chunk] = grouped_logps(model, {k: v.to(device) for k, v in batch.items()}, reduce="sum")[0].float().cpu()
    model.train(training)
    bad = (~sums.isfinite()).nonzero()
    if len(bad):
        raise ValueError(f"row {int(bad[0])}: its log-probability under the model is {float(sums[bad[0]])}; check the model's weights and dtype")
    return sums, torch.tensor([len(c) for _, c in rows])
