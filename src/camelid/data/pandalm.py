"""Pairs of answers to instructions, of which three people said which is better (PandaLM's test set, Apache-2.0).

The set holds six answers as JSON booleans, which are the words "True" and "False". Some answers are empty, and both are
kept as they are. Files that other models' judgements were released in go by the place of the row. A question has the
answers of two to five 7B models, and a pair for each two of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from camelid.data.formats import read_local
from camelid.rows import Contest

ROW = Contest
SPLITS = {"train": "testset"}
ANNOTATORS = ("annotator1", "annotator2", "annotator3")
VERDICTS = ("tie", "first", "second")


def read(split: str, dropped: Counter[str]) -> Iterator[Contest]:
    """Every row of the split, in its order; none is left out. The input stands a paragraph behind its instruction."""
    table = read_local("pandalm", split, source="github.com/WeOpenML/PandaLM (data/testset-v1.json)")
    for number, (origin, values) in enumerate(table):
        question = "\n\n".join(part for part in (values["instruction"], values["input"]) if part.strip())
        verdicts = {name: VERDICTS[values[name]] for name in ANNOTATORS}
        first, second = str(values["response1"]), str(values["response2"])
        yield Contest(str(number), origin, (question,), (first,), (second,), verdicts)
