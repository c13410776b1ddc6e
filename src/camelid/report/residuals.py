"""Predicted numbers against gold ones: the scatter, and how far off they are."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, pstdev, quantiles
from typing import Any

from markupsafe import Markup

from camelid.report.numbers import show_count, show_number
from camelid.report.plots import Axis, Line, draw_panel, draw_ticks, fit_axis

POINTS = 600  # of a scatter: more become one blot

RATINGS = 12
JITTER = 0.015  # of the axis

Pair = tuple[float, float]


@dataclass(frozen=True)
class Scatter:
    """Gold across, predicted up; `drawn` says how many of the rows, and `facts` are (name, value)."""

    panel: Markup
    ticks: Markup
    drawn: str
    facts: list[tuple[str, str]]


def draw_scatter(
    predictions: Iterable[Mapping[str, Any]], worst: Sequence[Mapping[str, Any]], ours: str
) -> Scatter | None:
    """The scatter of a system's predicted rows; `worst` are the rows to mark. None without rows."""
    pairs = [(float(row["gold"]), float(row["predicted"])) for row in predictions if row.get("gold") is not None]
    if not pairs:
        return None
    axis = fit_axis([value for pair in pairs for value in pair])  # one for both, so that the diagonal is y = x
    shown = thin_pairs(pairs)
    marked = tuple((float(row["gold"]), float(row["predicted"])) for row in worst)
    lines = [
        Line(((axis.low, axis.low), (axis.high, axis.high)), "diagonal"),
        Line(tuple(spread_ratings(shown, axis)), "points", dots=True, joined=False, radius=3),
        Line(marked, "worst", dots=True, joined=False, radius=4),
    ]
    label = f"numbers predicted by {ours} against gold ones, {show_count(len(pairs))} rows"
    drawn = f"{show_count(len(shown))} of {show_count(len(pairs))} rows, drawn at random"
    drawn = drawn if len(shown) < len(pairs) else f"All {show_count(len(pairs))} rows"
    if is_rated(pairs):
        drawn += "; those with the same gold label stand a little to either side of it"
    return Scatter(
        draw_panel(lines, axis, axis, label, height=400),
        draw_ticks(axis, "axis: gold"),
        drawn,
        describe_errors(pairs),
    )


def thin_pairs(pairs: Sequence[Pair], limit: int = POINTS) -> Sequence[Pair]:
    """At most `limit` of the pairs, drawn at random with a fixed seed, so that dense places stay dense."""
    return pairs if len(pairs) <= limit else random.Random(0).sample(pairs, limit)


def is_rated(pairs: Sequence[Pair]) -> bool:
    """Whether the gold numbers are a few values over and over, as ratings are."""
    return len({gold for gold, _ in pairs}) <= min(RATINGS, len(pairs) / 2)


def spread_ratings(pairs: Sequence[Pair], axis: Axis) -> list[Pair]:
    """The pairs moved sideways a little by chance where they would hide each other."""
    width = JITTER * (axis.high - axis.low) if is_rated(pairs) else 0.0
    draw = random.Random(0)
    return [(gold + draw.uniform(-width, width), predicted) for gold, predicted in pairs]


def describe_errors(pairs: Sequence[Pair]) -> list[tuple[str, str]]:
    """(name, value) of how far off the predictions are, in the label's unit."""
    errors = [predicted - gold for gold, predicted in pairs]
    sizes = [abs(error) for error in errors]
    golds, founds = zip(*pairs, strict=True)
    bias = fmean(errors)
    facts = [
        ("half of the errors are below", show_number(median(sizes))),
        ("mean error", ("+" if bias > 0 else "") + show_number(bias)),
        ("spread of gold (standard deviation)", show_number(pstdev(golds))),
        ("spread of predicted", show_number(pstdev(founds))),
    ]
    if len(sizes) > 1:
        facts.insert(1, ("nine in ten are below", show_number(quantiles(sizes, n=10, method="inclusive")[8])))
    return facts
