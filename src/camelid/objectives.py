"""Pure loss functions that methods share. Each returns sums and counts nothing: the loop divides by its own counts."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from camelid.batches import Batch


def cross_entropy(model: object, batch: Batch) -> tuple[dict[str, Tensor], dict[str, float]]:
    """({"loss": summed cross-entropy}, {"accuracy": rows whose largest logit is the label}).

    `model(batch)` gives logits (N, C), `batch.labels_N` the classes; N counts rows, or words of tagged sentences.
    """
    logits_NC: Tensor = model(batch)  # type: ignore[operator]
    total = functional.cross_entropy(logits_NC.float(), batch.labels_N, reduction="sum")
    correct = (logits_NC.detach().argmax(dim=-1) == batch.labels_N).sum().item()
    return {"loss": total}, {"accuracy": float(correct)}
