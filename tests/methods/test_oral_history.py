"""Seven checks of the annotation pipeline that a toy would fail, and what a user meets around them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sklearn.metrics import f1_score

from camelid import bases, engines, methods, metrics
from camelid import codebook as codebooks
from camelid.annotation import UNCLASSIFIED, label_of
from camelid.archive import Archive, code_row, first_to_review, read_archive
from camelid.baselines import predict_nearest
from camelid.engines import Completion, Question, Request, Scored
from camelid.engines.local import LocalEngine
from camelid.engines.scripted import ScriptedEngine
from camelid.errors import UserError
from camelid.evaluation import score_weighted_f1
from camelid.folds import deal_folds, split_share, spread
from camelid.methods.classify import oral_history as method
from camelid.methods.classify.oral_history import Configuration, Study
from camelid.parsing import parse_label, read_reply
from camelid.rows import Annotated, Judged, Predicted, iterate_rows
from conftest import Camelid, Killed, own_rows, write_csv, write_jsonl

REMOTE = {
    "engine.kind": "remote",
    "engine.url": "http://localhost:1/v1",
    "engine.name": "some-model",
    "answers": "generate",
    "supervise": False,
}
BOOK = """
role = "You sort notes."
[kinds.topic]
ask = "What is the note about?"
[kinds.topic.labels]
0 = { name = "facts" }
1 = { name = "before" }
2 = { name = "camp" }
3 = { name = "army" }
4 = { name = "return" }
5 = { name = "justice" }
"""


def gold() -> list[Annotated]:
    return [
        Annotated(
            str(number),
            f"line {number + 1}",
            row["text"],
            {"topic": row["topic"], "sentiment": row["sentiment"]},
            row["narrator"],
        )
        for number, row in enumerate(own_rows("oral-history"))
    ]


def values(**changes: Any) -> Any:
    """The method's recipe, with fields changed ("__" for the dot)."""
    return methods.resolve("oral-history", {name.replace("__", "."): value for name, value in changes.items()})


def remote(**changes: Any) -> Any:
    return methods.resolve("oral-history", REMOTE | {name.replace("__", "."): value for name, value in changes.items()})


def study(memory: Sequence[Annotated], recipe: Any = None, engine: Any = None) -> Study:
    recipe = recipe or remote()
    return Study(recipe, method.codebook_of(recipe), list(memory), [], lambda model: engine)


def note(number: int, text: str, topic: str = "0", group: str = "") -> Annotated:
    return Annotated(str(number), f"line {number}", text, {"topic": topic}, group)


def content(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1].content


@pytest.fixture
def gold_jsonl(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "gold.jsonl", own_rows("oral-history"))


@pytest.fixture(scope="session")
def long_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """`tiny_model` with room for whole prompts."""
    folder = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("model") / "long"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    return folder


# 1. Leakage

POOL = [
    note(0, "We lived behind the shop and I swept it every day.", "1", "Ann"),
    note(1, "The bus took us to the camp in the desert.", "2", "Bob"),
    note(2, "the bus took us to  the camp in the DESERT.", "2", "Bob"),
    note(3, "The bus took us to the camp, in the desert!", "2", "Cy"),
    note(4, "In the desert camp the wind never stopped.", "2", "Cy"),
    note(5, "I joined the army and took a train south.", "3", "Ann"),
    note(6, "Nothing here is alike whatsoever.", "0", "Dee"),
]
QUERY = note(9, "The bus took us to the camp in the desert.", "2", "Cy")


def shown(strategy: Any, pool: Sequence[Annotated] = POOL, row: Annotated = QUERY, **changes: Any) -> list[str]:
    asked = Configuration("topic", "concise", strategy)
    find = method.example_finder(study(pool, remote(labels=["topic"], **changes)), asked, pool)
    return [example.id for example in find([row])[0]]


def test_check_1_what_says_the_same_is_never_an_example() -> None:
    """0 and 5 share words with the query, 4 more of them; 1, 2 and 3 are the query but for case, spaces and marks."""
    assert shown("zero-shot") == []
    assert set(shown("few-shot")) == {"0", "4", "5", "6"}
    assert shown("retrieved", examples=3) == ["0", "5", "4"], "the most similar last"
    assert shown("retrieved", examples=1) == ["4"]
    assert shown("retrieved", examples=9)[-1] == "4"
    assert not {"1", "2", "3"} & set(shown("retrieved", examples=9))


def test_check_1_no_example_of_the_same_narrator_where_that_is_asked() -> None:
    assert "4" not in shown("retrieved", examples=9, other_groups=True)
    assert "4" not in shown("few-shot", other_groups=True)
    assert "5" in shown("retrieved", examples=9, other_groups=True)


def test_check_1_ties_go_by_row_number() -> None:
    pool = [note(n, f"{word} nothing shared", "0") for n, word in enumerate(("red", "blue", "green", "pink"))]
    assert shown("retrieved", pool, note(9, "utterly different words"), examples=3) == ["2", "1", "0"]


def test_check_1_the_models_states_find_examples_and_no_copies(long_model: Path) -> None:
    """Mean states of different texts can have cosines near 1, so no limit on them may leave out examples."""
    recipe = values(model__base=str(long_model), retriever="model", examples=3, chat=False, labels=["topic"])
    base = bases.open_base(str(long_model))
    engine = LocalEngine(bases.load_lm(base, "float32"), base.tokenizer)
    find = method.example_finder(study(POOL, recipe, engine), Configuration("topic", "concise", "retrieved"), POOL)
    found = [example.id for example in find([QUERY])[0]]
    assert len(found) == 3
    assert not {"1", "2", "3"} & set(found)


