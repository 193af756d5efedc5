"""What the tests of reporting are made of."""

import pandas as pd

from rpo_nb.config import loading

PROFILE = loading.load_profile("pocket", seeds="0,1")


def table1(*found):
    rows = [
        {
            "property": p,
            "method": m,
            "value": v,
            "ci_low": low,
            "ci_high": high,
            "published": f"{p} of {m}: words",
            "note": "a note",
        }
        for p, m, v, low, high in found
    ]
    return pd.DataFrame(
        rows, columns=["property", "method", "value", "ci_low", "ci_high", "published", "note"]
    )
