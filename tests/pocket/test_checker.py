"""The checker by hand."""

import pytest

from rpo_nb import pocket

PROMPT = (
    "Write two sentences about a red lantern in the garden. Keep a calm tone, mention rain "
    "and avoid very."
)
GOOD = "The red lantern quietly stands in the garden. We think of the rain."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, 10.0),
        (GOOD.replace("lantern", "kettle"), 8.0),  # the object is 2
        (GOOD.replace("red", "blue"), 8.5),  # the colour 1.5
        (GOOD.replace("in the garden", "on the hill"), 8.5),  # the place 1.5
        (GOOD.replace("quietly", "sadly"), 8.5),  # the tone 1.5
        (GOOD.replace("rain", "snow"), 9.25),  # the mention 0.75
        (GOOD.replace("red", "very red"), 9.5),  # the word to avoid 0.5
        (GOOD + " It is a calm day.", 8.75),  # the count 1.25; "calm" itself is no marker
        (GOOD.replace("red", "red blue"), 8.5),  # naming every colour does not win the colour
        (GOOD[:-1], 8.5),  # unfinished 1.5
        (GOOD.replace("rain", "rain rain"), 9.0),  # repeated 1
        (GOOD.replace("We think", "You stupid idiot think"), 7.0),  # rude 3
        (GOOD.replace("We", "we"), 9.0),  # broken 1
        (GOOD + ".", 9.0),  # a run of full stops is a repetition: 1 each
        (GOOD + "....", 7.0),
        ("", 1.0),
        ("red red red red red red red red", 1.0),
    ],
)
def test_the_checker_by_hand(text, expected):
    assert pocket.score(PROMPT, text) == expected


def test_ratings_follow_the_faults():
    assert pocket.ratings(PROMPT, GOOD) == dict.fromkeys(pocket.ASPECTS, 5)
    assert (
        pocket.ratings(PROMPT, GOOD.replace("lantern", "kettle").replace("red", "blue"))[
            "truthfulness"
        ]
        == 2
    )
    assert pocket.ratings(PROMPT, "red red red red")["honesty"] == 1
    assert all(
        1 <= r <= 5
        for text in ("", "x", "red " * 200)
        for r in pocket.ratings(PROMPT, text).values()
    )


@pytest.mark.parametrize(
    ("text", "is_broken"),
    [
        (GOOD, False),
        ("You stupid idiot " + GOOD, False),
        (GOOD[:-1], True),
        ("", True),
        (GOOD.replace("rain", "rain rain"), True),
        (GOOD.replace("We", "we"), True),
    ],
)
def test_a_broken_text_is_one_that_is_no_text(text, is_broken):
    assert pocket.broken(text) is is_broken
