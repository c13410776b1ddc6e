"""Sentences whose words are marked with gold and predicted entities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from camelid.metrics import entities

LONGEST_SENTENCE = 150  # words


@dataclass(frozen=True)
class Stretch:
    """Neighbouring words under the same marks; an entity's name stands on its first stretch, … on later ones."""

    words: str
    gold: bool = False
    predicted: bool = False
    gold_name: str = ""
    predicted_name: str = ""


def mark_entities(words: Sequence[str], gold: Sequence[str], predicted: Sequence[str] = ()) -> tuple[Stretch, ...]:
    """The sentence cut where a gold or a predicted entity begins or ends."""
    chunks = _chunk_by_word(gold, len(words)), _chunk_by_word(predicted, len(words))
    stretches: list[Stretch] = []
    seen: set[Any] = set()
    start = 0
    for end in range(1, len(words) + 1):
        real, said = chunks[0][start], chunks[1][start]
        if end < len(words) and (chunks[0][end], chunks[1][end]) == (real, said):
            continue
        names = [_name_once(chunk, side, seen) for side, chunk in enumerate((real, said))]
        stretches.append(Stretch(" ".join(words[start:end]), bool(real), bool(said), *names))
        start = end
    return tuple(stretches)


def cut_sentence(stretches: tuple[Stretch, ...]) -> tuple[Stretch, ...]:
    """The sentence without what comes after its first LONGEST_SENTENCE words."""
    kept: list[Stretch] = []
    words = 0
    for stretch in stretches:
        found = stretch.words.split(" ")
        room = LONGEST_SENTENCE - words
        if len(found) > room and not (stretch.gold or stretch.predicted):
            return (*kept, Stretch(" ".join([*found[:room], "…"])))
        if room <= 0:
            return (*kept, Stretch("…"))
        kept.append(stretch)
        words += len(found)
    return stretches


def _name_once(chunk: tuple[str, int, int] | None, side: int, seen: set[Any]) -> str:
    """The entity's type the first time it is met, then …; nothing outside entities."""
    if chunk is None:
        return ""
    name = "…" if (side, chunk) in seen else chunk[0]
    seen.add((side, chunk))
    return name


def _chunk_by_word(tags: Sequence[str], words: int) -> list[tuple[str, int, int] | None]:
    """The entity (type, first, last) each word belongs to, or None."""
    chunks: list[tuple[str, int, int] | None] = [None] * words
    for chunk in entities(tags):
        for position in range(chunk[1], min(chunk[2] + 1, words)):
            chunks[position] = chunk
    return chunks
