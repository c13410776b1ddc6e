"""A model that improves on its own judgements, contrasting answers of its past with answers of its near future.

Yidong Wang et al., "Temporal Self-Rewarding Language Models: Decoupling Chosen-Rejected via Past-Future", 2025, arXiv
2508.06026. Its base: Weizhe Yuan et al., "Self-Rewarding Language Models", 2024, arXiv 2401.10020 (SR).

Problem. SR writes answers, judges them itself, and is tuned by DPO on its best against its worst one. Both improve
together and become alike, so that the loss has nothing left to tell apart. Here the rejected answer may come from the
first model, and the chosen one also from a model that exists only to write it.

Algorithm. M_0 is the base, or an adapter that was tuned before, or one tuned here on rows that answer (IFT) and rows
that judge (EFT). Iteration i = 0, 1, ... has a chunk of new prompts; M_i is the judge throughout.
 1. K answers r_i of M_i and K of M_0, r_0, to each prompt; where M_i still is M_0 one set serves as both.
 2. M_i scores every answer: s_i, s_0. A score is the mean of J sampled judgements that could be read, from 0 to 5.
 3. chosen = r_i[argmax s_i].
 4. rejected = r_0[argmin s_0] if min(s_0) < min(s_i), else r_i[argmin s_i].
 5. D_1 = the pairs with s(chosen) > s(rejected).
 6. M_f = DPO from M_i, against M_i, on D_1: a future model with an optimiser of its own.
 7. K answers r_f of M_f; M_i scores them: s_f.
 8. chosen = r_f[argmax s_f] if max(s_f) > max(s_i), else r_i[argmax s_i].
 9. rejected is that of step 4, for every prompt of the chunk. D_2 = the pairs with s(chosen) > s(rejected).
10. M_{i+1} = DPO from M_i (not from M_f), against M_i, on D_2. M_f serves no further.
 DPO: -log sigmoid(beta [log pi(c|x)/pi_ref(c|x) - log pi(r|x)/pi_ref(r|x)]), over the answers' tokens with their end.
 `pairs`: "self-rewarding" is steps 1 to 3, the worst r_i, and 10; "past" adds step 4; "future" has 6 to 8 without it.
 For one M_i: max(s_i, s_f) - min(s_i, s_0) >= max(s_i) - min(s_i, s_0) >= max(s_i) - min(s_i): no gap is smaller.

Differs from the paper in:
 - Of equal scores the first in a drawn order counts. An answer without a score is left out; a prompt has a pair if any
   answer is left for each side. Answers cut off at the limit are used as they are, and counted.
 - Where no pair is left M_i is kept. Thresholds (`least_pairs`, `least_gap`) end the run; the paper has none.
 - Beside the model itself M_0, another model, a reward model, or a rule of form may judge.
 - Prompts are given, not written by the model (SR). M_0, M_i and M_f are adapters of one base; SR tunes every weight.
 - Held-out answers are scored by the judge too, with M_0 in place of M_i.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
from pydantic import Field

from camelid import bases, data, engines, forecast, labelling, models, objectives, preferences, recipe, sides
from camelid.branches import Answered, encode_all
from camelid.candidates import draw_candidates
from camelid.chat import converse, encode_prompt
from camelid.data.columns import Problem, Shape, lesson_shape, preference_shape, prompt_shape, text_in
from camelid.engines import Engine, Sampling
from camelid.errors import UserError, raise_all, try_all
from camelid.evaluation import evaluate, score_means
from camelid.judges import (
    Answers,
    Drawn,
    Judge,
    Parts,
    Scored,
    Writer,
    describe_answers,
    describe_judgements,
    draw_and_judge,
    judge_all,
    judge_by_model,
    judge_by_rewards,
    judge_by_rule,
    measure_agreement,
    penalise_length,
)
from camelid.parsing import parse_behind, parse_score
from camelid.reading import pad_id
from camelid.recipe import Data
from camelid.rows import Graded, Message, Predicted, Preference
from camelid.runs import Run, slug
from camelid.sides import Side
from camelid.training import complain_of_plan, train
from camelid.verify.form import Form, count_words, grade_form

OURS, PLAIN, START = "temporal self-rewarding", "self-rewarding", "start"
PRESENT, PAST, FUTURE = ROLES = ("present", "past", "future")
NEXT = "next"
LEAST, MOST, MARKER = 0, 5, "Score:"
read_score = parse_behind(MARKER, parse_score(LEAST, MOST))


class Prompts(recipe.Values):
    """Where prompts come from: files, named sets of pairs (their prompts), set:split or hub:<dataset id>."""

    train: str = Field(default="", description="prompts that are answered and judged")
    test: str | None = Field(default=None, description="prompts to measure on; drawn from train when absent")
    prompt: str = Field(default="prompt", description="column that holds the prompt, in all files")
    missing: Literal["error", "drop"] = Field(default="error", description="what to do with rows that lack a text")
    chunk: int | None = Field(
        default=None, ge=1, description="prompts an iteration (paper: 4,000); train shared out evenly when absent"
    )
    test_rows: int = Field(default=40, ge=2, description="measure on so many prompts, drawn with the seed")
    prompt_tokens: int = Field(default=128, ge=8, description="longer prompts are left out")
    lessons: str | None = Field(default=None, description="IFT: rows that answer, for M_0 (paper: 5,000)")
    answer: str = Field(default="answer", description="column of lessons and verdicts with the answer")
    verdicts: str | None = Field(default=None, description="EFT: answers with a judgement, for M_0 (paper: 1,871)")
    verdict: str = Field(default="verdict", description="column of verdicts with the judgement; it ends in a score")
    probe: str | None = Field(default=None, description="pairs to try the judge on: columns prompt, chosen, rejected")
    probe_rows: int = Field(default=50, ge=2, description="try the judge on so many pairs")


class Recipe(recipe.Recipe):
    """Values of a self-rewarding loop."""

    data: Prompts = Field(default_factory=Prompts)
    plan: recipe.Plan = Field(default_factory=recipe.Plan)
    engine: recipe.Engine = Field(default_factory=recipe.Engine)
    start: str = Field(default="", description="folder of a language model that camelid trained, as M_0 or to tune on")
    pairs: Literal["self-rewarding", "past", "future", "both"] = Field(
        default="both", description="whose answers make a pair beside those of M_i (paper: both)"
    )
    iterations: int = Field(default=2, ge=1, description="of `pairs` (paper: 2; SR: 3)")
    compare_iterations: int = Field(
        default=0,
        ge=0,
        description="also so many of self-rewarding from the same M_0; twice as many tune as often",
    )
    answers: int = Field(default=7, ge=2, description="K: answers of a model to a prompt (paper: 7; SR: 4)")
    temperature: float = Field(default=0.7, gt=0, description="of the answers (paper: not told; SR: 0.7)")
    top_p: float = Field(default=0.9, gt=0, le=1, description="of the answers (paper: not told; SR: 0.9)")
    max_new_tokens: int = Field(default=512, ge=1, description="longest answer (paper: not told)")
    judge: Literal["self", "frozen", "model", "reward", "rule"] = Field(
        default="self",
        description="M_i (paper), M_0, that of [judge_model], a reward model, or the rule of [form]",
    )
    judge_model: Side = Field(default_factory=Side)
    reward_model: str = Field(default="", description="folder of a reward model of camelid, where that judges")
    form: Form = Field(default_factory=Form)
    judgements: int = Field(default=3, ge=1, description="J: of a model for each answer (paper: not told; SR: 3)")
    judge_temperature: float = Field(default=0.7, ge=0, description="of judgements (paper: not told)")
    judge_tokens: int = Field(default=256, ge=8, description="longest judgement")
    length_penalty: float = Field(default=0.0, ge=0, description="points taken off a score for 100 words (paper: none)")
    loss: Literal["dpo", "ipo"] = Field(default="dpo", description="of the pairs (paper: dpo)")
    beta: float = Field(default=0.1, gt=0, description="of DPO or IPO (paper: not told; SR: 0.1)")
    pair_tokens: int = Field(default=1024, ge=16, description="longest prompt with an answer; a prompt loses its front")
    least_pairs: int = Field(default=0, ge=0, description="end before tuning on fewer pairs (paper: goes on)")
    least_gap: float = Field(default=0.0, ge=0, description="end before tuning on a smaller mean gap (paper: goes on)")
    test_answers: int = Field(default=1, ge=1, description="answers to each held-out prompt")


@dataclass(frozen=True)
class Found:
    """What is read before any model is loaded. Rows of prompts have no answers yet."""

    prompts: list[Preference]
    test: list[Preference]
    lessons: list[Preference]
    probe: list[Preference]
    dropped: dict[str, int]


@dataclass(frozen=True)
class PairRule:
    """Whether the rejected answer may come from M_0, and the chosen one from M_f."""

    past: bool
    future: bool

    def price(self, is_first: bool, answers: int, judgements: int) -> dict[str, int]:
        """What an iteration costs: answers and judgements a prompt, and runs of DPO."""
        sets = 1 + (self.past and not is_first) + self.future
        return {"answers": sets * answers, "judgements": sets * answers * judgements, "DPO runs": 1 + self.future}


RULES = {
    PLAIN: PairRule(past=False, future=False),
    "past": PairRule(past=True, future=False),
    "future": PairRule(past=False, future=True),
    "both": PairRule(past=True, future=True),
}


@dataclass(frozen=True)
class Step:
    """An iteration: where its stages lie, its number and chunk, and the folders of M_0 and M_i."""

    place: str
    number: int
    rows: Sequence[Preference]
    start: Path
    model: Path


@dataclass(frozen=True)
class Tuned:
    """The folder of a model, and what is known of its tuning; nothing where it was not tuned."""

    model: Path
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """What came of an iteration: its model, its figures, the gaps of the pairs tuned on, whether the loop ends."""

    model: Path
    facts: dict[str, Any] = field(default_factory=dict)
    gaps: tuple[float, ...] = ()
    ended: bool = False


def check(recipe: Recipe) -> list[tuple[str, str]]:
    """What a run would do, as (name, value) lines; raises UserError with every problem, before any model loads."""
    found, problems = try_all({"rows": lambda: read(recipe)}, complaints(recipe))
    raise_all(problems)
    return describe(recipe, found["rows"])


def run(recipe: Recipe, run: Run, parts: Parts | None = None) -> None:
    """Prompts, M_0, iterations, the same of plain self-rewarding if wanted, and held-out answers of the models.

    `parts` are writer and judge of one's own, instead of those that the recipe names.
    """
    found = cache(lambda: read(recipe))
    prompts, test = run.rows("prompts", lambda: found().prompts), run.rows("test", lambda: found().test)
    lessons = run.rows("lessons/rows", lambda: found().lessons)
    run.note("data", lambda: {"dropped": found().dropped, "warnings": []})
    start = make_start(recipe, run, lessons)
    parts = parts or parts_of(recipe, start)
    if recipe.data.probe:
        try_judge(run, parts.judge, start, run.rows("probe/rows", lambda: found().probe))

    chunks = share_out(recipe, prompts)
    loops = {
        name: bootstrap(recipe, run, parts, name, rule, chunks[:count], start) for name, rule, count in loops_of(recipe)
    }
    final = next(iter(loops.values()))[-1].model
    build = lambda: models.language_model(open_base(recipe), {}, recipe.plan, final)  # noqa: E731
    run.model("model", build, lambda model, folder: None)
    compare(recipe, run, parts, start, loops, test)


def loops_of(recipe: Recipe) -> list[tuple[str, PairRule, int]]:
    """(name, rule, iterations) of what is run from M_0: ours, and plain self-rewarding beside it if wanted."""
    name = OURS if recipe.pairs == "both" else recipe.pairs
    plain = [(PLAIN, RULES[PLAIN], recipe.compare_iterations)] if recipe.compare_iterations else []
    return [(name, RULES[recipe.pairs], recipe.iterations), *(plain if recipe.pairs != PLAIN else [])]


# Rows


def read(recipe: Recipe) -> Found:
    """Prompts to answer and others to measure on, lessons for M_0, and pairs to try the judge on.

    Raises UserError with what is wrong with the rows, and when there are too few.
    """
    values, dropped, problems = recipe.data, Counter[str](), []
    tokenizer = open_base(recipe).tokenizer

    def look(source: str | None, shape: Shape, of: str) -> list[Any]:
        left = Counter[str]()
        try:
            rows = data.read_rows(source, Data(missing=values.missing), shape=shape, dropped=left) if source else []
        except UserError as error:
            problems.extend(error.all())
            return []
        dropped.update({f"{of}: {why}": count for why, count in left.items()})
        return rows

    prompts, test = (look(source, prompt_shape(values.prompt), "prompts") for source in (values.train, values.test))
    lessons = look(values.lessons, lesson_shape(values.prompt, values.answer), "lessons")
    lessons += look(values.verdicts, verdict_shape(values), "verdicts")
    probe = look(values.probe, preference_shape("prompt", "chosen", "rejected"), "probe")
    raise_all(problems)
    draw = random.Random(f"{recipe.plan.seed} prompts")
    short, held = (keep_short(tokenizer, rows, values.prompt_tokens, dropped) for rows in (prompts, test))
    measured = held if values.test else short
    test = draw.sample(measured, min(values.test_rows, len(measured)))
    asked = {row.prompt for row in test}
    prompts = [row for row in draw.sample(short, len(short)) if row.prompt not in asked]
    if values.test and len(prompts) < len(short):
        dropped["prompts: held out"] += len(short) - len(prompts)
    check_enough(recipe, prompts, test)
    return Found(prompts, test, lessons, draw.sample(probe, min(values.probe_rows, len(probe))), dict(dropped))


def keep_short(tokenizer: Any, rows: Sequence[Preference], longest: int, dropped: Counter[str]) -> list[Preference]:
    """Each prompt once, without its answers, and without long ones, which are counted."""
    kept: dict[tuple[Message, ...], Preference] = {}
    for row in rows:
        if row.prompt in kept:
            dropped["prompts: there before"] += 1
        elif len(encode_prompt(tokenizer, row.prompt)) > longest:
            dropped[f"prompts: longer than {longest} tokens"] += 1
        else:
            kept[row.prompt] = replace(row, chosen="", rejected="")
    return list(kept.values())


def check_enough(recipe: Recipe, prompts: Sequence[Preference], test: Sequence[Preference]) -> None:
    """UserError where a chunk would be missing: no prompt is used twice."""
    iterations = max(count for _, _, count in loops_of(recipe))
    wanted = iterations * (recipe.data.chunk or 1)
    if len(prompts) < wanted or len(test) < 2:
        raise UserError(
            f"{recipe.data.train} leaves {len(prompts)} prompts to answer, and there are {len(test)} to measure on; "
            f"{iterations} iterations need {wanted}, and 2",
            "Give more prompts, lower data.chunk or data.test_rows, or raise data.prompt_tokens.",
        )


def share_out(recipe: Recipe, prompts: Sequence[Preference]) -> list[Sequence[Preference]]:
    """The chunk of each iteration; none shares a prompt with another."""
    iterations = max(count for _, _, count in loops_of(recipe))
    size = recipe.data.chunk or len(prompts) // iterations
    return [prompts[number * size : (number + 1) * size] for number in range(iterations)]


def verdict_shape(values: Prompts) -> Shape:
    """EFT: the judge's prompt with the judgement that M_0 learns, as `chosen`; it must end in a score."""
    columns = (values.prompt, values.answer, values.verdict)

    def convert(row_id: str, origin: str, cells: dict[str, Any]) -> Preference | Problem:
        texts = [text_in(cells, column) for column in columns]
        if wrong := next((text for text in texts if isinstance(text, Problem)), None):
            return wrong
        prompt, answer, verdict = map(str, texts)
        if (parsed := read_score(verdict)).outcome != "value":
            what = f"column {values.verdict!r} ends in no score from {LEAST} to {MOST}"
            fix = f'End each judgement in a line such as "{MARKER} 3", or leave such rows out: --missing drop'
            return Problem(what, fix, missing=True, detail=parsed.detail)
        return Preference(row_id, origin, ask_judge(converse(prompt), answer), verdict, "")

    return Shape(Preference, convert, columns, "--set data.prompt, data.answer and data.verdict")


