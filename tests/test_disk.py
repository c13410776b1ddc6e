"""A disk that is full, or that cannot be written: a clear sentence, and the last good state is kept."""

from __future__ import annotations

import ctypes
import errno
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from camelid import methods, runs
from camelid.errors import UserError

PR_CAPBSET_DROP = 24  # prctl(2)
OPTIONS = ["--epochs", "3", "--checkpoint-seconds", "0", "--adapt-from-layer", "0", "--lora-dropout", "0.1"]


def run_limited(arguments: list[object], limit: int | None) -> subprocess.CompletedProcess[str]:
    """The command line where no file may grow beyond `limit` bytes: what a full disk does, without one."""

    def limit_files() -> None:
        for capability in (1, 2, 3):  # root passes over permissions, unless these are taken: DAC_OVERRIDE and its kin
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "camelid", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit_files)


def refuse_when_locked(folder: Path) -> None:
    """A run folder that may only be read: resume says so and changes nothing."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    set_writable(folder, False)
    found = run_limited(["resume", folder], None)
    set_writable(folder, True)
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    assert "cannot write to" in found.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def set_writable(folder: Path, writable: bool) -> None:
    folders, files = (0o755, 0o644) if writable else (0o555, 0o444)
    for path in (folder, *folder.rglob("*")):
        path.chmod(folders if path.is_dir() else files)


def test_a_full_disk_stops_the_run_and_resume_goes_on(tiny_model: Path, tweets_csv: Path, tmp_path: Path) -> None:
    common = ["run", "ls-llama", "--data", tweets_csv, "--model", tiny_model, *OPTIONS]
    whole = run_limited([*common, "--out", tmp_path / "whole"], None)
    assert whole.returncode == 0, whole.stderr
    # metrics.jsonl grows past the limit in mid-training
    log = (tmp_path / "whole" / "model" / "metrics.jsonl").read_bytes()
    checkpoint = 200_000
    full = run_limited([*common, "--out", tmp_path / "full"], checkpoint)
    assert full.returncode == 2, full.stderr
    assert "Traceback" not in full.stderr
    assert "camelid resume" in full.stderr
    assert "cannot write to" in full.stderr
    assert not json.loads((tmp_path / "full" / "manifest.json").read_text())["finished"]
    refuse_when_locked(tmp_path / "full")
    again = run_limited(["resume", tmp_path / "full"], None)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "full" / "model" / "metrics.jsonl").read_bytes() == log
    for name in ("model/adapter_model.safetensors", "scores.json", "predictions/label-supervision.jsonl"):
        assert (tmp_path / "full" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_read_only_folder_is_said_before_anything_is_made(tiny_model: Path, tweets_csv: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    command = ["run", "ls-llama", "--data", tweets_csv, "--model", tiny_model, "--out", locked / "run"]
    found = run_limited(command, None)
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    assert f"cannot write to {locked}" in " ".join(found.stderr.split())
    assert not list(locked.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0: No space left"),
    ],
)
def test_errors_of_the_disk_become_sentences(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write to") as raised, runs.disk_errors(tmp_path):
        raise error
    assert "camelid resume" in raised.value.fix


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "gone"), RuntimeError("shapes differ")])
def test_other_errors_stay_what_they_are(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)), runs.disk_errors(tmp_path):
        raise error


def test_a_disk_that_fills_while_a_checkpoint_is_written(
    tiny_model: Path, tweets_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint before stays whole and is resumed from."""
    save, count = torch.save, [0]

    def failing(values: Any, file: Any) -> None:
        count[0] += 1
        if count[0] == 4:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(values, file)

    options = {"data.train": str(tweets_csv), "model.base": str(tiny_model), "plan.checkpoint_seconds": 0.0}
    options |= {"plan.adapt_from_layer": 0}
    whole = methods.run("ls-llama", options, out=tmp_path / "whole")
    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(UserError, match="No space left"):
        methods.run("ls-llama", options, out=tmp_path / "full")
    assert sorted(p.name for p in (tmp_path / "full" / "model" / "checkpoints").glob("step-*[0-9]")) == [
        "step-00000002",
        "step-00000003",
    ]
    methods.resume(tmp_path / "full")
    for name in ("model/adapter_model.safetensors", "model/metrics.jsonl"):
        assert (tmp_path / "full" / name).read_bytes() == (whole / name).read_bytes()
