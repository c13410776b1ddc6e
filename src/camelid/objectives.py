"""Pure loss functions that methods share. Each returns sums and counts nothing: the loop divides by its own counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from camelid.batches import Batch
from camelid.branches import AnswerBatch
from camelid.errors import UserError
from camelid.logprobs import answer_logprobs

LEAST_COMPLEMENT = 1e-5  # of 1 - p where its logarithm is taken of a token that must not be sure

Sums = tuple[dict[str, Tensor], dict[str, float]]


def cross_entropy(model: Any, batch: Batch, weights_C: Tensor | None = None) -> Sums:
    """({"loss": summed cross-entropy}, {"accuracy": rows whose largest logit is the label}).

    `model(batch)` gives logits (N, C), `batch.labels_N` the classes; N counts rows, or answered positions.
    `weights_C` multiplies each row's loss by its class's weight; the count stays that of rows, so weights whose mean
    over the training rows is 1 keep the size of the loss. So do `batch.weights_N`, where the rows bring their own.
    """
    logits_NC: Tensor = model(batch)
    weights_C = None if weights_C is None else weights_C.to(logits_NC.device)
    if batch.weights_N is None:
        total = functional.cross_entropy(logits_NC.float(), batch.labels_N, weights_C, reduction="sum")
    else:
        each_N = functional.cross_entropy(logits_NC.float(), batch.labels_N, weights_C, reduction="none")
        total = (each_N * batch.weights_N).sum()
    correct = (logits_NC.detach().argmax(dim=-1) == batch.labels_N).sum().item()
    return {"loss": total}, {"accuracy": float(correct)}


def binary_cross_entropy(model: Any, batch: Batch, weights_C: Tensor | None = None) -> Sums:
    """({"loss": cross-entropy of each class on its own, summed}, {"accuracy": classes on the right side of 0}).

    `batch.labels_N` is multi-hot (B, C). `weights_C` multiplies the loss of a class where it holds.
    """
    logits_BC: Tensor = model(batch)
    weights_C = None if weights_C is None else weights_C.to(logits_BC.device)
    total = functional.binary_cross_entropy_with_logits(
        logits_BC.float(), batch.labels_N, pos_weight=weights_C, reduction="sum"
    )
    right = ((logits_BC.detach() > 0) == batch.labels_N.bool()).sum().item()
    return {"loss": total}, {"accuracy": float(right)}


def squared_error(model: Any, batch: Batch) -> Sums:
    """({"loss": summed squared difference}, {}) of outputs and targets, both (B, K)."""
    return {"loss": functional.mse_loss(model(batch).float(), batch.labels_N, reduction="sum")}, {}


def by_task(task: str, weights_C: Tensor | None = None) -> Callable[[Any, Batch], Sums]:
    """The loss of a task's answers: of one class, of any number of classes, of a number, of a tag a word."""
    if task == "regression":
        return squared_error
    loss = binary_cross_entropy if task == "multi-label" else cross_entropy
    return lambda model, batch: loss(model, batch, weights_C)


# Preferences. Log-probabilities and rewards are in nats; P counts pairs, S answers, chosen and rejected by turns.

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def bradley_terry(chosen_P: Tensor, rejected_P: Tensor, strength_P: Tensor) -> Tensor:
    """-log sigmoid(r_c - r_r): the chosen answer wins with probability sigmoid of the difference of rewards."""
    return -functional.logsigmoid(chosen_P - rejected_P)


def margin_bradley_terry(chosen_P: Tensor, rejected_P: Tensor, strength_P: Tensor) -> Tensor:
    """-log sigmoid(r_c - r_r - m): the difference should exceed the strength m (Touvron 2023, arXiv 2307.09288)."""
    return -functional.logsigmoid(chosen_P - rejected_P - strength_P)


def scaled_bradley_terry(chosen_P: Tensor, rejected_P: Tensor, strength_P: Tensor) -> Tensor:
    """-m log sigmoid(r_c - r_r): a pair of strength m counts as m pairs (Wang 2024, arXiv 2410.01257)."""
    return -strength_P * functional.logsigmoid(chosen_P - rejected_P)


