"""PURE: the invariants, each a check of what independent witnesses saw of a run. The demo and the torture use them.

Each check returns what is wrong with it, as a `Breach`; one without examples says that the invariant held.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Invariant = Literal["I1", "I2", "I3", "I4", "I5", "I6", "I7", "decay", "coverage"]

EXAMPLES_MAX = 5
MISSING_ROW = "no row"


@dataclass(frozen=True, slots=True)
class Breach:
    """What violates an invariant: a text for each case."""

    invariant: Invariant
    sentence: str
    examples: Sequence[str]

    @property
    def count(self) -> int:
        return len(self.examples)

    def __str__(self) -> str:
        more = f" and {self.count - EXAMPLES_MAX} more" if self.count > EXAMPLES_MAX else ""
        return f"{self.invariant}: {self.count} {self.sentence}: {', '.join(self.examples[:EXAMPLES_MAX])}{more}"


@dataclass(frozen=True, slots=True)
class Create:
    """A line of the provider's ledger of accepted creates."""

    response_id: str
    job_id: str | None
    attempt: int | None
    at_ms: int
    replied: bool = True
    """False: the provider accepted the create, and its answer was lost."""


@dataclass(frozen=True, slots=True)
class Causes:
    """What accounts for the accepted creates of a job."""

    granted: int
    """Accepted creates that the job may have: the first one, retries and a hedge."""
    attempts: Collection[int] | None
    """The attempts that are accounted for; None: not known."""
    unpaid: frozenset[int] = frozenset()
    """Attempts that use up nothing of what is granted."""


@dataclass(frozen=True, slots=True)
class ProviderDelivery:
    """A line of the provider's ledger of webhook deliveries, forged ones among them."""

    webhook_id: str
    status: int
    """Of the answer; 0 if none came."""
    authentic: bool
    of_response: bool = True
    """False: an event of another kind, which is answered, counted and dropped."""
    outcome: str = ""
    """As the provider names it: delivered, refused and so on."""


def unanswered(acknowledged: Iterable[str], results: Collection[str]) -> Breach:
    """I1: every acknowledged job has a result."""
    lost = [job_id for job_id in acknowledged if job_id not in results]
    return Breach("I1", "acknowledged jobs without a result", lost)


def repeated(results: Mapping[str, int]) -> Breach:
    """I2: every job has one committed result. :param results: their number by job."""
    return Breach("I2", "jobs with more than one result", [job_id for job_id, count in results.items() if count > 1])


def unsubmitted(results: Iterable[str], submitted: Collection[str]) -> Breach:
    """I2: every result belongs to a submitted job."""
    foreign = [job_id for job_id in results if job_id not in submitted]
    return Breach("I2", "results of jobs that were not submitted", foreign)


def uncaused(creates: Iterable[Create], causes: Mapping[str, Causes], source: str) -> Breach:
    """I3: the provider accepted one create for each attempt, no more than were granted, and none without a cause.

    :param source: what tells `Causes.attempts`.
    """
    found: list[str] = []
    seen: dict[str, set[int]] = defaultdict(set)
    for create in creates:
        cause = causes.get(create.job_id or "")
        if create.job_id is None or create.attempt is None or cause is None:
            found.append(f"{create.response_id} (its job was not submitted)")
            continue
        attempts = seen[create.job_id]
        name = f"{create.job_id} attempt {create.attempt}"
        if create.attempt in attempts:
            found.append(f"{name} (a second create of the attempt)")
            continue
        attempts.add(create.attempt)
        if len(attempts - cause.unpaid) > cause.granted:
            found.append(f"{name} (only {cause.granted - 1} retries were granted)")
        elif cause.attempts is not None and create.attempt not in cause.attempts:
            found.append(f"{name} (the {source} does not list it)")
    return Breach("I3", "accepted creates without a cause", found)


def mismatched(outcomes: Mapping[str, str], rows: Mapping[str, str]) -> Breach:
    """I6: the row of each job says what its result says. :param rows: status in the read model by job."""
    wrong = [
        f"{job_id} (row {rows.get(job_id, MISSING_ROW)}, result {outcome})"
        for job_id, outcome in outcomes.items()
        if rows.get(job_id, MISSING_ROW) != outcome
    ]
    return Breach("I6", "rows that differ from their result", wrong)


def webhooks(deliveries: Sequence[ProviderDelivery], kept: Collection[str]) -> list[Breach]:
    """I7: what was answered 2xx is in a log, and a forgery is refused and leaves no trace.

    :param kept: ids of the webhooks in a log or among the dead letters.
    """
    accepted = {one.webhook_id for one in deliveries if one.authentic and one.of_response and _is(one, 200)}
    genuine = {one.webhook_id for one in deliveries if one.authentic}
    forged = [one for one in deliveries if not one.authentic]
    believed = {one.webhook_id for one in forged} - genuine
    return [
        Breach("I7", "webhooks answered 2xx and in no log", sorted(accepted - set(kept))),
        Breach("I7", "forged webhooks answered 2xx", [_named(one) for one in forged if _is(one, 200)]),
        Breach("I7", "forged webhooks in a log", sorted(believed & set(kept))),
        Breach("I7", "forged webhooks answered 5xx", [_named(one) for one in forged if _is(one, 500)]),
    ]


def _is(delivery: ProviderDelivery, hundred: int) -> bool:
    return hundred <= delivery.status < hundred + 100


def _named(delivery: ProviderDelivery) -> str:
    return f"{delivery.webhook_id} ({delivery.status})"
