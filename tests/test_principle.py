"""Principles as data, what is measured of a text, its script, and choices that follow a principle or do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from camelid.adherence import (
    choose_answer,
    choose_by_grades,
    compare_picks,
    count_right,
    draw_other,
    hold_out,
    score_by,
    tabulate_principles,
)
from camelid.chat import converse
from camelid.errors import UserError
from camelid.language import is_foreign, tell_script
from camelid.metrics import Draws
from camelid.preferences import ORDER
from camelid.principle import (
    BUILT_IN,
    MEASURES,
    Principle,
    count_brevity,
    count_sentences,
    read_principles,
    share_content,
    share_distinct,
    state,
    turn_round,
    write_bullets,
)
from camelid.rows import Guided, Pair, Predicted

KIND = Principle(name="kind", definition="It is kind.", negative="It is rude.", rule="brevity")
LONG = Principle(name="long", definition="It is long.", negative="It is short.")
BOTH = {"kind": KIND, "long": LONG}


def test_built_in_principles_are_complete() -> None:
    assert sorted(path.stem for path in BUILT_IN.glob("*.toml")) == ["dialogue", "measured"]
    measured, dialogue = read_principles("measured"), read_principles("dialogue")
    assert sorted(one.rule for one in measured.values()) == sorted(MEASURES)
    assert len(dialogue) == 8
    assert {one.rule for one in dialogue.values()} == {""}


def test_measures_by_hand() -> None:
    """The question has three words of four letters or more; two of them stand in the answer."""
    question, answer = "Name the copper kettle.", "A kettle? A copper one. Look!\n- there\n..."
    assert count_brevity(question, answer) == -7
    assert share_content(question, answer) == pytest.approx(2 / 3)
    assert share_content("Is it so?", answer) == 0
    assert share_distinct(question, answer) == pytest.approx(6 / 7)
    assert share_distinct(question, "...") == 0
    assert count_sentences(question, answer) == 4, "the three stops have no word"


def test_a_principle_is_stated_by_its_text_alone() -> None:
    assert state(BOTH, ["kind", "not long", "Use British spelling. "]) == (
        "It is kind.", "It is short.", "Use British spelling.",
    )  # fmt: skip
    assert write_bullets(state(BOTH, ["not kind", "long"])) == "- It is rude.\n- It is long."
    assert turn_round("kind") == "not kind"
    assert turn_round(turn_round("kind")) == "kind"
    with pytest.raises(UserError, match="there is no principle 'not kin'") as raised:
        state(BOTH, ["not kin"])
    assert raised.value.fix.startswith("Did you mean 'kind'? There are: kind, long")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("principle = 3", "principle: Input should be a valid list"),
        ('[[principle]]\nname = "a"\ndefinition = "x"', "principle.0.negative: Field required"),
        ("[[principle]", "is not valid TOML"),
        ('[[principle]]\nname="a"\ndefinition="x"\nnegative="y"\n' * 2, "has several principles called 'a'"),
        ('[[principle]]\nname="not a"\ndefinition="x"\nnegative="y"', "a principle cannot be called 'not a'"),
        ('[[principle]]\nname="a"\ndefinition="x"\nnegative="x"', "'a' says the same when it is turned round"),
        ('[[principle]]\nname="a"\ndefinition="x"\nnegative="y"\nrule="words"', "has the rule 'words', which is none"),
    ],
)
def test_broken_files_of_principles(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=what):
        read_principles(str(path))


def test_a_file_that_is_not_there_names_the_built_in_ones() -> None:
    with pytest.raises(UserError, match="there are no principles 'polite'") as raised:
        read_principles("polite")
    assert "dialogue, measured" in raised.value.fix


def test_scripts() -> None:
    assert tell_script("The kettle, Ω") == "LATIN"
    assert tell_script("Ο βραστήρας") == "GREEK"
    assert tell_script("茶壶在门边") == "CJK"
    assert tell_script("薬缶は扉の傍にある") == tell_script("やかんは扉の傍") == "JAPANESE"
    assert tell_script("12 + 3?") == ""
    assert is_foreign("GREEK", "LATIN")
    assert not is_foreign("GREEK", "GREEK")
    assert not is_foreign("", "LATIN")
    assert not is_foreign("GREEK", "")


# Choices under a principle

PAIRS = [
    Pair("0", "line 1", "Q", "a", "bb"),
    Pair("1", "line 2", "Q", "bb", "ccc"),
    Pair("2", "line 3", "R", "dddd", "a"),
]
GRADES = [{"kind": 1.0, "long": -2.0}, {"kind": 0.0, "long": -1.0}, None]


def test_held_out_rows_come_in_twos() -> None:
    rows = hold_out(PAIRS, GRADES, BOTH)
    assert [(row.id, row.chosen, row.rejected, row.guide) for row in rows] == [
        ("0 kind", "a", "bb", ("It is kind.",)),
        ("0 not kind", "bb", "a", ("It is rude.",)),
        ("0 long", "bb", "a", ("It is long.",)),
        ("0 not long", "a", "bb", ("It is short.",)),
        ("1 long", "ccc", "bb", ("It is long.",)),
        ("1 not long", "bb", "ccc", ("It is short.",)),
    ]


def test_whoever_does_not_read_is_right_in_half_and_never_turns() -> None:
    """Also where everything is equal: a tie goes to the same answer under the principle and its negation."""
    many = [Pair(str(n), "", f"Q{n}", f"a{n}", f"bb{n}" * (n % 3 + 1)) for n in range(20)]
    rows = hold_out(many, [{"kind": 1.0 if n % 2 else -1.0} for n in range(20)], {"kind": KIND})
    for blind in (lambda text: 0.0, len, hash):
        found = [choose_answer(row, (blind(row.chosen), blind(row.rejected))) for row in rows]
        counts = count_right(found)
        assert counts[:, 0].tolist() == [0.5] * 20
        assert counts[:, 3].sum() == 0
    told = [choose_answer(row, (1.0, 0.0)) for row in rows]
    assert count_right(told)[:, 3].sum() == 20
    assert {row.gold for row in told} == set(ORDER), "the better answer stands on either side"


def test_scores_by_hand() -> None:
    """Four pairs of rows: both right (turned), plain right, negated right, both wrong (turned the wrong way)."""
    flags = [(True, True), (True, False), (False, True), (False, False)]
    rows = [Predicted("", "first", "first" if right else "second", {}) for pair in flags for right in pair]
    scored = score_by(["Q", "Q", "R", "S"])(rows, ORDER, Draws(8, 0))
    values = {name: value["value"] for name, value in scored.scores.items()}
    assert values == {"accuracy": 0.5, "plain_accuracy": 0.5, "negated_accuracy": 0.5, "flip_rate": 0.5}
    assert scored.right_N is None, "decisions of one question are not independent: no test that counts rows"


def test_intervals_draw_questions_and_not_rows() -> None:
    """One question of 50 pairs that are all right and one of 50 that are all wrong: a draw of two questions is right on
    all, half or none, so the interval is as wide as can be; a hundred independent pairs would give 0.40 to 0.60."""
    rows = [Predicted("", "first", "first" if n < 100 else "second", {}) for n in range(200)]
    scored = score_by(["Q"] * 50 + ["R"] * 50)(rows, ORDER, Draws(200, 0))
    assert scored.scores["accuracy"] == {"value": 0.5, "low": 0.0, "high": 1.0}
    assert set(np.round(scored.samples, 6)) == {0.0, 0.5, 1.0}


def test_principles_one_by_one() -> None:
    rows = hold_out(PAIRS, GRADES, BOTH)
    found = [
        choose_answer(row, (1.0, 0.0) if row.decided.endswith("long") else (len(row.chosen), len(row.rejected)))
        for row in rows
    ]
    table = tabulate_principles(rows, found)
    assert {name: (entry["pairs"], entry["accuracy"]["value"]) for name, entry in table.items()} == {
        "kind": (1, 0.5),
        "long": (2, 1.0),
    }


def test_the_best_answer_by_principle() -> None:
    """Under kind the shortest is picked of each question and under its negation the longest; long is not measured."""
    answers = [("Q", "one"), ("Q", "one two three"), ("R", "a b"), ("R", "a b c d")]
    rewards = {"kind": [3.0, 1.0, 3.0, 1.0], "not kind": [1.0, 3.0, 1.0, 3.0], "long": [1.0] * 4, "not long": [1.0] * 4}
    table = compare_picks(BOTH, answers, rewards.__getitem__)
    assert table["questions"] == table["answers to a question"] == 2
    assert table["long"] == {"picks that change": 0.0}
    kind = table["kind"]
    assert kind.pop("difference") == {"value": 2.0, "low": 2.0, "high": 2.0}
    assert kind == {
        "picks that change": 1.0,
        "brevity of the picks": -1.5,
        "brevity of all answers": -2.5,
        "brevity of the picks, turned round": -3.5,
    }


def test_other_principle_is_turned_round_with_the_own_one() -> None:
    rows = [Guided(f"0 {form}", "", converse("Q"), "a", "b", decided=form) for form in ("kind", "not kind")]
    assert [draw_other(0, row, ["kind", "long"]) for row in rows] == ["long", "not long"]


def test_grades_choose_and_turn_with_the_principle() -> None:
    """The first answer is kinder by 2; the better one of a row is that which its principle asks for."""
    choose = choose_by_grades([Pair("0", "", "Q", "a", "b")], [{"kind": 2.0}])
    plain = Guided("0 kind", "", converse("Q"), "a", "b", decided="kind")
    turned = Guided("0 not kind", "", converse("Q"), "b", "a", decided="not kind")
    assert choose(plain) == choose(turned) == [2.0, -2.0]
