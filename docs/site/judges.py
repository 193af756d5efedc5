"""A page for each judge that was audited: of the run, and of the folders of the repository where a
language model was."""

from __future__ import annotations

import json
from pathlib import Path

AUDITED = ("smollm",)  # folders of results/ whose cards every site shows


def cards(root: Path, run: Path) -> dict[str, Path]:
    """The site's page of each card, without its ending -> the card, those of the run first."""
    folders = [run, *(root / "results" / name for name in AUDITED if name != run.name)]
    return {
        f"judges/{folder.name}-{path.stem}": path
        for folder in folders
        for path in sorted((folder / "judges").glob("*.md"))
    }


def pages(found: dict[str, Path]) -> dict[str, str]:
    """Page -> its Markdown: a list of the judges by what was found of them, and every card."""
    out = {f"{page}.md": path.read_text(encoding="utf-8") for page, path in found.items()}
    if not found:
        return out
    lines = ["# Judges", "", "What each judge is worth, asked about pairs with a known answer.", ""]
    for page, path in found.items():
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        name = Path(page).name
        model = card["model"] or card["kind"]
        lines.append(f"- [{card['name']}]({name}.md), `{model}`: {card['headline']}")
    names = [Path(page).name for page in found]
    listed = "\n".join([*lines, "", "```{toctree}", ":hidden:", "", *names, "```", ""])
    return {"judges/index.md": listed} | out
