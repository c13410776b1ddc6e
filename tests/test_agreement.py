"""Agreement against scikit-learn, published examples and sums worked by hand."""

from __future__ import annotations

import json
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import cohen_kappa_score

from camelid import agreement
from camelid.agreement import Vote, majority_vote
from camelid.metrics import Draws

NO = float("nan")
# Krippendorff 2011, example C: 4 observers, 12 units, 5 values
FOUR_OBSERVERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NO, NO, NO],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NO, 3],
        [NO, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NO],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NO],
    ]
)
# Fleiss 1971 as commonly tabulated: 10 subjects, 14 ratings each; how often each of 5 values was given
FLEISS = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]
LEVELS: tuple[agreement.Level, ...] = ("nominal", "ordinal", "interval")


def alpha_by_definition(ratings: np.ndarray, level: str) -> float:
    """Krippendorff's alpha from its coincidence matrix and the difference functions as he writes them."""
    values = sorted({value for value in ratings.reshape(-1).tolist() if value == value})
    place = {value: k for k, value in enumerate(values)}
    coincidences = np.zeros((len(values), len(values)))
    for unit in ratings.T:
        said = [place[value] for value in unit.tolist() if value == value]
        for first, second in permutations(range(len(said)), 2):
            coincidences[said[first], said[second]] += 1 / (len(said) - 1)
    marginal = coincidences.sum(axis=1)
    observed = expected = 0.0
    for c, one in enumerate(values):
        for k, other in enumerate(values):
            low, high = sorted((c, k))
            between = marginal[low : high + 1].sum() - (marginal[c] + marginal[k]) / 2
            apart = {"nominal": float(c != k), "ordinal": between**2, "interval": (one - other) ** 2}[level]
            observed += coincidences[c, k] * apart
            expected += marginal[c] * marginal[k] * apart
    return 1 - (marginal.sum() - 1) * observed / expected if expected else 0.0


@pytest.fixture
def two() -> tuple[np.ndarray, np.ndarray]:
    """200 units in 4 ordered classes; the second annotator is right in half of them and leans upwards."""
    draw = np.random.default_rng(9)
    first = draw.choice(4, size=200, p=[0.5, 0.2, 0.2, 0.1])
    return first, np.where(draw.random(200) < 0.5, first, draw.choice(4, size=200, p=[0.1, 0.2, 0.3, 0.4]))


@pytest.fixture
def several() -> np.ndarray:
    """5 annotators, 60 units, values 0 to 3 around a true one, a quarter missing."""
    draw = np.random.default_rng(10)
    ratings = np.clip(draw.integers(0, 4, size=60) + draw.integers(-1, 2, size=(5, 60)), 0, 3).astype(float)
    ratings[draw.random((5, 60)) < 0.25] = NO
    return ratings


def test_cohen_kappa_by_hand() -> None:
    """20 and 15 of 50 agreed, 5 and 10 not: observed 35/50 = 0.7. First says 0 in 25, second in 30: by chance
    (25 * 30 + 25 * 20) / 2500 = 0.5. kappa = (0.7 - 0.5) / (1 - 0.5)."""
    first = np.repeat([0, 0, 1, 1], [20, 5, 10, 15])
    second = np.repeat([0, 1, 0, 1], [20, 5, 10, 15])
    assert agreement.cohen_kappa(first, second, 2) == pytest.approx(0.4)


