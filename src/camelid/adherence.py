"""Whether choices between two answers follow a principle that is read as text, and turn when it is turned round.

Every pair is decided under a principle and under its negation, where the other answer is the better one. Whoever does
not read the principle is right in exactly one of the two, and turns in none.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import Any

import numpy as np

from camelid import metrics
from camelid.annotation import draw_order
from camelid.errors import UserError
from camelid.evaluation import Scored, Scorer, evaluate
from camelid.preferences import ORDER, break_down, find_best
from camelid.principle import MEASURES, NOT, Principle, state, turn_round
from camelid.rows import Guided, Message, Pair, Predicted
from camelid.runs import Run, slug

Grades = Mapping[str, float]  # by the name of a principle: above 0 where a pair's first answer is better
Chooser = Callable[[Guided], Sequence[float]]  # what the better and the other answer have of what it counts
OURS, BLIND, OTHER, LONGER = "reward model", "without principles", "another principle", "longer answer"
COLUMNS = ("accuracy", "plain_accuracy", "negated_accuracy", "flip_rate")


def measure_adherence(
    run: Run,
    principles: Mapping[str, Principle],
    rows: Sequence[Pair],
    grades: Sequence[Grades | None],
    reward: Callable[[Sequence[tuple[str, str]], Sequence[Sequence[str]]], Any],
    seed: int,
    further: Mapping[str, Callable[[], Chooser]],
) -> None:
    """Decisions on pairs under each principle and its negation, by rewards and by what cannot read or follow them.

    `reward` gives rewards_NG of N (question, answer) under each of G guides. `further` systems are opened when they are
    needed. The scores are "held_out", "by_principle", "steering" and those of `break_down`. Raises UserError where no
    principle tells two answers apart.
    """
    held = run.rows("held-out/decisions", lambda: hold_out(rows, grades, principles))
    if not held:
        raise UserError("no principle tells two held-out answers apart", "Give more pairs to score.")
    answers = list(dict.fromkeys((row.instruction, text) for row in rows for text in (row.first, row.second)))
    forms = ["", *(form for name in principles for form in (name, turn_round(name)))]
    guides = [state(principles, [form] if form else []) for form in forms]
    made = run.arrays("rewards/test", lambda: {"r": reward(answers, guides)})
    by_form = {form: made["r"][:, place].tolist() for place, form in enumerate(forms)}
    places = {answer: place for place, answer in enumerate(answers)}

    def follow(row: Guided, form: str) -> list[float]:
        return [by_form[form][places[question_of(row), text]] for text in (row.chosen, row.rejected)]

    choosers: dict[str, Chooser] = {
        OURS: lambda row: follow(row, row.decided),
        BLIND: lambda row: follow(row, ""),
        LONGER: lambda row: [len(row.chosen), len(row.rejected)],
    }
    if len(principles) > 1:
        choosers[OTHER] = lambda row: follow(row, draw_other(seed, row, [*principles]))
    choosers |= {name: opened() for name, opened in further.items()}
    systems = {
        name: run.rows(
            f"predictions/{slug(name)}", lambda chooser=chooser: [choose_answer(row, chooser(row)) for row in held]
        )
        for name, chooser in choosers.items()
    }
    scorer, trained = score_by([question_of(row) for row in held[::2]]), {OURS, BLIND, OTHER}
    compared = cache(lambda: evaluate(systems, ORDER, OURS, "principles", trained=trained, scorer=scorer))
    run.scores("held_out", lambda: {"split": "held-out/decisions", **compared()})
    shown = {name: [choosers[name](row) for row in held] for name in (OURS, BLIND, LONGER)}
    break_down(run, held, shown, OURS)
    run.scores("by_principle", lambda: tabulate_principles(held, systems[OURS]))
    run.scores("steering", lambda: compare_picks(principles, answers, by_form.__getitem__))


def draw_other(seed: int, row: Guided, names: Sequence[str]) -> str:
    """Another principle than the row's, turned round where that is: it follows from the text, and not from "not"."""
    own = row.decided.removeprefix(NOT)
    pair = row.id.removesuffix(row.decided)
    other = random.Random(f"{seed} other {pair} {own}").choice([name for name in names if name != own])
    return other if row.decided == own else turn_round(other)


def choose_by_grades(rows: Sequence[Pair], grades: Sequence[Grades]) -> Chooser:
    """What chooses by somebody's grades of each pair, turned round under a negation."""
    texts, grades_by_id = {row.id: row.first for row in rows}, dict(zip((row.id for row in rows), grades, strict=True))

    def choose(row: Guided) -> list[float]:
        pair, own = row.id.removesuffix(f" {row.decided}"), row.decided.removeprefix(NOT)
        lead = grades_by_id[pair][own] if row.decided == own else -grades_by_id[pair][own]
        return [lead, -lead] if row.chosen == texts[pair] else [-lead, lead]

    return choose


