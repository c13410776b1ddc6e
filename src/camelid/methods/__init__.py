"""One file per paper, on shelves that say what you come away with. Found by stem; there is no list to keep.

The shelves are folders without code. `find("ls-llama")` reads no method file, so listing stays fast.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from camelid.errors import UserError
from camelid.recipe import read_recipe

ROOT = Path(__file__).parent


def method_files() -> dict[str, Path]:
    """Method files by public name ("ls-llama"), in the order of shelf and stem."""
    return {path.stem.replace("_", "-"): path for path in sorted(ROOT.glob("*/*.py")) if path.stem != "__init__"}


def find(name: str) -> Path:
    """The file of a built-in method by name, or of a user's own by its path ending in .py."""
    known = method_files()
    if name.replace("_", "-") in known:
        return known[name.replace("_", "-")]
    if name.endswith(".py") and Path(name).is_file():
        return Path(name)
    if name.endswith(".py"):
        raise UserError(f"there is no method file {name}", "Check the path, or use a name from camelid list.")
    near = difflib.get_close_matches(name.lower(), list(known), n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise UserError(f"there is no method {name!r}", f"{hint}camelid list names the methods; a path to a .py works too.")


def load(name: str) -> ModuleType:
    """The module of a method: it has `Recipe`, `check(recipe)`, `run(recipe, run)` and a docstring."""
    path = find(name)
    # a user's train.py or json.py must not meet a module of that name
    own = f"camelid.methods.own.{path.resolve()}"
    module_name = f"camelid.methods.{path.parent.name}.{path.stem}" if path.parent.parent == ROOT else own
    return sys.modules.get(module_name) or _import(module_name, path)


def _import(module_name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pydantic look their module up by name
    try:
        spec.loader.exec_module(module)
        if missing := [part for part in ("Recipe", "check", "run") if not hasattr(module, part)]:
            raise UserError(f"{path} is no method: it has no {', '.join(missing)}", "A method file defines all three.")
    except BaseException:
        del sys.modules[module_name]  # the next call would get half a module
        raise
    return module


def summary(path: Path) -> str:
    """First line of the method's docstring, read without importing it."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.partition("\n")[0]


def resolve(
    name: str, overrides: dict[str, Any] | None = None, *, path: Path | None = None, scale: str | None = None
) -> Any:
    """The recipe of a method: its own TOML file (or `path`), the `scale` table, and dotted overrides."""
    return read_recipe(load(name).Recipe, path or find(name).with_suffix(".toml"), scale=scale, overrides=overrides)


def start(name: str, recipe: Any, folder: Path, command: Sequence[str]) -> Path:
    """Run a resolved recipe into a new `folder`; returns the folder. `command` repeats the run, for the report."""
    from camelid.runs import open_run

    method = str(Path(name).resolve()) if name.endswith(".py") else name  # to be found from any folder on resume
    with open_run(folder, recipe=recipe, method=method, command=command) as run:
        load(name).run(recipe, run)
        run.finish()
    return folder


def resume(folder: Path) -> Path:
    """Continue the run in `folder` with its saved recipe; finished stages are read back, not made again."""
    from camelid.runs import reopen_run

    with reopen_run(folder) as run:
        module = load(run.manifest["method"])
        module.run(read_recipe(module.Recipe, folder / "recipe.toml"), run)
        run.finish()
    return folder


def run(name: str, overrides: dict[str, Any] | None = None, *, out: Path | str) -> Path:
    """What `camelid run` does, as a call: `run("ls-llama", {"data.train": "tweets.csv"}, out="tweets-run")`.

    Raises UserError with every problem before a model is loaded. Returns the run folder.
    """
    recipe = resolve(name, overrides)
    load(name).check(recipe)
    settings = [part for key, value in (overrides or {}).items() for part in ("--set", f"{key}={_toml(value)}")]
    return start(name, recipe, Path(out), ["camelid", "run", name, *settings, "--out", str(out)])


def _toml(value: Any) -> str:
    """The value as --set takes it: text bare, everything else in the notation that JSON and TOML share."""
    return value if isinstance(value, str) else json.dumps(value)
