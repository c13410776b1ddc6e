"""What a user did that camelid cannot work with, said so that they can mend it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


class UserError(Exception):
    """A mistake in the user's input: `what` happened and where, and the `fix`.

    `also` holds further problems found in the same look, so that one run of `camelid check` names them all.
    The command line prints each as two lines and exits with status 2; library callers catch it like any exception.
    """

    def __init__(self, what: str, fix: str = "", also: Sequence[UserError] = ()) -> None:
        super().__init__(f"{what}\n{fix}" if fix else what)
        self.what = what
        self.fix = fix
        self.also = tuple(also)

    def all(self) -> list[UserError]:
        """This problem and every other one found with it."""
        return [self, *(problem for other in self.also for problem in other.all())]


def raise_all(problems: Sequence[UserError]) -> None:
    """Raise one UserError that carries all `problems`; return quietly when there are none."""
    flat = [UserError(single.what, single.fix) for problem in problems for single in problem.all()]
    if flat:
        raise UserError(flat[0].what, flat[0].fix, flat[1:])


def try_all(
    looks: Mapping[str, Callable[[], Any]], complaints: Iterable[tuple[str, str]] = ()
) -> tuple[dict[str, Any], list[UserError]]:
    """(what each look finds by its name, the `complaints` (what, fix) and every problem that a look raised, once)."""
    problems = [UserError(*complaint) for complaint in complaints]
    found: dict[str, Any] = {}
    for name, look in looks.items():
        try:
            found[name] = look()
        except UserError as error:
            problems += [UserError(problem.what, problem.fix) for problem in error.all()]
    return found, list({problem.what: problem for problem in problems}.values())
