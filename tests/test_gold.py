"""Annotated rows as a memory and as rows to score: what stands where, and what there is too little of."""

from __future__ import annotations

from pathlib import Path

import pytest

from camelid.errors import UserError
from camelid.gold import read_gold
from camelid.recipe import Data
from conftest import own_rows, write_jsonl


@pytest.mark.data
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fifteen_narrators(seed: int) -> None:
    found = read_gold(Data(train="oral-history"), ["topic", "sentiment"], None, 0.4, "groups", seed, needs_groups=True)
    memory, test = {row.group for row in found.train}, {row.group for row in found.test}
    assert len(memory | test) == 15
    assert not memory & test
    assert "" not in memory | test
    assert abs(len(found.train) - 223) < 40


def test_memory_with_a_single_label_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "gold.jsonl", [row | {"topic": "2"} for row in own_rows("oral-history")])
    with pytest.raises(UserError, match="all memory rows have one label of the kind 'topic'"):
        read_gold(Data(train=str(path)), ["topic"], None, 0.4, "rows", 0)


def test_texts_on_both_sides_are_told_and_rows_left_out_are_counted_by_side(tmp_path: Path) -> None:
    rows = own_rows("oral-history")
    memory = write_jsonl(tmp_path / "memory.jsonl", [*rows[:6], rows[6] | {"text": ""}])
    again = rows[0] | {"text": rows[0]["text"].upper()}
    test = write_jsonl(tmp_path / "test.jsonl", [again, *rows[7:], *(rows[6] | {"text": ""} for _ in range(2))])
    values = Data(train=str(memory), test=str(test), missing="drop")
    found = read_gold(values, ["topic"], None, 0.4, "rows", 0)
    assert found.dropped == {"memory: no text in column 'text'": 1, "test: no text in column 'text'": 2}
    [warning] = found.warnings
    assert warning.startswith("1 texts stand in memory and in test")
