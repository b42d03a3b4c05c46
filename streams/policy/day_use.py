"""What a day's limit of tokens has used, by partition: this worker's count, and what other workers told. Pure.

Rules:
- A day is a calendar day (UTC). A partition's use is what has ended and what running attempts reserved.
- What was told of a partition counts where it is more than is known here. So a worker that takes a partition over goes
  on where the former owner told it was.
- Beyond what it has read back, a worker may use its base share of what is left of all, and half a percent of the limit
  at most. So what others leave unused goes to those that need it, and all stop at the limit together.
- A worker that can't read its facts back has its base share of what was left when it last could.
"""

from collections.abc import Collection

from schemas.lanes import DayUsed

DAY_MS = 86_400_000
UNTOLD_MAX = 0.005
"""Part of the limit that a worker may use beyond what it has told, where others have a share."""
TELL_AT = 0.001
"""Part of the limit that is told at once."""
TELL_WITHIN_MS = 10_000
"""Any use is told within this time."""
TELL_AGAIN_MS = 1_200_000
"""What was told is told again: the topic forgets after an hour."""
AWAY_MS = 5_000
"""A fact that is not read back for so long: the topic is away."""
ASK_AGAIN_MS = 250


class DayUse:
    """See the module. The day of the whole fleet, of one lane or of one tenant on it."""

    def __init__(self, limit: float, base: float = 1.0, *, told: bool = False) -> None:
        """:param base: this worker's part of all partitions.
        :param told: whether `to_tell` is asked, and `heard` called. Without it, each worker has its part of the limit.
        """
        self.base = base
        self._limit = limit
        self._telling = told
        self._day = 0
        self._ended: dict[int, float] = {}
        self._reserved: dict[int, float] = {}
        """By attempts that this worker counts."""
        self._others_reserved: dict[int, float] = {}
        self._owned: frozenset[int] | None = None
        """None: all."""
        self._read: dict[int, float] = {}
        """What each partition had used by the last fact that was read."""
        self._told = self._told_ended = 0.0
        self._told_ms = 0
        self._unread_since_ms: int | None = None
        """When the first fact that is not read back was written."""
        self._blocked = False

    def own(self, owned: Collection[int], base: float) -> None:
        """What running attempts of other partitions reserved is told by their owners from now on."""
        self._owned, self.base = frozenset(owned), base
        self._reserved = {each: tokens for each, tokens in self._reserved.items() if each in self._owned}

    def wait_ms(self, tokens: float, now_ms: int) -> int:
        """0 if a job of so many tokens may begin now. The first job of a day may, whatever its size."""
        self._to_day(now_ms)
        left, until_next_day_ms = self.left, DAY_MS - now_ms % DAY_MS
        if left >= self._limit:
            return 0
        if tokens > left:
            return until_next_day_ms
        untold = self._untold
        most = self.base * (left + untold)
        if not self._telling:
            return 0 if untold + tokens <= most else until_next_day_ms
        if self.base < 1 and not self._away(now_ms):
            most = min(most, self._limit * UNTOLD_MAX)
        if not untold or untold + tokens <= most:
            return 0
        self._blocked = True
        return ASK_AGAIN_MS

    @property
    def unused(self) -> bool:
        """Whether nothing is used or reserved as known here, and nothing else was told."""
        return self.left >= self._limit and not self._told

    @property
    def left(self) -> float:
        """What is left for all workers, as known here."""
        return self._limit - self.used

    @property
    def used(self) -> float:
        """What all workers used and reserved, as known here."""
        known = self._ended.keys() | self._reserved.keys() | self._others_reserved.keys()
        return sum(self._by_partition(each) for each in known)

    def take(self, partition: int, tokens: float, now_ms: int) -> None:
        """An attempt is expected to use so much."""
        self._to_day(now_ms)
        self._reserved[partition] = self._reserved.get(partition, 0.0) + tokens

    def give_back(self, partition: int, tokens: float, used: float | None) -> None:
        """It is over, and used so much; None where that is not known: what it reserved counts."""
        if self._owned is not None and partition not in self._owned:
            return
        self._reserved[partition] = max(0.0, self._reserved.get(partition, 0.0) - tokens)
        self._ended[partition] = self._ended.get(partition, 0.0) + (tokens if used is None else used)

    def heard(self, fact: DayUsed, now_ms: int, *, own: bool) -> None:
        """Take the next fact of the log. `own`: this worker wrote it."""
        self._to_day(now_ms)
        if own:
            self._unread_since_ms = None
        if fact.day != self._day:
            return
        for partition in fact.used.keys() | fact.reserved.keys():
            used, reserved = fact.used.get(partition, 0), fact.reserved.get(partition, 0)
            self._read[partition] = float(used + reserved)
            self._ended[partition] = max(self._ended.get(partition, 0.0), float(used))
            if self._owned is not None and partition not in self._owned:
                self._others_reserved[partition] = float(reserved)

    def to_tell(self, now_ms: int) -> tuple[int, dict[int, int], dict[int, int]] | None:
        """The day, what has ended and what is reserved, by own partition; None: there is nothing to tell now."""
        self._to_day(now_ms)
        mine, since_ms = sum(self._by_partition(each) for each in self._mine), now_ms - self._told_ms
        ended = sum(self._ended.get(each, 0.0) for each in self._mine)
        moved = max(abs(mine - self._told), abs(ended - self._told_ended))
        due = (
            (moved > 0 and self._blocked and self._unread_since_ms is None)
            or moved >= self._limit * TELL_AT
            or (moved > 0 and since_ms >= TELL_WITHIN_MS)
            or (mine > 0 and since_ms >= TELL_AGAIN_MS)
        )
        if not due:
            return None
        self._told, self._told_ended, self._told_ms, self._blocked = mine, ended, now_ms, False
        if self._unread_since_ms is None:
            self._unread_since_ms = now_ms
        return self._day, self._whole(self._ended), self._whole(self._reserved)

    @property
    def _mine(self) -> set[int]:
        known = self._ended.keys() | self._reserved.keys()
        return set(known) if self._owned is None else known & self._owned

    @property
    def _untold(self) -> float:
        """What own partitions have used beyond what was read of them."""
        return sum(max(0.0, self._by_partition(each) - self._read.get(each, 0.0)) for each in self._mine)

    def _by_partition(self, partition: int) -> float:
        ours = self._owned is None or partition in self._owned
        reserved = self._reserved if ours else self._others_reserved
        return self._ended.get(partition, 0.0) + reserved.get(partition, 0.0)

    def _whole(self, tokens: dict[int, float]) -> dict[int, int]:
        return {each: round(tokens[each]) for each in sorted(self._mine) if each in tokens}

    def _away(self, now_ms: int) -> bool:
        return self._unread_since_ms is not None and now_ms - self._unread_since_ms > AWAY_MS

    def _to_day(self, now_ms: int) -> None:
        """Begin a new day. What runs on then counts for the day on which it ends."""
        day = now_ms // DAY_MS
        if day > self._day:
            self._day, self._told, self._told_ended = day, 0.0, 0.0
            self._ended, self._reserved, self._others_reserved, self._read = {}, {}, {}, {}
