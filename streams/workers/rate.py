"""The global rate of polls and cancels, and what it leaves to others.

It follows the *share* of calls that the provider or its edge objects to, window by window: what is objected to is not gained by asking
for it, so a share of 50 % halves the rate, and a share of 1 % (objections that come at random) leaves it alone. A cut that does not lower
the share is not repeated, unless all calls are objected to: whoever refuses every third call at any rate is not asked less often. After the
trouble the rate doubles from window to window up to half of what it was before, and from there comes back by a share of its cap a minute.

A `Retry-After` stops all calls: the limit is the key's, not the response's. Not for long, as the next call tells whether it still holds.

Whoever follows partial output gets *spare* turns: what the bucket would spill, as it is full. They take nothing from polls and cancels.
"""

import asyncio
from collections.abc import Callable

from backstop.runtime.process.clock import NowMs

WINDOW_MS = 5_000
WINDOW_CALLS_MIN = 20
"""A share is of so many calls at least: one objection to the only call of a window says little."""

HASTE_CALLS = 100
"""After so many calls a window with a share of `HASTE_SHARE` is over at once. More than are in flight by default: what comes back from before
a cut does not make the next one."""

HASTE_SHARE = 0.5
TOLERATED_SHARE = 0.02
CUT_MAX = 0.5
"""Of the rate, in one window."""

BLOCKED_SHARE = 0.9
RATE_CHANGE_MIN = 0.1
"""Less of a change of the rate proves nothing."""

HOLD_WINDOWS = 12
"""So long a rate is held that was found not to matter; then it is cut once more, to see."""

RECOVERY_SHARE_PER_MIN = 0.1
FLOOR_PER_S = 0.5
BURST_S = 1.0
SPARE_S = 0.1
"""What is spilled is kept for spare turns for so long."""

SPARE_WAIT_S_MAX = 0.25
SPARE_PAUSE_MS = 1_000
PAUSE_MS_MAX = 60_000
"""A longer pause is cut to this. Providers forget a response ten minutes after its end: calls have to go on."""


