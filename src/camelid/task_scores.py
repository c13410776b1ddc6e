"""Scores over many label tasks: means over tasks, with intervals, and what stands behind them task by task.

A task's rows may have been balanced: `kept` is the share that was kept of its majority class. Rows are resampled within
each task, for all systems alike, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from camelid import metrics
from camelid.baselines import Baseline
from camelid.evaluation import Scored, Scorer
from camelid.metrics import SEED, Draws, interval
from camelid.rows import Asked, Labelled, Predicted
from camelid.task import Task, by_task

LEVEL = 0.9  # of the intervals by task, as in the paper


@dataclass(frozen=True)
class Scorable:
    """A task as it is scored: places of its rows, codes in order (none for numbers), and which of the rows have the
    majority class as their only right answer, of which the share `kept` was kept."""

    places: tuple[int, ...]
    codes: tuple[str, ...]
    is_majority: tuple[bool, ...]
    kept: float = 1.0


def tell_scorable(
    tasks: Mapping[str, Task], rows: Sequence[Asked], kept: Mapping[str, float], majority: Mapping[str, str]
) -> dict[str, Scorable]:
    """The tasks that rows are about, with the share kept of the majority class of each."""
    places = {row.id: place for place, row in enumerate(rows)}
    return {
        name: Scorable(
            tuple(places[row.id] for row in own),
            tuple(tasks[name].choices),
            tuple(row.answers == (majority[name],) for row in own),
            kept[name],
        )
        for name, own in by_task(rows).items()
    }


def match_gold(row: Asked, predicted: str, shares: dict[str, float]) -> Predicted:
    """A prediction beside the gold answer: the predicted one where that is among the right ones, else the first."""
    gold = (predicted if predicted in row.answers else row.answers[0]) if row.answers else None
    return Predicted(row.id, gold, predicted, shares)


def predict_by_task(predict: Baseline, known: Sequence[Asked], rows: Sequence[Asked]) -> list[Predicted]:
    """A system that knows one task only, trained and asked task by task; in the order of the rows.

    Of several right answers it learns the first. Of a task with a single label it repeats that.
    """
    taught, asked = by_task(known), {row.id: row for row in rows}
    found = {
        one.id: match_gold(asked[one.id], str(one.predicted), one.probabilities)
        for name, own in by_task(rows).items()
        for one in _predict_or_repeat(predict, _labelled(taught[name]), _labelled(own))
    }
    return [found[row.id] for row in rows]


def _predict_or_repeat(predict: Baseline, known: Sequence[Labelled], rows: Sequence[Labelled]) -> list[Predicted]:
    labels = {str(row.label) for row in known}
    if len(labels) > 1:
        return predict(known, rows)
    only = next(iter(labels))
    return [Predicted(row.id, row.label, only, {only: 1.0}) for row in rows]


def _labelled(rows: Sequence[Asked]) -> list[Labelled]:
    return [Labelled(row.id, row.origin, row.text, row.answers[0]) for row in rows]


def mean_task_accuracy(rows: Sequence[Asked], predictions: Sequence[Predicted]) -> float:
    """Unweighted mean over tasks of the share of rows with one of their right answers."""
    right: dict[str, list[bool]] = {}
    for row, one in zip(rows, predictions, strict=True):
        right.setdefault(row.task, []).append(one.predicted in row.answers)
    return fmean(map(fmean, right.values()))


def task_scorer(tasks: Mapping[str, Scorable]) -> Scorer:
    """What `evaluate` scores systems with: mean task accuracy first, then over all rows, adjusted, and macro-F1.

    mean_task_accuracy is the mean over tasks, whatever their size; mean_case_accuracy that over rows;
    adjusted_accuracy is the mean over tasks of the accuracy on rows as they come; macro_f1 the mean over tasks with
    choices of the mean F1 of their classes. A row is right when gold and predicted are equal.
    """

    def score(predictions: Sequence[Predicted], classes: Sequence[str], draws: Draws) -> Scored:
        parts = [
            _score_task(predictions, task, SEED + number, draws.resamples) for number, task in enumerate(tasks.values())
        ]
        sizes = [len(task.places) for task in tasks.values()]
        accuracies = [part["accuracy"] for part in parts]
        macro = [part["macro_f1"] for part in parts if "macro_f1" in part]
        means = {
            "mean_task_accuracy": np.mean(accuracies, axis=0),
            "mean_case_accuracy": np.average(accuracies, axis=0, weights=sizes),
            "adjusted_accuracy": np.mean([part["adjusted"] for part in parts], axis=0),
            **({"macro_f1": np.mean(macro, axis=0)} if macro else {}),
        }
        scores = {name: interval(float(drawn[0]), drawn[1:]).as_dict() for name, drawn in means.items()}
        right_N = np.array([row.gold == row.predicted for row in predictions])
        return Scored(scores, means["mean_task_accuracy"][1:], right_N)

    return score


def _score_task(predictions: Sequence[Predicted], task: Scorable, seed: int, resamples: int) -> dict[str, Any]:
    """By measure: its value on all rows of the task, then on each resample."""
    rows = [predictions[place] for place in task.places]
    right_N = np.array([row.gold == row.predicted for row in rows], dtype=float)
    majority_N = np.array(task.is_majority)
    draws = Draws(len(rows), seed, resamples)
    weighted = metrics.bootstrap_rows(
        draws, lambda drawn_RN: metrics.adjusted_accuracy(right_N[drawn_RN], majority_N[drawn_RN], task.kept)
    )
    found = {
        "accuracy": np.append(right_N.mean(), metrics.resampled_mean(right_N, draws)),
        "adjusted": np.append(metrics.adjusted_accuracy(right_N, majority_N, task.kept), weighted),
    }
    if task.codes:
        gold_N, found_N = _numbers(rows, task)
        sampled = metrics.resampled_confusions(gold_N, found_N, len(task.codes), draws)
        value = metrics.macro_f1(gold_N, found_N, len(task.codes))
        found["macro_f1"] = np.append(value, metrics.macro_of(sampled))
    return found


def describe_tasks(tasks: Mapping[str, Scorable], systems: Mapping[str, Sequence[Predicted]]) -> dict[str, Any]:
    """By task: rows, choices, chance, share of the majority class, and of each system accuracy and its kin.

    Accuracy has an exact binomial interval of 90 %. Chance is one over the number of choices.
    """
    return {name: _describe(task, systems) for name, task in tasks.items()}


def _describe(task: Scorable, systems: Mapping[str, Sequence[Predicted]]) -> dict[str, Any]:
    rows = {name: [predictions[place] for place in task.places] for name, predictions in systems.items()}
    found: dict[str, Any] = {
        "rows": len(task.places),
        **({"choices": len(task.codes), "chance": 1 / len(task.codes)} if task.codes else {}),
        "share of the majority class": sum(task.is_majority) / len(task.places),
        "kept of it": task.kept,
    }
    for name, own in rows.items():
        right_N = np.array([row.gold == row.predicted for row in own])
        found[name] = {
            "accuracy": metrics.clopper_pearson(int(right_N.sum()), len(own), LEVEL).as_dict(),
            "adjusted accuracy": float(metrics.adjusted_accuracy(right_N, np.array(task.is_majority), task.kept)),
        }
        if task.codes:
            gold_N, found_N = _numbers(own, task)
            counts = metrics.confusion(gold_N, found_N, len(task.codes))
            found[name]["macro_f1"] = metrics.macro_f1(gold_N, found_N, len(task.codes))
            found[name]["balanced accuracy"] = metrics.balanced_accuracy(counts)
    return found


def _numbers(rows: Sequence[Predicted], task: Scorable) -> tuple[Any, Any]:
    index = {code: number for number, code in enumerate(task.codes)}
    return np.array([index[str(row.gold)] for row in rows]), np.array([index[str(row.predicted)] for row in rows])
