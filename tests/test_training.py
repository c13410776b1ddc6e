"""The loop's promises: accumulation only rounds, resume is exact, small steps move weights, a broken loss stops."""

from __future__ import annotations

import inspect
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from pydantic import ValidationError
from torch import nn

from camelid import bases, models
from camelid.batches import (
    Batch,
    EpochBatches,
    StreamBatches,
    Tokens,
    bucketed_order,
    collate_rows,
    mix_lengths,
    sorted_batches,
)
from camelid.errors import UserError
from camelid.labelling import over_epochs
from camelid.objectives import cross_entropy
from camelid.reading import Reading
from camelid.recipe import Plan
from camelid.training import group_parameters, schedule, train
from two_terms import CPU_PLAN, SETTINGS, ragged_rows, train_two_terms, two_terms


def trained(tiny_model: Path, folder: Path, **values: object) -> tuple[nn.Module, list[dict[str, float]]]:
    """A model after training on the ragged rows, and its metrics lines."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = Plan(**{**CPU_PLAN, **values})  # type: ignore[arg-type]
    model = models.label_model(bases.open_base(str(tiny_model)), SETTINGS, plan, Reading(16))
    train(model, over_epochs(ragged_rows(), plan, 0), cross_entropy, plan, folder=folder)
    return model, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def trainable(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def test_the_signature_is_fixed() -> None:
    assert str(inspect.signature(train)).startswith("(model: 'nn.Module', batches: 'StepBatches', objective: 'Obj")
    assert list(inspect.signature(train).parameters) == [
        *("model", "batches", "objective", "plan"),
        *("folder", "evaluate", "after_step", "state"),
    ]


@pytest.mark.parametrize("accumulate", [2, 3, 6])
def test_accumulation_only_rounds(tiny_model: Path, tmp_path: Path, accumulate: int) -> None:
    whole, whole_metrics = trained(tiny_model, tmp_path / "whole", epochs=1)
    split, split_metrics = trained(tiny_model, tmp_path / "split", epochs=1, accumulate=accumulate)
    for left, right in zip(whole_metrics, split_metrics, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-5)
        assert left["gradient_norm"] == pytest.approx(right["gradient_norm"], rel=1e-4)
    for name, value in trainable(whole).items():
        torch.testing.assert_close(trainable(split)[name], value, atol=2e-5, rtol=1e-3)


def test_the_loss_is_the_mean_over_rows(tiny_model: Path, tmp_path: Path) -> None:
    """20 rows in steps of 6: the last step of an epoch has 2 rows and divides by 2."""
    plan = Plan(**{**CPU_PLAN, "epochs": 1})
    batches = over_epochs(ragged_rows(), plan, 0)
    assert [sum(batch.counts["loss"] for batch in batches(step)) for step in range(4)].count(2) == 1
    model = models.label_model(bases.open_base(str(tiny_model)), SETTINGS, plan, Reading(16)).eval()
    (first,) = batches(0)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(first), first.labels_N).item()
    _, metrics = trained(tiny_model, tmp_path, epochs=1)
    assert metrics[0]["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "wsd"])
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_schedules_are_those_of_transformers(name: str, warmup: float) -> None:
    steps, plan = 20, Plan(schedule=name, warmup=warmup, decay=0.3)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = {"constant": "constant_with_warmup", "wsd": "warmup_stable_decay"}.get(name, name)
    own = {"num_decay_steps": 6, "decay_type": "linear"} if name == "wsd" else None
    reference = transformers.get_scheduler(theirs, optimizer, round(warmup * steps), steps, own)
    for step in range(steps):
        assert schedule(plan, step, steps) == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()


def test_groups_have_values_of_their_own(tiny_model: Path, tmp_path: Path) -> None:
    groups = [
        {"match": "^head", "learning_rate": 0.5, "weight_decay": 0.0},
        {"match": "layers.2.*lora_B", "weight_decay": 0.3},
    ]
    plan = Plan(**{**CPU_PLAN, "groups": groups})  # type: ignore[arg-type]
    model = models.label_model(bases.open_base(str(tiny_model)), SETTINGS, plan, Reading(16))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in group_parameters(model, plan) for p in g["params"]}
    assert found.keys() == trainable(model).keys()
    assert found["head.weight"] == (0.5, 0.0)
    for name, values in found.items():
        if name != "head.weight":
            assert values == (1e-2, 0.3 if "layers.2" in name and "lora_B" in name else 0.01), name
    head_only, _ = trained(tiny_model, tmp_path, epochs=1, groups=[{"match": "lora", "learning_rate": 1e-12}])
    assert all(value.abs().max() < 1e-8 for name, value in trainable(head_only).items() if "lora_B" in name)


@pytest.mark.parametrize(("match", "message"), [("nothing", "matches 'nothing' first"), ("(", "no regular expression")])
def test_a_group_without_parameters_is_told(tiny_model: Path, tmp_path: Path, match: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        trained(tiny_model, tmp_path, groups=[{"match": match}])


def test_each_term_is_divided_by_its_own_count(tiny_model: Path, tmp_path: Path) -> None:
    """Two terms over ragged micro-batches: rows for one, text tokens for the other, whatever the split."""
    logs = []
    for accumulate in (1, 3):
        folder = tmp_path / str(accumulate)
        train_two_terms(tiny_model, folder, accumulate)
        logs.append([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()])
    for left, right in zip(*logs, strict=True):
        for name in ("loss", "size", "gradient_norm"):
            assert left[name] == pytest.approx(right[name], rel=1e-4)
        assert left["rows"] == right["rows"] == 1.0, "a metric is divided by the count of the first term"
    plan = Plan(**{**CPU_PLAN, "epochs": 1})  # type: ignore[arg-type]
    model = models.label_model(bases.open_base(str(tiny_model)), SETTINGS, plan, Reading(16))
    (batch,) = over_epochs(ragged_rows(), plan, 0)(0)
    terms, _ = two_terms(model, batch)
    (terms["loss"] / len(batch.labels_N) + terms["size"] / batch.tokens).backward()
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item()
    assert logs[0][0]["gradient_norm"] == pytest.approx(norm, rel=1e-4)


def test_a_term_that_counts_nothing_in_a_step_adds_nothing(tiny_model: Path, tmp_path: Path) -> None:
    def with_empty_term(model: nn.Module, batch: Batch) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        loss = nn.functional.cross_entropy(model(batch), batch.labels_N, reduction="sum")
        return {"loss": loss, "rare": loss * 0}, {}

    plan = Plan(**{**CPU_PLAN, "epochs": 1})  # type: ignore[arg-type]
    plain, lines = trained(tiny_model, tmp_path / "plain", epochs=1)
    model = models.label_model(bases.open_base(str(tiny_model)), SETTINGS, plan, Reading(16))
    batches = over_epochs(ragged_rows(), plan, 0)

    class Counted:
        steps, steps_per_epoch = batches.steps, batches.steps_per_epoch

        def __call__(self, step: int) -> list[Batch]:
            return [replace(b, counts=b.counts | {"rare": 0}) for b in batches(step)]

    train(model, Counted(), with_empty_term, plan, folder=tmp_path / "rare")  # type: ignore[arg-type]
    again = [json.loads(line) for line in (tmp_path / "rare" / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in again] == [line["loss"] for line in lines]
    assert {line["rare"] for line in again} == {0.0}
    for name, value in trainable(plain).items():
        assert torch.equal(trainable(model)[name], value), name


def test_keeping_the_best_needs_an_evaluation(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="need dev rows"):
        trained(tiny_model, tmp_path, keep="best")


def test_an_empty_stream_is_told() -> None:
    batches = StreamBatches(lambda: iter(()), list, batch_rows=2, accumulate=1, steps=1, steps_per_epoch=1)
    with pytest.raises(UserError, match="no rows"):
        batches(0)


def scripted(scores: list[float]) -> Any:
    """An evaluation that gives these scores in turn, by the step it is asked at (4 steps an epoch)."""
    asked: list[float] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        asked.append(scores[len(asked)])
        return {"score": asked[-1], "other": -asked[-1]}

    return evaluate


def run_scripted(
    tiny_model: Path, folder: Path, scores: list[float], after: Any = None, **values: object
) -> tuple[nn.Module, list[Any]]:
    plan = Plan(**{**CPU_PLAN, "epochs": 6, "checkpoint_seconds": 0.0, **values})  # type: ignore[arg-type]
    model = models.label_model(bases.open_base(str(tiny_model)), SETTINGS, plan, Reading(16))
    batches = over_epochs(ragged_rows(), plan, 0)
    train(model, batches, cross_entropy, plan, folder=folder, evaluate=scripted(scores), after_step=after)
    return model, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_patience_ends_training(tiny_model: Path, tmp_path: Path) -> None:
    """0.5 is best at epoch 2; epochs 3 and 4 are no better (equal is not better), so epoch 5 never comes."""
    _, lines = run_scripted(tiny_model, tmp_path, [0.4, 0.5, 0.5, math.nan, 0.9, 0.9], patience=2)
    assert len(lines) == 16


def test_the_best_weights_are_kept(tiny_model: Path, tmp_path: Path) -> None:
    kept: dict[str, torch.Tensor] = {}
    model_at: dict[int, dict[str, torch.Tensor]] = {}
    plan = Plan(**{**CPU_PLAN, "epochs": 4, "keep": "best"})  # type: ignore[arg-type]
    model = models.label_model(bases.open_base(str(tiny_model)), SETTINGS, plan, Reading(16))

    def note(step: int) -> None:
        model_at[step] = {name: value.clone() for name, value in trainable(model).items()}

    train(
        model, over_epochs(ragged_rows(), plan, 0), cross_entropy, plan,
        folder=tmp_path, evaluate=scripted([0.1, 0.7, 0.3, 0.2]), after_step=note,
    )  # fmt: skip
    kept = trainable(model)
    assert all(torch.equal(kept[name], value) for name, value in model_at[8].items())
    assert not all(torch.equal(kept[name], value) for name, value in model_at[16].items())


@pytest.mark.parametrize("stop", [7, 8, 9, 12, 15])
def test_resume_with_early_stopping_pending(tiny_model: Path, tmp_path: Path, stop: int) -> None:
    """Stopped before, at and behind the best epoch, and while patience runs: the same end, the same weights."""
    scores = [0.1, 0.7, 0.3, 0.2, 0.9, 0.9]
    options = {"patience": 2, "keep": "best", "lora_dropout": 0.2}
    reference, lines = run_scripted(tiny_model, tmp_path / "whole", scores, **options)
    assert len(lines) == 16

    def interrupt(step: int) -> None:
        if step > stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_scripted(tiny_model, tmp_path / "cut", scores, interrupt, **options)
    resumed, again = run_scripted(tiny_model, tmp_path / "cut", scores[stop // 4 :], **options)
    assert again == lines
    for name, value in trainable(reference).items():
        assert torch.equal(trainable(resumed)[name], value), name
    finished, once_more = run_scripted(tiny_model, tmp_path / "cut", [], **options)
    assert once_more == lines, "a finished training does not start again"
    assert all(torch.equal(trainable(finished)[name], value) for name, value in trainable(reference).items())


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_recomputed_activations_change_nothing(tiny_model: Path, tmp_path: Path, dropout: float) -> None:
    whole, lines = trained(tiny_model, tmp_path / "whole", epochs=1, lora_dropout=dropout)
    again, others = trained(tiny_model, tmp_path / "again", epochs=1, lora_dropout=dropout, gradient_checkpointing=True)
    assert again.trunk.is_gradient_checkpointing  # type: ignore[union-attr]
    assert [line["loss"] for line in others] == pytest.approx([line["loss"] for line in lines], rel=1e-6)
    for name, value in trainable(whole).items():
        torch.testing.assert_close(trainable(again)[name], value, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_adapters_read_the_same_when_activations_are_recomputed_in_bfloat16(
    tiny_model: Path, tmp_path: Path, dropout: float
) -> None:
    """Also with dropout, whose noise depends on the format of what it is laid on."""
    options = {"epochs": 1, "lora_dropout": dropout, "precision": "bfloat16"}
    _, lines = trained(tiny_model, tmp_path / "whole", **options)
    _, others = trained(tiny_model, tmp_path / "again", **options, gradient_checkpointing=True)
    assert [line["loss"] for line in others] == pytest.approx([line["loss"] for line in lines], rel=1e-3)


def test_any_seed_a_recipe_takes_can_be_trained_with(tiny_model: Path, tmp_path: Path) -> None:
    """NumPy takes none of 2**32 and above, which seed and step together soon are."""
    _, lines = trained(tiny_model, tmp_path / "large", epochs=1, seed=2**32 - 1)
    assert len(lines) > 1
    with pytest.raises(ValidationError):
        Plan(seed=2**32)


def stream(steps: int = 8) -> StreamBatches:
    def collate(rows: Sequence[Tokens]) -> Batch:
        return collate_rows(rows, 0)

    rows = ragged_rows(10)
    return StreamBatches(lambda: iter(rows), collate, batch_rows=4, accumulate=2, steps=steps, steps_per_epoch=4)


def test_a_stream_goes_round_and_its_position_is_saved(tiny_model: Path, tmp_path: Path) -> None:
    """10 rows in steps of 4: the third step takes the last two and the first two."""
    batches = stream()
    seen = [[label for micro in batches(step) for label in micro.labels_N.tolist()] for step in range(3)]
    rows = [row.labels[0] for row in ragged_rows(10)]
    assert seen == [rows[:4], rows[4:8], [*rows[8:], *rows[:2]]]
    plan = Plan(**{**CPU_PLAN, "checkpoint_seconds": 0.0})  # type: ignore[arg-type]

    def run(folder: Path, after: Any = None) -> tuple[nn.Module, str]:
        model = models.label_model(bases.open_base(str(tiny_model)), SETTINGS, plan, Reading(16))
        train(model, stream(), cross_entropy, plan, folder=folder, after_step=after)
        return model, (folder / "metrics.jsonl").read_text()

    def interrupt(step: int) -> None:
        if step > 5:
            raise KeyboardInterrupt

    reference, lines = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", interrupt)
    resumed, again = run(tmp_path / "cut")
    assert again == lines
    for name, value in trainable(reference).items():
        assert torch.equal(trainable(resumed)[name], value), name


def test_metrics_go_to_a_tracker(tiny_model: Path, tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _, lines = trained(tiny_model, tmp_path, epochs=1, trackers=("tensorboard",))
    found = reader.EventAccumulator(str(tmp_path / "trackers" / "camelid"))  # the plan stands in a folder below
    found.Reload()
    assert [event.value for event in found.Scalars("loss")] == pytest.approx([line["loss"] for line in lines], rel=1e-5)


def test_a_tracker_that_is_not_installed_is_told(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("camelid.training.find_spec", lambda name: None)
    with pytest.raises(UserError, match="wandb, which is not installed"):
        trained(tiny_model, tmp_path, trackers=("wandb",))


def test_weights_move_at_a_small_rate(tiny_model: Path, tmp_path: Path) -> None:
    """A bfloat16 weight near 1 would not move by AdamW steps of 1e-5; ours are float32."""
    start = trainable(models.label_model(bases.open_base(str(tiny_model)), SETTINGS, Plan(**CPU_PLAN), Reading(16)))
    start = {name: value.clone() for name, value in start.items()}
    model, _ = trained(tiny_model, tmp_path, learning_rate=1e-5, precision="bfloat16", epochs=1)
    moved = trainable(model)
    assert moved["head.weight"].dtype == torch.float32
    assert not torch.equal(moved["head.weight"], start["head.weight"])
    assert any(not torch.equal(moved[name], start[name]) for name in start if "lora_B" in name)


def test_full_training_moves_every_layer(tiny_model: Path, tmp_path: Path) -> None:
    plan = Plan(**{**CPU_PLAN, "tuning": "full"})
    start = models.label_model(bases.open_base(str(tiny_model)), SETTINGS, plan, Reading(16))
    model, _ = trained(tiny_model, tmp_path, tuning="full", learning_rate=1e-3, epochs=1)
    still = [n for n, p in model.named_parameters() if p.ndim > 1 and torch.equal(p, start.get_parameter(n))]
    assert still == []
    models.save(model, tmp_path)
    reloaded, _ = models.load_handle(tmp_path)
    batch = collate_rows(ragged_rows(3), 0)
    assert torch.equal(reloaded(batch), model.eval()(batch))


def test_adapt_from_layer_leaves_the_lower_layers_alone(tiny_model: Path) -> None:
    base = bases.open_base(str(tiny_model))
    for value, first in ((1, 1), ("half", 1), ("two-thirds", 2)):  # of 3 layers
        plan = Plan(**{**CPU_PLAN, "adapt_from_layer": value})
        names = trainable(models.label_model(base, SETTINGS, plan, Reading(16)))
        adapted = {int(name.split(".")[2]) for name in names if "lora" in name}
        assert adapted == set(range(first, base.config.num_hidden_layers))
    with pytest.raises(UserError, match="leaves no layer to adapt"):
        models.label_model(base, SETTINGS, Plan(**{**CPU_PLAN, "adapt_from_layer": 99}), Reading(16))


def test_a_loss_that_is_not_finite_stops(tiny_model: Path, tmp_path: Path) -> None:
    plan = Plan(**CPU_PLAN)
    model = models.label_model(bases.open_base(str(tiny_model)), SETTINGS, plan, Reading(16))

    def broken(model: nn.Module, batch: object) -> object:
        terms, metrics = cross_entropy(model, batch)  # type: ignore[arg-type]
        return {"loss": terms["loss"] * math.nan}, metrics

    with pytest.raises(UserError, match="no longer finite at step 1"):
        train(model, over_epochs(ragged_rows(), plan, 0), broken, plan, folder=tmp_path)  # type: ignore[arg-type]


def test_dropout_and_all_resume_exactly(tiny_model: Path, tmp_path: Path) -> None:
    """Stopped in mid-epoch and exactly at an epoch's end: weights, optimiser path and metrics are the same bits."""
    options = {"epochs": 3, "lora_dropout": 0.3, "checkpoint_seconds": 0.0, "accumulate": 2}
    reference, lines = trained(tiny_model, tmp_path / "whole", **options)
    for stop in (2, 4, 7, 12):
        folder = tmp_path / f"stop{stop}"
        folder.mkdir()
        plan = Plan(**{**CPU_PLAN, **options})  # type: ignore[arg-type]
        batches = over_epochs(ragged_rows(), plan, 0)
        model = models.label_model(bases.open_base(str(tiny_model)), SETTINGS, plan, Reading(16))

        def interrupt(step: int, stop: int = stop) -> None:
            if step > stop:
                raise KeyboardInterrupt

        try:
            train(model, batches, cross_entropy, plan, folder=folder, after_step=interrupt)
        except KeyboardInterrupt:
            assert stop < batches.steps
        kept = sorted((folder / "checkpoints").glob("step-*"))
        assert len(kept) == 2
        if stop == 7:  # the logs are ahead of the checkpoint, as after a kill between two checkpoints
            shutil.rmtree(kept[-1])
        resumed, again = trained(tiny_model, folder, **options)
        assert again == lines
        for name, value in trainable(reference).items():
            assert torch.equal(trainable(resumed)[name], value), name


