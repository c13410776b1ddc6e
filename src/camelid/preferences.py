"""Training and measuring on pairs of answers: batches, a reference's log-probabilities, rewards, who wins."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from camelid import bases, models
from camelid.batches import EpochBatches, sorted_batches
from camelid.branches import AnswerBatch, Answered, collate_answers, collate_ends, encode_all
from camelid.errors import UserError
from camelid.evaluation import evaluate
from camelid.logprobs import answer_logprobs, token_logprobs
from camelid.metrics import spread_mean
from camelid.prediction import BATCH_TOKENS
from camelid.processes import count_processes
from camelid.progress import track
from camelid.reading import pad_id
from camelid.recipe import Model, Plan
from camelid.rows import Predicted, Preference
from camelid.runs import Run, slug, write_json
from camelid.training import Objective, autocast, train

Collate = Callable[..., AnswerBatch]
ORDER = ("first", "second")


def over_answers(rows: Sequence[Any], plan: Plan, pad_id: int, collate: Collate = collate_answers) -> EpochBatches:
    """Training batches of prompts with their answers, in length buckets; `collate_ends` for rewards.

    Rows are `Answered`, or what another `collate(rows, pad_id)` takes and has a `size` in tokens.
    """
    return EpochBatches(
        lengths=tuple(row.size for row in rows),
        collate=lambda indices: collate([rows[index] for index in indices], pad_id),
        epochs=plan.epochs,
        batch_rows=plan.batch_rows,
        accumulate=plan.accumulate * count_processes(),
        seed=plan.seed,
    )


def tune(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Preference],
    objective: Objective,
    plan: Plan,
    folder: Path,
    *,
    max_tokens: int | None = None,
    refers: bool = False,
) -> None:
    """Train a language model on pairs in `folder`; left_out.json there says how many were left out or cut, and why.

    `refers` measures the log-probabilities of the model before its first step, for losses that need a reference.
    Raises UserError when no pair is left.
    """
    told, left = encode_all(tokenizer, rows, max_tokens)
    if not told:
        reasons = ", ".join(f"{count} {why}" for why, count in left.items()) or "there are none"
        raise UserError(f"no pair can be trained on: {reasons}", "Give more pairs, or more tokens to each.")
    pad = pad_id(tokenizer)
    if refers:
        told = with_reference(told, measure_logprobs(model, told, pad, "reference"))
    write_json(folder / "left_out.json", left)
    train(model, over_answers(told, plan, pad), objective, plan, folder=folder)


def tune_policy(
    run: Run,
    stage: str,
    model: Model,
    rows: Sequence[Preference],
    objective: Objective,
    plan: Plan,
    *,
    start: Path | None = None,
    max_tokens: int | None = None,
    refers: bool = False,
) -> Path:
    """The folder of a language model tuned on pairs by `tune` as a stage of the run, from an adapter `start` if any."""
    base = cache(lambda: bases.open_base(model.base, model.revision))
    return run.model(
        stage,
        build=lambda: models.language_model(base(), {}, plan, start),
        fit=lambda model, folder: tune(
            model, base().tokenizer, rows, objective, plan, folder, max_tokens=max_tokens, refers=refers
        ),
    )


def measure_logprobs(model: Any, rows: Sequence[Answered], pad_id: int, what: str) -> list[list[float]]:
    """Summed log-probabilities in nats of each row's answers."""
    return _measure(model, rows, pad_id, collate_answers, answer_logprobs, what)


def measure_tokens(model: Any, rows: Sequence[Answered], pad_id: int, what: str) -> list[list[list[float]]]:
    """Log-probabilities in nats of each token of each row's answers, every answer read by itself."""

    def by_answer(model: Any, batch: AnswerBatch) -> Sequence[torch.Tensor]:
        return token_logprobs(model, batch).split(batch.size_S.tolist())

    return _measure(model, rows, pad_id, partial(collate_answers, shares_prompt=False), by_answer, what)


def measure_rewards(model: Any, rows: Sequence[Answered], pad_id: int, what: str = "rewards") -> list[list[float]]:
    """Rewards of each row's answers under a value model."""
    return _measure(model, rows, pad_id, collate_ends, lambda model, batch: model.reward(model(batch)), what)


def measure_states(model: Any, rows: Sequence[Answered], pad_id: int, what: str = "states") -> Any:
    """States at the ends of all rows' answers in their order, (answers, D): what a value model's head reads."""
    found = _measure(model, rows, pad_id, collate_ends, lambda model, batch: model.states(batch), what)
    return np.array([state_D for states in found for state_D in states], dtype=np.float32)


def measure_features(model: Any, rows: Sequence[Answered], pad_id: int, what: str = "features") -> Any:
    """The mean of a language model's last states from which each answer's tokens are told, (answers, D)."""

    def mean_states(model: Any, batch: AnswerBatch) -> torch.Tensor:
        hidden_ND = model.states(batch).float()
        sums_SD = hidden_ND.new_zeros(len(batch.size_S), hidden_ND.shape[1]).index_add(0, batch.answer_N, hidden_ND)
        return sums_SD / batch.size_S[:, None]

    found = _measure(model, rows, pad_id, collate_answers, mean_states, what)
    return np.array([state_D for states in found for state_D in states], dtype=np.float32)


def with_reference(rows: Sequence[Answered], logprobs: Sequence[Sequence[float]]) -> list[Answered]:
    """The rows with the log-probabilities of a reference as their answers' values."""
    return [
        replace(row, values=tuple((float(value),) for value in line)) for row, line in zip(rows, logprobs, strict=True)
    ]


