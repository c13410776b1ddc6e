"""The real experiments of SALMON on the embedded 135M model: minutes each, run by `make effects`.

Each asserts a direction and writes its figures, with command, seed and intervals, into docs/methods/salmon.md between
its markers. A figure that falls short is written as it is.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from experiments import RUNS, command_of, cost_by_stage, run_or_resume, signed, span, write_figures

from camelid import adherence
from camelid.methods.reinforce import salmon

METHOD = "salmon"
COLUMNS = ("accuracy", "plain_accuracy", "negated_accuracy", "flip_rate")

pytestmark = [pytest.mark.effects, pytest.mark.data, pytest.mark.real]


def table(name: str, scores: dict[str, Any]) -> str:
    """Tables of the systems, of the principles and of steering, and what repeats them."""
    held_out, labels = scores["held_out"], scores["labels"]
    lines = ["| system | accuracy | plain | negated | flip rate |", "|---|---|---|---|---|"]
    for system, found in held_out["systems"].items():
        shown = f"**{system}**" if system == held_out["ours"] else system
        lines.append(f"| {shown} | {' | '.join(span(found[column]) for column in COLUMNS)} |")
    lines += [
        "",
        "| principle | pairs | accuracy | flip rate | its measure in the picks, minus that when turned round |",
    ]
    lines += ["|---|---|---|---|---|"]
    for principle, found in scores["by_principle"].items():
        picks = signed(scores["steering"][principle].get("difference"))
        lines.append(
            f"| {principle} | {found['pairs']} | {span(found['accuracy'])} | {span(found['flip_rate'])} | {picks} |"
        )
    minutes = sum(cost["cpu_seconds"] for cost in cost_by_stage(RUNS / name).values()) / 60
    decided = ", ".join(f"{what} {count}" for what, count in labels["decided by"].items())
    facts = (
        f"{held_out['rows']} decisions on {scores['steering']['questions']} questions, seed 0; 95 % intervals "
        f"over questions; {labels['labels']} labels ({decided}); {minutes:.0f} minutes of one core."
    )
    return "\n".join([*lines, "", facts, "", "```sh", command_of(name), "```"])


def measure(name: str, figures: str, **values: Any) -> dict[str, Any]:
    """The scores of a run, which stand in the page before anything is asserted of them."""
    scores = run_or_resume(METHOD, name, **values)
    write_figures(METHOD, figures, table(name, scores))
    systems = scores["held_out"]["systems"]
    for blind in (adherence.BLIND, adherence.LONGER):
        assert systems[blind]["accuracy"] == {"value": 0.5, "low": 0.5, "high": 0.5}
        assert systems[blind]["flip_rate"]["value"] == 0.0
    return systems[adherence.OURS]


def test_check_8_four_measured_principles() -> None:
    """Required by the card: above one half by two standard errors, and a flip rate clearly above 0. Hoped for: 70 to
    85 % and 50 to 70 %."""
    ours = measure("salmon", "four", compare=True)
    assert ours["accuracy"]["low"] > 0.5
    assert ours["flip_rate"]["low"] > 0.05


def test_lists_with_noise_as_in_the_paper() -> None:
    values = {"passes": 4, "most_principles": 8, "noise": 0.1, "data__train_rows": 130}
    values |= {"plan__learning_rate": 2e-4, "plan__epochs": 1}  # the card's
    rows = {"data__train": "pandalm-pairs", "data__test_share": 0.4, "data__test_rows": 150}
    ours = measure("salmon-lists", "lists", **rows, **values)
    assert ours["accuracy"]["value"] > 0.5


def test_check_8_one_principle_and_its_negation() -> None:
    """The card's way out where four principles are too many for so small a model."""
    path = RUNS / "concise.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    concise = salmon.read_principles("measured")["concise"]
    values = "\n".join(f"{name} = {json.dumps(value)}" for name, value in concise.model_dump().items())
    path.write_text(f"[[principle]]\n{values}\n", encoding="utf-8")
    ours = measure("salmon-one", "one", principles=str(path), plan__learning_rate=5e-4, plan__epochs=1)
    assert ours["accuracy"]["low"] > 0.5
    assert ours["flip_rate"]["low"] > 0.05
