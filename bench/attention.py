"""Training tokens a second by row length, rows a batch and attention path: which path fits which rows.

    python bench/attention.py [--rounds 3]

Times forward and backward of a label model of the embedded base, with the recipe's adapters and in the format the
recipe has on this machine, on rows of equal length, so that padding plays no part; the paths take turns within a round.
    ours     what a model in training has: torch's attention, on processors with its gradient in float32
    sdpa     torch's attention as it stands
    eager    attention written out
    packed   ours, with rows laid behind each other in lines of 128 tokens
Prints the table that stands in docs/methods/ls-llama.md and writes it there.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import paired

PAGE = paired.DOCS / "methods" / "ls-llama.md"
LENGTHS = (16, 32, 64, 128, 256, 512)
BATCHES = (4, 16, 32)
PATHS = ("ours", "sdpa", "eager", "packed")
MOST_TOKENS = 4096  # larger batches tell nothing more and take minutes


def seconds_of(model: Any, batch: Any) -> float:
    """Forward and backward of one batch, in the format the loop would use."""
    from camelid.objectives import cross_entropy
    from camelid.training import autocast

    started = time.perf_counter()
    with autocast(model, model.origin["precision"]):
        loss = cross_entropy(model, batch)[0]["loss"]
    loss.backward()
    model.zero_grad()
    return time.perf_counter() - started


def measure(model: Any, length: int, rows: int, rounds: int) -> dict[str, float]:
    """Median tokens a second of each path."""
    import torch

    from camelid.batches import Tokens, collate_rows
    from camelid.surgery import attention

    ids = torch.randint(100, 40_000, (rows, length), generator=torch.Generator().manual_seed(length)).tolist()
    batch = collate_rows([Tokens(str(n), row, [n % 2]) for n, row in enumerate(ids)], 0)
    found: dict[str, list[float]] = {path: [] for path in PATHS}
    for number in range(rounds + 1):
        for path in PATHS:
            model.trunk.set_attn_implementation(path if path in ("sdpa", "eager") else attention.NAME)
            model.sight = replace(model.sight, pack_tokens=max(128, length) if path == "packed" else 0)
            seconds = seconds_of(model, batch)
            if number:  # the first round only warms up
                found[path].append(rows * length / seconds)
    return {path: statistics.median(rates) for path, rates in found.items()}


def main() -> None:
    from camelid import bases, methods, models
    from camelid.reading import Reading

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    plan = methods.resolve("ls-llama").plan
    settings = {"kind": "label", "classes": ["a", "b"], "pooling": "last"}
    model = models.label_model(bases.open_base("smollm2-135m"), settings, plan, Reading(512)).train()
    lines = [
        f"Tokens a second, {paired.machine()}; median of {options.rounds}.",
        "",
        f"| tokens a row | rows | {' | '.join(PATHS)} | fastest |",
        "|---|---|---|---|---|---|---|",
    ]
    for length in LENGTHS:
        for rows in BATCHES:
            if length * rows > MOST_TOKENS:
                continue
            rates = measure(model, length, rows, options.rounds)
            best = max(rates, key=rates.__getitem__)
            lines.append(f"| {length} | {rows} | {' | '.join(f'{rates[path]:.0f}' for path in PATHS)} | {best} |")
            print(lines[-1], flush=True)
    paired.write_between(PAGE, "attention", "\n".join(lines))


if __name__ == "__main__":
    main()
