"""Whether a lane takes creates: open, closed (one probe at a time), or open again and filling slowly. Pure.

Rules, before the code (ARCHITECTURE.md, "Lanes"):
- A lane is the unit that the provider limits and refuses: an account and a model. Outcomes of creates are facts on
  `lanes`. Each worker folds them (`take`) in log order, so that all workers close and open a lane at the same record.
- A condition of the account closes a lane at once where it refuses a create. Where accepted responses end with one,
  the third within a minute closes the lane: one alone is contradicted by the creates that are accepted meanwhile.
- Otherwise a lane closes when a run of consecutive creates fails for reasons other than their requests, counted over
  all workers. The run is one that chance would bring once in a thousand creates at most: five, or more where earlier
  runs show that some creates fail all the time.
- While a lane is closed, one create at a time is sent as a probe: 4, 8, 16, 32 and then 60 s after the one before, or
  at the time that the provider asked for. A probe first claims its turn on the log; the first claim for a turn in the
  log gets it. An accepted probe opens the lane. So does a refusal of the request itself, as it shows that the provider
  serves the lane.
- An opened lane fills along a ramp, each worker by its share, so that a long backlog does not start all at once. A lane
  that closes again soon continues with longer waits.
- A wait begins when a worker reads the fact, by its own clock. The writer's clock is not used.
- A wrong state of a lane costs a probe, never a job.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from math import ceil, log
from typing import Final, Literal, assert_never

from schemas.base import Cause
from schemas.lanes import CreateFact, CreateFailed, CreateServed, ProbeClaimed

FAILURES_MAX = 5
"""Creates that fail in a row before the lane closes, where few fail."""

RUN_MAX = 20
"""The same, at most, where many fail."""

BY_CHANCE = 0.001
"""Chance of a run of failures that does not close the lane, by the share of creates that fail all the time."""

RUN_UNIT: Final = 1_000
RUN_WEIGHT = 8
"""The mean run of failures is kept in thousandths; each new run has an eighth of the weight."""

ENDS_MAX = 3
ENDS_WITHIN_MS = 60_000
"""Responses that end with a condition of the account before the lane closes, and the time in which they do."""

PROBE_WAIT_MS = 4_000
PROBE_WAIT_GROWTH = 2
PROBE_WAIT_MS_MAX = 60_000
TOLD_WAIT_MS_MAX = 300_000
"""Limit of a wait that the provider asked for: during an outage such times are guesses."""

PROBE_ANSWER_MS_MAX = 120_000
PROBE_REPORT_MS = 5_000
"""A probe without an outcome is given up at the end of its create's timeout and this margin, or after
`PROBE_ANSWER_MS_MAX`: its worker has died. Then the next turn may be claimed."""

HELD_MS = 1_000
"""The minimum wait of a held create."""

CANDIDATE_WAIT_MS = 1_000
"""A worker lets a waiting job through as a probe, and the next one after this time if no turn was taken. One that comes
too late for the turn costs some records and no create, and a worker may die with its candidate."""

CANDIDATE_SPREAD_MS = 1_000
"""Workers let their jobs through at different times within this span, so that most later ones find the turn taken."""

RAMP_MS = 60_000
RAMP_FIRST = 16
RAMP_DOUBLING_MS = 6_000
"""After an opening, 16 waiting jobs begin at once and the rate doubles every 6 s: about 3,000 jobs in half a minute.
After `RAMP_MS` there is no limit."""

Breaks = Literal["held", "broken", "limited"]


def breaks_of(cause: Cause) -> Breaks | None:
    """How a failure of this cause closes a lane; None if it is the request's own or says nothing of the lane."""
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
    """The failure that closed a lane, with the provider's code and message."""

    cause: Cause
    code: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Probing:
    """The command that has the current turn."""

    command_id: str
    since_ms: int
    answer_ms: int = PROBE_ANSWER_MS_MAX


@dataclass(frozen=True, slots=True)
class Closed:
    since_ms: int
    why: Why
    probe_at_ms: int
    probes: int = 0
    probing: Probing | None = None

    @property
    def breaks(self) -> Breaks:
        return breaks_of(self.why.cause) or "broken"

    def due_ms(self) -> int:
        """When the next turn may be claimed."""
        if self.probing is None:
            return self.probe_at_ms
        return max(self.probe_at_ms, self.probing.since_ms + self.probing.answer_ms)


