"""One model for all variables of a codebook, each asked as a multiple-choice question about a document (Lawma).

Ricardo Dominguez-Olmedo et al., "Lawma: The Power of Specialization for Legal Tasks", 2024, arXiv 2407.16615
(ICLR 2025: "Lawma: The Power of Specialization for Legal Annotation").

Problem. Somebody codes documents by a codebook of many variables, has tens to hundreds of coded documents for each, and
wants the rest coded better than by prompting a large model.

Algorithm. Tasks t with an instruction (from the codebook), a question and choices c_1..c_K (or a whole number), and
documents x with the right answers Y_tx of some tasks.
 1. All tasks of a document are in one split.
 2. In each task and split at most as many rows have the majority class as have any other; f is the share of it kept.
 3. Choice k is lettered by a label l_k that is one token behind "Answer:", A to Z, then pairs of capitals.
 4. Prompt: instruction, document, question, one line a choice, "Answer:". A document that does not fit into the context
    is cut, at its end or in its middle; question and choices never are.
 5. The target is the label (with its space), or the number, and the end of the text; y drawn from Y_tx in each pass.
    Loss = -log p(l_y | prompt) - log p(end | prompt, l_y), on the rows of all tasks shuffled together, unweighted.
 6. Answer argmax_k log p(l_k | prompt), ties to the first; for numbers the first integer in at most 10 greedy tokens.
 7. Scores: accuracy of each task, its mean over tasks (the headline) and over rows; macro-F1; and on rows as they come
    acc_adj = (m a_m / f + r a_r) / (m / f + r), of m rows of the majority class and r others, right to a_m and a_r.
 8. Beside it: tasks that were never trained on; n rows a task (`curve`); one task alone, from the base or the joint
    model (`singles`); released files of responses scored again (`responses`).

Differs from the paper in:
 - Low-rank adapters at 7e-4 for 135M parameters, where the paper trains 8B and 70B whole at 2e-6 (`--scale paper`).
 - Steps take rows of any task and length, laid behind each other (`plan.pack_tokens`); each reads itself only. The
   paper packs 8k tokens, and rows in a pack read each other.
 - Pairs of capitals where K > 26; the reference takes Chinese characters, of which small vocabularies have few.
 - The drawn answer changes from pass to pass (the reference: drawn once).
 - The decay ends at zero (paper: at 10 % of the rate), and early stopping looks at epochs (paper: at tenths of one).
 - A question with choices that fill the context is refused; the reference cuts its front off.
 - Not offered: one table of choices for each key of an example (write such keys as tasks), BERT with [MASK], asking
   API models.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import Field

from camelid import baselines, bases, engines, forecast, labelling, models, recipe, task_scores
from camelid.annotation import softmax
from camelid.batches import PassBatches, Tokens, mix_lengths
from camelid.chat import converse, encode_prompt
from camelid.engines import Engine, Question, Sampling
from camelid.engines.local import LocalEngine
from camelid.errors import UserError, raise_all, try_all
from camelid.evaluation import evaluate
from camelid.lettering import Letters, letter_choices
from camelid.objectives import cross_entropy
from camelid.reading import fit_document, pad_id, tell_answer
from camelid.responses import read_integer, read_responses, rescore
from camelid.rows import Asked, Labelled, Predicted, Prompt
from camelid.runs import Run, read_manifest, slug
from camelid.sampling import sample
from camelid.scoring import score
from camelid.task import Task, TaskData, TaskSet, by_task, draw_each, read_tasks
from camelid.task_scores import Scorable, match_gold, mean_task_accuracy
from camelid.training import train

OURS, SINGLE = "joint fine-tuning", "single-task fine-tuning"
ZERO = "zero-shot prompt"
ON_UNSEEN = " on unseen tasks"
METRIC = "mean_task_accuracy"
INTEGER_TOKENS = 10  # of a written number
LETTER_TOKENS = 1
WRITTEN = Sampling(max_tokens=INTEGER_TOKENS)
LOOKED_AT = 5000  # rows whose tokens `check` counts


class Recipe(recipe.Recipe):
    """Values of a run over label tasks."""

    data: TaskData = Field(default_factory=TaskData)
    plan: recipe.Plan = Field(default_factory=recipe.Plan)
    engine: recipe.Engine = Field(default_factory=recipe.Engine)
    max_tokens: int = Field(default=1024, ge=32, description="longest prompt with its answer (paper: 8192)")
    keep: Literal["head", "ends"] = Field(
        default="head", description="what is kept of a longer document: its head, or head and tail"
    )
    chat: bool = Field(
        default=False, description="ask in a user's message, for models with a chat template (paper: no)"
    )
    shuffle: bool = Field(default=False, description="train with choices in another order in each pass (paper: no)")
    singles: tuple[str, ...] = Field(default=(), description="tasks to be trained on alone as well")
    start: Literal["base", "joint"] = Field(
        default="base", description="what single tasks start from: the base, or the joint model"
    )
    curve: tuple[int, ...] = Field(
        default=(), description="also train on so many rows a task (paper: 10, 50, 100, 250, 500, 1000)"
    )
    curve_seeds: int = Field(default=1, ge=1, description="draws and trainings for each point of the curve (paper: 5)")
    curve_epochs: int | None = Field(
        default=None, ge=1, description="passes over the rows of a point; plan.epochs if absent"
    )
    compare: bool = Field(default=False, description="also score what one would try first, on the same rows")
    responses: str = Field(
        default="", description="folder of response files, a task each, to be scored; nothing is trained then"
    )
    pooled: tuple[str, ...] = Field(
        default=(),
        description="responses: tasks whose names begin so are also scored as one (paper: sc_issue_, songer_casetyp1_)",
    )


@dataclass(frozen=True)
class Sheet:
    """How questions are written for a tokenizer."""

    tokenizer: Any
    letters: Letters
    most: int  # tokens of prompt and answer
    keep: Literal["head", "ends"]
    chat: bool


@dataclass(frozen=True)
class Posed:
    """A question as it is asked: the prompt, and the text of each answer by code (none where a number is asked for)."""

    prompt: Prompt
    answers: dict[str, str]
    cut: bool


@dataclass(frozen=True)
class Study:
    """What every step needs: values, tasks, how they are written, and the engine of the base or of a tuned model."""

    recipe: Recipe
    tasks: dict[str, Task]
    sheet: Callable[[], Sheet]
    engine: Callable[[Path | None], Engine]


def check(recipe: Recipe) -> list[tuple[str, str]]:
    """What a run would do, as (name, value) lines; raises UserError with every problem, before any model loads."""
    if recipe.responses:
        responses = read_responses(Path(recipe.responses))
        return [("responses", f"{len(responses)} tasks, {sum(map(len, responses.values())):,} rows")]
    looks = {"read": lambda: read_tasks(recipe.data, recipe.plan.seed), "base": lambda: base_of(recipe)}
    found, problems = try_all(looks, _complaints(recipe))
    if len(found) == len(looks):
        problems += _misfits(recipe, found["read"], found["base"])
    raise_all(problems)
    return _tell(recipe, found["read"], found["base"])


def run(recipe: Recipe, run: Run) -> None:
    """Rows of all tasks, the joint model, answers and scores; then tasks never trained on, few rows, one task."""
    if recipe.responses:
        run.scores("responses", lambda: rescore(read_responses(Path(recipe.responses)), recipe.pooled))
        return
    read = cache(lambda: read_tasks(recipe.data, recipe.plan.seed))
    rows = {role: run.rows(role, lambda role=role: getattr(read(), role)) for role in ("train", "dev", "test")}
    unseen = run.rows("unseen", lambda: read().unseen) if recipe.data.unseen or recipe.data.hold_out else []
    run.note("data", lambda: {"dropped": read().dropped, "warnings": read().warnings})
    run.note("tasks", lambda: {name: task.model_dump(mode="json") for name, task in read().tasks.items()})
    run.note("trained", lambda: list(by_task(read().train)))
    run.note("balance", lambda: {"kept": read().kept, "majority": read().majority})
    study = study_of(recipe, tasks_of(run.manifest))

    joint = tune(study, run, "model", rows["train"], rows["dev"], recipe.plan)
    systems = {OURS: answer(study, run, OURS, joint, rows["test"])}
    if recipe.compare:
        systems |= compare(study, run, rows)
    held_out = scorables(study, run, rows["test"])
    run.scores("held_out", lambda: score_systems(systems, held_out, OURS, "test"))
    run.scores("tasks", lambda: task_scores.describe_tasks(held_out, systems))
    if unseen:
        generalise(study, run, joint, unseen)
    if recipe.curve:
        draw_curve(study, run, rows, systems)
    if recipe.singles:
        specialise(study, run, joint, rows, systems[OURS])


def study_of(recipe: Recipe, tasks: dict[str, Task], base: str | None = None) -> Study:
    """The tasks ready to be asked; `base` names the base model where it was moved."""
    opened = cache(lambda: bases.open_base(base, None) if base else base_of(recipe))
    engine = lru_cache(maxsize=1)(lambda adapted: engines.open_engine(recipe.engine, recipe.model, adapted, base))
    return Study(recipe, tasks, cache(lambda: sheet_of(recipe, tasks, opened())), engine)


def tasks_of(manifest: Mapping[str, Any]) -> dict[str, Task]:
    """The tasks as they were when the run began."""
    return {name: Task.model_validate(values) for name, values in manifest["notes"]["tasks"].items()}


# 3. and 4. The question


def sheet_of(recipe: Recipe, tasks: Mapping[str, Task], base: bases.Base) -> Sheet:
    """Letters for the largest task, and the room there is. Raises UserError where there are too few letters."""
    largest = max(tasks.values(), key=lambda task: len(task.choices))
    count = max(2, len(largest.choices))
    letters = letter_choices(base.tokenizer, count, base.spec, largest.name, chat=recipe.chat)
    return Sheet(base.tokenizer, letters, min(recipe.max_tokens, _context(base)), recipe.keep, recipe.chat)


def pose(sheet: Sheet, task: Task, row: Asked, order: Sequence[str] = ()) -> Posed:
    """Prompt and answers of a row; `order` is that of the codes, the codebook's when absent."""
    codes = list(order or codes_of(task, row))
    before = f"{task.instruction.strip()}\n\n" if task.instruction.strip() else ""
    after = f"\n\n{write_question(sheet, task, codes)}"
    room = sheet.most - (LETTER_TOKENS if codes else INTEGER_TOKENS) - 1  # and the end of the text
    text, cut = fit_document(
        sheet.tokenizer,
        before,
        row.text,
        after,
        room,
        lambda text: len(encode_prompt(sheet.tokenizer, lay_out(sheet, text))),
        sheet.keep,
    )
    return Posed(lay_out(sheet, text), {code: sheet.letters.answer(place) for place, code in enumerate(codes)}, cut)


