"""The same questions over a Ray cluster: each worker opens the engine once and answers a share of them.

Only the driver reads and writes the cache, in `answer_all`. A worker that dies loses what it had not answered; Ray
gives that to another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from camelid import recipe
from camelid.engines import Ability, Completion, Question, Request, Scored, open_engine
from camelid.errors import UserError

BATCH = 32  # questions a worker takes at once


class RayEngine:
    """An engine of the recipe in each of `workers` workers of a Ray cluster."""

    def __init__(self, values: recipe.Engine, model: recipe.Model, fingerprint: str, cache: Any) -> None:
        self.values, self.model, self.fingerprint, self.cache = values, model, fingerprint, cache
        self.can: frozenset[Ability] = frozenset(("sample", "score"))

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Completions as workers finish them."""
        yield from self._spread(requests, "complete")

    def logprobs(self, questions: Sequence[Question]) -> Iterator[tuple[int, Scored]]:
        """Scores as workers finish them."""
        yield from self._spread(questions, "logprobs")

    def _spread(self, asked: Sequence[Any], verb: str) -> Iterator[tuple[int, Any]]:
        import ray.data  # pyright: ignore[reportMissingImports]

        rows = [{"index": index, "asked": one} for index, one in enumerate(asked)]
        answered = ray.data.from_items(rows).map_batches(
            _Worker,
            fn_constructor_args=(self.values, self.model, verb),
            batch_size=BATCH,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=self.values.ray_workers),
        )
        for row in answered.iter_rows():
            yield int(row["index"]), row["answer"]


class _Worker:
    """One worker: its engine, without a cache, and which of its verbs is wanted."""

    def __init__(self, values: recipe.Engine, model: recipe.Model, verb: str) -> None:
        share = {
            "most_cost": values.most_cost and values.most_cost / values.ray_workers,
            "per_minute": values.per_minute and max(1, values.per_minute // values.ray_workers),
        }  # a cap or a limit is that of the job, and workers know nothing of each other
        alone = values.model_copy(update={"ray": "", "cache": False, **share})
        self.answer = getattr(open_engine(alone, model), verb)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        answers: list[Any] = [None] * len(batch["index"])
        for place, answer in self.answer(list(batch["asked"])):
            answers[place] = answer
        held = np.empty(len(answers), dtype=object)
        held[:] = answers
        return {"index": batch["index"], "answer": held}


def open_ray(engine: recipe.Engine, model: recipe.Model, cache: Any) -> RayEngine:
    """The recipe's engine over the cluster at `engine.ray` ("auto": the running one, else one on this machine)."""
    if find_spec("ray") is None:
        raise UserError("engine.ray is set, and Ray is not installed", "pip install 'camelid[ray]', or leave it out.")
    import ray  # pyright: ignore[reportMissingImports]

    from camelid import bases, chat

    if not ray.is_initialized():
        ray.init(address=None if engine.ray == "auto" else engine.ray, log_to_driver=False, configure_logging=False)
    base = bases.open_base(model.base, model.revision)
    precision = bases.resolve_precision(engine.precision)
    fingerprint = (
        f"ray {engine.kind} {engine.url} {engine.name} {bases.fingerprint(base)} {precision} {engine.batching} "
        f"template {chat.name_template(base.tokenizer)}"
    )
    return RayEngine(engine, model, fingerprint, cache)
