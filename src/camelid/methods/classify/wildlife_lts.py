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
 Beside it, with `compare`: n / K rows of each cluster (with f's choice as in 4), and the rows f is least sure of.

Differs from the paper in:
 - F1 of the relevant class, from b = 0 (the authors: weighted F1, from 0.5, which a model that always says no exceeds).
 - The reward is "positives", because gains dry up once f is good. Training is on all accepted rows, not the last batch.
 - n = 20 and T = 25 (200 and 10): with no more rounds than clusters a bandit has nothing to exploit.
 - What is rolled back is gone: the authors' filter goes on with the rejected model. Clusters are passed over once.
 - Replies are read whole and without regard for case or a full stop; unreadable ones are no negatives.
 - f is logistic regression on frozen states of a LLaMA, or label supervision of it; the authors' is BERT.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

import numpy as np
from pydantic import Field

from camelid import bases, data, labelling, models, prediction, recipe
from camelid.annotation import annotate, choose, count_outcomes
from camelid.asking import ask_people
from camelid.bags import read_members
from camelid.chat import converse
from camelid.engines import Engine, Sampling, open_engine
from camelid.errors import UserError, raise_all
from camelid.evaluation import evaluate
from camelid.hidden import hidden_states
from camelid.parsing import Parsed
from camelid.reading import Reading, cut_texts
from camelid.rows import Judged, Labelled, Member, Predicted, iterate_rows
from camelid.runs import Run

OURS, RANDOM, UNSURE = "bandit", "random by cluster", "least sure"
CLASSES = ["other", "relevant"]
RARE = 2  # negatives to a positive from which on they are undersampled and weighted
WEIGHTS = {0: 0.2, 1: 0.8}
SVD = 80  # numbers of a text as TF-IDF


class Pool(recipe.Values):
    """Where the rows come from."""

    train: str = Field(default="", description="the pool: file, named set, set:split or hub:<dataset id>")
    test: str | None = Field(default=None, description="labelled rows: some for V, the rest for the scores")
    text: str = Field(default="text", description="column that holds the text")
    label: str = Field(default="label", description="column that holds the class")
    positive: tuple[str, ...] = Field(default=("1",), min_length=1, description="the relevant classes")
    missing: Literal["error", "drop"] = Field(default="error", description="what to do with rows that lack a text")
    validation_rows: int = Field(default=500, ge=2, description="rows of V, drawn from test with the seed")
    train_rows: int | None = Field(default=None, ge=1, description="use only so many rows of the pool")


class Recipe(recipe.Recipe):
    """Values of a run that learns what to label."""

    data: Pool = Field(default_factory=Pool)
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
    answers: Literal["score", "generate"] = Field(
        default="score", description="labeller engine: the likelier of the two words, or what it writes"
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
    compare: bool = Field(default=False, description="also sample at random by cluster, and what f is least sure of")


@dataclass(frozen=True)
class Study:
    """What every round needs: rows, features and clusters of the pool, V, and who labels and trains."""

    recipe: Recipe
    pool: list[Member]
    cluster_N: Any
    known: list[Member]
    label: Callable[[str, Sequence[int]], list[Judged]]
    fit: Callable[[str, Sequence[int], Sequence[bool]], Shares]


Shares = Callable[[str], Any]  # P(relevant) of all rows of "pool", "validation" or "test"


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
    waited: int = 0  # rounds without gain


@dataclass(frozen=True)
class Batch:
    """Rows of the pool to be labelled, the cluster they are for (None: all), and whether no cluster seemed relevant."""

    cluster: int | None
    rows: list[int]
    fell_back: bool = False


def check(recipe: Recipe) -> list[tuple[str, str]]:
    """What a run would do, as (name, value) lines; raises UserError with every problem, before any model loads."""
    problems = [UserError(*complaint) for complaint in _complaints(recipe)]
    try:
        pool, known, test, dropped = read_rows(recipe)
    except UserError as error:
        raise_all([*problems, *error.all()])
        raise
    raise_all(problems)
    calls = min(recipe.rounds * recipe.batch, recipe.most_calls or len(pool), len(pool))
    runs = 1 + 2 * recipe.compare
    return [
        ("rows", f"pool {len(pool):,}, validation {len(known):,}, test {len(test):,}"),
        ("relevant", f"{sum(row.positive is True for row in known)} of validation"),
        ("rows left out", ", ".join(f"{count:,} {why}" for why, count in dropped.items()) or "none"),
        ("labels", f"at most {calls:,} by {recipe.labeller}{f', {runs} times' if runs > 1 else ''}"),
        ("price", f"at most {calls * runs * recipe.price:.2f}"),
    ]


def run(recipe: Recipe, run: Run) -> None:
    """Rows, features, clusters, rounds of each way of sampling, the scores of what they learned."""
    found = cache(lambda: read_rows(recipe))
    pool, known = run.rows("train", lambda: found()[0]), run.rows("validation", lambda: found()[1])
    test = run.rows("test", lambda: found()[2])
    run.note("data", lambda: {"dropped": dict(found()[3]), "warnings": []})
    splits = {"pool": pool, "validation": known, "test": test}
    features = run.arrays("features", lambda: describe(recipe, splits))
    clusters = run.arrays("clusters", lambda: {"cluster": find_clusters(recipe, pool, features["pool"])})

    samplers = {OURS: draw_by_bandit} | ({RANDOM: draw_by_chance, UNSURE: draw_unsure} if recipe.compare else {})
    engine = cache(lambda: open_engine(recipe.engine, recipe.model))
    predictions, curves = {}, {}
    for name, sampler in samplers.items():
        slot = name.replace(" ", "-")
        label = labeller_of(recipe, run, slot, pool, engine)
        study = Study(recipe, pool, clusters["cluster"], known, label, trainer_of(recipe, run, slot, splits, features))
        final, trace = explore(study, sampler, test)
        curves[name] = trace
        run.scores(f"rounds {name}", lambda t=trace, s=final: describe_rounds(recipe, s, t))
        predictions[name] = run.rows(f"predictions/{slot}", lambda s=final: predict(s.shares, test))
    run.scores("curves", lambda: draw_curves(recipe, curves))
    found_labels = run.rows("labelled", lambda: export_labels(run, pool))
    run.note("labels", lambda: len(found_labels))
    run.scores("held_out", lambda: {"split": "test", **evaluate(predictions, CLASSES, OURS, "ranking", list(samplers))})


# Rows, step 1, features, step 2


def read_rows(recipe: Recipe) -> tuple[list[Member], list[Member], list[Member], Counter[str]]:
    """(pool, V, test, rows left out by reason). A named set brings its own test rows."""
    values, dropped = recipe.data, Counter[str]()
    if not values.train:
        raise UserError("no pool is named", "Add --data FILE, or --data with the name of a labelled set.")
    source = values.test or data.test_source(values.train)
    if not source:
        raise UserError("no labelled rows are named", "Add --test FILE: some of them judge each round's classifier.")
    columns: dict[str, Any] = {
        "text": values.text, "label": values.label, "positive": values.positive, "missing": values.missing
    }  # fmt: skip
    pool = read_members(values.train, dropped, **columns)
    known = [row for row in read_members(source, dropped, **columns) if row.positive is not None]
    draw = random.Random(f"{recipe.plan.seed} pool")
    if values.train_rows and values.train_rows < len(pool):
        pool = [pool[place] for place in sorted(draw.sample(range(len(pool)), values.train_rows))]
    chosen = set(draw.sample(range(len(known)), min(values.validation_rows, len(known) // 2)))
    validation = [row for place, row in enumerate(known) if place in chosen]
    test = [row for place, row in enumerate(known) if place not in chosen]
    for name, rows in (("validation", validation), ("test", test)):
        if {row.positive for row in rows} != {True, False}:
            raise UserError(
                f"the {name} rows are not of two classes", "Check data.positive, or give more labelled rows."
            )
    if recipe.labeller == "known" and any(row.positive is None for row in pool):
        raise UserError("labeller = known, and rows of the pool have no label", "Take another labeller.")
    return pool, validation, test, dropped


def clean(text: str) -> str:
    """Step 1."""
    return re.sub(r"[^0-9a-z]+", " ", text.lower()).strip()


def describe(recipe: Recipe, splits: dict[str, list[Member]]) -> dict[str, Any]:
    """Features of each split, computed once for all rounds."""
    texts = {name: [row.text for row in rows] for name, rows in splits.items()}
    if recipe.features == "embeddings":
        base = bases.open_base(recipe.model.base, recipe.model.revision)
        trunk = bases.load_trunk(base, bases.resolve_precision(recipe.plan.precision))
        found = {
            name: hidden_states(trunk, base.tokenizer, part, max_tokens=recipe.max_tokens, what=f"states of {name}")
            for name, part in texts.items()
        }
    else:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline

        words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2, preprocessor=clean)
        pipeline = make_pipeline(words, TruncatedSVD(SVD, random_state=recipe.plan.seed)).fit(texts["pool"])
        found = {name: pipeline.transform(part) for name, part in texts.items()}
    mean_D, std_D = found["pool"].mean(axis=0), found["pool"].std(axis=0)
    scaled = {name: (part - mean_D) / np.where(std_D > 0, std_D, 1.0) for name, part in found.items()}
    return {name: part.astype(np.float32) for name, part in scaled.items()}


def find_clusters(recipe: Recipe, pool: Sequence[Member], features_NP: Any) -> Any:
    """Step 2: a number from 0 for each row; clusters that nobody is in have none."""
    count = min(recipe.clusters, len(pool))
    if recipe.clustering == "kmeans":
        from sklearn.cluster import KMeans

        found_N = KMeans(count, n_init="auto", random_state=recipe.plan.seed).fit_predict(features_NP)
    else:
        from sklearn.decomposition import LatentDirichletAllocation
        from sklearn.feature_extraction.text import CountVectorizer

        counts = CountVectorizer(preprocessor=clean, min_df=2, stop_words="english").fit_transform(
            [row.text for row in pool]
        )
        topics = LatentDirichletAllocation(count, random_state=recipe.plan.seed)
        found_N = topics.fit_transform(counts).argmax(axis=1)
    return np.unique(found_N, return_inverse=True)[1].astype(np.int64)


# Rounds: steps 3 to 9


def explore(
    study: Study, sampler: Callable[[Study, State, Any], Batch], test: Sequence[Member]
) -> tuple[State, list[dict[str, Any]]]:
    """All rounds, and what each did. The draws of a round depend on the seed and its number only."""
    recipe = study.recipe
    arms = int(study.cluster_N.max()) + 1
    state, trace = State((0.0,) * arms, (0.0,) * arms), []
    for number in range(recipe.rounds):
        draw = np.random.default_rng([recipe.plan.seed, number])
        batch = sampler(study, state, draw)
        left = (recipe.most_calls or len(study.pool)) - len(state.used)
        batch = replace(batch, rows=batch.rows[: max(0, left)])
        if not batch.rows or (recipe.patience and state.waited >= recipe.patience):
            break
        judged = study.label(f"round-{number:03d}", batch.rows)  # step 5
        state = learn(study, state, batch, judged, draw, f"round-{number:03d}")
        trace.append(report_round(study, state, batch, judged, test))
        if any(one.reply == "budget" for one in judged):
            break
    return state, trace


def draw_by_bandit(study: Study, state: State, draw: Any) -> Batch:
    """Steps 3 and 4."""
    theta_K = draw.beta(study.recipe.alpha + np.array(state.wins), study.recipe.beta + np.array(state.losses))
    clusters = [int(arm) for arm in np.argsort(-theta_K, kind="stable") if len(unused(study, state, int(arm)))]
    for arm in clusters:
        rows_N = unused(study, state, arm)
        if state.shares is None:
            return Batch(arm, pick(rows_N, study.recipe.batch, draw))
        likely_N = state.shares("pool")[rows_N] >= 0.5
        if likely_N.any():
            return Batch(arm, mix(rows_N, likely_N, study.recipe.batch, draw))
    if not clusters:
        return Batch(None, [])
    return Batch(clusters[0], pick(unused(study, state, clusters[0]), study.recipe.batch, draw), fell_back=True)


def draw_by_chance(study: Study, state: State, draw: Any) -> Batch:
    """The authors' baseline: the same number from each cluster."""
    arms = len(state.wins)
    chosen: list[int] = []
    for arm in range(arms):
        size = study.recipe.batch * (arm + 1) // arms - study.recipe.batch * arm // arms
        rows_N = unused(study, state, arm)
        if state.shares is None:
            chosen += pick(rows_N, size, draw)
        else:
            chosen += mix(rows_N, state.shares("pool")[rows_N] >= 0.5, size, draw)
    return Batch(None, chosen)


def draw_unsure(study: Study, state: State, draw: Any) -> Batch:
    """Uncertainty sampling (Lewis and Gale, 1994): what f puts nearest to one half; at first random rows."""
    rows_N = np.array(sorted(set(range(len(study.pool))) - state.used), dtype=int)
    if state.shares is None or not len(rows_N):
        return Batch(None, pick(rows_N, study.recipe.batch, draw))
    order = np.argsort(np.abs(state.shares("pool")[rows_N] - 0.5), kind="stable")
    return Batch(None, rows_N[order[: study.recipe.batch]].tolist())


def unused(study: Study, state: State, arm: int) -> Any:
    """Rows of the cluster that were not drawn yet."""
    rows_N = np.flatnonzero(study.cluster_N == arm)
    return rows_N[[row not in state.used for row in rows_N.tolist()]]


def pick(rows_N: Any, count: int, draw: Any) -> list[int]:
    """`count` of the rows at random, or all."""
    return draw.permutation(rows_N)[:count].tolist()


def mix(rows_N: Any, likely_N: Any, count: int, draw: Any) -> list[int]:
    """Up to half of `count` from the likely rows, filled up with others, in random order; more likely ones where others
    are too few."""
    likely, others = (pick(rows_N[chosen_N], len(rows_N), draw) for chosen_N in (likely_N, ~likely_N))
    half = max(count // 2, count - len(others))
    found = [*likely[:half], *others[: count - min(half, len(likely))]]
    return draw.permutation(np.array(found, dtype=int)).tolist()


def learn(study: Study, state: State, batch: Batch, judged: Sequence[Judged], draw: Any, name: str) -> State:
    """Steps 6 to 8."""
    recipe = study.recipe
    said = {row: bool(one.value) for row, one in zip(batch.rows, judged, strict=True) if one.outcome == "value"}
    before = list(state.told.values())
    told = state.told | said
    base = replace(state, used=state.used | set(batch.rows), told=told)
    old = state.accepted if recipe.learn_from == "accepted" else ()
    rows = list(dict.fromkeys([*old, *state.carried, *said]))
    shares, score = None, state.best
    if any(told[row] for row in rows):
        chosen = balance(rows, told, draw) if recipe.balance else rows
        if len({told[row] for row in chosen}) == 2:
            shares = study.fit(name, chosen, [told[row] for row in chosen])
            score = f1_on(shares("validation"), study.known)
    gained = shares is not None and score > state.best
    share = sum(said.values()) / len(said) if said else 0.0
    richer = share > (sum(before) / len(before) if before else 0.0)
    won = gained if recipe.reward == "gain" else richer
    if gained:
        accepted = tuple(dict.fromkeys([*state.accepted, *state.carried, *said]))
        base = replace(base, shares=shares, best=score, accepted=accepted, carried=(), waited=0)
    else:
        positives = [row for row, label in said.items() if label]
        carried = tuple(dict.fromkeys([*state.carried, *positives]))
        base = replace(base, carried=carried, waited=state.waited + 1)
    wins, losses = update(state.wins, state.losses, batch.cluster, won, recipe.decay)
    return replace(base, wins=wins, losses=losses)


def update(
    wins: Sequence[float], losses: Sequence[float], cluster: int | None, won: bool, decay: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Step 8: one more win or loss of the cluster, then the decay of all."""
    wins = [count + (arm == cluster and won) for arm, count in enumerate(wins)]
    losses = [count + (arm == cluster and not won) for arm, count in enumerate(losses)]
    return tuple(count * decay for count in wins), tuple(count * decay for count in losses)


def balance(rows: Sequence[int], told: dict[int, bool], draw: Any) -> list[int]:
    """All positives, and at most `RARE` times as many negatives, drawn at random; in the old order."""
    positives = [row for row in rows if told[row]]
    negatives = [row for row in rows if not told[row]]
    if len(negatives) > RARE * len(positives):
        negatives = pick(np.array(negatives), RARE * len(positives), draw)
    kept = {*positives, *negatives}
    return [row for row in rows if row in kept]


def f1_on(shares_N: Any, rows: Sequence[Member]) -> float:
    """F1 of the relevant class: 2 TP / (2 TP + FP + FN), 0 where nothing is found."""
    gold_N = np.array([row.positive for row in rows], dtype=bool)
    found_N = shares_N >= 0.5
    right = (gold_N & found_N).sum()
    return float(2 * right / max(gold_N.sum() + found_N.sum(), 1))


# Step 5: labellers


def labeller_of(
    recipe: Recipe, run: Run, slot: str, pool: Sequence[Member], engine: Callable[[], Engine]
) -> Callable[[str, Sequence[int]], list[Judged]]:
    """What labels the rows of a round and keeps the answers in the run; an answer that is there is not asked for."""

    def judge(rows: Sequence[Member]) -> list[Judged]:
        if recipe.labeller == "known":
            return [tell_known(recipe, row) for row in rows]
        if recipe.labeller == "ask":
            return ask_people(rows, {"y": (True, recipe.relevant), "n": (False, recipe.other)})
        texts = cut_texts(_tokenizer(recipe), [Labelled(row.id, row.origin, row.text, "") for row in rows], 512)
        shown = dict(zip((row.id for row in rows), texts, strict=True))
        return ask_engine(recipe, engine(), rows, shown)

    def label(name: str, rows: Sequence[int]) -> list[Judged]:
        chunk = 1 if recipe.labeller == "ask" else len(rows)
        chosen = [pool[row] for row in rows]
        path = run.map(f"rounds/{slot}/{name}", chosen, judge, chunk=chunk, total=len(rows), may_fail=True)
        return list(iterate_rows(path))  # type: ignore[arg-type]

    return label


def tell_known(recipe: Recipe, row: Member) -> Judged:
    """The row's own label, wrong as often as the recipe says; whether it is depends on the row only."""
    flips = recipe.flip_positive if row.positive else recipe.flip_negative
    wrong = random.Random(f"{recipe.plan.seed} flip {row.id}").random() < flips
    return Judged(row.id, row.origin, "value", bool(row.positive) != wrong, "known")


def ask_engine(recipe: Recipe, engine: Engine, rows: Sequence[Member], shown: dict[str, str]) -> list[Judged]:
    """The two words scored behind the prompt, or the reply read."""

    def prompt_of(row: Member) -> Any:
        return converse(write_prompt(recipe, shown[row.id]))

    if recipe.answers == "score":
        found = choose(engine, rows, prompt_of, {recipe.relevant: recipe.relevant, recipe.other: recipe.other}, what="")
        return [replace(one, value=one.value == recipe.relevant) if one.outcome == "value" else one for one in found]
    return annotate(
        engine, rows, prompt_of, lambda text: parse_word(text, recipe.relevant, recipe.other),
        sampling=Sampling(max_tokens=24), what="",
    )  # fmt: skip


def parse_word(text: str, relevant: str, other: str) -> Parsed:
    """The whole reply, without regard for case and a full stop: one word may be part of the other."""
    said = text.strip().rstrip(".").casefold()
    if said in (relevant.casefold(), other.casefold()):
        return Parsed("value", said == relevant.casefold())
    return Parsed("malformed", detail="is neither of the two words")


# Step 6: classifiers


def trainer_of(
    recipe: Recipe, run: Run, slot: str, splits: dict[str, list[Member]], features: dict[str, Any]
) -> Callable[[str, Sequence[int], Sequence[bool]], Shares]:
    """What trains f on rows of the pool and their labels, under the name of the round."""

    def fit_logistic(_: str, rows: Sequence[int], labels: Sequence[bool]) -> Shares:
        from sklearn.linear_model import LogisticRegression

        weights = [WEIGHTS[label] for label in labels] if _is_rare(labels) else None
        model = LogisticRegression(max_iter=1000).fit(features["pool"][list(rows)], labels, sample_weight=weights)
        return cache(lambda split: model.predict_proba(features[split])[:, 1])

    def fit_model(name: str, rows: Sequence[int], labels: Sequence[bool]) -> Shares:
        train = [_labelled(splits["pool"][row], label) for row, label in zip(rows, labels, strict=True)]
        known = [_labelled(row, bool(row.positive)) for row in splits["validation"]]
        base = bases.open_base(recipe.model.base, recipe.model.revision)
        reading = Reading(recipe.max_tokens)
        settings = {"kind": "label", "classes": CLASSES, "task": "labels", "pooling": "last", "sight": {}}
        folder = run.model(
            f"classifiers/{slot}/{name}",
            build=lambda: models.label_model(base, settings, recipe.plan, reading),
            fit=lambda model, place: labelling.fit(
                model, base.tokenizer, train, known, recipe.plan, place, balanced=_is_rare(labels)
            ),
        )

        def shares(split: str) -> Any:
            rows = [_labelled(row, bool(row.positive)) for row in splits[split]]
            found = prediction.predict_with(folder, rows)
            return np.array([row.probabilities[CLASSES[1]] for row in found])

        return cache(shares)

    return fit_logistic if recipe.classifier == "logistic" else fit_model


def _is_rare(labels: Sequence[bool]) -> bool:
    return sum(not label for label in labels) >= RARE * sum(labels)


def _labelled(row: Member, positive: bool) -> Labelled:
    return Labelled(row.id, row.origin, row.text, CLASSES[positive])


# What is told of the rounds


def report_round(
    study: Study, state: State, batch: Batch, judged: Sequence[Judged], test: Sequence[Member]
) -> dict[str, Any]:
    """One line of the trace."""
    return {
        "cluster": batch.cluster,
        "fell back": batch.fell_back,
        "labels": len(state.used),
        "relevant found": sum(state.told.values()),
        "truly relevant": sum(study.pool[row].positive is True for row in state.used),
        "outcomes": count_outcomes(judged),
        "F1 on validation": state.best,
        "accepted": state.waited == 0,
        "F1 on test": f1_on(state.shares("test"), test) if state.shares else 0.0,
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
    return {
        **{name: last.get(name, 0) for name in ("labels", "relevant found", "truly relevant", "F1 on test")},
        "cost": last.get("labels", 0) * recipe.price,
        "outcomes": dict(outcomes),
        "posterior mean of each cluster": means,
        "trace": trace,
    }


def draw_curves(recipe: Recipe, curves: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """F1 against labels, or against their price where they have one."""
    price = recipe.price or 1.0
    lines = {name: [[line["labels"] * price, line["F1 on test"]] for line in trace] for name, trace in curves.items()}
    return {"x": "price of the labels" if recipe.price else "labels", "y": "F1 of the relevant class", "lines": lines}


def predict(shares: Shares | None, rows: Sequence[Member]) -> list[Predicted]:
    """The last accepted classifier's word on each row; "other" for all where none ever was."""
    shares_N = shares("test") if shares else np.zeros(len(rows))
    return [
        Predicted(row.id, CLASSES[bool(row.positive)], CLASSES[share >= 0.5], {"other": 1 - share, "relevant": share})
        for row, share in zip(rows, shares_N.tolist(), strict=True)
    ]


def export_labels(run: Run, pool: Sequence[Member]) -> list[Labelled]:
    """Rows of the pool that ours had labelled, with what was said."""
    by_id = {row.id: row for row in pool}
    paths = sorted((run.folder / "rounds" / OURS).glob("*.jsonl"))
    judged: list[Any] = [one for path in paths for one in iterate_rows(path)]
    return [
        Labelled(one.id, one.origin, by_id[one.id].text, CLASSES[bool(one.value)])
        for one in judged
        if one.outcome == "value"
    ]


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


@cache
def _open_tokenizer(base: str, revision: str | None) -> Any:
    return bases.open_base(base, revision).tokenizer


def _tokenizer(recipe: Recipe) -> Any:
    return _open_tokenizer(recipe.model.base, recipe.model.revision)


# Prompts, in our own words


def write_prompt(recipe: Recipe, text: str) -> str:
    """The task, the two words, and the text last, on a line of its own."""
    flat = " ".join(text.split())
    return (
        f"{recipe.task.strip()}\n\nReply with {recipe.relevant} or {recipe.other}, and nothing else.\n\n"
        f"Text: {flat}\nLabel:"
    )