class PollRate:
    """A token bucket of one second's worth, at least one token."""

    def __init__(
        self, cap_per_s: float, now_ms: NowMs, changed: Callable[[float], None] = lambda _: None,
        recovery_share_per_min: float = RECOVERY_SHARE_PER_MIN,
    ) -> None:  # fmt: skip
        self._cap_per_s = cap_per_s
        self._recovery_per_ms = cap_per_s * recovery_share_per_min / 60_000
        self._floor_per_s = min(FLOOR_PER_S, cap_per_s)
        self._rate_per_s = cap_per_s
        self._quick_to_per_s = 0.0
        """Up to here it doubles."""
        self._trouble: tuple[float, float] | None = None
        """The share and the mean rate of a window since which there was no window without trouble."""
        self._held_windows = 0
        """How many windows the rate was held, as the trouble comes at any rate; 0 where it was cut."""
        self._now_ms = now_ms
        self._changed = changed
        self._filled_at_ms = now_ms()
        self._window_from_ms, self._window_from_per_s = self._filled_at_ms, cap_per_s
        self._calls = self._objections = 0
        self._paused_until_ms = self._spare_paused_until_ms = 0
        self._tokens = self._burst()
        self._spare = self._spare_max()
        self._spare_turns = asyncio.Lock()
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

    def take_spare(self) -> bool:
        """Take what nobody else could have had, if there is any."""
        self._fill()
        if self._spare < 1.0 or self._filled_at_ms < max(self._paused_until_ms, self._spare_paused_until_ms):
            return False
        self._spare -= 1.0
        return True

    async def spare_turn(self) -> None:
        """Wait until there is a turn to spare, first come, first served; for as long as it takes."""
        async with self._spare_turns:
            while not self.take_spare():  # noqa: ASYNC110 - nothing happens when a bucket is full
                await asyncio.sleep(min(SPARE_WAIT_S_MAX, 1.0 / self._rate_per_s))

    def answered(self) -> None:
        """A call was made to which nobody objected, whatever else became of it."""
        self._fill()
        self._calls += 1

    def object(self, wait_ms: int = 0) -> None:
        """The provider objected (a 429, an edge block), and asked for `wait_ms` of silence."""
        self._fill()
        self._calls += 1
        self._objections += 1
        if wait_ms > 0:
            self._paused_until_ms = max(self._paused_until_ms, self._filled_at_ms + min(wait_ms, PAUSE_MS_MAX))
            self._tokens = min(self._tokens, 1.0)
        if self._calls >= HASTE_CALLS and self._objections >= HASTE_SHARE * self._calls:
            self._close_window()

    def object_spare(self, wait_ms: int) -> None:
        """As `object`, to a spare turn: it stops these alone. If the limit is everybody's, a poll will hear of it."""
        self._fill()
        wait_ms = min(max(wait_ms, SPARE_PAUSE_MS), PAUSE_MS_MAX)
        self._spare_paused_until_ms = max(self._spare_paused_until_ms, self._filled_at_ms + wait_ms)

    def _fill(self) -> None:
        now_ms = self._now_ms()
        passed_ms = max(0, now_ms - self._filled_at_ms)
        # A pause gathers nothing: whoever waited for its end does not come in one burst.
        filling_ms = max(0, now_ms - max(self._filled_at_ms, self._paused_until_ms))
        self._filled_at_ms = now_ms
        tokens = self._tokens + self._rate_per_s * filling_ms / 1_000
        self._tokens = min(self._burst(), tokens)
        spilled = tokens - self._tokens
        if spilled > 0:
            self._spare = min(self._spare_max(), self._spare + spilled)
        if passed_ms:
            self._recover(passed_ms)
            if now_ms - self._window_from_ms >= WINDOW_MS:
                self._close_window()

    def _recover(self, passed_ms: int) -> None:
        if self._rate_per_s >= self._cap_per_s or (self._trouble and not self._held_windows):
            return
        more = 0.0 if self._trouble else self._recovery_per_ms * passed_ms
        if self._rate_per_s < self._quick_to_per_s:
            doubled = self._rate_per_s * 2.0 ** (min(passed_ms, 60_000) / WINDOW_MS)
            more = max(more, min(doubled, self._quick_to_per_s) - self._rate_per_s)
        self._set(min(self._cap_per_s, self._rate_per_s + more))

    def _close_window(self) -> None:
        calls, objections = self._calls, self._objections
        mean_per_s = (self._window_from_per_s + self._rate_per_s) / 2
        self._calls = self._objections = 0
        if objections > TOLERATED_SHARE * max(calls, WINDOW_CALLS_MIN):
            self._meet(objections, calls, mean_per_s)
        elif calls or self._filled_at_ms > self._paused_until_ms + WINDOW_MS:
            self._trouble, self._held_windows = None, 0
        self._window_from_ms, self._window_from_per_s = self._filled_at_ms, self._rate_per_s

    def _meet(self, objections: int, calls: int, mean_per_s: float) -> None:
        left = max(1 - CUT_MAX, 1 - objections / max(calls, WINDOW_CALLS_MIN))
        if self._trouble is None:
            self._quick_to_per_s = max(self._rate_per_s / 2, self._quick_to_per_s * left)
            self._trouble = objections / calls, mean_per_s
        elif self._at_any_rate(objections / calls, mean_per_s) and self._held_windows < HOLD_WINDOWS:
            self._held_windows += 1
            return
        self._held_windows = 0
        self._set(max(self._floor_per_s, self._rate_per_s * left))
        self._tokens = 0.0

    def _at_any_rate(self, share: float, per_s: float) -> bool:
        """Whether the share stayed as it was at another rate. A limit on calls cuts off what is above it, and more at a higher rate."""
        assert self._trouble is not None
        share_before, per_s_before = self._trouble
        if share >= BLOCKED_SHARE:
            return False
        if abs(per_s - per_s_before) < RATE_CHANGE_MIN * per_s_before:
            return self._held_windows > 0
        self._trouble = share, per_s
        limited = max(0.0, 1 - (1 - share_before) * per_s_before / per_s)
        return abs(share - share_before) < abs(share - limited)

    def _set(self, rate_per_s: float) -> None:
        if rate_per_s != self._rate_per_s:
            self._rate_per_s = rate_per_s
            self._changed(rate_per_s)

    def _burst(self) -> float:
        return max(1.0, self._rate_per_s * BURST_S)

    def _spare_max(self) -> float:
        return max(1.0, self._rate_per_s * SPARE_S)
