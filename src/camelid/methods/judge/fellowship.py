"""A preference set made by several models: judges that were checked against people, and a loop of feedback.

Samee Arif et al., "The Fellowship of the LLMs: Multi-Agent Workflows for Synthetic Preference Optimization Dataset
Generation", 2024, arXiv 2408.08688.

Problem. A team without annotators needs pairs of a better and a worse answer. Which set-up of language models judges as
people do, and which loop of models answers better than one model alone?

Algorithm. Everything at temperature 0.
 1. Judge a pair of answers A and B: a letter ("direct"), each answer by itself out of 10 ("independent"), or both in
    one prompt out of 5, 10 or 100 ("combined"). The larger score wins, equal ones tie. A field is the first match
    behind its heading; where one is missing the model is asked again, twice at most, and its reply is appended. What
    is missing then is the score -1, which takes part in the comparison, or letter C.
 2. Jury: the majority of any subset of judges. No single mode is a tie; or ("intended") {tie, A} is A, {tie, B} B.
 3. Debate: General Public, Psychologist and Critic each speak once a round, for 2 rounds; the transcript is all they
    remember. Then each gives two scores out of 10 (0 and 0 where they cannot be read); their means are compared.
 4. Agreement with people, who are one label by majority: kappa = (p_o - p_e) / (1 - p_e), p_o = mean[y = y'],
    p_e = sum_c n_c(y) n_c(y') / N^2.
 5. Loop: generator G answers, x_1; reviewer R says what could be better and gives a score, f_1.
 6. G in the same conversation answers again with the feedback, x_2; R in its own gives f_2 on x_2; and so on to x_N,
    which gets none. Without feedback the loop ends early. With two reviewers G sees both.
 7. Best of x_1..x_N by the evaluator: x_1 (A) against x_2 (B), then each later x_i (A) against the winner (B). A tie
    goes to the later response.
 8. Win rate of what was picked (A) against each single model (B): wins / prompts, so that ties are not won.
 9. Single-model improvement: chosen is the best response, rejected the worst, where their scores differ enough.
10. Multi-model improvement: of each x_i, x_i+1 the better one, behind the conversation up to f_i, for G; for R, of
    several feedbacks on x_1 the one whose x_2 gains most.

Differs from the paper in:
 - The authors' code picks the loser in the comparison of x_3; here the winner is picked.
 - Their second rule of juries never applies in their code, because its labels are misspelt; here both do.
 - `10.0/10` is read; `paper_scores` does not, as their pattern.
 - Both orders can be asked: what turns with the order is a tie, and is counted. Letters can be scored, not written.
 - A response's score is the mean over its comparisons. Which pairs of responses were released is not told: steps 9 and
   10 are ours. Prompts are in our own words.
 - One loop a run; compare loops by their win rates. Intervals are bootstrap over items.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from camelid import data, engines, recipe
from camelid.agreement import measure_agreement
from camelid.annotation import annotate, choose
from camelid.chat import converse
from camelid.data.columns import Problem, Shape, contest_shape, text_in
from camelid.dialogues import Debate, Messages, Revision, Transcript, hold_debate, revise
from camelid.engines import Engine, Sampling, complain_of_engine
from camelid.errors import UserError, raise_all, try_all
from camelid.judging import find_score, pick_answers, score_each, score_pairs
from camelid.metrics import spread_mean
from camelid.panels import (
    compare_setups,
    convene,
    count_judgements,
    note_panel,
    predict_verdicts,
    seat_panel,
    tabulate_juries,
)
from camelid.parsing import Parsed
from camelid.preference_sets import describe_preferences, grade_pair, write_preferences, write_ranked
from camelid.rows import Contest, Graded, Judged, Message, Preference
from camelid.runs import Run, slug
from camelid.sampling import sample
from camelid.verdicts import (
    CLASSES,
    FAILED,
    PICK,
    SCORES,
    TIE,
    Verdicts,
    agree_or_tie,
    correlate_errors,
    count_wins,
    decide,
    find_judges,
    is_read,
    measure_orders,
    prefer_longer,
    read_judge,
    settle_verdicts,
)

OWN = "model"  # the voice of [model] and [engine]
LONGER, JURY, DEBATE = "longer answer", "jury of all", "debate"
MOST_JUDGES = 8  # of which there are 255 juries
Ready = Callable[[str], Engine]
Judge = Callable[[Sequence[Contest]], list[Judged]]
Found = Mapping[str, Sequence[Sequence[Judged]]]


class Items(recipe.Values):
    """Pairs of answers that people judged, and questions for the loop."""

    train: str = Field(default="", description="judged pairs: file, named set or hub:<id>; none to generate only")
    annotations: str | tuple[str, ...] = Field(
        default="",
        description="judgements of other models on these pairs: folder, also of CAMELID_DATA, file, or files",
    )
    question: str = Field(default="question", description="column with the question, or a list of one for each turn")
    first: str = Field(default="first", description="column with answer A, likewise")
    second: str = Field(default="second", description="column with answer B, likewise")
    annotators: tuple[str, ...] = Field(default=("verdict",), description="columns with people's verdicts: A, B or C")
    missing: Literal["error", "drop"] = Field(default="error", description="what to do with rows that lack a text")
    items: int | None = Field(default=None, ge=1, description="judge so many pairs, the first ones")
    prompts: str = Field(default="", description="questions for the loop: file or hub:<id>; none to judge only")
    prompt: str = Field(default="prompt", description="column with the question for the loop")
    prompt_rows: int | None = Field(default=None, ge=1, description="answer so many, the first ones (paper: 500)")


class Voice(recipe.Values):
    """A model that takes part, under a name that the roles use."""

    base: str = Field(default="", description="hub id, folder, .gguf file or short name; model.base when empty")
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub id")
    engine: recipe.Engine | None = Field(default=None, description="in place of [engine], as for an endpoint")


class Recipe(recipe.Recipe):
    """Values of a fellowship. Roles name voices; "model" is always one, that of [model] and [engine]."""

    data: Items = Field(default_factory=Items)
    engine: recipe.Engine = Field(default_factory=recipe.Engine)
    voices: dict[str, Voice] = Field(default={}, description="models by name, for the roles below")
    judges: tuple[str, ...] = Field(default=(), description="voices that judge the pairs (paper: six)")
    referees: tuple[str, ...] = Field(default=(), description="voices that debate: one for all three roles, or three")
    strategy: Literal["combined", "direct", "independent", "likelihood"] = Field(
        default="combined",
        description="two scores in one prompt (paper), a letter, a score for each by itself; or, not in the paper, the "
        "likeliest letter without a reply, for models too small to keep to a form",
    )
    out_of: Literal[5, 10, 100] = Field(default=10, description="largest of the combined scores (paper: 10)")
    order: Literal["one", "both"] = Field(
        default="one", description="show A first (paper), or ask in both orders and take what they agree on, else a tie"
    )
    ties: Literal["tie", "intended"] = Field(default="tie", description='"intended": {tie, A} is A in the jury of all')
    on_parse_failure: Literal["as_is", "tie", "drop"] = Field(
        default="as_is", description="judgements that cannot be read: compare the score -1 (paper), tie, or leave out"
    )
    paper_scores: bool = Field(default=False, description="do not read 10.0/10, as the paper's pattern")
    rounds: int = Field(default=2, ge=1, description="of the debate (paper: 2)")
    setup: str = Field(
        default="", description="judge, debate or jury of all to report first; the largest kappa if empty"
    )
    generator: str = Field(default=OWN, description="voice that answers (paper: Llama-3.1-8B)")
    reviewers: tuple[str, ...] = Field(
        default=(OWN,), min_length=1, description="voices of feedback (paper: Gemma-2-9b)"
    )
    iterations: int = Field(default=3, ge=1, description="responses in the loop (paper: 3)")
    stop_level: bool = Field(default=False, description="end a loop when the reviewers' score stops rising")
    evaluator: str = Field(default=OWN, description="voice that picks the best response (paper: GPT-4o)")
    baselines: tuple[str, ...] = Field(default=(), description="voices to win against, alone (paper: three)")
    least_gap: float = Field(default=1.0, ge=0, description="least difference of scores in a pair")
    feedback_samples: int = Field(default=0, ge=0, description="feedbacks on x_1 to choose among for R; none below 2")
    feedback_temperature: float = Field(default=0.8, gt=0, description="of these feedbacks")
    answer_tokens: int = Field(default=512, ge=1, description="longest response")
    judge_tokens: int = Field(default=512, ge=1, description="longest judgement, speech or feedback")


def check(recipe: Recipe) -> list[tuple[str, str]]:
    """What a run would do, as (name, value) lines; raises UserError with every problem, before any model loads."""
    looks = {"items": lambda: _describe_items(recipe), "prompts": lambda: _describe_prompts(recipe)}
    found, problems = try_all(looks, _complaints(recipe))
    raise_all(problems)
    return [*found["items"], *found["prompts"]]


def run(recipe: Recipe, run: Run) -> None:
    """Judgements and their agreement with people; then the loop, its best responses, win rates and preferences."""
    ready = cache(partial(open_voice, recipe))
    if recipe.data.train:
        items = run.rows("items", lambda: read_items(recipe)[: recipe.data.items])
        found = ask_judges(recipe, run, items, ready)  # steps 1 and 3
        report_agreement(recipe, run, items, found)  # steps 2 and 4
    if recipe.data.prompts:
        prompts = run.rows("prompts", lambda: read_prompts(recipe))
        loops = go_round(recipe, run, prompts, ready)  # steps 5 and 6
        picked = pick_best(recipe, run, prompts, loops, ready)  # step 7
        measure_wins(recipe, run, prompts, picked, ready)  # step 8
        build_preferences(recipe, run, prompts, picked, ready)  # steps 9 and 10


def read_items(recipe: Recipe, dropped: Counter[str] | None = None) -> list[Contest]:
    """All judged pairs; raises UserError where nothing can be told from people's verdicts."""
    values = recipe.data
    shape = contest_shape(values.question, values.first, values.second, values.annotators)
    rows = data.read_rows(values.train, recipe_data(values), shape=shape, dropped=dropped)
    used = rows[: values.items]
    said = {settle_verdicts(row.verdicts) for row in used} - {None}
    if len(said) < 2:
        what = f"{values.train}: people said {next(iter(said), 'nothing they agree on')} of all {len(used)} pairs"
        raise UserError(what, "Agreement beyond chance needs verdicts that differ: add pairs, or look at the columns.")
    return rows


