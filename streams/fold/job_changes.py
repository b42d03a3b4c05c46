"""What a change of priority and deadline makes of an open job. Pure.

Rules:
- The new priority counts for turns from now on: of a job that waits, and of later attempts.
- The new deadline counts for all that depends on it: timers, the end of a job that only waits for a late response, and
  the polls of responses that run, which the other fold is told of.
- What a submission said besides never changes.
"""

from dataclasses import replace

from schemas.base import Message
from schemas.jobs import JobChanged, Turn
from schemas.responses import LAST_POLL_LEAD_MS, ResponseDeadlineMoved
from schemas.results import Reason
from streams.fold.job_states import BackingOff, Open


def changed(state: Open, event: JobChanged) -> Open | None:
    """The job with its new priority and deadline; None if it has them already."""
    spec = state.spec
    turn = spec.turn or Turn()
    if event.priority is not None and event.priority != turn.priority:
        turn = turn.model_copy(update={"priority": event.priority})
    deadline_ms = spec.deadline_at_ms if event.deadline_at_ms is None else event.deadline_at_ms
    if turn == (spec.turn or Turn()) and deadline_ms == spec.deadline_at_ms:
        return None
    kept = spec.turn if turn == Turn() and spec.turn is None else turn
    after = replace(state, spec=replace(spec, turn=kept, deadline_at_ms=deadline_ms, changes=spec.changes + 1))
    if isinstance(after, BackingOff) and after.last:
        return replace(after, retry_at_ms=deadline_ms)
    return after


def reason_of_change(event: JobChanged) -> Reason:
    """Why a job ends whose new deadline has passed."""
    by = f" (by {event.by})" if event.by else ""
    return Reason(code="deadline", message=f"its deadline was moved to a time that has passed: {event.why}{by}")


def moved(state: Open, event: JobChanged, before_ms: int) -> tuple[Message, ...]:
    """The new deadline, for each response that runs. `before_ms`: the deadline before the change."""
    spec = state.spec
    if spec.deadline_at_ms == before_ms:
        return ()
    return tuple(
        ResponseDeadlineMoved(
            id=f"{attempt.response_id}/deadline/{spec.changes}",
            at_ms=event.at_ms,
            response_id=attempt.response_id,
            job_id=event.job_id,
            last_poll_at_ms=max(0, spec.deadline_at_ms - LAST_POLL_LEAD_MS),
            change=spec.changes,
        )
        for attempt in state.attempts.running()
    )
