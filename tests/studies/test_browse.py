"""What policies said, as a page and in a notebook: who is shown, and that texts stay texts."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rpo_nb import pocket
from rpo_nb.config.loading import load_profile, write_profile
from rpo_nb.pocket import checker, violations
from rpo_nb.studies.browse import notebook, page, scored, stored
from rpo_nb.studies.lab import Spec
from tests.studies import said

RIGHT = "The silver lantern gently stands beside the lake. It smells of music."
PROMPT = (
    "Write two sentences about a silver lantern beside the lake. Keep a calm tone, mention music "
    "and avoid tall."
)


def unpacked(file: Path) -> dict:
    """What a script of the page hands over."""
    name, packed = re.fullmatch(r'rpo\("([^"]+)","([^"]+)"\);\n', file.read_text()).groups()
    assert name == file.stem
    return json.loads(gzip.decompress(base64.b64decode(packed)))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    found = said.folder(tmp_path_factory.mktemp("said") / "mine")
    page.write(found)
    return found


# ---- what was lost -------------------------------------------------------------------------------


def test_a_text_of_full_marks_lost_nothing():
    assert checker.score(PROMPT, RIGHT) == 10 and violations.lost(PROMPT, RIGHT) == []


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        (RIGHT.replace("silver", "green"), {"colour"}),
        (RIGHT.replace("beside the lake", "in the forest"), {"place"}),
        (RIGHT.partition(". ")[0] + ".", {"count", "mention"}),
        ("silver lantern lake music", set(checker.WEIGHTS)),
        (RIGHT + " " + RIGHT, {"count", "repeated"}),
    ],
)
def test_a_fault_is_named(text, lost):
    assert set(violations.lost(PROMPT, text)) - {"cap"} == lost


def test_a_text_loses_points_where_something_is_named_and_only_there():
    for text in (RIGHT, RIGHT.replace("gently", "wildly"), "A lantern.", ""):
        assert (checker.score(PROMPT, text) < 10) is bool(violations.lost(PROMPT, text))


# ---- the page ------------------------------------------------------------------------------------


def test_a_shelf_has_every_text_with_its_reward_and_its_verdicts(out):
    data = unpacked(out / page.DATA / "A-small-seed1.js")
    names = [(c["preset"], c["policy"], c["first"], c["last"]) for c in data["columns"]]
    assert names == [
        ("fixed", "reference", 1, 4),
        ("fixed", "SFT", 5, 8),
        ("fixed", "RPO τ 0.3", 9, 12),
        ("paper", "reference", 1, 4),
        ("paper", "SFT", 5, 8),
        ("paper", "RPO τ 1", 9, 12),
    ]
    assert [prompt["id"] for prompt in data["prompts"]] == said.PROMPTS
    assert data["texts"][0][1] == said.HOSTILE and data["texts"][1][1] == ""
    assert data["texts"][2][5] == "The rpo of paper said 9 with seed 1."
    prompt, text = data["prompts"][2]["prompt"], data["texts"][2][5]
    assert data["rewards"][2][5] == round(100 * checker.score(prompt, text))
    named = [name for i, name in enumerate(violations.WORDS) if data["lost"][2][5] & 1 << i]
    assert named == violations.lost(prompt, text)
    verdicts = {(v["judge"], v["method"], v["baseline"]): v["said"] for v in data["verdicts"]}
    assert verdicts == {
        ("checker", 2, 1): "wlew",
        ("checker", 5, 4): "wlew",
        ("reward_model", 2, 1): "wwel",
        ("reward_model", 5, 4): "wwel",
    }


def test_the_page_is_small_holds_no_text_and_is_the_same_again(out):
    files = [out / page.PAGE, *sorted((out / page.DATA).iterdir())]
    before = [file.read_bytes() for file in files]
    html = before[0].decode()
    assert len(html) < 60_000
    assert "window.hurt" not in html and str(out) not in html
    assert not re.search(r"https?://|@import|<link|<iframe", html)
    page.write(out)
    assert [file.read_bytes() for file in files] == before
    assert [file.name for file in files[1:]] == [
        "A-small-seed0.js",
        "A-small-seed1.js",
        "numbers.js",
    ]


def test_a_cell_on_the_page_leads_to_its_seeds_texts_and_verdicts(out):
    numbers = unpacked(out / page.DATA / "numbers.js")
    table = numbers["tables"]["table3"]
    key, value, seeds = table["cells"][0]
    cell = dict(zip(table["keys"], key, strict=True))
    assert cell == {"preset": "paper", "judge": "checker", "size": "small", "baseline": "sft"}
    assert value == "62.5" and [seed[:2] for seed in seeds] == [[0, 62.5], [1, 62.5]]
    (_, _, how, evidence, sides) = seeds[1]
    assert how == "2 won, 1 even, 1 lost" and evidence == "verdicts/table3-checker.jsonl.gz"
    assert [(role, numbers["columns"][at][:7]) for role, _, at in sides] == [
        ("policy", ["A-small-seed1", "RPO τ 1", "paper", "", PAPER, 9, 12]),
        ("against", ["A-small-seed1", "SFT", "paper", "", PAPER, 5, 8]),
    ]


PAPER = "generations/paper-small-seed1.jsonl.gz"


def test_a_shelf_that_is_no_more_leaves_no_file_and_an_empty_table_no_cell(tmp_path):
    out = said.folder(tmp_path / "mine")
    (out / "tables" / "paper_b_table4.csv").write_text("\n")  # as a short run leaves it
    page.write(out)
    for file in (out / "generations").glob("*seed1*"):
        file.unlink()
    page.write(out)
    assert {file.name for file in (out / page.DATA).iterdir()} == {
        "A-small-seed0.js",
        "numbers.js",
    }
    assert set(unpacked(out / page.DATA / "numbers.js")["tables"]) == {"table3", "regime_map"}


def test_without_texts_the_verdicts_stand_and_the_page_says_so(tmp_path):
    out = said.folder(tmp_path / "bare", texts=False)
    html = page.write(out).read_text()
    assert "texts are not in this folder" in html and "report.html" not in html
    data = unpacked(out / page.DATA / "A-small-seed0.js")
    assert {text for row in data["texts"] for text in row} == {None}
    assert "rewards" not in data and len(data["verdicts"]) == 4
    assert not (out / stored.INDEX).exists()


def test_an_empty_folder_is_refused_with_what_makes_it(tmp_path):
    with pytest.raises(ValueError, match="profile.yaml"):
        page.write(tmp_path)
    (tmp_path / "manifest.json").write_text('{"profile": "pocket"}')
    with pytest.raises(ValueError, match="neither generations/ nor verdicts/ of profile"):
        page.write(tmp_path)


# ---- which prompts -------------------------------------------------------------------------------


def rewarded(*rows):
    return pd.DataFrame(rows, columns=["preset", "method", "policy", "prompt_id", "reward"]).assign(
        split="", tau=np.nan
    )


def test_prompts_are_ordered_by_loss_and_by_disagreement(out):
    rows = rewarded(
        ("paper", "reference", "reference", 1, 5.0),
        ("paper", "reference", "reference", 2, 9.0),
        ("paper", "rpo", "RPO", 1, 6.0),
        ("paper", "rpo", "RPO", 2, 2.5),
        ("fixed", "reference", "reference", 1, 8.0),
        ("fixed", "rpo", "RPO", 1, 7.9),
    )
    none = pd.DataFrame()
    shown = rows[rows["method"].eq("rpo")]  # what is behind a reference that is not shown
    found = scored.losses(shown, rows, none, by_preset=True)
    assert found.to_dict() == {("", 1): 0.1, ("", 2): 6.5}
    paper = shown[shown["preset"].eq("paper")]
    assert scored.losses(paper, rows, none, by_preset=True).to_dict() == {("", 1): 0, ("", 2): 6.5}
    differ = scored.disagreements(stored.verdicts(out).query("seed == 0"))
    assert {prompt: differ[("", prompt)] for prompt in said.PROMPTS} == {7: 0, 3: 2, 9: 0, 4: 2}


def test_in_the_lab_one_reference_without_a_preset_is_every_policys():
    rows = rewarded(
        ("", "reference", stored.AGAIN, 1, 9.0),
        ("", "reference", "reference", 1, 5.0),
        ("paper", "rpo", "RPO", 1, 4.0),
    )
    found = scored.losses(rows.tail(1), rows, pd.DataFrame(), by_preset=False)
    assert found.to_dict() == {("", 1): 1.0}


def test_without_rewards_a_loss_is_what_the_judges_say_of_the_pairs_that_are_shown():
    rows = pd.DataFrame(
        {
            "preset": "paper",
            "method": ["reference", "sft", "rpo", "rpo"],
            "tau": [np.nan, np.nan, 1.0, 5.0],
            "reward": np.nan,
        }
    )
    verdicts = pd.DataFrame(
        {
            "preset": "paper",
            "tau": [1.0, 1.0, 1.0, 5.0, 5.0],
            "prompt_id": [1, 1, 2, 1, 2],
            "baseline": ["reference", "sft", "reference", "reference", "reference"],
            "verdict": ["baseline", "baseline", "method", "baseline", "baseline"],
        }
    )

    def lost(shown):
        pairs = scored.between(verdicts, shown)
        return scored.losses(shown, rows, pairs, by_preset=True).to_dict()

    assert lost(rows) == {("", 1): 2, ("", 2): 1}
    assert lost(rows[rows["tau"].ne(5)]) == {("", 1): 1, ("", 2): 0}
    assert lost(rows[rows["method"].ne("reference")]) == {("", 1): 0}  # of SFT's pair


def test_what_an_earlier_profile_left_is_not_shown_as_this_ones(tmp_path):
    out = said.folder(tmp_path / "mine")
    before = stored.shelves(out, stored.profile_of(out))
    file = out / "generations" / "paper-small-seed0.jsonl.gz"
    lab, paper_b = (out / "generations" / name for name in ("lab", "paper_b"))
    for folder in (lab, paper_b):
        folder.mkdir()
    for other in (
        file.with_name("paper-small-seed7.jsonl.gz"),
        file.with_name("paper-xl-seed0.jsonl.gz"),
        file.with_name("released-small-seed0.jsonl.gz"),
        file.with_name("mine-small-seed0.jsonl.gz"),
        lab / "stronger-seed7.jsonl.gz",
        lab / "weak_reference-seed0.jsonl.gz",
        paper_b / "seed7.jsonl.gz",
    ):
        other.write_bytes(file.read_bytes())
    narrow = {"sizes": "small", "seeds": "0,1", "preset": "paper,fixed"}
    write_profile(load_profile("pocket", **narrow), out / "profile.yaml")
    assert stored.shelves(out, stored.profile_of(out)) == before
    (out / "profile.yaml").unlink()
    with pytest.raises(ValueError, match="has neither profile.yaml nor manifest.json"):
        stored.profile_of(out)
    # a folder that is passed on may have a manifest alone, which has the seeds
    (out / "manifest.json").write_text(json.dumps({"profile": "pocket", "seeds": [0, 1]}))
    assert stored.profile_of(out).seeds == (0, 1)


# ---- in a notebook -------------------------------------------------------------------------------


def test_a_notebook_shows_the_chosen_texts_with_their_verdicts(out):
    shown = notebook.show(out, size="small", seed=1, preset="paper", prompt=9)
    assert shown.rows["policy"].tolist() == ["reference", "SFT", "RPO τ 1"]
    assert shown.rows["verdicts"].iloc[2] == {
        "checker": {"even with": ["SFT"]},
        "reward_model": {"even with": ["SFT"]},
    }
    html = shown._repr_html_()
    assert "The rpo of paper said 9 with seed 1." in html and "prompt 9" in html


def test_text_in_a_notebook_is_escaped(out):
    html = notebook.show(out, preset="paper", prompt=7)._repr_html_()
    assert "<script" not in html and "<img" not in html and "&lt;img src=x" in html
    shown = notebook.show(out, preset="paper", prompt=7)
    asked = notebook.Texts(shown.shelf, shown.rows.assign(prompt=said.HOSTILE))._repr_html_()
    assert asked.count("&lt;img src=x") == html.count("&lt;img src=x") + 1 and "<img" not in asked


def test_a_notebook_takes_the_order_and_how_many(out):
    shown = notebook.show(out, order="disagreement", prompts=2)
    assert list(dict.fromkeys(shown.rows["prompt_id"])) == [3, 4]


def test_a_filter_leaves_the_order_to_what_is_shown(tmp_path):
    """The reference is right where a preset's policies are not, and judges disagree on SFT."""
    out = said.folder(tmp_path / "mine", seeds=(0,))
    for preset, right in (("paper", 4), ("fixed", 9)):
        file = out / "generations" / f"{preset}-small-seed0.jsonl.gz"
        rows = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
        for row in rows:
            if row["method"] == "reference" and row["prompt_id"] == right:
                rng = np.random.default_rng(0)
                row["completion"] = pocket.write(pocket.DEMONSTRATOR, row["prompt"], rng=rng)
        file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))

    def first(order, **where):
        return notebook.show(out, order=order, **where).rows["prompt_id"].iloc[0]

    assert first("loss", preset="paper", method="rpo") == 4
    assert first("loss", preset="fixed", method="rpo") == 9
    assert first("loss", method="reference") == said.PROMPTS[0]  # as asked: it is behind nobody
    assert first("disagreement") == first("disagreement", preset="paper") == 3
    assert first("disagreement", method="rpo") == said.PROMPTS[0]  # no pair of it is shown


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ({"order": "best"}, "asked, loss, disagreement"),
        ({"colour": "red"}, "size, regime, seed"),
        ({"preset": "mine"}, "there is"),
        ({"seed": 5}, "there is 0, 1"),
        ({"study": "paper B", "size": "small"}, "size is of paper A, and study is 'paper B'"),
        ({"size": "small", "regime": "stronger"}, "regime is of lab, .*; leave one of them out"),
    ],
)
def test_a_notebook_refuses_what_there_is_not(out, where, told):
    with pytest.raises(ValueError, match=told):
        notebook.show(out, **where)


