"""Rows for a recipe: files, named sets and hub data sets, read, validated and split.

A named set is a module of this package with `SPLITS` (role -> split) and `read(split)`; it is found by its name
(`emotion` is data/emotion.py), so adding a file adds a set.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from camelid.data.formats import SUFFIXES, Table, read_hub, read_table
from camelid.errors import UserError, raise_all
from camelid.recipe import Data
from camelid.rows import Labelled, Tagged

LONGEST_TEXT = 1_000_000  # characters; longer means an unclosed quote or a wrong column, not a document
EXAMPLES = 3  # places named per problem

LabelRow = Labelled | Tagged


@dataclass(frozen=True)
class Splits:
    """Rows by role, what was left out and why, and what the user should know before believing a score.

    `held_out` is where the final scores are measured: "test", or "dev" when the user has no test rows.
    """

    train: list[Any]
    dev: list[Any]
    test: list[Any]
    dropped: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def held_out(self) -> str:
        return "test" if self.test else "dev"


def read_rows(source: str, data: Data | None = None, *, dropped: Counter[str] | None = None) -> list[Any]:
    """Rows of a file (.csv .tsv .jsonl .parquet), a named set (`emotion`, `emotion:test`) or `hub:<id>[:split]`.

    Columns are `data.text` and `data.label`, or `data.tokens` and `data.tags` for tagged sentences. Raises UserError
    with every problem found; rows left out under `data.missing = "drop"` are counted in `dropped` by reason.
    """
    data = data or Data()
    dropped = Counter() if dropped is None else dropped
    name, _, split = source.partition(":")
    if named := _named_set(name):
        chosen = split or named.SPLITS["train"]
        if chosen not in named.SPLITS.values():
            known = ", ".join(named.SPLITS.values())
            raise UserError(f"the set {name} has no split {chosen!r}", f"Its splits are: {known}.")
        return list(named.read(chosen, dropped))
    if name == "hub":
        hub, _, hub_split = split.partition(":")
        return _to_rows(read_hub(hub, hub_split or "train"), source, data, dropped)
    if Path(source).suffix not in SUFFIXES and not Path(source).exists():
        raise UserError(
            f"{source!r} is neither a file nor a named data set",
            f"Files end in {', '.join(SUFFIXES)}; named sets are: {', '.join(named_sets())}.",
        )
    return _to_rows(read_table(Path(source)), source, data, dropped)


def read_splits(data: Data, seed: int) -> Splits:
    """Train, dev and test rows of a recipe. Raises UserError with every problem found in any of the files.

    When dev is absent it is drawn from train with the seed, by distinct text, so that no text stands on both sides.
    """
    if not data.train:
        raise UserError("no training data is named", "Add --data FILE, or --data with the name of a set.")
    dropped: dict[str, Counter[str]] = defaultdict(Counter)
    rows: dict[str, list[Any]] = {"train": [], "dev": [], "test": []}
    problems: list[UserError] = []
    for role, source in _sources(data).items():
        try:
            rows[role] = read_rows(source, data, dropped=dropped[role])
        except UserError as error:
            problems.append(error)
    raise_all(problems)
    if not rows["dev"]:
        rows["train"], rows["dev"] = draw_dev(rows["train"], data.dev_share, seed)
    warnings = _overlaps(rows)
    for role, limit in (("train", data.train_rows), ("dev", data.dev_rows), ("test", data.test_rows)):
        rows[role] = _draw(rows[role], limit, seed)
    _check_labels(rows, data)
    return Splits(
        **rows,
        dropped={f"{role}: {why}": count for role, counts in dropped.items() for why, count in counts.items()},
        warnings=warnings,
    )


def read_inputs(path: Path, column: str, tagging: bool) -> tuple[list[dict[str, Any]], list[Any]]:
    """Rows to be labelled: their columns as they are, and row objects without a label, from one file.

    Raises UserError for a missing column, rows without text, and columns that prediction would overwrite.
    """
    inputs: list[dict[str, Any]] = []
    rows: list[Any] = []
    missing: list[str] = []
    for number, (origin, values) in enumerate(read_table(path)):
        if number == 0:
            _check_columns(str(path), [column], values)
            if "predicted" in values:
                raise UserError(f"{path} already has a column 'predicted'", "Rename or remove it first.")
        if _is_missing(values[column]):
            missing.append(origin)
            continue
        inputs.append(values)
        words = _words(values[column]) if tagging else ()
        row_id = str(number)
        rows.append(
            Tagged(row_id, origin, words, ("",) * len(words)) if tagging else Labelled(row_id, origin, values[column], "")
        )
    raise_all([_row_problem(str(path), f"empty column {column!r}", missing)] if missing else [])
    return inputs, rows


def draw_dev(rows: Sequence[LabelRow], share: float, seed: int) -> tuple[list[Any], list[Any]]:
    """(train, dev) with about `share` of the rows in dev, stratified by label; equal texts stay on one side."""
    groups: dict[Any, list[Any]] = defaultdict(list)
    for row in rows:
        groups[_content(row)].append(row)
    by_label: dict[Any, list[list[Any]]] = defaultdict(list)
    for group in groups.values():
        by_label[group[0].label if isinstance(group[0], Labelled) else None].append(group)
    dev: set[str] = set()
    for label in sorted(by_label, key=str):
        shuffled = random.Random(f"{seed} dev {label}").sample(by_label[label], len(by_label[label]))
        for group in shuffled[: math.floor(share * len(shuffled) + 0.5)]:
            dev.update(row.id for row in group)
    return [row for row in rows if row.id not in dev], [row for row in rows if row.id in dev]


def labels_of(rows: Iterable[LabelRow]) -> list[str]:
    """The distinct labels or tags, sorted: their order is the order of the head's outputs."""
    return sorted({label for row in rows for label in ((row.label,) if isinstance(row, Labelled) else row.tags)})


