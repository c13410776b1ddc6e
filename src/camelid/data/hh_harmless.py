"""Pairs of answers of which people preferred one as more harmless (Anthropic HH-RLHF, MIT; it holds harmful text)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from camelid.data.formats import read_local
from camelid.rows import Message, Preference

ROW = Preference
SPLITS = {"train": "train", "test": "dev"}
TURN = re.compile(r"\n\n(Human|Assistant): ?")
ROLES = {"Human": "user", "Assistant": "assistant"}


def read(split: str, dropped: Counter[str]) -> Iterator[Preference]:
    """Pairs whose transcripts differ in the last answer only; others are counted in `dropped`."""
    table = read_local("hh-harmless", split, source="github.com/anthropics/hh-rlhf")
    for number, (origin, values) in enumerate(table):
        chosen, rejected = read_transcript(values["chosen"]), read_transcript(values["rejected"])
        if chosen[:-1] != rejected[:-1] or not chosen or chosen[-1].role != "assistant":
            dropped["transcripts that differ before the last answer"] += 1
        elif not chosen[-1].content or not rejected[-1].content:
            dropped["an empty answer"] += 1
        else:
            yield Preference(str(number), origin, chosen[:-1], chosen[-1].content, rejected[-1].content)


def read_transcript(text: str) -> tuple[Message, ...]:
    """The turns of a "Human: ... Assistant: ..." transcript."""
    parts = TURN.split(text)[1:]
    return tuple(
        Message(ROLES[role], content.strip())  # type: ignore[arg-type]
        for role, content in zip(parts[::2], parts[1::2], strict=True)
    )
