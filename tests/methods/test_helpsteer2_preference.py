"""Checks of HelpSteer2-Preference that a toy would fail: wrong token, wrong pair, wrong mean, a line that bends."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import camelid
from camelid import bases, data, export, extrapolation, linear_heads, methods, models, objectives, preferences
from camelid.branches import Answered, collate_ends, encode_answers
from camelid.errors import UserError
from camelid.heads import Sight, ValueModel
from camelid.methods.judge import helpsteer2_preference as method
from camelid.recipe import Plan
from camelid.rows import Message, iterate_rows
from conftest import CHAT_TEMPLATE, make_model, write_jsonl


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_model(tmp_path_factory.mktemp("reward") / "tiny", seed=0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<|end|>", tokenizer.eos_token)
    tokenizer.unk_token = tokenizer.convert_ids_to_tokens(299)  # a classifier of transformers pads with it
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(ratings, pairs) of 24 questions: an answer is the better, the more of the question it repeats."""
    folder, draw = tmp_path_factory.mktemp("rows"), random.Random(0)
    ratings, pairs = [], []
    for number in range(24):
        question = f"Where is stall {number}?"
        answers = ["left " * count for count in draw.sample(range(1, 6), 3)]
        for answer in answers:
            ratings.append({"prompt": question, "response": answer, "helpfulness": min(4, answer.count("left") - 1)})
        for first, second in ((0, 1), (1, 2)):
            size = answers[second].count("left") - answers[first].count("left")
            row = {"prompt": question, "response_1": answers[first], "response_2": answers[second]}
            pairs.append(row | {"preference_strength": max(-3, min(3, size))})
    pairs[0]["preference_strength"] = 0
    pairs[1]["preference_strength"] = -100
    return write_jsonl(folder / "ratings.jsonl", ratings), write_jsonl(folder / "pairs.jsonl", pairs)


def recipe_of(chat_model: Path, sources: tuple[Path, Path], **values: Any) -> method.Recipe:
    ratings, pairs = map(str, sources)
    given = {
        "model.base": str(chat_model),
        "data.ratings": ratings,
        "data.train": pairs,
        "data.missing": "drop",
        "data.test_prompts": 6,
        "data.dev_prompts": 4,
        "plan.epochs": 1,
        "plan.batch_rows": 4,
        "trunk": "tuned",
        **values,
    }
    return methods.resolve("helpsteer2-preference", {name.replace("__", "."): value for name, value in given.items()})


def test_a_test_set_of_other_questions_is_measured_whole(
    chat_model: Path, sources: tuple[Path, Path], tmp_path: Path
) -> None:
    """Of one that shares prompts with train so many prompts are drawn, and train does without them."""
    own = [{"prompt": f"How far is inn {n}?", "response_1": "far", "response_2": "near"} for n in range(9)]
    path = write_jsonl(tmp_path / "own.jsonl", [row | {"preference_strength": 1} for row in own])
    split = method.read_split(recipe_of(chat_model, sources, data__test=str(path)))
    assert len(split.test) == 9
    shared = method.read_split(recipe_of(chat_model, sources, data__test=str(sources[1])))
    prompts = {row.prompt for row in shared.test}
    assert len(prompts) == 6
    assert prompts.isdisjoint(row.prompt for row in (*shared.train, *shared.dev))


def value_model(folder: Path, attributes: int = 1) -> ValueModel:
    trunk = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(0)
    return ValueModel(trunk, [str(number) for number in range(attributes)], Sight()).eval()


def test_check_4_a_constant_moves_ratings_only(chat_model: Path) -> None:
    """Adding to the head's bias changes the loss of ratings and none of pairs."""
    model = value_model(chat_model)
    pair = [Answered("a", [1, 2, 3], ([4, 5], [6]), 2.0, values=((3.0,), (1.0,)))]
    batch = collate_ends(pair, 0)
    found = []
    for constant in (0.0, 5.0):
        model.head.bias.data.fill_(constant)
        forms = [objectives.rewards(form)(model, batch)[0]["loss"].item() for form in objectives.BRADLEY_TERRY.values()]
        found.append((objectives.ratings(model, batch)[0]["rated"].item(), forms))
    assert abs(found[0][0] - found[1][0]) > 1
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-5)


