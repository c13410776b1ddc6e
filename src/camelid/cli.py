"""The command line. Everything it does is a library call, and `screen` prints what comes back.

A UserError becomes two lines, what happened and what to do, and exit status 2, never a traceback.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from camelid import methods
from camelid.errors import UserError
from camelid.processes import share_from_leader
from camelid.screen import (
    print_cache,
    print_conclusion,
    print_finding,
    print_lines,
    print_set,
    print_set_in_brief,
    print_stored,
    say,
    show_progress,
    tell_errors,
)

app = typer.Typer(
    help="Adapt a LLaMA-family model with published methods, and see on held-out data what it did.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ALIASES = {"data": "data.train", "model": "model.base", "seed": "plan.seed"}

Method = Annotated[str, typer.Argument(help="name of a method (camelid list), or a .py file of your own")]
Folder = Annotated[Path, typer.Argument(help="run folder")]
Trained = Annotated[Path, typer.Argument(help="folder of a finished run, or of a trained model")]
OptionalText = str | None
RecipeFile = Annotated[Path | None, typer.Option(help="a recipe file of your own")]
Scale = Annotated[OptionalText, typer.Option(help="name of a scale table of the recipe (paper, 8b, ...)")]
Set = Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE, any field of the recipe; repeatable")]
MovedBase = Annotated[OptionalText, typer.Option("--base", help="where the base model is now, if it was moved")]
EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command("list")
@tell_errors
def list_methods() -> None:
    """The methods, by shelf."""
    from camelid.methods import method_files, summary

    shelf = ""
    for name, path in method_files().items():
        if path.parent.name != shelf:
            shelf = path.parent.name
            say(f"\n[bold]{shelf}[/]")
        say(f"  [cyan]{name:28}[/] {escape(summary(path))}")
    say("\ncamelid show <method> explains one; camelid run <method> runs it.")


@app.command()
@tell_errors
def show(method: Method) -> None:
    """What a method does, and every field of its recipe with its value and help."""
    module = methods.load(method)
    recipe = methods.resolve(method)
    say(escape((module.__doc__ or "").strip()))
    say("\n[bold]Recipe[/] (set any with --set NAME=VALUE)\n")
    for name, value, lines in _fields(recipe):
        say(f"  [cyan]{name}[/] = {escape(repr(value))}")
        for line in lines:
            say(f"      {escape(line)}")


@app.command()
@tell_errors
def copy(
    method: Method,
    path: Annotated[Path, typer.Argument(help="file to write, such as mine.toml")],
    scale: Scale = None,
) -> None:
    """Write the recipe of a method into a file of your own to edit, with every field explained."""
    from camelid.recipe import copy_recipe

    copy_recipe(path, methods.resolve(method, scale=scale), methods.find(method).with_suffix(".toml"))
    command = shlex.join(["camelid", "run", method, "--recipe", str(path)])
    say(escape(f"{path} written; run it with:\n{command}"))


@app.command("data")
@tell_errors
def data_command(
    name: Annotated[OptionalText, typer.Argument(help="name of a set; all of them if absent")] = None,
) -> None:
    """The named data sets and where each is read from; of one of them also classes, samples, what is left out."""
    from camelid import data

    if name is not None:
        print_set(data.describe_set(name), data.read_set(name))
        return
    for known in data.named_sets():
        found = data.describe_set(known)
        print_set_in_brief(found, data.count_rows(found))
    say("\ncamelid data NAME shows one; --data NAME trains on it.")


@app.command("models")
@tell_errors
def models_command(
    name: Annotated[OptionalText, typer.Argument(help="what would stand in model.base; all at hand if absent")] = None,
) -> None:
    """The models at hand for model.base; of one of them also size, layers, vocabulary and special tokens."""
    from camelid import bases, inventory

    if name is not None:
        show_progress()
        print_lines(inventory.describe_base(bases.open_base(name)))
        return
    shelves = {
        "embedded": [inventory.describe_embedded()],
        "converted from .gguf files": inventory.list_converted(),
        "fetched from the hub": inventory.list_hub_cached(),
    }
    for shelf, found in shelves.items():
        print_stored(shelf, found)
    say("\nAny hub id, folder with .safetensors or .gguf file will do too: --model NAME.")


@app.command("cache")
@tell_errors
def cache_command(
    older_than: Annotated[float | None, typer.Option(help="remove answers that are older than so many days")] = None,
    engine: Annotated[OptionalText, typer.Option(help="remove those of this engine, as the list names it")] = None,
    most: Annotated[float | None, typer.Option(help="remove the oldest until so many megabytes are left")] = None,
) -> None:
    """Answers of models that are kept: how many, how large, how often they served. Options remove some of them."""
    from camelid.engines.cache import Cache

    kept = Cache()
    if (older_than, engine, most) != (None, None, None):
        most_bytes = None if most is None else int(most * 2**20)
        say(f"{kept.prune(older_than, engine, most_bytes):,} answers removed")
    print_cache(kept.statistics())


@app.command()
@tell_errors
def doctor() -> None:
    """What this machine offers a run and what to mend; ends with status 1 when something stops a run."""
    from camelid.environment import examine

    counts = {"ok": 0, "note": 0, "problem": 0}
    for finding in examine():
        counts[finding.state] += 1
        print_finding(finding)
    found = [f"{counts[state]} {state}{'s' * (counts[state] > 1)}" for state in ("problem", "note") if counts[state]]
    say(f"\n{', '.join(found) or 'all is well'}")
    if counts["problem"]:
        raise typer.Exit(1)


@app.command("run", context_settings=EXTRA)
@tell_errors
def run_command(
    context: typer.Context,
    method: Method,
    recipe: RecipeFile = None,
    scale: Scale = None,
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(help="folder of the run; runs/<method>-<n> if absent")] = None,
) -> None:
    """Check, train, compare with what one would try first, and report.

    Any field of the recipe is an option too, after the name of the method:

    --data FILE --text COLUMN --label COLUMN --tokens COLUMN --tags COLUMN --dev FILE --test FILE --model ID --seed N
    --compare --epochs 3 --pooling mean and so on; camelid show METHOD lists them all.
    """
    from camelid import runs

    values = methods.resolve(method, _overrides(context, method, set_), path=recipe, scale=scale)
    show_progress()
    print_lines(methods.load(method).check(values))
    folder = share_from_leader(out or runs.next_folder(method))
    methods.start(method, values, folder, ["camelid", *sys.argv[1:]])
    print_conclusion(folder)


@app.command("check", context_settings=EXTRA)
@tell_errors
def check_command(
    context: typer.Context, method: Method, recipe: RecipeFile = None, scale: Scale = None, set_: Set = None
) -> None:
    """What run would do, before any model loads: rows, classes, tokens, steps, memory, time; or every problem at once.

    Takes the options of run.
    """
    values = methods.resolve(method, _overrides(context, method, set_), path=recipe, scale=scale)
    show_progress()
    print_lines(methods.load(method).check(values))


@app.command()
@tell_errors
def resume(folder: Folder) -> None:
    """Continue a run that was stopped or killed; the result is bit for bit that of an uninterrupted one."""
    show_progress()
    methods.resume(folder)
    print_conclusion(folder)


@app.command()
@tell_errors
def predict(
    folder: Folder,
    rows: Annotated[Path, typer.Argument(help="file with the rows to label (.csv .tsv .jsonl .parquet)")],
    out: Annotated[Path, typer.Option(help="file to write (.csv .tsv .jsonl)")],
    text: Annotated[OptionalText, typer.Option(help="column with the text; the run's own if absent")] = None,
    tokens: Annotated[OptionalText, typer.Option(help="column with the words of a tagged sentence")] = None,
    base: Annotated[OptionalText, typer.Option(help="where the base model is now, if it was moved")] = None,
) -> None:
    """Label rows with a trained model: the input's columns, plus predicted and probability_<class>."""
    from camelid import prediction, runs

    label = getattr(methods.load(runs.read_manifest(folder)["method"]), "label_rows", None)
    show_progress()
    count = prediction.predict_file(folder, rows, out, text=text, tokens=tokens, base=base, label=label)
    say(f"{count} rows written to {escape(str(out))}")


