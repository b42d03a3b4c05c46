"""What a what-if assumes where nothing was recorded. Pure, and the same for the same job.

Three ways of assuming: `likely` draws from what was recorded of the same model; `worst` lets no response that was never
created end, and `best` lets each complete as soon as any did. A figure that differs between them is told as a range.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low
from typing import Final, Literal

from backstop.audit.whatif.recorded import Recorded, Truth
from schemas.base import Usage
from schemas.jobs import AttemptAccepted, AttemptRejected, JobTimerFired
from schemas.responses import PollFailed, ResponseObserved, ResponseTimerFired, WebhookReceived
from schemas.statuses import EndResponseStatus
from streams.policy.latency_counts import Counts, Curve, kaplan_meier

Way = Literal["likely", "worst", "best"]

ENDS_MIN: Final = 10
"""With fewer ends of a model those of all models count."""

DELAY_MS_UNKNOWN: Final = 50
"""A delay between two steps of Backstop of which the range has no example."""


@dataclass(frozen=True, slots=True)
class Delays:
    """The median delays of the range, in ms."""

    timer: int
    """From a timer's due time to its fact."""
    create: int
    """From a create's command to the acceptance."""
    poll: int
    """From a poll's command to its observation."""


@dataclass(slots=True)
class Guesses:
    """Estimates from the ends of a range."""

    way: Way
    delays: Delays
    lost: float
    """The share of ends without a webhook."""
    webhook_ms: int
    """The median time from an end to its webhook."""
    _curves: Mapping[str, Curve]
    _ends: Mapping[str, Sequence[ResponseObserved]]
    _shortest: Mapping[str, int]
    used: set[str] = field(default_factory=set)
    """What was asked for: responses of which something had to be assumed."""

    def never_created(self, job_id: str, attempt: int, tenant: str, model: str, at_ms: int) -> tuple[str, Truth]:
        """A response that was never created, with its id."""
        response_id = f"never_created/{job_id}/{attempt}"
        self.used.add(response_id)
        age_ms = self._age_ms(response_id, model, 0)
        ends = self._ends.get(model) or self._ends.get("", ())
        final = ends[int(share_of(f"{response_id}/end") * len(ends))] if ends else None
        if self.way == "best":
            final = next((each for each in ends if each.outcome == "completed"), final)
        truth = Truth(
            job_id, attempt, tenant, at_ms, age_ms if final is not None else None, 0, final, (model,), never=True
        )
        return response_id, truth

    def unknown_end_age_ms(self, response_id: str, model: str, seen_age_ms: int) -> int | None:
        """The age at the end of a response that was last known to run at an age. None: it does not end."""
        self.used.add(response_id)
        return self._age_ms(response_id, model, seen_age_ms)

    def webhook_age_ms(self, response_id: str, end_age_ms: int) -> int | None:
        """When the webhook of a response that was never created comes; None if it is lost."""
        lost = {"likely": share_of(f"{response_id}/webhook") < self.lost, "worst": True, "best": False}[self.way]
        return None if lost else end_age_ms + self.webhook_ms

    def _age_ms(self, response_id: str, model: str, from_age_ms: int) -> int | None:
        match self.way:
            case "worst":
                return None
            case "best":
                return max(self._shortest.get(model, self._shortest.get("", 0)), from_age_ms)
            case "likely":
                curve = self._curves.get(model) or self._curves[""]
                left = curve.running(from_age_ms) if from_age_ms else 1.0
                if left <= 0:
                    return None
                quantile = 1.0 - left * (1.0 - share_of(f"{response_id}/run"))
                age_ms = curve.quantile_ms(quantile)
                return None if age_ms is None else max(round(age_ms), from_age_ms)


def share_of(seed: str) -> float:
    """A number in [0, 1) that depends only on `seed`."""
    return int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=6).digest(), "big") / 2**48


def guesses(recorded: Recorded, commands: Mapping[str, int], way: Way) -> Guesses:
    """:param commands: when each recorded command was given, by id."""
    counts: dict[str, Counts] = defaultdict(Counts)
    ends: dict[str, list[ResponseObserved]] = defaultdict(list)
    shortest: dict[str, int] = {}
    lost = heard = 0
    lags: list[int] = []
    for response_id, truth in recorded.truths.items():
        for model in {recorded.models.get(truth.job_id, ""), ""}:
            counts[model].enter(0)
            if truth.end_age_ms is None:
                counts[model].leave(truth.seen_age_ms)
                continue
            counts[model].end(truth.end_age_ms)
            shortest[model] = min(shortest.get(model, truth.end_age_ms), truth.end_age_ms)
            if truth.final is not None:
                ends[model].append(truth.final)
        if truth.end_age_ms is not None:
            hooks = recorded.webhooks.get(response_id, ())
            first = next((noted.fact for noted in hooks if isinstance(noted.fact, WebhookReceived)), None)
            lost, heard = lost + (first is None), heard + (first is not None)
            if first is not None:
                lags.append(max(0, first.at_ms - truth.accepted_ms - truth.end_age_ms))
    curves = {model: kaplan_meier(each) for model, each in counts.items() if each.ends >= ENDS_MIN or not model}
    curves.setdefault("", kaplan_meier(Counts()))
    return Guesses(
        way, _delays(recorded, commands), lost / (lost + heard) if lost + heard else 0.0,
        median_low(lags) if lags else DELAY_MS_UNKNOWN, curves, ends, shortest,
    )  # fmt: skip


def _delays(recorded: Recorded, commands: Mapping[str, int]) -> Delays:
    timers, creates, polls = list[int](), list[int](), list[int]()
    for fact in (noted.fact for each in recorded.by_id.values() for noted in each):
        match fact:
            case ResponseTimerFired() | JobTimerFired():
                timers.append(fact.at_ms - fact.due_ms)
            case ResponseObserved() | PollFailed() if fact.command_id in commands:
                polls.append(fact.at_ms - commands[fact.command_id])
            case AttemptAccepted() | AttemptRejected():
                asked_ms = commands.get(f"{fact.job_id}/{fact.attempt}/create")
                if asked_ms is not None:
                    creates.append(fact.at_ms - asked_ms)
            case _:
                pass
    return Delays(*(_middle(each) for each in (timers, creates, polls)))


def _middle(values: Iterable[int]) -> int:
    known = [max(0, value) for value in values]
    return median_low(known) if known else DELAY_MS_UNKNOWN


NO_USAGE: Final = Usage()
ENDED: Final[tuple[EndResponseStatus, ...]] = ("completed", "failed", "incomplete", "cancelled")
