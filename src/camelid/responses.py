"""Files of responses that a model gave to many tasks, scored again.

A folder holds one <task>.json for each task: a list of records with `ground_truth` (a label, or a list of which any is
right), `model_response` and, of models whose labels were scored, `logprobs` by label; `id` and the length of the prompt
are not looked at. That is the format in which the responses of Lawma were released (Dominguez-Olmedo 2024, arXiv
2407.16615).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from camelid.errors import UserError, raise_all

Responses = dict[str, list[dict[str, Any]]]  # records by task
UNREAD = ""  # what a reply without an integer is read as


def read_responses(folder: Path) -> Responses:
    """The records of each task in a folder. Raises UserError with every file that is none."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder} holds no response files (<task>.json)", "Name the folder of one model's responses.")
    found, problems = {}, []
    for path in files:
        try:
            found[path.stem] = _records(path)
        except UserError as error:
            problems.append(error)
    raise_all(problems)
    return found


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}", "Fetch it again.") from error
    needed = {"ground_truth", "model_response"}
    if not isinstance(records, list) or not records or not all(_is_record(one, needed) for one in records):
        what = f"{path} is no list of records with ground_truth and model_response"
        raise UserError(what, "Each task has a file of its own, with one record a row.")
    return records


def _is_record(one: Any, needed: set[str]) -> bool:
    return isinstance(one, dict) and needed <= set(one) and one["ground_truth"] != []


def rescore(responses: Mapping[str, Sequence[Mapping[str, Any]]], pooled: Sequence[str] = ()) -> dict[str, Any]:
    """Accuracy of "all" tasks, and of those of each family (what stands before the first _ of their names).

    Each is {mean_task_accuracy, mean_case_accuracy, entries}. With `pooled` prefixes there is a second block, in which
    the rows of all tasks that begin so are one more task: they count twice, as in the headline of Lawma.
    """
    right = {task: [is_right(record, records[0]) for record in records] for task, records in responses.items()}
    together = {prefix: [one for task in right if task.startswith(prefix) for one in right[task]] for prefix in pooled}
    if lost := [prefix for prefix, rows in together.items() if not rows]:
        raise UserError(f"no task begins with {lost[0]!r}", f"The tasks are: {', '.join(sorted(right))}.")
    found = {"tasks": _by_family(right)}
    return found | ({"tasks and pooled": _by_family(right | together)} if together else {})


def _by_family(right: Mapping[str, Sequence[bool]]) -> dict[str, dict[str, float]]:
    families: dict[str, list[Sequence[bool]]] = {"all": list(right.values())}
    for task in sorted(right):
        families.setdefault(task.partition("_")[0], []).append(right[task])
    return {
        family: {
            "mean_task_accuracy": fmean(map(fmean, tasks)),
            "mean_case_accuracy": fmean(one for rows in tasks for one in rows),
            "entries": len(tasks),
        }
        for family, tasks in families.items()
    }


def is_right(record: Mapping[str, Any], first: Mapping[str, Any]) -> bool:
    """Whether the response is the right label, or one of them. `first` record of the task says what is asked for.

    Where the right answer is a number, the first integer of the response counts; where labels were not scored, its
    first capital letter; otherwise all of it but spaces around it.
    """
    golds, said = _golds(record), str(record["model_response"] or "")
    if re.fullmatch(r"-?\d+", _golds(first)[0]):
        return read_integer(said) in map(read_integer, golds)
    if not first.get("logprobs"):
        said = next((letter for letter in said if letter.isupper()), "")
    return said.strip() in golds


def _golds(record: Mapping[str, Any]) -> list[str]:
    truth = record["ground_truth"]
    return [str(one).strip() for one in (truth if isinstance(truth, list) else [truth])]


def read_integer(text: str) -> str:
    """The first integer in a reply, commas removed and without leading zeros; UNREAD where there is none."""
    found = re.search(r"-?\d+", text.replace(",", ""))
    return str(int(found[0])) if found else UNREAD
