"""How well scores put positive rows before the others, and where to cut them.

`gold` says which rows are positive, a higher score that a row is more likely to be. Rows of equal score are never told
apart: they are one threshold. V is the axis of distinct scores, the highest first.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from camelid.metrics import Bools, Draws, Floats, Ints, bootstrap_rows, number_values

Aim = Literal["f1", "precision", "false_positive_rate"]


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where to cut, and what the rows it was chosen on say of it. A row counts as positive at `threshold` and above."""

    threshold: float
    f1: float
    precision: float
    recall: float
    false_positive_rate: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def average_precision(gold_N: Bools, scores_N: Floats) -> float:
    """Area under the precision-recall curve, AP = sum_n (R_n - R_{n-1}) P_n over the distinct scores, 0 to 1.

    Equal to scikit-learn's average_precision_score. Scores that know nothing get the share of positive rows. 0 where no
    row is positive. ValueError for a score that is not a number.
    """
    return float(precision_of(gold_N, _places(scores_N)))


def resampled_average_precision(gold_N: Bools, scores_N: Floats, draws: Draws) -> Floats:
    """The average precision of each resample."""
    places_N = _places(scores_N)
    return bootstrap_rows(draws, lambda drawn_RN: precision_of(gold_N[drawn_RN], places_N[drawn_RN]))


def auroc(gold_N: Bools, scores_N: Floats) -> float:
    """Area under the receiver operating curve: how often a positive row scores above a negative one, ties a half.

    Equal to scikit-learn's roc_auc_score. 0.5 where all rows are of one kind. ValueError for a score that is no number.
    """
    return float(auroc_of(gold_N, _places(scores_N)))


def resampled_auroc(gold_N: Bools, scores_N: Floats, draws: Draws) -> Floats:
    """The area under the receiver operating curve of each resample."""
    places_N = _places(scores_N)
    return bootstrap_rows(draws, lambda drawn_RN: auroc_of(gold_N[drawn_RN], places_N[drawn_RN]))


def auroc_of(gold_XN: Bools, places_XN: Ints) -> Floats:
    """The area along the last axis, from what `metrics.number_values` gave or from drawn rows of it."""
    hits_XV, flagged_XV = cumulate(gold_XN, places_XN)
    false_XV = flagged_XV - hits_XV
    above_XV = (
        hits_XV - np.diff(hits_XV, axis=-1, prepend=0) / 2
    )  # positive rows above a place, and half of those at it
    beaten_X = (np.diff(false_XV, axis=-1, prepend=0) * above_XV).sum(axis=-1)
    pairs_X = hits_XV[..., -1] * false_XV[..., -1]
    return np.where(pairs_X > 0, beaten_X / np.maximum(pairs_X, 1), 0.5)


def precision_of(gold_XN: Bools, places_XN: Ints) -> Floats:
    """Average precision along the last axis, from what `metrics.number_values` gave or from drawn rows of it."""
    hits_XV, flagged_XV = cumulate(gold_XN, places_XN)
    gained_XV = np.diff(hits_XV, axis=-1, prepend=0)
    # places that no drawn row has gain no hit: the precision there is counted zero times
    summed_X = (gained_XV * hits_XV / np.maximum(flagged_XV, 1)).sum(axis=-1)
    return summed_X / np.maximum(hits_XV[..., -1], 1)


def cumulate(gold_XN: Bools, places_XN: Ints) -> tuple[Ints, Ints]:
    """(positive rows, rows) at each place and the places above it, the highest first, both of shape (..., V)."""
    gold_RN, places_RN = (side.reshape(-1, side.shape[-1]) for side in (gold_XN.astype(bool), places_XN))
    rows, values = len(places_RN), int(places_RN.max()) + 1
    own_RN = places_RN + values * np.arange(rows)[:, None]  # each row of the table counts for itself
    shape = (*places_XN.shape[:-1], values)
    all_XV = np.bincount(own_RN.reshape(-1), minlength=rows * values).reshape(shape)
    hits_XV = np.bincount(own_RN[gold_RN], minlength=rows * values).reshape(shape)
    return hits_XV[..., ::-1].cumsum(axis=-1), all_XV[..., ::-1].cumsum(axis=-1)


def best_threshold(gold_N: Bools, scores_N: Floats, by: Aim = "f1", at: float | None = None) -> Threshold | None:
    """The score from which rows should count as positive; to be chosen on other rows than it is reported for.

    "f1" has the highest F1. "precision" has the highest recall among thresholds of at least the precision `at`,
    "false_positive_rate" among those that flag at most the share `at` of the negative rows. Of equally good ones it is
    the highest, which flags the fewest rows. Only scores that occur are tried; None where none of them reaches `at`.
    ValueError for a score that is not a number, where gold rows are all of one kind, and for an `at` that is missing,
    outside 0 to 1, or given with "f1".
    """
    _check_aim(gold_N, by, at)
    scores_V = np.unique(scores_N)[::-1]
    hits_V, flagged_V = cumulate(gold_N, _places(scores_N))
    precision_V, recall_V = hits_V / flagged_V, hits_V / hits_V[-1]
    false_V = (flagged_V - hits_V) / (len(gold_N) - hits_V[-1])
    f1_V = 2 * hits_V / (flagged_V + hits_V[-1])
    goal_V = f1_V if by == "f1" else recall_V
    if at is not None:
        goal_V = np.where(precision_V >= at if by == "precision" else false_V <= at, goal_V, -1.0)
    best = int(goal_V.argmax())  # the first of equals
    if goal_V[best] < 0:
        return None
    return Threshold(*(float(side_V[best]) for side_V in (scores_V, f1_V, precision_V, recall_V, false_V)))


def _check_aim(gold_N: Bools, by: Aim, at: float | None) -> None:
    if gold_N.all() or not gold_N.any():
        raise ValueError("a threshold needs positive and negative rows to be chosen on")
    if (at is None) != (by == "f1"):
        raise ValueError(f'by="{by}" takes {"no value" if by == "f1" else "the value to keep"} in `at`')
    if at is not None and not 0 <= at <= 1:
        raise ValueError(f"`at` is a share from 0 to 1, not {at}")


def _places(scores_N: Floats) -> Ints:
    """The place of each score among the distinct ones. NaN would be sorted above all, as the surest positive."""
    if np.isnan(scores_N).any():
        raise ValueError("a score is not a number (NaN)")
    return number_values(scores_N)
