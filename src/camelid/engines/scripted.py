"""An engine whose answers are written down beforehand: for tests, and to try a pipeline without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from camelid.engines import Ability, Completion, Question, Request, Scored, Stop
from camelid.errors import UserError


class ScriptedEngine:
    """Replies from a list, in the order asked, or from a function of the request; scores from a function likewise.

    A reply ends before the first of the request's stop strings. `asked` is everything that was asked, in order. Nothing
    is cached: the same request may have another reply the next time.
    """

    def __init__(
        self,
        replies: Sequence[str] | Callable[[Request], str],
        scores: Callable[[Question], Scored] | None = None,
    ) -> None:
        self.replies, self.scores = replies, scores
        self.can: frozenset[Ability] = frozenset(("sample", "score") if scores else ("sample",))
        self.fingerprint = "scripted"
        self.cache = None
        self.asked: list[Request | Question] = []
        self._used = 0

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Completions in order. Raises UserError when the list has no reply left."""
        for index, request in enumerate(requests):
            self.asked.append(request)
            yield index, _cut(self._reply(request), request.sampling.stop)

    def logprobs(self, questions: Sequence[Question]) -> Iterator[tuple[int, Scored]]:
        """Scores in order. Raises UserError when the engine was made without any."""
        if self.scores is None:
            raise UserError("this scripted engine has no scores", "Give it a function that makes them.")
        for index, question in enumerate(questions):
            self.asked.append(question)
            yield index, self.scores(question)

    def _reply(self, request: Request) -> str:
        if callable(self.replies):
            return self.replies(request)
        if self._used == len(self.replies):
            raise UserError(f"the scripted engine has used all of its {self._used} replies", "Write down more of them.")
        self._used += 1
        return self.replies[self._used - 1]


def _cut(text: str, stop: tuple[str, ...]) -> Completion:
    places = [text.index(string) for string in stop if string in text]
    reason: Stop = "string" if places else "end"
    return Completion(text[: min(places)] if places else text, reason)
