"""Why jobs wait for the provider, from their rows: reasons that an operator must resolve, and reasons that pass."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, assert_never, get_args

import orjson

from backstop.readmodel.database import Connection
from schemas.base import Cause
from schemas.pauses import PAUSED_CODE

ROWS_MAX: Final = 1_000
"""Waiting jobs per tenant that are read for their reasons; more are not counted."""

PASSING_MIN: Final = 5
"""Fewer jobs waiting for the provider to recover are normal, not a finding."""

NAMED_MAX: Final = 20
BECAUSE_CHARS_MAX: Final = 300

Kind = Literal["provider_refuses", "provider_unavailable", "creates_paused"]


@dataclass(frozen=True, slots=True)
class WaitingJobs:
    """Jobs that wait for one kind of reason. `because`: the most frequent one, in the provider's words."""

    count: int = 0
    job_ids: tuple[str, ...] = ()
    because: str = ""


Paused = Callable[[str, tuple[str, ...]], str | None]
"""Model and tags → the words of the pause that holds such jobs of the tenant; None if no pause does."""


def waiting(conn: Connection, tenant: str, paused: Paused = lambda _model, _tags: None) -> dict[Kind, WaitingJobs]:
    """The tenant's jobs that wait for a turn or back off, by the party that must act."""
    ids: dict[Kind, list[str]] = {kind: [] for kind in get_args(Kind)}
    reasons: dict[Kind, Counter[str]] = {kind: Counter() for kind in get_args(Kind)}
    for status in ("backing_off", "waiting"):
        rows = conn.rows(
            "SELECT job_id, fold_state, model, tags FROM jobs WHERE status = ? AND tenant = ? "
            "ORDER BY submitted_at_ms LIMIT ?",
            (status, tenant, ROWS_MAX),
        )
        for job_id, state, model, tags in rows:
            words = paused(model or "", tuple(orjson.loads(tags)))
            told = _told(orjson.loads(bytes(state))) if words is None else ("creates_paused", words)
            if told is not None:
                kind, because = told
                ids[kind].append(job_id)
                reasons[kind][because] += 1
    return {kind: _waiting(ids[kind], reasons[kind]) for kind in ids}


def _told(state: dict[str, Any]) -> tuple[Kind, str] | None:
    why: dict[str, Any] = state.get("why") or {}
    code = str(why.get("code", ""))
    cause: Cause | None = state.get("held_for") or state.get("cause")
    because = f"{code}: {why.get('message') or ''}".removesuffix(": ")[:BECAUSE_CHARS_MAX]
    kind = None if cause is None or code == PAUSED_CODE else _kind(cause)  # The pause has ended: its turn comes.
    return None if kind is None else (kind, because)


def _kind(cause: Cause) -> Kind | None:
    """None: the job waits for a reason of its own."""
    match cause:
        case "account":
            return "provider_refuses"
        case "overloaded" | "faulty" | "unsent" | "limited" | "held":
            return "provider_unavailable"
        case "later" | "odd" | "never":
            return None
        case _:
            assert_never(cause)


def _waiting(job_ids: list[str], reasons: Counter[str]) -> WaitingJobs:
    if not job_ids:
        return WaitingJobs()
    return WaitingJobs(len(job_ids), tuple(job_ids[:NAMED_MAX]), reasons.most_common(1)[0][0])
