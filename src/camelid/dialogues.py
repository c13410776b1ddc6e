"""Conversations in which models answer each other: follow-up turns, a debate, feedback and revision.

Every function takes rows and asks the same turn of all of them at once, so that an engine can work on many. What a
model is told is a pure function of what was said before, given by the caller; nothing is remembered elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from camelid.engines import Completion, Engine, Sampling, may_pass
from camelid.rows import Message
from camelid.sampling import GREEDY, sample

Messages = tuple[Message, ...]
Transcript = tuple[tuple[str, str], ...]  # (speaker, text)
NO_FEEDBACK, NO_RESPONSE = "no feedback", "an empty response"


@dataclass(frozen=True, slots=True)
class Said:
    """What came of a conversation: the replies joined by a line break, how many there are, and why one failed."""

    text: str
    turns: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Debate:
    """What was said so far, and why a request failed, which ends it."""

    transcript: Transcript = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Revision:
    """Responses to one prompt and the feedback on each, from every reviewer ("" where one had none).

    `ended` says why it stopped before its time, `problem` why a request failed.
    """

    responses: tuple[str, ...] = ()
    feedbacks: tuple[tuple[str, ...], ...] = ()
    ended: str = ""
    problem: str = ""

    @property
    def is_over(self) -> bool:
        return bool(self.ended or self.problem)


def ask_until(
    engine: Engine,
    prompts: Sequence[Messages],
    follow_up: Callable[[str], str],
    *,
    most: int = 1,
    sampling: Sampling = GREEDY,
    what: str = "asking",
) -> list[Said]:
    """Replies to the prompts, with up to `most` further turns each, while `follow_up(text so far)` has words for one.

    The words are put into the same conversation, and the reply to them is appended to the text.
    """
    replies = _say(engine, prompts, sampling, what)
    said = [Said(reply.text, 1, reply.problem) for reply in replies]
    talks = [(*prompt, Message("assistant", reply.text)) for prompt, reply in zip(prompts, replies, strict=True)]
    for _ in range(most):
        words = {place: follow_up(one.text) for place, one in enumerate(said) if not one.problem}
        asked = {place: (*talks[place], Message("user", more)) for place, more in words.items() if more}
        for place, reply in zip(asked, _say(engine, list(asked.values()), sampling, what), strict=True):
            before = said[place]
            said[place] = Said(f"{before.text}\n{reply.text}", before.turns + 1, reply.problem)
            talks[place] = (*asked[place], Message("assistant", reply.text))
    return said


def hold_debate(
    speakers: Mapping[str, Engine],
    rows: Sequence[Any],
    prompt_of: Callable[[Any, str, Transcript], Messages],
    *,
    rounds: int,
    sampling: Sampling = GREEDY,
    what: str = "debating",
) -> list[Debate]:
    """`rounds` in which each speaker says something once, in order, after what was said before.

    `prompt_of(row, speaker, transcript)` is all that a speaker sees: the transcript is the only memory.
    """
    debates = [Debate() for _ in rows]
    for speaker in list(speakers) * rounds:
        going = [place for place, debate in enumerate(debates) if not debate.problem]
        prompts = [prompt_of(rows[place], speaker, debates[place].transcript) for place in going]
        for place, reply in zip(going, _say(speakers[speaker], prompts, sampling, what), strict=True):
            told = (*debates[place].transcript, (speaker, reply.text))
            debates[place] = Debate(told, reply.problem)
    return debates


def revise(
    generator: Engine,
    reviewers: Sequence[Engine],
    rows: Sequence[Any],
    ask_response: Callable[[Any, Revision], Messages],
    ask_feedback: Callable[[Any, Revision, int], Messages],
    *,
    iterations: int,
    stop: Callable[[Revision], str] = lambda revision: "",
    sampling: Sampling = GREEDY,
    what: str = "revising",
) -> list[Revision]:
    """`iterations` responses to each row, with feedback on each but the last (Self-Refine, Madaan 2023, 2303.17651).

    `ask_response(row, so far)` and `ask_feedback(row, so far, number of the reviewer)` lay out the whole conversation
    that generator and reviewer see. A row ends early without any feedback, with an empty response, or when `stop` has
    a reason. A request that failed for a reason that may pass is the row's `problem`; a reviewer that fails for good
    has no feedback.
    """
    found = [Revision() for _ in rows]
    for number in range(iterations):
        going = [place for place, one in enumerate(found) if not one.is_over]
        prompts = [ask_response(rows[place], found[place]) for place in going]
        for place, reply in zip(going, _say(generator, prompts, sampling, what), strict=True):
            found[place] = _respond(found[place], reply)
        if number == iterations - 1:
            break
        going = [place for place in going if not found[place].is_over]
        replies = [
            _say(reviewer, [ask_feedback(rows[place], found[place], which) for place in going], sampling, what)
            for which, reviewer in enumerate(reviewers)
        ]
        for place, *said in zip(going, *replies, strict=True):
            found[place] = _hear(found[place], said, stop)
    return found


def _say(engine: Engine, prompts: Sequence[Messages], sampling: Sampling, what: str) -> list[Completion]:
    return [reply[0] for reply in sample(engine, prompts, sampling, what=what)] if prompts else []


def _respond(so_far: Revision, reply: Completion) -> Revision:
    if reply.problem:
        return replace(so_far, problem=reply.problem)
    if not reply.text.strip():
        return replace(so_far, ended=NO_RESPONSE)
    return replace(so_far, responses=(*so_far.responses, reply.text))


def _hear(so_far: Revision, said: Sequence[Completion], stop: Callable[[Revision], str]) -> Revision:
    if passing := [reply.problem for reply in said if reply.problem and may_pass(reply.problem)]:
        return replace(so_far, problem=passing[0])
    texts = tuple("" if reply.problem else reply.text.strip() for reply in said)
    told = replace(so_far, feedbacks=(*so_far.feedbacks, texts))
    return replace(told, ended=stop(told) if any(texts) else NO_FEEDBACK)
