"""lawma: the card's checks with its numbers, what is trained and scored at which token, splits, tasks of one's own."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, normalizers, pre_tokenizers, trainers
from tokenizers import models as token_models

from camelid import bases, labelling, methods, models, responses, task_scores
from camelid.batches import PassBatches
from camelid.chat import encode_prompt
from camelid.engines import Scored
from camelid.engines.scripted import ScriptedEngine
from camelid.errors import UserError
from camelid.evaluation import evaluate
from camelid.lettering import letter_choices
from camelid.metrics import adjusted_accuracy, balanced_accuracy, clopper_pearson
from camelid.reading import fit_document
from camelid.rows import Asked, Predicted
from camelid.task import (
    Task,
    TaskData,
    deal_documents,
    document_of,
    downsample_majority,
    draw_each,
    draw_first,
    find_majority,
    join_documents,
    read_tasks,
)
from camelid.task_scores import Scorable, predict_by_task
from conftest import invoke, own_rows, write_csv, write_jsonl

lawma = methods.load("lawma")
COLOURS = {"r": "Red", "g": "Green", "b": "Blue"}
TASK = Task(name="colour", instruction="Code the colour.", question="Which colour?", choices=COLOURS)
COUNT = Task(name="count", instruction="Code the number.", question="How many?", kind="integer")
WORDS = "the fox ran over a hill and no one saw it go by at all until noon"
CHATML = (
    "{% for m in messages %}{{ '<s>' + m['role'] + ':' + m['content'] + '<|end|>' + '|' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant:' }}{% endif %}"
)


def make_tokenizer(pairs: bool = False) -> Any:
    """Bytes, and tokens for a space with a capital; with `pairs` also with two of the first eight."""
    bare = tokenizers.Tokenizer(token_models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    capitals = [f" {chr(65 + n)}" * 50 for n in range(26)]
    double = [f" {one}{other}" * 9 for one in "ABCDEFGH" for other in "ABCDEFGH"] if pairs else []
    bare.train_from_iterator([*capitals, *double, f" {WORDS} question answer:\n"], trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<|end|>", pad_token="<|end|>")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaMA whose tokenizer has a token for each space with a capital."""
    folder = tmp_path_factory.mktemp("lawma") / "tiny"
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def real_tokenizer() -> Any:
    return bases.open_base("smollm2-135m").tokenizer


def sheet_of(tokenizer: Any, most: int = 1000, keep: Any = "head", chat: bool = False, count: int = 3) -> Any:
    return lawma.Sheet(tokenizer, letter_choices(tokenizer, count, "m", "t", chat=chat), most, keep, chat)


def asked(text: str, *answers: str, task: str = "colour", number: int = 0, **more: Any) -> Asked:
    return Asked(f"{task}/{number}", "here", task, text, answers, **more)


def study(tokenizer: Any, engine: Any = None, sheet: Any = None, **values: Any) -> Any:
    made = sheet or sheet_of(tokenizer)
    return lawma.Study(
        methods.resolve("lawma", values), {"colour": TASK, "count": COUNT}, lambda: made, lambda _: engine
    )


# Check 1: balance and splits


def rows_of(counts: dict[str, int], task: str = "colour") -> list[Asked]:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [asked(f"text {n}", *label.split("+"), task=task, number=n) for n, label in enumerate(labels)]


def test_check_1_downsampling() -> None:
    """{A: 90, B: 6, C: 4} -> {A: 10, B: 6, C: 4}, f = 10 / 90 = 0.1111."""
    rows = rows_of({"A": 90, "B": 6, "C": 4})
    kept, share = downsample_majority(rows, "0")
    assert Counter(row.answers[0] for row in kept) == {"A": 10, "B": 6, "C": 4}
    assert share == pytest.approx(0.1111, abs=1e-4)
    assert [row.id for row in kept] == [row.id for row in rows if row in kept], "in their old order"
    assert {row.id for row in downsample_majority(rows, "1")[0]} != {row.id for row in kept}, "drawn, not the first"


def test_check_1_what_is_left_as_it_is() -> None:
    for counts in ({"A": 8, "B": 2}, {"A": 50}, {"A": 10, "B": 6, "C": 4}, {"A": 6, "B": 6}):
        rows = rows_of(counts)
        assert downsample_majority(rows, "0") == (rows, 1.0), counts
    assert len(downsample_majority(rows_of({"A": 9, "B": 2}), "0")[0]) == 4, "eleven rows are enough"


def test_check_1_rows_of_several_answers_count_among_the_others() -> None:
    """A alone 9 times, A or B 8 times, B 3 times: 9 against 11, so nothing goes; of 14 of A three go."""
    assert downsample_majority(rows_of({"A": 9, "A+B": 8, "B": 3}), "0")[1] == 1.0
    kept, share = downsample_majority(rows_of({"A": 14, "A+B": 8, "B": 3}), "0")
    assert Counter(row.answers for row in kept) == {("A",): 11, ("A", "B"): 8, ("B",): 3}
    assert share == pytest.approx(11 / 14)


def test_check_1_the_majority_is_that_of_rows_with_one_answer() -> None:
    """A stands alone five times, B once; that B is right beside A nine times makes it no majority."""
    rows = rows_of({"A": 5, "B+A": 9, "B": 1})
    assert find_majority(rows) == "A"
    assert downsample_majority(rows, "0") == (rows, 1.0)
    assert find_majority(rows_of({"B": 2, "A": 2})) == "A", "of equals the first in order"


def write_tasks(folder: Path, text: str) -> str:
    (folder / "tasks.toml").write_text(text, encoding="utf-8")
    return str(folder / "tasks.toml")


def write_cases(folder: Path, rows: int = 60) -> None:
    """Three variables of 20 cases with three passages each; `mood` stands in a file of its own, of other passages."""
    draw = random.Random(0)
    cases = [
        {"case": f"case {n % 20}", "text": f"{'red' if n % 2 else 'green'} fox {n} {WORDS}", "colour": "rg"[n % 2 == 0],
         "count": str(n % 3 + 1), "also": "r|g" if n % 5 == 0 else "rg"[n % 2 == 0]}
        for n in range(rows)
    ]  # fmt: skip
    write_csv(folder / "cases.csv", cases)
    moods = [
        {"case": f"case {n % 20}", "text": f"passage {n}", "label": draw.choice(["good", "bad"])} for n in range(rows)
    ]
    write_jsonl(folder / "moods.jsonl", moods)


FOUR = """
[tasks.colour]
train = "cases.csv"
label = "colour"
group = "case"
instruction = "Code it."
question = "Which colour?"
choices = { r = "Red", g = "Green", b = "Blue" }
[tasks.also]
train = "cases.csv"
label = "also"
group = "case"
separator = "|"
choices = { r = "Red", g = "Green" }
[tasks.count]
train = "cases.csv"
label = "count"
group = "case"
kind = "integer"
question = "How many?"
[tasks.mood]
train = "moods.jsonl"
group = "case"
recode = { good = "up", bad = "down" }
"""


