"""Outputs of two systems side by side, and files in which a judge compared them already.

An annotation file is a list of objects (.json) or one object a line (.jsonl), of one model against one baseline, with
a `preference` from 1 (the baseline is better) to 2 (the model is), 0 for a tie as it was written once, null where the
judge gave none; and either `output_1` (the baseline's) and `output_2`, or `length_baseline` and `length_model` in
characters. `index`, `generator_1`, `generator_2` and `annotator` are read where they are there, other columns not.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from camelid.data.columns import ORDERS, Problem, Problems, find_disorder, is_missing, text_in
from camelid.data.formats import kind_of, read_records
from camelid.errors import UserError, raise_all
from camelid.metrics import Floats
from camelid.rows import Compared, Pair
from camelid.runs import slug

LENGTHS, OUTPUTS = ("length_baseline", "length_model"), ("output_1", "output_2")
NAMES = {"baseline": ("generator_1", "baseline"), "model": ("generator_2", "model")}
WANTED = "preference with length_baseline and length_model, or preference with output_1 and output_2"
TIE = 1.5
SHOWN = 5  # indices that a message names
SORT = "Sort them: instructions go by place."
CORRECT = "Correct these rows, or remove them."


def read_pairs(source: Path, against: Path, instruction: str, output: str, *, keep_empty: bool = False) -> list[Pair]:
    """Rows of `source` beside those of `against` with the same instruction; `first` is the output in `against`.

    Instructions that stand several times are matched by their order. Raises UserError when the files do not have the
    same instructions, and for empty outputs unless they are kept: all of one side may never be empty.
    """
    sides, problems = [], []
    for path in (source, against):
        try:
            sides.append(_read_outputs(path, instruction, output, keep_empty))
        except UserError as error:
            problems.append(error)
    raise_all(problems)
    ours, theirs = sides
    for path, side, other in ((against, theirs, ours), (source, ours, theirs)):
        if missing := [key for key in other if key not in side]:
            what = f"{path} lacks {len(missing)} of the {len(other)} instructions of the other file"
            fix = f"Both files need the same ones. The first is: {missing[0][0][:80]!r}"
            raise UserError(what, fix)
    return [
        Pair(str(number), origin, key[0], theirs[key][1], text)
        for number, (key, (origin, text)) in enumerate(ours.items())
    ]


def _read_outputs(path: Path, instruction: str, output: str, keep_empty: bool) -> dict[tuple[str, int], Any]:
    """(origin, output) by instruction and how often that came before."""
    problems, found, seen, columns = Problems(str(path)), {}, Counter[str](), {}
    for origin, values in read_records(path):
        columns |= dict.fromkeys(values)
        asked, text = text_in(values, instruction), values.get(output)
        if isinstance(asked, Problem):
            problems.add(Problem(asked.what, CORRECT), origin)
        elif not isinstance(text, str):
            problems.add(Problem(f"column {output!r} holds {kind_of(text)}, not text"), origin)
        elif not text.strip() and not keep_empty:
            fix = "A model that says nothing is mostly a fault of its run. --empty keep judges them as they are."
            problems.add(Problem(f"column {output!r} is empty", fix), origin)
        else:
            found[asked, seen[asked]] = origin, text
            seen[asked] += 1
    if lacking := [name for name in (instruction, output) if name not in columns]:
        what = f"{path} has no column {lacking[0]!r}; it has: {', '.join(map(str, columns))}"
        raise UserError(what, "Name the columns with --instruction and --output.")
    raise_all(problems.errors())
    if not any(text.strip() for _, text in found.values()):
        raise UserError(f"all outputs of {path} are empty", "There is nothing to compare: make them again.")
    return found


def find_annotations(source: str, companions: Collection[str] = ()) -> tuple[Path, list[Path]]:
    """The folder, and the annotation files in it: .json and .jsonl but for `companions`, or any annotations.json below.

    `source` may be a file too, or a folder of CAMELID_DATA. Raises UserError where there is none.
    """
    place, root = Path(source), os.environ.get("CAMELID_DATA")
    if root and not place.exists() and (Path(root) / source).exists():
        place = Path(root) / source
    if place.is_file():
        return place.parent, [place]
    if not place.is_dir():
        known = f"nor is it in {root}" if root else "and CAMELID_DATA, where it could be, is not set"
        what = f"there is no folder {source} of annotations, {known}"
        raise UserError(what, "Give --annotations FOLDER, or outputs to judge: --data model.jsonl --against base.jsonl")
    files = sorted(path for path in place.iterdir() if path.suffix in (".json", ".jsonl"))
    files = [path for path in files if path.name not in companions] or sorted(place.rglob("annotations.json"))
    if not files:
        raise UserError(f"{place} holds no annotation file (.json, .jsonl)", f"Each has {WANTED}.")
    return place, files


def read_annotations(files: Sequence[Path], baseline: str) -> dict[str, list[Compared]]:
    """The rows of each file by the model's name: that in the file, else the file's; `baseline` where it names none.

    Raises UserError with every problem of every file; for two files of one model; and where judge, baseline or number
    of rows differ between files, because such win rates cannot stand in one list.
    """
    found: dict[str, list[Compared]] = {}
    problems = []
    for path in files:
        try:
            rows = _read_annotations(path, baseline)
            if rows[0].model in found:
                other = found[rows[0].model][0].origin
                problems.append(UserError(f"{path} is of {rows[0].model}, as is {other}", "Leave one of them out."))
            found[rows[0].model] = rows
        except UserError as error:
            problems.append(error)
    raise_all(problems)
    _check_alike(found)
    if len({slug(name) for name in found}) < len(found):
        raise UserError(f"two of these names differ in signs only: {', '.join(found)}", "Rename one of the models.")
    return found


def read_wins(rows: Sequence[Compared]) -> Floats:
    """How surely the model's output is better, from 0 to 1, of each row; NaN where there is no preference."""
    preference_N = np.array([math.nan if row.preference is None else row.preference for row in rows])
    return np.where(preference_N == 0, TIE, preference_N) - 1


