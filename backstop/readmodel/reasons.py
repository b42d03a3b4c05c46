"""Reasons of many jobs, in groups: what open jobs wait for, and why ended ones ended as they did."""

from collections import defaultdict
from typing import Annotated, Final, Literal, NotRequired

import orjson
from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from backstop.readmodel.answers import WaitingView
from backstop.readmodel.database import Connection
from backstop.readmodel.rows import Wait
from backstop.readmodel.schema import texts
from backstop.readmodel.waits import waiting_view
from schemas.job_ids import own_job_id
from schemas.statuses import OPEN_JOB_STATUSES, JobOutcome, WaitsFor

_DOCUMENTED: Final = ConfigDict(use_attribute_docstrings=True)
OPEN_MAX: Final = 2_000
"""Open jobs that are read, the oldest of each status first; more are not counted."""
ENDED_MAX: Final = 10_000
"""Ended jobs that are counted, the latest first. An index alone answers it."""
GROUPS_MAX: Final = 20
NAMED_MAX: Final = 3

WaitingGroup = TypedDict(
    "WaitingGroup",
    {
        "for": WaitsFor,
        "code": str,
        "message": Annotated[str, Field(description="Of the job that has waited longest.")],
        "count": int,
        "since_ms": Annotated[int, Field(description="Since when the job waits that has waited longest.")],
        "job_ids": Annotated[list[str], Field(description="Of those that have waited longest.")],
    },
)
"""Open jobs that wait for the same thing, for the same reason."""


@with_config(_DOCUMENTED)
class EndedGroup(TypedDict):
    """Ended jobs with the same outcome and the same reason."""

    status: JobOutcome
    code: NotRequired[str]
    """Left out of jobs that ended without a reason, such as completed ones."""
    message: NotRequired[str]
    """Of the job that ended last."""
    count: int
    ended_at_ms: int
    """When the last of them ended."""
    job_ids: list[str]
    """Of those that ended last."""


@with_config(_DOCUMENTED)
class ReasonsView(TypedDict):
    """What open jobs wait for, and why jobs ended: in groups, the largest first."""

    object: Literal["reasons"]
    at_ms: int
    since_ms: int
    """Jobs that ended since then are counted."""
    truncated: bool
    """Whether there are more jobs than were counted, or more groups than are shown."""
    waiting: list[WaitingGroup]
    ended: list[EndedGroup]


def reasons(conn: Connection, tenant: str, since_ms: int, now_ms: int) -> ReasonsView:
    """The groups of one tenant."""
    waiting, more_open = _waiting(conn, tenant, now_ms)
    ended, more_ended = ended_groups(conn, tenant, since_ms)
    return {
        "object": "reasons",
        "at_ms": now_ms,
        "since_ms": since_ms,
        "truncated": more_open or more_ended,
        "waiting": waiting,
        "ended": ended,
    }


def _waiting(conn: Connection, tenant: str, now_ms: int) -> tuple[list[WaitingGroup], bool]:
    found = conn.rows(
        "SELECT job_id, wait, deadline_at_ms FROM jobs WHERE tenant = ? "
        f"AND status IN ({texts(OPEN_JOB_STATUSES)}) AND wait IS NOT NULL ORDER BY submitted_at_ms LIMIT ?",
        (tenant, OPEN_MAX),
    )
    groups: defaultdict[tuple[WaitsFor, str], list[tuple[int, str, WaitingView]]] = defaultdict(list)
    for job_id, wait, deadline_ms in found:
        view = waiting_view(Wait(**orjson.loads(bytes(wait))), now_ms, deadline_ms)
        groups[view["for"], view["because"]["code"]].append((view["since_ms"], job_id, view))
    told: list[WaitingGroup] = []
    for (waits_for, code), members in sorted(groups.items(), key=lambda item: -len(item[1]))[:GROUPS_MAX]:
        longest = sorted(members, key=lambda member: member[:2])[:NAMED_MAX]
        told.append(
            {
                "for": waits_for,
                "code": code,
                "message": longest[0][2]["because"]["message"],
                "count": len(members),
                "since_ms": longest[0][0],
                "job_ids": [own_job_id(tenant, job_id) for _, job_id, _ in longest],
            }
        )
    return told, len(found) == OPEN_MAX or len(groups) > GROUPS_MAX


def ended_groups(conn: Connection, tenant: str, since_ms: int) -> tuple[list[EndedGroup], bool]:
    """The groups of jobs that ended since then, and whether there are more."""
    latest = (
        "SELECT status, reason_code, finished_at_ms FROM jobs WHERE tenant = ? AND finished_at_ms >= ? "
        "ORDER BY finished_at_ms DESC LIMIT ?"
    )
    groups = conn.rows(
        "SELECT status, reason_code, COUNT(*), MAX(finished_at_ms), MIN(finished_at_ms) "
        f"FROM ({latest}) latest "
        "GROUP BY status, reason_code ORDER BY 3 DESC, 1, 2",
        (tenant, since_ms, ENDED_MAX),
    )
    told: list[EndedGroup] = []
    for status, code, count, last_ms, first_ms in groups[:GROUPS_MAX]:
        named = conn.rows(
            "SELECT job_id, reason_message FROM jobs "
            "WHERE tenant = ? AND finished_at_ms BETWEEN ? AND ? "
            f"AND status = ? AND {'reason_code IS NULL' if code is None else 'reason_code = ?'} "
            "ORDER BY finished_at_ms DESC LIMIT ?",
            (tenant, first_ms, last_ms, status, *(() if code is None else (code,)), NAMED_MAX),
        )
        group: EndedGroup = {
            "status": status,
            "count": count,
            "ended_at_ms": last_ms,
            "job_ids": [own_job_id(tenant, job_id) for job_id, _ in named],
        }
        if code is not None:
            group |= {"code": code, "message": named[0][1] or "" if named else ""}
        told.append(group)
    return told, sum(group[2] for group in groups) == ENDED_MAX or len(groups) > GROUPS_MAX
