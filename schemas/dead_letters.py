"""Dead letters: raw records with origin and reason, for an operator to inspect, repair and retry."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter

from schemas.base import Frozen, Int64, KeyId, Message

DeadReason = Literal[
    "not_json",
    "null_value",
    "unknown_type",
    "unknown_version",
    "unknown_value",
    "invalid",
    "wrong_key",
    "too_large",
    "not_an_event",
    "other_event",
    "fold_failed",
    "deadline_past",
    "conflict",
    "undeliverable",
    "unreadable",
]
"""`unknown_value`: a field has a value that this release does not know (a newer release wrote the record)."""


class Origin(Frozen):
    topic: str
    partition: Int64
    offset: Int64
    timestamp_ms: Int64


class DeadLetter(Message):
    topic: ClassVar[str] = "dead-letters"
    type: Literal["dead_letter"] = "dead_letter"
    component: str
    reason: DeadReason
    detail: str
    """What was wrong, for operators: at most 500 characters, without the record's content."""
    origin: Origin | None = None
    """None if the record did not come from a topic (an authentic webhook that is no event)."""
    key_base64: str | None = None
    value_base64: str | None = None
    headers: tuple[tuple[str, str | None], ...] = ()
    """Names and values; values in base64, a null value as null."""
    record_key: str = ""

    @property
    def key(self) -> str:
        return self.record_key or self.id


Resolution = Literal["retried", "dropped"]


class DeadLetterResolved(Message):
    """An operator's decision about a dead letter. Written to the same partition, after the dead letter."""

    topic: ClassVar[str] = "dead-letters"
    type: Literal["dead_letter_resolved"] = "dead_letter_resolved"
    dead_letter_id: str = Field(min_length=1, max_length=512)
    resolution: Resolution
    by: str = Field(max_length=200)
    """The person, as given."""
    asked_by: KeyId | None = None
    """The API key of the request; None in development, and for `backstop dlq`."""
    why: str = Field(default="", max_length=500)
    record_key: str = ""
    """The dead letter's key, so that both have the same key and partition."""

    @property
    def key(self) -> str:
        return self.record_key or self.dead_letter_id

    @property
    def author(self) -> str:
        """For people: `Ann (key 0123456789ab)`."""
        return self.by if self.asked_by is None else f"{self.by} (key {self.asked_by})"


DEAD_LETTER: TypeAdapter[DeadLetter] = TypeAdapter(DeadLetter)
DeadLetterRecord = Annotated[DeadLetter | DeadLetterResolved, Field(discriminator="type")]
DEAD_LETTER_RECORD: TypeAdapter[DeadLetter | DeadLetterResolved] = TypeAdapter(DeadLetterRecord)
"""All records on the topic."""