def test_check_1_no_document_is_in_two_splits(tmp_path: Path) -> None:
    """Also across tasks that are read from different files, about different passages of one case."""
    write_cases(tmp_path)
    found = read_tasks(TaskData(train=write_tasks(tmp_path, FOUR), dev_share=0.2, balance=False), 0)
    sides = {role: {row.group for row in getattr(found, role)} for role in ("train", "dev", "test")}
    assert sides["train"] & sides["test"] == sides["train"] & sides["dev"] == sides["dev"] & sides["test"] == set()
    assert sorted(set.union(*sides.values())) == sorted(f"case {n}" for n in range(20))
    assert [len(sides[role]) for role in sides] == [12, 4, 4], "shares of the 20 cases"
    for name in ("colour", "also", "count", "mood"):
        assert {row.group for row in found.test if row.task == name} == sides["test"]
    assert found.tasks["mood"].choices == {"down": "down", "up": "up"}
    assert {row.answers for row in found.train if row.task == "also"} == {("r",), ("g",), ("g", "r")}


def test_check_1_a_text_with_a_group_in_one_task_only_is_on_one_side(tmp_path: Path) -> None:
    """One task deals cases, another the same passages without their case: a passage follows its case."""
    write_cases(tmp_path)
    mixed = FOUR.partition("[tasks.count]")[0].replace('separator = "|"', 'separator = "|"#').replace("#", "")
    mixed = mixed.replace('label = "also"\ngroup = "case"\n', 'label = "also"\n')
    found = read_tasks(TaskData(train=write_tasks(tmp_path, mixed), dev_share=0.2, balance=False), 0)
    texts = {role: {row.text for row in getattr(found, role)} for role in ("train", "dev", "test")}
    assert texts["train"] & texts["test"] == texts["train"] & texts["dev"] == texts["dev"] & texts["test"] == set()
    assert {row.task for row in found.test} == {"colour", "also"}


def test_check_1_words_that_stand_in_many_groups_join_none() -> None:
    rows = [asked("the same words", "r", number=n, group=f"case {n}") for n in range(3)]
    assert len(set(join_documents(rows).values())) == 3


def test_check_1_a_document_of_another_tests_file_is_left_out_and_counted(tmp_path: Path) -> None:
    write_cases(tmp_path)
    write_jsonl(
        tmp_path / "test.jsonl",
        [{"case": f"case {n}", "text": f"held {n}", "label": "good" if n % 2 else "bad"} for n in range(4)],
    )
    file = write_tasks(tmp_path, FOUR.replace('train = "moods.jsonl"', 'train = "moods.jsonl"\ntest = "test.jsonl"'))
    found = read_tasks(TaskData(train=file, balance=False), 0)
    held = {f"case {n}" for n in range(4)}
    assert not held & {row.group for row in [*found.train, *found.dev]}
    assert held <= {row.group for row in found.test if row.task == "colour"}, "its rows are dealt to test"
    assert found.dropped["train: the document stands in test too"] == 12, "three passages of mood for each of four"


def test_check_1_a_document_of_an_unseen_task_is_not_trained_on(tmp_path: Path) -> None:
    write_cases(tmp_path)
    (tmp_path / "other.toml").write_text('[tasks.other]\ntrain = "few.csv"\ngroup = "case"\n')
    write_csv(tmp_path / "few.csv", [{"case": f"case {n}", "text": "x", "label": "ab"[n % 2]} for n in range(6)])
    values = TaskData(train=write_tasks(tmp_path, FOUR), unseen=str(tmp_path / "other.toml"), balance=False)
    found = read_tasks(values, 0)
    held = {f"case {n}" for n in range(6)}
    assert {row.group for row in found.unseen} < held, "five rows of a task"
    assert not held & {row.group for row in [*found.train, *found.dev]}
    assert {row.group for row in found.test} == held, "20 % of 20 cases are fewer than these six"


def test_numbers_are_written_in_one_way(tmp_path: Path) -> None:
    rows = [{"case": str(n), "text": f"text {n}", "label": ["007", "7", "12"][n % 3]} for n in range(30)]
    write_csv(tmp_path / "rows.csv", rows)
    source = write_tasks(tmp_path, '[tasks.n]\ntrain = "rows.csv"\ngroup = "case"\nkind = "integer"\n')
    found = read_tasks(TaskData(train=source, balance=False), 0)
    assert {row.answers for row in [*found.train, *found.test]} == {("7",), ("12",)}


def test_dealing_depends_on_seed_and_document_only() -> None:
    documents = [f"d{n}" for n in range(50)]
    sides: dict[str, str] = {}
    deal_documents(documents, sides, {"test": 0.2, "dev": 0.1}, 0)
    assert Counter(sides.values()) == {"train": 35, "test": 10, "dev": 5}
    again: dict[str, str] = {}
    deal_documents(documents[::-1], again, {"test": 0.2, "dev": 0.1}, 0)
    assert again == sides
    other: dict[str, str] = {}
    deal_documents(documents, other, {"test": 0.2, "dev": 0.1}, 1)
    assert other != sides
    before = dict(sides)
    deal_documents([*documents, "new"], sides, {"test": 0.2}, 0)
    assert {one: sides[one] for one in before} == before


def test_a_smaller_draw_is_part_of_a_larger_one() -> None:
    rows = rows_of({"A": 20, "B": 20})
    few, more = draw_first(rows, 5, "s"), draw_first(rows, 20, "s")
    assert len(few) == 5
    assert {row.id for row in few} < {row.id for row in more}
    assert draw_first(rows, 99, "s") == rows


# Check 2: scores


def test_check_2_adjusted_accuracy() -> None:
    """m = 10 at 0.9, r = 10 at 0.5, f = 0.1: (0.9 * 10 / 0.1 + 0.5 * 10) / (10 / 0.1 + 10) = 95 / 110 = 0.863636."""
    right = np.array([1] * 9 + [0] + [1] * 5 + [0] * 5)
    majority = np.array([True] * 10 + [False] * 10)
    assert adjusted_accuracy(right, majority, 0.1) == pytest.approx(0.863636, abs=1e-6)
    assert adjusted_accuracy(right, majority, 1.0) == pytest.approx(0.7)


def predicted(*pairs: tuple[str, str]) -> list[Predicted]:
    return [Predicted(str(n), gold, said, {}) for n, (gold, said) in enumerate(pairs)]


