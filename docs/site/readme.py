"""What the README says was found: the answers of the report, from the tables of the deep run.

python -m docs.site.readme      # after a run: fills README.md; a test says when it is needed
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from rpo_nb.config.loading import load_profile
from rpo_nb.reporting import answers, page, when
from rpo_nb.store import atomic_write

ROOT = Path(__file__).parents[2]
RUN = ROOT / "results" / "pocket-deep"
BEGIN, END = "<!-- found:start -->", "<!-- found:end -->"
WIDTH = 100


def found(run: Path = RUN) -> str:
    """The answers as a Markdown list, a question each."""
    tables = page.gather(run, load_profile(str(run / "profile.yaml")))
    told = {
        "Does paper A's RPO beat SFT, KTO and DRO?": answers.beaten(tables),
        "Is its normalisation worth anything?": answers.normalised(tables),
        "Which of paper B's learnings hold?": answers.answer_b(tables),
        "When does which method work?": when.short(tables),
    }
    lines = [f"- **{question}** {' '.join(sentences)}" for question, sentences in told.items()]
    return "\n".join(
        textwrap.fill(
            line,
            WIDTH,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in lines
    )


def filled(text: str, run: Path = RUN) -> str:
    """The README with what was found between its marks. Raises ValueError where they are not."""
    filled, count = re.subn(
        f"{BEGIN}.*?{END}",
        lambda _: f"{BEGIN}\n{found(run)}\n{END}",
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise ValueError(f"README.md has {count} places between {BEGIN} and {END}; leave one")
    return filled


if __name__ == "__main__":
    readme = ROOT / "README.md"
    atomic_write(readme, filled(readme.read_text(encoding="utf-8")))
