"""What the long experiments share: runs that are kept and continued, and tables of their figures in the docs.

Runs lie in runs/effects, so that an interrupted experiment goes on where it was.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from camelid import methods
from camelid.recipe import read_recipe
from camelid.runs import slug

ROOT = Path(__file__).parents[2]
METHOD_PAGES = ROOT / "docs" / "methods"
RUNS = ROOT / "runs" / "effects"
SEEDS = 3


def run_or_resume(method: str, name: str, **values: Any) -> dict[str, Any]:
    """scores.json of the run `name` with these recipe fields ("__" for the dot); a run that is there is continued.

    It must be of the same values: figures of others would stand in the docs as if they were of these.
    """
    folder = RUNS / name
    fields = {field.replace("__", "."): value for field, value in values.items()}
    if (folder / "manifest.json").exists():
        recipe = methods.resolve(method, fields)
        kept = read_recipe(type(recipe), folder / "recipe.toml")
        assert kept == recipe, f"{folder} is a run of other values: move it away"
        methods.resume(folder)
    else:
        methods.run(method, fields, out=folder)
    return json.loads((folder / "scores.json").read_text())


def table(runs: dict[str, str]) -> str:
    """A Markdown table of every system of the runs (title: name), with intervals and cost, and their commands."""
    lines, commands, footer = [], [], ""
    for title, run in runs.items():
        folder = RUNS / run
        scores = json.loads((folder / "scores.json").read_text())["held_out"]
        costs = cost_by_stage(folder)
        names = [scores["metric"], "token_accuracy" if scores["task"] == "tags" else "macro_f1"]
        header = ["system", *names, "ours minus it", "seconds", "peak MB"]
        footer = (
            f"{scores['rows']} {scores['split']} rows; 95 % bootstrap intervals; seconds on the machine of the day."
        )
        for name, system in scores["systems"].items():
            ours = name == scores["ours"]
            trained = "model" if ours else slug(name)
            stages = [f"predictions/{slug(name)}", *([trained] if trained in costs else [])]
            cells = [
                f"**{title or name}**" if ours else name,
                *(span(system[key]) for key in names),
                signed(scores["against"].get(name, {}).get("difference")),
                f"{sum(costs[stage]['seconds'] for stage in stages):.0f}",
                f"{max(costs[stage]['peak_memory_mb'] for stage in stages):.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        commands.append(command_of(run))
    top = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join([*top, *lines, "", footer, "", "```sh", *commands, "```"])


def seeds_table(runs: dict[str, str]) -> str:
    """A Markdown table of the systems that were trained with several seeds, in each of the runs (title: name)."""
    lines, commands = [], []
    for title, run in runs.items():
        path = RUNS / run / "scores.json"
        scores = json.loads(path.read_text()) if path.is_file() else {}
        if "seeds" not in scores:
            continue
        for name, system in scores["seeds"]["systems"].items():
            each = ", ".join(f"{value:.3f}" for value in system["values"])
            cells = [title, name, scores["seeds"]["metric"], span(system["mean"]), each]
            lines.append(f"| {' | '.join(cells)} |")
        best = scores["held_out"]["best_baseline"]
        if best and best != "instruction tuning":
            value = scores["held_out"]["systems"][best][scores["held_out"]["metric"]]
            lines.append(f"| {title} | {best} (one fit) | {scores['seeds']['metric']} | {value['value']:.3f} | |")
        commands.append(command_of(run))
    top = ["| rows | system | metric | mean over seeds | each seed |", "|---|---|---|---|---|"]
    footer = f"Seeds 0 to {SEEDS - 1}; the interval is the 95 % t-interval over seeds, wide because they are few."
    return "\n".join([*top, *lines, "", footer, "", "```sh", *commands, "```"])


def command_of(run: str) -> str:
    """The command of a run. Paths, also of `--set name=PATH`, begin behind RUNS; of others the last part stays."""
    command = json.loads((RUNS / run / "manifest.json").read_text())["command"]
    halves = [part.rpartition("=") for part in command]
    return shlex.join(f"{name}{sign}{_shorten(value)}" for name, sign, value in halves)


def _shorten(value: str) -> str:
    inside = value.partition(f"{RUNS.parent.name}/{RUNS.name}/")[2]
    return inside or (Path(value).name if "/" in value else value)


def cost_by_stage(folder: Path) -> dict[str, dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "timings.jsonl").read_text().splitlines()]
    return {line["stage"]: line for line in lines}


def span(value: dict[str, float]) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def signed(value: dict[str, float] | None) -> str:
    return f"{value['value']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}]" if value else ""


def write_figures(method: str, name: str, text: str) -> None:
    """Replace what stands between the markers of `name` in the page of the method."""
    path = METHOD_PAGES / f"{method}.md"
    pattern = re.compile(rf"(<!-- FIGURES:{name} -->\n).*?(<!-- /FIGURES:{name} -->)", re.DOTALL)
    page = path.read_text(encoding="utf-8")
    assert pattern.search(page), f"{path} has no markers for {name}"
    path.write_text(pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page), encoding="utf-8")
