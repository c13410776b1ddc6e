"""What a run will do, before any model loads: rows, classes, tokens, steps, memory, time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import torch
import transformers

from camelid import bases, data, environment, models
from camelid.chat import encode_answer, encode_prompt
from camelid.engines import Choice
from camelid.errors import UserError, raise_all
from camelid.heads import UNSCALED
from camelid.reading import Reading, tokenise
from camelid.recipe import Data, Engine, Model, Plan
from camelid.rows import Preference

Lines = list[tuple[str, str]]
LIBRARIES_MB = 650  # resident memory of torch and transformers before a model is loaded
# What a training step spends beyond its matrix products (attention, norms, adapters, optimiser): measured at 135M
OVERHEAD = 1.5
CHARACTERS_PER_TOKEN = 4  # of English, where there is no tokenizer to count


def forecast_labelling(
    model: Model,
    rows: Data,
    plan: Plan,
    reading: Reading,
    complaints: Sequence[tuple[str, str]] = (),
    trainings: int = 1,
) -> Lines:
    """Lines about a run that trains label models, so many times on the same rows.

    Raises UserError with the problems of data and model together, and the method's own `complaints` (what, fix).
    """
    problems = [UserError(what, fix) for what, fix in complaints]
    splits: Any = None
    base: Any = None
    try:
        splits = data.read_splits(rows, plan.seed)
    except UserError as error:
        problems.append(error)
    try:
        base = bases.open_base(model.base, model.revision)
        if plan.tuning == "lora":
            models.lora_config(plan, _empty_trunk(base.config), base.spec)
        context = base.config.get_text_config().max_position_embeddings
        if reading.max_tokens > context:
            what = (
                f"max_tokens = {reading.max_tokens} is more than the {context:,} tokens that {base.spec} was made for"
            )
            problems.append(UserError(what, "Lower it, or read longer texts in windows (stride)."))
    except UserError as error:
        problems.append(error)
    raise_all(problems)
    classes = data.labels_of(splits.train)
    answers = SimpleNamespace(classes=classes, task=data.task_of(splits.train), rescaling=UNSCALED)
    tokens = {
        role: tokenise(base.tokenizer, getattr(splits, role), answers, reading)
        for role in ("train", "dev", "test")
        if getattr(splits, role)
    }
    _check_tokens(tokens, splits)
    lengths = {role: [row.size for row in rows] for role, rows in tokens.items()}
    steps = -(-len(tokens["train"]) // plan.batch_rows) * plan.epochs
    again = f", in each of {trainings} trainings" if trainings > 1 else ""
    return [
        *_rows_lines(splits, classes),
        ("tokens", ", ".join(f"{role} {sum(n):,} (longest {max(n)})" for role, n in lengths.items())),
        ("cut at max_tokens", f"{sum(row.truncated for rows in tokens.values() for row in rows)} rows"),
        ("steps", f"{steps} of {plan.batch_rows} rows, {plan.epochs} epochs{again}"),
        *tell_cost(base, plan, lengths, trainings),
        *(("warning", text) for text in [*splits.warnings, *_flattery(plan, splits)]),
    ]


def forecast_choices(engine: Engine, model: Model, choices: Sequence[Choice]) -> str:
    """What it takes to weigh choices: requests and their price at an endpoint, else tokens and time.

    Raises UserError where the longest does not fit into the model.
    """
    if engine.kind == "remote":
        from camelid.engines.remote import open_remote

        found = open_remote(engine).estimate(choices)
        return f"{found.requests:,} requests, about {found.prompt_tokens:,} tokens, {found.cost:.2f} by the price table"
    base = bases.open_base(model.base, model.revision)
    sizes = [len(encode_prompt(base.tokenizer, choice.prompt)) for choice in choices]
    context = base.config.get_text_config().max_position_embeddings
    if max(sizes) >= context:
        what = f"the longest prompt has {max(sizes):,} tokens, and {base.spec} reads {context:,}"
        raise UserError(what, "Take a model with a longer context, or leave such rows out.")
    minutes = estimate_minutes(bases.parameter_count(base.config), engine.precision, sum(sizes))
    told = f"{len(sizes):,} prompts, {sum(sizes):,} tokens (longest {max(sizes):,})"
    return f"{told}, about {minutes} min at this machine's speed now"


def estimate_minutes(weights: int, precision: str, read: int, taught: int = 0) -> int:
    """Minutes on this machine at its speed now, 1 at least, for so many tokens that a model of `weights` reads or is
    taught: 2 products a weight and token forward, 2 more backward where it is taught."""
    return count_minutes(weights * (2 * read + 4 * taught), precision)


def count_minutes(products: float, precision: str) -> int:
    """Minutes that so many products of weights take here at this machine's speed now, 1 at least."""
    speed = environment.products_per_second(bases.resolve_precision(precision))
    return max(1, round(OVERHEAD * products / speed / 60))


