"""Checks of two-stage reasoning that a toy would fail: wrong mask, a label that leaks, a reply that is guessed at."""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from camelid import bases, chat, data, methods
from camelid.batches import Tokens
from camelid.engines import Question, Request, Scored
from camelid.engines.local import LocalEngine
from camelid.engines.scripted import ScriptedEngine
from camelid.errors import UserError
from camelid.metrics import mcnemar, mcnemar_statistic
from camelid.objectives import cross_entropy
from camelid.parsing import parse_marked
from camelid.rationales import count_reasons, infuse
from camelid.recipe import Plan
from camelid.report.reasons import collect_reasons
from camelid.rows import Explained, Labelled, Predicted, Reasoned, iterate_rows
from camelid.scoring import score
from conftest import CHAT_TEMPLATE, invoke, labelled_rows, make_chat_model, make_tokenizer, write_csv, write_jsonl
from parity import accuracy, make_base

two_stage = methods.load("two-stage-reasoning")
EMOTIONS = ["anger", "joy", "optimism", "sadness"]
REASON = "The queue made somebody smile. A smile is a sign of joy."
ROW = Reasoned("7", "line 8", "The queue made me smile", "joy", REASON)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a chat template."""
    return make_chat_model(tmp_path_factory.mktemp("two-stage") / "tiny")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMELID_CACHE", str(tmp_path / "cache"))


def chat_tokenizer() -> Any:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def resolved(**values: Any) -> Any:
    return methods.resolve("two-stage-reasoning", {name.replace("__", "."): value for name, value in values.items()})


def told(recipe: Any, row: Reasoned = ROW) -> Tokens:
    tokenizer = chat_tokenizer()
    text = Labelled(row.id, row.origin, row.question, row.answer)
    (prompt,) = two_stage.prompts_of(recipe, tokenizer, EMOTIONS, [text])
    return two_stage.tell_row(recipe, tokenizer, prompt, row)


# Check 1: masks and weights


def test_check_1_the_student_is_taught_reasoning_label_and_end_and_nothing_of_the_question() -> None:
    """Loss positions: the tokens of R + marker + A as one text, and 1 for the end."""
    tokenizer, found = chat_tokenizer(), told(resolved())
    joint = f"{REASON}\nLabel: joy"
    assert tokenizer.decode(found.labels) == f"{joint}<|end|>"
    assert len(found.labels) == len(tokenizer(joint)["input_ids"]) + 1
    prompt = tokenizer.decode(found.ids[: found.words[0] + 1])
    assert prompt.endswith("Text: The queue made me smile<|end|>\n#assistant\n")
    assert found.words == list(range(found.words[0], len(found.ids)))
    assert found.labels[:-1] == [found.ids[at + 1] for at in found.words[:-1]], "each told at the one before"
    plain = told(resolved(), Reasoned("7", "line 8", ROW.question, "joy", ""))
    assert tokenizer.decode(plain.labels) == "Label: joy<|end|>"
    assert plain.ids[: plain.words[0] + 1] == found.ids[: found.words[0] + 1], "the same prompt"


def test_check_1_the_generator_is_taught_the_reasoning_and_its_end_only(
    chat_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lessons = [
        {"question": f"What is {n} and {n}?", "answer": str(2 * n), "reasoning": f"Twice {n}\nis {2 * n}."}
        for n in range(2, 12)
    ]
    source = write_jsonl(tmp_path / "lessons.jsonl", lessons)
    given: list[Tokens] = []
    monkeypatch.setattr(two_stage, "fit", lambda recipe, model, tokens, plan, folder: given.extend(tokens))
    recipe = resolved(model__base=str(chat_model), generator__rows=str(source), generator__probe_rows=0)
    two_stage.train_generator(recipe, Kept(tmp_path))
    tokenizer = chat_tokenizer()
    texts = [tokenizer.decode(one.labels) for one in given]
    assert sorted(texts) == sorted(f"Twice {n} is {2 * n}.<|end|>" for n in range(2, 12))
    prompts = [tokenizer.decode(one.ids[: one.words[0] + 1]) for one in given]
    assert sum("Answer: unknown\n" in prompt for prompt in prompts) == 1, "a tenth hides its answer"
    for prompt, text in zip(prompts, texts, strict=True):
        number = int(text.split()[1])
        assert f"Question: What is {number} and {number}?\n" in prompt
        assert f"Answer: {2 * number}\n" in prompt or "Answer: unknown\n" in prompt
        assert "Twice" not in prompt


class Kept:
    """A run that builds and fits models and keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rows(self, name: str, make: Callable[[], Any]) -> list[Any]:
        return list(make())

    def scores(self, name: str, make: Callable[[], Any]) -> Any:
        return make()

    def model(self, name: str, build: Callable[[], Any], fit: Callable[[Any, Path], None]) -> Path:
        fit(build(), self.folder / name)
        return self.folder / name


