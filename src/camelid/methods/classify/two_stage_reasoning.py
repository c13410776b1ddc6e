"""A classifier that writes its reasons before the label, learned from reasons that a second model made up for each row.

Mads Henrichsen, "Two-Stage Reasoning-Infused Learning: Improving Classification with LLM-Generated Reasoning", 2025,
arXiv 2507.00214.

Problem. Labelled texts say what is right and not why. A small model that is to answer at once has no room to think; one
that has read reasons for every training row writes them itself and then the label, so that each answer is explained.

Algorithm. Question or text Q, answer or label A, reasoning R (tokens r_t), end of the turn E.
 1. Generator: rows (Q, A, R) of general problems (mathematics, code, logic); no row of the task is needed.
 2. It learns R from Q and A: L1 = -(1/|R|) sum_t log p(r_t | Q, A, r_<t), with no loss on Q and A, and with loss on E.
 3. Augmentation: for every training row of the task, whose label is known, draw R ~ p(. | Q, A) and keep it if it is
    whole and neither too short nor too long. Never for dev or test rows: R is written from the label.
 4. Student: a fresh copy of the base learns Q -> R A: L2 = -sum log p(token | Q, tokens before) over R, a marker, A and
    E. R stands on one line; the last line is the marker and the label ("Label: joy").
 5. Baseline: the same copy, rows, prompt and plan, Q -> A: the last line alone.
 6. Answer: decode from Q, greedily; the label is what follows the last marker, and what stands before is the reason.
 7. Accuracy (what cannot be read is wrong), accuracy by class, and McNemar's test between the two students.
 Beside them, because it costs least: a label head on the same base and rows, which writes nothing.

Differs from the paper in:
 - Marker, prompts, learning rate, decoding and rules for what is kept are not in the paper; they are ours.
 - The built-in rows of step 1 are made by templates (`puzzles`). `--generator.rows gsm8k` has rows that people wrote;
   the paper has 350,000.
 - The answer is "unknown" in a tenth of those rows, so that it can be measured whether the generator reads it.
 - A drawing cut off at the limit is kept up to its last whole sentence. A row without a reason stays a plain row.
 - p of McNemar's test is exact; the statistic with continuity correction stands beside it.
 - Weight of the label, reductions, consistency check, scored labels and votes are options the paper does not have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from camelid import baselines, bases, chat, data, engines, forecast, labelling, models, prediction, rationales, recipe
from camelid.annotation import sample_votes, softmax
from camelid.batches import Tokens, count_rows
from camelid.data import Splits
from camelid.engines import Engine, Question, Sampling
from camelid.errors import UserError, raise_all, try_all
from camelid.evaluation import contrast_classes, evaluate
from camelid.metrics import mcnemar, mcnemar_statistic
from camelid.objectives import cross_entropy
from camelid.parsing import parse_marked, text_before
from camelid.rationales import UNKNOWN, Drawing, Generator, Sieve, one_line
from camelid.reading import cut_texts, pad_id, tell_answer
from camelid.rows import Explained, Judged, Labelled, Message, Predicted, Reasoned, iterate_rows
from camelid.runs import Run, slug
from camelid.sampling import sample
from camelid.scoring import score
from camelid.training import complain_of_plan, train

Messages = tuple[Message, ...]
OURS, PLAIN, HEAD = "reasoning, then label", "label alone", "label supervision"
UNREAD = "(no label)"  # what a reply without a label predicts


class Recipe(recipe.Recipe):
    """Values of a run of both stages."""

    data: recipe.Data = Field(default_factory=recipe.Data)
    plan: recipe.Plan = Field(default_factory=recipe.Plan)
    engine: recipe.Engine = Field(default_factory=recipe.Engine)
    generator: Generator = Field(default_factory=Generator)
    instruction: str = Field(
        default="Which of these labels fits the text: {labels}?", description="what is asked of a text, the same of all"
    )
    marker: str = Field(default="Label:", min_length=1, description="stands before the label (paper: not said)")
    max_tokens: int = Field(default=128, ge=2, description="longer texts are cut at their end")
    reasoning_tokens: int = Field(default=64, ge=1, description="longest reasoning that is kept, and that is written")
    least_tokens: int = Field(default=5, ge=1, description="shortest reasoning that is kept")
    reasonings: int = Field(default=1, ge=1, description="reasonings a training row; each makes a row (paper: 1)")
    tries: int = Field(default=4, ge=1, description="drawings until a row has its reasonings")
    temperature: float = Field(default=0.7, ge=0, description="of the generator, and of votes (paper: not said)")
    top_p: float = Field(default=0.95, gt=0, le=1, description="of the generator, and of votes (paper: not said)")
    check_label: bool = Field(
        default=False, description="keep a reasoning only if the untuned base finds its label likeliest after it"
    )
    label_weight: float = Field(default=1.0, gt=0, description="weight of the label's tokens in the students' loss")
    reduction: Literal["tokens", "rows", "sums"] = Field(
        default="tokens", description="loss a token, a row's mean a row, or a row's sum a row"
    )
    answers: Literal["generate", "score"] = Field(
        default="generate", description="read the label that is written, or take the likeliest after the reasoning"
    )
    force_label: bool = Field(default=False, description="score the labels where none can be read")
    votes: int = Field(default=1, ge=1, description="replies a row, of which the commonest label counts (paper: 1)")
    supervise: bool = Field(default=True, description="also train a label head on the same base and rows")
    compare: bool = Field(default=False, description="also score majority and TF-IDF on the same rows")


def check(recipe: Recipe) -> list[tuple[str, str]]:
    """What a run would do, as (name, value) lines; raises UserError with every problem, before any model loads."""
    looks = {
        "splits": lambda: read(recipe),
        "base": lambda: open_base(recipe),
        "given": lambda: rationales.read_given(recipe.generator),
    }
    found, problems = try_all(looks, complaints(recipe))
    raise_all(problems)
    return describe(recipe, **found)


def run(recipe: Recipe, run: Run) -> None:
    """Rows, the generator, reasons for the training rows, the two students, the head, and their scores."""
    rows = labelling.keep_splits(run, lambda: read(recipe))
    classes, held_out = data.labels_of(rows.train), rows.test or rows.dev

    reasoned = augment(recipe, run, rows.train, "train", classes)  # steps 1 to 3
    plain = [Reasoned(row.id, row.origin, row.text, row.label, "") for row in rows.train]
    students = {OURS: ("model", reasoned), PLAIN: (slug(PLAIN), plain)}
    systems: dict[str, Any] = {}
    for name, (stage, taught) in students.items():  # steps 4 to 6
        folder = train_student(recipe, run, stage, taught, classes)
        systems[name] = answer_all(recipe, run, name, folder, held_out, classes)
    trained = dict.fromkeys([*systems, HEAD] if recipe.supervise else systems)
    if recipe.supervise:
        systems[HEAD] = supervise(recipe, run, rows, classes)
    systems |= compare(recipe, run, rows.train, held_out) if recipe.compare else {}

    unread = any(row.predicted == UNREAD for found in systems.values() for row in found)
    read_as = [*classes, *([UNREAD] if unread else [])]
    run.scores(
        "held_out", lambda: {"split": rows.held_out, **evaluate(systems, read_as, OURS, "labels", trained=trained)}
    )
    run.scores("reading", lambda: {name: count_replies(systems[name]) for name in students})
    run.scores("reasoning against label alone", lambda: contrast(systems[OURS], systems[PLAIN], classes))


# Rows and prompts


def read(recipe: Recipe) -> Splits:
    """The task's rows, one class each."""
    return data.read_splits(recipe.data, recipe.plan.seed)


