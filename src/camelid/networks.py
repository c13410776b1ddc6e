"""Small networks on features that are computed once: numbers of a table, or the states of a frozen language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

AT_ONCE = 4096  # rows that go through a network together


class Scaling(nn.Module):
    """(x - mean) / std of each number, as training rows have them; a number that is always the same becomes 0."""

    mean_P: Tensor
    std_P: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean_P", torch.zeros(width))
        self.register_buffer("std_P", torch.ones(width))

    def fit(self, numbers_NP: Tensor) -> None:
        """Take mean and standard deviation from training rows."""
        self.mean_P.copy_(numbers_NP.mean(dim=0))
        std_P = numbers_NP.std(dim=0, unbiased=False)
        self.std_P.copy_(torch.where(std_P > 0, std_P, 1.0))

    def forward(self, numbers_XP: Tensor) -> Tensor:
        return (numbers_XP - self.mean_P) / self.std_P


class FeatureModel(nn.Module):
    """logits of one yes-or-no question from P numbers, through hidden layers whose last one is an embedding.

    `scaling` is set from training rows and not trained; `body` gives embeddings (..., D), `instance` a logit of each,
    `bag` a logit of the mean embedding of a group. The weights are those of a seed. `origin` says what the numbers are
    and is kept with the model.
    """

    origin: dict[str, Any]
    trunk = None

    def __init__(self, width: int, hidden: Sequence[int], bag_hidden: int = 64, classes: Sequence[str] = ("0", "1")):
        super().__init__()
        self.width, self.hidden, self.bag_hidden, self.classes = width, list(hidden), bag_hidden, list(classes)
        sizes = [width, *self.hidden]
        layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.head = nn.ModuleDict({
            "scaling": Scaling(width),
            "body": nn.Sequential(*layers),
            "instance": nn.Linear(sizes[-1], 1),
            "bag": nn.Sequential(nn.Linear(sizes[-1], bag_hidden), nn.ReLU(), nn.Linear(bag_hidden, 1)),
        })  # fmt: skip

    def embed(self, numbers_XP: Tensor) -> Tensor:
        """Embeddings (..., D)."""
        return self.head["body"](self.head["scaling"](numbers_XP))

    def tell_instances(self, embedded_XD: Tensor) -> Tensor:
        """Logits (...) of embeddings."""
        return self.head["instance"](embedded_XD)[..., 0]

    def tell_bags(self, embedded_BMD: Tensor, mask_BM: Tensor) -> Tensor:
        """Logits (B,) of bags from the mean embedding of their members."""
        weights_BM1 = (mask_BM / mask_BM.sum(dim=1, keepdim=True))[..., None]
        return self.head["bag"]((embedded_BMD * weights_BM1).sum(dim=1))[..., 0]

    def forward(self, numbers_XP: Tensor) -> Tensor:
        """Logits (...) of the numbers' rows."""
        return self.tell_instances(self.embed(numbers_XP))

    def settings(self) -> dict[str, Any]:
        """What `models.load_handle` needs to build this module again."""
        return {
            "kind": "features",
            "width": self.width,
            "hidden": self.hidden,
            "bag_hidden": self.bag_hidden,
            "classes": self.classes,
        }


@torch.inference_mode()
def run_in_parts(compute: Callable[[Tensor], Tensor], numbers_NP: Any) -> Tensor:
    """What a network computes of the rows, some at a time: a wide layer of all of them would not fit."""
    return torch.cat([compute(part_NP) for part_NP in torch.as_tensor(numbers_NP).split(AT_ONCE)])


def build_network(
    numbers_NP: Any, hidden: Sequence[int], seed: int, classes: Sequence[str], **origin: Any
) -> FeatureModel:
    """A fresh network for training rows like these, with the weights of the seed; `origin` says what numbers are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FeatureModel(numbers_NP.shape[1], hidden, classes=classes)
    model.head["scaling"].fit(torch.as_tensor(numbers_NP))  # type: ignore[operator]
    model.origin = {"tuning": "head", **origin}
    return model
