"""The win rate of one model's answers over another's, as a judge sees it, with the length of the answers taken out.

Yann Dubois et al., "Length-Controlled AlpacaEval: A Simple Way to Debias Automatic Evaluators", 2024, arXiv 2404.04475.

Problem. A model that judges pairs of answers likes longer ones, so whoever writes more ranks higher. What would the
win rate be if both answers were equally long?

Algorithm. Model m, baseline b, instructions i = 1..n, outputs o1 (of b) and o2 (of m).
 1. The judge sees both outputs in an order drawn from their content and names the better one by a mark, m or M.
    preference = 2 - p_m / (p_m + p_M), from 1 (b is better) to 2; 3 - preference where they were swapped.
 2. y = preference - 1; a tie is 0.5. Win rate 100 mean(y), its standard error 100 std(y) / sqrt(n); the discrete one
    counts y > 0.5 as a win and y = 0.5 as half of one.
 3. Length: D = len(o1) - len(o2) in characters, t = tanh(D / std(D)), not centred.
 4. Difficulty d_i: one published number an instruction, known by its place.
 5. P(y = 1) = sigmoid(w_len t + w_diff d + w_base). Paper: theta_m - theta_b + phi tanh(...) + (psi_m - psi_b) gamma.
 6. What pins w_len: rows of the baseline told to be verbose, and to be concise, against itself. They have no third
    feature, and the weight lambda / 2 each.
 7. Each row enters twice, as class 1 with weight v y and as class 0 with weight v (1 - y).
 8. min_w ||w||_1 - C sum_i v_i [y_i log p_i + (1 - y_i) log(1 - p_i)]; C is chosen by the likelihood of five folds,
    where both copies of a row are in one.
 9. LC win rate 100 mean_i sigmoid(w_diff d_i + w_base) over all rows, also those without a preference.
10. For the baseline itself all weights are 0, and the rate is 50.
11. Of any two models: 100 mean_i sigmoid(w_base - w_base' + (w_diff - w_diff') d_i).
12. A rate that length control moves far is flagged; so are models that answer everything alike.

Differs from the paper in:
 - Intervals: instructions are drawn anew and the weights fitted to them at the C of all; the paper's standard error,
   which knows only the spread over instructions, is there too.
 - Rows of step 6: the judge's preferences on them are published outside of the code. Where a file has none, those of
   largest entropy stand in, y = sigmoid(-1.837 t + 0.744 d), which have the two sums that alone enter the fit.
 - The judge's words are ours, and any model may judge. Equal outputs are a tie that nobody is asked about.
 - Judges, baselines and instructions are never mixed in one list.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from camelid import engines, forecast, recipe
from camelid.annotation import check_places, count_outcomes, count_places, count_turned, draw_order, weigh_pairs
from camelid.chat import converse
from camelid.data.formats import read_records
from camelid.engines import Choice
from camelid.errors import UserError
from camelid.logistic import fit_logistic, sigmoid
from camelid.metrics import SEED, Draws, Floats, interval, win_rates
from camelid.pairwise import (
    check_count,
    check_rows,
    count_missing,
    describe_sameness,
    digest_text,
    find_annotations,
    is_baseline,
    read_annotations,
    read_lengths,
    read_pairs,
    read_wins,
    warn_of,
)
from camelid.rows import Compared, Judged, Message, Pair
from camelid.runs import Run, slug

DIFFICULTY, GAMED, PUBLISHED = COMPANIONS = ("instruction_difficulty.json", "gamed_lengths.jsonl", "published.json")
LEAST = 30  # pairs: with fewer the weight of length is a guess
STYLES = ("verbose", "concise")
STAND_IN = (-1.83671, 0.744418)  # of t and d: the gamed rows of AlpacaEval 2 in largest entropy
SUMS, NEAR = (-182.71, 412.94), 1.0  # sum of t y and of d y over them, from the weights published for 56 models
SURE = 1e-15  # probabilities of a fold are kept so far from 0 and 1
MARKS = ("m", "M")  # of the output shown first and second

Boards = Mapping[str, Sequence[Compared]]


class Outputs(recipe.Values):
    """Outputs that are to be judged."""

    train: str = Field(default="", description="file of the model's outputs: .jsonl .json .csv .tsv .parquet")
    instruction: str = Field(default="instruction", description="column with the instruction, in both files")
    output: str = Field(default="output", description="column with the output, in both files")
    empty: Literal["error", "keep"] = Field(default="error", description="refuse empty outputs, or judge them too")


class Recipe(recipe.Recipe):
    """Values of a leaderboard. `model` is the judge, where outputs are judged by a local one."""

    data: Outputs = Field(default_factory=Outputs)
    engine: recipe.Engine = Field(default_factory=recipe.Engine)
    against: str = Field(default="", description="file of the baseline's outputs, for --data")
    annotations: str = Field(
        default="alpaca-eval",
        description="folder of annotation files to score, also one in CAMELID_DATA; not read where --data is given",
    )
    baseline: str = Field(
        default="gpt4_1106_preview", description="the baseline's name in annotation files that do not tell it"
    )
    variant: Literal["auto", "v1", "noreg", "minimal"] = Field(
        default="auto",
        description="v1 (paper); noreg: no gamed rows; minimal: no difficulty either. auto: v1, minimal for --data",
    )
    difficulty: str | None = Field(
        default=None, description=f"list of numbers, in JSON; {DIFFICULTY} beside the annotations when absent"
    )
    gamed: str | None = Field(
        default=None,
        description="rows of the gamed baseline: length_ and preference_ of verbose and concise, length_standard; "
        f"{GAMED} beside the annotations when absent",
    )
    gamed_weight: float = Field(default=0.2, gt=0, description="lambda: weight of the gamed rows (paper: 0.2)")
    folds: int = Field(default=5, ge=2, description="folds that choose C (paper: 5)")
    penalty: float | None = Field(
        default=None, gt=0, description="C; chosen of ten by the folds when absent, as in the paper"
    )
    resamples: int = Field(default=1000, ge=100, description="draws of the instructions for intervals (paper: none)")
    order: Literal["drawn", "both"] = Field(
        default="drawn", description="show two outputs in a drawn order (paper), or in both and take the mean"
    )


def check(recipe: Recipe) -> list[tuple[str, str]]:
    """What a run would do, as (name, value) lines; raises UserError with every problem, before any model loads."""
    if recipe.data.train:
        pairs = pairs_of(recipe)
        choices = [Choice(write_prompt(pair, order), MARKS) for pair in pairs for order in orders_of(recipe, pair)]
        facts = [
            ("model", f"{Path(recipe.data.train).stem} against {Path(recipe.against).stem}"),
            ("pairs", f"{len(pairs):,}, {sum(pair.first == pair.second for pair in pairs)} of them of equal outputs"),
            ("judge", f"{judge_of(recipe)}, {'in both orders' if recipe.order == 'both' else 'in a drawn order'}"),
            ("asked", forecast.forecast_choices(recipe.engine, recipe.model, choices)),
        ]
        return facts + describe_given(recipe, read_given(recipe, len(pairs)))
    found = boards_of(recipe)
    rows = next(iter(found.values()))
    missing = ", ".join(f"{name} {count}" for name, count in count_missing(found).items())
    return [
        ("models", f"{len(found)}: {', '.join(found)}"),
        ("rows", f"{len(rows):,} of each, against {rows[0].baseline}"),
        ("judge", rows[0].annotator or "the files do not tell"),
        ("no preference", missing or "none"),
        *describe_given(recipe, read_given(recipe, len(rows))),
        *(("warning", text) for text in warn_of(found, known_lengths(recipe))),
    ]


def run(recipe: Recipe, run: Run) -> None:
    """Judgements if need be, then preferences and lengths, the fits, their spread, the leaderboard and its matrix."""
    rows = judge(recipe, run) if recipe.data.train else None  # step 1
    rows = rows or run.rows("annotations", lambda: [row for rows in boards_of(recipe).values() for row in rows])
    found = {name: [row for row in rows if row.model == name] for name in dict.fromkeys(row.model for row in rows)}
    count = len(next(iter(found.values())))
    run.note("data", lambda: note_data(recipe, found))
    given = Given(**run.arrays("given", lambda: vars(read_given(recipe, count))))  # steps 4 and 6
    fits = fit_all(recipe, run, found, given)  # steps 2 to 8, and 10
    draws = Draws(count, SEED, recipe.resamples)
    drawn = {name: resample(recipe, run, found[name], given, fit, draws) for name, fit in fits.items()}
    rates = Rates(given.difficulty_N, draws)
    run.scores("leaderboard", lambda: rank(found, fits, drawn, rates))  # steps 2, 9 and 12
    run.scores("pairwise", lambda: tabulate_pairs(rows[0].baseline, fits, drawn, rates))  # step 11


def note_data(recipe: Recipe, found: Boards) -> dict[str, Any]:
    """Rows that the fit does without, and warnings, for the report."""
    dropped = {f"{name}: no preference, predicted all the same": n for name, n in count_missing(found).items()}
    return {"dropped": dropped, "warnings": warn_of(found, known_lengths(recipe))}


# Step 1: the judge


def pairs_of(recipe: Recipe) -> list[Pair]:
    """Both files' outputs, instruction by instruction; raises UserError where they cannot be compared."""
    values, names = recipe.data, (Path(recipe.data.train).stem, Path(recipe.against).stem)
    if not recipe.against:
        raise UserError("--data needs a file to compare with", "Add --against FILE with the baseline's outputs.")
    if names[0] == names[1]:
        raise UserError(f"both files are called {names[0]}, which is the model's name", "Rename one of them.")
    pairs = read_pairs(
        Path(values.train), Path(recipe.against), values.instruction, values.output, keep_empty=values.empty == "keep"
    )
    check_count(values.train, len(pairs), LEAST)
    different = sum(pair.first != pair.second for pair in pairs)
    if not different:
        raise UserError(f"{values.train} and {recipe.against} hold the same outputs", "There is nothing to judge.")
    if different < LEAST:
        what = f"{values.train} and {recipe.against} differ in {different} outputs, and length control needs {LEAST}"
        raise UserError(what, "Equal outputs are ties that tell nothing of length: compare more instructions.")
    return pairs


