"""The form of an answer: each part by hand, and what must not fool it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from camelid.verify.form import Form, count_sentences, count_words, fade, grade_form, grade_parts, repeats

FORM = Form()
GOOD = "The bus was late because the bridge was closed."


def test_a_good_answer_has_all_five_points() -> None:
    assert grade_form(GOOD, FORM) == 5.0


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (GOOD[:-1], {"sentences": 0.0, "ending": 0.0}),
        (f"* {GOOD}", {"format": 0.0}),
        ("The bus, the bus, the bus, the bus was late today.", {"repetition": 0.0}),
        ("Late again.", {"length": 1 - 4 / 6}),
        (f"{GOOD} {GOOD.replace('bus', 'tram')}", {"length": 1 - 4 / 14, "sentences": 0.0, "repetition": 0.0}),
        ("It was late. Then it came after all the others.", {"sentences": 0.0}),
    ],
)
def test_what_is_missing_costs_its_part(text: str, parts: dict[str, float]) -> None:
    expected = dict.fromkeys(("format", "length", "sentences", "repetition", "ending"), 1.0) | parts
    assert grade_parts(text, FORM) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "  \n", "...", "!?"])
def test_nothing_has_no_points(text: str) -> None:
    assert grade_form(text, FORM) == 0.0


def test_parts_fade() -> None:
    """Below 6 by sixths, above 14 by fourteenths, and never below 0."""
    values = [fade(count, 6, 14) for count in (0, 3, 6, 14, 21, 28, 99)]
    assert values == pytest.approx([0, 0.5, 1, 1, 0.5, 0, 0])


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three?", 3),
        ("It costs 3.5 euros.", 1),
        ("Really?! Yes...", 2),
        ('He said "no." Then he left.', 2),
        ("Fruit, e.g. apples.", 1),
        ("No end", 0),
    ],
)
def test_sentences(text: str, count: int) -> None:
    assert count_sentences(text) == count


def test_words_and_groups() -> None:
    assert count_words("Don't re-open 3 doors — ever_again!") == 6
    assert repeats("one two three one two three")
    assert repeats("One two three, ONE TWO THREE")
    assert not repeats("one two one two")
    assert not repeats("a a a")
    assert repeats("a a a a")


@pytest.mark.parametrize("values", [{"pattern": "("}, {"least_words": 9, "most_words": 3}])
def test_a_form_that_cannot_be_met_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Form.model_validate(values)
