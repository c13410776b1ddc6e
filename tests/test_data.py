"""From files and named sets to splits: what is drawn, left out and counted, warned of, refused."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from camelid import data
from camelid.data import crowd_tweets, hh_harmless, weak_to_strong
from camelid.data.columns import (
    LONGEST_TEXT,
    annotation_shape,
    critique_shape,
    flag_shape,
    instruction_shape,
    preference_shape,
    reasoned_shape,
)
from camelid.data.puzzles import SORTS
from camelid.errors import UserError
from camelid.recipe import Data
from camelid.rows import Critiqued, Labelled, Message, Reasoned, Tagged
from conftest import SPLIT_NAMES, labelled_rows, own_rows, tagged_rows, write_csv, write_jsonl


def problems(call: Any, *arguments: Any, **named: Any) -> list[tuple[str, str]]:
    with pytest.raises(UserError) as raised:
        call(*arguments, **named)
    return [(problem.what, problem.fix) for problem in raised.value.all()]


def rows_of(*texts_and_labels: tuple[str, str]) -> list[Labelled]:
    return [Labelled(str(n), f"f line {n}", text, label) for n, (text, label) in enumerate(texts_and_labels)]


# Rows


def test_rows_of_a_file_are_numbered_and_say_where_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text('body,y\n"two\nlines", glad \nb,3\n', encoding="utf-8")
    assert data.read_rows(str(path), Data(text="body", label="y")) == [
        Labelled("0", "r.csv line 2", "two\nlines", "glad"),
        Labelled("1", "r.csv line 4", "b", "3"),
    ]


def test_labels_may_be_whole_numbers_and_truths(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "r.jsonl", [{"text": "a", "label": 3}, {"text": "b", "label": True}])
    assert [row.label for row in data.read_rows(str(path))] == ["3", "True"]


def test_words_are_a_list_or_split_at_spaces(tmp_path: Path) -> None:
    expected = ("New", "Cairo", "!"), ("B-place", "I-place", "O")
    path = write_csv(tmp_path / "r.csv", [{"w": " New Cairo  !", "t": "B-place I-place O"}])
    [row] = data.read_rows(str(path), Data(tokens="w", tags="t"))
    assert (row.tokens, row.tags) == expected
    path = write_jsonl(tmp_path / "r.jsonl", [{"w": expected[0], "t": expected[1]}])
    [row] = data.read_rows(str(path), Data(tokens="w", tags="t"))
    assert row == Tagged("0", "r.jsonl line 1", *expected)


def test_every_kind_of_problem_is_named_once_with_its_first_places(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": "fine", "label": "a"}]
    rows += [{"text": " ", "label": "a"}, {"text": "nan", "label": "a"}, {"label": "a"}, {"text": None, "label": "a"}]
    rows += [{"text": "x", "label": None}, {"text": 3, "label": "a"}, {"text": ["a"], "label": "a"}]
    rows += [{"text": {"de": "a"}, "label": "a"}, {"text": "x", "label": 1.5}, {"text": "x", "label": ["a"]}]
    rows += [{"text": "half \ud83d", "label": "a"}, {"text": "x" * (LONGEST_TEXT + 1), "label": "a"}]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    fill_in = "Fill them in, or leave such rows out with --set data.missing=drop (they are counted in the report)."
    as_text, classes = "Write it as text, or name another column.", "Classes are words or whole numbers."
    assert problems(data.read_rows, str(path)) == [
        (
            f"{path}: no text in column 'text' in 4 rows: r.jsonl line 2, r.jsonl line 3, r.jsonl line 4 and 1 more",
            fill_in,
        ),
        (f"{path}: no label in column 'label' in 1 row: r.jsonl line 6", fill_in),
        (f"{path}: column 'text' holds a number, not text in 1 row: r.jsonl line 7", as_text),
        (f"{path}: column 'text' holds a list, not text in 1 row: r.jsonl line 8", as_text),
        (f"{path}: column 'text' holds an object, not text in 1 row: r.jsonl line 9", as_text),
        (
            f"{path}: column 'label' holds a number with a decimal point, not a class in 1 row: r.jsonl line 10",
            classes,
        ),
        (f"{path}: column 'label' holds a list, not a class in 1 row: r.jsonl line 11", classes),
        (
            f"{path}: column 'text' holds half of a character (a lone surrogate, as in \\ud83d) in 1 row: "
            "r.jsonl line 12",
            "The text was cut in the middle of an emoji or the like: remove the half.",
        ),
        (
            f"{path}: column 'text' holds more than 1,000,000 characters in 1 row: r.jsonl line 13 (1,000,001)",
            "Look for an unclosed quote or a wrong column; split real documents into passages first.",
        ),
    ]


def test_every_kind_of_problem_of_tagged_rows(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"tokens": ["a", "b"], "tags": ["O", "O"]}]
    rows += [{"tokens": ["a", "b"], "tags": ["O"]}, {"tokens": [], "tags": []}, {"tokens": ["a"], "tags": None}]
    rows += [{"tokens": 3, "tags": ["O"]}, {"tokens": {"a": 1}, "tags": ["O"]}, {"tokens": ["a"], "tags": 3}]
    rows += [{"tokens": ["a", 3], "tags": ["O", "O"]}, {"tokens": ["a", " "], "tags": ["O", "O"]}]
    rows += [{"tokens": ["a"], "tags": [None]}, {"tokens": ["a"], "tags": [""]}, {"tokens": "a b", "tags": "O O O"}]
    path = write_jsonl(tmp_path / "r.jsonl", rows)
    assert [what for what, _ in problems(data.read_rows, str(path), Data(tokens="tokens", tags="tags"))] == [
        f"{path}: column 'tokens' and column 'tags' have different lengths in 2 rows: "
        "r.jsonl line 2 (2 words, 1 tags), r.jsonl line 12 (2 words, 3 tags)",
        f"{path}: no words in column 'tokens' in 1 row: r.jsonl line 3",
        f"{path}: no tags in column 'tags' in 1 row: r.jsonl line 4",
        f"{path}: column 'tokens' holds a number, not a list of words in 1 row: r.jsonl line 5",
        f"{path}: column 'tokens' holds an object, not a list of words in 1 row: r.jsonl line 6",
        f"{path}: column 'tags' holds a number, not a list of tags in 1 row: r.jsonl line 7",
        f"{path}: column 'tokens' holds a number where a word should be in 1 row: r.jsonl line 8",
        f"{path}: column 'tokens' holds an empty word in 1 row: r.jsonl line 9",
        f"{path}: column 'tags' holds null where a tag should be in 1 row: r.jsonl line 10",
        f"{path}: column 'tags' holds nothing where a tag should be in 1 row: r.jsonl line 11",
    ]


def test_missing_columns_have_a_hint(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", [{"text": "a", "lable": "x"}])
    name = "Name the columns with --text and --label (or --tokens and --tags)."
    assert problems(data.read_rows, str(path)) == [
        (f"{path} has no column 'label'; it has: text, lable", f"Did you mean 'lable'? {name}")
    ]
    assert problems(data.read_rows, str(path), Data(text="zz", label="lable")) == [
        (f"{path} has no column 'zz'; it has: text, lable", name)
    ]


def test_a_wrong_separator_is_recognised(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", [{"text": "a", "label": "x"}], ";")
    assert problems(data.read_rows, str(path))[0] == (
        f"{path} has no column 'text'; it has: text;label",
        "Its fields seem to be separated by ';': use commas, or tabs and the suffix .tsv. "
        "Name the columns with --text and --label (or --tokens and --tags).",
    )


def test_a_key_may_be_absent_in_the_first_line_of_a_jsonl(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "r.jsonl", [{"text": "a"}, {"text": "b", "label": "x"}])
    assert problems(data.read_rows, str(path))[0][0] == (f"{path}: no label in column 'label' in 1 row: r.jsonl line 1")
    dropped: Counter[str] = Counter()
    assert [row.id for row in data.read_rows(str(path), Data(missing="drop"), dropped=dropped)] == ["1"]
    assert dropped == {"no label in column 'label'": 1}


def test_only_missing_values_are_dropped_on_request(tmp_path: Path) -> None:
    rows = [{"text": "", "label": "x"}, {"text": "a", "label": "nan"}, {"text": "a", "label": ""}]
    path = write_jsonl(tmp_path / "r.jsonl", [*rows, {"text": "a", "label": "x"}])
    dropped: Counter[str] = Counter()
    assert len(data.read_rows(str(path), Data(missing="drop"), dropped=dropped)) == 1
    assert dropped == {"no text in column 'text'": 1, "no label in column 'label'": 2}
    path = write_jsonl(tmp_path / "r.jsonl", [*rows, {"text": 7, "label": "x"}])
    assert problems(data.read_rows, str(path), Data(missing="drop"))[0][0] == (
        f"{path}: column 'text' holds a number, not text in 1 row: r.jsonl line 4"
    )


def test_a_file_without_a_usable_row(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    for content in ("text,label\n", "text,label\n,x\n"):
        path.write_text(content, encoding="utf-8")
        assert problems(data.read_rows, str(path), Data(missing="drop")) == [
            (f"{path} has no usable rows", "It needs a header line and at least one complete row.")
        ]


def test_a_source_that_is_nothing() -> None:
    assert problems(data.read_rows, "emotions") == [
        (
            "'emotions' is neither a file nor a named data set",
            f"Files end in .csv, .tsv, .jsonl, .parquet; named sets are: {', '.join(data.named_sets())}.",
        )
    ]
    assert problems(data.read_splits, Data(), 0)[0][0] == "no training data is named"


# Splits


def texts(rows: list[Any]) -> list[str]:
    return [row.text for row in rows]


def test_draw_dev_is_deterministic_and_depends_on_the_seed() -> None:
    rows = rows_of(*((row["text"], row["label"]) for row in labelled_rows()))
    first, again, other = (data.draw_dev(rows, 0.2, seed) for seed in (0, 0, 1))
    assert first == again
    assert texts(first[1]) != texts(other[1])
    assert sorted(first[0] + first[1], key=lambda row: int(row.id)) == rows
    assert [int(row.id) for row in first[0]] == sorted(int(row.id) for row in first[0])


@pytest.mark.parametrize(("share", "expected"), [(0.1, 2), (0.2, 4), (0.124, 2), (0.126, 3), (0.01, 0)])
def test_draw_dev_takes_the_share_of_each_class(share: float, expected: int) -> None:
    rows = rows_of(*((row["text"], row["label"]) for row in labelled_rows()))
    train, dev = data.draw_dev(rows, share, 5)
    assert Counter(row.label for row in dev) == Counter(dict.fromkeys(("glad", "cross", "plain"), expected))
    assert len(train) + len(dev) == 60


@pytest.mark.parametrize("seed", range(20))
def test_draw_dev_keeps_equal_texts_on_one_side(seed: int) -> None:
    repeated = [(f"text {n % 9}" + " " * (n // 27), "ab"[n % 9 % 2]) for n in range(54)]
    train, dev = data.draw_dev(rows_of(*repeated), 0.3, seed)
    assert {text.strip() for text in texts(train)} & {text.strip() for text in texts(dev)} == set()
    assert len(dev) in (12, 18)
    assert len(train) + len(dev) == 54


def test_draw_dev_leaves_each_class_a_row_in_train() -> None:
    rows = rows_of(("a", "rare"), ("b", "two"), ("c", "two"), ("d", "many"), ("e", "many"), ("f", "many"))
    for seed in range(10):
        train, dev = data.draw_dev(rows, 0.9, seed)
        assert {row.label for row in train} == {"rare", "two", "many"}
        assert Counter(row.label for row in dev) == {"two": 1, "many": 2}


def test_draw_dev_takes_no_tag_that_train_would_lack() -> None:
    rows = [Tagged(str(n), "", (f"w{n}",), (f"B-{n}",) if n < 5 else ("O",)) for n in range(20)]
    for seed in range(10):
        train, dev = data.draw_dev(rows, 0.5, seed)
        assert {tag for row in train for tag in row.tags} == {"O", "B-0", "B-1", "B-2", "B-3", "B-4"}
        assert {tag for row in dev for tag in row.tags} == {"O"}


def test_splits_of_one_file(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", labelled_rows())
    splits = data.read_splits(Data(train=str(path)), 3)
    assert (len(splits.train), len(splits.dev), splits.test, splits.held_out) == (54, 6, [], "dev")
    assert splits == data.read_splits(Data(train=str(path)), 3)
    assert splits.warnings == []
    assert data.labels_of(splits.train) == ["cross", "glad", "plain"]


def test_limits_draw_with_the_seed_and_keep_the_order(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", labelled_rows())
    limits = Data(train=str(path), train_rows=30, dev_rows=4)
    splits = data.read_splits(limits, 0)
    assert (len(splits.train), len(splits.dev)) == (30, 4)
    ids = [int(row.id) for row in splits.train]
    assert ids == sorted(ids)
    assert ids != [int(row.id) for row in data.read_splits(limits, 1).train]
    assert data.read_splits(limits, 0) == splits
    given = limits.model_copy(update={"dev": str(path), "dev_rows": None})  # no dev to draw: only the limit can differ
    assert data.read_splits(given, 0).train != data.read_splits(given, 1).train
    whole = data.read_splits(Data(train=str(path)), 0)
    assert set(texts(splits.train)) < set(texts(whole.train))
    assert set(texts(splits.dev)) < set(texts(whole.dev))


def test_a_limit_that_leaves_a_class_out_is_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", labelled_rows())
    found = problems(data.read_splits, Data(train=str(path), train_rows=2), 0)
    assert "never occurs in train" in found[0][0]
    assert found[0][1] == "data.train_rows = 2 may leave it out: raise that, or remove these rows from dev."


def test_overlaps_are_warned_of(tmp_path: Path) -> None:
    rows = labelled_rows()
    train = write_csv(tmp_path / "train.csv", rows[:40])
    dev = write_csv(tmp_path / "dev.csv", [rows[0] | {"text": f"  {rows[0]['text']} "}, *rows[38:45]])
    test = write_csv(tmp_path / "test.csv", [*rows[50:], rows[44]])
    splits = data.read_splits(Data(train=str(train), dev=str(dev), test=str(test)), 0)
    assert splits.held_out == "test"
    memory = "scores on them measure memory. Remove them from one of the two."
    assert splits.warnings == [
        f"3 of 8 rows of dev stand in train too, the first at dev.csv line 2: {memory}",
        f"1 of 11 rows of test stand in dev too, the first at test.csv line 12: {memory}",
    ]


def test_what_is_left_out_is_counted_by_split_and_reason(tmp_path: Path) -> None:
    rows = labelled_rows()
    train = write_csv(tmp_path / "train.csv", [*rows, {"text": "", "label": "glad"}, {"text": "x", "label": ""}])
    test = write_csv(tmp_path / "test.csv", [rows[0], {"text": "x", "label": " "}, {"text": "y", "label": "NaN"}])
    splits = data.read_splits(Data(train=str(train), test=str(test), missing="drop"), 0)
    assert splits.dropped == {
        "train: no text in column 'text'": 1,
        "train: no label in column 'label'": 1,
        "test: no label in column 'label'": 2,
    }
    assert (len(splits.train) + len(splits.dev), len(splits.test)) == (60, 1)


def test_problems_of_all_files_are_found_at_once(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", [{"text": "a", "label": ""}])
    test = write_csv(tmp_path / "test.csv", [{"body": "a", "label": "x"}])
    sources = Data(train=str(train), dev=str(tmp_path / "dev.csv"), test=str(test))
    assert [what for what, _ in problems(data.read_splits, sources, 0)] == [
        f"{train}: no label in column 'label' in 1 row: train.csv line 2",
        f"there is no file {tmp_path / 'dev.csv'}",
        f"{test} has no column 'text'; it has: body, label",
    ]


def test_labels_that_train_never_has(tmp_path: Path) -> None:
    rows = labelled_rows()
    train = write_csv(tmp_path / "train.csv", rows)
    dev = write_csv(tmp_path / "dev.csv", [rows[0], {"text": "x", "label": "gld"}, {"text": "y", "label": "crss"}])
    test = write_csv(tmp_path / "test.csv", [{"text": "z", "label": "Glad"}])
    found = problems(data.read_splits, Data(train=str(train), dev=str(dev), test=str(test)), 0)
    assert found == [
        (
            "label 'gld' in dev (dev.csv line 3) never occurs in train (2 such rows)",
            "Correct the label, add training rows for it, or remove these rows from dev.",
        ),
        (
            "label 'Glad' in test (test.csv line 2) never occurs in train (1 such rows)",
            "Correct the label, add training rows for it, or remove these rows from test.",
        ),
    ]


def test_a_single_class(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", [row for row in labelled_rows() if row["label"] == "glad"])
    assert problems(data.read_splits, Data(train=str(path)), 0) == [
        (
            f"{path} has a single class (glad) in its 20 training rows",
            "Nothing can be learned from one class; is 'label' the right column?",
        )
    ]


def test_too_few_rows_for_a_dev_split(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", labelled_rows()[::4][:6])
    [(what, fix)] = problems(data.read_splits, Data(train=str(path)), 0)
    assert what == (
        f"{path} has too few rows to draw dev rows from: 6 rows in 3 classes, and a share of 0.1 leaves none"
    )
    assert "--dev FILE" in fix
    assert len(data.read_splits(Data(train=str(path), dev_share=0.5), 0).dev) == 3


# Rows to predict


def test_inputs_keep_their_columns(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "r.jsonl", [{"n": 1, "text": "a"}, {"text": "b", "x": [1]}])
    inputs, rows = data.read_inputs(path, "text", tagging=False)
    assert inputs == [{"n": 1, "text": "a"}, {"text": "b", "x": [1]}]
    assert rows == [Labelled("0", "r.jsonl line 1", "a", ""), Labelled("1", "r.jsonl line 2", "b", "")]
    path = write_jsonl(tmp_path / "r.jsonl", [{"w": ["a", "b"]}, {"w": "c  d"}])
    inputs, rows = data.read_inputs(path, "w", tagging=True)
    assert [(row.tokens, row.tags) for row in rows] == [(("a", "b"), ("", "")), (("c", "d"), ("", ""))]
    assert inputs == [{"w": ["a", "b"]}, {"w": "c  d"}]


def test_inputs_that_cannot_be_labelled(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "r.jsonl", [{"text": "a"}, {"n": 1}, {"text": 5}, {"text": None}])
    assert problems(data.read_inputs, path, "text", False) == [
        (
            f"{path}: no text in column 'text' in 2 rows: r.jsonl line 2, r.jsonl line 4",
            "Fill them in, or remove these rows.",
        ),
        (
            f"{path}: column 'text' holds a number, not text in 1 row: r.jsonl line 3",
            "Write it as text, or name another column.",
        ),
    ]
    assert problems(data.read_inputs, path, "txt", False) == [
        (f"{path} has no column 'txt'; it has: text, n", "Did you mean 'text'? Name the columns with --text.")
    ]


@pytest.mark.parametrize("name", ["predicted", "probability_glad"])
def test_columns_that_predict_would_overwrite(tmp_path: Path, name: str) -> None:
    path = write_csv(tmp_path / "r.csv", [{"text": "a", name: "x"}])
    assert problems(data.read_inputs, path, "text", False) == [
        (f"{path} already has the column {name!r}", "Rename or remove it: predict writes that name.")
    ]


def test_no_inputs(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("text\n", encoding="utf-8")
    assert problems(data.read_inputs, tmp_path / "r.csv", "text", False)[0][0] == f"{tmp_path / 'r.csv'} has no rows"


# Named sets


def test_named_sets_are_the_files_of_the_folder() -> None:
    labelled = ["banking77", "crowd-tweets", "emotion", "sst2", "tweets", "wnut17"]
    others = [
        *(
            "gsm8k",
            "hh-harmless",
            "legalbench",
            "llp-bp",
            "moderation",
            "oral-history",
            "pandalm",
            "pubmedqa",
            "puzzles",
        ),
        *("weak-to-strong", "wildlife", "pandalm-ratings", "pandalm-preferences", "pandalm-pairs"),
        *("judgments", "wrong-numbers"),
    ]
    assert data.named_sets() == sorted([*labelled, *others])
    assert [name for name in data.named_sets() if data.is_tagged(name)] == ["wnut17"]
    assert data.is_tagged("wnut17:dev")
    assert not data.is_tagged("r.csv")


@pytest.mark.parametrize("name", ["banking77", "emotion", "sst2", "tweets", "wnut17"])
def test_readers_of_named_sets(name: str, named_data: Path) -> None:
    expected = [
        Labelled(str(n), f"{{}}.jsonl line {n + 1}", row["text"], row["label"])
        if "text" in row
        else Tagged(str(n), f"{{}}.jsonl line {n + 1}", tuple(row["tokens"]), tuple(row["tags"]))
        for n, row in enumerate(own_rows(name))
    ]
    assert len(expected) == 8
    for split in SPLIT_NAMES[name]:
        in_split = [type(row)(row.id, row.origin.format(split), *list(_content(row))) for row in expected]
        assert data.read_rows(f"{name}:{split}") == in_split
    assert data.read_rows(name) == data.read_rows(f"{name}:{SPLIT_NAMES[name][0]}")


def test_questions_of_legalbench(named_data: Path) -> None:
    rows = data.read_rows("legalbench")
    expected = [(row["task"], row["text"], (row["label"],)) for row in own_rows("legalbench")]
    assert [(row.task, row.text, row.answers) for row in rows] == expected
    with pytest.raises(UserError, match="the set legalbench holds questions, and labels or tags are wanted"):
        data.read_splits(Data(train="legalbench"), 0)


def test_stance_has_a_set_of_splits_for_each_target(named_data: Path) -> None:
    write_jsonl(named_data / "tweets" / "stance-climate-val.jsonl", own_rows("tweets")[:3])
    assert len(data.read_rows("tweets:stance-climate-val")) == 3
    splits = data.read_splits(Data(train="tweets"), 0)
    assert [len(splits.train), len(splits.dev), len(splits.test)] == [8, 8, 8]


def _content(row: Labelled | Tagged) -> tuple[Any, Any]:
    return (row.text, row.label) if isinstance(row, Labelled) else (row.tokens, row.tags)


def test_moderation_keeps_unknown_unknown(named_data: Path) -> None:
    """Categories that a row does not have are absent, not false; the narrower ones are left to their parents."""
    rows = data.read_rows("moderation:dev")
    assert [row.flags for row in rows] == [
        {name: bool(value) for name, value in row.items() if name in ("S", "H", "V", "HR", "SH")}
        for row in own_rows("moderation")
    ]
    assert "H" not in rows[2].flags
    assert rows[1].messages[0].content == own_rows("moderation")[1]["prompt"]


def test_advertisements_are_a_title_and_what_describes_it(named_data: Path) -> None:
    rows = data.read_rows("wildlife")
    assert [row.label for row in rows] == [row["label"] for row in own_rows("wildlife")]
    assert rows[1].text == (
        "Dried jaw of a blacktip, 30 cm across. "
        "All rows complete, came from my uncle's boat house. Small crack on the left."
    )
    assert rows[2] == Labelled("2", "sharks.jsonl line 3", "Hammerhead enamel pin", "0"), "nothing describes it"


def test_a_set_of_another_kind_is_refused(named_data: Path) -> None:
    with pytest.raises(UserError, match="the set moderation holds flags, and labels or tags are wanted"):
        data.read_splits(Data(train="moderation"), 0)
    with pytest.raises(UserError, match="the set emotion holds labels, and flags are wanted"):
        data.read_rows("emotion", shape=flag_shape("prompt", ["S"]))


def test_flags_of_a_file(tmp_path: Path) -> None:
    """1, true and yes; 0, false and no; an empty cell is unknown; anything else is a problem that names its row."""
    shape = flag_shape("said", ["a", "b"])
    path = write_csv(tmp_path / "r.csv", [{"said": "x", "a": "1", "b": ""}, {"said": "y", "a": "No", "b": "true"}])
    assert [row.flags for row in data.read_rows(str(path), shape=shape)] == [{"a": True}, {"a": False, "b": True}]
    path = write_csv(tmp_path / "w.csv", [{"said": "x", "a": "maybe", "b": "1"}])
    with pytest.raises(UserError, match=r"column 'a' holds neither 1 nor 0 in 1 row: w\.csv line 2"):
        data.read_rows(str(path), shape=shape)


def test_annotations_and_pairs_of_a_file(tmp_path: Path) -> None:
    table = [{"said": "x", "t": "3", "who": "Ann", "good": "yes", "bad": "no"}]
    path = write_jsonl(tmp_path / "r.jsonl", table)
    [row] = data.read_rows(str(path), shape=annotation_shape("said", {"topic": "t"}, "who"))
    assert (row.text, row.labels, row.group) == ("x", {"topic": "3"}, "Ann")
    [pair] = data.read_rows(str(path), shape=preference_shape("said", "good", "bad"))
    assert (pair.prompt, pair.chosen, pair.rejected) == ((Message("user", "x"),), "yes", "no")
    with pytest.raises(UserError, match="has no column 'worse'"):
        data.read_rows(str(path), shape=preference_shape("said", "good", "worse"))


def test_further_splits_of_a_set_are_read_by_name_only(named_data: Path) -> None:
    """weak-to-strong has a split of another model's answers beside train, which is no role of a run."""
    (named_data / "weak-to-strong").mkdir()
    for split in ("llama2_7b-weak-train", "mistral_7b-weak-train"):
        write_jsonl(named_data / "weak-to-strong" / f"{split}.jsonl", own_rows("weak-to-strong"))
    gold = [
        {"question": row["question"].removeprefix("Question: ").removesuffix("\nAnswer:"), "answer": f"gold {n}"}
        for n, row in enumerate(own_rows("weak-to-strong"))
    ]
    write_jsonl(named_data / "gsm8k" / "train.jsonl", gold)
    shape = preference_shape("prompt", "chosen", "rejected")
    splits = data.read_splits(Data(train="weak-to-strong", dev_share=0.25), 0, shape)
    assert (len(splits.train), len(splits.dev), splits.test) == (6, 2, [])
    assert len(data.read_rows("weak-to-strong:mistral_7b-weak-train")) == 8


