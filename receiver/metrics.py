"""The metrics of the receiver, each declared once. No label takes a value that a caller chooses."""

from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from schemas.statuses import END_RESPONSE_STATUSES

WebhookResult = Literal[
    "accepted", "repeated", "bad_signature", "stale", "too_large", "malformed", "unknown_type", "unavailable"
]  # fmt: skip

KNOWN_EVENT_TYPES: Final = frozenset(f"response.{status}" for status in END_RESPONSE_STATUSES)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _buckets(first_s: float, last_s: float) -> tuple[float, ...]:
    """Edges from `first_s` to at least `last_s`, each 1.5 times the one before."""
    edges = [first_s]
    while edges[-1] < last_s:
        edges.append(float(f"{edges[-1] * 1.5:.3g}"))
    return tuple(edges)


class ReceiverMetrics:
    """One instance per registry. Times in seconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._webhooks = Counter(
            "backstop_webhooks_received_total",
            "Webhooks received, by event type (unverified: signature not accepted) and result.",
            ("type", "result"),
            registry=registry,
        )
        self._verified = Counter(
            "backstop_webhook_verified_total",
            "Authentic webhooks, by the digest of the secret that signed them.",
            ("key_id",),
            registry=registry,
        )
        self.webhook_lag_seconds = Histogram(
            "backstop_webhook_lag_seconds",
            "From the end of a response, by the provider's clock, to the arrival of its webhook.",
            buckets=_buckets(0.05, 7_200),
            registry=registry,
        )
        self.jobs_submitted = Counter(
            "backstop_jobs_submitted_total", "Submissions acknowledged by the log.", ("ingress",), registry=registry
        )
        self.find_job_failed = Counter(
            "backstop_find_job_failed_total",
            "Lookups of a job id that the read model did not answer.",
            registry=registry,
        )
        self._requests = Histogram(
            "backstop_http_request_duration_seconds",
            "Time from a request's headers to the end of its answer.",
            ("method", "route", "status_class"),
            buckets=_buckets(0.001, 60),
            registry=registry,
        )
        self.connections = Gauge(
            "backstop_http_connections", "Open connections, those that are being closed among them.", registry=registry
        )
        self.connections_refused = Counter(
            "backstop_http_connections_refused_total",
            "Connections refused or closed to make room, by reason.",
            ("reason",),
            registry=registry,
        )

    def webhook(self, event_type: str | None, result: WebhookResult) -> None:
        """Count a webhook. `event_type` is None before the signature has matched."""
        label = "unverified"
        if event_type is not None:
            label = event_type if event_type in KNOWN_EVENT_TYPES else "other"
        self._webhooks.labels(label, result).inc()

    def verified(self, key_id: str) -> None:
        self._verified.labels(key_id).inc()

    def request(self, method: str, route: str, status: int, duration_s: float) -> None:
        method = method if method in METHODS else "other"
        self._requests.labels(method, route, f"{status // 100}xx").observe(duration_s)
