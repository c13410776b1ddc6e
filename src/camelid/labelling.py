"""Training on rows that say what is right: label models, and answers that a language model learns to give.

Batches, frozen layers, class weights, temperature.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camelid import data, models, objectives
from camelid.bases import Base
from camelid.batches import Batch, EpochBatches, Tokens, collate_rows, sorted_batches
from camelid.evaluation import curve_scores
from camelid.heads import LabelModel, TokenModel
from camelid.prediction import BATCH_TOKENS, logits_by_row, predict_tokens
from camelid.processes import count_processes, is_leader
from camelid.progress import track
from camelid.reading import Reading, pad_id, reading_of, tell_answer, tokenise
from camelid.recipe import Plan
from camelid.rows import Prompt
from camelid.runs import Run
from camelid.surgery.attention_mask import build_mask
from camelid.surgery.depth import is_splittable, run_layers
from camelid.training import train

STATES_BYTES = 4 << 30  # frozen states are kept in memory up to this size
LEAST_ROWS = 20  # a temperature from fewer rows is an accident
MOST_TEMPERATURE = 8.0  # temperatures are sought between 1/8 and 8


def keep_splits(run: Run, read: Callable[[], data.Splits]) -> data.Splits:
    """Train, dev and test rows as stages of the run, with a note of what was left out; `read` is called where one is
    missing."""
    splits = cache(read)
    rows = data.Splits(
        run.rows("train", lambda: splits().train),
        run.rows("dev", lambda: splits().dev),
        run.rows("test", lambda: splits().test),
    )
    run.note("data", lambda: {"dropped": splits().dropped, "warnings": splits().warnings})
    return rows


def over_epochs(rows: Sequence[Tokens], plan: Plan, pad_id: int, frozen: FrozenStates | None = None) -> EpochBatches:
    """Training batches of tokenised rows for `train`, with the `frozen` states of the rows where they are given."""

    def collate(indices: Sequence[int]) -> Batch:
        batch = collate_rows([rows[index] for index in indices], pad_id)
        return frozen.attach(batch, indices) if frozen else batch

    return EpochBatches(
        lengths=tuple(row.size for row in rows),
        collate=collate,
        epochs=plan.epochs,
        batch_rows=plan.batch_rows,
        accumulate=plan.accumulate * count_processes(),
        seed=plan.seed,
    )


def over_unvaried(model: Any, rows: Sequence[Tokens], plan: Plan, pad_id: int) -> EpochBatches:
    """`over_epochs` of rows that are the same in every pass: what `freeze_states` can save of them is saved."""
    return over_epochs(rows, plan, pad_id, freeze_states(model, rows, plan, pad_id))


@dataclass(frozen=True)
class FrozenStates:
    """What enters layer `first_layer` for each window of each row, (tokens, D): none below is trained."""

    first_layer: int
    states: list[list[Tensor]]

    def attach(self, batch: Batch, indices: Sequence[int]) -> Batch:
        """The batch with its rows' states, zero on padding."""
        windows = [state_TD for index in indices for state_TD in self.states[index]]
        states_BTD = torch.nn.utils.rnn.pad_sequence(windows, batch_first=True)
        return replace(batch, states_BTD=states_BTD, first_layer=self.first_layer)


def freeze_states(model: Any, rows: Sequence[Tokens], plan: Plan, pad: int) -> FrozenStates | None:
    """The rows' states below the lowest trained layer; None where that saves nothing or cannot be done.

    It is done when some layers are frozen and read in one way, the trunk can be split there without changing a result,
    padding is not read, and the states fit into `STATES_BYTES`.
    """
    trunk = model.trunk
    first = models.first_adapted_layer(plan, trunk.config)
    size = sum(row.size for row in rows) * trunk.config.hidden_size * trunk.dtype.itemsize
    padded = any(row.width for row in rows)
    if not first or model.sight.unmasked or padded or size > STATES_BYTES or not is_splittable(trunk, first):
        return None
    states: list[Any] = [None] * len(rows)
    trunk.eval()
    with torch.no_grad(), track("frozen layers", len(rows)) as advance:
        for indices in sorted_batches([row.size for row in rows], BATCH_TOKENS):
            batch = collate_rows([rows[index] for index in indices], pad).to(trunk.device)
            mask = build_mask(batch.mask_BT, model.sight.attention)
            windows = iter(run_layers(trunk, 0, first, batch.ids_BT, None, mask))
            for index in indices:
                states[index] = [next(windows)[: len(ids)].cpu().clone() for ids in rows[index].windows]
            advance(len(indices))
    return FrozenStates(first, states)


