"""How far each estimate of V* = τ·log Z is from the truth, which is known here: by enumeration, or
by many reference samples.

A `Pool` holds, of each of P prompts, M completions of one writer with their rewards and reference
log-probabilities, and a way to know V*. `errors` draws K of them again and again, as a data set
would hold them, and compares every estimator with the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import torch
from scipy.special import logsumexp

from rpo_nb import intervals, partition, store
from rpo_nb.config.keys import content_key
from rpo_nb.config.schema import DecodingConfig, Profile
from rpo_nb.experiment import inputs
from rpo_nb.pocket.checker import score
from rpo_nb.pocket.prompts import make_prompts
from rpo_nb.pocket.writers import WRITERS, write
from rpo_nb.policy import encoding, load
from rpo_nb.policy.logps import score_completions
from rpo_nb.running import provenance
from rpo_nb.running.provenance import digest, model_key, step_code

ESTIMATORS = tuple(name for name in partition.ESTIMATORS if name != "none")
PLAIN = DecodingConfig()  # temperature 1, nothing cut off: samples of the reference itself
BIAS_COLUMNS = [
    "estimator",
    "reduce",
    "regime",
    "k",
    "tau",
    "bias",
    "std",
    "mse",
    "ci_low",
    "ci_high",
    "n",
]


@dataclass(frozen=True)
class Pool:
    """Completions of one writer. Arrays [P, M]; rewards standardised over the pool, as a trainer
    would."""

    rewards: np.ndarray
    sums: np.ndarray  # log πref(y|x)
    lengths: np.ndarray  # tokens
    # τ -> V* of each prompt [P], in units of the standardised reward
    truth: Callable[[float], np.ndarray]

    def logps(self, reduce: str) -> np.ndarray:
        return self.sums if reduce == "sum" else self.sums / self.lengths


def enumerated(
    writer_tau: float | None,
    *,
    prompts: int = 24,
    completions: int = 1024,
    longest: int = 6,
    seed: int = 0,
) -> Pool:
    """Prompts whose language is small enough to write out: every text of up to `longest` tokens
    over three token types, an autoregressive reference with random logits, random rewards; so Z is
    an exact sum.

    writer_tau: None draws the completions from the reference, a number from π* at that τ, a
    stronger writer.
    """
    g = np.random.default_rng([seed, 3])
    texts = [text for length in range(longest + 1) for text in product(range(3), repeat=length)]
    index, lengths = (
        {text: i for i, text in enumerate(texts)},
        np.array([len(text) + 1 for text in texts]),
    )
    logps, rewards, drawn = (
        np.empty((prompts, len(texts))),
        g.normal(size=(prompts, len(texts))),
        [],
    )
    for x in range(prompts):
        # the last: the text ends here
        steps = g.normal(size=(len(texts), 4)) - np.array([0, 0, 0, 2.0])
        steps[lengths == longest + 1] = [-np.inf, -np.inf, -np.inf, 0]
        steps -= logsumexp(steps, axis=1, keepdims=True)
        before = np.zeros(len(texts))
        for i, text in enumerate(texts[1:], 1):
            parent = index[text[:-1]]
            before[i] = before[parent] + steps[parent, text[-1]]
        logps[x] = before + steps[:, 3]
        written = logps[x] + (rewards[x] / writer_tau if writer_tau else 0)
        drawn.append(g.choice(len(texts), completions, p=np.exp(written - logsumexp(written))))
    drawn = np.array(drawn)
    mean, std = (f(np.take_along_axis(rewards, drawn, 1)) for f in (np.mean, np.std))
    standard = (rewards - mean) / std
    return Pool(
        np.take_along_axis(standard, drawn, 1),
        np.take_along_axis(logps, drawn, 1),
        lengths[drawn],
        lambda tau: tau * logsumexp(logps + standard / tau, axis=1),
    )


def sampled(
    profile: Profile,
    size: str,
    seed: int,
    regime: str,
    *,
    prompts: int,
    completions: int,
    truth: int,
) -> tuple[Pool, np.ndarray]:
    """The pool of a regime of the pocket world ("on_policy", or a key of pocket.WRITERS), and
    rewards [P, truth] of reference samples that no estimator sees, from which V* is estimated
    (standardised as the pool's)."""
    path = inputs.reference_path(profile, size, seed)
    asked = make_prompts(prompts, rng=np.random.default_rng([seed, 4]))
    model, tokenizer = load.load_policy(path)
    plain = profile.model_copy(
        update={
            "decoding": PLAIN.model_copy(update={"max_new_tokens": profile.decoding.max_new_tokens})
        }
    )
    own = inputs.reference_samples(plain, path, asked, truth + completions, seed)
    texts = [row[truth:] for row in own]
    if regime != "on_policy":
        rng, who = np.random.default_rng([seed, 5]), WRITERS[regime]
        texts = [
            [write(who[rng.integers(len(who))], prompt, rng=rng) for _ in range(completions)]
            for prompt in asked
        ]
    pairs = [(prompt, text) for prompt, row in zip(asked, texts, strict=True) for text in row]
    encoded = encoding.encode(tokenizer, *zip(*pairs, strict=True), **profile.limits(size))

    def make(folder) -> None:
        sums, lengths = score_completions(model, tokenizer, encoded)
        np.savez(folder / "pool.npz", sums=sums.numpy(), lengths=lengths.numpy())

    made_from = {"model": model_key(path), "code": step_code("truth pool")}
    folder = store.cached(
        provenance.cache_dir() / "pools" / content_key([made_from, digest(encoded)]),
        make,
        of=made_from,
    )
    with np.load(folder / "pool.npz") as stored:
        sums, lengths = (
            stored[name].astype(float).reshape(prompts, completions) for name in ("sums", "lengths")
        )
    rewards = np.array([score(*pair) for pair in pairs]).reshape(prompts, completions)
    hidden = np.array(
        [
            [score(prompt, text) for text in row[:truth]]
            for prompt, row in zip(asked, own, strict=True)
        ]
    )
    hidden = (hidden - rewards.mean()) / rewards.std()
    return Pool(
        (rewards - rewards.mean()) / rewards.std(), sums, lengths, lambda tau: v_star(hidden, tau)
    ), hidden


def v_star(rewards: np.ndarray, tau: float) -> np.ndarray:
    """V* = τ·log mean exp(r/τ) from rewards [..., m] of reference samples. -> [...]"""
    return tau * (logsumexp(rewards / tau, axis=-1) - np.log(rewards.shape[-1]))


def errors(
    pool: Pool,
    regime: str,
    *,
    ks: Sequence[int],
    taus: Sequence[float],
    draws: int,
    seed: int = 0,
    estimators: Sequence[str] = ESTIMATORS,
) -> pd.DataFrame:
    """V̂ − V* of every estimator, by K, τ and what the log-probabilities are (sum, mean):
    BIAS_COLUMNS, one row a combination.

    Each prompt is drawn `draws` times, K completions each without repetition. bias, std and mse are
    over all rows of all draws, so mse = bias² + std²; ci_low and ci_high: 95 % bootstrap interval
    of the bias over prompts; n: prompts × draws. V is in units of the standardised reward.
    Estimators that do not weigh by πref are the same for both kinds of log-probability.
    """
    g, rows = np.random.default_rng([seed, 6]), []
    prompts, pooled = pool.rewards.shape
    for k in ks:
        picks = np.array(
            [[g.permutation(pooled)[:k] for _ in range(draws)] for _ in range(prompts)]
        ).reshape(prompts, -1)
        rewards = torch.from_numpy(np.take_along_axis(pool.rewards, picks, 1).reshape(-1))
        ids = torch.arange(prompts * draws).repeat_interleave(k)
        logps = {
            kind: torch.from_numpy(np.take_along_axis(pool.logps(kind), picks, 1).reshape(-1))
            for kind in ("sum", "mean")
        }
        for tau in taus:
            truth = pool.truth(tau)[:, None]
            for name in estimators:
                for kind in ("sum", "mean") if name in partition.WEIGHTED else ("sum",):
                    log_z = partition.log_partition(
                        logps[kind], rewards, ids, tau=tau, estimator=name
                    )
                    found = {
                        "k": k,
                        "tau": tau,
                        **_moments(tau * log_z.numpy().reshape(prompts, -1) - truth),
                        "n": prompts * draws,
                    }
                    kinds = (kind,) if name in partition.WEIGHTED else ("sum", "mean")
                    rows += [
                        {"estimator": name, "reduce": each, "regime": regime, **found}
                        for each in kinds
                    ]
    order = {name: i for i, name in enumerate(estimators)}
    frame = pd.DataFrame(rows, columns=BIAS_COLUMNS)
    return frame.sort_values(
        ["estimator", "reduce", "k", "tau"],
        key=lambda c: c.map(order) if c.name == "estimator" else c,
        ignore_index=True,
    )


def _moments(error: np.ndarray) -> dict[str, float]:
    """bias, std, mse and the bias's interval over prompts, of errors [P, ...]."""
    _, low, high = intervals.bootstrap(error.mean(1))
    return {
        "bias": error.mean(),
        "std": error.std(),
        "mse": (error**2).mean(),
        "ci_low": low,
        "ci_high": high,
    }


def truth_table(hidden: np.ndarray, regime: str, taus: Sequence[float]) -> pd.DataFrame:
    """V* from reference samples' rewards [P, m], with its own interval: regime, tau, v_star (mean
    over prompts), error (standard error of a prompt's V*, by bootstrap over its samples, mean over
    prompts), largest_share (of the sum's weight on its largest
    sample: near 1 the samples are too few for this τ), n (samples a prompt)."""
    rows, g = [], np.random.default_rng(0)
    again = g.integers(hidden.shape[1], size=(200, hidden.shape[1]))
    for tau in taus:
        drawn = np.stack([v_star(hidden[:, pick], tau) for pick in again])
        share = np.exp(hidden.max(1) / tau - logsumexp(hidden / tau, axis=1))
        rows.append(
            {
                "regime": regime,
                "tau": tau,
                "v_star": v_star(hidden, tau).mean(),
                "error": drawn.std(0).mean(),
                "largest_share": share.mean(),
                "n": hidden.shape[1],
            }
        )
    return pd.DataFrame(rows)
