"""Models that answer with labels: a decoder without its language-model head, and a small linear head on its states.

Both pool by attention mask, never by `token != pad`: pad may equal the end-of-text token (it does for SmolLM2).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from camelid.batches import Batch
from camelid.surgery.attention import read_runs
from camelid.surgery.attention_mask import Attention, branch_mask, build_mask
from camelid.surgery.depth import run_layers
from camelid.surgery.packing import pack_rows

Pooling = Literal["last", "mean", "max"]
Task = Literal["labels", "multi-label", "regression"]


@dataclass(frozen=True)
class Sight:
    """Which tokens each token reads, in which layers.

    `unmasked` limits bidirectional attention to layers first..last-1. `reads_padding` takes padding for text under
    bidirectional attention and in pooling, the paper's own way. `pack_tokens` lays rows behind each other in lines of
    so many tokens, where a token still reads its own row only; 0 leaves them apart.
    """

    attention: Attention = "causal"
    unmasked: Sequence[int] | None = None
    reads_padding: bool = False
    pack_tokens: int = 0


@dataclass(frozen=True)
class Rescaling:
    """From a head's outputs to answers.

    A number is `mean` plus `std` times the output. Logits are divided by `temperature` where they become probabilities
    (Guo 2017, arXiv 1706.04599).
    """

    temperature: float = 1.0
    mean: float = 0.0
    std: float = 1.0

    @property
    def factor(self) -> float:
        """What the outputs are multiplied by."""
        return self.std / self.temperature


UNSCALED = Rescaling()


class LabelModel(nn.Module):
    """One answer per text: logits_BC from hidden states pooled over the text's tokens (Li 2023, arXiv 2310.01208).

    The head has no bias and is initialised N(0, 0.02). Pooling is on the logits; for `last` and `mean` that equals
    pooling the hidden states, because the head is linear, and costs less. Windows of one text are pooled too: by their
    mean, or their maximum under `max`.

    `task` says what the outputs are: one class, any number of classes, or a number (C = 1). `rescaling` may be set
    anew when training rows (a number's unit) or dev rows (the temperature) have been seen.
    """

    origin: dict[str, Any]  # set by models: base, its hash, precision, limits; what handle.json holds

    def __init__(
        self,
        trunk: nn.Module,
        classes: Sequence[str],
        pooling: Pooling,
        sight: Sight,
        *,
        task: Task = "labels",
        rescaling: Rescaling = UNSCALED,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.classes = list(classes)
        self.pooling: Pooling = pooling
        self.sight = sight
        self.task: Task = task
        self.rescaling = rescaling
        self.head = _linear(trunk, 1 if task == "regression" else len(classes), bias=False)

    @property
    def body(self) -> Any:
        """What full training trains beside the head."""
        return self.trunk

    def forward(self, batch: Batch) -> Tensor:
        """logits_BC in float32, B counting rows."""
        hidden_BTD = run_trunk(self.trunk, self.sight, batch)
        mask_BT = read_mask(batch.mask_BT, self.sight.reads_padding and self.pooling != "last")
        with in_float32(hidden_BTD):
            if self.pooling == "max":
                values_BC = pool(self.head(hidden_BTD.float()), mask_BT, "max")
            else:
                values_BC = self.head(pool(hidden_BTD.float(), mask_BT, self.pooling))
        return values_BC if batch.row_B is None else pool_windows(values_BC, batch.row_B, self.pooling)

    def settings(self) -> dict[str, Any]:
        """What `models.load_handle` needs to build this module again."""
        return {
            "kind": "label",
            "classes": self.classes,
            "pooling": self.pooling,
            "sight": asdict(self.sight),
            "task": self.task,
            "rescaling": asdict(self.rescaling),
        }


class TokenModel(nn.Module):
    """One tag per word: logits_NC at the first sub-token of each of the batch's N words, row by row.

    The head has a bias (initialised to 0) and dropout 0.1 on the hidden states before it. It runs at the words'
    positions only, so other sub-tokens and padding never meet the loss.
    """

    origin: dict[str, Any]

    def __init__(self, trunk: nn.Module, classes: Sequence[str], sight: Sight) -> None:
        super().__init__()
        self.trunk = trunk
        self.classes = list(classes)
        self.sight = sight
        self.task = "tags"
        self.dropout = nn.Dropout(0.1)
        self.head = _linear(trunk, len(classes), bias=True)

    @property
    def body(self) -> Any:
        """What full training trains beside the head."""
        return self.trunk

    def forward(self, batch: Batch) -> Tensor:
        """logits_NC in float32."""
        hidden_ND = answered_states(run_trunk(self.trunk, self.sight, batch), batch)
        with in_float32(hidden_ND):
            return self.head(self.dropout(hidden_ND.float()))

    def settings(self) -> dict[str, Any]:
        """What `models.load_handle` needs to build this module again."""
        return {"kind": "token", "classes": self.classes, "sight": asdict(self.sight)}


class ValueModel(nn.Module):
    """Numbers at the batch's N answered positions, values_NK: rewards of whole answers at their ends, by attribute.

    values = hidden W^T + b on the states after the final norm, in float32 (Wang 2024, arXiv 2410.01257). `weights` say
    how the attributes add up to one reward, and `mean` and `std` what is taken from it and what it is divided by.
    """

    origin: dict[str, Any]

    def __init__(
        self,
        trunk: nn.Module,
        attributes: Sequence[str],
        sight: Sight,
        *,
        weights: Sequence[float] = (),
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.attributes = list(attributes)
        self.sight = sight
        self.weights = list(weights) or [1.0] * len(self.attributes)
        self.mean, self.std = mean, std
        self.head = _linear(trunk, len(self.attributes), bias=True)

    @property
    def body(self) -> Any:
        """What full training trains beside the head."""
        return self.trunk

    def forward(self, batch: Batch) -> Tensor:
        """values_NK in float32, as they are trained."""
        hidden_ND = self.states(batch)
        with in_float32(hidden_ND):
            return self.head(hidden_ND.float())

    def states(self, batch: Batch) -> Tensor:
        """hidden_ND that the head reads."""
        return answered_states(run_trunk(self.trunk, self.sight, batch), batch)

    def merge_attributes(self) -> None:
        """One output in place of several, their sum by `weights`: the reward, of which training on pairs can go on."""
        merged = _linear(self.trunk, 1, bias=True).to(self.head.weight.device)
        with torch.no_grad():
            weights_1K = self.head.weight.new_tensor([self.weights])
            merged.weight.copy_(weights_1K @ self.head.weight)
            merged.bias.copy_(weights_1K @ self.head.bias)
        self.head, self.attributes, self.weights = merged, ["reward"], [1.0]

    def reward(self, values_NK: Tensor) -> Tensor:
        """reward_N: the weighted sum of the attributes, centred and scaled."""
        return (values_NK @ values_NK.new_tensor(self.weights) - self.mean) / self.std

    def settings(self) -> dict[str, Any]:
        """What `models.load_handle` needs to build this module again."""
        values = {"attributes": self.attributes, "weights": self.weights, "mean": self.mean, "std": self.std}
        return {"kind": "value", **values, "sight": asdict(self.sight)}


class LanguageModel(nn.Module):
    """A decoder with its language-model head: logits_NV at the batch's N answered positions, and nowhere else.

    A V of 50,000 makes logits at every position the largest thing in memory, for nothing.
    """

    origin: dict[str, Any]

    def __init__(self, lm: Any, sight: Sight) -> None:
        super().__init__()
        self.lm = lm
        self.sight = sight

    @property
    def trunk(self) -> Any:
        """The decoder without its head."""
        return self.lm.get_decoder()

    @property
    def body(self) -> Any:
        """What full training trains: the decoder and its head."""
        return self.lm

    def forward(self, batch: Batch) -> Tensor:
        """logits_NV in float32."""
        return self.lm.get_output_embeddings()(self.states(batch)).float()

    def states(self, batch: Batch) -> Tensor:
        """hidden_ND that the head reads."""
        return answered_states(run_trunk(self.trunk, self.sight, batch), batch)

    def settings(self) -> dict[str, Any]:
        """What `models.load_handle` needs to build this module again."""
        return {"kind": "language", "sight": asdict(self.sight)}


def run_trunk(trunk: Any, sight: Sight, batch: Batch) -> Tensor:
    """hidden_BTD after the final norm. No cache: it would hold every layer's keys for nothing.

    A batch that brings the states entering layer `first_layer` is run from there.
    """
    ids, states, position = batch.ids_BT, batch.states_BTD, batch.position_BT
    mask_BT = read_mask(batch.mask_BT, sight.reads_padding and sight.attention == "bidirectional")
    packing = pack_rows(mask_BT, sight.pack_tokens) if sight.pack_tokens and batch.branch_BT is None else None
    if packing:
        ids, position = packing.lay(ids), packing.position_LS
        states = None if states is None else packing.lay(states)
    for first, last, attention in attention_spans(sight, trunk.config.num_hidden_layers):
        if last > batch.first_layer:
            if batch.branch_BT is not None:
                assert attention == "causal", "answers that share a prompt are read causally"
                mask = branch_mask(batch.branch_BT)
            else:
                mask = packing.mask(attention) if packing else build_mask(mask_BT, attention)
            reading = read_runs(trunk, packing.runs, attention) if packing else {}
            states = run_layers(trunk, max(first, batch.first_layer), last, ids, states, mask, position, **reading)
    assert states is not None
    return packing.lift(states) if packing else states


def attention_spans(sight: Sight, layers: int) -> list[tuple[int, int, Attention]]:
    """(first, last, attention) of runs of layers read in one way, in order; empty runs are left out.

    Unmasking some layers only is Dukic and Snajder 2024 (arXiv 2401.14556); unmasking from one upward is BiLLM.
    """
    if sight.attention == "causal" or sight.unmasked is None:
        return [(0, layers, sight.attention)]
    first, last = sight.unmasked[0], min(sight.unmasked[1], layers)
    spans: list[tuple[int, int, Attention]] = [
        (0, first, "causal"),
        (first, last, "bidirectional"),
        (last, layers, "causal"),
    ]
    return [span for span in spans if span[0] < span[1]]


def read_mask(mask_BT: Tensor, reads_padding: bool) -> Tensor:
    """The mask itself, or all ones where padding is read as if it were text."""
    return torch.ones_like(mask_BT) if reads_padding else mask_BT


def answered_states(hidden_BTD: Tensor, batch: Batch) -> Tensor:
    """hidden_ND at the positions that are answered at."""
    assert batch.row_N is not None, "this model needs batches that say where it answers"
    return hidden_BTD[batch.row_N, batch.token_N]


def pool_windows(values_BC: Tensor, row_B: Tensor, pooling: Pooling) -> Tensor:
    """Values by row from values by window: their mean, or their maximum under `max`."""
    rows = int(row_B[-1]) + 1
    index_BC = row_B[:, None].expand_as(values_BC)
    reduce = "amax" if pooling == "max" else "mean"
    start = torch.zeros(rows, values_BC.shape[1], dtype=values_BC.dtype, device=values_BC.device)
    return start.scatter_reduce(0, index_BC, values_BC, reduce, include_self=False)


def pool(values_BTX: Tensor, mask_BT: Tensor, pooling: Pooling) -> Tensor:
    """values_BX: the last text position's, the mean, or the maximum over text positions (padding on either side)."""
    is_text = mask_BT.bool()
    if pooling == "last":
        positions = torch.arange(mask_BT.shape[1], device=mask_BT.device)
        last_B = (positions * is_text).amax(dim=1)
        return values_BTX[torch.arange(len(values_BTX), device=mask_BT.device), last_B]
    if pooling == "mean":
        weights_BT1 = is_text[..., None].to(values_BTX.dtype)
        return (values_BTX * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1)
    return values_BTX.masked_fill(~is_text[..., None], -torch.inf).amax(dim=1)


def in_float32(values: Tensor) -> torch.autocast:
    """A block in which autocast does not turn the head's products into bfloat16."""
    return torch.autocast(values.device.type, enabled=False)


def save_head(model: nn.Module, folder: Path) -> None:
    """head.safetensors: the head's own weights, in float32. A language model's head is its base's."""
    head: Any = getattr(model, "head", None)
    if head is not None:
        save_file({name: value.contiguous() for name, value in head.state_dict().items()}, folder / "head.safetensors")


def load_head(model: nn.Module, folder: Path) -> None:
    """Load what `save_head` wrote."""
    head: Any = getattr(model, "head", None)
    if head is not None:
        head.load_state_dict(load_file(folder / "head.safetensors"))


def build_head(settings: dict[str, Any], trunk: nn.Module) -> LabelModel | TokenModel | ValueModel | LanguageModel:
    """The model that `settings` describe around a trunk (a whole language model for "language"), its head fresh.

    `settings` hold "kind" and what that class takes, as plain values; "sight" and "rescaling" are dictionaries of what
    differs from their defaults. `model.settings()` gives them in full.
    """
    values = json.loads(json.dumps(settings))
    kinds: dict[str, Any] = {"label": LabelModel, "token": TokenModel, "value": ValueModel, "language": LanguageModel}
    kind = kinds[values.pop("kind")]
    values["sight"] = Sight(**values.get("sight", {}))
    if "rescaling" in values:
        values["rescaling"] = Rescaling(**values["rescaling"])
    return kind(trunk, **values)


def _linear(trunk: Any, classes: int, *, bias: bool) -> nn.Linear:
    head = nn.Linear(trunk.config.hidden_size, classes, bias=bias, dtype=torch.float32)
    nn.init.normal_(head.weight, std=0.02)
    if bias:
        nn.init.zeros_(head.bias)
    return head
