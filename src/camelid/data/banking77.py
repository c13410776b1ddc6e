"""Banking77: customer questions with one of 77 intents (PolyAI, CC BY 4.0)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from camelid.data.formats import read_local_or_hub
from camelid.rows import Labelled

ROW = Labelled
SPLITS = {"train": "train", "test": "test"}


def read(split: str, dropped: Counter[str]) -> Iterator[Labelled]:
    """Every row of the split; none is left out."""
    table = read_local_or_hub("banking77", split, hub_id="PolyAI/banking77", hub_split=split)
    for number, (origin, values) in enumerate(table):
        yield Labelled(str(number), origin, values["text"], values["label"])