BRADLEY_TERRY: dict[str, Loss] = {
    "bt": bradley_terry,
    "margin_bt": margin_bradley_terry,
    "scaled_bt": scaled_bradley_terry,
}


def rewards(loss: Loss = bradley_terry) -> Callable[[Any, AnswerBatch], Sums]:
    """A reward model on pairs: `model(batch)` gives values_S1 at the answers' ends."""
    return lambda model, batch: _compare(model(batch)[:, 0], batch, loss)


def ratings(model: Any, batch: AnswerBatch) -> Sums:
    """({"rated": summed squared error of the rated attributes}, {}): a rating that is NaN takes no part.

    Raises UserError for a batch without any rating.
    """
    error_SK = model(batch) - batch.values_SK
    known_SK = ~batch.values_SK.isnan()
    if not known_SK.any():
        raise UserError("a batch has no rating at all", "Leave rows out of which no attribute is rated.")
    return {"rated": error_SK[known_SK].square().sum()}, {}


def dpo(beta: float, loss: Loss = bradley_terry, *, normalised: bool = False) -> Callable[[Any, AnswerBatch], Sums]:
    """Direct preference optimisation (Rafailov 2023, arXiv 2305.18290, eq. 7).

    The reward of an answer is beta (log pi(y|x) - log pi_ref(y|x)), the latter from `batch.values_SK[:, 0]`; `loss` is
    one of pairs of rewards. `normalised` divides both by the answer's tokens (Lambert 2024, arXiv 2411.15124, eq. 6).
    """

    def objective(model: Any, batch: AnswerBatch) -> Sums:
        return _compare(beta * _log_ratios(model, batch, normalised), batch, loss)

    return objective


def ipo(beta: float) -> Callable[[Any, AnswerBatch], Sums]:
    """(h - 1 / (2 beta))^2 with h the difference of log-ratios per token (Azar 2023, arXiv 2310.12036, eq. 17).

    Per token, as the authors did and as the paper does not say: the loss would otherwise grow with length.
    """

    def loss(chosen_P: Tensor, rejected_P: Tensor, strength_P: Tensor) -> Tensor:
        return (chosen_P - rejected_P - 1 / (2 * beta)).square()

    return lambda model, batch: _compare(_log_ratios(model, batch, normalised=True), batch, loss)


def simpo(beta: float, gamma: float) -> Callable[[Any, AnswerBatch], Sums]:
    """-log sigmoid(beta m_c - beta m_r - gamma), m the mean log-probability (Meng 2024, arXiv 2405.14734, eq. 6)."""

    def loss(chosen_P: Tensor, rejected_P: Tensor, strength_P: Tensor) -> Tensor:
        return -functional.logsigmoid(chosen_P - rejected_P - gamma)

    def objective(model: Any, batch: AnswerBatch) -> Sums:
        return _compare(beta * answer_logprobs(model, batch) / batch.size_S, batch, loss)

    return objective


def orpo(weight: float) -> Callable[[Any, AnswerBatch], Sums]:
    """Cross-entropy of the chosen answers' tokens + weight * odds-ratio loss (Hong 2024, arXiv 2403.07691, eq. 6, 7).

    The odds are p / (1 - p) with p the geometric mean of an answer's probabilities. Two terms, with counts of their
    own: "loss" is divided by pairs, "chosen" by the chosen answers' tokens.
    """

    def loss(chosen_P: Tensor, rejected_P: Tensor, strength_P: Tensor) -> Tensor:
        return -weight * functional.logsigmoid(log_odds(chosen_P) - log_odds(rejected_P))

    def objective(model: Any, batch: AnswerBatch) -> Sums:
        logprobs_S = answer_logprobs(model, batch)
        terms, told = _compare(logprobs_S / batch.size_S, batch, loss)
        return {**terms, "chosen": -logprobs_S[0::2].sum()}, told

    return objective


