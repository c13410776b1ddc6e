"""Logistic regression on probabilities instead of classes, small and fast enough to be fitted a thousand times."""

from __future__ import annotations

import numpy as np

from camelid.metrics import Floats

STEPS, SWEEPS, HALVINGS = 100, 100, 30
SETTLED = 1e-10  # of a coefficient: steps that are no longer change nothing that is read


def sigmoid(values: Floats) -> Floats:
    """1 / (1 + e^-x), for any size of x."""
    return np.exp(-np.logaddexp(0.0, -values))


def fit_logistic(
    features_NP: Floats, shares_N: Floats, weights_N: Floats, strength: float, start_P: Floats | None = None
) -> Floats:
    """argmin_w ||w||_1 - C sum_i v_i [y_i log p_i + (1 - y_i) log(1 - p_i)], p = sigmoid(x w), with C = `strength`.

    Shares y lie in 0 to 1. Proximal Newton (Yuan, Ho and Lin 2012, newGLMNET): each step minimises the second-order
    model with its L1 term by coordinate descent, and is halved until the objective does not rise. There is no
    intercept: give a column of ones.
    """
    w_P = np.zeros(features_NP.shape[1]) if start_P is None else np.array(start_P, dtype=float)
    value = objective(features_NP, shares_N, weights_N, strength, w_P)
    for _ in range(STEPS):
        chance_N = sigmoid(features_NP @ w_P)
        slope_P = strength * features_NP.T @ (weights_N * (chance_N - shares_N))
        bend_PP = strength * (features_NP.T * (weights_N * chance_N * (1 - chance_N))) @ features_NP
        step_P = _minimise(slope_P, bend_PP, w_P) - w_P
        for _ in range(HALVINGS):
            found = objective(features_NP, shares_N, weights_N, strength, w_P + step_P)
            if found <= value:
                break
            step_P /= 2
        else:
            return w_P  # nothing below this value can be told from it
        w_P, value = w_P + step_P, found
        if np.abs(step_P).max() < SETTLED:
            break
    return w_P


def objective(features_NP: Floats, shares_N: Floats, weights_N: Floats, strength: float, w_P: Floats) -> float:
    """What `fit_logistic` minimises."""
    logits_N = features_NP @ w_P
    loss_N = np.logaddexp(0.0, logits_N) - shares_N * logits_N
    return float(np.abs(w_P).sum() + strength * (weights_N * loss_N).sum())


def _minimise(slope_P: Floats, bend_PP: Floats, w_P: Floats) -> Floats:
    """argmin_z slope (z - w) + (z - w) bend (z - w) / 2 + ||z||_1, by coordinate descent."""
    z_P = w_P.copy()
    for _ in range(SWEEPS):
        before_P = z_P.copy()
        for place in range(len(z_P)):
            curve = bend_PP[place, place]
            if curve <= 0:  # a column of zeros: only the penalty is left
                z_P[place] = 0.0
                continue
            pull = curve * z_P[place] - slope_P[place] - bend_PP[place] @ (z_P - w_P)
            z_P[place] = np.sign(pull) * max(abs(pull) - 1.0, 0.0) / curve
        if np.abs(z_P - before_P).max() < SETTLED / 10:
            break
    return z_P
