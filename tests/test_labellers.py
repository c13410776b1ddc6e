"""Replies of labellers: two words of which one may stand in the other, and a person at the terminal."""

from __future__ import annotations

import pytest

from camelid import asking
from camelid.engines import Question, Scored
from camelid.engines.scripted import ScriptedEngine
from camelid.labellers import Words, ask_model, count_paid, is_out_of_budget, parse_exactly, parse_word, tell_known
from camelid.rows import Judged, Member

WORDS = Words("relevant", "not relevant")


def members(count: int) -> list[Member]:
    return [Member(str(at), "x", f"text {at}", (), "", at % 4 == 0) for at in range(count)]


def test_known_labels_are_told_wrong_as_often_as_asked_for() -> None:
    rows = members(4000)
    assert [one.value for one in tell_known(rows, 0, 0, 0)] == [row.positive for row in rows]
    told = tell_known(rows, 0.3, 0.05, 0)
    wrong = {True: 0, False: 0}
    for row, one in zip(rows, told, strict=True):
        wrong[bool(row.positive)] += one.value != row.positive
    assert wrong[True] / 1000 == pytest.approx(0.3, abs=0.05)
    assert wrong[False] / 3000 == pytest.approx(0.05, abs=0.02)
    assert tell_known(rows[7:9], 0.3, 0.05, 0) == told[7:9], "whatever is asked with it"
    assert tell_known(rows, 0.3, 0.05, 1) != told


def test_the_likelier_of_two_words() -> None:
    """By the mean log-probability of a token: that of the longer word is a sum of more."""

    def scores(question: Question) -> Scored:
        assert question.answers == ("relevant", "not relevant")
        if question.prompt == "text 2":
            return Scored((), problem="budget")
        return Scored(((-1.0,), (-0.9, -0.9) if question.prompt == "text 0" else (-1.5, -1.5)))

    rows = members(3)
    judged = ask_model(ScriptedEngine([], scores), rows, lambda row: row.text, WORDS, "score")
    assert [(one.outcome, one.value) for one in judged] == [("value", False), ("value", True), ("failed", None)]
    assert count_paid(judged) == 2
    assert is_out_of_budget(judged)
    assert not is_out_of_budget(judged[:2])


def test_the_word_that_is_written() -> None:
    replies = ["Not relevant.", "RELEVANT", "relevant, I think", "I cannot help with that."]
    judged = ask_model(ScriptedEngine(replies), members(4), lambda row: row.text, WORDS, "generate")
    assert [(one.outcome, one.value) for one in judged] == [
        ("value", False), ("value", True), ("malformed", None), ("refused", None)
    ]  # fmt: skip
    assert count_paid(judged) == 4, "what says nothing has its price"
    assert count_paid([*judged, Judged("9", "x", "failed", None, "timeout", problem="timeout")]) == 4


@pytest.mark.parametrize(("reply", "value"), [
    ("not a relevant animal", False), ("Relevant animal.", None), ("A relevant animal.", True),
    ("This is a relevant animal", None), ("", None), ("NOT A RELEVANT ANIMAL. ", False),
])  # fmt: skip
def test_replies(reply: str, value: bool | None) -> None:
    assert parse_word(reply, Words("a relevant animal", "not a relevant animal")).value == value


def test_one_word_is_part_of_the_other() -> None:
    """The card's check 5; as the authors read replies, all that is not the very word is "not relevant"."""
    words = Words("relevant animal", "not a relevant animal")
    replies = ["not a relevant animal", "Relevant animal.", "This is a relevant animal", ""]
    assert [parse_word(text, words).value for text in replies] == [False, True, None, None]
    assert [parse_exactly(text, words).value for text in replies] == [False, False, False, False]
    assert parse_exactly(" relevant animal\n", words).value is True


def test_replies_that_are_read_to_the_letter() -> None:
    replies = ["relevant", "Relevant.", "relevant, I think", "not relevant"]
    judged = ask_model(ScriptedEngine(replies), members(4), lambda row: row.text, WORDS, "exact")
    assert [(one.outcome, one.value) for one in judged] == [("value", True), *[("value", False)] * 3]


def test_control_characters_do_not_reach_the_terminal() -> None:
    shown: list[str] = []
    row = Member("0", "x", "a \x1b[2J b", (), "", None)
    asking.ask_people([row], {"y": (True, "yes")}, read=lambda: "y", write=shown.append)
    assert "\x1b" not in "".join(shown)
