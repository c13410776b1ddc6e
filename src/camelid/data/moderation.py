"""OpenAI's moderation evaluation set: prompts with the categories they violate (MIT; it holds harmful text).

The five parent categories are sexual (S), hate (H), violence (V), harassment (HR) and self-harm (SH). Of the three
narrower ones S3 (minors), H2 (threatening) and V2 (graphic) each row has its parent too, so the parents say all that a
policy of five categories asks. A category that is absent from a row is unknown there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from camelid.data.columns import flag_shape
from camelid.data.formats import read_local
from camelid.rows import Flagged

ROW = Flagged
SPLITS = {"train": "train", "test": "dev"}
CATEGORIES = ("S", "H", "V", "HR", "SH")


def read(split: str, dropped: Counter[str]) -> Iterator[Flagged]:
    """Every row of the split; none is left out."""
    table = read_local("moderation", split, source="github.com/openai/moderation-api-release")
    convert = flag_shape("prompt", CATEGORIES).convert
    for number, (origin, values) in enumerate(table):
        yield convert(str(number), origin, values)
