"""The remote engine against a real server on loopback that counts what it is sent and behaves as it is told."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from camelid import recipe, runs
from camelid.engines import PROBLEMS, Choice, Completion, Question, Request, Sampling, Scored, key_of
from camelid.engines import remote as remote_module
from camelid.engines.cache import Cache
from camelid.engines.remote import AHEAD, RemoteEngine, open_remote
from camelid.errors import UserError
from camelid.report.costs import sum_spending
from camelid.rows import Message
from camelid.scoring import score, weigh
from camelid.spending import read_spending
from conftest import invoke

TLS = httpx2.create_ssl_context()


class Client(httpx2.Client):
    """One TLS set-up for all. A class, as modules that are loaded meanwhile name it in their annotations."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"verify": TLS, **options})


KEY = "sk-planted-0123456789-do-not-tell"
VARIABLE = "PLANTED_KEY"
GREEDY = Sampling()
HELLO = (Message("system", "Be short."), Message("user", "Hello?"))
SCRAPS = re.compile(r"\s?\w+|\W")  # the test server's tokens: words with the space before them


@dataclass(frozen=True)
class Act:
    """One reply: `claim` is a Content-Length that is not the body's, `drip` the seconds before each of its bytes."""

    body: Any = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    kind: str = "application/json"
    delay: float = 0.0
    claim: int | None = None
    drip: float = 0.0
    hang_up: bool = False


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: Any
    at: float = field(default_factory=time.monotonic)


class Endpoint:
    """A server; `act` says from the number of the request and its body what to reply."""

    def __init__(self) -> None:
        self.act: Callable[[int, Any], Act] = lambda number, body: chat("yes")
        self.seen: list[Seen] = []
        self.under_way = self.peak = 0
        self.lock = threading.Lock()
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.endpoint = self
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def take(self, seen: Seen) -> Act:
        with self.lock:
            self.seen.append(seen)
            number = len(self.seen) - 1
            self.under_way += 1
            self.peak = max(self.peak, self.under_way)
        act = self.act(number, seen.body)
        time.sleep(act.delay)
        with self.lock:
            self.under_way -= 1
        return act

    def close(self) -> None:
        """Stop; connections that are kept open end too."""
        self.server.shutdown()
        self.server.server_close()
        for connection in self.server.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    endpoint: Endpoint

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.connections: list[socket.socket] = []

    def get_request(self) -> Any:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is what several tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: the second would wait 40 ms for the first to be acknowledged
    server: _Server

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        content = self.rfile.read(length)
        if len(content) < length:  # the client was killed while it was sending
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        act = self.server.endpoint.take(Seen(self.path, headers, json.loads(content) if content else None))
        if act.hang_up:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = act.body if isinstance(act.body, bytes) else json.dumps(act.body).encode()
        self.send_response(act.status)
        self.send_header("Content-Type", act.kind)
        self.send_header("Content-Length", str(len(body) if act.claim is None else act.claim))
        for name, value in act.headers:
            self.send_header(name, value)
        self.end_headers()
        for piece in [body] if not act.drip else [body[place : place + 1] for place in range(len(body))]:
            time.sleep(act.drip)
            self.wfile.write(piece)
            if act.drip:
                self.wfile.flush()
        self.close_connection = act.claim is not None

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


def chat(text: Any, finish: Any = "stop", used: Any = (7, 3), **more: Any) -> Act:
    """A reply of the chat interface; `more` goes into the choice."""
    return Act(_with_usage({"choices": [{"message": {"content": text}, "finish_reason": finish, **more}]}, used))


def plain(text: str, finish: Any = "stop", used: Any = (7, 3), **more: Any) -> Act:
    """A reply of the completions interface."""
    return Act(_with_usage({"choices": [{"text": text, "finish_reason": finish, **more}]}, used))


def _with_usage(body: dict[str, Any], used: Any) -> dict[str, Any]:
    return body | {"usage": {"prompt_tokens": used[0], "completion_tokens": used[1]}} if used else body


def fault(status: int, message: str = "", **headers: str) -> Act:
    body = {"error": {"message": message}}
    return Act(body, status, tuple((name.replace("_", "-"), value) for name, value in headers.items()))


