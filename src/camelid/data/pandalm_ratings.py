"""Answers of 7B models to 170 questions, with ratings from 0 to 4 by a judge model (PandaLM's test set, Apache-2.0).

The judge is GPT-4o-mini, whose scores from 0 to 10 for both answers of a pair were released with MA-PO (Arif 2024,
arXiv 2408.08688; no licence file). An answer stands in several pairs: its rating is 0.4 times the mean of its scores.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from camelid.data.formats import read_local
from camelid.rows import Message, Rated

ROW = Rated
SPLITS = {"train": "gpt-4o-mini"}
FILES = {"gpt-4o-mini": "../pandalm/testset.jsonl"}
SCALE = 0.4  # from 0 to 10 to 0 to 4


@dataclass(frozen=True)
class Judgement:
    """A pair of the test set: its question and answers, what three people said (0 tie, 1, 2), and two scores."""

    origin: str
    prompt: tuple[Message, ...]
    answers: tuple[str, str]
    votes: tuple[int, ...]
    scores: tuple[float, float]


def read(split: str, dropped: Counter[str]) -> Iterator[Rated]:
    """Each distinct answer to a question once."""
    scores: defaultdict[tuple[tuple[Message, ...], str], list[float]] = defaultdict(list)
    origins: dict[tuple[tuple[Message, ...], str], str] = {}
    for pair in read_judgements():
        for answer, score in zip(pair.answers, pair.scores, strict=True):
            scores[pair.prompt, answer].append(score)
            origins.setdefault((pair.prompt, answer), pair.origin)
    for number, ((prompt, answer), found) in enumerate(scores.items()):
        yield Rated(str(number), origins[prompt, answer], prompt, answer, {"helpfulness": SCALE * fmean(found)})


def read_judgements() -> Iterator[Judgement]:
    """Every pair in the order of the file. Some answers stand there as a JSON boolean, which was the text once."""
    pairs = read_local("pandalm", "testset", source="github.com/WeOpenML/PandaLM")
    judged = read_local("pandalm", "judge-gpt-4o-mini", source="github.com/ulrs0/MA-PO")
    for (origin, values), (_, scores) in zip(pairs, judged, strict=True):
        question = "\n\n".join(filter(None, (values["instruction"], values["input"])))
        yield Judgement(
            origin,
            (Message("user", question),),
            (str(values["response1"]), str(values["response2"])),
            tuple(values[f"annotator{number}"] for number in (1, 2, 3)),
            (float(scores["score_1"]), float(scores["score_2"])),
        )
