"""Label supervision side by side with what one would use instead: transformers' Trainer + PEFT, and pipeline().

Each measurement is a process of its own (so peak memory is its own) and times only the work, not imports or loading.
A round runs every contestant once, in turn; ratios are taken within a round, because a shared machine drifts.

    python bench/ls_llama.py [--rounds 5] [--rows 400] [--epochs 2] [--test-rows 0] [--only NAME ...]

Writes one JSON line a comparison to bench/results.jsonl, and the newest of each into docs/methods/ls-llama.md. A
round trains with its own seed, the same for everybody; with --test-rows the trained models are also scored, after the
clock has stopped. Trainer's contestants:
    trainer-defaults        fp32 as loaded, batch 8, PEFT's default LoRA layers, no length grouping
    trainer-tuned           bfloat16, length grouping, our batch, our LoRA layers, rank and dropout
    trainer-tuned-all       the same with LoRA in every layer, as one would without camelid: no work is avoided
    trainer-tuned-fp32      the same as trainer-tuned in float32: the better choice without native bfloat16
    trainer-tuned-fp32-all  the same with LoRA in every layer

Utilisation is the matrix products a contestant cannot do without (forward once a token and layer, backward to the
lowest trained layer, text tokens only, adapters and attention not counted), per second, over what matrix products of a
small model's size reach in the same process, in bfloat16 where the machine multiplies that natively, else in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paired

PAGE = paired.DOCS / "methods" / "ls-llama.md"


def read_bench_rows(count: int) -> tuple[list[Any], list[str]]:
    """The first `count` rows of emotion where that set is at hand, else of the embedded tweets; and the classes."""
    from camelid import data

    if os.environ.get("CAMELID_DATA"):
        rows = data.read_rows("emotion")[:count]
    else:  # the tweets stand in order of their class
        rows = random.Random(0).sample(data.read_rows("crowd-tweets"), count)
    return rows, data.labels_of(rows)


@dataclass(frozen=True)
class Job:
    """What a contestant works on."""

    rows: list[Any]
    classes: list[str]
    epochs: int
    seed: int
    test_rows: list[Any]

    @property
    def plan(self) -> Any:
        """The plan of the method's own recipe."""
        from camelid import methods

        return methods.resolve("ls-llama", {"plan.epochs": self.epochs, "plan.seed": self.seed}).plan


def train_ours(job: Job, **changes: Any) -> dict[str, float]:
    from camelid import bases, labelling, models, prediction
    from camelid.reading import Reading

    plan, base, reading = job.plan.model_copy(update=changes), bases.open_base("smollm2-135m"), Reading(256)
    settings = {"kind": "label", "classes": job.classes, "pooling": "last"}
    model = models.label_model(base, settings, plan, reading)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        labelling.fit(model, base.tokenizer, job.rows, [], plan, Path(folder))
        seconds = time.perf_counter() - started
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    found = trained(job, base, seconds, last_epoch_loss([line["loss"] for line in lines], job.epochs))
    frozen = models.first_adapted_layer(plan, base.config) / base.config.num_hidden_layers
    found["work"] *= (2 * frozen / job.epochs + 4 * (1 - frozen)) / 4
    if job.test_rows:
        predicted = prediction.predict(models.merge(model), base.tokenizer, job.test_rows, reading)
        found["accuracy"] = statistics.mean(row.predicted == row.gold for row in predicted)
    return found


def trained(job: Job, base: Any, seconds: float, loss: float) -> dict[str, float]:
    """Figures of a training run; "work" are the products of a forward and a backward pass through all layers."""
    from camelid import bases

    tokens = sum(map(len, base.tokenizer([row.text for row in job.rows])["input_ids"])) * job.epochs
    work = 4.0 * bases.parameter_count(base.config) * tokens
    return {"rate": tokens / seconds, "seconds": seconds, "loss": loss, "work": work}


