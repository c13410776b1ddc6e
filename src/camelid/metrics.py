"""Pure functions from gold and predicted labels to numbers, and the intervals around them.

Bootstrap intervals resample rows (Efron 1979, percentile method, 95 %). Systems compared on the same rows are
resampled together, so that the interval of a difference is paired.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import comb, erfc, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
RESAMPLES = 2000
SEED = 20231001  # of the bootstrap: fixed, so that the same rows always get the same intervals
BLOCK = 1 << 17  # drawn rows looked at together: one resample at a time is slow, all of them fill the memory
BINS = 10  # of the confidence
EDGES = np.arange(BINS + 1) / BINS
LEAST_PROBABILITY = 1e-12  # one row that was held impossible must not make the mean likelihood infinite
INSIDE, OPENING, CLOSING = {"I", "E", "L"}, {"B", "S", "U"}, {"E", "L", "S", "U"}  # of BIO, BIOES, BILOU
NAMES = {
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "average_precision": "average precision",
    "auroc": "AUROC",
    "r2": "R²",
    "pearson": "Pearson's r",
    "spearman": "Spearman's ρ",
    "mae": "MAE",
    "rmse": "RMSE",
    "ece": "ECE",
    "brier": "Brier score",
    "nll": "NLL",
    "cohen_kappa": "Cohen's κ",
    "weighted_kappa": "weighted κ",
    "fleiss_kappa": "Fleiss' κ",
    "krippendorff_alpha": "Krippendorff's α",
}
LOWER_IS_BETTER = ("mae", "rmse", "ece", "brier", "nll", "flagged_probability")


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its interval, 95 % unless something else is said."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


def name_metric(metric: str) -> str:
    """A metric's name in words: entity_f1 -> entity F1, mae -> MAE; an unknown one without its underscores."""
    return NAMES.get(metric, metric.replace("_", " ").replace("f1", "F1"))


def accuracy(gold: Ints, predicted: Ints) -> float:
    """Share of equal entries."""
    return float((gold == predicted).mean())


def adjusted_accuracy(right_XN: NDArray[Any], majority_XN: Bools, kept: float) -> Floats:
    """Accuracy on rows as they come, from rows of which only the share `kept` of the majority class was kept.

    (m a_m / f + r a_r) / (m / f + r) over m majority rows and r others: a mean in which a kept row stands for 1 / f of
    them (Dominguez-Olmedo 2024, arXiv 2407.16615).
    """
    weights_XN = np.where(majority_XN, 1 / kept, 1.0)
    return (right_XN * weights_XN).sum(axis=-1) / weights_XN.sum(axis=-1)


def balanced_accuracy(counts: Ints) -> float:
    """Mean recall of the classes that have gold rows, from their confusion (as scikit-learn's)."""
    gold = counts.sum(axis=1)
    return float((np.diagonal(counts)[gold > 0] / gold[gold > 0]).mean())


