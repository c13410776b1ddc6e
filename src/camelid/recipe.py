"""Recipes: TOML values in, one typed and frozen pydantic object out.

A recipe is read from up to four layers, each overriding the one before: the defaults of the method's `Recipe` class,
a TOML file (the method's own, or the user's), one `[scale.<name>]` table of that file, and `--set` overrides. Every
unknown key and every wrong value is found in one go and reported with its nearest name and its line.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from camelid.errors import UserError, raise_all


class Values(BaseModel):
    """A table of a recipe: frozen, and no key beyond its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Model(Values):
    """The model that is adapted."""

    base: str = Field(default="smollm2-135m", description="hub id, folder, .gguf file, or the short name smollm2-135m")
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub id")


class Data(Values):
    """Where the rows come from."""

    train: str = Field(
        default="", description="file (.csv .tsv .jsonl .parquet), named set, set:split, or hub:<dataset id>"
    )
    dev: str | None = Field(default=None, description="rows for the learning curve; drawn from train when absent")
    test: str | None = Field(default=None, description="rows for the final scores; dev serves when absent")
    text: str = Field(default="text", description="column that holds the text")
    label: str = Field(default="label", description="column that holds the label")
    tokens: str | None = Field(default=None, description="column that holds the words of a tagged sentence")
    tags: str | None = Field(default=None, description="column that holds one tag a word")
    missing: Literal["error", "drop"] = Field(
        default="error", description="what to do with rows that lack a text or a label"
    )
    dev_share: float = Field(default=0.1, gt=0, lt=1, description="share of train drawn for dev when dev is absent")
    train_rows: int | None = Field(
        default=None, ge=1, description="use only this many training rows, drawn with the seed"
    )
    dev_rows: int | None = Field(default=None, ge=1, description="use only this many dev rows, drawn with the seed")
    test_rows: int | None = Field(default=None, ge=1, description="use only this many test rows, drawn with the seed")


class Plan(Values):
    """How the model is trained."""

    epochs: int = Field(default=2, ge=1, description="passes over the training rows")
    batch_rows: int = Field(default=16, ge=1, description="rows per optimiser step")
    accumulate: int = Field(
        default=1, ge=1, description="micro-batches a step is split into; changes memory, not the result"
    )
    learning_rate: float = Field(default=5e-4, gt=0, description="peak learning rate of AdamW")
    schedule: Literal["linear", "cosine"] = Field(default="linear", description="decay to zero after the warm-up")
    warmup: float = Field(default=0.0, ge=0, lt=1, description="share of the steps over which the rate rises from zero")
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW weight decay")
    clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient; longer ones are scaled down")
    seed: int = Field(default=0, ge=0, description="seed of splits, order, initial head and dropout")
    tuning: Literal["lora", "full"] = Field(default="lora", description="train low-rank adapters, or every weight")
    lora_rank: int = Field(default=8, ge=1, description="rank of the adapters")
    lora_alpha: float = Field(default=16.0, gt=0, description="adapter scale: alpha / rank")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the adapters")
    lora_targets: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="names of the linear layers that get an adapter",
    )
    adapt_from_layer: Annotated[int, Field(ge=0)] | Literal["half"] = Field(
        default=0, description="adapters only in this layer and above (half: the upper half); lower ones stay frozen"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto: bfloat16 where the processor multiplies it natively, else float32"
    )
    checkpoint_seconds: float = Field(default=60.0, ge=0, description="seconds between checkpoints; two are kept")


class Recipe(Values):
    """What every recipe has: a model. Each method's own Recipe adds its tables and fields."""

    model: Model = Field(default_factory=Model)


R = TypeVar("R", bound=BaseModel)


