"""Juries of judges: how far each agrees with people, under both rules for votes that are level."""

from __future__ import annotations

from dataclasses import dataclass

from camelid.report.numbers import show_score
from camelid.report.scores import FOLD, Interval, Juries


@dataclass(frozen=True)
class TableRow:
    """A line of the table: the members, and kappa under each rule as (value, interval)."""

    members: str
    size: int
    kappas: tuple[tuple[str, str], tuple[str, str]]


def tabulate_juries(juries: Juries) -> tuple[list[TableRow], list[TableRow]]:
    """The best lines, and the others to be shown on demand."""
    lines = [
        TableRow(" + ".join(jury.members), len(jury.members), (_pair(jury.tie), _pair(jury.intended)))
        for jury in juries.juries
    ]
    return lines[:FOLD], lines[FOLD:]


def _pair(kappa: Interval) -> tuple[str, str]:
    return show_score(kappa.value), kappa.span()
