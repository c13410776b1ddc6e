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

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from camelid import bases, candidates, chat, data, forecast, metrics, objectives, preferences, recipe, sides
from camelid.annotation import annotate, count_outcomes, score_answers
from camelid.candidates import Writer
from camelid.data import Splits
from camelid.data.columns import preference_shape, prompt_shape
from camelid.engines import Engine, Sampling
from camelid.errors import UserError, raise_all, try_all
from camelid.parsing import parse_choice, parse_tagged
from camelid.rows import Judged, Message, Preference
from camelid.runs import Run, slug
from camelid.sides import Side
from camelid.training import complain_of_plan

Messages = tuple[Message, ...]
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
    looks = {"pair": open_pair, "pairs": read_pairs, "prompts": read_prompts}
    found, problems = try_all(
        {name: lambda look=look: look(recipe) for name, look in looks.items()}, _complaints(recipe)
    )
    raise_all(problems)
    return _forecast(recipe, **found)


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
        last = {side: pair[side] for side in ("weak", "strong")}
        built = build_pairs(recipe, run, prompts, last)  # steps 2 to 4, and 6
        if recipe.tune:
            compare_policies(recipe, run, held_out, last, tune_policy(recipe, run, built))  # step 7


def read_pairs(recipe: Recipe) -> Splits:
    """Pairs to score, and others with other questions to train on where the two models are made here.

    Raises UserError with what is wrong with the rows, and where the two tokenizers do not read a text alike.
    """
    values, made, dropped = recipe.data, is_made(recipe), Counter[str]()
    shape = preference_shape(values.prompt, values.chosen, values.rejected)
    given, held_out = (
        _tell_apart(data.read_source(source, shape, values.missing, dropped), dropped)
        for source in (values.train, values.test)
    )
    sides.check_reading(*open_pair(recipe), [*given, *held_out])
    draw = random.Random(f"{recipe.plan.seed} pairs")
    limit = values.test_rows or (len(given) // 2 if made and not held_out else None)
    test = data.draw_rows(held_out or given, limit, draw)
    train = data.draw_rows(data.leave_out(given, test), values.train_rows, draw) if made else []
    if (values.train or values.test) and not (test and (train or not made)):
        counts = f"{len(train)} to train on, {len(test)} to score; left out: {forecast.tell_dropped(+dropped)}"
        raise UserError(
            f"{values.train or values.test} has too few pairs: {counts}",
            "Give more rows, lower data.test_rows, or name a pair of models (strong, weak).",
        )
    return Splits(train, [], test, dict(+dropped))


def _tell_apart(rows: Sequence[Preference], dropped: Counter[str]) -> list[Preference]:
    """The pairs of different answers: of equal ones neither is better."""
    kept = [row for row in rows if row.chosen != row.rejected]
    dropped["pairs whose answers are the same"] += len(rows) - len(kept)
    return kept


def read_prompts(recipe: Recipe) -> Splits:
    """The questions for which pairs are built, under "test", and others held out, under "dev", where one is tuned.

    Their rows have no answers yet.
    """
    values, dropped = recipe.data, Counter[str]()
    shape = replace(prompt_shape(values.prompt), options="--set data.prompt")
    rows = data.read_source(values.prompts, shape, values.missing, dropped)
    draw = random.Random(f"{recipe.plan.seed} prompts")
    held = data.draw_rows(rows, min(values.held_out_prompts, len(rows) // 2), draw) if recipe.tune else []
    asked = data.draw_rows(data.leave_out(rows, held), values.prompt_rows, draw)
    return Splits([], held, asked, {f"prompts: {why}": count for why, count in dropped.items()})


# Step 1: the pair

Openers = Mapping[str, Callable[[], Engine]]


def is_made(recipe: Recipe) -> bool:
    """Whether the two models are trained in this run, because the recipe names none."""
    return recipe.strong == recipe.weak == Side()


def sides_of(recipe: Recipe) -> tuple[Side, Side]:
    """(strong, weak); the weak one of an adapter is the base it was trained on, unless the recipe names another."""
    return sides.pair_sides(recipe.strong, recipe.weak, recipe.model)


def open_pair(recipe: Recipe) -> tuple[bases.Base, bases.Base]:
    """Config and tokenizer of strong and weak, without weights."""
    strong, weak = (sides.model_of(side, recipe.model) for side in sides_of(recipe))
    return bases.open_base(strong.base, strong.revision), bases.open_base(weak.base, weak.revision)


def make_pair(recipe: Recipe, run: Run, rows: Sequence[Preference]) -> Openers:
    """What opens the engines "weak" and "strong", and of each of `gap_steps`; trains the two models if need be."""

    def open_side(side: Side, folder: Path | None = None) -> Engine:
        return sides.open_side(side, recipe.model, recipe.engine, folder)

    if not is_made(recipe):
        return {"weak": lambda: open_side(sides_of(recipe)[1]), "strong": lambda: open_side(sides_of(recipe)[0])}
    folders: dict[str, Path | None] = {"weak": None}
    if recipe.made_by == "preferences":
        loss, limits = objectives.dpo(recipe.beta), {"max_tokens": recipe.pair_tokens, "refers": True}
        folders["strong"] = preferences.tune_policy(run, "strong", recipe.model, rows, loss, recipe.plan, **limits)
    else:
        made = sides.tune_apart(run, recipe.model, rows, recipe.plan, recipe.gap_steps)
        earlier = {step: made["strong"] / f"step-{step}" if step else None for step in recipe.gap_steps}
        folders |= made | {f"after {step} steps": folder for step, folder in earlier.items()}
    return {name: lambda folder=folder: open_side(Side(), folder) for name, folder in folders.items()}


# Steps 2 and 3: domain and context


def lay_contexts(
    recipe: Recipe, run: Run, name: str, rows: Sequence[Preference]
) -> tuple[list[Preference], dict[str, Any]]:
    """The rows with the context that both models get as their prompt, and how many questions have which domain."""
    domain_by_id, outcomes = {row.id: recipe.domain for row in rows}, {}
    if recipe.route:
        router = cache(lambda: sides.open_side(recipe.router, recipe.model, recipe.engine, scores=False))
        judged = run.map_rows(f"domains/{name}", rows, lambda some: classify(recipe, router(), some))
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


def log_ratio(strong: Sequence[float], weak: Sequence[float]) -> float:
    """r in nats: each model's log-probabilities are summed over its own tokens, which may differ in number."""
    return sum(strong) - sum(weak)


def normalise(ratio: float, tokens: int) -> float:
    """r / max(1, n), with n the strong model's tokens."""
    return ratio / max(1, tokens)


def measure(
    recipe: Recipe,
    run: Run,
    name: str,
    contexts: Sequence[Preference],
    answers: Callable[[Preference], Sequence[str]],
    pair: Openers,
) -> dict[str, list[Judged]]:
    """By model, the clipped log-probabilities of each row's answers; `reply` is a digest of the text it was given."""

    def ask(side: str) -> list[Judged]:
        engine = cache(pair[side])
        judge = lambda rows: score_answers(engine(), rows, answers, ended=recipe.ended, floor=FLOOR)  # noqa: E731
        return run.map_rows(f"scores/{name}-{slug(side)}", contexts, judge)

    return {side: ask(side) for side in pair}


def reward(strong: Judged, weak: Judged) -> Judged:
    """r and r per token of each answer of a row, and its tokens; failed where a model gave nothing."""
    if failed := next((one for one in (strong, weak) if one.outcome != "value"), None):
        return failed
    ratios = [log_ratio(*pair) for pair in zip(strong.value["logprobs"], weak.value["logprobs"], strict=True)]
    tokens = [len(values) for values in strong.value["logprobs"]]
    value = {RATIO: ratios, NORMALISED: [normalise(*pair) for pair in zip(ratios, tokens, strict=True)]}
    return replace(strong, value=value | {"tokens": tokens})


def reward_of(recipe: Recipe) -> str:
    """Which of the two is the recipe's reward."""
    return NORMALISED if recipe.normalised else RATIO


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


def measure_accuracy(recipe: Recipe, run: Run, rows: Sequence[Preference], pair: Openers) -> None:
    """How often the better answer wins by the ratio and by what is simpler; which texts were given; length; the gap."""
    contexts, facts = lay_contexts(recipe, run, "test", rows)
    found = measure(recipe, run, "test", contexts, answers_of, pair)
    rewards = run.rows("rewards/test", lambda: map(reward, found["strong"], found["weak"]))
    run.scores("contexts", lambda: facts | compare_contexts(rows, contexts, found))
    good = [place for place in range(len(rows)) if all(one[place].outcome == "value" for one in found.values())]
    if not good:
        raise UserError("none of the pairs could be scored", f"The first failed for: {rewards[0].reply}.")

    def values_by(rule: Rule, strong: Sequence[Judged]) -> list[list[float]]:
        return [apply_rule(rule, rows[place], strong[place], found["weak"][place]) for place in good]

    ours, steps = reward_of(recipe), [name for name in found if name not in ("weak", "strong")]
    values = {name: values_by(rule, found["strong"]) for name, rule in RULES.items()}
    values |= {name: values_by(RULES[ours], found[name]) for name in steps}
    systems = preferences.predict_pairs(run, [rows[place].id for place in good], values, recipe.plan.seed)
    run.scores("held_out", lambda: compare({name: systems[name] for name in (ours, *ALONE)}, ours))
    run.scores("variants", lambda: compare({name: systems[name] for name in (RATIO, NORMALISED, REVERSED)}, ours))
    if steps:
        run.scores("gap", lambda: compare({name: systems[name] for name in steps} | {LAST: systems[ours]}, LAST))
    scored = [rows[place] for place in good]
    preferences.break_down(run, scored, {name: values[name] for name in (ours, *ALONE)}, ours)
    run.scores("length", lambda: correlate([rewards[place] for place in good]))
    run.scores("counts", lambda: count_pairs(scored, rewards, found))


def answers_of(row: Preference) -> tuple[str, str]:
    return row.chosen, row.rejected


def apply_rule(rule: Rule, row: Preference, strong: Judged, weak: Judged) -> list[float]:
    """What the better and the other answer have of what the rule counts."""
    both = zip(strong.value["logprobs"], weak.value["logprobs"], answers_of(row), strict=True)
    return [rule(*one) for one in both]


def compare(systems: Mapping[str, Any], ours: str) -> dict[str, Any]:
    """An entry of scores.json; what needs the strong model is not called cheap, and says which stages it needs."""
    found = preferences.compare_preferences(systems, ours, trained=set(systems) - {LONGER})
    return found | {"stages": {name: stages_of(name) for name in systems}}


def stages_of(system: str) -> list[str]:
    """The stages of a run in which the models that a system reads were made and asked."""
    strong = "strong" if system in (*RULES, LAST) else system  # else as it was after some of its steps
    read = {SUMMED: [strong], MEAN: [strong], LONGER: []}.get(system, ["weak", strong])
    made = ["weak" if side == "weak" else "strong" for side in read]
    return [*made, *(f"scores/test-{slug(side)}" for side in read)]


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
    tables = {name: np.array([row.value[name] for row in rewards]) for name in ("tokens", RATIO, NORMALISED)}
    return {
        f"Pearson's r of {name} and tokens": metrics.spread_pearson(tables[name], tables["tokens"])
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


def build_pairs(recipe: Recipe, run: Run, prompts: Sequence[Preference], pair: Openers) -> list[Preference]:
    """Candidates, their rewards, and a preference row of each question that gives one."""
    drawn = run.map_rows("candidates", prompts, open_policy(recipe, recipe.candidates))
    texts = candidates.texts_of(drawn)
    asked = [row for row in prompts if len(set(texts.get(row.id, ()))) > 1]
    contexts, facts = lay_contexts(recipe, run, "prompts", asked)
    found = measure(recipe, run, "prompts", contexts, lambda row: texts[row.id], pair)
    rewards = run.rows("rewards/prompts", lambda: map(reward, found["strong"], found["weak"]))
    tried = [choose_pair(recipe, row, texts[row.id], one) for row, one in zip(asked, rewards, strict=True)]
    built = run.rows("pairs", lambda: [one for one in tried if isinstance(one, Preference)])
    run.scores("pairs", lambda: candidates.count_pairs(drawn, tried) | facts)
    run.scores("contexts_of_prompts", lambda: compare_contexts(asked, contexts, found))
    return built


def open_policy(recipe: Recipe, count: int, tuned: Path | None = None) -> Writer:
    """What gives the policy's answers to questions that ended by themselves and that both tokenizers read alike."""
    policy = cache(lambda: sides.open_side(recipe.policy, recipe.model, recipe.engine, tuned, scores=False))
    pair = cache(lambda: open_pair(recipe))
    sampling = Sampling(recipe.max_new_tokens, recipe.temperature, recipe.top_p)
    alike = lambda text: sides.reads_alike(*pair(), text)  # noqa: E731
    return lambda rows: candidates.draw_candidates(policy(), rows, sampling, count, recipe.plan.seed, alike)


def choose_pair(recipe: Recipe, row: Preference, texts: Sequence[str], judged: Judged) -> Preference | str:
    """The question with its chosen and its rejected text, or why there are none."""
    if judged.outcome != "value":
        return judged.reply
    draw = random.Random(f"{recipe.plan.seed} opponent {row.id}")
    values, worst = judged.value[reward_of(recipe)], recipe.opponent == "worst"
    return candidates.pair_up(row, texts, values, draw, margin=recipe.margin, worst=worst)


def tune_policy(recipe: Recipe, run: Run, pairs: Sequence[Preference]) -> Path:
    """The policy after SimPO on the pairs: -log sigmoid(beta (m_chosen - m_rejected) - gamma), m per token."""
    loss, model = objectives.simpo(recipe.simpo_beta, recipe.simpo_gamma), sides.model_of(recipe.policy, recipe.model)
    start = Path(recipe.policy.adapted) if recipe.policy.adapted else None
    return preferences.tune_policy(
        run, "policy", model, pairs, loss, recipe.plan, start=start, max_tokens=recipe.pair_tokens
    )


def compare_policies(recipe: Recipe, run: Run, rows: Sequence[Preference], pair: Openers, tuned: Path) -> None:
    """Rewards of an answer to each held-out question by the policy before and after, and how long the answers are."""
    contexts, _ = lay_contexts(recipe, run, "held_out", rows)
    texts: dict[str, dict[str, list[str]]] = {}
    for when, folder in (("before", None), ("after", tuned)):
        texts[when] = candidates.texts_of(run.map_rows(f"answers/{when}", rows, open_policy(recipe, 1, folder)))
    both = [row for row in contexts if all(row.id in answers for answers in texts.values())]
    values: dict[str, list[float | None]] = {}
    for when, answers in texts.items():
        found = measure(recipe, run, when, both, lambda row, answers=answers: answers[row.id], pair)
        rewards = map(reward, found["strong"], found["weak"])
        values[when] = [one.value[reward_of(recipe)][0] if one.value else None for one in rewards]
    said = {when: [answers[row.id][0] for row in both] for when, answers in texts.items()}
    run.scores("policy", lambda: candidates.compare_answers(said, values))


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
    if recipe.tune and recipe.policy.url:
        found.append(("a policy is tuned on this machine, not at an endpoint", "Leave out policy.url."))
    if recipe.tune or is_made(recipe):
        found += complain_of_plan(plan)
    if recipe.made_by == "preferences" and recipe.gap_steps:
        found.append(("gap_steps belong to models made by answers", "Leave them out, or set made_by to answers."))
    if is_made(recipe):
        if not recipe.data.train:
            what, fix = "no pairs are named to train the two models on", "Give --data, or name a pair (strong, weak)."
            found.append((what, fix))
        return found
    if not (recipe.data.train or recipe.data.test or recipe.data.prompts):
        found.append(("no rows are named", "Give pairs (--data), or questions to build pairs for (--prompts)."))
    with suppress(UserError):  # `open_pair` says that no model is there
        found += sides.complain_of_pair(*sides_of(recipe), recipe.model, recipe.engine.kind, ended=recipe.ended)
    return found


def _forecast(recipe: Recipe, pair: Any, pairs: Splits, prompts: Splits) -> list[tuple[str, str]]:
    """The pair, rows, steps, tokens and time; without the router and the policy, whose replies nobody knows yet."""
    steps = -(-len(pairs.train) // recipe.plan.batch_rows) * recipe.plan.epochs
    gap = recipe.gap_steps if is_made(recipe) else ()
    wrong = [step for step in gap if not 0 <= step < steps]
    if wrong:
        raise UserError(f"gap_steps = {wrong[0]} is no step before the last of {steps}", f"Choose 0 to {steps - 1}.")
    domain, draw = domains_of(recipe)[recipe.domain], random.Random(recipe.plan.seed)
    contexts = [replace(row, prompt=customise(row.prompt, domain, draw)) for row in pairs.test]
    scored = [forecast.count_tokens(pair[0].tokenizer, row, ended=recipe.ended) for row in contexts]
    taught = [forecast.count_tokens(pair[0].tokenizer, row) for row in pairs.train]
    training = sum(2 * before + chosen + rejected for before, chosen, rejected in taught) * recipe.plan.epochs
    scoring = sum(map(sum, scored)) * (2 + len(gap))
    # products: 2 a weight and token forward, 2 more backward; the head's are counted at every token, which is most
    config = pair[0].config
    weights = bases.parameter_count(config) + config.vocab_size * config.hidden_size
    minutes = forecast.estimate_minutes(weights, recipe.engine.precision, scoring, training)
    names = [side.name or side.adapted or sides.model_of(side, recipe.model).base for side in sides_of(recipe)]
    tuned, each = "tuned on the better answers and on the others", ", for each of the two models"
    if recipe.made_by == "preferences":
        tuned, each = "tuned by DPO, and itself", ""
    made = [("pair", f"{names[0]}, {tuned}"), ("steps", f"{steps} of {recipe.plan.batch_rows} pairs{each}")]
    return [
        *(made if is_made(recipe) else [("pair", f"strong {names[0]}, weak {names[1]}")]),
        ("rows", f"train {len(pairs.train):,}, test {len(pairs.test):,}, questions {len(prompts.test):,}"),
        ("rows left out", forecast.tell_dropped(pairs.dropped | prompts.dropped)),
        ("domain", "told by the router" if recipe.route else recipe.domain),
        ("tokens", f"training {training:,}, scoring {scoring:,} (longest pair {max(map(sum, scored), default=0):,})"),
        ("time", f"about {minutes} min on this machine at its speed now; router and policy come on top"),
    ]


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
