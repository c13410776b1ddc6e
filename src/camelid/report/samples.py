"""The rows a run worked on: how many, which classes, what was left out, and a few to read."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from camelid.metrics import entities
from camelid.report.comparisons import DotPlot
from camelid.report.files import RunFiles
from camelid.report.histograms import plot_numbers
from camelid.report.mistakes import cut_text, write_texts
from camelid.report.numbers import show_count, show_number
from camelid.report.scores import FOLD
from camelid.report.sentences import Stretch, cut_sentence, mark_entities
from camelid.report.shares import Share, compare_shares

SAMPLES = 6
KEPT = 3  # rows kept of each class to choose the samples from
NUMBERS = 60  # rows kept where labels are numbers
SHORT = 40  # words; shorter sentences are nicer to read


@dataclass(frozen=True)
class Sample:
    """A row to read: a text with its label, or a sentence in stretches."""

    text: str
    label: str = ""
    number: float = 0.0
    sentence: tuple[Stretch, ...] = ()


@dataclass
class Split:
    """Rows of one split: how many, how often each class occurs in them or which numbers, and some rows to read."""

    name: str
    rows: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    numbers: list[float] = field(default_factory=list)
    sets: int = 0  # rows whose label is a list of classes
    empty: int = 0  # those among them whose list is empty
    kept: defaultdict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))

    @property
    def total(self) -> int:
        """What the classes are shares of: rows, or entities."""
        return self.rows if self.sets else self.classes.total()


@dataclass(frozen=True)
class Rows:
    """The data section: splits, shares of the classes by split, rows left out, warnings, samples."""

    splits: list[tuple[str, str]]
    classed: list[str]  # the splits whose rows have classes, which `shares` are of
    shares: list[tuple[str, list[Share]]]
    folded: list[tuple[str, list[Share]]]
    counted: str
    several: str  # how many labels a row has, where it may have any number
    numbers: DotPlot | None
    dropped: list[tuple[str, str]]
    warnings: list[str]
    samples: list[Sample]


def describe_rows(files: RunFiles) -> Rows:
    """The data section of a run; its lists are empty where nothing is known yet."""
    splits = [_read_split(name, files.lines(f"{name}.jsonl")) for name in files.splits()]
    notes = files.manifest.get("notes", {}).get("data") or {}
    classed = [split for split in splits if split.classes]  # pairs that nobody has judged have no class
    shares = compare_shares({split.name: (split.classes, split.total) for split in classed})
    tagged = any(sample.sentence for split in splits for kept in split.kept.values() for sample in kept)
    return Rows(
        [(split.name, show_count(split.rows)) for split in splits],
        [split.name for split in classed],
        shares[:FOLD],
        shares[FOLD:],
        "entities" if tagged else "rows",
        _count_labels(splits),
        plot_numbers({split.name: split.numbers for split in splits}),
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
    split = Split(name)
    for row in rows:
        split.rows += 1
        label = row.get("label")
        if isinstance(label, int | float):
            split.numbers.append(label)
        found = name_classes(row)
        split.classes.update(found)
        split.sets += isinstance(label, list)
        split.empty += label == []
        place = split.kept[found[0] if found else ""]
        if len(place) < (NUMBERS if split.numbers else KEPT) and len(row.get("tokens") or []) <= SHORT:
            place.append(show_sample(row))
    return split


def _count_labels(splits: Sequence[Split]) -> str:
    rows, empty = sum(split.sets for split in splits), sum(split.empty for split in splits)
    if not rows:
        return ""
    mean = sum(split.classes.total() for split in splits) / rows
    none = f"{show_count(empty)} {'row has' if empty == 1 else 'rows have'} none" if empty else "every row has one"
    return f"A row may have several labels: {mean:.2f} on average; {none}."


def name_classes(row: Mapping[str, Any]) -> list[str]:
    """What is said of a row, whatever its kind: classes, entities, violated categories, labels of several kinds."""
    if "tags" in row:
        return [kind for kind, *_ in sorted(entities(row["tags"]), key=lambda chunk: chunk[1])]
    if isinstance(row.get("flags"), dict):
        return [str(name) for name, violated in row["flags"].items() if violated] or ["none"]
    if isinstance(row.get("labels"), dict):
        return [f"{kind} {label}" for kind, label in row["labels"].items()]
    if "answers" in row:
        return [f"{row['task']} {answer}" for answer in row["answers"]]
    if "verdicts" in row:
        return [f"{name} {verdict}" for name, verdict in row["verdicts"].items()]
    if "positive" in row:
        return [] if row["positive"] is None else ["positive" if row["positive"] else "negative"]
    label = row.get("label", row.get("decided"))
    if isinstance(label, list):
        return [str(name) for name in label]
    return [] if label is None or isinstance(label, int | float) else [str(label)]


def show_sample(row: Mapping[str, Any]) -> Sample:
    """A row of any kind to be read."""
    if "tags" in row:
        words = [str(word) for word in row["tokens"]]
        return Sample(" ".join(words), sentence=cut_sentence(mark_entities(words, row["tags"])))
    if "numbers" in row:
        shown = str(row["text"]) or ", ".join(show_number(number) for number in row["numbers"])
        return Sample(cut_text(shown), _show_label(name_classes(row)))
    if "text" in row:
        label = name_classes(row) if {"labels", "answers"} & set(row) else row.get("label", "")
        return Sample(cut_text(str(row["text"])), _show_label(label), label if isinstance(label, int | float) else 0.0)
    if "reasoning" in row:
        return Sample(cut_text(f"{row['question']}\n\n{row['reasoning']}"), str(row["answer"]))
    if "verdicts" in row:
        return Sample(cut_text(write_texts(row)), _show_label(name_classes(row)))
    if "judgment" in row:
        said = str(row["judgment"]) or "nothing is wrong with it"
        return Sample(cut_text(f"{row['instruction']}\n\n{row['answer']}"), cut_text(said))
    if "chosen" in row:
        return Sample(cut_text(write_texts(row)), str(row.get("decided") or ""))
    if "instruction" in row and "first" in row:
        return Sample(cut_text(f"{row['instruction']}\n\nfirst: {row['first']}\n\nsecond: {row['second']}"))
    if "flags" in row:
        return Sample(cut_text(str(row["messages"][-1]["content"])), _show_label(name_classes(row)))
    values = {name: value for name, value in row.items() if name not in ("row", "id", "origin")}
    return Sample(cut_text(json.dumps(values, ensure_ascii=False)))


def _show_label(label: Any) -> str:
    if isinstance(label, list):
        return ", ".join(map(str, label)) or "no label"
    return show_number(label) if isinstance(label, int | float) else str(label)


def _choose_samples(split: Split) -> list[Sample]:
    """The first rows of the commonest classes in turn; rows without a class come last. Numbers are spread evenly."""
    if split.numbers:
        ordered = sorted(split.kept[""], key=lambda sample: sample.number)
        last = len(ordered) - 1
        return [ordered[place] for place in sorted({round(turn * last / (SAMPLES - 1)) for turn in range(SAMPLES)})]
    names = sorted(split.kept, key=lambda name: (not name, -split.classes[name]))
    turns = [split.kept[name][turn] for turn in range(KEPT) for name in names if turn < len(split.kept[name])]
    return list(dict.fromkeys(turns))[:SAMPLES]  # a row may be of several classes
