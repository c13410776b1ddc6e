"""The real experiments of CDR on the embedded 135M model: minutes each, run by `make effects`.

Each asserts a direction with a margin and writes its figures, with command, seed and intervals, into
docs/methods/cdr.md between its markers. A figure that falls short is written as it is.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from experiments import RUNS, command_of, cost_by_stage, run_or_resume, signed, span, write_figures

from camelid import bases, chat, data
from camelid.engines import Question
from camelid.engines.local import LocalEngine
from camelid.methods.judge import cdr
from camelid.reading import tell_answer
from camelid.scoring import score

METHOD = "cdr"
MADE = "cdr-weak-to-strong"
SPEED_PAIRS, SPEED_ROUNDS, SPEED_BATCH = 24, 3, 8

pytestmark = [pytest.mark.effects, pytest.mark.data, pytest.mark.real]


def table(name: str, scores: dict[str, Any], *entries: str) -> str:
    """A Markdown table of the systems of some entries, with intervals, and what repeats it."""
    lines = ["| system | accuracy | ours minus it |", "|---|---|---|"]
    listed: set[str] = set()
    for entry in (scores[entry] for entry in entries):
        for system in (system for system in entry["systems"] if system not in listed):
            listed.add(system)
            shown = f"**{system}**" if system == entry["ours"] else system
            against = entry["against"].get(system)
            gap = signed(against["difference"]) if against else ""
            lines.append(f"| {shown} | {span(entry['systems'][system]['accuracy'])} | {gap} |")
    counts = scores["counts"]
    minutes = processor_seconds(name) / 60
    facts = f"{counts['pairs']} pairs, seed 0; 95 % bootstrap intervals; {minutes:.0f} minutes of one core."
    length = "; ".join(f"{what} {signed(value)}" for what, value in scores["length"].items())
    clipped = ", ".join(f"{side} {count}" for side, count in counts["clipped tokens"].items())
    return "\n".join([*lines, "", facts, f"{length}. Clipped tokens: {clipped}.", "", "```sh", command_of(name), "```"])


def processor_seconds(name: str) -> float:
    """Of all stages; the wall clock also counts what else the machine did."""
    return sum(cost["cpu_seconds"] for cost in cost_by_stage(RUNS / name).values())


def accuracies(entry: dict[str, Any]) -> dict[str, float]:
    return {name: system["accuracy"]["value"] for name, system in entry["systems"].items()}


def test_check_8_gold_against_a_weaker_models_answers() -> None:
    """The card expects more than 80 % of the ratio, far less than 50 % of the strong model alone, and a gap curve that
    does not fall. Its values: adapters in all layers, at 2e-4."""
    plan = {"plan__adapt_from_layer": 0, "plan__learning_rate": 2e-4, "plan__accumulate": 1}
    scores = run_or_resume(METHOD, MADE, gap_steps=[0, 5], **plan)
    write_figures(METHOD, "weak-to-strong", table(MADE, scores, "held_out", "variants", "gap"))
    held_out, variants, gap = (accuracies(scores[entry]) for entry in ("held_out", "variants", "gap"))
    assert held_out[cdr.RATIO] > 0.8
    assert held_out[cdr.SUMMED] < 0.35
    assert scores["held_out"]["against"][cdr.LONGER]["difference"]["low"] > 0
    assert variants[cdr.RATIO] + variants[cdr.REVERSED] == pytest.approx(1.0), "there is no tie among sums"
    assert gap["after 0 steps"] <= gap["after 5 steps"] <= gap[cdr.LAST]


def test_the_recipe_as_it_comes() -> None:
    """Two cores should do it in 8 minutes, which are 16 of the processor's."""
    scores = run_or_resume(METHOD, "cdr")
    write_figures(METHOD, "recipe", table("cdr", scores, "held_out", "variants"))
    assert accuracies(scores["held_out"])[cdr.RATIO] > 0.7
    assert scores["held_out"]["against"][cdr.SUMMED]["difference"]["low"] > 0
    assert processor_seconds("cdr") < 2 * 480


def test_context_of_the_domain() -> None:
    """The same two models, read behind the criteria and exemplars of REASONING; nothing is trained."""
    made = {f"{side}__adapted": str(RUNS / MADE / side) for side in ("strong", "weak")}
    rows = {"data__train": "weak-to-strong", "data__test_rows": 150}
    scores = run_or_resume(METHOD, "cdr-reasoning", domain="REASONING", **rows, **made)
    write_figures(METHOD, "reasoning", table("cdr-reasoning", scores, "held_out", "variants"))
    contexts = scores["contexts"]
    assert contexts["customised"] == contexts["same text to all models"] == contexts["rows"]
    assert accuracies(scores["held_out"])[cdr.RATIO] > 0.5


