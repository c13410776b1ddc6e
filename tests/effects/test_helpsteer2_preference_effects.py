"""The real experiment of HelpSteer2-Preference: judged answers of PandaLM, measured against people."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from experiments import command_of, run_or_resume, span, write_figures

from camelid.metrics import aggregate_seeds
from camelid.objectives import BRADLEY_TERRY

METHOD = "helpsteer2-preference"
DRAWS = 5
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
    """Every head is better than a coin, regression and pairs are alike, and the sweep is smooth, over five draws of the
    prompts: rewards and the longer answer change places from one draw of 50 prompts to the next."""
    runs = [f"{METHOD}-frozen-{seed}" for seed in range(DRAWS)]
    found = [run_or_resume(METHOD, run, plan__seed=seed) for seed, run in enumerate(runs)]
    values = {
        name: [scores["held_out"]["systems"][name]["accuracy"]["value"] for scores in found]
        for name in found[0]["held_out"]["systems"]
    }
    means = {name: aggregate_seeds(each) for name, each in values.items()}
    lines = [f"| system | mean of {DRAWS} draws | each draw |", "|---|---|---|"]
    for name, mean in means.items():
        lines.append(f"| {name} | {span(mean.as_dict())} | {', '.join(f'{value:.3f}' for value in values[name])} |")
    alphas = ", ".join(f"{scores['expo']['alpha']:g}" for scores in found)
    footer = f"Alpha of ExPO chosen on dev pairs: {alphas}. Seeds 0 to {DRAWS - 1} draw the prompts; 95 % t-intervals."
    write_figures(METHOD, "frozen", "\n".join([*lines, "", footer, "", "```sh", command_of(runs[0]), "```"]))
    for name, mean in means.items():
        assert mean.value > 0.5, name
    for form in BRADLEY_TERRY:
        assert means["regression"].low < means[form].high
        assert means[form].low < means["regression"].high
        assert means[f"{form} from regression"].value >= means[form].value
    for scores in found:
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
