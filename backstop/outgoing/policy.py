"""PURE: the consequence of an attempt, and when the next one is due.

Follows Standard Webhooks: any 2xx is success, everything else failure, a redirect included; 410 means that the endpoint
is gone; 429 and 503 may say when to try again.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from backstop.outgoing.fold import Pending
from schemas.deliveries import DeadBy, DeliveryDead, DeliveryDone, DeliveryFailed, FailedBy

GONE: Final = 410
ASKS_TO_WAIT: Final = frozenset({429, 503})
HEADER_CHARS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Answered:
    """The endpoint answered, with any status."""

    status: int
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Unanswered:
    failed_by: FailedBy


Outcome = Answered | Unanswered


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`waits_ms[n]`: the wait between attempts n + 1 and n + 2. The first attempt is made at once."""

    waits_ms: tuple[int, ...]
    jitter: float = 0.1
    """The largest share added to a wait; the exact share is derived from delivery and attempt."""
    retry_after_ms_max: int = 3_600_000

    @property
    def attempts_max(self) -> int:
        return len(self.waits_ms) + 1


@dataclass(frozen=True, slots=True)
class AttemptVerdict:
    """`fact`: what happened. `gone`: disable the endpoint. `hold_until_ms`: until then the endpoint gets no attempt."""

    fact: DeliveryDone | DeliveryFailed | DeliveryDead
    gone: bool = False
    hold_until_ms: int = 0
    tried: bool = True
    """False: abandoned without an attempt, which tells nothing about the endpoint."""


def judge(pending: Pending, delivery_id: str, outcome: Outcome, policy: RetryPolicy, now_ms: int) -> AttemptVerdict:
    """The verdict on the next attempt of `pending`, from its outcome."""
    attempt = pending.attempts + 1
    named: Mapping[str, object] = _named(pending, delivery_id, f"attempt/{attempt}", now_ms)
    status = outcome.status if isinstance(outcome, Answered) else None
    if status is not None and 200 <= status < 300:
        return AttemptVerdict(DeliveryDone(**named, attempt=attempt, status=status))
    failed_by = _failed_by(outcome)
    hold_until_ms = now_ms + _asked_wait_ms(outcome, policy, now_ms) if status in ASKS_TO_WAIT else 0
    gone = status == GONE
    attempts_max = 1 if pending.delivery.test else policy.attempts_max
    if gone or attempt >= attempts_max:
        dead_by: DeadBy = "gone" if gone else "gave_up"
        dead = DeliveryDead(**named, attempt=attempt, dead_by=dead_by, failed_by=failed_by, status=status)
        return AttemptVerdict(dead, gone, hold_until_ms)
    wait_ms = policy.waits_ms[attempt - 1]
    next_at_ms = now_ms + wait_ms + int(wait_ms * policy.jitter * share(f"{delivery_id}/{attempt}"))
    failed = DeliveryFailed(
        **named, attempt=attempt, next_at_ms=max(next_at_ms, hold_until_ms), failed_by=failed_by, status=status
    )
    return AttemptVerdict(failed, hold_until_ms=hold_until_ms)


def dead_without_attempt(pending: Pending, delivery_id: str, dead_by: DeadBy, now_ms: int) -> DeliveryDead:
    """Abandoned without an attempt: the endpoint is removed or disabled, or too many deliveries wait for it."""
    named = _named(pending, delivery_id, f"dead/{dead_by}", now_ms)
    return DeliveryDead(**named, attempt=pending.attempts, dead_by=dead_by)


def share(text: str) -> float:
    """A number in [0, 1), evenly spread and fixed for each text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def retry_after_ms(header: str | None, now_ms: int) -> int:
    """The wait that `Retry-After` asks for, given in seconds or as a date; 0 if it is missing or malformed."""
    if header is None or len(header) > HEADER_CHARS_MAX:
        return 0
    text = header.strip()
    if text.isascii() and text.isdecimal():
        return int(text) * 1000
    try:
        at = parsedate_to_datetime(text)
        return max(0, int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000) - now_ms)
    except (ValueError, OverflowError):
        return 0


def _asked_wait_ms(outcome: Outcome, policy: RetryPolicy, now_ms: int) -> int:
    header = outcome.retry_after if isinstance(outcome, Answered) else None
    return min(retry_after_ms(header, now_ms), policy.retry_after_ms_max)


def _failed_by(outcome: Outcome) -> FailedBy:
    match outcome:
        case Answered(status=status):
            return "redirect" if 300 <= status < 400 else "status"
        case Unanswered(failed_by=failed_by):
            return failed_by


def _named(pending: Pending, delivery_id: str, what: str, now_ms: int) -> dict[str, object]:
    return {
        "id": f"{delivery_id}/{pending.asked_at_ms}/{what}",
        "at_ms": now_ms,
        "delivery_id": delivery_id,
        "delivery": pending.delivery,
        "asked_at_ms": pending.asked_at_ms,
    }
