"""Log-probabilities of many token sequences under one model, with every token they share at the front computed once.

Sequences that begin alike (a policy before many texts, choices after one question, two answers to one prompt) form a
tree of tokens. What very many share is run once and kept as keys and values; the rest are laid behind each other in
lines, where a mask lets every token read its own ancestors only. No padding is computed, and every token's states are
those it would have alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from camelid.surgery.attention_mask import tree_mask

LINE_TOKENS = 512  # trees are laid into lines of about so many tokens
LEAST_SAVED = 128  # tokens that a front of its own must save
LEAST_SHARED = 8  # tokens two sequences must share beyond it to become one tree
HEAD_ROWS = 256  # positions whose logits are held at once


@dataclass(frozen=True, slots=True)
class Scorable:
    """Token ids, of which those from `first` on (at least 1) are scored."""

    ids: tuple[int, ...]
    first: int


@dataclass
class Line:
    """Trees laid behind each other. For each flat token: its id, its depth, and the flat place of its parent.

    A parent of -1 is the last token of the front that all trees of the line share. `ends[s]` is the flat place of the
    last token of sequence s that is fed; its ancestors are the sequence.
    """

    ids: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)

    def path(self, end: int) -> list[int]:
        """Flat places from the root to `end`."""
        places = []
        while end >= 0:
            places.append(end)
            end = self.parents[end]
        return places[::-1]


def sequence_logprobs(model: Any, sequences: Sequence[Scorable]) -> Iterator[tuple[int, list[float]]]:
    """(index, log-probabilities of the scored tokens in nats, float32), in the order they are ready."""
    for front, members in shared_fronts(sequences):
        past = _run_front(model, front)
        for line in lay_lines(sequences, members, len(front)):
            yield from _score_line(model, sequences, line, len(front), past).items()


def shared_fronts(sequences: Sequence[Scorable]) -> list[tuple[tuple[int, ...], list[int]]]:
    """(front, members): the members' common first tokens, which are worth being run once, and who has them.

    A front ends before the last unscored token of each member, so that whatever is scored has its parent in a line.
    """
    order = sorted(range(len(sequences)), key=lambda index: sequences[index].ids)
    return _split(sequences, order, 0) if order else []


def _split(sequences: Sequence[Scorable], order: list[int], known: int) -> list[tuple[tuple[int, ...], list[int]]]:
    """Groups of `order` (sorted, alike in the first `known` tokens, which are run once anyhow)."""
    shared = _common(sequences, order)
    if not _is_worth(sequences, order, shared, known):
        shared = known
    children: dict[int, list[int]] = {}
    for index in order:
        children.setdefault(sequences[index].ids[shared], []).append(index)
    groups, rest = [], []
    for child in children.values():
        if len(child) < len(order) and _is_worth(sequences, child, _common(sequences, child), shared):
            groups += _split(sequences, child, shared)
        else:
            rest += child
    if rest:
        groups.append((sequences[rest[0]].ids[:shared], rest))
    return groups


def _is_worth(sequences: Sequence[Scorable], members: list[int], shared: int, known: int) -> bool:
    """Whether a front of `shared` tokens saves more than running it costs: without it, each line computes it anew."""
    lines = -(-sum(len(sequences[index].ids) - shared for index in members) // LINE_TOKENS)
    return (shared - known) * lines - shared >= LEAST_SAVED


def _common(sequences: Sequence[Scorable], order: list[int]) -> int:
    """Tokens that all of them share (the first and last of a sorted list differ most), ending before any is scored."""
    shared = _overlap(sequences[order[0]].ids, sequences[order[-1]].ids)
    return min(shared, *(sequences[index].first - 1 for index in order)) if len(order) > 1 else 0


def _overlap(left: Sequence[int], right: Sequence[int]) -> int:
    for place, (one, other) in enumerate(zip(left, right)):
        if one != other:
            return place
    return min(len(left), len(right))


def lay_lines(sequences: Sequence[Scorable], members: list[int], front: int) -> Iterator[Line]:
    """The members' trees behind their front, in lines of about LINE_TOKENS; a longer tree has a line of its own."""
    line = Line()
    for tree, size in _trees(sequences, members, front):
        if line.ids and len(line.ids) + size > LINE_TOKENS:
            yield line
            line = Line()
        _lay(sequences, tree, front, line)
    if line.ids:
        yield line


