"""Label tasks as data: what is asked of a text, read with their rows, dealt to splits by document, and balanced."""

from __future__ import annotations

import hashlib
import random
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from camelid import data
from camelid.data.columns import question_shape
from camelid.data.formats import SUFFIXES, read_table
from camelid.errors import UserError, raise_all
from camelid.recipe import Values
from camelid.rows import Annotated, Asked, Labelled

BUILT_IN = Path(__file__).parent / "tasks"
SMALL = 10  # a split of so many rows is not balanced
INTEGER = r"-?\d+"
ROLES = ("train", "dev", "test")
NAMED = 3  # rows or names in a message
QUESTION = "Which of these is right?"
Kind = Literal["choice", "integer"]
Split = dict[str, list[Asked]]  # rows by task, or by role
Tables = dict[Any, list[Any]]  # rows by source and columns


class Task(Values):
    """What is asked of a text, and how it may be answered: choices by code, in order, or a whole number."""

    name: str
    instruction: str = ""
    question: str = QUESTION
    kind: Kind = "choice"
    choices: dict[str, str] = Field(default_factory=dict)


class Entry(Values):
    """One task of a tasks file, or, with `task`, one for each name in that column."""

    train: str = Field(min_length=1, description="rows: file, named set, set:split or hub:<dataset id>")
    dev: str | None = Field(default=None, description="rows for the learning curve; drawn by document when absent")
    test: str | None = Field(default=None, description="rows to score; the set's own, else drawn by document")
    text: str = Field(default="text", description="column that holds the document")
    label: str = Field(default="label", description="column, or kind of label, that holds the answer")
    group: str | None = Field(default=None, description="column that names the document, such as its case")
    task: str | None = Field(default=None, description="column that names the task, for rows of several")
    separator: str | None = Field(default=None, min_length=1, description="stands between several right answers")
    instruction: str = Field(default="", description="text of the codebook, before the document; {task} is its name")
    question: str = Field(default=QUESTION, description="what is asked, behind the document; {task} is its name")
    kind: Kind = Field(default="choice", description="lettered choices, or a whole number")
    choices: dict[str, str] = Field(default_factory=dict, description="texts by code; the labels found when absent")
    recode: dict[str, str] = Field(default_factory=dict, description="code by label, for labels that are no code")
    unusable: Literal["error", "drop"] = Field(
        default="error", description="what to do with labels that are no code, and with tasks of one label"
    )
    leave_out: tuple[str, ...] = Field(default=(), description="names of tasks to leave out; * stands for anything")


def built_in() -> list[str]:
    """Names of the tasks that come with camelid."""
    return sorted(path.stem for path in BUILT_IN.glob("*.toml"))


class TaskData(Values):
    """Where tasks and their rows come from."""

    train: str = Field(
        default="",
        description=f"tasks file (.toml), built-in tasks ({', '.join(built_in())}), a named set, or a table with a "
        "column of tasks",
    )
    unseen: str = Field(default="", description="tasks that are only tested, as train; none of them is trained on")
    hold_out: tuple[str, ...] = Field(
        default=(), description="names of tasks that are tested and not trained on; * stands for anything"
    )
    only: tuple[str, ...] = Field(default=(), description="use only these tasks; * stands for anything")
    text: str = Field(default="text", description="of a table: column that holds the document")
    label: str = Field(default="label", description="of a table: column that holds the answer")
    task: str = Field(default="task", description="of a table: column that names the task")
    group: str | None = Field(default=None, description="of a table: column that names the document")
    separator: str | None = Field(default=None, description="of a table: stands between several right answers")
    test_share: float = Field(
        default=0.2, gt=0, lt=1, description="rows drawn for test, by document, where a task has none (paper: 0.2)"
    )
    dev_share: float = Field(
        default=0.1, gt=0, lt=1, description="rows drawn for dev, by document, where a task has none (paper: 0.1)"
    )
    balance: bool = Field(default=True, description="keep no more rows of a majority class than of all others")
    train_rows: int | None = Field(default=None, ge=1, description="use only so many training rows of a task")
    dev_rows: int | None = Field(default=None, ge=1, description="use only so many dev rows of a task")
    test_rows: int | None = Field(default=None, ge=1, description="use only so many test rows of a task")
    unseen_rows: int = Field(default=5, ge=1, description="use only so many rows of a task of `unseen`")


