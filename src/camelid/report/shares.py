"""How much of each split a class is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from camelid.report.numbers import show_count, show_share
from camelid.report.plots import draw_bar


@dataclass(frozen=True)
class Share:
    """How much of a split a class is."""

    count: str
    share: str
    bar: Markup


def compare_shares(splits: Mapping[str, tuple[Counter[str], int]]) -> list[tuple[str, list[Share]]]:
    """A line for each class with its share of each split, from (rows by class, all of them) by split.

    The commonest class of the first split comes first; bars are against the largest share of all.
    """
    names = dict.fromkeys(name for classes, _ in splits.values() for name, _ in classes.most_common())
    largest = max((count / total for classes, total in splits.values() for count in classes.values()), default=1)
    return [
        (name, [_share(name, split, classes[name], total or 1, largest) for split, (classes, total) in splits.items()])
        for name in names
    ]


def _share(name: str, split: str, count: int, total: int, largest: float) -> Share:
    share = count / total
    label = f"{name} in {split}: {show_count(count)}, {show_share(share)}"
    return Share(show_count(count), show_share(share), draw_bar(share / largest, label))
