"""Joint training on lettered questions side by side with transformers' Trainer + PEFT on the same tokens.

Each measurement is a process of its own and times the training only; ours includes writing and tokenising the prompts,
which the Trainer is given. A round runs every contestant once; ratios are taken within a round.

    python bench/lawma.py [--rounds 5] [--rows 240] [--epochs 2] [--only NAME ...]

Writes one JSON line a comparison to bench/results.jsonl, and the newest of each into docs/methods/lawma.md. Rows are
those of the six tasks where CAMELID_DATA is set, else of the embedded tweets; plan and seed are the same for all.
    trainer-tuned       bfloat16, length grouping, our batch, our LoRA layers, rank and dropout, loss on the answer only
    trainer-halves      the same in two micro-batches a step: half the memory
    trainer-tuned-fp32  the tuned one in float32: the better choice without native bfloat16
    trainer-defaults    fp32 as loaded, batch 8, PEFT's default LoRA layers, no length grouping
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
from functools import cached_property
from pathlib import Path
from typing import Any

import paired

PAGE = paired.DOCS / "methods" / "lawma.md"


@dataclass
class Job:
    """What a contestant works on."""

    count: int
    epochs: int
    seed: int

    @cached_property
    def recipe(self) -> Any:
        """The method's own recipe."""
        from camelid import methods

        values = {"plan.epochs": self.epochs, "plan.seed": self.seed, "data.hold_out": []}
        return methods.resolve("lawma", values, scale="six" if os.environ.get("CAMELID_DATA") else None)

    @cached_property
    def read(self) -> Any:
        """The tasks with their rows."""
        from camelid.task import read_tasks

        return read_tasks(self.recipe.data, self.seed)

    @cached_property
    def rows(self) -> list[Any]:
        """As many training rows, of all tasks."""
        return random.Random(self.seed).sample(self.read.train, min(self.count, len(self.read.train)))

    @cached_property
    def study(self) -> Any:
        """How the rows are asked about."""
        from camelid.methods.classify import lawma

        return lawma.study_of(self.recipe, self.read.tasks)

    @cached_property
    def tokens(self) -> list[Any]:
        """The rows as tokens with their answered positions."""
        from camelid.methods.classify import lawma

        return [lawma.tell(self.study, row, 0, self.seed) for row in self.rows]


def train_ours(job: Job) -> dict[str, float]:
    from camelid import models
    from camelid.methods.classify import lawma

    plan = job.recipe.plan
    model = models.language_model(lawma.base_of(job.recipe), {}, plan)
    rows, study = job.rows, job.study
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        lawma.fit(study, model, Path(folder), rows, [], plan)
        seconds = time.perf_counter() - started
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return trained(job, seconds, [line["loss"] for line in lines])


