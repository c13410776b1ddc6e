"""A LLaMA that reads a written safety policy and a conversation, and says whether the one breaks the other.

Hakan Inan et al., "Llama Guard: LLM-based Input-Output Safeguard for Human-AI Conversations", 2023, arXiv 2312.06674.

Problem. Somebody runs a chat system and wants one moderator for prompts and for responses, whose rules can be changed
in words. A classifier has its categories in its weights; this model reads them.

Algorithm. A policy of numbered categories K, a conversation x, and the violated categories V, those known of K.
 1. One text holds the task (whose messages are judged), the policy, the conversation and the output format. A prompt is
    judged by the user's turns alone, a response by user and agent together.
 2. Target: "safe", or "unsafe" and on a second line the violated codes as they are numbered in this prompt.
 3. Augmentation, so that the policy is read and not remembered. Each example is seen as it is, with r of the categories
    it does not violate left out, r ~ Uniform{0..|K \\ V|}, and, where it violates some, with all of those and
    r ~ Uniform{0..|K \\ V| - 1} others left out, which makes it safe. What stays is shuffled and numbered anew.
    A category that is unknown for an example never stands in its policy.
 4. Next-token cross-entropy on the target and its end, with low-rank adapters.
 5. Score. With u and s the first tokens of the two answers and l the logits behind the prompt:
    first-token: softmax(l)[u]; renormalised: e^{l_u} / (e^{l_u} + e^{l_s}); greedy: p of the first token written where
    the reply holds "unsafe", else 1 - p.
 6. Unsafe from a threshold on, which is chosen on dev rows. A score by category is that of a policy of it alone.
 7. Evaluation: average precision of the score; by category against all others and against rows that violate nothing.

Differs from the paper in:
 - One variant is drawn for each example and pass (`views = "one"`); the public formatter adds two or three rows each.
 - The variant without the violated categories is on; in the public formatter it is off by default.
 - Loss on the target only; `train_prompt` trains on all of the text, as the public example does.
 - The renormalised score is the default: it means something for models that are not tuned yet.
 - Wording of prompt and policies is ours. 135M parameters do not follow policies they were not trained on.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import isnan
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from camelid import baselines, bases, data, engines, labelling, models, prediction, recipe
from camelid.batches import Tokens
from camelid.chat import encode_prompt
from camelid.data.columns import Shape, flag_shape
from camelid.engines import Engine
from camelid.errors import UserError, raise_all
from camelid.evaluation import evaluate
from camelid.guard import REPLY_TOKENS, SAFE, UNSAFE, Definition, Guard, unsafe_scores, write_prompt
from camelid.metrics import SEED, Draws, interval, spread_mean
from camelid.objectives import cross_entropy
from camelid.policy import Policy, read_policy
from camelid.ranking import average_precision, best_threshold, resampled_average_precision
from camelid.reading import Reading, cut_texts, pad_id, tell_answer
from camelid.rows import Flagged, Labelled, Message, Predicted
from camelid.runs import Run, slug
from camelid.training import train

OURS = "tuned guard"


class Recipe(recipe.Recipe):
    """Values of a guard's run."""

    data: recipe.Data = Field(default_factory=recipe.Data)
    plan: recipe.Plan = Field(default_factory=recipe.Plan)
    engine: recipe.Engine = Field(default_factory=recipe.Engine)
    policy: str = Field(default="moderation", description="name of a built-in policy, or a TOML file of categories")
    descriptions: bool = Field(
        default=False, description="write the categories' descriptions too, not only their names"
    )
    response: str | None = Field(
        default=None, description="column with the answer, which is judged then, and not the prompt"
    )
    max_tokens: int = Field(
        default=128, ge=2, description="longer messages are cut at their end; the guard judges them piece by piece"
    )
    augment: bool = Field(default=True, description="leave out and shuffle categories in training")
    views: Literal["one", "all"] = Field(
        default="one", description="one variant an example and pass, or all of them (paper: all)"
    )
    train_prompt: bool = Field(
        default=False, description="train on the prompt's tokens too, as the public example does"
    )
    score: Definition = Field(default="renormalised", description="how the answer becomes a score (paper: first-token)")
    threshold: Literal["f1", "precision", "false_positive_rate"] = Field(
        default="f1",
        description="what the threshold chosen on dev rows should have: the best F1, or at least or most ...",
    )
    at: float | None = Field(default=None, ge=0, le=1, description="... so much precision or false-positive rate")
    compare: bool = Field(default=False, description="also score what one would try first, on the same rows")