@dataclass(frozen=True, slots=True)
class Lane:
    """The state of a lane. Times are by the clock of the worker that read the facts."""

    failures: int = 0
    """Consecutive failed creates."""
    closed: Closed | None = None
    opened_at_ms: int | None = None
    probes_before: int = 0
    """Failed probes of the last closure."""
    turn: int = 0
    """The last probe turn that was claimed."""
    ends: int = 0
    ends_since_ms: int = 0
    """Accepted responses that ended with a condition of the account, and when the first of them did."""
    run_mean: int = RUN_UNIT
    """The mean length of the runs of failures that ended by themselves, in thousandths. A run is at least one long."""

    @property
    def failures_max(self) -> int:
        """Consecutive failures that close the lane.

        A failed create is followed by another failed one with the chance 1 - 1 / (mean run), if each fails by chance.
        """
        share = 1 - RUN_UNIT / self.run_mean
        if share <= 0:
            return FAILURES_MAX
        return min(max(FAILURES_MAX, ceil(log(BY_CHANCE) / log(share))), RUN_MAX)


@dataclass(frozen=True, slots=True)
class ReleaseProgress:
    """How many waiting jobs one worker has let begin since an opening, and when it let one through as a probe."""

    opened_at_ms: int | None = None
    begun: int = 0
    probe_due_ms: int | None = None
    candidate_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """A worker's part of the waiting jobs and its place among the workers, both from 0 to 1, by its partitions."""

    part: float = 1.0
    place: float = 0.0


WHOLE: Final = Share()


def share_of(owned: Collection[int], partitions: int) -> Share:
    """The share of a worker that owns these partitions of `jobs`. Places are distinct, as a partition has one owner."""
    return Share(len(owned) / partitions, min(owned, default=0) / partitions)


@dataclass(frozen=True, slots=True)
class Go:
    probe: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """The create must not be sent before `until_ms`."""

    until_ms: int
    why: Why


@dataclass(frozen=True, slots=True)
class Claim:
    """The create may be sent as a probe if its claim gets this turn."""

    turn: int


def send(lane: Lane, now_ms: int) -> Go | Held | Claim:
    """Whether a create may be sent now, is held, or must claim a turn."""
    closed = lane.closed
    if closed is None:
        return Go()
    if now_ms < closed.due_ms():
        return held(closed, now_ms)
    return Claim(lane.turn + 1)


def granted(lane: Lane, command_id: str, now_ms: int) -> Go | Held:
    """Whether a create may be sent after its claim was read back: it has the turn, or the lane is open."""
    closed = lane.closed
    if closed is None:
        return Go()
    if closed.probing is not None and closed.probing.command_id == command_id:
        return Go(probe=True)
    return held(closed, now_ms)


def held(closed: Closed, now_ms: int) -> Held:
    return Held(max(closed.probe_at_ms, now_ms + HELD_MS), closed.why)


def release(lane: Lane, progress: ReleaseProgress, now_ms: int, share: Share = WHOLE) -> tuple[ReleaseProgress, int]:
    """Whether a waiting job may begin: 0 if so, otherwise the milliseconds after which to ask again."""
    if lane.closed is not None:
        return _candidate(lane.closed, progress, now_ms, share)
    if lane.opened_at_ms is None or now_ms - lane.opened_at_ms >= RAMP_MS:
        return ReleaseProgress(), 0
    if progress.opened_at_ms != lane.opened_at_ms:
        progress = ReleaseProgress(opened_at_ms=lane.opened_at_ms)
    doublings = max(0, now_ms - lane.opened_at_ms) / RAMP_DOUBLING_MS
    if progress.begun < share.part * RAMP_FIRST * 2**doublings * (1 + doublings):
        return replace(progress, begun=progress.begun + 1), 0
    return progress, RAMP_DOUBLING_MS // 20


