"""Metrics of the submitter, the poller and the follower, each declared once.

Labels have values from closed sets or from Backstop's own code: no ids, no text from outside.
"""

import contextlib
from typing import Literal, assert_never, get_args

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from schemas.base import Cause
from schemas.lanes import lane_name
from streams.policy.lanes import Breaks, Lane
from streams.policy.learned_polls import LearnedPolls
from streams.provider import Alarm, Operation

AttemptResult = Literal[
    "accepted", "ended", "rejected_soon", "rejected_reset", "rejected_account", "rejected_odd", "rejected_never",
    "unknown", "expired", "held",
]  # fmt: skip
PollResult = Literal["running", "ended", "missing", "failed", "refused", "asked_again", "not_cancelled"]
DropReason = Literal[
    "overtaken", "merged", "duplicate", "unremembered", "not_committed", "dead_letter", "moved", "known"
]
SHARES_SHOWN = (0.5, 0.9, 0.99)
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 45.0)


def counted_as(cause: Cause) -> AttemptResult:
    match cause:
        case "limited":
            return "rejected_reset"
        case "never":
            return "rejected_never"
        case "account":
            return "rejected_account"
        case "odd":
            return "rejected_odd"
        case "held":
            return "held"
        case "overloaded" | "faulty" | "later" | "unsent":
            return "rejected_soon"
        case _:
            assert_never(cause)