def mismatch(rows: Sequence[Answered]) -> list[Answered]:
    """Each row's own first answer, and as its second that of the next row: what `objectives.kto` compares with."""
    following = [*rows[1:], *rows[:1]]
    return [
        replace(row, answers=(row.answers[0], other.answers[0])) for row, other in zip(rows, following, strict=True)
    ]


def prefer(row_id: str, values: Sequence[float], seed: int) -> Predicted:
    """Which of two answers, the better one given first, has the larger value: they are shown in a drawn order.

    Equal values go to the one that is shown first, so that ties are right half of the time.
    """
    turned = random.Random(f"{seed} order {row_id}").random() < 0.5
    return Predicted(row_id, ORDER[turned], ORDER[find_best(values[::-1] if turned else values)], {})


def accuracy_by(
    groups: Mapping[str, Sequence[int]], values: Mapping[str, Sequence[Sequence[float]]]
) -> dict[str, dict[str, Any]]:
    """How often each system prefers the better answer, which is given first, with its interval; ties count half.

    `groups` are places of pairs by name, to which their number is added; `values` are pairs of numbers by system.
    """
    found: dict[str, dict[str, Any]] = {}
    for group, places in groups.items():
        margin_SP = np.array([[pairs[at][0] - pairs[at][1] for at in places] for pairs in values.values()])
        right_SP = np.sign(margin_SP) / 2 + 0.5
        found[f"{group} ({len(places)} pairs)"] = {
            system: spread_mean(right_P) for system, right_P in zip(values, right_SP, strict=True)
        }
    return found


def by_margin(values: Sequence[Sequence[float]]) -> dict[str, list[int]]:
    """The places of the pairs in three parts of one size, by how far apart their two values are."""
    order = sorted(range(len(values)), key=lambda at: abs(values[at][0] - values[at][1]))
    names = ("small margin", "middle margin", "large margin")
    return {name: part.tolist() for name, part in zip(names, np.array_split(order, 3), strict=True) if len(part)}


def by_length(rows: Sequence[Preference]) -> dict[str, list[int]]:
    """The places of the pairs by whether the better answer has more characters than the other."""
    found: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        sign = np.sign(len(row.chosen) - len(row.rejected))
        name = {1: "better one longer", 0: "same length", -1: "better one shorter"}[int(sign)]
        found.setdefault(name, []).append(place)
    return dict(sorted(found.items()))


def break_down(
    run: Run, rows: Sequence[Preference], values: Mapping[str, Sequence[Sequence[float]]], ours: str
) -> None:
    """Scores of where rewards are right: "spread", those of better and other answers; "margin"; "longer", by length.

    `values` are by system of the (better, other) answer; ours are the rewards.
    """
    groups = dict(zip(("preferred", "other"), map(list, zip(*values[ours], strict=True)), strict=True))
    run.scores("spread", lambda: {"of": "reward", "units": "answers", "groups": groups})
    run.scores("margin", lambda: accuracy_by(by_margin(values[ours]), values))
    run.scores("longer", lambda: accuracy_by(by_length(rows), values))


def predict_pairs(
    run: Run, ids: Sequence[str], values: Mapping[str, Sequence[Sequence[float]]], seed: int
) -> dict[str, list[Predicted]]:
    """What each system prefers, as a stage; `values` are by system of the (better, other) answer; see `prefer`."""
    return {
        name: run.rows(
            f"predictions/{slug(name)}",
            lambda found=found: [prefer(*pair, seed) for pair in zip(ids, found, strict=True)],
        )
        for name, found in values.items()
    }


def compare_preferences(
    systems: Mapping[str, Sequence[Predicted]], ours: str, trained: Collection[str]
) -> dict[str, Any]:
    """An entry of scores.json: how often each system prefers the better answer; see `evaluate`."""
    return {"split": "test", **evaluate(systems, ORDER, ours, "labels", trained=trained)}


def find_best(values: Sequence[float]) -> int:
    """The place of the largest value, of equal ones the first."""
    return max(range(len(values)), key=values.__getitem__)


def build_pair(
    texts: Sequence[str], rewards: Sequence[float], draw: random.Random, *, margin: float = 0.0, worst: bool = False
) -> tuple[int, int] | tuple[str, None]:
    """(chosen, rejected) as places, or (reason, None): argmax, and a drawn one of the other texts, or the `worst`.

    Equal texts count once, and `margin` is the least difference of reward.
    """
    if max(rewards) == min(rewards):
        return "all rewards are equal", None
    best = find_best(rewards)
    first = {text: place for place, text in reversed(list(enumerate(texts)))}
    others = sorted(place for text, place in first.items() if text != texts[best])
    others = [place for place in others if rewards[best] - rewards[place] >= margin]
    if not others:
        return "no other text is so much worse", None
    return best, min(others, key=rewards.__getitem__) if worst else draw.choice(others)


def _measure(
    model: Any,
    rows: Sequence[Answered],
    pad_id: int,
    collate: Collate,
    measure: Callable[[Any, AnswerBatch], torch.Tensor | Sequence[torch.Tensor]],
    what: str,
) -> list[list[Any]]:
    """What `measure` finds of every answer, a tensor each, in batches of similar length.

    In the precision the model is trained in.
    """
    found: list[Any] = [None] * len(rows)
    training = model.training
    model.eval()
    precision, device = model.origin["precision"], next(model.parameters()).device
    with torch.no_grad(), autocast(model, precision), track(what, len(rows)) as advance:
        for indices in sorted_batches([row.size for row in rows], BATCH_TOKENS):
            batch = collate([rows[index] for index in indices], pad_id).to(device)
            values = (value.float().cpu().tolist() for value in measure(model, batch))
            for index in indices:
                found[index] = [next(values) for _ in rows[index].answers]
            advance(len(indices))
    model.train(training)
    return found
