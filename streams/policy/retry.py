"""Whether a job may have another attempt, and when it begins. Pure.

The cause of the end decides the wait; budgets bound the cost (ARCHITECTURE.md, "What a refusal means"). There is a
budget for each cost: *paid* attempts (with usage, or it is not known), *unpaid* ends (accepted, and failed without
usage), *doubtful* ones (a 5xx that does not prove a refusal) and *refused* ones. All but the first only prevent floods:
the deadline limits how long a job waits.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal, assert_never

from schemas.base import Cause
from schemas.jobs import JobPolicy

TOLD_JITTER = 0.25
"""The wait that the provider asked for, and the wait of a rate limit, grow by up to this share, so that jobs that were
refused together don't return together."""

TOLD_JITTER_MS_MAX = 30_000

ODD_TRIES_MAX = 10
"""Consecutive refusals of cause `odd` after which a job fails: about five minutes."""

Spend = Literal["paid", "unpaid", "doubtful", "refused"]
"""What the attempt that just ended may have cost. `doubtful`: a 5xx that does not prove a refusal."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """The backoff of a cause: `first` times the policy's base, doubled for each consecutive end with that cause, at
    most `most` times the policy's maximum. Full jitter.
    """

    first: int
    most: int


@dataclass(frozen=True, slots=True)
class Retry:
    at_ms: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    why: str
    another_model: bool = False
    """Whether the budgets leave room, and only the same request of the same model is pointless."""


RetryDecision = Retry | GiveUp


@dataclass(frozen=True, slots=True)
class Spent:
    """What a job has used of its budgets, with the attempt that just ended. `streak`: consecutive ends of one cause."""

    paid: int
    unpaid: int
    doubtful: int
    refused: int
    streak: int


def next_attempt(
    policy: JobPolicy, *, seed: str, now_ms: int, deadline_ms: int, cause: Cause, told_ms: int, spend: Spend,
    spent: Spent,
) -> RetryDecision:  # fmt: skip
    """The decision after an attempt has ended: retry at a time, or give up with the reason.

    :param seed: seeds the jitter, so that a refold decides the same.
    :param told_ms: the minimum wait that the answer asked for; 0 for none.
    """
    used_up = _used_up(policy, spend, spent)
    if used_up is not None:
        return GiveUp(used_up)
    pointless = _pointless(policy, cause, spent)
    if pointless is not None:
        return GiveUp(pointless, another_model=True)
    told_ms = _told_in_time(policy, told_ms, deadline_ms - now_ms)
    least_ms = wait_ms(policy, f"{seed}/{spent.refused}/{spent.paid + spent.unpaid}", cause, told_ms, spent.streak)
    if spend == "doubtful":
        least_ms = max(least_ms, _spread_ms(policy.doubts_max, spent.doubtful, deadline_ms - now_ms))
    return Retry(now_ms + least_ms)


def _told_in_time(policy: JobPolicy, told_ms: int, left_ms: int) -> int:
    """A told wait that reaches the deadline would end the job: it is asked about again after half of the time that is
    left. So a wait of a year, or one that the provider mistook, costs some refused creates and no job.
    """
    return told_ms if told_ms < left_ms else max(left_ms // 2, policy.backoff_max_ms)


def _spread_ms(most: int, used: int, left_ms: int) -> int:
    """The second half of the budget of doubts is spread over the time that is left, each wait twice as long as the one
    before: no outage uses it up before the deadline.
    """
    return 0 if 2 * used <= most else max(0, left_ms) >> (most - used + 1)


def _used_up(policy: JobPolicy, spend: Spend, spent: Spent) -> str | None:
    match spend:
        case "paid":
            used, most, what = spent.paid, policy.retries_max, "retries"
        case "unpaid":
            used, most, what = spent.unpaid, policy.unpaid_ends_max, "retries after ends that cost nothing"
        case "doubtful":
            used, most, what = spent.doubtful, policy.doubts_max, "retries after answers that prove no refusal"
        case "refused":
            used, most, what = spent.refused, policy.rejections_max, "retries after refusals"
        case _:
            assert_never(spend)
    return f"all {most} {what} are used" if used > most else None


def _pointless(policy: JobPolicy, cause: Cause, spent: Spent) -> str | None:
    if cause == "never":
        return "the same request would be refused again"
    if cause == "account" and policy.on_account == "fail":
        return "the operator configured that jobs fail at a condition of the account"
    if cause == "odd" and spent.streak >= ODD_TRIES_MAX:
        return f"refused {spent.streak} times in a row without a known reason"
    return None


def wait_ms(policy: JobPolicy, seed: str, cause: Cause, told_ms: int, streak: int) -> int:
    """The wait before the next attempt. `told_ms` is a minimum; a rate limit without one waits `backoff_max_ms`."""
    if told_ms or cause == "limited":
        least_ms = told_ms or policy.backoff_max_ms
        return least_ms + round(min(TOLD_JITTER * least_ms, TOLD_JITTER_MS_MAX) * fraction(seed))
    wait = _wait(cause)
    full_ms = min(
        wait.most * policy.backoff_max_ms, (wait.first * policy.backoff_base_ms) << min(max(streak - 1, 0), 30)
    )
    return max(1, round(full_ms * (1 - fraction(seed))))


def _wait(cause: Cause) -> Backoff:
    """With the defaults (1 s, 60 s): overload 5 s to 5 min, errors of the provider 2 s to 5 min, passing conditions 2 s
    to 1 min, others 1 s to 1 min.
    """
    match cause:
        case "overloaded":
            return Backoff(5, 5)
        case "faulty":
            return Backoff(2, 5)
        case "later" | "odd":
            return Backoff(2, 1)
        case "account" | "held" | "unsent" | "limited" | "never":
            return Backoff(1, 1)
        case _:
            assert_never(cause)


def fraction(seed: str) -> float:
    """A number in [0, 1) that depends only on `seed`."""
    return int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=6).digest(), "big") / 2**48
