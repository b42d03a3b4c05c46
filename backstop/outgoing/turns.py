"""PURE: the order of deliveries: due times, a bounded number of concurrent attempts, and fair turns between endpoints.

A slow or failing endpoint must not hold up the others: each has a few slots at most, and one only after a failed
attempt, until one succeeds. Every endpoint with a due delivery gets a turn before any gets a second one, and no tenant
takes the last slots, however many endpoints it has.
"""

import heapq
from collections import deque
from dataclasses import dataclass, field
from itertools import count

from backstop.runtime.shares import Shares

RUNNING_AGAIN_MS = 1_000
"""Delay of a delivery that was requested anew while its attempt is still running."""


@dataclass(slots=True)
class _Endpoint:
    tenant: str
    ready: deque[tuple[str, int]] = field(default_factory=deque)
    """Due deliveries, each with the number of its entry."""
    running: int = 0
    failing: bool = False
    held_until_ms: int = 0
    waiting: int = 0
    """Deliveries without a running attempt, due or not."""

    def has_turn(self, slots_max: int, now_ms: int) -> bool:
        allowed = 1 if self.failing else slots_max
        return bool(self.ready) and self.running < allowed and self.held_until_ms <= now_ms


class DeliveryTurns:
    """Waiting deliveries. Call `put` and `drop` as the log says, `take` and `over` around an attempt."""

    def __init__(self, slots_max: int, endpoint_slots_max: int) -> None:
        assert 1 <= endpoint_slots_max <= slots_max
        self._shares = Shares(slots_max)
        self._endpoint_slots_max = endpoint_slots_max
        self._heap: list[tuple[int, int, str]] = []
        self._numbers = count()
        self._due: dict[str, tuple[int, str]] = {}
        """Delivery → number of its latest entry, endpoint. Older entries in the heap and in `ready` are void."""
        self._endpoints: dict[str, _Endpoint] = {}
        self._rota: deque[str] = deque()
        self._running: dict[str, str] = {}

    @property
    def running(self) -> int:
        return len(self._running)

    def waiting_of(self, endpoint_id: str) -> int:
        found = self._endpoints.get(endpoint_id)
        return 0 if found is None else found.waiting

    def put(self, delivery_id: str, endpoint_id: str, due_ms: int, tenant: str) -> None:
        """Send the delivery at `due_ms`; replaces an earlier entry."""
        self.drop(delivery_id)
        number = next(self._numbers)
        self._due[delivery_id] = (number, endpoint_id)
        self._endpoints.setdefault(endpoint_id, _Endpoint(tenant)).waiting += 1
        heapq.heappush(self._heap, (due_ms, number, delivery_id))

    def drop(self, delivery_id: str) -> None:
        found = self._due.pop(delivery_id, None)
        if found is not None:
            self._endpoints[found[1]].waiting -= 1

    def take(self, now_ms: int) -> str | None:
        """The next delivery to send, which is then running; None if none is due, or all due ones must wait."""
        self._ripen(now_ms)
        for _ in range(len(self._rota)):
            if not self._shares.free:
                return None
            endpoint_id = self._rota.popleft()
            endpoint = self._endpoints[endpoint_id]
            self._skip_void(endpoint)
            may = endpoint.has_turn(self._endpoint_slots_max, now_ms) and self._shares.ask_sparing((endpoint.tenant,))
            chosen = endpoint.ready.popleft()[0] if may else None
            if endpoint.ready:
                self._rota.append(endpoint_id)
            if chosen is not None:
                self.drop(chosen)
                self._running[chosen] = endpoint_id
                endpoint.running += 1
                return chosen
        return None

    def over(self, delivery_id: str, *, succeeded: bool | None, hold_until_ms: int = 0) -> None:
        """End an attempt whose fact is on the log. `succeeded` None: no attempt was made."""
        endpoint = self._endpoints[self._running.pop(delivery_id)]
        endpoint.running -= 1
        self._shares.give_back((endpoint.tenant,))
        if succeeded is not None:
            endpoint.failing = not succeeded
        endpoint.held_until_ms = max(endpoint.held_until_ms, hold_until_ms)

    def next_due_ms(self) -> int | None:
        """The earliest due time of the deliveries that are not yet due."""
        while self._heap and self._is_void(self._heap[0][2], self._heap[0][1]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def _ripen(self, now_ms: int) -> None:
        while self._heap and self._heap[0][0] <= now_ms:
            _, number, delivery_id = heapq.heappop(self._heap)
            if self._is_void(delivery_id, number):
                continue
            if delivery_id in self._running:
                heapq.heappush(self._heap, (now_ms + RUNNING_AGAIN_MS, number, delivery_id))
                continue
            endpoint_id = self._due[delivery_id][1]
            endpoint = self._endpoints[endpoint_id]
            if not endpoint.ready:
                self._rota.append(endpoint_id)
            endpoint.ready.append((delivery_id, number))

    def _skip_void(self, endpoint: _Endpoint) -> None:
        while endpoint.ready and self._is_void(*endpoint.ready[0]):
            endpoint.ready.popleft()

    def _is_void(self, delivery_id: str, number: int) -> bool:
        found = self._due.get(delivery_id)
        return found is None or found[0] != number
