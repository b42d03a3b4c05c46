"""The global rate of looks and cancels: additive increase, multiplicative decrease.

It halves when the provider or its edge objects, at most once in five seconds (one objection reaches all calls in flight), and
comes back by a share of its cap a minute. A `Retry-After` stops all calls: the limit is the key's, not the response's.
"""

import asyncio
from collections.abc import Callable

from runtime.clock import NowMs

HALVE_INTERVAL_MS = 5_000
RECOVERY_SHARE_PER_MIN = 0.1
FLOOR_PER_S = 0.5
BURST_S = 1.0
PAUSE_MS_MAX = 3_600_000
"""A longer pause is cut to this: one call an hour then asks whether it still holds."""


class LookRate:
    """A token bucket of one second's worth, at least one token."""

    def __init__(
        self, cap_per_s: float, now_ms: NowMs, changed: Callable[[float], None] = lambda _: None,
        recovery_share_per_min: float = RECOVERY_SHARE_PER_MIN,
    ) -> None:  # fmt: skip
        self._cap_per_s = cap_per_s
        self._recovery_per_ms = cap_per_s * recovery_share_per_min / 60_000
        self._floor_per_s = min(FLOOR_PER_S, cap_per_s)
        self._rate_per_s = cap_per_s
        self._now_ms = now_ms
        self._changed = changed
        self._filled_at_ms = now_ms()
        self._halved_at_ms: int | None = None
        self._paused_until_ms = 0
        self._tokens = self._burst()
        changed(cap_per_s)

    @property
    def per_s(self) -> float:
        """Calls a second that are allowed now."""
        self._fill()
        return self._rate_per_s

    def take(self) -> int:
        """Take a token: 0, or the milliseconds (at least 1) after which to ask again."""
        self._fill()
        pause_ms = self._paused_until_ms - self._filled_at_ms
        if pause_ms > 0:
            return pause_ms
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0
        return max(1, int((1.0 - self._tokens) / self._rate_per_s * 1_000))

    async def turn(self) -> None:
        """Wait for a token, and take it."""
        while True:
            wait_ms = self.take()
            if not wait_ms:
                return
            await asyncio.sleep(wait_ms / 1_000)

    def object(self, wait_ms: int = 0) -> None:
        """The provider objected (a 429, an edge block), and asked for `wait_ms` of silence."""
        self._fill()
        now_ms = self._filled_at_ms
        self._paused_until_ms = max(self._paused_until_ms, now_ms + min(wait_ms, PAUSE_MS_MAX))
        if self._halved_at_ms is not None and now_ms - self._halved_at_ms < HALVE_INTERVAL_MS:
            return
        self._halved_at_ms = now_ms
        self._rate_per_s = max(self._floor_per_s, self._rate_per_s / 2)
        self._tokens = min(self._tokens, self._burst())
        self._changed(self._rate_per_s)

    def _fill(self) -> None:
        now_ms = self._now_ms()
        passed_ms = max(0, now_ms - self._filled_at_ms)
        self._filled_at_ms = now_ms
        self._tokens = min(self._burst(), self._tokens + self._rate_per_s * passed_ms / 1_000)
        if self._rate_per_s < self._cap_per_s and passed_ms:
            self._rate_per_s = min(self._cap_per_s, self._rate_per_s + self._recovery_per_ms * passed_ms)
            self._changed(self._rate_per_s)

    def _burst(self) -> float:
        return max(1.0, self._rate_per_s * BURST_S)