def read_prompts(recipe: Recipe, dropped: Counter[str] | None = None) -> list[Preference]:
    """Questions, as rows without answers."""
    values = recipe.data

    def convert(row_id: str, origin: str, cells: dict[str, Any]) -> Preference | Problem:
        text = text_in(cells, values.prompt)
        return text if isinstance(text, Problem) else Preference(row_id, origin, (Message("user", text),), "", "")

    shape = Shape(Preference, convert, (values.prompt,), "--prompt")
    rows = data.read_rows(values.prompts, recipe_data(values), shape=shape, dropped=dropped)
    return rows[: values.prompt_rows]


def recipe_data(values: Items) -> recipe.Data:
    return recipe.Data(missing=values.missing)


def count_dropped(recipe: Recipe, read: Callable[[Recipe, Counter[str]], Any]) -> Counter[str]:
    """Why rows of a file were left out; it is read for that once more, before the report is made."""
    dropped = Counter[str]()
    if recipe.data.missing == "drop":
        read(recipe, dropped)
    return dropped


def open_voice(recipe: Recipe, name: str) -> Engine:
    """The engine of a voice."""
    voice = Voice() if name == OWN else recipe.voices[name]
    model = type(recipe.model)(base=voice.base, revision=voice.revision) if voice.base else recipe.model
    return engines.open_engine(voice.engine or recipe.engine, model)


