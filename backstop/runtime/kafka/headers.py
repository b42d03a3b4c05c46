"""The record headers of every message: CloudEvents 1.0, Kafka binding, binary mode."""

from datetime import UTC, datetime
from functools import cache, lru_cache

from schemas.base import Message
from schemas.results import JobResult, result_traceparent
from schemas.traces import TRACEPARENT

_SPECVERSION = ("ce_specversion", b"1.0")
_CONTENT_TYPE = ("content-type", b"application/json")


def event_headers(message: Message, source: str) -> list[tuple[str, bytes]]:
    """Headers for `message`; a repeat of it has the same `ce_source` and `ce_id`."""
    second, ms = divmod(message.at_ms, 1000)
    headers = [
        _SPECVERSION,
        ("ce_id", message.id.encode()),
        _source(source),
        _type(getattr(message, "type", "message"), message.v),
        ("ce_subject", message.key.encode()),
        ("ce_time", b"%b.%03d+00:00" % (_second(second), ms)),
        _CONTENT_TYPE,
    ]
    traceparent = _traceparent(message)
    return headers if traceparent is None else [*headers, (TRACEPARENT, traceparent.encode())]


def _traceparent(message: Message) -> str | None:
    """What the message belongs to: a result to the span of its job."""
    if isinstance(message, JobResult):
        return result_traceparent(message)
    found: str | None = getattr(message, "traceparent", None) if _has_traceparent(type(message)) else None
    return found


@cache
def _has_traceparent(kind: type[Message]) -> bool:
    """To ask a message for a member that its type has not costs as much as the other headers together."""
    return "traceparent" in kind.model_fields


@lru_cache(64)
def _source(source: str) -> tuple[str, bytes]:
    return "ce_source", f"/backstop/{source}".encode()


@lru_cache(256)
def _type(kind: str, version: int) -> tuple[str, bytes]:
    return "ce_type", f"backstop.{kind}.v{version}".encode()


@lru_cache(16)
def _second(second: int) -> bytes:
    """Messages of one second share most of their time."""
    return datetime.fromtimestamp(second, tz=UTC).isoformat()[:19].encode()
