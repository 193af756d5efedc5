"""Policies: load them, encode rows for them, and read the log-probability of a completion, for T5-like and causal models.

A policy is any transformers model of one of the two kinds; a reference is a policy that is not trained. One function gives
log-probabilities (`sequence_logps`); `grouped_logps` gives the same numbers for a batch of whole prompts, the encoder run
once a prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rpo_nb import checks, hub
from rpo_nb.fitting import cut_in_the_middle, cut_template, newest_turns
from rpo_nb.prefixes import (
    IGNORE, buckets, causal_states, core_of, decoder_states, encoder_states, joined, overhead, read_prompts, shift_right, worth_keeping)

LOGITS_AT_ONCE = 2**25  # of the vocabulary projection: 128 MB in float32


def device() -> torch.device:
    """Where models go: this process's GPU when there is one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def load_policy(path: str | Path, *, dropout: float = 0.0, bf16: bool = False, lora_rank: int = 0, quantize: str = "none",
                gradient_checkpointing: bool = False, liger: bool = False, base: str | Path = "") -> tuple[nn.Module, Any]:
    """A model and its tokenizer from a folder or hub id, safetensors only, no remote code.

    dropout: rate set in every dropout layer (0: log-ratios are exactly 0 before the first step). bf16: hold the weights in
    bfloat16; for weights that are not trained only, updates of 1e-4 would be lost in its 8 bits. lora_rank: above 0 wraps the
    model with peft; the reference is then the same model with its adapter switched off. quantize "4bit": the weights in
    NF4 (QLoRA; bitsandbytes and a CUDA GPU). liger: see `use_liger`. base: of a folder that holds an adapter only, the model it was trained on, where
    that is another place than the adapter says. Raises ValueError with the remedy when the model cannot be found.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    path = str(path)
    adapter = path if (Path(path) / "adapter_config.json").is_file() else ""
    try:
        if adapter:
            from peft import PeftConfig

            if not list(Path(adapter).glob("*.safetensors")):  # peft would unpickle what is there instead
                raise ValueError(f"model {path!r} has no adapter in safetensors; save it with save_pretrained")
            path = str(base) or PeftConfig.from_pretrained(adapter).base_model_name_or_path
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        tokenizer = load_tokenizer(adapter or path)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = auto.from_pretrained(path, dtype=torch.bfloat16 if bf16 else torch.float32, use_safetensors=True,
                                     trust_remote_code=False,
                                     **quantization(quantize))
    except (OSError, ValueError) as error:
        found = hub.problem(error, path)
        raise ValueError(f"model {path!r} could not be loaded: {found.reason}; {found.remedy}") from error
    set_dropout(model, dropout)
    if quantize == "none":
        model = model.to(device())
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    elif lora_rank:
        model = add_lora(model, lora_rank)
    if liger:
        use_liger(model)
    return model, tokenizer


def load_tokenizer(path: str | Path) -> Any:
    """A policy's tokenizer; one without a padding token pads with the end token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def quantization(kind: str) -> dict[str, Any]:
    """Keyword arguments of from_pretrained for frozen weights in 4 bits (QLoRA's NF4). Raises ValueError without GPU or package."""
    if kind == "none":
        return {}
    if not torch.cuda.is_available():
        raise ValueError("training.quantize is '4bit', which needs a CUDA GPU; set it to none")
    if find_spec("bitsandbytes") is None:  # transformers' own message comes only after the download
        raise ValueError("training.quantize is '4bit', which needs bitsandbytes; pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    return {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                                      bnb_4bit_compute_dtype=torch.bfloat16), "device_map": {"": device()}}


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[nn.Module]:
    """The reference inside a LoRA policy: the same model with its adapter switched off, in evaluation mode."""
    training = model.training
    model.eval()
    try:
        with model.disable_adapter():
            yield model
    finally:
        model.train(training)


def autocast(enabled: bool) -> Any:
    """Computation in bfloat16 where it is safe, as transformers' Trainer does it: reference and policy must compute alike."""
    return torch.autocast(device().type, torch.bfloat16, enabled=enabled)


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
    losses = nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORE, reduction="none")
    return -losses.view(labels.shape)


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
        hidden = decoder_states(model, encoder_states(model, input_ids, attention_mask), attention_mask, labels)
    else:
        hidden = causal_states(model, input_ids, attention_mask)[:, :-1]
    return reduce_logps(completion_logps(model, hidden, shifted), shifted, reduce)


