"""How sure a prediction is: which policy ends above which, by the seeds that the lab has, how much
each regime counts, and how much of their lead carries over to another one.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from rpo_nb.studies import advise

DRAWS = 20_000  # of seeds at most; up to so many, every draw is counted once


def draws(gains: np.ndarray, seeds: int) -> np.ndarray:
    """[policies, draws]: mean gains over `seeds` seeds, drawn with replacement from the lab's.

    gains: [policies, lab seeds]. A draw takes the same seeds for all policies, which share their
    prompts and their reference. All draws there are, each once, or DRAWS at random."""
    known = gains.shape[1]
    if known**seeds <= DRAWS:
        picks = np.array(list(product(range(known), repeat=seeds)))
    else:
        picks = np.random.default_rng(0).integers(known, size=(DRAWS, seeds))
    return gains[:, picks].mean(-1)


def ahead(drawn: np.ndarray) -> np.ndarray:
    """[policies, policies]: the share of draws in which the first is above the second, equal ones
    half."""
    return np.array([0.5 + np.sign(one - drawn).mean(-1) / 2 for one in drawn])


def leads(drawn: np.ndarray) -> np.ndarray:
    """[policies]: the share of draws in which a policy is the best, shared by equal ones."""
    best = drawn == drawn.max(0)
    return (best / best.sum(0)).mean(-1)


def weights(distance: np.ndarray) -> np.ndarray:
    """How much each regime counts, by exp(−d²/2) of its distance. They sum to less than 1: the rest
    is of no regime, and as large as one at `advise.ALIKE`, so that far regimes say little."""
    kernel = np.exp(-np.square(distance) / 2)
    return kernel / (kernel.sum() + np.exp(-(advise.ALIKE**2) / 2))


def alone(distance: np.ndarray) -> np.ndarray:
    """The same without "no regime", however far they all are: they sum to 1."""
    kernel = np.exp((np.square(distance).min() - np.square(distance)) / 2)
    return kernel / kernel.sum()


class Carried(NamedTuple):
    """How well regimes foretell one that was left out: the share of their lead over ½ to believe,
    and the expected Brier score with it (½ for all has 0.25)."""

    share: float
    brier: float


def carried(pairs: np.ndarray, distance: np.ndarray) -> Carried:
    """pairs: [regimes, policies, policies] of `ahead`; distance: [regimes, regimes]. The share is
    the one with the least expected Brier score, by least squares, within 0 to 1."""
    first, second = np.triu_indices(pairs.shape[1], 1)
    truth = pairs[:, first, second] - 0.5
    apart = np.where(np.eye(len(pairs), dtype=bool), np.inf, distance)
    told = np.array([weights(row) @ truth for row in apart])
    size = np.square(told).sum()
    share = float(np.clip((told * truth).sum() / size, 0, 1)) if size else 0.0
    error = np.square(share * told - truth) + 0.25 - np.square(truth)
    return Carried(share, float(error.mean()))
