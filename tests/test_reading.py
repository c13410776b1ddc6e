"""Windows, words in windows, labels of every kind, the paper's padding."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from camelid import bases
from camelid.batches import Tokens, collate_rows
from camelid.heads import LabelModel, Rescaling, Sight, pool_windows, run_trunk
from camelid.reading import Reading, cut_windows, tokenise
from camelid.rows import Labelled, Tagged
from conftest import tiny_trunk


def test_windows_by_hand() -> None:
    """Seven tokens behind one special token, windows of 5 that start every 2: the special token stands in each.

    The text's third token is one from the end of the first window and first in the second, so it counts in the first;
    its fourth ends the first and is second in the second, so it counts there.
    """
    ids = [1, 10, 11, 12, 13, 14, 15, 16]
    spans = [(0, 0), *((n, n + 1) for n in range(7))]
    windows, places = cut_windows(ids, spans, Reading(5, stride=2))
    assert windows == [[1, 10, 11, 12, 13], [1, 12, 13, 14, 15], [1, 14, 15, 16]]
    assert [places[token] for token in range(1, 8)] == [1, 2, 3, 7, 8, 12, 13]


def test_without_a_stride_the_end_is_cut() -> None:
    windows, places = cut_windows([5, 6, 7], [(0, 1), (1, 2), (2, 3)], Reading(2))
    assert windows == [[5, 6]]
    assert places == {0: 0, 1: 1}


@given(st.integers(1, 60), st.integers(2, 20), st.integers(1, 10), st.integers(0, 1))
def test_every_token_is_in_a_window_and_has_a_place(length: int, limit: int, stride: int, special: int) -> None:
    limit = max(limit, special + 1)
    stride = min(stride, limit - special)
    ids = [*[1] * special, *range(100, 100 + length)]
    spans = [*[(0, 0)] * special, *((n, n + 1) for n in range(length))]
    windows, places = cut_windows(ids, spans, Reading(limit, stride))
    flat = [token for window in windows for token in window]
    assert all(len(window) <= limit for window in windows)
    for token in range(special, len(ids)):
        assert flat[places[token]] == ids[token]


def tokenizer_of(tiny_model: Path) -> transformers.PreTrainedTokenizerBase:
    return transformers.AutoTokenizer.from_pretrained(tiny_model)


def test_labels_of_every_kind(tiny_model: Path) -> None:
    tokenizer = tokenizer_of(tiny_model)
    many = SimpleNamespace(task="multi-label", classes=["a", "b", "c"])
    rows = [Labelled("0", "here", "one", ("a", "c")), Labelled("1", "here", "two", ())]
    batch = collate_rows(tokenise(tokenizer, rows, many, Reading(8)), 0)
    assert batch.labels_N.tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert batch.counts == {"loss": 6}
    number = SimpleNamespace(task="regression", classes=[], rescaling=Rescaling(mean=2.0, std=4.0))
    rows = [Labelled("0", "here", "one", 10.0), Labelled("1", "here", "two", 0.0)]
    batch = collate_rows(tokenise(tokenizer, rows, number, Reading(8)), 0)
    assert batch.labels_N.tolist() == [[2.0], [-0.5]]
    assert batch.counts == {"loss": 2}
    (unknown,) = tokenise(tokenizer, [Labelled("0", "here", "one", "")], number, Reading(8))
    assert math.isnan(unknown.labels[0])


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_windows_are_pooled_into_rows(pooling: str) -> None:
    torch.manual_seed(3)
    model = LabelModel(tiny_trunk(), ["a", "b"], pooling, Sight()).eval()  # type: ignore[arg-type]
    rows = [Tokens("0", [3, 9, 5], [0], further=([5, 11, 4], [4, 7])), Tokens("1", [8, 2], [1])]
    batch = collate_rows(rows, 0)
    assert batch.row_B is not None
    assert batch.row_B.tolist() == [0, 0, 0, 1]
    alone = [collate_rows([Tokens("", ids, [0])], 0) for ids in ([3, 9, 5], [5, 11, 4], [4, 7], [8, 2])]
    with torch.no_grad():
        logits = torch.cat([model(one) for one in alone])
        first = logits[:3].amax(dim=0) if pooling == "max" else logits[:3].mean(dim=0)
        torch.testing.assert_close(model(batch), torch.stack([first, logits[3]]), atol=1e-5, rtol=0)


def test_pooling_windows_by_hand() -> None:
    values = torch.tensor([[1.0, 4.0], [3.0, 2.0], [-5.0, -6.0]])
    rows = torch.tensor([0, 0, 1])
    assert pool_windows(values, rows, "mean").tolist() == [[2.0, 3.0], [-5.0, -6.0]]
    assert pool_windows(values, rows, "max").tolist() == [[3.0, 4.0], [-5.0, -6.0]]


def test_words_are_read_in_the_window_where_they_have_most_context(tiny_model: Path) -> None:
    tokenizer = tokenizer_of(tiny_model)
    words = tuple(f"w{number}" for number in range(30))
    tags = tuple("B-x" if number % 3 == 0 else "O" for number in range(30))
    model = SimpleNamespace(task="tags", classes=["B-x", "O"])
    (row,) = tokenise(tokenizer, [Tagged("0", "here", words, tags)], model, Reading(12, stride=6))
    assert row.words is not None
    assert len(row.words) == 30
    assert row.cut == 0
    assert row.labels == [0 if tag == "B-x" else 1 for tag in tags]
    batch = collate_rows([row], 0)
    assert batch.row_N is not None
    assert batch.token_N is not None
    starts = batch.ids_BT[batch.row_N, batch.token_N]
    whole = tokenizer(" ".join(words), return_offsets_mapping=True)
    firsts = [
        ids
        for ids, (start, _) in zip(whole["input_ids"], whole["offset_mapping"])
        if start == 0 or " ".join(words)[start] == " "
    ]
    assert starts.tolist() == firsts


def test_the_papers_padding_is_read(tiny_model: Path) -> None:
    """Rows are padded to the longest of their thousand, and unmasked attention and mean then read the padding."""
    tokenizer = tokenizer_of(tiny_model)
    rows = [Labelled(str(n), "here", text, "a") for n, text in enumerate(("short", "a much longer text than that"))]
    base = bases.open_base(str(tiny_model))
    torch.manual_seed(0)
    trunk = bases.load_trunk(base, "float32")
    answers = {}
    for padding in (False, True):
        torch.manual_seed(1)
        model = LabelModel(trunk, ["a", "b"], "mean", Sight("bidirectional", reads_padding=padding)).eval()
        tokens = tokenise(tokenizer, rows, model, Reading(64, reads_padding=padding))
        with torch.no_grad():
            alone, together = model(collate_rows(tokens[:1], 0)), model(collate_rows(tokens, 0))[:1]
        torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
        answers[padding] = alone
        if padding:  # the mean is over all positions of the padded row
            with torch.no_grad():
                hidden = run_trunk(trunk, model.sight, collate_rows(tokens[:1], 0))
                torch.testing.assert_close(alone, model.head(hidden.mean(dim=1)), atol=1e-5, rtol=0)
        assert collate_rows(tokens[:1], 0).ids_BT.shape[1] == len(tokens[1 if padding else 0].ids)
    assert (answers[True] - answers[False]).abs().max() > 1e-4