def fit(
    model: LabelModel | TokenModel,
    tokenizer: Any,
    train_rows: Sequence[Any],
    dev_rows: Sequence[Any],
    plan: Plan,
    folder: Path,
    *,
    balanced: bool = False,
) -> None:
    """Train a model of `models.label_model` on labelled rows, with a dev score at each epoch's end, in `folder`.

    Texts are read as the model was made to. `balanced` weighs classes by how rare they are.
    """
    pad, reading = pad_id(tokenizer), reading_of(model)
    if isinstance(model, LabelModel) and model.task == "regression":
        numbers = [row.label for row in train_rows]
        std = statistics.pstdev(numbers) or 1.0  # a draw may be all equal
        model.rescaling = replace(model.rescaling, mean=statistics.fmean(numbers), std=std)
    tokens = tokenise(tokenizer, train_rows, model, reading)
    dev_tokens = tokenise(tokenizer, dev_rows, model, reading)
    weights = balanced_weights(train_rows, model) if balanced else None

    def dev_scores(model: Any) -> dict[str, float]:
        found = predict_tokens(model, dev_rows, dev_tokens, pad, "dev rows")
        return curve_scores(found, model.classes, model.task)

    train(
        model,
        over_unvaried(model, tokens, plan, pad),
        objectives.by_task(model.task, weights),
        plan,
        folder=folder,
        evaluate=dev_scores if dev_rows else None,
    )


def supervise(
    run: Run,
    stage: str,
    base: Callable[[], Base],
    classes: Sequence[str],
    train_rows: Sequence[Any],
    dev_rows: Sequence[Any],
    plan: Plan,
    max_tokens: int,
    *,
    balanced: bool = False,
) -> Path:
    """The folder of the base with a label head on each text's last token, trained on rows of one class as by `fit`."""
    settings = {"kind": "label", "classes": list(classes), "pooling": "last", "task": "labels"}
    return run.model(
        stage,
        build=lambda: models.label_model(base(), settings, plan, Reading(max_tokens)),
        fit=lambda model, folder: fit(model, base().tokenizer, train_rows, dev_rows, plan, folder, balanced=balanced),
    )


def fit_answers(
    model: Any,
    tokenizer: Any,
    told: Sequence[tuple[Prompt, str]],
    plan: Plan,
    folder: Path,
    kept: Collection[int] = (),
) -> None:
    """Fine-tune a language model on answers to prompts and the ends of their turns, by next-token cross-entropy.

    The model as it is after each of the `kept` steps is saved in `folder`/step-N.
    """

    def save(step: int) -> None:
        if step in kept and is_leader():
            (folder / f"step-{step}").mkdir(exist_ok=True)
            models.save(model, folder / f"step-{step}")

    tokens = [tell_answer(tokenizer, *pair, ended=True) for pair in told]
    batches = over_epochs(tokens, plan, pad_id(tokenizer))
    train(model, batches, objectives.cross_entropy, plan, folder=folder, after_step=save)


def calibrate(model: LabelModel | TokenModel, tokenizer: Any, rows: Sequence[Any]) -> None:
    """Set the model's temperature on labelled rows it was not trained on; classes of texts only, tags have none.

    Without rows, and for numbers, nothing is changed.
    """
    if isinstance(model, TokenModel) or model.task == "regression" or not rows:
        return
    pad, tokens = pad_id(tokenizer), tokenise(tokenizer, rows, model, reading_of(model))
    logits_BC = torch.stack(logits_by_row(model, tokens, pad, "calibrating"))
    temperature = fit_temperature(logits_BC, collate_rows(tokens, pad).labels_N)
    model.rescaling = replace(model.rescaling, temperature=temperature)


def balanced_weights(rows: Sequence[Any], model: Any) -> Tensor:
    """weights_C that give every class the same say: rows / (classes * rows of the class), as scikit-learn's "balanced".

    For multi-label rows the weight of a class's positive rows: negative rows / positive rows. For tags, over words.
    """
    counts = Counter(name for row in rows for name in data.labels_in(row))
    counts_C = torch.tensor([float(counts[name]) for name in model.classes])
    if model.task == "multi-label":  # a class that all rows have, or none, has nothing to be balanced
        mixed_C = (counts_C > 0) & (counts_C < len(rows))
        return torch.where(mixed_C, (len(rows) - counts_C) / counts_C.clamp(min=1), 1.0)
    return counts_C.sum() / (len(model.classes) * counts_C)


def fit_temperature(logits_BC: Tensor, labels_N: Tensor) -> float:
    """The temperature whose probabilities make the labels most likely (Guo 2017, arXiv 1706.04599, section 4.2).

    One number that divides all logits, so the predicted class stays. Multi-hot labels are read with sigmoids. 1 from
    fewer than `LEAST_ROWS` rows, and where every answer is right: the surer, the likelier they would be.
    """
    if len(labels_N) < LEAST_ROWS or _all_right(logits_BC, labels_N):
        return 1.0
    from scipy.optimize import minimize_scalar

    functional = torch.nn.functional
    is_multi_hot = labels_N.is_floating_point()
    loss: Any = functional.binary_cross_entropy_with_logits if is_multi_hot else functional.cross_entropy
    labels_N = labels_N.double() if is_multi_hot else labels_N
    bound = math.log(MOST_TEMPERATURE)
    best: Any = minimize_scalar(
        lambda log_t: loss(logits_BC.double() / math.exp(log_t), labels_N).item(),
        bounds=(-bound, bound),
        method="bounded",
    )
    return math.exp(best.x)


def _all_right(logits_BC: Tensor, labels_N: Tensor) -> bool:
    if labels_N.is_floating_point():
        return bool(((logits_BC > 0) == labels_N.bool()).all())
    return bool((logits_BC.argmax(dim=-1) == labels_N).all())
