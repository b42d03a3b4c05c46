"""The priorities that a key may give to jobs. A key without such a limit may give any."""

from collections.abc import Callable

from backstop.runtime.authority import key_id_now
from receiver.problems import Problem, Refusal
from schemas.base import Priority

AllowsPriority = Callable[[Priority | None], None]
"""Raises `Refusal` (403) where the current request's key may not give this priority. None: the request gives none."""


def any_priority(_priority: Priority | None) -> None:
    """Where there are no keys."""


def limited_by(priorities_of: Callable[[str], frozenset[Priority] | None]) -> AllowsPriority:
    """:param priorities_of: of a key id; None: all."""

    def check(priority: Priority | None) -> None:
        allowed = priorities_of(key_id_now() or "")
        if priority is None or allowed is None or priority in allowed:
            return
        named = " or ".join(sorted(allowed))
        raise Refusal(
            Problem(403, "priority_not_allowed", f"This key may give the priority {named} alone, and not {priority}.")
        )

    return check
