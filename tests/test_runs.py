"""The run folder: a stage is made once, a torn one is made again, an edited one is refused, one process at a time."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from camelid import models, recipe, runs
from camelid.errors import UserError
from camelid.rows import Judged, Labelled, iterate_rows
from camelid.runs import Run, next_folder, open_run, read_manifest, reopen_run, sha256, slug, write_json
from conftest import Killed

ROWS = [Labelled("0", "t.csv line 2", "fine \u2028 😀", "glad"), Labelled("1", "t.csv line 3", "well", "cross")]


def start(folder: Path) -> Any:
    return open_run(folder, recipe=recipe.Recipe(), method="ls-llama", command=["camelid", "run", "ls-llama"])


def counted(make: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> Any:
        call.times += 1
        return make()

    call.times = 0
    return call


def refused(folder: Path, action: Callable[[Run], Any] = lambda run: None) -> tuple[str, str]:
    with pytest.raises(UserError) as raised, reopen_run(folder) as run:
        action(run)
    return raised.value.what, raised.value.fix


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_stage_is_made_once(tmp_path: Path) -> None:
    make = counted(lambda: iter(ROWS))
    with start(tmp_path / "r") as run:
        assert run.rows("train", make) == ROWS
        assert run.rows("train", make) == ROWS
    with reopen_run(tmp_path / "r") as run:
        assert run.rows("train", make) == ROWS
    assert make.times == 1
    stage = read_manifest(tmp_path / "r")["stages"]["train"]
    assert stage == {"path": "train.jsonl", "sha256": sha256(tmp_path / "r" / "train.jsonl"), "rows": 2}


def test_a_stage_may_lie_in_a_folder(tmp_path: Path) -> None:
    with start(tmp_path / "r") as run:
        run.rows("predictions/majority-class", lambda: ROWS)
    assert read_manifest(tmp_path / "r")["stages"]["predictions/majority-class"]["rows"] == 2
    assert (tmp_path / "r" / "predictions" / "majority-class.jsonl").is_file()


def test_a_failed_stage_leaves_a_part_that_never_counts(tmp_path: Path) -> None:
    def torn() -> Any:
        yield ROWS[0]
        raise Killed

    with pytest.raises(Killed), start(tmp_path / "r") as run:
        run.rows("train", torn)
    assert (tmp_path / "r" / "train.jsonl.part").exists()
    assert not (tmp_path / "r" / "train.jsonl").exists()
    make = counted(lambda: ROWS)
    with reopen_run(tmp_path / "r") as run:
        assert run.rows("train", make) == ROWS
    assert make.times == 1
    assert not (tmp_path / "r" / "train.jsonl.part").exists()


def test_a_part_of_the_manifest_never_counts(tmp_path: Path) -> None:
    with start(tmp_path / "r") as run:
        run.rows("train", lambda: ROWS)
    (tmp_path / "r" / "manifest.json.part").write_text('{"stages": ')
    with reopen_run(tmp_path / "r") as run:
        assert run.rows("train", lambda: pytest.fail("made again")) == ROWS


def killed_before_manifest(monkeypatch: pytest.MonkeyPatch, folder: Path, action: Callable[[Run], Any]) -> None:
    def kill(run: Run) -> None:
        raise Killed

    with monkeypatch.context() as patch, start(folder) as run:
        patch.setattr(Run, "_write_manifest", kill)
        with pytest.raises(Killed):
            action(run)


def test_killed_between_artifact_and_manifest_a_stage_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_before_manifest(monkeypatch, tmp_path / "r", lambda run: run.rows("train", lambda: ROWS[:1]))
    assert (tmp_path / "r" / "train.jsonl").exists()
    make = counted(lambda: ROWS)
    with reopen_run(tmp_path / "r") as run:
        assert run.rows("train", make) == ROWS
    assert make.times == 1
    assert read_manifest(tmp_path / "r")["stages"]["train"]["rows"] == 2


def test_killed_between_scores_and_manifest_they_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_before_manifest(monkeypatch, tmp_path / "r", lambda run: run.scores("held_out", lambda: {"a": 1}))
    assert json.loads((tmp_path / "r" / "scores.json").read_text()) == {"held_out": {"a": 1}}
    with reopen_run(tmp_path / "r") as run:
        assert run.scores("held_out", lambda: {"a": 2}) == {"a": 2}
    with reopen_run(tmp_path / "r") as run:
        assert run.scores("held_out", lambda: pytest.fail("made again")) == {"a": 2}


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{}\n")], ids=["missing", "edited"])
def test_an_edited_artifact_is_refused(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    with start(tmp_path / "r") as run:
        run.rows("train", lambda: ROWS)
    path = tmp_path / "r" / "train.jsonl"
    damage(path)
    assert refused(tmp_path / "r", lambda run: run.rows("train", lambda: ROWS)) == (
        f"{path} is not what the run wrote: it is missing or was edited",
        "Restore the file, or start a new run with another --out.",
    )


@pytest.mark.parametrize("content", ['{"held_out": {"accuracy": 0.9}}', "{}"], ids=["edited", "missing"])
def test_edited_scores_are_refused(tmp_path: Path, content: str) -> None:
    with start(tmp_path / "r") as run:
        run.scores("held_out", lambda: {"accuracy": 0.5})
    (tmp_path / "r" / "scores.json").write_text(content)
    what, _ = refused(tmp_path / "r", lambda run: run.scores("held_out", dict))
    assert what == f"{tmp_path / 'r' / 'scores.json'} is not what the run wrote: it is missing or was edited"


def test_scores_come_back_as_they_were(tmp_path: Path) -> None:
    made = {"split": "dev", "p": 1 / 3, "classes": ("a", "b"), "none": None, "é": [math.pi]}
    with start(tmp_path / "r") as run:
        first = run.scores("held_out", lambda: made)
        run.scores("other", lambda: {"x": 1})
    with reopen_run(tmp_path / "r") as run:
        assert run.scores("held_out", lambda: pytest.fail("made again")) == first
    assert first == made | {"classes": ["a", "b"]}
    assert json.loads((tmp_path / "r" / "scores.json").read_text()) == {"held_out": first, "other": {"x": 1}}


def test_an_edited_recipe_is_refused(tmp_path: Path) -> None:
    with start(tmp_path / "r"):
        pass
    path = tmp_path / "r" / "recipe.toml"
    path.write_text(path.read_text().replace("smollm2-135m", "other"))
    what, fix = refused(tmp_path / "r")
    assert what == f"{path} was edited after the run started, or is missing"
    assert fix.startswith("Undo the edit to resume, or start anew from it: ")
    path.unlink()
    assert refused(tmp_path / "r")[0] == what


def test_a_note_is_made_once(tmp_path: Path) -> None:
    make = counted(lambda: {"dropped": {"train: no text": 2}})
    with start(tmp_path / "r") as run:
        run.note("data", make)
        run.note("data", make)
    with reopen_run(tmp_path / "r") as run:
        run.note("data", make)
    assert make.times == 1
    assert read_manifest(tmp_path / "r")["notes"] == {"data": {"dropped": {"train: no text": 2}}}


def test_the_manifest_says_what_ran(tmp_path: Path) -> None:
    with start(tmp_path / "r") as run:
        assert read_manifest(tmp_path / "r")["finished"] is False
        run.finish()
    manifest = read_manifest(tmp_path / "r")
    assert (manifest["method"], manifest["command"]) == ("ls-llama", ["camelid", "run", "ls-llama"])
    assert manifest["finished"] is True
    assert set(manifest["versions"]) == set(runs.VERSIONED)
    assert manifest["recipe_sha256"] == sha256(tmp_path / "r" / "recipe.toml")


def test_times_are_kept_apart(tmp_path: Path) -> None:
    with start(tmp_path / "r") as run:
        run.rows("train", lambda: time.sleep(0.1) or ROWS)
        run.rows("dev", lambda: ROWS)
    lines = [json.loads(line) for line in (tmp_path / "r" / "timings.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["train", "dev"]
    assert 0.1 <= lines[0]["seconds"] < 5
    assert lines[0]["cpu_seconds"] < lines[0]["seconds"]
    assert 10 < lines[0]["peak_memory_mb"] < 10_000


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    def refusal(folder: Path) -> tuple[str, str]:
        with pytest.raises(UserError) as raised, start(folder):
            pass
        return raised.value.what, raised.value.fix

    with start(tmp_path / "r"):
        pass
    assert refusal(tmp_path / "r") == (
        f"{tmp_path / 'r'} already holds a run",
        f"camelid resume {tmp_path / 'r'} continues it; another --out starts anew.",
    )
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "thesis.tex").write_text("x")
    assert refusal(tmp_path / "o") == (f"{tmp_path / 'o'} already holds other files", "Choose another --out.")
    assert refusal(tmp_path / "o" / "thesis.tex") == (
        f"{tmp_path / 'o' / 'thesis.tex'} is a file, and a run needs a folder",
        "Choose another --out.",
    )
    assert refusal(Path("/proc/r"))[0].startswith("cannot write to /proc/r: ")
    assert files(tmp_path / "o") == {"thesis.tex": b"x"}


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        assert run.folder == tmp_path


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    assert refused(tmp_path / "no")[0] == f"there is no {tmp_path / 'no'}"
    what, fix = refused(tmp_path)
    assert what == f"{tmp_path} is no run folder (it has no manifest.json)"
    assert fix == "Give the folder that camelid run wrote with --out."


@pytest.mark.parametrize("content", ["", "[]", '{"name": "my web app"}'])
def test_the_manifest_of_something_else(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    assert refused(tmp_path)[0] == f"{tmp_path / 'manifest.json'} was not written by camelid"


def judged(row: Any, outcome: str = "value") -> Judged:
    return Judged(row.id, row.origin, outcome, row.id if outcome == "value" else None, "timeout")


def numbered(count: int) -> Iterator[Labelled]:
    return (Labelled(str(number), f"line {number}", "x" * number, "") for number in range(count))


def ids_in(path: Path) -> list[str]:
    return [row.id for row in iterate_rows(path)]


def test_a_map_goes_on_behind_the_last_whole_line(tmp_path: Path) -> None:
    """Killed in the second chunk and in the middle of a line: no row twice, none missing, none kept is judged again."""
    seen: list[str] = []

    def judge(rows: Sequence[Any]) -> list[Judged]:
        seen.extend(row.id for row in rows)
        if "3" in seen[-len(rows) :] and seen.count("3") == 1:
            raise Killed
        return [judged(row) for row in rows]

    with pytest.raises(Killed), start(tmp_path / "r") as run:
        run.map("judged", numbered(8), judge, chunk=3)
    part = tmp_path / "r" / "judged.jsonl.part"
    part.write_bytes(part.read_bytes() + b'{"row": "Judged", "id": "3", "ori')
    with reopen_run(tmp_path / "r") as run:
        path = run.map("judged", numbered(8), judge, chunk=3)
        assert ids_in(path) == [str(number) for number in range(8)]
        assert run.map("judged", iter(()), judge) == path, "a finished stage asks for nothing"
    assert [seen.count(str(number)) for number in range(8)] == [1, 1, 1, 2, 2, 2, 1, 1]
    assert read_manifest(tmp_path / "r")["stages"]["judged"]["rows"] == 8


def test_a_map_holds_one_chunk_at_a_time(tmp_path: Path) -> None:
    read = 0

    def rows() -> Iterator[Labelled]:
        nonlocal read
        for row in numbered(20):
            read += 1
            yield row

    def judge(taken: Sequence[Any]) -> list[Judged]:
        assert len(taken) <= 4
        assert read - len(list((tmp_path / "r" / "judged.jsonl.part").open())) <= 4
        return [judged(row) for row in taken]

    with start(tmp_path / "r") as run:
        run.map("judged", rows(), judge, chunk=4)
    assert read == 20


def test_a_map_stops_when_everything_fails(tmp_path: Path) -> None:
    """One failure among others is an outcome; a chunk of nothing else ends the run, and its rows are asked again."""

    def judge(rows: Sequence[Any]) -> list[Judged]:
        return [judged(row, "failed" if int(row.id) >= 3 else "value") for row in rows]

    expected = pytest.raises(UserError, match="all of the last 4 rows failed, the first for: timeout")
    with expected, start(tmp_path / "r") as run:
        run.map("judged", numbered(12), judge, chunk=4)
    with reopen_run(tmp_path / "r") as run:
        path = run.map("judged", numbered(12), lambda rows: [judged(row) for row in rows], chunk=4)
    assert [(row.id, row.outcome) for row in iterate_rows(path)] == [(str(at), "value") for at in range(12)]


def test_what_failed_for_now_is_judged_again(tmp_path: Path) -> None:
    """Once at the end, and when a killed run goes on; what comes back is not asked twice, and no line moves."""
    asked: list[str] = []
    problems = {"1": "timeout", "2": "context overflow", "5": "server error"}

    def judge(rows: Sequence[Any]) -> list[Judged]:
        asked.extend(row.id for row in rows)
        given = [judged(row, "failed" if row.id in problems else "value") for row in rows]
        return [replace(one, problem=problems.get(one.id, "")) for one in given]

    def stopped() -> Iterator[Any]:
        yield from numbered(6)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), start(tmp_path / "r") as run:
        run.map("judged", stopped(), judge, chunk=3)
    assert asked == ["0", "1", "2", "3", "4", "5"]
    asked.clear()
    del problems["5"]
    with reopen_run(tmp_path / "r") as run:
        path = run.map("judged", numbered(9), judge, chunk=3)
    assert asked == ["1", "5", "6", "7", "8", "1"]
    found = [(row.id, row.outcome) for row in iterate_rows(path)]
    assert found == [(str(at), "failed" if at in (1, 2) else "value") for at in range(9)]


def test_a_chunk_of_rows_that_fail_for_good_ends_no_run(tmp_path: Path) -> None:
    with start(tmp_path / "r") as run:
        path = run.map("judged", numbered(2), lambda rows: [
            replace(judged(row, "failed"), problem="context overflow") for row in rows
        ])  # fmt: skip
    assert [row.outcome for row in iterate_rows(path)] == ["failed"] * 2


def test_rows_that_changed_since_are_told(tmp_path: Path) -> None:
    """A resumed map passes over as many rows as it has; were one inserted, all behind it would be off by one."""

    def stopped() -> Iterator[Any]:
        yield from numbered(4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), start(tmp_path / "r") as run:
        run.map("judged", stopped(), lambda rows: [judged(row) for row in rows], chunk=2)
    other = [replace(row, id=f"new {row.id}") for row in numbered(6)]
    with (
        pytest.raises(UserError, match="line 1 is of row 0, and the rows have new 0 there now"),
        reopen_run(tmp_path / "r") as run,
    ):
        run.map("judged", other, lambda rows: [judged(row) for row in rows], chunk=2)


def test_a_map_gives_one_row_for_each(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="not one row for each"), start(tmp_path / "r") as run:
        run.map("judged", numbered(3), lambda rows: [judged(row) for row in rows[1:]])


def test_the_lock_refuses_a_second_process(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from camelid.runs import reopen_run\n"
        "with reopen_run(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    with start(tmp_path / "r"):
        pass
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "r")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        assert refused(tmp_path / "r") == (
            f"another process is working in {tmp_path / 'r'}",
            "Wait for it, or stop it first.",
        )
    finally:
        other.kill()
        other.wait()
    with reopen_run(tmp_path / "r") as run:  # the lock went with the process
        assert run.manifest["finished"] is False


def test_a_model_is_built_and_fitted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def build() -> nn.Module:
        calls.append("build")
        return nn.Linear(1, 1)

    def fit(module: nn.Module, folder: Path) -> None:
        calls.append("fit")
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "checkpoints" / "1").write_text("x")
        (folder / "metrics.jsonl").write_text("{}\n")

    def save(module: nn.Module, folder: Path) -> None:
        calls.append("save")
        (folder / "weights").write_text("w")

    monkeypatch.setattr(models, "save", save)
    killed_before_manifest(monkeypatch, tmp_path / "r", lambda run: run.model("model", build, fit))
    assert (tmp_path / "r" / "model" / "checkpoints").exists()  # so that the next fit goes on from there
    for _ in range(2):
        with reopen_run(tmp_path / "r") as run:
            assert run.model("model", build, fit) == tmp_path / "r" / "model"
    assert calls == ["build", "fit", "save"] * 2
    assert set(files(tmp_path / "r" / "model")) == {"metrics.jsonl", "weights"}
    (tmp_path / "r" / "model" / "weights").write_text("v")
    assert refused(tmp_path / "r", lambda run: run.model("model", build, fit))[0].startswith(
        f"{tmp_path / 'r' / 'model'} is not what the run wrote"
    )


def test_checkpoints_go_even_when_the_kill_came_just_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "save", lambda module, folder: (folder / "weights").write_text("w"))
    with start(tmp_path / "r") as run:
        run.model("model", lambda: None, lambda module, folder: None)
    (tmp_path / "r" / "model" / "checkpoints").mkdir()
    with reopen_run(tmp_path / "r") as run:
        run.model("model", lambda: pytest.fail("built again"), lambda module, folder: None)
    assert set(files(tmp_path / "r" / "model")) == {"weights"}
    assert not (tmp_path / "r" / "model" / "checkpoints").exists()


def test_the_hash_of_a_folder_sees_names_and_bytes_but_no_times(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    first = sha256(tmp_path)
    (tmp_path / "timings.jsonl").write_text("x")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "1").write_text("x")
    assert sha256(tmp_path) == first
    (tmp_path / "b").rename(tmp_path / "c")
    assert sha256(tmp_path) != first
    (tmp_path / "c").rename(tmp_path / "b")
    assert sha256(tmp_path) == first
    (tmp_path / "b").write_text("3")
    assert sha256(tmp_path) != first


def test_json_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": "é"})
    assert path.read_text(encoding="utf-8") == '{\n  "a": "é"\n}\n'

    def kill(*paths: Path) -> None:
        raise Killed

    monkeypatch.setattr(runs.os, "replace", kill)
    with pytest.raises(Killed):
        write_json(path, {"a": "new"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TF-IDF + logistic regression", "tf-idf-logistic-regression"),
        ("label supervision", "label-supervision"),
        (" Few-shot (2)! ", "few-shot-2"),
    ],
)
def test_slug(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_the_next_folder_is_the_first_free_one(tmp_path: Path) -> None:
    assert next_folder("ls-llama", tmp_path) == tmp_path / "ls-llama-1"
    (tmp_path / "ls-llama-1").mkdir()
    (tmp_path / "ls-llama-3").mkdir()
    assert next_folder("ls-llama", tmp_path) == tmp_path / "ls-llama-2"


def test_what_the_leader_notes_is_known_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others do not call what makes it, and read it behind the leader."""
    with start(tmp_path / "r") as run:
        other = Run(run.folder, read_manifest(run.folder))
        run.note("tasks", lambda: {"a": 1})
        monkeypatch.setattr(runs, "is_leader", lambda: False)
        other.note("tasks", lambda: pytest.fail("only the leader makes it"))
        assert other.manifest["notes"]["tasks"] == {"a": 1}