def test_transcripts_whose_prompts_differ_or_whose_answer_is_empty_are_left_out(named_data: Path) -> None:
    """A pair has one prompt: the transcripts are the same up to the last answer, and that is the assistant's."""
    asked = "\n\nHuman: Is it far?\n\nAssistant:"
    good = {"chosen": f"{asked} No.", "rejected": f"{asked} Find out yourself."}
    bad = [
        good | {"rejected": "\n\nHuman: Is it near?\n\nAssistant: No."},
        good | {"rejected": f"{asked} No.\n\nHuman: Sure?\n\nAssistant: Yes."},
        {"chosen": f"{asked} No.\n\nHuman: Sure?", "rejected": f"{asked} No.\n\nHuman: Sure?"},
        {"chosen": "No.", "rejected": "Yes."},
        good | {"chosen": asked},
    ]
    write_jsonl(named_data / "hh-harmless" / "train.jsonl", [good, *bad])
    dropped = Counter[str]()
    [row] = hh_harmless.read("train", dropped)
    assert (row.prompt, row.chosen, row.rejected) == ((Message("user", "Is it far?"),), "No.", "Find out yourself.")
    assert dropped == {"transcripts that differ before the last answer": 4, "an empty answer": 1}


def test_a_weak_answer_that_is_the_gold_one_is_no_pair(named_data: Path) -> None:
    (named_data / "weak-to-strong").mkdir()
    rows = own_rows("weak-to-strong")
    write_jsonl(named_data / "weak-to-strong" / "llama2_7b-weak-train.jsonl", rows)
    gold = [
        {"question": row["question"].removeprefix("Question: ").removesuffix("\nAnswer:"), "answer": answer}
        for row, answer in zip(rows, [rows[0]["answer"], *map(str, range(6))], strict=False)
    ]
    write_jsonl(named_data / "gsm8k" / "train.jsonl", gold)
    dropped = Counter[str]()
    assert len(list(weak_to_strong.read("llama2_7b-weak-train", dropped))) == 6
    assert dropped == {"equal answers": 1, "questions that GSM8K does not have": 1}


