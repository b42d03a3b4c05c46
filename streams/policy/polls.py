"""When to poll a response: a fixed schedule, until enough is learned for a better one (`learned_polls`). Pure.

The first poll is due `first_poll_ms` after the acceptance. Later polls are spaced by `spacing_factor` times the age,
within [`spacing_min_ms`, `spacing_max_ms`]. So the delay of detection stays in proportion to the run time. Each wait is
jittered by U(0.9, 1.1) from a hash of the response id and the number of the poll: the same question has the same
answer, and responses that were created together spread out.

With the defaults (first poll at 20 s, then half the age within 5 s and 240 s) polls come at about 20, 30, 45, 68, 101,
152, 228, 342 s … With lognormal run times (median 60 s, sigma 0.8) these are 3.4 polls that find the response running,
and, if the webhook is lost, a mean delay of 19 s from the end to its detection. The upper bound of 240 s is well under
half of the ten minutes for which the provider may keep a response.

A webhook after which a poll still finds the response running (the webhook was early, or the replica was behind) is a
strong hint: the next polls come 1, 2, 4 … s later, until the schedule is sooner.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from schemas.base import PollBasis
from streams.policy.learned_polls import LearnedPolls

HINT_MS = 1_000
MISSING_AGAIN_MS = 15_000
"""Longest wait for the next poll after a 404."""
JITTER_LOW = 0.9
JITTER_HIGH = 1.1


@dataclass(frozen=True, slots=True)
class PollPolicy:
    """The parameters of the schedule.

    :raises ValueError: a value is out of range, or the bounds contradict each other.
    """

    first_poll_ms: int = 20_000
    spacing_factor: float = 0.5
    spacing_min_ms: int = 5_000
    spacing_max_ms: int = 240_000
    report_ms: int = 120_000
    """A scheduled poll that has not reported within this time is issued again. See `overtaken`."""

    def __post_init__(self) -> None:
        if not 1 <= self.spacing_min_ms <= self.spacing_max_ms:
            raise ValueError("polls: spacing_min_ms must be at least 1 and at most spacing_max_ms")
        if self.report_ms < 1:
            raise ValueError("polls: report_ms must be at least 1")
        if self.first_poll_ms < 0 or not 0 < self.spacing_factor <= 10:
            raise ValueError("polls: first_poll_ms must be 0 or more, and spacing_factor above 0 and at most 10")


WITHOUT_WEBHOOK_MAX = 5
"""Ends found without a webhook since the last webhook, after which webhooks are no longer expected."""


@dataclass(frozen=True, slots=True)
class NextPoll:
    """A decision: when to poll next, and what it was decided from; None: by the fixed schedule."""

    at_ms: int
    basis: PollBasis | None = None


class Webhooks:
    """Tracks whether webhooks arrive, and selects the schedule: without webhooks polls come sooner.

    Each received webhook counts, even for a response that ended long ago, so the schedule relaxes when webhooks return.
    """

    def __init__(
        self, policy: PollPolicy, *, expected: bool = True, learned: LearnedPolls | None = None,
        control_share: float = 0.0,
    ) -> None:  # fmt: skip
        """:param learned: decides once it has seen enough ends; None: the fixed schedule decides always.
        :param control_share: the share of jobs that are polled as if no webhook came.
        """
        self.learned = learned
        self._control_share = control_share
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
        """A webhook was received."""
        self._ends_without = 0
        if self.learned is not None:
            self.learned.loss.heard()

    def ended_without(self) -> None:
        """A poll that was not caused by a webhook found an end."""
        self._ends_without = min(self._ends_without + 1, WITHOUT_WEBHOOK_MAX)

    def controls(self, job_id: str) -> bool:
        """Whether the job belongs to the control group. It depends on its id alone."""
        return _fraction(f"control/{job_id}") < self._control_share

    def next_poll(
        self, *, response_id: str, latency_class: Sequence[str], accepted_at_ms: int | None, now_ms: int, polls: int,
        since_hint: int | None = None, control: bool = False,
    ) -> NextPoll:  # fmt: skip
        """When to poll next a response that was still running at `now_ms`. The parameters: see `next_poll_at_ms`.

        :param control: by the fixed schedule without webhooks, whatever was learned or heard.
        """
        plan = self.learned.plan(tuple(latency_class)) if self.learned is not None and not control else None
        if plan is None or accepted_at_ms is None:
            return NextPoll(next_poll_at_ms(
                self._without if control else self.policy, response_id=response_id, accepted_at_ms=accepted_at_ms,
                now_ms=now_ms, polls=polls, since_hint=since_hint,
            ))  # fmt: skip
        wait_ms = plan.spacing_ms(max(0, now_ms - accepted_at_ms), _jitter(response_id, polls))
        if since_hint is not None:
            wait_ms = min(wait_ms, hint_wait_ms(since_hint) * _jitter(response_id, polls))
        return NextPoll(now_ms + max(1, int(wait_ms)), plan.basis)


def without_webhooks(policy: PollPolicy) -> PollPolicy:
    """The schedule without webhooks: first poll after 1 s, then a quarter of the age within 1 s and 60 s.

    So an end is detected at most about a quarter of the run time late.
    """
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
    """When to poll next (unix ms, after `now_ms`) a response that was still running at `now_ms`.

    :param accepted_at_ms: None if it is not known.
    :param polls: the number of polls so far; it only seeds the jitter.
    :param since_hint: the number of polls since the one that a webhook caused, without an end; None: no webhook came.
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
    """Whether a scheduled poll from `asked_at_ms` may be dropped, because it has been issued again since.

    If the provider limits polls to fewer than the schedule asks for, queued polls would pile up without end.
    """
    return now_ms - asked_at_ms > policy.report_ms


def hint_wait_ms(since_hint: int) -> int:
    """The wait in ms after a webhook's poll (0), after the next poll (1) and so on: 1, 2, 4 … s."""
    return HINT_MS << min(max(since_hint, 0), 16)


def _jitter(response_id: str, polls: int) -> float:
    return JITTER_LOW + (JITTER_HIGH - JITTER_LOW) * _fraction(f"{response_id}/{polls}")


def _fraction(seed: str) -> float:
    """A number in [0, 1) that depends only on `seed`."""
    return int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest()) / (1 << 64)
