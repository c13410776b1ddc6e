"""Where a system errs: confusions, its most confident errors, sentences with the most wrong words."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from camelid.metrics import entities
from camelid.report.numbers import NONE, show_count, show_score, show_share
from camelid.report.scores import FOLD, Comparison

SHOWN = 10
LONGEST_TEXT = 600  # characters
LONGEST_SENTENCE = 150  # words


@dataclass(frozen=True)
class Cell:
    """A count of the confusion matrix, its share of the gold class, and the two classes in words."""

    count: str
    share: float
    label: str
    right: bool


@dataclass(frozen=True)
class Confusion:
    """The matrix by gold class, or only the `pairs` (gold, predicted, count, share of gold) when it is too large."""

    classes: list[str]
    matrix: list[tuple[str, list[Cell]]]
    pairs: list[tuple[str, str, str, str]]


@dataclass(frozen=True)
class Stretch:
    """Neighbouring words under the same marks; an entity's name stands on its first stretch, … on later ones."""

    words: str
    gold: bool = False
    predicted: bool = False
    gold_name: str = ""
    predicted_name: str = ""


@dataclass(frozen=True)
class Mistake:
    """A wrongly predicted row: a text with its labels, or a sentence in stretches."""

    id: str
    text: str
    gold: str = ""
    predicted: str = ""
    probability: str = ""
    sentence: tuple[Stretch, ...] = ()
    wrong_words: int = 0


def read_confusion(comparison: Comparison) -> Confusion | None:
    """The confusions of ours; None when the entry has none."""
    counts, classes = comparison.systems[comparison.ours].confusion, comparison.classes
    if not counts or len(counts) != len(classes) or any(len(row) != len(classes) for row in counts):
        return None
    if len(classes) > FOLD:
        return Confusion(classes, [], _confused_pairs(counts, classes))
    matrix = [
        (gold, [_cell(gold, predicted, count, sum(row)) for predicted, count in zip(classes, row, strict=True)])
        for gold, row in zip(classes, counts, strict=True)
    ]
    return Confusion(classes, matrix, [])


def find_mistakes(predictions: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The predicted rows that are wrong: labels by falling probability, tags by falling number of wrong words."""
    wrong = (row for row in predictions if row.get("gold") is not None and row["gold"] != row["predicted"])
    return heapq.nlargest(SHOWN, wrong, key=_weight)


def describe_mistakes(mistakes: Sequence[Mapping[str, Any]], rows: Iterable[Mapping[str, Any]]) -> list[Mistake]:
    """The mistakes with the texts of their rows, in the order given."""
    wanted = {row["id"] for row in mistakes}
    found = {row["id"]: row for row in rows if row.get("id") in wanted}
    return [_describe(mistake, found.get(mistake["id"], {})) for mistake in mistakes]


def mark_entities(words: Sequence[str], gold: Sequence[str], predicted: Sequence[str] = ()) -> tuple[Stretch, ...]:
    """The sentence cut where a gold or a predicted entity begins or ends."""
    chunks = _chunk_by_word(gold, len(words)), _chunk_by_word(predicted, len(words))
    stretches: list[Stretch] = []
    seen: set[Any] = set()
    start = 0
    for end in range(1, len(words) + 1):
        real, said = chunks[0][start], chunks[1][start]
        if end < len(words) and (chunks[0][end], chunks[1][end]) == (real, said):
            continue
        names = [_name_once(chunk, side, seen) for side, chunk in enumerate((real, said))]
        stretches.append(Stretch(" ".join(words[start:end]), bool(real), bool(said), *names))
        start = end
    return tuple(stretches)


def cut_text(text: str) -> str:
    """The text, or its beginning with a note of its length when it is very long."""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} … ({show_count(len(text))} characters)"


def _weight(row: Mapping[str, Any]) -> float:
    return _wrong_words(row) if isinstance(row["gold"], list) else _probability(row)


def _probability(row: Mapping[str, Any]) -> float:
    """What the system gave the label it chose; -1, so last, where it gives none."""
    return float((row.get("probabilities") or {}).get(row["predicted"], -1))


def _wrong_words(row: Mapping[str, Any]) -> int:
    return sum(gold != predicted for gold, predicted in zip(row["gold"], row["predicted"]))


def _describe(mistake: Mapping[str, Any], row: Mapping[str, Any]) -> Mistake:
    name = str(row.get("origin") or f"row {mistake['id']}")
    if not isinstance(mistake["gold"], list):
        score = _probability(mistake)
        shown = show_score(score) if score >= 0 else NONE
        text = cut_text(str(row.get("text", "")))
        return Mistake(name, text, str(mistake["gold"]), str(mistake["predicted"]), shown)
    words = [str(word) for word in row.get("tokens") or ["?"] * len(mistake["gold"])]
    sentence = cut_sentence(mark_entities(words, mistake["gold"], mistake["predicted"]))
    return Mistake(name, " ".join(words), sentence=sentence, wrong_words=_wrong_words(mistake))


def cut_sentence(stretches: tuple[Stretch, ...]) -> tuple[Stretch, ...]:
    """The sentence without what comes after its first LONGEST_SENTENCE words."""
    kept: list[Stretch] = []
    words = 0
    for stretch in stretches:
        found = stretch.words.split(" ")
        room = LONGEST_SENTENCE - words
        if len(found) > room and not (stretch.gold or stretch.predicted):
            return (*kept, Stretch(" ".join([*found[:room], "…"])))
        if room <= 0:
            return (*kept, Stretch("…"))
        kept.append(stretch)
        words += len(found)
    return stretches


def _name_once(chunk: tuple[str, int, int] | None, side: int, seen: set[Any]) -> str:
    """The entity's type the first time it is met, then …; nothing outside entities."""
    if chunk is None:
        return ""
    name = "…" if (side, chunk) in seen else chunk[0]
    seen.add((side, chunk))
    return name


def _chunk_by_word(tags: Sequence[str], words: int) -> list[tuple[str, int, int] | None]:
    """The entity (type, first, last) each word belongs to, or None."""
    chunks: list[tuple[str, int, int] | None] = [None] * words
    for chunk in entities(tags):
        for position in range(chunk[1], min(chunk[2] + 1, words)):
            chunks[position] = chunk
    return chunks


def _cell(gold: str, predicted: str, count: int, total: int) -> Cell:
    share = count / total if total else 0.0
    label = f"{show_count(count)} of {show_count(total)} rows of {gold} predicted as {predicted}"
    return Cell(show_count(count), round(share, 3), label, gold == predicted)


def _confused_pairs(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> list[tuple[str, str, str, str]]:
    pairs = [
        (count, gold, predicted)
        for gold, row in enumerate(counts)
        for predicted, count in enumerate(row)
        if gold != predicted and count
    ]
    return [
        (classes[gold], classes[predicted], show_count(count), show_share(count / sum(counts[gold])))
        for count, gold, predicted in sorted(pairs, key=lambda pair: -pair[0])[:FOLD]
    ]
