"""What a caller did wrong, as RFC 9457 problem documents: every refusal of every route has this one shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NotRequired

import orjson
from aiohttp import web
from pydantic import ConfigDict, ValidationError, with_config
from typing_extensions import TypedDict

from schemas.sentences import sentence

CONTENT_TYPE = "application/problem+json"
ERRORS_MAX = 20
ERRORS_TOLD_MAX = 1_000
"""Beyond it a body is told to be wrong, without where: to list errors costs more than to find them."""

POINTER_CHARS_MAX = 200
SECURITY_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


@with_config(ConfigDict(use_attribute_docstrings=True))
class FieldErrorDocument(TypedDict):
    """Where a body is not as it must be."""

    pointer: str
    """JSON pointer into the body: `#/request/model`."""
    detail: str


@with_config(ConfigDict(use_attribute_docstrings=True))
class ProblemDocument(TypedDict):
    """Why a request was refused (RFC 9457)."""

    type: str
    """`urn:backstop:problem:` and the code."""
    title: str
    status: int
    code: str
    """For programs; it never changes its meaning."""
    detail: str
    """For people."""
    errors: NotRequired[list[FieldErrorDocument]]
    job_id: NotRequired[str]
    """Only where the job may have been taken all the same: a repeat that gives this `job_id` is the same job."""


@dataclass(frozen=True, slots=True)
class FieldError:
    pointer: str
    """JSON pointer into the body, as in the example of RFC 9457: `#/request/model`."""
    detail: str


@dataclass(frozen=True, slots=True)
class Problem:
    """`code` names the problem for programs, `detail` for people. Neither holds anything of ours or of other callers."""

    status: int
    code: str
    detail: str
    errors: tuple[FieldError, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    job_id: str | None = None
    """Under which the job may have been taken all the same."""


class Refusal(Exception):  # noqa: N818 - it is an answer, not an error of ours
    """Ends the handling of a request with this problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


def unavailable(code: str, detail: str, retry_after_s: int) -> Refusal:
    """503: nothing was promised; the same request may be sent again. `detail` says whether it may have been taken all the same."""
    return Refusal(Problem(503, code, detail, headers={"Retry-After": str(retry_after_s)}))


STORAGE_RETRY_AFTER_S = 5


def storage_unavailable() -> Refusal:
    return unavailable(
        "storage_unavailable",
        "The store of large bodies can't be used at the moment; send it again.",
        STORAGE_RETRY_AFTER_S,
    )


def to_response(problem: Problem) -> web.Response:
    document: ProblemDocument = {
        "type": f"urn:backstop:problem:{problem.code}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
    }
    if problem.errors:
        document["errors"] = [{"pointer": error.pointer, "detail": error.detail} for error in problem.errors]
    if problem.job_id is not None:
        document["job_id"] = problem.job_id
    return web.Response(
        status=problem.status,
        body=orjson.dumps(document),
        content_type=CONTENT_TYPE,
        headers={**SECURITY_HEADERS, **problem.headers},
    )


def from_http_exception(error: web.HTTPException) -> Problem:
    """The router's own refusals: unknown routes and methods."""
    kept = {name: error.headers[name] for name in ("Allow", "Retry-After") if name in error.headers}
    match error.status:
        case 404:
            return Problem(404, "not_found", "There is nothing at this address.", headers=kept)
        case 405:
            return Problem(405, "method_not_allowed", f"Use {kept.get('Allow', 'another method')}.", headers=kept)
        case _:
            return Problem(error.status, f"http_{error.status}", error.reason, headers=kept)


def field_errors(error: ValidationError) -> tuple[FieldError, ...]:
    """Where a body breaks its model, with JSON pointers and without any of its values."""
    if error.error_count() > ERRORS_TOLD_MAX:
        return (FieldError("#", f"{error.error_count()} places are not as they must be"),)
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return tuple(FieldError(json_pointer(item["loc"]), sentence(item)) for item in found[:ERRORS_MAX])


def json_pointer(path: Sequence[str | int]) -> str:
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in path)
    return ("#" + "".join(f"/{part}" for part in parts))[:POINTER_CHARS_MAX]
