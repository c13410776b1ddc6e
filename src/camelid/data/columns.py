"""What a cell must hold to be a text, a label, words or tags, and what a user is told when it does not."""

from __future__ import annotations

import difflib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from camelid.data.formats import kind_of
from camelid.errors import UserError
from camelid.recipe import Data
from camelid.rows import (
    Annotated,
    Asked,
    Contest,
    Critiqued,
    Flagged,
    Labelled,
    Member,
    Message,
    Pair,
    Preference,
    Rated,
    Reasoned,
    Tagged,
)

LONGEST_TEXT = 1_000_000  # characters; longer means an unclosed quote or a wrong column, not a document
EXAMPLES = 3  # places named per problem
MOST_STRENGTH, MOST_RATING, UNKNOWN = 3, 4, -100  # of a preference, of a rating, and of nothing (HelpSteer2's scales)
VERDICT_WORDS = {"a": "first", "b": "second", "c": "tie", "1": "first", "2": "second", "0": "tie"}
VERDICT_WORDS |= {"model_a": "first", "model_b": "second", "first": "first", "second": "second", "tie": "tie"}
VERDICT_WORDS |= {"assistant_a": "first", "assistant_b": "second"}
ORDERS = ("index", "idx", "id")  # columns that may number rows
BY_FIELD = "--set data.<field>=<column>; camelid show <method> lists the fields"
FILL_IN = "Fill them in, or leave such rows out with --set data.missing=drop (they are counted in the report)."


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row ("no label in column 'y'") and the remedy; `missing` rows may be left out on request.

    Rows with an equal problem are reported together; `detail` says what is particular to one of them.
    """

    what: str
    fix: str = "Correct these rows, or remove them."
    missing: bool = False
    detail: str = ""


@dataclass(frozen=True)
class Shape:
    """The kind of rows a table is read into.

    `convert(id, origin, values)` makes a row or says what is wrong; `columns` are those it needs, and `options` how a
    user names them.
    """

    kind: type
    convert: Callable[[str, str, dict[str, Any]], Any]
    columns: tuple[str, ...]
    options: str


def label_shape(data: Data) -> Shape:
    """Labelled texts, or tagged sentences where `data` names columns for words or tags."""
    if data.tokens or data.tags:
        columns = tagged_columns(data)
        return Shape(
            Tagged, lambda row_id, origin, values: tagged(row_id, origin, values, data), columns, "--tokens and --tags"
        )
    options = "--text and --label (or --tokens and --tags)"
    return Shape(
        Labelled,
        lambda row_id, origin, values: labelled(row_id, origin, values, data),
        (data.text, data.label),
        options,
    )


def annotation_shape(text: str, labels: Mapping[str, str], group: str | None) -> Shape:
    """Annotated texts: `labels` maps each kind of label to its column; `group` is the column of the group, if any."""

    def convert(row_id: str, origin: str, values: dict[str, Any]) -> Annotated | Problem:
        words = text_in(values, text)
        found = {kind: _label_in(values, column) for kind, column in labels.items()}
        member = _label_in(values, group) if group else ""
        problem = _first_problem(words, *found.values(), member)
        return problem or Annotated(row_id, origin, words, found, member)  # type: ignore[arg-type]

    columns = (text, *labels.values(), *([group] if group else []))
    return Shape(Annotated, convert, columns, BY_FIELD)


def question_shape(
    task: str | None, text: str, label: str, group: str | None = None, separator: str | None = None
) -> Shape:
    """Questions about texts: `task` is the column of the task's name, if there is one, `label` that of the answer.

    With a `separator` a cell may hold several answers, any of which is right. A column `choices` holds the codes to
    choose among, a list or between bars.
    """

    def convert(row_id: str, origin: str, values: dict[str, Any]) -> Asked | Problem:
        words = text_in(values, text)
        name = _label_in(values, task) if task else ""
        member = _label_in(values, group) if group else ""
        answers = _labels_in(values, label, separator) if separator else _label_in(values, label)
        offered = () if is_missing(values.get("choices")) else codes_in(values, "choices")
        if problem := _first_problem(words, name, member, answers, offered):
            return problem
        told = answers if isinstance(answers, tuple) else (str(answers),)
        if not told:
            return Problem(f"no answer in column {label!r}", FILL_IN, missing=True)
        return Asked(row_id, origin, str(name), str(words), told, str(member), tuple(offered))  # type: ignore[arg-type]

    columns = (*([task] if task else []), text, label, *([group] if group else []))
    return Shape(Asked, convert, columns, "the fields of the tasks file, or --data.task, --text and --label")


def codes_in(values: dict[str, Any], column: str) -> tuple[str, ...] | Problem:
    """Codes of choices in their own order: a list, its JSON in a cell, or between bars."""
    found = _labels_in(values, column, "|")
    if isinstance(found, Problem):
        return found
    cell = values[column]
    if isinstance(cell, str) and cell.strip().startswith("["):
        cell = json.loads(cell)
    return tuple(dict.fromkeys(str(code).strip() for code in (cell.split("|") if isinstance(cell, str) else cell)))


def flag_shape(text: str, categories: Sequence[str], response: str | None = None) -> Shape:
    """Prompts with a column for each category: 1 or true, 0 or false, or empty where nobody knows.

    With a column of the `response` the answer to the prompt is what the categories are about.
    """

    def convert(row_id: str, origin: str, values: dict[str, Any]) -> Flagged | Problem:
        words = text_in(values, text)
        flags = {name: _flag_in(values, name) for name in categories if not is_missing(values.get(name))}
        answer = text_in(values, response) if response else ""
        if problem := _first_problem(words, answer, *flags.values()):
            return problem
        turns = [Message("user", str(words)), *([Message("assistant", str(answer))] if response else [])]
        return Flagged(row_id, origin, tuple(turns), flags)  # type: ignore[arg-type]

    columns = (text, response) if response else (text,)
    return Shape(
        Flagged, convert, columns, "--text and --response; each category of the policy is a column of that name"
    )


def member_shape(
    text: str,
    numbers: Sequence[str],
    bag: str | None,
    label: str | None,
    positive: Collection[str],
    name: str | None = None,
) -> Shape:
    """Members of bags: their numbers, or their text where no columns of numbers are named.

    `bag` is the column of the bag's name, None for rows that are in none. `label` is that of the class, None where the
    table has none; a row is positive where it holds one of `positive`, and nobody knows of an empty cell. `name` is the
    column of the row's own name, its number in the file where there is none.
    """

    def convert(row_id: str, origin: str, values: dict[str, Any]) -> Member | Problem:
        words = "" if numbers else text_in(values, text)
        found = [_number_in(values, column) for column in numbers]
        group = _label_in(values, bag) if bag else ""
        own = _label_in(values, name) if name else row_id
        known = None if label is None or is_missing(values.get(label)) else _label_in(values, label)
        if problem := _first_problem(words, *found, group, own, known):
            return problem
        is_positive = None if known is None else known in positive
        return Member(str(own), origin, str(words), tuple(found), str(group), is_positive)  # type: ignore[arg-type]

    columns = (*(numbers or (text,)), *(column for column in (bag, label, name) if column))
    return Shape(Member, convert, columns, "--text or --features, --bag and --label")


def preference_shape(prompt: str, chosen: str, rejected: str) -> Shape:
    """A question and two answers, the first of them the better one."""

    def convert(row_id: str, origin: str, values: dict[str, Any]) -> Preference | Problem:
        texts = [text_in(values, column) for column in (prompt, chosen, rejected)]
        if problem := _first_problem(*texts):
            return problem
        question, good, bad = map(str, texts)
        return Preference(row_id, origin, (Message("user", question),), good, bad)

    return Shape(Preference, convert, (prompt, chosen, rejected), BY_FIELD)


def prompt_shape(prompt: str) -> Shape:
    """Prompts alone, as preferences without answers."""

    def convert(row_id: str, origin: str, values: dict[str, Any]) -> Preference | Problem:
        text = text_in(values, prompt)
        return text if isinstance(text, Problem) else Preference(row_id, origin, (Message("user", text),), "", "")

    return Shape(Preference, convert, (prompt,), BY_FIELD)


def lesson_shape(prompt: str, answer: str) -> Shape:
    """Prompts with the answer to be learned, as preferences without a rejected one."""

    def convert(row_id: str, origin: str, values: dict[str, Any]) -> Preference | Problem:
        question, text = text_in(values, prompt), text_in(values, answer)
        if problem := _first_problem(question, text):
            return problem
        return Preference(row_id, origin, (Message("user", str(question)),), str(text), "")

    return Shape(Preference, convert, (prompt, answer), BY_FIELD)


def strength_shape(prompt: str, first: str, second: str, strength: str = "") -> Shape:
    """A question and two answers, and how much the second is better than the first: below 0 the first one is.

    Without a column of the `strength` the first is the better one, by 1. An answer may be empty. A strength of 0, or of
    more than 3 (HelpSteer2 writes -100 where neither answer is valid), names no better answer: such rows may be left
    out as missing ones.
    """

    def convert(row_id: str, origin: str, values: dict[str, Any]) -> Preference | Problem:
        question, texts = text_in(values, prompt), [_answer_in(values, column) for column in (first, second)]
        size = _number_in(values, strength) if strength else -1.0
        if problem := _first_problem(question, *texts, size):
            return problem
        number = float(size)  # type: ignore[arg-type]
        if number == 0 or abs(number) > MOST_STRENGTH:
            what = f"column {strength!r} names no better answer"
            return Problem(what, "Leave such rows out: --set data.missing=drop", missing=True, detail=f"{number:g}")
        chosen, rejected = texts if number < 0 else texts[::-1]
        return Preference(row_id, origin, (Message("user", str(question)),), str(chosen), str(rejected), abs(number))

    columns = (prompt, first, second, *([strength] if strength else []))
    return Shape(Preference, convert, columns, BY_FIELD)


def rated_shape(prompt: str, answer: str, attributes: Sequence[str]) -> Shape:
    """A question, an answer and its ratings from 0 to 4; -100 and an empty cell are unknown."""

    def convert(row_id: str, origin: str, values: dict[str, Any]) -> Rated | Problem:
        found = {name: _rating_in(values, name) for name in attributes if not is_missing(values.get(name))}
        question, text = text_in(values, prompt), _answer_in(values, answer)
        if problem := _first_problem(question, text, *found.values()):
            return problem
        ratings = {name: float(value) for name, value in found.items() if value != UNKNOWN}  # type: ignore[arg-type]
        if not ratings:
            return Problem("no attribute is rated", "Leave such rows out: --set data.missing=drop", missing=True)
        return Rated(row_id, origin, (Message("user", str(question)),), str(text), ratings)

    return Shape(Rated, convert, (prompt, answer, *attributes[:1]), BY_FIELD)


def _answer_in(values: dict[str, Any], column: str) -> str | Problem:
    """The answer in the column; an empty one is an answer too, and a model that gives it deserves its rank."""
    text = values.get(column)
    if text is None or isinstance(text, bool | int | float):
        return "" if text is None else str(text)  # yes and no are read as booleans by some writers of JSON
    if not isinstance(text, str):
        return Problem(f"column {column!r} holds {kind_of(text)}, not text", "Write it as text.")
    return _wrong_characters(text, column) or text


def _rating_in(values: dict[str, Any], column: str) -> float | Problem:
    number = _number_in(values, column)
    if isinstance(number, Problem) or number == UNKNOWN or 0 <= number <= MOST_RATING:
        return number
    what = f"column {column!r} is no rating from 0 to {MOST_RATING}"
    return Problem(what, f"Scale the ratings; {UNKNOWN} means unknown.", detail=f"{number:g}")


def pair_shape(instruction: str, outputs: tuple[str, str] | tuple[()] = ()) -> Shape:
    """An instruction and two outputs of which nobody said which is better; without `outputs` both are empty."""

    def convert(row_id: str, origin: str, values: dict[str, Any]) -> Pair | Problem:
        texts = [text_in(values, column) for column in (instruction, *outputs)]
        if problem := _first_problem(*texts):
            return problem
        asked, first, second = [*map(str, texts), *([] if outputs else ["", ""])]
        return Pair(row_id, origin, asked, first, second)

    return Shape(Pair, convert, (instruction, *outputs), BY_FIELD)


def reasoned_shape(question: str, answer: str, reasoning: str) -> Shape:
    """A question, its answer, which may be a word or a number, and the reasoning between them."""

    def convert(row_id: str, origin: str, values: dict[str, Any]) -> Reasoned | Problem:
        found = text_in(values, question), _label_in(values, answer), text_in(values, reasoning)
        if problem := _first_problem(*found):
            return problem
        return Reasoned(row_id, origin, *map(str, found))

    return Shape(Reasoned, convert, (question, answer, reasoning), BY_FIELD)


def contest_shape(question: str, first: str, second: str, annotators: Sequence[str]) -> Shape:
    """A question, two answers, and what each annotator said: A, B or C (tie), or other `VERDICT_WORDS`.

    Question and answers may be lists with a text for each turn. Answers that are true, false or numbers are taken as
    these words, and may be empty. A row needs one annotator's verdict.
    """

    def convert(row_id: str, origin: str, values: dict[str, Any]) -> Contest | Problem:
        turns: list[Any] = [
            _turns_in(values, name, may_be_empty=name != question) for name in (question, first, second)
        ]
        told = [name for name in annotators if not is_missing(values.get(name))]
        verdicts = {name: verdict_in(values, name) for name in told}
        if problem := _first_problem(*turns, *verdicts.values()):
            return problem
        if len(set(map(len, turns))) > 1:
            return Problem("question and answers have different numbers of turns", "Give each turn a text in each.")
        if not verdicts:
            return Problem(f"no verdict in {', '.join(annotators)}", FILL_IN, missing=True)
        return Contest(row_id, origin, *turns, verdicts)  # type: ignore[arg-type]

    return Shape(
        Contest, convert, (question, first, second, *annotators), "--question, --first, --second and --annotators"
    )


def verdict_in(values: Mapping[str, Any], column: str) -> str | Problem:
    """ "first", "second" or "tie" from a cell, or what is wrong with it."""
    value = values.get(column)
    found = None if isinstance(value, bool) else VERDICT_WORDS.get(str(value).strip("[] \n").lower().removesuffix(".0"))
    if found is None:
        what = f"column {column!r} holds none of A, B and C"
        return Problem(what, "Write A, B or C (tie); or 1, 2 and 0; or first, second and tie.", detail=f"{value!s:.20}")
    return found


def _turns_in(values: dict[str, Any], column: str, *, may_be_empty: bool = False) -> tuple[str, ...] | Problem:
    """The texts of the turns: one where the cell is no list."""
    cell = values.get(column)
    turns = cell if isinstance(cell, list | tuple) else [cell]
    texts: list[str] = []
    for turn in turns or [None]:
        is_word = isinstance(turn, bool | int | float) and not is_missing(turn)
        text = str(turn) if is_word else turn if may_be_empty and turn == "" else text_in({column: turn}, column)
        if isinstance(text, Problem):
            return text
        texts.append(str(text))
    return tuple(texts)


def critique_shape(instruction: str, given: str, answer: str, judgment: str, score: str, good: float) -> Shape:
    """An answer to an instruction, and in words what is wrong with it.

    Nothing is wrong where the cell of the `judgment` is empty, or that of the `score`, if there is one, holds `good` or
    more. What the column `given` holds stands behind the instruction, on a line of its own. An answer may be empty.
    """

    def convert(row_id: str, origin: str, values: dict[str, Any]) -> Critiqued | Problem:
        asked, text = _instruction_in(values, instruction, given), _answer_in(values, answer)
        said = "" if is_missing(values.get(judgment)) else text_in(values, judgment)
        points = 0.0 if is_missing(values.get(score)) else _number_in(values, score)
        if problem := _first_problem(asked, text, said, points):
            return problem
        rated = not is_missing(values.get(score)) and float(points) >= good  # type: ignore[arg-type]
        return Critiqued(row_id, origin, str(asked), str(text), "" if rated else str(said).strip())

    return Shape(Critiqued, convert, (instruction, answer, judgment), BY_FIELD)


def instruction_shape(instruction: str, given: str) -> Shape:
    """Instructions that nobody has answered yet; `given` as in `critique_shape`."""

    def convert(row_id: str, origin: str, values: dict[str, Any]) -> Critiqued | Problem:
        asked = _instruction_in(values, instruction, given)
        return asked if isinstance(asked, Problem) else Critiqued(row_id, origin, asked, "", "")

    return Shape(Critiqued, convert, (instruction,), BY_FIELD)


def _instruction_in(values: dict[str, Any], instruction: str, given: str) -> str | Problem:
    asked = text_in(values, instruction)
    more = "" if is_missing(values.get(given)) else text_in(values, given)
    return _first_problem(asked, more) or "\n".join(filter(None, (str(asked), str(more))))


class Problems:
    """Problems of the rows of one source, collected so that one look names them all."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.places: dict[tuple[str, str], list[str]] = defaultdict(list)

    def add(self, problem: Problem, origin: str) -> None:
        """Note that the row at `origin` has `problem`."""
        place = f"{origin} ({problem.detail})" if problem.detail else origin
        self.places[problem.what, problem.fix].append(place)

    def errors(self) -> list[UserError]:
        """One error a kind of problem, naming the first few rows."""
        return [
            UserError(f"{self.source}: {what} in {_some(places)}", fix) for (what, fix), places in self.places.items()
        ]


