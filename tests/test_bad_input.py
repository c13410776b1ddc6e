"""What users get wrong, through the real command line: exit status 2, no traceback, file, row and column, a remedy, and
no run folder, because all of it is found before training starts."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch

from camelid import bases, data, prediction
from camelid.data import formats
from camelid.errors import UserError
from conftest import Camelid, labelled_rows, write_csv, write_jsonl

GOOD = "".join(f"{row['text']},{row['label']}\n" for row in labelled_rows())
HEAD = "text,label\n"
FILL_IN = "Fill them in, or leave such rows out with --set data.missing=drop"
QUOTE = 'Write a quote inside a quoted field twice (""), or remove it.'
EACH_LINE = "Each line must be one complete JSON object."
AS_TEXT = "Write it as text, or name another column."
JSONL = "".join(json.dumps({"text": row["text"], "label": row["label"]}) + "\n" for row in labelled_rows())

Refused = Callable[..., list[tuple[str, str]]]


def errors_of(output: str) -> list[tuple[str, str]]:
    """The (what, fix) pairs that were printed; nothing else may have been."""
    assert "Traceback" not in output
    lines = output.splitlines()
    assert len(lines) % 2 == 0, output
    pairs = list(zip(lines[::2], lines[1::2], strict=True))
    assert all(what.startswith("error: ") and fix.startswith("  fix: ") for what, fix in pairs), output
    return [(what.removeprefix("error: "), fix.removeprefix("  fix: ")) for what, fix in pairs]


@pytest.fixture
def refused(camelid: Camelid, tiny_model: Path, tmp_path: Path) -> Refused:
    """What `camelid run` and, alike, `camelid check` say of the options, which they must refuse."""

    def call(*options: object, model: object = tiny_model, method: str = "ls-llama") -> list[tuple[str, str]]:
        out = tmp_path / "the-run"
        run = camelid("run", method, "--model", model, "--out", out, *options)
        assert run.exit_code == 2, run.output
        assert not out.exists(), "a refused run leaves no folder"
        check = camelid("check", method, "--model", model, *options)
        assert (check.exit_code, check.output) == (2, run.output)
        return errors_of(run.output)

    return call


# Files that are not what they should be: name of the file, its content, what is said after the file's path, remedy
FILES = {
    "empty file": ("r.csv", "", " is empty", "It needs a header line and at least one row."),
    "empty jsonl": ("r.jsonl", "", " is empty", "It needs a header line and at least one row."),
    "header only": ("r.csv", HEAD, " has no usable rows", "It needs a header line and at least one complete row."),
    "wrong column": (
        "r.csv",
        f"txt,label\n{GOOD}",
        " has no column 'text'; it has: txt, label",
        "Did you mean 'txt'? Name the columns with --text and --label (or --tokens and --tags).",
    ),
    "label missing in some rows": (
        "r.csv",
        f"{HEAD}a,\n{GOOD}b, \nc,nan\nd,\n",
        ": no label in column 'label' in 4 rows: r.csv line 2, r.csv line 63, r.csv line 64 and 1 more",
        f"{FILL_IN} (they are counted in the report).",
    ),
    "not utf-8": (
        "r.csv",
        f"{HEAD}{GOOD}".encode() + b"caf\xe9,glad\n",
        " line 62 is not UTF-8 (byte 4 of the line is 0xe9)",
        "Save it as UTF-8, for example: iconv -f latin1 -t utf-8 r.csv > utf8.csv",
    ),
    "broken json line": (
        "r.jsonl",
        f'{JSONL}{{"text": "a", "label": \n',
        " line 61 is not valid JSON (column 24: Expecting value)",
        EACH_LINE,
    ),
    "json line that is no object": (
        "r.jsonl",
        f"{JSONL}[1, 2]\n",
        " line 61 is a list, not an object",
        'Each line must be one JSON object such as {"text": "...", "label": "..."}.',
    ),
    "stray quote": (
        "r.csv",
        f'{HEAD}"a\nb",glad\n"she said "hm",glad\n{GOOD}',
        ": the record that starts at line 4 has a stray quote (line 4: ',' expected after '\"')",
        QUOTE,
    ),
    "quote that is never closed": (
        "r.csv",
        f'{HEAD}{GOOD}"oh,glad\nx,glad\n',
        ": the record that starts at line 62 has a stray quote (line 63: unexpected end of data)",
        QUOTE,
    ),
    "ragged row": (
        "r.csv",
        f"{HEAD}{GOOD}well, well,glad\n",
        " line 62: the header has 2 columns, this row has 3",
        "Quote fields that hold the separator or a line break.",
    ),
    "empty text": (
        "r.csv",
        f"{HEAD}{GOOD},glad\nnan,glad\n",
        ": no text in column 'text' in 2 rows: r.csv line 62, r.csv line 63",
        f"{FILL_IN} (they are counted in the report).",
    ),
    "null text": (
        "r.jsonl",
        f'{JSONL}{{"text": null, "label": "glad"}}\n{{"text": NaN, "label": "glad"}}\n',
        ": no text in column 'text' in 2 rows: r.jsonl line 61, r.jsonl line 62",
        f"{FILL_IN} (they are counted in the report).",
    ),
    "a number as text": (
        "r.jsonl",
        f'{JSONL}{{"text": 17, "label": "glad"}}\n',
        ": column 'text' holds a number, not text in 1 row: r.jsonl line 61",
        AS_TEXT,
    ),
    "a list as text": (
        "r.jsonl",
        f'{JSONL}{{"text": ["a", "b"], "label": "glad"}}\n',
        ": column 'text' holds a list, not text in 1 row: r.jsonl line 61",
        AS_TEXT,
    ),
    "an object as text": (
        "r.jsonl",
        f'{JSONL}{{"text": {{"en": "a"}}, "label": "glad"}}\n',
        ": column 'text' holds an object, not text in 1 row: r.jsonl line 61",
        AS_TEXT,
    ),
    "a label with a decimal point": (
        "r.jsonl",
        f'{JSONL}{{"text": "a", "label": 1.0}}\n',
        ": column 'label' holds a number with a decimal point, not a class in 1 row: r.jsonl line 61",
        "Classes are words or whole numbers.",
    ),
    "half an emoji": (
        "r.jsonl",
        f'{JSONL}{{"text": "so good \\ud83d", "label": "glad"}}\n',
        ": column 'text' holds half of a character (a lone surrogate, as in \\ud83d) in 1 row: r.jsonl line 61",
        "The text was cut in the middle of an emoji or the like: remove the half.",
    ),
    "10 MB in one row": (
        "r.csv",
        f'{HEAD}{GOOD}"{"long text " * 1_000_000}",glad\n',
        ": column 'text' holds more than 1,000,000 characters in 1 row: r.csv line 62 (10,000,000)",
        "Look for an unclosed quote or a wrong column; split real documents into passages first.",
    ),
    "a single class": (
        "r.csv",
        f"{HEAD}a,glad\nb,glad\nc,glad\n",
        " has a single class (glad) in its 3 training rows",
        "Nothing can be learned from one class; is 'label' the right column?",
    ),
    "no parquet": (
        "r.parquet",
        f"{HEAD}{GOOD}",
        " is not a parquet file, or a damaged one (read up to row 0)",
        "Check how it was written, or export it as csv.",
    ),
    "unknown suffix": (
        "r.xlsx",
        "x",
        " has the unknown suffix '.xlsx'",
        "Known are .csv, .tsv, .jsonl, .parquet.",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_files(case: str, refused: Refused, tmp_path: Path) -> None:
    name, content, what, fix = FILES[case]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refused("--data", path) == [(f"{path}{what}", fix)]


def test_a_missing_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "tweets.csv").write_text(HEAD)
    assert refused("--data", tmp_path / "twets.csv") == [
        (f"there is no file {tmp_path / 'twets.csv'}", f"Did you mean {tmp_path / 'tweets.csv'}?")
    ]


def test_a_set_that_there_is_not(refused: Refused) -> None:
    [(what, fix)] = refused("--data", "emotions")
    assert what == "'emotions' is neither a file nor a named data set"
    assert fix.endswith(f"named sets are: {', '.join(data.named_sets())}.")


def test_nan_in_a_parquet(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    rows = labelled_rows()
    columns: dict[str, Any] = {"text": [row["text"] for row in rows], "label": [row["label"] for row in rows]}
    pyarrow.parquet.write_table(pyarrow.table(columns | {"text": [*columns["text"][:-1], None]}), path)
    missing = ": no text in column 'text' in 1 row: r.parquet row 60"
    assert refused("--data", path) == [(f"{path}{missing}", f"{FILL_IN} (they are counted in the report).")]
    pyarrow.parquet.write_table(pyarrow.table(columns | {"text": [float("nan")] * 60}), path)
    [(what, _)] = refused("--data", path)
    some = "r.parquet row 1, r.parquet row 2, r.parquet row 3 and 57 more"
    assert what == f"{path}: no text in column 'text' in 60 rows: {some}"


def test_rows_without_a_label_may_be_dropped(camelid: Camelid, tiny_model: Path, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", [*labelled_rows(), {"text": "a", "label": ""}, {"text": "b", "label": ""}])
    options = ("--data", path, "--model", tiny_model, "--set", "data.missing=drop", "--epochs", 1)
    result = camelid("run", "ls-llama", *options, "--out", tmp_path / "r")
    assert result.exit_code == 0, result.output
    assert "rows left out  2 no label in column 'label'\n" in result.output
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["notes"]["data"]["dropped"] == {"train: no label in column 'label'": 2}
    assert "no label in column" in (tmp_path / "r" / "report.html").read_text(encoding="utf-8")


def test_a_label_that_train_never_has(refused: Refused, tweets_csv: Path, tmp_path: Path) -> None:
    dev = write_csv(tmp_path / "dev.csv", [{"text": "a", "label": "glad"}, {"text": "b", "label": "gald"}])
    assert refused("--data", tweets_csv, "--dev", dev) == [
        (
            "label 'gald' in dev (dev.csv line 3) never occurs in train (1 such rows)",
            "Correct the label, add training rows for it, or remove these rows from dev.",
        )
    ]


def test_tags_and_tokens_of_different_length(refused: Refused, tmp_path: Path) -> None:
    rows = [{"tokens": ["Ada", "left"], "tags": ["B-person", "O"]}, {"tokens": ["Ada", "left"], "tags": ["B-person"]}]
    path = write_jsonl(tmp_path / "r.jsonl", rows)
    assert refused("--data", path, "--tokens", "tokens", "--tags", "tags") == [
        (
            f"{path}: column 'tokens' and column 'tags' have different lengths in 1 row: "
            "r.jsonl line 2 (2 words, 1 tags)",
            "Each word needs exactly one tag.",
        )
    ]


def test_equal_rows_on_both_sides_are_a_warning(camelid: Camelid, tweets_csv: Path, tiny_model: Path) -> None:
    result = camelid("check", "ls-llama", "--data", tweets_csv, "--test", tweets_csv, "--model", tiny_model)
    assert result.exit_code == 0
    assert "warning  54 of 60 rows of test stand in train too, the first at tweets.csv line " in result.output


def test_all_problems_at_once(refused: Refused, tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", [{"text": "a", "label": ""}])
    test = write_csv(tmp_path / "test.csv", [{"body": "a", "label": "x"}])
    folder = tmp_path / "no-model"
    folder.mkdir()
    found = refused("--data", train, "--test", test, model=folder)
    assert [what for what, _ in found] == [
        f"{train}: no label in column 'label' in 1 row: train.csv line 2",
        f"{test} has no column 'text'; it has: body, label",
        f"{folder} is no model: it has no config.json",
    ]


# Recipes and methods


def test_an_unknown_key_of_a_recipe(refused: Refused, tweets_csv: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("max_tokens = 20\n\n[plan]\nepocs = 2\nbatch_rows = 0\n", encoding="utf-8")
    assert refused("--data", tweets_csv, "--recipe", path) == [
        (
            f"{path} line 5: plan.batch_rows = 0: input should be greater than or equal to 1",
            "camelid show <method> explains each field.",
        ),
        (f"{path} line 4: unknown field plan.epocs", "Did you mean plan.epochs?"),
    ]


def test_an_unknown_option(refused: Refused, tweets_csv: Path) -> None:
    assert refused("--data", tweets_csv, "--epocs", 3, "--set", "plan.lerning_rate=1") == [
        ("command line: unknown field plan.lerning_rate", "Did you mean plan.learning_rate?"),
        ("command line: unknown field epocs", "Did you mean plan.epochs?"),
    ]


def test_a_wrong_value_of_an_option(refused: Refused, tweets_csv: Path) -> None:
    [(what, fix)] = refused("--data", tweets_csv, "--pooling", "first")
    assert what == "command line: pooling = 'first': input should be 'last', 'mean' or 'max'"
    assert "camelid show" in fix


def test_one_value_where_several_may_be(refused: Refused, tweets_csv: Path) -> None:
    [(what, _)] = refused("--data", tweets_csv, "--set", "plan.lora_targets=q_proj")
    assert what == """command line: plan.lora_targets = 'q_proj': input should be a list: ["one", "two"]"""


@pytest.mark.parametrize("name", ["ls-lama", "LS-LLaMA2"])
def test_an_unknown_method(refused: Refused, name: str) -> None:
    assert refused(method=name) == [
        (
            f"there is no method {name!r}",
            "Did you mean ls-llama? camelid list names the methods; a path to a .py works too.",
        )
    ]


def test_a_method_file_that_there_is_not(refused: Refused, tmp_path: Path) -> None:
    [(what, _)] = refused(method=str(tmp_path / "mine.py"))
    assert what == f"there is no method file {tmp_path / 'mine.py'}"
    (tmp_path / "mine.py").write_text("def run(recipe, run): ...\n")
    for _ in range(2):
        [(what, _)] = refused(method=str(tmp_path / "mine.py"))
        assert what == f"{tmp_path / 'mine.py'} is no method: it has no Recipe, check"


def test_layers_that_the_model_does_not_have(refused: Refused, tweets_csv: Path, tiny_model: Path) -> None:
    [(what, fix)] = refused("--data", tweets_csv, "--adapt-from-layer", 15)
    assert what == f"plan.adapt_from_layer = 15 leaves no layer to adapt; {tiny_model} has 3 layers"
    assert fix == "Choose a smaller number."
    [(what, fix)] = refused("--data", tweets_csv, "--lora-targets", '["q_proj", "query"]')
    assert what.startswith(f"{tiny_model} has no linear layers named query; it has: ")
    assert "plan.lora_targets" in fix


# Models


@pytest.mark.parametrize("content", [b"", b"GGUF\x03", b"not a model at all, but long enough to be read as one" * 9])
def test_a_broken_gguf_file(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMELID_CACHE", str(tmp_path / "cache"))
    (tmp_path / "broken.gguf").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*broken\.gguf"):
        bases.open_base(str(tmp_path / "broken.gguf"))


def test_labels_that_the_disk_has_no_room_for(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence, and no half file is left behind."""

    def full(part: Path, *_: object) -> None:
        part.write_text("half a li")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(formats, "_write_part", full)
    (tmp_path / "new.csv").write_text("text\nfine\n")
    with pytest.raises(UserError, match="No space left") as raised:
        prediction.predict_file(trained, tmp_path / "new.csv", tmp_path / "out.csv")
    assert "--out" in raised.value.fix
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.csv"]