def test_check_2_scores_of_two_tasks_by_hand() -> None:
    """Task one (f = 0.5, majority a): a a b, right right wrong; task two: one of one. Over tasks (2/3 + 1) / 2, over
    rows 3/4; adjusted (2 / 0.5 + 0) / (2 / 0.5 + 1) = 0.8 and 1, mean 0.9. Macro-F1 of one: F1(a) =
    2 * 2 / (2 + 3) = 0.8, F1(b) = 0, mean 0.4; of two 1; mean 0.7."""
    ours = predicted(("a", "a"), ("a", "a"), ("b", "a"), ("x", "x"))
    theirs = predicted(("a", "b"), ("a", "b"), ("b", "b"), ("x", "y"))
    tasks = {
        "one": Scorable((0, 1, 2), ("a", "b"), (True, True, False), 0.5),
        "two": Scorable((3,), ("x", "y"), (True,)),
    }
    found = evaluate({"ours": ours, "theirs": theirs}, [], "ours", "tasks", scorer=task_scores.task_scorer(tasks))
    values = {name: value["value"] for name, value in found["systems"]["ours"].items()}
    assert values == pytest.approx(
        {"mean_task_accuracy": 5 / 6, "mean_case_accuracy": 0.75, "adjusted_accuracy": 0.9, "macro_f1": 0.7}
    )
    assert found["metric"] == "mean_task_accuracy"
    assert found["against"]["theirs"]["difference"]["value"] == pytest.approx(5 / 6 - 1 / 6)
    assert (found["against"]["theirs"]["only_ours"], found["against"]["theirs"]["only_theirs"]) == (3, 1)
    low, high = (found["systems"]["ours"]["mean_task_accuracy"][end] for end in ("low", "high"))
    assert (low, high) == (0.5, 1.0), "task one from 0 to 1 right, task two always"
    told = task_scores.describe_tasks(tasks, {"ours": ours})["one"]
    assert told["chance"] == 0.5
    assert told["share of the majority class"] == pytest.approx(2 / 3)
    assert told["ours"]["adjusted accuracy"] == pytest.approx(0.8)
    assert told["ours"]["balanced accuracy"] == pytest.approx(0.5)
    assert told["ours"]["accuracy"]["value"] == pytest.approx(2 / 3)


def test_check_2_what_a_run_adjusts_by() -> None:
    """Places, codes and share of each task; a row with a second right answer is none of the majority class."""
    rows = [asked("a", "r", number=0), asked("b", "3", task="count"), asked("c", "r", "g", number=1)]
    notes = {"balance": {"kept": {"colour": 0.25, "count": 1.0}, "majority": {"colour": "r", "count": "4"}}}
    kept = type("Kept", (), {"manifest": {"notes": notes}})()
    assert lawma.scorables(study(make_tokenizer()), kept, rows) == {
        "colour": Scorable((0, 2), ("r", "g", "b"), (True, False), 0.25),
        "count": Scorable((1,), (), (False,), 1.0),
    }


def test_check_2_shares_kept_are_those_of_the_test_rows(tmp_path: Path) -> None:
    """12 of 60 rows are scored; where r is right for 9 of them, 3 are kept, a third."""
    rows = [{"text": f"text {n}", "label": "r" if n % 2 else "g"} for n in range(40)]
    write_csv(tmp_path / "rows.csv", rows)
    test = [{"text": f"test {n}", "label": "g" if n < 3 else "r"} for n in range(12)]
    write_csv(tmp_path / "test.csv", test)
    source = write_tasks(tmp_path, '[tasks.colour]\ntrain = "rows.csv"\ntest = "test.csv"\n')
    found = read_tasks(TaskData(train=source), 0)
    assert (found.kept["colour"], found.majority["colour"]) == (pytest.approx(1 / 3), "r")
    assert Counter(row.answers for row in found.test) == {("g",): 3, ("r",): 3}


def test_exact_intervals_and_balanced_accuracy() -> None:
    """Of 10 rows 5 right at 90 %: 0.2224 to 0.7776; none right: 0 to 1 - 0.05^(1/10)."""
    found = clopper_pearson(5, 10, 0.9)
    assert (found.low, found.high) == pytest.approx((0.2224, 0.7776), abs=1e-4)
    assert clopper_pearson(0, 10, 0.9).high == pytest.approx(1 - 0.05**0.1)
    assert clopper_pearson(10, 10, 0.9).low == pytest.approx(0.05**0.1)
    assert (clopper_pearson(0, 10).low, clopper_pearson(10, 10).high) == (0.0, 1.0)
    assert balanced_accuracy(np.array([[9, 1, 0], [1, 1, 0], [0, 0, 0]])) == pytest.approx((0.9 + 0.5) / 2)


# Check 3: what fits


LONG = " ".join(f"{WORDS} {n}." for n in range(7000))
LAST = "This is the last sentence."


@pytest.mark.real
@pytest.mark.parametrize("keep", ["head", "ends"])
@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("most", [128, 129, 200, 1000])
def test_check_3_a_document_of_100k_tokens(keep: str, chat: bool, most: int, real_tokenizer: Any) -> None:
    sheet = sheet_of(real_tokenizer, most, keep, chat)
    posed = lawma.pose(sheet, TASK, asked(f"First words. {LONG} {LAST}", "r"))
    size = len(encode_prompt(real_tokenizer, posed.prompt))
    assert most - 40 < size + 2 <= most, "a label and the end are still to come"
    text = posed.prompt[0].content if chat else posed.prompt
    assert text.startswith("Code the colour.\n\nFirst words.")
    assert text.endswith("\n\nQuestion: Which colour?\nA. Red\nB. Green\nC. Blue\nAnswer:")
    assert (LAST in text) == ("\n[...]\n" in text) == (keep == "ends")
    assert posed.cut


@pytest.mark.real
def test_check_3_both_ends_have_the_cards_numbers(real_tokenizer: Any) -> None:
    """Of 20 tokens of room 10 - 2 are the first and 10 + 2 the last."""
    document = " ".join("abcdefghijklmnopqrstuvwxyz" * 4)
    count = lambda text: len(real_tokenizer(text)["input_ids"])  # noqa: E731
    text, cut = fit_document(real_tokenizer, "", document, "\nQ", count("\nQ") + 10 + 20, count, "ends")
    assert cut
    head, tail = text.removesuffix("\nQ").split("\n[...]\n")
    assert (len(head.split()), len(tail.split())) == (8, 12)
    assert (head, tail) == (document[:15], document[-24:])
    text, _ = fit_document(real_tokenizer, "", document, "\nQ", count("\nQ") + 10 + 20, count, "head")
    assert text == document[:39] + "\nQ"


