"""The deliveries of a result: their ids and events. Pure; ids are derived, never drawn."""

import hashlib
from typing import Final, assert_never

from schemas.deliveries import Delivery, DeliveryAsked, DeliveryPlanned
from schemas.job_ids import own_job_id
from schemas.results import JobResult, result_traceparent
from schemas.statuses import JobOutcome, end_response_status
from schemas.webhook_endpoints import EventType

ID_HEX: Final = 32


def event_of(outcome: JobOutcome) -> EventType:
    """The event type for a job's outcome, by the status that `/v1/responses` shows."""
    status = end_response_status(outcome)
    match status:
        case "completed":
            return "response.completed"
        case "failed":
            return "response.failed"
        case "incomplete":
            return "response.incomplete"
        case "cancelled":
            return "response.cancelled"
        case _:
            assert_never(status)


def delivery_of(result: JobResult, endpoint_id: str) -> Delivery:
    return Delivery(
        endpoint_id=endpoint_id,
        tenant=result.tenant,
        job_id=result.job_id,
        event_type=event_of(result.outcome),
        response_id=own_job_id(result.tenant, result.job_id),
        created_at_s=result.timings.finished_at_ms // 1000,
        traceparent=result_traceparent(result),
    )


def planned(result: JobResult, endpoint_id: str, at_ms: int) -> DeliveryPlanned:
    """The fact that a result is to be delivered to an endpoint; the same result gives the same fact."""
    delivery_id = _delivery_id(result, endpoint_id)
    return DeliveryPlanned(
        id=f"{delivery_id}/planned", at_ms=at_ms, delivery_id=delivery_id, delivery=delivery_of(result, endpoint_id)
    )


def asked(result: JobResult, endpoint_id: str, asked_at_ms: int) -> DeliveryAsked:
    """The fact that a caller wants this result sent or sent again. The `webhook-id` stays that of the first time."""
    delivery_id = _delivery_id(result, endpoint_id)
    return DeliveryAsked(
        id=f"{delivery_id}/asked/{asked_at_ms}", at_ms=asked_at_ms, asked_at_ms=asked_at_ms, delivery_id=delivery_id,
        delivery=delivery_of(result, endpoint_id),
    )  # fmt: skip


def asked_test(endpoint_id: str, tenant: str, event_type: EventType, nonce: str, asked_at_ms: int) -> DeliveryAsked:
    """A test event about a response that does not exist, to check an endpoint."""
    response_id = f"resp_test_{nonce}"
    delivery_id = f"whd_{_hashed('test', endpoint_id, nonce)}"
    return DeliveryAsked(
        id=f"{delivery_id}/asked/{asked_at_ms}", at_ms=asked_at_ms, asked_at_ms=asked_at_ms, delivery_id=delivery_id,
        delivery=Delivery(
            endpoint_id=endpoint_id, tenant=tenant, job_id=response_id, event_type=event_type, response_id=response_id,
            created_at_s=asked_at_ms // 1000, test=True,
        ),
    )  # fmt: skip


def event_id(delivery: Delivery) -> str:
    """One id per end of a response, the same for all its endpoints."""
    return f"evt_{_hashed(delivery.job_id, str(delivery.created_at_s), delivery.event_type)}"


def _delivery_id(result: JobResult, endpoint_id: str) -> str:
    # A forgotten job's id may be reused by another job, so the time of submission is part of the id.
    return f"whd_{_hashed(endpoint_id, result.job_id, str(result.timings.submitted_at_ms))}"


def _hashed(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:ID_HEX]
