"""Routes about the caller itself: `GET /v1/caller`, and `POST /v1/tickets` for live streams without a key."""

from typing import Annotated, Final, Literal

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict
from yarl import URL

from backstop.runtime.http.keys import Scope
from backstop.runtime.http.routes import Answer, Route
from receiver.access.identity import caller_of
from receiver.access.tickets import STREAM_PATH, Tickets
from receiver.bodies import read_model
from receiver.limits import Limits
from receiver.problems import SECURITY_HEADERS, FieldError, Problem, Refusal


class TicketBody(BaseModel):
    """The stream that the ticket opens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[
        str,
        Field(
            max_length=1_000,
            description="Path of a live stream, without a query: /v1/jobs/ID/events.",
            json_schema_extra={"pattern": f"^{STREAM_PATH.pattern}$"},
        ),
    ]


class TicketDocument(TypedDict):
    """A ticket. It opens its path once."""

    object: Literal["ticket"]
    ticket: str
    expires_at_ms: int


class CallerDocument(TypedDict):
    """The tenant and the scopes of a key."""

    object: Literal["caller"]
    tenant: str
    scopes: list[Scope]
    development: bool


TICKET: Final = Route(
    "POST", "/v1/tickets", name="createTicket", access="read", body=TicketBody,
    says="A ticket for one live stream.\n\nA browser's EventSource can't send a key. Append the ticket to the "
    "stream's URL as `?ticket=`: it is valid once, for 60 s.",
    answers=(Answer(201, "The ticket.", TicketDocument),),
    problems={422: ("no_stream",), 503: ("too_many_tickets",)},
)  # fmt: skip
CALLER: Final = Route(
    "GET", "/v1/caller", name="getCaller", access="read", says="The tenant and the scopes of this key.",
    answers=(Answer(200, "The caller.", CallerDocument),),
)  # fmt: skip


class CallerIngress:
    def __init__(self, tickets: Tickets, limits: Limits) -> None:
        self._tickets = tickets
        self._limits = limits

    async def ticket(self, request: web.Request) -> web.Response:
        caller = caller_of(request)
        asked = await read_model(TicketBody, request, self._limits, bytes_max=self._limits.cancel_bytes_max)
        if not STREAM_PATH.fullmatch(asked.path):
            wrong = FieldError(
                "#/path", "is not /v1/events, /v1/jobs/ID/events, /v1/jobs/ID/stream or /v1/sessions/ID/events"
            )
            raise Refusal(Problem(422, "no_stream", "A ticket opens a live stream only.", errors=(wrong,)))
        ticket = self._tickets.issue(caller, URL(asked.path, encoded=True).path)
        document: TicketDocument = {"object": "ticket", "ticket": ticket.text, "expires_at_ms": ticket.expires_at_ms}
        return _json(201, document)

    async def caller(self, request: web.Request) -> web.Response:
        caller = caller_of(request)
        document: CallerDocument = {
            "object": "caller", "tenant": caller.tenant, "scopes": sorted(caller.scopes),
            "development": not caller.key_id,
        }  # fmt: skip
        return _json(200, document)


def _json(status: int, document: TicketDocument | CallerDocument) -> web.Response:
    body = orjson.dumps(document)
    return web.Response(status=status, body=body, content_type="application/json", headers=SECURITY_HEADERS)
