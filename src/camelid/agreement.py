"""How far annotators agree: people, models, or one model asked several times; and the vote of several.

`ratings_AN` holds what annotator a said of unit n as a number: for classes the place in their order
(`number_ratings`), otherwise the number itself; NaN where they said nothing. Axes: A annotators, N units, K distinct
values or classes, E the single ratings of units that were rated at least twice. Intervals resample units, which keeps
together what was said of one. Where all ratings compared are equal, coefficients corrected for chance are not defined;
they are 0 then, because agreement on the only value shows nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from camelid import metrics
from camelid.metrics import SEED, Bools, Draws, Floats, Ints, interval

Level = Literal["nominal", "ordinal", "interval"]
Weights = Literal["linear", "quadratic"]


@dataclass(frozen=True, slots=True)
class Vote:
    """What most votes were for (None where nothing won), the share of votes of each value, and how many were cast."""

    value: Any
    shares: dict[Any, float]
    votes: int


def majority_vote(values: Sequence[Any], ties: Literal["none", "first"] | Sequence[Any] = "none") -> Vote:
    """The value with the most votes, which need not be more than half of them. None is no vote and never wins.

    Where several values have the most votes, `ties` decides: "none" elects nothing (value None), "first" the one of
    them that was voted for first, and a tuple of values the one of them that stands first in it, so that a guard may
    let "unsafe" win. ValueError where that tuple holds none of them. Shares sum to 1, the largest first, equal ones in
    the order of the votes; they are empty where no vote was cast. Values must be hashable.
    """
    counts = Counter(value for value in values if value is not None)
    votes = counts.total()
    shares = {value: count / votes for value, count in counts.most_common()}
    if not votes:
        return Vote(None, {}, 0)
    most = max(counts.values())
    tied = [value for value, count in counts.items() if count == most]
    return Vote(tied[0] if len(tied) == 1 else _break_tie(tied, ties), shares, votes)


def cohen_kappa(first_N: Ints, second_N: Ints, classes: int, weights: Weights | None = None) -> float:
    """Cohen's kappa of two annotators who rated all units with classes 0 to classes - 1; 1 is perfect, 0 chance.

    kappa = 1 - sum w_ij O_ij / sum w_ij E_ij (Cohen 1960; weighted: Cohen 1968), O the confusion counts, E those
    expected from each annotator's own shares. w_ij is 1 for any two different classes, |i - j| for "linear" and
    (i - j)^2 for "quadratic", which need classes in order. Equal to scikit-learn's cohen_kappa_score.
    """
    return float(kappa_of(metrics.confusion(first_N, second_N, classes)[None], weights)[0])


def kappa_of(counts: Ints, weights: Weights | None = None) -> Floats:
    """Cohen's kappa of each confusion count in (resamples, classes, classes)."""
    apart_KK = _distances(counts.shape[-1], weights)
    observed = (counts * apart_KK).sum(axis=(1, 2)) * counts.sum(axis=(1, 2))
    expected = (counts.sum(axis=2)[:, :, None] * counts.sum(axis=1)[:, None, :] * apart_KK).sum(axis=(1, 2))
    return np.where(expected > 0, 1 - observed / np.where(expected > 0, expected, 1), 0.0)


def fleiss_kappa(ratings_AN: Floats) -> float:
    """Fleiss' kappa of units that were all rated equally often, not needfully by the same annotators (Fleiss 1971).

    kappa = (P - P_e) / (1 - P_e): P is the mean share of agreeing pairs in a unit, P_e the sum of the squared shares of
    the values. ValueError where units differ in the number of ratings: use Krippendorff's alpha there.
    """
    return float(resampled_fleiss_kappa(ratings_AN, [_each_once(ratings_AN)])[0])


def resampled_fleiss_kappa(ratings_AN: Floats, draws: Iterable[Ints]) -> Floats:
    """Fleiss' kappa of each draw of units. ValueError as in `fleiss_kappa`."""
    if len(set((~np.isnan(ratings_AN)).sum(axis=0).tolist())) > 1:
        raise ValueError("units differ in the number of ratings, Fleiss' kappa is not defined for them")
    return _resample(ratings_AN, "nominal", draws, with_replacement=True)


def krippendorff_alpha(ratings_AN: Floats, level: Level = "nominal") -> float:
    """Krippendorff's alpha, 1 - D_o / D_e, for any number of annotators and missing ratings; 1 is perfect, 0 chance.

    Over the n ratings v of units rated at least twice, m_u of them in unit u, and all ordered pairs i, j of ratings:
    D_o = 1/n sum_u 1/(m_u - 1) sum_{i,j in u} d(v_i, v_j) and D_e = 1/(n (n - 1)) sum_{i,j} d(v_i, v_j)
    (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability"). d is 1 for different values ("nominal"), the
    squared difference ("interval"), or that of the mean ranks among all n ratings ("ordinal").
    """
    return float(resampled_alpha(ratings_AN, level, [_each_once(ratings_AN)])[0])