def lay_out(sheet: Sheet, text: str) -> Prompt:
    """The text as it is, or as a user's message."""
    return converse(text) if sheet.chat else text


def codes_of(task: Task, row: Asked) -> list[str]:
    """The codes a row may be answered with, in the order of the codebook; none for numbers."""
    return [code for code in task.choices if not row.offered or code in row.offered]


def write_question(sheet: Sheet, task: Task, codes: Sequence[str]) -> str:
    """What stands behind the document."""
    choices = [f"{sheet.letters.labels[place]}. {task.choices[code]}\n" for place, code in enumerate(codes)]
    return f"Question: {task.question}\n{''.join(choices)}Answer:"


# 5. Training


def tune(
    study: Study,
    run: Run,
    name: str,
    rows: Sequence[Asked],
    dev: Sequence[Asked],
    plan: recipe.Plan,
    start: Path | None = None,
) -> Path:
    """The folder of the base, or of the model in `start`, trained on rows of any tasks."""
    return run.model(
        name,
        build=lambda: models.language_model(base_of(study.recipe), {}, plan, start),
        fit=lambda model, folder: fit(study, model, folder, rows, dev, plan),
    )


def fit(study: Study, model: Any, folder: Path, rows: Sequence[Asked], dev: Sequence[Asked], plan: recipe.Plan) -> None:
    """Step 5. States of frozen layers are computed once where a row is the same in every pass."""
    sheet = study.sheet()
    pad = pad_id(sheet.tokenizer)
    varies = study.recipe.shuffle or any(len(row.answers) > 1 for row in rows)

    def make(epoch: int) -> Any:
        tokens = [tell(study, row, epoch, plan.seed) for row in rows]
        if varies:
            batches = labelling.over_epochs(tokens, plan, pad)
        else:
            batches = labelling.over_unvaried(model, tokens, plan, pad)
        return mix_lengths(batches)

    batches = PassBatches(make) if varies else make(0)

    def dev_scores(model: Any) -> dict[str, float]:
        was_training = model.training
        found = ask(study, LocalEngine(model.eval().lm, sheet.tokenizer), dev)
        model.train(was_training)
        return {METRIC: mean_task_accuracy(dev, found)}

    train(model, batches, cross_entropy, plan, folder=folder, evaluate=dev_scores if dev else None)


