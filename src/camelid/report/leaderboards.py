"""Win rates of several models against one baseline: a dot plot, the table, and every model against every other."""

from __future__ import annotations

from dataclasses import dataclass

from camelid.report.comparisons import DotPlot, PlotRow
from camelid.report.numbers import NONE, show_count, show_score
from camelid.report.plots import Axis, Mark, draw_intervals, draw_ticks, fit_axis
from camelid.report.scores import Interval, Leaderboard, Pairwise, Rated

EVEN = 50.0  # per cent: neither is better


@dataclass(frozen=True)
class TableRow:
    """A line of the leaderboard; rates are (value, interval), the others are text."""

    name: str
    rates: list[tuple[str, str]]
    numbers: list[str]
    flags: str


HEADS = (
    ("LC win rate", "win rate"),
    ("LC s.e.", "s.e.", "discrete", "length", "n", "w length", "w difficulty", "w base", "C"),
)


def plot_leaderboard(board: Leaderboard) -> DotPlot:
    """One row a model: a filled dot for the rate without length, a hollow one for the raw rate; half is dashed."""
    ends = [end for line in board.systems.values() for rate in _rates(line) for end in (rate.low, rate.high)]
    axis = fit_axis([*ends, EVEN], floor_at=0, ceiling_at=100)
    rows = [_plot_row(name, line, axis) for name, line in board.systems.items()]
    return DotPlot(rows, [], draw_ticks(axis, "axis: win rate in per cent"))


def tabulate_leaderboard(board: Leaderboard) -> list[TableRow]:
    """The lines of the table, best model first."""
    return [
        TableRow(
            name,
            [(_show_rate(rate.value), f"{_show_rate(rate.low)} to {_show_rate(rate.high)}") for rate in _rates(line)],
            _numbers(line),
            "; ".join(line.flags) or NONE,
        )
        for name, line in board.systems.items()
    ]


def tabulate_pairwise(pairwise: Pairwise) -> list[tuple[str, list[tuple[str, str]]]]:
    """(model, its rate against each of the others with the interval), in the order of the list."""
    return [(one, [_cell(pairwise, one, other) for other in pairwise.systems]) for one in pairwise.systems]


def _cell(pairwise: Pairwise, one: str, other: str) -> tuple[str, str]:
    if one == other:
        return NONE, ""
    rate = pairwise.rates[one][other]
    return _show_rate(rate.value), f"{_show_rate(rate.low)} to {_show_rate(rate.high)}"


def _rates(line: Rated) -> tuple[Interval, Interval]:
    return line.length_controlled_win_rate, line.win_rate


def _plot_row(name: str, line: Rated, axis: Axis) -> PlotRow:
    controlled, raw = _rates(line)
    marks = [
        Mark(controlled.value, controlled.low, controlled.high, "ours"),
        Mark(raw.value, raw.low, raw.high, "other"),
    ]
    told = f"length-controlled win rate {_show_rate(controlled.value)}, raw win rate {_show_rate(raw.value)}"
    strip = draw_intervals(marks, axis, f"{name}: {told}", reference=EVEN)
    return PlotRow(name, strip, _show_rate(controlled.value), f"raw {_show_rate(raw.value)}")


def _numbers(line: Rated) -> list[str]:
    weights = [show_score(line.weights[name]) for name in ("length", "difficulty", "base")]
    errors = [f"{error:.2f}" for error in (line.lc_standard_error, line.standard_error)]
    sizes = [_show_rate(line.discrete_win_rate), show_count(line.avg_length), show_count(line.preferences)]
    return [*errors, *sizes, *weights, f"{line.C:.4g}" if line.C else NONE]


def _show_rate(value: float) -> str:
    """Per cent to two decimals, as published leaderboards have it."""
    return f"{value:.2f}"
