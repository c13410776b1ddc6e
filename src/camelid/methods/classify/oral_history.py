"""Codebook labels for interviews: prompt designs and examples are compared on expert rows, the best labels an archive.

Komala Subramanyam Cherukuri et al., "Large Language Models for Oral History Understanding with Text Classification and
Sentiment Analysis", 2025, arXiv 2508.06729.

Problem. An archive holds more sentences than anybody can label. Experts have labelled a few hundred by a codebook, and
want to know which prompt, examples and model come closest to them before the rest is labelled.

Algorithm. Gold rows G with a label of each kind (topic, sentiment); labels c of one kind; prompt designs p, strategies
s and models m.
 1. Split G into memory, which prompts may show, and test rows: 40 and 60 %, stratified, or by whole narrators.
 2. Write a prompt of design p: role, source and label names, and with growing length definitions, key words, a typical
    question, boundary rules and background. The sentence stands last, on one line.
 3. Add examples by strategy s: none; as many memory rows as fit; or the k memory rows most similar to the sentence, the
    most similar last. The sentence itself, and what says the same, is never among them.
 4. Answer with argmax_c 1/|c| sum_i log p(c_i | prompt, c_<i), ties to the first label; or write a reply, of which the
    first number, or the first label as a word, counts. A malformed reply is answered once with the words of the output
    rule; what stays unread is "unclassified", which is wrong.
 5. Select the configuration (p, s, m) with the highest weighted F1 = sum_c n_c/n F1_c, F1_c = 2 P_c R_c / (P_c + R_c).
 6. Compare on the test rows: majority, a vote of the k nearest memory rows weighted by cosine, logistic regression on
    TF-IDF, a head trained on the memory rows; and measure how far the models agree.
 7. Label the archive with what was selected. Rows without a readable label, where the vote of the nearest memory rows
    says otherwise, or with a small margin between the two likeliest labels are to be looked at first.

Differs from the paper in:
 - The paper selects on the rows it reports. Here memory rows select, each asked with examples of other folds; the best
   design of each strategy and model then answers the test rows, which choose nothing.
 - Labels are scored by default, which leaves no reply unread; `answers = "generate"` writes them, as the paper does.
 - Few-shot takes what fits into `example_tokens`, with the labels in their shares; in the paper all memory rows, which
   are about 17,000 tokens.
 - Retriever and k are not in the paper: TF-IDF or the model's own mean hidden state, and k = 8.
 - Wording, sentiment numbers (words here) and codebook are ours. Topic models and entity counts are left out.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from camelid import baselines, bases, engines, gold, labelling, prediction, recipe
from camelid.agreement import measure_agreement
from camelid.annotation import UNCLASSIFIED, annotate, choose, count_outcomes, tell_predicted, vote
from camelid.archive import Archive, code_row, first_to_review, read_archive, survey_archive, tally
from camelid.codebook import Codebook, Design, find_unknown, read_codebook, write_frame, write_rule
from camelid.data import Splits
from camelid.engines import Engine, Prompt, Sampling
from camelid.errors import UserError, raise_all, try_all
from camelid.evaluation import evaluate, score_weighted_f1
from camelid.folds import deal_folds, spread
from camelid.forecast import Meter, tell_dropped
from camelid.parsing import parse_label
from camelid.retrieval import Embed, near_duplicates, nearest, remember, tfidf_embedding
from camelid.rows import Annotated, Judged, Labelled, Message, Predicted
from camelid.runs import Run, slug

Strategy = Literal["zero-shot", "few-shot", "retrieved"]
FOLDS = 5  # of the memory rows, for the selection
CHUNK = 512  # archive rows asked at once: what their prompts share is computed once for each chunk
ROOM = 512  # tokens of the context kept for the sentence and the template
HEAD_TOKENS = 256  # the trained head reads no more of a row
UNUSED = ("dev", "label", "task", "tokens", "tags", "train_rows", "train_per_class", "dev_rows", "test_rows")


class Recipe(recipe.Recipe):
    """Values of an annotation run."""

    data: recipe.Data = Field(default_factory=recipe.Data)
    plan: recipe.Plan = Field(default_factory=recipe.Plan)
    engine: recipe.Engine = Field(default_factory=recipe.Engine)
    labels: tuple[str, ...] = Field(
        default=("topic", "sentiment"), min_length=1, description="kinds of labels: kinds of the codebook, and columns"
    )
    group: str | None = Field(default=None, description="column that says whose words a row holds, such as a narrator")
    codebook: str = Field(default="", description="TOML file of labels and rules; the built-in one has the paper's")
    memory_share: float = Field(default=0.4, gt=0, lt=1, description="share of the rows that prompts may show")
    split: Literal["rows", "groups"] = Field(
        default="rows", description="rows: stratified by the first kind; groups: whole groups to either side"
    )
    designs: tuple[Design, ...] = Field(
        default=("foundational", "concise", "structured", "refined", "comprehensive"),
        min_length=1,
        description="prompt designs to compare, from short to long",
    )
    strategies: tuple[Strategy, ...] = Field(
        default=("zero-shot", "few-shot", "retrieved"), min_length=1, description="which examples prompts show"
    )
    models: tuple[str, ...] = Field(
        default=(), description="bases, or names at the endpoint, to compare; model.base or engine.name alone if empty"
    )
    example_tokens: int = Field(
        default=4000, ge=1, description="few-shot: as many examples as this holds (paper: all, about 17,000)"
    )
    examples: int = Field(default=8, ge=1, description="retrieved: examples a prompt (paper: not said)")
    retriever: Literal["tfidf", "model"] = Field(
        default="tfidf", description="retrieved: similar by TF-IDF, or by the model's mean hidden state"
    )
    other_groups: bool = Field(default=False, description="no examples from the group of the row itself")
    answers: Literal["score", "generate"] = Field(
        default="score", description="the likeliest label, or a written reply that is read (paper: generate)"
    )
    chat: bool = Field(default=True, description="ask in one user message; false: as plain text, for models without")
    reply_tokens: int = Field(default=16, ge=1, description="generate: longest reply (paper: 4096)")
    supervise: bool = Field(default=True, description="also train model.base with a label head on the memory rows")
    archive: str | None = Field(default=None, description="file with the rows to label, of any size")
    least_words: int = Field(default=4, ge=0, description="archive rows of fewer words are left out (paper: not said)")
    review_rows: int = Field(default=200, ge=1, description="archive rows of each kind to be looked at first")


@dataclass(frozen=True)
class Configuration:
    """A way of asking for one kind of label. The model is empty where the recipe compares none."""

    kind: str
    design: Design
    strategy: Strategy
    model: str = ""

    @property
    def name(self) -> str:
        """As a system of the report."""
        return f"{self.kind} by {self.design} {self.strategy}" + (f" of {Path(self.model).name}" if self.model else "")


@dataclass(frozen=True)
class Study:
    """What every step needs: values, codebook, gold rows, and the engine of a model, opened when it is asked for."""

    recipe: Recipe
    codebook: Codebook
    memory: list[Annotated]
    test: list[Annotated]
    engine: Callable[[str], Engine]

    def classes(self, kind: str) -> list[str]:
        return list(self.codebook.kinds[kind].labels)


def check(recipe: Recipe) -> list[tuple[str, str]]:
    """What a run would do, as (name, value) lines; raises UserError with every problem, before any model loads."""
    looks: dict[str, Callable[[], Any]] = {
        "codebook": lambda: codebook_of(recipe), "gold": lambda: read_gold(recipe), "archive": lambda: survey(recipe),
        "meters": lambda: meters_of(recipe),
    }  # fmt: skip
    if recipe.supervise:  # it is trained last, after all that may be paid for
        looks["base"] = lambda: _open_base(recipe.model.base, recipe.model.revision)
    found, problems = try_all(looks, complaints(recipe))
    if {"codebook", "gold"} <= set(found):
        problems += find_unknown(found["codebook"], [*found["gold"].train, *found["gold"].test])
    raise_all(problems)
    rows = found["gold"]
    study = Study(recipe, found["codebook"], rows.train, rows.test, lambda model: open_engine(recipe, model))
    by = f"by {recipe.split}" if not recipe.data.test else "as given"
    return [
        ("rows", f"memory {len(rows.train):,}, test {len(rows.test):,}, {by}"),
        ("rows left out", tell_dropped(rows.dropped)),
        *tell_cost(study, found["archive"][0]),
        *(("warning", text) for text in rows.warnings),
    ]


def run(recipe: Recipe, run: Run) -> None:
    """Rows, the grid on memory rows, the selection, scores on test rows, agreement, the archive."""
    run.note("codebook", lambda: codebook_of(recipe).model_dump(mode="json"))
    read, surveyed = cache(lambda: read_gold(recipe)), cache(lambda: survey(recipe))
    run.note("data", lambda: {"dropped": read().dropped | surveyed()[1], "warnings": read().warnings})
    run.note("archive_rows", lambda: surveyed()[0])
    memory, test = run.rows("memory", lambda: read().train), run.rows("test", lambda: read().test)
    codebook = Codebook.model_validate(run.manifest["notes"]["codebook"])  # as it was when the run began
    study = Study(recipe, codebook, memory, test, lru_cache(maxsize=1)(lambda model: open_engine(recipe, model)))

    tried = {one: try_on_memory(study, run, one) for one in configurations(recipe, codebook)}
    for kind in recipe.labels:
        finalists = choose_finalists(study, run, kind, tried)
        answered = {one: answer_test(study, run, one) for one in finalists}
        compare(study, run, kind, answered)
        if recipe.archive:
            label_archive(study, run, finalists[0])


# 1. Gold rows: memory and test


def read_gold(recipe: Recipe) -> Splits:
    """Memory rows as `train` and test rows, drawn from one source, or each from its own."""
    grouped = recipe.split == "groups" or recipe.other_groups
    return gold.read_gold(
        recipe.data, recipe.labels, recipe.group, recipe.memory_share, recipe.split, recipe.plan.seed,
        needs_groups=grouped,
    )  # fmt: skip


# 2. Prompts


def write_prompt(frame: str, kind: str, shown: Sequence[Annotated], text: str, *, chat: bool) -> Prompt:
    """Frame, examples, and last the sentence on a line of its own; plain text goes on to where the label follows."""
    title = kind.capitalize()
    examples = [f"{quote(row.text)}\n{title}: {row.labels[kind]}" for row in shown]
    body = "\n\n".join([frame, *([EXAMPLES, *examples, NEXT] if examples else []), quote(text)])
    return (Message("user", body),) if chat else f"{body}\n{title}:"


def quote(text: str) -> str:
    """The text on one line: a line break in it could begin what looks like another example."""
    return f'Transcript: "{" ".join(text.split())}"'


# 3. Examples


def few_shots(study: Study, asked: Configuration, pool: Sequence[Annotated]) -> list[int]:
    """Numbers of the memory rows that every prompt shows: in the order of `spread`, as many as fit."""
    recipe, meter = study.recipe, meters_of(study.recipe)[asked.model]
    room = recipe.example_tokens
    if meter.context is not None:
        reply = recipe.reply_tokens if recipe.answers == "generate" else 0
        frame = write_frame(study.codebook, asked.kind, asked.design)
        room = min(room, meter.context - meter.count(frame) - ROOM - reply)
    order = spread(pool, asked.kind, recipe.plan.seed)
    sizes = accumulate(meter.count(f"{quote(pool[number].text)}\n{asked.kind}: x\n\n") for number in order)
    return order[: sum(1 for size in sizes if size <= room)]


def example_finder(
    study: Study, asked: Configuration, pool: Sequence[Annotated]
) -> Callable[[Sequence[Annotated]], list[list[Annotated]]]:
    """The function that gives each of some rows the memory rows its prompt shows; see the numbered steps."""
    if asked.strategy == "zero-shot" or not pool:
        return lambda rows: [[] for _ in rows]
    texts = [row.text for row in pool]
    shots = few_shots(study, asked, pool) if asked.strategy == "few-shot" else []
    embed = remember(embedding_of(study, asked, texts), texts) if asked.strategy == "retrieved" else None

    def find(rows: Sequence[Annotated]) -> list[list[Annotated]]:
        queries = [row.text for row in rows]
        same_QM = near_duplicates(texts, queries)

        def may_serve(query: int, number: int) -> bool:
            own = study.recipe.other_groups and rows[query].group == pool[number].group
            return not same_QM[query, number] and not own

        if embed is None:
            return [[pool[number] for number in shots if may_serve(query, number)] for query in range(len(rows))]
        # mean hidden states of different texts can be close: what says the same is told by TF-IDF
        found = nearest(texts, queries, embed, study.recipe.examples, may_serve=may_serve, near_duplicate=float("inf"))
        return [[pool[number] for number, _ in near] for near in found]

    return find


def embedding_of(study: Study, asked: Configuration, texts: Sequence[str]) -> Embed:
    if study.recipe.retriever == "tfidf":
        return tfidf_embedding(texts)
    from camelid.hidden import hidden_states

    engine: Any = study.engine(asked.model)
    return lambda queries: hidden_states(engine.model.get_decoder(), engine.tokenizer, queries, what="")


# 4. Answers


def annotator(
    study: Study, asked: Configuration, pool: Sequence[Annotated]
) -> Callable[[Sequence[Annotated]], list[Judged]]:
    """The function that asks for some rows, with examples of the pool."""
    recipe, engine, labels = study.recipe, study.engine(asked.model), study.codebook.kinds[asked.kind].labels
    frame = write_frame(study.codebook, asked.kind, asked.design)
    find = example_finder(study, asked, pool)

    def ask(rows: Sequence[Annotated]) -> list[Judged]:
        prompts = {
            row.id: write_prompt(frame, asked.kind, shown, row.text, chat=recipe.chat)
            for row, shown in zip(rows, find(rows), strict=True)
        }
        if recipe.answers == "score":
            answers = {code: code if recipe.chat else f" {code}" for code in labels}
            return choose(engine, rows, lambda row: prompts[row.id], answers, what="")
        sampling, parser = Sampling(max_tokens=recipe.reply_tokens), parse_label(list(labels))
        repair = write_rule(labels)
        return annotate(engine, rows, lambda row: prompts[row.id], parser, sampling=sampling, repair=repair, what="")

    return ask


def predicted(judged: Sequence[Judged], rows: Sequence[Annotated], kind: str) -> list[Predicted]:
    """Judgements as predictions of the rows' labels of one kind."""
    return tell_predicted(judged, [row.labels[kind] for row in rows])


