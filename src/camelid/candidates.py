"""Several answers of a policy to each question: drawn, paired by their rewards, compared with another policy's."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from camelid.chat import converse
from camelid.engines import Completion, Engine, Sampling
from camelid.errors import UserError
from camelid.metrics import spread_mean
from camelid.preferences import build_pair, find_best
from camelid.rows import Judged, Pair, Preference
from camelid.runs import Run
from camelid.sampling import sample

Writer = Callable[[Sequence[Preference]], list[Judged]]  # `draw_candidates` of a policy


def draw_candidates(
    policy: Engine,
    rows: Sequence[Any],
    sampling: Sampling,
    count: int,
    seed: int,
    is_readable: Callable[[str], bool] = lambda text: True,
    *,
    keeps_cut: bool = False,
) -> list[Judged]:
    """`count` answers of the policy to each row's prompt; the value's "texts" are those that may be chosen among.

    A row has an id, an origin and a prompt. Left out and counted in "left out" are answers that failed, were cut off at
    the limit, are empty, or are not `is_readable`. With `keeps_cut` those cut off stay, and "cut" counts them. A row is
    "failed" where every request was, and "malformed" where no answer is left.
    """
    replies = sample(policy, [row.prompt for row in rows], sampling, samples=count, seed=seed, what="")
    return [_keep(row, found, is_readable, keeps_cut) for row, found in zip(rows, replies, strict=True)]


def texts_of(drawn: Sequence[Judged]) -> dict[str, list[str]]:
    """The candidates by the row's id, of rows that have any."""
    return {one.id: one.value["texts"] for one in drawn if one.value}


def pair_up(
    row: Preference,
    texts: Sequence[str],
    rewards: Sequence[float],
    draw: random.Random,
    *,
    margin: float = 0.0,
    worst: bool = False,
) -> Preference | str:
    """The row with the best text as the chosen answer and another one, or in words why there is no pair.

    See `preferences.build_pair`.
    """
    best, other = build_pair(texts, rewards, draw, margin=margin, worst=worst)
    if other is None:
        return str(best)
    return replace(row, chosen=texts[int(best)], rejected=texts[other])


def count_pairs(drawn: Sequence[Judged], tried: Sequence[Preference | str]) -> dict[str, Any]:
    """What came of questions: how many have a pair, why the others have none, and which answers were left out.

    `tried` are the pairs of the questions that have several texts.
    """
    left = Counter(one.reply for one in drawn if not one.value)
    left.update(one for one in tried if isinstance(one, str))
    left["fewer than two different answers"] += len(texts_of(drawn)) - len(tried)
    return {
        "questions": len(drawn),
        "pairs": sum(isinstance(one, Preference) for one in tried),
        "left out": dict(+left),
        "answers that were no candidates": dict(
            sum((Counter(one.value["left out"]) for one in drawn if one.value), Counter())
        ),
    }


def pose(row: Pair) -> Preference:
    """The question of a pair, without its answers."""
    return Preference(row.id, row.origin, converse(row.instruction), "", "")


def keep_best(
    run: Run,
    questions: Sequence[Pair],
    draw: Callable[[Sequence[Pair]], list[Judged]],
    reward: Callable[[Sequence[tuple[str, str]]], Any],
) -> dict[str, Any]:
    """Best of n: the answer with the largest reward to each question, and a preference of it over the worst one.

    `draw` gives the answers to some questions, `reward` the rewards of (question, answer). They are the stages
    best/candidates, rewards/best, best/answers and best/pairs; what comes back says how many there are. Raises
    UserError where no question has an answer.
    """
    drawn = run.map_rows("best/candidates", questions, draw)
    texts = {one.id: list(dict.fromkeys(one.value)) for one in drawn if one.value}
    known = [row for row in questions if row.id in texts]
    if not known:
        raise UserError("no question has an answer to choose from", f"The first has none: {drawn[0].reply}.")
    asked = [(row.instruction, text) for row in known for text in texts[row.id]]
    made = run.arrays("rewards/best", lambda: {"r": reward(asked).reshape(-1)})
    values = iter(made["r"].tolist())
    found = [(row, texts[row.id], [next(values) for _ in texts[row.id]]) for row in known]
    run.rows("best/answers", lambda: [pick_best(*one) for one in found])
    tried = [pair_up(pose(row), said, rewards, random.Random(0), worst=True) for row, said, rewards in found]
    pairs = run.rows("best/pairs", lambda: [one for one in tried if isinstance(one, Preference)])
    return {
        "questions": len(questions),
        "answered": len(known),
        "pairs": len(pairs),
        "without answers": dict(Counter(one.reply for one in drawn if not one.value)),
    }


def pick_best(row: Pair, texts: Sequence[str], values: Sequence[float]) -> Judged:
    """The answer with the largest reward, with the rewards of all."""
    best = find_best(values)
    value = {"answer": texts[best], "reward": values[best], "answers": list(texts), "rewards": list(values)}
    return Judged(row.id, row.origin, "value", value, texts[best])


def compare_answers(
    texts: Mapping[str, Sequence[str]], rewards: Mapping[str, Sequence[float | None]]
) -> dict[str, Any]:
    """Mean reward of answers to the same questions "before" and "after" with intervals, their paired difference, and
    mean characters; of questions whose answers both have a reward.
    """
    good = [place for place, found in enumerate(zip(*rewards.values(), strict=True)) if None not in found]
    if not good:
        return {"questions": 0}
    values = {when: np.array([each[place] for place in good], dtype=float) for when, each in rewards.items()}
    values["after minus before"] = values["after"] - values["before"]
    lengths = {when: np.mean([len(each[place]) for place in good]) for when, each in texts.items()}
    return {
        "questions": len(good),
        **{f"reward {when}": spread_mean(values_N) for when, values_N in values.items()},
        **{f"characters {when}": round(float(length), 1) for when, length in lengths.items()},
    }


def fault_of(reply: Completion, is_readable: Callable[[str], bool]) -> str:
    """Why an answer is no candidate; empty where it is one."""
    if reply.stop == "failed":
        return reply.problem
    if reply.stop == "length":
        return "cut off at max_new_tokens"
    if not reply.text.strip():
        return "empty"
    return "" if is_readable(reply.text) else "not decoded alike by strong and weak"


def _keep(row: Any, replies: Sequence[Completion], is_readable: Callable[[str], bool], keeps_cut: bool) -> Judged:
    is_cut = [keeps_cut and reply.stop == "length" for reply in replies]
    faults = [
        fault_of(replace(reply, stop="end") if cut else reply, is_readable)
        for reply, cut in zip(replies, is_cut, strict=True)
    ]
    texts = [reply.text for reply, fault in zip(replies, faults, strict=True) if not fault]
    problems = [reply.problem for reply in replies if reply.problem]
    if texts:
        value: dict[str, Any] = {"texts": texts, "left out": dict(Counter(filter(None, faults)))}
        if keeps_cut:
            value["cut"] = sum(cut and not fault for cut, fault in zip(is_cut, faults, strict=True))
        return Judged(row.id, row.origin, "value", value, "")
    if len(problems) == len(replies):  # nothing is known of the question yet
        return Judged(row.id, row.origin, "failed", None, problems[0], problem=problems[0])
    return Judged(row.id, row.origin, "malformed", None, f"no answer left: {faults[0]}")
