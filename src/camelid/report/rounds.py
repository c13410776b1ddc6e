"""Loops of response and feedback to be read: what was answered, what was said of it, and what was picked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from camelid.report.mistakes import cut_text
from camelid.report.numbers import NONE, show_number

SHOWN = 4


@dataclass(frozen=True)
class Round:
    """A response with its score, whether it was picked, and the feedbacks on it."""

    response: str
    score: str
    picked: bool
    feedbacks: list[str]


@dataclass(frozen=True)
class Loop:
    """A question and its rounds; `ended` says why there are no more."""

    id: str
    question: str
    rounds: list[Round]
    ended: str


def collect_loops(picked: Iterable[Mapping[str, Any]], prompts: Iterable[Mapping[str, Any]]) -> list[Loop]:
    """The first loops of a run, from what was picked and the questions."""
    chosen = list(islice(picked, SHOWN))
    wanted = {one["id"] for one in chosen}
    asked = {row["id"]: row for row in prompts if row.get("id") in wanted}
    return [_describe(one, asked.get(one["id"], {})) for one in chosen]


def _describe(one: Mapping[str, Any], row: Mapping[str, Any]) -> Loop:
    value, turns = one["value"], row.get("prompt") or [{"content": ""}]
    feedbacks = [*value["feedbacks"], *[[]] * len(value["responses"])]
    rounds = [
        Round(
            cut_text(str(text)),
            NONE if value["scores"][place] is None else show_number(value["scores"][place]),
            place == value["picked"],
            [cut_text(str(said)) for said in feedbacks[place] if said],
        )
        for place, text in enumerate(value["responses"])
    ]
    return Loop(str(one["origin"]), cut_text(str(turns[-1]["content"])), rounds, str(value["ended"]))
