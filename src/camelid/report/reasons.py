"""What a system wrote before its labels, beside label and gold: some right rows and some wrong ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from camelid.report.mistakes import cut_text

SHOWN = 5  # right ones, and as many wrong ones


@dataclass(frozen=True)
class Reason:
    """A predicted row with the reasoning that was written before its label."""

    id: str
    text: str
    reasoning: str
    predicted: str
    gold: str
    outcome: str
    right: bool


def collect_reasons(predictions: Iterable[Mapping[str, Any]], rows: Iterable[Mapping[str, Any]]) -> list[Reason]:
    """The first right and wrong rows in turn; none where the system writes no reasoning."""
    kept: dict[bool, list[Mapping[str, Any]]] = {True: [], False: []}
    for found in predictions:
        if "reasoning" not in found:
            return []
        side = kept[found["gold"] == found["predicted"]]
        if len(side) < SHOWN:
            side.append(found)
    chosen = [found for pair in zip_longest(kept[True], kept[False]) for found in pair if found]
    wanted = {found["id"] for found in chosen}
    texts = {row["id"]: row for row in rows if row.get("id") in wanted}
    return [_describe(found, texts.get(found["id"], {})) for found in chosen]


def _describe(found: Mapping[str, Any], row: Mapping[str, Any]) -> Reason:
    return Reason(
        str(row.get("origin") or f"row {found['id']}"),
        cut_text(str(row.get("text", ""))),
        cut_text(str(found["reasoning"])),
        str(found["predicted"]),
        str(found["gold"]),
        str(found["outcome"]),
        found["gold"] == found["predicted"],
    )
