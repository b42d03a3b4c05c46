"""Why jobs wait for the provider, from their rows: reasons that an operator must resolve, and reasons that pass."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final, Literal, assert_never

import orjson

from backstop.readmodel.database import Connection
from schemas.base import Cause

ROWS_MAX: Final = 1_000
"""Waiting jobs per tenant that are read for their reasons; more are not counted."""

PASSING_MIN: Final = 5
"""Fewer jobs waiting for the provider to recover are normal, not a finding."""

NAMED_MAX: Final = 20
BECAUSE_CHARS_MAX: Final = 300

Kind = Literal["provider_refuses", "provider_unavailable"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Jobs that wait for one kind of reason. `because`: the most frequent one, in the provider's words."""

    count: int = 0
    job_ids: tuple[str, ...] = ()
    because: str = ""


def waiting(conn: Connection, tenant: str) -> dict[Kind, Waiting]:
    """The tenant's jobs in back-off, by the party that must act."""
    rows = conn.rows(
        "SELECT job_id, fold_state FROM jobs WHERE status = 'backing_off' AND tenant = ? "
        "ORDER BY submitted_at_ms LIMIT ?",
        (tenant, ROWS_MAX),
    )
    ids: dict[Kind, list[str]] = {"provider_refuses": [], "provider_unavailable": []}
    reasons: dict[Kind, Counter[str]] = {"provider_refuses": Counter(), "provider_unavailable": Counter()}
    for job_id, state in rows:
        told = _told(orjson.loads(bytes(state)))
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
    kind = None if cause is None else _kind(cause)
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


def _waiting(job_ids: list[str], reasons: Counter[str]) -> Waiting:
    if not job_ids:
        return Waiting()
    return Waiting(len(job_ids), tuple(job_ids[:NAMED_MAX]), reasons.most_common(1)[0][0])
