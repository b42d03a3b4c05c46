"""An answer before it is sent, and OpenAI's error bodies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

JSON: Final = "application/json"
HTML: Final = "text/html; charset=UTF-8"
EDGE_PAGE: Final = (
    b"<!DOCTYPE html><html><head><title>Just a moment...</title></head>"
    b"<body><h1>Sorry, you have been blocked</h1><p>Ray ID: 8f2a</p></body></html>"
)
_GATEWAY_PAGE: Final = b"<html><head><title>%b</title></head><body><center><h1>%b</h1></center></body></html>"
_NAMES: Final = {
    409: b"409 Conflict", 502: b"502 Bad Gateway", 503: b"503 Service Temporarily Unavailable",
    504: b"504 Gateway Time-out",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Status, headers and body to send. `sabotage` names a fault on the way, if any."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    sabotage: str | None = None
    wait_real_s: float = 0.0


def ok(value: Any) -> HttpAnswer:
    """200 with JSON."""
    return HttpAnswer(200, orjson.dumps(value))


def error(
    status: int,
    message: str,
    kind: str = "invalid_request_error",
    *,
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
    bare: bool = False,
) -> HttpAnswer:
    """An error in OpenAI's shape; `bare` leaves out the outer object."""
    inner = {"message": message, "type": kind, "param": param, "code": code}
    return HttpAnswer(status, orjson.dumps(inner if bare else {"error": inner}), headers=headers or {})


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> HttpAnswer:
    """400 with the parameter at fault."""
    return error(400, message, param=param, code=code)


def wrong_key() -> HttpAnswer:
    """401 for a key that is missing or unknown."""
    return error(
        401,
        "Incorrect API key provided: ****. You can find your API key at https://platform.openai.com/account/api-keys.",
        code="invalid_api_key",
    )


def not_found(response_id: str, *, bare: bool = False) -> HttpAnswer:
    """404 for a response that does not exist, or no longer, or not yet."""
    return error(404, f"Response with id '{response_id}' not found.", bare=bare)


def html(status: int, page: bytes = EDGE_PAGE, headers: Mapping[str, str] | None = None) -> HttpAnswer:
    """An HTML page of the edge instead of an answer of the API."""
    return HttpAnswer(status, page, HTML, headers or {})


def gateway(status: int) -> HttpAnswer:
    """A page of a gateway that lost its server during the call: the outcome is unknown."""
    return html(status, _GATEWAY_PAGE % (_NAMES[status], _NAMES[status]))


def failure(status: int) -> HttpAnswer:
    """A 408, 409 or 5xx that leaves the outcome unknown."""
    match status:
        case 408:
            return error(408, "Request timeout.", "timeout_error")
        case 409:
            return error(409, "The request conflicted with another one. Please try again.", "conflict_error")
        case 502 | 504:
            return gateway(status)
        case 503:
            return error(503, "The service is temporarily unavailable. Please try again later.", "server_error")
        case _:
            text = "The server had an error while processing your request. Sorry about that!"
            return error(status, text, "server_error", code="server_error")
