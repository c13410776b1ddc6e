"""A model's answers to instructions, and in words what a judge finds wrong with each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from camelid import metrics
from camelid.annotation import PromptOf, annotate, count_outcomes
from camelid.candidates import draw_candidates
from camelid.engines import Engine, Sampling
from camelid.errors import UserError
from camelid.parsing import Parser
from camelid.rows import Critiqued, Judged, Prompt
from camelid.runs import Run


@dataclass(frozen=True)
class Asked:
    """An instruction as a model is asked."""

    id: str
    origin: str
    prompt: Prompt


@dataclass(frozen=True)
class Critic:
    """Who judges, what it is asked of a `Critiqued` row, how its reply is read ("": nothing is wrong), in how long."""

    open_engine: Callable[[], Engine]
    prompt_of: PromptOf
    parser: Parser
    sampling: Sampling


def criticise_answers(
    run: Run,
    place: str,
    rows: Sequence[Critiqued],
    writer: Callable[[], Engine],
    prompt_of: PromptOf,
    sampling: Sampling,
    critic: Critic,
    seed: int,
) -> tuple[list[Critiqued], dict[str, Any]]:
    """The rows with an answer of the writer and what the critic finds wrong with it, and what became of all.

    Stages `<place>/answers` and `<place>/judged` of the run. Left out and counted are answers that failed, are empty or
    were cut off, and those of which the critic says nothing. "satisfied" is the share of judged answers that nothing is
    wrong with, with its exact interval. Raises UserError when no answer is left.
    """
    policy, judge = cache(writer), cache(critic.open_engine)
    questions = [Asked(row.id, row.origin, prompt_of(row)) for row in rows]

    def answer(some: Sequence[Asked]) -> list[Judged]:
        return draw_candidates(policy(), some, sampling, 1, seed)

    def criticise(some: Sequence[Critiqued]) -> list[Judged]:
        return annotate(judge(), some, critic.prompt_of, critic.parser, sampling=critic.sampling, seed=seed, what="")

    written = run.map_rows(f"{place}/answers", questions, answer)
    answered = [replace(row, answer=one.value["texts"][0]) for row, one in zip(rows, written, strict=True) if one.value]
    if not answered:
        raise UserError(f"no answer of {place} can be judged: {written[0].reply}", "Raise max_new_tokens.")
    said = run.map_rows(f"{place}/judged", answered, criticise)
    good = [(row, one) for row, one in zip(answered, said, strict=True) if one.outcome == "value"]
    if not good:
        raise UserError(f"the judge said nothing of the answers of {place}: {said[0].reply}", "Take another judge.")
    facts = {
        "answers": len(answered),
        "no answer": dict(Counter(one.reply for one in written if not one.value)),
        "judgments": count_outcomes(said),
        "satisfied": metrics.clopper_pearson(sum(not one.value for _, one in good), len(good)).as_dict(),
    }
    return [replace(row, judgment=one.value) for row, one in good], facts