def test_ratings_and_preferences_of_pandalm(named_data: Path) -> None:
    """A rating is 0.4 times the mean over an answer's pairs; the second answer won where strengths are above 0."""
    pair = {"instruction": "Shorten.", "input": "A long line.", "response1": "Line.", "response2": True}
    votes = ((1, 1, 1), (2, 0, 2), (0, 1, 2), (2, 1, 1))
    scores = ((7, 6), (3, 5), (4, 4), (9, 2))
    answers = ("Line.", "Line.", "Short.", "Line.")
    folder = named_data / "pandalm"
    folder.mkdir(exist_ok=True)
    rows = [
        pair | {"response1": answer} | {f"annotator{place}": vote for place, vote in enumerate(voted, 1)}
        for answer, voted in zip(answers, votes, strict=True)
    ]
    write_jsonl(folder / "testset.jsonl", rows)
    write_jsonl(folder / "judge-gpt-4o-mini.jsonl", [{"score_1": one, "score_2": two} for one, two in scores])
    rated = {row.answer: row.ratings["helpfulness"] for row in data.read_rows("pandalm-ratings")}
    assert rated == pytest.approx({"Line.": 0.4 * 19 / 3, "True": 0.4 * 17 / 4, "Short.": 1.6})
    assert data.read_rows("pandalm-ratings")[0].prompt == (Message("user", "Shorten.\n\nA long line."),)
    dropped: Counter[str] = Counter()
    judged = data.read_rows("pandalm-preferences", dropped=dropped)
    assert [(row.chosen, row.strength) for row in judged] == [("Line.", 1.0), ("True", 2.0), ("Line.", 3.0)]
    said = data.read_rows("pandalm-preferences:people", dropped=dropped)
    assert [(row.chosen, row.strength) for row in said] == [("Line.", 3.0), ("True", 2.0), ("Line.", 1.0)]
    assert dropped == {"ties": 2}


