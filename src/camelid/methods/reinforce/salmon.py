"""A reward model that follows written principles, taught without labels and steered afterwards by their text.

Zhiqing Sun et al., "SALMON: Self-Alignment with Instructable Reward Models", 2023, arXiv 2310.05910 (ICLR 2024).

Problem. Preference labels cost people's time, and a reward that was learned from them is fixed: whoever optimises it
finds its gaps. Here a model compares its own answers under one principle at a time, and the reward model reads the
principles as text, so that a gap is mended by writing another principle.

Algorithm. Questions x, answers y1 and y2, principles k, each with a definition and a negative one.
 1. Two answers of the policy to each question, cut at the next turn; pairs with an answer below 16 characters are out.
 2. The model is asked which is more <k>, in both orders, up to "... is Output (". With l the logit of a letter there:
    s12 = l(a) - l(b) with y1 first, s21 = l(b) - l(a) with y2 first; both are positive where y1 is better.
 3. g_k = (s12 + s21) / 2 / Var_k where both are above 0 or both below, else 0. Var_k: variance of all s of k, pooled.
 4. In each of four passes and of each pair: n ~ Geometric(0.2), drawn anew until n <= 8; n principles without
    replacement, each turned round with probability 1/2 (its negative definition, and g_k -> -g_k).
 5. k* = argmax |g_k| decides: y1 where its g is above 0, y2 below; no row where it is 0.
 6. Rules that come before it: where exactly one answer has the phrase "As an AI language model", the other wins with
    probability 1/2; where exactly one is in another language than the question, the other wins; no row where both are.
 7. The label is flipped with probability 0.1, or 0.25 where a rule decided.
 8. r = w.h + b at the last token of a text with answer, question and the list of definitions, which ends in an open
    sentence on quality. Loss: -log sigmoid(r_chosen - r_rejected). First on general preferences with a fixed text in
    place of the list (where there are any), then on the rows of steps 4 to 7, with the same adapter and head.
 9. On pairs of other questions: does the decision follow one principle, and turn when the principle is turned round?
10. Steering: of n answers the one with the largest r under principles that are chosen then, in other words if need be.

Differs from the paper in:
 - Reinforcement learning (its part D: rewards shaped by length, weighted principles, PPO) is not in this method yet.
 - s is a difference of log-probabilities of "The more <k> output is Output (a" and "(b", which is that of the logits.
 - A principle may name a measure of the text instead (`rule`): s12 = s21 = its difference. No model is asked then.
 - Var_k = 0 drops the principle with a warning. Which principle or rule decided is kept with each row.
 - Languages are told apart by their script: Greek from English, not French from English.
 - The chosen answer stands first in a row: the loss is symmetric, so that no order has to be drawn.
 - Principles and prompts are in our own words; w is drawn from N(0, 0.02).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean, pvariance
from typing import Any, Literal

import numpy as np
from pydantic import Field

from camelid import adherence, bases, candidates, chat, data, engines, forecast, models, recipe
from camelid.adherence import Grades
from camelid.annotation import count_outcomes
from camelid.branches import Answered, collate_ends, share_front
from camelid.data import Splits
from camelid.data.columns import pair_shape, preference_shape
from camelid.engines import Choice, Engine, Question, Sampling
from camelid.errors import UserError, raise_all, try_all
from camelid.language import is_foreign, tell_script
from camelid.objectives import rewards
from camelid.preferences import measure_rewards, over_answers
from camelid.principle import (
    NOT,
    Principle,
    compare_measures,
    keep_principles,
    read_principles,
    state,
    write_bullets,
)
from camelid.reading import cut_text, pad_id
from camelid.recipe import Plan
from camelid.rows import Guided, Judged, Message, Pair, Preference
from camelid.runs import Run
from camelid.scoring import score
from camelid.training import complain_of_plan, train

ASKED = "model asked"
STOP = 0.2  # probability that a list of principles ends behind each of them
PHRASE = "As an AI language model"
PHRASE_RULE, LANGUAGE_RULE = "rule: stock phrase", "rule: language"
TURNS = ("\nUser:", "\nHuman:", "\nAssistant:", "\n### ")  # where a policy that was not stopped speaks on as somebody
LEAST_CHARACTERS = 16
LETTERS = ("a", "b")
HEAD = {"attributes": ["quality"], "sight": {}}


class Pairs(recipe.Values):
    """Where the rows come from."""

    train: str = Field(default="", description="pairs of answers: file, named set or hub:<dataset id>; no labels")
    prompts: str | None = Field(default=None, description="instead of pairs: questions that the model answers twice")
    general: str | None = Field(default=None, description="preferences of people to train on before; none when absent")
    steer: str | None = Field(default=None, description="questions of which the best of several answers is wanted")
    instruction: str = Field(default="instruction", description="column that holds the question")
    first: str = Field(default="response1", description="column that holds an answer")
    second: str = Field(default="response2", description="column that holds the other answer")
    missing: Literal["error", "drop"] = Field(default="error", description="what to do with rows that lack a text")
    test_share: float = Field(default=0.2, gt=0, lt=1, description="share of the questions that are held out")
    train_rows: int | None = Field(default=None, ge=1, description="label only so many pairs, drawn with the seed")
    test_rows: int | None = Field(default=None, ge=1, description="score only so many pairs, drawn with the seed")
    prompt_rows: int | None = Field(default=None, ge=1, description="answer only so many questions, drawn so")
    general_rows: int | None = Field(default=None, ge=1, description="use only so many general preferences, drawn so")


class Recipe(recipe.Recipe):
    """Values of a reward model that follows principles. `model` is the policy, the judge, and what the reward is on."""

    data: Pairs = Field(default_factory=Pairs)
    plan: recipe.Plan = Field(default_factory=recipe.Plan)
    engine: recipe.Engine = Field(default_factory=recipe.Engine)
    principles: str = Field(default="measured", description="TOML file of principles, or measured or dialogue")
    chosen: tuple[str, ...] = Field(
        default=(), description='steer by these: names, "not " and a name, or sentences that end in a stop'
    )
    reward: str = Field(default="", description="folder of a trained reward model: only steer with it")
    passes: int = Field(default=4, ge=1, description="lists of principles drawn for each pair (paper: 4)")
    most_principles: int = Field(default=8, ge=1, description="longest list of principles (paper: 8)")
    noise: float = Field(default=0.1, ge=0, lt=0.5, description="share of flipped labels (paper: 0.1)")
    rule_noise: float = Field(default=0.25, ge=0, lt=0.5, description="the same where a rule decided (paper: 0.25)")
    language: Literal["script", "off"] = Field(default="script", description="tell languages by their script, or not")
    question_tokens: int = Field(default=128, ge=8, description="a question keeps its last tokens (paper: 128)")
    answer_tokens: int = Field(default=768, ge=8, description="an answer keeps its first tokens (paper: 768)")
    general_learning_rate: float = Field(default=5e-5, gt=0, description="for general preferences (paper: 5e-5)")
    candidates: int = Field(default=4, ge=2, description="answers of which the best is taken when steering")
    temperature: float = Field(default=1.0, gt=0, description="of the answers")
    top_p: float = Field(default=0.9, gt=0, le=1, description="of the answers")
    max_new_tokens: int = Field(default=256, ge=1, description="longest answer of the model")
    compare: bool = Field(default=False, description="also ask the model for every decision, of measured principles")


def check(recipe: Recipe) -> list[tuple[str, str]]:
    """What a run would do, as (name, value) lines; raises UserError with every problem, before any model loads."""
    looks: dict[str, Callable[[], Any]] = {
        "principles": lambda: read_principles(recipe.principles),
        "guide": lambda: state(read_principles(recipe.principles), recipe.chosen),
        "base": lambda: _check_context(recipe, bases.open_base(recipe.model.base, recipe.model.revision)),
        "pairs": lambda: split(recipe, read_pairs(recipe)[0]) if recipe.data.train else Splits([], [], []),
        "prompts": lambda: read_questions(recipe, recipe.data.prompts, recipe.data.prompt_rows),
        "steer": lambda: read_questions(recipe, recipe.data.steer, None),
        "general": lambda: read_general(recipe),
    }
    found, problems = try_all(looks, _complaints(recipe))
    raise_all(problems)
    return _forecast(recipe, **found)


def run(recipe: Recipe, run: Run) -> None:
    """Pairs, scores by principle, labels, the reward model and what it is worth; then the best answers it finds."""
    principles = keep_principles(run, recipe.principles)
    ready = cache(lambda: engines.open_engine(recipe.engine, recipe.model))
    folder = Path(recipe.reward) if recipe.reward else learn(recipe, run, principles, ready)
    if recipe.data.steer:
        steer(recipe, run, principles, folder, ready)  # step 10


def learn(recipe: Recipe, run: Run, principles: dict[str, Principle], ready: Callable[[], Engine]) -> Path:
    """Steps 1 to 9; the folder of the reward model."""
    found = gather(recipe, run, ready)  # step 1
    train_rows, test_rows = (run.rows(name, lambda name=name: getattr(found(), name)) for name in ("train", "test"))

    judged, held_out = (  # step 2
        run.map_rows(f"scores/{name}", rows, partial(judge, principles, ready))
        for name, rows in (("train", train_rows), ("test", test_rows))
    )
    spread = variances(judged, principles)
    known = {name: one for name, one in principles.items() if spread[name] > 0}
    if not known:
        raise UserError("no principle tells any two answers apart", "Look at scores/train.jsonl; choose others.")
    grades = [grade(one, {name: spread[name] for name in known}) for one in judged]  # step 3
    labelled, left = label_all(recipe, train_rows, grades, known)  # steps 4 to 7
    labelled = run.rows("labelled", lambda: labelled)
    general = run.rows("general", lambda: read_general(recipe)) if recipe.data.general else []
    warnings = [f"{name!r} has the same score for every pair and is left out" for name in principles.keys() - known]
    run.note("data", lambda: {"dropped": {**found().dropped, **left}, "warnings": [*found().warnings, *warnings]})
    run.scores("labels", lambda: count_labels(labelled, judged, known))
    if not labelled:
        advice = (
            "A judge whose two orders never agree likes a place and not an answer: take another model, or more pairs."
        )
        raise UserError("no pair was given a label", f"Left out: {', '.join(left) or 'none'}. {advice}")
    folder = fit_reward(recipe, run, labelled, general)  # step 8
    measured = [grade(one, {name: spread[name] for name in known}) for one in held_out]
    reward = partial(score_answers, folder, recipe)
    further = {ASKED: lambda: ask_directly(run, test_rows, known, ready)} if recipe.compare else {}
    adherence.measure_adherence(run, known, test_rows, measured, reward, recipe.plan.seed, further)  # step 9
    return folder


# Step 1: pairs of answers


def gather(recipe: Recipe, run: Run, ready: Callable[[], Engine]) -> Callable[[], Splits]:
    """What gives the pairs, read or answered by the policy, once it is called."""
    if recipe.data.train:
        return cache(lambda: split(recipe, *read_pairs(recipe)))
    prompts = run.rows("prompts", lambda: read_questions(recipe, recipe.data.prompts, recipe.data.prompt_rows))
    answered = run.map_rows("answers", prompts, lambda rows: draw_answers(recipe, ready(), rows, 2))
    texts: dict[str, list[str]] = {one.id: one.value or [] for one in answered}
    both = [replace(row, first=texts[row.id][0], second=texts[row.id][1]) for row in prompts if len(texts[row.id]) == 2]
    missing = {"questions without two whole answers": len(prompts) - len(both)}
    return cache(lambda: split(recipe, both, {why: count for why, count in missing.items() if count}))


def read_pairs(recipe: Recipe) -> tuple[list[Pair], dict[str, int]]:
    """The rows of `data.train`, and what was left out."""
    values, dropped = recipe.data, Counter[str]()
    shape = pair_shape(values.instruction, (values.first, values.second))
    return data.read_source(values.train, shape, values.missing, dropped), dropped


def read_questions(recipe: Recipe, source: str | None, limit: int | None) -> list[Pair]:
    """Questions as pairs that have no answers yet."""
    rows = data.read_source(source, pair_shape(recipe.data.instruction), recipe.data.missing)
    return data.draw_rows(rows, limit, random.Random(f"{recipe.plan.seed} prompts"))


def read_general(recipe: Recipe) -> list[Preference]:
    """Preferences of people, for the first training."""
    values, shape = recipe.data, preference_shape("prompt", "chosen", "rejected")
    rows = data.read_source(values.general, shape, values.missing)
    return data.draw_rows(rows, values.general_rows, random.Random(f"{recipe.plan.seed} general"))


def split(recipe: Recipe, rows: Sequence[Pair], dropped: Mapping[str, int] | None = None) -> Splits:
    """Pairs to learn from and pairs to score, no question on both sides, each text cut to what the model will read."""
    values, tokenizer = recipe.data, bases.open_base(recipe.model.base, recipe.model.revision).tokenizer
    counts, kept, cut = Counter(dropped or {}), [], 0
    for row in rows:
        read = cut_pair(recipe, tokenizer, row)
        if not (is_long(read.first) and is_long(read.second)):
            counts[f"pairs with an answer below {LEAST_CHARACTERS} characters"] += 1
        elif read.first == read.second:
            counts["pairs of answers that are equal, or begin so"] += 1
        else:
            kept.append(read)
            cut += read != row
    questions = sorted({row.instruction for row in kept})
    draw = random.Random(f"{recipe.plan.seed} split")
    held_out = set(
        draw.sample(questions, min(round(values.test_share * len(questions)), len(questions) - 1)) if kept else ()
    )
    train_rows = data.draw_rows([row for row in kept if row.instruction not in held_out], values.train_rows, draw)
    test_rows = data.draw_rows([row for row in kept if row.instruction in held_out], values.test_rows, draw)
    if not (train_rows and test_rows):
        what = f"too few pairs are left: {len(train_rows)} to learn from, {len(test_rows)} on other questions to score"
        raise UserError(what, f"Give more. Left out: {dict(counts) or 'none'}.")
    warnings = [f"{cut} pairs were cut to what the reward model reads of question and answers"] if cut else []
    return Splits(train_rows, [], test_rows, dict(counts), warnings)


def cut_pair(recipe: Recipe, tokenizer: Any, row: Pair) -> Pair:
    """The end of the question and the beginnings of the answers."""
    first, second = (cut_text(tokenizer, text, recipe.answer_tokens) for text in (row.first, row.second))
    return replace(
        row, instruction=cut_text(tokenizer, row.instruction, recipe.question_tokens, "end"), first=first, second=second
    )


def draw_answers(recipe: Recipe, policy: Engine, rows: Sequence[Pair], samples: int) -> list[Judged]:
    """The policy's answers to each question; "malformed" where none ended by itself and has some length."""
    sampling = Sampling(recipe.max_new_tokens, recipe.temperature, recipe.top_p, stop=TURNS)
    questions = [candidates.pose(row) for row in rows]
    drawn = candidates.draw_candidates(policy, questions, sampling, samples, recipe.plan.seed, is_long)
    return [
        replace(one, value=[text.strip() for text in one.value["texts"]])
        if one.outcome == "value"
        else replace(one, reply=one.problem or "no answer was whole and long enough")
        for one in drawn
    ]


