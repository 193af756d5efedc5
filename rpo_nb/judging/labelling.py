"""A person as a judge: twenty blind pairs in a notebook, and how often each judge says what the
person says.

    task = Labelling(pairs, out / "labels" / "table3-person.jsonl")
    display(task.widget())  # buttons; each choice is written at once, a restart goes on from there
    task.agreement(verdicts)         # judge by judge

Blind: neither method nor preset is shown, and which completion stands on the left is drawn for each
pair. Pairs whose texts are the same or empty are not shown.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rpo_nb.config.keys import content_key
from rpo_nb.judging.rates import judge_agreement
from rpo_nb.judging.verdicts import KEYS
from rpo_nb.store import atomic_write

PERSON = "person"
SIDES = ("method", "baseline")


def blind_pairs(pairs: pd.DataFrame, *, count: int = 20, seed: int = 0) -> pd.DataFrame:
    """`count` pairs (or all there are) drawn by seed, at most one a prompt while there are enough
    prompts; adds left ("method" | "baseline": who stands there) and texts (a hash of what is shown,
    so that a label never outlives its texts)."""
    rng = np.random.default_rng(seed)
    texts = pairs[["method_completion", "baseline_completion"]].fillna("")
    shown = texts["method_completion"].ne(texts["baseline_completion"]) & texts.apply(
        lambda c: c.str.strip().ne("")
    ).all(axis=1)
    drawn = pairs[shown].sort_values(KEYS, ignore_index=True)
    drawn = drawn.iloc[rng.permutation(len(drawn))]
    repeated = drawn.duplicated("prompt")
    drawn = pd.concat([drawn[~repeated], drawn[repeated]])[:count].reset_index(drop=True)
    hashes = [
        content_key(row)
        for row in drawn[["prompt", "method_completion", "baseline_completion"]].to_numpy().tolist()
    ]
    return drawn.assign(left=np.array(SIDES)[rng.integers(0, 2, len(drawn))], texts=hashes)


class Labelling:
    """The choices of one person on blind pairs, kept in a JSON-lines file.

    pairs: `verdicts.make_pairs`. path: read if it is there; choices about other texts than those of
    `pairs` are kept in it and not counted. Raises ValueError naming the line of the file that
    cannot be read.
    """

    def __init__(
        self, pairs: pd.DataFrame, path: str | Path, *, count: int = 20, seed: int = 0
    ) -> None:
        self.path, self.questions = Path(path), blind_pairs(pairs, count=count, seed=seed)
        # hash of the texts -> "method" | "baseline" | "tie"
        self.pairs, self.choices = pairs, self._read()

    def _read(self) -> dict[str, str]:
        found = {}
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                texts, choice = row["texts"], row["choice"]
            except (ValueError, KeyError, TypeError):
                texts = choice = None
            if choice not in (*SIDES, "tie"):
                raise ValueError(
                    f"labels/{self.path.name}, line {number}: not a label; mend or remove that line"
                )
            found[texts] = choice
        return found

    @property
    def place(self) -> int:
        """The first question without a choice; len(questions) when all have one."""
        done = self.questions["texts"].isin(list(self.choices))
        return len(done) if done.all() else int(done.to_numpy().argmin())

    def choose(self, side: str) -> None:
        """Store the choice on the present question: "left", "right" or "tie"; nothing when all have
        one."""
        if self.place == len(self.questions):
            return
        row = self.questions.iloc[self.place]
        other = SIDES[1 - SIDES.index(row["left"])]
        self.choices[row["texts"]] = {"left": row["left"], "right": other, "tie": "tie"}[side]
        self._write()

    def back(self) -> None:
        """Take the last choice back."""
        if self.place:
            del self.choices[self.questions["texts"].iloc[self.place - 1]]
            self._write()

    def _write(self) -> None:
        lines = [
            json.dumps({"texts": texts, "choice": choice}, sort_keys=True)
            for texts, choice in self.choices.items()
        ]
        atomic_write(self.path, "".join(f"{line}\n" for line in lines))

    def labels(self) -> pd.DataFrame:
        """The choices as verdict rows (judge "person"), one a question that has one."""
        given = self.questions[self.questions["texts"].isin(list(self.choices))]
        return given[KEYS].assign(
            judge=PERSON, verdict=given["texts"].map(self.choices).astype(object)
        )

    def agreement(self, verdicts: pd.DataFrame) -> pd.DataFrame:
        """How often each judge (and the rule "longer wins") says what the person says: the rows of
        `rates.judge_agreement` beside the person, over the pairs labelled so far. Empty before the
        first choice."""
        labels = self.labels()
        asked = self.pairs.merge(labels[KEYS], on=KEYS)
        both = pd.concat([verdicts.merge(labels[KEYS], on=KEYS), labels], ignore_index=True)
        table = judge_agreement(both if len(labels) else both.iloc[:0], asked)
        return table[table["other"].eq(PERSON)].drop(columns="other").reset_index(drop=True)

    def widget(self) -> Any:
        """Instruction, two completions side by side and four buttons (ipywidgets); texts are shown
        as text, never as HTML."""
        import ipywidgets

        head, left, right = (
            ipywidgets.HTML(layout=ipywidgets.Layout(width=width))
            for width in ("100%", "49%", "49%")
        )
        names = {
            "left": "Left is better",
            "tie": "No difference",
            "right": "Right is better",
            "back": "Back",
        }
        buttons = {side: ipywidgets.Button(description=text) for side, text in names.items()}

        def show() -> None:
            place, total = self.place, len(self.questions)
            for side, button in buttons.items():
                button.disabled = place == 0 if side == "back" else place == total
            if place == total:
                head.value, left.value, right.value = (
                    f"<b>{total} of {total} done.</b> The next cell says who agrees with you.",
                    "",
                    "",
                )
                return
            row = self.questions.iloc[place]
            sides = [
                row[f"{row['left']}_completion"],
                row[f"{SIDES[1 - SIDES.index(row['left'])]}_completion"],
            ]
            head.value = (
                f"<b>{place + 1} of {total}.</b> Which answers better?{_boxed(row['prompt'])}"
            )
            left.value, right.value = map(_boxed, sides)

        def clicked(button: Any) -> None:
            side = next(s for s, b in buttons.items() if b is button)
            if side == "back":
                self.back()
            else:
                self.choose(side)
            show()

        for button in buttons.values():
            button.on_click(clicked)
        show()
        return ipywidgets.VBox(
            [head, ipywidgets.HBox([left, right]), ipywidgets.HBox(list(buttons.values()))]
        )


def _boxed(text: str) -> str:
    return (
        '<div style="white-space: pre-wrap; line-height: 1.4; border: 1px solid #8884; '
        'padding: 0.5em; margin: 0.3em">'
        f"{html.escape(text)}</div>"
    )
