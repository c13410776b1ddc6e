"""Run folder to one self-contained report.html. Reads files only, so it works on any run, also an unfinished one.

The page loads nothing and runs no script; its own content policy forbids both, whatever a row's text tries.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from camelid.metrics import LOWER_IS_BETTER, name_metric
from camelid.report import (
    calibration,
    comparisons,
    confusions,
    costs,
    curves,
    facts,
    histograms,
    juries,
    leaderboards,
    marks,
    mistakes,
    reasons,
    residuals,
    rounds,
    samples,
    scores,
)
from camelid.report.files import RunFiles
from camelid.report.numbers import show_count, show_score, show_signed
from camelid.runs import disk_errors

HERE = Path(__file__).parent
STYLES = ("report.css", "plots.css", "screens.css")  # in this order: the last overrides for small screens and paper
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
    with disk_errors(folder, f"Make room; camelid report {folder} writes the page again."):
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
    style = Markup("\n").join(Markup((HERE / name).read_text(encoding="utf-8")) for name in STYLES)
    page = environment.get_template("report.html").render(style=style, **_collect(files))
    return page.translate(PICTURES | BROKEN)


def _collect(files: RunFiles) -> dict[str, Any]:
    """What the template shows, section by section."""
    entries = scores.read_entries(files.scores)
    known = entries.comparisons
    stage_costs = costs.sum_costs(files.lines("timings.jsonl"))
    systems = dict.fromkeys(name for comparison in known for name in comparison.systems)
    return {
        "files": files,
        "request": facts.describe_request(files),
        "verdict": _verdict(entries),
        "tiles": _tiles(known[0], stage_costs) if known else [],
        "rows": samples.describe_rows(files),
        "results": [_result(files, comparison, stage_costs) for comparison in known],
        "board": _leaderboard(entries),
        "juries": _juries(entries),
        "loops": rounds.collect_loops(files.lines("picked/loop.jsonl"), files.lines("prompts.jsonl")),
        "seeds": _seeds(entries),
        "spent": curves.draw_costs(entries.curves.x, entries.curves.y, entries.curves.lines)
        if entries.curves
        else None,
        "spread": histograms.plot_numbers(entries.spread.groups, entries.spread.of, entries.spread.units)
        if entries.spread
        else None,
        "spread_of": entries.spread.of if entries.spread else "",
        "marked": marks.collect_marks(files),
        "plain": entries.plain,
        "curve": curves.draw_learning(files.lines("model/metrics.jsonl")),
        "stages": costs.list_stages(stage_costs, files.splits(), systems),
        "total": costs.total_cost(stage_costs),
        "spending": costs.sum_spending(files.lines("spending.jsonl")),
        "pace": costs.measure_pace(files.lines("model/timings.jsonl")),
        "lineage": facts.describe_lineage(files),
        "commands": facts.repeat_commands(files),
    }


def _verdict(entries: scores.Entries) -> tuple[str, str] | None:
    """That of the first comparison, else of the leaderboard."""
    found = [*entries.comparisons[:1], *([entries.leaderboard] if entries.leaderboard else [])]
    return split_verdict(found[0].verdict) if found else None


def split_verdict(verdict: str) -> tuple[str, str]:
    """The claim, which is set large, and the figures behind it."""
    claim = re.match(r".*?(?=: | \(|; |$)", verdict, re.DOTALL)
    end = claim.end() if claim else len(verdict)
    end += verdict[end : end + 1] in (":", ";")
    return verdict[:end], verdict[end:]


def _tiles(comparison: scores.Comparison, stage_costs: dict[str, costs.Cost]) -> list[tuple[str, str, str]]:
    """(number, what it is, its interval) for the few numbers to remember."""
    metric, ours, best = name_metric(comparison.metric), comparison.ours, comparison.best_baseline
    tiles = [(show_score(comparison.main(ours).value), f"{metric}, {ours}", comparison.main(ours).span())]
    if best:
        tiles.append((show_score(comparison.main(best).value), f"{metric}, {best}", comparison.main(best).span()))
    if best in comparison.against:
        gap = comparison.against[best].difference
        span = f"{show_signed(gap.low)} to {show_signed(gap.high)}"
        tiles.append((show_signed(gap.value), "difference", span))
    tiles.append((show_count(comparison.rows), f"{comparison.split or 'held-out'} rows", ""))
    cost = costs.cost_of_system(stage_costs, ours, comparison.stages.get(ours, ()), trained=True)
    return [*tiles, (cost.time, "to train and predict", f"peak memory {cost.memory}")] if cost else tiles


def _result(files: RunFiles, comparison: scores.Comparison, stage_costs: dict[str, costs.Cost]) -> dict[str, Any]:
    """Everything that belongs to one entry of scores.json."""
    ours, task = comparison.ours, comparison.task
    wrong = mistakes.find_mistakes(files.predictions(ours), task)
    rows = files.lines(f"{comparison.split}.jsonl")
    names = comparisons.list_metrics(comparison)
    return {
        "comparison": comparison,
        "metric": name_metric(comparison.metric),
        "metrics": [comparisons.head_metric(name) for name in names],
        "lower": any(name in LOWER_IS_BETTER for name in names),
        "plot": comparisons.plot_systems(comparison),
        "table": comparisons.tabulate_systems(comparison, stage_costs),
        "tested": any(each.p is not None for each in comparison.against.values()),
        "confusion": confusions.read_confusion(comparison),
        "classes": comparisons.plot_classes(comparison),
        "calibration": calibration.describe_calibration(comparison, files.predictions(ours), files.temperature),
        "scatter": residuals.draw_scatter(files.predictions(ours), wrong, ours) if task == "regression" else None,
        "mistakes": mistakes.describe_mistakes(wrong, rows, task) if wrong else [],
        "reasons": reasons.collect_reasons(files.predictions(ours), files.lines(f"{comparison.split}.jsonl")),
    }


def _leaderboard(entries: scores.Entries) -> dict[str, Any] | None:
    """Models against one baseline, and against each other."""
    board = entries.leaderboard
    if board is None:
        return None
    return {
        "baseline": board.baseline,
        "judge": board.judge,
        "rows": board.rows,
        "plot": leaderboards.plot_leaderboard(board),
        "heads": leaderboards.HEADS,
        "table": leaderboards.tabulate_leaderboard(board),
        "matrix": leaderboards.tabulate_pairwise(entries.pairwise) if entries.pairwise else [],
    }


def _juries(entries: scores.Entries) -> dict[str, Any] | None:
    """Kappas of juries; None where a single judge is all there is."""
    if entries.juries is None or len(entries.juries.juries) < 2:
        return None
    return {"rows": entries.juries.rows, "table": juries.tabulate_juries(entries.juries)}


def _seeds(entries: scores.Entries) -> dict[str, Any] | None:
    """The scores over seeds, where a run was repeated with several."""
    if entries.seeds is None:
        return None
    ours = entries.comparisons[0].ours if entries.comparisons else ""
    return {
        "metric": name_metric(entries.seeds.metric),
        "plot": comparisons.plot_seeds(entries.seeds, ours),
        "most": max(len(system.values) for system in entries.seeds.systems.values()),
    }