def test_reasoned_rows_of_gsm8k_and_pubmedqa(named_data: Path) -> None:
    """The calculator's marks go, the number stands behind the last ####; the abstract belongs to the question."""
    rows = data.read_rows("gsm8k:test")
    assert len(rows) == len(data.read_rows("gsm8k")) == 8
    reasoning = "There are 4 * 6 = 24 rolls.\nAfter the sale 24 - 10 = 14 are left."
    question = own_rows("gsm8k")[0]["question"]
    assert rows[0] == Reasoned("0", "test.jsonl line 1", question, "14", reasoning)
    assert rows[5].answer == "3,000"
    bare = [*own_rows("gsm8k"), {"question": "How many?", "answer": "#### 3"}, {"question": "Why?", "answer": "So."}]
    bare.append({"question": "What is ####?", "answer": "#### is a mark.\n#### 4"})
    write_jsonl(named_data / "gsm8k" / "train.jsonl", bare)
    dropped: Counter[str] = Counter()
    rows = data.read_rows("gsm8k", dropped=dropped)
    assert len(rows) == 9
    assert (rows[-1].reasoning, rows[-1].answer) == ("#### is a mark.", "4")
    assert dropped == {"no reasoning before the answer": 2}
    first, values = data.read_rows("pubmedqa")[0], own_rows("pubmedqa")[0]
    assert first.question == "\n".join([*values["contexts"], values["question"]])
    assert (first.id, first.answer, first.reasoning) == (values["id"], values["label"], values["long_answer"])


