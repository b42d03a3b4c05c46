"""The two meters of a rate: requests by the generic cell rate algorithm, tokens by a bucket. Pure.

Rules:
- A bucket begins empty: a worker that starts does not know what was spent a moment ago.
- In any period of `t` seconds a bucket gives at most `per_min * (t + BURST_S) / 60`, and one job's size more.
- A job that is larger than the bucket goes when the bucket is full, and leaves a debt. A debt is at most a minute's
  rate, whatever jobs used: so a usage that is far too high holds no lane up for longer.
- A bucket that is closed for a time opens after `CLOSED_MS_MAX`, so that a told wait of a year costs a refused create
  now and then, and no lane.
"""

from dataclasses import dataclass

BURST_S = 3.0
"""What a bucket holds at most, in seconds of its rate: a long pause is not followed by a wave."""

SPARE_S = 10.0
"""What is kept of overestimates, and lent on underestimates, at most, in seconds of the rate."""

MINUTE_MS = 60_000
WAIT_MS_MAX = 3_600_000
CLOSED_MS_MAX = 300_000
"""As for a closed lane (`lanes.TOLD_WAIT_MS_MAX`). The refused job itself waits as long as it was told."""


@dataclass(slots=True)
class Requests:
    """At most `per_min` requests, evenly: each moves the time of the next one."""

    per_min: float
    next_ms: float = 0.0
    """When the next request is due if requests come evenly."""

    def wait_ms(self, now_ms: int, leave: float = 0.0) -> int:
        """0 if a request may go now. Up to `BURST_S` of the rate, less the part `leave`, and one at least, may go at
        once.
        """
        spacing_ms = MINUTE_MS / self.per_min
        early_ms = max(BURST_S * 1_000 * (1 - leave) - spacing_ms, 0.0)
        return _bounded(self.next_ms - early_ms - now_ms)

    def take(self, now_ms: int) -> None:
        self.next_ms = max(self.next_ms, float(now_ms)) + MINUTE_MS / self.per_min

    def allow(self, left: float, now_ms: int) -> None:
        """At most `left` requests may go now."""
        early_ms = max(BURST_S * 1_000 - MINUTE_MS / self.per_min, 0.0)
        self.next_ms = max(self.next_ms, now_ms + early_ms - (left - 1) * MINUTE_MS / self.per_min)

    def resize(self, per_min: float, now_ms: int) -> None:
        """Change the rate. What is owed already stays owed, as a number of requests."""
        owed = max(0.0, self.next_ms - now_ms) * self.per_min
        self.per_min = per_min
        self.next_ms = now_ms + owed / per_min


@dataclass(slots=True)
class Bucket:
    """Tokens that flow in evenly. `level` may be below zero: then more was used than reserved."""

    per_min: float
    at_ms: int
    level: float = 0.0
    spare: float = 0.0
    owed: float = 0.0
    """The part of a debt that comes from jobs which used more than they took."""

    @property
    def capacity(self) -> float:
        return self.per_min * BURST_S / 60

    @property
    def lends(self) -> float:
        """How much a job may take that need not wait for a debt of such jobs."""
        return min(self.owed, self.per_min * SPARE_S / 60)

    def fill(self, now_ms: int) -> float:
        """Add what flowed in since the last call, and return the level."""
        if now_ms > self.at_ms:
            inflow = (now_ms - self.at_ms) * self.per_min / MINUTE_MS
            self.level = min(self.level + inflow, self.capacity)
            self.owed = max(0.0, self.owed - inflow)
            self.at_ms = now_ms
        return self.level

    def wait_ms(self, amount: float, now_ms: int, leave: float = 0.0) -> int:
        """0 if `amount` may be taken now so that `leave` stays. Below zero: so much may be lacking."""
        lacking = min(amount + leave, self.capacity) - self.fill(now_ms)
        closed_ms = max(0, self.at_ms - now_ms)
        return closed_ms + _bounded(lacking * MINUTE_MS / self.per_min)

    def take(self, amount: float, now_ms: int) -> None:
        self.fill(now_ms)
        self.level = max(self.level - amount, -self.per_min)

    def give_back(self, amount: float) -> None:
        self.level = min(self.level + amount, self.capacity)

    def allow(self, left: float, now_ms: int) -> None:
        """At most `left` may be taken now."""
        self.level = min(self.fill(now_ms), left)

    def correct(self, amount: float) -> None:
        """Book that `amount` less was used than taken, or more if it is negative.

        What is left over where the bucket is full is kept for later jobs that use more than they took. It lets no job
        go sooner: without it, only one direction of the errors of estimates would count.
        """
        self.spare += amount
        moved = min(self.spare, self.capacity - self.level)
        self.level = max(self.level + moved, min(self.level, -self.per_min))
        self.owed = min(max(0.0, self.owed - moved), self.per_min)
        self.spare = min(self.spare - moved, self.per_min * SPARE_S / 60)

    def close(self, now_ms: int, for_ms: int) -> None:
        """Empty it: nothing flows in for `for_ms`."""
        self.fill(now_ms)
        self.level = min(self.level, 0.0)
        self.at_ms = max(self.at_ms, now_ms + min(for_ms, CLOSED_MS_MAX))

    def resize(self, per_min: float, now_ms: int) -> None:
        self.fill(now_ms)
        self.per_min = per_min
        self.level = min(self.level, self.capacity)


def _bounded(wait_ms: float) -> int:
    return 0 if wait_ms <= 0 else min(int(wait_ms) + 1, WAIT_MS_MAX)