# Steps 1 and 3: judges


def ask_judges(recipe: Recipe, run: Run, items: Sequence[Contest], ready: Ready) -> dict[str, list[list[Judged]]]:
    """By judge its judgements with A shown first, and with B where both orders are asked. Stored ones come first."""
    stored = run.scores("judges", lambda: dict(zip(("files", "left out"), describe_files(recipe), strict=True)))
    found = {
        name: [
            run.rows(f"judged/{slug(name)}", lambda path=path: read_judge(Path(path), read_items(recipe))[: len(items)])
        ]
        for name, path in stored["files"].items()
    }
    judges: dict[str, Callable[..., list[Judged]]] = {
        name: lambda rows, swapped, name=name: STRATEGIES[recipe.strategy](recipe, ready(name), rows, swapped)
        for name in recipe.judges
    }
    if recipe.referees:
        judges[DEBATE] = lambda rows, swapped: debate(recipe, ready, rows, swapped)
    for name, judge in judges.items():
        is_alike = recipe.order == "one" or (recipe.strategy == "independent" and name != DEBATE)
        found[name] = [
            run.map_rows(f"judged/{slug(name)}{'/swapped' if swapped else ''}", items, partial(judge, swapped=swapped))
            for swapped in ((False,) if is_alike else (False, True))
        ]
    return found


def describe_files(recipe: Recipe) -> tuple[dict[str, str], list[str]]:
    """Files of judgements by judge, and the names of files of the folder that are none."""
    files, left = find_judges(recipe.data.annotations) if recipe.data.annotations else ({}, [])
    return {name: str(path) for name, path in files.items()}, left


def score_together(recipe: Recipe, engine: Engine, rows: Sequence[Contest], swapped: bool = False) -> list[Judged]:
    """Combined scoring: two scores out of the scale in one prompt."""
    prompts = [ask_scores(row, recipe.out_of, swapped) for row in rows]
    return score_pairs(
        engine, rows, prompts, SIDES, recipe.out_of, ask_again, swapped=swapped, **scoring_options(recipe)
    )


def score_alone(recipe: Recipe, engine: Engine, rows: Sequence[Contest], swapped: bool = False) -> list[Judged]:
    """Independent scoring: each answer out of 10, in a call of its own, which knows no order."""
    prompts = [(ask_score(row.questions, row.first), ask_score(row.questions, row.second)) for row in rows]
    return score_each(engine, rows, prompts, OVERALL, 10, ask_again, **scoring_options(recipe))


def compare_directly(recipe: Recipe, engine: Engine, rows: Sequence[Contest], swapped: bool = False) -> list[Judged]:
    """Direct comparison: a letter."""
    prompts = [ask_letter(row, swapped) for row in rows]
    return pick_answers(engine, rows, prompts, ANSWER, ask_again, swapped=swapped, sampling=brief(recipe))


def weigh_letters(recipe: Recipe, engine: Engine, rows: Sequence[Contest], swapped: bool = False) -> list[Judged]:
    """The likeliest of the letters A, B and C, of which none is written."""
    shown: dict[str, str] = dict(zip(CLASSES[::-1] if swapped else CLASSES, "ACB", strict=True))
    found = choose(engine, rows, lambda row: ask_bare_letter(row, swapped), shown, what="")
    return [replace(one, value={PICK: one.value}) if one.value else one for one in found]


STRATEGIES = {
    "combined": score_together,
    "independent": score_alone,
    "direct": compare_directly,
    "likelihood": weigh_letters,
}


def debate(recipe: Recipe, ready: Ready, rows: Sequence[Contest], swapped: bool = False) -> list[Judged]:
    """Step 3: the means of the referees' scores; `said` holds what each said in which round."""
    voices = recipe.referees if len(recipe.referees) == len(REFEREES) else recipe.referees * len(REFEREES)
    speakers = {name: ready(voice) for name, voice in zip(REFEREES, voices, strict=True)}
    prompt_of = partial(ask_referee, swapped=swapped)
    held = hold_debate(speakers, rows, prompt_of, rounds=recipe.rounds, sampling=brief(recipe), what="")
    final = []
    for name, engine in speakers.items():
        pairs = zip(rows, held, strict=True)
        prompts = [ask_referee(row, name, one.transcript, swapped=swapped, last=True) for row, one in pairs]
        final.append(
            score_pairs(engine, rows, prompts, SIDES, 10, ask_again, swapped=swapped, **scoring_options(recipe))
        )
    return [settle_debate(*each) for each in zip(rows, held, zip(*final, strict=True), strict=True)]


