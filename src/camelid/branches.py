"""Prompts with several answers each, tokenised and laid into batches in which a prompt is computed once.

Two answers of one preference, or the samples of one question, begin with the same tokens. They are laid behind their
prompt, one after the other, in branches that do not see each other (`surgery.attention_mask.branch_mask`): every
token's states are those it has alone. On pairs that saves up to half of the work, in training too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from camelid import chat
from camelid.batches import Batch
from camelid.rows import Preference, Prompt

_NONE = torch.empty(0)
LEAST_PROMPT = 8  # tokens of a prompt that must be left where it is cut


@dataclass(frozen=True)
class Answered:
    """Token ids of a prompt and of the answers behind it, each with its end of turn.

    `values` are numbers of each answer that a loss needs: its ratings (NaN where there is none), or its log-probability
    under a reference. `strength` is that of a preference, whose chosen answer stands first. `cut` counts tokens taken
    away at the prompt's beginning.
    """

    id: str
    prompt: list[int]
    answers: tuple[list[int], ...]
    strength: float = 1.0
    cut: int = 0
    values: tuple[tuple[float, ...], ...] = ()

    @property
    def size(self) -> int:
        """Tokens when the prompt is computed once."""
        return len(self.prompt) + sum(map(len, self.answers))


@dataclass(frozen=True)
class AnswerBatch(Batch):
    """Rows of prompts with their answers; S counts answers, those of a prompt next to each other in order.

    In a batch of text `labels_N` are the answers' tokens, `row_N, token_N` the positions that predict them and
    `answer_N` the answer each is of. In a batch of ends (for rewards) N counts answers and `row_N, token_N` are their
    last tokens. `size_S` are the tokens of each answer, `strength_P` the strengths of the P prompts' preferences, and
    `values_SK` the numbers of each answer (S lines, or none).
    """

    answer_N: Tensor = _NONE
    size_S: Tensor = _NONE
    strength_P: Tensor = _NONE
    values_SK: Tensor = _NONE


def encode_preference(tokenizer: Any, row: Preference, max_tokens: int | None = None) -> Answered | None:
    """The row's prompt, chosen and rejected answer in the model's chat template; None if it does not fit."""
    return encode_answers(tokenizer, row.id, row.prompt, (row.chosen, row.rejected), max_tokens, row.strength)


def encode_answers(
    tokenizer: Any, row_id: str, prompt: Prompt, texts: Sequence[str], max_tokens: int | None, strength: float = 1.0
) -> Answered | None:
    """A prompt and its answers in the model's chat template, each answer with its end of turn.

    Where the prompt and the longest answer have more than `max_tokens`, the prompt loses its beginning; an answer is
    never cut. None where that would leave fewer than LEAST_PROMPT tokens of it.
    """
    before = chat.encode_prompt(tokenizer, prompt)
    answers = tuple(chat.encode_answer(tokenizer, prompt, text, ended=True) for text in texts)
    room = len(before) if max_tokens is None else max_tokens - max(map(len, answers))
    if room < min(LEAST_PROMPT, len(before)):
        return None
    kept = before[-room:] if room < len(before) else before
    return Answered(row_id, kept, answers, strength, len(before) - len(kept))


def share_front(row_id: str, lines: Sequence[list[int]], strength: float = 1.0) -> Answered:
    """Whole texts as token ids, with what all of them share at the front as the prompt; no rest is empty.

    For texts that are no answers to one conversation, such as an answer before several guides, or answers before one.
    """
    most = min(map(len, lines)) - 1
    shared = next((place for place in range(most) if len({line[place] for line in lines}) > 1), most)
    return Answered(row_id, lines[0][:shared], tuple(line[shared:] for line in lines), strength)


def encode_all(
    tokenizer: Any, rows: Sequence[Preference], max_tokens: int | None
) -> tuple[list[Answered], dict[str, int]]:
    """The preferences that fit, tokenised, and how many were left out or cut, by reason.

    A pair whose answers have the same tokens teaches nothing and is left out.
    """
    found, counts = [], Counter[str]()
    for row in rows:
        encoded = encode_preference(tokenizer, row, max_tokens)
        if encoded is None:
            counts[f"pairs with an answer that does not fit into {max_tokens} tokens"] += 1
        elif encoded.answers[0] == encoded.answers[1]:
            counts["pairs whose answers are the same"] += 1
        else:
            counts["prompts cut at their beginning"] += encoded.cut > 0
            found.append(encoded)
    return found, dict(+counts)


def gather_answers(rows: Iterable[Answered]) -> list[Answered]:
    """Each distinct prompt once, with every distinct answer that the rows have to it."""
    found: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
    for row in rows:
        found.setdefault(tuple(row.prompt), {}).update(dict.fromkeys(map(tuple, row.answers)))
    return [
        Answered(str(number), list(prompt), tuple(map(list, answers)))
        for number, (prompt, answers) in enumerate(found.items())
    ]


def collate_answers(rows: Sequence[Answered], pad_id: int, *, shares_prompt: bool = True) -> AnswerBatch:
    """A batch of text: every token of every answer, and the position that predicts it.

    `counts` has "loss": the prompts; "answers": the answers; "chosen": tokens of the first answers; "tokens": of all.
    Without `shares_prompt` each answer has a row and a copy of the prompt to itself, which gives the same numbers.
    """
    # the last token of an answer is predicted and never read
    laid = _lay(rows, [[answer[:-1] for answer in row.answers] for row in rows], pad_id, shares_prompt)
    answers = [answer for row in rows for answer in row.answers]
    places = [
        (line, first + place if place >= 0 else before)
        for (line, before, first), answer in zip(laid.starts, answers, strict=True)
        for place in range(-1, len(answer) - 1)
    ]
    return _batch(
        rows,
        laid,
        places,
        labels=[token for answer in answers for token in answer],
        owners=[number for number, answer in enumerate(answers) for _ in answer],
        counts={"chosen": sum(len(row.answers[0]) for row in rows), "tokens": sum(map(len, answers))},
    )


def collate_ends(rows: Sequence[Answered], pad_id: int, *, shares_prompt: bool = True) -> AnswerBatch:
    """A batch of ends: the last token of every answer, which is its end of turn. `labels_N` are empty.

    `counts` has "loss": the prompts; "answers": the answers; "rated": values that are not NaN.
    """
    laid = _lay(rows, [list(row.answers) for row in rows], pad_id, shares_prompt)
    answers = [answer for row in rows for answer in row.answers]
    places = [(line, first + len(answer) - 1) for (line, _, first), answer in zip(laid.starts, answers, strict=True)]
    rated = sum(value == value for row in rows for values in row.values for value in values)
    return _batch(rows, laid, places, labels=[], owners=list(range(len(answers))), counts={"rated": rated})


@dataclass(frozen=True)
class _Laid:
    """Lines of tokens, and (line, last place of the prompt, first place of the answer) of each answer."""

    ids_BT: Tensor
    mask_BT: Tensor
    branch_BT: Tensor | None
    position_BT: Tensor | None
    starts: list[tuple[int, int, int]]


def _lay(rows: Sequence[Answered], read: Sequence[Sequence[list[int]]], pad_id: int, shares_prompt: bool) -> _Laid:
    """Lines of each prompt and what is `read` of its answers: all of them, or one a line."""
    lines: list[tuple[list[int], list[list[int]]]] = []
    for row, answers in zip(rows, read, strict=True):
        lines += [(row.prompt, list(answers))] if shares_prompt else [(row.prompt, [answer]) for answer in answers]
    ids, branches, positions, starts = [], [], [], []
    for number, (prompt, answers) in enumerate(lines):
        line, branch, position = list(prompt), [0] * len(prompt), list(range(len(prompt)))
        for place, answer in enumerate(answers):
            starts.append((number, len(prompt) - 1, len(line)))
            line += answer
            branch += [place + 1] * len(answer)
            position += range(len(prompt), len(prompt) + len(answer))
        ids.append(line)
        branches.append(branch)
        positions.append(position)
    return _Laid(
        _padded(ids, pad_id),
        _padded([[1] * len(line) for line in ids], 0),
        _padded(branches, -1) if shares_prompt else None,
        _padded(positions, 0) if shares_prompt else None,
        starts,
    )


def _padded(lines: Sequence[Sequence[int]], value: int) -> Tensor:
    padded = torch.full((len(lines), max(map(len, lines))), value)
    for number, line in enumerate(lines):
        padded[number, : len(line)] = torch.tensor(line)
    return padded


def _batch(
    rows: Sequence[Answered],
    laid: _Laid,
    places: Sequence[tuple[int, int]],
    labels: Sequence[int],
    owners: Sequence[int],
    counts: dict[str, int],
) -> AnswerBatch:
    place_N2 = torch.tensor(places)
    sizes = [len(answer) for row in rows for answer in row.answers]
    return AnswerBatch(
        ids_BT=laid.ids_BT,
        mask_BT=laid.mask_BT,
        labels_N=torch.tensor(labels, dtype=torch.long),
        row_N=place_N2[:, 0],
        token_N=place_N2[:, 1],
        counts={"loss": len(rows), "answers": len(sizes), **counts},
        tokens=int(laid.mask_BT.sum()),
        branch_BT=laid.branch_BT,
        position_BT=laid.position_BT,
        answer_N=torch.tensor(owners),
        size_S=torch.tensor(sizes),
        strength_P=torch.tensor([row.strength for row in rows]),
        values_SK=torch.tensor([values for row in rows for values in row.values]),
    )