def test_check_1_memory_rows_never_see_their_own_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While memory rows choose, no prompt shows the row itself; test rows are shown to nobody."""
    rows = gold()
    engine = ScriptedEngine(lambda request: "2")
    monkeypatch.setattr(engines, "open_engine", lambda *_: engine)
    path = write_jsonl(tmp_path / "gold.jsonl", own_rows("oral-history"))
    options = REMOTE | {"data.train": str(path), "strategies": ["few-shot", "retrieved"], "memory_share": 0.6}
    folder = methods.run("oral-history", options | {"labels": ["topic"], "designs": ["concise"]}, out=tmp_path / "run")
    test = [row.text for row in iterate_rows(folder / "test.jsonl")]
    assert len(test) == 5
    fold_of = deal_folds(list(iterate_rows(folder / "memory.jsonl")), "topic", "rows", method.FOLDS, 0)  # type: ignore[arg-type]
    folds = {row.text: fold_of[row.id] for row in rows if row.id in fold_of}
    seen = 0
    for asked in engine.asked:
        *examples, own = [line for line in content(asked.prompt).split("\n") if line.startswith('Transcript: "')]
        own, examples = own[13:-1], [line[13:-1] for line in examples]
        assert own not in examples
        assert not set(test) & set(examples)
        if own in folds:
            assert folds[own] not in {folds[text] for text in examples}
            seen += len(examples) > 0
    assert seen == 14, "7 memory rows, two strategies"


def test_check_1_groups_stay_on_one_side() -> None:
    rows = gold()
    memory, test = split_share(rows, "topic", 0.4, "groups", 0)
    narrators = [{row.group for row in side} for side in (memory, test)]
    assert not narrators[0] & narrators[1]
    assert narrators[0] | narrators[1] == {row.group for row in rows}
    assert len(memory) in (3, 6)
    folds = deal_folds(rows, "topic", "groups", method.FOLDS, 0)
    assert len({(row.group, folds[row.id]) for row in rows}) == 4


def test_every_fold_has_every_label() -> None:
    rows = [note(n, f"row {n}", str(n % 5)) for n in range(50)]
    folds = deal_folds(rows, "topic", "rows", method.FOLDS, 0)
    assert Counter((row.labels["topic"], folds[row.id]) for row in rows) == {
        (str(label), fold): 2 for label in range(5) for fold in range(5)
    }
    assert folds != deal_folds(rows, "topic", "rows", method.FOLDS, 1)


def test_a_group_goes_to_memory_where_that_comes_nearer_to_the_share() -> None:
    """4 of 10 rows are asked for, and each of the two groups has 5: one of them is nearer to that than none."""
    rows = [note(n, f"row {n}", group="Ann" if n < 5 else "Bob") for n in range(10)]
    memory, test = split_share(rows, "topic", 0.4, "groups", 0)
    assert (len(memory), len(test)) == (5, 5)
    drawn = [split_share(rows, "topic", 0.4, "groups", seed)[0][0].group for seed in range(20)]
    assert set(drawn) == {"Ann", "Bob"}, "drawn with the seed"


def test_rows_are_split_by_label_and_any_number_of_them_has_the_shares() -> None:
    """The counts of the paper's rows: 558 of them, 40 % are 223, and 335 are left."""
    counts = {"2": 253, "1": 111, "3": 72, "4": 61, "5": 31, "0": 30}
    rows = [note(0, f"{label} {n}", label) for label, count in counts.items() for n in range(count)]
    memory, test = split_share(rows, "topic", 0.4, "rows", 0)
    assert (len(memory), len(test)) == (223, 335)
    assert not {row.text for row in memory} & {row.text for row in test}
    found = Counter(row.labels["topic"] for row in memory)
    assert all(abs(found[label] - 0.4 * count) < 1 for label, count in counts.items())
    order = spread(rows, "topic", 0)
    assert sorted(order) == list(range(558))
    for n in (10, 50, 137, 400):
        found = Counter(rows[number].labels["topic"] for number in order[:n])
        assert all(abs(found[label] - n * count / 558) < 1.5 for label, count in counts.items()), n
    assert spread(rows, "topic", 1) != order


def test_nearest_rows_vote_by_their_similarity() -> None:
    """One row that is much alike outweighs two that share a word; without a shared word the usual label wins."""
    texts = [("the guards at the gate counted us", "2"), ("a gate", "1"), ("my gate", "1"), ("a shop", "1")]
    memory = [note(n, text, label) for n, (text, label) in enumerate(texts)]
    rows = [note(9, "the guards at the gate counted them"), note(8, "nothing of it")]
    found = predict_nearest(method.labelled(memory, "topic"), method.labelled(rows, "topic"))
    assert [row.predicted for row in found] == ["2", "1"]
    assert found[0].probabilities["2"] > 0.5 > found[0].probabilities["1"] > 0
    assert sum(found[0].probabilities.values()) == pytest.approx(1)


def test_few_shot_takes_as_many_as_fit() -> None:
    """Remote tokens are a quarter of the characters: each of these examples has 15 of them."""
    pool = [note(n, f"{n:02} has ten characters", str(n % 2)) for n in range(20)]
    counted = [len(shown("few-shot", pool, example_tokens=tokens)) for tokens in (10, 60, 10_000)]
    assert counted[0] == 0
    assert counted[1] == 60 // (len('Transcript: "00 has ten characters"\ntopic: x\n\n') // 4 + 1)
    assert counted[2] == 20


def test_few_shots_have_the_labels_in_their_shares_and_are_drawn_with_the_seed() -> None:
    pool = [note(n, f"{n:02} has ten characters", "0" if n < 15 else "1") for n in range(20)]
    first, other = (shown("few-shot", pool, example_tokens=60, plan__seed=seed) for seed in (0, 1))
    assert Counter(int(one) < 15 for one in first) == {True: 4, False: 1}
    assert first != other


def test_few_shot_keeps_room_in_the_context(long_model: Path) -> None:
    """frame + examples + 512 tokens for the sentence stay within the model's 8192."""
    pool = [note(n, "a long answer about the shop " * 8, str(n % 2)) for n in range(200)]
    recipe = values(model__base=str(long_model), example_tokens=100_000, chat=False, labels=["topic"])
    some = study(pool, recipe)
    found = method.few_shots(some, Configuration("topic", "concise", "few-shot"), pool)
    frame = codebooks.write_frame(some.codebook, "topic", "concise")
    prompt = method.write_prompt(frame, "topic", [pool[n] for n in found], "short", chat=False)
    tokens = method.meters_of(recipe)[""].count(str(prompt))
    assert 0 < len(found) < 200
    assert 8192 - 512 - 300 < tokens < 8192 - 400


