"""score(engine, questions) and weigh(engine, choices): how likely given answers are, with caching, order, progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from camelid.engines import Choice, Engine, Question, Scored, answer_all
from camelid.errors import UserError


def score(engine: Engine, questions: Sequence[Question], what: str = "scoring") -> list[Scored]:
    """Log-probabilities in nats of each question's answers, in the order of the questions.

    What several questions share at the front is computed once. Raises UserError when the engine cannot score.
    """
    if "score" not in engine.can:
        raise UserError("this engine gives no log-probabilities of given text", "Take a local model, or sample.")
    return answer_all(engine, questions, engine.logprobs, what)


def weigh(engine: Engine, choices: Sequence[Choice], what: str = "weighing") -> list[Scored]:
    """Log-probabilities in nats of each choice's answers, in order; every answer should be one token.

    An engine that scores is asked for them. One that only tells its likeliest first tokens (a chat endpoint) is asked
    for those, and an answer that is not among them has -inf. Raises UserError when the engine can do neither.
    """
    if "score" in engine.can:
        return score(engine, [Question(choice.prompt, choice.answers) for choice in choices], what)
    chooser: Any = engine
    if "choose" not in engine.can:
        raise UserError("this engine gives no log-probabilities of answers", "Take a local model or a chat endpoint.")
    return answer_all(engine, choices, chooser.choose, what)
