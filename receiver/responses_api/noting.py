"""A middleware that tells the memory of repeats how each create at `/v1/responses` was answered.

It runs outside of authentication, as a create may be refused before its body is read.
"""

from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from backstop.runtime.process.clock import NowMs
from receiver.access.identity import CALLER
from receiver.ingress.jobs import IDEMPOTENCY_KEY
from receiver.problems import Refusal
from receiver.responses_api.repeats import Repeats

RETRY_COUNT: Final = "x-stainless-retry-count"

BEGAN: web.RequestKey[str] = web.RequestKey("began", str)
"""The response id of the create that a request began or repeated."""


def retry_number(request: web.Request) -> int:
    """The number of the SDK's retry; 0 for a first attempt and for clients without the header."""
    text = request.headers.get(RETRY_COUNT, "0")
    return int(text) if text.isdecimal() and len(text) <= 3 else 0


def noting(repeats: Repeats, path: str, now_ms: NowMs) -> Middleware:
    """The middleware for creates at `path`. It must run outside of authentication."""

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method != hdrs.METH_POST or request.path != path:
            return await handler(request)
        try:
            response = await handler(request)
        except Refusal as refusal:
            if _is_repeated(refusal.problem.status):
                _note_refused(repeats, request, now_ms())
            elif BEGAN in request:
                repeats.forget(request[BEGAN])
            raise
        except Exception:
            _note_refused(repeats, request, now_ms())
            raise
        if BEGAN in request:
            repeats.answered(request[BEGAN])
        return response

    return note


def _note_refused(repeats: Repeats, request: web.Request, now_ms: int) -> None:
    caller = request.get(CALLER)
    if IDEMPOTENCY_KEY in request.headers:
        return  # the Idempotency-Key identifies its repeat
    if BEGAN in request:
        repeats.refused(request[BEGAN], now_ms)
    elif caller is not None:
        repeats.refused_unread(caller.tenant, caller.key_id, request.content_length, retry_number(request), now_ms)


def _is_repeated(status: int) -> bool:
    """Whether the official SDKs send the request again (openai-python 2.x, `_should_retry`)."""
    return status in {408, 409, 429} or status >= 500
