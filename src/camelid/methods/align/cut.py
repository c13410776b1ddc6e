"""A model that unlearns the words a written critique objects to, and learns all others of the same answer.

Weiwen Xu et al., "Reasons to Reject? Aligning Language Models with Judgments", 2023, arXiv 2312.14591 (CUT).

Problem. Somebody wrote what is wrong with a model's answers. A score would say that an answer is bad; a critique says
which words are. Where are they, and how does a model learn from them?

Algorithm. Instruction x, answer y of N tokens with its end, judgment j; contexts c(x) and c(x, j), which end alike.
 1. Examples. y that nothing is wrong with: c(x) -> y. y that j objects to: c(x, j) -> y, because y does fit "answer x
    so that j is true", and the same y behind c(x), which claims by its silence that y is well. Of the first kind at
    most floor(0.25 * those of the second) are kept, drawn with the seed.
 2. p-_t = p(y_t | y_<t, c(x, j)) and p+_t = p(y_t | y_<t, c(x)) of an answer that j objects to. What the judgment makes
    likelier is what it speaks of: U = {t : log p-_t - log p+_t > log lambda}, without gradient, lambda > 1.
 3. L1 = -1/N [ sum_{t not in U} log p+_t + sum_{t in U} alpha (p-_t)^gamma log(1 - p+_t) ], gradient through p+ alone.
 4. L2 = -1/N sum_t log p(y_t | y_<t, c), with c(x) where nothing is wrong with y and c(x, j) otherwise.
 5. Loss: the mean over examples of L1 + L2; an answer that nothing is wrong with has L2 alone.
 6. Offline: steps 1 to 5 on judged answers of any source. Online, in rounds: the model of the round before answers new
    instructions, a judge says what is wrong with each, and training goes on from that model.
 7. Answers are asked for with c(x): nobody needs a judgment any more.

Differs from the paper in:
 - gamma = 1: which of its values was chosen is not told. `loss_mode = "release"` is what the authors' code does: no
   dynamic weight, (L1 + L2) / 2 for answers that j objects to.
 - An answer is tokenised once, apart, and laid behind both contexts, so that its tokens are the same by construction.
   It is never cut: the context loses its beginning, or the row is left out and counted.
 - Each round goes on with the same adapter; the authors' start points of later rounds are not told.
 - Answers cut off at the limit are not judged: their end would be one that the model did not write.
 - The words of contexts and judge are ours. `layout = "chat"` lays them out in the model's own chat template.
 - The judge is any engine; the paper's AI judge, trained on judgments, is not here.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from camelid import bases, chat, data, forecast, models, preferences, recipe, sides
from camelid.branches import AnswerBatch, Answered, collate_answers, encode_answers
from camelid.critiques import Critic, criticise_answers
from camelid.data.columns import critique_shape, instruction_shape
from camelid.engines import Sampling
from camelid.errors import UserError, raise_all, try_all
from camelid.evaluation import evaluate
from camelid.logprobs import mean_by_answer, token_logprobs
from camelid.objectives import Sums, unlikelihood
from camelid.parsing import Parsed, is_refusal
from camelid.reading import pad_id
from camelid.rows import Critiqued, Marked, Prompt
from camelid.runs import Run, slug
from camelid.sides import Side
from camelid.token_flags import cut_pieces, cut_rows, locate_fault, score_detection, score_flags
from camelid.training import complain_of_plan, train

Layout = Literal["sections", "chat"]
Flag = Callable[[Tensor, Tensor], Tensor]
SATISFIED, JUDGED, PLAIN = 0.0, 1.0, 2.0  # what an answer's context is: c(x) of a good one; c(x, j); c(x) of a bad one
OURS, BEFORE = "CUT", "untrained"
RIVALS = {"mle": "likelihood alone", "all": "unlikelihood of all tokens"}
PARTS = ("train", "test")


class Judgments(recipe.Values):
    """Where the rows come from."""

    train: str = Field(default="", description="judged answers: file, named set, set:split or hub:<dataset id>")
    test: str | None = Field(default=None, description="judged answers to measure on; drawn from train when absent")
    instructions: str | None = Field(default=None, description="instructions that online rounds draw from")
    instruction: str = Field(default="instruction", description="column that holds the instruction")
    input: str = Field(default="input", description="column of what belongs to it, if there is one")
    output: str = Field(default="output", description="column that holds the answer")
    judgment: str = Field(default="judgment", description="column of what is wrong; empty: nothing is")
    score: str = Field(default="score", description="column of the answer's score, if there is one")
    good: float = Field(default=7.0, description="scores of so much and more say that nothing is wrong (paper: 7)")
    missing: Literal["error", "drop"] = Field(default="error", description="what to do with rows that lack a text")
    train_rows: int | None = Field(default=None, ge=1, description="train on so many answers that have a judgment")
    test_rows: int = Field(default=40, ge=1, description="measure on so many answers that have a judgment")


class Recipe(recipe.Recipe):
    """Values of contrastive unlikelihood training. `engine` is where the trained model answers, and the judge's."""

    data: Judgments = Field(default_factory=Judgments)
    plan: recipe.Plan = Field(default_factory=recipe.Plan)
    engine: recipe.Engine = Field(default_factory=recipe.Engine)
    judge: Side = Field(default_factory=Side)
    threshold: float = Field(
        default=1.2,
        gt=1,
        description="lambda: how much likelier the judgment makes a token it speaks of (paper: 1.1, 1.2)",
    )
    alpha: float = Field(default=0.5, gt=0, description="weight of unlikelihood (paper: 0.25, 0.5 or 1)")
    gamma: float = Field(default=1.0, ge=0, description="power of p- in its weight (paper: 0.25, 0.5, 1 or 2; 0: none)")
    loss_mode: Literal["paper", "release"] = Field(
        default="paper", description="release: no gamma, and the mean of both losses in place of their sum"
    )
    satisfied_share: float = Field(
        default=0.25,
        ge=0,
        description="most answers that nothing is wrong with, for each that has a judgment (paper: 0.25)",
    )
    layout: Layout = Field(
        default="sections", description="contexts as text in sections (paper), or in the model's chat template"
    )
    max_tokens: int = Field(default=384, ge=16, description="longest context with its answer (paper: 2048)")
    compare: tuple[Literal["mle", "all"], ...] = Field(
        default=("mle",),
        description="also train on data.train by likelihood alone (mle), or with every token as if condemned (all)",
    )
    rounds: int = Field(default=0, ge=0, description="online rounds (paper: 5)")
    round_rows: int = Field(default=1000, ge=1, description="new instructions of a round (paper: 1000)")
    start_at: Literal["current", "base"] = Field(
        default="current", description="train each round's model from that of the round before, or from the base"
    )
    temperature: float = Field(default=0.7, ge=0, description="of answers (paper: not told)")
    top_p: float = Field(default=0.95, gt=0, le=1, description="of answers")
    max_new_tokens: int = Field(default=256, ge=1, description="longest answer; longer ones are not judged")
    judgment_tokens: int = Field(default=256, ge=1, description="longest judgment")


