"""Run a slice of a decoder's layers: the lower ones once, the upper ones every epoch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def only_layers(trunk: Any, first: int, last: int) -> Iterator[None]:
    """Within the block the trunk runs layers first..last-1 only; the final norm is applied only behind the last layer.

    Weights are untouched; states enter as `inputs_embeds` when `first` > 0.
    """
    layers, norm, count = trunk.layers, trunk.norm, trunk.config.num_hidden_layers
    try:
        trunk.layers = layers[first:last]
        trunk.norm = norm if last == len(layers) else nn.Identity()
        trunk.config.num_hidden_layers = last - first  # transformers iterates layers[:num_hidden_layers]
        yield
    finally:
        trunk.layers, trunk.norm, trunk.config.num_hidden_layers = layers, norm, count


def lower_states(trunk: Any, first: int, ids_BT: Tensor, mask: Tensor | None) -> Tensor:
    """states_BTD that enter layer `first`, without gradient."""
    with torch.no_grad(), only_layers(trunk, 0, first):
        return trunk(input_ids=ids_BT, attention_mask=mask, use_cache=False).last_hidden_state


def upper_states(trunk: Any, first: int, states_BTD: Tensor, mask: Tensor | None) -> Tensor:
    """hidden_BTD after the final norm, from the states that enter layer `first`."""
    with only_layers(trunk, first, len(trunk.layers)):
        return trunk(inputs_embeds=states_BTD, attention_mask=mask, use_cache=False).last_hidden_state


def is_splittable(trunk: Any, first: int) -> bool:
    """Whether lower then upper equals the whole, tried on a few tokens.

    It does not for architectures that scale their embeddings or choose a layer's mask by its number.
    """
    if not (hasattr(trunk, "layers") and hasattr(trunk, "norm")):
        return False
    training = trunk.training
    trunk.eval()
    ids_BT = torch.arange(4, device=trunk.device)[None]
    with torch.no_grad():
        whole = trunk(input_ids=ids_BT, use_cache=False).last_hidden_state
        split = upper_states(trunk, first, lower_states(trunk, first, ids_BT, None), None)
    trunk.train(training)
    return torch.allclose(whole.float(), split.float(), atol=1e-5)
