"""Attention with gradients in float32: the same attention, closer to float32, and nothing of it in what is saved."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from camelid import bases, models
from camelid.reading import Reading
from camelid.recipe import Plan
from camelid.surgery import attention

LAYER = SimpleNamespace(num_key_value_groups=3, is_causal=True)


def states(length: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Queries of 9 heads, keys and values of 3, the same values rounded to bfloat16 in every dtype."""
    draws = torch.Generator().manual_seed(length)
    shapes = (2, 9, length, 16), (2, 3, length, 16), (2, 3, length, 16)
    values = [torch.randn(shape, generator=draws).bfloat16().to(dtype) for shape in shapes]
    return tuple(value.requires_grad_() for value in values)


def gradients(attend: object, given: tuple[Tensor, ...], mask: Tensor | None) -> list[Tensor]:
    read, _ = attend(LAYER, *given, mask, scaling=0.25)  # type: ignore[operator]
    weights = torch.linspace(-1, 1, read.numel()).view(read.shape)
    (read.float() * weights).sum().backward()
    return [read.detach().float(), *(value.grad.float() for value in given if value.grad is not None)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_value_and_gradients_are_those_of_float32_up_to_one_rounding(masked: bool, autocast: bool) -> None:
    mask = None
    if masked:
        mask = torch.rand(2, 1, 20, 20, generator=torch.Generator().manual_seed(1)) < 0.5
        mask |= torch.eye(20, dtype=torch.bool)
    exact = gradients(sdpa_attention_forward, states(20, torch.float32), mask)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = gradients(attention.attend, states(20, torch.bfloat16), mask)
    assert len(found) == 4
    for ours, wanted in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, wanted.bfloat16().float(), rtol=2**-7, atol=2**-7 * wanted.abs().max().item())


def test_without_a_gradient_it_is_sdpa_bit_for_bit() -> None:
    given = states(20, torch.bfloat16)
    with torch.no_grad():
        frozen = attention.attend(LAYER, *(value.detach() for value in given), None, scaling=0.25)[0]
        plain = sdpa_attention_forward(LAYER, *given, None, scaling=0.25)[0]  # type: ignore[arg-type]
    assert torch.equal(frozen, plain)


def test_long_rows_are_left_to_the_bfloat16_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    def watch(module: object, query: Tensor, *rest: object, **options: object) -> object:
        seen.append(query.dtype)
        return sdpa_attention_forward(module, query, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(attention, "sdpa_attention_forward", watch)
    for length in (attention.MOST_TOKENS, attention.MOST_TOKENS + 1):
        attention.attend(LAYER, *states(length, torch.bfloat16), None)
    assert seen == [torch.float32, torch.bfloat16]


def test_a_model_being_trained_attends_by_it_and_a_saved_one_knows_nothing_of_it(
    tmp_path: Path, tiny_model: Path
) -> None:
    plan = Plan(precision="bfloat16", tuning="full")
    settings = {"kind": "label", "classes": ["a", "b"], "pooling": "last"}
    model = models.label_model(bases.open_base(str(tiny_model)), settings, plan, Reading(16))
    assert model.trunk.config._attn_implementation == attention.NAME
    models.save(model, tmp_path)
    assert attention.NAME not in (tmp_path / "trunk" / "config.json").read_text()
    again = transformers.AutoModel.from_pretrained(tmp_path / "trunk")
    assert again.config._attn_implementation == "sdpa"


def test_another_attention_is_left_alone(tiny_model: Path) -> None:
    trunk = transformers.AutoModel.from_pretrained(tiny_model, attn_implementation="eager")
    attention.take_gradients_in_float32(trunk)
    assert trunk.config._attn_implementation == "eager"
