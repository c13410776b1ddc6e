"""The card's checks of LTS with its numbers, and runs with each labeller."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from camelid import asking, methods
from camelid.active_learning import draw_by_cluster, draw_random, draw_unsure, f1_of_relevant
from camelid.engines import Completion
from camelid.engines.scripted import ScriptedEngine
from camelid.errors import UserError
from camelid.labellers import tell_known
from camelid.methods.classify import wildlife_lts as method
from camelid.methods.classify.wildlife_lts import State, Study
from camelid.rows import Judged, Member, iterate_rows
from conftest import Killed, own_rows, write_jsonl

BY_CLUSTER = partial(method.draw_without_bandit, draw_by_cluster)
RANDOM = partial(method.draw_without_bandit, draw_random)
SAMPLERS = [method.draw_by_bandit, BY_CLUSTER, RANDOM, partial(method.draw_without_bandit, draw_unsure)]


def resolved(**values: Any) -> Any:
    return methods.resolve("wildlife-lts", {name.replace("__", "."): value for name, value in values.items()})


def members(labels: Sequence[bool]) -> list[Member]:
    return [Member(str(at), "x", f"text {at}", (), "", bool(label)) for at, label in enumerate(labels)]


def study_of(
    recipe: Any, labels: Sequence[bool], cluster_N: Any, features: dict[str, Any], known: Sequence[bool]
) -> Study:
    """A study whose labeller knows, and errs as often as the recipe says; f is logistic regression on `features`."""
    pool, validation = members(labels), members(known)
    splits = {"pool": pool, "validation": validation, "test": validation}
    fit = method.learner_of(recipe, None, "", splits, features)  # type: ignore[arg-type]

    def label(name: str, rows: Sequence[int]) -> list[Judged]:
        return tell_known([pool[row] for row in rows], recipe.flip_positive, recipe.flip_negative, recipe.plan.seed)

    return Study(recipe, pool, cluster_N, validation, label, fit)


def tiny_study(**values: Any) -> Study:
    """60 rows in two clusters, relevant where the first number is positive; f can tell them."""
    draw = np.random.default_rng(0)
    features = {name: draw.normal(size=(60, 2)) for name in ("pool", "validation")}
    labels = {name: part[:, 0] > 0.5 for name, part in features.items()}
    recipe = resolved(flip_positive=0, flip_negative=0, batch=6, **values)
    cluster_N = np.arange(60) % 2
    return study_of(
        recipe, labels["pool"], cluster_N, features | {"test": features["validation"]}, labels["validation"]
    )


def test_check_1_posterior_and_choice() -> None:
    study = tiny_study()
    state = State((3.0, 0.0), (1.0, 4.0))
    described = method.describe_rounds(study.recipe, state, [])
    assert described["posterior mean of each cluster"] == pytest.approx([0.70, 0.10])
    draw = np.random.default_rng(0)
    chosen = Counter(method.draw_by_bandit(study, state, draw).cluster for _ in range(20_000))
    assert chosen[0] / 20_000 == pytest.approx(0.98936, abs=0.004)


def test_check_2_decay() -> None:
    wins, losses = method.update((0.0, 0.0), (0.0, 0.0), 0, True, 0.99)
    wins, losses = method.update(wins, losses, 0, False, 0.99)
    assert (wins[0], losses[0]) == pytest.approx((0.9801, 0.99))
    assert (wins[1], losses[1]) == (0, 0)
    assert method.update((1.0,), (1.0,), None, True, 0.5) == ((0.5,), (0.5,)), "random batches are nobody's win"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_check_3_no_row_is_labelled_twice(sampler: Any) -> None:
    """Until the pool is empty, and then it stops; the same seed gives the same trace."""
    asked: list[int] = []
    study = tiny_study(rounds=25)
    counted = replace(study, label=lambda name, rows: asked.extend(rows) or study.label(name, rows))  # type: ignore[func-returns-value]
    state, trace = method.explore(counted, sampler, study.known)
    assert sorted(asked) == list(range(60))
    assert len(state.used) == 60
    assert len(trace) <= 25
    assert method.explore(study, sampler, study.known)[1] == trace
    limited, _ = method.explore(replace(study, recipe=resolved(batch=6, most_calls=20)), sampler, study.known)
    assert len(limited.used) == 20


def test_check_4_a_rejected_round_leaves_the_accepted_classifier() -> None:
    """Carried over are the positives only, and they serve the next round."""
    study = tiny_study()
    trained: list[list[int]] = []

    def fit(name: str, rows: Sequence[int], labels: Sequence[bool]) -> Any:
        trained.append(list(rows))
        return lambda split: np.zeros(60) if name == "bad" else (np.arange(60) % 2).astype(float)

    study = replace(study, fit=fit)
    rows = np.arange(12)
    first = [row for row in rows.tolist() if row < 6]
    judged = [Judged(str(row), "x", "value", row % 2 == 1, "") for row in first]
    draw = np.random.default_rng(0)
    good = method.learn(study, State((0.0,) * 2, (0.0,) * 2), method.Batch(0, first), judged, draw, "good")
    assert good.shares is not None
    assert good.best > 0
    assert good.accepted == tuple(first)
    second = list(range(6, 12))
    judged = [Judged(str(row), "x", "value", row % 2 == 0, "") for row in second]
    bad = method.learn(study, good, method.Batch(1, second), judged, draw, "bad")
    assert bad.shares is good.shares
    assert (bad.best, bad.accepted, bad.carried) == (good.best, good.accepted, (6, 8, 10))
    assert bad.waited == 1
    judged = [Judged("12", "x", "malformed", None, "?"), Judged("13", "x", "value", False, "")]
    after = method.learn(study, bad, method.Batch(1, [12, 13]), judged, draw, "bad")
    assert set(bad.carried) < set(trained[-1])
    assert 12 not in trained[-1]
    assert {12, 13} <= after.used
    assert 12 not in after.told, "what could not be read is no negative, and is not drawn again"


def test_check_4_a_rejected_round_leaves_predictions_bit_for_bit() -> None:
    """Of a classifier that is really fitted: the batch that follows is told all wrong, and what it taught is gone."""
    study, draw = tiny_study(), np.random.default_rng(0)

    def tell(rows: Sequence[int], *, wrong: bool) -> list[Judged]:
        pool = study.pool
        return [Judged(pool[row].id, "x", "value", bool(pool[row].positive) != wrong, "") for row in rows]

    first, second = list(range(30)), list(range(30, 60))
    start = State((0.0,) * 2, (0.0,) * 2)
    good = method.learn(study, start, method.Batch(0, first), tell(first, wrong=False), draw, "good")
    assert good.shares is not None
    before = good.shares("pool").copy()
    bad = method.learn(study, good, method.Batch(1, second), tell(second, wrong=True), draw, "bad")
    assert bad.waited == 1
    assert bad.shares is not None
    assert np.array_equal(bad.shares("pool"), before)
    refitted = study.fit(
        "other", [*first, *second], [bool(study.pool[row].positive) != (row > 29) for row in range(60)]
    )
    assert not np.array_equal(refitted("pool"), before), "what was rejected would have changed them"


def test_check_6_the_metric_trap() -> None:
    """Saying no to all has a weighted F1 above the authors' start score, and none of the relevant class."""
    gold = np.array([False] * 397 + [True] * 102)
    assert f1_score(gold, np.zeros(499, dtype=bool), average="weighted") == pytest.approx(0.705022, abs=1e-6)
    assert f1_of_relevant(np.zeros(499), members(gold.tolist())) == 0
    assert f1_of_relevant(gold * 0.6, members(gold.tolist())) == 1


