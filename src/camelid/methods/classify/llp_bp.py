"""Labels of single rows from totals of groups: belief propagation makes pseudo labels, which a network learns (LLP-BP).

Shreyas Havaldar et al., "Learning from Label Proportions: Bootstrapping Supervised Learners via Belief Propagation",
2023, arXiv 2310.08056 (ICLR 2024).

Problem. Somebody knows only how many rows of each group are positive (privacy, surveys, aggregates) and wants to tell
single rows apart.

Algorithm. Rows x_i, i = 1..N, in disjoint bags S of which y_S = sum of y_i is known, y_i in {0, 1}.
 1. Graph: the k nearest rows of each by cosine of the covariates, as far as their distance is below delta; each pair
    once. K_ij = exp(-|e_i - e_j| / l).
 2. Gibbs distribution: P(y) ~ exp(-lambda_b sum_S (sum_{i in S} y_i - y_S)^2 - lambda_s sum_(i,j) K_ij (y_i - y_j)^2).
    As y^2 = y, that is one potential a row and one a pair of rows. "pairwise" writes a bag as pairs of its rows; by
    "cardinality" it is one factor of their number.
 3. Sum-product belief propagation gives the log-odds b_i of each y_i = 1.
 4. Pseudo labels: the y_S largest b_i of each bag ("project"), b_i >= 0 ("threshold"), or sigmoid(b_i) ("soft").
 5. A network learns them from x: a body gives h_i, a row's head s_i = sigmoid(w h_i + c), a bag's head q_S from the
    mean of its h_i. Loss = mean_i BCE(s_i, label_i) + lambda_a mean_S BCE(q_S, y_S / |S|).
 6. The covariates become h_i, and steps 1 to 5 are repeated, `refinements` times. Answers are s of the last network.
 Beside it, with `compare`: DLLP, the same network on BCE(mean s_i, y_S / |S|) alone; and, where labels are known, the
 same network on them.

Differs from the paper in:
 - Cardinality factors, starting messages that favour neither label, and projected labels are the defaults: in bags of
   more than about 8 rows messages of the paper's pairs do not settle, and miss the totals. `--scale paper` has its own.
 - lambda_b = lambda_s = 1 (paper: 10, at which messages oscillate too).
 - Covariates are standardised first, and l is the median distance of neighbours (paper: 1): as they are, states of a
   language model are so far apart that K is 0.
 - Texts are the mean last state of a frozen language model; numbers of a table are standardised.
 - Both losses in one network, as the paper tells; its released script trains on the pseudo labels only.
 - The last epoch is kept unless `plan.keep` says otherwise, by the totals of bags held out; the released code looks at
   labels of validation rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits

from camelid import bases, forecast, models, recipe
from camelid.bags import BagBatch, BagData, Bagged, bag_batches, hold_out_bags, read_bags, rows_of
from camelid.belief_propagation import Beliefs, Floats, Groups, Pairs, propagate
from camelid.errors import UserError, raise_all, try_all
from camelid.evaluation import evaluate
from camelid.features import describe_members
from camelid.networks import build_network, run_in_parts
from camelid.prediction import tell_shares
from camelid.ranking import auroc
from camelid.rows import Bag, Labelled, Member, Predicted
from camelid.runs import Run, slug
from camelid.training import train

OURS, REFINED, DLLP, SUPERVISED = "belief propagation", "refined beliefs", "bag shares (DLLP)", "full supervision"
CLASSES = ["negative", "positive"]
SETTLED = 1e-3  # nats: messages that change by no more have converged
PAIRWISE = 8  # rows of a bag from which on pairs of them do not settle


class Recipe(recipe.Recipe):
    """Values of a run on bags."""

    data: BagData = Field(default_factory=BagData)
    plan: recipe.Plan = Field(default_factory=recipe.Plan)
    max_tokens: int = Field(default=128, ge=1, description="longer texts are cut at their end")
    neighbours: int = Field(default=5, ge=1, description="k: nearest rows that are expected to have the same label")
    delta: float = Field(default=2.0, gt=0, le=2, description="cosine distance below which a neighbour counts (2: all)")
    without: int = Field(
        default=0,
        ge=0,
        description="leading principal components that covariates lose; those of texts tell style (paper: 0)",
    )
    length_scale: float | None = Field(
        default=None, gt=0, description="of the kernel; the median distance of neighbours when absent (paper: 1)"
    )
    lambda_s: float = Field(default=1.0, ge=0, description="weight of neighbours (paper: 10, tuned)")
    lambda_b: float = Field(default=1.0, ge=0, description="weight of the totals (paper: 10, tuned)")
    factors: Literal["cardinality", "pairwise"] = Field(
        default="cardinality", description="a bag as one factor of its total, or as pairs of rows (paper: pairwise)"
    )
    start: Literal["neutral", "zero"] = Field(default="neutral", description="first messages (paper: zero)")
    sweeps: int = Field(default=100, ge=1, description="most sweeps of belief propagation")
    damping: float = Field(default=0.5, ge=0, lt=1, description="share of the old message in the new one")
    labels: Literal["project", "threshold", "soft"] = Field(
        default="project", description="pseudo labels: as many as the total, by threshold (paper), or the belief itself"
    )
    threshold: float = Field(default=0.5, gt=0, lt=1, description="tau: belief from which labels=threshold says yes")
    lambda_a: float = Field(default=0.1, ge=0, description="weight of the bags in the network's loss")
    hidden: tuple[int, ...] = Field(
        default=(128,), min_length=1, description="widths of the network; the last is the embedding's (paper: ... 128)"
    )
    refinements: int = Field(default=1, ge=0, description="rounds with the network's embeddings as covariates")
    held_out_bags: float = Field(
        default=0.1, gt=0, lt=1, description="share of bags that only plan.keep and plan.patience look at"
    )
    compare: bool = Field(default=False, description="also train on bag shares alone, and on labels where known")


def check(recipe: Recipe) -> list[tuple[str, str]]:
    """What a run would do, as (name, value) lines; raises UserError with every problem, before any model loads."""
    looked, problems = try_all({"bags": lambda: read_bags(recipe.data, recipe.plan.seed)}, _complaints(recipe))
    if looked:
        problems += [UserError(*complaint) for complaint in _bag_complaints(recipe, looked["bags"].bags)]
    raise_all(problems)
    found: Bagged = looked["bags"]
    sizes = [len(bag.members) for bag in found.bags]
    positives = sum(bag.positives for bag in found.bags)
    texts = [row.text for row in [*found.members, *found.test]]
    return [
        ("rows", f"{sum(sizes):,} in {len(sizes):,} bags of {min(sizes)} to {max(sizes)}, test {len(found.test):,}"),
        ("positive", f"{positives:,} ({positives / sum(sizes):.1%})"),
        ("rows left out", forecast.tell_dropped(found.dropped)),
        ("pairs", f"at most {sum(sizes) * recipe.neighbours:,} of neighbours"),
        ("trainings", f"{1 + recipe.refinements + 2 * recipe.compare} of {recipe.plan.epochs} epochs"),
        *([("time", _time(recipe, texts))] if any(texts) else []),
        *(("warning", text) for text in found.warnings),
    ]


def run(recipe: Recipe, run: Run) -> None:
    """Bags, features, rounds of beliefs and network, predictions, scores."""
    found = cache(lambda: read_bags(recipe.data, recipe.plan.seed))
    members, bags = run.rows("train", lambda: found().members), run.rows("bags", lambda: found().bags)
    test = run.rows("test", lambda: found().test)
    run.note("data", lambda: {"dropped": found().dropped, "warnings": found().warnings})
    features = run.arrays("features", lambda: {"train": tell(recipe, members), "test": tell(recipe, test)})
    covariates_ND, systems, rounds = features["train"], {}, 1 + recipe.refinements
    learn = partial(train_network, recipe, run, bags, features["train"], partial(trace_origin, recipe, members))

    for number in range(rounds):
        name = f"round-{number}"
        believed = run.arrays(f"beliefs-{name}", lambda c=covariates_ND: believe(recipe, bags, c))  # steps 1 to 3
        labels_N = label_members(believed["log_odds"], bags, recipe.labels, recipe.threshold)  # step 4
        run.scores(f"beliefs {name}", lambda b=believed, n=labels_N: describe_beliefs(b, n, members, bags))
        slot = "model" if number == rounds - 1 else f"network-{name}"
        network = learn(slot, labels_N, aggregate_loss(recipe.lambda_a))  # step 5
        system = REFINED if number else OURS
        systems[system if number < 2 else f"{system} {number}"] = network
        if number < rounds - 1:
            covariates_ND = embed(network, features["train"])  # step 6

    ours = list(systems)[-1]
    if recipe.compare:
        systems |= train_others(learn, members)
    run.rows("predictions/members", lambda: predict(systems[ours], members, features["train"]))
    predictions = {
        name: run.rows(f"predictions/{slug(name)}", lambda n=network: predict(n, test, features["test"]))
        for name, network in (systems.items() if test else ())
    }
    if test:
        compare = partial(evaluate, predictions, CLASSES, ours, "separation", trained=systems, bounds=[SUPERVISED])
        run.scores("held_out", lambda: {"split": "test", **compare()})


def label_rows(folder: Path, rows: Sequence[Labelled], base: str | None) -> list[Predicted]:
    """What `camelid predict` says of texts."""
    values = recipe_of(folder)
    if models.load_handle(folder / "model", base)[1] is None:
        what = f"the model in {folder} reads numbers of a table, and texts are labelled here"
        raise UserError(what, "The labels of the bags' own members are in predictions/members.jsonl.")
    members = [Member(row.id, row.origin, row.text, (), "", None) for row in rows]
    return predict(folder / "model", members, tell(values, members, base))


def recipe_of(folder: Path) -> Recipe:
    return recipe.read_recipe(Recipe, folder / "recipe.toml")


def tell(recipe: Recipe, rows: Sequence[Member], base: str | None = None) -> Any:
    """numbers_NP of the rows."""
    return describe_members(recipe.model, recipe.plan.precision, rows, recipe.max_tokens, base)


# Steps 1 and 2: graph and potentials


def believe(recipe: Recipe, bags: Sequence[Bag], covariates_ND: Any) -> dict[str, Any]:
    """Steps 1 to 3: log-odds by member, and facts about graph and convergence."""
    first_E, second_E, kernel_E = connect(
        covariates_ND, recipe.neighbours, recipe.delta, recipe.length_scale, recipe.without
    )
    theta_N, pairs, groups = write_gibbs(
        bags, first_E, second_E, kernel_E, recipe.lambda_b, recipe.lambda_s, recipe.factors
    )
    found: Beliefs = propagate(
        theta_N, pairs, groups, sweeps=recipe.sweeps, damping=recipe.damping, neutral=recipe.start == "neutral"
    )
    kernel = float(np.median(kernel_E)) if len(kernel_E) else 0.0
    facts = [found.sweeps, found.change, len(kernel_E), kernel]
    return {"log_odds": found.log_odds_N, "facts": np.array(facts), "trace": np.array(found.trace)}


def connect(
    covariates_ND: Any, neighbours: int, delta: float, length: float | None = None, without: int = 0
) -> tuple[Any, Any, Floats]:
    """(first, second, K) of each pair of neighbours, first < second, once: Matern-1/2 of this length scale.

    Without a `length` it is the median distance of neighbours, so that K is e^-1 for half of them and more. Covariates
    are scaled to one variance, and lose their `without` leading principal components (Mu and Viswanath, 2018).
    """
    from sklearn.neighbors import NearestNeighbors

    centred_ND = np.asarray(covariates_ND, dtype=np.float64) - np.mean(covariates_ND, axis=0, dtype=np.float64)
    std_D = centred_ND.std(axis=0)
    scaled_ND = centred_ND / np.where(std_D > 0, std_D, 1.0)
    if without:
        leading_CD = np.linalg.eigh(scaled_ND.T @ scaled_ND)[1][:, ::-1][:, :without].T
        scaled_ND = scaled_ND - scaled_ND @ leading_CD.T @ leading_CD
    unit_ND = scaled_ND / np.maximum(np.linalg.norm(scaled_ND, axis=1, keepdims=True), 1e-12)
    near = NearestNeighbors(n_neighbors=min(neighbours + 1, len(unit_ND))).fit(unit_ND)
    distance_NK, index_NK = near.kneighbors(unit_ND)  # of unit vectors: sqrt(2 (1 - cosine))
    row_NK = np.broadcast_to(np.arange(len(unit_ND))[:, None], index_NK.shape)
    # of equal rows any may stand first, so a row leaves itself out by its number, and one more where it is not found
    rank_NK = np.cumsum(index_NK != row_NK, axis=1)
    kept_NK = (index_NK != row_NK) & (rank_NK <= neighbours) & (distance_NK**2 / 2 < delta)
    pairs_E2 = np.unique(np.sort(np.stack([row_NK[kept_NK], index_NK[kept_NK]], axis=1), axis=1), axis=0)
    first_E, second_E = pairs_E2.T
    distance_E = np.linalg.norm(scaled_ND[first_E] - scaled_ND[second_E], axis=1)
    scale = length or float(np.median(distance_E)) if len(distance_E) else 1.0
    return first_E, second_E, np.exp(-distance_E / (scale or 1.0))


def write_gibbs(
    bags: Sequence[Bag], first_E: Any, second_E: Any, kernel_E: Floats, lambda_b: float, lambda_s: float, factors: str
) -> tuple[Floats, Pairs, list[Groups]]:
    """The Gibbs distribution as potentials: of y_i = 1, of y_i = y_j = 1, and of the sums of groups.

    -lambda_s K (y_i - y_j)^2 = -lambda_s K (y_i + y_j) + 2 lambda_s K y_i y_j, and a bag likewise.
    """
    members = sum(len(bag.members) for bag in bags)
    theta_N = np.zeros(members)
    for side_E in (first_E, second_E):
        theta_N -= lambda_s * np.bincount(side_E, kernel_E, minlength=members)
    by_size: dict[int, tuple[list[Any], list[int]]] = {}
    start = 0
    for bag in bags:
        rows, totals = by_size.setdefault(len(bag.members), ([], []))
        rows.append(np.arange(start, start + len(bag.members)))
        totals.append(bag.positives)
        start += len(bag.members)
    sums = {size: (np.array(rows), np.array(totals)[:, None]) for size, (rows, totals) in by_size.items()}
    if factors == "cardinality":
        groups = [
            Groups(rows_GM, -lambda_b * np.square(np.arange(size + 1.0) - total_G1))
            for size, (rows_GM, total_G1) in sums.items()
        ]
        return theta_N, Pairs(first_E, second_E, 2 * lambda_s * kernel_E), groups
    pairs = [np.stack([first_E, second_E], axis=1)]
    for size, (rows_GM, total_G1) in sums.items():
        theta_N[rows_GM] -= lambda_b * (1 - 2 * total_G1)
        inside = np.stack(np.triu_indices(size, 1), axis=1)
        pairs.append(rows_GM[:, inside].reshape(-1, 2))
    values = [2 * lambda_s * kernel_E, np.full(sum(map(len, pairs[1:])), -2.0 * lambda_b)]
    pairs_E2, places = np.unique(np.concatenate(pairs), axis=0, return_inverse=True)  # both terms of a pair are added
    theta_E: Any = np.bincount(places.reshape(-1), np.concatenate(values), minlength=len(pairs_E2))
    return theta_N, Pairs(pairs_E2[:, 0], pairs_E2[:, 1], theta_E), []


# Step 4


def label_members(log_odds_N: Floats, bags: Sequence[Bag], labels: str, threshold: float = 0.5) -> Floats:
    """Pseudo labels from 0 to 1. "project": the y_S largest beliefs of each bag, ties to the lower index."""
    if labels == "soft":
        return Beliefs(log_odds_N, 0, 0.0).marginals
    if labels == "threshold":
        return (log_odds_N >= np.log(threshold / (1 - threshold))).astype(float)  # ties are positive
    label_N = np.zeros(len(log_odds_N))
    start = 0
    for bag in bags:
        own_M = log_odds_N[start : start + len(bag.members)]
        label_N[start + np.argsort(-own_M, kind="stable")[: bag.positives]] = 1
        start += len(bag.members)
    return label_N


def describe_beliefs(
    believed: dict[str, Any], labels_N: Floats, members: Sequence[Member], bags: Sequence[Bag]
) -> dict[str, Any]:
    """Convergence, how far pseudo labels miss the totals, and, where labels are known, how well beliefs tell them."""
    sweeps, change, pairs, kernel = believed["facts"].tolist()
    ends = np.cumsum([len(bag.members) for bag in bags])
    achieved = [part.sum() for part in np.split(labels_N, ends[:-1])]
    missed = np.abs(np.array(achieved) - [bag.positives for bag in bags])
    facts = {
        "sweeps": int(sweeps),
        "largest change of a message": change,
        "converged": change <= SETTLED,
        "pairs": int(pairs),
        "median kernel": kernel,
        "mean miss of a total": float(missed.mean()),
    }
    known = [row.positive for row in members]
    if None in known or len(set(known)) < 2:
        return facts
    gold_N = np.array(known, dtype=bool)
    share_N = np.repeat([bag.positives / len(bag.members) for bag in bags], [len(bag.members) for bag in bags])
    return facts | {
        "AUROC of beliefs": auroc(gold_N, believed["log_odds"]),
        "AUROC of bag shares": auroc(gold_N, share_N),
        "labels that are right": float(((labels_N >= 0.5) == gold_N).mean()),
    }


# Step 5


def train_network(
    recipe: Recipe,
    run: Run,
    bags: Sequence[Bag],
    numbers_NP: Any,
    origin: Callable[[], dict[str, Any]],
    name: str,
    labels_N: Any,
    objective: Objective,
) -> Path:
    """The folder of a network trained with `objective` on bags; some are held out where the plan looks at them."""
    plan = recipe.plan.model_copy(update={"precision": "float32"})  # so small a network gains nothing in bfloat16
    watched = plan.keep == "best" or plan.patience is not None
    every = np.arange(len(bags))
    learned, kept = hold_out_bags(len(bags), recipe.held_out_bags, plan.seed) if watched else (every, every[:0])

    def batches_of(numbers: Any) -> Any:
        rows_N = rows_of(bags, numbers)
        return bag_batches(numbers_NP[rows_N], labels_N[rows_N], [bags[number] for number in numbers], plan)

    def fit(model: Any, folder: Path) -> None:
        if not watched:
            train(model, batches_of(learned), objective, plan, folder=folder)
            return
        dev = batches_of(kept).collate(range(len(kept)))
        train(
            model, batches_of(learned), objective, plan, folder=folder,
            evaluate=lambda model: {"bag fit": -fit_of(model, dev)},
        )  # fmt: skip

    return run.model(
        name, build=lambda: build_network(numbers_NP, recipe.hidden, plan.seed, CLASSES, **origin()), fit=fit
    )


def fit_of(model: Any, batch: Any) -> float:
    """Cross-entropy of the bags' shares, in nats a bag."""
    with torch.inference_mode():
        return share_loss(model, batch)[0]["bags"].item() / batch.counts["bags"]


