"""A folder in the hub's layout, what the hub refuses."""

import datasets
import pandas as pd
import pytest

from rpo_nb.data.feedback import load_feedback
from tests.data.rows import (
    EXPECTED,
    NESTED,
    ROWS,
    lines,
    load,
    reasons,
    triples,
)

# ---- a folder in the hub's layout ----------------------------------------------------------------


def openbmb(instruction, source):
    """A row as openbmb/UltraFeedback has it."""
    aspects = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    return {
        "source": source,
        "instruction": instruction,
        "models": ["alpaca-7b", "gpt-4"],
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
        "completions": [
            {
                "annotations": {
                    a: {"Rating": str(rating), "Rationale": "Because."} for a in aspects
                },
                "critique": "Fine.",
                "custom_system_prompt": "Be honest.",
                "fine-grained_score": float(rating),
                "model": model,
                "overall_score": score,
                "principle": "honesty",
                "response": f"{model} on {instruction}",
            }
            for model, score, rating in (("alpaca-7b", 10.0, 1), ("gpt-4", 8.5, 5))
        ],
    }


def test_a_folder_in_the_hubs_layout_is_a_source(tmp_path):
    lines(
        tmp_path / "evol_instruct.jsonl",
        openbmb("A?", "evol_instruct"),
        "not json",
        openbmb("B?", "evol_instruct"),
    )
    lines(
        tmp_path / "flan.jsonl",
        openbmb("C?", "flan"),
        {**openbmb("D?", "flan"), "instruction": None},
    )
    (tmp_path / "README.md").write_text(
        "---\nlicense: mit\n---\n# UltraFeedback\n", encoding="utf-8"
    )
    feedback, report = load(tmp_path)
    assert triples(feedback) == [
        (p, f"{m} on {p}", s)
        for p in ("A?", "B?", "C?")
        for m, s in (("alpaca-7b", 1.0), ("gpt-4", 8.5))
    ]
    assert [r for r in reasons(report) if r[3] == "dropped"] == [
        (2, "evol_instruct.jsonl", "line is not JSON", "dropped"),
        (2, "flan.jsonl: instruction", "text is missing", "dropped"),
    ]
    assert (
        1,
        "flan.jsonl: completions[0].overall_score",
        "overall_score 10 with ratings of 2 or less",
        "repaired",
    ) in reasons(report)


def test_a_folder_with_data_parquet_has_its_splits(tmp_path):
    (tmp_path / "data").mkdir()
    for name, part in (
        ("train-00000-of-00002", ROWS[:1]),
        ("train-00001-of-00002", ROWS[1:]),
        ("test-00000-of-00001", NESTED[:1]),
    ):
        pd.DataFrame(part).to_parquet(tmp_path / "data" / f"{name}.parquet")
    assert triples(load(str(tmp_path))[0]) == EXPECTED
    assert triples(load(tmp_path, split="test")[0]) == EXPECTED[:2]
    with pytest.raises(
        ValueError, match="there is no split 'dev'; set data.split .* to one of train, test"
    ):
        load(tmp_path, split="dev")


# ---- what the hub refuses ------------------------------------------------------------------------


def hub_errors():
    """The errors that huggingface_hub and datasets really raise, made by the library from an HTTP
    response."""
    from huggingface_hub import errors
    from huggingface_hub.utils import hf_raise_for_status

    from tests.conftest import hub_response

    def refused(status, code="", message=""):
        url = "https://huggingface.co/api/datasets/some/data"
        try:
            hf_raise_for_status(hub_response(status, url, code=code, message=message))
        except errors.HfHubHTTPError as error:
            return error

    told = datasets.exceptions.DatasetNotFoundError
    gated = "Dataset 'some/data' is a gated dataset on the Hub."
    return {
        "unknown": (
            refused(404, "RepoNotFound"),
            errors.RepositoryNotFoundError,
            "has no such dataset, or it is private.*; check the name",
        ),
        "unknown, as datasets tells it": (
            told("Dataset 'some/data' doesn't exist on the Hub or cannot be accessed."),
            told,
            "; check the name",
        ),
        "gated, no token": (
            refused(401, "GatedRepo"),
            errors.GatedRepoError,
            "gated and you are not logged in.*accept its terms at .*then log in",
        ),
        "gated, as datasets tells it": (
            told(f"{gated} You must be authenticated to access it."),
            told,
            "gated and you are not logged in",
        ),
        "gated, not accepted": (
            refused(403, "GatedRepo"),
            errors.GatedRepoError,
            "your account has no access.*; accept its terms at https",
        ),
        "wrong token": (
            refused(401, message="Invalid credentials in Authorization header"),
            errors.HfHubHTTPError,
            "refuses the token",
        ),
        "offline": (
            errors.OfflineModeIsEnabled(
                "Cannot reach https://huggingface.co: offline mode is enabled."
            ),
            None,
            "cannot be reached.*; check the network",
        ),
        "not in the cache": (
            errors.LocalEntryNotFoundError("Cannot find the requested files in the disk cache"),
            None,
            "cannot be reached",
        ),
        "no connection": (
            ConnectionError("Couldn't reach 'some/data' on the Hub (ConnectError)"),
            None,
            "cannot be reached.*local folder",
        ),
        "server down": (refused(503), errors.HfHubHTTPError, "503"),
    }


@pytest.mark.parametrize("case", hub_errors())
def test_the_hubs_refusals_are_one_sentence_with_the_remedy(case, monkeypatch):
    error, kind, words = hub_errors()[case]
    assert kind is None or type(error) is kind

    def refuse(name, split, **_):
        raise error

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        ValueError,
        match="'some/data' is no file or folder here, and the hub did "
        f"not give its split 'train' .*{words}",
    ) as told:
        load_feedback("some/data")
    assert "\n" not in str(told.value)


def test_a_wrapped_refusal_is_found_in_its_cause(monkeypatch):
    def refuse(name, split, **_):
        try:
            raise hub_errors()["gated, not accepted"][0]
        except OSError as error:
            raise RuntimeError("something went wrong") from error

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ValueError, match="gated and your account has no access"):
        load_feedback("some/data")


def test_maps_are_dicts_under_every_pyarrow():
    """Written out by hand: before release 19 pyarrow gives maps as lists of pairs, also within
    lists and structs."""
    import pyarrow as pa

    from rpo_nb.data.arrow import to_rows, with_dicts

    inner = pa.map_(pa.string(), pa.int64())
    kind = pa.struct({"a": inner, "b": pa.list_(inner), "c": pa.string()})
    assert with_dicts({"a": [("x", 1)], "b": [[("y", 2)], None], "c": "[]"}, kind) == {
        "a": {"x": 1},
        "b": [{"y": 2}, None],
        "c": "[]",
    }
    table = pa.table({"m": pa.array([[("x", 1)], None], inner), "n": [1, 2]})
    assert to_rows(table) == [{"m": {"x": 1}, "n": 1}, {"m": None, "n": 2}]
