"""What a reply says: a value, or why there is none.

A parser takes the reply's text and returns a `Parsed` that is either a value or malformed; the functions here make such
parsers, and a method may pass its own. `read_reply` adds what the text alone does not show: that the completion failed
or was cut off. Nothing is guessed: a reply that can be read in two ways has no value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from camelid.codebook import are_numbers
from camelid.engines import Completion

Outcome = Literal["value", "refused", "malformed", "truncated", "failed"]


@dataclass(frozen=True, slots=True)
class Parsed:
    """How reading a reply went: the value where the outcome is "value", otherwise in `detail` what was wrong."""

    outcome: Outcome
    value: Any = None
    detail: str = ""


Parser = Callable[[str], Parsed]

OPENING = 400  # characters in which a reply that declines says so
# a minus sign behind a letter or digit is a hyphen ("Topic-2") or a range ("1-5"); a point in an ellipsis is none
_NUMBER = re.compile(r"(?P<minus>(?<!\w)[-−])?(?P<size>(?:\d+(?:\.\d+)?|(?<![\w.])\.\d+)(?:[eE][-+]?\d+)?)")
# behind a score: the scale it is on, or signs that it is not the whole of what was said (8,5 or 7-8 or 1+1+1)
_SCALE = re.compile(r"\s*(?:/|out of)\s*(?P<high>\d+(?:\.\d+)?)", re.IGNORECASE)
_GOES_ON = re.compile(r"[.,]\d|\s*(?:[-–—+]|\bto\b|\bor\b)\s*\.?\d", re.IGNORECASE)
_OBJECT = re.compile(r"\{(?=\s*[\"}])")
_VERDICTS = (
    re.compile(r"\[\[\s*(a|b|tie)\s*\]\]", re.IGNORECASE),
    re.compile(r"\[\s*(a|b|tie)\s*\]", re.IGNORECASE),
)
_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a whole number"}
_KINDS |= {float: "a number", type(None): "null"}


def read_reply(completion: Completion, parser: Parser) -> Parsed:
    """The outcome of one completion.

    "failed" where the engine gave none (the detail is the word of `engines.PROBLEMS`); else "value" where the parser
    finds one; else "truncated" where the completion reached its token limit, "refused" where it opens like a refusal,
    and "malformed". A value is believed even at the very end of a reply that was cut off, because labels are often
    asked for with the fewest tokens: leave room for one token more where a longer value may begin with a shorter one.
    """
    if completion.stop == "failed":
        return Parsed("failed", detail=completion.problem)
    parsed = parser(completion.text)
    if parsed.outcome == "value":
        return parsed
    if completion.stop == "length":
        return Parsed("truncated", detail=f"reached the token limit, and {parsed.detail}")
    if is_refusal(completion.text):
        return Parsed("refused", detail=_shorten(completion.text))
    return parsed


def parse_choice(choices: Sequence[str], aliases: Mapping[str, str] | None = None) -> Parser:
    """The first of `choices` in the reply as a whole word, upper or lower case; the value is spelled as in `choices`.

    `aliases` maps other words to choices ("pos" to "positive"). Where several begin at one place the longest wins, so
    "not relevant" may stand beside "relevant". A word joined by a hyphen or underscore is another word: "non-toxic" is
    not "toxic". What the reply negates or quotes is still found, and "A" is also an article: ask for such choices in
    brackets or tags. ValueError for an empty choice, for two that differ only in case, and for an alias of no choice.
    """
    pattern, names = _find_choices(choices, aliases)

    def parse(text: str) -> Parsed:
        found = pattern.search(text)
        if not found or not found.lastindex:
            return _malformed(text, f"names none of {', '.join(choices)}")
        return Parsed("value", names[found.lastindex - 1])

    return parse


def parse_marked(marker: str, choices: Sequence[str]) -> Parser:
    """The first of `choices` behind the last `marker`; in a reply without a marker the last one named.

    For replies that reason first and end in "Label: choice". Words are told apart as in `parse_choice`. A marker
    without a choice behind it has no value: what was named before it was part of the reasoning.
    """
    pattern, names = _find_choices(choices)
    mark = re.compile(re.escape(marker), re.IGNORECASE)

    def parse(text: str) -> Parsed:
        marks = list(mark.finditer(text))
        found = list(pattern.finditer(text, marks[-1].end() if marks else 0))
        chosen = found[0 if marks else -1] if found else None
        if chosen and chosen.lastindex:
            return Parsed("value", names[chosen.lastindex - 1])
        where = f" behind {marker}" if marks else ""
        return _malformed(text, f"names none of {', '.join(choices)}{where}")

    return parse


def text_before(marker: str, text: str) -> str:
    """What stands before the last `marker` in any case; all of it where there is none."""
    marks = list(re.finditer(re.escape(marker), text, re.IGNORECASE))
    return text[: marks[-1].start()] if marks else text


def _find_choices(
    choices: Sequence[str], aliases: Mapping[str, str] | None = None
) -> tuple[re.Pattern[str], list[str]]:
    """A pattern with a group for each name, and the choice of each group. ValueError as in `parse_choice`."""
    names = {name: name for name in choices} | dict(aliases or {})
    if "" in names or len({name.casefold() for name in choices}) < len(choices):
        raise ValueError(f"choices must be words that differ in more than case: {', '.join(choices)}")
    if not set(names.values()) <= set(choices):
        raise ValueError(f"an alias stands for none of the choices {', '.join(choices)}")
    spelled = sorted(names, key=len, reverse=True)
    either = "|".join("(" + re.escape(name).replace(r"\ ", r"\s+") + ")" for name in spelled)
    letter = r"[^\W_]"
    pattern = re.compile(rf"(?<!{letter})(?<!{letter}[-_])(?:{either})(?!{letter})(?![-_]{letter})", re.IGNORECASE)
    return pattern, [names[name] for name in spelled]


def parse_number(low: int, high: int) -> Parser:
    """The first number in the reply, which must be whole and lie in low to high; later ones are not tried.

    Digits next to letters count ("S2", "2nd"); "2.5" and "1e3" are no whole numbers.
    """

    def parse(text: str) -> Parsed:
        found = _NUMBER.search(text)
        if not found:
            return _malformed(text, "holds no number")
        if not found["size"].isdecimal():
            return Parsed("malformed", detail=f"{_shorten(found[0])} is no whole number")
        value = _signed(found)
        if not low <= value <= high:
            return Parsed("malformed", detail=f"{_shorten(found[0])} is outside {low} to {high}")
        return Parsed("value", int(value))

    return parse


def parse_label(labels: Sequence[str]) -> Parser:
    """One of the labels: the first number where all are numbers, otherwise the first of them that is a whole word."""
    if not are_numbers(labels):
        return parse_choice(labels)
    codes = {int(label): label for label in labels}
    parse = parse_number(min(codes), max(codes))

    def read(text: str) -> Parsed:
        found = parse(text)
        if found.outcome != "value":
            return found
        known = found.value in codes
        return Parsed("value", codes[found.value]) if known else Parsed("malformed", detail="is none of the labels")

    return read


def parse_score(low: float, high: float) -> Parser:
    """The first number in the reply as a float, from low to high: "8.5", "Score: 8", "8/10", "8 out of 10".

    A range that repeats the scale ("from 1 to 10") is passed over. There is no value on another scale ("4/5" where high
    is 10), for two numbers in one ("7-8", "7 or 8"), or for a decimal comma, which might also separate two scores.
    """
    ends = (rf"(?<![\w.]){re.escape(f'{low:g}')}", rf"{re.escape(f'{high:g}')}(?!\w|\.\d)")
    scale = re.compile(r"\s*(?:[-–—]|to|and)\s*".join(ends), re.IGNORECASE)

    def parse(text: str) -> Parsed:
        text = scale.sub(" ", text)
        found = _NUMBER.search(text)
        if not found:
            return _malformed(text, "holds no number")
        said = _SCALE.match(text, found.end())
        if _GOES_ON.match(text, found.end()) or (said and float(said["high"]) != high):
            return Parsed("malformed", detail=f"{_shorten(text[found.start() :])} is no score of {low:g} to {high:g}")
        value = _signed(found)
        if not low <= value <= high:
            return Parsed("malformed", detail=f"{_shorten(found[0])} is outside {low:g} to {high:g}")
        return Parsed("value", value)

    return parse


def parse_behind(marker: str, inner: Parser) -> Parser:
    """What `inner` reads of the rest of the line behind the last `marker`, in any case; earlier ones are never tried.

    For replies that end in a line such as "Score: 4". Stars around the marker do not matter.
    """
    word, colon = re.escape(marker.rstrip(":")), ":" if marker.endswith(":") else ""
    letter = r"[^\W_]"
    mark = re.compile(rf"(?<!{letter})(?<!{letter}[-_]){word}(?!{letter})[*_]*\s*{colon}", re.IGNORECASE)

    def parse(text: str) -> Parsed:
        marks = list(mark.finditer(text))
        if not marks:
            return _malformed(text, f"holds no {marker}")
        return inner(text[marks[-1].end() :].partition("\n")[0])

    return parse


def parse_json(keys: Sequence[str] | Mapping[str, type]) -> Parser:
    """The first JSON object in the reply, as a dict; code fences and words around it do not matter.

    It must hold all `keys`, and where those map to types (str, int, float, bool, list, dict) values of these types: an
    int passes as a float, a bool not as an int. Further keys are kept. An object inside a broken one is not taken for
    it. Numbers that are no JSON (NaN, infinity) and text that is no Unicode make it malformed.
    """

    def parse(text: str) -> Parsed:
        value = _first_object(text)
        if value is None:
            return _malformed(text, "holds no JSON object")
        missing = [key for key in keys if key not in value]
        if missing:
            return Parsed("malformed", detail=f"lacks {', '.join(missing)}")
        kinds = keys if isinstance(keys, Mapping) else {}
        wrong = [key for key, kind in kinds.items() if not _is_kind(value[key], kind)]
        if wrong:
            said = [f"{key} is {_KINDS[type(value[key])]}, not {_KINDS[kinds[key]]}" for key in wrong]
            return Parsed("malformed", detail="; ".join(said))
        return Parsed("value", value)

    return parse


def parse_tagged(opening: str, closing: str, inner: Parser | None = None) -> Parser:
    """What stands between the first `opening` and `closing` that belong together, without the white space around it.

    Tags match in any case, and the opening nearest to its closing counts, so that a tag the reply only mentions does no
    harm. `inner` reads the text further: parse_tagged("[[", "]]", parse_score(1, 10)).
    """
    start, end = re.escape(opening), re.escape(closing)
    pattern = re.compile(f"{start}((?:(?!{start}).)*?){end}", re.DOTALL | re.IGNORECASE)

    def parse(text: str) -> Parsed:
        found = pattern.search(text)
        if not found:
            return _malformed(text, f"holds no {opening} ... {closing}")
        content = found[1].strip()
        if inner:
            return inner(content)
        return Parsed("value", content) if content else Parsed("malformed", detail=f"{opening}{closing} is empty")

    return parse


def parse_verdict(text: str) -> Parsed:
    """What a pairwise judge decided, "A", "B" or "tie", in brackets: [[A]], or [A] where there are no double ones.

    The same verdict may stand there several times; two different ones are malformed.
    """
    found = next((found for pattern in _VERDICTS if (found := pattern.findall(text))), [])
    verdicts = {"tie" if word.lower() == "tie" else word.upper() for word in found}
    if not verdicts:
        return _malformed(text, "holds no verdict in brackets")
    if len(verdicts) > 1:
        return Parsed("malformed", detail=f"gives several verdicts: {', '.join(sorted(verdicts))}")
    return Parsed("value", verdicts.pop())


# In English. Who cannot tell or find something does not decline but lacks an answer, and may be asked again.
_LACKS = (
    r"(?!(?: to)?(?: \w+ly)? (?:be (?:sure|certain)|tell|say|see|find|determine|decide|identify|detect|classify|read|"
    r"recall|imagine|agree|know|conclude|think)\b)"
)
_DECLINES = re.compile(
    r"\b(?:"
    r"i(?: \w+ly| just| also)? (?:can't|cannot|can not|won't|will not|(?:must|have to) (?:\w+ly )?(?:decline|refuse)|"
    rf"(?:decline|refuse) to|(?:do not|don't) feel comfortable|would rather not|prefer not to)\b{_LACKS}"
    r"|i(?:'m| am)(?: \w+ly| just| also)? (?:unable|prohibited|not (?:able|allowed|permitted|comfortable|"
    rf"willing|going))\b{_LACKS}"
    r"|i'd rather not\b"
    r"|not something (?:that )?i can\b"
    r"|against my (?:guidelines|principles|policy|policies|programming|values)\b"
    r"|violates? (?:my|our|the) (?:\w+ )?(?:guidelines|policy|policies)\b"
    r")"
)
# openings that may lead to a refusal, or to anything else
_LEADS_IN = re.compile(
    r"(?:oh|no|sorry|(?:my )?apologies|i apologi[sz]e|i must apologi[sz]e|i regret|unfortunately|regrettably|"
    r"(?:as|i am|i'm)(?: just| only)? an? (?:\w+ )?(?:ai|assistant|language model)|"
    r"i(?:'m| am) (?:\w+ )?(?:sorry|afraid)|thanks|thank you|"
    r"i understand|i appreciate|this (?:request|question|prompt)|that(?:'s| is)|it(?:'s| is))\b"
)


def is_refusal(text: str) -> bool:
    """Whether a reply opens like one that declines to answer, in English.

    For replies without a value only: one that declines and yet names a value was read by then.
    """
    start = re.sub(r"\s+", " ", text[:OPENING].replace("’", "'").lower()).lstrip(" *_#>\"'-")
    return bool(_DECLINES.match(start) or (_LEADS_IN.match(start) and _DECLINES.search(start)))


def _malformed(text: str, problem: str) -> Parsed:
    return Parsed("malformed", detail=problem if text.strip() else "is empty")


def _shorten(text: str) -> str:
    """The first words of a text on one line, for a detail."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."


def _signed(number: re.Match[str]) -> float:
    # as a float first: int() refuses thousands of digits, which a model in a loop does write
    return -float(number["size"]) if number["minus"] else float(number["size"])


def _is_kind(value: Any, kind: type) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _first_object(text: str) -> dict[str, Any] | None:
    """The first part of a text that is a JSON object; what was read of a broken one is not searched again."""
    decoder = json.JSONDecoder(strict=False)  # models break lines within a text
    opening = _OBJECT.search(text)
    while opening:
        try:
            value, _ = decoder.raw_decode(text, opening.start())
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()  # ValueError for NaN and lone surrogates
            return value
        except json.JSONDecodeError as error:
            opening = _OBJECT.search(text, max(error.pos, opening.end()))
        except (ValueError, RecursionError):
            return None
    return None
