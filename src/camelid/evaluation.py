"""Predictions to scores with intervals, and systems compared with each other on the same rows.

Tasks: "labels" (one class a text), "tags" (one tag a word), "multi-label" (any number of classes a text), "regression"
(a number), "ranking" (two classes, the second of which is looked for by its probability), "separation" (the same,
judged by how well the two are told apart) and "agreement" (one class of several in order, as annotators give it).
A system's scores begin with the main one, of which more is better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from camelid import metrics
from camelid.agreement import kappa_of
from camelid.metrics import SEED, Draws, Interval, interval
from camelid.ranking import auroc, average_precision, resampled_auroc, resampled_average_precision
from camelid.rows import Predicted

Scorer = Callable[[Sequence[Predicted], Sequence[str], Draws], "Scored"]


class Scored(NamedTuple):
    """Scores by name, the main one of each resample, and which rows are right (None where that means nothing)."""

    scores: dict[str, Any]
    samples: Any
    right_N: Any


def evaluate(
    systems: Mapping[str, Sequence[Predicted]],
    classes: Sequence[str],
    ours: str,
    task: str,
    trained: Collection[str] = (),
    bounds: Collection[str] = (),
    scorer: Scorer | None = None,
) -> dict[str, Any]:
    """Scores of several systems on the same rows in the same order, and `ours` against each other one.

    Every row needs a gold answer. `classes` is empty for regression. `trained` names systems that are fine-tuned LLMs
    as ours is, so that the verdict does not call them cheap. `bounds` names systems that know what ours may not,
    such as the labels: they are scored and compared, and are no rivals. `scorer` scores a system in a way of its own;
    `task` is then a name for the report. Returns a JSON-ready dict:
    task, metric (the main one), rows, classes, support (rows, or entities, of each class), ours,
    systems {name: scores}, against {name: {difference} and, but for regression, {only_ours, only_theirs, p}},
    best_baseline (None when there is none), verdict.

    The scores of a system are, by task:
    "labels": accuracy, macro_f1, f1_by_class, confusion, and `score_calibration` where it gives probabilities;
    "tags": entity_f1, token_accuracy, f1_by_class; of tags that mark no entities, such as parts of speech,
    token_accuracy, macro_f1 over tags, f1_by_class;
    "multi-label": micro_f1, macro_f1, exact_match, f1_by_class;
    "regression": r2, pearson, spearman, mae, rmse;
    "ranking": average_precision of the second class's probability, then those of "labels";
    "separation": auroc of it, then those of "ranking";
    "agreement": cohen_kappa, weighted_kappa (linear, over the classes in their order), then those of "labels".
    A value with an interval is {value, low, high}: 95 %, bootstrap over rows. p is of McNemar's test; a row counts as
    right when all of it is: every tag, the exact set.
    """
    score = scorer or _scorer(task)
    draws = Draws(len(systems[ours]), SEED)
    found = {name: score(predictions, classes, draws) for name, predictions in systems.items()}
    scored = {name: system.scores for name, system in found.items()}
    main = next(iter(scored[ours]))
    against = {name: _compare(found[ours], found[name], main) for name in systems if name != ours}
    rivals = [name for name in against if name not in bounds]
    best = max(rivals, key=lambda name: scored[name][main]["value"], default=None)
    for name, predictions in systems.items():
        if task == "labels" and all(row.probabilities for row in predictions):
            scored[name]["calibration"] = score_calibration(predictions, classes, draws)
    versus = (best, scored[best][main], against[best]) if best else (None, None, None)
    return {
        "task": task,
        "metric": main,
        "rows": len(systems[ours]),
        "classes": _kinds(classes) if task == "tags" and metrics.marks_entities(classes) else list(classes),
        "support": {} if scorer else _support(systems[ours], task, classes),
        "ours": ours,
        "systems": scored,
        "against": against,
        "best_baseline": best,
        "verdict": verdict(ours, scored[ours][main], *versus, main, cheap=best not in trained),
    }


def verdict(
    ours: str, score: dict[str, float], best: str | None, other: Any, against: Any, metric: str, *, cheap: bool = True
) -> str:
    """The one sentence a reader should take away. It says so when a `cheap` baseline is as good."""
    name = metrics.name_metric(metric)
    mine = _decimals(score["value"])
    subject = ours[0].upper() + ours[1:]
    if best is None:
        return (
            f"{subject} reaches {name} {mine} (95 % interval {_decimals(score['low'])} to {_decimals(score['high'])}) "
            "on held-out rows; run with --compare to see whether something simpler is as good."
        )
    difference = against["difference"]
    span = f"difference {difference['value']:+.3f}, 95 % interval {difference['low']:+.3f} to {difference['high']:+.3f}"
    theirs = _decimals(other["value"])
    if difference["low"] > 0:
        rival = f"the best {'baseline' if cheap else 'other system'}, {best}"
        return f"{subject} beats {rival}: {name} {mine} against {theirs} ({span})."
    figures = f"{name} {theirs} against {mine} (ours minus it: {span})"
    if difference["high"] < 0:
        advice = " You need no fine-tuned LLM for this task." if cheap else ""
        return f"{best} beats {ours} here: {figures}.{advice}"
    return f"{best} is as good as {ours} on these rows: {figures}.{' The cheaper one will do.' if cheap else ''}"


def curve_scores(predictions: Sequence[Predicted], classes: Sequence[str], task: str) -> dict[str, float]:
    """Main and second score without intervals, for the learning curve on dev rows."""
    once = Draws(len(predictions), SEED, resamples=1)
    scores = _scorer(task)(predictions, classes, once).scores
    return {name: scores[name]["value"] for name in list(scores)[:2]}


def score_weighted_f1(predictions: Sequence[Predicted], classes: Sequence[str]) -> dict[str, float]:
    """Weighted F1 with its interval, bootstrap over rows."""
    number = {name: place for place, name in enumerate(classes)}
    gold_N = np.array([number[str(row.gold)] for row in predictions])
    found_N = np.array([number[str(row.predicted)] for row in predictions])
    sampled = metrics.resampled_confusions(gold_N, found_N, len(classes), Draws(len(gold_N), SEED))
    return _json(interval(metrics.weighted_f1(gold_N, found_N, len(classes)), metrics.weighted_of(sampled)))


def contrast_classes(
    ours: Sequence[Predicted], other: Sequence[Predicted], names: tuple[str, str], classes: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Accuracy of two systems on the same rows by gold class: {rows, <name>: accuracy of each, difference}."""
    gold_N = np.array([row.gold for row in ours])
    right_2N = np.array([[row.gold == row.predicted for row in rows] for rows in (ours, other)], dtype=float)
    by_class = {}
    for name in classes:
        ours_N, other_N = right_2N[:, gold_N == name]
        if len(ours_N):
            means = dict(zip(names, (float(ours_N.mean()), float(other_N.mean())), strict=True))
            difference = metrics.spread_mean(ours_N - other_N)
            by_class[name] = {"rows": len(ours_N), **means, "difference": difference}
    return by_class


