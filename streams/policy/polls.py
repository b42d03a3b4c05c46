"""When to look at a response: a fixed schedule.

The first look comes `first_poll_ms` after the acceptance. From then on the spacing grows with the age, `spacing_factor` of it
within [`spacing_min_ms`, `spacing_max_ms`], so that late detection stays in proportion to how long the response has run. Each
wait is jittered by U(0.9, 1.1) from a hash of the response id and the number of the look: the same question has the same
answer, and responses that were created together spread out.

With the defaults (first look at 20 s, then half the age within 5 s and 240 s) the looks come at about 20, 30, 45, 68, 101, 152,
228, 342 s … With run times lognormal about a median of 60 s with sigma 0.8 that is 3.4 looks that find it still running,
and where the webhook is lost a mean delay of 19 s from the end to its detection. The upper bound of 240 s stays well under half
of the ten minutes that the provider may keep a response.

A webhook that was not followed by an end (it was early, or of a replica that had not heard yet) is a strong hint: the next
looks come 1, 2, 4 … s after it, until that is no longer sooner than the schedule.
"""

import hashlib
from dataclasses import dataclass, replace

HINT_MS = 1_000
MISSING_AGAIN_MS = 15_000
"""After a 404 the response is asked for again this soon, by the time that the schedule would not."""
JITTER_LOW = 0.9
JITTER_HIGH = 1.1


@dataclass(frozen=True, slots=True)
class PollPolicy:
    """:raises ValueError: the bounds contradict each other."""

    first_poll_ms: int = 20_000
    spacing_factor: float = 0.5
    spacing_min_ms: int = 5_000
    spacing_max_ms: int = 240_000
    report_ms: int = 120_000
    """A look that the schedule asked for has brought word by then, or another is asked for. See `overtaken`."""

    def __post_init__(self) -> None:
        if not 1 <= self.spacing_min_ms <= self.spacing_max_ms:
            raise ValueError("looks: spacing_min_ms must be at least 1 and at most spacing_max_ms")
        if self.report_ms < 1:
            raise ValueError("looks: report_ms must be at least 1")
        if self.first_poll_ms < 0 or not 0 < self.spacing_factor <= 10:
            raise ValueError("looks: first_poll_ms must be 0 or more, and spacing_factor above 0 and at most 10")


WITHOUT_WEBHOOK_MAX = 5
"""Ends found without a webhook since the last webhook, before none are expected any more."""


class Webhooks:
    """Whether webhooks come at all, and the schedule that follows from it: where none do, polls come sooner.

    Every webhook that is heard counts, one for a response that has long ended too: so the schedule relaxes when they return.
    """

    def __init__(self, policy: PollPolicy, *, expected: bool = True) -> None:
        self._with = policy
        self._without = without_webhooks(policy)
        self._ends_without = 0 if expected else WITHOUT_WEBHOOK_MAX

    @property
    def policy(self) -> PollPolicy:
        return self._with if self.expected else self._without

    @property
    def expected(self) -> bool:
        return self._ends_without < WITHOUT_WEBHOOK_MAX

    def heard(self) -> None:
        """One came in."""
        self._ends_without = 0

    def ended_without(self) -> None:
        """A poll that no webhook asked for found an end."""
        self._ends_without = min(self._ends_without + 1, WITHOUT_WEBHOOK_MAX)


def without_webhooks(policy: PollPolicy) -> PollPolicy:
    """First poll after a second, then a quarter of the age within a second and a minute: an end is found late by a quarter of its run."""
    spacing_min_ms = min(policy.spacing_min_ms, 1_000)
    return replace(
        policy,
        first_poll_ms=min(policy.first_poll_ms, 1_000),
        spacing_factor=min(policy.spacing_factor, 0.25),
        spacing_min_ms=spacing_min_ms,
        spacing_max_ms=max(spacing_min_ms, min(policy.spacing_max_ms, 60_000)),
    )


def next_poll_at_ms(
    policy: PollPolicy,
    *,
    response_id: str,
    accepted_at_ms: int | None,
    now_ms: int,
    polls: int,
    since_hint: int | None = None,
) -> int:
    """When to look next (unix ms, after `now_ms`), if the response was still running at `now_ms`.

    `polls` is how many there were (it only seeds the jitter), `accepted_at_ms` None where nobody knows, and `since_hint` how
    many looks have gone by in vain since a webhook said that it had ended, the one that it caused not counted (None: no hint).
    """
    age_ms = max(0, now_ms - accepted_at_ms) if accepted_at_ms is not None else policy.first_poll_ms
    if age_ms < policy.first_poll_ms:
        wait_ms = max(policy.first_poll_ms - age_ms, min(policy.spacing_min_ms, policy.first_poll_ms))
    else:
        wait_ms = min(max(int(policy.spacing_factor * age_ms), policy.spacing_min_ms), policy.spacing_max_ms)
    if since_hint is not None:
        wait_ms = min(wait_ms, hint_wait_ms(since_hint))
    return now_ms + max(1, int(wait_ms * _jitter(response_id, polls)))


def overtaken(policy: PollPolicy, *, asked_at_ms: int, now_ms: int) -> bool:
    """Whether a look that the schedule asked for at `asked_at_ms` is not worth making any more: another has been asked for since.

    Where looks are slower than the schedule (the provider limits us), those that wait would pile up without an end, and a webhook's look
    would wait behind all of them.
    """
    return now_ms - asked_at_ms > policy.report_ms


def hint_wait_ms(since_hint: int) -> int:
    """1, 2, 4 … s: the wait after a webhook's look, the first one after it, and so on."""
    return HINT_MS << min(max(since_hint, 0), 16)


def _jitter(response_id: str, polls: int) -> float:
    digest = hashlib.blake2b(f"{response_id}/{polls}".encode(), digest_size=8).digest()
    return JITTER_LOW + (JITTER_HIGH - JITTER_LOW) * int.from_bytes(digest) / (1 << 64)
