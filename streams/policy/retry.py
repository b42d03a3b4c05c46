"""When a job's next attempt begins, if it may have one.

Two budgets, because they cost differently. A *retry* follows an attempt that OpenAI accepted, or may have accepted: it spends
tokens again, so a job has few. A *rejection* cost nothing: a job may have many, and the wait between them grows.
"""

import hashlib
from dataclasses import dataclass

from schemas.jobs import JobPolicy

JITTER = 0.5
"""The wait is drawn from (1 - JITTER, 1] of the exponential one: spread enough that a burst refused together does not return together."""


@dataclass(frozen=True, slots=True)
class Retry:
    at_ms: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    why: str


RetryDecision = Retry | GiveUp


def after_rejection(policy: JobPolicy, seed: str, now_ms: int, rejections: int, wait_ms: int) -> RetryDecision:
    """:param rejections: how many there were, this one included. :param wait_ms: the least that the answer asked for."""
    if rejections > policy.rejections_max:
        return GiveUp(f"refused {rejections} times; rejections_max is {policy.rejections_max}")
    return Retry(now_ms + max(wait_ms, backoff_ms(policy, seed, rejections)))


def after_spend(policy: JobPolicy, seed: str, now_ms: int, retries: int) -> RetryDecision:
    """:param retries: retries that the job has already used."""
    if retries >= policy.retries_max:
        return GiveUp(f"all {policy.retries_max} retries are used")
    return Retry(now_ms + backoff_ms(policy, seed, retries + 1))


def backoff_ms(policy: JobPolicy, seed: str, nth: int) -> int:
    """Exponential from the base to the maximum, times a jitter that is derived from `seed`, so that a refold waits the same."""
    full_ms = min(policy.backoff_max_ms, policy.backoff_base_ms << min(nth - 1, 30))
    return max(1, round(full_ms * (1 - JITTER * fraction(f"{seed}/{nth}"))))


def fraction(seed: str) -> float:
    """A number in [0, 1) that depends on `seed` alone."""
    return int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=6).digest(), "big") / 2**48
