"""A server."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from rpo_nb.judging import language_models, verdicts
from rpo_nb.judging.language_models import Question, question_text
from tests.judging.pairs import pair_table
from tests.judging.servers import completion, endpoint


def error(status, message):
    return status, {"error": {"message": message, "type": "x", "code": status}}


def asked_about(cases, request):
    """The value of the case whose name is in the question."""
    return next(value for name, value in cases.items() if name in request["messages"][0]["content"])


def test_log_odds_come_from_the_listed_tokens(server):
    listings = {
        "case one": [("A", -1.0), (" A", -2.0), ("B", -1.5), ("C", -0.1)],
        "case two": [("▁B", -0.2), ("ĠA", -3.0)],
        "case three": [("A", -0.5), ("x", -7.0), ("y", -4.0)],
        "case four": [("Neither", -0.1), ("x", -7.0)],
    }
    server.answer = lambda request, n: (200, completion("A", asked_about(listings, request)))
    judge = endpoint(server)
    replies = judge.replies(list(listings), ["a boat"] * 4, ["the cat"] * 4)
    odds = [np.logaddexp(-1, -2) + 1.5, -3.0 + 0.2]
    assert [r.log_odds for r in replies[:2]] == pytest.approx(odds, abs=1e-4)
    # of an unlisted letter nothing is known, so the text is read
    assert replies[2].log_odds is None
    assert [r.choice for r in replies] == ["first", "second", "first", None] and replies[
        3
    ].note == language_models.NEITHER
    assert [r.note for r in replies[:2]] == [language_models.OFF, ""]
    request = next(r for r in server.requests if "case one" in r["messages"][0]["content"])
    assert request["messages"] == [
        {"role": "user", "content": question_text(Question("case one", "a boat", "the cat"))}
    ]
    assert (
        request["model"],
        request["temperature"],
        request["logprobs"],
        request["top_logprobs"],
    ) == ("m", 0, True, 20)


def test_without_log_probs_the_text_must_be_exactly_a_letter(server):
    texts = {
        "case one": "A",
        "case two": " B\n",
        "case three": "A.",
        "case four": "Response A",
        "case five": "",
        "case six": "a",
    }
    server.answer = lambda request, n: (200, completion(asked_about(texts, request)))
    judge = endpoint(server)
    assert judge.compare(list(texts), ["x"] * 6, ["y"] * 6) == [
        "first",
        "second",
        None,
        None,
        None,
        None,
    ]
    assert "4 of 6 questions got a reply that is neither A nor B" in judge.remarks()[0]
    rows = verdicts.judge_pairs(judge, pair_table([(0, "x", "y")]))
    assert rows["log_odds"].isna().all() and rows["verdict_average"].tolist() == [None]


@pytest.mark.parametrize(
    "refusal",
    [
        error(400, "top_logprobs must be at most 5"),
        error(422, "Unexpected fields: top_logprobs"),
        error(500, "logprobs is not supported for models created with logits_all=False"),
    ],
)
def test_a_server_that_lists_fewer_or_no_log_probs_is_asked_for_less(server, refusal):
    listed = 5 if "5" in str(refusal[1]["error"]["message"]) and refusal[0] == 400 else 0
    server.answer = lambda request, n: (
        refusal if request.get("top_logprobs", 0) > listed else (200, completion("B"))
    )
    judge = endpoint(server, concurrency=1)
    assert judge.compare(["p"] * 3, ["x", "y", "z"], ["v"] * 3) == ["second"] * 3
    assert [request.get("top_logprobs", 0) for request in server.requests] == [
        n for n in (20, 5, 0) if n >= listed
    ] + [listed] * 2


@pytest.mark.parametrize("trouble", ["429", "500", "stall", "broken"])
def test_passing_trouble_is_waited_out(server, trouble):
    def answer(request, n):
        if n == 1 and trouble == "stall":
            time.sleep(2)
        return (
            {
                "429": error(429, "slow down"),
                "500": error(500, "oops"),
                "stall": (200, completion("B")),
                "broken": (None, None),
            }[trouble]
            if n == 1
            else (200, completion("B"))
        )

    server.answer = answer
    judge = endpoint(server, retries=2, timeout=1 if trouble == "stall" else 30)
    assert (
        judge.compare(["p"], ["x"], ["y"]) == ["second"]
        and len(server.requests) == 2
        and not judge.remarks()
    )


@pytest.mark.parametrize(
    "garbage",
    [
        b"<html>busy</html>",
        {"hello": 1},
        {"choices": []},
        {"choices": [{"message": None}]},
        [1, 2],
        b"\xff\x00",
    ],
)
def test_nonsense_is_no_verdict_and_asked_again(server, garbage):
    server.answer = lambda request, n: (200, garbage)
    judge = endpoint(server)
    assert judge.compare(["p"], ["x"], ["y"]) == [None] and judge.notes == Counter(
        {language_models.FAILED: 1}
    )
    assert "its reply is not the API's" in judge.remarks()[0]
    server.answer = lambda request, n: (200, completion("A"))
    assert endpoint(server).compare(["p"], ["x"], ["y"]) == ["first"]


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (error(401, "bad key"), "refuses the key .401.; set OPENAI_API_KEY"),
        (error(403, "no"), "refuses the key"),
        (error(404, "no model m"), "does not know the model 'm'"),
    ],
)
def test_a_refusal_stops_at_once_with_one_sentence(server, monkeypatch, refusal, said, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-mine")
    server.answer = lambda request, n: (200, completion("A")) if n == 1 else refusal
    judge = endpoint(server, concurrency=1, retries=5)
    with pytest.raises(ValueError, match=said) as caught:
        judge.compare(["p"] * 40, [str(i) for i in range(40)], ["y"] * 40)
    assert len(server.requests) <= 4 and "secret" not in str(caught.value)
    assert server.headers[0]["Authorization"] == "Bearer secret-of-mine"
    kept = judge.store.read_text()  # the answer before the refusal; the key nowhere
    assert kept.count("\n") == 1 and not any(
        b"secret" in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()
    )


def test_a_question_too_long_for_the_server_is_null_until_the_server_has_a_longer_context(server):
    server.answer = lambda request, n: error(
        400, "This model's maximum context length is 2048 tokens"
    )
    judge = endpoint(server, retries=3)
    assert judge.compare(["p"], ["x"], ["y"]) == [None] and judge.notes == Counter(
        {language_models.LONG: 1}
    )
    assert len(server.requests) == 1 and "longer than the model's context" in judge.remarks()[0]
    server.answer = lambda request, n: (200, completion("A"))
    assert endpoint(server).compare(["p"], ["x"], ["y"]) == ["first"]


def test_an_exceeded_quota_is_no_long_question(server):
    server.answer = lambda request, n: error(429, "You exceeded your current quota")
    judge = endpoint(server)
    assert (
        judge.compare(["p"], ["x"], ["y"]) == [None]
        and judge.notes == Counter({language_models.FAILED: 1})
        and not judge.store.exists()
    )
    assert "failed (429)" in judge.remarks()[0]


def test_requests_in_flight_are_bounded(server):
    def answer(request, n):
        time.sleep(0.02)
        return 200, completion("A")

    server.answer = answer
    endpoint(server, concurrency=3).compare(["p"] * 12, [str(i) for i in range(12)], ["y"] * 12)
    assert server.most == 3 and len(server.requests) == 12


def test_a_server_that_dies_half_way_leaves_nulls_and_a_rerun_asks_only_those(
    server, tmp_path, capsys
):
    pairs = pair_table([(i, f"text {i}", "other") for i in range(10)])  # 20 questions

    def answer(request, n):
        return (200, completion("A", [("A", -0.1), ("B", -2.0)])) if n <= 8 else (None, None)

    server.answer = answer
    rows = verdicts.ask({0: [endpoint(server, concurrency=2)]}, pairs, tmp_path, "table3")
    said = capsys.readouterr().out
    assert (
        rows["first_order"].notna().sum() == 8
        and rows["verdict"].isna().all()
        and rows["log_odds"].isna().all()
    )
    assert (
        "judge server: 12 of 20 questions got no reply" in said
        and "start it" in said
        and len(server.requests) <= 8 + 3 + 4
    )
    port = server.http.server_port

    server.stop()  # dead altogether: a rerun says so again, quickly, and loses nothing
    started = time.monotonic()
    rows = verdicts.ask({0: [endpoint(server)]}, pairs, tmp_path, "table3")
    assert (
        rows["first_order"].notna().sum() == 8
        and time.monotonic() - started < 20
        and "no connection" in capsys.readouterr().out
    )

    server.start(port)
    server.requests.clear()
    server.answer = lambda request, n: (200, completion("A", [("A", -0.1), ("B", -2.0)]))
    rows = verdicts.ask({0: [endpoint(server)]}, pairs, tmp_path, "table3")
    assert (
        len(server.requests) == 12
        and rows["verdict"].eq("tie").all()
        and rows["verdict_average"].eq("tie").all()
    )
    verdicts.ask({0: [endpoint(server)]}, pairs, tmp_path, "table3")
    assert (
        len(server.requests) == 12
        and "the 10 stored verdicts are up to date" in capsys.readouterr().out
    )


def test_an_endpoint_needs_an_address_and_its_client(server, monkeypatch):
    with pytest.raises(ValueError, match="llm_judges.server.url is empty"):
        endpoint(server, url="")
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(ValueError, match="pip install openai"):
        endpoint(server)
