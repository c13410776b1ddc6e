"""Answers of a policy: which are candidates, how they make pairs, the best of several, and two policies compared."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from camelid import candidates, chat, preferences
from camelid.engines import Completion
from camelid.rows import Judged, Pair, Preference

PAIR = Pair("0", "line 1", "Where is the kettle?", "By the door, as always.", "I do not know where it is.")


def draws(texts: Sequence[str], rewards: Sequence[float], **options: Any) -> set[Any]:
    return {preferences.build_pair(texts, rewards, random.Random(seed), **options) for seed in range(40)}


def test_check_7_pairs() -> None:
    assert draws("abc", [1, 3, 2]) == {(1, 0), (1, 2)}
    assert draws("abc", [2, 2, 2]) == {("all rewards are equal", None)}
    assert draws("aba", [3, 1, 3]) == {(0, 1)}, "an equal text is never rejected"
    assert draws("aab", [3, 3, 1]) == {(0, 2)}
    assert draws("abc", [3, 3, 1]) == {(0, 1), (0, 2)}, "of equal rewards the first is chosen"
    assert draws(["a", "a"], [3.0, 2.9]) == {("no other text is so much worse", None)}


def test_equal_texts_count_once_and_margin_and_worst_choose() -> None:
    drawn = [
        preferences.build_pair("abbbbbbbc", [9, 1, 1, 1, 1, 1, 1, 1, 2], random.Random(seed))[1] for seed in range(400)
    ]
    assert 0.4 < drawn.count(8) / len(drawn) < 0.6, "seven times the same text is one candidate"
    assert draws("abcd", [1, 5, 3, 4], margin=2) == {(1, 0), (1, 2)}
    assert draws("abcd", [1, 5, 3, 4], worst=True) == {(1, 0)}
    assert draws("ab", [1, 5], margin=4.5) == {("no other text is so much worse", None)}


def test_what_is_no_candidate() -> None:
    replies = [
        Completion("Yes", "end"),
        Completion(" \n", "end"),
        Completion("Yes, it", "length"),
        Completion("Yes", "failed", problem="timeout"),
        Completion("odd", "end"),
    ]
    faults = [candidates.fault_of(reply, lambda text: text != "odd") for reply in replies]
    assert faults == ["", "empty", "cut off at max_new_tokens", "timeout", "not decoded alike by strong and weak"]


def test_one_answer_is_the_best_and_makes_no_pair() -> None:
    assert candidates.pick_best(PAIR, ["only"], [0.5]).value["answer"] == "only"
    assert worst_under_best(["only"], [0.5]) == "all rewards are equal"
    assert worst_under_best(["one", "two"], [0.5, 0.5]) == "all rewards are equal"
    assert worst_under_best(["one", "two", "three"], [0.5, 0.9, 0.1]) == Preference(
        "0", "line 1", chat.converse(PAIR.instruction), "two", "three"
    )


def worst_under_best(texts: Sequence[str], values: Sequence[float]) -> Any:
    return candidates.pair_up(candidates.pose(PAIR), texts, values, random.Random(0), worst=True)


def test_what_came_of_questions() -> None:
    drawn = [
        Judged("0", "", "value", {"texts": ["a", "b"], "left out": {"empty": 1}}, ""),
        Judged("1", "", "value", {"texts": ["a", "a"], "left out": {"empty": 2}}, ""),
        Judged("2", "", "malformed", None, "no answer left: empty"),
        Judged("3", "", "value", {"texts": ["a", "b"], "left out": {}}, ""),
    ]
    assert candidates.texts_of(drawn) == {"0": ["a", "b"], "1": ["a", "a"], "3": ["a", "b"]}
    tried = [candidates.pose(PAIR), "all rewards are equal"]
    left = {"no answer left: empty": 1, "all rewards are equal": 1, "fewer than two different answers": 1}
    assert candidates.count_pairs(drawn, tried) == {
        "questions": 4, "pairs": 1, "left out": left, "answers that were no candidates": {"empty": 3},
    }  # fmt: skip


def test_two_policies_are_compared_where_both_have_a_reward() -> None:
    """Rewards 1 and 3 before, 2 and 5 after: means 2 and 3.5, differences 1 and 2; the third question is left out."""
    texts = {"before": ["ab", "abcd", "x"], "after": ["a", "ab", "x"]}
    found = candidates.compare_answers(texts, {"before": [1.0, 3.0, None], "after": [2.0, 5.0, 9.0]})
    assert found["questions"] == 2
    values = [found[f"reward {name}"]["value"] for name in ("before", "after", "after minus before")]
    assert values == pytest.approx([2.0, 3.5, 1.5])
    assert (found["reward after minus before"]["low"], found["reward after minus before"]["high"]) == (1.0, 2.0)
    assert (found["characters before"], found["characters after"]) == (3.0, 1.5)
    assert candidates.compare_answers(texts, {"before": [None] * 3, "after": [1.0] * 3}) == {"questions": 0}
