"""The real experiments of two-stage reasoning: the generator on GSM8K, parity from scratch, emotions at 135M.

Each asserts a direction with a margin and writes its figures into docs/methods/two-stage-reasoning.md between its
markers. A figure that falls short is written as it is.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import RUNS, command_of, run_or_resume, signed, span, table, write_figures

from camelid import methods
from camelid.engines import open_engine
from camelid.metrics import spread_mean
from camelid.rationales import Drawing, doubt
from camelid.recipe import read_recipe
from camelid.rows import Labelled, iterate_rows
from parity import accuracy, make_base, whole_epochs

METHOD = "two-stage-reasoning"
RUN = "two-stage-emotion"
method = methods.load(METHOD)

pytestmark = pytest.mark.effects


def emotion_scores() -> dict[str, Any]:
    """One run holds both: the generator that check 3 measures writes the reasons of check 7."""
    return run_or_resume(
        METHOD,
        RUN,
        data__train="emotion",
        data__train_rows=500,
        data__dev_rows=50,
        data__test_rows=300,
        generator__rows="gsm8k",
        generator__most_rows=1000,
        generator__probe_rows=200,
        reasoning_tokens=40,
        marker="Emotion:",
        instruction="Which of these emotions does the text express: {labels}?",
        compare=True,
    )


def generator_table(found: dict[str, Any]) -> str:
    """Nats a token under each prompt, and paired differences."""
    lines = ["| prompt | nats a token |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in found["nats a token"].items()]
    lines += ["", "| difference | nats a token |", "|---|---|"]
    lines += [f"| {name} | {signed(value)} |" for name, value in found["differences"].items()]
    footer = f"{found['rows']} unseen rows; paired, 95 % bootstrap intervals."
    return "\n".join([*lines, "", footer, "", "```sh", command_of(RUN), "```"])


def emotion_table(scores: dict[str, Any]) -> str:
    """The systems, McNemar's test of the two students, how replies were read, and what became of the drawings."""
    test = scores["reasoning against label alone"]["mcnemar"]
    pairs = f"{test['only ours right']} to {test['only label alone right']}"
    lines = [
        table({"": RUN}),
        "",
        f"McNemar, reasoning against label alone: {pairs} rows, exact p {test['exact p']:.3f}.",
        f"Reasons: {json.dumps(scores['augmentation'])}.",
        f"Replies: {json.dumps(scores['reading'])}.",
        "",
        "| emotion | rows | reasoning minus label alone, accuracy |",
        "|---|---|---|",
    ]
    by_class = scores["reasoning against label alone"]["accuracy by class"]
    lines += [f"| {name} | {one['rows']} | {signed(one['difference'])} |" for name, one in by_class.items()]
    return "\n".join(lines)


@pytest.mark.data
@pytest.mark.real
def test_check_3_the_generator_learns_and_reads_the_answer() -> None:
    """The card expects 0.2 to 0.6 nats a token from training, and 0.01 to 0.1 from the right answer."""
    found = emotion_scores()["generator"]
    write_figures(METHOD, "generator", generator_table(found))
    assert found["differences"]["untuned - tuned"]["low"] > 0.1
    assert found["differences"]["another answer - tuned"]["low"] > 0


def test_check_6_parity_of_12_bits(tmp_path: Path) -> None:
    """Reached in a trial of the card: with running parities 100 % at step 600, without 47 % after 750 steps."""
    base = make_base(tmp_path / "base")
    right, read = accuracy(base, 12, 2000, 500, 600, reasons=True)
    plain, plain_read = accuracy(base, 12, 2000, 500, 750, reasons=False)
    steps = [whole_epochs(least, 2000)[1] for least in (600, 750)]
    lines = ["| taught | steps | right | label read |", "|---|---|---|---|"]
    lines += [f"| running parities, then parity | {steps[0]} | {right:.3f} | {read:.3f} |"]
    lines += [f"| parity alone | {steps[1]} | {plain:.3f} | {plain_read:.3f} |"]
    write_figures(METHOD, "parity", "\n".join([*lines, "", "500 unseen strings; chance is 0.5. Seed 0."]))
    assert right > 0.95
    assert plain < 0.6


@pytest.mark.data
@pytest.mark.real
def test_check_7_what_the_consistency_filter_would_keep() -> None:
    """The share of the reasons of the run after which the untuned base finds their own label likeliest."""
    emotion_scores()
    recipe = read_recipe(method.Recipe, RUNS / RUN / "recipe.toml")
    rows: list[Any] = list(iterate_rows(RUNS / RUN / "reasoned" / "train.jsonl"))
    texts = [Labelled(row.id, row.origin, row.question, row.answer) for row in rows]
    drawings = [Drawing(text, row.reasoning, "") for text, row in zip(texts, rows, strict=True)]
    classes = sorted({row.answer for row in rows})
    engine = open_engine(method.local_engine(recipe), recipe.model)
    shares = {}
    for name, each in {"their reason": drawings, "no reason": [replace(one, text="") for one in drawings]}.items():
        found = doubt(lambda: engine, each, classes, lambda row: method.ask_again(recipe, classes, row))
        shares[name] = spread_mean(np.array([not one.fault for one in found], float))
    told = " and ".join(f"{span(share)} behind {name}" for name, share in shares.items())
    text = f"The untuned base finds the right label likeliest for {told}, of {len(rows)} training rows: what"
    write_figures(METHOD, "filter", f"{text} `--check-label`, off in this run, would keep.")
    assert shares["their reason"]["high"] > 1 / len(classes)


@pytest.mark.data
@pytest.mark.real
def test_check_7_emotions_with_a_small_generator() -> None:
    """135M generators write weak reasons: no gain is asserted, only that replies can be read; the sign is reported."""
    scores = emotion_scores()
    write_figures(METHOD, "emotion", emotion_table(scores))
    assert all(one["share read"] > 0.95 for one in scores["reading"].values())
    assert scores["augmentation"]["rows with reasoning"] > 250
    assert (RUNS / RUN / "reasoned" / "train.jsonl").is_file()
