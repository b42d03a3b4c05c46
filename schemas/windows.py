"""Completion windows: the fields of a request's `background_options` that Backstop reads and writes.

Source: openai-python 3.54.0. The window begins at the acceptance. A later create begins a new window unless it names
the `continuation_id` of the earlier one.
"""

from collections.abc import Mapping
from typing import Any, Final

HOUR_MS = 3_600_000
WINDOWS_MS: Final[dict[str, int]] = {"2h": 2 * HOUR_MS, "8h": 8 * HOUR_MS}
ROOM_MS = HOUR_MS
"""Added to the window of a job that names no deadline: a response that misses its window by little is not cancelled."""


def window_ms_of(request: Mapping[str, Any]) -> int | None:
    """The completion window that a request asks for; None if it asks for none that Backstop knows."""
    options = request.get("background_options")
    window = options.get("completion_window") if isinstance(options, dict) else None
    return WINDOWS_MS.get(window) if isinstance(window, str) else None


def default_deadline_ms(request: Mapping[str, Any], timeout_ms: int) -> int:
    """The timeout of a job that names none: the default, or its window plus `ROOM_MS`, whichever is longer."""
    window_ms = window_ms_of(request)
    return timeout_ms if window_ms is None else max(timeout_ms, window_ms + ROOM_MS)


def in_window(request: Mapping[str, Any], *, soonest: bool, continuation_id: str | None) -> dict[str, Any]:
    """The request of a later attempt.

    `soonest`: a new window would end after the deadline, so none is asked for. Otherwise the attempt continues the
    window named by `continuation_id`, if there is one.
    """
    options = request.get("background_options")
    if not isinstance(options, dict) or not (soonest or continuation_id):
        return dict(request)
    changed = (
        {**options, "completion_window": "soonest"} if soonest else {**options, "continuation_id": continuation_id}
    )
    return {**request, "background_options": changed}


def include_of(request: Mapping[str, Any]) -> tuple[str, ...]:
    """`include` of a request, in order, without items that are not strings or are too long; at most 50."""
    include = request.get("include")
    return (
        tuple(item for item in include if isinstance(item, str) and len(item) <= 200)[:50]
        if isinstance(include, list)
        else ()
    )
