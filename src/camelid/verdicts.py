"""Which of two answers is better: verdicts from scores and letters, juries, both orders, files of judgements.

A verdict is "first", "second" or "tie", always of the answers as the row has them, whatever was shown first. A file of
judgements (.json list or .jsonl) has a row for each pair, in their order (columns `index`, `idx` and `id` that number
the rows otherwise make it refused), with `response` and either `score_1` and
`score_2`, -1 where none could be read, or `pick`; `turns_to_answer` is read where it is there, other columns not.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from camelid.agreement import majority_vote
from camelid.data.columns import ORDERS, Problem, Problems, find_disorder, verdict_in
from camelid.data.formats import kind_of, read_records
from camelid.errors import UserError, raise_all
from camelid.metrics import spread_mean
from camelid.rows import Judged

OnFailure = Literal["tie", "drop", "as_is"]
Ties = Literal["tie", "intended"]
Verdicts = Sequence[str | None]

FIRST, TIE, SECOND = CLASSES = ("first", "tie", "second")  # in order: a tie lies between
TURNED = {FIRST: SECOND, SECOND: FIRST, TIE: TIE}
FAILED = -1.0  # the score that could not be read
SCORES = ("score_1", "score_2")
PICK, TURNS = "pick", "turns_to_answer"
PREFIX = "judge-"
WANTED = "response, score_1, score_2 and turns_to_answer; or response, pick and turns_to_answer"


# From what a judge said to its verdict


def compare_scores(first: float, second: float) -> str:
    """The verdict of two scores: the larger one wins, equal ones tie."""
    return TIE if first == second else FIRST if first > second else SECOND


def is_read(value: Mapping[str, Any]) -> bool:
    """Whether a judgement has all that was asked for: a pick, or two scores."""
    return bool(value[PICK]) if PICK in value else FAILED not in (value[SCORES[0]], value[SCORES[1]])


def decide(judged: Judged, on_failure: OnFailure = "as_is") -> str | None:
    """The verdict of a judgement whose value is {score_1, score_2} or {pick}; None where there is none.

    Where a score or pick could not be read, `on_failure` makes it a tie, drops it, or takes the value as it is: the
    score -1 loses against any that was read, two of them tie, and a missing pick is a tie. A request that failed never
    has a verdict.
    """
    if judged.outcome != "value":
        return None
    if not is_read(judged.value) and on_failure != "as_is":
        return TIE if on_failure == "tie" else None
    if PICK in judged.value:
        return judged.value[PICK] or TIE
    return compare_scores(*(judged.value[name] for name in SCORES))


def turn_verdict(verdict: str | None) -> str | None:
    """The verdict on the same answers the other way round."""
    return None if verdict is None else TURNED[verdict]


def agree_or_tie(straight: str | None, swapped: str | None) -> str | None:
    """One verdict of two orders, both on the answers as the row has them: what they agree on, else a tie."""
    if straight is None or swapped is None:
        return None
    return straight if straight == swapped else TIE


def measure_orders(straight: Verdicts, swapped: Verdicts) -> dict[str, Any]:
    """How a judge's verdicts turn with the order: {pairs, inconsistent, shown_first, shown_second}, shares with
    intervals; None where there is no pair to compare.

    Both are of the answers as the rows have them. `inconsistent` is the share of pairs with two different verdicts;
    `shown_first` and `shown_second` are how often the answer at that place won, over both orders.
    """
    known = [pair for pair in zip(straight, swapped, strict=True) if None not in pair]
    if not known:
        return {"pairs": 0, "inconsistent": None, "shown_first": None, "shown_second": None}
    found_2N = {
        "inconsistent": np.array([one != other for one, other in known], float),
        "shown_first": np.array([((one == FIRST) + (other == SECOND)) / 2 for one, other in known]),
        "shown_second": np.array([((one == SECOND) + (other == FIRST)) / 2 for one, other in known]),
    }
    return {"pairs": len(known), **{name: spread_mean(values_N) for name, values_N in found_2N.items()}}


def prefer_longer(first: Sequence[str], second: Sequence[str]) -> str:
    """The baseline that knows nothing: the answer with more characters, over all turns, wins."""
    return compare_scores(sum(map(len, first)), sum(map(len, second)))


# Several judges, and people


def vote_jury(verdicts: Sequence[str], ties: Ties = "tie") -> str:
    """The verdict with the most votes. Where several have as many, "tie" makes it a tie.

    "intended" lets a tie that is level with one side give way to it; both sides level, or all three, are a tie.
    """
    found = majority_vote(verdicts)
    if found.value is not None or ties == "tie":
        return found.value or TIE
    most = max(found.shares.values())
    level = {verdict for verdict, share in found.shares.items() if share == most}
    sides = level - {TIE}
    return sides.pop() if TIE in level and len(sides) == 1 else TIE


def list_juries(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Every non-empty subset of the judges, small ones first: 2^n - 1 of them."""
    return [jury for size in range(1, len(names) + 1) for jury in combinations(names, size)]


def settle_verdicts(verdicts: Mapping[str, str]) -> str | None:
    """What most annotators said; None where no verdict has more votes than each other one."""
    return majority_vote(list(verdicts.values())).value


