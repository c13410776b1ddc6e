"""A person at the terminal as a labeller: one text at a time, answered by a key."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from camelid.errors import UserError
from camelid.rows import Judged

WIDTH = 100
QUIT, SKIP = "q", "s"


def read_key() -> str:
    """One key from the terminal, without Enter. Raises UserError where nobody is there to press one."""
    import click

    if not sys.stdin.isatty():
        raise UserError("a person should label, and there is no terminal", "Start it in one, or take another labeller.")
    return click.getchar().lower()


def show(text: str) -> None:
    """Write to the terminal, on the side of messages."""
    sys.stderr.write(text)
    sys.stderr.flush()


def ask_people(
    rows: Sequence[Any],
    keys: Mapping[str, tuple[Any, str]],
    *,
    read: Callable[[], str] | None = None,
    write: Callable[[str], None] | None = None,
) -> list[Judged]:
    """What a person says of each row: `keys` maps a key to (value, its meaning). Another key is asked for again.

    `s` leaves the row without a value, as "refused"; `q` raises UserError, which says how to go on. Control characters
    of a text are not sent to the terminal.
    """
    read, write = read or read_key, write or show
    choices = ", ".join(
        [*(f"{key}: {meaning}" for key, (_, meaning) in keys.items()), f"{SKIP}: skip", f"{QUIT}: quit"]
    )
    judged = []
    for row in rows:
        lines = [textwrap.fill(line, WIDTH) for line in _visible(row.text).splitlines()]
        write("\n" + "\n".join(lines) + f"\n[{choices}] ")
        key = read()
        while key not in keys and key not in (SKIP, QUIT):
            write(f"\n{choices}: ")
            key = read()
        if key == QUIT:
            raise UserError("you stopped", "camelid resume with the run's folder goes on; every answer is kept.")
        write(f"{key}\n")
        outcome, value = ("refused", None) if key == SKIP else ("value", keys[key][0])
        judged.append(Judged(row.id, row.origin, outcome, value, key))
    return judged


def _visible(text: str) -> str:
    """Control characters, which a terminal would obey, as a mark."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
