"""What the README shows, as it stands: its code runs, its commands are there, its links hold."""

import gzip
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qsl

import pandas as pd
import pytest

from docs.site import readme
from rpo_nb.config.arguments import parser
from rpo_nb.config.loading import load_profile
from rpo_nb.reporting import claims, decisions, rendering
from rpo_nb.reporting.decisions import OPEN
from rpo_nb.running import parts
from rpo_nb.studies import deep, lab, odds, prediction_scores
from rpo_nb.studies.browse.trace import trace

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
POCKET, DEEP = ROOT / "results" / "pocket", ROOT / "results" / "pocket-deep"
COMMITTED = pytest.mark.skipif(not DEEP.is_dir(), reason="the committed results are in a clone")


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
    assert f"every draw there is up to {odds.DRAWS:,}" in text
    # what came true
    came, *_ = rendering.footnotes(file.parent, "prediction_score")
    score = pd.read_csv(file.parent / "tables" / "prediction_score.csv")
    decided, every = score.to_dict("records")
    assert came in text
    assert f"with {decided['lab_brier']:.3f} on these pairs and {every['lab_brier']:.3f} on" in text
    pairs = f"of {every['pairs']} pairs {decided['pairs']} are decided, and {decided['right']:g}"
    assert pairs in " ".join(README.split())


def test_the_guides_words_on_what_came_true_are_the_studys():
    folder = ROOT / "results" / "smollm-study"
    if not folder.is_dir():
        pytest.skip("the committed results are in a clone")
    table = pd.read_csv(folder / "tables" / "prediction.csv")
    known = table[table["outcome"].ne(OPEN)]
    wrong = known[(known["probability"] > 0.5) != known["outcome"].eq("yes")]
    gains = prediction_scores.over_reference(table)
    best, widths = gains.loc["RPO released"], gains["high"] - gains["low"]
    table3 = rendering.read_table(folder / "tables" / "table3.csv")
    rivals = [claims.pick(table3, baseline=rival) for rival in table3["baseline"].unique()]
    cells = pd.concat(map(claims.win_cells, rivals))
    alike = claims.pick(cells, preset="released", baseline="reference").iloc[0]
    told, seen = cells["verdict"].value_counts(), cells["smallest"][cells["smallest"] < 50]
    for words in (
        f"Of the {len(known)} decided pairs {known['decoded'].eq('unlike').sum()} compare "
        "policies decoded unlike",
        f"{wrong['decoded'].eq('unlike').sum()} of the {len(wrong)} wrong ones are among them",
        f"gains {best['gain']:.2f} [{best['low']:.2f}, {best['high']:.2f}] of the judge's points",
        f"wins {alike['win_rate']:.1f} [{alike['ci_low']:.1f}, {alike['ci_high']:.1f}] %",
        f"of {len(cells)} comparisons RPO surely wins {told.get('holds', 0)} and surely loses "
        f"{told.get('does not hold', 0)}. {len(cells) - len(seen)} could have seen no difference",
        f"the others {seen.min():.0f} to {seen.max():.0f} points from 50",
        f"over the reference are {widths.min():.1f} to {widths.max():.1f} points wide",
    ):
        assert words in guide("prediction.md"), words


# The guide ----------------------------------------------------------------------------------------


