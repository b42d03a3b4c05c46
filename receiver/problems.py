"""Refusals as RFC 9457 problem documents: one shape for all routes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, NotRequired

import orjson
from aiohttp import web
from pydantic import ConfigDict, ValidationError, with_config
from typing_extensions import TypedDict

from schemas.sentences import sentence

CONTENT_TYPE = "application/problem+json"
ERRORS_MAX = 20
ERRORS_TOLD_MAX = 1_000
"""With more errors than this only their number is told: listing them costs more than finding them."""

POINTER_CHARS_MAX = 200
SECURITY_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


@with_config(ConfigDict(use_attribute_docstrings=True))
class FieldErrorDocument(TypedDict):
    """One invalid place in a body."""

    pointer: str
    """JSON pointer into the body: `#/request/model`."""
    detail: str


@with_config(ConfigDict(use_attribute_docstrings=True))
class ProblemDocument(TypedDict):
    """Why a request was refused (RFC 9457)."""

    type: str
    """`urn:backstop:problem:` followed by the code."""
    title: str
    status: int
    code: str
    """For programs. The meaning of a code does not change."""
    detail: str
    """For people; the text may change."""
    errors: NotRequired[list[FieldErrorDocument]]
    job_id: NotRequired[str]
    """Present when the job may have been accepted despite the error: a repeat with this `job_id` is the same job."""


@dataclass(frozen=True, slots=True)
class FieldError:
    pointer: str
    """JSON pointer into the body, as in the example of RFC 9457: `#/request/model`."""
    detail: str


@dataclass(frozen=True, slots=True)
class Problem:
    """`code` is for programs, `detail` for people. Neither reveals internals or anything of other callers."""

    status: int
    code: str
    detail: str
    errors: tuple[FieldError, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    job_id: str | None = None
    """The id under which the job may have been accepted despite the error."""


class Refusal(Exception):  # noqa: N818 - an answer, not a failure of the receiver
    """Ends the handling of a request; the receiver answers with `problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


def unavailable(code: str, detail: str, retry_after_s: int) -> Refusal:
    """503 with `Retry-After`: the client may repeat the request. `detail` tells if it may have been accepted."""
    return Refusal(Problem(503, code, detail, headers={"Retry-After": str(retry_after_s)}))


SERVER_FAILED = (
    "The server failed; the request may have been accepted. Send it again under the same job_id or Idempotency-Key."
)
STORAGE_RETRY_AFTER_S = 5


READS_AWAY: Final = "The read model is not reachable; send the request again."


def reads_away(retry_after_s: int, unaffected: str = "Jobs") -> Refusal:
    """503: the read model's database is not reachable."""
    return unavailable("reads_unavailable", f"{READS_AWAY} {unaffected} are not affected.", retry_after_s)


def storage_unavailable() -> Refusal:
    return unavailable(
        "storage_unavailable",
        "The blob store is not reachable; send the request again.",
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
    """The problem for a refusal of aiohttp's router: an unknown path or method."""
    kept = {name: error.headers[name] for name in ("Allow", "Retry-After") if name in error.headers}
    match error.status:
        case 404:
            return Problem(404, "not_found", "There is no such path.", headers=kept)
        case 405:
            return Problem(405, "method_not_allowed", f"Use {kept.get('Allow', 'another method')}.", headers=kept)
        case _:
            return Problem(error.status, f"http_{error.status}", error.reason, headers=kept)


def field_errors(error: ValidationError) -> tuple[FieldError, ...]:
    """The errors of a body, with JSON pointers and without its values; at most `ERRORS_MAX`."""
    if error.error_count() > ERRORS_TOLD_MAX:
        return (FieldError("#", f"has {error.error_count()} errors, too many to list"),)
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return tuple(FieldError(json_pointer(item["loc"]), sentence(item)) for item in found[:ERRORS_MAX])


def json_pointer(path: Sequence[str | int]) -> str:
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in path)
    return ("#" + "".join(f"/{part}" for part in parts))[:POINTER_CHARS_MAX]
