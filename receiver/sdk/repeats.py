"""Creates that an SDK repeats by itself, without an idempotency key.

The official SDKs send no key of their own: a create whose answer gets lost is sent up to three times, and would be up to three
jobs, each paid for. All that marks a repeat is `x-stainless-retry-count` above 0. So such a request is taken for the create
with the same body from the same API key, begun here within the window before it.

A create is given to one repeat of each number only: two calls with equal bodies whose answers both get lost find a job each. One
mistake remains: of two calls with equal bodies, the first attempt of the second never came here. Then both get one job, and
nothing is paid twice. Whoever wants equal requests apart sends an `Idempotency-Key`.

This is the memory of one process; across several, and across restarts, only the key helps.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Create:
    response_id: str
    at_ms: int
    repeats: set[int] = field(default_factory=set)


class Repeats:
    def __init__(self, window_ms: int, remembered_max: int) -> None:
        self._window_ms = window_ms
        self._max = remembered_max
        self._creates: dict[tuple[str, str, str], list[_Create]] = {}
        self._ages: OrderedDict[str, tuple[str, str, str]] = OrderedDict()

    def began(self, tenant: str, key_id: str, sha256: str, response_id: str, now_ms: int) -> None:
        """A create begins: from now on a repeat of it may come."""
        who = (tenant, key_id, sha256)
        self._creates.setdefault(who, []).append(_Create(response_id, now_ms))
        self._ages[response_id] = who
        while len(self._ages) > self._max:
            self.forget(next(iter(self._ages)))

    def forget(self, response_id: str) -> None:
        """It was refused: a repeat of it is to be looked at afresh."""
        who = self._ages.pop(response_id, None)
        if who is None:
            return
        left = [create for create in self._creates[who] if create.response_id != response_id]
        if left:
            self._creates[who] = left
        else:
            del self._creates[who]

    def original(self, tenant: str, key_id: str, sha256: str, number: int, now_ms: int) -> str | None:
        """The response that repeat `number` (from 1) means; None where its first attempt never came here."""
        found = deque(self._creates.get((tenant, key_id, sha256), ()))
        fresh = [
            create for create in found if now_ms - create.at_ms <= self._window_ms and number not in create.repeats
        ]
        if not fresh:
            return None
        # A create that was given to the repeat before this one is more likely to be meant than one that was given to none.
        chosen = min(
            fresh, key=lambda create: (number - 1 not in create.repeats if number > 1 else False, create.at_ms)
        )
        chosen.repeats.add(number)
        return chosen.response_id
