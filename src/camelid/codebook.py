"""Codebooks as data: what annotators are told, read from TOML, and written into prompts of growing length."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from camelid.errors import UserError
from camelid.recipe import Values
from camelid.rows import Annotated

BUILT_IN = Path(__file__).parent / "codebooks" / "oral-history.toml"
Design = Literal["foundational", "concise", "structured", "refined", "comprehensive"]


class Label(Values):
    """One label of a codebook."""

    name: str = Field(min_length=1)
    definition: str = ""
    keywords: tuple[str, ...] = ()
    question: str = ""
    rules: tuple[str, ...] = ()


class Kind(Values):
    """Labels of one kind by what is answered for them, what is asked, and the designs they are written for."""

    ask: str = Field(min_length=1)
    labels: dict[str, Label] = Field(min_length=2)
    rules: tuple[str, ...] = ()
    designs: tuple[Design, ...] = ("foundational", "concise", "structured", "refined", "comprehensive")


class Codebook(Values):
    """What annotators are told."""

    role: str = Field(min_length=1)
    source: str = ""
    background: str = ""
    kinds: dict[str, Kind] = Field(min_length=1)


def read_codebook(path: str, kinds: Sequence[str], designs: Sequence[Design]) -> Codebook:
    """The codebook in a TOML file, or the built-in one for "". Raises UserError when it is broken, or lacks labels of
    one of the kinds or for all of the designs."""
    name = path or "the built-in codebook"
    try:
        text = Path(path or BUILT_IN).read_text(encoding="utf-8")
        codebook = Codebook.model_validate(tomllib.loads(text))
    except OSError as error:
        raise UserError(f"cannot read the codebook {path}: {error.strerror}", "Check the path.") from error
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg'].lower()}" for one in error.errors())
        raise UserError(f"{path}: {said}", "A codebook has role and kinds; a kind has ask and labels.") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid TOML: {error}", "Strings need quotes, tables a [name] line.") from error
    for kind in kinds:
        if kind not in codebook.kinds:
            fix = f"Its kinds are: {', '.join(codebook.kinds)}; give a --codebook of your own, or other --labels."
            raise UserError(f"{name} has no labels of the kind {kind!r}", fix)
        if not set(designs) & set(codebook.kinds[kind].designs):
            known = ", ".join(codebook.kinds[kind].designs)
            raise UserError(f"{name} has none of the designs for {kind!r}", f"Choose among --designs {known}.")
    return codebook


def are_numbers(labels: Iterable[str]) -> bool:
    """Whether all labels are whole numbers, so that a number is asked for."""
    return all(label.isdecimal() for label in labels)


def find_unknown(codebook: Codebook, rows: Sequence[Annotated]) -> list[UserError]:
    """A problem for each kind with labels that the codebook lacks."""
    problems = []
    for kind, scheme in codebook.kinds.items():
        unknown = [row for row in rows if kind in row.labels and row.labels[kind] not in scheme.labels]
        if unknown:
            what = f"{unknown[0].origin} has the {kind} {unknown[0].labels[kind]!r}, which the codebook lacks"
            problems.append(UserError(f"{what} ({len(unknown)} such rows)", f"It has: {', '.join(scheme.labels)}."))
    return problems


def write_frame(codebook: Codebook, kind: str, design: Design) -> str:
    """What stands before examples and sentence: the parts that `PARTS` names for the design, as far as there are any.

    Texts are joined and never formatted, so that braces in them mean nothing.
    """
    scheme, parts = codebook.kinds[kind], PARTS[design]
    rules = [f"- {rule}" for rule in scheme.rules] if "rules" in parts else []
    blocks = [
        " ".join(filter(None, (codebook.role, codebook.source))),
        codebook.background if "background" in parts else "",
        scheme.ask,
        *(_describe(code, label, parts) for code, label in scheme.labels.items()),
        "\n".join([DOUBT, *rules]) if rules else "",
        MEANING if "meaning" in parts else "",
        write_rule(scheme.labels),
    ]
    return "\n\n".join(filter(None, blocks))


def write_rule(labels: Iterable[str]) -> str:
    """The last rule of a frame, and what a malformed reply is answered with."""
    names = list(labels)
    return NUMBER_ONLY if are_numbers(names) else f"{WORD_ONLY} {', '.join(names)}."


def _describe(code: str, label: Label, parts: Sequence[str]) -> str:
    title = code if label.name.casefold() == code.casefold() else f"{code}: {label.name}"
    lines = [
        title,
        label.definition if "definition" in parts else "",
        *([f"- {rule}" for rule in label.rules] if "rules" in parts else []),
        f"{KEYWORDS} {', '.join(label.keywords)}" if "keywords" in parts and label.keywords else "",
        f"{QUESTION} {label.question}" if "question" in parts and label.question else "",
    ]
    return "\n".join(filter(None, lines))


PARTS: dict[Design, tuple[str, ...]] = {
    "foundational": (),
    "concise": ("definition", "keywords", "meaning"),
    "structured": ("definition", "keywords", "question"),
    "refined": ("definition", "keywords", "rules"),
    "comprehensive": ("definition", "keywords", "rules", "background"),
}
KEYWORDS = "Key words:"
QUESTION = "Typical question:"
MEANING = "Meaning counts more than single words. Where several labels fit, choose the main one."
DOUBT = "In doubt:"
NUMBER_ONLY = "Answer with the number only."
WORD_ONLY = "Answer with one word only:"
