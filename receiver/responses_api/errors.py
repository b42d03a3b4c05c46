"""OpenAI's error body, for all under `/v1/responses`: the SDKs map it to their exceptions.

A problem keeps its status, except 415 and 422, which OpenAI answers as 400. If repeating the request can't help, the
answer has `x-should-retry: false`, as the SDKs repeat each 409 and 429 by default.
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
ELSEWHERE: Final = frozenset((
    "assistants", "audio", "batches", "chat", "chatkit", "completions", "containers", "conversations", "embeddings",
    "evals", "files", "fine_tuning", "images", "moderations", "organization", "realtime", "skills", "threads",
    "uploads", "vector_stores", "videos",
))  # fmt: skip
"""OpenAI's other APIs, by the first part of their paths. Clients that send no header of an SDK call them, too."""
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
    "not_found": "There is no such path. Of OpenAI's API, Backstop serves only the Responses API: POST /v1/responses "
    "(in LangChain use_responses_api=True, in LiteLLM responses(), in the AI SDK openai.responses()), and GET "
    "/v1/responses/{id}.",
    "method_not_allowed": "This path does not support this method.",
}  # fmt: skip


_NOT_HERE: Final[dict[tuple[str, str], str]] = {
    ("POST", f"{PATH}/compact"): "Backstop does not compact conversations: send the whole input, or continue an "
    "earlier response by previous_response_id.",
    ("POST", f"{PATH}/input_tokens"): "Backstop does not count input tokens: count them in the client. The usage of "
    "an ended response tells how many it took.",
    ("GET", PATH): "This path creates responses, by POST. There is no WebSocket: send stream: true to receive events "
    "as they arrive. There is no list of responses: use GET /v1/jobs.",
}  # fmt: skip
"""Endpoints of OpenAI that Backstop does not serve, and what to do instead."""


class ErrorBody(TypedDict):
    """The error, in OpenAI's form."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorDocument(TypedDict):
    """OpenAI's error document, which its SDKs map to their exceptions."""

    error: ErrorBody


def status_at_openai(status: int) -> int:
    """The status that OpenAI uses for a problem of this status."""
    return 400 if status in {415, 422} else status


def speaks_openai(path: str, headers: Mapping[str, str]) -> bool:
    """Whether the client expects OpenAI's errors: by the path, or by the header that OpenAI's SDKs send."""
    if path in {PATH, MODELS_PATH} or path.startswith((f"{PATH}/", f"{MODELS_PATH}/")):
        return True
    if path.startswith("/v1/") and path.split("/")[2] in ELSEWHERE:
        return True
    return SDK_HEADER in headers and path.startswith("/v1/") and not path.startswith(OWN_PATHS)


def to_openai_response(problem: Problem, method: str = "", path: str = "") -> web.Response:
    status = status_at_openai(problem.status)
    param, message = _param(problem), _SENTENCES.get(problem.code, problem.detail)
    if problem.code == "method_not_allowed":
        message = _NOT_HERE.get((method, path), message)
    if problem.code == "bad_request" and problem.errors:
        message = problem.errors[0].detail if len(problem.errors) == 1 else "; ".join(
            f"{_dotted(error.pointer)}: {error.detail}" if error.pointer != "#" else error.detail
            for error in problem.errors
        )  # fmt: skip
    error: ErrorBody = {
        "message": message,
        "type": "tokens" if problem.code == "token_budget_exceeded" else _TYPES.get(status, INVALID),
        "param": param,
        "code": _CODES.get(problem.code, problem.code),
    }
    headers = {**SECURITY_HEADERS, **problem.headers, **(NO_RETRY if problem.code in _HOPELESS else {})}
    return _response(status, error, headers)


def to_failed_response(status: int, code: str, message: str) -> web.Response:
    """The error for an accepted response that did not complete. Not to be retried: Backstop has made the retries."""
    kind = _TYPES.get(status, INVALID) if status < 500 else "server_error"
    error: ErrorBody = {"message": message, "type": kind, "param": None, "code": code}
    return _response(status, error, {**SECURITY_HEADERS, **NO_RETRY})


def _response(status: int, error: ErrorBody, headers: Mapping[str, str]) -> web.Response:
    return web.Response(
        status=status, body=orjson.dumps({"error": error}), content_type="application/json", headers=headers
    )


def _param(problem: Problem) -> str | None:
    """The field to correct, if the problem names one."""
    if not problem.errors:
        return None
    return _dotted(problem.errors[0].pointer) or None


def _dotted(pointer: str) -> str:
    """From `#/text/format` to `text.format`, as OpenAI names fields."""
    return pointer.removeprefix("#").removeprefix("/").replace("/", ".")