class WorkerMetrics:
    """Metrics of the submitter and the poller. One per process; a test passes its own registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._attempts = Counter("backstop_attempts_total", "Creates by outcome.", ("result",), registry=registry)
        self._polls = Counter("backstop_polls_total", "Polls and cancels by outcome.", ("result",), registry=registry)
        self._dropped = Counter(
            "backstop_commands_dropped_total", "Commands not performed, by reason.", ("worker", "reason"),
            registry=registry,
        )  # fmt: skip
        self._requests = Counter(
            "backstop_openai_requests_total", "HTTP calls by status class (2xx … 5xx, or the kind of fault).",
            ("operation", "status_class"), registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "backstop_openai_request_duration_seconds", "Duration of an HTTP call, to the last byte.", ("operation",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._pickup = Histogram(
            "backstop_submission_pickup_seconds", "Time from a create command's record to its POST.",
            buckets=(0.005, *_SECONDS), registry=registry,
        )  # fmt: skip
        self._alarms = Counter(
            "backstop_openai_alarms_total", "Answers that an operator must act on, or of an unknown kind.",
            ("kind",), registry=registry,
        )  # fmt: skip
        self._report_retries = Counter(
            "backstop_report_retries_total", "Retries of facts that the broker did not acknowledge.", ("worker",),
            registry=registry,
        )  # fmt: skip
        self._orphans = Counter(
            "backstop_orphans_total", "Creates with an unknown outcome; an unknown response may run.",
            registry=registry,
        )  # fmt: skip
        self.poll_rate_limit = Gauge(
            "backstop_poll_rate_limit", "Polls and cancels a second that are allowed now.", registry=registry
        )
        self.polls_waiting = Gauge(
            "backstop_polls_waiting", "Polls and cancels that wait for their turn.", registry=registry
        )
        self._lanes_closed = Gauge(
            "backstop_lane_closed", "1 for a model whose creates wait, by reason (held: an operator must act).",
            ("model", "why"), registry=registry,
        )  # fmt: skip
        self.pauses = Gauge("backstop_pauses", "Pauses of creates in force, by operators.", registry=registry)
        self.polls_uncommitted = Gauge(
            "backstop_polls_uncommitted", "Polls and cancels that have begun and are not committed.", registry=registry
        )
        self.poll_lag_seconds = Gauge(
            "backstop_poll_lag_seconds", "Age of the oldest poll or cancel that has begun and is not finished.",
            registry=registry,
        )  # fmt: skip
        self.taken_again = Counter(
            "backstop_polls_taken_again_total",
            "Polls and cancels that another worker had begun and had not noted as finished.",
            registry=registry,
        )
        self._learned_ends = Gauge(
            "backstop_latency_ends", "Ends that the learned run times of a model are made of.", ("model",),
            registry=registry,
        )  # fmt: skip
        self._learned_seconds = Gauge(
            "backstop_latency_seconds", "Learned run time of a model, by the share of responses that end within it.",
            ("model", "share"), registry=registry,
        )  # fmt: skip
        self._webhook_loss = Gauge(
            "backstop_webhook_loss_share", "Share of ends that bring no webhook within 30 s.", registry=registry
        )
        self._poll_price = Gauge(
            "backstop_poll_price_seconds", "Seconds of late detection that a poll is worth now.", registry=registry
        )
        self.in_flight = Gauge("backstop_openai_in_flight", "Calls in flight.", ("worker",), registry=registry)

    def lane(self, model: str, lane: Lane) -> None:
        """A lane has closed or opened. Only closed lanes have a series; there are few."""
        name = lane_name(model)
        if lane.closed is None:
            for cause in get_args(Breaks):
                with contextlib.suppress(KeyError):
                    self._lanes_closed.remove(name, cause)
        else:
            self._lanes_closed.labels(name, lane.closed.breaks).set(1)

    def learned(self, polls: LearnedPolls) -> None:
        """Show what the schedules of polls are made of: the busiest models, and all together."""
        self._learned_ends.clear()
        self._learned_seconds.clear()
        for plan in polls.plans():
            if len(plan.of) > 1:
                continue
            model = plan.of[0] if plan.of else ""
            self._learned_ends.labels(model).set(plan.ends)
            for share in SHARES_SHOWN:
                run_ms = plan.curve.quantile_ms(share)
                if run_ms is not None:
                    self._learned_seconds.labels(model, f"{share:g}").set(run_ms / 1_000)
            if not plan.of:
                self._webhook_loss.set(plan.loss)
                self._poll_price.set(plan.price_s)

    def attempt(self, result: AttemptResult) -> None:
        self._attempts.labels(result).inc()
        if result == "unknown":
            self._orphans.inc()

    def poll(self, result: PollResult) -> None:
        self._polls.labels(result).inc()

    def dropped(self, worker: str, reason: DropReason, count: int = 1) -> None:
        self._dropped.labels(worker, reason).inc(count)

    def request(self, operation: Operation, status_class: str, seconds: float) -> None:
        self._requests.labels(operation, status_class).inc()
        self._seconds.labels(operation).observe(seconds)

    def picked_up(self, seconds: float) -> None:
        self._pickup.observe(max(0.0, seconds))

    def alarm(self, kind: Alarm) -> None:
        self._alarms.labels(kind).inc()

    def report_retried(self, worker: str) -> None:
        self._report_retries.labels(worker).inc()


class FollowerMetrics:
    """Metrics of followed streams. One per process; a test passes its own registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._events = Counter(
            "backstop_stream_events_total", "Events of followed streams: published (told), or why dropped.", ("what",),
            registry=registry,
        )  # fmt: skip
        self._lost = Counter(
            "backstop_streams_lost_total", "Streams that were not opened, or broke, by cause; most are opened again.",
            ("how",), registry=registry,
        )  # fmt: skip
        self._truncated = Counter(
            "backstop_streams_truncated_total", "Responses whose partial output was truncated, by reason.",
            ("reason",), registry=registry,
        )  # fmt: skip
        self.open = Gauge("backstop_streams_open", "Streams that are read now.", registry=registry)
        self.waiting = Gauge(
            "backstop_streams_waiting", "Responses whose stream waits for a free place.", registry=registry
        )
        self.unpublished = Counter(
            "backstop_partials_unacknowledged_total", "Retries of records of partial output.",
            registry=registry,
        )  # fmt: skip
        self.failed = Counter(
            "backstop_followers_failed_total", "Streams that were given up after a bug in Backstop.", registry=registry
        )

    def event(self, what: str) -> None:
        """:param what: a constant of Backstop."""
        self._events.labels(what).inc()

    def lost(self, how: str) -> None:
        """:param how: a constant of Backstop, or the name of an exception class."""
        self._lost.labels(how).inc()

    def truncated(self, reason: str) -> None:
        self._truncated.labels(reason).inc()
