"""Which language a text is in, as far as its letters tell: by their script."""

from __future__ import annotations

import unicodedata
from collections import Counter


def tell_script(text: str) -> str:
    """The script of most letters, such as "LATIN"; "" without letters. Kana among Chinese characters are Japanese."""
    names = Counter(unicodedata.name(letter, " ").split(" ")[0] for letter in text if letter.isalpha())
    if kana := names.pop("HIRAGANA", 0) + names.pop("KATAKANA", 0):
        names["JAPANESE"] = kana + names.pop("CJK", 0)
    return max(names, key=names.__getitem__) if names else ""


def is_foreign(language: str, wanted: str) -> bool:
    """Whether a text is in another language than the one wanted; where one is unknown ("") it is not."""
    return bool(language and wanted) and language != wanted
