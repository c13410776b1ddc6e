"""Rows for a recipe: files, named sets and hub data sets, read, validated and split.

A named set is a module of this package with `SPLITS` (role -> split) and `read(split)`; it is found by its name
(`emotion` is data/emotion.py), so adding a file adds a set.
"""

from __future__ import annotations

import difflib
import importlib
import math
import os
import pkgutil
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from camelid.data.columns import Problem, Problems, Shape, label_shape, missing_columns, text_in, words_in
from camelid.data.formats import SUFFIXES, Table, read_hub, read_table
from camelid.errors import UserError, raise_all
from camelid.recipe import Data
from camelid.rows import (
    Annotated,
    Asked,
    Contest,
    Critiqued,
    Flagged,
    Labelled,
    Member,
    Pair,
    Preference,
    Rated,
    Reasoned,
    Tagged,
)

LabelRow = Labelled | Tagged
AnyRow = LabelRow | Annotated | Asked | Contest | Flagged | Preference | Rated | Member | Pair | Reasoned | Critiqued
KINDS = {
    Labelled: "labels",
    Tagged: "tags",
    Annotated: "annotations",
    Asked: "questions",
    Contest: "judged pairs",
    Flagged: "flags",
    Preference: "pairs",
    Rated: "ratings",
    Pair: "unjudged pairs",
    Member: "bagged labels",
    Reasoned: "reasoned answers",
    Critiqued: "judgments",
}
ROLES = ("train", "dev", "test")  # a set may have further splits, which are read by name
WRITTEN = ("predicted", "entities", "predicted_reasoning")  # columns that prediction adds
CORRECT = "Fill them in, or remove these rows."


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


@dataclass(frozen=True)
class NamedSet:
    """A named set as it stands on this machine: its splits by role, and the place where each would be read.

    `kind` says what rows it holds, one of `KINDS`; `about` says what it is, with source and licence; `problem` is why
    it cannot be read.
    """

    name: str
    kind: str
    about: str
    splits: dict[str, str]
    places: dict[str, str]
    problem: UserError | None


def read_rows(
    source: str, data: Data | None = None, *, shape: Shape | None = None, dropped: Counter[str] | None = None
) -> list[Any]:
    """Rows of a file (.csv .tsv .jsonl .parquet), a named set (`emotion`, `emotion:test`) or `hub:<id>[:split]`.

    Columns are `data.text` and `data.label`, or `data.tokens` and `data.tags` for tagged sentences; a `shape` reads
    other kinds of rows. Raises UserError with every problem found, or when a named set holds another kind; rows left
    out under `data.missing = "drop"` are counted in `dropped` by reason.
    """
    data = data or Data()
    dropped = Counter() if dropped is None else dropped
    name, _, split = source.partition(":")
    if named := _named_set(name):
        if shape:
            _check_kind(name, (shape.kind,))
        chosen = split or named.SPLITS["train"]
        if chosen not in named.SPLITS.values():
            known = ", ".join(named.SPLITS.values())
            raise UserError(f"the set {name} has no split {chosen!r}", f"Its splits are: {known}.")
        return list(named.read(chosen, dropped))
    if name == "hub":
        hub, _, hub_split = split.partition(":")
        table = read_hub(hub, hub_split or "train")
        return _to_rows(table, source, shape or label_shape(data), data.missing == "drop", dropped)
    if Path(source).suffix not in SUFFIXES and not Path(source).exists():
        raise UserError(
            f"{source!r} is neither a file nor a named data set",
            f"Files end in {', '.join(SUFFIXES)}; named sets are: {', '.join(named_sets())}.",
        )
    return _to_rows(read_table(Path(source)), source, shape or label_shape(data), data.missing == "drop", dropped)


def read_source(
    source: str | None, shape: Shape, missing: Literal["error", "drop"] = "error", dropped: Counter[str] | None = None
) -> list[Any]:
    """Rows that `shape` reads, as by `read_rows`; none where no source is named."""
    return read_rows(source, Data(missing=missing), shape=shape, dropped=dropped) if source else []


