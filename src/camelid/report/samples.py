"""The rows a run worked on: how many, which classes, what was left out, and a few to read."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from camelid.metrics import entities
from camelid.report.files import RunFiles
from camelid.report.mistakes import Stretch, cut_sentence, cut_text, mark_entities
from camelid.report.numbers import show_count, show_share
from camelid.report.plots import draw_bar
from camelid.report.scores import FOLD

SAMPLES = 6
KEPT = 3  # rows kept of each class to choose the samples from
SHORT = 40  # words; shorter sentences are nicer to read


@dataclass(frozen=True)
class Sample:
    """A row to read: a text with its label, or a sentence in stretches."""

    text: str
    label: str = ""
    sentence: tuple[Stretch, ...] = ()


@dataclass(frozen=True)
class Split:
    """Rows of one split: how many, how often each class occurs in them, and some rows of each class."""

    name: str
    rows: int
    classes: Counter[str]
    kept: dict[str, list[Sample]]


@dataclass(frozen=True)
class Share:
    """How much of a split a class is."""

    count: str
    share: str
    bar: Markup


@dataclass(frozen=True)
class Rows:
    """The data section: splits, shares of the classes by split, rows left out, warnings, samples."""

    splits: list[tuple[str, str]]
    shares: list[tuple[str, list[Share]]]
    folded: list[tuple[str, list[Share]]]
    counted: str
    dropped: list[tuple[str, str]]
    warnings: list[str]
    samples: list[Sample]


def describe_rows(files: RunFiles) -> Rows:
    """The data section of a run; its lists are empty where nothing is known yet."""
    splits = [_read_split(name, files.lines(f"{name}.jsonl")) for name in files.splits()]
    notes = files.manifest.get("notes", {}).get("data") or {}
    shares = _compare_shares(splits)
    tagged = any(sample.sentence for split in splits for kept in split.kept.values() for sample in kept)
    return Rows(
        [(split.name, show_count(split.rows)) for split in splits],
        shares[:FOLD],
        shares[FOLD:],
        "entities" if tagged else "rows",
        _by_reason(notes.get("dropped") or {}),
        [str(warning) for warning in notes.get("warnings") or []],
        _choose_samples(splits[0]) if splits else [],
    )


def _by_reason(dropped: Mapping[str, int]) -> list[tuple[str, str]]:
    """(reason with its counts by split, total) from counts by "split: reason", the largest first."""
    grouped: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for key, count in dropped.items():
        split, colon, reason = str(key).partition(": ")
        grouped[reason if colon else split][split if colon else ""] = count
    ordered = sorted(grouped.items(), key=lambda item: -sum(item[1].values()))
    return [
        (
            f"{reason} ({', '.join(f'{split} {show_count(n)}' for split, n in counts.items() if split)})",
            show_count(total),
        )
        if any(counts)
        else (reason, show_count(total))
        for reason, counts in ordered
        for total in [sum(counts.values())]
    ]


def _read_split(name: str, rows: Iterable[Mapping[str, Any]]) -> Split:
    """One pass over the rows, which may be more than fit in memory."""
    count, classes, kept = 0, Counter[str](), defaultdict[str, list[Sample]](list)
    for row in rows:
        count += 1
        found = _classes_of(row)
        classes.update(found)
        place = kept[found[0] if found else ""]
        if len(place) < KEPT and len(row.get("tokens") or []) <= SHORT:
            place.append(_sample(row))
    return Split(name, count, classes, dict(kept))


def _classes_of(row: Mapping[str, Any]) -> list[str]:
    if "tags" in row:
        return [kind for kind, *_ in sorted(entities(row["tags"]), key=lambda chunk: chunk[1])]
    return [str(row["label"])] if "label" in row else []


def _sample(row: Mapping[str, Any]) -> Sample:
    if "tags" in row:
        words = [str(word) for word in row["tokens"]]
        return Sample(" ".join(words), sentence=cut_sentence(mark_entities(words, row["tags"])))
    if "text" in row:
        return Sample(cut_text(str(row["text"])), str(row.get("label", "")))
    values = {name: value for name, value in row.items() if name not in ("row", "id", "origin")}
    return Sample(cut_text(json.dumps(values, ensure_ascii=False)))


def _choose_samples(split: Split) -> list[Sample]:
    """The first rows of the commonest classes in turn; rows without a class come last."""
    names = sorted(split.kept, key=lambda name: (not name, -split.classes[name]))
    turns = [split.kept[name][turn] for turn in range(KEPT) for name in names if turn < len(split.kept[name])]
    return turns[:SAMPLES]


def _compare_shares(splits: Sequence[Split]) -> list[tuple[str, list[Share]]]:
    """A line for each class, the commonest first; bars are against the largest share of all."""
    totals = {split.name: split.classes.total() or 1 for split in splits}
    names = dict.fromkeys(name for split in splits for name, _ in split.classes.most_common())
    largest = max((count / totals[split.name] for split in splits for count in split.classes.values()), default=1)
    return [(name, [_share(split, name, totals[split.name], largest) for split in splits]) for name in names]


def _share(split: Split, name: str, total: int, largest: float) -> Share:
    count = split.classes[name]
    share = count / total
    label = f"{name} in {split.name}: {show_count(count)}, {show_share(share)}"
    return Share(show_count(count), show_share(share), draw_bar(share / largest, label))
