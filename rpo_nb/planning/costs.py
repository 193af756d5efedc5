"""What a model costs: parameters, memory and arithmetic, from its configuration alone (no weight is
loaded).

Memory of a training step is weights, gradients, AdamW's two moments and what the backward pass
needs of the forward pass; the last is counted by running the model's own forward pass on torch's
meta device, which has shapes and no numbers.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.benchmark import Timer

from rpo_nb.config.schema import TrainingConfig
from rpo_nb.policy.load import add_lora, set_dropout
from rpo_nb.policy.logps import LOGITS_AT_ONCE

GIB = 2**30
CONTEXT = 0.6 * GIB  # what CUDA itself takes
# of the activations: with what a step's passing tensors and the allocator take (four measured on a
# CPU)
TEMPORARIES = 1.15
# of the way from bf16's activations to float32's: the norms and the residual stream (T5 and Llama,
# saved tensors)
AUTOCAST = 0.2


# Devices ------------------------------------------------------------------------------------------


class GPU(NamedTuple):
    """Dense peaks in TFLOP/s as the maker states them, bandwidth in GB/s, memory in GiB as CUDA
    shows it."""

    name: str
    bf16: float  # 0: none
    fp32: float
    bandwidth: float
    memory: float


SLOW_HALF = 1.5  # so many times as long in bfloat16 is worth a sentence
GPUS = (
    GPU("T4", 0, 8.1, 320, 14.7),
    GPU("L4", 121, 30.3, 300, 22.0),
    GPU("RTX 4090", 165, 82.6, 1008, 23.5),
    GPU("A10", 125, 31.2, 600, 22.0),
    GPU("A10G", 70, 31.2, 600, 22.0),
    GPU("A100 40GB", 312, 19.5, 1555, 39.4),
    GPU("A100 80GB", 312, 19.5, 2039, 79.1),
    GPU("H100", 989, 67.0, 3350, 79.1),
    GPU("H100 PCIe", 756, 51.0, 2000, 79.1),
    GPU("H200", 989, 67.0, 4800, 139.8),
)


@dataclass(frozen=True)
class Device:
    """Where a run would be: rates in FLOP/s and bytes/s, memory in bytes."""

    name: str
    bf16: float
    fp32: float
    bandwidth: float
    memory: int
    source: str  # where the rates are from

    @property
    def cpu(self) -> bool:
        return self.name.startswith("CPU")

    def rate(self, half: bool) -> float:
        return self.bf16 if half and self.bf16 else self.fp32


def known_gpu(name: str) -> GPU | None:
    """The GPU of the table whose words all stand in a device name ("NVIDIA A100-SXM4-80GB"), the
    most words first."""
    words = {word.lower() for word in re.findall(r"[A-Za-z0-9]+", name)}
    fitting = [gpu for gpu in GPUS if set(gpu.name.lower().split()) <= words]
    return max(fitting, key=lambda gpu: len(gpu.name.split()), default=None)


def device(name: str = "") -> Device:
    """This machine's GPU or, without one, its CPU; or a GPU of the table by name. Raises ValueError
    for a name not in it."""
    here = not name and torch.cuda.is_available()
    told = torch.cuda.get_device_name() if here else name
    gpu = known_gpu(told) if told else None
    if name and not gpu:
        raise ValueError(
            f"--gpu {name!r} is not in the table; it has {', '.join(gpu.name for gpu in GPUS)}"
        )
    if gpu:
        memory = torch.cuda.get_device_properties(0).total_memory if here else int(gpu.memory * GIB)
        return Device(
            told if here else gpu.name,
            gpu.bf16 * 1e12,
            gpu.fp32 * 1e12,
            gpu.bandwidth * 1e9,
            memory,
            "the maker's dense peak",
        )
    where, source = torch.device("cuda" if here else "cpu"), "a matrix product timed here"
    fp32 = probe(where, torch.float32)
    if here:
        memory = torch.cuda.get_device_properties(0).total_memory
        return Device(told, probe(where, torch.bfloat16), fp32, copy_rate(where), memory, source)
    import psutil

    return Device(
        f"CPU ({torch.get_num_threads()} threads)",
        probe(where, torch.bfloat16),
        fp32,
        copy_rate(where),
        psutil.virtual_memory().total,
        source,
    )


def probe(where: torch.device, dtype: torch.dtype, seconds: float = 2.0, size: int = 1024) -> float:
    """FLOP/s of square matrix products, measured for about this long: the three of a layer, x W.T
    forward, g W and g.T x backward. A CPU without bfloat16 arithmetic is not alike slow at them."""
    a = torch.randn(size, size, device=where).to(dtype)
    return _timed(lambda: (a @ a.T, a @ a, a.T @ a), seconds) * 3 * 2 * size**3


def slow_half(training: TrainingConfig, rates: tuple[float, float] | None = None) -> str:
    """A sentence where training.bf16 is set and this machine's CPU, without a GPU, is notably
    slower in bfloat16 than in float32: one without such arithmetic (avx512_bf16, amx_bf16) takes
    tens of times as long. "" elsewhere.

    rates: FLOP/s in bfloat16 and in float32; measured in half a second where not given.
    """
    if not training.bf16 or (rates is None and torch.cuda.is_available()):
        return ""
    kinds, cpu = (torch.bfloat16, torch.float32), torch.device("cpu")
    half, single = rates or (probe(cpu, kind, seconds=0.2, size=512) for kind in kinds)
    if single < SLOW_HALF * half:
        return ""
    return (
        f"training.bf16 is true, and a layer's matrix products take this CPU {single / half:.0f} "
        "times as long in bfloat16 as in float32; use --set training.bf16=false (in a notebook: a "
        "profile file of your own with it) or, to go on with an earlier run, a machine with such "
        "arithmetic (a GPU, avx512_bf16, amx_bf16)"
    )


def copy_rate(where: torch.device, seconds: float = 0.3) -> float:
    """Bytes a second that memory gives: reads and writes of a copy."""
    a = torch.empty(2**26, dtype=torch.uint8, device=where).fill_(1)
    b = torch.empty_like(a)
    return _timed(lambda: b.copy_(a), seconds) * 2 * a.nbytes


def _timed(work: Callable[[], Any], seconds: float) -> float:
    """Calls a second, by the median of blocks of calls; torch warms up and waits for a GPU."""
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return 1 / timer.blocked_autorange(min_run_time=seconds).median


# Models -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters. encoder and decoder without their embeddings (a causal model is all
    decoder)."""

    all: int
    encoder: int
    decoder: int
    head: int  # the projection to the vocabulary
    trained: int  # with LoRA the adapters'

    def forward(self, encoded: float, decoded: float, projected: float) -> float:
        """FLOPs of a forward pass over so many tokens: two for each parameter and token,
        attention's products left out."""
        return 2 * (self.encoder * encoded + self.decoder * decoded + self.head * projected)