def is_long(text: str) -> bool:
    """Whether an answer has as many characters as one needs at least."""
    return len(text.strip()) >= LEAST_CHARACTERS


# Steps 2 and 3: scores by principle


def judge(principles: Mapping[str, Principle], ready: Callable[[], Engine], rows: Sequence[Pair]) -> list[Judged]:
    """{principle: [s12, s21]} of each pair: measured where the principle has a rule, else asked for."""
    asked = {name: one for name, one in principles.items() if not one.rule}
    found = ask(ready(), rows, asked) if asked else [Judged(row.id, row.origin, "value", {}, "") for row in rows]
    measured = [compare_measures(principles, row.instruction, row.first, row.second) for row in rows]
    both = [{name: [gap, gap] for name, gap in gaps.items()} for gaps in measured]
    return [replace(one, value=one.value | more) if one.value is not None else one for one, more in zip(found, both)]


def ask(engine: Engine, rows: Sequence[Pair], principles: Mapping[str, Principle]) -> list[Judged]:
    """{principle: [s12, s21]} in nats of each pair, from the letters' log-probabilities in both orders."""
    orders = (False, True)
    questions = [
        Question(write_comparison(row, one, swapped), write_verdicts(one))
        for row in rows
        for swapped in orders  # principles innermost: what stands before them is computed once
        for one in principles.values()
    ]
    replies = iter(score(engine, questions, ""))
    judged = []
    for row in rows:
        both = [[next(replies) for _ in principles] for _ in orders]
        if failed := next((one for one in both[0] + both[1] if one.problem), None):
            judged.append(Judged(row.id, row.origin, "failed", None, failed.problem, problem=failed.problem))
            continue
        pairs = zip(principles, *([one.sums for one in found] for found in both), strict=True)
        value = {name: [straight[0] - straight[1], turned[1] - turned[0]] for name, straight, turned in pairs}
        judged.append(Judged(row.id, row.origin, "value", value, ""))
    return judged


