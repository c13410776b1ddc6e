"""Predictions to scores with intervals, and systems compared with each other on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from camelid import metrics
from camelid.metrics import Draws, Interval, interval
from camelid.rows import Predicted

SEED = 20231001  # of the bootstrap: fixed, so that the same predictions always get the same intervals


def evaluate(systems: Mapping[str, Sequence[Predicted]], classes: Sequence[str], ours: str) -> dict[str, Any]:
    """Scores of several systems on the same rows, and `ours` against each other one.

    Every row needs a gold label. Returns a JSON-ready dict:
    task ("labels" or "tags"), metric (the main one: "accuracy" or "entity_f1"), rows, classes, support, ours,
    systems {name: {accuracy, macro_f1, f1_by_class, confusion} or {entity_f1, token_accuracy, f1_by_class}},
    against {name: {difference, only_ours, only_theirs, p}}, best_baseline (None when there is none), verdict.
    A value with an interval is {value, low, high}: 95 %, bootstrap over rows.
    """
    tagged = isinstance(systems[ours][0].gold, tuple)
    score, right = (_tag_scores, _tags_right) if tagged else (_label_scores, _labels_right)
    main = "entity_f1" if tagged else "accuracy"
    draws = Draws(len(systems[ours]), SEED)
    scored: dict[str, Any] = {}
    samples: dict[str, Any] = {}
    for name, predictions in systems.items():
        scored[name], samples[name] = score(predictions, classes, draws)
    against = {
        name: _compare(scored, samples, ours, name, main) | _mcnemar(right(systems[ours]), right(systems[name]))
        for name in systems
        if name != ours
    }
    best = max(against, key=lambda name: scored[name][main]["value"], default=None)
    return {
        "task": "tags" if tagged else "labels",
        "metric": main,
        "rows": len(systems[ours]),
        "classes": _kinds(classes) if tagged else list(classes),
        "support": _support(systems[ours], tagged),
        "ours": ours,
        "systems": scored,
        "against": against,
        "best_baseline": best,
        "verdict": verdict(ours, scored[ours][main], best, best and scored[best][main], best and against[best], main),
    }


def verdict(ours: str, score: dict[str, float], best: str | None, other: Any, against: Any, metric: str) -> str:
    """The one sentence a reader should take away. It says so when the cheap baseline is as good."""
    name = metric.replace("_", " ").replace("f1", "F1")
    mine = f"{score['value']:.3f}"
    subject = ours[0].upper() + ours[1:]
    if best is None:
        return (
            f"{subject} reaches {name} {mine} (95 % interval {score['low']:.3f} to {score['high']:.3f}) on held-out "
            "rows; run with --compare to see whether something simpler is as good."
        )
    difference = against["difference"]
    span = f"difference {difference['value']:+.3f}, 95 % interval {difference['low']:+.3f} to {difference['high']:+.3f}"
    figures = f"{name} {mine} against {other['value']:.3f} ({span})"
    if difference["low"] > 0:
        return f"{subject} beats the best baseline, {best}: {figures}."
    if difference["high"] < 0:
        return f"{best} beats {ours} here: {figures}. You need no fine-tuned LLM for this task."
    return f"{best} is as good as {ours} on these rows: {figures}. The cheaper one will do."


def curve_scores(predictions: Sequence[Predicted], classes: Sequence[str]) -> dict[str, float]:
    """Main and second score without intervals, for the learning curve on dev rows."""
    once = Draws(len(predictions), SEED, resamples=1)
    tagged = isinstance(predictions[0].gold, tuple)
    scores, _ = (_tag_scores if tagged else _label_scores)(predictions, classes, once)
    names = ("entity_f1", "token_accuracy") if tagged else ("accuracy", "macro_f1")
    return {name: scores[name]["value"] for name in names}


def _label_scores(predictions: Sequence[Predicted], classes: Sequence[str], draws: Draws) -> tuple[dict[str, Any], Any]:
    index = {name: number for number, name in enumerate(classes)}
    gold = np.array([index[str(row.gold)] for row in predictions])
    found = np.array([index[str(row.predicted)] for row in predictions])
    count = len(classes)
    sampled = metrics.resampled_confusions(gold, found, count, draws)
    accuracies = sampled.trace(axis1=1, axis2=2) / sampled.sum(axis=(1, 2))
    by_class, by_class_sampled = metrics.f1_by_class(gold, found, count), metrics.f1_of(sampled)
    return {
        "accuracy": _json(interval(metrics.accuracy(gold, found), accuracies)),
        "macro_f1": _json(interval(metrics.macro_f1(gold, found, count), metrics.macro_of(sampled))),
        "f1_by_class": {name: _json(interval(by_class[k], by_class_sampled[:, k])) for k, name in enumerate(classes)},
        "confusion": metrics.confusion(gold, found, count).tolist(),
    }, accuracies


def _tag_scores(predictions: Sequence[Predicted], classes: Sequence[str], draws: Draws) -> tuple[dict[str, Any], Any]:
    pairs: list[tuple[Any, Any]] = [(row.gold, row.predicted) for row in predictions]
    counts = np.stack([metrics.entity_counts(gold, found) for gold, found in pairs])
    words = np.array([[sum(map(str.__eq__, gold, found)), len(gold)] for gold, found in pairs])
    sampled = metrics.bootstrap_sum(counts, draws, metrics.entity_f1)
    by_kind = {kind: np.stack([metrics.entity_counts(*pair, kind=kind) for pair in pairs]) for kind in _kinds(classes)}
    return {
        "entity_f1": _json(interval(float(metrics.entity_f1(counts.sum(axis=0))), sampled)),
        "token_accuracy": _json(
            interval(float(_share(words.sum(axis=0))), metrics.bootstrap_sum(words, draws, _share))
        ),
        "f1_by_class": {
            kind: _json(
                interval(
                    float(metrics.entity_f1(kind_counts.sum(axis=0))),
                    metrics.bootstrap_sum(kind_counts, draws, metrics.entity_f1),
                )
            )
            for kind, kind_counts in by_kind.items()
        },
    }, sampled


def _compare(scored: Any, samples: Any, ours: str, other: str, main: str) -> dict[str, Any]:
    value = scored[ours][main]["value"] - scored[other][main]["value"]
    return {"difference": _json(interval(value, samples[ours] - samples[other]))}


def _mcnemar(ours: Any, theirs: Any) -> dict[str, Any]:
    only_ours, only_theirs, p = metrics.mcnemar(ours, theirs)
    return {"only_ours": only_ours, "only_theirs": only_theirs, "p": p}


def _labels_right(predictions: Sequence[Predicted]) -> Any:
    return np.array([row.gold == row.predicted for row in predictions])


def _tags_right(predictions: Sequence[Predicted]) -> Any:
    """One entry a sentence: every tag right."""
    return np.array([tuple(row.gold or ()) == tuple(row.predicted) for row in predictions])


def _share(counts: Any) -> Any:
    return counts[..., 0] / np.maximum(counts[..., 1], 1)


def _kinds(classes: Sequence[str]) -> list[str]:
    """Entity types among BIO tags."""
    return sorted({name.partition("-")[2] for name in classes if "-" in name})


def _support(predictions: Sequence[Predicted], tagged: bool) -> dict[str, int]:
    names = (
        [kind for row in predictions for kind, *_ in metrics.entities(row.gold or ())]
        if tagged
        else [str(row.gold) for row in predictions]
    )
    return {name: names.count(name) for name in sorted(set(names))}


def _json(value: Interval) -> dict[str, float]:
    return value.as_dict()
