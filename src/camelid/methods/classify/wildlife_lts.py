"""A classifier for a rare class in a large unlabelled pool: a bandit picks what is labelled next, at a price (LTS).

Juliana Barbosa et al., "A Cost-Effective LLM-based Approach to Identify Wildlife Trafficking in Online Marketplaces"
(Learn to Sample), 2025, arXiv 2504.21211 (SIGMOD 2025).

Problem. Somebody has a pool of texts of which few are relevant, a small labelled set, and a labeller that costs money
for each text (a language model, or a person). What should be labelled, so that a small classifier finds the rest?

Algorithm. Pool U in K clusters, labelled set V, batches of n, classifier f, best score b, wins W_k and losses L_k = 0.
 1. Texts are cleaned: lower case, letters, digits and single spaces only.
 2. The pool is clustered once: k-means on frozen features, or the leading topic of latent Dirichlet allocation.
 3. Each round draws theta_k ~ Beta(alpha + W_k, beta + L_k); the cluster is the largest that has unused rows.
 4. Batch: before f was accepted n random unused rows of the cluster; then up to n / 2 that f finds relevant, and
    others. A cluster without relevant ones is passed over; if all are, n random rows of the first one.
 5. The labeller says "relevant" or not of each. What cannot be read stays unlabelled, has its price, and is not drawn
    again.
 6. f is trained on accepted rows, positives carried over from rejected rounds, and the batch. More than two negatives
    to a positive are undersampled (`balance`); where they were, positives weigh 0.8 and negatives 0.2. No positive: no
    training.
 7. s = F1 of f on V. r = s - b > 0: f and its rows are accepted, b = s. Otherwise f is rolled back, and the positives
    of the round are carried over.
 8. The cluster wins if r > 0 ("gain"), or if the batch had a larger share of positives than all before ("positives");
    else it loses. Then all W and L are multiplied by the decay.
 9. Stop after T rounds, at `most_calls`, or after `patience` rounds without gain.
 Beside it, with `compare`: random rows, n / K rows of each cluster (with f's choice as in 4), and those f is least
 sure of.

Differs from the paper in:
 - F1 of the relevant class, from b = 0 (the authors: weighted F1, from 0.5, which a model that always says no exceeds).
 - The reward is "positives", because gains dry up once f is good. Training is on all accepted rows, not the last batch.
 - n = 20 and T = 25 (200 and 10): with no more rounds than clusters a bandit has nothing to exploit.
 - What is rolled back is gone: the authors' filter goes on with the rejected model. Clusters are passed over once.
 - Replies are read whole and without regard for case or a full stop; unreadable ones are no negatives, but with
   `answers = "exact"`, the authors' way.
 - Each f is trained anew; the authors' goes on from the last accepted one. Label supervision weighs a rare class by how
   rare it is, not by 0.8.
 - f is logistic regression on frozen states of a LLaMA, or label supervision of it; the authors' is BERT.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Literal

import numpy as np
from pydantic import Field

from camelid import active_learning, bases, features, pools, recipe
from camelid.active_learning import CLASSES, Fit, Pile, Shares, Strategy, f1_of_relevant, mix, pick
from camelid.annotation import count_outcomes
from camelid.asking import ask_people
from camelid.chat import converse
from camelid.engines import Engine, open_engine
from camelid.errors import UserError, raise_all, try_all
from camelid.evaluation import evaluate
from camelid.forecast import tell_dropped
from camelid.labellers import (
    Answers,
    Words,
    ask_model,
    count_paid,
    export_labels,
    is_out_of_budget,
    keep_labels,
    tell_known,
)
from camelid.pools import Pool, PoolData, read_pool
from camelid.prediction import tell_shares
from camelid.reading import cut_texts
from camelid.rows import Judged, Labelled, Member
from camelid.runs import Run, slug

OURS, RANDOM, BY_CLUSTER, UNSURE = "bandit", "random", "random by cluster", "least sure"
RARE = 2  # negatives to a positive from which on they are undersampled and weighted
WEIGHTS = {False: 0.2, True: 0.8}
SVD = 80  # numbers of a text as TF-IDF
SHOWN = 512  # tokens of a text that a model is asked about


class Recipe(recipe.Recipe):
    """Values of a run that learns what to label."""

    data: PoolData = Field(default_factory=PoolData)
    plan: recipe.Plan = Field(default_factory=recipe.Plan)
    engine: recipe.Engine = Field(default_factory=recipe.Engine)
    labeller: Literal["engine", "known", "ask"] = Field(
        default="engine", description="who labels: the model of [engine], the pool's own labels, or you at the terminal"
    )
    flip_positive: float = Field(default=0.0, ge=0, lt=1, description="labeller known: share of positives told wrong")
    flip_negative: float = Field(default=0.0, ge=0, lt=1, description="labeller known: share of others told wrong")
    task: str = Field(default="", description="labeller engine: what is relevant, with exclusions and examples")
    relevant: str = Field(default="relevant", description="labeller engine: its word for relevant texts")
    other: str = Field(default="not relevant", description="labeller engine: its word for all others")
    answers: Answers = Field(
        default="score",
        description="labeller engine: the likelier of the two words; what it writes, if that is one of them; or exact: "
        "what it writes, not relevant unless it is that word to the letter (paper)",
    )
    price: float = Field(default=0.0, ge=0, description="what one label costs, for the report")
    features: Literal["embeddings", "tfidf"] = Field(
        default="embeddings", description="of texts: mean last state of the frozen model, or TF-IDF in 80 numbers"
    )
    clusters: int = Field(default=10, ge=1, description="K (paper: 5 and 10)")
    clustering: Literal["kmeans", "lda"] = Field(default="kmeans", description="how the pool is clustered (paper: lda)")
    rounds: int = Field(default=25, ge=1, description="T (paper: 10)")
    batch: int = Field(default=20, ge=2, description="n: labels a round (paper: 200)")
    most_calls: int | None = Field(default=None, ge=1, description="stop at so many labels")
    patience: int | None = Field(default=None, ge=1, description="stop after so many rounds without gain")
    alpha: float = Field(default=0.5, gt=0, description="of the Beta distribution")
    beta: float = Field(default=0.5, gt=0, description="of the Beta distribution")
    decay: float = Field(default=0.99, gt=0, le=1, description="of wins and losses, each round")
    reward: Literal["positives", "gain"] = Field(default="positives", description="when a cluster wins (paper: gain)")
    learn_from: Literal["accepted", "batch"] = Field(
        default="accepted", description="train on all accepted rows too, or the last batch only (paper)"
    )
    balance: bool = Field(default=True, description="undersample negatives to two a positive")
    classifier: Literal["logistic", "label-supervision"] = Field(
        default="logistic", description="f: logistic regression on the features, or label supervision by [plan]"
    )
    max_tokens: int = Field(default=128, ge=2, description="longer texts are cut at their end")
    compare: bool = Field(default=False, description="also sample at random, by cluster, and what f is least sure of")


@dataclass(frozen=True)
class Study:
    """What every round needs: rows and clusters of the pool, V, and who labels and trains."""

    recipe: Recipe
    pool: list[Member]
    cluster_N: Any
    known: list[Member]
    label: Callable[[str, Sequence[int]], list[Judged]]
    fit: Fit


@dataclass(frozen=True)
class State:
    """What one round hands to the next; nothing in it is ever changed."""

    wins: tuple[float, ...]
    losses: tuple[float, ...]
    used: frozenset[int] = frozenset()
    told: dict[int, bool] = field(default_factory=dict)  # labels of rows that could be read
    accepted: tuple[int, ...] = ()
    carried: tuple[int, ...] = ()
    shares: Shares | None = None
    best: float = 0.0
    calls: int = 0  # labels that were paid for
    waited: int = 0  # rounds without gain


@dataclass(frozen=True)
class Batch:
    """Rows of the pool to be labelled, the cluster they are for (None: all), and whether no cluster seemed relevant."""

    cluster: int | None
    rows: list[int]
    fell_back: bool = False


Sampler = Callable[[Study, State, Any], Batch]


def check(recipe: Recipe) -> list[tuple[str, str]]:
    """What a run would do, as (name, value) lines; raises UserError with every problem, before any model loads."""
    looked, problems = try_all({"pool": lambda: read(recipe)}, _complaints(recipe))
    raise_all(problems)
    found: Pool = looked["pool"]
    calls = min(recipe.rounds * recipe.batch, recipe.most_calls or len(found.rows), len(found.rows))
    runs = len(samplers_of(recipe))
    return [
        ("rows", f"pool {len(found.rows):,}, validation {len(found.validation):,}, test {len(found.test):,}"),
        ("relevant", f"{sum(row.positive is True for row in found.validation)} of validation"),
        ("rows left out", tell_dropped(found.dropped)),
        ("labels", f"at most {calls:,} by {recipe.labeller}{f', {runs} times' if runs > 1 else ''}"),
        ("price", f"at most {calls * runs * recipe.price:.2f}"),
    ]


def run(recipe: Recipe, run: Run) -> None:
    """Rows, features, clusters, rounds of each way of sampling, the scores of what they learned."""
    found = cache(lambda: read(recipe))
    pool, known = run.rows("train", lambda: found().rows), run.rows("validation", lambda: found().validation)
    test = run.rows("test", lambda: found().test)
    run.note("data", lambda: {"dropped": found().dropped, "warnings": []})
    splits = {"pool": pool, "validation": known, "test": test}
    numbers = run.arrays("features", lambda: describe(recipe, splits))
    cluster_N = run.arrays("clusters", lambda: {"cluster": find_clusters(recipe, pool, numbers["pool"])})["cluster"]

    engine = cache(lambda: open_engine(recipe.engine, recipe.model))
    ask = partial(ask_labeller, recipe, engine)
    predictions, curves, said = {}, {}, {}
    for name, sampler in samplers_of(recipe).items():
        slot = slug(name)
        label = keep_labels(run, f"rounds/{slot}", pool, ask, said, one_by_one=recipe.labeller == "ask")
        fit = learner_of(recipe, run, slot, splits, numbers)
        state, curves[name] = explore(Study(recipe, pool, cluster_N, known, label, fit), sampler, test)
        run.scores(f"rounds {name}", lambda s=state, t=curves[name]: describe_rounds(recipe, s, t))
        shares_N = state.shares("test") if state.shares else np.zeros(len(test))  # nobody is relevant without one
        predictions[name] = run.rows(f"predictions/{slot}", lambda n=shares_N: tell_shares(test, n, CLASSES))
    run.scores("curves", lambda: active_learning.draw_curves(curves, recipe.price))
    labelled = run.rows("labelled", lambda: export_labels(run, f"rounds/{OURS}", pool, CLASSES))
    run.note("labels", lambda: len(labelled))
    run.scores("held_out", lambda: {"split": "test", **evaluate(predictions, CLASSES, OURS, "ranking", list(curves))})


def samplers_of(recipe: Recipe) -> dict[str, Sampler]:
    """The bandit and, for comparison, strategies that know no clusters' worth, by name."""
    known = {
        RANDOM: active_learning.draw_random,
        BY_CLUSTER: active_learning.draw_by_cluster,
        UNSURE: active_learning.draw_unsure,
    }
    others = known if recipe.compare else {}
    return {OURS: draw_by_bandit} | {name: partial(draw_without_bandit, strategy) for name, strategy in others.items()}


