"""Entries of scores.json: systems compared on the same rows, one score over seeds, or a plain table for all else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field, FiniteFloat, ValidationError, model_validator

from camelid.report.numbers import show_score, show_value

FOLD = 20  # more classes than this are shown by their extremes first
SEEDS, CURVES, LEADERBOARD, PAIRWISE = "seeds", "curves", "leaderboard", "pairwise"
SPREAD, JURIES = "spread", "juries"
ENDS = {"value", "low", "high"}
MOST_COLUMNS = 6  # of a plain table


class Interval(BaseModel):
    """A value with the ends of its 95 % interval."""

    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat

    def span(self) -> str:
        """The two ends as text."""
        return f"{show_score(self.low)} to {show_score(self.high)}"


class Bin(BaseModel):
    """Rows whose confidence is above `low` and not above `high`."""

    low: FiniteFloat
    high: FiniteFloat
    count: int
    confidence: FiniteFloat
    accuracy: FiniteFloat


class Calibration(BaseModel):
    """What `evaluation.score_calibration` says of probabilities."""

    ece: Interval
    brier: Interval
    nll: Interval
    chance: FiniteFloat
    bins: list[Bin] = Field(min_length=1)

    @property
    def rows(self) -> int:
        return sum(each.count for each in self.bins)

    @property
    def confidence(self) -> float:
        """Mean over the rows."""
        return sum(each.count * each.confidence for each in self.bins) / self.rows

    @property
    def accuracy(self) -> float:
        """Mean over the rows."""
        return sum(each.count * each.accuracy for each in self.bins) / self.rows


class System(BaseModel):
    """The scores of one system: every metric with an interval by its name, and what belongs to classes."""

    metrics: dict[str, Interval]
    f1_by_class: dict[str, Interval] = {}
    confusion: list[list[int]] = []
    calibration: Calibration | None = None

    @model_validator(mode="before")
    @classmethod
    def _collect(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        # a class may be called "low", so f1_by_class may have that key too
        metrics = {
            name: value
            for name, value in values.items()
            if isinstance(value, dict) and set(value) == ENDS and name != "f1_by_class"
        }
        return {**values, "metrics": metrics}


class Against(BaseModel):
    """Ours minus another system, and McNemar's two counts with their p."""

    difference: Interval
    only_ours: int | None = None
    only_theirs: int | None = None
    p: FiniteFloat | None = None


class Comparison(BaseModel):
    """An entry written by `evaluation.evaluate`; a method may add `stages` of the run that a system's answers need."""

    metric: str
    ours: str
    systems: dict[str, System]
    split: str = ""
    task: str = ""
    rows: int = 0
    classes: list[str] = []
    support: dict[str, int] = {}
    against: dict[str, Against] = {}
    stages: dict[str, list[str]] = {}
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


class SeedScores(BaseModel):
    """One score of a system under several training seeds, and their mean with its t-interval."""

    seeds: list[int]
    values: list[FiniteFloat] = Field(min_length=1)
    mean: Interval


class Seeds(BaseModel):
    """The entry "seeds": systems that were trained several times."""

    metric: str
    systems: dict[str, SeedScores] = Field(min_length=1)


class Curves(BaseModel):
    """The entry "curves": something that grows with what was spent, of several systems; ours comes first."""

    x: str
    y: str
    lines: dict[str, list[tuple[FiniteFloat, FiniteFloat]]] = Field(min_length=1)


class Spread(BaseModel):
    """The entry "spread": a number, named by a noun, of each of some units, by group."""

    of: str
    units: str
    groups: dict[str, list[FiniteFloat]] = Field(min_length=1)


class Rated(BaseModel):
    """A line of the leaderboard; rates and errors are in per cent."""

    length_controlled_win_rate: Interval
    win_rate: Interval
    lc_standard_error: FiniteFloat
    standard_error: FiniteFloat
    discrete_win_rate: FiniteFloat
    avg_length: int
    preferences: int
    weights: dict[Literal["length", "difficulty", "base"], FiniteFloat] = Field(min_length=3)
    C: FiniteFloat
    flags: list[str] = []


