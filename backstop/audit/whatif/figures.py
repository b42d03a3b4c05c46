"""What a course of events cost and brought: counted from the log, or from a replay. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final

from backstop.audit.whatif.recorded import OPEN_OUTCOMES, Noted, Recorded, Truth
from schemas.base import Message, Terms, Usage
from schemas.jobs import AttemptAccepted, AttemptRejected, AttemptSettled, AttemptUnknown, UsageBooked
from schemas.responses import PollFailed, ResponseObserved
from schemas.results import JobResult
from schemas.statuses import GIVEN_UP_STATUSES, JobOutcome, has_answer

MINUTE_MS: Final = 60_000
NOT_SENT: Final = ("held", "unsent")


@dataclass(slots=True)
class Figures:
    """Counts, and the delays of which quantiles are told. All in ms."""

    jobs: int = 0
    polls: int = 0
    polls_in_vain: int = 0
    """Those that found the response still running."""
    polls_failed: int = 0
    cancels: int = 0
    creates: int = 0
    """Responses that the provider accepted."""
    refused: int = 0
    unknown: int = 0
    hedges: int = 0
    """Second attempts beside slow ones, of jobs that have ended."""
    hedges_won: int = 0
    outcomes: Counter[JobOutcome] = field(default_factory=Counter)
    in_time: int = 0
    """Jobs with an answer of the model."""
    open: int = 0
    """Jobs without a result at the end of the log."""
    detection_ms: list[int] = field(default_factory=list)
    """From the end of a response to the fact that told its job."""
    total_ms: list[int] = field(default_factory=list)
    """From submission to result, of jobs in time."""
    usage: dict[str, tuple[str, Usage, Terms | None]] = field(default_factory=dict)
    """By response: the model asked for, what was used, and what decides the price."""
    unmeasured: int = 0
    """Accepted responses without known usage."""
    busiest_minute_polls: int = 0

    def counts(self) -> dict[str, int]:
        """What must be equal where a replay changes nothing."""
        named = {name: getattr(self, name) for name in (
            "jobs", "polls", "polls_in_vain", "polls_failed", "cancels", "creates", "refused", "unknown", "hedges",
            "hedges_won", "in_time", "open", "unmeasured", "busiest_minute_polls",
        )}  # fmt: skip
        named |= {f"jobs_{outcome}": count for outcome, count in sorted(self.outcomes.items())}
        named |= {"detections": len(self.detection_ms), "detection_ms_sum": sum(self.detection_ms)}
        named |= {"total_ms_sum": sum(self.total_ms)}
        named |= {f"{name}_tokens": getattr(self.tokens(), f"{name}_tokens") for name in ("input", "output", "cached")}
        return named

    def tokens(self) -> Usage:
        names = ("input_tokens", "output_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")
        used = [usage for _, usage, _ in self.usage.values()]
        return Usage(**{name: sum(getattr(each, name) for each in used) for name in names})

    def as_json(self) -> dict[str, Any]:
        return {
            **self.counts(),
            **{f"detection_{name}": value for name, value in quantiles_ms(self.detection_ms).items()},
            **{f"total_{name}": value for name, value in quantiles_ms(self.total_ms).items()},
        }


def quantiles_ms(values: Sequence[int]) -> dict[str, int | None]:
    """Mean, median, p95, p99 and the greatest; None where there are none."""
    if not values:
        return dict.fromkeys(("mean_ms", "p50_ms", "p95_ms", "p99_ms", "max_ms"))
    ordered = sorted(values)
    shares = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
    at = {name: ordered[max(0, ceil(share * len(ordered)) - 1)] for name, share in shares.items()}
    return {"mean_ms": round(sum(ordered) / len(ordered)), **at, "max_ms": ordered[-1]}


class ReplayTally:
    """Counts facts and results as they come, each id once."""

    def __init__(self, models: Mapping[str, str]) -> None:
        self.figures = Figures(jobs=len(models))
        self._models = models
        self._seen: set[str] = set()
        self._responses: dict[str, str] = {}
        self._settled: set[str] = set()
        self._minutes: Counter[int] = Counter()
        self._results: set[str] = set()

    def took(self, fact: Message, end_ms: int | None) -> None:
        """:param end_ms: for a settled attempt, when its response ended; None if that is not known."""
        if fact.id in self._seen:
            return
        self._seen.add(fact.id)
        figures = self.figures
        match fact:
            case ResponseObserved() | PollFailed():
                self._polled(fact)
            case AttemptAccepted():
                self._accepted(fact)
            case AttemptRejected():
                figures.refused += fact.cause not in NOT_SENT
            case AttemptUnknown():
                figures.unknown += 1
            case AttemptSettled():
                self._ended(fact, end_ms)
            case UsageBooked():
                self._used(fact.response_id, fact.job_id, fact.usage, fact.terms)
            case _:
                pass

    def result(self, result: JobResult) -> None:
        if result.job_id in self._results:
            return
        self._results.add(result.job_id)
        figures = self.figures
        figures.outcomes[result.outcome] += 1
        figures.hedges += result.hedge is not None
        figures.hedges_won += result.hedge is not None and result.hedge.won == "hedge"
        if has_answer(result.outcome):
            figures.in_time += 1
            figures.total_ms.append(max(0, result.timings.finished_at_ms - result.timings.submitted_at_ms))

    def done(self) -> Figures:
        figures = self.figures
        figures.open = figures.jobs - len(self._results)
        figures.unmeasured = sum(response_id not in figures.usage for response_id in self._responses)
        figures.busiest_minute_polls = max(self._minutes.values(), default=0)
        figures.detection_ms.sort()
        figures.total_ms.sort()
        return figures

    def _polled(self, fact: ResponseObserved | PollFailed) -> None:
        figures = self.figures
        if fact.command_id.endswith("/cancel"):
            figures.cancels += 1
            return
        figures.polls += 1
        self._minutes[fact.at_ms // MINUTE_MS] += 1
        figures.polls_failed += isinstance(fact, PollFailed)
        figures.polls_in_vain += isinstance(fact, ResponseObserved) and fact.outcome in OPEN_OUTCOMES

    def _accepted(self, fact: AttemptAccepted) -> None:
        if fact.response_id in self._responses:
            return
        self._responses[fact.response_id] = fact.job_id
        self.figures.creates += 1
        if fact.end is not None:
            self._used(fact.response_id, fact.job_id, fact.end.usage, fact.end.terms)

    def _ended(self, fact: AttemptSettled, end_ms: int | None) -> None:
        self._used(fact.response_id, fact.job_id, fact.usage, fact.terms)
        if fact.status in GIVEN_UP_STATUSES or fact.response_id in self._settled:
            return
        self._settled.add(fact.response_id)
        if end_ms is not None and fact.status != "cancelled":
            self.figures.detection_ms.append(max(0, fact.at_ms - end_ms))

    def _used(self, response_id: str, job_id: str, usage: Usage | None, terms: Terms | None) -> None:
        if usage is not None:
            self.figures.usage.setdefault(response_id, (self._models.get(job_id, ""), usage, terms))


def recorded_figures(recorded: Recorded) -> Figures:
    """The figures of the log itself: no fold takes part."""
    tally = ReplayTally(recorded.models)
    noted: list[Noted] = [each for found in recorded.by_id.values() for each in found]
    for each in sorted(noted, key=lambda one: (one.log_ms, one.place)):
        truth = recorded.truths.get(getattr(each.fact, "response_id", ""))
        tally.took(each.fact, None if truth is None else end_of(truth))
    for result in recorded.results.values():
        tally.result(result)
    return tally.done()


def end_of(truth: Truth, moved_ms: int = 0) -> int | None:
    return None if truth.end_age_ms is None else truth.accepted_ms + moved_ms + truth.end_age_ms
