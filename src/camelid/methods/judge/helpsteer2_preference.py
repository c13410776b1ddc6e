"""Reward models from ratings and from preferences of graded strength, on the same answers, and beyond both.

Zhilin Wang et al., "HelpSteer2-Preference: Complementing Ratings with Preferences", 2024, arXiv 2410.01257.

Problem. A reward model can be trained to tell ratings (regression) or to tell which of two answers is better (Bradley-
Terry). Which is better could not be said, because no answers had both; here they do. A preference also has a strength m
(1 slightly better, 2 better, 3 much better), and the two ways combine.

Algorithm. r(x, y) = w.h + b, h the last state at the token that ends answer y to prompt x.
 1. Regression: loss = mean (r_k - q_k)^2 over the attributes k that are rated (0 to 4; by default helpfulness alone).
 2. Bradley-Terry from scratch, delta = r(x, y_chosen) - r(x, y_rejected), mean over pairs:
        bt         -log sigmoid(delta)
        margin_bt  -log sigmoid(delta - m)
        scaled_bt  -m log sigmoid(delta)           the pair counts as m pairs; nothing asks delta to exceed m
 3. Bradley-Terry again, begun at the regression model with its head, for one epoch.
 4. ExPO: theta = theta_w + alpha (theta_s - theta_w) from the regression model (weak) to one of step 3 (strong), head
    included; alpha is the one of best accuracy on dev pairs (paper: 1.52).
 5. On held-out pairs: how often the preferred answer has the larger reward, by strength; how rewards go with length.

Differs from the paper in:
 - With `trunk = "frozen"` states are computed once and heads are solved exactly: the penalty is chosen by folds of
   whole prompts, and "begun at" means held near to that head, because a convex problem forgets where it began.
 - One head of the attributes asked for; the authors' has nine outputs and uses the fifth. Pairs are pairs and are
   shuffled; the authors' are neighbours in batches of two. Squared errors are divided by the rated values of the whole
   step, not of a micro-batch.
 - Rows without a better answer are dropped and counted; in the authors' code they count as "the second is better".
 - The pairwise justifier and policies trained on the rewards are not here. `objectives.dpo` takes the three losses.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from camelid import bases, data, linear_heads, metrics, models, objectives, preferences, recipe
from camelid.branches import Answered, collate_ends, encode_all, encode_answers
from camelid.data.columns import rated_shape, strength_shape
from camelid.errors import UserError, raise_all
from camelid.evaluation import evaluate
from camelid.extrapolation import extrapolate_models
from camelid.heads import load_head
from camelid.reading import pad_id
from camelid.recipe import Data
from camelid.rows import Predicted, Preference, Rated
from camelid.runs import Run, slug
from camelid.training import train

Form = Literal["bt", "margin_bt", "scaled_bt"]
REGRESSION, EXPO, LONGER = "regression", "ExPO", "longer answer"
FROM = "from regression"
FOLDS = 5
STRENGTHS = {1.0: "slightly better", 2.0: "better", 3.0: "much better"}


class Rows(recipe.Values):
    """Where ratings and preferences come from: files, named sets, set:split or hub:<dataset id>."""

    ratings: str = Field(default="", description="rated answers")
    train: str = Field(default="", description="pairs with a strength of preference")
    test: str | None = Field(default=None, description="pairs to measure on; drawn by prompt from train when absent")
    prompt: str = Field(default="prompt", description="column that holds the prompt")
    answer: str = Field(default="response", description="column that holds a rated answer")
    first: str = Field(default="response_1", description="column that holds the first answer of a pair")
    second: str = Field(default="response_2", description="column that holds the second answer of a pair")
    strength: str = Field(
        default="preference_strength",
        description="column from -3 to 3, below 0 where the first answer is better; empty: the first always is, by 1",
    )
    missing: Literal["error", "drop"] = Field(default="error", description="what to do with rows that lack a value")
    test_prompts: int = Field(
        default=50, ge=1, description="hold out the pairs of so many prompts, drawn with the seed"
    )
    dev_prompts: int = Field(default=20, ge=1, description="choose alpha on the pairs of so many further prompts")


class Recipe(recipe.Recipe):
    """Values of reward models from ratings and preferences."""

    data: Rows = Field(default_factory=Rows)
    plan: recipe.Plan = Field(default_factory=recipe.Plan)
    attributes: tuple[str, ...] = Field(
        default=("helpfulness",), min_length=1, description="rated attributes, each a column (paper: this one is best)"
    )
    weights: tuple[float, ...] = Field(
        default=(), description="weights by which several attributes add up to a reward; 1 each when empty"
    )
    forms: tuple[Form, ...] = Field(
        default=("bt", "margin_bt", "scaled_bt"), min_length=1, description="losses of pairs to compare"
    )
    from_scratch: bool = Field(default=True, description="train each form from scratch too, to compare")
    strong: Form = Field(default="scaled_bt", description="the form that ExPO goes on from (paper: scaled_bt)")
    alphas: tuple[float, ...] = Field(
        default=tuple(round(1 + step / 10, 1) for step in range(11)),
        min_length=1,
        description="how far to go from the regression model through the strong one; 1 is the strong one",
    )
    trunk: Literal["frozen", "tuned"] = Field(
        default="tuned", description="tuned: train as the plan says (paper: every weight); frozen: heads only, exactly"
    )
    max_tokens: int = Field(default=256, ge=16, description="longest prompt with answer; a prompt loses its beginning")


@dataclass(frozen=True)
class Split:
    """Rows whose prompts do not meet: what is trained on, what alpha is chosen on, and what is measured on."""

    ratings: list[Rated]
    train: list[Preference]
    dev: list[Preference]
    test: list[Preference]
    dropped: dict[str, int]


def check(recipe: Recipe) -> list[tuple[str, str]]:
    """What a run would do, as (name, value) lines; raises UserError with every problem, before any model loads."""
    problems = [UserError(*complaint) for complaint in _complaints(recipe)]
    found: Any = None
    try:
        found = read_split(recipe)
    except UserError as error:
        problems += error.all()
    raise_all(problems)
    count = len(recipe.forms) * (1 + recipe.from_scratch) + 1
    dropped = ", ".join(f"{number:,} {why}" for why, number in found.dropped.items())
    return [
        ("ratings", f"{len(found.ratings):,} answers"),
        ("pairs", f"train {len(found.train):,}, dev {len(found.dev):,}, test {len(found.test):,}"),
        ("rows left out", dropped or "none"),
        ("models", f"{count} with a {recipe.trunk} trunk, and {len(recipe.alphas)} values of alpha"),
    ]


def run(recipe: Recipe, run: Run) -> None:
    """Rows, the reward models of steps 1 to 4, and their scores on held-out pairs."""
    split = cache(lambda: read_split(recipe))
    rated = run.rows("ratings", lambda: split().ratings)
    parts = {name: run.rows(name, lambda name=name: getattr(split(), name)) for name in ("train", "dev", "test")}
    base = cache(lambda: bases.open_base(recipe.model.base, recipe.model.revision))
    told = cache(lambda: encode(recipe, base().tokenizer, rated, parts))
    run.note("data", lambda: {"dropped": split().dropped | told().dropped, "warnings": []})
    fit = fit_frozen(recipe, run, base, told) if recipe.trunk == "frozen" else fit_tuned(recipe, run, base, told)

    weak = fit(REGRESSION, None, None)  # step 1
    folders = {REGRESSION: weak}
    for form in recipe.forms:
        if recipe.from_scratch:
            folders[form] = fit(form, form, None)  # step 2
        folders[f"{form} {FROM}"] = fit(f"{form} {FROM}", form, weak)  # step 3
    strong = folders[f"{recipe.strong} {FROM}"]
    reward = cache(lambda folder: models.load_handle(folder)[0])

    def measure(folder: Path, part: str) -> Any:
        return preferences.measure_rewards(reward(folder), getattr(told(), part), pad_id(base().tokenizer))

    alpha = choose_alpha(recipe, run, weak, strong, lambda model: accuracy_on_dev(model, told(), base()))  # step 4
    folders[EXPO] = run.model("model", lambda: extrapolate_models(weak, strong, alpha), lambda model, folder: None)
    rewards = {
        name: run.arrays(f"rewards/{slug(name)}", lambda folder=folder: {"test": measure(folder, "test")})["test"]
        for name, folder in folders.items()
    }
    measure_accuracy(recipe, run, parts["test"], told().kept, rewards)  # step 5


# Rows


def read_split(recipe: Recipe) -> Split:
    """Ratings and pairs, split by prompt. Raises UserError with what is wrong with the rows of any of them."""
    values, given, dropped = recipe.data, Data(missing=recipe.data.missing), Counter[str]()
    of_pairs = strength_shape(values.prompt, values.first, values.second, values.strength)
    of_ratings = rated_shape(values.prompt, values.answer, recipe.attributes)
    found: dict[str, list[Any]] = {"ratings": [], "train": [], "test": []}
    problems: list[UserError] = []
    for role, shape in {"ratings": of_ratings, "train": of_pairs, "test": of_pairs}.items():
        source, left = getattr(values, role), Counter[str]()
        try:
            found |= {role: data.read_rows(source, given, shape=shape, dropped=left)} if source else {}
        except UserError as error:
            problems += error.all()
        dropped.update({f"{role}: {why}": count for why, count in left.items()})
    raise_all(problems)
    pairs, draw = found["train"], random.Random(f"{recipe.plan.seed} prompts")
    test = _draw(found["test"] or pairs, values.test_prompts, draw)
    held = {row.prompt for row in test}
    rest = [row for row in pairs if row.prompt not in held]
    dev = _draw(rest, values.dev_prompts, draw)
    chosen_on = {row.prompt for row in dev}
    train = [row for row in rest if row.prompt not in chosen_on]
    rated = [row for row in found["ratings"] if row.prompt not in held | chosen_on]
    if not (train and dev and test and rated):
        counts = f"{len(rated)} ratings, {len(train)} pairs to train on, {len(dev)} dev and {len(test)} test pairs"
        raise UserError(f"too few rows: {counts}", "Give more, or lower data.test_prompts and data.dev_prompts.")
    return Split(rated, train, dev, test, dict(dropped))


def _draw(rows: Sequence[Any], prompts: int, draw: random.Random) -> list[Any]:
    """The rows of at most so many prompts, drawn among them; at most half of the prompts where these are all."""
    names = sorted({row.prompt for row in rows}, key=repr)
    chosen = set(draw.sample(names, min(prompts, -(-len(names) // 2))))
    return [row for row in rows if row.prompt in chosen]


@dataclass(frozen=True)
class Told:
    """The rows as tokens. `kept` are the numbers of the test pairs that are among them."""

    ratings: list[Answered]
    train: list[Answered]
    dev: list[Answered]
    test: list[Answered]
    kept: list[int]
    dropped: dict[str, int]


def encode(recipe: Recipe, tokenizer: Any, rated: Sequence[Rated], parts: dict[str, list[Any]]) -> Told:
    """Prompts and answers in the model's chat template, without the opening of a further turn."""
    most, dropped, found = recipe.max_tokens, Counter[str](), {}
    for name, rows in parts.items():
        found[name], left = encode_all(tokenizer, rows, most)
        dropped.update({f"{name}: {why}": count for why, count in left.items()})
    answers = [(row, encode_answers(tokenizer, row.id, row.prompt, (row.answer,), most)) for row in rated]
    told = [replace(one, values=(ratings_of(recipe, row),)) for row, one in answers if one]
    if len(told) < len(answers):
        dropped[f"ratings: answers that do not fit into {most} tokens"] += len(answers) - len(told)
    ids = {row.id for row in found["test"]}
    kept = [number for number, row in enumerate(parts["test"]) if row.id in ids]
    return Told(told, found["train"], found["dev"], found["test"], kept, dict(dropped))