class Leaderboard(BaseModel):
    """The entry "leaderboard": models against one baseline, best first."""

    baseline: str
    judge: str
    rows: int
    systems: dict[str, Rated] = Field(min_length=1)
    verdict: str


class Pairwise(BaseModel):
    """The entry "pairwise": the rate of each model against each other one."""

    systems: list[str]
    rates: dict[str, dict[str, Interval]]

    @model_validator(mode="after")
    def _complete(self) -> Pairwise:
        if any(other not in self.rates.get(one, {}) for one in self.systems for other in self.systems):
            raise ValueError("a pair has no rate")
        return self


class Jury(BaseModel):
    """Judges that vote, and their kappa with people: level votes are a tie, or a tie among them gives way."""

    members: list[str] = Field(min_length=1)
    tie: Interval
    intended: Interval


class Juries(BaseModel):
    """The entry "juries": every jury that can be made of some judges, best first."""

    rows: int
    juries: list[Jury] = Field(min_length=1)


@dataclass(frozen=True)
class Plain:
    """An entry the report does not understand: lines of a name and its values, which stand under `columns` if any."""

    name: str
    columns: list[str]
    lines: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Entries:
    """What scores.json holds."""

    comparisons: list[Comparison]
    seeds: Seeds | None
    curves: Curves | None
    leaderboard: Leaderboard | None
    pairwise: Pairwise | None
    spread: Spread | None
    juries: Juries | None
    plain: list[Plain]


def read_entries(scores: Mapping[str, Any]) -> Entries:
    """The entries of scores.json, each as what it is."""
    kinds: dict[str, type[BaseModel]] = {
        SEEDS: Seeds, CURVES: Curves, LEADERBOARD: Leaderboard, PAIRWISE: Pairwise, SPREAD: Spread, JURIES: Juries
    }  # fmt: skip
    comparisons, plain = [], []
    single: dict[str, Any] = dict.fromkeys(kinds)
    for name, entry in scores.items():
        try:
            if name in kinds:
                single[name] = kinds[name].model_validate(entry)
            else:
                comparisons.append(Comparison.model_validate({**entry, "name": name}))
        except (ValidationError, TypeError):
            plain.append(lay_out(name, entry))
    return Entries(comparisons, **single, plain=plain)


def lay_out(name: str, entry: Any) -> Plain:
    """A table of rows and columns where every part of the entry holds the same names, the fewer of them on top."""
    parts = list(entry.values()) if isinstance(entry, Mapping) else []
    is_grid = len(parts) > 1 and all(isinstance(part, Mapping) and part.keys() == parts[0].keys() for part in parts)
    if not is_grid or min(len(parts), len(parts[0])) > MOST_COLUMNS or any(map(_is_inside, _cells(parts))):
        return Plain(name, [], [(path, [value]) for path, value in list_values(entry)])
    table = {str(row): {str(key): value for key, value in part.items()} for row, part in entry.items()}
    if len(parts) < len(parts[0]):
        table = {key: {row: part[key] for row, part in table.items()} for key in next(iter(table.values()))}
    columns = list(next(iter(table.values())))
    return Plain(name, columns, [(row, [_show(part[key]) for key in columns]) for row, part in table.items()])


def _cells(parts: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    return (value for part in parts for value in part.values())


def _is_inside(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and set(value) != ENDS


def _show(value: Any) -> str:
    return next(list_values(value))[1]


def list_values(entry: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, text) of every value inside; an interval is one value."""
    if not isinstance(entry, Mapping) or not entry:
        yield path, show_value(entry)
    elif set(entry) == ENDS:
        yield path, "{} ({} to {})".format(*(show_value(entry[key]) for key in ("value", "low", "high")))
    else:
        for name, value in entry.items():
            yield from list_values(value, f"{path}.{name}" if path else str(name))