def test_judged_answers(named_data: Path) -> None:
    """An input stands behind its instruction; nothing is wrong with an answer without a judgment."""
    rows = data.read_rows("judgments")
    assert len(rows) == 8
    assert [row.judgment == "" for row in rows] == [row["judgment"] is None for row in own_rows("judgments")]
    assert rows[1].instruction == "Shorten the sentence.\nThe kettle, which is old, whistles."
    assert rows[0] == Critiqued(
        "0", "iter1.jsonl line 1", "Name the capital of Norway.", own_rows("judgments")[0]["output"],
        "Bergen is wrong; the capital is Oslo.",
    )  # fmt: skip


def test_wrong_numbers_of_gsm8k(named_data: Path) -> None:
    """One number after an equals sign is another one; all else is as it was, the same each time."""
    bare = {"question": "How many?", "answer": "There are 3.\n#### 3"}
    write_jsonl(named_data / "gsm8k" / "test.jsonl", [*own_rows("gsm8k"), bare])
    rows, dropped = data.read_rows("wrong-numbers:test"), Counter[str]()
    assert rows == data.read_rows("wrong-numbers:test", dropped=dropped)
    assert dropped == {"no whole number after an equals sign": 1}
    solved = {row.question: row.reasoning for row in data.read_rows("gsm8k:test")}
    assert len(rows) == 8
    for row in rows:
        start, end = row.fault
        wrong, right = row.answer[start:end], row.judgment.removesuffix(".").split()[-1]
        assert row.judgment == f"The number {wrong} is wrong; the correct value is {right}."
        assert wrong != right
        assert f"{row.answer[:start]}{right}{row.answer[end:]}" == solved[row.instruction]
        assert row.answer[:start].endswith("= ")