def orders_of(recipe: Recipe, pair: Pair) -> Sequence[bool]:
    """In which orders the judge sees a pair; True is the model's output first."""
    return (False, True) if recipe.order == "both" else (draw_order(pair.first, pair.second, pair.instruction),)


def judge(recipe: Recipe, run: Run) -> list[Compared]:
    """What the judge says of each pair of outputs, in the columns of an annotation file."""
    pairs = run.rows("pairs", lambda: pairs_of(recipe))
    ready = cache(lambda: engines.open_engine(recipe.engine, recipe.model))

    def ask(some: Sequence[Pair]) -> list[Judged]:
        asked = [pair for pair in some if pair.first != pair.second]
        orders = lambda pair: orders_of(recipe, pair)  # noqa: E731
        found = weigh_pairs(ready(), asked, write_prompt, MARKS, orders, what="") if asked else []
        by_id = {one.id: one for one in found}
        return [by_id.get(pair.id) or Judged(pair.id, pair.origin, "value", 0.5, "equal outputs") for pair in some]

    judged = run.map_rows("judged", pairs, ask)
    check_places(judged)
    run.scores("judge", lambda: describe_judge(judged))
    return run.rows("annotations", lambda: compare(recipe, pairs, judged))


def describe_judge(judged: Sequence[Judged]) -> dict[str, Any]:
    """What could be read, and how much the judge goes by places."""
    turned = count_turned(judged)
    return {
        "outcomes": count_outcomes(judged),
        "shown first and preferred": count_places(judged),
        **({"turns with the order": turned} if turned else {}),
    }


