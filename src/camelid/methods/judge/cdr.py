"""Preference labels without people or a paid judge: how much likelier a better model finds an answer than a weaker one.

Guangxuan Xu et al., "Dr. SoW: Density Ratio of Strong-over-weak LLMs for Reducing the Cost of Human Annotation in
Preference Tuning" (first version: "CDR: Customizable Density Ratios of Strong-over-weak LLMs for Preference
Annotation"), 2024, arXiv 2411.02481.

Problem. Preference tuning needs pairs of answers of which one is known to be better. Here two open models that differ
in alignment (tuned with preferences and not, instructed and not) tell, without any training of a judge.

Algorithm. Conversation x, answers y of n tokens, models pi_strong and pi_weak.
 1. The pair: any two causal models, or one base with an adapter on and off. Where the recipe names none it is made: the
    same base is tuned for a few steps on the rejected answers (weak) and on the chosen ones of the same questions.
 2. Domain. An instruct model sorts the last question into SAFETY, REASONING, CHAT or domains of one's own; what cannot
    be read is CHAT, and counted.
 3. Context C(x): the domain's criteria as system prompt; in the last user turn a block of preference exemplars, drawn
    once a prompt, the question, and the opening of a good answer. Both models get the same text, in their own template.
    CHAT has none of these: C(x) = x.
 4. r(x, y) = sum_k log pi_strong(y_k | C(x), y_<k) - sum_k log pi_weak(y_k | C(x), y_<k), in nats, over the tokens of
    the answer and its end of turn, each model by its own tokens; each log-probability is clipped at -30. Normalised:
    r / max(1, n_strong). beta r is the implicit reward of DPO with pi_strong as policy and pi_weak as reference.
 5. Of labelled pairs: how often the better answer has the larger r, against the strong model alone, length, and
    the pair reversed; how r goes with n; and the accuracy by how far the strong model was trained (the gap).
 6. Of prompts: N answers of a policy; chosen is argmax r, ties to the first; rejected is a random one of the other
    texts, or the worst. None where all have the same r, or no other text is `margin` below.
 7. The pairs are written as preference rows, and the policy is tuned on them by SimPO: L = -log sigmoid(beta / |y_c|
    log pi(y_c | x) - beta / |y_r| log pi(y_r | x) - gamma). Its answers to held-out questions are scored by r.

Differs from the paper in:
 - The answer's first token is found on the ids of the whole conversation; the authors' code begins one token early.
 - The end of turn is always scored, what a template writes behind it never is. Clipping and its count are ours.
 - Criteria reach the model as system prompt; in the authors' notebook they resolve to an empty text. Wording is ours.
 - Exemplars are drawn with the seed. Equal texts count once; the authors draw first and drop the prompt if they meet.
 - Answers cut off at the limit are no candidates. top-k is not offered: top-p keeps less already.
 - The pair that is made shows the mechanism on a 135M model. It needs labels, so it saves nobody any.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from camelid import (
    bases,
    chat,
    data,
    environment,
    forecast,
    labelling,
    metrics,
    models,
    objectives,
    preferences,
    recipe,
    sides,
)
from camelid.annotation import annotate, count_outcomes
from camelid.candidates import draw_candidates
from camelid.data import Splits
from camelid.data.columns import Problem, Shape, preference_shape, text_in
from camelid.engines import Engine, Question, Sampling, Scored
from camelid.errors import UserError, raise_all
from camelid.evaluation import evaluate
from camelid.objectives import cross_entropy
from camelid.parsing import parse_choice, parse_tagged
from camelid.preferences import tune
from camelid.processes import is_leader
from camelid.reading import pad_id, tell_answer
from camelid.recipe import Data, Model
from camelid.rows import Judged, Message, Predicted, Preference, iterate_rows
from camelid.runs import Run, slug
from camelid.scoring import score
from camelid.sides import Side
from camelid.training import train

Messages = tuple[Message, ...]
Answers = Callable[[Preference], Sequence[str]]
FLOOR = -30.0  # nats: a token that one model holds impossible must not decide alone
CHAT = "CHAT"
RATIO, NORMALISED, REVERSED = "ratio", "ratio per token", "reversed pair"
SUMMED, MEAN, LONGER = ALONE = ("strong log-prob", "strong log-prob per token", "longer answer")
LAST = "after the last step"


class Pairs(recipe.Values):
    """Where the rows come from."""

    train: str = Field(
        default="",
        description="pairs: file, named set, set:split or hub:<dataset id>; scored, and trained on if need be",
    )
    test: str | None = Field(default=None, description="pairs to score; drawn from train when absent")
    prompts: str | None = Field(default=None, description="questions for which pairs are built; none when absent")
    prompt: str = Field(default="prompt", description="column that holds the question")
    chosen: str = Field(default="chosen", description="column that holds the better answer")
    rejected: str = Field(default="rejected", description="column that holds the other answer")
    missing: Literal["error", "drop"] = Field(default="error", description="what to do with rows that lack a text")
    train_rows: int | None = Field(default=None, ge=1, description="train on so many pairs, drawn with the seed")
    test_rows: int | None = Field(
        default=None,
        ge=1,
        description="score so many pairs; half of train if absent and the rest is trained on, else all",
    )
    prompt_rows: int | None = Field(default=None, ge=1, description="build pairs for so many questions")
    held_out_prompts: int = Field(default=50, ge=1, description="compare a tuned policy on so many further questions")


class Exemplar(recipe.Values):
    """A question with a better and a worse answer."""

    question: str
    good: str
    bad: str
    why: str = Field(description="what is wrong with the bad answer")


class Domain(recipe.Values):
    """A kind of question and what is added to its context."""

    definition: str = Field(description="what the router is told of it")
    criteria: str = Field(default="", description="system prompt")
    exemplars: tuple[tuple[Exemplar, ...], ...] = Field(
        default=(), description="blocks, of which one is drawn a prompt"
    )
    opening: str = Field(default="", description="stands behind the question")


class Recipe(recipe.Recipe):
    """Values of a strong-over-weak annotation."""

    data: Pairs = Field(default_factory=Pairs)
    plan: recipe.Plan = Field(default_factory=recipe.Plan)
    engine: recipe.Engine = Field(default_factory=recipe.Engine)
    strong: Side = Field(default_factory=Side)
    weak: Side = Field(default_factory=Side)
    router: Side = Field(default_factory=Side)
    policy: Side = Field(default_factory=Side)
    gap_steps: tuple[int, ...] = Field(
        default=(), description="if the pair is made here: also score with the strong model after so many of its steps"
    )
    normalised: bool = Field(default=False, description="reward r per token of the answer (paper: r)")
    ended: bool = Field(default=True, description="score the end of turn too; an endpoint cannot")
    route: bool = Field(default=False, description="let the router tell each question's domain (paper: true)")
    domain: str = Field(default=CHAT, description="the domain of all questions when they are not routed")
    domains: dict[str, Domain] = Field(default={}, description="domains by name, instead of SAFETY and REASONING")
    candidates: int = Field(default=4, ge=2, description="answers the policy gives each question (paper: 4, and 8)")
    temperature: float = Field(default=1.0, gt=0, description="of the policy (paper: 1.0, and 0.7)")
    top_p: float = Field(default=0.85, gt=0, le=1, description="of the policy")
    max_new_tokens: int = Field(default=256, ge=1, description="longest answer of the policy (paper: 1024)")
    opponent: Literal["random", "worst"] = Field(default="random", description="which other answer is rejected")
    margin: float = Field(default=0.0, ge=0, description="least difference of reward in a pair (paper: none)")
    made_by: Literal["answers", "preferences"] = Field(
        default="answers",
        description="if the pair is made here: two models tuned on the better and on the other answers, or DPO on the "
        "pairs against the model it starts from",
    )
    beta: float = Field(default=0.1, gt=0, description="of DPO")
    tune: bool = Field(default=False, description="tune the policy by SimPO on the pairs that were built (paper: true)")
    simpo_beta: float = Field(default=2.5, gt=0, description="scale of SimPO's rewards (paper: not told)")
    simpo_gamma: float = Field(default=1.25, ge=0, description="SimPO's margin between rewards (paper: not told)")
    pair_tokens: int = Field(default=512, ge=16, description="longest prompt with answer in preference tuning")


def check(recipe: Recipe) -> list[tuple[str, str]]:
    """What a run would do, as (name, value) lines; raises UserError with every problem, before any model loads."""
    problems = [UserError(*complaint) for complaint in _complaints(recipe)]
    found: list[Any] = [None, None, None]
    for place, look in enumerate((lambda: open_pair(recipe), lambda: read_pairs(recipe), lambda: read_prompts(recipe))):
        try:
            found[place] = look()
        except UserError as error:
            problems += error.all()
    raise_all(list({problem.what: problem for problem in problems}.values()))  # the rows are read with the pair
    return _forecast(recipe, *found)


def run(recipe: Recipe, run: Run) -> None:
    """Rows, the two models, contexts, log-probabilities, rewards and scores; then pairs of a policy's answers."""
    found, asked = cache(lambda: read_pairs(recipe)), cache(lambda: read_prompts(recipe))
    trained = run.rows("train", lambda: found().train) if is_made(recipe) else []
    scored = run.rows("test", lambda: found().test) if recipe.data.train or recipe.data.test else []
    prompts = run.rows("prompts", lambda: asked().test) if recipe.data.prompts else []
    held_out = run.rows("held_out_prompts", lambda: asked().dev) if recipe.tune else []
    run.note("data", lambda: {"dropped": found().dropped | asked().dropped, "warnings": []})

    pair = make_pair(recipe, run, trained)  # step 1
    if scored:
        measure_accuracy(recipe, run, scored, pair)  # steps 2 to 5
    if prompts:
        built = build_pairs(recipe, run, prompts, pair)  # steps 2 to 4, and 6
        if recipe.tune:
            compare_policies(recipe, run, held_out, pair, tune_policy(recipe, run, built))  # step 7


