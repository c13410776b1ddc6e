"""Lower layers then upper layers is the whole model, in values and in gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from camelid import bases, models
from camelid.batches import Tokens, collate_rows
from camelid.labelling import freeze_states, over_epochs
from camelid.objectives import cross_entropy
from camelid.reading import Reading
from camelid.recipe import Plan
from camelid.surgery.depth import is_splittable

ROWS = [Tokens("0", [3, 9, 5, 11, 4], [0]), Tokens("1", [8, 2], [1]), Tokens("2", [7, 7, 8], [1])]


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_training_from_frozen_states_is_training_the_whole(tiny_model: Path, attention: str) -> None:
    settings = {"kind": "label", "classes": ["a", "b"], "pooling": "mean", "sight": {"attention": attention}}
    plan = Plan(adapt_from_layer=2, precision="float32", batch_rows=3, epochs=1)
    model = models.label_model(bases.open_base(str(tiny_model)), settings, plan, Reading(16))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    frozen = freeze_states(model, ROWS, plan, 0)
    assert frozen is not None
    gradients = []
    for states in (None, frozen):
        (batch,) = over_epochs(ROWS, plan, 0, states)(0)
        assert (batch.states_BTD is None) == (states is None)
        model.train()
        model.zero_grad()
        terms, _ = cross_entropy(model, batch)
        terms["loss"].backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert len(gradients[0]) > 1
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, atol=1e-6, rtol=1e-4)
    assert len(model.trunk.layers) == model.trunk.config.num_hidden_layers == 3, "the trunk is whole again"


def test_nothing_is_kept_when_every_layer_is_trained(tiny_model: Path) -> None:
    settings = {"kind": "label", "classes": ["a", "b"], "pooling": "mean"}
    plan = Plan(precision="float32")
    model = models.label_model(bases.open_base(str(tiny_model)), settings, plan, Reading(16))
    assert freeze_states(model, ROWS, plan, 0) is None


def test_an_architecture_that_cannot_be_split_is_told_apart() -> None:
    """GPT-2 adds learned positions to whatever enters its first layer and names its layers otherwise."""
    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=32)
    assert not is_splittable(transformers.AutoModel.from_config(config), 1)
    llama = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4
    )
    assert is_splittable(transformers.AutoModel.from_config(llama), 1)


def test_padding_of_frozen_states_is_never_read(tiny_model: Path) -> None:
    settings = {"kind": "label", "classes": ["a", "b"], "pooling": "mean", "sight": {"attention": "bidirectional"}}
    plan = Plan(adapt_from_layer=2, precision="float32")
    model = models.label_model(bases.open_base(str(tiny_model)), settings, plan, Reading(16)).eval()
    frozen = freeze_states(model, ROWS, plan, 0)
    assert frozen is not None
    batch = frozen.attach(collate_rows(ROWS, 0), range(3))
    assert batch.states_BTD is not None
    with torch.no_grad():
        before = model(batch)
        batch.states_BTD[batch.mask_BT == 0] = 100.0
        torch.testing.assert_close(model(batch), before, atol=1e-5, rtol=0)
