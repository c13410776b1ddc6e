"""score(engine, questions): how likely given answers are, with caching, order and progress."""

from __future__ import annotations

from collections.abc import Sequence

from camelid.engines import Engine, Question, Scored, answer_all
from camelid.errors import UserError


def score(engine: Engine, questions: Sequence[Question], what: str = "scoring") -> list[Scored]:
    """Log-probabilities in nats of each question's answers, in the order of the questions.

    What several questions share at the front is computed once. Raises UserError when the engine cannot score.
    """
    if "score" not in engine.can:
        raise UserError("this engine gives no log-probabilities of given text", "Take a local model, or sample.")
    return answer_all(engine, questions, engine.logprobs, what)
