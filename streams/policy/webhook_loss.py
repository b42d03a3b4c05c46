"""The share of ends that bring no webhook in time, measured. Pure: no clock, no IO.

An end is *missed* if no webhook has come `JUDGED_AFTER_MS` after it, by the provider's time of the end. It does not
count who saw the end first: otherwise more polls would find more ends before their webhooks, and so cause more polls.

The last two minutes decide. Their prior is the last hour, at most 5 %, as if it were 20 ends. A class has the whole as
its prior in the same way. So the share follows an outage of the webhooks within a minute, and returns as fast. The
larger of a fast and a slow estimate would stay high for an hour after the webhooks are back.

Where few responses end, two minutes hold nearly none. So the share is also 1 after `MISSED_MAX` misses in a row, until
the next webhook.
"""

from collections import deque

JUDGED_AFTER_MS = 30_000
RECENT_MS = 120_000
RECENT_SLOT_MS = 10_000
HOUR_MS = 3_600_000
HOUR_SLOT_MS = 60_000
PRIOR_ENDS = 20
HOUR_PRIOR_ENDS = 100
HOUR_SHARE_MAX = 0.05
SHARE_MIN = 0.001
MISSED_MAX = 5
"""Misses in a row, after which no webhook is expected."""

CLASSES_MAX = 500


class WebhookTally:
    """Ends and misses of the last `span_ms`, in slots of `slot_ms`."""

    def __init__(self, span_ms: int, slot_ms: int) -> None:
        self._span_ms, self._slot_ms = span_ms, slot_ms
        self._slots: deque[list[int]] = deque()
        self.ends = self.misses = 0

    def add(self, missed: bool, now_ms: int) -> None:
        self.turn(now_ms)
        slot = now_ms // self._slot_ms
        if not self._slots or self._slots[-1][0] != slot:
            self._slots.append([slot, 0, 0])
        self._slots[-1][1] += 1
        self._slots[-1][2] += missed
        self.ends += 1
        self.misses += missed

    def turn(self, now_ms: int) -> None:
        oldest = (now_ms - self._span_ms) // self._slot_ms
        while self._slots and self._slots[0][0] <= oldest:
            _, ends, misses = self._slots.popleft()
            self.ends -= ends
            self.misses -= misses


class WebhookLoss:
    """The share of ends without a webhook in time, by class and of all."""

    def __init__(self, *, expected: bool = True) -> None:
        self._recent = WebhookTally(RECENT_MS, RECENT_SLOT_MS)
        self._hour = WebhookTally(HOUR_MS, HOUR_SLOT_MS)
        self._classes: dict[str, WebhookTally] = {}
        self._missed = 0 if expected else MISSED_MAX

    @property
    def expected(self) -> bool:
        """Whether webhooks come at all."""
        return self._missed < MISSED_MAX

    def heard(self) -> None:
        """A webhook was received, of any response."""
        self._missed = 0

    def judged(self, of: str, missed: bool, now_ms: int) -> None:
        """An end of the class is `JUDGED_AFTER_MS` old, and a webhook came for it in that time or did not."""
        self._missed = min(self._missed + 1, MISSED_MAX) if missed else 0
        self._recent.add(missed, now_ms)
        self._hour.add(missed, now_ms)
        tally = self._classes.get(of)
        if tally is None:
            if len(self._classes) >= CLASSES_MAX:
                self._forget(now_ms)
            tally = self._classes[of] = WebhookTally(RECENT_MS, RECENT_SLOT_MS)
        tally.add(missed, now_ms)

    def share(self, of: str | None, now_ms: int) -> float:
        """The share of ends of the class that bring no webhook in time; None: of all."""
        if not self.expected:
            return 1.0
        self._hour.turn(now_ms)
        hour = min((self._hour.misses + 1) / (self._hour.ends + HOUR_PRIOR_ENDS), HOUR_SHARE_MAX)
        share = _with_prior(self._recent, hour, now_ms)
        tally = self._classes.get(of) if of is not None else None
        if tally is not None:
            share = _with_prior(tally, share, now_ms)
        return max(share, SHARE_MIN)

    def _forget(self, now_ms: int) -> None:
        """Forget the classes without an end in two minutes, or else the oldest one."""
        for tally in self._classes.values():
            tally.turn(now_ms)
        idle = [of for of, tally in self._classes.items() if not tally.ends] or [next(iter(self._classes))]
        for of in idle:
            del self._classes[of]


def _with_prior(tally: WebhookTally, prior: float, now_ms: int) -> float:
    tally.turn(now_ms)
    return (tally.misses + PRIOR_ENDS * prior) / (tally.ends + PRIOR_ENDS)
