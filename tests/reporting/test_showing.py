"""What a notebook shows."""

import html
import re

import pandas as pd
import pytest
import torch

from rpo_nb import partition
from rpo_nb.reporting import showing


def test_a_frame_has_its_text_on_the_left_and_no_number_in_powers_of_ten():
    frame = pd.DataFrame({"n": [1.84e9, 2.0], "who <b>": ["<i>a</i>", "b"], "p": [1e-12, 0.5]})
    page = showing.frame_html(frame)
    right, rule = page.split("</style>")[0].split("}", 1)
    assert "text-align: right" in right
    # the second column and its heading, which comes after the index's
    assert "td:nth-of-type(2)" in rule and "th:nth-child(3)" in rule and "left" in rule
    assert "td:nth-of-type(1)" not in rule and "td:nth-of-type(3)" not in rule
    assert "1,840,000,000" in page and "e+0" not in page
    assert "<i>a" not in page and html.escape("<i>a</i>") in page  # of a model: never HTML
    assert page == showing.frame_html(frame.copy())  # the same bytes for the same frame


def test_long_frames_are_cut_and_odd_ones_do_not_fail():
    assert showing.frame_html(pd.DataFrame({"a": range(5000)})).count("<tr") < 100
    twice = pd.DataFrame([[1e9, "x"]], columns=["a", "a"])
    levels = pd.DataFrame({"a": [1.0]}, index=pd.MultiIndex.from_tuples([("x", "y")]))
    for frame in (twice, levels, pd.DataFrame(), pd.DataFrame({"a": [True, None]})):
        assert "<table" in showing.frame_html(frame)


def test_a_styled_frame_has_its_text_on_the_left_too():
    frame = pd.DataFrame({"n": [1.5], "who": ["a"]})
    page = showing.styled_html(frame.style.hide(axis="index"))
    assert re.search(r"td\.col1[^}]*\{[^}]*text-align: left", page.replace("\n", ""))
    assert "col0 {" not in page.split("</style>")[0]


@pytest.mark.parametrize("how", [{}, {"precision": 2}, {"na_rep": "", "formatter": str.upper}])
def test_text_in_a_styled_frame_is_never_html(how):
    hostile = "<img src=x onerror=alert(1)>"
    frame = pd.DataFrame({"who": [hostile], hostile: ["b & c"]}, index=[hostile])
    styler = frame.style.format(**how).set_caption(hostile)
    page = showing.styled_html(styler)
    assert "<img" not in page.lower() and page.lower().count("&lt;img src=x") == 4
    assert showing.styled_html(styler) == page  # the frame is left as it was
    assert styler.data["who"].item() == hostile


def found(rewards, *, tau=1.0, estimator="none"):
    """A diagnosis of prompts with four completions each, all equally probable."""
    ref, ids = torch.full((len(rewards),), -8.0), torch.arange(len(rewards)) // 4
    return partition.diagnostics(ref, torch.tensor(rewards), ids, tau=tau, estimator=estimator)


@pytest.mark.parametrize(
    ("diagnosis", "light"),
    [
        (found([1.0, -1.0, 0.5, -0.5] * 8), "ok"),
        (found([1.0, -1.0, 0.5, -0.5] * 8, tau=0.2, estimator="monte_carlo"), "look"),
        (found([5.0, 4.0, 4.5, 3.5] * 8), "wrong"),  # all pushed up: the level outweighs the rest
        (found([30.0, -30.0, 20.0, -20.0] * 8), "wrong"),
    ],
)
def test_the_light_says_whether_targets_are_about_the_reward(diagnosis, light):
    assert showing.light(diagnosis) == light


def test_lights_are_a_table_with_the_sentences_folded():
    runs = {("stronger", "paper"): found([5.0, 4.0, 4.5, 3.5] * 8)}
    runs["on_policy", "fixed"] = found([1.0, -1.0, 0.5, -0.5] * 8)
    shown = showing.lights(runs, ["data", "preset"])
    page, text = shown._repr_html_(), repr(shown)
    before, folded = page.split("<details>")
    assert "wrong" in before and "ok" in before and "warning" not in before
    sentence = runs["stronger", "paper"]["warnings"][0]
    assert html.escape(sentence) in folded and sentence in text


def test_what_is_printed_in_a_block_is_folded_even_when_it_fails(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    with pytest.raises(KeyError), showing.folded("said"):
        print("<one>\ntwo")
        raise KeyError
    with showing.folded("nothing"):
        pass
    with showing.folded("one line"):
        print("as it is")
    (one,) = shown
    assert one.lines == ["<one>", "two"] and "&lt;one&gt;" in one._repr_html_()
    assert "<one>" not in one._repr_html_() and capsys.readouterr().out == "as it is\n"
