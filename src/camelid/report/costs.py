"""What a run cost: seconds, processor seconds and peak memory by stage, and the pace of its training."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from camelid.report.numbers import show_count, show_memory, show_seconds
from camelid.report.plots import Kind, draw_bar
from camelid.runs import slug

MODEL = "model"
ADAPTED = "adapted"  # the model's base, trained beforehand
SEED = re.compile(r"(.*)-seed-(\d+)")
MARKED: dict[str, Kind] = {MODEL: "ours"}


@dataclass(frozen=True)
class Cost:
    """Wall and processor seconds and peak memory in MB; `+` is one after the other."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_mb: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        peak = max(self.peak_memory_mb, other.peak_memory_mb)
        return Cost(self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds, peak)

    @property
    def time(self) -> str:
        return show_seconds(self.seconds)

    @property
    def cpu_time(self) -> str:
        return show_seconds(self.cpu_seconds)

    @property
    def memory(self) -> str:
        return show_memory(self.peak_memory_mb)


@dataclass(frozen=True)
class StageCost:
    """A line of the cost table."""

    name: str
    cost: Cost
    bar: Markup


def sum_costs(lines: Iterable[Mapping[str, Any]]) -> dict[str, Cost]:
    """Costs by stage from the lines of timings.jsonl; a stage that was resumed has several."""
    costs: dict[str, Cost] = {}
    for line in lines:
        values = {name: float(line.get(name) or 0) for name in ("seconds", "cpu_seconds", "peak_memory_mb")}
        name = str(line.get("stage", ""))
        costs[name] = costs.get(name, Cost()) + Cost(**values)
    return costs


def cost_of_system(
    costs: Mapping[str, Cost], system: str, further: Collection[str] = (), *, trained: bool
) -> Cost | None:
    """What a system's predictions cost with the training of its model; None if unknown.

    `trained` says that the run's own model is the system's. Another trained system has its model in a stage of its
    name. `further` are other stages without which the system has no predictions.
    """
    stages = [f"predictions/{slug(system)}", slug(system), *([MODEL, ADAPTED] if trained else []), *further]
    known = [costs[stage] for stage in stages if stage in costs]
    return sum(known, Cost()) if known else None


def total_cost(costs: Mapping[str, Cost]) -> Cost:
    """All stages, one after the other."""
    return sum(costs.values(), Cost())


def list_stages(costs: Mapping[str, Cost], splits: Iterable[str], systems: Collection[str]) -> list[StageCost]:
    """The stages in the order they ran, each with a bar against the longest; named in words where they are known."""
    names = {split: f"reading {split} rows" for split in splits}
    names |= {f"predictions/{slug(system)}": f"predictions of {system}" for system in systems}
    names |= {slug(system): f"training of {system}" for system in systems}
    names |= {MODEL: "training the model", ADAPTED: "adapting the model"}
    longest = max((cost.seconds for cost in costs.values()), default=0) or 1
    return [
        StageCost(name, cost, draw_bar(cost.seconds / longest, f"{name}: {cost.time}", MARKED.get(stage, "other")))
        for stage, cost in costs.items()
        for name in [_name_stage(stage, names)]
    ]


def _name_stage(stage: str, names: Mapping[str, str]) -> str:
    again = SEED.fullmatch(stage)
    if again and again[1] in names:
        return f"{names[again[1]]}, seed {again[2]}"
    return names.get(stage, stage)


def sum_spending(lines: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(name, value) of what was asked of endpoints, from the lines of spending.jsonl; empty without any."""
    sums: dict[str, float] = {}
    problems: dict[str, int] = {}
    for line in lines:
        for name in ("requests", "retries", "prompt_tokens", "completion_tokens", "cost", "unsure"):
            sums[name] = sums.get(name, 0.0) + float(line.get(name) or 0)
        if word := line.get("problem"):
            problems[str(word)] = problems.get(str(word), 0) + 1
    if not sums.get("requests") and not problems:
        return []
    found = [("requests", show_count(sums["requests"]))]
    found += [("of them tried again", show_count(sums["retries"]))] if sums["retries"] else []
    found += [("prompt tokens", show_count(sums["prompt_tokens"]))]
    found += [("tokens written", show_count(sums["completion_tokens"]))]
    found += [("cost by the prices", f"{sums['cost']:,.2f}")] if sums["cost"] else []
    found += [("requests without a whole reply may have cost", f"{sums['unsure']:,.2f}")] if sums["unsure"] else []
    return found + [(f"failed: {word}", show_count(count)) for word, count in sorted(problems.items())]


def measure_pace(lines: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(name, value) of training speed from the lines of model/timings.jsonl; empty without any."""
    steps = list(lines)
    seconds = sum(float(step.get("seconds") or 0) for step in steps)
    tokens = sum(float(step.get("tokens") or 0) for step in steps)
    if not seconds:
        return []
    pace = [("steps", show_count(len(steps))), ("a step", show_seconds(seconds / len(steps)))]
    return [*pace, ("training tokens a second", show_count(tokens / seconds))] if tokens else pace
