"""What every run of a size and seed starts from: the splits of the feedback, the reference, the
rows as token ids, their rewards and the reference's log-probabilities. Made once, cached for all
output folders.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rpo_nb import store
from rpo_nb.config.keys import content_key, hash_seed
from rpo_nb.config.methods import ROWS
from rpo_nb.config.objective import Objective
from rpo_nb.config.schema import Profile, TrainingConfig
from rpo_nb.data import hub
from rpo_nb.data.feedback import conversations, load_feedback
from rpo_nb.data.splits import Splits, split_feedback, standardise, weights_of
from rpo_nb.experiment import references
from rpo_nb.experiment.grid import Run
from rpo_nb.pocket.checker import score
from rpo_nb.pocket.feedback import make_feedback
from rpo_nb.pocket.writers import SYSTEMS, WRITERS
from rpo_nb.policy import encoding
from rpo_nb.policy.generation import generate
from rpo_nb.policy.load import load_policy, load_tokenizer
from rpo_nb.running import provenance
from rpo_nb.running.provenance import digest, model_key, step_code
from rpo_nb.store import write_json
from rpo_nb.training import batches

QRPO_SAMPLES = 16  # of the reference for a prompt
# beside a seed: the reference's texts that data are compared with, which on_policy data are drawn
# from by the seed alone
AGAIN = 1


# Inputs -------------------------------------------------------------------------------------------


def feedback(profile: Profile, seed: int, size: str | None = None) -> tuple[Any, list[dict]]:
    """The profile's feedback as a Dataset, and the report of what was set aside. The pocket's
    differs by seed, and in the on_policy regime by size (the first, unless given)."""
    config = profile.data
    if not profile.pocket_world:
        return load_feedback(config.source, config=config, return_report=True)
    sample = None
    if config.regime == "on_policy":
        path = reference_path(profile, size or next(iter(profile.sizes)), seed)

        def sample(prompts: list[str], k: int) -> list[list[str]]:
            return reference_samples(profile, path, prompts, k, seed)

    rows = make_feedback(
        (config.prompts or 0) + config.validation + config.held_out,
        rater_offset=config.rater_offset,
        seed=seed,
        completions_per_prompt=config.completions_per_prompt or 4,
        sample=sample,
        writers=WRITERS.get(config.regime, SYSTEMS),
    )
    return load_feedback(rows, config=config, return_report=True)


def reference_samples(
    profile: Profile, path: str, prompts: Sequence[str], k: int, seed: int
) -> list[list[str]]:
    """k completions of the reference at `path` for each prompt, decoded as the profile says. Cached
    by content."""
    made_from = {"model": model_key(path), "code": step_code("reference samples")}
    key = content_key(
        [made_from, list(prompts), k, seed, profile.decoding.key(), profile.data.max_prompt_tokens]
    )

    def make(folder: Path) -> None:
        model, tokenizer = load_policy(path)
        texts = generate(
            model,
            tokenizer,
            [p for p in prompts for _ in range(k)],
            decoding=profile.decoding,
            seed=seed,
            max_prompt_tokens=profile.data.max_prompt_tokens,
            batch_size=profile.evaluation.generation_batch_size,
        )
        write_json(folder / "texts.json", texts)

    folder = store.cached(provenance.cache_dir() / "reference_samples" / key, make, of=made_from)
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    return [texts[i : i + k] for i in range(0, len(texts), k)]


@lru_cache(maxsize=8)
def _splits(profile_json: str, seed: int, size: str | None) -> Splits:
    profile = Profile.model_validate_json(profile_json)
    return split_feedback(feedback(profile, seed, size)[0], config=profile.data, seed=seed)


def splits(profile: Profile, seed: int, size: str | None = None) -> Splits:
    """Training, validation and held-out rows of a seed (kept in memory)."""
    return _splits(
        profile.model_dump_json(), seed, size if profile.data.regime == "on_policy" else None
    )


def fetch(profile: Profile) -> None:
    """Have here what the hub gives, before any key is made of it: see `hub.fetch`. Raises
    ValueError."""
    sizes, source = profile.sizes.values(), profile.data.source
    authors = [
        (size.authors, size.authors_revision) for size in sizes if profile.evaluation.authors
    ]
    hub.fetch([*((size.id, size.revision) for size in sizes), *authors])
    here = source == "pocket" or Path(source).expanduser().exists()
    if not here and hub.commit(source, profile.data.revision, kind="dataset") is None:
        splits(profile, profile.seeds[0])


def reference_path(profile: Profile, size: str, seed: int) -> str:
    """The reference's folder or hub id; a reference from nothing is trained when it is not
    cached."""
    torch_threads(profile)
    held_out = (
        None
        if profile.pocket_world or profile.sizes[size].id != "pocket"
        else splits(profile, seed).held_out
    )
    return references.reference(profile, size, seed, held_out)


def processes() -> Any:
    """accelerate's PartialState: how many processes share the work (accelerate launch, torchrun),
    and which one this is."""
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())


def torch_threads(profile: Profile) -> None:
    """Use the profile's number of CPU threads: jobs that run side by side must not fight for the
    cores."""
    if profile.training.threads:
        torch.set_num_threads(profile.training.threads)


@dataclass
class Prepared:
    """What all methods of a (size, seed) share. The reference is loaded when it is asked for and
    given back by `release`: with cached log-probabilities, training needs none in memory."""

    splits: Splits
    path: str
    tokenizer: Any
    encoded: list[tuple[list[int], list[int]]]  # training rows
    rewards: np.ndarray  # standardised
    ref_logps: dict[str, np.ndarray]  # "sum", "mean"
    load: Callable[[], Any]  # the frozen reference
    # [rows, m], standardised, of QRPO: see `reference_rewards`
    ref_rewards: np.ndarray | None = None

    @cached_property
    def reference(self) -> Any:
        return self.load()

    def release(self) -> None:
        """Let the reference go from memory."""
        self.__dict__.pop("reference", None)


def prepare(profile: Profile, size: str, seed: int) -> Prepared:
    """Feedback, reference and its log-probabilities of the training rows."""
    parts = splits(profile, seed, size)
    path, training = reference_path(profile, size, seed), profile.training

    def load() -> tuple[Any, Any]:
        model, tokenizer = load_policy(path, bf16=half(training), quantize=training.quantize)
        return model.eval().requires_grad_(False), tokenizer

    # what travelled without its weights is loaded where they are needed
    model, tokenizer = (None, load_tokenizer(path)) if store.left_out(path) else load()
    encoded = encoding.encode(
        tokenizer, conversations(parts.train), parts.train["completion"], **profile.limits(size)
    )
    logps = references.reference_logps(
        path, model or (lambda: load()[0]), tokenizer, encoded, bf16=training.bf16
    )
    prepared = Prepared(
        parts,
        path,
        tokenizer,
        encoded,
        standardise(np.asarray(parts.train["reward"]), parts),
        logps,
        lambda: load()[0],
    )
    if model is not None:
        prepared.__dict__["reference"] = model
    return prepared


def half(training: TrainingConfig) -> bool:
    """Whether weights are held in bfloat16: frozen ones are; trained ones stay in float32 and
    compute in bfloat16."""
    return training.bf16 and training.lora


def reference_logps(profile: Profile, size: str, seed: int) -> dict[str, np.ndarray]:
    """{"sum", "mean"}: log πref of the rows of splits(profile, seed, size).train."""
    return prepare(profile, size, seed).ref_logps


def reference_rewards(profile: Profile, prepared: Prepared, seed: int) -> np.ndarray:
    """Rewards [rows, QRPO_SAMPLES], standardised, of the reference's own completions of each
    training row's prompt: QRPO's quantiles.

    Raises ValueError outside the pocket world, where nobody knows the reward of a new text.
    """
    if not profile.pocket_world:
        raise ValueError(
            "qrpo compares a reward with those of the reference's own completions, "
            "which only the pocket world's checker can "
            "score; leave qrpo out of methods"
        )
    prompts = list(dict.fromkeys(prepared.splits.train["prompt"]))
    sampled = reference_samples(
        profile, prepared.path, prompts, QRPO_SAMPLES, hash_seed(seed, AGAIN)
    )
    scored = {
        p: [score(p, text) for text in texts] for p, texts in zip(prompts, sampled, strict=True)
    }
    return standardise(
        np.array([scored[p] for p in prepared.splits.train["prompt"]]), prepared.splits
    )


# Training -----------------------------------------------------------------------------------------


def chosen_rows(run: Run, prepared: Prepared) -> np.ndarray:
    """The training rows of a run: all, or for best_of_k the best of each prompt (the first of
    equals)."""
    if not ROWS[run.method].best_only:
        return np.arange(len(prepared.rewards))
    return batches.best_rows(prepared.splits.train["prompt_id"], prepared.rewards)


def training_groups(
    profile: Profile, run: Run, prepared: Prepared, rewards: np.ndarray | None = None
) -> list[dict]:
    """What a run is trained on: the items of `batches.prompt_groups`. rewards: others than the
    data's (for noise experiments)."""
    objective, needs = Objective(**run.recipe["objective"]), ROWS[run.method].needs
    fields = {}
    if "reference_rewards" in needs:
        fields["ref_rewards"] = (
            reference_rewards(profile, prepared, run.seed)
            if prepared.ref_rewards is None
            else prepared.ref_rewards
        )

    def score(pairs: list[batches.Pair]) -> np.ndarray:
        return references.reference_logps(
            prepared.path, prepared.reference, prepared.tokenizer, pairs, bf16=profile.training.bf16
        )[objective.reduce]

    if "prompt_numbers" in needs:
        fields["prompt_numbers"] = np.asarray(prepared.splits.train["prompt_id"])
    if "lengths" in needs:
        fields["lengths"] = np.array([len(completion) for _, completion in prepared.encoded])
    return batches.method_groups(
        objective,
        prepared.encoded,
        prepared.splits.train["prompt_id"],
        rewards=prepared.rewards if rewards is None else rewards,
        ref_logps=prepared.ref_logps[objective.reduce],
        estimator=run.recipe["partition"],
        score=score,
        weights=weights_of(prepared.splits.train),
        rows=chosen_rows(run, prepared),
        **fields,
    )


def inputs_key(profile: Profile, run: Run, prepared: Prepared) -> str:
    """What a run is trained on, besides its recipe: the rows with their rewards and reference
    log-probabilities, and the weights that it starts from."""
    return content_key([digest(training_groups(profile, run, prepared)), model_key(prepared.path)])
