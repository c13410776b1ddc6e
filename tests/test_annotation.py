"""Rows to judgements: outcomes, repairs, votes, both orders, scored labels; nearest rows without leaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from camelid.annotation import (
    annotate,
    check_places,
    check_rule,
    choose,
    compare_both_ways,
    count_outcomes,
    count_places,
    count_turned,
    draw_order,
    sample_votes,
    score_answers,
    softmax,
    vote,
    weigh_pairs,
)
from camelid.engines import Completion, Question, Request, Sampling, Scored
from camelid.engines.scripted import ScriptedEngine
from camelid.errors import UserError
from camelid.parsing import Parsed, parse_number
from camelid.retrieval import nearest, tfidf_embedding
from camelid.rows import Judged, Labelled, Message, Preference

ROWS = [Labelled(str(number), f"line {number}", text, "") for number, text in enumerate(("a", "b", "c"))]
DIGIT = parse_number(0, 5)


def say(replies: dict[str, list[str]]) -> ScriptedEngine:
    """An engine that gives each text its replies in order."""
    left = {text: list(values) for text, values in replies.items()}

    def reply(request: Request) -> str:
        text = request.prompt if isinstance(request.prompt, str) else request.prompt[0].content
        return left[text[0]].pop(0)

    return ScriptedEngine(reply)


def test_replies_are_read_in_the_order_of_the_rows() -> None:
    judged = annotate(say({"a": ["2"], "b": ["Topic 5."], "c": ["none"]}), ROWS, lambda row: row.text, DIGIT)
    assert [(one.id, one.outcome, one.value, one.reply) for one in judged] == [
        ("0", "value", 2, "2"),
        ("1", "value", 5, "Topic 5."),
        ("2", "malformed", None, "none"),
    ]


def test_a_malformed_reply_is_repaired_once() -> None:
    engine = say({"a": ["2"], "b": ["hm", "3"], "c": ["hm", "hm"]})
    judged = annotate(engine, ROWS, lambda row: row.text, DIGIT, repair="Number only.")
    assert [(one.outcome, one.value, one.repairs) for one in judged] == [
        ("value", 2, 0),
        ("value", 3, 1),
        ("malformed", None, 1),
    ]
    assert count_outcomes(judged) == {"value": 2, "malformed": 1, "repaired": 1}


def test_a_repair_shows_the_model_what_it_said() -> None:
    asked: list[Any] = []

    def reply(request: Request) -> str:
        asked.append(request.prompt)
        return "hm"

    annotate(ScriptedEngine(reply), ROWS[:1], lambda row: (Message("user", row.text),), DIGIT, repair="Number only.")
    assert asked[1] == (Message("user", "a"), Message("assistant", "hm"), Message("user", "Number only."))


class Flaky:
    """Fails the first time it is asked for a prompt, answers "4" the second time."""

    can = frozenset(("sample",))
    fingerprint, cache = "flaky", None

    def __init__(self) -> None:
        self.seen: set[Any] = set()

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        for index, request in enumerate(requests):
            failed = request.prompt == "c" or request.prompt not in self.seen
            self.seen.add(request.prompt)
            yield index, Completion("", "failed", problem="timeout") if failed else Completion("4", "end")

    def logprobs(self, questions: Sequence[Question]) -> Iterator[tuple[int, Scored]]:
        raise AssertionError


def test_a_failed_request_is_asked_once_more() -> None:
    engine: Any = Flaky()
    judged = annotate(engine, ROWS, lambda row: row.text, DIGIT)
    assert [(one.outcome, one.value) for one in judged] == [("value", 4), ("value", 4), ("failed", None)]


def test_labels_are_compared_by_token_or_by_sum() -> None:
    """Sums -2 and -3; means of 1 and 3 tokens -2 and -1."""
    engine = ScriptedEngine([], lambda question: Scored(((-2.0,), (-1.0, -1.0, -1.0))))
    answers = {"short": " s", "long": " l o n g"}
    [by_token] = choose(engine, ROWS[:1], lambda row: row.text, answers)
    [by_sum] = choose(engine, ROWS[:1], lambda row: row.text, answers, normalised=False)
    assert (by_token.value, by_sum.value) == ("long", "short")
    assert by_sum.shares == pytest.approx({"short": 1 / (1 + np.exp(-1)), "long": 1 / (1 + np.exp(1))})
    equal = ScriptedEngine([], lambda question: Scored(((-2.0,), (-2.0,))))
    assert choose(equal, ROWS[:1], lambda row: row.text, answers)[0].value == "short", "ties go to the first"


def test_a_score_that_failed_is_no_label() -> None:
    engine = ScriptedEngine([], lambda question: Scored((), problem="timeout"))
    [judged] = choose(engine, ROWS[:1], lambda row: row.text, {"x": "x"})
    assert (judged.outcome, judged.value) == ("failed", None)


def ballot(value: Any, outcome: str = "value") -> Judged:
    return Judged("0", "line 0", outcome, value if outcome == "value" else None, str(value))


def test_votes() -> None:
    won = vote([ballot(2), ballot(3), ballot(3), ballot(None, "malformed")])
    assert (won.value, won.shares) == (3, {"2": 1 / 3, "3": 2 / 3})
    assert vote([ballot(2), ballot(3)]).value == 2, "of equals the first"
    assert vote([ballot(None, "refused"), ballot(None, "malformed")]).outcome == "refused"


def test_self_consistency_takes_the_most_frequent_value() -> None:
    engine = say({"a": ["1", "4", "4"]})
    [judged] = sample_votes(
        engine, ROWS[:1], lambda row: row.text, DIGIT, sampling=Sampling(temperature=1.0), samples=3
    )
    assert (judged.value, judged.shares["4"]) == (4, pytest.approx(2 / 3))


def verdict(text: str) -> Parsed:
    return Parsed("value", text) if text in ("first", "second", "tie") else Parsed("malformed", detail=text)


@pytest.mark.parametrize(("straight", "swapped", "value"), [
    ("first", "second", "first"),
    ("second", "first", "second"),
    ("first", "first", "tie"),
    ("tie", "tie", "tie"),
    ("first", "tie", "tie"),
])  # fmt: skip
def test_a_verdict_must_stand_in_both_orders(straight: str, swapped: str, value: str) -> None:
    engine = ScriptedEngine(lambda request: swapped if request.prompt == "a swapped" else straight)
    prompt_of = lambda row, turned: f"{row.text} swapped" if turned else row.text  # noqa: E731
    [judged] = compare_both_ways(engine, ROWS[:1], prompt_of, verdict)
    assert judged.value == value
    assert sum(judged.shares.values()) == pytest.approx(1)


def test_a_judge_that_says_nothing_once_has_said_nothing() -> None:
    engine = ScriptedEngine(lambda request: "hm" if request.prompt == "a swapped" else "first")
    [judged] = compare_both_ways(engine, ROWS[:1], lambda row, turned: row.text + " swapped" * turned, verdict)
    assert (judged.outcome, judged.value) == ("malformed", None)


def test_rules_judge_too() -> None:
    judged = check_rule(ROWS, lambda row: row.text > "a", "behind a")
    assert [one.value for one in judged] == [False, True, True]


def test_shares_of_far_apart_values() -> None:
    assert softmax([-1000.0, -1001.0]) == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))])


def test_nearest_leaves_out_twins_and_orders_from_least_to_most_similar() -> None:
    memory = ["the cat sat on the mat", "a dog barked at night", "The  cat sat on the MAT", "the cat slept on the mat"]
    embed = tfidf_embedding(memory)
    [found] = nearest(memory, ["the cat sat on the mat"], embed, k=2)
    assert [row for row, _ in found] == [1, 3], "0 is the query, 2 the same but for case and spaces"
    assert found[0][1] <= found[1][1]
    [forbidden] = nearest(memory, ["the cat sat on the mat"], embed, 2, may_serve=lambda query, row: row != 3)
    assert [row for row, _ in forbidden] == [1]


def test_near_duplicates_are_left_out_and_ties_go_by_row() -> None:
    vectors = {"q": (1.0, 0.0), "near": (0.99, 0.14), "x": (0.6, 0.8), "y": (0.6, -0.8)}
    embed = lambda texts: np.array([vectors[text] for text in texts])  # noqa: E731
    [found] = nearest(["near", "x", "y"], ["q"], embed, 3)
    assert [row for row, _ in found] == [2, 1], "equally similar: the lower row is the nearer one, which stands last"


def weigher(first: dict[str, float]) -> ScriptedEngine:
    """Likes the mark of the answer shown first with these log-odds, by the prompt's text."""
    return ScriptedEngine([], lambda question: Scored(((first[str(question.prompt)] - 3,), (-3.0,))))