def test_extra_state_is_checkpointed(tiny_model: Path, tmp_path: Path) -> None:
    plan = Plan(**{**CPU_PLAN, "checkpoint_seconds": 0.0, "epochs": 1})
    counter = nn.Linear(1, 1)
    batches = over_epochs(ragged_rows(), plan, 0)

    def count(step: int) -> None:
        with torch.no_grad():
            counter.weight.fill_(step)

    for _ in range(2):  # the second call finds the finished checkpoint and must restore the counter from it
        model = models.label_model(bases.open_base(str(tiny_model)), SETTINGS, plan, Reading(16))
        train(model, batches, cross_entropy, plan, folder=tmp_path, after_step=count, state={"counter": counter})
        assert counter.weight.item() == batches.steps
        with torch.no_grad():
            counter.weight.fill_(-1)


def test_kill_9_at_random_moments_loses_nothing(tiny_model: Path, tweets_csv: Path, tmp_path: Path) -> None:
    """The command line, killed three times while it trains: weights, metrics, predictions and scores are the same."""
    values = ["--data", str(tweets_csv), "--model", str(tiny_model), "--epochs", "6", "--batch-rows", "4"]
    values += ["--checkpoint-seconds", "0", "--lora-dropout", "0.1", "--accumulate", "2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    camelid = [sys.executable, "-m", "camelid"]
    subprocess.run([*camelid, "run", "ls-llama", *values, "--out", str(whole)], check=True, capture_output=True)
    steps = len((whole / "model" / "metrics.jsonl").read_text().splitlines())
    kills = sorted(random.Random(11).sample(range(2, steps - 1), 3))
    command = [*camelid, "run", "ls-llama", *values, "--out", str(killed)]
    for kill_at in kills:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        log = killed / "model" / "metrics.jsonl"
        while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < kill_at):
            time.sleep(0.005)
        assert process.poll() is None, "it must still be training when it is killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        command = [*camelid, "resume", str(killed)]
    subprocess.run(command, check=True, capture_output=True)
    same = ["model/adapter_model.safetensors", "model/head.safetensors", "model/metrics.jsonl", "scores.json"]
    for name in [*same, "predictions/label-supervision.jsonl"]:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (killed / "model" / "checkpoints").exists()


