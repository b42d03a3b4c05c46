"""Completion windows: `background_options` of a request, as far as Backstop reads and writes it.

Source: openai-python 3.54.0; the target counts from the acceptance, and another create begins another window unless it names the
`continuation_id` of the first.
"""

from collections.abc import Mapping
from typing import Any, Final

HOUR_MS = 3_600_000
WINDOWS_MS: Final[dict[str, int]] = {"2h": 2 * HOUR_MS, "8h": 8 * HOUR_MS}
ROOM_MS = HOUR_MS
"""Beyond its window a job that names no deadline has this long: a window that is missed by little is no reason to cancel."""


def window_ms_of(request: Mapping[str, Any]) -> int | None:
    """The completion window that a request asks for; None where it asks for none that Backstop knows."""
    options = request.get("background_options")
    window = options.get("completion_window") if isinstance(options, dict) else None
    return WINDOWS_MS.get(window) if isinstance(window, str) else None


def default_deadline_ms(request: Mapping[str, Any], timeout_ms: int) -> int:
    """How long a job may take that does not say: the door's default, or its window and some room where that is longer."""
    window_ms = window_ms_of(request)
    return timeout_ms if window_ms is None else max(timeout_ms, window_ms + ROOM_MS)


def in_window(request: Mapping[str, Any], *, soonest: bool, continuation_id: str | None) -> dict[str, Any]:
    """The request of a later attempt: as soon as possible where its window would end after the deadline, else within the window of
    the attempt that it continues.
    """
    options = request.get("background_options")
    if not isinstance(options, dict) or not (soonest or continuation_id):
        return dict(request)
    changed = (
        {**options, "completion_window": "soonest"} if soonest else {**options, "continuation_id": continuation_id}
    )
    return {**request, "background_options": changed}


def include_of(request: Mapping[str, Any]) -> tuple[str, ...]:
    """What a request asks to be included in the object, in its order; what is no text is left out."""
    include = request.get("include")
    return (
        tuple(item for item in include if isinstance(item, str) and len(item) <= 200)[:50]
        if isinstance(include, list)
        else ()
    )