def variances(judged: Sequence[Judged], names: Sequence[str] | Mapping[str, Any]) -> dict[str, float]:
    """Var_k: the population variance of all s12 and s21 of a principle; 0 where nothing was scored."""
    pooled = {name: [s for one in judged if one.value for s in one.value[name]] for name in names}
    return {name: pvariance(values) if values else 0.0 for name, values in pooled.items()}


def normalise(scores: Sequence[float], variance: float) -> float:
    """g: the mean of both orders over the variance, 0 where the orders do not agree on who is better."""
    s12, s21 = scores
    agree = (s12 > 0 and s21 > 0) or (s12 < 0 and s21 < 0)
    return (s12 + s21) / 2 / variance if agree else 0.0


def grade(judged: Judged, spread: Mapping[str, float]) -> dict[str, float] | None:
    """g of each principle; None for a pair that lacks a score."""
    if judged.value is None:
        return None
    return {name: normalise(judged.value[name], spread[name]) for name in spread}


# Steps 4 to 7: labels


def draw_count(draw: random.Random, most: int) -> int:
    """n from the geometric distribution on 1, 2, ...; a longer list than `most` is drawn anew, not shortened."""
    while True:
        count = 1
        while draw.random() >= STOP:
            count += 1
        if count <= most:
            return count


