"""The answers of `pandalm`, with ratings from 0 to 4 by a judge model.

The judge is GPT-4o-mini, whose scores from 0 to 10 for both answers of a pair were released with MA-PO (Arif 2024,
arXiv 2408.08688; no licence file). An answer stands in several pairs: its rating is 0.4 times the mean of its scores.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from statistics import fmean

from camelid.data import pandalm
from camelid.data.formats import read_local
from camelid.rows import Contest, Message, Rated

ROW = Rated
SPLITS = {"train": "gpt-4o-mini"}
FILES = {"gpt-4o-mini": "../pandalm/testset.jsonl"}
SCALE = 0.4  # from 0 to 10 to 0 to 4


def read(split: str, dropped: Counter[str]) -> Iterator[Rated]:
    """Each distinct answer to a question once."""
    scores: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    origins: dict[tuple[str, str], str] = {}
    for pair, both in read_scored(dropped):
        for answer, score in zip((pair.first[0], pair.second[0]), both, strict=True):
            scores[pair.questions[0], answer].append(score)
            origins.setdefault((pair.questions[0], answer), pair.origin)
    for number, ((question, answer), found) in enumerate(scores.items()):
        ratings = {"helpfulness": SCALE * fmean(found)}
        yield Rated(str(number), origins[question, answer], (Message("user", question),), answer, ratings)


def read_scored(dropped: Counter[str]) -> Iterator[tuple[Contest, tuple[float, float]]]:
    """Every pair in the order of the file, and the judge's scores from 0 to 10 of its answers."""
    judged = read_local("pandalm", "judge-gpt-4o-mini", source="github.com/ulrs0/MA-PO")
    for pair, (_, scores) in zip(pandalm.read("testset", dropped), judged, strict=True):
        yield pair, (float(scores["score_1"]), float(scores["score_2"]))
