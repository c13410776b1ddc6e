"""Between rows and label models: tokenising, batches, prediction."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from camelid import data, models
from camelid.batches import Batch, EpochBatches, Tokens, collate_rows, sorted_batches
from camelid.data import formats
from camelid.errors import UserError
from camelid.heads import LabelModel, TokenModel
from camelid.progress import track
from camelid.recipe import Plan
from camelid.rows import Labelled, Predicted, Tagged
from camelid.surgery.attention_mask import build_mask
from camelid.surgery.depth import is_splittable, lower_states

STATES_BYTES = 4 << 30  # frozen states are kept in memory up to this size
BATCH_TOKENS = 1024  # tokens of a prediction batch, padding included: larger ones are not faster on a CPU


def tokenise(
    tokenizer: Any, rows: Sequence[Labelled | Tagged], classes: Sequence[str], max_tokens: int
) -> list[Tokens]:
    """Rows as token ids, with the tokenizer's own special tokens and no prompt.

    A text longer than `max_tokens` is cut at its end and marked `truncated`. A tagged row's words are joined by spaces;
    each word is represented by its first sub-token, and words beyond the limit are counted in `cut`.
    A label that is not among `classes` becomes -1 (rows to predict need no gold label).
    """
    index = {name: number for number, name in enumerate(classes)}
    texts = [row.text if isinstance(row, Labelled) else " ".join(row.tokens) for row in rows]
    encoded = tokenizer(texts, truncation=False, return_offsets_mapping=True, verbose=False)
    result = []
    for row, ids, spans in zip(rows, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        truncated = len(ids) > max_tokens
        if isinstance(row, Labelled):
            result.append(Tokens(row.id, ids[:max_tokens], [index.get(row.label, -1)], truncated=truncated))
        else:
            words = first_subtokens(row.tokens, spans[:max_tokens])
            labels = [index.get(tag, -1) for tag in row.tags[: len(words)]]
            cut = len(row.tokens) - len(words)
            result.append(Tokens(row.id, ids[:max_tokens], labels, words, cut=cut, truncated=truncated))
    return result


def first_subtokens(words: Sequence[str], spans: Sequence[tuple[int, int]]) -> list[int]:
    """Position of the first sub-token of each word of `" ".join(words)`, given each token's character span.

    The first sub-token is the first token that covers a character of the word; special tokens cover none. The list is
    shorter than `words` when the spans end before the last word does.
    """
    positions: list[int] = []
    start = token = 0
    for word in words:
        end = start + len(word)
        while token < len(spans) and spans[token][1] <= start:
            token += 1
        if token == len(spans):
            break
        positions.append(token)
        start = end + 1
    return positions


def over_epochs(rows: Sequence[Tokens], plan: Plan, pad_id: int, frozen: FrozenStates | None = None) -> EpochBatches:
    """Training batches of tokenised rows for `train`, with the `frozen` states of the rows where they are given."""

    def collate(indices: Sequence[int]) -> Batch:
        batch = collate_rows([rows[index] for index in indices], pad_id)
        return frozen.attach(batch, indices) if frozen else batch

    return EpochBatches(
        lengths=tuple(len(row.ids) for row in rows),
        collate=collate,
        epochs=plan.epochs,
        batch_rows=plan.batch_rows,
        accumulate=plan.accumulate,
        seed=plan.seed,
    )


@dataclass(frozen=True)
class FrozenStates:
    """What enters layer `first_layer` for each row, (tokens, D), computed once: no layer below it is trained."""

    first_layer: int
    states: list[torch.Tensor]

    def attach(self, batch: Batch, indices: Sequence[int]) -> Batch:
        """The batch with its rows' states, zero on padding."""
        states_BTD = torch.nn.utils.rnn.pad_sequence([self.states[index] for index in indices], batch_first=True)
        return replace(batch, states_BTD=states_BTD, first_layer=self.first_layer)


def freeze_states(model: Any, rows: Sequence[Tokens], plan: Plan, pad: int) -> FrozenStates | None:
    """The rows' states below the lowest trained layer; None where that saves nothing or cannot be done.

    It is done when some layers are frozen, the trunk can be split there without changing a result, and the states fit
    into `STATES_BYTES`.
    """
    trunk = model.trunk
    first = models.first_adapted_layer(plan, trunk.config)
    size = sum(len(row.ids) for row in rows) * trunk.config.hidden_size * trunk.dtype.itemsize
    if not first or size > STATES_BYTES or not is_splittable(trunk, first):
        return None
    states: list[Any] = [None] * len(rows)
    trunk.eval()
    with track("frozen layers", len(rows)) as advance:
        for indices in sorted_batches([len(row.ids) for row in rows], BATCH_TOKENS):
            batch = collate_rows([rows[index] for index in indices], pad).to(trunk.device)
            mask = build_mask(batch.mask_BT, model.attention)
            for index, state_TD in zip(indices, lower_states(trunk, first, batch.ids_BT, mask), strict=True):
                states[index] = state_TD[: len(rows[index].ids)].cpu().clone()
            advance(len(indices))
    return FrozenStates(first, states)