def evaluate_seeds(
    found: Mapping[str, Sequence[Sequence[Predicted]]], seeds: Sequence[int], classes: Sequence[str], task: str
) -> dict[str, Any]:
    """The main metric of systems trained once with each seed: {metric, systems {name: {seeds, values, mean}}}.

    The mean comes with the 95 % t-interval over seeds; it says how training varies, not how rows do.
    """
    scores = {name: [curve_scores(predictions, classes, task) for predictions in runs] for name, runs in found.items()}
    metric = next(iter(next(iter(scores.values()))[0]))
    values = {name: [one[metric] for one in each] for name, each in scores.items()}
    systems = {
        name: {"seeds": list(seeds), "values": each, "mean": metrics.aggregate_seeds(each).as_dict()}
        for name, each in values.items()
    }
    return {"metric": metric, "systems": systems}


def score_calibration(predictions: Sequence[Predicted], classes: Sequence[str], draws: Draws) -> dict[str, Any]:
    """Whether probabilities can be believed: {ece, brier, nll} with intervals, chance, bins.

    The confidence is the largest probability. `chance` is the expected calibration error that a model with perfect
    probabilities exceeds on these rows once in twenty times; bins are those of `metrics.reliability`.
    """
    index = {name: number for number, name in enumerate(classes)}
    table_NC = np.array([[row.probabilities.get(name, 0.0) for name in classes] for row in predictions])
    gold_N = np.array([index[str(row.gold)] for row in predictions])
    confidence_N = table_NC.max(axis=1)
    right_N = np.array([row.gold == row.predicted for row in predictions])
    error = metrics.calibration_error(confidence_N, right_N)
    errors = np.array([metrics.calibration_error(confidence_N[draw], right_N[draw]) for draw in draws])
    # drawing rows adds chance a second time, which is error to this measure: unshifted, a small value lies below its
    # own interval
    errors = np.maximum(errors - (errors.mean() - error), 0)
    rows = {"brier": metrics.brier(table_NC, gold_N), "nll": metrics.negative_log_likelihood(table_NC, gold_N)}
    means = {name: interval(float(row_N.mean()), metrics.resampled_mean(row_N, draws)) for name, row_N in rows.items()}
    return {
        "ece": _json(interval(error, errors)),
        **{name: _json(value) for name, value in means.items()},
        "chance": metrics.chance_error(confidence_N, draws),
        "bins": metrics.reliability(confidence_N, right_N),
    }


