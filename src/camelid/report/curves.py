"""The learning curve: training loss, and what the dev rows said at each epoch's end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeGuard

from markupsafe import Markup

from camelid.metrics import name_metric
from camelid.report.numbers import show_score
from camelid.report.plots import Axis, Line, draw_panel, draw_ticks, fit_axis, span_axis

POINTS = 600  # a curve has no more: a screen shows no more
STYLES = ("solid", "dashed", "dotted")

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class LearningCurve:
    """The two panels over one axis; a panel is None when nothing was measured."""

    loss: Markup | None
    dev: Markup | None
    dev_names: list[tuple[str, str, str]]  # name, style of its line, last value
    ticks: Markup
    unit: str


def draw_learning(lines: Iterable[Mapping[str, Any]]) -> LearningCurve | None:
    """The learning curve from the lines of metrics.jsonl; None when there is nothing to draw."""
    steps = list(lines)
    unit = "epoch" if steps and all("epoch" in step for step in steps) else "step"
    loss = _series(steps, unit, "loss", lambda step: step)
    names = dict.fromkeys(name for step in steps for name in step.get("dev") or {})
    dev = {name: _series(steps, unit, name, lambda step: step.get("dev") or {}) for name in names}
    dev = {name: points for name, points in list(dev.items())[: len(STYLES)] if points}
    if not loss and not dev:
        return None
    across = span_axis(max(x for points in (loss, *dev.values()) for x, _ in points))
    return LearningCurve(
        _draw_loss(loss, across) if loss else None,
        _draw_dev(dev, across) if dev else None,
        [(name_metric(name), style, show_score(dev[name][-1][1])) for name, style in zip(dev, STYLES)],
        draw_ticks(across, f"axis: {unit}s"),
        f"{unit}s",
    )


@dataclass(frozen=True)
class CostCurves:
    """What was reached for what was spent, by system."""

    title: str
    panel: Markup
    names: list[tuple[str, str, str]]  # name, style of its line, last value
    ticks: Markup
    unit: str


def draw_costs(x: str, y: str, lines: Mapping[str, Points]) -> CostCurves | None:
    """Curves of several systems over what was spent; None when there is nothing to draw."""
    known = {name: points for name, points in list(lines.items())[: len(STYLES)] if points}
    if not known:
        return None
    across = span_axis(max(at for points in known.values() for at, _ in points))
    values = [value for points in known.values() for _, value in points]
    up = fit_axis(values, floor_at=0 if min(values) >= 0 else None, ceiling_at=1 if max(values) <= 1 else None)
    drawn = [Line(tuple(points), style) for points, style in zip(known.values(), STYLES)]
    ends = ", ".join(f"{name} {points[-1][1]:.3f}" for name, points in known.items())
    names = [(name, style, show_score(known[name][-1][1])) for name, style in zip(known, STYLES)]
    panel = draw_panel(drawn, across, up, f"{y} by {x}, at the end: {ends}")
    return CostCurves(f"{y[:1].upper()}{y[1:]} by {x}", panel, names, draw_ticks(across, f"axis: {x}"), x)


def smooth(values: Sequence[float], span: float) -> list[float]:
    """The exponential moving average over about `span` values, without the pull of its start towards 0."""
    keep = 1 - 2 / (span + 1)
    total, weight, smoothed = 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        smoothed.append(total / weight)
    return smoothed


def thin(points: Points, limit: int = POINTS) -> Points:
    """At most `limit` points that keep the outline: the lowest and the highest of each stretch, in order."""
    if len(points) <= limit:
        return points
    size = -(-2 * len(points) // limit)
    kept: Points = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def _series(steps: Sequence[Mapping[str, Any]], unit: str, name: str, part: Any) -> Points:
    """(x, value) of a metric at the steps that have it as a finite number."""
    found = [(step.get(unit), part(step).get(name)) for step in steps]
    return [(float(x), float(value)) for x, value in found if _is_number(x) and _is_number(value)]


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and isfinite(value)


def _draw_loss(points: Points, across: Axis) -> Markup:
    values = [value for _, value in points]
    smoothed = smooth(values, max(5, len(values) / 15))
    ordered = sorted(values)
    cut = len(ordered) // 100  # one wild step must not flatten the rest
    up = fit_axis([*smoothed, *ordered[cut : len(ordered) - cut]])
    average = [(x, value) for (x, _), value in zip(points, smoothed, strict=True)]
    lines = [Line(tuple(thin(points)), "raw"), Line(tuple(thin(average)), "solid")]
    label = f"training loss over {len(points)} steps, smoothed from {smoothed[0]:.3f} to {smoothed[-1]:.3f}"
    return draw_panel(lines, across, up, label)


def _draw_dev(dev: Mapping[str, Points], across: Axis) -> Markup:
    values = [value for points in dev.values() for _, value in points]
    inside = min(values) >= 0 and max(values) <= 1
    up = fit_axis(values, floor_at=0 if inside else None, ceiling_at=1 if inside else None)
    lines = [Line(tuple(points), style, dots=True) for points, style in zip(dev.values(), STYLES)]
    ends = ", ".join(f"{name_metric(name)} {points[-1][1]:.3f}" for name, points in dev.items())
    return draw_panel(lines, across, up, f"scores on dev rows by epoch, at the end: {ends}", height=150)
