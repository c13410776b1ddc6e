"""Who may read whom, against masks written by hand."""

from __future__ import annotations

import torch

from camelid.surgery.attention_mask import build_mask, tree_mask


def readable(mask: torch.Tensor) -> list[str]:
    """Each query's row as a string of 1 and 0."""
    return ["".join("1" if allowed else "0" for allowed in row) for row in mask[0, 0].tolist()]


def test_causal_right_padding_needs_no_mask() -> None:
    assert build_mask(torch.tensor([[1, 1, 1], [1, 0, 0]]), "causal") is None


def test_causal_left_padding() -> None:
    mask = build_mask(torch.tensor([[0, 1, 1]]), "causal")
    assert mask is not None
    assert readable(mask) == ["100", "010", "011"], "padding reads itself only, or its softmax would be NaN"


def test_bidirectional_reads_all_text_and_no_padding() -> None:
    mask = build_mask(torch.tensor([[1, 1, 0]]), "bidirectional")
    assert mask is not None
    assert readable(mask) == ["110", "110", "111"]
    unpadded = build_mask(torch.tensor([[1, 1]]), "bidirectional")
    assert unpadded is not None, "None would be silently causal"
    assert readable(unpadded) == ["11", "11"]


def test_a_tree_reads_its_ancestors_only() -> None:
    """Behind a front of one: a root, its child, two children of that child, and a second tree of two tokens."""
    mask = tree_mask([-1, 0, 1, 1, -1, 4], front=1)
    assert readable(mask) == ["1100000", "1110000", "1111000", "1110100", "1000010", "1000011"]
