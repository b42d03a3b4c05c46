"""Parts of the world: jobs with their policies, books of facts, responses at the provider."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from schemas.base import Message
from schemas.jobs import JobPolicy
from schemas.statuses import ObservedOutcome as Outcome
from streams.fold import job, response, rows
from streams.fold.step import Step

JobStep = Callable[[Any, Any], Step[Any]]
ResponseStep = Callable[[Any, Any], Step[Any]]
LogName = Literal["jobs", "responses"]

START_MS = 1_000_000
TIMEOUT_MS = 1_800_000
FORGET_AFTER_MS = 7_200_000
NEXT_POLL_MS = 300_000
SOON_MS = 5_000
ADOPTING = "job_n"
"""The adopting job. It is never submitted: it adopts a response that another job made, or that was made elsewhere."""

WAITS = "job_b"
"""The job that waits for its turn under limits."""

HEDGED = ("job_a", "job_b")
"""Jobs that may have a second attempt beside a slow one."""

HEDGE_AFTER_MS = 240_000

TENANTS = {"job_a": "acme", "job_b": "brick", "job_c": "acme", ADOPTING: "brick"}
POLICIES = {
    name: JobPolicy(
        retries_max=retries_max,
        rejections_max=rejections_max,
        unpaid_ends_max=2,
        doubts_max=1,
        backoff_base_ms=1_000,
        backoff_max_ms=60_000,
        command_valid_ms=30_000,
        report_timeout_ms=60_000,
        adoption_grace_ms=120_000,
        missing_grace_ms=40_000,
        forget_after_ms=FORGET_AFTER_MS,
        hedge=True if name in HEDGED else None,
    )
    for name, retries_max, rejections_max in (("job_a", 2, 2), ("job_b", 0, 1), ("job_c", 1, 3), (ADOPTING, 0, 0))
}
TIMERS_TO_THE_END_MAX = 28
"""Three timers an attempt (report deadline, adoption grace, back-off), seven attempts, the job's deadline, and room."""

CreateFate = Literal[
    "accept",
    "accept unknown",
    "accept silent",
    "accept taken",
    "accept refused",
    "unknown",
    "answered unknown",
    "silent",
    "reject limited",
    "reject overloaded",
    "reject account",
    "reject odd",
    "reject held",
    "reject never",
]
PollFate = Literal["truth", "lost", "failed", "missing", "odd", "regress", "cancelled then completed"]


@dataclass
class Book:
    """One key of one log, with what its fold made of it."""

    state: Any
    facts: list[Message] = field(default_factory=list)
    steps: list[Step[Any]] = field(default_factory=list)
    dues_ms: list[int] = field(default_factory=list)


@dataclass
class Made:
    """A response at the provider."""

    response_id: str
    job_id: str | None
    attempt: int
    tenant: str
    status: Outcome = "running"
    ever: set[str] = field(default_factory=lambda: {"running"})

    def become(self, status: Outcome) -> None:
        self.status = status
        self.ever.add(status)


def due_of(state: Any) -> int | None:
    if isinstance(state, job.Absent | job.Waiting | job.Active | job.BackingOff | job.Finished):
        return job.due_ms(state)
    return response.due_ms(state)


def encode_state(log: LogName, state: Any) -> bytes:
    return rows.encode_job_state(state) if log == "jobs" else rows.encode_response_state(state)


def decode_state(log: LogName, data: bytes) -> Any:
    return rows.decode_job_state(data) if log == "jobs" else rows.decode_response_state(data)
