"""Scores of answers: rules, rewards, written judgements, penalties, agreement; answers that were cut off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from camelid import chat
from camelid.candidates import draw_candidates
from camelid.engines import Completion, Request, Sampling
from camelid.engines.scripted import ScriptedEngine
from camelid.evaluation import evaluate, score_means
from camelid.judges import (
    Answers,
    describe_judgements,
    judge_by_model,
    judge_by_rewards,
    judge_by_rule,
    keep_scored,
    measure_agreement,
    penalise_length,
    tell_scores,
)
from camelid.parsing import parse_score
from camelid.rows import Judged, Predicted, Preference

SAMPLING = Sampling(8, 0.7)


def row_of(*texts: str, row_id: str = "0") -> Answers:
    return Answers(row_id, "line 1", chat.converse("Why?"), texts)


def ask(prompt: Any, text: str) -> Any:
    return chat.converse(f"{prompt[-1].content} {text}")


class Endpoint:
    """Completions in order, some of which failed or were cut off."""

    can, fingerprint, cache = frozenset(("sample",)), "endpoint", None

    def __init__(self, completions: Sequence[Completion]) -> None:
        self.completions = completions

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        yield from enumerate(self.completions[: len(requests)])

    def logprobs(self, questions: Any) -> Any:
        raise NotImplementedError


def test_a_rule_judges_each_text() -> None:
    (judged,) = judge_by_rule(lambda text: float(len(text)))([row_of("a", "bcd")])
    assert judged.value == {"scores": [1.0, 3.0], "judgements": [[1.0], [3.0]]}


def test_rewards_pass_over_prompts_without_answers() -> None:
    asked: list[Any] = []

    def score_many(prompts: Any, answers: Any) -> list[list[float]]:
        asked.append(answers)
        return [[float(len(text)) for text in texts] for texts in answers]

    rows = [row_of(row_id="0"), row_of("ab", "c", row_id="1")]
    found = judge_by_rewards(score_many)(rows)
    assert [one.value["scores"] for one in found] == [[], [2.0, 1.0]]
    assert asked == [[("ab", "c")]]


def test_the_same_text_has_the_same_score() -> None:
    """Requests for one text are equal wherever it stands: with another seed an answer could win against itself."""
    engine = ScriptedEngine(lambda request: f"{len(request.prompt[-1].content) % 5}.{request.sample}")  # type: ignore[union-attr]
    judge = judge_by_model(engine, ask, parse_score(0, 5), SAMPLING, 2, seed=3)
    first, second = judge([row_of("same", "another one")]), judge([row_of("same")])
    assert first[0].value["scores"][0] == second[0].value["scores"][0]
    assert len({(request.seed, request.sample) for request in engine.asked}) == 2  # type: ignore[union-attr]


def test_judgements_are_averaged_and_requests_that_failed_are_asked_again() -> None:
    failed = Completion("", "failed", problem="timeout")
    some = [Completion("4", "end"), failed, Completion("2", "end"), Completion("3", "end")]
    (judged,) = judge_by_model(Endpoint(some), ask, parse_score(0, 5), SAMPLING, 2, 0)([row_of("a", "b")])
    assert judged.value["scores"] == [4.0, 2.5]
    assert judged.value["outcomes"] == [["value", "failed"], ["value", "value"]]
    (judged,) = judge_by_model(Endpoint([failed] * 2), ask, parse_score(0, 5), SAMPLING, 2, 0)([row_of("a")])
    assert (judged.outcome, judged.problem) == ("failed", "timeout")
    (judged,) = judge_by_model(Endpoint([]), ask, parse_score(0, 5), SAMPLING, 2, 0)([row_of()])
    assert judged.value["scores"] == []


def test_length_is_penalised_by_words() -> None:
    """3 - 0.5 * 4 / 100 = 2.98; what has no score keeps none."""
    judge = penalise_length(lambda rows: [tell_scores(row, [[3.0], [None]]) for row in rows], 0.5)
    (judged,) = judge([row_of("four words are here", "x")])
    assert judged.value["scores"] == [pytest.approx(2.98), None]
    assert judged.value["judgements"] == [[3.0], [None]]


def test_judgements_are_described() -> None:
    """Standard deviations of (1, 3) and (2, 2) are 1 and 0; single judgements have none."""
    outcomes = [["value", "value"], ["value", "value"], ["value", "truncated"]]
    outcomes = [["value", "value"], ["value", "value"], ["value", "truncated"]]
    told = [
        tell_scores(row_of("a", "b", "c"), [[1, 3], [2, 2], [5, None]], outcomes=outcomes),
        Judged("1", "", "failed", None, "", problem="timeout"),
    ]
    found = describe_judgements(told)
    assert found["judgements"] == 5
    assert found["judgements not read"] == {"truncated": 1}
    assert found["prompts whose judgements failed"] == {"timeout": 1}
    assert found["standard deviation of one answer's"] == 0.5


def test_agreement_counts_ties_as_one_half() -> None:
    scores = [(3.0, 1.0), (2.0, 2.0), (1.0, 4.0), (5.0, 0.0), (None, 1.0)]
    found = measure_agreement([tell_scores(row_of("a", "b"), [[first], [second]]) for first, second in scores])
    assert (found["pairs"], found["both read"], found["ties"]) == (5, 4, 1)
    assert found["agreement"]["value"] == 0.625
    assert found["agreement"]["low"] < 0.625 < found["agreement"]["high"]
    assert measure_agreement([])["agreement"] is None


def test_answers_without_a_score_are_left_out() -> None:
    kept = keep_scored("past", ("a", "b", "c"), tell_scores(row_of("a", "b", "c"), [[1], [None], [0]]))
    assert (kept.role, kept.texts, kept.scores) == ("past", ("a", "c"), (1, 0))
    assert keep_scored("past", ("a",), Judged("0", "", "failed", None, "")).texts == ()


def test_answers_that_were_cut_off_stay_where_they_may() -> None:
    some = [Completion("whole", "end"), Completion("cut", "length"), Completion(" ", "length"), Completion("", "end")]
    row = Preference("0", "", chat.converse("Why?"), "", "")
    (kept,) = draw_candidates(Endpoint(some), [row], SAMPLING, 4, 0, keeps_cut=True)
    assert kept.value == {"texts": ["whole", "cut"], "left out": {"empty": 2}, "cut": 1}
    (strict,) = draw_candidates(Endpoint(some), [row], SAMPLING, 4, 0)
    assert strict.value == {"texts": ["whole"], "left out": {"cut off at max_new_tokens": 2, "empty": 1}}


def test_means_of_scores_are_compared_row_by_row() -> None:
    """Systems that differ by one half on every row do so in every resample."""
    one = [Predicted(str(n), None, float(n), {}) for n in range(20)]
    other = [Predicted(str(n), None, n - 0.5, {}) for n in range(20)]
    found = evaluate({"one": one, "other": other}, [], "one", "score", scorer=score_means)
    assert found["systems"]["one"]["mean_score"]["value"] == 9.5
    gap = found["against"]["other"]["difference"]
    assert [gap[end] for end in ("value", "low", "high")] == pytest.approx([0.5] * 3)
    assert "beats" in found["verdict"]
