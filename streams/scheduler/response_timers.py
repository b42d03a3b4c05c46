"""The timers of responses, stamped with the time of the next poll. For jobs: `streams.scheduler.job_timers`."""

from schemas.base import Message
from streams.fold.batch import RESPONSE_FOLD
from streams.fold.response_states import RunningResponse
from streams.fold.response_timer import stamped_timer
from streams.fold.rows import decode_row
from streams.policy.polls import Webhooks
from streams.scheduler.due import Due


def response_timer(webhooks: Webhooks, due: Due, row: bytes | None, now_ms: int) -> Message | None:
    """The timer for `due`; None if the row does not expect it."""
    if row is None:
        return None
    state = RESPONSE_FOLD.decode_state(decode_row(row)[0])
    # A response that may be hedged can have an earlier due time, at which it is not polled.
    expected_ms = state.poll_at_ms if isinstance(state, RunningResponse) else RESPONSE_FOLD.due_ms(state)
    if expected_ms != due.due_ms:
        return None
    return stamped_timer(webhooks, due.key.decode(), state, due.due_ms, now_ms)
