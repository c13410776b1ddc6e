"""llama-guard: augmentation, what is trained on, unknown labels, and a run on the tiny model."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camelid import data, guard, methods
from camelid.engines import Question, Scored
from camelid.engines.scripted import ScriptedEngine
from camelid.errors import UserError
from camelid.guard import Guard
from camelid.policy import Category, Policy
from camelid.ranking import average_precision
from camelid.rows import Flagged, Message
from conftest import invoke, make_tokenizer, own_rows, write_csv, write_jsonl

llama_guard = methods.load("llama-guard")
POLICY = Policy(tuple(Category(key=key, name=f"Rule {key}") for key in "123"))
FLAGS = {"1": False, "2": True, "3": False}
CHATML = (
    "{% for m in messages %}{{ '<s>' + m['role'] + ':' + m['content'] + '<|end|>' + '|' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant:' }}{% endif %}"
)


def all_views(flags: dict[str, bool], count: int = 400) -> list[Any]:
    return [view for seed in range(count) for view in llama_guard.views_of(POLICY, flags, random.Random(seed))]


def test_augmentation_by_hand() -> None:
    """V = {2}, K = {1, 2, 3}: 2 left out -> safe; shown as [3, 2] -> code 2; a variant says what its policy says."""
    views = all_views(FLAGS)
    without = [view for view in views if "2" not in view.policy.keys]
    assert without
    assert {llama_guard.write_target(view.policy, view.violated) for view in without} == {"safe"}
    turned = next(view for view in views if view.policy.keys == ("3", "2"))
    assert llama_guard.write_target(turned.policy, turned.violated) == "unsafe\nS2"
    for view in views:
        assert set(view.violated) == {"2"} & set(view.policy.keys)
        assert view.policy.keys, "never an empty policy"


def test_how_many_rules_are_left_out() -> None:
    """Kept: r of 2 unbroken rules left out, r uniform in 0..2. Dropped: 2 and r uniform in 0..1 others left out."""
    views = [llama_guard.views_of(POLICY, FLAGS, random.Random(seed)) for seed in range(3000)]
    kept = Counter(len(view[1].policy.keys) for view in views)
    assert [kept[size] / 3000 for size in (1, 2, 3)] == pytest.approx([1 / 3] * 3, abs=0.04)
    dropped = Counter(len(view[2].policy.keys) for view in views)
    assert [dropped[size] / 3000 for size in (1, 2)] == pytest.approx([1 / 2] * 2, abs=0.04)
    orders = Counter(view[0].policy.keys for view in views)
    assert len(orders) == 6
    assert max(orders.values()) / 3000 < 1 / 6 + 0.04


def test_safe_and_wholly_violated_examples() -> None:
    safe = all_views(dict.fromkeys("123", False))
    assert len(safe) == 800, "two variants: there is no broken rule to leave out"
    assert {len(view.policy.keys) for view in safe} == {1, 2, 3}, "one fewer where all would go"
    whole = all_views(dict.fromkeys("123", True))
    assert len(whole) == 800, "nothing would be left of the policy"
    assert {len(view.policy.keys) for view in whole} == {3}


def test_unknown_categories_are_never_shown() -> None:
    assert all(set(view.policy.keys) <= {"1", "2"} for view in all_views({"1": False, "2": True}))


def test_seeds_reproduce_and_augmentation_can_be_off() -> None:
    one, other = (llama_guard.views_of(POLICY, FLAGS, random.Random(5)) for _ in range(2))
    assert one == other
    (plain,) = llama_guard.views_of(POLICY, FLAGS, random.Random(5), augment=False)
    assert plain.policy.keys == ("1", "2", "3")
    assert plain.violated == ("2",)


def test_codes_are_sorted_by_number_also_beyond_nine() -> None:
    policy = Policy(tuple(Category(key=str(number), name="x") for number in range(12)))
    assert llama_guard.write_target(policy, ["10", "1", "9"]) == "unsafe\nS2,S10,S11"


@pytest.mark.parametrize("train_prompt", [False, True])
def test_what_is_trained_on(train_prompt: bool) -> None:
    """The target and its end, each token told at the one before; with `train_prompt` everything from the second on."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHATML
    recipe = methods.resolve("llama-guard", {"train_prompt": train_prompt})
    row = Flagged("0", "here", (Message("user", "hello there"),), FLAGS)
    (view,) = llama_guard.views_of(POLICY, FLAGS, random.Random(0), augment=False)
    tokens = llama_guard.tell(recipe, tokenizer, row, view)
    told = tokenizer.decode(tokens.labels)
    if train_prompt:
        assert tokenizer.decode([tokens.ids[0], *tokens.labels]).startswith("<s>user:Decide whether")
        assert tokens.words == list(range(len(tokens.ids)))
    else:
        assert told == "unsafe\nS2<|end|>"
    assert [tokens.ids[at + 1] for at in tokens.words[:-1]] == list(tokens.labels[:-1])
    assert tokens.labels[-1] == tokenizer.eos_token_id
    assert tokens.words[-1] == len(tokens.ids) - 1


