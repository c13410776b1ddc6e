"""Clusters of a pool."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from camelid.pools import cluster_features, cluster_topics


@pytest.mark.parametrize("clustering", ["features", "topics"])
def test_clusters_are_numbered_without_gaps(clustering: str) -> None:
    """Two kinds of rows, and four clusters asked for: those that nobody is in have no number."""
    texts = [("cats and dogs " if at % 2 else "ships at sea ") * 3 for at in range(30)]
    features_NP = np.array([[at % 2, 0.0] for at in range(30)])
    cluster_N: Any = cluster_features(features_NP, 4, 0) if clustering == "features" else cluster_topics(texts, 4, 0)
    assert sorted(set(cluster_N.tolist())) == list(range(cluster_N.max() + 1))
    assert len({(at % 2, int(arm)) for at, arm in enumerate(cluster_N)}) == cluster_N.max() + 1
