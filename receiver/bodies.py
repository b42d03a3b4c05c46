"""Bodies of requests: bounded in size, time, depth and memory, before anybody looks at them."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import orjson
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import BaseModel, ValidationError

from backstop.runtime.authority import owner_now
from backstop.runtime.shares import Shares
from receiver.limits import DEAR_COST, PLAIN_COST
from receiver.problems import Problem, Refusal, field_errors, unavailable
from schemas.requests import FIELDS_MAX
from schemas.shape import ShapeLimits, beyond

SMALL_VALUES_MAX: Final = 4_096
"""Values of a body that is no submission: webhooks, cancels, endpoints."""

ON_LOOP_BYTES_MAX: Final = 8 << 10
"""A body up to this size is parsed on the loop. The worst that fits costs about 3 ms; a larger one goes to a thread."""

WAY_OUT: Final = "Name large content by URL (image_url, file_url), or ask the operator to raise the limit."

Done = TypeVar("Done")
Model = TypeVar("Model", bound=BaseModel)


class NotJsonError(ValueError):
    """Not JSON, nested deeper than allowed, or of too many values. The sentence holds nothing of the body."""


class BodyMemory:
    """What bodies cost at one time, shared by tenant and key. A slow client takes no more of it than what it has sent."""

    def __init__(self, bytes_max: int, retry_after_s: int) -> None:
        # What a body has sent can't be taken back, so nobody may take more than it leaves free.
        self._shares = Shares(bytes_max, greed=1)
        self._retry_after_s = retry_after_s
        self._thread = asyncio.Semaphore(1)

    async def apart(self, size_bytes: int, work: Callable[[], Done]) -> Done:
        """What `work` on a body of `size_bytes` returns or raises. A large one is worked on in a thread, one at a time: several would
        share the interpreter with the loop, and each take its turn before the loop's.
        """
        if size_bytes <= ON_LOOP_BYTES_MAX:
            return work()
        async with self._thread:
            return await asyncio.to_thread(work)

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """A function that takes bytes and refuses with 503 when there are none; all are given back at the end."""
        taken_bytes, owner = 0, owner_now()

        def take(size_bytes: int) -> None:
            nonlocal taken_bytes
            if not self._shares.ask_sparing(owner, size_bytes):
                raise unavailable("busy", "Too much is being received at the moment.", self._retry_after_s)
            taken_bytes += size_bytes

        try:
            yield take
        finally:
            self._shares.give_back(owner, taken_bytes)


def _count_nothing(_size_bytes: int) -> None:
    """For bodies so small that the limit on connections bounds their sum."""


def parsing_bytes(body: bytes | bytearray) -> int:
    """What parsing `body` and writing it again costs at its peak, beside the body itself."""
    plain = body.isascii() and b"\\u" not in body
    return ((PLAIN_COST if plain else DEAR_COST) - 1) * len(body)


async def read_body(
    request: web.Request, *, bytes_max: int, within_s: float, take: Callable[[int], None] = _count_nothing
) -> bytearray:
    """The raw bytes, never decompressed, nor copied: a large body has one place in memory.

    :raises Refusal: 415 compressed, 413 too large (unread where it says so itself), 408 too slow, 400 cut off.
    """
    encodings = {
        part.strip().lower() for value in request.headers.getall(hdrs.CONTENT_ENCODING, ()) for part in value.split(",")
    }
    if encodings - {"identity", ""}:
        raise Refusal(Problem(415, "encoded_body", "Send the body without Content-Encoding."))
    too_large = Refusal(Problem(413, "body_too_large", f"The body may have {bytes_max} bytes. {WAY_OUT}"))
    if (request.content_length or 0) > bytes_max:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for chunk in request.content.iter_any():
                if len(body) + len(chunk) > bytes_max:
                    raise too_large
                take(len(chunk))
                body += chunk
    except TimeoutError:
        raise Refusal(Problem(408, "body_too_slow", f"The body did not come within {within_s:g} s.")) from None
    except (OSError, web.RequestPayloadError, HttpProcessingError):
        raise Refusal(Problem(400, "body_incomplete", "The body ended before it was complete.")) from None
    take(parsing_bytes(body))
    return body


def load_json(data: bytes | bytearray, depth_max: int, values_max: int = SMALL_VALUES_MAX) -> Any:
    """The JSON value of `data`, which is measured before it is parsed.

    :raises NotJsonError: it has none, or one that nests deeper than `depth_max` or has more values than `values_max`.
    """
    too_much = beyond(data, ShapeLimits(values_max=values_max, depth_max=depth_max))
    if too_much is not None:
        raise NotJsonError(too_much)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise NotJsonError(f"not JSON: {error.msg} at {error.pos}") from None


def require_json(request: web.Request) -> None:
    if hdrs.CONTENT_TYPE not in request.headers or request.content_type != "application/json":
        raise Refusal(Problem(415, "not_json", "Send the body as Content-Type: application/json."))
    if (request.charset or "utf-8").lower() not in {"utf-8", "utf8"}:
        raise Refusal(Problem(415, "not_utf8", "Send the body in UTF-8."))


def parse_body(
    model: type[Model], body: bytes | bytearray, depth_max: int, values_max: int = SMALL_VALUES_MAX
) -> Model:
    """:raises Refusal: 400 no JSON, 422 not as the model says."""
    try:
        value = load_json(body, depth_max, values_max)
    except NotJsonError as error:
        raise Refusal(Problem(400, "bad_json", f"The body is {error}.")) from None
    if not isinstance(value, dict):
        raise Refusal(Problem(422, "bad_request", "The body must be a JSON object."))
    if len(value) > FIELDS_MAX:
        raise Refusal(Problem(422, "bad_request", f"The body has {len(value)} fields; it may have {FIELDS_MAX}."))
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise Refusal(
            Problem(422, "bad_request", "The body is not a valid request.", errors=field_errors(error))
        ) from None