def test_the_weight_of_the_label_is_on_the_label_and_its_end() -> None:
    tokenizer, found = chat_tokenizer(), told(resolved(label_weight=5.0))
    assert set(found.weights) == {1.0, 5.0}
    heavy = [label for label, weight in zip(found.labels, found.weights, strict=True) if weight == 5]
    assert tokenizer.decode(heavy) == " joy<|end|>"
    assert found.weights == tuple(sorted(found.weights)), "the last tokens"
    assert set(told(resolved()).weights) == {1.0}


@pytest.mark.parametrize(("reduction", "weight", "expected"), [
    ("tokens", 1.0, (1 + 2 + 3 + 4) / 4),
    ("rows", 1.0, ((1 + 2 + 3) / 3 + 4) / 2),
    ("sums", 1.0, ((1 + 2 + 3) + 4) / 2),
    ("tokens", 10.0, (1 + 2 + 30 + 40) / 4),
    ("rows", 10.0, ((1 + 2 + 30) / 3 + 40) / 2),
    ("sums", 10.0, ((1 + 2 + 30) + 40) / 2),
])  # fmt: skip
def test_reductions_by_hand(
    reduction: str, weight: float, expected: float, monkeypatch: pytest.MonkeyPatch, chat_model: Path, tmp_path: Path
) -> None:
    """Two rows of 3 and 1 labels with losses 1, 2, 3 and 4 nats; the label is the last token of each."""
    recipe = resolved(reduction=reduction, label_weight=weight, model__base=str(chat_model))
    rows = [Tokens("", [5, 6, 7], [0, 0, 0], [0, 1, 2]), Tokens("", [5], [0], [0])]
    weighed = [two_stage.weigh(recipe, row, len(row.labels) - 1) for row in rows]
    given: list[Any] = []
    monkeypatch.setattr(two_stage.labelling, "freeze_states", lambda *rest: None)
    monkeypatch.setattr(two_stage, "train", lambda model, batches, *rest, folder: given.append(batches))
    two_stage.fit(recipe, None, weighed, Plan(epochs=1, batch_rows=2), tmp_path)
    (batch,) = given[0](0)
    losses = {(5, 0): 1.0, (6, 1): 2.0, (7, 2): 3.0}

    def model(batch: Any) -> torch.Tensor:
        rows_of = zip(batch.row_N.tolist(), batch.token_N.tolist(), strict=True)
        alone = [int(batch.mask_BT[row].sum()) == 1 for row in range(2)]
        nats = [4.0 if alone[row] else losses[int(batch.ids_BT[row, at]), at] for row, at in rows_of]
        return torch.tensor([[-nat, math.log1p(-math.exp(-nat))] for nat in nats])  # log-probs of two tokens

    sums, _ = cross_entropy(model, batch)
    assert sums["loss"].item() / batch.counts["loss"] == pytest.approx(expected, rel=1e-5)


# Check 2: identical information


class Recording(ScriptedEngine):
    """A scripted engine with a tokenizer, as local ones have."""

    tokenizer = chat_tokenizer()


def test_check_2_both_students_read_the_same_bytes_and_no_label() -> None:
    rows = [Labelled("1", "a", "I smile", "joy"), Labelled("2", "b", "I sob", "sadness")]
    other = [Labelled(row.id, row.origin, row.text, "anger") for row in rows]
    asked = []
    for some, reasons in ((rows, True), (rows, False), (other, True)):
        engine = Recording(lambda request: "Label: joy")
        two_stage.answer(resolved(), engine, EMOTIONS, some, reasons=reasons)
        asked.append([chat.encode_prompt(engine.tokenizer, one.prompt) for one in engine.asked])
    assert asked[0] == asked[1] == asked[2]
    assert len(asked[0]) == 2
    text = Recording.tokenizer.decode(asked[0][0])
    assert text.count("joy") == 1, "in the list of labels, and nowhere else"


@pytest.mark.parametrize("split", ["test", "dev"])
def test_check_2_rows_for_scores_are_not_augmented(split: str) -> None:
    rows = [Labelled("1", "a", "I smile", "joy")]
    with pytest.raises(UserError, match="reasons are written from the labels"):
        two_stage.augment(resolved(), None, rows, split, EMOTIONS)


@pytest.mark.parametrize("source", ["emotion:test", "emotion:val", "hub:some/set:validation", "hub:some/set:test[:90]"])
def test_check_2_a_split_for_scores_is_no_training_data(source: str) -> None:
    assert any("is a split for scores" in what for what, _ in two_stage.complaints(resolved(data__train=source)))


