"""Metrics against scikit-learn, SciPy and sums worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    log_loss,
    mean_absolute_error,
    r2_score,
    root_mean_squared_error,
)

from camelid import metrics
from camelid.metrics import Draws, entities, marks_entities


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(3)
    gold = draw.integers(0, 4, size=200)
    return gold, np.where(draw.random(200) < 0.6, gold, draw.integers(0, 4, size=200))


def test_f1_and_accuracy_equal_scikit_learn(answers: tuple[np.ndarray, np.ndarray]) -> None:
    gold, found = answers
    assert metrics.accuracy(gold, found) == accuracy_score(gold, found)
    np.testing.assert_allclose(metrics.f1_by_class(gold, found, 4), f1_score(gold, found, average=None))
    assert metrics.macro_f1(gold, found, 4) == pytest.approx(f1_score(gold, found, average="macro"))


def test_macro_f1_leaves_out_classes_that_never_occur() -> None:
    gold, found = np.array([0, 0, 2]), np.array([0, 2, 2])
    assert metrics.macro_f1(gold, found, 5) == pytest.approx(f1_score(gold, found, average="macro"))


def test_weighted_f1_by_hand() -> None:
    """Gold 0 0 0 1 2, found 0 0 1 1 1. F1 of class 0: 2 hits, 3 gold, 2 found, 4/5; class 1: 1, 1, 3, 2/4; class 2: 0.
    Macro (0.8 + 0.5) / 3; weighted by gold rows (3 * 0.8 + 1 * 0.5) / 5."""
    gold, found = np.array([0, 0, 0, 1, 2]), np.array([0, 0, 1, 1, 1])
    np.testing.assert_allclose(metrics.f1_by_class(gold, found, 3), [0.8, 0.5, 0.0])
    assert metrics.macro_f1(gold, found, 3) == pytest.approx(0.433333, abs=1e-6)
    assert metrics.weighted_f1(gold, found, 3) == pytest.approx(0.58)
    assert metrics.accuracy(gold, found) == 0.6
    # a label that only a reply without value gets, and no gold row has, carries no weight
    assert metrics.weighted_f1(gold, np.array([0, 0, 3, 1, 1]), 4) == pytest.approx((3 * 0.8 + 2 / 3) / 5)


def test_weighted_f1_equals_scikit_learn(answers: tuple[np.ndarray, np.ndarray]) -> None:
    gold, found = answers
    gold = np.where(gold == 3, 0, gold)  # uneven, and class 3 only found
    assert metrics.weighted_f1(gold, found, 4) == pytest.approx(f1_score(gold, found, average="weighted"))
    draws = Draws(200, seed=3, resamples=5)
    sampled = metrics.weighted_of(metrics.resampled_confusions(gold, found, 4, draws))
    expected = [f1_score(gold[drawn], found[drawn], average="weighted") for drawn in draws]
    np.testing.assert_allclose(sampled, expected)


def test_bootstrap_interval_is_near_the_normal_one(answers: tuple[np.ndarray, np.ndarray]) -> None:
    """Accuracy p on n rows has standard error sqrt(p (1 - p) / n); 1.96 of it on either side."""
    gold, found = answers
    counts = metrics.resampled_confusions(gold, found, 4, Draws(200, seed=1))
    span = metrics.interval(0.0, counts.trace(axis1=1, axis2=2) / 200)
    p = accuracy_score(gold, found)
    half = 1.96 * np.sqrt(p * (1 - p) / 200)
    assert span.low == pytest.approx(p - half, abs=0.015)
    assert span.high == pytest.approx(p + half, abs=0.015)


def test_draws_repeat_themselves() -> None:
    first, second = list(Draws(10, seed=4, resamples=3)), list(Draws(10, seed=4, resamples=3))
    assert np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize(("only_first", "only_second"), [(10, 2), (3, 3), (0, 7), (0, 0)])
def test_mcnemar_is_the_exact_binomial_test(only_first: int, only_second: int) -> None:
    right = [(True, False)] * only_first + [(False, True)] * only_second + [(True, True)] * 5
    first, second = (np.array(column) for column in zip(*right, strict=True))
    found = metrics.mcnemar(first, second)
    differ = only_first + only_second
    expected = stats.binomtest(only_first, differ, 0.5).pvalue if differ else 1.0
    assert found == (only_first, only_second, pytest.approx(expected))


def test_entities_as_conlleval_reads_them() -> None:
    tags = ["B-per", "I-per", "O", "I-loc", "I-loc", "B-loc", "I-per", "B-per"]
    expected = {("per", 0, 1), ("loc", 3, 4), ("loc", 5, 5), ("per", 6, 6), ("per", 7, 7)}
    assert entities(tags) == expected
    assert entities(tags, strict=True) == {("per", 0, 1), ("loc", 5, 5), ("per", 7, 7)}


@pytest.mark.parametrize(("tags", "chunks"), [
    (["S-a", "S-a", "O"], {("a", 0, 0), ("a", 1, 1)}),
    (["B-a", "I-a", "E-a", "I-a"], {("a", 0, 2), ("a", 3, 3)}),
    (["B-a", "E-a", "B-a", "O"], {("a", 0, 1), ("a", 2, 2)}),
    (["U-x", "B-y", "L-y", "L-z"], {("x", 0, 0), ("y", 1, 2), ("z", 3, 3)}),
    (["E-a", "E-a"], {("a", 0, 0), ("a", 1, 1)}),
])  # fmt: skip
def test_entities_of_other_schemes(tags: list[str], chunks: set[tuple[str, int, int]]) -> None:
    assert entities(tags) == chunks


def test_which_tags_mark_entities() -> None:
    assert marks_entities(["O", "B-person", "I-person"])
    assert marks_entities(["S-place", "O", "E-place", "B-place"])
    assert not marks_entities(["NOUN", "VERB", "O"])
    assert not marks_entities(["O"])


def test_entity_f1_by_hand() -> None:
    """Gold per(0,1) loc(3,3); found per(0,1) loc(3,4): 1 hit, 2 gold, 2 found, F1 = 2 / 4. Only loc: 0."""
    gold, found = ["B-per", "I-per", "O", "B-loc", "O"], ["B-per", "I-per", "O", "B-loc", "I-loc"]
    counts = metrics.entity_counts(gold, found)
    assert counts.tolist() == [1, 2, 2]
    assert metrics.counted_f1(counts) == 0.5
    assert metrics.counted_f1(metrics.entity_counts(gold, found, kind="loc")) == 0.0
    assert metrics.counted_f1(np.array([0, 0, 0])) == 0.0


@pytest.fixture
def sets() -> tuple[np.ndarray, np.ndarray]:
    """300 rows of 6 classes, of which the last never occurs; some rows have none."""
    draw = np.random.default_rng(4)
    gold = draw.random((300, 6)) < [0.5, 0.3, 0.2, 0.1, 0.02, 0.0]
    return gold, gold ^ (draw.random((300, 6)) < [0.2, 0.2, 0.2, 0.1, 0.01, 0.0])


def test_f1_of_sets_equals_scikit_learn(sets: tuple[np.ndarray, np.ndarray]) -> None:
    gold, found = sets
    counts = metrics.set_counts(gold, found)
    np.testing.assert_allclose(metrics.counted_f1(counts), f1_score(gold, found, average=None, zero_division=0))
    assert metrics.micro_f1(counts) == pytest.approx(f1_score(gold, found, average="micro"))
    # nan leaves a class that never occurs out of the mean
    assert metrics.mean_f1(counts) == pytest.approx(f1_score(gold, found, average="macro", zero_division=np.nan))


def test_set_counts_by_hand() -> None:
    """Class a: gold in rows 1 and 2, found in 2 and 3, so 1 hit. Class b: gold in 1 only, never found. F1 2 / 4 and 0;
    micro 2 * 1 / (3 + 2)."""
    gold, found = np.array([[1, 1], [1, 0], [0, 0]], bool), np.array([[0, 0], [1, 0], [1, 0]], bool)
    counts = metrics.set_counts(gold, found)
    assert counts.tolist() == [[1, 2, 2], [0, 1, 0]]
    assert (metrics.micro_f1(counts), metrics.mean_f1(counts)) == (0.4, 0.25)
    assert metrics.micro_f1(np.zeros((2, 3), int)) == metrics.mean_f1(np.zeros((2, 3), int)) == 0


def test_resampled_set_counts_are_those_of_the_drawn_rows(sets: tuple[np.ndarray, np.ndarray]) -> None:
    gold, found = sets
    draws = Draws(300, seed=1, resamples=20)
    expected = [metrics.set_counts(gold[draw], found[draw]) for draw in draws]
    np.testing.assert_array_equal(metrics.resampled_set_counts(gold, found, draws), expected)


def test_scores_of_numbers_equal_scikit_learn_and_scipy() -> None:
    draw = np.random.default_rng(5)
    gold = draw.integers(1, 6, size=200).astype(float)  # many ties
    found = (0.5 * gold + draw.normal(size=200)).round(1)
    assert metrics.r2(gold, found) == pytest.approx(r2_score(gold, found))
    assert metrics.r2(gold, found) != pytest.approx(r2_score(found, gold))
    assert metrics.pearson(gold, found) == pytest.approx(stats.pearsonr(gold, found).statistic)
    assert metrics.spearman(gold, found) == pytest.approx(stats.spearmanr(gold, found).statistic)
    assert metrics.spearman(gold, -found) == pytest.approx(-metrics.spearman(gold, found))
    assert metrics.mae(gold, found) == pytest.approx(mean_absolute_error(gold, found))
    assert metrics.rmse(gold, found) == pytest.approx(root_mean_squared_error(gold, found))


def test_r2_by_hand() -> None:
    """Gold 1, 2, 3 has SS_tot 2. Found 1, 2, 5: SS_res 4, so -1. Found 2, 2, 2 (the mean): 0. Swapped: SS_tot 26/3."""
    gold, found = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 5.0])
    assert metrics.r2(gold, found) == -1
    assert metrics.r2(gold, np.full(3, 2.0)) == 0
    assert metrics.r2(found, gold) == pytest.approx(1 - 4 / (26 / 3))


def test_what_is_not_defined_is_zero() -> None:
    """0.1 three times has a mean that is not exactly 0.1, so its SS_tot is above 0 by a rounding error."""
    same, other = np.full(3, 0.1), np.array([0.1, 0.2, 0.4])
    assert metrics.pearson(same, other) == metrics.spearman(other, same) == 0
    assert (metrics.r2(same, other), metrics.r2(same, same)) == (0, 1)


def test_ranks_of_a_part_need_no_new_sorting() -> None:
    draw = np.random.default_rng(6)
    values = draw.integers(0, 30, size=100) / 7
    places = metrics.number_values(values)
    np.testing.assert_array_equal(metrics.average_ranks(places), stats.rankdata(values))
    drawn = draw.integers(0, 100, size=(3, 40))
    np.testing.assert_array_equal(metrics.average_ranks(places[drawn]), stats.rankdata(values[drawn], axis=1))


@pytest.mark.parametrize("rows", [1_000, 70_000])
def test_resamples_scored_in_blocks_are_those_scored_alone(rows: int) -> None:
    """70,000 rows make blocks of one resample, 1,000 rows one block of all."""
    gold, found = np.random.default_rng(8).normal(size=(2, rows))
    draws = Draws(rows, seed=2, resamples=5)
    for score in (metrics.r2, metrics.pearson, metrics.mae, metrics.rmse):
        alone = [score(gold[drawn], found[drawn]) for drawn in draws]
        together = metrics.bootstrap_rows(draws, lambda drawn, score=score: score(gold[drawn], found[drawn]))
        np.testing.assert_allclose(together, alone)
    np.testing.assert_allclose(metrics.resampled_mean(gold, draws), [gold[drawn].mean() for drawn in draws])


def test_confidence_on_an_edge_belongs_below_it() -> None:
    confidence = np.array([0.0, 0.05, 0.1, np.nextafter(0.1, 1), 0.3, 0.7, 0.95, 1.0])
    assert metrics.confidence_bins(confidence).tolist() == [0, 0, 0, 1, 2, 6, 9, 9]


def test_calibration_error_by_hand() -> None:
    """Bin (0.5, 0.6]: confidences 0.6, 0.6 and one right: |1/2 - 0.6| = 0.1 on 2 of 5 rows. Bin (0.8, 0.9]: 0.9, 0.8+
    and 0.86, all right: 1 - (0.9 + 0.85 + 0.86) / 3 = 0.13 on 3 of 5. ECE = 0.04 + 0.078."""
    confidence, right = np.array([0.6, 0.9, 0.6, 0.85, 0.86]), np.array([True, True, False, True, True])
    assert metrics.calibration_error(confidence, right) == pytest.approx(0.118)
    low, high = metrics.reliability(confidence, right)
    assert low == {"low": 0.5, "high": 0.6, "count": 2, "confidence": 0.6, "accuracy": 0.5}
    assert high == {"low": 0.8, "high": 0.9, "count": 3, "confidence": pytest.approx(0.87), "accuracy": 1.0}


def test_brier_and_likelihood_by_hand() -> None:
    """Said 0.7, 0.2, 0.1 where the second is gold: 0.49 + 0.64 + 0.01, and -log 0.2. What had 0 counts as 1e-12."""
    said, gold = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]]), np.array([1, 2])
    np.testing.assert_allclose(metrics.brier(said, gold), [1.14, 2.0])
    np.testing.assert_allclose(metrics.negative_log_likelihood(said, gold), [-np.log(0.2), 12 * np.log(10)])
    draw = np.random.default_rng(7)
    said, gold = draw.dirichlet(np.ones(4), size=50), draw.integers(0, 4, size=50)
    assert metrics.negative_log_likelihood(said, gold).mean() == pytest.approx(log_loss(gold, said))


def test_chance_error_is_that_of_coins() -> None:
    """A model that always says 1/2 and is right like a coin: |X / 100 - 1/2| for X ~ Binomial(100, 1/2), whose 95th
    percentile is 0.10. One that says 1 and is always right has no error."""
    found = metrics.chance_error(np.full(100, 0.5), Draws(100, seed=0))
    assert found == pytest.approx((stats.binom.ppf(0.975, 100, 0.5) - 50) / 100, abs=0.011)
    assert metrics.chance_error(np.ones(100), Draws(100, seed=0, resamples=10)) == 0


def test_mean_over_seeds_by_hand() -> None:
    """1, 2, 3: s = 1 and t(0.975; 2) = 4.3027, so 2 +- 4.3027 / sqrt(3)."""
    found = metrics.aggregate_seeds([1.0, 2.0, 3.0])
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2 - 2.48414, 2 + 2.48414), abs=1e-4)
    values = [0.81, 0.79, 0.8, 0.84, 0.77]
    found = metrics.aggregate_seeds(values)
    ends = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(ends)
    assert metrics.aggregate_seeds([0.7]).as_dict() == {"value": 0.7, "low": 0.7, "high": 0.7}


def test_names_of_metrics() -> None:
    names = [metrics.name_metric(name) for name in ("accuracy", "entity_f1", "macro_f1", "r2", "exact_match", "rmse")]
    assert names == ["accuracy", "entity F1", "macro-F1", "R²", "exact match", "RMSE"]


def test_win_rates_by_hand() -> None:
    """Wins 0.1, 0.5, 0.6, 1.0: mean 0.55; deviations 0.45, 0.05, 0.05, 0.45 give 0.41 / 3; decided 0, 1/2, 1, 1."""
    found = metrics.win_rates(np.array([0.1, 0.5, 0.6, 1.0]))
    assert found["win_rate"] == pytest.approx(55)
    assert found["standard_error"] == pytest.approx(100 * (0.41 / 3) ** 0.5 / 2)
    assert found["discrete_win_rate"] == pytest.approx(62.5)


def test_a_correlation_over_tables_draws_whole_rows() -> None:
    """r = 2 n exactly correlates with 1 in every draw of rows; a constant correlates with nothing."""
    tokens_N2 = np.array([(1, 4), (2, 3), (7, 5), (6, 8)])
    exact = metrics.spread_pearson(2.0 * tokens_N2, tokens_N2)
    assert (exact["value"], exact["low"]) == pytest.approx((1.0, 1.0))
    assert metrics.spread_pearson(np.full((4, 2), 2.0), tokens_N2)["value"] == 0
    value = metrics.spread_pearson(tokens_N2 % 3, tokens_N2)["value"]
    assert value == pytest.approx(np.corrcoef((tokens_N2 % 3).ravel(), tokens_N2.ravel())[0, 1])
