"""Pure functions from gold and predicted labels to numbers, and the intervals around them.

Bootstrap intervals resample rows (Efron 1979, percentile method, 95 %). Systems compared on the same rows are
resampled together, so that the interval of a difference is paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


def accuracy(gold: Ints, predicted: Ints) -> float:
    """Share of equal entries."""
    return float((gold == predicted).mean())


def f1_by_class(gold: Ints, predicted: Ints, classes: int) -> Floats:
    """F1 of each class: 2 TP / (2 TP + FP + FN); 0 where a class has neither gold nor predicted rows."""
    return f1_of(confusion(gold, predicted, classes)[None])[0]


def macro_f1(gold: Ints, predicted: Ints, classes: int) -> float:
    """Mean F1 over the classes that occur in gold or predicted (as scikit-learn's average="macro")."""
    return float(macro_of(confusion(gold, predicted, classes)[None])[0])


def confusion(gold: Ints, predicted: Ints, classes: int) -> Ints:
    """Counts (gold, predicted), shape (classes, classes)."""
    return np.bincount(gold * classes + predicted, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True)
class Draws:
    """Bootstrap resamples of `rows` rows: iterating yields the same index arrays each time, one at a time."""

    rows: int
    seed: int
    resamples: int = RESAMPLES

    def __iter__(self) -> Iterator[Ints]:
        generator = np.random.default_rng(self.seed)
        for _ in range(self.resamples):
            yield generator.integers(0, self.rows, size=self.rows)


def resampled_confusions(gold: Ints, predicted: Ints, classes: int, draws: Draws) -> Ints:
    """The confusion counts of each resample, shape (resamples, classes, classes)."""
    cells = gold * classes + predicted
    counts = [np.bincount(cells[draw], minlength=classes * classes) for draw in draws]
    return np.stack(counts).reshape(-1, classes, classes)


def interval(value: float, samples: Floats) -> Interval:
    """The value with the 2.5th and 97.5th percentile of its resampled values."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def mcnemar(first_right: NDArray[np.bool_], second_right: NDArray[np.bool_]) -> tuple[int, int, float]:
    """(rows only the first got right, rows only the second got right, exact two-sided p) (McNemar 1947).

    Under the hypothesis that both err equally often, the first number is Binomial(n, 1/2) over the n rows on which
    they differ. p is 1 when they never differ.
    """
    first = int((first_right & ~second_right).sum())
    second = int((second_right & ~first_right).sum())
    differ = first + second
    tail = sum(comb(differ, k) for k in range(min(first, second) + 1)) / 2**differ
    return first, second, min(1.0, 2 * tail)


def entities(tags: Sequence[str], *, strict: bool = False) -> set[tuple[str, int, int]]:
    """Chunks (type, first word, last word) of a BIO sequence, as conlleval reads it.

    An I- that follows no chunk of its type opens one; under `strict` it opens none.
    """
    chunks: set[tuple[str, int, int]] = set()
    kind, start = "", -1
    for position, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        continues = prefix == "I" and name == kind and start >= 0
        if not continues:
            if start >= 0:
                chunks.add((kind, start, position - 1))
            opens = prefix == "B" or (prefix == "I" and not strict)
            kind, start = (name, position) if opens else ("", -1)
    return chunks


def entity_counts(gold: Sequence[str], predicted: Sequence[str], kind: str | None = None) -> Ints:
    """(true positives, gold entities, predicted entities) of one sentence, of one `kind` or of all."""
    real, found = (
        {chunk for chunk in entities(tags) if kind is None or chunk[0] == kind} for tags in (gold, predicted)
    )
    return np.array([len(real & found), len(real), len(found)])


def entity_f1(counts: Ints) -> Floats:
    """Micro F1 from entity counts (..., 3); 0 where there is neither a gold nor a predicted entity."""
    both = counts[..., 1] + counts[..., 2]
    return np.divide(2 * counts[..., 0], both, out=np.zeros(both.shape), where=both > 0)


def bootstrap_sum(counts: Ints, draws: Draws, score: Callable[[Ints], Floats]) -> Floats:
    """`score` of the summed per-row `counts` (rows, k) of each resample."""
    return score(np.stack([counts[draw].sum(axis=0) for draw in draws]))


def f1_of(counts: Ints) -> Floats:
    """F1 by class, shape (resamples, classes), from confusion counts of shape (resamples, classes, classes)."""
    hits = np.diagonal(counts, axis1=1, axis2=2)
    both = counts.sum(axis=1) + counts.sum(axis=2)
    return np.divide(2 * hits, both, out=np.zeros(both.shape), where=both > 0)


def macro_of(counts: Ints) -> Floats:
    """Macro-F1 of each confusion count in (resamples, classes, classes), over the classes that occur in it."""
    occurs = (counts.sum(axis=1) + counts.sum(axis=2)) > 0
    return (f1_of(counts) * occurs).sum(axis=1) / occurs.sum(axis=1)