def guide(name: str) -> str:
    """A page in one line."""
    return " ".join((ROOT / "docs" / name).read_text(encoding="utf-8").split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_table_has_its_head(page):
    """A row that a blank line parts from its table is text."""
    lines = ["", *page.read_text(encoding="utf-8").splitlines(), ""]
    for above, line, below in zip(lines, lines[1:], lines[2:], strict=False):
        if line.startswith("|") and not above.startswith("|"):
            assert re.fullmatch(r"[| :-]+", below), f"{page.name}: {line}"


@COMMITTED
def test_the_guides_cells_and_examples_are_there(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs" / "generations.md").read_text(encoding="utf-8")
    addresses = re.findall(r"generations\.html#(table=\S+)", text)
    for address in addresses:
        cell = dict(parse_qsl(address))
        assert len(trace(POCKET, cell.pop("table"), **cell)), address
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for code in blocks:
        exec(code, {})
    assert len(addresses) == 4 and len(blocks) == 2


@COMMITTED
def test_the_same_texts_on_two_kinds_of_processors_are_as_many_as_the_guide_says():
    """Of results/pocket and of the deep run's seed 0."""
    theirs = parts.read(DEEP / "parts" / "grid-seed0.tar.xz").files
    runs, shares = pd.read_csv(POCKET / "generations" / "runs.csv"), {}
    for run in runs[runs["study"].eq("paper A")].itertuples():
        note = json.loads(
            theirs[f"out/runs/generations/{run.preset}-{run.place}-seed0.jsonl.gz.json"]
        )
        assert note[run.name].split("/")[1] == run.run  # the same settings and code
        with gzip.open(POCKET / run.file, "rt", encoding="utf-8") as lines:
            ours = [json.loads(line)["completion"] for line in lines][run.first - 1 : run.last]
        other = json.loads(theirs[f"out/{note[run.name]}"])["completions"]
        same = 100 * sum(map(str.__eq__, ours, other)) / len(other)
        shares.setdefault((run.place, run.method == "reference"), []).append(same)
    said = {key: f"{min(found):.0f} to {max(found):.0f} %" for key, found in shares.items()}
    text = guide("provenance.md")
    assert f"same are {said['small', True]} of the reference's, {said['small', False]} of" in text
    assert f"of size xl {said['xl', True]} and {said['xl', False]}." in text


@COMMITTED
def test_what_equal_length_changes_is_what_the_guide_says():
    table = pd.read_csv(POCKET / "tables" / "length_controlled.csv")
    moved = (table["lc_win_rate"] - table["win_rate"]).groupby(table["judge"]).agg
    mean, low, high = moved("mean"), moved("min"), moved("max")
    checker, model = (
        f"by {mean[judge]:.1f}{unit} ({low[judge]:.0f} to {high[judge]:+.0f})".replace("-", "−")
        for judge, unit in (("checker", " points on average"), ("reward_model", ""))
    )
    assert f"moves the checker's rates {checker}, the reward model's {model}" in guide("judges.md")


def test_where_the_rivals_stand_is_what_the_guide_says():
    text = (ROOT / "docs" / "own_objective.md").read_text(encoding="utf-8")
    text = " ".join(text.replace("\\*", "*").replace("−", "-").split())
    table = pd.read_csv(ROOT / "results/pocket-deep/tables/rivals.csv")
    gains = table.drop_duplicates(["regime", "method"]).set_index(["regime", "method"])

    def row(regime, method):
        kit = gains.index.isin([(regime, method)]).any()
        return gains.loc[(regime, method if kit else f"rivals.py:{method}")]

    def told(regime, method):
        one = row(regime, method)
        return f"{one['gain']:.2f} [{one['gain_low']:.2f}, {one['gain_high']:.2f}]"

    for words in (
        f"Over all six A*-PO gains {told('all', 'a_star')}",
        f"eq. 19, which gains most of the kit's, {told('all', 'RPO eq. 19')}",
        f"QRPO, which ends at {told('all', 'QRPO')}",
        f"KTO with balanced weights gains {told('on_policy', 'kto_balanced')}",
        f"(the kit's KTO {row('on_policy', 'KTO')['gain']:.2f})",
        f"reward-weighted fine-tuning {told('on_policy', 'reward_weighted')}",
        f"DRO with a fixed baseline {told('on_policy', 'dro_fixed')}",
        f"reward-weighted fine-tuning gains {told('stronger', 'reward_weighted')}",
        f"A*-PO {told('stronger', 'a_star')}, SFT {row('stronger', 'SFT')['gain']:.2f}",
        f"SFT gains {told('much_stronger', 'SFT')}",
        f"reward-weighted fine-tuning {told('much_stronger', 'reward_weighted')}",
        f"A*-PO {told('much_stronger', 'a_star')}; with a weaker reference the order is the same",
        f"lost least: {told('narrow_reference', 'a_star')} from somewhat better writers",
        f"much better ones, {told('narrow_much_stronger', 'a_star')}",
    ):
        assert words in text, words
    mine = gains.drop(index="reference", level="method")
    first = ["SFT", "rivals.py:reward_weighted", "rivals.py:a_star"]
    for regime in ("much_stronger", "weak_reference"):
        assert list(mine.loc[regime]["gain"].nlargest(3).index) == first
    assert mine.loc["stronger"]["gain"].idxmax() == "rivals.py:reward_weighted"
    for regime in ("narrow_reference", "narrow_much_stronger"):
        assert (mine.loc[regime]["gain"] < 0).all()
        assert mine.loc[regime]["gain"].idxmax() == "rivals.py:a_star"
    kit = mine.loc["all"][~mine.loc["all"].index.str.startswith("rivals.py")]
    assert kit["gain"].idxmax() == "RPO eq. 19"
    over_all = mine.loc["all"].loc[lambda rows: rows.index.str.startswith("rivals.py")]
    named = {
        name: over_all.index[chosen].str.removeprefix("rivals.py:").tolist()
        for name, chosen in (
            ("gains", over_all["gain_low"] > 0),
            ("loses", over_all["gain_high"] < 0),
        )
    }
    assert named == {"gains": ["a_star"], "loses": ["dro_fixed", "kto_balanced"]}


def test_what_the_guide_says_of_the_first_rival_is_corrected_over_all_five():
    pages = list((ROOT / "results/pocket-deep/lab").glob("rivals-*"))
    parts = []
    for page in pages:
        rows = pd.read_csv(page / "tables/standing.csv").query("regime == 'all'")
        name = page.name.replace("rivals-", "rivals.py:")
        parts.append(rows[rows["method"].ne(name)].assign(rival=name))
    leads = pd.concat(parts, ignore_index=True)
    assert len(pages) == 5 and len(leads) == 5 * 8
    raw = decisions.p_value(leads["lead"], leads["lead_error"], leads["lead_df"])
    mine = leads.assign(p=decisions.holm(raw)).query("rival == 'rivals.py:a_star'")
    mine = mine.set_index("method")
    assert (mine["lead"] > 0).all()
    assert list(mine.index[mine["p"] >= 0.05]) == ["RPO eq. 19"]
    text = " ".join((ROOT / "docs" / "own_objective.md").read_text(encoding="utf-8").split())
    assert "of every one but RPO with eq. 19" in text
    assert f"(p {mine.loc['RPO eq. 19', 'p']:.3f})" in text


@COMMITTED
def test_what_is_advised_of_no_estimate_is_what_was_measured():
    tuned = pd.read_csv(DEEP / "tables" / "lab_tuned_map.csv").set_index(["regime", "policy"])[
        "gain"
    ]
    with_it, without = (tuned.xs(f"RPO {name}", level="policy") for name in ("eq. 19", "V̂ = 0"))
    text, regime = " ".join(README.split()), "narrow_reference"
    assert f"({without['on_policy']:.2f} points against {with_it['on_policy']:.2f})" in text
    assert f"lost less ({-without[regime]:.2f} against {-with_it[regime]:.2f})" in text


def test_what_the_audit_of_a_language_model_found_is_what_the_guide_says():
    text = " ".join((ROOT / "docs" / "judges.md").read_text(encoding="utf-8").split())
    card = json.loads((ROOT / "results/smollm/judges/itself.json").read_text(encoding="utf-8"))
    checks = {row["check"]: row for row in card["checks"]}
    average = {row["set"]: row for row in card["accuracy_by_set"] if row["voice"] == "average"}

    def told(row, value):
        return f"{100 * row[value]:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"

    assert f"LLMBar's {card['pairs']} pairs: {4 * card['pairs']:,} questions" in text
    assert f"shown first in {100 * checks['position']['value']:.1f} % of pairs" in text
    assert f"it is right in {told(checks['accuracy'], 'value')}" in text
    assert f"it is right in {told(average['all'], 'accuracy')}, which is worse than a coin" in text
    assert f"nobody made to mislead, in {told(average['natural'], 'accuracy')}" in text


def test_the_guide_names_every_kind_of_part_and_the_labs_profiles():
    profile = load_profile("pocket-deep")
    kinds = {part.study for part in deep.parts_of(profile)} - set(profile.lab.regimes)
    named = guide("deep.md").split("**A part**")[1].split("**On another machine**")[0]
    assert kinds <= set(re.findall(r"`(\w+)`", named))
    words = {1: "one seed", 2: "two regimes", 6: "six regimes", 10: "ten seeds"}
    for name, said in (("pocket", "has {} and {}"), ("pocket-deep", "has all {} and {}")):
        known = load_profile(name)
        counts = len(known.lab.regimes), len(lab.seeds_of(known))
        assert said.format(*map(words.get, counts)) in guide("own_objective.md")
