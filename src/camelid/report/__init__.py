"""Run folder to one self-contained report.html. Reads files only, so it works on any run, also an unfinished one.

The page loads nothing and runs no script; its own content policy forbids both, whatever a row's text tries.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from camelid.report import costs, curves, facts, mistakes, samples, scores
from camelid.report.files import RunFiles
from camelid.report.numbers import show_count, show_score, show_signed

HERE = Path(__file__).parent
# a browser drops, hides or obeys control characters; a reader should see that they are there
PICTURES = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
BROKEN = dict.fromkeys([*range(0x7F, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], "\N{REPLACEMENT CHARACTER}")


def write_report(folder: Path) -> Path:
    """Write `report.html` into the run folder and return its path.

    Raises UserError when `folder` is no run folder or one of its files is broken.
    """
    page = render(RunFiles(folder))
    path = folder / "report.html"
    part = path.with_name("report.html.part")
    part.write_text(page, encoding="utf-8", newline="\n")
    part.replace(path)
    return path


def render(files: RunFiles) -> str:
    """The page as text that UTF-8 can hold, without control characters."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup((HERE / "report.css").read_text(encoding="utf-8"))
    page = environment.get_template("report.html").render(style=style, **_collect(files))
    return page.translate(PICTURES | BROKEN)


def _collect(files: RunFiles) -> dict[str, Any]:
    """What the template shows, section by section."""
    known, plain = scores.read_entries(files.scores)
    stage_costs = costs.sum_costs(files.lines("timings.jsonl"))
    systems = dict.fromkeys(name for comparison in known for name in comparison.systems)
    return {
        "files": files,
        "request": facts.describe_request(files),
        "verdict": split_verdict(known[0].verdict) if known else None,
        "tiles": _tiles(known[0], stage_costs) if known else [],
        "rows": samples.describe_rows(files),
        "results": [_result(files, comparison, stage_costs) for comparison in known],
        "plain": plain,
        "curve": curves.draw_learning(files.lines("model/metrics.jsonl")),
        "stages": costs.list_stages(stage_costs, files.splits(), systems),
        "total": costs.total_cost(stage_costs),
        "pace": costs.measure_pace(files.lines("model/timings.jsonl")),
        "lineage": facts.describe_lineage(files),
        "commands": facts.repeat_commands(files),
    }


def split_verdict(verdict: str) -> tuple[str, str]:
    """The claim, which is set large, and the figures behind it."""
    claim = re.match(r".*?(?=: | \(|; |$)", verdict, re.DOTALL)
    end = claim.end() if claim else len(verdict)
    end += verdict[end : end + 1] in (":", ";")
    return verdict[:end], verdict[end:]


def _tiles(comparison: scores.Comparison, stage_costs: dict[str, costs.Cost]) -> list[tuple[str, str, str]]:
    """(number, what it is, its interval) for the few numbers to remember."""
    metric, ours, best = scores.name_metric(comparison.metric), comparison.ours, comparison.best_baseline
    tiles = [(show_score(comparison.main(ours).value), f"{metric}, {ours}", comparison.main(ours).span())]
    if best:
        tiles.append((show_score(comparison.main(best).value), f"{metric}, {best}", comparison.main(best).span()))
    if best in comparison.against:
        gap = comparison.against[best].difference
        span = f"{show_signed(gap.low)} to {show_signed(gap.high)}"
        tiles.append((show_signed(gap.value), "difference", span))
    tiles.append((show_count(comparison.rows), f"{comparison.split or 'held-out'} rows", ""))
    cost = costs.cost_of_system(stage_costs, ours, trained=True)
    return [*tiles, (cost.time, "to train and predict", f"peak memory {cost.memory}")] if cost else tiles


def _result(files: RunFiles, comparison: scores.Comparison, stage_costs: dict[str, costs.Cost]) -> dict[str, Any]:
    """Everything that belongs to one entry of scores.json."""
    wrong = mistakes.find_mistakes(files.predictions(comparison.ours))
    rows = files.lines(f"{comparison.split}.jsonl")
    return {
        "comparison": comparison,
        "metric": scores.name_metric(comparison.metric),
        "metrics": [scores.name_metric(name) for name in scores.list_metrics(comparison)],
        "plot": scores.plot_systems(comparison),
        "table": scores.tabulate_systems(comparison, stage_costs),
        "confusion": mistakes.read_confusion(comparison),
        "classes": scores.plot_classes(comparison),
        "mistakes": mistakes.describe_mistakes(wrong, rows) if wrong else [],
    }
