"""Progress on screen. Verbs report it, the command line turns it on; a library call stays silent.

On a terminal it is a bar with rate and time left; elsewhere (a log, CI) it is a plain line every ten seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

PLAIN_SECONDS = 10.0

_console: Console | None = None


class Advance(Protocol):
    """Called with how many units were finished and a short note such as "loss 0.61"."""

    def __call__(self, units: int = 1, note: str = "") -> None: ...


def show_on(console: Console | None) -> None:
    """Show progress on this console from now on; None switches it off."""
    global _console
    _console = console


@contextmanager
def track(what: str, total: int | None, done: int = 0) -> Iterator[Advance]:
    """Count `total` units of `what` (None: nobody knows), of which `done` were finished before (a resumed run).

    Work without a name is a part of some other work, whose progress is shown.
    """
    if _console is None or not what:
        yield lambda units=1, note="": None
    elif _console.is_terminal:
        with _bar(_console, what, total, done) as advance:
            yield advance
    else:
        yield _plain(_console, what, total, done)


class _Rate(ProgressColumn):
    """Units a second, or seconds a unit where they take longer."""

    def render(self, task: Task) -> Text:
        if not task.speed:
            return Text("")
        return Text(f"{task.speed:.1f}/s" if task.speed >= 1 else f"{1 / task.speed:.1f} s each")


@contextmanager
def _bar(console: Console, what: str, total: int | None, done: int) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(what, total=total, completed=done, note="")
        yield lambda units=1, note="": bars.update(task, advance=units, note=note)


def _plain(console: Console, what: str, total: int | None, done: int) -> Advance:
    started = last = time.monotonic()
    first = done

    def advance(units: int = 1, note: str = "") -> None:
        nonlocal done, last
        done += units
        now = time.monotonic()
        if done == total or now - last >= PLAIN_SECONDS:
            last = now
            pace = (now - started) / max(done - first, 1)
            rate = f"{1 / pace:.1f}/s" if 0 < pace <= 1 else f"{pace:.1f} s each"
            left = (
                f"{done}/{total}, {rate}, about {pace * (total - done):.0f} s left" if total is not None else f"{done}"
            )
            console.print(f"{what}: {left} {note}".rstrip(), highlight=False)

    return advance