def tell(study: Study, row: Asked, epoch: int, seed: int) -> Tokens:
    """Prompt and target of a row in a pass, which draws one of its answers and, with `shuffle`, an order of choices."""
    sheet, task = study.sheet(), study.tasks[row.task]
    code = random.Random(f"{seed} answer {epoch} {row.id}").choice(row.answers)
    order = codes_of(task, row)
    if study.recipe.shuffle:
        order = random.Random(f"{seed} order {epoch} {row.id}").sample(order, len(order))
    posed = pose(sheet, task, row, order)
    return tell_answer(sheet.tokenizer, posed.prompt, posed.answers.get(code, sheet.letters.lead + code), ended=True)


# 6. Answers


def answer(study: Study, run: Run, system: str, adapted: Path | None, rows: Sequence[Asked]) -> list[Predicted]:
    """Predictions of a tuned model, or of the base, kept in the run under the system's name."""
    return run.rows(f"predictions/{slug(system)}", lambda: ask(study, study.engine(adapted), rows))


def ask(study: Study, engine: Engine, rows: Sequence[Asked]) -> list[Predicted]:
    """The likeliest choice of each row, or the number that is written."""
    posed = {row.id: pose(study.sheet(), study.tasks[row.task], row) for row in rows}
    lettered = [row for row in rows if posed[row.id].answers]
    numbered = [row for row in rows if not posed[row.id].answers]
    found = dict[str, Predicted]()
    questions = [Question(posed[row.id].prompt, tuple(posed[row.id].answers.values())) for row in lettered]
    for row, scored in zip(lettered, score(engine, questions, "answering") if lettered else [], strict=True):
        if scored.problem:
            raise UserError(f"the question on {row.origin} failed: {scored.problem}", "Lower max_tokens.")
        shares = dict(zip(posed[row.id].answers, softmax(scored.sums), strict=True))
        found[row.id] = match_gold(row, max(shares, key=shares.__getitem__), shares)
    if numbered:
        replies = sample(engine, [posed[row.id].prompt for row in numbered], WRITTEN, what="counting")
        found |= {
            row.id: match_gold(row, read_integer(one[0].text), {}) for row, one in zip(numbered, replies, strict=True)
        }
    return [found[row.id] for row in rows]


