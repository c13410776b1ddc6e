"""RMS norms with a short backward pass: the same values bit for bit, and the gradient of float32 up to rounding."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNormGated

from camelid import bases, models
from camelid.recipe import Plan
from camelid.surgery.norm import shorten_norms

SHAPE = (3, 5, 24)


def norm(dtype: torch.dtype, kind: Any = LlamaRMSNorm) -> Any:
    """A norm with gains of its own, frozen."""
    trunk: Any = nn.ModuleDict({"norm": kind(SHAPE[-1], eps=1e-5)}).to(dtype)
    trunk["norm"].weight.data = torch.linspace(0.3, 1.7, SHAPE[-1]).to(dtype)
    return trunk.requires_grad_(False)


def given(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Inputs, and the gradient at the outputs."""
    draws = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(SHAPE, generator=draws).bfloat16().to(dtype) for _ in range(2))
    return x.requires_grad_(), grad


def value_and_gradient(trunk: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x, grad = given(dtype)
    y = trunk["norm"](x)
    y.backward(grad)
    return y.detach(), x.grad  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_equal_and_the_gradient_no_farther_from_float64(dtype: torch.dtype) -> None:
    trunk = norm(dtype)
    x, grad = given(torch.float64)
    exact: Any = x
    (trunk["norm"].weight.double() * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()).backward(grad)
    y, before = value_and_gradient(trunk, dtype)
    shorten_norms(trunk)
    again, after = value_and_gradient(trunk, dtype)
    assert torch.equal(again, y)
    error = [(found.double() - exact.grad).abs().mean() for found in (before, after)]
    assert 0 < error[1] <= 1.05 * error[0]


def test_a_short_norm_keeps_its_input_and_a_number_a_row_for_the_gradient() -> None:
    trunk = norm(torch.bfloat16)
    kept = dict[str, int]()
    for name in ("as it was", "short"):
        sizes = list[int]()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, sizes=sizes: sizes.append(tensor.nbytes) or tensor, lambda tensor: tensor
        ):
            trunk["norm"](torch.ones(SHAPE, dtype=torch.bfloat16, requires_grad=True))
        kept[name] = sum(sizes)
        shorten_norms(trunk)
    assert kept["short"] < kept["as it was"] / 3


def test_gains_that_are_trained_get_their_gradient() -> None:
    trunk = norm(torch.float32)
    shorten_norms(trunk)
    trunk.requires_grad_(True)
    value_and_gradient(trunk, torch.float32)
    assert trunk["norm"].weight.grad is not None


def test_a_short_norm_can_be_copied_and_pickled() -> None:
    trunk = norm(torch.bfloat16)
    shorten_norms(trunk)
    for again in (copy.deepcopy(trunk), pickle.loads(pickle.dumps(trunk))):
        again["norm"].weight.data.zero_()
        assert not value_and_gradient(again, torch.bfloat16)[0].any()
        assert value_and_gradient(trunk, torch.bfloat16)[0].any()


def test_without_a_gradient_it_is_the_module_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = norm(torch.bfloat16)
    shorten_norms(trunk)
    asked = list[str]()
    monkeypatch.setattr(LlamaRMSNorm, "forward", lambda self, x: asked.append("own") or x)
    with torch.no_grad():
        value = torch.ones(SHAPE, dtype=torch.bfloat16, requires_grad=True)
        trunk["norm"](value)
    trunk["norm"](value.detach())
    assert asked == ["own", "own"]


def test_norms_of_another_equation_stay_as_they_are(tiny_model: Path) -> None:
    other = norm(torch.float32, GemmaRMSNorm)
    other["norm"].variance_epsilon = 1e-5
    gated = norm(torch.float32, Qwen3NextRMSNormGated)
    for trunk in (other, gated):
        shorten_norms(trunk)
        assert "forward" not in vars(trunk["norm"])
    model = models.language_model(bases.open_base(str(tiny_model)), {}, Plan())
    layers = model.trunk.config.num_hidden_layers
    assert sum("forward" in vars(module) for module in model.trunk.modules()) == 2 * layers + 1