def test_weighted_kappa_by_hand() -> None:
    """Pairs 00, 01, 12, 22. First says 0 twice, 1 and 2 once; second 0 and 1 once, 2 twice; 4 units.

    Linear: observed 1 + 1. Expected, times 4: 0 with 1 and 2 is 2 * 1 + 2 * 2 * 2, 1 with 0 and 2 is 1 + 2, 2 with 0
    and 1 is 2 + 1; together 16, so 4: kappa = 1 - 2 / 4. Squared: observed 2, expected (2 + 16 + 1 + 2 + 4 + 1) / 4.
    """
    first, second = np.array([0, 0, 1, 2]), np.array([0, 1, 2, 2])
    assert agreement.cohen_kappa(first, second, 3, "linear") == pytest.approx(0.5)
    assert agreement.cohen_kappa(first, second, 3, "quadratic") == pytest.approx(1 - 8 / 26)


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
def test_cohen_kappa_equals_scikit_learn(two: tuple[np.ndarray, np.ndarray], weights: agreement.Weights | None) -> None:
    first, second = two
    found = agreement.cohen_kappa(first, second, 4, weights)
    assert found == pytest.approx(cohen_kappa_score(first, second, weights=weights))
    assert agreement.cohen_kappa(second, first, 4, weights) == pytest.approx(found)
    # a class that nobody used changes nothing, where it stands behind the others
    assert agreement.cohen_kappa(first, second, 6, weights) == pytest.approx(found)
    assert agreement.cohen_kappa(first, first, 4, weights) == 1


def test_alpha_of_two_observers_by_hand() -> None:
    """Krippendorff 2011, example A: 10 units, 4 of them unequal, 14 zeros and 6 ones among n = 20 ratings. Each unequal
    unit is two ordered pairs: D_o = 8 / 20; D_e = 2 * 14 * 6 / (20 * 19): 1 - 0.4 / 0.442 = 0.095."""
    ratings = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]], float)
    assert agreement.krippendorff_alpha(ratings) == pytest.approx(1 - (8 / 20) / (168 / 380))
    assert round(agreement.krippendorff_alpha(ratings), 3) == 0.095
    assert agreement.raw_agreement(ratings) == 0.6


def test_alpha_of_many_values_by_hand() -> None:
    """Krippendorff 2011, example B: 12 units, 3 of them unequal, n = 24 ratings: a 4, b 6, c 6, d 6 and e 2 times.
    1 - 23 * 6 / (24^2 - (16 + 36 + 36 + 36 + 4)) = 0.692."""
    said = ("aabbdcccedda", "babbbccceddd")
    ratings = agreement.number_ratings(said, "abcde")
    assert agreement.raw_agreement(ratings) == 0.75
    assert agreement.krippendorff_alpha(ratings) == pytest.approx(1 - 23 * 6 / (576 - 128))
    assert round(agreement.krippendorff_alpha(ratings), 3) == 0.692


def test_alpha_of_four_observers_with_missing_ratings() -> None:
    """Krippendorff 2011, example C, published as 0.743 (nominal), 0.815 (ordinal), 0.849 (interval).

    Unit 12 has one rating and is left out: n = 40 ratings of 11 units, 1 to 5 given 9, 13, 10, 5 and 3 times. Nominal,
    unequal ordered pairs over m - 1: unit 2 (2 2 3 2) 6/3, unit 6 (1 2 3 4) 12/3, unit 8 (1 1 2 1) 6/3; together 8. By
    chance 40^2 - (81 + 169 + 100 + 25 + 9) = 1216: 1 - 39 * 8 / 1216 = 0.743.
    Interval, squared over m - 1: unit 2 6/3, unit 6 2 (1 + 4 + 9 + 1 + 4 + 1) / 3, unit 8 6/3; together 52/3. By chance
    2 (n sum v^2 - (sum v)^2) = 2 (40 * 306 - 100^2) = 4480: 1 - 39 * 52 / 3 / 4480 = 0.849.
    """
    found = [agreement.krippendorff_alpha(FOUR_OBSERVERS, level) for level in LEVELS]
    assert found[0] == pytest.approx(1 - 39 * 8 / 1216)
    assert found[2] == pytest.approx(1 - 39 * 52 / 3 / 4480)
    assert [round(value, 3) for value in found] == [0.743, 0.815, 0.849]


ANYTHING = arrays.arrays(
    float,
    st.tuples(st.integers(1, 4), st.integers(1, 7)),
    elements=st.sampled_from([NO, 0.1, 1.0, 2.0, 5.0, -3.0]),
)