def check(recipe: Recipe) -> list[tuple[str, str]]:
    """What a run would do, as (name, value) lines; raises UserError with every problem, before any model loads."""
    looks = {
        "base": lambda: bases.open_base(recipe.model.base, recipe.model.revision),
        "split": lambda: read_split(recipe),
        "drawn": lambda: draw_instructions(recipe),
    }
    found, problems = try_all(looks, _complaints(recipe))
    raise_all(problems)
    return _forecast(recipe, **found)


def run(recipe: Recipe, run: Run) -> None:
    """Judged answers, what their judgments speak of, the model, and what it makes of both; then rounds online."""
    split = cache(lambda: read_split(recipe))
    rows = {name: run.rows(name, lambda name=name: getattr(split(), name)) for name in ("train", "test")}  # step 1
    study = Study(recipe, run, cache(lambda: bases.open_base(recipe.model.base, recipe.model.revision)), rows)
    run.note("data", lambda: {"dropped": split().dropped | study.told.dropped, "warnings": []})
    folder = None
    if rows["train"]:
        show_contrast(study)  # step 2
        name = "offline" if recipe.rounds else "model"
        folder = fit(study, name, OURS, lambda: study.told.train, None)  # steps 3 to 5
        rivals = {RIVALS[each]: fit(study, each, each, lambda: study.told.train, None) for each in recipe.compare}
        compare(study, {OURS: folder, **rivals})
    if recipe.rounds:
        go_online(study, folder)  # step 6


