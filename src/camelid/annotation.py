"""Rows to judgements by a model: written replies that are read, labels that are scored, pairs, votes and repairs.

Every function takes some rows and gives as many `Judged` back, in order, so that `run.map` can stream a corpus of any
size through it. No reply is guessed at: what cannot be read has an outcome that says so.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from camelid.agreement import majority_vote
from camelid.engines import Choice, Completion, Engine, Question, Sampling, Scored, may_pass
from camelid.errors import UserError
from camelid.parsing import Parsed, Parser, read_reply
from camelid.rows import Judged, Message, Predicted, Prompt
from camelid.sampling import GREEDY, sample
from camelid.scoring import score, weigh
from camelid.verdicts import compare_scores, measure_orders, turn_verdict

UNCLASSIFIED = "unclassified"  # the label of what could not be read, which is wrong
PromptOf = Callable[[Any], Prompt]


def annotate(
    engine: Engine,
    rows: Sequence[Any],
    prompt_of: PromptOf,
    parser: Parser,
    *,
    sampling: Sampling = GREEDY,
    repair: str = "",
    seed: int = 0,
    what: str = "annotating",
) -> list[Judged]:
    """One judgement a row, read by `parser` from the reply to its prompt.

    A malformed reply is answered once with the words of `repair`, where there are any, and the next reply is read
    instead. A request that failed for a reason that may pass is asked once more.
    """
    prompts = [prompt_of(row) for row in rows]
    replies = [found[0] for found in sample(engine, prompts, sampling, seed=seed, what=what)]
    replies = _again(engine, prompts, replies, sampling, seed, [may_pass(reply.problem) for reply in replies], what)
    parsed = [read_reply(reply, parser) for reply in replies]
    spoiled = [bool(repair) and one.outcome == "malformed" for one in parsed]
    if any(spoiled):
        prompts = [_repaired(*pair, repair) for pair in zip(prompts, replies, strict=True)]
        replies = _again(engine, prompts, replies, sampling, seed, spoiled, "repairing")
        parsed = [read_reply(reply, parser) for reply in replies]
    return [_judged(*found) for found in zip(rows, parsed, replies, spoiled, strict=True)]


def choose(
    engine: Engine,
    rows: Sequence[Any],
    prompt_of: PromptOf,
    answers: Mapping[str, str],
    *,
    normalised: bool = True,
    what: str = "scoring labels",
) -> list[Judged]:
    """The label whose answer the model finds likeliest behind the row's prompt; ties go to the first of `answers`.

    `answers` maps labels to the text that is scored. `normalised` compares mean log-probabilities of a token instead
    of sums, so that long labels are not at a disadvantage. `shares` are the softmax of what is compared.
    """
    questions = [Question(prompt_of(row), tuple(answers.values())) for row in rows]
    judged = []
    for row, found in zip(rows, score(engine, questions, what), strict=True):
        if found.problem:
            judged.append(Judged(row.id, row.origin, "failed", None, found.problem, problem=found.problem))
            continue
        values = found.means if normalised else found.sums
        shares = dict(zip(answers, softmax(values), strict=True))
        best = max(shares, key=shares.__getitem__)
        judged.append(Judged(row.id, row.origin, "value", best, answers[best], shares=shares))
    return judged


def score_answers(
    engine: Engine,
    rows: Sequence[Any],
    answers_of: Callable[[Any], Sequence[str]],
    *,
    ended: bool = True,
    floor: float = -math.inf,
    what: str = "",
) -> list[Judged]:
    """{logprobs, clipped} of each row: those in nats of its answers' tokens behind its prompt, and how many were raised
    to `floor`, below which no token counts. `reply` is a digest of the prompt, which tells what a model was given.

    `ended` scores the end of the turn too.
    """
    questions = [Question(row.prompt, tuple(answers_of(row)), ended) for row in rows]
    found = score(engine, questions, what)
    return [_clipped(row, one, floor) for row, one in zip(rows, found, strict=True)]


def sample_votes(
    engine: Engine,
    rows: Sequence[Any],
    prompt_of: PromptOf,
    parser: Parser,
    *,
    sampling: Sampling,
    samples: int,
    seed: int = 0,
    what: str = "voting",
) -> list[Judged]:
    """Self-consistency (Wang 2022, arXiv 2203.11171): the value that most of a row's samples give; see `vote`."""
    found = sample(engine, [prompt_of(row) for row in rows], sampling, samples=samples, seed=seed, what=what)
    ballots = [
        [_judged(row, read_reply(reply, parser), reply, False) for reply in replies]
        for row, replies in zip(rows, found, strict=True)
    ]
    return [vote(ballot) for ballot in ballots]


