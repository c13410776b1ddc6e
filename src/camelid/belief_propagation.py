"""Sum-product belief propagation over binary variables, in log-odds: pairs of variables, and sums over groups of them.

The model is log P(y) = sum_i theta_i y_i + sum_(i,j) theta_ij y_i y_j + sum_g f_g(sum_{i in g} y_i) + constant. What
comes back are marginals: exact where pairs and groups form no loop, an approximation where they do (Kschischang, Frey
and Loeliger, 2001, "Factor Graphs and the Sum-Product Algorithm"). A group is one factor whatever its size, so
variables of one group are no loop.

Axes: N variables, E pairs, G groups of one size, M members of each, S = M + 1 possible sums of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
TABLE_BYTES = 64 << 20  # most memory of the tables of sums that are held at once
SETTLED = 1e-9  # largest change of a message from which on nothing happens any more


@dataclass(frozen=True)
class Pairs:
    """`theta_E` is added where both variables `first_E` and `second_E` are 1. Each pair stands once."""

    first_E: Ints
    second_E: Ints
    theta_E: Floats


@dataclass(frozen=True)
class Groups:
    """Groups of one size, without common members; `table_GS` is f of each sum, in nats."""

    members_GM: Ints
    table_GS: Floats


@dataclass(frozen=True)
class Beliefs:
    """Log-odds of each variable, after how many sweeps, and by how much the last one changed a message at most."""

    log_odds_N: Floats
    sweeps: int
    change: float
    trace: list[float] = field(default_factory=list)

    @property
    def marginals(self) -> Floats:
        """P(y_i = 1), of log-odds within 50 of 0."""
        return 1 / (1 + np.exp(-np.clip(self.log_odds_N, -50, 50)))


def propagate(
    theta_N: Floats,
    pairs: Pairs,
    groups: Sequence[Groups] = (),
    *,
    sweeps: int = 100,
    damping: float = 0.5,
    neutral: bool = True,
) -> Beliefs:
    """All messages at once, `sweeps` times or until they stand still; m <- damping m + (1 - damping) m_new.

    A message from j to i over a pair is softplus(c_j + theta_ij) - softplus(c_j), where c_j is what j hears from
    everybody but i. `neutral` starts from theta_ij / 2, which favours neither value: swapping the values in the whole
    model then swaps every sweep. Otherwise messages start from 0, which favours 0.
    """
    edges = len(pairs.theta_E)
    sources_D = np.concatenate([pairs.first_E, pairs.second_E])  # D = 2 E directed pairs
    targets_D = np.concatenate([pairs.second_E, pairs.first_E])
    theta_D = np.concatenate([pairs.theta_E, pairs.theta_E])
    back_D = np.concatenate([np.arange(edges, 2 * edges), np.arange(edges)])
    message_D = theta_D / 2 if neutral else np.zeros(2 * edges)
    counted_N = np.zeros(len(theta_N))  # messages of the groups

    def believe() -> Floats:
        return theta_N + np.bincount(targets_D, message_D, minlength=len(theta_N)) + counted_N

    trace: list[float] = []
    while len(trace) < sweeps and not (trace and trace[-1] < SETTLED):
        belief_N = believe()
        cavity_D = belief_N[sources_D] - message_D[back_D]
        new_D = softplus(cavity_D + theta_D) - softplus(cavity_D)
        new_N = _count_all(belief_N - counted_N, groups)
        change = max(np.abs(new_D - message_D).max(initial=0.0), np.abs(new_N - counted_N).max(initial=0.0))
        message_D = damping * message_D + (1 - damping) * new_D
        counted_N = damping * counted_N + (1 - damping) * new_N
        trace.append(float(change))
    return Beliefs(believe(), len(trace), trace[-1] if trace else 0.0, trace)


def _count_all(cavity_N: Floats, groups: Sequence[Groups]) -> Floats:
    message_N = np.zeros(len(cavity_N))
    for group in groups:
        size = group.members_GM.shape[1]
        step = max(1, TABLE_BYTES // (8 * (size + 1) ** 2))
        for start in range(0, len(group.members_GM), step):
            members_GM = group.members_GM[start : start + step]
            message_N[members_GM] = count_messages(cavity_N[members_GM], group.table_GS[start : start + step])
    return message_N


def count_messages(cavity_GM: Floats, table_GS: Floats) -> Floats:
    """log sum_s P_{-i}(s) e^{f(s + 1)} - log sum_s P_{-i}(s) e^{f(s)} for each member i of each group.

    P_{-i} is the distribution of the sum of the other members, who are 1 with the log-odds `cavity_GM` independently.
    Forward: log-probability of each sum of the members before i. Backward: log-value of each such sum, over what the
    members behind i may add. O(M^2) a group.
    """
    groups, size = cavity_GM.shape
    off_GM, on_GM = -softplus(cavity_GM), -softplus(-cavity_GM)
    forward = [np.zeros((groups, 1))]
    for place in range(size - 1):
        before_GS = forward[-1]
        none_G1 = np.full((groups, 1), -np.inf)
        stays_GS = np.concatenate([before_GS + off_GM[:, place, None], none_G1], axis=1)
        grows_GS = np.concatenate([none_G1, before_GS + on_GM[:, place, None]], axis=1)
        forward.append(np.logaddexp(stays_GS, grows_GS))
    message_GM = np.empty_like(cavity_GM)
    backward_GS = table_GS
    for place in range(size - 1, -1, -1):
        without_GS, with_GS = backward_GS[:, :-1], backward_GS[:, 1:]
        message_GM[:, place] = _logsumexp(forward[place] + with_GS) - _logsumexp(forward[place] + without_GS)
        backward_GS = np.logaddexp(without_GS + off_GM[:, place, None], with_GS + on_GM[:, place, None])
    return message_GM


def softplus(x: Any) -> Any:
    """log(1 + e^x), exact at both ends."""
    return np.logaddexp(0.0, x)


def _logsumexp(values_GS: Floats) -> Floats:
    most_G1 = values_GS.max(axis=1, keepdims=True)
    return (most_G1 + np.log(np.exp(values_GS - most_G1).sum(axis=1, keepdims=True)))[:, 0]