def simulate(seed: int, sampler: Any, **values: Any) -> tuple[int, int]:
    """Check 7's world: relevant rows found at 500 and at 1,000 labels."""
    draw = np.random.default_rng(seed)
    centres, direction = draw.normal(0, 1.5, (10, 20)), draw.normal(size=20)
    features, labels, clusters = {}, {}, {}
    for name, rows in (("pool", 8000), ("validation", 500)):
        clusters[name] = draw.integers(0, 10, rows)
        labels[name] = draw.random(rows) < np.where(clusters[name] < 2, 0.2, 0.002)
        shift = 2 * labels[name][:, None] * direction / np.linalg.norm(direction)
        features[name] = centres[clusters[name]] + draw.normal(size=(rows, 20)) + shift
    features["test"] = features["validation"]
    noise = {"flip_positive": 0.1, "flip_negative": 0.01}
    recipe = resolved(rounds=50, batch=20, plan__seed=seed, **noise, **values)
    study = study_of(recipe, labels["pool"], clusters["pool"], features, labels["validation"])
    _, trace = method.explore(study, sampler, study.known)
    assert trace[-1]["labels"] == 1000
    return trace[24]["truly relevant"], trace[49]["truly relevant"]


def test_check_7_twice_the_positives_of_random() -> None:
    """The card's means over six seeds at 500 and at 1,000 labels; its published loop finds no more than chance.

    Ours finds more than the card's by that loop: 45 and 98 against 23 and 36, so it is only asked to be behind.
    """
    card = {"positives": (56, 144), "gain": (24, 68), "by cluster": (20, 42)}
    published = {"reward": "gain", "learn_from": "batch"}
    runs: dict[str, tuple[Any, dict[str, Any]]] = {
        "positives": (method.draw_by_bandit, {}), "gain": (method.draw_by_bandit, {"reward": "gain"}),
        "by cluster": (BY_CLUSTER, {}), "published": (method.draw_by_bandit, published),
    }  # fmt: skip
    found = {
        name: np.mean([simulate(seed, sampler, **values) for seed in range(6)], axis=0)
        for name, (sampler, values) in runs.items()
    }
    assert (found["positives"] > 2 * found["by cluster"]).all()
    assert found["positives"][1] > 1.5 * found["published"][1]
    for name, means in card.items():
        assert ((found[name] > np.divide(means, 1.5)) & (found[name] < np.multiply(means, 1.5))).all(), name


