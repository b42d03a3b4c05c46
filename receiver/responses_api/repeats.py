"""Creates that an SDK repeats by itself, without an idempotency key.

The official SDKs send no key of their own: a create whose answer gets lost is sent up to three times, and would be up to three
jobs, each paid for. All that marks a repeat is `x-stainless-retry-count` above 0. So such a request is taken for a create
with the same body from the same API key, begun here within the window before it.

Rules, before the code:
- A create that was refused in a way that SDKs repeat (408, 409, 429, 5xx) expects its repeat within `EXPECTED_MS`. The repeat goes to such a create
  first, under the same response id: nothing was taken under it, or what was taken is meant.
- A create that was refused before its body was read is known by the API key and the size of its body. Its repeat begins anew.
- Only then does a repeat mean a create that was answered: its answer got lost. A create that is still being answered comes last.
- A create is given to one repeat of each number only: two calls with equal bodies whose answers both get lost find a job each.

One mistake remains: of two calls with equal bodies, the first attempt of the second never came here (a connection that was refused, another
process). Then both get one job, and nothing is paid twice. Whoever wants equal requests apart sends an `Idempotency-Key`.

This is the memory of one process; across several, and across restarts, only the key helps.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

EXPECTED_MS: Final = 120_000
"""How long the repeat of a refused create is expected. SDKs wait 8 s by themselves, and up to 60 s where `Retry-After` says so."""

UNREAD_MAX: Final = 1_000
"""Refusals of one API key whose bodies nobody read, kept at one time."""


class _State(IntEnum):
    """In the order in which a repeat is given to them."""

    REFUSED = 0
    ANSWERED = 1
    OPEN = 2


@dataclass(slots=True)
class _Create:
    response_id: str
    at_ms: int
    number: int
    """Of its last attempt, from 0."""
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
        """A create begins: from now on a repeat of it may come. `number` is above 0 where its first attempt never came here."""
        who, create = (tenant, key_id, sha256), _Create(response_id, now_ms, number)
        self._creates.setdefault(who, []).append(create)
        self._by_id[response_id] = (who, create)
        while len(self._by_id) > self._max:
            self.forget(next(iter(self._by_id)))

    def answered(self, response_id: str) -> None:
        """Its caller was told of the response, unless that got lost."""
        if response_id in self._by_id:
            self._by_id[response_id][1].state = _State.ANSWERED

    def refused(self, response_id: str, now_ms: int) -> None:
        """Its caller was told to send it again."""
        if response_id in self._by_id:
            create = self._by_id[response_id][1]
            create.state, create.refused_at_ms = _State.REFUSED, now_ms

    def refused_unread(self, tenant: str, key_id: str, size_bytes: int | None, number: int, now_ms: int) -> None:
        """Attempt `number` of some create was refused before its body was known."""
        unread = self._unread.setdefault((tenant, key_id), deque(maxlen=UNREAD_MAX))
        self._unread.move_to_end((tenant, key_id))
        unread.append(_Unread(size_bytes, number, now_ms))
        while len(self._unread) > self._max:
            self._unread.popitem(last=False)

    def forget(self, response_id: str) -> None:
        """No repeat of it will come, or it began too long ago."""
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
        """The response that repeat `number` (from 1) means; None where the create is to begin anew."""
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
        """Whether the repeat is of a create whose body nobody read; each is given to one repeat."""
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