@pytest.mark.parametrize(
    "source", ["emotion", "emotion:train", "hub:some/set", "hub:some/set:train", "hub:some/set:all", "test.csv"]
)
def test_check_2_training_splits_are(source: str) -> None:
    assert not any("is a split for scores" in what for what, _ in two_stage.complaints(resolved(data__train=source)))


# Check 4: McNemar


def test_check_4_mcnemar() -> None:
    """b = 40, c = 20: chi2 = 19^2 / 60 = 6.016667, p = 0.014171; the exact binomial p is 0.013489."""
    chi2, p = mcnemar_statistic(40, 20)
    assert (chi2, p) == (pytest.approx(6.016667, abs=1e-6), pytest.approx(0.014171, abs=1e-6))
    right_N = np.arange(100) < 40
    other_N = (np.arange(100) >= 40) & (np.arange(100) < 60)
    assert mcnemar(right_N, other_N) == (40, 20, pytest.approx(0.013489, abs=1e-6))
    assert mcnemar_statistic(0, 0) == (0.0, 1.0)
    assert mcnemar_statistic(3, 3)[0] == 0.0, "the correction does not turn a tie into a difference"


def explained(row_id: int, gold: str, label: str, outcome: str = "value") -> Explained:
    return Explained(str(row_id), gold, label, {}, reasoning="So.", reply=f"So.\nLabel: {label}", outcome=outcome)


def test_contrast_counts_pairs_and_classes_by_hand() -> None:
    """Of 4 sad rows ours has 3 and the other 1, on different rows; of 2 joyful ones both have one."""
    golds = ["sad"] * 4 + ["joy"] * 2
    ours = [
        explained(n, gold, label) for n, (gold, label) in enumerate(zip(golds, ["sad"] * 3 + ["joy"] * 2 + ["sad"]))
    ]
    plain = [
        explained(n, gold, label) for n, (gold, label) in enumerate(zip(golds, ["joy"] * 3 + ["sad", "joy", "sad"]))
    ]
    found = two_stage.contrast(ours, plain, ["joy", "sad"])
    assert (found["mcnemar"]["only ours right"], found["mcnemar"]["only label alone right"]) == (3, 1)
    assert found["mcnemar"]["chi2"] == pytest.approx((2 - 1) ** 2 / 4)
    assert found["mcnemar"]["exact p"] == pytest.approx(2 * (1 + 4) / 16)
    sad = found["accuracy by class"]["sad"]
    assert (sad["rows"], sad[two_stage.OURS], sad[two_stage.PLAIN]) == (4, 0.75, 0.25)
    assert sad["difference"]["value"] == pytest.approx(0.5)
    assert found["accuracy by class"]["joy"]["difference"]["value"] == 0


# Check 5: the parser


@pytest.mark.parametrize(("reply", "label"), [
    ("Joy is gone.\nEmotion: sadness", "sadness"),
    ("Emotion: joy?\nEMOTION: Anger.", "anger"),
    ("joy turns to sadness", "sadness"),
    ("Emotion: joyful", None),
    ("Emotion:", None),
    ("", None),
    ("Sadness at first.\nEmotion: joyful", None),
    ("Emotion: joy, not sadness", "joy"),
])  # fmt: skip
def test_check_5_the_table_of_replies(reply: str, label: str | None) -> None:
    found = parse_marked("Emotion:", EMOTIONS)(reply)
    assert found.value == label
    assert (found.outcome == "value") == (label is not None)


def test_replies_become_label_reasoning_and_outcome() -> None:
    replies = {"one": "It beams.\nLabel: unsure\nLABEL: joy", "two": "Label:", "three": "Nothing of use", "four": ""}
    rows = [Labelled(str(n), "x", text, "joy") for n, text in enumerate(replies)]
    engine = Recording(lambda request: replies[request.prompt[-1].content.split("Text: ")[1]])  # type: ignore[union-attr]
    found = two_stage.answer(resolved(), engine, EMOTIONS, rows, reasons=True)
    assert [row.predicted for row in found] == ["joy", *[two_stage.UNREAD] * 3]
    assert [row.reasoning for row in found] == ["It beams. Label: unsure", "", "Nothing of use", ""]
    assert [row.outcome for row in found] == ["value", *["malformed"] * 3]
    assert [row.reply for row in found] == list(replies.values())
    assert two_stage.count_replies(found) == {"share read": 0.25, "value": 1, "malformed": 3}


# Check 6 in a smaller form; tests/effects has the card's own


