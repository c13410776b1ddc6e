"""PubMedQA, the rows labelled by experts: a question, its abstract, yes, no or maybe, and the conclusion (MIT).

The abstract without its conclusion belongs to the question; the conclusion is the reasoning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from camelid.data.formats import read_local
from camelid.rows import Reasoned

ROW = Reasoned
SPLITS = {"train": "labeled"}


def read(split: str, dropped: Counter[str]) -> Iterator[Reasoned]:
    """Every row of the split; none is left out."""
    for origin, values in read_local("pubmedqa", split, source="github.com/pubmedqa/pubmedqa (ori_pqal.json)"):
        question = "\n".join([*values["contexts"], values["question"]])
        yield Reasoned(str(values["id"]), origin, question, values["label"], values["long_answer"].strip())
