"""A judge's card: all that was found, the same bytes again, texts as texts."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pandas as pd
import pytest

from rpo_nb.judging import cards
from rpo_nb.judging.audit import ask_gold, checks
from rpo_nb.judging.planted import PLANTED, Planted
from rpo_nb.judging.reward_model import RewardModel, encoded_rows
from rpo_nb.judging.tokens import Tokens, tokens_a_verdict
from tests.judging.pairs import Scripted
from tests.judging.servers import local
from tests.judging.test_audit import toy_gold

TESTED = pd.DataFrame(
    [
        {
            "bias": bias,
            "strength": strength,
            "expected": expected or "",
            "found": 9 if expected else 1,
            "draws": 10,
            "passed": True,
        }
        for bias, (strength, expected) in PLANTED.items()
    ]
)
RATES = pd.DataFrame(
    [
        {
            "preset": "paper",
            "judge": "j",
            "size": "small",
            "baseline": "sft",
            "tau": 1.0,
            "win_rate": 61.0,
            "ci_low": float("nan"),
            "ci_high": float("nan"),
            "lc_win_rate": 52.5,
            "lc_low": 40.25,
            "lc_high": 64.0,
            "length_effect": 1.0,
            "longer": 0.75,
            "n": 30,
            "seeds": 2,
        }
    ]
)


@pytest.fixture(scope="module")
def gold():
    return toy_gold(120)


def made(judge, pairs, **more):
    given = {"gold": "toys", "self_test": TESTED, "tokens": Tokens(900.0, 8.0, "counted")} | more
    return cards.card(judge, ask_gold(judge, pairs), **given)


class Texts(HTMLParser):
    """The tags and the texts of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def read(page):
    parser = Texts()
    parser.feed(page)
    return parser


def test_the_card_holds_the_checks_as_json_numbers(gold, tmp_path):
    judge = Planted(gold, "first", strength=0.6)
    found = made(judge, gold, rates=RATES, notes=["a note"])
    paths = cards.write_card(found, tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in paths]
    assert names == [f"judges/planted-first.{ending}" for ending in ("json", "md", "html")]
    stored = json.loads(paths[0].read_text(encoding="utf-8"))
    table = checks(ask_gold(judge, gold))
    assert [row["value"] for row in stored["checks"]] == pytest.approx(table["value"].tolist())
    assert [row["found"] for row in stored["checks"]] == table["found"].tolist()
    assert stored["pairs"] == 120 and stored["tokens"]["read"] == 900
    assert stored["length_controlled"][0]["ci_low"] is None
    before = [path.read_bytes() for path in paths]
    cards.write_card(made(judge, gold, rates=RATES, notes=["a note"]), tmp_path)
    assert [path.read_bytes() for path in paths] == before


def test_both_forms_show_every_number(gold):
    found = made(Planted(gold, "first", strength=0.6), gold, rates=RATES, prices=(2.0, 10.0))
    position = next(row for row in found["checks"] if row["check"] == "position")
    shown = f"{100 * position['value']:.1f} %"
    for page in (cards.markdown(found), " ".join(read(cards.html(found)).texts)):
        assert shown in page and "52.5 [40.2, 64.0]" in page and "61.0" in page
        assert "prefers what is shown first" in page and "900 tokens" in page
        assert "0.001880" in page  # 900 at 2 and 8 at 10 a million
    assert read(cards.html(found)).tags.count("svg") == 5


def test_texts_from_outside_are_texts(gold):
    judge = Planted(gold)
    judge.name = "a<b>|`c"
    found = made(judge, gold, gold="<script>alert(1)</script>.jsonl")
    page = read(cards.html(found))
    assert {"script", "b"} & set(page.tags) == set()
    assert any("<script>" in text for text in page.texts)
    assert "<script>" not in cards.markdown(found) and "a&lt;b>\\|\\`c" in cards.markdown(found)


def test_a_judge_that_says_nothing_and_a_test_that_fails_are_told(gold):
    silent = made(Scripted(lambda *_: None), gold)
    assert "0 of 120" in silent["headline"] and silent["unanswered"] == 120
    assert "not measured" in cards.markdown(silent) and "svg" not in read(cards.html(silent)).tags
    weak = made(Planted(gold), gold, self_test=TESTED.assign(passed=False))
    assert "did not pass its own test" in cards.markdown(weak)


def test_the_headline_names_what_could_not_be_told(gold):
    """Every better completion is the longer one: nothing compares for length."""
    longer = gold["output_a"].str.len() > gold["output_b"].str.len()
    alike = gold.assign(better=longer.map({True: "a", False: "b"}))
    for bias, found in (("fair", "No bias was found."), ("first", "It prefers what is shown")):
        told = made(Planted(alike, bias, strength=0.9), alike)["headline"]
        assert found in told and told.endswith(" Too few pairs to tell of length.")
    few = made(Planted(gold.head(3)), gold.head(3))
    assert few["headline"].endswith(" Too few pairs to tell of position, length and paraphrase.")
    one = made(Planted(gold.head(1)), gold.head(1))["headline"]
    assert "No bias" not in one and "of position, length, repeats and paraphrase." in one
    assert "with so few pairs none" in cards.markdown(few)
    assert "Too few" not in made(Planted(gold), gold)["headline"]


def test_a_folder_of_the_users_is_named_without_its_path(gold, folder):
    judge = local(folder)
    few = gold.head(3)
    found = made(judge, few)
    assert "/" not in found["model"] and folder.endswith(found["model"])
    assert folder not in cards.markdown(found) + cards.html(found) + json.dumps(found)


def test_tokens_are_counted_by_the_judges_tokenizer(folder):
    from rpo_nb.judging.language_models import Question

    judge = local(folder)
    sizes = [
        len(judge.encode(Question("please write", *texts)))
        for texts in (("a boat", "the cat sat"), ("the cat sat", "a boat"))
    ]
    found = tokens_a_verdict(judge, ["please write"], ["a boat"], ["the cat sat"])
    assert found == Tokens(float(sum(sizes)), 0.0, "counted")
    given = {"max_prompt_tokens": 64, "max_completion_tokens": 64}
    learnt = RewardModel(lambda: None, judge.tokenizer, given)
    rows = encoded_rows(
        judge.tokenizer, [("please write", "a boat"), ("please write", "the cat sat")], given
    )
    read = float(sum(len(prompt) + len(text) for prompt, text in rows))
    assert tokens_a_verdict(learnt, ["please write"], ["a boat"], ["the cat sat"]).read == read
    assert tokens_a_verdict(Scripted(lambda *_: None), ["p"], ["a"], ["b"]).read == 0
    assert Tokens(1000.0, 10.0, "counted").cost(1.0, 2.0) == pytest.approx(0.00102)
