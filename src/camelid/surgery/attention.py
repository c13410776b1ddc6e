"""Attention whose gradient is computed in float32, for training in bfloat16 on a processor.

The bfloat16 backward of torch's CPU attention is several times slower than its float32 one on rows of up to a few
hundred tokens (docs/decisions/0015). Where nothing is trained, this is transformers' "sdpa" as it stands.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_float32_gradient"
MOST_TOKENS = 256  # from about 512 the bfloat16 kernel is the faster one


def attend(
    module: Any, query_BHTD: Tensor, key_BHTD: Tensor, value_BHTD: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention as transformers calls it; in float32 where a gradient in bfloat16 would be taken."""
    if query_BHTD.dtype != torch.bfloat16 or not query_BHTD.requires_grad or query_BHTD.shape[2] > MOST_TOKENS:
        return sdpa_attention_forward(module, query_BHTD, key_BHTD, value_BHTD, attention_mask, **options)
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast(query_BHTD.device.type, enabled=False):  # autocast would turn them back
        read_BTHD, _ = sdpa_attention_forward(
            module, query_BHTD.float(), key_BHTD.float(), value_BHTD.float(), attention_mask, **options
        )
    return read_BTHD.to(query_BHTD.dtype), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def take_gradients_in_float32(trunk: Any) -> None:
    """Let a trunk on a processor attend by `attend`, where it uses transformers' "sdpa"; others stay as they are."""
    if trunk.device.type == "cpu" and trunk.config._attn_implementation == "sdpa":
        trunk.set_attn_implementation(NAME)