Objective = Callable[[Any, BagBatch], tuple[dict[str, Tensor], dict[str, float]]]


def aggregate_loss(weight: float) -> Objective:
    """Step 5's loss: of each row against its pseudo label, and `weight` times of each bag against its share."""

    def objective(model: Any, batch: BagBatch) -> tuple[dict[str, Tensor], dict[str, float]]:
        embedded_BMD = model.embed(batch.numbers_BMP)
        own = model.tell_instances(embedded_BMD)
        of_bags = binary_cross_entropy_with_logits(
            model.tell_bags(embedded_BMD, batch.mask_BM), batch.shares_B, reduction="sum"
        )
        return {"loss": _over_members(own, batch), "bags": weight * of_bags}, {}

    return objective


def label_loss(model: Any, batch: BagBatch) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Cross-entropy of each row against its label."""
    return {"loss": _over_members(model(batch.numbers_BMP), batch)}, {}


def share_loss(model: Any, batch: BagBatch) -> tuple[dict[str, Tensor], dict[str, float]]:
    """DLLP (Ardehaly and Culotta, 2017): cross-entropy of each bag's share against the mean of its rows' answers."""
    answers_BM = model(batch.numbers_BMP).sigmoid() * batch.mask_BM
    mean_B = (answers_BM.sum(dim=1) / batch.mask_BM.sum(dim=1)).clamp(1e-6, 1 - 1e-6)
    return {"bags": binary_cross_entropy(mean_B, batch.shares_B, reduction="sum")}, {}


def _over_members(logits_BM: Tensor, batch: BagBatch) -> Tensor:
    each_BM = binary_cross_entropy_with_logits(logits_BM, batch.labels_BM, reduction="none")
    return (each_BM * batch.mask_BM).sum()


# Step 6 and answers


def embed(network: Path, numbers_NP: Any) -> Any:
    """The network's embeddings of all rows."""
    return run_in_parts(models.load_handle(network)[0].embed, numbers_NP).numpy()