@app.command("report")
@tell_errors
def report_command(folder: Folder) -> None:
    """Write report.html of a run again, from its files."""
    from camelid.report import write_report
    from camelid.runs import read_manifest

    read_manifest(folder)
    say(f"report: {escape(str(write_report(folder)))}")


@app.command("merge")
@tell_errors
def merge_command(
    folder: Trained,
    out: Annotated[Path, typer.Option(help="folder to write")],
    base: MovedBase = None,
) -> None:
    """Add the adapter of a trained model into its weights; camelid.predict_with uses the result like the original."""
    from camelid import export

    show_progress()
    print_lines(export.merge_run(folder, out, base))


@app.command("export")
@tell_errors
def export_command(
    folder: Trained,
    out: Annotated[Path, typer.Option(help="folder to write, or the .gguf file")],
    form: Annotated[str, typer.Option("--format", help="safetensors, gguf (float32) or gguf-f16")] = "safetensors",
    as_: Annotated[
        OptionalText, typer.Option("--as", help="language: the base's own language-model head, not the trained one")
    ] = None,
    base: MovedBase = None,
) -> None:
    """Write a trained model for transformers (a folder) or llama.cpp (a .gguf file); neither needs camelid then."""
    from camelid import export

    show_progress()
    print_lines(export.export_run(folder, out, form, as_, base))


