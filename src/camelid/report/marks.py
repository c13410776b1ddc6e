"""Texts with the parts that a run marked in them, beside what was said of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from camelid.report.files import RunFiles

SHOWN = 6
LONGEST = 1200  # characters of a text


@dataclass(frozen=True)
class MarkedText:
    """(piece, whether it is marked) in order, what was said, and where the row stands."""

    pieces: list[tuple[str, bool]]
    said: str
    origin: str


def collect_marks(files: RunFiles) -> list[MarkedText]:
    """The first rows of the stages in the folder `marked`; none where a run marks nothing."""
    stages = [name for name in files.manifest["stages"] if name.startswith("marked/")]
    rows = (row for name in stages for row in files.lines(f"{name}.jsonl"))
    return [MarkedText(list(_cut(row)), str(row["said"]), str(row["origin"])) for row in islice(rows, SHOWN)]


def _cut(row: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """The pieces up to LONGEST characters."""
    room = LONGEST
    for piece, mark in zip(row["pieces"], row["marks"], strict=True):
        if len(piece) > room:
            yield f"{piece[:room]} …", mark
            return
        room -= len(piece)
        yield piece, mark
