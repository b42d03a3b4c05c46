"""The limits of a lane or tenant as they are set, told and learned. Pure."""

from dataclasses import dataclass
from typing import Literal

Reason = Literal["concurrent", "requests_per_min", "tokens_per_min", "tokens_per_day"]


@dataclass(frozen=True, slots=True)
class Rates:
    """Limits; None where there is none."""

    concurrent: int | None = None
    requests_per_min: float | None = None
    tokens_per_min: float | None = None
    tokens_per_day: float | None = None
    discover: bool = False
    """Find out the tokens a minute, where neither this nor the provider tells them."""

    @property
    def any(self) -> bool:
        return self != Rates()


NO_RATES = Rates()


@dataclass(frozen=True, slots=True)
class LimitsTold:
    """What an answer told of the limits. None: nothing."""

    requests_per_min: float | None = None
    tokens_per_min: float | None = None
    requests_left: float | None = None
    tokens_left: float | None = None


NOTHING_TOLD = LimitsTold()


@dataclass(frozen=True, slots=True)
class Lesson:
    """What answers showed of the provider's limits, for all workers together."""

    told: LimitsTold
    found: float | None
    """The rate of tokens at which to go on after a refusal; None: there was none."""
    ceiling: float | None
    """The limit that two refusals showed."""
    told_ms: int = 0
    """How long the refusal asked to wait."""


@dataclass(frozen=True, slots=True)
class NotNow:
    """Not now. `ms` is None where only the end of another attempt changes it."""

    reason: Reason
    ms: int | None


def least(*limits: float | None) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)
