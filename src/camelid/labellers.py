"""Who says of a text whether it is relevant: its own label, or a model that is asked; and keeping what was said.

A labeller takes rows and gives as many `Judged` back, True or False where it could be read. Its replies have a price,
so what was said once is kept in the run and never asked again. A person as a labeller is in `asking.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from camelid.annotation import PromptOf, annotate, choose
from camelid.engines import Engine, Sampling
from camelid.errors import UserError
from camelid.parsing import Parsed
from camelid.rows import PASSING, Judged, Labelled, Member, iterate_rows
from camelid.runs import Run

Labeller = Callable[[Sequence[Member]], list[Judged]]
Answers = Literal["score", "generate", "exact"]
WORD_TOKENS = 24  # a reply of one of two words, and some of what a chatty model says instead


@dataclass(frozen=True)
class Words:
    """What a labeller says of relevant texts, and of all others."""

    relevant: str
    other: str


def tell_known(rows: Sequence[Member], flip_positive: float, flip_negative: float, seed: int) -> list[Judged]:
    """The rows' own labels, wrong as often as told; whether one is depends on seed and row only."""
    judged = []
    for row in rows:
        flips = flip_positive if row.positive else flip_negative
        wrong = random.Random(f"{seed} flip {row.id}").random() < flips
        judged.append(Judged(row.id, row.origin, "value", bool(row.positive) != wrong, "known"))
    return judged


def ask_model(
    engine: Engine, rows: Sequence[Member], prompt_of: PromptOf, words: Words, answers: Answers
) -> list[Judged]:
    """The likelier of the two words behind the prompt, or what the model writes: see PARSERS."""
    if answers in PARSERS:
        read, sampling = PARSERS[answers], Sampling(max_tokens=WORD_TOKENS)
        return annotate(engine, rows, prompt_of, lambda text: read(text, words), sampling=sampling, what="")
    found = choose(engine, rows, prompt_of, {word: word for word in (words.relevant, words.other)}, what="")
    return [replace(one, value=one.value == words.relevant) if one.outcome == "value" else one for one in found]


def parse_word(text: str, words: Words) -> Parsed:
    """The whole reply, without regard for case and closing punctuation: one word may be part of the other."""
    said, relevant, other = (_bare(each) for each in (text, words.relevant, words.other))
    return (
        Parsed("value", said == relevant)
        if said in (relevant, other)
        else Parsed("malformed", detail="is neither of the two words")
    )


def parse_exactly(text: str, words: Words) -> Parsed:
    """Relevant where the reply is that word to the letter, and everything else is not: what cannot be read, too."""
    return Parsed("value", text.strip() == words.relevant)


PARSERS: dict[str, Callable[[str, Words], Parsed]] = {"generate": parse_word, "exact": parse_exactly}


def _bare(word: str) -> str:
    return word.strip().rstrip(".!?;,").casefold()


def keep_labels(
    run: Run, folder: str, pool: Sequence[Member], labeller: Labeller, said: dict[str, Judged], *, one_by_one: bool
) -> Callable[[str, Sequence[int]], list[Judged]]:
    """What labels rows of the pool under a name, and keeps it in the run's `folder`: what is there is not asked again.

    Nor is a row that is in `said`, which several of these may share. `one_by_one` keeps each answer before the next row
    is shown, as a person may leave at any time. Raises UserError when the labeller is out of reach, so that a resumed
    run goes on there, and when the rows are not those that were labelled under that name.
    """

    def judge(rows: Sequence[Member]) -> list[Judged]:
        open_rows = [row for row in rows if row.id not in said]
        given = labeller(open_rows) if open_rows else []
        _check_reached(given, run)
        told = {one.id: one for one in given}
        return [said.get(row.id) or told[row.id] for row in rows]

    def label(name: str, rows: Sequence[int]) -> list[Judged]:
        chosen, chunk = [pool[row] for row in rows], 1 if one_by_one else len(rows)
        path = run.map(f"{folder}/{name}", chosen, judge, chunk=chunk, total=len(rows), may_fail=True)
        judged: list[Any] = list(iterate_rows(path))
        if [one.id for one in judged] != [row.id for row in chosen]:
            what = f"{path.name} holds labels of other rows than this run would have labelled now"
            raise UserError(what, "Another machine, thread count or version rounds otherwise: go on where it began.")
        said.update({one.id: one for one in judged if one.outcome != "failed"})
        return judged

    return label


def _check_reached(given: Sequence[Judged], run: Run) -> None:
    """Whether anything came back. A spent budget is no such failure, nor is one row that always fails."""
    passing = [one.problem for one in given if one.outcome == "failed" and one.problem in PASSING]
    if given and len(passing) == len(given) and (len(given) > 1 or passing[0] == "unreachable"):
        what = f"the labeller answered none of the last {len(given)} rows ({passing[0]})"
        raise UserError(what, f"See to the cause; camelid resume {run.folder} then goes on with them.")


def export_labels(run: Run, folder: str, pool: Sequence[Member], classes: Sequence[str]) -> list[Labelled]:
    """Rows of the pool whose labels `keep_labels` kept in `folder`, as the second class where they are relevant."""
    by_id = {row.id: row for row in pool}
    judged: list[Any] = [one for path in sorted((run.folder / folder).glob("*.jsonl")) for one in iterate_rows(path)]
    return [
        Labelled(one.id, one.origin, by_id[one.id].text, classes[bool(one.value)])
        for one in judged
        if one.outcome == "value"
    ]


def count_paid(judged: Sequence[Judged]) -> int:
    """How many of the rows have their price: all but those whose request failed. A reply that says nothing is paid."""
    return sum(one.outcome != "failed" for one in judged)


def is_out_of_budget(judged: Sequence[Judged]) -> bool:
    """Whether the labeller's budget ended among these rows."""
    return any(one.problem == "budget" for one in judged)
