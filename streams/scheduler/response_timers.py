"""The timers of responses, stamped with the time of the next poll. For jobs: `streams.scheduler.job_timers`."""

from schemas.base import Message
from schemas.responses import ResponseTimerFired
from streams.fold import response
from streams.fold.batch import RESPONSE_FOLD
from streams.fold.response import CANCEL_AGAIN_MS
from streams.fold.rows import decode_row
from streams.policy.polls import Webhooks, next_poll_at_ms
from streams.scheduler.due import Due


def response_timer(webhooks: Webhooks, due: Due, row: bytes | None, now_ms: int) -> Message | None:
    """The timer for `due`; None if the row does not expect it.

    `next_poll_at_ms` on it is the time of the poll after this one, in case this poll does not report. A report sets an
    earlier time, so that at most one poll is due.
    """
    if row is None:
        return None
    state = RESPONSE_FOLD.decode_state(decode_row(row)[0])
    # A response that may be hedged can have an earlier due time, at which it is not polled.
    expected_ms = state.poll_at_ms if isinstance(state, response.Running) else RESPONSE_FOLD.due_ms(state)
    if expected_ms != due.due_ms:
        return None
    response_id = due.key.decode()
    next_ms, policy = now_ms, webhooks.policy
    match state:
        case response.Running():
            next_ms = next_poll_at_ms(
                policy,
                response_id=response_id,
                accepted_at_ms=state.claim.claimed_at_ms,
                now_ms=now_ms,
                polls=state.polls + 1,
            )
            # After `over_at_ms` the job no longer needs the response: the cancel is repeated, less and less often.
            over_ms = now_ms - state.over_at_ms
            least_ms = CANCEL_AGAIN_MS if over_ms >= 0 else policy.report_ms
            next_ms = max(next_ms if over_ms < 0 else now_ms, now_ms + max(least_ms, over_ms))
        case response.Unclaimed():
            next_ms = next_poll_at_ms(
                policy,
                response_id=response_id,
                accepted_at_ms=state.first_seen_ms,
                now_ms=now_ms,
                polls=state.polls + 1,
            )
        case _:
            pass
    return ResponseTimerFired(
        id=f"{response_id}/timer/{due.due_ms}", at_ms=now_ms, response_id=response_id, due_ms=due.due_ms,
        next_poll_at_ms=next_ms,
    )  # fmt: skip
