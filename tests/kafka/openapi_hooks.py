"""What Schemathesis is told beside the document (it imports this itself)."""

from typing import Any

import schemathesis

FAR_AHEAD_MS = 4_000_000_000_000


@schemathesis.hook
def filter_case(_context: Any, case: Any) -> bool:
    """No deadline that may have passed: that it is refused is right, and no schema can say so."""
    if case.path == "/v1/costs" and {"since", "until"}.intersection(case.query or {}):
        return False  # Days out of order, or ages apart: refused too, and no schema can say it.
    body = case.body
    timeout_ms = (case.headers or {}).get("Backstop-Timeout-Ms")
    if timeout_ms is not None and isinstance(body, dict) and body.get("background") is not True:
        return False  # a create that waits is told that its deadline passed
    deadline_at_ms = body.get("deadline_at_ms") if isinstance(body, dict) else None
    return not (isinstance(deadline_at_ms, int | float) and deadline_at_ms < FAR_AHEAD_MS)
