"""The declarations of `/v1/responses`: what the official SDKs call, and what they get."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints
from typing_extensions import TypedDict

from backstop.runtime.http.routes import EVENT_STREAM, WHOLE, Answer, Codes, Header, Query, Route, ServerSentEvent
from receiver.ingress.jobs import KEY_HEADER
from receiver.responses_api.creates import RETRIES_HEADER, SESSION_HEADER, TIMEOUT_HEADER
from receiver.responses_api.errors import PATH
from receiver.responses_api.items import LIMIT, LIMIT_MAX
from receiver.responses_api.waiting import RESPONSE_ID
from schemas.requests import MODEL_CHARS_MAX, RETRIES_MAX, TIMEOUT_MS_MAX, TIMEOUT_MS_MIN, GivenJobId, SessionId
from schemas.statuses import ResponseStatus

ONE: Final = PATH + "/{response_id}"


class CreateBody(BaseModel):
    """The body of OpenAI's create. What is not named here goes to the provider as it is."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    model: Annotated[str, StringConstraints(min_length=1, max_length=MODEL_CHARS_MAX)]
    background: bool | None = None
    """With `true` the answer is the response as it begins; else it is the response at its end, on this connection."""
    input: JsonValue = None
    store: bool | None = None
    """With `false`, which `background: true` does not take, no read shows the response."""
    stream: bool | None = None
    """The answer is then the stream of the response, as server-sent events. Whoever leaves it stops nothing."""
    previous_response_id: str | None = None
    """An ended response of the caller's own, made through Backstop."""
    metadata: dict[str, str] | None = None
    """Up to 13 pairs; `backstop_job`, `backstop_attempt` and `backstop_tenant` are Backstop's."""


class ResponseDocument(TypedDict):
    """OpenAI's Response object. While it is open it is made of what was asked for; at its end it is the provider's own under our
    id, with whatever else the provider put there.
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
    """It is gone for its readers."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ItemPage(TypedDict):
    """Some items of the input."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ItemsQuery(Query):
    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX), WHOLE] = Field(default=LIMIT, description="Items of one page.")
    order: Literal["asc", "desc"] = Field(default="desc", description="By the place in the input.")
    after: str | None = Field(default=None, description="The id of the last item of the page before.")


class RetrieveQuery(Query):
    stream: Literal["true", "false"] = Field(
        default="false",
        description="As a stream; only of a response that was created with `stream: true`. `starting_after` alone asks for it, too.",
    )
    starting_after: Annotated[int, Field(ge=0), WHOLE] | None = Field(
        default=None, description="Of a stream: goes on behind the event with this `sequence_number`."
    )
    include: str | None = Field(
        default=None, description="Taken and passed over: what was included when the response was created is shown."
    )
    include_obfuscation: Literal["true", "false"] = Field(
        default="true", description="Of a stream: whether events keep the padding that the provider gives them."
    )


_CHANGED: Final[Codes] = {404: ("response_not_found",), 503: ("log_unavailable", "reads_unavailable")}
_IDS: Final = {"response_id": GivenJobId}

CREATE: Final = Route(
    "POST", PATH, name="createResponse", access="submit", body=CreateBody,
    says="Create a response.\n\nWith `background: true` answered once the log has it: from then on it ends, whatever is lost on the way. Without it "
    "the same holds, and the answer is the response at its end; whoever leaves stops nothing, and a repeat gets the same response.",
    headers=(
        KEY_HEADER,
        Header(SESSION_HEADER, "The job joins this session.", SessionId),
        Header(TIMEOUT_HEADER, "Its deadline, from now.", Annotated[int, Field(ge=TIMEOUT_MS_MIN, le=TIMEOUT_MS_MAX)]),
        Header(RETRIES_HEADER, "Creates granted after one failed.", Annotated[int, Field(ge=0, le=RETRIES_MAX)]),
    ),
    answers=(
        Answer(
            200, "With `background: true` the log has it; else it has ended.", ResponseDocument,
            headers=(
                Header("Backstop-Repeated", "Only on the answer to a repeat.", Literal["true"]),
                Header(RESPONSE_ID, "Only where the answer was waited for."),
            ),
        ),
        Answer(200, "With `stream: true`: its events.", ServerSentEvent, EVENT_STREAM),
    ),
    problems={
        400: ("bad_idempotency_key", "cancelled"), 404: ("model_not_found",), 409: ("job_id_taken",),
        429: ("insufficient_quota", "open_jobs_exceeded", "rate_limit_exceeded", "token_budget_exceeded"),
        500: ("server_error",),
        503: ("busy", "log_unavailable", "reads_unavailable", "too_many_streams", "too_many_waiting"), 504: ("expired",),
    },
)  # fmt: skip
RETRIEVE: Final = Route(
    "GET", ONE, name="retrieveResponse", access="read", ids=_IDS, query=RetrieveQuery, says="A response as it is now.",
    answers=(
        Answer(200, "The response.", ResponseDocument), Answer(200, "With `stream=true`: its events.", ServerSentEvent, EVENT_STREAM)
    ),
    problems={404: ("response_not_found",), 503: ("reads_unavailable", "streams_unavailable", "too_many_streams")},
)  # fmt: skip
DELETE: Final = Route(
    "DELETE", ONE, name="deleteResponse", access="submit", ids=_IDS,
    says="Delete a response for its readers. One that is still open is cancelled.",
    answers=(Answer(200, "No read shows it from now on.", DeletedDocument),), problems=_CHANGED,
)  # fmt: skip
CANCEL: Final = Route(
    "POST", PATH + "/{response_id}/cancel", name="cancelResponse", access="submit", ids=_IDS,
    says="Cancel a response. One that has ended stays as it ended.",
    answers=(Answer(200, "The response at its end; as it is, where the end takes longer.", ResponseDocument),),
    problems={**_CHANGED, 408: ("body_too_slow",), 413: ("body_too_large",), 415: ("encoded_body",)},
)  # fmt: skip
INPUT_ITEMS: Final = Route(
    "GET", PATH + "/{response_id}/input_items", name="listInputItems", access="read", ids=_IDS, query=ItemsQuery,
    says="The input of a response, in pages; not what came before it by `previous_response_id`.",
    answers=(Answer(200, "A page of items.", ItemPage),),
    problems={404: ("input_missing", "response_not_found"), 503: ("reads_unavailable",)},
)  # fmt: skip