def _scorer(task: str) -> Scorer:
    scorers = {"labels": _score_labels, "tags": _score_tags, "multi-label": _score_sets, "regression": _score_numbers}
    scorers |= {"ranking": _score_ranking, "separation": _score_separation, "agreement": _score_agreement}
    return scorers[task]


def _score_agreement(predictions: Sequence[Predicted], classes: Sequence[str], draws: Draws) -> Scored:
    index = {name: number for number, name in enumerate(classes)}
    gold, found = (np.array([index[str(getattr(row, side))] for row in predictions]) for side in ("gold", "predicted"))
    counts = metrics.confusion(gold, found, len(classes))[None]
    sampled = metrics.resampled_confusions(gold, found, len(classes), draws)
    labels = _score_labels(predictions, classes, draws)
    kappas = kappa_of(sampled)
    scores = {
        "cohen_kappa": _json(interval(kappa_of(counts)[0], kappas)),
        "weighted_kappa": _json(interval(kappa_of(counts, "linear")[0], kappa_of(sampled, "linear"))),
        **labels.scores,
    }
    return Scored(scores, kappas, labels.right_N)


def _score_separation(predictions: Sequence[Predicted], classes: Sequence[str], draws: Draws) -> Scored:
    gold = np.array([row.gold == classes[1] for row in predictions])
    shares = np.array([row.probabilities[classes[1]] for row in predictions])
    sampled = resampled_auroc(gold, shares, draws)
    ranked = _score_ranking(predictions, classes, draws)
    return Scored({"auroc": _json(interval(auroc(gold, shares), sampled)), **ranked.scores}, sampled, ranked.right_N)


def _score_ranking(predictions: Sequence[Predicted], classes: Sequence[str], draws: Draws) -> Scored:
    gold = np.array([row.gold == classes[1] for row in predictions])
    shares = np.array([row.probabilities[classes[1]] for row in predictions])
    sampled = resampled_average_precision(gold, shares, draws)
    decided = _score_labels(predictions, classes, draws)
    main = _json(interval(average_precision(gold, shares), sampled))
    return Scored({"average_precision": main, **decided.scores}, sampled, decided.right_N)


