"""Paper B's experiments on the pocket world: which policies its Tables 2 to 4 and Figures 1 to 4 need, and what they gave.

`ensure(profile, out)` trains what is missing, one folder a policy under <out>/runs/paper_b/; `load(profile, out)` reads what is
there; `table2` to `table4` and `verdicts` are pure frames to frames. The ground truth is the pocket's checker, as the paper's is
a judge model; the preference data are the reference's own responses, scored by it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from rpo_nb import alignment, experiment, partition, pocket, policy, references
from rpo_nb.alignment import Probe, Reader, Responses, Sampler, Standardised, measures
from rpo_nb.config import Objective, PaperB, Profile, Setting, content_key
from rpo_nb.reward_aware import suggested_eta, tuples
from rpo_nb.store import atomic_write, packed, unpacked, write_json

CODE = (*experiment.CODE, "reward_aware", "alignment", "generation", "judges", "paper_b")
TRUTH, LEARNT, GATED = "truth", "learnt", "gated"  # the judges a run may be trained on
SPLITS = ("valid", "test", "ood_values", "ood_combinations")
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
    """Prompts of each use, all different: train_1 … train_n (one an iteration), valid, test, ood_values, ood_combinations, synthetic."""
    wanted = {f"train_{i + 1}": config.prompts for i in range(config.iterations)} | {"valid": config.valid, **dict.fromkeys(SPLITS[1:], config.test),
                                                                                   "synthetic": config.prompts}
    rng, seen = np.random.default_rng([seed, 8]), set()
    found: dict[str, list[str]] = {}
    for name, number in wanted.items():
        kind = name if name.startswith("ood") else "train"
        found[name] = []
        while len(found[name]) < number:
            fresh = [p for p in pocket.make_prompts(500, rng=rng) if p not in seen and (is_synthetic(p) if name == "synthetic" else kind_of(p) == kind)]
            found[name] += fresh[: number - len(found[name])]
            seen.update(found[name])
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


def grid(config: PaperB) -> list[Run]:
    """Every policy of Tables 2 to 4, of η's sweep and of the bridge to paper A, or config.runs and those they start from; a run comes after the
    one it starts from. The first is the reference, "sft", which is not trained."""
    runs = [Run("sft", "", 2), Run("dpo", "dpo", 2), Run("simpo", "simpo", 2), Run("kto", "kto", 2)]
    runs += [Run(f"{loss}-k{k}", loss, k) for loss in ("bwd", "sqloo") for k in (2, config.k)]
    runs += [Run(f"online-{loss}-{judge}", loss, config.k, online=True, judge=judge) for judge in (TRUTH, LEARNT) for loss in ("bwd", "sqloo")]
    runs += [Run(f"online-bwd-{GATED}", "bwd", config.k, online=True, judge=GATED), Run("dpo-synthetic", "dpo", 2, prompts="synthetic")]
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

    @cached_property
    def path(self) -> str:
        return experiment.reference_path(self.profile, self.config.size, self.seed)

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        model, tokenizer = policy.load_policy(self.path)
        return model.eval().requires_grad_(False), tokenizer

    @cached_property
    def reader(self) -> Reader:
        return Reader(self.loaded[1], self.profile.data.max_prompt_tokens, self.profile.decoding.max_new_tokens,
                      self.profile.evaluation.generation_batch_size)

    @cached_property
    def prompts(self) -> dict[str, list[str]]:
        return prompts_of(self.config, self.seed)

    def draw(self, name: str) -> int:
        """The seed of the samples of a set of prompts."""
        return alignment.hash_seed(self.seed, list(self.prompts).index(name))

    def reward_model(self, judge: str) -> Any:
        """A learnt judge: Bradley and Terry's model of comparisons among the reference's responses to the first prompts, no others.
        LEARNT is a linear head on the reference, GATED the kit's own `judges.RewardNet`, which reads its log-probabilities too."""
        import datasets

        from rpo_nb import judges

        folder = self.out / "runs" / "paper_b" / f"reward_model-{judge}-seed{self.seed}-{self.key()}"
        if judge not in self.learnt and not folder.is_dir():
            data, epochs = self.responses("train_1", ""), self.config.judge_epochs if judge == LEARNT else self.profile.evaluation.judge_epochs
            few = np.flatnonzero(data.prompt_ids < self.config.judge_prompts)
            rows = datasets.Dataset.from_dict({"prompt_id": data.prompt_ids[few], "prompt": [data.prompts[i] for i in few],
                                               "completion": [data.completions[i] for i in few], "reward": data.rewards[few]})
            judges.train_reward_model(self.path, rows, config=self.profile.evaluation.model_copy(update={"judge_epochs": epochs}),
                                      data=self.profile.data, seed=self.seed, threads=self.profile.training.threads, gated=judge == GATED).save(folder)
        if judge not in self.learnt:
            self.learnt[judge] = judges.RewardModel.load(folder)
        return self.learnt[judge]

    def judge(self, name: str) -> alignment.Score:
        return truth if name == TRUTH else self.reward_model(name).score

    def probe(self, purpose: str, judge: str) -> Probe:
        """Looks at the validation prompts ("valid", which choose the checkpoint) or at all that are evaluated ("final", in the order of
        SPLITS), by the truth and by a learnt judge: the run's own, or LEARNT."""
        prompts = [prompt for split in (SPLITS if purpose == "final" else ("valid",)) for prompt in self.prompts[split]]
        seed = self.draw("test" if purpose == "final" else "valid")
        if purpose not in self.baselines:
            self.baselines[purpose] = self.reader.sample(self.loaded[0], prompts, 1, seed)
        return Probe(prompts, {TRUTH: truth, LEARNT: self.judge(LEARNT if judge == TRUTH else judge)}, self.reader, self.loaded[0], seed,
                     self.baselines[purpose])

    def scale(self, judge: str) -> tuple[Standardised, float]:
        """A judge in standard deviations of its rewards of the reference's responses, and the η that the gaps of their pairs suggest:
        the same for every run, so that an iteration goes on with the reward it began with."""
        data = self.responses("train_1", "")
        raw = data.rewards if judge == TRUTH else self.judge(judge)(data.prompts, data.completions)
        mean, std = float(np.mean(raw)), float(np.std(raw))
        rewards = (raw - mean) / std
        pairs = tuples(data.prompt_ids, rewards, k=2, rule=self.config.rule, seed=self.seed)
        return Standardised(self.judge(judge), mean, std), suggested_eta(rewards[pairs[:, 0]] - rewards[pairs[:, 1]])

    def folder(self, run: Run) -> Path:
        return self.out / "runs" / "paper_b" / f"{run.name}-seed{self.seed}-{self.key(run)}"

    def start(self, run: Run) -> str | Path:
        """The policy a run starts from and is measured against by its loss."""
        return self.folder(next(r for r in grid(self.config) if r.name == run.start)) / "policy" if run.start else self.path

    def responses(self, prompts: str, start: str) -> Responses:
        """k responses of the start policy to each prompt, with the truth's rewards."""
        if (prompts, start) not in self.data:
            model = self.loaded[0] if not start else policy.load_policy(self.start(Run("", "", 0, start=start)))[0].eval()
            self.data[prompts, start] = alignment.respond(model, model, self.prompts[prompts], self.config.k, truth, self.reader,
                                                          alignment.hash_seed(self.draw(prompts), 1))
        return self.data[prompts, start]

    def key(self, run: Run | None = None) -> str:
        """What names a policy: everything it depends on, those it starts from included."""
        shared = [self.config.model_dump(mode="json", exclude={"seeds", "processes", "runs", "etas", "reproduce"}), self.profile.sizes[self.config.size].model_dump(mode="json"),
                  self.profile.data.model_dump(mode="json"), self.profile.decoding.model_dump(mode="json"), self.profile.training.threads,
                  self.profile.evaluation.model_dump(mode="json", include={"judge_comparisons", "judge_epochs"}), references.code_key(*CODE)]
        return content_key([*shared, self.seed, *([vars(run)] if run else [])])