def empty_model(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    """The model of a transformers configuration on the meta device: all its shapes, none of its
    numbers."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config, dtype=dtype, trust_remote_code=False)
    # T5 1.1 and Flan have a head of their own, which transformers 5 ties
    if not getattr(config, "scale_decoder_outputs", True):
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers 5's and peft's warnings about names that change in version 6."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def parameters(config: Any, training: TrainingConfig) -> Parameters:
    """The parameters of a configuration, trained as `training` says."""
    model = empty_model(config)
    head = model.get_output_embeddings().weight
    embeddings = (model.get_input_embeddings().weight, head)
    named = {name: p for name, p in model.named_parameters() if not any(p is e for e in embeddings)}
    encoder = sum(p.numel() for name, p in named.items() if name.startswith("encoder."))
    everything = sum(p.numel() for p in model.parameters())
    trained = everything
    if training.lora:
        with torch.device("meta"), _quiet():
            trained = sum(
                p.numel()
                for p in add_lora(model, training.lora_rank).parameters()
                if p.requires_grad
            )
    return Parameters(
        everything, encoder, sum(p.numel() for p in named.values()) - encoder, head.numel(), trained
    )


def activations(
    config: Any,
    training: TrainingConfig,
    *,
    rows: int,
    prompts: int,
    prompt_tokens: int,
    completion_tokens: int,
    dropout: float = 0.0,
) -> float:
    """Bytes that the backward pass keeps of a forward pass over a padded micro-batch.

    rows: completions in it; prompts: their distinct prompts, read once each. Counted on the meta
    device; causal models' attention is taken as a fused kernel, which keeps no scores, T5's (with
    its learnt bias) as the plain one, and the copies of a prompt's keys and values that its
    completions read are left out.
    """

    def kept(dtype: torch.dtype) -> int:
        model = empty_model(config, dtype).train()
        set_dropout(model, dropout)
        if training.gradient_checkpointing:
            with _quiet():
                model.gradient_checkpointing_enable(
                    gradient_checkpointing_kwargs={"use_reentrant": False}
                )
        with torch.device("meta"):
            if config.is_encoder_decoder:
                return _saved(
                    lambda: _t5_pass(model, rows, prompts, prompt_tokens, completion_tokens),
                    model,
                    scores=None,
                )
            length = prompt_tokens + completion_tokens
            whole = (
                rows
                if training.gradient_checkpointing
                else -(-(prompts * prompt_tokens + rows * completion_tokens) // length)
            )
            return _saved(lambda: _causal_pass(model, whole, length, dtype), model, scores=length)

    whole = kept(torch.float32)
    if not training.bf16:
        return whole
    half = kept(torch.bfloat16)
    return half if training.lora else half + AUTOCAST * (whole - half)


def _t5_pass(
    model: Any, rows: int, prompts: int, prompt_tokens: int, completion_tokens: int
) -> Any:
    states = model.get_encoder()(
        input_ids=torch.zeros(prompts, prompt_tokens, dtype=torch.long)
    ).last_hidden_state
    states = states.repeat_interleave(-(-rows // prompts), 0)[:rows]
    return model.get_decoder()(
        input_ids=torch.zeros(rows, completion_tokens, dtype=torch.long),
        encoder_hidden_states=states,
        use_cache=False,
    ).last_hidden_state


def _causal_pass(model: Any, rows: int, length: int, dtype: torch.dtype) -> Any:
    # A mask of four dimensions is taken as it is; transformers would look into one of two, and here
    # are no numbers.
    return model.get_decoder()(
        input_ids=torch.zeros(rows, length, dtype=torch.long),
        use_cache=False,
        attention_mask=torch.zeros(rows, 1, length, length, dtype=dtype),
        position_ids=torch.zeros(1, length, dtype=torch.long),
    ).last_hidden_state


def _saved(work: Callable[[], Any], model: Any, *, scores: int | None) -> int:
    """Bytes of the tensors that autograd keeps, each storage once, parameters and [scores, scores]
    matrices left out."""
    kept: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if scores is None or tensor.shape[-2:] != (scores, scores):
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = work()  # held while counting: a freed storage's place would be taken by the next
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    del out
    return sum(storage.nbytes() for key, storage in kept.items() if key not in own)


def weight_bytes(count: Parameters, training: TrainingConfig) -> float:
    """Bytes of the weights as they are held: float32 where they are trained; frozen ones bf16 or
    NF4 (with scales) if asked."""
    if not training.lora:
        return 4.0 * count.all
    linear = count.encoder + count.decoder
    each = 2 if training.bf16 else 4
    return each * (count.all - linear) + (0.55 if training.quantize == "4bit" else each) * linear


def training_memory(
    config: Any, count: Parameters, training: TrainingConfig, **batch: Any
) -> dict[str, float]:
    """Bytes at the peak of a step by part. batch: the arguments of `activations`."""
    weights = weight_bytes(count, training)
    # autocast's bf16 weights
    copies = 2.0 * count.all if training.bf16 and not training.lora else 0.0
    parts = {
        "weights": weights + (4.0 * count.trained if training.lora else 0.0),
        "gradients": 4.0 * count.trained,
        "optimiser": 8.0 * count.trained,
    }
    vocabulary = config.get_text_config().vocab_size  # a model of images too has its text's apart
    logits = min(LOGITS_AT_ONCE, batch["rows"] * batch["completion_tokens"] * vocabulary)
    forward = TEMPORARIES * activations(config, training, **batch) + copies
    forward += 3 * 4 * logits  # in float32: logits, their exponentials, their gradient
    # AdamW's step takes a copy when the activations are gone
    parts["activations"] = max(forward, 4.0 * count.trained)
    return parts


def generation_memory(
    config: Any, count: Parameters, training: TrainingConfig, *, rows: int, tokens: int
) -> float:
    """Bytes: the policy, the reference beside it, keys and values of a batch of so many rows and
    tokens."""
    config = config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = (
        getattr(config, "head_dim", None)
        or getattr(config, "d_kv", None)
        or config.hidden_size // config.num_attention_heads
    )
    cache = (
        2 * config.num_hidden_layers * heads * width * rows * tokens * (2 if training.bf16 else 4)
    )
    return 2 * weight_bytes(count, training) + cache


def train_passes(training: TrainingConfig) -> float:
    """Forward passes that a training step costs: one, two more for gradients (with LoRA one: frozen
    weights need none), and one again with gradient checkpointing."""
    return (2.0 if training.lora else 3.0) + training.gradient_checkpointing


def share_of_peak(
    rows: Sequence[dict[str, str]], name: str, lora: bool, model: str = ""
) -> float | None:
    """The median measured share of the peak on a device, from benchmarks/throughput.csv (columns
    device, share_of_peak and, where there, lora, way, model): of the kit's own steps, and of this
    model where it was measured. None where there is no such row."""
    gpu = known_gpu(name)
    same = [
        row
        for row in rows
        if row.get("device") == name or (gpu and known_gpu(row.get("device", "")) == gpu)
    ]
    alike = [
        row
        for row in same
        if row.get("share_of_peak")
        and row.get("way", "kit") == "kit"
        and ("lora" not in row or (row["lora"].lower() in ("true", "1", "lora")) == lora)
    ]
    of_model = [row for row in alike if model and row.get("model") == model]
    shares = sorted(float(row["share_of_peak"]) for row in of_model or alike)
    return shares[len(shares) // 2] if shares else None