def draw_signs(draw: random.Random, names: Sequence[str], most: int) -> dict[str, int]:
    """Principles of a list in their order, each with 1, or -1 where it is turned round."""
    picked = draw.sample(names, draw_count(draw, min(most, len(names))))
    return {name: -1 if draw.random() < 0.5 else 1 for name in picked}


def find_dominant(grades: Grades, signs: Mapping[str, int]) -> tuple[str, float]:
    """The principle with the largest |g|, the first of equal ones, and its g with its sign."""
    name = max(signs, key=lambda name: abs(grades[name]))
    return name, signs[name] * grades[name]


def decide(
    row: Pair, grades: Grades, signs: Mapping[str, int], draw: random.Random, detect: Callable[[str], str] | None
) -> tuple[bool | None, str]:
    """(whether the first answer wins, what decided), or (None, why there is no row), before any noise."""
    name, value = find_dominant(grades, signs)
    if value == 0:
        return None, "labels that no principle of the list decides"
    wins, decided = value > 0, name
    stock = [PHRASE in text for text in (row.first, row.second)]
    if stock[0] != stock[1] and draw.random() < 0.5:
        wins, decided = stock[1], PHRASE_RULE
    if detect:
        foreign = [is_foreign(detect(text), detect(row.instruction)) for text in (row.first, row.second)]
        if all(foreign):
            return None, "labels of two answers in another language than the question"
        if foreign[0] != foreign[1]:
            wins, decided = foreign[1], LANGUAGE_RULE
    return wins, decided


