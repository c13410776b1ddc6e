"""Replies of labellers: two words of which one may stand in the other, and a person at the terminal."""

from __future__ import annotations

import pytest

from camelid import asking
from camelid.labellers import Words, parse_word
from camelid.rows import Member


@pytest.mark.parametrize(("reply", "value"), [
    ("not a relevant animal", False), ("Relevant animal.", None), ("A relevant animal.", True),
    ("This is a relevant animal", None), ("", None), ("NOT A RELEVANT ANIMAL. ", False),
])  # fmt: skip
def test_replies(reply: str, value: bool | None) -> None:
    assert parse_word(reply, Words("a relevant animal", "not a relevant animal")).value == value


def test_one_word_is_part_of_the_other() -> None:
    read = lambda text: parse_word(text, Words("relevant animal", "not a relevant animal")).value  # noqa: E731
    assert [read(text) for text in ("not a relevant animal", "Relevant animal.", "This is a relevant animal", "")] == [
        False, True, None, None
    ]  # fmt: skip


def test_control_characters_do_not_reach_the_terminal() -> None:
    shown: list[str] = []
    row = Member("0", "x", "a \x1b[2J b", (), "", None)
    asking.ask_people([row], {"y": (True, "yes")}, read=lambda: "y", write=shown.append)
    assert "\x1b" not in "".join(shown)
