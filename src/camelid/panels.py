"""Judges beside people on the same pairs: which set-up agrees with them best, what juries of them are worth.

A set-up is anything that has a verdict of every pair: a judge, a debate, a jury, a rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from camelid.agreement import kappa_of
from camelid.errors import UserError
from camelid.evaluation import evaluate
from camelid.metrics import SEED, Draws, Ints, confusion, interval, resampled_confusions
from camelid.rows import Contest, Judged, Predicted
from camelid.verdicts import CLASSES, Ties, Verdicts, is_read, list_juries, settle_verdicts, vote_jury

RULES: tuple[Ties, Ties] = ("tie", "intended")


@dataclass(frozen=True)
class Panel:
    """The pairs on which people and every judge have a verdict: `gold` is that of most people, `verdicts` by judge.

    `people` holds by annotator what each said, None for nothing; `dropped` counts pairs that are left out, by reason.
    """

    rows: list[Contest]
    gold: list[str]
    verdicts: dict[str, list[str]]
    people: dict[str, list[str | None]]
    dropped: dict[str, int]


def seat_panel(rows: Sequence[Contest], verdicts: Mapping[str, Verdicts]) -> Panel:
    """The panel of these judges. Raises UserError where no two verdicts of people differ on the pairs that are left."""
    gold = [settle_verdicts(row.verdicts) for row in rows]
    kept = [place for place, said in enumerate(zip(gold, *verdicts.values(), strict=True)) if None not in said]
    dropped = {
        f"{name}: no verdict": sum(one is None for one in each) for name, each in {"people": gold, **verdicts}.items()
    }
    if len({gold[place] for place in kept}) < 2:
        told = ", ".join(f"{count} {why}" for why, count in dropped.items() if count)
        what = f"of {len(rows)} pairs {len(kept)} have a verdict of people and of every judge, and no two differ"
        raise UserError(f"{what} ({told})" if told else what, "Look at the replies of the judges, or add pairs.")
    left = [rows[place] for place in kept]
    names = dict.fromkeys(name for row in left for name in row.verdicts)
    return Panel(
        left,
        [str(gold[place]) for place in kept],
        {name: [str(each[place]) for place in kept] for name, each in verdicts.items()},
        {name: [row.verdicts.get(name) for row in left] for name in names},
        {why: count for why, count in dropped.items() if count},
    )


def note_panel(panel: Panel, dropped: Mapping[str, int]) -> dict[str, Any]:
    """Pairs that are left out, after rows that were `dropped` before, and a warning for each judge of one word."""
    same = {name: each[0] for name, each in panel.verdicts.items() if len(set(each)) == 1}
    warnings = [f"{name} says {said} of every pair, so its kappa is 0" for name, said in same.items()]
    return {"dropped": {**dropped, **panel.dropped}, "warnings": warnings}


def convene(judges: Sequence[Sequence[str]], ties: Ties = "tie") -> list[str]:
    """The verdicts of a jury of these judges."""
    return [vote_jury(votes, ties) for votes in zip(*judges, strict=True)]


def predict_verdicts(panel: Panel, verdicts: Sequence[str]) -> list[Predicted]:
    """A set-up's verdicts beside those of people."""
    return [Predicted(row.id, gold, said, {}) for row, gold, said in zip(panel.rows, panel.gold, verdicts, strict=True)]


def compare_setups(systems: Mapping[str, Sequence[Predicted]], ours: str = "", rule: str = "") -> dict[str, Any]:
    """`evaluate` with Cohen's kappa first; `ours` is the set-up to report, that with the largest kappa when empty.

    The largest of several on the rows it was chosen on flatters. `rule` names a set-up that is no model.
    """
    kappas = {name: _kappa([(row.gold, row.predicted) for row in rows]) for name, rows in systems.items()}
    best = max((name for name in systems if name != rule), key=kappas.__getitem__)
    return evaluate(systems, CLASSES, ours or best, "agreement", trained=set(systems) - {rule})


def tabulate_juries(gold: Sequence[str], judges: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Kappa of every subset of the judges under both rules for ties, the best first: {rows, juries}.

    A jury is {members, tie, intended}; both kappas are {value, low, high}.
    """
    lines = []
    for members in list_juries(list(judges)):
        votes = {rule: convene([judges[name] for name in members], rule) for rule in RULES}
        tie = _spread_kappa(gold, votes["tie"])
        intended = tie if votes["intended"] == votes["tie"] else _spread_kappa(gold, votes["intended"])
        lines.append({"members": list(members), "tie": tie, "intended": intended})
    return {"rows": len(gold), "juries": sorted(lines, key=lambda line: -max(line[rule]["value"] for rule in RULES))}


def count_judgements(orders: Sequence[Sequence[Judged]]) -> dict[str, Any]:
    """What came of a judge's judgements in all orders: outcomes, and how many could not be read in whole or in part.

    `further turns` is how often it was asked again.
    """
    judged = [one for each in orders for one in each]
    unread = sum(one.outcome == "value" and not is_read(one.value) for one in judged)
    return {
        **Counter(one.outcome for one in judged),
        "not read": unread,
        "further turns": sum(one.repairs for one in judged),
    }


def _number(said: Sequence[Any]) -> Ints:
    return np.array([CLASSES.index(str(one)) for one in said])


def _kappa(pairs: Sequence[tuple[Any, Any]]) -> float:
    gold, said = zip(*pairs, strict=True)
    return float(kappa_of(confusion(_number(gold), _number(said), len(CLASSES))[None])[0])


def _spread_kappa(gold: Sequence[str], said: Sequence[str]) -> dict[str, float]:
    draws = Draws(len(gold), SEED)
    sampled = resampled_confusions(_number(gold), _number(said), len(CLASSES), draws)
    return interval(_kappa(list(zip(gold, said, strict=True))), kappa_of(sampled)).as_dict()