def open_base(recipe: Recipe) -> bases.Base:
    return bases.open_base(recipe.model.base, recipe.model.revision)


def ask(recipe: Recipe, classes: Sequence[str], text: str) -> str:
    """Q of a text. It is the same for generator and students, and knows nothing of label and reasoning."""
    return f"{recipe.instruction.replace('{labels}', ', '.join(classes))}\n\nText: {text}"


def prompts_of(recipe: Recipe, tokenizer: Any, classes: Sequence[str], rows: Sequence[Labelled]) -> list[Messages]:
    """What a student is shown of each row."""
    return [chat.converse(ask(recipe, classes, text)) for text in cut_texts(tokenizer, rows, recipe.max_tokens)]


def write_target(reasoning: str, marker: str, label: str) -> str:
    """R on one line, and on the next the marker and the label; without R that line alone."""
    return f"{one_line(reasoning)}\n{marker} {label}" if reasoning else f"{marker} {label}"


# Steps 1 and 2: the generator


def train_generator(recipe: Recipe, run: Run) -> Path:
    """Steps 1 and 2; with rows to measure on also whether it learned, and whether it reads the answer."""
    found = cache(lambda: rationales.draw_lessons(recipe.generator, open_base(recipe).tokenizer, recipe.plan.seed))
    lessons, probe = run.rows("lessons/train", lambda: found()[0]), run.rows("lessons/probe", lambda: found()[1])
    run.scores("lessons", lambda: {"rows": len(lessons), "left out": dict(found()[2])})
    plan = recipe.plan.model_copy(update={"epochs": recipe.generator.passes})
    hidden = set(rationales.hide_answers(lessons, recipe.generator.unknown_share, recipe.plan.seed))

    def fit_on(model: Any, folder: Path) -> None:
        tokenizer = open_base(recipe).tokenizer
        told = []
        for row in lessons:
            prompt = ask_reasons(row.question, UNKNOWN if row.id in hidden else row.answer)
            told.append(tell_answer(tokenizer, prompt, one_line(row.reasoning), ended=True))
        fit(recipe, model, [weigh(recipe, one, len(one.labels)) for one in told], plan, folder)

    folder = run.model("generator", build=lambda: models.language_model(open_base(recipe), {}, plan), fit=fit_on)
    if probe:
        run.scores("generator", lambda: measure_generator(recipe, folder, probe))
    return folder


