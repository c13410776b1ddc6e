"""Entries of scores.json: systems compared on the same rows, or a plain table where an entry is something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from pydantic import BaseModel, Field, FiniteFloat, ValidationError, model_validator

from camelid.report.costs import Cost, cost_of_system
from camelid.report.numbers import NONE, show_count, show_p, show_score, show_signed, show_value
from camelid.report.plots import Axis, Mark, draw_intervals, draw_ticks, fit_axis

FOLD = 20  # more classes than this are shown by their extremes first


class Interval(BaseModel):
    """A value with the ends of its 95 % interval."""

    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat

    def span(self) -> str:
        """The two ends as text."""
        return f"{show_score(self.low)} to {show_score(self.high)}"


class System(BaseModel):
    """The scores of one system: every metric with an interval by its name, and what belongs to classes."""

    metrics: dict[str, Interval]
    f1_by_class: dict[str, Interval] = {}
    confusion: list[list[int]] = []

    @model_validator(mode="before")
    @classmethod
    def _collect(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        metrics = {name: value for name, value in values.items() if isinstance(value, dict) and "low" in value}
        return {**values, "metrics": metrics}


class Against(BaseModel):
    """Ours minus another system, and McNemar's two counts with their p."""

    difference: Interval
    only_ours: int | None = None
    only_theirs: int | None = None
    p: FiniteFloat | None = None


class Comparison(BaseModel):
    """An entry written by `evaluation.evaluate`."""

    metric: str
    ours: str
    systems: dict[str, System]
    split: str = ""
    task: str = ""
    rows: int = 0
    classes: list[str] = []
    support: dict[str, int] = {}
    against: dict[str, Against] = {}
    best_baseline: str | None = None
    verdict: str = ""
    name: str = Field("", description="key of the entry")

    @model_validator(mode="after")
    def _complete(self) -> Comparison:
        if any(self.metric not in system.metrics for system in self.systems.values()):
            raise ValueError("a system lacks the main metric")
        if self.ours not in self.systems or (self.best_baseline or self.ours) not in self.systems:
            raise ValueError("a system has no scores")
        return self

    def main(self, system: str) -> Interval:
        """The main metric of a system."""
        return self.systems[system].metrics[self.metric]

    def ranked(self) -> list[str]:
        """The systems, best first by the main metric."""
        return sorted(self.systems, key=lambda name: -self.main(name).value)


@dataclass(frozen=True)
class PlotRow:
    """A row of a dot plot."""

    name: str
    strip: Markup
    value: str
    note: str
    ours: bool = False


@dataclass(frozen=True)
class DotPlot:
    """Rows over one axis; `folded` rows are shown on demand."""

    rows: list[PlotRow]
    folded: list[PlotRow]
    ticks: Markup


@dataclass(frozen=True)
class TableRow:
    """A line of the comparison table: metrics are (value, interval); the others are text."""

    name: str
    ours: bool
    metrics: list[tuple[str, str]]
    difference: tuple[str, str]
    only_ours: str
    only_theirs: str
    p: str
    cost: Cost | None


def read_entries(scores: Mapping[str, Any]) -> tuple[list[Comparison], list[tuple[str, list[tuple[str, str]]]]]:
    """The entries the report understands, and the others as (name, lines of a plain table)."""
    known, plain = [], []
    for name, entry in scores.items():
        try:
            known.append(Comparison.model_validate({**entry, "name": name}))
        except (ValidationError, TypeError):
            plain.append((name, list(list_values(entry))))
    return known, plain


def list_values(entry: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, text) of every value inside; an interval is one value."""
    if not isinstance(entry, Mapping) or not entry:
        yield path, show_value(entry)
    elif {"value", "low", "high"} == set(entry):
        yield path, "{} ({} to {})".format(*(show_value(entry[key]) for key in ("value", "low", "high")))
    else:
        for name, value in entry.items():
            yield from list_values(value, f"{path}.{name}" if path else str(name))


def name_metric(metric: str) -> str:
    """A metric's name in words: entity_f1 -> entity F1."""
    words = {"f1": "F1", "macro": "macro"}
    return " ".join(words.get(word, word) for word in metric.split("_")).replace("macro F1", "macro-F1")


