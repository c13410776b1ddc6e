"""Rows that are labelled by the group: reading members and totals of bags, drawing bags, and batches of whole bags.

Axes: B bags, M members of the largest bag of a batch, P numbers of a member, N members of all bags.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from camelid import data, recipe
from camelid.batches import EpochBatches
from camelid.data.columns import member_shape
from camelid.data.formats import read_table
from camelid.errors import UserError, raise_all
from camelid.recipe import Plan
from camelid.rows import Bag, Labelled, Member

WHOLE = 0.05  # a share times the size of its bag may be so far from a whole number without a warning
NAMED = 3  # bags named in a message
HELD_OUT = 0.2  # share of labelled rows that are scored where no test rows are given


class BagData(recipe.Values):
    """Where the rows and the totals of their bags come from."""

    train: str = Field(default="", description="rows: file, named set, set:split or hub:<dataset id>")
    test: str | None = Field(default=None, description="rows with labels for the scores; a named set brings its own")
    text: str = Field(default="text", description="column that holds the text")
    features: tuple[str, ...] = Field(default=(), description="columns that hold numbers, instead of a text")
    bag: str = Field(default="bag", description="column that holds the name of the row's bag")
    id: str | None = Field(default=None, description="column that names the row: in two bags it is refused")
    totals: str = Field(default="", description="file with a row a bag: its name and the column of `positives`")
    positives: str = Field(default="positives", description="column with the number of positive rows of the bag")
    shares: bool = Field(default=False, description="that column holds shares from 0 to 1 instead of numbers")
    label: str = Field(default="label", description="column with the class of a row, where it is known")
    positive: str = Field(default="1", description="the class that is counted; all others are negative")
    bag_rows: int | None = Field(
        default=None, ge=1, description="draw bags of so many labelled rows and count them, instead of reading bags"
    )
    missing: Literal["error", "drop"] = Field(
        default="error", description="what to do with rows that lack something, and with bags without rows"
    )
    train_rows: int | None = Field(default=None, ge=1, description="use only so many rows, in whole bags")
    test_rows: int | None = Field(default=None, ge=1, description="score only so many rows, drawn with the seed")


@dataclass(frozen=True)
class Bagged:
    """Members in the order of their bags, the bags, labelled rows to score, what was left out, and warnings."""

    members: list[Member]
    bags: list[Bag]
    test: list[Member]
    dropped: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def read_bags(values: BagData, seed: int) -> Bagged:
    """What the recipe's table names. Raises UserError with every problem of rows, bags and totals."""
    if not values.train:
        raise UserError("no rows are named", "Add --data FILE, or --data with the name of a labelled set.")
    dropped: Counter[str] = Counter()
    columns: dict[str, Any] = {
        "text": values.text,
        "numbers": values.features,
        "label": values.label,
        "positive": (values.positive,),
        "missing": values.missing,
    }
    own = {"bag": values.bag, "name": values.id} if values.bag_rows is None else {}
    rows = read_members(values.train, dropped, **columns, **own)
    source = values.test or data.test_source(values.train)
    test = read_members(source, dropped, **columns) if source else []
    draw = random.Random(f"{seed} bags")
    if values.bag_rows is not None:
        rows = _only_labelled(rows, dropped)
        if not test:
            held = set(draw.sample(range(len(rows)), round(HELD_OUT * len(rows))))
            test = [row for number, row in enumerate(rows) if number in held]
            rows = [row for number, row in enumerate(rows) if number not in held]
        found = draw_bags(rows, values.bag_rows, values.train_rows, draw, dropped)
    else:
        found = _gather(values, rows, dropped)
    if values.test_rows is not None and values.test_rows < len(test):
        test = [test[number] for number in sorted(draw.sample(range(len(test)), values.test_rows))]
    _check_labels(found, test, values)
    return replace(found, test=test, dropped=dict(dropped))


def _only_labelled(rows: Sequence[Member], dropped: Counter[str]) -> list[Member]:
    known = [row for row in rows if row.positive is not None]
    if not known:
        raise UserError("no row has a label, and bags are drawn to be counted", "Name its column with --data.label.")
    if len(known) < len(rows):
        dropped["without a label, so that no bag can count them"] += len(rows) - len(known)
    return known