# Rows and step 1, features, step 2


def read(recipe: Recipe) -> Pool:
    """The pool, V and test rows."""
    found = read_pool(recipe.data, recipe.plan.seed)
    if recipe.labeller == "known" and any(row.positive is None for row in found.rows):
        raise UserError("labeller = known, and rows of the pool have no label", "Take another labeller.")
    return found


def clean(text: str) -> str:
    """Step 1."""
    return re.sub(r"[^0-9a-z]+", " ", text.lower()).strip()


def describe(recipe: Recipe, splits: dict[str, list[Member]]) -> features.Features:
    """Features of each split, computed once for all rounds."""
    if recipe.features == "tfidf":
        cleaned = {name: [clean(row.text) for row in rows] for name, rows in splits.items()}
        found = features.reduce_tfidf(cleaned, "pool", SVD, recipe.plan.seed)
    else:
        texts = {name: [row.text for row in rows] for name, rows in splits.items()}
        found = features.embed_splits(_base(recipe), recipe.plan.precision, texts, recipe.max_tokens)
    return features.standardise(found, "pool")


def find_clusters(recipe: Recipe, pool: Sequence[Member], features_NP: Any) -> Any:
    """Step 2: a number from 0 for each row; clusters that nobody is in have none."""
    if recipe.clustering == "kmeans":
        return pools.cluster_features(features_NP, recipe.clusters, recipe.plan.seed)
    return pools.cluster_topics([clean(row.text) for row in pool], recipe.clusters, recipe.plan.seed)


