"""What the requests of a run to paid endpoints have used, kept line by line in its folder.

A cap holds over all engines of a run, and over its resumes: what a killed process paid is in the file.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FILE = "spending.jsonl"


class Spending:
    """A sum of costs, in the currency of the price table, and the file that it is kept in, if any."""

    def __init__(self, path: Path | None = None) -> None:
        self.path, self._lock = path, threading.Lock()
        self.cost = sum(line.get("cost", 0.0) + line.get("unsure", 0.0) for line in read_spending(path))

    def add(self, **used: Any) -> None:
        """Book a request or an outcome. What is empty or zero is not written."""
        line = {name: value for name, value in used.items() if value}
        with self._lock:
            self.cost += line.get("cost", 0.0) + line.get("unsure", 0.0)
            if self.path is not None:
                with self.path.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(line) + "\n")


def read_spending(path: Path | None) -> list[dict[str, Any]]:
    """The lines of the file; a last one that a killed process began is left out."""
    if path is None or not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


_open: list[Spending] = []


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Within, what engines spend belongs to the run in `folder`."""
    _open.append(Spending(folder / FILE))
    try:
        yield
    finally:
        _open.pop()


def current() -> Spending:
    """That of the run that is open, else one that is kept nowhere."""
    return _open[-1] if _open else Spending()