def test_an_unknown_model_is_told_soon_and_quietly(tweets_csv: Path, tmp_path: Path) -> None:
    program = "from camelid.cli import main; main()"
    options = ["--data", str(tweets_csv), "--model", "no-such/model", "--out", str(tmp_path / "r")]
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")}
    began = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", program, "run", "ls-llama", *options],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert time.monotonic() - began < 45, "mostly imports; the hub's own five tries alone take 25 s more"
    assert (result.returncode, result.stdout) == (2, "")
    [(what, fix)] = errors_of(result.stderr)
    assert what.startswith("cannot open the model 'no-such/model': ")
    assert fix.startswith("Give a hub id (and check the connection), a folder with config.json")
    assert not (tmp_path / "r").exists()


def copy_of(model: Path, folder: Path, *without: str) -> Path:
    return Path(shutil.copytree(model, folder, ignore=shutil.ignore_patterns(*without)))


def test_a_folder_that_is_no_model(refused: Refused, tweets_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    assert refused("--data", tweets_csv, model=tmp_path / "m") == [
        (f"{tmp_path / 'm'} is no model: it has no config.json", "Give a folder saved with save_pretrained.")
    ]
    [(what, _)] = refused("--data", tweets_csv, model=tmp_path / "no" / "m")
    assert what == f"{tmp_path / 'no' / 'm'} is no model folder"


def test_a_model_without_weights(refused: Refused, tweets_csv: Path, tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_model, tmp_path / "m", "*.safetensors")
    assert refused("--data", tweets_csv, model=folder) == [
        (f"{folder} holds no weights (.safetensors)", "Give a folder saved with save_pretrained.")
    ]


class Bomb:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["BOMB"],)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_unread(
    name: str,
    refused: Refused,
    tweets_csv: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    folder = copy_of(tiny_model, tmp_path / "m", "*.safetensors")
    torch.save({"weight": Bomb()}, folder / name)
    [(what, fix)] = refused("--data", tweets_csv, model=folder)
    assert what == f"{folder} holds its weights as Python pickle, which can run code when loaded; it is refused"
    assert fix.startswith("Convert it to safetensors in a place you trust")
    [(what, fix)] = refused("--data", tweets_csv, model=folder / name)
    assert what == f"{folder / name} holds Python pickle, which can run code when it is loaded; it is refused"
    assert fix.startswith("Convert it to safetensors in a place you trust")
    assert not (tmp_path / "exploded").exists()


def test_an_adapter_given_as_model(refused: Refused, tweets_csv: Path, trained: Path, tiny_model: Path) -> None:
    assert refused("--data", tweets_csv, model=trained / "model") == [
        (f"{trained / 'model'} is an adapter, not a model", f"Give its base as the model: {tiny_model}.")
    ]


def test_damaged_weights(refused: Refused, tweets_csv: Path, tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_model, tmp_path / "m")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    [(what, _)] = refused("--data", tweets_csv, model=folder)
    assert "model.safetensors" in what


def test_a_damaged_config(refused: Refused, tweets_csv: Path, tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_model, tmp_path / "m")
    (folder / "config.json").write_text("{")
    [(what, _)] = refused("--data", tweets_csv, model=folder)
    assert what.startswith(f"cannot open the model '{folder}': ")


def test_a_model_without_a_tokenizer(refused: Refused, tweets_csv: Path, tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_model, tmp_path / "m", "token*")
    [(what, _)] = refused("--data", tweets_csv, model=folder)
    assert "tokenizer" in what


# Run folders


def test_a_folder_that_already_holds_something(
    camelid: Camelid, tweets_csv: Path, tiny_model: Path, trained_copy: Path, tmp_path: Path
) -> None:
    def refusal(out: Path) -> list[tuple[str, str]]:
        result = camelid("run", "ls-llama", "--data", tweets_csv, "--model", tiny_model, "--out", out)
        assert result.exit_code == 2
        return errors_of(result.stderr)

    before = sorted(path.name for path in trained_copy.rglob("*"))
    assert refusal(trained_copy) == [
        (
            f"{trained_copy} already holds a run",
            f"camelid resume {trained_copy} continues it; another --out starts anew.",
        )
    ]
    assert sorted(path.name for path in trained_copy.rglob("*")) == before
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "a.tex").write_text("x")
    assert refusal(thesis) == [(f"{thesis} already holds other files", "Choose another --out.")]
    assert [path.name for path in thesis.iterdir()] == ["a.tex"]
    [(what, _)] = refusal(Path("/proc/run"))
    assert what.startswith("cannot write to /proc/run: ")


