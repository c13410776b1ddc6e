"""What the report reads of a run folder: files only, finished or not."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from camelid.errors import UserError
from camelid.runs import read_manifest, slug


@dataclass(frozen=True)
class RunFiles:
    """The files of a run folder. What an unfinished run lacks reads as empty."""

    folder: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """manifest.json; UserError when the folder is no run."""
        return read_manifest(self.folder)

    @cached_property
    def recipe_text(self) -> str:
        """recipe.toml as it is written."""
        path = self.folder / "recipe.toml"
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The values of recipe.toml."""
        return tomllib.loads(self.recipe_text)

    @cached_property
    def scores(self) -> dict[str, Any]:
        """The entries of scores.json by name."""
        return self._json("scores.json")

    @cached_property
    def handle(self) -> dict[str, Any]:
        """model/handle.json: the base with its hash, the precision, the head's settings."""
        return self._json("model/handle.json")

    @property
    def temperature(self) -> float:
        """What divided the logits of the trained model; 1 where nothing did."""
        settings = self.handle.get("settings") or {}
        return float((settings.get("rescaling") or {}).get("temperature") or 1)

    @cached_property
    def missing(self) -> list[str]:
        """Paths of stages that the manifest calls finished but that are not there."""
        paths = [stage["path"] for stage in self.manifest["stages"].values()]
        return sorted({path for path in paths if not (self.folder / path).exists()})

    @property
    def finished(self) -> bool:
        """Whether the run came to its end and is still whole."""
        return bool(self.manifest.get("finished")) and not self.missing

    @property
    def quoted(self) -> str:
        """The folder as one word of a shell command."""
        return shlex.quote(str(self.folder))

    def splits(self) -> list[str]:
        """Names of the finished stages that are rows of the data, in the order they were made.

        What a run makes of the data (predictions, scores, contexts) lies in folders.
        """
        stages = self.manifest["stages"].items()
        return [
            name
            for name, stage in stages
            if "rows" in stage and "/" not in name and (self.folder / stage["path"]).is_file()
        ]

    def predictions(self, system: str) -> Iterator[dict[str, Any]]:
        """The predicted rows of a system."""
        return self.lines(f"predictions/{slug(system)}.jsonl")

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """The objects of a JSON-lines file, none when it does not exist. UserError names a broken line."""
        path = self.folder / name
        if not path.is_file():
            return
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    if not line.endswith("\n"):
                        return  # a run that was killed in the middle of a line; resume cuts it off
                    raise UserError(f"{path} line {number} is not JSON", "Restore the file, or run again.") from error

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
