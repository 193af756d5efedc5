"""The checker by hand."""

import pytest

from rpo_nb import pocket
from rpo_nb.pocket import checker

PROMPT = (
    "Write two sentences about a red lantern in the garden. Keep a calm tone, mention rain "
    "and avoid very."
)
GOOD = "The red lantern quietly stands in the garden. We think of the rain."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, 10.0),
        (
            "Its only friend is the rain. See how gently the red lantern shines in the garden.",
            10.0,  # another wording and order
        ),
        (GOOD.replace("lantern", "kettle"), 8.0),  # the object is 2
        (GOOD.replace("red", "blue"), 8.5),  # the colour 1.5
        (GOOD.replace("in the garden", "on the hill"), 8.75),  # the place 1.25
        (GOOD.replace("quietly", "sadly"), 8.75),  # the tone 1.25
        (GOOD.replace("rain", "snow"), 9.0),  # the mention 1
        (GOOD.replace("red", "very red"), 9.5),  # the word to avoid 0.5
        (GOOD + " It is a serene day.", 9.0),  # the count 1
        (GOOD + " It is a silly day.", 7.75),  # and a rival tone
        (GOOD + " It smells of snow.", 8.0),  # and a rival mention
        (GOOD + " " + GOOD, 7.0),  # the count, and two sentences said again, 1 each
        ("You stupid idiot. " + GOOD, 6.0),  # rude 3, and the count
        # a sentence that is none: what the others say counts, up to the cap
        (GOOD[:-1], 4.0),
        (GOOD.replace("We", "we"), 4.0),
        (GOOD.replace("rain", "rain rain"), 4.0),
        (GOOD.replace("We think", "You stupid idiot think"), 4.0),
        (GOOD + ".", 4.0),
        (GOOD + "....", 4.0),
        (GOOD + " It is a calm day.", 4.0),
        (GOOD.replace("red", "red blue"), 3.75),  # mention, count, avoid and half of fluency
        # no sentence at all
        ("", 1.0),
        ("red red red red red red red red", 1.0),
        ("Red lantern in the garden quietly rain serene. Red lantern in the garden.", 1.0),
        (PROMPT, 1.0),
    ],
)
def test_the_checker_by_hand(text, expected):
    assert pocket.score(PROMPT, text) == expected


def test_points_make_the_score_and_fluency_is_one_of_them():
    assert sum(checker.WEIGHTS.values()) == 9
    assert pocket.parts(PROMPT, GOOD) == checker.WEIGHTS | dict.fromkeys(
        ("rude", "repeated", "long", "cap"), 0.0
    )
    half = GOOD[:-1]
    points = pocket.parts(PROMPT, half)
    assert points["fluency"] == 0.25 == 0.5 * pocket.fluency(half) and points["mention"] == 0
    assert points["cap"] == -4.75 and 1 + sum(points.values()) == pocket.score(PROMPT, half)
    long = GOOD + " It smells of rain." * 12
    assert pocket.parts(PROMPT, long)["long"] == -1 and pocket.parts(PROMPT, long)["repeated"] == -3


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
        ("You stupid idiot. " + GOOD, False),
        (GOOD[:-1], True),
        ("", True),
        (GOOD.replace("rain", "rain rain"), True),
        (GOOD.replace("We", "we"), True),
        (GOOD + " " + GOOD, True),
    ],
)
def test_a_broken_text_is_one_that_is_no_text(text, is_broken):
    assert pocket.broken(text) is is_broken