def hold_out(
    rows: Sequence[Pair], grades: Sequence[Grades | None], principles: Mapping[str, Principle]
) -> list[Guided]:
    """Each pair under each principle that tells its answers apart, and in the next row under its negation.

    The better answer is the chosen one; `decided` is the principle as it stands in the guide, such as "not concise".
    """
    found = []
    for row, known in zip(rows, grades, strict=True):
        for name in [name for name in principles if known and known[name] != 0]:
            better = (row.first, row.second) if known and known[name] > 0 else (row.second, row.first)
            for form, (chosen, other) in ((name, better), (NOT + name, (better[1], better[0]))):
                prompt, guide = (Message("user", row.instruction),), state(principles, [form])
                row_id = f"{row.id} {form}"
                found.append(Guided(row_id, row.origin, prompt, chosen, other, guide=guide, decided=form))
    return found


def choose_answer(row: Guided, values: Sequence[float]) -> Predicted:
    """Which of chosen and rejected answer has the larger of two `values`.

    They are shown in an order that the texts decide, and equal values go to the one shown first: under a principle and
    its negation that is the same answer, so that a tie is no sign of having read anything.
    """
    turned = draw_order(row.chosen, row.rejected, question_of(row))
    shown = values[::-1] if turned else values
    return Predicted(row.id, ORDER[turned], ORDER[find_best(shown)], {})


def question_of(row: Guided) -> str:
    """The last question of a row."""
    return row.prompt[-1].content


def count_right(predictions: Sequence[Predicted]) -> Any:
    """counts_D5 of each two rows: right, right when plain, right when negated, turned with the principle, all.

    The better answer changes with the principle, so a choice turned where both are right or both are wrong.
    """
    right_D2 = np.array([row.gold == row.predicted for row in predictions]).reshape(-1, 2)
    turned_D = right_D2[:, 0] == right_D2[:, 1]
    return np.stack([right_D2.mean(axis=1), *right_D2.T, turned_D, np.ones(len(right_D2))], axis=1)


def score_by(questions: Sequence[str]) -> Scorer:
    """A scorer whose intervals draw questions anew: the pairs of one share their answers.

    `questions` are those of every second row. Gives COLUMNS, of which accuracy is the share of all rows and flip_rate
    how often a choice turned.
    """
    order = {question: place for place, question in enumerate(dict.fromkeys(questions))}
    group_D = np.array([order[question] for question in questions])

    def score_rows(predictions: Sequence[Predicted], classes: Sequence[str], draws: metrics.Draws) -> Scored:
        counts_D5 = count_right(predictions)
        counts_Q5 = np.stack([counts_D5[group_D == place].sum(axis=0) for place in range(len(order))])
        drawn = metrics.Draws(len(order), draws.seed, draws.resamples)
        sampled_R4, shares_4 = metrics.bootstrap_sum(counts_Q5, drawn, _shares), _shares(counts_Q5.sum(axis=0))
        scores = {name: _json(shares_4[at], sampled_R4[:, at]) for at, name in enumerate(COLUMNS)}
        return Scored(scores, sampled_R4[:, 0], None)

    return score_rows


def tabulate_principles(rows: Sequence[Guided], predictions: Sequence[Predicted]) -> dict[str, Any]:
    """The scores of each principle alone, and how many pairs it has."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place in range(0, len(rows), 2):
        places[rows[place].decided].append(place)
    table = {}
    for name, found in places.items():
        both = [predictions[place + negated] for place in found for negated in (0, 1)]
        score = score_by([question_of(rows[place]) for place in found])
        table[name] = {"pairs": len(found), **score(both, ORDER, metrics.Draws(len(both), metrics.SEED)).scores}
    return table


def compare_picks(
    principles: Mapping[str, Principle],
    answers: Sequence[tuple[str, str]],
    reward_of: Callable[[str], Sequence[float]],
) -> dict[str, Any]:
    """The best of the answers to each question under each principle, and under its negation.

    `answers` are (question, answer), and `reward_of("not concise")` is the reward of each. Says how often the pick
    changes and, where the principle is measured, what the picks have of it beside all answers.
    """
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for place, (question, _) in enumerate(answers):
        groups[question].append(place)
    table: dict[str, Any] = {"questions": len(groups), "answers to a question": len(answers) / len(groups)}
    for name, one in principles.items():
        plain, turned = ([_pick(group, reward_of(form)) for group in groups.values()] for form in _both(name))
        table[name] = {"picks that change": fmean(first != second for first, second in zip(plain, turned, strict=True))}
        if one.rule:
            value_N = np.array([MEASURES[one.rule](*answer) for answer in answers])
            table[name] |= _compare_measure(one.rule, value_N, plain, turned, list(groups.values()))
    return table


def _compare_measure(
    rule: str, value_N: Any, plain: list[int], turned: list[int], groups: Sequence[list[int]]
) -> dict[str, Any]:
    gap_Q = value_N[plain] - value_N[turned]
    return {
        f"{rule} of the picks": float(value_N[plain].mean()),
        f"{rule} of all answers": fmean(value_N[group].mean() for group in groups),
        f"{rule} of the picks, turned round": float(value_N[turned].mean()),
        "difference": metrics.spread_mean(gap_Q),
    }


def _pick(group: Sequence[int], rewards: Sequence[float]) -> int:
    return group[find_best([rewards[place] for place in group])]


def _both(name: str) -> tuple[str, str]:
    return name, turn_round(name)


def _shares(sums_X5: Any) -> Any:
    return sums_X5[..., :4] / sums_X5[..., 4:]


def _json(value: float, samples: Any) -> dict[str, float]:
    return metrics.interval(value, samples).as_dict()
