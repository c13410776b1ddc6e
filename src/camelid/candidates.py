"""Several answers of a policy to each question, kept as rows: candidates for the two sides of a preference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from camelid.engines import Completion, Engine, Sampling
from camelid.rows import Judged
from camelid.sampling import sample


def draw_candidates(
    policy: Engine,
    rows: Sequence[Any],
    sampling: Sampling,
    count: int,
    seed: int,
    is_readable: Callable[[str], bool] = lambda text: True,
) -> list[Judged]:
    """`count` answers of the policy to each row's prompt; the value's "texts" are those that may be chosen among.

    A row has an id, an origin and a prompt. Left out and counted in "left out" are answers that failed, were cut off at
    the limit, are empty, or are not `is_readable`. A row is "failed" where every request was, and "malformed" where no
    answer is left.
    """
    replies = sample(policy, [row.prompt for row in rows], sampling, samples=count, seed=seed, what="")
    return [_keep(row, found, is_readable) for row, found in zip(rows, replies, strict=True)]


def fault_of(reply: Completion, is_readable: Callable[[str], bool]) -> str:
    """Why an answer is no candidate; empty where it is one."""
    if reply.stop == "failed":
        return reply.problem
    if reply.stop == "length":
        return "cut off at max_new_tokens"
    if not reply.text.strip():
        return "empty"
    return "" if is_readable(reply.text) else "not decoded alike by strong and weak"


def _keep(row: Any, replies: Sequence[Completion], is_readable: Callable[[str], bool]) -> Judged:
    faults = [fault_of(reply, is_readable) for reply in replies]
    texts = [reply.text for reply, fault in zip(replies, faults, strict=True) if not fault]
    problems = [reply.problem for reply in replies if reply.problem]
    if texts:
        value = {"texts": texts, "left out": dict(Counter(filter(None, faults)))}
        return Judged(row.id, row.origin, "value", value, "")
    if len(problems) == len(replies):  # nothing is known of the question yet
        return Judged(row.id, row.origin, "failed", None, problems[0], problem=problems[0])
    return Judged(row.id, row.origin, "malformed", None, f"no answer left: {faults[0]}")
