"""Packed rows give what separate rows give, in values and gradients, however they are read."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from camelid import bases, models
from camelid.batches import Tokens, collate_rows
from camelid.heads import LabelModel, run_trunk
from camelid.labelling import freeze_states, over_epochs
from camelid.objectives import cross_entropy
from camelid.reading import Reading
from camelid.recipe import Plan
from camelid.surgery import attention as surgery
from camelid.surgery.packing import pack_rows

ROWS = [
    Tokens("0", [3, 9, 5, 11, 4], [0]),
    Tokens("1", [8, 2], [1]),
    Tokens("2", [7, 7, 8], [1]),
    Tokens("3", [6], [0]),
    Tokens("4", [5, 4, 3, 2, 9, 9, 10], [1]),
]


def model_of(tiny_model: Path, attention: str, **plan: object) -> LabelModel:
    settings = {"kind": "label", "classes": ["a", "b"], "pooling": "mean", "sight": {"attention": attention}}
    values = Plan(precision="float32", batch_rows=5, epochs=1, **plan)  # type: ignore[arg-type]
    model = models.label_model(bases.open_base(str(tiny_model)), settings, values, Reading(16))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return model  # type: ignore[return-value]


def test_lines_hold_every_token_once_and_little_else() -> None:
    """Rows of 5, 2, 3, 1 and 7 tokens in lines of 8: 7 + 1, 5 + 3, 2."""
    packing = pack_rows(collate_rows(ROWS, 0).mask_BT, 8)
    assert packing.row_LS.tolist() == [[4] * 7 + [3], [0] * 5 + [2] * 3, [1, 1] + [-1] * 6]
    assert packing.position_LS.tolist() == [[0, 1, 2, 3, 4, 5, 6, 0], [0, 1, 2, 3, 4, 0, 1, 2], [0, 1] + [0] * 6]
    batch = collate_rows(ROWS, 0)
    lines = packing.lay(batch.ids_BT)
    assert lines[1].tolist() == [3, 9, 5, 11, 4, 7, 7, 8]
    assert torch.equal(packing.lift(lines), batch.ids_BT * batch.mask_BT)


def test_a_row_longer_than_a_line_has_a_line_of_its_own() -> None:
    packing = pack_rows(collate_rows(ROWS, 0).mask_BT, 4)
    assert packing.row_LS.shape[1] == 7


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("first", [0, 2])
def test_packed_equals_separate(tiny_model: Path, attention: str, first: int) -> None:
    model = model_of(tiny_model, attention, adapt_from_layer=first)
    plan = Plan(precision="float32", batch_rows=5, epochs=1, adapt_from_layer=first)
    (batch,) = over_epochs(ROWS, plan, 0, freeze_states(model, ROWS, plan, 0))(0)
    assert (batch.states_BTD is not None) == bool(first)
    results = []
    for tokens in (0, 8, 64):
        model.sight = replace(model.sight, pack_tokens=tokens)
        model.zero_grad()
        terms, _ = cross_entropy(model, batch)
        terms["loss"].backward()
        results.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    for packed in results[1:]:
        assert packed.keys() == results[0].keys()
        for name, value in results[0].items():
            torch.testing.assert_close(packed[name], value, atol=1e-6, rtol=1e-4)


def test_a_packed_row_does_not_read_its_neighbour(tiny_model: Path) -> None:
    model = model_of(tiny_model, "bidirectional", pack_tokens=64).eval()
    other = copy.deepcopy(ROWS)
    other[0] = Tokens("0", [12, 13, 14, 15, 16], [0])
    with torch.no_grad():
        before, after = (run_trunk(model.trunk, model.sight, collate_rows(rows, 0)) for rows in (ROWS, other))
    assert not torch.allclose(before[0, :5], after[0, :5])
    torch.testing.assert_close(before[1:], after[1:], atol=1e-6, rtol=0)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_a_model_in_training_attends_row_by_row(
    tiny_model: Path, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And by the mask where it attends by another function than ours; the states are the same."""
    lengths: list[int] = []
    attend = surgery.sdpa_attention_forward

    def seen(module: object, query_BHTD: torch.Tensor, *rest: object, **options: object) -> object:
        lengths.append(query_BHTD.shape[2])
        return attend(module, query_BHTD, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(surgery, "sdpa_attention_forward", seen)
    model = model_of(tiny_model, attention, pack_tokens=8)
    batch = collate_rows(ROWS, 0)
    states = run_trunk(model.trunk, model.sight, batch)
    layers = model.trunk.config.num_hidden_layers
    assert lengths == [7, 1, 5, 3, 2, 6] * layers, "rows in the order of the lines, and the empty end of the last"
    model.trunk.set_attn_implementation("sdpa")
    torch.testing.assert_close(run_trunk(model.trunk, model.sight, batch), states, atol=1e-5, rtol=1e-4)
    assert len(lengths) == 6 * layers