# M_0, who writes and who judges


def open_base(recipe: Recipe) -> bases.Base:
    return bases.open_base(recipe.model.base, recipe.model.revision)


def make_start(recipe: Recipe, run: Run, lessons: Sequence[Preference]) -> Path:
    """M_0 as an adapter, so that all models of the loop are of one kind: a new one changes nothing of the base."""
    base = cache(lambda: open_base(recipe))

    def fit(model: Any, folder: Path) -> None:
        if lessons:
            told = [(row.prompt, row.chosen) for row in lessons]
            labelling.fit_answers(model, base().tokenizer, told, recipe.plan, folder)

    given = Path(recipe.start) if recipe.start else None
    return run.model(START, lambda: models.language_model(base(), {}, recipe.plan, given), fit)


def parts_of(recipe: Recipe, start: Path) -> Parts:
    """Writer and judge that the recipe names."""

    def open_model(folder: Path) -> Engine:
        return engines.open_engine(recipe.engine, recipe.model, folder)

    def writer(folder: Path) -> Writer:
        engine, sampling = open_model(folder), Sampling(recipe.max_new_tokens, recipe.temperature, recipe.top_p)
        return lambda rows, count, seed: draw_candidates(engine, rows, sampling, count, seed, keeps_cut=True)

    def judge(folder: Path) -> Judge:
        if recipe.judge == "rule":
            return judge_by_rule(lambda text: grade_form(text, recipe.form))
        if recipe.judge == "reward":
            from camelid.reward_model import RewardModel

            return judge_by_rewards(RewardModel.load(recipe.reward_model).score_many)
        if recipe.judge == "model":
            engine = sides.open_side(recipe.judge_model, recipe.model, recipe.engine, scores=False)
        else:
            engine = open_model(start if recipe.judge == "frozen" else folder)
        sampling = Sampling(recipe.judge_tokens, recipe.judge_temperature)
        return judge_by_model(engine, ask_judge, read_score, sampling, recipe.judgements, recipe.plan.seed)

    return Parts(writer, lambda folder: penalise_length(judge(folder), recipe.length_penalty))


