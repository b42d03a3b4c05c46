"""What the reads take from a query string, and how they refuse: as problems that say what was wanted."""

import base64
import binascii

from aiohttp import web

from readmodel import problems
from readmodel.database import DatabaseAwayError
from runtime.routes import BadParameterError, Handler


class Refusal(Exception):  # noqa: N818 - an answer, not an error of ours
    def __init__(self, response: web.Response) -> None:
        super().__init__(response.status)
        self.response = response


def guarded(handler: Handler) -> Handler:
    """Answer refusals as they say, and a database that is away with 503."""

    async def run(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refusal as refusal:
            return refusal.response
        except BadParameterError as error:
            return problems.problem(400, "bad_parameter", f"{error}.")
        except DatabaseAwayError:
            return problems.away()

    return run


def bad(name: str, wanted: str) -> Refusal:
    return Refusal(problems.problem(400, "bad_parameter", f"{name} must be {wanted}."))


def number(request: web.Request, name: str, least: int, most: int) -> int | None:
    """None where it is not given.

    :raises Refusal: 400.
    """
    text = request.query.get(name)
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 16 or not least <= int(text) <= most:
        raise bad(name, f"a whole number from {least} to {most}")
    return int(text)


def page_mark(at_ms: int, item_id: str) -> str:
    """`next_cursor`: where a page ended, by the time and the id of its last item."""
    return base64.urlsafe_b64encode(f"{at_ms}:{item_id}".encode()).decode().rstrip("=")


def read_page_mark(request: web.Request) -> tuple[int, str] | None:
    """Of `?cursor=`; None where it is not given.

    :raises Refusal: 400.
    """
    text = request.query.get("cursor")
    if text is None:
        return None
    try:
        at_ms, colon, item_id = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition(":")
    except (binascii.Error, ValueError):
        raise bad("cursor", "the next_cursor of an earlier page") from None
    if not colon or not at_ms.isdecimal() or len(at_ms) > 16:
        raise bad("cursor", "the next_cursor of an earlier page")
    return int(at_ms), item_id
