"""Tables of strings from csv, tsv, jsonl, parquet and hub data sets, each row with its place in the source.

A reader yields `(origin, values)`: `origin` in words a user can follow ("tweets.csv line 17"), `values` by column.
Nothing is repaired: a file that is not what its name says is a UserError with file, line and remedy.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from camelid import hub
from camelid.errors import UserError

Table = Iterator[tuple[str, dict[str, Any]]]
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
FIELD_LIMIT = 1 << 30  # csv stops at 128 KiB a field otherwise, with a message no user understands


def read_table(path: Path) -> Table:
    """Rows of one file by its suffix. Raises UserError for a missing, empty, unreadable or unknown file."""
    if not path.exists():
        raise UserError(f"there is no file {path}", _nearest_files(path))
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a file", f"Name one file in it ({', '.join(SUFFIXES)}).")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty", "It needs a header line and at least one row.")
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path} has the unknown suffix {path.suffix!r}", f"Known are {', '.join(SUFFIXES)}.")
    return readers[path.suffix.lower()](path)


def read_records(path: Path) -> Table:
    """Rows of one file; beside what `read_table` knows also .json, a list of objects."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return read_table(path)
    text = "".join(line for _, line in _lines(path))
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = f"{path} is not valid JSON ({error})"
        raise UserError(what, "It must be one list of objects; one object a line is .jsonl.") from error
    if not isinstance(values, list) or not values or not all(isinstance(value, dict) for value in values):
        what = f"{path} holds {kind_of(values)}, and a list of objects is wanted"
        raise UserError(what, 'Write it as [{"...": ...}, ...], or one object a line as .jsonl.')
    return ((f"{path.name} row {number}", value) for number, value in enumerate(values, 1))


def read_hub(name: str, split: str, config: str | None = None) -> Table:
    """Rows of one split of a hub data set; class numbers become their names."""
    import datasets

    try:
        with hub.reached():
            rows = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # datasets raises a different type for each way of not finding a set
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"cannot read the data set {name} (split {split}) from the hub: {reason}",
            "Check the name and the connection, or point CAMELID_DATA at a folder that holds the set.",
        ) from error
    kinds = {column: getattr(kind, "feature", kind) for column, kind in rows.features.items()}  # of a list: its items'
    names = {column: kind.names for column, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)}
    for number, values in enumerate(rows, 1):
        named = {column: _class_names(values[column], classes) for column, classes in names.items()}
        yield f"{name}:{split} row {number}", dict(values) | named


def read_local_or_hub(folder: str, split: str, *, hub_id: str, hub_split: str, config: str | None = None) -> Table:
    """`$CAMELID_DATA/<folder>/<split>.jsonl` when that variable is set and the file is there, else the hub's split."""
    root = os.environ.get("CAMELID_DATA")
    local = Path(root) / folder / f"{split}.jsonl" if root else None
    return read_table(local) if local and local.exists() else read_hub(hub_id, hub_split, config)


def read_local(folder: str, split: str, *, source: str, suffix: str = ".jsonl") -> Table:
    """Rows of `$CAMELID_DATA/<folder>/<split>.jsonl`. Raises UserError where it is not; `source` says who has it."""
    root = os.environ.get("CAMELID_DATA")
    path = Path(root or "", folder, f"{split}{suffix}")
    if not root or not path.exists():
        where = f"{path} is not there" if root else "CAMELID_DATA is not set"
        raise UserError(
            f"the set {folder} is on no hub, and {where}",
            f"Put it there as {'one JSON object a line' if suffix == '.jsonl' else suffix[1:]}; it is from {source}.",
        )
    return read_table(path)


