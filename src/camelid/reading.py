"""From texts to tokens: windows, the first sub-token of each word, labels as a model wants them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from camelid.batches import Tokens
from camelid.chat import encode_answer, encode_prompt
from camelid.errors import UserError
from camelid.rows import Labelled, Prompt, Tagged

HEADROOM = 10  # tokens kept free where a document is cut: pieces of a text may have more tokens than the whole
ELLIPSIS = "\n[...]\n"
PADDED_ROWS = 1000  # the paper's code pads to the longest of so many rows


@dataclass(frozen=True)
class Reading:
    """How texts become tokens: at most `max_tokens` of them, or windows of so many that start every `stride` tokens.

    `reads_padding` pads every row to the longest of its thousand, as the paper's code does.
    """

    max_tokens: int
    stride: int | None = None
    reads_padding: bool = False


def complain_of_reading(reading: Reading) -> list[tuple[str, str]]:
    """What is wrong with limits of tokens, as (what, fix)."""
    if reading.max_tokens < 2:
        return [(f"max_tokens = {reading.max_tokens} reads next to nothing", "Choose 2 at least.")]
    if reading.stride is None:
        return []
    most = max(1, reading.max_tokens // 2)
    if reading.stride < 1:
        return [(f"stride = {reading.stride} never ends", f"Choose 1 to {most}.")]
    if reading.stride > most:
        fix = f"Choose at most {most}: windows should overlap by half or more."
        return [(f"stride = {reading.stride} leaves little or no overlap of windows of {reading.max_tokens}", fix)]
    return []


def reading_of(model: Any) -> Reading:
    """How the texts of a model of `models.label_model` become tokens; saved with the model."""
    return Reading(**model.origin["reading"])


def tokenise(tokenizer: Any, rows: Sequence[Labelled | Tagged], model: Any, reading: Reading) -> list[Tokens]:
    """Rows as token ids, with the tokenizer's own special tokens and no prompt, and their labels as `model` wants them.

    Without a stride a text longer than the limit is cut at its end and marked `truncated`. A tagged row's words are
    joined by spaces; each word is represented by its first sub-token, and words beyond the limit are counted in
    `cut`. A label that is not among the model's classes becomes -1 (rows to predict need no gold label).
    """
    if not rows:
        return []
    index = {name: number for number, name in enumerate(model.classes)}
    encoded = tokenizer(_texts(rows), truncation=False, return_offsets_mapping=True, verbose=False)
    result = []
    for row, ids, spans in zip(rows, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        if not ids:
            raise UserError(f"{row.origin} has no text that the model could read", "Fill it in, or leave the row out.")
        windows, places = cut_windows(ids, spans, reading)
        shared: dict[str, Any] = {
            "further": tuple(windows[1:]),
            "truncated": reading.stride is None and len(ids) > len(windows[0]),
        }
        if isinstance(row, Labelled):
            result.append(Tokens(row.id, windows[0], _targets(row.label, model, index), **shared))
        else:
            words = [places[token] for token in first_subtokens(row.tokens, spans) if token in places]
            labels = [index.get(tag, -1) for tag in row.tags[: len(words)]]
            result.append(Tokens(row.id, windows[0], labels, words, cut=len(row.tokens) - len(words), **shared))
    return _padded(result) if reading.reads_padding else result


def cut_windows(
    ids: list[int], spans: Sequence[tuple[int, int]], reading: Reading
) -> tuple[list[list[int]], dict[int, int]]:
    """(windows of a text, {token: its position in the windows laid end to end}); tokens beyond a cut have no position.

    A later window starts with the special tokens that stand at the front of the text. A token that two windows hold
    counts where it is farther from the window's edge, so that it is read with most context.
    """
    limit, stride = reading.max_tokens, reading.stride
    if len(ids) <= limit or stride is None:
        return [ids[:limit]], {token: token for token in range(min(len(ids), limit))}
    front = next((number for number, (start, end) in enumerate(spans) if end > start), 0)
    windows, places, margins, base = [], {}, {}, 0
    start = front
    while True:
        end = min(start + limit - front, len(ids))
        windows.append([*ids[:front], *ids[start:end]])
        for token in range(start, end):
            margin = min(token - start, end - 1 - token)
            if margin > margins.get(token, -1):
                places[token], margins[token] = base + front + token - start, margin
        base += len(windows[-1])
        if end == len(ids):
            return windows, places
        start += stride


def _targets(label: Any, model: Any, index: dict[str, int]) -> list[int] | list[float]:
    if model.task == "regression":
        unit = model.rescaling
        return [(label - unit.mean) / unit.std if isinstance(label, float) else math.nan]
    if model.task == "multi-label":
        return [float(name in label) for name in index]
    return [index.get(label, -1)]


def _padded(rows: list[Tokens]) -> list[Tokens]:
    """Each row padded to the longest of its block of rows, in the order of the data."""
    blocks = [rows[start : start + PADDED_ROWS] for start in range(0, len(rows), PADDED_ROWS)]
    return [replace(row, width=max(len(row.ids) for row in block)) for block in blocks for row in block]


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


def tokenise_texts(tokenizer: Any, rows: Sequence[Labelled | Tagged], max_tokens: int) -> list[list[int]]:
    """The token ids of the rows' texts, without labels, cut at `max_tokens`."""
    encoded = tokenizer(_texts(rows), truncation=False, verbose=False)
    return [ids[:max_tokens] for ids in encoded["input_ids"]]


