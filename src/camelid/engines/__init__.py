"""Where text and probabilities come from: one small protocol, several engines behind it.

An engine answers two kinds of question. A `Request` asks for one completion of a prompt; a `Question` asks how likely
given answers are after a prompt. `sampling.sample` and `scoring.score` ask them for many rows and own caching, order
and progress; an engine knows none of these. This module imports no torch, so that remote runs start at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from camelid.rows import Message

Prompt = str | tuple[Message, ...]  # raw text as it is, or messages that the engine's chat template lays out
Stop = Literal["end", "string", "length", "failed"]
Ability = Literal["sample", "score", "hidden", "edit"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn. Temperature 0 takes the likeliest token each time.

    `top_p` keeps the smallest set of tokens with that much probability, `min_p` those at least that share of the
    likeliest one's. `stop` strings end a completion and are cut off.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()


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
class Scored:
    """Log-probabilities in nats of each answer's tokens, given the prompt and the tokens before: one tuple an answer."""

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


class Engine(Protocol):
    """What sampling and scoring need of a source of text.

    `fingerprint` names everything its answers depend on beside the question: weights, number format, way of batching,
    template. Both methods yield (index, answer) as answers are ready, in any order, each index once. `cache` is None for
    an engine whose weights may change.
    """

    can: frozenset[Ability]
    fingerprint: str
    cache: Any

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]: ...
    def logprobs(self, questions: Sequence[Question]) -> Iterator[tuple[int, Scored]]: ...


def key_of(engine: Engine, asked: Request | Question) -> str:
    """The cache key of what was asked of the engine: a hash of both in full."""
    values = {"engine": engine.fingerprint, "kind": type(asked).__name__, **dataclasses.asdict(asked)}
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