def test_average_precision_by_hand() -> None:
    """Positives at rank 1 and 3: (1/2)(1) + (1/2)(2/3) = 0.833333; two tied scores are one threshold."""
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    assert average_precision(np.array([True, False, True, False]), scores) == pytest.approx(0.833333, abs=1e-6)
    tied = np.array([0.9, 0.9, 0.1])
    assert average_precision(np.array([True, False, False]), tied) == pytest.approx(0.5)


def test_a_category_is_scored_on_the_rows_that_know_it() -> None:
    rows = [
        Flagged(str(number), "x", (Message("user", text),), flags)
        for number, (text, flags) in enumerate(
            [("bad", {"1": True}), ("fine", {"1": False}), ("fine", {"2": False}), ("bad", {"1": True, "2": True})]
        )
    ]
    answers: dict[bool, Any] = {True: ((-3.0,), (-0.1,)), False: ((-0.1,), (-3.0,))}
    judge = lambda question: Scored(answers["bad" in question.prompt[0].content.split("<conversation>")[1]])  # noqa: E731
    recipe = methods.resolve("llama-guard")
    found = llama_guard.score_categories(recipe, ScriptedEngine([], judge), POLICY, rows)
    assert list(found) == ["1", "2"], "3 is unknown everywhere"
    assert (found["1"]["rows"], found["1"]["violated"]) == (3, 2)
    assert found["1"]["against_all"]["value"] == pytest.approx(1.0)
    assert (found["2"]["rows"], found["2"]["violated"]) == (2, 1)


def test_sensitivity_tells_a_reader_of_policies_from_a_rememberer() -> None:
    rows = [Flagged(str(n), "x", (Message("user", "bad"),), FLAGS) for n in range(8)]
    recipe = methods.resolve("llama-guard")
    unsafe, safe = Scored(((-3.0,), (-0.1,))), Scored(((-0.1,), (-3.0,)))

    def reader(question: Question) -> Scored:
        return unsafe if "Rule 2" in question.prompt[0].content else safe  # type: ignore[union-attr]

    found = llama_guard.measure_sensitivity(recipe, ScriptedEngine([], reader), POLICY, rows)
    assert found["broken_rules_left_out"]["value"] > 0.8
    assert found["other_rule_left_out"]["value"] == 0
    assert found["difference"]["low"] > 0.8
    same = llama_guard.measure_sensitivity(recipe, ScriptedEngine([], lambda question: unsafe), POLICY, rows)
    assert same["difference"]["value"] == 0


