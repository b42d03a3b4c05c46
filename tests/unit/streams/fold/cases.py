"""Times, reasons and facts that the cases of a job share."""

from typing import Any

from schemas.base import Usage
from schemas.jobs import AttemptSettled
from schemas.results import Reason, Timings
from tests.support.builders import POLICY, RESP, T0, settled
from tests.unit.streams.fold.states import REPORT_BY

AT = T0 + 1_000
GRACE = POLICY.adoption_grace_ms
ABANDONED_AT = REPORT_BY + GRACE
UNKNOWN = Reason(code="unknown_outcome", message="the create was sent, and its outcome stayed unknown")
LIMITED = Reason(code="rate_limit_exceeded", message="tokens per minute", http_status=429, said_by="provider")
SERVER_ERROR = Reason(code="server_error", message="")
EXPIRED = Reason(code="deadline", message="not ended 3600000 ms after its submission")
EXPIRED_WAITING = Reason(
    code="deadline", message=f"{EXPIRED.message}; its last attempt: rate_limit_exceeded tokens per minute"
)  # fmt: skip
PAID = Usage(input_tokens=5, output_tokens=2, total_tokens=7)
SPENT = "(all 2 retries are used)"


def failed(at_ms: int, attempt: int = 1, response_id: str = RESP, **changes: Any) -> AttemptSettled:
    return settled(at_ms, "failed", attempt, response_id, **{"cause": "faulty", "code": "server_error", **changes})


def decided(at_ms: int, accepted_at_ms: int) -> Timings:
    return Timings(
        submitted_at_ms=T0, accepted_at_ms=accepted_at_ms, finished_at_ms=at_ms, queued_ms=accepted_at_ms - T0
    )  # fmt: skip
