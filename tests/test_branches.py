"""Prompts with answers: what is cut, what is left out, what is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from camelid.batches import collate_rows
from camelid.branches import Answered, collate_answers, collate_ends, encode_all, encode_preference, share_front
from camelid.reading import tell_answer
from camelid.rows import Message, Preference
from camelid.surgery.attention_mask import branch_mask


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    made = AutoTokenizer.from_pretrained(tiny_model)
    made.chat_template = CHATML.replace("</s>", made.eos_token)
    return made


CHATML = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def preference(chosen: str, rejected: str, question: str = "Is the queue long?") -> Preference:
    return Preference("1", "a.csv line 1", (Message("user", question),), chosen, rejected, strength=2.0)


def test_tokens_are_those_of_cross_entropy(tokenizer: Any) -> None:
    """Each answer's tokens and the positions that predict them are those of one conversation alone."""
    row = preference("Yes, very.", "No")
    encoded = encode_preference(tokenizer, row)
    assert encoded is not None
    assert (encoded.strength, encoded.cut) == (2.0, 0)
    batch = collate_answers([encoded], 0, shares_prompt=False)
    told = [tell_answer(tokenizer, row.prompt, text, ended=True) for text in (row.chosen, row.rejected)]
    expected = collate_rows(told, 0)
    torch.testing.assert_close(batch.labels_N, expected.labels_N)
    torch.testing.assert_close(batch.token_N, expected.token_N)
    assert batch.ids_BT.tolist() == expected.ids_BT.tolist()
    sizes = [len(one.labels) for one in told]
    assert batch.size_S.tolist() == sizes
    assert batch.counts == {"loss": 1, "answers": 2, "chosen": sizes[0], "tokens": sum(sizes)}


def test_ends_are_the_ends_of_turns(tokenizer: Any) -> None:
    """The scored token closes the assistant's turn; it is not the newline that a template writes behind it."""
    encoded = encode_preference(tokenizer, preference("Yes, very.", "No"))
    assert encoded is not None
    for shares in (True, False):
        batch = collate_ends([encoded], 0, shares_prompt=shares)
        ends = batch.ids_BT[batch.row_N, batch.token_N].tolist()
        assert ends == [tokenizer.eos_token_id] * 2


def test_a_prompt_loses_its_beginning_and_an_answer_nothing(tokenizer: Any) -> None:
    row = preference("Yes, very.", "No", "word " * 40)
    whole = encode_preference(tokenizer, row)
    assert whole is not None
    most = len(whole.prompt) + len(whole.answers[0]) - 5
    cut = encode_preference(tokenizer, row, most)
    assert cut is not None
    assert cut.prompt == whole.prompt[5:]
    assert cut.cut == 5
    assert cut.answers == whole.answers


def test_what_teaches_nothing_is_left_out_and_counted(tokenizer: Any) -> None:
    rows = [preference("Yes", "No"), preference("Yes", "Yes"), preference("word " * 90, "No")]
    kept, counts = encode_all(tokenizer, rows, 120)
    assert len(kept) == 1
    assert counts == {
        "pairs whose answers are the same": 1,
        "pairs with an answer that does not fit into 120 tokens": 1,
    }


def test_whole_texts_share_their_front_and_keep_a_rest() -> None:
    """Also where one is the beginning of another, where they are equal, and where there is only one."""
    assert share_front("a", [[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 6]]) == Answered("a", [1, 2], ([3, 4], [5], [3, 6]))
    assert share_front("a", [[1, 2], [1, 2, 3]]).answers == ([2], [2, 3])
    assert share_front("a", [[1, 2], [1, 2]]) == Answered("a", [1], ([2], [2]))
    assert share_front("a", [[1, 2, 3]]) == Answered("a", [1, 2], ([3],))
    assert share_front("a", [[1], [2]]) == Answered("a", [], ([1], [2]))
    batch = collate_ends([share_front("a", [[1, 2, 3, 4], [1, 2, 5]])], 0)
    assert batch.row_N is not None
    assert batch.token_N is not None
    assert batch.ids_BT[batch.row_N, batch.token_N].tolist() == [4, 5]


def test_branch_mask_worked_by_hand() -> None:
    """Prompt a b, answers c d and e, one place of padding, which reads the prompt: nobody reads it."""
    found = branch_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0, 0].int().tolist()
    assert found == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_answers_begin_where_the_prompt_ends() -> None:
    batch = collate_answers([Answered("a", [1, 2, 3], ([4, 5], [6, 7, 8]))], 0)
    assert batch.ids_BT.tolist() == [[1, 2, 3, 4, 6, 7]]
    assert batch.position_BT is not None
    assert batch.position_BT.tolist() == [[0, 1, 2, 3, 3, 4]]
    assert batch.labels_N.tolist() == [4, 5, 6, 7, 8]
    assert batch.token_N is not None
    assert batch.token_N.tolist() == [2, 3, 2, 4, 5]
    assert batch.answer_N.tolist() == [0, 0, 1, 1, 1]