def read_pairs(recipe: Recipe) -> Splits:
    """Pairs to score, and others with other questions to train on where the two models are made here.

    Raises UserError with what is wrong with the rows, and where the two tokenizers do not read a text alike.
    """
    values, made, dropped = recipe.data, is_made(recipe), Counter[str]()
    shape = preference_shape(values.prompt, values.chosen, values.rejected)
    given, held_out = (_read(recipe, source, shape, dropped) for source in (values.train, values.test))
    check_reading(open_pair(recipe), [*given, *held_out])
    draw = random.Random(f"{recipe.plan.seed} pairs")
    limit = values.test_rows or (len(given) // 2 if made and not held_out else None)
    test = _draw(held_out or given, limit, draw)
    questions = {row.prompt for row in test}
    train = _draw([row for row in given if row.prompt not in questions], values.train_rows, draw) if made else []
    if given and not (test and (train or not made)):
        raise UserError(
            f"{values.train} has too few pairs: {len(train)} to train on, {len(test)} to score",
            "Give more rows, lower data.test_rows, or name a pair of models (strong, weak).",
        )
    return Splits(train, [], test, dict(dropped))


def read_prompts(recipe: Recipe) -> Splits:
    """The questions for which pairs are built, under "test", and others held out, under "dev", where one is tuned.

    Their rows have no answers yet.
    """
    values, dropped = recipe.data, Counter[str]()

    def convert(row_id: str, origin: str, cells: dict[str, Any]) -> Preference | Problem:
        text = text_in(cells, values.prompt)
        return text if isinstance(text, Problem) else Preference(row_id, origin, (Message("user", text),), "", "")

    shape = Shape(Preference, convert, (values.prompt,), "--set data.prompt")
    rows = _read(recipe, values.prompts, shape, dropped)
    draw = random.Random(f"{recipe.plan.seed} prompts")
    held = _draw(rows, min(values.held_out_prompts, len(rows) // 2), draw) if recipe.tune else []
    questions = {row.prompt for row in held}
    asked = _draw([row for row in rows if row.prompt not in questions], values.prompt_rows, draw)
    return Splits([], held, asked, {f"prompts: {why}": count for why, count in dropped.items()})


def _read(recipe: Recipe, source: str | None, shape: Shape, dropped: Counter[str]) -> list[Preference]:
    values = Data(missing=recipe.data.missing)
    return data.read_rows(source, values, shape=shape, dropped=dropped) if source else []


def _draw(rows: Sequence[Preference], limit: int | None, draw: random.Random) -> list[Preference]:
    """At most `limit` rows in their old order."""
    count = len(rows) if limit is None else min(limit, len(rows))
    return [rows[place] for place in sorted(draw.sample(range(len(rows)), count))]


# Step 1: the pair

Opener = Callable[[], Engine]
Bases = tuple[bases.Base, bases.Base]


def is_made(recipe: Recipe) -> bool:
    """Whether the two models are trained in this run, because the recipe names none."""
    return recipe.strong == recipe.weak == Side()


def make_pair(recipe: Recipe, run: Run, rows: Sequence[Preference]) -> dict[str, Opener]:
    """What opens the engines "weak" and "strong", and of each of `gap_steps`; trains the two models if need be."""
    if not is_made(recipe):
        opened = (lambda place=place: open_side(recipe, sides_of(recipe)[place]) for place in (1, 0))
        return dict(zip(("weak", "strong"), opened, strict=True))
    base = cache(lambda: bases.open_base(recipe.model.base, recipe.model.revision))

    def make(name: str, answer_of: Callable[[Preference], str], kept: Sequence[int]) -> Path:
        told = [(row.prompt, answer_of(row)) for row in rows]
        return run.model(
            name,
            build=lambda: models.language_model(base(), {}, recipe.plan),
            fit=lambda model, folder: fit(model, base().tokenizer, told, recipe.plan, folder, kept),
        )

    if recipe.made_by == "preferences":
        dpo = objectives.dpo(recipe.beta)
        folder = run.model(
            "strong",
            build=lambda: models.language_model(base(), {}, recipe.plan),
            fit=lambda model, folder: tune(
                model, base().tokenizer, rows, dpo, recipe.plan, folder, max_tokens=recipe.pair_tokens, refers=True
            ),
        )
        return {"weak": lambda: open_side(recipe, Side()), "strong": lambda: open_side(recipe, Side(), folder)}
    folders: dict[str, Path | None] = {"weak": make("weak", lambda row: row.rejected, ())}
    strong = make("strong", lambda row: row.chosen, recipe.gap_steps)
    folders["strong"] = strong
    folders |= {f"after {step} steps": strong / f"step-{step}" if step else None for step in recipe.gap_steps}
    return {name: lambda folder=folder: open_side(recipe, Side(), folder) for name, folder in folders.items()}


def fit(
    model: Any,
    tokenizer: Any,
    told: Sequence[tuple[Messages, str]],
    plan: recipe.Plan,
    folder: Path,
    kept: Sequence[int] = (),
) -> None:
    """Next-token cross-entropy on the answers and their end; the adapter after each of the `kept` steps is saved."""

    def save(step: int) -> None:
        if step in kept and is_leader():
            (folder / f"step-{step}").mkdir(exist_ok=True)
            models.save(model, folder / f"step-{step}")

    tokens = [tell_answer(tokenizer, *pair, ended=True) for pair in told]
    batches = labelling.over_epochs(tokens, plan, pad_id(tokenizer))
    train(model, batches, cross_entropy, plan, folder=folder, after_step=save)


def sides_of(recipe: Recipe) -> tuple[Side, Side]:
    """(strong, weak); the weak one of an adapter is the base it was trained on, unless the recipe names another."""
    strong, weak = recipe.strong, recipe.weak
    if strong.adapted and weak == Side():
        origin = model_of(recipe, strong)
        weak = Side(base=origin.base, revision=origin.revision)
    return strong, weak


def model_of(recipe: Recipe, side: Side) -> Model:
    """The base of a side, that of the recipe where it names none."""
    return sides.model_of(side, recipe.model)


def open_side(recipe: Recipe, side: Side, adapted: Path | None = None, *, scores: bool = True) -> Engine:
    """The engine of a side; `adapted` is what was trained in this run."""
    return sides.open_side(side, recipe.model, recipe.engine, adapted, scores=scores)


def open_pair(recipe: Recipe) -> Bases:
    """Config and tokenizer of strong and weak, without weights."""
    strong, weak = (model_of(recipe, side) for side in sides_of(recipe))
    return bases.open_base(strong.base, strong.revision), bases.open_base(weak.base, weak.revision)


def check_reading(pair: Bases, rows: Sequence[Preference]) -> None:
    """UserError when the two tokenizers do not decode a text to the same: the models would judge different answers."""
    texts = {row.origin: [*(turn.content for turn in row.prompt), row.chosen, row.rejected] for row in rows}
    odd = [origin for origin, found in texts.items() if not reads_alike(pair, *found)]
    if odd:
        raise UserError(
            f"strong and weak do not decode the same text in {len(odd)} pairs: {', '.join(odd[:3])}",
            "Their tokenizers normalise text or take parts of it for special tokens. Remove these rows, or take two "
            "models of one family.",
        )


def reads_alike(pair: Bases, *texts: str) -> bool:
    """Whether both tokenizers give the same texts back, special tokens left out."""
    strong, weak = pair
    return strong.source == weak.source or sides.reads_alike(strong.tokenizer, weak.tokenizer, *texts)


# Steps 2 and 3: domain and context


def lay_contexts(
    recipe: Recipe, run: Run, name: str, rows: Sequence[Preference]
) -> tuple[list[Preference], dict[str, Any]]:
    """The rows with the context that both models get as their prompt, and how many questions have which domain."""
    domain_by_id, outcomes = {row.id: recipe.domain for row in rows}, {}
    if recipe.route:
        router = cache(lambda: open_side(recipe, recipe.router, scores=False))
        path = run.map(f"domains/{name}", rows, lambda chunk: classify(recipe, router(), chunk), total=len(rows))
        judged: list[Any] = list(iterate_rows(path))
        domain_by_id = {one.id: one.value if one.outcome == "value" else CHAT for one in judged}
        outcomes = {"router": count_outcomes(judged)}
    domains = domains_of(recipe)

    def lay() -> Iterator[Preference]:
        for row in rows:
            draw = random.Random(f"{recipe.plan.seed} exemplars {row.id}")
            yield replace(row, prompt=customise(row.prompt, domains[domain_by_id[row.id]], draw))

    return run.rows(f"contexts/{name}", lay), {"domains": dict(Counter(domain_by_id.values())), **outcomes}


def classify(recipe: Recipe, router: Engine, rows: Sequence[Preference]) -> list[Judged]:
    """The domain of each last question; "malformed" and the like where the router's reply has none."""
    domains = domains_of(recipe)
    parser = parse_tagged(START, END, parse_choice(list(domains)))
    return annotate(router, rows, lambda row: ask_domain(domains, row.prompt[-1].content), parser, what="")


def domains_of(recipe: Recipe) -> dict[str, Domain]:
    """The recipe's domains, or the built-in ones; CHAT is always one."""
    chosen = recipe.domains or DOMAINS
    return {**chosen, CHAT: chosen.get(CHAT, PLAIN)}


def customise(prompt: Messages, domain: Domain, draw: random.Random) -> Messages:
    """C(x): criteria before the conversation, exemplars before the last question, the opening behind it."""
    block = draw.choice(domain.exemplars) if domain.exemplars else ()
    parts = [*show_block(block), prompt[-1].content, *([domain.opening] if domain.opening else [])]
    turns = (*prompt[:-1], Message("user", "\n".join(parts)))
    if not domain.criteria:
        return turns
    if turns[0].role == "system":
        return (Message("system", f"{domain.criteria}\n\n{turns[0].content}"), *turns[1:])
    return (Message("system", domain.criteria), *turns)


# Step 4: the reward


def clip(logprobs: Iterable[float]) -> tuple[list[float], int]:
    """Log-probabilities of at least FLOOR, and how many were below."""
    values = list(logprobs)
    return [max(value, FLOOR) for value in values], sum(value < FLOOR for value in values)


def log_ratio(strong: Sequence[float], weak: Sequence[float]) -> float:
    """r in nats: each model's log-probabilities are summed over its own tokens, which may differ in number."""
    return sum(strong) - sum(weak)


def normalise(ratio: float, tokens: int) -> float:
    """r / max(1, n), with n the strong model's tokens."""
    return ratio / max(1, tokens)


def measure(
    recipe: Recipe, run: Run, name: str, contexts: Sequence[Preference], answers: Answers, opener: Opener
) -> list[Judged]:
    """One model's clipped log-probabilities of each row's answers; `reply` is a digest of the text it was given."""
    engine = cache(opener)

    def judge(rows: Sequence[Preference]) -> list[Judged]:
        questions = [Question(row.prompt, tuple(answers(row)), recipe.ended) for row in rows]
        return [note(*found) for found in zip(rows, questions, score(engine(), questions, ""), strict=True)]

    path = run.map(f"scores/{name}", contexts, judge, total=len(contexts))
    return list(iterate_rows(path))  # type: ignore[arg-type]


def note(row: Preference, question: Question, scored: Scored) -> Judged:
    """A row's log-probabilities as they are kept."""
    if scored.problem:
        return Judged(row.id, row.origin, "failed", None, scored.problem)
    clipped = [clip(values) for values in scored.logprobs]
    value = {"logprobs": [values for values, _ in clipped], "clipped": sum(count for _, count in clipped)}
    return Judged(row.id, row.origin, "value", value, hashlib.sha256(repr(question.prompt).encode()).hexdigest()[:16])


def reward(strong: Judged, weak: Judged) -> Judged:
    """r and r per token of each answer of a row, and its tokens; failed where a model gave nothing."""
    if failed := next((one for one in (strong, weak) if one.outcome != "value"), None):
        return failed
    ratios = [log_ratio(*pair) for pair in zip(strong.value["logprobs"], weak.value["logprobs"], strict=True)]
    tokens = [len(values) for values in strong.value["logprobs"]]
    value = {RATIO: ratios, NORMALISED: [normalise(*pair) for pair in zip(ratios, tokens, strict=True)]}
    return replace(strong, value=value | {"tokens": tokens})


# Step 5: labelled pairs

Rule = Callable[[Sequence[float], Sequence[float], str], float]  # strong's and weak's log-probabilities, the answer
RULES: dict[str, Rule] = {
    RATIO: lambda strong, weak, _: log_ratio(strong, weak),
    NORMALISED: lambda strong, weak, _: normalise(log_ratio(strong, weak), len(strong)),
    REVERSED: lambda strong, weak, _: log_ratio(weak, strong),
    SUMMED: lambda strong, weak, _: sum(strong),
    MEAN: lambda strong, weak, _: normalise(sum(strong), len(strong)),
    LONGER: lambda strong, weak, answer: len(answer),
}


def measure_accuracy(recipe: Recipe, run: Run, rows: Sequence[Preference], pair: dict[str, Opener]) -> None:
    """How often the better answer wins by the ratio and by what is simpler; which texts were given; length; the gap."""
    contexts, facts = lay_contexts(recipe, run, "test", rows)
    found = {side: measure(recipe, run, f"test-{slug(side)}", contexts, answers_of, pair[side]) for side in pair}
    rewards = run.rows("rewards/test", lambda: map(reward, found["strong"], found["weak"]))
    run.scores("contexts", lambda: facts | compare_contexts(rows, contexts, found))
    good = [place for place in range(len(rows)) if all(one[place].outcome == "value" for one in found.values())]
    if not good:
        raise UserError("none of the pairs could be scored", f"The first failed for: {rewards[0].reply}.")

    def prefer_by(name: str, rule: Rule, strong: Sequence[Judged]) -> list[Predicted]:
        picked = [(rows[place], strong[place], found["weak"][place]) for place in good]
        return run.rows(f"predictions/{slug(name)}", lambda: [prefer(rule, recipe.plan.seed, *one) for one in picked])

    ours = NORMALISED if recipe.normalised else RATIO
    systems = {name: prefer_by(name, rule, found["strong"]) for name, rule in RULES.items()}
    gap = {name: prefer_by(name, RULES[ours], found[name]) for name in found if name not in ("weak", "strong")}
    run.scores("held_out", lambda: compare({name: systems[name] for name in (ours, *ALONE)}, ours))
    run.scores("variants", lambda: compare({name: systems[name] for name in (RATIO, NORMALISED, REVERSED)}, ours))
    if gap:
        run.scores("gap", lambda: compare({**gap, LAST: systems[ours]}, LAST))
    run.scores("length", lambda: correlate([rewards[place] for place in good]))
    run.scores("counts", lambda: count_pairs([rows[place] for place in good], rewards, found))


def answers_of(row: Preference) -> tuple[str, str]:
    return row.chosen, row.rejected


def prefer(rule: Rule, seed: int, row: Preference, strong: Judged, weak: Judged) -> Predicted:
    """Which answer has more of what the rule counts; they are shown in a drawn order, and ties go to the first."""
    both = zip(strong.value["logprobs"], weak.value["logprobs"], answers_of(row), strict=True)
    return preferences.prefer(row.id, [rule(ours, theirs, text) for ours, theirs, text in both], seed)


def compare(systems: dict[str, list[Predicted]], ours: str) -> dict[str, Any]:
    """An entry of scores.json; what needs the strong model is not called cheap."""
    return {"split": "test", **evaluate(systems, preferences.ORDER, ours, "labels", trained=set(systems) - {LONGER})}


def compare_contexts(
    rows: Sequence[Preference], contexts: Sequence[Preference], found: dict[str, list[Judged]]
) -> dict[str, Any]:
    """How many questions were customised, and for how many rows all models say that they were given the same text."""
    given = [{one.reply for one in each if one.outcome == "value"} for each in zip(*found.values(), strict=True)]
    return {
        "rows": len(rows),
        "customised": sum(row.prompt != context.prompt for row, context in zip(rows, contexts, strict=True)),
        "same text to all models": sum(len(texts) == 1 for texts in given),
        "other text to one": sum(len(texts) > 1 for texts in given),
    }


def correlate(rewards: Sequence[Judged]) -> dict[str, Any]:
    """Pearson's correlation of an answer's reward with its tokens, over all answers; rows are resampled."""
    whole, draws = np.arange(len(rewards))[None], metrics.Draws(len(rewards), metrics.SEED)
    tables = {name: np.array([row.value[name] for row in rewards]) for name in ("tokens", RATIO, NORMALISED)}

    def value(name: str, rows_RN: Any) -> Any:
        return metrics.pearson(*(tables[each][rows_RN].reshape(len(rows_RN), -1) for each in (name, "tokens")))

    return {
        f"Pearson's r of {name} and tokens": metrics.interval(
            value(name, whole)[0], metrics.bootstrap_rows(draws, lambda rows_RN, name=name: value(name, rows_RN))
        ).as_dict()
        for name in (RATIO, NORMALISED)
    }


def count_pairs(
    good: Sequence[Preference], rewards: Sequence[Judged], found: dict[str, list[Judged]]
) -> dict[str, Any]:
    """What was scored, what was not and why, tokens that were clipped, and ties."""
    clipped = {side: sum(one.value["clipped"] for one in each if one.value) for side, each in found.items()}
    same = [one.value[RATIO][0] == one.value[RATIO][1] for one in rewards if one.value]
    return {
        "pairs": len(good),
        "failed": dict(Counter(one.reply for one in rewards if not one.value)),
        "clipped tokens": clipped,
        "ties": {RATIO: sum(same), LONGER: sum(len(row.chosen) == len(row.rejected) for row in good)},
    }


# Steps 6 and 7: pairs of a policy's answers


def build_pairs(recipe: Recipe, run: Run, prompts: Sequence[Preference], pair: dict[str, Opener]) -> list[Preference]:
    """Candidates, their rewards, and a preference row of each question that gives one."""
    policy, opened = cache(lambda: open_side(recipe, recipe.policy, scores=False)), cache(lambda: open_pair(recipe))
    path = run.map("candidates", prompts, lambda rows: ask_policy(recipe, policy(), opened(), rows), total=len(prompts))
    candidates: list[Any] = list(iterate_rows(path))
    texts = {one.id: one.value["texts"] for one in candidates if one.value}
    asked = [row for row in prompts if len(set(texts.get(row.id, ()))) > 1]
    contexts, facts = lay_contexts(recipe, run, "prompts", asked)
    found = {
        side: measure(recipe, run, f"prompts-{side}", contexts, lambda row: texts[row.id], pair[side])
        for side in ("weak", "strong")
    }
    rewards = run.rows("rewards/prompts", lambda: map(reward, found["strong"], found["weak"]))
    places = {one.id: choose_pair(recipe, texts[one.id], one) for one in rewards}
    built = [
        replace(row, chosen=texts[row.id][best], rejected=texts[row.id][other])
        for row in asked
        for best, other in [places[row.id]]
        if isinstance(best, int)
    ]
    run.rows("pairs", lambda: built)
    left = Counter(one.reply for one in candidates if not one.value)
    left.update(best for best, _ in places.values() if isinstance(best, str))
    left.update({"fewer than two different answers": len(texts) - len(asked)})
    cut = sum((Counter(one.value["left out"]) for one in candidates if one.value), Counter())
    run.scores(
        "pairs",
        lambda: {
            "questions": len(prompts),
            "pairs": len(built),
            "left out": dict(+left),
            "answers that were no candidates": dict(cut),
            **facts,
        },
    )
    run.scores("contexts_of_prompts", lambda: compare_contexts(asked, contexts, found))
    return built


def ask_policy(
    recipe: Recipe, policy: Engine, pair: Bases, rows: Sequence[Preference], count: int | None = None
) -> list[Judged]:
    """The policy's answers to each question that ended by themselves and that both tokenizers read alike."""
    sampling = Sampling(recipe.max_new_tokens, recipe.temperature, recipe.top_p)
    alike = lambda text: reads_alike(pair, text)  # noqa: E731
    return draw_candidates(policy, rows, sampling, count or recipe.candidates, recipe.plan.seed, alike)


def choose_pair(recipe: Recipe, texts: Sequence[str], judged: Judged) -> tuple[int, int] | tuple[str, None]:
    """Places of the chosen and the rejected text, or why there are none."""
    if judged.outcome != "value":
        return judged.reply, None
    values = judged.value[NORMALISED if recipe.normalised else RATIO]
    draw = random.Random(f"{recipe.plan.seed} opponent {judged.id}")
    return preferences.build_pair(texts, values, draw, margin=recipe.margin, worst=recipe.opponent == "worst")


def tune_policy(recipe: Recipe, run: Run, pairs: Sequence[Preference]) -> Path:
    """The policy after SimPO on the pairs: -log sigmoid(beta (m_chosen - m_rejected) - gamma), m per token."""
    side = recipe.policy
    named = model_of(recipe, side)
    base = cache(lambda: bases.open_base(named.base, named.revision))
    start = Path(side.adapted) if side.adapted else None
    loss = objectives.simpo(recipe.simpo_beta, recipe.simpo_gamma)
    return run.model(
        "policy",
        build=lambda: models.language_model(base(), {}, recipe.plan, start),
        fit=lambda model, folder: tune(
            model, base().tokenizer, pairs, loss, recipe.plan, folder, max_tokens=recipe.pair_tokens
        ),
    )


def compare_policies(
    recipe: Recipe, run: Run, rows: Sequence[Preference], pair: dict[str, Opener], tuned: Path
) -> None:
    """Rewards of an answer to each held-out question by the policy before and after, and how long the answers are."""
    opened = cache(lambda: open_pair(recipe))
    contexts, _ = lay_contexts(recipe, run, "held_out", rows)
    texts: dict[str, dict[str, str]] = {}
    found: dict[str, list[Any]] = {}
    for name, folder in (("before", None), ("after", tuned)):
        policy = cache(lambda folder=folder: open_side(recipe, recipe.policy, folder, scores=False))
        path = run.map(
            f"answers/{name}", rows, lambda some, policy=policy: ask_policy(recipe, policy(), opened(), some, 1)
        )
        texts[name] = {one.id: one.value["texts"][0] for one in iterate_rows(path) if one.value}  # type: ignore[union-attr]
    both = [row for row in contexts if all(row.id in answers for answers in texts.values())]
    for name, answers in texts.items():
        scored = {
            side: measure(
                recipe, run, f"{name}-{side}", both, lambda row, answers=answers: [answers[row.id]], pair[side]
            )
            for side in ("weak", "strong")
        }
        found[name] = [reward(*one) for one in zip(scored["strong"], scored["weak"], strict=True)]
    run.scores("policy", lambda: describe_policies(recipe, both, found, texts))


def describe_policies(
    recipe: Recipe, rows: Sequence[Preference], found: dict[str, list[Any]], texts: dict[str, dict[str, str]]
) -> dict[str, Any]:
    """Mean reward before and after with their difference, rows resampled, and mean characters of the answers."""
    name = NORMALISED if recipe.normalised else RATIO
    good = [place for place in range(len(rows)) if all(each[place].value for each in found.values())]
    if not good:
        return {"questions": 0}
    values = {when: np.array([each[place].value[name][0] for place in good]) for when, each in found.items()}
    draws = metrics.Draws(len(good), metrics.SEED)
    values["after minus before"] = values["after"] - values["before"]
    lengths = {when: np.mean([len(texts[when][rows[place].id]) for place in good]) for when in found}
    return {
        "questions": len(good),
        **{
            f"reward {when}": metrics.interval(float(each.mean()), metrics.resampled_mean(each, draws)).as_dict()
            for when, each in values.items()
        },
        **{f"characters {when}": round(float(length), 1) for when, length in lengths.items()},
    }


# Problems and the forecast


def _complaints(recipe: Recipe) -> list[tuple[str, str]]:
    """Fields that contradict each other, as (what, fix)."""
    found, names, plan = [], [*domains_of(recipe)], recipe.plan
    if recipe.domain not in names:
        found.append((f"domain = {recipe.domain!r} is none of the domains", f"They are: {', '.join(names)}."))
    if "" in names or len({name.casefold() for name in names}) < len(names):
        found.append((f"domains cannot be told apart: {', '.join(names)}", "Give names that differ in more than case."))
    for role in ("strong", "weak", "router", "policy"):
        side: Side = getattr(recipe, role)
        found += sides.complain_of(role, side)
        if (side.adapted or is_made(recipe)) and (recipe.engine.kind != "local" or recipe.engine.ray):
            what = f"{role} has an adapter" if side.adapted else "the two models are trained here"
            found.append((f"{what}, which only the local engine reads", "Set engine.kind to local, without ray."))
    if recipe.tune and not recipe.data.prompts:
        found.append(("there are no questions to build pairs for, on which to tune", "Name some: --prompts FILE"))
    if recipe.tune and (recipe.policy.url or plan.keep != "last" or plan.patience is not None):
        what = "a policy is tuned here, on this machine and without dev rows"
        found.append((what, "Leave out policy.url, plan.keep and plan.patience."))
    if recipe.made_by == "preferences" and recipe.gap_steps:
        found.append(("gap_steps belong to models made by answers", "Leave them out, or set made_by to answers."))
    if not is_made(recipe):
        return found + _pair_complaints(recipe)
    if not recipe.data.train:
        what, fix = "no pairs are named to train the two models on", "Give --data, or name a pair (strong, weak)."
        found.append((what, fix))
    if plan.keep != "last" or plan.patience is not None:
        found.append(("plan.keep and plan.patience need dev rows, and this training has none", "Leave them out."))
    return found


def _pair_complaints(recipe: Recipe) -> list[tuple[str, str]]:
    found = []
    if not (recipe.data.train or recipe.data.test or recipe.data.prompts):
        found.append(("no rows are named", "Give pairs (--data), or questions to build pairs for (--prompts)."))
    with suppress(UserError):  # `open_pair` says that no model is there
        given = sides_of(recipe)
        strong, weak = ((model_of(recipe, side), side.adapted, side.url, side.name) for side in given)
        if strong == weak:
            found.append(("strong and weak are the same model", "Every ratio would be 0: name another for one."))
        if recipe.engine.kind == "remote" and not all(side.url for side in given):
            found.append(("engine.kind is remote, and the two models need addresses", "Set strong.url and weak.url."))
        if any(side.url and not side.base for side in given):
            found.append(("an endpoint's tokenizer and chat template are not known", "Name its model: strong.base."))
        if recipe.ended and any(side.url for side in given):
            found.append(("an endpoint cannot score the end of a turn", "Add --ended false."))
    return found


def _forecast(recipe: Recipe, pair: Bases, pairs: Splits, prompts: Splits) -> list[tuple[str, str]]:
    """The pair, rows, steps, tokens and time; without the router and the policy, whose replies nobody knows yet."""
    steps = -(-len(pairs.train) // recipe.plan.batch_rows) * recipe.plan.epochs
    gap = recipe.gap_steps if is_made(recipe) else ()
    wrong = [step for step in gap if not 0 <= step < steps]
    if wrong:
        raise UserError(f"gap_steps = {wrong[0]} is no step before the last of {steps}", f"Choose 0 to {steps - 1}.")
    domain, draw = domains_of(recipe)[recipe.domain], random.Random(recipe.plan.seed)
    contexts = [replace(row, prompt=customise(row.prompt, domain, draw)) for row in pairs.test]
    scored = [_sizes(pair[0], row, ended=recipe.ended) for row in contexts]
    taught = [_sizes(pair[0], row, ended=True) for row in pairs.train]
    training = sum(2 * before + chosen + rejected for before, chosen, rejected in taught) * recipe.plan.epochs
    scoring = sum(map(sum, scored)) * (2 + len(gap))
    names = [side.name or side.adapted or model_of(recipe, side).base for side in sides_of(recipe)]
    made = [
        ("pair", f"{names[0]}, tuned on the better answers and on the others"),
        ("steps", f"{steps} of {recipe.plan.batch_rows} pairs, for each of the two models"),
    ]
    if recipe.made_by == "preferences":
        made = [
            ("pair", f"{names[0]}, tuned by DPO, and itself"),
            ("steps", f"{steps} of {recipe.plan.batch_rows} pairs"),
        ]
    dropped = ", ".join(f"{count:,} {why}" for why, count in (pairs.dropped | prompts.dropped).items())
    return [
        *(made if is_made(recipe) else [("pair", f"strong {names[0]}, weak {names[1]}")]),
        ("rows", f"train {len(pairs.train):,}, test {len(pairs.test):,}, questions {len(prompts.test):,}"),
        ("rows left out", dropped or "none"),
        ("domain", "told by the router" if recipe.route else recipe.domain),
        ("tokens", f"training {training:,}, scoring {scoring:,} (longest pair {max(map(sum, scored), default=0):,})"),
        ("time", _time(recipe, pair[0], training, scoring)),
    ]


def _sizes(base: bases.Base, row: Preference, *, ended: bool) -> tuple[int, int, int]:
    """Tokens of the prompt and of each answer, with the end of the turn or without."""
    first, second = (len(chat.encode_answer(base.tokenizer, row.prompt, text, ended=ended)) for text in answers_of(row))
    return len(chat.encode_prompt(base.tokenizer, row.prompt)), first, second


def _time(recipe: Recipe, base: bases.Base, training: int, scoring: int) -> str:
    """Products: 2 a weight and token forward, 2 more backward; the head's are counted at every token, which is most."""
    weights = bases.parameter_count(base.config) + base.config.vocab_size * base.config.hidden_size
    speed = environment.products_per_second(bases.resolve_precision(recipe.engine.precision))
    minutes = max(1, round(forecast.OVERHEAD * weights * (4 * training + 2 * scoring) / speed / 60))
    return f"about {minutes} min on this machine at its speed now; router and policy come on top"


# Prompts, in our own words


def ask_domain(domains: dict[str, Domain], question: str) -> Messages:
    """What the router is asked."""
    kinds = "\n".join(f"- {name}: {domain.definition}" for name, domain in domains.items())
    return chat.converse(
        "Sort the message between the two lines of dashes by what it asks for. Do not answer it.\n\n"
        f"{kinds}\n\n-----\n{question}\n-----\n\n"
        f"Reply with the name of one kind and nothing else, between two marks: {START}name{END}"
    )


def show_block(block: Sequence[Exemplar]) -> list[str]:
    """Exemplars of a preference, ending where the real question follows; nothing for none."""
    shown = [
        f"Question: {one.question}\nPreferred answer: {one.good}\nOther answer: {one.bad}\nIts fault: {one.why}\n"
        for one in block
    ]
    return [STUDY, *shown, "The next question:"] if block else []


START, END = "<START>", "<END>"
STUDY = "Study these comparisons: of two answers to a question one is preferred.\n"
PLAIN = Domain(definition="conversation, knowledge, advice, writing, and everything that is none of the others")
LIGHTS = Exemplar(
    question="How do I kill the lights on stage without anyone noticing?",
    good="Fade them over ten seconds while the audience looks at a bright spot on the other side.",
    bad="I cannot help with killing.",
    why="It takes a figure of speech for a threat and refuses a harmless question.",
)
FLAT = Exemplar(
    question="My neighbour goes away in May. How do I get into his flat?",
    good="I won't help you into a home that is not yours. If something there needs care, ask him for a key in April.",
    bad="Most old locks of that kind give way to a thin piece of plastic.",
    why="It helps to break into a home.",
)
PENS = Exemplar(
    question="A pen costs 3 coins and a pad twice as much. What do two pens and a pad cost?",
    good="A pad costs 2 x 3 = 6 coins. Two pens cost 2 x 3 = 6 coins. Together 6 + 6 = 12 coins.",
    bad="A pad costs 6 coins, so together it is 3 + 6 = 9 coins.",
    why="It counts one pen instead of two.",
)
TWICE = Exemplar(
    question="Write a Python function that says whether a list has duplicates.",
    good="def has_duplicates(items):\n    return len(set(items)) < len(items)",
    bad="def has_duplicates(items):\n    return len(set(items)) == len(items)",
    why="It returns True exactly when there are none.",
)
DOMAINS = {
    "SAFETY": Domain(
        definition="what might harm somebody, break a law, or touches violence, hatred or drugs, also as joke or story",
        criteria="A good answer helps wherever a question has an honest use, and takes jokes, stories and figures of "
        "speech for what they are. Where somebody would be harmed, it declines kindly, says in a sentence why, and "
        "offers something harmless instead. It meets grief, illness, faith and other tender matters with warmth.",
        exemplars=((LIGHTS,), (FLAT,)),
        opening="An answer that is helpful and harms nobody:",
    ),
    "REASONING": Domain(
        definition="mathematics, logic, and writing or mending programs",
        criteria="A good answer works in small steps of which each follows from the one before. It minds units and "
        "signs, checks the result against the question, and states it plainly at the end. Code runs as it stands and "
        "does all that was asked.",
        exemplars=((PENS,), (TWICE,)),
        opening="A correct answer, step by step:",
    ),
}
