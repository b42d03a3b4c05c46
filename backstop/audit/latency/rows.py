"""One compact row for each response and each job of a range, from the facts of both logs and the results. Pure.

Ends are placed on Backstop's clock: the middle of the create call plus the run time by the provider's clock, so that a
difference of the clocks does not matter. The provider's stamps are whole seconds, so spans that use them are off by up
to a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from backstop.audit.refold import FOLDS
from backstop.runtime.records import Record
from schemas.codec import PoisonError, decode
from schemas.jobs import AttemptAccepted, AttemptSettled, JobSubmitted
from schemas.responses import ResponseObserved, ResponseReleased, WebhookReceived
from schemas.results import RESULT
from schemas.statuses import GIVEN_UP_STATUSES, JobOutcome
from streams.policy.latency import CLASS_PART_CHARS_MAX

LOGS: Final = ("jobs", "responses", "results")
"""The order in which they must be taken."""

JOBS_MAX: Final = 500_000
"""About 1 KiB of memory each."""

UNTOLD: Final = "not told"


class ReportRangeError(Exception):
    """The range can't be reported; the message says why, and what to do."""


@dataclass(slots=True)
class ResponseRun:
    """One response. Times are Unix milliseconds by Backstop's clock, spans milliseconds."""

    model: str
    accepted_ms: int
    create_ms: int | None
    control: bool
    tier: str = UNTOLD
    run_ms: int | None = None
    """None: no end is known, or Backstop itself cancelled it."""
    seen_ms: int = 0
    """The age at which it was last known to run."""
    webhook_ms: int | None = None
    """When its first webhook came."""
    told_ms: int | None = None
    """When its end was told to its job."""
    by_webhook: bool = False
    released: bool = False

    @property
    def end_ms(self) -> int | None:
        if self.run_ms is None:
            return None
        end_ms = self.accepted_ms - (self.create_ms or 0) // 2 + self.run_ms
        return end_ms if self.told_ms is None else min(end_ms, self.told_ms)


@dataclass(slots=True)
class Job:
    model: str
    submitted_ms: int
    accepted_ms: int | None = None
    """Of its first attempt."""
    ended_ms: int | None = None
    outcome: JobOutcome | None = None
    tier: str = UNTOLD


@dataclass(slots=True)
class LatencyRows:
    since_ms: int
    until_ms: int
    end_ms: int = 0
    """The time of the last record: what is open then is censored."""
    jobs: dict[str, Job] = field(default_factory=dict)
    runs: dict[str, ResponseRun] = field(default_factory=dict)


class LatencyReading:
    """Takes the records of `LOGS`, one topic after the other."""

    def __init__(self, since_ms: int, until_ms: int) -> None:
        self.rows = LatencyRows(since_ms, until_ms)

    def take(self, batch: Sequence[Record]) -> None:
        """:raises ReportRangeError: the range is too large."""
        for record in batch:
            if record.topic in FOLDS:
                self.rows.end_ms = max(self.rows.end_ms, record.timestamp_ms)
            adapter: Any = RESULT if record.topic == "results" else FOLDS[record.topic].facts
            try:
                fact = decode(adapter, record.value)
            except PoisonError:
                continue
            self._fact(fact)

    def done(self) -> LatencyRows:
        """:raises ReportRangeError: no job was submitted in the range."""
        if not self.rows.jobs:
            raise ReportRangeError("no job was submitted in the range: name another --since or --until")
        for run in self.rows.runs.values():
            run.seen_ms = max(run.seen_ms, 0)
        return self.rows

    def _fact(self, fact: Any) -> None:
        rows = self.rows
        match fact:
            case JobSubmitted() if rows.since_ms <= fact.at_ms < rows.until_ms:
                rows.jobs.setdefault(fact.job_id, Job(fact.model, fact.at_ms))
                if len(rows.jobs) > JOBS_MAX:
                    raise ReportRangeError(
                        f"the range has more than {JOBS_MAX} jobs: name a later --since, or an --until"
                    )
            case AttemptAccepted():
                self._accepted(fact)
            case AttemptSettled() if fact.status not in GIVEN_UP_STATUSES:
                self._settled(fact)
            case WebhookReceived():
                if (run := rows.runs.get(fact.response_id)) is not None and run.webhook_ms is None:
                    run.webhook_ms = fact.at_ms
            case ResponseObserved(outcome="running"):
                if (run := rows.runs.get(fact.response_id)) is not None and run.told_ms is None:
                    run.seen_ms = max(run.seen_ms, fact.at_ms - run.accepted_ms)
            case ResponseReleased():
                self._released(fact)
            case _ if getattr(fact, "type", "") == "job_result" and fact.job_id in rows.jobs:
                job = rows.jobs[fact.job_id]
                job.ended_ms, job.outcome = fact.timings.finished_at_ms, fact.outcome
            case _:
                pass

    def _accepted(self, fact: AttemptAccepted) -> None:
        job = self.rows.jobs.get(fact.job_id)
        if job is None or fact.response_id in self.rows.runs:
            return
        create_ms = None if fact.sent_at_ms is None else max(0, fact.at_ms - fact.sent_at_ms)
        run = self.rows.runs[fact.response_id] = ResponseRun(
            _model_of(fact, job), fact.at_ms, create_ms, fact.control is True
        )  # fmt: skip
        job.accepted_ms = job.accepted_ms or fact.at_ms
        end = fact.end
        if end is not None and end.provider_created_at_ms is not None and end.provider_ended_at_ms is not None:
            run.run_ms, run.told_ms = max(0, end.provider_ended_at_ms - end.provider_created_at_ms), fact.at_ms

    def _settled(self, fact: AttemptSettled) -> None:
        run, job = self.rows.runs.get(fact.response_id), self.rows.jobs.get(fact.job_id)
        if run is None or job is None or run.told_ms is not None:
            return
        began_ms, ended_ms = fact.provider_created_at_ms, fact.provider_ended_at_ms
        if fact.terms is not None and fact.terms.service_tier:
            run.tier = job.tier = fact.terms.service_tier
        run.told_ms, run.by_webhook = fact.at_ms, fact.found_by == "webhook"
        if fact.status != "cancelled" and began_ms is not None and ended_ms is not None:
            run.run_ms = max(0, ended_ms - began_ms)
        if fact.status == "completed" and job.ended_ms is None:
            job.ended_ms = fact.at_ms

    def _released(self, fact: ResponseReleased) -> None:
        """No job waits any more. An end that comes later is one of Backstop's cancel."""
        run = self.rows.runs.get(fact.response_id)
        if run is not None and (run.told_ms is None or run.told_ms >= fact.at_ms):
            run.released, run.run_ms = True, None
            run.seen_ms = max(run.seen_ms, fact.at_ms - run.accepted_ms)


def _model_of(fact: AttemptAccepted, job: Job) -> str:
    """The model that the attempt asked for: with a fallback another one than its job's. A class has it cut."""
    asked = fact.latency_class[0] if fact.latency_class else ""
    return job.model if not asked or job.model[:CLASS_PART_CHARS_MAX] == asked else asked
