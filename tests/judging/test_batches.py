"""Batch files: written once, read back as replies, refused where they are of something else."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from rpo_nb.judging import batches
from rpo_nb.judging.language_models import read_store
from rpo_nb.judging.planted import anew
from rpo_nb.judging.verdicts import ask, judge_pairs
from tests.judging.pairs import pair_table
from tests.judging.servers import completion, endpoint

PAIRS = pair_table([(0, "a boat", "the cat"), (1, "it is", "bad rope"), (2, "same", "  ")])


@pytest.fixture
def judge():
    pytest.importorskip("openai")
    return endpoint(SimpleNamespace(url="http://localhost:1/v1"))


@pytest.fixture
def questions():
    return batches.questions_about(PAIRS)


def requests_in(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def answered(requests, *, say="A", wrapped=True, **change):
    """What `vllm run-batch` writes for these requests; say: the letter that is likelier."""
    rows = []
    for number, request in enumerate(requests):
        body = completion(say) | {"model": request["body"]["model"]} | change
        body["usage"] = {"prompt_tokens": 100, "completion_tokens": 2}
        response = {"status_code": 200, "request_id": "r", "body": body} if wrapped else body
        rows.append(
            {
                "id": f"batch_{number}",
                "custom_id": request["custom_id"],
                "response": response,
                "error": None,
            }
        )
    return rows


def used(row, **tokens):
    row["response"]["body"]["usage"] |= tokens


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_both_orders_of_every_pair_of_two_texts_are_asked_and_no_others(questions):
    assert [(q.first, q.second) for q in questions] == [
        ("a boat", "the cat"),
        ("it is", "bad rope"),
        ("the cat", "a boat"),
        ("bad rope", "it is"),
    ]
    assert len(batches.questions_about(PAIRS, most_prompts=1)) == 2


@pytest.mark.parametrize("most", [None, 1, 2])
def test_a_file_asks_of_each_seed_what_the_run_asks(tmp_path, most):
    """Two seeds have other validation prompts: the limit is one of each."""
    pairs = pd.concat(
        [
            pair_table([(i, f"boat {i}", f"cat {i}") for i in (0, 1, 2)], seed=0),
            pair_table([(i, f"lamp {i}", f"rope {i}") for i in (7, 8, 9)], seed=1),
        ]
    )
    recorder = batches.Recorder()
    recorder.most_prompts = most
    ask({0: [recorder], 1: [recorder]}, pairs, tmp_path, "table3")
    found = batches.questions_about(pairs, most_prompts=most)
    assert len(found) == 4 * (most or 3) and found == recorder.questions


def test_a_request_is_what_the_server_would_be_asked(judge, questions, tmp_path, server):
    path = tmp_path / "batch.jsonl"
    assert batches.write_requests(judge, questions, path) == 4
    asked = requests_in(path)
    assert len({row["custom_id"] for row in asked}) == 4
    assert {(row["method"], row["url"]) for row in asked} == {("POST", "/v1/chat/completions")}
    live = endpoint(server)
    live.compare([q.prompt for q in questions], *zip(*[q[1:] for q in questions]))
    sent = {json.dumps(request, sort_keys=True) for request in server.requests}
    assert {json.dumps(row["body"], sort_keys=True) for row in asked} == sent


@pytest.mark.parametrize("wrapped", [True, False])
def test_results_are_replies_and_nothing_is_asked_then(judge, questions, tmp_path, wrapped):
    path = tmp_path / "batch.jsonl"
    batches.write_requests(judge, questions, path)
    results = write(tmp_path / "out.jsonl", answered(requests_in(path), wrapped=wrapped)[::-1])
    got = batches.read_results(judge, questions, results)
    assert (got.new, got.known, got.failed, got.missing) == (4, 0, 0, 0)
    assert (got.read, got.written) == (400, 8)
    rows = judge_pairs(judge, PAIRS)  # its server is not there
    assert rows["verdict"].tolist() == ["tie", "tie", None] and judge.failed() == 0
    assert batches.write_requests(judge, questions, path) == 0 and path.read_text() == ""


def test_a_file_need_not_say_how_many_tokens_it_took(judge, questions, tmp_path):
    path = tmp_path / "batch.jsonl"
    batches.write_requests(judge, questions, path)
    rows = answered(requests_in(path))
    rows[0]["response"]["body"].pop("usage")
    rows[1]["response"]["body"]["usage"] = None
    used(rows[2], completion_tokens=None)
    got = batches.read_results(judge, questions, write(tmp_path / "out.jsonl", rows))
    assert (got.new, got.read, got.written) == (4, 200, 2)


def test_reading_twice_changes_nothing(judge, questions, tmp_path):
    path = tmp_path / "batch.jsonl"
    batches.write_requests(judge, questions, path)
    results = write(tmp_path / "out.jsonl", answered(requests_in(path)))
    batches.read_results(judge, questions, results)
    before = judge.store.read_bytes()
    got = batches.read_results(judge, questions, results)
    assert (got.new, got.known) == (0, 4) and judge.store.read_bytes() == before


def test_a_row_that_stands_twice_was_one_request(judge, questions, tmp_path):
    path = tmp_path / "batch.jsonl"
    batches.write_requests(judge, questions, path)
    rows = answered(requests_in(path))
    got = batches.read_results(judge, questions, write(tmp_path / "out.jsonl", rows + rows))
    assert (got.new, got.read, got.written) == (4, 400, 8)


def test_what_failed_is_counted_and_asked_by_the_next_file(judge, questions, tmp_path):
    path = tmp_path / "batch.jsonl"
    batches.write_requests(judge, questions, path)
    rows = answered(requests_in(path))
    rows[0] |= {"response": None, "error": {"message": "no"}}
    rows[1]["response"]["status_code"] = 500
    got = batches.read_results(judge, questions, write(tmp_path / "out.jsonl", rows))
    assert (got.new, got.failed, got.missing) == (2, 2, 2)
    left = {rows[0]["custom_id"], rows[1]["custom_id"]}
    batches.write_requests(judge, questions, path)
    assert {row["custom_id"] for row in requests_in(path)} == left


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda row: row.update(custom_id="f" * 16), "row 3: custom_id 'ffff"),
        (lambda row: row.pop("custom_id"), "row 3: custom_id None"),
        (lambda row: row.update(custom_id=["a"]), "row 3: custom_id ['a']"),
        (lambda row: row.update(custom_id={"a": 1}), "row 3: custom_id {'a': 1}"),
        (lambda row: row["response"]["body"].update(usage="many"), "row 3: usage is 'many'"),
        (lambda row: row["response"]["body"].update(usage=[100, 2]), "row 3: usage is [100, 2]"),
        (lambda row: used(row, prompt_tokens="many"), "row 3: usage is {'prompt_tokens': 'many'"),
        (lambda row: used(row, completion_tokens=[2]), "row 3: usage is {"),
        (lambda row: used(row, prompt_tokens=-1), "row 3: usage is {'prompt_tokens': -1"),
        (lambda row: used(row, prompt_tokens=True), "row 3: usage is {'prompt_tokens': True"),
        (lambda row: row["response"]["body"].update(model="another"), "the model 'another'"),
        (lambda row: row["response"]["body"].pop("choices"), "row 3: its response is no chat"),
    ],
)
def test_a_row_of_something_else_is_refused_and_nothing_is_kept(
    judge, questions, tmp_path, change, told
):
    path = tmp_path / "batch.jsonl"
    batches.write_requests(judge, questions, path)
    rows = answered(requests_in(path))
    change(rows[2])
    with pytest.raises(ValueError, match="out.jsonl, row 3") as error:
        batches.read_results(judge, questions, write(tmp_path / "out.jsonl", rows))
    assert told in str(error.value) and read_store(judge.store) == {}


def test_two_different_replies_to_one_question_are_refused(judge, questions, tmp_path):
    path = tmp_path / "batch.jsonl"
    batches.write_requests(judge, questions, path)
    rows = answered(requests_in(path)) + answered(requests_in(path)[:1], say="B")
    with pytest.raises(ValueError, match="row 5: .* another reply"):
        batches.read_results(judge, questions, write(tmp_path / "out.jsonl", rows))
    assert read_store(judge.store) == {}


def test_the_second_time_has_a_store_of_its_own(judge, questions, tmp_path):
    other = anew(judge)
    assert other.store != judge.store and other.identity == judge.identity
    path = tmp_path / "batch.jsonl"
    batches.write_requests(judge, questions, path)
    results = write(tmp_path / "out.jsonl", answered(requests_in(path)))
    batches.read_results(judge, questions, results)
    assert batches.write_requests(other, questions, path) == 4


def test_a_judge_of_this_machine_has_no_batch_file(questions, folder, tmp_path):
    from tests.judging.servers import local

    with pytest.raises(ValueError, match="is no endpoint"):
        batches.write_requests(local(folder), questions, tmp_path / "batch.jsonl")