# 5. Selection on memory rows


def configurations(recipe: Recipe, codebook: Codebook) -> list[Configuration]:
    """The grid, model by model, so that each is loaded once."""
    return [
        Configuration(kind, design, strategy, model)
        for model in recipe.models or ("",)
        for kind in recipe.labels
        for design in recipe.designs
        if design in codebook.kinds[kind].designs
        for strategy in recipe.strategies
    ]


def try_on_memory(study: Study, run: Run, asked: Configuration) -> list[Judged]:
    """Judgements on the memory rows, each fold asked with examples of the others."""
    recipe, memory = study.recipe, study.memory
    fold_of = deal_folds(memory, asked.kind, recipe.split, FOLDS, recipe.plan.seed)

    def ask(rows: Sequence[Annotated]) -> list[Judged]:
        found: dict[str, Judged] = {}
        for fold in range(FOLDS):
            some = [row for row in rows if fold_of[row.id] == fold]
            pool = [row for row in memory if fold_of[row.id] != fold]
            found |= {one.id: one for one in annotator(study, asked, pool)(some)} if some else {}
        return [found[row.id] for row in rows]

    return run.map_rows(f"predictions/memory/{slug(asked.name)}", memory, ask, chunk=len(memory))


def choose_finalists(
    study: Study, run: Run, kind: str, tried: dict[Configuration, list[Judged]]
) -> list[Configuration]:
    """Of each model and strategy the best design on the memory rows, the best of all first. Of equally good ones the
    first of the grid."""
    classes = [*study.classes(kind), UNCLASSIFIED]
    grid = {one.name: one for one in tried if one.kind == kind}

    def score() -> dict[str, Any]:
        found = {
            name: {
                "weighted_f1": score_weighted_f1(predicted(tried[one], study.memory, kind), classes),
                "examples": count_examples(study, one),
                "outcomes": count_outcomes(tried[one]),
            }
            for name, one in grid.items()
        }
        best: dict[tuple[str, str], str] = {}
        for name in sorted(found, key=lambda name: -found[name]["weighted_f1"]["value"]):
            best.setdefault((grid[name].model, grid[name].strategy), name)
        return {"rows": len(study.memory), "finalists": list(best.values()), "configurations": found}

    return [grid[name] for name in run.scores(f"{kind} selection", score)["finalists"]]