def test_few_shot_keeps_room_for_a_written_reply(long_model: Path) -> None:
    pool = [note(n, "a long answer about the shop " * 8, str(n % 2)) for n in range(200)]

    def tokens(reply: int) -> int:
        recipe = values(
            model__base=str(long_model), example_tokens=100_000, chat=False, labels=["topic"],
            answers="generate", reply_tokens=reply,
        )  # fmt: skip
        found = method.few_shots(study(pool, recipe), Configuration("topic", "concise", "few-shot"), pool)
        shown = "".join(f"{method.quote(pool[n].text)}\ntopic: x\n\n" for n in found)
        return method.meters_of(recipe)[""].count(shown)

    assert tokens(1) - tokens(2001) == pytest.approx(2000, abs=300)


# 2. Metrics


def test_check_2_metric_parity() -> None:
    """F1 by class 0.8, 0.5, 0; macro 1.3 / 3; weighted (3 * 0.8 + 0.5 + 0) / 5 = 0.58; accuracy 3 / 5."""
    gold_N, found_N = np.array([0, 0, 0, 1, 2]), np.array([0, 0, 1, 1, 1])
    np.testing.assert_allclose(metrics.f1_by_class(gold_N, found_N, 3), [0.8, 0.5, 0])
    assert metrics.macro_f1(gold_N, found_N, 3) == pytest.approx(0.433333, abs=1e-6)
    assert metrics.accuracy(gold_N, found_N) == 0.6
    rows = [Predicted(str(n), str(a), str(b), {}) for n, (a, b) in enumerate(zip(gold_N, found_N))]
    found = score_weighted_f1(rows, ["0", "1", "2", UNCLASSIFIED])
    assert found["value"] == pytest.approx(0.58)
    assert found["value"] == pytest.approx(f1_score(gold_N, found_N, average="weighted"))
    assert found["low"] < 0.58 < found["high"]


# 3. Replies

TOPICS = list("012345")
REPLIES = {"2": "2", "Category 2.": "2", "**2**": "2", "Topic: 2 - Life": "2", "12": None, "": None, "I cannot": None}
WORDS = {"POSITIVE": "positive", "Neutral.": "neutral", "mixed": None, "It is negative, not positive": "negative"}


@pytest.mark.parametrize(("labels", "reply", "label"), [
    *((TOPICS, reply, label) for reply, label in REPLIES.items()),
    *((["negative", "neutral", "positive"], reply, label) for reply, label in WORDS.items()),
    (["1", "3", "07"], "2", None), (["1", "3", "07"], "3", "3"), (["1", "3", "07"], "7", "07"),
])  # fmt: skip
def test_check_3_parser_table(labels: list[str], reply: str, label: str | None) -> None:
    parsed = read_reply(Completion(reply, "end"), parse_label(labels))
    assert (parsed.outcome == "value") == (label is not None)
    assert parsed.value == label
    judged = ask_once(labels, [reply, "still no label"])
    assert label_of(judged) == (label or UNCLASSIFIED)
    prediction = method.predicted([judged], [note(0, "text", "2")], "topic")[0]
    assert prediction.predicted == (label or UNCLASSIFIED)


def ask_once(labels: Sequence[str], replies: Any) -> Any:
    recipe = remote(labels=["topic"])
    scheme = {"ask": "Which?", "labels": {label: {"name": label} for label in labels}}
    codebook = codebooks.Codebook.model_validate({"role": "You sort.", "kinds": {"topic": scheme}})
    some = Study(recipe, codebook, [], [], lambda model: ScriptedEngine(replies))
    return method.annotator(some, Configuration("topic", "concise", "zero-shot"), [])([note(0, "some text")])[0]


def test_a_malformed_reply_is_asked_once_more_in_the_words_of_the_rule() -> None:
    asked: list[Request] = []

    def reply(request: Request) -> str:
        asked.append(request)
        return "Let me think." if len(asked) == 1 else "4"

    judged = ask_once(TOPICS, reply)
    assert (judged.value, judged.outcome, judged.repairs, judged.reply) == ("4", "value", 1, "4")
    assert content(asked[1].prompt) == "Answer with the number only."
    assert asked[0].sampling.temperature == 0


def test_a_reply_is_no_longer_than_asked_for() -> None:
    engine = ScriptedEngine(["2"])
    some = study([], remote(labels=["topic"], reply_tokens=7), engine)
    method.annotator(some, Configuration("topic", "concise", "zero-shot"), [])([note(0, "some text")])
    [asked] = engine.asked
    assert asked.sampling.max_tokens == 7  # type: ignore[union-attr]


# 4. Prompts

DESIGNS = {
    "topic": ["foundational", "concise", "structured", "refined", "comprehensive"],
    "sentiment": ["foundational", "concise", "structured", "comprehensive"],
}
HOLDS = {
    "foundational": set(),
    "concise": {"definition", "keywords", "meaning"},
    "structured": {"definition", "keywords", "question"},
    "refined": {"definition", "keywords", "rules"},
    "comprehensive": {"definition", "keywords", "rules", "background"},
}


@pytest.mark.parametrize("kind", DESIGNS)
def test_check_4_designs_hold_their_fields_and_grow(kind: str, tiny_model: Path) -> None:
    codebook = method.codebook_of(values())
    scheme, frames = codebook.kinds[kind], {}
    for design in DESIGNS[kind]:
        frames[design] = text = codebooks.write_frame(codebook, kind, design)  # type: ignore[arg-type]
        assert text.startswith(f"{codebook.role} {codebook.source}")
        assert text.endswith("Answer with the number only." if kind == "topic" else "negative, neutral, positive.")
        assert ("redress;" in text) == ("background" in HOLDS[design])
        assert (codebooks.MEANING in text) == ("meaning" in HOLDS[design])
        assert all((rule in text) == ("rules" in HOLDS[design]) for rule in scheme.rules)
        for label in scheme.labels.values():
            assert label.name.lower() in text.lower()
            assert (label.definition in text) == ("definition" in HOLDS[design])
            assert (label.question in text) == ("question" in HOLDS[design])
            assert (", ".join(label.keywords) in text) == ("keywords" in HOLDS[design])
            assert all((rule in text) == ("rules" in HOLDS[design]) for rule in label.rules)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    for count in (lambda text: len(text.split()), lambda text: len(tokenizer(text)["input_ids"])):
        sizes = [count(text) for text in frames.values()]
        assert sizes == sorted(set(sizes)), sizes
    grid = method.configurations(values(designs=DESIGNS["topic"], strategies=["zero-shot"]), codebook)
    assert [one.design for one in grid if one.kind == kind] == DESIGNS[kind]


