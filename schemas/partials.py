"""What a response has brought so far: for who watches, on a topic of its own. Lossy by design, and it decides nothing.

The result of a job never depends on a record here: it comes by webhook or look, as if nobody had watched.
"""

from typing import ClassVar, Final, Literal

from pydantic import Field, JsonValue, TypeAdapter

from schemas.base import JobMessage, ResponseId, TenantId

LIFECYCLE_EVENTS: Final = frozenset({"response.created", "response.queued", "response.in_progress"})
"""They hold the whole response; here they stand without it, as whoever shows it has its own."""

END_EVENTS: Final = frozenset({"response.completed", "response.failed", "response.incomplete", "response.cancelled"})
"""They don't stand here: how a job ended is told by its result alone."""

CutReason = Literal["event_too_large", "response_too_large", "not_streamable"]


class PartialOutput(JobMessage):
    """Some events of one response's stream, in order: those that follow directly on its event number `after`.

    Records may repeat events (after a crash or a takeover), and may be missing: then the next one's `after` is above the last number
    that its reader has. Numbers are the provider's `sequence_number`, and rise within a response.
    """

    topic: ClassVar[str] = "partials"
    type: Literal["partial_output"] = "partial_output"
    tenant: TenantId
    attempt: int = Field(ge=1)
    response_id: ResponseId
    """The provider's id."""
    after: int = Field(ge=-1)
    """-1 where the first event here is the first of the stream."""
    events: tuple[dict[str, JsonValue], ...] = ()
    """As the provider sent them, each with its `type` and `sequence_number`, but for `LIFECYCLE_EVENTS`."""
    end_number: int | None = None
    """The number of the provider's terminal event, once it was seen: nothing follows."""
    cut: CutReason | None = None
    """Why nothing more of this response is told, although there is more."""


PARTIAL: TypeAdapter[PartialOutput] = TypeAdapter(PartialOutput)