def tell_answer(tokenizer: Any, prompt: Prompt, answer: str, *, ended: bool, prompt_too: bool = False) -> Tokens:
    """A prompt and an answer whose tokens are to be told, each at the one before, tokenised as in scoring.

    `ended` also tells the end of the turn, `prompt_too` the prompt's tokens from the second on.
    """
    before = encode_prompt(tokenizer, prompt)
    ids = [*before, *encode_answer(tokenizer, prompt, answer, ended=ended)]
    first = 1 if prompt_too else len(before)
    return Tokens("", ids[:-1], ids[first:], list(range(first - 1, len(ids) - 1)))


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


def cut_text(tokenizer: Any, text: str, max_tokens: int, keep: Literal["start", "end"] = "start") -> str:
    """The first tokens of a text, or the last, at most `max_tokens` of them."""
    spans = _spans(tokenizer, text)
    if len(spans) <= max_tokens:
        return text
    return text[: spans[max_tokens - 1][1]] if keep == "start" else text[spans[-max_tokens][0] :]


def fit_document(
    tokenizer: Any,
    before: str,
    document: str,
    after: str,
    most: int,
    count: Callable[[str], int],
    keep: Literal["head", "ends"] = "head",
) -> tuple[str, bool]:
    """(`before`, document and `after` as one text of at most `most` tokens, whether something was cut).

    `count(text)` says how many tokens the prompt of a text has. Only the document is cut: to its head, or to both ends
    with a line [...] between them. Where nothing of it fits, the last tokens of `before` and `after` are left.
    """
    whole = before + document + after
    if count(whole) <= most:
        return whole, False
    frame = before + after
    spans = _spans(tokenizer, document)
    room = most - count(frame) - HEADROOM
    while room > 0:
        text = before + _cut_document(document, spans, room, keep) + after
        if (over := count(text) - most) <= 0:
            return text, True
        room -= over
    kept = most - HEADROOM
    while count(frame) > most and kept > 0:  # a chat template has tokens of its own
        starts = _spans(tokenizer, frame)
        frame = frame[starts[-kept][0] :] if kept < len(starts) else frame
        kept -= max(1, count(frame) - most)
    return frame, True


def _spans(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]


def _cut_document(document: str, spans: Sequence[tuple[int, int]], room: int, keep: str) -> str:
    """The first `room` tokens, or room // 2 - 2 of them and the last room // 2 + 2."""
    first, last = (room, 0) if keep == "head" else (max(0, room // 2 - 2), room // 2 + 2)
    head = document[: spans[first - 1][1]] if first else ""
    return head + (ELLIPSIS + document[spans[-last][0] :] if last else "")


def split_text(tokenizer: Any, text: str, max_tokens: int) -> list[str]:
    """A text in pieces of at most `max_tokens` tokens, in order; one piece where it is no longer."""
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    starts = [spans[at][0] for at in range(0, len(spans), max_tokens)] or [0]
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def pad_id(tokenizer: Any) -> int:
    """The id padding is written with; any id serves, because padding is told by the mask and never by its id."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return candidate
    return 0


def _texts(rows: Sequence[Labelled | Tagged]) -> list[str]:
    return [row.text if isinstance(row, Labelled) else " ".join(row.tokens) for row in rows]