def ratings_of(recipe: Recipe, row: Rated) -> tuple[float, ...]:
    """The row's ratings in the recipe's order, NaN where there is none."""
    return tuple(row.ratings.get(name, math.nan) for name in recipe.attributes)


# Steps 1 to 3

Fit = Callable[[str, str | None, Path | None], Path]  # (name, form or None for regression, start) -> folder


def fit_tuned(recipe: Recipe, run: Run, base: Callable[[], Any], told: Callable[[], Told]) -> Fit:
    """Training as the plan says, by the one loop."""

    def fit(name: str, form: str | None, start: Path | None) -> Path:
        plan = recipe.plan if start is None else recipe.plan.model_copy(update={"epochs": 1})

        def train_on(model: Any, folder: Path) -> None:
            rows = told().ratings if form is None else told().train
            loss = objectives.ratings if form is None else objectives.rewards(objectives.BRADLEY_TERRY[form])
            batches = preferences.over_answers(rows, plan, pad_id(base().tokenizer), collate_ends)
            train(model, batches, loss, plan, folder=folder)
            model.merge_attributes()

        return run.model(
            slug(name), lambda: models.value_model(base(), settings_of(recipe, form), plan, start), train_on
        )

    return fit


def fit_frozen(recipe: Recipe, run: Run, base: Callable[[], Any], told: Callable[[], Told]) -> Fit:
    """Heads on states of the base that are computed once, solved exactly, with a penalty chosen by folds of prompts."""

    def states() -> dict[str, Any]:
        model = models.value_model(base(), settings_of(recipe, None), None)
        found = {"ratings": told().ratings, "train": told().train}
        return {name: preferences.measure_states(model, rows, pad_id(base().tokenizer)) for name, rows in found.items()}

    def fit(name: str, form: str | None, start: Path | None) -> Path:
        def solve(model: Any, folder: Path) -> None:
            found = run.arrays("states", states)
            mean_D, std_D = found["ratings"][:, 0].mean(axis=0), found["ratings"][:, 0].std(axis=0)
            solved = solve_ratings(recipe, told(), (found["ratings"][:, 0] - mean_D) / std_D) if form is None else None
            if form is not None:
                begun = None if start is None else _weights_of(model, start)[0] * std_D
                solved = solve_pairs(recipe, told(), (found["train"][:, 0] - found["train"][:, 1]) / std_D, form, begun)
            assert solved is not None
            weights_KD = solved[:, :-1] / std_D
            with torch.no_grad():
                model.head.weight.copy_(torch.tensor(weights_KD))
                model.head.bias.copy_(torch.tensor(solved[:, -1] - weights_KD @ mean_D))
            model.merge_attributes()

        return run.model(slug(name), lambda: models.value_model(base(), settings_of(recipe, form), None), solve)

    return fit


