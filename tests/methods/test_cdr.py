"""Checks of CDR that a toy would fail: wrong sign, wrong boundary, no end of turn, another context for one model."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from camelid import annotation, bases, chat, cli, engines, methods, models, preferences, sides
from camelid.annotation import count_outcomes, score_answers
from camelid.engines import Request, Sampling, Scored
from camelid.engines.cache import Cache, cache_path
from camelid.engines.local import LocalEngine
from camelid.engines.scripted import ScriptedEngine
from camelid.errors import UserError
from camelid.methods.judge import cdr
from camelid.reading import tell_answer
from camelid.recipe import Plan, read_recipe
from camelid.rows import Judged, Message, Preference, iterate_rows
from camelid.runs import read_manifest
from conftest import CHAT_TEMPLATE, Killed, make_chat_model, own_rows, write_csv, write_jsonl, write_lower

GLUED = CHAT_TEMPLATE.replace("'#assistant\n'", "'#assistant '").replace("turn['role'] + '\n'", "turn['role'] + ' '")
GOLD = ("He has 3 + 4 = <<3+4=7>>7 pens in all.\n#### 7", "A loaf is 2, so five are 2 * 5 = <<2*5=10>>10.\n#### 10")


@pytest.fixture(scope="module")
def strong_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat_model(tmp_path_factory.mktemp("cdr") / "strong", seed=0)


@pytest.fixture(scope="module")
def weak_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat_model(tmp_path_factory.mktemp("cdr") / "weak", seed=1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMELID_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pairs_csv(tmp_path: Path) -> Path:
    """12 pairs of a user's own, with columns of another name."""
    rows = [
        {
            "question": f"What is {n} + {n}?",
            "better": f"It is {n + n}, {'clearly ' * (n % 3)}so.",
            "worse": f"{n}{n} or so",
        }
        for n in range(12)
    ]
    return write_csv(tmp_path / "pairs.csv", rows)


@pytest.fixture
def named_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CAMELID_DATA with our own rows of weak-to-strong, gsm8k and hh-harmless."""
    root = tmp_path / "named"
    for folder in ("weak-to-strong", "gsm8k", "hh-harmless"):
        (root / folder).mkdir(parents=True)
    weak = own_rows("weak-to-strong")
    write_jsonl(root / "weak-to-strong" / "llama2_7b-weak-train.jsonl", weak)
    questions = [row["question"].removeprefix("Question: ").removesuffix("\nAnswer:") for row in weak]
    gold = [GOLD[n] if n < len(GOLD) else f"{n} = <<{n}>>{n}.\n#### {n}" for n in range(len(questions))]
    lines = [{"question": question, "answer": answer} for question, answer in zip(questions, gold, strict=True)]
    write_jsonl(root / "gsm8k" / "train.jsonl", lines)
    for split in ("train", "dev"):
        write_jsonl(root / "hh-harmless" / f"{split}.jsonl", own_rows("hh-harmless"))
    monkeypatch.setenv("CAMELID_DATA", str(root))
    return root


def columns(source: Path) -> dict[str, Any]:
    names = {"prompt": "question", "chosen": "better", "rejected": "worse"}
    return {"data.train": str(source), **{f"data.{name}": column for name, column in names.items()}}


def engine_of(folder: Path) -> LocalEngine:
    base = bases.open_base(str(folder))
    return LocalEngine(bases.load_lm(base, "float32"), base.tokenizer)


def row_of(question: str, chosen: str, rejected: str, row_id: str = "0") -> Preference:
    return Preference(row_id, f"line {row_id}", chat.converse(question), chosen, rejected)


class InMemory:
    """A run that keeps its scores and writes nothing."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def rows(self, name: str, make: Callable[[], Any]) -> list[Any]:
        return list(make())

    def scores(self, name: str, make: Callable[[], Any]) -> Any:
        self.kept[name] = make()
        return self.kept[name]


ROWS = [
    row_of("How are you?", "Quite well, thank you.", "No.", "0"),
    row_of("And the weather today, over there by the sea?", "Wet.", "I do not know at all, sorry.", "1"),
    row_of("Two?", "One and one", "Three, as everybody knows, is more than two", "2"),
    row_of("Name a bird that cannot fly and lives far in the south.", "A penguin", "A swallow", "3"),
]


def measured(engine: Any, rows: Sequence[Preference] = ROWS, ended: bool = True) -> list[Judged]:
    return score_answers(engine, rows, cdr.answers_of, ended=ended, floor=cdr.FLOOR)


def opened(recipe: cdr.Recipe, side: sides.Side, folder: Path | None = None) -> Any:
    return sides.open_side(side, recipe.model, recipe.engine, folder)


def rewards_of(strong: Any, weak: Any, rows: Sequence[Preference] = ROWS) -> list[list[float]]:
    found = map(cdr.reward, measured(strong, rows), measured(weak, rows))
    return [one.value[cdr.RATIO] for one in found]