def predict(
    model: LabelModel | TokenModel,
    tokenizer: Any,
    rows: Sequence[Labelled | Tagged],
    max_tokens: int,
    what: str = "predicting",
) -> list[Predicted]:
    """Label (or one tag a word) and class probabilities for each row, in the order of the rows.

    Ties go to the lowest class. Words beyond `max_tokens` are predicted as "O", or the first class where there is none.
    """
    tokens = tokenise(tokenizer, rows, model.classes, max_tokens)
    return predict_tokens(model, rows, tokens, pad_id(tokenizer), what)


def predict_tokens(
    model: Any, rows: Sequence[Labelled | Tagged], tokens: Sequence[Tokens], pad: int, what: str
) -> list[Predicted]:
    """`predict` for rows that are tokenised already."""
    logits = logits_by_row(model, tokens, pad, what)
    combine: Any = _tags if isinstance(model, TokenModel) else _label
    return [combine(row, values, model.classes) for row, values in zip(rows, logits, strict=True)]


def logits_by_row(model: Any, rows: Sequence[Tokens], pad: int, what: str = "predicting") -> list[torch.Tensor]:
    """Logits on the CPU, one (C,) or (words, C) tensor a row, computed in batches of similar length."""
    result: list[Any] = [None] * len(rows)
    was_training = model.training
    model.eval()
    where = next(model.parameters()).device
    with torch.inference_mode(), track(what, len(rows)) as advance:
        for indices in sorted_batches([len(row.ids) for row in rows], BATCH_TOKENS):
            batch = collate_rows([rows[index] for index in indices], pad)
            logits = model(batch.to(where)).float().cpu()
            counts = [1 if rows[index].words is None else len(rows[index].labels) for index in indices]
            for index, part in zip(indices, logits.split(counts), strict=True):
                result[index] = part if rows[index].words is not None else part[0]
            advance(len(indices))
    model.train(was_training)
    return result


def predict_with(folder: Path, rows: Sequence[Labelled | Tagged], base: str | None = None) -> list[Predicted]:
    """`predict` by the trained model in `folder`; `base` names its base model where that was moved."""
    model, opened = models.load_handle(folder, base)
    if model.trunk.dtype == torch.float32:  # in bfloat16 the sum of weight and adapter would be rounded away
        model = models.merge(model)
    return predict(model, opened.tokenizer, rows, model.origin["max_tokens"])


def predict_file(
    folder: Path,
    source: Path,
    out: Path,
    *,
    text: str | None = None,
    tokens: str | None = None,
    base: str | None = None,
) -> int:
    """Label the rows of a file with the model of the run in `folder` and write them to `out`; returns how many.

    The input's columns are kept; `predicted` and `probability_<class>` are added. `text` (or `tokens`, for a model
    that tags words) names the column to read; the run's own column when absent.
    """
    if not (folder / "model" / "handle.json").is_file():
        raise UserError(
            f"{folder} holds no trained model yet: the run is not finished", f"camelid resume {folder} finishes it."
        )
    values = tomllib.loads((folder / "recipe.toml").read_text(encoding="utf-8")).get("data", {})
    tagging = json.loads((folder / "model" / "handle.json").read_text())["settings"]["kind"] == "token"
    column = (tokens or values.get("tokens") or "tokens") if tagging else (text or values.get("text") or "text")
    formats.check_writable(out)
    inputs, rows = data.read_inputs(source, column, tagging)
    predictions = predict_with(folder / "model", rows, base)
    formats.write_table(
        out,
        [
            values
            | {"predicted": found.predicted}
            | {f"probability_{name}": share for name, share in found.probabilities.items()}
            for values, found in zip(inputs, predictions, strict=True)
        ],
    )
    return len(rows)


def cut_texts(tokenizer: Any, rows: Sequence[Labelled], max_tokens: int) -> list[str]:
    """The rows' texts, each cut at its end to at most `max_tokens` tokens."""
    if not rows:
        return []
    encoded = tokenizer(
        [row.text for row in rows], add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    return [
        row.text if len(spans) <= max_tokens else row.text[: spans[max_tokens - 1][1]]
        for row, spans in zip(rows, encoded["offset_mapping"], strict=True)
    ]


def pad_id(tokenizer: Any) -> int:
    """The id padding is written with; any id serves, because padding is told by the mask and never by its id."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return candidate
    return 0


def _label(row: Any, logits_C: torch.Tensor, classes: Sequence[str]) -> Predicted:
    probabilities = logits_C.double().softmax(dim=-1).tolist()
    best = int(logits_C.argmax())
    gold = row.label if row.label in classes else None
    return Predicted(row.id, gold, classes[best], dict(zip(classes, probabilities, strict=True)))


def _tags(row: Any, logits_WC: torch.Tensor, classes: list[str]) -> Predicted:
    outside = "O" if "O" in classes else classes[0]
    tags = [classes[best] for best in logits_WC.argmax(dim=-1).tolist()]
    return Predicted(row.id, row.tags or None, (*tags, *[outside] * (len(row.tokens) - len(tags))), {})
