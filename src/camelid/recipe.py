"""Recipes: TOML values in, one typed and frozen pydantic object out.

A recipe is read from up to four layers, each overriding the one before: the defaults of the method's `Recipe` class,
a TOML file (the method's own, or the user's), one `[scale.<name>]` table of that file, and `--set` overrides. Every
unknown key and every wrong value is found in one go and reported with its nearest name and its line.
"""

from __future__ import annotations

import difflib
import re
import textwrap
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticUndefined, to_jsonable_python

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
    task: Literal["labels", "multi-label", "regression"] = Field(
        default="labels", description="what the label column holds: one class, any number of classes, or a number"
    )
    separator: str = Field(default="|", min_length=1, description="stands between the classes of a multi-label cell")
    tokens: str | None = Field(default=None, description="column that holds the words of a tagged sentence")
    tags: str | None = Field(default=None, description="column that holds one tag a word")
    missing: Literal["error", "drop"] = Field(
        default="error", description="what to do with rows that lack a text or a label"
    )
    dev_share: float = Field(default=0.1, gt=0, lt=1, description="share of train drawn for dev when dev is absent")
    train_rows: int | None = Field(
        default=None, ge=1, description="use only this many training rows, drawn with the seed"
    )
    train_per_class: int | None = Field(
        default=None, ge=1, description="use only this many training rows of each class, drawn with the seed"
    )
    dev_rows: int | None = Field(default=None, ge=1, description="use only this many dev rows, drawn with the seed")
    test_rows: int | None = Field(default=None, ge=1, description="use only this many test rows, drawn with the seed")


class Group(Values):
    """Parameters that are trained with values of their own."""

    match: str = Field(min_length=1, description="regular expression searched in the parameter's name, such as ^head")
    learning_rate: float | None = Field(default=None, gt=0, description="peak learning rate; the plan's when absent")
    weight_decay: float | None = Field(default=None, ge=0, description="weight decay; the plan's when absent")


class Plan(Values):
    """How the model is trained."""

    epochs: int = Field(default=2, ge=1, description="passes over the training rows")
    batch_rows: int = Field(default=16, ge=1, description="rows per optimiser step")
    accumulate: int = Field(
        default=1, ge=1, description="micro-batches a step is split into; changes memory, not the result"
    )
    learning_rate: float = Field(default=5e-4, gt=0, description="peak learning rate of AdamW")
    schedule: Literal["linear", "cosine", "constant", "wsd"] = Field(
        default="linear",
        description="the rate after the warm-up: decay to zero, or none, or none until a last linear decay (wsd)",
    )
    decay: float = Field(default=0.2, ge=0, le=1, description="share of the steps over which wsd decays")
    warmup: float = Field(default=0.0, ge=0, lt=1, description="share of the steps over which the rate rises from zero")
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW weight decay")
    groups: tuple[Group, ...] = Field(
        default=(), description="parameters with a rate or decay of their own, the first match counts"
    )
    keep: Literal["last", "best"] = Field(
        default="last", description="weights of the last step, or of the best score on dev rows"
    )
    patience: int | None = Field(
        default=None, ge=1, description="stop after this many dev scores in a row that are no better than the best"
    )
    clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient; longer ones are scaled down")
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of splits, order, initial head and dropout")
    tuning: Literal["lora", "full"] = Field(default="lora", description="train low-rank adapters, or every weight")
    lora_rank: int = Field(default=8, ge=1, description="rank of the adapters")
    lora_alpha: float = Field(default=16.0, gt=0, description="adapter scale: alpha / rank")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the adapters")
    lora_targets: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="names of the linear layers that get an adapter",
    )
    adapt_from_layer: Annotated[int, Field(ge=0)] | Literal["half", "two-thirds"] = Field(
        default=0,
        description="adapters only in this layer and above (half, two-thirds: of the layers); lower ones stay frozen",
    )
    pack_tokens: int = Field(
        default=0, ge=0, description="lay rows behind each other in lines of this many tokens (0: pad them)"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="compute activations again in the backward pass: less memory, a third more time"
    )
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        default=(), description="also send the metrics of each step to these"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto: bfloat16 where the processor multiplies it natively, else float32"
    )
    checkpoint_seconds: float = Field(default=60.0, ge=0, description="seconds between checkpoints; two are kept")


class Engine(Values):
    """Where text and probabilities come from."""

    kind: Literal["local", "remote", "vllm"] = Field(
        default="local", description="local: model.base on this machine; remote: an OpenAI-style endpoint; vllm: vLLM"
    )
    url: str = Field(default="", description="base address of the endpoint, such as http://localhost:8000/v1")
    name: str = Field(default="", description="the model's name at the endpoint")
    key: str = Field(default="OPENAI_API_KEY", description="environment variable that holds the key; never the key")
    api: Literal["chat", "completions"] = Field(
        default="chat", description="which of the endpoint's interfaces messages go to"
    )
    concurrency: int = Field(default=8, ge=1, description="requests under way at once")
    per_minute: int | None = Field(default=None, ge=1, description="most requests sent in a minute")
    timeout: float = Field(default=120.0, gt=0, description="seconds to wait for one reply")
    retries: int = Field(default=5, ge=0, description="further tries after 429, 5xx and time-outs")
    price_input: float = Field(default=0.0, ge=0, description="price of a million prompt tokens")
    price_output: float = Field(default=0.0, ge=0, description="price of a million completion tokens")
    most_cost: float | None = Field(default=None, gt=0, description="stop asking when so much has been spent")
    batching: Literal["continuous", "plain"] = Field(
        default="plain", description="local sampling: plain is exact, and faster on processors; continuous has pages"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto: bfloat16 where the processor multiplies it natively, else float32"
    )
    cache: bool = Field(default=True, description="keep every answer on disk and never ask for it twice")
    ray: str = Field(
        default="", description="spread the questions over a Ray cluster: its address, or auto for one on this machine"
    )
    ray_workers: int = Field(default=2, ge=1, description="workers of the cluster, each with an engine of its own")


