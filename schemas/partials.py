"""Partial output of running responses, for clients that watch. Records may be lost.

The result of a job never depends on a record here: it comes from a webhook and a poll, watched or not.
"""

from typing import ClassVar, Final, Literal

from pydantic import Field, JsonValue, TypeAdapter

from schemas.base import Int64, JobMessage, ResponseId, TenantId

LIFECYCLE_EVENTS: Final = frozenset({"response.created", "response.queued", "response.in_progress"})
"""These events contain the whole response. They are published without it, as readers have the response already."""

END_EVENTS: Final = frozenset({"response.completed", "response.failed", "response.incomplete", "response.cancelled"})
"""These events are not published: only the result says how a job ended."""

TruncationReason = Literal["event_too_large", "response_too_large", "not_streamable"]


class PartialOutput(JobMessage):
    """Consecutive events of one response's stream, in order, directly after the event number `after`.

    Events may be repeated (after a crash or a change of owner). Records may be missing: then `after` of the next record
    is above the last number that the reader has. Numbers are the provider's `sequence_number`; they rise within a
    response.
    """

    topic: ClassVar[str] = "partials"
    type: Literal["partial_output"] = "partial_output"
    tenant: TenantId
    attempt: Int64 = Field(ge=1)
    response_id: ResponseId
    """The provider's id."""
    after: Int64 = Field(ge=-1)
    """-1 if the first event here is the first of the stream."""
    events: tuple[dict[str, JsonValue], ...] = ()
    """As sent by the provider, each with `type` and `sequence_number`. `LIFECYCLE_EVENTS` have nothing else."""
    end_number: Int64 | None = None
    """The number of the provider's terminal event, once it was seen. Nothing follows."""
    truncated: TruncationReason | None = None
    """Why no more events of this response are published, although the response goes on."""


PARTIAL: TypeAdapter[PartialOutput] = TypeAdapter(PartialOutput)