def compare(recipe: Recipe, pairs: Sequence[Pair], judged: Sequence[Judged]) -> list[Compared]:
    """Preferences and lengths; raises UserError where nothing can be told from them."""
    names = {"model": Path(recipe.data.train).stem, "baseline": Path(recipe.against).stem}
    rows = [
        Compared(
            pair.id, pair.origin, place, None if one.value is None else 1 + one.value, len(pair.first),
            len(pair.second), **names, annotator=judge_of(recipe), digest=digest_text(pair.second),
        )
        for place, (pair, one) in enumerate(zip(pairs, judged, strict=True))
    ]  # fmt: skip
    check_rows({names["model"]: rows}, LEAST)
    return rows


def judge_of(recipe: Recipe) -> str:
    """The judge's name: rates by different ones are not compared."""
    return recipe.engine.name if recipe.engine.kind == "remote" else recipe.model.base


def boards_of(recipe: Recipe) -> dict[str, list[Compared]]:
    """The rows of each annotation file by model; raises UserError for rows that cannot be fitted."""
    found = read_annotations(find_annotations(recipe.annotations, COMPANIONS)[1], recipe.baseline)
    check_rows(found, LEAST)
    return found


# Steps 3 to 6: features


def length_feature(difference_N: Floats) -> Floats:
    """t = tanh(D / std(D)), where D is the baseline's length minus the model's; not centred.

    Where all D are equal, as in some draw of instructions, length tells nothing: t is 0.
    """
    spread = np.std(difference_N, ddof=1)
    return np.tanh(difference_N / spread) if spread > 0 else np.zeros(len(difference_N))