def write_pool(folder: Path, rows: int = 120) -> dict[str, Any]:
    """Texts of which those with a shark are relevant; labels stand in the file of known rows only."""
    draw = np.random.default_rng(2)
    words = ["tooth", "shark", "boat", "shirt", "lamp", "net"]
    texts = [" ".join(draw.choice(words, 4)) for _ in range(2 * rows)]
    label = lambda text: "yes" if "shark" in text else "no"  # noqa: E731
    (folder / "pool.csv").write_text("text\n" + "\n".join(texts[:rows]) + "\n")
    known = [f"{text},{label(text)}" for text in texts[rows:]]
    (folder / "known.csv").write_text("text,label\n" + "\n".join(known) + "\n")
    return {
        "data.train": str(folder / "pool.csv"),
        "data.test": str(folder / "known.csv"),
        "data.positive": ["yes"],
        "features": "tfidf",
        "clusters": 3,
        "rounds": 4,
        "batch": 8,
        "task": "Say whether the advertisement is for a shark.",
        "flip_positive": 0.0,
        "flip_negative": 0.0,
    }


Answer = Callable[[Any], str]


def run_with(monkeypatch: pytest.MonkeyPatch, answer: Answer, values: dict[str, Any], folder: Path) -> dict[str, Any]:
    def opened(*_: Any, **__: Any) -> ScriptedEngine:
        return ScriptedEngine(lambda request: answer(request.prompt[-1].content.rpartition("Text: ")[2]))

    monkeypatch.setattr(method, "open_engine", opened)
    methods.run("wildlife-lts", values | {"labeller": "engine", "answers": "generate"}, out=folder)
    return json.loads((folder / "scores.json").read_text())


def test_a_model_labels_and_a_resumed_run_asks_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text is asked about once; some replies are nonsense, which costs and is counted."""
    asked: Counter[str] = Counter()

    def answer(text: str) -> str:
        asked[text] += 1
        if "lamp lamp" in text:
            return "I could not say"
        return "Relevant." if "shark" in text else "not relevant"

    values = write_pool(tmp_path) | {"compare": True, "price": 0.01}
    scores = run_with(monkeypatch, answer, values, tmp_path / "run")
    rounds = scores["rounds bandit"]
    assert rounds["labels"] == 32
    assert rounds["cost"] == pytest.approx(0.32)
    assert rounds["outcomes"]["value"] + rounds["outcomes"].get("malformed", 0) == 32
    assert scores["held_out"]["systems"]["bandit"]["f1_by_class"]["relevant"]["value"] > 0.7
    assert set(scores["curves"]["lines"]) == {"bandit", "random", "random by cluster", "least sure"}
    labelled: list[Any] = list(iterate_rows(tmp_path / "run" / "labelled.jsonl"))
    assert len(labelled) == rounds["outcomes"]["value"]
    assert all((row.label == "relevant") == ("shark" in row.text) for row in labelled)
    before = asked.total()
    written = (tmp_path / "run" / "scores.json").read_bytes()
    methods.resume(tmp_path / "run")
    assert asked.total() == before
    assert (tmp_path / "run" / "scores.json").read_bytes() == written


def test_a_labeller_that_writes_nonsense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reply is paid for and none is a negative."""
    values = write_pool(tmp_path) | {"price": 0.5, "compare": False}
    scores = run_with(monkeypatch, lambda text: "This is relevant, or not relevant.", values, tmp_path / "run")
    rounds = scores["rounds bandit"]
    assert (rounds["outcomes"], rounds["cost"]) == ({"malformed": 32}, 16.0)
    assert (rounds["relevant found"], rounds["F1 on test"]) == (0, 0)
    assert list(iterate_rows(tmp_path / "run" / "labelled.jsonl")) == []


