"""Files in the schemas of public feedback sets and exports: each is read whole, or refused in one
sentence.

tests/cases has the instructive ones with their right outcome in expect.json; where ../shared/cases
lies beside the clone all of them are tested.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from rpo_nb.data import splits
from rpo_nb.data.feedback import load_feedback

HERE = Path(__file__).resolve()
OWN = HERE.parents[1] / "cases"
SHARED = next(
    (
        folder / "shared" / "cases"
        for folder in HERE.parents[3:5]
        if (folder / "shared" / "cases" / "expect.json").is_file()
    ),
    None,
)
# Its configurations are named a and b here, "axis" and "comparisons" in the set it is made after.
OTHER_WORDS = {"folder_multiconf_nodefault": ["a, b"]}
NOT_IN_THE_FOLDER = {"link.jsonl"}  # a link that did not survive the way here


def cases(folder):
    return json.loads((folder / "expect.json").read_text(encoding="utf-8")) if folder else {}


def holds(source, expected):
    """The rule of ../shared/cases/README.md."""
    try:
        feedback, report = load_feedback(source, return_report=True)
    except ValueError as error:
        told = str(error)
        assert expected.get("refuse") or expected.get("or_refuse"), f"refused: {told}"
        assert "\n" not in told and len(told) < 700
        assert all(word in told for word in expected.get("words", ())), told
        return
    assert not expected.get("refuse") or expected.get("or_read"), "read, and should be refused"
    if expected.get("rows") is not None:
        assert len(feedback) == expected["rows"]
    if expected.get("prompts") is not None:
        assert len(set(feedback["prompt_id"])) == expected["prompts"]
    if "rewards" in expected:
        assert Counter(feedback["reward"]) == {
            float(reward): n for reward, n in expected["rewards"].items()
        }
    assert all(text.strip() for column in ("prompt", "completion") for text in feedback[column])
    if "first_prompt" in expected:
        assert (
            not feedback["prompt"][0].startswith(("[{", '["', "['"))
            and "\ufffd" not in feedback["prompt"][0]
        )
    if "twin" in expected.get("note", "") or "never stand on both sides" in expected.get(
        "note", ""
    ):
        keys = {splits.group_key(prompt) for prompt in feedback["prompt"]}
        assert len(keys) == 1 and any("twin" in row["reason"] for row in report)
    if "no rating is lost" in expected.get("note", ""):
        given = [rating for cell in feedback["ratings"] for rating in json.loads(cell)]
        assert len(given) == len(Path(source).read_text().splitlines())
    assert {"line", "field", "reason", "remedy", "action"} == set().union(
        *map(set, report), {"line", "field", "reason", "remedy", "action"}
    )


@pytest.mark.parametrize("name", cases(OWN))
def test_a_case_of_our_own(name):
    assert (OWN / name).exists()
    holds(OWN / name, cases(OWN)[name])


@pytest.mark.skipif(SHARED is None, reason="../shared/cases is not here")
@pytest.mark.parametrize("name", cases(SHARED))
def test_a_case_beside_the_clone(name):
    if name in NOT_IN_THE_FOLDER and not (SHARED / name).exists():
        pytest.skip(f"{name} is not in the folder")
    expected = cases(SHARED)[name]
    holds(SHARED / name, expected | ({"words": OTHER_WORDS[name]} if name in OTHER_WORDS else {}))
