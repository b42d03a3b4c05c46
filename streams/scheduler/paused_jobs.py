"""Jobs that wait for pauses of operators, before they join the queue of admission.

A job passes the pauses that hold it one after the other, each in the order in which its jobs came; what is resumed goes
on along a ramp. A paused job is in no queue of its lane, so it is no probe and nothing waits behind it. Waiting jobs
are in memory only, as those of admission: after a restart their rows are due again.
"""

from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol

from streams.fold.job_states import Spec
from streams.scheduler.due import DueIndex

Key = tuple[int, bytes]

ASK_AGAIN_MS_MAX = 500
"""A pause does not announce its end, so it is asked at this interval: once per pause, not per waiting job."""

LET_GO_A_TICK_MAX = 500
"""Jobs that go on or are looked at in one tick: some milliseconds."""


class PauseGates(Protocol):
    """The pauses of operators, as `streams.workers.pauses` has them."""

    def gates(self, model: str, tenant: str, tags: tuple[str, ...]) -> tuple[str, ...]:
        """The ids of the pauses that a waiting job must pass."""

    def release(self, pause_id: str, now_ms: int) -> int:
        """0 if a job that this pause held may go on, else the milliseconds after which to ask again."""


class NoPauses:
    """For a worker without pauses."""

    def gates(self, model: str, tenant: str, tags: tuple[str, ...]) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's
        return ()

    def release(self, pause_id: str, now_ms: int) -> int:  # noqa: ARG002 - the protocol names them
        return 0


class PausedJobs:
    def __init__(self, index: DueIndex, pauses: PauseGates) -> None:
        self._index = index
        self._pauses = pauses
        self._waiting: dict[str, deque[Key]] = {}
        """By pause."""
        self._keys: set[Key] = set()
        self._ask_at_ms: dict[str, int] = {}
        self._passed: dict[Key, tuple[str, ...]] = {}
        """The pauses that jobs have passed that are not begun yet."""
        self._owned: set[int] = set()

    def hold(self, place: Key, spec: Spec, now_ms: int) -> bool:
        """Whether a pause holds the job of this row. It is then kept, and due again when it may go on."""
        if place in self._keys:
            return True
        passed = self._passed.pop(place, ())
        for pause_id in self._pauses.gates(spec.model, spec.tenant, spec.tags):
            if pause_id in passed:
                continue
            if pause_id not in self._waiting:
                wait_ms = self._pauses.release(pause_id, now_ms)
                if not wait_ms:
                    passed = (*passed, pause_id)
                    continue
                self._waiting[pause_id] = deque()
                self._ask_at_ms[pause_id] = now_ms + min(wait_ms, ASK_AGAIN_MS_MAX)
            self._waiting[pause_id].append(place)
            self._keys.add(place)
            self._passed[place] = passed
            return True
        if passed:
            self._passed[place] = passed  # It may wait for its turn yet, and is not to pass them again.
        return False

    def free(self, spec: Spec) -> bool:
        """Whether no pause holds such a job."""
        return not self._pauses.gates(spec.model, spec.tenant, spec.tags)

    def forget(self, place: Key) -> None:
        """The job of this row waits for no turn any more. Its place in a queue is passed over when it comes up."""
        self._keys.discard(place)
        self._passed.pop(place, None)

    def let_go(self, owned: Collection[int], waits: Callable[[Key], bool], now_ms: int) -> None:
        """Make due the jobs that their pauses let go now.

        :param waits: whether the row of a job still waits for a turn; a job that has ended takes no place on a ramp.
        """
        if self._owned != set(owned):
            self._owned = set(owned)
            self._passed = {place: passed for place, passed in self._passed.items() if place[0] in owned}
        left = LET_GO_A_TICK_MAX
        for pause_id in [each for each, ask_at_ms in self._ask_at_ms.items() if ask_at_ms <= now_ms]:
            waiting = self._waiting[pause_id]
            while waiting and left:
                left -= 1
                place = waiting[0]
                if place[0] not in owned or place not in self._keys or not waits(place):
                    waiting.popleft()
                    self.forget(place)
                    continue
                wait_ms = self._pauses.release(pause_id, now_ms)
                if wait_ms:
                    self._ask_at_ms[pause_id] = now_ms + min(wait_ms, ASK_AGAIN_MS_MAX)
                    break
                waiting.popleft()
                self._keys.discard(place)
                self._passed[place] = (*self._passed.get(place, ()), pause_id)
                self._index.put(*place, now_ms)
            if not waiting:
                del self._waiting[pause_id], self._ask_at_ms[pause_id]

    def next_ms(self) -> int | None:
        """When to ask a pause again; None if no job waits."""
        return min(self._ask_at_ms.values(), default=None)

    def __len__(self) -> int:
        return len(self._keys)
