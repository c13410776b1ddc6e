"""Reasons for known answers: what is kept of them, and whether who writes them reads the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from camelid import chat
from camelid.engines import Completion, Question, Scored
from camelid.engines.scripted import ScriptedEngine
from camelid.errors import UserError
from camelid.rationales import (
    Drawing,
    Generator,
    Sieve,
    count_reasons,
    draw_lessons,
    judge_reasons,
    look_up_reasons,
    probe_generator,
    read_given,
    sift,
    spare_answer,
)
from camelid.rows import Labelled, Message, Reasoned
from conftest import make_tokenizer, write_jsonl

# What is kept of what is drawn


def sifted(text: str, stop: Any = "end", problem: str = "") -> tuple[str, str]:
    row = Labelled("0", "x", "one", "joy")
    found = sift(Sieve(make_tokenizer(), 4, 30), row, Completion(text, stop, problem=problem))
    return found.text, found.fault


def test_what_is_kept() -> None:
    assert sifted("It is a warm text.\nSo joy.") == ("It is a warm text. So joy.", "")
    assert sifted("It is warm. It costs 3.5 and goes", "length") == ("It is warm.", "")
    assert sifted("Is it? Yes! And th", "length") == ("Is it? Yes!", "")
    assert sifted("It goes on and on and", "length") == ("", "cut off in the first sentence")
    assert sifted("It costs 3.5 and goes", "length") == ("", "cut off in the first sentence")
    assert sifted(" \n ") == ("", "empty")
    assert sifted("x")[1] == "fewer than 4 tokens"
    assert sifted("far too long " * 20)[1] == "more than 30 tokens"
    assert sifted("", "failed", "timeout") == ("", "timeout")


def test_requests_that_failed_are_open_and_never_a_reason() -> None:
    rows = [Labelled("0", "x", "one", "joy"), Labelled("1", "x", "two", "joy")]
    row, other = rows
    drawn = [Drawing(row, "", "budget"), Drawing(row, "", "budget")]
    judged = [judge_reasons(row, drawn, 1), judge_reasons(other, [*drawn, Drawing(other, "So.", "")], 1)]
    assert (judged[0].outcome, judged[0].problem) == ("failed", "budget")
    assert judged[1].value["reasonings"] == ["So."]
    counts = count_reasons(judged)
    assert counts["rows that stay plain"] == 1
    assert counts["left out"] == {"budget": 3}


def test_a_file_of_reasons_is_matched_by_text_and_label() -> None:
    written = [
        Reasoned("0", "f", " one ", "joy", "Warm\nwords."), Reasoned("1", "f", "one", "anger", "Not this one."),
        Reasoned("2", "f", "two", "joy", "x"), Reasoned("3", "f", "one", "joy", "A second one."),
    ]  # fmt: skip
    rows = [Labelled(str(n), "x", text, "joy") for n, text in enumerate(["one", "two", "three"])]
    judged = look_up_reasons(Sieve(make_tokenizer(), 5, 64, most_kept=2), rows, written)
    assert [one.value["reasonings"] for one in judged] == [["Warm words.", "A second one."], [], []]
    assert [one.value["left out"] for one in judged] == [{}, {"fewer than 5 tokens": 1}, {"not in the file": 1}]


def test_reasons_that_a_run_wrote_are_read_again(tmp_path: Path) -> None:
    """Rows that stayed plain there have no reasoning, and give none."""
    rows = [{"question": f"q {n}", "answer": "a", "reasoning": "because" if n else ""} for n in range(3)]
    source = write_jsonl(tmp_path / "train.jsonl", rows)
    assert [row.question for row in read_given(Generator(source="file", file=str(source)))] == ["q 1", "q 2"]


# The generator


def draw(**values: Any) -> Any:
    return draw_lessons(Generator.model_validate(values), make_tokenizer(), 0)


def test_lessons_are_short_and_none_is_measured_on(tmp_path: Path) -> None:
    rows = [{"question": f"q {n % 8}", "answer": "a", "reasoning": "r " * (n + 1)} for n in range(16)]
    rows.append({"question": "long", "answer": "a", "reasoning": "word " * 300})
    source = write_jsonl(tmp_path / "lessons.jsonl", rows)
    lessons, probe, dropped = draw(rows=str(source), probe_rows=3)
    assert len(probe) == 3
    assert not {row.question for row in probe} & {row.question for row in lessons}
    assert dropped == {"longer than 160 tokens": 1}
    few, *_ = draw(rows=str(source), probe_rows=3, most_rows=2)
    assert few == lessons[:2]
    with pytest.raises(UserError, match="leaves no rows for the generator"):
        draw(rows=str(source), probe_rows=99)


def test_a_named_set_is_measured_on_its_test_split() -> None:
    lessons, probe, _ = draw(most_rows=30, longest=400, probe_rows=5)
    assert [{row.origin.split()[1] for row in rows} for rows in (lessons, probe)] == [{"train"}, {"test"}]
    assert (len(lessons), len(probe)) == (30, 5)
    assert not draw(most_rows=30, longest=400)[1]


def test_tokens_of_the_answer_are_spared() -> None:
    """ "8" stands alone once and inside 18 once; only tokens of the first are left out."""
    tokenizer = make_tokenizer()
    ids = tokenizer("18 less 10 is 8.")["input_ids"]
    kept = spare_answer(tokenizer, "18 less 10 is 8.", "8")
    left_out = [tokenizer.decode([ids[n]]).strip() for n in range(len(ids)) if n not in kept]
    assert left_out == ["8"]
    assert len(spare_answer(tokenizer, "8", "8")) == 1, "all where none would be left"


def ask(question: str, answer: str) -> tuple[Message, ...]:
    return chat.converse(f"Question: {question}\n\nAnswer: {answer}\n\nWhy?")


def test_the_probe_scores_the_gold_reasoning_under_four_prompts() -> None:
    """The tuned engine gives 1 nat a token with the right answer, 2 with another, 3 with none; the base gives 5."""
    rows = [
        Reasoned("0", "x", "What is 2 and 2?", "4", "It is 4."), Reasoned("1", "x", "And 1 and 3?", "4", "Also 4."),
        Reasoned("2", "x", "And 3 and 3?", "6", "Then 6 it is."),
    ]  # fmt: skip
    right = {row.question: row.answer for row in rows}
    tokenizer = make_tokenizer()

    def scores(question: Question) -> Scored:
        content = question.prompt[-1].content  # type: ignore[union-attr]
        asked = next(text for text in right if text in content)
        nats = 3 if "Answer: unknown" in content else 1 if f"Answer: {right[asked]}\n" in content else 2
        return Scored(((-float(nats),) * (len(tokenizer(question.answers[0])["input_ids"]) + 1),))

    tuned = ScriptedEngine([], scores)
    base = ScriptedEngine([], lambda q: Scored(tuple((-5.0,) * len(values) for values in scores(q).logprobs)))
    found = probe_generator(base, tuned, tokenizer, rows, ask)
    nats = {"untuned": 5.0, "tuned": 1.0, "another answer": 2.0, "unknown": 3.0}
    assert found["nats a token"] == pytest.approx(nats)
    values = {name: one["value"] for name, one in found["differences"].items()}
    assert values == pytest.approx({
        "untuned - tuned": 4.0, "another answer - tuned": 1.0, "unknown - tuned": 2.0,
        "another answer - tuned, without its tokens": 1.0,
    })  # fmt: skip
    assert all(one.ended for one in tuned.asked if isinstance(one, Question))
