"""THE training loop: every method's gradient steps happen here.

What it promises: accumulation and the number of processes change a result only by rounding (without dropout, whose
draws depend on the split); a resumed run is the uninterrupted run, bit for bit; a run that cannot go on says so and
keeps its last good state.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from peft.helpers import disable_input_dtype_casting
from torch import Tensor, nn

from camelid import bases, runs
from camelid.batches import StepBatches
from camelid.errors import UserError
from camelid.progress import track
from camelid.recipe import Plan

Objective = Callable[[Any, Any], tuple[dict[str, Tensor], dict[str, float]]]
Evaluate = Callable[[Any], dict[str, float]]
CHECKPOINTS_KEPT = 2
SEEDS = 2**32  # NumPy takes no larger ones
TRACKERS = "trackers"


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
    `counts` per loss term. Batches that have a `state_dict` (a position in a stream) are checkpointed with the rest.
    `objective(model, batch)` returns ({term: sum over the batch}, {metric: sum}); each term is divided by its count
    over all micro-batches and processes, each metric by the count of the first term, and the terms are added up.

    `evaluate(model)` is called at each epoch's end and its values are recorded; greater is better for the first one,
    which `plan.keep` and `plan.patience` look at. `after_step(step)` runs after each update. `state` names further
    things with a state_dict that belong into the checkpoint.

    Writes metrics.jsonl (reproducible), timings.jsonl (not) and checkpoints/ into `folder`.
    Raises UserError when the loss is no longer finite, or a tracker or parameter group is not there.
    """
    _check_dev(plan, evaluate)
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = _accelerator(plan, folder)
    step_module, optimizer = _prepare(accelerator, model, objective, plan)
    best = _Best(folder / "checkpoints" / "best.pt", model, plan, accelerator.is_main_process)
    streams = {"batches": batches} if hasattr(batches, "state_dict") else {}
    checkpoints = _Checkpoints(folder, model, optimizer, {**state, **streams, "best": best}, plan.checkpoint_seconds)
    step = checkpoints.restore(truncate=accelerator.is_main_process)
    accelerator.wait_for_everyone()
    model.train()
    with track("training", batches.steps, step) as advance, _Log(folder, accelerator) as log:
        while step < batches.steps and not best.is_long_ago:
            started = time.perf_counter()
            _seed(plan, step, accelerator)
            rate = _set_rates(optimizer, plan, step, batches.steps)
            metrics, tokens = _step(accelerator, step_module, optimizer, batches(step), plan.clip, step)
            step += 1
            if after_step is not None:
                after_step(step)
            seconds = time.perf_counter() - started
            record = {"step": step, "epoch": step / batches.steps_per_epoch, "learning_rate": rate, **metrics}
            if evaluate is not None and step % batches.steps_per_epoch == 0:
                record["dev"] = evaluate(model)
                best.observe(next(iter(record["dev"].values())), step)
            log.write(record, {"step": step, "seconds": round(seconds, 4), "tokens": tokens})
            advance(1, f"loss {next(iter(metrics.values())):.3f}  {tokens / seconds:.0f} tokens/s")
            if accelerator.is_main_process:
                checkpoints.save_if_due(step)
            accelerator.wait_for_everyone()
    best.restore()
    for tracker in accelerator.trackers:  # end_training would also end the process group that later stages need
        tracker.finish()


def schedule(plan: Plan, step: int, steps: int) -> float:
    """Factor on the learning rate at a step (counted from 0): linear warm-up, then what `plan.schedule` says.

    linear and cosine decay to 0; constant stays at 1; wsd (warm-up, stable, decay: Hu 2024, arXiv 2404.06395) stays
    at 1 until a linear decay to 0 over the last `plan.decay` of the steps.
    """
    warmup = round(plan.warmup * steps)
    if step < warmup:
        return step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if plan.schedule == "linear":
        return 1.0 - done
    if plan.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    decay = round(plan.decay * steps) if plan.schedule == "wsd" else 0
    return min(1.0, (steps - step) / decay) if decay else 1.0


