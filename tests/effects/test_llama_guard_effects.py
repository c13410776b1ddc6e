"""The real experiments of llama-guard on the embedded 135M model and OpenAI's moderation set."""

from __future__ import annotations

import json
from typing import Any

import pytest
from experiments import RUNS, command_of, run_or_resume, signed, span, table, write_figures

METHOD = "llama-guard"

pytestmark = [pytest.mark.effects, pytest.mark.data, pytest.mark.real]


def scores_of(run: str) -> dict[str, Any]:
    return json.loads((RUNS / run / "scores.json").read_text())


def policy_table(runs: dict[str, str]) -> str:
    """How far the score of unsafe prompts falls when rules are left out of the policy, by run."""
    lines = [
        "| training | unsafe prompts | broken rules left out | another rule left out | difference |",
        "|---|---|---|---|---|",
    ]
    for title, run in runs.items():
        read = scores_of(run)["policy_is_read"]
        cells = [signed(read[name]) for name in ("broken_rules_left_out", "other_rule_left_out", "difference")]
        lines.append(f"| {title} | {read['rows']} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "```sh", *(command_of(run) for run in runs.values()), "```"])


def category_table(run: str) -> str:
    """Average precision of each category from a policy of it alone."""
    lines = ["| category | rows that know it | violated | against all | against rows without violation |"]
    lines.append("|---|---|---|---|---|")
    for key, found in scores_of(run)["categories"].items():
        cells = [str(found["rows"]), str(found["violated"]), span(found["against_all"]), span(found["against_benign"])]
        lines.append(f"| {key} | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_a_tuned_guard_beats_the_untuned_model() -> None:
    """Chance is 0.287; the card estimates 0.27 to 0.45 untuned and 0.55 to 0.85 tuned."""
    run_or_resume(METHOD, "guard", compare=True)
    found = scores_of("guard")["held_out"]
    write_figures(METHOD, "moderation", table({"": "guard"}))
    write_figures(METHOD, "categories", category_table("guard"))
    assert found["against"]["untuned"]["difference"]["low"] > 0
    assert found["systems"]["tuned guard"]["average_precision"]["value"] > 0.45


def test_the_policy_is_read_and_augmentation_is_why() -> None:
    """A mean drop above 0, larger than for another rule, and, as the paper has it, larger than without augmentation."""
    run_or_resume(METHOD, "guard", compare=True)
    run_or_resume(METHOD, "guard-plain", augment=False)
    write_figures(METHOD, "policy", policy_table({"with augmentation": "guard", "without": "guard-plain"}))
    read, plain = (scores_of(run)["policy_is_read"] for run in ("guard", "guard-plain"))
    assert read["broken_rules_left_out"]["value"] > 0
    assert read["difference"]["value"] > 0
    if read["difference"]["value"] <= plain["difference"]["value"]:
        pytest.xfail("one epoch of augmented examples does not teach a 135M model to read the policy: see the page")
