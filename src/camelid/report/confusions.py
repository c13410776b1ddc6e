"""What is taken for what: the confusion matrix, or its most confused pairs when there are many classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from camelid.report.numbers import show_count, show_share
from camelid.report.scores import FOLD, Comparison


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
