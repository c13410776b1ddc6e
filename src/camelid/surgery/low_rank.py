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
    """W x + b + s B A x, with gradients for x, A and B; W and b are frozen. It can be differentiated once."""

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
        with torch.autocast(grad_NO.device.type, enabled=False):
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
        if args or options or not self._is_plain(x):
            return super().forward(x, *args, **options)
        dtype = _computed_in(x)
        base, down, up, scale = self._parts()
        tensors = x.reshape(-1, x.shape[-1]), base.weight, base.bias, down.weight, up.weight
        given: Any = [*(None if tensor is None else tensor.to(dtype) for tensor in tensors), scale]
        is_taught = torch.is_grad_enabled() and (x.requires_grad or down.weight.requires_grad)
        out: Any = _LowRank.apply(*given) if is_taught else _multiply(*given)[0]
        return out.view(*x.shape[:-1], out.shape[-1])

    def _parts(self) -> tuple[Any, Any, Any, float]:
        """The layer that is adapted, A, B and s."""
        (name,) = self.active_adapters
        return self.base_layer, self.lora_A[name], self.lora_B[name], self.scaling[name]

    def _is_plain(self, x: Tensor) -> bool:
        """Whether the equation is all there is: one adapter, no variant, no dropout, W and b frozen, nobody listening
        inside, and an adapter in the format that is computed in (where it is not, PEFT computes B A x more exactly)."""
        active = self.active_adapters
        if self.disable_adapters or self.merged or len(active) != 1 or active[0] not in self.lora_A:
            return False
        base, down, up, _ = self._parts()
        return not (
            active[0] in self.lora_variant
            or up.bias is not None
            or base.weight.requires_grad
            or (base.bias is not None and base.bias.requires_grad)
            or any(module._forward_hooks or module._forward_pre_hooks for module in (base, down, up))
            or (self.training and not isinstance(self.lora_dropout[active[0]], nn.Identity))
            or (down.weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type))
        )


def _computed_in(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def shorten_adapters(trunk: nn.Module) -> None:
    """Let the adapted linear layers of a trunk compute as above; other adapted layers stay as PEFT has them."""
    for module in trunk.modules():
        if type(module) is Linear and type(module.base_layer) is nn.Linear:
            module.__class__ = AdaptedLinear