def settle_debate(row: Contest, held: Debate, final: Sequence[Judged]) -> Judged:
    """The means over the referees, of whom those that cannot be read give 0 and 0."""
    problem = held.problem or next((one.problem for one in final if one.problem), "")
    if problem:
        return Judged(row.id, row.origin, "failed", None, problem, problem=problem)
    scores = [one.value if is_read(one.value) else dict.fromkeys(SCORES, 0.0) for one in final]
    value: dict[str, Any] = {name: float(np.mean([each[name] for each in scores])) for name in SCORES}
    said = {f"{name} {place // len(REFEREES) + 1}": text for place, (name, text) in enumerate(held.transcript)}
    said |= {f"{name} scores": one.reply for name, one in zip(REFEREES, final, strict=True)}
    return Judged(row.id, row.origin, "value", value | {"said": said}, "", sum(one.repairs for one in final))


def brief(recipe: Recipe) -> Sampling:
    """How judgements are sampled."""
    return Sampling(max_tokens=recipe.judge_tokens)


def scoring_options(recipe: Recipe) -> dict[str, Any]:
    """How scores are asked for and read."""
    return {"strict": recipe.paper_scores, "sampling": brief(recipe)}


# Steps 2 and 4: juries, and agreement with people


def report_agreement(recipe: Recipe, run: Run, items: Sequence[Contest], found: Found) -> None:
    """Kappas of every set-up, the table of juries, how verdicts turn with the order, people among themselves."""
    panel = seat_panel(items, {name: verdicts_of(recipe, each) for name, each in found.items()})
    judges = {name: each for name, each in panel.verdicts.items() if name != DEBATE}
    jury = {JURY: convene(list(judges.values()), recipe.ties)} if len(judges) > 1 else {}
    setups = {**panel.verdicts, **jury, LONGER: [prefer_longer(row.first, row.second) for row in panel.rows]}
    systems = {
        name: run.rows(f"predictions/{slug(name)}", lambda each=each: predict_verdicts(panel, each))
        for name, each in setups.items()
    }
    turned = {name: decide_all(recipe, each) for name, each in found.items() if len(each) > 1}
    run.note("data", lambda: note_panel(panel, count_dropped(recipe, read_items)))
    run.scores("agreement", lambda: {"split": "items", **compare_setups(systems, recipe.setup, LONGER)})
    run.scores("juries", lambda: tabulate_juries(panel.gold, judges))
    run.scores("orders", lambda: {name: measure_orders(*each) for name, each in turned.items()})
    run.scores("judgements", lambda: {name: count_judgements(each) for name, each in found.items()})
    run.scores("people", lambda: measure_agreement(panel.people, CLASSES))
    run.scores("judges among themselves", lambda: measure_agreement(judges, CLASSES))
    run.scores("correlation of errors", lambda: correlate_errors(panel.gold, judges))


def decide_all(recipe: Recipe, orders: Sequence[Sequence[Judged]]) -> list[Verdicts]:
    """The verdicts of a judge in each order it was asked in, all of the answers as the pairs have them."""
    return [[decide(one, recipe.on_parse_failure) for one in each] for each in orders]


def verdicts_of(recipe: Recipe, orders: Sequence[Sequence[Judged]]) -> Verdicts:
    """What a judge says of each pair: of two orders, what they agree on."""
    decided = decide_all(recipe, orders)
    return [agree_or_tie(*pair) for pair in zip(*decided, strict=True)] if len(decided) > 1 else decided[0]


# Steps 5 and 6: the loop


def go_round(recipe: Recipe, run: Run, prompts: Sequence[Preference], ready: Ready) -> list[Judged]:
    """Responses and feedbacks of each question."""

    def ask(rows: Sequence[Preference]) -> list[Judged]:
        reviewers = [ready(name) for name in recipe.reviewers]
        found = revise(
            ready(recipe.generator), reviewers, rows, ask_response, ask_feedback,
            iterations=recipe.iterations, stop=has_levelled if recipe.stop_level else lambda _: "",
            sampling=Sampling(max_tokens=recipe.answer_tokens), what="",
        )  # fmt: skip
        return [keep_loop(*pair) for pair in zip(rows, found, strict=True)]

    return run.map_rows("responses/loop", prompts, ask)


def keep_loop(row: Preference, loop: Revision) -> Judged:
    """A loop as it is kept; "malformed" without any response."""
    if loop.problem:
        return Judged(row.id, row.origin, "failed", None, loop.problem, problem=loop.problem)
    if not loop.responses:
        return Judged(row.id, row.origin, "malformed", None, loop.ended)
    return Judged(row.id, row.origin, "value", vars_of(loop), "")


def vars_of(loop: Revision) -> dict[str, Any]:
    return {"responses": loop.responses, "feedbacks": loop.feedbacks, "ended": loop.ended}


def has_levelled(loop: Revision) -> str:
    """Why to stop: the mean score of the reviewers did not rise. Scores that cannot be read do not stop a loop."""
    scores = [[find_score(text, OVERALL, 10) for text in texts] for texts in loop.feedbacks[-2:]]
    if len(scores) < 2 or any(FAILED in each for each in scores):
        return ""
    before, after = (float(np.mean(each)) for each in scores)
    return "" if after > before else f"the score went from {before:g} to {after:g}"


# Step 7: the best response


def place_duel(challenger: int, best: int) -> tuple[int, int]:
    """Which responses are shown as A and B: x_1 and x_2 in their order, then each later one before the best so far."""
    return (best, challenger) if challenger == 1 else (challenger, best)


