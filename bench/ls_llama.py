"""Label supervision side by side with what one would use instead: transformers' Trainer + PEFT, and pipeline().

Each measurement is a process of its own (so peak memory is its own) and times only the work, not imports or loading.
A round runs every contestant once, in turn; ratios are taken within a round, because a shared machine drifts.

    python bench/ls_llama.py [--rounds 5] [--rows 400] [--epochs 2] [--only NAME ...]

Writes one JSON line a comparison to bench/results.jsonl. Trainer's contestants:
    trainer-defaults   fp32 as loaded, batch 8, PEFT's default LoRA layers, no length grouping
    trainer-tuned      bfloat16, length grouping, our batch, our LoRA layers, rank and dropout
    trainer-tuned-fp32 the same in float32: the better choice on a processor without native bfloat16
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.jsonl")
SEED = 0
BUSY_LOAD = 1.0  # one-minute load average above which a comparison would measure the neighbours


def read_bench_rows(count: int) -> tuple[list[Any], list[str]]:
    """The first `count` rows of emotion where that set is at hand, else of the embedded tweets; and the classes."""
    from camelid import data

    source = "emotion" if os.environ.get("CAMELID_DATA") else "crowd-tweets"
    rows = data.read_rows(source)[:count]
    return rows, data.labels_of(rows)


def shipped_plan(epochs: int) -> Any:
    """The plan of the method's own recipe."""
    from camelid import methods

    return methods.resolve("ls-llama", {"plan.epochs": epochs}).plan


def train_ours(rows: list[Any], classes: list[str], epochs: int) -> dict[str, float]:
    from camelid import labelling, models
    from camelid.objectives import cross_entropy
    from camelid.training import train

    plan, base = shipped_plan(epochs), models.open_base("smollm2-135m")
    settings = {"kind": "label", "classes": classes, "pooling": "last", "attention": "causal"}
    model = models.label_model(base, settings, plan, 256)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        tokens = labelling.tokenise(base.tokenizer, rows, classes, 256)
        pad = labelling.pad_id(base.tokenizer)
        frozen = labelling.freeze_states(model, tokens, plan, pad)
        batches = labelling.over_epochs(tokens, plan, pad, frozen)
        train(model, batches, cross_entropy, plan, folder=Path(folder))
        seconds = time.perf_counter() - started
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    count = sum(len(row.ids) for row in tokens) * epochs
    return {
        "rate": count / seconds,
        "seconds": seconds,
        "loss": last_epoch_loss([line["loss"] for line in lines], epochs),
    }


def train_theirs(rows: list[Any], classes: list[str], epochs: int, *, tuned: bool, bfloat16: bool) -> dict[str, float]:
    import peft
    import torch
    import transformers

    from camelid import models

    plan, base = shipped_plan(epochs), models.open_base("smollm2-135m")
    torch.manual_seed(SEED)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        base.source, num_labels=len(classes), dtype=torch.bfloat16 if bfloat16 else None
    )
    model.config.pad_token_id = base.tokenizer.pad_token_id
    config = peft.LoraConfig(task_type="SEQ_CLS")
    if tuned:
        layers = list(range(models.first_adapted_layer(plan, base.config), base.config.num_hidden_layers))
        config = peft.LoraConfig(
            task_type="SEQ_CLS",
            r=plan.lora_rank,
            lora_alpha=int(plan.lora_alpha),
            lora_dropout=plan.lora_dropout,
            target_modules=list(plan.lora_targets),
            layers_to_transform=layers,
        )
    model = peft.get_peft_model(model, config)
    losses: list[float] = []

    class Losses(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"per_device_train_batch_size": 8}
        if tuned:
            options = {
                "per_device_train_batch_size": plan.batch_rows,
                "train_sampling_strategy": "group_by_length",
                "learning_rate": plan.learning_rate,
                "weight_decay": plan.weight_decay,
                "bf16": bfloat16,
            }
        arguments = transformers.TrainingArguments(
            output_dir=folder, num_train_epochs=epochs, logging_steps=1, save_strategy="no", report_to=[],
            disable_tqdm=True, seed=SEED, use_cpu=True, **options,
        )  # fmt: skip
        started = time.perf_counter()
        encoded = base.tokenizer([row.text for row in rows])["input_ids"]
        features = [
            {"input_ids": ids, "labels": classes.index(row.label)} for ids, row in zip(encoded, rows, strict=True)
        ]
        trainer = transformers.Trainer(
            model, arguments, train_dataset=features, processing_class=base.tokenizer, callbacks=[Losses()],
            data_collator=transformers.DataCollatorWithPadding(base.tokenizer),
        )  # fmt: skip
        trainer.train()
        seconds = time.perf_counter() - started
    count = sum(map(len, encoded)) * epochs
    return {"rate": count / seconds, "seconds": seconds, "loss": last_epoch_loss(losses, epochs)}