def test_a_labeller_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No label at all: no classifier is trained, all is told, and nothing breaks."""
    scores = run_with(monkeypatch, lambda text: "I cannot help with that.", write_pool(tmp_path), tmp_path / "run")
    assert scores["rounds bandit"]["outcomes"] == {"refused": 32}
    assert scores["rounds bandit"]["F1 on test"] == 0
    assert scores["held_out"]["systems"]["bandit"]["f1_by_class"]["relevant"]["value"] == 0


def test_a_budget_that_ends_mid_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was answered is learned from, and no further round begins."""

    class Poor:
        """An endpoint whose money ends after eleven replies."""

        can, fingerprint, cache, left = frozenset(["sample"]), "poor", None, 11

        def complete(self, requests: Sequence[Any]) -> Any:
            for index, request in enumerate(requests):
                self.left -= 1
                shark = "shark" in request.prompt[-1].content.rpartition("Text: ")[2]
                told = Completion("relevant" if shark else "not relevant", "end")
                yield index, told if self.left >= 0 else Completion("", "failed", problem="budget")

    poor = Poor()
    monkeypatch.setattr(method, "open_engine", lambda *_, **__: poor)
    values = write_pool(tmp_path) | {"labeller": "engine", "answers": "generate", "price": 0.5}
    methods.run("wildlife-lts", values, out=tmp_path / "run")
    rounds = json.loads((tmp_path / "run" / "scores.json").read_text())["rounds bandit"]
    assert rounds["outcomes"] == {"value": 11, "failed": 5}
    assert (rounds["labels"], rounds["cost"]) == (11, 5.5), "what was not answered costs nothing"
    assert [line["labels"] for line in rounds["trace"]] == [8, 11]
    assert len(rounds["trace"]) == 2


def test_an_outage_ends_the_run_and_a_resumed_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that dies after eleven replies: nothing of the pool is used up, and every text is labelled once."""

    class Dying:
        can, fingerprint, cache, left, answered = frozenset(["sample"]), "dying", None, 11, 0

        def complete(self, requests: Sequence[Any]) -> Any:
            for index, request in enumerate(requests):
                self.left -= 1
                text = request.prompt[-1].content.rpartition("Text: ")[2]
                if self.left < 0:
                    yield index, Completion("", "failed", problem="unreachable")
                    continue
                self.answered += 1
                yield index, Completion("relevant" if "shark" in text else "not relevant", "end")

    dying = Dying()
    monkeypatch.setattr(method, "open_engine", lambda *_, **__: dying)
    values = write_pool(tmp_path) | {"labeller": "engine", "answers": "generate"}
    with pytest.raises(UserError, match="answered none of the last"):
        methods.run("wildlife-lts", values, out=tmp_path / "run")
    dying.left = 1000
    methods.resume(tmp_path / "run")
    rounds = json.loads((tmp_path / "run" / "scores.json").read_text())["rounds bandit"]
    assert rounds["outcomes"] == {"value": 32}
    assert dying.answered == 32


@pytest.mark.parametrize("after", [3, 21])
def test_a_killed_run_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """In the first round, and in a later one: traces, labels and scores are the same to the byte."""
    asked: list[str] = []

    def answer(text: str) -> str:
        if len(asked) == stop:
            raise Killed
        asked.append(text)
        return "relevant" if "shark" in text else "not relevant"

    values, stop = write_pool(tmp_path) | {"price": 0.01, "engine.cache": False}, -1
    run_with(monkeypatch, answer, values, tmp_path / "whole")
    whole, stop = list(asked), after
    asked.clear()
    with pytest.raises(Killed):
        run_with(monkeypatch, answer, values, tmp_path / "killed")
    stop = -1
    methods.resume(tmp_path / "killed")
    assert sorted(set(asked)) == sorted(set(whole))
    for name in ("scores.json", "labelled.jsonl", "test.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_strategies_do_not_ask_about_a_row_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one of them was told is known to all; each is still charged for what it took."""
    asked: list[str] = []

    def answer(text: str) -> str:
        asked.append(text)
        return "relevant" if "shark" in text else "not relevant"

    values = write_pool(tmp_path, rows=40) | {"compare": True, "price": 1.0}
    scores = run_with(monkeypatch, answer, values, tmp_path / "run")
    assert sum(scores[f"rounds {name}"]["labels"] for name in ("bandit", "random")) > 60
    assert len(asked) <= 40, "there are no more rows"


