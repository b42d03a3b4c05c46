"""The timers of responses that may be hedged: asks for permissions, and stamps them on the timers.

A response that asks in vain asks again later. That writes no record: its time is in the index only. After a restart or
a rebalance its row is due at once, and asks again.
"""

from schemas.base import Message
from schemas.hedges import HedgePermit
from schemas.responses import ResponseTimerFired
from streams.fold import response
from streams.fold.batch import RESPONSE_FOLD
from streams.fold.hedge_asks import slow_response
from streams.fold.rows import decode_row
from streams.scheduler.due import Due, DueIndex
from streams.scheduler.hedges import Hedges
from streams.scheduler.service import MakeTimer

_HEDGE = b'"hedge":'
"""How a row of a response that may be hedged differs from all others."""


class HedgeTimers:
    """Makes the timers of all responses (a `MakeTimer`)."""

    def __init__(self, polls: MakeTimer, index: DueIndex, hedges: Hedges) -> None:
        """:param polls: makes the timers of responses that no job may hedge."""
        self._polls = polls
        self._index = index
        self._hedges = hedges

    def __call__(self, due: Due, row: bytes | None, now_ms: int) -> Message | None:
        if row is None or _HEDGE not in row:
            return self._polls(due, row, now_ms)
        state = RESPONSE_FOLD.decode_state(decode_row(row)[0])
        if not isinstance(state, response.RunningResponse) or state.hedge is None:
            return self._polls(due, row, now_ms)
        row_due_ms = response.due_ms(state)
        assert row_due_ms is not None, "a running response has a next action"
        if row_due_ms > due.due_ms:
            return None
        permit, ask_at_ms = self._asked(due.key.decode(), state, now_ms)
        if now_ms >= state.poll_at_ms:
            timer = self._polls(Due(state.poll_at_ms, due.key, due.partition), row, now_ms)
            assert isinstance(timer, ResponseTimerFired), "a poll is due"
            return timer.model_copy(update={"hedge_at_ms": ask_at_ms, "permit": permit})
        if permit is None:
            self._index.put(due.partition, due.key, min(state.poll_at_ms, ask_at_ms or state.poll_at_ms))
            return None
        return ResponseTimerFired(
            id=f"{due.key.decode()}/timer/{row_due_ms}", at_ms=now_ms, response_id=due.key.decode(),
            due_ms=row_due_ms, next_poll_at_ms=state.poll_at_ms, permit=permit,
        )  # fmt: skip

    def _asked(
        self, response_id: str, state: response.RunningResponse, now_ms: int
    ) -> tuple[HedgePermit | None, int | None]:
        """A permission, or when to ask again."""
        slow = slow_response(response_id, state, now_ms)
        if slow is None:
            return None, None
        answer = self._hedges.ask(slow, now_ms)
        return (answer, None) if isinstance(answer, HedgePermit) else (None, answer.ask_at_ms)
