"""What benchmarks share: a process of its own for each measurement, rounds in which everybody runs, ratios by round."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import random
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.jsonl")
DOCS = Path(__file__).parents[1] / "docs"
BUSY_LOAD = 1.0  # one-minute load average above which a comparison would measure the neighbours
MARK = "RESULT "


def check_quiet(anyway: bool) -> None:
    """End with a message on a loaded machine, unless told otherwise."""
    load = os.getloadavg()[0]
    if load > BUSY_LOAD and not anyway:
        raise SystemExit(f"the machine is busy (load {load:.1f}); wait, or use --anyway")


def report_result(found: dict[str, Any]) -> None:
    """Print what was measured, with the peak memory of this process, for `measure` to read."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(MARK + json.dumps({**found, "peak_mb": peak}))


def measure(script: str, name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """What `script --work name` measured, in a process of its own."""
    command = [sys.executable, script, "--work", name, *arguments]
    output = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in output.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        raise SystemExit(f"{name} failed:\n{output.stderr[-2000:]}")
    return json.loads(lines[0].removeprefix(MARK))


def run_rounds(script: str, names: Sequence[str], rounds: int, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """One dict a round, by name: everybody runs once in a round, in an order that changes."""
    found: list[dict[str, Any]] = []
    for number in range(rounds):
        found.append({})
        for name in random.Random(number).sample(list(names), len(names)):
            found[-1][name] = measure(script, name, [*arguments, "--seed", str(number)])
            figures = {key: value for key, value in found[-1][name].items() if not isinstance(value, list)}
            print(f"round {number + 1} {name}: {figures}", flush=True)
    return found


def compare(what: str, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], **facts: Any) -> dict[str, Any]:
    """A line of results.jsonl: medians of both, and the ratio of their "rate" within each round."""
    ratios = [ours["rate"] / theirs["rate"] for ours, theirs in pairs]
    return {
        "name": what,
        "ours": median(pairs, 0, "rate"),
        "theirs": median(pairs, 1, "rate"),
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_min": round(min(ratios), 2),
        "ratio_max": round(max(ratios), 2),
        "pairs": len(pairs),
        **facts,
        "peak_mb": [median(pairs, side, "peak_mb") for side in (0, 1)],
        "machine": machine(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")},
    }


def median(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], side: int, key: str) -> float:
    """The median of a figure over the rounds."""
    return round(statistics.median(pair[side][key] for pair in pairs), 3)


def machine() -> str:
    """Cores, instructions, and the number format that is multiplied natively."""
    import torch

    from camelid import bases

    native = bases.resolve_precision("auto")
    return f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, {native}"


def keep(lines: Sequence[dict[str, Any]]) -> None:
    """Append lines to results.jsonl."""
    with RESULTS.open("a", encoding="utf-8") as out:
        for line in lines:
            out.write(json.dumps(line) + "\n")
            print(json.dumps(line))


def newest(names: Sequence[str]) -> list[dict[str, Any]]:
    """The newest line of each of the `names` on each machine in results.jsonl, machine by machine."""
    lines = list(map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines()))
    found = {(line["machine"], line["name"]): line for line in lines}
    machines = dict.fromkeys(line["machine"] for line in lines)
    return [found[machine, name] for machine in machines for name in names if (machine, name) in found]


def write_between(page: Path, marker: str, text: str) -> None:
    """Replace what stands between the markers of a docs page."""
    pattern = re.compile(rf"(<!-- FIGURES:{marker} -->\n).*?(<!-- /FIGURES:{marker} -->)", re.DOTALL)
    page.write_text(pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page.read_text("utf-8")), "utf-8")


def make_parser(doc: str | None, rows: int, epochs: int) -> argparse.ArgumentParser:
    """The options of every bench of training; `--seed` and `--work` are for the processes of its rounds."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=rows)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="*", default=[], help="names of contestants to compare with")
    parser.add_argument("--anyway", action="store_true", help="run on a loaded machine too")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    return parser
