"""Linear heads on states that are computed once, solved exactly: ridge regression, and penalised Bradley-Terry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from camelid.logistic import sigmoid
from camelid.metrics import Floats

STEPS = 50
SETTLED = 1e-8  # of a coefficient
PENALTIES = tuple(10.0**power for power in range(-4, 3))

# d loss / d difference and its slope, from the difference of rewards and the strength m; as in camelid.objectives
Curve = Callable[[Floats, Floats], tuple[Floats, Floats, Floats]]


def fit_ratings(states_ND: Floats, ratings_N: Floats, penalty: float) -> Floats:
    """w (D + 1), the last one the bias: argmin mean (x w + b - q)^2 + penalty |w|^2, over ratings that are not NaN."""
    known_N = ~np.isnan(ratings_N)
    x_ND, q_N = states_ND[known_N].astype(float), ratings_N[known_N]
    mean_D, mean = x_ND.mean(axis=0), q_N.mean()
    centred_ND = x_ND - mean_D
    bend_DD = centred_ND.T @ centred_ND / len(q_N) + penalty * np.eye(x_ND.shape[1])
    w_D = np.linalg.solve(bend_DD, centred_ND.T @ (q_N - mean) / len(q_N))
    return np.append(w_D, mean - mean_D @ w_D)


def fit_pairs(
    differences_PD: Floats, strength_P: Floats, form: str, penalty: float, start_D: Floats | None = None
) -> Floats:
    """w (D): argmin mean loss(x_P w, m) + penalty |w - start|^2 / 2, by Newton's method; `form` is one of `FORMS`.

    `differences_PD` are states of the chosen answers minus those of the rejected. The start is 0, or weights that the
    solution is held near to, which is what a short training that begins there does.
    """
    x_PD = differences_PD.astype(float)
    start_D = np.zeros(x_PD.shape[1]) if start_D is None else start_D

    def value(w_D: Floats) -> float:
        return loss_of_pairs(x_PD, strength_P, form, w_D) + penalty / 2 * float(((w_D - start_D) ** 2).sum())

    w_D, least = start_D, value(start_D)
    for _ in range(STEPS):
        _, slope_P, bend_P = FORMS[form](x_PD @ w_D, strength_P)
        slope_D = x_PD.T @ slope_P / len(x_PD) + penalty * (w_D - start_D)
        bend_DD = (x_PD.T * bend_P) @ x_PD / len(x_PD) + penalty * np.eye(len(w_D))
        step_D = np.linalg.solve(bend_DD, slope_D)
        while (found := value(w_D - step_D)) > least and np.abs(step_D).max() > SETTLED:
            step_D = step_D / 2  # far from the solution a whole step can lead away from it
        w_D, least = w_D - step_D, min(found, least)
        if np.abs(step_D).max() <= SETTLED:
            break
    return w_D


def loss_of_pairs(differences_PD: Floats, strength_P: Floats, form: str, w_D: Floats) -> float:
    """The mean loss without its penalty."""
    return float(FORMS[form](differences_PD @ w_D, strength_P)[0].mean())


def fit_ratings_by_folds(states_ND: Floats, ratings_N: Floats, groups: Sequence[Any], folds: int, seed: int) -> Floats:
    """`fit_ratings` with the penalty of least squared error over folds of whole groups."""

    def loss(penalty: float, fitted_on: Any, on: Any) -> float:
        w = fit_ratings(states_ND[fitted_on], ratings_N[fitted_on], penalty)
        return float(np.nanmean((states_ND[on] @ w[:-1] + w[-1] - ratings_N[on]) ** 2))

    return fit_ratings(states_ND, ratings_N, choose_penalty(groups, folds, seed, loss))


def fit_pairs_by_folds(
    differences_PD: Floats,
    strength_P: Floats,
    form: str,
    groups: Sequence[Any],
    folds: int,
    seed: int,
    start_D: Floats | None = None,
) -> Floats:
    """`fit_pairs` with the penalty of least loss over folds of whole groups."""

    def loss(penalty: float, fitted_on: Any, on: Any) -> float:
        w_D = fit_pairs(differences_PD[fitted_on], strength_P[fitted_on], form, penalty, start_D)
        return loss_of_pairs(differences_PD[on], strength_P[on], form, w_D)

    return fit_pairs(differences_PD, strength_P, form, choose_penalty(groups, folds, seed, loss), start_D)


def choose_penalty(groups: Sequence[Any], folds: int, seed: int, loss: Callable[[float, Any, Any], float]) -> float:
    """The penalty of least held-out loss over folds of whole groups; `loss(penalty, fitted_on, measured_on)` by rows.

    The two are boolean masks. Rows of one group, such as the pairs of one prompt, are never on both sides.
    """
    names = sorted(set(groups))
    fold_by_name = dict(zip(np.random.default_rng(seed).permutation(len(names)).tolist(), range(len(names))))
    fold_N = np.array([fold_by_name[names.index(group)] % folds for group in groups])
    sums = {
        penalty: sum(loss(penalty, fold_N != fold, fold_N == fold) * (fold_N == fold).sum() for fold in range(folds))
        for penalty in PENALTIES
    }
    return min(sums, key=sums.__getitem__)


def _regular(difference_P: Floats, strength_P: Floats) -> tuple[Floats, Floats, Floats]:
    lost_P = sigmoid(-difference_P)
    return np.logaddexp(0.0, -difference_P), -lost_P, lost_P * (1 - lost_P)


def _margin(difference_P: Floats, strength_P: Floats) -> tuple[Floats, Floats, Floats]:
    return _regular(difference_P - strength_P, strength_P)


def _scaled(difference_P: Floats, strength_P: Floats) -> tuple[Floats, Floats, Floats]:
    loss_P, slope_P, bend_P = _regular(difference_P, strength_P)
    return strength_P * loss_P, strength_P * slope_P, strength_P * bend_P


FORMS: dict[str, Curve] = {"bt": _regular, "margin_bt": _margin, "scaled_bt": _scaled}
