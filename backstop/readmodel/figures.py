"""Ended jobs to figures: how long what took, and how often a webhook came. Pure.

Of a bounded number of jobs, the last that ended, so that an answer takes the same time after a month as after a day; it says
how many were counted. Quantiles are exact for those; the distributions are counts between fixed edges.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from typing_extensions import TypedDict

MODELS_MAX = 12
"""Beyond it the rarer models are counted together, as `(other)`."""
OTHER = "(other)"

EDGES_MS: Final = tuple(round(50 * 1.5**step) for step in range(31))
"""Upper edges: the buckets of the metrics, × 1.5 from 50 ms to beyond two hours and a half. What is longer is beyond the last."""

PERIODS_MS: Final = tuple(minutes * 60_000 for minutes in (1, 5, 15, 30, 60, 180, 360, 720, 1_440, 10_080))
PERIODS_MAX = 60

Span = Literal["queued", "running", "webhook_lag", "detection"]
SPANS: Final[tuple[Span, ...]] = get_args(Span)


@dataclass(frozen=True, slots=True)
class EndedJob:
    """What the figures need of a job. Times and spans in milliseconds."""

    model: str | None
    status: str
    found_by: str | None
    finished_at_ms: int
    queued_ms: int | None
    running_ms: int | None
    webhook_lag_ms: int | None
    detection_ms: int | None

    def span_ms(self, span: Span) -> int | None:
        found: int | None = getattr(self, f"{span}_ms")
        return found

    @property
    def missed_webhook(self) -> bool:
        """A look found the end, and no webhook had come until then."""
        return self.found_by == "poll" and self.webhook_lag_ms is None


class FoundView(TypedDict):
    """Ends by how they were found; `missed`: no webhook had come when a look found them. `create`: the create's own answer was the end."""

    webhook: int
    poll: int
    create: int
    missed: int


class PeriodView(FoundView):
    """The ends of one period."""

    from_ms: int


class WebhooksView(FoundView):
    """How ends were found, over all and by period; a period without ends is left out."""

    period_ms: int
    periods: list[PeriodView]


class DistributionView(TypedDict):
    """Exact quantiles, and a count for each edge: above the edge before, and not above this one. The last is beyond all edges."""

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


class StatsView(TypedDict):
    """The figures of the jobs that ended since an instant."""

    object: Literal["stats"]
    since_ms: int
    until_ms: int
    ended: int
    cut: bool
    outcomes: dict[str, int]
    edges_ms: list[int]
    models: list[ModelView]
    webhooks: WebhooksView


def stats(jobs: Sequence[EndedJob], since_ms: int, now_ms: int, jobs_max: int) -> StatsView:
    """The figures of these jobs, newest first. As many as `jobs_max` means that there may be more: the figures then begin at
    the oldest of them.
    """
    cut = len(jobs) >= jobs_max
    from_ms = jobs[-1].finished_at_ms if cut and jobs else since_ms
    names = Counter(job.model for job in jobs if job.model is not None)
    kept = {name for name, _ in names.most_common(MODELS_MAX)}
    by_model: dict[str, list[EndedJob]] = {}
    for job in jobs:
        if job.model is not None:  # one that was refused unread has no model, and no times
            by_model.setdefault(job.model if job.model in kept else OTHER, []).append(job)
    return {
        "object": "stats",
        "since_ms": from_ms,
        "until_ms": now_ms,
        "ended": len(jobs),
        "cut": cut,
        "outcomes": dict(Counter(job.status for job in jobs)),
        "edges_ms": list(EDGES_MS),
        "models": [_model(name, mine) for name, mine in sorted(by_model.items(), key=lambda item: -len(item[1]))],
        "webhooks": webhook_health(jobs, from_ms, now_ms),
    }


def webhook_health(jobs: Iterable[EndedJob], since_ms: int, now_ms: int) -> WebhooksView:
    """Ends by how they were found, over all and by period. `missed` are those whose webhook had not come when a look found them."""
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
    """The shortest round period of which `PERIODS_MAX` cover the span."""
    longest_ms = PERIODS_MS[-1]
    weeks = math.ceil(span_ms / (PERIODS_MAX * longest_ms)) * longest_ms
    return next((period_ms for period_ms in PERIODS_MS if span_ms <= PERIODS_MAX * period_ms), weeks)


def distribution(spans_ms: Sequence[int]) -> DistributionView:
    ordered = sorted(spans_ms)
    counts = [0] * (len(EDGES_MS) + 1)
    for span_ms in ordered:
        counts[bisect_left(EDGES_MS, span_ms)] += 1
    p50_ms, p90_ms, p99_ms, max_ms = (quantile(ordered, share) for share in (0.5, 0.9, 0.99, 1.0))
    return {"n": len(ordered), "p50_ms": p50_ms, "p90_ms": p90_ms, "p99_ms": p99_ms, "max_ms": max_ms, "counts": counts}


def quantile(ordered: Sequence[int], share: float) -> int | None:
    """The least value that at least `share` of all do not exceed; None of nothing."""
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