def solve_ratings(recipe: Recipe, told: Told, states_ND: Any) -> Any:
    """(K, D + 1): a head for each attribute."""
    prompts = [tuple(row.prompt) for row in told.ratings]
    ratings_NK = np.array([row.values[0] for row in told.ratings])

    def loss(column: int, penalty: float, fitted_on: Any, on: Any) -> float:
        w = linear_heads.fit_ratings(states_ND[fitted_on], ratings_NK[fitted_on, column], penalty)
        return float(np.nanmean((states_ND[on] @ w[:-1] + w[-1] - ratings_NK[on, column]) ** 2))

    solved = []
    for column in range(ratings_NK.shape[1]):
        penalty = linear_heads.choose_penalty(
            prompts, FOLDS, recipe.plan.seed, lambda *given, column=column: loss(column, *given)
        )
        solved.append(linear_heads.fit_ratings(states_ND, ratings_NK[:, column], penalty))
    return np.stack(solved)


def solve_pairs(recipe: Recipe, told: Told, differences_PD: Any, form: str, start_D: Any | None) -> Any:
    """(1, D + 1) with a bias of 0, which no difference of rewards depends on."""
    prompts, strength_P = [tuple(row.prompt) for row in told.train], np.array([row.strength for row in told.train])

    def loss(penalty: float, fitted_on: Any, on: Any) -> float:
        w_D = linear_heads.fit_pairs(differences_PD[fitted_on], strength_P[fitted_on], form, penalty, start_D)
        return linear_heads.loss_of_pairs(differences_PD[on], strength_P[on], form, w_D)

    penalty = linear_heads.choose_penalty(prompts, FOLDS, recipe.plan.seed, loss)
    w_D = linear_heads.fit_pairs(differences_PD, strength_P, form, penalty, start_D)
    return np.append(w_D, 0.0)[None]