def test_check_6_running_parities_teach_what_the_label_alone_does_not(tmp_path: Path) -> None:
    """8 bits, 160 strings to learn from, 90 others to answer, 300 steps: chance is 0.5."""
    base = make_base(tmp_path / "base")
    right, read = accuracy(base, 8, 160, 90, 300, reasons=True)
    plain, plain_read = accuracy(base, 8, 160, 90, 300, reasons=False)
    assert right > 0.95
    assert plain < 0.7
    assert min(read, plain_read) > 0.95


# Answers


def probabilities(shares: dict[str, float]) -> Callable[[Question], Scored]:
    """Scores in which the answer's label decides, and what stands before it is the same to all."""
    return lambda question: Scored(
        tuple(
            (-3.0, math.log(next(p for name, p in shares.items() if text.endswith(name)))) for text in question.answers
        )
    )


def test_forced_labels_are_scored_behind_what_was_written() -> None:
    rows = [Labelled("0", "x", "one", "joy"), Labelled("1", "x", "two", "joy")]
    replies = {"one": "Bright\nand warm", "two": "Cold.\nLabel: anger"}
    scores = probabilities({"anger": 0.1, "joy": 0.2, "optimism": 0.3, "sadness": 0.4})
    engine = Recording(lambda request: replies[request.prompt[-1].content.split("Text: ")[1]], scores)  # type: ignore[union-attr]
    found = two_stage.answer(resolved(force_label=True), engine, EMOTIONS, rows, reasons=True)
    assert [(row.predicted, row.outcome) for row in found] == [("sadness", "forced"), ("anger", "value")]
    (question,) = [one for one in engine.asked if isinstance(one, Question)]
    assert question.answers == tuple(f"Bright and warm\nLabel: {name}" for name in EMOTIONS)
    assert question.ended
    assert found[0].probabilities["joy"] == pytest.approx(0.2)
    assert found[1].probabilities == {}


def test_scored_answers_take_the_likeliest_label_for_every_row() -> None:
    rows = [Labelled("0", "x", "one", "joy")]
    scores = probabilities({"anger": 0.1, "joy": 0.6, "optimism": 0.2, "sadness": 0.1})
    for reasons, front in ((True, "Cold.\n"), (False, "")):
        engine = Recording(lambda request: "Cold.\nLabel: anger", scores)
        (found,) = two_stage.answer(resolved(answers="score"), engine, EMOTIONS, rows, reasons=reasons)
        assert (found.predicted, found.outcome) == ("joy", "scored")
        (question,) = [one for one in engine.asked if isinstance(one, Question)]
        assert question.answers[0] == f"{front}Label: anger"


def test_scored_labels_are_conditional_probabilities(chat_model: Path) -> None:
    """softmax over labels of log p(R, marker, A, E | Q) is p(A | Q, R) among them: R and marker cancel."""
    base = bases.open_base(str(chat_model))
    engine = LocalEngine(bases.load_lm(base, "float32"), base.tokenizer)
    prompt = chat.converse("Which?")
    (shares,) = two_stage.score_labels(resolved(), engine, ["joy", "anger"], [prompt], ["It beams."])
    (found,) = score(engine, [Question(prompt, ("It beams.\nLabel: joy", "It beams.\nLabel: anger"), ended=True)])
    front = len(base.tokenizer("It beams.\nLabel:")["input_ids"])
    tails = [sum(values[front:]) for values in found.logprobs]
    assert found.logprobs[0][:front] == pytest.approx(found.logprobs[1][:front], abs=1e-5)
    weights = [math.exp(tail) for tail in tails]
    assert shares["joy"] == pytest.approx(weights[0] / sum(weights), abs=1e-5)


def test_votes_count_labels_and_keep_a_reason_of_the_winner() -> None:
    replies = ["Odd.\nLabel: anger", "Warm.\nLabel: joy", "no idea", "Bright.\nLabel: joy"]
    engine = Recording(replies)
    recipe = resolved(votes=4)
    (found,) = two_stage.answer(recipe, engine, EMOTIONS, [Labelled("0", "x", "one", "joy")], reasons=True)
    assert (found.predicted, found.reasoning) == ("joy", "Warm.")
    assert found.probabilities == {"anger": pytest.approx(1 / 3), "joy": pytest.approx(2 / 3)}
    assert {one.sampling.temperature for one in engine.asked if isinstance(one, Request)} == {0.7}
    assert [one.sample for one in engine.asked if isinstance(one, Request)] == [0, 1, 2, 3]


def test_the_limit_holds_the_longest_label_and_the_end() -> None:
    tokenizer, labels = chat_tokenizer(), ["joy", "a very long label indeed"]
    plain = two_stage.sampling_of(resolved(), tokenizer, labels, reasons=False)
    assert plain.max_tokens == len(tokenizer("\nLabel: a very long label indeed")["input_ids"]) + 1
    assert two_stage.sampling_of(resolved(), tokenizer, labels, reasons=True).max_tokens == plain.max_tokens + 64
    assert plain.temperature == 0


