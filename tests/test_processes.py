"""Two processes on one run: the same numbers as one process with the same global batch, and one set of files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file

from conftest import invoke
from two_terms import train_two_terms

Ran = subprocess.CompletedProcess[str]
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
    "--keep",
    "best",
    "--patience",
    "2",
]


def launch(processes: int, *arguments: object, program: Sequence[str] = ("-m", "camelid")) -> Ran:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *torchrun, *program, *map(str, arguments)]
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


def test_two_terms_are_divided_by_their_counts_over_both_processes(tiny_model: Path, tmp_path: Path) -> None:
    """Ragged micro-batches, three a step: one process has two of them, the other one."""
    train_two_terms(tiny_model, tmp_path / "one", accumulate=3)
    found = launch(2, tiny_model, tmp_path / "two", program=(str(Path(__file__).with_name("two_terms.py")),))
    assert found.returncode == 0, found.stderr[-2000:]
    logs = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert len(logs[0]) == len(logs[1]) == 4
    for one, two in zip(*logs, strict=True):
        for key in ("loss", "size", "gradient_norm", "rows"):
            assert two[key] == pytest.approx(one[key], rel=1e-5)


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
