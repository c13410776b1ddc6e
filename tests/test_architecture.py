"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "camelid"
FILES = sorted(SOURCE.rglob("*.py"))
METHODS = sorted(SOURCE.glob("methods/*/*.py"))
# from the ground up: a module imports only from its own line or from lines above it
STOREYS = [
    {"cache", "errors", "hub", "language", "processes", "spending"},
    {"rows", "recipe", "progress", "metrics", "ranking", "agreement", "policy", "codebook", "belief_propagation",
     "folds", "logistic"},
    {"linear_heads"},
    {"runs", "data", "batches", "bags", "surgery", "evaluation", "baselines", "chat", "retrieval", "networks",
     "pairwise", "verdicts", "preference_sets", "panels", "principle"},
    {"task", "task_scores", "responses", "gold", "token_flags"},
    {"bases", "heads", "reading", "token_trees", "hidden", "lettering", "features", "pools", "branches"},
    {"logprobs"},
    {"objectives", "verify"},
    {"gguf_file", "inventory", "models"},
    {"engines"},
    {"sampling", "scoring", "parsing"},
    {"annotation", "guard", "asking", "labellers", "judges", "dialogues", "judging", "rationales"},
    {"prediction", "training", "report", "environment", "export", "archive"},
    {"labelling"},
    {"forecast", "estimators", "screen", "active_learning", "preferences", "extrapolation", "sides", "adherence",
     "candidates", "critiques"},
    {"reward_model"},
    {"methods"},
    {"cli"},
]  # fmt: skip


def imported(path: Path) -> set[str]:
    """Top-level camelid modules that a file imports while it is loaded or later."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "camelid":
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("camelid."):
            found.add((node.module or "").split(".")[1])
    return found


def module_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_imports_point_down() -> None:
    level = {name: number for number, names in enumerate(STOREYS) for name in names}
    # written down because each is a deliberate, lazy exception: the run folder saves models, the report names methods
    lazy = {("runs", "models"), ("report", "methods")}
    wrong = [
        f"{path.relative_to(SOURCE)} imports {name}"
        for path in FILES
        if module_of(path) in level
        for name in imported(path)
        if level[name] > level[module_of(path)] and (module_of(path), name) not in lazy
    ]
    assert wrong == []
    known = {module_of(path) for path in FILES} - {"__init__", "__main__"}
    assert known == set(level), "every module has its storey"


def test_no_method_imports_a_method() -> None:
    assert len(METHODS) == 14
    assert [path.name for path in METHODS if "methods" in imported(path)] == []


def test_every_method_has_recipe_page_and_test() -> None:
    for path in METHODS:
        stem = path.stem.replace("_", "-")
        assert path.with_suffix(".toml").is_file()
        assert (ROOT / "docs" / "methods" / f"{stem}.md").is_file()
        assert (ROOT / "tests" / "methods" / f"test_{path.stem}.py").is_file()
        assert f"[{stem}](docs/methods/{stem}.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_no_public_function_has_the_name_of_a_module() -> None:
    modules = {path.stem for path in FILES} | {path.name for path in SOURCE.iterdir() if path.is_dir()}
    twice = [
        f"{path.stem}.{node.name}"
        for path in FILES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.name in modules
    ]
    assert twice == []


def test_only_the_command_line_prints() -> None:
    printing = [
        path.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert printing == []


def test_only_the_loop_goes_backward() -> None:
    steps = re.compile(r"\.backward\(|optimizer\.step\(|clip_grad_norm")
    assert [path.name for path in FILES if steps.search(path.read_text(encoding="utf-8"))] == ["training.py"]


def test_import_and_list_load_no_torch() -> None:
    code = "import sys, camelid, camelid.cli; print(*{'torch', 'transformers', 'sklearn'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == ""


def test_public_names_exist() -> None:
    import camelid

    for name in camelid.__all__:
        assert getattr(camelid, name) is not None
    with pytest.raises(AttributeError):
        camelid.nonsense  # noqa: B018


def test_readme_names_real_commands() -> None:
    from typer.main import get_command

    from camelid.cli import app

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert set(re.findall(r"^camelid (\w+)", blocks, re.MULTILINE)) <= commands
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make (\w+)", text)) <= targets