def label_rows(folder: Path, rows: Sequence[Labelled], base: str | None) -> list[dict[str, Any]]:
    """What `camelid predict` adds to each row: the answer of every task trained on, and its choices' probabilities."""
    values = recipe.read_recipe(Recipe, folder / "recipe.toml")
    manifest = read_manifest(folder)
    study = study_of(values, tasks_of(manifest), base)
    engine, found = study.engine(folder / "model"), [dict[str, Any]() for _ in rows]
    for name in manifest["notes"]["trained"]:
        asked = [Asked(row.id, row.origin, name, row.text, ()) for row in rows]
        for columns, one in zip(found, ask(study, engine, asked), strict=True):
            columns[f"predicted_{name}"] = one.predicted
            columns |= {f"probability_{name}_{code}": share for code, share in one.probabilities.items()}
    return found


# 7. Scores


def scorables(study: Study, run: Run, rows: Sequence[Asked]) -> dict[str, Scorable]:
    """The tasks that rows are about, as they are scored."""
    balance = run.manifest["notes"]["balance"]
    return task_scores.tell_scorable(study.tasks, rows, balance["kept"], balance["majority"])


def score_systems(
    systems: Mapping[str, Sequence[Predicted]], tasks: Mapping[str, Scorable], ours: str, split: str
) -> dict[str, Any]:
    """Systems on the rows of many tasks, ours against each other one."""
    trained = [name for name in systems if name.startswith((OURS, SINGLE))]
    return {"split": split, **evaluate(systems, [], ours, "tasks", trained, scorer=task_scores.task_scorer(tasks))}


