"""Sentences of oral-history interviews with a topic and a sentiment each (Densho archive; no licence file).

558 sentences of 15 narrators on the wartime incarceration of Japanese Americans, annotated by experts for Cherukuri
2025 (arXiv 2508.06729). The group of a row is its narrator. The transcripts belong to the archive: research use only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from camelid.data.columns import annotation_shape
from camelid.data.formats import read_local
from camelid.rows import Annotated

ROW = Annotated
SPLITS = {"train": "annotated"}


def read(split: str, dropped: Counter[str]) -> Iterator[Annotated]:
    """Every row; none is left out. The rows' own codes are not unique, so the id is the row number."""
    table = read_local("oral-history", split, source="github.com/kc6699c/LLM4OralHistoryAnalysis")
    convert = annotation_shape("text", {"topic": "topic", "sentiment": "sentiment"}, "narrator").convert
    for number, (origin, values) in enumerate(table):
        yield convert(str(number), origin, values)
