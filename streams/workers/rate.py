"""The global rate of polls and cancels, and the spare turns that it leaves to the follower.

The rate follows the *share* of calls that the provider or its edge objects to, per window. A share of 50 % halves the
rate; a share of 1 % (random objections) does not change it. A reduction that does not lower the share is not repeated,
unless nearly all calls are refused: a provider that refuses every third call at any rate is not asked less often. After
the trouble the rate doubles per window up to half of its former value, and then recovers by a share of its cap a
minute.

A `Retry-After` pauses all calls, because the limit belongs to the key, not to the response. The pause is at most
`PAUSE_MS_MAX`; the next call shows whether the limit still holds.

The follower of partial output takes *spare* turns: tokens that overflow from the full bucket. They cost polls and
cancels nothing.
"""

import asyncio
from collections.abc import Callable

from backstop.runtime.process.clock import NowMs

WINDOW_MS = 5_000
WINDOW_CALLS_MIN = 20
"""A share counts at least this many calls: one objection to the only call of a window means little."""

HASTE_CALLS = 100
"""After this many calls a window with a share of `HASTE_SHARE` ends at once. More than are in flight by default, so
that answers to calls from before a reduction do not cause the next one."""

HASTE_SHARE = 0.5
TOLERATED_SHARE = 0.02
DECREASE_MAX = 0.5
"""The largest reduction of the rate in one window, as a share."""

BLOCKED_SHARE = 0.9
RATE_CHANGE_MIN = 0.1
"""A smaller relative change of the rate is no evidence."""

HOLD_WINDOWS = 12
"""Windows for which the rate is kept after a reduction had no effect; then it is reduced once more, as a test."""

RECOVERY_SHARE_PER_MIN = 0.1
FLOOR_PER_S = 0.5
BURST_S = 1.0
WHOLE = 1.0 - 1e-9
"""A token: sums of parts of a second differ in their last digits with the moments at which the bucket is filled."""
SPARE_S = 0.1
"""The spare bucket holds this many seconds of the rate."""

SPARE_WAIT_S_MAX = 0.25
SPARE_PAUSE_MS = 1_000
PAUSE_MS_MAX = 60_000
"""A longer pause is shortened to this. Providers delete a response ten minutes after its end, so calls must go on."""


class PollRate:
    """A token bucket with the tokens of one second, at least one."""

    def __init__(
        self, cap_per_s: float, now_ms: NowMs, changed: Callable[[float], None] = lambda _: None,
        recovery_share_per_min: float = RECOVERY_SHARE_PER_MIN,
    ) -> None:  # fmt: skip
        self._cap_per_s = cap_per_s
        self._recovery_per_ms = cap_per_s * recovery_share_per_min / 60_000
        self._floor_per_s = min(FLOOR_PER_S, cap_per_s)
        self._rate_per_s = cap_per_s
        self._quick_to_per_s = 0.0
        """Below this rate the recovery doubles per window."""
        self._trouble: tuple[float, float] | None = None
        """Share of objections and mean rate of the last window to compare with; None after a window without trouble."""
        self._held_windows = 0
        """Windows for which the rate is kept, as objections come at any rate; 0 after a reduction."""
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
        if self._tokens >= WHOLE:
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
        """Take a token that overflowed from the bucket, if there is one."""
        self._fill()
        if self._spare < WHOLE or self._filled_at_ms < max(self._paused_until_ms, self._spare_paused_until_ms):
            return False
        self._spare -= 1.0
        return True

    async def spare_turn(self) -> None:
        """Wait for a spare turn, in the order of calls, without a limit."""
        async with self._spare_turns:
            while not self.take_spare():  # noqa: ASYNC110 - a full bucket sends no event
                await asyncio.sleep(min(SPARE_WAIT_S_MAX, 1.0 / self._rate_per_s))

    def answered(self) -> None:
        """A call was made without an objection to its rate, whatever its outcome."""
        self._fill()
        self._calls += 1

    def object(self, wait_ms: int = 0) -> None:
        """The provider objected to a call (a 429, an edge block) and asked for a pause of `wait_ms`."""
        self._fill()
        self._calls += 1
        self._objections += 1
        if wait_ms > 0:
            self._paused_until_ms = max(self._paused_until_ms, self._filled_at_ms + min(wait_ms, PAUSE_MS_MAX))
            self._tokens = min(self._tokens, 1.0)
        if self._calls >= HASTE_CALLS and self._objections >= HASTE_SHARE * self._calls:
            self._close_window()

    def object_spare(self, wait_ms: int) -> None:
        """As `object`, but pauses only spare turns. If the limit applies to all calls, a poll will meet it too."""
        self._fill()
        wait_ms = min(max(wait_ms, SPARE_PAUSE_MS), PAUSE_MS_MAX)
        self._spare_paused_until_ms = max(self._spare_paused_until_ms, self._filled_at_ms + wait_ms)

    def _fill(self) -> None:
        now_ms = self._now_ms()
        passed_ms = max(0, now_ms - self._filled_at_ms)
        # The bucket does not fill during a pause, so that no burst follows it.
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
        left = max(1 - DECREASE_MAX, 1 - objections / max(calls, WINDOW_CALLS_MIN))
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
        """Whether the share of objections stayed the same at another rate.

        A limit on the rate refuses the calls above it, so its share grows with the rate.
        """
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