def predict(network: Path, rows: Sequence[Member], numbers_NP: Any) -> list[Predicted]:
    """The probability of "positive" for each row; gold where it is known."""
    logits_N = run_in_parts(models.load_handle(network)[0], numbers_NP)
    return tell_shares(rows, logits_N.double().sigmoid(), CLASSES)


def train_others(learn: Callable[[str, Any, Objective], Path], members: Sequence[Member]) -> dict[str, Path]:
    """The same network on bag shares alone, and on labels where all are known."""
    found = {DLLP: learn(slug(DLLP), np.zeros(len(members)), share_loss)}
    known = [row.positive for row in members]
    if None not in known:
        found[SUPERVISED] = learn(slug(SUPERVISED), np.array(known, dtype=float), label_loss)
    return found


def trace_origin(recipe: Recipe, members: Sequence[Member]) -> dict[str, Any]:
    """The base whose states the network's numbers are; nothing for numbers of a table, whoever read it."""
    if not members[0].text:
        return {}
    base = bases.open_base(recipe.model.base, recipe.model.revision)
    return {"base": base.spec, "revision": base.revision, "base_sha256": bases.fingerprint(base)}


def _complaints(recipe: Recipe) -> list[tuple[str, str]]:
    """Fields that contradict each other, as (what, fix)."""
    found = []
    if recipe.data.features and recipe.data.text != "text":
        found.append(("data.features and data.text cannot both be read", "Leave one out."))
    if recipe.plan.tuning == "full":
        found.append(("plan.tuning = full: the language model is frozen here", "Leave it out."))
    return found


def _bag_complaints(recipe: Recipe, bags: Sequence[Bag]) -> list[tuple[str, str]]:
    """What these bags are too large or too few for."""
    found = []
    if recipe.factors == "pairwise" and max(len(bag.members) for bag in bags) > PAIRWISE:
        fix = "Leave it out: cardinality is exact inside a bag."
        found.append((f"factors = pairwise does not settle in bags of more than about {PAIRWISE} rows", fix))
    if len(bags) < 2 and (recipe.plan.keep == "best" or recipe.plan.patience is not None):
        found.append(
            ("plan.keep and plan.patience look at a bag that is held out, and there is one", "Leave them out.")
        )
    return found


def _time(recipe: Recipe, texts: Sequence[str]) -> str:
    """Of the states of the frozen model, which is nearly all."""
    base = bases.open_base(recipe.model.base, recipe.model.revision)
    ids = base.tokenizer(list(texts), verbose=False)["input_ids"]
    tokens = sum(min(len(one), recipe.max_tokens) for one in ids)
    minutes = forecast.estimate_minutes(bases.parameter_count(base.config), recipe.plan.precision, tokens)
    return f"about {minutes} min for the states of {tokens:,} tokens, and networks on top"
