"""Whether probabilities can be believed: one sentence, the reliability diagram, and the measures of every system."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from markupsafe import Markup

from camelid.evaluation import SEED, score_calibration
from camelid.metrics import Draws
from camelid.report.numbers import show_count, show_number, show_score, show_share
from camelid.report.plots import Axis, Column, Line, draw_columns, draw_panel, draw_ticks
from camelid.report.scores import Bin, Calibration, Comparison, Interval
from camelid.rows import Predicted

SHARES = Axis(0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
CLOSE = 0.03  # a miss of 3 points harms nobody, even where many rows prove it
BLIND = 0.1  # where chance alone makes more, too few rows were seen to judge


@dataclass(frozen=True)
class Diagram:
    """Accuracy against confidence, with the rows of each bin below."""

    panel: Markup
    columns: Markup
    ticks: Markup


@dataclass(frozen=True)
class CalibrationRow:
    """A line of the table: measures are (value, interval)."""

    name: str
    ours: bool
    measures: list[tuple[str, str]]


@dataclass(frozen=True)
class CalibrationSection:
    """The section: a sentence in two parts, and more; `temperature` is empty where the probabilities are as trained."""

    claim: str
    figures: str
    diagram: Diagram
    rows: list[CalibrationRow]
    temperature: str
    chance: str


def describe_calibration(
    comparison: Comparison, predictions: Iterable[Mapping[str, Any]], temperature: float
) -> CalibrationSection | None:
    """The section for the probabilities of ours, whose `predictions` were calibrated with `temperature` (1: not at
    all); None when it has none."""
    after = comparison.systems[comparison.ours].calibration
    if after is None:
        return None
    before = None if temperature == 1 else score_uncalibrated(predictions, comparison.classes, temperature)
    claim, colon, figures = judge_probabilities(comparison.ours, after).rpartition(": ")
    return CalibrationSection(
        claim + colon,
        figures,
        draw_reliability(after, before),
        _tabulate(comparison, after, before),
        show_number(temperature) if before else "",
        show_score(after.chance),
    )


def judge_probabilities(system: str, found: Calibration) -> str:
    """Whether to believe them, in a sentence without jargon; the figures follow a colon."""
    error, chance = found.ece.value, f"{100 * found.chance:.1f} points"
    miss = f"{100 * error:.1f} points on average"
    rows = f"{show_count(found.rows)} rows"
    if error <= found.chance and found.chance > BLIND:
        claim = f"{rows} are too few to say whether the probabilities of {system} can be believed"
        return f"{claim}: they are off by {miss}, but chance alone can make it {chance}."
    if error <= found.chance:
        claim = f"The probabilities of {system} can be believed"
        return f"{claim}: they are off by {miss}, which chance alone can do on {rows} (up to {chance})."
    if error <= CLOSE:
        claim = f"The probabilities of {system} can be believed within a few points"
        return f"{claim}: they are off by {miss}, where chance explains up to {chance}."
    sure, right = show_share(found.confidence), show_share(found.accuracy)
    return (
        f"Do not take the probabilities of {system} at their word: they are {_direction(found)} by {miss} "
        f"(it is {sure} sure and right in {right} of the rows; chance explains up to {chance})."
    )


def score_uncalibrated(
    predictions: Iterable[Mapping[str, Any]], classes: Sequence[str], temperature: float
) -> Calibration | None:
    """The calibration before `temperature` divided the logits; None when the predictions are not those of `classes`."""
    rows = [
        Predicted(row["id"], row["gold"], row["predicted"], undo_temperature(row["probabilities"], temperature))
        for row in predictions
        if row.get("probabilities")
    ]
    if not rows or not {row.gold for row in rows} <= set(classes):
        return None
    return Calibration.model_validate(score_calibration(rows, classes, Draws(len(rows), SEED)))


def undo_temperature(probabilities: Mapping[str, float], temperature: float) -> dict[str, float]:
    """softmax(z) from softmax(z / T): each p to the power of T, made to sum to 1 again."""
    powers = {name: share**temperature for name, share in probabilities.items()}
    total = sum(powers.values())
    return {name: power / total for name, power in powers.items()}


def draw_reliability(after: Calibration, before: Calibration | None) -> Diagram:
    """Solid with 95 % whiskers as they are now, dashed before; on the diagonal what is said comes true."""
    lines = [Line(((0.0, 0.0), (1.0, 1.0)), "diagonal")]
    if before:
        lines.append(Line(_points(before.bins), "dashed", dots=True))
    spans = tuple(wilson_interval(each.accuracy, each.count) for each in after.bins)
    lines.append(Line(_points(after.bins), "solid", dots=True, spans=spans))
    largest = max(each.count for each in after.bins)
    columns = [
        Column(each.low, each.high, each.count / largest, _describe(each), show_count(each.count))
        for each in after.bins
    ]
    label = "accuracy against confidence: " + "; ".join(map(_describe, after.bins))
    return Diagram(
        draw_panel(lines, SHARES, SHARES, label, height=340),
        draw_columns(columns, SHARES, "rows by confidence", height=64),
        draw_ticks(SHARES, "axis: confidence"),
    )


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` rows (Wilson 1927), which is not empty at 0 and 1."""
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - half, middle + half


def _direction(found: Calibration) -> str:
    gap = found.confidence - found.accuracy
    if abs(gap) < found.ece.value / 2:
        return "too high in places and too low in others,"
    return "too high" if gap > 0 else "too low"


def _points(bins: Sequence[Bin]) -> tuple[tuple[float, float], ...]:
    return tuple((each.confidence, each.accuracy) for each in bins)


def _describe(each: Bin) -> str:
    return f"{show_count(each.count)} rows said {show_share(each.confidence)}, right {show_share(each.accuracy)}"


def _tabulate(comparison: Comparison, after: Calibration, before: Calibration | None) -> list[CalibrationRow]:
    """Ours first, then the others by their error."""
    others = [
        (name, system.calibration)
        for name, system in comparison.systems.items()
        if system.calibration and name != comparison.ours
    ]
    found = [(comparison.ours, after), *sorted(others, key=lambda pair: pair[1].ece.value)]
    if before:
        found.insert(1, (f"{comparison.ours}, before", before))
    return [
        CalibrationRow(name, place == 0, [_pair(each) for each in (system.ece, system.brier, system.nll)])
        for place, (name, system) in enumerate(found)
    ]


def _pair(score: Interval) -> tuple[str, str]:
    return show_score(score.value), score.span()
