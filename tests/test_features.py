"""Numbers of texts: what is fitted on the pool only, and texts without words."""

from __future__ import annotations

import numpy as np
import pytest

from camelid.errors import UserError
from camelid.features import reduce_tfidf, standardise
from camelid.pools import cluster_topics


def test_few_words_make_fewer_numbers() -> None:
    splits = {"pool": ["red fish", "red boat", "blue fish"], "test": ["blue boat", "unknown words"]}
    found = reduce_tfidf(splits, "pool", 80, 0)
    assert found["pool"].shape[1] == found["test"].shape[1] == 2, "red and fish stand in two texts"
    assert np.abs(found["test"]).max() < 1e-12, "blue and boat do not"


def test_numbers_are_scaled_by_one_split() -> None:
    features = {"pool": np.array([[1.0, 5.0], [3.0, 5.0]]), "test": np.array([[5.0, 7.0]])}
    found = standardise(features, "pool")
    assert found["pool"].tolist() == [[-1, 0], [1, 0]]
    assert found["test"].tolist() == [[3, 2]], "a number that is always the same is not divided by 0"


@pytest.mark.parametrize("texts", [["", "", ""], ["one", "two", "three"], ["only"]])
def test_texts_without_a_word_in_common(texts: list[str]) -> None:
    with pytest.raises(UserError, match=f"no word stands in two of the {len(texts)} texts"):
        reduce_tfidf({"pool": texts}, "pool", 80, 0)
    with pytest.raises(UserError, match="no word stands in two"):
        cluster_topics(texts, 2, 0)