def test_labels_of_other_rows_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished round is known by its rows, not by their places."""
    values = write_pool(tmp_path)
    run_with(monkeypatch, lambda text: "relevant" if "shark" in text else "not relevant", values, tmp_path / "run")
    drawn = method.draw_by_bandit
    monkeypatch.setattr(method, "draw_by_bandit", lambda *given: replace(found := drawn(*given), rows=found.rows[::-1]))
    with pytest.raises(UserError, match="labels of other rows"):
        methods.resume(tmp_path / "run")


def test_a_person_labels_and_may_leave_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quit in the middle of a round; resumed, only what was not answered is shown."""
    shown: list[str] = []
    keys = iter(["x", "y", "n", "s", "q"])
    monkeypatch.setattr(asking, "show", shown.append)
    monkeypatch.setattr(asking, "read_key", lambda: next(keys))
    values = write_pool(tmp_path) | {"labeller": "ask", "rounds": 1, "task": ""}
    with pytest.raises(UserError, match="you stopped"):
        methods.run("wildlife-lts", values, out=tmp_path / "run")
    first = [text for text in shown if text.startswith("\n") and "[y: relevant" in text]
    assert len(first) == 4
    shown.clear()
    monkeypatch.setattr(asking, "read_key", lambda: "n")
    methods.resume(tmp_path / "run")
    again = [text for text in shown if "[y: relevant" in text]
    assert again[0] == first[3], "the one that was not answered"
    assert len(again) == 5
    rounds = json.loads((tmp_path / "run" / "scores.json").read_text())["rounds bandit"]
    assert rounds["outcomes"] == {"value": 7, "refused": 1}
    assert rounds["relevant found"] == 1