def compare(study: Study, run: Run, rows: Mapping[str, Sequence[Asked]]) -> dict[str, list[Predicted]]:
    """The majority class of each task, TF-IDF with logistic regression for each task, and the base without training."""
    found = {
        name: run.rows(
            f"predictions/{slug(name)}",
            lambda predict=predict: task_scores.predict_by_task(predict, rows["train"], rows["test"]),
        )
        for name, predict in baselines.simple_systems(study.recipe.plan.seed).items()
    }
    return found | {ZERO: answer(study, run, ZERO, None, rows["test"])}


# 8. Tasks never trained on, few rows, one task


def generalise(study: Study, run: Run, joint: Path, rows: Sequence[Asked]) -> None:
    """Tasks that the joint model was not trained on, beside the base."""
    systems = {f"{OURS}{ON_UNSEEN}": joint, f"{ZERO}{ON_UNSEEN}": None}
    answered = {name: answer(study, run, name, adapted, rows) for name, adapted in systems.items()}
    tasks = scorables(study, run, rows)
    run.scores("unseen", lambda: score_systems(answered, tasks, f"{OURS}{ON_UNSEEN}", "unseen"))
    run.scores("unseen_tasks", lambda: task_scores.describe_tasks(tasks, answered))


def draw_curve(
    study: Study, run: Run, rows: Mapping[str, Sequence[Asked]], systems: Mapping[str, Sequence[Predicted]]
) -> None:
    """Mean task accuracy against training rows a task; the last point is the joint model, one at 0 the base."""
    values = study.recipe
    points = []
    for count in sorted(values.curve):
        reached = []
        for seed in range(values.plan.seed, values.plan.seed + values.curve_seeds):
            few = draw_each(rows["train"], count, f"{seed} curve")
            changes = {"seed": seed, "epochs": values.curve_epochs or values.plan.epochs}
            plan = values.plan.model_copy(update=changes | {"batch_rows": min(values.plan.batch_rows, len(few))})
            model = tune(study, run, f"curve/{count}-{seed}", few, rows["dev"], plan)
            reached.append(
                mean_task_accuracy(rows["test"], answer(study, run, f"rows {count} {seed}", model, rows["test"]))
            )
        points.append([count, fmean(reached)])
    most = max(map(len, by_task(rows["train"]).values()))
    zero = [[0, mean_task_accuracy(rows["test"], systems[ZERO])]] if ZERO in systems else []
    line = [*zero, *points, [most, mean_task_accuracy(rows["test"], systems[OURS])]]
    run.scores("curves", lambda: {"x": "training rows a task", "y": "mean task accuracy", "lines": {OURS: line}})


def specialise(
    study: Study, run: Run, joint: Path, rows: Mapping[str, Sequence[Asked]], known: Sequence[Predicted]
) -> None:
    """Each task of `singles` by itself, from the base or from the joint model, beside what the joint one said (`known`)
    of the same test rows; then all of them together."""
    values, alone = study.recipe, dict[str, Predicted]()
    start = joint if values.start == "joint" else None
    joint_by_id = {one.id: one for one in known}
    stages = {name: [*(["model"] if start else []), f"single/{slug(name)}"] for name in values.singles}

    def contrast(system: str, names: Sequence[str]) -> dict[str, Any]:
        asked = [row for row in rows["test"] if row.task in names]
        systems = {OURS: [joint_by_id[row.id] for row in asked], system: [alone[row.id] for row in asked]}
        found = score_systems(systems, scorables(study, run, asked), OURS, "test")
        return found | {"stages": {system: list(dict.fromkeys(stage for name in names for stage in stages[name]))}}

    for name in values.singles:
        own = {role: [row for row in rows[role] if row.task == name] for role in rows}
        model = tune(study, run, f"single/{slug(name)}", own["train"], own["dev"], values.plan, start)
        system = f"{SINGLE} {name}"
        alone |= {one.id: one for one in answer(study, run, system, model, own["test"])}
        run.scores(f"single {name}", partial(contrast, system, [name]))
    if len(values.singles) > 1:
        run.scores("singles", lambda: contrast(SINGLE, values.singles))


