"""The time of a message's headers is its own time, to the millisecond."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from backstop.runtime.kafka.headers import event_headers
from schemas.jobs import JobTimerFired


@given(st.integers(0, 4_000_000_000_000))
def test_the_headers_of_a_message(at_ms: int) -> None:
    message = JobTimerFired(id="job/timer/1", at_ms=at_ms, job_id="job", due_ms=1)
    assert event_headers(message, "worker") == [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"job/timer/1"),
        ("ce_source", b"/backstop/worker"),
        ("ce_type", f"backstop.{message.type}.v{message.v}".encode()),
        ("ce_subject", b"job"),
        ("ce_time", datetime.fromtimestamp(at_ms / 1000, tz=UTC).isoformat(timespec="milliseconds").encode()),
        ("content-type", b"application/json"),
    ]