def resampled_alpha(ratings_AN: Floats, level: Level, draws: Iterable[Ints]) -> Floats:
    """Krippendorff's alpha of each draw of units."""
    return _resample(ratings_AN, level, draws, with_replacement=False)


def raw_agreement(ratings_AN: Floats) -> float:
    """Share of equal pairs of ratings in a unit, mean over the units rated at least twice; ValueError without any."""
    return float(np.mean(_agreement_by_unit(ratings_AN)))


def number_ratings(ratings: Sequence[Sequence[Any]], classes: Sequence[Any]) -> Floats:
    """ratings_AN from one sequence of values an annotator: each value's place in `classes`, NaN for None.

    KeyError for a value that is none of the classes, ValueError for annotators with different numbers of units.
    """
    place: dict[Any, float] = {name: number for number, name in enumerate(classes)}
    return np.array([[np.nan if value is None else place[value] for value in values] for values in ratings], float)


def measure_agreement(
    ratings: Mapping[str, Sequence[Any]],
    classes: Sequence[Any] = (),
    level: Level = "nominal",
    weights: Weights | None = None,
) -> dict[str, Any]:
    """Every measure of agreement with its 95 % interval, bootstrap over units, as a JSON-ready dict.

    `ratings` holds by annotator what each said of the same units in the same order, None where nothing was read.
    `classes` are in order where `level` is "ordinal", and numbers where it is "interval". They may be left out where
    all ratings are numbers; then there is no kappa and no confusion. `weights` is Cohen's. Returns
    units; compared (units rated at least twice); level; weights; classes; annotators {name: ratings}; raw_agreement;
    krippendorff_alpha; fleiss_kappa, over the `complete` units that everybody rated; and pairs, a list of {first,
    second, units (both rated), raw_agreement, cohen_kappa, confusion}.
    A value with an interval is {value, low, high}, and None where there is no unit to compare.
    KeyError for a value that is none of the classes, ValueError for annotators with different numbers of units.
    """
    places_AN = number_ratings(list(ratings.values()), classes) if classes else None
    table_AN = np.array(list(ratings.values()), float) if level == "interval" or places_AN is None else places_AN
    said_AN = ~np.isnan(table_AN)
    complete_AN = table_AN[:, said_AN.all(axis=0)]
    fleiss = _spread(complete_AN, lambda draws: resampled_fleiss_kappa(complete_AN, draws)) if classes else None
    return {
        "units": table_AN.shape[1],
        "compared": int(_rated_twice(table_AN).sum()),
        "complete": complete_AN.shape[1],
        "level": level,
        "weights": weights,
        "classes": list(classes),
        "annotators": dict(zip(ratings, said_AN.sum(axis=1).tolist())),
        "raw_agreement": _spread_agreement(table_AN),
        "krippendorff_alpha": _spread(table_AN, lambda draws: resampled_alpha(table_AN, level, draws)),
        "fleiss_kappa": fleiss,
        "pairs": [
            {
                "first": first,
                "second": second,
                "units": int(said_AN[[a, b]].all(axis=0).sum()),
                "raw_agreement": _spread_agreement(table_AN[[a, b]]),
                **({} if places_AN is None else _compare_classes(places_AN[a], places_AN[b], len(classes), weights)),
            }
            for (a, first), (b, second) in combinations(enumerate(ratings), 2)
        ],
    }


def _compare_classes(first_N: Floats, second_N: Floats, classes: int, weights: Weights | None) -> dict[str, Any]:
    """Cohen's kappa and the confusion of two annotators, over the units that both rated."""
    both_N = ~np.isnan(first_N) & ~np.isnan(second_N)
    pair = first_N[both_N].astype(np.int64), second_N[both_N].astype(np.int64)
    confusion_KK = metrics.confusion(*pair, classes)
    kappa = None
    if both_N.any():
        sampled = metrics.resampled_confusions(*pair, classes, Draws(len(pair[0]), SEED))
        kappa = interval(kappa_of(confusion_KK[None], weights)[0], kappa_of(sampled, weights)).as_dict()
    return {"cohen_kappa": kappa, "confusion": confusion_KK.tolist()}


def _spread(ratings_AN: Floats, score: Callable[[Iterable[Ints]], Floats]) -> dict[str, float] | None:
    """`score` of all units and of resamples of them; None where no unit was rated twice."""
    if not _rated_twice(ratings_AN).any():
        return None
    value = score([_each_once(ratings_AN)])[0]
    return interval(value, score(Draws(ratings_AN.shape[1], SEED))).as_dict()


def _spread_agreement(ratings_AN: Floats) -> dict[str, float] | None:
    if not _rated_twice(ratings_AN).any():
        return None
    return metrics.spread_mean(_agreement_by_unit(ratings_AN))


