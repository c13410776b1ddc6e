"""Token by token decoding of many prompts: a row leaves when it is done, and the next prompt takes its place.

Every request has noise of its own, so what it becomes does not depend on the rows decoded beside it, except where
rounding decides between two tokens of nearly the same probability.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from camelid.engines import Sampling, Stop
from camelid.hidden import Edit, edit_layers

ROWS = 48  # rows decoded at once
PREFILL_TOKENS = 512  # tokens, padding included, of the prompts that enter at once
CACHE_BYTES = 2 << 30  # most memory of keys and values
TOP = 256  # tokens looked at first for top_p; all are sorted only where these hold too little


@dataclass(frozen=True, slots=True)
class Draw:
    """A prompt to be continued by at most `sampling.max_tokens` tokens; `noise` names its random numbers.

    `row` is the number that edits are told of it.
    """

    ids: tuple[int, ...]
    sampling: Sampling
    noise: str
    row: int = 0


@dataclass(eq=False)
class Row:
    """A request under way: its number among the draws, the tokens so far and their raw log-probabilities."""

    index: int
    draw: Draw
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


def decode(
    model: Any,
    draws: Sequence[Draw],
    ends: set[int],
    text_of: Callable[[Sequence[int]], str],
    edits: Mapping[str, Edit] | None = None,
) -> Iterator[tuple[int, Row, Stop]]:
    """(index, finished row, why it ended), as rows finish. An end token is the last of the row's tokens.

    `edits` change states of the decoder's layers (`hidden.edit_layers`).
    """
    waiting = sorted(range(len(draws)), key=lambda index: len(draws[index].ids))  # popped from the end: longest first
    if not draws:
        return
    longest = max(len(draw.ids) + draw.sampling.max_tokens for draw in draws)
    slots = Slots(model, _affordable_rows(model, longest, len(draws)), longest, edits or {})
    while waiting or slots.rows:
        if slots.has_room(len(waiting)):
            logits_NV = slots.admit(_next_prompts(draws, waiting, slots.size - len(slots.rows)))
        else:
            logits_NV = slots.step()
        yield from slots.take(logits_NV, ends, text_of)


def _next_prompts(draws: Sequence[Draw], waiting: list[int], most: int) -> list[Row]:
    """The longest prompts that wait, as many as fit into PREFILL_TOKENS; at least one."""
    rows = [Row(waiting[-1], draws[waiting.pop()])]
    while waiting and len(rows) < most and (len(rows) + 1) * len(rows[0].draw.ids) <= PREFILL_TOKENS:
        rows.append(Row(waiting[-1], draws[waiting.pop()]))
    return rows


def _affordable_rows(model: Any, longest: int, wanted: int) -> int:
    return max(1, min(ROWS, wanted, CACHE_BYTES // (token_bytes(model) * longest)))


def token_bytes(model: Any) -> int:
    """Bytes of one token's keys and values in all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize


