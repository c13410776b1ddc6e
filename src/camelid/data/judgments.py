"""Answers of a 13B chat model to Alpaca's instructions, with GPT-4's judgments (Xu 2023, arXiv 2312.14591; Apache-2.0).

The answers are those of LLaMA-2-13B-chat before its first update; 287 of 1,000 have a judgment, which says what is
wrong with them. Nothing is wrong with the others. The instructions are Stanford Alpaca's (CC BY-NC 4.0).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from camelid.data.formats import read_local
from camelid.rows import Critiqued

ROW = Critiqued
SPLITS = {"train": "iter1"}


def read(split: str, dropped: Counter[str]) -> Iterator[Critiqued]:
    """Every answer; an input stands behind its instruction, on a line of its own."""
    for origin, values in read_local("judgments", split, source="github.com/wwxu21/CUT"):
        asked = "\n".join(filter(None, (values["instruction"], values["input"])))
        yield Critiqued(str(values["id"]), origin, asked, values["output"], (values["judgment"] or "").strip())