def _score_labels(predictions: Sequence[Predicted], classes: Sequence[str], draws: Draws) -> Scored:
    index = {name: number for number, name in enumerate(classes)}
    gold = np.array([index[str(row.gold)] for row in predictions])
    found = np.array([index[str(row.predicted)] for row in predictions])
    count = len(classes)
    sampled = metrics.resampled_confusions(gold, found, count, draws)
    accuracies = sampled.trace(axis1=1, axis2=2) / sampled.sum(axis=(1, 2))
    by_class, by_class_sampled = metrics.f1_by_class(gold, found, count), metrics.f1_of(sampled)
    scores = {
        "accuracy": _json(interval(metrics.accuracy(gold, found), accuracies)),
        "macro_f1": _json(interval(metrics.macro_f1(gold, found, count), metrics.macro_of(sampled))),
        "f1_by_class": _by_class(classes, by_class, by_class_sampled),
        "confusion": metrics.confusion(gold, found, count).tolist(),
    }
    return Scored(scores, accuracies, gold == found)


def _score_tags(predictions: Sequence[Predicted], classes: Sequence[str], draws: Draws) -> Scored:
    pairs: list[tuple[Any, Any]] = [(row.gold, row.predicted) for row in predictions]
    counts = np.stack([metrics.entity_counts(gold, found) for gold, found in pairs])
    words = np.array([[sum(map(str.__eq__, gold, found)), len(gold)] for gold, found in pairs])
    if not metrics.marks_entities(classes):
        return _score_words(pairs, classes, words, draws)
    sampled = metrics.bootstrap_sum(counts, draws, metrics.counted_f1)
    by_kind = {kind: np.stack([metrics.entity_counts(*pair, kind=kind) for pair in pairs]) for kind in _kinds(classes)}
    scores = {
        "entity_f1": _json(interval(float(metrics.counted_f1(counts.sum(axis=0))), sampled)),
        "token_accuracy": _json(
            interval(float(_share(words.sum(axis=0))), metrics.bootstrap_sum(words, draws, _share))
        ),
        "f1_by_class": {
            kind: _json(
                interval(
                    float(metrics.counted_f1(kind_counts.sum(axis=0))),
                    metrics.bootstrap_sum(kind_counts, draws, metrics.counted_f1),
                )
            )
            for kind, kind_counts in by_kind.items()
        },
    }
    return Scored(scores, sampled, words[:, 0] == words[:, 1])


def _score_words(pairs: Sequence[Any], classes: Sequence[str], words: Any, draws: Draws) -> Scored:
    """Tags of words that are no parts of entities: each word for itself, intervals over sentences."""
    counts_NC3 = np.stack([[metrics.word_counts(gold, found, name) for name in classes] for gold, found in pairs])
    of_words = metrics.bootstrap_sum(words, draws, _share)
    by_class = {
        name: _json(interval(
            float(metrics.counted_f1(counts_NC3[:, at].sum(axis=0))),
            metrics.bootstrap_sum(counts_NC3[:, at], draws, metrics.counted_f1),
        ))
        for at, name in enumerate(classes)
    }  # fmt: skip
    macro = lambda counts_X: metrics.counted_f1(counts_X.reshape(*counts_X.shape[:-1], -1, 3)).mean(axis=-1)  # noqa: E731
    flat = counts_NC3.reshape(len(pairs), -1)
    scores = {
        "token_accuracy": _json(interval(float(_share(words.sum(axis=0))), of_words)),
        "macro_f1": _json(interval(float(macro(flat.sum(axis=0))), metrics.bootstrap_sum(flat, draws, macro))),
        "f1_by_class": by_class,
    }
    return Scored(scores, of_words, words[:, 0] == words[:, 1])


def _score_sets(predictions: Sequence[Predicted], classes: Sequence[str], draws: Draws) -> Scored:
    gold_NC = _memberships([row.gold for row in predictions], classes)
    found_NC = _memberships([row.predicted for row in predictions], classes)
    right_N = (gold_NC == found_NC).all(axis=1)
    counts = metrics.set_counts(gold_NC, found_NC)
    sampled = metrics.resampled_set_counts(gold_NC, found_NC, draws)
    micro = metrics.micro_f1(sampled)
    scores = {
        "micro_f1": _json(interval(float(metrics.micro_f1(counts)), micro)),
        "macro_f1": _json(interval(float(metrics.mean_f1(counts)), metrics.mean_f1(sampled))),
        "exact_match": _json(interval(float(right_N.mean()), metrics.resampled_mean(right_N, draws))),
        "f1_by_class": _by_class(classes, metrics.counted_f1(counts), metrics.counted_f1(sampled)),
    }
    return Scored(scores, micro, right_N)


