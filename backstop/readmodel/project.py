"""Facts to rows. Pure and total; the result does not depend on how records were batched.

The product's own fold computes a job's state; this module adds the public view of it.
"""

from dataclasses import dataclass
from typing import Any, Final, assert_never

from backstop.readmodel.rows import HeldResult, JobRow, Position
from backstop.readmodel.spending import SpendOwner
from backstop.readmodel.waits import cut, wait_after
from schemas.codec import decode, encode
from schemas.erasures import JobErased
from schemas.jobs import (
    AdoptionRefused,
    AttemptAccepted,
    AttemptRejected,
    AttemptSettled,
    AttemptUnknown,
    CancelRequested,
    FallbackTaken,
    HedgePermitted,
    JobAdmitted,
    JobChanged,
    JobFact,
    JobFoundTooLate,
    JobRefused,
    JobSubmitted,
    JobTimerFired,
    ResponseAdopted,
    UsageBooked,
)
from schemas.results import RESULT, JobResult
from schemas.statuses import JobStatus
from streams.fold.job import Absent, Finished, JobState, due_ms, status, step
from streams.fold.rows import decode_job_state, encode_job_state
from streams.fold.step import Ignored

ABSENT: Final[JobState] = Absent()


@dataclass(frozen=True, slots=True)
class Evolved:
    """The row after a fact, and why the fact was ignored, if it was. `row` is None only if there is no job."""

    row: JobRow | None
    ignored: Ignored | None = None
    before: JobState = ABSENT
    """The fold's states. Absent where the fold was not asked."""
    after: JobState = ABSENT


def evolve(row: JobRow | None, fact: JobFact, position: Position) -> Evolved:
    """Take one fact of the job's log.

    Facts after the end change no row: the end is final, and late facts appear on the timeline only.
    """
    if isinstance(fact, JobErased) and row is not None and row.ended:
        return Evolved(_erased(row, fact, position))
    if row is not None and row.ended:
        return Evolved(row, Ignored.LATE)
    before: JobState = Absent() if row is None else decode_job_state(row.fold_state)
    taken = step(before, fact)
    if taken.ignored is not None:
        return Evolved(row, taken.ignored)
    seen = _public(taken.state)
    if seen is None:
        return Evolved(row, Ignored.STALE)
    base = _first(fact, position) if row is None else row
    if base is None:
        return Evolved(None, Ignored.UNKNOWN_KEY)
    if isinstance(fact, JobChanged):
        base = base._replace(
            priority=fact.priority or base.priority,
            deadline_at_ms=base.deadline_at_ms if fact.deadline_at_ms is None else fact.deadline_at_ms,
        )
    return Evolved(
        base._replace(
            status=seen,
            version=base.version + 1,
            fold_state=encode_job_state(taken.state),
            updated_at_ms=fact.at_ms,
            position=position,
            next_action_at_ms=None if seen == "finishing" else due_ms(taken.state),
            attempts=max(base.attempts, _attempt_of(taken.state, fact)),
            wait=wait_after(taken.state, fact, base.wait),
        ),
        before=before,
        after=taken.state,
    )


def told_to(evolved: Evolved, fact: JobFact) -> bool:
    """Whether the fact is about this job's spends: it names no other tenant, and came before the job was forgotten.

    Later facts don't count, as the row may have left the read model by then, and a rebuild must give the same sums.
    """
    row = evolved.row
    if row is None:
        return isinstance(fact, UsageBooked)
    if isinstance(fact, AttemptAccepted | UsageBooked) and fact.tenant != row.tenant:
        return False
    if not row.ended or not isinstance(fact, AttemptAccepted | AttemptSettled | AttemptRejected | UsageBooked):
        return True
    state = decode_job_state(row.fold_state) if isinstance(evolved.after, Absent) else evolved.after
    return isinstance(state, Finished) and fact.at_ms < state.forget_at_ms


def owner_of(row: JobRow | None, fact: JobFact) -> SpendOwner:
    """The job's fields by which its spends are summed. A job that the logs no longer tell of has only its tenant."""
    if row is not None:
        return SpendOwner(row.tenant, row.model or "", row.tags, row.cache_policy or "", row.cache_key or "")
    assert isinstance(fact, UsageBooked), fact
    return SpendOwner(fact.tenant)