@given(ANYTHING, st.sampled_from(LEVELS))
def test_alpha_is_what_its_definition_says(ratings: np.ndarray, level: agreement.Level) -> None:
    compared = np.where((~np.isnan(ratings)).sum(axis=0) > 1, ratings, NO)
    found = agreement.krippendorff_alpha(ratings, level)
    assert found == pytest.approx(alpha_by_definition(compared, level))
    order = np.random.default_rng(0).permutation(ratings.shape[0])
    assert agreement.krippendorff_alpha(ratings[order], level) == pytest.approx(found), "annotators have no order"


@given(ANYTHING)
def test_alpha_keeps_what_its_level_keeps(ratings: np.ndarray) -> None:
    """Nominal: any renaming. Ordinal: any rising function. Interval: another unit and origin."""
    alphas = {level: agreement.krippendorff_alpha(ratings, level) for level in LEVELS}
    renamed = np.cos(ratings)
    assert agreement.krippendorff_alpha(renamed, "nominal") == pytest.approx(alphas["nominal"])
    assert agreement.krippendorff_alpha(np.exp(ratings), "ordinal") == pytest.approx(alphas["ordinal"])
    assert agreement.krippendorff_alpha(1e6 - 3 * ratings, "interval") == pytest.approx(alphas["interval"])


def test_interval_alpha_sees_how_far_apart_values_are() -> None:
    """Values 1, 2 and 9, once mistaken for the neighbour and once for the far one."""
    near = np.array([[1, 2, 9, 1, 2], [1, 2, 9, 1, 1]], float)
    far = np.array([[1, 2, 9, 1, 9], [1, 2, 9, 1, 1]], float)
    for level in LEVELS[1:]:
        assert agreement.krippendorff_alpha(near, level) > agreement.krippendorff_alpha(far, level)
    assert agreement.krippendorff_alpha(near, "interval") > agreement.krippendorff_alpha(near, "ordinal")


def fleiss_ratings() -> np.ndarray:
    return np.array([np.repeat(np.arange(5), counts) for counts in FLEISS], float).T


def test_fleiss_kappa_by_hand() -> None:
    """Agreeing pairs of subject 2: (2 * 1 + 6 * 5 + 4 * 3 + 2 * 1) / (14 * 13) = 0.253; over all subjects P = 0.378.
    The values were given 20, 28, 39, 21 and 32 times of 140, so P_e = 0.213: (0.378 - 0.213) / (1 - 0.213) = 0.210."""
    ratings = fleiss_ratings()
    agreeing = [sum(count * (count - 1) for count in counts) / (14 * 13) for counts in FLEISS]
    chance = sum((count / 140) ** 2 for count in (20, 28, 39, 21, 32))
    assert agreement.raw_agreement(ratings) == pytest.approx(np.mean(agreeing))
    assert agreement.fleiss_kappa(ratings) == pytest.approx((np.mean(agreeing) - chance) / (1 - chance))
    assert round(agreement.fleiss_kappa(ratings), 3) == 0.210


def test_fleiss_kappa_and_alpha_differ_by_the_small_sample() -> None:
    """alpha = kappa + (1 - kappa) / n over n ratings, because alpha draws its chance pairs without putting back."""
    ratings = fleiss_ratings()
    kappa = agreement.fleiss_kappa(ratings)
    assert agreement.krippendorff_alpha(ratings) == pytest.approx(kappa + (1 - kappa) / 140)


def test_fleiss_kappa_does_not_ask_who_rated() -> None:
    """Each unit was rated twice, by varying annotators: the same as two annotators who rated all."""
    pair = np.array([[0, 1, 1, 0, 2], [0, 1, 0, 0, 2]], float)
    spread = np.array([[0, 1, NO, 0, NO], [NO, 1, 1, 0, 2], [0, NO, 0, NO, 2]])
    assert agreement.fleiss_kappa(spread) == pytest.approx(agreement.fleiss_kappa(pair))
    with pytest.raises(ValueError, match="differ in the number of ratings"):
        agreement.fleiss_kappa(FOUR_OBSERVERS)


