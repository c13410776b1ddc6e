"""Training with two loss terms of different counts; also a script that torchrun starts: two_terms.py MODEL FOLDER."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from camelid import bases, models
from camelid.batches import Batch, EpochBatches, Tokens
from camelid.labelling import over_epochs
from camelid.reading import Reading
from camelid.recipe import Plan
from camelid.training import train

SETTINGS = {"kind": "label", "classes": ["a", "b", "c"], "pooling": "last"}
CPU_PLAN = {"precision": "float32", "learning_rate": 1e-2, "batch_rows": 6, "lora_rank": 4}


def ragged_rows(count: int = 20) -> list[Tokens]:
    draw = random.Random(5)
    return [
        Tokens(str(number), [draw.randrange(6, 200) for _ in range(draw.randint(1, 12))], [draw.randrange(3)])
        for number in range(count)
    ]


def two_terms(model: nn.Module, batch: Batch) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """A loss over rows and one over text tokens."""
    logits = model(batch)
    ours = nn.functional.cross_entropy(logits, batch.labels_N, reduction="sum")
    lengths = batch.mask_BT.sum(dim=1)
    return {"loss": ours, "size": (logits.square().sum(dim=1) * lengths).sum()}, {"rows": float(len(logits))}


class Counted:
    """Batches that count rows for one term and tokens for the other."""

    def __init__(self, batches: EpochBatches) -> None:
        self.batches, self.steps, self.steps_per_epoch = batches, batches.steps, batches.steps_per_epoch

    def __call__(self, step: int) -> list[Batch]:
        return [replace(b, counts={"loss": len(b.labels_N), "size": b.tokens}) for b in self.batches(step)]


def train_two_terms(model_folder: Path, folder: Path, accumulate: int) -> None:
    plan = Plan(**{**CPU_PLAN, "epochs": 1, "accumulate": accumulate})  # type: ignore[arg-type]
    model = models.label_model(bases.open_base(str(model_folder)), SETTINGS, plan, Reading(16))
    folder.mkdir(parents=True, exist_ok=True)
    train(model, Counted(over_epochs(ragged_rows(), plan, 0)), two_terms, plan, folder=folder)  # type: ignore[arg-type]


if __name__ == "__main__":
    train_two_terms(Path(sys.argv[1]), Path(sys.argv[2]), 3)
