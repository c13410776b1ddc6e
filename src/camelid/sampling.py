"""sample(engine, prompts): completions, with caching, order and progress."""

from __future__ import annotations

from collections.abc import Sequence

from camelid.engines import Completion, Engine, Request, Sampling, answer_all
from camelid.errors import UserError
from camelid.rows import Prompt

GREEDY = Sampling()


def sample(
    engine: Engine,
    prompts: Sequence[Prompt],
    sampling: Sampling = GREEDY,
    *,
    samples: int = 1,
    seed: int = 0,
    what: str = "sampling",
) -> list[list[Completion]]:
    """`samples` completions of each prompt, in the order of the prompts.

    Each is drawn with its own noise, from the seed, the prompt and its number. Raises UserError when the engine cannot
    sample.
    """
    if "sample" not in engine.can:
        raise UserError("this engine writes no text", "Take another engine.")
    requests = [Request(prompt, sampling, seed, number) for prompt in prompts for number in range(samples)]
    found = answer_all(engine, requests, engine.complete, what)
    return [found[start : start + samples] for start in range(0, len(found), samples)]
