"""W3C Trace Context: the `traceparent` of a submission, and the ids of Backstop's own spans. Pure.

Ids of spans are derived like all ids: the same fact gives the same span, so one that is exported twice is one span.
"""

import hashlib
import re
from typing import Annotated, Final

from pydantic import StringConstraints

TRACEPARENT: Final = "traceparent"
"""The name of the header, in HTTP and in records."""

_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.ASCII)
_SAMPLED: Final = 1
_HEADER_CHARS_MAX: Final = 200

Traceparent = Annotated[str, StringConstraints(pattern=r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]
"""W3C Trace Context of a submission's request or record, or below it. A field is absent where it had none."""


def parse_traceparent(text: str) -> str | None:
    """A header's value in the form of version 00; None if it is not valid. A newer version may have more fields."""
    found = _FORM.fullmatch(text.strip()) if len(text) <= _HEADER_CHARS_MAX else None
    if found is None or found[1] == "ff" or not int(found[2], 16) or not int(found[3], 16):
        return None
    if found[1] == "00" and text.strip().count("-") > 3:
        return None
    return f"00-{found[2]}-{found[3]}-{found[4]}"


def trace_id_of(traceparent: str | None, job_id: str) -> str:
    """The trace of the submission; without one, of the job."""
    return traceparent[3:35] if traceparent is not None else _hashed(32, "trace", job_id)


def parent_id_of(traceparent: str | None) -> str | None:
    return None if traceparent is None else traceparent[36:52]


def is_sampled(traceparent: str | None) -> bool:
    """Whether spans are wanted. Without a `traceparent` no caller said that they are not."""
    return traceparent is None or bool(int(traceparent[53:], 16) & _SAMPLED)


def job_span_id(job_id: str, submitted_at_ms: int) -> str:
    """A job's id may be used again once the job is forgotten: then the time differs."""
    return _hashed(16, "job", job_id, str(submitted_at_ms))


def attempt_span_id(job_id: str, submitted_at_ms: int, attempt: int) -> str:
    return _hashed(16, "attempt", job_id, str(submitted_at_ms), str(attempt))


def publish_span_id(job_id: str, submitted_at_ms: int) -> str:
    return _hashed(16, "publish", job_id, str(submitted_at_ms))


def below(traceparent: str | None, span_id: str) -> str | None:
    """The `traceparent` for what happens within the span of that id; None if the submission had none."""
    return None if traceparent is None else f"{traceparent[:36]}{span_id}{traceparent[52:]}"


def _hashed(digits: int, *parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:digits]
