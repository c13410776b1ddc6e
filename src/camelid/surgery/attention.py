"""Attention whose gradient is computed in float32, for training in bfloat16 on a processor.

The bfloat16 backward of torch's CPU attention is several times slower than its float32 one on rows of up to a few
hundred tokens (docs/decisions/0015). Where nothing is trained, this is transformers' "sdpa" as it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from camelid.surgery.attention_mask import Attention

NAME = "sdpa_float32_gradient"
MOST_TOKENS = 256  # from about 512 the bfloat16 kernel is the faster one


def attend(
    module: Any,
    query_BHTD: Tensor,
    key_BHTD: Tensor,
    value_BHTD: Tensor,
    attention_mask: Tensor | None,
    *,
    runs: Sequence[int] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention as transformers calls it; in float32 where a gradient in bfloat16 would be taken.

    `runs` are lengths of runs of tokens, one behind the other through all lines of the batch, each of which reads
    itself only. The mask says the same and is left alone: reading all, to throw most away, takes longer.
    """
    if runs is not None:
        return _attend_runs(module, (query_BHTD, key_BHTD, value_BHTD), runs, options), None
    if query_BHTD.dtype != torch.bfloat16 or not query_BHTD.requires_grad or query_BHTD.shape[2] > MOST_TOKENS:
        return sdpa_attention_forward(module, query_BHTD, key_BHTD, value_BHTD, attention_mask, **options)
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast(query_BHTD.device.type, enabled=False):  # autocast would turn them back
        read_BTHD, _ = sdpa_attention_forward(
            module, query_BHTD.float(), key_BHTD.float(), value_BHTD.float(), attention_mask, **options
        )
    return read_BTHD.to(query_BHTD.dtype), None


def _attend_runs(module: Any, states_BHTD: Sequence[Tensor], runs: Sequence[int], options: dict[str, Any]) -> Tensor:
    """read_BTHD of queries, keys and values whose runs of tokens are attended one by one, each as a batch of one."""
    lines, _, length, _ = states_BHTD[0].shape
    in_one_line = [each.transpose(1, 2).flatten(0, 1).transpose(0, 1)[None] for each in states_BHTD]
    by_run = zip(*(each.split(runs, dim=2) for each in in_one_line), strict=True)
    read = [attend(module, query, key, value, None, **options)[0] for query, key, value in by_run]
    return torch.cat(read, dim=1).unflatten(1, (lines, length))[0]


def read_runs(trunk: Any, runs: Sequence[int], attention: Attention) -> dict[str, Any]:
    """What `run_layers` hands on so that runs of tokens are attended one by one; nothing where a trunk does not attend
    by `attend` and reads them by its mask."""
    is_ours = trunk.config._attn_implementation == NAME
    return {"runs": runs, "is_causal": attention == "causal"} if is_ours else {}


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def take_gradients_in_float32(trunk: Any) -> None:
    """Let a trunk on a processor attend by `attend`, where it uses transformers' "sdpa"; others stay as they are."""
    if trunk.device.type == "cpu" and trunk.config._attn_implementation == "sdpa":
        trunk.set_attn_implementation(NAME)
