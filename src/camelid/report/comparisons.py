"""Systems side by side: dot plots and the table of all their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from camelid.metrics import LOWER_IS_BETTER, name_metric
from camelid.report.costs import Cost, cost_of_system
from camelid.report.numbers import NONE, show_count, show_p, show_score, show_signed
from camelid.report.plots import Axis, Mark, draw_intervals, draw_ticks, fit_axis
from camelid.report.scores import FOLD, Against, Comparison, Interval, Seeds, SeedScores


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


def list_metrics(comparison: Comparison) -> list[str]:
    """The metrics every system has, the main one first."""
    shared = [
        name
        for name in comparison.systems[comparison.ours].metrics
        if all(name in system.metrics for system in comparison.systems.values())
    ]
    return [comparison.metric, *(name for name in shared if name != comparison.metric)]


def head_metric(metric: str) -> str:
    """A metric's name over its column; ↓ says that less is better."""
    return f"{name_metric(metric)} ↓" if metric in LOWER_IS_BETTER else name_metric(metric)


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
            cost_of_system(costs, name, comparison.stages.get(name, ()), trained=name == comparison.ours),
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


def plot_seeds(seeds: Seeds, ours: str) -> DotPlot:
    """One row a system, best mean first: a small dot for each seed, below them the mean with its interval."""
    systems = sorted(seeds.systems.items(), key=lambda item: -item[1].mean.value)
    single = [Interval(value=value, low=value, high=value) for _, system in systems for value in system.values]
    axis = _axis([*(system.mean for _, system in systems), *single])
    rows = [_seed_row(name, system, axis, name_metric(seeds.metric), name == ours) for name, system in systems]
    return DotPlot(rows, [], draw_ticks(axis, f"axis: {name_metric(seeds.metric)}"))


def _seed_row(name: str, system: SeedScores, axis: Axis, metric: str, is_ours: bool) -> PlotRow:
    mean = system.mean
    mark = Mark(mean.value, mean.low, mean.high, "ours" if is_ours else "other", tuple(system.values))
    each = ", ".join(f"seed {seed} {show_score(value)}" for seed, value in zip(system.seeds, system.values))
    label = f"{name}: mean {metric} {show_score(mean.value)}, 95 % interval {mean.span()}; {each}"
    return PlotRow(name, draw_intervals([mark], axis, label), show_score(mean.value), mean.span(), is_ours)


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