@pytest.mark.parametrize("command", ["resume", "report", "predict"])
def test_a_folder_that_is_no_run(camelid: Camelid, command: str, tweets_csv: Path, tmp_path: Path) -> None:
    more = (tweets_csv, "--out", tmp_path / "o.csv") if command == "predict" else ()
    for folder, what in (
        (tmp_path, f"{tmp_path} is no run folder (it has no manifest.json)"),
        (tmp_path / "no", f"there is no {tmp_path / 'no'}"),
        (tweets_csv, f"{tweets_csv} is no run folder (it has no manifest.json)"),
    ):
        result = camelid(command, folder, *more)
        assert result.exit_code == 2
        assert errors_of(result.output) == [(what, "Give the folder that camelid run wrote with --out.")]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["train.jsonl", "model/head.safetensors", "recipe.toml"])
def test_resume_of_an_edited_run(camelid: Camelid, part: str, trained_copy: Path) -> None:
    path = trained_copy / part
    path.write_bytes(path.read_bytes() + b"\n")
    result = camelid("resume", trained_copy)
    assert result.exit_code == 2
    [(what, fix)] = errors_of(result.output)
    edited = trained_copy / ("model" if part.startswith("model") else part)
    assert what.startswith(f"{edited} ")
    assert "edited" in what
    assert "new run" in fix or "start anew" in fix