def group_parameters(model: nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """Optimiser groups of the trainable parameters, with their peak rate as "peak" and their weight decay.

    A parameter takes the values of the first of `plan.groups` whose expression is found in its name. Otherwise matrices
    have the plan's weight decay and vectors none: shrinking a bias or a norm's gain towards 0 has no meaning.
    Raises UserError for an expression that is none, or that no trainable parameter matches.
    """
    members: dict[tuple[float, float], list[nn.Parameter]] = {}
    matched: set[str] = set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.dtype == torch.float32, f"trainable but not float32: {name}"
        group = next((group for group in plan.groups if _search(group.match, name)), None)
        matched |= {group.match} if group else set()
        decay = plan.weight_decay if parameter.ndim > 1 else 0.0
        rate = plan.learning_rate
        if group:
            rate = rate if group.learning_rate is None else group.learning_rate
            decay = decay if group.weight_decay is None else group.weight_decay
        members.setdefault((rate, decay), []).append(parameter)
    for group in plan.groups:
        if group.match not in matched:
            names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
            what = f"plan.groups: no trainable parameter matches {group.match!r} first"
            raise UserError(what, f"Their names are like {names[0]} and {names[-1]}.")
    return [
        {"params": parameters, "lr": rate, "peak": rate, "weight_decay": decay}
        for (rate, decay), parameters in members.items()
    ]


def complain_of_plan(plan: Plan) -> list[tuple[str, str]]:
    """What a plan asks for and a training without dev rows cannot give, as (what, fix)."""
    if plan.keep == "last" and plan.patience is None:
        return []
    return [("plan.keep and plan.patience need dev rows, and this training has none", "Leave them out.")]


def _check_dev(plan: Plan, evaluate: Evaluate | None) -> None:
    if evaluate is None and (plan.keep == "best" or plan.patience is not None):
        raise UserError(
            "plan.keep and plan.patience need dev rows, and there are none", "Give some, or leave them out."
        )


def _prepare(accelerator: Accelerator, model: nn.Module, objective: Objective, plan: Plan) -> tuple[nn.Module, Any]:
    """Model and objective as one module, and its optimiser, both as accelerate wants them."""
    if plan.gradient_checkpointing:
        _recompute_activations(model)
    step_module = _Objective(model, objective, bases.resolve_precision(plan.precision))
    optimizer = torch.optim.AdamW(group_parameters(model, plan), lr=plan.learning_rate, fused=True)
    return accelerator.prepare(step_module, optimizer)


def _seed(plan: Plan, step: int, accelerator: Accelerator) -> None:
    """Seed the step's draws by (seed, step) alone, so that dropout after a resume is what it would have been."""
    number = plan.seed * 1_000_003 + step * accelerator.num_processes + accelerator.process_index
    set_seed(number % SEEDS)


def _set_rates(optimizer: Any, plan: Plan, step: int, steps: int) -> float:
    """Set every group's rate for this step; that of the plan itself comes back."""
    factor = schedule(plan, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return plan.learning_rate * factor


def _search(expression: str, name: str) -> bool:
    try:
        return re.search(expression, name) is not None
    except re.error as error:
        raise UserError(f"plan.groups: {expression!r} is no regular expression: {error}", "Correct it.") from error


def _accelerator(plan: Plan, folder: Path) -> Accelerator:
    for name in plan.trackers:
        if find_spec(name) is None:  # accelerate would leave it out without a word
            raise UserError(f"plan.trackers names {name}, which is not installed", f"pip install {name}")
    trackers: Any = list(plan.trackers) or None
    on_cpu = bases.device().type == "cpu"
    accelerator = Accelerator(cpu=on_cpu, log_with=trackers, project_dir=folder / TRACKERS)
    if plan.trackers:
        accelerator.init_trackers("camelid", config=_flat(plan.model_dump(exclude={"groups"})))
    return accelerator


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as trackers take them: numbers and text only, nested names joined by a slash."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{inner}": found for inner, found in value.items()}
        else:
            flat[name] = value if isinstance(value, int | float | str) else str(value)
    return flat


def _recompute_activations(model: nn.Module) -> None:
    for module in model.modules():
        if hasattr(module, "gradient_checkpointing_enable"):
            module.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
            return


class _Objective(nn.Module):
    """Model and objective in one module: a submodule called outside DDP.forward is silently not synchronised."""

    def __init__(self, model: nn.Module, objective: Objective, precision: str) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.precision = precision

    def forward(self, batch: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
        with autocast(self.model, self.precision):
            return self.objective(self.model, batch)


@contextmanager
def autocast(model: nn.Module, precision: str) -> Iterator[None]:
    """Within the block the products of `model` are bfloat16 where `precision` says so."""
    low = precision == "bfloat16"
    # autocast casts what an adapter reads; PEFT would first cast it to float32, only for autocast to cast it back
    casts_once = disable_input_dtype_casting(model, active=low)
    with torch.autocast(bases.device().type, dtype=torch.bfloat16, enabled=low), casts_once:
        yield


def _step(
    accelerator: Accelerator, module: nn.Module, optimizer: Any, micro: Sequence[Any], clip: float, step: int
) -> tuple[dict[str, float], int]:
    """One update. Every process sees all micro-batches, so the totals need no communication."""
    totals: dict[str, int] = {}
    for batch in micro:
        for term, count in batch.counts.items():
            totals[term] = totals.get(term, 0) + count
    first = next(iter(totals))
    sums: dict[str, float] = {}
    low = accelerator.unwrap_model(module).precision == "bfloat16"
    own = list(micro[accelerator.process_index :: accelerator.num_processes])
    # everybody goes backward equally often, or the others would wait for ever: whoever has too few repeats for nothing
    idle = -(-len(micro) // accelerator.num_processes) - len(own)
    for number, batch in enumerate(own + [micro[0]] * idle):
        counted = float(number < len(own))
        last = number == len(own) + idle - 1
        # activations that are computed again in the backward pass must be read as they were in the forward pass
        casts_once = disable_input_dtype_casting(module, active=low)
        with nullcontext() if last else accelerator.no_sync(module), casts_once:
            terms, metrics = module(batch.to(accelerator.device))
            # DDP averages gradients over processes; times their number makes that the sum
            loss = sum(terms[term] / (totals[term] or 1) for term in terms) * accelerator.num_processes * counted
            accelerator.backward(loss)
        for name, value in {**terms, **metrics}.items():
            sums[name] = sums.get(name, 0.0) + (value.item() if isinstance(value, Tensor) else value) * counted
    values = _over_processes(accelerator, sums)
    result = {name: value / (totals.get(name, totals[first]) or 1) for name, value in values.items()}
    norm = torch.as_tensor(accelerator.clip_grad_norm_(module.parameters(), clip)).item()
    if not math.isfinite(norm) or not all(map(math.isfinite, result.values())):
        raise UserError(
            f"the loss is no longer finite at step {step + 1} (loss {next(iter(result.values()))}, norm {norm})",
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


class _Log:
    """metrics.jsonl and timings.jsonl of a training folder, appended line by line, and the trackers."""

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.active = accelerator.is_main_process
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
        self.accelerator.log(_flat(metrics), step=metrics["step"])


class _Best:
    """The best dev score so far, how many were no better since, and with `plan.keep` "best" the weights it had.

    The weights are written when the score is seen, not with the checkpoint. A kill between the two leaves weights of
    the future, which the resumed run writes again, equal, before anything reads them.
    """

    def __init__(self, path: Path, model: nn.Module, plan: Plan, writes: bool) -> None:
        self.path, self.model, self.plan, self.writes = path, model, plan, writes
        self.score, self.step, self.waited = -math.inf, 0, 0

    @property
    def is_long_ago(self) -> bool:
        """Whether training should stop."""
        return self.plan.patience is not None and self.waited >= self.plan.patience

    def observe(self, score: float, step: int) -> None:
        """A dev score; greater is better, and one that is not a number is no better."""
        if score > self.score:
            self.score, self.step, self.waited = score, step, 0
            if self.plan.keep == "best" and self.writes:
                _write_tensors(self.path, trainable(self.model))
        else:
            self.waited += 1

    def restore(self) -> None:
        """Put the best weights back into the model, where they are to be kept and there was a score."""
        if self.plan.keep == "best" and self.step:
            _load_trainable(self.model, torch.load(self.path, map_location="cpu", weights_only=True))

    def state_dict(self) -> dict[str, float]:
        return {"score": self.score, "step": self.step, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.score, self.step, self.waited = state["score"], state["step"], state["waited"]


class _Checkpoints:
    """checkpoints/step-<n>/: everything the next step depends on, written so that a kill leaves a whole one."""

    def __init__(self, folder: Path, model: nn.Module, optimizer: Any, state: Mapping[str, Any], every: float) -> None:
        self.folder = folder / "checkpoints"
        self.model, self.optimizer, self.state = model, optimizer, state
        self.logs = [folder / "metrics.jsonl", folder / "timings.jsonl"]
        self.every = every
        self.last = time.monotonic()

    def restore(self, truncate: bool = True) -> int:
        """Load the newest checkpoint and cut the logs back to it; returns the step to go on with (0 without one)."""
        found = self._all()
        if not found:
            for log in self.logs if truncate else []:
                log.unlink(missing_ok=True)
            return 0
        values = torch.load(found[-1] / "state.pt", map_location="cpu", weights_only=True)
        _load_trainable(self.model, values["model"])
        self.optimizer.load_state_dict(values["optimizer"])
        for name, thing in self.state.items():
            thing.load_state_dict(values["state"][name])
        for log, size in zip(self.logs, values["log_sizes"], strict=True) if truncate else []:
            os.truncate(log, size)
        return values["step"]

    def save_if_due(self, step: int) -> None:
        """Save when the last checkpoint is older than `every` seconds."""
        if time.monotonic() - self.last >= self.every:
            self.save(step)

    def save(self, step: int) -> None:
        """Write a checkpoint and delete all but the newest two."""
        part = self.folder / f"step-{step:08d}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        values = {
            "step": step,
            "model": trainable(self.model),
            "optimizer": self.optimizer.state_dict(),
            "state": {name: thing.state_dict() for name, thing in self.state.items()},
            "log_sizes": [path.stat().st_size for path in self.logs],
        }
        _write_tensors(part / "state.pt", values)
        runs.publish_folder(part, part.with_suffix(""))
        for old in self._all()[:-CHECKPOINTS_KEPT]:
            shutil.rmtree(old)
        self.last = time.monotonic()

    def _all(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if path.suffix != ".part")


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _load_trainable(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(values[name])


def _write_tensors(path: Path, values: Any) -> None:
    """Whole or not at all. Through a file of our own: torch's writer calls a full disk a RuntimeError without a
    cause.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        torch.save(values, file)
    runs.publish_file(part, path)
