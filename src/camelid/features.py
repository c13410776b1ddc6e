"""Numbers of texts that are computed once: states of a frozen model, or TF-IDF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from camelid import bases
from camelid.bases import Base
from camelid.errors import UserError
from camelid.hidden import hidden_states
from camelid.recipe import Model
from camelid.rows import Member

Splits = Mapping[str, Sequence[str]]  # texts by the name of their split
Features = dict[str, Any]  # numbers_NP by the name of the split


def embed_splits(base: Base, precision: Any, splits: Splits, max_tokens: int) -> Features:
    """The mean last state of each text under the frozen model, as `hidden.hidden_states` gives it."""
    trunk = bases.load_trunk(base, bases.resolve_precision(precision))
    return {
        name: hidden_states(trunk, base.tokenizer, texts, max_tokens=max_tokens, what=f"states of {name}")
        for name, texts in splits.items()
    }


def describe_members(
    model: Model, precision: Any, rows: Sequence[Member], max_tokens: int, base: str | None = None
) -> Any:
    """numbers_NP of each row: those of its table, or the mean last state of its text under the frozen model.

    `base` names the model where it was moved.
    """
    if not rows:
        return np.zeros((0, 1), dtype=np.float32)
    if rows[0].numbers:
        return np.array([row.numbers for row in rows], dtype=np.float32)
    opened = bases.open_base(base or model.base, None if base else model.revision)
    trunk = bases.load_trunk(opened, bases.resolve_precision(precision))
    return hidden_states(trunk, opened.tokenizer, [row.text for row in rows], max_tokens=max_tokens)


def reduce_tfidf(splits: Splits, fitted_on: str, width: int, seed: int) -> Features:
    """TF-IDF of words and word pairs in `width` numbers, or fewer where there are fewer words; fitted on one split."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    weights_NV = count_words(words, splits[fitted_on])
    reduce = TruncatedSVD(min(width, weights_NV.shape[1]), random_state=seed).fit(weights_NV)
    return {name: reduce.transform(words.transform(texts)) for name, texts in splits.items()}


def count_words(vectorizer: Any, texts: Sequence[str]) -> Any:
    """What scikit-learn's vectorizer makes of the texts it is fitted on. Raises UserError where it finds no words."""
    try:
        return vectorizer.fit_transform(texts)
    except ValueError as error:  # its words for an empty vocabulary differ from release to release
        raise UserError(
            f"no word stands in two of the {len(texts)} texts",
            "Words are counted in the letters a to z: give more texts, or let states of the model tell them apart.",
        ) from error


def standardise(features: Features, fitted_on: str) -> Features:
    """(x - mean) / std of each number, by the rows of one of the splits, in float32."""
    mean_P, std_P = features[fitted_on].mean(axis=0), features[fitted_on].std(axis=0)
    scaled = {name: (part - mean_P) / np.where(std_P > 0, std_P, 1.0) for name, part in features.items()}
    return {name: part.astype(np.float32) for name, part in scaled.items()}
