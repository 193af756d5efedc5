"""A server is a stranger: what it lists, how long it talks, how much it says, and where it sends
us.
"""

from __future__ import annotations

import gzip
import json
import math
import socket
import threading
import time
from collections import Counter

import openai
import pytest

from rpo_nb import store
from rpo_nb.config import schema
from rpo_nb.config.loading import load_profile
from rpo_nb.judging import endpoint as judging_endpoint
from rpo_nb.judging import verdicts
from rpo_nb.judging.endpoint import EndpointJudge
from rpo_nb.judging.language_models import FAILED, NEITHER, OFF, Reply, is_verdict, read_store
from tests.judging.pairs import pair_table
from tests.judging.servers import completion, endpoint

# ---- what it lists ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "listed", "expected"),
    [
        (
            "B",
            [("B", -0.001)],
            Reply("second"),
        ),  # was "first": A counted as much as the least likely listed, B itself
        ("B", [("B", -0.001), ("C", -9.0)], Reply("second")),
        ("A", [("A", -0.5), ("x", -7.0)], Reply("first")),
        ("B because", [("B", -0.001)], Reply(None, note=NEITHER)),
        ("A", [("B", -0.001)], Reply(None, note=NEITHER)),  # the text contradicts the list
        ("A", [("Neither", -0.1), ("x", -7.0)], Reply(None, note=NEITHER)),
        (
            "A",
            [("A", -0.1), ("B", -math.inf)],
            Reply("first"),
        ),  # without a finite number there are no log-odds
        ("A", [("A", -0.25), ("B", -2.25)], Reply("first", 2.0)),
        ("C", [("C", -0.1), ("B", -3.0), ("A", -4.0)], Reply("second", -1.0, OFF)),
    ],
)
def test_a_verdict_is_one_that_the_server_gave(server, text, listed, expected):  # noqa: F811
    server.answer = lambda request, n: (200, completion(text, listed))
    judge = endpoint(server)
    assert judge.replies(["p"], ["x"], ["y"]) == [expected]
    assert read_store(judge.store) and endpoint(server).replies(["p"], ["x"], ["y"]) == [expected]


@pytest.mark.parametrize(
    "value", [math.nan, 1e308, 0.5, math.inf, True, 10**400, "high", None, [1]]
)
def test_a_log_probability_that_is_none_is_no_verdict(server, value):  # noqa: F811
    server.answer = lambda request, n: (200, completion("A", [("A", value), ("B", -2.0)]))
    judge = endpoint(server)
    assert (
        judge.replies(["p"], ["x"], ["y"]) == [Reply(None, note=FAILED)]
        and not judge.store.exists()
    )
    assert "its reply is not the API's" in judge.remarks()[0]


@pytest.mark.parametrize(
    "body",
    [
        {"choices": {"a": 1}},
        {"choices": [{"message": {"content": {"A": 1}}}]},
        {"choices": "A"},
        {
            "choices": [
                {"message": {"content": "A"}, "logprobs": {"content": [{"top_logprobs": "A"}]}}
            ]
        },
        b'{"choices": ' + b"[" * 100_000,
    ],
    ids=["choices", "content", "text", "listing", "deep"],
)
def test_other_shapes_are_no_verdict(server, body):  # noqa: F811
    server.answer = lambda request, n: (200, body)
    assert endpoint(server).replies(["p"], ["x"], ["y"]) == [Reply(None, note=FAILED)]


@pytest.mark.parametrize(
    "row",
    [
        {"answer": "third"},
        {"answer": ["first"]},
        {"log_odds": math.nan},
        {"log_odds": math.inf},
        {"log_odds": "2"},
        {"answer": "second"},
        {"answer": None},
        {"note": "by hand"},
        {"note": NEITHER},
        {"key": 3},
        {"log_odds": True},
        {"answer": None, "log_odds": -1.0},
        None,
    ],
)
def test_the_store_refuses_rows_that_are_no_verdict(server, row, capsys):  # noqa: F811
    judge = endpoint(server)
    server.answer = lambda request, n: (200, completion("A", [("A", -0.25), ("B", -2.25)]))
    judge.replies(["p"], ["x"], ["y"])
    line = json.loads(judge.store.read_text())
    judge.store.write_text(json.dumps([1] if row is None else line | row) + "\n")
    assert (
        endpoint(server).replies(["p"], ["x"], ["y"]) == [Reply("first", 2.0)]
        and len(server.requests) == 2
    )
    assert "1 of 1 stored replies are no verdicts" in capsys.readouterr().out


def test_a_reply_that_is_no_verdict_is_not_stored(server, monkeypatch):  # noqa: F811
    monkeypatch.setattr(
        judging_endpoint, "read_response", lambda response: Reply("first", math.nan)
    )
    judge = endpoint(server)
    with pytest.raises(ValueError, match="'server': .* is no verdict"):
        judge.replies(["p"], ["x"], ["y"])
    assert not judge.store.exists()


def test_is_verdict_takes_what_judges_give():
    assert all(
        map(
            is_verdict,
            [
                Reply("first", 0.0),
                Reply("second", -1.5),
                Reply("first", 3, OFF),
                Reply("second"),
                Reply(None, note=NEITHER),
                Reply(None, note=FAILED),
            ],
        )
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("verdict", "both"), ("first_order", "A"), ("log_odds", "many"), ("verdict_average", 1)],
)
def test_verdicts_of_the_output_folder_that_are_none_are_refused_by_name(
    server, tmp_path, field, value
):  # noqa: F811
    server.answer = lambda request, n: (200, completion("A", [("A", -0.25), ("B", -2.25)]))
    verdicts.ask({0: [endpoint(server)]}, pair_table([(0, "x", "y")]), tmp_path, "table3")
    path = tmp_path / "verdicts" / "table3-server.jsonl.gz"
    rows = store.unpacked(path)
    path.write_bytes(gzip.compress((json.dumps(rows[0] | {field: value}) + "\n").encode()))
    with pytest.raises(ValueError, match=rf"table3-server.jsonl.gz, row 1: {field} .*judge again"):
        verdicts.load_verdicts(tmp_path, "table3")


