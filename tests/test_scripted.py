"""The scripted engine gives what is written down, in order, and says when there is no more."""

from __future__ import annotations

import pytest

from camelid.engines import Completion, Question, Request, Sampling, Scored
from camelid.engines.scripted import ScriptedEngine
from camelid.errors import UserError
from camelid.sampling import sample
from camelid.scoring import score


def test_a_list_is_used_in_order_and_over_calls() -> None:
    engine = ScriptedEngine(["a", "b", "c"])
    assert list(engine.complete([Request("1"), Request("2")])) == [
        (0, Completion("a", "end")),
        (1, Completion("b", "end")),
    ]
    assert list(engine.complete([Request("3")])) == [(0, Completion("c", "end"))]
    assert engine.asked == [Request("1"), Request("2"), Request("3")]


def test_a_list_that_runs_out_is_an_error() -> None:
    answers = ScriptedEngine(["only"]).complete([Request("1"), Request("2")])
    assert next(answers)[1].text == "only"
    with pytest.raises(UserError, match="all of its 1 replies"):
        next(answers)


def test_a_function_sees_the_whole_request() -> None:
    engine = ScriptedEngine(lambda request: f"{request.prompt} {request.seed} {request.sample}")
    found = sample(engine, ["x", "y"], samples=2, seed=7)
    assert [[completion.text for completion in of_one] for of_one in found] == [["x 7 0", "x 7 1"], ["y 7 0", "y 7 1"]]


def test_a_reply_ends_before_the_first_stop_string() -> None:
    engine = ScriptedEngine(["one END two\nthree", "nothing to stop at", "\nat once"])
    request = Request("x", Sampling(stop=("\n", "END", "")[:2]))
    found = [completion for _, completion in engine.complete([request] * 3)]
    assert [(completion.text, completion.stop) for completion in found] == [
        ("one ", "string"),
        ("nothing to stop at", "end"),
        ("", "string"),
    ]


def test_scores_are_made_by_the_function() -> None:
    engine = ScriptedEngine([], lambda question: Scored(tuple((-float(len(answer)),) for answer in question.answers)))
    questions = [Question("x", ("a", "bb")), Question("y", ("ccc",))]
    assert engine.can == {"sample", "score"}
    assert [scored.sums for scored in score(engine, questions)] == [[-1.0, -2.0], [-3.0]]
    assert engine.asked == questions


def test_without_scores_it_only_samples() -> None:
    engine = ScriptedEngine(["a"])
    assert engine.can == {"sample"}
    with pytest.raises(UserError, match="no scores"):
        next(engine.logprobs([Question("x", ("a",))]))


def test_nothing_is_cached() -> None:
    engine = ScriptedEngine(["a", "b"])
    assert engine.cache is None
    assert [sample(engine, ["same"])[0][0].text for _ in range(2)] == ["a", "b"]