def test_check_4_padding_changes_nothing(chat_model: Path) -> None:
    """A reward is the same alone, beside longer rows, and behind padding on the left."""
    model = value_model(chat_model)
    row, longer = Answered("a", [1, 2, 3], ([4, 5],)), Answered("b", [7] * 40, ([8] * 9,))
    with torch.no_grad():
        alone = model(collate_ends([row], 0))[0, 0].item()
        beside = model(collate_ends([row, longer], 0))[0, 0].item()
        ids = torch.tensor([[0, 0, 1, 2, 3, 4, 5]])
        mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
        positions = torch.tensor([[0, 0, 0, 1, 2, 3, 4]])
        state = model.trunk(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state[0, -1]
        left = model.head(state)[0].item()
    assert beside == pytest.approx(alone, abs=1e-5)
    assert left == pytest.approx(alone, abs=1e-5)


def test_the_reward_is_read_at_the_end_of_the_turn(chat_model: Path) -> None:
    """At the token that closes the assistant's turn, not at the newline the template writes behind it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(chat_model)
    told = encode_answers(tokenizer, "a", (Message("user", "Where?"),), ("Left.",), None)
    assert told is not None
    batch = collate_ends([told], 0)
    assert batch.ids_BT[batch.row_N, batch.token_N].tolist() == [tokenizer.eos_token_id]
    assert tokenizer.decode(told.answers[0][:-1]) == "Left."


def test_check_5_leave_one_out() -> None:
    """Rewards 1, 0, 2, 5: baselines 7/3, 8/3, 2, 1."""
    found = objectives.leave_one_out(torch.tensor([[1.0, 0.0, 2.0, 5.0]]))
    assert found[0].tolist() == pytest.approx([-4 / 3, -8 / 3, 0.0, 4.0])
    with pytest.raises(UserError, match="no others"):
        objectives.leave_one_out(torch.zeros(3, 1))


def test_check_6_extrapolation_is_a_line() -> None:
    weak, strong = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.5, 1.0])}
    found = {alpha: extrapolation.extrapolate(weak, strong, alpha)["w"].tolist() for alpha in (0.0, 1.0, 1.52)}
    assert found[0.0] == [1.0, 2.0]
    assert found[1.0] == [1.5, 1.0]
    assert found[1.52] == pytest.approx([1.76, 0.48])
    with pytest.raises(UserError, match="shapes"):
        extrapolation.extrapolate(weak, {"w": torch.zeros(3)}, 1.0)
    with pytest.raises(UserError, match="same weights"):
        extrapolation.extrapolate(weak, {"v": torch.zeros(2)}, 1.0)


def test_check_6_adapters_extrapolate_their_product() -> None:
    """B A of the joined adapter lies on the line; the product of A and B taken apart does not."""
    draw = torch.Generator().manual_seed(0)
    weak, strong = (
        {"x.lora_A.weight": torch.randn(2, 5, generator=draw), "x.lora_B.weight": torch.randn(4, 2, generator=draw)}
        for _ in range(2)
    )
    products = [each["x.lora_B.weight"] @ each["x.lora_A.weight"] for each in (weak, strong)]
    wanted = products[0] + 1.52 * (products[1] - products[0])
    joined = extrapolation.join_adapters(weak, strong, 1.52)
    torch.testing.assert_close(joined["x.lora_B.weight"] @ joined["x.lora_A.weight"], wanted)
    apart = extrapolation.extrapolate(weak, strong, 1.52)
    assert not torch.allclose(apart["x.lora_B.weight"] @ apart["x.lora_A.weight"], wanted, atol=1e-2)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_alpha_1_is_the_strong_model(chat_model: Path, tmp_path: Path, tuning: Any) -> None:
    """And 0 the weak one, after saving and loading too."""
    base = bases.open_base(str(chat_model))
    plan = Plan(tuning=tuning, lora_rank=2, precision="float32")
    row = [Answered("a", [1, 2, 3], ([4, 5], [6, 7, 8]))]
    folders, rewards = [], []
    for number in range(2):
        model = models.value_model(base, {"attributes": ["reward"]}, plan)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
        folder = tmp_path / str(number)
        folder.mkdir()
        models.save(model, folder)
        folders.append(folder)
        rewards.append(np.array(preferences.measure_rewards(model, row, 0)))
    assert np.abs(rewards[0] - rewards[1]).max() > 1e-3
    for alpha, expected in ((0.0, rewards[0]), (1.0, rewards[1])):
        model = extrapolation.extrapolate_models(folders[0], folders[1], alpha)
        saved = tmp_path / f"alpha {alpha}"
        saved.mkdir()
        models.save(model, saved)
        for found in (model, models.load_handle(saved)[0]):
            np.testing.assert_allclose(preferences.measure_rewards(found, row, 0), expected, atol=1e-4)


def test_heads_are_solved_exactly() -> None:
    """Ridge regression is scikit-learn's; the slopes of each form of Bradley-Terry vanish where it is solved."""
    from sklearn.linear_model import Ridge

    draw = np.random.default_rng(0)
    x, q = draw.normal(size=(40, 6)), draw.normal(size=40)
    q[3] = np.nan
    known = ~np.isnan(q)
    found = linear_heads.fit_ratings(x, q, 0.1)
    expected = Ridge(alpha=0.1 * known.sum()).fit(x[known], q[known])
    np.testing.assert_allclose(found, [*expected.coef_, expected.intercept_], atol=1e-8)
    strength, start = draw.integers(1, 4, size=40).astype(float), draw.normal(size=6)
    for form, loss in objectives.BRADLEY_TERRY.items():
        w = torch.tensor(linear_heads.fit_pairs(x, strength, form, 0.05, start), requires_grad=True)
        rewards = torch.tensor(x) @ w
        told = loss(rewards, torch.zeros(40, dtype=torch.float64), torch.tensor(strength)).mean()
        (told + 0.025 * (w - torch.tensor(start)).square().sum()).backward()
        assert w.grad is not None
        assert w.grad.abs().max() < 1e-7, form
        assert linear_heads.loss_of_pairs(x, strength, form, w.detach().numpy()) == pytest.approx(told.item())


def test_folds_keep_prompts_together() -> None:
    groups = ["a", "a", "b", "c", "c", "d", "e"]
    seen: list[tuple[set[str], set[str]]] = []

    def loss(penalty: float, fitted_on: Any, on: Any) -> float:
        seen.append(
            ({g for g, chosen in zip(groups, fitted_on) if chosen}, {g for g, chosen in zip(groups, on) if chosen})
        )
        return abs(np.log10(penalty) + 2)

    assert linear_heads.choose_penalty(groups, 5, 0, loss) == pytest.approx(0.01)
    assert all(not fitted & on for fitted, on in seen)
    assert set.union(*(on for _, on in seen)) == set(groups)


@pytest.mark.parametrize("trunk", ["frozen", "tuned"])
def test_a_run(trunk: str, chat_model: Path, sources: tuple[Path, Path], tmp_path: Path) -> None:
    """Every model is there, prompts do not cross, the chosen alpha is the final model, and it loads by itself."""
    recipe = recipe_of(chat_model, sources, trunk=trunk, alphas=[1.0, 1.5])
    folder = tmp_path / trunk
    assert method.check(recipe)
    methods.start("helpsteer2-preference", recipe, folder, [])
    parts = {name: list(iterate_rows(folder / f"{name}.jsonl")) for name in ("ratings", "train", "dev", "test")}
    prompts = {name: {row.prompt for row in rows} for name, rows in parts.items()}
    assert not prompts["test"] & (prompts["train"] | prompts["dev"] | prompts["ratings"])
    assert not prompts["dev"] & (prompts["train"] | prompts["ratings"])
    scores = json.loads((folder / "scores.json").read_text())
    assert set(scores["held_out"]["systems"]) >= {
        "ExPO",
        "regression",
        "bt",
        "scaled_bt from regression",
        "longer answer",
    }
    assert scores["expo"]["alpha"] in (1.0, 1.5)
    reward = camelid.RewardModel.load(folder)
    answers = ["left left left", "left"]
    values = reward.score("Where is stall 3?", answers)
    assert reward.best("Where is stall 3?", answers) == answers[int(np.argmax(values))]
    assert reward.prefer("Where is stall 3?", *answers) == pytest.approx(1 / (1 + np.exp(values[1] - values[0])))


def test_pairs_go_on_from_the_regression_model_and_its_head(
    chat_model: Path, sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first step "bt from regression" has the regression's head and adapter, and "bt" has not."""
    seen: dict[str, dict[str, Any]] = {}
    plain = method.train

    def watch(model: Any, batches: Any, *rest: Any, folder: Path) -> None:
        name = folder.name.removesuffix(".part")
        seen[name] = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        plain(model, batches, *rest, folder=folder)

    monkeypatch.setattr(method, "train", watch)
    recipe = recipe_of(chat_model, sources, forms=["bt"], strong="bt", alphas=[1.0], plan__learning_rate=1e-2)
    methods.start("helpsteer2-preference", recipe, tmp_path / "run", [])
    assert list(seen) == ["regression", "bt", "bt-from-regression"]
    head = load_file(tmp_path / "run" / "regression" / "head.safetensors")["weight"]
    torch.testing.assert_close(seen["bt-from-regression"]["head.weight"], head)
    assert not torch.equal(seen["bt"]["head.weight"], head)
    told = {name: value for name, value in seen["bt-from-regression"].items() if "lora_B" in name}
    assert told
    assert all(value.abs().max() > 0 for value in told.values())
    assert all(value.abs().max() == 0 for name, value in seen["bt"].items() if "lora_B" in name)


def test_an_exported_reward_model_is_read_by_transformers_alone(chat_model: Path, tmp_path: Path) -> None:
    """Differences of rewards are those of a plain classifier on padded chats; its padding is not the end of a turn."""
    base = bases.open_base(str(chat_model))
    plan = Plan(lora_rank=2, precision="float32")
    model = models.value_model(base, {"attributes": ["a", "b"], "weights": [1.0, 0.5], "std": 2.0}, plan)
    with torch.no_grad():
        model.head.bias.fill_(3.0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    folder = tmp_path / "reward"
    folder.mkdir()
    models.save(model, folder)
    answers = ["left", "left and then right", "no"]
    expected = camelid.RewardModel.load(folder).score("Where?", answers)
    export.export_run(folder, tmp_path / "plain")
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "plain")
    assert plain.config.num_labels == 1
    assert tokenizer.pad_token != tokenizer.eos_token
    chats = [[{"role": "user", "content": "Where?"}, {"role": "assistant", "content": answer}] for answer in answers]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False).rstrip("\n") for chat in chats]
    with torch.no_grad():
        found = plain(**tokenizer(texts, return_tensors="pt", padding=True)).logits[:, 0].numpy()
    np.testing.assert_allclose(found - found[0], np.array(expected) - expected[0], atol=1e-4)


