"""How numbers are spread: labels in each split, rewards of the better and the other answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import floor
from statistics import fmean, pstdev

from camelid.report.comparisons import DotPlot, PlotRow
from camelid.report.numbers import show_count, show_number
from camelid.report.plots import Axis, Column, draw_columns, draw_ticks, fit_axis

BARS = 24
WIDEST = 0.1  # of the axis, for a bar that stands for one value

Bar = tuple[float, float, int, str]  # low, high, rows, what it stands for


def plot_numbers(splits: Mapping[str, Sequence[float]], of: str = "label", units: str = "rows") -> DotPlot | None:
    """One histogram a split, all over one axis, of a number of each of its `units`; None when there are no numbers."""
    values = [value for numbers in splits.values() for value in numbers]
    if not values:
        return None
    axis, places = fit_axis(values), sorted(set(values))
    rows = {name: count_stretches(numbers, axis) for name, numbers in splits.items() if numbers}
    if len(places) <= BARS:  # ratings, say
        half = min([WIDEST * (axis.high - axis.low), *(high - low for low, high in pairwise(places))]) / 2
        rows = {name: count_places(splits[name], places, half) for name in rows}
        axis = Axis(axis.low - half, axis.high + half, axis.ticks)
    plots = [_row(name, splits[name], bars, axis, of, units) for name, bars in rows.items()]
    return DotPlot(plots, [], draw_ticks(axis, f"axis: {of}"))


def count_stretches(numbers: Sequence[float], axis: Axis) -> list[Bar]:
    """The rows in each of BARS stretches of the axis: [low, high), the last one closed."""
    step = (axis.high - axis.low) / BARS
    counts = Counter(min(floor((number - axis.low) / step), BARS - 1) for number in numbers)
    edges = [axis.low + bar * step for bar in range(BARS + 1)]
    return [
        (low, high, counts[bar], f"{show_number(low)} to {show_number(high)}")
        for bar, (low, high) in enumerate(pairwise(edges))
    ]


def count_places(numbers: Sequence[float], places: Sequence[float], half: float) -> list[Bar]:
    """The rows at each of the values `places`, its bar reaching `half` to either side."""
    counts = Counter(numbers)
    return [(place - half, place + half, counts[place], show_number(place)) for place in places]


def _row(name: str, numbers: Sequence[float], bars: Sequence[Bar], axis: Axis, of: str, units: str) -> PlotRow:
    largest = max(count for _, _, count, _ in bars)
    columns = [
        Column(low, high, count / largest, f"{what}: {show_count(count)} {units}")
        for low, high, count, what in bars
        if count
    ]
    spread = f"mean {show_number(fmean(numbers))}, standard deviation {show_number(pstdev(numbers))}"
    ends = f"{show_number(min(numbers))} to {show_number(max(numbers))}"
    label = f"{of}s of {show_count(len(numbers))} {name} {units}: {spread}, {ends}"
    return PlotRow(name, draw_columns(columns, axis, label), f"mean {show_number(fmean(numbers))}", ends)