def try_judge(run: Run, judge: Callable[[Path], Judge], start: Path, pairs: Sequence[Preference]) -> None:
    """How often the judge, with M_0 in place of M_i, gives the preferred answer of a pair the higher score."""
    asked = [Answers(row.id, row.origin, row.prompt, (row.chosen, row.rejected)) for row in pairs]
    judged = judge_all(run, "probe/scores", asked, lambda: judge(start))
    run.scores("judge", lambda: measure_agreement(judged) | describe_judgements(judged))


# The pair: steps 3, 4, 5, 8 and 9


def pick_chosen(present: Scored, future: Scored) -> Scored:
    """Whose best answer is chosen: the future model's only if its best score is strictly higher."""
    best = max(present.scores, default=-np.inf)
    return future if max(future.scores, default=-np.inf) > best else present


def pick_rejected(present: Scored, past: Scored) -> Scored:
    """Whose worst answer is rejected: the past model's only if its worst score is strictly lower."""
    worst = min(present.scores, default=np.inf)
    return past if min(past.scores, default=np.inf) < worst else present


def find_first(values: Sequence[float], order: Sequence[int], *, largest: bool) -> int:
    """The place of the largest or least value, of equal ones the one that comes first in `order`."""
    return (max if largest else min)(order, key=values.__getitem__)