# What is checked and told before


def base_of(recipe: Recipe) -> bases.Base:
    return bases.open_base(recipe.model.base, recipe.model.revision)


def _context(base: bases.Base) -> int:
    return base.config.get_text_config().max_position_embeddings


def _complaints(recipe: Recipe) -> list[tuple[str, str]]:
    """Fields that contradict each other, as (what, fix)."""
    found = []
    if recipe.engine.kind != "local" or recipe.engine.ray:
        found.append(("engine: what is trained here is read by a local engine only", "Leave engine.kind and ray out."))
    if recipe.pooled:
        found.append(("pooled is for responses", "Leave it out, or name a folder of --responses."))
    return found


def _misfits(recipe: Recipe, read: TaskSet, base: bases.Base) -> list[UserError]:
    """Tasks whose question fits no prompt, too few letters, and names of tasks that are not trained on."""
    trained = {row.task for row in read.train}
    problems = [
        UserError(f"singles names {name}, which is not trained on", f"Choose among {', '.join(sorted(trained))}.")
        for name in recipe.singles
        if name not in trained
    ]
    folders = Counter(slug(name) for name in recipe.singles)
    for name in recipe.singles:
        if not slug(name) or folders[slug(name)] > 1:
            what = f"the folder of the task {name!r} by itself would have no name, or that of another task"
            problems.append(UserError(what, "Rename the task: Latin letters and digits tell its folder from others."))
    try:
        sheet = sheet_of(recipe, read.tasks, base)
    except UserError as error:
        return [*problems, error]
    for task in read.tasks.values():
        question = "\n\n".join(
            filter(None, (task.instruction.strip(), write_question(sheet, task, list(task.choices))))
        )
        size = len(encode_prompt(base.tokenizer, lay_out(sheet, question)))
        if size > sheet.most - INTEGER_TOKENS - 1:
            what = f"question and choices of the task {task.name} have {size:,} tokens, and a prompt {sheet.most:,}"
            problems.append(UserError(what, "Raise max_tokens, take a model that reads more, or shorten the choices."))
    return problems


def _measure(study: Study, rows: Sequence[Asked]) -> list[tuple[int, bool]]:
    """(tokens, whether the document is cut) of each row; of very many rows every n-th stands for n."""
    every = max(1, len(rows) // LOOKED_AT)
    found = []
    for row in rows[::every]:
        cut = pose(study.sheet(), study.tasks[row.task], row).cut
        found += [(len(tell(study, row, 0, 0).ids), cut)] * every
    return found


def _tell(recipe: Recipe, read: TaskSet, base: bases.Base) -> list[tuple[str, str]]:
    """The lines of `check`."""
    study = study_of(recipe, read.tasks)
    roles = {"train": read.train, "dev": read.dev, "test": read.test, "unseen": read.unseen}
    measured = {role: _measure(study, rows) for role, rows in roles.items() if rows}
    lengths = {role: [size for size, _ in found] for role, found in measured.items()}
    trained = {row.task for row in read.train}
    trainings = 1 + len(recipe.singles) + len(recipe.curve) * recipe.curve_seeds
    steps = -(-len(read.train) // recipe.plan.batch_rows) * recipe.plan.epochs
    return [
        ("tasks", f"{len(trained)} trained on, {len(read.tasks) - len(trained)} unseen"),
        ("choices", f"{max(len(task.choices) for task in read.tasks.values())} at most"),
        ("rows", ", ".join(f"{role} {len(rows):,}" for role, rows in roles.items() if rows)),
        ("rows left out", forecast.tell_dropped(read.dropped)),
        ("prompt", f"about {fmean(lengths['train']):.0f} tokens, longest {max(lengths['train']):,}"),
        ("documents cut", f"{sum(cut for found in measured.values() for _, cut in found):,}"),
        ("trainings", f"{trainings}, the joint one of {steps:,} steps"),
        *forecast.tell_cost(base, recipe.plan, lengths, 1),
        *(("warning", text) for text in read.warnings),
    ]