@dataclass(frozen=True)
class TaskSet:
    """Tasks by name and their rows by role, balanced; `kept` has the share of each majority class kept in test.

    `unseen` are rows of tasks that stand in no other role. `majority` has the class that `kept` is about.
    """

    tasks: dict[str, Task]
    train: list[Asked]
    dev: list[Asked]
    test: list[Asked]
    unseen: list[Asked]
    kept: dict[str, float]
    majority: dict[str, str]
    dropped: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def read_tasks(values: TaskData, seed: int) -> TaskSet:
    """All tasks of a recipe with their rows. Raises UserError with every problem of files, labels and splits."""
    if not values.train:
        raise UserError("no tasks are named", f"Add --data with a tasks file, or one of: {', '.join(built_in())}.")
    dropped: Counter[str] = Counter()
    tasks, read = _read_source(values, values.train, dropped)
    more, pool = _read_source(values, values.unseen, dropped, as_pool=True) if values.unseen else ({}, [])
    if twice := sorted(set(more) & set(tasks)):
        raise UserError(f"the task {twice[0]} stands in data.train and data.unseen", "Give it another name.")
    splits = _deal(values, read, pool, dropped, seed)
    held = [name for name in tasks if _fits(name, values.hold_out)]
    _check_names(values.hold_out, tasks, "data.hold_out")
    if len(held) == len(tasks):
        raise UserError("every task is held out", "Leave some out of data.hold_out, to be trained on.")
    limits: list[tuple[str, Split, int | None]] = [
        (role, {name: rows for name, rows in splits[role].items() if name not in held}, getattr(values, f"{role}_rows"))
        for role in ROLES
    ]
    limits.append(("held-out test", {name: splits["test"].get(name, []) for name in held}, values.test_rows))
    limits.append(("unseen", by_task(row for roles in pool for row in roles["test"]), values.unseen_rows))
    tasks |= more
    chosen, kept, majority, warnings = _choose(values, limits, dropped, seed)
    unseen = [*chosen["held-out test"], *chosen["unseen"]]
    _check_splits(tasks, chosen, {row.task for row in unseen})
    return TaskSet(
        tasks, chosen["train"], chosen["dev"], chosen["test"], unseen, kept, majority, dict(dropped), warnings
    )


def _choose(
    values: TaskData, limits: Sequence[tuple[str, Split, int | None]], dropped: Counter[str], seed: int
) -> tuple[dict[str, list[Asked]], dict[str, float], dict[str, str], list[str]]:
    """(rows by role, balanced and drawn; share kept and majority class by task, of rows to score; warnings)."""
    chosen: dict[str, list[Asked]] = {}
    kept: dict[str, float] = {}
    majority: dict[str, str] = {}
    warnings = []
    for role, split, limit in limits:
        chosen[role] = []
        for name, rows in split.items():
            known, share = downsample_majority(rows, f"{seed} {role} {name}") if values.balance else (rows, 1.0)
            if len(rows) > SMALL and len({row.answers for row in rows}) == 1:
                warnings.append(f"the {len(rows)} {role} rows of {name} have a single label, and stay as they are")
            if len(known) < len(rows):
                dropped[f"{role}: of the majority class of a task"] += len(rows) - len(known)
            if role not in ("train", "dev"):
                kept[name], majority[name] = share, find_majority(rows)
            chosen[role] += draw_first(known, limit, f"{seed} draw {role} {name}")
    return chosen, kept, majority, warnings


def downsample_majority(rows: Sequence[Asked], seed: str) -> tuple[list[Asked], float]:
    """(rows, share kept of the majority class): at most as many of it as of all others together, drawn at random.

    Splits of `SMALL` rows or fewer, and of a single class, stay as they are. Rows with several right answers count
    among the others.
    """
    majority = find_majority(rows)
    places = [place for place, row in enumerate(rows) if row.answers == (majority,)]
    others = len(rows) - len(places)
    if len(rows) <= SMALL or not others or len(places) <= others:
        return list(rows), 1.0
    left = set(places) - set(random.Random(seed).sample(places, others))
    return [row for place, row in enumerate(rows) if place not in left], others / len(places)


def find_majority(rows: Sequence[Asked]) -> str:
    """The answer most rows have that have one only; of equals the first in order. "" where no row has one only."""
    counts = Counter(row.answers[0] for row in rows if len(row.answers) == 1)
    return max(sorted(counts), key=counts.__getitem__, default="")


def draw_first(rows: Sequence[Asked], limit: int | None, seed: str) -> list[Asked]:
    """The first `limit` rows of a seeded order, so that a smaller draw is part of a larger one; in their old order."""
    if limit is None or limit >= len(rows):
        return list(rows)
    chosen = set(random.Random(seed).sample(range(len(rows)), len(rows))[:limit])
    return [row for place, row in enumerate(rows) if place in chosen]