# What is kept of what is drawn


def reasoner(monkeypatch: pytest.MonkeyPatch, engine: Any, untuned: Any = None, **values: Any) -> Any:
    """What gives rows their reasons from an engine."""
    monkeypatch.setattr(two_stage, "open_base", lambda recipe: SimpleNamespace(tokenizer=chat_tokenizer()))
    opened = lambda values, model, *adapted: engine if adapted else untuned  # noqa: E731
    monkeypatch.setattr(two_stage.engines, "open_engine", opened)
    return two_stage.reasoner_of(resolved(least_tokens=1, generator__source="engine", **values), None, EMOTIONS)


def test_rows_are_drawn_again_until_they_have_a_reason_and_stay_plain_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [Labelled("0", "x", "one", "joy"), Labelled("1", "x", "two", "anger"), Labelled("2", "x", "three", "joy")]

    def reply(request: Request) -> str:
        content = request.prompt[-1].content  # type: ignore[union-attr]
        late = request.seed >= 2
        return "" if "three" in content or ("two" in content and not late) else f"Because of {request.seed}."

    engine = ScriptedEngine(reply)
    judged = reasoner(monkeypatch, engine, tries=3)(rows)
    assert [one.value["reasonings"] for one in judged] == [["Because of 0."], ["Because of 2."], []]
    assert [one.value["left out"] for one in judged] == [{}, {"empty": 2}, {"empty": 3}]
    assert len(engine.asked) == 3 + 2 + 2, "what has its reason is not asked again"
    assert count_reasons(judged) == {
        "rows": 3, "rows with reasoning": 2, "rows that stay plain": 1, "reasonings": 2, "drawings": 7,
        "left out": {"empty": 5},
    }  # fmt: skip
    assert [row.reasoning for row in infuse(rows, judged)] == ["Because of 0.", "Because of 2.", ""]
    content = engine.asked[0].prompt[-1].content  # type: ignore[union-attr]
    assert "Text: one" in content
    assert "Answer: joy" in content


def test_several_reasonings_make_several_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(
        lambda request: "" if request.sample == 1 and not request.seed else f"S{request.seed}{request.sample}"
    )
    rows = [Labelled("4", "x", "one", "joy")]
    judged = reasoner(monkeypatch, engine, reasonings=2)(rows)
    assert judged[0].value["reasonings"] == ["S00", "S10"]
    found = list(infuse(rows, judged))
    assert [(row.id, row.question, row.answer, row.reasoning) for row in found] == [
        ("4.0", "one", "joy", "S00"), ("4.1", "one", "joy", "S10"),
    ]  # fmt: skip


def test_the_consistency_check_asks_the_untuned_base_and_draws_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first reason of the second row speaks of anger: it is left out, and the next one is kept."""
    rows = [Labelled("0", "x", "one", "joy"), Labelled("1", "x", "two", "joy")]
    engine = ScriptedEngine(
        lambda r: "It is an angry text." if "two" in r.prompt[-1].content and not r.seed else "Warm."
    )  # type: ignore[union-attr]

    def prefer(question: Question) -> Scored:
        wanted = "anger" if "angry" in question.prompt[-1].content else "joy"  # type: ignore[union-attr]
        return Scored(tuple((-1.0 if text == wanted else -2.0,) for text in question.answers))

    untuned = ScriptedEngine([], prefer)
    judged = reasoner(monkeypatch, engine, untuned, check_label=True)(rows)
    assert [one.value["reasonings"] for one in judged] == [["Warm."], ["Warm."]]
    assert judged[1].value["left out"] == {"another label is likelier": 1}
    assert all("Answer: " not in one.prompt[-1].content for one in untuned.asked), "the scorer is not told the label"  # type: ignore[union-attr]
    engine.asked.clear()
    judged = reasoner(monkeypatch, engine)(rows)
    assert judged[1].value["reasonings"] == ["It is an angry text."], "off by default"


# Runs


def small(chat_model: Path, source: Path, **values: Any) -> dict[str, Any]:
    """A run of seconds on rows of a user's own."""
    common = {
        "model.base": str(chat_model), "data.train": str(source), "plan.epochs": 1, "plan.adapt_from_layer": 0,
        "plan.learning_rate": 5e-3, "generator.most_rows": 16, "generator.longest": 400, "reasoning_tokens": 16,
        "least_tokens": 1, "tries": 1, "max_tokens": 32, "generator.probe_rows": 4,
    }  # fmt: skip
    return common | {name.replace("__", "."): value for name, value in values.items()}


