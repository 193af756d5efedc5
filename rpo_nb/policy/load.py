"""Policies are loaded here: weights, tokenizer, adapters, precision."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rpo_nb.policy.forward import (
    core_of,
    depends_on_the_batch,
    refuse_what_padding_changes,
    told,
    unused_search,
)
from rpo_nb.policy.heads import head_of
from rpo_nb.policy.logps import LIGER, completion_logps, device
from rpo_nb.remedies import hub_problem
from rpo_nb.store import whole


def load_policy(
    path: str | Path,
    *,
    dropout: float = 0.0,
    bf16: bool = False,
    lora_rank: int = 0,
    quantize: str = "none",
    gradient_checkpointing: bool = False,
    liger: bool = False,
    base: str | Path = "",
) -> tuple[nn.Module, Any]:
    """A model and its tokenizer from a folder or hub id, safetensors only, no remote code.

    dropout: rate set in every dropout layer (0: log-ratios are exactly 0 before the first step).
    bf16: hold the weights in bfloat16; for weights that are not trained only, updates of 1e-4 would
    be lost in its 8 bits. lora_rank: above 0 wraps the model with peft; the reference is then the
    same model with its adapter switched off. quantize "4bit": the weights in NF4 (QLoRA;
    bitsandbytes and a CUDA GPU). liger: see `use_liger`. base: of a folder that holds an adapter
    only, the model it was trained on, where that is another place than the adapter says. Raises
    ValueError with the remedy when the model cannot be found.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    path = str(path)
    whole(path)
    adapter = path if (Path(path) / "adapter_config.json").is_file() else ""
    try:
        if adapter:
            from peft import PeftConfig

            # peft would unpickle what is there instead
            if not list(Path(adapter).glob("*.safetensors")):
                raise ValueError(
                    f"model {path!r} has no adapter in safetensors; save it with save_pretrained"
                )
            path = str(base) or PeftConfig.from_pretrained(adapter).base_model_name_or_path
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        tokenizer = load_tokenizer(adapter or path, config)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = auto.from_pretrained(
            path,
            dtype=torch.bfloat16 if bf16 else torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            **quantization(quantize),
        )
    except (OSError, ValueError) as error:
        found = hub_problem(error, path)
        raise ValueError(
            f"model {path!r} could not be loaded: {found.reason}; {found.remedy}"
        ) from error
    admit(model)
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


def admit(model: nn.Module) -> None:
    """Refuse a model whose numbers would be wrong here (ValueError), warn of what it does
    otherwise."""
    refuse_what_padding_changes(model)
    for said in filter(None, (depends_on_the_batch(model), unused_search(model))):
        warnings.warn(said)


def load_tokenizer(path: str | Path, config: Any = None) -> Any:
    """A policy's tokenizer; one without a padding token pads with the end token. It remembers in
    `for_causal_model` whom it encodes for (see `encoding.is_causal`). config: the model's, where it
    is known."""
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    return ready_tokenizer(
        tokenizer, config or AutoConfig.from_pretrained(path, trust_remote_code=False)
    )


def ready_tokenizer(tokenizer: Any, config: Any) -> Any:
    """A tokenizer as `load_tokenizer` gives it. config: of the model that it encodes for."""
    tokenizer.for_causal_model = not config.is_encoder_decoder
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def quantization(kind: str) -> dict[str, Any]:
    """Keyword arguments of from_pretrained for frozen weights in 4 bits (QLoRA's NF4). Raises
    ValueError without GPU or package."""
    if kind == "none":
        return {}
    if not torch.cuda.is_available():
        raise ValueError("training.quantize is '4bit', which needs a CUDA GPU; set it to none")
    if find_spec("bitsandbytes") is None:  # transformers' own message comes only after the download
        raise ValueError(
            "training.quantize is '4bit', which needs bitsandbytes; pip install bitsandbytes"
        )
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
        "device_map": {"": device()},
    }


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[nn.Module]:
    """The reference inside a LoRA policy: the same model with its adapter switched off, in
    evaluation mode."""
    training = model.training
    model.eval()
    try:
        with model.disable_adapter():
            yield model
    finally:
        model.train(training)


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set the rate of every dropout layer, whatever the model's configuration calls it."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        for name, value in vars(module).items():  # attention layers keep their rate as a number
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, rate)
            elif not rate and re.search("layerdrop|jitter", name) and isinstance(value, float):
                # dropped layers (NLLB) and noisy routers (Switch) are random too
                setattr(module, name, 0.0)


def add_lora(model: nn.Module, rank: int) -> nn.Module:
    """The model with LoRA adapters on its attention projections (peft's own choice of modules for
    the architecture)."""
    from peft import LoraConfig, TaskType, get_peft_model

    kind = TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM
    config = LoraConfig(task_type=kind, r=rank, lora_alpha=2 * rank, lora_dropout=0.0)
    try:
        return get_peft_model(model, config)
    except ValueError as error:  # peft asks for names of modules, and not of which model
        raise ValueError(
            f"training.lora is true, but peft knows no attention projections of a "
            f"{type(model).__name__} ({told(error)}); set it to false, or use another "
            "architecture"
        ) from error


def use_liger(model: nn.Module) -> None:
    """Let Liger's fused kernel project the completions of a model to the vocabulary, on a CUDA GPU.

    Tried first on a few random states: ValueError when its log-probabilities or, as in versions
    before 0.8.2, its gradients are not ours, and without GPU or package.
    """
    if not torch.cuda.is_available():
        raise ValueError("training.liger is true, which needs a CUDA GPU; set it to false")
    if find_spec("liger_kernel") is None:
        raise ValueError(
            "training.liger is true, which needs liger-kernel; pip install 'liger-kernel>=0.8.2'"
        )
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    core, head = core_of(model), head_of(model)
    if head.cap or head.bias is not None:
        raise ValueError(
            f"training.liger is true, but {type(core).__name__} caps or shifts its "
            "logits, which "
            "the fused kernel is not asked to do here; set it to false"
        )
    place = {"device": head.weight.device, "dtype": head.weight.dtype}
    states = (
        torch.randn(2, 8, head.weight.shape[1], generator=torch.Generator().manual_seed(0))
        .to(**place)
        .requires_grad_()
    )
    labels = torch.arange(16, device=head.weight.device).reshape(2, 8)
    found = []
    for kernel in (None, liger_fused_linear_cross_entropy):
        if kernel:
            LIGER[core] = kernel
        logps = completion_logps(model, states, labels)
        found.append(
            (
                logps.detach(),
                torch.autograd.grad(
                    (logps * torch.linspace(-1, 2, 16, device=logps.device).view(2, 8)).sum(),
                    states,
                )[0],
            )
        )
    if not all(
        torch.allclose(ours.float(), theirs.float(), rtol=2e-2, atol=2e-2 * float(ours.abs().max()))
        for ours, theirs in zip(*found, strict=True)
    ):
        del LIGER[core]
        raise ValueError(
            "training.liger is true, but this liger-kernel gives other "
            "log-probabilities or gradients; "
            "pip install -U 'liger-kernel>=0.8.2' or set it to false"
        )
