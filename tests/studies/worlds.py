"""What the tests of lab are made of."""

import numpy as np


def cell(
    regime,
    method,
    reward,
    *,
    kl=1.0,
    broken=0.05,
    estimator="",
    tau=np.nan,
    logp=-0.8,
    half=0.1,
    **more,
):
    return {
        "regime": regime,
        "gap": 1.0,
        "method": method,
        "preset": "",
        "estimator": estimator,
        "reduce": "sum",
        "tau": tau,
        "policy": method,
        "reward": reward,
        "reward_low": reward - half,
        "reward_high": reward + half,
        "win_rate": 60.0,
        "kl": kl,
        "broken": broken,
        "k": 4.0,
        "logp": logp,
        "data_wins": 65.0,
        "n": 400,
        "seeds": 2,
        **more,
    }
