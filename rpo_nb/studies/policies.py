"""How many policies notebooks 07 and 08 train beside the grid's: a profile as JSON comes in, counts
by notebook go out as JSON.

    python -m rpo_nb.studies.policies < profile.json

A process of its own: counting needs what trains them, and so torch, which whoever waits for the
batch need not load.
"""

from __future__ import annotations

import json
import sys

from rpo_nb.config.schema import Profile
from rpo_nb.running import jobs
from rpo_nb.studies import lab
from rpo_nb.studies.paper_b import grid

COUNTS = {jobs.LAB: lab.policies, jobs.PAPER_B: grid.policies}


def own_policies(profile: Profile) -> dict[str, int]:
    """Notebook -> the policies that it trains itself. Raises ValueError for a run that is none."""
    return {job: COUNTS[job](profile) for job in jobs.jobs(profile) if job in COUNTS}


def main() -> int:
    try:
        print(json.dumps(own_policies(Profile.model_validate_json(sys.stdin.read()))))
        return 0
    except ValueError as error:  # a wrong name in paper_b.runs, say
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