class Recipe(Values):
    """What every recipe has: a model. Each method's own Recipe adds its tables and fields."""

    model: Model = Field(default_factory=Model)


R = TypeVar("R", bound=BaseModel)
LIST = 'input should be a list: ["one", "two"]'  # pydantic speaks of a tuple, which no recipe can hold


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


def comment_recipe(recipe: BaseModel) -> str:
    """The recipe as TOML to be edited: above each field its help, and its default where the value is another.

    A field without a value is a line that is commented out. `read_recipe` gives an equal recipe back.
    """
    return _commented(recipe, "").strip() + "\n"


def copy_recipe(path: Path, recipe: BaseModel, source: Path) -> None:
    """Write the commented recipe, then the [scale.*] tables of the recipe file `source`, into the new file `path`.

    Raises UserError when there is such a file already, or none can be made there.
    """
    text = "\n\n".join(filter(None, (comment_recipe(recipe), _scale_text(source))))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UserError(f"{path} exists already", "Name another file, or remove that one first.") from error
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", "Name a file in a folder that exists.") from error


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


def _commented(table: BaseModel, name: str) -> str:
    """A table: its help, its fields, and then, because TOML wants them last, the tables inside it."""
    about = _comment((type(table).__doc__ or "").partition("\n\n")[0])
    parts = ["\n".join([*about, f"[{name}]"] if name else about)]
    tables = []
    for key, field in type(table).model_fields.items():
        value = getattr(table, key)
        if isinstance(value, BaseModel):
            tables.append("\n" + _commented(value, f"{name}.{key}".lstrip(".")))
        elif value is None:
            blank = '"..."' if field.annotation == str | None else "..."
            parts.append("\n".join([*_explain(field, value), f"# {key} = {blank}"]))
        else:
            line = f"{key} = {_inline(to_jsonable_python(value))}"
            parts.append("\n".join([*_explain(field, value), line]))
    return "\n\n".join([*parts, *tables])


def _explain(field: Any, value: Any) -> list[str]:
    """Comment lines of a field: its help, its choices where they are few, its default where that is not `value`."""
    default = field.get_default(call_default_factory=True)
    facts = [choices] if (choices := tell_choices(field)) else []
    if default is not PydanticUndefined and default != value:
        facts.append(f"default: {'none' if default is None else _inline(to_jsonable_python(default))}")
    lines = [*_comment(field.description or ""), *_comment("; ".join(facts))]
    tables = [kind for kind in get_args(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    for table in tables:
        for name, inner in table.model_fields.items():
            lines += _comment(f"- {name}: {inner.description or ''}")
    return lines


def tell_choices(field: Any) -> str:
    """The values a field of a recipe may have, where they are few ('one of "lora", "full"'); else nothing."""
    kinds = [field.annotation, *get_args(field.annotation)]
    choices = [_inline(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    count = "one" if get_origin(field.annotation) is Literal else "any"
    return f"{count} of {', '.join(choices)}" if choices else ""


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 118, break_long_words=False, break_on_hyphens=False)]


def _inline(value: Any) -> str:
    """The value as TOML on one line; tomli_w breaks a list, and makes tables of a list of them."""
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    if isinstance(value, dict):
        # None can only be a default, so a field that is None is left out
        pairs = [f"{_key(name)} = {_inline(inner)}" for name, inner in value.items() if inner is not None]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").removesuffix("\n")


def _key(name: str) -> str:
    return tomli_w.dumps({name: 0}).removesuffix(" = 0\n")


def _scale_text(path: Path) -> str:
    """The [scale.*] tables of a recipe file, with the comments in and above them."""
    text, values = _read_toml(path)
    kept: list[str] = []
    waiting: list[str] = []  # comments and blank lines belong to what follows them
    inside = False
    for line in text.split("\n"):
        if not line.strip() or line.lstrip().startswith("#"):
            waiting.append(line)
            continue
        if header := re.match(r"\s*\[+\s*([\w\-]+)", line):
            inside = header[1] == "scale"
        kept += [*waiting, line] if inside else []
        waiting = []
    found = "\n".join(kept).strip("\n") + "\n" if kept else ""
    scales = {"scale": values["scale"]} if "scale" in values else {}
    # scales may be written in ways that lines do not show, such as scale.paper.epochs = 3
    return found if _parsed(found) == scales else tomli_w.dumps(scales)


def _parsed(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


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
    said = [LIST if detail["type"] == "tuple_type" else detail["msg"] for detail in details]
    message = "; or ".join(text[0].lower() + text[1:] for text in said)
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
