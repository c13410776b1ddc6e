"""Rows that experts annotated: read, and split into a memory that prompts may show and rows that are scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from camelid import data
from camelid.data import Splits
from camelid.data.columns import annotation_shape
from camelid.errors import UserError
from camelid.folds import split_share
from camelid.recipe import Data
from camelid.retrieval import normalise
from camelid.rows import Annotated


def read_gold(
    values: Data,
    kinds: Sequence[str],
    group: str | None,
    share: float,
    by: Literal["rows", "groups"],
    seed: int,
    *,
    needs_groups: bool = False,
) -> Splits:
    """Memory rows as `train` and test rows, each from its own source, or drawn from one as by `folds.split_share`.

    Rows have labels of all `kinds` and are stratified by the first. Raises UserError with what is wrong with the rows,
    or where there is too little to show, to test or to tell apart; `needs_groups` wants groups told apart too.
    """
    shape = annotation_shape(values.text, {kind: kind for kind in kinds}, group)
    dropped: dict[str, Counter[str]] = {"memory": Counter(), "test": Counter()}
    if not values.train:
        raise UserError("no labelled rows are named", "Add --data FILE, or --data oral-history.")
    rows = data.read_rows(values.train, values, shape=shape, dropped=dropped["memory"])
    if lacking := sorted(set(kinds) - set(rows[0].labels)):
        known = ", ".join(rows[0].labels)
        raise UserError(f"{values.train} has no labels of the kind {lacking[0]!r}", f"It has: {known} (--labels).")
    if values.test:
        memory, test = rows, data.read_rows(values.test, values, shape=shape, dropped=dropped["test"])
    else:
        memory, test = split_share(rows, kinds[0], share, by, seed)
    _check(kinds, memory, test, needs_groups)
    shared = {normalise(row.text) for row in memory} & {normalise(row.text) for row in test}
    warning = f"{len(shared)} texts stand in memory and in test: scores on them measure memory, though no prompt shows"
    counts = {f"{role}: {why}": count for role, counted in dropped.items() for why, count in counted.items()}
    return Splits(memory, [], test, counts, [f"{warning} them."] if shared else [])


def _check(kinds: Sequence[str], memory: Sequence[Annotated], test: Sequence[Annotated], needs_groups: bool) -> None:
    names = {row.group for row in [*memory, *test]}
    if needs_groups and ("" in names or len({row.group for row in memory}) < 2):
        fix = "Name the column with --group, or leave split and other_groups out."
        raise UserError(f"memory rows need two groups at least, and there are {len(names - {''})} in all", fix)
    if not memory or not test:
        what = f"of {len(memory) + len(test)} rows {len(memory)} are memory and {len(test)} test rows"
        raise UserError(what, "There must be some of both: change --memory-share, or add rows.")
    single = [kind for kind in kinds if len({row.labels[kind] for row in memory}) < 2]
    if single:
        what = f"all memory rows have one label of the kind {single[0]!r}"
        raise UserError(what, "Add rows, or leave the kind out.")
