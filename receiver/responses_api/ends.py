"""Maps the end of a response to the HTTP error for a client that waits for the answer on its connection. Pure.

Rules:
- A response that did not complete is an HTTP error: SDKs then raise their exceptions, and no framework continues with
  an empty answer.
- `incomplete` is an answer, as at the provider: it has output, and tells why it ended.
- Backstop has already made the retries. So each of these errors has `x-should-retry: false`, and an error that the
  client must correct is 400, which no framework retries.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from schemas.statuses import JobOutcome, has_answer

_LIMITS: Final = frozenset({"rate_limit_exceeded", "insufficient_quota", "billing_hard_limit_reached", "slow_down"})
_THEIRS: Final = re.compile(
    r"server_\w+|\w*_timeout|internal\w*|service_unavailable|api_error|overloaded\w*|unknown_outcome|missing|failed"
    r"|edge_block|retries_\w+|invalid_api_key|account_\w+|\w*_access_terminated|http_(401|403|5\d\d)"
)
"""Codes of failures that the client can't fix by changing its request: of the provider, the network, or the operator's
account.
"""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of OpenAI's form."""

    status: int
    code: str
    message: str


def failure_of(document: Mapping[str, Any], outcome: JobOutcome) -> Failure | None:
    """The error for a response that has ended; None if it is an answer (see `has_answer`)."""
    error = document.get("error")
    told: Mapping[str, Any] = error if isinstance(error, dict) else {}
    code, message = str(told.get("code") or outcome), str(told.get("message") or f"The response ended as {outcome}.")
    if has_answer(outcome):
        return None
    if outcome == "cancelled":
        return Failure(400, "cancelled", "The response was cancelled before it ended.")
    return Failure(504 if outcome == "expired" else _status_of(code), code, message)


def _status_of(code: str) -> int:
    if code in _LIMITS:
        return 429
    if code == "model_not_found":
        return 404
    return 500 if _THEIRS.fullmatch(code) else 400