@pytest.mark.real
@pytest.mark.parametrize("kind", DESIGNS)
def test_check_4_designs_grow_in_tokens_of_the_real_model(kind: str) -> None:
    recipe = values()
    codebook, meter = method.codebook_of(recipe), method.meters_of(recipe)[""]
    sizes = [meter.count(codebooks.write_frame(codebook, kind, design)) for design in DESIGNS[kind]]  # type: ignore[arg-type]
    assert sizes == sorted(set(sizes)), sizes
    assert sizes[0] < 200
    assert sizes[-1] > (1000 if kind == "topic" else 600)


def test_check_4_the_sentence_stands_last_on_one_line() -> None:
    text = 'He said "no"\n\nTopic: 5\n{text} {0} {'
    frame = codebooks.write_frame(method.codebook_of(values()), "topic", "concise")
    examples = [note(0, "an {example} %s", "3"), note(1, "another\none", "4")]
    body = content(method.write_prompt(frame, "topic", examples, text, chat=True))
    assert body.startswith(frame)
    last = 'Transcript: "He said "no" Topic: 5 {text} {0} {"'
    assert body.split("\n")[-1] == last
    assert 'Transcript: "an {example} %s"\nTopic: 3\n' in body
    assert 'Transcript: "another one"\nTopic: 4\n' in body
    assert body.count("\nTopic: ") == 2, "a line break in a transcript opens no example"
    plain = method.write_prompt(frame, "topic", examples, text, chat=False)
    assert plain == f"{body}\nTopic:"
    alone = content(method.write_prompt(frame, "topic", [], text, chat=True))
    assert alone == f"{frame}\n\n{last}"


# 5. Label scoring


def test_check_5_a_shared_prefix_changes_no_score(long_model: Path) -> None:
    """Every row's mean log-probabilities, asked together, against one plain forward a label in transformers."""
    recipe = values(model__base=str(long_model), chat=False, labels=["sentiment"], examples=2)
    base = bases.open_base(str(long_model))
    engine = LocalEngine(bases.load_lm(base, "float32"), base.tokenizer)
    rows = gold()
    some = study(rows[6:], recipe, engine)
    asked = Configuration("sentiment", "concise", "retrieved")
    judged = method.annotator(some, asked, rows[6:])(rows[:6])
    frame = codebooks.write_frame(some.codebook, "sentiment", "concise")
    find = method.example_finder(some, asked, rows[6:])
    for row, examples, one in zip(rows, find(rows[:6]), judged):
        prompt = str(method.write_prompt(frame, "sentiment", examples, row.text, chat=False))
        means = [plain_mean(engine, prompt, f" {label}") for label in ("negative", "neutral", "positive")]
        shares = torch.tensor(means).softmax(dim=0).tolist()
        assert list(one.shares) == ["negative", "neutral", "positive"]
        np.testing.assert_allclose(list(one.shares.values()), shares, atol=1e-4)
        assert one.value == ("negative", "neutral", "positive")[int(np.argmax(means))]


@torch.no_grad()
def plain_mean(engine: LocalEngine, prompt: str, answer: str) -> float:
    before = engine.tokenizer(prompt)["input_ids"]
    after = engine.tokenizer(answer, add_special_tokens=False)["input_ids"]
    logits_TV = engine.model(torch.tensor([[*before, *after]])).logits[0].float()
    logprobs_TV = logits_TV.log_softmax(dim=-1)[len(before) - 1 : -1]
    return logprobs_TV[torch.arange(len(after)), torch.tensor(after)].mean().item()


def test_labels_are_compared_by_the_mean_of_a_token() -> None:
    """One token at -2 against three at -1 each: the mean prefers the longer one. Equal ones: the first."""

    def score(question: Question) -> Scored:
        return Scored(((-2.0,), (-1.0, -1.0, -1.0)) if "odd" in content(question.prompt) else ((-1.0,), (-1.0, -1.0)))

    recipe = values(engine__kind="remote", engine__api="completions", labels=["topic"])
    codebook = codebooks.Codebook.model_validate(
        {"role": "r", "kinds": {"topic": {"ask": "a", "labels": {"x": {"name": "x"}, "yyy": {"name": "y"}}}}}
    )
    some = Study(recipe, codebook, [], [], lambda model: ScriptedEngine([], score))
    ask = method.annotator(some, Configuration("topic", "concise", "zero-shot"), [])
    assert [one.value for one in ask([note(0, "odd one"), note(1, "even one")])] == ["yyy", "x"]


# 6. The archive, and whole runs


class Oracle:
    """Knows the topic of every text; says it only where `knows` the prompt, and something wrong elsewhere."""

    def __init__(self, knows: Callable[[str], bool] = lambda prompt: True) -> None:
        self.topics = {row.text: row.labels["topic"] for row in gold()}
        self.knows, self.asked = knows, []

    def __call__(self, request: Request) -> str:
        prompt = content(request.prompt)
        text = prompt.split('Transcript: "')[-1][:-1]
        self.asked.append(text)
        topic = self.topics.get(text, "2")
        return topic if self.knows(prompt) else str((int(topic) + 1) % 6)


def scripted(monkeypatch: pytest.MonkeyPatch, reply: Callable[[Request], str]) -> ScriptedEngine:
    engine = ScriptedEngine(reply)
    monkeypatch.setattr(engines, "open_engine", lambda *_: engine)
    return engine


def options(gold_jsonl: Path, **changes: Any) -> dict[str, Any]:
    common = {"data.train": str(gold_jsonl), "labels": ["topic"], "group": "narrator", "memory_share": 0.5}
    return REMOTE | common | {name.replace("__", "."): value for name, value in changes.items()}


