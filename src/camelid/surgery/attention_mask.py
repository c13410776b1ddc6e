"""One place that says which token may look at which.

LLaMA attention in transformers 5 is causal whenever it gets no mask, whatever the config says about direction, so every
forward that is not plainly causal over right-padded rows gets an explicit boolean (B, 1, T, T) mask from here.
"""

from __future__ import annotations

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


def choices_mask(prefix: int, choice_of_BT: Tensor) -> Tensor:
    """Boolean (B, 1, T, prefix + T) for rows that hold a prompt body followed by several alternative choices.

    `choice_of_BT` is 0 on the body, k on the tokens of choice k and -1 on padding; `prefix` cached tokens come before.
    Every token reads the prefix, the body up to itself, and within its own choice only: as if each choice stood alone.
    """
    length = choice_of_BT.shape[1]
    query_BT1, key_B1T = choice_of_BT[:, :, None], choice_of_BT[:, None, :]
    causal_TT = torch.ones(length, length, dtype=torch.bool, device=choice_of_BT.device).tril()
    allowed_BTT = causal_TT & ((key_B1T == 0) | (key_B1T == query_BT1))
    allowed_BTT = allowed_BTT | torch.eye(length, dtype=torch.bool, device=choice_of_BT.device)
    past = torch.ones(*choice_of_BT.shape, prefix, dtype=torch.bool, device=choice_of_BT.device)
    return torch.cat([past, allowed_BTT], dim=2)[:, None]


def _is_right_padded(is_text_BT: Tensor) -> bool:
    return bool((is_text_BT[:, 1:] <= is_text_BT[:, :-1]).all())
