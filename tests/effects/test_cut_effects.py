"""The real experiment of CUT on the embedded 135M model: wrong numbers in GSM8K, against likelihood alone.

Figures with command, seed and intervals go into docs/methods/cut.md between its markers before anything is asserted
of them. A figure that falls short is written as it is.
"""

from __future__ import annotations

from typing import Any

import pytest
from experiments import RUNS, command_of, cost_by_stage, run_or_resume, signed, span, write_figures

from camelid.methods.align import cut

METHOD, FOLDER = "cut", "cut-wrong-numbers"
MLE, ALL = cut.RIVALS["mle"], cut.RIVALS["all"]
COLUMNS = ("contrast", "flagged_probability", "kept_logprob", "nll")
ENTRIES = {"held_out": "held out", "trained_rows": "trained on"}
# three trainings of some 50,000 tokens: float32 would take twice as long
VALUES: dict[str, Any] = {
    "data__train": "wrong-numbers",
    "data__train_rows": 150,
    "data__test_rows": 40,
    "max_tokens": 192,
    "threshold": 1.1,
    "alpha": 1.0,
    "gamma": 0.25,
    "compare": ["mle", "all"],
    "plan__warmup": 0.13,
    "plan__learning_rate": 1e-3,
    "plan__lora_alpha": 32,
    "plan__precision": "bfloat16",
}

pytestmark = [pytest.mark.effects, pytest.mark.data, pytest.mark.real]


@pytest.fixture(scope="module")
def scores() -> dict[str, Any]:
    """Of the run, which stand in the page from here on."""
    found = run_or_resume(METHOD, FOLDER, **VALUES)
    write_figures(METHOD, "detection", detection(found["detection"]))
    write_figures(METHOD, "contrast", table(found))
    return found


def detection(found: dict[str, Any]) -> str:
    areas = " | ".join(span(found[name]) for name in ("auroc", "auroc by row", "auroc of surprise alone"))
    shares = f"{found['flagged of faults']:.2f} | {found['flagged of others']:.2f}"
    lines = [
        "| rows | tokens | ROC-AUC | mean by row | of -log p+ alone | flagged of faults | flagged of others |",
        "|---|---|---|---|---|---|---|",
        f"| {found['rows with a known fault']} | {found['tokens']:,} | {areas} | {shares} |",
    ]
    return "\n".join(lines)


def table(found: dict[str, Any]) -> str:
    lines = ["| rows | model | contrast | CUT minus it | p+ over U | log p+ elsewhere | nats a token |"]
    lines.append("|---|---|---|---|---|---|---|")
    for entry, title in ENTRIES.items():
        for name, system in found[entry]["systems"].items():
            shown = f"**{name}**" if name == cut.OURS else name
            against = found[entry]["against"].get(name, {}).get("difference")
            first, *rest = (span(system[column]) for column in COLUMNS)
            lines.append(f"| {title} | {shown} | {first} | {signed(against)} | {' | '.join(rest)} |")
    minutes = sum(cost["cpu_seconds"] for cost in cost_by_stage(RUNS / FOLDER).values()) / 60
    chance = [value_of(found, "trained_rows", name, "flagged_probability") for name in (cut.OURS, MLE)]
    facts = (
        f"{found['held_out']['rows']} answers held out and {found['trained_rows']['rows']} trained on, seed 0; U is "
        f"the untrained model's; 95 % intervals over answers; {minutes:.0f} minutes of one core. On trained "
        f"answers p+ over U is {chance[0] / chance[1]:.2f} of what likelihood alone leaves; hoped for was a half."
    )
    return "\n".join([*lines, "", facts, "", "```sh", command_of(FOLDER), "```"])


def value_of(scores: dict[str, Any], entry: str, system: str, column: str) -> float:
    return scores[entry]["systems"][system][column]["value"]


def test_check_6_detection_before_training(scores: dict[str, Any]) -> None:
    """The card measured 0.72 on 38 answers; 0.5 would be misaligned positions."""
    found = scores["detection"]
    assert found["rows with a known fault"] >= 60
    assert found["auroc"]["value"] > 0.6
    assert found["flagged of faults"] > found["flagged of others"]


@pytest.mark.parametrize("entry", ENTRIES)
def test_check_6_condemned_words_go_down_and_others_stay(entry: str, scores: dict[str, Any]) -> None:
    """Against the same rows and steps by likelihood alone: mean p+ over U below, log p+ elsewhere within 0.1.

    Hoped for, and written beside the table: at most half of the control's p+ over U.
    """
    ours, mle = (value_of(scores, entry, name, "flagged_probability") for name in (cut.OURS, MLE))
    assert ours < mle
    kept = [value_of(scores, entry, name, "kept_logprob") for name in (cut.OURS, MLE)]
    assert abs(kept[0] - kept[1]) < 0.1
    assert scores[entry]["against"][MLE]["difference"]["low"] > 0


def test_check_6_unlikelihood_of_all_tokens_destroys_the_model(scores: dict[str, Any]) -> None:
    """The plain-context NLL ends above the untrained model's; with U alone it does not have to."""
    for entry in ENTRIES:
        assert value_of(scores, entry, ALL, "nll") > value_of(scores, entry, cut.BEFORE, "nll")
