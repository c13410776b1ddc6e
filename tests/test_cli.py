"""The commands as a user types them, on a random model of 3 layers: what they print, write, keep and leave alone."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from camelid import cli, methods
from camelid.errors import UserError
from camelid.runs import read_manifest
from conftest import Camelid, fields_of, labelled_rows, own_rows, tagged_rows, write_csv, write_jsonl

CLASSES = ["cross", "glad", "plain"]


def recipe_of(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "recipe.toml").read_text(encoding="utf-8"))


def read_csv(path: Path, separator: str = ",") -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=separator))


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file's bytes but the page, which is written anew from them each time."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "report.html"
    }


# list and show


def test_list_names_every_method_and_loads_no_torch() -> None:
    program = (
        "import sys\nfrom camelid.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'transformers', 'datasets', 'sklearn'} & set(sys.modules)), file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    listed = subprocess.run([sys.executable, "-c", program, "list"], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (listed.returncode, listed.stderr) == (0, "[]\n")
    assert listed.stdout.index("\nclassify\n") < listed.stdout.index(
        "\n  ls-llama                     Label supervision: a lin"
    )
    # half a second on a quiet machine; this one may be busy
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 1.0


def test_list_has_one_line_a_method(camelid: Camelid) -> None:
    lines = camelid("list").output.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(methods.method_files())


def test_show_has_every_field_with_value_and_help(camelid: Camelid) -> None:
    shown = camelid("show", "ls-llama")
    assert shown.exit_code == 0
    assert "arXiv 2310.01208" in shown.output
    rate = methods.resolve("ls-llama").plan.learning_rate
    assert f"  plan.learning_rate = {rate}\n      peak learning rate of AdamW\n" in shown.output
    assert "  data.train = 'crowd-tweets'\n" in shown.output
    assert "  plan.tuning = 'lora'\n" in shown.output
    assert '\n      one of "lora", "full"\n' in shown.output
    found = re.findall(r"^  ([a-z_.]+) = ", shown.output, re.MULTILINE)
    assert sorted(found) == sorted(name for name, _, _ in cli._fields(methods.resolve("ls-llama")))


def test_help_needs_nothing(camelid: Camelid) -> None:
    for command in ("list", "show", "run", "check", "resume", "predict", "report"):
        assert camelid(command, "--help").exit_code == 0


# check


def test_check_says_what_run_would_do(camelid: Camelid, tweets_csv: Path, tiny_model: Path, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    checked = camelid("check", "ls-llama", "--data", tweets_csv, "--model", tiny_model, "--epochs", "3")
    assert checked.exit_code == 0
    told = fields_of(checked.output)
    assert told["rows"] == "train 54, dev 6, test 0"
    assert told["scores measured on"] == "dev"
    assert told["rows left out"] == "none"
    assert told["classes"] == "3: cross 18, glad 18, plain 18"
    assert told["steps"] == "12 of 16 rows, 3 epochs"
    assert told["model"].startswith(f"{tiny_model}, 0M parameters")
    assert set(tmp_path.iterdir()) == before


def test_check_counts_what_is_left_out_and_cut(camelid: Camelid, tiny_model: Path, tmp_path: Path) -> None:
    rows = [*labelled_rows(), {"text": "x", "label": ""}, {"text": " ", "label": "glad"}, {"text": "y", "label": ""}]
    rows[0]["text"] += " and on" * 60
    path = write_csv(tmp_path / "r.csv", rows)
    checked = camelid(
        "check", "ls-llama", "--data", path, "--model", tiny_model, "--set", "data.missing=drop", "--max-tokens", 40
    )
    told = fields_of(checked.output)
    assert told["rows left out"] == "2 no label in column 'label', 1 no text in column 'text'"
    assert told["cut at max_tokens"] == "1 rows"


def test_check_warns_of_rows_on_both_sides(camelid: Camelid, tiny_model: Path, tmp_path: Path) -> None:
    rows = labelled_rows()
    train, dev = write_csv(tmp_path / "train.csv", rows[:40]), write_csv(tmp_path / "dev.csv", rows[38:])
    checked = camelid("check", "ls-llama", "--data", train, "--dev", dev, "--model", tiny_model)
    assert checked.exit_code == 0
    assert fields_of(checked.output)["warning"] == (
        "2 of 22 rows of dev stand in train too, the first at dev.csv line 2: scores on them measure memory. "
        "Remove them from one of the two."
    )


def test_check_of_a_named_set(camelid: Camelid, tiny_model: Path, named_data: Path) -> None:
    write_jsonl(named_data / "emotion" / "val.jsonl", own_rows("emotion")[:4])
    told = fields_of(camelid("check", "ls-llama", "--data", "emotion", "--model", tiny_model).output)
    assert told["rows"] == "train 8, dev 4, test 8"
    assert told["scores measured on"] == "test"


# Options become fields


def values(*options: object, method: str = "ls-llama") -> dict[str, Any]:
    """The overrides that the options of `camelid check` stand for."""
    settings = [str(options[n + 1]) for n, option in enumerate(options) if option == "--set"]
    plain = [str(option) for n, option in enumerate(options) if "--set" not in (option, options[n - 1] if n else "")]
    context: Any = type("Context", (), {"args": plain})
    return cli._overrides(context, method, settings)


def test_options_are_fields_by_alias_name_or_last_part() -> None:
    assert values("--data", "f.csv", "--model", "m", "--seed", 3) == {
        "data.train": "f.csv",
        "model.base": "m",
        "plan.seed": 3,
    }
    assert values("--epochs", 2, "--learning-rate=1e-3", "--max_tokens", 9, "--plan.clip", 2) == {
        "plan.epochs": 2,
        "plan.learning_rate": 1e-3,
        "max_tokens": 9,
        "plan.clip": 2,
    }


def test_a_flag_needs_no_value_and_may_have_one() -> None:
    assert values("--compare") == {"compare": True}
    assert values("--compare", "--epochs", 2) == {"compare": True, "plan.epochs": 2}
    assert values("--compare", "false") == {"compare": False}


def test_columns_may_have_any_name() -> None:
    assert values("--text", 3, "--label", "true", "--tokens", "1e5", "--set", "data.tags=[0]") == {
        "data.text": "3",
        "data.label": "true",
        "data.tokens": "1e5",
        "data.tags": "[0]",
    }


def test_set_comes_last() -> None:
    assert values("--epochs", 2, "--set", "plan.epochs=5") == {"plan.epochs": 5}


def test_lists_are_toml() -> None:
    assert values("--lora-targets", '["q_proj", "v_proj"]') == {"plan.lora_targets": ["q_proj", "v_proj"]}


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--text"], "--text has no value"),
        (["--text", "--label", "y"], "--text has no value"),
        (["rows.csv"], "unexpected argument 'rows.csv'"),
        (["-x", "1"], "unexpected argument '-x'"),
        (["--set", "epochs"], "--set 'epochs' is not of the form name=value"),
    ],
)
def test_options_that_are_none(options: list[str], what: str) -> None:
    with pytest.raises(UserError) as raised:
        values(*options)
    assert raised.value.what == what
    assert raised.value.fix


def test_the_method_comes_first(camelid: Camelid) -> None:
    result = camelid("check", "--epochs", "2", "ls-llama")
    assert result.exit_code == 2
    assert "the name of the method is missing" in result.output


# run


def test_run_trains_scores_and_reports(trained: Path, tiny_model: Path, tweets_csv: Path) -> None:
    manifest = read_manifest(trained)
    assert manifest["finished"] is True
    assert manifest["notes"]["data"] == {"dropped": {}, "warnings": []}
    assert {name: stage.get("rows") for name, stage in manifest["stages"].items()} == {
        "train": 54,
        "dev": 6,
        "test": 0,
        "model": None,
        "predictions/label-supervision": 6,
        "scores.held_out": None,
    }
    scores = json.loads((trained / "scores.json").read_text(encoding="utf-8"))["held_out"]
    assert (scores["split"], scores["rows"], scores["classes"]) == ("dev", 6, CLASSES)
    assert (trained / "report.html").stat().st_size > 1000
    recipe = recipe_of(trained)
    assert recipe["model"]["base"] == str(tiny_model)
    assert (recipe["data"]["train"], recipe["plan"]["epochs"]) == (str(tweets_csv), 1)
    assert "train_rows" not in recipe["data"], "a limit of the demo's own data"


def test_a_run_is_never_left_with_parts(trained: Path) -> None:
    assert [path for path in trained.rglob("*") if path.name.endswith(".part") or path.name == "checkpoints"] == []


def test_the_saved_recipe_repeats_the_run(camelid: Camelid, trained: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    result = camelid("run", "ls-llama", "--recipe", trained / "recipe.toml", "--out", again)
    assert result.exit_code == 0, result.output
    stages = [read_manifest(folder)["stages"] for folder in (trained, again)]
    assert stages[0] == stages[1]
    assert (again / "recipe.toml").read_bytes() == (trained / "recipe.toml").read_bytes()
    assert f"camelid predict {again} rows.csv --out labels.csv" in result.output


def test_run_numbers_its_folders(
    camelid: Camelid, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "ls-llama-1").mkdir(parents=True)
    assert camelid("run", "ls-llama", "--recipe", trained / "recipe.toml").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["ls-llama-1", "ls-llama-2"]
    assert read_manifest(tmp_path / "runs" / "ls-llama-2")["finished"] is True


def test_the_library_call_does_what_the_command_does(
    trained: Path, tiny_model: Path, tweets_csv: Path, tmp_path: Path
) -> None:
    settings = {
        "data.train": str(tweets_csv),
        "model.base": str(tiny_model),
        "plan.epochs": 1,
        "plan.adapt_from_layer": 0,
        "compare": False,
        "plan.lora_targets": ["q_proj"],
    }
    folder = methods.run("ls-llama", settings, out=tmp_path / "r")
    assert read_manifest(folder)["finished"] is True
    command = read_manifest(folder)["command"]
    assert command[:3] == ["camelid", "run", "ls-llama"]
    options = [part for part in command[3:-2] if part != "--set"]
    assert options[2:] == [
        "plan.epochs=1",
        "plan.adapt_from_layer=0",
        "compare=false",
        'plan.lora_targets=["q_proj"]',
    ]
    assert values(*command[3:-2]) == settings


# resume and report


def test_resume_of_a_finished_run_changes_nothing(camelid: Camelid, trained_copy: Path) -> None:
    before = snapshot(trained_copy)
    result = camelid("resume", trained_copy)
    assert result.exit_code == 0
    assert snapshot(trained_copy) == before
    assert "abel supervision reaches accuracy" in result.output
    assert "training" not in result.output


def test_resume_makes_what_is_missing(camelid: Camelid, trained: Path, trained_copy: Path) -> None:
    manifest = read_manifest(trained_copy)
    for stage in ("predictions/label-supervision", "scores.held_out"):
        del manifest["stages"][stage]
    manifest["finished"] = False
    (trained_copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (trained_copy / "scores.json").unlink()
    assert camelid("resume", trained_copy).exit_code == 0
    assert read_manifest(trained_copy)["stages"] == read_manifest(trained)["stages"]
    assert (trained_copy / "scores.json").read_bytes() == (trained / "scores.json").read_bytes()


def test_report_is_written_again(camelid: Camelid, trained_copy: Path) -> None:
    (trained_copy / "report.html").unlink()
    result = camelid("report", trained_copy)
    assert (result.exit_code, result.output) == (0, f"report: {trained_copy / 'report.html'}\n")
    assert "</html>" in (trained_copy / "report.html").read_text(encoding="utf-8")


# predict


def test_predict_keeps_the_columns_and_adds_its_own(
    camelid: Camelid, trained: Path, tweets_csv: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels.csv"
    result = camelid("predict", trained, tweets_csv, "--out", out)
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, f"60 rows written to {out}")
    given, found = read_csv(tweets_csv), read_csv(out)
    assert list(found[0]) == ["number", "text", "label", "predicted", *(f"probability_{name}" for name in CLASSES)]
    assert [{name: row[name] for name in given[0]} for row in found] == given
    for row in found:
        shares = {name: float(row[f"probability_{name}"]) for name in CLASSES}
        assert math.isclose(sum(shares.values()), 1, abs_tol=1e-9)
        assert row["predicted"] == max(shares, key=lambda name: shares[name])


def test_predict_agrees_with_the_run(camelid: Camelid, trained: Path, tmp_path: Path) -> None:
    dev = [json.loads(line) for line in (trained / "dev.jsonl").read_text(encoding="utf-8").split("\n") if line]
    rows = write_jsonl(tmp_path / "dev.jsonl", [{"text": row["text"]} for row in dev])
    camelid("predict", trained, rows, "--out", tmp_path / "o.jsonl")
    found = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = (trained / "predictions" / "label-supervision.jsonl").read_text(encoding="utf-8").splitlines()
    for row, kept in zip(found, map(json.loads, lines), strict=True):
        assert row["predicted"] == kept["predicted"]
        for name in CLASSES:
            assert row[f"probability_{name}"] == pytest.approx(kept["probabilities"][name], abs=1e-6)


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl", ".csv"])
def test_predict_writes_and_reads_every_format(camelid: Camelid, trained: Path, tmp_path: Path, suffix: str) -> None:
    rows = [{"id": n, "body": text} for n, text in enumerate(["a\tb, c", "two\nlines", '"q" 😀 \u2028'])]
    given, out = write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / f"out{suffix}"
    assert camelid("predict", trained, given, "--out", out, "--text", "body").exit_code == 0
    if suffix == ".jsonl":
        found = [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n") if line]
        assert [row["id"] for row in found] == [0, 1, 2]
        assert all(sum(row[f"probability_{name}"] for name in CLASSES) == pytest.approx(1) for row in found)
    else:
        found = read_csv(out, "\t" if suffix == ".tsv" else ",")
    assert [row["body"] for row in found] == [row["body"] for row in rows]
    assert {row["predicted"] for row in found} <= set(CLASSES)


def test_predict_takes_a_base_that_was_moved(
    camelid: Camelid, trained: Path, tiny_model: Path, tweets_csv: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    moved.symlink_to(tiny_model)
    outputs = [tmp_path / "a.csv", tmp_path / "b.csv"]
    assert camelid("predict", trained, tweets_csv, "--out", outputs[0]).exit_code == 0
    assert camelid("predict", trained, tweets_csv, "--out", outputs[1], "--base", moved).exit_code == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


# Tagged sentences


def test_tagged_rows_are_trained_and_scored(trained_tags: Path) -> None:
    scores = json.loads((trained_tags / "scores.json").read_text(encoding="utf-8"))["held_out"]
    assert (scores["task"], scores["metric"], scores["rows"]) == ("tags", "entity_f1", 2)
    assert scores["classes"] == ["person", "place"]
    handle = json.loads((trained_tags / "model" / "handle.json").read_text(encoding="utf-8"))
    assert handle["settings"]["kind"] == "token"
    assert handle["settings"]["classes"] == ["B-person", "B-place", "I-person", "I-place", "O"]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_predict_gives_one_tag_a_word(
    camelid: Camelid, trained_tags: Path, tagged_jsonl: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"tags{suffix}"
    assert camelid("predict", trained_tags, tagged_jsonl, "--out", out).exit_code == 0
    if suffix == ".jsonl":
        found: list[Any] = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert [{name: row[name] for name in ("tokens", "tags")} for row in found] == tagged_rows()
        tags = [row["predicted"] for row in found]
    else:
        found = read_csv(out)
        assert [row["tokens"].split() for row in found] == [row["tokens"] for row in tagged_rows()]
        tags = [row["predicted"].split() for row in found]
    assert list(found[0]) == ["tokens", "tags", "predicted", "entities"]
    assert [len(row) for row in tags] == [len(row["tokens"]) for row in tagged_rows()]
    assert {tag for row in tags for tag in row} <= {"B-person", "B-place", "I-person", "I-place", "O"}


def test_predict_reads_the_words_of_another_column(camelid: Camelid, trained_tags: Path, tmp_path: Path) -> None:
    given = write_csv(tmp_path / "in.csv", [{"words": "Grace saw Lima today"}])
    result = camelid("predict", trained_tags, given, "--tokens", "words", "--out", tmp_path / "out.csv")
    assert result.exit_code == 0
    [row] = read_csv(tmp_path / "out.csv")
    assert row["words"] == "Grace saw Lima today"
    assert len(row["predicted"].split()) == 4


# A method of one's own

OWN = '''
"""Count rows.

