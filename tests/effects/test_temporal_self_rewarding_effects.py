"""The real experiments of temporal-self-rewarding on the embedded 135M model: a rule judges, and the model tries to.

Figures are written into docs/methods/temporal-self-rewarding.md before anything is asserted; one that falls short is
written as it is.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import RUNS, command_of, cost_by_stage, run_or_resume, signed, span, write_figures

from camelid import data, methods, recipe
from camelid.engines import Engine, Question, Sampling, open_engine
from camelid.judges import Answers, describe_judgements, judge_by_model, measure_agreement, tell_scores
from camelid.rows import iterate_rows
from camelid.scoring import score

METHOD = "temporal-self-rewarding"
OURS, PLAIN = "temporal self-rewarding", "self-rewarding"
PAIRS, TOKENS = 50, 160

pytestmark = [pytest.mark.effects, pytest.mark.data, pytest.mark.real]
tsr = methods.load(METHOD)


def iterations(scores: dict[str, Any], name: str, count: int) -> list[dict[str, Any]]:
    return [scores[f"{name.replace(' ', '-')}, iteration-{number}"] for number in range(count)]


def last_phase(found: dict[str, Any]) -> dict[str, Any]:
    return found["phase 2"] if "phase 2" in found else found["phase 1"]


def line(name: str, number: int, found: dict[str, Any], score: float) -> str:
    phase, spent = last_phase(found), found["spent"]
    cells = [name, str(number), str(spent["answers"]), str(spent["DPO runs"]), str(phase["pairs"])]
    cells += [f"{phase[key]:.3f}" for key in ("mean gap", "cosine of chosen and rejected", "implicit margin after")]
    cells += [f"{found['answers']['present']['mean score']:.3f}", f"{score:.3f}"]
    return f"| {' | '.join(cells)} |"


def assert_dominates(place: Path) -> None:
    """Item 7 of the card on the stored scores: exact."""

    def read(role: str) -> dict[str, list[float]]:
        path = place / f"scores-{role}.jsonl"
        rows: list[Any] = list(iterate_rows(path)) if path.exists() else []
        return {one.id: [score for score in one.value["scores"] if score is not None] for one in rows}

    present, past, future = map(read, tsr.ROLES)
    gaps = [{pair.id: tsr.gap(pair) for pair in iterate_rows(place / f"pairs-{phase}.jsonl")} for phase in (1, 2)]
    for row, s_i in present.items():
        low = min(s_i + past.get(row, []))
        first, second = gaps[0].get(row, 0), gaps[1].get(row, 0)
        assert (first, second) == (max(s_i) - low, max(s_i + future[row]) - low)
        assert second >= first >= max(s_i) - min(s_i)


def expect_points(engine: Engine, row: Answers) -> list[list[float]]:
    """The mean of 0 to 5 points for each answer, under the likelihoods of the six last lines as the whole reply."""
    lines = tuple(f"{tsr.MARKER} {points}" for points in range(6))
    found = score(engine, [Question(tsr.ask_judge(row.prompt, text), lines) for text in row.texts])
    shares_A6 = [np.exp(np.array(one.sums) - np.logaddexp.reduce(one.sums)) for one in found]
    return [[float(shares_6 @ np.arange(6))] for shares_6 in shares_A6]


def test_check_8_mechanism() -> None:
    """Both loops rise; at i = 1 our gap is larger and no fewer prompts have a pair. About 15 minutes.

    That SR's gap falls as its model gets better was expected too, and three iterations of 32 prompts do not show it.
    """
    scores = run_or_resume(METHOD, METHOD, data__chunk=32, data__test_rows=32)
    ours, plain = iterations(scores, OURS, 2), iterations(scores, PLAIN, 3)
    lines = [
        "| loop | i | answers | DPO runs | pairs | mean gap | cosine | margin after | M_i's score | held out, M_i+1 |",
        f"|{'---|' * 10}",
    ]
    for name, found in ((OURS, ours), (PLAIN, plain)):
        means = [score for _, score in scores["curves"]["lines"][name]]
        lines += [line(name, number, each, means[number + 1]) for number, each in enumerate(found)]
    systems, against = scores["held_out"]["systems"], scores["held_out"]["against"]
    held = [f"{name} {span(system['mean_score'])}" for name, system in systems.items()]
    gaps = [f"{name} {signed(other['difference'])}" for name, other in against.items()]
    seconds = sum(cost["cpu_seconds"] for cost in cost_by_stage(RUNS / METHOD).values())
    footer = (
        f"Scores from 0 to 5 by the rule. Held out, {scores['held_out']['rows']} prompts: {'; '.join(held)}. "
        f"{OURS} minus the others: {'; '.join(gaps)}. Seed 0; {seconds / 60:.0f} minutes of one core."
    )
    write_figures(METHOD, "mechanism", "\n".join([*lines, "", footer, "", "```sh", command_of(METHOD), "```"]))

    assert 1.5 < systems["start"]["mean_score"]["value"] < 3.5
    for number in (0, 1):
        assert_dominates(RUNS / METHOD / METHOD / f"iteration-{number}")
    for name in (OURS, PLAIN):
        assert systems[name]["mean_score"]["value"] > systems["start"]["mean_score"]["value"] + 0.1
    assert ours[1]["phase 2"]["mean gap"] > plain[1]["phase 1"]["mean gap"]
    assert ours[1]["phase 2"]["pairs"] >= plain[1]["phase 1"]["pairs"]


def test_check_8_a_small_model_cannot_judge() -> None:
    """Single judgements of both answers of 50 pairs that people judged: near chance, or not readable.

    What it cannot write can still be asked for: the mean of the points by the likelihood of each last line.
    """
    rows = random.Random(0).sample(data.read_rows("pandalm-preferences:people"), PAIRS)
    engine = open_engine(recipe.Engine(), recipe.Model())
    judge = judge_by_model(engine, tsr.ask_judge, tsr.read_score, Sampling(TOKENS, 0.7), 1, 0)
    asked = [Answers(row.id, row.origin, row.prompt, (row.chosen, row.rejected)) for row in rows]
    judged = judge(asked)
    weighed = measure_agreement([tell_scores(row, expect_points(engine, row)) for row in asked])
    found, facts = measure_agreement(judged), describe_judgements(judged)
    agreement = span(found["agreement"]) if found["agreement"] else "none"
    write_figures(
        METHOD,
        "judge",
        f"SmolLM2-135M, one judgement of at most {TOKENS} tokens an answer, {PAIRS} pairs of "
        f"`pandalm-preferences:people`: both answers have a score in {found['both read']} pairs, "
        f"{found['ties']} of them ties; agreement with people, ties as one half, {agreement}. "
        f"Judgements that could not be read: {facts['judgements not read']}.\n\n"
        f'By the mean of 0 to 5 points under the likelihoods of "{tsr.MARKER} 0" to "{tsr.MARKER} 5" as the whole '
        f"reply it agrees with people in {span(weighed['agreement'])} of the {weighed['both read']} pairs.",
    )
    assert found["agreement"] is None or found["agreement"]["low"] < 0.6
    assert weighed["both read"] == PAIRS
    assert weighed["agreement"]["low"] < 0.6