def train_theirs(job: Job, *, tuned: bool, bfloat16: bool, all_layers: bool = False) -> dict[str, float]:
    import peft
    import torch
    import transformers

    from camelid import bases, models

    plan, base = job.plan, bases.open_base("smollm2-135m")
    torch.manual_seed(job.seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        base.source, num_labels=len(job.classes), dtype=torch.bfloat16 if bfloat16 else None
    )
    model.config.pad_token_id = base.tokenizer.pad_token_id
    config = peft.LoraConfig(task_type="SEQ_CLS")
    layers = base.config.num_hidden_layers
    first = 0 if all_layers or not tuned else models.first_adapted_layer(plan, base.config)
    if tuned:
        config = peft.LoraConfig(
            task_type="SEQ_CLS",
            r=plan.lora_rank,
            lora_alpha=int(plan.lora_alpha),
            lora_dropout=plan.lora_dropout,
            target_modules=list(plan.lora_targets),
            layers_to_transform=list(range(first, layers)),
        )
    model = peft.get_peft_model(model, config)
    losses: list[float] = []

    class Losses(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    def features(rows: list[Any]) -> list[dict[str, Any]]:
        encoded = base.tokenizer([row.text for row in rows])["input_ids"]
        return [{"input_ids": ids, "labels": job.classes.index(row.label)} for ids, row in zip(encoded, rows)]

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
            output_dir=folder, num_train_epochs=job.epochs, logging_steps=1, save_strategy="no", report_to=[],
            disable_tqdm=True, seed=job.seed, use_cpu=True, **options,
        )  # fmt: skip
        started = time.perf_counter()
        trainer = transformers.Trainer(
            model, arguments, train_dataset=features(job.rows), processing_class=base.tokenizer, callbacks=[Losses()],
            data_collator=transformers.DataCollatorWithPadding(base.tokenizer),
        )  # fmt: skip
        trainer.train()
        seconds = time.perf_counter() - started
        found = trained(job, base, seconds, last_epoch_loss(losses, job.epochs))
        found["work"] *= (2 + 2 * (1 - first / layers)) / 4
        if job.test_rows:
            output: Any = trainer.predict(features(job.test_rows))  # type: ignore[arg-type]
            found["accuracy"] = float((output.predictions.argmax(axis=1) == output.label_ids).mean())
    return found