def contrast(row: Preference, present: Scored, past: Scored, future: Scored, draw: random.Random) -> Graded | str:
    """The pair of a prompt, or why there is none. A role that takes no part is given without answers."""
    picked = []
    for side, largest in ((pick_chosen(present, future), True), (pick_rejected(present, past), False)):
        if not side.scores:
            return "no scored answer for one side"
        order = draw.sample(range(len(side.scores)), len(side.scores))
        place = find_first(side.scores, order, largest=largest)
        picked.append((side.role, side.texts[place], side.scores[place]))
    (winner, chosen, high), (loser, rejected, low) = picked
    if high <= low:
        return "no difference of score"
    if chosen == rejected:  # of a judge that draws its judgements anew
        return "equal answers"
    return Graded(
        row.id, row.origin, row.prompt, chosen, rejected,
        score_chosen=high, score_rejected=low, source={"chosen": winner, "rejected": loser},
    )  # fmt: skip


def pair_up(
    rows: Sequence[Preference], seed: str, present: Sequence[Scored], past: Sequence[Scored], future: Sequence[Scored]
) -> tuple[list[Graded], dict[str, int]]:
    """The pairs of a chunk, and how many prompts have none, by reason."""
    draws = (random.Random(f"{seed} {row.id}") for row in rows)
    found = [contrast(*each) for each in zip(rows, present, past, future, draws, strict=True)]
    left = Counter(one for one in found if isinstance(one, str))
    return [one for one in found if isinstance(one, Graded)], dict(left)