@dataclass(frozen=True)
class Given:
    """What all models share: difficulty of each instruction, features and y of the gamed rows (steps 4 and 6)."""

    difficulty_N: Floats
    gamed_G3: Floats
    gamed_G: Floats


def variant_of(recipe: Recipe) -> str:
    """auto: instructions of one's own have no known difficulty."""
    return ("minimal" if recipe.data.train else "v1") if recipe.variant == "auto" else recipe.variant


def read_given(recipe: Recipe, count: int) -> Given:
    """What the variant needs; raises UserError where it is not there, or is of other instructions."""
    variant, no_rows = variant_of(recipe), (np.zeros((0, 3)), np.zeros(0))
    if variant == "minimal":
        return Given(np.zeros(count), *no_rows)
    difficulty_N = read_difficulty(companion(recipe, "difficulty", DIFFICULTY), count)
    return Given(difficulty_N, *(no_rows if variant == "noreg" else read_gamed(gamed_of(recipe), difficulty_N)))


def companion(recipe: Recipe, field: str, name: str) -> Path:
    """The file of a recipe's field, or that beside the annotations, or that of CAMELID_DATA/alpaca-eval."""
    if named := getattr(recipe, field):
        return Path(named)
    for source in ["alpaca-eval"] if recipe.data.train else [recipe.annotations, "alpaca-eval"]:
        try:
            path = find_annotations(source, COMPANIONS)[0] / name
        except UserError:
            continue
        if path.is_file():
            return path
    what = f"variant {variant_of(recipe)} needs {name}, which is neither beside the annotations nor in CAMELID_DATA"
    raise UserError(what, f"Name it with --{field}, or add --variant minimal, which is for instructions of your own.")


def gamed_of(recipe: Recipe) -> Path:
    return companion(recipe, "gamed", GAMED)


def known_lengths(recipe: Recipe) -> list[Any]:
    """Lengths of the outputs of the baseline that the gamed rows are of."""
    is_known = variant_of(recipe) == "v1"
    return [values.get("length_standard") for _, values in read_records(gamed_of(recipe))] if is_known else []


def read_difficulty(path: Path, count: int) -> Floats:
    """One number for each instruction, in their order."""
    try:
        difficulty_N = np.array(json.loads(path.read_text(encoding="utf-8")), dtype=float)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no list of numbers ({error})", "Write it as [0.1, -1.3, ...].") from error
    if difficulty_N.ndim != 1 or not np.isfinite(difficulty_N).all():
        raise UserError(f"{path} is no list of finite numbers", "Write it as [0.1, -1.3, ...].")
    if len(difficulty_N) != count:
        fix = "Difficulty goes by place. For other instructions than its own add --variant minimal, which needs none."
        raise UserError(f"{path} is of {len(difficulty_N)} instructions, and there are {count}", fix)
    return difficulty_N