@pytest.mark.real
def test_check_3_what_fits_is_left_alone_and_the_last_resort(real_tokenizer: Any) -> None:
    count = lambda text: len(real_tokenizer(text)["input_ids"])  # noqa: E731
    whole = "Before. Document. After."
    assert fit_document(real_tokenizer, "Before. ", "Document. ", "After.", count(whole), count) == (whole, False)
    text, cut = fit_document(real_tokenizer, "An instruction of words. " * 40, WORDS, " The question?", 30, count)
    assert cut
    assert text.endswith("of words.  The question?")
    assert 15 < count(text) <= 30
    assert "fox" not in text


# Check 4: letters, positions


@pytest.mark.real
@pytest.mark.parametrize("count", [2, 26, 77, 300])
@pytest.mark.parametrize("chat", [False, True])
def test_check_4_one_token_a_label(count: int, chat: bool, real_tokenizer: Any) -> None:
    letters = letter_choices(real_tokenizer, count, "smollm2-135m", "t", chat=chat)
    ids = [real_tokenizer(letters.answer(n), add_special_tokens=False)["input_ids"] for n in range(count)]
    assert {len(one) for one in ids} == {1}
    assert len({one[0] for one in ids}) == count
    assert letters.labels[:2] == ("A", "B")
    assert list(letters.labels) == sorted(letters.labels, key=lambda label: (len(label), label))
    if not chat:
        before = real_tokenizer("Question: x\nAnswer:")["input_ids"]
        for n in range(count):
            assert real_tokenizer(f"Question: x\nAnswer: {letters.labels[n]}")["input_ids"] == before + ids[n]


@pytest.mark.real
def test_check_4_more_choices_than_letters(real_tokenizer: Any) -> None:
    assert len(letter_choices(real_tokenizer, 401, "m", "t").labels) == 401
    with pytest.raises(UserError, match="the task issue has 402 choices, and the tokenizer of m can letter 401"):
        letter_choices(real_tokenizer, 402, "m", "issue")


def test_check_4_letters_of_a_small_vocabulary() -> None:
    assert letter_choices(make_tokenizer(), 26, "m", "t").labels[-1] == "Z"
    pairs = letter_choices(make_tokenizer(pairs=True), 30, "m", "t").labels
    assert pairs[26:] == ("AA", "AB", "AC", "AD")
    with pytest.raises(UserError, match="has 27 choices, and the tokenizer of tiny can letter 26"):
        letter_choices(make_tokenizer(), 27, "tiny", "t")


def test_check_4_a_tokenizer_that_writes_the_space_itself() -> None:
    """As those of SentencePiece: apart "A" is the token that "Answer: A" ends in, and " A" would be two."""
    vocabulary = {"<unk>": 0, "▁Answer:": 1, "▁": 2, "▁A": 3, "▁B": 4, "<|end|>": 5}
    bare = tokenizers.Tokenizer(token_models.WordLevel(vocabulary, unk_token="<unk>"))
    bare.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bare.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<|end|>", unk_token="<unk>")
    letters = letter_choices(tokenizer, 2, "m", "t")
    assert (letters.labels, letters.lead) == (("A", "B"), "")
    assert tokenizer(letters.answer(1))["input_ids"] == [4]
    with pytest.raises(UserError, match="can letter 2"):
        letter_choices(tokenizer, 3, "m", "t")


def test_check_4_a_label_that_is_another_token_behind_the_prompt() -> None:
    """ " B" is one token by itself, and "Answer: B" ends in another: what is scored would not be what was read."""
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("Answer: B", "Answer:B")
    assert letter_choices(tokenizer, 3, "m", "t").labels == ("A", "C", "D")


def test_check_4_no_two_labels_are_one_token() -> None:
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" C", " A")
    assert letter_choices(tokenizer, 4, "m", "t").labels == ("A", "B", "D", "E")


@pytest.mark.real
def test_check_4_two_supervised_positions(real_tokenizer: Any) -> None:
    """The label is told at the last token of "Answer:", the end at the label."""
    made = study(real_tokenizer)
    tokens = lawma.tell(made, asked("A green hill.", "g"), 0, 0)
    assert real_tokenizer.decode(tokens.labels) == " B<|im_end|>"
    assert len(tokens.labels) == 2
    assert tokens.words == [len(tokens.ids) - 2, len(tokens.ids) - 1]
    wanted = "Code the colour.\n\nA green hill.\n\nQuestion: Which colour?\nA. Red\nB. Green\nC. Blue\nAnswer: B"
    assert real_tokenizer.decode(tokens.ids) == wanted


@pytest.mark.real
def test_numbers_are_written_and_the_end_is_told(real_tokenizer: Any) -> None:
    tokens = lawma.tell(study(real_tokenizer), asked("17 hills.", "17", task="count"), 0, 0)
    assert real_tokenizer.decode(tokens.labels) == " 17<|im_end|>"
    assert real_tokenizer.decode(tokens.ids).endswith("\n\nQuestion: How many?\nAnswer: 17")


@pytest.mark.real
def test_in_a_chat_the_label_is_the_assistants_turn(real_tokenizer: Any) -> None:
    made = study(real_tokenizer, sheet=sheet_of(real_tokenizer, chat=True), chat=True)
    tokens = lawma.tell(made, asked("A green hill.", "g"), 0, 0)
    assert real_tokenizer.decode(tokens.labels) == "B<|im_end|>"
    assert real_tokenizer.decode(tokens.ids).endswith("<|im_start|>assistant\nB")


def test_one_of_several_answers_is_drawn_anew_in_each_pass() -> None:
    tokenizer = make_tokenizer()
    made, row = study(tokenizer), asked("A hill.", "r", "b")
    drawn = [tokenizer.decode(lawma.tell(made, row, epoch, 0).labels) for epoch in range(40)]
    assert 10 < drawn.count(" A<|end|>") < 30
    assert set(drawn) == {" A<|end|>", " C<|end|>"}
    assert drawn == [tokenizer.decode(lawma.tell(made, row, epoch, 0).labels) for epoch in range(40)]


def test_shuffled_choices_keep_answer_and_text_together() -> None:
    tokenizer = make_tokenizer()
    made, seen = study(tokenizer, shuffle=True), set()
    for epoch in range(30):
        tokens = lawma.tell(made, asked("A hill.", "g"), epoch, 0)
        label = tokenizer.decode(tokens.labels)[1]
        assert f"\n{label}. Green\n" in tokenizer.decode(tokens.ids)
        seen.add(label)
    assert seen == {"A", "B", "C"}
    assert lawma.pose(made.sheet(), TASK, asked("x", "g")).answers == {"r": " A", "g": " B", "b": " C"}


def test_a_row_may_offer_some_choices_only() -> None:
    posed = lawma.pose(sheet_of(make_tokenizer()), TASK, asked("A hill.", "b", offered=("b", "r")))
    assert posed.answers == {"r": " A", "b": " B"}
    assert posed.prompt.endswith("Which colour?\nA. Red\nB. Blue\nAnswer:")


