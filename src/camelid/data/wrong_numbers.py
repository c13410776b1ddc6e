"""GSM8K's worked answers with one number after an equals sign made wrong, and a judgment that says so (MIT).

Which number, and what stands in its place, is drawn from the row's own number: rows are the same each time. Later steps
keep the right number, so that the answer contradicts itself as a slip would.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator

from camelid.data.formats import read_local_or_hub
from camelid.data.gsm8k import CALCULATOR
from camelid.rows import Critiqued

ROW = Critiqued
SPLITS = {"train": "train", "test": "test"}
FILES = {"train": "../gsm8k/train.jsonl", "test": "../gsm8k/test.jsonl"}
RESULT = re.compile(r"= ?[$]?(\d+)(?!\d|[.,/]\d)")


def read(split: str, dropped: Counter[str]) -> Iterator[Critiqued]:
    """Each answer once, without the calculator's marks and the line of the result; `fault` is where its number stands.

    Answers without a whole number after an equals sign are counted in `dropped`.
    """
    table = read_local_or_hub("gsm8k", split, hub_id="openai/gsm8k", config="main", hub_split=split)
    for number, (origin, values) in enumerate(table):
        worked = CALCULATOR.sub("", values["answer"]).rpartition("####")[0].strip()
        spans = [found.span(1) for found in RESULT.finditer(worked)]
        if not spans:
            dropped["no whole number after an equals sign"] += 1
            continue
        draw = random.Random(f"wrong numbers {split} {number}")
        start, end = draw.choice(spans)
        right, wrong = worked[start:end], replace_number(worked[start:end], draw)
        text = f"{worked[:start]}{wrong}{worked[end:]}"
        said = f"The number {wrong} is wrong; the correct value is {right}."
        yield Critiqued(str(number), origin, values["question"].strip(), text, said, (start, start + len(wrong)))


def replace_number(text: str, draw: random.Random) -> str:
    """Another whole number of about the same size: off by one to a half of it, at least by one."""
    value = int(text)
    step = draw.randint(1, max(2, value // 2))
    return str(value - step if step <= value and draw.random() < 0.5 else value + step)
