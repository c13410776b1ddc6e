"""Preference tuning and reward scoring side by side with TRL and with a plain transformers loop.

Each measurement is a process of its own. A round runs every contestant once; ratios are taken within a round.

    python bench/preferences.py [--rounds 3] [--rows 120] [--epochs 1] [--only NAME ...]

Pairs are those of hh-harmless ($CAMELID_DATA), at most 512 tokens, batch 4, LoRA of rank 16, DPO with beta 0.1. The
rate counts the tokens of both transcripts for everybody, once an epoch. The clock covers what a user waits for: the
rows are read already, a reference's log-probabilities are not, except for the contestants named so.
    dpo-ours        bfloat16, the prompt of a pair computed once, lengths in buckets, reference computed once
    dpo-trl         TRL's DPOTrainer as it shuffles, bfloat16, the reference computed in every step
    dpo-trl-sorted  the same fed rows sorted by length (in the order of their lengths, which no one should train in)
    dpo-trl-kept    TRL with the reference computed once, before the clock starts; ours likewise (dpo-ours-kept)
    score-ours      rewards of both answers of each pair: prompt computed once, rows sorted by length
    score-plain     transformers' classifier in padded batches of 8 in the order of the rows, bfloat16

Writes one JSON line a comparison to bench/results.jsonl, and the newest of each into docs/preferences.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import paired

PAGE = paired.DOCS / "preferences.md"
BASE, BETA, LENGTH, BATCH = "smollm2-135m", 0.1, 512, 4


@dataclass
class Job:
    """What a contestant works on."""

    count: int
    epochs: int
    seed: int

    @cached_property
    def base(self) -> Any:
        from camelid import bases

        return bases.open_base(BASE)

    @cached_property
    def rows(self) -> list[Any]:
        """The first pairs that fit, as tokens."""
        from camelid import data
        from camelid.branches import encode_preference

        found = (encode_preference(self.base.tokenizer, row) for row in data.read_rows("hh-harmless"))
        fitting = (row for row in found if max(map(len, row.answers)) + len(row.prompt) <= LENGTH)
        return [next(fitting) for _ in range(self.count)]

    @property
    def plan(self) -> Any:
        from camelid.recipe import Plan

        return Plan(
            epochs=self.epochs, batch_rows=BATCH, learning_rate=1e-4, lora_rank=16, lora_alpha=32, seed=self.seed
        )

    @property
    def tokens(self) -> int:
        return sum(len(row.prompt) + len(answer) for row in self.rows for answer in row.answers)


def tune_ours(job: Job, *, kept: bool = False) -> dict[str, Any]:
    import json

    from camelid import models, objectives
    from camelid.preferences import measure_logprobs, over_answers, with_reference
    from camelid.reading import pad_id
    from camelid.training import train

    model, pad, rows = models.language_model(job.base, {}, job.plan), pad_id(job.base.tokenizer), job.rows
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        referred = with_reference(rows, measure_logprobs(model, rows, pad, "reference"))
        started = time.perf_counter() if kept else started
        train(model, over_answers(referred, job.plan, pad), objectives.dpo(BETA), job.plan, folder=Path(folder))
        seconds = time.perf_counter() - started
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return measured(job, seconds, [line["loss"] for line in lines])


def tune_theirs(job: Job, *, ordered: bool = False, kept: bool = False) -> dict[str, Any]:
    import datasets
    import peft
    import torch
    import transformers
    import trl

    plan, losses = job.plan, []
    model = transformers.AutoModelForCausalLM.from_pretrained(job.base.source, dtype=torch.bfloat16)
    adapter = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=plan.lora_rank,
        lora_alpha=int(plan.lora_alpha),
        lora_dropout=plan.lora_dropout,
        target_modules=list(plan.lora_targets),
    )

    class Losses(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    rows = sorted(job.rows, key=lambda row: row.size) if ordered else job.rows
    decode = job.base.tokenizer.decode
    texts = [
        {"prompt": decode(row.prompt), "chosen": decode(row.answers[0][:-1]), "rejected": decode(row.answers[1][:-1])}
        for row in rows
    ]
    with tempfile.TemporaryDirectory() as folder:
        arguments = trl.DPOConfig(
            output_dir=folder, beta=BETA, max_length=LENGTH, per_device_train_batch_size=BATCH, bf16=True, use_cpu=True,
            num_train_epochs=job.epochs, learning_rate=plan.learning_rate, lr_scheduler_type="linear", logging_steps=1,
            save_strategy="no", report_to=[], disable_tqdm=True, seed=job.seed, precompute_ref_log_probs=kept,
            gradient_checkpointing=False, train_sampling_strategy="sequential" if ordered else "random",
        )  # fmt: skip
        trainer = trl.DPOTrainer(
            model=model, args=arguments, train_dataset=datasets.Dataset.from_list(texts),
            processing_class=job.base.tokenizer, peft_config=adapter, callbacks=[Losses()],
        )  # fmt: skip
        if kept:
            trainer.get_train_dataloader()  # the reference is computed here
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    return measured(job, seconds, losses)


def score_ours(job: Job) -> dict[str, Any]:
    from camelid import models
    from camelid.preferences import measure_rewards
    from camelid.reading import pad_id

    model = models.value_model(job.base, {"attributes": ["reward"]}, None)  # without adapters, as theirs
    started = time.perf_counter()
    found = measure_rewards(model, job.rows, pad_id(job.base.tokenizer))
    return measured(job, time.perf_counter() - started, [value for pair in found for value in pair])


def score_plain(job: Job) -> dict[str, Any]:
    import torch
    import transformers

    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(
        job.base.source, num_labels=1, dtype=torch.bfloat16
    ).eval()
    pad = 0  # not the end of a turn, which transformers would take for padding
    model.config.pad_token_id = pad
    lines = [row.prompt + answer for row in job.rows for answer in row.answers]
    found: list[float] = []
    started = time.perf_counter()
    with torch.inference_mode():
        for start in range(0, len(lines), 8):
            some = [torch.tensor(ids) for ids in lines[start : start + 8]]
            ids_BT = torch.nn.utils.rnn.pad_sequence(some, batch_first=True, padding_value=pad)
            mask_BT = torch.nn.utils.rnn.pad_sequence([torch.ones_like(ids) for ids in some], batch_first=True)
            found += model(input_ids=ids_BT, attention_mask=mask_BT).logits[:, 0].tolist()
    return measured(job, time.perf_counter() - started, found, passes=1)


def measured(job: Job, seconds: float, losses: list[float], passes: int | None = None) -> dict[str, Any]:
    """Tokens of both transcripts a second; the loss is the mean over the last quarter of the steps."""
    last = losses[-max(1, len(losses) // 4) :]
    return {"rate": job.tokens * (passes or job.epochs) / seconds, "seconds": seconds, "loss": statistics.mean(last)}


CONTESTANTS = {
    "dpo-ours": tune_ours,
    "dpo-ours-kept": lambda job: tune_ours(job, kept=True),
    "dpo-trl": tune_theirs,
    "dpo-trl-sorted": lambda job: tune_theirs(job, ordered=True),
    "dpo-trl-kept": lambda job: tune_theirs(job, kept=True),
    "score-ours": score_ours,
    "score-plain": score_plain,
}
PAIRS = [
    ("dpo-ours", "dpo-trl", "preferences: DPO tokens/s against TRL as it shuffles", False),
    ("dpo-ours", "dpo-trl-sorted", "preferences: DPO tokens/s against TRL fed rows by length", True),
    ("dpo-ours-kept", "dpo-trl-kept", "preferences: DPO tokens/s with kept reference, against TRL's", True),
    ("score-ours", "score-plain", "preferences: reward scoring tokens/s against padded batches of 8", False),
]


def work(name: str, options: argparse.Namespace) -> None:
    """One measurement, in this process; prints a JSON line."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    paired.report_result(CONTESTANTS[name](Job(options.rows, options.epochs, options.seed)))


