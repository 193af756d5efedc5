"""Fixtures that the tests of this room share."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch

from rpo_nb.config.loading import load_profile
from tests.judging.servers import completion, tiny_judge


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_judge(tmp_path_factory.mktemp("judge"))


@pytest.fixture
def server():
    """An OpenAI-compatible server on loopback. `answer(request, n)` gives (status, body) for the
    n-th request; requests, headers and the most at one time are kept; `stop()` closes it as a crash
    does."""
    state = SimpleNamespace(
        requests=[],
        headers=[],
        now=0,
        most=0,
        lock=threading.Lock(),
        answer=lambda request, n: (200, completion()),
    )

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.requests.append(request)
                state.headers.append(self.headers)
                state.now += 1
                state.most = max(state.most, state.now)
                n = len(state.requests)
            status, body = state.answer(request, n)
            with state.lock:
                state.now -= 1
            if status is None:  # the connection breaks
                self.close_connection = True
                return
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            try:
                self.send_response(status)
                self.send_header(
                    "Content-Type", "text/html" if isinstance(body, bytes) else "application/json"
                )
                self.send_header("Content-Length", str(len(data)))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(data)
            except BrokenPipeError:
                pass  # the client has stopped waiting

        def log_message(self, *_):
            pass

    def start(port=0):
        state.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        state.http.daemon_threads = True
        threading.Thread(
            target=state.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        state.url = f"http://127.0.0.1:{state.http.server_port}/v1"

    def stop():
        state.http.shutdown()
        state.http.server_close()

    state.start, state.stop = start, stop
    start()
    yield state
    stop()


@pytest.fixture(scope="module")
def profile():
    own = {
        "presets.paper.rpo_tau": 1.0,
        "presets.released.rpo_tau": 5.0,
        "presets.fixed.rpo_tau": 0.1,
    }
    return load_profile("smoke", sizes="small", seeds="0,1", taus="0.1,1.0", **own)


@pytest.fixture(scope="module", params=["tiny_t5", "tiny_llama"])
def reference(request, tmp_path_factory):
    model, tokenizer = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    # the fixture's weights are drawn large, and learning from there is slow
    if request.param == "tiny_t5":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = type(model)(
                type(model.config)(**model.config.to_dict() | {"initializer_factor": 1.0})
            )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