@pytest.fixture(scope="module")
def reasons_jsonl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reason for every row of `labelled_rows` but those of the queue."""
    rows = [
        {"question": row["text"], "answer": row["label"], "reasoning": f"The words say {row['label']}."}
        for row in labelled_rows()
        if not row["text"].startswith("The queue")
    ]
    return write_jsonl(tmp_path_factory.mktemp("reasons") / "reasons.jsonl", rows)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, chat_model: Path, tweets_csv: Path, reasons_jsonl: Path) -> Path:
    """A run with a file of reasons. Read it only."""
    values = small(chat_model, tweets_csv, generator__source="file", generator__file=str(reasons_jsonl), compare=True)
    values["reasoning_tokens"] = 32
    return methods.run("two-stage-reasoning", values, out=tmp_path_factory.mktemp("runs") / "reasons")


def test_a_run_ends_with_three_systems_and_their_reasons(finished: Path) -> None:
    scores = json.loads((finished / "scores.json").read_text())
    systems = ["reasoning, then label", "label alone", "label supervision"]
    assert list(scores["held_out"]["systems"])[:3] == systems
    assert scores["held_out"]["ours"] == systems[0]
    assert set(scores["held_out"]["against"]) >= set(systems[1:])
    rows: list[Any] = list(iterate_rows(finished / "predictions" / "reasoning-then-label.jsonl"))
    assert all(isinstance(row, Explained) and isinstance(row, Predicted) for row in rows)
    taught: list[Any] = list(iterate_rows(finished / "reasoned" / "train.jsonl"))
    train: list[Any] = list(iterate_rows(finished / "train.jsonl"))
    assert [(row.question, row.answer) for row in taught] == [(row.text, row.label) for row in train]
    for row in taught:
        assert row.reasoning == ("" if row.question.startswith("The queue") else f"The words say {row.answer}.")
    plain = sum(not row.reasoning for row in taught)
    counts = scores["augmentation"]
    assert (counts["rows that stay plain"], counts["left out"]) == (plain, {"not in the file": plain})
    assert plain > 0
    told: list[Any] = list(iterate_rows(finished / "test.jsonl")) or list(iterate_rows(finished / "dev.jsonl"))
    assert not {row.text for row in told} & {row.question for row in taught}


def test_the_report_shows_reasoning_label_and_gold(finished: Path, camelid: Any) -> None:
    shown = camelid("report", finished)
    assert shown.exit_code == 0, shown.output
    page = (finished / "report.html").read_text()
    section = page.split('<section id="reasons">')[1].split("</section>")[0]
    first: Any = next(iter(iterate_rows(finished / "predictions" / "reasoning-then-label.jsonl")))
    assert "What it wrote before its labels" in section
    assert section.count("<li>") >= 2
    assert first.gold in section
    assert first.outcome in section


def test_the_report_takes_right_and_wrong_rows_in_turn() -> None:
    rows = [{"id": str(n), "origin": f"line {n}", "text": f"text {n}"} for n in range(30)]
    found = [
        {
            "id": str(n),
            "gold": "joy",
            "predicted": "anger" if n % 3 else "joy",
            "reasoning": f"r {n}",
            "outcome": "value",
        }
        for n in range(30)
    ]
    shown = collect_reasons(found, rows)
    assert [reason.text for reason in shown[:4]] == ["text 0", "text 1", "text 3", "text 2"]
    assert [reason.right for reason in shown] == [True, False] * 5
    assert (shown[1].predicted, shown[1].gold, shown[1].reasoning) == ("anger", "joy", "r 1")
    assert collect_reasons([{"id": "0", "gold": "joy", "predicted": "joy"}], rows) == [], "it writes no reasoning"


def test_predict_gives_label_and_reasoning(finished: Path, tweets_csv: Path, tmp_path: Path, camelid: Any) -> None:
    shown = camelid("predict", finished, tweets_csv, "--out", tmp_path / "out.jsonl")
    assert shown.exit_code == 0, shown.output
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(lines) == len(labelled_rows())
    assert all({"text", "label", "predicted", "predicted_reasoning"} <= set(line) for line in lines)
    known: list[Any] = list(iterate_rows(finished / "predictions" / "reasoning-then-label.jsonl"))
    by_text = {line["text"]: line for line in lines}
    texts = {row.id: row.text for row in iterate_rows(finished / "dev.jsonl")}  # type: ignore[union-attr]
    for row in known:
        assert by_text[texts[row.id]]["predicted"] == row.predicted
        assert by_text[texts[row.id]]["predicted_reasoning"] == row.reasoning


def test_a_column_that_predict_writes_is_not_overwritten(finished: Path, tmp_path: Path, camelid: Any) -> None:
    source = write_csv(tmp_path / "in.csv", [{"text": "a", "predicted_reasoning": "mine"}])
    shown = camelid("predict", finished, source, "--out", tmp_path / "out.csv")
    assert shown.exit_code == 2
    assert "already has the column 'predicted_reasoning'" in " ".join(shown.output.split())


def test_the_generator_is_trained_and_measured_and_a_run_uses_it_again(
    chat_model: Path, tweets_csv: Path, tmp_path: Path
) -> None:
    lessons = [{"question": f"Which {n}?", "answer": str(n), "reasoning": "It is so."} for n in range(24)]
    source = write_jsonl(tmp_path / "lessons.jsonl", lessons)
    values = small(chat_model, tweets_csv, supervise=False, tries=4, data__train_rows=16, data__dev_rows=3)
    values |= {"generator.rows": str(source), "generator.passes": 15, "plan.tuning": "full"}
    folder = methods.run("two-stage-reasoning", values, out=tmp_path / "run")
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["lessons"]["rows"] == 16
    assert scores["generator"]["rows"] == 4
    assert scores["generator"]["differences"]["untuned - tuned"]["low"] > 0, "unseen rows became likelier"
    assert set(scores["held_out"]["systems"]) == {"reasoning, then label", "label alone"}
    again = values | {"generator.source": "folder", "generator.folder": str(folder / "generator")}
    other = methods.run("two-stage-reasoning", again, out=tmp_path / "again")
    assert (other / "reasons" / "train.jsonl").read_bytes() == (folder / "reasons" / "train.jsonl").read_bytes()
    assert not (other / "generator").exists()


def test_a_killed_augmentation_goes_on_with_the_next_row(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """150 rows in chunks of 64: the third chunk dies; the resumed run asks for it alone and ends as one that lived."""
    source = write_csv(tmp_path / "rows.csv", [
        {"text": f"{row['text']} {n}", "label": row["label"]} for n in range(3) for row in labelled_rows()
    ])  # fmt: skip
    values = small(chat_model, source, generator__source="engine", supervise=False, data__dev_rows=3)
    asked: list[list[str]] = []

    def engine(dies: bool) -> ScriptedEngine:
        def reply(request: Request) -> str:
            content = request.prompt[-1].content.split("Text: ")[1].split("\n")[0]  # type: ignore[union-attr]
            asked[-1].append(content)
            if dies and len(asked[-1]) > 130:
                raise KeyboardInterrupt
            return f"It says {len(content)}."

        return ScriptedEngine(reply)

    opened = two_stage.engines.open_engine

    def run(name: str, dies: bool, go: Callable[[], Any]) -> None:
        asked.append([])
        scripted = engine(dies)
        given = lambda values, model, adapted=None, base=None: (  # noqa: E731
            opened(values, model, adapted, base) if adapted else scripted
        )
        monkeypatch.setattr(two_stage.engines, "open_engine", given)
        go()

    with pytest.raises(KeyboardInterrupt):
        run("killed", True, lambda: methods.run("two-stage-reasoning", values, out=tmp_path / "killed"))
    run("killed", False, lambda: methods.resume(tmp_path / "killed"))
    run("whole", False, lambda: methods.run("two-stage-reasoning", values, out=tmp_path / "whole"))
    assert len(asked[1]) == len(asked[2]) - 128
    assert not set(asked[1]) & set(asked[0][:128])
    for name in (
        "reasons/train.jsonl",
        "reasoned/train.jsonl",
        "scores.json",
        "predictions/reasoning-then-label.jsonl",
    ):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


class Writer(BaseHTTPRequestHandler):
    """An endpoint that writes the same reason for every label, and keeps what it was asked."""

    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body["messages"][-1]["content"])
        usage = {"prompt_tokens": 50, "completion_tokens": 10}
        choice = {"message": {"role": "assistant", "content": "Its words point there."}, "finish_reason": "stop"}
        text = json.dumps({"choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the screen."""


