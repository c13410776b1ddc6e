"""Pairs of answers of 7B models to 170 questions, preferred by a judge model or by people (PandaLM's test set).

Sources and licences are those of pandalm-ratings. The strength of the judge's preference is 1, 2 or 3 where its scores,
from 0 to 10, differ by at most 1, by less than 4, or by more; that of people's is the sum of their votes: 3 where all
three agree. Ties are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from camelid.data import pandalm_ratings
from camelid.rows import Preference

ROW = Preference
SPLITS = {"train": "gpt-4o-mini", "test": "people"}
FILES = {"gpt-4o-mini": "../pandalm/judge-gpt-4o-mini.jsonl", "people": "../pandalm/testset.jsonl"}
VOTES = {0: 0, 1: -1, 2: 1}  # a tie, the first answer, the second


def read(split: str, dropped: Counter[str]) -> Iterator[Preference]:
    """Pairs of which one answer is better."""
    for number, pair in enumerate(pandalm_ratings.read_judgements()):
        first, second = pair.scores
        strength = sum(VOTES[vote] for vote in pair.votes) if split == "people" else grade(second - first)
        if strength == 0:
            dropped["ties"] += 1
            continue
        chosen, rejected = pair.answers if strength < 0 else pair.answers[::-1]
        yield Preference(str(number), pair.origin, pair.prompt, chosen, rejected, float(abs(strength)))


def grade(difference: float) -> int:
    """-3 to 3 from a difference of scores."""
    size = 1 if abs(difference) <= 1 else 2 if abs(difference) < 4 else 3
    return 0 if difference == 0 else size if difference > 0 else -size
