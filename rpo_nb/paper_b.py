"""Paper B's experiments: which policies its Tables 2 to 4 and Figures 1 to 4 need, and what they gave.

`ensure(profile, out)` trains what is missing, one folder a policy under <out>/runs/paper_b/; `load(profile, out)` reads what is
there. The ground truth is the pocket's checker. For a user's feedback a judge model stands for it, as in the paper: the reward
model that learnt from the held-out feedback, which no policy and no other judge has seen. The preference data are the
reference's own responses scored by it, or the feedback itself with its own scores (paper_b.responses).
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from rpo_nb import alignment, experiment, partition, pocket, policy
from rpo_nb.alignment import Probe, Reader, Responses, Sampler, Standardised, measures
from rpo_nb.config import Objective, PaperB, Profile, Setting, content_key
from rpo_nb.data import conversations, group_key, load_feedback, mean_and_std, weights_of
from rpo_nb.reward_aware import suggested_eta, tuples
from rpo_nb.provenance import digest, model_key, source_key, step_code
from rpo_nb.store import atomic_write, cached, packed, seal, sealed, unpacked
from rpo_nb.training import save_policy

TRUTH, LEARNT, GATED = "truth", "learnt", "gated"  # the judges a run may be trained on
SPLITS = ("valid", "test", "ood_values", "ood_combinations", "ood")  # those a world has; "ood" is of a user's feedback
# Out of distribution: objects and places that no training prompt has, and a quarter of the pairs of colour and object.
# The reference has seen them all in its demonstrations: they are new to the preference training only.
UNSEEN = {"object": ("piano", "barrel", "wagon"), "place": ("on the roof", "at the station")}
BRIDGE = ("empirical", "monte_carlo", "leave_one_out", "none")  # paper A's estimates of what sqloo cancels


# ---- prompts ----------------------------------------------------------------------------------------------------------------

def kind_of(prompt: str) -> str:
    """"train": in distribution; "ood_values": with an unseen slot value; "ood_combinations": seen values, their pair unseen."""
    wish = pocket.parse(prompt)
    if any(getattr(wish, slot) in values for slot, values in UNSEEN.items()):
        return "ood_values"
    pair = pocket.OBJECTS.index(wish.object) + pocket.COLOURS.index(wish.colour)
    return "ood_combinations" if pair % 4 == 0 else "train"


def is_synthetic(prompt: str) -> bool:
    """In distribution, and of a narrow writer of prompts, who knows one of the three wordings and half of the objects: Table 3's other
    source."""
    narrow = prompt.startswith("Write ") and pocket.OBJECTS.index(pocket.parse(prompt).object) < len(pocket.OBJECTS) // 2
    return narrow and kind_of(prompt) == "train"


def prompts_of(config: PaperB, seed: int) -> dict[str, list[str]]:
    """The pocket's prompts of each use, all different: train_1 … train_n (one an iteration), valid, test, ood_values, ood_combinations,
    synthetic."""
    wanted = {f"train_{i + 1}": config.prompts for i in range(config.iterations)}
    wanted |= {"valid": config.valid, **dict.fromkeys(("test", "ood_values", "ood_combinations"), config.test), "synthetic": config.prompts}
    rng, seen = np.random.default_rng([seed, 8]), set()
    found: dict[str, list[str]] = {}
    for name, number in wanted.items():
        kind = name if name.startswith("ood") else "train"
        found[name] = []
        while len(found[name]) < number:
            fresh = [p for p in pocket.make_prompts(500, rng=rng)
                     if p not in seen and (is_synthetic(p) if name == "synthetic" else kind_of(p) == kind)]
            found[name] += fresh[: number - len(found[name])]
            seen.update(found[name])
    return found


def feedback_prompts(profile: Profile, seed: int) -> dict[str, list[str]]:
    """The same of a user's feedback: train_1 … of the training prompts, valid and test of the validation prompts, in the order in which the
    splits have them; ood of the feedback that paper_b.ood names. Raises ValueError when there are too few."""
    config, parts = profile.paper_b, experiment.splits(profile, seed)
    train, held = (list(dict.fromkeys(part["prompt"])) for part in (parts.train, parts.validation))
    if len(train) < config.iterations * config.prompts or len(held) < config.valid + 2:
        raise ValueError(f"paper B asks for {config.iterations} × {config.prompts} training prompts and {config.valid} + {config.test} "
                         f"others, but the feedback has {len(train)} and {len(held)}; lower paper_b.prompts, iterations, valid or test, or raise "
                         "data.prompts or data.validation")
    most = max(Counter(parts.train["prompt_id"]).values())
    if config.responses == "feedback" and most < config.k:
        raise ValueError(f"paper_b.k is {config.k}, but no prompt of the feedback has more than {most} completions; set paper_b.k to {most} "
                         "(pairs have 2), or paper_b.responses to reference")
    found = {f"train_{i + 1}": train[i * config.prompts : (i + 1) * config.prompts] for i in range(config.iterations)}
    found |= {"valid": held[: config.valid], "test": held[config.valid : config.valid + config.test]}
    if config.ood:
        known = {group_key(prompt) for prompt in (*train, *held, *parts.held_out["prompt"])}
        source = profile.data.model_copy(update={"validation_split": "", "revision": config.ood_revision})
        others = load_feedback(config.ood, config=source)["prompt"]
        fresh = [prompt for prompt in dict.fromkeys(others) if group_key(prompt) not in known]
        if not fresh:
            raise ValueError(f"paper_b.ood, {Path(config.ood).name!r}, has no prompt that the feedback lacks; give another source")
        found["ood"] = fresh[: config.test]
    return found


# ---- the grid ---------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Run:
    """One policy: how it is trained, on which prompts, from which start."""

    name: str
    setting: str  # of config.settings; "kto"; "rpo-<estimator>", paper A's loss; "": nothing is trained
    k: int
    online: bool = False
    judge: str = TRUTH  # whose rewards it is trained on
    prompts: str = "train_1"
    eta: float = 1.0  # times the suggested η
    start: str = ""  # the run it goes on from, whose policy is also its reference; "": the reference


def grid(config: PaperB, *, synthetic: bool = True) -> list[Run]:
    """Every policy of Tables 2 to 4, of η's sweep and of the bridge to paper A, or config.runs and those they start from; a run comes after the
    one it starts from. The first is the reference, "sft", which is not trained. synthetic: whether there are synthetic prompts."""
    runs = [Run("sft", "", 2), Run("dpo", "dpo", 2), Run("simpo", "simpo", 2), Run("kto", "kto", 2)]
    runs += [Run(f"{loss}-k{k}", loss, k) for loss in ("bwd", "sqloo") for k in dict.fromkeys((2, config.k))]
    runs += [Run(f"online-{loss}-{judge}", loss, config.k, online=True, judge=judge) for judge in (TRUTH, LEARNT) for loss in ("bwd", "sqloo")]
    runs += [Run(f"online-bwd-{GATED}", "bwd", config.k, online=True, judge=GATED)]
    runs += [Run("dpo-synthetic", "dpo", 2, prompts="synthetic")] if synthetic else []
    runs += [Run(f"bwd-k{config.k}-eta{eta:g}", "bwd", config.k, eta=eta) for eta in config.etas]
    for first, setting, k, online in (("dpo", "dpo", 2, False), (f"bwd-k{config.k}", "bwd", config.k, False),
                                      (f"online-bwd-{TRUTH}", "bwd", config.k, True)):
        start = first
        for i in range(2, config.iterations + 1):
            runs.append(Run(f"{first}-iteration{i}", setting, k, online, prompts=f"train_{i}", start=start))
            start = runs[-1].name
    runs += [Run(f"rpo-{estimator}", f"rpo-{estimator}", config.k) for estimator in BRIDGE]
    unknown = set(config.runs) - {run.name for run in runs}
    if unknown:
        raise ValueError(f"paper_b.runs: {min(unknown)!r} is unknown; the runs are {', '.join(run.name for run in runs)}")
    wanted = set(config.runs) or {run.name for run in runs}
    for run in reversed(runs):
        wanted |= {run.start} if run.name in wanted else set()
    return [run for run in runs if run.name in wanted or run.name == "sft"]


def policies(profile: Profile) -> int:
    """How many policies notebook 08 trains."""
    return (len(grid(profile.paper_b, synthetic=profile.pocket_world)) - 1) * len(profile.paper_b.seeds)


# ---- what the runs of a seed share --------------------------------------------------------------------------------------------

@dataclass
class World:
    """Prompts, reference, preference data and judges of a seed; made when first asked for."""

    profile: Profile
    seed: int
    out: Path
    data: dict[tuple[str, str], Responses] = field(default_factory=dict)  # (prompts, start) -> responses, truth's rewards, raw
    learnt: dict[str, Any] = field(default_factory=dict)  # reward models that are loaded
    baselines: dict[str, list[str]] = field(default_factory=dict)  # the reference's answers to the prompts of each probe
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
        return experiment.reference_path(self.profile, self.size, self.seed)

    @cached_property
    def reference(self) -> Any:
        return self.load("")

    def release(self) -> None:
        """Let the reference go from memory."""
        self.__dict__.pop("reference", None)

    def load(self, name: str, *, trained: bool = False) -> Any:
        """The policy of a run, "" the reference. trained: as a training starts from it; with LoRA an adapter on the reference, which goes
        on from one run to the next."""
        training = self.profile.training_of(self.size)
        lora = training.lora_rank if training.lora and trained and not name else 0
        model, _ = policy.load_policy(self.start(name), bf16=experiment.half(training), quantize=training.quantize, base=self.path, lora_rank=lora,
                                      gradient_checkpointing=trained and training.gradient_checkpointing, liger=trained and training.liger)
        if not trained:
            return model.eval().requires_grad_(False)
        if training.lora and name:
            for weight_name, weight in model.named_parameters():
                weight.requires_grad_("lora_" in weight_name)
        return model

    @cached_property
    def reader(self) -> Reader:
        limits, asked = self.profile.limits(self.size), {}
        if not self.profile.pocket_world:  # a conversation is asked as such, whatever its rendered text
            for part in (experiment.splits(self.profile, self.seed).train, experiment.splits(self.profile, self.seed).validation):
                asked |= dict(zip(part["prompt"], conversations(part), strict=True))
        return Reader(policy.load_tokenizer(self.path), limits["max_prompt_tokens"], self.profile.decoding.max_new_tokens,
                      self.profile.evaluation.generation_batch_size, bf16=self.profile.training.bf16, conversations=asked, engine=self.profile.generation)

    @cached_property
    def prompts(self) -> dict[str, list[str]]:
        return prompts_of(self.config, self.seed) if self.profile.pocket_world else feedback_prompts(self.profile, self.seed)

    @property
    def splits(self) -> list[str]:
        """The prompts that policies are evaluated on."""
        return [split for split in SPLITS if split in self.prompts]

    def draw(self, name: str) -> int:
        """The seed of the samples of a set of prompts."""
        return alignment.hash_seed(self.seed, list(self.prompts).index(name))

    def reward_model(self, judge: str) -> Any:
        """A learnt judge: of comparisons among the responses to the first prompts, no others. LEARNT is a linear head on the reference,
        GATED the kit's own `judges.RewardNet`, which reads its log-probabilities too. TRUTH is that of the held-out feedback (`judging`)."""
        import datasets

        from rpo_nb import judges, judging

        if judge == TRUTH:
            return self.learnt.setdefault(judge, judging.reward_model(self.profile, self.out, self.seed))

        def make(folder: Path) -> None:
            data, epochs = self.responses("train_1", ""), self.config.judge_epochs if judge == LEARNT else self.profile.evaluation.judge_epochs
            few = np.flatnonzero(data.prompt_ids < self.config.judge_prompts)
            rows = datasets.Dataset.from_dict({"prompt_id": data.prompt_ids[few], "prompt": [data.prompts[i] for i in few],
                                               "completion": [data.completions[i] for i in few], "reward": data.rewards[few]})
            training = self.profile.training
            judges.train_reward_model(self.path, rows, config=self.profile.evaluation.model_copy(update={"judge_epochs": epochs}),
                                      data=self.profile.data, seed=self.seed, threads=training.threads, bf16=training.bf16,
                                      gated=judge == GATED).save(folder, base=self.profile.sizes[self.size].id)

        if judge not in self.learnt:
            self.learnt[judge] = judges.RewardModel.load(cached(self.reward_model_folder(judge), make), base=self.path)
        return self.learnt[judge]

    def reward_model_folder(self, judge: str) -> Path:
        """Where a judge that learnt from the first prompts' responses is kept."""
        return self.out / "runs" / "paper_b" / f"reward_model-{judge}-seed{self.seed}-{self.key()}"

    def judge(self, name: str) -> alignment.Score:
        return truth if name == TRUTH and self.profile.pocket_world else self.reward_model(name).score

    def probe(self, purpose: str, judge: str, *, within: bool = False) -> Probe:
        """Looks at the validation prompts ("valid", which choose the checkpoint) or at all that are evaluated ("final", in the order of
        splits), by the truth and by a learnt judge: the run's own, or LEARNT. within: the policy holds the reference (LoRA)."""
        prompts = [prompt for split in (self.splits if purpose == "final" else ("valid",)) for prompt in self.prompts[split]]
        seed = self.draw("test" if purpose == "final" else "valid")
        if purpose not in self.baselines:
            self.baselines[purpose] = self.reader.sample(self.reference, prompts, 1, seed)
        return Probe(prompts, {TRUTH: self.judge(TRUTH), LEARNT: self.judge(LEARNT if judge == TRUTH else judge)}, self.reader,
                     None if within else self.reference, seed, self.baselines[purpose])

    def scale(self, judge: str) -> tuple[Standardised, float]:
        """A judge in standard deviations of its rewards of the reference's responses, and the η that the gaps of their pairs suggest:
        the same for every run, so that an iteration goes on with the reward it began with."""
        data = self.responses("train_1", "")
        raw = self.judge(judge)(data.prompts, data.completions)
        mean, std = float(np.mean(raw)), float(np.std(raw))
        return Standardised(self.judge(judge), mean, std), self._eta(data, (raw - mean) / std)

    def offline(self, run: Run) -> tuple[Responses, float]:
        """The responses an offline run learns from with their rewards, standardised, and the suggested η. The first iteration's rewards are
        those the data came with: the truth's, or a user's own scores."""
        data = self.responses(run.prompts, run.start)
        if run.start or run.prompts != "train_1":
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

    def start(self, name: str) -> str | Path:
        """The folder of a run's policy, "" the reference's."""
        return self.folder(next(r for r in self.runs if r.name == name)) / "policy" if name else self.path

    def responses(self, prompts: str, start: str) -> Responses:
        """k responses of the start policy to each prompt, with the truth's rewards; or the feedback's own rows of the first prompts."""
        if (prompts, start) not in self.data:
            own = self.config.responses == "feedback" and prompts == "train_1" and not start
            model = self.load(start) if start else self.reference
            self.data[prompts, start] = self._feedback(model) if own else alignment.respond(
                model, model, self.prompts[prompts], self.config.k, self.judge(TRUTH), self.reader, alignment.hash_seed(self.draw(prompts), 1))
        return self.data[prompts, start]

    def _feedback(self, model: Any) -> Responses:
        """The feedback's rows of the first training prompts, prompt by prompt, with their own scores."""
        place = {prompt: i for i, prompt in enumerate(self.prompts["train_1"])}
        train = experiment.splits(self.profile, self.seed, self.size).train
        rows, weighted = train.to_pandas(), weights_of(train) is not None
        rows = rows[rows["prompt"].isin(place)].assign(place=lambda r: r["prompt"].map(place)).sort_values("place", kind="stable")
        texts = rows["prompt"].tolist(), rows["completion"].tolist()
        most = self.profile.limits(self.size)["max_completion_tokens"]
        encoded = policy.encode(self.reader.tokenizer, self.reader.asked(texts[0]), texts[1], max_prompt_tokens=self.reader.max_prompt_tokens,
                                max_completion_tokens=most)
        sums, tokens = self.reader.logps(model, None, encoded)
        return Responses(rows["place"].to_numpy(), *texts, rows["reward"].to_numpy(float), encoded, sums.double().numpy(), tokens.numpy(),
                         rows["weight"].to_numpy(float) if weighted else None)

    def key(self, run: Run | None = None) -> str:
        """What names a policy: everything it depends on, those it starts from included."""
        profile, config, judges = self.profile, self.config, {"judge_comparisons", "judge_epochs", "judge_loss", "judge_lora_rank", "judge_size"}
        shared = [config.model_dump(mode="json", exclude={"seeds", "processes", "runs", "etas", "reproduce", "size", "ood", "ood_revision"}),
                  config.ood and source_key(config.ood, config.ood_revision), self.inputs, experiment.data_recipe(profile), profile.decoding.model_dump(mode="json"),
                  profile.training.model_dump(mode="json", include={"threads", "bf16", "lora", "lora_rank", "quantize", "gradient_checkpointing",
                                                                    "liger"}),
                  profile.limits(self.size), profile.evaluation.model_dump(mode="json", include=judges), step_code("paper B")]
        batch = profile.evaluation.generation_batch_size if profile.training.bf16 else None  # as of the grid's answers
        return content_key([*shared, batch, profile.generation, self.seed, *([vars(run)] if run else [])])

    @cached_property
    def inputs(self) -> list[str]:
        """What the seed's policies are made from: the reference, the prompts and, of a user's feedback, its rows and its judge."""
        given = [model_key(self.path), digest(self.prompts)]
        if self.profile.pocket_world:
            return given
        train = experiment.splits(self.profile, self.seed, self.size).train
        rows = [conversations(train), list(train["completion"]), list(train["reward"]), weights_of(train)]
        return [*given, digest(rows), self.reward_model(TRUTH).identity]


