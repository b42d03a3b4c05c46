"""PURE: judges a run of the demo. The records come from four independent witnesses, which agree only in a run without
faults of Backstop: the driver (acknowledged submissions), the results topic (read committed), the provider's ledgers,
and the read model.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from backstop.dev.invariants import Breach, Causes, Create, mismatched, repeated, unanswered, uncaused, unsubmitted


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A job whose submission was acknowledged, by Kafka or with a 2xx. `at_ms` is when it was sent."""

    job_id: str
    ingress: Literal["http", "kafka"]
    at_ms: int
    retries_max: int


@dataclass(frozen=True, slots=True)
class Result:
    """A record on `results`. `seen_at_ms` is when a consumer received it."""

    job_id: str
    outcome: str
    found_by: str | None
    seen_at_ms: int
    attempts: frozenset[int]
    """Numbers of the attempts that the result lists."""
    response_id: str | None = None
    """The response that decided the outcome."""
    unpaid: frozenset[int] = frozenset()
    """Attempts that failed without usage. They use up no retry."""


@dataclass(frozen=True, slots=True)
class HeardWebhook:
    """The first delivery of a response's genuine webhook that was answered with a 2xx."""

    response_id: str
    sent_at_ms: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """The records of all four witnesses, of a run that is over."""

    acknowledged: Sequence[Acknowledged]
    results: Sequence[Result]
    creates: Sequence[Create]
    rows: Mapping[str, str]
    """Job id → status in the read model."""
    ended_at_ms: Mapping[str, int] = field(default_factory=dict)
    """Response id → time of its end in the provider's ledger, in Unix milliseconds."""
    webhooks: Sequence[HeardWebhook] = ()
    restarts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of `count` measurements in milliseconds; None without measurements."""

    count: int
    p50_ms: int | None
    p99_ms: int | None
    max_ms: int | None


@dataclass(frozen=True, slots=True)
class RunVerdict:
    """The counts of a run. `violations` is empty when every invariant held."""

    jobs: int
    by_ingress: Mapping[str, int]
    results: int
    lost: int
    duplicates: int
    outcomes: Mapping[str, int]
    found_by: Mapping[str, int]
    creates: int
    creates_unanswered: int
    repeats: int
    """Creates after the first one of their job: retries."""
    unexplained_creates: int
    row_mismatches: int
    detection: Mapping[str, Spread]
    """From the end at the provider until a consumer read the result, by how the end was found."""
    webhook_to_result: Spread
    request_to_create: Spread
    restarts: Mapping[str, int]
    violations: tuple[Breach, ...]


def judge(evidence: Evidence) -> RunVerdict:
    """Count the evidence, and list every violation."""
    submitted = {job.job_id: job for job in evidence.acknowledged}
    results: dict[str, list[Result]] = defaultdict(list)
    for result in evidence.results:
        results[result.job_id].append(result)
    first = {job_id: copies[0] for job_id, copies in results.items()}

    outcomes = {job_id: result.outcome for job_id, result in first.items()}
    lost = unanswered(submitted, results)
    duplicates = repeated({job_id: len(copies) for job_id, copies in results.items()})
    unexplained = uncaused(evidence.creates, _causes(submitted, first), "result")
    mismatches = mismatched(outcomes, evidence.rows)
    findings = (lost, duplicates, unsubmitted(results, submitted), unexplained, mismatches)
    per_job = Counter(create.job_id for create in evidence.creates)
    return RunVerdict(
        jobs=len(submitted),
        by_ingress=dict(Counter(job.ingress for job in submitted.values())),
        results=len(evidence.results),
        lost=lost.count,
        duplicates=len(evidence.results) - len(results),
        outcomes=dict(Counter(outcomes.values()).most_common()),
        found_by=dict(Counter(result.found_by for result in first.values() if result.found_by).most_common()),
        creates=len(evidence.creates),
        creates_unanswered=sum(not create.replied for create in evidence.creates),
        repeats=sum(count - 1 for count in per_job.values()),
        unexplained_creates=unexplained.count,
        row_mismatches=mismatches.count,
        detection=_detection(first.values(), evidence.ended_at_ms),
        webhook_to_result=_webhook_to_result(first.values(), evidence.webhooks),
        request_to_create=_request_to_create(submitted, evidence.creates),
        restarts={name: count for name, count in evidence.restarts.items() if count},
        violations=tuple(finding for finding in findings if finding.examples),
    )


def spread(values: Iterable[int]) -> Spread:
    """Nearest-rank percentiles."""
    ordered = sorted(values)
    if not ordered:
        return Spread(0, None, None, None)
    return Spread(len(ordered), _rank(ordered, 50), _rank(ordered, 99), ordered[-1])


def _rank(ordered: Sequence[int], percent: int) -> int:
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _causes(submitted: Mapping[str, Acknowledged], results: Mapping[str, Result]) -> dict[str, Causes]:
    """A job without a result yet accounts for any attempt up to its retries."""
    return {
        job_id: Causes(1 + job.retries_max, result.attempts, result.unpaid)
        if (result := results.get(job_id))
        else Causes(1 + job.retries_max, None)
        for job_id, job in submitted.items()
    }


def _detection(results: Iterable[Result], ended_at_ms: Mapping[str, int]) -> dict[str, Spread]:
    delays: dict[str, list[int]] = defaultdict(list)
    for result in results:
        ended = ended_at_ms.get(result.response_id or "")
        if result.found_by is not None and ended is not None:
            delays[result.found_by].append(result.seen_at_ms - ended)
    return {found_by: spread(values) for found_by, values in sorted(delays.items())}


def _webhook_to_result(results: Iterable[Result], webhooks: Sequence[HeardWebhook]) -> Spread:
    sent: dict[str, int] = {}
    for webhook in webhooks:
        sent.setdefault(webhook.response_id, webhook.sent_at_ms)
    return spread(
        result.seen_at_ms - sent[result.response_id]
        for result in results
        if result.found_by == "webhook" and result.response_id in sent
    )


def _request_to_create(submitted: Mapping[str, Acknowledged], creates: Sequence[Create]) -> Spread:
    return spread(
        create.at_ms - job.at_ms
        for create in creates
        if create.attempt == 1 and (job := submitted.get(create.job_id or "")) is not None
    )