# Predicting

CANNOT_LABEL = "Fill them in, or remove these rows."


@pytest.fixture
def not_predicted(camelid: Camelid, trained: Path, tmp_path: Path) -> Refused:
    """What `camelid predict` says of rows and options that it must refuse."""

    def call(rows: Path, *options: object, out: Path = tmp_path / "labels.csv") -> list[tuple[str, str]]:
        result = camelid("predict", trained, rows, "--out", out, *options)
        assert result.exit_code == 2, result.output
        assert not out.is_file()
        assert not out.with_name(out.name + ".part").exists()
        return errors_of(result.output)

    return call


INPUTS = {
    "missing column": (
        [{"body": "a"}],
        " has no column 'text'; it has: body",
        "Name the columns with --text.",
    ),
    "absent and empty text": (
        [{"text": "a"}, {"n": 1}, {"text": ""}],
        ": no text in column 'text' in 2 rows: r.jsonl line 2, r.jsonl line 3",
        CANNOT_LABEL,
    ),
    "a number as text": (
        [{"text": "a"}, {"text": 7}],
        ": column 'text' holds a number, not text in 1 row: r.jsonl line 2",
        AS_TEXT,
    ),
    "a list as text": (
        [{"text": ["a"]}],
        ": column 'text' holds a list, not text in 1 row: r.jsonl line 1",
        AS_TEXT,
    ),
    "predicted already": (
        [{"text": "a", "predicted": "glad"}],
        " already has the column 'predicted'",
        "Rename or remove it: predict writes that name.",
    ),
    "probability already": (
        [{"text": "a"}, {"text": "a", "probability_glad": 1}],
        " already has the column 'probability_glad'",
        "Rename or remove it: predict writes that name.",
    ),
}


