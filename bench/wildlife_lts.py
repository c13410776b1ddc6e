"""Rounds of wildlife-lts with frozen states computed once, side by side with states computed by the round that reads
them.

    python bench/wildlife_lts.py [--rounds 3] [--rows 1000] [--sampling-rounds 25]

Each measurement is a process of its own and times states and rounds, not loading. Questions of banking77 (CAMELID_DATA)
under the embedded model, topics as clusters, 20 labels a round, logistic regression. Contestants:
    once        states of the pool and of V before the first round
    each-round  states of the rows a round reads, in that round: those it trains on, V, and the clusters it looks into
Writes a JSON line to bench/results.jsonl and the table in docs/methods/wildlife-lts.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import paired

PAGE = paired.DOCS / "methods" / "wildlife-lts.md"
RARE = ["lost_or_stolen_card", "lost_or_stolen_phone", "compromised_card", "card_swallowed"]
NAME, OURS, THEIRS = "rounds of wildlife-lts", "once", "each-round"
StatesOf = Callable[[str, Sequence[int]], Any]  # (split, rows) -> states


def learner(states_of: StatesOf, known: int) -> Any:
    """Logistic regression on the states of the rows that are asked for."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fit(_: str, rows: Sequence[int], labels: Sequence[bool]) -> Any:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(states_of("pool", rows), labels)

        class Pool:
            """P(relevant) of the rows of the pool that are looked up."""

            def __getitem__(self, rows_N: Any) -> Any:
                return model.predict_proba(states_of("pool", rows_N.tolist()))[:, 1]

        of_known = cache(lambda: model.predict_proba(states_of("validation", range(known)))[:, 1])
        return lambda split: Pool() if split == "pool" else of_known()

    return fit


def explore(name: str, rows: int, sampling_rounds: int, seed: int) -> dict[str, Any]:
    """Time all rounds of a simulation; what it found comes with it, to see that both did the same."""
    from camelid import bases, methods
    from camelid.hidden import hidden_states
    from camelid.labellers import tell_known
    from camelid.methods.classify import wildlife_lts as method

    recipe = methods.resolve("wildlife-lts", {
        "data.train": "banking77", "data.positive": RARE, "data.train_rows": rows, "data.validation_rows": rows // 4,
        "clustering": "lda", "rounds": sampling_rounds, "plan.seed": seed,
    })  # fmt: skip
    found = method.read(recipe)
    texts = {
        name: [row.text for row in part] for name, part in (("pool", found.rows), ("validation", found.validation))
    }
    cluster_N = method.find_clusters(recipe, found.rows, None)
    base = bases.open_base("smollm2-135m")
    trunk, read = bases.load_trunk(base, bases.resolve_precision("auto")), 0

    def compute(split: str, chosen: Sequence[int]) -> Any:
        nonlocal read
        read += len(chosen)
        return hidden_states(trunk, base.tokenizer, [texts[split][row] for row in chosen])

    def label(_: str, chosen: Sequence[int]) -> Any:
        return tell_known([found.rows[row] for row in chosen], 0.1, 0.01, seed)

    started = time.perf_counter()
    states_of: StatesOf = compute
    if name == OURS:
        states = {split: compute(split, range(len(part))) for split, part in texts.items()}
        states_of = lambda split, chosen: states[split][list(chosen)]  # noqa: E731
    fit = learner(states_of, len(found.validation))
    study = method.Study(recipe, found.rows, cluster_N, found.validation, label, fit)
    _, trace = method.explore(study, method.draw_by_bandit, found.validation)
    seconds = time.perf_counter() - started
    return {"rate": len(trace) / seconds, "seconds": seconds, "read": read, "relevant": trace[-1]["truly relevant"]}


def write_page() -> None:
    lines = [
        "| machine | rounds | once, s | each round, s | ratio | texts read, once and each round |",
        f"|{'---|' * 6}",
    ]
    for line in paired.newest([NAME]):
        ratio = f"{line['ratio_median']} ({line['ratio_min']} to {line['ratio_max']})"
        cells = [
            line["machine"],
            line["sampling_rounds"],
            *line["seconds"],
            ratio,
            " and ".join(map(str, line["read"])),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    paired.write_between(PAGE, "speed", "\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each")
    parser.add_argument("--rows", type=int, default=1000, help="of the pool; V has a quarter as many")
    parser.add_argument("--sampling-rounds", type=int, default=25, help="of the simulation")
    parser.add_argument("--anyway", action="store_true", help="run on a loaded machine too")
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return paired.report_result(explore(options.work, options.rows, options.sampling_rounds, options.seed))
    paired.check_quiet(options.anyway)
    arguments = ["--rows", str(options.rows), "--sampling-rounds", str(options.sampling_rounds)]
    rounds = paired.run_rounds(__file__, [OURS, THEIRS], options.rounds, arguments)
    pairs = [(one[OURS], one[THEIRS]) for one in rounds]
    facts = {key: [paired.median(pairs, side, key) for side in (0, 1)] for key in ("seconds", "read", "relevant")}
    sampling_rounds = options.sampling_rounds
    paired.keep([paired.compare(NAME, pairs, rows=options.rows, sampling_rounds=sampling_rounds, **facts)])
    return write_page()


if __name__ == "__main__":
    main()
