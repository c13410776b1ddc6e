"""What an OpenAI-style endpoint answered: HTTP replies to words of `PROBLEMS`, completions and log-probabilities."""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from camelid.engines import Completion, Sampling, Stop
from camelid.errors import UserError

FINISHED: dict[str, Stop] = {"stop": "end", "eos_token": "end", "stop_sequence": "string", "length": "length"}
OVERFLOW = re.compile(r"context.{0,20}(length|size|window)|maximum model length|prompt is too long|`inputs` tokens")
REFUSED = re.compile(r"content.{0,12}(filter|policy)|responsibleai|moderation|flagged")
MOST_BYTES = 64 << 20  # of one reply


@dataclass(frozen=True, slots=True)
class Reply:
    """How one try ended; `unsure` where the server may have worked, and charged, without a reply that tells."""

    body: Any = None
    problem: str = ""
    said: str = ""
    status: int = 0
    hold: float = 0.0
    again: bool = False
    unsure: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    guessed: bool = False


def judge_response(response: httpx2.Response, deadline: float) -> Reply:
    """What an HTTP reply means. The time limit is for the whole of it; the client's own is for each piece."""
    content = bytearray()
    try:
        for piece in response.iter_bytes():
            content += piece
            if time.monotonic() > deadline:
                raise httpx2.ReadTimeout("for the whole of it")
            if len(content) > MOST_BYTES:
                return Reply(problem="malformed", said=f"more than {MOST_BYTES} bytes", unsure=True)
    except (httpx2.NetworkError, httpx2.ProtocolError, httpx2.DecodingError) as error:
        return Reply(problem="malformed", said=f"half a reply: {error}", again=True, unsure=True)
    body = _parse(bytes(content)) if "json" in response.headers.get("content-type", "") else None
    text = bytes(content).decode("utf-8", "replace")
    if response.is_success and isinstance(body, dict):
        return Reply(body, status=response.status_code)
    if response.is_success:
        return Reply(problem="malformed", said=f"no JSON object: {text}", status=response.status_code, unsure=True)
    problem = _problem_of(response.status_code, text.lower())
    said = f"status {response.status_code}: {_message_of(body) or response.headers.get('location') or text}"
    again = problem in ("rate limit", "server error", "timeout")
    return Reply(None, problem, said, response.status_code, _retry_after(response), again)


def _parse(content: bytes) -> Any:
    """The JSON, or None."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _problem_of(status: int, text: str) -> str:
    """The word for an HTTP status that is no success, with its text in small letters."""
    if status == 429:
        return "rate limit"
    if status >= 400 and OVERFLOW.search(text):
        return "context overflow"
    if 400 <= status < 500 and REFUSED.search(text):
        return "refused"
    if status == 408:
        return "timeout"
    return "server error" if status >= 500 else "rejected"


def _message_of(body: Any) -> str:
    """The server's own sentence in an error's JSON, wherever the kinds of servers put it."""
    error = (body.get("error") or body) if isinstance(body, dict) else ""
    said = (error.get("message") or error.get("detail") or "") if isinstance(error, dict) else error
    return said if isinstance(said, str) else json.dumps(said)


def _retry_after(response: httpx2.Response) -> float:
    """Seconds the server wants to be left alone, from a number or a date; 0 when it names none."""
    value = response.headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def redact(said: str, key: str) -> str:
    """A server's words on one short line, without control characters and without the key: some servers quote it."""
    said = said.replace(key, "[key]") if key else said
    return " ".join("".join(character if character.isprintable() else " " for character in said).split())[:200]


def is_about_logprobs(reply: Reply, body: dict[str, Any]) -> bool:
    """Whether the request was turned down for asking log-probs, which a completion can do without; a choice cannot."""
    wanted = "logprobs" in body and not {"echo", "top_logprobs"} & set(body)
    return wanted and reply.problem == "rejected" and "logprob" in reply.said.lower()