def check(recipe: Recipe) -> list[tuple[str, str]]:
    """What a run would do, as (name, value) lines; raises UserError with every problem, before any model loads."""
    problems = []
    if (recipe.at is None) != (recipe.threshold == "f1"):
        problems.append(
            UserError(f"threshold = {recipe.threshold!r} and at = {recipe.at}", "Only f1 goes without `at`.")
        )
    if recipe.engine.kind != "local":
        problems.append(UserError(f"engine.kind = {recipe.engine.kind!r}", "A guard is trained here: take local."))
    if recipe.engine.ray:
        problems.append(UserError("engine.ray cannot read what is trained here", "Leave it out."))
    found: list[Any] = [None, None, None]
    for place, look in enumerate((lambda: policy_of(recipe), lambda: read(recipe), lambda: base_of(recipe))):
        try:
            found[place] = look()
        except UserError as error:
            problems.append(error)
    raise_all(problems)
    policy, splits, base = found
    longest = max(
        len(encode_prompt(base.tokenizer, one)) for one in prompts_of(recipe, policy, splits.test or splits.dev)
    )
    context = base.config.get_text_config().max_position_embeddings
    if longest + REPLY_TOKENS > context:
        what = f"policy and text have {longest:,} tokens, and {base.spec} reads {context:,}, the answer included"
        raise UserError(what, "Lower --max-tokens, or leave out descriptions.")
    counts = {role: sum(is_unsafe(row) for row in getattr(splits, role)) for role in ("train", "dev", "test")}
    sizes = [
        len(encode_prompt(base.tokenizer, write_prompt(policy, row.messages, descriptions=recipe.descriptions)))
        for row in splits.train[:100]
    ]
    passes = 3 if recipe.views == "all" and recipe.augment else 1
    return [
        ("policy", f"{recipe.policy}: {', '.join(f'{policy.code(key)} {key}' for key in policy.keys)}"),
        *((f"{role} rows", f"{len(getattr(splits, role))}, {count} of them unsafe") for role, count in counts.items()),
        ("prompt", f"about {sum(sizes) / len(sizes):.0f} tokens, policy included"),
        ("steps", f"about {-(-len(splits.train) * passes // recipe.plan.batch_rows) * recipe.plan.epochs}"),
        ("rows left out", ", ".join(f"{n} {why}" for why, n in splits.dropped.items()) or "none"),
        ("model", base.spec),
        *(("warning", text) for text in splits.warnings),
    ]


def run(recipe: Recipe, run: Run) -> None:
    """Rows, the tuned guard, scores of all systems, the threshold, categories, and whether the policy is read."""
    policy, splits = policy_of(recipe), cache(lambda: read(recipe))
    rows = data.Splits(
        run.rows("train", lambda: splits().train),
        run.rows("dev", lambda: splits().dev),
        run.rows("test", lambda: splits().test),
    )
    run.note("data", lambda: {"dropped": splits().dropped, "warnings": splits().warnings})
    held_out = rows.test or rows.dev

    guard = run.model(
        "model", build=lambda: build(recipe), fit=lambda model, to: fit(recipe, model, to, rows.train, policy)
    )
    tuned, untuned = cache(lambda: engine_of(recipe, guard)), cache(lambda: engine_of(recipe))
    dev = run.rows("predictions/dev", lambda: judge(recipe, tuned(), policy, rows.dev, 0.5))
    cut = run.scores("threshold", lambda: choose_threshold(recipe, dev))["threshold"]
    systems = {OURS: run.rows(f"predictions/{slug(OURS)}", lambda: judge(recipe, tuned(), policy, held_out, cut))}
    if recipe.compare:
        systems |= compare(recipe, run, policy, rows, untuned)
    run.scores("held_out", lambda: {"split": rows.held_out, **evaluate(systems, [SAFE, UNSAFE], OURS, "ranking")})
    run.scores("categories", lambda: score_categories(recipe, tuned(), policy, held_out))
    run.scores("policy_is_read", lambda: measure_sensitivity(recipe, tuned(), policy, held_out))


