"""UserError carries every problem of one look; rows come back from their files as they were, whatever their text."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid.errors import UserError, raise_all, try_all
from camelid.rows import Compared, Labelled, Pair, Predicted, Row, Tagged, from_json, iterate_rows, to_json, write_rows

LINE_ENDS = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh\ni\r\nj"  # str.splitlines() breaks at each of them
EMOJI = '👩‍👩‍👧 🇳🇴 é e\u0301 \u200f\x00 \\n "quoted"'
ROWS: list[Row] = [
    Labelled("0", "tweets.csv line 2", LINE_ENDS, "glad"),
    Labelled("1", "tweets.csv line 9", EMOJI, LINE_ENDS),
    Tagged("2", "t.jsonl line 1", ("New", "Cairo", LINE_ENDS), ("B-place", "I-place", "O")),
    Tagged("3", "t.jsonl line 2", (EMOJI,), ("O",)),
    Predicted("4", "glad", "cross", {"glad": 0.1, "cross": 0.9, EMOJI: 1e-17}),
    Predicted("5", None, "cross", {"glad": 1 / 3, "cross": 2 / 3}),
    Predicted("6", ("B-place", "O"), ("O", "O"), {}),
    Predicted("7", None, ("O",), {}),
    Pair("8", "a.jsonl line 1", EMOJI, LINE_ENDS, ""),
    Compared("9", "b.json row 1", 0, None, 3, 0, EMOJI, "base", "judge", "d1"),
]

texts = st.text()
words = st.lists(texts, max_size=4).map(tuple)
shares = st.dictionaries(texts, st.floats(0, 1), max_size=3)
rows = st.one_of(
    st.builds(Labelled, texts, texts, texts, texts),
    st.builds(Tagged, texts, texts, words, words),
    st.builds(Predicted, texts, st.none() | texts, texts, shares),
    st.builds(Predicted, texts, st.none() | words, words, shares),
)


def test_an_error_is_its_two_sentences() -> None:
    error = UserError("the cup is empty", "Fill it.")
    assert (error.what, error.fix, str(error)) == ("the cup is empty", "Fill it.", "the cup is empty\nFill it.")
    assert str(UserError("the cup is empty")) == "the cup is empty"


def test_raise_all_flattens_and_keeps_the_order() -> None:
    nested = UserError("b", also=[UserError("c"), UserError("d", also=[UserError("e")])])
    with pytest.raises(UserError) as raised:
        raise_all([UserError("a"), nested, UserError("f")])
    assert [problem.what for problem in raised.value.all()] == ["a", "b", "c", "d", "e", "f"]


def test_try_all_looks_everywhere_and_keeps_what_was_found() -> None:
    def fail() -> None:
        raise UserError("b", also=[UserError("c")])

    found, problems = try_all({"one": lambda: 1, "two": fail, "three": lambda: 3}, [("a", "mend it")])
    assert found == {"one": 1, "three": 3}
    assert [problem.what for problem in problems] == ["a", "b", "c"]
    assert problems[0].fix == "mend it"


def test_raise_all_of_nothing_is_quiet() -> None:
    quiet = []
    for problems in ([], [UserError("a")]):
        with suppress(UserError):
            raise_all(problems)
            quiet.append(problems)
    assert quiet == [[]]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_row_is_one_line_and_comes_back_equal(row: Row) -> None:
    line = to_json(row)
    assert "\n" not in line
    assert from_json(line) == row
    assert type(from_json(line)) is type(row)


def test_the_line_is_readable_json_that_names_its_type() -> None:
    row = Labelled("0", "t.csv line 2", "fine 😀", "glad")
    assert to_json(row) == (
        '{"row": "Labelled", "id": "0", "origin": "t.csv line 2", "text": "fine 😀", "label": "glad"}'
    )
    assert json.loads(to_json(Tagged("1", "x", ("a", "b"), ("O", "O"))))["tokens"] == ["a", "b"]


def test_a_file_of_rows_comes_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert write_rows(path, iter(ROWS)) == 10
    assert path.read_bytes().count(b"\n") == 10
    assert list(iterate_rows(path)) == ROWS


def test_no_rows_make_an_empty_file(tmp_path: Path) -> None:
    assert write_rows(tmp_path / "rows.jsonl", []) == 0
    assert list(iterate_rows(tmp_path / "rows.jsonl")) == []


@settings(deadline=None)
@given(st.lists(rows, max_size=6))
def test_any_rows_come_back_equal(tmp_path_factory: pytest.TempPathFactory, written: list[Row]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    assert write_rows(path, written) == len(written)
    assert list(iterate_rows(path)) == written


def test_every_look_is_taken_and_each_problem_told_once() -> None:
    def fail(*whats: str) -> None:
        raise_all([UserError(what, "mend it") for what in whats])

    assert try_all({"one": lambda: 1, "two": lambda: None}) == ({"one": 1, "two": None}, [])
    looks = {"one": lambda: fail("a", "b"), "two": lambda: 2, "three": lambda: fail("b", "c")}
    found, problems = try_all(looks, [("complaint", "leave it out")])
    assert found == {"two": 2}
    assert [one.what for one in problems] == ["complaint", "a", "b", "c"]
