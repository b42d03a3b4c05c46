"""Short constructors for the facts of one delivery."""

from typing import Any

from backstop.outgoing.fold import Pending
from schemas.deliveries import Delivery, DeliveryAsked, DeliveryDead, DeliveryDone, DeliveryFailed, DeliveryPlanned
from schemas.results import JobResult, Timings
from schemas.statuses import JobOutcome
from schemas.webhook_endpoints import EVENT_TYPES, EndpointSaved, SecretRef

ENDPOINT_ID = "we_" + "1" * 32
OTHER_ENDPOINT_ID = "we_" + "2" * 32
DELIVERY_ID = "whd_" + "0" * 32
NOW_MS = 1_750_861_210_000
DELIVERY = Delivery(
    endpoint_id=ENDPOINT_ID, tenant="acme", job_id="acme:resp_1", event_type="response.completed", response_id="resp_1",
    created_at_s=NOW_MS // 1000 - 1,
)  # fmt: skip


def numbered(number: int) -> str:
    return f"whd_{number:032x}"


def _of(delivery_id: str, asked_at_ms: int) -> dict[str, Any]:
    return {"delivery_id": delivery_id, "delivery": DELIVERY, "asked_at_ms": asked_at_ms}


def planned(delivery_id: str = DELIVERY_ID, at_ms: int = NOW_MS) -> DeliveryPlanned:
    return DeliveryPlanned(id="planned", at_ms=at_ms, **_of(delivery_id, 0))


def asked(at_ms: int, delivery_id: str = DELIVERY_ID) -> DeliveryAsked:
    return DeliveryAsked(id="asked", at_ms=at_ms, **_of(delivery_id, at_ms))


def failed(attempt: int, next_at_ms: int, asked_at_ms: int = 0, delivery_id: str = DELIVERY_ID) -> DeliveryFailed:
    return DeliveryFailed(
        id=f"failed/{attempt}", at_ms=NOW_MS, attempt=attempt, next_at_ms=next_at_ms, failed_by="status", status=500,
        **_of(delivery_id, asked_at_ms),
    )  # fmt: skip


def done(attempt: int, asked_at_ms: int = 0, delivery_id: str = DELIVERY_ID) -> DeliveryDone:
    return DeliveryDone(
        id=f"done/{attempt}", at_ms=NOW_MS, attempt=attempt, status=200, **_of(delivery_id, asked_at_ms)
    )


def dead(attempt: int, asked_at_ms: int = 0, delivery_id: str = DELIVERY_ID) -> DeliveryDead:
    return DeliveryDead(
        id=f"dead/{attempt}", at_ms=NOW_MS, attempt=attempt, dead_by="gave_up", failed_by="timeout",
        **_of(delivery_id, asked_at_ms),
    )  # fmt: skip


def pending(attempts: int = 0, due_ms: int = NOW_MS, asked_at_ms: int = 0) -> Pending:
    return Pending(DELIVERY, asked_at_ms, attempts, due_ms)


def result(
    job_id: str = "acme:resp_1", outcome: JobOutcome = "completed", tenant: str = "acme", finished_at_ms: int = NOW_MS
) -> JobResult:
    timings = Timings(submitted_at_ms=finished_at_ms - 1_000, finished_at_ms=finished_at_ms)
    return JobResult(
        id=f"{job_id}/result", at_ms=finished_at_ms, job_id=job_id, tenant=tenant, outcome=outcome, timings=timings
    )


def saved(endpoint_id: str = ENDPOINT_ID, **changed: Any) -> EndpointSaved:
    fields: dict[str, Any] = {
        "id": "saved", "at_ms": 1, "endpoint_id": endpoint_id, "tenant": "acme", "created_at_ms": 1,
        "url": "https://hooks.example.com/x", "event_types": EVENT_TYPES, "secrets": (SecretRef(key_id="k", number=1),),
    }  # fmt: skip
    return EndpointSaved(**{**fields, **changed})