def by_hand(folder: Path, prompt: tuple[Message, ...], answer: str) -> list[float]:
    """log p of each token behind the prompt, the end of the turn included, from one plain forward of all of it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    turns = [{"role": turn.role, "content": turn.content} for turn in prompt]
    front = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    before = tokenizer(front, add_special_tokens=False)["input_ids"]
    whole = [*before, *tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logprobs = model(torch.tensor([whole])).logits[0].log_softmax(dim=-1)
    return [logprobs[place - 1, whole[place]].item() for place in range(len(before), len(whole))]


# Check 1


def test_check_1_equal_models_give_zero_and_swapped_ones_the_negation(strong_model: Path, weak_model: Path) -> None:
    strong, weak = engine_of(strong_model), engine_of(weak_model)
    assert rewards_of(strong, strong) == [[0.0, 0.0]] * len(ROWS)
    straight, swapped = rewards_of(strong, weak), rewards_of(weak, strong)
    assert swapped == [[-value for value in values] for values in straight]
    assert min(abs(value) for values in straight for value in values) > 0


# Check 2


def test_check_2_by_hand_with_different_tokenizers() -> None:
    """(-1.0 - 0.5 - 0.2) - (-1.5 - 0.4) = -1.7 + 1.9 = 0.2, and 0.2 / 3 = 0.0667."""
    strong, weak = [-1.0, -0.5, -0.2], [-1.5, -0.4]
    assert cdr.log_ratio(strong, weak) == pytest.approx(0.2)
    assert cdr.normalise(cdr.log_ratio(strong, weak), len(strong)) == pytest.approx(0.0667, abs=5e-5)
    assert cdr.normalise(0.5, 0) == 0.5, "no token at all must not divide by 0"
    judged = [Judged("0", "", "value", {"logprobs": [side], "clipped": 0}, "") for side in (strong, weak)]
    found = cdr.reward(*judged).value
    assert found[cdr.RATIO] == [pytest.approx(0.2)]
    assert found[cdr.NORMALISED] == [pytest.approx(0.2 / 3)]
    assert found["tokens"] == [3], "n counts the strong model's tokens"


def test_a_row_that_one_model_cannot_read_has_no_reward() -> None:
    kept = Judged("0", "", "value", {"logprobs": [[-1.0, -30.0], [-2.0]], "clipped": 1}, "")
    failed = Judged("0", "", "failed", None, "context overflow")
    assert cdr.reward(kept, failed) == failed == cdr.reward(failed, kept)


def test_every_rule_by_hand() -> None:
    """Three tokens of the strong model and two of the weak one, for an answer of four characters."""
    found = {name: rule([-1.0, -0.5, -0.2], [-1.5, -0.4], "four") for name, rule in cdr.RULES.items()}
    assert found == pytest.approx({
        cdr.RATIO: 0.2, cdr.NORMALISED: 0.2 / 3, cdr.REVERSED: -0.2,
        cdr.SUMMED: -1.7, cdr.MEAN: -1.7 / 3, cdr.LONGER: 4,
    })  # fmt: skip


# Check 3


def test_check_3_the_answer_and_its_end_are_scored_and_nothing_else(strong_model: Path) -> None:
    """The first token is read at the last place of the prompt; the template's line break behind the end is left out."""
    for row, found in zip(ROWS, measured(engine_of(strong_model)), strict=True):
        for answer, values in zip(cdr.answers_of(row), found.value["logprobs"], strict=True):
            assert values == pytest.approx(by_hand(strong_model, row.prompt, answer), abs=1e-4)
    with_end, bare = (measured(engine_of(strong_model), ended=ended)[0].value["logprobs"][0] for ended in (True, False))
    assert len(with_end) == len(bare) + 1
    assert with_end[:-1] == pytest.approx(bare, abs=1e-5)


def test_check_3_a_first_token_in_front_of_all_changes_no_boundary(tmp_path: Path, strong_model: Path) -> None:
    template = "{{ '<|end|>' }}" + CHAT_TEMPLATE
    with_first = make_chat_model(tmp_path / "bos", seed=0, template=template)
    for row, plain, first in zip(ROWS, measured(engine_of(strong_model)), measured(engine_of(with_first)), strict=True):
        for answer, short, long in zip(
            cdr.answers_of(row), plain.value["logprobs"], first.value["logprobs"], strict=True
        ):
            assert len(short) == len(long)
            assert long == pytest.approx(by_hand(with_first, row.prompt, answer), abs=1e-4)


def test_check_3_a_space_that_merges_with_the_answer_is_found(tmp_path: Path) -> None:
    """The template ends in a space that the tokenizer joins to the answer's word: prompt and answer are then tokenised
    apart, so that the prompt is what was asked and every scored token is the answer's."""
    folder = make_chat_model(tmp_path / "glued", template=GLUED)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompt, answer = chat.converse("Where is the bus?"), "the bus is near"
    before = chat.encode_prompt(tokenizer, prompt)
    turns = [{"role": "user", "content": "Where is the bus?"}, {"role": "assistant", "content": answer}]
    whole = tokenizer.apply_chat_template(turns, return_dict=False)
    assert whole[: len(before)] != before, "the trap is there"
    row = row_of("Where is the bus?", answer, "no")
    (found,) = measured(engine_of(folder), [row])
    assert found.value["logprobs"][0] == pytest.approx(by_hand(folder, prompt, answer), abs=1e-4)