def vote(ballots: Sequence[Judged]) -> Judged:
    """The value most judgements of one row give; of several with as many votes, the one that was given first.

    `shares` are those of the votes that were values. Without a single value the first ballot stands.
    """
    values = [None if ballot.value is None else to_key(ballot.value) for ballot in ballots]
    found = majority_vote(values, ties="first")
    if found.value is None:
        return ballots[0]
    winner = next(ballot for ballot, value in zip(ballots, values, strict=True) if value == found.value)
    shares = {str(value): share for value, share in found.shares.items()}
    return replace(winner, shares=shares, repairs=sum(ballot.repairs for ballot in ballots))


def to_key(value: Any) -> Any:
    """A value that can be counted: itself, or its JSON where it is a list or a table."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False) if isinstance(value, dict | list) else value


def compare_both_ways(
    engine: Engine,
    rows: Sequence[Any],
    prompt_of: Callable[[Any, bool], Prompt],
    parser: Parser,
    *,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    what: str = "comparing",
) -> list[Judged]:
    """Which of a row's two answers is better, asked with either first: "first", "second" or "tie".

    `prompt_of(row, swapped)` lays them out, and `parser` reads "first", "second" or "tie" of the order shown, or "A"
    and "B" for the first two (`parse_verdict`). A verdict that turns with the order is a tie with `shares` of a half
    each: the judge preferred a place, not an answer.
    """
    straight = annotate(
        engine, rows, lambda row: prompt_of(row, False), parser, sampling=sampling, seed=seed, what=what
    )
    swapped = annotate(engine, rows, lambda row: prompt_of(row, True), parser, sampling=sampling, seed=seed, what=what)
    return [_agreed(*pair) for pair in zip(straight, swapped, strict=True)]


def weigh_pairs(
    engine: Engine,
    rows: Sequence[Any],
    prompt_of: Callable[[Any, bool], Prompt],
    marks: tuple[str, str],
    orders_of: Callable[[Any], Sequence[bool]],
    what: str = "comparing",
) -> list[Judged]:
    """How surely the second of a row's two answers is the better one, from 0 to 1, by the log-probabilities of marks.

    `prompt_of(row, swapped)` lays the answers out and asks for the mark of the better one; `marks` are those of the
    answer shown first and second. P(second) = e^m2 / (e^m1 + e^m2) as they are shown, turned round where they are
    swapped; the value is the mean over `orders_of(row)`. `shares` holds P(the one shown first) by order, "straight" or
    "swapped". A reply whose likeliest tokens hold neither mark is malformed.
    """
    asked = [(row, swapped) for row in rows for swapped in orders_of(row)]
    found = weigh(engine, [Choice(prompt_of(*one), marks) for one in asked], what)
    by_row: dict[str, list[tuple[bool, Any]]] = {}
    for (row, swapped), scored in zip(asked, found, strict=True):
        by_row.setdefault(row.id, []).append((swapped, scored))
    return [_weighed(row, by_row[row.id]) for row in rows]


def draw_order(first: str, second: str, prompt: str) -> bool:
    """Whether `second` is shown first: a coin that the texts themselves toss, so that it falls alike everywhere.

    The same two texts the other way round are shown in the same order as before.
    """
    tossed = "\0".join((prompt, *sorted((first, second)))).encode("utf-8", "surrogatepass")
    return (hashlib.sha256(tossed).digest()[0] % 2 == 1) == (first < second)


def check_places(judged: Sequence[Judged]) -> None:
    """Raise UserError for a judge of `weigh_pairs` that preferred one place every time, whatever stood there."""
    first = [share for one in judged for share in one.shares.values()]
    for place, always in (("first", min(first, default=0) > 0.5), ("second", max(first, default=1) < 0.5)):
        if always:
            what = f"the judge preferred the output shown {place} in all {len(first)} comparisons"
            raise UserError(what, "It judges places and not outputs: take another judge (--model, or an endpoint).")


def count_places(judged: Sequence[Judged]) -> float | None:
    """How often `weigh_pairs` found the answer shown first the better one: 0.5 where no place is liked more."""
    first = [share > 0.5 for one in judged for share in one.shares.values()]
    return sum(first) / len(first) if first else None


def count_turned(judged: Sequence[Judged]) -> dict[str, Any] | None:
    """The share, with its interval, of pairs whose better answer changed with the order; None if none had both orders.

    A judge that likes a place turns wherever the two answers are near each other.
    """
    both = [(one.shares["straight"], one.shares["swapped"]) for one in judged if len(one.shares) == 2]
    if not both:
        return None
    straight, swapped = ([compare_scores(share, 1 - share) for share in shares] for shares in zip(*both, strict=True))
    return measure_orders(straight, list(map(turn_verdict, swapped)))["inconsistent"]


def check_rule(rows: Sequence[Any], rule: Callable[[Any], Any], name: str) -> list[Judged]:
    """What a plain function says of each row."""
    return [Judged(row.id, row.origin, "value", rule(row), name) for row in rows]


def tell_predicted(judged: Sequence[Judged], golds: Sequence[str]) -> list[Predicted]:
    """Judgements as predictions beside the gold labels; one without a label is wrong."""
    return [
        Predicted(one.id, gold, label_of(one), one.shares if one.outcome == "value" else {})
        for one, gold in zip(judged, golds, strict=True)
    ]


def label_of(judged: Judged) -> str:
    """The label, or "unclassified" where none could be read."""
    return judged.value if judged.outcome == "value" else UNCLASSIFIED


def count_outcomes(judged: Sequence[Judged]) -> dict[str, int]:
    """How often each outcome came, "repaired" among them; for the report."""
    counts = Counter(one.outcome for one in judged)
    repaired = sum(one.repairs > 0 and one.outcome == "value" for one in judged)
    return dict(counts) | ({"repaired": repaired} if repaired else {})


def softmax(values: Sequence[float]) -> list[float]:
    """Shares that sum to 1 from log-probabilities."""
    most = max(values)
    weights = [math.exp(value - most) for value in values]
    return [weight / sum(weights) for weight in weights]


PLACES = {"first": "first", "second": "second", "tie": "tie", "A": "first", "B": "second"}
SWAPPED = {"first": "second", "second": "first", "tie": "tie"}


def _agreed(straight: Judged, swapped: Judged) -> Judged:
    """One judgement of the two orders; where one of them has no value there is none."""
    for one in (straight, swapped):
        if one.outcome != "value":
            return one
    first, second = PLACES[straight.value], SWAPPED[PLACES[swapped.value]]
    shares = {"first": 0.0, "second": 0.0, "tie": 0.0}
    for value in (first, second):
        shares[value] += 0.5
    value = first if first == second else "tie"
    return replace(straight, value=value, shares=shares, repairs=straight.repairs + swapped.repairs)


def _weighed(row: Any, found: Sequence[tuple[bool, Any]]) -> Judged:
    """One judgement of a row's orders; where one of them has no value there is none."""
    shares: dict[str, float] = {}
    for swapped, scored in found:
        if scored.problem:
            return Judged(row.id, row.origin, "failed", None, scored.problem, problem=scored.problem)
        if max(scored.sums) == -math.inf:
            return Judged(row.id, row.origin, "malformed", None, "neither mark is among the likeliest tokens")
        shares["swapped" if swapped else "straight"] = softmax(scored.sums)[0]
    second = [share if order == "swapped" else 1 - share for order, share in shares.items()]
    return Judged(row.id, row.origin, "value", sum(second) / len(second), "", shares=shares)


