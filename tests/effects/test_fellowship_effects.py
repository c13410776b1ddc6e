"""The real experiments of fellowship: released judgements, what juries are worth, and the embedded model as a judge."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence

import pytest
from experiments import RUNS, command_of, cost_by_stage, run_or_resume, span, write_figures

from camelid.verdicts import vote_jury

METHOD = "fellowship"
PUBLISHED = {"gpt-4o-mini": 0.613314, "Meta-Llama-3.1-70B-Instruct-Turbo": 0.596641}

pytestmark = [pytest.mark.effects]


@pytest.mark.data
def test_released_judgements() -> None:
    """Kappas of two released judges, of juries under both rules, and of people, on 999 pairs."""
    scores = run_or_resume(METHOD, METHOD)
    lines = ["| set-up | κ with people | weighted κ | accuracy |", f"|{'---|' * 4}"]
    for name, line in scores["agreement"]["systems"].items():
        if name in PUBLISHED:
            assert line["cohen_kappa"]["value"] == pytest.approx(PUBLISHED[name], abs=1e-6)
        cells = [name, *(span(line[metric]) for metric in ("cohen_kappa", "weighted_kappa", "accuracy"))]
        lines.append(f"| {' | '.join(cells)} |")
    (jury,) = (line for line in scores["juries"]["juries"] if len(line["members"]) == 2)
    assert jury["tie"]["value"] == pytest.approx(0.599563, abs=1e-6)
    assert jury["intended"]["value"] == pytest.approx(0.569905, abs=1e-6)
    lines += [f"| jury of both, intended ties | {span(jury['intended'])} | | |"]
    for pair in scores["people"]["pairs"]:
        name = f"{pair['first']} and {pair['second']}"
        lines.append(f"| {name} | {span(pair['cohen_kappa'])} | | {span(pair['raw_agreement'])} |")
    fleiss = span(scores["people"]["fleiss_kappa"])
    correlated = next(iter(scores["correlation of errors"].values()))
    seconds = sum(stage["cpu_seconds"] for stage in cost_by_stage(RUNS / METHOD).values())
    footer = (
        f"Fleiss' κ of the three people {fleiss}. The errors of the two judges correlate {correlated:.3f}. "
        f"999 pairs; {seconds:.1f} seconds of one core."
    )
    write_figures(METHOD, "released", "\n".join([*lines, "", footer, "", "```sh", command_of(METHOD), "```"]))


def test_what_juries_are_worth() -> None:
    """Binary judges, by enumeration: independent ones help, copies do not, weak ones may harm."""
    lines = ["| accuracies | all copy one draw | best judge | jury |", "|---|---|---|---|"]
    cases = [([0.7] * 3, 0.0), ([0.7] * 5, 0.0), ([0.7] * 3, 0.5), ([0.7] * 3, 1.0), ([0.8, 0.7, 0.7], 0.0)]
    found = {}
    for accuracies, copied in [*cases, ([0.8, 0.6, 0.6], 0.0)]:
        value = copied * accuracies[0] + (1 - copied) * enumerate_jury(accuracies)
        found[*accuracies, copied] = value
        told = ", ".join(f"{accuracy:g}" for accuracy in accuracies)
        lines.append(f"| {told} | {copied:g} | {max(accuracies):g} | {value:.5g} |")
    assert list(found.values()) == pytest.approx([0.784, 0.83692, 0.742, 0.7, 0.826, 0.744])
    write_figures(METHOD, "juries", "\n".join(lines))


def enumerate_jury(accuracies: Sequence[float]) -> float:
    """P(the majority of independent binary judges is right)."""
    return sum(
        math.prod(p if one else 1 - p for p, one in zip(accuracies, right))
        for right in itertools.product((True, False), repeat=len(accuracies))
        if vote_jury(["first" if one else "second" for one in right]) == "first"
    )


@pytest.mark.data
@pytest.mark.real
def test_the_embedded_model_is_no_judge() -> None:
    """Both orders of 100 pairs: the verdict is that of a place, and kappa is near 0."""
    name = f"{METHOD}-135m"
    values = {"judges": ["model"], "strategy": "likelihood", "order": "both", "data__items": 100}
    scores = run_or_resume(METHOD, name, **values)
    kappa, turned = scores["agreement"]["systems"]["model"]["cohen_kappa"], scores["orders"]["model"]
    assert abs(kappa["value"]) < 0.25
    assert turned["inconsistent"]["value"] > 0.5
    lines = [
        "| | value |", "|---|---|", f"| κ with people | {span(kappa)} |",
        f"| verdict turns with the order | {span(turned['inconsistent'])} |",
        f"| the answer shown first wins | {span(turned['shown_first'])} |",
        f"| the answer shown second wins | {span(turned['shown_second'])} |",
    ]  # fmt: skip
    stages = [cost for stage, cost in cost_by_stage(RUNS / name).items() if stage.startswith("judged/model")]
    footer = (
        f"100 pairs in both orders; {sum(cost['seconds'] for cost in stages):.0f} seconds on the machine of the day."
    )
    write_figures(METHOD, "embedded", "\n".join([*lines, "", footer, "", "```sh", command_of(name), "```"]))


@pytest.mark.real
def test_the_embedded_model_goes_round() -> None:
    """The loop runs to its end on four questions; what a 135M model writes as a judge can hardly be read."""
    name = f"{METHOD}-loop"
    path = RUNS / f"{name}-questions.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    asked = ("Name three uses of a spoon.", "Why is the sky blue?", "Write a line about rain.", "What is a haiku?")
    path.write_text("".join(json.dumps({"prompt": each}) + "\n" for each in asked))
    values = {"data__train": "", "data__prompts": str(path), "answer_tokens": 48, "judge_tokens": 48}
    scores = run_or_resume(METHOD, name, **values)
    loops = scores["loops"]
    assert loops["questions"] == 4
    assert sum(loops["picked"].values()) == 4
    pairs = {kind: found["pairs"] for kind, found in scores["preferences"].items()}
    lengths = ", ".join(f"{value['value']:.0f}" for value in loops["characters"].values())
    picked = ", ".join(f"{response} {count} times" for response, count in loops["picked"].items())
    told = f"Four questions, 48 tokens a turn. Picked: {picked}. Mean characters by response: {lengths}."
    write_figures(METHOD, "loop", f"{told} Pairs: {', '.join(f'{kind} {n}' for kind, n in pairs.items())}.")