def win_duel(duel: tuple[int, int], verdict: str) -> int:
    """The response that goes on: the winner, of a tie the later one."""
    return max(duel) if verdict == TIE else duel[CLASSES.index(verdict) // 2]


def pick_best(
    recipe: Recipe, run: Run, prompts: Sequence[Preference], loops: Sequence[Judged], ready: Ready
) -> list[Judged]:
    """Each loop with the mean score of every response (None where none was read) and the place of the `picked` one."""
    by_id = {one.id: one for one in loops if one.value}
    asked = {row.id: row for row in prompts}
    best, scores = dict.fromkeys(by_id, 0), {name: [[] for _ in one.value["responses"]] for name, one in by_id.items()}
    left = Counter(one.reply for one in loops if not one.value) + count_dropped(recipe, read_prompts)
    asked_of: list[list[Judged]] = []
    for challenger in range(1, recipe.iterations):
        duels = {
            name: place_duel(challenger, best[name])
            for name, one in by_id.items()
            if name in best and challenger < len(one.value["responses"])
        }
        contests = [
            contest(asked[name], *(by_id[name].value["responses"][at] for at in duel)) for name, duel in duels.items()
        ]
        judged = run.map_rows(
            f"duels/{challenger}", contests, lambda rows: score_together(recipe, ready(recipe.evaluator), rows)
        )
        asked_of.append(judged)
        for one in judged:
            verdict = decide(one, recipe.on_parse_failure)
            if verdict is None:
                left["no verdict of the evaluator"] += 1
                del best[one.id]
                continue
            best[one.id] = win_duel(duels[one.id], verdict)
            for place, name in zip(duels[one.id], SCORES, strict=True):
                scores[one.id][place] += [one.value[name]] if one.value[name] != FAILED else []
    run.scores(
        "loops",
        lambda: (
            describe_loops(prompts, [by_id[name] for name in best], best, left)
            | {"evaluator": count_judgements(asked_of)}
        ),
    )
    return run.rows("picked/loop", lambda: [keep_pick(by_id[name], best[name], scores[name]) for name in best])


def contest(row: Preference, first: str, second: str) -> Contest:
    """Two answers to a question, to be judged."""
    return Contest(row.id, row.origin, (row.prompt[-1].content,), (first,), (second,))


def keep_pick(loop: Judged, best: int, scores: Sequence[Sequence[float]]) -> Judged:
    means = [float(np.mean(each)) if each else None for each in scores]
    return Judged(loop.id, loop.origin, "value", {**loop.value, "scores": means, "picked": best}, "")


def describe_loops(
    prompts: Sequence[Preference], loops: Sequence[Judged], best: Mapping[str, int], left: Counter[str]
) -> dict[str, Any]:
    """How many responses there are, which were picked, why loops ended early, and how long each response is."""
    sizes = [[len(text) for text in one.value["responses"]] for one in loops]
    lengths = [
        np.array([each[at] for each in sizes if at < len(each)], float) for at in range(max(map(len, sizes), default=0))
    ]
    return {
        "questions": len(prompts),
        "picked": {f"response {place + 1}": count for place, count in sorted(Counter(best.values()).items())},
        "ended early": dict(Counter(one.value["ended"] for one in loops if one.value["ended"])),
        "left out": dict(left),
        "characters": {f"response {at + 1}": spread_mean(each) for at, each in enumerate(lengths)},
    }


# Step 8: win rates


def measure_wins(
    recipe: Recipe, run: Run, prompts: Sequence[Preference], picked: Sequence[Judged], ready: Ready
) -> None:
    """The picked response against the only one of each baseline."""
    ours = {one.id: one.value["responses"][one.value["picked"]] for one in picked}
    rows = [row for row in prompts if row.id in ours]
    for name in recipe.baselines:
        answered = run.map_rows(f"baselines/{slug(name)}", rows, partial(answer_once, recipe, ready, name))
        theirs = {one.id: one.value for one in answered}
        contests = [contest(row, ours[row.id], theirs[row.id]) for row in rows if theirs[row.id] is not None]
        judged = run.map_rows(
            f"versus/{slug(name)}", contests, lambda some: score_together(recipe, ready(recipe.evaluator), some)
        )
        verdicts = [verdict for one in judged if (verdict := decide(one, recipe.on_parse_failure))]
        told = {"no answer of it": len(rows) - len(contests), "evaluator": count_judgements([judged])}
        won = count_wins(verdicts) if verdicts else {"pairs": 0}
        run.scores(f"against {name}", lambda facts=won | told: facts)


def answer_once(recipe: Recipe, ready: Ready, name: str, rows: Sequence[Preference]) -> list[Judged]:
    """A single model's answers."""
    sampling, keep = Sampling(max_tokens=recipe.answer_tokens), partial(Parsed, "value")
    return annotate(ready(name), rows, lambda row: ask_response(row, Revision()), keep, sampling=sampling, what="")


# Steps 9 and 10: preferences


def build_preferences(
    recipe: Recipe, run: Run, prompts: Sequence[Preference], picked: Sequence[Judged], ready: Ready
) -> None:
    """Pairs for one model and for the loop's models, their files for trainers, and what is in them."""
    asked = {row.id: row for row in prompts}
    source = {"generator": recipe.generator, "reviewers": ", ".join(recipe.reviewers), "judge": recipe.evaluator}
    single = [pair_best(recipe, asked[one.id], one, source) for one in picked]
    steps = [pair for one in picked for pair in pair_steps(recipe, asked[one.id], one, source)]
    sampled = recipe.feedback_samples > 1
    feedback = pair_feedback(recipe, run, [asked[one.id] for one in picked], picked, ready, source) if sampled else []
    made = {"single": single, "multi": steps, "feedback": feedback}
    kept = {
        name: run.rows(f"preferences/{name}", lambda pairs=pairs: [one for one in pairs if isinstance(one, Graded)])
        for name, pairs in made.items()
    }
    for name, rows in kept.items():
        run.files(f"export/{name}", lambda folder, rows=rows: write_preferences(folder, rows))
    ranked = [(asked[one.id].prompt[-1].content, one.value["responses"], scores_of(one)) for one in picked]
    run.files("export/ranked", lambda folder: write_ranked(folder / "ranked.jsonl", ranked))
    run.scores("preferences", lambda: {name: describe_preferences(pairs) for name, pairs in made.items() if pairs})


def scores_of(picked: Judged) -> list[float]:
    return [float("nan") if score is None else score for score in picked.value["scores"]]


def pair_best(recipe: Recipe, row: Preference, picked: Judged, source: dict[str, str]) -> Graded | str:
    """Step 9: the picked response over the one with the lowest score, the earliest of equal ones."""
    responses, scores, best = picked.value["responses"], scores_of(picked), picked.value["picked"]
    others = [place for place in range(len(responses)) if place != best and not np.isnan(scores[place])]
    if not others or np.isnan(scores[best]):
        return "fewer than two responses with a score"
    worst = min(others, key=scores.__getitem__)
    if scores[worst] > scores[best]:
        return "the picked response has the lower mean score"
    return _grade(recipe, row, row.id, row.prompt, picked, (best, worst), source | {"kind": "single"})


def pair_steps(recipe: Recipe, row: Preference, picked: Judged, source: dict[str, str]) -> list[Graded | str]:
    """Step 10, for G: the better of two neighbouring responses, behind the conversation up to the feedback between."""
    responses, feedbacks = picked.value["responses"], picked.value["feedbacks"]
    return [
        _grade(
            recipe, row, f"{row.id} step {step}",
            ask_response(row, Revision(responses[:step], feedbacks[:step])), picked, (step - 1, step),
            source | {"kind": f"revision {step}"},
        )
        for step in range(1, len(responses))
    ]  # fmt: skip


def _grade(
    recipe: Recipe, row: Preference, name: str, prompt: Messages, picked: Judged, places: tuple[int, int], source: Any
) -> Graded | str:
    texts = {f"response {place + 1}": picked.value["responses"][place] for place in places}
    scores = {f"response {place + 1}": scores_of(picked)[place] for place in places}
    return grade_pair(name, row.origin, prompt, texts, scores, recipe.least_gap, source)


def pair_feedback(
    recipe: Recipe,
    run: Run,
    rows: Sequence[Preference],
    picked: Sequence[Judged],
    ready: Ready,
    source: dict[str, str],
) -> list[Graded | str]:
    """Step 10, for R: of several feedbacks on x_1 the one whose x_2 gains most, over the one that gains least."""
    first = {one.id: Revision((one.value["responses"][0],)) for one in picked}
    draw = partial(draw_feedback, recipe, first, ready)
    drawn = {one.id: one for one in run.map_rows("responses/feedback", rows, draw)}
    gains: dict[str, dict[str, float]] = {row.id: {} for row in rows}
    for number in range(recipe.feedback_samples):
        some = [row for row in rows if drawn[row.id].value]
        contests = [contest(row, first[row.id].responses[0], drawn[row.id].value["responses"][number]) for row in some]
        judge = lambda each: score_together(recipe, ready(recipe.evaluator), each)  # noqa: E731
        for one in run.map_rows(f"duels/feedback-{number + 1}", contests, judge):
            if one.value and is_read(one.value):
                gains[one.id][f"feedback {number + 1}"] = one.value[SCORES[1]] - one.value[SCORES[0]]
    return [_grade_feedback(recipe, row, first[row.id], drawn[row.id], gains[row.id], source) for row in rows]


def draw_feedback(
    recipe: Recipe, first: Mapping[str, Revision], ready: Ready, rows: Sequence[Preference]
) -> list[Judged]:
    """Several feedbacks of the first reviewer on x_1, and G's x_2 after each."""
    drawing = Sampling(recipe.judge_tokens, recipe.feedback_temperature)
    asked = [ask_feedback(row, first[row.id], 0) for row in rows]
    replies = sample(ready(recipe.reviewers[0]), asked, drawing, samples=recipe.feedback_samples, what="")
    told = [
        ask_response(row, Revision(first[row.id].responses, ((reply.text,),)))
        for row, each in zip(rows, replies, strict=True)
        for reply in each
    ]
    answers = [found[0] for found in sample(ready(recipe.generator), told, Sampling(recipe.answer_tokens), what="")]
    judged = []
    for place, (row, each) in enumerate(zip(rows, replies, strict=True)):
        own = answers[place * len(each) : (place + 1) * len(each)]
        problem = next((one.problem for one in (*each, *own) if one.problem), "")
        value = {"feedbacks": [one.text for one in each], "responses": [one.text for one in own]}
        outcome = ("failed", None, problem) if problem else ("value", value, "")
        judged.append(Judged(row.id, row.origin, *outcome, problem=problem))
    return judged


def _grade_feedback(
    recipe: Recipe,
    row: Preference,
    first: Revision,
    drawn: Judged,
    gains: Mapping[str, float],
    source: dict[str, str],
) -> Graded | str:
    if len(gains) < 2:
        return drawn.reply or "fewer than two feedbacks with a gain"
    ends = [max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)]
    if ends[0] == ends[1]:
        return "equal scores"
    texts = {name: drawn.value["feedbacks"][int(name.split()[1]) - 1] for name in ends}
    told = source | {"kind": "feedback"}
    prompt = ask_feedback(row, first, 0)
    return grade_pair(f"{row.id} feedback", row.origin, prompt, texts, gains, recipe.least_gap, told)


