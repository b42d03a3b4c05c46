"""Timers and turns of jobs: whatever would begin an attempt waits for its turn in admission first.

A job that waits or backs off has a time at which its attempt may begin. At that time it joins the queue of its lane
(`streams.policy.admission`), and no record is written; the fold accepts a later `JobTimerFired` or `JobAdmitted`. So a
job that waits costs one place in a queue, however long an outage or a backlog is. The queue is in memory only: after a
restart or a rebalance the rows are due again and join again. The index has the time by which a waiting job must be
seen again: its deadline, or sooner, when too little time is left for a run.
"""

from collections.abc import Callable, Collection
from typing import TypeGuard

from backstop.runtime.process.clock import NowMs
from schemas.base import Message
from schemas.jobs import JobAdmitted, JobFoundTooLate, JobTimerFired
from streams.fold import job
from streams.fold.batch import JOB_FOLD
from streams.fold.rows import decode_row
from streams.policy.admission import Admission, Gone, Grant, NotYet, TooLate
from streams.scheduler.admissions import waiter_of
from streams.scheduler.due import Due, DueIndex
from streams.scheduler.fallbacks import ClosedLane, LaneFallbacks
from streams.scheduler.paused_jobs import NoPauses, PausedJobs, PauseGates

Release = Callable[[str], int]
"""Model → 0 if a waiting job may begin its attempt, else the milliseconds after which to ask again."""

Key = tuple[int, bytes]

RowOf = Callable[[int, bytes], bytes | None]

ROWS_A_TICK_MAX = 500
"""Rows that one tick reads for its turns, one for each: some milliseconds, however long the queue is."""

ASK_AGAIN_MS_MAX = 500
"""A lane does not announce that it opens, so it is asked at this interval: once per lane, not per waiting job."""