# Step 1: examples


@dataclass(frozen=True)
class Split:
    """Judged answers to train on and to measure on, and what was left out."""

    train: list[Critiqued]
    test: list[Critiqued]
    dropped: dict[str, int]


def read_split(recipe: Recipe) -> Split:
    """Rows whose instructions do not meet. Raises UserError with what is wrong with the rows of either source."""
    values, dropped = recipe.data, Counter[str]()
    shape = critique_shape(values.instruction, values.input, values.output, values.judgment, values.score, values.good)
    given, held_out = (
        data.read_source(source, shape, values.missing, dropped) for source in (values.train, values.test)
    )
    draw = random.Random(f"{recipe.plan.seed} judgments")
    negative = [row for row in held_out or given if row.judgment]
    most = min(values.test_rows, len(negative) if held_out else len(negative) // 2)
    test = data.draw_rows(negative, most, draw)
    asked = {row.instruction for row in test}
    left = [row for row in given if row.instruction not in asked]
    train = choose_kinds(left, recipe.satisfied_share, values.train_rows, draw)
    if given and not (test and any(row.judgment for row in train)):
        what = f"{values.train} has too few answers with a judgment: {len(negative)}"
        raise UserError(what, "Give more, or check data.judgment, the column of what is wrong with an answer.")
    for name, kind in (("with a judgment", True), ("nothing is wrong with", False)):
        count = sum(bool(row.judgment) is kind for row in left) - sum(bool(row.judgment) is kind for row in train)
        dropped[f"train: answers {name}, more than were asked for"] = count
    met = len(given) - len(left) - (0 if held_out else len(test))
    dropped["train: answers to an instruction that is measured on"] = met
    dropped["test: answers that are not measured on"] = len(held_out) and len(held_out) - len(test)
    return Split(train, test, dict(+dropped))


def choose_kinds(rows: Sequence[Critiqued], share: float, most: int | None, draw: random.Random) -> list[Critiqued]:
    """At most `most` answers with a judgment, and of the others floor(share * those), in their old order."""
    negative, positive = ([row for row in rows if bool(row.judgment) is kind] for kind in (True, False))
    negative = data.draw_rows(negative, most, draw)
    kept = {row.id for row in [*negative, *data.draw_rows(positive, math.floor(share * len(negative)), draw)]}
    return [row for row in rows if row.id in kept]


@dataclass(frozen=True)
class Example:
    """An answer's tokens behind its contexts: c(x) of a good one, else c(x, j) and c(x). Both are read as one row."""

    id: str
    lines: tuple[Answered, ...]

    @property
    def size(self) -> int:
        return sum(line.size for line in self.lines)


def encode_example(tokenizer: Any, row: Critiqued, layout: Layout, max_tokens: int | None) -> Example | None:
    """The row's example; None where its answer, or the judgment before it, does not fit."""
    contexts = {JUDGED: row.judgment, PLAIN: ""} if row.judgment else {SATISFIED: ""}
    lines = []
    for kind, judgment in contexts.items():
        prompt = write_context(layout, row.instruction, judgment)
        line = encode_answers(tokenizer, row.id, prompt, (row.answer,), max_tokens)
        if line is None:
            return None
        lines.append(replace(line, values=((kind,),)))
    assert len({tuple(line.answers[0]) for line in lines}) == 1, "contexts change the tokens of the answer behind them"
    if len({tuple(line.prompt) for line in lines}) < len(lines):
        return None  # nothing of the judgment is left
    return Example(row.id, tuple(lines))


def encode_examples(recipe: Recipe, tokenizer: Any, rows: Sequence[Critiqued]) -> tuple[list[Example], dict[str, int]]:
    """The examples that fit, and how many did not or lost the beginning of a context."""
    told = [encode_example(tokenizer, row, recipe.layout, recipe.max_tokens) for row in rows]
    found = [example for example in told if example]
    if told and not found:
        what = f"none of {len(told)} answers fits with its judgment into {recipe.max_tokens} tokens"
        raise UserError(what, "Raise max_tokens.")
    counts = {
        f"answers that do not fit into {recipe.max_tokens} tokens": len(told) - len(found),
        "contexts cut at their beginning": sum(any(line.cut for line in example.lines) for example in found),
    }
    return found, dict(+Counter(counts))


def collate_examples(examples: Sequence[Example], pad_id: int) -> AnswerBatch:
    """A batch of answers, each behind one context; `values_SK` are their kinds. "loss" counts examples."""
    lines = [line for example in examples for line in example.lines]
    bad = [line for line in lines if line.values == ((PLAIN,),)]
    counts = {"loss": len(examples), "contrast": len(bad), "flagged": sum(len(line.answers[0]) for line in bad)}
    return replace(collate_answers(lines, pad_id, shares_prompt=False), counts=counts)


# Steps 2 to 5: the loss


def find_inappropriate(threshold: float, judged_N: Tensor, plain_N: Tensor) -> Tensor:
    """flagged_N: tokens of U, from log-probabilities in nats behind c(x, j) and c(x). Strictly above lambda."""
    return judged_N.detach() - plain_N.detach() > math.log(threshold)


def misalign_losses(judged_N: Tensor, plain_N: Tensor, flagged_N: Tensor, alpha: float, gamma: float) -> Tensor:
    """losses_N of eq. L1: -log p+, and -alpha (p-)^gamma log(1 - p+) where flagged; the weight is a constant."""
    return unlikelihood(plain_N, flagged_N, alpha * (gamma * judged_N.detach()).exp())


def contrast(flag: Flag, alpha: float, gamma: float, *, halved: bool = False) -> Callable[[Any, AnswerBatch], Sums]:
    """The loss of steps 3 to 5, on batches of `collate_examples`; `flag(judged_N, plain_N)` says which tokens are in U.

    `halved` takes (L1 + L2) / 2 of an answer that has a judgment.
    """
    share = 0.5 if halved else 1.0

    def objective(model: Any, batch: AnswerBatch) -> Sums:
        logprobs_N = token_logprobs(model, batch)
        kind_S = batch.values_SK[:, 0]
        judged_N, plain_N = (kind_S[batch.answer_N] == kind for kind in (JUDGED, PLAIN))
        assert torch.equal(batch.labels_N[judged_N], batch.labels_N[plain_N]), "contexts have different answers"
        flagged_N = flag(logprobs_N[judged_N], logprobs_N[plain_N])
        losses_N = misalign_losses(logprobs_N[judged_N], logprobs_N[plain_N], flagged_N, alpha, gamma)
        each_S = mean_by_answer((-logprobs_N).masked_scatter(plain_N, losses_N), batch)
        loss_S = torch.where(kind_S == SATISFIED, each_S, share * each_S)
        told = {"contrast": each_S[kind_S == PLAIN].sum(), "flagged": flagged_N.sum()}
        return {"loss": loss_S.sum()}, {name: float(value.detach()) for name, value in told.items()}

    return objective


def objective_of(recipe: Recipe, kind: str) -> Callable[[Any, AnswerBatch], Sums]:
    """The recipe's loss, or that of a rival: U empty ("mle"), or all tokens ("all")."""
    flags: dict[str, Flag] = {
        OURS: partial(find_inappropriate, recipe.threshold),
        "mle": lambda judged_N, plain_N: torch.zeros_like(plain_N, dtype=torch.bool),
        "all": lambda judged_N, plain_N: torch.ones_like(plain_N, dtype=torch.bool),
    }
    released = recipe.loss_mode == "release"
    return contrast(flags[kind], recipe.alpha, 0.0 if released else recipe.gamma, halved=released)


@dataclass(frozen=True)
class Told:
    """The rows as tokens, and what was left out."""

    train: list[Example]
    test: list[Example]
    dropped: dict[str, int]


@dataclass(frozen=True)
class Study:
    """What every step needs; base and tokens are made when first asked for."""

    recipe: Recipe
    run: Run
    base: Callable[[], Any]
    rows: dict[str, list[Critiqued]]

    @property
    def pad(self) -> int:
        return pad_id(self.base().tokenizer)

    @cached_property
    def told(self) -> Told:
        found, dropped = {}, {}
        for part, rows in self.rows.items():
            found[part], left = encode_examples(self.recipe, self.base().tokenizer, rows)
            dropped |= {f"{part}: {why}": count for why, count in left.items()}
        return Told(**found, dropped=dropped)

    def judged(self, part: str) -> list[Example]:
        """The examples of "train" or "test" that have a judgment."""
        return [example for example in getattr(self.told, part) if len(example.lines) == 2]


def fit(study: Study, name: str, kind: str, examples: Callable[[], Sequence[Example]], start: Path | None) -> Path:
    """A model trained on the examples as the plan says, from the base or from the adapter in `start`."""
    recipe, base = study.recipe, study.base

    def train_on(model: Any, folder: Path) -> None:
        batches = preferences.over_answers(examples(), recipe.plan, study.pad, collate_examples)
        train(model, batches, objective_of(recipe, kind), recipe.plan, folder=folder)

    return study.run.model(name, lambda: models.language_model(base(), {}, recipe.plan, start), train_on)


def measure(study: Study, name: str, folder: Path | None) -> dict[str, list[Any]]:
    """Log-probabilities of the tokens of answers with a judgment, behind c(x), by part; of the base behind c(x, j) too.

    Keys are "train" and "test", and "train judged" and "test judged".
    """
    kinds = {"": 1, " judged": 0} if folder is None else {"": 1}

    def make() -> dict[str, Any]:
        model = (
            models.language_model(study.base(), {}, study.recipe.plan)
            if folder is None
            else models.load_handle(folder)[0]
        )
        found = {}
        for part, (suffix, line) in product(PARTS, kinds.items()):
            rows = [example.lines[line] for example in study.judged(part)]
            told = preferences.measure_tokens(model, rows, study.pad, f"{name}, {part} rows")
            found[part + suffix] = np.array([value for (answer,) in told for value in answer], dtype=np.float32)
        return found

    flat = study.run.arrays(f"logprobs/{slug(name)}", make)
    sizes = {part: [len(example.lines[0].answers[0]) for example in study.judged(part)] for part in PARTS}
    return {key: cut_rows(values_N, sizes[key.partition(" ")[0]]) for key, values_N in flat.items()}


def flag_rows(study: Study, part: str) -> list[Any]:
    """U of each example that has a judgment, by the untrained model."""
    found, threshold = measure(study, BEFORE, None), study.recipe.threshold
    both = zip(found[f"{part} judged"], found[part], strict=True)
    return [find_inappropriate(threshold, *map(torch.from_numpy, pair)).numpy() for pair in both]


def show_contrast(study: Study) -> None:
    """What the untrained model finds that judgments speak of: for the report, and against faults that are known."""
    found = measure(study, BEFORE, None)
    rows = {part: {row.id: row for row in study.rows[part]} for part in PARTS}
    faults, ratios, surprises = [], [], []
    for part in PARTS:
        for example, judged_N, plain_N in zip(study.judged(part), found[f"{part} judged"], found[part], strict=True):
            row, ids = rows[part][example.id], example.lines[0].answers[0]
            faults.append(locate_fault(study.base().tokenizer, row.answer, row.fault, ids))
            ratios.append(judged_N - plain_N)
            surprises.append(-plain_N)
    # a wrong word is unlikely without any judgment: what the judgment adds shows beside that
    rivals, threshold = {"surprise alone": surprises}, math.log(study.recipe.threshold)
    study.run.scores("detection", lambda: score_detection(ratios, faults, threshold, rivals))

    def mark() -> Iterator[Marked]:
        for example, flags in zip(study.judged("test"), flag_rows(study, "test"), strict=True):
            row = rows["test"][example.id]
            pieces = cut_pieces(study.base().tokenizer, example.lines[0].answers[0], flags)
            yield Marked(row.id, row.origin, *pieces, row.judgment)

    study.run.rows("marked/test", mark)


def compare(study: Study, folders: dict[str, Path]) -> None:
    """What each model makes of U and of the other tokens behind c(x), on the measured rows and on the trained ones."""
    found = {name: measure(study, name, folder) for name, folder in {**folders, BEFORE: None}.items()}
    for entry, part in {"held_out": "test", "trained_rows": "train"}.items():
        systems: Any = {name: each[part] for name, each in found.items()}
        scorer = score_flags(flag_rows(study, part))
        # U is where the untrained model's p+ is low, so that it has a contrast by construction: no rival
        made = partial(evaluate, systems, (), OURS, "contrast", {*folders}, {BEFORE}, scorer)
        study.run.scores(entry, lambda part=part, made=made: {"split": part, **made()})


# Step 6: rounds of answers and judgments


def draw_instructions(recipe: Recipe) -> list[list[Critiqued]]:
    """Different instructions for each round, and for the judgments after the last one, none of them measured on."""
    if not recipe.data.instructions:
        return []
    values = recipe.data
    rows = data.read_source(values.instructions, instruction_shape(values.instruction, values.input), values.missing)
    told = {row.instruction: row for row in rows}
    held = {row.instruction for row in read_split(recipe).test} if values.train or values.test else set()
    left = [row for text, row in told.items() if text not in held]
    need = (recipe.rounds + 1) * recipe.round_rows
    if len(left) < need:
        what = f"{values.instructions} has {len(left):,} different instructions, and {need:,} are needed"
        raise UserError(what, f"{recipe.rounds} rounds and the judgments after them need round_rows each: lower it.")
    drawn = random.Random(f"{recipe.plan.seed} rounds").sample(left, need)
    return [drawn[start : start + recipe.round_rows] for start in range(0, need, recipe.round_rows)]


def go_online(study: Study, folder: Path | None) -> None:
    """Answers, judgments and training by turns; after the last round answers are judged once more."""
    drawn, shares = cache(lambda: draw_instructions(study.recipe)), []
    for number in range(1, study.recipe.rounds + 2):
        place = f"round-{number}"
        asked = study.run.rows(f"{place}/instructions", lambda number=number: drawn()[number - 1])
        rows, facts = judge_answers(study, place, asked, folder)
        shares.append((number - 1, facts["satisfied"]["value"]))
        if number <= study.recipe.rounds:
            folder = learn_from(study, number, rows, facts, folder)
        else:
            study.run.scores("after the last round", lambda facts=facts: facts)
    curve = {"x": "rounds of training", "y": "share of answers judged perfect", "lines": {OURS: shares}}
    study.run.scores("curves", lambda: curve)


def judge_answers(
    study: Study, place: str, asked: Sequence[Critiqued], folder: Path | None
) -> tuple[list[Critiqued], dict[str, Any]]:
    """The answers of the model in `folder` (None: the base) with their judgments, and what became of all."""
    recipe = study.recipe
    opened = partial(sides.open_side, model=recipe.model, engine=recipe.engine, scores=False)
    return criticise_answers(
        study.run,
        place,
        asked,
        writer=lambda: opened(Side(), adapted=folder),
        prompt_of=lambda row: write_context(recipe.layout, row.instruction, ""),
        sampling=Sampling(recipe.max_new_tokens, recipe.temperature, recipe.top_p),
        critic=Critic(lambda: opened(recipe.judge), ask_judgment, parse_judgment, Sampling(recipe.judgment_tokens)),
        seed=recipe.plan.seed,
    )


def learn_from(
    study: Study, number: int, rows: Sequence[Critiqued], facts: dict[str, Any], folder: Path | None
) -> Path:
    """The model of a round, trained on its judged answers from that of the round before, or from the base."""
    recipe, run, place = study.recipe, study.run, f"round-{number}"
    if not any(row.judgment for row in rows):
        raise UserError(f"the judge finds nothing wrong with any answer of round {number}", "Give a stricter judge.")
    draw = random.Random(f"{recipe.plan.seed} {place}")
    chosen = run.rows(f"{place}/chosen", lambda: choose_kinds(rows, recipe.satisfied_share, None, draw))
    told = cache(lambda: encode_examples(recipe, study.base().tokenizer, chosen))
    run.scores(place, lambda: {**facts, "trained on": len(told()[0]), "left out": told()[1]})
    start = folder if recipe.start_at == "current" else None
    name = "model" if number == recipe.rounds else f"{place}/model"
    return fit(study, name, OURS, lambda: told()[0], start)


def parse_judgment(text: str) -> Parsed:
    """What is wrong with an answer, "" where the reply begins with "perfect"; a judge that declines says nothing."""
    said = text.strip()
    if said.lstrip("\"'*").lower().startswith("perfect"):
        return Parsed("value", "")
    if not said or is_refusal(said):
        return Parsed("malformed", detail="is no judgment" if said else "is empty")
    return Parsed("value", said)


# Problems and the forecast


def _complaints(recipe: Recipe) -> list[tuple[str, str]]:
    """Fields that contradict each other, as (what, fix)."""
    found, values = sides.complain_of("judge", recipe.judge), recipe.data
    if not (values.train or recipe.rounds):
        what = "there is nothing to learn from"
        found.append((what, "Give judged answers (--data FILE), or online rounds (--rounds 3 --instructions FILE)."))
    if bool(recipe.rounds) != bool(values.instructions):
        found.append(("rounds and data.instructions go together", "Give both, or neither."))
    if recipe.rounds and (recipe.engine.kind != "local" or recipe.engine.ray):
        what = "the model that is trained answers by itself, and engine.kind is not local"
        found.append((what, "Leave engine.kind; a judge at an endpoint is named by judge.url and judge.name."))
    return found + complain_of_plan(recipe.plan)


def _forecast(recipe: Recipe, base: bases.Base, split: Split, drawn: list[list[Critiqued]]) -> list[tuple[str, str]]:
    """Rows, what was left out, tokens, steps, and what it costs; without the rounds, whose judgments nobody knows."""
    study = Study(recipe, None, lambda: base, {"train": split.train, "test": split.test})  # type: ignore[arg-type]
    told = study.told
    negative = {part: len(study.judged(part)) for part in PARTS}
    lines = [
        ("rows", f"train {negative['train']:,} with a judgment and {len(told.train) - negative['train']:,} without, "
                 f"test {negative['test']:,}"),
        ("rows left out", forecast.tell_dropped(split.dropped | told.dropped)),
    ]  # fmt: skip
    if told.train:
        lengths = {part: [example.size for example in getattr(told, part)] for part in PARTS}
        steps = -(-len(told.train) // recipe.plan.batch_rows) * recipe.plan.epochs
        lines.append(
            ("steps", f"{steps} of {recipe.plan.batch_rows} answers, in each of {1 + len(recipe.compare)} trainings")
        )
        lines += forecast.tell_cost(base, recipe.plan, lengths, 1 + len(recipe.compare))
    if drawn:
        judge = recipe.judge.name or recipe.judge.adapted or recipe.judge.base or recipe.model.base
        lines.append(("online", f"{recipe.rounds} rounds, {sum(map(len, drawn)):,} answers and judgments by {judge}"))
    if bases.resolve_precision(recipe.plan.precision) == "bfloat16":
        what = "log p- - log p+ is off by some 0.07 nats in bfloat16, where log lambda is"
        lines.append(
            ("precision", f"{what} {math.log(recipe.threshold):.2f}; float32 is exact and takes twice as long")
        )
    return lines


# Prompts, in our own words


def write_context(layout: Layout, instruction: str, judgment: str) -> Prompt:
    """c(x), or c(x, j) where there is a judgment."""
    if layout == "chat":
        asked = f"{instruction}\n\n{FITTING}\n{judgment}" if judgment else instruction
        return chat.converse(asked)
    parts = [WITH if judgment else WITHOUT, f"### Instruction:\n{instruction}"]
    parts += [f"### Judgment:\n{judgment}"] if judgment else []
    return "\n\n".join([*parts, "### Response:\n"])


def ask_judgment(row: Critiqued) -> Prompt:
    """What the judge is asked."""
    return chat.converse(f"Instruction:\n{row.instruction}\n\nResponse:\n{row.answer}", system=JUDGE)


WITHOUT = "Here is an instruction for a task. Write a response that does what it asks."
WITH = f"{WITHOUT} The response must be one that the judgment is true of."
FITTING = "Your answer must be one that this judgment is true of:"
JUDGE = (
    "You check responses to instructions. Reply with the single word Perfect if nothing is wrong with the response. "
    "Otherwise name each mistake exactly and say what would be right. Do not praise, and do not write a new response."
)