def measure_generator(recipe: Recipe, folder: Path, rows: Sequence[Reasoned]) -> dict[str, Any]:
    """Whether it learned, and reads the answer: see `rationales.probe_generator`."""
    base, tuned = (engines.open_engine(local_engine(recipe), recipe.model, adapted) for adapted in (None, folder))
    return rationales.probe_generator(base, tuned, open_base(recipe).tokenizer, rows, ask_reasons)


def fit(recipe: Recipe, model: Any, tokens: Sequence[Tokens], plan: recipe.Plan, folder: Path) -> None:
    """L1 and L2: next-token cross-entropy on what is told, reduced as the recipe says."""
    batches = labelling.over_unvaried(model, tokens, plan, pad_id(open_base(recipe).tokenizer))
    train(model, batches if recipe.reduction == "tokens" else count_rows(batches), cross_entropy, plan, folder=folder)


def weigh(recipe: Recipe, told: Tokens, first: int) -> Tokens:
    """The tokens with their weights in the loss: `label_weight` from the `first` label token on, 1 before.

    The mean of a row is its sum with each token weighing 1 / tokens of the row.
    """
    count = len(told.labels)
    share = 1 / count if recipe.reduction == "rows" else 1.0
    return replace(told, weights=(share,) * first + (share * recipe.label_weight,) * (count - first))


# Step 3: augmentation


def augment(recipe: Recipe, run: Run, rows: Sequence[Labelled], split: str, classes: Sequence[str]) -> list[Reasoned]:
    """(Q, A, R) for the rows, one for each reasoning; R is empty where none was kept. The counts go into the scores.

    Raises UserError for any split but train, and when no row has a reasoning.
    """
    if split != "train":
        what = f"reasons are written from the labels, so {split} rows may have none"
        raise UserError(what, "Only training rows are augmented; a student writes its own reasons for all others.")
    adapted = find_generator(recipe, run)
    give = cache(lambda: reasoner_of(recipe, adapted, classes))
    judged = run.map_rows("reasons/train", rows, lambda some: give()(some))
    counts = run.scores("augmentation", lambda: rationales.count_reasons(judged))
    if not counts["rows with reasoning"]:
        raise UserError(
            f"not one of {len(rows)} training rows has a reasoning: {counts['left out']}",
            "Raise reasoning_tokens or tries, lower least_tokens, or take another generator.",
        )
    return run.rows("reasoned/train", lambda: rationales.infuse(rows, judged))