def label_all(
    recipe: Recipe, rows: Sequence[Pair], grades: Sequence[Grades | None], principles: Mapping[str, Principle]
) -> tuple[list[Guided], dict[str, int]]:
    """A preference for each pass and pair, and how many there are not, by reason."""
    detect, names = (tell_script if recipe.language == "script" else None), [*principles]
    labelled, left = [], Counter[str]()
    for turn in range(recipe.passes):
        for row, known in zip(rows, grades, strict=True):
            if known is None:
                left["labels of pairs that lack a score"] += 1
                continue
            draw = random.Random(f"{recipe.plan.seed} pass {turn} {row.id}")
            signs = draw_signs(draw, names, recipe.most_principles)
            wins, decided = decide(row, known, signs, draw, detect)
            if wins is None:
                left[decided] += 1
                continue
            flipped = draw.random() < (recipe.noise if decided in names else recipe.rule_noise)
            wins ^= flipped
            chosen, rejected = (row.first, row.second) if wins else (row.second, row.first)
            guide = state(principles, [name if sign > 0 else NOT + name for name, sign in signs.items()])
            labelled.append(
                Guided(
                    f"{row.id} pass {turn}", row.origin, chat.converse(row.instruction), chosen, rejected,
                    guide=guide, decided=decided, flipped=flipped,
                )
            )  # fmt: skip
    return labelled, dict(left)


