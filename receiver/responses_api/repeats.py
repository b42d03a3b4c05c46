"""Matches the repeats that an SDK sends by itself, without an idempotency key, with their creates.

The official SDKs send no key by themselves. A create whose answer is lost is sent up to three times, and would become
up to three jobs, each of them paid. Only the header `x-stainless-retry-count` above 0 marks a repeat. Such a request is
matched with a create that had the same body and API key and began at this process within the window.

Rules:
- A create that was refused with a status that SDKs retry (408, 409, 429, 5xx) expects its repeat within `EXPECTED_MS`.
  A repeat is matched with such a create first, and keeps its response id: either no job was submitted under it, or the
  job is the right one.
- A create that was refused before its body was read is known by API key and body size. Its repeat starts a new
  response.
- Next comes a create that was answered: the answer was lost. Last comes a create that is still being answered.
- A create is matched with only one repeat of each number, so two calls with equal bodies and lost answers find two
  jobs.

One wrong match remains: of two calls with equal bodies, the first attempt of the second did not reach this process
(refused connection, another receiver). Then both get one job, and the client pays for one. Clients that need equal
requests to be separate jobs send an `Idempotency-Key`.

The memory belongs to one process; across several, and across restarts, only an `Idempotency-Key` works.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

EXPECTED_MS: Final = 120_000
"""How long the repeat of a refused create is expected. SDKs wait up to 8 s by themselves, up to 60 s with
`Retry-After`.
"""

UNREAD_MAX: Final = 1_000
"""Remembered refusals before the body was read, per API key."""


class _State(IntEnum):
    """In the order of preference for a repeat."""

    REFUSED = 0
    ANSWERED = 1
    OPEN = 2


@dataclass(slots=True)
class _Create:
    response_id: str
    at_ms: int
    number: int
    """Number of the last attempt, from 0."""
    state: _State = _State.OPEN
    refused_at_ms: int = 0

    def rank(self, number: int, now_ms: int) -> tuple[int, bool, int]:
        expected = self.state is not _State.REFUSED or now_ms - self.refused_at_ms <= EXPECTED_MS
        return (self.state if expected else _State.OPEN, self.number != number - 1, self.at_ms)


@dataclass(frozen=True, slots=True)
class _Unread:
    size_bytes: int | None
    number: int
    at_ms: int


class Repeats:
    def __init__(self, window_ms: int, remembered_max: int) -> None:
        self._window_ms = window_ms
        self._max = remembered_max
        self._creates: dict[tuple[str, str, str], list[_Create]] = {}
        self._by_id: OrderedDict[str, tuple[tuple[str, str, str], _Create]] = OrderedDict()
        self._unread: OrderedDict[tuple[str, str], deque[_Unread]] = OrderedDict()

    def began(self, tenant: str, key_id: str, sha256: str, response_id: str, now_ms: int, number: int = 0) -> None:
        """Remember a create. `number`: of this attempt; above 0 if the first one did not reach this process."""
        who, create = (tenant, key_id, sha256), _Create(response_id, now_ms, number)
        self._creates.setdefault(who, []).append(create)
        self._by_id[response_id] = (who, create)
        while len(self._by_id) > self._max:
            self.forget(next(iter(self._by_id)))

    def answered(self, response_id: str) -> None:
        """The create was answered with its response; the answer may get lost."""
        if response_id in self._by_id:
            self._by_id[response_id][1].state = _State.ANSWERED

    def refused(self, response_id: str, now_ms: int) -> None:
        """The create was refused with a status that SDKs retry."""
        if response_id in self._by_id:
            create = self._by_id[response_id][1]
            create.state, create.refused_at_ms = _State.REFUSED, now_ms

    def refused_unread(self, tenant: str, key_id: str, size_bytes: int | None, number: int, now_ms: int) -> None:
        """Attempt `number` of a create was refused before its body was read."""
        unread = self._unread.setdefault((tenant, key_id), deque(maxlen=UNREAD_MAX))
        self._unread.move_to_end((tenant, key_id))
        unread.append(_Unread(size_bytes, number, now_ms))
        while len(self._unread) > self._max:
            self._unread.popitem(last=False)

    def forget(self, response_id: str) -> None:
        """Forget a create: no repeat will come, or the memory is full."""
        who, _create = self._by_id.pop(response_id, (None, None))
        if who is None:
            return
        left = [create for create in self._creates[who] if create.response_id != response_id]
        if left:
            self._creates[who] = left
        else:
            del self._creates[who]

    def original(
        self, tenant: str, key_id: str, sha256: str, number: int, now_ms: int, size_bytes: int | None = None
    ) -> str | None:
        """The response id that repeat `number` (from 1) belongs to; None if it starts a new response."""
        fresh = [
            create
            for create in self._creates.get((tenant, key_id, sha256), ())
            if now_ms - create.at_ms <= self._window_ms and create.number < number
        ]
        chosen = min(fresh, key=lambda create: create.rank(number, now_ms), default=None)
        if chosen is None or chosen.rank(number, now_ms)[0] is not _State.REFUSED:
            if self._take_unread(tenant, key_id, number, size_bytes, now_ms):
                return None
            if chosen is None:
                return None
        chosen.number, chosen.state = number, _State.OPEN
        return chosen.response_id

    def _take_unread(self, tenant: str, key_id: str, number: int, size_bytes: int | None, now_ms: int) -> bool:
        """Whether the repeat matches a create that was refused before its body was read; each matches one repeat."""
        unread = self._unread.get((tenant, key_id))
        if unread is None:
            return False
        while unread and now_ms - unread[0].at_ms > EXPECTED_MS:
            unread.popleft()
        for one in unread:
            if one.number == number - 1 and one.size_bytes in {size_bytes, None}:
                unread.remove(one)
                return True
        return False
