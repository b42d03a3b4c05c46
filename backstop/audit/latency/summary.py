"""The latency report as figures: spans by model, tier and hour, and the share of webhooks that were lost. Pure."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from backstop.audit.latency.rows import Job, LatencyRows, ResponseRun
from backstop.audit.latency.statistics import Interval, Sample, proportion, quantiles

MISSED_AFTER_MS: Final = 30_000
"""As `streams.policy.webhook_loss.JUDGED_AFTER_MS`."""
FEW: Final = 20
"""Groups with fewer ends are marked."""
MODELS_MAX: Final = 12
HOURS_MAX: Final = 168
SHARES: Final = (0.5, 0.95, 0.99)
HOUR_MS: Final = 3_600_000

StageName = Literal["queue", "create", "run", "webhook", "detection", "total"]
STAGES: Final[dict[StageName, str]] = {
    "queue": "from submission to the acceptance of the first attempt; waits for limits included",
    "create": "from the create that was sent to the provider's answer",
    "run": "from created_at to completed_at, both by the provider's clock",
    "webhook": "from the end to the arrival of its webhook, where one came",
    "detection": "from the end to the fact that told the job",
    "total": "from submission to result",
}


@dataclass(frozen=True, slots=True)
class Stage:
    ended: int
    open: int
    """Spans without an end: still going on, or cut by a cancel. They count as lasting at least as long as seen."""
    p50: Interval
    p95: Interval
    p99: Interval

    @property
    def few(self) -> bool:
        return self.ended < FEW


@dataclass(frozen=True, slots=True)
class LatencyGroup:
    by: Literal["all", "model", "tier", "hour"]
    name: str
    jobs: int
    stages: Mapping[StageName, Stage]


@dataclass(frozen=True, slots=True)
class Misses:
    """Ends without a webhook within `MISSED_AFTER_MS`."""

    ends: int
    missed: int
    share: Interval


@dataclass(frozen=True, slots=True)
class Summary:
    since_ms: int
    first_ms: int
    """The first submission."""
    until_ms: int
    end_ms: int
    jobs: int
    open_jobs: int
    outcomes: Mapping[str, int]
    responses: int
    control: Misses
    others: Misses
    late: int
    """Webhooks that came, but later than that."""
    groups: Sequence[LatencyGroup]

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "missed_after_ms": MISSED_AFTER_MS,
            "confidence": 0.95,
            "few": FEW,
            "stages": dict(STAGES),
        }


def summarize(rows: LatencyRows) -> Summary:
    runs, jobs = list(rows.runs.values()), list(rows.jobs.values())
    judged = [run for run in runs if run.end_ms is not None and run.end_ms + MISSED_AFTER_MS <= rows.end_ms]
    return Summary(
        since_ms=rows.since_ms,
        first_ms=min(job.submitted_ms for job in jobs),
        until_ms=rows.until_ms,
        end_ms=rows.end_ms,
        jobs=len(jobs),
        open_jobs=sum(job.ended_ms is None for job in jobs),
        outcomes=dict(sorted(Counter(job.outcome for job in jobs if job.outcome is not None).items())),
        responses=len(runs),
        control=_misses(run for run in judged if run.control),
        others=_misses(run for run in judged if not run.control),
        late=sum(run.webhook_ms is not None and missed(run) for run in judged),
        groups=_groups(jobs, runs, rows.end_ms),
    )


def missed(run: ResponseRun) -> bool:
    """Whether no webhook came in time; the end is known."""
    end_ms = run.end_ms
    return run.webhook_ms is None or (end_ms is not None and run.webhook_ms > end_ms + MISSED_AFTER_MS)


def spans(stage: StageName, jobs: Iterable[Job], runs: Iterable[ResponseRun], end_ms: int) -> list[Sample]:
    """The spans of a stage, open ones included."""
    match stage:
        case "queue":
            return [_queued(job, end_ms) for job in jobs]
        case "create":
            return [Sample(run.create_ms) for run in runs if run.create_ms is not None]
        case "run":
            return [Sample(run.seen_ms if run.run_ms is None else run.run_ms, run.run_ms is not None) for run in runs]
        case "webhook":
            return [Sample(max(0, at - end)) for run in runs if (end := run.end_ms) is not None
                    and (at := run.webhook_ms) is not None]  # fmt: skip
        case "detection":
            return [Sample(max(0, at - end)) for run in runs if (end := run.end_ms) is not None
                    and (at := run.told_ms) is not None]  # fmt: skip
        case "total":
            return [
                Sample(max(0, (job.ended_ms or end_ms) - job.submitted_ms), job.ended_ms is not None) for job in jobs
            ]


def _queued(job: Job, end_ms: int) -> Sample:
    until_ms = job.accepted_ms or job.ended_ms or end_ms
    return Sample(max(0, until_ms - job.submitted_ms), job.accepted_ms is not None)


def hour_of(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1_000, UTC):%Y-%m-%d %H:00}"


def _misses(runs: Iterable[ResponseRun]) -> Misses:
    judged = list(runs)
    count = sum(missed(run) for run in judged)
    return Misses(len(judged), count, proportion(count, len(judged)))


def _groups(jobs: Sequence[Job], runs: Sequence[ResponseRun], end_ms: int) -> list[LatencyGroup]:
    busiest = [model for model, _ in Counter(job.model for job in jobs).most_common(MODELS_MAX)]

    def model_of(row: Job | ResponseRun) -> str:
        return row.model if row.model in busiest else "other models"

    found = [LatencyGroup("all", "all", len(jobs), _stages(jobs, runs, end_ms))]
    found += _by("model", model_of, jobs, runs, end_ms)
    found += _by("tier", lambda row: row.tier, jobs, runs, end_ms)
    hours = _by("hour", lambda row: hour_of(row.submitted_ms if isinstance(row, Job) else row.accepted_ms),
                jobs, runs, end_ms)  # fmt: skip
    return [*found, *hours[-HOURS_MAX:]]


def _by(
    by: Literal["model", "tier", "hour"], name_of: Callable[[Job | ResponseRun], str], jobs: Sequence[Job],
    runs: Sequence[ResponseRun], end_ms: int,
) -> list[LatencyGroup]:  # fmt: skip
    of: dict[str, tuple[list[Job], list[ResponseRun]]] = defaultdict(lambda: ([], []))
    for job in jobs:
        of[name_of(job)][0].append(job)
    for run in runs:
        of[name_of(run)][1].append(run)
    return [LatencyGroup(by, name, len(mine[0]), _stages(*mine, end_ms)) for name, mine in sorted(of.items())]


def _stages(jobs: Sequence[Job], runs: Sequence[ResponseRun], end_ms: int) -> dict[StageName, Stage]:
    return {name: _stage(spans(name, jobs, runs, end_ms)) for name in STAGES}


def _stage(samples: Sequence[Sample]) -> Stage:
    ended = sum(sample.ended for sample in samples)
    return Stage(ended, len(samples) - ended, *quantiles(samples, SHARES))
