"""Adapted layers by their equation: PEFT's own values and gradients, and PEFT itself where there is more to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners import lora
from torch import Tensor, nn

from camelid import bases, models
from camelid.reading import Reading
from camelid.recipe import Plan
from camelid.surgery.low_rank import AdaptedLinear, shorten_adapters

NORMAL = torch.Generator()


def layer(bias: bool, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A layer of 6 inputs and 5 outputs with an adapter of rank 2 whose B is not zero."""
    torch.manual_seed(0)
    trunk = nn.ModuleDict({"q": nn.Linear(6, 5, bias=bias)}).to(dtype)
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=3, target_modules=["q"], **options), trunk)
    for name, parameter in trunk.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape)
    return trunk


def value_and_gradients(trunk: Any, x: Tensor, autocast: bool) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    trunk.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        y = trunk["q"](x)
    (y.float() * torch.linspace(-1, 2, y.numel()).view(y.shape)).sum().backward()
    found = {name: p.grad for name, p in trunk.named_parameters() if p.grad is not None}
    assert set(found) == {f"q.lora_{which}.default.weight" for which in "AB"}
    return {"y": y.detach(), "x": x.grad, **found}  # type: ignore[dict-item]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(3, 4, 6), (7, 6)])
def test_values_and_gradients_are_those_of_peft(bias: bool, shape: tuple[int, ...]) -> None:
    trunk, x = layer(bias), torch.randn(shape, generator=NORMAL.manual_seed(1))
    wanted = value_and_gradients(trunk, x, autocast=False)
    shorten_adapters(trunk)
    assert type(trunk["q"]) is AdaptedLinear
    found = value_and_gradients(trunk, x, autocast=False)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(trunk["q"](x), wanted["y"])


def test_in_bfloat16_it_is_nearer_to_float32_than_peft() -> None:
    """Fewer roundings: B A x is not rounded before it is added."""
    errors = dict[str, Tensor]()
    x = torch.randn(64, 6, generator=NORMAL.manual_seed(1)).bfloat16()
    exact = layer(False, torch.bfloat16).float()
    wanted = value_and_gradients(exact, x.float(), autocast=False)
    for name in ("peft", "ours"):
        trunk = layer(False, torch.bfloat16)
        if name == "ours":
            shorten_adapters(trunk)
        found = value_and_gradients(trunk, x, autocast=True)
        assert found["y"].dtype == found["x"].dtype == torch.bfloat16
        assert found["q.lora_A.default.weight"].dtype == torch.float32
        scale = {key: value.abs().max() for key, value in wanted.items()}
        gaps = {key: (found[key].float() - value).abs() / scale[key] for key, value in wanted.items()}
        assert all(gap.max() < 2**-6 for gap in gaps.values())
        errors[name] = gaps["y"].mean()
    assert errors["ours"] <= errors["peft"]


def test_autocast_says_in_what_it_is_computed() -> None:
    trunk, x = layer(True), torch.randn(4, 6, generator=NORMAL.manual_seed(1))
    shorten_adapters(trunk)
    assert trunk["q"](x).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert trunk["q"](x).dtype == torch.bfloat16
        with torch.no_grad():
            torch.testing.assert_close(trunk["q"](x), trunk["q"](x.bfloat16()))


def test_what_is_more_than_the_equation_is_left_to_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()
    own = lora.Linear.forward

    def watch(self: Any, *args: Any, **options: Any) -> Tensor:
        asked.append("peft")
        return own(self, *args, **options)

    monkeypatch.setattr(lora.Linear, "forward", watch)
    x = torch.randn(3, 6, generator=NORMAL.manual_seed(1))

    def is_left(trunk: Any) -> bool:
        asked.clear()
        shorten_adapters(trunk)
        trunk["q"](x)
        return bool(asked)

    assert not is_left(layer(False))
    assert not is_left(layer(False, lora_dropout=0.5).eval())
    assert is_left(layer(False, lora_dropout=0.5).train())
    assert is_left(layer(False, use_dora=True))
    assert is_left(layer(False, lora_bias=True))
    open_layer = layer(False)
    open_layer["q"].base_layer.weight.requires_grad_(True)
    assert is_left(open_layer)
    off = layer(False)
    off["q"].enable_adapters(False)
    assert is_left(off)
    torch.testing.assert_close(off["q"](x), off["q"].base_layer(x))
    merged = layer(False)
    wanted = merged["q"](x)
    merged["q"].merge()
    assert is_left(merged)
    torch.testing.assert_close(merged["q"](x), wanted)


def test_a_model_trains_by_it_and_a_saved_adapter_knows_nothing_of_it(tiny_model: Path, tmp_path: Path) -> None:
    base = bases.open_base(str(tiny_model))
    settings = {"kind": "label", "classes": ["a", "b"], "pooling": "last"}
    model = models.label_model(base, settings, Plan(), Reading(16))
    short = [module for module in model.modules() if isinstance(module, AdaptedLinear)]
    assert len(short) == 7 * base.config.num_hidden_layers
    models.save(model, tmp_path)
    assert not any(b"AdaptedLinear" in file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
    merged = models.merge(models.load_handle(tmp_path)[0])
    assert not any(isinstance(module, lora.LoraLayer) for module in merged.modules())
