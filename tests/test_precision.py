"""What number format runs where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

from camelid import bases, models, recipe
from camelid.batches import Tokens
from camelid.engines import open_engine
from camelid.prediction import logits_by_row
from camelid.reading import Reading
from camelid.recipe import Plan


def test_auto_is_bfloat16_only_where_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bases.resolve_precision("float32") == "float32"
    assert bases.resolve_precision("bfloat16") == "bfloat16"
    if bases.device().type != "cpu":
        pytest.skip("asks the CPU")
    for native, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert bases.resolve_precision("auto") == expected


def test_bfloat16_trunk_with_a_float32_head(tiny_model: Path) -> None:
    """Frozen weights bfloat16, everything trainable float32, logits float32 and near those of the float32 model."""
    settings = {"kind": "label", "classes": ["a", "b"], "pooling": "mean", "sight": {"attention": "bidirectional"}}
    rows = [Tokens("0", [3, 9, 5, 11], [0]), Tokens("1", [8, 2], [1])]
    logits = {}
    for precision in ("float32", "bfloat16"):
        model = models.label_model(bases.open_base(str(tiny_model)), settings, Plan(precision=precision), Reading(16))
        dtypes = {p.requires_grad: p.dtype for p in model.parameters()}
        assert dtypes == {True: torch.float32, False: getattr(torch, precision)}
        logits[precision] = torch.stack(logits_by_row(model, rows, 0))
    assert logits["bfloat16"].dtype == torch.float32
    torch.testing.assert_close(logits["bfloat16"], logits["float32"], atol=0.02, rtol=0.05)


def test_an_engine_of_bfloat16_keeps_the_adapter_beside_the_weights(tiny_model: Path, tmp_path: Path) -> None:
    """Added to weights that lie on the grid of bfloat16, a small product is rounded away from most of them."""
    base = bases.open_base(str(tiny_model))
    model = models.language_model(base, {}, Plan(precision="bfloat16"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(3e-5)
    models.save(model, tmp_path)

    def layers_of(precision: Any) -> list[Any]:
        engine = recipe.Engine(precision=precision, cache=False)
        opened: Any = open_engine(engine, recipe.Model(base=str(tiny_model)), tmp_path)
        return [module for module in opened.model.modules() if isinstance(module, LoraLayer)]

    assert len(layers_of("bfloat16")) == 7 * base.config.num_hidden_layers
    assert layers_of("float32") == []
    plain = dict(bases.load_lm(base, "bfloat16").named_parameters())
    merged = dict(models.merge(models.load_handle(tmp_path)[0]).lm.named_parameters())
    same = torch.cat([(plain[name] == merged[name]).flatten() for name in plain if name.endswith("proj.weight")])
    assert same.float().mean() > 0.5