def gap(pair: Graded) -> float:
    """s(chosen) - s(rejected)."""
    return pair.score_chosen - pair.score_rejected


def is_spent(recipe: Recipe, pairs: Sequence[Graded]) -> bool:
    """Whether pairs or their mean gap are below the recipe's thresholds."""
    return len(pairs) < recipe.least_pairs or (bool(pairs) and fmean(map(gap, pairs)) < recipe.least_gap)


# The loop


def bootstrap(
    recipe: Recipe, run: Run, parts: Parts, name: str, rule: PairRule, chunks: Sequence[Any], start: Path
) -> list[Done]:
    """M_0 and what came of each iteration."""
    done = [Done(start)]
    for number, rows in enumerate(chunks):
        step = Step(f"{slug(name)}/iteration-{number}", number, rows, start, done[-1].model)
        done.append(iterate(recipe, run, parts, rule, step))
        if done[-1].ended:
            break
    return done


def iterate(recipe: Recipe, run: Run, parts: Parts, rule: PairRule, step: Step) -> Done:
    """One iteration: M_{i+1}, or M_i where there is nothing to learn from."""
    ask, nobody = partial(answer, recipe, run, parts, step), [Scored()] * len(step.rows)
    drawn = {PRESENT: ask(PRESENT, step.model)}  # steps 1 and 2
    if rule.past and step.model != step.start:
        drawn[PAST] = ask(PAST, step.start)
    phases, pairs, tuned, ended = {}, [], Tuned(step.model), False
    for phase, stage in enumerate((FUTURE, NEXT) if rule.future else (NEXT,), 1):
        scored = [drawn[role].scored if role in drawn else nobody for role in ROLES]
        pairs, left = pair_up(step.rows, f"{recipe.plan.seed} ties {step.number}", *scored)  # steps 3 to 5, 8 and 9
        pairs = run.rows(f"{step.place}/pairs-{phase}", lambda pairs=pairs: pairs)
        ended = is_spent(recipe, pairs)
        tuned = Tuned(step.model) if ended else tune(recipe, run, step, stage, pairs)  # steps 6 and 10
        phases[f"phase {phase}"] = describe_pairs(pairs, left) | tuned.facts
        if ended:
            break
        if stage == FUTURE:
            drawn[FUTURE] = ask(FUTURE, tuned.model)  # step 7
    spent = count_work(recipe, len(step.rows), drawn.values(), phases)
    answers = {role: describe_answers(each) for role, each in drawn.items()}
    report = {"prompts": len(step.rows), "spent": spent, "answers": answers, **phases}
    facts = run.scores(step.place.replace("/", ", "), lambda: report)
    return Done(tuned.model, facts, tuple(map(gap, pairs)), ended)


