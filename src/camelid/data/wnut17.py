"""WNUT-17: tweets and comments tagged with emerging entities of 6 types, BIO (CC BY 4.0)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from camelid.data.formats import read_local_or_hub
from camelid.rows import Tagged

ROW = Tagged
SPLITS = {"train": "train", "test": "dev"}


def read(split: str, dropped: Counter[str]) -> Iterator[Tagged]:
    """Every row of the split; none is left out."""
    hub_split = {"dev": "validation"}.get(split, split)
    table = read_local_or_hub("wnut17", split, hub_id="leondz/wnut_17", hub_split=hub_split)
    for number, (origin, values) in enumerate(table):
        yield Tagged(str(number), origin, tuple(values["tokens"]), tuple(values.get("tags") or values["ner_tags"]))