def read(recipe: Recipe) -> data.Splits:
    """Rows with the categories of the policy that are known of them, one at least."""
    splits = data.read_splits(recipe.data, recipe.plan.seed, shape_of(recipe))
    rows = {role: [row for row in getattr(splits, role) if row.flags] for role in ("train", "dev", "test")}
    left_out = {
        f"{role}: no category of the policy is known": len(getattr(splits, role)) - len(kept)
        for role, kept in rows.items()
    }
    unknown = [key for key in policy_of(recipe).keys if not any(key in row.flags for row in rows["train"])]
    if unknown:
        what = f"no training row says anything of {', '.join(unknown)}"
        raise UserError(what, "Each category of the policy is a column of that name (its key), with 1, 0 or nothing.")
    return replace(splits, **rows, dropped=splits.dropped | {why: n for why, n in left_out.items() if n})


def shape_of(recipe: Recipe) -> Shape:
    """A text and a column for each category."""
    return flag_shape(recipe.data.text, policy_of(recipe).keys, recipe.response)


def policy_of(recipe: Recipe) -> Policy:
    return read_policy(recipe.policy)


def base_of(recipe: Recipe) -> bases.Base:
    return bases.open_base(recipe.model.base, recipe.model.revision)


def is_unsafe(row: Flagged) -> bool:
    """Whether any category is known to be violated."""
    return any(row.flags.values())


# 2. The target; the text of 1. is guard.write_prompt


def write_target(policy: Policy, violated: Iterable[str]) -> str:
    """The answer: "safe", or "unsafe" and the violated codes of this policy, by number."""
    codes = [policy.code(key) for key in policy.keys if key in set(violated)]
    return f"{UNSAFE}\n{','.join(codes)}" if codes else SAFE


# 3. Augmentation


@dataclass(frozen=True, slots=True)
class View:
    """An example as it is shown: the categories in the order of the prompt, and those of them that it violates."""

    policy: Policy
    violated: tuple[str, ...]


def views_of(policy: Policy, flags: dict[str, bool], draw: random.Random, *, augment: bool = True) -> list[View]:
    """The variants of an example: as it is, without some kept rules, and without the broken ones. All are shuffled."""
    known = [key for key in policy.keys if key in flags]
    assert known, "a row of which nothing is known has nothing to show"
    violated = [key for key in known if flags[key]]
    others = [key for key in known if not flags[key]]
    if not augment:
        return [View(policy.only(known), tuple(violated))]
    views = [_shuffled(policy, known, violated, draw)]
    fewer = draw.randint(0, len(others))
    kept = draw.sample(others, len(others) - min(fewer, len(known) - 1))
    views.append(_shuffled(policy, [*violated, *kept], violated, draw))
    if violated and others:
        left = draw.sample(others, len(others) - draw.randint(0, len(others) - 1))
        views.append(_shuffled(policy, left, [], draw))
    return views


def _shuffled(policy: Policy, keys: Sequence[str], violated: Sequence[str], draw: random.Random) -> View:
    return View(policy.ordered(draw.sample(list(keys), len(keys))), tuple(violated))


# 4. Training


def build(recipe: Recipe) -> Any:
    return models.language_model(base_of(recipe), {}, recipe.plan)


def fit(recipe: Recipe, model: Any, folder: Path, rows: Sequence[Flagged], policy: Policy) -> None:
    """Train on the views of every pass; the order is drawn over all passes together."""
    tokenizer = base_of(recipe).tokenizer
    tokens = []
    for epoch in range(recipe.plan.epochs):
        for row in shorten(recipe, tokenizer, rows):
            draw = random.Random(f"{recipe.plan.seed} view {epoch} {row.id}")
            views = views_of(policy, row.flags, draw, augment=recipe.augment)
            chosen = views if recipe.views == "all" else [draw.choice(views)]
            tokens += [tell(recipe, tokenizer, row, view) for view in chosen]
    once = recipe.plan.model_copy(update={"epochs": 1, "keep": "last", "patience": None})
    train(model, labelling.over_epochs(tokens, once, pad_id(tokenizer)), cross_entropy, once, folder=folder)