# 6. Comparison on test rows


def answer_test(study: Study, run: Run, asked: Configuration) -> list[Judged]:
    """Judgements on the test rows, with examples of all memory rows."""
    ready = cache(lambda: annotator(study, asked, study.memory))
    name, rows = f"predictions/test/{slug(asked.name)}", study.test
    return run.map_rows(name, rows, lambda some: ready()(some), chunk=len(rows))


def compare(study: Study, run: Run, kind: str, answered: dict[Configuration, list[Judged]]) -> None:
    """Scores of all systems on the test rows, the selected configuration being ours, and the models' agreement."""
    makes = baselines_of(study, kind)
    if study.recipe.supervise:
        head = supervise(study, run, kind)
        makes[f"{kind} by label supervision"] = lambda: prediction.predict_with(head, labelled(study.test, kind))
    for one, judged in answered.items():
        makes[one.name] = lambda judged=judged: predicted(judged, study.test, kind)
    if len(answered) > 2:
        ballots = [vote(ballot) for ballot in zip(*answered.values(), strict=True)]
        makes[f"{kind} by vote"] = lambda: predicted(ballots, study.test, kind)
    systems = {name: run.rows(f"predictions/{slug(name)}", make) for name, make in makes.items()}
    run.scores(kind, lambda: score_systems(study, kind, systems, answered))
    if len(answered) > 1:
        run.scores(f"{kind} agreement", lambda: agree(study, kind, answered))