class Slots:
    """Keys and values of the rows being decoded, those of row r in slot r; there are no gaps between the rows."""

    def __init__(self, model: Any, size: int, longest: int, edits: Mapping[str, Edit]) -> None:
        self.model, self.size, self.longest, self.edits = model, size, longest, edits
        self.rows: list[Row] = []
        self.fresh: list[Row] = []
        self.layers = [_SlotLayer(size, longest) for _ in range(model.config.get_text_config().num_hidden_layers)]
        self.cache = Cache(layers=list(self.layers))

    def has_room(self, waiting: int) -> bool:
        """Whether prompts should enter: a few at once, because one alone costs nearly as much."""
        free = self.size - len(self.rows)
        return bool(waiting) and free > 0 and (free >= min(waiting, max(1, self.size // 8)))

    @torch.inference_mode()  # not around the whole loop: whoever takes the rows would be in it too
    def admit(self, rows: list[Row]) -> Tensor:
        """Run the prompts of new rows; logits_NV of all of them behind their last token."""
        ids_BT = torch.zeros(len(rows), len(rows[0].draw.ids), dtype=torch.long)
        for line, row in enumerate(rows):
            ids_BT[line, : len(row.draw.ids)] = torch.tensor(row.draw.ids)
        past = DynamicCache(config=self.model.config)
        # padded on the right: plain causal attention is right
        hidden_BTD = self._run(rows, input_ids=ids_BT.to(self.model.device), past_key_values=past)
        filled: Any
        for layer, filled in zip(self.layers, past.layers, strict=True):
            layer.fill(len(self.rows), filled.keys, filled.values)
        self.fresh = rows
        self.rows += rows
        last_B = torch.tensor([len(row.draw.ids) - 1 for row in rows])
        return self._logits(hidden_BTD[torch.arange(len(rows)), last_B])

    @torch.inference_mode()
    def step(self) -> Tensor:
        """Feed each row its newest token; logits_NV behind it."""
        device = self.model.device
        position_N = torch.tensor([len(row.draw.ids) + len(row.tokens) - 1 for row in self.rows], device=device)
        longest = int(position_N.max()) + 1
        for layer in self.layers:
            layer.point(position_N, longest)
        hidden_N1D = self._run(
            self.rows,
            input_ids=torch.tensor([[row.tokens[-1]] for row in self.rows], device=device),
            position_ids=position_N[:, None],
            attention_mask=(torch.arange(longest, device=device) <= position_N[:, None])[:, None, None],
            past_key_values=self.cache,
        )
        self.fresh = self.rows
        return self._logits(hidden_N1D[:, 0])

    def take(
        self, logits_NV: Tensor, ends: set[int], text_of: Callable[[Sequence[int]], str]
    ) -> Iterator[tuple[int, Row, Stop]]:
        """Draw the next token of the rows just run; finished rows leave."""
        logprobs_NV = logits_NV.log_softmax(dim=-1)
        noise = [noise_at(row.draw.noise, len(row.tokens)) for row in self.fresh]
        tokens = choose_tokens(logprobs_NV, [row.draw.sampling for row in self.fresh], noise)
        values = logprobs_NV[torch.arange(len(tokens)), tokens].tolist()
        for row, token, value in zip(list(self.fresh), tokens.tolist(), values, strict=True):
            row.tokens.append(token)
            row.logprobs.append(value)
            if stop := _reason(row, ends, text_of):
                self._leave(row)
                yield row.index, row, stop

    @torch.inference_mode()
    def _leave(self, row: Row) -> None:
        """The last row moves into the gap."""
        slot, last = self.rows.index(row), len(self.rows) - 1
        for layer in self.layers:
            layer.move(last, slot)
        self.rows = (
            [*self.rows[:slot], *self.rows[last:], *self.rows[slot + 1 : last]] if slot < last else self.rows[:-1]
        )

    def _run(self, rows: Sequence[Row], **inputs: Any) -> Tensor:
        """hidden_BTD of the decoder, under the edits, for a line of each row."""
        decoder = self.model.get_decoder()
        with edit_layers(decoder, self.edits, [row.draw.row for row in rows]):
            return decoder(**inputs, use_cache=True).last_hidden_state

    def _logits(self, hidden_ND: Tensor) -> Tensor:
        return self.model.get_output_embeddings()(hidden_ND).float().cpu()


class _SlotLayer(CacheLayerMixin):
    """Keys and values (slots, heads, tokens, width) of one layer, written at each row's own position."""

    def __init__(self, size: int, longest: int) -> None:
        super().__init__()
        self.size, self.longest = size, longest
        self.position_N: Tensor = torch.zeros(0, dtype=torch.long)
        self.read = 0

    def fill(self, first: int, keys: Tensor, values: Tensor) -> None:
        """Take over the keys and values of prompts into the slots from `first` on."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        assert self.keys is not None
        assert self.values is not None
        rows, tokens = slice(first, first + len(keys)), slice(keys.shape[2])
        self.keys[rows, :, tokens], self.values[rows, :, tokens] = keys, values

    def point(self, position_N: Tensor, read: int) -> None:
        """Where the next update writes in each slot, and how far it reads."""
        self.position_N, self.read = position_N, read

    def move(self, source: int, target: int) -> None:
        """Copy a slot over another."""
        for held in (self.keys, self.values):
            if held is not None and source != target:
                held[target] = held[source]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        shape = (self.size, key_states.shape[1], self.longest, key_states.shape[3])
        self.keys, self.values = key_states.new_zeros(shape), value_states.new_zeros(shape)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        slot_N = torch.arange(len(key_states), device=key_states.device)
        self.keys[slot_N, :, self.position_N] = key_states[:, :, 0]
        self.values[slot_N, :, self.position_N] = value_states[:, :, 0]
        return self.keys[: len(slot_N), :, : self.read], self.values[: len(slot_N), :, : self.read]

    def get_seq_length(self) -> int:
        return self.read

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.read, 0

    def get_max_length(self) -> int:
        return self.longest


def noise_at(name: str, position: int) -> float:
    """A number in [0, 1) that depends on the request's name and the position only."""
    return random.Random(f"{name} {position}").random()


def choose_tokens(logprobs_NV: Tensor, samplings: Sequence[Sampling], noise: Sequence[float]) -> Tensor:
    """tokens_N: the likeliest at temperature 0, else the one in whose part of the probability the noise falls."""
    tokens_N = logprobs_NV.argmax(dim=-1)
    drawn = [number for number, sampling in enumerate(samplings) if sampling.temperature > 0]
    if drawn:
        chosen = [samplings[number] for number in drawn]
        column = lambda name: torch.tensor([getattr(one, name) for one in chosen])[:, None]  # noqa: E731
        probs_NV = (logprobs_NV[drawn] / column("temperature")).softmax(dim=-1)
        probs_NV = truncate(probs_NV, column("top_p"), column("min_p"))
        reached_NV = probs_NV.double().cumsum(dim=-1)
        target_N1 = torch.tensor([noise[number] for number in drawn], dtype=torch.double)[:, None] * reached_NV[:, -1:]
        tokens_N[drawn] = torch.searchsorted(reached_NV, target_N1, right=True)[:, 0].clamp(max=probs_NV.shape[1] - 1)
    return tokens_N


def truncate(probs_NV: Tensor, top_p_N1: Tensor, min_p_N1: Tensor) -> Tensor:
    """Probabilities with those outside top_p (Holtzman 2020) and below min_p of the largest (Nguyen 2024) set to 0.

    The smallest set of tokens with at least `top_p` of the probability stays, and whatever equals its least member.
    """
    least_N1 = min_p_N1 * probs_NV.amax(dim=-1, keepdim=True)
    if bool((top_p_N1 < 1).any()):
        sorted_NT = probs_NV.topk(min(TOP, probs_NV.shape[1]), dim=-1).values
        if bool((sorted_NT.sum(dim=-1, keepdim=True) < top_p_N1).any()):
            sorted_NT = probs_NV.sort(dim=-1, descending=True).values
        before_NT = sorted_NT.cumsum(dim=-1) - sorted_NT
        inside_NT = (before_NT < top_p_N1).sum(dim=-1, keepdim=True) - 1
        cut_N1 = sorted_NT.gather(1, inside_NT)
        least_N1 = torch.where(top_p_N1 < 1, torch.maximum(least_N1, cut_N1), least_N1)
    return probs_NV.masked_fill(probs_NV < least_N1, 0.0)


def _reason(row: Row, ends: set[int], text_of: Callable[[Sequence[int]], str]) -> Stop | None:
    """Why the row is finished, if it is."""
    if row.tokens[-1] in ends:
        return "end"
    if row.draw.sampling.stop:
        window = max(map(len, row.draw.sampling.stop)) + 4  # a token is at least a byte; 4 for one split character
        tail = text_of(row.tokens[-window:])
        if any(mark in tail for mark in row.draw.sampling.stop):
            return "string"
    return "length" if len(row.tokens) >= row.draw.sampling.max_tokens else None