@pytest.mark.parametrize("trunk", ["frozen", "tuned"])
def test_pairs_of_equal_answers_alone_teach_nothing(
    chat_model: Path, sources: tuple[Path, Path], tmp_path: Path, trunk: str
) -> None:
    pairs = [
        {"prompt": f"Where is {n}?", "response_1": "left", "response_2": "left", "preference_strength": 1}
        for n in range(30)
    ]
    recipe = recipe_of(chat_model, (sources[0], write_jsonl(tmp_path / "same.jsonl", pairs)), trunk=trunk)
    with pytest.raises(UserError, match=r"no row of train is left: .*pairs whose answers are the same"):
        methods.start("helpsteer2-preference", recipe, tmp_path / "run", [])


@pytest.mark.data
def test_check_7_what_the_set_at_hand_says_without_a_model() -> None:
    """The card's references over all pairs that people decided: length, and the scores that the ratings come from."""
    people, judge = (data.read_rows(f"pandalm-preferences:{name}") for name in ("people", "gpt-4o-mini"))
    scored = {row.id: row.chosen for row in judge}
    strength = {row.id: row.strength for row in judge}
    assert Counter(row.strength for row in judge) == {1: 111, 2: 303, 3: 550}
    assert len(people) == 914

    def share(rows: list[Any], lead: Any) -> float:
        """Per cent of the rows whose better answer leads, ties half."""
        return round(50 * sum(1 + np.sign(lead(row)) for row in rows) / len(rows), 1)

    unanimous = [row for row in people if row.strength == 3]
    ranks_longer = lambda row: len(row.chosen) - len(row.rejected)  # noqa: E731
    agrees = lambda row: 0 if row.id not in scored else 1 if scored[row.id] == row.chosen else -1  # noqa: E731
    assert (share(people, ranks_longer), share(unanimous, ranks_longer)) == (67.5, 67.5)
    assert (share(people, agrees), share(unanimous, agrees)) == (84.9, 88.0)
    by_strength = [[row for row in people if strength.get(row.id) == size] for size in (1, 2, 3)]
    assert [round(share(rows, agrees)) for rows in by_strength] == [62, 75, 95]


def test_rubbish_is_told(chat_model: Path, sources: tuple[Path, Path], tmp_path: Path) -> None:
    """A rating out of range, a tie, a column that is not there: each with its row and what to do."""
    rows = [{"prompt": "Where?", "response": "Left.", "helpfulness": 7}]
    wrong = write_jsonl(tmp_path / "ratings.jsonl", rows)
    with pytest.raises(UserError, match="no rating from 0 to 4"):
        method.check(recipe_of(chat_model, (wrong, sources[1])))
    with pytest.raises(UserError, match="names no better answer"):
        method.check(recipe_of(chat_model, sources, data__missing="error"))
    with pytest.raises(UserError, match="none of the forms"):
        method.check(recipe_of(chat_model, sources, forms=["bt"]))
    with pytest.raises(UserError, match="too few rows"):
        method.check(
            recipe_of(
                chat_model,
                (
                    sources[0],
                    write_jsonl(
                        tmp_path / "two.jsonl",
                        [{"prompt": "Where?", "response_1": "a", "response_2": "b", "preference_strength": 1}],
                    ),
                ),
            )
        )
