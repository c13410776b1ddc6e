"""TweetEval emotion: tweets with one of anger, joy, optimism, sadness (SemEval-2018 task 1; terms of that task)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from camelid.data.formats import read_local_or_hub
from camelid.rows import Labelled

ROW = Labelled
SPLITS = {"train": "train", "dev": "val", "test": "test"}


def read(split: str, dropped: Counter[str]) -> Iterator[Labelled]:
    """Every row of the split; none is left out."""
    hub_split = {"val": "validation"}.get(split, split)
    table = read_local_or_hub("emotion", split, hub_id="cardiffnlp/tweet_eval", config="emotion", hub_split=hub_split)
    for number, (origin, values) in enumerate(table):
        yield Labelled(str(number), origin, values["text"], values["label"])