class JobTimers:
    """Makes the timers and grants of jobs (a `MakeTimer`)."""

    def __init__(
        self, index: DueIndex, row_of: RowOf, release: Release, now_ms: NowMs, admission: Admission,
        pauses: PauseGates | None = None, closed: ClosedLane = lambda _model: None,
    ) -> None:  # fmt: skip
        """:param row_of: the row of a job in an owned partition; None if there is none."""
        self._fallbacks = LaneFallbacks(closed)
        self._index = index
        self._row_of = row_of
        self._release = release
        self._now_ms = now_ms
        self._admission = admission
        self._ask_at_ms: dict[str, int] = {}
        self._granted: dict[Key, Grant | TooLate] = {}
        self._paused = PausedJobs(index, pauses or NoPauses())

    def __call__(self, due: Due, row: bytes | None, now_ms: int) -> Message | None:
        """The timer or grant for `due`; None if the row expects none, or if the job waits for its turn."""
        place = (due.partition, due.key)
        granted = self._granted.pop(place, None)
        if row is None:
            self._give_back(place, granted, now_ms)
            return None
        state = JOB_FOLD.decode_state(decode_row(row)[0])
        due_ms = job.due_ms(state)
        if due_ms is None or due_ms > due.due_ms:
            self._give_back(place, granted, now_ms)
            self._index.put(due.partition, due.key, due_ms)
            return None
        if _turns(state) and now_ms < state.spec.deadline_at_ms:
            return self._begins(place, state, granted, due_ms, now_ms)
        self._leaves(place, granted, now_ms)
        job_id = due.key.decode()
        return JobTimerFired(id=f"{job_id}/timer/{due_ms}", at_ms=now_ms, job_id=job_id, due_ms=due_ms)

    def _begins(
        self, place: Key, state: job.Waiting | job.BackingOff, granted: Grant | TooLate | None, due_ms: int, now_ms: int
    ) -> Message | None:  # fmt: skip
        """What begins the attempt that is due, or ends the wait for it; None if the job waits."""
        job_id = place[1].decode()
        if isinstance(granted, TooLate) and state.spec.deadline_at_ms - now_ms >= granted.needs_ms:
            granted = None  # Its deadline was extended meanwhile.
        if not isinstance(granted, TooLate) and self._paused.hold(place, state.spec, now_ms):
            self._give_back(place, granted, now_ms)
            self._admission.drop(place)
            self._index.put(*place, state.spec.deadline_at_ms)
            return None
        taken = self._fallbacks.taken(job_id, state, now_ms)
        if taken is not None:
            self._leaves(place, granted, now_ms)
            return taken
        turn = granted or self._turn(place, state, now_ms)
        if turn is None:
            self._index.put(*place, self._seen_again_ms(state, now_ms))
            return None
        self._paused.forget(place)
        return self._fact(job_id, state, turn, due_ms, now_ms)

    def at_once(self, place: Key, state: job.Waiting, now_ms: int) -> JobAdmitted | None:
        """The grant of a job that is being folded, if it has its turn now; else it joins the queue, or is due later."""
        due_ms, job_id = job.due_ms(state), place[1].decode()
        if due_ms is None or due_ms > now_ms or now_ms >= state.spec.deadline_at_ms:
            return None
        if not self._paused.free(state.spec) or self._fallbacks.taken(job_id, state, now_ms) is not None:
            return None
        turn = self._turn(place, state, now_ms)
        return _admitted(job_id, turn, now_ms) if isinstance(turn, Grant) else None

    def let_go(self, owned: Collection[int]) -> None:
        """Make due the waiting jobs that have their turn now."""
        now_ms = self._now_ms()
        self._paused.let_go(owned, self._waits_in(owned), now_ms)
        reads = ROWS_A_TICK_MAX
        self._ask_at_ms = {model: at_ms for model, at_ms in self._ask_at_ms.items() if at_ms > now_ms}
        for model in list(self._admission.models()):
            if model in self._ask_at_ms:
                continue
            while reads:
                reads -= 1
                turn = self._admission.next(model, now_ms, self._release, self._waits_in(owned))
                if isinstance(turn, Gone):
                    continue
                if not isinstance(turn, Grant | TooLate):
                    self._ask_later(model, turn, now_ms)
                    break
                waiter = turn.waiter
                self._granted[waiter.partition, waiter.key] = turn
                self._index.put(waiter.partition, waiter.key, now_ms)

    def next_ms(self) -> int | None:
        """When to ask a lane or a pause again; None if no job waits."""
        now_ms, paused_ms = self._now_ms(), self._paused.next_ms()
        asked = [self._ask_at_ms.get(model, now_ms) for model in self._admission.models()]
        return min(asked if paused_ms is None else [*asked, paused_ms], default=None)

    def __len__(self) -> int:
        return len(self._admission) + len(self._paused)

    def _turn(self, place: Key, state: job.Waiting | job.BackingOff, now_ms: int) -> Grant | TooLate | None:
        """Join the queue. A job that finds it empty may have its turn at once."""
        admission, model = self._admission, state.spec.model
        first = not admission.waiting(model)
        admission.put(waiter_of(*place, state), now_ms)
        needs_ms = admission.run_times.least_ms(model)
        if state.spec.deadline_at_ms - now_ms < needs_ms and isinstance(state, job.Waiting):
            waiter = waiter_of(*place, state)
            admission.drop(place)
            return TooLate(waiter, needs_ms)
        if not first:
            return None
        turn = admission.next(model, now_ms, self._release)
        if isinstance(turn, Grant | TooLate):
            return turn
        if isinstance(turn, NotYet):
            self._ask_later(model, turn, now_ms)
        return None

    def _fact(
        self, job_id: str, state: job.Waiting | job.BackingOff, turn: Grant | TooLate, due_ms: int, now_ms: int
    ) -> Message:  # fmt: skip
        if isinstance(state, job.BackingOff):
            return JobTimerFired(id=f"{job_id}/timer/{due_ms}", at_ms=now_ms, job_id=job_id, due_ms=due_ms)
        if isinstance(turn, TooLate):
            return JobFoundTooLate(id=f"{job_id}/too_late", at_ms=now_ms, job_id=job_id, needs_ms=turn.needs_ms)
        return _admitted(job_id, turn, now_ms)

    def _leaves(self, place: Key, granted: Grant | TooLate | None, now_ms: int) -> None:
        """The job no longer waits for a turn."""
        self._give_back(place, granted, now_ms)
        self._admission.drop(place)
        self._paused.forget(place)

    def _seen_again_ms(self, state: job.Waiting | job.BackingOff, now_ms: int) -> int:
        deadline_ms, fallback_ms = state.spec.deadline_at_ms, self._fallbacks.asked_again_ms(state, now_ms)
        if isinstance(state, job.BackingOff):
            return min(deadline_ms, fallback_ms)
        least_ms = self._admission.run_times.least_ms(state.spec.model)
        return min(deadline_ms + 1 - least_ms, deadline_ms, fallback_ms)

    def _ask_later(self, model: str, turn: NotYet | None, now_ms: int) -> None:
        if turn is not None:
            self._ask_at_ms[model] = now_ms + min(turn.ms, ASK_AGAIN_MS_MAX)

    def _give_back(self, place: Key, granted: Grant | TooLate | None, now_ms: int) -> None:
        if isinstance(granted, Grant):
            self._admission.refused(place, now_ms)

    def _waits_in(self, owned: Collection[int]) -> Callable[[Key], bool]:
        def waits(place: Key) -> bool:
            if place[0] not in owned:
                return False
            row = self._row_of(*place)
            return row is not None and _turns(JOB_FOLD.decode_state(decode_row(row)[0]))

        return waits


def _admitted(job_id: str, turn: Grant, now_ms: int) -> JobAdmitted:
    return JobAdmitted(
        id=f"{job_id}/admitted", at_ms=now_ms, job_id=job_id, reserved_tokens=round(turn.tokens),
        waited_for=turn.waited_for,
    )  # fmt: skip


def _turns(state: job.JobState) -> TypeGuard[job.Waiting | job.BackingOff]:
    """Whether the job waits for a turn to begin an attempt."""
    return isinstance(state, job.Waiting | job.BackingOff)