def echo(body: Any, first: str = "", split: Callable[[str], list[str]] = SCRAPS.findall) -> Act:
    """What an endpoint that scores replies: the log-prob of a token is minus its length, less its place / 1000."""
    tokens = ([first] if first else []) + split(body["prompt"]) + ["!"]
    values = [-len(token) - place / 1000 if place else None for place, token in enumerate(tokens)]
    told = {"tokens": tokens, "token_logprobs": values, "text_offset": [-1] * len(tokens)}
    return plain(body["prompt"] + "!", "length", (len(tokens) - 1, 1), logprobs=told)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _quick_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses; no proxy of the machine; no key but the planted one; one (unused) TLS set-up for all."""
    monkeypatch.setattr(httpx2, "Client", Client)
    monkeypatch.setattr(remote_module, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)


def remote(endpoint: Endpoint, **values: Any) -> RemoteEngine:
    settings = {"kind": "remote", "url": endpoint.url, "name": "m", "retries": 2, "key": VARIABLE, "timeout": 5.0}
    return open_remote(recipe.Engine(**{**settings, **values}))


def completions(engine: RemoteEngine, count: int = 1, sampling: Sampling = GREEDY) -> list[Completion]:
    """`count` samples of HELLO, in order."""
    found = dict(engine.complete([Request(HELLO, sampling, sample=number) for number in range(count)]))
    assert sorted(found) == list(range(count))
    return [found[index] for index in range(count)]


def after_hello(endpoint: Endpoint, *acts: Act) -> None:
    """The endpoint answers one request well, then acts so, the last act again and again."""
    endpoint.act = lambda number, body: chat("hello") if number == 0 else acts[min(number, len(acts)) - 1]


def second(endpoint: Endpoint, act: Act, **values: Any) -> tuple[Completion, int, RemoteEngine]:
    """What became of a request after a good one, and how often it was sent."""
    after_hello(endpoint, act)
    engine = remote(endpoint, **values)
    return completions(engine, 2)[1], len(endpoint.seen) - 1, engine


# what is sent, and what is read


def test_messages_go_to_the_chat_interface(endpoint: Endpoint) -> None:
    sampling = Sampling(20, 0.5, top_p=0.9, min_p=0.1, stop=("\n", "END"))
    endpoint.act = lambda number, body: chat("fine", logprobs={"content": [{"logprob": -0.5}, {"logprob": -1}]})
    found = dict(remote(endpoint).complete([Request(HELLO, sampling, seed=2, sample=5)]))
    assert found == {0: Completion("fine", "end", (), (-0.5, -1.0), 7, 3)}
    assert endpoint.seen[0].path == "/v1/chat/completions"
    assert endpoint.seen[0].body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello?"}],
        "max_tokens": 20,
        "temperature": 0.5,
        "top_p": 0.9,
        "min_p": 0.1,
        "stop": ["\n", "END"],
        "seed": 2_000_011,
        "stream": False,
        "logprobs": True,
    }


def test_raw_text_goes_to_the_completions_interface_as_it_is(endpoint: Endpoint) -> None:
    endpoint.act = lambda number, body: plain(" two", "length", logprobs={"token_logprobs": [-0.25]})
    found = dict(remote(endpoint).complete([Request("One,", Sampling(1))]))
    assert found == {0: Completion(" two", "length", (), (-0.25,), 7, 3)}
    assert endpoint.seen[0].path == "/v1/completions"
    body = {"model": "m", "prompt": "One,", "max_tokens": 1, "temperature": 0.0, "seed": 0, "logprobs": 1}
    assert endpoint.seen[0].body == body | {"stream": False}


def test_messages_are_laid_out_for_the_completions_interface(endpoint: Endpoint) -> None:
    values = recipe.Engine(kind="remote", url=endpoint.url, name="m", api="completions")

    def lay_out(messages: Sequence[Message]) -> str:
        return "".join(f"<{turn.role}>{turn.content}" for turn in messages)

    endpoint.act = lambda number, body: plain("ok")
    engine = RemoteEngine(values, lay_out=lay_out)
    assert next(engine.complete([Request(HELLO)]))[1].text == "ok"
    assert (endpoint.seen[0].path, endpoint.seen[0].body["prompt"]) == (
        "/v1/completions",
        "<system>Be short.<user>Hello?",
    )
    with pytest.raises(UserError, match="messages"):
        next(RemoteEngine(values).complete([Request(HELLO)]))
    other = RemoteEngine(values, lay_out=lambda messages: lay_out(messages) + "<assistant>")
    assert len({engine.fingerprint, other.fingerprint, RemoteEngine(values).fingerprint}) == 3


def test_every_sample_of_every_seed_has_its_own_seed(endpoint: Endpoint) -> None:
    asked = [Request(HELLO, seed=seed, sample=sample) for seed in (0, 1, 12_345) for sample in range(4)]
    list(remote(endpoint).complete(asked))
    seeds = [seen.body["seed"] for seen in endpoint.seen]
    assert len(set(seeds)) == len(asked)
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(("act", "stop"), [
    (chat("a", "stop"), "end"),
    (chat("a", "stop", stop_reason="\n"), "string"),
    (chat("a", "stop", stop_reason=2), "end"),
    (chat("a", "stop", stop_reason=None), "end"),
    (chat("a", "length"), "length"),
    (chat("a", "eos_token"), "end"),
    (chat("a", "stop_sequence"), "string"),
])  # fmt: skip
def test_why_a_completion_ended(endpoint: Endpoint, act: Act, stop: str) -> None:
    endpoint.act = lambda number, body: act
    [found] = completions(remote(endpoint), sampling=Sampling(stop=("\n",)))
    assert (found.text, found.stop, found.problem) == ("a", stop, "")


@pytest.mark.parametrize("told", [None, {}, [], 3, {"content": None}, {"content": [{"logprob": None}]},
    {"content": [1]}, {"token_logprobs": [-1, float("-inf")]}, {"token_logprobs": [-1, None]},
    {"token_logprobs": "no"}])  # fmt: skip
def test_logprobs_that_are_not_all_told_are_none(endpoint: Endpoint, told: Any) -> None:
    endpoint.act = lambda number, body: chat("a", logprobs=told)
    [found] = completions(remote(endpoint))
    assert (found.text, found.stop, found.logprobs) == ("a", "end", ())


@pytest.mark.parametrize("status", [400, 403, 422])
def test_an_endpoint_without_logprobs_is_asked_without_them(endpoint: Endpoint, status: int) -> None:
    unwanted = fault(status, "You are not allowed to request logprobs from this model")
    endpoint.act = lambda number, body: unwanted if "logprobs" in body else chat("fine")
    engine = remote(endpoint)
    assert [found.text for found in completions(engine, 3)] == ["fine"] * 3
    assert [("logprobs" in seen.body) for seen in endpoint.seen] == [True, False, False, False]
    assert (engine.ledger.problems, engine.ledger.retries) == ({}, 0)


def test_lone_surrogates_are_sent_and_never_come_back(endpoint: Endpoint) -> None:
    endpoint.act = lambda number, body: Act(b'{"choices":[{"text":"a\\ud800b","finish_reason":"stop"}]}')
    [(_, found)] = remote(endpoint, most_cost=1.0, price_input=1.0).complete([Request("x\ud800")])
    assert endpoint.seen[0].body["prompt"] == "x\ud800"
    assert found.text == "a?b"


# what goes wrong, one outcome each

OVERFLOWS = (
    '{"error": {"message": "This model\'s maximum context length is 4096 tokens. However, you requested 5000."}}',
    '{"error": {"message": "too long", "code": "context_length_exceeded"}}',
    '{"error": {"code": 400, "message": "the request exceeds the available context size. try increasing it"}}',
    '{"object": "error", "message": "The decoder prompt (length 9) is longer than the maximum model length of 8"}',
    '{"error": "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens", "error_type": "v"}',
)
ONCE = [
    *[(Act(text.encode(), 400), "context overflow") for text in OVERFLOWS],
    (Act(OVERFLOWS[2].encode(), 500), "context overflow"),
    (fault(413, "prompt is too long: 9 tokens > 8 maximum"), "context overflow"),
    (Act({"error": {"message": "filtered", "code": "content_filter"}}, 400), "refused"),
    (fault(403, "Your input was flagged by moderation"), "refused"),
    (chat("The first half of", "content_filter"), "refused"),
    (chat(None, "stop", message={"content": None, "refusal": "I cannot."}), "refused"),
    (fault(400, "max_tokens must be positive"), "rejected"),
    (fault(401, "key revoked"), "rejected"),
    (fault(403, "no access"), "rejected"),
    (fault(404, "model gone"), "rejected"),
    (fault(422, "unexpected field"), "rejected"),
    (Act(b"", 301, (("Location", "http://127.0.0.1:9/v1"),)), "rejected"),
    (Act(b'{"choices": [{"mess'), "malformed"),
    (Act(b"\xff\xfe{}"), "malformed"),
    (Act(b"[" * 100_000), "malformed"),
    (Act(b"<html>Welcome to the hotel</html>", kind="text/html"), "malformed"),
    (replace(chat("fine"), kind="text/plain"), "malformed"),
    (Act([1, 2]), "malformed"),
    (Act({}), "malformed"),
    (Act({"error": None, "choices": None}), "malformed"),
    (Act({"choices": []}), "malformed"),
    (Act({"choices": [{"finish_reason": "stop"}]}), "malformed"),
    (Act({"choices": [{"message": {"content": ["a"]}, "finish_reason": "stop"}]}), "malformed"),
    (chat("a", None), "malformed"),
    (chat("a", "abort"), "malformed"),
    (Act(b"", 204), "malformed"),
]  # fmt: skip
AGAIN = [
    (chat("late"), {"delay": 0.6}, "timeout"),
    (chat("late"), {"drip": 0.05}, "timeout"),
    (fault(408), {}, "timeout"),
    (fault(429, "slow down"), {}, "rate limit"),
    (fault(429, "the context length of all requests in this minute"), {}, "rate limit"),
    (fault(500, "oh"), {}, "server error"),
    (Act(b"<html>Bad gateway</html>", 502, kind="text/html"), {}, "server error"),
    (fault(503), {}, "server error"),
    (chat("fine"), {"hang_up": True}, "unreachable"),
    (chat("fine"), {"claim": 5000}, "malformed"),
]


@pytest.mark.parametrize(("act", "problem"), ONCE)
def test_outcomes_that_another_try_would_not_change(endpoint: Endpoint, act: Act, problem: str) -> None:
    found, sent, engine = second(endpoint, act)
    assert (found.stop, found.problem, sent) == ("failed", problem, 1)
    assert (engine.ledger.problems, engine.ledger.requests, engine.ledger.retries) == ({problem: 1}, 2, 0)
    assert list(engine.ledger.said) == [problem], "the server's words are kept"


@pytest.mark.parametrize(("act", "how", "problem"), AGAIN)
def test_outcomes_that_are_tried_again(endpoint: Endpoint, act: Act, how: dict[str, Any], problem: str) -> None:
    found, sent, engine = second(endpoint, replace(act, **how), timeout=0.3)
    assert (found.stop, found.text, found.problem, sent) == ("failed", "", problem, 3)
    assert (engine.ledger.problems, engine.ledger.requests, engine.ledger.retries) == ({problem: 1}, 4, 2)


def test_the_outcomes_are_those_of_the_protocol() -> None:
    tested = {problem for _, problem in ONCE} | {problem for _, _, problem in AGAIN}
    assert tested | {"budget"} == set(PROBLEMS), "budget has tests of its own"


def test_the_text_before_a_content_filter_is_kept(endpoint: Endpoint) -> None:
    found, _, engine = second(endpoint, chat("The first half of", "content_filter"), price_output=1e6)
    assert (found.text, found.cost, engine.ledger.cost) == ("The first half of", 3.0, 6.0)


@pytest.mark.parametrize("bad", [fault(500), fault(429), Act(hang_up=True), replace(chat("x"), claim=999)])
def test_a_try_that_succeeds_in_the_end(endpoint: Endpoint, bad: Act) -> None:
    after_hello(endpoint, bad, bad, chat("fine"))
    engine = remote(endpoint)
    assert completions(engine, 2)[1] == Completion("fine", "end", (), (), 7, 3)
    assert (len(endpoint.seen), engine.ledger.requests, engine.ledger.retries) == (4, 4, 2)
    assert engine.ledger.problems == {}


def test_a_server_that_goes_away(endpoint: Endpoint) -> None:
    engine = remote(endpoint)
    assert completions(engine)[0].text == "yes"
    endpoint.close()
    assert [found.problem for found in completions(engine, 3)] == ["unreachable"] * 3
    assert engine.ledger.problems == {"unreachable": 3}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.dictionaries(
    st.sampled_from(["message", "text", "content", "finish_reason", "logprobs", "tokens", "token_logprobs"]), ANYTHING
)
BODIES = ANYTHING | st.fixed_dictionaries({"choices": st.lists(FIELDS, max_size=2), "usage": ANYTHING})


@pytest.fixture
def engine(endpoint: Endpoint) -> RemoteEngine:
    return remote(endpoint, concurrency=1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BODIES)
def test_whatever_the_server_says_is_an_outcome(endpoint: Endpoint, engine: RemoteEngine, body: Any) -> None:
    endpoint.seen.clear()
    endpoint.act = lambda number, sent: echo(sent) if number == 0 and "echo" in sent else Act(body)
    [found] = completions(engine)
    assert (found.stop == "failed") == (found.problem in PROBLEMS)
    endpoint.seen.clear()
    scored = dict(engine.logprobs([Question("The sky is", (" blue",)), Question("The sky is", (" red",))]))
    assert scored[0].sums == [-5.003]
    assert scored[1].problem == "malformed"


# pauses


def gaps(endpoint: Endpoint) -> list[float]:
    return [later.at - earlier.at for earlier, later in zip(endpoint.seen, endpoint.seen[1:])]


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured_by_all_requests(endpoint: Endpoint, form: str) -> None:
    """A storm: the second request is told to wait; none of the six under way or to come may arrive before that."""
    pause = 0.5 if form == "seconds" else 2.0

    def act(number: int, body: Any) -> Act:
        if number != 1:
            return chat("fine")
        return fault(429, retry_after=str(pause) if form == "seconds" else formatdate(time.time() + pause, usegmt=True))

    endpoint.act = act
    engine = remote(endpoint, concurrency=1)
    assert [found.text for found in completions(engine, 6)] == ["fine"] * 6
    assert (len(endpoint.seen), engine.ledger.retries) == (7, 1)
    assert gaps(endpoint)[1] >= (pause if form == "seconds" else pause - 1.0)  # a date has whole seconds


def test_one_requests_pause_is_everyones(endpoint: Endpoint) -> None:
    endpoint.act = lambda number, body: fault(429, retry_after="0.6") if number == 1 else replace(chat("a"), delay=0.1)
    completions(remote(endpoint, concurrency=2), 6)
    told = endpoint.seen[1].at
    arrived = [seen.at - told for seen in endpoint.seen[2:]]
    assert [at for at in arrived if 0.25 < at < 0.59] == [], "those under way may finish, and nothing else is sent"


def test_a_pause_too_long_is_not_waited_for(endpoint: Endpoint) -> None:
    started = time.monotonic()
    found, sent, _ = second(endpoint, fault(429, retry_after="86400"))
    assert (found.problem, sent) == ("rate limit", 1)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("value", ["soon", "-3", "nan", "inf", "", "1e400", "Mon, 32 Foo 2020"])
def test_a_retry_after_that_is_none(endpoint: Endpoint, value: str) -> None:
    after_hello(endpoint, fault(429, retry_after=value), chat("fine"))
    assert completions(remote(endpoint), 2)[1].text == "fine"


def test_backoff_doubles_up_to_a_limit_with_full_jitter(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "FIRST_WAIT", 0.05)
    monkeypatch.setattr(remote_module, "MOST_WAIT", 0.15)
    drawn: list[tuple[float, float]] = []
    engine = remote(endpoint, retries=3)

    class Longest:
        def uniform(self, low: float, high: float) -> float:
            drawn.append((low, high))
            return high

    engine._random = Longest()  # type: ignore[assignment]
    after_hello(endpoint, fault(500))
    completions(engine, 2)
    assert drawn == [(0.0, 0.05), (0.0, 0.1), (0.0, 0.15)]
    assert [gap >= wait for gap, (_, wait) in zip(gaps(endpoint)[1:], drawn)] == [True] * 3


def test_pauses_are_not_drawn_from_the_global_generator(endpoint: Endpoint) -> None:
    state = random.getstate()
    second(endpoint, fault(500))
    assert random.getstate() == state


def test_requests_leave_evenly_within_the_minute(endpoint: Endpoint) -> None:
    """600 a minute is one each 0.1 s, further tries included, whatever the concurrency."""
    endpoint.act = lambda number, body: fault(500) if number == 2 else chat("fine")
    completions(remote(endpoint, per_minute=600, concurrency=8), 5)
    assert len(endpoint.seen) == 6
    assert endpoint.seen[-1].at - endpoint.seen[0].at >= 0.45
    assert min(gaps(endpoint)) > 0.05


# many at once


def test_as_many_are_under_way_as_may_be(endpoint: Endpoint) -> None:
    endpoint.act = lambda number, body: replace(chat("fine"), delay=0.1)
    completions(remote(endpoint, concurrency=3), 10)
    assert endpoint.peak == 3


def test_answers_come_as_they_are_ready(endpoint: Endpoint) -> None:
    endpoint.act = lambda number, body: replace(chat(str(body["seed"])), delay=0.5 if body["seed"] == 1 else 0.0)
    found = list(remote(endpoint).complete([Request(HELLO, sample=number) for number in range(4)]))
    assert [index for index, _ in found][-1] == 1
    assert all(completion.text == str(index) for index, completion in found)


def test_little_is_asked_ahead_of_a_slow_caller(endpoint: Endpoint) -> None:
    answers = remote(endpoint, concurrency=2).complete([Request(HELLO, sample=number) for number in range(50)])
    for taken in range(1, 6):
        next(answers)
        time.sleep(0.05)
        assert len(endpoint.seen) <= taken + 2 * AHEAD
    answers.close()
    time.sleep(0.1)
    assert len(endpoint.seen) <= 5 + 2 * AHEAD


def test_a_closed_generator_ends_pauses(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "FIRST_WAIT", 30.0)
    endpoint.act = lambda number, body: chat("fine") if number < 2 else fault(500, retry_after="30")
    answers = remote(endpoint, concurrency=2).complete([Request(HELLO, sample=number) for number in range(9)])
    next(answers), next(answers)
    answers.close()
    assert threads_end()


def threads_end() -> bool:
    """Whether the engine's threads end within five seconds."""
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("camelid-remote") for thread in threading.enumerate()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_an_exception_in_one_thread_lets_the_others_go(endpoint: Endpoint) -> None:
    """With room for one request at a time under the cap, another waits for the one whose tokens cannot be counted."""

    def count_tokens(text: str) -> int:
        raise ArithmeticError("no such token")

    endpoint.act = lambda number, body: chat("a") if number == 0 else replace(chat("b", used=None), delay=0.2)
    values = recipe.Engine(kind="remote", url=endpoint.url, name="m", price_output=1e6, most_cost=150.0)
    engine = RemoteEngine(values, count_tokens=count_tokens)
    with pytest.raises(ArithmeticError):
        completions(engine, 5, Sampling(100))
    assert threads_end()


