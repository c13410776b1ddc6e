"""Pairs of answers of 7B models to 170 questions, as nobody has judged them yet (PandaLM's test set, Apache-2.0).

A question has the answers of two to five models, and a pair for each two of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from camelid.data.formats import read_local
from camelid.rows import Pair

ROW = Pair
SPLITS = {"train": "testset"}
FILES = {"testset": "../pandalm/testset.jsonl"}


def read(split: str, dropped: Counter[str]) -> Iterator[Pair]:
    """Every pair in the order of the file. Some answers stand there as a JSON boolean, which was the text once."""
    for number, (origin, values) in enumerate(read_local("pandalm", split, source="github.com/WeOpenML/PandaLM")):
        question = "\n\n".join(filter(None, (values["instruction"], values["input"])))
        yield Pair(str(number), origin, question, str(values["response1"]), str(values["response2"]))
