"""The pairs of `pandalm` of which a judge model, or people, prefer one answer.

The judge is that of `pandalm-ratings`. The strength of its preference is 1, 2 or 3 where its scores, from 0 to 10,
differ by at most 1, by less than 4, or by more; that of people's is the sum of their votes: 3 where all three agree.
Ties are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from camelid.data.pandalm_ratings import read_scored
from camelid.rows import Message, Preference

ROW = Preference
SPLITS = {"train": "gpt-4o-mini", "test": "people"}
FILES = {"gpt-4o-mini": "../pandalm/judge-gpt-4o-mini.jsonl", "people": "../pandalm/testset.jsonl"}
VOTES = {"tie": 0, "first": -1, "second": 1}


def read(split: str, dropped: Counter[str]) -> Iterator[Preference]:
    """Pairs of which one answer is better."""
    for pair, (first, second) in read_scored(dropped):
        votes = sum(VOTES[vote] for vote in pair.verdicts.values())
        strength = votes if split == "people" else grade(second - first)
        if strength == 0:
            dropped["ties"] += 1
            continue
        better, worse = (pair.first, pair.second) if strength < 0 else (pair.second, pair.first)
        prompt = (Message("user", pair.questions[0]),)
        yield Preference(pair.id, pair.origin, prompt, better[0], worse[0], float(abs(strength)))


def grade(difference: float) -> int:
    """-3 to 3 from a difference of scores."""
    size = 1 if abs(difference) <= 1 else 2 if abs(difference) < 4 else 3
    return 0 if difference == 0 else size if difference > 0 else -size
