"""Short rows laid behind each other in lines, so that nothing is computed for padding; no row reads another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from camelid.surgery.attention_mask import Attention


@dataclass(frozen=True)
class Packing:
    """Where the N text tokens of a padded batch stand in L lines of S places.

    `is_text_BT` picks the tokens in the order of the rows; `line_N, place_N` say where each goes, `row_LS` which row a
    place belongs to (-1: none), `position_LS` its position within that row. `runs` are the lengths of the rows, and of
    the empty places behind them, as they follow each other through all lines.
    """

    is_text_BT: Tensor
    line_N: Tensor
    place_N: Tensor
    row_LS: Tensor
    position_LS: Tensor
    runs: tuple[int, ...]

    def lay(self, values_BTX: Tensor) -> Tensor:
        """values_LSX: ids or states in lines, zero where there is none."""
        values_LSX = values_BTX.new_zeros(*self.row_LS.shape, *values_BTX.shape[2:])
        values_LSX[self.line_N, self.place_N] = values_BTX[self.is_text_BT]
        return values_LSX

    def lift(self, values_LSX: Tensor) -> Tensor:
        """values_BTX: back in padded rows, zero on padding."""
        values_BTX = values_LSX.new_zeros(*self.is_text_BT.shape, *values_LSX.shape[2:])
        return values_BTX.index_put((self.is_text_BT,), values_LSX[self.line_N, self.place_N])

    def mask(self, attention: Attention) -> Tensor:
        """Boolean (L, 1, S, S): a token reads tokens of its own row, under "causal" those up to itself."""
        allowed_LSS = (self.row_LS[:, :, None] == self.row_LS[:, None, :]) & (self.row_LS >= 0)[:, None, :]
        if attention == "causal":
            allowed_LSS = allowed_LSS.tril()
        return (allowed_LSS | torch.eye(self.row_LS.shape[1], dtype=torch.bool, device=self.row_LS.device))[:, None]


def pack_rows(mask_BT: Tensor, tokens: int) -> Packing:
    """Lines of at most `tokens` places (or the longest row's), filled by the longest row that still fits first."""
    is_text_BT = mask_BT.bool()
    lengths = is_text_BT.sum(dim=1).tolist()
    capacity = max(tokens, *lengths)
    free: list[int] = []
    lines: list[list[int]] = []
    start_by_row = [(0, 0)] * len(lengths)
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        line = next((number for number, room in enumerate(free) if room >= lengths[row]), len(free))
        if line == len(free):
            free.append(capacity)
            lines.append([])
        start_by_row[row] = (line, capacity - free[line])
        free[line] -= lengths[row]
        lines[line].append(lengths[row])
    width = capacity - min(free)
    where = mask_BT.device
    line_N = torch.tensor([line for (line, _), n in zip(start_by_row, lengths) for _ in range(n)], device=where)
    position_N = torch.tensor([at for n in lengths for at in range(n)], device=where)
    start_N = torch.tensor([start for (_, start), n in zip(start_by_row, lengths) for _ in range(n)], device=where)
    row_N = torch.tensor([row for row, n in enumerate(lengths) for _ in range(n)], device=where)
    row_LS = torch.full((len(free), width), -1, device=where)
    position_LS = torch.zeros(len(free), width, dtype=torch.long, device=where)
    row_LS[line_N, start_N + position_N] = row_N
    position_LS[line_N, start_N + position_N] = position_N
    runs = tuple(run for line in lines for run in (*line, width - sum(line)) if run)
    return Packing(is_text_BT, line_N, start_N + position_N, row_LS, position_LS, runs)
