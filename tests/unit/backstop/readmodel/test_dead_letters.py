"""Dead letters as rows: their tenant, and how much of a foreign record is shown."""

import base64
import json
from typing import Any

import pytest

from backstop.readmodel.dead_letters import NAME_CHARS_MAX, PREVIEW_CHARS_MAX, dead_letter_row
from backstop.readmodel.parse import parse
from backstop.readmodel.rows import DeadLetterRow, Position
from backstop.runtime.records import Record as RawRecord
from schemas.codec import PoisonError, encode
from schemas.dead_letters import DeadLetter, DeadLetterResolved, Origin
from schemas.text import printable

PLACE = Position("dead-letters", 0, 7)


def letter(value: bytes | None = b"{", topic: str | None = "requests", **changes: Any) -> DeadLetter:
    fields: dict[str, Any] = {
        "id": "p.requests:0:1", "at_ms": 5, "component": "intake", "reason": "not_json", "detail": "not JSON",
        "origin": None if topic is None else Origin(topic=topic, partition=0, offset=1, timestamp_ms=4),
        "value_base64": None if value is None else base64.b64encode(value).decode(), "record_key": "k",
    }  # fmt: skip
    return DeadLetter(**(fields | changes))


def row(*args: Any, **changes: Any) -> DeadLetterRow:
    return dead_letter_row(letter(*args, **changes), PLACE)


@pytest.mark.parametrize(
    ("topic", "value", "tenant"),
    [
        ("requests", b"{", "default"),
        ("requests.acme", b'{"tenant": "globex"}', "acme"),
        ("jobs", b'{"tenant": "acme"}', "acme"),
        ("results", b'{"tenant": "acme"}', "acme"),
        ("jobs", b'{"tenant": "ACME !"}', None),
        ("jobs", b'["tenant"]', None),
        ("jobs", b"{", None),
        ("jobs", None, None),
        ("elsewhere", b'{"tenant": "acme"}', None),
        (None, b'{"tenant": "acme"}', None),
    ],
)
def test_a_dead_letters_tenant_comes_from_its_topic_or_from_a_record_of_our_logs(
    topic: str | None, value: bytes | None, tenant: str | None
) -> None:
    assert row(value, topic).tenant == tenant


def test_a_preview_is_short_and_prints() -> None:
    text = "\x00\x1b[31m\u202eevil\n" + "x" * 5_000
    found = row(text.encode())
    assert found.preview.startswith("\\u0000\\u001b[31m\\u202eevil\\u000axx")
    assert found.preview.isprintable()
    assert len(printable(found.preview)) <= 6 * PREVIEW_CHARS_MAX
    assert found.size_bytes == len(text.encode())
    assert row(b"\xff\xfe").preview == "\ufffd\ufffd"
    assert (row(None).preview, row(None).size_bytes) == ("", None)


def test_names_fit_an_index() -> None:
    found = row(id="\x01" * 512, record_key="ü" * 1_000)
    assert len(found.dead_letter_id) == NAME_CHARS_MAX
    assert len(found.record_key) == 200


def raw(value: bytes, key: bytes = b"k") -> RawRecord:
    return RawRecord("p.dead-letters", 0, 7, 9, key, value, ())


def test_the_projection_knows_topics_without_their_prefix() -> None:
    record = parse(("dead-letters", 0), raw(encode(letter(topic="p.requests.acme"))))
    assert record is not None
    assert isinstance(record.fact, DeadLetter)
    assert dead_letter_row(record.fact, record.position).origin == Position("requests.acme", 0, 1)
    assert dead_letter_row(record.fact, record.position).tenant == "acme"


def test_a_decision_is_read_and_anything_else_there_is_poison() -> None:
    decision = DeadLetterResolved(id="d", at_ms=6, dead_letter_id="x", resolution="dropped", by="me", record_key="k")
    record = parse(("dead-letters", 0), raw(encode(decision)))
    assert record is not None
    assert record.fact == decision
    for value, key in ((b"{", b"k"), (json.dumps({"type": "other"}).encode(), b"k"), (encode(decision), b"other")):
        with pytest.raises(PoisonError):
            parse(("dead-letters", 0), raw(value, key))


@pytest.mark.parametrize("coded", ["not base64", "é", "\u202e", "A", "\x00"])
def test_a_record_that_is_not_base64_is_a_dead_letter_all_the_same(coded: str) -> None:
    assert row(value_base64=coded, key_base64=coded, headers=(("name", coded),)).dead_letter_id == "p.requests:0:1"
