"""The form of an answer, graded from 0 to 5 by rules that look at nothing else: no judge is cheaper, or less fooled.

Five parts of one point each: a pattern, a band of words, a number of sentences, no group of three words twice, and a
mark at the end that closes a sentence. Parts that have degrees give them, so that answers differ.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, field_validator, model_validator

from camelid import recipe

MOST = 5.0
GRAM = 3  # words of a group that should not come twice
CLOSING = (".", "!", "?")
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
# a mark inside a number ("3.5") or before a small letter ("e.g. so") closes nothing
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s+[^\sa-z]|\s*$)")


class Form(recipe.Values):
    """What the rule asks of an answer."""

    pattern: str = Field(
        default=r"^[A-Z][^\n*#:]*$", description="regular expression that is found in an answer of the right format"
    )
    least_words: int = Field(default=6, ge=1, description="shortest answer that has the whole point")
    most_words: int = Field(default=14, ge=1, description="longest answer that has the whole point")
    sentences: int = Field(default=1, ge=1, description="sentences that have the whole point")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _is_a_band(self) -> Any:
        if self.least_words > self.most_words:
            raise ValueError("least_words is more than most_words")
        return self


def grade_form(text: str, form: Form) -> float:
    """The score of an answer, from 0 to 5: the sum of `grade_parts`."""
    return sum(grade_parts(text, form).values())


def grade_parts(text: str, form: Form) -> dict[str, float]:
    """Each part's share of its point, from 0 to 1. An answer without a word has nothing."""
    text, words = text.strip(), count_words(text)
    if not words:
        return dict.fromkeys(("format", "length", "sentences", "repetition", "ending"), 0.0)
    return {
        "format": float(re.search(form.pattern, text) is not None),
        "length": fade(words, form.least_words, form.most_words),
        "sentences": fade(count_sentences(text), form.sentences, form.sentences),
        "repetition": float(not repeats(text)),
        "ending": float(text.endswith(CLOSING)),
    }


def fade(count: int, least: int, most: int) -> float:
    """1 from `least` to `most`, and outside of them down to 0 where the distance is the whole of the nearer end."""
    end = least if count < least else most
    return 1.0 if least <= count <= most else max(0.0, 1 - abs(count - end) / end)


def count_words(text: str) -> int:
    """Words of letters and digits; a hyphen or apostrophe between two joins them."""
    return len(_WORD.findall(text))


def count_sentences(text: str) -> int:
    """Sentences that are closed by a mark; what follows the last one is none."""
    return len(_SENTENCE_END.findall(text.strip()))


def repeats(text: str, size: int = GRAM) -> bool:
    """Whether a group of so many words comes twice, in any case."""
    words = [word.lower() for word in _WORD.findall(text)]
    groups = list(zip(*(words[start:] for start in range(size)), strict=False))
    return len(set(groups)) < len(groups)