def truth(prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
    """The pocket's ground truth, 1 to 10."""
    return np.array([pocket.score(p, c) for p, c in zip(prompts, completions, strict=True)])


# ---- training -----------------------------------------------------------------------------------------------------------------

def ensure(profile: Profile, out: str | Path, *, progress: bool = True) -> None:
    """Train every policy that is not there yet, the seeds in config.processes processes; say how many were made."""
    from joblib import Parallel, delayed
    from tqdm.auto import tqdm

    if not (profile.pocket_world or profile.data.held_out):
        raise ValueError("paper B needs a judge that stands for the truth: a reward model learnt from held-out feedback; set data.held_out above 0")
    seeds = profile.paper_b.seeds
    jobs, made = min(profile.paper_b.processes, len(seeds)), 0
    work = [delayed(_ensure_seed)(profile, Path(out), seed, progress and jobs == 1) for seed in seeds]
    done = Parallel(n_jobs=jobs, return_as="generator_unordered")(work)
    for trained in tqdm(done, total=len(seeds), desc=f"paper B, seeds, {jobs} at a time", disable=not progress or jobs == 1):
        made += trained
    print(f"{made} policies trained, {policies(profile) - made} were done already")


def _ensure_seed(profile: Profile, out: Path, seed: int, progress: bool) -> int:
    from tqdm.auto import tqdm
    from transformers.utils import logging

    logging.disable_progress_bar()
    experiment.torch_threads(profile)
    world, made = World(profile, seed, out), 0
    with experiment.quick_collections(), tqdm(world.runs, desc=f"seed {seed}", disable=not progress) as bar:
        for run in bar:
            bar.set_postfix_str(run.name)
            if sealed(world.folder(run)) is None:
                train(world, run)
                made += bool(run.setting)
    return made


def train(world: World, run: Run) -> None:
    """Train a run and write its folder: policy/, curve.csv (validation), answers.jsonl.gz (test and out of distribution), and last
    done.json."""
    from transformers import set_seed

    config, folder = world.config, world.folder(run)
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted training left
    folder.mkdir(parents=True)
    if not run.setting:
        _write_answers(world, run, world.reference, world.probe("final", run.judge), folder)
        seal(folder)
        return
    set_seed(world.seed)
    training, within = world.profile.training_of(world.size), world.profile.training.lora and not run.start  # the reference is within the policy
    groups, sampler, judge = None, None, None
    if run.online:
        judge, eta = world.scale(run.judge)
        objective = _objective(config, run, eta)
        reference = None if within else world.load(run.start) if run.start else world.reference
        sampler = Sampler(world.prompts[run.prompts], judge, world.reader, reference, run.k, world.seed)
    else:
        data, eta = world.offline(run)
        objective = _objective(config, run, eta)
        groups = _groups(world, data, objective, run)
    schedule = config.online if run.online else config.offline
    probe, final = (world.probe(purpose, run.judge, within=within) for purpose in ("valid", "final"))
    if within:
        world.release()
    model = world.load(run.start, trained=True)
    before = probe.answers(model)
    trainer = alignment.make_alignment_trainer(
        model, world.reader, objective, schedule, probe=probe, watched=TRUTH, output_dir=folder / "trainer", seed=world.seed,
        floor=float(before[TRUTH].mean() - schedule.collapse * before[TRUTH].std()),
        groups=groups, sampler=sampler, micro_batch_tokens=training.micro_batch_tokens)
    outcome = alignment.align(trainer)
    _write_answers(world, run, trainer.model.policy, final, folder)
    save_policy(trainer, world.reader.tokenizer, folder / "policy", base=world.profile.sizes[world.size].id)
    curve = pd.DataFrame([{"step": 0, **measures(before, [TRUTH, LEARNT])}, *trainer.curve])
    atomic_write(folder / "curve.csv", curve.to_csv(index=False, lineterminator="\n"))
    shutil.rmtree(folder / "trainer")  # checkpoints: the best one is policy/
    seal(folder, outcome | {"rewards": [judge.mean, judge.std] if judge else None,
                            "eta": objective.setting.eta if objective.setting else None})


def _write_answers(world: World, run: Run, model: Any, probe: Probe, folder: Path) -> None:
    splits = np.repeat(world.splits, [len(world.prompts[split]) for split in world.splits])
    atomic_write(folder / "answers.jsonl.gz", packed(probe.answers(model).assign(split=splits)))


def _objective(config: PaperB, run: Run, eta: float) -> Objective:
    """What a run is trained on; eta: the suggested η, which a setting of bwd or fwd multiplies."""
    if run.setting == "kto":
        return Objective(method="kto", beta=config.kto_beta, kto_kl="mismatched")
    if run.setting.startswith("rpo-"):
        return Objective(method="rpo", tau=config.settings["sqloo"].beta / config.settings["sqloo"].eta)
    setting: Setting = config.settings[run.setting]
    if setting.distance in ("bwd", "fwd") and setting.gap is None:
        setting = replace(setting, eta=setting.eta * run.eta * eta)
    return Objective(method="reward_aware", reduce="mean" if setting.per_token else "sum", setting=setting)


def _groups(world: World, data: Responses, objective: Objective, run: Run) -> list[dict]:
    rows = tuples(data.prompt_ids, data.rewards, k=run.k, rule=world.config.rule, seed=world.seed)
    groups = alignment.groups_of(data, rows, objective, reader=world.reader,
                                  reference=world.reference if objective.method == "kto" else None)
    if objective.method == "rpo":
        log_z = partition.log_partition(torch.from_numpy(data.ref_logps), torch.from_numpy(data.rewards), torch.from_numpy(data.prompt_ids),
                                        tau=objective.tau, estimator=run.setting.removeprefix("rpo-")).numpy()
        for group, tuple_rows in zip(groups, rows, strict=True):
            group["log_partition"] = log_z[tuple_rows].tolist()
    return groups


# ---- what came out --------------------------------------------------------------------------------------------------------------

def load(profile: Profile, out: str | Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """(results, curves, costs) of the policies. results: run, seed, split and the measures; run "sft" is the reference.
    curves: run, seed, step and the measures on the validation prompts. costs: run, seed, steps, best_step, reason, seconds of each
    part a step. Raises ValueError when a policy is missing."""
    results, curves, costs = [], [], []
    for seed in profile.paper_b.seeds:
        world = World(profile, seed, Path(out))
        for run in world.runs:
            folder = world.folder(run)
            done = sealed(folder, quick=True)
            if done is None:
                raise ValueError(f"paper B's policy {run.name}, seed {seed}, is not trained; run paper_b.ensure first")
            answers = pd.DataFrame(unpacked(folder / "answers.jsonl.gz"))
            for split, rows in answers.groupby("split", sort=False):
                results.append({"run": run.name, "seed": seed, "split": split, **measures(rows, [TRUTH, LEARNT])})
            if not run.setting:
                continue
            curves.append(pd.read_csv(folder / "curve.csv").assign(run=run.name, seed=seed))
            costs.append({"run": run.name, "seed": seed, "steps": done["steps"], "best_step": done["best_step"], "reason": done["reason"],
                          **{part: s / done["steps"] for part, s in done["seconds"].items()}})
    return pd.DataFrame(results), pd.concat(curves, ignore_index=True), pd.DataFrame(costs)


def write_generations(profile: Profile, out: str | Path) -> None:
    """<out>/generations/paper_b/seed<n>.jsonl.gz: every policy's answers, their scores and log-probabilities; run "sft" is the reference."""
    for seed in profile.paper_b.seeds:
        world = World(profile, seed, Path(out))
        parts = [pd.DataFrame(unpacked(world.folder(run) / "answers.jsonl.gz")).assign(run=run.name, seed=seed) for run in world.runs]
        columns = ["run", "seed", "split", "prompt", "completion", TRUTH, LEARNT, "policy_logp", "ref_logp", "tokens"]
        atomic_write(Path(out) / "generations" / "paper_b" / f"seed{seed}.jsonl.gz", packed(pd.concat(parts)[columns]))