# Rounds: steps 3 to 9


def explore(study: Study, sampler: Sampler, test: Sequence[Member]) -> tuple[State, list[dict[str, Any]]]:
    """All rounds, and what each did. The draws of a round depend on the seed and its number only."""
    recipe = study.recipe
    arms = int(study.cluster_N.max()) + 1
    state, trace = State((0.0,) * arms, (0.0,) * arms), []
    for number in range(recipe.rounds):
        name, draw = f"round-{number:03d}", np.random.default_rng([recipe.plan.seed, number])
        batch = sampler(study, state, draw)
        left = (recipe.most_calls or len(study.pool)) - state.calls
        batch = replace(batch, rows=batch.rows[: max(0, left)])
        if not batch.rows or (recipe.patience and state.waited >= recipe.patience):
            break
        judged = study.label(name, batch.rows)  # step 5
        state = learn(study, state, batch, judged, draw, name)  # steps 6 to 8
        trace.append(report_round(study, state, batch, judged, test))
        if is_out_of_budget(judged):
            break
    return state, trace


def draw_by_bandit(study: Study, state: State, draw: Any) -> Batch:
    """Steps 3 and 4."""
    recipe, pile = study.recipe, Pile(study.cluster_N, state.used, state.shares)
    theta_K = draw.beta(recipe.alpha + np.array(state.wins), recipe.beta + np.array(state.losses))
    clusters = [int(arm) for arm in np.argsort(-theta_K, kind="stable") if len(pile.unused(int(arm)))]
    for arm in clusters:
        rows_N = pile.unused(arm)
        if state.shares is None:
            return Batch(arm, pick(rows_N, recipe.batch, draw))
        likely_N = pile.is_likely(rows_N)
        if likely_N.any():
            return Batch(arm, mix(rows_N, likely_N, recipe.batch, draw))
    if not clusters:
        return Batch(None, [])
    return Batch(clusters[0], pick(pile.unused(clusters[0]), recipe.batch, draw), fell_back=True)


