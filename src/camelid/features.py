"""Numbers of texts that are computed once: states of a frozen model, or TF-IDF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from camelid import bases
from camelid.bases import Base
from camelid.hidden import hidden_states

Splits = Mapping[str, Sequence[str]]  # texts by the name of their split
Features = dict[str, Any]  # numbers_NP by the name of the split


def embed_splits(base: Base, precision: Any, splits: Splits, max_tokens: int) -> Features:
    """The mean last state of each text under the frozen model, as `hidden.hidden_states` gives it."""
    trunk = bases.load_trunk(base, bases.resolve_precision(precision))
    return {
        name: hidden_states(trunk, base.tokenizer, texts, max_tokens=max_tokens, what=f"states of {name}")
        for name, texts in splits.items()
    }


def reduce_tfidf(splits: Splits, fitted_on: str, width: int, seed: int) -> Features:
    """TF-IDF of words and word pairs in `width` numbers (latent semantic analysis), fitted on one of the splits."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    pipeline = make_pipeline(words, TruncatedSVD(width, random_state=seed)).fit(splits[fitted_on])
    return {name: pipeline.transform(texts) for name, texts in splits.items()}


def standardise(features: Features, fitted_on: str) -> Features:
    """(x - mean) / std of each number, by the rows of one of the splits, in float32."""
    mean_P, std_P = features[fitted_on].mean(axis=0), features[fitted_on].std(axis=0)
    scaled = {name: (part - mean_P) / np.where(std_P > 0, std_P, 1.0) for name, part in features.items()}
    return {name: part.astype(np.float32) for name, part in scaled.items()}