def read_gamed(path: Path, difficulty_N: Floats) -> tuple[Floats, Floats]:
    """Features and y of the verbose and then the concise baseline against itself; the third feature is 0."""
    rows = [values for _, values in read_records(path)]
    if len(rows) != len(difficulty_N):
        what = f"{path} has {len(rows)} rows, and there are {len(difficulty_N)} instructions"
        raise UserError(what, "Take that of the same instructions, or add --variant noreg.")
    try:
        read = lambda column: np.array([row[column] for row in rows], dtype=float)  # noqa: E731
        t_G = np.concatenate([length_feature(read("length_standard") - read(f"length_{style}")) for style in STYLES])
        is_told = any(f"preference_{style}" in row for row in rows for style in STYLES)
        told_G = np.concatenate([read(f"preference_{style}") - 1 for style in STYLES]) if is_told else None
    except (KeyError, TypeError, ValueError) as error:
        wanted = "length_standard, length_verbose, length_concise, and all preferences (preference_verbose ...) or none"
        raise UserError(f"{path}: a row lacks a number ({error})", f"Each row has {wanted}.") from error
    d_G = np.tile(difficulty_N, len(STYLES))
    y_G = sigmoid(STAND_IN[0] * t_G + STAND_IN[1] * d_G) if told_G is None else told_G
    if not (np.isfinite(t_G).all() and ((y_G >= 0) & (y_G <= 1)).all()):
        raise UserError(
            f"{path} holds lengths or preferences that cannot be, or lacks some", "Preferences go from 1 to 2."
        )
    if told_G is None and max(abs(t_G @ y_G - SUMS[0]), abs(d_G @ y_G - SUMS[1])) > NEAR:
        what = f"{path} has no preferences, and is not of AlpacaEval 2, for which they can be made up"
        raise UserError(what, "Add preference_verbose and preference_concise, or take --variant noreg.")
    return np.stack([t_G, d_G, np.zeros_like(t_G)], axis=1), y_G


def describe_given(recipe: Recipe, given: Given) -> list[tuple[str, str]]:
    """What enters the fit beside a model's own rows."""
    told = "none" if variant_of(recipe) == "minimal" else f"of {len(given.difficulty_N):,} instructions"
    return [("variant", variant_of(recipe)), ("difficulty", told), ("gamed rows", f"{len(given.gamed_G):,}")]


def build_features(difference_N: Floats, difficulty_N: Floats) -> Floats:
    """Step 5: (t, d, 1) of each row."""
    return np.stack([length_feature(difference_N), difficulty_N, np.ones(len(difficulty_N))], axis=1)


def gather(x_N3: Floats, y_N: Floats, given: Given, gamed_weight: float) -> tuple[Floats, Floats, Floats]:
    """Step 6: (features, y, v) of the gamed rows and then of the rows that have a preference."""
    known_N = ~np.isnan(y_N)
    v_M = np.concatenate([np.full(len(given.gamed_G), gamed_weight / 2), np.ones(int(known_N.sum()))])
    return np.concatenate([given.gamed_G3, x_N3[known_N]]), np.concatenate([given.gamed_G, y_N[known_N]]), v_M


# Steps 7 and 8: the fit


@dataclass(frozen=True)
class Fit:
    """Weights of length, difficulty and base, and the C they were fitted with; C is 0 for the baseline itself."""

    weights: Floats
    penalty: float


def duplicate(x_M3: Floats, y_M: Floats, v_M: Floats) -> tuple[Floats, Any, Floats, Any]:
    """Step 7: (features, classes, weights, groups), each row as class 1 and then each as class 0."""
    classes, groups = np.repeat([1, 0], len(y_M)), np.tile(np.arange(len(y_M)), 2)
    return np.tile(x_M3, (2, 1)), classes, np.concatenate([v_M * y_M, v_M * (1 - y_M)]), groups


def score_fold(model: Any, x_M3: Floats, classes_M: Any, sample_weight: Floats) -> float:
    """Mean over rows of v [y log p + (1 - y) log(1 - p)]: both copies of a row are here, so each has half of it."""
    p_M = np.clip(model.predict_proba(x_M3)[:, 1], SURE, 1 - SURE)
    return 2 * float((sample_weight * np.where(classes_M == 1, np.log(p_M), np.log(1 - p_M))).mean())


def fit_glm(x_M3: Floats, y_M: Floats, v_M: Floats, folds: int = 5, penalty: float | None = None) -> Fit:
    """Step 8: the weights at the C that the folds choose of logspace(-4, 4, 10), or at the one given."""
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
    from sklearn.model_selection import GroupKFold

    x_D3, classes_D, weights_D, groups_D = duplicate(x_M3, y_M, v_M)
    values: dict[str, Any] = {"solver": "liblinear", "fit_intercept": False, "random_state": 123}
    if penalty is not None:
        model: Any = LogisticRegression(C=penalty, l1_ratio=1.0, **values)
        return Fit(model.fit(x_D3, classes_D, sample_weight=weights_D).coef_[0], penalty)
    values |= {"Cs": 10, "l1_ratios": (1.0,), "use_legacy_attributes": False, "scoring": score_fold}
    model = LogisticRegressionCV(cv=list(GroupKFold(folds).split(x_D3, groups=groups_D)), **values)
    model.fit(x_D3, classes_D, sample_weight=weights_D)
    return Fit(model.coef_[0], float(model.C_))


