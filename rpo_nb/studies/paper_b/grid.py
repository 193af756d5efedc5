"""Paper B's prompts, splits and policies: what is to be trained. Nothing is made here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from rpo_nb.config.schema import Profile
from rpo_nb.config.studies import PaperB
from rpo_nb.data.feedback import load_feedback
from rpo_nb.data.splits import group_key
from rpo_nb.experiment import inputs
from rpo_nb.experiment.grid import Columns
from rpo_nb.pocket.prompts import make_prompts, parse
from rpo_nb.pocket.words import COLOURS, OBJECTS

TRUTH, LEARNT, GATED = "truth", "learnt", "gated"  # the judges a run may be trained on
# those a world has; "ood" is of a user's feedback
SPLITS = ("valid", "test", "ood_values", "ood_combinations", "ood")
# Out of distribution: objects and places that no training prompt has, and a quarter of the pairs of
# colour and object. The reference has seen them all in its demonstrations: they are new to the
# preference training only.
UNSEEN = {"object": ("piano", "barrel", "wagon"), "place": ("on the roof", "at the station")}
# paper A's estimates of what sqloo cancels
BRIDGE = ("empirical", "monte_carlo", "leave_one_out", "none")


# ---- prompts -------------------------------------------------------------------------------------


def kind_of(prompt: str) -> str:
    """ "train": in distribution; "ood_values": with an unseen slot value; "ood_combinations": seen
    values, their pair unseen."""
    wish = parse(prompt)
    if any(getattr(wish, slot) in values for slot, values in UNSEEN.items()):
        return "ood_values"
    pair = OBJECTS.index(wish.object) + COLOURS.index(wish.colour)
    return "ood_combinations" if pair % 4 == 0 else "train"


def is_synthetic(prompt: str) -> bool:
    """In distribution, and of a narrow writer of prompts, who knows one of the three wordings and
    half of the objects: Table 3's other source."""
    narrow = prompt.startswith("Write ") and OBJECTS.index(parse(prompt).object) < len(OBJECTS) // 2
    return narrow and kind_of(prompt) == "train"


def prompts_of(config: PaperB, seed: int) -> dict[str, list[str]]:
    """The pocket's prompts of each use, all different: train_1 … train_n (one an iteration), valid,
    test, ood_values, ood_combinations, synthetic."""
    wanted = {f"train_{i + 1}": config.prompts for i in range(config.iterations)}
    wanted |= {
        "valid": config.valid,
        **dict.fromkeys(("test", "ood_values", "ood_combinations"), config.test),
        "synthetic": config.prompts,
    }
    rng, seen = np.random.default_rng([seed, 8]), set()
    found: dict[str, list[str]] = {}
    for name, number in wanted.items():
        kind = name if name.startswith("ood") else "train"
        found[name] = []
        while len(found[name]) < number:
            fresh = [
                p
                for p in make_prompts(500, rng=rng)
                if p not in seen
                and (is_synthetic(p) if name == "synthetic" else kind_of(p) == kind)
            ]
            found[name] += fresh[: number - len(found[name])]
            seen.update(found[name])
    return found


def feedback_prompts(profile: Profile, seed: int) -> dict[str, list[str]]:
    """The same of a user's feedback: train_1 … of the training prompts, valid and test of the
    validation prompts, in the order in which the splits have them; ood of the feedback that
    paper_b.ood names. Raises ValueError when there are too few."""
    config, parts = profile.paper_b, inputs.splits(profile, seed)
    train, held = (list(dict.fromkeys(part["prompt"])) for part in (parts.train, parts.validation))
    if len(train) < config.iterations * config.prompts or len(held) < config.valid + 2:
        raise ValueError(
            f"paper B asks for {config.iterations} × {config.prompts} training "
            f"prompts and {config.valid} + {config.test} "
            f"others, but the feedback has {len(train)} and {len(held)}; lower "
            "paper_b.prompts, iterations, valid or test, or raise "
            "data.prompts or data.validation"
        )
    most = max(Counter(parts.train["prompt_id"]).values())
    if config.responses == "feedback" and most < config.k:
        raise ValueError(
            f"paper_b.k is {config.k}, but no prompt of the feedback has more than "
            f"{most} completions; set paper_b.k to {most} "
            "(pairs have 2), or paper_b.responses to reference"
        )
    found = {
        f"train_{i + 1}": train[i * config.prompts : (i + 1) * config.prompts]
        for i in range(config.iterations)
    }
    found |= {
        "valid": held[: config.valid],
        "test": held[config.valid : config.valid + config.test],
    }
    if config.ood:
        known = {group_key(prompt) for prompt in (*train, *held, *parts.held_out["prompt"])}
        source = profile.data.model_copy(
            update={"validation_split": "", "revision": config.ood_revision}
        )
        others = load_feedback(config.ood, config=source)["prompt"]
        fresh = [prompt for prompt in dict.fromkeys(others) if group_key(prompt) not in known]
        if not fresh:
            raise ValueError(
                f"paper_b.ood, {Path(config.ood).name!r}, has no prompt that the "
                "feedback lacks; give another source"
            )
        found["ood"] = fresh[: config.test]
    return found


