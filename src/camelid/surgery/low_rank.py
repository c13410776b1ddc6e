"""Adapted layers, y = W x + b + s B A x, computed without tensors of y's size in between.

PEFT's own forward pass writes B A x, s times it, and the sum, each as large as y, and autograd goes over them again.
On a processor that takes longer than the products (docs/decisions/0017). Saved adapters know nothing of it.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _LowRank(torch.autograd.Function):
    """W x + b + s B A x, with gradients for x, A and B; W and b are frozen."""

    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scale: float
    ) -> Tensor:
        y_NO, low_NR = _multiply(x_NI, weight_OI, bias_O, a_RI, b_OR, scale)
        ctx.save_for_backward(x_NI, weight_OI, a_RI, b_OR, low_NR)
        ctx.scale = scale
        return y_NO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_NI, weight_OI, a_RI, b_OR, low_NR = ctx.saved_tensors
        grad_NR = (grad_NO @ b_OR).mul_(ctx.scale)
        grad_NI = (grad_NO @ weight_OI).addmm_(grad_NR, a_RI) if ctx.needs_input_grad[0] else None
        return grad_NI, None, None, grad_NR.T @ x_NI, grad_NO.T @ low_NR, None


def _multiply(
    x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """The layer's output, and s A x."""
    low_NR = (x_NI @ a_RI.T).mul_(scale)
    return nn.functional.linear(x_NI, weight_OI, bias_O).addmm_(low_NR, b_OR.T), low_NR


class AdaptedLinear(Linear):
    """PEFT's layer with the forward pass above where one adapter is read without dropout; the rest is PEFT's."""

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        name = self.active_adapters[0]
        if args or options or self._is_special(name):
            return super().forward(x, *args, **options)
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        base: Any = self.base_layer
        tensors = x.reshape(-1, x.shape[-1]), base.weight, base.bias, self._down(name).weight, self._up(name).weight
        values: Any = [None if tensor is None else tensor.to(dtype) for tensor in tensors]
        values.append(self.scaling[name])
        out: Any = _LowRank.apply(*values) if torch.is_grad_enabled() else _multiply(*values)[0]
        return out.view(*x.shape[:-1], -1)

    def _down(self, name: str) -> Any:
        return self.lora_A[name]

    def _up(self, name: str) -> Any:
        return self.lora_B[name]

    def _is_special(self, name: str) -> bool:
        """Whether there is more to do than the equation: other adapters or none, variants, dropout, W to be trained."""
        base: Any = self.base_layer
        return (
            self.disable_adapters
            or self.merged
            or len(self.active_adapters) != 1
            or name not in self.lora_A
            or name in self.lora_variant
            or self._up(name).bias is not None
            or base.weight.requires_grad
            or (self.training and not isinstance(self.lora_dropout[name], nn.Identity))
        )


def shorten_adapters(trunk: nn.Module) -> None:
    """Let the adapted linear layers of a trunk compute as above; other adapted layers stay as PEFT has them."""
    for module in trunk.modules():
        if type(module) is Linear and type(module.base_layer) is nn.Linear:
            module.__class__ = AdaptedLinear
