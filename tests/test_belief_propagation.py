"""Belief propagation against sums over all states, on trees, loops and groups."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from camelid import belief_propagation
from camelid.belief_propagation import Groups, Pairs, count_messages, propagate, softplus


def pairs_of(*triples: tuple[int, int, float]) -> Pairs:
    first, second, theta = zip(*triples, strict=True) if triples else ((), (), ())
    return Pairs(np.array(first, dtype=int), np.array(second, dtype=int), np.array(theta, dtype=float))


def enumerate_marginals(theta_N: Any, pairs: Pairs, groups: list[Groups]) -> Any:
    """P(y_i = 1) from the sum over all 2^N states."""
    states = np.array(list(product((0, 1), repeat=len(theta_N))))
    log = states @ theta_N + (states[:, pairs.first_E] * states[:, pairs.second_E]) @ pairs.theta_E
    for group in groups:
        for members_M, table_S in zip(group.members_GM, group.table_GS, strict=True):
            log = log + table_S[states[:, members_M].sum(axis=1)]
    weights = np.exp(log - log.max())
    return weights @ states / weights.sum()


def test_exact_on_a_random_tree_with_groups() -> None:
    """Three groups of sizes 3, 3 and 2, joined by two pairs: no loop, so marginals are exact."""
    draw = np.random.default_rng(0)
    theta_N = draw.normal(size=8)
    groups = [
        Groups(np.array([[0, 1, 2], [3, 4, 5]]), draw.normal(size=(2, 4)) * 2),
        Groups(np.array([[6, 7]]), draw.normal(size=(1, 3)) * 2),
    ]
    pairs = pairs_of((2, 3, 1.5), (5, 6, -2.0))
    found = propagate(theta_N, pairs, groups, sweeps=200)
    assert found.marginals == pytest.approx(enumerate_marginals(theta_N, pairs, groups), abs=1e-7)
    assert found.sweeps < 200
    assert found.change == found.trace[-1] < 1e-9


def test_counting_equals_a_sum_over_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    cavity_GM, table_GS = draw.normal(size=(3, 5)) * 3, draw.normal(size=(3, 6)) * 3
    found_GM = count_messages(cavity_GM, table_GS)
    for group, place in product(range(3), range(5)):
        others = np.delete(cavity_GM[group], place)
        sums = [0.0, 0.0]
        for states in product((0, 1), repeat=4):
            weight = np.exp(np.dot(states, others) - softplus(others).sum())
            for value in (0, 1):
                sums[value] += weight * np.exp(table_GS[group, sum(states) + value])
        assert found_GM[group, place] == pytest.approx(np.log(sums[1] / sums[0]), abs=1e-9)
    groups = [Groups(np.arange(15).reshape(3, 5), table_GS)]
    whole = propagate(cavity_GM.reshape(-1), pairs_of(), groups).log_odds_N
    monkeypatch.setattr(belief_propagation, "TABLE_BYTES", 1)
    assert np.array_equal(propagate(cavity_GM.reshape(-1), pairs_of(), groups).log_odds_N, whole), (
        "blocks change nothing"
    )


def test_far_log_odds_neither_overflow_nor_tie() -> None:
    """Log-odds of thousands stay apart; only probabilities are clamped."""
    theta_N = np.array([3000.0, 2000.0, -4000.0])
    group = Groups(np.array([[0, 1, 2]]), -1e4 * np.square(np.arange(4.0) - 1)[None])
    found = propagate(theta_N, pairs_of(), [group], sweeps=300)
    assert np.isfinite(found.log_odds_N).all()
    assert found.log_odds_N.argsort().tolist() == [2, 1, 0]
    assert found.marginals == pytest.approx([1, 0, 0], abs=1e-9)


def test_messages_start_where_they_are_told_to() -> None:
    """After no sweep: theta + sum of theta_ij / 2, or theta alone."""
    theta_N, pairs = np.array([1.0, -1.0, 0.5]), pairs_of((0, 1, 2.0), (1, 2, -3.0))
    assert propagate(theta_N, pairs, sweeps=0).log_odds_N == pytest.approx([2.0, -1.5, -1.0])
    assert propagate(theta_N, pairs, sweeps=0, neutral=False).log_odds_N == pytest.approx(theta_N)
    once = propagate(theta_N, pairs, sweeps=1, damping=0.25, neutral=False).log_odds_N
    message = 0.75 * (softplus(-1.0 + 2.0) - softplus(-1.0))
    assert once[0] == pytest.approx(1.0 + message)
