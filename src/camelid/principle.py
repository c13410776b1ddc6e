"""Principles that answers are compared by, as data: read from TOML, turned round, written into a prompt.

Nothing else says what is better: a reward model that reads them is steered by another text.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from camelid.errors import UserError
from camelid.recipe import Values
from camelid.rows import Judged
from camelid.runs import Run

BUILT_IN = Path(__file__).parent / "principles"
NOT = "not "  # before a name: the principle turned round
WORD = re.compile(r"\w+(?:['’]\w+)*")
SENTENCE = re.compile(r"[^.!?\n]*\w[^.!?\n]*")
CONTENT = 4  # letters from which on a word counts as one of content


class Principle(Values):
    """One thing that makes an answer better, and what it says when it is turned round.

    `rule` names one of MEASURES, by which two answers are then compared without asking a model.
    """

    name: str = Field(min_length=1)
    definition: str = Field(min_length=1)
    negative: str = Field(min_length=1)
    rule: str = ""


class _File(Values):
    principle: list[Principle] = Field(min_length=1)


Measure = Callable[[str, str], float]


def count_brevity(question: str, answer: str) -> float:
    """Minus the words of the answer."""
    return -float(len(WORD.findall(answer)))


def share_content(question: str, answer: str) -> float:
    """The share of the question's words of four letters or more that stand in the answer; 0 where there are none."""
    wanted = {word for word in _words(question) if len(word) >= CONTENT}
    return len(wanted & set(_words(answer))) / len(wanted) if wanted else 0.0


def share_distinct(question: str, answer: str) -> float:
    """Distinct words of the answer in its words; 0 without words."""
    words = _words(answer)
    return len(set(words)) / len(words) if words else 0.0


def count_sentences(question: str, answer: str) -> float:
    """Stretches with a word in them, between full stops, marks and line breaks."""
    return float(len(SENTENCE.findall(answer)))


MEASURES: dict[str, Measure] = {
    "brevity": count_brevity,
    "content": share_content,
    "variety": share_distinct,
    "sentences": count_sentences,
}


def read_principles(source: str) -> dict[str, Principle]:
    """Principles by name, from a built-in file by its name or a TOML file: [[principle]] tables.

    Each has name, definition, negative and, if it is measured and not asked for, rule. Raises UserError when there is
    no such file, it is broken, or two principles cannot be told apart.
    """
    path = BUILT_IN / f"{source}.toml"
    path = path if path.is_file() else Path(source)
    if not path.is_file():
        names = ", ".join(sorted(known.stem for known in BUILT_IN.glob("*.toml")))
        raise UserError(f"there are no principles {source!r}", f"Built-in ones are: {names}; a TOML file will do.")
    try:
        found = _File(**tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        fix = "Strings need quotes, principles a [[principle]] line."
        raise UserError(f"{path} is not valid TOML: {error}", fix) from error
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(what, "A principle has name, definition, negative and, if it is measured, rule.") from error
    _check(path, found.principle)
    return {one.name: one for one in found.principle}


def keep_principles(run: Run, source: str) -> dict[str, Principle]:
    """The principles of `read_principles` as they were when the run began, whatever happens to their file."""

    def keep() -> list[Judged]:
        return [Judged(name, source, "value", one.model_dump(), "") for name, one in read_principles(source).items()]

    return {one.id: Principle(**one.value) for one in run.rows("principles/used", keep)}


def state(principles: Mapping[str, Principle], wanted: Sequence[str]) -> tuple[str, ...]:
    """The text of each wanted principle: "concise", "not concise", or a sentence of one's own that ends in a stop.

    Raises UserError for a name that is none.
    """
    return tuple(_state(principles, one) for one in wanted)


def compare_measures(principles: Mapping[str, Principle], question: str, first: str, second: str) -> dict[str, float]:
    """By each principle that is measured, how much more of it the first answer has than the second."""
    rules = {name: MEASURES[one.rule] for name, one in principles.items() if one.rule}
    return {name: rule(question, first) - rule(question, second) for name, rule in rules.items()}


def turn_round(name: str) -> str:
    """ "concise" to "not concise" and back."""
    return name.removeprefix(NOT) if name.startswith(NOT) else NOT + name


def write_bullets(texts: Sequence[str]) -> str:
    """One text a line, without the names of the principles: what is read is what they say."""
    return "\n".join(f"- {text}" for text in texts)


def _state(principles: Mapping[str, Principle], wanted: str) -> str:
    if wanted in principles:
        return principles[wanted].definition
    if (name := wanted.removeprefix(NOT)) in principles:
        return principles[name].negative
    if wanted.strip().endswith("."):
        return wanted.strip()
    near = difflib.get_close_matches(name, principles, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    fix = f"{hint}There are: {', '.join(principles)}; each with {NOT!r} before it; or a sentence that ends in a stop."
    raise UserError(f"there is no principle {wanted!r}", fix)


def _check(path: Path, found: Sequence[Principle]) -> None:
    names = [one.name for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path} has several principles called {twice[0]!r}", "Give each a name of its own.")
    if odd := [name for name in names if name.startswith(NOT) or name.endswith(".")]:
        fix = f"{NOT!r} turns a principle round and a stop ends a sentence: choose another name."
        raise UserError(f"{path}: a principle cannot be called {odd[0]!r}", fix)
    if same := [one.name for one in found if one.definition.strip() == one.negative.strip()]:
        raise UserError(f"{path}: {same[0]!r} says the same when it is turned round", "Write its opposite.")
    if unknown := [one for one in found if one.rule and one.rule not in MEASURES]:
        what = f"{path}: {unknown[0].name!r} has the rule {unknown[0].rule!r}, which is none"
        raise UserError(what, f"There are: {', '.join(MEASURES)}; without a rule the model is asked.")


def _words(text: str) -> list[str]:
    return [word.casefold() for word in WORD.findall(text)]
