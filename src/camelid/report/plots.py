"""Numbers to inline SVG: pure functions; every text in them is escaped.

Horizontal positions are percentages of the width and vertical ones pixels, so that a plot fits any screen while its
text keeps its size. Colours are the CSS variables of report.css, which also switch to dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any, Literal

from markupsafe import Markup

LANE = 14  # pixels of height for each interval of a strip
BAR = 10
RADIUS = 4.5
GAP = 0.4  # per cent of the width left free on either side of a column
EDGE = 6  # room above and below a panel's curves, for dots that stand at its ends
STEPS = (1, 2, 5, 10)  # ticks stand at multiples of these times a power of ten

Kind = Literal["ours", "other"]


@dataclass(frozen=True)
class Axis:
    """A linear scale from `low` to `high` with its ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Where a value stands, in per cent of the width: 0 at `low`, 100 at `high`, and never beyond."""
        return 100 * min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def names(self) -> list[str]:
        """The ticks as text, with no more decimals than their distance needs."""
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else 1.0
        decimals = max(0, -floor(log10(step) + 1e-9))
        return [f"{tick:.{decimals}f}".replace("-", "−") for tick in self.ticks]


@dataclass(frozen=True)
class Mark:
    """A value with its interval, drawn as a dot with whiskers: filled for ours, hollow for others.

    The `single` values behind it are small dots on a lane above.
    """

    value: float
    low: float
    high: float
    kind: Kind
    single: tuple[float, ...] = ()


@dataclass(frozen=True)
class Line:
    """A curve through (x, y) points; `style` is a class of plots.css.

    `dots` marks each point, `joined` draws the line between them, `spans` are the ends of an upright whisker at each.
    """

    points: tuple[tuple[float, float], ...]
    style: str
    dots: bool = False
    joined: bool = True
    radius: float = RADIUS
    spans: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Column:
    """A bar of a histogram over `low` to `high`, as high as its `share` of the height; `text` stands above it."""

    low: float
    high: float
    share: float
    label: str
    text: str = ""


def fit_axis(values: Sequence[float], *, floor_at: float | None = None, ceiling_at: float | None = None) -> Axis:
    """The axis with round ends and three to six ticks that holds all `values`, not going beyond the two bounds."""
    low, high = min(values), max(values)
    if high - low < 1e-9:
        low, high = low - 0.05 * max(abs(low), 1), high + 0.05 * max(abs(high), 1)
    step = _round_step((high - low) / 4)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    ticks = [number * step for number in range(first, last + 1)]
    ticks = [tick for tick in ticks if (floor_at is None or tick >= floor_at - 1e-9)]
    ticks = [tick for tick in ticks if (ceiling_at is None or tick <= ceiling_at + 1e-9)]
    return Axis(ticks[0], ticks[-1], tuple(ticks))


def span_axis(high: float) -> Axis:
    """The axis from 0 to exactly `high`, with a tick at round numbers."""
    step = _round_step(high / 4)
    return Axis(0.0, high, tuple(number * step for number in range(floor(high / step + 1e-9) + 1)))


def draw_intervals(marks: Sequence[Mark], axis: Axis, label: str, reference: float | None = None) -> Markup:
    """One row of a dot plot: each mark on a lane of its own, over the axis' grid; `reference` is a dashed line."""
    lanes = [lane for mark in marks for lane in ([mark.single] if mark.single else []) + [mark]]
    height = LANE * (len(lanes) + 1)
    parts = [_upright("grid", axis.place(tick), height) for tick in axis.ticks]
    if reference is not None:
        parts.append(_upright("reference", axis.place(reference), height))
    for lane, drawn in enumerate(lanes, 1):
        parts.append(_mark(drawn, axis, LANE * lane) if isinstance(drawn, Mark) else _singles(drawn, axis, LANE * lane))
    return _figure("strip", height, label, parts)


def draw_ticks(axis: Axis, label: str) -> Markup:
    """The numbers under a plot."""
    parts = []
    for tick, name in zip(axis.ticks, axis.names(), strict=True):
        parts.append(_tag("text", name, x=_percent(axis.place(tick)), y=12, text_anchor="middle"))
    return _figure("ticks", 16, label, parts)


def draw_bar(share: float, label: str, kind: Kind = "other") -> Markup:
    """A bar over `share` of the width."""
    width = _percent(100 * min(max(share, 0.0), 1.0))
    return _figure(f"bar {kind}", BAR, label, [_tag("rect", width=width, height=BAR, rx=2)])