def count_wins(verdicts: Sequence[str]) -> dict[str, Any]:
    """How often the first answers won: {pairs, wins, ties, losses, win_rate}.

    The win rate is wins / pairs with its interval: ties count as not won. Leaving ties out of the denominator is
    another measure, and a larger number. ValueError without a verdict.
    """
    if not verdicts:
        raise ValueError("a win rate needs a verdict")
    won_N = np.array([verdict == FIRST for verdict in verdicts], float)
    counts = {
        name: sum(verdict == each for verdict in verdicts) for name, each in zip(("wins", "ties", "losses"), CLASSES)
    }
    return {"pairs": len(verdicts), **counts, "win_rate": spread_mean(won_N)}


def correlate_errors(gold: Sequence[str], verdicts: Mapping[str, Sequence[str]]) -> dict[str, float | None]:
    """Pearson's correlation of being wrong, by "judge and judge"; None where one is always or never wrong.

    A jury gains from judges whose errors differ, not from their number.
    """
    wrong = {
        name: np.array([one != real for one, real in zip(each, gold, strict=True)], float)
        for name, each in verdicts.items()
    }
    found = {}
    for one, other in combinations(wrong, 2):
        varies = np.ptp(wrong[one]) and np.ptp(wrong[other])
        found[f"{one} and {other}"] = float(np.corrcoef(wrong[one], wrong[other])[0, 1]) if varies else None
    return found


# Files of judgements


def find_judges(source: str | Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """Files of judgements by the judge's name, which is the file's, and the names of files that are none.

    `source` is a folder, also one of CAMELID_DATA, a file, or a list of files. Of a folder those that are called
    judge-* are taken, or all .json and .jsonl where none is; files without any column of a judgement are left out.
    Raises UserError where there is none, or two have one name.
    """
    named = [source] if isinstance(source, str) else list(source)
    places = [_locate(each) for each in named]
    inside = [path for place in places if place.is_dir() for path in _list_files(place)]
    files = [place for place in places if not place.is_dir()]
    kept = [path for path in inside if _is_judge_file(path)]
    if not files and not kept:
        what = f"{', '.join(named)} holds no file of judgements (.json, .jsonl)"
        raise UserError(what, f"A row for each pair, in their order, with {WANTED}.")
    found: dict[str, Path] = {}
    for path in [*files, *kept]:
        name = path.stem.removeprefix(PREFIX)
        if name in found:
            raise UserError(f"{path} and {found[name]} are both of the judge {name}", "Rename one of the files.")
        found[name] = path
    return found, [path.name for path in inside if path not in kept]


def read_judge(path: Path, rows: Sequence[Any]) -> list[Judged]:
    """The judgements of one file beside the rows they are of, which go by place.

    Raises UserError with every problem: columns, values, another number of rows than there are pairs, and rows that a
    column numbers in another order (`find_disorder`).
    """
    problems, found, columns, marks = Problems(str(path)), [], {}, []
    for number, (origin, values) in enumerate(read_records(path)):
        columns |= dict.fromkeys(values)
        marks.append({name: values.get(name) for name in ORDERS})
        value = _value_in(values)
        row_id = rows[number].id if number < len(rows) else str(number)
        if isinstance(value, Problem):
            problems.add(value, origin)
        else:
            reply = values.get("response")
            repairs = values.get(TURNS)
            said = int(repairs) - 1 if isinstance(repairs, int | float) and math.isfinite(repairs) else 0
            found.append(Judged(row_id, origin, "value", value, reply if isinstance(reply, str) else "", max(said, 0)))
    if PICK not in columns and not set(SCORES) <= set(columns):
        what = f"{path} has the columns {', '.join(map(str, columns))}"
        raise UserError(what, f"A file of judgements has {WANTED}.")
    raise_all(problems.errors())
    if len(found) != len(rows):
        what = f"{path} has {len(found):,} judgements, and there are {len(rows):,} pairs"
        raise UserError(what, "Judgements go by the place of the row: give one for each pair, in their order.")
    if column := find_disorder(marks):
        what = f"{path}: the rows are not in the order of their {column}"
        raise UserError(
            what, "Judgements go by place: sort them, or leave that column out where they stand as the pairs do."
        )
    return found


def _locate(source: str) -> Path:
    place, root = Path(source), os.environ.get("CAMELID_DATA")
    if not place.exists() and root and (Path(root) / source).exists():
        return Path(root) / source
    if not place.exists():
        raise UserError(f"there is no file or folder {source} of judgements", "Check the path.")
    return place


def _list_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".jsonl") and path.is_file())
    return [path for path in files if path.name.startswith(PREFIX)] or files


def _is_judge_file(path: Path) -> bool:
    _, first = next(read_records(path), ("", {}))
    return bool({PICK, *SCORES} & set(first))


def _value_in(values: Mapping[str, Any]) -> dict[str, Any] | Problem:
    """{score_1, score_2} or {pick} of a row, or what is wrong with it."""
    if PICK in values and not set(SCORES) & set(values):
        if values[PICK] in (None, "", -1):
            return {PICK: ""}
        found = verdict_in(values, PICK)
        return found if isinstance(found, Problem) else {PICK: found}
    scores = {}
    for name in SCORES:
        score = values.get(name)
        if not isinstance(score, int | float) or isinstance(score, bool):
            fix = "Write scores as numbers, such as 8.5, and -1 where none could be read."
            return Problem(f"{name} is {kind_of(score)}, not a number", fix)
        if not math.isfinite(score):
            return Problem(f"{name} is not finite", "Write -1 where no score could be read.")
        if score < 0 and score != FAILED:
            return Problem(f"{name} is below 0", "Write -1 where no score could be read.", detail=f"{score:g}")
        scores[name] = float(score)
    return scores
