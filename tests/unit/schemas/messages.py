"""One message of every class, with every optional field set somewhere."""

from typing import Any

from pydantic import TypeAdapter

from schemas.base import BlobBody, InlineBody, Message, Terms, Usage
from schemas.commands import POLL_COMMAND, SUBMISSION, CancelResponse, CreateResponse, RetrieveResponse
from schemas.dead_letters import DEAD_LETTER_RECORD, DeadLetter, DeadLetterResolved, Origin
from schemas.deliveries import (
    DELIVERY_RECORD,
    Delivery,
    DeliveryAsked,
    DeliveryDead,
    DeliveryDone,
    DeliveryFailed,
    DeliveryPlanned,
    ResendAsked,
    ResendDone,
)
from schemas.erasures import ERASURE_FACT, ErasureDone, ErasureRequested, ErasureScope, JobErased
from schemas.jobs import JOB_FACT, RetryOf, Turn, UsageBooked
from schemas.lanes import (
    LANE_FACT,
    CreateFailed,
    CreateServed,
    DayUsed,
    LimitsLearned,
    ProbeClaimed,
    ShareWanted,
    WantedPart,
)
from schemas.partials import PARTIAL, PartialOutput
from schemas.pauses import PAUSE_FACT, CreatesPaused, CreatesResumed, PauseScope
from schemas.responses import RESPONSE_FACT
from schemas.results import RESULT, AttemptBrief, JobResult, Reason, Timings
from schemas.told_limits import ToldLimits
from schemas.webhook_endpoints import (
    ENDPOINT_FACT,
    EndpointRemoved,
    EndpointSaved,
    EndpointSwitched,
    SecretRef,
)
from tests.support import builders as b

ADAPTERS: dict[str, TypeAdapter[Any]] = {
    "jobs": JOB_FACT,
    "responses": RESPONSE_FACT,
    "submissions": SUBMISSION,
    "polls": POLL_COMMAND,
    "results": RESULT,
    "dead-letters": DEAD_LETTER_RECORD,
    "webhook-endpoints": ENDPOINT_FACT,
    "deliveries": DELIVERY_RECORD,
    "partials": PARTIAL,
    "lanes": LANE_FACT,
    "pauses": PAUSE_FACT,
    "erasures": ERASURE_FACT,
}
USAGE = Usage(
    input_tokens=1, output_tokens=2, total_tokens=3, cached_tokens=4, reasoning_tokens=5, cache_write_tokens=6
)
TERMS = Terms(
    model="m-2026-01-01", service_tier="flex", window="8h", web_search_calls=1, file_search_calls=2, containers=3
)
BLOB = BlobBody(sha256="0" * 64, size_bytes=70_000)
ENDPOINT_ID = "we_" + "0" * 32
DELIVERY: Any = {
    "delivery_id": "whd_" + "0" * 32, "asked_at_ms": 3,
    "delivery": Delivery(
        endpoint_id=ENDPOINT_ID, tenant="acme", job_id="acme:job_1", event_type="response.completed",
        response_id="job_1",
        created_at_s=5, test=True,
    ),
}  # fmt: skip
ERASURE: Any = {
    "scope": ErasureScope(tenant="acme", job_id="acme:j", session_id="s", tag="subject:ann"), "by": "Ann",
    "why": "asked for", "at_provider": True, "submitted_until_ms": 4,
}  # fmt: skip
INLINE = InlineBody(value={"output": [{"text": "é\u2028 \U0001f600"}, None, 1.5, -0.0, 2**63]})