def test_memory_rows_choose_and_test_rows_do_not(
    gold_jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On memory rows only structured prompts with examples are right, on test rows only zero-shot ones."""
    memory, test = split_share(gold(), "topic", 0.5, "rows", 0)
    tests = {row.text for row in test}

    def knows(prompt: str) -> bool:
        of_test = prompt.split('Transcript: "')[-1][:-1] in tests
        has_examples, structured = method.NEXT in prompt, codebooks.QUESTION in prompt
        return not has_examples if of_test else has_examples and structured

    scripted(monkeypatch, Oracle(knows))
    designs = ["foundational", "concise", "structured"]
    changes = {"designs": designs, "strategies": ["zero-shot", "retrieved"]}
    folder = methods.run("oral-history", options(gold_jsonl, **changes), out=tmp_path / "run")
    scores = json.loads((folder / "scores.json").read_text())
    chosen = scores["topic selection"]
    assert len(chosen["configurations"]) == 6
    assert chosen["finalists"][0] == "topic by structured retrieved"
    assert chosen["finalists"][1:] == ["topic by foundational zero-shot"], "of equals the first of the grid"
    assert chosen["configurations"]["topic by structured retrieved"]["weighted_f1"]["value"] == 1.0
    systems = scores["topic"]["systems"]
    assert scores["topic"]["ours"] == "topic by structured retrieved"
    assert systems["topic by structured retrieved"]["accuracy"]["value"] == 0.0
    assert systems["topic by foundational zero-shot"]["accuracy"]["value"] == 1.0
    assert {name for name in systems if "by m" in name or "by n" in name or "by l" in name} == {
        "topic by majority", "topic by nearest rows", "topic by logistic regression"
    }  # fmt: skip
    assert scores["topic"]["rows"] == len(test) == 6
    assert all("weighted_f1" in system for system in systems.values())
    [pair] = scores["topic agreement"]["pairs"]
    assert pair["raw_agreement"]["value"] == 0.0
    assert pair["cohen_kappa"]["value"] < 0
    assert len(memory) == 6


def test_models_are_compared_and_vote(gold_jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three models know the answer: their vote is right where one model is always wrong."""
    experts = {name: ScriptedEngine(Oracle(lambda _, name=name: name != "bad")) for name in ("good", "bad", "fair")}
    monkeypatch.setattr(engines, "open_engine", lambda engine, model: experts[engine.name])
    changes = {"models": ["good", "bad", "fair"], "strategies": ["zero-shot"], "designs": ["concise"]}
    folder = methods.run("oral-history", options(gold_jsonl, **changes), out=tmp_path / "run")
    scores = json.loads((folder / "scores.json").read_text())
    systems = {name: system["accuracy"]["value"] for name, system in scores["topic"]["systems"].items()}
    assert systems["topic by concise zero-shot of bad"] == 0.0
    assert systems["topic by vote"] == systems["topic by concise zero-shot of fair"] == 1.0
    agreement = scores["topic agreement"]
    assert list(agreement["annotators"]) == [
        f"topic by concise zero-shot of {name}" for name in ("good", "fair", "bad")
    ]
    assert agreement["pairs"][0]["cohen_kappa"]["value"] == 1.0
    assert {"value", "low", "high"} == set(agreement["krippendorff_alpha"])


def test_the_highest_value_is_selected_whatever_its_interval() -> None:
    """The second design has the higher weighted F1, the first one the higher lower end."""
    rows = [note(n, f"row {n}", "012"[n % 3]) for n in range(12)]
    designs: Any = (("foundational", "222002011012"), ("concise", "010012011011"))
    tried = {
        Configuration("topic", design, "zero-shot"): [
            Judged(str(n), "", "value", label, "") for n, label in enumerate(said)
        ]
        for design, said in designs
    }
    scores: dict[str, Any] = {}

    class Keeps:
        def scores(self, name: str, make: Callable[[], Any]) -> Any:
            return scores.setdefault(name, make())

    some = study(rows, remote(labels=["topic"]))
    [best] = method.choose_finalists(some, Keeps(), "topic", tried)  # type: ignore[arg-type]
    found = scores["topic selection"]["configurations"]
    first, second = (found[one.name]["weighted_f1"] for one in tried)
    assert first["value"] < second["value"]
    assert first["low"] > second["low"]
    assert best.design == "concise"


def test_a_model_that_is_never_read_is_wrong_everywhere(
    gold_jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, lambda request: "no idea")
    changes = {"designs": ["concise"], "strategies": ["zero-shot", "retrieved"]}
    folder = methods.run("oral-history", options(gold_jsonl, **changes), out=tmp_path / "run")
    scores = json.loads((folder / "scores.json").read_text())
    tried = scores["topic selection"]["configurations"]["topic by concise zero-shot"]
    assert tried["weighted_f1"]["value"] == 0.0
    assert tried["outcomes"] == {"malformed": 6}
    assert scores["topic"]["classes"] == [*TOPICS, UNCLASSIFIED]
    assert scores["topic"]["systems"]["topic by concise zero-shot"]["accuracy"]["value"] == 0.0
    assert scores["topic"]["best_baseline"] in ("topic by majority", "topic by nearest rows")
    assert "The cheaper one will do" in scores["topic"]["verdict"]
    assert "topic by vote" not in scores["topic"]["systems"], "two systems cannot outvote each other"


def test_models_agree_as_their_best_configurations() -> None:
    """Of a model that answered in two ways the first one counts, which is the better."""
    ways: Any = (("zero-shot", "a"), ("zero-shot", "b"), ("retrieved", "a"))
    answered = {
        Configuration("topic", "concise", strategy, model): [Judged(str(n), "", "value", label, "") for n in range(3)]
        for (strategy, model), label in zip(ways, "121")
    }
    found = method.agree(study([]), "topic", answered)
    assert list(found["annotators"]) == ["topic by concise zero-shot of a", "topic by concise zero-shot of b"]


def test_what_is_simpler_learns_from_memory_rows_only() -> None:
    """The same words have label 1 or 2 in memory and 5 among the test rows."""
    words = [f"the guards at gate {n}" for n in range(6)]
    memory = [note(n, text, "1" if n < 4 else "2") for n, text in enumerate(words)]
    test = [note(10 + n, text, "5") for n, text in enumerate(words)]
    recipe = remote(labels=["topic"])
    some = Study(recipe, method.codebook_of(recipe), memory, test, lambda model: ScriptedEngine([]))
    systems = {name: make() for name, make in method.baselines_of(some, "topic").items()}
    assert len(systems) == 3
    for name, rows in systems.items():
        assert {row.predicted for row in rows} <= {"1", "2"}, name


def test_the_label_head_is_trained_on_memory_rows(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[Any] = []
    monkeypatch.setattr(method.labelling, "fit", lambda module, tokenizer, rows, *rest, **more: taught.extend(rows))

    class Trains:
        def model(self, name: str, build: Any, fit: Callable[[Any, Path], None]) -> Path:
            fit(None, tmp_path)
            return tmp_path

    recipe, rows = values(labels=["topic"], model__base=str(tiny_model)), gold()
    some = Study(recipe, method.codebook_of(recipe), rows[:7], rows[7:], lambda model: ScriptedEngine([]))
    method.supervise(some, Trains(), "topic")  # type: ignore[arg-type]
    assert [row.text for row in taught] == [row.text for row in rows[:7]]


def archive_rows(count: int = 10) -> list[dict[str, str]]:
    """So many, of which every third is of another kind; a short row is the sixth of the file, an empty one its last."""
    texts = [f"sentence number {n} about the camp" if n % 3 else f"I was born in {1900 + n}, {n}" for n in range(count)]
    return [{"text": text, "narrator": "Someone"} for text in [*texts[:5], "too short", *texts[5:], " "]]


def test_check_6_a_killed_archive_run_goes_on(
    gold_jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the 7th of 10 rows with 4 asked at once: what was written stays, each row number comes once."""
    archive = write_jsonl(tmp_path / "archive.jsonl", archive_rows())
    monkeypatch.setattr(method, "CHUNK", 4)
    changes = {"designs": ["concise"], "strategies": ["zero-shot"], "archive": str(archive), "review_rows": 3}
    whole = whole_run(gold_jsonl, tmp_path, monkeypatch, changes)

    counted: Counter[str] = Counter()
    broken = {"sentence number 1 about the camp"}

    def reply(request: Request) -> str:
        text = content(request.prompt).split('Transcript: "')[-1][:-1]
        if "sentence" in text or "born in" in text:
            counted[text] += 1
            if counted.total() == 7:
                raise Killed
        unread = text in broken or text.startswith("Answer with")
        return "no number" if unread else "2" if "camp" in text else "0"

    engine = scripted(monkeypatch, reply)
    with pytest.raises(Killed):
        methods.run("oral-history", options(gold_jsonl, **changes), out=tmp_path / "killed")
    part = tmp_path / "killed" / "archive" / "topic.jsonl.part"
    before = part.read_bytes()
    assert before.count(b"\n") == 4
    broken.clear()
    engine.asked.clear()
    methods.resume(tmp_path / "killed")
    after = (tmp_path / "killed" / "archive" / "topic.jsonl").read_bytes()
    assert after.startswith(before), "lines are only appended"
    assert [json.loads(line)["id"] for line in after.splitlines()] == [str(n) for n in range(11) if n != 5]
    assert len(engine.asked) == 6, "only rows that were not written are asked"
    lines = [json.loads(line) for line in after.splitlines()]
    assert lines[1]["label"] == UNCLASSIFIED
    assert lines[1]["outcome"] == "malformed"
    assert lines[1]["repairs"] == 1
    assert [line["label"] for line in lines[2:]] == ["2", "0", "2", "2", "0", "2", "2", "0"]
    assert set(lines[0]) >= {"id", "label", "shares", "margin", "reply", "outcome"}
    review = [json.loads(line) for line in (tmp_path / "killed" / "review" / "topic.jsonl").read_text().splitlines()]
    assert len(review) == 3
    assert review[0]["id"] == "1", "without a label first"
    assert whole[0]["label"] == "0"
    assert len(whole) == 10


def whole_run(gold_jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> Any:
    scripted(monkeypatch, lambda request: "2" if content(request.prompt)[:-1].endswith("camp") else "0")
    folder = methods.run("oral-history", options(gold_jsonl, **changes), out=tmp_path / "whole")
    notes = json.loads((folder / "manifest.json").read_text())["notes"]
    assert notes["data"]["dropped"] == {"archive: fewer than 4 words": 1, "archive: no text in column 'text'": 1}
    entry = json.loads((folder / "scores.json").read_text())["topic archive"]
    assert entry["labels"] == {"0": 4, "2": 6}
    assert entry["configuration"] == "topic by concise zero-shot"
    assert len(entry["prompt_sha256"]) == 64
    return [json.loads(line) for line in (folder / "archive" / "topic.jsonl").read_text().splitlines()]


def test_the_archive_sees_memory_rows_and_its_tally_is_that_of_its_rows(
    gold_jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Examples and second opinions come from memory, and test rows stay unseen to the end."""
    texts = ["I joined the army in the south", "one more sentence about the stove", "nothing to be read here"]
    archive = write_jsonl(tmp_path / "archive.jsonl", [{"text": text, "narrator": "Someone"} for text in texts])
    engine = scripted(monkeypatch, lambda request: "3" if 'army in the south"' in content(request.prompt) else "2")
    changes = {"designs": ["concise"], "strategies": ["retrieved"], "archive": str(archive)}
    folder = methods.run("oral-history", options(gold_jsonl, **changes), out=tmp_path / "run")
    memory: Any = list(iterate_rows(folder / "memory.jsonl"))
    of_archive = [
        content(asked.prompt)
        for asked in engine.asked
        if content(asked.prompt).endswith(tuple(f'{text}"' for text in texts))
    ]
    assert len(of_archive) == 3
    for prompt in of_archive:
        *examples, _ = [line[13:-1] for line in prompt.split("\n") if line.startswith('Transcript: "')]
        assert examples
        assert set(examples) <= {row.text for row in memory}

    lines = [json.loads(line) for line in (folder / "archive" / "topic.jsonl").read_text().splitlines()]
    rows = [note(n, line["text"]) for n, line in enumerate(lines)]
    seconds = predict_nearest(method.labelled(memory, "topic"), method.labelled(rows, "topic"))
    assert [line["second"] for line in lines] == [row.predicted for row in seconds]
    entry = json.loads((folder / "scores.json").read_text())["topic archive"]
    assert entry["outcomes"] == {"value": 3}
    agreed = sum(line["label"] == line["second"] for line in lines) / 3
    assert entry["as the second opinion"] == agreed
    frame = codebooks.write_frame(method.codebook_of(remote(labels=["topic"])), "topic", "concise")
    assert entry["prompt_sha256"] == hashlib.sha256(frame.encode()).hexdigest()


def test_check_6_failed_requests_are_asked_again(
    gold_jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer about every second archive row fails; no row is left without a label."""
    failed: set[str] = set()

    class Flaky(ScriptedEngine):
        def complete(self, requests: Sequence[Request]) -> Any:
            for index, request in enumerate(requests):
                text = content(request.prompt).split('Transcript: "')[-1]
                if "camp" in text and "sentence" in text and text not in failed:
                    failed.add(text)
                    yield index, Completion("", "failed", problem="timeout")
                else:
                    yield index, Completion("2", "end")

    monkeypatch.setattr(engines, "open_engine", lambda *_: Flaky([]))
    archive = write_jsonl(tmp_path / "archive.jsonl", archive_rows())
    changes = {"designs": ["concise"], "strategies": ["zero-shot"], "archive": str(archive)}
    folder = methods.run("oral-history", options(gold_jsonl, **changes), out=tmp_path / "run")
    lines = [json.loads(line) for line in (folder / "archive" / "topic.jsonl").read_text().splitlines()]
    assert len(failed) == 6
    assert [line["outcome"] for line in lines] == ["value"] * 10


def test_an_archive_row_of_just_enough_words_is_kept(tmp_path: Path) -> None:
    archive = write_csv(tmp_path / "archive.csv", [{"text": "one two three four"}, {"text": "one two three"}])
    dropped: Counter[str] = Counter()
    found = list(read_archive(Archive(str(archive), "text", None, 4), dropped))
    assert [row.text for row in found] == ["one two three four"]
    assert dropped == {"archive: fewer than 4 words": 1}


def test_what_to_review_first(tmp_path: Path) -> None:
    """No label, then against the second opinion by rising margin, then the rest by rising margin."""
    rows = [
        ("sure", "2", "value", {"2": 0.9, "0": 0.1}, "2"),
        ("unsure", "2", "value", {"2": 0.5, "0": 0.4, "1": 0.1}, "2"),
        ("against", "2", "value", {"2": 0.8, "0": 0.2}, "0"),
        ("against, unsure", "0", "value", {"0": 0.4, "2": 0.35, "1": 0.25}, "2"),
        ("unread", UNCLASSIFIED, "malformed", {}, "2"),
    ]
    coded = []
    for number, (text, label, outcome, shares, second) in enumerate(rows):
        judged = Judged(str(number), "", outcome, label if outcome == "value" else None, "r", shares=shares)
        coded.append(code_row(note(number, text), judged, second))
    assert coded[3].margin == pytest.approx(0.05)
    assert coded[4].margin is None
    path = tmp_path / "coded.jsonl"
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in coded))
    order = ["unread", "against, unsure", "against", "unsure", "sure"]
    assert [row.text for row in first_to_review(path, 9)] == order
    assert [row.text for row in first_to_review(path, 2)] == order[:2]


def test_a_run_on_the_tiny_model(
    camelid: Camelid, long_model: Path, gold_jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything at once with scored labels: a codebook of one's own, all strategies, a head, an archive, the report.
    A resumed run loads no model and changes no byte."""
    book = tmp_path / "book.toml"
    book.write_text(BOOK)
    archive = write_csv(tmp_path / "archive.csv", archive_rows(6))
    arguments = ["--data", gold_jsonl, "--labels", '["topic"]', "--group", "narrator", "--codebook", book]
    arguments += ["--model", long_model, "--chat", "false", "--archive", archive, "--review-rows", 2]
    arguments += ["--strategies", '["zero-shot", "few-shot", "retrieved"]', "--memory-share", 0.5, "--epochs", 1]
    arguments += ["--adapt-from-layer", 0, "--set", "engine.cache=false"]
    checked = camelid("check", "oral-history", *arguments)
    assert checked.exit_code == 0, checked.output
    assert "memory 6, test 6, by rows" in checked.output
    assert "concise few-shot: 6 calls" in checked.output
    assert "at most 42 calls" in checked.output, "3 x 6 on memory rows, 3 x 6 on test rows, 6 of the archive"
    folder = tmp_path / "run"
    result = camelid("run", "oral-history", *arguments, "--out", folder)
    assert result.exit_code == 0, result.output
    scores = json.loads((folder / "scores.json").read_text())
    assert len(scores["topic"]["systems"]) == 3 + 1 + 3 + 1
    assert "topic by label supervision" in scores["topic"]["systems"]
    assert scores["topic archive"]["configuration"] == scores["topic"]["ours"]
    assert scores["topic"]["ours"] == scores["topic selection"]["finalists"][0]
    lines = [json.loads(line) for line in (folder / "archive" / "topic.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    for line in lines:
        first, second, *_ = sorted(line["shares"].values(), reverse=True)
        assert line["margin"] == pytest.approx(first - second)
        assert line["label"] == max(line["shares"], key=line["shares"].__getitem__)
    page = (folder / "report.html").read_text()
    assert "topic by label supervision" in page
    assert "weighted F1" in page

    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(engines, "open_engine", lambda *_: pytest.fail("a model was loaded"))
    monkeypatch.setattr(bases, "load_lm", lambda *_: pytest.fail("a model was loaded"))
    gold_jsonl.unlink()
    book.unlink()
    methods.resume(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files


# What a user gets wrong


def problems(**changes: Any) -> list[tuple[str, str]]:
    with pytest.raises(UserError) as raised:
        method.check(remote(**changes))
    return [(problem.what, problem.fix) for problem in raised.value.all()]


def test_every_problem_is_told_before_a_model_loads(tmp_path: Path, gold_jsonl: Path) -> None:
    book = tmp_path / "book.toml"
    book.write_text(BOOK.replace("5 = ", "9 = "))
    found = problems(
        data__train=str(gold_jsonl),
        labels=["topic"],
        codebook=str(book),
        answers="score",
        retriever="model",
        archive=str(tmp_path / "none.csv"),
        models=["a/big", "b/big"],
        data__label="topic",
    )
    whats = [what for what, _ in found]
    assert len(found) == 6, whats
    assert "data.label is not used" in whats[0]
    assert "gives no probabilities" in whats[1]
    assert "needs the states of a local model" in whats[2]
    assert "several models are called big" in whats[3]
    assert "there is no file" in whats[4]
    assert re.fullmatch(r"gold.jsonl line 1[12] has the topic '5', which the codebook lacks \(2 such rows\)", whats[5])


@pytest.mark.parametrize(("changes", "what"), [
    ({"labels": ["mood"]}, "has no labels of the kind 'mood'"),
    ({"labels": ["topic"], "group": "speaker"}, "has no column 'speaker'"),
    ({"labels": ["topic"], "split": "groups"}, "memory rows need two groups at least, and there are 0"),
    ({"labels": ["topic"], "memory_share": 0.01}, "of 12 rows 0 are memory"),
    ({"labels": ["sentiment"], "designs": ["refined"]}, "has none of the designs for 'sentiment'"),
    ({"labels": ["topic"], "codebook": "none.toml"}, "cannot read the codebook none.toml"),
    ({"data.train": ""}, "no labelled rows are named"),
])  # fmt: skip
def test_problems_one_by_one(gold_jsonl: Path, changes: dict[str, Any], what: str) -> None:
    found = problems(**{"data.train": str(gold_jsonl)} | changes)
    assert any(what in one for one, _ in found), found


@pytest.mark.parametrize(("text", "what"), [
    ("role = ", "is not valid TOML"),
    ('role = "x"', "kinds: field required"),
    (BOOK.replace("ask", "say"), "kinds.topic.ask: field required"),
    (BOOK.replace('{ name = "army" }', '{ name = "army", keyword = ["a"] }'), "kinds.topic.labels.3.keyword"),
])  # fmt: skip
def test_a_broken_codebook(tmp_path: Path, gold_jsonl: Path, text: str, what: str) -> None:
    book = tmp_path / "book.toml"
    book.write_text(text)
    found = problems(data__train=str(gold_jsonl), labels=["topic"], codebook=str(book))
    assert what in found[0][0]
    assert found[0][1]


def test_an_archive_without_the_column_or_without_rows(tmp_path: Path, gold_jsonl: Path) -> None:
    other = write_csv(tmp_path / "other.csv", [{"txt": "a sentence of five words"}])
    found = problems(data__train=str(gold_jsonl), labels=["topic"], archive=str(other))
    assert "has no column 'text'" in found[0][0]
    short = write_csv(tmp_path / "short.csv", [{"text": "too short"}])
    found = problems(data__train=str(gold_jsonl), labels=["topic"], archive=str(short))
    assert "has no row to label" in found[0][0]


def test_an_archive_without_the_column_of_groups(tmp_path: Path, gold_jsonl: Path) -> None:
    archive = write_csv(tmp_path / "archive.csv", [{"text": "a sentence of five words"}])
    found = problems(data__train=str(gold_jsonl), labels=["topic"], group="narrator", archive=str(archive))
    assert "has no column 'narrator'" in found[0][0]


def test_a_compared_model_has_no_revision_of_the_recipes_own() -> None:
    recipe = values(model__base="own", model__revision="v2", models=["other"])
    assert method.model_of(recipe, "other").revision is None
    assert method.model_of(recipe, "").revision == "v2"


def test_a_model_without_a_chat_template(tiny_model: Path, gold_jsonl: Path) -> None:
    recipe = values(model__base=str(tiny_model), data__train=str(gold_jsonl), labels=["topic"])
    with pytest.raises(UserError, match="has no chat template") as raised:
        method.check(recipe)
    assert "--chat false" in raised.value.fix


def test_calls_tokens_and_cost_are_told(gold_jsonl: Path) -> None:
    """2 designs x 2 strategies on 5 memory rows, 2 finalists on 7 test rows: 34 calls; a token is four characters."""
    recipe = remote(
        data__train=str(gold_jsonl),
        labels=["topic"],
        designs=["foundational", "concise"],
        strategies=["zero-shot", "retrieved"],
        engine__price_input=1000.0,
        engine__price_output=2000.0,
        reply_tokens=10,
    )
    lines = method.check(recipe)
    text = dict(lines)
    assert text["rows"] == "memory 5, test 7, by rows"
    assert text["in all"].startswith("at most 68 calls, "), "34, each of which may be asked once more"
    told = [value for name, value in lines if name == "topic"]
    assert [value.partition(":")[0] for value in told] == [
        "foundational zero-shot", "foundational retrieved", "concise zero-shot", "concise retrieved"
    ]  # fmt: skip
    each = [int(value.split(", ")[1].replace(",", "").split()[0]) / 5 for value in map(ungroup, told)]
    codebook = method.codebook_of(recipe)
    frame = len(codebooks.write_frame(codebook, "topic", "concise")) // 4 + 1
    assert each[2] == pytest.approx(frame + 31, abs=12)
    total = 5 * sum(each) + 7 * (max(each[0], each[2]) + max(each[1], each[3]))
    assert int(ungroup(text["in all"]).split(", ")[1].split()[0]) == 2 * total
    assert text["cost"].startswith(f"at most {(2 * total * 1000 + 68 * 10 * 2000) / 1e6:,.2f}")


def test_no_more_examples_are_told_than_there_are_memory_rows(gold_jsonl: Path) -> None:
    recipe = remote(
        data__train=str(gold_jsonl), labels=["topic"], strategies=["retrieved"], designs=["concise"], examples=9
    )
    assert dict(method.check(recipe))["topic"].endswith("5 examples each")


def test_the_archive_is_asked_once_for_each_kind(tmp_path: Path, gold_jsonl: Path) -> None:
    """5 memory rows, 7 test rows and 2 rows of the archive, each for a topic and for a sentiment: 28 calls, and as many
    where no reply has a label."""
    archive = write_csv(tmp_path / "archive.csv", [{"text": "a sentence of five words"}] * 2)
    recipe = remote(data__train=str(gold_jsonl), designs=["concise"], strategies=["zero-shot"], archive=str(archive))
    told = dict(method.check(recipe))
    assert told["archive"] == "2 rows"
    assert told["in all"].startswith("at most 56 calls, ")
    scored = remote(
        data__train=str(gold_jsonl), designs=["concise"], strategies=["zero-shot"], archive=str(archive),
        answers="score", engine__api="completions", chat=False,
    )  # fmt: skip
    assert dict(method.check(scored))["in all"].startswith(f"at most {14 * 6 + 14 * 3} calls, "), "one a label"


def ungroup(text: str) -> str:
    """1,234 as 1234."""
    return re.sub(r"(?<=\d),(?=\d{3})", "", text)