# Problems, and what a run would do


def _complaints(recipe: Recipe) -> list[tuple[str, str]]:
    """Fields that contradict each other, as (what, fix)."""
    values, found = recipe.data, []
    if not (values.train or values.prompts):
        found.append(("no rows are named", "Give judged pairs (--data), or questions for the loop (--prompts)."))
    if values.train and not (values.annotations or recipe.judges or recipe.referees):
        fix = "Give --annotations FOLDER, or --judges '[\"model\"]' for the model of --model."
        found.append(("no judge is named for the pairs", fix))
    if OWN in recipe.voices:
        found.append((f"voices.{OWN} is the name of [model] itself", "Give the voice another name."))
    roles = {"judges": recipe.judges, "referees": recipe.referees, "reviewers": recipe.reviewers}
    roles |= {"baselines": recipe.baselines, "generator": (recipe.generator,), "evaluator": (recipe.evaluator,)}
    known = [OWN, *recipe.voices]
    for role, names in roles.items():
        if unknown := [name for name in names if name not in known]:
            found.append((f"{role} names {unknown[0]!r}, which is no voice", f"The voices are: {', '.join(known)}."))
        if role in ("judges", "baselines") and len({slug(name) for name in names}) < len(names):
            found.append((f"{role} names two voices alike: {', '.join(names)}", "Name each once."))
    if len(recipe.referees) not in (0, 1, len(REFEREES)):
        found.append(("referees are one voice for all three roles, or three", f"There are {len(recipe.referees)}."))
    if recipe.strategy != "combined" and recipe.out_of != 10:
        found.append(("out_of is of combined scores", "Leave it out, or add --strategy combined."))
    tables = {f"voices.{name}": voice.engine for name, voice in recipe.voices.items() if voice.engine}
    for name, table in {"": recipe.engine, **tables}.items():
        found += [(f"{name}: {what}" if name else what, fix) for what, fix in complain_of_engine(table)]
    return found


