"""The states of a job and their due times. The transitions are in `streams.fold.job`. Pure."""

from dataclasses import dataclass
from typing import Literal, assert_never

from schemas.base import Body, Cause
from schemas.fallbacks import FallbackBrief, Fallbacks
from schemas.jobs import JobPolicy, JobSubmitted, ResponseAdopted, Turn
from schemas.results import Reason
from schemas.spend_caps import SpendCap
from schemas.statuses import JobOutcome
from streams.fold.attempts import Attempts, OutcomeUnknown

NOT_REPEATED = "the response was created elsewhere, so its request is not known here and can't be sent again"
UNUSABLE_ID = "unusable_id"
"""The code of a create that was taken under an id that can't be used."""


@dataclass(frozen=True, slots=True)
class Spec:
    """The parameters of a job's submission or adoption. Only `JobChanged` changes them (priority and
    deadline), and a fallback (the model).
    """

    tenant: str
    model: str
    """Empty for an adopted response, whose model is not known."""
    request: Body | None
    """None for an adopted response: no create is possible."""
    request_sha256: str
    submitted_at_ms: int
    deadline_at_ms: int
    policy: JobPolicy
    session_id: str | None
    tags: tuple[str, ...]
    include: tuple[str, ...] = ()
    window_ms: int | None = None
    turn: Turn | None = None
    changes: int = 0
    """How many changes were taken."""
    retry_of: str | None = None
    """The ended job whose request this job repeats."""
    cap: SpendCap | None = None
    """What all attempts may spend together."""
    fallback: Fallbacks | None = None
    fell: tuple[FallbackBrief, ...] = ()
    """The fallbacks that were taken. `model` is that of the last one."""
    traceparent: str | None = None
    """W3C Trace Context of the submission."""


def spec_of_submitted(event: JobSubmitted) -> Spec:
    return Spec(
        tenant=event.tenant,
        model=event.model,
        request=event.request,
        request_sha256=event.request_sha256,
        submitted_at_ms=event.at_ms,
        deadline_at_ms=event.deadline_at_ms,
        policy=event.policy,
        session_id=event.session_id,
        tags=event.tags,
        include=event.include or (),
        window_ms=event.window_ms,
        turn=event.turn,
        retry_of=event.retry.job_id if event.retry is not None else None,
        cap=event.cap,
        fallback=event.fallback,
        traceparent=event.traceparent,
    )


def spec_of_adopted(event: ResponseAdopted) -> Spec:
    return Spec(
        tenant=event.tenant,
        model="",
        request=None,
        request_sha256=event.request_sha256,
        submitted_at_ms=event.at_ms,
        deadline_at_ms=event.deadline_at_ms,
        policy=event.policy,
        session_id=event.session_id,
        tags=event.tags,
        include=event.include or (),
    )


@dataclass(frozen=True, slots=True)
class Absent:
    kind: Literal["absent"] = "absent"


@dataclass(frozen=True, slots=True)
class Waiting:
    """The job waits for its turn under the limits; no attempt has begun."""

    spec: Spec
    attempts: Attempts
    since_ms: int
    kind: Literal["waiting"] = "waiting"


@dataclass(frozen=True, slots=True)
class Active:
    """At least one attempt is submitting, unknown or running."""

    spec: Spec
    attempts: Attempts
    kind: Literal["active"] = "active"


@dataclass(frozen=True, slots=True)
class BackingOff:
    """No attempt is awaited. The next one begins at `retry_at_ms`, or later while the lane is closed."""

    spec: Spec
    attempts: Attempts
    retry_at_ms: int
    why: Reason
    cause: Cause = "faulty"
    held_for: Cause | None = None
    """Where the cause is `held`: why the lane was closed."""
    last: bool = False
    """No further attempt is granted: the job only waits, until its deadline, for an abandoned attempt to be adopted."""
    kind: Literal["backing_off"] = "backing_off"


@dataclass(frozen=True, slots=True)
class Finished:
    """The result is published. The row is kept until `forget_at_ms`, for repeats and late responses."""

    tenant: str
    request_sha256: str
    outcome: JobOutcome
    finished_at_ms: int
    forget_at_ms: int
    response_ids: tuple[str, ...]
    """Responses that are known to belong to the job; any other one is late."""
    uncounted: tuple[str, ...] = ()
    """Those of `response_ids` whose usage is not in the result: it is booked when it is reported."""
    kind: Literal["finished"] = "finished"


JobState = Absent | Waiting | Active | BackingOff | Finished
Open = Waiting | Active | BackingOff
Status = Literal["absent", "waiting", "submitting", "running", "unknown", "backing_off", "finished"]


def status(state: JobState) -> Status:
    """The state's name for lists and logs; an active job has the status of its attempts."""
    match state:
        case Absent():
            return "absent"
        case Waiting():
            return "waiting"
        case Active():
            return state.attempts.status()
        case BackingOff():
            return "backing_off"
        case Finished():
            return "finished"
        case _:
            assert_never(state)


def due_ms(state: JobState) -> int | None:
    """When the scheduler must write the next `JobTimerFired` (unix ms). Only `Absent` has no due time."""
    match state:
        case Absent():
            return None
        case Waiting():
            not_before_ms = state.spec.turn.not_before_ms if state.spec.turn is not None else None
            return min(max(state.since_ms, not_before_ms or 0), state.spec.deadline_at_ms)
        case Active():
            return min((*state.attempts.dues_ms(), state.spec.deadline_at_ms))
        case BackingOff():
            return min(state.retry_at_ms, state.spec.deadline_at_ms)
        case Finished():
            return state.forget_at_ms
        case _:
            assert_never(state)


def reason_of_deadline(state: Open) -> Reason:
    """Why a job ends at its deadline."""
    waited_ms = state.spec.deadline_at_ms - state.spec.submitted_at_ms
    message = f"not ended {waited_ms} ms after its submission"
    if isinstance(state, Waiting):
        message += "; it waited for its turn, and no attempt began"
    if isinstance(state, BackingOff):
        message += f"; its last attempt: {state.why.code} {state.why.message}".rstrip()
    for item in state.attempts.items:
        if isinstance(item, OutcomeUnknown) and item.taken:
            message += f"; the provider took attempt {item.number} and named no response: it answered {item.said!r}"
    return Reason(code="deadline", message=message)
