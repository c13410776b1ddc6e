"""Scores of answers: by a rule, by rewards, or read from judgements that a model writes; and how far to believe them.

A judge takes prompts with answers and gives one row for each: its value has "scores", a number for each answer or None
where nothing could be read, and what they come from: "judgements" and, of a model, "outcomes" and "replies".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np

from camelid import metrics
from camelid.engines import Engine, Sampling
from camelid.parsing import Parser, read_reply
from camelid.rows import Judged, Message, Preference, Prompt
from camelid.runs import Run
from camelid.sampling import sample
from camelid.verify.form import count_words

JUDGED_AT_ONCE = 16  # prompts whose answers are judged before the judgements are written down


@dataclass(frozen=True)
class Answers:
    """A prompt and the answers to it that are to be judged."""

    id: str
    origin: str
    prompt: tuple[Message, ...]
    texts: tuple[str, ...]


Judge = Callable[[Sequence[Answers]], list[Judged]]
Writer = Callable[[Sequence[Preference], int, int], list[Judged]]  # (prompts, answers each, seed), `draw_candidates`


@dataclass(frozen=True)
class Parts:
    """Who writes and who judges: each is given the folder of a model, and opened only when it has something to do."""

    writer: Callable[[Path], Writer]
    judge: Callable[[Path], Judge]


@dataclass(frozen=True)
class Scored:
    """Answers of one model to a prompt that have a score, in the order in which they were drawn."""

    role: str = ""
    texts: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class Drawn:
    """What one model wrote to some prompts and how it was judged, row by row."""

    written: list[Judged]
    judged: list[Judged]
    scored: list[Scored]


def draw_and_judge(
    run: Run,
    place: str,
    rows: Sequence[Preference],
    parts: Parts,
    *,
    role: str = "",
    model: Path,
    judge: Path,
    count: int,
    seed: int,
) -> Drawn:
    """`count` answers of `model` to each prompt, and their scores by a judge that is given the folder `judge`.

    The two stages are called by `place`, whose braces stand for "answers" and "scores".
    """
    writer = cache(lambda: parts.writer(model))
    written = run.map_rows(place.format("answers"), rows, lambda some: writer()(some, count, seed))
    texts = [tuple(one.value["texts"]) if one.value else () for one in written]
    asked = [Answers(row.id, row.origin, row.prompt, each) for row, each in zip(rows, texts, strict=True)]
    judged = judge_all(run, place.format("scores"), asked, lambda: parts.judge(judge))
    return Drawn(written, judged, [keep_scored(role, *each) for each in zip(texts, judged, strict=True)])


def judge_all(run: Run, stage: str, asked: Sequence[Answers], opened: Callable[[], Judge]) -> list[Judged]:
    """The rows' judgements as a stage of the run; the judge is opened when it is needed."""
    judge = cache(opened)
    return run.map_rows(stage, asked, lambda some: judge()(some), chunk=JUDGED_AT_ONCE)


def keep_scored(role: str, texts: Sequence[str], judged: Judged) -> Scored:
    """The answers that have a score."""
    scores = judged.value["scores"] if judged.value else [None] * len(texts)
    kept = [(text, score) for text, score in zip(texts, scores, strict=True) if score is not None]
    return Scored(role, tuple(text for text, _ in kept), tuple(score for _, score in kept))


def describe_answers(drawn: Drawn) -> dict[str, Any]:
    """Scores and words of a model's answers; those that have none, and why."""
    kept = [pair for one in drawn.scored for pair in zip(one.texts, one.scores, strict=True)]
    values = [one.value for one in drawn.written if one.value]
    left = sum((Counter(value["left out"]) for value in values), Counter())
    left.update(one.reply for one in drawn.written if not one.value)
    return {
        "scored": len(kept),
        "mean score": fmean(score for _, score in kept) if kept else None,
        "mean words": fmean(count_words(text) for text, _ in kept) if kept else None,
        "cut off at the limit": sum(value.get("cut", 0) for value in values),
        "left out": dict(left) or "none",
        **describe_judgements(drawn.judged),
    }


def judge_by_rule(rule: Callable[[str], float]) -> Judge:
    """A judge that looks at an answer's text alone."""
    return lambda rows: [tell_scores(row, [[rule(text)] for text in row.texts]) for row in rows]