def test_an_endpoint_writes_reasons_until_the_money_is_spent(
    chat_model: Path, tweets_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reply costs 10, and 25 of them are paid for; the other rows stay plain, and say why."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    Writer.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Writer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    values = small(
        chat_model, tweets_csv, generator__source="engine", engine__kind="remote", engine__name="writer",
        engine__url=f"http://127.0.0.1:{server.server_port}/v1", engine__price_output=1e6, engine__most_cost=250.0,
        engine__concurrency=1, reasoning_tokens=32, data__dev_rows=3, supervise=False,
    )  # fmt: skip
    folder = methods.run("two-stage-reasoning", values, out=tmp_path / "run")
    server.shutdown()
    counts = json.loads((folder / "scores.json").read_text())["augmentation"]
    assert counts["rows with reasoning"] == len(Writer.asked)
    assert 20 <= len(Writer.asked) <= 25
    assert counts["left out"] == {"budget": 54 - len(Writer.asked)} == {"budget": counts["rows that stay plain"]}
    assert all("Answer: " in text for text in Writer.asked)
    assert (folder / "model" / "handle.json").is_file(), "the students are trained and asked here"


def test_a_run_without_a_single_reason_ends(chat_model: Path, tweets_csv: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "none.jsonl", [{"question": "other", "answer": "x", "reasoning": "so it is said"}])
    values = small(chat_model, tweets_csv, generator__source="file", generator__file=str(source))
    with pytest.raises(UserError, match="not one of 54 training rows has a reasoning"):
        methods.run("two-stage-reasoning", values, out=tmp_path / "run")


