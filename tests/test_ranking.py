"""Average precision and thresholds against scikit-learn and sums worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, precision_score, roc_curve

from camelid import metrics, ranking
from camelid.metrics import Draws


@pytest.fixture
def guarded() -> tuple[np.ndarray, np.ndarray]:
    """300 rows, a third positive, with scores that tell something and have many ties."""
    draw = np.random.default_rng(11)
    gold = draw.random(300) < 0.3
    return gold, (0.4 * gold + draw.random(300)).round(1) / 1.4


def test_average_precision_by_hand() -> None:
    """Labels 1 0 1 0 from the highest score: recall rises by 1/2 at precision 1/1 and by 1/2 at 2/3, so 5/6. Order of
    rows plays no part. With all four equal there is one threshold: recall 1 at precision 2/4."""
    gold, scores = np.array([True, False, True, False]), np.array([0.9, 0.8, 0.7, 0.6])
    assert ranking.average_precision(gold, scores) == pytest.approx(0.833333, abs=1e-6)
    assert ranking.average_precision(gold[::-1], scores[::-1]) == pytest.approx(5 / 6)
    assert ranking.average_precision(gold, np.zeros(4)) == 0.5
    assert ranking.average_precision(gold, -scores) == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_ties_are_one_threshold() -> None:
    """Scores 3, 2, 2, 1 with labels 1 0 1 1: recall 1/3 at precision 1/1, 2/3 at 2/3 (both rows of score 2 at once), 1
    at 3/4. Told apart, the positive row of score 2 would get 2/2 or 2/3 depending on the order of rows."""
    gold, scores = np.array([1, 0, 1, 1]).astype(bool), np.array([3.0, 2.0, 2.0, 1.0])
    expected = (1 + 2 / 3 + 3 / 4) / 3
    for order in ([0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0]):
        assert ranking.average_precision(gold[order], scores[order]) == pytest.approx(expected)


@given(st.lists(st.tuples(st.booleans(), st.integers(-4, 4)), min_size=1, max_size=30))
def test_average_precision_equals_scikit_learn(rows: list[tuple[bool, int]]) -> None:
    gold, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows]) / 3
    found = ranking.average_precision(gold, scores)
    if gold.any():
        assert found == pytest.approx(average_precision_score(gold, scores))
        assert found == pytest.approx(ranking.average_precision(gold, np.exp(scores))), "only the order matters"
    else:
        assert found == 0


def test_gold_may_be_given_as_0_and_1(guarded: tuple[np.ndarray, np.ndarray]) -> None:
    gold, scores = guarded
    assert ranking.average_precision(gold.astype(np.int64), scores) == ranking.average_precision(gold, scores)


def test_resampled_average_precision_is_that_of_the_drawn_rows(guarded: tuple[np.ndarray, np.ndarray]) -> None:
    gold, scores = guarded
    draws = Draws(300, seed=1, resamples=1000)  # more than one block of rows
    expected = [average_precision_score(gold[drawn], scores[drawn]) for drawn in list(draws)[::50]]
    found = ranking.resampled_average_precision(gold, scores, draws)
    np.testing.assert_allclose(found[::50], expected)
    span = metrics.interval(ranking.average_precision(gold, scores), found)
    assert span.low < span.value < span.high


def test_resamples_without_a_positive_row_have_none() -> None:
    gold, scores = np.array([True, False, False]), np.array([0.9, 0.1, 0.5])
    draws = Draws(3, seed=0, resamples=50)
    expected = [1.0 if 0 in drawn else 0.0 for drawn in draws]
    assert ranking.resampled_average_precision(gold, scores, draws).tolist() == expected
    assert 0.0 in expected


def test_a_score_that_is_no_number_is_refused() -> None:
    gold, scores = np.array([True, False]), np.array([np.nan, 0.5])
    for measure in (ranking.average_precision, ranking.best_threshold):
        with pytest.raises(ValueError, match="NaN"):
            measure(gold, scores)
    with pytest.raises(ValueError, match="NaN"):
        ranking.resampled_average_precision(gold, scores, Draws(2, 0))


def test_thresholds_by_hand() -> None:
    """From the highest score: labels 1 | 0 | 1 1 | 0 | 0, the two of 0.6 together.

    cut    hits  flagged  precision  recall  false positives  F1
    0.9    1     1        1          1/3     0                2/4
    0.8    1     2        1/2        1/3     1/3              2/5
    0.6    3     4        3/4        1       1/3              6/7
    0.4    3     5        3/5        1       2/3              6/8
    0.1    3     6        1/2        1       1                6/9
    """
    gold = np.array([1, 0, 1, 1, 0, 0]).astype(bool)
    scores = np.array([0.9, 0.8, 0.6, 0.6, 0.4, 0.1])
    best = ranking.best_threshold(gold, scores)
    assert best is not None
    assert best.as_dict() == pytest.approx(
        {"threshold": 0.6, "f1": 6 / 7, "precision": 3 / 4, "recall": 1, "false_positive_rate": 1 / 3}
    )

    def cut(by: ranking.Aim, at: float) -> float | None:
        found = ranking.best_threshold(gold, scores, by, at)
        return found and found.threshold

    # of equal recall (1) the highest cut, which is also at least as precise
    assert [cut("precision", at) for at in (0.0, 0.5, 0.75, 0.76, 1.0)] == [0.6, 0.6, 0.6, 0.9, 0.9]
    assert [cut("false_positive_rate", at) for at in (0.0, 0.3, 1 / 3, 0.9, 1.0)] == [0.9, 0.9, 0.6, 0.6, 0.6]
    assert ranking.best_threshold(~gold, scores, "precision", 0.7) is None
    assert ranking.best_threshold(~gold, scores, "false_positive_rate", 0.1) is None


def test_equally_good_thresholds_flag_the_fewest() -> None:
    """Labels 1 0 0 1 from the highest score: F1 is 2/3, 2/4, 2/5 and 4/6, so 2/3 twice."""
    best = ranking.best_threshold(np.array([True, False, False, True]), np.array([0.9, 0.5, 0.3, 0.1]))
    assert best is not None
    assert (best.threshold, best.f1) == (0.9, pytest.approx(2 / 3))


@pytest.mark.parametrize("at", [0.02, 0.1, 0.5])
def test_thresholds_equal_the_curves_of_scikit_learn(guarded: tuple[np.ndarray, np.ndarray], at: float) -> None:
    gold, scores = guarded
    by_f1 = ranking.best_threshold(gold, scores)
    assert by_f1 is not None
    assert by_f1.f1 == pytest.approx(max(f1_score(gold, scores >= cut) for cut in scores))
    assert by_f1.f1 == pytest.approx(f1_score(gold, scores >= by_f1.threshold))
    assert by_f1.precision == pytest.approx(precision_score(gold, scores >= by_f1.threshold))
    false, true, _ = roc_curve(gold, scores, drop_intermediate=False)
    by_rate = ranking.best_threshold(gold, scores, "false_positive_rate", at)
    assert by_rate is None or by_rate.recall == pytest.approx(true[false <= at].max())
    assert (by_rate is None) == (false[1] > at)
    precision, recall, _ = precision_recall_curve(gold, scores)
    by_precision = ranking.best_threshold(gold, scores, "precision", at)
    assert by_precision is not None
    assert by_precision.recall == pytest.approx(recall[precision >= at].max())
    assert by_precision.precision >= at


def test_a_threshold_asked_for_wrongly_is_refused() -> None:
    gold, scores = np.array([True, False]), np.array([0.9, 0.1])
    for only in (np.ones(2, bool), np.zeros(2, bool)):
        with pytest.raises(ValueError, match="positive and negative rows"):
            ranking.best_threshold(only, scores)
    with pytest.raises(ValueError, match="takes no value"):
        ranking.best_threshold(gold, scores, "f1", 0.5)
    with pytest.raises(ValueError, match="takes the value to keep"):
        ranking.best_threshold(gold, scores, "precision")
    with pytest.raises(ValueError, match="from 0 to 1, not 5"):
        ranking.best_threshold(gold, scores, "false_positive_rate", 5)
