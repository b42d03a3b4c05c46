"""The read model's rows as values. Pure: no database, no clock.

A job's row is a function of the job's facts on `jobs` up to its end, and of its one record on `results`. Both arrive
over different partitions at different speeds. A result that arrives before the end is *held* until the end is read, so
the row never depends on which came first. Later facts (late ones, the timer that forgets the job) appear on the
timeline only.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from schemas.base import Usage
from schemas.statuses import JOB_OUTCOMES, JobStatus, WaitsFor

TERMINAL: frozenset[str] = frozenset(JOB_OUTCOMES)


@dataclass(frozen=True, slots=True)
class Position:
    """A record's place. `topic` is the logical name (`jobs`), so that no digest depends on a prefix."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Wait:
    """What an open job waits for, by the facts of its own log. `backstop.readmodel.waits` makes and shows it."""

    waits_for: WaitsFor
    since_ms: int
    until_ms: int | None
    """When Backstop acts next, if nothing happens before."""
    code: str
    message: str
    response_id: str | None = None
    """The response that runs."""


class JobRow(NamedTuple):
    """A job's current state. Times are Unix milliseconds.

    A tuple, as each fact makes a new row of all fields: a frozen dataclass takes several times as long.
    """

    job_id: str
    tenant: str
    status: JobStatus
    version: int
    """The number of facts that changed the row, plus one for the result. Never decreases."""
    fold_state: bytes
    """Canonical JSON of the fold's state after the last fact taken."""
    submitted_at_ms: int
    updated_at_ms: int
    position: Position
    """The last record that changed the row."""
    model: str | None = None
    session_id: str | None = None
    tags: tuple[str, ...] = ()
    deadline_at_ms: int | None = None
    next_action_at_ms: int | None = None
    """None when nothing is left to do."""
    request_sha256: str | None = None
    """None if the request could not be read (a refused job)."""
    attempts: int = 0
    """The highest attempt number seen."""
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
    cache_policy: str | None = None
    cache_key: str | None = None
    """The `prompt_cache_key` that the submission named."""
    priority: str | None = None
    """The class in which the job waits for its turns. None: no limits were set, and nothing asked for one."""
    wait: Wait | None = None
    """None once the job has ended."""
    reason_code: str | None = None
    """Why the job ended as it did; None for a plain completion."""
    reason_message: str | None = None
    retry_of: str | None = None
    """The ended job whose request this job repeats."""

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def ended(self) -> bool:
        """The fold has ended the job: no further fact of the log changes the row."""
        return self.status == "finishing" or self.terminal


@dataclass(frozen=True, slots=True)
class HeldResult:
    """A record on `results` that arrived before its job's end was read."""

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
    """A fact of a response whose job is unknown; it joins the timeline when the response is claimed."""

    response_id: str
    at_ms: int
    kind: str
    summary: bytes
    position: Position


@dataclass(frozen=True, slots=True)
class LateUsage:
    """Usage of a response that no result counts; `estimated` if the provider reported none."""

    attempt: int
    response_id: str
    usage: Usage
    estimated: bool


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """A dead letter as operators see it. `preview` may hold a piece of a prompt."""

    dead_letter_id: str
    at_ms: int
    tenant: str | None
    """None: its tenant is unknown."""
    component: str
    reason: str
    detail: str
    origin: Position | None
    """The place of the original record; None if it arrived over HTTP."""
    record_key: str
    size_bytes: int | None
    """Size of the kept part of the value; None if there is none."""
    preview: str
    """The beginning of the value, in printable characters only."""
    position: Position
    """The place of the dead letter itself."""
    resolution: str | None = None
    resolved_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One line of `changes`: a job's new state, small enough to push to followers."""

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
class KnownSubmission:
    """The fields by which the ingress tells a repeated submission from a conflict."""

    job_id: str
    tenant: str
    request_sha256: str | None
    status: str


PLACES_MAX: Final = 10_000
"""Waiting jobs that are counted for the place of one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job stands among those that wait as it does. `reason`: None where no such job was granted yet."""

    model: str
    priority: str
    place: int
    waiting: int
    reason: str | None = None
    about_ms: int | None = None

    @property
    def beyond(self) -> bool:
        """More jobs wait before it than are counted."""
        return self.place >= PLACES_MAX