def read_splits(data: Data, seed: int, shape: Shape | None = None) -> Splits:
    """Train, dev and test rows of a recipe. Raises UserError with every problem found in any of the files.

    When dev is absent it is drawn from train with the seed, by distinct text, so that no text stands on both sides.
    Without a `shape` the rows have labels or tags, and dev and test may hold none that train lacks.
    """
    if not data.train:
        raise UserError("no training data is named", "Add --data FILE, or --data with the name of a set.")
    for source in _sources(data).values():
        _check_kind(source.partition(":")[0], (shape.kind,) if shape else (Labelled, Tagged))
    dropped: dict[str, Counter[str]] = defaultdict(Counter)
    rows: dict[str, list[Any]] = {role: [] for role in ROLES}
    problems: list[UserError] = []
    for role, source in _sources(data).items():
        try:
            rows[role] = read_rows(source, data, shape=shape, dropped=dropped[role])
        except UserError as error:
            problems.append(error)
            if "from the hub" in error.what:
                break  # the other splits would wait for the same time-out and say the same
    raise_all(problems)
    if shape is None:
        _check_classes(rows["train"], data)
    if not rows["dev"]:
        rows["train"], rows["dev"] = draw_dev(rows["train"], data.dev_share, seed)
        _check_drawn(rows, data)
    warnings = _overlaps(rows)
    rows["train"] = _draw_per_class(rows["train"], data.train_per_class, seed)
    for role, limit in (("train", data.train_rows), ("dev", data.dev_rows), ("test", data.test_rows)):
        rows[role] = draw_rows(rows[role], limit, random.Random(f"{seed} draw")) if limit else rows[role]
    if shape is None:
        _check_classes(rows["train"], data)  # again: few rows may have been drawn
        _check_labels(rows, data)
    return Splits(
        **rows,
        dropped={f"{role}: {why}": count for role, counts in dropped.items() for why, count in counts.items()},
        warnings=warnings,
    )


def read_inputs(path: Path, column: str, tagging: bool) -> tuple[list[dict[str, Any]], list[Any]]:
    """Rows to be labelled: their columns as they are, and row objects without a label, from one file.

    Raises UserError for a missing column, rows without text, no rows, and columns that prediction would overwrite.
    """
    inputs: list[dict[str, Any]] = []
    rows: list[Any] = []
    columns: dict[str, None] = {}
    problems = Problems(str(path))
    for number, (origin, values) in enumerate(read_table(path)):
        columns |= dict.fromkeys(values)
        content = words_in(values, column) if tagging else text_in(values, column)
        if isinstance(content, Problem):
            problems.add(replace(content, fix=CORRECT) if content.missing else content, origin)
            continue
        inputs.append(values)
        rows.append(_unlabelled(str(number), origin, content))
    raise_all(missing_columns(str(path), [column], columns, "--tokens" if tagging else "--text") if columns else [])
    taken = [name for name in columns if name in WRITTEN or name.startswith(("probability_", "predicted_"))]
    if taken:
        raise UserError(f"{path} already has the column {taken[0]!r}", "Rename or remove it: predict writes that name.")
    raise_all(problems.errors())
    if not rows:
        raise UserError(f"{path} has no rows", "It needs a header line and at least one row.")
    return inputs, rows


def _unlabelled(row_id: str, origin: str, content: str | tuple[str, ...]) -> LabelRow:
    if isinstance(content, str):
        return Labelled(row_id, origin, content, "")
    return Tagged(row_id, origin, content, ("",) * len(content))


def draw_dev(rows: Sequence[LabelRow], share: float, seed: int) -> tuple[list[Any], list[Any]]:
    """(train, dev) with about `share` of the rows in dev, stratified by class; equal texts stay on one side.

    Every class keeps a row in train: dev gets no row with a label or tag that train would lack.
    """
    groups: dict[Any, list[Any]] = defaultdict(list)
    for row in rows:
        groups[_content(row)].append(row)
    by_label: dict[Any, list[list[Any]]] = defaultdict(list)
    for group in groups.values():
        by_label[_stratum(group[0])].append(group)
    train, drawn = [], []
    for label in sorted(by_label, key=str):
        shuffled = random.Random(f"{seed} dev {label}").sample(by_label[label], len(by_label[label]))
        count = min(math.floor(share * len(shuffled) + 0.5), len(shuffled) - 1)
        drawn += shuffled[:count]
        train += shuffled[count:]
    known = set(labels_of(row for group in train for row in group))
    dev = {row.id for group in drawn if known.issuperset(labels_of(group)) for row in group}
    return [row for row in rows if row.id not in dev], [row for row in rows if row.id in dev]