def last_epoch_loss(losses: list[float], epochs: int) -> float:
    """Mean training loss over the steps of the last epoch."""
    return statistics.mean(losses[-(len(losses) // epochs) :])


def predict_ours(job: Job) -> dict[str, float]:
    from camelid import bases, models, prediction
    from camelid.reading import Reading

    base, reading = bases.open_base("smollm2-135m"), Reading(256)
    settings = {"kind": "label", "classes": job.classes, "pooling": "last"}
    model = models.merge(models.label_model(base, settings, job.plan, reading))
    started = time.perf_counter()
    prediction.predict(model, base.tokenizer, job.rows, reading)
    return predicted(job, base, time.perf_counter() - started)


def predict_theirs(job: Job, *, batch_size: int) -> dict[str, float]:
    import transformers

    from camelid import bases

    base = bases.open_base("smollm2-135m")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base.source, num_labels=len(job.classes))
    model.config.pad_token_id = base.tokenizer.pad_token_id
    classifier: Any = transformers.pipeline("text-classification", model=model, tokenizer=base.tokenizer)
    started = time.perf_counter()
    classifier([row.text for row in job.rows], batch_size=batch_size)
    return predicted(job, base, time.perf_counter() - started)


def predicted(job: Job, base: Any, seconds: float) -> dict[str, float]:
    """Figures of a prediction run: rows a second."""
    from camelid import bases

    tokens = sum(map(len, base.tokenizer([row.text for row in job.rows])["input_ids"]))
    work = 2.0 * bases.parameter_count(base.config) * tokens
    return {"rate": len(job.rows) / seconds, "seconds": seconds, "loss": 0.0, "work": work}


CONTESTANTS = {
    "train-ours": train_ours,
    "train-ours-upper-20": lambda job: train_ours(job, adapt_from_layer=10),
    "trainer-defaults": lambda job: train_theirs(job, tuned=False, bfloat16=False),
    "trainer-tuned-fp32": lambda job: train_theirs(job, tuned=True, bfloat16=False),
    "trainer-tuned-fp32-all": lambda job: train_theirs(job, tuned=True, bfloat16=False, all_layers=True),
    "trainer-tuned": lambda job: train_theirs(job, tuned=True, bfloat16=True),
    "trainer-tuned-all": lambda job: train_theirs(job, tuned=True, bfloat16=True, all_layers=True),
    "predict-ours": predict_ours,
    "pipeline": lambda job: predict_theirs(job, batch_size=1),
    "pipeline-batch-32": lambda job: predict_theirs(job, batch_size=32),
}
PAIRS = [
    ("train-ours", "trainer-defaults", "training tokens/s against Trainer + PEFT as they come", False),
    ("train-ours", "trainer-tuned", "training tokens/s against Trainer + PEFT tuned by hand, bfloat16", False),
    (
        "train-ours",
        "trainer-tuned-all",
        "training tokens/s against Trainer + PEFT tuned by hand, bfloat16, LoRA in all layers",
        False,
    ),
    (
        "train-ours-upper-20",
        "trainer-tuned-all",
        "training tokens/s, adapters in 20 of 30 layers, against the same",
        False,
    ),
    ("train-ours", "trainer-tuned-fp32", "training tokens/s against Trainer + PEFT tuned by hand, float32", True),
    (
        "train-ours",
        "trainer-tuned-fp32-all",
        "training tokens/s against Trainer + PEFT tuned by hand, float32, LoRA in all layers",
        True,
    ),
    ("predict-ours", "pipeline", "prediction rows/s against pipeline() as it comes", False),
    ("predict-ours", "pipeline-batch-32", "prediction rows/s against pipeline(batch_size=32)", True),
]


def work(name: str, options: argparse.Namespace) -> None:
    """One measurement, in this process; prints a JSON line."""
    import transformers

    from camelid import bases, data, environment

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    rows, classes = read_bench_rows(options.rows)
    test_rows = data.read_rows("emotion:test")[: options.test_rows] if options.test_rows else []
    native = bases.resolve_precision("auto")
    peak = environment.products_per_second(native, 1.0)
    found = CONTESTANTS[name](Job(rows, classes, options.epochs, options.seed, test_rows))
    peak = max(peak, environment.products_per_second(native, 1.0))
    found["utilisation"] = found.pop("work") / found["seconds"] / peak
    paired.report_result(found)


def summarise(
    ours: str, theirs: str, what: str, reference: bool, rounds: list[dict[str, Any]], size: dict[str, int]
) -> dict[str, Any]:
    """One line of results.jsonl."""
    pairs = [(found[ours], found[theirs]) for found in rounds]
    facts: dict[str, Any] = {
        **size,
        **{key: [paired.median(pairs, side, key) for side in (0, 1)] for key in ("loss", "utilisation")},
    }
    if all("accuracy" in side for side in pairs[0]):
        facts["accuracy"] = [[round(pair[side]["accuracy"], 4) for pair in pairs] for side in (0, 1)]
    return paired.compare(what, pairs, **facts) | ({"reference": True} if reference else {})


def write_page() -> None:
    """The newest result of each comparison, as the table in docs/methods/ls-llama.md."""
    rows = [
        "| machine | comparison | ours | theirs | ratio (median, range) | pairs | rows x epochs | loss | peak MB "
        "| utilisation |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in paired.newest([name for _, _, name, _ in PAIRS]):
        ratio = f"**{line['ratio_median']:.2f}** ({line['ratio_min']:.2f} to {line['ratio_max']:.2f})"
        size = f"{line['rows']} x {line['epochs']}" if any(line["loss"]) else f"{line['rows']}"
        pairs = [
            " / ".join(f"{value:{form}}" for value in line[key]) if any(line.get(key, ())) else ""
            for key, form in (("loss", ".3f"), ("peak_mb", ".0f"), ("utilisation", ".0%"))
        ]
        cells = [
            line["machine"],
            line["name"],
            f"{line['ours']:.0f}",
            f"{line['theirs']:.0f}",
            ratio,
            str(line["pairs"]),
            size,
            *pairs,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    paired.write_between(PAGE, "speed", "\n".join(rows))


def main() -> None:
    parser = paired.make_parser(__doc__, rows=400, epochs=2)
    parser.add_argument("--test-rows", type=int, default=0, help="also score on so many test rows of emotion")
    options = parser.parse_args()
    if options.work:
        return work(options.work, options)
    paired.check_quiet(options.anyway)
    pairs = [pair for pair in PAIRS if not options.only or pair[1] in options.only]
    names = list(dict.fromkeys(name for pair in pairs for name in pair[:2]))
    arguments = ["--rows", str(options.rows), "--epochs", str(options.epochs), "--test-rows", str(options.test_rows)]
    rounds = paired.run_rounds(__file__, names, options.rounds, arguments)
    size = {"rows": options.rows, "epochs": options.epochs}
    paired.keep([summarise(*pair, rounds, size) for pair in pairs])
    return write_page()


if __name__ == "__main__":
    main()