def _trees(sequences: Sequence[Scorable], members: list[int], front: int) -> Iterator[tuple[list[int], int]]:
    """(members, tokens) of each tree: members (sorted by ids) that share enough with their neighbour go together."""
    tree: list[int] = []
    size = 0
    for index in members:
        ids = sequences[index].ids
        shared = _overlap(sequences[tree[-1]].ids, ids) if tree else 0
        new = len(ids) - max(shared, front)
        if tree and (shared - front < LEAST_SHARED or size + new > LINE_TOKENS):
            yield tree, size
            tree, size, new = [], 0, len(ids) - front
        tree.append(index)
        size += new
    if tree:
        yield tree, size


def _lay(sequences: Sequence[Scorable], tree: list[int], front: int, line: Line) -> None:
    """Add the tree to the line. The last token of a sequence is scored and never fed."""
    path: list[int] = []  # flat places of the sequence before, by depth beyond the front
    fed: tuple[int, ...] = ()
    for index in tree:
        ids = sequences[index].ids[front:-1]
        path = path[: _overlap(fed, ids)]
        for token in ids[len(path) :]:
            line.parents.append(path[-1] if path else -1)
            line.depths.append(front + len(path))
            path.append(len(line.ids))
            line.ids.append(token)
        fed = ids
        line.ends[index] = path[-1]


@torch.inference_mode()
def _run_front(model: Any, front: Sequence[int]) -> Any:
    if not front:
        return None
    ids = torch.tensor([front], device=model.device)
    return model.get_decoder()(input_ids=ids, use_cache=True).past_key_values


@torch.inference_mode()
def _score_line(model: Any, sequences: Sequence[Scorable], line: Line, front: int, past: Any) -> dict[int, list[float]]:
    hidden_ND = model.get_decoder()(
        input_ids=torch.tensor([line.ids], device=model.device),
        position_ids=torch.tensor([line.depths], device=model.device),
        attention_mask=tree_mask(line.parents, front).to(model.device),
        past_key_values=_copied(past, model.config),
        use_cache=past is not None,
    ).last_hidden_state[0]
    places, tokens, owners = [], [], []
    for index, end in line.ends.items():
        sequence = sequences[index]
        scored = sequence.ids[sequence.first :]
        places += line.path(end)[-len(scored) :]
        tokens += scored
        owners += [index] * len(scored)
    values = _logprobs(model, hidden_ND, places, tokens)
    found: dict[int, list[float]] = {index: [] for index in line.ends}
    for owner, value in zip(owners, values, strict=True):
        found[owner].append(value)
    return found


def _logprobs(model: Any, hidden_ND: Tensor, places: list[int], tokens: list[int]) -> list[float]:
    """log p(tokens[i]) at places[i]; each distinct place meets the vocabulary once."""
    distinct = sorted(set(places))
    row_of = {place: row for row, place in enumerate(distinct)}
    rows = torch.tensor([row_of[place] for place in places])
    wanted = torch.tensor(tokens)
    values = torch.empty(len(tokens))
    for start in range(0, len(distinct), HEAD_ROWS):
        chunk = hidden_ND[distinct[start : start + HEAD_ROWS]]
        logprobs_RV = model.get_output_embeddings()(chunk).float().log_softmax(dim=-1).cpu()
        inside = (rows >= start) & (rows < start + HEAD_ROWS)
        values[inside] = logprobs_RV[rows[inside] - start, wanted[inside]]
    return values.tolist()


def _copied(past: Any, config: Any) -> Any:
    """A cache of its own for this line: transformers appends to the one it is given."""
    if past is None:
        return None
    from transformers import DynamicCache

    copy = DynamicCache(config=config)
    for number, layer in enumerate(past.layers):
        copy.update(layer.keys, layer.values, number)
    return copy
