"""Who wins, by group: what the report says of rewards beside margins and lengths."""

from __future__ import annotations

import pytest

from camelid.preferences import accuracy_by, by_length, by_margin
from camelid.rows import Preference


def row(number: int, chosen: str, rejected: str) -> Preference:
    return Preference(str(number), "", (), chosen, rejected)


def test_accuracy_by_group() -> None:
    values = {"ours": [[2.0, 1.0], [0.0, 3.0], [1.0, 1.0]], "theirs": [[1.0, 0.0]] * 3}
    found = accuracy_by({"all": [0, 1, 2], "last": [2]}, values)
    assert list(found) == ["all (3 pairs)", "last (1 pairs)"]
    assert {name: one["value"] for name, one in found["all (3 pairs)"].items()} == pytest.approx(
        {"ours": 0.5, "theirs": 1.0}
    )
    assert found["last (1 pairs)"]["ours"] == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_thirds_of_the_margin() -> None:
    values = [[0.0, 5.0], [1.0, 0.9], [2.0, 0.0], [0.0, 0.0], [9.0, 0.0], [0.0, 1.0]]
    assert by_margin(values) == {"small margin": [3, 1], "middle margin": [5, 2], "large margin": [0, 4]}
    assert by_margin(values[:2]) == {"small margin": [1], "middle margin": [0]}


def test_which_answer_is_longer() -> None:
    rows = [row(0, "long one", "short"), row(1, "a", "b"), row(2, "a", "longer"), row(3, "aaa", "bb")]
    assert by_length(rows) == {"better one longer": [0, 3], "better one shorter": [2], "same length": [1]}
