"""Which annotated rows stand on which side: shares and folds, stratified by a label or by whole groups of rows."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from math import floor

from camelid.rows import Annotated


def split_share(
    rows: Sequence[Annotated], kind: str, share: float, by: str, seed: int
) -> tuple[list[Annotated], list[Annotated]]:
    """(some, others) with about `share` of the rows in the first, drawn with the seed, each in its old order.

    By "rows" every label of `kind` has its share on both sides. By "groups" whole groups go to the first, in random
    order, each that brings its size nearer to the share.
    """
    target = floor(share * len(rows) + 0.5)
    chosen = set(spread(rows, kind, seed)[:target])
    if by == "groups":
        sizes, names, count = Counter(row.group for row in rows), set(), 0
        for name in random.Random(f"{seed} groups").sample(sorted(sizes), len(sizes)):
            if abs(count + sizes[name] - target) < abs(count - target):
                names.add(name)
                count += sizes[name]
        chosen = {number for number, row in enumerate(rows) if row.group in names}
    some = [row for number, row in enumerate(rows) if number in chosen]
    return some, [row for number, row in enumerate(rows) if number not in chosen]


def spread(rows: Sequence[Annotated], kind: str, seed: int) -> list[int]:
    """The rows' numbers in random order, such that the first n of them, for any n, have the labels in their shares."""
    by_label: defaultdict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        by_label[row.labels[kind]].append(number)
    places = []
    for label, numbers in by_label.items():
        shuffled = random.Random(f"{seed} spread {label}").sample(numbers, len(numbers))
        places += [((rank + 0.5) / len(shuffled), label, number) for rank, number in enumerate(shuffled)]
    return [number for *_, number in sorted(places)]


def deal_folds(rows: Sequence[Annotated], kind: str, by: str, count: int, seed: int) -> dict[str, int]:
    """The fold of each row, 0 to count - 1, by its id: stratified, or of whole groups."""
    if by == "rows":
        order = sorted(spread(rows, kind, seed), key=lambda number: rows[number].labels[kind])  # label by label
        return {rows[number].id: place % count for place, number in enumerate(order)}
    names = sorted({row.group for row in rows})
    return {row.id: names.index(row.group) % count for row in rows}
