"""What a run will do, before any model loads: rows, classes, tokens, steps, memory, time."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import torch
import transformers

from camelid import data, labelling, models
from camelid.errors import UserError, raise_all
from camelid.recipe import Data, Model, Plan

Lines = list[tuple[str, str]]
LIBRARIES_MB = 650  # resident memory of torch and transformers before a model is loaded
# What a training step spends beyond its matrix products (attention, norms, adapters, optimiser): measured at 135M
OVERHEAD = 1.5


def forecast_labelling(model: Model, rows: Data, plan: Plan, max_tokens: int) -> Lines:
    """Lines about a run that trains a label model. Raises UserError with the problems of data and model together."""
    problems: list[UserError] = []
    splits: Any = None
    base: Any = None
    try:
        splits = data.read_splits(rows, plan.seed)
    except UserError as error:
        problems.append(error)
    try:
        base = models.open_base(model.base, model.revision)
        if plan.tuning == "lora":
            models.lora_config(plan, _empty_trunk(base.config), base.spec)
    except UserError as error:
        problems.append(error)
    raise_all(problems)
    classes = data.labels_of(splits.train)
    tokens = {
        role: labelling.tokenise(base.tokenizer, getattr(splits, role), classes, max_tokens)
        for role in ("train", "dev", "test")
        if getattr(splits, role)
    }
    _check_tokens(tokens, splits)
    lengths = {role: [len(row.ids) for row in rows] for role, rows in tokens.items()}
    steps = -(-len(tokens["train"]) // plan.batch_rows) * plan.epochs
    return [
        *_rows_lines(splits, classes),
        ("tokens", ", ".join(f"{role} {sum(n):,} (longest {max(n)})" for role, n in lengths.items())),
        ("cut at max_tokens", f"{sum(row.truncated for rows in tokens.values() for row in rows)} rows"),
        ("steps", f"{steps} of {plan.batch_rows} rows, {plan.epochs} epochs"),
        *_cost_lines(base, plan, lengths),
        *(("warning", text) for text in splits.warnings),
    ]


def _rows_lines(splits: Any, classes: list[str]) -> Lines:
    counts = Counter(name for row in splits.train for name in ([row.label] if hasattr(row, "label") else row.tags))
    shown = ", ".join(f"{name} {counts[name]}" for name in sorted(classes, key=lambda name: -counts[name])[:8])
    totals: Counter[str] = Counter()
    for key, count in splits.dropped.items():  # "train: retweet"
        totals[key.partition(": ")[2]] += count
    dropped = ", ".join(f"{count:,} {why}" for why, count in totals.most_common())
    return [
        ("rows", f"train {len(splits.train):,}, dev {len(splits.dev):,}, test {len(splits.test):,}"),
        ("scores measured on", splits.held_out),
        ("rows left out", dropped or "none"),
        ("classes", f"{len(classes)}: {shown}{' …' if len(classes) > 8 else ''}"),
    ]


def _cost_lines(base: Any, plan: Plan, lengths: dict[str, list[int]]) -> Lines:
    weights = models.parameter_count(base.config)
    embedding = base.config.vocab_size * base.config.hidden_size
    precision = models.resolve_precision(plan.precision)
    layers = base.config.num_hidden_layers
    adapted = 1 - models.first_adapted_layer(plan, base.config) / layers
    # products: forward 2 per weight and token, backward to activations 2 more above the lowest trained layer, and for
    # full training 2 more for the weights themselves
    per_token = weights * (2 + 2 * adapted + (2 if plan.tuning == "full" else 0))
    evaluated = sum(sum(n) for role, n in lengths.items() if role != "train")
    work = per_token * sum(lengths["train"]) * plan.epochs + 2 * weights * evaluated
    seconds = OVERHEAD * work / _products_per_second(precision)
    size = 4 if precision == "float32" or plan.tuning == "full" else 2
    longest = sorted(lengths["train"])[-plan.batch_rows :]
    held = max(longest) * -(-len(longest) // plan.accumulate)
    activations = held * layers * adapted * (14 * base.config.hidden_size + 5 * _width(base.config)) * 4
    optimiser = 12 * weights if plan.tuning == "full" else 0
    memory = LIBRARIES_MB + ((weights + embedding) * size + activations + optimiser) / 2**20
    return [
        ("model", f"{base.spec}, {(weights + embedding) / 1e6:.0f}M parameters, {precision} on {models.device()}"),
        ("memory", f"about {memory / 1024:.1f} GB"),
        ("time", f"about {max(1, round(seconds / 60))} min for training and scoring at this machine's speed now"),
    ]


def _products_per_second(precision: str) -> float:
    """Multiply-adds this machine does per second on matrices of a small model's size, times 2; takes 0.3 s."""
    kind, where = getattr(torch, precision), models.device()
    rows, weights = torch.randn(512, 576, device=where, dtype=kind), torch.randn(1536, 576, device=where, dtype=kind)
    rounds, started = 0, time.perf_counter()
    while time.perf_counter() - started < 0.3:
        torch.nn.functional.linear(rows, weights).sum().item()
        rounds += 1
    return rounds * 2 * 512 * 576 * 1536 / (time.perf_counter() - started)


def _check_tokens(tokens: dict[str, list[Any]], splits: Any) -> None:
    problems = []
    for role, rows in tokens.items():
        origins = {row.id: row.origin for row in getattr(splits, role)}
        empty = [origins[row.id] for row in rows if not row.ids or row.words == []]
        if empty:
            problems.append(
                UserError(
                    f"{len(empty)} rows of {role} have no token the model knows: {', '.join(empty[:3])}",
                    "Remove these rows, or raise max_tokens.",
                )
            )
    raise_all(problems)


def _empty_trunk(config: Any) -> Any:
    """The decoder's layers without their weights."""
    with torch.device("meta"):
        return transformers.AutoModel.from_config(config)


def _width(config: Any) -> int:
    """Inner width of the feed-forward layers; four times the model's where the config does not name it."""
    return getattr(config, "intermediate_size", None) or 4 * config.hidden_size
