"""SST-2: film review sentences, positive or negative (Stanford Sentiment Treebank; no licence file).

The public test labels are withheld, so scores are measured on dev.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from camelid.data.formats import read_local_or_hub
from camelid.rows import Labelled

ROW = Labelled
SPLITS = {"train": "train", "test": "dev"}


def read(split: str, dropped: Counter[str]) -> Iterator[Labelled]:
    """Every row of the split; none is left out."""
    hub_split = {"dev": "validation"}.get(split, split)
    table = read_local_or_hub("sst2", split, hub_id="stanfordnlp/sst2", hub_split=hub_split)
    for number, (origin, values) in enumerate(table):
        yield Labelled(str(number), origin, values.get("text") or values["sentence"], values["label"])
