"""How an end that is no answer is told to a caller who waits for the answer on its connection. Pure.

Rules, before the code:
- A response that did not complete is an HTTP error: an SDK then raises its own class, and no framework goes on with an empty answer.
- `incomplete` is an answer, as at the provider: it has output, and says why it ends.
- Backstop has already repeated what may be repeated. So each of these errors carries `x-should-retry: false`, and what a caller has to change
  is 400, which no framework repeats.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, assert_never

from schemas.statuses import JobOutcome

_LIMITS: Final = frozenset({"rate_limit_exceeded", "insufficient_quota", "billing_hard_limit_reached", "slow_down"})
_THEIRS: Final = re.compile(
    r"server_\w+|\w*_timeout|internal\w*|service_unavailable|api_error|overloaded\w*|unknown_outcome|missing|failed"
    r"|edge_block|retries_\w+|invalid_api_key|account_\w+|\w*_access_terminated|http_(401|403|5\d\d)"
)
"""Codes of failures that no change of the request cures: the provider's, the way's, or the account's, which is the operator's."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of OpenAI's form."""

    status: int
    code: str
    message: str


def failure_of(document: Mapping[str, Any], outcome: JobOutcome) -> Failure | None:
    """Of a response at its end; None where that is an answer."""
    error = document.get("error")
    told: Mapping[str, Any] = error if isinstance(error, dict) else {}
    code, message = str(told.get("code") or outcome), str(told.get("message") or f"The response ended as {outcome}.")
    match outcome:
        case "completed" | "incomplete":
            return None
        case "cancelled":
            return Failure(400, "cancelled", "The response was cancelled before it ended.")
        case "expired":
            return Failure(504, code, message)
        case "failed" | "rejected":
            return Failure(_status_of(code), code, message)
        case _:
            assert_never(outcome)


def _status_of(code: str) -> int:
    if code in _LIMITS:
        return 429
    if code == "model_not_found":
        return 404
    return 500 if _THEIRS.fullmatch(code) else 400
