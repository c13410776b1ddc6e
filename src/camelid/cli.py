"""The command line. It prints; everything it does is a library call.

A UserError becomes two lines, what happened and what to do, and exit status 2, never a traceback.
"""

from __future__ import annotations

import functools
import shlex
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from camelid import methods
from camelid.errors import UserError
from camelid.processes import is_leader, share_from_leader

app = typer.Typer(
    help="Adapt a LLaMA-family model with published methods, and see on held-out data what it did.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
screen = Console(emoji=False, quiet=not is_leader())  # a column may be called :warning:
errors = Console(stderr=True, emoji=False)

ALIASES = {"data": "data.train", "model": "model.base", "seed": "plan.seed"}

Method = Annotated[str, typer.Argument(help="name of a method (camelid list), or a .py file of your own")]
Folder = Annotated[Path, typer.Argument(help="run folder")]
Trained = Annotated[Path, typer.Argument(help="folder of a finished run, or of a trained model")]
OptionalText = str | None
RecipeFile = Annotated[Path | None, typer.Option(help="a recipe file of your own")]
Scale = Annotated[OptionalText, typer.Option(help="name of a scale table of the recipe (paper, 8b, ...)")]
Set = Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE, any field of the recipe; repeatable")]
MovedBase = Annotated[OptionalText, typer.Option("--base", help="where the base model is now, if it was moved")]
TOP = 8  # classes of a set that are named
SAMPLE = 300  # characters shown of a row
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


@app.command()
@told
def copy(
    method: Method,
    path: Annotated[Path, typer.Argument(help="file to write, such as mine.toml")],
    scale: Scale = None,
) -> None:
    """Write the recipe of a method into a file of your own to edit, with every field explained."""
    from camelid.recipe import copy_recipe

    copy_recipe(path, methods.resolve(method, scale=scale), methods.find(method).with_suffix(".toml"))
    command = shlex.join(["camelid", "run", method, "--recipe", str(path)])
    screen.print(f"{path} written; run it with:\n{command}", markup=False, highlight=False, soft_wrap=True)


@app.command("data")
@told
def data_command(
    name: Annotated[OptionalText, typer.Argument(help="name of a set; all of them if absent")] = None,
) -> None:
    """The named data sets and where each is read from; of one of them also classes, samples, what is left out."""
    from camelid import data

    if name is not None:
        _print_set(data.describe_set(name), data.read_set(name))
        return
    for known in data.named_sets():
        found = data.describe_set(known)
        splits = _splits_of(found, data.count_rows(found))
        screen.print(f"[cyan]{known:14}[/] {found.kind:7} {splits}", highlight=False, soft_wrap=True)
        _print_indented(" ".join(found.about.partition("\n\n")[0].split()))
        _print_indented(_place_of(found), found.problem)
    screen.print("\ncamelid data NAME shows one; --data NAME trains on it.", highlight=False)


@app.command("models")
@told
def models_command(
    name: Annotated[OptionalText, typer.Argument(help="what would stand in model.base; all at hand if absent")] = None,
) -> None:
    """The models at hand for model.base; of one of them also size, layers, vocabulary and special tokens."""
    from camelid import models
    from camelid.environment import show_bytes

    if name is not None:
        _quiet()
        _print_lines(models.describe_base(models.open_base(name)))
        return
    shelves = {
        "embedded": [models.describe_embedded()],
        "converted from .gguf files": models.list_converted(),
        "fetched from the hub": models.list_hub_cached(),
    }
    for shelf, found in shelves.items():
        screen.print(f"[bold]{shelf}[/]{'' if found else '  none'}", highlight=False)
        wide = max((len(model.spec) for model in found), default=0)
        for model in found:
            size = "" if model.problem else f"{show_bytes(model.size):>8}"
            line = f"  [cyan]{escape(f'{model.spec:{wide}}')}[/] {size}  {model.remark}".rstrip()
            screen.print(line, highlight=False, soft_wrap=True)
            _print_indented("", model.problem)
    screen.print("\nAny hub id, folder with .safetensors or .gguf file will do too: --model NAME.", highlight=False)


@app.command()
@told
def doctor() -> None:
    """What this machine offers a run and what to mend; ends with status 1 when something stops a run."""
    from camelid.environment import examine

    counts = {"ok": 0, "note": 0, "problem": 0}
    for finding in examine():
        counts[finding.state] += 1
        _print_finding(finding)
    found = [f"{counts[state]} {state}{'s' * (counts[state] > 1)}" for state in ("problem", "note") if counts[state]]
    screen.print(f"\n{', '.join(found) or 'all is well'}", highlight=False)
    if counts["problem"]:
        raise typer.Exit(1)


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
    folder = share_from_leader(out or runs.next_folder(method))
    methods.start(method, values, folder, ["camelid", *sys.argv[1:]])
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
    from camelid import prediction, runs

    runs.read_manifest(folder)
    _quiet()
    count = prediction.predict_file(folder, rows, out, text=text, tokens=tokens, base=base)
    screen.print(f"{count} rows written to {out}", highlight=False, soft_wrap=True)


@app.command("report")
@told
def report_command(folder: Folder) -> None:
    """Write report.html of a run again, from its files."""
    from camelid.report import write_report
    from camelid.runs import read_manifest

    read_manifest(folder)
    screen.print(f"report: {write_report(folder)}", highlight=False, soft_wrap=True)


@app.command("merge")
@told
def merge_command(
    folder: Trained,
    out: Annotated[Path, typer.Option(help="folder to write")],
    base: MovedBase = None,
) -> None:
    """Add the adapter of a trained model into its weights; camelid.predict_with uses the result like the original."""
    from camelid import export

    _quiet()
    _print_lines(export.merge_run(folder, out, base))


@app.command("export")
@told
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

    _quiet()
    _print_lines(export.export_run(folder, out, form, as_, base))


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


def _print_indented(text: str, problem: UserError | None = None) -> None:
    """Text, or a problem and its remedy in its place, wrapped to the screen and set in."""
    parts = [Text(text)] if text and not problem else []
    if problem:
        parts = [Text(problem.what, "yellow"), Text.assemble(("fix: ", "green"), problem.fix)]
    for part in parts:
        screen.print(Padding(part, (0, 0, 0, 4), expand=False), highlight=False)


def _print_finding(finding: Any) -> None:
    """A line of doctor in aligned columns, each wrapped by itself."""
    style = {"ok": "green", "note": "yellow", "problem": "bold red"}[finding.state]
    columns = Table.grid(padding=(0, 2, 0, 0))
    columns.add_column(width=7)
    columns.add_column(width=13)
    columns.add_column(overflow="fold")
    columns.add_row(Text(finding.state, style), Text(finding.name, "cyan"), Text(finding.value))
    if finding.remedy:
        columns.add_row("", "", Text.assemble(("fix: ", "green"), finding.remedy))
    screen.print(columns, highlight=False)


def _splits_of(found: Any, rows: dict[str, int]) -> str:
    """The splits of a named set by role, with their rows where those are known."""
    texts = []
    for role, split in found.splits.items():
        text = f"{role} {rows[split]:,}" if split in rows else role
        texts.append(text if role == split else f"{text} ({found.name}:{split})")
    return ", ".join(texts)


def _place_of(found: Any) -> str:
    """Where a named set is read from; split by split where that differs."""
    known = {"hub": "the hub, fetched when it is used", "embedded": "its wheel, which is installed"}
    places: dict[str, list[str]] = {}
    for split, place in found.places.items():
        places.setdefault(known.get(place) or str(Path(place).parent), []).append(split)
    if len(places) == 1:
        return f"from {next(iter(places))}"
    return "from " + "; ".join(f"{place} ({', '.join(splits)})" for place, splits in places.items())


def _print_set(found: Any, read: dict[str, Any]) -> None:
    """A named set: what it is, its splits and classes, what was left out, two rows."""
    from camelid.data import labels_in

    screen.print(f"[bold]{found.name}[/], {found.kind}, {_place_of(found)}\n", highlight=False, soft_wrap=True)
    screen.print(Text("\n\n".join(" ".join(paragraph.split()) for paragraph in found.about.split("\n\n"))))
    for role, split in found.splits.items():
        rows, dropped = read[split]
        counts = Counter(label for row in rows for label in labels_in(row)).most_common()
        classes = ", ".join(f"{label} {count:,}" for label, count in counts[:TOP])
        more = f", and {len(counts) - TOP} more" if len(counts) > TOP else ""
        named = split if role == split else f"{split} (used as {role})"
        screen.print(f"\n[bold]{named}[/]  {len(rows):,} rows", highlight=False)
        _print_indented(f"{len(counts)} {'classes' if found.kind == 'labels' else 'tags'}: {classes}{more}")
        reasons = ", ".join(f"{count:,} {why}" for why, count in dropped.most_common())
        _print_indented(f"left out: {reasons or 'none'}")
    first = found.splits["train"]
    screen.print(f"\n[bold]two rows of {first}[/]", highlight=False)
    for row in read[first][0][:2]:
        _print_indented(f"{row.origin}: {_sample_of(row)}")
    screen.print(f"\ncamelid check METHOD --data {found.name} says what a run on it would do.", highlight=False)


def _sample_of(row: Any) -> str:
    """A row on one line: its label and text, or its words with the tags that are not O."""
    if hasattr(row, "tags"):
        words = zip(row.tokens, row.tags, strict=True)
        return textwrap.shorten(" ".join(word if tag == "O" else f"{word}[{tag}]" for word, tag in words), SAMPLE)
    return textwrap.shorten(f"{row.label}: {row.text}", SAMPLE, placeholder=" …")


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

    if not is_leader():
        return
    for scores in json.loads((folder / "scores.json").read_text(encoding="utf-8")).values():
        if "verdict" not in scores:
            continue
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
