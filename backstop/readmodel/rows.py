"""What the read model keeps, as values. Pure: no database, no clock.

A row of a job is a function of the job's own facts on `jobs` up to its end, and of its one record on `results`. Both come over
different partitions at different speeds, so a result that comes before its job has ended here is *held* until it has: the
content of a row never depends on which of the two came first. What follows the end (a latecomer, the timer that forgets)
is on the timeline only.
"""

from dataclasses import dataclass

from schemas.base import Usage
from schemas.statuses import JOB_OUTCOMES, JobStatus

TERMINAL: frozenset[str] = frozenset(JOB_OUTCOMES)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a record stands. `topic` is the logical name (`jobs`), so that no digest depends on a prefix."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as it is now. Times are unix milliseconds."""

    job_id: str
    tenant: str
    status: JobStatus
    version: int
    """Facts of the job that changed it, and one for its result. Never falls."""
    fold_state: bytes
    """Canonical JSON of the fold's state after the last fact taken."""
    submitted_at_ms: int
    updated_at_ms: int
    position: Position
    """The last record taken."""
    model: str | None = None
    session_id: str | None = None
    tags: tuple[str, ...] = ()
    deadline_at_ms: int | None = None
    next_action_at_ms: int | None = None
    """None once nothing more is to be done."""
    request_sha256: str | None = None
    """None where the request could not be read (a refused one)."""
    attempts: int = 0
    """The highest number of an attempt heard of."""
    result: bytes | None = None
    """The record on `results`, as its writer encoded it."""
    found_by: str | None = None
    finished_at_ms: int | None = None
    queued_ms: int | None = None
    running_ms: int | None = None
    webhook_lag_ms: int | None = None
    detection_ms: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def ended(self) -> bool:
        """The fold has ended it: no further fact of the log changes the row."""
        return self.status == "finishing" or self.terminal


@dataclass(frozen=True, slots=True)
class HeldResult:
    """A record on `results` that came before its job's end was read."""

    job_id: str
    at_ms: int
    record: bytes
    position: Position


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One fact on a job's timeline. `summary` is canonical JSON without prompts, outputs or texts of the provider."""

    job_id: str
    at_ms: int
    kind: str
    summary: bytes
    position: Position


@dataclass(frozen=True, slots=True)
class UnclaimedEntry:
    """A fact of a response whose job is not known yet: it joins the timeline when the response is claimed."""

    response_id: str
    at_ms: int
    kind: str
    summary: bytes
    position: Position


@dataclass(frozen=True, slots=True)
class LateUsage:
    """What a response cost and no result counts; `estimated` where the provider told nothing."""

    attempt: int
    response_id: str
    usage: Usage
    estimated: bool


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """A record that somebody set aside, as people see it. It may hold a piece of a prompt: `preview`."""

    dead_letter_id: str
    at_ms: int
    tenant: str | None
    """None: nobody can say whose it was."""
    component: str
    reason: str
    detail: str
    origin: Position | None
    """Where the record stood; None where it came over HTTP."""
    record_key: str
    size_bytes: int | None
    """Of the value, as far as it was kept; None where it had none."""
    preview: str
    """The beginning of the value, printable characters only."""
    position: Position
    """Of the letter itself."""
    resolution: str | None = None
    resolved_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One line of `changes`: a job's new state, small enough to push to whoever follows."""

    seq: int
    build: int
    tenant: str
    job_id: str
    session_id: str | None
    version: int
    status: str
    at_ms: int
    payload: bytes

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL


@dataclass(frozen=True, slots=True)
class KnownJob:
    """What a door needs in order to tell a repeat of a submission from a conflict."""

    job_id: str
    tenant: str
    request_sha256: str | None
    status: str