def tell(recipe: Recipe, tokenizer: Any, row: Flagged, view: View) -> Tokens:
    """Prompt and target as tokens to train on."""
    prompt = write_prompt(view.policy, row.messages, descriptions=recipe.descriptions)
    target = write_target(view.policy, view.violated)
    return tell_answer(tokenizer, prompt, target, ended=True, prompt_too=recipe.train_prompt)


def shorten(recipe: Recipe, tokenizer: Any, rows: Sequence[Flagged]) -> list[Flagged]:
    """The rows with their last message cut to `max_tokens` tokens."""
    texts = [Labelled(row.id, row.origin, row.messages[-1].content, "") for row in rows]
    cut = cut_texts(tokenizer, texts, recipe.max_tokens)
    return [
        Flagged(row.id, row.origin, (*row.messages[:-1], Message(row.messages[-1].role, text)), row.flags)
        for row, text in zip(rows, cut, strict=True)
    ]


# 6. The threshold


def label_rows(folder: Path, rows: Sequence[Labelled], base: str | None) -> list[Predicted]:
    """What `camelid predict` writes: safe or unsafe by the run's threshold, and both probabilities."""
    guard = Guard.load(folder, base=base)
    verdicts = guard.check_many([row.text for row in rows])
    return [
        Predicted(
            row.id,
            None,
            UNSAFE if verdict.unsafe else SAFE,
            _shares(verdict.score if verdict.score is not None else 1.0),
        )
        for row, verdict in zip(rows, verdicts, strict=True)
    ]


def engine_of(recipe: Recipe, adapted: Path | None = None) -> Engine:
    """The base as it is, or with what was trained on it."""
    return engines.open_engine(recipe.engine, recipe.model, adapted)


def judge(recipe: Recipe, engine: Engine, policy: Policy, rows: Sequence[Flagged], cut: float) -> list[Predicted]:
    """Scores of the rows under one policy, and the decision at a threshold. Without a score a row counts as unsafe."""
    scores = unsafe_scores(engine, prompts_of(recipe, policy, rows), recipe.score)
    values = [1.0 if isnan(value) else value for value in scores]
    return [
        Predicted(row.id, UNSAFE if is_unsafe(row) else SAFE, UNSAFE if value >= cut else SAFE, _shares(value))
        for row, value in zip(rows, values, strict=True)
    ]


def prompts_of(recipe: Recipe, policy: Policy, rows: Sequence[Flagged]) -> list[tuple[Message, ...]]:
    """What the guard is shown of each row."""
    cut = shorten(recipe, base_of(recipe).tokenizer, rows)
    return [write_prompt(policy, row.messages, descriptions=recipe.descriptions) for row in cut]


def choose_threshold(recipe: Recipe, dev: Sequence[Predicted]) -> dict[str, float]:
    """The threshold on dev rows and what they say of it."""
    gold = np.array([row.gold == UNSAFE for row in dev])
    values = np.array([row.probabilities[UNSAFE] for row in dev])
    if gold.all() or not gold.any():
        return {"threshold": 0.5}  # nothing to choose on; the report shows that no figure stands beside it
    found = best_threshold(gold, values, recipe.threshold, recipe.at)
    if found is None:
        fix = "Ask for less, or take --threshold f1."
        raise UserError(f"no threshold has {recipe.threshold} {recipe.at} on the {len(dev)} dev rows", fix)
    return found.as_dict()


def _shares(value: float) -> dict[str, float]:
    return {SAFE: 1 - value, UNSAFE: value}


# 7. Evaluation