def completion_logps(model: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    """log π of labels [n, T] from the states [n, T, d] that predict them, [n, T] float32 (float64 stays), 0 where −100.

    Only labelled positions are projected to the vocabulary, LOGITS_AT_ONCE numbers at a time, and where that takes several
    pieces each is computed again in the backward pass: a full float32 block of logits never stands.
    """
    keep = labels != IGNORE
    chosen, wanted = hidden[keep], labels[keep]
    head, factor = _head(model)
    rows = max(1, LOGITS_AT_ONCE // head.weight.shape[0])

    def project(part: Tensor, targets: Tensor) -> Tensor:
        return token_logps(head(part * factor if factor != 1 else part), targets)

    if core_of(model) in _LIGER:
        values = -_LIGER[core_of(model)](chosen * factor, head.weight, wanted, bias=head.bias, reduction="none")
    elif len(chosen) <= rows:
        values = project(chosen, wanted)
    else:
        values = torch.cat([checkpoint(project, part, targets, use_reentrant=False)
                            for part, targets in zip(chosen.split(rows), wanted.split(rows), strict=True)])
    return values.new_zeros(labels.shape).masked_scatter(keep, values)


_LIGER: WeakKeyDictionary = WeakKeyDictionary()  # models whose projection is Liger's kernel


def use_liger(model: nn.Module) -> None:
    """Let Liger's fused kernel project the completions of a model to the vocabulary, on a CUDA GPU.

    Tried first on a few random states: ValueError when its log-probabilities or, as in versions before 0.8.2, its gradients are
    not ours, and without GPU or package.
    """
    if not torch.cuda.is_available():
        raise ValueError("training.liger is true, which needs a CUDA GPU; set it to false")
    if find_spec("liger_kernel") is None:
        raise ValueError("training.liger is true, which needs liger-kernel; pip install 'liger-kernel>=0.8.2'")
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    core, head = core_of(model), _head(model)[0]
    place = {"device": head.weight.device, "dtype": head.weight.dtype}
    states = torch.randn(2, 8, head.weight.shape[1], generator=torch.Generator().manual_seed(0)).to(**place).requires_grad_()
    labels = torch.arange(16, device=head.weight.device).reshape(2, 8)
    found = []
    for kernel in (None, liger_fused_linear_cross_entropy):
        if kernel:
            _LIGER[core] = kernel
        logps = completion_logps(model, states, labels)
        found.append((logps.detach(), torch.autograd.grad((logps * torch.linspace(-1, 2, 16, device=logps.device).view(2, 8)).sum(), states)[0]))
    if not all(torch.allclose(ours.float(), theirs.float(), rtol=2e-2, atol=2e-2 * float(ours.abs().max()))
               for ours, theirs in zip(*found, strict=True)):
        del _LIGER[core]
        raise ValueError("training.liger is true, but this liger-kernel gives other log-probabilities or gradients; "
                         "pip install -U 'liger-kernel>=0.8.2' or set it to false")


_HEADS: WeakKeyDictionary = WeakKeyDictionary()


def _head(model: nn.Module) -> tuple[nn.Module, float]:
    """A model's projection to the vocabulary and the factor that its states are multiplied with first (T5 1.0 has one).

    Checked once a model against its own logits: an architecture that does more between the last state and the logits (soft
    capping, say) is refused by name instead of being trained on other probabilities than it generates with.
    """
    core = core_of(model)
    if core not in _HEADS:
        config, head, training = core.config, core.get_output_embeddings(), core.training
        factors = [1.0, *(1 / config.logits_scaling for _ in range(hasattr(config, "logits_scaling"))),
                   *(config.logit_scale for _ in range(hasattr(config, "logit_scale"))),
                   *(config.d_model**-0.5 for _ in range(config.is_encoder_decoder))]
        ids = torch.arange(4, device=head.weight.device).unsqueeze(0) % head.weight.shape[0]
        mask = torch.ones_like(ids)
        core.eval()
        with torch.no_grad():
            if config.is_encoder_decoder:
                states = encoder_states(core, ids, mask)
                hidden = decoder_states(core, states, mask, ids)
                theirs = core(encoder_outputs=(states,), attention_mask=mask, decoder_input_ids=shift_right(core, ids), use_cache=False).logits
            else:
                hidden, theirs = causal_states(core, ids, mask), core(input_ids=ids, attention_mask=mask, use_cache=False).logits
            near = 2e-2 * float(theirs.nan_to_num().abs().max())  # broken weights are the row's error, told where it is scored
            fits = [f for f in factors if torch.allclose(head(hidden * f).float(), theirs.float(), rtol=0, atol=near, equal_nan=True)]
        core.train(training)
        if not fits:
            raise ValueError(f"{type(core).__name__}: its logits are not a plain projection of its last states, which the log-probabilities "
                             "here rely on; use another architecture")
        _HEADS[core] = fits[0]
    return core.get_output_embeddings(), _HEADS[core]


@dataclass(frozen=True)
class Scored:
    """What `grouped_logps` says of n completions of U prompts."""

    logps: Tensor  # [n], with gradient
    states: Tensor  # [U, S, d], what a value network reads: the encoder's states of the prompts, of a causal model its last layer's
    mismatched: Tensor | None  # [n], without gradient: of the mismatched completions, where the batch has them


def grouped_logps(model: nn.Module, batch: dict[str, Tensor], *, reduce: str, exact_padding: bool = False) -> Scored:
    """log πθ(y|x) of a batch of `collate`, each prompt read once for all its completions (see `prefixes`).

    Prompts, and the completions of the prompts read together, are passed in buckets of near lengths, so that little padding is
    computed; exact_padding: all at once, padded as the batch is. Gradients are those of `sequence_logps` on whole rows.
    """
    ids, mask, group = batch["input_ids"], batch["attention_mask"], batch["group"]
    wanted = {name: batch[name] for name in ("labels", "mismatched") if name in batch}
    keep = worth_keeping(model, len(ids), len(wanted) * len(group), ids.shape[1])
    if not (keep or model.config.is_encoder_decoder):
        return _whole_rows(model, batch, reduce, exact_padding)
    states, logps = [], {name: [] for name in wanted}
    for prompts, width in _buckets(model, mask, exact_padding):
        rows, place = _rows_of(prompts, group, len(ids))
        read = read_prompts(model, ids[prompts, :width], mask[prompts, :width], keep=keep)
        states.append((prompts, nn.functional.pad(read.states, (0, 0, 0, ids.shape[1] - width))))
        for name, labels in wanted.items():
            with torch.set_grad_enabled(torch.is_grad_enabled() and name == "labels"):
                for some, longest in _buckets(model, labels[rows] != IGNORE, exact_padding):
                    part = labels[rows[some], :longest]
                    found = completion_logps(model, read.hidden(place[some], part), part)
                    logps[name].append((rows[some], reduce_logps(found, part, reduce)))
    values = {name: _in_order(parts) for name, parts in logps.items()}
    return Scored(values["labels"], _in_order(states), values.get("mismatched"))


def _whole_rows(model: nn.Module, batch: dict[str, Tensor], reduce: str, exact_padding: bool) -> Scored:
    """`grouped_logps` of a causal model that reads every row whole."""
    ids, group = batch["input_ids"], batch["group"]
    first = torch.zeros(len(ids), dtype=group.dtype, device=group.device)
    first[group.flip(0)] = torch.arange(len(group), device=group.device).flip(0)  # each prompt's first row
    values, prompts = {}, []
    for name in (name for name in ("labels", "mismatched") if name in batch):
        rows, mask, labels = joined(ids, batch["attention_mask"], group, batch[name])
        logps = []
        with torch.set_grad_enabled(torch.is_grad_enabled() and name == "labels"):
            for some, longest in _buckets(model, mask, exact_padding):
                states = causal_states(model, rows[some, :longest], mask[some, :longest])
                part = labels[some, 1:longest]
                logps.append((some, reduce_logps(completion_logps(model, states[:, :-1], part), part, reduce)))
                if name == "labels":
                    states = nn.functional.pad(states, (0, 0, 0, rows.shape[1] - longest))[:, : ids.shape[1]]
                    prompts.append((some, states))
        values[name] = _in_order(logps)
    return Scored(values["labels"], _in_order(prompts)[first], values.get("mismatched"))


def _buckets(model: nn.Module, mask: Tensor, exact_padding: bool) -> Iterator[tuple[Tensor, int]]:
    """(rows, width) of each bucket that rows padded on the right [n, S] are passed in."""
    lengths = mask.sum(1).tolist()
    for rows in [list(range(len(mask)))] if exact_padding else buckets(lengths, overhead(model)):
        yield torch.tensor(rows, device=mask.device), mask.shape[1] if exact_padding else max(lengths[i] for i in rows)


def _rows_of(prompts: Tensor, group: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The rows [m] of some of the prompts, and which of them each belongs to [m]."""
    place = torch.full((number,), -1, device=group.device).index_copy(0, prompts, torch.arange(len(prompts), device=group.device))
    rows = (place[group] >= 0).nonzero().squeeze(1)
    return rows, place[group[rows]]


def _in_order(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Values by their indices, of (indices, values)."""
    return torch.cat([values for _, values in parts])[torch.cat([index for index, _ in parts]).argsort()]


Prompt = str | list[dict[str, str]]  # a text, or the messages of a conversation


def encode(tokenizer: Any, prompts: Sequence[Prompt], completions: Sequence[str], *, max_prompt_tokens: int, max_completion_tokens: int,
           ) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompt and completion for each row, each truncated to its limit; the completion ends with the end token.

    A prompt goes through the tokenizer's chat template where it has one (a text is one user message). Too long a prompt
    is cut in its middle, a conversation loses its oldest turns first (`fitting`); a completion loses its end. Others read a conversation as plain text
    (`data.render`), and T5's tokenizers end every prompt with the end token.
    """
    def distinct(texts: Sequence[Any], ids: Callable[[list], list[list[int]]]) -> list[list[int]]:
        keys = [text if isinstance(text, str) else json.dumps(text) for text in texts]
        first = dict(zip(reversed(keys), reversed(texts), strict=True))
        table = dict(zip(first, ids(list(first.values())) if first else [], strict=True))
        return [table[key] for key in keys]

    def plain(texts: list[str], limit: int, end: bool) -> list[list[int]]:
        encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]  # what is too long is cut here
        return [ids[: limit - 1] + [tokenizer.eos_token_id] if end else ids[:limit] for ids in encoded]

    def asked(conversations: list[Prompt]) -> list[list[int]]:
        if getattr(tokenizer, "chat_template", None):
            return [cut_template(_messages(c), partial(_template_ids, tokenizer), max_prompt_tokens) for c in conversations]
        end = is_t5_like(tokenizer)
        whole = plain([_rendered(c) for c in conversations], 10**9, end)
        return [ids if len(ids) <= max_prompt_tokens else _cut_text(tokenizer, c, max_prompt_tokens, end)
                for c, ids in zip(conversations, whole, strict=True)]

    answers = distinct(completions, lambda texts: plain(texts, max_completion_tokens, True))
    return list(zip(distinct(prompts, asked), answers, strict=True))


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _template_ids(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """Ids of a conversation in the chat template, with its opening of the answer."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _rendered(prompt: Prompt) -> str:
    from rpo_nb.data import render

    return prompt if isinstance(prompt, str) else render(prompt)


def _cut_text(tokenizer: Any, prompt: Prompt, limit: int, end: bool) -> list[int]:
    """Ids of a prompt without a template that has more than `limit`, the end token among them where it has one."""
    def ids_of(messages: Prompt) -> list[int]:
        return tokenizer(_rendered(messages), add_special_tokens=False, verbose=False)["input_ids"]

    kept = newest_turns(_messages(prompt), lambda some: len(ids_of(some)) <= limit - end)
    return cut_in_the_middle(ids_of(kept), limit - end) + [tokenizer.eos_token_id] * end


def is_t5_like(tokenizer: Any) -> bool:
    """T5's tokenizers end every text with the end token; causal ones do not end a prompt."""
    return tokenizer("a")["input_ids"][-1:] == [tokenizer.eos_token_id]


def collate(rows: Sequence[tuple[list[int], list[int]]], *, pad_id: int, mismatched: Sequence[list[int]] = (),
            items: Sequence[int] | None = None, width: int = 0) -> dict[str, Tensor]:
    """Encoded rows to a batch: input_ids and attention_mask [U, S] of the U prompts, labels [n, T] of the completions, group [n]
    (row → its prompt, 0 to U−1), and labels of the rows' mismatched completions where they are given; padded on the right.

    items [n]: numbers that say which rows are of one prompt, whatever its tokens; without them rows of equal tokens are, which is
    right where a prompt is only read. width: S is at least that.
    """
    from torch.nn.utils.rnn import pad_sequence

    def padded(sequences: Sequence[Sequence[int]], value: int) -> Tensor:
        return pad_sequence([torch.tensor(s) for s in sequences], batch_first=True, padding_value=value)

    names = [tuple(prompt) for prompt, _ in rows] if items is None else list(items)
    first = {name: prompt for name, (prompt, _) in zip(reversed(names), reversed(rows), strict=True)}
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    prompts = [first[name] for name in index]
    batch = {
        "input_ids": padded(prompts, pad_id),
        "attention_mask": padded([[1] * len(prompt) for prompt in prompts], 0),
        "labels": padded([completion for _, completion in rows], IGNORE),
        "group": torch.tensor([index[name] for name in names]),
    }
    wide = max(0, width - batch["input_ids"].shape[1])
    for name, value in (("input_ids", pad_id), ("attention_mask", 0)):
        batch[name] = nn.functional.pad(batch[name], (0, wide), value=value)
    return batch | {"mismatched": padded(mismatched, IGNORE)} if mismatched else batch


def score_completions(model: nn.Module, tokenizer: Any, rows: Sequence[tuple[list[int], list[int]]], *, bf16: bool = False,
                      tokens_at_once: int = 32768) -> tuple[Tensor, Tensor]:
    """Sum of the completion's log-probabilities [n] and its number of tokens [n], in length-sorted batches; no gradient.

    bf16: compute as a training step in bf16 does. tokens_at_once: padded tokens of prompt and completion in one batch. Raises
    ValueError naming the row when a log-probability is not finite.
    """
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i][0]), rows[i][0], len(rows[i][1])), reverse=True)  # equal prompts together
    sums = torch.empty(len(rows), dtype=torch.float32)
    training, place, start = model.training, next(model.parameters()).device, 0
    model.eval()
    with torch.inference_mode(), autocast(bf16), checks.memory_advice("scoring completions", "set training.lora or training.bf16"):
        while start < len(order):
            longest = sum(max(len(rows[i][side]) for i in order[start : start + 256]) for side in (0, 1))
            chunk = order[start : start + max(1, min(256, tokens_at_once // longest))]
            batch = collate([rows[i] for i in chunk], pad_id=tokenizer.pad_token_id)
            sums[chunk] = grouped_logps(model, {k: v.to(place) for k, v in batch.items()}, reduce="sum").logps.float().cpu()
            start += len(chunk)
    model.train(training)
    bad = (~sums.isfinite()).nonzero()
    if len(bad):
        raise checks.NotFinite(f"row {int(bad[0])}: its log-probability under the model is {float(sums[bad[0]])}; check the model's weights and "
                               "dtype")
    return sums, torch.tensor([len(c) for _, c in rows])