MESSAGES: tuple[Message, ...] = (
    b.submitted(session_id="s:1", tags=("a", "b")),
    b.submitted(request=BLOB),
    b.adopted(session_id="s:1", tags=("a",), include=("reasoning.encrypted_content",), asked_by="0123456789ab"),
    b.adoption_refused(5),
    b.refused(),
    b.submitted(turn=Turn(waits=True, priority="bulk", not_before_ms=9, request_bytes=4, output_tokens_max=5)),
    b.admitted(5),
    b.found_too_late(5),
    b.fallback_taken(5),
    b.job_changed(5, priority="bulk", deadline_at_ms=9, by="Ann", asked_by="0123456789ab"),
    b.submitted(retry=RetryOf(job_id="acme:job_0", why="again", by="Ann")),
    b.deadline_moved(5, 20_000),
    b.cancel_requested(5, reason="tired"),
    b.accepted(5, adopted=True, sent_at_ms=4, provider_request_id="req_1"),
    b.accepted(5, stream=True),
    b.rejected(5, wait_ms=7, limits=ToldLimits(requests_per_min=1, requests_left=0, tokens_per_min=9, tokens_left=3)),
    b.unknown(5),
    b.settled(
        5, "failed", cause="faulty", code="server_error", message="again", response=INLINE, usage=USAGE, terms=TERMS,
        webhook_at_ms=4,
        provider_created_at_ms=1, provider_ended_at_ms=3,
    ),
    b.job_timer(5),
    b.webhook(5, ended_at_ms=4),
    b.claimed(5),
    b.claimed(5, stream=True),
    b.claimed(5, made_elsewhere=True),
    PartialOutput(
        id="p", at_ms=5, job_id="job_1", tenant="acme", attempt=1, response_id="resp_1", after=-1, end_number=2,
        events=({"type": "response.output_text.delta", "sequence_number": 1, "delta": "é\u2028"},),
        truncated="event_too_large",
    ),
    b.observed(
        5, "failed", raw_status="failed", cause="never", code="policy", message="no", response=BLOB, usage=USAGE,
        terms=TERMS, job_id="job_1", attempt=2, tenant="acme", provider_created_at_ms=1, provider_ended_at_ms=3,
    ),
    b.poll_failed(5),
    b.released(5),
    b.response_timer(5),
    CreateResponse(
        id="c", at_ms=5, job_id="job_1", attempt=1, tenant="acme", model="m", request=INLINE, not_after_ms=9
    ),
    RetrieveResponse(
        id="r", at_ms=5, response_id="resp_1", reason="webhook", job_id="job_1", accepted_at_ms=4, polls=2
    ),
    CancelResponse(id="x", at_ms=5, response_id="resp_1", job_id="job_1"),
    JobResult(
        id="job_1/result", at_ms=5, job_id="job_1", tenant="acme", outcome="completed", reason=Reason(code="c"),
        model="m",
        response=INLINE, usage=USAGE, found_by="poll", rejections=1, session_id="s", tags=("a",),
        timings=Timings(
            submitted_at_ms=1, accepted_at_ms=2, finished_at_ms=5, queued_ms=1, running_ms=2, webhook_lag_ms=3,
            detection_ms=4
        ),
        attempts=(AttemptBrief(attempt=1, outcome="completed", response_id="resp_1", adopted=True),),
    ),
    JobErased(
        id="job_1/erased", at_ms=5, job_id="job_1", tenant="acme", erasure_id="erasure_0", by="Ann", why="asked for",
        result=JobResult(
            id="job_1/result", at_ms=5, job_id="job_1", tenant="acme", outcome="completed", erased_at_ms=5,
            timings=Timings(submitted_at_ms=1, finished_at_ms=5),
        ),
    ),
    DeadLetter(
        id="d", at_ms=5, component="intake", reason="not_json", detail="no", key_base64="a2V5", value_base64="dg==",
        origin=Origin(topic="requests", partition=0, offset=7, timestamp_ms=4), headers=(("ce_id", "eA=="),),
        record_key="k",
    ),
    DeadLetterResolved(
        id="d/resolved/1", at_ms=6, dead_letter_id="d", resolution="retried", by="ann", asked_by="0123456789ab",
        why="fixed", record_key="k",
    ),
    EndpointSaved(
        id="e/1", at_ms=5, endpoint_id=ENDPOINT_ID, tenant="acme", created_at_ms=5, url="https://a.example/x", name="n",
        event_types=("response.failed",),
        secrets=(SecretRef(key_id="k", number=2), SecretRef(key_id="k", number=1, until_ms=9)),
    ),
    EndpointSwitched(id="e/2", at_ms=5, endpoint_id=ENDPOINT_ID, tenant="acme", enabled=False, reason="gone"),
    EndpointRemoved(id="e/3", at_ms=5, endpoint_id=ENDPOINT_ID, tenant="acme", removed_at_ms=5),
    b.hedge_permitted(5),
    b.admitted(5),
    b.found_too_late(5),
    UsageBooked(
        id="resp_1/usage", at_ms=5, job_id="job_1", tenant="acme", attempt=1, response_id="resp_1", estimated=True,
        usage=Usage(input_tokens=1, output_tokens=2, total_tokens=3), terms=TERMS,
    ),
    CreateFailed(
        id="c/failed", at_ms=5, account="0a1b2c3d", model="m", turn=2, command_id="c", cause="account",
        code="invalid_api_key",
        message="no", told_ms=9,
    ),
    CreateServed(id="c/served", at_ms=5, account="0a1b2c3d", model="m", turn=2),
    ShareWanted(
        id="w/limits/1", at_ms=5, account="0a1b2c3d", model="m", worker="w", partitions=(0, 7),
        wanted=WantedPart(rate=1_000, slots=8, held=4), tenants={"acme": WantedPart(rate=20)}, needs=True,
    ),
    DayUsed(
        id="w/limits/2", at_ms=5, account="0a1b2c3d", model="m", worker="w", tenant="acme", day=20_000,
        used={0: 1_000, 7: 0}, reserved={7: 300},
    ),
    LimitsLearned(
        id="w/limits/3", at_ms=5, account="0a1b2c3d", model="m", worker="w", requests_per_min=500,
        tokens_per_min=100_000, found=90_000, ceiling=95_000, told_ms=400,
    ),
    ProbeClaimed(id="c/claim/3", at_ms=5, account="0a1b2c3d", model="m", turn=3, command_id="c"),
    CreatesPaused(
        id="p/1", at_ms=5, scope=PauseScope(account="0a1b2c3d", model="m", tenant="acme", tag="nightly"), by="Ann",
        asked_by="0123456789ab", why="the key is rotated",
    ),
    CreatesResumed(id="p/2", at_ms=7, scope=PauseScope(), by="Ann", why="done", paused_at_ms=5),
    ErasureRequested(id="e/1", at_ms=5, **ERASURE),
    ErasureDone(id="e/1/done", at_ms=9, requested_at_ms=5, jobs=1, blobs=2, blobs_shared=0, responses=1, **ERASURE),
    DeliveryPlanned(id="w/1", at_ms=5, **DELIVERY),
    DeliveryAsked(id="w/2", at_ms=5, **DELIVERY),
    DeliveryFailed(id="w/3", at_ms=5, attempt=1, next_at_ms=9, failed_by="status", status=500, **DELIVERY),
    DeliveryDone(id="w/4", at_ms=5, attempt=2, status=204, **DELIVERY),
    DeliveryDead(id="w/5", at_ms=5, attempt=2, dead_by="gone", failed_by="status", status=410, **DELIVERY),
    ResendAsked(id="rs", at_ms=5, endpoint_id=ENDPOINT_ID, tenant="acme", since_ms=1, until_ms=5),
    ResendDone(id="rs/done", at_ms=6, resend_id="rs", count=3, complete=True),
)  # fmt: skip
