"""LegalBench: 160 legal tasks with 1 to 10 rows each, the few that its authors show in prompts (licences by task).

Guha 2023 (arXiv 2308.11462). Rows have a task, a text and a label, and no question: the names of the tasks must serve.
Too few to train on; a pool of tasks that no model of ours has seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from camelid.data.formats import read_local
from camelid.rows import Asked

ROW = Asked
SPLITS = {"train": "train"}


def read(split: str, dropped: Counter[str]) -> Iterator[Asked]:
    """Every row; none is left out."""
    table = read_local("legalbench", split, source="github.com/HazyResearch/legalbench")
    for number, (origin, values) in enumerate(table):
        yield Asked(str(number), origin, values["task"], values["text"], (values["label"].strip(),))