def settings_of(recipe: Recipe, form: str | None) -> dict[str, Any]:
    """The head of a regression model, or of a model of pairs, which has one output."""
    return {"attributes": recipe.attributes, "weights": recipe.weights} if form is None else {"attributes": ["reward"]}


def _weights_of(model: Any, start: Path) -> Any:
    load_head(model, start)
    return model.head.weight.detach().numpy().astype(float)


# Step 4


def choose_alpha(recipe: Recipe, run: Run, weak: Path, strong: Path, accuracy: Callable[[Any], float]) -> float:
    """The alpha of best accuracy on dev pairs, of equal ones the smallest."""

    def sweep() -> dict[str, Any]:
        found = {alpha: accuracy(extrapolate_models(weak, strong, alpha)) for alpha in sorted(recipe.alphas)}
        best = max(found, key=found.__getitem__)
        return {"alpha": best, "dev accuracy": {f"{alpha:g}": value for alpha, value in found.items()}}

    return run.scores("expo", sweep)["alpha"]


def accuracy_on_dev(model: Any, told: Told, base: Any) -> float:
    """How often the preferred answer has the larger reward; a tie is half."""
    rewards_P2 = preferences.measure_rewards(model, told.dev, pad_id(base.tokenizer), "dev pairs")
    difference_P = rewards_P2[:, 0] - rewards_P2[:, 1]
    return float(((difference_P > 0) + 0.5 * (difference_P == 0)).mean())


