"""The declarations of `/v1/responses`, as the official SDKs call it."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints
from typing_extensions import TypedDict

from backstop.runtime.http.routes import EVENT_STREAM, WHOLE, Answer, Codes, Header, Query, Route, ServerSentEvent
from receiver.ingress.jobs import KEY_HEADER
from receiver.responses_api.creates import (
    COST_HEADER,
    FALLBACK_HEADER,
    HEDGE_HEADER,
    NOT_BEFORE_HEADER,
    PRIORITY_HEADER,
    RETRIES_HEADER,
    SESSION_HEADER,
    TIMEOUT_HEADER,
    TOKENS_HEADER,
)
from receiver.responses_api.errors import PATH
from receiver.responses_api.items import LIMIT, LIMIT_MAX
from receiver.responses_api.waiting import RESPONSE_ID
from schemas.base import Priority, UnixMs
from schemas.requests import MODEL_CHARS_MAX, RETRIES_MAX, TIMEOUT_MS_MAX, TIMEOUT_MS_MIN, GivenJobId, SessionId, UsdCap
from schemas.spend_caps import TOKENS_MAX
from schemas.statuses import ResponseStatus

ONE: Final = PATH + "/{response_id}"


class CreateBody(BaseModel):
    """The body of OpenAI's create. All other fields are sent to the provider unchanged."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    model: Annotated[str, StringConstraints(min_length=1, max_length=MODEL_CHARS_MAX)]
    background: bool | None = None
    """With `true` the answer is the queued response; else the answer comes on this connection once the response has
    ended.
    """
    input: JsonValue = None
    store: bool | None = None
    """With `false` no read shows the response. Not allowed with `background: true`."""
    stream: bool | None = None
    """With `true` the answer is the response's stream of server-sent events. Disconnecting does not cancel the
    response.
    """
    previous_response_id: str | None = None
    """An ended response of your own, created through Backstop."""
    metadata: dict[str, str] | None = None
    """Up to 13 pairs. `backstop_job`, `backstop_attempt` and `backstop_tenant` are reserved."""


class ResponseDocument(TypedDict):
    """OpenAI's Response object. While the response is open, the object is made from the request; at its end it is the
    provider's object under Backstop's id, with all fields that the provider sets.
    """

    id: str
    object: Literal["response"]
    created_at: int
    status: ResponseStatus
    background: bool
    error: Any
    incomplete_details: Any
    model: str
    output: list[Any]
    usage: Any
    metadata: dict[str, Any]
    previous_response_id: str | None


class DeletedDocument(TypedDict):
    """A deleted response: no read shows it."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ItemPage(TypedDict):
    """A page of input items."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ItemsQuery(Query):
    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX), WHOLE] = Field(
        default=LIMIT, description="Items per page, at most."
    )
    order: Literal["asc", "desc"] = Field(default="desc", description="Order by position in the input.")
    after: str | None = Field(default=None, description="The id of the last item of the previous page.")


class RetrieveQuery(Query):
    stream: Literal["true", "false"] = Field(
        default="false",
        description="Answer with the stream of events; only for a response created with `stream: true`. "
        "`starting_after` implies it.",
    )
    starting_after: Annotated[int, Field(ge=0), WHOLE] | None = Field(
        default=None, description="Resume the stream after the event with this `sequence_number`."
    )
    include: str | None = Field(
        default=None,
        description="Accepted and ignored: the `include` of the create decides what the response contains.",
    )
    include_obfuscation: Literal["true", "false"] = Field(
        default="true", description="In a stream: whether events keep the provider's padding (`obfuscation`)."
    )


_CHANGED: Final[Codes] = {404: ("response_not_found",), 503: ("log_unavailable", "reads_unavailable")}
_IDS: Final = {"response_id": GivenJobId}