@pytest.mark.parametrize("case", INPUTS)
def test_rows_that_cannot_be_predicted(case: str, not_predicted: Refused, tmp_path: Path) -> None:
    rows, what, fix = INPUTS[case]
    path = write_jsonl(tmp_path / "r.jsonl", rows)
    assert not_predicted(path) == [(f"{path}{what}", fix)]


def test_files_that_cannot_be_predicted(not_predicted: Refused, tmp_path: Path) -> None:
    [(what, _)] = not_predicted(tmp_path / "no.csv")
    assert what == f"there is no file {tmp_path / 'no.csv'}"
    path = tmp_path / "r.csv"
    path.write_text("text\n")
    assert not_predicted(path)[0][0] == f"{path} has no rows"


def test_places_that_predictions_cannot_go(not_predicted: Refused, tweets_csv: Path, tmp_path: Path) -> None:
    assert not_predicted(tweets_csv, out=tmp_path / "o.xlsx") == [
        (f"cannot write {tmp_path / 'o.xlsx'}: unknown suffix '.xlsx'", "Use .csv, .tsv or .jsonl.")
    ]
    assert not_predicted(tweets_csv, out=tmp_path / "no" / "o.csv")[0][0] == f"there is no folder {tmp_path / 'no'}"
    assert not_predicted(tweets_csv, out=Path("/proc/o.csv"))[0][0].startswith("cannot write to /proc: ")


