"""A pool of texts of which few are labelled: reading it, rows with labels beside it, and its clusters."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from camelid import data, recipe
from camelid.bags import read_members
from camelid.errors import UserError
from camelid.features import count_words
from camelid.rows import Member

HELD_OUT = 0.5  # share of a labelled pool that judges and scores, where no other rows are named


class PoolData(recipe.Values):
    """Where the rows come from."""

    train: str = Field(default="", description="the pool: file, named set, set:split or hub:<dataset id>")
    test: str | None = Field(
        default=None, description="labelled rows: some for V, the rest for scores; else half of the pool's own"
    )
    text: str = Field(default="text", description="column that holds the text")
    label: str = Field(default="label", description="column that holds the class")
    positive: tuple[str, ...] = Field(default=("1",), min_length=1, description="the relevant classes")
    missing: Literal["error", "drop"] = Field(default="error", description="what to do with rows that lack a text")
    validation_rows: int = Field(default=500, ge=2, description="rows of V, drawn from test with the seed")
    train_rows: int | None = Field(default=None, ge=1, description="use only so many rows of the pool")


@dataclass(frozen=True)
class Pool:
    """Rows to choose from, labelled rows that judge classifiers and that score the last one, and what was left out."""

    rows: list[Member]
    validation: list[Member]
    test: list[Member]
    dropped: dict[str, int]


def read_pool(values: PoolData, seed: int) -> Pool:
    """What the recipe's table names. Raises UserError with every problem.

    A named set brings its own test rows. Where nobody names any, rows of the pool judge and score, and leave it: those
    with a label, or a share `HELD_OUT`, drawn with the seed, where all have one.
    """
    if not values.train:
        raise UserError("no pool is named", "Add --data FILE, or --data with the name of a labelled set.")
    dropped: Counter[str] = Counter()
    columns: dict[str, Any] = {
        "text": values.text, "label": values.label, "positive": values.positive, "missing": values.missing
    }  # fmt: skip
    pool = read_members(values.train, dropped, **columns)
    draw = random.Random(f"{seed} pool")
    if source := values.test or data.test_source(values.train):
        known = [row for row in read_members(source, dropped, **columns) if row.positive is not None]
    else:
        pool, known = _hold_out(pool, draw)
    if values.train_rows and values.train_rows < len(pool):
        pool = data.draw_rows(pool, values.train_rows, draw)
    chosen = set(draw.sample(range(len(known)), min(values.validation_rows, len(known) // 2)))
    validation = [row for place, row in enumerate(known) if place in chosen]
    test = [row for place, row in enumerate(known) if place not in chosen]
    for name, rows in (("validation", validation), ("test", test)):
        if {row.positive for row in rows} != {True, False}:
            fix = "Check data.positive, or give more labelled rows."
            raise UserError(f"the {name} rows are not of two classes", fix)
    return Pool(pool, validation, test, dict(dropped))


def _hold_out(pool: list[Member], draw: random.Random) -> tuple[list[Member], list[Member]]:
    """(pool, labelled rows that leave it)."""
    held = {place for place, row in enumerate(pool) if row.positive is not None}
    if len(held) == len(pool):
        held = set(draw.sample(range(len(pool)), round(HELD_OUT * len(pool))))
    if not held:
        raise UserError("no labelled rows are named", "Add --test FILE: some of them judge each round's classifier.")
    return [row for place, row in enumerate(pool) if place not in held], [pool[place] for place in sorted(held)]


def cluster_features(features_NP: Any, count: int, seed: int) -> Any:
    """The cluster of each row by k-means, numbered from 0; a cluster that nobody is in has no number."""
    from sklearn.cluster import KMeans

    means = KMeans(min(count, len(features_NP)), n_init="auto", random_state=seed)
    return _renumber(means.fit_predict(features_NP))


def cluster_topics(texts: Sequence[str], count: int, seed: int) -> Any:
    """The leading topic of each text by latent Dirichlet allocation (Blei 2003), numbered as by `cluster_features`."""
    from sklearn.decomposition import LatentDirichletAllocation
    from sklearn.feature_extraction.text import CountVectorizer

    counts = count_words(CountVectorizer(min_df=2, stop_words="english"), texts)
    topics = LatentDirichletAllocation(min(count, len(texts)), random_state=seed)
    return _renumber(topics.fit_transform(counts).argmax(axis=1))


def _renumber(cluster_N: Any) -> Any:
    return np.unique(cluster_N, return_inverse=True)[1].astype(np.int64)