# ---- the grid ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run(Columns):
    """One policy: how it is trained, on which prompts, from which start.

    method: of config.settings; "kto"; "rpo", paper A's loss, with an estimator; "sft", the
    reference, which is not trained. No temperature is a column: a setting has its own."""

    k: int = 2
    online: bool = False
    judge: str = TRUTH  # whose rewards it is trained on
    synthetic: bool = False  # on prompts of the narrow writer
    eta: float = 1.0  # times the suggested η
    # The second goes on from the first, whose policy is also its reference, and so on.
    iteration: int = 1
    estimator: str = ""

    @property
    def name(self) -> str:
        """Of its folder, in stored rows and in print; nothing is selected by it."""
        kind = self.method
        if self.online:
            kind = f"online-{self.method}-{self.judge}"
        elif self.estimator:
            kind = f"{self.method}-{self.estimator}"
        elif self.method not in OF_PAIRS:
            kind = f"{self.method}-k{self.k}"
        return (
            kind
            + ("-synthetic" if self.synthetic else "")
            + ("" if self.eta == 1 else f"-eta{self.eta:g}")
            + ("" if self.iteration == 1 else f"-iteration{self.iteration}")
        )

    @property
    def trained(self) -> bool:
        return self.method != REFERENCE.method

    @property
    def prompts(self) -> str:
        """The prompts it is trained on, a key of `prompts_of`."""
        return "synthetic" if self.synthetic else f"train_{self.iteration}"

    @property
    def start(self) -> Run | None:
        """The run it goes on from; None: the reference."""
        return replace(self, iteration=self.iteration - 1) if self.iteration > 1 else None


OF_PAIRS = ("sft", "dpo", "simpo", "kto")  # their K is 2 and in no name
REFERENCE = Run("sft")


def iterated(config: PaperB) -> dict[str, Run]:
    """The first iterations of Table 4, by what the paper calls them."""
    return {
        "Offline DPO": Run("dpo"),
        "Offline RPO-bwd": Run("bwd", k=config.k),
        "Online RPO-bwd": Run("bwd", k=config.k, online=True),
    }


def bridge_runs(config: PaperB) -> list[Run]:
    """Paper A's loss with each estimate of log Z, on the tuples of sqloo."""
    return [Run("rpo", k=config.k, estimator=estimator) for estimator in BRIDGE]


def grid(config: PaperB, *, synthetic: bool = True) -> list[Run]:
    """Every policy of Tables 2 to 4, of η's sweep and of the bridge to paper A, or config.runs and
    those they start from; a run comes after the one it starts from. The first is the reference,
    which is not trained. synthetic: whether there are synthetic prompts."""
    k = config.k
    runs = [REFERENCE, Run("dpo"), Run("simpo"), Run("kto")]
    runs += [Run(loss, k=n) for loss in ("bwd", "sqloo") for n in (2, k)]
    runs += [
        Run(loss, k=k, online=True, judge=judge)
        for judge in (TRUTH, LEARNT)
        for loss in ("bwd", "sqloo")
    ]
    runs += [Run("bwd", k=k, online=True, judge=GATED)]
    runs += [Run("dpo", synthetic=True)] if synthetic else []
    runs += [Run("bwd", k=k, eta=eta) for eta in config.etas]
    runs += [
        replace(first, iteration=i)
        for first in iterated(config).values()
        for i in range(2, config.iterations + 1)
    ]
    runs = list(dict.fromkeys([*runs, *bridge_runs(config)]))
    unknown = set(config.runs) - {run.name for run in runs}
    if unknown:
        raise ValueError(
            f"paper_b.runs: {min(unknown)!r} is unknown; the runs are "
            f"{', '.join(run.name for run in runs)}"
        )
    wanted = {run for run in runs if not config.runs or run.name in config.runs} | {REFERENCE}
    for run in reversed(runs):
        wanted |= {run.start} if run in wanted else set()
    return [run for run in runs if run in wanted]


def rows_of(frame: pd.DataFrame, *runs: Run) -> pd.DataFrame:
    """The rows of a frame of `runs.load` that are of these runs, by their columns."""
    parts = []
    for run in runs:
        mine = frame
        for name, value in run.columns.items():
            mine = mine[mine[name].isna() if pd.isna(value) else mine[name].eq(value)]
        parts.append(mine)
    return pd.concat(parts)


def policies(profile: Profile) -> int:
    """How many policies notebook 08 trains."""
    return (len(grid(profile.paper_b, synthetic=profile.pocket_world)) - 1) * len(
        profile.paper_b.seeds
    )