def truth(prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
    """The pocket's ground truth, 1 to 10."""
    return np.array([pocket.score(p, c) for p, c in zip(prompts, completions, strict=True)])


# ---- training -----------------------------------------------------------------------------------------------------------------

def ensure(profile: Profile, out: str | Path, *, progress: bool = True) -> None:
    """Train every policy that is not there yet, the seeds in config.processes processes; say how many were made.

    Raises ValueError for feedback of a world whose ground truth is not known.
    """
    from joblib import Parallel, delayed

    if not profile.pocket_world:
        raise ValueError(f"paper B's experiments need a known ground truth, which only the pocket world has; profile {profile.name!r} reads "
                         f"{Path(profile.data.source).name!r}")
    seeds = profile.paper_b.seeds
    jobs = min(profile.paper_b.processes, len(seeds))
    made = Parallel(n_jobs=jobs)(delayed(_ensure_seed)(profile, Path(out), seed, progress and jobs == 1) for seed in seeds)
    total = len(grid(profile.paper_b)) * len(seeds)
    print(f"{sum(made)} policies trained, {total - sum(made)} were done already")


def _ensure_seed(profile: Profile, out: Path, seed: int, progress: bool) -> int:
    from tqdm.auto import tqdm
    from transformers.utils import logging

    logging.disable_progress_bar()
    experiment.torch_threads(profile)
    world, made = World(profile, seed, out), 0
    with tqdm(grid(world.config), desc=f"seed {seed}", disable=not progress) as bar:
        for run in bar:
            bar.set_postfix_str(run.name)
            if not (world.folder(run) / "done.json").is_file():
                train(world, run)
                made += 1
    return made


def train(world: World, run: Run) -> None:
    """Train a run and write its folder: policy/, curve.csv (validation), answers.jsonl.gz (test and out of distribution), and last
    done.json."""
    from transformers import set_seed

    config, folder = world.config, world.folder(run)
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted training left
    folder.mkdir(parents=True)
    if not run.setting:
        _write_answers(world, run, world.loaded[0], folder)
        write_json(folder / "done.json", {})
        return
    set_seed(world.seed)
    start = world.start(run)
    model, _ = policy.load_policy(start)
    reference = policy.load_policy(start)[0].eval().requires_grad_(False) if run.start else world.loaded[0]
    judge, eta = world.scale(run.judge)
    objective = _objective(config, run, eta)
    if run.online:
        groups, sampler = None, Sampler(world.prompts[run.prompts], judge, world.reader, reference, run.k, world.seed)
    else:
        data = world.responses(run.prompts, run.start)
        groups, sampler = _groups(world, replace(data, rewards=judge(data.prompts, data.completions)), objective, run), None
    schedule = config.online if run.online else config.offline
    probe = world.probe("valid", run.judge)
    start_level = probe.answers(world.loaded[0])
    level = start_level[TRUTH]
    trainer = alignment.make_alignment_trainer(
        model, world.reader, objective, schedule, probe=probe, watched=TRUTH, output_dir=folder / "trainer", seed=world.seed,
        floor=float(level.mean() - schedule.collapse * level.std()),
        groups=groups, sampler=sampler, micro_batch_tokens=world.profile.training.micro_batch_tokens)
    outcome = alignment.align(trainer)
    start_row = {"step": 0, **measures(start_level, [TRUTH, LEARNT])}
    _write_answers(world, run, trainer.model.policy, folder)
    trainer.model.policy.save_pretrained(folder / "policy")
    world.reader.tokenizer.save_pretrained(folder / "policy")
    atomic_write(folder / "curve.csv", pd.DataFrame([start_row, *trainer.curve]).to_csv(index=False, lineterminator="\n"))
    shutil.rmtree(folder / "trainer")  # checkpoints: the best one is policy/
    write_json(folder / "done.json", outcome | {"rewards": [judge.mean, judge.std], "eta": objective.setting.eta if objective.setting else None})


def _write_answers(world: World, run: Run, model: Any, folder: Path) -> None:
    answers = world.probe("final", run.judge).answers(model)
    atomic_write(folder / "answers.jsonl.gz", packed(answers.assign(split=np.repeat(SPLITS, [len(world.prompts[split]) for split in SPLITS]))))


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
    groups = alignment.groups_of(data, rows, objective, reader=world.reader, reference=world.loaded[0])
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
        for run in grid(profile.paper_b):
            folder = world.folder(run)
            if not (folder / "done.json").is_file():
                raise ValueError(f"paper B's policy {run.name}, seed {seed}, is not trained; run paper_b.ensure first")
            answers = pd.DataFrame(unpacked(folder / "answers.jsonl.gz"))
            for split, rows in answers.groupby("split", sort=False):
                results.append({"run": run.name, "seed": seed, "split": split, **measures(rows, [TRUTH, LEARNT])})
            if not run.setting:
                continue
            curves.append(pd.read_csv(folder / "curve.csv").assign(run=run.name, seed=seed))
            done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
            costs.append({"run": run.name, "seed": seed, "steps": done["steps"], "best_step": done["best_step"], "reason": done["reason"],
                          **{part: s / done["steps"] for part, s in done["seconds"].items()}})
    return pd.DataFrame(results), pd.concat(curves, ignore_index=True), pd.DataFrame(costs)


def write_generations(profile: Profile, out: str | Path) -> None:
    """<out>/generations/paper_b/seed<n>.jsonl.gz: every policy's answers, their scores and log-probabilities; run "sft" is the reference."""
    for seed in profile.paper_b.seeds:
        world = World(profile, seed, Path(out))
        parts = [pd.DataFrame(unpacked(world.folder(run) / "answers.jsonl.gz")).assign(run=run.name, seed=seed) for run in grid(profile.paper_b)]
        columns = ["run", "seed", "split", "prompt", "completion", TRUTH, LEARNT, "policy_logp", "ref_logp", "tokens"]
        atomic_write(Path(out) / "generations" / "paper_b" / f"seed{seed}.jsonl.gz", packed(pd.concat(parts)[columns]))