def labelled(row_id: str, origin: str, values: dict[str, Any], data: Data) -> Labelled | Problem:
    """The row with the text and the label in the columns that `data` names, or what is wrong with it."""
    words = text_in(values, data.text)
    if data.task == "regression":
        label = _number_in(values, data.label)
    elif data.task == "multi-label":
        label = _labels_in(values, data.label, data.separator)
    else:
        label = _label_in(values, data.label)
    problem = _first_problem(words, label)
    return problem or Labelled(row_id, origin, words, label)  # type: ignore[arg-type]


def tagged(row_id: str, origin: str, values: dict[str, Any], data: Data) -> Tagged | Problem:
    """The row with the words and their tags in the columns that `data` names, or what is wrong with it."""
    tokens, tags = tagged_columns(data)
    words, marks = words_in(values, tokens), _tags_in(values, tags)
    if problem := _first_problem(words, marks):
        return problem
    assert not isinstance(words, Problem)
    assert not isinstance(marks, Problem)
    if len(words) != len(marks):
        what = f"column {tokens!r} and column {tags!r} have different lengths"
        return Problem(what, "Each word needs exactly one tag.", detail=f"{len(words)} words, {len(marks)} tags")
    return Tagged(row_id, origin, words, marks)


def tagged_columns(data: Data) -> tuple[str, str]:
    """Names of the columns with words and with tags."""
    return data.tokens or "tokens", data.tags or "tags"


