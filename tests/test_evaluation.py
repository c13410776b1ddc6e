"""Scores of systems on the same rows, by task, against sums worked by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, r2_score, roc_auc_score

from camelid.evaluation import curve_scores, evaluate, evaluate_seeds, score_calibration
from camelid.metrics import Draws
from camelid.ranking import auroc
from camelid.rows import Predicted

OURS = "mine"
LETTERS = ["a", "b", "c"]


def predicted(golds: Sequence[Any], found: Sequence[Any], shares: Sequence[Any] = ()) -> list[Predicted]:
    shares = shares or [{}] * len(golds)
    return [Predicted(str(n), *values) for n, values in enumerate(zip(golds, found, shares, strict=True))]


def numbers(rows: int = 120) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    gold = draw.normal(3, 1, size=rows)
    return gold, gold + draw.normal(0, 0.5, size=rows)


def sets(rows: int = 120) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    draw = np.random.default_rng(1)
    gold = draw.random((rows, 3)) < 0.4
    found = gold ^ (draw.random((rows, 3)) < 0.15)
    gold_sets, found_sets = (
        [tuple(name for name, member in zip(LETTERS, row, strict=True) if member) for row in table]
        for table in (gold, found)
    )
    return gold_sets, found_sets


def systems_of(task: str) -> tuple[dict[str, list[Predicted]], list[str]]:
    """Ours, another one, and the classes, for any task."""
    if task == "regression":
        gold, found = numbers()
        return {"mean": predicted(gold, np.full(120, 3.0)), OURS: predicted(gold, found)}, []
    if task == "multi-label":
        gold_sets, found_sets = sets()
        return {"always a": predicted(gold_sets, [("a",)] * 120), OURS: predicted(gold_sets, found_sets)}, LETTERS
    if task == "tags":
        gold_tags = [("B-x", "I-x", "O")] * 4
        found_tags = [("B-x", "I-x", "O")] * 2 + [("B-x", "O", "O"), ("O", "O", "O")]
        systems = {"never": predicted(gold_tags, [("O",) * 3] * 4), OURS: predicted(gold_tags, found_tags)}
        return systems, ["B-x", "I-x", "O"]
    labels = ["a", "b", "c", "a"] * 5
    said = [{"a": 0.6, "b": 0.3, "c": 0.1}] * 20
    return {"bare": predicted(labels, ["a"] * 20), OURS: predicted(labels, ["a"] * 19 + ["b"], said)}, LETTERS


MAIN = {
    "labels": ["accuracy", "macro_f1"],
    "tags": ["entity_f1", "token_accuracy"],
    "multi-label": ["micro_f1", "macro_f1"],
    "regression": ["r2", "pearson"],
}


@pytest.mark.parametrize("task", MAIN)
def test_the_main_metric_is_the_first_and_the_curve_has_the_same_values(task: str) -> None:
    systems, classes = systems_of(task)
    entry = evaluate(systems, classes, OURS, task)
    assert (entry["task"], entry["metric"], entry["rows"]) == (task, MAIN[task][0], len(systems[OURS]))
    assert list(entry["systems"][OURS])[:2] == MAIN[task]
    curve = curve_scores(systems[OURS], classes, task)
    assert list(curve) == MAIN[task]
    assert curve == {name: entry["systems"][OURS][name]["value"] for name in curve}
    json.dumps(entry, allow_nan=False)


@pytest.mark.parametrize("task", MAIN)
def test_intervals_hold_their_value_and_differences_are_paired(task: str) -> None:
    """A system that says the same as ours differs by exactly 0 in every resample, unless the draws are not paired."""
    systems, classes = systems_of(task)
    entry = evaluate({OURS: systems[OURS], "twin": systems[OURS]}, classes, OURS, task)
    assert entry["against"]["twin"]["difference"] == {"value": 0, "low": 0, "high": 0}
    for value in entry["systems"][OURS].values():
        if isinstance(value, dict) and "low" in value:
            assert value["low"] <= value["value"] <= value["high"]
    assert entry["best_baseline"] == "twin"


@pytest.mark.parametrize("task", ["multi-label", "regression"])
def test_a_difference_is_that_of_the_main_metric(task: str) -> None:
    """Perfect answers score 1 in every resample, so what ours lacks is 1 minus its own interval."""
    systems, classes = systems_of(task)
    perfect = predicted(*[[row.gold for row in systems[OURS]]] * 2)
    entry = evaluate({"perfect": perfect, OURS: systems[OURS]}, classes, "perfect", task)
    mine = entry["systems"][OURS][entry["metric"]]
    found = entry["against"][OURS]["difference"]
    assert found == {
        "value": 1 - mine["value"],
        "low": pytest.approx(1 - mine["high"]),
        "high": pytest.approx(1 - mine["low"]),
    }
    assert found["value"] > 0.05


def test_sets_by_hand() -> None:
    """Rows: {a, b} found {a}; {} found {}; {c} found {b, c}; {a} found {b}. Hits a 1, b 0, c 1.

    a: gold 2, found 1, F1 2/3; b: gold 1, found 2, F1 0; c: 1 and 1, F1 1. micro 2 * 2 / (4 + 4); macro 5/9;
    exact 1 of 4. The other system finds {} for all: exact on row 2 as well, so it never differs from ours.
    """
    golds = [("a", "b"), (), ("c",), ("a",)]
    ours = predicted(golds, [("a",), (), ("c", "b"), ("b",)])
    entry = evaluate({OURS: ours, "none": predicted(golds, [()] * 4)}, LETTERS, OURS, "multi-label")
    scores = entry["systems"][OURS]
    assert scores["micro_f1"]["value"] == 0.5
    assert scores["macro_f1"]["value"] == pytest.approx(5 / 9)
    assert scores["exact_match"]["value"] == 0.25
    by_class = {name: score["value"] for name, score in scores["f1_by_class"].items()}
    assert by_class == {"a": pytest.approx(2 / 3), "b": 0.0, "c": 1.0}
    assert entry["support"] == {"a": 2, "b": 1, "c": 1}
    assert "confusion" not in scores
    assert {name: entry["against"]["none"][name] for name in ("only_ours", "only_theirs", "p")} == {
        "only_ours": 0,
        "only_theirs": 0,
        "p": 1.0,
    }
    assert entry["systems"]["none"]["micro_f1"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_sets_equal_scikit_learn() -> None:
    golds, found = sets()
    scores = evaluate({OURS: predicted(golds, found)}, LETTERS, OURS, "multi-label")["systems"][OURS]
    tables = [[[name in names for name in LETTERS] for names in rows] for rows in (golds, found)]
    assert scores["micro_f1"]["value"] == pytest.approx(f1_score(*tables, average="micro"))
    assert scores["macro_f1"]["value"] == pytest.approx(f1_score(*tables, average="macro"))
    assert scores["exact_match"]["value"] == pytest.approx(accuracy_score(*tables))


def test_the_order_of_a_set_says_nothing() -> None:
    entry = evaluate({OURS: predicted([("a", "b")] * 2, [("b", "a")] * 2)}, LETTERS, OURS, "multi-label")
    assert entry["systems"][OURS]["exact_match"]["value"] == 1


def test_a_label_that_is_no_class_is_no_silent_miss() -> None:
    for golds, found in ([("a",)], [("z",)]), ([("z",)], [("a",)]):
        with pytest.raises(KeyError, match="z"):
            evaluate({OURS: predicted(golds, found)}, LETTERS, OURS, "multi-label")


def test_mcnemar_counts_exact_sets() -> None:
    """Ours alone is right on rows 1 to 6, the other alone on row 7: p = 2 * (1 + 7) / 2^7."""
    golds = [("a", "b")] * 7
    systems = {
        OURS: predicted(golds, [("a", "b")] * 6 + [("a",)]),
        "other": predicted(golds, [("a",)] * 6 + [("a", "b")]),
    }
    against = evaluate(systems, LETTERS, OURS, "multi-label")["against"]["other"]
    assert (against["only_ours"], against["only_theirs"], against["p"]) == (6, 1, 0.125)


def test_numbers_equal_scikit_learn_and_have_no_mcnemar() -> None:
    gold, found = numbers()
    entry = evaluate(
        {"mean": predicted(gold, np.full(120, gold.mean())), OURS: predicted(gold, found)}, [], OURS, "regression"
    )
    scores = entry["systems"][OURS]
    assert list(scores) == ["r2", "pearson", "spearman", "mae", "rmse"]
    assert scores["r2"]["value"] == pytest.approx(r2_score(gold, found))
    assert scores["rmse"]["value"] > scores["mae"]["value"] > 0
    assert list(entry["against"]["mean"]) == ["difference"]
    assert entry["systems"]["mean"]["r2"]["value"] == pytest.approx(0, abs=1e-12)
    assert entry["systems"]["mean"]["pearson"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert (entry["classes"], entry["support"]) == ([], {})


def test_the_r2_interval_is_that_of_the_resampled_rows() -> None:
    gold, found = numbers()
    scores = evaluate({OURS: predicted(gold, found)}, [], OURS, "regression")["systems"][OURS]
    draw = np.random.default_rng(9).integers(0, 120, size=(500, 120))
    ends = np.percentile([r2_score(gold[rows], found[rows]) for rows in draw], [2.5, 97.5])
    assert (scores["r2"]["low"], scores["r2"]["high"]) == pytest.approx(tuple(ends), abs=0.03)


def test_calibration_belongs_to_systems_with_probabilities() -> None:
    systems, classes = systems_of("labels")
    scored = evaluate(systems, classes, OURS, "labels")["systems"]
    assert "calibration" not in scored["bare"]
    found = scored[OURS]["calibration"]
    assert set(found) == {"ece", "brier", "nll", "chance", "bins"}
    several = predicted([("a",)] * 3, [("a", "b")] * 3, [{"a": 0.9, "b": 0.8, "c": 0.1}] * 3)
    assert "calibration" not in evaluate({OURS: several}, LETTERS, OURS, "multi-label")["systems"][OURS]


def test_calibration_by_hand() -> None:
    """10 rows, each said a 0.6, b 0.3, c 0.1; gold is a 8 times, b once, c once. Right 0.8, so ECE 0.2.

    Brier of a gold row of a: 0.16 + 0.09 + 0.01 = 0.26; of b: 0.36 + 0.49 + 0.01 = 0.86; of c: 0.36 + 0.09 + 0.81 =
    1.26; mean 0.42. NLL: -(8 log 0.6 + log 0.3 + log 0.1) / 10.
    """
    golds = ["a"] * 8 + ["b", "c"]
    rows = predicted(golds, ["a"] * 10, [{"a": 0.6, "b": 0.3, "c": 0.1}] * 10)
    found = score_calibration(rows, LETTERS, Draws(10, seed=0, resamples=200))
    assert found["ece"]["value"] == pytest.approx(0.2)
    assert found["brier"]["value"] == pytest.approx(0.42)
    assert found["nll"]["value"] == pytest.approx(-(8 * np.log(0.6) + np.log(0.3) + np.log(0.1)) / 10)
    assert found["bins"] == [{"low": 0.5, "high": 0.6, "count": 10, "confidence": pytest.approx(0.6), "accuracy": 0.8}]


def test_a_perfectly_calibrated_model_is_within_chance() -> None:
    """Labels drawn from the very probabilities that are said, and the same made twice as sure."""
    draw = np.random.default_rng(2)
    shares = draw.dirichlet([0.6] * 3, size=800)
    golds = [LETTERS[draw.choice(3, p=row)] for row in shares]
    found = {}
    for power in (1, 2):
        sharper = shares**power / (shares**power).sum(axis=1, keepdims=True)
        said = [dict(zip(LETTERS, map(float, row), strict=True)) for row in sharper]
        rows = predicted(golds, [LETTERS[row.argmax()] for row in shares], said)
        found[power] = score_calibration(rows, LETTERS, Draws(800, seed=0, resamples=300))
        ece = found[power]["ece"]
        assert 0 <= ece["low"] <= ece["value"] <= ece["high"]
    assert found[1]["ece"]["value"] < found[1]["chance"] < found[2]["ece"]["value"]
    assert all(found[1][name]["value"] < found[2][name]["value"] for name in ("brier", "nll"))


def test_verdicts_of_the_new_tasks() -> None:
    systems, classes = systems_of("regression")
    text = evaluate(systems, classes, OURS, "regression")["verdict"]
    assert text.startswith("Mine beats the best baseline, mean: R² 0.")
    text = evaluate(systems, classes, "mean", "regression")["verdict"]
    assert text.startswith("mine beats mean here: R² ")
    assert text.endswith("You need no fine-tuned LLM for this task.")
    systems, classes = systems_of("multi-label")
    assert (
        "beats the best baseline, always a: micro-F1 0." in evaluate(systems, classes, OURS, "multi-label")["verdict"]
    )
    alone = evaluate({OURS: systems[OURS]}, classes, OURS, "multi-label")["verdict"]
    assert alone.startswith("Mine reaches micro-F1 0.")


def test_a_verdict_calls_no_fine_tuned_system_cheap() -> None:
    systems, classes = systems_of("multi-label")
    worse = evaluate(systems, classes, "always a", "multi-label", trained=[OURS])["verdict"]
    assert worse.startswith("mine beats always a here")
    assert "You need no" not in worse
    twins = {OURS: systems[OURS], "tuned": systems[OURS]}
    assert "cheaper" not in evaluate(twins, classes, OURS, "multi-label", trained=["tuned"])["verdict"]
    assert evaluate(twins, classes, OURS, "multi-label")["verdict"].endswith("The cheaper one will do.")
    best = evaluate(systems, classes, OURS, "multi-label", trained=["always a"])["verdict"]
    assert best.startswith("Mine beats the best other system, always a:")


def test_a_zero_has_no_sign() -> None:
    gold = [1.0, 2.0, 3.0]
    text = evaluate({OURS: predicted(gold, gold), "mean": predicted(gold, [2.00001] * 3)}, [], OURS, "regression")[
        "verdict"
    ]
    assert "R² 1.000 against 0.000" in text


def test_seeds_keep_every_value() -> None:
    """Accuracies 1 and 0.5: mean 0.75, s = 0.3536, half = 12.706 * 0.25."""
    runs = [predicted(["a", "b"], ["a", "b"]), predicted(["a", "b"], ["a", "a"])]
    entry = evaluate_seeds({OURS: runs}, [3, 4], ["a", "b"], "labels")
    assert entry["metric"] == "accuracy"
    found = entry["systems"][OURS]
    assert (found["seeds"], found["values"], found["mean"]["value"]) == ([3, 4], [1.0, 0.5], 0.75)
    assert found["mean"]["high"] - 0.75 == pytest.approx(12.7062 * 0.25, abs=1e-3)


def test_tags_that_mark_no_entities_are_scored_word_by_word() -> None:
    """Parts of speech: whole entities would be right nowhere, whatever the tagger."""
    gold = [("NOUN", "VERB"), ("NOUN", "NOUN", "ADJ"), ("VERB",)] * 4
    said = [("NOUN", "VERB"), ("NOUN", "ADJ", "ADJ"), ("NOUN",)] * 4
    rows = [Predicted(str(at), *pair, {}) for at, pair in enumerate(zip(gold, said, strict=True))]
    found = evaluate({OURS: rows}, ["ADJ", "NOUN", "VERB"], OURS, "tags")
    flat = [[tag for line in lines for tag in line] for lines in (gold, said)]
    scores = found["systems"][OURS]
    assert found["metric"] == "token_accuracy"
    assert scores["token_accuracy"]["value"] == pytest.approx(accuracy_score(*flat))
    assert scores["macro_f1"]["value"] == pytest.approx(f1_score(*flat, average="macro"))
    assert scores["f1_by_class"]["NOUN"]["value"] == pytest.approx(f1_score(*flat, labels=["NOUN"], average=None)[0])
    assert found["classes"] == ["ADJ", "NOUN", "VERB"]
    assert found["support"] == {"ADJ": 4, "NOUN": 12, "VERB": 8}
    assert list(curve_scores(rows, ["ADJ", "NOUN", "VERB"], "tags")) == ["token_accuracy", "macro_f1"]


def test_a_bound_is_scored_and_is_no_rival() -> None:
    """Whoever has the labels that ours may not see is in the table, and not in the verdict."""
    gold = ["a", "b"] * 20
    told = {name: [Predicted(str(at), each, value(each), {}) for at, each in enumerate(gold)] for name, value in {
        OURS: lambda each: each if each == "a" else "a", "knows": lambda each: each, "always b": lambda each: "b"
    }.items()}  # fmt: skip
    found = evaluate(told, ["a", "b"], OURS, "labels", bounds=["knows"])
    assert found["best_baseline"] == "always b"
    assert "knows" not in found["verdict"]
    assert found["against"]["knows"]["difference"]["value"] == -0.5
    assert evaluate(told, ["a", "b"], OURS, "labels")["best_baseline"] == "knows"


def test_separation_is_the_area_under_the_curve() -> None:
    """Against scikit-learn, with ties; and the hand example of two pairs in three, and a tie that counts a half."""
    gold = np.array([1, 0, 1, 0, 0, 1, 0, 1, 1, 0], dtype=bool)
    scores = np.array([0.9, 0.8, 0.7, 0.7, 0.1, 0.2, 0.2, 0.6, 0.6, 0.6])
    rows = [
        Predicted(str(at), "yes" if label else "no", "yes" if score >= 0.5 else "no", {"no": 1 - score, "yes": score})
        for at, (label, score) in enumerate(zip(gold, scores.tolist(), strict=True))
    ]
    found = evaluate({OURS: rows}, ["no", "yes"], OURS, "separation")
    assert found["metric"] == "auroc"
    assert found["systems"][OURS]["auroc"]["value"] == pytest.approx(roc_auc_score(gold, scores))
    assert found["systems"][OURS]["auroc"]["low"] < found["systems"][OURS]["auroc"]["value"]
    assert auroc(np.array([True, False, False]), np.array([0.5, 0.5, 0.1])) == 0.75