def count_labels(labelled: Sequence[Guided], judged: Sequence[Judged], principles: Mapping[str, Any]) -> dict[str, Any]:
    """What decided how many labels, how long the lists are, and how often a principle's two orders agree."""
    values = [one.value for one in judged if one.value]
    agree = {name: fmean(normalise(value[name], 1.0) != 0 for value in values) for name in principles}
    return {
        "labels": len(labelled),
        "flipped": sum(row.flipped for row in labelled),
        "decided by": dict(Counter(row.decided for row in labelled).most_common()),
        "principles in a list": dict(sorted(Counter(str(len(row.guide)) for row in labelled).items())),
        "pairs that a principle tells apart in both orders": agree,
    }


# Step 8: the reward model


def write_lines(tokenizer: Any, recipe: Recipe, question: str, answer: str, guides: Sequence[Sequence[str]]) -> Any:
    """Token ids of the text that is judged, under each of the guides; question and answer are cut to their limits."""
    question = cut_text(tokenizer, question, recipe.question_tokens, "end")
    answer = cut_text(tokenizer, answer, recipe.answer_tokens)
    return [chat.encode_prompt(tokenizer, write_review(question, answer, guide)) for guide in guides]


def encode_labels(tokenizer: Any, recipe: Recipe, rows: Sequence[Preference]) -> list[Answered]:
    """Both texts of each preference, the chosen one first."""
    found = []
    for row in rows:
        guides = [row.guide if isinstance(row, Guided) else ()]
        texts = [
            write_lines(tokenizer, recipe, chat.show_turns(row.prompt), text, guides)[0]
            for text in (row.chosen, row.rejected)
        ]
        if texts[0] != texts[1]:  # two answers that begin alike may be cut to the same
            found.append(share_front(row.id, texts))
    return found


def fit_reward(recipe: Recipe, run: Run, labelled: Sequence[Guided], general: Sequence[Preference]) -> Path:
    """The folder of the reward model: trained on general preferences where there are any, then on the labels."""
    base = cache(lambda: bases.open_base(recipe.model.base, recipe.model.revision))

    def make(name: str, rows: Sequence[Preference], plan: Plan, start: Path | None) -> Path:
        def fit(model: Any, folder: Path) -> None:
            tokenizer = base().tokenizer
            encoded = encode_labels(tokenizer, recipe, rows)
            batches = over_answers(encoded, plan, pad_id(tokenizer), collate_ends)
            train(model, batches, rewards(), plan, folder=folder)

        return run.model(name, build=lambda: models.value_model(base(), HEAD, plan, start), fit=fit)

    first = recipe.plan.model_copy(update={"epochs": 1, "learning_rate": recipe.general_learning_rate})
    return make("model", labelled, recipe.plan, make("general-model", general, first, None) if general else None)