A method of a user."""
from camelid import data, recipe
from pydantic import Field

class Recipe(recipe.Recipe):
    data: recipe.Data = Field(default_factory=recipe.Data)
    times: int = Field(default=1, description="how often")

def check(recipe):
    return [("rows", str(len(data.read_rows(recipe.data.train))))]

def run(recipe, run):
    rows = run.rows("train", lambda: data.read_rows(recipe.data.train))
    score = {"value": float(len(rows) * recipe.times), "low": 0.0, "high": 1.0}
    run.scores("count", lambda: {"verdict": "counted", "metric": "n", "systems": {"ours": {"n": score}}})
'''


def test_a_method_file_of_ones_own_may_have_any_name(
    camelid: Camelid, tweets_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from camelid import report

    monkeypatch.setattr(report, "write_report", lambda folder: folder / "report.html")
    method = tmp_path / "json.py"
    method.write_text(OWN, encoding="utf-8")
    method.with_suffix(".toml").write_text("times = 2\n", encoding="utf-8")
    assert "  times = 2\n      how often" in camelid("show", method).output
    assert fields_of(camelid("check", method, "--data", tweets_csv).output) == {"rows": "60"}
    monkeypatch.chdir(tmp_path)
    result = camelid("run", "json.py", "--data", tweets_csv, "--times", 3, "--out", tmp_path / "r")
    assert result.exit_code == 0, result.output
    assert "counted" in result.output
    assert "180.000" in result.output
    assert sys.modules["json"] is json
    before = snapshot(tmp_path / "r")
    monkeypatch.chdir(os.sep)
    assert camelid("resume", tmp_path / "r").exit_code == 0
    assert snapshot(tmp_path / "r") == before