def draw_each(rows: Sequence[Asked], limit: int, seed: str) -> list[Asked]:
    """`draw_first` of each task; with one seed fewer rows are part of more."""
    return [row for name, own in by_task(rows).items() for row in draw_first(own, limit, f"{seed} {name}")]


def by_task(rows: Iterable[Asked]) -> Split:
    """Rows by the name of their task, in the order of first appearance."""
    found: Split = defaultdict(list)
    for row in rows:
        found[row.task].append(row)
    return dict(found)


def document_of(row: Asked) -> str:
    """What makes two rows questions about one document, where both name a group or neither does."""
    return row.group or row.text.strip()


def join_documents(rows: Iterable[Asked]) -> dict[str, str]:
    """A name for the document of each row, by `document_of`.

    One task may name the group of a text that another task has without it: then the text is of that group's document.
    Texts that always have a group join nothing, as the same few words may stand in many documents.
    """
    known = list(rows)
    alone = {row.text.strip() for row in known if not row.group}
    first: dict[str, str] = {}  # towards the name that stands for all it is joined with

    def find(name: str) -> str:
        while first.setdefault(name, name) != name:
            first[name] = name = first[first[name]]
        return name

    for row in known:
        one = find(document_of(row))
        if row.text.strip() in alone:
            other = find(row.text.strip())
            first[max(one, other)] = min(one, other)
    return {name: find(name) for name in list(first)}


def deal_documents(documents: Sequence[str], sides: dict[str, str], shares: Mapping[str, float], seed: int) -> None:
    """Give every document (one entry a row) a side in `sides`: "train", or that of a share that is not filled yet.

    Documents that have a side keep it, so that all tasks about one document are on one side. The order is that of a
    hash of seed and document: it depends on no other document.
    """
    sizes = Counter(documents)
    order = sorted(
        (one for one in sizes if one not in sides),
        key=lambda one: hashlib.sha256(f"{seed} {one}".encode()).hexdigest(),
    )
    free = iter(order)
    for side, share in shares.items():
        have = sum(count for one, count in sizes.items() if sides.get(one) == side)
        while have < share * len(documents) and (one := next(free, None)) is not None:
            sides[one] = side
            have += sizes[one]
    sides |= dict.fromkeys(free, "train")


# Reading


def read_entries(values: TaskData, source: str) -> dict[str, Entry]:
    """What a tasks file, built-in tasks, or a set or table of several tasks holds, by name."""
    if source in built_in() or source.endswith(".toml"):
        path = Path(source) if source.endswith(".toml") else BUILT_IN / f"{source}.toml"
        return _read_toml(path)
    if source.partition(":")[0] in data.named_sets() or source.startswith("hub:") or Path(source).suffix in SUFFIXES:
        columns = {name: getattr(values, name) for name in ("text", "label", "task", "group", "separator")}
        return {source: Entry(train=source, **columns)}
    fix = f"Built in are: {', '.join(built_in())}. Files end in .toml, {', '.join(SUFFIXES)}."
    raise UserError(f"{source!r} names no tasks", fix)


def _read_toml(path: Path) -> dict[str, Entry]:
    """The entries of a tasks file. Raises UserError with every problem."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the tasks file {path}: {error.strerror}", "Check the path.") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid TOML: {error}", "Strings need quotes, tables a [name] line.") from error
    if set(tables) != {"tasks"} or not isinstance(tables["tasks"], dict) or not tables["tasks"]:
        raise UserError(f"{path} has no tasks, or something beside them", "Each task is a table [tasks.<name>].")
    entries, problems = {}, []
    for name, values in tables["tasks"].items():
        try:
            entry = Entry.model_validate(values)
            entries[name] = entry.model_copy(update={key: _beside(path, getattr(entry, key)) for key in ROLES})
        except ValidationError as error:
            said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg'].lower()}" for one in error.errors())
            problems.append(
                UserError(f"{path}: task {name}: {said}", f"Its fields are: {', '.join(Entry.model_fields)}.")
            )
    raise_all(problems)
    return entries


def _beside(path: Path, source: str | None) -> str | None:
    """A file that a tasks file names is looked for in the tasks file's folder."""
    return str(path.parent / source) if source and Path(source).suffix in SUFFIXES else source


