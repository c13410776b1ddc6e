"""What a run is expected to cost follows from the plan and the lengths of the rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from camelid import bases, forecast
from camelid.recipe import Plan

LENGTHS = {"train": [500_000, 100_000, 100_000, 100_000, 10, 10], "test": [30]}


def activations(tiny_model: Path, **plan: object) -> float:
    """GB that the forecast has for more than one token at a time."""
    base = bases.open_base(str(tiny_model))

    def memory(lengths: dict[str, list[int]]) -> float:
        lines = dict(forecast.tell_cost(base, Plan(precision="float32", **plan), lengths, 1))  # type: ignore[arg-type]
        return float(lines["memory"].removeprefix("about ").removesuffix(" GB"))

    return memory(LENGTHS) - memory({"train": [1], "test": [1]})


def test_padding_and_micro_batches_count_and_packed_rows_need_no_padding(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest rows of a step: four of 500,000 as they are padded, 800,000 tokens behind each other."""
    monkeypatch.setattr(forecast, "count_minutes", lambda work, precision: 1)
    padded = activations(tiny_model, batch_rows=4)
    assert padded > 1
    assert activations(tiny_model, batch_rows=4, pack_tokens=1) == pytest.approx(padded * 0.4, rel=0.05)
    assert activations(tiny_model, batch_rows=4, accumulate=4) == pytest.approx(padded / 4, rel=0.05)
    assert activations(tiny_model, batch_rows=4, accumulate=2, pack_tokens=1) == pytest.approx(padded * 0.3, rel=0.05)
