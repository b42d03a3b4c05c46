"""Fair turns by weighted counters of what each was served (Sheng et al., OSDI 2024). Pure.

Rules:
- Of those that wait, the one with the least counter goes next. Serving raises its counter by the amount over its
  weight, so that over time each gets its weight's share of the amount, however large its requests are.
- One that comes back begins at the least counter of those that wait, or, where none waits, at the level that the least
  counter has reached before: to be idle earns no credit. A counter that is higher stays: to leave and come back sheds
  no debt.
- Of equal counters the greater weight goes first, so that one that comes back is not behind all that wait.
- A correction gives back what was counted too much, but puts a member below the level by one request of the greatest
  weight at most. Without this bound, requests that were counted a hundredfold before others came would let their member
  go a hundred times before these. Little is lost by it where estimates are right on average.
- So a member that rarely waits is passed, by each other one, by one request and by the other's weight's share of its
  own last request at most, and by one request for each that the other has in flight.
- The state of those that do not wait is bounded.
"""

import heapq
from typing import Generic, TypeVar

K = TypeVar("K")

COUNTERS_MAX = 20_000
"""Counters kept of those that do not wait. Beyond it the oldest is forgotten: it begins anew, without credit."""


class Turns(Generic[K]):
    """Whose turn it is among the members that wait. Each operation is O(log n)."""

    def __init__(self) -> None:
        self._counters: dict[K, float] = {}
        self._weights: dict[K, float] = {}
        """Of those that wait."""
        self._weights_known: dict[K, float] = {}
        """Of each member with a counter: what is served counts by it also when the member waits no more."""
        self._weight_max = 0.0
        """The greatest that ever waited."""
        self._heap: list[tuple[float, float, int, K]] = []
        """Counter, weight (negative), order of entry, member."""
        self._entries = 0
        self._level = 0.0
        """The highest that the least counter of those that wait has been."""

    def join(self, member: K, weight: float = 1.0) -> None:
        """`member` waits from now on."""
        if member in self._weights:
            return
        first = self.first()
        least = self._level if first is None else self._counters[first]
        self._counters[member] = max(self._counters.pop(member, least), least)
        self._weights[member] = self._weights_known[member] = weight
        self._weight_max = max(self._weight_max, weight)
        self._push(member)

    def leave(self, member: K) -> None:
        """`member` no longer waits."""
        if self._weights.pop(member, None) is None:
            return
        self._counters[member] = self._counters.pop(member)  # The last in the order of those that left.
        if len(self._counters) > COUNTERS_MAX + len(self._weights):
            gone = next((each for each in self._counters if each not in self._weights), None)
            if gone is not None:
                del self._counters[gone], self._weights_known[gone]

    def first(self) -> K | None:
        """The waiting member whose turn it is."""
        while self._heap:
            counter, _, _, member = self._heap[0]
            if member in self._weights and self._counters[member] == counter:
                self._level = max(self._level, counter)
                return member
            heapq.heappop(self._heap)
        return None

    def served(self, member: K, amount: float) -> None:
        """Count `amount`."""
        counter = self._counters.get(member)
        if counter is not None:
            self._put(member, counter + amount / self._weights_known[member])

    def corrected(self, member: K, counted: float, used: float) -> None:
        """A request that was counted as `counted` has used `used`."""
        counter = self._counters.get(member)
        if counter is not None:
            weight = self._weights_known[member]
            least = min(counter, self._level - used / self._weight_max)
            self._put(member, max(counter + (used - counted) / weight, least))

    def _put(self, member: K, counter: float) -> None:
        self._counters[member] = counter
        if member in self._weights:
            self._push(member)

    def _push(self, member: K) -> None:
        self._entries += 1
        heapq.heappush(self._heap, (self._counters[member], -self._weights[member], self._entries, member))
        if len(self._heap) > 4 * len(self._weights) + 64:
            members = enumerate(self._weights.items())
            self._heap = [(self._counters[each], -weight, n, each) for n, (each, weight) in members]
            self._entries = len(self._heap)
            heapq.heapify(self._heap)
