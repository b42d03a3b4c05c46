"""OpenAI's error body, for everything under `/v1/responses`: the SDKs make their exceptions of it.

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
MODELS_PATH: Final = "/v1/models"
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
    "not_found": "There is no such address here. Backstop takes the Responses API alone: POST /v1/responses (in LangChain "
    "use_responses_api=True, in LiteLLM responses(), in the AI SDK openai.responses()), and GET /v1/responses/{id}.",
    "method_not_allowed": "This address does not take this method.",
}  # fmt: skip


_NOT_HERE: Final[dict[tuple[str, str], str]] = {
    ("POST", f"{PATH}/compact"): "Backstop does not compact: send the input whole, or continue an earlier response by previous_response_id.",
    ("POST", f"{PATH}/input_tokens"): "Backstop does not count input tokens: count them where you make the request. The usage of a response that "
    "has ended says what it took.",
    ("GET", PATH): "Here responses are created, by POST: there is no WebSocket, so send stream: true for events as they come; and no list, for which "
    "there is GET /v1/jobs.",
}  # fmt: skip
"""Endpoints of OpenAI that are not here, and what to do instead."""


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
    if path in {PATH, MODELS_PATH} or path.startswith((f"{PATH}/", f"{MODELS_PATH}/")):
        return True
    return SDK_HEADER in headers and path.startswith("/v1/") and not path.startswith(OWN_PATHS)


def to_openai_response(problem: Problem, method: str = "", path: str = "") -> web.Response:
    status = status_at_openai(problem.status)
    param, message = _param(problem), _SENTENCES.get(problem.code, problem.detail)
    if problem.code == "method_not_allowed":
        message = _NOT_HERE.get((method, path), message)
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
    return _response(status, error, headers)


def to_failed_response(status: int, code: str, message: str) -> web.Response:
    """Of a response that was taken and did not complete: all that a repeat would do has been done."""
    kind = _TYPES.get(status, INVALID) if status < 500 else "server_error"
    error: ErrorBody = {"message": message, "type": kind, "param": None, "code": code}
    return _response(status, error, {**SECURITY_HEADERS, **NO_RETRY})


def _response(status: int, error: ErrorBody, headers: Mapping[str, str]) -> web.Response:
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
