"""Why a table of win rates has nothing in it."""

from __future__ import annotations

from rpo_nb.config.schema import Profile
from rpo_nb.judging.verdicts import BASELINES


def why_no_pairs(profile: Profile, table: str) -> str:
    """The sentence on what a profile lacks for a table's pairs, with its remedy; "" where it lacks
    nothing. table: as of `make_pairs`."""
    baselines = BASELINES[table]
    if "rpo" not in profile.methods:
        return "There is nothing to compare: methods has no rpo; add it."
    if not set(baselines) & set(profile.methods):
        return (
            f"There is nothing to compare RPO with: methods is {', '.join(profile.methods)}, and a "
            f"baseline of this table is one of {', '.join(baselines)}; add one, e.g. "
            f"methods={','.join([*profile.methods, 'sft'])}."
        )
    if table == "table4" and not profile.table4_presets:
        return (
            "There is no preset for Table IV: table4_presets has none of the presets "
            f"{', '.join(profile.presets)}; choose one of them there."
        )
    return ""
