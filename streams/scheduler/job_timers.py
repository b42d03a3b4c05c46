"""Timers of jobs, deferred while their lane takes no creates.

A job that backs off has a time for its next attempt. While its lane is closed, or ramps up after an outage, no
`JobTimerFired` is written at that time; the fold accepts a later one. So a job that waits for a lane costs one place in
a queue and no records, however long the outage is. Deferred jobs are in memory only: after a restart or a rebalance
their rows are due again and are deferred again. The index has a deferred job's deadline, so the deadline's timer is not
late. A job that ended while it was deferred takes no turn: a probe or a place on the ramp is for a job that waits.
"""

from collections import deque
from collections.abc import Callable, Collection

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

ASK_AGAIN_MS_MAX = 500
"""A lane does not announce that it opens, so it is asked at this interval: once per lane, not per waiting job."""

ROWS_A_TICK_MAX = 500
"""Rows of deferred jobs that are read in one tick: some milliseconds."""


class JobTimers:
    """Makes the timers of jobs (a `MakeTimer`). Deferred jobs of a lane are released in the order of their deferral."""

    def __init__(self, index: DueIndex, row_of: RowOf, release: Release, now_ms: NowMs) -> None:
        self._index = index
        self._row_of = row_of
        self._release = release
        self._now_ms = now_ms
        self._deferred: dict[str, deque[Key]] = {}
        self._keys: set[Key] = set()
        self._ask_at_ms: dict[str, int] = {}
        self._let_go: set[Key] = set()

    def __call__(self, due: Due, row: bytes | None, now_ms: int) -> Message | None:
        """The timer for `due`; None if the row does not expect it, or if the job is deferred."""
        place = (due.partition, due.key)
        may_begin = place in self._let_go
        self._let_go.discard(place)
        if row is None:
            return None
        state = JOB_FOLD.decode_state(decode_row(row)[0])
        due_ms = job.due_ms(state)
        if due_ms is None or due_ms > due.due_ms:
            self._index.put(due.partition, due.key, due_ms)
            return None
        if isinstance(state, job.BackingOff) and not may_begin and self._defer(place, state, now_ms):
            self._index.put(due.partition, due.key, state.spec.deadline_at_ms)
            return None
        job_id = due.key.decode()
        return JobTimerFired(id=f"{job_id}/timer/{due_ms}", at_ms=now_ms, job_id=job_id, due_ms=due_ms)

    def let_go(self, owned: Collection[int]) -> None:
        """Make due the deferred jobs that their lanes allow now."""
        now_ms = self._now_ms()
        reads = ROWS_A_TICK_MAX
        for model in [model for model, ask_at_ms in self._ask_at_ms.items() if ask_at_ms <= now_ms]:
            deferred = self._deferred[model]
            while deferred and reads:
                reads -= 1
                if deferred[0][0] not in owned or not self._waits(deferred[0]):
                    self._keys.discard(deferred.popleft())
                    continue
                wait_ms = self._release(model)
                if wait_ms:
                    self._ask_at_ms[model] = now_ms + min(wait_ms, ASK_AGAIN_MS_MAX)
                    break
                partition, key = deferred.popleft()
                self._keys.discard((partition, key))
                self._let_go.add((partition, key))
                self._index.put(partition, key, now_ms)
            if not deferred:
                del self._deferred[model], self._ask_at_ms[model]

    def next_ms(self) -> int | None:
        """When to ask a lane again; None if no job is deferred."""
        return min(self._ask_at_ms.values(), default=None)

    def __len__(self) -> int:
        return len(self._keys)

    def _waits(self, place: Key) -> bool:
        row = self._row_of(*place)
        return row is not None and isinstance(JOB_FOLD.decode_state(decode_row(row)[0]), job.BackingOff)

    def _defer(self, place: Key, state: job.BackingOff, now_ms: int) -> bool:
        if now_ms >= state.spec.deadline_at_ms:
            return False
        if place in self._keys:
            return True
        model = state.spec.model
        if model not in self._deferred:
            wait_ms = self._release(model)
            if not wait_ms:
                return False
            self._deferred[model] = deque()
            self._ask_at_ms[model] = now_ms + min(wait_ms, ASK_AGAIN_MS_MAX)
        self._deferred[model].append(place)
        self._keys.add(place)
        return True