def labels_of(rows: Iterable[LabelRow]) -> list[str]:
    """The distinct classes or tags, sorted: their order is the order of the head's outputs. Numbers have none."""
    return sorted({label for row in rows for label in labels_in(row)})


def labels_in(row: AnyRow) -> tuple[str, ...]:
    """The classes of a row: its one, its many, its words' tags; none where its label is a number, or it has none."""
    if isinstance(row, Tagged):
        return row.tags
    if isinstance(row, Annotated):
        return tuple(f"{kind} {label}" for kind, label in row.labels.items())
    if isinstance(row, Asked):
        return tuple(f"{row.task} {answer}" for answer in row.answers)
    if isinstance(row, Flagged):
        return tuple(name for name, violated in row.flags.items() if violated) or ("none",)
    if isinstance(row, Preference | Pair | Rated | Reasoned | Critiqued):
        return ()
    if isinstance(row, Contest):
        return tuple(f"{name} {verdict}" for name, verdict in row.verdicts.items())
    if isinstance(row, Member):
        return () if row.positive is None else ("positive" if row.positive else "negative",)
    if isinstance(row.label, tuple):
        return row.label
    return (row.label,) if isinstance(row.label, str) else ()


def task_of(rows: Sequence[LabelRow]) -> str:
    """What rows ask of a model: "labels", "multi-label", "regression" or "tags"."""
    if isinstance(rows[0], Tagged):
        return "tags"
    kinds = {str: "labels", tuple: "multi-label", float: "regression"}
    return kinds[type(rows[0].label)]


def is_tagged(source: str) -> bool:
    """Whether a named set holds tagged sentences."""
    named = _named_set(source.partition(":")[0])
    return bool(named) and named.ROW is Tagged


def named_sets() -> list[str]:
    """Names of the data sets that can stand in a recipe."""
    names = (module.name for module in pkgutil.iter_modules(__path__) if module.name not in ("columns", "formats"))
    return sorted(name.replace("_", "-") for name in names)


