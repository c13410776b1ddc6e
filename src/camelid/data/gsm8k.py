"""GSM8K: grade-school word problems with worked reasoning and a number as the answer (MIT).

The reasoning is what stands before "####", without the calculator's marks; the answer is the number behind it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from camelid.data.formats import read_local_or_hub
from camelid.rows import Reasoned

ROW = Reasoned
SPLITS = {"train": "train", "test": "test"}
CALCULATOR = re.compile(r"<<[^>]*>>")


def read(split: str, dropped: Counter[str]) -> Iterator[Reasoned]:
    """Rows that have both; those without are counted in `dropped`."""
    table = read_local_or_hub("gsm8k", split, hub_id="openai/gsm8k", config="main", hub_split=split)
    for number, (origin, values) in enumerate(table):
        worked, _, result = CALCULATOR.sub("", values["answer"]).rpartition("####")
        if not worked.strip() or not result.strip():
            dropped["no reasoning before the answer"] += 1
        else:
            yield Reasoned(str(number), origin, values["question"].strip(), result.strip(), worked.strip())