def count_tokens(tokenizer: Any, row: Preference, *, ended: bool = True) -> tuple[int, int, int]:
    """Tokens of a pair's prompt and of each answer, with the end of the turn or without."""
    chosen, rejected = (
        len(encode_answer(tokenizer, row.prompt, text, ended=ended)) for text in (row.chosen, row.rejected)
    )
    return len(encode_prompt(tokenizer, row.prompt)), chosen, rejected


def tell_dropped(dropped: Mapping[str, int]) -> str:
    """Rows that were left out, by reason, in words."""
    return ", ".join(f"{count:,} {why}" for why, count in dropped.items()) or "none"


def _rows_lines(splits: Any, classes: list[str]) -> Lines:
    counts = Counter(name for row in splits.train for name in data.labels_in(row))
    shown = ", ".join(f"{name} {counts[name]}" for name in sorted(classes, key=lambda name: -counts[name])[:8])
    totals: Counter[str] = Counter()
    for key, count in splits.dropped.items():  # "train: retweet"
        totals[key.partition(": ")[2]] += count
    return [
        ("rows", f"train {len(splits.train):,}, dev {len(splits.dev):,}, test {len(splits.test):,}"),
        ("scores measured on", splits.held_out),
        ("rows left out", tell_dropped(dict(totals.most_common()))),
        (
            "classes",
            f"{len(classes)}: {shown}{' …' if len(classes) > 8 else ''}" if classes else _numbers(splits.train),
        ),
    ]


def _flattery(plan: Plan, splits: Any) -> list[str]:
    if splits.test or (plan.keep == "last" and plan.patience is None):
        return []
    return [
        "the dev rows choose the weights (plan.keep, plan.patience) and are scored too, which flatters; give --test"
    ]


def _numbers(rows: Sequence[Any]) -> str:
    numbers = [row.label for row in rows]
    return f"none: numbers from {min(numbers):g} to {max(numbers):g}, mean {fmean(numbers):g}"


def tell_cost(base: Any, plan: Plan, lengths: dict[str, list[int]], trainings: int) -> Lines:
    """Lines on model, memory and time of training on rows of these `lengths` in tokens and scoring the others."""
    weights = bases.parameter_count(base.config)
    embedding = base.config.vocab_size * base.config.hidden_size
    precision = bases.resolve_precision(plan.precision)
    layers = base.config.num_hidden_layers
    adapted = 1 - models.first_adapted_layer(plan, base.config) / layers
    # products: forward 2 per weight and token, backward to activations 2 more above the lowest trained layer, and for
    # full training 2 more for the weights themselves
    per_token = weights * (2 + 2 * adapted + (2 if plan.tuning == "full" else 0))
    evaluated = sum(sum(n) for role, n in lengths.items() if role != "train")
    work = per_token * sum(lengths["train"]) * plan.epochs + 2 * weights * evaluated
    minutes = count_minutes(trainings * work, precision)
    size = 4 if precision == "float32" or plan.tuning == "full" else 2
    longest = sorted(lengths["train"])[-plan.batch_rows :]
    rows = -(-len(longest) // plan.accumulate)
    held = sum(longest[-rows:]) if plan.pack_tokens else max(longest) * rows
    activations = held * layers * adapted * (14 * base.config.hidden_size + 5 * _width(base.config)) * 4
    optimiser = 12 * weights if plan.tuning == "full" else 0
    memory = LIBRARIES_MB + ((weights + embedding) * size + activations + optimiser) / 2**20
    return [
        ("model", f"{base.spec}, {(weights + embedding) / 1e6:.0f}M parameters, {precision} on {bases.device()}"),
        ("memory", f"about {memory / 1024:.1f} GB"),
        ("time", f"about {minutes} min for training and scoring at this machine's speed now"),
    ]


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


@dataclass(frozen=True)
class Meter:
    """Counts a model's tokens. Of a remote one they are estimated, and its `context` is not known."""

    tokenizer: Any = None
    context: int | None = None

    def count(self, text: str) -> int:
        """Tokens of a text by itself."""
        if self.tokenizer is None:
            return len(text) // CHARACTERS_PER_TOKEN + 1
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