def draw_without_bandit(strategy: Strategy, study: Study, state: State, draw: Any) -> Batch:
    """Rows of all clusters by a strategy that none of them can win."""
    pile = Pile(study.cluster_N, state.used, state.shares)
    return Batch(None, strategy(pile, study.recipe.batch, draw))


def learn(study: Study, state: State, batch: Batch, judged: Sequence[Judged], draw: Any, name: str) -> State:
    """Steps 6 to 8: train on the batch, keep f or roll it back, and reward the cluster."""
    recipe = study.recipe
    said = {row: bool(one.value) for row, one in zip(batch.rows, judged, strict=True) if one.outcome == "value"}
    fresh = tuple(dict.fromkeys([*state.carried, *said]))
    told = state.told | said
    shares = train_classifier(study, state, fresh, told, draw, name)
    score = f1_of_relevant(shares("validation"), study.known) if shares else 0.0
    gained = shares is not None and score > state.best
    won = gained if recipe.reward == "gain" else is_richer(said, state.told)
    wins, losses = update(state.wins, state.losses, batch.cluster, won, recipe.decay)
    used, calls = state.used | set(batch.rows), state.calls + count_paid(judged)
    after = replace(state, wins=wins, losses=losses, used=used, calls=calls, told=told)
    if gained:
        accepted = tuple(dict.fromkeys([*state.accepted, *fresh]))
        return replace(after, shares=shares, best=score, accepted=accepted, carried=(), waited=0)
    carried = tuple(row for row in fresh if told[row])
    return replace(after, carried=carried, waited=state.waited + 1)


def train_classifier(
    study: Study, state: State, fresh: Sequence[int], told: dict[int, bool], draw: Any, name: str
) -> Shares | None:
    """Step 6: f on accepted rows and fresh ones; None where one of the classes has no row."""
    old = state.accepted if study.recipe.learn_from == "accepted" else ()
    rows = list(dict.fromkeys([*old, *fresh]))
    if not any(told[row] for row in rows):
        return None
    chosen = active_learning.undersample(rows, told, RARE, draw) if study.recipe.balance else rows
    labels = [told[row] for row in chosen]
    return study.fit(name, chosen, labels) if len(set(labels)) == 2 else None


def is_richer(said: dict[int, bool], before: dict[int, bool]) -> bool:
    """Whether a batch has a larger share of positives than all before together."""
    share, past = (sum(labels.values()) / max(len(labels), 1) for labels in (said, before))
    return share > past


