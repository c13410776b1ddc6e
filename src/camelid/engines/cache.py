"""Answers of engines on disk, so that nothing is paid or computed twice, by any run or process of this machine.

One SQLite file in WAL mode: readers and one writer at a time do not disturb each other, and what has been written
outlives its process however that ends. WAL needs memory that the processes share, so the file belongs on a disk of this
machine and not on a network share. Keys are those of `engines.key_of`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camelid.cache import cache_folder
from camelid.engines import Completion, Scored
from camelid.errors import UserError

APPLICATION = 0x43414D4C  # "CAML", in the file's header: another program's database is told from a cache
BUSY_SECONDS = 60.0  # how long to wait for another process that is writing
KEYS_AT_ONCE = 500  # in one query; SQLite's own limit is 999 in old versions

# bytes are the answer's own; of an engine, `misses` are the answers it had to make and `hits` those it had not
TABLES = """
CREATE TABLE IF NOT EXISTS engines (
    number INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, hits INTEGER NOT NULL DEFAULT 0,
    misses INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, engine INTEGER NOT NULL REFERENCES engines, value TEXT NOT NULL, bytes INTEGER NOT NULL,
    written REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS answers_by_age ON answers (written);
"""

_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (Completion, Scored)}


@dataclass(frozen=True, slots=True)
class EngineUse:
    """What a cache holds of one engine; `bytes` are those of the answers."""

    entries: int
    bytes: int
    hits: int
    misses: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a cache holds; `bytes` is its size on disk, `oldest` and `newest` are seconds since 1970, or None if empty.

    `hits` are answers that were found, `misses` those that had to be made (failed ones, which are not kept, left out),
    both since the file was made. `engines` is by fingerprint.
    """

    path: Path
    entries: int
    bytes: int
    hits: int
    misses: int
    oldest: float | None
    newest: float | None
    engines: dict[str, EngineUse]


class Cache:
    """The answers in one file, made on first use; any number of threads and processes may use it at once.

    Every method raises UserError when the file is damaged, is something else, or cannot be read or written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_path()
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inherited: sqlite3.Connection | None = None
        self._process = 0

    def get(self, keys: Sequence[str]) -> dict[str, Completion | Scored]:
        """The answers that are there, by key; each key that is found counts as a hit of its engine."""
        found: dict[str, Completion | Scored] = {}
        owners: dict[str, int] = {}
        with self._opened() as database:
            for start in range(0, len(keys), KEYS_AT_ONCE):
                some = keys[start : start + KEYS_AT_ONCE]
                marks = ",".join("?" * len(some))
                for key, engine, value in database.execute(
                    f"SELECT key, engine, value FROM answers WHERE key IN ({marks})", some
                ):
                    found[key], owners[key] = _read(value), engine
            if found:
                hits = Counter(owners[key] for key in keys if key in owners)
                with _writing(database):
                    database.executemany(
                        "UPDATE engines SET hits = hits + ? WHERE number = ?",
                        [(count, engine) for engine, count in hits.items()],
                    )
        return found

    def put(self, key: str, value: Completion | Scored, engine_fingerprint: str) -> None:
        """Keep an answer. What is there under the key already stays, and a failed answer is not kept."""
        if value.problem or (isinstance(value, Completion) and value.stop == "failed"):
            return
        text = json.dumps({"kind": type(value).__name__, **dataclasses.asdict(value)})
        with self._opened() as database, _writing(database):
            database.execute(
                "INSERT INTO engines (fingerprint, misses) VALUES (?, 1) "
                "ON CONFLICT (fingerprint) DO UPDATE SET misses = misses + 1",
                (engine_fingerprint,),
            )
            database.execute(
                "INSERT OR IGNORE INTO answers SELECT ?, number, ?, ?, ? FROM engines WHERE fingerprint = ?",
                (key, text, len(text), time.time(), engine_fingerprint),
            )

    def statistics(self) -> Statistics:
        """What the cache holds and how it was used."""
        with self._opened() as database:
            rows = database.execute(
                "SELECT fingerprint, COUNT(key), COALESCE(SUM(bytes), 0), hits, misses FROM engines "
                "LEFT JOIN answers ON engine = number GROUP BY number ORDER BY fingerprint"
            ).fetchall()
            oldest, newest = database.execute("SELECT MIN(written), MAX(written) FROM answers").fetchone()
        engines = {fingerprint: EngineUse(*numbers) for fingerprint, *numbers in rows}
        entries, hits, misses = (
            sum(getattr(use, name) for use in engines.values()) for name in ("entries", "hits", "misses")
        )
        return Statistics(self.path, entries, self._size(), hits, misses, oldest, newest, engines)

    def prune(
        self, older_than_days: float | None = None, engine: str | None = None, most_bytes: int | None = None
    ) -> int:
        """Remove answers and give their room back to the disk; returns how many went.

        Those go that are older than so many days and of the engine with this fingerprint (one of both may be left
        out); then the oldest of all until the file has at most `most_bytes`, or is empty. Without any limit none goes.
        """
        with self._opened() as database:
            removed = _remove_chosen(database, older_than_days, engine)
            _compact(database)
            while most_bytes is not None and self._size() > most_bytes:
                oldest = _remove_oldest(database, self._size() - most_bytes)
                if not oldest:
                    break
                removed += oldest
                _compact(database)
        return removed

    def close(self) -> None:
        """Let go of the file; the next call opens it again."""
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
                self._connection = None

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """The database, for one thread at a time, with what can go wrong in it put into words."""
        with self._lock, _sentences(self.path):
            if self._connection is None or self._process != os.getpid():
                # in a forked process the parent's must not be used, nor closed, as dropping it would
                self._inherited = self._connection
                self._connection, self._process = _connect(self.path), os.getpid()
            yield self._connection

    def _size(self) -> int:
        """Bytes of the file and of the log beside it."""
        files = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())


def cache_path() -> Path:
    """The file that answers are kept in unless another one is named."""
    return cache_folder() / "answers.sqlite"


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    # isolation_level None: transactions begin where they are written, not where Python guesses
    database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        if database.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
            _make_tables(database)
        # NORMAL: one fsync a checkpoint; a killed process loses nothing, a power cut at most the last answers
        database.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        database.close()
        raise
    return database


def _make_tables(database: sqlite3.Connection) -> None:
    """Make a new file a cache. Several processes may try at once."""
    _switch_to_wal(database)
    with _writing(database):
        ours = database.execute("PRAGMA application_id").fetchone()[0] == APPLICATION
        others = database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        if others and not ours:
            raise sqlite3.DatabaseError("it is the database of another program")
        for statement in TABLES.split(";"):
            database.execute(statement)
        database.execute(f"PRAGMA application_id = {APPLICATION}")


def _switch_to_wal(database: sqlite3.Connection) -> None:
    """SQLite does not wait for other processes here, whatever its time limit is."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextmanager
def _writing(database: sqlite3.Connection) -> Iterator[None]:
    """One transaction; IMMEDIATE takes the write lock at its beginning, where waiting for others cannot fail."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _remove_chosen(database: sqlite3.Connection, older_than_days: float | None, engine: str | None) -> int:
    conditions, values = [], []
    if older_than_days is not None:
        conditions.append("written < ?")
        values.append(time.time() - older_than_days * 86400)
    if engine is not None:
        conditions.append("engine = (SELECT number FROM engines WHERE fingerprint = ?)")
        values.append(engine)
    if not conditions:
        return 0
    with _writing(database):
        return database.execute(f"DELETE FROM answers WHERE {' AND '.join(conditions)}", values).rowcount


def _remove_oldest(database: sqlite3.Connection, least_bytes: int) -> int:
    """Remove the oldest answers that have at least so many bytes together; never more than it takes, maybe fewer."""
    with _writing(database):
        return database.execute(
            "DELETE FROM answers WHERE key IN (SELECT key FROM (SELECT key, bytes, SUM(bytes) OVER "
            "(ORDER BY written, key) AS upto FROM answers) WHERE upto - bytes < ?)",
            (least_bytes,),
        ).rowcount


def _compact(database: sqlite3.Connection) -> None:
    database.execute("VACUUM")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # in WAL mode the file only shrinks here


def _read(text: str) -> Completion | Scored:
    try:
        values = json.loads(text)
        kind = _KINDS[values.pop("kind")]
        return kind(**{name: _frozen(value) for name, value in values.items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise sqlite3.DatabaseError("an entry cannot be read") from error


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """Turn what can go wrong with the file, met inside the block, into a UserError."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.OperationalError as error:
        raise UserError(*_describe(path, str(error))) from error
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"{path} is no cache of answers, or it is damaged: {error}",
            "Move it away; a new one is made. Or set CAMELID_CACHE to another folder.",
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot write to {path.parent}: {error.strerror}", "Set CAMELID_CACHE to a folder of yours with room."
        ) from error


def _describe(path: Path, said: str) -> tuple[str, str]:
    if "locked" in said:
        return f"another process keeps {path} locked", "Wait for it, or stop it first."
    return f"cannot read or write {path}: {said}", "Make room, or set CAMELID_CACHE to a folder of yours with room."