@pytest.fixture(scope="module")
def chat_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a chat template."""
    import transformers

    folder = tmp_path_factory.mktemp("chat") / "model"
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHATML
    transformers.AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def options(model: Path, **more: Any) -> dict[str, Any]:
    values = {"model.base": str(model), "data.train": "moderation", "data.text": "prompt", "data.dev_share": 0.4}
    return (
        values
        | {"plan.batch_rows": 4, "plan.precision": "float32", "engine.precision": "float32", "engine.cache": False}
        | more
    )


def test_a_run_and_the_guard_it_leaves(chat_model: Path, named_data: Path, tmp_path: Path) -> None:
    folder = methods.run("llama-guard", options(chat_model, compare=True), out=tmp_path / "run")
    scores = json.loads((folder / "scores.json").read_text())
    assert set(scores["held_out"]["systems"]) == {
        "tuned guard", "untuned", "label supervision", "TF-IDF + logistic regression"
    }  # fmt: skip
    assert scores["held_out"]["metric"] == "average_precision"
    assert scores["policy_is_read"]["rows"] == 4
    loaded = Guard.load(folder)
    assert loaded.threshold == scores["threshold"]["threshold"]
    held_out = data.read_rows("moderation:dev")
    written = [json.loads(line) for line in (folder / "predictions" / "tuned-guard.jsonl").read_text().splitlines()]
    for row, found in zip(held_out, written, strict=True):
        assert loaded.check(row.messages).score == pytest.approx(found["probabilities"]["unsafe"], abs=1e-5)


def test_a_file_is_labelled_by_the_guard(chat_model: Path, named_data: Path, tmp_path: Path) -> None:
    folder = methods.run("llama-guard", options(chat_model), out=tmp_path / "run")
    rows = write_csv(
        tmp_path / "new.csv", [{"prompt": "Is rain wet?", "n": "1"}, {"prompt": "Go away, vermin.", "n": "2"}]
    )
    done = invoke("predict", folder, rows, "--out", tmp_path / "out.csv")
    assert done.exit_code == 0, done.output
    first, second = csv.DictReader((tmp_path / "out.csv").open())
    assert (first["n"], second["prompt"]) == ("1", "Go away, vermin.")
    cut = Guard.load(folder).threshold
    for row in (first, second):
        assert (row["predicted"] == "unsafe") == (float(row["probability_unsafe"]) >= cut)


def test_problems_are_found_before_a_model_loads(chat_model: Path, named_data: Path) -> None:
    wrong = options(chat_model, policy="moderaton", threshold="precision")
    with pytest.raises(UserError) as raised:
        llama_guard.check(methods.resolve("llama-guard", wrong))
    said = " ".join(problem.what for problem in raised.value.all())
    assert "moderaton" in said
    assert "at = None" in said
    with pytest.raises(UserError, match="holds labels, and flags are wanted"):
        llama_guard.check(methods.resolve("llama-guard", options(chat_model) | {"data.train": "emotion"}))


def test_check_counts(chat_model: Path, named_data: Path) -> None:
    lines = dict(llama_guard.check(methods.resolve("llama-guard", options(chat_model))))
    assert lines["test rows"] == "8, 4 of them unsafe"
    assert lines["policy"].startswith("moderation: S1 S, S2 H")


def test_rows_of_which_nothing_is_known_are_counted(chat_model: Path, named_data: Path) -> None:
    rows = [{"prompt": "Hello there.", "S": None}, *own_rows("moderation")]
    write_jsonl(named_data / "moderation" / "train.jsonl", rows)
    lines = dict(llama_guard.check(methods.resolve("llama-guard", options(chat_model))))
    assert lines["rows left out"] == "1 train: no category of the policy is known"


def test_an_unfinished_run_has_no_guard(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        guard.Guard.load(tmp_path)


@pytest.mark.data
def test_real_rows_know_what_the_card_says() -> None:
    """307 of 700 train and 147 of 300 dev rows know H; 198 and 86 violate something."""
    for split, known, unsafe in (("train", 307, 198), ("dev", 147, 86)):
        rows = data.read_rows(f"moderation:{split}")
        assert sum("H" in row.flags for row in rows) == known
        assert sum(any(row.flags.values()) for row in rows) == unsafe


def write_answers(folder: Path, keys: tuple[str, ...] = ("S", "H", "V", "HR", "SH")) -> Path:
    lines = [f"prompt,long,answer,{','.join(keys)}"]
    for n in range(20):
        flags = ",".join(str(int(n % 5 == at)) for at in range(len(keys)))
        lines.append(f"question {n},{n} {'word ' * 600},answer {n},{flags}")
    (folder / "answers.csv").write_text("\n".join(lines) + "\n")
    return folder / "answers.csv"


def test_answers_are_judged_where_there_is_a_column_of_them(chat_model: Path, tmp_path: Path) -> None:
    source = str(write_answers(tmp_path))
    recipe = methods.resolve("llama-guard", options(chat_model) | {"data.train": source, "response": "answer"})
    llama_guard.check(recipe)
    rows = llama_guard.read(recipe)
    assert [turn.role for turn in rows.train[0].messages] == ["user", "assistant"]
    shown = llama_guard.prompts_of(recipe, llama_guard.policy_of(recipe), rows.train[:1])[0][0].content
    assert "Judge the Agent only." in shown
    assert "Agent: answer" in shown


@pytest.mark.parametrize(("change", "words"), [
    ({}, "says anything of H"), ({"engine.ray": "auto"}, "engine.ray cannot read"),
    ({"max_tokens": 4096, "data.text": "long"}, "tokens, and"),
])  # fmt: skip
def test_what_would_be_found_too_late(change: dict[str, Any], words: str, chat_model: Path, tmp_path: Path) -> None:
    """A misspelled category, an engine that reads no adapter, a text that does not fit beside the policy."""
    misspelled = not change
    source = write_answers(tmp_path, ("S", "Hate", "V", "HR", "SH") if misspelled else ("S", "H", "V", "HR", "SH"))
    values = options(chat_model) | {"data.train": str(source), "data.text": "prompt"} | change
    with pytest.raises(UserError) as raised:
        llama_guard.check(methods.resolve("llama-guard", values))
    assert any(words in error.what for error in raised.value.all()), raised.value.all()
