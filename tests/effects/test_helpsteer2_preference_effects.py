"""The real experiment of HelpSteer2-Preference: judged answers of PandaLM, measured against people."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from experiments import command_of, run_or_resume, span, write_figures

METHOD = "helpsteer2-preference"
pytestmark = [pytest.mark.effects, pytest.mark.real, pytest.mark.data]


def write_table(name: str, folder: str, scores: dict[str, Any]) -> None:
    """Accuracy of every system, over all test pairs and over those all three people agree on; the sweep of alpha."""
    systems = scores["held_out"]["systems"]
    strengths = {each.partition(" (")[0]: each for each in scores["strength"]}
    unanimous = scores["strength"][strengths["much better"]]
    lines = ["| system | all pairs | people agree |", "|---|---|---|"]
    lines += [f"| {each} | {span(found['accuracy'])} | {span(unanimous[each])} |" for each, found in systems.items()]
    sweep = ", ".join(f"{alpha}: {value:.3f}" for alpha, value in scores["expo"]["dev accuracy"].items())
    length = scores["length"]["Pearson's r of reward and characters"]
    notes = [
        f"Dev accuracy by alpha: {sweep}; chosen {scores['expo']['alpha']:g}.",
        f"Rewards and length: Pearson's r {span(length)}.",
    ]
    write_figures(METHOD, name, "\n".join([*lines, "", *notes, "", "```sh", command_of(folder), "```"]))


def test_check_7_frozen() -> None:
    """Every head is better than a coin, regression and pairs are alike, and the sweep is smooth."""
    folder = f"{METHOD}-frozen"
    scores = run_or_resume(METHOD, folder)
    write_table("frozen", folder, scores)
    systems = {name: found["accuracy"] for name, found in scores["held_out"]["systems"].items()}
    for name, found in systems.items():
        assert found["value"] > 0.5, name
    assert systems["regression"]["low"] < systems["scaled_bt"]["high"]
    assert systems["scaled_bt"]["low"] < systems["regression"]["high"]
    sweep = list(scores["expo"]["dev accuracy"].values())
    assert max(abs(after - before) for before, after in pairwise(sweep)) < 0.05


def test_check_7_tuned() -> None:
    """Adapters: better than a coin."""
    folder = f"{METHOD}-tuned"
    plan = {"epochs": 1, "batch_rows": 8, "learning_rate": 2e-4, "lora_rank": 16, "lora_alpha": 32}
    values = {f"plan__{name}": value for name, value in plan.items()}  # as --scale tuned
    scores = run_or_resume(METHOD, folder, trunk="tuned", forms=["scaled_bt"], from_scratch=False, **values)
    write_table("tuned", folder, scores)
    assert scores["held_out"]["systems"]["ExPO"]["accuracy"]["low"] > 0.5


def test_people_on_harmless_answers() -> None:
    """Pairs of one source, of which the longer answer is the worse one more often than not: little to be seen."""
    folder = f"{METHOD}-hh-harmless"
    rows = {"data__ratings": "pandalm-ratings", "data__train": "hh-harmless", "data__test": "hh-harmless:dev"}
    scores = run_or_resume(METHOD, folder, max_tokens=512, forms=["bt"], strong="bt", **rows)
    systems = {name: found["accuracy"] for name, found in scores["held_out"]["systems"].items()}
    lines = ["| system | pairs told as people did |", "|---|---|"]
    lines += [f"| {name} | {span(found)} |" for name, found in systems.items()]
    write_figures(METHOD, "hh-harmless", "\n".join([*lines, "", "```sh", command_of(folder), "```"]))
    assert systems["longer answer"]["value"] == pytest.approx(0.435, abs=0.02)
    assert systems["bt"]["value"] > systems["longer answer"]["high"]
