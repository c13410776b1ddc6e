"""Rows to predictions by a trained label or token model."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camelid import data, models, runs
from camelid.batches import Tokens, collate_rows, sorted_batches
from camelid.data import formats
from camelid.errors import UserError
from camelid.heads import LabelModel, TokenModel
from camelid.metrics import entities
from camelid.progress import track
from camelid.reading import Reading, pad_id, reading_of, tokenise
from camelid.rows import Explained, Labelled, Member, Predicted, Tagged
from camelid.runs import read_manifest

BATCH_TOKENS = 1024  # tokens of a prediction batch, padding included: larger ones are not faster on a CPU
THRESHOLD = 0.5  # a class of a multi-label row is predicted from this probability on
Label = Callable[[Path, Sequence[Any], str | None], Sequence[Predicted | dict[str, Any]]]
WORD = re.compile(r"\w+|[^\w\s]")


def predict(
    model: LabelModel | TokenModel,
    tokenizer: Any,
    rows: Sequence[Labelled | Tagged],
    reading: Reading,
    what: str = "predicting",
) -> list[Predicted]:
    """Label (labels, number, or one tag a word) and class probabilities for each row, in the order of the rows.

    Ties go to the lowest class. Words beyond the limit are predicted as "O", or the first class where there is none.
    """
    return predict_tokens(model, rows, tokenise(tokenizer, rows, model, reading), pad_id(tokenizer), what)


def predict_tokens(
    model: Any, rows: Sequence[Labelled | Tagged], tokens: Sequence[Tokens], pad: int, what: str
) -> list[Predicted]:
    """`predict` for rows that are tokenised already."""
    logits = logits_by_row(model, tokens, pad, what)
    combine = {"labels": _label, "multi-label": _labels, "regression": _number, "tags": _tags}[model.task]
    return [combine(row, values, model) for row, values in zip(rows, logits, strict=True)]


def logits_by_row(model: Any, rows: Sequence[Tokens], pad: int, what: str = "predicting") -> list[torch.Tensor]:
    """Logits on the CPU, one (C,) or (words, C) tensor a row, computed in batches of similar length."""
    result: list[Any] = [None] * len(rows)
    was_training = model.training
    model.eval()
    where = next(model.parameters()).device
    with torch.inference_mode(), track(what, len(rows)) as advance:
        for indices in sorted_batches([row.size for row in rows], BATCH_TOKENS):
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
    return predict(model, opened.tokenizer, rows, reading_of(model))


def predict_file(
    folder: Path,
    source: Path,
    out: Path,
    *,
    text: str | None = None,
    tokens: str | None = None,
    base: str | None = None,
    label: Label | None = None,
) -> int:
    """Label the rows of a file with the model of the run in `folder` and write them to `out`; returns how many.

    The input's columns are kept; `predicted` and `probability_<class>` are added, and for a model of BIO tags
    `entities`, each with its type, text and characters start..end. `text` (or `tokens`, a list of words for a model
    that tags words) names the column to read; the run's own column when absent. Entities of a text column count its
    characters, those of a words column the characters of the words joined by spaces. A model that writes reasons adds
    `predicted_reasoning`. `label(folder, rows, base)` labels texts by the run of a method that has a way of its own; it
    may give the columns themselves, where they are several.
    """
    manifest = read_manifest(folder)
    if manifest["finished"] and "model" not in manifest["stages"]:
        what = f"the run in {folder} left no model that labels rows"
        raise UserError(what, "Its method's page says what it made; its report shows it: camelid report.")
    if not (folder / "model" / "handle.json").is_file():
        raise UserError(
            f"{folder} holds no trained model yet: the run is not finished", f"camelid resume {folder} finishes it."
        )
    values = tomllib.loads((folder / "recipe.toml").read_text(encoding="utf-8")).get("data", {})
    settings = json.loads((folder / "model" / "handle.json").read_text(encoding="utf-8"))["settings"]
    if settings["kind"] == "language" and label is None:
        raise UserError(f"the model in {folder} writes text and has no labels", "Its method's page says how to use it.")
    tagging = settings["kind"] == "token"
    of_words = tagging and text is None
    column = (tokens or values.get("tokens") or "tokens") if of_words else (text or values.get("text") or "text")
    formats.check_writable(out)
    inputs, rows = data.read_inputs(source, column, of_words)
    texts = [" ".join(row.tokens) if of_words else row.text for row in rows]
    if tagging and not of_words:
        rows = [_tagged(row) for row in rows]
    labelled = label(folder, rows, base) if label else predict_with(folder / "model", rows, base)
    separator = values.get("separator", "|")
    added = [found if isinstance(found, dict) else _columns(found, separator) for found in labelled]
    if any(name.startswith("B-") for name in settings.get("classes", [])):
        for columns, line, row in zip(added, texts, rows, strict=True):
            columns["entities"] = find_entities(line, row.tokens, columns["predicted"])
    with runs.disk_errors(out.parent, "Make room, or name another --out."):
        formats.write_table(out, [values | columns for values, columns in zip(inputs, added, strict=True)])
    return len(rows)


def tell_shares(rows: Sequence[Member], shares_N: Any, classes: list[str]) -> list[Predicted]:
    """P(second class) of each row as its prediction: that class from one half on; gold where it is known."""
    return [
        Predicted(
            row.id,
            None if row.positive is None else classes[int(row.positive)],
            classes[int(share >= 0.5)],
            {classes[0]: 1 - share, classes[1]: share},
        )
        for row, share in zip(rows, shares_N.tolist(), strict=True)
    ]


def split_words(text: str) -> tuple[str, ...]:
    """Words and punctuation marks, each for itself."""
    return tuple(WORD.findall(text))


def find_entities(text: str, words: Sequence[str], tags: Sequence[str]) -> list[dict[str, Any]]:
    """Entities of tagged words in reading order: {type, text, start, end} with the characters of `text` they cover.

    `words` must stand in `text` in this order; what lies between them is not looked at.
    """
    spans, at = [], 0
    for word in words:
        start = text.index(word, at)
        at = start + len(word)
        spans.append((start, at))
    return [
        {"type": kind, "text": text[spans[first][0] : spans[last][1]], "start": spans[first][0], "end": spans[last][1]}
        for kind, first, last in sorted(entities(tags), key=lambda chunk: chunk[1])
    ]


def _tagged(row: Labelled) -> Tagged:
    words = split_words(row.text)
    return Tagged(row.id, row.origin, words, ("",) * len(words))


def _columns(found: Predicted, separator: str) -> dict[str, Any]:
    is_set = isinstance(found.predicted, tuple) and bool(found.probabilities)
    predicted = separator.join(found.predicted) if is_set else found.predicted  # type: ignore[arg-type]
    reasoning = {"predicted_reasoning": found.reasoning} if isinstance(found, Explained) else {}
    return {"predicted": predicted, **reasoning} | {
        f"probability_{name}": share for name, share in found.probabilities.items()
    }


def _label(row: Any, logits_C: Tensor, model: Any) -> Predicted:
    probabilities = (logits_C.double() / model.rescaling.temperature).softmax(dim=-1).tolist()
    best = int(logits_C.argmax())
    gold = row.label if row.label in model.classes else None
    return Predicted(row.id, gold, model.classes[best], dict(zip(model.classes, probabilities, strict=True)))


def _labels(row: Any, logits_C: Tensor, model: Any) -> Predicted:
    probabilities = (logits_C.double() / model.rescaling.temperature).sigmoid().tolist()
    found = tuple(name for name, share in zip(model.classes, probabilities, strict=True) if share >= THRESHOLD)
    gold = row.label if isinstance(row.label, tuple) else None
    return Predicted(row.id, gold, found, dict(zip(model.classes, probabilities, strict=True)))


def _number(row: Any, logits_1: Tensor, model: Any) -> Predicted:
    gold = row.label if isinstance(row.label, float) else None
    return Predicted(row.id, gold, logits_1.item() * model.rescaling.std + model.rescaling.mean, {})


def _tags(row: Any, logits_WC: Tensor, model: Any) -> Predicted:
    outside = "O" if "O" in model.classes else model.classes[0]
    tags = [model.classes[best] for best in logits_WC.argmax(dim=-1).tolist()]
    return Predicted(row.id, row.tags or None, (*tags, *[outside] * (len(row.tokens) - len(tags))), {})
