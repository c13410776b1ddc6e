"""One place that says which token may look at which.

LLaMA attention in transformers 5 is causal whenever it gets no mask, whatever the config says about direction, so every
forward that is not plainly causal over right-padded rows gets an explicit boolean (B, 1, T, T) mask from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Attention = Literal["causal", "bidirectional"]


def build_mask(mask_BT: Tensor, attention: Attention) -> Tensor | None:
    """Boolean (B, 1, T, T), True where query i may read key j; None where the model's own causal rule is enough.

    `mask_BT` is 1 for text and 0 for padding, on either side. Key j is readable when it is text and, under "causal",
    j <= i. The diagonal is always readable: a padding row without any key would be NaN after the softmax. Rows padded
    on the right need no mask under "causal", because no text token has padding before it.
    """
    is_text = mask_BT.bool()
    if attention == "causal" and _is_right_padded(is_text):
        return None
    length = mask_BT.shape[1]
    allowed_BTT = is_text[:, None, :].expand(-1, length, -1)
    if attention == "causal":
        allowed_BTT = allowed_BTT & torch.ones(length, length, dtype=torch.bool, device=mask_BT.device).tril()
    return (allowed_BTT | torch.eye(length, dtype=torch.bool, device=mask_BT.device))[:, None]


def branch_mask(branch_BT: Tensor) -> Tensor:
    """Boolean (B, 1, T, T) for prompts with their answers laid behind them, each in a branch of its own.

    `branch_BT` is 0 on the prompt, 1, 2, ... on the answers and -1 on padding behind them. A token reads the prompt
    and its own branch up to itself: what it would read if its answer stood alone.
    """
    length = branch_BT.shape[1]
    key_B1T, query_BT1 = branch_BT[:, None, :], branch_BT[:, :, None]
    causal_TT = torch.ones(length, length, dtype=torch.bool, device=branch_BT.device).tril()
    return (((key_B1T == 0) | (key_B1T == query_BT1)) & causal_TT)[:, None]


def tree_mask(parents: Sequence[int], front: int) -> Tensor:
    """Boolean (1, 1, N, front + N) for trees of tokens that are laid behind each other in one line.

    Flat token i reads the `front` cached tokens that stand before all trees, its ancestors, and itself: what it would
    read alone. `parents` are flat places, -1 at a tree's root; a parent stands before its children.
    """
    allowed = torch.zeros(len(parents), front + len(parents), dtype=torch.bool)
    allowed[:, :front] = True
    for place, parent in enumerate(parents):
        if parent >= 0:
            allowed[place] = allowed[parent]
        allowed[place, front + place] = True
    return allowed[None, None]


def _is_right_padded(is_text_BT: Tensor) -> bool:
    return bool((is_text_BT[:, 1:] <= is_text_BT[:, :-1]).all())