def _clipped(row: Any, scored: Scored, floor: float) -> Judged:
    if scored.problem:
        return Judged(row.id, row.origin, "failed", None, scored.problem)
    value = {
        "logprobs": [[max(value, floor) for value in values] for values in scored.logprobs],
        "clipped": sum(value < floor for values in scored.logprobs for value in values),
    }
    return Judged(row.id, row.origin, "value", value, hashlib.sha256(repr(row.prompt).encode()).hexdigest()[:16])


def _again(
    engine: Engine,
    prompts: Sequence[Prompt],
    replies: Sequence[Completion],
    sampling: Sampling,
    seed: int,
    wanted: Sequence[bool],
    what: str,
) -> list[Completion]:
    """The replies, with those that are `wanted` asked for anew."""
    asked = [prompt for prompt, wants in zip(prompts, wanted, strict=True) if wants]
    found = iter(sample(engine, asked, sampling, seed=seed, what=what) if asked else [])
    return [next(found)[0] if wants else reply for reply, wants in zip(replies, wanted, strict=True)]


def _repaired(prompt: Prompt, reply: Completion, repair: str) -> Prompt:
    """The prompt, what came back, and what should be said to it."""
    if isinstance(prompt, str):
        return f"{prompt}{reply.text}\n\n{repair}\n"
    return (*prompt, Message("assistant", reply.text), Message("user", repair))


def _judged(row: Any, parsed: Parsed, reply: Completion, was_repaired: bool) -> Judged:
    said = reply.text or reply.problem  # a request that failed says why
    return Judged(row.id, row.origin, parsed.outcome, parsed.value, said, int(was_repaired), problem=reply.problem)
