"""Models that answer with labels: a decoder without its language-model head, and a small linear head on its states.

Both pool by attention mask, never by `token != pad`: pad may equal the end-of-text token (it does for SmolLM2).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from camelid.batches import Batch
from camelid.surgery.attention_mask import Attention, build_mask
from camelid.surgery.depth import upper_states

Pooling = Literal["last", "mean", "max"]


class LabelModel(nn.Module):
    """One label per text: logits_BC from hidden states pooled over the text's tokens (Li 2023, arXiv 2310.01208).

    The head has no bias and is initialised N(0, 0.02). Pooling is on the logits; for `last` and `mean` that equals
    pooling the hidden states, because the head is linear, and costs less.
    """

    origin: dict[str, Any]  # set by models: base, its hash, precision, limits; what handle.json holds

    def __init__(self, trunk: nn.Module, classes: list[str], pooling: Pooling, attention: Attention) -> None:
        super().__init__()
        self.trunk = trunk
        self.classes = list(classes)
        self.pooling: Pooling = pooling
        self.attention: Attention = attention
        self.head = _linear(trunk, len(classes), bias=False)

    def forward(self, batch: Batch) -> Tensor:
        """logits_BC in float32."""
        hidden_BTD = run_trunk(self.trunk, batch, self.attention)
        with in_float32(hidden_BTD):
            if self.pooling == "max":
                return pool(self.head(hidden_BTD.float()), batch.mask_BT, "max")
            return self.head(pool(hidden_BTD.float(), batch.mask_BT, self.pooling))

    def settings(self) -> dict[str, Any]:
        """What `models.load_handle` needs to build this module again."""
        return {"kind": "label", "classes": self.classes, "pooling": self.pooling, "attention": self.attention}


class TokenModel(nn.Module):
    """One tag per word: logits_NC at the first sub-token of each of the batch's N words, row by row.

    The head has a bias (initialised to 0) and dropout 0.1 on the hidden states before it. It runs at the words'
    positions only, so other sub-tokens and padding never meet the loss.
    """

    origin: dict[str, Any]

    def __init__(self, trunk: nn.Module, classes: list[str], attention: Attention) -> None:
        super().__init__()
        self.trunk = trunk
        self.classes = list(classes)
        self.attention: Attention = attention
        self.dropout = nn.Dropout(0.1)
        self.head = _linear(trunk, len(classes), bias=True)

    def forward(self, batch: Batch) -> Tensor:
        """logits_NC in float32."""
        hidden_BTD = run_trunk(self.trunk, batch, self.attention)
        assert batch.word_row_N is not None, "a token model needs tagged batches"
        with in_float32(hidden_BTD):
            hidden_ND = hidden_BTD[batch.word_row_N, batch.word_token_N].float()
            return self.head(self.dropout(hidden_ND))

    def settings(self) -> dict[str, Any]:
        """What `models.load_handle` needs to build this module again."""
        return {"kind": "token", "classes": self.classes, "attention": self.attention}


def run_trunk(trunk: nn.Module, batch: Batch, attention: Attention) -> Tensor:
    """hidden_BTD after the final norm. No cache: it would hold every layer's keys for nothing.

    A batch that brings the states entering layer `first_layer` is run from there.
    """
    mask = build_mask(batch.mask_BT, attention)
    if batch.states_BTD is not None:
        return upper_states(trunk, batch.first_layer, batch.states_BTD, mask)
    return trunk(input_ids=batch.ids_BT, attention_mask=mask, use_cache=False).last_hidden_state


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
    """head.safetensors: the head's own weights, in float32."""
    head: Any = model.head
    save_file({name: value.contiguous() for name, value in head.state_dict().items()}, folder / "head.safetensors")


def load_head(model: nn.Module, folder: Path) -> None:
    """Load what `save_head` wrote."""
    head: Any = model.head
    head.load_state_dict(load_file(folder / "head.safetensors"))


def build_head(settings: dict[str, Any], trunk: nn.Module) -> LabelModel | TokenModel:
    """The label or token model that `settings` describe, with a fresh head."""
    values = json.loads(json.dumps(settings))
    kind = values.pop("kind")
    return LabelModel(trunk, **values) if kind == "label" else TokenModel(trunk, **values)


def _linear(trunk: Any, classes: int, *, bias: bool) -> nn.Linear:
    head = nn.Linear(trunk.config.hidden_size, classes, bias=bias, dtype=torch.float32)
    nn.init.normal_(head.weight, std=0.02)
    if bias:
        nn.init.zeros_(head.bias)
    return head
