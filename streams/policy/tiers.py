"""The meters of a rate in tiers, so that a job within its share finds the room that it would find without the others.

Pure. Rules:
- One meter counts all jobs, one counts those of members within their share, one counts the interactive ones of these.
- A job must find room in the meter of its standing, and counts in each meter that counts such jobs. So a job within its
  share waits for nothing that was taken beyond a share, and an interactive one for interactive ones alone.
- A job beyond its share must leave two thirds of the burst, so what goes in any period stays bounded: each tier may
  take one burst beyond the tier below, less what that one leaves.
"""

from typing import Final, Literal

from streams.policy.buckets import Bucket, Requests

Standing = Literal["ahead", "within", "beyond"]
"""`within`: of a member within its share. `ahead`: the same, interactive. `beyond`: of a member beyond its share."""

LEFT_TO_SHARES = 2 / 3
"""Part of a burst that jobs beyond their share leave to those within theirs."""

BURSTS_MAX = 7 / 3
"""What all tiers may take at once, in bursts: a third beyond shares, one within, one ahead."""

COUNTED: Final[dict[Standing, tuple[Standing, ...]]] = {
    "ahead": ("ahead", "within", "beyond"),
    "within": ("within", "beyond"),
    "beyond": ("beyond",),
}
"""The meters in which a job of each standing counts."""


class TokenTiers:
    """Buckets of tokens, by standing."""

    def __init__(self, per_min: float, now_ms: int) -> None:
        self._buckets: dict[Standing, Bucket] = {each: Bucket(per_min, now_ms) for each in COUNTED}

    @property
    def per_min(self) -> float:
        return self._buckets["beyond"].per_min

    def wait_ms(self, amount: float, now_ms: int, standing: Standing) -> int:
        bucket = self._buckets[standing]
        match standing:
            case "ahead":
                leave = -bucket.lends
            case "within":
                leave = 0.0
            case "beyond":
                leave = bucket.capacity * LEFT_TO_SHARES
        return bucket.wait_ms(amount, now_ms, leave)

    def take(self, amount: float, now_ms: int, standing: Standing) -> None:
        for each in COUNTED[standing]:
            self._buckets[each].take(amount, now_ms)

    def give_back(self, amount: float, standing: Standing) -> None:
        for each in COUNTED[standing]:
            self._buckets[each].give_back(amount)

    def correct(self, amount: float, standing: Standing) -> None:
        """As in `Bucket`."""
        for each in COUNTED[standing]:
            self._buckets[each].correct(amount)

    def allow(self, left: float, now_ms: int) -> None:
        """At most `left` may be taken now, by all together."""
        for bucket in self._buckets.values():
            bucket.allow(left, now_ms)

    def close(self, now_ms: int, for_ms: int) -> None:
        for bucket in self._buckets.values():
            bucket.close(now_ms, for_ms)

    def resize(self, per_min: float, now_ms: int) -> None:
        for bucket in self._buckets.values():
            bucket.resize(per_min, now_ms)


class RequestTiers:
    """Meters of requests, by standing."""

    def __init__(self, per_min: float, now_ms: int) -> None:
        self._meters: dict[Standing, Requests] = {each: Requests(per_min, float(now_ms)) for each in COUNTED}

    @property
    def per_min(self) -> float:
        return self._meters["beyond"].per_min

    def wait_ms(self, now_ms: int, standing: Standing) -> int:
        return self._meters[standing].wait_ms(now_ms, LEFT_TO_SHARES if standing == "beyond" else 0.0)

    def take(self, now_ms: int, standing: Standing) -> None:
        for each in COUNTED[standing]:
            self._meters[each].take(now_ms)

    def allow(self, left: float, now_ms: int) -> None:
        for meter in self._meters.values():
            meter.allow(left, now_ms)

    def resize(self, per_min: float, now_ms: int) -> None:
        for meter in self._meters.values():
            meter.resize(per_min, now_ms)
