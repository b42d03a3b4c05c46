"""Timers of jobs, held back while their lane takes no creates.

A job that backs off wants its next attempt at a time; while its lane is closed, or fills again along its ramp, that time passes and no
`JobTimerFired` is written: the fold takes it later as well. So a job that waits for a lane costs no record, whatever the outage lasts, and
no processor time but its place in a queue. What is held is in memory only: after a restart or a rebalance the rows are due again, and are
held again. Its deadline is in the index all the same.
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
"""Model → 0 where a waiting job may begin its attempt, else the milliseconds after which to ask again."""

Key = tuple[int, bytes]

ASK_AGAIN_MS_MAX = 500
"""A lane that opens tells nobody here, so it is asked again so soon: a question a lane, whatever waits for it."""


class JobTimers:
    """Makes the timers of jobs (`MakeTimer`), in the order in which they came due within a lane."""

    def __init__(self, index: DueIndex, release: Release, now_ms: NowMs) -> None:
        self._index = index
        self._release = release
        self._now_ms = now_ms
        self._held: dict[str, deque[Key]] = {}
        self._keys: set[Key] = set()
        self._ask_at_ms: dict[str, int] = {}
        self._let_go: set[Key] = set()

    def __call__(self, due: Due, row: bytes | None, now_ms: int) -> Message | None:
        """The timer of what is due; None where the row does not expect it, or where it is held."""
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
        if isinstance(state, job.BackingOff) and not may_begin and self._hold(place, state, now_ms):
            self._index.put(due.partition, due.key, state.spec.deadline_at_ms)
            return None
        job_id = due.key.decode()
        return JobTimerFired(id=f"{job_id}/timer/{due_ms}", at_ms=now_ms, job_id=job_id, due_ms=due_ms)

    def let_go(self, owned: Collection[int]) -> None:
        """Make due what its lane allows now."""
        now_ms = self._now_ms()
        for model in [model for model, ask_at_ms in self._ask_at_ms.items() if ask_at_ms <= now_ms]:
            held = self._held[model]
            while held:
                if held[0][0] not in owned:
                    self._keys.discard(held.popleft())
                    continue
                wait_ms = self._release(model)
                if wait_ms:
                    self._ask_at_ms[model] = now_ms + min(wait_ms, ASK_AGAIN_MS_MAX)
                    break
                partition, key = held.popleft()
                self._keys.discard((partition, key))
                self._let_go.add((partition, key))
                self._index.put(partition, key, now_ms)
            if not held:
                del self._held[model], self._ask_at_ms[model]

    def next_ms(self) -> int | None:
        """When to ask a lane again; None where nothing is held."""
        return min(self._ask_at_ms.values(), default=None)

    def __len__(self) -> int:
        return len(self._keys)

    def _hold(self, place: Key, state: job.BackingOff, now_ms: int) -> bool:
        if now_ms >= state.spec.deadline_at_ms:
            return False
        if place in self._keys:
            return True
        model = state.spec.model
        if model not in self._held:
            wait_ms = self._release(model)
            if not wait_ms:
                return False
            self._held[model] = deque()
            self._ask_at_ms[model] = now_ms + min(wait_ms, ASK_AGAIN_MS_MAX)
        self._held[model].append(place)
        self._keys.add(place)
        return True
