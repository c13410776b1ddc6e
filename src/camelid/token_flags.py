"""Tokens of answers that are flagged: whether flags find known faults, what models give them, how they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Any

import numpy as np

from camelid import metrics
from camelid.evaluation import Scored, Scorer
from camelid.metrics import SEED, Bools, Draws, Floats
from camelid.ranking import auroc

COLUMNS = ("contrast", "flagged_probability", "kept_logprob", "nll")


def cut_rows(values_N: Any, sizes: Sequence[int]) -> list[Any]:
    """Flat values of rows laid behind each other, by row."""
    return np.split(values_N, np.cumsum(sizes)[:-1])


def score_flags(flags: Sequence[Bools]) -> Scorer:
    """A scorer of models whose "predictions" are the log-probabilities, in nats, of each row's tokens.

    Over all tokens, rows drawn anew for the intervals: "flagged_probability", the mean probability of flagged tokens;
    "kept_logprob", the mean log-probability of the others; "contrast", that minus the mean log-probability of the
    flagged ones: how much less likely a model finds what was flagged; "nll", nats a token of whole rows.
    """

    def score_rows(predictions: Sequence[Any], classes: Sequence[str], draws: Draws) -> Scored:
        both = [(np.asarray(row, dtype=float), flag) for row, flag in zip(predictions, flags, strict=True)]
        sums = [
            [flag.sum(), np.exp(row[flag]).sum(), row[flag].sum(), (~flag).sum(), row[~flag].sum()]
            for row, flag in both
        ]
        sums_N5: Any = np.array(sums)
        whole_4, drawn_R4 = _columns(sums_N5.sum(axis=0)), metrics.bootstrap_sum(sums_N5, draws, _columns)
        scores = {
            name: metrics.interval(whole_4[place], drawn_R4[:, place]).as_dict() for place, name in enumerate(COLUMNS)
        }
        return Scored(scores, drawn_R4[:, 0], None)

    return score_rows


def _columns(sums_X5: Any) -> Floats:
    """COLUMNS from sums over rows: flagged tokens, their probabilities and log-probabilities; other tokens, theirs."""
    count_X, chance_X, flagged_X, others_X, kept_X = np.moveaxis(sums_X5, -1, 0)
    flagged_mean_X, kept_mean_X = flagged_X / np.maximum(count_X, 1), kept_X / np.maximum(others_X, 1)
    nll_X = -(flagged_X + kept_X) / np.maximum(count_X + others_X, 1)
    return np.stack([kept_mean_X - flagged_mean_X, chance_X / np.maximum(count_X, 1), kept_mean_X, nll_X], axis=-1)


def score_detection(
    scores: Sequence[Floats],
    faults: Sequence[Bools | None],
    threshold: float,
    rivals: Mapping[str, Sequence[Floats]] = MappingProxyType({}),
) -> dict[str, Any]:
    """How many tokens score above the threshold, and where faults are known, how well scores tell their tokens.

    "auroc" is over all tokens, "auroc by row" the mean over rows, "auroc of ..." that of other scores by name.
    "flagged" shares are of tokens. `faults` are None where nobody knows. Rows are drawn anew for the intervals.
    """
    flagged = np.concatenate([row > threshold for row in scores])
    told: dict[str, Any] = {"rows": len(scores), "tokens": len(flagged), "flagged": float(flagged.mean())}
    places = [place for place, fault in enumerate(faults) if fault is not None]
    if not places:
        return told
    known: list[tuple[Any, Any]] = [(scores[place], faults[place]) for place in places]
    every, wrong = (np.concatenate(side) for side in zip(*known, strict=True))
    by_row_R = np.array([auroc(fault, score) for score, fault in known])
    draws = Draws(len(places), SEED, resamples=500)

    def area(score: Sequence[Floats]) -> dict[str, float]:
        rows = [(score[place], faults[place]) for place in places]
        drawn_R = np.array([_auroc_of([rows[at] for at in draw]) for draw in draws])
        return metrics.interval(_auroc_of(rows), drawn_R).as_dict()

    return told | {
        "rows with a known fault": len(places),
        "tokens of faults": int(wrong.sum()),
        "auroc": area(scores),
        "auroc by row": metrics.interval(by_row_R.mean(), metrics.resampled_mean(by_row_R, draws)).as_dict(),
        **{f"auroc of {name}": area(score) for name, score in rivals.items()},
        "flagged of faults": float((every[wrong] > threshold).mean()),
        "flagged of others": float((every[~wrong] > threshold).mean()),
    }


def _auroc_of(rows: Sequence[tuple[Any, Any]]) -> float:
    scores, faults = zip(*rows, strict=True)
    return auroc(np.concatenate(faults), np.concatenate(scores))


def locate_fault(tokenizer: Any, text: str, fault: Sequence[int], ids: Sequence[int]) -> Bools | None:
    """fault_T: the tokens `ids` of a text that hold characters from fault[0] to fault[1].

    None where no fault is known, or the ids are not those of the text by itself, with or without an end.
    """
    if not fault:
        return None
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    if list(ids[: len(encoded["input_ids"])]) != encoded["input_ids"]:
        return None
    held = [start < fault[1] and end > fault[0] for start, end in encoded["offset_mapping"]]
    return np.array([*held, *([False] * (len(ids) - len(held)))])


def cut_pieces(tokenizer: Any, ids: Sequence[int], flags: Sequence[bool]) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """(pieces, marks): the text of the tokens, cut where flags begin or end."""
    pieces, marks = [], []
    for mark, run in groupby(zip(ids, flags, strict=True), key=lambda pair: bool(pair[1])):
        pieces.append(tokenizer.decode([token for token, _ in run], clean_up_tokenization_spaces=False))
        marks.append(mark)
    return tuple(pieces), tuple(marks)