def is_tagged(source: str) -> bool:
    """Whether a named set holds tagged sentences."""
    named = _named_set(source.partition(":")[0])
    return bool(named) and named.ROW is Tagged


def named_sets() -> list[str]:
    """Names of the data sets that can stand in a recipe."""
    names = (module.name for module in pkgutil.iter_modules(__path__) if module.name != "formats")
    return sorted(name.replace("_", "-") for name in names)


def _named_set(name: str) -> ModuleType | None:
    return importlib.import_module(f"camelid.data.{name.replace('-', '_')}") if name in named_sets() else None


def _sources(data: Data) -> dict[str, str]:
    """Source by role. A named set given for train brings its own dev and test splits."""
    named = _named_set(data.train)
    own = {role: f"{data.train}:{split}" for role, split in named.SPLITS.items()} if named else {"train": data.train}
    given = {"dev": data.dev, "test": data.test}
    return own | {role: source for role, source in given.items() if source}


def _to_rows(table: Table, source: str, data: Data, dropped: Counter[str]) -> list[Any]:
    """Rows of a table of the user's own; a row's id is its number in the file."""
    convert: Callable[[str, str, dict[str, Any]], LabelRow | str]
    if data.tokens or data.tags:
        columns = (data.tokens or "tokens", data.tags or "tags")
        convert = lambda row_id, origin, values: _tagged(row_id, origin, values, *columns)  # noqa: E731
    else:
        columns = (data.text, data.label)
        convert = lambda row_id, origin, values: _labelled(row_id, origin, values, *columns)  # noqa: E731
    rows: list[Any] = []
    wrong: dict[str, list[str]] = defaultdict(list)
    for number, (origin, values) in enumerate(table):
        if number == 0:
            _check_columns(source, columns, values)
        row = convert(str(number), origin, values)
        if not isinstance(row, str):
            rows.append(row)
        elif data.missing == "drop" and row.startswith("no "):
            dropped[row] += 1
        else:
            wrong[row].append(origin)
    raise_all([_row_problem(source, why, places) for why, places in wrong.items()])
    if not rows:
        raise UserError(f"{source} has no usable rows", "It needs a header line and at least one complete row.")
    return rows


def _labelled(row_id: str, origin: str, values: dict[str, Any], text: str, label: str) -> Labelled | str:
    """The row, or what is wrong with it; problems that start with "no " may be dropped on request."""
    if _is_missing(values.get(text)):
        return f"no text in column {text!r}"
    if _is_missing(values.get(label)):
        return f"no label in column {label!r}"
    if not isinstance(values[text], str):
        return f"column {text!r} holds {type(values[text]).__name__}, not text"
    if len(values[text]) > LONGEST_TEXT:
        return f"column {text!r} holds more than {LONGEST_TEXT:,} characters"
    if not isinstance(values[label], str | int | bool):
        return f"column {label!r} holds {type(values[label]).__name__}, not a class"
    return Labelled(row_id, origin, values[text], str(values[label]).strip())