def text_in(values: dict[str, Any], column: str) -> str | Problem:
    """The text in the column, or what is wrong with it."""
    value = values.get(column)
    if is_missing(value):
        return Problem(f"no text in column {column!r}", FILL_IN, missing=True)
    if not isinstance(value, str):
        return Problem(
            f"column {column!r} holds {kind_of(value)}, not text", "Write it as text, or name another column."
        )
    return _wrong_characters(value, column) or value


def words_in(values: dict[str, Any], column: str) -> tuple[str, ...] | Problem:
    """The words in the column: a list as it is, a string (a csv cell) split at spaces; or what is wrong with them."""
    words = _list_in(values, column, "words")
    if isinstance(words, Problem):
        return words
    for word in words:
        if not isinstance(word, str):
            return Problem(f"column {column!r} holds {kind_of(word)} where a word should be")
        if not word.strip():
            return Problem(f"column {column!r} holds an empty word", "Remove it together with its tag.")
    return _wrong_characters(" ".join(words), column) or tuple(words)


def is_missing(value: Any) -> bool:
    """None, NaN, nothing but spaces, or an empty list."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    if isinstance(value, str):
        return not value.strip() or value.strip().lower() == "nan"
    return isinstance(value, list | tuple) and not value


def find_disorder(table: Sequence[Mapping[str, Any]], columns: Sequence[str] = ORDERS) -> str:
    """The column that numbers the rows from 0 or 1 on, each once, in another order than theirs; "" where none does."""
    for column in columns:
        told = [str(values.get(column)).strip().removesuffix(".0") for values in table]
        if not all(text.isdecimal() for text in told):
            continue
        numbers = [int(text) for text in told]
        least = min(numbers, default=0)
        ordered = list(range(least, least + len(numbers)))
        if least < 2 and numbers != ordered and sorted(numbers) == ordered:
            return column
    return ""


def missing_columns(source: str, wanted: Sequence[str], found: Iterable[str], options: str) -> list[UserError]:
    """One error for each wanted column that the source does not have; `options` name columns on the command line."""
    names = [str(name) for name in found]
    errors = []
    for column in (column for column in wanted if column not in names):
        near = difflib.get_close_matches(column, names, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        separator = next((mark for mark in ";\t|" if len(names) == 1 and mark in names[0]), None)
        if separator:
            hint = f"Its fields seem to be separated by {separator!r}: use commas, or tabs and the suffix .tsv. "
        what = f"{source} has no column {column!r}; it has: {', '.join(names)}"
        errors.append(UserError(what, f"{hint}Name the columns with {options}."))
    return errors


def _label_in(values: dict[str, Any], column: str) -> str | Problem:
    value = values.get(column)
    if is_missing(value):
        return Problem(f"no label in column {column!r}", FILL_IN, missing=True)
    if not isinstance(value, str | int | bool):
        kind = "a number with a decimal point" if isinstance(value, float) else kind_of(value)
        return Problem(f"column {column!r} holds {kind}, not a class", "Classes are words or whole numbers.")
    return _wrong_characters(str(value), column) or str(value).strip()


def _flag_in(values: dict[str, Any], column: str) -> bool | Problem:
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    found = known.get(str(values[column]).strip().lower().removesuffix(".0"))
    if found is None:
        return Problem(f"column {column!r} holds neither 1 nor 0", "Write 1, 0, or nothing where nobody knows.")
    return found


def _labels_in(values: dict[str, Any], column: str, separator: str) -> tuple[str, ...] | Problem:
    """Any number of classes: a list, its JSON in a cell, or names between separators. [] says that none holds."""
    value = values.get(column)
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return Problem(f"column {column!r} holds a list that is not JSON", 'Write it as ["one", "two"].')
    if not isinstance(value, list | tuple):
        if is_missing(value):
            fix = "Write [] where no class holds, or leave such rows out with --set data.missing=drop."
            return Problem(f"no labels in column {column!r}", fix, missing=True)
        value = str(value).split(separator)
    for name in value:
        if not isinstance(name, str | int) or not str(name).strip():
            return Problem(
                f"column {column!r} holds {kind_of(name) if name != '' else 'nothing'} where a class should be"
            )
    names = sorted({str(name).strip() for name in value})
    return _wrong_characters(" ".join(names), column) or tuple(names)


def _number_in(values: dict[str, Any], column: str) -> float | Problem:
    value = values.get(column)
    if is_missing(value):
        return Problem(f"no number in column {column!r}", FILL_IN, missing=True)
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        shown = f"{value[:40]!r}" if isinstance(value, str) else kind_of(value)
        return Problem(f"column {column!r} holds {shown}, not a number", "Write numbers as 3, -0.5 or 1e3.")
    return number


def _tags_in(values: dict[str, Any], column: str) -> tuple[str, ...] | Problem:
    tags = _list_in(values, column, "tags")
    if isinstance(tags, Problem):
        return tags
    for tag in tags:
        if not isinstance(tag, str | int) or not str(tag).strip():
            return Problem(f"column {column!r} holds {kind_of(tag) if tag != '' else 'nothing'} where a tag should be")
    return tuple(str(tag).strip() for tag in tags)


def _list_in(values: dict[str, Any], column: str, what: str) -> Sequence[Any] | Problem:
    """A list as it is, a string (a csv cell) split at spaces."""
    value = values.get(column)
    if is_missing(value):
        return Problem(f"no {what} in column {column!r}", FILL_IN, missing=True)
    found = value.split() if isinstance(value, str) else value
    if not isinstance(found, list | tuple):
        return Problem(f"column {column!r} holds {kind_of(value)}, not a list of {what}")
    return found


def _first_problem(*found: Any) -> Problem | None:
    return next((value for value in found if isinstance(value, Problem)), None)


def _wrong_characters(text: str, column: str) -> Problem | None:
    if len(text) > LONGEST_TEXT:
        fix = "Look for an unclosed quote or a wrong column; split real documents into passages first."
        return Problem(f"column {column!r} holds more than {LONGEST_TEXT:,} characters", fix, detail=f"{len(text):,}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        what = f"column {column!r} holds half of a character (a lone surrogate, as in \\ud83d)"
        return Problem(what, "The text was cut in the middle of an emoji or the like: remove the half.")
    return None


def _some(places: Sequence[str]) -> str:
    more = f" and {len(places) - EXAMPLES} more" if len(places) > EXAMPLES else ""
    return f"{len(places)} row{'s' if len(places) > 1 else ''}: {', '.join(places[:EXAMPLES])}{more}"
