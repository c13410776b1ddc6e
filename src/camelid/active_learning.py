"""Active learning of a rare class: which rows to have labelled next, and classifiers that learn from them.

Rows are numbers of the pool. A strategy sees the `Pile` as it stands and draws `count` of its unused rows with `draw`,
numpy's generator; it never draws a row twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from camelid import labelling, metrics, prediction
from camelid.bases import Base
from camelid.recipe import Plan
from camelid.rows import Labelled, Member
from camelid.runs import Run

Shares = Callable[[str], Any]  # a classifier's P(relevant) of all rows of "pool", "validation" or "test"
Fit = Callable[[str, Sequence[int], Sequence[bool]], Shares]  # name, rows of the pool, their labels
CLASSES = ["other", "relevant"]


@dataclass(frozen=True)
class Pile:
    """The cluster of each row, those that were drawn already, and the classifier so far, if any."""

    cluster_N: Any
    used: Collection[int] = frozenset()
    shares: Shares | None = None

    @property
    def clusters(self) -> int:
        return int(self.cluster_N.max()) + 1

    def unused(self, cluster: int | None = None) -> Any:
        """Rows that were not drawn yet, of one cluster or of all."""
        rows_N = np.arange(len(self.cluster_N)) if cluster is None else np.flatnonzero(self.cluster_N == cluster)
        return rows_N[[row not in self.used for row in rows_N.tolist()]]

    def is_likely(self, rows_N: Any) -> Any:
        """Which of the rows the classifier takes for relevant; none where there is no classifier."""
        return np.zeros(len(rows_N), dtype=bool) if self.shares is None else self.shares("pool")[rows_N] >= 0.5


Strategy = Callable[[Pile, int, Any], list[int]]


def draw_random(pile: Pile, count: int, draw: Any) -> list[int]:
    """Rows at random, whatever the classifier says."""
    return pick(pile.unused(), count, draw)


def draw_by_cluster(pile: Pile, count: int, draw: Any) -> list[int]:
    """The same number of rows from each cluster, up to half of them likely ones once there is a classifier.

    Where they do not come out even, drawn clusters give one row more.
    """
    chosen: list[int] = []
    even, left = divmod(count, pile.clusters)
    more = set(draw.permutation(pile.clusters)[:left].tolist()) if left else set()
    for cluster in range(pile.clusters):
        size = even + (cluster in more)
        rows_N = pile.unused(cluster)
        if pile.shares is None:
            chosen += pick(rows_N, size, draw)
        else:
            chosen += mix(rows_N, pile.is_likely(rows_N), size, draw)
    return chosen


def draw_unsure(pile: Pile, count: int, draw: Any) -> list[int]:
    """Uncertainty sampling (Lewis and Gale, 1994): what the classifier is least sure of; at first random rows."""
    rows_N = pile.unused()
    if pile.shares is None or not len(rows_N):
        return pick(rows_N, count, draw)
    order = np.argsort(np.abs(pile.shares("pool")[rows_N] - 0.5), kind="stable")
    return rows_N[order[:count]].tolist()


def pick(rows_N: Any, count: int, draw: Any) -> list[int]:
    """`count` of the rows at random, or all."""
    return draw.permutation(rows_N)[:count].tolist()


def mix(rows_N: Any, likely_N: Any, count: int, draw: Any) -> list[int]:
    """Up to half of `count` from the likely rows, filled up with others, in random order; more likely ones where others
    are too few."""
    likely, others = (pick(rows_N[chosen_N], len(rows_N), draw) for chosen_N in (likely_N, ~likely_N))
    half = max(count // 2, count - len(others))
    found = [*likely[:half], *others[: count - min(half, len(likely))]]
    return draw.permutation(np.array(found, dtype=int)).tolist()


def undersample(rows: Sequence[int], told: Mapping[int, bool], ratio: int, draw: Any) -> list[int]:
    """All positives, and at most `ratio` times as many negatives, drawn at random; in the old order."""
    positives = [row for row in rows if told[row]]
    negatives = [row for row in rows if not told[row]]
    if len(negatives) > ratio * len(positives):
        negatives = pick(np.array(negatives), ratio * len(positives), draw)
    kept = {*positives, *negatives}
    return [row for row in rows if row in kept]


def logistic_learner(
    features: Mapping[str, Any], weights_of: Callable[[Sequence[bool]], dict[bool, float] | None]
) -> Fit:
    """Logistic regression on the features of each split, with the weights of the classes."""

    def fit(_: str, rows: Sequence[int], labels: Sequence[bool]) -> Shares:
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(max_iter=1000, class_weight=weights_of(labels))
        model.fit(features["pool"][list(rows)], labels)
        return cache(lambda split: model.predict_proba(features[split])[:, 1])

    return fit


def model_learner(
    run: Run,
    slot: str,
    base: Callable[[], Base],
    splits: Mapping[str, Sequence[Member]],
    plan: Plan,
    max_tokens: int,
    is_rare: Callable[[Sequence[bool]], bool],
) -> Fit:
    """Label supervision of the base by the plan, kept in the run; classes weigh by how rare they are where one is."""
    labelled = {name: [_labelled(row, bool(row.positive)) for row in rows] for name, rows in splits.items()}

    def fit(name: str, rows: Sequence[int], labels: Sequence[bool]) -> Shares:
        train = [_labelled(splits["pool"][row], label) for row, label in zip(rows, labels, strict=True)]
        folder = labelling.supervise(
            run, f"classifiers/{slot}/{name}", base, CLASSES, train, labelled["validation"], plan, max_tokens,
            balanced=is_rare(labels),
        )  # fmt: skip

        def predict(split: str) -> dict[str, Any]:
            found = prediction.predict_with(folder, labelled[split])
            return {"share": np.array([row.probabilities[CLASSES[1]] for row in found])}

        # kept, so that a resumed run does not read the whole pool again for every round it has behind it
        return cache(lambda split: run.arrays(f"shares/{slot}/{name}-{split}", lambda: predict(split))["share"])

    return fit


def f1_of_relevant(shares_N: Any, rows: Sequence[Member]) -> float:
    """F1 of the relevant class, told from a probability of one half on."""
    gold_N = np.array([row.positive for row in rows], dtype=int)
    return float(metrics.f1_by_class(gold_N, (shares_N >= 0.5).astype(int), 2)[1])


def draw_curves(traces: Mapping[str, Sequence[Mapping[str, Any]]], price: float) -> dict[str, Any]:
    """F1 against labels, or against what they cost where they cost something, for the report."""
    unit = price or 1.0
    lines = {name: [[line["labels"] * unit, line["F1 on test"]] for line in trace] for name, trace in traces.items()}
    return {"x": "price of the labels" if price else "labels", "y": "F1 of the relevant class", "lines": lines}


def _labelled(row: Member, positive: bool) -> Labelled:
    return Labelled(row.id, row.origin, row.text, CLASSES[positive])
