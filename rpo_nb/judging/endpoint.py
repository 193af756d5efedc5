"""A judge behind any OpenAI-compatible server. The server is a stranger: its replies are bounded,
checked, and never followed.

    judge = llm_judges.build("server", LLMJudge(kind="endpoint", model="m",
    url="http://localhost:8000/v1"))

A request takes at most `timeout` seconds from its first byte to its last, a question at most
`timeout` · (`retries` + 1). A body is at most `MOST_BYTES`, uncompressed. A redirect is refused:
another host would read the completions, and the key.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import as_completed
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from rpo_nb.config.keys import content_key
from rpo_nb.config.names import check_address
from rpo_nb.config.schema import LLMJudge
from rpo_nb.judging.language_models import (
    FAILED,
    LONG,
    NEITHER,
    OFF,
    LanguageModelJudge,
    Question,
    Reply,
    question_text,
    reply_to,
)
from rpo_nb.running.provenance import step_code

LISTED = (
    20,
    5,
    0,
)  # top_logprobs asked of a server, the most first: some list 5 at most, some none
REPLY_TOKENS = 4  # of a server: "A" and its end token, and enough to see that there is more
GIVE_UP = 3  # failures in a row, each after its retries, until a server counts as dead
MOST_BYTES = 1 << 20  # of a reply; 20 listed tokens with all that servers add are a few kB
TOO_LONG = f"a reply of more than {MOST_BYTES >> 20} MiB"
RULES = 2  # raised when the same reply would be read as another verdict
HERE = ("localhost", "127.0.0.1", "::1")
LETTERS = {"A": "first", "B": "second"}


class EndpointJudge(LanguageModelJudge):
    """A model behind a server: vLLM, Ollama, llama.cpp, `transformers serve`, a paid service.

    The official client asks, `concurrency` questions at a time, and repeats after 429, 5xx and
    time-outs with its own growing delay. The verdict is `read_response`'s. The key is read from
    OPENAI_API_KEY, written nowhere, and sent only to this machine, api.openai.com and the host of
    OPENAI_BASE_URL: a profile cannot send it elsewhere. Raises ValueError for an empty url, a
    missing client, a refused key, a redirect, a model that the server does not know.
    """

    again = (FAILED, LONG)  # a server may be started again with a longer context

    def __init__(self, name: str, settings: LLMJudge) -> None:
        super().__init__(name, settings)
        check_address(f"evaluation.llm_judges.{name}.url", settings.url)
        try:
            import openai  # noqa: F401
        except ImportError:
            raise ValueError(
                f"judge {name!r} asks a server, and the client openai is not installed; pip "
                "install openai"
            ) from None
        self._why, self._level, self._dead = "", 0, False

    @property
    def identity(self) -> str:
        """Address and name, and the code that asks; what the server runs under that name is the
        user's to know."""
        return content_key(
            [
                "endpoint",
                RULES,
                self.settings.url,
                self.settings.model,
                LISTED,
                REPLY_TOKENS,
                step_code("endpoint judge"),
            ]
        )

    def _failure(self) -> str:
        return (
            f"the server at {self.settings.url} failed ({self._why}); start it, or wait for "
            "it, and run again"
        )

    def _ask(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Reply]]:
        """Questions run in an event loop of their own, where each can be ended at its deadline
        whatever the server does.
        """
        self._dead, failures, loop = False, 0, asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        client, turns = self._client(), asyncio.Semaphore(self.settings.concurrency)
        try:
            waiting = {
                asyncio.run_coroutine_threadsafe(self._one(client, turns, question), loop): question
                for question in questions
            }
            for done in as_completed(waiting):
                reply = done.result()
                failures = failures + 1 if reply.note == FAILED else 0
                self._dead = self._dead or failures >= GIVE_UP
                yield waiting[done], reply
        finally:  # a refused key, Ctrl-C: nothing more is asked
            self._dead = True
            asyncio.run_coroutine_threadsafe(_close(client), loop).result(timeout=10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _client(self) -> Any:
        import openai

        hooks = {"request": [self._begin], "response": [self._bound]}
        transport = openai.DefaultAsyncHttpxClient(
            follow_redirects=False, event_hooks=hooks, timeout=self.settings.timeout
        )
        return openai.AsyncOpenAI(
            base_url=self.settings.url,
            api_key=_key(self.settings.url),
            http_client=transport,
            timeout=self.settings.timeout,
            max_retries=self.settings.retries,
        )

    async def _begin(self, request: Any) -> None:
        request.extensions["deadline"] = time.monotonic() + self.settings.timeout
        request.headers["Accept-Encoding"] = (
            "identity"  # a compressed body would grow after it was counted
        )

    async def _bound(self, response: Any) -> None:
        http = sys.modules[
            type(response).__module__.partition(".")[0]
        ]  # httpx, or what newer clients ask with
        response.stream = _bounded(response.stream, response.request.extensions["deadline"], http)
        response.headers.pop(
            "content-encoding", None
        )  # nothing is unpacked, whatever the server says

    async def _one(self, client: Any, turns: asyncio.Semaphore, question: Question) -> Reply:
        """The reply to one question; FAILED once the server is dead."""
        async with turns:
            try:
                return await asyncio.wait_for(
                    self._reply(client, question),
                    self.settings.timeout * (self.settings.retries + 1),
                )
            except asyncio.TimeoutError:
                self._why = "timed out"
                return Reply(None, note=FAILED)

    async def _reply(self, client: Any, question: Question) -> Reply:
        import openai

        text, where = question_text(question), f"judge {self.name!r}: {self.settings.url}"
        while not self._dead:
            level = self._level
            listing = {"logprobs": True, "top_logprobs": LISTED[level]} if LISTED[level] else {}
            try:
                response = await client.chat.completions.create(
                    model=self.settings.model,
                    messages=[{"role": "user", "content": text}],
                    temperature=0,
                    max_tokens=REPLY_TOKENS,
                    **listing,
                )
                return read_response(response)
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise ValueError(
                    f"{where} refuses the key ({error.status_code}); {_remedy(self.settings.url)}"
                ) from None
            except openai.NotFoundError:
                raise ValueError(
                    f"{where} does not know the model {self.settings.model!r} or the address "
                    "(404); check model and "
                    f"url of evaluation.llm_judges.{self.name} (a url mostly ends in /v1)"
                ) from None
            except openai.APIStatusError as error:
                if error.status_code in range(300, 400):
                    raise ValueError(
                        f"{where} sends us to another address ({error.status_code}), where nothing "
                        "was sent; give "
                        f"the final address as evaluation.llm_judges.{self.name}.url if you trust "
                        "it"
                    ) from None
                if (
                    error.status_code in (400, 413, 422)
                    and "logprobs" not in str(error.message)
                    and re.search(
                        r"context|too long|maximum|exceed", str(error.message), re.IGNORECASE
                    )
                ):
                    return Reply(None, note=LONG)
                if listing and (
                    error.status_code in (400, 422) or "logprobs" in str(error.message)
                ):
                    self._level = max(
                        self._level, level + 1
                    )  # it does not list so many, or none at all
                    continue
                self._why = f"{error.status_code}"
            except openai.APIConnectionError as error:
                self._why = (
                    "timed out" if isinstance(error, openai.APITimeoutError) else "no connection"
                )
                if str(error.__cause__) == TOO_LONG:
                    self._why = TOO_LONG
            except (
                openai.OpenAIError,
                ValueError,
                AttributeError,
                LookupError,
                TypeError,
                RecursionError,
                OverflowError,
            ):
                self._why = "its reply is not the API's"
            return Reply(None, note=FAILED)
        return Reply(None, note=FAILED)


def _bounded(stream: Any, deadline: float, http: Any) -> Any:
    """A response's stream that ends in an error at its deadline (the client times out a read, not
    a body) or after MOST_BYTES.
    """

    class Bounded(http.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            size, parts = 0, aiter(stream)
            while True:
                try:
                    part = await asyncio.wait_for(
                        anext(parts), max(0.0, deadline - time.monotonic())
                    )
                except StopAsyncIteration:
                    return
                except asyncio.TimeoutError:
                    raise http.ReadTimeout("the body does not end") from None
                size += len(part)
                if size > MOST_BYTES:
                    raise http.ReadError(TOO_LONG)
                yield part

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()


async def _close(client: Any) -> None:
    """End what is still asked, then the connections."""
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await client.close()


def _trusted(url: str) -> bool:
    """Whether the user, not the profile, chose the host that the key goes to."""
    address, own = urlsplit(url), urlsplit(os.environ.get("OPENAI_BASE_URL", ""))
    if address.hostname in HERE:
        return True
    chosen = [("https", "api.openai.com", None), (own.scheme, own.hostname, own.port)]
    return (address.scheme, address.hostname, address.port) in chosen


def _key(url: str) -> str:
    """The user's key where it may go, else a word that is none."""
    return os.environ.get("OPENAI_API_KEY") or "none" if _trusted(url) else "none"


def _remedy(url: str) -> str:
    if _trusted(url):
        return "set OPENAI_API_KEY to a valid one and run again"
    host = urlsplit(url)
    return (
        "your key goes only where you say so: set "
        f"OPENAI_BASE_URL={host.scheme}://{host.netloc} and OPENAI_API_KEY, and run again"
    )


def _listed(token: Any) -> tuple[str, float]:
    """A listed token without its leading space, and its log-probability. Raises ValueError or
    TypeError for what is none.
    """
    value = token.logprob
    if isinstance(value, bool) or math.isnan(value) or value > 0:
        raise ValueError(f"the log-probability {value!r} is none")
    return token.token.strip().strip("Ġ▁"), float(value)


def read_response(response: Any) -> Reply:
    """The verdict of a chat completion.

    From the listed log-probabilities of the first token where both letters are listed: log Σ
    P("A") − log Σ P("B"). Else from the text, which must be exactly "A" or "B" and must not
    contradict the list; else none. Raises AttributeError, LookupError, OverflowError, TypeError
    or ValueError for what is no completion.
    """
    choice = response.choices[0]
    first = (choice.logprobs.content if choice.logprobs else None) or []
    listed = [_listed(token) for token in (first[0].top_logprobs if first else None) or []]
    sums = [
        [p for token, p in listed if token == letter and math.isfinite(p)] for letter in LETTERS
    ]
    likeliest = max(listed, key=lambda token: token[1])[0] if listed else ""
    if all(sums):
        a, b = (float(np.logaddexp.reduce(p)) for p in sums)
        return reply_to(a - b, "" if likeliest in LETTERS else OFF)
    text = (choice.message.content or "").strip()
    choice = LETTERS.get(text) if likeliest in (text, "") else None
    return Reply(choice, None, "" if choice else NEITHER)
