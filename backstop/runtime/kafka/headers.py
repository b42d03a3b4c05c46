"""The record headers of every message: CloudEvents 1.0, Kafka binding, binary mode."""

from datetime import UTC, datetime

from schemas.base import Message


def event_headers(message: Message, source: str) -> list[tuple[str, bytes]]:
    """Headers for `message`; a repeat of it has the same `ce_source` and `ce_id`."""
    when = datetime.fromtimestamp(message.at_ms / 1000, tz=UTC).isoformat(timespec="milliseconds")
    kind = getattr(message, "type", "message")
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", message.id.encode()),
        ("ce_source", f"/backstop/{source}".encode()),
        ("ce_type", f"backstop.{kind}.v{message.v}".encode()),
        ("ce_subject", message.key.encode()),
        ("ce_time", when.encode()),
        ("content-type", b"application/json"),
    ]
