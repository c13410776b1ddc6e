"""Tables of strings from csv, tsv, jsonl, parquet and hub data sets, each row with its place in the source.

A reader yields `(origin, values)`: `origin` in words a user can follow ("tweets.csv line 17"), `values` by column.
Nothing is repaired: a file that is not what its name says is a UserError with file, line and remedy.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from camelid.errors import UserError

Table = Iterator[tuple[str, dict[str, Any]]]
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
FIELD_LIMIT = 1 << 30  # csv stops at 128 KiB a field otherwise, with a message no user understands


def read_table(path: Path) -> Table:
    """Rows of one file by its suffix. Raises UserError for a missing, empty, unreadable or unknown file."""
    if not path.exists():
        near = sorted(p.name for p in path.parent.glob(f"*{path.suffix}"))[:5] if path.parent.is_dir() else []
        fix = f"In that folder there are: {', '.join(near)}." if near else "Check the path."
        raise UserError(f"there is no file {path}", fix)
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a file", f"Name one file in it ({', '.join(SUFFIXES)}).")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty", "It needs a header line and at least one row.")
    if path.suffix in (".csv", ".tsv"):
        return _read_csv(path)
    if path.suffix == ".jsonl":
        return _read_jsonl(path)
    if path.suffix == ".parquet":
        return _read_parquet(path)
    raise UserError(f"{path} has the unknown suffix {path.suffix!r}", f"Known are {', '.join(SUFFIXES)}.")


def read_hub(name: str, split: str, config: str | None = None) -> Table:
    """Rows of one split of a hub data set; class numbers become their names."""
    import datasets

    try:
        rows = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # datasets raises a different type for each way of not finding a set
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"cannot read the data set {name} (split {split}) from the hub: {reason}",
            "Check the name and the connection, or point CAMELID_DATA at a folder that holds the set.",
        ) from error
    names = {column: kind.names for column, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)}
    for number, values in enumerate(rows, 1):
        row: dict[str, Any] = dict(values)
        for column, classes in names.items():
            row[column] = classes[row[column]] if row[column] is not None and row[column] >= 0 else None
        yield f"{name}:{split} row {number}", row


def read_local_or_hub(folder: str, split: str, *, hub: str, hub_split: str, config: str | None = None) -> Table:
    """`$CAMELID_DATA/<folder>/<split>.jsonl` when that variable is set and the file is there, else the hub's split."""
    root = os.environ.get("CAMELID_DATA")
    local = Path(root) / folder / f"{split}.jsonl" if root else None
    return read_table(local) if local and local.exists() else read_hub(hub, hub_split, config)


def check_writable(path: Path) -> None:
    """Raise UserError when `path` has no known suffix for writing or its folder does not exist."""
    if path.suffix not in (".csv", ".tsv", ".jsonl"):
        raise UserError(f"cannot write {path}: unknown suffix {path.suffix!r}", "Use .csv, .tsv or .jsonl.")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent}", "Make it first, or name another place.")


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows by the suffix of `path`; lists become space-separated in csv and tsv."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        elif rows:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            for row in rows:
                writer.writerow({k: " ".join(map(str, v)) if isinstance(v, list | tuple) else v for k, v in row.items()})
    os.replace(part, path)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path} line {number} is not UTF-8 (byte {raw[error.start]:#04x} at position {error.start})",
                    f"Save it as UTF-8, for example: iconv -f latin1 -t utf-8 {path.name} > utf8{path.suffix}",
                ) from error


def _read_csv(path: Path) -> Table:
    csv.field_size_limit(FIELD_LIMIT)
    # strict: a stray quote is an error with a line number, not half a file swallowed as one field
    reader = csv.reader(
        (line for _, line in _lines(path)), delimiter="\t" if path.suffix == ".tsv" else ",", strict=True
    )
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
                    f"{path} line {first} has {len(fields)} fields, the header has {len(header)}",
                    "Quote fields that hold the separator or a line break.",
                )
            else:
                yield f"{path.name} line {first}", dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{path}: the record that starts at line {start + 1} has a stray quote ({error})",
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
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path} line {number} is not valid JSON (column {error.colno}: {error.msg})",
                "Each line must be one complete JSON object.",
            ) from error
        if not isinstance(values, dict):
            raise UserError(
                f"{path} line {number} is {type(values).__name__}, not an object",
                'Each line must be one JSON object such as {"text": "...", "label": "..."}.',
            )
        yield f"{path.name} line {number}", values


def _read_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} is not a parquet file", "Check how it was written, or export it as csv.") from error
    number = 0
    for batch in file.iter_batches():
        for values in batch.to_pylist():
            number += 1
            yield f"{path.name} row {number}", values
