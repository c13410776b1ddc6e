"""A trained reward model to be called: rewards of answers, the best of several, and how sure a preference is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from camelid import models, preferences
from camelid.bases import Base
from camelid.branches import Answered, encode_answers
from camelid.errors import UserError
from camelid.heads import ValueModel
from camelid.reading import pad_id
from camelid.rows import Message

Conversation = str | Sequence[Message]  # a text is a user's message


class RewardModel:
    """Rewards of whole answers: `RewardModel.load(run)`, then `score`, `best`, or `prefer`.

    A prompt is computed once for all of its answers. `max_tokens` is the longest prompt with an answer; longer prompts
    lose their beginning, and an answer that does not fit is an error.
    """

    def __init__(self, model: ValueModel, base: Base, *, max_tokens: int | None = None) -> None:
        self.model, self.base = model, base
        self.max_tokens = max_tokens or base.config.max_position_embeddings

    @classmethod
    def load(cls, folder: str | Path, *, base: str | None = None, max_tokens: int | None = None) -> RewardModel:
        """The reward model of a finished run, or of a model folder; `base` names its base where that was moved.

        Raises UserError when there is none.
        """
        place = Path(folder)
        inside = place if (place / "handle.json").is_file() else place / "model"
        model, opened = models.load_handle(inside, base)
        if not isinstance(model, ValueModel):
            raise UserError(f"{folder} holds no reward model", "Give a run that trained one.")
        return cls(model, opened, max_tokens=max_tokens)

    def score(self, prompt: Conversation, answers: Sequence[str]) -> list[float]:
        """The reward of each answer to one prompt."""
        return self.score_many([prompt], [answers])[0]

    def score_many(self, prompts: Sequence[Conversation], answers: Sequence[Sequence[str]]) -> list[list[float]]:
        """The rewards of the answers to each prompt."""
        rows = [self._encode(*pair) for pair in zip(prompts, answers, strict=True)]
        return preferences.measure_rewards(self.model, rows, pad_id(self.base.tokenizer))

    def best(self, prompt: Conversation, answers: Sequence[str]) -> str:
        """The answer of the largest reward, of equal ones the first."""
        return answers[preferences.find_best(self.score(prompt, answers))]

    def prefer(self, prompt: Conversation, first: str, second: str) -> float:
        """The probability that the first answer is the better one, sigmoid of the difference of rewards."""
        one, other = self.score(prompt, (first, second))
        return 1 / (1 + math.exp(other - one))

    def _encode(self, prompt: Conversation, answers: Sequence[str]) -> Answered:
        turns = (Message("user", prompt),) if isinstance(prompt, str) else tuple(prompt)
        if not answers:
            raise UserError("a prompt has no answers", "Give at least one.")
        found: Any = encode_answers(self.base.tokenizer, "", turns, answers, self.max_tokens)
        if found is None:
            raise UserError(
                f"an answer does not fit into {self.max_tokens} tokens with its prompt", "Cut it, or raise max_tokens."
            )
        return found
