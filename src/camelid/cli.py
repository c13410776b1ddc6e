"""The command line. It prints; everything it does is a library call.

A UserError becomes two lines, what happened and what to do, and exit status 2, never a traceback.
"""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from camelid import methods
from camelid.errors import UserError

app = typer.Typer(
    help="Adapt a LLaMA-family model with published methods, and see on held-out data what it did.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
screen = Console(emoji=False)  # a column may be called :warning:
errors = Console(stderr=True, emoji=False)

ALIASES = {"data": "data.train", "model": "model.base", "seed": "plan.seed"}

Method = Annotated[str, typer.Argument(help="name of a method (camelid list), or a .py file of your own")]
Folder = Annotated[Path, typer.Argument(help="run folder")]
OptionalText = str | None
RecipeFile = Annotated[Path | None, typer.Option(help="a recipe file of your own")]
Scale = Annotated[OptionalText, typer.Option(help="name of a scale table of the recipe (paper, 8b, ...)")]
Set = Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE, any field of the recipe; repeatable")]
EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}


def told(command: Callable[..., Any]) -> Callable[..., Any]:
    """Print a UserError as sentences and end with status 2; an interrupt ends with 130."""

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except UserError as error:
            for problem in error.all():
                errors.print(f"[bold red]error:[/] {escape(problem.what)}", highlight=False, soft_wrap=True)
                if problem.fix:
                    errors.print(f"  [green]fix:[/] {escape(problem.fix)}", highlight=False, soft_wrap=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            errors.print("stopped; camelid resume continues a run from its last checkpoint", highlight=False)
            raise typer.Exit(130) from None

    return wrapped


@app.command("list")
@told
def list_methods() -> None:
    """The methods, by shelf."""
    from camelid.methods import method_files, summary

    shelf = ""
    for name, path in method_files().items():
        if path.parent.name != shelf:
            shelf = path.parent.name
            screen.print(f"\n[bold]{shelf}[/]")
        screen.print(f"  [cyan]{name:28}[/] {escape(summary(path))}", highlight=False, soft_wrap=True)
    screen.print("\ncamelid show <method> explains one; camelid run <method> runs it.", highlight=False)


@app.command()
@told
def show(method: Method) -> None:
    """What a method does, and every field of its recipe with its value and help."""
    module = methods.load(method)
    recipe = methods.resolve(method)
    screen.print(escape((module.__doc__ or "").strip()), highlight=False, soft_wrap=True)
    screen.print("\n[bold]Recipe[/] (set any with --set NAME=VALUE)\n")
    for name, value, text in _fields(recipe):
        screen.print(
            f"  [cyan]{name}[/] = {escape(repr(value))}\n      {escape(text)}", highlight=False, soft_wrap=True
        )


@app.command("run", context_settings=EXTRA)
@told
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
    _quiet()
    _print_lines(methods.load(method).check(values))
    folder = methods.start(method, values, out or runs.next_folder(method), ["camelid", *sys.argv[1:]])
    _conclude(folder)


@app.command("check", context_settings=EXTRA)
@told
def check_command(
    context: typer.Context, method: Method, recipe: RecipeFile = None, scale: Scale = None, set_: Set = None
) -> None:
    """What run would do, before any model loads: rows, classes, tokens, steps, memory, time; or every problem at once.

    Takes the options of run.
    """
    values = methods.resolve(method, _overrides(context, method, set_), path=recipe, scale=scale)
    _quiet()
    _print_lines(methods.load(method).check(values))


@app.command()
@told
def resume(folder: Folder) -> None:
    """Continue a run that was stopped or killed; the result is bit for bit that of an uninterrupted one."""
    _quiet()
    methods.resume(folder)
    _conclude(folder)


@app.command()
@told
def predict(
    folder: Folder,
    rows: Annotated[Path, typer.Argument(help="file with the rows to label (.csv .tsv .jsonl .parquet)")],
    out: Annotated[Path, typer.Option(help="file to write (.csv .tsv .jsonl)")],
    text: Annotated[OptionalText, typer.Option(help="column with the text; the run's own if absent")] = None,
    tokens: Annotated[OptionalText, typer.Option(help="column with the words of a tagged sentence")] = None,
    base: Annotated[OptionalText, typer.Option(help="where the base model is now, if it was moved")] = None,
) -> None:
    """Label rows with a trained model: the input's columns, plus predicted and probability_<class>."""
    from camelid import labelling, runs

    runs.read_manifest(folder)
    _quiet()
    count = labelling.predict_file(folder, rows, out, text=text, tokens=tokens, base=base)
    screen.print(f"{count} rows written to {out}", highlight=False, soft_wrap=True)


@app.command("report")
@told
def report_command(folder: Folder) -> None:
    """Write report.html of a run again, from its files."""
    from camelid.report import write_report
    from camelid.runs import read_manifest

    read_manifest(folder)
    screen.print(f"report: {write_report(folder)}", highlight=False, soft_wrap=True)


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


def _fields(recipe: Any, prefix: str = "") -> list[tuple[str, Any, str]]:
    """(dotted name, value, help) of every field."""
    found = []
    for name, field in type(recipe).model_fields.items():
        value = getattr(recipe, name)
        if hasattr(type(value), "model_fields"):
            found += _fields(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, value, field.description or ""))
    return found


def _print_lines(lines: list[tuple[str, str]]) -> None:
    for name, text in lines:
        style = "yellow" if name == "warning" else "cyan"
        screen.print(f"[{style}]{name:>20}[/]  {escape(text)}", highlight=False, soft_wrap=True)


def _quiet() -> None:
    """Our progress on, that of the libraries off."""
    import transformers

    from camelid.progress import show_on

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    show_on(screen)


def _conclude(folder: Path) -> None:
    """The verdict, a line a system, and where the report is."""
    import json

    from camelid.report import write_report

    for scores in json.loads((folder / "scores.json").read_text(encoding="utf-8")).values():
        screen.print(f"\n[bold]{escape(scores['verdict'])}[/]", highlight=False, soft_wrap=True)
        for name, system in scores["systems"].items():
            value = system[scores["metric"]]
            span = f"{value['value']:.3f}  [{value['low']:.3f}, {value['high']:.3f}]"
            screen.print(f"  {escape(name):38} {scores['metric']} {escape(span)}", highlight=False)
    screen.print(f"\nreport:  {write_report(folder)}", highlight=False, soft_wrap=True)
    screen.print(
        f"label rows with it:  camelid predict {shlex.quote(str(folder))} rows.csv --out labels.csv",
        highlight=False,
        soft_wrap=True,
    )
