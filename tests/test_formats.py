"""Four formats give the same rows, each with the line an editor shows; a broken file is told by file, line, remedy."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camelid import hub
from camelid.data import formats
from camelid.data.formats import check_writable, read_hub, read_table, write_table
from camelid.errors import UserError
from conftest import write_csv, write_jsonl

ROWS = [
    {"text": "plain", "label": "glad"},
    {"text": 'a "quoted", one', "label": "cross"},
    {"text": "two\nlines, three\n\nin all", "label": "glad"},
    {"text": "tab\there and 😀 \u2028 \x85 ends", "label": "plain"},
    {"text": "last", "label": "cross"},
]


def refused(path: Path) -> tuple[str, str]:
    with pytest.raises(UserError) as raised:
        list(read_table(path))
    return raised.value.what, raised.value.fix


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_four_formats_give_equal_rows(tmp_path: Path) -> None:
    files = [
        write_csv(tmp_path / "r.csv", ROWS),
        write_csv(tmp_path / "r.tsv", ROWS, "\t"),
        write_jsonl(tmp_path / "r.jsonl", ROWS),
        write_parquet(tmp_path / "r.parquet", ROWS),
    ]
    for path in files:
        assert [values for _, values in read_table(path)] == ROWS


def test_origins_are_the_lines_an_editor_shows(tmp_path: Path) -> None:
    origins = {
        "r.csv": [2, 3, 4, 8, 9],
        "r.tsv": [2, 3, 4, 8, 9],
        "r.jsonl": [1, 2, 3, 4, 5],
    }
    write_csv(tmp_path / "r.csv", ROWS)
    write_csv(tmp_path / "r.tsv", ROWS, "\t")
    write_jsonl(tmp_path / "r.jsonl", ROWS)
    for name, lines in origins.items():
        assert [origin for origin, _ in read_table(tmp_path / name)] == [f"{name} line {line}" for line in lines]
    write_parquet(tmp_path / "r.parquet", ROWS)
    assert [origin for origin, _ in read_table(tmp_path / "r.parquet")] == [f"r.parquet row {n}" for n in range(1, 6)]


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", 'text,label\n\n\na,x\n\n"b\n\nb",y\n\nc,z\n\n')
    assert list(read_table(path)) == [
        ("r.csv line 4", {"text": "a", "label": "x"}),
        ("r.csv line 6", {"text": "b\n\nb", "label": "y"}),
        ("r.csv line 10", {"text": "c", "label": "z"}),
    ]
    path = write(tmp_path / "r.jsonl", '\n{"a": 1}\n\n  \n{"a": 2}\n')
    assert list(read_table(path)) == [("r.jsonl line 2", {"a": 1}), ("r.jsonl line 5", {"a": 2})]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_of_both_kinds(tmp_path: Path, end: str) -> None:
    path = write(tmp_path / "r.csv", end.join(["text,label", '"a', 'b",x', "c,y", ""]))
    assert list(read_table(path)) == [
        ("r.csv line 2", {"text": f"a{end}b", "label": "x"}),
        ("r.csv line 4", {"text": "c", "label": "y"}),
    ]


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path, name: str) -> None:
    content = "text,label\na,x\n" if name == "r.csv" else '{"text": "a", "label": "x"}\n'
    assert [values for _, values in read_table(write(tmp_path / name, b"\xef\xbb\xbf" + content.encode()))] == [
        {"text": "a", "label": "x"}
    ]


def test_suffixes_may_be_upper_case(tmp_path: Path) -> None:
    assert [values for _, values in read_table(write(tmp_path / "R.CSV", "a\n1\n"))] == [{"a": "1"}]
    assert [values for _, values in read_table(write(tmp_path / "R.TSV", "a\tb\n1\t2\n"))] == [{"a": "1", "b": "2"}]


def test_a_field_may_be_larger_than_the_csv_module_likes(tmp_path: Path) -> None:
    [(_, values)] = read_table(write(tmp_path / "r.csv", f"text\n{'x' * 200_000}\n"))
    assert len(values["text"]) == 200_000


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")), st.text("ab"))))
def test_any_fields_come_back_with_their_line(
    tmp_path_factory: pytest.TempPathFactory, fields: list[tuple[str, str]]
) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    lines = []
    for row in [("text", "label"), *fields]:
        lines.append(buffer.getvalue().count("\n") + 1)
        writer.writerow(row)
    path = write(tmp_path_factory.getbasetemp() / "any.csv", buffer.getvalue())
    assert list(read_table(path)) == [
        (f"any.csv line {line}", {"text": text, "label": label})
        for line, (text, label) in zip(lines[1:], fields, strict=True)
    ]


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "tweets.csv", "a\n")
    assert refused(tmp_path / "twets.csv") == (
        f"there is no file {tmp_path / 'twets.csv'}",
        f"Did you mean {tmp_path / 'tweets.csv'}?",
    )
    assert refused(tmp_path / "zzzzzzzz.jsonl")[1] == "In that folder there are: tweets.csv."
    assert refused(tmp_path / "no" / "x.csv")[1] == "Check the path."


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert refused(tmp_path) == (
        f"{tmp_path} is a folder, not a file",
        "Name one file in it (.csv, .tsv, .jsonl, .parquet).",
    )


def test_an_empty_file(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", "")
    assert refused(path) == (f"{path} is empty", "It needs a header line and at least one row.")


def test_an_unknown_suffix(tmp_path: Path) -> None:
    path = write(tmp_path / "r.xlsx", "x")
    assert refused(path) == (
        f"{path} has the unknown suffix '.xlsx'",
        "Known are .csv, .tsv, .jsonl, .parquet.",
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_somebody_else(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "a\n1\n")
    path.chmod(0)
    assert refused(path) == (f"cannot read {path}: Permission denied", "Check who may read it.")


def test_a_row_that_is_too_short_or_too_long_after_a_multi_line_field(tmp_path: Path) -> None:
    for row, count in (("c", 1), ("c,z,3", 3)):
        path = write(tmp_path / "r.csv", f'text,label\n"a\n\na",x\n\n{row}\nd,w\n')
        assert refused(path) == (
            f"{path} line 6: the header has 2 columns, this row has {count}",
            "Quote fields that hold the separator or a line break.",
        )


def test_a_stray_quote_names_where_its_record_starts_and_where_it_breaks(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", 'text,label\n"a\nb",x\n"he said "no",y\nc,z\n')
    assert refused(path) == (
        f"{path}: the record that starts at line 4 has a stray quote (line 4: ',' expected after '\"')",
        'Write a quote inside a quoted field twice (""), or remove it.',
    )
    path = write(tmp_path / "r.csv", 'text,label\na,x\n"never closed,y\nb,z\nc,z\n')
    assert refused(path)[0] == (
        f"{path}: the record that starts at line 3 has a stray quote (line 5: unexpected end of data)"
    )


def test_a_quote_inside_an_unquoted_field_is_text(tmp_path: Path) -> None:
    [(_, values)] = read_table(write(tmp_path / "r.csv", 'text,label\nsay "hi" now,x\n'))
    assert values == {"text": 'say "hi" now', "label": "x"}


def test_old_line_ends_are_no_stray_quote(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "text,label\ra,x\rb,y\r")
    what, fix = refused(path)
    assert what == f"{path} line 1 has a carriage return in the middle"
    assert fix == "Give it ordinary line ends, for example: tr '\\r' '\\n' < r.csv > lines.csv"


def test_a_column_that_is_named_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "text,label, text\na,x,b\n")
    assert refused(path) == (f"{path} line 1 names the column 'text' twice", "Give each column its own name.")


def test_bytes_that_are_not_utf8_have_line_and_place(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", b'text,label\n"a\nb",x\ncaf\xe9,y\n')
    assert refused(path) == (
        f"{path} line 4 is not UTF-8 (byte 4 of the line is 0xe9)",
        "Save it as UTF-8, for example: iconv -f latin1 -t utf-8 r.csv > utf8.csv",
    )
    path = write(tmp_path / "r.jsonl", b'\xef\xbb\xbf{"text": "\xff"}\n')
    assert refused(path)[0] == f"{path} line 1 is not UTF-8 (byte 11 of the line is 0xff)"


def test_utf16_is_told_from_latin1(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "text,label\na,x\n".encode("utf-16"))
    assert refused(path)[1] == "Save it as UTF-8, for example: iconv -f utf-16 -t utf-8 r.csv > utf8.csv"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"text": "a", "label": }', "is not valid JSON (column 24: Expecting value)"),
        ('{"text": "a"', "is not valid JSON (column 13: Expecting ',' delimiter)"),
        ("{'text': 'a'}", "is not valid JSON (column 2: Expecting property name enclosed in double quotes)"),
        ('["a", "b"]', "is a list, not an object"),
        ('"a"', "is text, not an object"),
        ("3", "is a number, not an object"),
        ("null", "is null, not an object"),
    ],
)
def test_a_broken_json_line(tmp_path: Path, line: str, what: str) -> None:
    path = write(tmp_path / "r.jsonl", f'{{"text": "ok"}}\n\n{line}\n')
    found, fix = refused(path)
    assert found == f"{path} line 3 {what}"
    assert fix.startswith("Each line must be one ")


@pytest.mark.parametrize("line", ["[" * 100_000, f'{{"a": {"9" * 5000}}}'], ids=["deep", "long number"])
def test_json_that_python_gives_up_on(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "r.jsonl", f"{line}\n")
    assert refused(path)[0].startswith(f"{path} line 1 is not valid JSON (")


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    path = write(tmp_path / "r.parquet", "text,label\n")
    assert refused(path) == (
        f"{path} is not a parquet file, or a damaged one (read up to row 0)",
        "Check how it was written, or export it as csv.",
    )


# Writing


@pytest.mark.parametrize("name", ["o.csv", "o.tsv", "o.jsonl"])
def test_what_is_written_is_read_back(tmp_path: Path, name: str) -> None:
    write_table(tmp_path / name, ROWS)
    assert [values for _, values in read_table(tmp_path / name)] == ROWS
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_lists_objects_and_absent_values_of_a_csv(tmp_path: Path) -> None:
    write_table(tmp_path / "o.csv", [{"a": ["New", "Cairo"], "b": None}, {"a": {"x": "é"}, "c": 0.25}])
    assert (tmp_path / "o.csv").read_text(encoding="utf-8").splitlines() == [
        "a,b,c",
        "New Cairo,,",
        '"{""x"": ""é""}",,0.25',
    ]


def test_nan_and_dates_are_valid_json(tmp_path: Path) -> None:
    import datetime

    write_table(tmp_path / "o.jsonl", [{"a": float("nan"), "b": datetime.date(2024, 1, 2), "c": ["x"]}])
    line = (tmp_path / "o.jsonl").read_text(encoding="utf-8")
    assert json.loads(line, parse_constant=pytest.fail) == {"a": None, "b": "2024-01-02", "c": ["x"]}


def cannot_write(path: Path) -> tuple[str, str]:
    with pytest.raises(UserError) as raised:
        check_writable(path)
    return raised.value.what, raised.value.fix


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "d.csv").mkdir()
    assert cannot_write(tmp_path / "o.xlsx") == (
        f"cannot write {tmp_path / 'o.xlsx'}: unknown suffix '.xlsx'",
        "Use .csv, .tsv or .jsonl.",
    )
    assert cannot_write(tmp_path / "no" / "o.csv")[0] == f"there is no folder {tmp_path / 'no'}"
    assert cannot_write(tmp_path / "d.csv") == (f"{tmp_path / 'd.csv'} is a folder", "Name a file.")
    assert cannot_write(Path("/proc/o.csv"))[0].startswith("cannot write to /proc: ")


def test_a_look_leaves_nothing_behind(tmp_path: Path) -> None:
    write(tmp_path / "o.csv", "old\n")
    check_writable(tmp_path / "o.csv")
    check_writable(tmp_path / "new.jsonl")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("o.csv", "old\n")]


# The hub


def test_class_numbers_of_a_hub_set_become_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cross", "glad"]),
            "tags": datasets.List(datasets.ClassLabel(names=["O", "B-place"])),
        }
    )
    rows = [
        {"text": "a", "label": 1, "tags": [0, 1]},
        {"text": "b", "label": -1, "tags": []},
        {"text": "c", "label": 0, "tags": [1]},
    ]
    asked = []

    def load_dataset(*names: Any, **options: Any) -> Any:
        asked.append((names, options))
        return datasets.Dataset.from_list(rows, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(read_hub("some/set", "validation", "small")) == [
        ("some/set:validation row 1", {"text": "a", "label": "glad", "tags": ["O", "B-place"]}),
        ("some/set:validation row 2", {"text": "b", "label": None, "tags": []}),
        ("some/set:validation row 3", {"text": "c", "label": "cross", "tags": ["B-place"]}),
    ]
    assert asked == [(("some/set", "small"), {"split": "validation"})]


def test_a_hub_that_does_not_answer(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as raised:
        list(read_hub("no-such/set", "train"))
    assert raised.value.what.startswith("cannot read the data set no-such/set (split train) from the hub: ")
    assert "CAMELID_DATA" in raised.value.fix
    assert capfd.readouterr().err == ""


def test_the_hub_is_asked_once_and_then_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE is False
    with hub.reached():
        assert constants.HF_HUB_OFFLINE is True
    assert constants.HF_HUB_OFFLINE is False
    monkeypatch.setattr(hub, "_answers", lambda: True)
    with hub.reached():
        assert constants.HF_HUB_OFFLINE is False
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with hub.reached():
        assert constants.HF_HUB_OFFLINE is True


def test_a_local_folder_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMELID_DATA", str(tmp_path))
    (tmp_path / "set").mkdir()
    write_jsonl(tmp_path / "set" / "dev.jsonl", [{"a": 1}])
    monkeypatch.setattr(formats, "read_hub", lambda *names: iter([("hub", {"names": names})]))
    where = {"hub_id": "some/set", "hub_split": "validation", "config": "small"}
    assert list(formats.read_local_or_hub("set", "dev", **where)) == [("dev.jsonl line 1", {"a": 1})]
    assert list(formats.read_local_or_hub("set", "test", **where)) == [
        ("hub", {"names": ("some/set", "validation", "small")})
    ]