def list_metrics(comparison: Comparison) -> list[str]:
    """The metrics every system has, the main one first."""
    shared = [
        name
        for name in comparison.systems[comparison.ours].metrics
        if all(name in system.metrics for system in comparison.systems.values())
    ]
    return [comparison.metric, *(name for name in shared if name != comparison.metric)]


def plot_systems(comparison: Comparison) -> DotPlot:
    """One row a system, best first; the dashed line is ours."""
    scores = {name: comparison.main(name) for name in comparison.ranked()}
    axis = _axis(list(scores.values()))
    ours = comparison.ours
    rows = [
        PlotRow(
            name,
            draw_intervals(
                [Mark(score.value, score.low, score.high, "ours" if name == ours else "other")],
                axis,
                f"{name}: {name_metric(comparison.metric)} {show_score(score.value)}, 95 % interval {score.span()}",
                reference=scores[ours].value,
            ),
            show_score(score.value),
            score.span(),
            name == ours,
        )
        for name, score in scores.items()
    ]
    return DotPlot(rows, [], draw_ticks(axis, f"axis: {name_metric(comparison.metric)}"))


def tabulate_systems(comparison: Comparison, costs: Mapping[str, Cost]) -> list[TableRow]:
    """The lines of the comparison table, best system first."""
    names = list_metrics(comparison)
    return [
        TableRow(
            name,
            name == comparison.ours,
            [_pair(comparison.systems[name].metrics[metric]) for metric in names],
            *_against(comparison.against.get(name)),
            cost_of_system(costs, name, trained=name == comparison.ours),
        )
        for name in comparison.ranked()
    ]


def plot_classes(comparison: Comparison) -> DotPlot | None:
    """F1 of each class, the weakest of ours first, beside the best baseline. None when there are no classes."""
    ours = comparison.systems[comparison.ours].f1_by_class
    if not ours:
        return None
    rival = comparison.systems[comparison.best_baseline].f1_by_class if comparison.best_baseline else {}
    axis = _axis([*ours.values(), *rival.values()])
    order = sorted(ours, key=lambda name: (ours[name].value, -comparison.support.get(name, 0), name))
    rows = [_class_row(comparison, name, ours[name], rival.get(name), axis) for name in order]
    return DotPlot(rows[:FOLD], rows[FOLD:], draw_ticks(axis, "axis: F1"))


def _class_row(comparison: Comparison, name: str, mine: Interval, theirs: Interval | None, axis: Axis) -> PlotRow:
    marks = [Mark(mine.value, mine.low, mine.high, "ours")]
    label = f"{name}: F1 of {comparison.ours} {show_score(mine.value)} ({mine.span()})"
    value = show_score(mine.value)
    if theirs:
        marks.append(Mark(theirs.value, theirs.low, theirs.high, "other"))
        label += f", of {comparison.best_baseline} {show_score(theirs.value)} ({theirs.span()})"
    support = show_count(comparison.support.get(name, 0))
    note = f"baseline {show_score(theirs.value)} · n {support}" if theirs else f"n {support}"
    return PlotRow(name, draw_intervals(marks, axis, label), value, note)


def _axis(scores: Sequence[Interval]) -> Axis:
    ends = [end for score in scores for end in (score.low, score.value, score.high)]
    inside = min(ends) >= 0 and max(ends) <= 1
    return fit_axis(ends, floor_at=0 if inside else None, ceiling_at=1 if inside else None)


def _pair(score: Interval) -> tuple[str, str]:
    return show_score(score.value), score.span()


def _against(other: Against | None) -> tuple[tuple[str, str], str, str, str]:
    if other is None:
        return (NONE, ""), NONE, NONE, NONE
    gap = other.difference
    span = f"{show_signed(gap.low)} to {show_signed(gap.high)}"
    only_ours, only_theirs = (
        NONE if count is None else show_count(count) for count in (other.only_ours, other.only_theirs)
    )
    return (show_signed(gap.value), span), only_ours, only_theirs, NONE if other.p is None else show_p(other.p)
