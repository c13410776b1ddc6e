"""Log-probabilities of given tokens with their gradient, in memory that does not grow with the vocabulary.

log p(y) = h.w_y - log sum_v exp(h.w_v) has the gradient w_y - sum_v p(v) w_v in h. Where the head is frozen, as under
adapters, that vector is computed beside the value, so that neither logits nor probabilities are kept for the backward
pass; the products are as many as without it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from camelid.batches import Batch
from camelid.branches import AnswerBatch
from camelid.heads import LanguageModel

CHUNK = 128  # positions whose logits are held at once


def token_logprobs(model: LanguageModel, batch: Batch) -> Tensor:
    """logprobs_N in nats, float32, of `batch.labels_N` at the answered positions."""
    hidden_ND, head = model.states(batch), model.lm.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None or head.weight.requires_grad:
        logits_NV = head(hidden_ND).float()
        return -functional.cross_entropy(logits_NV, batch.labels_N, reduction="none")
    return _Selected.apply(hidden_ND, head.weight, batch.labels_N)  # type: ignore[no-any-return]


def answer_logprobs(model: LanguageModel, batch: AnswerBatch) -> Tensor:
    """logprobs_S in nats: the summed log-probabilities of each answer's tokens."""
    return sum_by_answer(token_logprobs(model, batch), batch)


def sum_by_answer(values_N: Tensor, batch: AnswerBatch) -> Tensor:
    """values_S: the sum over the tokens of each answer."""
    return values_N.new_zeros(len(batch.size_S)).index_add(0, batch.answer_N, values_N)


def mean_by_answer(values_N: Tensor, batch: AnswerBatch) -> Tensor:
    """values_S: the mean over the tokens of each answer."""
    return sum_by_answer(values_N, batch) / batch.size_S


class _Selected(torch.autograd.Function):
    """log p of one token a position under a frozen head (V, D)."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, ids_N: Tensor) -> Tensor:
        read_ND = hidden_ND.to(weight_VD.dtype)
        wants_gradient = hidden_ND.requires_grad
        logprobs_N = torch.empty(len(ids_N), device=ids_N.device)
        slope_ND = torch.empty_like(read_ND) if wants_gradient else None
        for start in range(0, len(ids_N), CHUNK):
            chunk = slice(start, start + CHUNK)
            logits_NV = functional.linear(read_ND[chunk], weight_VD).float()
            total_N = logits_NV.logsumexp(dim=-1)
            logprobs_N[chunk] = logits_NV.gather(1, ids_N[chunk, None])[:, 0] - total_N
            if slope_ND is not None:
                shares_NV = logits_NV.sub_(total_N[:, None]).exp_().to(weight_VD.dtype)
                slope_ND[chunk] = weight_VD[ids_N[chunk]] - shares_NV @ weight_VD
        if slope_ND is not None:
            ctx.save_for_backward(slope_ND)
        ctx.dtype = hidden_ND.dtype
        return logprobs_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slope_ND,) = ctx.saved_tensors
        return (gradients[0][:, None] * slope_ND).to(ctx.dtype), None, None
