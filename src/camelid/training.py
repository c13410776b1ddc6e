"""THE training loop: every method's gradient steps happen here.

What it promises: accumulation and the number of processes change a result only by rounding; a resumed run is the
uninterrupted run, bit for bit; a run that cannot go on says so and keeps its last good state.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from camelid import models, runs
from camelid.batches import StepBatches
from camelid.errors import UserError
from camelid.progress import track
from camelid.recipe import Plan

Objective = Callable[[Any, Any], tuple[dict[str, Tensor], dict[str, float]]]
Evaluate = Callable[[Any], dict[str, float]]
CHECKPOINTS_KEPT = 2


def train(
    model: nn.Module,
    batches: StepBatches,
    objective: Objective,
    plan: Plan,
    *,
    folder: Path,
    evaluate: Evaluate | None = None,
    after_step: Callable[[int], None] | None = None,
    state: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Train `model` in place, `batches.steps` steps of AdamW, continuing from a checkpoint in `folder` if there is one.

    `batches(step)` gives the micro-batches of a step for all processes; each process takes its slice. A batch carries
    `counts` per loss term. `objective(model, batch)` returns ({term: sum over the batch}, {metric: sum}); each term is
    divided by its count over all micro-batches and processes, each metric by the count of the first term.

    `evaluate(model)` is called at each epoch's end and its values are recorded. `after_step(step)` runs after each
    update. `state` names further things with a state_dict that belong into the checkpoint.

    Writes metrics.jsonl (reproducible), timings.jsonl (not) and checkpoints/ into `folder`.
    Raises UserError when the loss is no longer finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator()
    step_module = _Objective(model, objective, models.resolve_precision(plan.precision))
    optimizer = torch.optim.AdamW(_groups(model, plan), lr=plan.learning_rate)
    step_module, optimizer = accelerator.prepare(step_module, optimizer)
    checkpoints = _Checkpoints(folder, model, optimizer, state, plan.checkpoint_seconds)
    step = checkpoints.restore()
    model.train()
    with track("training", batches.steps, step) as advance, _Log(folder, accelerator.is_main_process) as log:
        while step < batches.steps:
            started = time.perf_counter()
            # a pure function of (seed, step), so that dropout after a resume is what it would have been
            set_seed(plan.seed * 1_000_003 + step * accelerator.num_processes + accelerator.process_index)
            rate = plan.learning_rate * schedule(plan, step, batches.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            metrics, tokens = _step(accelerator, step_module, optimizer, batches(step), plan.clip, step)
            step += 1
            if after_step is not None:
                after_step(step)
            record = {"step": step, "epoch": step / batches.steps_per_epoch, "learning_rate": rate, **metrics}
            seconds = time.perf_counter() - started
            if evaluate is not None and step % batches.steps_per_epoch == 0:
                record["dev"] = evaluate(model)
            log.write(record, {"step": step, "seconds": round(seconds, 4), "tokens": tokens})
            advance(1, f"loss {next(iter(metrics.values())):.3f}  {tokens / seconds:.0f} tokens/s")
            if accelerator.is_main_process:
                checkpoints.save_if_due(step, log)
            accelerator.wait_for_everyone()


def schedule(plan: Plan, step: int, steps: int) -> float:
    """Factor on the learning rate at a step (counted from 0): linear warm-up, then linear or cosine decay to 0."""
    warmup = round(plan.warmup * steps)
    if step < warmup:
        return step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 1.0 - done if plan.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


class _Objective(nn.Module):
    """Model and objective in one module: a submodule called outside DDP.forward is silently not synchronised."""

    def __init__(self, model: nn.Module, objective: Objective, precision: str) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.autocast = precision == "bfloat16"

    def forward(self, batch: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
        with torch.autocast(models.device().type, dtype=torch.bfloat16, enabled=self.autocast):
            return self.objective(self.model, batch)


def _step(
    accelerator: Accelerator, module: nn.Module, optimizer: Any, micro: Sequence[Any], clip: float, step: int
) -> tuple[dict[str, float], int]:
    """One update. Every process sees all micro-batches, so the totals need no communication."""
    totals: dict[str, int] = {}
    for batch in micro:
        for term, count in batch.counts.items():
            totals[term] = totals.get(term, 0) + count
    first = next(iter(totals))
    sums: dict[str, float] = dict.fromkeys(totals, 0.0)
    if len(micro) % accelerator.num_processes:
        raise UserError(
            f"step {step + 1} has {len(micro)} micro-batches for {accelerator.num_processes} processes",
            "Make plan.accumulate a multiple of the number of processes, and drop rows that fill no whole step.",
        )
    own = list(micro[accelerator.process_index :: accelerator.num_processes])
    for number, batch in enumerate(own):
        last = number == len(own) - 1
        with nullcontext() if last else accelerator.no_sync(module):
            terms, metrics = module(batch.to(accelerator.device))
            # DDP averages gradients over processes; times their number makes that the sum
            loss = sum(terms[term] / totals[term] for term in terms) * accelerator.num_processes
            accelerator.backward(loss)
        for name, value in {**terms, **metrics}.items():
            sums[name] = sums.get(name, 0.0) + (value.item() if isinstance(value, Tensor) else value)
    values = _over_processes(accelerator, sums)
    result = {name: value / totals.get(name, totals[first]) for name, value in values.items()}
    norm = torch.as_tensor(accelerator.clip_grad_norm_(module.parameters(), clip)).item()
    if not math.isfinite(norm) or not all(map(math.isfinite, result.values())):
        raise UserError(
            f"the loss is no longer finite at step {step + 1} (loss {result[first]}, gradient norm {norm})",
            "Lower plan.learning_rate; the state of the last checkpoint is kept.",
        )
    optimizer.step()
    optimizer.zero_grad()
    return {**result, "gradient_norm": norm}, sum(batch.tokens for batch in micro)


def _over_processes(accelerator: Accelerator, sums: dict[str, float]) -> dict[str, float]:
    if accelerator.num_processes == 1:
        return sums
    values: Any = accelerator.reduce(torch.tensor(list(sums.values()), dtype=torch.float64), "sum")
    return dict(zip(sums, values.tolist(), strict=True))


def _groups(model: nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """Weight decay for matrices only: shrinking a bias or a norm's gain towards 0 has no meaning."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    wrong = [name for name, p in model.named_parameters() if p.requires_grad and p.dtype != torch.float32]
    assert not wrong, f"trainable but not float32: {wrong[:3]}"
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


