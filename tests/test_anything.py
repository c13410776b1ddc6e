"""Whatever rows and recipe: a run, or a sentence that helps. Never a traceback, and every row is accounted for."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import invoke

EXAMPLES = int(os.environ.get("CAMELID_EXAMPLES", "12"))  # make effects asks for more

TEXTS = st.one_of(
    st.sampled_from(["fine", "a day of rain", "fine", " ", "", "nan", "\N{ROCKET} up", "\u2028", "e\u0301", "x" * 300]),
    st.text(max_size=40),
)
LABELS = {
    "labels": st.one_of(st.sampled_from(["yes", "no", "maybe"]), st.integers(0, 2), st.none(), st.booleans()),
    "multi-label": st.one_of(
        st.lists(st.sampled_from(["a", "b", "c"]), max_size=3), st.sampled_from(["a|b", "", None, "[]"])
    ),
    "regression": st.one_of(
        st.floats(allow_nan=True, allow_infinity=True, width=32), st.integers(-5, 5), st.just("many")
    ),
    "tags": st.none(),
}
SENTENCES = st.fixed_dictionaries({
    "tokens": st.lists(st.sampled_from(["Ada", "met", "Bo", "in", "O'Hara-Town", "\N{ROCKET}", " ", ""]), max_size=6),
    "tags": st.lists(st.sampled_from(["O", "B-person", "I-person", "S-place", "NOUN"]), max_size=6),
})  # fmt: skip
ALIKE = st.lists(st.sampled_from([("Ada met Bo", "B-person O B-person"), ("in Oslo", "O B-place")]), max_size=12)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "data.missing": st.sampled_from(["error", "drop"]),
        "data.dev_share": st.sampled_from([0.05, 0.3, 0.9]),
        "data.train_rows": st.integers(1, 30),
        "data.dev_rows": st.integers(1, 5),
        "attention": st.sampled_from(["causal", "bidirectional"]),
        "unmask_layers": st.sampled_from([[0, 2], [1, 9], [2, 1]]),
        "pooling": st.sampled_from(["last", "mean", "max"]),
        "max_tokens": st.sampled_from([2, 5, 64]),
        "stride": st.sampled_from([1, 2, 40]),
        "paper_padding": st.booleans(),
        "mntp_epochs": st.integers(0, 1),
        "class_weights": st.sampled_from(["equal", "balanced"]),
        "calibrate": st.booleans(),
        "plan.batch_rows": st.integers(1, 9),
        "plan.accumulate": st.integers(1, 4),
        "plan.schedule": st.sampled_from(["linear", "cosine", "constant", "wsd"]),
        "plan.warmup": st.sampled_from([0.0, 0.5]),
        "plan.keep": st.sampled_from(["last", "best"]),
        "plan.patience": st.integers(1, 2),
        "plan.pack_tokens": st.sampled_from([0, 16]),
        "plan.adapt_from_layer": st.sampled_from([0, 1, "half", 3]),
        "plan.tuning": st.sampled_from(["lora", "full"]),
        "plan.lora_dropout": st.sampled_from([0.0, 0.2]),
        "plan.gradient_checkpointing": st.booleans(),
        "plan.seed": st.sampled_from([0, 4295, 2**32 - 1]),
        "plan.precision": st.sampled_from(["auto", "float32", "bfloat16"]),
        "plan.groups": st.just([{"match": "head", "learning_rate": 1e-3}]),
        "compare": st.booleans(),
        "instruct": st.booleans(),
        "shots": st.sampled_from([1, 3, 60]),
        "seeds": st.sampled_from([1, 2]),
    },
)


@pytest.mark.parametrize("task", LABELS)
@given(data=st.data())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_rows_and_recipes(task: str, tiny_model: Path, tmp_path: Path, data: Any) -> None:
    one = SENTENCES if task == "tags" else st.fixed_dictionaries({"text": TEXTS, "label": LABELS[task]})
    rows = data.draw(st.lists(one, max_size=25), label="rows")
    if task == "tags":  # words and tags of equal number are rare among random ones
        rows += [{"tokens": words.split(), "tags": tags.split()} for words, tags in data.draw(ALIKE, label="more")]
    values = data.draw(VALUES, label="values")
    shutil.rmtree(tmp_path, ignore_errors=True)
    tmp_path.mkdir()
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings_ = [part for name, value in values.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    kind = ["--tokens", "tokens"] if task == "tags" else ["--task", task]
    options = ["--data", source, *kind, "--model", tiny_model, "--epochs", 1, *settings_]
    checked = invoke("check", "ls-llama", *options)
    result = invoke("run", "ls-llama", *options, "--out", tmp_path / "run")
    assert checked.exit_code in (0, 2), checked.output
    assert result.exit_code in (0, 2), result.output
    for found in (checked, result):
        assert (found.exit_code == 2) == ("error:" in found.output)
        assert "Traceback" not in found.output
    assert checked.exit_code <= result.exit_code, "what check refuses, run refuses"
    if result.exit_code == 0:
        account_for(rows, values, tmp_path / "run")


def account_for(rows: list[Any], values: dict[str, Any], folder: Path) -> None:
    """Every row is in a split, or counted among those left out, or beyond a limit that was asked for."""
    manifest = json.loads((folder / "manifest.json").read_text())
    split = {name: manifest["stages"][name]["rows"] for name in ("train", "dev", "test")}
    dropped = sum(manifest["notes"]["data"]["dropped"].values())
    if not {"data.train_rows", "data.dev_rows"} & set(values):
        assert sum(split.values()) + dropped == len(rows)
    assert manifest["stages"]["predictions/label-supervision"]["rows"] == (split["test"] or split["dev"])
    assert manifest["finished"]
