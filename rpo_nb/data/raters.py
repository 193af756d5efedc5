"""Ratings of several people made one reward: their strictness is taken out, then they are
averaged."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pandas as pd

LEAST = 10  # ratings; the mean and spread of fewer are those of the items, not of the rater


def level(rewards: np.ndarray, raters: np.ndarray) -> tuple[np.ndarray, list[str], list[str]]:
    """Ratings [n] as a rater of average strictness would have given them, the raters that were
    levelled, and those not.

    Each rater's mean and spread (standard deviation, ddof 0) are taken out and those of all ratings
    put in their place, so that the scale stays the file's. Right where raters were given like
    items, as when they were drawn. Raters with fewer than 10 ratings, or with one rating for
    everything, keep theirs.
    """
    frame = pd.DataFrame({"reward": rewards, "rater": raters})
    each = (
        frame[frame["rater"] != ""]
        .groupby("rater", sort=False)["reward"]
        .agg(["size", "mean", lambda r: r.std(ddof=0)])
    )
    each.columns = ["size", "mean", "std"]
    fit = (each["size"] >= LEAST) & (each["std"] > 0)
    if fit.sum() < 2:
        return rewards, [], list(each.index)
    mine = frame["rater"].isin(each.index[fit]).to_numpy()
    mean, std = rewards[mine].mean(), rewards[mine].std()
    own = each.loc[frame["rater"][mine]]
    out = rewards.copy()
    out[mine] = mean + std * (rewards[mine] - own["mean"].to_numpy()) / own["std"].to_numpy()
    return out, list(each.index[fit]), list(each.index[~fit])


def ratings(feedback: datasets.Dataset) -> pd.DataFrame:
    """Every rating as it was given: columns row (of the feedback), rater, rating."""
    if "ratings" not in feedback.column_names:
        return pd.DataFrame({"row": [], "rater": [], "rating": []})
    return pd.DataFrame(
        [
            (i, rater, rating)
            for i, cell in enumerate(feedback["ratings"])
            for rater, rating in json.loads(cell)
        ],
        columns=["row", "rater", "rating"],
    )


def strictness(feedback: datasets.Dataset) -> pd.DataFrame:
    """A row a rater: ratings, mean, spread (ddof 0), with (completions that others rated too),
    difference (its ratings of these less the others' mean; below 0 is strict), agreement
    (Spearman's correlation with the others' mean; NaN of fewer than 3)."""
    given = ratings(feedback)
    total = given.groupby("row")["rating"].agg(["sum", "size"])
    others = given.join(total, on="row")
    others = others.assign(
        others=(others["sum"] - others["rating"]) / (others["size"] - 1).where(others["size"] > 1)
    )
    rows = []
    for rater, mine in others.groupby("rater", sort=True):
        shared = mine[mine["others"].notna()]
        varied = len(shared) > 2 and min(shared["rating"].nunique(), shared["others"].nunique()) > 1
        rows.append(
            {
                "rater": rater,
                "ratings": len(mine),
                "mean": mine["rating"].mean(),
                "spread": mine["rating"].std(ddof=0),
                "with others": len(shared),
                "difference": (shared["rating"] - shared["others"]).mean(),
                "agreement": shared["rating"].corr(shared["others"], method="spearman")
                if varied
                else np.nan,
            }
        )
    return pd.DataFrame(
        rows,
        columns=["rater", "ratings", "mean", "spread", "with others", "difference", "agreement"],
    )