@dataclass(frozen=True, slots=True)
class _Compared:
    """The ratings of units that were rated at least twice, and for each unit how many there are and how many ordered
    pairs of them differ."""

    unit_E: Ints
    place_E: Ints  # of the rating among `values_K`
    values_K: Floats
    rated_N: Ints
    unequal_N: Ints


def _compare(ratings_AN: Floats) -> _Compared:
    said_AN = ~np.isnan(ratings_AN) & _rated_twice(ratings_AN)
    unit_E = np.nonzero(said_AN)[1]
    values_K, place_E = np.unique(ratings_AN[said_AN], return_inverse=True)
    units, values = ratings_AN.shape[1], max(len(values_K), 1)
    rated_N = np.bincount(unit_E, minlength=units)
    cells, counts = np.unique(unit_E * values + place_E, return_counts=True)
    equal_N = np.bincount(cells // values, weights=counts**2, minlength=units).astype(np.int64)
    return _Compared(unit_E, place_E, values_K, rated_N, rated_N**2 - equal_N)


def _rated_twice(ratings_AN: Floats) -> Bools:
    """Which units have at least two ratings; only they tell of agreement."""
    return (~np.isnan(ratings_AN)).sum(axis=0) > 1


def _agreement_by_unit(ratings_AN: Floats) -> Floats:
    """Share of equal pairs of each unit that was rated at least twice."""
    compared, twice_N = _compare(ratings_AN), _rated_twice(ratings_AN)
    if not twice_N.any():
        raise ValueError("no unit was rated twice")
    rated_N = compared.rated_N[twice_N]
    return 1 - compared.unequal_N[twice_N] / (rated_N * (rated_N - 1))


def _resample(ratings_AN: Floats, level: Level, draws: Iterable[Ints], *, with_replacement: bool) -> Floats:
    """`_correct_for_chance` of each draw; a unit drawn twice is two units."""
    compared, units = _compare(ratings_AN), ratings_AN.shape[1]
    times = (np.bincount(draw, minlength=units) for draw in draws)
    return np.array([_correct_for_chance(compared, level, time_N, with_replacement) for time_N in times])


def _correct_for_chance(compared: _Compared, level: Level, times_N: Ints, with_replacement: bool) -> float:
    """1 - observed / expected distance of pairs, each unit taken so many times; 0 for fewer than two values.

    The expected pairs are any two of all ratings, drawn `with_replacement` by Fleiss and without by Krippendorff.
    """
    drawn_E = times_N[compared.unit_E]
    counts_K = np.bincount(compared.place_E, weights=drawn_E, minlength=len(compared.values_K))
    if (counts_K > 0).sum() < 2:  # counted, because the squared deviations of equal numbers may round to more than 0
        return 0.0
    ratings = counts_K.sum()
    if level == "nominal":
        apart_N, all_apart = compared.unequal_N, ratings**2 - (counts_K**2).sum()
    else:
        # the rank distance of Krippendorff is the difference of mean ranks, which are these but for a constant
        position_K = compared.values_K if level == "interval" else counts_K.cumsum() - counts_K / 2
        apart_N = _squared_distances(compared, position_K)
        deviation_K = position_K - np.average(position_K, weights=counts_K)
        all_apart = 2 * ratings * (counts_K * deviation_K**2).sum()
    if not all_apart:  # squares may be too small for a float
        return 0.0
    observed = (times_N * apart_N / np.maximum(compared.rated_N - 1, 1)).sum()
    return float(1 - (ratings if with_replacement else ratings - 1) * observed / all_apart)


def _squared_distances(compared: _Compared, position_K: Floats) -> Floats:
    """Squared differences over all ordered pairs of ratings v of each unit: 2 m sum (v - mean)^2 for m of them."""
    unit_E, rated_N, position_E = compared.unit_E, compared.rated_N, position_K[compared.place_E]
    mean_N = np.bincount(unit_E, weights=position_E, minlength=len(rated_N)) / np.maximum(rated_N, 1)
    squares_E = (position_E - mean_N[unit_E]) ** 2
    return 2 * rated_N * np.bincount(unit_E, weights=squares_E, minlength=len(rated_N)).astype(np.float64)


def _distances(classes: int, weights: Weights | None) -> Floats:
    """w_ij of two classes, shape (classes, classes)."""
    place_K = np.arange(classes, dtype=np.float64)
    apart_KK = np.abs(place_K[:, None] - place_K)
    if weights is None:
        return np.minimum(apart_KK, 1)
    return apart_KK if weights == "linear" else apart_KK**2


def _each_once(ratings_AN: Floats) -> Ints:
    return np.arange(ratings_AN.shape[1])


def _break_tie(tied: Sequence[Any], ties: Literal["none", "first"] | Sequence[Any]) -> Any:
    """The winner among values in the order they were voted for."""
    if isinstance(ties, str):
        return tied[0] if ties == "first" else None
    ranked = [value for value in ties if value in tied]
    if not ranked:
        raise ValueError(f"none of the values that have equally many votes, {tied}, is ranked in {tuple(ties)}")
    return ranked[0]
