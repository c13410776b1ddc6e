"""A chat model as judge of two answers: scores and letters behind headings, asked for again where they are missing.

A judgement is a `Judged` whose value is {score_1, score_2} or {pick}, of the answers as the row has them, whatever was
shown first; `camelid.verdicts` makes verdicts of it. A score that could not be read is -1, a pick "". `repairs` counts
the further turns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from camelid.dialogues import Messages, Said, ask_until
from camelid.engines import Engine, Sampling
from camelid.rows import Judged
from camelid.sampling import GREEDY
from camelid.verdicts import FAILED, FIRST, PICK, SCORES, SECOND, TIE, turn_verdict

AskAgain = Callable[[Sequence[str], str], str]  # the words for what is missing: headings, and the form behind them
NOT_ALONE = r"(?![\s*_]*(?:tie\b|draw\b|(?:and|or|&|/|,)[\s*_]*(?:assistant\s+|response\s+)?[abc]\b))"
LETTERS = {"a": FIRST, "b": SECOND, "c": TIE}


def find_score(text: str, heading: str, scale: int, *, strict: bool = False) -> float:
    """The first score "X/scale" right behind a heading (### ...), -1 where there is none; case does not matter.

    `strict` is the form of the Fellowship's authors (Arif 2024), which knows no decimals on the full score: 10.0/10 is
    no score then.
    """
    part = rf"{scale}|\d{{1,{max(len(str(scale)) - 1, 1)}}}(?:\.\d+)?" if strict else r"\d+(?:\.\d+)?"
    pattern = rf"#+\s*{re.escape(heading.lower())}\s*:?[\s*_]*({part})[\s*_]*(?:/|out of)\s*{scale}(?!\d)"
    scores = (float(found[1]) for found in re.finditer(pattern, text.lower()))
    return next((score for score in scores if score <= scale), FAILED)


def find_letter(text: str, heading: str) -> str:
    """The first letter A, B or C right behind a heading as the verdict on what was shown, "" where there is none.

    "A tie" is no letter, nor is "A and B" or "A/B".
    """
    pattern = rf"#+\s*{re.escape(heading.lower())}\s*:?[\s*_\[(]*(?:(?:assistant|response)\s+)?([abc])\b{NOT_ALONE}"
    found = re.search(pattern, text.lower())
    return LETTERS[found[1]] if found else ""


def score_pairs(
    engine: Engine,
    rows: Sequence[Any],
    prompts: Sequence[Messages],
    headings: tuple[str, str],
    scale: int,
    ask_again: AskAgain,
    *,
    swapped: bool = False,
    strict: bool = False,
    sampling: Sampling = GREEDY,
) -> list[Judged]:
    """Two scores from one conversation, behind the headings of what was shown first and second.

    What is missing is asked for in the same conversation, twice at most; `swapped` says that the row's second answer
    was shown first.
    """

    def read(text: str) -> list[float]:
        return [find_score(text, heading, scale, strict=strict) for heading in headings]

    def follow_up(text: str) -> str:
        missing = [heading for heading, score in zip(headings, read(text), strict=True) if score == FAILED]
        return ask_again(missing, f"X/{scale}") if missing else ""

    said = ask_until(engine, prompts, follow_up, most=2, sampling=sampling, what="")
    shown = SCORES[::-1] if swapped else SCORES
    return [_keep(row, one, dict(zip(shown, read(one.text), strict=True))) for row, one in zip(rows, said, strict=True)]


def score_each(
    engine: Engine,
    rows: Sequence[Any],
    prompts: Sequence[tuple[Messages, Messages]],
    heading: str,
    scale: int,
    ask_again: AskAgain,
    *,
    strict: bool = False,
    sampling: Sampling = GREEDY,
) -> list[Judged]:
    """A score of each answer from a conversation of its own, asked for again once."""

    def follow_up(text: str) -> str:
        return ask_again([heading], f"X/{scale}") if find_score(text, heading, scale, strict=strict) == FAILED else ""

    asked = [prompt for side in (0, 1) for prompt in (pair[side] for pair in prompts)]
    said = ask_until(engine, asked, follow_up, sampling=sampling, what="")
    judged = []
    for row, *both in zip(rows, said[: len(rows)], said[len(rows) :], strict=True):
        scores = [find_score(one.text, heading, scale, strict=strict) for one in both]
        problem = next((one.problem for one in both if one.problem), "")
        joined = Said("\n\n".join(one.text for one in both), sum(one.turns for one in both) - 1, problem)
        judged.append(_keep(row, joined, dict(zip(SCORES, scores, strict=True))))
    return judged


def pick_answers(
    engine: Engine,
    rows: Sequence[Any],
    prompts: Sequence[Messages],
    heading: str,
    ask_again: AskAgain,
    *,
    swapped: bool = False,
    sampling: Sampling = GREEDY,
) -> list[Judged]:
    """A letter from one conversation, asked for again once."""

    def follow_up(text: str) -> str:
        return "" if find_letter(text, heading) else ask_again([heading], "A, B or C")

    said = ask_until(engine, prompts, follow_up, sampling=sampling, what="")
    shown = [find_letter(one.text, heading) for one in said]
    picks = [turn_verdict(pick) if swapped and pick else pick for pick in shown]
    return [_keep(row, one, {PICK: pick}) for row, one, pick in zip(rows, said, picks, strict=True)]


def _keep(row: Any, said: Said, value: dict[str, Any]) -> Judged:
    repairs = said.turns - 1
    if said.problem:
        return Judged(row.id, row.origin, "failed", None, said.text or said.problem, repairs, problem=said.problem)
    return Judged(row.id, row.origin, "value", value, said.text, repairs)