def score_answers(
    folder: Path, recipe: Recipe, asked: Sequence[tuple[str, str]], guides: Sequence[Sequence[str]]
) -> Any:
    """rewards_NG of N (question, answer) under each of G guides; what the guides share is computed once."""
    model, base = models.load_handle(folder)
    lines = [write_lines(base.tokenizer, recipe, *one, guides) for one in asked]
    rows = [share_front(str(number), texts) for number, texts in enumerate(lines)]
    return np.array(measure_rewards(model, rows, pad_id(base.tokenizer)), dtype=np.float32)


# Step 9: does it follow? See `adherence`


def ask_directly(
    run: Run, rows: Sequence[Pair], principles: Mapping[str, Principle], ready: Callable[[], Engine]
) -> adherence.Chooser:
    """The model asked as in step 2 about each pair: both orders' mean, 0 where it failed."""
    asked = run.map_rows("scores/asked", rows, lambda some: ask(ready(), some, principles))
    run.scores("asked", lambda: {"pairs": count_outcomes(asked)})
    nothing = dict.fromkeys(principles, (0.0,))
    means = [{name: fmean(both) for name, both in (one.value or nothing).items()} for one in asked]
    return adherence.choose_by_grades(rows, means)


# Step 10: steering


def steer(
    recipe: Recipe, run: Run, principles: Mapping[str, Principle], folder: Path, ready: Callable[[], Engine]
) -> None:
    """The policy's answers to each question, the best one under the chosen principles, and a preference row of them."""
    questions = run.rows("questions", lambda: read_questions(recipe, recipe.data.steer, None))
    guide = state(principles, recipe.chosen)
    draw = lambda rows: draw_answers(recipe, ready(), rows, recipe.candidates)  # noqa: E731
    counts = candidates.keep_best(run, questions, draw, lambda asked: score_answers(folder, recipe, asked, [guide]))
    run.scores("best", lambda: {"chosen": list(guide), **counts})


# Problems and the forecast


def _complaints(recipe: Recipe) -> list[tuple[str, str]]:
    """Fields that contradict each other, as (what, fix)."""
    found, values = [*engines.complain_of_engine(recipe.engine)], recipe.data
    if recipe.reward and not (Path(recipe.reward) / "handle.json").is_file():
        what = f"{recipe.reward} holds no trained model (no handle.json)"
        found.append((what, "Give the folder model in that of a finished run."))
    if recipe.reward and not values.steer:
        found.append(("a reward model is given, and nothing to steer", "Add --steer FILE with questions."))
    if values.steer and not recipe.chosen:
        found.append(("no principles are chosen to steer by", """Add --chosen '["concise", "not specific"]'."""))
    if not (recipe.reward or values.train or values.prompts):
        found.append(("no rows are named", "Give pairs of answers (--data), or questions to answer (--prompts)."))
    if values.train and values.prompts:
        found.append(("data.train and data.prompts are both given", "Leave one out: pairs are read or answered."))
    if recipe.engine.kind == "remote" and recipe.engine.api == "chat":
        fix = 'Set engine.api to "completions" where the endpoint scores given text, or take a local model.'
        found.append(("a chat endpoint gives no log-probabilities of the letters", fix))
    return found + complain_of_plan(recipe.plan)


def _check_context(recipe: Recipe, base: bases.Base) -> bases.Base:
    context = base.config.get_text_config().max_position_embeddings
    frame = len(chat.encode_prompt(base.tokenizer, write_review("", "", ())))
    most = recipe.question_tokens + recipe.answer_tokens + frame
    if most >= context:
        what = f"question, answer and frame may have {most:,} tokens, and {base.spec} reads {context:,}"
        raise UserError(what, "Lower answer_tokens or question_tokens: principles come on top.")
    return base


