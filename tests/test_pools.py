"""Reading a pool, and its clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camelid.errors import UserError
from camelid.pools import PoolData, cluster_features, cluster_topics, read_pool
from conftest import write_csv


@pytest.mark.parametrize("clustering", ["features", "topics"])
def test_clusters_are_numbered_without_gaps(clustering: str) -> None:
    """Two kinds of rows, and four clusters asked for: those that nobody is in have no number."""
    texts = [("cats and dogs " if at % 2 else "ships at sea ") * 3 for at in range(30)]
    features_NP = np.array([[at % 2, 0.0] for at in range(30)])
    cluster_N: Any = cluster_features(features_NP, 4, 0) if clustering == "features" else cluster_topics(texts, 4, 0)
    assert sorted(set(cluster_N.tolist())) == list(range(cluster_N.max() + 1))
    assert len({(at % 2, int(arm)) for at, arm in enumerate(cluster_N)}) == cluster_N.max() + 1


def labelled(count: int) -> list[dict[str, str]]:
    return [{"text": f"text {at}", "label": str(at % 3 // 2)} for at in range(count)]


def test_rows_that_judge_and_score_leave_the_pool(tmp_path: Path) -> None:
    """Half of a pool that is labelled throughout; the labelled rows of one that is not."""
    path = write_csv(tmp_path / "all.csv", labelled(60))
    found = read_pool(PoolData(train=str(path)), 0)
    assert [len(part) for part in (found.rows, found.validation, found.test)] == [30, 15, 15]
    assert sorted(int(row.id) for part in (found.rows, found.validation, found.test) for row in part) == list(range(60))
    again, other = (read_pool(PoolData(train=str(path)), seed) for seed in (0, 1))
    assert again == found != other
    some = write_csv(tmp_path / "some.csv", [*labelled(30), *({"text": f"new {at}", "label": ""} for at in range(9))])
    found = read_pool(PoolData(train=str(some)), 0)
    assert [row.text for row in found.rows] == [f"new {at}" for at in range(9)]
    assert len(found.validation) == len(found.test) == 15
    assert all(row.positive is not None for row in [*found.validation, *found.test])


def test_rows_with_labels_there_must_be(tmp_path: Path) -> None:
    bare = write_csv(tmp_path / "bare.csv", [{"text": "one"}, {"text": "two"}])
    with pytest.raises(UserError, match="no labelled rows are named"):
        read_pool(PoolData(train=str(bare)), 0)
    with pytest.raises(UserError, match="no pool is named"):
        read_pool(PoolData(), 0)
    alike = write_csv(tmp_path / "alike.csv", [{"text": f"text {at}", "label": "0"} for at in range(20)])
    with pytest.raises(UserError, match="the validation rows are not of two classes"):
        read_pool(PoolData(train=str(alike)), 0)
