"""Figures of ended jobs: durations, and how often a webhook arrived. Pure.

They cover a bounded number of jobs, those that ended last, so that an answer after a month takes no longer than after a
day; the answer says how many. Quantiles are exact for these jobs; distributions are counts between fixed edges.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NotRequired, get_args

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from backstop.readmodel.costs import Dollars, Tally
from backstop.readmodel.refusals import RefusedView, refused_view
from schemas.base import Cause

MODELS_MAX = 12
"""Rarer models beyond this number are counted together, as `(other)`."""
OTHER = "(other)"

EDGES_MS: Final = tuple(round(50 * 1.5**step) for step in range(31))
"""Upper edges, the same as the metrics' buckets: × 1.5 from 50 ms to
over two and a half hours. The last count is above all edges.
"""

PERIODS_MS: Final = tuple(minutes * 60_000 for minutes in (1, 5, 15, 30, 60, 180, 360, 720, 1_440, 10_080))
PERIODS_MAX = 60
ASKED_WITHIN_MS: Final = 10_000
"""A caller that asks for the last hour counted it back from its own time, a moment before."""

_DOCUMENTED: Final = ConfigDict(use_attribute_docstrings=True)

FAILED: Final = frozenset({"failed", "expired", "rejected"})
"""Outcomes of jobs that did not do what was asked; a cancel is no failure."""

Span = Literal["queued", "running", "webhook_lag", "detection"]
SPANS: Final[tuple[Span, ...]] = get_args(Span)


@dataclass(frozen=True, slots=True)
class EndedJob:
    """The fields of a job that the figures need. Times and spans in milliseconds."""

    model: str | None
    status: str
    found_by: str | None
    finished_at_ms: int
    queued_ms: int | None
    running_ms: int | None
    webhook_lag_ms: int | None
    detection_ms: int | None
    tokens: int = 0

    def span_ms(self, span: Span) -> int | None:
        found: int | None = getattr(self, f"{span}_ms")
        return found

    @property
    def missed_webhook(self) -> bool:
        """A poll found the end before any webhook arrived."""
        return self.found_by == "poll" and self.webhook_lag_ms is None


@dataclass(frozen=True, slots=True)
class Creates:
    """What became of creates, by the start of the period."""

    refused: Mapping[int, Mapping[Cause, int]] = field(default_factory=dict)
    spent: Mapping[int, Tally] = field(default_factory=dict)
    known_from_ms: int = 0
    """Of periods that begin before, neither is known."""


class FoundView(TypedDict):
    """Ends by how they were found. `create`: the create's answer was
    the end. `missed`: a poll found it without a webhook.
    """

    webhook: int
    poll: int
    create: int
    missed: int


class PeriodView(FoundView):
    """The ends of one period."""

    from_ms: int


class WebhooksView(FoundView):
    """Ends by how they were found, in total and by period. Periods without ends are left out."""

    period_ms: int
    periods: list[PeriodView]


class DistributionView(TypedDict):
    """Exact quantiles, and a count per edge: above the previous edge,
    at most this one. The last count is above all edges.
    """

    n: int
    p50_ms: int | None
    p90_ms: int | None
    p99_ms: int | None
    max_ms: int | None
    counts: list[int]


class ModelView(TypedDict):
    """The figures of one model's jobs."""

    model: str
    ended: int
    queued: DistributionView
    running: DistributionView
    webhook_lag: DistributionView
    detection: DistributionView


@with_config(_DOCUMENTED)
class SpentView(TypedDict):
    """What attempts cost, by the time at which the provider took them."""

    cost_usd: NotRequired[Dollars]
    """As in `GET /v1/costs`: of the attempts whose cost is known; left out, and never 0, where that is not known."""
    attempts: int
    unmeasured: int
    """Of them, those whose usage is not known, or not yet."""
    unpriced: int
    """Of them, those whose usage has no price."""


@with_config(_DOCUMENTED)
class CourseView(TypedDict):
    """What happened in one period. Of runs: how long those took that ended in it."""

    from_ms: int
    submitted: int
    ended: int
    failed: int
    running_p50_ms: int | None
    running_p95_ms: int | None
    tokens: int
    refused: NotRequired[RefusedView]
    """Left out, as `spent`, of periods that began more than eight days ago: of those it is not known."""
    spent: NotRequired[SpentView]


class StatsView(TypedDict):
    """The figures of the jobs that ended since an instant."""

    object: Literal["stats"]
    since_ms: int
    until_ms: int
    ended: int
    truncated: bool
    outcomes: dict[str, int]
    edges_ms: list[int]
    models: list[ModelView]
    webhooks: WebhooksView
    course: list[CourseView]
    """By period of `webhooks.period_ms`. Periods in which nothing happened are left out."""


def counted_from_ms(jobs: Sequence[EndedJob], since_ms: int, jobs_max: int) -> int:
    """If there are `jobs_max` jobs, newest first, older ones may be missing: then the end of the oldest."""
    return jobs[-1].finished_at_ms if jobs and len(jobs) >= jobs_max else since_ms


