"""Text and probabilities from any OpenAI-style endpoint, over HTTP, many requests at once.

What became of a request is always a `Completion` or `Scored`, if need be a failed one with a word of `PROBLEMS`:

    unreachable        no connection, or it broke before a reply began                          tried again
    timeout            no whole reply within `timeout` seconds, or status 408                   tried again
    rate limit         429; Retry-After is waited for, by all requests of the engine            tried again
    server error       5xx                                                                      tried again
    malformed          half a reply (tried again); other content than JSON, broken JSON, missing fields
    context overflow   an error status whose text says so
    refused            a content filter, as a status or as the reason for the end
    rejected           any other status, redirects among them: none is followed, so that no other host gets the key
    budget             never sent: with it `most_cost` could have been passed

Only what would fail every request alike raises a UserError: a server that does not answer the very first one, refuses
the key or knows no such model or interface, and an endpoint that cannot score.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

import httpx2

from camelid import recipe, spending
from camelid.engines import Ability, Choice, Completion, Prompt, Question, Request, Sampling, Scored, complain_of_engine
from camelid.engines.replies import (
    Reply,
    answer_logprobs,
    first_choice,
    is_about_logprobs,
    judge_response,
    read_completion,
    read_echo,
    read_likeliest,
    read_usage,
    redact,
    text_of,
)
from camelid.errors import UserError, raise_all
from camelid.rows import Message

CHAT, TEXT = "/chat/completions", "/completions"
CHARACTERS_PER_TOKEN = 4  # of English; what is told before a run and of replies without a count
TURN_TOKENS = 64  # more than a chat template adds to one turn
CONNECT_SECONDS = 10.0
FIRST_WAIT, MOST_WAIT = 0.5, 60.0  # seconds: upper end of the first pause between two tries, and of any
LONGEST_HOLD = 600.0  # seconds: a server that asks for a longer pause than this is not waited for
LIKELIEST = 5  # first tokens that are asked for with their log-probs; more than 5 is not given everywhere
AHEAD = 2  # requests handed to the threads for each thread: more would be paid for before the caller has kept them


A = TypeVar("A", Request, Question, Choice)
T = TypeVar("T", Completion, Scored)


@dataclass
class Ledger:
    """What an engine has asked and paid so far; `dataclasses.asdict` of it goes into the report.

    `requests` is all that was sent, of which `retries` were further tries. `problems` counts failed answers by word and
    `said` has the server's first message with each, without the key. Tokens of `guessed` replies, which named none, are
    characters / 4. `unsure` is the most that requests without a whole reply may have cost beside `cost`.
    """

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    unsure: float = 0.0
    guessed: int = 0
    problems: dict[str, int] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What requests will cost: `prompt_tokens` as `counted` ("characters / 4" or "tokenizer"), the rest at most."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    counted: str


class RemoteEngine:
    """An OpenAI-style endpoint as an engine; `values` are those of a recipe's [engine] table.

    Raw text goes to the completions interface, messages to the one `values.api` names; for the completions interface
    `lay_out` makes text of them (without a first token that the endpoint adds itself). The key is read from the
    environment for each request and kept nowhere. `count_tokens` makes estimates exact. `ledger` says what was used;
    `most_cost` holds for the run that is open, with all its engines and what it spent before it was resumed; without
    one, for this object. Log-probs are those the endpoint gives; token ids it does not tell. `can` has
    "score" for the completions interface until `probe` or the first question finds that the endpoint does not, and
    "choose" for the chat interface.
    Raises UserError for values that cannot work.
    """

    def __init__(
        self,
        values: recipe.Engine,
        *,
        cache: Any = None,
        lay_out: Callable[[tuple[Message, ...]], str] | None = None,
        count_tokens: Callable[[str], int] | None = None,
    ) -> None:
        url = _check(values)
        self.values, self.cache, self.ledger = values, cache, Ledger()
        self.can: frozenset[Ability] = frozenset(("sample", "score" if values.api == "completions" else "choose"))
        self.lay_out, self.count_tokens = lay_out, count_tokens
        host = url.netloc.decode()
        self.fingerprint = f"remote {host}{url.path.rstrip('/')} {values.name} {values.api}{_name_layout(lay_out)}"
        self._base, self._host = str(url).rstrip("/"), host
        self._client = httpx2.Client(
            auth=self._sign,
            follow_redirects=False,
            timeout=httpx2.Timeout(values.timeout, connect=min(values.timeout, CONNECT_SECONDS), pool=None),
            limits=httpx2.Limits(max_connections=values.concurrency),
        )
        self._spending = spending.current()
        self._pace, self._budget = _Pace(values.per_minute), _Budget(values.most_cost, self._spending)
        self._lock, self._random = threading.Lock(), random.Random()
        self._reached = self._echoes = False
        self._gives_logprobs = True  # until the endpoint says otherwise

    def __repr__(self) -> str:
        return f"RemoteEngine({self.fingerprint!r})"

    def probe(self) -> frozenset[Ability]:
        """`can`, after the endpoint was asked once whether it scores. Raises UserError when it cannot be reached."""
        if self.values.api == "completions":
            reply = self._ask(TEXT, self._echo_body("The sky is blue"), "The sky is blue", threading.Event())
            if reply.problem in ("", "rejected"):
                self._learn_echo(read_echo(reply.body) is not None)
        return self.can

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Completions as they come. Equal seeds and sample numbers are sent as equal seeds; it is the endpoint that
        makes equal completions of them, or not."""
        for request in requests:
            self._check_prompt(request.prompt)
        yield from self._answer_all(requests, self._complete)

    def logprobs(self, questions: Sequence[Question]) -> Iterator[tuple[int, Scored]]:
        """Scores as they come, from one request an answer. Prompt and answer are tokenised together by the endpoint.

        Raises UserError when it gives no log-probs of prompts, when prompt and answer do not part between two of its
        tokens, for an empty prompt or answer, and for `ended`: the end-of-turn token is not known here.
        """
        for question in questions:
            self._check_question(question)
        yield from self._answer_all(questions, self._score)

    def choose(self, choices: Sequence[Choice]) -> Iterator[tuple[int, Scored]]:
        """Scores of one-token answers as they come, each from one token that the chat interface makes.

        Its log-probs are of the 5 likeliest tokens; an answer that is none of them has -inf. Raises UserError when the
        endpoint tells no likeliest tokens.
        """
        yield from self._answer_all(choices, self._choose)

    def estimate(self, asked: Iterable[Request | Question | Choice]) -> Estimate:
        """What these will cost if all are sent, once: completions at their longest, in the price table's currency."""
        requests = prompt_tokens = completion_tokens = 0
        for one in asked:
            prompt, answers = _words(one.prompt), one.answers if isinstance(one, Question) else ("",)
            requests += len(answers)
            prompt_tokens += sum(self._count_tokens(prompt + answer) for answer in answers)
            completion_tokens += one.sampling.max_tokens if isinstance(one, Request) else len(answers)
        counted = "tokenizer" if self.count_tokens else f"characters / {CHARACTERS_PER_TOKEN}"
        cost = self._price(prompt_tokens, completion_tokens)
        return Estimate(requests, prompt_tokens, completion_tokens, cost, counted)

    def _answer_all(self, asked: Sequence[A], answer: Callable[[A, threading.Event], T]) -> Iterator[tuple[int, T]]:
        """(index, answer) as they are ready. The very first is asked alone: it shows whether the rest have a chance."""
        waiting, halt = iter(enumerate(asked)), threading.Event()
        under_way: dict[Future[T], int] = {}
        pool = ThreadPoolExecutor(self.values.concurrency, thread_name_prefix="camelid-remote")
        try:
            if not self._reached:
                yield from ((index, answer(one, halt)) for index, one in islice(waiting, 1))
            while True:
                for index, one in islice(waiting, AHEAD * self.values.concurrency - len(under_way)):
                    under_way[pool.submit(answer, one, halt)] = index
                if not under_way:
                    return
                for done in wait(under_way, return_when=FIRST_COMPLETED).done:
                    yield under_way.pop(done), done.result()
        finally:
            halt.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _complete(self, request: Request, halt: threading.Event) -> Completion:
        path, body = self._body_of(request)
        reply = self._ask(path, body, request.prompt, halt)
        return self._noted(*read_completion(reply, request.sampling))

    def _choose(self, choice: Choice, halt: threading.Event) -> Scored:
        path, body = self._body_of(Request(choice.prompt, Sampling(max_tokens=1, temperature=1.0)))
        if path != CHAT:
            raise UserError("an endpoint chooses in a conversation, and this prompt is raw text", "Give it messages.")
        reply = self._ask(path, body | {"logprobs": True, "top_logprobs": LIKELIEST}, choice.prompt, halt)
        likeliest = read_likeliest(reply.body)
        turned_down = reply.problem == "rejected" and "logprob" in reply.said.lower()
        if turned_down or (not reply.problem and likeliest is None):
            raise UserError(
                f"{self._host} tells no likeliest tokens (logprobs with top_logprobs)",
                "Take an endpoint that does, one with the completions interface and echo, or a local model.",
            )
        used = reply.prompt_tokens, reply.cost, reply.problem
        if likeliest is None:
            return self._noted(Scored((), *used), reply.said)
        return Scored(tuple((likeliest.get(answer, -math.inf),) for answer in choice.answers), *used)

    def _score(self, question: Question, halt: threading.Event) -> Scored:
        prompt = _words(self._laid_out(question.prompt))
        found, tokens, cost = [], 0, 0.0
        for answer in question.answers:
            one = self._score_answer(prompt, answer, halt)
            tokens, cost = tokens + one.prompt_tokens, cost + one.cost
            if one.problem:
                return Scored((), tokens, cost, one.problem)
            found += one.logprobs
        return Scored(tuple(found), tokens, cost)

    def _score_answer(self, prompt: str, answer: str, halt: threading.Event) -> Scored:
        reply = self._ask(TEXT, self._echo_body(prompt + answer), prompt + answer, halt)
        echo = read_echo(reply.body)
        if not echo:
            self._check_echo(reply)
        if not reply.problem and not echo:
            reply = replace(reply, problem="malformed", said="the reply has no log-probabilities of the prompt")
        if reply.problem or not echo:
            return self._noted(Scored((), reply.prompt_tokens, reply.cost, reply.problem), reply.said)
        try:
            values = answer_logprobs(echo, prompt, answer)
        except UserError as error:
            if not self._echoes:  # the first one shows what the endpoint is like
                raise
            return self._noted(Scored((), reply.prompt_tokens, reply.cost, "malformed"), error.what)
        self._learn_echo(True)
        return Scored((values,), reply.prompt_tokens, reply.cost)

    def _ask(self, path: str, body: dict[str, Any], prompt: Prompt, halt: threading.Event) -> Reply:
        """The last word on one request, after as many tries as it takes and may take."""
        worst = self._price(_most_tokens(prompt), body["max_tokens"])
        reply = Reply(problem="budget")
        for tried in range(self.values.retries + 1):
            if not self._budget.reserve(worst):
                return Reply(problem="budget")
            if not self._pace.wait(halt):
                self._budget.settle(worst)
                return Reply(problem="unreachable")
            reply = Reply(unsure=True)  # booked if the try ends in an exception: others may wait for its share
            try:
                reply = self._counted(self._send(path, body), prompt)
            finally:
                self._book(reply, worst, tried)
            if is_about_logprobs(reply, body):
                self._gives_logprobs = False
                return self._ask(path, {name: body[name] for name in body if name != "logprobs"}, prompt, halt)
            if not reply.again or reply.hold > LONGEST_HOLD or tried == self.values.retries:
                break
            self._rest(reply, tried, halt)
        self._check_first(reply, path)
        return reply

    def _send(self, path: str, body: dict[str, Any]) -> Reply:
        """One try."""
        deadline = time.monotonic() + self.values.timeout
        # ASCII escapes: a lone surrogate in a prompt is no valid UTF-8, but valid JSON
        content, headers = json.dumps(body).encode(), {"content-type": "application/json"}
        try:
            with self._client.stream("POST", self._base + path, content=content, headers=headers) as response:
                reply = judge_response(response, deadline)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            reply = Reply(problem="unreachable", said=str(error), again=True)
        except httpx2.TimeoutException as error:
            said = f"no reply within {self.values.timeout:g} s {error}".rstrip()
            reply = Reply(problem="timeout", said=said, again=True, unsure=True)
        except httpx2.TransportError as error:
            reply = Reply(problem="unreachable", said=str(error), again=True, unsure=True)
        return replace(reply, said=redact(reply.said, self._key()))

    def _sign(self, request: httpx2.Request) -> httpx2.Request:
        if key := self._key():
            request.headers["Authorization"] = f"Bearer {key}"
        return request

    def _key(self) -> str:
        """The key, or nothing: local servers want none. A bad one must not reach the client, whose errors quote it."""
        key = os.environ.get(self.values.key, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UserError(
                f"the environment variable {self.values.key} holds characters that no key has",
                "Set it again; take care that nothing else was copied with the key.",
            )
        return key

    def _rest(self, reply: Reply, tried: int, halt: threading.Event) -> None:
        """Exponential backoff with full jitter, on top of the pause the server asked for."""
        self._pace.hold(reply.hold)
        halt.wait(reply.hold + self._random.uniform(0.0, min(MOST_WAIT, FIRST_WAIT * 2 ** min(tried, 30))))

    def _counted(self, reply: Reply, prompt: Prompt) -> Reply:
        """The reply with its tokens and cost: as the endpoint counted, else as guessed."""
        if reply.body is None:
            return reply
        used = read_usage(reply.body.get("usage"))
        asked, made = used or (
            self._count_tokens(_words(prompt)),
            self._count_tokens(text_of(first_choice(reply.body)) or ""),
        )
        cost = self._price(asked, made)
        return replace(reply, prompt_tokens=asked, completion_tokens=made, cost=cost, guessed=used is None)

    def _book(self, reply: Reply, worst: float, tried: int) -> None:
        unsure = worst if reply.unsure else 0.0
        with self._lock:
            self.ledger.requests += 1
            self.ledger.retries += tried > 0
            self.ledger.prompt_tokens += reply.prompt_tokens
            self.ledger.completion_tokens += reply.completion_tokens
            self.ledger.cost += reply.cost
            self.ledger.unsure += unsure
            self.ledger.guessed += reply.guessed
        self._spending.add(
            requests=1, retries=int(tried > 0), prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens, cost=reply.cost, unsure=unsure,
        )  # fmt: skip
        self._budget.settle(worst)

    def _noted(self, answer: T, said: str) -> T:
        """The answer, its problem counted."""
        if answer.problem:
            self._spending.add(problem=answer.problem)
            with self._lock:
                self.ledger.problems[answer.problem] = self.ledger.problems.get(answer.problem, 0) + 1
                if said:
                    self.ledger.said.setdefault(answer.problem, redact(said, self._key()))
        return answer

    def _body_of(self, request: Request) -> tuple[str, dict[str, Any]]:
        """The interface that a request goes to and what is sent there."""
        prompt, body = self._laid_out(request.prompt), self._body(request.sampling, _seed_of(request))
        logprobs: dict[str, Any] = {}
        if self._gives_logprobs:
            logprobs = {"logprobs": 1 if isinstance(prompt, str) else True}
        if isinstance(prompt, str):
            return TEXT, body | logprobs | {"prompt": prompt}
        messages = [{"role": turn.role, "content": turn.content} for turn in prompt]
        return CHAT, body | logprobs | {"messages": messages}

    def _body(self, sampling: Sampling, seed: int) -> dict[str, Any]:
        """What both interfaces take. Values that change nothing are left out: some endpoints know no min_p or stop."""
        body: dict[str, Any] = {"model": self.values.name, "max_tokens": sampling.max_tokens, "seed": seed}
        body |= {"temperature": sampling.temperature, "stream": False}
        if sampling.top_p < 1:
            body["top_p"] = sampling.top_p
        if sampling.min_p > 0:
            body["min_p"] = sampling.min_p
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        return body

    def _learn_echo(self, echoes: bool) -> None:
        self._echoes = echoes
        if not echoes:
            self.can = frozenset(("sample",))

    def _echo_body(self, text: str) -> dict[str, Any]:
        # one token is made and dropped, because several servers do not take 0
        return self._body(Sampling(max_tokens=1), 0) | {"prompt": text, "echo": True, "logprobs": 1}

    def _laid_out(self, prompt: Prompt) -> Prompt:
        """Text for the completions interface, messages for the chat interface."""
        if isinstance(prompt, str) or self.lay_out is None or self.values.api == "chat":
            return prompt
        return self.lay_out(prompt)

    def _count_tokens(self, text: str) -> int:
        return self.count_tokens(text) if self.count_tokens else math.ceil(len(text) / CHARACTERS_PER_TOKEN)

    def _price(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.values.price_input + completion_tokens * self.values.price_output) / 1e6

    def _check_prompt(self, prompt: Prompt) -> None:
        if not isinstance(prompt, str) and self.values.api == "completions" and self.lay_out is None:
            raise UserError(
                "the completions interface takes text, and this prompt is messages",
                'Set engine.api to "chat", or give the engine a chat template (lay_out).',
            )

    def _check_question(self, question: Question) -> None:
        self._check_prompt(question.prompt)
        if not isinstance(question.prompt, str) and self.values.api == "chat":
            raise UserError(
                "an endpoint's chat interface gives no log-probabilities of given answers",
                'Set engine.api to "completions", or take a local model.',
            )
        if question.ended:
            raise UserError(
                "the end-of-turn token cannot be scored at an endpoint",
                "Score the bare answers, or take a local model.",
            )
        if not question.prompt or not all(question.answers):
            raise UserError("a prompt or an answer has no tokens", "Give it some text.")

    def _check_first(self, reply: Reply, path: str) -> None:
        """What the very first request shows of all others."""
        if self._reached:
            return
        said = f": {reply.said}" if reply.said else ""
        if reply.problem == "unreachable":
            raise UserError(f"cannot reach {self._base}{said}", "Start the server, or correct engine.url.")
        if reply.problem == "rejected" and reply.status in (401, 403):
            state = "set and was refused" if self._key() else "not set"
            fix = f"Put a valid key into the environment variable {self.values.key} (it is {state})."
            raise UserError(f"{self._host} did not accept the key{said}", fix)
        if reply.problem == "rejected" and reply.status == 404:
            fix = "Correct engine.name or engine.url, or try the other engine.api."
            raise UserError(f"{self._base}{path} does not exist or has no model {self.values.name}{said}", fix)
        self._reached = True

    def _check_echo(self, reply: Reply) -> None:
        """A reply without what scoring needs, before there was one with it, is the endpoint's way."""
        turned_down = reply.problem == "rejected" and re.search("echo|logprob", reply.said.lower())
        if not self._echoes and (not reply.problem or turned_down):
            self._learn_echo(False)
            raise UserError(
                f"{self._host} gives no log-probabilities of given text (echo with logprobs)",
                "Take an endpoint that does, such as vLLM's, or a local model; or sample instead.",
            )


def open_remote(engine: recipe.Engine, cache: Any = None) -> RemoteEngine:
    """The endpoint of a recipe; nothing is asked yet. Raises UserError for values that cannot work."""
    return RemoteEngine(engine, cache=cache)


class _Pace:
    """When the next request may leave: evenly spaced, and not before a time that the server has named."""

    def __init__(self, per_minute: int | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next, self._lock = 0.0, threading.Lock()

    def wait(self, halt: threading.Event) -> bool:
        """Wait for this request's turn; False when it is to be given up."""
        with self._lock:
            at = max(self._next, time.monotonic())
            self._next = at + self._gap
        return not halt.wait(max(0.0, at - time.monotonic()))

    def hold(self, seconds: float) -> None:
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class _Budget:
    """A cap that cannot be passed: a request leaves only if its worst case fits beside what is spent and under way."""

    def __init__(self, most: float | None, spent: spending.Spending) -> None:
        self._most, self._spent, self._held, self._under_way = most, spent, 0.0, 0
        self._closed, self._change = False, threading.Condition()

    def reserve(self, worst: float) -> bool:
        """Whether the request may leave. Those under way are waited for, as they mostly cost less than their worst;
        once one does not fit even so, none leaves any more."""
        if self._most is None:
            return True
        with self._change:
            while not self._closed and self._under_way and self._spent.cost + self._held + worst > self._most:
                self._change.wait()
            self._closed = self._closed or self._spent.cost + self._held + worst > self._most
            if not self._closed:
                self._under_way, self._held = self._under_way + 1, self._held + worst
            return not self._closed

    def settle(self, worst: float) -> None:
        """The request is over, and what it cost is booked."""
        if self._most is None:
            return
        with self._change:
            self._under_way -= 1
            self._held = self._held - worst if self._under_way else 0.0  # no rest of rounding stays
            self._change.notify_all()


def _check(values: recipe.Engine) -> httpx2.URL:
    """The endpoint's address; raises UserError for values that cannot work, all at once."""
    raise_all([UserError(*complaint) for complaint in complain_of_engine(values.model_copy(update={"kind": "remote"}))])
    return httpx2.URL(values.url)


def _name_layout(lay_out: Callable[[tuple[Message, ...]], str] | None) -> str:
    """For the fingerprint: what the layout makes of a short conversation."""
    if lay_out is None:
        return ""
    sample = lay_out((Message("user", "a"), Message("assistant", "b"), Message("user", "c")))
    return f" template {hashlib.sha256(sample.encode()).hexdigest()[:12]}"


def _seed_of(request: Request) -> int:
    """One seed for each sample of each seed: with a plain sum, sample 1 of seed 0 would be sample 0 of seed 1."""
    return (request.seed * 1_000_003 + request.sample) % 2**31


def _words(prompt: Prompt) -> str:
    """All text of a prompt, to be measured."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{turn.role}\n{turn.content}" for turn in prompt)


def _most_tokens(prompt: Prompt) -> int:
    """More tokens than any tokenizer makes of the prompt: one for each byte, and the template's."""
    turns = 0 if isinstance(prompt, str) else len(prompt)
    return len(_words(prompt).encode("utf-8", "surrogatepass")) + TURN_TOKENS * (1 + turns)