def clopper_pearson(right: int, rows: int, level: float = 0.95) -> Interval:
    """The share of right rows with its exact binomial interval (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    outside = (1 - level) / 2
    low = float(betaincinv(right, rows - right + 1, outside)) if right else 0.0
    high = float(betaincinv(right + 1, rows - right, 1 - outside)) if right < rows else 1.0
    return Interval(right / rows, low, high)


def f1_by_class(gold: Ints, predicted: Ints, classes: int) -> Floats:
    """F1 of each class: 2 TP / (2 TP + FP + FN); 0 where a class has neither gold nor predicted rows."""
    return f1_of(confusion(gold, predicted, classes)[None])[0]


def macro_f1(gold: Ints, predicted: Ints, classes: int) -> float:
    """Mean F1 over the classes that occur in gold or predicted (as scikit-learn's average="macro")."""
    return float(macro_of(confusion(gold, predicted, classes)[None])[0])


def weighted_f1(gold: Ints, predicted: Ints, classes: int) -> float:
    """Mean F1 of the classes, each weighed by its share of the gold rows (as scikit-learn's average="weighted")."""
    return float(weighted_of(confusion(gold, predicted, classes)[None])[0])


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


def aggregate_seeds(values: Sequence[float]) -> Interval:
    """The mean of one score over training seeds with its t-interval: mean ± t(0.975; n - 1) s / sqrt(n) (Student 1908).

    A single value is its own interval: nothing is known of the spread.
    """
    from scipy.special import stdtrit  # loads no scipy.stats, which takes a second

    mean, count = float(np.mean(values)), len(values)
    if count == 1:
        return Interval(mean, mean, mean)
    half = float(stdtrit(count - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(count))
    return Interval(mean, mean - half, mean + half)


def mcnemar(first_right: Bools, second_right: Bools) -> tuple[int, int, float]:
    """(rows only the first got right, rows only the second got right, exact two-sided p) (McNemar 1947).

    Under the hypothesis that both err equally often, the first number is Binomial(n, 1/2) over the n rows on which
    they differ. p is 1 when they never differ.
    """
    first = int((first_right & ~second_right).sum())
    second = int((second_right & ~first_right).sum())
    differ = first + second
    tail = sum(comb(differ, k) for k in range(min(first, second) + 1)) / 2**differ
    return first, second, min(1.0, 2 * tail)


def mcnemar_statistic(first: int, second: int) -> tuple[float, float]:
    """(chi2, its p with one degree of freedom) of McNemar's test with continuity correction (Edwards 1948).

    chi2 = (|b - c| - 1)^2 / (b + c) for the two numbers of `mcnemar`, whose p is exact; this is what papers print.
    (0, 1) when the two never differ.
    """
    if first + second == 0:
        return 0.0, 1.0
    chi2 = max(abs(first - second) - 1, 0) ** 2 / (first + second)
    return chi2, erfc(sqrt(chi2 / 2))


def entities(tags: Sequence[str], *, strict: bool = False) -> set[tuple[str, int, int]]:
    """Chunks (type, first word, last word) of a sequence of BIO, BIOES or BILOU tags, as conlleval reads it.

    E- and L- end a chunk, S- and U- are one word long. An I-, E- or L- that follows no chunk of its type opens one;
    under `strict` it opens none.
    """
    chunks: set[tuple[str, int, int]] = set()
    kind, start = "", -1
    for position, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        continues = prefix in INSIDE and name == kind and start >= 0
        if not continues:
            if start >= 0:
                chunks.add((kind, start, position - 1))
            opens = prefix in OPENING or (prefix in INSIDE and not strict)
            kind, start = (name, position) if opens else ("", -1)
        if prefix in CLOSING and start >= 0:
            chunks.add((kind, start, position))
            kind, start = "", -1
    return chunks


def marks_entities(tags: Collection[str]) -> bool:
    """Whether tags are those of entities: O, and others that open, continue or end one (B-person, S-place)."""
    marked = [tag for tag in tags if tag != "O"]
    return bool(marked) and all(tag.partition("-")[0] in INSIDE | OPENING for tag in marked)


def entity_counts(gold: Sequence[str], predicted: Sequence[str], kind: str | None = None) -> Ints:
    """(true positives, gold entities, predicted entities) of one sentence, of one `kind` or of all."""
    real, found = (
        {chunk for chunk in entities(tags) if kind is None or chunk[0] == kind} for tags in (gold, predicted)
    )
    return np.array([len(real & found), len(real), len(found)])


def word_counts(gold: Sequence[str], predicted: Sequence[str], tag: str) -> Ints:
    """(true positives, gold words, predicted words) of one tag in one sentence."""
    right = sum(one == other == tag for one, other in zip(gold, predicted, strict=True))
    return np.array([right, sum(one == tag for one in gold), sum(one == tag for one in predicted)])


def counted_f1(counts: Ints) -> Floats:
    """F1 = 2 TP / (gold + predicted) from counts (..., 3) of true positives, gold and predicted; 0 where there is
    neither gold nor predicted."""
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


def weighted_of(counts: Ints) -> Floats:
    """Weighted F1 of each confusion count in (resamples, classes, classes)."""
    gold = counts.sum(axis=2)
    return (f1_of(counts) * gold).sum(axis=1) / gold.sum(axis=1)


def set_counts(gold_NC: Bools, predicted_NC: Bools) -> Ints:
    """(true positives, gold, predicted) rows of each class, shape (classes, 3), from who belongs to which class."""
    return _members(gold_NC, predicted_NC).sum(axis=0)


def resampled_set_counts(gold_NC: Bools, predicted_NC: Bools, draws: Draws) -> Ints:
    """`set_counts` of each resample, shape (resamples, classes, 3).

    Only true entries are added up, so hundreds of classes cost no more than the few that a row has.
    """
    members = _members(gold_NC, predicted_NC).reshape(draws.rows, -1)
    rows, cells = np.nonzero(members)
    times = (np.bincount(draw, minlength=draws.rows) for draw in draws)
    counts = [np.bincount(cells, weights=time[rows], minlength=members.shape[1]) for time in times]
    return np.stack(counts).astype(np.int64).reshape(len(counts), -1, 3)


def micro_f1(counts: Ints) -> Floats:
    """F1 over all classes together, from `set_counts` (..., classes, 3)."""
    return counted_f1(counts.sum(axis=-2))


def mean_f1(counts: Ints) -> Floats:
    """Macro-F1 from `set_counts` (..., classes, 3): mean over the classes that occur in gold or predicted."""
    occurs = counts[..., 1:].sum(axis=-1) > 0
    return (counted_f1(counts) * occurs).sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1)


def bootstrap_rows(draws: Draws, score: Callable[[Ints], Floats]) -> Floats:
    """`score` of all resamples, which are handed over as index arrays (resamples, rows), a block at a time."""
    drawn, size = iter(draws), max(1, BLOCK // draws.rows)
    blocks = []
    while block := list(islice(drawn, size)):
        blocks.append(score(np.stack(block)))
    return np.concatenate(blocks)


def resampled_mean(values_N: NDArray[Any], draws: Draws) -> Floats:
    """The mean of each resample."""
    return bootstrap_rows(draws, lambda drawn_RN: values_N[drawn_RN].mean(axis=-1))


def spread_mean(values_N: NDArray[Any]) -> dict[str, float]:
    """{value, low, high} of the rows' mean, bootstrap over rows; paired where they are differences on the same rows."""
    return interval(float(values_N.mean()), resampled_mean(values_N, Draws(len(values_N), SEED))).as_dict()


def spread_pearson(first_NX: NDArray[Any], second_NX: NDArray[Any]) -> dict[str, float]:
    """Pearson's correlation over all entries of two tables with its interval, for which whole rows are drawn."""

    def correlate(rows_RN: Ints) -> Floats:
        return pearson(*(table_NX[rows_RN].reshape(len(rows_RN), -1) for table_NX in (first_NX, second_NX)))

    whole = correlate(np.arange(len(first_NX))[None])[0]
    return interval(whole, bootstrap_rows(Draws(len(first_NX), SEED), correlate)).as_dict()


def win_rates(wins_N: Floats) -> dict[str, float]:
    """Of wins from 0 to 1, in per cent: their mean, its standard error, and the mean of wins rounded to 0, 1/2 or 1."""
    decided_N = np.where(wins_N == 0.5, 0.5, wins_N > 0.5)
    error = wins_N.std(ddof=1) / np.sqrt(len(wins_N))
    means = {"win_rate": wins_N.mean(), "standard_error": error, "discrete_win_rate": decided_N.mean()}
    return {name: 100 * float(value) for name, value in means.items()}


def r2(gold_XN: Floats, predicted_XN: Floats) -> Floats:
    """1 - SS_res / SS_tot around the mean of these rows: 0 for that mean, below 0 for what is worse.

    Where all gold values are equal: 1 if every prediction is right, else 0 (as scikit-learn's r2_score).
    """
    residual_X = ((gold_XN - predicted_XN) ** 2).sum(axis=-1)
    total_X = ((gold_XN - gold_XN.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    same_X = np.ptp(gold_XN, axis=-1) == 0  # the total may be a rounding error above 0
    return np.where(same_X, residual_X == 0, 1 - residual_X / np.where(same_X, 1, total_X))


def pearson(first_XN: NDArray[Any], second_XN: NDArray[Any]) -> Floats:
    """Pearson's correlation, from -1 to 1; 0 where one side is constant, so that none is defined."""
    same_X = (np.ptp(first_XN, axis=-1) == 0) | (np.ptp(second_XN, axis=-1) == 0)
    first_XN, second_XN = (side - side.mean(axis=-1, keepdims=True) for side in (first_XN, second_XN))
    norm_X = np.linalg.norm(first_XN, axis=-1) * np.linalg.norm(second_XN, axis=-1)
    same_X |= norm_X == 0  # squares may be too small for a float
    return np.where(same_X, 0, np.clip((first_XN * second_XN).sum(axis=-1) / np.where(same_X, 1, norm_X), -1, 1))


def spearman(first_N: Floats, second_N: Floats) -> Floats:
    """Spearman's rank correlation, ties by their average rank; 0 where one side is constant."""
    return pearson(average_ranks(number_values(first_N)), average_ranks(number_values(second_N)))


def number_values(values_N: Floats) -> Ints:
    """The place of each value among the distinct ones, from 0. Ranks of a resample follow from it without sorting."""
    return np.unique(values_N, return_inverse=True)[1].reshape(-1)


def average_ranks(places_XN: Ints) -> Floats:
    """Ranks from 1, along the last axis, of what `number_values` gave or of drawn rows of it; equal values share the
    mean of their ranks."""
    flat_RN = places_XN.reshape(-1, places_XN.shape[-1])
    rows, values = len(flat_RN), int(flat_RN.max()) + 1
    own_RN = flat_RN + values * np.arange(rows)[:, None]  # each row counts for itself
    counts_RV = np.bincount(own_RN.reshape(-1), minlength=rows * values).reshape(rows, values)
    ranks_RV = counts_RV.cumsum(axis=1) - (counts_RV - 1) / 2
    return ranks_RV.reshape(-1)[own_RN].reshape(places_XN.shape)


def mae(gold_XN: Floats, predicted_XN: Floats) -> Floats:
    """Mean absolute error, in the unit of the label."""
    return np.abs(gold_XN - predicted_XN).mean(axis=-1)


def rmse(gold_XN: Floats, predicted_XN: Floats) -> Floats:
    """Root of the mean squared error, in the unit of the label."""
    return np.sqrt(((gold_XN - predicted_XN) ** 2).mean(axis=-1))


def confidence_bins(confidence_N: Floats) -> Ints:
    """The bin of each confidence: bin m of M holds (m / M, (m + 1) / M], the first one also 0."""
    return np.searchsorted(EDGES[1:-1], confidence_N, side="left")


def calibration_error(confidence_N: Floats, right_N: NDArray[Any]) -> float:
    """Expected calibration error: sum over bins of rows / all rows * |accuracy - mean confidence|, from 0 to 1.

    Guo 2017 (arXiv 1706.04599, eq. 3) with 10 bins of equal width. It counts chance as error, so it is above 0 even
    for a perfect model, the more so the fewer the rows; `chance_error` says how far.
    """
    gaps = np.bincount(confidence_bins(confidence_N), weights=right_N - confidence_N, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence_N))


def chance_error(confidence_N: Floats, draws: Draws) -> float:
    """The 95th percentile of `calibration_error` of a model that is right exactly as often as it says.

    Answers are drawn from the confidences themselves (consistency resampling, Broecker and Smith 2007).
    """
    generator = np.random.default_rng(draws.seed)
    errors = [
        calibration_error(confidence_N, generator.random(draws.rows) < confidence_N) for _ in range(draws.resamples)
    ]
    return float(np.percentile(errors, 95))


def reliability(confidence_N: Floats, right_N: Bools) -> list[dict[str, float]]:
    """The bins of a reliability diagram that hold rows: low, high, count, mean confidence, accuracy."""
    bins = confidence_bins(confidence_N)
    return [
        {
            "low": float(EDGES[number]),
            "high": float(EDGES[number + 1]),
            "count": int((bins == number).sum()),
            "confidence": float(confidence_N[bins == number].mean()),
            "accuracy": float(right_N[bins == number].mean()),
        }
        for number in np.unique(bins)
    ]


def brier(probabilities_NC: Floats, gold_N: Ints) -> Floats:
    """Brier score of each row, 0 to 2: squared differences from the one-hot gold class, summed over the classes."""
    return ((probabilities_NC - np.eye(probabilities_NC.shape[1])[gold_N]) ** 2).sum(axis=1)


def negative_log_likelihood(probabilities_NC: Floats, gold_N: Ints) -> Floats:
    """-log of what each row's gold class was given, in nats, which is taken as no less than 1e-12."""
    return -np.log(np.maximum(probabilities_NC[np.arange(len(gold_N)), gold_N], LEAST_PROBABILITY))


def _members(gold_NC: Bools, predicted_NC: Bools) -> Ints:
    """Entry (row, class) of the three things counted, as 0 and 1."""
    return np.stack([gold_NC & predicted_NC, gold_NC, predicted_NC], axis=-1).astype(np.int64)