def test_buckets_hold_every_row_once_and_pad_little() -> None:
    draw = random.Random(2)
    lengths = tuple(draw.randint(1, 60) for _ in range(1000))
    order = bucketed_order(lengths, 16, "0 epoch 0")
    assert sorted(row for batch in order for row in batch) == list(range(1000))
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in order)
    assert sum(lengths) / padded > 0.9
    assert order != bucketed_order(lengths, 16, "0 epoch 1")
    assert order == bucketed_order.__wrapped__(lengths, 16, "0 epoch 0")


def test_a_step_may_have_rows_of_any_length_and_micro_batches_of_similar_length() -> None:
    """Of short and long rows bucketed steps hold one kind each."""
    lengths = (10,) * 160 + (50,) * 160
    collate: Any = list
    batches = EpochBatches(lengths, collate, epochs=2, batch_rows=16, accumulate=4, seed=0)

    def lengths_in(batches: Any) -> list[list[set[int]]]:
        """The lengths in each micro-batch of each step of the first epoch."""
        steps = [batches(step) for step in range(batches.steps_per_epoch)]
        assert sorted(row for step in steps for micro in step for row in micro) == list(range(320))
        return [[{lengths[row] for row in micro} for micro in step] for step in steps]

    def count_kinds(steps: list[list[set[int]]]) -> list[int]:
        return [len({length for micro in step for length in micro}) for step in steps]

    assert count_kinds(lengths_in(batches)).count(1) >= 18
    mixed = lengths_in(mix_lengths(batches))
    assert count_kinds(mixed) == [2] * 20
    # the border between short and long may be in one micro-batch of four
    assert all(sum(len(micro) > 1 for micro in step) <= 1 for step in mixed)


def test_epochs_are_arithmetic() -> None:
    collate: Any = list
    batches: Any = EpochBatches((3,) * 10, collate, epochs=3, batch_rows=4, accumulate=2, seed=0)
    assert (batches.steps_per_epoch, batches.steps) == (3, 9)
    for epoch in range(3):
        steps = [batches(epoch * 3 + step) for step in range(3)]
        assert sorted(row for step in steps for micro in step for row in micro) == list(range(10))
        assert sorted([len(micro) for micro in step] for step in steps) == [[1, 1], [2, 2], [2, 2]]
    assert batches(4) == batches(4)


def test_sorted_batches_keep_within_the_token_budget() -> None:
    lengths = [5, 100, 7, 30, 30, 2]
    batches = sorted_batches(lengths, 64)
    assert batches == [[1], [3, 4], [2, 0, 5]]
