"""The real experiments of lc-alpaca-eval: published files, a verbosity attack, and a small judge at its work."""

from __future__ import annotations

import json

import numpy as np
import pytest
from experiments import RUNS, command_of, cost_by_stage, run_or_resume, write_figures

from camelid import methods
from camelid.metrics import Floats
from camelid.pairwise import find_annotations, read_lengths, read_wins

METHOD = "lc-alpaca-eval"
REGULAR = ("FuseChat-Gemma-2-9B-Instruct", "FuseChat-Llama-3.2-1B-Instruct", "claude-2", "vicuna-13b", "alpaca-7b")
SHARED = 2.782559402207126

pytestmark = [pytest.mark.effects, pytest.mark.data]


def test_published_files() -> None:
    """The whole pipeline, folds included, on six models: LC within 0.05 points of the published, the raw rate exact."""
    board = run_or_resume(METHOD, METHOD)["leaderboard"]["systems"]
    place = find_annotations("alpaca-eval")[0] / "published.json"
    published = json.loads(place.read_text())
    lines = [
        "| model | win rate | s.e. | discrete | LC published | LC here | 95 % interval | LC s.e. | w_len | C | flags |",
        f"|{'---|' * 11}",
    ]
    for name, line in board.items():
        told, rate = published[name]["length_controlled_winrate"], line["length_controlled_win_rate"]
        assert line["win_rate"]["value"] == pytest.approx(published[name]["win_rate"], abs=1e-6)
        assert rate["value"] == pytest.approx(told, abs=0.05)
        cells = [name, *(f"{value:.2f}" for value in (line["win_rate"]["value"], line["standard_error"]))]
        cells += [f"{line['discrete_win_rate']:.2f}", f"{told:.4f}", f"{rate['value']:.4f}"]
        cells += [f"{rate['low']:.1f} to {rate['high']:.1f}", f"{line['lc_standard_error']:.3f}"]
        cells += [f"{line['weights']['length']:.3f}", f"{line['C']:.4g}", "; ".join(line["flags"]) or "–"]
        lines.append(f"| {' | '.join(cells)} |")
    seconds = sum(stage["cpu_seconds"] for stage in cost_by_stage(RUNS / METHOD).values())
    footer = f"805 instructions, 1,000 draws for the intervals; {seconds:.0f} seconds of one core."
    write_figures(METHOD, "published", "\n".join([*lines, "", footer, "", "```sh", command_of(METHOD), "```"]))


def test_pairs_of_models() -> None:
    """Opposite rates sum to 100, and claude-2 passes the 1B model, which beat it in raw rates."""
    found = run_or_resume(METHOD, METHOD)
    names, rates = found["pairwise"]["systems"], found["pairwise"]["rates"]
    lines = [f"| | {' | '.join(names)} |", f"|{'---|' * (len(names) + 1)}"]
    for one in names:
        values = [rates[one][other]["value"] for other in names]
        assert values == pytest.approx([100 - rates[other][one]["value"] for other in names])
        lines.append(f"| {one} | {' | '.join(f'{value:.1f}' for value in values)} |")
    assert rates["claude-2"]["FuseChat-Llama-3.2-1B-Instruct"]["value"] > 50
    write_figures(METHOD, "pairwise", "\n".join(lines))


def test_check_6_and_7_verbosity() -> None:
    """A judge that likes length is shown longer outputs; and padding is shown to a judge that does not care."""
    recipe = methods.resolve(METHOD)
    lc, lines = methods.load(METHOD), ["| outputs grow by | model | raw | LC |", "|---|---|---|---|"]
    board, given = lc.boards_of(recipe), lc.read_given(recipe, 805)

    def rate(difference_N: Floats, wins_N: Floats) -> tuple[float, Floats]:
        own = lc.gather(lc.build_features(difference_N, given.difficulty_N), wins_N, given, recipe.gamed_weight)
        weights = lc.fit_glm(*own, penalty=SHARED).weights
        return lc.controlled_rate(weights, given.difficulty_N), weights

    for name in REGULAR:
        difference_N = read_lengths(board[name])
        unit, weights = np.std(difference_N, ddof=1), rate(difference_N, read_wins(board[name]))[1]
        for most in (1000, 2000):
            longer_N = difference_N - np.random.default_rng(0).uniform(0, most, size=805)
            seen = [
                np.stack([np.tanh(d_N / unit), given.difficulty_N, np.ones(805)], axis=1)
                for d_N in (difference_N, longer_N)
            ]
            before_N, after_N = (1 / (1 + np.exp(-(x_N3 @ weights))) for x_N3 in seen)
            raw = 100 * float(after_N.mean() - before_N.mean())
            controlled = rate(longer_N, after_N)[0] - rate(difference_N, before_N)[0]
            assert abs(controlled) < raw / 5
            lines.append(f"| 0 to {most:,} characters | {name} | {raw:+.1f} | {controlled:+.1f} |")
    difference_N, wins_N = read_lengths(board["claude-2"]), read_wins(board["claude-2"])
    fallen = rate(difference_N - 1000, wins_N)[0] - rate(difference_N, wins_N)[0]
    assert fallen == pytest.approx(-14.65, abs=0.01)
    lines.append(f"| 1,000 characters, and the judge does not care | claude-2 | +0.0 | {fallen:+.1f} |")
    write_figures(METHOD, "verbosity", "\n".join(lines))