def test_a_shape_for_judged_answers(tmp_path: Path) -> None:
    """A score of 7 or more says that nothing is wrong, whatever the judgment says; an answer may be empty."""
    rows = [
        {"q": "Add.", "i": "1 and 2", "a": "4", "j": "It is 3.", "s": 6.5},
        {"q": "Add.", "i": None, "a": "", "j": "There is no answer.", "s": None},
        {"q": "Wave.", "i": "", "a": "Hi", "j": "Short, but fine.", "s": 7},
        {"q": "Nod.", "i": "", "a": "Yes", "j": None, "s": 2},
    ]
    shape = critique_shape("q", "i", "a", "j", "s", 7.0)
    found = data.read_rows(str(write_jsonl(tmp_path / "r.jsonl", rows)), shape=shape)
    assert [row.judgment for row in found] == ["It is 3.", "There is no answer.", "", ""]
    assert [row.instruction for row in found] == ["Add.\n1 and 2", "Add.", "Wave.", "Nod."]
    bare = data.read_rows(str(tmp_path / "r.jsonl"), shape=instruction_shape("q", "i"))
    assert [(row.instruction, row.answer) for row in bare] == [(row.instruction, "") for row in found]
    [(what, _)] = problems(data.read_rows, str(tmp_path / "r.jsonl"), shape=critique_shape("q", "i", "x", "j", "s", 7))
    assert "has no column 'x'" in what


