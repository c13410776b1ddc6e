"""RMS normalisation with a short backward pass, for frozen gains in bfloat16.

Autograd keeps three tensors of a layer's size, two of them in float32, and goes over them nine times. What the gradient
needs is x and one number a row (docs/decisions/0017). Values are transformers' own, bit for bit.
"""

from __future__ import annotations

from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _RMSNorm(torch.autograd.Function):
    """w x / sqrt(mean x^2 + eps), with a gradient for x only (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4)."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        wide_ND = x_ND.float()
        scale_N1 = torch.rsqrt(wide_ND.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x_ND, weight_D, scale_N1)
        return weight_D * (wide_ND * scale_N1).to(x_ND.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_ND, weight_D, scale_N1 = ctx.saved_tensors
        normed_ND = x_ND.float() * scale_N1
        inner_ND = (grad_ND * weight_D).float()
        along_N1 = torch.linalg.vecdot(inner_ND, normed_ND).unsqueeze(-1) / x_ND.shape[-1]
        return inner_ND.addcmul(normed_ND, along_N1, value=-1).mul_(scale_N1).to(x_ND.dtype), None, None


def shorten_norms(trunk: nn.Module) -> None:
    """Let a trunk's RMS norms take their gradient as above; norms that compute anything else stay as they are."""
    for module in trunk.modules():
        if hasattr(module, "variance_epsilon") and "forward" not in vars(module) and _is_plain(module):
            module.forward = partial(_forward, module)  # a bound method could not be unpickled


def _forward(self: Any, x: Tensor) -> Tensor:
    if self.weight.requires_grad or not (x.requires_grad and torch.is_grad_enabled()):
        return type(self).forward(self, x)
    return _RMSNorm.apply(x, self.weight, self.variance_epsilon)  # type: ignore[return-value]


@torch.no_grad()
def _is_plain(module: Any) -> bool:
    """Whether the module computes the equation, bit for bit, of its input alone (gated norms read a gate as well)."""
    if len(signature(module.forward).parameters) != 1:
        return False
    weight = module.weight
    x = torch.linspace(-2, 3, 2 * len(weight), dtype=weight.dtype, device=weight.device).view(2, -1)
    return torch.equal(module(x), _RMSNorm.apply(x, weight, module.variance_epsilon))  # type: ignore[arg-type]