def check_writable(path: Path) -> None:
    """Raise UserError when `path` has no known suffix for writing, or no file can be made there."""
    if path.suffix.lower() not in (".csv", ".tsv", ".jsonl"):
        raise UserError(f"cannot write {path}: unknown suffix {path.suffix!r}", "Use .csv, .tsv or .jsonl.")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent}", "Make it first, or name another place.")
    if path.is_dir():
        raise UserError(f"{path} is a folder", "Name a file.")
    part = _part(path)
    try:
        part.touch()
        part.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {path.parent}: {error.strerror}", "Name another place.") from error


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows by the suffix of `path`. In csv and tsv lists of words become space-separated, dicts JSON, and every
    column of any row has its place. What JSON has no notation for becomes null (NaN) or text (dates)."""
    part = _part(path)
    try:
        _write_part(part, path, rows)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _write_part(part: Path, path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with part.open("w", encoding="utf-8", newline="") as file:
        if path.suffix.lower() == ".jsonl":
            file.writelines(json.dumps(_without_nan(row), ensure_ascii=False, default=str) + "\n" for row in rows)
        else:
            columns = list({column: None for row in rows for column in row})
            writer = csv.writer(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            writer.writerow(columns)
            writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple) and not any(isinstance(item, dict) for item in value):
        return " ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list | tuple) else value


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}


def _class_names(value: Any, classes: Sequence[str]) -> Any:
    """The name of a class number, or the names of a list of them; None for -1, which stands for a withheld label."""
    if isinstance(value, list):
        return [_class_names(item, classes) for item in value]
    return classes[value] if value is not None and value >= 0 else None


def _nearest_files(path: Path) -> str:
    names = (
        sorted(p.name for p in path.parent.glob("*.*") if p.suffix.lower() in SUFFIXES) if path.parent.is_dir() else []
    )
    near = difflib.get_close_matches(path.name, names, n=1)
    if near:
        return f"Did you mean {path.with_name(near[0])}?"
    return f"In that folder there are: {', '.join(names[:5])}." if names else "Check the path."


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "Check who may read it.") from error
    with file:
        for number, raw in enumerate(file, 1):
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            try:
                yield number, line.decode("utf-8")
            except UnicodeDecodeError as error:
                utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
                encoding = "utf-16" if utf16 else "latin1"
                place = f"byte {error.start + 1} of the line is {line[error.start]:#04x}"
                raise UserError(
                    f"{path} line {number} is not UTF-8 ({place})",
                    f"Save it as UTF-8, for example: iconv -f {encoding} -t utf-8 {path.name} > utf8{path.suffix}",
                ) from error


def _read_csv(path: Path) -> Table:
    csv.field_size_limit(FIELD_LIMIT)
    # strict: a stray quote is an error with a line number, not half a file swallowed as one field
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader((line for _, line in _lines(path)), delimiter=separator, strict=True)
    header: list[str] | None = None
    start = 0
    try:
        for fields in reader:
            start, first = reader.line_num, start + 1
            if not fields:
                continue
            if header is None:
                header = _header(path, fields)
            elif len(fields) != len(header):
                raise UserError(
                    f"{path} line {first}: the header has {len(header)} columns, this row has {len(fields)}",
                    "Quote fields that hold the separator or a line break.",
                )
            else:
                yield f"{path.name} line {first}", dict(zip(header, fields, strict=True))
    except csv.Error as error:
        if "new-line" in str(error):
            raise UserError(
                f"{path} line {start + 1} has a carriage return in the middle",
                f"Give it ordinary line ends, for example: tr '\\r' '\\n' < {path.name} > lines{path.suffix}",
            ) from error
        raise UserError(
            f"{path}: the record that starts at line {start + 1} has a stray quote (line {reader.line_num}: {error})",
            'Write a quote inside a quoted field twice (""), or remove it.',
        ) from error


def _header(path: Path, fields: list[str]) -> list[str]:
    names = [field.strip() for field in fields]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path} line 1 names the column {twice[0]!r} twice", "Give each column its own name.")
    return names


def _read_jsonl(path: Path) -> Table:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            values = json.loads(line.rstrip("\r\n"))  # a line break would put what is missing at its end into column 1
        except (ValueError, RecursionError) as error:
            place = f"column {error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else error
            raise UserError(
                f"{path} line {number} is not valid JSON ({place})", "Each line must be one complete JSON object."
            ) from error
        if not isinstance(values, dict):
            raise UserError(
                f"{path} line {number} is {kind_of(values)}, not an object",
                'Each line must be one JSON object such as {"text": "...", "label": "..."}.',
            )
        yield f"{path.name} line {number}", values


def _read_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            for values in batch.to_pylist():
                number += 1
                yield f"{path.name} row {number}", values
    except (pyarrow.ArrowException, OSError) as error:
        what = f"{path} is not a parquet file, or a damaged one (read up to row {number})"
        raise UserError(what, "Check how it was written, or export it as csv.") from error


def kind_of(value: Any) -> str:
    """What a value is, in the words of a user: "a number", "a list", "null"."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, list | tuple):
        return "a list"
    return {str: "text", dict: "an object", bytes: "bytes"}.get(type(value), f"a {type(value).__name__}")