def test_harmless_answers() -> None:
    """Pairs of people, whose two sides come from one source: the card expects little above one half at best."""
    rows = {"data__train": "hh-harmless", "data__test": "hh-harmless:dev", "data__train_rows": 160}
    scores = run_or_resume(METHOD, "cdr-hh-harmless", **rows)
    write_figures(METHOD, "hh-harmless", table("cdr-hh-harmless", scores, "held_out", "variants"))
    assert accuracies(scores["held_out"])[cdr.LONGER] == pytest.approx(0.435, abs=0.01)
    assert accuracies(scores["held_out"])[cdr.RATIO] > 0.4


def test_dpo_against_its_own_start() -> None:
    """The card's second setting: slightly above a coin on people's pairs, where the longer answer is below it."""
    rows = {"data__train": "hh-harmless", "data__test": "hh-harmless:dev", "data__train_rows": 300}
    plan = {"plan__learning_rate": 1e-4, "plan__batch_rows": 4, "pair_tokens": 256}
    scores = run_or_resume(METHOD, "cdr-dpo", made_by="preferences", **rows, **plan)
    write_figures(METHOD, "dpo", table("cdr-dpo", scores, "held_out", "variants"))
    assert accuracies(scores["held_out"])[cdr.LONGER] == pytest.approx(0.435, abs=0.01)
    assert accuracies(scores["held_out"])[cdr.RATIO] > 0.5


def test_a_pair_shares_its_prompt() -> None:
    """Scoring both answers behind one prompt against prompt and answer joined, in batches sorted by length."""
    base = bases.open_base("smollm2-135m")
    model = bases.load_lm(base, "float32")
    rows = data.read_rows("hh-harmless:dev")[:SPEED_PAIRS]
    questions = [Question(row.prompt, cdr.answers_of(row), True) for row in rows]
    joined = [tell_answer(base.tokenizer, row.prompt, text, ended=True) for row in rows for text in cdr.answers_of(row)]

    def ours() -> list[float]:
        return [value for found in score(LocalEngine(model, base.tokenizer), questions) for value in found.sums]

    def theirs() -> list[float]:
        return plain_sums(model, joined)

    taken: dict[str, list[float]] = {"ours": [], "theirs": []}
    sums: dict[str, list[float]] = {}
    ways: dict[str, Callable[[], list[float]]] = {"ours": ours, "theirs": theirs}
    for _ in range(SPEED_ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            sums[name] = way()
            taken[name].append(time.perf_counter() - started)
    assert sums["ours"] == pytest.approx(sums["theirs"], abs=1e-2)
    ratios = sorted(slow / fast for slow, fast in zip(taken["theirs"], taken["ours"], strict=True))
    tokens = sum(len(one.ids) for one in joined)
    shared = sum(len(chat.encode_prompt(base.tokenizer, row.prompt)) for row in rows)
    write_figures(
        METHOD,
        "speed",
        f"{len(rows)} pairs of hh-harmless, {tokens:,} tokens joined, of them {shared:,} of prompts that stand twice: "
        f"{statistics.median(taken['ours']):.1f} s against {statistics.median(taken['theirs']):.1f} s, "
        f"{statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f} in {len(ratios)} rounds).",
    )
    assert statistics.median(ratios) > 1.2


@torch.inference_mode()
def plain_sums(model: Any, joined: list[Any]) -> list[float]:
    """Summed log-probability of each answer, from right-padded batches of the whole text."""
    order = sorted(range(len(joined)), key=lambda place: -len(joined[place].ids))
    sums = [0.0] * len(joined)
    for start in range(0, len(order), SPEED_BATCH):
        places = order[start : start + SPEED_BATCH]
        widest = max(len(joined[place].ids) for place in places)
        ids_BT = torch.zeros(len(places), widest, dtype=torch.long)
        for line, place in enumerate(places):
            ids_BT[line, : len(joined[place].ids)] = torch.tensor(joined[place].ids)
        hidden_BTD = model.get_decoder()(input_ids=ids_BT, use_cache=False).last_hidden_state
        for line, place in enumerate(places):
            logits = model.get_output_embeddings()(hidden_BTD[line, joined[place].words]).log_softmax(dim=-1)
            sums[place] = logits.gather(1, torch.tensor(joined[place].labels)[:, None]).sum().item()
    return sums