class _Log:
    """metrics.jsonl and timings.jsonl of a training folder, appended line by line."""

    def __init__(self, folder: Path, active: bool) -> None:
        self.active = active
        self.metrics = folder / "metrics.jsonl"
        self.timings = folder / "timings.jsonl"

    def __enter__(self) -> _Log:
        if self.active:
            self.files = [path.open("a", encoding="utf-8") for path in (self.metrics, self.timings)]
        return self

    def __exit__(self, *error: object) -> None:
        if self.active:
            for file in self.files:
                file.close()

    def write(self, metrics: dict[str, Any], timings: dict[str, Any]) -> None:
        if self.active:
            for file, values in zip(self.files, (metrics, timings), strict=True):
                file.write(json.dumps(values) + "\n")
                file.flush()


class _Checkpoints:
    """checkpoints/step-<n>/: everything the next step depends on, written so that a kill leaves a whole one."""

    def __init__(self, folder: Path, model: nn.Module, optimizer: Any, state: Mapping[str, Any], every: float) -> None:
        self.folder = folder / "checkpoints"
        self.model, self.optimizer, self.state = model, optimizer, state
        self.logs = [folder / "metrics.jsonl", folder / "timings.jsonl"]
        self.every = every
        self.last = time.monotonic()

    def restore(self) -> int:
        """Load the newest checkpoint and cut the logs back to it; returns the step to go on with (0 without one)."""
        found = self._all()
        if not found:
            for log in self.logs:
                log.unlink(missing_ok=True)
            return 0
        values = torch.load(found[-1] / "state.pt", map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, parameter in self._trainable().items():
                parameter.copy_(values["model"][name])
        self.optimizer.load_state_dict(values["optimizer"])
        for name, thing in self.state.items():
            thing.load_state_dict(values["state"][name])
        for log, size in zip(self.logs, values["log_sizes"], strict=True):
            os.truncate(log, size)
        return values["step"]

    def save_if_due(self, step: int, log: _Log) -> None:
        """Save when the last checkpoint is older than `every` seconds."""
        if time.monotonic() - self.last >= self.every:
            self.save(step, log)

    def save(self, step: int, log: _Log) -> None:
        """Write a checkpoint and delete all but the newest two."""
        part = self.folder / f"step-{step:08d}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        values = {
            "step": step,
            "model": self._trainable(),
            "optimizer": self.optimizer.state_dict(),
            "state": {name: thing.state_dict() for name, thing in self.state.items()},
            "log_sizes": [path.stat().st_size for path in self.logs],
        }
        torch.save(values, part / "state.pt")
        runs.publish_folder(part, part.with_suffix(""))
        for old in self._all()[:-CHECKPOINTS_KEPT]:
            shutil.rmtree(old)
        self.last = time.monotonic()

    def _all(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if path.suffix != ".part")

    def _trainable(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}