def answer(recipe: Recipe, run: Run, parts: Parts, step: Step, role: str, model: Path) -> Drawn:
    """Steps 1, 2 and 7: K answers of a model to each prompt of the chunk, scored by the judge that M_i is."""
    # other noise for each role, or a model little changed would write the same texts again
    seed = recipe.plan.seed + len(ROLES) * step.number + ROLES.index(role)
    place = f"{step.place}/{{}}-{role}"
    return draw_and_judge(
        run, place, step.rows, parts, role=role, model=model, judge=step.model, count=recipe.answers, seed=seed
    )


def tune(recipe: Recipe, run: Run, step: Step, name: str, pairs: Sequence[Graded]) -> Tuned:
    """Steps 6 and 10: DPO that begins at M_i and refers to M_i; M_i itself where no pair is left."""
    base = open_base(recipe)
    told, left = encode_all(base.tokenizer, pairs, recipe.pair_tokens)
    facts: dict[str, Any] = {"left out of DPO": left} if left else {}
    if not told:
        return Tuned(step.model, facts)
    pad, loss = pad_id(base.tokenizer), objectives.dpo if recipe.loss == "dpo" else objectives.ipo
    reference, after = (f"{step.place}/{when}-{name}" for when in ("reference", "after"))

    def look(model: Any) -> Any:
        return np.array(preferences.measure_logprobs(model, told, pad, "log-probabilities"), dtype=np.float32)

    def fit(model: Any, folder: Path) -> None:
        before = run.arrays(reference, lambda: {"logprobs": look(model), "cosine": compare_states(model, told, pad)})
        rows = preferences.with_reference(told, before["logprobs"].tolist())
        batches = preferences.over_answers(rows, recipe.plan, pad)
        train(model, batches, loss(recipe.beta), recipe.plan, folder=folder)
        run.arrays(after, lambda: {"logprobs": look(model)})

    build = lambda: models.language_model(base, {}, recipe.plan, step.model)  # noqa: E731
    model = run.model(f"{step.place}/{name}", build, fit)
    measured = [run.arrays(stage, dict) for stage in (reference, after)]
    return Tuned(model, facts | describe_tuning(recipe, len(told), *measured))


def compare_states(model: Any, rows: Sequence[Answered], pad: int) -> Any:
    """cosine_P of the mean last states of the two answers of each pair."""
    states_P2D = preferences.measure_features(model, rows, pad).reshape(len(rows), 2, -1)
    unit_P2D = states_P2D / np.linalg.norm(states_P2D, axis=-1, keepdims=True)
    return (unit_P2D[:, 0] * unit_P2D[:, 1]).sum(axis=-1)