def find_generator(recipe: Recipe, run: Run) -> Path | None:
    """The folder of the generator, trained now or before; None where the engine's own model or a file serves."""
    values = recipe.generator
    if values.source == "train":
        return train_generator(recipe, run)
    return Path(values.folder) if values.source == "folder" else None


def reasoner_of(
    recipe: Recipe, adapted: Path | None, classes: Sequence[str]
) -> Callable[[Sequence[Labelled]], list[Judged]]:
    """What gives rows their reasons: the file, or an engine."""
    tokenizer = open_base(recipe).tokenizer
    sieve = Sieve(tokenizer, recipe.least_tokens, recipe.reasoning_tokens, recipe.reasonings)
    if recipe.generator.source == "file":
        written = rationales.read_given(recipe.generator)
        return lambda rows: rationales.look_up_reasons(sieve, rows, written)
    engine = cache(lambda: engines.open_engine(recipe.engine, recipe.model, adapted))
    untuned = cache(lambda: engines.open_engine(local_engine(recipe), recipe.model))

    def draw(rows: Sequence[Labelled], number: int) -> list[Drawing]:
        drawings = draw_once(recipe, sieve, engine(), classes, rows, recipe.plan.seed + number)
        if not recipe.check_label:
            return drawings
        return rationales.doubt(untuned, drawings, classes, lambda row: ask_again(recipe, classes, row))

    return lambda rows: rationales.draw_reasons(sieve, rows, draw, recipe.tries)


def draw_once(
    recipe: Recipe, sieve: Sieve, engine: Engine, classes: Sequence[str], rows: Sequence[Labelled], seed: int
) -> list[Drawing]:
    """Drawings for each row, with noise of its own: from the seed, its prompt, and the number of the drawing."""
    texts = cut_texts(sieve.tokenizer, rows, recipe.max_tokens)
    asked = [ask(recipe, classes, text) for text in texts]
    prompts = [ask_reasons(question, str(row.label)) for question, row in zip(asked, rows, strict=True)]
    sampling = Sampling(recipe.reasoning_tokens, recipe.temperature, recipe.top_p)
    found = sample(engine, prompts, sampling, samples=recipe.reasonings, seed=seed, what="")
    return [rationales.sift(sieve, row, reply) for row, replies in zip(rows, found, strict=True) for reply in replies]


# Steps 4 and 5: the students


def train_student(recipe: Recipe, run: Run, stage: str, rows: Sequence[Reasoned], classes: Sequence[str]) -> Path:
    """A fresh copy of the base that learns what stands in the rows: reasoning and label, or the label alone."""

    def fit_on(model: Any, folder: Path) -> None:
        tokenizer = open_base(recipe).tokenizer
        texts = [Labelled(row.id, row.origin, row.question, row.answer) for row in rows]
        prompts = prompts_of(recipe, tokenizer, classes, texts)
        tokens = [tell_row(recipe, tokenizer, *pair) for pair in zip(prompts, rows, strict=True)]
        fit(recipe, model, tokens, recipe.plan, folder)

    return run.model(stage, build=lambda: models.language_model(open_base(recipe), {}, recipe.plan), fit=fit_on)


def tell_row(recipe: Recipe, tokenizer: Any, prompt: Messages, row: Reasoned) -> Tokens:
    """The tokens of R, marker, A and E to be told behind the prompt, tokenised as one text, with their weights."""
    target = write_target(row.reasoning, recipe.marker, row.answer)
    told = tell_answer(tokenizer, prompt, target, ended=True)
    front = chat.encode_answer(tokenizer, prompt, target.removesuffix(row.answer).rstrip(), ended=False)
    pairs = zip(told.labels, front, strict=False)
    first = next((place for place, (token, other) in enumerate(pairs) if token != other), len(front))
    return weigh(recipe, told, first)


