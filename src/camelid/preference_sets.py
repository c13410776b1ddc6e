"""Preference sets: what is in them, how long chosen and rejected answers are, and files other trainers read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from camelid.data.formats import write_table
from camelid.metrics import spread_mean
from camelid.rows import Graded, Message


def grade_pair(
    name: str,
    origin: str,
    prompt: tuple[Message, ...],
    texts: Mapping[str, str],
    scores: Mapping[str, float],
    least_gap: float,
    source: Mapping[str, str],
) -> Graded | str:
    """The preference for the text with the higher score of two, or in words why there is none.

    `texts` and `scores` are by what made the text, such as "response 2", which `source` names in the row beside what is
    in it already. There is none where a score is NaN, the texts are equal, or the scores are or differ by less than
    `least_gap`.
    """
    better, worse = sorted(texts, key=lambda name: -scores[name])
    gap = scores[better] - scores[worse]
    if math.isnan(gap):
        return "an answer without a score"
    if texts[better] == texts[worse]:
        return "equal answers"
    if gap == 0 or gap < least_gap:
        return "scores that are too near to each other" if gap else "equal scores"
    told = {**source, "chosen": better, "rejected": worse}
    return Graded(
        name, origin, prompt, texts[better], texts[worse],
        score_chosen=scores[better], score_rejected=scores[worse], source=told,
    )  # fmt: skip


def measure_lengths(rows: Sequence[Graded]) -> dict[str, Any]:
    """Characters of chosen and rejected answers, their difference, and how often the chosen one is the longer.

    Each with its interval; empty without rows. A set whose chosen answers are much longer teaches length.
    """
    if not rows:
        return {}
    chosen_N, rejected_N = (
        np.array([len(getattr(row, side)) for row in rows], float) for side in ("chosen", "rejected")
    )
    found = {
        "chosen": chosen_N,
        "rejected": rejected_N,
        "chosen minus rejected": chosen_N - rejected_N,
        "chosen is longer": (chosen_N > rejected_N).astype(float),
    }
    return {name: spread_mean(values_N) for name, values_N in found.items()}


def describe_preferences(pairs: Sequence[Graded | str]) -> dict[str, Any]:
    """How many pairs there are, why there is none of the others, their score gap, and `measure_lengths`."""
    kept = [one for one in pairs if isinstance(one, Graded)]
    gaps = np.array([one.score_chosen - one.score_rejected for one in kept])
    return {
        "pairs": len(kept),
        "left out": dict(Counter(one for one in pairs if isinstance(one, str))),
        **({"score gap": spread_mean(gaps), "characters": measure_lengths(kept)} if kept else {}),
    }


def write_preferences(folder: Path, rows: Sequence[Graded]) -> None:
    """`dpo.jsonl` (prompt, chosen, rejected) and `kto.jsonl` (prompt, completion, label) in conversational form.

    TRL and others read them as they are. Each row keeps scores and sources. An answer that was chosen, or rejected,
    several times after one prompt is one row of kto.jsonl.
    """
    write_table(folder / "dpo.jsonl", [_to_dpo(row) for row in rows])
    write_table(folder / "kto.jsonl", list(_to_kto(rows)))


def write_ranked(path: Path, ranked: Iterable[tuple[str, Sequence[str], Sequence[float]]]) -> None:
    """`prompt`, `responses` from the best to the worst, and `scores` of each (prompt, responses, scores)."""
    rows = []
    for prompt, responses, scores in ranked:
        order = sorted(range(len(responses)), key=lambda place: -np.nan_to_num(scores[place], nan=-np.inf))
        told = [None if np.isnan(scores[place]) else scores[place] for place in order]
        rows.append({"prompt": prompt, "responses": [responses[place] for place in order], "scores": told})
    write_table(path, rows)


def _to_dpo(row: Graded) -> dict[str, Any]:
    sides = {name: [{"role": "assistant", "content": getattr(row, name)}] for name in ("chosen", "rejected")}
    scores = {"score_chosen": row.score_chosen, "score_rejected": row.score_rejected}
    return {"id": row.id, "prompt": [asdict(turn) for turn in row.prompt], **sides, **scores, "source": row.source}


def _to_kto(rows: Sequence[Graded]) -> Iterable[dict[str, Any]]:
    seen = set()
    for row in rows:
        sides = ((row.chosen, True, row.score_chosen), (row.rejected, False, row.score_rejected))
        for text, label, score in sides:
            if (row.prompt, text, label) in seen:
                continue
            seen.add((row.prompt, text, label))
            yield {
                "id": row.id,
                "prompt": [asdict(turn) for turn in row.prompt],
                "completion": [{"role": "assistant", "content": text}],
                "label": label,
                "score": score,
                "source": row.source,
            }