def _tagged(row_id: str, origin: str, values: dict[str, Any], tokens: str, tags: str) -> Tagged | str:
    if _is_missing(values.get(tokens)):
        return f"no words in column {tokens!r}"
    if _is_missing(values.get(tags)):
        return f"no tags in column {tags!r}"
    words, marks = _words(values[tokens]), _words(values[tags])
    if len(words) != len(marks):
        return f"column {tokens!r} and column {tags!r} have different lengths"
    if not words or not all(isinstance(word, str) and word.strip() for word in words):
        return f"column {tokens!r} holds an empty word"
    if sum(map(len, words)) > LONGEST_TEXT:
        return f"column {tokens!r} holds more than {LONGEST_TEXT:,} characters"
    return Tagged(row_id, origin, words, tuple(str(mark) for mark in marks))


def _words(value: Any) -> tuple[Any, ...]:
    """A list as it is; a string (a csv cell) split at spaces."""
    return tuple(value.split()) if isinstance(value, str) else tuple(value)


def _is_missing(value: Any) -> bool:
    """None, NaN, nothing but spaces, or an empty list."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    if isinstance(value, str):
        return not value.strip() or value.strip().lower() == "nan"
    return isinstance(value, list | tuple) and not value


def _check_columns(source: str, wanted: Sequence[str], values: dict[str, Any]) -> None:
    import difflib

    problems = []
    for column in wanted:
        if column not in values:
            near = difflib.get_close_matches(column, list(values), n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            problems.append(
                UserError(
                    f"{source} has no column {column!r}; it has: {', '.join(map(str, values))}",
                    f"{hint}Name the columns with --text and --label (or --tokens and --tags).",
                )
            )
    raise_all(problems)


def _row_problem(source: str, why: str, places: Sequence[str]) -> UserError:
    """One message for all rows with the same problem, naming the first few."""
    more = f" and {len(places) - EXAMPLES} more" if len(places) > EXAMPLES else ""
    fix = "Correct these rows, or remove them."
    if why.startswith("no "):
        fix = "Fill them in, or leave such rows out with --set data.missing=drop (they are counted in the report)."
    elif "characters" in why:
        fix = "Look for an unclosed quote or a wrong column; split real documents into passages first."
    elif "different lengths" in why:
        fix = "Each word needs exactly one tag."
    count = f"{len(places)} row{'s' if len(places) > 1 else ''}"
    return UserError(f"{source}: {why} in {count}: {', '.join(places[:EXAMPLES])}{more}", fix)


def _check_labels(rows: dict[str, list[Any]], data: Data) -> None:
    known = set(labels_of(rows["train"]))
    problems = []
    if len(known) < 2:
        problems.append(
            UserError(
                f"{data.train} has a single class ({next(iter(known), 'none')}) in its {len(rows['train'])} training rows",
                f"Nothing can be learned from one class; is {data.label!r} the right column?",
            )
        )
    for role in ("dev", "test"):
        if not rows[role]:
            continue
        unknown = [row for row in rows[role] if not set(labels_of([row])) <= known]
        if unknown and len(known) > 1:
            label = next(iter(sorted(set(labels_of(unknown[:1])) - known)))
            problems.append(
                UserError(
                    f"label {label!r} in {role} ({unknown[0].origin}) never occurs in train ({len(unknown)} such rows)",
                    f"Correct the label, add training rows for it, or remove these rows from {role}.",
                )
            )
    raise_all(problems)


def _overlaps(rows: dict[str, list[Any]]) -> list[str]:
    """A warning for each pair of splits that share texts: scores on shared texts measure memory."""
    warnings = []
    for left, right in (("train", "dev"), ("train", "test"), ("dev", "test")):
        seen = {_content(row) for row in rows[left]}
        shared = [row for row in rows[right] if _content(row) in seen]
        if shared:
            warnings.append(
                f"{len(shared)} of {len(rows[right])} rows of {right} stand in {left} too, the first at "
                f"{shared[0].origin}: scores on them measure memory. Remove them from one of the two."
            )
    return warnings


def _content(row: LabelRow) -> Any:
    return row.text.strip() if isinstance(row, Labelled) else row.tokens


def _draw(rows: list[Any], limit: int | None, seed: int) -> list[Any]:
    """At most `limit` rows, drawn with the seed, in their old order."""
    if limit is None or len(rows) <= limit:
        return rows
    chosen = set(random.Random(f"{seed} draw").sample(range(len(rows)), limit))
    return [row for number, row in enumerate(rows) if number in chosen]


def renumbered(rows: Iterable[LabelRow]) -> list[Any]:
    """The rows with their position as id, for sets whose files have none."""
    return [replace(row, id=str(number)) for number, row in enumerate(rows)]