def _score_numbers(predictions: Sequence[Predicted], classes: Sequence[str], draws: Draws) -> Scored:
    gold, found = (np.array(values, dtype=float) for values in zip(*[(row.gold, row.predicted) for row in predictions]))
    gold_places, found_places = metrics.number_values(gold), metrics.number_values(found)
    names = ("r2", "pearson", "spearman", "mae", "rmse")

    def score(rows_RN: Any) -> Any:
        pair = gold[rows_RN], found[rows_RN]
        ranks = (metrics.average_ranks(places[rows_RN]) for places in (gold_places, found_places))
        correlations = metrics.pearson(*pair), metrics.pearson(*ranks)
        return np.stack([metrics.r2(*pair), *correlations, metrics.mae(*pair), metrics.rmse(*pair)], axis=-1)

    values, sampled = score(np.arange(len(gold))), metrics.bootstrap_rows(draws, score)
    scores = {name: _json(interval(values[place], sampled[:, place])) for place, name in enumerate(names)}
    return Scored(scores, sampled[:, 0], None)


def score_means(predictions: Sequence[Predicted], classes: Sequence[str], draws: Draws) -> Scored:
    """A scorer of rows that carry a number for which nobody knows a right one, such as a judge's: {"mean_score"}."""
    values_N = np.array([row.predicted for row in predictions], dtype=float)
    sampled = metrics.resampled_mean(values_N, draws)
    return Scored({"mean_score": _json(interval(float(values_N.mean()), sampled))}, sampled, None)


def _compare(ours: Scored, theirs: Scored, main: str) -> dict[str, Any]:
    value = ours.scores[main]["value"] - theirs.scores[main]["value"]
    difference = {"difference": _json(interval(value, ours.samples - theirs.samples))}
    if ours.right_N is None:
        return difference
    only_ours, only_theirs, p = metrics.mcnemar(ours.right_N, theirs.right_N)
    return difference | {"only_ours": only_ours, "only_theirs": only_theirs, "p": p}


def _memberships(sets: Sequence[Any], classes: Sequence[str]) -> Any:
    """Who belongs to which class, (rows, classes). KeyError for a name that is none of the classes."""
    index = {name: number for number, name in enumerate(classes)}
    table_NC = np.zeros((len(sets), len(classes)), dtype=bool)
    for row, names in enumerate(sets):
        table_NC[row, [index[name] for name in names]] = True
    return table_NC


def _by_class(classes: Sequence[str], values: Any, sampled: Any) -> dict[str, Any]:
    return {name: _json(interval(values[k], sampled[:, k])) for k, name in enumerate(classes)}


def _share(counts: Any) -> Any:
    return counts[..., 0] / np.maximum(counts[..., 1], 1)


def _kinds(classes: Sequence[str]) -> list[str]:
    """Entity types among BIO tags."""
    return sorted({name.partition("-")[2] for name in classes if "-" in name})


def _support(predictions: Sequence[Predicted], task: str, classes: Sequence[str]) -> dict[str, int]:
    """Gold rows, entities, or tagged words, by class; nothing for numbers."""
    golds: list[Any] = [row.gold for row in predictions]
    if task == "regression":
        return {}
    if task == "tags" and metrics.marks_entities(classes):
        golds = [[kind for kind, *_ in metrics.entities(gold)] for gold in golds]
    counts = Counter(golds) if task in ("labels", "agreement") else Counter(name for gold in golds for name in gold)
    return dict(sorted(counts.items()))


def _decimals(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # + 0.0 makes -0.0 of a baseline 0.0


def _json(value: Interval) -> dict[str, float]:
    return value.as_dict()
