"""The placeholder for a record that can't be read, or whose batch can't be read."""

from typing import Literal


class Unreadable(bytes):
    """The known bytes of a record's value (often none), and why the record can't be read.

    It is a value and not an exception: `schemas.codec.readable` refuses it, so it becomes a dead letter in
    order, on the same path as other bad records.
    """

    reason: Literal["unreadable", "too_large"]
    detail: str
    known: bool
    """Whether these bytes are the record's value."""

    @classmethod
    def of(cls, reason: Literal["unreadable", "too_large"], detail: str, value: bytes | None = None) -> "Unreadable":
        made = cls(value or b"")
        made.reason, made.detail, made.known = reason, detail, value is not None
        return made
