"""The record headers of every message: CloudEvents 1.0, Kafka binding, binary mode."""

from datetime import UTC, datetime
from functools import lru_cache

from schemas.base import Message

_SPECVERSION = ("ce_specversion", b"1.0")
_CONTENT_TYPE = ("content-type", b"application/json")


def event_headers(message: Message, source: str) -> list[tuple[str, bytes]]:
    """Headers for `message`; a repeat of it has the same `ce_source` and `ce_id`."""
    second, ms = divmod(message.at_ms, 1000)
    return [
        _SPECVERSION,
        ("ce_id", message.id.encode()),
        _source(source),
        _type(getattr(message, "type", "message"), message.v),
        ("ce_subject", message.key.encode()),
        ("ce_time", b"%b.%03d+00:00" % (_second(second), ms)),
        _CONTENT_TYPE,
    ]


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
