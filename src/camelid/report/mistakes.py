"""Where a system errs: its most confident errors, the sentences with the most wrong words, the farthest numbers."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from camelid.report.numbers import NONE, show_count, show_number, show_score
from camelid.report.sentences import Stretch, cut_sentence, mark_entities

SHOWN = 10
LONGEST_TEXT = 600  # characters


@dataclass(frozen=True)
class Choice:
    """A class that was predicted for a row, or should have been, with what the system gave it."""

    name: str
    state: Literal["right", "surplus", "missing"]
    probability: str


@dataclass(frozen=True)
class Mistake:
    """A wrongly predicted row: a text with its labels, classes or numbers, or a sentence in stretches."""

    id: str
    text: str
    gold: str = ""
    predicted: str = ""
    probability: str = ""
    error: str = ""
    choices: tuple[Choice, ...] = ()
    sentence: tuple[Stretch, ...] = ()
    wrong_words: int = 0


def find_mistakes(predictions: Iterable[Mapping[str, Any]], task: str) -> list[Mapping[str, Any]]:
    """The predicted rows that are wrong, at most SHOWN.

    Labels come by falling probability, sets of labels by that of their surest wrong decision, tags by the number of
    wrong words, numbers by their distance.
    """
    weigh = {"multi-label": _surest_error, "regression": _distance, "tags": _wrong_words}.get(task, _guess_weight)
    wrong = (row for row in predictions if row.get("gold") is not None and _is_wrong(row, task))
    return heapq.nlargest(SHOWN, wrong, key=weigh)


def describe_mistakes(
    mistakes: Sequence[Mapping[str, Any]], rows: Iterable[Mapping[str, Any]], task: str
) -> list[Mistake]:
    """The mistakes with the texts of their rows, in the order given."""
    wanted = {row["id"] for row in mistakes}
    found = {row["id"]: row for row in rows if row.get("id") in wanted}
    return [_describe(mistake, found.get(mistake["id"], {}), task) for mistake in mistakes]


def cut_text(text: str) -> str:
    """The text, or its beginning with a note of its length when it is very long."""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} … ({show_count(len(text))} characters)"


def write_texts(row: Mapping[str, Any]) -> str:
    """The texts of a row of any kind, to be read: a preference with its guide, a contest turn by turn, or its text."""
    if "chosen" in row:
        question = row["prompt"][-1]["content"] if row["prompt"] else ""
        guide = [f"what counts: {text}" for text in row.get("guide") or ()]
        is_answered = row["chosen"] or row["rejected"]  # questions that are yet to be answered have neither
        answers = [f"chosen: {row['chosen']}", f"rejected: {row['rejected']}"] if is_answered else []
        return "\n\n".join([question, *guide, *answers])
    if "questions" in row:
        turns = zip(row["questions"], row["first"], row["second"], strict=True)
        return "\n\n".join(f"{asked}\n\nfirst: {first}\n\nsecond: {second}" for asked, first, second in turns)
    return str(row.get("text", ""))


def compare_sets(row: Mapping[str, Any]) -> tuple[Choice, ...]:
    """The classes that are predicted or gold: what is right first, then what is too much, then what is missing."""
    gold, predicted, shares = set(row["gold"]), set(row["predicted"]), row.get("probabilities") or {}
    order = [
        *(("right", name) for name in row["predicted"] if name in gold),
        *(("surplus", name) for name in row["predicted"] if name not in gold),
        *(("missing", name) for name in row["gold"] if name not in predicted),
    ]
    return tuple(
        Choice(str(name), state, show_score(shares[name]) if name in shares else "")  # type: ignore[arg-type]
        for state, name in order
    )


def _is_wrong(row: Mapping[str, Any], task: str) -> bool:
    if task == "multi-label":  # lists in a file, whose order says nothing
        return set(row["gold"]) != set(row["predicted"])
    return row["gold"] != row["predicted"]


def _guess_weight(row: Mapping[str, Any]) -> float:
    """For entries that name no task."""
    return _wrong_words(row) if isinstance(row["gold"], list) else _probability(row)


def _probability(row: Mapping[str, Any]) -> float:
    """What the system gave the label it chose; -1, so last, where it gives none."""
    return float((row.get("probabilities") or {}).get(row["predicted"], -1))


def _surest_error(row: Mapping[str, Any]) -> float:
    """How sure the system was of its surest wrong decision: p of a class too many, 1 - p of one that is missing."""
    shares, gold = row.get("probabilities") or {}, set(row["gold"])
    wrong = gold.symmetric_difference(row["predicted"])
    return max((1 - shares[name] if name in gold else shares[name] for name in wrong if name in shares), default=-1)


def _distance(row: Mapping[str, Any]) -> float:
    return abs(row["predicted"] - row["gold"])


def _wrong_words(row: Mapping[str, Any]) -> int:
    return sum(gold != predicted for gold, predicted in zip(row["gold"], row["predicted"]))


def _describe(mistake: Mapping[str, Any], row: Mapping[str, Any], task: str) -> Mistake:
    name = str(row.get("origin") or f"row {mistake['id']}")
    gold, predicted = mistake["gold"], mistake["predicted"]
    if task == "multi-label":
        return Mistake(name, cut_text(str(row.get("text", ""))), choices=compare_sets(mistake))
    if task == "regression":
        error = ("+" if predicted > gold else "") + show_number(predicted - gold)
        return Mistake(name, cut_text(str(row.get("text", ""))), show_number(gold), show_number(predicted), error=error)
    if not isinstance(gold, list):
        score = _probability(mistake)
        shown = show_score(score) if score >= 0 else NONE
        return Mistake(name, cut_text(write_texts(row)), str(gold), str(predicted), shown)
    words = [str(word) for word in row.get("tokens") or ["?"] * len(gold)]
    sentence = cut_sentence(mark_entities(words, gold, predicted))
    return Mistake(name, " ".join(words), sentence=sentence, wrong_words=_wrong_words(mistake))
