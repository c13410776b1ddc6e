"""Strategies by hand on a pile of twelve rows in two clusters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from camelid.active_learning import Pile, draw_by_cluster, draw_random, draw_unsure, logistic_learner, mix, undersample

CLUSTER_N = np.array([0] * 8 + [1] * 4)


def told(*likely: int, share: float = 0.9) -> Any:
    return lambda split: np.array([share if row in likely else 0.1 for row in range(12)])


def drawn(strategy: Any, pile: Pile, count: int, seed: int = 0) -> list[int]:
    return strategy(pile, count, np.random.default_rng(seed))


def test_random_rows_are_of_the_whole_pile_and_unused() -> None:
    pile = Pile(CLUSTER_N, {0, 1, 2}, told(5))
    assert sorted(drawn(draw_random, pile, 99)) == list(range(3, 12))
    assert len({tuple(drawn(draw_random, pile, 3, seed)) for seed in range(5)}) > 1
    assert drawn(draw_random, Pile(CLUSTER_N, set(range(12))), 3) == []


def test_as_many_of_each_cluster_and_half_of_them_likely() -> None:
    fresh = drawn(draw_by_cluster, Pile(CLUSTER_N), 6)
    assert [sum(CLUSTER_N[fresh] == cluster) for cluster in (0, 1)] == [3, 3]
    uneven = drawn(draw_by_cluster, Pile(CLUSTER_N), 5)
    assert sorted(int(sum(CLUSTER_N[uneven] == cluster)) for cluster in (0, 1)) == [2, 3], "a drawn one gives more"
    chosen = drawn(draw_by_cluster, Pile(CLUSTER_N, {8}, told(0, 1, 2, 3)), 8)
    assert sum(row in (0, 1, 2, 3) for row in chosen) == 2
    assert sorted(row for row in chosen if row > 7) == [9, 10, 11], "all that cluster has"


def test_least_sure_is_nearest_to_one_half() -> None:
    shares_N = np.linspace(0, 1.1, 12)
    pile = Pile(CLUSTER_N, {5}, lambda split: shares_N)
    assert drawn(draw_unsure, pile, 3) == [4, 6, 3], "4 and 6 are as near; the lower number first"
    assert len(drawn(draw_unsure, Pile(CLUSTER_N), 3)) == 3
    assert drawn(draw_unsure, Pile(CLUSTER_N, set(range(12)), told()), 3) == []


@pytest.mark.parametrize(("likely", "count", "wanted"), [(6, 8, 4), (1, 8, 1), (0, 4, 0), (10, 8, 6), (12, 8, 8)])
def test_half_are_likely_unless_there_are_too_few_of_a_kind(likely: int, count: int, wanted: int) -> None:
    rows_N = np.arange(100, 112)
    found = mix(rows_N, np.arange(12) < likely, count, np.random.default_rng(1))
    assert len(found) == len(set(found)) == count
    assert sum(row < 100 + likely for row in found) == wanted


def test_undersampling_keeps_all_positives_and_the_order() -> None:
    labels = {row: row in (3, 7) for row in range(12)}
    found = undersample(range(12), labels, 2, np.random.default_rng(0))
    assert len(found) == 6
    assert {3, 7} <= set(found)
    assert found == sorted(found)
    assert undersample([3, 7, 1, 2, 4, 5], labels, 2, np.random.default_rng(0)) == [3, 7, 1, 2, 4, 5]


def test_weights_of_classes_are_those_of_rows() -> None:
    """As scikit-learn's sample_weight, on rows where they matter."""
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(0)
    features = {"pool": draw.normal(size=(40, 3)), "test": draw.normal(size=(5, 3))}
    labels = [bool(value) for value in features["pool"][:, 0] + draw.normal(size=40) > 0.8]
    weights = {False: 0.2, True: 0.8}
    shares = logistic_learner(features, lambda _: weights)("", range(40), labels)
    wanted = LogisticRegression(max_iter=1000).fit(features["pool"], labels, [weights[label] for label in labels])
    assert shares("test") == pytest.approx(wanted.predict_proba(features["test"])[:, 1], abs=1e-6)
    plain = logistic_learner(features, lambda _: None)("", range(40), labels)
    assert np.abs(plain("test") - shares("test")).max() > 0.05
