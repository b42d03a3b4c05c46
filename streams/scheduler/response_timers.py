"""The timers of responses, stamped with the time of the next poll. For jobs: `streams.scheduler.job_timers`."""

from dataclasses import replace

from schemas.base import Message
from schemas.responses import ResponseTimerFired
from streams.fold import response
from streams.fold.batch import RESPONSE_FOLD
from streams.fold.response import CANCEL_AGAIN_MS
from streams.fold.rows import decode_row
from streams.policy.polls import NextPoll, Webhooks
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
    following = NextPoll(now_ms)
    match state:
        case response.Running():
            following = webhooks.next_poll(
                response_id=response_id,
                latency_class=state.claim.latency_class,
                accepted_at_ms=state.claim.claimed_at_ms,
                now_ms=now_ms,
                polls=state.polls + 1,
            )
            # After `over_at_ms` the job no longer needs the response: the cancel is repeated, less and less often.
            over_ms = now_ms - state.over_at_ms
            if over_ms >= 0:
                following = NextPoll(now_ms + max(CANCEL_AGAIN_MS, over_ms))
            else:
                following = replace(following, at_ms=max(following.at_ms, now_ms + webhooks.policy.report_ms))
        case response.Unclaimed():
            following = webhooks.next_poll(
                response_id=response_id,
                latency_class=(),
                accepted_at_ms=state.first_seen_ms,
                now_ms=now_ms,
                polls=state.polls + 1,
            )
        case _:
            pass
    return ResponseTimerFired(
        id=f"{response_id}/timer/{due.due_ms}", at_ms=now_ms, response_id=response_id, due_ms=due.due_ms,
        next_poll_at_ms=following.at_ms, poll_basis=following.basis,
    )  # fmt: skip