def _describe_items(recipe: Recipe) -> list[tuple[str, str]]:
    """Pairs, people, judges, and how much would be asked; raises UserError for what cannot be read."""
    if not recipe.data.train:
        return []
    every, (files, left), problems = read_items(recipe), describe_files(recipe), []
    for path in files.values():
        try:
            read_judge(Path(path), every)
        except UserError as error:
            problems.append(error)
    raise_all(problems)
    items = every[: recipe.data.items]
    names = [*files, *recipe.judges, *([DEBATE] if recipe.referees else [])]
    if len({slug(name) for name in (*names, JURY, LONGER)}) < len(names) + 2:
        raise UserError(f"two judges have the same name: {', '.join(names)}", "Rename a file, or a voice.")
    if len(names) > MOST_JUDGES:
        raise UserError(
            f"there are {len(names)} judges, and juries of more than {MOST_JUDGES} are too many", "Name fewer."
        )
    if recipe.setup and recipe.setup not in (*names, JURY):
        raise UserError(f"setup = {recipe.setup!r} is none of the set-ups", f"They are: {', '.join((*names, JURY))}.")
    orders = 1 + (recipe.order == "both")
    calls = {name: len(items) * (2 if recipe.strategy == "independent" else orders) for name in recipe.judges}
    calls |= {DEBATE: len(items) * orders * len(REFEREES) * (recipe.rounds + 1)} if recipe.referees else {}
    size = sum(len(text) for item in items for turns in (item.questions, item.first, item.second) for text in turns)
    return [
        ("pairs", f"{len(items):,}, {size / len(items):,.0f} characters each"),
        ("people", ", ".join(dict.fromkeys(name for item in items for name in item.verdicts))),
        ("files", ", ".join(files) or "none"),
        ("asked", ", ".join(f"{name} {count:,} times" for name, count in calls.items()) or "nobody"),
        *(("warning", f"{name} holds no judgements and is not read") for name in left),
    ]


def _describe_prompts(recipe: Recipe) -> list[tuple[str, str]]:
    """Questions, the loop, and how much would be asked at most."""
    if not recipe.data.prompts:
        return []
    count, steps = len(read_prompts(recipe)), recipe.iterations - 1
    asked = count * (recipe.iterations + steps * len(recipe.reviewers)), count * (steps + len(recipe.baselines))
    drawn = count * recipe.feedback_samples * 3 if recipe.feedback_samples > 1 else 0
    return [
        ("questions", f"{count:,}"),
        ("loop", f"{recipe.generator}, feedback of {' and '.join(recipe.reviewers)}, {recipe.iterations} responses"),
        ("asked for the loop", f"{asked[0]:,} times, {recipe.evaluator} to judge {asked[1]:,} times"),
        *([("asked for feedback pairs", f"{drawn:,} times")] if drawn else []),
    ]


# Prompts, in our own words; the headings are the paper's

ANSWER, OVERALL = "Answer", "Overall Score"
SIDES = ("Score Assistant A", "Score Assistant B")
RUBRIC = (
    "You compare answers of assistants and take nobody's side. Good is what does as the user asked and helps most: "
    "look at use, fit to the question, correctness, depth, ideas and detail. Where an answer stands, and how long it "
    "is, must not count."
)
REFEREES = {
    "General Public": "You are a reader from the street, curious and without special knowledge. Say what is plain, "
    "useful or puzzling to somebody like you.",
    "Psychologist": "You are a psychologist who studies how people think and act. Say what the answers would do to the "
    "person who asked.",
    "Critic": "You are a critic of style. Check wording and flow, question what the others said, and where the answers "
    "are level, show another way to see it.",
}
REVIEW = (
    "You review an assistant's answer so that it can be improved. Say what is good and what exactly to change. Look "
    "at: doing as asked, use, fit to the question, correctness, ideas. Write three parts, each under its heading:\n\n"
    f"### Evaluation:\nyour reasons\n\n### {OVERALL}:\nX/10, with one decimal\n\n### Feedback:\nwhat to change"
)