# Step 5


def measure_accuracy(
    recipe: Recipe, run: Run, rows: Sequence[Preference], kept: Sequence[int], rewards: dict[str, Any]
) -> None:
    """Who wins, by system; by the strength of the preference; and how rewards go with length."""
    test = [rows[number] for number in kept]
    values = {name: found.tolist() for name, found in rewards.items()}
    values[LONGER] = [[float(len(row.chosen)), float(len(row.rejected))] for row in test]
    systems: dict[str, list[Predicted]] = {
        name: run.rows(
            f"predictions/{slug(name)}",
            lambda found=found: [
                preferences.prefer(row.id, pair, recipe.plan.seed) for row, pair in zip(test, found, strict=True)
            ],
        )
        for name, found in values.items()
    }
    order = [EXPO, *(name for name in systems if name != EXPO)]
    run.scores(
        "held_out",
        lambda: {
            "split": "test",
            **evaluate(
                {name: systems[name] for name in order}, preferences.ORDER, EXPO, "labels", trained=set(rewards)
            ),
        },
    )
    run.scores("strength", lambda: by_strength(test, values))
    run.scores("length", lambda: by_length(test, values[EXPO]))


def by_strength(test: Sequence[Preference], values: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Accuracy with its interval by the strength of the preference, ties counting half."""
    found: dict[str, Any] = {}
    for strength in sorted({row.strength for row in test}):
        places = [place for place, row in enumerate(test) if row.strength == strength]
        draws = metrics.Draws(len(places), metrics.SEED)
        name = f"{STRENGTHS.get(strength, f'strength {strength:g}')} ({len(places)} pairs)"
        found[name] = {}
        for system, pairs in values.items():
            right_N = np.array([np.sign(pairs[place][0] - pairs[place][1]) / 2 + 0.5 for place in places])
            interval = metrics.interval(float(right_N.mean()), metrics.resampled_mean(right_N, draws))
            found[name][system] = interval.as_dict()
    return found


def by_length(test: Sequence[Preference], rewards: list[list[float]]) -> dict[str, Any]:
    """Pearson's correlation of an answer's reward with its characters; pairs are resampled."""
    reward_P2 = np.array(rewards)
    length_P2 = np.array([[len(row.chosen), len(row.rejected)] for row in test], dtype=float)

    def value(rows_RN: Any) -> Any:
        return metrics.pearson(*(table[rows_RN].reshape(len(rows_RN), -1) for table in (reward_P2, length_P2)))

    draws = metrics.Draws(len(test), metrics.SEED)
    whole = value(np.arange(len(test))[None])[0]
    return {
        "Pearson's r of reward and characters": metrics.interval(whole, metrics.bootstrap_rows(draws, value)).as_dict()
    }


def _complaints(recipe: Recipe) -> list[tuple[str, str]]:
    """Fields that contradict each other, as (what, fix)."""
    found, values, plan = [], recipe.data, recipe.plan
    if not (values.ratings and values.train):
        found.append(("ratings and pairs are both needed", "Give --set data.ratings=FILE and --data FILE (the pairs)."))
    if recipe.weights and len(recipe.weights) != len(recipe.attributes):
        what = f"{len(recipe.weights)} weights for {len(recipe.attributes)} attributes"
        found.append((what, "Give one for each, or none for 1 each."))
    if recipe.strong not in recipe.forms:
        found.append((f"strong = {recipe.strong!r} is none of the forms that are trained", "Add it to forms."))
    if plan.keep != "last" or plan.patience is not None:
        found.append(
            ("plan.keep and plan.patience need dev scores while training, and there are none", "Leave them out.")
        )
    return found
