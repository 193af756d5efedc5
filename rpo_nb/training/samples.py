"""A policy's own completions, scored: what online trainings read and what probes measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from rpo_nb import intervals
from rpo_nb.config.schema import DecodingConfig
from rpo_nb.policy import encoding, load
from rpo_nb.policy.generation import Sample, samples
from rpo_nb.policy.logps import autocast, score_completions

# (prompts, completions) -> rewards [n], float64
Score = Callable[[Sequence[str], Sequence[str]], np.ndarray]
# samples of the policy itself: what KL and entropy are means over
SAMPLED = DecodingConfig(temperature=1.0, top_k=0, top_p=1.0)


@dataclass
class Reader:
    """How a policy is sampled and read: what sampler, probe and data share."""

    tokenizer: Any
    max_prompt_tokens: int
    max_new_tokens: int
    batch_size: int = 256  # completions generated at once
    bf16: bool = False
    # what is asked for a prompt's text, where it is more than that
    conversations: Mapping[str, encoding.Prompt] = field(default_factory=dict)
    engine: str = "transformers"  # who samples: of generation.ENGINES

    def asked(self, prompts: Sequence[str]) -> list[encoding.Prompt]:
        return [self.conversations.get(prompt, prompt) for prompt in prompts]

    def samples(self, model: nn.Module, prompts: Sequence[str], k: int, seed: int) -> list[Sample]:
        """k completions of each prompt, those of a prompt together. [prompts·k]"""
        decoding = SAMPLED.model_copy(update={"max_new_tokens": self.max_new_tokens})
        with autocast(self.bf16):
            return samples(
                model,
                self.tokenizer,
                [p for p in self.asked(prompts) for _ in range(k)],
                decoding=decoding,
                seed=seed,
                max_prompt_tokens=self.max_prompt_tokens,
                batch_size=self.batch_size,
                engine=self.engine,
            )

    def sample(self, model: nn.Module, prompts: Sequence[str], k: int, seed: int) -> list[str]:
        """The texts of `samples`."""
        return [drawn.text for drawn in self.samples(model, prompts, k, seed)]

    def encode(
        self, prompts: Sequence[str], completions: Sequence[str]
    ) -> list[tuple[list[int], list[int]]]:
        return encoding.encode(
            self.tokenizer,
            self.asked(prompts),
            completions,
            max_prompt_tokens=self.max_prompt_tokens,
            max_completion_tokens=self.max_new_tokens + 1,
        )

    def logps(
        self,
        model: nn.Module | None,
        adapted: nn.Module | None,
        encoded: Sequence[tuple[list[int], list[int]]],
    ) -> tuple[Tensor, Tensor]:
        """Summed log-probabilities [n] and tokens [n] under a model; without one, under `adapted`
        with its adapter off."""
        with nullcontext(model) if model is not None else load.adapter_off(adapted) as net:
            return score_completions(net, self.tokenizer, encoded, bf16=self.bf16)


# ---- what a policy is worth ----------------------------------------------------------------------


@dataclass
class Probe:
    """Looks at a policy through its sampled answers to fixed prompts. Scores: name -> Score, the
    first is the ground truth."""

    prompts: list[str]
    scores: dict[str, Score]
    reader: Reader
    reference: nn.Module | None  # None: the policy with its adapter off
    seed: int
    baseline: list[str] = field(default_factory=list)  # the reference's answers, whom a win is over

    def answers(self, model: nn.Module) -> pd.DataFrame:
        """One row a prompt: prompt, completion, policy_logp, ref_logp, tokens, baseline, and
        <score> and <score>_baseline of each score."""
        drawn = self.reader.samples(model, self.prompts, 1, self.seed)
        # what was drawn: a cut text has no end token
        texts, encoded = [one.text for one in drawn], [one.row for one in drawn]
        mine, tokens = self.reader.logps(model, None, encoded)
        theirs, _ = self.reader.logps(self.reference, model, encoded)
        rows = pd.DataFrame(
            {
                "prompt": self.prompts,
                "completion": texts,
                "policy_logp": mine.double().numpy(),
                "ref_logp": theirs.double().numpy(),
                "tokens": tokens.numpy(),
            }
        )
        rows["baseline"] = self.baseline or texts
        for name, score in self.scores.items():
            rows[name] = score(rows["prompt"], rows["completion"])
            rows[f"{name}_baseline"] = score(rows["prompt"], rows["baseline"])
        return rows


def by_prompt(answers: pd.DataFrame, scores: Sequence[str]) -> pd.DataFrame:
    """Of a probe's answers, one row a prompt: each score; win_rate (1 where the first score is
    above the baseline's, a tie half); kl, the log-ratio log πθ − log πref of the policy's own
    sample; entropy, −log πθ, nats a text; tokens."""
    ahead = answers[scores[0]] - answers[f"{scores[0]}_baseline"]
    return answers[list(scores)].assign(
        win_rate=(np.sign(ahead) + 1) / 2,
        kl=answers["policy_logp"] - answers["ref_logp"],
        entropy=-answers["policy_logp"],
        tokens=answers["tokens"],
    )


def measures(answers: pd.DataFrame, scores: Sequence[str]) -> dict[str, float]:
    """The means of `by_prompt`, that of kl with its 95 % interval over prompts (kl_low, kl_high),
    and n."""
    rows = by_prompt(answers, scores)
    _, low, high = intervals.student(rows["kl"])
    means = {name: float(column.mean()) for name, column in rows.items()}
    return means | {"kl_low": low, "kl_high": high, "n": len(rows)}


# ---- data ----------------------------------------------------------------------------------------


@dataclass
class Responses:
    """Scored responses, k a prompt, those of a prompt together: what offline training reads and a
    reward model learns from."""

    prompt_ids: np.ndarray
    prompts: list[str]
    completions: list[str]
    rewards: np.ndarray
    encoded: list[tuple[list[int], list[int]]]
    ref_logps: np.ndarray  # sums
    tokens: np.ndarray
    weights: np.ndarray | None = None  # of the rows of a user's feedback


def respond(
    model: nn.Module,
    reference: nn.Module | None,
    prompts: Sequence[str],
    k: int,
    score: Score,
    reader: Reader,
    seed: int,
    clock: dict[str, float] | None = None,
) -> Responses:
    """Sample k responses a prompt from the model, score them, and read the reference's
    log-probabilities.

    reference None: the model's own with its adapter off. clock: seconds spent on "sampling" and
    "scoring" are added to it.
    """
    clock, started = {} if clock is None else clock, time.perf_counter()
    drawn = reader.samples(model, prompts, k, seed)
    sampled = time.perf_counter()
    repeated = [p for p in prompts for _ in range(k)]
    texts, encoded = [one.text for one in drawn], [one.row for one in drawn]
    sums, tokens = reader.logps(reference, model, encoded)
    rewards = np.asarray(score(repeated, texts), float)
    clock["sampling"] = clock.get("sampling", 0.0) + sampled - started
    clock["scoring"] = clock.get("scoring", 0.0) + time.perf_counter() - sampled
    return Responses(
        np.repeat(np.arange(len(prompts)), k),
        repeated,
        texts,
        rewards,
        encoded,
        sums.double().numpy(),
        tokens.numpy(),
    )