def implicit_margin(beta: float, policy_P2: Any, reference_P2: Any) -> Any:
    """margin_P = beta [(log pi - log pi_ref)(chosen) - (log pi - log pi_ref)(rejected)], in nats."""
    ratio_P2 = np.asarray(policy_P2, dtype=float) - np.asarray(reference_P2, dtype=float)
    return beta * (ratio_P2[:, 0] - ratio_P2[:, 1])


# What was done, and what it brought


def count_work(recipe: Recipe, prompts: int, drawn: Any, phases: dict[str, Any]) -> dict[str, int]:
    """Answers drawn, judgements that came, runs of DPO, and their pairs times epochs: compute to be compared by."""
    sets = list(drawn)
    values = [one.value for each in sets for one in each.judged if one.value]
    runs = [facts["pairs in DPO"] for facts in phases.values() if "pairs in DPO" in facts]
    return {
        "answers": len(sets) * prompts * recipe.answers,
        "judgements": sum(len(told) for value in values for told in value["judgements"]),
        "DPO runs": len(runs),
        "pairs seen in DPO": sum(runs) * recipe.plan.epochs,
    }


def describe_pairs(pairs: Sequence[Graded], left: dict[str, int]) -> dict[str, Any]:
    """Pairs, their gap, who wrote them, and whether the chosen answers are longer."""
    longer = [count_words(pair.chosen) - count_words(pair.rejected) for pair in pairs]
    return {
        "pairs": len(pairs),
        "prompts without a pair": left or "none",
        "mean gap": fmean(map(gap, pairs)) if pairs else None,
        "chosen of": dict(Counter(pair.source["chosen"] for pair in pairs)),
        "rejected of": dict(Counter(pair.source["rejected"] for pair in pairs)),
        "words of chosen minus rejected": fmean(longer) if pairs else None,
    }