def test_pairs_weighed_by_hand() -> None:
    """Log-odds 2 for the one shown first: P(second) is 1 - s(2) as they are, s(2) swapped, and 1/2 in both orders."""
    share = 1 / (1 + np.exp(-2))
    engine = weigher({"a": 2.0, "b!": 2.0, "c": 2.0, "c!": 2.0})
    orders = {"a": (False,), "b": (True,), "c": (False, True)}
    prompt = lambda row, swapped: row.text + "!" * swapped  # noqa: E731
    found = weigh_pairs(engine, ROWS, prompt, ("x", "y"), lambda row: orders[row.text])
    assert [one.value for one in found] == pytest.approx([1 - share, share, 0.5])
    assert [one.shares for one in found] == [
        {"straight": pytest.approx(share)},
        {"swapped": pytest.approx(share)},
        {"straight": pytest.approx(share), "swapped": pytest.approx(share)},
    ]
    assert {question.answers for question in engine.asked} == {("x", "y")}  # type: ignore[union-attr]


def test_a_pair_without_a_mark_or_with_a_failure_has_no_value() -> None:
    answers = iter([Scored(((-np.inf,), (-np.inf,))), Scored((), problem="timeout"), Scored(((-np.inf,), (-2.0,)))])
    engine = ScriptedEngine([], lambda question: next(answers))
    prompt = lambda row, swapped: row.text  # noqa: E731
    found = weigh_pairs(engine, ROWS, prompt, ("x", "y"), lambda row: (False,))
    assert [(one.outcome, one.value, one.problem) for one in found] == [
        ("malformed", None, ""), ("failed", None, "timeout"), ("value", 1.0, "")
    ]  # fmt: skip


