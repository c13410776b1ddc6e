"""Log-probabilities of answers against whole sequences scored one by one with transformers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from camelid import token_trees
from camelid.chat import converse
from camelid.engines import Question, Scored
from camelid.engines.local import LocalEngine
from camelid.engines.scripted import ScriptedEngine
from camelid.errors import UserError
from camelid.scoring import score
from camelid.token_trees import Scorable, sequence_logprobs, shared_fronts

POLICY = "Choose a label for the text, one of those that the list above has.\n\n" * 8
PROMPTS = ["Text: the cat sat\nLabel:", "Text: no\nLabel:", "Text: a much longer text about a dog and a bird\nLabel:"]
ANSWERS = (" good", " rather unusually bad", " x", " rather", " rather")


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def engine(model: Any, tiny_model: Path) -> LocalEngine:
    return LocalEngine(model, transformers.AutoTokenizer.from_pretrained(tiny_model))


def one_by_one(model: Any, ids: Sequence[int], first: int) -> list[float]:
    """log p of the tokens from `first` on, from a forward over the whole sequence and nothing else."""
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    return [logprobs[at - 1, ids[at]].item() for at in range(first, len(ids))]


@pytest.mark.parametrize("front", ["", POLICY])
def test_equal_to_scoring_each_sequence_alone(engine: LocalEngine, front: str) -> None:
    tokenizer = engine.tokenizer
    assert len({len(tokenizer(answer)["input_ids"]) for answer in ANSWERS}) > 1, "answers of several lengths are needed"
    found = score(engine, [Question(front + prompt, ANSWERS) for prompt in PROMPTS])
    for prompt, scored in zip(PROMPTS, found, strict=True):
        before = tokenizer(front + prompt)["input_ids"]
        for answer, values in zip(ANSWERS, scored.logprobs, strict=True):
            ids = before + tokenizer(answer)["input_ids"]
            assert values == pytest.approx(one_by_one(engine.model, ids, len(before)), abs=1e-4)
        assert scored.prompt_tokens == len(before)


def test_random_trees_equal_sequences_alone(model: Any) -> None:
    """Sequences that share fronts at random, repeat, and are each other's beginnings; cut at random places."""
    draw = random.Random(0)
    stems = [[draw.randrange(300) for _ in range(draw.choice((3, 60, 200)))] for _ in range(4)]
    sequences = []
    for _ in range(60):
        ids = list(draw.choice(stems))[: draw.randrange(2, 200)] + [
            draw.randrange(300) for _ in range(draw.randrange(1, 40))
        ]
        sequences.append(Scorable(tuple(ids), draw.randrange(1, len(ids))))
    sequences += [sequences[0], Scorable(sequences[1].ids[:2], 1)]
    found = dict(sequence_logprobs(model, sequences))
    assert sorted(found) == list(range(len(sequences)))
    for index, sequence in enumerate(sequences):
        assert found[index] == pytest.approx(one_by_one(model, sequence.ids, sequence.first), abs=1e-4)


