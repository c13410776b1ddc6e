"""The estimators among scikit-learn's own tools: grids, pipelines, clones, and files without pickle."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from camelid.errors import UserError
from camelid.estimators import LabelClassifier, TokenClassifier
from conftest import labelled_rows, tagged_rows

TEXTS = [row["text"] for row in labelled_rows()]
LABELS = [row["label"] for row in labelled_rows()]
SENTENCES = [row["tokens"] for row in tagged_rows()]
TAGS = [row["tags"] for row in tagged_rows()]


def classifier(tiny_model: Path, **values: Any) -> LabelClassifier:
    options = {"epochs": 1, "adapt_from_layer": 0, "lora_rank": 4, "plan": {"precision": "float32"}} | values
    return LabelClassifier(str(tiny_model), **options)


def test_params_are_the_fields_and_clone_keeps_them(tiny_model: Path) -> None:
    estimator = classifier(tiny_model, pooling="mean", learning_rate=0.01)
    assert estimator.get_params() == clone(estimator).get_params()
    assert estimator.get_params()["pooling"] == "mean"
    assert "pooling" not in TokenClassifier().get_params()
    assert estimator.set_params(epochs=3).epochs == 3
    assert "learning_rate=0.01" in repr(estimator)


def test_fitting_again_and_a_clone_give_equal_results(tiny_model: Path) -> None:
    estimator = classifier(tiny_model)
    first = estimator.fit(TEXTS, LABELS).predict_proba(TEXTS)
    assert np.array_equal(estimator.fit(TEXTS, LABELS).predict_proba(TEXTS), first)
    assert np.array_equal(clone(estimator).fit(TEXTS, LABELS).predict_proba(TEXTS), first)
    assert first.shape == (60, 3)
    assert np.allclose(first.sum(axis=1), 1)
    assert list(estimator.classes_) == ["cross", "glad", "plain"]
    assert np.array_equal(estimator.predict(TEXTS), estimator.classes_[first.argmax(axis=1)])
    assert estimator.score(TEXTS, LABELS) == np.mean(estimator.predict(TEXTS) == np.array(LABELS))


def test_it_learns(tiny_model: Path) -> None:
    estimator = classifier(tiny_model, epochs=12, learning_rate=1e-2, batch_rows=8, plan={"tuning": "full"})
    assert estimator.fit(TEXTS, LABELS).score(TEXTS, LABELS) > 0.9


def test_a_pipeline_in_a_grid(tiny_model: Path) -> None:
    pipeline = make_pipeline(
        FunctionTransformer(lambda texts: [text.lower() for text in texts]), classifier(tiny_model)
    )
    grid = GridSearchCV(pipeline, {"labelclassifier__pooling": ["last", "mean"]}, cv=2)
    grid.fit(TEXTS[:24], LABELS[:24])
    assert grid.best_params_["labelclassifier__pooling"] in ("last", "mean")
    assert len(grid.predict(TEXTS)) == 60
    assert len(cross_val_score(classifier(tiny_model), TEXTS[:24], LABELS[:24], cv=2)) == 2


@pytest.mark.parametrize("labels", [[0, 1, 2], [True, False, True], ["a", "b", "a"]], ids=["int", "bool", "text"])
def test_classes_keep_their_type(tiny_model: Path, labels: list[Any]) -> None:
    found = classifier(tiny_model).fit(["one", "two", "three"], labels).predict(["one", "two"])
    assert found.dtype == np.asarray(labels).dtype
    assert set(found) <= set(labels)


def test_an_indicator_matrix_is_multi_label(tiny_model: Path) -> None:
    wanted = np.array([[label != "plain", label == "cross", False] for label in LABELS]).astype(int)
    estimator = classifier(tiny_model, epochs=12, learning_rate=1e-2, batch_rows=8, plan={"tuning": "full"})
    estimator.fit(TEXTS, wanted)
    assert estimator.predict(TEXTS).shape == (60, 3)
    assert (estimator.predict(TEXTS)[:, 0] == wanted[:, 0]).mean() > 0.9
    assert not estimator.predict(TEXTS)[:, 2].any()


def test_save_and_load_without_pickle(tiny_model: Path, tmp_path: Path) -> None:
    estimator = classifier(tiny_model).fit(TEXTS, [len(label) for label in LABELS])
    estimator.save(tmp_path / "saved")
    names = {path.suffix for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert names <= {".json", ".safetensors", ".md"}
    loaded = LabelClassifier.load(tmp_path / "saved")
    assert np.array_equal(loaded.predict_proba(TEXTS), estimator.predict_proba(TEXTS))
    assert loaded.predict(TEXTS).dtype == estimator.predict(TEXTS).dtype
    assert np.array_equal(loaded.predict(TEXTS), estimator.predict(TEXTS))
    assert loaded.get_params() == estimator.get_params()
    with pytest.raises(UserError, match="already holds files"):
        estimator.save(tmp_path / "saved")
    with pytest.raises(UserError, match="not a TokenClassifier"):
        TokenClassifier.load(tmp_path / "saved")
    with pytest.raises(UserError, match="holds no saved"):
        LabelClassifier.load(tmp_path)


def test_tags(tiny_model: Path, tmp_path: Path) -> None:
    options = {"epochs": 8, "learning_rate": 1e-2, "batch_rows": 4, "adapt_from_layer": 0}
    estimator = TokenClassifier(str(tiny_model), **options, plan={"tuning": "full", "precision": "float32"})
    with pytest.raises(NotFittedError):
        estimator.predict(SENTENCES)
    estimator.fit(SENTENCES, TAGS)
    found = estimator.predict(SENTENCES)
    assert [len(tags) for tags in found] == [len(words) for words in SENTENCES]
    assert estimator.score(SENTENCES, TAGS) > 0.5
    assert len(cross_val_score(estimator.set_params(epochs=1), SENTENCES, TAGS, cv=2)) == 2
    estimator.fit(SENTENCES, TAGS).save(tmp_path / "tags")
    assert TokenClassifier.load(tmp_path / "tags").predict(SENTENCES) == estimator.predict(SENTENCES)


def test_mistakes_are_told(tiny_model: Path) -> None:
    with pytest.raises(NotFittedError):
        classifier(tiny_model).predict(TEXTS)
    with pytest.raises(ValueError, match="3 texts and 2 labels"):
        classifier(tiny_model).fit(["a", "b", "c"], ["x", "y"])
    with pytest.raises(ValueError, match="one class only"):
        classifier(tiny_model).fit(["a", "b"], ["x", "x"])
    with pytest.raises(ValueError, match="sentence 1 has 1 words and 2 tags"):
        TokenClassifier(str(tiny_model)).fit([["a"], ["b"]], [["O"], ["O", "O"]])
    with pytest.raises(UserError, match="class_weight"):
        classifier(tiny_model, class_weight="heavy").fit(TEXTS, LABELS)


@pytest.mark.parametrize(("values", "words"), [
    ({"pooling": "avg"}, "pooling = 'avg'"), ({"attention": "Causal"}, "attention = 'Causal'"),
    ({"stride": 0}, "stride = 0"), ({"max_tokens": 64, "stride": 80}, "stride = 80"),
    ({"max_tokens": 1}, "max_tokens = 1"),
])  # fmt: skip
def test_values_that_are_no_choices_are_told(values: dict[str, Any], words: str, tiny_model: Path) -> None:
    with pytest.raises(UserError, match=words):
        classifier(tiny_model, **values).fit(TEXTS, LABELS)


@pytest.mark.parametrize(("X", "y", "words"), [
    ("one text", ["x"], "X is one text"), (np.array([["a"], ["b"]]), ["x", "y"], "2 dimensions"),
    (["a", "", "c"], ["x", "y", "x"], r"X\[1\] has no text"), (["a", None], ["x", "y"], r"X\[1\] has NoneType"),
    (["a", "b"], [0.5, 1.5], "continuous"),
])  # fmt: skip
def test_what_is_no_text_or_no_class(X: Any, y: Any, words: str, tiny_model: Path) -> None:
    with pytest.raises(ValueError, match=words):
        classifier(tiny_model).fit(X, y)


def test_nothing_but_texts_is_predicted(tiny_model: Path) -> None:
    estimator = classifier(tiny_model).fit(TEXTS, LABELS)
    for wrong in ("one text", ["fine", ""], ["fine", 3]):
        with pytest.raises(ValueError, match=r"X is one text|no text in it|int, not text"):
            estimator.predict(wrong)
    with pytest.raises(ValueError, match="sequence of words"):
        TokenClassifier(str(tiny_model)).fit(["a text"], [["O"]])


def test_columns_and_sparse_indicators(tiny_model: Path) -> None:
    from scipy.sparse import csr_matrix
    from sklearn.exceptions import DataConversionWarning

    with pytest.warns(DataConversionWarning):
        column = classifier(tiny_model).fit(TEXTS, np.array(LABELS)[:, None])
    assert list(column.classes_) == ["cross", "glad", "plain"]
    indicator = np.array([[label == "glad", label != "plain"] for label in LABELS]).astype(int)
    found = [classifier(tiny_model).fit(TEXTS, y).predict(TEXTS[:9]) for y in (indicator, csr_matrix(indicator))]
    assert np.array_equal(*found)


def test_fitting_leaves_the_callers_random_numbers_alone(tiny_model: Path) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    wanted = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    classifier(tiny_model).fit(TEXTS, LABELS)
    assert (random.random(), np.random.random(), torch.rand(1).item()) == wanted


def test_numpys_numbers_of_a_grid_can_be_saved(tiny_model: Path, tmp_path: Path) -> None:
    estimator = classifier(tiny_model, lora_rank=np.int64(4), learning_rate=np.float64(1e-3)).fit(TEXTS, LABELS)
    estimator.base = Path(estimator.base)
    estimator.save(tmp_path / "saved")
    assert LabelClassifier.load(tmp_path / "saved").lora_rank == 4


def test_a_tagger_is_cloned_and_chosen_by_a_grid(tiny_model: Path) -> None:
    tagger = TokenClassifier(
        str(tiny_model), epochs=1, adapt_from_layer=0, max_tokens=16, stride=6, class_weight="balanced",
        plan={"precision": "float32"},
    )  # fmt: skip
    found = GridSearchCV(tagger, {"learning_rate": [1e-3, 1e-2]}, cv=2).fit(SENTENCES, TAGS)
    assert found.best_params_["learning_rate"] in (1e-3, 1e-2)
    once, again = (clone(tagger).fit(SENTENCES, TAGS).predict(SENTENCES) for _ in range(2))
    assert once == again


def test_dev_rows_that_are_not_there_are_told(tiny_model: Path) -> None:
    with pytest.raises(UserError, match="need dev rows"):
        classifier(tiny_model, plan={"patience": 1}).fit(TEXTS, LABELS)


def test_no_texts_give_no_answers(tiny_model: Path) -> None:
    estimator = classifier(tiny_model).fit(TEXTS, LABELS)
    assert estimator.predict([]).shape == (0,)
    assert estimator.predict_proba([]).shape == (0, 3)