def test_an_order_is_drawn_from_the_texts() -> None:
    """About half each way; the same texts are shown in the same order whichever of them is named first."""
    drawn = [draw_order(f"one {n}", f"two {n}", "q") for n in range(400)]
    assert 160 < sum(drawn) < 240
    assert drawn == [not draw_order(f"two {n}", f"one {n}", "q") for n in range(400)]
    assert drawn != [draw_order(f"one {n}", f"two {n}", "another") for n in range(400)]


@pytest.mark.parametrize(("shares", "place"), [((0.9, 0.51), "first"), ((0.1, 0.49), "second"), ((0.9, 0.5), "")])
def test_a_judge_of_places_is_found(shares: tuple[float, ...], place: str) -> None:
    judged = [Judged(str(n), "", "value", 0.5, "", shares={"straight": share}) for n, share in enumerate(shares)]
    assert count_places(judged) == sum(share > 0.5 for share in shares) / 2
    assert count_places([]) is None
    if place:
        with pytest.raises(UserError, match=f"shown {place} in all 2"):
            check_places(judged)
    else:
        check_places(judged)


def test_turns_with_the_order_by_hand() -> None:
    """Shares are of the answer shown first: the same one wins twice where just one of the two is above a half."""
    pairs = [(0.9, 0.2), (0.1, 0.8), (0.9, 0.8), (0.3, 0.4)]
    judged = [
        Judged(str(at), "x", "value", 0.5, "", shares={"straight": one, "swapped": other})
        for at, (one, other) in enumerate(pairs)
    ]
    found = count_turned([*judged, Judged("drawn", "x", "value", 0.5, "", shares={"straight": 0.9})])
    assert found is not None
    assert found["value"] == 0.5
    assert count_turned(judged[:2])["value"] == 0  # type: ignore[index]
    assert count_turned([]) is None


def test_impossible_tokens_are_raised_to_a_floor_and_counted() -> None:
    rows = [Preference(str(n), "", (Message("user", f"{n}?"),), "yes", "no") for n in range(2)]
    scored = {rows[0].prompt: Scored(((-1.0, -30.0, -30.5, float("-inf")), (-2.0,)))}
    engine = ScriptedEngine([], lambda asked: scored.get(asked.prompt, Scored((), problem="context overflow")))  # type: ignore[call-overload]
    kept, failed = score_answers(engine, rows, lambda row: (row.chosen, row.rejected), floor=-30.0)
    assert kept.value == {"logprobs": [[-1.0, -30.0, -30.0, -30.0], [-2.0]], "clipped": 2}
    assert (failed.outcome, failed.value, failed.reply) == ("failed", None, "context overflow")
    asked: list[Any] = engine.asked
    assert [one.answers for one in asked] == [("yes", "no")] * 2
    assert all(one.ended for one in asked)
    again = [score_answers(engine, [row], lambda row: ("other",))[0].reply for row in (rows[0], rows[0])]
    assert again == [kept.reply] * 2, "the digest is that of the prompt"
