"""Checks of SALMON that a toy would fail: a judge of places, wrong signs, clipped draws, a head that reads no list."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.nn import functional

from camelid import adherence, bases, chat, engines, methods, models, training
from camelid.batches import Batch
from camelid.branches import collate_ends, share_front
from camelid.engines import Question, Request, Scored
from camelid.engines.local import LocalEngine
from camelid.engines.scripted import ScriptedEngine
from camelid.errors import UserError
from camelid.methods.reinforce import salmon
from camelid.objectives import rewards
from camelid.principle import NOT, Principle, read_principles
from camelid.recipe import Plan
from camelid.rows import Guided, Judged, Message, Pair, Preference, iterate_rows
from conftest import CHAT_TEMPLATE, make_model, own_rows, write_csv, write_jsonl

KIND = Principle(name="kind", definition="It is kind.", negative="It is rude.")
LONG = Principle(name="long", definition="It is long.", negative="It is short.")
BOTH = {"kind": KIND, "long": LONG}
PAIR = Pair("0", "line 1", "Where is the kettle?", "By the door, as always.", "I do not know where it is.")
SMALL = {"question_tokens": 24, "answer_tokens": 64}


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a chat template, room for a long prompt, and weights so large that every token counts."""
    folder = make_model(tmp_path_factory.mktemp("salmon") / "chat", seed=0)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data *= 8 if parameter.ndim > 1 else 1
    model.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMELID_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pairs_csv(tmp_path: Path) -> Path:
    """Answers of three lengths to 12 questions, two pairs each."""
    rows = []
    for number in range(12):
        texts = [f"It is {number}, " + "by far, " * times + "so there." for times in (0, 1, 3)]
        rows += [
            {"question": f"What is {number} plus nothing?", "one": first, "two": second}
            for first, second in (pairwise(texts) if number % 2 else pairwise(texts[::-1]))
        ]
    return write_csv(tmp_path / "pairs.csv", rows)


def options(model: Path, source: Path | None, **values: Any) -> dict[str, Any]:
    columns = {"data.instruction": "question", "data.first": "one", "data.second": "two"}
    given = {
        "model.base": str(model),
        "data.train": str(source) if source else "",
        **columns,
        "plan.precision": "float32",
    }
    given |= SMALL | {"engine.precision": "float32", "plan.batch_rows": 4, "data.test_share": 0.3}
    return given | {name.replace("__", "."): value for name, value in values.items()}


def run_salmon(folder: Path, *given: Any, **values: Any) -> dict[str, Any]:
    methods.run("salmon", options(*given, **values), out=folder)
    return json.loads((folder / "scores.json").read_text())


def scripted(letter_gap: Callable[[Question], float]) -> ScriptedEngine:
    """A judge whose log-probability of (a minus that of (b is `letter_gap`; what stands before the letter is equal."""
    return ScriptedEngine(["unused"], lambda asked: Scored(((-1.0, letter_gap(asked)), (-1.0, 0.0))))


def shown(asked: Question) -> tuple[str, str]:
    """The outputs as a judge sees them."""
    text = asked.prompt[-1].content  # type: ignore[union-attr]
    first, second = text.split("Output (a):\n")[1].split("\n\nLeave everything")[0].split("\n\nOutput (b):\n")
    return first, second


def prefers_length(asked: Question) -> float:
    first, second = shown(asked)
    return float(len(first) - len(second))


def grades_of(engine: Any, rows: Sequence[Pair], principles: Any = BOTH) -> list[Any]:
    judged = salmon.ask(engine, rows, principles)
    spread = salmon.variances(judged, principles)
    return [salmon.grade(one, spread) for one in judged]


def recipe_of(**values: Any) -> salmon.Recipe:
    return salmon.Recipe.model_validate(values)


# Steps 2 and 3, check 1


