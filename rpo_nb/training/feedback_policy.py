"""The model that `feedback_trainer` trains: loaded, its adapter put on, what would be wrong
refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from rpo_nb.policy import forward, load
from rpo_nb.training.losses import PolicyWithValue


class Trained(PolicyWithValue):
    """A PolicyWithValue that gives what Trainer asks of a model."""

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict | None = None, **more: Any
    ) -> None:
        """Of transformers from 5.17 on."""
        kwargs = activation_checkpointing_kwargs or {"use_reentrant": False}
        self.policy.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs, **more)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict | None = None, **more: Any
    ) -> None:
        """The same, as earlier versions call it."""
        kwargs = gradient_checkpointing_kwargs or {"use_reentrant": False}
        self.policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs, **more)


def policy_of(
    model: str | Path | nn.Module, tokenizer: Any, peft_config: Any, *, dropout: bool
) -> tuple[nn.Module, Any]:
    """The policy as it is trained, and its tokenizer. dropout: as the model has it, else none."""
    named = isinstance(model, (str, Path))
    if named:
        model, own = load.load_policy(model)
    else:
        name = getattr(model.config, "_name_or_path", "")
        if tokenizer is None and not name:
            raise ValueError(
                "this model does not say where its tokenizer is; give it as processing_class"
            )
        own = load.load_tokenizer(name, model.config) if tokenizer is None else None
        load.admit(model)
    if model.dtype == torch.float16:
        raise ValueError(
            "the model's weights are float16, which overflows in T5's feed-forward layers and is "
            "too coarse to train in; load it with dtype=torch.float32, and set bf16"
        )
    tokenizer = own if tokenizer is None else load.ready_tokenizer(tokenizer, model.config)
    if not dropout:
        load.set_dropout(model, 0.0)
    elif named:
        _own_dropout(model)
    return _adapted(model, peft_config, named), tokenizer


def _adapted(model: nn.Module, peft_config: Any, named: bool) -> nn.Module:
    """The model with its adapter in training. named: it was loaded here, where an adapter comes
    frozen."""
    configs = getattr(model, "peft_config", {})
    if peft_config is not None:
        if configs:
            raise ValueError(
                "the model has an adapter already; leave peft_config out to train that one on, or "
                "merge it first (merge_and_unload)"
            )
        _refuse_prompts(peft_config)
        from peft import get_peft_model

        model = get_peft_model(model, peft_config)
    for config in configs.values() if configs else ():
        _refuse_prompts(config)
    if named and configs:
        model.set_adapter(model.active_adapter)
    if not trained_weights(model):
        raise ValueError(
            "every weight of this model is frozen, so that nothing would be learnt; load its "
            "adapter with is_trainable=True, or give peft_config"
        )
    return model


def _refuse_prompts(config: Any) -> None:
    if getattr(config, "is_prompt_learning", False):
        raise ValueError(
            f"{type(config).__name__} puts learnt tokens before a prompt, which the "
            "log-probabilities here would be read without; take LoRA, or another method that "
            "changes layers"
        )


def trained_weights(model: nn.Module) -> set[str]:
    """Names of the weights that are not frozen."""
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def _own_dropout(model: nn.Module) -> None:
    """The rates of the model's configuration, which `load_policy` sets to 0."""
    core = forward.core_of(model)
    with torch.device("meta"):
        plain = type(core)(core.config)
    for name, module in plain.named_modules():
        mine = core.get_submodule(name)
        for key, value in vars(module).items():
            rate = key == "p" and isinstance(module, nn.Dropout)
            if rate or ("dropout" in key or "layerdrop" in key) and isinstance(value, float):
                setattr(mine, key, value)