def _read_source(
    values: TaskData, source: str, dropped: Counter[str], *, as_pool: bool = False
) -> tuple[dict[str, Task], list[Split]]:
    """Tasks by name, and of each entry the rows by role. A pool has test rows only: its own, or else all it has."""
    tasks: dict[str, Task] = {}
    read: list[Split] = []
    problems: list[UserError] = []
    wanted = () if as_pool else values.only
    tables: Tables = {}
    for name, entry in read_entries(values, source).items():
        if wanted and entry.task is None and not _fits(name, wanted):
            continue
        test = entry.test or data.test_source(entry.train)
        sources = {"train": entry.train, "dev": entry.dev, "test": test}
        if as_pool:
            sources = {"test": test or entry.train}
        try:
            told, roles = _read_entry(name, entry, sources, wanted, dropped, tables)
        except UserError as error:
            problems += error.all()
            continue
        problems += [UserError(f"the task {one} is there twice", "Rename one of them.") for one in told if one in tasks]
        tasks |= told
        read.append(roles)
    raise_all(problems)
    _check_names(values.only if not as_pool else (), tasks, "data.only")
    return tasks, read


def _read_entry(
    name: str,
    entry: Entry,
    sources: Mapping[str, str | None],
    wanted: Collection[str],
    dropped: Counter[str],
    tables: Tables,
) -> tuple[dict[str, Task], Split]:
    """The tasks of an entry and their rows by role."""
    rows = {role: _read_rows(entry, place, name, role, dropped, tables) for role, place in sources.items() if place}
    if wanted:
        rows = {role: [row for row in found if _fits(row.task, wanted)] for role, found in rows.items()}
    tasks = _tell_tasks(entry, [row for found in rows.values() for row in found], dropped)
    rows = {role: [row for row in found if row.task in tasks] for role, found in rows.items()}
    unknown = [row for found in rows.values() for row in found if not _is_coded(tasks[row.task], row)]
    if unknown and entry.unusable == "error":
        first, said = unknown[0], ", ".join(unknown[0].answers)
        what = f"{first.origin}: {said!r} is no answer of the task {first.task} ({len(unknown)} such rows)"
        fix = 'Add it to the choices, recode it, or leave such rows out with unusable = "drop".'
        raise UserError(what, fix if entry.kind == "choice" else "Integer tasks need whole numbers.")
    if unknown:
        dropped["with labels that are no choice"] += len(unknown)
        rows = {role: [row for row in found if _is_coded(tasks[row.task], row)] for role, found in rows.items()}
    return tasks, rows


def _is_coded(task: Task, row: Asked) -> bool:
    """Whether every answer of a row is one that the task can have."""
    if task.kind == "integer":
        return all(re.fullmatch(INTEGER, answer) for answer in row.answers)
    return set(row.answers) <= set(row.offered or task.choices) <= set(task.choices)


def _deal(
    values: TaskData, read: Sequence[Split], pool: Sequence[Split], dropped: Counter[str], seed: int
) -> dict[str, Split]:
    """Rows by role and task, each document on one side: those of the `pool` are for scores as well.

    A row whose document stands on another side than the row's own file says is left out, and counted.
    """
    joined = join_documents(row for roles in [*read, *pool] for rows in roles.values() for row in rows)
    sides: dict[str, str] = {}
    for role in ("test", "dev"):
        for roles in [*read, *pool]:
            sides = {joined[document_of(row)]: role for row in roles.get(role, [])} | sides
    placed: dict[str, list[Asked]] = {role: [] for role in ROLES}
    for roles in read:
        shares = {"test": values.test_share, "dev": values.dev_share}
        shares = {role: share for role, share in shares.items() if role not in roles}
        deal_documents([joined[document_of(row)] for row in roles["train"]], sides, shares, seed)
        for role, rows in roles.items():
            for row in rows:
                side = sides[joined[document_of(row)]]
                if side == role or (role == "train" and side in shares):
                    placed[side].append(row)
                else:
                    dropped[f"{role}: the document stands in {side} too"] += 1
    return {role: by_task(rows) for role, rows in placed.items()}


def _read_rows(entry: Entry, source: str, name: str, role: str, dropped: Counter[str], tables: Tables) -> list[Asked]:
    """Rows of any kind as questions of the entry's tasks; their ids begin with the task's name.

    `tables` keeps what was read: a codebook has many variables of one table.
    """
    columns = (entry.task, entry.text, entry.label, entry.group, entry.separator)
    named = source.partition(":")[0] in data.named_sets()
    key = (source, None if named else columns)
    if key not in tables:
        left_out: Counter[str] = Counter()
        tables[key] = data.read_rows(source, shape=None if named else question_shape(*columns), dropped=left_out)
        dropped.update({f"{role}: {why}": count for why, count in left_out.items()})
    found = []
    for row in tables[key]:
        task, answers, group = _ask(entry, row, name, source)
        answers = tuple(dict.fromkeys(_code(entry, answer) for answer in answers))
        offered = row.offered if isinstance(row, Asked) else ()
        if not _fits(task, entry.leave_out):
            found.append(Asked(f"{task}/{row.id}", row.origin, task, row.text, answers, group, offered))
    return found