def test_nothing_asked_is_nothing_sent(endpoint: Endpoint) -> None:
    assert list(remote(endpoint).complete([])) == []
    assert endpoint.seen == []


# the first request


def test_a_server_that_is_not_there(endpoint: Endpoint) -> None:
    endpoint.close()
    engine = remote(endpoint)
    with pytest.raises(UserError, match="cannot reach http") as raised:
        completions(engine, 5)
    assert "engine.url" in raised.value.fix
    assert (engine.ledger.requests, engine.ledger.retries) == (3, 2)


@pytest.mark.parametrize(("status", "what", "fix"), [
    (401, "did not accept the key", VARIABLE),
    (403, "did not accept the key", "not set"),
    (404, "has no model m", "engine.name"),
])  # fmt: skip
def test_what_would_fail_every_request_is_said_at_once(endpoint: Endpoint, status: int, what: str, fix: str) -> None:
    endpoint.act = lambda number, body: fault(status, "go away")
    with pytest.raises(UserError, match=what) as raised:
        completions(remote(endpoint), 5)
    assert fix in raised.value.fix
    assert "go away" in raised.value.what
    assert len(endpoint.seen) == 1


def test_the_first_is_asked_alone(endpoint: Endpoint) -> None:
    endpoint.act = lambda number, body: replace(chat("fine"), delay=0.2 if number == 0 else 0.0)
    completions(remote(endpoint), 4)
    assert gaps(endpoint)[0] >= 0.2


