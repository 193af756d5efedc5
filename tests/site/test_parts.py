"""What the pages are made of: links, formulas, docstrings, tables, the first page's sentences."""

import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest

pytest.importorskip("sphinx")

from docs.site import __main__ as command  # noqa: E402
from docs.site import (  # noqa: E402
    api,
    docstrings,
    home,
    judges,
    links,
    mathml,
    notebooks,
    stage,
    tables,
)
from rpo_nb.config.loading import load_profile  # noqa: E402

ROOT = Path(__file__).parents[2]
POCKET = ROOT / "results" / "pocket"
PAGES = {"docs/scale.md": "guide/scale.md", "README.md": "start.md"}


@pytest.mark.parametrize(
    ("link", "file", "becomes"),
    [
        ("[a](scale.md)", "docs/deep.md", "[a](scale.md)"),
        ("[a](docs/scale.md#cost)", "README.md", "[a](guide/scale.md#cost)"),
        ("[a](../README.md)", "docs/deep.md", "[a](../start.md)"),
        ("[a](#here)", "docs/deep.md", "[a](#here)"),
        ("[a](https://x.org/y)", "docs/deep.md", "[a](https://x.org/y)"),
        ("[a](../Makefile)", "docs/deep.md", f"[a]({links.REPOSITORY}/blob/main/Makefile)"),
        (
            "[![Open in Colab](https://c/b.svg)](https://c/n.ipynb)",
            "docs/deep.md",
            "[Open in Colab](https://c/n.ipynb)",
        ),
    ],
)
def test_a_link_leads_to_the_page_else_to_the_repository(link, file, becomes):
    page = "start.md" if file == "README.md" else "guide/deep.md"
    assert links.Links(PAGES).rewritten(link, file, page) == becomes


def test_a_picture_that_a_page_shows_is_kept():
    here = links.Links(PAGES)
    assert here.rewritten("![x](../a/b.png)", "docs/deep.md", "guide/deep.md") == "![x](../a/b.png)"
    assert here.shown == {"a/b.png"}


def formulas() -> list[tuple[str, str]]:
    """(formula, notebook) of every formula in the notebooks."""
    found = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                for pair in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", cell.source, re.DOTALL):
                    found.append(("".join(pair), path.stem))
    return found


def test_every_formula_of_the_notebooks_can_be_drawn():
    assert len(formulas()) > 100
    for formula, _ in formulas():
        assert mathml.mathml(formula, block=False).startswith("<math")


def test_a_formula_is_drawn_as_it_is_meant():
    assert "<mfrac><mn>1</mn><mn>2</mn></mfrac>" in mathml.mathml(r"\frac12\rho", block=False)
    assert "&#x1D53C;" in mathml.mathml(r"\mathbb E r", block=True)
    hat = mathml.mathml(r"\hat b_k", block=False)
    assert hat.index("<msub>") < hat.index("<mover") < hat.index("<mi>k</mi>")


def test_an_unknown_command_in_a_formula_is_an_error():
    with pytest.raises(ValueError, match="nosuchcommand"):
        mathml.mathml(r"\nosuchcommand x", block=True)


def test_a_docstring_is_shown_as_it_is_written():
    given = ["w_j* of `log_partition`, |x| and", "", "    code_ = 1", "", "after"]
    assert docstrings.as_rst(given) == [
        r"w\_j\* of ``log_partition``, \|x\| and",
        "",
        "",
        "::",
        "",
        "    code_ = 1",
        "",
        "",
        "after",
    ]


def test_the_names_of_a_room_are_those_it_hands_on():
    import rpo_nb.objectives
    import rpo_nb.pocket

    assert {"score", "make_prompts"} <= set(api.public(rpo_nb.pocket))
    assert "checker" not in api.public(rpo_nb.pocket)
    names = api.public(rpo_nb.objectives)
    assert "rpo" in names and "Tensor" not in names and "log_softmax" not in names


@pytest.mark.parametrize(
    ("told", "first"),
    [
        ("One. Two.", "One."),
        ("Of paper A (eq. 19), whose\nx_y is so. More.", r"Of paper A (eq. 19), whose x\_y is so."),
        ("Sum:\n\nrest", "Sum."),
    ],
)
def test_the_first_sentence_ends_where_it_ends(told, first):
    assert api.first_sentence(told) == first


