"""Which creates operators have paused, and how what was paused begins again. Pure.

Rules, before the code:
- The last fact of a scope in its partition of `pauses` is its state. Scopes may overlap: a create is sent only when no
  pause holds it, so the end of one pause does not end another.
- A pause ends no job and outranks a probe: a create that is paused is not offered to its lane.
- After a pause, what it held begins along the ramp of an opened lane, so that a long backlog does not start at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import assert_never

from schemas.pauses import CreatesPaused, CreatesResumed, PauseFact
from streams.policy.lanes import RAMP_MS, WHOLE, Lane, ReleaseProgress, Share, release

PAUSES_MAX = 200
"""Pauses in force at one time. Each job that is due is compared with each of them."""

ASK_AGAIN_MS = 500
"""Interval at which jobs of a pause in force ask again."""


@dataclass(slots=True)
class PauseBook:
    """The pauses in force by id, and those that ended within the ramp with the time when their end was read."""

    active: dict[str, CreatesPaused] = field(default_factory=dict)
    ended: dict[str, tuple[CreatesResumed, int]] = field(default_factory=dict)

    def take(self, fact: PauseFact, at_ms: int) -> None:
        """Fold the next fact of the log, which was read at `at_ms`."""
        pause_id = fact.scope.pause_id
        match fact:
            case CreatesPaused():
                self.active[pause_id] = fact
                self.ended.pop(pause_id, None)
            case CreatesResumed():
                self.active.pop(pause_id, None)
                self.ended[pause_id] = (fact, at_ms)
            case _:
                assert_never(fact)
        for over in [key for key, (_, ended_ms) in self.ended.items() if at_ms - ended_ms >= RAMP_MS]:
            del self.ended[over]

    def holding(
        self, *, model: str, tenant: str, tags: tuple[str, ...], account: str | None = None
    ) -> Iterable[CreatesPaused]:
        """The pauses in force that hold such a create, in order of their ids. `account` None: that of any worker."""
        for pause_id in sorted(self.active):
            pause = self.active[pause_id]
            ours = pause.scope.account is None or account is None or pause.scope.account == account
            if ours and pause.scope.takes(model=model, tenant=tenant, tags=tags):
                yield pause

    def gates(self, *, model: str, tenant: str, tags: tuple[str, ...], account: str) -> tuple[str, ...]:
        """The ids of pauses that such a job must pass before its next attempt: those in force, and those that ended
        within the ramp.
        """
        if not self.active and not self.ended:
            return ()
        scopes = {key: fact.scope for key, fact in self.active.items()}
        scopes |= {key: fact.scope for key, (fact, _) in self.ended.items()}
        return tuple(
            key
            for key, scope in sorted(scopes.items())
            if scope.account in (None, account) and scope.takes(model=model, tenant=tenant, tags=tags)
        )

    def release(
        self, pause_id: str, progress: ReleaseProgress, now_ms: int, share: Share = WHOLE
    ) -> tuple[ReleaseProgress, int]:
        """Whether a job that this pause held may begin: 0 if so, else the milliseconds after which to ask again."""
        if pause_id in self.active:
            return ReleaseProgress(), ASK_AGAIN_MS
        _, ended_ms = self.ended.get(pause_id, (None, None))
        return release(Lane(opened_at_ms=ended_ms), progress, now_ms, share)