def main() -> None:
    """Entry point of the `camelid` command."""
    app()


def _overrides(context: typer.Context, method: str, settings: list[str] | None) -> dict[str, Any]:
    """Dotted recipe fields from the command's further options and its --set."""
    from camelid.recipe import field_types, parse_override, parse_value

    if method.startswith("-"):
        raise UserError("the name of the method is missing", "It comes first: camelid run ls-llama --data FILE ...")
    types = field_types(methods.load(method).Recipe)
    values = {}
    extra = list(context.args)
    while extra:
        option, equals, value = extra.pop(0).partition("=")
        if not option.startswith("--"):
            raise UserError(f"unexpected argument {option!r}", "Options start with --; quote values with spaces.")
        name = _field(option.removeprefix("--").replace("-", "_"), list(types))
        if not equals:
            has_value = bool(extra) and not extra[0].startswith("--")
            if not has_value and types.get(name, bool) is not bool:
                raise UserError(
                    f"{option} has no value", f"Write {option} VALUE; camelid show {method} explains {name}."
                )
            value = extra.pop(0) if has_value else "true"
        values[name] = parse_value(value, types.get(name))
    return values | dict(parse_override(setting, types) for setting in settings or [])


def _field(name: str, fields: list[str]) -> str:
    """The dotted field an option names: an alias, itself, or the one field that ends in it (--epochs)."""
    if name in ALIASES:
        return ALIASES[name]
    ends = [field for field in fields if field == name or field.endswith(f".{name}")]
    return ends[0] if len(ends) == 1 else name


def _fields(recipe: Any, prefix: str = "") -> list[tuple[str, Any, list[str]]]:
    """(dotted name, value, lines of help) of every field."""
    from camelid.recipe import tell_choices

    found = []
    for name, field in type(recipe).model_fields.items():
        value = getattr(recipe, name)
        if hasattr(type(value), "model_fields"):
            found += _fields(value, f"{prefix}{name}.")
        else:
            lines = [line for line in (field.description or "", tell_choices(field)) if line]
            found.append((prefix + name, value, lines))
    return found