def test_every_committed_table_has_a_title_of_its_own():
    names = {path.stem for path in (ROOT / "results").glob("pocket*/tables/*.csv")}
    assert names <= set(tables.TITLES)
    titles = [tables.title_of(name) for name in tables.TITLES]
    assert len(set(titles)) == len(titles)


def test_text_in_a_table_is_text():
    frame = pd.DataFrame({"a<b": ["<script>x</script>", "1 | 2"], "n": [1.23456, float("nan")]})
    shown = tables.sortable(frame, 'a "caption"')
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "a&lt;b" in shown
    assert '<td class="number">1.235</td>' in shown and '<td class="number"></td>' in shown
    long = tables.sortable(pd.DataFrame({"told": ["a word or two, " * 9]}), "")
    assert '<td class="sentence">' in long
    read = tables.as_read("**a <b>**\n\n| x | y |\n|---|---|\n| 1 \\| 2 | <i> |\n\n- note\n")
    assert "<td>1 | 2</td><td>&lt;i&gt;</td>" in read and "a &lt;b&gt;" in read
    assert "note" not in read


@pytest.fixture
def run(tmp_path) -> Path:
    out = tmp_path / "pocket"
    shutil.copytree(POCKET / "tables", out / "tables")
    shutil.copy(POCKET / "profile.yaml", out)
    return out


def test_the_first_page_tells_what_the_tables_say(run):
    table = pd.read_csv(run / "tables" / "claims.csv")
    table[["hold", "fail", "undecided"]] = 0
    table.loc[0, ["hold", "fail", "undecided"]] = 1, 41, 7
    table.to_csv(run / "tables" / "claims.csv", index=False)
    told = home.told(load_profile(str(run / "profile.yaml")), run)
    assert "Of the 49 cells" in told and "1 holds, 41 do not, 7 are not decided" in told
    assert "One seed decides nothing" in told


def test_a_verdict_is_marked_in_words_and_kind(run):
    path = run / "tables" / "claims.csv"
    table = pd.read_csv(path).astype({"verdict": str})
    table.loc[0, "verdict"], table.loc[1, "verdict"] = "holds", "does not hold"
    table.to_csv(path, index=False)
    first = home.verdict_tables(run)[0]
    assert '<span class="verdict holds">holds</span>' in first
    assert '<span class="verdict fails">does not hold</span>' in first


def test_a_run_without_a_study_has_a_page_without_it(run):
    (run / "tables" / "paper_b_verdicts.csv").unlink()
    assert "Paper B says" not in "".join(home.verdict_tables(run))
    assert "learning" not in home.told(load_profile(str(run / "profile.yaml")), run)


def test_the_runs_own_cards_come_first_and_without_any_there_is_no_page(tmp_path):
    run = tmp_path / "results" / "mine"
    (run / "judges").mkdir(parents=True)
    assert judges.cards(tmp_path, run) == {} and judges.pages({}) == {}
    for name in ("json", "md"):
        shutil.copy(ROOT / f"results/smollm/judges/itself.{name}", run / "judges" / f"a.{name}")
    found = judges.cards(ROOT, run)
    assert list(found) == ["judges/mine-a", "judges/smollm-itself"]
    listed = judges.pages(found)["judges/index.md"]
    assert listed.index("(mine-a.md)") < listed.index("(smollm-itself.md)")
    assert "It prefers what is shown first." in listed


def test_of_several_seeds_the_first_one_s_notebooks_are_shown(tmp_path):
    (tmp_path / "notebooks").mkdir()
    names = ["03_train-small-seed10", "03_train-small-seed2", "03_train-xl-seed2", "09_report"]
    for name in names:
        (tmp_path / "notebooks" / f"{name}.ipynb").touch()
    found = [path.stem for path in notebooks.executed(tmp_path, "03_train")]
    assert found == ["03_train-small-seed2", "03_train-xl-seed2"]
    assert [path.stem for path in notebooks.executed(tmp_path, "09_report")] == ["09_report"]


def test_a_run_that_is_not_finished_is_told(tmp_path):
    with pytest.raises(ValueError, match="run make reproduce first"):
        command.build(tmp_path, tmp_path / "site")


def test_a_run_s_weights_and_logs_are_not_on_the_site(run, tmp_path):
    for name in ("runs", "parts", ".snakemake", "figures"):
        (run / name).mkdir()
    stage.copy_run(run, tmp_path / "site")
    assert {path.name for path in (tmp_path / "site").iterdir()} == {
        "tables",
        "figures",
        "profile.yaml",
    }