def kto(beta: float, desirable: float = 1.0, undesirable: float = 1.0) -> Callable[[Any, AnswerBatch], Sums]:
    """Kahneman-Tversky optimisation of single answers (Ethayarajh 2024, arXiv 2402.01306, eq. 8).

    lambda_D (1 - sigmoid(beta (r - z))) for an answer that is wanted (`strength_P` above 0), for others lambda_U (1 -
    sigmoid(beta (z - r))), with r its log-ratio. Each prompt has two answers, its own and that of another prompt; z is
    the mean log-ratio of the latter over the micro-batch, at least 0, and has no gradient.
    """

    def objective(model: Any, batch: AnswerBatch) -> Sums:
        ratios_S = _log_ratios(model, batch)
        own_P, point = ratios_S[0::2], ratios_S[1::2].detach().mean().clamp(min=0)
        wanted_P = batch.strength_P > 0
        sign_P = torch.where(wanted_P, 1.0, -1.0)
        weight_P = torch.where(wanted_P, desirable, undesirable)
        loss = (weight_P * (1 - (beta * sign_P * (own_P - point)).sigmoid())).sum()
        ratio_P = beta * own_P.detach()
        told = {"wanted": ratio_P[wanted_P].sum(), "unwanted": ratio_P[~wanted_P].sum(), "point": point * len(own_P)}
        return {"loss": loss}, {name: float(value) for name, value in told.items()}

    return objective


def leave_one_out(rewards_PG: Tensor) -> Tensor:
    """advantages_PG: each sample's reward minus the mean of the other samples of its prompt (Kool 2019; RLOO).

    Not divided by a deviation. Raises UserError for a single sample, which has no others.
    """
    samples = rewards_PG.shape[1]
    if samples < 2:
        raise UserError("one sample a prompt has no others to be compared with", "Draw at least two.")
    return (rewards_PG - rewards_PG.mean(dim=1, keepdim=True)) * samples / (samples - 1)


def unlikelihood(logprobs_N: Tensor, unwanted_N: Tensor, weight_N: Tensor | float = 1.0) -> Tensor:
    """losses_N = -log p of a token that is wanted, and -w log(1 - p) of one that is not (Welleck 2020, 1908.04319).

    `logprobs_N` are log p in nats, `unwanted_N` is boolean. The gradient in log p is -1 and w p / (1 - p). A p nearer
    to 1 than LEAST_COMPLEMENT counts as that near, so that the loss of an unwanted token is at most 11.5 w and finite.
    """
    most = math.log1p(-LEAST_COMPLEMENT)
    return torch.where(unwanted_N, -weight_N * log_complement(logprobs_N.clamp(max=most)), -logprobs_N)


def log_odds(logprobs: Tensor) -> Tensor:
    """log p - log(1 - p) from log p < 0."""
    return logprobs - log_complement(logprobs)


def log_complement(logprobs: Tensor) -> Tensor:
    """log(1 - p) from log p < 0, exact at both ends (Maechler 2012); its negative is the unlikelihood of a token."""
    near = logprobs > -0.6931471805599453  # p above one half: through expm1, else through log1p
    safe = torch.where(near, logprobs, -1.0), torch.where(near, -1.0, logprobs)  # no gradient of the branch not taken
    return torch.where(near, (-torch.expm1(safe[0])).log(), torch.log1p(-safe[1].exp()))


def _log_ratios(model: Any, batch: AnswerBatch, normalised: bool = False) -> Tensor:
    """log pi(y|x) - log pi_ref(y|x) of each answer, or per token."""
    ratios_S = answer_logprobs(model, batch) - batch.values_SK[:, 0]
    return ratios_S / batch.size_S if normalised else ratios_S


def _compare(rewards_S: Tensor, batch: AnswerBatch, loss: Loss) -> Sums:
    """The loss of pairs of rewards, and how often and by how much the chosen answer wins."""
    chosen_P, rejected_P = rewards_S[0::2], rewards_S[1::2]
    total = loss(chosen_P, rejected_P, batch.strength_P).sum()
    good_P, bad_P = chosen_P.detach(), rejected_P.detach()
    told = {"accuracy": (good_P > bad_P).sum(), "margin": (good_P - bad_P).sum(), "chosen_reward": good_P.sum()}
    return {"loss": total}, {name: float(value) for name, value in told.items()}
