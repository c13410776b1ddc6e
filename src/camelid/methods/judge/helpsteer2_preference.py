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

from camelid import bases, data, forecast, linear_heads, metrics, models, objectives, preferences, recipe
from camelid.branches import Answered, collate_ends, encode_all, encode_answers, gather_answers
from camelid.data.columns import Shape, rated_shape, strength_shape
from camelid.errors import UserError, raise_all, try_all
from camelid.extrapolation import extrapolate_models
from camelid.heads import load_head
from camelid.reading import pad_id
from camelid.rows import Preference, Rated
from camelid.runs import Run, slug
from camelid.training import complain_of_plan, train

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
        default=50,
        ge=1,
        description="hold out the pairs of so many prompts, drawn with the seed; all of a test set of others",
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
    looked, problems = try_all({"rows": lambda: read_split(recipe)}, _complaints(recipe))
    raise_all(problems)
    found = looked["rows"]
    count = len(recipe.forms) * (1 + recipe.from_scratch) + 1
    return [
        ("ratings", f"{len(found.ratings):,} answers"),
        ("pairs", f"train {len(found.train):,}, dev {len(found.dev):,}, test {len(found.test):,}"),
        ("rows left out", forecast.tell_dropped(found.dropped)),
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
    study = Study(recipe, run, base, told)
    fit = fit_frozen if recipe.trunk == "frozen" else fit_tuned

    weak = fit(study, REGRESSION, None, None)  # step 1
    folders = {REGRESSION: weak}
    for form in recipe.forms:
        if recipe.from_scratch:
            folders[form] = fit(study, form, form, None)  # step 2
        folders[f"{form} {FROM}"] = fit(study, f"{form} {FROM}", form, weak)  # step 3
    alpha = choose_alpha(study, weak, folders[f"{recipe.strong} {FROM}"])  # step 4
    folders[EXPO] = run.model(
        "model",
        build=lambda: extrapolate_models(weak, folders[f"{recipe.strong} {FROM}"], alpha),
        fit=lambda model, folder: None,
    )
    rewards = {name: rewards_of(study, name, folder) for name, folder in folders.items()}
    measure_accuracy(recipe, run, [parts["test"][number] for number in told().kept], rewards)  # step 5


# Rows


def read_split(recipe: Recipe) -> Split:
    """Ratings and pairs, split by prompt. Raises UserError with what is wrong with the rows of any of them."""
    values, dropped = recipe.data, Counter[str]()
    of_pairs = strength_shape(values.prompt, values.first, values.second, values.strength)
    of_ratings = rated_shape(values.prompt, values.answer, recipe.attributes)

    def look(role: str, shape: Shape) -> list[Any]:
        left = Counter[str]()
        rows = data.read_source(getattr(values, role), shape, values.missing, left)
        dropped.update({f"{role}: {why}": count for why, count in left.items()})
        return rows

    shapes = {"ratings": of_ratings, "train": of_pairs, "test": of_pairs}
    found, problems = try_all({role: lambda role=role: look(role, shapes[role]) for role in shapes})
    raise_all(problems)
    pairs, draw = found["train"], random.Random(f"{recipe.plan.seed} prompts")
    asked, known = found["test"], {row.prompt for row in pairs}
    has_own = bool(asked) and not any(row.prompt in known for row in asked)  # then no row of train is lost to it
    test = asked if has_own else _draw(asked or pairs, values.test_prompts, draw)
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
    for name, rows in {"ratings": told, **found}.items():
        if not rows:
            what = f"no row of {name} is left: {forecast.tell_dropped(dict(dropped))}"
            raise UserError(what, "Give more rows, or more tokens to each (max_tokens).")
    ids = {row.id for row in found["test"]}
    kept = [number for number, row in enumerate(parts["test"]) if row.id in ids]
    return Told(told, found["train"], found["dev"], found["test"], kept, dict(dropped))


def ratings_of(recipe: Recipe, row: Rated) -> tuple[float, ...]:
    """The row's ratings in the recipe's order, NaN where there is none."""
    return tuple(row.ratings.get(name, math.nan) for name in recipe.attributes)


@dataclass(frozen=True)
class Study:
    """What every step needs; base and tokens are made when first asked for."""

    recipe: Recipe
    run: Run
    base: Callable[[], Any]
    told: Callable[[], Told]

    @property
    def pad(self) -> int:
        return pad_id(self.base().tokenizer)


# Steps 1 to 3


def fit_tuned(study: Study, name: str, form: str | None, start: Path | None) -> Path:
    """A model trained as the plan says, on ratings where there is no `form`; begun at another one for one epoch."""
    plan = study.recipe.plan if start is None else study.recipe.plan.model_copy(update={"epochs": 1})

    def train_on(model: Any, folder: Path) -> None:
        rows = study.told().ratings if form is None else study.told().train
        loss = objectives.ratings if form is None else objectives.rewards(objectives.BRADLEY_TERRY[form])
        train(model, preferences.over_answers(rows, plan, study.pad, collate_ends), loss, plan, folder=folder)
        model.merge_attributes()

    settings = settings_of(study.recipe, form)
    return study.run.model(slug(name), lambda: models.value_model(study.base(), settings, plan, start), train_on)


def fit_frozen(study: Study, name: str, form: str | None, start: Path | None) -> Path:
    """A head on the frozen base, solved exactly on standardised states; the penalty is chosen by folds of prompts."""
    recipe = study.recipe

    def solve(model: Any, folder: Path) -> None:
        told, folds = study.told(), (FOLDS, recipe.plan.seed)
        states_ND = states_of(study, told.ratings)
        mean_D, std_D = states_ND.mean(axis=0), states_ND.std(axis=0)
        if form is None:
            ratings_NK, prompts = np.array([row.values[0] for row in told.ratings]), _prompts(told.ratings)
            solved = [
                linear_heads.fit_ratings_by_folds((states_ND - mean_D) / std_D, ratings_N, prompts, *folds)
                for ratings_N in ratings_NK.T
            ]
        else:
            states_P2D = states_of(study, told.train).reshape(len(told.train), 2, -1)
            begun = None if start is None else _weights_of(model, start) * std_D
            differences_PD = (states_P2D[:, 0] - states_P2D[:, 1]) / std_D
            strength_P, prompts = np.array([row.strength for row in told.train]), _prompts(told.train)
            w_D = linear_heads.fit_pairs_by_folds(differences_PD, strength_P, form, prompts, *folds, begun)
            solved = [np.append(w_D, 0.0)]  # no difference of rewards depends on a bias
        weights_KD = np.stack(solved)[:, :-1] / std_D
        with torch.no_grad():
            model.head.weight.copy_(torch.tensor(weights_KD))
            model.head.bias.copy_(torch.tensor(np.stack(solved)[:, -1] - weights_KD @ mean_D))
        model.merge_attributes()

    settings = settings_of(recipe, form)
    return study.run.model(slug(name), lambda: models.value_model(study.base(), settings, None), solve)


def states_of(study: Study, rows: Sequence[Answered]) -> Any:
    """States of the rows' answers in their order, (answers, D); the frozen base reads each distinct answer once."""
    told = study.told()
    gathered = gather_answers([*told.ratings, *told.train, *told.dev, *told.test])

    def make() -> dict[str, Any]:
        model = models.value_model(study.base(), settings_of(study.recipe, None), None)
        return {"states": preferences.measure_states(model, gathered, study.pad)}

    states_ND = study.run.arrays("states", make)["states"]
    places = [(tuple(row.prompt), tuple(answer)) for row in gathered for answer in row.answers]
    place_of = {place: number for number, place in enumerate(places)}
    return states_ND[[place_of[tuple(row.prompt), tuple(answer)] for row in rows for answer in row.answers]]


def measure(study: Study, model: Any, part: str) -> Any:
    """Rewards of the pairs of "dev" or "test", (pairs, 2)."""
    rows = getattr(study.told(), part)
    if study.recipe.trunk == "tuned":
        return np.array(
            preferences.measure_rewards(model, rows, study.pad, f"rewards of {part} pairs"), dtype=np.float32
        )
    with torch.no_grad():
        return model.reward(model.head(torch.tensor(states_of(study, rows)))).reshape(-1, 2).numpy()


def settings_of(recipe: Recipe, form: str | None) -> dict[str, Any]:
    """The head of a regression model, or of a model of pairs, which has one output."""
    return {"attributes": recipe.attributes, "weights": recipe.weights} if form is None else {"attributes": ["reward"]}


def _weights_of(model: Any, start: Path) -> Any:
    load_head(model, start)
    return model.head.weight[0].detach().numpy().astype(float)


def _prompts(rows: Sequence[Answered]) -> list[Any]:
    return [tuple(row.prompt) for row in rows]


# Step 4


def choose_alpha(study: Study, weak: Path, strong: Path) -> float:
    """The alpha of best accuracy on dev pairs, a tie being half right; of equally good ones the smallest."""

    def accuracy(alpha: float) -> float:
        rewards_P2 = measure(study, extrapolate_models(weak, strong, alpha), "dev")
        return float((np.sign(rewards_P2[:, 0] - rewards_P2[:, 1]) / 2 + 0.5).mean())

    def sweep() -> dict[str, Any]:
        found = {alpha: accuracy(alpha) for alpha in sorted(study.recipe.alphas)}
        best = max(found, key=found.__getitem__)
        return {"alpha": best, "dev accuracy": {f"{alpha:g}": value for alpha, value in found.items()}}

    return study.run.scores("expo", sweep)["alpha"]


# Step 5


def rewards_of(study: Study, name: str, folder: Path) -> Any:
    """A system's rewards of the test pairs, (pairs, 2)."""

    def make() -> dict[str, Any]:
        return {"test": measure(study, models.load_handle(folder)[0], "test")}

    return study.run.arrays(f"rewards/{slug(name)}", make)["test"]


def measure_accuracy(recipe: Recipe, run: Run, test: Sequence[Preference], rewards: dict[str, Any]) -> None:
    """Who wins, by system; by the strength of the preference, by margin and length; and how rewards go with length."""
    values = {name: found.tolist() for name, found in rewards.items()}
    values[LONGER] = [[float(len(row.chosen)), float(len(row.rejected))] for row in test]
    systems = preferences.predict_pairs(run, [row.id for row in test], values, recipe.plan.seed)
    systems = {EXPO: systems[EXPO], **systems}
    run.scores("held_out", lambda: preferences.compare_preferences(systems, EXPO, trained=set(rewards)))
    preferences.break_down(run, test, values, EXPO)
    run.scores("strength", lambda: preferences.accuracy_by(by_strength(test), values))
    run.scores("length", lambda: correlate_length(test, values[EXPO]))


def by_strength(test: Sequence[Preference]) -> dict[str, list[int]]:
    """The places of the pairs by how strong the preference is."""
    found: dict[str, list[int]] = {}
    for place in sorted(range(len(test)), key=lambda place: test[place].strength):
        strength = test[place].strength
        found.setdefault(STRENGTHS.get(strength, f"strength {strength:g}"), []).append(place)
    return found


def correlate_length(test: Sequence[Preference], rewards: list[list[float]]) -> dict[str, Any]:
    """Pearson's correlation of an answer's reward with its characters; pairs are resampled."""
    reward_P2 = np.array(rewards)
    length_P2 = np.array([[len(row.chosen), len(row.rejected)] for row in test], dtype=float)
    return {"Pearson's r of reward and characters": metrics.spread_pearson(reward_P2, length_P2)}


def _complaints(recipe: Recipe) -> list[tuple[str, str]]:
    """Fields that contradict each other, as (what, fix)."""
    found, values = [], recipe.data
    if not (values.ratings and values.train):
        found.append(("ratings and pairs are both needed", "Give --set data.ratings=FILE and --data FILE (the pairs)."))
    if recipe.weights and len(recipe.weights) != len(recipe.attributes):
        what = f"{len(recipe.weights)} weights for {len(recipe.attributes)} attributes"
        found.append((what, "Give one for each, or none for 1 each."))
    if recipe.strong not in recipe.forms:
        found.append((f"strong = {recipe.strong!r} is none of the forms that are trained", "Add it to forms."))
    return found + complain_of_plan(recipe.plan)