def read_usage(told: Any) -> tuple[int, int] | None:
    """Tokens of prompt and completion, or None when they are not told in numbers."""
    counts = [told.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(told, dict) else []
    # a bool is an int to Python, and a count below zero would win room under the cap
    whole = [count for count in counts if isinstance(count, int) and not isinstance(count, bool) and count >= 0]
    return (whole[0], whole[1]) if len(whole) == 2 else None


def first_choice(body: dict[str, Any]) -> dict[str, Any]:
    """The first choice in a reply, or an empty one."""
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    return choice if isinstance(choice, dict) else {}


def text_of(choice: dict[str, Any]) -> str | None:
    """A choice's text in either interface; None when there is none of the right kind."""
    message = choice.get("message", choice)
    if not isinstance(message, dict):
        return None
    text = message.get("text") if message is choice else message.get("content") or message.get("refusal") or ""
    return text if isinstance(text, str) else None


def _is_refused(choice: dict[str, Any]) -> bool:
    message = choice.get("message")
    return choice.get("finish_reason") == "content_filter" or (
        isinstance(message, dict) and bool(message.get("refusal"))
    )


def read_completion(reply: Reply, sampling: Sampling) -> tuple[Completion, str]:
    """The completion in a reply and, if it failed, the server's words."""
    used = (reply.prompt_tokens, reply.completion_tokens, reply.cost)
    if reply.problem:
        return Completion("", "failed", (), (), *used, reply.problem), reply.said
    choice = first_choice(reply.body)
    text = text_of(choice)
    if text is None:
        return Completion("", "failed", (), (), *used, "malformed"), _message_of(reply.body) or "no text in the reply"
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate could be written to no file
    reason = choice.get("finish_reason")
    if _is_refused(choice):
        return Completion(text, "failed", (), (), *used, "refused"), "content filter"
    if not isinstance(reason, str) or reason not in FINISHED:
        return Completion(text, "failed", (), (), *used, "malformed"), f"finish_reason {reason!r}"
    # vLLM names the stop string that was met; elsewhere it looks like the end of the text
    stop: Stop = "string" if choice.get("stop_reason") in sampling.stop else FINISHED[reason]
    return Completion(text, stop, (), _read_logprobs(choice.get("logprobs")), *used), ""


def _read_logprobs(told: Any) -> tuple[float, ...]:
    """Log-probs of a completion in either interface's form; none unless every token has one."""
    if not isinstance(told, dict):
        return ()
    values: Any = told.get("token_logprobs")
    items = told.get("content")
    if values is None and isinstance(items, list):
        values = [item.get("logprob") if isinstance(item, dict) else None for item in items]
    if not isinstance(values, list) or not all(_is_number(value) for value in values):
        return ()
    return tuple(map(float, values))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def read_likeliest(body: Any) -> dict[str, float] | None:
    """Log-probs of the likeliest first tokens by their text, from a chat reply; None when they are not told."""
    try:
        told = body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        found = [(item["token"], item["logprob"]) for item in told]
    except (KeyError, IndexError, TypeError):
        return None
    usable = found and all(isinstance(token, str) and _is_number(value) for token, value in found)
    return {token: float(value) for token, value in reversed(found)} if usable else None


def read_echo(body: Any) -> tuple[list[str], list[Any]] | None:
    """Tokens of prompt and answer and their log-probs, without what was made behind them; None when not given.

    Servers that know no echo ignore it and tell of the made token only.
    """
    try:
        told = body["choices"][0]["logprobs"]
        tokens, values = told["tokens"], told["token_logprobs"]
        made = (body.get("usage") or {}).get("completion_tokens", 1)
        count = len(tokens) - made
        usable = len(values) == len(tokens) and all(isinstance(token, str) for token in tokens)
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    return (tokens[:count], values[:count]) if usable and count > 0 else None


def answer_logprobs(echo: tuple[list[str], list[Any]], prompt: str, answer: str) -> tuple[float, ...]:
    """Log-probs of the answer's tokens. Raises UserError when they cannot be told from the prompt's."""
    tokens, values = echo
    start = _boundary(tokens, prompt, answer)
    if start is None:
        raise UserError(
            f"prompt and answer do not part between two of the endpoint's tokens: {prompt[-20:]!r} and {answer[:20]!r}",
            "Let the answer, not the prompt, have the space between them; or take a local model.",
        )
    if not all(_is_number(value) for value in values[start:]):
        raise UserError("the endpoint gives no log-probability of the answer's first token", "Give it a longer prompt.")
    return tuple(map(float, values[start:]))


def _boundary(tokens: Sequence[str], prompt: str, answer: str) -> int | None:
    """The place of the answer's first token, or None when there is no such place.

    Offsets are counted in the tokens' own text, backward from the end of the answer. The endpoint's `text_offset` is
    not used: a first token that is in no text shifts it, as do characters that are several tokens, and some servers
    give -1. Where the answer has such characters and the prompt has not, it is counted forward through the prompt.
    """
    tail, start = "", len(tokens)
    while start and len(tail) < len(answer):
        start -= 1
        tail = tokens[start] + tail
    if tail == answer:
        return start
    for first in (0, 1):
        head = ""
        for place in range(first, len(tokens)):
            if head == prompt:
                return place if "\ufffd" in "".join(tokens[place:]) else None
            head += tokens[place]
    return None
