"""What replies say, by tables of replies written for the purpose, and that no text whatever breaks a parser."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camelid.engines import Completion
from camelid.parsing import (
    Parsed,
    Parser,
    is_refusal,
    parse_behind,
    parse_choice,
    parse_json,
    parse_number,
    parse_score,
    parse_tagged,
    parse_verdict,
    read_reply,
    text_before,
)

SENTIMENTS = ("positive", "negative", "neutral")
NOTHING = None  # no value: the reply is malformed


def value_of(parser: Parser, text: str) -> Any:
    """The value; a reply without one must be malformed and say why."""
    parsed = parser(text)
    if parsed.outcome == "value":
        assert parsed.detail == ""
        return parsed.value
    assert (parsed.outcome, parsed.value) == ("malformed", None)
    assert parsed.detail
    return NOTHING


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        ("Category 2.", 2),
        ("**2**", 2),
        ("Topic: 2 - Life", 2),
        ("12", NOTHING),
        ("", NOTHING),
        ("I cannot", NOTHING),
        ("0", 0),
        ("5", 5),
        ("6", NOTHING),
        ("12 or rather 2", NOTHING),  # only the first number counts
        ("S2", 2),
        ("Topic-2", 2),
        ("2-3", 2),
        ("02", 2),
        ("2nd of them", 2),
        ("_2_", 2),
        ("well ...2", 2),
        ("٢", 2),
        ("-2", NOTHING),
        ("−2", NOTHING),
        ("2.5", NOTHING),
        (".5", NOTHING),
        ("2e1", NOTHING),
        ("²", NOTHING),
        ("9" * 5000, NOTHING),
        ("0" * 5000 + "2", 2),
    ],
)
def test_first_whole_number(text: str, value: int | None) -> None:
    found = value_of(parse_number(0, 5), text)
    assert found == value
    assert type(found) is type(value)


def test_numbers_below_zero_where_the_range_has_them() -> None:
    parser = parse_number(-1, 1)
    assert [value_of(parser, text) for text in ("-1", "−1", "Sentiment: -1", "1", "-2")] == [-1, -1, -1, 1, NOTHING]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("POSITIVE", "positive"),
        ("Neutral.", "neutral"),
        ("mixed", NOTHING),
        ("", NOTHING),
        ("**Negative**", "negative"),
        ("_Negative_", "negative"),
        ("label:negative;", "negative"),
        ("neutral, not positive", "neutral"),
        ("positively", NOTHING),
        ("seropositive", NOTHING),
        ("non-positive", NOTHING),
        ("not_positive", NOTHING),
        ("positive-ish", NOTHING),
        ("- positive", "positive"),
        ("neg", "negative"),
        ("It is good, positive", "positive"),
        ("GOOD\nnegative", "positive"),
    ],
)
def test_first_word_that_is_a_choice(text: str, value: str | None) -> None:
    assert (
        value_of(parse_choice(SENTIMENTS, {"neg": "negative", "very good": "positive", "good": "positive"}), text)
        == value
    )


def test_longest_choice_wins_and_keeps_its_spelling() -> None:
    parser = parse_choice(["Relevant", "Not relevant", "C", "C++", "-1", "1"])
    replies = ["not\n relevant", "NOT RELEVANT", "relevant", "irrelevant", "c++", "C.", "-1", "1", "11"]
    values = ["Not relevant", "Not relevant", "Relevant", NOTHING, "C++", "C", "-1", "1", NOTHING]
    assert [value_of(parser, reply) for reply in replies] == values


@pytest.mark.parametrize(
    ("choices", "aliases"), [(["a", ""], {}), (["a"], {"": "a"}), (["a"], {"b": "c"}), (["Yes", "yes"], {})]
)
def test_choices_that_cannot_be_told_apart_are_refused(choices: list[str], aliases: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="choices"):
        parse_choice(choices, aliases)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8.0),
        ("8.5", 8.5),
        ("Score: 8.", 8.0),
        ("**8**/10", 8.0),
        ("8/10", 8.0),
        ("8 / 10", 8.0),
        ("8 out of 10", 8.0),
        ("10", 10.0),
        ("1", 1.0),
        ("On a scale of 1 to 10: 7", 7.0),
        ("From 1-10, 7", 7.0),
        ("between 1 and 10 I say 7", 7.0),
        ("1 to 10", NOTHING),
        ("1 to 100: 7", NOTHING),
        ("4/5", NOTHING),
        ("4 out of 5", NOTHING),
        ("7-8", NOTHING),
        ("7 – 8", NOTHING),
        ("7 or 8", NOTHING),
        ("8,5", NOTHING),
        ("1.2.3", NOTHING),
        ("11", NOTHING),
        ("0", NOTHING),
        ("-3", NOTHING),
        ("9e0", 9.0),
        ("5e-1", NOTHING),
        ("", NOTHING),
        ("ten", NOTHING),
        ("9" * 400, NOTHING),
    ],
)
def test_first_score(text: str, value: float | None) -> None:
    found = value_of(parse_score(1, 10), text)
    assert found == value
    assert type(found) is type(value)


def test_scores_below_one() -> None:
    replies = (".5", "0.25", "1e-3", "-0.5", "...5", "0-1: 0.5")
    assert [value_of(parse_score(0, 1), text) for text in replies] == [0.5, 0.25, 0.001, NOTHING, NOTHING, 0.5]
    assert value_of(parse_score(-1, 1), "-.5") == -0.5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"score": 3}', {"score": 3}),
        ('Here: ```json\n{"score": 3.5, "why": "a {b} }"}\n``` done {"score": 1}', {"score": 3.5, "why": "a {b} }"}),
        ('{braces} and {"score": 3}', {"score": 3}),
        ('[{"score": 3}]', {"score": 3}),
        ('{"score": 3, "why": "two\nlines"}', {"score": 3, "why": "two\nlines"}),
        ('{"score": 3, "score": 4}', {"score": 4}),
        ("{'score': 3}", NOTHING),
        ('{"why": "no key"} {"score": 3}', NOTHING),  # the first object counts
        ('{"inner": {"score": 3}, "cut": ', NOTHING),
        ('{"inner": {"score": 3}, "off" 1}', NOTHING),
        ('{"score": "3"}', NOTHING),
        ('{"score": true}', NOTHING),
        ('{"score": null}', NOTHING),
        ('{"score": NaN}', NOTHING),
        ('{"score": 1, "far": 1e999}', NOTHING),
        ('{"score": 1, "half": "\\ud83d"}', NOTHING),
        ('{"score": 1, "long": ' + "9" * 5000 + "}", NOTHING),
        ('{"score": ' * 100_000, NOTHING),
        ("{" * 100_000, NOTHING),
        ("[]", NOTHING),
        ("", NOTHING),
    ],
)
def test_first_json_object(text: str, value: dict[str, Any] | None) -> None:
    assert value_of(parse_json({"score": float}), text) == value


def test_what_a_json_object_lacks_is_said() -> None:
    kinds = parse_json({"label": str, "codes": list, "sure": bool, "count": int})
    right = {"label": "unsafe", "codes": [1], "sure": True, "count": 2, "more": None}
    assert value_of(kinds, json.dumps(right)) == right
    assert kinds('{"sure": true, "count": 1}').detail == "lacks label, codes"
    wrong = {"label": 1, "codes": {}, "sure": 0, "count": 1.0}
    assert kinds(json.dumps(wrong)).detail == (
        "label is a whole number, not a text; codes is an object, not a list; "
        "sure is a whole number, not true or false; count is a number, not a whole number"
    )
    assert value_of(parse_json(["label"]), '{"label": null}') == {"label": None}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<a>x</a>", "x"),
        ("thinking\n<A>\n x y \n</A> more <a>z</a>", "x y"),
        ("I put it in <a> tags: <a>x</a>", "x"),
        ("</a> <a>x</a>", "x"),
        ("<a>x", NOTHING),
        ("x</a>", NOTHING),
        ("<a> </a>", NOTHING),
        ("<ab>x</ab>", NOTHING),
        ("", NOTHING),
    ],
)
def test_text_between_tags(text: str, value: str | None) -> None:
    assert value_of(parse_tagged("<a>", "</a>"), text) == value


def test_tags_hand_their_text_to_another_parser() -> None:
    parser = parse_tagged("[[", "]]", parse_score(1, 10))
    assert value_of(parser, "In 2 of 3 points it is right. Rating: [[7]]") == 7.0
    assert parser("[[11]]").detail == "11 is outside 1 to 10"
    assert parser("[[]]").detail == "is empty"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[[A]]", "A"),
        ("B is better: [[B]].", "B"),
        ("[[ tie ]]", "tie"),
        ("[[Tie]]", "tie"),
        ("[[a]]", "A"),
        ("[B]", "B"),
        ("[A] is worse than [B]: [[B]]", "B"),
        ("[[A]], so [[A]]", "A"),
        ("[[A]] or [[B]]", NOTHING),
        ("[A] or [B]", NOTHING),
        ("A", NOTHING),
        ("[[C]]", NOTHING),
        ("[[AB]]", NOTHING),
        ("", NOTHING),
    ],
)
def test_verdict_of_a_pairwise_judge(text: str, value: str | None) -> None:
    assert value_of(parse_verdict, text) == value


@pytest.mark.parametrize(
    "text",
    [
        "I cannot",
        "I can't help with that.",
        "I can’t help with that.",
        "**I cannot assist** with this",
        "I'm sorry, but I can't comply.",
        "Sorry - I won't label such a text",
        "I am unable to process this request",
        "I'm really not comfortable with it",
        "I must respectfully decline.",
        "I politely decline to answer",
        "As an AI language model, I do not feel comfortable judging this",
        "Unfortunately, this is not something I can do",
        "No. I will not.",
        "I understand the wish.\n\nHowever, it is against my guidelines.",
        "This request violates our content policy",
        "I'd rather not",
    ],
)
def test_refusals(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mixed",
        "Sorry for the wait. The mood is mixed",
        "I cannot tell which it is",
        "I can't really say",
        "I am not able to determine the topic",
        "Unfortunately I cannot reliably identify a topic",
        "The speaker says: I cannot help you",
        "I can classify this",
        "As an AI, let me weigh both sides",
        "Oh, Delhi can't be it",
        "This request is about history" + " and more" * 50 + ". I cannot help",
    ],
)
def test_what_only_looks_like_a_refusal(text: str) -> None:
    assert not is_refusal(text)


@pytest.mark.parametrize(
    ("text", "stop", "outcome"),
    [
        ("2", "end", "value"),
        ("2", "length", "value"),
        ("I cannot, but 2 it would be", "end", "value"),
        ("I cannot", "end", "refused"),
        ("I cannot", "length", "truncated"),
        ("Let me think", "length", "truncated"),
        ("", "length", "truncated"),
        ("Let me think", "string", "malformed"),
        ("", "end", "malformed"),
        ("9", "end", "malformed"),
        ("2", "failed", "failed"),
        ("", "failed", "failed"),
    ],
)
def test_outcomes(text: str, stop: Any, outcome: str) -> None:
    parsed = read_reply(Completion(text, stop, problem="timeout" if stop == "failed" else ""), parse_number(0, 5))
    assert parsed.outcome == outcome
    assert parsed.value == (2 if outcome == "value" else None)
    assert bool(parsed.detail) == (outcome != "value")
    if stop == "failed":
        assert parsed.detail == "timeout"


def test_a_false_value_is_a_value() -> None:
    for text, parser in [("0", parse_number(0, 1)), ("0", parse_score(0, 1)), ("{}", parse_json([]))]:
        assert read_reply(Completion(text, "length"), parser).outcome == "value"


def test_details_stay_short() -> None:
    long = "I cannot " + "x" * 5000
    for parsed in (parse_number(0, 5)("9" * 5000), read_reply(Completion(long, "end"), parse_number(0, 5))):
        assert len(parsed.detail) < 100


PIECES = st.sampled_from(
    [
        "2",
        "-",
        ".",
        "e",
        "/",
        "to",
        "[[",
        "]]",
        "A",
        "tie",
        "<a>",
        "</a>",
        '{"score": ',
        "}",
        '"',
        "\\",
        "\n",
        "I cannot",
    ]
)
PARSERS = {
    "choice": parse_choice(SENTIMENTS),
    "number": parse_number(0, 5),
    "score": parse_score(0, 5),
    "json": parse_json({"score": int}),
    "tagged": parse_tagged("<a>", "</a>"),
    "verdict": parse_verdict,
}


@given(st.one_of(st.text(), st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=12).map("".join)))
def test_whatever_the_reply_there_is_an_outcome(text: str) -> None:
    for parser in PARSERS.values():
        value_of(parser, text)
        outcomes = [read_reply(Completion(text, stop), parser).outcome for stop in ("end", "length", "failed")]
        assert outcomes in [
            ["value", "value", "failed"],
            ["refused", "truncated", "failed"],
            ["malformed", "truncated", "failed"],
        ]


@given(st.integers(-200, 200), st.sampled_from(["{}", "Answer: {}.", "**{}**", "<b>{}</b> 3", "({})", "= {}\n7"]))
def test_a_number_is_read_wherever_it_stands(number: int, frame: str) -> None:
    found = value_of(parse_number(-99, 99), frame.format(number))
    assert found == (number if -99 <= number <= 99 else NOTHING)


@given(st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=9), st.booleans()), min_size=1))
def test_any_object_comes_back_from_its_fence(value: dict[str, Any]) -> None:
    fenced = f"Sure.\n```json\n{json.dumps(value, indent=1)}\n```"
    assert parse_json(list(value))(fenced) == Parsed("value", value)


def test_importing_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, camelid.parsing, camelid.agreement, camelid.ranking; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_behind_the_last_marker_of_its_line() -> None:
    """The last one counts, readable or not, and the next line is none of it."""
    parse = parse_behind("Grade:", parse_number(0, 9))
    assert parse("Grade: 3\nno, __grade__ : 4 of them").value == 4
    for text in ("Grade: 3\nGrade:\n4", "Grade: 3 Grade: none", "Upgrade: 4", "Grade 4"):
        assert parse(text).outcome == "malformed", text


def test_what_stands_before_the_last_marker() -> None:
    assert text_before("Label:", "So.\nLabel: a?\nLABEL: b") == "So.\nLabel: a?\n"
    assert text_before("Label:", "So it is") == "So it is"