def write_page() -> None:
    """The newest result of each comparison, as the table in docs/preferences.md."""
    rows = ["| machine | comparison | ours | theirs | ratio (median, range) | pairs | loss | peak MB |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for line in paired.newest([name for _, _, name, _ in PAIRS]):
        cells = [
            line["machine"],
            line["name"].removeprefix("preferences: "),
            f"{line['ours']:.0f}",
            f"{line['theirs']:.0f}",
            f"**{line['ratio_median']:.2f}** ({line['ratio_min']:.2f} to {line['ratio_max']:.2f})",
            str(line["pairs"]),
            " / ".join(f"{value:.3f}" for value in line["loss"]) if "DPO" in line["name"] else "",
            " / ".join(f"{value:.0f}" for value in line["peak_mb"]),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    paired.write_between(PAGE, "speed", "\n".join(rows))


def main() -> None:
    options = paired.make_parser(__doc__, rows=120, epochs=1).parse_args()
    if options.work:
        return work(options.work, options)
    paired.check_quiet(options.anyway)
    pairs = [pair for pair in PAIRS if not options.only or pair[1] in options.only]
    names = list(dict.fromkeys(name for pair in pairs for name in pair[:2]))
    rounds = paired.run_rounds(
        __file__, names, options.rounds, ["--rows", str(options.rows), "--epochs", str(options.epochs)]
    )
    lines = []
    for ours, theirs, what, reference in pairs:
        measured_pairs = [(found[ours], found[theirs]) for found in rounds]
        loss = [paired.median(measured_pairs, side, "loss") for side in (0, 1)]
        line = paired.compare(what, measured_pairs, rows=options.rows, epochs=options.epochs, loss=loss)
        lines.append(line | ({"reference": True} if reference else {}))
    paired.keep(lines)
    return write_page()


if __name__ == "__main__":
    main()