def test_what_is_shared_is_computed_once(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy before 40 texts: it is run once, and no token twice. 5 answers of one prompt share it too."""
    fed = []
    decoder = engine.model.get_decoder()
    forward = decoder.forward
    monkeypatch.setattr(decoder, "forward", lambda **given: fed.append(given["input_ids"].numel()) or forward(**given))
    questions = [Question(f"{POLICY}Text: {number}\nLabel:", ANSWERS) for number in range(40)]
    score(engine, questions)
    tokenizer = engine.tokenizer
    policy = len(tokenizer(POLICY)["input_ids"])
    bodies = sum(len(tokenizer(question.prompt)["input_ids"]) - policy for question in questions)
    answers = 40 * sum(len(tokenizer(answer)["input_ids"]) - 1 for answer in set(ANSWERS))
    assert policy > 300
    assert sum(fed) < policy + 1.2 * (bodies + answers)


def test_the_front_leaves_a_parent_for_what_is_scored() -> None:
    """Everything before the answers is shared, and the token before them is still in each line."""
    ids = tuple(range(200))
    sequences = [Scorable((*ids, answer, answer), 200) for answer in range(40)]
    ((front, members),) = shared_fronts(sequences)
    assert len(front) <= 199
    assert sorted(members) == list(range(40))


def test_two_policies_have_a_front_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two policies of 300 tokens that begin alike, with 30 texts of 40 tokens behind each; or of 2, all in one line."""
    monkeypatch.setattr(token_trees, "LINE_TOKENS", 128)
    policies = [tuple([7] * 20 + [number] * 280) for number in (1, 2)]
    sequences = [Scorable((*policy, *[text] * 40), 320) for policy in policies for text in range(30, 60)]
    fronts = [front for front, _ in shared_fronts(sequences)]
    assert fronts == policies
    short = [Scorable((*policy, text, text), 301) for policy in policies for text in range(30, 60)]
    assert [front for front, _ in shared_fronts(short)] == [policies[0][:20]], "a policy of its own would save nothing"


def test_an_answer_does_not_depend_on_its_batch(engine: LocalEngine) -> None:
    questions = [Question(POLICY + prompt, ANSWERS) for prompt in PROMPTS]
    alone = [score(engine, [question])[0] for question in questions]
    for one, other in zip(score(engine, questions), alone, strict=True):
        for left, right in zip(one.logprobs, other.logprobs, strict=True):
            assert left == pytest.approx(right, abs=1e-5)


def test_the_end_of_the_turn_is_scored_on_request(engine: LocalEngine) -> None:
    open_, ended = (Question("Text: no\nLabel:", (" x",), ended=ended) for ended in (False, True))
    found = score(engine, [open_, ended])
    assert len(found[1].logprobs[0]) == len(found[0].logprobs[0]) + 1
    assert found[1].logprobs[0][:-1] == pytest.approx(found[0].logprobs[0], abs=1e-5)


def test_sums_and_means() -> None:
    scored = Scored(((-1.0, -2.0), (-4.0,)))
    assert scored.sums == [-3.0, -4.0]
    assert scored.means == [-1.5, -4.0]


def test_too_long_for_the_context_fails_and_says_so(engine: LocalEngine) -> None:
    found = score(engine, [Question("word " * 600, ("x",)), Question("a", ("b",))])
    assert [scored.problem for scored in found] == ["context overflow", ""]


@pytest.mark.parametrize(("prompt", "answers", "what"), [
    ("", ("x",), "no tokens"),
    ("x", ("",), "no tokens to score"),
    (converse("hello"), ("x",), "no chat template"),
])  # fmt: skip
def test_what_cannot_be_scored(engine: LocalEngine, prompt: Any, answers: tuple[str, ...], what: str) -> None:
    with pytest.raises(UserError, match=what):
        score(engine, [Question(prompt, answers)])


def test_an_engine_that_cannot_score_is_refused() -> None:
    with pytest.raises(UserError, match="no log-probabilities"):
        score(ScriptedEngine(["x"]), [Question("a", ("b",))])


class Counting:
    """An engine that counts what it is asked, with a cache that is a dict."""

    can = frozenset(("score",))
    fingerprint = "counting"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.kept: dict[str, Any] = {}
        self.cache = self

    def get(self, keys: Sequence[str]) -> dict[str, Any]:
        return {key: self.kept[key] for key in keys if key in self.kept}

    def put(self, key: str, value: Any, fingerprint: str) -> None:
        self.kept[key] = value

    def logprobs(self, questions: Sequence[Question]) -> Iterator[tuple[int, Scored]]:
        for index in reversed(range(len(questions))):
            prompt = str(questions[index].prompt)
            self.asked.append(prompt)
            problem = "timeout" if prompt == "bad" else ""
            yield index, Scored(((-float(len(prompt)),),), problem=problem)


def test_nothing_is_asked_twice_and_failures_are_asked_again() -> None:
    engine: Any = Counting()
    questions = [Question(text, ("x",)) for text in ("aaa", "a", "aaa", "bad")]
    found = score(engine, questions)
    assert [scored.sums[0] for scored in found] == [-3, -1, -3, -3], "in the order asked, whatever order came back"
    assert sorted(engine.asked) == ["a", "aaa", "bad"]
    score(engine, questions)
    assert sorted(engine.asked) == ["a", "aaa", "bad", "bad"]
