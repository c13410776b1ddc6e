"""The embedded 135M model itself: found, converted, right about something, and able to learn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from camelid import bases, data, labelling, models
from camelid.batches import EpochBatches
from camelid.engines import Question
from camelid.engines.local import LocalEngine
from camelid.objectives import cross_entropy
from camelid.reading import Reading, tokenise
from camelid.recipe import Plan
from camelid.scoring import score
from camelid.training import train

pytestmark = pytest.mark.real


def test_it_knows_the_capital_of_france() -> None:
    base = bases.open_base("smollm2-135m")
    assert base.tokenizer.pad_token_id == base.tokenizer.eos_token_id, "the trap the masks are there for"
    model = bases.load_lm(base, "float32")
    answers = (" Paris", " London", " a small village in Wales")
    found = score(LocalEngine(model, base.tokenizer), [Question("The capital of France is", answers)])[0].sums
    assert max(found) == found[0]
    assert found[0] > -2.0, "it is sure, so the weights were read right"


def test_it_learns_to_tell_complaints_from_praise(tmp_path: Path) -> None:
    rows = [row for row in data.read_rows("crowd-tweets") if row.label != "neutral"]
    chosen = [row for label in ("negative", "positive") for row in [r for r in rows if r.label == label][:16]]
    plan = Plan(adapt_from_layer="half", learning_rate=1e-3, batch_rows=8, epochs=6, precision="float32")
    base = bases.open_base("smollm2-135m")
    settings = {"kind": "label", "classes": ["negative", "positive"], "pooling": "last"}
    model = models.label_model(base, settings, plan, Reading(64))
    tokens = tokenise(base.tokenizer, chosen, model, Reading(64))
    frozen = labelling.freeze_states(model, tokens, plan, 0)
    assert frozen is not None, "the lower half of a LLaMA is run once"
    batches: EpochBatches = labelling.over_epochs(tokens, plan, 0, frozen)
    train(model, batches, cross_entropy, plan, folder=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, last = (sum(line["loss"] for line in part) / 4 for part in (lines[:4], lines[-4:]))
    assert last < 0.5 * first
