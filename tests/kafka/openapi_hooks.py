"""What Schemathesis is told beside the document (it imports this itself)."""

from typing import Any

import schemathesis

FAR_AHEAD_MS = 4_000_000_000_000


@schemathesis.hook
def filter_case(_context: Any, case: Any) -> bool:
    """No deadline that may have passed, and no cap in dollars, whose model must have a price: that these are refused is
    right, and no schema can say so.
    """
    if case.path == "/v1/costs" and {"since", "until"}.intersection(case.query or {}):
        return False  # Days out of order, or ages apart: refused too, and no schema can say it.
    body = case.body
    timeout_ms = (case.headers or {}).get("Backstop-Timeout-Ms")
    if timeout_ms is not None and isinstance(body, dict) and body.get("background") is not True:
        return False  # a create that waits is told that its deadline passed
    priced = (case.headers or {}).get("Backstop-Max-Cost-Usd")
    if priced is not None or (isinstance(body, dict) and body.get("max_cost_usd") is not None):
        return False
    deadline_at_ms = body.get("deadline_at_ms") if isinstance(body, dict) else None
    return not (isinstance(deadline_at_ms, int | float) and deadline_at_ms < FAR_AHEAD_MS)