def settle(row: JobRow, held: HeldResult, result: JobResult | None = None) -> JobRow:
    """The terminal row, from the record on `results` (`result`, if it is decoded). The fold must have ended `row`."""
    assert row.status == "finishing", row.status
    if result is None:
        result = decode(RESULT, held.record)
    timings, usage = result.timings, result.usage
    return row._replace(
        status=result.outcome,
        version=row.version + 1,
        updated_at_ms=result.at_ms,
        position=held.position,
        next_action_at_ms=None,
        attempts=max((row.attempts, *(brief.attempt for brief in result.attempts))),
        result=held.record,
        found_by=result.found_by,
        finished_at_ms=timings.finished_at_ms,
        queued_ms=timings.queued_ms,
        running_ms=timings.running_ms,
        webhook_lag_ms=timings.webhook_lag_ms,
        detection_ms=timings.detection_ms,
        input_tokens=usage.input_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
        wait=None,
        reason_code=None if result.reason is None else _text(result.reason.code),
        reason_message=None if result.reason is None else _text(cut(result.reason.message)),
    )


def is_erased(row: JobRow) -> bool:
    return row.result is not None and decode(RESULT, row.result).erased_at_ms is not None


def _erased(row: JobRow, fact: JobErased, position: Position) -> JobRow:
    """The row without the texts of caller and provider. It is the same whether the record on `results` was read."""
    record = encode(fact.result)
    ended = row if row.terminal else settle(row, HeldResult(row.job_id, fact.at_ms, record, position), fact.result)
    if row.terminal and is_erased(row):
        return row
    return ended._replace(
        version=ended.version + 1, updated_at_ms=fact.at_ms, position=position, result=record, session_id=None,
        tags=(), cache_key=None, reason_message=None if ended.reason_code is None else "",
    )  # fmt: skip


def _public(state: JobState) -> JobStatus | None:
    """None: the job does not exist, or no longer."""
    seen = status(state)
    if seen == "absent":
        return None
    return "finishing" if seen == "finished" else seen


def _new(
    fact: JobSubmitted | ResponseAdopted | JobRefused, status: JobStatus, position: Position, **asked: Any
) -> JobRow:
    return JobRow(
        job_id=fact.job_id,
        tenant=fact.tenant,
        status=status,
        version=0,
        fold_state=b"",
        submitted_at_ms=fact.at_ms,
        updated_at_ms=fact.at_ms,
        position=position,
        **asked,
    )


def _asked(
    fact: JobSubmitted | ResponseAdopted, status: JobStatus, position: Position, **asked: str | None
) -> JobRow:  # fmt: skip
    return _new(
        fact,
        status,
        position,
        session_id=fact.session_id,
        tags=tuple(_text(tag) for tag in fact.tags),
        deadline_at_ms=fact.deadline_at_ms,
        request_sha256=fact.request_sha256,
        **asked,
    )


def _first(fact: JobFact, position: Position) -> JobRow | None:
    """A job's first row; only three facts begin one, any other returns None."""
    match fact:
        case JobSubmitted():
            cache = fact.prompt_cache
            return _asked(
                fact,
                "submitting",
                position,
                model=_text(fact.model),
                cache_policy=None if cache is None else cache.policy,
                cache_key=None if cache is None or cache.key is None else _text(cache.key),
                priority=fact.turn.priority if fact.turn is not None else None,
                retry_of=None if fact.retry is None else fact.retry.job_id,
            )
        case ResponseAdopted():
            return _asked(fact, "running", position)
        case JobRefused():
            return _new(fact, "finishing", position)
        case (
            AdoptionRefused()
            | CancelRequested()
            | JobChanged()
            | AttemptAccepted()
            | AttemptRejected()
            | AttemptUnknown()
            | AttemptSettled()
            | UsageBooked()
            | HedgePermitted()
            | JobAdmitted()
            | JobFoundTooLate()
            | FallbackTaken()
            | JobErased()
            | JobTimerFired()
        ):
            return None
        case _:
            assert_never(fact)


def _text(text: str) -> str:
    """A caller's text without NUL, which PostgreSQL refuses."""
    return text.replace("\x00", "\ufffd")


def _attempt_of(state: JobState, fact: JobFact) -> int:
    match fact:
        case AttemptAccepted() | AttemptRejected() | AttemptUnknown() | AttemptSettled():
            heard = fact.attempt
        case _:
            heard = 0
    attempts = getattr(state, "attempts", None)  # ended states and states before the first attempt have none
    return heard if attempts is None else max(heard, attempts.last_number)