def fit_model(recipe: Recipe, rows: Sequence[Compared], given: Given) -> Fit:
    """The fit of one model; the baseline has none (step 10)."""
    if is_baseline(rows):
        return Fit(np.zeros(3), 0.0)
    x_N3 = build_features(read_lengths(rows), given.difficulty_N)
    return fit_glm(*gather(x_N3, read_wins(rows), given, recipe.gamed_weight), recipe.folds, recipe.penalty)


def fit_all(recipe: Recipe, run: Run, found: Boards, given: Given) -> dict[str, Fit]:
    """The fit of each model, which is one line of fits.jsonl."""

    def fit_some(some: Sequence[Judged]) -> list[Judged]:
        fits = [fit_model(recipe, found[one.id], given) for one in some]
        values = [{"weights": fit.weights.tolist(), "penalty": fit.penalty} for fit in fits]
        return [Judged(one.id, one.origin, "value", value, "") for one, value in zip(some, values, strict=True)]

    names = [Judged(name, rows[0].origin, "value", None, "") for name, rows in found.items()]
    lines = run.map_rows("fits", names, fit_some, chunk=1)
    return {one.id: Fit(np.array(one.value["weights"]), one.value["penalty"]) for one in lines}


def resample(recipe: Recipe, run: Run, rows: Sequence[Compared], given: Given, fit: Fit, draws: Draws) -> Floats:
    """weights_R3 fitted to each draw of the instructions, at the C of all; the gamed rows stay as they are."""
    difference_N, y_N = read_lengths(rows), read_wins(rows)

    def refit(draw: Any) -> Floats:
        x_N3 = build_features(difference_N[draw], given.difficulty_N[draw])
        return fit_logistic(*gather(x_N3, y_N[draw], given, recipe.gamed_weight), fit.penalty, start_P=fit.weights)

    def make() -> dict[str, Floats]:
        drawn = [np.zeros(3) if is_baseline(rows) else refit(draw) for draw in draws]
        return {"weights": np.stack(drawn)}

    return run.arrays(f"resampled/{slug(rows[0].model)}", make)["weights"]


# Steps 9 and 11: rates without the length


def controlled_rate(weights_3: Floats, difficulty_N: Floats, other_3: Floats | float = 0.0) -> float:
    """100 mean_i sigmoid(w_base + w_diff d_i), of the difference from the other's weights; length has no part in it."""
    _, difficulty, base = weights_3 - other_3
    return 100 * float(sigmoid(base + difficulty * difficulty_N).mean())


def controlled_error(weights_3: Floats, difficulty_N: Floats) -> float:
    """100 sem of the same: the spread over instructions only."""
    p_N = sigmoid(weights_3[2] + weights_3[1] * difficulty_N)
    return 100 * float(p_N.std(ddof=1)) / math.sqrt(len(p_N))


@dataclass(frozen=True)
class Rates:
    """Rates with their intervals: each draw has the difficulty of its own instructions."""

    difficulty_N: Floats
    draws: Draws

    def of(
        self, fit: Fit, drawn_R3: Floats, other: Fit | None = None, others_R3: Floats | None = None
    ) -> dict[str, float]:
        """{value, low, high} of a model against the baseline, or against another model on the same draws."""
        gaps_R3 = drawn_R3 if others_R3 is None else drawn_R3 - others_R3
        value = controlled_rate(fit.weights, self.difficulty_N, other.weights if other else 0.0)
        rates = [controlled_rate(gap_3, self.difficulty_N[draw]) for gap_3, draw in zip(gaps_R3, self.draws)]
        return interval(value, np.array(rates)).as_dict()


def rank(found: Boards, fits: Mapping[str, Fit], drawn: Mapping[str, Floats], rates: Rates) -> dict[str, Any]:
    """The leaderboard, best first: {metric, baseline, judge, rows, systems {name: rates, weights, flags}, verdict}."""
    lines = {name: describe(rows, fits[name], drawn[name], rates) for name, rows in found.items()}
    ordered = dict(sorted(lines.items(), key=lambda line: -line[1]["length_controlled_win_rate"]["value"]))
    some = next(iter(found.values()))
    return {
        "metric": "length_controlled_win_rate",
        "baseline": some[0].baseline,
        "judge": some[0].annotator,
        "rows": len(some),
        "systems": ordered,
        "verdict": tell_verdict(ordered, some[0].baseline),
    }


