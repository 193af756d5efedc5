"""The studies beside paper A's grid: the partition lab and paper B."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rpo_nb.config.base import Config, Positive, Seed
from rpo_nb.config.names import Name
from rpo_nb.config.objective import Setting

REGIMES = (
    "on_policy",
    "stronger",
    "much_stronger",
    "weak_reference",
    "narrow_reference",
    "narrow_much_stronger",
)  # lab
DISTURBANCES = ("noise", "heavy_tails", "scale")  # lab


class LabConfig(Config):
    """The partition lab, notebook 07: only where the ground truth is known."""

    size: str = ""  # of its policies; "": the first
    regimes: tuple[str, ...] = REGIMES
    taus: tuple[Positive, ...] = (0.1, 0.3, 1.0)  # of RPO and DRO
    betas: tuple[Positive, ...] = (0.1, 0.3, 1.0)  # of QRPO; KTO has those of at least 0.3
    # of RPO, of partition.ESTIMATORS
    estimators: tuple[str, ...] = ("empirical", "monte_carlo", "leave_one_out", "none")
    seeds: tuple[Seed, ...] = ()  # (): the profile's
    ablation_sizes: tuple[str, ...] = ()  # (): all of the profile
    prompts: int = Field(200, gt=1)  # asked of every policy
    completions: tuple[int, ...] = (1, 2, 4, 8)  # K of the low-data study
    rows: int = Field(800, gt=0)  # its budget, whatever K is
    disturbances: tuple[str, ...] = DISTURBANCES  # of the rewards, see lab.DISTURBANCES
    # settings that each method is given (temperature, learning rate, epochs), 0: none are tried
    tuning: int = Field(0, ge=0, le=9)
    tuning_seeds: tuple[Seed, ...] = Field((7,), min_length=1)  # which choose; others are reported
    more_prompts: tuple[int, ...] = ()  # training prompts of the curve over data, e.g. 50 to 1,600
    bias_ks: tuple[int, ...] = (1, 2, 4, 8, 16, 64)
    bias_taus: tuple[Positive, ...] = (0.1, 0.5, 1.0, 2.0, 5.0)
    bias_prompts: int = Field(24, gt=1)
    bias_completions: int = Field(128, gt=1)  # a prompt, from which K are drawn
    bias_draws: int = Field(16, gt=0)
    truth_samples: int = Field(256, gt=1)  # of the reference, a prompt, for V*
    workers: int = Field(2, gt=0)  # processes that train side by side


class Schedule(Config):
    """How long and how fast a policy of paper B is trained: at a constant rate, as the paper's."""

    steps: int = Field(50, gt=0)
    prompts_a_step: int = Field(8, gt=0)
    learning_rate: float = Field(5e-4, gt=0)
    evaluate_every: int = Field(10, gt=0)  # steps
    # stop when the validation reward is this many standard deviations below the reference's
    collapse: float = Field(1.0, gt=0)


class PaperB(Config):
    """Paper B's experiments: Tables 2 to 4."""

    size: str = ""  # of its policies; "": the first
    seeds: tuple[Seed, ...] = Field((0, 1, 2), min_length=1)
    processes: int = Field(2, gt=0)  # seeds trained side by side, a core each
    reproduce: bool = False  # a part of `make reproduce`
    # what is offline at first: the reference's responses, or the feedback's rows
    responses: Literal["reference", "feedback"] = "reference"
    ood: str = ""  # another feedback source, whose prompts are asked, too; the pocket makes its own
    ood_revision: str = "main"  # of a hub id: a branch, tag or, to pin it, a commit
    runs: tuple[str, ...] = ()  # names of paper_b.grid; empty: all
    prompts: int = Field(200, gt=0)  # of an iteration
    valid: int = Field(100, gt=1)  # prompts that choose the checkpoint
    test: int = Field(150, gt=1)  # prompts, in distribution and of each kind out of it
    k: int = Field(4, ge=2)  # responses a prompt
    rule: Literal["best_random", "best_worst"] = "best_random"  # how pairs are picked
    iterations: int = Field(3, ge=1)
    # whose responses the learnt reward models compare: the first of the preference data
    judge_prompts: int = Field(200, gt=1)
    # of the reward model that is a linear head; the kit's own judge has evaluation.judge_epochs
    judge_epochs: int = Field(6, gt=0)
    etas: tuple[Positive, ...] = (0.3, 3.0)  # η's sweep, as multiples of the suggested one
    # Rewards are standardised, η of bwd is a multiple of the suggested one. Chosen by validation
    # reward on seed 7 of the pocket world, which no table uses: β of 0.03 to 3 (SimPO's 0.5 to 10),
    # rates 2e-4 and 5e-4.
    kto_beta: float = Field(0.3, gt=0)
    settings: dict[Name, Setting] = {
        "dpo": Setting("bwd", 0.1, gap=1000.0),
        "simpo": Setting("bwd", 0.5, gap=1000.0, gamma=0.1, per_token=True),
        "bwd": Setting("bwd", 0.3),
        "sqloo": Setting("sqloo", 0.3),
    }
    offline: Schedule = Schedule()
    online: Schedule = Schedule(steps=100)