def draw_bags(
    rows: Sequence[Member], size: int, most_rows: int | None, draw: random.Random, dropped: Counter[str]
) -> Bagged:
    """Bags of `size` labelled rows drawn at random, with their totals. Rows that fill no bag are left out."""
    order = draw.sample(range(len(rows)), min(most_rows or len(rows), len(rows)))
    whole = len(order) // size * size
    if not whole:
        raise UserError(f"{len(order)} rows fill no bag of {size}", "Lower data.bag_rows, or give more rows.")
    if len(order) > whole:
        dropped["left over after the last whole bag"] += len(order) - whole
    members, bags = [], []
    for start in range(0, whole, size):
        name = str(start // size)
        chosen = [replace(rows[number], bag=name) for number in order[start : start + size]]
        bags.append(Bag(name, "drawn", tuple(row.id for row in chosen), sum(row.positive is True for row in chosen)))
        members += chosen
    return Bagged(members, bags, [])


def read_members(
    source: str,
    dropped: Counter[str],
    *,
    text: str = "text",
    numbers: Sequence[str] = (),
    bag: str | None = None,
    label: str = "label",
    positive: Collection[str] = ("1",),
    name: str | None = None,
    missing: Literal["error", "drop"] = "error",
) -> list[Member]:
    """Rows of a file with these columns, or of a named set with one class a row; see `columns.member_shape`.

    A column of labels need not be there. Raises UserError with every problem.
    """
    if source.partition(":")[0] in data.named_sets():
        rows = data.read_rows(source, dropped=dropped)
        if not isinstance(rows[0], Labelled | Member):
            raise UserError(f"the rows of {source} have no one label each", "Take a labelled set, or a file.")
        return [row if isinstance(row, Member) else _member(row, positive) for row in rows]
    header = [] if source.startswith("hub:") else next(iter(read_table(Path(source))), ("", {}))[1]
    shape = member_shape(
        text, numbers, bag, label if label in header or source.startswith("hub:") else None, positive, name
    )
    return data.read_source(source, shape, missing, dropped)


def _member(row: Labelled, positive: Collection[str]) -> Member:
    return Member(row.id, row.origin, row.text, (), "", row.label in positive)


def _gather(values: BagData, rows: Sequence[Member], dropped: Counter[str]) -> Bagged:
    """Rows by bag, with the totals that a table of bags, or the rows themselves, tell."""
    by_bag: dict[str, list[Member]] = defaultdict(list)
    for row in rows:
        by_bag[row.bag].append(row)
    twice = [name for name, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise UserError(f"in more than one bag, or twice in one: {_some(twice)}", "Bags must not overlap.")
    source = values.totals or values.train
    told, problems = _read_totals(values, source)
    lacking = [name for name in by_bag if name not in told]
    if lacking:
        problems.append(UserError(f"{source} tells no total of {_some(lacking)}", "Add it, or remove these rows."))
    empty = [name for name in told if name not in by_bag]
    if empty and values.missing == "drop":
        dropped["bags without rows"] += len(empty)
    elif empty:
        problems.append(UserError(f"{_some(empty)} have no rows in {values.train}", "Add --set data.missing=drop."))
    names = [name for name in by_bag if name in told]
    if values.missing == "drop" and not values.shares:
        lost = _bags_that_lost_rows(values, by_bag)
        dropped["in bags whose total counts rows that were left out"] += sum(len(by_bag[name]) for name in lost)
        names = [name for name in names if name not in lost]
        if not names:
            raise UserError("every bag lacks some of its rows", "Its total counts them: fill them in.")
    size = {name: len(by_bag[name]) for name in names}
    counts = {name: told[name] * size[name] if values.shares else told[name] for name in names}
    beyond = [
        f"{name} ({counts[name]:g} of {size[name]} rows)" for name in names if not 0 <= counts[name] <= size[name]
    ]
    if beyond:
        problems.append(UserError(f"totals beyond the size of their bag: {_some(beyond)}", "Correct them."))
    broken = [name for name in names if abs(counts[name] - round(counts[name])) > WHOLE]
    warnings = [] if values.id else _warn_of_overlap(rows)
    if broken and values.shares:
        warnings.append(f"shares that are no whole number of rows, rounded: {_some(broken)}")
    elif broken:
        problems.append(UserError(f"totals that are no whole number: {_some(broken)}", "Are they --data.shares?"))
    raise_all(problems)
    bags = [Bag(name, source, tuple(row.id for row in by_bag[name]), round(counts[name])) for name in names]
    chosen, left = [], values.train_rows or len(rows)
    for bag in bags:
        if len(bag.members) <= left:
            chosen.append(bag)
            left -= len(bag.members)
    if not chosen:
        raise UserError(f"no bag has at most data.train_rows = {values.train_rows} rows", "Raise it.")
    if len(chosen) < len(bags):
        kept = {bag.id for bag in chosen}
        dropped["in bags beyond data.train_rows"] += sum(len(bag.members) for bag in bags if bag.id not in kept)
    return Bagged([row for bag in chosen for row in by_bag[bag.id]], chosen, [], warnings=warnings)


def _warn_of_overlap(rows: Sequence[Member]) -> list[str]:
    """Rows of equal content in several bags: nobody can tell whether they are one row, unless a column names it."""
    bags: dict[Any, set[str]] = defaultdict(set)
    for row in rows:
        bags[row.text, row.numbers].add(row.bag)
    count = sum(len(names) > 1 for names in bags.values())
    told = f"{count} texts or lines of numbers stand in several bags: if they are the same rows, name them with data.id"
    return [told] if count else []


def _bags_that_lost_rows(values: BagData, by_bag: dict[str, list[Member]]) -> set[str]:
    """Bags of which the file has more rows than could be read: the total counts those too."""
    written = Counter(str(cells.get(values.bag)).strip() for _, cells in read_table(Path(values.train)))
    return {name for name, rows in by_bag.items() if written[name] > len(rows)}


def _read_totals(values: BagData, source: str) -> tuple[dict[str, float], list[UserError]]:
    """What is told of each bag; a bag of which two different numbers are told is a problem."""
    if source.partition(":")[0] in data.named_sets():
        what = f"the rows of {source} are labelled, and stand in no bags"
        raise UserError(what, "Let bags be drawn and counted: --set data.bag_rows=8")
    told: dict[str, float] = {}
    differ: dict[str, None] = {}
    wrong: list[str] = []
    for origin, cells in read_table(Path(source)):
        missing = [column for column in (values.bag, values.positives) if column not in cells]
        if missing:
            what = f"{source} has no column {missing[0]!r}; it has: {', '.join(map(str, cells))}"
            raise UserError(what, "Name the columns with --data.bag and --data.positives.")
        name = str(cells[values.bag]).strip()
        try:
            number = float(cells[values.positives])
        except (TypeError, ValueError):
            wrong.append(origin)
            continue
        if not math.isfinite(number):
            wrong.append(origin)
            continue
        if told.setdefault(name, number) != number:
            differ[name] = None
    problems = []
    if wrong:
        problems.append(UserError(f"column {values.positives!r} holds no number in {_some(wrong)}", "Fill it in."))
    if differ:
        problems.append(UserError(f"different totals are told of {_some(list(differ))}", "A bag has one total."))
    return told, problems


def _check_labels(found: Bagged, test: Sequence[Member], values: BagData) -> None:
    total = sum(bag.positives for bag in found.bags)
    if not 0 < total < len(found.members):
        which = "negative" if total == 0 else "positive"
        fix = "There is nothing to tell apart; check data.positive, the class that is counted."
        raise UserError(f"all rows of all bags are {which}", fix)
    scored = {row.positive for row in test}
    if test and scored != {True, False}:
        raise UserError(
            "the rows to score are not of two classes, or lack labels", "Check data.test and data.positive."
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def hold_out_bags(count: int, share: float, seed: int) -> tuple[Any, Any]:
    """(numbers of the bags to learn from, those held out): the `share` of `count` bags, one at least, but never all."""
    held = min(max(1, round(share * count)), count - 1)
    order = np.random.default_rng([seed, count]).permutation(count)
    return np.sort(order[: count - held]), np.sort(order[count - held :])


def rows_of(bags: Sequence[Bag], numbers: Any) -> Any:
    """Where the members of some of the bags stand among those of all."""
    starts: Any = np.cumsum([0, *(len(bag.members) for bag in bags)])
    return np.concatenate([np.arange(starts[number], starts[number + 1]) for number in numbers])


@dataclass(frozen=True)
class BagBatch:
    """Whole bags, padded to the largest: numbers, mask and labels of their members, and the share of each bag."""

    numbers_BMP: Tensor
    mask_BM: Tensor
    labels_BM: Tensor
    shares_B: Tensor
    counts: dict[str, int]
    tokens: int

    def to(self, device: Any) -> BagBatch:
        """The batch with its tensors on `device`."""
        names = ("numbers_BMP", "mask_BM", "labels_BM", "shares_B")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def bag_batches(numbers_NP: Any, labels_N: Any, bags: Sequence[Bag], plan: Plan) -> EpochBatches:
    """Batches of whole bags for `train`, shuffled anew each epoch; `plan.batch_rows` members a step, or one bag.

    Members stand in the order of their bags. `counts` are those of the members as "loss" and of the bags as "bags".
    """
    sizes = [len(bag.members) for bag in bags]
    starts = [0, *accumulate(sizes)]

    def collate(indices: Sequence[int]) -> Any:
        return collate_bags(numbers_NP, labels_N, bags, starts, indices)

    mean = sum(sizes) / len(sizes)
    return EpochBatches(
        lengths=tuple(sizes),
        collate=collate,
        epochs=plan.epochs,
        batch_rows=max(1, round(plan.batch_rows / mean)),
        accumulate=plan.accumulate,
        seed=plan.seed,
    )


def collate_bags(
    numbers_NP: Any, labels_N: Any, bags: Sequence[Bag], starts: Sequence[int], indices: Sequence[int]
) -> BagBatch:
    """The bags at `indices`, whose members stand at `starts` and behind, as one batch."""
    widest = max(len(bags[index].members) for index in indices)
    numbers_BMP = torch.zeros(len(indices), widest, numbers_NP.shape[1])
    mask_BM, labels_BM = torch.zeros(len(indices), widest), torch.zeros(len(indices), widest)
    for line, index in enumerate(indices):
        size = len(bags[index].members)
        rows = slice(starts[index], starts[index] + size)
        numbers_BMP[line, :size] = torch.as_tensor(numbers_NP[rows])
        labels_BM[line, :size] = torch.as_tensor(labels_N[rows], dtype=torch.float32)
        mask_BM[line, :size] = 1
    shares_B = torch.tensor([bags[index].positives / len(bags[index].members) for index in indices])
    members = int(mask_BM.sum())
    return BagBatch(
        numbers_BMP, mask_BM, labels_BM, shares_B, counts={"loss": members, "bags": len(indices)}, tokens=members
    )
