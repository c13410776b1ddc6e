"""Nearest rows: by TF-IDF, which needs no model, or by the mean hidden state of a LLaMA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Embed = Callable[[Sequence[str]], Any]  # texts -> (texts, width), rows of length 1


def tfidf_embedding(memory: Sequence[str]) -> Embed:
    """TF-IDF of words and word pairs; the vocabulary and its weights are those of the memory texts only."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    vectorizer.fit(memory)
    return vectorizer.transform


def nearest(
    memory: Sequence[str],
    queries: Sequence[str],
    embed: Embed,
    k: int,
    *,
    may_serve: Callable[[int, int], bool] = lambda query, row: True,
    near_duplicate: float = 0.95,
) -> list[list[tuple[int, float]]]:
    """For each query its `k` most similar memory rows as (row, cosine), from least to most similar; ties by row number.

    Rows of the same text but for case and spaces, those with a cosine of `near_duplicate` or more, and those for which
    `may_serve(query, row)` is false are never given: an example must not hold the answer.
    """
    similar_QM = similarities(embed(queries), embed(memory))
    same = {}
    for row, text in enumerate(memory):
        same.setdefault(normalise(text), set()).add(row)
    found = []
    for query, similar_M in enumerate(similar_QM):
        twins = same.get(normalise(queries[query]), set())
        order = np.lexsort((np.arange(len(similar_M)), -similar_M))
        kept = [
            (int(row), float(similar_M[row]))
            for row in order
            if row not in twins and similar_M[row] < near_duplicate and may_serve(query, int(row))
        ]
        found.append(kept[:k][::-1])
    return found


def similarities(queries: Any, memory: Any) -> NDArray[np.float64]:
    """Cosines (queries, memory) of rows of length 1, sparse or dense."""
    product = queries @ memory.T
    return np.asarray(product.todense() if hasattr(product, "todense") else product, dtype=np.float64)


def normalise(text: str) -> str:
    """A text without differences of case and space."""
    return " ".join(text.lower().split())


def near_duplicates(memory: Sequence[str], queries: Sequence[str], near_duplicate: float = 0.95) -> NDArray[np.bool_]:
    """Which memory texts say the same as a query, (queries, memory): equal but for case and spaces, or that similar by
    TF-IDF."""
    embed = tfidf_embedding(memory)
    # objects: an array of texts is as wide as its longest one everywhere
    memory_M, queries_Q = (np.array([normalise(text) for text in texts], dtype=object) for texts in (memory, queries))
    return (similarities(embed(queries), embed(memory)) >= near_duplicate) | (queries_Q[:, None] == memory_M[None])


def remember(embed: Embed, memory: Sequence[str]) -> Embed:
    """`embed` that computes the rows of `memory`, this very list, once, when they are first asked for."""
    kept: list[Any] = []

    def embed_once(texts: Sequence[str]) -> Any:
        if texts is not memory:
            return embed(texts)
        if not kept:
            kept.append(embed(memory))
        return kept[0]

    return embed_once


def vote_nearest(
    memory: Sequence[str], labels: Sequence[str], queries: Sequence[str], embed: Embed, k: int
) -> list[dict[str, float]]:
    """For each query the shares of the labels among its `k` nearest memory rows, each counting by its cosine.

    They are in the order of the labels' names, and empty where no row is similar at all.
    """
    found = []
    for near in nearest(memory, queries, embed, k):
        sums = dict.fromkeys(sorted({labels[row] for row, _ in near}), 0.0)
        for row, similar in near:
            sums[labels[row]] += similar
        total = sum(sums.values())
        found.append({label: value / total for label, value in sums.items()} if total else {})
    return found