# the key


def other_host(endpoint: Endpoint, status: int) -> Act:
    return Act(b"", status, (("Location", f"http://localhost:{endpoint.server.server_port}/v1/chat/completions"),))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_carries_the_key_away(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    thief = Endpoint()
    try:
        endpoint.act = lambda number, body: other_host(thief, status)
        engine = remote(endpoint)
        assert [found.problem for found in completions(engine, 3)] == ["rejected"] * 3
        assert thief.seen == []
        assert f"localhost:{thief.server.server_port}" in engine.ledger.said["rejected"]
    finally:
        thief.close()


def everything_of(engine: RemoteEngine) -> str:
    return f"{engine!r} {engine} {vars(engine)!r} {engine.fingerprint} {asdict(engine.ledger)} {engine.values!r}"


@pytest.mark.parametrize("act", [
    chat("fine"),
    fault(400, f"bad request with {KEY}"),
    fault(400, "x" * (200 - len("status 400: ") - 10) + KEY),
    fault(500, f"crash of {KEY}"),
    chat("a", f"reason {KEY}"),
    Act(f"<html>{KEY}</html>".encode(), kind="text/html"),
    Act({"error": {"message": f"who is {KEY}"}}),
    Act(b"", 302, (("Location", f"http://127.0.0.1:9/?key={KEY}"),)),
    replace(chat("fine"), claim=999),
    Act(hang_up=True),
])  # fmt: skip
def test_the_key_is_sent_and_told_to_nobody_else(
    endpoint: Endpoint, act: Act, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, f" {KEY}\n")
    with caplog.at_level(logging.DEBUG):
        found, _, engine = second(endpoint, act)
    assert {seen.headers["authorization"] for seen in endpoint.seen} == {f"Bearer {KEY}"}
    assert any(record.name.startswith("http") for record in caplog.records), "the client's own log is looked at"
    # where the server itself puts the key into a header, only the client's debug log of headers has it
    lines = [record.getMessage() for record in caplog.records if "receive_response_headers" not in record.getMessage()]
    for text in (*lines, everything_of(engine), repr(found)):
        assert KEY[:10] not in text


def test_a_refused_key_is_not_quoted(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    endpoint.act = lambda number, body: fault(401, f"Incorrect API key provided: {KEY}.")
    with pytest.raises(UserError) as raised:
        completions(remote(endpoint))
    assert KEY not in f"{raised.value!r} {raised.value} {raised.value.__cause__!r}"
    assert "Incorrect API key" in raised.value.what
    assert "refused" in raised.value.fix


@pytest.mark.parametrize("key", [f"{KEY}\nX-Other: 1", f"{KEY}ü", f"{KEY}\x00"[:-1] + "\x7f"])
def test_a_key_that_is_none_is_neither_sent_nor_quoted(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(VARIABLE, key)
    with pytest.raises(UserError, match=VARIABLE) as raised:
        completions(remote(endpoint))
    error: BaseException | None = raised.value
    while error is not None:
        assert KEY not in f"{error!r} {error}"
        error = error.__cause__ or error.__context__
    assert endpoint.seen == []


def test_without_the_variable_no_key_is_sent(endpoint: Endpoint) -> None:
    completions(remote(endpoint))
    assert "authorization" not in endpoint.seen[0].headers


@pytest.mark.parametrize(("values", "what"), [
    ({"key": KEY}, "engine.key"),
    ({"url": f"http://user:{KEY}@host/v1"}, "engine.url"),
    ({"url": f"http://host/v1?key={KEY}"}, "engine.url"),
    ({"url": ""}, "engine.url"),
    ({"url": "host:8000/v1"}, "engine.url"),
    ({"url": "ftp://host/v1"}, "engine.url"),
    ({"url": "http://host\x00/v1"}, "engine.url"),
    ({"name": ""}, "engine.name"),
    ({"most_cost": 1.0}, "engine.most_cost"),
])  # fmt: skip
def test_values_that_cannot_work(endpoint: Endpoint, values: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what) as raised:
        remote(endpoint, **values)
    assert KEY not in str(raised.value)
    assert raised.value.fix


def test_the_fingerprint_names_host_path_model_and_interface(endpoint: Endpoint) -> None:
    host = endpoint.url.removeprefix("http://")
    assert remote(endpoint).fingerprint == f"remote {host} m chat"
    assert remote(endpoint, url=endpoint.url + "/", timeout=9).fingerprint == f"remote {host} m chat"
    others = [{"name": "n"}, {"api": "completions"}, {"url": endpoint.url + "/x"}, {"url": "http://127.0.0.1/v1"}]
    assert len({remote(endpoint, **other).fingerprint for other in others} | {f"remote {host} m chat"}) == 5


# money


def test_the_ledger_adds_up(endpoint: Endpoint) -> None:
    """Three replies of 7 + 3 tokens at 2 and 10 a million: 3 * (14 + 30) / 1e6; and one that failed three times."""
    endpoint.act = lambda number, body: fault(500, "oh") if body["seed"] == 2 else chat("fine")
    engine = remote(endpoint, price_input=2.0, price_output=10.0)
    found = completions(engine, 4)
    assert [completion.cost for completion in found] == pytest.approx([44e-6, 44e-6, 0, 44e-6])
    assert asdict(engine.ledger) == {
        "requests": 6,
        "retries": 2,
        "prompt_tokens": 21,
        "completion_tokens": 9,
        "cost": pytest.approx(132e-6),
        "unsure": 0.0,
        "guessed": 0,
        "problems": {"server error": 1},
        "said": {"server error": "status 500: oh"},
    }


@pytest.mark.parametrize("used", [None, [], "many", {"prompt_tokens": 5}, {"prompt_tokens": -5, "completion_tokens": 1},
    {"prompt_tokens": True, "completion_tokens": 1}, {"prompt_tokens": "7", "completion_tokens": 1}])  # fmt: skip
def test_tokens_that_are_not_told_are_guessed(endpoint: Endpoint, used: Any) -> None:
    """A prompt of 10 characters is 3 tokens and a reply of 4 is 1."""
    endpoint.act = lambda number, body: Act({"choices": [{"text": "nine", "finish_reason": "stop"}], "usage": used})
    engine = remote(endpoint, price_input=1e6, price_output=2e6)
    [(_, found)] = engine.complete([Request("0123456789")])
    assert (found.prompt_tokens, found.completion_tokens, found.cost) == (3, 1, 5.0)
    assert (engine.ledger.guessed, engine.ledger.cost) == (1, 5.0)


def test_the_estimate(endpoint: Endpoint) -> None:
    """10 characters are 3 tokens, with either answer (12 and 13) 3 and 4; a request makes 20 tokens at most, and an
    answer that is scored one: (10 tokens * 3 + 22 * 5) / 1e6."""
    asked = [Request("0123456789", Sampling(20)), Question("0123456789", ("ab", "abc"))]
    engine = remote(endpoint, price_input=3.0, price_output=5.0)
    estimate = engine.estimate(iter(asked))
    assert (estimate.requests, estimate.prompt_tokens, estimate.completion_tokens) == (3, 10, 22)
    assert estimate.cost == pytest.approx(140e-6)
    assert estimate.counted == "characters / 4"
    exact = RemoteEngine(engine.values, count_tokens=len).estimate(asked)
    assert (exact.prompt_tokens, exact.counted) == (35, "tokenizer")
    assert endpoint.seen == []


@pytest.mark.parametrize(("used", "sent"), [(100, 5), (25, 17), (0, 40)])
def test_the_cap_is_never_passed(endpoint: Endpoint, used: int, sent: int) -> None:
    """A request costs 1 at worst (100 tokens at 10,000 a million). With a cap of 5, five leave if each costs that; if
    each costs a quarter, the 17th is the last that fits (16 / 4 + 1 = 5); if they cost nothing, all leave."""
    endpoint.act = lambda number, body: replace(chat("a", used=(9, used)), delay=0.01)
    engine = remote(endpoint, price_output=1e4, most_cost=5.0, concurrency=8)
    found = completions(engine, 40, Sampling(100))
    assert len(endpoint.seen) == sent
    assert [completion.problem for completion in found].count("budget") == 40 - sent
    assert {completion.stop for completion in found if completion.problem} <= {"failed"}
    assert engine.ledger.cost == sent * used / 100 <= 5.0
    assert engine.ledger.problems.get("budget", 0) == 40 - sent
    assert endpoint.peak <= 5, "those under way count at their worst"


def test_once_one_does_not_fit_none_is_sent(endpoint: Endpoint) -> None:
    """Else short requests would be answered where long ones are not."""
    endpoint.act = lambda number, body: chat("a", used=(9, 100))
    engine = remote(endpoint, price_output=1e4, most_cost=5.0, concurrency=1)
    found = dict(engine.complete([Request(HELLO, Sampling(tokens)) for tokens in (100, 500, 100)]))
    assert [found[index].problem for index in range(3)] == ["", "budget", "budget"]
    assert len(endpoint.seen) == 1


def test_a_prompt_counts_at_one_token_a_byte(endpoint: Endpoint) -> None:
    """1000 characters that may be 4000 tokens, at 1 a token, against a cap of 3000: not sent, though it might fit."""
    engine = remote(endpoint, price_input=1e6, most_cost=3000.0)
    assert [found.problem for _, found in engine.complete([Request("😀" * 1000)])] == ["budget"]
    assert endpoint.seen == []


@pytest.mark.parametrize("how", [{"delay": 0.4}, {"claim": 999}, {"hang_up": True}, {"body": b"nonsense"}])
def test_what_may_have_been_charged_counts_against_the_cap(endpoint: Endpoint, how: dict[str, Any]) -> None:
    """Each try may have cost 1, though no reply says so; beside the first, which cost 1, a cap of 3.5 allows two."""
    after_hello(endpoint, replace(chat("late", used=(9, 100)), **how))
    first, endpoint_act = chat("hello", used=(9, 100)), endpoint.act
    endpoint.act = lambda number, body: first if number == 0 else endpoint_act(number, body)
    engine = remote(endpoint, price_output=1e4, most_cost=3.5, retries=9, timeout=0.2, concurrency=1)
    found = completions(engine, 5, Sampling(100))
    assert len(endpoint.seen) == 3
    assert (engine.ledger.cost, engine.ledger.unsure) == (1.0, 2.0)
    assert found[-1].problem == "budget"


def test_an_error_status_is_not_charged(endpoint: Endpoint) -> None:
    endpoint.act = lambda number, body: fault(500)
    engine = remote(endpoint, price_output=1e4, most_cost=1.5, concurrency=4)
    assert [found.problem for found in completions(engine, 5, Sampling(100))] == ["server error"] * 5
    assert engine.ledger.unsure == 0


def test_the_cap_holds_for_scores(endpoint: Endpoint) -> None:
    """A question of 11 bytes has at most 75 tokens; its 3 tokens and the made one are charged at 1 each."""
    endpoint.act = lambda number, body: echo(body)
    engine = remote(endpoint, api="completions", price_input=1e6, price_output=1e6, most_cost=80.0, concurrency=1)
    by_index = dict(engine.logprobs([Question("The sky", (" is",))] * 4))
    found = [by_index[index] for index in range(4)]
    assert [scored.problem for scored in found] == ["", "", "budget", "budget"]
    assert [scored.cost for scored in found] == [4.0, 4.0, 0, 0]


# scores


def scores(endpoint: Endpoint, *questions: Question, **values: Any) -> list[Scored]:
    found = dict(remote(endpoint, api="completions", **values).logprobs(questions))
    return [found[index] for index in range(len(questions))]


def test_scores_are_those_of_the_answers_tokens(endpoint: Endpoint) -> None:
    """Tokens "The", " sky", " is", then " blue" at place 3 and " green", " ish" at 3 and 4."""
    endpoint.act = lambda number, body: echo(body)
    [found] = scores(endpoint, Question("The sky is", (" blue", " green ish")), price_input=1e6)
    assert found == Scored(((-5.003,), (-6.003, -4.004)), 9, 9.0)
    assert [seen.body["prompt"] for seen in endpoint.seen] == ["The sky is blue", "The sky is green ish"]
    assert {seen.path for seen in endpoint.seen} == {"/v1/completions"}
    body = endpoint.seen[0].body
    assert (body["echo"], body["max_tokens"], body["logprobs"], body["temperature"]) == (True, 1, 1, 0.0)


@pytest.mark.parametrize("prompt", ["The sky is", "The 😀 is", "The sky is\n"])
def test_a_first_token_or_half_characters_do_not_shift_the_answer(endpoint: Endpoint, prompt: str) -> None:
    """An endpoint that puts a token in front which is in no text, and gives an emoji as two halves."""

    def split(text: str) -> list[str]:
        return [part for token in SCRAPS.findall(text) for part in (["\ufffd"] * 2 if token == "😀" else [token])]

    endpoint.act = lambda number, body: echo(body, "<|begin|>", split)
    [found] = scores(endpoint, Question(prompt, (" green ish",)))
    assert [round(-value) for value in found.logprobs[0]] == [6, 4]


def test_an_answer_of_half_characters(endpoint: Endpoint) -> None:
    endpoint.act = lambda number, body: echo(body, "<|begin|>", lambda text: ["The", " sky", "\ufffd", "\ufffd", "."])
    [found] = scores(endpoint, Question("The sky", ("😀.",)))
    assert found.logprobs == ((-1.003, -1.004, -1.005),)


def test_no_token_is_made_behind_the_answer(endpoint: Endpoint) -> None:
    """An endpoint that counts no made token has given none: the answer's last token is not lost."""

    def act(number: int, body: Any) -> Act:
        told = {"tokens": ["The", " sky"], "token_logprobs": [None, -2.5]}
        return plain("The sky", used=(2, 0), logprobs=told)

    endpoint.act = act
    assert scores(endpoint, Question("The", (" sky",)))[0].logprobs == ((-2.5,),)


def test_a_wrong_count_of_made_tokens_lengthens_no_answer(endpoint: Endpoint) -> None:
    told = {"tokens": ["The", " sky", "!"], "token_logprobs": [None, -2.5, -1.0]}
    endpoint.act = lambda number, body: plain("The sky!", used=(2, 0), logprobs=told)
    with pytest.raises(UserError, match="do not part"):
        scores(endpoint, Question("The", (" sky",)))


@pytest.mark.parametrize(("prompt", "answer"), [("The sky is ", "blue"), ("The sk", "y"), ("The sky is b", "lue")])
def test_a_boundary_inside_a_token_is_an_error(endpoint: Endpoint, prompt: str, answer: str) -> None:
    endpoint.act = lambda number, body: echo(body)
    with pytest.raises(UserError, match="do not part between two") as raised:
        scores(endpoint, Question(prompt, (answer,)))
    assert repr(answer) in raised.value.what


@pytest.mark.parametrize("act", [
    plain("!", logprobs={"tokens": ["!"], "token_logprobs": [-1.0]}, used=(3, 1)),
    plain("The sky is blue!", logprobs=None),
    plain("!"),
    plain("!", logprobs={"content": [{"token": "!", "logprob": -1.0}]}),
    fault(400, "echo is not supported"),
])  # fmt: skip
def test_an_endpoint_that_cannot_score(endpoint: Endpoint, act: Act) -> None:
    endpoint.act = lambda number, body: act
    assert remote(endpoint, api="completions").probe() == {"sample"}
    engine = remote(endpoint, api="completions")
    assert "score" in engine.can, "nothing was asked yet"
    with pytest.raises(UserError, match="gives no log-probabilities") as raised:
        score(engine, [Question("The sky is", (" blue",))])
    assert raised.value.fix
    assert engine.can == {"sample"}


def test_what_an_endpoint_can(endpoint: Endpoint) -> None:
    endpoint.act = lambda number, body: echo(body)
    engine = remote(endpoint, api="completions")
    assert engine.can == {"sample", "score"}
    assert endpoint.seen == [], "a run whose answers are all cached needs no server"
    assert engine.probe() == {"sample", "score"}
    assert len(endpoint.seen) == 1
    assert remote(endpoint).can == remote(endpoint).probe() == {"sample", "choose"}
    assert len(endpoint.seen) == 1, "the chat interface has nothing to ask for"
    endpoint.close()
    with pytest.raises(UserError, match="cannot reach"):
        remote(endpoint, api="completions").probe()


def test_a_score_that_fails_says_why(endpoint: Endpoint) -> None:
    endpoint.act = lambda number, body: fault(400, "maximum context length") if number == 2 else echo(body)
    found = scores(endpoint, Question("The", (" sky",)), Question("The", (" sky", " sea")), concurrency=1)
    assert found == [Scored(((-4.001,),), 2), Scored((), 2, problem="context overflow")]


@pytest.mark.parametrize(("question", "what"), [
    (Question("The", (" sky",), ended=True), "end-of-turn"),
    (Question("", ("sky",)), "no tokens"),
    (Question("The", ("", " sky")), "no tokens"),
    (Question(HELLO, (" sky",)), "messages"),
])  # fmt: skip
def test_what_cannot_be_scored_is_said_before_anything_is_sent(
    endpoint: Endpoint, question: Question, what: str
) -> None:
    endpoint.act = lambda number, body: echo(body)
    with pytest.raises(UserError, match=what):
        scores(endpoint, Question("The", (" sky",)), question)
    assert endpoint.seen == []


def test_messages_are_scored_as_they_are_laid_out(endpoint: Endpoint) -> None:
    endpoint.act = lambda number, body: echo(body)
    values = recipe.Engine(kind="remote", url=endpoint.url, name="m", api="completions")
    engine = RemoteEngine(values, lay_out=lambda messages: f"{messages[-1].content} Answer:")
    assert next(engine.logprobs([Question(HELLO, (" yes",))]))[1].logprobs == ((-4.004,),)
    assert endpoint.seen[0].body["prompt"] == "Hello? Answer: yes"
    with pytest.raises(UserError, match="chat interface"):
        next(remote(endpoint).logprobs([Question(HELLO, (" yes",))]))


def test_an_answer_at_the_very_start_has_no_logprob(endpoint: Endpoint) -> None:
    def act(number: int, body: Any) -> Act:
        return plain("xy!", used=(1, 1), logprobs={"tokens": ["", "y", "!"], "token_logprobs": [None, None, -1.0]})

    endpoint.act = act
    with pytest.raises(UserError, match="first token"):
        scores(endpoint, Question("x", ("y",)))


# killed and started again

JOB = """
import json, sys
from pathlib import Path
from camelid import recipe
from camelid.engines.cache import Cache
from camelid.engines.remote import open_remote
from camelid.sampling import sample

engine = open_remote(recipe.Engine(kind="remote", url=sys.argv[1], name="m"), Cache(Path(sys.argv[2])))
found = sample(engine, [f"question {number}" for number in range(int(sys.argv[3]))])
print(json.dumps([completion.text for [completion] in found]))
"""


def test_a_killed_job_never_asks_again_for_what_it_has(endpoint: Endpoint, tmp_path: Path) -> None:
    """Five times killed at a random moment of 500 requests; only those under way at that moment are sent again."""
    draw, count = random.Random(0), 500
    cache = Cache(tmp_path / "answers.sqlite")
    endpoint.act = lambda number, body: replace(plain(body["prompt"].replace("question", "answer")), delay=0.003)
    engine = remote(endpoint)  # of the job's fingerprint
    keys = {f"question {number}": key_of(engine, Request(f"question {number}")) for number in range(count)}
    command = [sys.executable, "-c", JOB, endpoint.url, str(cache.path), str(count)]
    done: set[str] = set()
    for _ in range(5):
        start = len(endpoint.seen)
        job = subprocess.Popen(command, stdout=subprocess.PIPE)
        until = start + draw.randint(1, 90)
        while len(endpoint.seen) < until and job.poll() is None:
            time.sleep(0.001)
        job.kill()
        job.communicate()
        assert not {seen.body["prompt"] for seen in endpoint.seen[start:]} & done
        found = cache.get(list(keys.values()))
        done = {prompt for prompt, key in keys.items() if key in found}
    start = len(endpoint.seen)
    last = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {seen.body["prompt"] for seen in endpoint.seen[start:]} & done
    assert 50 < len(done) < count
    assert len(endpoint.seen) <= count + 5 * (AHEAD + 1) * 8
    assert json.loads(last.stdout) == [f"answer {number}" for number in range(count)]


def test_the_engine_loads_no_torch() -> None:
    code = (
        "import sys, camelid.engines.remote, camelid.engines.cache, camelid.engines.scripted;"
        "print(*{'torch', 'transformers', 'sklearn'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == ""


@pytest.mark.parametrize("key", [
    "a3f8c1d2e4b5968778695a4b3c2d1e0f", "sk-abc", "ABCDEF0123456789ABCDEF", "my_key", "lower"
])  # fmt: skip
def test_what_may_be_a_key_itself_is_refused_before_anything_is_written(key: str, tmp_path: Path) -> None:
    """Not even where a key looks like the name of a variable; neither folder nor message holds it."""
    rows = [{"text": f"a sentence {n}", "topic": str(n % 2)} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--kind", "remote", "--url", "http://localhost:1/v1", "--name", "m", "--set", f"engine.key={key}"]
    result = invoke("run", "oral-history", "--data", tmp_path / "rows.jsonl", *options, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "engine.key is not the name" in result.output
    assert key not in result.output
    assert not (tmp_path / "run").exists()


def test_a_cap_holds_over_engines_and_resumes_of_a_run(endpoint: Endpoint, tmp_path: Path) -> None:
    """Each reply costs 1; the run may spend 5. Two engines and a resume share that, and the report has the sum."""
    endpoint.act = lambda number, body: plain("fine", used=(500_000, 500_000))
    prices = {"price_input": 1.0, "price_output": 1.0, "most_cost": 5.0, "concurrency": 1}

    def ask(count: int, first: int) -> int:
        engine = remote(endpoint, **prices)
        asked = [Request(f"text {first + at}", Sampling(max_tokens=1)) for at in range(count)]
        return sum(not found.problem for _, found in engine.complete(asked))

    with runs.open_run(tmp_path / "r", recipe=recipe.Recipe(), method="ls-llama", command=["x"]):
        assert (ask(2, 0), ask(1, 2)) == (2, 1)
    with runs.reopen_run(tmp_path / "r"):
        assert ask(6, 3) == 2
    assert len(endpoint.seen) == 5
    told = dict(sum_spending(read_spending(tmp_path / "r" / "spending.jsonl")))
    assert told["requests"] == "5"
    assert told["cost by the prices"] == "5.00"
    assert told["failed: budget"] == "4"
    assert ask(6, 9) == 5, "outside a run a cap is that of the engine"


def likely(**logprobs: float) -> Act:
    """A chat reply that tells its likeliest first tokens."""
    told = [{"token": token, "logprob": value} for token, value in logprobs.items()]
    first = max(logprobs, key=logprobs.__getitem__)
    return chat(first, logprobs={"content": [{"token": first, "logprob": logprobs[first], "top_logprobs": told}]})


def test_a_chat_endpoint_chooses_by_its_likeliest_tokens(endpoint: Endpoint, tmp_path: Path) -> None:
    """One token is made at temperature 1 and five are told; what is not among them has -inf; nothing is asked twice."""
    endpoint.act = lambda number, body: likely(m=-0.1, M=-2.5, A=-4.0)
    engine = remote(endpoint)
    engine.cache = Cache(tmp_path / "answers.sqlite")
    for _ in range(2):
        (found,) = weigh(engine, [Choice(HELLO, ("m", "M", "x"))])
        assert found.sums == [-0.1, -2.5, -math.inf]
    (seen,) = endpoint.seen
    assert seen.path == "/v1/chat/completions"
    assert {name: seen.body[name] for name in ("max_tokens", "temperature", "logprobs", "top_logprobs")} == {
        "max_tokens": 1, "temperature": 1.0, "logprobs": True, "top_logprobs": 5
    }  # fmt: skip
    estimate = engine.estimate([Choice(HELLO, ("m", "M"))])
    assert (estimate.requests, estimate.completion_tokens) == (1, 1)


@pytest.mark.parametrize("act", [
    chat("m"), chat("m", logprobs={"content": [{"token": "m", "logprob": -0.1}]}),
    chat("m", logprobs={"content": [{"token": "m", "logprob": -0.1, "top_logprobs": [{"token": "m"}]}]}),
    Act({"error": {"message": "logprobs are not supported"}}, status=400),
])  # fmt: skip
def test_an_endpoint_that_tells_no_likeliest_tokens(endpoint: Endpoint, act: Act) -> None:
    endpoint.act = lambda number, body: act
    with pytest.raises(UserError, match="tells no likeliest tokens"):
        weigh(remote(endpoint), [Choice(HELLO, ("m", "M"))])
    assert len(endpoint.seen) == 1


def test_a_choice_that_fails_says_why(endpoint: Endpoint) -> None:
    endpoint.act = lambda number, body: Act({"error": {"message": "maximum context length"}}, status=400)
    (found,) = weigh(remote(endpoint), [Choice(HELLO, ("m", "M"))])
    assert (found.problem, found.logprobs) == ("context overflow", ())
    with pytest.raises(UserError, match="raw text"):
        weigh(remote(endpoint), [Choice("raw", ("m", "M"))])
