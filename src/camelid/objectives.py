"""Pure loss functions that methods share. Each returns sums and counts nothing: the loop divides by its own counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional

from camelid.batches import Batch

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
