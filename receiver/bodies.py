"""Reads and parses request bodies, within limits of size, time, depth and memory that are checked before parsing."""

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
from receiver.limits import DEAR_BYTES_MAX, DEAR_COST, PLAIN_COST, Limits
from receiver.problems import Problem, Refusal, field_errors, unavailable
from schemas.long_json import load
from schemas.long_texts import LARGE_BYTES, beginnings
from schemas.requests import FIELDS_MAX
from schemas.shape import ShapeLimits, beyond

SMALL_VALUES_MAX: Final = 4_096
"""JSON values in a body other than a submission: webhooks, cancels, endpoints."""

ON_LOOP_BYTES_MAX: Final = 8 << 10
"""A body up to this size is parsed on the event loop, in about 3 ms at worst. A larger one is parsed in a thread."""

WAY_OUT: Final = "Send large content as a URL (image_url, file_url), or ask the operator to raise the limit."

Done = TypeVar("Done")
Model = TypeVar("Model", bound=BaseModel)


class NotJsonError(ValueError):
    """Not JSON, nested too deeply, or with too many values. The message quotes nothing of the body."""


class BodyMemory:
    """The memory of all bodies in progress, shared fairly by tenant and key. Only bytes already received count."""

    def __init__(self, bytes_max: int, retry_after_s: int) -> None:
        # Received bytes can't be given back early, so an owner may take at most as much as it leaves free.
        self._shares = Shares(bytes_max, greed=1)
        self._retry_after_s = retry_after_s
        self._thread = asyncio.Semaphore(1)

    async def apart(self, size_bytes: int, work: Callable[[], Done]) -> Done:
        """Run `work` on a body of `size_bytes`; return or raise what it does. Large bodies run in a thread, one at a
        time: several threads would compete with the event loop for the interpreter lock.
        """
        if size_bytes <= ON_LOOP_BYTES_MAX:
            return work()
        async with self._thread:
            return await asyncio.to_thread(work)

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """A function that reserves bytes and raises `Refusal` (503) when none are left. All are released at the end."""
        taken_bytes, owner = 0, owner_now()

        def take(size_bytes: int) -> None:
            nonlocal taken_bytes
            if not self._shares.ask_sparing(owner, size_bytes):
                raise unavailable(
                    "busy", "The memory for request bodies is in use; send it again.", self._retry_after_s
                )
            taken_bytes += size_bytes

        try:
            yield take
        finally:
            self._shares.give_back(owner, taken_bytes)


def _count_nothing(_size_bytes: int) -> None:
    """For small bodies: the limit on connections bounds their sum."""


def parsing_bytes(body: bytes | bytearray) -> int:
    """Peak memory in bytes for parsing `body` and serializing it again, without the body itself."""
    cost_bytes = PLAIN_COST * len(body)
    if cost_bytes < DEAR_BYTES_MAX and not (body.isascii() and b"\\u" not in body):
        cost_bytes = min(DEAR_COST * len(body), DEAR_BYTES_MAX)
    return cost_bytes - len(body)


async def read_body(
    request: web.Request, *, bytes_max: int, within_s: float, take: Callable[[int], None] = _count_nothing
) -> bytearray:
    """The raw bytes, neither decompressed nor copied: a large body is in memory once.

    :raises Refusal: 415 compressed, 413 too large (unread where Content-Length says so), 408 too slow, 400 incomplete.
    """
    encodings = {
        part.strip().lower() for value in request.headers.getall(hdrs.CONTENT_ENCODING, ()) for part in value.split(",")
    }
    if encodings - {"identity", ""}:
        raise Refusal(Problem(415, "encoded_body", "Send the body without Content-Encoding."))
    too_large = Refusal(Problem(413, "body_too_large", f"The body exceeds {bytes_max} bytes. {WAY_OUT}"))
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
        raise Refusal(Problem(408, "body_too_slow", f"The body did not arrive within {within_s:g} s.")) from None
    except (OSError, web.RequestPayloadError, HttpProcessingError):
        raise Refusal(Problem(400, "body_incomplete", "The connection ended before the body was complete.")) from None
    take(parsing_bytes(body))
    return body


def load_json(data: bytes | bytearray, depth_max: int, values_max: int = SMALL_VALUES_MAX) -> Any:
    """The JSON value of `data`. Depth and number of values are measured before parsing. Large `data` is emptied, and
    the value has `LongText`s.

    :raises NotJsonError: not JSON, nested deeper than `depth_max`, or more than `values_max` values.
    """
    too_much = beyond(data, ShapeLimits(values_max=values_max, depth_max=depth_max))
    if too_much is not None:
        raise NotJsonError(too_much)
    try:
        return load(data) if len(data) > LARGE_BYTES else orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise NotJsonError(f"not JSON: {error.msg} at {error.pos}") from None


def require_json(request: web.Request) -> None:
    if hdrs.CONTENT_TYPE not in request.headers or request.content_type != "application/json":
        raise Refusal(Problem(415, "not_json", "Send the body as Content-Type: application/json."))
    if (request.charset or "utf-8").lower() not in {"utf-8", "utf8"}:
        raise Refusal(Problem(415, "not_utf8", "Send the body in UTF-8."))


async def read_model(model: type[Model], request: web.Request, limits: Limits, *, bytes_max: int) -> Model:
    """The JSON body of a small request.

    :raises Refusal: see `require_json`, `read_body`, `parse_body`.
    """
    require_json(request)
    body = await read_body(request, bytes_max=bytes_max, within_s=limits.submit_body_s)
    return parse_body(model, body, limits.submit_depth_max)


def parse_body(
    model: type[Model], body: bytes | bytearray, depth_max: int, values_max: int = SMALL_VALUES_MAX
) -> Model:
    """:raises Refusal: 400 not JSON, 422 not valid for the model."""
    is_large = len(body) > LARGE_BYTES
    try:
        value = load_json(body, depth_max, values_max)
    except NotJsonError as error:
        raise Refusal(Problem(400, "bad_json", f"The body is {error}.")) from None
    if not isinstance(value, dict):
        raise Refusal(Problem(422, "bad_request", "The body must be a JSON object."))
    if len(value) > FIELDS_MAX:
        raise Refusal(Problem(422, "bad_request", f"The body has {len(value)} fields; the limit is {FIELDS_MAX}."))
    try:
        return model.model_validate(_without_long_texts(value) if is_large else value)
    except ValidationError as error:
        raise Refusal(
            Problem(422, "bad_request", "The body is not a valid request.", errors=field_errors(error))
        ) from None


def _without_long_texts(value: dict[str, Any]) -> dict[str, Any]:
    """The fields of a submission with no `LongText` outside of its request: no other field takes such a text."""
    return {name: each if name == "request" else beginnings(each) for name, each in value.items()}