def test_agreement_on_the_only_value_is_no_evidence() -> None:
    same = np.full((3, 4), 0.1)
    assert agreement.cohen_kappa(np.zeros(4, int), np.zeros(4, int), 2) == 0
    assert agreement.fleiss_kappa(same) == 0
    assert [agreement.krippendorff_alpha(same, level) for level in LEVELS] == [0, 0, 0]
    assert agreement.raw_agreement(same) == 1
    # values apart whose squares are too small for a float
    assert agreement.krippendorff_alpha(np.array([[0, 1e-200], [1e-200, 0]]), "interval") == 0
    alone = np.array([[1.0, NO, 2.0], [NO, 3.0, NO]])
    assert agreement.krippendorff_alpha(alone) == 0
    with pytest.raises(ValueError, match="no unit was rated twice"):
        agreement.raw_agreement(alone)


def test_raw_agreement_counts_each_unit_once() -> None:
    """Unit 1: one of three pairs is equal; unit 2: the only pair; unit 3 has one rating. (1/3 + 1) / 2."""
    ratings = np.array([[1, 4, 5], [1, 4, NO], [2, NO, NO]])
    assert agreement.raw_agreement(ratings) == pytest.approx(2 / 3)


@pytest.mark.parametrize("level", LEVELS)
def test_resampled_alpha_is_that_of_the_drawn_units(several: np.ndarray, level: agreement.Level) -> None:
    draws = Draws(60, seed=1, resamples=20)
    expected = [agreement.krippendorff_alpha(several[:, drawn], level) for drawn in draws]
    np.testing.assert_allclose(agreement.resampled_alpha(several, level, draws), expected)


def test_resampled_kappas_are_those_of_the_drawn_units() -> None:
    ratings = fleiss_ratings()
    draws = Draws(10, seed=1, resamples=20)
    expected = [agreement.fleiss_kappa(ratings[:, drawn]) for drawn in draws]
    np.testing.assert_allclose(agreement.resampled_fleiss_kappa(ratings, draws), expected)


def test_numbers_of_ratings() -> None:
    found = agreement.number_ratings([["b", None, "a"], ["c", "a", None]], ["a", "b", "c"])
    np.testing.assert_array_equal(found, [[1, NO, 0], [2, 0, NO]])
    with pytest.raises(KeyError, match="d"):
        agreement.number_ratings([["d"]], ["a", "b", "c"])
    with pytest.raises(ValueError, match="inhomogeneous"):
        agreement.number_ratings([["a"], ["a", "b"]], ["a", "b", "c"])


def test_everything_at_once(several: np.ndarray) -> None:
    names = ["low", "mid", "high", "top"]
    said: dict[str, list[Any]] = {
        f"model {a}": [None if value != value else names[int(value)] for value in row] for a, row in enumerate(several)
    }
    found = agreement.measure_agreement(said, names, "ordinal", "quadratic")
    assert json.loads(json.dumps(found)) == found
    counts = (~np.isnan(several)).sum(axis=0)
    assert (found["units"], found["compared"], found["complete"]) == (60, (counts > 1).sum(), (counts == 5).sum())
    assert found["annotators"] == {name: 60 - values.count(None) for name, values in said.items()}
    assert found["krippendorff_alpha"]["value"] == agreement.krippendorff_alpha(several, "ordinal")
    assert found["raw_agreement"]["value"] == agreement.raw_agreement(several)
    assert found["fleiss_kappa"]["value"] == agreement.fleiss_kappa(several[:, counts == 5])
    for name in ("raw_agreement", "krippendorff_alpha", "fleiss_kappa"):
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    assert len(found["pairs"]) == 10
    pair = found["pairs"][5]  # 01 02 03 04 12 13
    first, second = several[1], several[3]
    both = ~np.isnan(first) & ~np.isnan(second)
    kappa = cohen_kappa_score(first[both], second[both], weights="quadratic")
    assert (pair["first"], pair["second"], pair["units"]) == ("model 1", "model 3", both.sum())
    assert pair["cohen_kappa"]["value"] == pytest.approx(kappa)
    assert pair["cohen_kappa"]["low"] < kappa < pair["cohen_kappa"]["high"]
    assert pair["raw_agreement"]["value"] == pytest.approx((first[both] == second[both]).mean())
    cells = [[int(((first == a) & (second == b)).sum()) for b in range(4)] for a in range(4)]
    assert pair["confusion"] == cells


