"""Metrics of outgoing webhooks, each declared once. Labels have closed sets of values: no tenant, endpoint or URL."""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0)


class OutgoingMetrics:
    """One per process; a test passes its own registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.planned = Counter("backstop_outgoing_planned_total", "Deliveries planned from results.", registry=registry)
        self.attempts = Counter(
            "backstop_outgoing_attempts_total", "Attempts by result: delivered, or why they failed.", ("result",),
            registry=registry,
        )  # fmt: skip
        self.attempt_seconds = Histogram(
            "backstop_outgoing_attempt_duration_seconds", "Time of one attempt.", buckets=_SECONDS, registry=registry
        )
        self.delay_seconds = Histogram(
            "backstop_outgoing_delay_seconds", "Time from an attempt's due time to its start.",
            buckets=(*_SECONDS, 60.0, 300.0, 1_800.0), registry=registry,
        )  # fmt: skip
        self.dead = Counter(
            "backstop_outgoing_dead_total", "Deliveries abandoned, by reason.", ("reason",), registry=registry
        )
        self.disabled = Counter(
            "backstop_outgoing_endpoints_disabled_total", "Endpoints disabled because they answered 410.",
            registry=registry,
        )  # fmt: skip
        self.ignored = Counter(
            "backstop_outgoing_facts_ignored_total", "Delivery facts that changed nothing, by reason.", ("reason",),
            registry=registry,
        )  # fmt: skip
        self.dead_letters = Counter(
            "backstop_outgoing_dead_letters_total", "Records that could not be read, by topic.", ("topic",),
            registry=registry,
        )  # fmt: skip
        self.resent = Counter("backstop_outgoing_resent_total", "Deliveries requested by resends.", registry=registry)
        self.open = Gauge("backstop_outgoing_open", "Deliveries neither made nor abandoned.", registry=registry)
        self.in_flight = Gauge("backstop_outgoing_in_flight", "Attempts under way.", registry=registry)
        self.endpoints = Gauge(
            "backstop_outgoing_endpoints", "Registered endpoints by state.", ("state",), registry=registry
        )
