"""OpenAI's error body, for everything under `/v1/responses`: the SDKs make their exceptions of it. Pure.

A problem of ours keeps its status but for 415 and 422, which OpenAI answers as 400. Where a repeat of the same request can't
help, `x-should-retry: false` says so: by default the SDKs repeat each 409 and 429.
"""

from collections.abc import Mapping
from typing import Final

import orjson
from aiohttp import web
from typing_extensions import TypedDict

from receiver.problems import SECURITY_HEADERS, Problem

PATH: Final = "/v1/responses"
OWN_PATHS: Final = ("/v1/jobs", "/v1/sessions")
SDK_HEADER: Final = "x-stainless-lang"
NO_RETRY: Final = {"x-should-retry": "false"}

INVALID: Final = "invalid_request_error"

_TYPES: Final[dict[int, str]] = {403: "permission_error", 429: "requests", 500: "server_error", 503: "server_error"}
_CODES: Final[dict[str, str | None]] = {
    "unauthenticated": "invalid_api_key",
    "bad_request": None,
    "response_not_found": None,
    "rate_exceeded": "rate_limit_exceeded",
    "open_jobs_exceeded": "rate_limit_exceeded",
    "token_budget_exceeded": "rate_limit_exceeded",
    "job_id_taken": "idempotency_key_reused",
}
_HOPELESS: Final = frozenset({"job_id_taken", "token_budget_exceeded"})
_SENTENCES: Final[dict[str, str]] = {
    "job_id_taken": "This Idempotency-Key was used for another request. Use a new key, or send the same request.",
    "not_found": "Backstop takes background responses only. Use POST /v1/responses with background: true, and "
    "GET /v1/responses/{id} for what became of it.",
    "method_not_allowed": "This address does not take this method.",
}  # fmt: skip


class ErrorBody(TypedDict):
    """Why, as OpenAI says it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorDocument(TypedDict):
    """OpenAI's error, of which its SDKs make their exceptions."""

    error: ErrorBody


def status_at_openai(status: int) -> int:
    """The status that OpenAI has for a problem of ours."""
    return 400 if status in {415, 422} else status


def speaks_openai(path: str, headers: Mapping[str, str]) -> bool:
    """Whether whoever sent this expects OpenAI's errors."""
    if path == PATH or path.startswith(f"{PATH}/"):
        return True
    return SDK_HEADER in headers and path.startswith("/v1/") and not path.startswith(OWN_PATHS)


def to_openai_response(problem: Problem) -> web.Response:
    status = status_at_openai(problem.status)
    param, message = _param(problem), _SENTENCES.get(problem.code, problem.detail)
    if problem.code == "bad_request" and problem.errors:
        message = "; ".join(f"{_dotted(error.pointer)}: {error.detail}" if error.pointer != "#" else error.detail
                            for error in problem.errors) if len(problem.errors) > 1 else problem.errors[0].detail  # fmt: skip
    error: ErrorBody = {
        "message": message,
        "type": "tokens" if problem.code == "token_budget_exceeded" else _TYPES.get(status, INVALID),
        "param": param,
        "code": _CODES.get(problem.code, problem.code),
    }
    headers = {**SECURITY_HEADERS, **problem.headers, **(NO_RETRY if problem.code in _HOPELESS else {})}
    return web.Response(
        status=status, body=orjson.dumps({"error": error}), content_type="application/json", headers=headers
    )


def _param(problem: Problem) -> str | None:
    """The field to mend, where there is one."""
    if not problem.errors:
        return None
    return _dotted(problem.errors[0].pointer) or None


def _dotted(pointer: str) -> str:
    """From `#/text/format` to `text.format`, as OpenAI names fields."""
    return pointer.removeprefix("#").removeprefix("/").replace("/", ".")