def test_check_1_a_judge_of_places_gives_no_score_and_no_row(
    tmp_path: Path, chat_model: Path, pairs_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It always says "a": s12 > 0 and s21 < 0, so that g is 0 for every principle, and nothing is labelled."""
    rows = [replace(PAIR, id=str(number)) for number in range(3)]
    judged = salmon.ask(scripted(lambda asked: 2.0), rows, BOTH)
    assert [one.value for one in judged] == [{"kind": [2.0, -2.0], "long": [2.0, -2.0]}] * 3
    assert grades_of(scripted(lambda asked: 2.0), rows) == [{"kind": 0.0, "long": 0.0}] * 3
    monkeypatch.setattr(engines, "open_engine", lambda *_: scripted(lambda asked: 2.0))
    with pytest.raises(UserError, match="no pair was given a label") as raised:
        run_salmon(tmp_path / "r", chat_model, pairs_csv, principles="dialogue")
    assert "no principle of the list decides" in raised.value.fix
    assert not [*iterate_rows(tmp_path / "r" / "labelled.jsonl")]


def test_both_orders_are_positive_where_the_first_is_better() -> None:
    """The first answer is 3 characters longer than the second: +3 in both orders, not +3 and -3."""
    row = replace(PAIR, first="six more", second="three")
    [judged] = salmon.ask(scripted(prefers_length), [row], BOTH)
    assert judged.value == {"kind": [3.0, 3.0], "long": [3.0, 3.0]}
    [turned] = salmon.ask(scripted(prefers_length), [replace(row, first="three", second="six more")], BOTH)
    assert turned.value == {"kind": [-3.0, -3.0], "long": [-3.0, -3.0]}


def test_each_principle_is_asked_with_its_own_words_in_each_order() -> None:
    engine = scripted(prefers_length)
    salmon.ask(engine, [PAIR], BOTH)
    asked: list[Any] = engine.asked
    assert [shown(one) for one in asked] == [(PAIR.first, PAIR.second)] * 2 + [(PAIR.second, PAIR.first)] * 2
    assert [one.prompt[-1].content.rpartition("\n")[2] for one in asked] == [
        "kind: It is kind.",
        "long: It is long.",
    ] * 2
    assert asked[1].answers == ("The more long output is Output (a", "The more long output is Output (b")
    assert not asked[0].ended
    assert PAIR.instruction in asked[0].prompt[-1].content


def test_the_score_is_the_difference_of_the_letters_logits(chat_model: Path) -> None:
    """From one plain forward of the prompt and the opened reply: both letters are read at the parenthesis."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(chat_model)
    model = transformers.AutoModelForCausalLM.from_pretrained(chat_model, dtype=torch.float32).eval()
    [found] = salmon.ask(LocalEngine(model, tokenizer), [PAIR], BOTH)
    for name, one in BOTH.items():
        expected = []
        for swapped, sign in ((False, 1), (True, -1)):
            turns = [{"role": "user", "content": salmon.write_comparison(PAIR, one, swapped)[0].content}]
            front = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            opened = tokenizer(front + f"The more {name} output is Output (", add_special_tokens=False)["input_ids"]
            letters = [tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in salmon.LETTERS]
            assert [len(letter) for letter in letters] == [1, 1]
            with torch.no_grad():
                logits_V = model(torch.tensor([opened])).logits[0, -1]
            expected.append(sign * (logits_V[letters[0][0]] - logits_V[letters[1][0]]).item())
        assert found.value[name] == pytest.approx(expected, abs=1e-4)
        assert abs(found.value[name][0]) > 1e-3


def test_normalised_by_hand() -> None:
    """(0.6 + 1.0) / 2 / 0.5 = 1.6; orders that disagree, and a zero, give 0."""
    assert salmon.normalise((0.6, 1.0), 0.5) == pytest.approx(1.6)
    assert salmon.normalise((-0.6, -1.0), 0.5) == pytest.approx(-1.6)
    for pair in ((0.6, -1.0), (-0.6, 1.0), (0.0, 1.0), (-1.0, 0.0), (0.0, 0.0)):
        assert salmon.normalise(pair, 0.5) == 0.0


def test_the_variance_is_that_of_all_scores_of_a_principle() -> None:
    """1, 3, 5, 7 pooled: mean 4, population variance (9 + 1 + 1 + 9) / 4 = 5; a failed pair has no part in it."""
    judged = [Judged(str(n), "", "value", {"kind": list(both)}, "") for n, both in enumerate([(1.0, 3.0), (5.0, 7.0)])]
    failed = Judged("2", "", "failed", None, "timeout", problem="timeout")
    assert salmon.variances([*judged, failed], ["kind"]) == {"kind": 5.0}
    assert salmon.grade(judged[0], {"kind": 5.0}) == {"kind": pytest.approx(2 / 5)}
    assert salmon.grade(failed, {"kind": 5.0}) is None


def test_check_3_ten_times_the_raw_scores_are_a_tenth_of_the_score() -> None:
    """Scores are divided by the variance, not by the standard deviation: 10 / 100."""
    raw = [(0.4, 0.8), (-1.0, -0.2), (0.3, 0.5)]
    plain, large = (
        [Judged(str(n), "", "value", {"kind": [factor * s for s in both]}, "") for n, both in enumerate(raw)]
        for factor in (1.0, 10.0)
    )
    for one, ten in zip(plain, large, strict=True):
        small, big = (salmon.grade(row, salmon.variances(rows, ["kind"])) for row, rows in ((one, plain), (ten, large)))
        assert small is not None
        assert big is not None
        assert big["kind"] == pytest.approx(small["kind"] / 10)


def test_a_request_that_fails_leaves_its_pair_without_a_score() -> None:
    def score(asked: Question) -> Scored:
        return Scored((), problem="timeout") if "broken" in asked.prompt[-1].content else Scored(((-1.0,), (-2.0,)))  # type: ignore[union-attr]

    found = salmon.ask(ScriptedEngine([], score), [PAIR, replace(PAIR, id="1", first="broken")], BOTH)
    assert [(one.id, one.outcome, one.problem) for one in found] == [("0", "value", ""), ("1", "failed", "timeout")]
    rows, left = salmon.label_all(recipe_of(passes=2), [PAIR], [None], BOTH)
    assert rows == []
    assert left == {"labels of pairs that lack a score": 2}


def test_measured_principles_ask_nobody() -> None:
    def refuse() -> Any:
        raise AssertionError("no model is needed")

    row = replace(PAIR, first="Copper kettle.", second="One. Two words. And three.")
    [found] = salmon.judge(read_principles("measured"), refuse, [row])
    assert found.value["concise"] == [3.0, 3.0]
    assert found.value["methodical"] == [-2.0, -2.0]
    mixed = BOTH | {"concise": read_principles("measured")["concise"]}
    [both] = salmon.judge(mixed, lambda: scripted(lambda asked: 2.0), [row])
    assert both.value == {"kind": [2.0, -2.0], "long": [2.0, -2.0], "concise": [3.0, 3.0]}


# Steps 4 to 7, checks 2 to 4


def labels(grades: dict[str, float], signs: dict[str, int]) -> bool | None:
    return salmon.decide(PAIR, grades, signs, random.Random(0), None)[0]


def test_check_2_negation_turns_every_label() -> None:
    """With one principle, and with all of a list turned round."""
    draw = random.Random(0)
    for _ in range(200):
        grades = {name: draw.uniform(-1, 1) for name in ("kind", "long", "dry")}
        assert labels(grades, {"kind": 1}) == (grades["kind"] > 0)
        signs = salmon.draw_signs(draw, [*grades], 8)
        turned = {name: -sign for name, sign in signs.items()}
        assert labels(grades, signs) is not labels(grades, turned)


def test_check_3_the_largest_decides() -> None:
    grades = {"k1": 0.4, "k2": -0.9}
    assert salmon.find_dominant(grades, {"k1": 1, "k2": 1}) == ("k2", -0.9)
    assert salmon.find_dominant(grades, {"k1": 1, "k2": -1}) == ("k2", 0.9)
    assert salmon.find_dominant(grades, {"k1": -1, "k2": -1}) == ("k2", 0.9), "+0.9 outweighs -0.4"
    assert [labels(grades, {"k1": a, "k2": b}) for a, b in ((1, 1), (1, -1), (-1, -1))] == [False, True, True]
    assert salmon.find_dominant({"k1": -0.5, "k2": 0.5}, {"k2": 1, "k1": 1}) == ("k2", 0.5), "the first of equal ones"
    assert labels({"k1": 0.0}, {"k1": 1}) is None


def test_check_4_the_list_has_the_length_of_a_redrawn_geometric() -> None:
    """Sum of n p (1 - p)^(n - 1) over 1..8, over the mass there: 3.38725. Clipping at 8 would give 4.16."""
    mass = [0.2 * 0.8 ** (n - 1) for n in range(1, 9)]
    exact = sum(n * share for n, share in enumerate(mass, 1)) / sum(mass)
    assert exact == pytest.approx(3.38725, abs=5e-6)
    deviation = math.sqrt(sum((n - exact) ** 2 * share for n, share in enumerate(mass, 1)) / sum(mass))
    draw = random.Random(1)
    counts = [salmon.draw_count(draw, 8) for _ in range(20_000)]
    assert (min(counts), max(counts)) == (1, 8)
    assert fmean(counts) == pytest.approx(exact, abs=3 * deviation / math.sqrt(len(counts)))
    names = [str(n) for n in range(11)]
    signs = [salmon.draw_signs(draw, names, 8) for _ in range(4000)]
    assert fmean(len(one) for one in signs) == pytest.approx(exact, abs=3 * deviation / math.sqrt(len(signs)))
    flat = [sign for one in signs for sign in one.values()]
    assert flat.count(-1) / len(flat) == pytest.approx(0.5, abs=1.5 / math.sqrt(len(flat)))
    assert {name for one in signs for name in one} == set(names)
    assert max(len(salmon.draw_signs(draw, ["a", "b"], 8)) for _ in range(50)) == 2, "no more than there are"


def test_check_4_labels_are_flipped_as_often_as_they_should() -> None:
    """0.10, and 0.25 where a rule decided, within three standard deviations; without noise none."""
    rows = [replace(PAIR, id=str(number)) for number in range(1500)]
    ruled = [replace(row, second="Ο βραστήρας είναι δίπλα στην πόρτα.") for row in rows]
    for share, some in ((0.10, rows), (0.25, ruled)):
        labelled, _ = salmon.label_all(recipe_of(passes=2), some, [{"kind": 1.0}] * 1500, {"kind": KIND})
        flips = [row.flipped for row in labelled]
        assert len(flips) == 3000
        assert fmean(flips) == pytest.approx(share, abs=3 * math.sqrt(share * (1 - share) / 3000))
    quiet, _ = salmon.label_all(recipe_of(noise=0, rule_noise=0), rows, [{"kind": 1.0}] * 1500, {"kind": KIND})
    assert not any(row.flipped for row in quiet)
    assert all((row.chosen == PAIR.first) == (row.guide == ("It is kind.",)) for row in quiet)
    noisy, _ = salmon.label_all(recipe_of(rule_noise=0), rows, [{"kind": 1.0}] * 1500, {"kind": KIND})
    assert all((row.chosen == PAIR.first) == ((row.guide == ("It is kind.",)) ^ row.flipped) for row in noisy)


def test_rows_hold_their_guide_and_what_decided() -> None:
    recipe = recipe_of(passes=30, noise=0, rule_noise=0)
    labelled, left = salmon.label_all(recipe, [PAIR], [{"kind": 0.4, "long": -0.9}], BOTH)
    assert left == {}
    assert len({row.id for row in labelled}) == 30
    for row in labelled:
        assert row.prompt == chat.converse(PAIR.instruction)
        assert {row.chosen, row.rejected} == {PAIR.first, PAIR.second}
        wants_long = {"It is long.": True, "It is short.": False}
        told = [wants_long[text] for text in row.guide if text in wants_long]
        assert row.decided == ("long" if told else "kind")
        if told:
            assert (row.chosen == PAIR.second) == told[0]
        else:
            assert (row.chosen == PAIR.first) == (row.guide == ("It is kind.",))
    assert salmon.label_all(recipe, [PAIR], [{"kind": 0.4, "long": -0.9}], BOTH)[0] == labelled, "drawn with the seed"
    assert {len(row.guide) for row in labelled} == {1, 2}


def test_rules_and_their_order() -> None:
    """The phrase counts half of the time, the language always, and last; zero is dropped before either is looked at."""
    stock = replace(PAIR, first="As an AI language model, I think it is by the door.")
    detect = salmon.tell_script

    def outcomes(row: Pair, grade: float) -> Counter[Any]:
        drawn = (random.Random(number) for number in range(400))
        return Counter(salmon.decide(row, {"kind": grade}, {"kind": 1}, draw, detect) for draw in drawn)

    found = outcomes(stock, 1.0)
    assert set(found) == {(True, "kind"), (False, salmon.PHRASE_RULE)}
    assert found[False, salmon.PHRASE_RULE] == pytest.approx(200, abs=60)
    small = replace(stock, first=stock.first.lower())
    assert outcomes(small, 1.0) == {(True, "kind"): 400}, "the phrase is matched letter by letter"
    both = replace(stock, second=stock.first + " Or not.")
    assert outcomes(both, 1.0) == {(True, "kind"): 400}
    greek = replace(stock, second="Ο βραστήρας είναι δίπλα στην πόρτα.")
    assert outcomes(greek, -1.0) == {(True, salmon.LANGUAGE_RULE): 400}, "the language beats the phrase"
    away = replace(greek, first="Δεν ξέρω πού είναι ο βραστήρας.")
    assert set(outcomes(away, 1.0)) == {(None, "labels of two answers in another language than the question")}
    assert {decided for _, decided in outcomes(greek, 0.0)} == {"labels that no principle of the list decides"}
    off, _ = salmon.label_all(recipe_of(language="off", noise=0), [greek], [{"kind": -1.0}], {"kind": KIND})
    assert {row.decided for row in off} <= {"kind", salmon.PHRASE_RULE}


# Step 8, check 5


def lines(tokenizer: Any, guides: Sequence[Sequence[str]], answer: str = PAIR.first) -> Any:
    recipe = recipe_of(question_tokens=64, answer_tokens=64)
    return salmon.write_lines(tokenizer, recipe, PAIR.instruction, answer, guides)


def reward_at(model: Any, ids: Sequence[Sequence[int]], side: str, width: int) -> list[float]:
    """Rewards at the last token of texts that are padded by hand."""
    ids_BT, mask_BT = torch.zeros(len(ids), width, dtype=torch.long), torch.zeros(len(ids), width, dtype=torch.long)
    ends = []
    for row, line in enumerate(ids):
        start = width - len(line) if side == "left" else 0
        ids_BT[row, start : start + len(line)], mask_BT[row, start : start + len(line)] = torch.tensor(line), 1
        ends.append(start + len(line) - 1)
    batch = Batch(ids_BT, mask_BT, torch.empty(0), row_N=torch.arange(len(ids)), token_N=torch.tensor(ends))
    with torch.no_grad():
        return model.eval()(batch)[:, 0].tolist()


def test_check_5_the_list_changes_the_reward_and_padding_does_not(chat_model: Path) -> None:
    base = bases.open_base(str(chat_model))
    model = models.value_model(base, salmon.HEAD, Plan(precision="float32"))
    guides = [["It is kind."], ["It is rude."], ["It is kind.", "It is long."], []]
    texts = lines(base.tokenizer, guides)
    longest = max(map(len, texts))
    plain = [reward_at(model, [text], "right", len(text))[0] for text in texts]
    assert min(abs(one - other) for one, other in pairwise(plain)) > 1e-4
    for side in ("left", "right"):
        for width in (longest, longest + 37):
            assert reward_at(model, texts, side, width) == pytest.approx(plain, abs=1e-5)
    shared = share_front("0", texts)
    assert len(shared.prompt) > 100, "question and answer are computed once for all guides"
    with torch.no_grad():
        together = model(collate_ends([shared, share_front("1", texts[:1])], 0))[:, 0].tolist()
    assert together == pytest.approx([*plain, plain[0]], abs=1e-5)


def test_check_5_the_head_reads_the_last_word_and_nothing_is_appended(chat_model: Path) -> None:
    base = bases.open_base(str(chat_model))
    model = models.value_model(base, salmon.HEAD, Plan(precision="float32"))
    assert model.head.bias.tolist() == [0.0]
    row = Guided("0", "", chat.converse(PAIR.instruction), PAIR.first, PAIR.second, guide=("It is kind.",))
    [encoded] = salmon.encode_labels(base.tokenizer, recipe_of(), [row])
    batch = collate_ends([encoded], 0)
    for place, text in enumerate((row.chosen, row.rejected)):
        ids = [*encoded.prompt, *encoded.answers[place]]
        assert base.tokenizer.decode(ids) == salmon.write_review(PAIR.instruction, text, row.guide)
        assert batch.token_N is not None
        assert batch.ids_BT[0, batch.token_N[place]] == encoded.answers[place][-1] != base.tokenizer.eos_token_id
        trunk = transformers.AutoModel.from_pretrained(chat_model, dtype=torch.float32).eval()
        with torch.no_grad():
            hidden_D = trunk(torch.tensor([ids])).last_hidden_state[0, -1]
            expected = (model.head.weight[0] @ hidden_D + model.head.bias[0]).item()
            assert model.eval()(batch)[place, 0].item() == pytest.approx(expected, abs=1e-5)


def test_the_text_has_the_answer_first_and_definitions_without_names() -> None:
    told = salmon.write_review("the question", "the answer", ("It is kind.", "It is short."))
    assert told.index("the answer") < told.index("the question") < told.index("- It is kind.\n- It is short.\n")
    assert told.endswith(" is")
    assert "kind:" not in told
    assert salmon.GENERAL not in told
    assert salmon.GENERAL in salmon.write_review("the question", "the answer", ())


def test_the_loss_is_cross_entropy_of_the_difference() -> None:
    """BCE-with-logits(r(y2) - r(y1), [y2 preferred]), whichever answer is the preferred one."""
    first, second = torch.tensor([0.3, -1.2, 2.0]), torch.tensor([0.1, 0.4, -0.7])
    preferred = torch.tensor([0.0, 1.0, 1.0])
    expected = functional.binary_cross_entropy_with_logits(second - first, preferred, reduction="sum")
    chosen, rejected = torch.where(preferred > 0, second, first), torch.where(preferred > 0, first, second)
    values_S1 = torch.stack([chosen, rejected], dim=1).reshape(-1, 1)
    batch: Any = type("Ends", (), {"strength_P": torch.ones(3)})()
    terms, told = rewards()(lambda _: values_S1, batch)
    assert terms["loss"].item() == pytest.approx(expected.item())
    assert told["accuracy"] == 2.0, "all but the last: -0.7 is below 2.0"


def test_question_and_answer_are_cut_on_their_own_sides(chat_model: Path) -> None:
    tokenizer = bases.open_base(str(chat_model)).tokenizer
    row = Pair("0", "", "beginning " * 30 + "the end", "the start" + " middle" * 30, "the start, and another")
    cut = salmon.cut_pair(recipe_of(question_tokens=16, answer_tokens=16), tokenizer, row)
    assert row.instruction.endswith(cut.instruction)
    assert row.first.startswith(cut.first)
    for text in (cut.instruction, cut.first, cut.second):
        assert 14 <= len(tokenizer(text)["input_ids"]) <= 16
    small = recipe_of(question_tokens=16, answer_tokens=16)
    [ids] = salmon.write_lines(tokenizer, small, row.instruction, row.first, [()])
    assert tokenizer.decode(ids) == salmon.write_review(cut.instruction, cut.first, ()), "uncut texts are cut alike"


# Whole runs


def test_a_run_from_pairs_to_scores(tmp_path: Path, chat_model: Path, pairs_csv: Path) -> None:
    scores = run_salmon(tmp_path / "r", chat_model, pairs_csv, passes=2)
    rows: dict[str, Any] = {
        name: [*iterate_rows(tmp_path / "r" / f"{name}.jsonl")] for name in ("train", "test", "held-out/decisions")
    }
    questions = {name: {row.instruction for row in rows[name]} for name in ("train", "test")}
    assert not questions["train"] & questions["test"]
    assert len(rows["train"]) + len(rows["test"]) == 24
    held_out = scores["held_out"]
    assert set(held_out["systems"]) == {adherence.OURS, adherence.BLIND, adherence.OTHER, adherence.LONGER}
    for name in (adherence.BLIND, adherence.LONGER):
        exact = {"value": 0.5, "low": 0.5, "high": 0.5}
        assert held_out["systems"][name]["accuracy"] == exact, "whoever reads no list is right in exactly one half"
        assert held_out["systems"][name]["flip_rate"]["value"] == 0.0
    assert (
        held_out["rows"]
        == len(rows["held-out/decisions"])
        == 2 * sum(one["pairs"] for one in scores["by_principle"].values())
    )
    assert set(scores["by_principle"]) <= set(read_principles("measured"))
    assert scores["labels"]["labels"] == sum(scores["labels"]["decided by"].values())
    agree = scores["labels"]["pairs that a principle tells apart in both orders"]
    assert agree["concise"] == 1.0, "all of them differ in length"
    assert "methodical" not in agree, "each is one sentence"
    assert scores["steering"]["questions"] == len(questions["test"])
    count = sum(int(name.split("(")[1].split()[0]) for name in scores["longer"])
    assert (
        count
        == len(scores["spread"]["groups"]["preferred"])
        == 2 * sum(one["pairs"] for one in scores["by_principle"].values())
    )
    report = tmp_path / "r" / "report.html"
    from camelid.report import write_report

    page = write_report(tmp_path / "r").read_text(encoding="utf-8")
    assert report.is_file()
    assert "what counts: " in page
    assert "flip rate" in page
    assert "\n\nfirst: It is" in page, "pairs are shown as such"
    assert "not concise in" not in page, "what was decided under a negation is no class of the data"


def test_a_model_that_learned_to_follow_is_seen_to(tmp_path: Path, chat_model: Path, pairs_csv: Path) -> None:
    """Full training of the tiny model on pairs that differ in length alone, with one principle and its negation."""
    (tmp_path / "one.toml").write_text(
        '[[principle]]\nname = "concise"\ndefinition = "Short!"\nnegative = "Long, long."\nrule = "brevity"\n'
    )
    scores = run_salmon(
        tmp_path / "r", chat_model, pairs_csv,
        principles=str(tmp_path / "one.toml"), passes=8, noise=0, plan__tuning="full", plan__epochs=6,
        plan__learning_rate=3e-3, plan__batch_rows=8, question_tokens=24, answer_tokens=48,
    )  # fmt: skip
    ours = scores["held_out"]["systems"][adherence.OURS]
    assert ours["accuracy"]["value"] > 0.8
    assert ours["flip_rate"]["value"] > 0.6
    assert adherence.OTHER not in scores["held_out"]["systems"], "there is no other one"
    assert scores["steering"]["concise"]["difference"]["value"] > 0, "the picks are shorter than those of the negation"


def test_a_judge_that_is_asked_labels_what_it_says(
    tmp_path: Path, chat_model: Path, pairs_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.toml").write_text(
        '[[principle]]\nname = "long"\ndefinition = "It is long."\nnegative = "It is short."\n'
    )
    monkeypatch.setattr(engines, "open_engine", lambda *_: scripted(prefers_length))
    run_salmon(tmp_path / "r", chat_model, pairs_csv, principles=str(tmp_path / "own.toml"), noise=0)
    rows: list[Any] = list(iterate_rows(tmp_path / "r" / "labelled.jsonl"))
    assert {row.guide for row in rows} == {("It is long.",), ("It is short.",)}
    assert all((len(row.chosen) > len(row.rejected)) == (row.guide == ("It is long.",)) for row in rows)


def test_the_model_asked_is_a_system_too(
    tmp_path: Path, chat_model: Path, pairs_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge that always prefers length is right on concise in no pair, and turns with every negation."""
    (tmp_path / "one.toml").write_text(
        '[[principle]]\nname = "concise"\ndefinition = "Short!"\nnegative = "Long."\nrule = "brevity"\n'
    )
    monkeypatch.setattr(engines, "open_engine", lambda *_: scripted(prefers_length))
    given = {"principles": str(tmp_path / "one.toml"), "answer_tokens": 200}
    scores = run_salmon(tmp_path / "r", chat_model, pairs_csv, compare=True, **given)
    asked = scores["held_out"]["systems"][salmon.ASKED]
    assert asked["accuracy"]["value"] == 0.0
    assert asked["flip_rate"]["value"] == 1.0
    monkeypatch.setattr(engines, "open_engine", lambda *_: scripted(lambda one: -prefers_length(one)))
    asked = run_salmon(tmp_path / "s", chat_model, pairs_csv, compare=True, **given)["held_out"]["systems"][
        salmon.ASKED
    ]
    assert asked["accuracy"]["value"] == asked["flip_rate"]["value"] == 1.0


def test_a_principle_that_tells_nothing_apart_is_dropped_with_a_warning(
    tmp_path: Path, chat_model: Path, pairs_csv: Path
) -> None:
    """No answer has a word of the question that the other lacks, so specific has no variance."""
    scores = run_salmon(tmp_path / "r", chat_model, pairs_csv)
    notes = json.loads((tmp_path / "r" / "manifest.json").read_text())["notes"]["data"]
    assert "'specific' has the same score for every pair and is left out" in notes["warnings"]
    assert "specific" not in scores["by_principle"]


def test_answers_of_the_policy_become_pairs(tmp_path: Path, chat_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two answers each, cut where another turn begins; what is short or failed is counted."""
    questions = [{"question": f"Question number {number}, please?"} for number in range(12)]
    source = write_csv(tmp_path / "q.csv", questions)

    def reply(request: Request) -> str:
        text = request.prompt[-1].content  # type: ignore[union-attr]
        if " 3," in text:
            return "short"
        return f"The answer to {text} is {'long ' * request.sample * len(text)}enough.\nUser: and another question?"

    monkeypatch.setattr(engines, "open_engine", lambda *_: ScriptedEngine(reply))
    run_salmon(tmp_path / "r", chat_model, None, data__prompts=str(source), answer_tokens=400, question_tokens=100)
    rows: list[Any] = [row for name in ("train", "test") for row in iterate_rows(tmp_path / "r" / f"{name}.jsonl")]
    assert len(rows) == 11
    assert all(row.first.endswith("enough.") and "long" in row.second for row in rows)
    notes = json.loads((tmp_path / "r" / "manifest.json").read_text())["notes"]["data"]
    assert notes["dropped"]["questions without two whole answers"] == 1


def test_general_preferences_come_first_and_are_gone_on_with(
    tmp_path: Path, chat_model: Path, pairs_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second training starts from adapter and head of the first; the first reads the fixed text."""
    general = write_csv(
        tmp_path / "general.csv",
        [{"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": f"{n} is none of yours."} for n in range(8)],
    )
    seen: list[tuple[str, Any]] = []
    plain = salmon.train

    def watch(model: Any, batches: Any, *rest: Any, folder: Path) -> None:
        seen.append(
            (folder.name, {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})
        )
        plain(model, batches, *rest, folder=folder)

    monkeypatch.setattr(salmon, "train", watch)
    run_salmon(tmp_path / "r", chat_model, pairs_csv, data__general=str(general), general_learning_rate=1e-2)
    assert [name for name, _ in seen] == ["general-model", "model"]
    head = load_file(tmp_path / "r" / "general-model" / "head.safetensors")
    torch.testing.assert_close(seen[1][1]["head.weight"], head["weight"])
    assert not torch.equal(seen[0][1]["head.weight"], head["weight"])
    moved = [name for name, value in seen[1][1].items() if "lora_B" in name and value.abs().max() > 0]
    assert moved, "the adapter is gone on with too"
    row = Preference("0", "", chat.converse("What is 1?"), "It is 1.", "No.")
    tokenizer = bases.open_base(str(chat_model)).tokenizer
    [encoded] = salmon.encode_labels(tokenizer, recipe_of(), [row])
    assert salmon.GENERAL in tokenizer.decode([*encoded.prompt, *encoded.answers[0]])


def test_a_killed_run_ends_as_one_that_was_not(
    tmp_path: Path, chat_model: Path, pairs_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of training, its file of principles changed in between: bit for bit the same."""
    own = tmp_path / "own.toml"
    own.write_text((salmon.read_principles.__globals__["BUILT_IN"] / "measured.toml").read_text())
    values = {"principles": str(own), "plan__checkpoint_seconds": 0}
    whole = run_salmon(tmp_path / "whole", chat_model, pairs_csv, **values)
    step = training._step
    calls = []

    def stop(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return step(*given)

    monkeypatch.setattr(training, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        run_salmon(tmp_path / "killed", chat_model, pairs_csv, **values)
    monkeypatch.setattr(training, "_step", step)
    own.write_text('[[principle]]\nname = "other"\ndefinition = "x"\nnegative = "y"\n')
    methods.resume(tmp_path / "killed")
    assert json.loads((tmp_path / "killed" / "scores.json").read_text()) == whole
    for name in ("adapter_model.safetensors", "head.safetensors", "metrics.jsonl"):
        assert (tmp_path / "killed" / "model" / name).read_bytes() == (tmp_path / "whole" / "model" / name).read_bytes()


# Step 10: steering


def test_the_best_answer_follows_the_chosen_principles_without_training(
    tmp_path: Path, chat_model: Path, pairs_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trained model is only read; its rewards, and with them the best of four, go by the text that is chosen now."""
    run_salmon(tmp_path / "learned", chat_model, pairs_csv)
    source = write_csv(tmp_path / "q.csv", [{"question": f"Question number {n}, please?"} for n in range(6)])
    say = lambda request: f"Answer {request.sample} is {'very ' * request.sample}long."  # noqa: E731
    monkeypatch.setattr(engines, "open_engine", lambda *_: ScriptedEngine(say))
    reward, steer = str(tmp_path / "learned" / "model"), str(source)
    found = {}
    for name, chosen in {"plain": ["concise"], "turned": [NOT + "concise"], "own": ["Use British spelling."]}.items():
        scores = run_salmon(tmp_path / name, chat_model, None, reward=reward, data__steer=steer, chosen=chosen)
        assert not (tmp_path / name / "model").exists()
        assert set(scores) == {"best"}
        found[name] = list(iterate_rows(tmp_path / name / "best" / "answers.jsonl"))
    model, base = models.load_handle(tmp_path / "learned" / "model")
    guide = [read_principles("measured")["concise"].negative]
    for one in found["turned"]:
        value = one.value
        assert len(value["answers"]) == 4
        question = f"Question number {one.id}, please?"
        texts = [
            salmon.write_lines(base.tokenizer, recipe_of(**SMALL), question, text, [guide])[0]
            for text in value["answers"]
        ]
        expected = [reward_at(model, [text], "right", len(text))[0] for text in texts]
        assert value["rewards"] == pytest.approx(expected, abs=1e-4)
        assert value["answer"] == value["answers"][max(range(4), key=expected.__getitem__)]
    assert found["plain"][0].value["rewards"] != found["turned"][0].value["rewards"] != found["own"][0].value["rewards"]
    pairs: list[Any] = list(iterate_rows(tmp_path / "turned" / "best" / "pairs.jsonl"))
    for pair, one in zip(pairs, found["turned"], strict=True):
        by_text = dict(zip(one.value["answers"], one.value["rewards"], strict=True))
        assert by_text[pair.chosen] == max(by_text.values())
        assert by_text[pair.rejected] == min(by_text.values())
        assert pair.prompt == (Message("user", f"Question number {pair.id}, please?"),)


# What is said before a run


@pytest.mark.parametrize(
    ("values", "what", "fix"),
    [
        ({"data.train": ""}, "no rows are named", "--data"),
        ({"data.prompts": "q.csv"}, "data.train and data.prompts are both given", "Leave one out"),
        ({"reward": "nowhere"}, "nowhere holds no trained model", "finished run"),
        ({"reward": "nowhere"}, "a reward model is given, and nothing to steer", "--steer"),
        ({"data.steer": "q.csv"}, "no principles are chosen to steer by", "--chosen"),
        ({"chosen": ["concse"]}, "there is no principle 'concse'", "Did you mean 'concise'?"),
        ({"principles": "dialoge"}, "there are no principles 'dialoge'", "Built-in ones are: dialogue, measured"),
        ({"plan.keep": "best"}, "plan.keep and plan.patience need dev rows", "Leave them out"),
        ({"answer_tokens": 4000}, "may have", "Lower answer_tokens"),
        ({"principles": "dialogue", "compare": True}, "about its own labels", "Leave compare out"),
        (
            {"engine.kind": "remote", "engine.url": "http://localhost:1/v1", "engine.name": "judge"},
            "a chat endpoint gives no log-probabilities", "completions",
        ),
    ],
)  # fmt: skip
def test_contradictions_are_named_before_a_run(
    chat_model: Path, pairs_csv: Path, values: dict[str, Any], what: str, fix: str
) -> None:
    recipe = methods.resolve("salmon", options(chat_model, pairs_csv) | values)
    with pytest.raises(UserError) as raised:
        salmon.check(recipe)
    found = [problem for problem in raised.value.all() if what in problem.what]
    assert len(found) == 1, [problem.what for problem in raised.value.all()]
    assert fix in found[0].fix


def test_what_a_run_would_do(chat_model: Path, pairs_csv: Path) -> None:
    lines = dict(salmon.check(methods.resolve("salmon", options(chat_model, pairs_csv, passes=2, plan__epochs=1))))
    assert lines["principles"] == "4: concise, specific, varied, methodical; 0 are asked for, the rest measured"
    assert lines["pairs"] == "train 16, test 8; general preferences 0"
    assert lines["steps"] == "at most 8 of 4 labels"
    asked = dict(salmon.check(methods.resolve("salmon", options(chat_model, pairs_csv, principles="dialogue"))))
    assert asked["asked"].startswith("384 prompts"), "24 pairs, 8 principles, two orders"


def test_too_few_pairs_and_pairs_that_are_left_out(tmp_path: Path, chat_model: Path) -> None:
    rows = [
        {"question": "How?", "one": "short", "two": "This one is long enough, is it not?"},
        {"question": "How?", "one": "The same text twice here.", "two": "The same text twice here."},
        {"question": "How?", "one": "This one is long enough.", "two": "And so is the other one."},
    ]
    recipe = methods.resolve("salmon", options(chat_model, write_csv(tmp_path / "few.csv", rows)))
    with pytest.raises(UserError, match="too few pairs are left: 1 to learn from, 0 on other questions") as raised:
        salmon.check(recipe)
    assert "'pairs with an answer below 16 characters': 1" in raised.value.fix
    assert "'pairs of answers that are equal, or begin so': 1" in raised.value.fix


def test_the_named_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chat_model: Path) -> None:
    write_folder = tmp_path / "named" / "pandalm"
    write_folder.mkdir(parents=True)
    write_jsonl(write_folder / "testset.jsonl", own_rows("pandalm"))
    monkeypatch.setenv("CAMELID_DATA", str(tmp_path / "named"))
    recipe = methods.resolve("salmon", {"model.base": str(chat_model)})
    rows, dropped = salmon.read_pairs(recipe)
    assert len(rows) == 8
    assert dropped == {}
    assert rows[4].first == "True", "an answer that stands there as a boolean"
    assert rows[4].instruction.endswith("?\n\nEarly bus: 40 minutes. Late bus: 25 minutes.")


@pytest.mark.data
def test_the_real_set(chat_model: Path) -> None:
    """999 pairs of 170 questions, 222 of them with an answer below 16 characters."""
    recipe = methods.resolve("salmon", {"model.base": str(chat_model), "answer_tokens": 2000, "data.train_rows": 999})
    rows, _ = salmon.read_pairs(recipe)
    assert (len(rows), len({row.instruction for row in rows})) == (999, 170)
    found = salmon.split(recipe, rows)
    assert found.dropped == {"pairs with an answer below 16 characters": 222}


@pytest.mark.real
def test_letters_are_one_token_for_the_real_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the opened parenthesis both letters are one token more, so that the sums differ in the letter only."""
    monkeypatch.delenv("CAMELID_CACHE")
    tokenizer = bases.open_base("smollm2-135m").tokenizer
    prompt = salmon.write_comparison(PAIR, KIND, False)
    before, first, second = (
        [*chat.encode_prompt(tokenizer, prompt), *chat.encode_answer(tokenizer, prompt, text, ended=False)]
        for text in (salmon.write_verdicts(KIND)[0][:-1], *salmon.write_verdicts(KIND))
    )
    assert first[:-1] == second[:-1] == before
    assert first[-1] != second[-1]