def _forecast(
    recipe: Recipe,
    principles: Mapping[str, Principle],
    guide: Any,
    base: bases.Base,
    pairs: Splits,
    prompts: Sequence[Pair],
    steer: Sequence[Pair],
    general: Sequence[Preference],
) -> list[tuple[str, str]]:
    """Rows, principles, what is asked, steps and time; without answers that nobody knows yet."""
    asked = [one for one in principles.values() if not one.rule]
    if recipe.compare and asked and not recipe.reward:
        what = f"compare would ask the model that labels {asked[0].name!r} about its own labels"
        raise UserError(what, "Leave compare out, or take measured principles only.")
    lines = [
        ("principles", f"{len(principles)}: {', '.join(principles)}; {len(asked)} are asked for, the rest measured"),
        ("questions", f"{len(prompts):,} to be answered twice, {len(steer):,} to find the best answer to"),
        *([("steered by", " ".join(guide))] if guide else []),
    ]
    if not pairs.train:
        return [*lines, ("pairs", "known when the questions are answered" if prompts else "none: nothing is trained")]
    one = next(iter(principles.values()))
    rows = [Guided(row.id, "", (Message("user", row.instruction),), row.first, row.second, guide=(one.definition,))
            for row in [*pairs.train, *pairs.test]]  # fmt: skip
    sizes = [row.size for row in encode_labels(base.tokenizer, recipe, rows)]
    count = len(pairs.train)
    plan = recipe.plan.model_copy(update={"epochs": recipe.plan.epochs * recipe.passes})
    choices = [
        Choice(write_comparison(row, each, swapped), LETTERS)
        for row in [*pairs.train, *pairs.test] for each in asked for swapped in (False, True)
    ]  # fmt: skip
    steps = -(-count * recipe.passes // recipe.plan.batch_rows) * recipe.plan.epochs
    return [
        *lines,
        ("pairs", f"train {count:,}, test {len(pairs.test):,}; general preferences {len(general):,}"),
        ("rows left out", forecast.tell_dropped(pairs.dropped)),
        *([("asked", forecast.forecast_choices(recipe.engine, recipe.model, choices))] if choices else []),
        ("steps", f"at most {steps:,} of {recipe.plan.batch_rows} labels"),
        *forecast.tell_cost(base, plan, {"train": sizes[:count], "test": sizes[count:]}, 1),
    ]


# Prompts, in our own words; nothing follows the last word of the one that is rewarded


def write_comparison(row: Pair, principle: Principle, swapped: bool) -> tuple[Message, ...]:
    """The question which of two outputs has more of a principle; the second answer is Output (a) where `swapped`."""
    shown = (row.second, row.first) if swapped else (row.first, row.second)
    outputs = "\n\n".join(f"Output ({letter}):\n{text}" for letter, text in zip(LETTERS, shown, strict=True))
    return chat.converse(
        "Two assistants were given the same instruction. Say which of their outputs is to be preferred, or is the "
        f"less faulty one, in a single respect.\n\nInstruction:\n{row.instruction}\n\n{outputs}\n\n"
        f"Leave everything else aside and compare them in this respect only.\n{principle.name}: {principle.definition}"
    )


def write_verdicts(principle: Principle) -> tuple[str, str]:
    """What the reply would be for either output, up to the letter; before it both are the same."""
    first, second = (f"The more {principle.name} output is Output ({letter}" for letter in LETTERS)
    return first, second


def write_review(question: str, answer: str, guide: Sequence[str]) -> str:
    """The text whose last token is rewarded; without a guide good answers are described in general."""
    wanted = f"{SEVERAL}\n{write_bullets(guide)}\n{ALL}" if guide else GENERAL
    return (
        f"You review the work of an assistant.\n\n## The assistant's answer\n{answer}\n\n"
        f"## The instruction it answers\n{question}\n\n## How to review it\n{wanted}\n\n"
        "## Review\nThe quality of this answer is"
    )


SEVERAL = "Look at the answer from these sides:"
ALL = "A good answer meets all of them."
GENERAL = "A good answer helps with what was asked, reads naturally, and keeps to the facts."