def describe_set(name: str) -> NamedSet:
    """What is known of a named set without asking the hub. Raises UserError when there is none of that name."""
    named = _named_set(name)
    if named is None:
        near = difflib.get_close_matches(name, named_sets(), n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        fix = f"{hint}The sets are: {', '.join(named_sets())}. camelid check METHOD --data FILE looks at a file."
        raise UserError(f"there is no named set {name!r}", fix)
    return NamedSet(
        name,
        KINDS[named.ROW],
        (named.__doc__ or "").strip(),
        dict(named.SPLITS),
        places_of(name),
        problem_of(name),
    )


def test_source(source: str) -> str | None:
    """Where a named set has its rows to score: "sst2" -> "sst2:dev"; None for a split of one, and for files."""
    named = _named_set(source)
    return f"{source}:{named.SPLITS['test']}" if named and "test" in named.SPLITS else None


def role_of(source: str) -> str | None:
    """ "train", "dev" or "test", for a source that names the split of a set or of a hub data set; else None.

    "emotion:val" is dev, "hub:name:test" is test; a file may hold anything.
    """
    name, _, split = source.partition(":")
    if name == "hub":
        found = split.partition(":")[2].partition("[")[0]
        return {"validation": "dev", "valid": "dev"}.get(found, found) if found else "train"
    named = _named_set(name)
    splits = named.SPLITS if named else {}
    return next((role for role, given in splits.items() if given == split), None)


def places_of(name: str) -> dict[str, str]:
    """Where the splits of a named set are: "embedded" (its wheel), "made", a file of CAMELID_DATA, "hub", "nowhere"."""
    named: Any = _named_set(name)
    splits = named.SPLITS.values()
    if hasattr(named, "MAKERS"):
        return dict.fromkeys(splits, "made")
    if not any(hasattr(named, name) for name in ("read_local_or_hub", "read_local", "FILES")):
        return dict.fromkeys(splits, "embedded")  # what a set imports says where its rows can come from
    root = os.environ.get("CAMELID_DATA")
    given = getattr(named, "FILES", {})
    places = {split: Path(root or "", name, given.get(split, f"{split}.jsonl")) for split in splits}
    # a set may read the files of another one, and the folder of its own name need not be there
    files = {split: Path(os.path.normpath(place)) for split, place in places.items()} if root else {}
    elsewhere = "hub" if hasattr(named, "read_local_or_hub") else "nowhere"
    return {split: str(files[split]) if split in files and files[split].exists() else elsewhere for split in splits}


def problem_of(name: str) -> UserError | None:
    """Why an embedded named set, or a file of one, cannot be read here; looks at no more than one row of a split."""
    named: Any = _named_set(name)
    try:
        for split, place in places_of(name).items():
            if place != "hub":
                next(iter(named.read(split, Counter())), None)
    except UserError as error:
        return error
    return None


def count_rows(found: NamedSet) -> dict[str, int]:
    """Rows by split, of those splits that can be read here without the hub."""
    named: Any = _named_set(found.name)
    here = [] if found.problem else [split for split, place in found.places.items() if place != "hub"]
    return {split: sum(1 for _ in named.read(split, Counter())) for split in here}


def read_set(name: str) -> dict[str, tuple[list[Any], Counter[str]]]:
    """Rows of every split of a named set, each with a count by reason of what was left out."""
    named: Any = _named_set(name)
    dropped: dict[str, Counter[str]] = {split: Counter() for split in named.SPLITS.values()}
    return {split: (list(named.read(split, counts)), counts) for split, counts in dropped.items()}


def _named_set(name: str) -> ModuleType | None:
    return importlib.import_module(f"camelid.data.{name.replace('-', '_')}") if name in named_sets() else None


def _stratum(row: AnyRow) -> Any:
    """What a drawn dev split has in the same shares as train, as far as that can be had."""
    if isinstance(row, Flagged):
        return any(row.flags.values())
    return row.label if isinstance(row, Labelled) and isinstance(row.label, str) else None


def _check_kind(name: str, kinds: Sequence[type]) -> None:
    """Whether a named set holds rows of one of the kinds; a name that is none is somebody else's matter."""
    named: Any = _named_set(name)
    if named and named.ROW not in kinds:
        wanted = " or ".join(KINDS[kind] for kind in kinds)
        fitting = [other for other in named_sets() if _named_set(other).ROW in kinds]  # type: ignore[union-attr]
        what = f"the set {name} holds {KINDS[named.ROW]}, and {wanted} are wanted"
        raise UserError(what, f"Sets that hold them: {', '.join(fitting) or 'none'}; a file of your own will do.")


def _sources(data: Data) -> dict[str, str]:
    """Source by role. A named set given for train brings its own dev and test splits."""
    named = _named_set(data.train)
    splits = named.SPLITS if named else {}
    own = {role: f"{data.train}:{splits[role]}" for role in ROLES if role in splits} or {"train": data.train}
    given = {"dev": data.dev, "test": data.test}
    return own | {role: source for role, source in given.items() if source}


def _to_rows(table: Table, source: str, shape: Shape, drops: bool, dropped: Counter[str]) -> list[Any]:
    """Rows of a table of the user's own; a row's id is its number in the file."""
    rows: list[Any] = []
    columns: dict[str, None] = {}
    problems = Problems(source)
    for number, (origin, values) in enumerate(table):
        columns |= dict.fromkeys(values)
        row = shape.convert(str(number), origin, values)
        if not isinstance(row, Problem):
            rows.append(row)
        elif drops and row.missing:
            dropped[row.what] += 1
        else:
            problems.add(row, origin)
    raise_all(missing_columns(source, shape.columns, columns, shape.options) if columns else [])
    raise_all(problems.errors())
    if not rows:
        raise UserError(f"{source} has no usable rows", "It needs a header line and at least one complete row.")
    return rows


def _check_classes(rows: Sequence[LabelRow], data: Data) -> None:
    if task_of(rows) == "regression":
        if len({row.label for row in rows if isinstance(row, Labelled)}) < 2:
            what = f"{data.train} has a single number in column {data.label!r} of its {len(rows)} training rows"
            raise UserError(what, "Nothing can be learned from one value; is it the right column?")
        return
    classes = labels_of(rows)
    if (len(classes) < 2 and task_of(rows) != "multi-label") or not classes:
        raise UserError(
            f"{data.train} has a single class ({''.join(classes)}) in its {len(rows)} training rows",
            f"Nothing can be learned from one class; is {data.tags or data.label!r} the right column?"
            + (" Or are data.train_rows too few?" if data.train_rows else ""),
        )


def _check_drawn(rows: dict[str, list[Any]], data: Data) -> None:
    """Dev rows serve the learning curve, and the final scores where there are no test rows: some there must be."""
    if not rows["dev"]:
        count, classes = len(rows["train"]), len(labels_of(rows["train"]))
        raise UserError(
            f"{data.train} has too few rows to draw dev rows from: {count} rows in {classes} classes, and a share of "
            f"{data.dev_share} leaves none",
            f"If {data.tags or data.label!r} is the right column, add rows, give --dev FILE, or raise the share.",
        )


def _check_labels(rows: dict[str, list[Any]], data: Data) -> None:
    known = set(labels_of(rows["train"]))
    remedy = "Correct the label, add training rows for it, or remove these rows from"
    if data.train_rows:
        remedy = f"data.train_rows = {data.train_rows} may leave it out: raise that, or remove these rows from"
    problems = []
    for role in ("dev", "test"):
        unknown = [row for row in rows[role] if not known.issuperset(labels_of([row]))]
        if unknown:
            label = min(set(labels_of(unknown[:1])) - known)
            what = f"label {label!r} in {role} ({unknown[0].origin}) never occurs in train ({len(unknown)} such rows)"
            problems.append(UserError(what, f"{remedy} {role}."))
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


def text_of(row: AnyRow) -> str:
    """What a row of any kind has to be read: its text, its words, or what its last user said."""
    if isinstance(row, Tagged):
        return " ".join(row.tokens)
    if isinstance(row, Labelled | Annotated | Asked):
        return row.text
    if isinstance(row, Member):
        return row.text or ", ".join(f"{number:g}" for number in row.numbers)
    if isinstance(row, Reasoned):
        return row.question
    if isinstance(row, Pair | Critiqued):
        return row.instruction
    if isinstance(row, Contest):
        return row.questions[-1]
    turns = row.messages if isinstance(row, Flagged) else row.prompt
    return turns[-1].content if turns else ""


def _content(row: AnyRow) -> Any:
    """What makes two rows the same, whatever is said of them."""
    if isinstance(row, Labelled | Annotated):
        return row.text.strip()
    if isinstance(row, Asked):
        return row.task, row.text.strip()
    if isinstance(row, Tagged):
        return row.tokens
    if isinstance(row, Member):
        return row.text.strip(), row.numbers
    if isinstance(row, Reasoned):
        return row.question.strip()
    if isinstance(row, Pair | Critiqued):
        return row.instruction.strip()
    if isinstance(row, Contest):
        return row.questions, row.first, row.second
    return row.messages if isinstance(row, Flagged) else row.prompt


def _draw_per_class(rows: list[Any], limit: int | None, seed: int) -> list[Any]:
    """At most `limit` rows of each class, drawn with the seed, in their old order. Raises UserError without classes."""
    if limit is None:
        return rows
    if task_of(rows) != "labels":
        raise UserError("data.train_per_class needs rows with one class each", "Use data.train_rows.")
    by_class: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        by_class[row.label].append(number)
    draws = {name: random.Random(f"{seed} draw {name}") for name in by_class}
    chosen = {at for name, found in by_class.items() for at in draws[name].sample(found, min(limit, len(found)))}
    return [row for number, row in enumerate(rows) if number in chosen]


def draw_rows(rows: Sequence[Any], limit: int | None, draw: random.Random) -> list[Any]:
    """At most `limit` of the rows, in their old order."""
    count = len(rows) if limit is None else min(limit, len(rows))
    return [rows[place] for place in sorted(draw.sample(range(len(rows)), count))]


def leave_out(rows: Sequence[Any], held: Sequence[Any]) -> list[Any]:
    """The rows that are the same as none of the held ones, whatever is said of them: no text is on both sides."""
    known = {_content(row) for row in held}
    return [row for row in rows if _content(row) not in known]