def baselines_of(study: Study, kind: str) -> dict[str, Callable[[], list[Predicted]]]:
    """Systems without a language model."""
    memory, test = labelled(study.memory, kind), labelled(study.test, kind)
    return {
        f"{kind} by majority": lambda: baselines.predict_majority(memory, test),
        f"{kind} by nearest rows": lambda: baselines.predict_nearest(memory, test),
        f"{kind} by logistic regression": lambda: baselines.predict_tfidf(memory, test, study.recipe.plan.seed),
    }


def supervise(study: Study, run: Run, kind: str) -> Path:
    """The folder of model.base with a label head, trained on the memory rows."""
    model = study.recipe.model
    base = cache(lambda: bases.open_base(model.base, model.revision))
    stage, rows = slug(f"{kind} by label supervision"), labelled(study.memory, kind)
    return labelling.supervise(run, stage, base, study.classes(kind), rows, [], study.recipe.plan, HEAD_TOKENS)


def labelled(rows: Sequence[Annotated], kind: str) -> list[Labelled]:
    """The rows with their labels of one kind."""
    return [Labelled(row.id, row.origin, row.text, row.labels.get(kind, "")) for row in rows]


def score_systems(
    study: Study, kind: str, systems: dict[str, list[Predicted]], answered: dict[Configuration, list[Judged]]
) -> dict[str, Any]:
    """`evaluate`, with weighted F1 and how often each outcome came."""
    unread = any(row.predicted == UNCLASSIFIED for rows in systems.values() for row in rows)
    classes = [*study.classes(kind), *([UNCLASSIFIED] if unread else [])]
    llms = [name for name in systems if name not in baselines_of(study, kind)]
    found = evaluate(systems, classes, next(iter(answered)).name, "labels", trained=llms)
    for name, rows in systems.items():
        found["systems"][name]["weighted_f1"] = score_weighted_f1(rows, classes)
    return {"split": "test", **found, "outcomes": {one.name: count_outcomes(each) for one, each in answered.items()}}


