"""What all policies of a seed share in paper B: reference, judges, prompts, completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rpo_nb import pocket
from rpo_nb.config import keys
from rpo_nb.config.keys import content_key
from rpo_nb.config.schema import Profile
from rpo_nb.config.studies import PaperB
from rpo_nb.data.feedback import conversations
from rpo_nb.data.splits import mean_and_std, weights_of
from rpo_nb.experiment import inputs as experiment_inputs
from rpo_nb.experiment.grid import data_recipe
from rpo_nb.policy import encoding
from rpo_nb.policy.load import load_policy, load_tokenizer
from rpo_nb.running.provenance import digest, model_key, source_key, step_code
from rpo_nb.store import cached
from rpo_nb.studies.paper_b.grid import (
    GATED,
    LEARNT,
    SPLITS,
    TRUTH,
    Run,
    feedback_prompts,
    grid,
    prompts_of,
)
from rpo_nb.training import samples
from rpo_nb.training.alignment import Standardised
from rpo_nb.training.reward_aware import suggested_eta, tuples
from rpo_nb.training.samples import Probe, Reader, Responses

# fields of paper_b that choose which policies there are and where they lie, or are in their inputs
NO_POLICY = {
    "seeds",
    "processes",
    "runs",
    "etas",
    "reproduce",
    "size",
    "ood",
    "ood_revision",
}
# fields of training: paper B has a schedule of its own
TRAINING = {
    "threads",
    "bf16",
    "lora",
    "lora_rank",
    "quantize",
    "gradient_checkpointing",
    "liger",
}
# fields of evaluation: how reward models learn
JUDGES = {"judge_comparisons", "judge_epochs", "judge_loss", "judge_lora_rank", "judge_size"}

# ---- what the runs of a seed share ---------------------------------------------------------------


@dataclass
class World:
    """Prompts, reference, preference data and judges of a seed; made when first asked for."""

    profile: Profile
    seed: int
    out: Path
    # (prompts, start) -> responses, truth's rewards, raw
    data: dict[tuple[str, Run | None], Responses] = field(default_factory=dict)
    learnt: dict[str, Any] = field(default_factory=dict)  # reward models that are loaded
    # the reference's answers to the prompts of each probe
    baselines: dict[str, list[str]] = field(default_factory=dict)
    config: PaperB = field(init=False)

    def __post_init__(self) -> None:
        self.config = self.profile.paper_b

    @property
    def size(self) -> str:
        return self.config.size or next(iter(self.profile.sizes))

    @property
    def runs(self) -> list[Run]:
        return grid(self.config, synthetic=self.profile.pocket_world)

    @cached_property
    def path(self) -> str:
        return experiment_inputs.reference_path(self.profile, self.size, self.seed)

    @cached_property
    def reference(self) -> Any:
        return self.load()

    def release(self) -> None:
        """Let the reference go from memory."""
        self.__dict__.pop("reference", None)

    def load(self, run: Run | None = None, *, trained: bool = False) -> Any:
        """The policy of a run, None: the reference. trained: as a training starts from it; with
        LoRA an adapter on the reference, which goes on from one run to the next."""
        training = self.profile.training_of(self.size)
        lora = training.lora_rank if training.lora and trained and run is None else 0
        model, _ = load_policy(
            self.path if run is None else self.folder(run) / "policy",
            bf16=experiment_inputs.half(training),
            quantize=training.quantize,
            base=self.path,
            lora_rank=lora,
            gradient_checkpointing=trained and training.gradient_checkpointing,
            liger=trained and training.liger,
        )
        if not trained:
            return model.eval().requires_grad_(False)
        if training.lora and run is not None:
            for weight_name, weight in model.named_parameters():
                weight.requires_grad_("lora_" in weight_name)
        return model

    @cached_property
    def reader(self) -> Reader:
        limits, asked = self.profile.limits(self.size), {}
        # a conversation is asked as such, whatever its rendered text
        if not self.profile.pocket_world:
            for part in (
                experiment_inputs.splits(self.profile, self.seed).train,
                experiment_inputs.splits(self.profile, self.seed).validation,
            ):
                asked |= dict(zip(part["prompt"], conversations(part), strict=True))
        return Reader(
            load_tokenizer(self.path),
            limits["max_prompt_tokens"],
            self.profile.decoding.max_new_tokens,
            self.profile.evaluation.generation_batch_size,
            bf16=self.profile.training.bf16,
            conversations=asked,
            engine=self.profile.generation,
        )

    @cached_property
    def prompts(self) -> dict[str, list[str]]:
        return (
            prompts_of(self.config, self.seed)
            if self.profile.pocket_world
            else feedback_prompts(self.profile, self.seed)
        )

    @property
    def splits(self) -> list[str]:
        """The prompts that policies are evaluated on."""
        return [split for split in SPLITS if split in self.prompts]

    def draw(self, name: str) -> int:
        """The seed of the samples of a set of prompts."""
        return keys.hash_seed(self.seed, list(self.prompts).index(name))

    def reward_model(self, judge: str) -> Any:
        """A learnt judge: of comparisons among the responses to the first prompts, no others.
        LEARNT is a linear head on the reference, GATED the kit's own `reward_model.RewardNet`,
        which reads its log-probabilities too. TRUTH is that of the held-out feedback
        (`judging`)."""
        import datasets

        from rpo_nb.judging import verdicts
        from rpo_nb.judging.reward_model import RewardModel
        from rpo_nb.judging.reward_training import train_reward_model

        if judge == TRUTH:
            return self.learnt.setdefault(
                judge, verdicts.reward_model(self.profile, self.out, self.seed)
            )

        def make(folder: Path) -> None:
            data, epochs = (
                self.responses("train_1"),
                self.config.judge_epochs
                if judge == LEARNT
                else self.profile.evaluation.judge_epochs,
            )
            few = np.flatnonzero(data.prompt_ids < self.config.judge_prompts)
            rows = datasets.Dataset.from_dict(
                {
                    "prompt_id": data.prompt_ids[few],
                    "prompt": [data.prompts[i] for i in few],
                    "completion": [data.completions[i] for i in few],
                    "reward": data.rewards[few],
                }
            )
            training = self.profile.training
            train_reward_model(
                self.path,
                rows,
                config=self.profile.evaluation.model_copy(update={"judge_epochs": epochs}),
                data=self.profile.data,
                seed=self.seed,
                threads=training.threads,
                bf16=training.bf16,
                gated=judge == GATED,
            ).save(folder, base=self.profile.sizes[self.size].id)

        if judge not in self.learnt:
            self.learnt[judge] = RewardModel.load(
                cached(self.reward_model_folder(judge), make), base=self.path
            )
        return self.learnt[judge]

    def reward_model_folder(self, judge: str) -> Path:
        """Where a judge that learnt from the first prompts' responses is kept."""
        return self.out / "runs" / "paper_b" / f"reward_model-{judge}-seed{self.seed}-{self.key()}"

    def judge(self, name: str) -> samples.Score:
        return (
            truth if name == TRUTH and self.profile.pocket_world else self.reward_model(name).score
        )

    def probe(self, purpose: str, judge: str, *, within: bool = False) -> Probe:
        """Looks at the validation prompts ("valid", which choose the checkpoint) or at all that are
        evaluated ("final", in the order of splits), by the truth and by a learnt judge: the run's
        own, or LEARNT. within: the policy holds the reference (LoRA)."""
        prompts = [
            prompt
            for split in (self.splits if purpose == "final" else ("valid",))
            for prompt in self.prompts[split]
        ]
        seed = self.draw("test" if purpose == "final" else "valid")
        if purpose not in self.baselines:
            # Policies have the random numbers of their seed in common, for differences of means;
            # win rates are over a reference that has its own.
            own = keys.hash_seed(seed, 2)
            self.baselines[purpose] = self.reader.sample(self.reference, prompts, 1, own)
        return Probe(
            prompts,
            {TRUTH: self.judge(TRUTH), LEARNT: self.judge(LEARNT if judge == TRUTH else judge)},
            self.reader,
            None if within else self.reference,
            seed,
            self.baselines[purpose],
        )

    def scale(self, judge: str) -> tuple[Standardised, float]:
        """A judge in standard deviations of its rewards of the reference's responses, and the η
        that the gaps of their pairs suggest: the same for every run, so that an iteration goes on
        with the reward it began with."""
        data = self.responses("train_1")
        raw = self.judge(judge)(data.prompts, data.completions)
        mean, std = float(np.mean(raw)), float(np.std(raw))
        return Standardised(self.judge(judge), mean, std), self._eta(data, (raw - mean) / std)

    def offline(self, run: Run) -> tuple[Responses, float]:
        """The responses an offline run learns from with their rewards, standardised, and the
        suggested η. The first iteration's rewards are those the data came with: the truth's, or a
        user's own scores."""
        data = self.responses(run.prompts, run.start)
        if run.start is not None or run.prompts != "train_1":
            judge, eta = self.scale(run.judge)
            return replace(data, rewards=judge(data.prompts, data.completions)), eta
        mean, std = mean_and_std(data.rewards, data.weights)
        rewards = (data.rewards - mean) / std
        return replace(data, rewards=rewards), self._eta(data, rewards)

    def _eta(self, data: Responses, rewards: np.ndarray) -> float:
        pairs = tuples(data.prompt_ids, rewards, k=2, rule=self.config.rule, seed=self.seed)
        return suggested_eta(rewards[pairs[:, 0]] - rewards[pairs[:, 1]])

    def folder(self, run: Run) -> Path:
        return self.out / "runs" / "paper_b" / f"{run.name}-seed{self.seed}-{self.key(run)}"

    def responses(self, prompts: str, start: Run | None = None) -> Responses:
        """k responses of the start policy to each prompt, with the truth's rewards; or the
        feedback's own rows of the first prompts."""
        if (prompts, start) not in self.data:
            first = prompts == "train_1" and start is None
            own = self.config.responses == "feedback" and first
            model = self.reference if start is None else self.load(start)
            self.data[prompts, start] = (
                self._feedback(model)
                if own
                else samples.respond(
                    model,
                    model,
                    self.prompts[prompts],
                    self.config.k,
                    self.judge(TRUTH),
                    self.reader,
                    keys.hash_seed(self.draw(prompts), 1),
                )
            )
        return self.data[prompts, start]

    def _feedback(self, model: Any) -> Responses:
        """The feedback's rows of the first training prompts, prompt by prompt, with their own
        scores."""
        place = {prompt: i for i, prompt in enumerate(self.prompts["train_1"])}
        train = experiment_inputs.splits(self.profile, self.seed, self.size).train
        rows, weighted = train.to_pandas(), weights_of(train) is not None
        rows = (
            rows[rows["prompt"].isin(place)]
            .assign(place=lambda r: r["prompt"].map(place))
            .sort_values("place", kind="stable")
        )
        texts = rows["prompt"].tolist(), rows["completion"].tolist()
        most = self.profile.limits(self.size)["max_completion_tokens"]
        encoded = encoding.encode(
            self.reader.tokenizer,
            self.reader.asked(texts[0]),
            texts[1],
            max_prompt_tokens=self.reader.max_prompt_tokens,
            max_completion_tokens=most,
        )
        sums, tokens = self.reader.logps(model, None, encoded)
        return Responses(
            rows["place"].to_numpy(),
            *texts,
            rows["reward"].to_numpy(float),
            encoded,
            sums.double().numpy(),
            tokens.numpy(),
            rows["weight"].to_numpy(float) if weighted else None,
        )

    def key(self, run: Run | None = None) -> str:
        """What names a policy: everything it depends on, those it starts from included."""
        profile, config = self.profile, self.config
        # in bfloat16 the batch that is generated at once moves what is sampled
        batch = profile.evaluation.generation_batch_size if profile.training.bf16 else None
        made_from = {
            "inputs": self.inputs,
            "data": data_recipe(profile),
            "other prompts": config.ood and source_key(config.ood, config.ood_revision),
            "paper B": config.model_dump(mode="json", exclude=NO_POLICY),
            "training": profile.training.model_dump(mode="json", include=TRAINING),
            "judges": profile.evaluation.model_dump(mode="json", include=JUDGES),
            "decoding": profile.decoding.model_dump(mode="json"),
            "generation": [profile.generation, batch],
            "limits": profile.limits(self.size),
            "seed": self.seed,
            "code": step_code("paper B"),
        }
        return content_key(made_from | ({"run": asdict(run)} if run else {}))

    @cached_property
    def inputs(self) -> list[str]:
        """What the seed's policies are made from: the reference, the prompts and, of a user's
        feedback, its rows and its judge."""
        given = [model_key(self.path), digest(self.prompts)]
        if self.profile.pocket_world:
            return given
        train = experiment_inputs.splits(self.profile, self.seed, self.size).train
        rows = [
            conversations(train),
            list(train["completion"]),
            list(train["reward"]),
            weights_of(train),
        ]
        return [*given, digest(rows), self.reward_model(TRUTH).identity]


def truth(prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
    """The pocket's ground truth, 1 to 10."""
    return np.array([pocket.score(p, c) for p, c in zip(prompts, completions, strict=True)])
