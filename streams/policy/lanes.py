"""Whether a lane takes creates now: open, closed (one probe at a time), or open again and filling slowly. Pure.

Rules, before the code (ARCHITECTURE.md, "Lanes"):
- A lane is what the provider limits and refuses as one: the account and the model. A condition of the account closes it at once; creates
  that fail in a row for a reason that is not the request's close it at the fifth.
- While it is closed one create at a time goes out as a probe, 1, 2, 4 … 60 s after the one before, or when the provider said. What the
  probe meets decides: a refusal of that one request opens the lane as an acceptance does, as somebody is at home.
- Once open it fills along a ramp, so that an hour's backlog is no wave. A lane that closes again soon goes on with longer waits.
- A wrong belief costs a probe, never a job.
"""

from dataclasses import dataclass, replace
from typing import Literal, assert_never

from schemas.base import Cause

FAILURES_MAX = 5
"""Creates that fail in a row before the lane closes."""

PROBE_WAIT_MS = 1_000
PROBE_WAIT_MS_MAX = 60_000
TOLD_WAIT_MS_MAX = 300_000
"""A provider that names a later time is asked after this long all the same: times that are told in an outage are guesses."""

PROBE_ANSWER_MS_MAX = 120_000
"""A probe that nobody has heard of for so long is given up, and another goes out."""

CANDIDATE_WAIT_MS = 5_000
"""From one waiting job that is let through as a probe to the next, if nothing was heard of the first."""

RAMP_MS = 60_000
RAMP_FIRST = 16
RAMP_DOUBLING_MS = 6_000
"""Of what waits, 16 begin at once after an opening, and the rate doubles every 6 s: 4 500 jobs in half a minute; no bound after a minute."""

Breaks = Literal["held", "broken", "limited"]


def breaks_of(cause: Cause) -> Breaks | None:
    """How a lane closes where creates fail for this; None where the cause is the request's own, or says nothing."""
    match cause:
        case "account":
            return "held"
        case "overloaded" | "faulty" | "unsent":
            return "broken"
        case "limited":
            return "limited"
        case "never" | "later" | "odd" | "held":
            return None
        case _:
            assert_never(cause)


@dataclass(frozen=True, slots=True)
class Why:
    """What closed a lane, in the provider's words."""

    cause: Cause
    code: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Closed:
    since_ms: int
    why: Why
    probe_at_ms: int
    probes: int = 0
    probing_since_ms: int | None = None
    candidate_at_ms: int | None = None
    """When a waiting job was last let through for a probe."""

    @property
    def breaks(self) -> Breaks:
        return breaks_of(self.why.cause) or "broken"


@dataclass(frozen=True, slots=True)
class Lane:
    failures: int = 0
    """Creates that failed in a row."""
    closed: Closed | None = None
    opened_at_ms: int | None = None
    ramped: int = 0
    """Waiting jobs that began since it opened."""
    probes_before: int = 0
    """Probes of the last closure."""

    @property
    def plain(self) -> bool:
        """As a lane that was never heard of."""
        return self == Lane()


@dataclass(frozen=True, slots=True)
class Go:
    probe: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """Not now: nothing is sent before `until_ms`."""

    until_ms: int
    why: Why


def send(lane: Lane, now_ms: int) -> tuple[Lane, Go | Held]:
    """A create command is at hand: may it be sent?"""
    closed = lane.closed
    if closed is None:
        return lane, Go()
    probing = closed.probing_since_ms is not None and now_ms - closed.probing_since_ms < PROBE_ANSWER_MS_MAX
    if probing or now_ms < closed.probe_at_ms:
        return lane, Held(max(closed.probe_at_ms, now_ms + PROBE_WAIT_MS), closed.why)
    return replace(lane, closed=replace(closed, probing_since_ms=now_ms)), Go(probe=True)


def release(lane: Lane, now_ms: int) -> tuple[Lane, int]:
    """A waiting job's time has come: 0 where it may begin, else the milliseconds after which to ask again."""
    closed = lane.closed
    if closed is not None:
        if closed.candidate_at_ms is not None:
            wait_ms = max(closed.probe_at_ms, closed.candidate_at_ms + CANDIDATE_WAIT_MS) - now_ms
        else:
            wait_ms = closed.probe_at_ms - now_ms
        if wait_ms > 0:
            return lane, wait_ms
        return replace(lane, closed=replace(closed, candidate_at_ms=now_ms)), 0
    if lane.opened_at_ms is None:
        return lane, 0
    since_ms = now_ms - lane.opened_at_ms
    if since_ms >= RAMP_MS:
        return Lane(failures=lane.failures), 0
    if lane.ramped < RAMP_FIRST * 2 ** (since_ms / RAMP_DOUBLING_MS) * (1 + since_ms / RAMP_DOUBLING_MS):
        return replace(lane, ramped=lane.ramped + 1), 0
    return lane, RAMP_DOUBLING_MS // 20


def succeeded(lane: Lane, now_ms: int) -> Lane:
    """A create was accepted, or refused for what was in it: the provider serves the lane."""
    if lane.closed is not None:
        return Lane(opened_at_ms=now_ms, probes_before=lane.closed.probes)
    return replace(lane, failures=0) if lane.failures else lane


def failed(lane: Lane, now_ms: int, why: Why, told_ms: int = 0) -> Lane:
    """A create met what every other one of the lane would meet, or nobody knows what it met (`faulty`)."""
    breaks = breaks_of(why.cause)
    if breaks is None:
        return succeeded(lane, now_ms) if why.cause in ("never", "later") else _probe_over(lane)
    failures = lane.failures + 1
    if lane.closed is None and breaks != "held" and failures < FAILURES_MAX:
        return replace(lane, failures=failures)
    since_ms, probes = now_ms, 0
    if lane.closed is not None:
        since_ms, probes = lane.closed.since_ms, lane.closed.probes + (lane.closed.probing_since_ms is not None)
    elif lane.opened_at_ms is not None and now_ms - lane.opened_at_ms < RAMP_MS:
        probes = lane.probes_before
    wait_ms = min(PROBE_WAIT_MS << min(probes, 10), PROBE_WAIT_MS_MAX)
    probe_at_ms = now_ms + max(wait_ms, min(told_ms, TOLD_WAIT_MS_MAX))
    if lane.closed is not None and lane.closed.probing_since_ms is None:
        probe_at_ms = max(probe_at_ms, lane.closed.probe_at_ms)  # An answer to what was sent before it closed.
    return Lane(failures=failures, closed=Closed(since_ms, why, probe_at_ms, probes))


def _probe_over(lane: Lane) -> Lane:
    """The probe met something that says nothing about the lane: the next waiting job may try."""
    if lane.closed is None or lane.closed.probing_since_ms is None:
        return lane
    return replace(lane, closed=replace(lane.closed, probing_since_ms=None))
