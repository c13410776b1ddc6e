"""What was asked of a run, what it was made with, and the commands that repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from camelid import methods
from camelid.errors import UserError
from camelid.report.files import RunFiles
from camelid.report.numbers import show_value

LORA = ("lora_rank", "adapt_from_layer")  # of no effect when every weight is trained
PLAN = ("epochs", "batch_rows", "learning_rate", "schedule", "tuning", *LORA, "precision", "seed")


@dataclass(frozen=True)
class Request:
    """What was asked: sentences for a reader, then the values that matter, then the whole recipe."""

    method: str
    summary: str
    data: str
    date: str
    values: list[tuple[str, str]]
    recipe: str


@dataclass(frozen=True)
class Lineage:
    """What the run was made with: (name, value) lines, and (stage, file, sha256) of what it made."""

    model: list[tuple[str, str]]
    machine: list[tuple[str, str]]
    versions: list[tuple[str, str]]
    stages: list[tuple[str, str, str]]


def describe_request(files: RunFiles) -> Request:
    """What the user asked for."""
    manifest, recipe = files.manifest, files.recipe
    method = str(manifest["method"])
    return Request(
        Path(method).stem if method.endswith(".py") else method,
        summarise_method(method),
        _name_data(recipe),
        show_date(str(manifest.get("started", ""))),
        list(_list_values(recipe)),
        files.recipe_text,
    )


def summarise_method(method: str) -> str:
    """First line of the method's docstring; empty when its file is no longer there."""
    try:
        return methods.summary(methods.find(method))
    except UserError:
        return ""


def describe_lineage(files: RunFiles) -> Lineage:
    """Model, machine, versions and hashes, as far as they are known."""
    manifest, handle = files.manifest, files.handle
    model = {"base model": (handle or files.recipe.get("model") or {}).get("base")}
    model |= {"revision": handle.get("revision"), "sha256 of its weights": handle.get("base_sha256")}
    model |= {"tuning": handle.get("tuning"), "precision": handle.get("precision")}
    model |= {f"seed ({name})": str(seed) for name, seed in _find_seeds(files.recipe)}
    machine = {name.replace("_", " "): value for name, value in (manifest.get("machine") or {}).items()}
    machine["memory"] = f"{machine.pop('memory gb')} GB" if "memory gb" in machine else None
    stages = [(name, stage["path"], stage["sha256"]) for name, stage in manifest["stages"].items()]
    return Lineage(_lines(model), _lines(machine), _lines(manifest.get("versions") or {}), stages)


def repeat_commands(files: RunFiles) -> list[tuple[str, str]]:
    """(what it does, shell command) pairs that make the run again."""
    manifest = files.manifest
    again = ["camelid", "run", str(manifest["method"]), "--recipe", str(files.folder / "recipe.toml")]
    return [
        ("as it was started", shlex.join(str(part) for part in manifest.get("command") or [])),
        ("from its saved recipe", shlex.join([*again, "--out", f"{files.folder}-again"])),
    ]


def show_date(started: str) -> str:
    """ "2026-11-25 04:10:30" as "25 November 2026"; anything else as it is."""
    try:
        date = datetime.fromisoformat(started)
    except ValueError:
        return started
    return f"{date.day} {date:%B %Y}"


def _name_data(recipe: Mapping[str, Any]) -> str:
    """The training rows in a word or two: the file's name without its folders, or the data set."""
    source = str((recipe.get("data") or {}).get("train") or "")
    return Path(source).name if source else ""


def _list_values(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The recipe's own values, the model, the data and the main values of the plan."""
    model, data, plan = (recipe.get(name) or {} for name in ("model", "data", "plan"))
    yield "model", str(model.get("base", ""))
    yield from ((f"{name} rows", str(data[name])) for name in ("train", "dev", "test") if data.get(name))
    yield from ((_words(name), show_value(value)) for name, value in recipe.items() if not isinstance(value, dict))
    for name in PLAN:
        if name in plan and (name not in LORA or plan.get("tuning") == "lora"):
            yield _words(name), show_value(plan[name])


def _find_seeds(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _find_seeds(value, f"{path}{name}.")
        elif name == "seed" or name.endswith("_seed"):
            yield f"{path}{name}", value


def _words(name: str) -> str:
    return name.replace("_", " ")


def _lines(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, show_value(value)) for name, value in values.items() if value not in (None, "")]