def agree(study: Study, kind: str, answered: dict[Configuration, list[Judged]]) -> dict[str, Any]:
    """How far the models agree on the test rows, each as its best configuration; of a single one its strategies."""
    best: dict[Any, Configuration] = {}
    for one in answered:
        best.setdefault(one.model or one, one)
    said = {one.name: [row.value for row in answered[one]] for one in best.values()}
    return measure_agreement(said, study.classes(kind))


# 7. The archive


def survey(recipe: Recipe) -> tuple[int, dict[str, int]]:
    """(rows of the archive to be labelled, rows left out by reason)."""
    return survey_archive(archive_of(recipe)) if recipe.archive else (0, {})


def archive_of(recipe: Recipe) -> Archive:
    return Archive(recipe.archive or "", recipe.data.text, recipe.group, recipe.least_words)


def label_archive(study: Study, run: Run, asked: Configuration) -> None:
    """Write `archive/<kind>.jsonl`, every row as it was labelled, and `review/<kind>.jsonl`, what to look at first."""
    kind, memory = asked.kind, labelled(study.memory, asked.kind)
    ready = cache(lambda: annotator(study, asked, study.memory))

    def code(rows: Sequence[Annotated]) -> list[Any]:
        seconds = baselines.predict_nearest(memory, labelled(rows, kind))
        found = zip(rows, ready()(rows), seconds, strict=True)
        return [code_row(row, judged, str(second.predicted)) for row, judged, second in found]

    rows, total = read_archive(archive_of(study.recipe), Counter()), run.manifest["notes"]["archive_rows"]
    path = run.map(f"archive/{kind}", rows, code, chunk=CHUNK, total=total)
    run.map(f"review/{kind}", first_to_review(path, study.recipe.review_rows), list, may_fail=True)
    prompt = write_frame(study.codebook, kind, asked.design)
    told = {"configuration": asked.name, "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest()}
    run.scores(f"{kind} archive", lambda: told | tally(path))


# Engines, and what a run will take


def open_engine(recipe: Recipe, model: str) -> Engine:
    """The recipe's engine with one of the models it compares."""
    named = recipe.engine.model_copy(update={"name": model or recipe.engine.name})
    return engines.open_engine(named, model_of(recipe, model))


def model_of(recipe: Recipe, model: str) -> recipe.Model:
    """One of the bases to compare, or the recipe's own where none is named."""
    return recipe.model.model_copy(update={"base": model, "revision": None}) if model else recipe.model


_open_base = cache(bases.open_base)  # every configuration counts with the same tokenizers


def meters_of(recipe: Recipe) -> dict[str, Meter]:
    """A meter for each model. Raises UserError for one that is not there, or cannot be asked by messages."""
    found: dict[str, Meter] = {}
    for model in recipe.models or ("",):
        named = model_of(recipe, model)
        base = None if recipe.engine.kind == "remote" else _open_base(named.base, named.revision)
        if base and recipe.chat and not base.tokenizer.chat_template:
            raise UserError(f"{named.base} has no chat template", "Take an instruct model, or add --chat false.")
        found[model] = Meter(base.tokenizer, base.config.get_text_config().max_position_embeddings) if base else Meter()
    return found


def complaints(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Fields that contradict each other, as (what, fix)."""
    for name in UNUSED:
        if getattr(recipe.data, name) != type(recipe.data).model_fields[name].default:
            yield f"data.{name} is not used by oral-history", "Name columns of labels with --labels, one a kind."
    if recipe.answers == "score" and recipe.engine.kind == "remote" and recipe.engine.api == "chat":
        fix = "Add --answers generate, or --api completions --chat false where the endpoint scores given text."
        yield "a remote chat model gives no probabilities of labels", fix
    if recipe.retriever == "model" and (recipe.engine.kind != "local" or recipe.engine.ray):
        yield "retriever = 'model' needs the states of a local model", "Leave it out: TF-IDF needs none."
    if recipe.chat and recipe.engine.kind == "remote" and recipe.engine.api == "completions":
        yield "the completions interface takes text, and chat = true asks by messages", "Add --chat false."
    yield from engines.complain_of_engine(recipe.engine)
    names = Counter(Path(model).name for model in recipe.models)
    if twice := sorted(name for name, count in names.items() if count > 1):
        yield f"several models are called {twice[0]}", "Give them folders of different names."


def tell_cost(study: Study, archive: int) -> list[tuple[str, str]]:
    """Calls and prompt tokens of each configuration on the memory rows, and at most of the whole run."""
    recipe, lines = study.recipe, []
    tried: Counter[Configuration] = Counter()  # tokens of a prompt for a sentence of mean length
    for one in configurations(recipe, study.codebook):
        meter, examples = meters_of(recipe)[one.model], count_examples(study, one)
        mean = sum(meter.count(quote(row.text)) for row in study.memory) / len(study.memory)
        tried[one] = round(meter.count(write_frame(study.codebook, one.kind, one.design)) + (1 + examples) * (mean + 5))
        tokens = f"{tried[one] * len(study.memory):,} prompt tokens, {examples} examples each"
        lines.append((one.kind, f"{one.name.partition(' by ')[2]}: {len(study.memory):,} calls, {tokens}"))
    finals: Counter[tuple[str, ...]] = Counter()  # the finalists answer the test rows, the best of a kind the archive
    best: Counter[str] = Counter()
    for one, size in tried.items():
        finals[one.kind, one.model, one.strategy] = max(finals[one.kind, one.model, one.strategy], size)
        best[one.kind] = max(best[one.kind], size)
    labels = {kind: len(study.codebook.kinds[kind].labels) for kind in recipe.labels}
    # an endpoint scores each label by a request of its own, which holds the whole prompt
    apart = recipe.answers == "score" and recipe.engine.kind == "remote"
    per = {kind: labels[kind] if apart else 1 for kind in recipe.labels}
    rounds = 2 if recipe.answers == "generate" else 1  # a reply without a label is answered once
    asked = [
        *((len(study.memory), one.kind, size) for one, size in tried.items()),
        *((len(study.test), kind, size) for (kind, *_), size in finals.items()),
        *((archive, kind, size) for kind, size in best.items()),
    ]
    calls = rounds * sum(rows * per[kind] for rows, kind, _ in asked)
    tokens = rounds * sum(rows * per[kind] * size for rows, kind, size in asked)
    replies = calls * (recipe.reply_tokens if recipe.answers == "generate" else int(apart))
    cost = (tokens * recipe.engine.price_input + replies * recipe.engine.price_output) / 1e6
    return [
        *lines,
        *([("archive", f"{archive:,} rows")] if archive else []),
        ("in all", f"at most {calls:,} calls, {tokens:,} prompt tokens (a local model computes shared ones once)"),
        *([("cost", f"at most {cost:,.2f} in the currency of the prices")] if cost else []),
    ]


def count_examples(study: Study, asked: Configuration) -> int:
    """Examples in a prompt for a test row."""
    most = {"zero-shot": 0, "retrieved": min(study.recipe.examples, len(study.memory))}
    return most[asked.strategy] if asked.strategy in most else len(few_shots(study, asked, study.memory))


# Words of prompts, and the codebook


def codebook_of(recipe: Recipe) -> Codebook:
    return read_codebook(recipe.codebook, recipe.labels, recipe.designs)


EXAMPLES = "These transcripts were labelled by experts:"
NEXT = "Now label this one:"
