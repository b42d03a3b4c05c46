"""Timers of jobs, deferred while their lane takes no creates, or an operator has paused them.

A job that backs off has a time for its next attempt. While its lane is closed, or ramps up after an outage, no
`JobTimerFired` is written at that time; the fold accepts a later one. So a job that waits for a lane costs one place in
a queue and no records, however long the outage is. Deferred jobs are in memory only: after a restart or a rebalance
their rows are due again and are deferred again. The index has a deferred job's deadline, so the deadline's timer is not
late. A job that ended while it was deferred takes no turn: a probe or a place on the ramp is for a job that waits.

A job waits at one gate after the other: the pauses that hold it, then its lane. So a paused job is no probe of its
lane, and jobs that no pause holds pass those of the same lane that wait for one.
"""

from collections import deque
from collections.abc import Callable, Collection
from typing import Literal, Protocol

from backstop.runtime.process.clock import NowMs
from schemas.base import Message
from schemas.jobs import JobTimerFired
from streams.fold import job
from streams.fold.batch import JOB_FOLD
from streams.fold.rows import decode_row
from streams.scheduler.due import Due, DueIndex

Release = Callable[[str], int]
"""Model → 0 if a waiting job may begin its attempt, else the milliseconds after which to ask again."""

RowOf = Callable[[int, bytes], bytes | None]
"""Partition, key → the row; None without one."""

Key = tuple[int, bytes]

Gate = tuple[Literal["pause", "lane"], str]
"""The id of a pause, or the model of a lane."""


class PauseGates(Protocol):
    """The pauses of operators, as `streams.workers.pauses` has them."""

    def gates(self, model: str, tenant: str, tags: tuple[str, ...]) -> tuple[str, ...]:
        """The ids of the pauses that a waiting job must pass."""

    def release(self, pause_id: str, now_ms: int) -> int:
        """0 if a job that this pause held may go on, else the milliseconds after which to ask again."""


ASK_AGAIN_MS_MAX = 500
"""A lane does not announce that it opens, so it is asked at this interval: once per lane, not per waiting job."""

ROWS_A_TICK_MAX = 500
"""Rows of deferred jobs that are read in one tick: some milliseconds."""


class JobTimers:
    """Makes the timers of jobs (a `MakeTimer`). Deferred jobs of a gate are released in the order of their deferral."""

    def __init__(
        self, index: DueIndex, row_of: RowOf, release: Release, now_ms: NowMs, pauses: PauseGates | None = None
    ) -> None:  # fmt: skip
        self._index = index
        self._row_of = row_of
        self._release_of_lane = release
        self._pauses = pauses
        self._now_ms = now_ms
        self._deferred: dict[Gate, deque[Key]] = {}
        self._keys: set[Key] = set()
        self._ask_at_ms: dict[Gate, int] = {}
        self._passed: dict[Key, tuple[Gate, ...]] = {}
        """The gates that jobs that are due now have passed."""

    def __call__(self, due: Due, row: bytes | None, now_ms: int) -> Message | None:
        """The timer for `due`; None if the row does not expect it, or if the job is deferred."""
        place = (due.partition, due.key)
        passed = self._passed.pop(place, ())
        if row is None:
            return None
        state = JOB_FOLD.decode_state(decode_row(row)[0])
        due_ms = job.due_ms(state)
        if due_ms is None or due_ms > due.due_ms:
            self._index.put(due.partition, due.key, due_ms)
            return None
        if isinstance(state, job.BackingOff) and self._defer(place, state, now_ms, passed):
            self._index.put(due.partition, due.key, state.spec.deadline_at_ms)
            return None
        job_id = due.key.decode()
        return JobTimerFired(id=f"{job_id}/timer/{due_ms}", at_ms=now_ms, job_id=job_id, due_ms=due_ms)

    def let_go(self, owned: Collection[int]) -> None:
        """Make due the deferred jobs that their lanes allow now."""
        now_ms = self._now_ms()
        reads = ROWS_A_TICK_MAX
        for gate in [gate for gate, ask_at_ms in self._ask_at_ms.items() if ask_at_ms <= now_ms]:
            deferred = self._deferred[gate]
            while deferred and reads:
                reads -= 1
                if deferred[0][0] not in owned or not self._waits(deferred[0]):
                    gone = deferred.popleft()
                    self._keys.discard(gone)
                    self._passed.pop(gone, None)
                    continue
                wait_ms = self._release(gate, now_ms)
                if wait_ms:
                    self._ask_at_ms[gate] = now_ms + min(wait_ms, ASK_AGAIN_MS_MAX)
                    break
                partition, key = deferred.popleft()
                self._keys.discard((partition, key))
                self._passed[partition, key] = (*self._passed.get((partition, key), ()), gate)
                self._index.put(partition, key, now_ms)
            if not deferred:
                del self._deferred[gate], self._ask_at_ms[gate]

    def next_ms(self) -> int | None:
        """When to ask a gate again; None if no job is deferred."""
        return min(self._ask_at_ms.values(), default=None)

    def __len__(self) -> int:
        return len(self._keys)

    def _waits(self, place: Key) -> bool:
        row = self._row_of(*place)
        return row is not None and isinstance(JOB_FOLD.decode_state(decode_row(row)[0]), job.BackingOff)

    def _defer(self, place: Key, state: job.BackingOff, now_ms: int, passed: tuple[Gate, ...]) -> bool:
        if now_ms >= state.spec.deadline_at_ms:
            return False
        if place in self._keys:
            self._passed[place] = passed
            return True
        for gate in self._gates(state.spec):
            if gate in passed:
                continue
            if gate not in self._deferred:
                wait_ms = self._release(gate, now_ms)
                if not wait_ms:
                    passed = (*passed, gate)
                    continue
                self._deferred[gate] = deque()
                self._ask_at_ms[gate] = now_ms + min(wait_ms, ASK_AGAIN_MS_MAX)
            self._deferred[gate].append(place)
            self._keys.add(place)
            self._passed[place] = passed
            return True
        return False

    def _gates(self, spec: job.Spec) -> list[Gate]:
        """What the job must pass, in this order."""
        paused = () if self._pauses is None else self._pauses.gates(spec.model, spec.tenant, spec.tags)
        return [*(("pause", pause_id) for pause_id in paused), ("lane", spec.model)]

    def _release(self, gate: Gate, now_ms: int) -> int:
        kind, name = gate
        if kind == "lane" or self._pauses is None:
            return self._release_of_lane(name)
        return self._pauses.release(name, now_ms)