def test_every_pass_has_rows_of_its_own_and_the_order_of_the_loop() -> None:
    plan = methods.resolve("lawma", {"plan.epochs": 3, "plan.batch_rows": 2, "plan.accumulate": 1}).plan
    tokenizer = make_tokenizer()
    made = study(tokenizer)
    rows = [asked(f"hill {n}", "r", "b", number=n) for n in range(5)]

    def make(epoch: int) -> Any:
        return labelling.over_epochs([lawma.tell(made, row, epoch, 0) for row in rows], plan, 0)

    batches = PassBatches(make)
    assert (batches.steps, batches.steps_per_epoch) == (9, 3)
    for step in range(9):
        (got,), (plain,) = batches(step), make(step // 3)(step)
        assert torch.equal(got.ids_BT, plain.ids_BT)
        assert torch.equal(got.labels_N, plain.labels_N)


@pytest.fixture
def fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The batches that `fit` would train on, of rows and changes of the plan."""
    given: list[Any] = []
    monkeypatch.setattr(lawma, "train", lambda model, batches, *rest, **more: given.append(batches))
    monkeypatch.setattr(labelling, "freeze_states", lambda *arguments: None)
    made = study(make_tokenizer())

    def fit(rows: Sequence[Any], **changes: Any) -> Any:
        lawma.fit(made, None, tmp_path, rows, [], made.recipe.plan.model_copy(update=changes))
        return given[-1]

    return fit


@pytest.mark.parametrize("answers", [("r",), ("r", "b")])
def test_every_step_has_rows_of_tasks_of_any_length(answers: tuple[str, ...], fitted: Callable[..., Any]) -> None:
    """In steps of one length, and so of one task, the model would chase the answers of the last one."""
    rows = [asked("hill " * (1 + 40 * (n % 2)), *answers, number=n) for n in range(64)]
    batches = fitted(rows, epochs=1, batch_rows=16, accumulate=1)
    sizes = [set(batch.mask_BT.sum(dim=1).tolist()) for step in range(4) for batch in batches(step)]
    assert all(len(each) == 2 for each in sizes)


def test_few_rows_are_drawn_of_each_task_and_are_part_of_more() -> None:
    rows = [*rows_of({"A": 9, "B": 9}, "one"), *rows_of({"A": 3}, "two")]
    few, more, other = (draw_each(rows, count, f"{seed} curve") for count, seed in ((2, 0), (5, 0), (5, 1)))
    assert Counter(row.task for row in few) == {"one": 2, "two": 2}
    assert Counter(row.task for row in more) == {"one": 5, "two": 3}
    assert {row.id for row in few} < {row.id for row in more} != {row.id for row in other}


@pytest.mark.parametrize("answers", [("r",), ("r", "b")])
def test_passes_differ_where_a_row_has_several_answers(answers: tuple[str, ...], fitted: Callable[..., Any]) -> None:
    """And where it has one, every pass has the same rows."""
    rows = [asked(f"hill {n}", *answers, number=n) for n in range(12)]
    batches = fitted(rows, epochs=2, batch_rows=12, accumulate=1)
    told = [sorted(batches(step)[0].ids_BT.tolist()) for step in range(2)]
    assert (told[0] == told[1]) == (len(answers) == 1)


# Step 6: answers


def test_the_likeliest_label_wins_and_ties_go_to_the_first() -> None:
    """Each question by its place; the second has two labels as likely, the third has two right answers."""
    scores = iter([((-3.0,), (-1.0,), (-2.0,)), ((-2.0,), (-2.0,), (-9.0,)), ((-1.0,), (-2.0,), (-3.0,))])
    engine = ScriptedEngine([], lambda question: Scored(next(scores)))
    rows = [asked("a", "g", number=0), asked("b", "g", number=1), asked("c", "b", "r", number=2)]
    found = lawma.ask(study(make_tokenizer(), engine), engine, rows)
    assert [(one.gold, one.predicted) for one in found] == [("g", "g"), ("g", "r"), ("r", "r")]
    assert found[0].probabilities["g"] == pytest.approx(np.exp(-1) / (np.exp(-1) + np.exp(-2) + np.exp(-3)))
    assert task_scores.mean_task_accuracy(rows, found) == pytest.approx(2 / 3)


def test_numbers_are_read_from_what_is_written() -> None:
    engine = ScriptedEngine([" 1,204 dollars", " none", " about -3"])
    rows = [asked(f"{n} x", answer, task="count", number=n) for n, answer in enumerate(["1204", "4", "-3"])]
    found = lawma.ask(study(make_tokenizer(), engine), engine, rows)
    assert [one.predicted for one in found] == ["1204", "", "-3"]
    assert [one.predicted in row.answers for one, row in zip(found, rows, strict=True)] == [True, False, True]


def test_a_request_for_a_number_is_greedy_and_short() -> None:
    seen = []
    engine = ScriptedEngine([" 1"])
    complete = engine.complete
    engine.complete = lambda requests: (seen.extend(requests), complete(requests))[1]  # type: ignore[method-assign]
    lawma.ask(study(make_tokenizer(), engine), engine, [asked("x", "1", task="count")])
    assert (seen[0].sampling.max_tokens, seen[0].sampling.temperature) == (10, 0.0)


def test_mean_task_accuracy_weighs_tasks_and_not_rows() -> None:
    rows = [*rows_of({"A": 3}, "one"), *rows_of({"B": 1}, "two")]
    found = predicted(("A", "A"), ("A", "A"), ("A", "A"), ("B", "A"))
    assert task_scores.mean_task_accuracy(rows, found) == 0.5


# Check 5: responses


def test_check_5_released_responses_are_scored_again(tmp_path: Path) -> None:
    """sc_one: right, and right of two: 1. sc_two: 1 of 3. songer_a (numbers): "1,200 days" right, "7" wrong: 1/2.
    Tasks (1 + 1/3 + 1/2) / 3 = 0.6111; sc (1 + 1/3) / 2. Pooled sc_: 3 of 5 as one more: (1 + 1/3 + 1/2 + 3/5) / 4."""
    shares = {" A": -0.1, " B": -3.0}
    files = {
        "sc_one": [(" A", " A", shares), ([" A", " B"], " B", shares)],
        "sc_two": [(" A", " B", shares), (" B", " B", shares), (" B", " A", shares)],
        "songer_a": [(" 1200", " 1,200 days", None), (" 17", " 7", None)],
    }
    for name, lines in files.items():
        records = [
            {"id": str(n), "ground_truth": truth, "model_response": said, "prompt_len": 9}
            | ({"logprobs": logprobs} if logprobs else {})
            for n, (truth, said, logprobs) in enumerate(lines)
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps(records))
    found = responses.rescore(responses.read_responses(tmp_path), ("sc_",))
    plain, pooled = found["tasks"], found["tasks and pooled"]
    assert plain["all"]["mean_task_accuracy"] == pytest.approx(0.6111, abs=1e-4)
    assert plain["sc"]["mean_task_accuracy"] == pytest.approx(2 / 3)
    assert plain["songer"]["mean_task_accuracy"] == 0.5
    assert plain["all"]["mean_case_accuracy"] == pytest.approx(4 / 7)
    assert pooled["all"]["mean_task_accuracy"] == pytest.approx((1 + 1 / 3 + 1 / 2 + 3 / 5) / 4)
    assert pooled["all"]["entries"] == 4
    assert pooled["songer"] == plain["songer"]


def test_check_5_letters_without_log_probabilities(tmp_path: Path) -> None:
    """Of an API's reply the first capital counts; where labels were scored all of the response does."""
    record = {"ground_truth": " C", "model_response": "answer: C. Because"}
    assert responses.is_right(record, record)
    assert not responses.is_right(record, record | {"logprobs": {" C": 0.0}})
    assert not responses.is_right(record | {"model_response": None}, record)
    assert responses.read_integer("no 1,000,000 or 2") == "1000000"
    assert responses.read_integer("007") == "7"


def test_check_5_by_the_command_line(tmp_path: Path) -> None:
    folder = tmp_path / "told"
    folder.mkdir()
    (folder / "sc_one.json").write_text('[{"ground_truth": " A", "model_response": " A", "logprobs": {" A": 0}}]')
    done = invoke("run", "lawma", "--responses", folder, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["responses"]["tasks"]["all"]["mean_task_accuracy"] == 1
    for broken, words in (("{", "is not valid JSON"), ('[{"id": 1}]', "no list of records"), ("[]", "no list of")):
        (folder / "sc_one.json").write_text(broken)
        done = invoke("check", "lawma", "--responses", folder)
        assert done.exit_code == 2
        assert words in done.output
    done = invoke("check", "lawma", "--responses", tmp_path / "none")
    assert "holds no response files" in done.output


# Runs


def options(model: Path, source: str, **more: Any) -> dict[str, Any]:
    values = {"model.base": str(model), "data.train": source, "plan.precision": "float32", "plan.batch_rows": 8}
    return values | {"engine.precision": "float32", "engine.cache": False, "plan.epochs": 1, "max_tokens": 400} | more


def losses_of(folder: Path) -> int:
    """Steps of a training."""
    return len((folder / "metrics.jsonl").read_text().splitlines())


def test_what_a_single_task_starts_from(model: Path, tmp_path: Path) -> None:
    """The joint model has learned something, so the first loss of the task is lower than from the base."""
    write_cases(tmp_path)
    source = write_tasks(tmp_path, FOUR)
    first = {}
    for start in ("base", "joint"):
        more = {"plan.tuning": "full", "plan.learning_rate": 1e-2, "data.only": ["colour", "count"], "start": start}
        folder = methods.run("lawma", options(model, source, singles=["colour"], **more), out=tmp_path / start)
        line = (folder / "single" / "colour" / "metrics.jsonl").read_text().splitlines()[0]
        first[start] = json.loads(line)["loss"]
    assert first["joint"] < first["base"] - 1


def test_a_task_alone_is_scored_by_its_own_answers(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models of one task that are always right lead over a joint one that is always wrong, by one."""
    write_cases(tmp_path)
    answer = lawma.answer

    def told(study: Any, run: Any, system: str, *arguments: Any) -> list[Predicted]:
        found = answer(study, run, system, *arguments)
        if system.startswith(lawma.SINGLE):
            return [replace(one, predicted=one.gold) for one in found]
        return [replace(one, predicted=next((c for c in one.probabilities if c != one.gold), "0")) for one in found]

    monkeypatch.setattr(lawma, "answer", told)
    values = options(model, write_tasks(tmp_path, FOUR), singles=["colour", "also"], **{"plan.epochs": 1})
    folder = methods.run("lawma", values, out=tmp_path / "run")
    scores = json.loads((folder / "scores.json").read_text())
    for entry, system in (("single colour", "single-task fine-tuning colour"), ("singles", "single-task fine-tuning")):
        found = scores[entry]
        assert found["systems"][system]["mean_task_accuracy"]["value"] == 1
        assert found["against"][system]["difference"]["value"] == -1, "joint minus alone"


def test_a_run_with_everything_and_its_resumption(model: Path, tmp_path: Path) -> None:
    """Tasks of one's own of every kind, one held out; few rows, one task, comparison, report, prediction, resume."""
    write_cases(tmp_path)
    values = options(
        model, write_tasks(tmp_path, FOUR), compare=True, curve=[4], curve_epochs=3, singles=["colour", "also"],
        start="joint", **{"data.hold_out": ["mo*"], "plan.learning_rate": 1e-3},
    )  # fmt: skip
    folder = methods.run("lawma", values, out=tmp_path / "run")
    scores = json.loads((folder / "scores.json").read_text())
    assert set(scores["held_out"]["systems"]) == {
        "joint fine-tuning", "majority class", "TF-IDF + logistic regression", "zero-shot prompt"
    }  # fmt: skip
    assert set(scores["tasks"]) == {"colour", "also", "count"}
    assert set(scores["unseen_tasks"]) == {"mood"}
    assert scores["unseen"]["split"] == "unseen"
    assert [point[0] for point in scores["curves"]["lines"]["joint fine-tuning"][:2]] == [0, 4]
    assert set(scores["single colour"]["systems"]) == {"single-task fine-tuning colour", "joint fine-tuning"}
    joint, alone = "joint fine-tuning", "single-task fine-tuning"
    reached = lambda entry, system: entry["systems"][system]["mean_task_accuracy"]["value"]  # noqa: E731
    together = scores["singles"]
    for system, name_of in ((joint, lambda _: joint), (alone, lambda task: f"{alone} {task}")):
        each = [reached(scores[f"single {task}"], name_of(task)) for task in ("colour", "also")]
        assert reached(together, system) == pytest.approx(sum(each) / 2), "each task counts as much"
    lead = together["against"][alone]["difference"]["value"]
    assert lead == pytest.approx(reached(together, joint) - reached(together, alone)), "joint minus alone"
    assert together["stages"] == {alone: ["model", "single/colour", "single/also"]}, "both begin at the joint one"
    trained = [json.loads(line)["task"] for line in (folder / "train.jsonl").read_text().splitlines()]
    assert "mood" not in trained
    assert losses_of(folder / "model") == -(-len(trained) // 8)
    assert losses_of(folder / "curve" / "4-0") == 3 * -(-3 * 4 // 8), "four rows of each of three tasks, three times"
    assert losses_of(folder / "single" / "colour") == -(-trained.count("colour") // 8)
    report = invoke("report", folder)
    assert report.exit_code == 0, report.output
    assert "mean task accuracy" in (folder / "report.html").read_text()

    rows = write_csv(tmp_path / "new.csv", [{"text": "a red fox", "n": "1"}, {"text": "a green fox", "n": "2"}])
    done = invoke("predict", folder, rows, "--out", tmp_path / "out.csv")
    assert done.exit_code == 0, done.output
    first, _ = csv.DictReader((tmp_path / "out.csv").open())
    shares = {code: float(first[f"probability_colour_{code}"]) for code in COLOURS}
    assert sum(shares.values()) == pytest.approx(1)
    assert first["predicted_colour"] == max(shares, key=shares.__getitem__)
    assert {"predicted_also", "predicted_count"} < set(first)
    assert "predicted_mood" not in first
    done = invoke("predict", folder, tmp_path / "out.csv", "--out", tmp_path / "again.csv")
    assert (done.exit_code, "already has the column 'predicted_colour'" in done.output) == (2, True)

    before = (folder / "scores.json").read_bytes()
    for name in ("cases.csv", "moods.jsonl", "tasks.toml"):
        (tmp_path / name).unlink()
    methods.resume(folder)
    assert (folder / "scores.json").read_bytes() == before, "a finished run reads no rows again"


def test_a_killed_run_goes_on_to_the_same_bits(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers drawn anew in each pass: killed in the second, with checkpoints at every step."""
    write_cases(tmp_path)
    source = write_tasks(tmp_path, FOUR)
    values = options(model, source, **{"plan.epochs": 2, "plan.checkpoint_seconds": 0, "data.only": ["also"]})
    whole = methods.run("lawma", values, out=tmp_path / "whole")
    plain = lawma.cross_entropy
    calls = []

    def failing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(lawma, "cross_entropy", failing)
    with pytest.raises(KeyboardInterrupt):
        methods.run("lawma", values, out=tmp_path / "killed")
    monkeypatch.setattr(lawma, "cross_entropy", plain)
    methods.resume(tmp_path / "killed")
    for name in ("model/adapter_model.safetensors", "model/metrics.jsonl", "scores.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (whole / name).read_bytes(), name


def test_training_learns_what_the_choices_stand_for(model: Path, tmp_path: Path) -> None:
    """A colour named in the text: a tiny model that is trained whole tells it, and does not before."""
    rows = [{"text": "aa" if n % 2 else "bb", "case": str(n), "label": "g" if n % 2 else "r"} for n in range(80)]
    write_csv(tmp_path / "rows.csv", rows)
    source = write_tasks(
        tmp_path,
        '[tasks.colour]\ntrain = "rows.csv"\ngroup = "case"\nchoices = { r = "Red", g = "Green", b = "Blue" }\n',
    )
    more = {"plan.epochs": 6, "plan.tuning": "full", "plan.learning_rate": 1e-2, "compare": True}
    folder = methods.run("lawma", options(model, source, **more), out=tmp_path / "run")
    systems = json.loads((folder / "scores.json").read_text())["held_out"]["systems"]
    assert systems["joint fine-tuning"]["mean_task_accuracy"]["value"] == 1
    assert systems["zero-shot prompt"]["mean_task_accuracy"]["value"] < 0.8


def test_what_is_scored_is_what_was_trained(model: Path, tmp_path: Path) -> None:
    """The probability of the trained label, from the engine, is that of the model at the position that is trained."""
    base = bases.open_base(str(model))
    plan = methods.resolve("lawma", {"plan.precision": "float32"}).plan
    lm = models.language_model(base, {}, plan).eval()
    made = study(base.tokenizer)
    row = asked("a red fox", "g")
    tokens = lawma.tell(made, row, 0, 0)
    with torch.no_grad():
        logits_NV = lm(labelling.over_epochs([tokens], plan, 0)(0)[0])
    engine = lawma.LocalEngine(lm.lm, base.tokenizer)
    (found,) = lawma.ask(made, engine, [row])
    ids = [base.tokenizer(f" {letter}")["input_ids"][0] for letter in "ABC"]
    assert list(found.probabilities.values()) == pytest.approx(logits_NV[0, ids].softmax(dim=-1).tolist(), abs=1e-5)
    assert tokens.labels[0] == ids[1]


def test_a_table_of_several_tasks(tmp_path: Path) -> None:
    """Columns task, text, label, instruction, question and choices, without a tasks file."""
    kinds = (("size", "ab", "a|b|c"), ("shape", "xy", '["y", "x"]'))
    rows = [
        {"task": name, "text": f"{name} text {n}", "label": labels[n % 2], "choices": choices}
        | {"instruction": f"On {name}.", "question": f"Which {name}?"}
        for name, labels, choices in kinds
        for n in range(30)
    ]
    path = write_csv(tmp_path / "rows.csv", rows)
    found = read_tasks(TaskData(train=str(path)), 0)
    assert found.tasks["size"] == Task(
        name="size", instruction="On size.", question="Which size?", choices={"a": "a", "b": "b", "c": "c"}
    )
    assert list(found.tasks["shape"].choices) == ["y", "x"], "in the order of the cell"
    rows[1]["question"] = "Another?"
    write_csv(path, rows)
    with pytest.raises(UserError, match=r"different words for one task: size \(question\)"):
        read_tasks(TaskData(train=str(path)), 0)


def test_built_in_tasks_of_the_named_sets(named_data: Path) -> None:
    own = [{"text": f"{row['text']} Again.", "label": row["label"]} for row in own_rows("tweets")]
    write_jsonl(named_data / "tweets" / "stance-feminist-train.jsonl", own)
    found = read_tasks(TaskData(train="six", only=("stance-feminist",), unseen="legalbench", balance=False), 0)
    assert set(found.tasks) == {"stance-feminist", "notice_given", "kind_of_clause"}
    assert found.dropped["of tasks with a single label"] == 2
    assert found.dropped["dev: the document stands in test too"] == 8
    assert {row.task for row in found.unseen} == {"notice_given", "kind_of_clause"}
    assert found.tasks["kind_of_clause"].question == "Which label is right for kind of clause?"
    assert list(found.tasks["kind_of_clause"].choices) == ["forum", "secrecy", "term"]


@pytest.mark.data
def test_real_rows_of_the_six_tasks() -> None:
    """120 rows of each task in train and test; no narrator on two sides."""
    recipe = methods.resolve("lawma", scale="six")
    found = read_tasks(recipe.data, 0)
    for rows in (found.train, found.test):
        assert set(Counter(row.task for row in rows).values()) == {120}
    assert len({row.task for row in found.train}) == 6
    narrators = [{row.group for row in rows if row.group} for rows in (found.train, found.dev, found.test)]
    assert narrators[0]
    assert not narrators[0] & narrators[2]
    assert not narrators[0] & narrators[1]
    documents = [{document_of(row) for row in rows} for rows in (found.train, found.test)]
    assert not documents[0] & documents[1]
    assert len({row.task for row in found.unseen}) > 100
    for name, rows in Counter((row.task, row.answers) for row in found.train).items():
        assert rows <= 75, f"{name} is balanced before it is drawn"


# What users get wrong


WRONG = {
    "a label that is no choice": ('g = "Green", b = "Blue"', 'b = "Blue"', "'g' is no answer of the task colour"),
    "no whole number": ('label = "count"', 'label = "colour"', "is no answer of the task count"),
    "an unknown field": ('question = "How many?"', 'qestion = "How many?"', "task count: qestion"),
    "no such file": ('"moods.jsonl"', '"mods.jsonl"', "there is no file"),
    "no tasks": ("tasks.", "task.", "has no tasks, or something beside them"),
    "no TOML": ("[tasks.mood]", "[tasks.mood", "is not valid TOML"),
    "one label": ('bad = "down"', 'bad = "up"', "the task mood has a single label (up)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_tasks_that_cannot_be(case: str, model: Path, tmp_path: Path) -> None:
    write_cases(tmp_path)
    old, new, words = WRONG[case]
    source = write_tasks(tmp_path, FOUR.replace(old, new))
    done = invoke("check", "lawma", "--data", source, "--model", model)
    assert done.exit_code == 2, done.output
    assert words in done.output, done.output
    assert "Traceback" not in done.output
    assert "  fix: " in done.output


@pytest.mark.parametrize(("values", "words"), [
    ({"data.hold_out": ["*"]}, "every task is held out"),
    ({"data.hold_out": ["moods"]}, "data.hold_out: there is no task 'moods'"),
    ({"data.only": ["colr"]}, "data.only: there is no task 'colr'"),
    ({"singles": ["mood"], "data.hold_out": ["mood"]}, "singles names mood, which is not trained on"),
    ({"max_tokens": 32}, "question and choices of the task colour have"),
    ({"engine.kind": "vllm"}, "read by a local engine only"),
    ({"pooled": ["sc_"]}, "pooled is for responses"),
    ({"data.train": "sixx"}, "'sixx' names no tasks"),
    ({"data.train": "wnut17"}, "that could be chosen"),
    ({"data.train_rows": 1}, "has a single label"),
])  # fmt: skip
def test_recipes_that_cannot_be(
    values: dict[str, Any], words: str, model: Path, tmp_path: Path, named_data: Path
) -> None:
    write_cases(tmp_path)
    source = write_tasks(tmp_path, FOUR)
    with pytest.raises(UserError) as raised:
        lawma.check(methods.resolve("lawma", options(model, source) | values))
    assert any(words in error.what for error in raised.value.all()), raised.value.all()


def test_a_task_with_one_label(model: Path, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", [{"task": "one", "text": f"text {n}", "label": "yes"} for n in range(9)])
    done = invoke("run", "lawma", "--data", path, "--model", model, "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert "error: the task one has a single label (yes) in its 9 rows" in done.output
    assert "There is nothing to choose; is 'label' the right column?" in done.output
    assert not (tmp_path / "run").exists()


def test_more_choices_than_the_tokenizer_can_letter(model: Path, tmp_path: Path) -> None:
    rows = [{"task": "many", "text": f"text {n}", "label": f"code {n % 27}"} for n in range(270)]
    path = write_csv(tmp_path / "rows.csv", rows)
    done = invoke("run", "lawma", "--data", path, "--model", model, "--out", tmp_path / "run")
    assert done.exit_code == 2
    said = " ".join(done.output.split())
    assert "the task many has 27 choices, and the tokenizer of" in said
    assert "can letter 26 fix: Each needs a token of its own" in said
    assert not (tmp_path / "run").exists()


def test_check_says_what_a_run_would_do(model: Path, tmp_path: Path) -> None:
    write_cases(tmp_path)
    source = write_tasks(tmp_path, FOUR)
    recipe = methods.resolve(
        "lawma", options(model, source, curve=[4, 8], curve_seeds=2, **{"data.hold_out": ["mood"]})
    )
    lines = dict(lawma.check(recipe))
    assert lines["tasks"] == "3 trained on, 1 unseen"
    assert lines["choices"] == "3 at most"
    assert lines["trainings"].startswith("5, the joint one of ")
    assert lines["documents cut"] == "0"
    longest = int(lines["prompt"].rpartition(" ")[2])
    again = dict(lawma.check(recipe.model_copy(update={"max_tokens": longest})))
    assert 0 < int(again["documents cut"]) < 60, "the longest prompt leaves no room for its end"


def test_tasks_that_would_share_a_folder(model: Path, tmp_path: Path) -> None:
    """Two names that differ in signs only, and one without a Latin letter: one would be read as the other's model."""
    write_cases(tmp_path)
    for name in ("colour!", "χρώμα"):
        source = write_tasks(tmp_path, FOUR.replace("[tasks.also]", f'[tasks."{name}"]'))
        values = options(model, source, singles=["colour", name])
        with pytest.raises(UserError, match="would have no name, or that of another task"):
            lawma.check(methods.resolve("lawma", values))


def test_in_a_chat_the_templates_tokens_count_as_well() -> None:
    """A question that just fits a plain prompt does not fit behind the opening of a turn."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHATML
    plain, chat = (
        len(encode_prompt(tokenizer, lawma.lay_out(sheet_of(tokenizer, chat=is_chat), "Which colour?")))
        for is_chat in (False, True)
    )
    assert chat > plain


def test_one_label_among_known_rows_is_repeated() -> None:
    """Of several right answers the first is taken, which may leave one class: nothing is fitted then."""
    known = [asked("a", "r", number=0), asked("b", "r", "g", number=1)]
    found = predict_by_task(lambda *_: pytest.fail("fitted"), known, [asked("c", "r", "b", number=2)])
    assert [(row.gold, row.predicted) for row in found] == [("r", "r")]


def test_check_5_negative_numbers_and_files_that_are_none(tmp_path: Path) -> None:
    record = {"ground_truth": "-1", "model_response": "It is -1."}
    assert responses.is_right(record, record)
    assert not responses.is_right(record | {"model_response": "1"}, record)
    for content in ([1, 2], [{"ground_truth": [], "model_response": "x"}]):
        (tmp_path / "sc_one.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match="is no list of records"):
            responses.read_responses(tmp_path)


def test_a_question_that_cannot_be_asked() -> None:
    """A question longer than the context names the row."""
    engine = ScriptedEngine([], lambda question: Scored((), problem="context overflow"))
    with pytest.raises(UserError, match="the question on here failed: context overflow"):
        lawma.ask(study(make_tokenizer(), engine), engine, [asked("x", "r")])
