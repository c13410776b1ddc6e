"""The real experiments of LTS: rare questions to a bank, the paper's advertisements, and a small model as labeller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from experiments import command_of, run_or_resume, span, write_figures

from camelid.metrics import aggregate_seeds

METHOD = "wildlife-lts"
STRATEGIES = ("bandit", "random", "random by cluster", "least sure")
PUBLISHED = "bandit, published loop"
LOST = ["lost_or_stolen_card", "lost_or_stolen_phone", "compromised_card", "card_swallowed"]  # 3.5 % of the pool
NOISE = {"flip_positive": 0.1, "flip_negative": 0.01}
PRICE = 0.01  # of a label
Trace = Sequence[dict[str, Any]]

pytestmark = [pytest.mark.effects, pytest.mark.real, pytest.mark.data]


def at_most(trace: Trace, labels: int, what: str) -> float:
    """What a line of the trace says when so many labels were bought, or the last one that could be paid."""
    return float(next(line for line in reversed(trace) if line["labels"] <= labels)[what])


def rows_found(counts: Sequence[float], sign: str = "") -> str:
    """Mean over seeds with its 95 % t-interval, in rows."""
    interval = aggregate_seeds(counts)
    value, low, high = (f"{number:{sign}.1f}" for number in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def over_seeds(name: str, seeds: int, points: Sequence[int], **values: Any) -> dict[str, float]:
    """Mean relevant rows that each strategy found at the last of the `points`; the table of all goes into the docs."""
    values |= {"price": PRICE, **NOISE}
    ours = [f"{METHOD}-{name}-{seed}" for seed in range(seeds)]
    theirs = [f"{METHOD}-{name}-published-{seed}" for seed in range(seeds)]
    traces: dict[str, list[Trace]] = {strategy: [] for strategy in (*STRATEGIES, PUBLISHED)}
    for seed in range(seeds):
        scores = run_or_resume(METHOD, ours[seed], compare=True, plan__seed=seed, **values)
        for strategy in STRATEGIES:
            traces[strategy].append(scores[f"rounds {strategy}"]["trace"])
        loop = {"reward": "gain", "learn_from": "batch"}
        scores = run_or_resume(METHOD, theirs[seed], plan__seed=seed, **loop, **values)
        traces[PUBLISHED].append(scores["rounds bandit"]["trace"])
    head = ["strategy", f"relevant found for {points[-1] * PRICE:.2f}", "bandit minus it"]
    head += [f"F1 for {at * PRICE:.2f}" for at in points]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    found = {
        strategy: [at_most(trace, points[-1], "truly relevant") for trace in runs] for strategy, runs in traces.items()
    }
    for strategy, runs in traces.items():
        lead = np.subtract(found["bandit"], found[strategy]).tolist()  # seed by seed
        cells = [strategy, rows_found(found[strategy]), rows_found(lead, "+") if strategy != "bandit" else ""]
        for point in points:
            cells.append(span(aggregate_seeds([at_most(trace, point, "F1 on test") for trace in runs]).as_dict()))
        lines.append(f"| {' | '.join(cells)} |")
    footer = f"A label costs {PRICE:.2f}; means over seeds 0 to {seeds - 1} with 95 % t-intervals."
    commands = [command_of(ours[0]), command_of(theirs[0])]
    write_figures(METHOD, name, "\n".join([*lines, "", footer, "", "```sh", *commands, "```"]))
    return {strategy: float(np.mean(each)) for strategy, each in found.items()}


@pytest.mark.parametrize("features", ["tfidf", "embeddings"])
def test_check_8_rare_questions(features: str) -> None:
    """At least twice the relevant rows of random ones; the authors' baseline, with its filter, comes nearer."""
    means = over_seeds(
        f"banking-{features}", 10, (100, 250, 500), data__train="banking77", data__positive=LOST, features=features
    )
    assert means["bandit"] >= 2 * means["random"]
    assert means["bandit"] > 1.2 * means["random by cluster"]


def test_the_papers_advertisements() -> None:
    """A fifth of them is relevant, about 51 in a pool of 249: at 120 labels chance finds 25 of them."""
    means = over_seeds(
        "wildlife", 10, (40, 80, 120), data__train="wildlife", features="tfidf", clusters=5, batch=10, rounds=12
    )
    assert means["bandit"] > 1.3 * means["random"]
    assert means["bandit"] > means["random by cluster"]


def test_a_small_model_as_labeller() -> None:
    """How often the 135M model says what experts said, with the likelier of two words, beside always saying no."""
    scores = run_or_resume(
        METHOD, f"{METHOD}-labeller", data__train="wildlife", features="tfidf", clusters=5, batch=10, rounds=6,
        labeller="engine", price=PRICE, task=(
            "Sort advertisements. Relevant are those that sell a part of a real shark, ray or chimaera, such as a jaw "
            "or skin. Pictures, prints, toys, jewellery in the shape of an animal, single teeth and fossils are not."
        ),
    )  # fmt: skip
    rounds = scores["rounds bandit"]
    assert rounds["outcomes"] == {"value": rounds["labels"]}, "the likelier of two words can always be read"
    assert rounds["cost"] == pytest.approx(rounds["labels"] * PRICE)
    right, no = rounds["labels that are right"], 1 - rounds["truly relevant"] / rounds["labels"]
    lines = [
        "| labels | right | right if it always said no | relevant, it said | truly relevant |", f"|{'---|' * 5}",
        f"| {rounds['labels']} | {right:.3f} | {no:.3f} | {rounds['relevant found']} | {rounds['truly relevant']} |",
    ]  # fmt: skip
    write_figures(METHOD, "labeller", "\n".join([*lines, "", "```sh", command_of(f"{METHOD}-labeller"), "```"]))
