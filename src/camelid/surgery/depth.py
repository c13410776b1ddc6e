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


def run_layers(
    trunk: Any,
    first: int,
    last: int,
    ids_BT: Tensor,
    states_BTD: Tensor | None,
    mask: Tensor | None,
    position_BT: Tensor | None = None,
    **reading: Any,
) -> Tensor:
    """States behind layers first..last-1: from `states_BTD` that enter layer `first`, or from token ids where None.

    Behind the last layer they have passed the final norm. `reading` is handed to the attention function.
    """
    inputs = {"input_ids": ids_BT} if states_BTD is None else {"inputs_embeds": states_BTD}
    options: dict[str, Any] = {"attention_mask": mask, "position_ids": position_BT, "use_cache": False, **reading}
    if (first, last) == (0, trunk.config.num_hidden_layers):
        return trunk(**inputs, **options).last_hidden_state
    with only_layers(trunk, first, last):
        return trunk(**inputs, **options).last_hidden_state


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
        lower = run_layers(trunk, 0, first, ids_BT, None, None)
        split = run_layers(trunk, first, len(trunk.layers), ids_BT, lower, None)
    trunk.train(training)
    return torch.allclose(whole.float(), split.float(), atol=1e-5)