def test_a_shape_for_reasoned_rows(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", [{"q": "How many?", "a": 3, "r": "One and two."}])
    [row] = data.read_rows(str(path), shape=reasoned_shape("q", "a", "r"))
    assert row == Reasoned("0", "r.csv line 2", "How many?", "3", "One and two.")
    bad = write_csv(tmp_path / "bad.csv", [{"q": "How many?", "a": 3, "r": " "}])
    with pytest.raises(UserError, match="no text in column 'r'"):
        data.read_rows(str(bad), shape=reasoned_shape("q", "a", "r"))


def test_puzzles_are_right_the_same_each_time_and_never_on_both_sides() -> None:
    """Sums and programs are worked again from the numbers of their questions."""
    train, test = data.read_rows("puzzles"), data.read_rows("puzzles:test")
    assert train == data.read_rows("puzzles:train")
    assert not {row.question for row in train} & {row.question for row in test}
    assert len(train) == 4000
    assert len(test) > 200
    for row in [*train, *test]:
        numbers = [int(number) for number in re.findall(r"\d+", row.question)]
        if "How many" in row.question:
            assert int(row.answer) == numbers[0] + numbers[1] - numbers[2] > 0
        elif "program" in row.question:
            assert int(row.answer) == numbers[0] * numbers[1] + numbers[2]
        elif "both others" in row.question:
            pairs = re.findall(r"(\w+) is \w+ than (\w+)\.", row.question)
            assert {row.answer} == {left for left, _ in pairs} - {right for _, right in pairs}
        else:
            sorts = row.question.split(": ")[1].split("?")[0].split(", ")
            assert row.answer in sorts
            assert [sort for sort in sorts if any(thing in row.question.split("Text: ")[1] for thing, _ in SORTS[sort])]
        assert row.answer in row.reasoning


@pytest.mark.parametrize(("source", "role"), [
    ("emotion", None), ("emotion:train", "train"), ("emotion:val", "dev"), ("emotion:test", "test"),
    ("hub:name/set", "train"), ("hub:name/set:validation", "dev"), ("hub:name/set:test[:10]", "test"),
    ("hub:name/set:extra", "extra"), ("test.csv", None),
])  # fmt: skip
def test_roles_of_sources(source: str, role: str | None) -> None:
    assert data.role_of(source) == role


def test_a_set_that_is_on_no_hub_says_where_it_is_had(named_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAMELID_DATA")
    with pytest.raises(UserError, match="CAMELID_DATA is not set") as raised:
        data.read_rows("moderation")
    assert "moderation-api-release" in raised.value.fix


def test_a_named_set_brings_its_own_splits(named_data: Path) -> None:
    extra = [{"text": f"{row['text']} again", "label": row["label"]} for row in own_rows("emotion")]
    write_jsonl(named_data / "emotion" / "val.jsonl", extra[:5])
    write_jsonl(named_data / "emotion" / "test.jsonl", extra[5:])
    splits = data.read_splits(Data(train="emotion"), 0)
    assert (len(splits.train), len(splits.dev), len(splits.test), splits.held_out) == (8, 5, 3, "test")
    assert splits.warnings == []
    assert splits.dev[0].origin == "val.jsonl line 1"
    one = data.read_splits(Data(train="emotion:train", dev_share=0.5), 0)
    assert (len(one.train), len(one.dev), one.test) == (4, 4, [])


def test_dev_of_sst2_is_its_test_and_its_dev_is_drawn(named_data: Path) -> None:
    splits = data.read_splits(Data(train="sst2", dev_share=0.25), 0)
    assert (len(splits.train), len(splits.dev), len(splits.test), splits.held_out) == (6, 2, 8, "test")
    assert splits.test[0].origin == "dev.jsonl line 1"
    assert len(splits.warnings) == 2


def test_an_unknown_split_names_the_known_ones(named_data: Path) -> None:
    assert problems(data.read_rows, "emotion:dev") == [
        ("the set emotion has no split 'dev'", "Its splits are: train, val, test.")
    ]


def test_a_named_set_without_its_file_asks_the_hub_once(named_data: Path) -> None:
    for split in ("train", "val", "test"):
        (named_data / "emotion" / f"{split}.jsonl").unlink()
    [(what, fix)] = problems(data.read_splits, Data(train="emotion"), 0)
    assert what.startswith("cannot read the data set cardiffnlp/tweet_eval (split train) from the hub: ")
    assert "CAMELID_DATA" in fix


# The embedded tweets


def test_crowd_tweets_are_left_out_by_reason() -> None:
    rows, dropped = [], {}
    for split in ("train", "dev", "test"):
        counts: Counter[str] = Counter()
        rows.append(data.read_rows(f"crowd-tweets:{split}", dropped=counts))
        dropped[split] = counts
    assert [len(split) for split in rows] == [12876, 1863, 3626]
    assert dropped == {
        "train": {
            "confidence below 0.7": 8459,
            "confidence unknown": 3822,
            "retweet": 1166,
            "duplicate of an earlier tweet": 696,
        },
        "dev": {
            "confidence below 0.7": 1127,
            "confidence unknown": 556,
            "retweet": 139,
            "duplicate of an earlier tweet": 34,
        },
        "test": {
            "confidence below 0.7": 2302,
            "confidence unknown": 1082,
            "retweet": 286,
            "duplicate of an earlier tweet": 124,
        },
    }
    # every row of the file is in one split or counted in one reason
    assert sum(map(len, rows)) + sum(map(Counter.total, dropped.values())) == 38_158
    keys = [{crowd_tweets.normalise(row.text) for row in split} for split in rows]
    assert [len(found) for found in keys] == [12876, 1863, 3626]
    assert keys[0] & keys[1] == keys[0] & keys[2] == keys[1] & keys[2] == set()
    assert data.labels_of(rows[1]) == ["negative", "neutral", "positive"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Late AGAIN, @some_air!! https://t.co/x1", "late again"),
        ("late again", "late again"),
        ("  @a @b http://x ", ""),
        ("5 stars… really", "5 stars really"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert crowd_tweets.normalise(text) == expected


# The real sets


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "counts", "classes"),
    [
        ("emotion", (3257, 374, 1421), 4),
        ("sst2", (6228, 692, 872), 2),
        ("banking77", (None, None, 3080), 77),
        ("wnut17", (None, None, 1009), 13),
    ],
)
def test_real_sets(name: str, counts: tuple[int | None, ...], classes: int) -> None:
    splits = data.read_splits(Data(train=name), 0)
    found = (len(splits.train), len(splits.dev), len(splits.test))
    assert [n for n, expected in zip(found, counts) if expected] == [n for n in counts if n]
    assert len(data.labels_of(splits.train)) == classes
    train_of_file = {"emotion": 3257, "sst2": 6920, "banking77": 10003, "wnut17": 3394}[name]
    assert len(splits.train) + (0 if name == "emotion" else len(splits.dev)) == train_of_file
    assert len(splits.dev) / train_of_file == pytest.approx(0.1, abs=0.016)


def test_tagged_rows_of_the_tests_are_sound() -> None:
    assert all(len(row["tokens"]) == len(row["tags"]) for row in tagged_rows())


def test_so_many_rows_of_each_class(tweets_csv: Path) -> None:
    splits = data.read_splits(Data(train=str(tweets_csv), train_per_class=4), 0)
    assert Counter(row.label for row in splits.train) == {"cross": 4, "glad": 4, "plain": 4}
    other = data.read_splits(Data(train=str(tweets_csv), train_per_class=4), 1)
    assert [row.id for row in other.train] != [row.id for row in splits.train]
    assert data.read_splits(Data(train=str(tweets_csv), train_per_class=99), 0).train


def test_rows_of_each_class_need_classes(tagged_jsonl: Path) -> None:
    with pytest.raises(UserError, match="one class each"):
        data.read_splits(Data(train=str(tagged_jsonl), tokens="tokens", tags="tags", train_per_class=2), 0)


def test_rows_are_drawn_in_their_old_order_and_others_have_other_texts() -> None:
    rows = [Labelled(str(n), "", f"text {n % 5}", "") for n in range(20)]
    drawn = data.draw_rows(rows, 6, random.Random(0))
    assert [int(row.id) for row in drawn] == sorted(int(row.id) for row in drawn)
    assert len(drawn) == 6
    assert data.draw_rows(rows, None, random.Random(0)) == data.draw_rows(rows, 99, random.Random(0)) == rows
    left = data.leave_out(rows, drawn[:1])
    assert {row.text for row in left} == {row.text for row in rows} - {drawn[0].text}
    assert data.read_source(None, preference_shape("a", "b", "c")) == []