def read_recipe(
    kind: type[R],
    path: Path,
    *,
    scale: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> R:
    """The recipe of class `kind` in the TOML file `path`, with the `scale` table and dotted `overrides` applied.

    Overriding `data.train` with rows of one's own replaces the whole `[data]` table of the file: limits, splits and
    column names of another data set never apply to it.

    Raises UserError for a missing or broken file, an unknown scale, unknown keys and wrong values (all at once).
    """
    text, values = _read_toml(path)
    scales = values.pop("scale", {})
    if scale is not None:
        if scale not in scales:
            known = ", ".join(sorted(scales)) or "none"
            raise UserError(f"{path} has no [scale.{scale}]; it has: {known}", "Choose one of those, or drop --scale.")
        _merge(values, scales[scale])
    overrides = dict(overrides or {})
    if "data.train" in overrides:
        values.pop("data", None)
    for dotted, value in overrides.items():
        _set(values, dotted, value)
    return _validate(kind, values, lambda dotted: _place(path, text, dotted, scale, overrides))


def write_recipe(path: Path, recipe: BaseModel) -> None:
    """Write every value of the recipe as TOML; `read_recipe` gives an equal recipe back."""
    path.write_text(tomli_w.dumps(recipe.model_dump(exclude_none=True, mode="json")), encoding="utf-8")


def parse_override(assignment: str, types: Mapping[str, Any] | None = None) -> tuple[str, Any]:
    """("plan.epochs", 2) from "plan.epochs=2"; `types` are those of `field_types`, see `parse_value`."""
    name, equals, raw = assignment.partition("=")
    if not equals or not name.strip():
        raise UserError(f"--set {assignment!r} is not of the form name=value", "Write for example --set plan.epochs=2")
    return name.strip(), parse_value(raw.strip(), (types or {}).get(name.strip()))


def parse_value(raw: str, kind: Any = None) -> Any:
    """A TOML value, or the string itself where it is none (file names need no quotes).

    For a field of `kind` str only a quoted string is read as TOML: columns and files may be called 3, true or 1e5.
    """
    if kind in (str, str | None) and not raw.startswith(('"', "'")):
        return raw
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def field_types(kind: type[BaseModel]) -> dict[str, Any]:
    """Types of all fields by dotted name, in order: "model.base", "plan.epochs", "pooling"."""
    types: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            types |= {f"{name}.{child}": found for child, found in field_types(inner).items()}
        else:
            types[name] = inner
    return types


def field_names(kind: type[BaseModel]) -> list[str]:
    """Dotted names of all fields, in order."""
    return list(field_types(kind))


def _read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"there is no recipe file {path}", "Check the path; camelid list names the built-in methods.")
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start})", "Save the recipe as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}", "Strings need quotes, tables a [name] line.") from error


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *tables, name = dotted.split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise UserError(f"{dotted} cannot be set: {table} is a single value", "camelid show lists the fields.")
    values[name] = value


def _validate(kind: type[R], values: Mapping[str, Any], place: Callable[[str], str]) -> R:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        known = field_names(kind)
        by_field: dict[str, list[Any]] = {}  # several a field: a union says for each of its types what it dislikes
        for detail in error.errors():
            by_field.setdefault(_dotted(detail["loc"], known), []).append(detail)
        raise_all([_problem(details, dotted, known, place(dotted)) for dotted, details in by_field.items()])
        raise


def _dotted(location: Sequence[Any], known: Sequence[str]) -> str:
    """Name of the field an error is about, without pydantic's further steps (list positions, members of a union)."""
    names = [".".join(map(str, location[:end])) for end in range(1, len(location) + 1)]
    return next((name for name in names if name in known), names[-1])


def _problem(details: Sequence[Any], dotted: str, known: Sequence[str], place: str) -> UserError:
    if details[0]["type"] == "extra_forbidden":
        leaf = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
        near = difflib.get_close_matches(dotted, known, n=1, cutoff=0.6)
        near = near or [leaf[name] for name in difflib.get_close_matches(dotted.rsplit(".", 1)[-1], list(leaf), n=1)]
        fix = f"Did you mean {near[0]}?" if near else f"The fields are: {', '.join(known)}."
        return UserError(f"{place}: unknown field {dotted}", fix)
    message = "; or ".join(detail["msg"][0].lower() + detail["msg"][1:] for detail in details)
    return UserError(
        f"{place}: {dotted} = {details[0]['input']!r}: {message}", "camelid show <method> explains each field."
    )


def _place(path: Path, text: str, dotted: str, scale: str | None, overrides: Mapping[str, Any]) -> str:
    """Where a field was set: the command line, or file and line, in the table of the chosen scale before all others."""
    if any(f"{dotted}.".startswith(f"{name}.") or name.startswith(f"{dotted}.") for name in overrides):
        return "command line"
    lines = _key_lines(text)
    for name in (f"scale.{scale}.{dotted}", dotted, dotted.rpartition(".")[0]):
        if name in lines:
            return f"{path} line {lines[name]}"
    return str(path)


def _key_lines(text: str) -> dict[str, int]:
    """Line by dotted key or table of a TOML text; tomllib keeps none, so they are searched."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.split("\n"), 1):
        if header := re.match(r"\s*\[\s*([\w.\-]+)\s*\]", line):
            table = f"{header[1]}."
            lines.setdefault(header[1], number)
        elif key := re.match(r"\s*([\w.\-]+)\s*=", line):
            lines.setdefault(table + key[1], number)
    return lines
