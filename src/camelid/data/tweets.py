"""TweetEval stance: tweets for, against or of no stance on five targets (SemEval-2016 task 6; terms of that task).

Every target has splits of its own, read by name: tweets:stance-climate-train and so on. The set by itself is the one
on feminism.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from camelid.data.formats import read_local_or_hub
from camelid.rows import Labelled

ROW = Labelled
TARGETS = ("abortion", "atheism", "climate", "hillary")
SPLITS = {"train": "stance-feminist-train", "dev": "stance-feminist-val", "test": "stance-feminist-test"} | {
    split: split for target in TARGETS for split in (f"stance-{target}-{part}" for part in ("train", "val", "test"))
}


def read(split: str, dropped: Counter[str]) -> Iterator[Labelled]:
    """Every row of the split; none is left out."""
    _, target, part = split.split("-")
    hub_split = {"val": "validation"}.get(part, part)
    config = f"stance_{target}"
    table = read_local_or_hub("tweets", split, hub_id="cardiffnlp/tweet_eval", config=config, hub_split=hub_split)
    for number, (origin, values) in enumerate(table):
        yield Labelled(str(number), origin, values["text"], values["label"])