def describe_tuning(recipe: Recipe, pairs: int, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """How alike the answers of a pair are to M_i, and how far DPO told them apart: what shrinks where it stalls."""
    margin_P = implicit_margin(recipe.beta, after["logprobs"], before["logprobs"])
    return {
        "pairs in DPO": pairs,
        "cosine of chosen and rejected": float(before["cosine"].mean()),
        "implicit margin after": float(margin_P.mean()),
        "sigmoid(-margin) after": float((1 / (1 + np.exp(margin_P))).mean()),
    }


def compare(
    recipe: Recipe,
    run: Run,
    parts: Parts,
    start: Path,
    loops: dict[str, list[Done]],
    test: Sequence[Preference],
) -> None:
    """Held-out answers of M_0 and of every M_i, scored by one judge: the last models with intervals, all as a curve."""

    def mean_scores(model: Path) -> list[float | None]:
        place = f"held-out/{slug(str(model.relative_to(run.folder)))}-{{}}"
        found = draw_and_judge(
            run, place, test, parts, model=model, judge=start, count=recipe.test_answers, seed=recipe.plan.seed
        )
        return [fmean(one.scores) if one.scores else None for one in found.scored]

    by_model = {
        model: mean_scores(model) for model in dict.fromkeys(one.model for done in loops.values() for one in done)
    }
    good = [place for place in range(len(test)) if all(scores[place] is not None for scores in by_model.values())]
    if not good:
        raise UserError("no held-out prompt has a scored answer of every model", "See held-out/, or change the judge.")
    scores = {model: [float(each[place] or 0) for place in good] for model, each in by_model.items()}
    last = {name: done[-1].model for name, done in loops.items()} | {START: start}
    systems = {
        name: run.rows(
            f"predictions/{slug(name)}",
            lambda model=model: [
                Predicted(test[place].id, None, value, {}) for place, value in zip(good, scores[model], strict=True)
            ],
        )
        for name, model in last.items()
    }
    ours = next(iter(loops))
    table = cache(lambda: evaluate(systems, [], ours, "score", trained=set(loops), scorer=score_means))
    run.scores("held_out", lambda: {"split": "test", **table()})
    run.scores("held_out_prompts", lambda: {"scored": len(good), "left out": len(test) - len(good)})
    means = {model: fmean(values) for model, values in scores.items()}
    run.scores("curves", lambda: draw_curves(loops, means))
    gaps = {
        f"{name} {number}": each.gaps for name, done in loops.items() for number, each in enumerate(done) if each.gaps
    }
    if gaps:
        run.scores("spread", lambda: {"of": "gap", "units": "pairs", "groups": gaps})


def draw_curves(loops: dict[str, list[Done]], means: dict[Path, float]) -> dict[str, Any]:
    """Mean held-out score of every M_i over the answers drawn until then: equal compute is one place on the axis."""
    lines: dict[str, Any] = {}
    for name, done in loops.items():
        drawn, lines[name] = 0, []
        for one in done:
            drawn += one.facts.get("spent", {}).get("answers", 0)
            lines[name].append((drawn, means[one.model]))
    return {"x": "answers drawn and judged", "y": "mean score of held-out answers", "lines": lines}


# Problems and the forecast


def complaints(recipe: Recipe) -> list[tuple[str, str]]:
    """Fields that contradict each other, as (what, fix)."""
    found = [] if recipe.data.train else [("no prompts are named", "Add --data FILE, or --data with a named set.")]
    if recipe.engine.kind != "local" or recipe.engine.ray:
        found.append(("M_0, M_i and M_f are adapters, which only the local engine reads", "Set engine.kind to local."))
    found += complain_of_plan(recipe.plan)
    if recipe.start and not (Path(recipe.start) / "handle.json").is_file():
        found.append((f"{recipe.start} holds no trained model (no handle.json)", "Give a folder of an earlier run."))
    if recipe.judge == "reward" and not recipe.reward_model:
        found.append(("judge = reward needs a reward model", "Add --reward-model FOLDER."))
    if (recipe.judge == "model") != (recipe.judge_model != Side()):
        found.append(("judge = model and [judge_model] go together", "Name the model, or take another judge."))
    if recipe.judgements > 1 and recipe.judge_temperature == 0 and recipe.judge in ("self", "frozen", "model"):
        found.append(("judgements at temperature 0 are all the same", "Set judgements to 1, or raise the temperature."))
    return found + sides.complain_of("judge_model", recipe.judge_model)


def describe(recipe: Recipe, found: Found) -> list[tuple[str, str]]:
    """Prompts, what each loop will cost at most, and how long it may take."""
    chunks, by_model = share_out(recipe, found.prompts), recipe.judge in ("self", "frozen", "model")
    size, lines, total = len(chunks[0]), [], Counter[str]()
    for name, rule, count in loops_of(recipe):
        spent = Counter[str]()
        for number in range(count):
            price = rule.price(number == 0, recipe.answers, recipe.judgements if by_model else 1)
            spent.update({what: each if what == "DPO runs" else each * size for what, each in price.items()})
        total += spent
        told = ", ".join(f"{each:,} {what}" for what, each in spent.items())
        lines.append((name, f"{count} iterations, at most {told}"))
    base = open_base(recipe)
    prompt = round(fmean(len(encode_prompt(base.tokenizer, row.prompt)) for row in found.prompts))
    written = [prompt + recipe.max_new_tokens] * total["answers"]
    judged = [prompt + recipe.max_new_tokens + recipe.judge_tokens] * (total["judgements"] if by_model else 0)
    pairs = [prompt + 2 * recipe.max_new_tokens] * size * total["DPO runs"]
    cost = forecast.tell_cost(base, recipe.plan, {"train": pairs, "answers": [*written, *judged]}, 1)
    return [
        ("prompts", f"{len(found.prompts):,}, {size:,} an iteration; {len(found.test):,} held out"),
        ("rows left out", forecast.tell_dropped(found.dropped)),
        ("lessons for M_0", f"{len(found.lessons):,}" if found.lessons else "none: M_0 is the model as it comes"),
        ("judge", recipe.judge),
        *lines,
        *cost,
    ]


# The judge's prompt, in our own words


def ask_judge(prompt: Sequence[Message], answer: str) -> tuple[Message, ...]:
    """An additive scale of five points (SR), reasons first, and the score on a line of its own."""
    question = "\n\n".join(f"{turn.role}: {turn.content}" for turn in prompt) if len(prompt) > 1 else prompt[-1].content
    return converse(
        "You review an assistant's response to a user. Start at 0 points and add one for each of these that is true:\n"
        "- It bears on the question and gives some of what was asked for, even if parts are missing or beside it.\n"
        "- It deals with a substantial part of the question.\n"
        "- It answers the basic elements of the question in a way that is of use.\n"
        "- It is written from the point of view of an assistant, clear, well ordered and complete.\n"
        "- It shows expert knowledge, fits this question, and has nothing superfluous.\n\n"
        f"The question:\n<question>\n{question}\n</question>\n\n"
        f"The response:\n<response>\n{answer}\n</response>\n\n"
        "Give your reasons first, in at most 100 words. End with one line that holds the total, from 0 to 5, such as:\n"
        f"{MARKER} 3"
    )