# Step 6: answers


def answer_all(
    recipe: Recipe, run: Run, name: str, folder: Path, rows: Sequence[Labelled], classes: Sequence[str]
) -> list[Explained]:
    """A student's answers to the held-out rows, kept chunk by chunk."""
    engine = cache(lambda: engines.open_engine(local_engine(recipe), recipe.model, folder))

    def give(some: Sequence[Labelled]) -> list[Explained]:
        return answer(recipe, engine(), classes, some, reasons=name == OURS)

    return run.map_rows(f"predictions/{slug(name)}", rows, give)


def answer(
    recipe: Recipe, engine: Any, classes: Sequence[str], rows: Sequence[Labelled], *, reasons: bool
) -> list[Explained]:
    """What a student writes of the rows, and the label read from it, or scored behind its reasoning."""
    prompts = prompts_of(recipe, engine.tokenizer, classes, rows)
    prompt_by_id = dict(zip([row.id for row in rows], prompts, strict=True))
    replies = sample_votes(
        engine,
        rows,
        lambda row: prompt_by_id[row.id],
        parse_marked(recipe.marker, classes),
        sampling=sampling_of(recipe, engine.tokenizer, classes, reasons=reasons),
        samples=recipe.votes,
        seed=recipe.plan.seed,
        what="",
    )
    fronts = [one_line(text_before(recipe.marker, one.reply)) if reasons else "" for one in replies]
    wanting = [
        place
        for place, one in enumerate(replies)
        if recipe.answers == "score" or (recipe.force_label and one.outcome != "value")
    ]
    shares = score_labels(recipe, engine, classes, [prompts[n] for n in wanting], [fronts[n] for n in wanting])
    scored = dict(zip(wanting, shares, strict=True))
    return [
        explain(recipe, row, one, front, scored.get(place))
        for place, (row, one, front) in enumerate(zip(rows, replies, fronts, strict=True))
    ]


def sampling_of(recipe: Recipe, tokenizer: Any, classes: Sequence[str], *, reasons: bool) -> Sampling:
    """Greedy, or drawn where votes are counted; with room for the longest last line and its end."""
    lines = [f"\n{write_target('', recipe.marker, name)}" for name in classes]
    room = max(len(tokenizer(line, add_special_tokens=False)["input_ids"]) for line in lines) + 1
    limit = room + (recipe.reasoning_tokens if reasons else 0)
    return Sampling(limit, recipe.temperature, recipe.top_p) if recipe.votes > 1 else Sampling(limit)


def score_labels(
    recipe: Recipe, engine: Engine, classes: Sequence[str], prompts: Sequence[Messages], fronts: Sequence[str]
) -> list[dict[str, float]]:
    """p(A | Q, R) among the labels. R and marker are the same in all of them, so sums differ by the label alone."""
    questions = [
        Question(prompt, tuple(write_target(front, recipe.marker, name) for name in classes), ended=True)
        for prompt, front in zip(prompts, fronts, strict=True)
    ]
    found = score(engine, questions, "") if questions else []
    if problem := next((one.problem for one in found if one.problem), ""):
        raise UserError(f"the labels could not be scored: {problem}", "Lower max_tokens or reasoning_tokens.")
    return [dict(zip(classes, softmax(one.sums), strict=True)) for one in found]


def explain(recipe: Recipe, row: Labelled, reply: Judged, front: str, scored: dict[str, float] | None) -> Explained:
    """The answer as it is kept: label, probabilities where there are any, reasoning, raw reply, and how it was read."""
    shares, outcome = (reply.shares if recipe.votes > 1 else {}), reply.outcome
    label = reply.value if reply.outcome == "value" else UNREAD
    if scored is not None:
        shares, label = scored, max(scored, key=scored.__getitem__)
        outcome = "scored" if recipe.answers == "score" else "forced"
    gold = str(row.label) if row.label else None
    return Explained(row.id, gold, label, shares, reasoning=front, reply=reply.reply, outcome=outcome)


