"""What the README shows, as it stands: its code runs, its commands are there, its links hold."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs.site import readme
from rpo_nb.config.arguments import parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def block(heading: str, language: str) -> str:
    part = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.search(rf"```{language}\n(.*?)```", part, re.DOTALL).group(1)


def test_a_model_of_ones_own_in_fifteen_lines(tmp_path, tiny_t5):
    """As a stranger pastes it; google/flan-t5-small is a tiny T5 in a folder of that name."""
    code = block("Your own model", "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    model, tokenizer = tiny_t5
    base = tmp_path / "google" / "flan-t5-small"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "10 prompts, K 5 to 5" in done.stdout
    assert (tmp_path / "policy" / "model.safetensors").is_file()


COMMANDS = sorted(set(re.findall(r"python -m rpo_nb [^\n`]+", README)))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_that_the_command_line_takes(command):
    words = shlex.split(command.split("  #")[0], comments=True)[3:]
    if words and "--help" not in words:
        parser().parse_args(words)


def test_reading_the_sample_ends_with_what_to_type_next():
    command = [sys.executable, "-m", "rpo_nb", "data", "examples/feedback.jsonl"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    said = done.stdout.splitlines()
    assert "nothing to report" in said and said[-1].endswith("FEEDBACK=examples/feedback.jsonl")


def test_a_reader_who_has_seen_enough_is_no_error():
    command = f"{shlex.quote(sys.executable)} -m rpo_nb data examples/feedback.jsonl | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_what_is_there(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_what_it_says_was_found_is_what_the_deep_run_says():
    """Else: python -m docs.site.readme"""
    assert readme.filled(README) == README


def test_the_guides_words_on_the_prediction_are_the_predictions():
    file = ROOT / "results" / "smollm-study" / "prediction.json"
    if not file.is_file():
        pytest.skip("the committed results are in a clone")
    found = json.loads(file.read_text(encoding="utf-8"))
    text = " ".join((ROOT / "docs" / "prediction.md").read_text(encoding="utf-8").split())
    seen, known = found["measured"], found["evidence"]
    furthest = max(abs(pair["probability"] - 0.5) for pair in found["pairs"])
    *right, last = (f"{100 * seed['judge_right']:.0f}" for seed in seen["seeds"])
    for words in (
        f"of {found['dated'][:10]}",
        f"{seen['data_wins']:.0f} % of comparisons",
        f"{-seen['above_log_k']:.1f} nats a token below −log K",
        f'{100 * known["no_regime"]:.0f} % of the weight is of "no regime"',
        f"no probability is further from ½ than {furthest:.2f}",
        f"right in {', '.join(right)} and {last} % of comparisons",
    ):
        assert words in text
