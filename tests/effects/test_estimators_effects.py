"""The estimators on real tweets and the real 135M model, among scikit-learn's tools, run by `make effects`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from camelid import data
from camelid.estimators import LabelClassifier

pytestmark = [pytest.mark.effects, pytest.mark.data, pytest.mark.real]


def without_mentions(texts: list[str]) -> list[str]:
    return [text.replace("@user", "").strip() for text in texts]


def test_a_grid_over_a_pipeline_on_emotion() -> None:
    """Above the majority class on the test rows, and a clone of the winner fitted again says the same, bit for bit."""
    rows: list[Any] = data.read_rows("emotion")[:320]
    test: list[Any] = data.read_rows("emotion:test")[:200]
    texts, labels = [row.text for row in rows], [row.label for row in rows]
    pipeline = make_pipeline(FunctionTransformer(without_mentions), LabelClassifier())
    grid = GridSearchCV(pipeline, {"labelclassifier__learning_rate": [1e-5, 2e-3]}, cv=2).fit(texts, labels)
    assert grid.best_params_ == {"labelclassifier__learning_rate": 2e-3}
    wanted = np.array([row.label for row in test])
    shares = [np.mean(wanted == name) for name in set(wanted)]
    assert grid.score([row.text for row in test], wanted) > max(shares) + 0.1
    again: Any = clone(grid.best_estimator_)
    again.fit(texts, labels)
    found = [one.predict_proba([row.text for row in test]) for one in (grid.best_estimator_, again)]
    assert np.array_equal(*found)
