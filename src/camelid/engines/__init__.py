"""Where text and probabilities come from: one small protocol, several engines behind it.

An engine answers two kinds of question. A `Request` asks for one completion of a prompt; a `Question` asks how likely
given answers are after a prompt. `sampling.sample` and `scoring.score` ask them for many rows and own caching, order
and progress; an engine knows none of these. This module imports no torch, so that remote runs start at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

from camelid import recipe
from camelid.errors import UserError
from camelid.progress import track
from camelid.rows import PASSING, Prompt

Stop = Literal["end", "string", "length", "failed"]
SHORT_NAME = 16  # of an environment variable without an underscore
Ability = Literal["sample", "score", "choose", "hidden", "edit"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn. Temperature 0 takes the likeliest token each time.

    `top_p` keeps the smallest set of tokens with that much probability, `min_p` those at least that share of the
    likeliest one's. `stop` strings end a completion and are cut off. Raises UserError for values out of their ranges.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ranges = {
            "max_tokens": (self.max_tokens >= 1, "1 or more"),
            "temperature": (self.temperature >= 0, "0 or more"),
            "top_p": (0 < self.top_p <= 1, "above 0, and 1 at most"),
            "min_p": (0 <= self.min_p < 1, "from 0 to below 1"),
            "stop": (all(self.stop), "texts that are not empty"),
        }
        for name, (fits, wanted) in ranges.items():
            if not fits:
                raise UserError(f"{name} = {getattr(self, name)!r} cannot be sampled with", f"It must be {wanted}.")


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to be made; `sample` numbers several of one prompt. Equal requests have equal completions."""

    prompt: Prompt
    sampling: Sampling = Sampling()
    seed: int = 0
    sample: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back. `logprobs` are those of `token_ids` under the raw model at temperature 1, in nats.

    `stop` says why it ended: the end-of-text token, a stop string, the token limit, or that it failed; then `problem`
    says in one of the words of `PROBLEMS` why, and the text is what there was. Both tuples are empty where an engine
    does not tell them. `cost` is in the currency of the price table.
    """

    text: str
    stop: Stop
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and answers whose tokens are to be scored after it.

    Prompt and answer are tokenised apart and joined, so that the same tokens are scored whichever text they follow.
    `ended` scores the end-of-turn token behind each answer too.
    """

    prompt: Prompt
    answers: tuple[str, ...]
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """A prompt and answers of one token each, to be looked for among the likeliest tokens behind it.

    For an engine that can "choose" and not score, such as a chat endpoint: it tells some of the likeliest first tokens.
    """

    prompt: Prompt
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-probabilities in nats of each answer's tokens, given what stands before them: one tuple an answer."""

    logprobs: tuple[tuple[float, ...], ...]
    prompt_tokens: int = 0
    cost: float = 0.0
    problem: str = ""

    @property
    def sums(self) -> list[float]:
        """The log-probability of each whole answer."""
        return [sum(values) for values in self.logprobs]

    @property
    def means(self) -> list[float]:
        """The mean log-probability of a token of each answer."""
        return [sum(values) / len(values) for values in self.logprobs]


# why a completion or score failed; each is counted in the report
PROBLEMS = {
    "unreachable": "the server could not be reached",
    "timeout": "the server took too long",
    "rate limit": "the server refused for too many requests, to the last try",
    "server error": "the server said that it failed",
    "malformed": "the server's reply was no valid JSON of the expected form",
    "context overflow": "prompt and completion are longer than the model's context",
    "refused": "the server refused the request for its content",
    "budget": "the cost limit was reached",
    "rejected": "the server did not accept the request",
}


def may_pass(problem: str) -> bool:
    """Whether asking again later makes sense."""
    return problem in PASSING


A = TypeVar("A", bound="Request | Question | Choice")
T = TypeVar("T", bound="Completion | Scored")


class Engine(Protocol):
    """What sampling and scoring need of a source of text.

    `fingerprint` names everything its answers depend on beside the question: weights, number format, way of batching,
    template. Both methods yield (index, answer) as answers are ready, in any order, each index once. `cache` is None
    for an engine whose weights may change.
    """

    can: frozenset[Ability]
    fingerprint: str
    cache: Any

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]: ...
    def logprobs(self, questions: Sequence[Question]) -> Iterator[tuple[int, Scored]]: ...


