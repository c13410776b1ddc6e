"""Bank marketing in 16 scaled columns: who took the offer (from google-deepmind/llp_bp; its data CC BY 4.0).

Rows are in no bag: bags are drawn, and the labels serve their totals and the scores. The published test split is not
part of the set as it is kept here, so scores are measured on val.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from camelid.data.formats import read_local
from camelid.rows import Member

ROW = Member
SPLITS = {"train": "train", "test": "val"}
FILES = {"train": "x_train.csv", "val": "x_val.csv"}


def read(split: str, dropped: Counter[str]) -> Iterator[Member]:
    """Every row of the split; none is left out."""
    source = "github.com/google-deepmind/llp_bp"
    numbers, labels = (read_local("llp-bp", f"{side}_{split}", source=source, suffix=".csv") for side in "xy")
    for row, ((origin, values), (_, label)) in enumerate(zip(numbers, labels, strict=True)):
        positive = float(next(iter(label.values()))) == 1
        yield Member(str(row), origin, "", tuple(map(float, values.values())), "", positive)