# ---- how long, how much, where to ---------------------------------------------------------------


@pytest.fixture
def raw():
    """A server below HTTP: `talk(connection)` is called for every connection once its request's
    head was read.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    held = {"connections": 0, "talk": None}

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            held["connections"] += 1

            def one(connection=connection):
                try:
                    connection.recv(65536)
                    held["talk"](connection)
                except OSError:
                    pass  # the client has gone
                finally:
                    connection.close()

            threading.Thread(target=one, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    held["url"] = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    yield held
    listener.close()


def asked(raw, **settings):
    settings = {"url": raw["url"], "timeout": 1, "retries": 0} | settings
    judge = EndpointJudge("server", schema.LLMJudge(kind="endpoint", model="m", **settings))
    started = time.monotonic()
    replies = judge.replies(["p"], ["x"], ["y"])
    assert replies == [Reply(None, note=FAILED)] and judge.notes == Counter({FAILED: 1})
    return judge.remarks()[0], time.monotonic() - started


@pytest.mark.parametrize(
    "head",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"],
    ids=["head", "body"],
)
@pytest.mark.parametrize("retries", [0, 1])
def test_a_server_that_drips_is_left_at_the_deadline(raw, head, retries):
    def drip(connection):
        connection.sendall(head)
        for byte in (b"HTTP/1.1 200 OK\r\nX: " if not head else b"") + b" " * 200:
            connection.sendall(bytes([byte]))
            time.sleep(0.1)

    raw["talk"] = drip
    said, seconds = asked(raw, retries=retries)
    assert seconds < 1 * (retries + 1) + 2 and "timed out" in said


def test_a_slow_server_that_asks_to_wait_a_minute_is_left_at_the_deadline(raw):
    raw["talk"] = lambda c: c.sendall(
        b"HTTP/1.1 429 Slow\r\nRetry-After: 50\r\nContent-Length: 0\r\n\r\n"
    )
    said, seconds = asked(raw, retries=1)
    assert seconds < 4 and "timed out" in said


@pytest.mark.parametrize("encoding", [b"", b"Content-Encoding: gzip\r\n"], ids=["plain", "packed"])
def test_a_body_that_does_not_end_is_not_read(raw, encoding):
    sent = [0]

    def flood(connection):
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + encoding + b"\r\n"
        )
        while True:
            sent[0] += connection.send(b" " * 65536)

    raw["talk"] = flood
    said, _ = asked(raw, timeout=20)
    assert (
        "more than 1 MiB" in said and sent[0] < 16 << 20
    )  # what the kernel's buffers took; 1.5 GB before


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(raw, server, status):  # noqa: F811
    where = server.url.replace("127.0.0.1", "localhost").encode()
    raw["talk"] = lambda c: c.sendall(
        b"HTTP/1.1 %d Away\r\nLocation: %s/chat/completions\r\nContent-Length: 0\r\n\r\n"
        % (status, where)
    )
    judge = EndpointJudge(
        "server",
        schema.LLMJudge(kind="endpoint", model="m", url=raw["url"], timeout=5, retries=2),
    )
    with pytest.raises(
        ValueError, match=rf"sends us to another address \({status}\).*llm_judges.server.url"
    ):
        judge.replies(["p"], ["x"], ["y"])
    assert not server.requests and raw["connections"] == 1


# ---- the key ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "own", "goes"),
    [
        ("http://localhost:8000/v1", "", True),
        ("http://127.0.0.1:1/v1", "", True),
        ("https://api.openai.com/v1", "", True),
        ("http://api.openai.com/v1", "", False),
        ("https://api.openai.com.evil.example/v1", "", False),
        ("https://judge.example/v1", "", False),
        ("https://judge.example/v1", "https://judge.example/v1", True),
        ("http://judge.example/v1", "https://judge.example/v1", False),
        ("https://judge.example:444/v1", "https://judge.example/v1", False),
    ],
)
def test_the_key_goes_only_where_the_user_sends_it(monkeypatch, server, url, own, goes):
    """What a server is sent: every address is led to the one of this test."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("OPENAI_BASE_URL", own)
    client = openai.AsyncOpenAI
    monkeypatch.setattr(
        openai, "AsyncOpenAI", lambda **given: client(**given | {"base_url": server.url})
    )
    (reply,) = endpoint(server, url=url).replies(["p"], ["x"], ["y"])
    (headers,) = server.headers
    assert reply.choice == "first"
    assert headers["Authorization"] == f"Bearer {'secret' if goes else 'none'}"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "localhost:8000",
        "http://",
        "https://me:word@host/v1",
        "https://api.openai.com@evil.example/v1",
        "https://host/v1?api_key=word",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url):
    with pytest.raises(ValueError, match="evaluation.llm_judges.server.url") as caught:
        EndpointJudge("server", schema.LLMJudge(kind="endpoint", model="m", url=url))
    described = {"server": {"kind": "endpoint", "model": "m", "url": url}}
    with pytest.raises(
        ValueError, match="evaluation.llm_judges.server.url"
    ):  # before anything starts
        load_profile(
            "smoke", **{"evaluation.judges": ["server"], "evaluation.llm_judges": described}
        )
    assert "word@" not in str(caught.value) and "api_key" not in str(caught.value)
