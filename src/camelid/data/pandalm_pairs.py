"""The pairs of `pandalm` as nobody has judged them yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from camelid.data import pandalm
from camelid.rows import Pair

ROW = Pair
SPLITS = {"train": "testset"}
FILES = {"testset": "../pandalm/testset.jsonl"}


def read(split: str, dropped: Counter[str]) -> Iterator[Pair]:
    """Every pair in the order of the file."""
    for row in pandalm.read(split, dropped):
        yield Pair(row.id, row.origin, row.questions[0], row.first[0], row.second[0])
