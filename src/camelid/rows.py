"""Row types, and how they are written to and read from JSON lines.

Every row has an `id`, unique within its split, and an `origin`: where it was read, in words a user can follow
("tweets.csv line 17"). A row type appears here when the first method needs it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Label = str | tuple[str, ...] | float
# why a request may fail and be well another time; the others of `engines.PROBLEMS` come back
PASSING = frozenset(("unreachable", "timeout", "rate limit", "server error", "malformed"))


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text and what people said of it: a class, any number of classes (sorted), or a number."""

    id: str
    origin: str
    text: str
    label: Label


@dataclass(frozen=True, slots=True)
class Tagged:
    """Words of a sentence and one tag for each, BIO-style for entities ("B-person", "I-person", "O")."""

    id: str
    origin: str
    tokens: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a system says of a row: `gold` is None where nobody knows; probabilities are by class.

    They sum to 1 where a row has one class, and stand each for itself where it has any number of them. For tagged rows
    `gold` and `predicted` are one tag a word; for them and for numbers `probabilities` is empty.
    """

    id: str
    gold: Label | None
    predicted: Label
    probabilities: dict[str, float]


@dataclass(frozen=True, slots=True)
class Explained(Predicted):
    """A prediction that was written as text: the reasoning before the label, and the whole reply it was read from.

    `outcome` is how reading went: value, malformed, truncated or failed, or how the label came about otherwise.
    """

    reasoning: str
    reply: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


Prompt = str | tuple[Message, ...]  # raw text as it is, or messages that the model's chat template lays out


@dataclass(frozen=True, slots=True)
class Judged:
    """What an annotator said of a row: the value that was read from its reply, and how reading went.

    `outcome` is value, refused, malformed, truncated or failed; `value` is None unless it is "value". `reply` is the
    raw text that was read (the last one where a repair was asked for), `repairs` how often one was. `shares` holds a
    probability or share of votes by value where there is one. `problem` is why a request failed, in a word of
    `engines.PROBLEMS`.
    """

    id: str
    origin: str
    outcome: str
    value: Any
    reply: str
    repairs: int = 0
    shares: dict[str, float] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Annotated:
    """A text with labels of several kinds (topic, sentiment, ...), and the group it comes from, such as its speaker."""

    id: str
    origin: str
    text: str
    labels: dict[str, str]
    group: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of a label task about a text; any of `answers` is right: codes of the task's choices, or numbers.

    `group` names the document where the text does not. `offered` are the codes to choose among, all when empty.
    """

    id: str
    origin: str
    task: str
    text: str
    answers: tuple[str, ...]
    group: str = ""
    offered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Flagged:
    """A conversation and which categories of a policy it violates; a category that is absent is unknown."""

    id: str
    origin: str
    messages: tuple[Message, ...]
    flags: dict[str, bool]


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one conversation, of which the first was preferred. `prompt` ends with a user's turn.

    `strength` says how much better it is, on a scale that begins at 1 (slightly); 1 where nobody said.
    """

    id: str
    origin: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class Rated:
    """An answer to a conversation and its ratings by attribute; one that is absent is unknown."""

    id: str
    origin: str
    prompt: tuple[Message, ...]
    answer: str
    ratings: dict[str, float]


@dataclass(frozen=True, slots=True)
class Guided(Preference):
    """A preference that holds under a guide: the texts of the principles by which the first answer is better.

    `decided` names the principle or the rule that settled it, and `flipped` says that it was turned round as noise.
    """

    guide: tuple[str, ...] = ()
    decided: str = ""
    flipped: bool = False


@dataclass(frozen=True, slots=True)
class Graded(Preference):
    """A preference with the score that a judge gave each answer, and where the three texts come from.

    `source` names by what the prompt, the chosen and the rejected answer were made, and which step of it.
    """

    score_chosen: float = 0.0
    score_rejected: float = 0.0
    source: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Member:
    """A text or numbers, the bag it is in ("" for none), and whether it is positive, where somebody knows."""

    id: str
    origin: str
    text: str
    numbers: tuple[float, ...]
    bag: str
    positive: bool | None


@dataclass(frozen=True, slots=True)
class Bag:
    """A group of rows of which only the number of positive ones is known; `members` are their ids."""

    id: str
    origin: str
    members: tuple[str, ...]
    positives: int


@dataclass(frozen=True, slots=True)
class Pair:
    """An instruction and the outputs of two systems, of which nobody has said yet which is better."""

    id: str
    origin: str
    instruction: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Contest:
    """A conversation that two systems answered turn by turn, and which answers each annotator found better.

    `questions`, `first` and `second` have a text for each turn, mostly one. `verdicts` holds "first", "second" or "tie"
    by annotator, and is empty where nobody has judged yet.
    """

    id: str
    origin: str
    questions: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]
    verdicts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Compared:
    """What a judge made of a model's output beside the baseline's, without the texts.

    `preference` goes from 1 (the baseline's is surely better) to 2 (the model's is), None where the judge gave none.
    Lengths are in characters. `digest` tells outputs of the model apart, "" where only lengths are known.
    """

    id: str
    origin: str
    index: int
    preference: float | None
    length_baseline: int
    length_model: int
    model: str
    baseline: str
    annotator: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Reasoned:
    """A question, its answer, and the reasoning that leads from one to the other ("" where there is none)."""

    id: str
    origin: str
    question: str
    answer: str
    reasoning: str


@dataclass(frozen=True, slots=True)
class Critiqued:
    """An answer to an instruction, and in words what is wrong with it; `judgment` is empty where nothing is.

    `fault` is where the fault begins and ends in the answer, in characters; empty where nobody said.
    """

    id: str
    origin: str
    instruction: str
    answer: str
    judgment: str
    fault: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Marked:
    """A text in pieces that follow each other, which of them are marked, and what was said of the text."""

    id: str
    origin: str
    pieces: tuple[str, ...]
    marks: tuple[bool, ...]
    said: str


Row = (
    Labelled | Tagged | Predicted | Judged | Annotated | Asked | Flagged | Preference | Guided | Graded | Rated
    | Member | Bag | Pair | Compared | Contest | Reasoned | Critiqued | Marked
)  # fmt: skip
_KINDS = (
    Labelled, Tagged, Predicted, Explained, Judged, Annotated, Asked, Flagged, Preference, Guided, Graded, Rated,
    Member, Bag, Pair, Compared, Contest, Reasoned, Critiqued, Marked,
)  # fmt: skip
_TYPES = {kind.__name__: kind for kind in _KINDS}


def to_json(row: Row) -> str:
    """One line of JSON, with the row's type under "row"."""
    return json.dumps({"row": type(row).__name__, **dataclasses.asdict(row)}, ensure_ascii=False)


def from_json(line: str) -> Row:
    """The row that `to_json` wrote; equal to it in every field."""
    values: dict[str, Any] = json.loads(line)
    kind: Any = _TYPES[values.pop("row")]
    return kind(**{name: _frozen(value) for name, value in values.items()})


def _frozen(value: Any) -> Any:
    """JSON's lists as tuples, and the turns of a conversation among them as messages."""
    if not isinstance(value, list):
        return value
    return tuple(
        Message(**item) if isinstance(item, dict) and set(item) == {"role", "content"} else item for item in value
    )


def write_rows(path: Path, rows: Iterable[Row]) -> int:
    """Write rows as JSON lines; returns how many."""
    count = 0
    with path.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(to_json(row) + "\n")
            count += 1
    return count


def iterate_rows(path: Path) -> Iterator[Row]:
    """Rows of a JSON-lines file written by `write_rows`, one at a time."""
    # newline="\n": splitlines() would also break at U+0085 and U+2028, which tweets are full of
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield from_json(line)