def answer_all(
    engine: Engine, asked: Sequence[A], ask: Callable[[Sequence[A]], Iterator[tuple[int, T]]], what: str
) -> list[T]:
    """The engine's answers in the order asked. Each is looked for in the engine's cache first, and kept there at once.

    What is asked twice is asked once. A failed answer is not kept, so that the next run asks again.
    """
    keys = [key_of(engine, one) for one in asked]
    if getattr(engine, "edits", None):  # what an edit does may depend on the row, so equal questions may differ
        keys = [f"{row} {key}" for row, key in enumerate(keys)]
    found: dict[str, Any] = engine.cache.get(keys) if engine.cache is not None else {}
    first_of = {key: index for index, key in reversed(list(enumerate(keys)))}
    missing = sorted(index for key, index in first_of.items() if key not in found)
    with track(what, len(missing)) as advance:
        for place, answer in ask([asked[index] for index in missing]):
            key = keys[missing[place]]
            found[key] = answer
            if engine.cache is not None and not answer.problem:
                engine.cache.put(key, answer, engine.fingerprint)
            spent = getattr(engine, "ledger", None)
            advance(1, f"cost {spent.cost:.2f}" if spent and spent.cost else "")
    return [found[key] for key in keys]


def complain_of_engine(values: recipe.Engine) -> list[tuple[str, str]]:
    """What cannot work in the table of an endpoint, as (what, fix), before it is written anywhere.

    Nothing is quoted that may be a key which was put in the wrong place.
    """
    if values.kind != "remote":
        return []
    found = []
    try:
        url = urlsplit(values.url)
        plain = url.scheme in ("http", "https") and url.hostname and not (url.username or url.password)
        plain = plain and not (url.query or url.fragment or "@" in url.netloc) and values.url.isprintable()
    except ValueError:
        plain = False
    if not plain:
        what = "engine.url is not the plain address of an endpoint (no user, password or query in it)"
        found.append((what, "Set it to something like http://localhost:8000/v1."))
    if not values.name:
        found.append(("engine.name is empty", "Set it to the model's name at the endpoint."))
    # upper case, as such names are: a key of letters and digits would pass for a name otherwise, and be written down
    if not (re.fullmatch(r"[A-Z_][A-Z0-9_]*", values.key) and ("_" in values.key or len(values.key) <= SHORT_NAME)):
        what = "engine.key is not the name of an environment variable (capitals, digits and underscores)"
        found.append((what, "Put the key itself into the environment, and the variable's name here."))
    if values.most_cost is not None and not values.price_input + values.price_output:
        what = "engine.most_cost limits nothing while all prices are 0"
        found.append((what, "Set engine.price_input and engine.price_output."))
    return found


def open_engine(
    engine: recipe.Engine, model: recipe.Model, adapted: Path | None = None, base: str | None = None
) -> Engine:
    """The engine of a recipe. `adapted` is the folder of a language model trained on `model`, for a local engine.

    `base` names the base of that model where it was moved.

    Raises UserError when it is not there, or its values do not fit together.
    """
    from camelid.engines.cache import Cache, cache_path

    if adapted is not None and (engine.ray or engine.kind != "local"):
        what = f"{adapted} holds what was trained on a model, which only a local engine reads"
        raise UserError(what, "Set engine.kind to local, without ray; or export the model and serve it.")
    cache = Cache(cache_path()) if engine.cache else None
    if engine.ray:
        from camelid.engines.ray import open_ray

        return open_ray(engine, model, cache)
    if engine.kind == "remote":
        from camelid.engines.remote import open_remote

        return open_remote(engine, cache)
    if engine.kind == "vllm":
        from camelid.engines.vllm import open_vllm

        return open_vllm(engine, model, cache)
    from camelid.engines.local import open_local

    return open_local(engine, model, cache, adapted, base)


def key_of(engine: Engine, asked: Request | Question | Choice) -> str:
    """The cache key of what was asked of the engine: a hash of both in full."""
    values = {"engine": engine.fingerprint, "kind": type(asked).__name__, **dataclasses.asdict(asked)}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
