"""Ids, refusals and cursors of the reads."""

import base64
from typing import Final, Literal

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from backstop.readmodel.database import DatabaseAwayError
from backstop.runtime.http.routes import BadParameterError, Handler
from receiver.reads import problems
from schemas.base import JobId
from schemas.requests import SessionId

_IDS: Final[dict[str, TypeAdapter[str]]] = {"job": TypeAdapter(JobId), "session": TypeAdapter(SessionId)}


class ReadRefusal(Exception):  # noqa: N818 - an answer, not a failure of the receiver
    def __init__(self, response: web.Response) -> None:
        super().__init__(response.status)
        self.response = response


def guarded(handler: Handler) -> Handler:
    """`handler`, with refusals answered as they state, and an unreachable database as 503."""

    async def run(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except ReadRefusal as refusal:
            return refusal.response
        except BadParameterError as error:
            return problems.problem(400, "bad_parameter", f"{error}.")
        except DatabaseAwayError:
            return problems.away()

    return run


def path_id(request: web.Request, what: Literal["job", "session"]) -> str:
    """The id in the path.

    :raises Refusal: 404, it is not a valid id. (PostgreSQL refuses some characters.)
    """
    try:
        return _IDS[what].validate_python(request.match_info[f"{what}_id"])
    except ValidationError:
        raise ReadRefusal(problems.not_found(what)) from None


def page_mark(at_ms: int, item_id: str) -> str:
    """The `next_cursor` of a page, from the time and the id of its last item."""
    return base64.urlsafe_b64encode(f"{at_ms}:{item_id}".encode()).decode().rstrip("=")