def judge_by_rewards(score_many: Callable[[Sequence[Any], Sequence[Sequence[str]]], list[list[float]]]) -> Judge:
    """A judge from a function of prompts and their answers, such as that of a `RewardModel`."""

    def judge(rows: Sequence[Answers]) -> list[Judged]:
        some = [row for row in rows if row.texts]
        found = iter(score_many([row.prompt for row in some], [row.texts for row in some]) if some else [])
        return [tell_scores(row, [[value] for value in (next(found) if row.texts else [])]) for row in rows]

    return judge


def judge_by_model(
    engine: Engine,
    ask: Callable[[Sequence[Message], str], Prompt],
    parser: Parser,
    sampling: Sampling,
    count: int,
    seed: int,
) -> Judge:
    """A judge that writes `count` judgements of each answer; its score is the mean of those that could be read.

    Judgements of one text are drawn alike wherever it stands, so that the same text never wins against itself. A row
    of which every request failed is "failed".
    """

    def judge(rows: Sequence[Answers]) -> list[Judged]:
        asked = [ask(row.prompt, text) for row in rows for text in row.texts]
        replies = iter(sample(engine, asked, sampling, samples=count, seed=seed, what=""))
        return [_read(row, [next(replies) for _ in row.texts], parser) for row in rows]

    return judge


def penalise_length(judge: Judge, points: float) -> Judge:
    """The judge with so many points taken off an answer's score for 100 words of it."""

    def judge_shorter(rows: Sequence[Answers]) -> list[Judged]:
        return [_penalise(*pair, points) for pair in zip(rows, judge(rows), strict=True)]

    return judge_shorter if points else judge


def tell_scores(row: Answers, judgements: Sequence[Sequence[float | None]], **notes: Any) -> Judged:
    """A row's scores as they are kept: the mean over each answer's judgements, None where none could be read."""
    read = [[value for value in each if value is not None] for each in judgements]
    scores = [fmean(each) if each else None for each in read]
    return Judged(
        row.id, row.origin, "value", {"scores": scores, "judgements": list(map(list, judgements)), **notes}, ""
    )


def describe_judgements(judged: Sequence[Judged]) -> dict[str, Any]:
    """Judgements by how reading them went, and how far those of one answer lie apart, where there are several."""
    told = [one.value for one in judged if one.value]
    several = [[value for value in each if value is not None] for one in told for each in one["judgements"]]
    outcomes = Counter(word for one in told for each in one.get("outcomes", ()) for word in each)
    unread = {why: count for why, count in outcomes.items() if why != "value"}
    facts: dict[str, Any] = {"judgements": sum(map(len, several)), "judgements not read": unread or "none"}
    if failed := Counter(one.problem for one in judged if not one.value):
        facts["prompts whose judgements failed"] = dict(failed)
    spread = [pstdev(each) for each in several if len(each) > 1]
    return facts | ({"standard deviation of one answer's": fmean(spread)} if spread else {})


def measure_agreement(judged: Sequence[Judged]) -> dict[str, Any]:
    """How often the first of two answers, the preferred one, has the higher score; a tie counts as one half.

    {pairs, both read, ties, agreement}, the last with its 95 % interval, None where no pair was read.
    """
    both = [one.value["scores"] for one in judged if one.value and None not in one.value["scores"]]
    facts = {"pairs": len(judged), "both read": len(both), "ties": sum(first == second for first, second in both)}
    if not both:
        return facts | {"agreement": None}
    right_N = np.array([(first > second) + (first == second) / 2 for first, second in both])
    return facts | {"agreement": metrics.spread_mean(right_N)}


def _read(row: Answers, replies: Sequence[Sequence[Any]], parser: Parser) -> Judged:
    parsed = [[read_reply(reply, parser) for reply in each] for each in replies]
    problems = [reply.problem for each in replies for reply in each]
    if problems and all(problems):  # so that a resumed run asks again
        return Judged(row.id, row.origin, "failed", None, problems[0], problem=problems[0])
    return tell_scores(
        row,
        [[one.value for one in each] for each in parsed],
        outcomes=[[one.outcome for one in each] for each in parsed],
        replies=[[reply.text or reply.problem for reply in each] for each in replies],
    )


def _penalise(row: Answers, judged: Judged, points: float) -> Judged:
    if not judged.value:
        return judged
    pairs = zip(judged.value["scores"], row.texts, strict=True)
    scores = [None if score is None else score - points * count_words(text) / 100 for score, text in pairs]
    return replace(judged, value=judged.value | {"scores": scores})