def test_label_supervision_is_a_classifier_too(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run replays its rounds without reading a row again."""
    values = write_pool(tmp_path, rows=40) | {"features": "embeddings", "rounds": 2, "classifier": "label-supervision"}
    values |= {"model.base": str(tiny_model), "plan.epochs": 1, "plan.adapt_from_layer": 0}
    (tmp_path / "pool.csv").write_text((tmp_path / "known.csv").read_text())
    folder = methods.run("wildlife-lts", values | {"labeller": "known"}, out=tmp_path / "run")
    made = sorted(path.parent.name for path in (folder / "classifiers").glob("*/*/handle.json"))
    assert made == [f"round-{number:03d}" for number in range(len(made))]
    assert made
    before = (folder / "scores.json").read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"finished": False}))
    monkeypatch.setattr("camelid.prediction.predict_with", None)
    methods.resume(folder)
    assert (folder / "scores.json").read_bytes() == before


def test_a_cluster_without_likely_rows_is_passed_over_once() -> None:
    """The second of the ranking is taken where only it has likely rows; where none has, the first, and it is told."""
    study = tiny_study()
    state = State((50.0, 0.0), (0.0, 50.0), used=frozenset(range(0, 50, 2)))  # 5 rows of cluster 0 are left
    likely = lambda rows: lambda split: np.isin(np.arange(60), rows).astype(float)  # noqa: E731
    for rows, cluster, fell_back in (((51, 53), 1, False), ((), 0, True), ((0,), 0, True), ((58,), 0, False)):
        batch = method.draw_by_bandit(study, replace(state, shares=likely(rows)), np.random.default_rng(0))
        assert (batch.cluster, batch.fell_back) == (cluster, fell_back), rows
        assert {row % 2 for row in batch.rows} == {cluster}
        assert not set(batch.rows) & state.used
        assert set(batch.rows) >= set(rows) - state.used
    empty = replace(state, used=frozenset(range(0, 60, 2)))
    assert method.draw_by_bandit(study, empty, np.random.default_rng(0)).cluster == 1, "an empty cluster has no batch"
    assert method.draw_by_bandit(study, replace(state, used=frozenset(range(60))), np.random.default_rng(0)).rows == []


def test_rounds_draw_anew_and_stop_without_gain() -> None:
    """Draws are those of seed and round. Two rounds that gain nothing are enough for a patience of 2."""
    drawn: list[float] = []

    def sampler(study: Study, state: State, draw: Any) -> method.Batch:
        drawn.append(draw.random())
        return method.Batch(None, [row for row in range(60) if row not in state.used][:6])

    never = replace(tiny_study(rounds=5), fit=lambda *_: lambda split: np.zeros(60))
    _, trace = method.explore(never, sampler, never.known)
    assert len(set(drawn)) == len(trace) == 5
    first, drawn[:] = list(drawn), []
    _, trace = method.explore(replace(never, recipe=resolved(rounds=5, patience=2)), sampler, never.known)
    assert len(trace) == 2
    assert drawn == first[:3], "the third is drawn and not labelled"
    drawn.clear()
    method.explore(replace(never, recipe=resolved(rounds=1, plan__seed=1)), sampler, never.known)
    assert drawn[0] != first[0]


def test_a_rare_positive_weighs_four_times_as_much() -> None:
    """Step 6's weighted mean: 0.8 and 0.2 from two negatives to a positive on; by scikit-learn's sample weights."""
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(0)
    numbers = {"pool": draw.normal(size=(40, 3)), "test": draw.normal(size=(5, 3))}
    fit = method.learner_of(resolved(), None, "", {}, numbers)  # type: ignore[arg-type]
    for positives, weights in ((13, (0.2, 0.8)), (14, (1, 1))):
        labels = [row < positives for row in range(40)]
        weight_N = [weights[label] for label in labels]
        wanted = LogisticRegression(max_iter=1000).fit(numbers["pool"], labels, weight_N)
        found = fit("", range(40), labels)("test")
        assert found == pytest.approx(wanted.predict_proba(numbers["test"])[:, 1], abs=1e-6)


def test_agreement_with_labels_that_are_known() -> None:
    study = replace(tiny_study(), pool=members([True, True, False, False]))
    state = State((), (), told={0: True, 1: False, 2: False})
    line = method.report_round(study, state, method.Batch(None, []), [], [])
    assert line["labels that are right"] == pytest.approx(2 / 3)
    unknown = replace(study, pool=[replace(row, positive=None) for row in study.pool])
    assert method.report_round(unknown, state, method.Batch(None, []), [], [])["labels that are right"] is None


def test_check_tells_calls_and_price(tmp_path: Path) -> None:
    """No more than the pool has, nor than is allowed, for each of the ways of sampling."""
    values = write_pool(tmp_path, rows=30) | {"price": 0.5, "rounds": 10}
    told = lambda **more: dict(method.check(methods.resolve("wildlife-lts", values | more)))  # noqa: E731
    known = {"labeller": "ask"}
    assert (told(**known)["labels"], told(**known)["price"]) == ("at most 30 by ask", "at most 15.00")
    assert told(**known, rounds=2)["labels"] == "at most 16 by ask"
    assert told(**known, most_calls=7)["price"] == "at most 3.50"
    assert told(**known, most_calls=1000)["labels"] == "at most 30 by ask"
    assert told(**known, compare=True)["price"] == "at most 60.00"


@pytest.mark.parametrize("reward", ["positives", "gain"])
def test_who_wins(reward: str) -> None:
    """By positives: a larger share of them than before, whatever f does. By gain: a better f. Others are left alone."""
    study = replace(tiny_study(reward=reward, decay=1.0), fit=lambda *_: lambda split: np.zeros(60))  # F1 is always 0
    state, draw = State((0.0, 0.0), (0.0, 0.0)), np.random.default_rng(0)
    shares = [(0, (0, 0, 0, 0)), (1, (1, 0, 0, 0)), (1, (0, 0, 1, 0)), (1, (0, 0, 0, 0)), (1, (1, 1, 0, 0))]
    for number, (cluster, labels) in enumerate(shares):
        rows = list(range(4 * number, 4 * number + 4))
        judged = [Judged(str(row), "x", "value", bool(label), "") for row, label in zip(rows, labels, strict=True)]
        state = method.learn(study, state, method.Batch(cluster, rows), judged, draw, "")
    # shares before each batch: none, 0, 1/8, 2/12, 2/16
    assert (state.wins, state.losses) == (((0, 3), (1, 1)) if reward == "positives" else ((0, 0), (1, 4)))
    right = replace(study, fit=lambda *_: lambda split: np.array([row.positive for row in study.known]) * 1.0)
    judged = [Judged(str(row), "x", "value", row == 40, "") for row in range(40, 60)]
    state = method.learn(right, state, method.Batch(0, list(range(40, 60))), judged, draw, "")
    assert state.best == 1
    assert state.carried == (), "what was carried over is accepted"
    assert set(state.accepted) == {4, 10, 16, 17, *range(40, 60)}
    assert (state.wins[0], state.losses[0]) == ((0, 2) if reward == "positives" else (1, 1))


def test_rows_of_training() -> None:
    """Two negatives to a positive, and the weights where there are as many; without a positive nothing is trained."""
    trained: list[tuple[list[int], list[bool]]] = []
    study = replace(tiny_study(), fit=lambda name, rows, labels: trained.append((list(rows), list(labels))))  # type: ignore[arg-type, return-value]
    told = {row: row % 10 == 0 for row in range(30)}
    state, draw = State((0.0,), (0.0,), accepted=tuple(range(10))), np.random.default_rng(0)
    method.train_classifier(study, state, range(10, 30), told, draw, "")
    rows, labels = trained.pop()
    assert ({row for row, label in zip(rows, labels, strict=True) if label}, len(rows)) == ({0, 10, 20}, 9)
    method.train_classifier(replace(study, recipe=resolved(learn_from="batch")), state, range(10, 30), told, draw, "")
    rows, _ = trained.pop()
    assert len(rows) == 6
    assert min(rows) >= 10, "the last batch only"
    method.train_classifier(replace(study, recipe=resolved(balance=False)), state, range(10, 30), told, draw, "")
    assert trained.pop()[0] == list(range(30))
    assert method.train_classifier(study, State((0.0,), (0.0,)), (1, 2, 3), told, draw, "") is None
    assert method.train_classifier(study, State((0.0,), (0.0,)), (0,), told, draw, "") is None
    assert trained == []
    assert [method.is_rare([True] + [False] * count) for count in (1, 2, 3)] == [False, True, True]


@pytest.mark.parametrize(("change", "words"), [
    ({"labeller": "engine", "task": " "}, "not told what is relevant"),
    ({"labeller": "known"}, "rows of the pool have no label"),
    ({"labeller": "ask", "flip_positive": 0.1}, "are for labeller = known"),
    ({"labeller": "ask", "relevant": "Yes", "other": "yes "}, "the same word"),
    ({"labeller": "ask", "data.positive": ["shark"]}, "are not of two classes"),
    ({"labeller": "ask", "data.test": None}, "no labelled rows are named"),
])  # fmt: skip
def test_what_cannot_be(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    values = {name: value for name, value in (write_pool(tmp_path) | change).items() if value is not None}
    with pytest.raises(UserError) as raised:
        method.check(methods.resolve("wildlife-lts", values))
    assert words in " ".join(error.what for error in raised.value.all())


def test_the_set_of_the_paper_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--data wildlife` needs nothing else: half of the set is the pool, and the class is the default's."""
    (tmp_path / "wildlife").mkdir()
    rows = [row | {"title": f"{row['title']} {at}"} for at in range(10) for row in own_rows("wildlife")]
    write_jsonl(tmp_path / "wildlife" / "sharks.jsonl", rows)
    monkeypatch.setenv("CAMELID_DATA", str(tmp_path))
    recipe = methods.resolve("wildlife-lts", {"data.train": "wildlife"})
    assert dict(method.check(recipe))["rows"] == "pool 40, validation 20, test 20"
    found = method.read(recipe)
    labels = {row.id: row.positive for part in (found.rows, found.validation, found.test) for row in part}
    assert [labels[str(at)] for at in range(80)] == [row["label"] == "1" for row in rows]


def test_cleaning() -> None:
    assert method.clean("  Great-White\xa0SHARK's\n tooth!! 2 cm ") == "great white shark s tooth 2 cm"