def draw_panel(lines: Sequence[Line], across: Axis, up: Axis, label: str, height: int = 180) -> Markup:
    """Curves over a grid, with the names of the `up` ticks on the left; `across` gets its numbers from draw_ticks."""

    def y(value: float) -> float:
        return round(EDGE + (height - 2 * EDGE) * (1 - up.place(value) / 100), 2)

    parts = [_upright("grid", across.place(tick), height - EDGE, start=EDGE) for tick in across.ticks]
    for tick, name in zip(up.ticks, up.names(), strict=True):
        parts.append(_tag("line", class_="grid", x1=0, x2="100%", y1=y(tick), y2=y(tick)))
        parts.append(_tag("text", name, x=-10, y=y(tick) + 4))
    for line in lines:
        points = [(across.place(x), y(value)) for x, value in line.points]
        if line.joined:
            parts.append(_curve(points, line.style, height))
        whiskers = [_upright("whisker", x, y(low), start=y(high)) for (x, _), (low, high) in zip(points, line.spans)]
        dots = [_dot(x, at, line.radius) for x, at in points] if line.dots else []
        if line.dots or line.spans:
            parts.append(_tag("g", *whiskers, *dots, class_=line.style))
    return _figure("panel", height, label, parts)


def draw_columns(columns: Sequence[Column], axis: Axis, label: str, height: int = 44, kind: Kind = "other") -> Markup:
    """A histogram over `axis`, which gets its numbers from draw_ticks."""
    room = height - (LANE if any(column.text for column in columns) else 0)
    parts = [_tag("line", class_="grid", x1=0, x2="100%", y1=height - 0.5, y2=height - 0.5)]
    for column in columns:
        left, right = axis.place(column.low) + GAP, axis.place(column.high) - GAP
        tall = max(round(room * column.share, 2), 1.0) if column.share else 0.0  # a single row must be seen
        size = {"width": _percent(max(right - left, 0.2)), "height": tall}
        parts.append(_tag("rect", _tag("title", column.label), x=_percent(left), y=height - tall, **size, rx=1))
        if column.text:
            middle = _percent((left + right) / 2)
            parts.append(_tag("text", column.text, x=middle, y=height - tall - 4, text_anchor="middle"))
    return _figure(f"columns {kind}", height, label, parts)


def _round_step(step: float) -> float:
    """The least of 1, 2, 5, 10 times a power of ten that is not below `step`."""
    power = 10.0 ** floor(log10(step))
    return next(power * size for size in STEPS if power * size >= step * (1 - 1e-9))


def _mark(mark: Mark, axis: Axis, y: float) -> Markup:
    left, right = axis.place(mark.low), axis.place(mark.high)
    whisker = _tag("line", class_="whisker", x1=_percent(left), x2=_percent(right), y1=y, y2=y)
    caps = [_upright("cap", x, y + 4, start=y - 4) for x in (left, right)]
    return _tag("g", whisker, *caps, _dot(axis.place(mark.value), y), class_=f"mark {mark.kind}")


def _singles(values: Sequence[float], axis: Axis, y: float) -> Markup:
    return _tag("g", *[_dot(axis.place(value), y, 2.5) for value in values], class_="singles")


def _dot(x: float, y: float, radius: float = RADIUS) -> Markup:
    return _tag("circle", cx=_percent(x), cy=y, r=radius)


def _curve(points: Sequence[tuple[float, float]], style: str, height: int) -> Markup:
    """The line in an inner picture stretched to the full width; its stroke is not stretched."""
    path = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
    line = _tag("polyline", points=path, class_=style, vector_effect="non-scaling-stroke")
    box = {"viewBox": f"0 0 100 {height}", "preserveAspectRatio": "none"}
    return _tag("svg", line, width="100%", height=height, **box)


def _upright(style: str, x: float, end: float, start: float = 0) -> Markup:
    return _tag("line", class_=style, x1=_percent(x), x2=_percent(x), y1=start, y2=end)


def _figure(style: str, height: int, label: str, parts: Sequence[Markup]) -> Markup:
    title = _tag("title", label)
    return _tag("svg", title, *parts, class_=style, width="100%", height=height, role="img", aria_label=label)


def _percent(value: float) -> str:
    return f"{value:.2f}%"


def _tag(element: str, *children: str, **attributes: Any) -> Markup:
    """An element; `class_` and `aria_label` stand for class and aria-label. Text in it is escaped, Markup is kept."""
    pairs = [Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items()]
    inside = Markup("").join(children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(element), Markup("").join(pairs), inside)