def describe(rows: Sequence[Compared], fit: Fit, drawn_R3: Floats, rates: Rates) -> dict[str, Any]:
    """The line of one model."""
    y_N = read_wins(rows)
    raw, controlled = win_rates(y_N[~np.isnan(y_N)]), rates.of(fit, drawn_R3)
    raw_R = np.array([100 * float(np.nanmean(y_N[draw])) for draw in rates.draws])
    return {
        "length_controlled_win_rate": controlled,
        "lc_standard_error": controlled_error(fit.weights, rates.difficulty_N),
        **raw,
        "win_rate": interval(raw["win_rate"], raw_R).as_dict(),
        "avg_length": int(np.mean([row.length_model for row in rows])),
        "preferences": int((~np.isnan(y_N)).sum()),
        "weights": dict(zip(("length", "difficulty", "base"), fit.weights.tolist(), strict=True)),
        "C": fit.penalty,
        "flags": [*flags_of(raw["win_rate"], controlled["value"], fit.weights), *describe_sameness(rows)],
    }


def tell_verdict(lines: Mapping[str, Any], baseline: str) -> str:
    """The first of the list, with and without the length, and what is odd about it."""
    name, line = next(iter(lines.items()))
    rate, raw = line["length_controlled_win_rate"], line["win_rate"]["value"]
    first = f"{name} is first of {len(lines)}" if len(lines) > 1 else name
    figures = f"{rate['value']:.1f} against {baseline} (95 % interval {rate['low']:.1f} to {rate['high']:.1f})"
    odd = f" Beware: {'; '.join(line['flags'])}." if line["flags"] else ""
    return f"{first}: length-controlled win rate {figures}, raw win rate {raw:.1f}.{odd}"


def tabulate_pairs(baseline: str, fits: Mapping[str, Fit], drawn: Mapping[str, Floats], rates: Rates) -> dict[str, Any]:
    """Step 11: {systems, rates {model: {other: rate}}}, the baseline among them, best first, with paired intervals."""
    known = {name: (fit, drawn[name]) for name, fit in fits.items()}
    known.setdefault(baseline, (Fit(np.zeros(3), 0.0), np.zeros((rates.draws.resamples, 3))))
    names = sorted(known, key=lambda name: -controlled_rate(known[name][0].weights, rates.difficulty_N))
    table = {one: {other: rates.of(*known[one], *known[other]) for other in names} for one in names}
    return {"systems": names, "rates": table}


# Step 12: what a reader should look at


def is_extreme(raw: float, controlled: float) -> bool:
    """Whether length control moved the rate by more than 10 points and more than a quarter of the way to 0 or 100."""
    return controlled < min(raw - raw / 4, raw - 10) or controlled > max(raw + (100 - raw) / 4, raw + 10)


def flags_of(raw: float, controlled: float, weights_3: Floats) -> list[str]:
    """What is odd about a fit, in words."""
    moved = [f"length control moved the rate from {raw:.1f} to {controlled:.1f}"] if is_extreme(raw, controlled) else []
    return moved + (["the judge prefers its shorter outputs"] if weights_3[0] > 0 else [])


# The judge's prompt, in our own words; the marks are the paper's


def write_prompt(pair: Pair, swapped: bool) -> tuple[Message, ...]:
    """Two outputs and the question which is better; the model's stands first where they are `swapped`."""
    shown = (pair.second, pair.first) if swapped else (pair.first, pair.second)
    entries = [{"model": mark, "output": text} for mark, text in zip(MARKS, shown, strict=True)]
    return converse(
        "Two language models answered the same instruction. You build a leaderboard of models, ranked as people would "
        "rank their answers, and you decide quickly and surely.\n\n"
        f"The instruction:\n{json.dumps({'instruction': pair.instruction}, ensure_ascii=False)}\n\n"
        "Their answers, in no particular order:\n"
        f"{json.dumps(entries, ensure_ascii=False, indent=1)}\n\n"
        f"Which answer would people prefer? Reply with its model, {MARKS[0]} or {MARKS[1]}, and nothing else."
    )