def label_rows(folder: Path, rows: Sequence[Labelled], base: str | None) -> list[Predicted]:
    """What `camelid predict` writes: the label and the reasoning before it."""
    values = recipe.read_recipe(Recipe, folder / "recipe.toml")
    known: list[Any] = list(iterate_rows(folder / "train.jsonl"))
    engine = engines.open_engine(local_engine(values), values.model, folder / "model", base)
    return [*answer(values, engine, data.labels_of(known), rows, reasons=True)]


# Step 7, and what stands beside


def count_replies(rows: Sequence[Explained]) -> dict[str, Any]:
    """The share of rows whose label was read from the reply, and how many rows had which outcome."""
    outcomes = Counter(row.outcome for row in rows)
    return {"share read": outcomes["value"] / len(rows), **outcomes}


def contrast(ours: Sequence[Explained], plain: Sequence[Explained], classes: Sequence[str]) -> dict[str, Any]:
    """McNemar's test of the two students, and accuracy by gold class with the difference's 95 % bootstrap interval."""
    right_2N = np.array([[row.gold == row.predicted for row in rows] for rows in (ours, plain)])
    only_ours, only_plain, exact = mcnemar(*right_2N)
    chi2, p = mcnemar_statistic(only_ours, only_plain)
    test = {
        "only ours right": only_ours,
        "only label alone right": only_plain,
        "chi2": chi2,
        "p of chi2": p,
        "exact p": exact,
    }
    return {"mcnemar": test, "accuracy by class": contrast_classes(ours, plain, (OURS, PLAIN), classes)}


def supervise(recipe: Recipe, run: Run, rows: Splits, classes: Sequence[str]) -> list[Predicted]:
    """A label head on the same base and plan, from the text alone."""
    folder = labelling.supervise(
        run, slug(HEAD), cache(lambda: open_base(recipe)), classes, rows.train, rows.dev, recipe.plan, recipe.max_tokens
    )
    return run.rows(f"predictions/{slug(HEAD)}", lambda: prediction.predict_with(folder, rows.test or rows.dev))


def compare(recipe: Recipe, run: Run, train_rows: Any, held_out: Any) -> dict[str, list[Predicted]]:
    """What needs no language model."""
    return {
        name: run.rows(f"predictions/{slug(name)}", lambda predict=predict: predict(train_rows, held_out))
        for name, predict in baselines.simple_systems(recipe.plan.seed).items()
    }


# Problems and the forecast


def local_engine(recipe: Recipe) -> recipe.Engine:
    """The engine of what is trained here, wherever the reasons come from."""
    return recipe.engine.model_copy(update={"kind": "local", "ray": ""})


