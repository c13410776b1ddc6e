"""Advertisements for shark products, of which those for parts of a real animal are relevant (VIDA-NYU/LTS, 2025).

499 labelled advertisements of online marketplaces, 102 of them relevant (label 1), from the validation file that goes
with Barbosa 2025 (arXiv 2504.21211), without the sellers' names. No licence file: research use only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from camelid.data.formats import read_local
from camelid.rows import Labelled

ROW = Labelled
SPLITS = {"train": "sharks"}


def read(split: str, dropped: Counter[str]) -> Iterator[Labelled]:
    """Every advertisement, its title in front of its description; none is left out."""
    table = read_local("wildlife", split, source="github.com/VIDA-NYU/LTS")
    for number, (origin, values) in enumerate(table):
        yield Labelled(str(number), origin, join_parts(values), values["label"])


def join_parts(values: dict[str, Any]) -> str:
    """Title and description as one text, as the paper joins them; the title alone where nothing is described."""
    parts = (values.get("title"), values.get("description"))
    return ". ".join(part.strip() for part in parts if part and part.strip())