def test_a_base_with_other_weights(
    not_predicted: Refused, tweets_csv: Path, trained: Path, tiny_model: Path, other_model: Path
) -> None:
    [(what, fix)] = not_predicted(tweets_csv, "--base", other_model)
    assert what == (
        f"the model in {trained / 'model'} was trained on another base than {other_model}: their weights differ"
    )
    assert f"It needs {tiny_model} with sha256 " in fix
    assert "--base" in fix


def test_a_base_that_is_gone(
    camelid: Camelid, trained_copy: Path, tweets_csv: Path, tmp_path: Path, tiny_model: Path
) -> None:
    handle = trained_copy / "model" / "handle.json"
    handle.write_text(handle.read_text().replace(str(tiny_model), str(tmp_path / "gone")))
    result = camelid("predict", trained_copy, tweets_csv, "--out", tmp_path / "o.csv")
    assert result.exit_code == 2
    assert str(tmp_path / "gone") in errors_of(result.output)[0][0]


def test_predict_of_a_run_that_makes_no_labels(camelid: Camelid, trained_copy: Path, tweets_csv: Path) -> None:
    """An archive that was labelled, or pairs that were scored, leave no model; resuming would not help."""
    manifest = json.loads((trained_copy / "manifest.json").read_text())
    del manifest["stages"]["model"]
    (trained_copy / "manifest.json").write_text(json.dumps(manifest))
    result = camelid("predict", trained_copy, tweets_csv, "--out", trained_copy / "o.csv")
    [(what, fix)] = errors_of(result.output)
    assert "left no model that labels rows" in what
    assert "resume" not in fix


def test_predict_of_an_unfinished_run(camelid: Camelid, trained_copy: Path, tweets_csv: Path, tmp_path: Path) -> None:
    shutil.rmtree(trained_copy / "model")
    result = camelid("predict", trained_copy, tweets_csv, "--out", tmp_path / "o.csv")
    assert result.exit_code == 2, result.output
    [(what, fix)] = errors_of(result.output)
    assert str(trained_copy) in what
    assert "camelid resume" in fix
