"""A file of any size whose rows are labelled beside a second opinion, and what of it a person should look at first.

Rows stream: none of these functions holds more than one row, or the few that are to be reviewed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path
from typing import Any

from camelid.annotation import label_of
from camelid.data import formats
from camelid.data.columns import Problem, annotation_shape, missing_columns
from camelid.errors import UserError, raise_all
from camelid.rows import Annotated, Judged


@dataclass(frozen=True)
class Archive:
    """The file, the columns of text and group, and the fewest words a row must have."""

    path: str
    text: str
    group: str | None
    least_words: int


@dataclass(frozen=True, slots=True)
class Coded:
    """An archive row as it was labelled. `margin` is that of the two largest shares, None where there are no shares;
    `second` is the second opinion."""

    id: str
    origin: str
    group: str
    text: str
    label: str
    outcome: str
    shares: dict[str, float]
    margin: float | None
    second: str
    reply: str
    repairs: int
    problem: str = ""


def read_archive(archive: Archive, dropped: Counter[str]) -> Iterator[Annotated]:
    """Rows of the file one by one; the id is the row's number. Those left out are counted by reason."""
    convert = annotation_shape(archive.text, {}, archive.group).convert
    for number, (origin, values) in enumerate(formats.read_table(Path(archive.path))):
        row = convert(str(number), origin, values)
        if isinstance(row, Problem):
            dropped[f"archive: {row.what}"] += 1
        elif len(row.text.split()) < archive.least_words:
            dropped[f"archive: fewer than {archive.least_words} words"] += 1
        else:
            yield row


def survey_archive(archive: Archive) -> tuple[int, dict[str, int]]:
    """(rows to be labelled, rows left out by reason), the file read through once.

    Raises UserError when it lacks a column, or no row is left.
    """
    columns = next(formats.read_table(Path(archive.path)), ("", {}))[1]
    wanted = [archive.text, *([archive.group] if archive.group else [])]
    raise_all(missing_columns(archive.path, wanted, columns, "--text and --group"))
    dropped: Counter[str] = Counter()
    count = sum(1 for _ in read_archive(archive, dropped))
    if not count:
        raise UserError(f"{archive.path} has no row to label", f"Left out: {dict(dropped)}; see --least-words.")
    return count, dict(dropped)


def code_row(row: Annotated, judged: Judged, second: str) -> Coded:
    """What is kept of a row."""
    shares = sorted(judged.shares.values(), reverse=True)
    return Coded(
        id=row.id,
        origin=row.origin,
        group=row.group,
        text=row.text,
        label=label_of(judged),
        outcome=judged.outcome,
        shares=judged.shares,
        margin=shares[0] - shares[1] if shares else None,
        second=second,
        reply=judged.reply,
        repairs=judged.repairs,
        problem=judged.problem,
    )


def read_coded(path: Path) -> Iterator[Coded]:
    """The labelled rows of a file one by one."""
    for _, values in formats.read_table(path):
        yield Coded(**{name: value for name, value in values.items() if name != "row"})


def first_to_review(path: Path, count: int) -> Iterator[Any]:
    """The rows to look at first: without a label, then those the second opinion is against, each by rising margin."""
    yield from nsmallest(
        count,
        read_coded(path),
        key=lambda row: (row.outcome == "value", row.label == row.second, row.margin or 0.0),
    )


def tally(path: Path) -> dict[str, Any]:
    """How labels, outcomes and second opinions fell out."""
    found = Counter((row.label, row.outcome, row.label == row.second) for row in read_coded(path))
    by_label, by_outcome, by_second = (Counter() for _ in range(3))
    for (label, outcome, same), count in found.items():
        by_label[label] += count
        by_outcome[outcome] += count
        by_second[same] += count
    return {
        "labels": dict(sorted(by_label.items())),
        "outcomes": dict(by_outcome),
        "as the second opinion": by_second[True] / by_second.total(),
    }