def train_theirs(job: Job, *, tuned: bool, bfloat16: bool, parts: int = 1) -> dict[str, float]:
    import peft
    import torch
    import transformers

    from camelid import bases

    plan, base = job.recipe.plan, bases.open_base("smollm2-135m")
    torch.manual_seed(job.seed)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        base.source, dtype=torch.bfloat16 if bfloat16 else torch.float32
    )
    config = peft.LoraConfig(task_type="CAUSAL_LM")
    options: dict[str, Any] = {"per_device_train_batch_size": 8}
    if tuned:
        config = peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=plan.lora_rank,
            lora_alpha=int(plan.lora_alpha),
            lora_dropout=plan.lora_dropout,
            target_modules=list(plan.lora_targets),
        )
        options = {
            "per_device_train_batch_size": plan.batch_rows // parts,
            "gradient_accumulation_steps": parts,
            "train_sampling_strategy": "group_by_length",
            "learning_rate": plan.learning_rate,
            "lr_scheduler_type": plan.schedule,
            "warmup_steps": round(plan.warmup * -(-len(job.tokens) // plan.batch_rows) * job.epochs),
            "weight_decay": plan.weight_decay,
            "bf16": bfloat16,
        }
    model = peft.get_peft_model(model, config)
    losses: list[float] = []

    class Losses(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    features = [feature(row) for row in job.tokens]
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder, num_train_epochs=job.epochs, logging_steps=1, save_strategy="no", report_to=[],
            disable_tqdm=True, seed=job.seed, use_cpu=True, **options,
        )  # fmt: skip
        trainer = transformers.Trainer(
            model, arguments, train_dataset=features, processing_class=base.tokenizer, callbacks=[Losses()],
            data_collator=transformers.DataCollatorForSeq2Seq(base.tokenizer),
        )  # fmt: skip
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    return trained(job, seconds, losses)


def feature(row: Any) -> dict[str, list[int]]:
    """A row for a Trainer: prompt and answer, with labels on the answer only."""
    ids = [*row.ids, row.labels[-1]]
    return {"input_ids": ids, "labels": [-100] * (len(ids) - len(row.labels)) + list(row.labels)}


def trained(job: Job, seconds: float, losses: list[float]) -> dict[str, float]:
    """Figures of a training run; the loss is the mean over the steps of the last epoch."""
    tokens = sum(len(row.ids) for row in job.tokens) * job.epochs
    last = losses[-max(1, len(losses) // job.epochs) :]
    return {"rate": tokens / seconds, "seconds": seconds, "loss": statistics.mean(last)}


CONTESTANTS = {
    "train-ours": train_ours,
    "trainer-tuned": lambda job: train_theirs(job, tuned=True, bfloat16=True),
    "trainer-halves": lambda job: train_theirs(job, tuned=True, bfloat16=True, parts=2),
    "trainer-tuned-fp32": lambda job: train_theirs(job, tuned=True, bfloat16=False),
    "trainer-defaults": lambda job: train_theirs(job, tuned=False, bfloat16=False),
}
PAIRS = [
    ("train-ours", "trainer-tuned", "lawma: training tokens/s against Trainer + PEFT tuned by hand, bfloat16", False),
    (
        "train-ours",
        "trainer-halves",
        "lawma: training tokens/s against the same in two micro-batches a step",
        False,
    ),
    ("train-ours", "trainer-tuned-fp32", "lawma: training tokens/s against the tuned one in float32", True),
    ("train-ours", "trainer-defaults", "lawma: training tokens/s against Trainer + PEFT as they come", True),
]


def work(name: str, options: argparse.Namespace) -> None:
    """One measurement, in this process; prints a JSON line."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    paired.report_result(CONTESTANTS[name](Job(options.rows, options.epochs, options.seed)))


def write_page() -> None:
    """The newest result of each comparison, as the table in docs/methods/lawma.md."""
    rows = [
        "| machine | comparison | ours | theirs | ratio (median, range) | pairs | rows x epochs | loss | peak MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in paired.newest([name for _, _, name, _ in PAIRS]):
        cells = [
            line["machine"],
            line["name"].removeprefix("lawma: "),
            f"{line['ours']:.0f}",
            f"{line['theirs']:.0f}",
            f"**{line['ratio_median']:.2f}** ({line['ratio_min']:.2f} to {line['ratio_max']:.2f})",
            str(line["pairs"]),
            f"{line['rows']} x {line['epochs']}",
            " / ".join(f"{value:.3f}" for value in line["loss"]),
            " / ".join(f"{value:.0f}" for value in line["peak_mb"]),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    paired.write_between(PAGE, "speed", "\n".join(rows))


def main() -> None:
    parser = paired.make_parser(__doc__, rows=240, epochs=2)
    options = parser.parse_args()
    if options.work:
        return work(options.work, options)
    paired.check_quiet(options.anyway)
    pairs = [pair for pair in PAIRS if not options.only or pair[1] in options.only]
    names = list(dict.fromkeys(name for pair in pairs for name in pair[:2]))
    arguments = ["--rows", str(options.rows), "--epochs", str(options.epochs)]
    rounds = paired.run_rounds(__file__, names, options.rounds, arguments)
    lines = []
    for ours, theirs, what, reference in pairs:
        measured = [(found[ours], found[theirs]) for found in rounds]
        facts = {"rows": options.rows, "epochs": options.epochs}
        loss = [paired.median(measured, side, "loss") for side in (0, 1)]
        line = paired.compare(what, measured, **facts, loss=loss)
        lines.append(line | ({"reference": True} if reference else {}))
    paired.keep(lines)
    return write_page()


if __name__ == "__main__":
    main()
