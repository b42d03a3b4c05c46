"""A dead letter as a row. Pure.

Its topic of origin determines its tenant: only the tenant itself writes to its requests topic. On topics that only
Backstop writes to, the value may name the tenant. The tenant of any other dead letter is unknown, and no tenant sees
it.
"""

import base64
import re

import orjson

from backstop.readmodel.rows import DeadLetterRow, Position
from schemas.base import DEFAULT_TENANT, TENANT_ID_PATTERN
from schemas.dead_letters import DeadLetter
from schemas.text import printable

PREVIEW_CHARS_MAX = 400
PREVIEW_BYTES_MAX = 4 * PREVIEW_CHARS_MAX
NAME_CHARS_MAX = 512
KEY_CHARS_MAX = 200

OWN_TOPICS = frozenset({"jobs", "responses", "submissions", "polls", "results"})
"""Written by Backstop alone, so the tenant that a value names is trusted."""

_TENANT = re.compile(TENANT_ID_PATTERN)
_REQUESTS = "requests"


def dead_letter_row(letter: DeadLetter, position: Position) -> DeadLetterRow:
    """`letter.origin.topic` must be the logical name (see `backstop.readmodel.parse`)."""
    value = _bytes(letter.value_base64)
    origin = letter.origin
    return DeadLetterRow(
        dead_letter_id=dead_letter_name(letter.id),
        at_ms=letter.at_ms,
        tenant=_tenant(letter, value),
        component=printable(letter.component),
        reason=letter.reason,
        detail=printable(letter.detail),
        origin=None if origin is None else Position(printable(origin.topic), origin.partition, origin.offset),
        record_key=printable(letter.record_key)[:KEY_CHARS_MAX],
        size_bytes=None if value is None else len(value),
        preview=_preview(value),
        position=position,
    )


def dead_letter_name(dead_letter_id: str) -> str:
    """The stored form of a dead letter's id: short enough for an index of either database."""
    return printable(dead_letter_id)[:NAME_CHARS_MAX]


def _preview(value: bytes | None) -> str:
    if value is None:
        return ""
    text = value[:PREVIEW_BYTES_MAX].decode(errors="replace")
    return printable(text[:PREVIEW_CHARS_MAX])


def _tenant(letter: DeadLetter, value: bytes | None) -> str | None:
    if letter.origin is None:
        return None
    topic, _, tenant = letter.origin.topic.partition(".")
    if topic == _REQUESTS:
        return tenant or DEFAULT_TENANT
    if letter.origin.topic not in OWN_TOPICS or value is None:
        return None
    try:
        said = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    named = said.get("tenant") if isinstance(said, dict) else None
    return named if isinstance(named, str) and _TENANT.fullmatch(named) else None


def _bytes(coded: str | None) -> bytes | None:
    try:
        return None if coded is None else base64.b64decode(coded)
    except ValueError:  # also where the text is not ASCII
        return b""