def test_training_tells_the_answer_and_its_end_each_at_the_token_before(strong_model: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(strong_model)
    tokens = tell_answer(tokenizer, ROWS[0].prompt, "Quite well.", ended=True)
    assert tokenizer.decode(tokens.labels) == "Quite well.<|end|>"  # type: ignore[arg-type]
    assert tokens.words is not None
    assert [*tokens.ids[1:], tokens.labels[-1]][tokens.words[0] :] == tokens.labels
    assert tokenizer.decode(tokens.ids[: tokens.words[0] + 1]).endswith("#assistant\n")


# Check 4


def test_check_4_mixed_lengths_together_are_as_one_by_one(strong_model: Path) -> None:
    engine = engine_of(strong_model)
    together = measured(engine)
    assert len({len(values) for one in together for values in one.value["logprobs"]}) > 3
    for row, found in zip(ROWS, together, strict=True):
        (alone,) = measured(engine, [row])
        for one, other in zip(found.value["logprobs"], alone.value["logprobs"], strict=True):
            assert one == pytest.approx(other, abs=1e-4)


# Check 5


def test_check_5_it_is_the_implicit_reward_of_dpo(tmp_path: Path, strong_model: Path) -> None:
    """beta (log pi(y|x) - log ref(y|x)), with pi the adapter on and ref the adapter off, summed over the same tokens by
    plain forwards (Rafailov 2023, arXiv 2305.18290, equation 5 without its constant); dropout is off."""
    beta, base = 0.1, bases.open_base(str(strong_model))
    model = models.language_model(base, {}, Plan(lora_rank=4, precision="float32"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    models.save(model, tmp_path)

    recipe = cdr.Recipe.model_validate(
        {
            "model": {"base": str(strong_model)},
            "strong": {"adapted": str(tmp_path)},
            "engine": {"precision": "float32"},
        }
    )
    assert sides.model_of(cdr.sides_of(recipe)[1], recipe.model).base == str(strong_model), (
        "weak is the adapter's own base"
    )
    strong, weak = (opened(recipe, side) for side in cdr.sides_of(recipe))
    found = rewards_of(strong, weak)
    policy = model.lm.eval()
    reference = transformers.AutoModelForCausalLM.from_pretrained(strong_model, dtype=torch.float32).eval()
    for row, values in zip(ROWS, found, strict=True):
        for answer, value in zip(cdr.answers_of(row), values, strict=True):
            tokens = tell_answer(base.tokenizer, row.prompt, answer, ended=True)
            ids, labels = torch.tensor([tokens.ids]), torch.tensor(tokens.labels)
            with torch.no_grad():
                sums = [
                    lm(ids).logits[0, tokens.words].log_softmax(dim=-1).gather(1, labels[:, None]).sum().item()
                    for lm in (policy, reference)
                ]
            assert beta * value == pytest.approx(beta * (sums[0] - sums[1]), abs=1e-4)
            assert abs(value) > 1e-3


def test_a_pair_is_made_only_where_neither_model_is_named() -> None:
    named = cdr.Side(base="some/base")
    assert cdr.is_made(cdr.Recipe())
    assert not cdr.is_made(cdr.Recipe(weak=named))
    assert not cdr.is_made(cdr.Recipe(strong=named))


# Check 6


def run_pair(folder: Path, strong: Path, weak: Path, source: Path, **values: Any) -> dict[str, Any]:
    overrides = columns(source) | {"strong.base": str(strong), "weak.base": str(weak)}
    overrides |= {name.replace("__", "."): value for name, value in values.items()}
    methods.run("cdr", overrides, out=folder)
    return json.loads((folder / "scores.json").read_text())


def test_check_6_both_models_get_the_same_customised_text(
    tmp_path: Path, strong_model: Path, weak_model: Path, pairs_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domains = {"SUMS": {"definition": "sums", "criteria": "Be right.", "opening": "The right sum:"}}
    own = {"domain": "SUMS", "domains": domains}
    contexts = run_pair(tmp_path / "same", strong_model, weak_model, pairs_csv, **own)["contexts"]
    assert contexts == {
        "domains": {"SUMS": 12},
        "rows": 12,
        "customised": 12,
        "same text to all models": 12,
        "other text to one": 0,
    }
    rows: list[Any] = list(iterate_rows(tmp_path / "same" / "contexts" / "test.jsonl"))
    assert rows[0].prompt == (Message("system", "Be right."), Message("user", "What is 0 + 0?\nThe right sum:"))

    measure = cdr.measure

    def strip(recipe: Any, run: Any, name: str, contexts: Any, answers: Any, pair: Any) -> Any:
        bare = [replace(row, prompt=(Message("user", row.prompt[-1].content),)) for row in contexts]
        given = {"strong": contexts, "weak": bare}
        return {side: measure(recipe, run, name, given[side], answers, {side: pair[side]})[side] for side in given}

    monkeypatch.setattr(cdr, "measure", strip)
    contexts = run_pair(tmp_path / "other", strong_model, weak_model, pairs_csv, **own)["contexts"]
    assert contexts["same text to all models"] == 0
    assert contexts["other text to one"] == 12


def test_a_named_pair_is_strong_minus_weak_over_the_answer_and_its_end(
    tmp_path: Path, strong_model: Path, weak_model: Path, pairs_csv: Path
) -> None:
    run_pair(tmp_path / "r", strong_model, weak_model, pairs_csv, engine__precision="float32")
    rows: Any = list(iterate_rows(tmp_path / "r" / "test.jsonl"))
    found: Any = iterate_rows(tmp_path / "r" / "rewards" / "test.jsonl")
    wanted = rewards_of(engine_of(strong_model), engine_of(weak_model), rows)
    for one, values in zip(found, wanted, strict=True):
        assert one.value[cdr.RATIO] == pytest.approx(values, abs=1e-3)


BLOCKS = ((cdr.LIGHTS,), (cdr.FLAT,), (cdr.PENS, cdr.TWICE))


def test_the_context_by_parts() -> None:
    domain = cdr.Domain(definition="", criteria="Be kind.", exemplars=BLOCKS, opening="A kind answer:")
    prompt = chat.converse("Hello", "Hello!", "Who are you?", system="You are Ada.")
    system, *middle, last = cdr.customise(prompt, domain, random.Random(0))
    assert system.content == "Be kind.\n\nYou are Ada."
    assert middle == list(prompt[1:-1])
    shown, question, opening = last.content.rsplit("\n", 2)
    assert (question, opening) == ("Who are you?", "A kind answer:")
    assert shown.startswith(cdr.STUDY)
    assert cdr.customise(prompt, cdr.PLAIN, random.Random(0)) == prompt


def test_the_exemplars_are_drawn_once_a_prompt_with_the_seed() -> None:
    domain = cdr.Domain(definition="", exemplars=BLOCKS)

    def texts(seed: int) -> list[str]:
        draws = [random.Random(f"{seed} exemplars {number}") for number in range(30)]
        return [cdr.customise(ROWS[0].prompt, domain, draw)[-1].content for draw in draws]

    assert texts(0) == texts(0) != texts(1)
    assert len(set(texts(0))) == len(BLOCKS)
    assert "def has_duplicates" in cdr.show_block(BLOCKS[2])[2]


def test_contexts_draw_by_row_and_seed() -> None:
    def texts(seed: int) -> list[str]:
        recipe = cdr.Recipe.model_validate({"domain": "REASONING", "plan": {"seed": seed}})
        rows = [replace(ROWS[0], id=str(number)) for number in range(20)]
        run: Any = InMemory()
        return [row.prompt[-1].content for row in cdr.lay_contexts(recipe, run, "test", rows)[0]]

    assert len(set(texts(0))) == len(cdr.DOMAINS["REASONING"].exemplars)
    assert texts(0) == texts(0) != texts(1)


def test_built_in_domains_are_complete() -> None:
    assert list(cdr.domains_of(cdr.Recipe())) == ["SAFETY", "REASONING", "CHAT"]
    for domain in cdr.DOMAINS.values():
        assert domain.criteria
        assert domain.opening
        assert len(domain.exemplars) > 1
    assert cdr.PLAIN.criteria == cdr.PLAIN.opening == ""


def test_the_router_is_read_between_marks_and_all_else_is_chat() -> None:
    replies = ["<START>reasoning<END>", "I think <START> SAFETY <END>.", "REASONING", "<START>COOKING<END>"]
    router = ScriptedEngine(replies)
    judged = cdr.classify(cdr.Recipe(), router, ROWS)
    assert [one.value for one in judged] == ["REASONING", "SAFETY", None, None]
    assert count_outcomes(judged) == {"value": 2, "malformed": 2}
    asked: Any = router.asked[0]
    assert "How are you?" in asked.prompt[-1].content
    assert all(name in asked.prompt[-1].content for name in cdr.domains_of(cdr.Recipe()))


def test_the_router_is_asked_about_the_last_question() -> None:
    router = ScriptedEngine(["<START>CHAT<END>"])
    row = replace(ROWS[0], prompt=chat.converse("Is it safe?", "Yes.", "What is 2 + 2?"))
    cdr.classify(cdr.Recipe(), router, [row])
    asked: Any = router.asked[0]
    assert "What is 2 + 2?" in asked.prompt[-1].content
    assert "Is it safe?" not in asked.prompt[-1].content


def test_routed_questions_get_the_context_of_their_domain(
    tmp_path: Path, strong_model: Path, weak_model: Path, pairs_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply: Callable[[Request], str] = lambda asked: (  # noqa: E731
        "<START>SUMS<END>" if " 3 + 3" in asked.prompt[-1].content else "no idea"  # type: ignore[union-attr]
    )
    open_side = sides.open_side
    monkeypatch.setattr(
        sides,
        "open_side",
        lambda *given, **named: ScriptedEngine(reply) if named else open_side(*given),
    )
    domains = {"SUMS": {"definition": "sums", "criteria": "Be right."}}
    own: Any = {"domain": "SUMS", "domains": domains}  # that domain is only for questions that are not routed
    scores = run_pair(tmp_path / "r", strong_model, weak_model, pairs_csv, route=True, **own)
    assert scores["contexts"]["domains"] == {"CHAT": 11, "SUMS": 1}
    assert scores["contexts"]["router"] == {"malformed": 11, "value": 1}
    assert scores["contexts"]["customised"] == 1


def test_domains_of_ones_own_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'domain = "LAW"\n[domains.LAW]\ndefinition = "contracts"\ncriteria = "Name the clause."\n'
        'exemplars = [[{ question = "q", good = "g", bad = "b", why = "w" }]]\n[domains.CHAT]\n'
        'definition = "rest"\ncriteria = "Be brief."\n'
    )
    recipe = read_recipe(cdr.Recipe, path)
    assert list(cdr.domains_of(recipe)) == ["LAW", "CHAT"]
    assert recipe.domains["LAW"].exemplars[0][0].why == "w"
    assert cdr.customise(ROWS[0].prompt, cdr.domains_of(recipe)["CHAT"], random.Random(0))[0].content == "Be brief."


# Check 7


def prefer(name: str, seed: int, row: Preference, *both: Judged) -> Any:
    """Which answer wins by a rule."""
    return preferences.prefer(row.id, cdr.apply_rule(cdr.RULES[name], row, *both), seed)


def test_ties_go_to_the_first_shown_so_the_reversed_pair_is_the_rest() -> None:
    """Six pairs, two of them tied: by ratio 3 right + ties by chance; reversed, the untied ones turn around."""
    values = [(1.0, 0.0), (0.0, 2.0), (3.0, 1.0), (5.0, 5.0), (7.0, 7.0), (4.0, 2.0)]
    sides = [
        [Judged(str(n), "", "value", {"logprobs": [[side * v] for v in pair]}, "") for n, pair in enumerate(values)]
        for side in (1, 0)
    ]
    rows = [row_of("q", "a", "b", str(n)) for n in range(len(values))]
    right = {
        name: [one.gold == one.predicted for one in (prefer(name, 0, *each) for each in zip(rows, *sides))]
        for name in (cdr.RATIO, cdr.REVERSED)
    }
    untied = [0, 1, 2, 5]
    assert [right[cdr.RATIO][n] for n in untied] == [True, False, True, True]
    assert [right[cdr.REVERSED][n] for n in untied] == [False, True, False, False]
    assert [right[cdr.RATIO][n] for n in (3, 4)] == [right[cdr.REVERSED][n] for n in (3, 4)]
    shown = {prefer(cdr.RATIO, 0, row_of("q", "a", "b", str(n)), sides[0][0], sides[1][0]).gold
             for n in range(20)}  # fmt: skip
    assert shown == {"first", "second"}, "the better answer is not always shown first"


def test_the_order_in_which_a_pair_is_shown_is_drawn_with_the_seed() -> None:
    judged = Judged("0", "", "value", {"logprobs": [[-1.0], [-2.0]]}, "")
    rows = [row_of("q", "a", "b", str(n)) for n in range(20)]
    orders = [[prefer(cdr.RATIO, seed, row, judged, judged).gold for row in rows] for seed in (0, 1)]
    assert orders[0] != orders[1]


def accuracy_of(monkeypatch: pytest.MonkeyPatch, sides: dict[str, Any], **values: Any) -> dict[str, Any]:
    """The scores of pairs of which each side gives these log-probabilities; None is a pair that it cannot read."""
    rows = [row_of(f"{n}?", "yes", "no", str(n)) for n in range(len(sides["weak"]))]

    def judge(side: str) -> list[Judged]:
        return [
            Judged(row.id, "", "value", {"logprobs": found, "clipped": 0}, "")
            if found
            else Judged(row.id, "", "failed", None, "context overflow")
            for row, found in zip(rows, sides[side], strict=True)
        ]

    monkeypatch.setattr(cdr, "measure", lambda *given: {side: judge(side) for side in given[-1]})
    run: Any = InMemory()
    openers: Any = dict.fromkeys(sides)  # nothing opens an engine
    cdr.measure_accuracy(cdr.Recipe.model_validate(values), run, rows, openers)
    return run.kept


@pytest.mark.parametrize(("normalised", "right"), [(False, 0), (True, 1)])
def test_the_gap_is_that_of_each_step_by_the_reward_of_the_recipe(
    monkeypatch: pytest.MonkeyPatch, normalised: bool, right: int
) -> None:
    """The better answer has three tokens at -1 and the other one at -2: it wins by token and loses by the sum. The
    untrained model has -4 instead of -1, and is wrong both ways."""
    sides = {"weak": [0.0, 0.0], "strong": [-1.0, -2.0], "after 0 steps": [-4.0, -2.0], "after 1 steps": [-1.0, -2.0]}
    pairs = {side: [[[good] * 3, [bad]]] * 4 for side, (good, bad) in sides.items()}
    scores = accuracy_of(monkeypatch, pairs, normalised=normalised)
    assert scores["held_out"]["ours"] == (cdr.NORMALISED if normalised else cdr.RATIO)
    found = {name: system["accuracy"]["value"] for name, system in scores["gap"]["systems"].items()}
    assert found == {"after 0 steps": 0, "after 1 steps": right, cdr.LAST: right}


def test_a_pair_that_one_model_cannot_read_is_left_out_of_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    good = [[-1.0], [-2.0]]
    scores = accuracy_of(monkeypatch, {"weak": [good, None, good], "strong": [good] * 3})
    assert scores["counts"]["pairs"] == scores["held_out"]["rows"] == 2
    assert scores["counts"]["failed"] == {"context overflow": 1}


def test_clipped_tokens_and_ties_are_counted() -> None:
    rows = [row_of("q", "good", answer, str(n)) for n, answer in enumerate(("evil", "bad", "worse"))]
    rewards = [Judged("", "", "value", {cdr.RATIO: pair}, "") for pair in ([1.0, 1.0], [2.0, 1.0], [1.0, 2.0])]
    found = {"strong": [Judged("", "", "value", {"clipped": count}, "") for count in (2, 0, 3)]}
    counts = cdr.count_pairs(rows, rewards, found)
    assert counts["clipped tokens"] == {"strong": 5}
    assert counts["ties"] == {cdr.RATIO: 1, cdr.LONGER: 1}


def test_only_length_is_called_cheap() -> None:
    rows = [row_of("q", "a", "b", str(n)) for n in range(20)]
    sides = [Judged("", "", "value", {"logprobs": [[value], [0.0]]}, "") for value in (-1.0, 0.0)]
    wrong, right = ([prefer(name, 0, row, *sides) for row in rows] for name in (cdr.RATIO, cdr.REVERSED))
    advice = "You need no fine-tuned LLM"
    assert advice in cdr.compare({cdr.RATIO: wrong, cdr.LONGER: right}, cdr.RATIO)["verdict"]
    assert advice not in cdr.compare({cdr.RATIO: wrong, cdr.SUMMED: right}, cdr.RATIO)["verdict"]


def test_the_correlation_of_reward_and_length() -> None:
    """r = 2 n exactly, so r and n correlate with 1; r / n = 2 everywhere, which correlates with nothing."""
    tokens = [(1, 4), (2, 3), (7, 5), (6, 8)]
    value = lambda pair: {cdr.RATIO: [2.0 * n for n in pair], cdr.NORMALISED: [2.0, 2.0], "tokens": list(pair)}  # noqa: E731
    found = cdr.correlate([Judged(str(n), "", "value", value(pair), "") for n, pair in enumerate(tokens)])
    first, second = found.values()
    assert first["value"] == pytest.approx(1.0)
    assert first["low"] == pytest.approx(1.0)
    assert second["value"] == 0


# Rows


def made_from(source: Path, strong: Path, **values: Any) -> Any:
    """The pairs of a run that makes its two models."""
    overrides = columns(source) | {"model.base": str(strong)}
    overrides |= {name.replace("__", "."): value for name, value in values.items()}
    return cdr.read_pairs(methods.resolve("cdr", overrides))


def test_pairs_are_drawn_with_the_seed_and_keep_their_order(strong_model: Path, pairs_csv: Path) -> None:
    drawn = [[row.id for row in made_from(pairs_csv, strong_model, plan__seed=seed).test] for seed in range(5)]
    assert all(ids == sorted(ids, key=int) for ids in drawn)
    assert len({tuple(ids) for ids in drawn}) > 1


def test_a_question_with_several_pairs_is_never_trained_on_and_scored(tmp_path: Path, strong_model: Path) -> None:
    rows = [{"question": f"{n % 4}?", "better": f"yes {n}", "worse": f"no {n}"} for n in range(12)]
    found = made_from(write_csv(tmp_path / "again.csv", rows), strong_model, data__test_rows=2)
    assert found.train
    assert not {row.prompt for row in found.train} & {row.prompt for row in found.test}


def test_pairs_of_a_test_file_are_all_scored(tmp_path: Path, strong_model: Path, pairs_csv: Path) -> None:
    rows = [{"question": f"Other {n}?", "better": "yes", "worse": "no"} for n in range(20)]
    found = made_from(pairs_csv, strong_model, data__test=str(write_csv(tmp_path / "held-out.csv", rows)))
    assert (len(found.train), len(found.test)) == (12, 20)


def test_prompts_are_drawn_and_empty_ones_can_be_left_out(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "prompts.csv", [{"prompt": text} for text in ("one?", "", "two?", "three?")])
    values = {"prompts": str(source), "missing": "drop", "prompt_rows": 2}
    found = cdr.read_prompts(cdr.Recipe.model_validate({"data": values}))
    assert len(found.test) == 2
    assert found.dropped == {"prompts: no text in column 'prompt'": 1}, "not under the name that pairs left out have"


# Runs

TINY = {
    "plan.epochs": 1,
    "plan.batch_rows": 2,
    "plan.lora_rank": 2,
    "plan.learning_rate": 1e-2,
    "data.train": "weak-to-strong",
    "data.train_rows": 4,
    "data.test_rows": 4,
    "gap_steps": [0, 1],
}


def test_the_recipe_runs_two_steps_and_resumes_without_a_model(
    tmp_path: Path, strong_model: Path, named_sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = methods.run("cdr", TINY | {"model.base": str(strong_model)}, out=tmp_path / "r")
    scores = json.loads((folder / "scores.json").read_text())
    parts = ["contexts", "held_out", "variants", "gap", "spread", "margin", "longer", "length", "counts"]
    assert list(scores) == parts
    assert list(scores["held_out"]["systems"]) == [cdr.RATIO, *cdr.ALONE]
    assert scores["held_out"]["verdict"]
    assert list(scores["gap"]["systems"]) == ["after 0 steps", "after 1 steps", cdr.LAST]
    needed = scores["held_out"]["stages"]
    assert needed[cdr.RATIO] == ["weak", "strong", "scores/test-weak", "scores/test-strong"]
    assert needed[cdr.SUMMED] == ["strong", "scores/test-strong"]
    assert needed[cdr.LONGER] == []
    assert scores["gap"]["stages"]["after 1 steps"] == [
        "weak",
        "strong",
        "scores/test-weak",
        "scores/test-after-1-steps",
    ]
    named = {stage for entry in ("held_out", "gap") for each in scores[entry]["stages"].values() for stage in each}
    assert named < set(read_manifest(folder)["stages"])
    accuracy = {name: one["accuracy"]["value"] for name, one in scores["variants"]["systems"].items()}
    assert accuracy[cdr.RATIO] + accuracy[cdr.REVERSED] == 1
    assert scores["counts"]["pairs"] == 4
    trained, scored = (list(iterate_rows(folder / f"{role}.jsonl")) for role in ("train", "test"))
    assert not {row.prompt for row in trained} & {row.prompt for row in scored}, "unseen questions"
    assert len((folder / "strong" / "metrics.jsonl").read_text().splitlines()) == 2

    # the adapter after one step is that of the training itself, not of another one with its own rates
    one, last = ((folder / "strong" / name / "adapter_model.safetensors").read_bytes() for name in ("step-1", "."))
    assert one != last

    for module, name in ((models, "language_model"), (engines, "open_engine"), (bases, "load_lm"), (cdr, "read_pairs")):
        monkeypatch.setattr(module, name, lambda *_, name=name, **__: pytest.fail(f"{name} on resume"))
    before = (folder / "scores.json").read_bytes()
    assert methods.resume(folder) == folder
    assert (folder / "scores.json").read_bytes() == before


def test_strong_learns_the_chosen_and_weak_the_rejected_answers(
    tmp_path: Path, strong_model: Path, pairs_csv: Path
) -> None:
    """On the rows it was trained on, each of the two finds its own side likelier than the base does."""
    values = TINY | columns(pairs_csv) | {"model.base": str(strong_model), "data.test_rows": 4, "data.train_rows": 8}
    folder = methods.run("cdr", values | {"plan.epochs": 6, "gap_steps": []}, out=tmp_path / "r")
    rows: Any = list(iterate_rows(folder / "train.jsonl"))
    recipe = cdr.Recipe.model_validate({"model": {"base": str(strong_model)}})
    base, weak, strong = (
        measured(opened(recipe, cdr.Side(), one), rows) for one in (None, folder / "weak", folder / "strong")
    )

    def gained(side: list[Judged], answer: int) -> float:
        sums = [[sum(one.value["logprobs"][answer]) for one in found] for found in (side, base)]
        return sum(sums[0]) - sum(sums[1])

    assert gained(strong, 0) > gained(weak, 0)
    assert gained(weak, 1) > gained(strong, 1)
    assert gained(strong, 0) > 0 < gained(weak, 1)


def test_a_strong_model_made_by_dpo_prefers_the_chosen_answers(
    tmp_path: Path, strong_model: Path, pairs_csv: Path
) -> None:
    """Its implicit reward against the base it started from, on the rows it was trained on; weak is that base."""
    values = TINY | columns(pairs_csv) | {"model.base": str(strong_model), "data.test_rows": 4, "data.train_rows": 8}
    values |= {"plan.epochs": 8, "gap_steps": [], "made_by": "preferences", "beta": 1.0}
    folder = methods.run("cdr", values, out=tmp_path / "r")
    rows: Any = list(iterate_rows(folder / "train.jsonl"))
    recipe = cdr.Recipe.model_validate({"model": {"base": str(strong_model)}})
    weak, strong = (measured(opened(recipe, cdr.Side(), one), rows) for one in (None, folder / "strong"))
    ratios = [cdr.reward(*pair).value[cdr.RATIO] for pair in zip(strong, weak, strict=True)]
    assert sum(chosen > rejected for chosen, rejected in ratios) >= 7
    assert json.loads((folder / "strong" / "left_out.json").read_text()) == {}
    losses = [json.loads(line) for line in (folder / "strong" / "metrics.jsonl").read_text().splitlines()]
    assert losses[0]["loss"] == pytest.approx(0.693147, abs=1e-3), "before its first step it is its own reference"


def test_a_killed_run_goes_on_to_the_same_scores(
    tmp_path: Path, strong_model: Path, named_sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = TINY | {"model.base": str(strong_model), "engine.cache": False}
    whole = methods.run("cdr", values, out=tmp_path / "whole")
    real, left = annotation.score, [1]

    def dies(*given: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return real(*given)

    monkeypatch.setattr(annotation, "score", dies)
    with pytest.raises(Killed):
        methods.run("cdr", values, out=tmp_path / "killed")
    monkeypatch.setattr(annotation, "score", real)
    methods.resume(tmp_path / "killed")
    for name in ("scores.json", "rewards/test.jsonl", "predictions/ratio.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (whole / name).read_bytes()


def test_weak_scores_are_computed_once_for_several_strong_models(
    tmp_path: Path, strong_model: Path, weak_model: Path, pairs_csv: Path
) -> None:
    other = make_chat_model(tmp_path / "other", seed=2)
    run_pair(tmp_path / "first", strong_model, weak_model, pairs_csv)
    misses, hits = (getattr(Cache(cache_path()).statistics(), name) for name in ("misses", "hits"))
    assert (misses, hits) == (24, 0)
    run_pair(tmp_path / "second", other, weak_model, pairs_csv)
    found = Cache(cache_path()).statistics()
    assert (found.misses, found.hits) == (36, 12)


def test_transcripts_of_several_turns(tmp_path: Path, strong_model: Path, weak_model: Path, named_sets: Path) -> None:
    values = {"data.train": "hh-harmless:dev", "strong.base": str(strong_model), "weak.base": str(weak_model)}
    folder = methods.run("cdr", values, out=tmp_path / "r")
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["counts"]["pairs"] == 8
    assert "train" not in read_manifest(folder)["stages"]
    longer = [len(row.chosen) > len(row.rejected) for row in iterate_rows(folder / "test.jsonl")]  # type: ignore[union-attr]
    assert scores["held_out"]["systems"][cdr.LONGER]["accuracy"]["value"] == sum(longer) / 8
    assert scores["longer"][f"better one longer ({sum(longer)} pairs)"][cdr.LONGER]["value"] == 1
    ratios = [row.value[cdr.RATIO] for row in iterate_rows(folder / "rewards" / "test.jsonl")]  # type: ignore[union-attr]
    assert scores["spread"]["groups"] == {"preferred": [one for one, _ in ratios], "other": [one for _, one in ratios]}
    right = sorted((abs(one - other), one > other) for one, other in ratios)
    for part, name in zip((right[:3], right[3:6], right[6:]), ("small", "middle", "large"), strict=True):
        found = scores["margin"][f"{name} margin ({len(part)} pairs)"][cdr.RATIO]
        assert found["value"] == pytest.approx(sum(won for _, won in part) / len(part))


def test_equal_answers_are_left_out_and_counted(pairs_csv: Path, tmp_path: Path, strong_model: Path) -> None:
    """Of the two neither is better: they would be a coin's toss in the scores, and teach both models the same."""
    lines = pairs_csv.read_text().splitlines()
    same = [{"question": f"Same {n}?", "better": "yes", "worse": "yes"} for n in range(3)]
    write_csv(tmp_path / "same.csv", same)
    both = tmp_path / "both.csv"
    both.write_text("\n".join([*lines, *(tmp_path / "same.csv").read_text().splitlines()[1:]]) + "\n")
    found = made_from(both, strong_model)
    assert found.dropped == {"pairs whose answers are the same": 3}
    assert not [row for row in (*found.train, *found.test) if row.chosen == row.rejected]
    with pytest.raises(UserError, match=r"too few pairs.* left out: 3 pairs whose answers are the same"):
        made_from(tmp_path / "same.csv", strong_model)


def test_a_pair_too_long_for_a_model_is_counted(
    tmp_path: Path, strong_model: Path, weak_model: Path, pairs_csv: Path
) -> None:
    rows = [{"question": "Say it", "better": "la " * 600, "worse": "no"}]
    rows += [{"question": f"What is {n}?", "better": f"{n}", "worse": f"not {n}"} for n in range(3)]
    counts = run_pair(tmp_path / "r", strong_model, weak_model, write_csv(tmp_path / "long.csv", rows))["counts"]
    assert counts["pairs"] == 3
    assert counts["failed"] == {"context overflow": 1}


# Building pairs

ANSWERS = ("Yes.", "Yes, it is.", "No", "Yes, it is, and gladly so.")


def scripted(kind: str) -> Any:
    """A policy with fixed answers, a strong model that likes length, and a weak one that likes nothing."""
    if kind == "policy":
        return ScriptedEngine(lambda asked: ANSWERS[asked.sample % len(ANSWERS)])
    worth = {"strong": lambda text: float(len(text)), "weak": lambda text: 0.0}[kind]
    return ScriptedEngine([], lambda asked: Scored(tuple((-20.0, worth(text) / 10 - 5.0) for text in asked.answers)))


@pytest.fixture
def scripted_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sides, "open_side", lambda side, *rest, scores=True: scripted(Path(side.base).name if scores else "policy")
    )


def build(folder: Path, strong: Path, weak: Path, prompts: Path, **values: Any) -> tuple[list[Any], dict[str, Any]]:
    overrides = {"data.train": "", "data.prompts": str(prompts), "data.prompt": "question"}
    models = {"strong.base": str(strong), "weak.base": str(weak), "policy.base": str(strong)}
    methods.run("cdr", overrides | models | values, out=folder)
    return list(iterate_rows(folder / "pairs.jsonl")), json.loads((folder / "scores.json").read_text())


def test_the_policy_samples_as_the_recipe_says(strong_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"candidates": 3, "temperature": 0.7, "top_p": 0.6, "max_new_tokens": 9, "plan": {"seed": 5}}
    policy = scripted("policy")
    monkeypatch.setattr(sides, "open_side", lambda *_, **__: policy)
    recipe = cdr.Recipe.model_validate(values | {"model": {"base": str(strong_model)}})
    cdr.open_policy(recipe, recipe.candidates)(ROWS[:1])
    assert policy.asked == [Request(ROWS[0].prompt, Sampling(9, 0.7, 0.6), 5, number) for number in range(3)]


def test_pairs_are_chosen_by_the_reward_of_the_recipe_and_drawn_with_the_seed() -> None:
    judged = [
        Judged(str(n), "", "value", {cdr.RATIO: [3.0, 1.0, 1.0], cdr.NORMALISED: [1.0, 3.0, 1.0]}, "")
        for n in range(20)
    ]

    def chosen(**values: Any) -> list[Any]:
        recipe = cdr.Recipe.model_validate(values)
        return [cdr.choose_pair(recipe, replace(ROWS[0], id=one.id), "abc", one) for one in judged]

    assert {pair.chosen for pair in chosen()} == {"a"}
    assert {pair.chosen for pair in chosen(normalised=True)} == {"b"}
    assert chosen() != chosen(plan={"seed": 1})


@pytest.fixture
def prompts_csv(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "prompts.csv", [{"question": f"Is {n} a number?"} for n in range(20)])


def test_pairs_are_built_from_a_policys_answers(
    tmp_path: Path, strong_model: Path, weak_model: Path, prompts_csv: Path, scripted_sides: None
) -> None:
    pairs, scores = build(tmp_path / "r", strong_model, weak_model, prompts_csv, domain="REASONING")
    counts = {"left out": {}, "answers that were no candidates": {}, "domains": {"REASONING": 20}}
    assert scores["pairs"] == {"questions": 20, "pairs": 20, **counts}
    assert {row.chosen for row in pairs} == {ANSWERS[3]}, "the longest has the largest ratio"
    assert {row.rejected for row in pairs} == set(ANSWERS[:3]), "each of the others is drawn at times"
    assert pairs[0].prompt == chat.converse("Is 0 a number?"), "the question as it was asked, without what was added"
    assert scores["contexts_of_prompts"]["customised"] == 20
    assert scores["contexts_of_prompts"]["same text to all models"] == 20

    again, _ = build(tmp_path / "again", strong_model, weak_model, prompts_csv, domain="REASONING")
    assert again == pairs, "drawn with the seed"
    worst, _ = build(tmp_path / "worst", strong_model, weak_model, prompts_csv, opponent="worst")
    assert {row.rejected for row in worst} == {"No"}
    few, scores = build(tmp_path / "few", strong_model, weak_model, prompts_csv, margin=99.0)
    assert few == []
    assert scores["pairs"]["left out"] == {"no other text is so much worse": 20}


def test_a_policy_is_tuned_on_its_pairs_and_compared_on_other_questions(
    tmp_path: Path, strong_model: Path, weak_model: Path, prompts_csv: Path, scripted_sides: None
) -> None:
    """Held-out questions give no pairs; SimPO moves the policy, which answers them before and after."""
    options = {"tune": True, "data.held_out_prompts": 5, "plan.epochs": 1, "plan.batch_rows": 4, "plan.lora_rank": 2}
    pairs, scores = build(tmp_path / "r", strong_model, weak_model, prompts_csv, **options)
    held = {row.prompt for row in iterate_rows(tmp_path / "r" / "held_out_prompts.jsonl")}  # type: ignore[union-attr]
    assert len(held) == 5
    assert not held & {row.prompt for row in pairs}
    assert scores["policy"]["questions"] == 5
    assert {"reward before", "reward after", "reward after minus before"} <= set(scores["policy"])
    assert (tmp_path / "r" / "policy" / "adapter_model.safetensors").is_file()


def test_answers_that_are_no_candidates_are_counted(
    tmp_path: Path, strong_model: Path, weak_model: Path, prompts_csv: Path
) -> None:
    """A random model never ends its turn: all of its answers are cut off, and a run that gives no pair says so."""
    plain = {"engine.batching": "plain", "max_new_tokens": 1}
    pairs, scores = build(tmp_path / "r", strong_model, weak_model, prompts_csv, **plain)
    reasons = scores["pairs"]["left out"]
    assert pairs == []
    assert reasons["no answer left: cut off at max_new_tokens"] == 20


def test_questions_whose_answers_are_all_the_same_are_counted(
    tmp_path: Path, strong_model: Path, weak_model: Path, prompts_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sides, "open_side", lambda *_, **__: ScriptedEngine(lambda asked: "Yes."))
    pairs, scores = build(tmp_path / "r", strong_model, weak_model, prompts_csv)
    assert pairs == []
    assert scores["pairs"]["left out"] == {"fewer than two different answers": 20}


# What is refused


def problems(**values: Any) -> list[str]:
    overrides = {name.replace("__", "."): value for name, value in values.items()}
    with pytest.raises(UserError) as raised:
        cdr.check(methods.resolve("cdr", overrides))
    return [problem.what for problem in raised.value.all()]


def test_every_problem_is_found_at_once(tmp_path: Path, strong_model: Path, pairs_csv: Path) -> None:
    rows = columns(pairs_csv) | {"data.chosen": "best"}
    found = problems(
        **{name.replace(".", "__"): value for name, value in rows.items()},
        strong__base=str(strong_model),
        weak__base=str(strong_model),
        domain="LAW",
        policy__url="http://localhost:1/v1",
        router__adapted=str(tmp_path),
        router__base="x",
    )
    assert len(found) == 5
    for part in ("domain = 'LAW'", "policy.url", "router.adapted", "same model", "no column 'best'"):
        assert any(part in what for what in found), (part, found)


def test_domains_that_differ_only_in_case_are_refused(strong_model: Path, weak_model: Path, pairs_csv: Path) -> None:
    rows = {name.replace(".", "__"): value for name, value in columns(pairs_csv).items()}
    pair = {"strong__base": str(strong_model), "weak__base": str(weak_model)}
    domains = {name: {"definition": "laws"} for name in ("LAW", "Law")}
    (what,) = problems(**rows, **pair, domains=domains)
    assert what == "domains cannot be told apart: LAW, Law, CHAT"


def test_what_a_pair_made_here_needs(strong_model: Path, pairs_csv: Path) -> None:
    base = {"model__base": str(strong_model)}
    rows = {name.replace(".", "__"): value for name, value in columns(pairs_csv).items()}
    assert problems(**base, data__train="") == ["no pairs are named to train the two models on"]
    (what,) = problems(**base, **rows, plan__keep="best")
    assert "plan.keep" in what
    (what,) = problems(**base, **rows, gap_steps=[1], plan__batch_rows=8)
    assert what == "gap_steps = 1 is no step before the last of 1"
    (what,) = problems(**base, **rows, engine__kind="vllm")
    assert what == "the two models are trained here, which only the local engine reads"
    (what,) = problems(**base, **rows, data__test_rows=12)
    assert "too few pairs: 0 to train on, 12 to score" in what


def test_what_an_endpoint_needs(strong_model: Path, weak_model: Path, pairs_csv: Path) -> None:
    rows = {name.replace(".", "__"): value for name, value in columns(pairs_csv).items()}
    remote = {"strong__url": "http://localhost:1/v1", "strong__name": "big", "weak__base": str(weak_model)}
    assert problems(**rows, **remote, model__base=str(strong_model)) == [
        "an endpoint's tokenizer and chat template are not known",
        "an endpoint cannot score the end of a turn",
    ]
    both = {"strong__base": str(strong_model), "weak__base": str(weak_model), "engine__kind": "remote"}
    assert problems(**rows, **both) == ["engine.kind is remote, and the two models need addresses"]


class Echo(BaseHTTPRequestHandler):
    """The completions interface of a server that has `folder`: echo with log-probabilities."""

    tokenizer: Any
    model: Any

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        ids = self.tokenizer(asked["prompt"])["input_ids"]
        with torch.no_grad():
            table = self.model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        values = [None, *(table[place - 1, ids[place]].item() for place in range(1, len(ids)))]
        told = {"tokens": [self.tokenizer.decode([token]) for token in ids] + ["x"], "token_logprobs": [*values, -1.0]}
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1}
        body = {"choices": [{"text": "", "logprobs": told, "finish_reason": "length"}], "usage": usage}
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def test_a_strong_model_behind_an_endpoint_is_the_same_judge(
    tmp_path: Path, strong_model: Path, weak_model: Path, pairs_csv: Path
) -> None:
    own: Any = {"ended": False, "engine__precision": "float32"}  # that of the endpoint
    local = run_pair(tmp_path / "local", strong_model, weak_model, pairs_csv, **own)
    # here and not by the handlers: two loads at once, in threads, leave transformers unable to tie weights for good
    Echo.tokenizer = transformers.AutoTokenizer.from_pretrained(strong_model)
    Echo.model = transformers.AutoModelForCausalLM.from_pretrained(strong_model, dtype=torch.float32).eval()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        there = {"strong__url": f"http://127.0.0.1:{server.server_port}/v1", "strong__name": "tiny"} | own
        remote = run_pair(tmp_path / "remote", strong_model, weak_model, pairs_csv, **there)
    finally:
        server.shutdown()
        server.server_close()
    assert remote["held_out"] == local["held_out"]
    both: Any = [iterate_rows(tmp_path / name / "rewards" / "test.jsonl") for name in ("local", "remote")]
    for one, other in zip(*both, strict=True):
        assert one.value[cdr.RATIO] == pytest.approx(other.value[cdr.RATIO], abs=1e-3)


def test_check_tells_pair_rows_tokens_and_time(strong_model: Path, named_sets: Path) -> None:
    told = dict(cdr.check(methods.resolve("cdr", TINY | {"model.base": str(strong_model)})))
    assert told["steps"] == "2 of 2 pairs, for each of the two models"
    assert told["rows"] == "train 4, test 4, questions 0"
    assert told["time"].startswith("about 1 min")
    recipe = methods.resolve("cdr", TINY | {"model.base": str(strong_model)})
    pairs, tokenizer = cdr.read_pairs(recipe), bases.open_base(str(strong_model)).tokenizer
    sizes = [
        tell_answer(tokenizer, row.prompt, text, ended=True) for row in pairs.train for text in cdr.answers_of(row)
    ]
    assert told["tokens"].startswith(f"training {sum(len(one.ids) + 1 for one in sizes):,}, ")


def test_tokens_are_told_for_all_epochs_and_steps_of_the_gap(strong_model: Path, named_sets: Path) -> None:
    def tokens(**values: Any) -> list[int]:
        overrides = TINY | {"model.base": str(strong_model)} | values
        told = dict(cdr.check(methods.resolve("cdr", overrides)))["tokens"].replace(",", "")
        return [int(word) for word in told.split() if word.isdigit()]

    (training, scoring), (twice, plain) = (tokens(**values) for values in ({}, {"plan.epochs": 2, "gap_steps": []}))
    assert twice == 2 * training
    assert scoring == plain * (2 + 2) / 2, "weak, strong, and the strong one after two of its steps"


def test_options_of_the_command_line(strong_model: Path, weak_model: Path, pairs_csv: Path) -> None:
    """Sides are tables whose fields have a dot, and every other field is an option by its own name."""
    names = [name for name, _, _ in cli._fields(methods.resolve("cdr"))]
    for name in ("strong.adapted", "weak.base", "router.url", "policy.name", "data.prompts", "domains", "opponent"):
        assert name in names


def test_the_command_line_prints_the_verdict(
    camelid: Callable[..., Any], tmp_path: Path, strong_model: Path, weak_model: Path, pairs_csv: Path
) -> None:
    options = ["--prompt", "question", "--chosen", "better", "--rejected", "worse"]
    result = camelid(
        "run", "cdr", "--data", pairs_csv, *options, "--strong.base", strong_model, "--weak.base", weak_model,
        "--out", tmp_path / "r",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    verdict = json.loads((tmp_path / "r" / "scores.json").read_text())["held_out"]["verdict"]
    assert verdict in " ".join(result.output.split())
    assert (tmp_path / "r" / "report.html").read_text().count(cdr.RATIO)


def test_two_tokenizers_that_read_a_text_differently_are_refused(
    tmp_path: Path, strong_model: Path, pairs_csv: Path
) -> None:
    lower = write_lower(strong_model, tmp_path / "lower")
    rows = {name.replace(".", "__"): value for name, value in columns(pairs_csv).items()}
    (what,) = problems(**rows, strong__base=str(strong_model), weak__base=str(lower))
    assert what.startswith("strong and weak do not decode the same text in 12 pairs: ")