def read_lengths(rows: Sequence[Compared]) -> Floats:
    """Characters of the baseline's output minus those of the model's: below 0 where the model writes more."""
    return np.array([row.length_baseline - row.length_model for row in rows], dtype=float)


def is_baseline(rows: Sequence[Compared]) -> bool:
    """Whether the model is the baseline itself."""
    return rows[0].model == rows[0].baseline


def check_count(source: str, usable: int, least: int) -> None:
    """Raise UserError for too few pairs."""
    if usable < least:
        what = f"{source} has {usable} pairs with a preference, and length control needs {least}"
        fix = "With fewer, the weight of length is a guess, and the rate that it corrects too. Judge more instructions."
        raise UserError(what, fix)


def check_rows(found: Mapping[str, Sequence[Compared]], least: int) -> None:
    """Raise UserError for each model of which nothing can be told: too few preferences, all equal, or one length."""
    problems = []
    for name, rows in found.items():
        try:
            _check_model(name, rows, least)
        except UserError as error:
            problems.append(error)
    raise_all(problems)


def _check_model(name: str, rows: Sequence[Compared], least: int) -> None:
    wins_N = read_wins(rows)
    wins_N = wins_N[~np.isnan(wins_N)]
    check_count(name, len(wins_N), least)
    if is_baseline(rows):
        return
    if np.ptp(wins_N) == 0:
        said = {0.0: ", for the baseline", 0.5: ", a tie", 1.0: ", for the model"}
        value = float(wins_N[0])
        what = f"{name}: all {len(wins_N)} preferences are {value + 1:g}{said.get(value, '')}"
        raise UserError(what, "Nothing can be told from a judge that always says the same: look at its replies.")
    if np.ptp(read_lengths(rows)) == 0:
        what = f"{name}: all outputs differ from the baseline's by the same number of characters"
        raise UserError(what, "Length and quality cannot be told apart then: look at the lengths.")


def describe_sameness(rows: Sequence[Compared]) -> list[str]:
    """Words for outputs that hardly depend on the instruction: more than half of one text or length, and empty ones."""
    digests, lengths = (Counter(getattr(row, name) for row in rows) for name in ("digest", "length_model"))
    (text, same), (length, equal) = digests.most_common(1)[0], lengths.most_common(1)[0]
    is_one = bool(text) and 2 * same > len(rows)
    told = {
        f"{same} outputs are the same text": is_one,
        f"{equal} outputs have the same length, {length}": not is_one and 2 * equal > len(rows),
        f"{lengths[0]} outputs are empty": lengths[0] > 0,
    }
    return [words for words, holds in told.items() if holds]


def count_missing(found: Mapping[str, Sequence[Compared]]) -> dict[str, int]:
    """Rows without a preference, of those models that have some."""
    counts = {name: sum(row.preference is None for row in rows) for name, rows in found.items()}
    return {name: count for name, count in counts.items() if count}


def warn_of(found: Mapping[str, Sequence[Compared]], lengths: Sequence[Any] = ()) -> list[str]:
    """What may be wrong and cannot be known. `lengths` are those of the baseline's outputs, where they are known."""
    warnings = []
    silent = [name for name, rows in found.items() if not rows[0].annotator]
    if 0 < len(silent) < len(found):
        warnings.append(f"the judge is not told for {', '.join(silent)}: was it the same?")
    if len({tuple(row.length_baseline for row in rows) for rows in found.values()}) > 1:
        warnings.append("the baseline's outputs are not equally long in all files: are all of the same baseline?")
    other = [name for name, rows in found.items() if [row.length_baseline for row in rows] != list(lengths)]
    if other and len(lengths):
        text = "the baseline's outputs have other lengths than those to which the difficulty belongs"
        warnings.append(f"{text}: {', '.join(other)}")
    return warnings


