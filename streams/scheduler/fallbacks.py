"""Jobs that wait for a lane which stays closed go on with their next fallback, by a fact.

Rules: `streams.fold.job_fallbacks`. A pause of an operator or a budget is no reason: what it holds waits.
"""

from collections.abc import Callable

from schemas.jobs import FallbackTaken
from streams.fold.job_fallbacks import fallback_left
from streams.fold.job_states import BackingOff, Waiting
from streams.policy.lanes import Closed

CODE_CHARS_MAX = 200
NEVER_MS = 2**52

ClosedLane = Callable[[str], Closed | None]
"""Model → how and since when its lane is closed; None for an open one."""


class LaneFallbacks:
    def __init__(self, closed: ClosedLane) -> None:
        self._closed = closed

    def taken(self, job_id: str, state: Waiting | BackingOff, now_ms: int) -> FallbackTaken | None:
        """The fact by which a job that is due leaves the lane of its model; None if it stays."""
        closed = self._closed(state.spec.model)
        if closed is None or now_ms < self.asked_again_ms(state, now_ms):
            return None
        number = len(state.spec.fell) + 1
        return FallbackTaken(
            id=f"{job_id}/fallback/{number}", at_ms=now_ms, job_id=job_id, number=number,
            closed_ms=max(0, now_ms - closed.since_ms), code=closed.why.code[:CODE_CHARS_MAX],
        )  # fmt: skip

    def asked_again_ms(self, state: Waiting | BackingOff, now_ms: int) -> int:
        """When a job that waits may take a fallback; with an open lane, when to look at it again."""
        spec = state.spec
        if spec.fallback is None or fallback_left(spec) is None or (isinstance(state, BackingOff) and state.last):
            return NEVER_MS
        closed = self._closed(spec.model)
        return (now_ms if closed is None else closed.since_ms) + spec.fallback.after_ms
