"""Reasons for answers that are known: drawn from a model that is shown the answer, or read from a file, and sifted.

A model that is asked for the way from a question to its answer rationalises (Zelikman 2022, arXiv 2203.14465). What it
writes may be cut off, empty, too long, or speak for another answer; and it may have learned to write reasons without
reading the answer at all, which `probe_generator` measures.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from camelid import data, engines, recipe
from camelid.annotation import choose
from camelid.data.columns import reasoned_shape
from camelid.engines import Completion, Engine, Question
from camelid.errors import UserError
from camelid.metrics import spread_mean
from camelid.recipe import Data
from camelid.rows import Judged, Labelled, Prompt, Reasoned
from camelid.scoring import score

UNKNOWN = "unknown"  # the answer of rows that do not tell it
SENTENCES = re.compile(r".*[.!?](?=\s|$)", re.DOTALL)
PromptOf = Callable[[str, str], Prompt]  # what a generator is asked, from question and answer


class Generator(recipe.Values):
    """Where the reasoning comes from."""

    source: Literal["train", "folder", "engine", "file"] = Field(
        default="train",
        description="a generator trained here, or before; the model of [engine] as it is; or a file of reasons",
    )
    rows: str = Field(
        default="puzzles", description="train: questions with answer and reasoning (paper: 350,000 of syvai)"
    )
    question: str = Field(default="question", description="column of rows and file: the question, or the task's text")
    answer: str = Field(default="answer", description="column of rows and file: the answer, or the label")
    reasoning: str = Field(default="reasoning", description="column of rows and file: the reasoning")
    most_rows: int | None = Field(default=None, ge=1, description="train: use only so many rows")
    longest: int = Field(default=160, ge=1, description="train: tokens of question and reasoning of the rows used")
    unknown_share: float = Field(default=0.1, ge=0, lt=1, description="train: share of rows that hide their answer")
    passes: int = Field(default=1, ge=1, description="train: epochs over the rows (paper: not said)")
    probe_rows: int = Field(
        default=0, ge=0, description="train: unseen rows, of the test split if there is one, to measure on"
    )
    folder: str = Field(default="", description="folder: the generator/ of an earlier run")
    file: str = Field(default="", description="file: question (the text), answer (the label) and reasoning")


def complain_of_generator(values: Generator, engine: recipe.Engine) -> list[tuple[str, str]]:
    """Fields of a generator and of its engine that contradict each other, as (what, fix)."""
    found = []
    if values.source == "folder" and not (Path(values.folder) / "handle.json").is_file():
        what = f"generator.folder = {values.folder!r} holds no trained model"
        found.append((what, "Name the generator/ of a finished run."))
    if values.source == "file" and not values.file:
        found.append(("generator.source is file, and generator.file names none", "Add --file FILE."))
    if values.source in ("train", "folder") and (engine.kind != "local" or engine.ray):
        found.append(("a generator that was trained here is read by a local engine", "Or take --source engine."))
    return [*found, *(engines.complain_of_engine(engine) if values.source == "engine" else [])]


@dataclass(frozen=True)
class Sieve:
    """Which reasonings are kept: those of so many tokens, and of a row so many."""

    tokenizer: Any
    least_tokens: int
    most_tokens: int
    most_kept: int = 1


@dataclass(frozen=True)
class Drawing:
    """A reasoning that was given for a row, and why it is not kept ("" where it is)."""

    row: Labelled
    text: str
    fault: str


def one_line(text: str) -> str:
    """The text without line breaks and double spaces."""
    return " ".join(text.split())


def sift(sieve: Sieve, row: Labelled, reply: Completion) -> Drawing:
    """The reasoning on one line, as far as it is whole, with what is wrong with it."""
    if reply.stop == "failed":
        return Drawing(row, "", reply.problem)
    text = reply.text
    if reply.stop == "length":
        whole = SENTENCES.match(text)
        text = whole[0] if whole else ""
        if not text:
            return Drawing(row, "", "cut off in the first sentence")
    text = one_line(text)
    count = len(sieve.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    if count < sieve.least_tokens:
        return Drawing(row, text, f"fewer than {sieve.least_tokens} tokens" if text else "empty")
    return Drawing(row, text, f"more than {sieve.most_tokens} tokens" if count > sieve.most_tokens else "")


def draw_reasons(
    sieve: Sieve, rows: Sequence[Labelled], draw: Callable[[Sequence[Labelled], int], list[Drawing]], tries: int
) -> list[Judged]:
    """What `draw(rows, number)` gives in up to `tries` tries, each for the rows that have too few reasonings yet."""
    drawings: defaultdict[str, list[Drawing]] = defaultdict(list)
    for number in range(tries):
        wanting = [row for row in rows if sum(not one.fault for one in drawings[row.id]) < sieve.most_kept]
        if not wanting:
            break
        for one in draw(wanting, number):
            drawings[one.row.id].append(one)
    return [judge_reasons(row, drawings[row.id], sieve.most_kept) for row in rows]


def look_up_reasons(sieve: Sieve, rows: Sequence[Labelled], written: Sequence[Reasoned]) -> list[Judged]:
    """Reasons that somebody wrote down for a row with this text and label."""
    known: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for one in written:
        known[one.question.strip(), one.answer].append(one.reasoning)
    found = {row.id: known.get((row.text.strip(), str(row.label)), []) for row in rows}
    drawings = {
        row.id: [sift(sieve, row, Completion(text, "end")) for text in found[row.id]]
        or [Drawing(row, "", "not in the file")]
        for row in rows
    }
    return [judge_reasons(row, drawings[row.id], sieve.most_kept) for row in rows]


def doubt(
    engine: Callable[[], Engine],
    drawings: Sequence[Drawing],
    classes: Sequence[str],
    prompt_of: Callable[[Reasoned], Prompt],
) -> list[Drawing]:
    """The drawings, with a fault where the engine finds another label likelier behind the prompt with the reasoning."""
    whole = [one for one in drawings if not one.fault]
    if not whole:
        return list(drawings)
    rows = [Reasoned(str(n), one.row.origin, one.row.text, str(one.row.label), one.text) for n, one in enumerate(whole)]
    judged = choose(engine(), rows, prompt_of, {name: name for name in classes}, what="")
    doubted = [
        one if found.value == str(one.row.label) else replace(one, fault="another label is likelier")
        for one, found in zip(whole, judged, strict=True)
    ]
    return [*(one for one in drawings if one.fault), *doubted]


def judge_reasons(row: Labelled, drawings: Sequence[Drawing], most_kept: int) -> Judged:
    """The reasonings of a row that are kept, and why others are not; failed where every request did."""
    kept = [one.text for one in drawings if not one.fault][:most_kept]
    faults = [one.fault for one in drawings if one.fault]
    if faults and len(faults) == len(drawings) and all(fault in engines.PROBLEMS for fault in faults):
        return Judged(row.id, row.origin, "failed", None, faults[0], problem=faults[0])
    value = {"reasonings": kept, "drawn": len(drawings), "left out": dict(Counter(faults))}
    return Judged(row.id, row.origin, "value", value, kept[0] if kept else faults[0])


def count_reasons(judged: Sequence[Judged]) -> dict[str, Any]:
    """How many rows have a reasoning and how many stay plain, and why drawings were left out."""
    found = [one.value for one in judged if one.value]
    left = sum((Counter(one["left out"]) for one in found), Counter(one.problem for one in judged if one.problem))
    having = sum(bool(one["reasonings"]) for one in found)
    return {
        "rows": len(judged),
        "rows with reasoning": having,
        "rows that stay plain": len(judged) - having,
        "reasonings": sum(len(one["reasonings"]) for one in found),
        "drawings": sum(one["drawn"] for one in found),
        "left out": dict(left),
    }


def infuse(rows: Sequence[Labelled], judged: Sequence[Judged]) -> Iterator[Reasoned]:
    """A row for each reasoning, and a plain row where there is none."""
    for row, one in zip(rows, judged, strict=True):
        found = one.value["reasonings"] if one.value else []
        for number, reasoning in enumerate(found or [""]):
            yield Reasoned(f"{row.id}.{number}", row.origin, row.text, str(row.label), reasoning)


# Rows that a generator learns from, and whether it reads the answer


def read_given(values: Generator) -> list[Reasoned]:
    """Rows with reasoning that are named: those the generator learns from, or the file of reasons."""
    source = {"train": values.rows, "file": values.file}.get(values.source, "")
    return _read_reasoned(values, source, Counter()) if source else []


def draw_lessons(values: Generator, tokenizer: Any, seed: int) -> tuple[list[Reasoned], list[Reasoned], Counter[str]]:
    """(rows to learn from, others to measure on, rows left out by reason).

    A named set is measured on its test split; of other rows some are drawn. No question stands on both sides.
    """
    dropped = Counter[str]()
    rows = _shuffle_short(values, tokenizer, seed, values.rows, dropped)
    unseen = data.test_source(values.rows) if values.probe_rows else None
    others = _shuffle_short(values, tokenizer, seed, unseen, Counter()) if unseen else rows
    probe = others[: values.probe_rows]
    asked = {row.question for row in probe}
    lessons = [row for row in rows if row.question not in asked][: values.most_rows]
    if not lessons:
        raise UserError(
            f"{values.rows} leaves no rows for the generator: {len(rows)} of {values.longest} tokens at most, "
            f"and {len(probe)} of them to measure on",
            "Give more rows, raise generator.longest, or lower generator.probe_rows.",
        )
    return lessons, probe, dropped


def _shuffle_short(values: Generator, tokenizer: Any, seed: int, source: str, dropped: Counter[str]) -> list[Reasoned]:
    """The rows in random order, without the long ones, which are counted."""
    rows = _read_reasoned(values, source, dropped)
    encoded = tokenizer([f"{row.question}\n{row.reasoning}" for row in rows], verbose=False)["input_ids"]
    short = [row for row, ids in zip(rows, encoded, strict=True) if len(ids) <= values.longest]
    if len(short) < len(rows):
        dropped[f"longer than {values.longest} tokens"] = len(rows) - len(short)
    return random.Random(f"{seed} lessons").sample(short, len(short))


def _read_reasoned(values: Generator, source: str, dropped: Counter[str]) -> list[Reasoned]:
    shape = reasoned_shape(values.question, values.answer, values.reasoning)
    # a file of reasons that an earlier run wrote has plain rows too, where it found no reasoning
    missing = "drop" if values.source == "file" else "error"
    return data.read_rows(source, Data(missing=missing), shape=shape, dropped=dropped)


def hide_answers(rows: Sequence[Reasoned], share: float, seed: int) -> list[str]:
    """Ids of the rows that are asked with the answer "unknown"."""
    ids = [row.id for row in rows]
    return random.Random(f"{seed} unknown").sample(ids, round(share * len(ids)))


def probe_generator(
    base: Engine, tuned: Engine, tokenizer: Any, rows: Sequence[Reasoned], prompt_of: PromptOf
) -> dict[str, Any]:
    """Nats a token of the gold R of unseen rows, and paired differences with 95 % bootstrap intervals.

    "untuned" is the base; "another answer" that of the next row with another one; "unknown" tells none. The last
    entry leaves out the tokens of R that hold the answer itself, which whoever reads the answer can copy.
    """
    answers, count = [row.answer for row in rows], len(rows)
    others = [next((found for found in answers[n:] + answers if found != answers[n]), UNKNOWN) for n in range(count)]
    asked = {"untuned": (base, answers), "tuned": (tuned, answers), "another answer": (tuned, others)}
    asked["unknown"] = (tuned, [UNKNOWN] * count)
    told = {name: _score_reasons(engine, rows, given, prompt_of) for name, (engine, given) in asked.items()}
    kept = [spare_answer(tokenizer, one_line(row.reasoning), row.answer) for row in rows]
    means = {name: np.array([-np.mean(one) for one in found]) for name, found in told.items()}
    spared = {
        name: np.array([-np.mean([one[place] for place in places]) for one, places in zip(found, kept, strict=True)])
        for name, found in told.items()
    }
    differences = {
        "untuned - tuned": means["untuned"] - means["tuned"],
        "another answer - tuned": means["another answer"] - means["tuned"],
        "unknown - tuned": means["unknown"] - means["tuned"],
        "another answer - tuned, without its tokens": spared["another answer"] - spared["tuned"],
    }
    return {
        "rows": len(rows),
        "nats a token": {name: float(values_N.mean()) for name, values_N in means.items()},
        "differences": {name: spread_mean(values_N) for name, values_N in differences.items()},
    }


def _score_reasons(
    engine: Engine, rows: Sequence[Reasoned], answers: Sequence[str], prompt_of: PromptOf
) -> list[tuple[float, ...]]:
    """Log-probabilities of the tokens of each row's R and of the end behind it, with the answers given."""
    questions = [
        Question(prompt_of(row.question, answer), (one_line(row.reasoning),), ended=True)
        for row, answer in zip(rows, answers, strict=True)
    ]
    found = score(engine, questions, "measuring the generator")
    if problem := next((one.problem for one in found if one.problem), ""):
        raise UserError(f"a row to measure the generator on could not be scored: {problem}", "Lower generator.longest.")
    return [one.logprobs[0] for one in found]


def spare_answer(tokenizer: Any, reasoning: str, answer: str) -> list[int]:
    """Places of the tokens of R that hold no character of the answer; of all where none would be left."""
    encoded = tokenizer(reasoning, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    held = [found.span() for found in re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", reasoning)]
    spans = encoded["offset_mapping"]
    spared = [n for n, (start, end) in enumerate(spans) if not any(start < e and s < end for s, e in held)]
    return spared or list(range(len(spans)))