def _code(entry: Entry, answer: str) -> str:
    """The code of a label; whole numbers without leading zeros, as they are read from replies."""
    code = entry.recode.get(answer, answer)
    return str(int(code)) if entry.kind == "integer" and re.fullmatch(INTEGER, code) else code


def _ask(entry: Entry, row: Any, name: str, source: str) -> tuple[str, tuple[str, ...], str]:
    """(task, right answers, document's name) of a row."""
    if isinstance(row, Asked):
        return row.task or name, row.answers, row.group
    if isinstance(row, Annotated) and entry.label in row.labels:
        return name, (row.labels[entry.label],), row.group
    if isinstance(row, Labelled) and isinstance(row.label, str | tuple) and row.label:
        return name, (row.label,) if isinstance(row.label, str) else row.label, ""
    what = f"the rows of {source} have no label {entry.label!r} that could be chosen"
    raise UserError(what, "A task needs texts with a class each: another set, or a file of your own.")


def _tell_tasks(entry: Entry, rows: Sequence[Asked], dropped: Counter[str]) -> dict[str, Task]:
    """The tasks that the rows are about, with the codes that are found where the entry lists none."""
    words = _columns_of(entry)
    tasks: dict[str, Task] = {}
    for name, own in by_task(rows).items():
        codes = dict.fromkeys(code for row in own for code in row.offered)
        codes = list(codes) or sorted({answer for row in own for answer in row.answers})
        choices = entry.choices or {code: code.replace("_", " ").strip() for code in codes}
        if entry.kind == "choice" and len(choices) < 2 and entry.unusable == "drop":
            dropped["of tasks with a single label"] += len(own)
            continue
        if entry.kind == "choice" and len(choices) < 2:
            what = f"the task {name} has a single label ({''.join(choices)}) in its {len(own)} rows"
            raise UserError(what, f"There is nothing to choose; is {entry.label!r} the right column?")
        told = {"instruction": entry.instruction, "question": entry.question}
        told = {key: words.get((name, key), text) for key, text in told.items()}
        told = {key: text.replace("{task}", name.replace("_", " ")) for key, text in told.items()}
        tasks[name] = Task(name=name, kind=entry.kind, choices=choices if entry.kind == "choice" else {}, **told)
    return tasks


def _columns_of(entry: Entry) -> dict[tuple[str, str], str]:
    """Instruction and question by task, where the table of several tasks has columns for them."""
    if entry.task is None or Path(entry.train).suffix not in SUFFIXES:
        return {}
    found: dict[tuple[str, str], str] = {}
    differ: dict[str, None] = {}
    for _, cells in read_table(Path(entry.train)):
        for key in ("instruction", "question"):
            if said := str(cells.get(key) or "").strip():
                place = (str(cells[entry.task]).strip(), key)
                if found.setdefault(place, said) != said:
                    differ[f"{place[0]} ({key})"] = None
    if differ:
        what = f"{entry.train} tells different words for one task: {_some(list(differ))}"
        raise UserError(what, "A task has one instruction and one question; name the others otherwise.")
    return found


def _check_splits(tasks: Mapping[str, Task], chosen: Mapping[str, Sequence[Asked]], untrained: Collection[str]) -> None:
    """Raise UserError for tasks without rows to train on or to score, and for training rows of one label."""
    problems = []
    by_role = {role: by_task(rows) for role, rows in chosen.items()}
    for name in tasks:
        if name in untrained:
            continue
        rows = by_role["train"].get(name, [])
        labels = {answer for row in rows for answer in row.answers}
        if len(labels) == 1:
            what = f"the task {name} has a single label ({''.join(labels)}) in its {len(rows)} training rows"
            fix = "Nothing can be learned from one label: give it other rows, raise data.train_rows, or hold it out."
            problems.append(UserError(what, fix))
        for role in ("train", "test"):
            if not by_role[role].get(name):
                what = f"the task {name} has no {role} rows"
                problems.append(UserError(what, "Give it more documents, a test file, or another plan.seed."))
    raise_all(problems)


def _check_names(patterns: Sequence[str], tasks: Mapping[str, Task], where: str) -> None:
    lost = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in tasks)]
    if lost:
        raise UserError(f"{where}: there is no task {lost[0]!r}", f"The tasks are: {', '.join(tasks)}.")


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"
