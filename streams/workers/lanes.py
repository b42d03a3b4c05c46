"""The lanes of one process: what its creates met, and whether the next one may go. In memory; what is lost costs a probe."""

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from runtime.clock import NowMs
from schemas.base import Cause
from streams.policy.lanes import Go, Held, Lane, Why, failed, release, send, succeeded

log = structlog.get_logger()

LANES_MAX = 1_000
"""Models are callers' words: past this many a lane is forgotten, one that is open where there is one."""

Changed = Callable[[str, Lane], None]


@dataclass(slots=True)
class Lanes:
    """By model: all creates of a process go to one account."""

    now_ms: NowMs
    changed: Changed = lambda _model, _lane: None
    """Told when a lane has closed, or opened."""
    _lanes: dict[str, Lane] = field(default_factory=dict)
    _served: set[str] = field(default_factory=set)

    def send(self, model: str) -> Go | Held:
        """May this create be sent now?"""
        lane, decision = send(self.of(model), self.now_ms())
        self._put(model, lane)
        return decision

    def release(self, model: str) -> int:
        """0 where a job that waits may begin its attempt, else the milliseconds after which to ask again."""
        lane = self._lanes.get(model)
        if lane is None:
            return 0
        lane, wait_ms = release(lane, self.now_ms())
        self._put(model, lane)
        return wait_ms

    def succeeded(self, model: str) -> None:
        if len(self._served) < LANES_MAX:
            self._served.add(model)
        if model in self._lanes:
            self._put(model, succeeded(self._lanes[model], self.now_ms()))

    def failed(self, model: str, cause: Cause, code: str, message: str = "", told_ms: int = 0) -> None:
        self._put(model, failed(self.of(model), self.now_ms(), Why(cause, code, message), told_ms))

    def ended(self, model: str, cause: Cause, code: str, message: str = "") -> None:
        """A response that ran failed for a condition of the account. Its `model` may name a dated version of the lane's."""
        if cause == "account":
            named = max((lane for lane in self._served if model.startswith(lane)), key=len, default=None)
            if named is not None:
                self.failed(named, cause, code, message)

    def served(self, model: str) -> bool:
        """Whether a create of the model was accepted since the process began."""
        return model in self._served

    def of(self, model: str) -> Lane:
        return self._lanes.get(model, Lane())

    def all(self) -> dict[str, Lane]:
        return dict(self._lanes)

    def _put(self, model: str, lane: Lane) -> None:
        before = self._lanes.get(model, Lane())
        if lane.plain:
            self._lanes.pop(model, None)
        else:
            self._lanes[model] = lane
            self._bound()
        if (before.closed is None) != (lane.closed is None):
            self._tell(model, lane)

    def _tell(self, model: str, lane: Lane) -> None:
        if lane.closed is not None:
            why = lane.closed.why
            # Only what an account is told of itself is shown: other words may repeat what a request held.
            words = {"message": why.message} if why.cause == "account" else {}
            log.error("lane_closed", model=model, cause=why.cause, code=why.code, **words)
        else:
            log.info("lane_opened", model=model)
        self.changed(model, lane)

    def _bound(self) -> None:
        if len(self._lanes) > LANES_MAX:
            forgotten = next(
                (model for model, lane in self._lanes.items() if lane.closed is None), next(iter(self._lanes))
            )
            del self._lanes[forgotten]
