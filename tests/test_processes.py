"""Two processes on one run: the same numbers as one process with the same global batch, and one set of files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from conftest import invoke

VALUES = [
    "--epochs",
    "3",
    "--train-rows",
    "43",
    "--batch-rows",
    "7",
    "--precision",
    "float32",
    "--adapt-from-layer",
    "0",
    "--learning-rate",
    "1e-3",
]


def launch(processes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *torchrun, "-m", "camelid", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tweets_csv: Path) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("processes")
    options = ["run", "ls-llama", "--data", tweets_csv, "--model", tiny_model, *VALUES]
    two = launch(2, *options, "--out", root / "two")
    assert two.returncode == 0, two.stderr[-2000:]
    one = invoke(*options, "--accumulate", "2", "--out", root / "one")
    assert one.exit_code == 0, one.output
    return root / "one", root / "two"


def test_two_processes_equal_one(folders: tuple[Path, Path]) -> None:
    """The last step of each epoch has one row, so that the second process has none to go backward for."""
    one, two = (
        [json.loads(line) for line in (f / "model" / "metrics.jsonl").read_text().splitlines()] for f in folders
    )
    assert len(one) == len(two) > 10
    for left, right in zip(one, two, strict=True):
        assert right["loss"] == pytest.approx(left["loss"], rel=1e-5)
        assert right["gradient_norm"] == pytest.approx(left["gradient_norm"], rel=1e-5)
    for name in ("adapter_model.safetensors", "head.safetensors"):
        left, right = (load_file(folder / "model" / name) for folder in folders)
        for key, value in left.items():
            assert (value - right[key]).norm() <= 1e-5 * value.norm() + 1e-9, key


def test_two_processes_write_one_run(folders: tuple[Path, Path]) -> None:
    one, two = folders
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())
    manifest = json.loads((two / "manifest.json").read_text())
    assert manifest["finished"]
    assert json.loads((two / "scores.json").read_text()).keys() == json.loads((one / "scores.json").read_text()).keys()


def test_a_users_mistake_ends_all_processes(tmp_path: Path, tiny_model: Path) -> None:
    found = launch(
        2, "run", "ls-llama", "--data", tmp_path / "none.csv", "--model", tiny_model, "--out", tmp_path / "run"
    )
    assert found.returncode != 0
    assert "none.csv" in found.stderr
    assert not (tmp_path / "run").exists()
