"""What the pages name exists: fields, options, files, headings; and their Python compiles.

Sources are parsed where importing them would import torch.
"""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

import camelid
from camelid.cli import ALIASES
from camelid.recipe import Data, Model, Plan

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "camelid"
DOCS = ROOT / "docs"
MODULES = {path.stem for path in SOURCE.iterdir()}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
METHOD, TRAINING, ESTIMATORS = DOCS / "methods" / "ls-llama.md", DOCS / "training.md", DOCS / "estimators.md"
TABLES = {"model": Model, "data": Data, "plan": Plan}
OWN = {"out", "recipe", "scale", "set"}  # options of camelid run that are no fields


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def named(page: Path) -> set[str]:
    """What stands in backticks outside of blocks, and the words of options that do: `keep`, `--max-tokens 256`."""
    found = re.findall(r"`([^`]+)`", prose(page))
    return {word.lstrip("-").replace("-", "_") for text in found for word in text.split()} | set(found)


def fields_of_class(path: Path, name: str) -> list[str]:
    """Annotated names of a class, read from its source."""
    (found,) = (node for node in ast.parse(text_of(path)).body if isinstance(node, ast.ClassDef) and node.name == name)
    return [
        node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]


OF_METHOD = [name for name in fields_of_class(SOURCE / "methods/classify/ls_llama.py", "Recipe") if name not in TABLES]
DOTTED = {f"{table}.{name}" for table, kind in TABLES.items() for name in kind.model_fields}
FIELDS = {*OF_METHOD, *DOTTED}


@pytest.mark.parametrize("page", [ROOT / "README.md", METHOD, TRAINING, ESTIMATORS], ids=lambda page: page.stem)
def test_fields_in_backticks_exist(page: Path) -> None:
    dotted = {name for name in named(page) if re.fullmatch(r"(model|data|plan)\.\w+", name)}
    assert dotted <= FIELDS, dotted - FIELDS


def test_the_recipe_table_names_fields() -> None:
    table = text_of(METHOD).split("\n## Recipe\n")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    names = {name for line in lines for name in re.findall(r"`([^`]+)`", line.split(" | ")[0])}
    known = FIELDS | {name.rpartition(".")[2] for name in DOTTED}
    assert len(names) > 15
    assert names <= known, names - known


def test_every_field_of_method_and_plan_is_explained() -> None:
    assert set(OF_METHOD) <= named(METHOD), set(OF_METHOD) - named(METHOD)
    plan = {name for name in Plan.model_fields if not name.startswith("lora_")}
    assert plan <= named(TRAINING), plan - named(TRAINING)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_options_exist(page: Path) -> None:
    """Each option of `camelid run` or `check` in a shell block is one field, as the command line finds it."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines() if "ls-llama" in line]
    words = [word for line in lines for word in shlex.split(line.partition("ls-llama")[2], comments=True)]
    for option in (word[2:].replace("-", "_") for word in words if word.startswith("--")):
        ends = [field for field in FIELDS if field == option or field.endswith(f".{option}")]
        assert option in OWN or option in ALIASES or len(ends) == 1, option


def defined_in(module: str) -> set[str]:
    """Public names of a camelid module, read from its source; for the package its modules too."""
    if module == "camelid":
        return {*camelid.__all__, *MODULES}
    path = SOURCE.joinpath(*module.split(".")[1:])
    found: set[str] = set()
    for node in ast.parse(text_of(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def names_of_camelid(code: str) -> set[tuple[str, str]]:
    """(module, name) of all that the code imports from camelid or reaches through one of its modules."""
    tree = ast.parse(code)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    found = {(str(node.module), name.name) for node in imports for name in node.names}
    found = {(module, name) for module, name in found if module.partition(".")[0] == "camelid"}
    modules = {"camelid": "camelid"} | {name: f"{module}.{name}" for module, name in found if name in MODULES}
    reached = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    names = [(node.value.id, node.attr) for node in reached if isinstance(node.value, ast.Name)]
    return found | {(modules[module], name) for module, name in names if module in modules}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_python_compiles_and_names_what_exists(page: Path) -> None:
    code = "\n".join(blocks(page, "python"))
    compile(code, str(page), "exec")
    names = names_of_camelid(code)
    assert names
    assert {(module, name) for module, name in names if name not in defined_in(module)} == set()


def test_the_estimators_table_is_their_parameters() -> None:
    source = SOURCE / "estimators.py"
    fields = {*fields_of_class(source, "_TextEstimator"), *fields_of_class(source, "LabelClassifier")} - {"_"}
    table = text_of(ESTIMATORS).split("\n## Parameters\n")[1].split("\n## ")[0]
    named_there = {name for line in table.splitlines()[3:] for name in re.findall(r"`(\w+)`", line.split(" | ")[0])}
    assert named_there == fields


def test_the_signature_of_train_is_the_real_one() -> None:
    (train,) = (
        node
        for node in ast.parse(text_of(SOURCE / "training.py")).body
        if isinstance(node, ast.FunctionDef) and node.name == "train"
    )
    names = [argument.arg for argument in (*train.args.args, *train.args.kwonlyargs)]
    (shown,) = blocks(TRAINING, "text")
    assert re.findall(r"(\w+)(?:=[^,]+)?[,)]", shown) == names


def headings(page: Path) -> set[str]:
    """Anchors of a page: headings in lower case, punctuation left out, spaces as hyphens."""
    found = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def test_the_index_lists_every_page() -> None:
    links = {(DOCS / link).resolve() for link in re.findall(r"\]\(([^)#]+\.md)\)", text_of(DOCS / "index.md"))}
    assert {page for page in DOCS.rglob("*.md") if page.name != "index.md"} <= links
