"""A conversation with a finished policy and its reference, side by side.

Each line is a prompt of its own, encoded and answered as in the reproduction: the chat template of
the model where it has one, the run's decoding, and for both policies the same random numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rpo_nb.config.schema import Profile
from rpo_nb.evaluation.asking import check_start
from rpo_nb.experiment import inputs
from rpo_nb.pocket import checker, violations
from rpo_nb.policy import load, logps
from rpo_nb.policy.generation import samples
from rpo_nb.reporting import publish
from rpo_nb.reporting.card import Chosen
from rpo_nb.running.processes import shown
from rpo_nb.running.staging import placed
from rpo_nb.store import left_out
from rpo_nb.studies.browse.stored import policy_name, profile_of

EXAMPLE = (
    "Write two sentences about a silver lantern beside the lake. Keep a calm tone, mention music "
    "and avoid tall."
)


@dataclass
class Pair:
    """A policy and its reference, ready to be asked."""

    chosen: Chosen
    policy: Any
    tokenizer: Any
    path: str  # of the reference
    asked: int = 0  # how often: the same prompt again is another draw
    loaded: Any = None  # the reference, from its first use on; an adapter's is within the policy

    @property
    def names(self) -> tuple[str, str]:
        run = self.chosen.run
        return policy_name(run.method, run.tau), "reference"

    @contextmanager
    def _reference(self) -> Iterator[Any]:
        if hasattr(self.policy, "disable_adapter"):
            with load.adapter_off(self.policy) as reference:
                yield reference
            return
        if self.loaded is None:
            training = self.chosen.profile.training
            half, kind = inputs.half(training), training.quantize
            self.loaded, _ = load.load_policy(self.path, bf16=half, quantize=kind)
        yield self.loaded

    def answer(self, prompt: str) -> list[dict[str, Any]]:
        """The policy's and the reference's completion of a prompt: who, completion, log_ratio
        (policy over reference, nats), and in the pocket world reward (1 to 10) and lost, None where
        the prompt is none of that world."""
        profile, run = self.chosen.profile, self.chosen.run
        how = {
            "decoding": run.decoding,
            "seed": run.seed + self.asked,
            "max_prompt_tokens": profile.limits(run.size)["max_prompt_tokens"],
            "batch_size": 1,
        }
        self.asked += 1
        with logps.autocast(profile.training.bf16):
            with self._reference() as reference:
                (theirs,) = samples(reference, self.tokenizer, [prompt], **how)
            (mine,) = samples(self.policy, self.tokenizer, [prompt], **how)
        rows, bf16 = [mine.row, theirs.row], profile.training.bf16
        with self._reference() as reference:
            before = logps.score_completions(reference, self.tokenizer, rows, bf16=bf16)[0]
        after = logps.score_completions(self.policy, self.tokenizer, rows, bf16=bf16)[0]
        ratios = (after - before).tolist()
        return [
            {"who": who, "completion": drawn.text, "log_ratio": ratio}
            | _worth(profile, prompt, drawn.text)
            for who, drawn, ratio in zip(self.names, (mine, theirs), ratios, strict=True)
        ]


def _worth(profile: Profile, prompt: str, text: str) -> dict[str, Any]:
    try:
        return (
            {"reward": checker.score(prompt, text), "lost": violations.lost(prompt, text)}
            if profile.pocket_world
            else {"reward": None, "lost": None}
        )
    except ValueError:  # a prompt of no pocket kind has no checker
        return {"reward": None, "lost": None}


def open_pair(out: Path | str, **which: Any) -> Pair:
    """A finished policy of an output folder (`publish.choose`: method, size, preset, tau, seed) and
    its reference. Raises ValueError where the policies are not here, and for one that was trained
    from another reference than today's, as by earlier code."""
    out = Path(out)
    profile = profile_of(out)
    if not any((out / "runs").glob("*/done.json")):
        raise ValueError(
            f"{shown(out)} has no policies (a clone has only what they said): "
            f"`python -m rpo_nb reproduce --profile {profile.name}` trains them here, and "
            f"`python -m rpo_nb generations {shown(out)}` shows the stored texts"
        )
    from transformers.utils import logging

    chosen = publish.choose(profile, out, **which)
    if left_out(chosen.folder):
        raise ValueError(
            f"the policy {chosen.folder.name} came without its weights (the parts of a deep run "
            f"have only what it said); train it with `python -m rpo_nb reproduce --profile "
            f"{profile.name} --set seeds={chosen.run.seed}` in another --output-dir"
        )
    logging.disable_progress_bar()  # of every model that is read
    size, seed = chosen.run.size, chosen.run.seed
    here = placed(profile, out)
    path = inputs.reference_path(here, size, seed)
    check_start(here, chosen.run, chosen.folder)
    training = profile.training
    policy, tokenizer = load.load_policy(
        chosen.folder / "policy",
        bf16=inputs.half(training),
        quantize=training.quantize,
        base=path,
    )
    return Pair(chosen, policy.eval().requires_grad_(False), tokenizer, path)


def lines_of(answers: Iterable[dict[str, Any]]) -> Iterator[str]:
    """What `Pair.answer` gave, for a terminal."""
    for one in answers:
        yield f"  {one['who']}: {one['completion'] or '(nothing)'}"
        worth = [f"log-ratio {one['log_ratio']:+.2f} nats"]
        if one["reward"] is not None:
            lost = ", ".join(violations.WORDS[name] for name in one["lost"])
            worth = [f"{one['reward']:.2f} of 10", f"lost: {lost}" if lost else "nothing lost"] + (
                worth
            )
        yield f"    {'; '.join(worth)}"


def talk(pair: Pair, source: TextIO | None = None) -> int:
    """Read prompts, one a line, to the end of the source (the terminal); print what both say."""
    source = source or sys.stdin
    asks, run = source.isatty(), pair.chosen.run
    policy, reference = pair.names
    print(f"{policy} as {run.preset}, size {run.size}, seed {run.seed}, beside its {reference}:")
    print("a prompt a line, each a conversation of its own")
    if asks and pair.chosen.profile.pocket_world:
        print(f"the pocket world knows such prompts: {EXAMPLE}")
    while True:
        if asks:
            print("> ", end="", flush=True)
        line = source.readline()
        if not line:
            return 0
        if line.strip():
            if not asks:
                print(f"> {line.strip()}")
            print("\n".join(lines_of(pair.answer(line.strip()))), flush=True)
