"""Index-addressed batches: which rows step n trains on is arithmetic over (seed, n), never the state of an iterator.

That is what makes resume exact: step 117 is computed, not reached.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from itertools import accumulate as running_sums
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from camelid.errors import UserError

BUCKET_BATCHES = 16  # rows are sorted by length within this many steps: little padding, and order stays random


@dataclass(frozen=True)
class Tokens:
    """A tokenised row: token ids and its labels.

    `labels` are class numbers (one, or one a position in `words`), or decimal numbers: a multi-hot line of all classes,
    or one target. `words` are the positions that are answered at (a word's first sub-token), None for one answer a row.
    A text longer than a window goes on in `further` windows; positions count through all of them. `cut` counts words
    beyond the token limit. Padding reaches at least `width`. `weights` multiply the loss of each label; none: 1 each.
    """

    id: str
    ids: list[int]
    labels: list[int] | list[float]
    words: list[int] | None = None
    further: tuple[list[int], ...] = ()
    cut: int = 0
    truncated: bool = False
    width: int = 0
    weights: tuple[float, ...] = ()

    @property
    def windows(self) -> list[list[int]]:
        """All windows in order; most rows have one."""
        return [self.ids, *self.further]

    @property
    def size(self) -> int:
        """Tokens of all windows."""
        return sum(map(len, self.windows))


@dataclass(frozen=True)
class Batch:
    """Right-padded rows on their way through a model; B counts windows, which are rows unless `row_B` is there.

    `labels_N` are class numbers, or (rows, K) targets. `row_N, token_N` are the positions that are answered at, None
    for one answer a row. `row_B` is the row each window belongs to. `counts` holds, per loss term, what its sum is
    divided by, known before the forward; `tokens` counts text tokens. `states_BTD` are the states that enter layer
    `first_layer`, where the layers below were computed once for all. `weights_N` multiply the loss of each label.
    `branch_BT, position_BT` are there where answers stand behind a prompt they share (`branches.collate_answers`).
    """

    ids_BT: Tensor
    mask_BT: Tensor
    labels_N: Tensor
    row_N: Tensor | None = None
    token_N: Tensor | None = None
    row_B: Tensor | None = None
    counts: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    states_BTD: Tensor | None = None
    first_layer: int = 0
    weights_N: Tensor | None = None
    branch_BT: Tensor | None = None
    position_BT: Tensor | None = None

    def to(self, device: torch.device | str) -> Self:
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
    them into `accumulate` micro-batches. The last step of an epoch takes what is left. Rows are sorted among the steps
    of a `bucket`; with 1 a step has rows of any length, and its micro-batches have similar ones.
    """

    lengths: tuple[int, ...]
    collate: Callable[[Sequence[int]], Batch]
    epochs: int
    batch_rows: int
    accumulate: int
    seed: int
    bucket: int = BUCKET_BATCHES

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.lengths) // self.batch_rows)

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    def __call__(self, step: int) -> list[Batch]:
        epoch, position = divmod(step, self.steps_per_epoch)
        rows = bucketed_order(self.lengths, self.batch_rows, f"{self.seed} epoch {epoch}", self.bucket)[position]
        return [self.collate(part) for part in split_evenly(rows, self.accumulate)]


def count_rows(batches: EpochBatches) -> EpochBatches:
    """The batches with their loss divided by rows, not by the labels of the rows."""
    return replace(batches, collate=lambda rows: replace(batches.collate(rows), counts={"loss": len(rows)}))


def mix_lengths(batches: EpochBatches) -> EpochBatches:
    """The batches with rows of any length in each step. Of many tasks, which differ in length, a step of one length is
    a step of one task, and the model chases the answers of the last one."""
    return replace(batches, bucket=1)