def compare(recipe: Recipe, run: Run, policy: Policy, rows: data.Splits, untuned: Any) -> dict[str, list[Predicted]]:
    """The base without training, TF-IDF with logistic regression, and label supervision, on the same rows."""
    train_rows, held_out = map(as_labelled, (rows.train, rows.test or rows.dev))
    found = {
        "TF-IDF + logistic regression": lambda: baselines.predict_tfidf(train_rows, held_out, recipe.plan.seed),
        "untuned": lambda: judge(recipe, untuned(), policy, rows.test or rows.dev, 0.5),
        "label supervision": lambda: supervise(recipe, run, train_rows, as_labelled(rows.dev), held_out),
    }
    return {name: run.rows(f"predictions/{slug(name)}", predict) for name, predict in found.items()}


def supervise(recipe: Recipe, run: Run, rows: Any, dev: Any, held_out: Any) -> list[Predicted]:
    """A label head on the same base and plan, from the text alone."""
    base, plan = base_of(recipe), recipe.plan
    settings = {"kind": "label", "classes": [SAFE, UNSAFE], "pooling": "last", "task": "labels"}
    folder = run.model(
        "label-supervision",
        build=lambda: models.label_model(base, settings, plan, Reading(recipe.max_tokens)),
        fit=lambda model, to: labelling.fit(model, base.tokenizer, rows, dev, plan, to),
    )
    return prediction.predict_with(folder, held_out)


def as_labelled(rows: Sequence[Flagged]) -> list[Labelled]:
    """The last message of each row and whether it is unsafe."""
    return [Labelled(row.id, row.origin, row.messages[-1].content, UNSAFE if is_unsafe(row) else SAFE) for row in rows]


def score_categories(recipe: Recipe, engine: Engine, policy: Policy, rows: Sequence[Flagged]) -> dict[str, Any]:
    """Average precision by category, from a policy of it alone: against all others, and against rows without violation.

    A row for which the category is unknown is left out, and counted in "rows".
    """
    found = {}
    for category in policy.categories:
        known = [row for row in rows if category.key in row.flags]
        gold = np.array([row.flags[category.key] for row in known])
        if not gold.any():
            continue
        values = np.array(
            [row.probabilities[UNSAFE] for row in judge(recipe, engine, policy.only([category.key]), known, 0.5)]
        )
        benign = gold | ~np.array([is_unsafe(row) for row in known])
        found[category.key] = {
            "rows": len(known),
            "violated": int(gold.sum()),
            "against_all": _precision(gold, values),
            "against_benign": _precision(gold[benign], values[benign]),
        }
    return found


def _precision(gold: Any, values: Any) -> dict[str, float]:
    sampled = resampled_average_precision(gold, values, Draws(len(gold), SEED))
    return interval(average_precision(gold, values), sampled).as_dict()


def measure_sensitivity(recipe: Recipe, engine: Engine, policy: Policy, rows: Sequence[Flagged]) -> dict[str, Any]:
    """How far the score of unsafe rows falls when the rules they break are left out, and when another rule is.

    Both are means of paired differences with 95 % bootstrap intervals; a model that reads its policy has a large first
    one and a small second one.
    """
    draw = random.Random(f"{recipe.plan.seed} sensitivity")
    unsafe = [row for row in rows if is_unsafe(row) and not all(row.flags.get(key, False) for key in policy.keys)]
    if not unsafe:
        return {"rows": 0}
    prompts: list[Any] = []
    for row in shorten(recipe, base_of(recipe).tokenizer, unsafe):
        broken = [key for key in policy.keys if row.flags.get(key)]
        other = draw.choice([key for key in policy.keys if key not in broken])
        for left_out in ([], broken, [other]):
            kept = policy.only([key for key in policy.keys if key not in left_out])
            prompts.append(write_prompt(kept, row.messages, descriptions=recipe.descriptions))
    values_N3 = np.array(unsafe_scores(engine, prompts, recipe.score, "policy variants")).reshape(-1, 3)
    drops = {
        "broken_rules_left_out": values_N3[:, 0] - values_N3[:, 1],
        "other_rule_left_out": values_N3[:, 0] - values_N3[:, 2],
    }
    drops["difference"] = drops["broken_rules_left_out"] - drops["other_rule_left_out"]
    return {"rows": len(unsafe)} | {name: spread_mean(drop_N) for name, drop_N in drops.items()}