def _candidate(closed: Closed, progress: ReleaseProgress, now_ms: int, share: Share) -> tuple[ReleaseProgress, int]:
    due_ms = closed.due_ms()
    at_ms = due_ms + int(share.place * CANDIDATE_SPREAD_MS)
    if progress.probe_due_ms == due_ms:
        at_ms = max(at_ms, progress.candidate_at_ms + CANDIDATE_WAIT_MS)
    if now_ms < at_ms:
        return progress, at_ms - now_ms
    return ReleaseProgress(probe_due_ms=due_ms, candidate_at_ms=now_ms), 0


def take(lane: Lane, fact: CreateFact, at_ms: int) -> Lane:
    """Fold one fact that was read at `at_ms`. Total; returns the same object if nothing changes."""
    match fact:
        case CreateFailed():
            lane = _failed(lane, at_ms, fact)
        case CreateServed():
            lane = _served(lane, at_ms)
        case ProbeClaimed():
            if lane.closed is not None and fact.turn > lane.turn:
                answer_ms = PROBE_ANSWER_MS_MAX if fact.answer_ms is None else fact.answer_ms
                probing = Probing(fact.command_id, at_ms, min(answer_ms, PROBE_ANSWER_MS_MAX))
                lane = replace(lane, closed=replace(lane.closed, probing=probing))
        case _:
            assert_never(fact)
    return replace(lane, turn=fact.turn) if fact.turn > lane.turn else lane


def _served(lane: Lane, at_ms: int) -> Lane:
    if lane.closed is not None:
        return Lane(
            opened_at_ms=at_ms, probes_before=lane.closed.probes, turn=lane.turn, run_mean=lane.run_mean
        )  # fmt: skip
    if not lane.failures:
        return lane
    run_mean = lane.run_mean + (lane.failures * RUN_UNIT - lane.run_mean) // RUN_WEIGHT
    return replace(lane, failures=0, run_mean=run_mean)


def _failed(lane: Lane, at_ms: int, fact: CreateFailed) -> Lane:
    """Fold a failed create. Causes of the request itself (`never`, `later`) count as served; `odd` says nothing."""
    breaks = breaks_of(fact.cause)
    if breaks is None and fact.cause in ("never", "later"):
        return _served(lane, at_ms)
    if lane.closed is not None:
        return replace(lane, closed=_still_closed(lane.closed, at_ms, fact))
    if breaks is None:
        return lane
    if breaks == "held" and not fact.command_id:
        lane = _ended(lane, at_ms)
        if lane.ends < ENDS_MAX:
            return lane
    failures = lane.failures + 1
    if breaks != "held" and failures < lane.failures_max:
        return replace(lane, failures=failures)
    soon = lane.opened_at_ms is not None and at_ms - lane.opened_at_ms < RAMP_MS
    probes = lane.probes_before if soon else 0
    why = Why(fact.cause, fact.code, fact.message)
    closed = Closed(at_ms, why, at_ms + _wait_ms(probes, fact.told_ms), probes)
    return Lane(turn=lane.turn, closed=closed, run_mean=lane.run_mean)


def _ended(lane: Lane, at_ms: int) -> Lane:
    if not lane.ends or at_ms - lane.ends_since_ms > ENDS_WITHIN_MS:
        return replace(lane, ends=1, ends_since_ms=at_ms)
    return replace(lane, ends=lane.ends + 1)


def _still_closed(closed: Closed, at_ms: int, fact: CreateFailed) -> Closed:
    if closed.probing is None or closed.probing.command_id != fact.command_id:
        # The answer to a create that was sent before the lane closed. It may delay the next probe, never advance it.
        told_ms = min(fact.told_ms, TOLD_WAIT_MS_MAX)
        return replace(closed, probe_at_ms=max(closed.probe_at_ms, at_ms + told_ms)) if told_ms else closed
    if breaks_of(fact.cause) is None:
        return replace(closed, probe_at_ms=at_ms + _wait_ms(closed.probes, 0), probing=None)
    probes = closed.probes + 1
    why = Why(fact.cause, fact.code, fact.message)
    return Closed(closed.since_ms, why, at_ms + _wait_ms(probes, fact.told_ms), probes)


def _wait_ms(probes: int, told_ms: int) -> int:
    wait_ms: int = min(PROBE_WAIT_MS * PROBE_WAIT_GROWTH ** min(probes, 10), PROBE_WAIT_MS_MAX)
    return max(wait_ms, min(told_ms, TOLD_WAIT_MS_MAX))