def ask_scores(row: Contest, scale: int, swapped: bool) -> Messages:
    """Both answers, two scores."""
    system = f"{RUBRIC}\n\nFirst compare in a few sentences, then score each from 0 to {scale}:\n\n{_form(scale)}"
    return converse(show_contest(row, swapped), system=system)


def ask_score(questions: Sequence[str], answers: Sequence[str]) -> Messages:
    """One answer, one score."""
    system = f"{RUBRIC}\n\nThere is one answer. Judge it in a few sentences, then score it from 0 to 10:\n\n"
    form = f"### Evaluation Evidence:\nyour reasons\n\n### {OVERALL}:\nX/10"
    return converse(show_turns(questions, answers, ""), system=system + form)


def ask_letter(row: Contest, swapped: bool) -> Messages:
    """Both answers, one letter."""
    system = f"{RUBRIC}\n\nFirst compare in a few sentences, then name the better one: A, B, or C if they are level."
    form = f"### Evaluation Evidence:\nyour reasons\n\n### {ANSWER}:\nA, B or C"
    return converse(show_contest(row, swapped), system=f"{system}\n\n{form}")


def ask_bare_letter(row: Contest, swapped: bool) -> Messages:
    """Both answers, and nothing but a letter behind them."""
    task = "Which answer is better? Reply with one letter: A, B, or C if they are level."
    return converse(f"{show_contest(row, swapped)}\n\n{task}", system=RUBRIC)


def ask_referee(row: Contest, name: str, transcript: Transcript, swapped: bool = False, last: bool = False) -> Messages:
    """What a referee sees: its role, the answers, what was said so far; and at last the request for scores."""
    said = "\n\n".join(f"[{speaker}]\n{text}" for speaker, text in transcript) or "(nothing yet)"
    scores = f"The discussion is over. Give your reasons, then score each answer from 0 to 10:\n\n{_form(10)}"
    task = scores if last else "Say in a few sentences what you think of the two answers, and answer the others."
    text = f"{show_contest(row, swapped)}\n\nThe discussion so far:\n{said}\n\n{task}"
    return converse(text, system=f"{RUBRIC}\n\nYou are the {name} among three referees. {REFEREES[name]}")


def ask_again(headings: Sequence[str], form: str) -> str:
    """What is said to a reply that lacks something."""
    wanted = "\n\n".join(f"### {heading}:\n{form}" for heading in headings)
    return f"Your reply cannot be read without this. Give it now, exactly in this form, and nothing else:\n\n{wanted}"


def ask_response(row: Preference, loop: Revision) -> Messages:
    """What G sees: the question, and for each response so far the request to improve it."""
    updates = [_ask_update(texts) for texts in loop.feedbacks]
    turns = [turn for pair in zip(loop.responses, updates, strict=False) for turn in pair]
    return converse(row.prompt[-1].content, *turns)


def ask_feedback(row: Preference, loop: Revision, reviewer: int) -> Messages:
    """What R sees: question and response, its own feedback, the next response, and so on."""
    opening = f"The question:\n[question]\n{row.prompt[-1].content}\n[/question]\n\n"
    again = "The answer was rewritten. Review the new one in the same three parts.\n\n"
    asked = [
        f"{opening}{again if number else ''}The answer:\n[answer]\n{text}\n[/answer]"
        for number, text in enumerate(loop.responses)
    ]
    own = [texts[reviewer] for texts in loop.feedbacks]
    turns = [turn for pair in zip(asked, own, strict=False) for turn in pair]
    return converse(*turns, asked[-1], system=REVIEW)


def _ask_update(feedbacks: Sequence[str]) -> str:
    given = [text for text in feedbacks if text]
    marks = [f" of agent {number}" if len(feedbacks) > 1 else "" for number, text in enumerate(feedbacks, 1) if text]
    told = "\n\n".join(f"[feedback{mark}]\n{text}\n[/feedback]" for mark, text in zip(marks, given, strict=True))
    return (
        f"Rewrite your answer with the help of this feedback.\n\n{told}\n\n"
        "Write the new answer and nothing else: no greeting, no thanks, no word about the feedback."
    )


def show_contest(row: Contest, swapped: bool) -> str:
    """The question and both answers, or both conversations where there are several turns."""
    shown = (row.second, row.first) if swapped else (row.first, row.second)
    question, *later = row.questions
    if later:
        told = [show_turns(row.questions, turns, f" {name}") for name, turns in zip("AB", shown, strict=True)]
        return "\n\n".join(told)
    answers = [f"[assistant {name}]\n{turns[0]}\n[/assistant {name}]" for name, turns in zip("AB", shown, strict=True)]
    return "\n\n".join([f"[question]\n{question}\n[/question]", *answers])


def show_turns(questions: Sequence[str], answers: Sequence[str], name: str) -> str:
    """A conversation turn by turn."""
    turns = zip(questions, answers, strict=True)
    told = "\n\n".join(f"[user]\n{asked}\n[assistant{name}]\n{text}" for asked, text in turns)
    return f"[conversation{name}]\n{told}\n[/conversation{name}]"


def _form(scale: int) -> str:
    parts = [f"### {side}:\nX/{scale}" for side in SIDES]
    return "\n\n".join(["### Evaluation Evidence:\nyour reasons", *parts])
