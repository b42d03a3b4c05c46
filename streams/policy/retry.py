"""When a job's next attempt begins, if it may have one. Pure.

The wait follows the cause; what is bounded is what was paid (ARCHITECTURE.md, "What a refusal means"). Three budgets, because they
cost differently: *paid* attempts (usage, or nobody knows), *unpaid ends* (accepted, and failed without usage), and refusals. The
last two are there against floods only: the deadline ends a job's patience.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal, assert_never

from schemas.base import Cause
from schemas.jobs import JobPolicy

TOLD_JITTER = 0.25
"""A told wait, and a limit's, is made longer by up to this share: those that were refused together do not return together."""

TOLD_JITTER_MS_MAX = 30_000

ODD_TRIES_MAX = 10
"""Refusals in a row that do not say what they mean, before they are taken at their word: about five minutes."""

Spend = Literal["paid", "unpaid", "doubtful", "refused"]
"""What the attempt that just ended may have cost. `doubtful`: answered with a 5xx that proves nothing."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The back-off of a cause, in multiples of the policy's base and maximum; it doubles with each in a row, full jitter."""

    first: int
    most: int


@dataclass(frozen=True, slots=True)
class Retry:
    at_ms: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    why: str


RetryDecision = Retry | GiveUp


@dataclass(frozen=True, slots=True)
class Spent:
    """What a job has used of its budgets, the attempt that just ended included; `streak`: ends in a row for the same cause."""

    paid: int
    unpaid: int
    doubtful: int
    refused: int
    streak: int


def next_attempt(
    policy: JobPolicy, *, seed: str, now_ms: int, cause: Cause, told_ms: int, spend: Spend, spent: Spent
) -> RetryDecision:
    """:param told_ms: the least wait that the answer asked for; 0 where it asked for none.
    :param seed: makes the jitter; the same in a refold.
    """
    why = _used_up(policy, spend, spent) or _pointless(policy, cause, spent)
    if why is not None:
        return GiveUp(why)
    return Retry(
        now_ms + wait_ms(policy, f"{seed}/{spent.refused}/{spent.paid + spent.unpaid}", cause, told_ms, spent.streak)
    )


def _used_up(policy: JobPolicy, spend: Spend, spent: Spent) -> str | None:
    match spend:
        case "paid":
            used, most, what = spent.paid, policy.retries_max, "retries"
        case "unpaid":
            used, most, what = spent.unpaid, policy.unpaid_ends_max, "retries after ends that cost nothing"
        case "doubtful":
            used, most, what = spent.doubtful, policy.doubts_max, "retries after answers that prove nothing"
        case "refused":
            used, most, what = spent.refused, policy.rejections_max, "retries after refusals"
        case _:
            assert_never(spend)
    return f"all {most} {what} are used" if used > most else None


def _pointless(policy: JobPolicy, cause: Cause, spent: Spent) -> str | None:
    if cause == "never":
        return "the same request would be refused again"
    if cause == "account" and policy.on_account == "fail":
        return "the policy fails jobs that meet a condition of the account"
    if cause == "odd" and spent.streak >= ODD_TRIES_MAX:
        return f"refused {spent.streak} times in a row without a reason that Backstop knows"
    return None


def wait_ms(policy: JobPolicy, seed: str, cause: Cause, told_ms: int, streak: int) -> int:
    """How long to wait. What the answer told is a minimum; a limit that tells nothing is a minute."""
    if told_ms or cause == "limited":
        least_ms = told_ms or policy.backoff_max_ms
        return least_ms + round(min(TOLD_JITTER * least_ms, TOLD_JITTER_MS_MAX) * fraction(seed))
    wait = _wait(cause)
    full_ms = min(
        wait.most * policy.backoff_max_ms, (wait.first * policy.backoff_base_ms) << min(max(streak - 1, 0), 30)
    )
    return max(1, round(full_ms * (1 - fraction(seed))))


def _wait(cause: Cause) -> Wait:
    """With the defaults (1 s, 60 s): overload 5 s to 5 min, the provider's errors 2 s to 5 min, conditions that pass 2 s to 1 min."""
    match cause:
        case "overloaded":
            return Wait(5, 5)
        case "faulty":
            return Wait(2, 5)
        case "later" | "odd":
            return Wait(2, 1)
        case "account" | "held" | "unsent" | "limited" | "never":
            return Wait(1, 1)
        case _:
            assert_never(cause)


def fraction(seed: str) -> float:
    """A number in [0, 1) that depends on `seed` alone."""
    return int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=6).digest(), "big") / 2**48