CREATE: Final = Route(
    "POST", PATH, name="createResponse", access="submit", body=CreateBody,
    says="Create a response.\n\nWith `background: true` the answer comes once the log has the job. From then on the "
    "response ends exactly once, even if processes or connections fail. Without it the answer comes when the response "
    "has ended; disconnecting does not cancel the response, and a repeat returns the same response.",
    headers=(
        KEY_HEADER,
        Header(SESSION_HEADER, "The session that the job joins.", SessionId),
        Header(
            TIMEOUT_HEADER, "Milliseconds from now to the job's deadline.",
            Annotated[int, Field(ge=TIMEOUT_MS_MIN, le=TIMEOUT_MS_MAX)],
        ),
        Header(RETRIES_HEADER, "Retries after failed attempts, at most.", Annotated[int, Field(ge=0, le=RETRIES_MAX)]),
        Header(HEDGE_HEADER, "Whether the job may have a second attempt beside a slow one.", bool),
        Header(PRIORITY_HEADER, "The class in which the job waits for its turn under the limits.", Priority),
        Header(
            TOKENS_HEADER, "Tokens that all attempts may use together.", Annotated[int, Field(ge=1, le=TOKENS_MAX)]
        ),
        Header(
            FALLBACK_HEADER, "Models with which later attempts go out, separated by commas.",
            Annotated[str, StringConstraints(max_length=400)],
        ),
        Header(COST_HEADER, "Dollars that all attempts may cost together.", UsdCap),
        Header(NOT_BEFORE_HEADER, "Unix milliseconds before which the job does not begin.", UnixMs),
    ),
    answers=(
        Answer(
            200, "With `background: true`: the queued response; else the ended one.", ResponseDocument,
            headers=(
                Header("Backstop-Repeated", "Only on the answer to a repeat.", Literal["true"]),
                Header(RESPONSE_ID, "Only if the request waited for the end: the id of the response."),
            ),
        ),
        Answer(200, "With `stream: true`: its events.", ServerSentEvent, EVENT_STREAM),
    ),
    problems={
        400: ("bad_idempotency_key", "cancelled"), 404: ("model_not_found",), 409: ("job_id_taken",),
        429: ("insufficient_quota", "open_jobs_exceeded", "rate_limit_exceeded", "token_budget_exceeded"),
        500: ("server_error",),
        503: ("busy", "log_unavailable", "reads_unavailable", "too_many_streams", "too_many_waiting"),
        504: ("expired",),
    },
)  # fmt: skip
RETRIEVE: Final = Route(
    "GET", ONE, name="retrieveResponse", access="read", ids=_IDS, query=RetrieveQuery, says="The current state of a "
    "response.",
    answers=(
        Answer(200, "The response.", ResponseDocument),
        Answer(200, "With `stream=true`: its events.", ServerSentEvent, EVENT_STREAM),
    ),
    problems={404: ("response_not_found",), 503: ("reads_unavailable", "streams_unavailable", "too_many_streams")},
)  # fmt: skip
DELETE: Final = Route(
    "DELETE", ONE, name="deleteResponse", access="submit", ids=_IDS,
    says="Delete a response: no read shows it from then on. An open response is cancelled.",
    answers=(Answer(200, "The response is deleted.", DeletedDocument),), problems=_CHANGED,
)  # fmt: skip
CANCEL: Final = Route(
    "POST", PATH + "/{response_id}/cancel", name="cancelResponse", access="submit", ids=_IDS,
    says="Cancel a response. A response that has ended is not changed. For a create with `store: false` the answer has "
    "no output.",
    answers=(
        Answer(200, "The ended response; its current state if it does not end within 3 s.", ResponseDocument),
    ),
    problems={**_CHANGED, 408: ("body_too_slow",), 413: ("body_too_large",), 415: ("encoded_body",)},
)  # fmt: skip
INPUT_ITEMS: Final = Route(
    "GET", PATH + "/{response_id}/input_items", name="listInputItems", access="read", ids=_IDS, query=ItemsQuery,
    says="The input items of a response, in pages, without those of the response named by `previous_response_id`.",
    answers=(Answer(200, "A page of items.", ItemPage),),
    problems={404: ("input_missing", "response_not_found"), 503: ("reads_unavailable",)},
)  # fmt: skip