def complaints(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Fields that contradict each other, as (what, fix)."""
    tagged = bool(recipe.data.tokens or recipe.data.tags) or data.is_tagged(recipe.data.train)
    if tagged or recipe.data.task != "labels":
        yield "a student writes one label a text", "Leave out data.tokens, data.tags and data.task."
    if (role := data.role_of(recipe.data.train)) in ("dev", "test"):
        what = f"{recipe.data.train} is a split for scores ({role}), and reasons are written from its labels"
        yield what, "Train on a training split."
    yield from rationales.complain_of_generator(recipe.generator, recipe.engine)
    if recipe.least_tokens > recipe.reasoning_tokens:
        yield "least_tokens is more than reasoning_tokens", "No reasoning would be kept."
    if not recipe.marker.strip() or one_line(recipe.marker) != recipe.marker:
        yield f"marker = {recipe.marker!r} is no mark on one line", "Take a word and a colon."
    if "{labels}" not in recipe.instruction:
        yield "instruction does not say where the labels stand", "Write {labels} at their place."
    if recipe.answers == "score" and (recipe.force_label or recipe.votes > 1):
        yield "answers = score leaves nothing to force or to vote on", "Leave out force_label and votes."
    if recipe.votes > 1 and not recipe.temperature:
        yield "votes of replies at temperature 0 are all the same", "Raise temperature, or leave out votes."
    yield from complain_of_plan(recipe.plan)


def describe(recipe: Recipe, splits: Splits, base: bases.Base, given: Sequence[Reasoned]) -> list[tuple[str, str]]:
    """Rows, generator, steps, tokens and time. Raises UserError where labels or lengths do not fit."""
    classes, tokenizer, source = data.labels_of(splits.train), base.tokenizer, recipe.generator.source
    try:
        parse_marked(recipe.marker, classes)
    except ValueError as error:
        raise UserError(f"the labels cannot be told apart in a reply: {error}", "Rename them.") from error
    held_out = splits.test or splits.dev
    sizes = {
        part: [len(chat.encode_prompt(tokenizer, prompt)) for prompt in prompts_of(recipe, tokenizer, classes, rows)]
        for part, rows in (("train", splits.train), ("held out", held_out))
    }
    reply = sampling_of(recipe, tokenizer, classes, reasons=True).max_tokens
    longest, context = max(sizes["train"] + sizes["held out"]), base.config.get_text_config().max_position_embeddings
    asking = len(chat.encode_prompt(tokenizer, ask_reasons("", ""))) + recipe.reasoning_tokens  # behind the same text
    if longest + max(reply, asking) > context:
        needed = longest + max(reply, asking)
        what = f"text, prompt and reasoning have up to {needed:,} tokens, and {base.spec} reads {context:,}"
        raise UserError(what, "Lower --max-tokens or --reasoning-tokens.")
    lessons = rationales.draw_lessons(recipe.generator, tokenizer, recipe.plan.seed)[0] if source == "train" else []
    texts = [ask_reasons(row.question, row.answer)[0].content + row.reasoning for row in lessons]
    told = sum(map(len, tokenizer(texts, verbose=False)["input_ids"])) if texts else 0
    read, tried = sum(sizes["train"]), sum(sizes["held out"])
    written = (len(splits.train) * recipe.reasonings + len(held_out) * recipe.votes) * recipe.reasoning_tokens
    students = (3 * read + len(splits.train) * recipe.reasonings * recipe.reasoning_tokens) * recipe.plan.epochs
    taught = told * recipe.generator.passes + students
    names = {"train": f"trained on {len(lessons):,} rows of {recipe.generator.rows}", "file": recipe.generator.file}
    names |= {"folder": recipe.generator.folder, "engine": recipe.engine.name or base.spec}
    return [
        ("rows", f"train {len(splits.train):,}, dev {len(splits.dev):,}, test {len(splits.test):,}"),
        ("labels", ", ".join(classes)),
        ("rows left out", forecast.tell_dropped(splits.dropped)),
        ("reasons", f"{names[source]}" + (f"; {len(given):,} rows" if source == "file" else "")),
        ("tokens", f"training about {taught:,}, reading {read + 2 * tried:,}, writing at most {written:,}"),
        ("model", base.spec),
        ("time", tell_time(recipe, base, taught, read + 2 * tried + written)),
        *(("warning", text) for text in splits.warnings),
    ]


def tell_time(recipe: Recipe, base: bases.Base, taught: int, run_through: int) -> str:
    """Products: 2 a weight and token forward, 2 more backward in training; the head's are counted at every token."""
    weights = bases.parameter_count(base.config) + base.config.vocab_size * base.config.hidden_size  # with the head
    minutes = forecast.estimate_minutes(weights, recipe.plan.precision, run_through, taught)
    where = " and the endpoint's time" if recipe.engine.kind == "remote" else ""
    return f"about {minutes} min on this machine at its speed now{where}"


# Prompts, in our own words


def ask_reasons(question: str, answer: str) -> Messages:
    """What the generator is asked; the same in its training and for the task's rows."""
    return chat.converse(
        f"Question: {question}\n\nAnswer: {answer}\n\n"
        "Write in a few plain sentences the reasoning that leads from the question to this answer."
    )


def ask_again(recipe: Recipe, classes: Sequence[str], row: Reasoned) -> Messages:
    """What the untuned base is asked with a drawn reasoning before it, for `check_label`."""
    return chat.converse(f"{ask(recipe, classes, row.question)}\n\n{row.reasoning}")
