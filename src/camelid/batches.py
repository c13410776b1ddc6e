"""Index-addressed batches: which rows step n trains on is arithmetic over (seed, n), never the state of an iterator.

That is what makes resume exact: step 117 is computed, not reached.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

BUCKET_BATCHES = 16  # rows are sorted by length within this many batches: little padding, and order stays random


@dataclass(frozen=True)
class Tokens:
    """A tokenised row: token ids, its classes (one, or one a word) and each word's first sub-token.

    `words` is None for a row with one label. `cut` counts the words that lie beyond the token limit.
    """

    id: str
    ids: list[int]
    labels: list[int]
    words: list[int] | None = None
    cut: int = 0
    truncated: bool = False


@dataclass(frozen=True)
class Batch:
    """Right-padded rows on their way through a model.

    `counts` holds, per loss term, what its sum is divided by, known before the forward; `tokens` counts text tokens.
    `states_BTD` are the states that enter layer `first_layer`, where the layers below were computed once for all.
    """

    ids_BT: Tensor
    mask_BT: Tensor
    labels_N: Tensor
    word_row_N: Tensor | None = None
    word_token_N: Tensor | None = None
    counts: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    states_BTD: Tensor | None = None
    first_layer: int = 0

    def to(self, device: torch.device | str) -> Batch:
        """The batch with its tensors on `device`."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})


class StepBatches(Protocol):
    """What `train` takes: `steps` in all, `steps_per_epoch`, and the micro-batches of step n for all ranks."""

    @property
    def steps(self) -> int: ...
    @property
    def steps_per_epoch(self) -> int: ...
    def __call__(self, step: int) -> Sequence[Any]: ...


@dataclass(frozen=True)
class EpochBatches:
    """Rows in length buckets, shuffled anew each epoch.

    `lengths` is one token count a row; `collate(indices)` makes a batch; a step takes `batch_rows` rows and splits
    them into `accumulate` micro-batches. The last step of an epoch takes what is left.
    """

    lengths: tuple[int, ...]
    collate: Callable[[Sequence[int]], Batch]
    epochs: int
    batch_rows: int
    accumulate: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.lengths) // self.batch_rows)

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    def __call__(self, step: int) -> list[Batch]:
        epoch, position = divmod(step, self.steps_per_epoch)
        rows = bucketed_order(self.lengths, self.batch_rows, f"{self.seed} epoch {epoch}")[position]
        size = -(-len(rows) // self.accumulate)
        return [self.collate(rows[start : start + size]) for start in range(0, len(rows), size)]


@lru_cache(maxsize=4)
def bucketed_order(lengths: tuple[int, ...], batch_rows: int, seed: str) -> tuple[tuple[int, ...], ...]:
    """Batches of row indices: shuffled, sorted by length within buckets, and the batches shuffled again.

    Every index occurs once. Only the last batch of the last bucket may be short, wherever the shuffle puts it.
    """
    draw = random.Random(seed)
    order = draw.sample(range(len(lengths)), len(lengths))
    batches: list[tuple[int, ...]] = []
    for start in range(0, len(order), batch_rows * BUCKET_BATCHES):
        bucket = sorted(order[start : start + batch_rows * BUCKET_BATCHES], key=lambda row: lengths[row])
        batches += [tuple(bucket[at : at + batch_rows]) for at in range(0, len(bucket), batch_rows)]
    draw.shuffle(batches)
    return tuple(batches)


def sorted_batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Row indices in batches of similar length, longest first, each at most `tokens` tokens with its padding.

    For prediction, where order is free: the caller puts results back by index. Longest first, so that too large a
    batch fails at the start and not after an hour.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def collate_rows(rows: Sequence[Tokens], pad_id: int) -> Batch:
    """Rows padded on the right to the longest; for tagged rows also where each word's first sub-token is."""
    longest = max(len(row.ids) for row in rows)
    ids_BT = torch.full((len(rows), longest), pad_id)
    mask_BT = torch.zeros(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        ids_BT[number, : len(row.ids)] = torch.tensor(row.ids)
        mask_BT[number, : len(row.ids)] = 1
    labels_N = torch.tensor([label for row in rows for label in row.labels], dtype=torch.long)
    words = [(number, token) for number, row in enumerate(rows) for token in row.words or ()]
    places_N2 = torch.tensor(words, dtype=torch.long).reshape(-1, 2)
    tagged = rows[0].words is not None
    return Batch(
        ids_BT,
        mask_BT,
        labels_N,
        word_row_N=places_N2[:, 0] if tagged else None,
        word_token_N=places_N2[:, 1] if tagged else None,
        counts={"loss": len(labels_N)},
        tokens=int(mask_BT.sum()),
    )