def stats(
    jobs: Sequence[EndedJob], since_ms: int, now_ms: int, jobs_max: int, submitted_ms: Sequence[int] = (),
    creates: Creates | None = None,
) -> StatsView:  # fmt: skip
    """The figures of `jobs`, which are newest first, as are the times of submission, since `counted_from_ms`.

    :param creates: by periods of `period_of` the time that is counted.
    """
    from_ms = counted_from_ms(jobs, since_ms, jobs_max)
    begun_ms = [at_ms for at_ms in submitted_ms if at_ms >= from_ms]
    names = Counter(job.model for job in jobs if job.model is not None)
    kept = {name for name, _ in names.most_common(MODELS_MAX)}
    by_model: dict[str, list[EndedJob]] = {}
    for job in jobs:
        if job.model is not None:  # a job refused before its request was read has no model and no times
            by_model.setdefault(job.model if job.model in kept else OTHER, []).append(job)
    return {
        "object": "stats",
        "since_ms": from_ms,
        "until_ms": now_ms,
        "ended": len(jobs),
        "truncated": len(jobs) >= jobs_max,
        "outcomes": dict(Counter(job.status for job in jobs)),
        "edges_ms": list(EDGES_MS),
        "models": [_model(name, mine) for name, mine in sorted(by_model.items(), key=lambda item: -len(item[1]))],
        "webhooks": webhook_health(jobs, from_ms, now_ms),
        "course": course(jobs, begun_ms, creates or Creates(), period_of(now_ms - from_ms)),
    }


def course(
    jobs: Iterable[EndedJob], submitted_ms: Iterable[int], creates: Creates, period_ms: int
) -> list[CourseView]:  # fmt: skip
    """What happened, by period."""
    begun = Counter(at_ms // period_ms * period_ms for at_ms in submitted_ms)
    ended: dict[int, list[EndedJob]] = {}
    for job in jobs:
        ended.setdefault(job.finished_at_ms // period_ms * period_ms, []).append(job)
    views: list[CourseView] = []
    for from_ms in sorted(begun.keys() | ended.keys() | creates.refused.keys() | creates.spent.keys()):
        mine = ended.get(from_ms, [])
        ran = sorted(job.running_ms for job in mine if job.running_ms is not None)
        views.append(
            {
                "from_ms": from_ms, "submitted": begun[from_ms], "ended": len(mine),
                "failed": sum(job.status in FAILED for job in mine),
                "running_p50_ms": quantile(ran, 0.5), "running_p95_ms": quantile(ran, 0.95),
                "tokens": sum(job.tokens for job in mine),
            }
        )  # fmt: skip
        if from_ms >= creates.known_from_ms:
            views[-1]["refused"] = refused_view(creates.refused.get(from_ms, {}))
            views[-1]["spent"] = _spent(creates.spent.get(from_ms, Tally()))
    return views


def _spent(tally: Tally) -> SpentView:
    whole = tally.view()
    view: SpentView = {
        "attempts": whole["attempts"], "unmeasured": whole["unmeasured"], "unpriced": whole["unpriced"],
    }  # fmt: skip
    if "cost_usd" in whole:
        view["cost_usd"] = whole["cost_usd"]
    return view


def webhook_health(jobs: Iterable[EndedJob], since_ms: int, now_ms: int) -> WebhooksView:
    """Ends by how they were found, in total and by period.
    `missed`: a poll found the end before any webhook arrived.
    """
    seen = [job for job in jobs if job.found_by is not None]
    period_ms = period_of(now_ms - since_ms)
    periods: dict[int, list[EndedJob]] = {}
    for job in seen:
        periods.setdefault(job.finished_at_ms // period_ms * period_ms, []).append(job)
    return {
        **_found(seen),
        "period_ms": period_ms,
        "periods": [{**_found(periods[from_ms]), "from_ms": from_ms} for from_ms in sorted(periods)],
    }


def period_of(span_ms: int) -> int:
    """The shortest round period such that `PERIODS_MAX` of them cover the span, but for `ASKED_WITHIN_MS`."""
    span_ms = max(0, span_ms - ASKED_WITHIN_MS)
    longest_ms = PERIODS_MS[-1]
    weeks = math.ceil(span_ms / (PERIODS_MAX * longest_ms)) * longest_ms
    return next((period_ms for period_ms in PERIODS_MS if span_ms <= PERIODS_MAX * period_ms), weeks)


def webhooks_since_ms(jobs: Iterable[EndedJob]) -> tuple[int, int | None]:
    """Of jobs, newest first: how many ends in a row a poll found without a webhook, and when the end before them came;
    None if there was none.
    """
    silent = 0
    for job in jobs:
        if job.found_by not in ("webhook", "poll"):
            continue
        if not job.missed_webhook:
            return silent, job.finished_at_ms
        silent += 1
    return silent, None


def distribution(spans_ms: Sequence[int]) -> DistributionView:
    ordered = sorted(spans_ms)
    counts = [0] * (len(EDGES_MS) + 1)
    for span_ms in ordered:
        counts[bisect_left(EDGES_MS, span_ms)] += 1
    p50_ms, p90_ms, p99_ms, max_ms = (quantile(ordered, share) for share in (0.5, 0.9, 0.99, 1.0))
    return {"n": len(ordered), "p50_ms": p50_ms, "p90_ms": p90_ms, "p99_ms": p99_ms, "max_ms": max_ms, "counts": counts}


def quantile(ordered: Sequence[int], share: float) -> int | None:
    """The least value that at least `share` of all values do not exceed; None if there are no values."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _model(name: str, jobs: Sequence[EndedJob]) -> ModelView:
    queued, running, webhook_lag, detection = (
        distribution([taken for job in jobs if (taken := job.span_ms(span)) is not None]) for span in SPANS
    )
    return {
        "model": name, "ended": len(jobs),
        "queued": queued, "running": running, "webhook_lag": webhook_lag, "detection": detection,
    }  # fmt: skip


def _found(jobs: Sequence[EndedJob]) -> FoundView:
    found = Counter(job.found_by for job in jobs)
    return {
        "webhook": found["webhook"], "poll": found["poll"], "create": found["create"],
        "missed": sum(job.missed_webhook for job in jobs),
    }  # fmt: skip