class PassBatches:
    """EpochBatches whose rows are made anew for every pass, such as with another of several right answers.

    `make(epoch)` gives the batches of all epochs with the rows as they are in that one; their number never changes.
    """

    def __init__(self, make: Callable[[int], EpochBatches]) -> None:
        self.make = lru_cache(maxsize=1)(make)
        first = self.make(0)
        self.steps, self.steps_per_epoch = first.steps, first.steps_per_epoch

    def __call__(self, step: int) -> list[Batch]:
        return self.make(step // self.steps_per_epoch)(step)


class StreamBatches:
    """Batches of a source that is read once through, such as a corpus that fits no memory; the position is saved.

    `open()` gives the rows in order, the same ones each time; a step takes the next `batch_rows`. The position is
    part of the checkpoint, so that a resumed run skips what was read. Steps must be asked for in order. The end of
    the source is followed by its start.
    """

    def __init__(
        self,
        open_source: Callable[[], Iterator[Any]],
        collate: Callable[[Sequence[Any]], Any],
        *,
        batch_rows: int,
        accumulate: int,
        steps: int,
        steps_per_epoch: int,
    ) -> None:
        self.open_source, self.collate = open_source, collate
        self.batch_rows, self.accumulate = batch_rows, accumulate
        self.steps, self.steps_per_epoch = steps, steps_per_epoch
        self.position = 0
        self.rows: Iterator[Any] | None = None

    def __call__(self, step: int) -> list[Any]:
        assert step * self.batch_rows == self.position, f"step {step} asked for at row {self.position}"
        rows = [self._next() for _ in range(self.batch_rows)]
        self.position += len(rows)
        return [self.collate(part) for part in split_evenly(rows, self.accumulate)]

    def state_dict(self) -> dict[str, int]:
        """What the checkpoint keeps."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the rows that were read; reading them again costs time and nothing else."""
        self.position, self.rows = 0, None
        for _ in range(state["position"]):
            self._next()
        self.position = state["position"]

    def _next(self) -> Any:
        if self.rows is None:
            self.rows = self.open_source()
        row = next(self.rows, None)
        if row is None:
            self.rows = self.open_source()
            row = next(self.rows, None)
        if row is None:
            raise UserError("the source of a stream has no rows", "Check what it reads.")
        return row


def split_evenly(rows: Sequence[Any], parts: int) -> list[Sequence[Any]]:
    """`rows` in at most `parts` runs of equal length, the last one shorter."""
    size = -(-len(rows) // parts)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@lru_cache(maxsize=4)
def bucketed_order(
    lengths: tuple[int, ...], batch_rows: int, seed: str, bucket_batches: int = BUCKET_BATCHES
) -> tuple[tuple[int, ...], ...]:
    """Batches of row indices: shuffled, sorted by length within buckets, and the batches shuffled again.

    Every index occurs once. Only the last batch of the last bucket may be short, wherever the shuffle puts it.
    """
    draw = random.Random(seed)
    order = draw.sample(range(len(lengths)), len(lengths))
    batches: list[tuple[int, ...]] = []
    size = batch_rows * bucket_batches
    for start in range(0, len(order), size):
        bucket = sorted(order[start : start + size], key=lambda row: lengths[row])
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
    """Rows, or their windows, padded on the right to the longest; and where each answer is given."""
    windows = [(number, ids) for number, row in enumerate(rows) for ids in row.windows]
    longest = max(max(len(ids) for _, ids in windows), max(row.width for row in rows))
    ids_BT = torch.full((len(windows), longest), pad_id)
    mask_BT = torch.zeros(len(windows), longest, dtype=torch.long)
    for line, (_, ids) in enumerate(windows):
        ids_BT[line, : len(ids)] = torch.tensor(ids)
        mask_BT[line, : len(ids)] = 1
    places_N2 = torch.tensor(_places(rows), dtype=torch.long).reshape(-1, 2)
    labels = [label for row in rows for label in row.labels]
    is_target = bool(labels) and isinstance(labels[0], float)
    labels_N = torch.tensor(labels).reshape(len(rows), -1) if is_target else torch.tensor(labels, dtype=torch.long)
    answered = rows[0].words is not None
    return Batch(
        ids_BT,
        mask_BT,
        labels_N,
        row_N=places_N2[:, 0] if answered else None,
        token_N=places_N2[:, 1] if answered else None,
        row_B=torch.tensor([number for number, _ in windows]) if len(windows) > len(rows) else None,
        counts={"loss": labels_N.numel()},
        tokens=int(mask_BT.sum()),
        weights_N=_weights(rows),
    )


def _weights(rows: Sequence[Tokens]) -> Tensor | None:
    """The weight of each label of the batch; None where no row has any."""
    if not any(row.weights for row in rows):
        return None
    return torch.tensor([weight for row in rows for weight in row.weights or (1.0,) * len(row.labels)])


def _places(rows: Sequence[Tokens]) -> list[tuple[int, int]]:
    """(window in the batch, position in it) of each position that is answered at."""
    places, first = [], 0
    for row in rows:
        ends = list(running_sums(map(len, row.windows)))
        for position in row.words or ():
            window = bisect_right(ends, position)
            places.append((first + window, position - (ends[window - 1] if window else 0)))
        first += len(ends)
    return places