def _read_annotations(path: Path, baseline: str) -> list[Compared]:
    problems, rows, indices, columns, marks = Problems(str(path)), [], [], {}, []
    for number, (origin, values) in enumerate(read_records(path)):
        columns |= dict.fromkeys(values)
        row = _convert(number, origin, values, path.stem, baseline)
        indices.append(values.get("index"))
        marks.append({name: values.get(name) for name in ORDERS})
        problems.add(row, origin) if isinstance(row, Problem) else rows.append(row)
    if "preference" not in columns or not any(set(pair) <= set(columns) for pair in (LENGTHS, OUTPUTS)):
        raise UserError(f"{path} has the columns {', '.join(map(str, columns))}", f"An annotation file has {WANTED}.")
    raise_all(problems.errors())
    if not rows:
        raise UserError(f"{path} has no rows", f"An annotation file has {WANTED}.")
    _check_order(path, indices)
    if column := find_disorder(marks):
        raise UserError(f"{path}: the rows are not in the order of their {column}", SORT)
    for name, kind in (("model", "generator_2"), ("baseline", "generator_1"), ("annotator", "annotator")):
        if len(several := sorted({getattr(row, name) for row in rows})) > 1:
            what = f"{path} has several values of {kind}: {', '.join(several)}"
            raise UserError(what, "One file is of one model, one baseline and one judge: split it.")
    return rows


def _convert(number: int, origin: str, values: Mapping[str, Any], stem: str, baseline: str) -> Compared | Problem:
    preference = _preference_in(values)
    sizes = [_length_in(values, *columns) for columns in zip(LENGTHS, OUTPUTS, strict=True)]
    for found in (preference, *sizes):
        if isinstance(found, Problem):
            return found
    said = {name: _name_in(values, columns) for name, columns in NAMES.items()}
    text = values.get(OUTPUTS[1])
    return Compared(
        str(number), origin, number, preference, *sizes,  # type: ignore[arg-type]
        model=said["model"] or stem,
        baseline=said["baseline"] or baseline,
        annotator=_name_in(values, ("annotator",)),
        digest=digest_text(text) if isinstance(text, str) else _name_in(values, ("digest",)),
    )  # fmt: skip


def digest_text(text: str) -> str:
    """A short hash that tells texts apart."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _preference_in(values: Mapping[str, Any]) -> float | Problem | None:
    value = values.get("preference")
    if is_missing(value):
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return Problem(f"preference is {kind_of(value)}, not a number", "Write 1 to 2, 0 for a tie, or null.")
    if not math.isfinite(value) or not (value == 0 or 1 <= value <= 2):
        fix = "1 says that the baseline is better, 2 that the model is, 1.5 (or 0) that neither; null is no answer."
        return Problem("preference is no number from 1 to 2", fix, detail=f"{value:g}")
    return float(value)


def _length_in(values: Mapping[str, Any], length: str, output: str) -> int | Problem:
    """Characters of the text where there is one, else the length that is told; 0 is one."""
    text, value = values.get(output), values.get(length)
    if isinstance(text, str):
        return len(text)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return Problem(f"{length} is {kind_of(value)}, not a number of characters", "Count the characters again.")
    if value < 0 or value != int(value):
        return Problem(f"{length} is no number of characters", "Count the characters again.", detail=f"{value:g}")
    return int(value)


def _name_in(values: Mapping[str, Any], columns: Sequence[str]) -> str:
    return next((str(values[column]) for column in columns if not is_missing(values.get(column))), "")


def _check_order(path: Path, indices: Sequence[Any]) -> None:
    """Whether rows are in the order of their index and none is missing: instructions are known by their place."""
    if all(index is None for index in indices) or list(indices) == list(range(len(indices))):
        return
    if not all(isinstance(index, int) and index >= 0 for index in indices):
        raise UserError(f"{path}: an index is no whole number", "Give every row one, from 0 on, or none at all.")
    if twice := [index for index, count in Counter(indices).items() if count > 1]:
        raise UserError(f"{path}: index {twice[0]} stands in {indices.count(twice[0])} rows", "Keep one of them.")
    missing = sorted(set(range(max(indices) + 1)) - set(indices))
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        what = f"{path}: rows are missing, those with index {', '.join(map(str, missing[:SHOWN]))}{more}"
        raise UserError(what, "Put them in; a null preference is left out of the fit and kept in the prediction.")
    raise UserError(f"{path}: the rows are not in the order of their index", SORT)


def _check_alike(found: Mapping[str, Sequence[Compared]]) -> None:
    """Whether all files can stand in one list."""
    facts = {
        "judge": ({name: rows[0].annotator for name, rows in found.items()}, "Scores of two judges do not compare"),
        "baseline": ({name: rows[0].baseline for name, rows in found.items()}, "Each rate is one against a baseline"),
        "number of rows": ({name: str(len(rows)) for name, rows in found.items()}, "All need the same instructions"),
    }
    problems = []
    for fact, (values, reason) in facts.items():
        known: dict[str, str] = {}
        for name, value in values.items():
            known.setdefault(value, name)
        known.pop("", None)
        if len(known) > 1:
            told = "; ".join(f"{value} ({name})" for value, name in known.items())
            problems.append(UserError(f"the files differ in {fact}: {told}", f"{reason}: score them in separate runs."))
    raise_all(problems)