def update(
    wins: Sequence[float], losses: Sequence[float], cluster: int | None, won: bool, decay: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Step 8: one more win or loss of the cluster, then the decay of all."""
    wins = [count + (arm == cluster and won) for arm, count in enumerate(wins)]
    losses = [count + (arm == cluster and not won) for arm, count in enumerate(losses)]
    return tuple(count * decay for count in wins), tuple(count * decay for count in losses)


# Step 5, and f


def ask_labeller(recipe: Recipe, engine: Callable[[], Engine], rows: Sequence[Member]) -> list[Judged]:
    """What the recipe's labeller says of the rows."""
    if recipe.labeller == "known":
        return tell_known(rows, recipe.flip_positive, recipe.flip_negative, recipe.plan.seed)
    if recipe.labeller == "ask":
        return ask_people(rows, {"y": (True, recipe.relevant), "n": (False, recipe.other)})
    texts = [Labelled(row.id, row.origin, row.text, "") for row in rows]
    shown = dict(zip([row.id for row in rows], cut_texts(_base(recipe).tokenizer, texts, SHOWN), strict=True))
    words = Words(recipe.relevant, recipe.other)
    return ask_model(engine(), rows, lambda row: converse(write_prompt(recipe, shown[row.id])), words, recipe.answers)


def learner_of(recipe: Recipe, run: Run, slot: str, splits: dict[str, list[Member]], numbers: dict[str, Any]) -> Fit:
    """What trains f on rows of the pool and their labels; step 6's weights where positives are rare among them."""
    if recipe.classifier == "logistic":
        return active_learning.logistic_learner(numbers, lambda labels: WEIGHTS if is_rare(labels) else None)
    return active_learning.model_learner(
        run, slot, partial(_base, recipe), splits, recipe.plan, recipe.max_tokens, is_rare
    )


def is_rare(labels: Sequence[bool]) -> bool:
    """Whether there are `RARE` negatives or more to a positive."""
    return sum(not label for label in labels) >= RARE * sum(labels)


# What is told of the rounds


def report_round(
    study: Study, state: State, batch: Batch, judged: Sequence[Judged], test: Sequence[Member]
) -> dict[str, Any]:
    """One line of the trace."""
    truths = [(told, study.pool[row].positive) for row, told in state.told.items()]
    checked = [told == positive for told, positive in truths if positive is not None]
    return {
        "cluster": batch.cluster,
        "fell back": batch.fell_back,
        "labels": state.calls,
        "relevant found": sum(state.told.values()),
        "truly relevant": sum(study.pool[row].positive is True for row in state.used),
        "labels that are right": sum(checked) / len(checked) if checked else None,
        "outcomes": count_outcomes(judged),
        "F1 on validation": state.best,
        "accepted": state.waited == 0,
        "F1 on test": f1_of_relevant(state.shares("test"), test) if state.shares else 0.0,
    }


def describe_rounds(recipe: Recipe, state: State, trace: list[dict[str, Any]]) -> dict[str, Any]:
    """Totals, what the clusters are worth (posterior means), and the trace."""
    outcomes = Counter[str]()
    for line in trace:
        outcomes.update(line["outcomes"])
    means = [
        (recipe.alpha + won) / (recipe.alpha + recipe.beta + won + lost)
        for won, lost in zip(state.wins, state.losses, strict=True)
    ]
    last = trace[-1] if trace else {}
    totals = ("labels", "relevant found", "truly relevant", "labels that are right", "F1 on test")
    return {
        **{name: last.get(name, 0) for name in totals},
        "cost": state.calls * recipe.price,
        "outcomes": dict(outcomes),
        "posterior mean of each cluster": means,
        "trace": trace,
    }


def _complaints(recipe: Recipe) -> list[tuple[str, str]]:
    """Fields that contradict each other, as (what, fix)."""
    found = []
    if recipe.labeller == "engine" and not recipe.task.strip():
        found.append(
            ("the labeller is not told what is relevant", "Add --task, a sentence or more, or --labeller ask.")
        )
    if recipe.relevant.strip().casefold() == recipe.other.strip().casefold():
        found.append(("relevant and other are the same word", "The labeller needs two."))
    if recipe.labeller != "known" and (recipe.flip_positive or recipe.flip_negative):
        found.append(("flip_positive and flip_negative are for labeller = known", "Leave them out."))
    return found


def _base(recipe: Recipe) -> bases.Base:
    return _open_base(recipe.model.base, recipe.model.revision)


@cache
def _open_base(base: str, revision: str | None) -> bases.Base:
    return bases.open_base(base, revision)


# Prompts, in our own words


def write_prompt(recipe: Recipe, text: str) -> str:
    """The task, the two words, and the text last, on a line of its own."""
    flat = " ".join(text.split())
    return (
        f"{recipe.task.strip()}\n\nReply with {recipe.relevant} or {recipe.other}, and nothing else.\n\n"
        f"Text: {flat}\nLabel:"
    )