# ---- the lab's texts -----------------------------------------------------------------------------


def test_the_labs_texts_are_written_and_read_with_their_regime(tmp_path, monkeypatch):
    from rpo_nb.studies import lab, lab_texts

    profile = load_profile("smoke")
    study = lab.Study("stronger", profile, "small", 0, (lab.REFERENCE, lab.RIVAL, Spec("sft")))
    monkeypatch.setattr(lab.Study, "file", lambda *_: tmp_path / "runs" / "sft-1" / "said.json")
    rows = pd.DataFrame(
        [
            {"study": "stronger", "seed": 0, "size": "small", "spec": spec, "prompt_id": i}
            | {"prompt": PROMPT, "completion": f"{spec} {i}", "reward": 2.5, "log_ratio": 0.25}
            | {"broken": 0.0}
            for spec in range(3)
            for i in range(2)
        ]
    )
    (file,) = lab_texts.write(rows, [study], tmp_path)
    assert file == tmp_path / "generations" / "lab" / "stronger-seed0.jsonl.gz"
    (shelf,) = stored.shelves(tmp_path, profile)
    assert (shelf.study, shelf.place, shelf.seed) == ("lab", "stronger", 0)
    found = stored.rows(tmp_path, shelf)
    assert found["policy"].tolist()[::2] == ["reference", stored.AGAIN, "SFT"]
    assert found["completion"].tolist() == ["0 0", "0 1", "1 0", "1 1", "2 0", "2 1"]
    assert set(found["run"]) == {"sft-1"} and set(found["log_ratio"]) == {0.25}
