"""Policies: load them, encode rows for them, and read the log-probability of a completion, for T5-like and causal models.

A policy is any transformers model of one of the two kinds; a reference is a policy that is not trained. One function gives
log-probabilities (`sequence_logps`); `grouped_logps` gives the same numbers for a batch of whole prompts, the encoder run
once a prompt.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rpo_nb import checks, hub
from rpo_nb.encoding import Prompt, encode, is_t5_like  # noqa: F401 - part of this module's face
from rpo_nb.forward import (
    IGNORE, causal_states, core_of, decoder_states, depends_on_the_batch, encoder_states, head_of,
    joined, refuse_what_padding_changes, shift_right, told, unused_search)  # noqa: F401
from rpo_nb.prefixes import buckets, overhead, read_prompts, worth_keeping

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
        tokenizer = load_tokenizer(adapter or path, config)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = auto.from_pretrained(path, dtype=torch.bfloat16 if bf16 else torch.float32, use_safetensors=True,
                                     trust_remote_code=False,
                                     **quantization(quantize))
    except (OSError, ValueError) as error:
        found = hub.problem(error, path)
        raise ValueError(f"model {path!r} could not be loaded: {found.reason}; {found.remedy}") from error
    refuse_what_padding_changes(model)
    for said in filter(None, (depends_on_the_batch(model), unused_search(model))):
        warnings.warn(said)
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


def load_tokenizer(path: str | Path, config: Any = None) -> Any:
    """A policy's tokenizer; one without a padding token pads with the end token. It remembers in
    `for_causal_model` whom it encodes for (see `encoding.is_causal`). config: the model's, where it is known."""
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    config = config or AutoConfig.from_pretrained(path, trust_remote_code=False)
    tokenizer.for_causal_model = not config.is_encoder_decoder
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
            elif not rate and re.search("layerdrop|jitter", name) and isinstance(value, float):
                setattr(module, name, 0.0)  # dropped layers (NLLB) and noisy routers (Switch) are random too


def add_lora(model: nn.Module, rank: int) -> nn.Module:
    """The model with LoRA adapters on its attention projections (peft's own choice of modules for the architecture)."""
    from peft import LoraConfig, TaskType, get_peft_model

    kind = TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM
    config = LoraConfig(task_type=kind, r=rank, lora_alpha=2 * rank, lora_dropout=0.0)
    try:
        return get_peft_model(model, config)
    except ValueError as error:  # peft asks for names of modules, and not of which model
        raise ValueError(f"training.lora is true, but peft knows no attention projections of a "
                         f"{type(model).__name__} ({told(error)}); set it to false, or use another "
                         "architecture") from error


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
    head_of(model)  # an architecture that is refused is, before its layers fail
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
    head = head_of(model)
    rows = max(1, LOGITS_AT_ONCE // head.weight.shape[0])

    def project(part: Tensor, targets: Tensor) -> Tensor:
        return token_logps(head(part), targets)

    if core_of(model) in _LIGER:
        values = -_LIGER[core_of(model)](chosen * head.factor, head.weight, wanted, bias=head.module.bias, reduction="none")
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

    core, head = core_of(model), head_of(model)
    if head.cap or head.bias is not None:
        raise ValueError(f"training.liger is true, but {type(core).__name__} caps or shifts its logits, which "
                         "the fused kernel is not asked to do here; set it to false")
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
    head_of(model)  # as in `sequence_logps`
    ids, mask, group = batch["input_ids"], batch["attention_mask"], batch["group"]
    wanted = {name: batch[name] for name in ("labels", "mismatched") if name in batch}
    longest = ids.shape[1] + max(labels.shape[1] for labels in wanted.values())
    keep = worth_keeping(model, len(ids), len(wanted) * len(group), ids.shape[1], longest)
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


def collate(rows: Sequence[tuple[list[int], list[int]]], *, pad_id: int, mismatched: Sequence[list[int]] = (),
            items: Sequence[int] | None = None, width: int = 0) -> dict[str, Tensor]:
    """Encoded rows to a batch: input_ids and attention_mask [U, S] of the U prompts, labels [n, T] of the completions, group [n]
    (row → its prompt, 0 to U−1), and labels of the rows' mismatched completions where they are given; padded on the right.

    items [n]: numbers that keep apart prompts of equal tokens; without them they are one, which is right where prompts are only
    read. width: S is at least that.
    """
    from torch.nn.utils.rnn import pad_sequence

    def padded(sequences: Sequence[Sequence[int]], value: int) -> Tensor:
        return pad_sequence([torch.tensor(s) for s in sequences], batch_first=True, padding_value=value)

    numbers = [0] * len(rows) if items is None else items
    names = [(number, tuple(prompt)) for number, (prompt, _) in zip(numbers, rows, strict=True)]
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    prompts = [prompt for _, prompt in index]
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
