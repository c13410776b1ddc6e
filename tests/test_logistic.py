"""Logistic regression on shares: scikit-learn's liblinear on doubled rows is the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from camelid.logistic import fit_logistic, objective, sigmoid


def rows(seed: int, count: int = 200) -> tuple[Any, Any, Any]:
    draw = np.random.default_rng(seed)
    x_N3 = np.concatenate([draw.normal(size=(count, 2)), np.ones((count, 1))], axis=1)
    return x_N3, draw.uniform(size=count) ** 3, draw.uniform(0.1, 2.0, size=count)


def liblinear(x_N3: Any, y_N: Any, v_N: Any, strength: float) -> Any:
    model = LogisticRegression(
        C=strength, l1_ratio=1.0, solver="liblinear", fit_intercept=False, tol=1e-12, max_iter=100_000, random_state=1
    )
    classes = np.repeat([1, 0], len(y_N))
    weights = np.concatenate([v_N * y_N, v_N * (1 - y_N)])
    return model.fit(np.tile(x_N3, (2, 1)), classes, sample_weight=weights).coef_[0]


@pytest.mark.parametrize("strength", [0.003, 0.02, 0.36, 2.78, 1e4])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_liblinear(strength: float, seed: int) -> None:
    """Also where the penalty makes some weights, or all, exactly 0."""
    x_N3, y_N, v_N = rows(seed)
    reference = liblinear(x_N3, y_N, v_N, strength)
    for start in (None, np.array([2.0, -3.0, 1.0])):
        found = fit_logistic(x_N3, y_N, v_N, strength, start)
        assert found == pytest.approx(reference, abs=1e-6)
        assert (found == 0).tolist() == (np.abs(reference) < 1e-9).tolist()


def test_the_objective_by_hand() -> None:
    """One row, x = 2, w = -1, y = 0.25, v = 3, C = 0.5: 1 - 0.5 * 3 * [0.25 log s(-2) + 0.75 log s(2)]."""
    value = objective(np.array([[2.0]]), np.array([0.25]), np.array([3.0]), 0.5, np.array([-1.0]))
    low, high = 1 / (1 + np.exp(2)), 1 / (1 + np.exp(-2))
    assert value == pytest.approx(1 - 1.5 * (0.25 * np.log(low) + 0.75 * np.log(high)))


def test_a_column_of_zeros_has_no_weight_and_separable_rows_end() -> None:
    x_N2 = np.stack([np.zeros(4), np.array([-1.0, -1.0, 1.0, 1.0])], axis=1)
    found = fit_logistic(x_N2, np.array([0.0, 0.0, 1.0, 1.0]), np.ones(4), 10.0)
    assert found[0] == 0
    assert pytest.approx(10 * 4 * (1 - sigmoid(found[1:]))[0], rel=1e-6) == 1, "the slope of the loss is the penalty's"


def test_sigmoid_far_out() -> None:
    assert sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]
