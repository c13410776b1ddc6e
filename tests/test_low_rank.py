"""Adapted layers by their equation: PEFT's own values and gradients, and PEFT itself where there is more to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from peft.tuners import lora
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from camelid import bases, models
from camelid.recipe import Plan
from camelid.surgery.low_rank import AdaptedLinear, shorten_adapters

NORMAL = torch.Generator()


def layer(biased: bool, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A layer of 6 inputs and 5 outputs with an adapter of rank 2 whose B is not zero."""
    torch.manual_seed(0)
    trunk = nn.ModuleDict({"q": nn.Linear(6, 5, bias=biased)}).to(dtype)
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
    x = torch.randn(4096, 6, generator=NORMAL.manual_seed(1)).bfloat16()
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
    assert errors["ours"] < 0.95 * errors["peft"]


def test_autocast_says_in_what_it_is_computed() -> None:
    trunk, x = layer(True), torch.randn(4, 6, generator=NORMAL.manual_seed(1))
    shorten_adapters(trunk)
    assert trunk["q"](x).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert trunk["q"](x).dtype == torch.bfloat16
        with torch.no_grad():
            torch.testing.assert_close(trunk["q"](x), trunk["q"](x.bfloat16()))


@pytest.fixture
def is_left(monkeypatch: pytest.MonkeyPatch) -> Callable[..., bool]:
    """Whether a layer's forward pass is PEFT's."""
    asked = list[str]()
    own = lora.Linear.forward

    def watch(self: Any, *args: Any, **options: Any) -> Tensor:
        asked.append("peft")
        return own(self, *args, **options)

    monkeypatch.setattr(lora.Linear, "forward", watch)

    def look(trunk: Any, dtype: torch.dtype = torch.float32, **options: Any) -> bool:
        asked.clear()
        shorten_adapters(trunk)
        trunk["q"](torch.randn(3, 6, generator=NORMAL.manual_seed(1)).to(dtype), **options)
        return bool(asked)

    return look


def test_what_is_more_than_the_equation_is_left_to_peft(is_left: Callable[..., bool]) -> None:
    assert not is_left(layer(False))
    assert not is_left(layer(False, lora_dropout=0.5).eval())
    assert is_left(layer(False, lora_dropout=0.5).train())
    assert is_left(layer(False, use_dora=True))
    assert is_left(layer(True, lora_bias=True))
    assert is_left(layer(True, bias="lora_only")), "its bias is trained"
    assert is_left(layer(False), adapter_names=["default", "default", "__base__"])
    open_layer = layer(False)
    open_layer["q"].base_layer.weight.requires_grad_(True)
    assert is_left(open_layer)


def test_several_adapters_and_none_are_left_to_peft(is_left: Callable[..., bool]) -> None:
    x = torch.randn(3, 6, generator=NORMAL.manual_seed(1))
    for change in (lambda q: q.set_adapter([]), lambda q: q.enable_adapters(False), lambda q: q.set_adapter(["other"])):
        trunk = layer(False)
        change(trunk["q"])
        assert is_left(trunk)
        torch.testing.assert_close(trunk["q"](x), trunk["q"].base_layer(x))
    two = layer(False)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q"]), two, adapter_name="second")
    two["q"].set_adapter(["default", "second"])
    assert is_left(two)
    merged = layer(False)
    wanted = merged["q"](x)
    merged["q"].merge()
    assert is_left(merged)
    torch.testing.assert_close(merged["q"](x), wanted)


def test_hooks_inside_a_layer_are_heard(is_left: Callable[..., bool]) -> None:
    x = torch.randn(3, 6, generator=NORMAL.manual_seed(1))
    for name in ("base_layer", "lora_A.default", "lora_B.default"):
        trunk = layer(False)
        plain = trunk["q"](x)
        trunk["q"].get_submodule(name).register_forward_hook(lambda module, given, out: out + 1)
        assert is_left(trunk)
        assert not torch.equal(trunk["q"](x), plain)


def test_a_float32_adapter_on_bfloat16_states_is_left_to_peft_outside_autocast(is_left: Callable[..., bool]) -> None:
    assert is_left(layer(False, torch.bfloat16), torch.bfloat16)
    assert not is_left(layer(False).to(torch.bfloat16), torch.bfloat16)


def test_other_layers_stay_as_they_are() -> None:
    """A table of embeddings, and a product that is no nn.Linear."""

    class Quantised(nn.Linear):
        pass

    trunk = nn.ModuleDict({"q": Quantised(6, 5), "e": nn.Embedding(4, 6)})
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q", "e"]), trunk)
    kinds = [type(module) for module in trunk.modules()]
    shorten_adapters(trunk)
    assert [type(module) for module in trunk.modules()] == kinds


def test_what_is_not_taught_keeps_nothing_for_a_gradient() -> None:
    trunk, x = layer(False), torch.randn(3, 6, generator=NORMAL.manual_seed(1))
    shorten_adapters(trunk)
    assert trunk["q"](x).grad_fn is not None
    trunk.requires_grad_(False)
    assert trunk["q"](x).grad_fn is None
    assert trunk["q"](x[:0]).shape == (0, 5)


def test_a_gradient_may_be_taken_within_autocast() -> None:
    trunk, x = layer(False), torch.randn(3, 6, generator=NORMAL.manual_seed(1)).requires_grad_()
    shorten_adapters(trunk)
    y = trunk["q"](x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_a_model_trains_by_it_and_peft_alone_reads_what_was_saved(tiny_model: Path, tmp_path: Path) -> None:
    base = bases.open_base(str(tiny_model))
    model = models.language_model(base, {}, Plan(precision="float32"))
    short = [module for module in model.modules() if isinstance(module, AdaptedLinear)]
    assert len(short) == 7 * base.config.num_hidden_layers
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    models.save(model, tmp_path)
    ids = torch.tensor([[3, 9, 5, 11]])
    with torch.no_grad():
        wanted = model.eval().lm(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(tiny_model)
        assert not torch.allclose(plain(ids).logits, wanted, atol=1e-2)
        torch.testing.assert_close(PeftModel.from_pretrained(plain, str(tmp_path))(ids).logits, wanted)
        merged = models.merge(models.load_handle(tmp_path)[0])
        torch.testing.assert_close(merged.lm(ids).logits, wanted, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, lora.LoraLayer) for module in merged.modules())
