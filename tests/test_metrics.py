"""Metrics against scikit-learn, SciPy and sums worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score

from camelid import metrics
from camelid.metrics import Draws, entities


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(3)
    gold = draw.integers(0, 4, size=200)
    return gold, np.where(draw.random(200) < 0.6, gold, draw.integers(0, 4, size=200))


def test_f1_and_accuracy_equal_scikit_learn(answers: tuple[np.ndarray, np.ndarray]) -> None:
    gold, found = answers
    assert metrics.accuracy(gold, found) == accuracy_score(gold, found)
    np.testing.assert_allclose(metrics.f1_by_class(gold, found, 4), f1_score(gold, found, average=None))
    assert metrics.macro_f1(gold, found, 4) == pytest.approx(f1_score(gold, found, average="macro"))


def test_macro_f1_leaves_out_classes_that_never_occur() -> None:
    gold, found = np.array([0, 0, 2]), np.array([0, 2, 2])
    assert metrics.macro_f1(gold, found, 5) == pytest.approx(f1_score(gold, found, average="macro"))


def test_bootstrap_interval_is_near_the_normal_one(answers: tuple[np.ndarray, np.ndarray]) -> None:
    """Accuracy p on n rows has standard error sqrt(p (1 - p) / n); 1.96 of it on either side."""
    gold, found = answers
    counts = metrics.resampled_confusions(gold, found, 4, Draws(200, seed=1))
    span = metrics.interval(0.0, counts.trace(axis1=1, axis2=2) / 200)
    p = accuracy_score(gold, found)
    half = 1.96 * np.sqrt(p * (1 - p) / 200)
    assert span.low == pytest.approx(p - half, abs=0.015)
    assert span.high == pytest.approx(p + half, abs=0.015)


def test_draws_repeat_themselves() -> None:
    first, second = list(Draws(10, seed=4, resamples=3)), list(Draws(10, seed=4, resamples=3))
    assert np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize(("only_first", "only_second"), [(10, 2), (3, 3), (0, 7), (0, 0)])
def test_mcnemar_is_the_exact_binomial_test(only_first: int, only_second: int) -> None:
    right = [(True, False)] * only_first + [(False, True)] * only_second + [(True, True)] * 5
    first, second = (np.array(column) for column in zip(*right, strict=True))
    found = metrics.mcnemar(first, second)
    differ = only_first + only_second
    expected = binomtest(only_first, differ, 0.5).pvalue if differ else 1.0
    assert found == (only_first, only_second, pytest.approx(expected))


def test_entities_as_conlleval_reads_them() -> None:
    tags = ["B-per", "I-per", "O", "I-loc", "I-loc", "B-loc", "I-per", "B-per"]
    expected = {("per", 0, 1), ("loc", 3, 4), ("loc", 5, 5), ("per", 6, 6), ("per", 7, 7)}
    assert entities(tags) == expected
    assert entities(tags, strict=True) == {("per", 0, 1), ("loc", 5, 5), ("per", 7, 7)}


def test_entity_f1_by_hand() -> None:
    """Gold per(0,1) loc(3,3); found per(0,1) loc(3,4): 1 hit, 2 gold, 2 found, F1 = 2 / 4. Only loc: 0."""
    gold, found = ["B-per", "I-per", "O", "B-loc", "O"], ["B-per", "I-per", "O", "B-loc", "I-loc"]
    counts = metrics.entity_counts(gold, found)
    assert counts.tolist() == [1, 2, 2]
    assert metrics.entity_f1(counts) == 0.5
    assert metrics.entity_f1(metrics.entity_counts(gold, found, kind="loc")) == 0.0
    assert metrics.entity_f1(np.array([0, 0, 0])) == 0.0
