"""What stands in a record's place where the record, or the batch that held it, can't be read."""

from typing import Literal


class Unreadable(bytes):
    """A record's value as far as it is known (often it is empty), and why the record can't be read. `schemas.codec.readable` refuses it.

    A value and no exception: so it takes the path of every other bad record, in order, and becomes a dead letter.
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
