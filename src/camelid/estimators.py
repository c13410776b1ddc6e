"""Label and token models with scikit-learn's face: fit, predict, predict_proba, score, get_params, clone.

They stand in pipelines, cross_val_score and GridSearchCV like any other estimator. `save` and `load` use the model's
own folder (safetensors and JSON), never pickle.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from camelid import bases, labelling, models, prediction, runs
from camelid.errors import UserError, raise_all
from camelid.evaluation import curve_scores
from camelid.reading import Reading, complain_of_reading
from camelid.recipe import Plan
from camelid.rows import Labelled, Predicted, Tagged


@dataclass(eq=False, repr=False)
class _TextEstimator(BaseEstimator):
    """What both estimators share. Fields are plain values that `fit` never changes, so that `clone` and grids work.

    `plan` holds further fields of `camelid.Plan`, which win over those named here.
    """

    base: str = "smollm2-135m"
    _: KW_ONLY
    attention: str = "causal"
    max_tokens: int = 256
    stride: int | None = None
    epochs: int = 2
    batch_rows: int = 16
    learning_rate: float = 2e-3
    lora_rank: int = 16
    lora_alpha: float = 32.0
    adapt_from_layer: int | str = "two-thirds"
    class_weight: str | None = None
    seed: int = 0
    plan: dict[str, Any] | None = None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    def save(self, folder: str | Path) -> Path:
        """Write the fitted estimator into a new folder. Raises UserError when it holds something."""
        check_is_fitted(self, "model_")
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} already holds files", "Choose another folder.")
        folder.mkdir(parents=True, exist_ok=True)
        with runs.disk_errors(folder):
            models.save(self.model_, folder)
            params = {name: _plain(value) for name, value in self.get_params().items()}
            values = {"class": type(self).__name__, "params": params, "fitted": self._fitted()}
            runs.write_json(folder / "estimator.json", values)
        return folder

    @classmethod
    def load(cls, folder: str | Path, base: str | None = None) -> Any:
        """The estimator that `save` wrote; its predictions are the same to the last bit. `base` names a moved base."""
        path = Path(folder) / "estimator.json"
        if not path.is_file():
            raise UserError(f"{folder} holds no saved {cls.__name__}", "Give a folder that its save() wrote.")
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["class"] != cls.__name__:
            raise UserError(
                f"{folder} holds a {values['class']}, not a {cls.__name__}", f"{values['class']}.load reads it."
            )
        estimator = cls(**values["params"])
        estimator.model_, opened = models.load_handle(Path(folder), base)
        estimator.tokenizer_ = opened.tokenizer
        estimator._restore(values["fitted"])
        return estimator

    def _fit(self, rows: Sequence[Any], settings: dict[str, Any]) -> None:
        """Train a model on the rows; its logs and checkpoints live in a folder that is deleted."""
        self._check()
        named = {name: value for name, value in self.get_params().items() if name in Plan.model_fields}
        plan = Plan(**named | (self.plan or {}))
        base = bases.open_base(str(self.base))
        settings = {**settings, "sight": {"attention": self.attention}}
        with _own_randomness(), tempfile.TemporaryDirectory() as folder:
            self.model_ = models.label_model(base, settings, plan, self._reading())
            self.tokenizer_ = base.tokenizer
            labelling.fit(
                self.model_, self.tokenizer_, rows, [], plan, Path(folder), balanced=self.class_weight == "balanced"
            )

    def _check(self) -> None:
        """Raise UserError for values that are none of their choices, all at once."""
        choices = {"attention": ("causal", "bidirectional"), "class_weight": (None, "balanced")} | self._choices()
        wrong = [
            UserError(f"{name} = {getattr(self, name)!r}", f"It can be {' or '.join(map(repr, known))}.")
            for name, known in choices.items()
            if getattr(self, name) not in known
        ]
        raise_all([*wrong, *(UserError(*complaint) for complaint in complain_of_reading(self._reading()))])

    def _choices(self) -> dict[str, tuple[Any, ...]]:
        return {}

    def _predict(self, rows: Sequence[Any]) -> list[Predicted]:
        check_is_fitted(self, "model_")
        return prediction.predict(self.model_, self.tokenizer_, rows, self._reading()) if rows else []

    def _reading(self) -> Reading:
        return Reading(self.max_tokens, self.stride)

    def _fitted(self) -> dict[str, Any]:
        return {}

    def _restore(self, values: dict[str, Any]) -> None:
        pass


@dataclass(eq=False, repr=False)
class LabelClassifier(ClassifierMixin, _TextEstimator):
    """Classes of texts by label supervision (Li 2023, arXiv 2310.01208).

    `X` is a sequence of texts; `y` one class each (text, whole numbers or booleans), or an indicator matrix (texts,
    classes) of zeros and ones for any number of classes a text. `pooling` is last, mean or max.
    After `fit`: `classes_`, `model_`, `tokenizer_`.
    """

    pooling: str = "last"

    def _choices(self) -> dict[str, tuple[Any, ...]]:
        return {"pooling": ("last", "mean", "max")}

    def fit(self, X: Sequence[str], y: Any) -> LabelClassifier:
        """Train on texts and their classes. Raises ValueError where their numbers differ or there is one class only."""
        texts, gold = _texts(X), _classes(y)
        if len(texts) != len(gold):
            raise ValueError(f"{len(texts)} texts and {len(gold)} labels")
        self.classes_ = np.arange(gold.shape[1]) if gold.ndim == 2 else np.unique(gold)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class only: {self.classes_}")
        names = [str(name) for name in self.classes_]
        if gold.ndim == 2:
            labels: list[Any] = [tuple(names[at] for at in np.flatnonzero(line)) for line in gold]
        else:
            labels = [names[at] for at in np.searchsorted(self.classes_, gold)]
        rows = [Labelled(str(n), f"X[{n}]", text, label) for n, (text, label) in enumerate(zip(texts, labels))]
        task = "multi-label" if gold.ndim == 2 else "labels"
        self._fit(rows, {"kind": "label", "classes": names, "pooling": self.pooling, "task": task})
        return self

    def predict(self, X: Sequence[str]) -> NDArray[Any]:
        """Classes (texts,), or the indicator matrix (texts, classes); ties go to the first class."""
        shares = self.predict_proba(X)
        if self.model_.task == "multi-label":
            return (shares >= prediction.THRESHOLD).astype(int)
        return self.classes_[shares.argmax(axis=1)]

    def predict_proba(self, X: Sequence[str]) -> NDArray[np.float64]:
        """Probabilities (texts, classes) in the order of `classes_`; each for itself for an indicator matrix."""
        check_is_fitted(self, "model_")
        rows = [Labelled(str(number), f"X[{number}]", text, "") for number, text in enumerate(_texts(X))]
        found = [list(row.probabilities.values()) for row in self._predict(rows)]
        return np.array(found).reshape(len(rows), len(self.classes_))

    def _fitted(self) -> dict[str, Any]:
        return {"classes": self.classes_.tolist()}

    def _restore(self, values: dict[str, Any]) -> None:
        self.classes_ = np.array(values["classes"])


@dataclass(eq=False, repr=False)
class TokenClassifier(_TextEstimator):
    """Tags of words, BIO-style for entities, by label supervision (Li 2023, arXiv 2310.01208).

    `X` is a sequence of sentences, each a sequence of words; `y` a tag for each word. `score` is the micro F1 of whole
    entities. After `fit`: `classes_`, `model_`, `tokenizer_`.
    """

    def fit(self, X: Sequence[Sequence[str]], y: Sequence[Sequence[str]]) -> TokenClassifier:
        """Train on sentences and their tags. Raises ValueError where their lengths differ."""
        rows = _tagged(X, y)
        self.classes_ = np.array(sorted({tag for row in rows for tag in row.tags}))
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one tag only: {self.classes_}")
        self._fit(rows, {"kind": "token", "classes": self.classes_.tolist()})
        return self

    def predict(self, X: Sequence[Sequence[str]]) -> list[list[str]]:
        """One tag for each word of each sentence."""
        return [list(row.predicted) for row in self._predict(_tagged(X, None))]  # type: ignore[arg-type]

    def score(self, X: Sequence[Sequence[str]], y: Sequence[Sequence[str]]) -> float:
        """Micro F1 of whole entities (type and both ends right); the share of right tags where they mark none."""
        return next(iter(curve_scores(self._predict(_tagged(X, y)), self.classes_.tolist(), "tags").values()))

    def _fitted(self) -> dict[str, Any]:
        return {"classes": self.classes_.tolist()}

    def _restore(self, values: dict[str, Any]) -> None:
        self.classes_ = np.array(values["classes"])


def _tagged(sentences: Sequence[Sequence[str]], tags: Sequence[Sequence[str]] | None) -> list[Tagged]:
    if isinstance(sentences, str) or any(isinstance(sentence, str) for sentence in sentences):
        raise ValueError("X holds text where sentences are wanted: each is a sequence of words")
    words = [tuple(sentence) for sentence in sentences]
    marks = [("",) * len(sentence) for sentence in words] if tags is None else [tuple(line) for line in tags]
    if len(words) != len(marks):
        raise ValueError(f"{len(words)} sentences and {len(marks)} lines of tags")
    for number, (sentence, line) in enumerate(zip(words, marks, strict=True)):
        if not sentence:
            raise ValueError(f"sentence {number} has no words")
        if len(sentence) != len(line):
            raise ValueError(f"sentence {number} has {len(sentence)} words and {len(line)} tags")
    return [Tagged(str(number), f"X[{number}]", *pair) for number, pair in enumerate(zip(words, marks, strict=True))]


def _texts(X: Any) -> list[str]:
    """The texts of a sequence. Raises ValueError for one bare text, a table, and anything that is no text."""
    if isinstance(X, str):
        raise ValueError("X is one text; give a list of texts")
    if getattr(X, "ndim", 1) != 1:
        raise ValueError(f"X has {X.ndim} dimensions; give one column of texts")
    texts = list(X)
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            said = "no text in it" if isinstance(text, str) else f"{type(text).__name__}, not text"
            raise ValueError(f"X[{number}] has {said}")
    return texts


def _classes(y: Any) -> NDArray[Any]:
    """y as classes (texts,), or as an indicator matrix (texts, classes). Raises ValueError for decimal numbers."""
    gold: Any = y.toarray() if hasattr(y, "toarray") else np.asarray(y)
    if gold.ndim == 2 and gold.shape[1] == 1:
        gold = column_or_1d(gold, warn=True)
    check_classification_targets(gold)
    return gold


def _plain(value: Any) -> Any:
    """A value as JSON has it: grids give NumPy's own numbers, and a base may be a path."""
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Within, seeds are set as training needs them; outside, the caller's random numbers go on as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