def test_a_finished_run_reads_neither_reasons_nor_model_again(
    finished: Path, chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    before = (folder / "scores.json").read_bytes()

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a finished stage was made again")

    for name in ("open_base", "read"):
        monkeypatch.setattr(two_stage, name, refuse)
    monkeypatch.setattr(two_stage.rationales, "read_given", refuse)
    methods.resume(folder)
    assert (folder / "scores.json").read_bytes() == before


def test_the_demo_needs_no_named_data() -> None:
    """Its rows come from a wheel and from templates."""
    recipe = methods.resolve("two-stage-reasoning")
    assert (recipe.data.train, recipe.generator.rows) == ("crowd-tweets", "puzzles")
    assert set(data.places_of("puzzles").values()) == {"made"}
    assert set(data.places_of("crowd-tweets").values()) == {"embedded"}


@pytest.mark.parametrize(("values", "words"), [
    ({"data__task": "multi-label"}, "one label a text"),
    ({"generator__source": "folder"}, "holds no trained model"),
    ({"generator__source": "file"}, "generator.file names none"),
    ({"engine__kind": "remote"}, "is read by a local engine"),
    ({"engine__kind": "remote", "generator__source": "engine"}, "not the plain address"),
    ({"generator__source": "engine", "engine__kind": "remote", "engine__url": "http://h/v1", "engine__name": "m",
      "engine__most_cost": 1.0}, "limits nothing"),
    ({"least_tokens": 9, "reasoning_tokens": 8}, "No reasoning would be kept"),
    ({"marker": " "}, "no mark on one line"),
    ({"marker": "a\nb"}, "no mark on one line"),
    ({"instruction": "Which one?"}, "where the labels stand"),
    ({"answers": "score", "force_label": True}, "nothing to force"),
    ({"answers": "score", "votes": 3}, "nothing to force"),
    ({"votes": 3, "temperature": 0.0}, "are all the same"),
    ({"plan__keep": "best"}, "need dev rows"),
    ({"data__train": "emotion:test"}, "split for scores"),
    ({"generator__rows": "emotion"}, "reasoned answers are wanted"),
    ({"generator__rows": "nothing.csv"}, "there is no file nothing.csv"),
    ({"max_tokens": 600, "reasoning_tokens": 600}, "the tiny model reads 512"),
])  # fmt: skip
def test_what_cannot_be(values: dict[str, Any], words: str, chat_model: Path, tweets_csv: Path) -> None:
    given = {"data__train": str(tweets_csv), "model__base": str(chat_model)} | values
    if "tiny model" in words:
        words = f"and {chat_model} reads 512"
    with pytest.raises(UserError) as raised:
        two_stage.check(resolved(**given))
    assert words in " ".join(f"{error.what} {error.fix}" for error in raised.value.all())


def test_labels_that_differ_in_case_only_cannot_be_told_apart(chat_model: Path, tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": ("Yes", "yes")[n % 2]} for n in range(20)]
    source = write_csv(tmp_path / "rows.csv", rows)
    with pytest.raises(UserError, match="cannot be told apart"):
        two_stage.check(resolved(data__train=str(source), model__base=str(chat_model)))


def test_a_base_without_a_chat_template_is_refused(tiny_model: Path, tweets_csv: Path) -> None:
    with pytest.raises(UserError, match="has no chat template"):
        two_stage.check(resolved(data__train=str(tweets_csv), model__base=str(tiny_model)))


def test_check_says_what_a_run_would_do(chat_model: Path, tweets_csv: Path) -> None:
    values = ["--data", tweets_csv, "--model", chat_model, "--longest", 400, "--reasoning-tokens", 16]
    shown = invoke("check", "two-stage-reasoning", *values)
    assert shown.exit_code == 0, shown.output
    for words in ("train 54, dev 6, test 0", "cross, glad, plain", "rows of puzzles", "about"):
        assert words in shown.output