def last_epoch_loss(losses: list[float], epochs: int) -> float:
    """Mean training loss over the steps of the last epoch."""
    return statistics.mean(losses[-(len(losses) // epochs) :])


def predict_ours(rows: list[Any], classes: list[str], epochs: int) -> dict[str, float]:
    from camelid import labelling, models

    plan, base = shipped_plan(epochs), models.open_base("smollm2-135m")
    settings = {"kind": "label", "classes": classes, "pooling": "last", "attention": "causal"}
    model = models.merge(models.label_model(base, settings, plan, 256))
    started = time.perf_counter()
    labelling.predict(model, base.tokenizer, rows, 256)
    seconds = time.perf_counter() - started
    return {"rate": len(rows) / seconds, "seconds": seconds, "loss": 0.0}


def predict_theirs(rows: list[Any], classes: list[str], epochs: int, *, batch_size: int) -> dict[str, float]:
    import transformers

    from camelid import models

    base = models.open_base("smollm2-135m")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base.source, num_labels=len(classes))
    model.config.pad_token_id = base.tokenizer.pad_token_id
    classifier: Any = transformers.pipeline("text-classification", model=model, tokenizer=base.tokenizer)
    started = time.perf_counter()
    classifier([row.text for row in rows], batch_size=batch_size)
    seconds = time.perf_counter() - started
    return {"rate": len(rows) / seconds, "seconds": seconds, "loss": 0.0}


CONTESTANTS = {
    "train-ours": train_ours,
    "trainer-defaults": lambda *a: train_theirs(*a, tuned=False, bfloat16=False),
    "trainer-tuned-fp32": lambda *a: train_theirs(*a, tuned=True, bfloat16=False),
    "trainer-tuned": lambda *a: train_theirs(*a, tuned=True, bfloat16=True),
    "predict-ours": predict_ours,
    "pipeline": lambda *a: predict_theirs(*a, batch_size=1),
    "pipeline-batch-32": lambda *a: predict_theirs(*a, batch_size=32),
}
PAIRS = [
    ("train-ours", "trainer-defaults", "training tokens/s against Trainer + PEFT as they come", False),
    ("train-ours", "trainer-tuned", "training tokens/s against Trainer + PEFT tuned by hand, bfloat16", False),
    ("train-ours", "trainer-tuned-fp32", "training tokens/s against Trainer + PEFT tuned by hand, float32", True),
    ("predict-ours", "pipeline", "prediction rows/s against pipeline() as it comes", False),
    ("predict-ours", "pipeline-batch-32", "prediction rows/s against pipeline(batch_size=32)", True),
]


def work(name: str, count: int, epochs: int) -> None:
    """One measurement, in this process; prints a JSON line."""
    import resource

    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    rows, classes = read_bench_rows(count)
    found = CONTESTANTS[name](rows, classes, epochs)
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("RESULT " + json.dumps(found))


def measure(name: str, count: int, epochs: int) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--work", name, "--rows", str(count), "--epochs", str(epochs)]
    output = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in output.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{name} failed:\n{output.stderr[-2000:]}")
    return json.loads(lines[0].removeprefix("RESULT "))


def summarise(
    ours: str, theirs: str, what: str, reference: bool, rounds: list[dict[str, Any]], size: dict[str, int]
) -> dict[str, Any]:
    """One line of results.jsonl: medians of both and the ratio within each round."""
    pairs = [(found[ours], found[theirs]) for found in rounds]
    ratios = [left["rate"] / right["rate"] for left, right in pairs]
    median = lambda key, side: round(statistics.median(pair[side][key] for pair in pairs), 3)  # noqa: E731
    return {
        "name": what,
        "ours": median("rate", 0),
        "theirs": median("rate", 1),
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_min": round(min(ratios), 2),
        "ratio_max": round(max(ratios), 2),
        "pairs": len(pairs),
        **size,
        "loss": [median("loss", 0), median("loss", 1)],
        "peak_mb": [median("peak_mb", 0), median("peak_mb", 1)],
        "machine": machine(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")},
        **({"reference": True} if reference else {}),
    }


def machine() -> str:
    import torch

    return f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], help="names of contestants to compare with")
    parser.add_argument("--anyway", action="store_true", help="run on a loaded machine too")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work, options.rows, options.epochs)
    load = os.getloadavg()[0]
    if load > BUSY_LOAD and not options.anyway:
        raise SystemExit(f"the machine is busy (load {load:.1f}); wait, or use --anyway")
    pairs = [pair for pair in PAIRS if not options.only or pair[1] in options.only]
    names = list(dict.fromkeys(name for pair in pairs for name in pair[:2]))
    rounds: list[dict[str, Any]] = []
    for number in range(options.rounds):
        order = random.Random(number).sample(names, len(names))
        rounds.append({})
        for name in order:
            rounds[-1][name] = measure(name, options.rows, options.epochs)
            print(f"round {number + 1} {name}: {rounds[-1][name]}", flush=True)
    with RESULTS.open("a", encoding="utf-8") as out:
        for ours, theirs, what, reference in pairs:
            size = {"rows": options.rows, "epochs": options.epochs}
            line = summarise(ours, theirs, what, reference, rounds, size)
            out.write(json.dumps(line) + "\n")
            print(json.dumps(line))
    return None


if __name__ == "__main__":
    main()