def test_numbers_that_are_no_classes_have_no_kappa() -> None:
    """Units rated 2 and 4, 6 and 7; the third has one rating. n = 4 ratings: D_o = (2 * 4 + 2 * 1) / 4, D_e =
    2 (4 * 105 - 19^2) / 12."""
    found = agreement.measure_agreement({"a": [2, 6, None], "b": [4.0, 7, 3]}, level="interval")
    assert found["krippendorff_alpha"]["value"] == pytest.approx(1 - (10 / 4) / (118 / 12))
    assert found["fleiss_kappa"] is None
    assert set(found["pairs"][0]) == {"first", "second", "units", "raw_agreement"}
    # with classes that are numbers alpha takes the numbers, not their places
    classes = [2, 3, 4, 6, 7]
    again = agreement.measure_agreement({"a": [2, 6, None], "b": [4, 7, 3]}, classes, "interval")
    assert again["krippendorff_alpha"] == found["krippendorff_alpha"]
    assert again["pairs"][0]["confusion"][0] == [0, 0, 1, 0, 0]


def test_annotators_that_share_no_unit_have_no_agreement() -> None:
    found = agreement.measure_agreement({"a": ["x", None], "b": [None, "y"]}, ["x", "y"])
    assert (found["compared"], found["complete"]) == (0, 0)
    assert found["raw_agreement"] is found["krippendorff_alpha"] is found["fleiss_kappa"] is None
    pair = found["pairs"][0]
    assert (pair["units"], pair["raw_agreement"], pair["cohen_kappa"]) == (0, None, None)
    assert agreement.measure_agreement({"a": ["x"]}, ["x"])["pairs"] == []


def test_vote_by_hand() -> None:
    assert majority_vote(["b", "a", "b", None]) == Vote("b", {"b": 2 / 3, "a": 1 / 3}, 3)
    assert majority_vote([0, False, 1, 0]).value == 0
    assert majority_vote([None, None, "a"]).value == "a"
    assert majority_vote([None]) == majority_vote([]) == Vote(None, {}, 0)
    # the most votes need not be more than half
    assert majority_vote(["a", "b", "c", "c"]).value == "c"


def test_ties_are_broken_as_asked() -> None:
    votes = ["c", "b", "a", "b", "a"]
    assert majority_vote(votes) == Vote(None, {"b": 0.4, "a": 0.4, "c": 0.2}, 5)
    assert majority_vote(votes, "first").value == "b"
    assert majority_vote(votes, ("c", "a", "b")).value == "a"  # c is ranked first but has fewer votes
    assert majority_vote(["safe", "unsafe"], ("unsafe", "safe")).value == "unsafe"
    with pytest.raises(ValueError, match="none of the values"):
        majority_vote(votes, ("c",))
    # without a tie the ranking plays no part
    assert majority_vote(["x", "x", "a"], ("a",)).value == "x"


@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=9))
def test_a_winner_has_more_votes_than_any_other(votes: list[str | None]) -> None:
    vote = majority_vote(votes)
    cast = [value for value in votes if value is not None]
    assert vote.votes == len(cast)
    assert vote.shares == {value: cast.count(value) / len(cast) for value in set(cast)}
    assert list(vote.shares.values()) == sorted(vote.shares.values(), reverse=True)
    most = [value for value in vote.shares if vote.shares[value] == max(vote.shares.values())]
    assert vote.value == (most[0] if len(most) == 1 else None)
    assert majority_vote(votes, "first").value == (min(most, key=votes.index) if most else None)
