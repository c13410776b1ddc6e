"""The run folder: what a run made, stage by stage, so that a killed run goes on where it stopped.

A stage is a name and a callable that makes its artifact. It is finished when manifest.json lists the artifact's sha256,
which is written last (artifact to `.part`, fsync, rename, then the manifest, likewise). A finished stage is read back
and its callable is never called, so a resumed run loads no data and no model it does not need.

    recipe.toml      the resolved recipe; resume uses it and refuses an edited one
    manifest.json    method, command, versions, machine, notes, finished stages with their sha256
    <name>.jsonl     rows          <name>/   a trained model or other files          scores.json
    timings.jsonl    seconds and peak memory of each stage: everything that does not repeat bit for bit
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from camelid import spending
from camelid.errors import UserError
from camelid.processes import is_leader, wait_for_all
from camelid.progress import track
from camelid.recipe import write_recipe
from camelid.rows import PASSING, Row, iterate_rows, to_json, write_rows

VERSIONED = ("camelid", "torch", "transformers", "peft", "accelerate", "scikit-learn", "numpy", "tokenizers")

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
FULL = ("No space left", "quota exceeded", "File too large")
FULL_BYTES = 1 << 20  # with less room than this a failed write is the disk's fault

T = TypeVar("T")


class Run:
    """A run folder. `open_run` makes or reopens one; methods call its stages."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    def rows(self, name: str, make: Callable[[], Iterable[Row]]) -> list[Any]:
        """The rows of `<name>.jsonl`, made on the first call."""
        path = self.folder / f"{name}.jsonl"
        if not self._finished(name, path):
            if is_leader():
                with self._stage(name):
                    part = _part(path)
                    count = write_rows(part, make())
                    publish_file(part, path)
                self._finish(name, path, rows=count)
            self._meet()
        return list(iterate_rows(path))

    def arrays(self, name: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The named NumPy arrays of `<name>.safetensors`, made on the first call."""
        import numpy as np
        from safetensors.numpy import load_file, save_file

        path = self.folder / f"{name}.safetensors"
        if not self._finished(name, path):
            if is_leader():
                with self._stage(name):
                    part = _part(path)
                    save_file({key: np.ascontiguousarray(array) for key, array in make().items()}, part)
                    publish_file(part, path)
                self._finish(name, path)
            self._meet()
        return load_file(path)

    def files(self, name: str, make: Callable[[Path], None]) -> Path:
        """The folder `<name>/`, whose files `make(folder)` writes on the first call."""
        folder = self.folder / name
        if not self._finished(name, folder):
            if is_leader():
                with self._stage(name):
                    part = _part(folder)
                    shutil.rmtree(part, ignore_errors=True)  # what a killed process began
                    part.mkdir()
                    make(part)
                    shutil.rmtree(folder, ignore_errors=True)  # published, and killed before the manifest was written
                    publish_folder(part, folder)
                self._finish(name, folder)
            self._meet()
        return folder

    def map(
        self,
        name: str,
        rows: Iterable[Any],
        judge: Callable[[Sequence[Any]], Iterable[Row]],
        *,
        chunk: int = 64,
        total: int | None = None,
        may_fail: bool = False,
    ) -> Path:
        """`<name>.jsonl` with one row for each of `rows`, in order; returns its path, to be read row by row.

        `judge` takes up to `chunk` rows and gives as many back. Each chunk is appended before the next is read, so that
        a corpus of any size streams through, and a killed run goes on behind the last whole line. Rows that failed for
        a reason that may pass are judged again when the run is resumed, and once at the end. Raises UserError when all
        rows of a chunk failed so, because going on would fail the rest as well, unless they `may_fail`; and when what
        was written is of other rows.
        """
        path = self.folder / f"{name}.jsonl"
        if not self._finished(name, path):
            if is_leader():
                with self._stage(name):
                    work = _Mapping(_part(path), judge, chunk, name, None if may_fail else self.folder)
                    count = work.go_through(iter(rows), total)
                    publish_file(work.part, path)
                self._finish(name, path, rows=count)
            self._meet()
        return path

    def map_rows(
        self, name: str, rows: Sequence[Any], judge: Callable[[Sequence[Any]], Iterable[Row]], *, chunk: int = 64
    ) -> list[Any]:
        """The rows of `map`, where they are few enough to be read at once."""
        return list(iterate_rows(self.map(name, rows, judge, chunk=chunk, total=len(rows))))

    def model(self, name: str, build: Callable[[], T], fit: Callable[[T, Path], None]) -> Path:
        """The folder of a trained model: `build()` makes the module, `fit(module, folder)` trains it there.

        `models.save` then writes what `models.load_handle(folder)` needs to rebuild it. A checkpoint in the
        folder makes `fit` go on from there; checkpoints are deleted once the stage is finished.
        """
        from camelid import models

        folder = self.folder / name
        if not self._finished(name, folder):
            folder.mkdir(parents=True, exist_ok=True)
            with self._stage(name):
                module: Any = build()
                fit(module, folder)
                if is_leader():
                    models.save(module, folder)
            if is_leader():
                self._finish(name, folder)
            self._meet()
        if is_leader():
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return folder

    def scores(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The entry `name` of scores.json: reproducible values only, no times."""
        self._meet()
        path = self.folder / "scores.json"
        scores = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        stage = f"scores.{name}"
        finished = self.manifest["stages"].get(stage)
        if finished is None:
            with self._stage(stage):
                scores[name] = json.loads(json.dumps(make()))
            if is_leader():
                write_json(path, scores)
                self.manifest["stages"][stage] = {"path": path.name, "sha256": _sha256_text(json.dumps(scores[name]))}
                self._write_manifest()
            self._meet()
        elif name not in scores or finished["sha256"] != _sha256_text(json.dumps(scores[name])):
            raise _edited(path)
        return scores[name]

    def note(self, name: str, make: Callable[[], Any]) -> None:
        """Keep a fact for the report under `name` in the manifest (counts of dropped rows, warnings), once.

        `make` is called by the leader only, so it calls no stage of the run: the others would wait for one another.
        """
        if name in self.manifest["notes"]:
            return
        if is_leader():
            self.manifest["notes"][name] = make()
            self._write_manifest()
        self._meet()

    def finish(self) -> None:
        """Mark the whole run as finished."""
        if is_leader():
            self.manifest["finished"] = True
            self._write_manifest()

    def _meet(self) -> None:
        """Wait for the other processes of the run and take over what the leader wrote."""
        wait_for_all()
        if not is_leader():
            self.manifest = read_manifest(self.folder)

    def _finished(self, name: str, path: Path) -> bool:
        stage = self.manifest["stages"].get(name)
        if stage is None:
            return False
        if not path.exists() or stage["sha256"] != sha256(path):
            raise _edited(path)
        return True

    def _finish(self, name: str, path: Path, **facts: Any) -> None:
        self.manifest["stages"][name] = {"path": str(path.relative_to(self.folder)), "sha256": sha256(path), **facts}
        self._write_manifest()

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        with measure() as cost:
            yield
        if not is_leader():
            return
        with (self.folder / "timings.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps({"stage": name, **cost.as_dict()}) + "\n")

    def _write_manifest(self) -> None:
        write_json(self.folder / "manifest.json", self.manifest)


@contextmanager
def open_run(folder: Path, *, recipe: Any, method: str, command: Sequence[str]) -> Iterator[Run]:
    """A new run in `folder`. Raises UserError when the folder already holds something or cannot be written."""
    if is_leader():
        _create(folder, recipe, method, command)
    wait_for_all()
    with _locked(folder), disk_errors(folder), spending.kept_in(folder):
        yield Run(folder, read_manifest(folder))


@contextmanager
def reopen_run(folder: Path) -> Iterator[Run]:
    """An existing run, to be continued. Raises UserError when it is none, is in use, or its recipe was edited."""
    read_manifest(folder)
    with _locked(folder), disk_errors(folder), spending.kept_in(folder):
        manifest = read_manifest(folder)  # again: another process may have finished a stage before it let go
        if manifest["recipe_sha256"] != sha256(folder / "recipe.toml"):
            raise UserError(
                f"{folder / 'recipe.toml'} was edited after the run started, or is missing",
                "Undo the edit to resume, or start anew from it: camelid run <method> --recipe recipe.toml --out ...",
            )
        yield Run(folder, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of a run folder; UserError when `folder` is none."""
    path = folder / "manifest.json"
    if not path.is_file():
        what = f"{folder} is no run folder (it has no manifest.json)" if folder.exists() else f"there is no {folder}"
        raise UserError(what, "Give the folder that camelid run wrote with --out.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or not {"method", "recipe_sha256", "stages"} <= set(manifest):
        raise UserError(f"{path} was not written by camelid", "Give the folder that camelid run wrote.")
    return manifest


def slug(name: str) -> str:
    """A file name for a system's or stage's name: "TF-IDF + logistic regression" -> "tf-idf-logistic-regression"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def next_folder(method: str, root: Path = Path("runs")) -> Path:
    """runs/<method>-<n> with the first free n."""
    number = 1
    while (root / f"{method}-{number}").exists():
        number += 1
    return root / f"{method}-{number}"


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader, or a kill, sees the old file or the new one and nothing between."""
    part = _part(path)
    part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    publish_file(part, path)


def publish_folder(part: Path, folder: Path) -> None:
    """Rename a complete `.part` folder into place after its files have reached the disk."""
    for file in part.rglob("*"):
        if file.is_file():
            _fsync(file)
    publish_file(part, folder)


def sha256(path: Path) -> str:
    """Hash of a file, or of a folder's files with their names; checkpoints, trackers and times are left out."""
    digest = hashlib.sha256()
    if path.is_file():
        return _hash_file(path, digest)
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path)
        if file.is_file() and inside.parts[0] not in ("checkpoints", "trackers") and inside.name != "timings.jsonl":
            digest.update(str(inside).encode())
            _hash_file(file, digest)
    return digest.hexdigest()


@dataclass
class Cost:
    """Wall and processor seconds, and the peak resident memory of the process in MB, over a `measure()` block."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_mb: float = 0.0

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 2) for name, value in vars(self).items()}


@contextmanager
def measure() -> Iterator[Cost]:
    """Measure the block. Memory is sampled every 20 ms: getrusage only knows the peak since the process began."""
    import psutil

    process, cost, stop = psutil.Process(), Cost(), threading.Event()

    def sample() -> None:
        while True:
            cost.peak_memory_mb = max(cost.peak_memory_mb, process.memory_info().rss / 2**20)
            if stop.wait(0.02):
                return

    sampler = threading.Thread(target=sample, daemon=True)
    wall, cpu = time.perf_counter(), time.process_time()
    sampler.start()
    try:
        yield cost
    finally:
        cost.seconds, cost.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        stop.set()
        sampler.join()


def _create(folder: Path, recipe: Any, method: str, command: Sequence[str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and a run needs a folder", "Choose another --out.")
    if folder.exists() and any(folder.iterdir()):
        is_run = (folder / "manifest.json").exists()
        fix = f"camelid resume {folder} continues it; another --out starts anew." if is_run else "Choose another --out."
        raise UserError(f"{folder} already holds {'a run' if is_run else 'other files'}", fix)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_recipe(folder / "recipe.toml", recipe)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}", "Choose another --out.") from error
    manifest = {
        "method": method,
        "command": list(command),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "finished": False,
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
        "machine": _machine(),
        "recipe_sha256": sha256(folder / "recipe.toml"),
        "notes": {},
        "stages": {},
    }
    write_json(folder / "manifest.json", manifest)


@contextmanager
def disk_errors(folder: Path, fix: str = "") -> Iterator[None]:
    """Turn a full disk or one that cannot be written, met inside the block, into a UserError.

    `fix` says what to do; without one `folder` is a run's, which can be resumed.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        problem = describe_disk_problem(error, folder)
        if not problem:
            raise
        fix = (
            fix or f"Make room (or the folder writable); camelid resume {folder} then goes on from the last state kept."
        )
        raise UserError(f"cannot write to {folder}: {problem}", fix) from error


def describe_disk_problem(error: Exception, folder: Path) -> str:
    """What is wrong with the disk of `folder`, if that is what the error is about; else nothing.

    Libraries written in Rust and C++ keep no error number: their words tell, or the disk itself.
    """
    if isinstance(error, OSError):
        return (error.strerror or str(error)) if error.errno in DISK_ERRORS else ""
    full = any(sign in str(error) for sign in FULL) or shutil.disk_usage(folder).free < FULL_BYTES
    return "no space left on the disk" if full else ""


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One run at a time per folder; the lock goes with the process, however it ends."""
    if not is_leader():
        yield
        return
    try:
        handle = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}", "Copy the run to a place of your own."
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another process is working in {folder}", "Wait for it, or stop it first.") from error
        yield


def sha256_of(files: Sequence[Path]) -> str:
    """One hash over the bytes of several files, in the order given."""
    digest = hashlib.sha256()
    for file in files:
        _hash_file(file, digest)
    return digest.hexdigest()


def _machine() -> dict[str, Any]:
    import psutil
    import torch

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": sys.version.split()[0],
        "threads": torch.get_num_threads(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
    }


@dataclass
class _Mapping:
    """A stage of `Run.map` under way: its half-written file, and rows in it that are to be judged again, by line.

    `folder` is the run's where a chunk that fails altogether ends it.
    """

    part: Path
    judge: Callable[[Sequence[Any]], Iterable[Row]]
    chunk: int
    name: str
    folder: Path | None
    failed: dict[int, Any] = field(default_factory=dict)

    def go_through(self, rows: Iterator[Any], total: int | None) -> int:
        """Judge what is not judged yet; how many rows there are then."""
        done = _cut_to_whole_lines(self.part)
        self._look_back(rows, done)
        self._judge_again()
        count = done
        with self.part.open("a", encoding="utf-8") as out, track(self.name, total, done) as advance:
            while taken := list(islice(rows, self.chunk)):
                given = self._judge(taken)
                if self.folder is not None:
                    _check_not_all_failed(given, self.folder)
                out.write("".join(f"{to_json(row)}\n" for row in given))
                out.flush()
                self._note(count, taken, given)
                count += len(given)
                advance(len(given))
        self._judge_again()
        return count

    def _look_back(self, rows: Iterator[Any], done: int) -> None:
        """Pass over rows that were judged before. They must be the same ones."""
        for line, (row, text) in enumerate(zip(islice(rows, done), self._lines() if done else (), strict=False)):
            known = json.loads(text)
            if row.id != known["id"]:
                what = (
                    f"{self.part.name}: line {line + 1} is of row {known['id']}, and the rows have {row.id} there now"
                )
                raise UserError(what, "The rows changed since the run began: start anew with another --out.")
            if _failed_for_now(known.get("outcome"), known.get("problem")):
                self.failed[line] = row

    def _lines(self) -> Iterator[str]:
        with self.part.open(encoding="utf-8", newline="\n") as lines:
            yield from lines

    def _judge(self, taken: Sequence[Any]) -> list[Any]:
        given = list(self.judge(taken))
        assert [row.id for row in given] == [row.id for row in taken], f"{self.name}: not one row for each"
        return given

    def _note(self, start: int, taken: Sequence[Any], given: Sequence[Any]) -> None:
        for place, (row, judged) in enumerate(zip(taken, given, strict=True)):
            if _is_open(judged):
                self.failed[start + place] = row

    def _judge_again(self) -> None:
        """Judge the failed rows once more and put what comes out into their lines."""
        lines, found = sorted(self.failed), {}
        for start in range(0, len(lines), self.chunk):
            some = lines[start : start + self.chunk]
            found |= dict(zip(some, self._judge([self.failed[line] for line in some]), strict=True))
        mended = {line: to_json(judged) + "\n" for line, judged in found.items() if not _is_open(judged)}
        self.failed = {line: row for line, row in self.failed.items() if line not in mended}
        if mended:
            other = self.part.with_name(f"{self.part.name}.again")
            with other.open("w", encoding="utf-8") as out:
                out.writelines(mended.get(line, text) for line, text in enumerate(self._lines()))
            other.replace(self.part)


def _cut_to_whole_lines(path: Path) -> int:
    """Cut a half-written last line off a file of rows, which need not be there; returns how many lines are left."""
    if not path.exists():
        return 0
    count = end = 0
    with path.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            count, end = count + 1, end + len(line)
        file.truncate(end)
    return count


def _is_open(row: Any) -> bool:
    return _failed_for_now(getattr(row, "outcome", ""), getattr(row, "problem", ""))


def _failed_for_now(outcome: str | None, problem: str | None) -> bool:
    """Whether a row's request failed for a reason that may pass, or that nobody knows."""
    return outcome == "failed" and (not problem or problem == "budget" or problem in PASSING)


def _check_not_all_failed(rows: Sequence[Any], folder: Path) -> None:
    if len(rows) > 1 and all(map(_is_open, rows)):
        raise UserError(
            f"all of the last {len(rows)} rows failed, the first for: {rows[0].reply or 'no reply'}",
            f"See to the cause; camelid resume {folder} then goes on with them.",
        )


def _edited(path: Path) -> UserError:
    return UserError(
        f"{path} is not what the run wrote: it is missing or was edited",
        "Restore the file, or start a new run with another --out.",
    )


def _part(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(path.name + ".part")


def publish_file(part: Path, path: Path) -> None:
    """Rename a complete `.part` into place after it has reached the disk."""
    if part.is_file():
        _fsync(part)
    os.replace(part, path)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _hash_file(path: Path, digest: Any) -> str:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
