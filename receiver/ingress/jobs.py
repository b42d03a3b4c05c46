"""The ingress of upstream services: `POST /v1/jobs` and `POST /v1/jobs/{job_id}/cancel`.

202: the log has acknowledged the job. 200: a repeat of a job that the log already has. `receiver.reads` serves `GET`.
"""

import hashlib
import re
from functools import partial
from typing import Annotated, Final, Literal, NoReturn, NotRequired, assert_never

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from backstop.runtime.http.routes import Answer, Header, Route
from backstop.runtime.process.chance import RandomHex
from receiver.access.identity import tenant_of
from receiver.bodies import parse_body, read_body, require_json
from receiver.ingress.cancels import Cancels
from receiver.ingress.submissions import NotTaken, Submissions, TakenSubmission
from receiver.ingress.submitted import SubmittedBodies
from receiver.limits import Limits
from receiver.problems import SECURITY_HEADERS, FieldError, Problem, Refusal, unavailable
from schemas.job_ids import qualified_job_id
from schemas.requests import BEGINS_TOO_LATE, Cancel, GivenJobId, Submit
from streams.submission import prepare

JOBS_PATH = "/v1/jobs"
CANCEL_PATH = "/v1/jobs/{job_id}/cancel"
IDEMPOTENCY_KEY = "Idempotency-Key"
JOB_ID_BITS = 128


KEY_PATTERN: Final = r"[\x21-\x7e]{1,255}"

_KEY = re.compile(KEY_PATTERN)
_GIVEN_JOB_ID: TypeAdapter[str] = TypeAdapter(GivenJobId)


class CancelBody(BaseModel):
    """The optional body of a cancel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: Annotated[str, StringConstraints(max_length=200)] | None = None


class JobLinks(TypedDict):
    """Paths of the job and of its cancel."""

    self: str
    cancel: str


class AcceptedDocument(TypedDict):
    """A job that the log has acknowledged."""

    job_id: str
    status: Literal["accepted"]
    links: JobLinks
    deadline_at_ms: NotRequired[int]


class CancelDocument(TypedDict):
    """A cancel that the log has acknowledged."""

    job_id: str
    status: Literal["cancel_requested"]
    links: JobLinks


KEY_HEADER: Final = Header(
    IDEMPOTENCY_KEY,
    "Identifies repeats of this request: with the same body they are the same job, with another body they are refused.",
    Annotated[str, StringConstraints(pattern=f"^{KEY_PATTERN}$")],
)
_LOCATION: Final = Header("Location", "Path of the job.")
ACCEPTED: Final = (
    Answer(202, "The log has the job.", AcceptedDocument, headers=(_LOCATION,)),
    Answer(200, "A repeat: the log already had the job.", AcceptedDocument, headers=(_LOCATION,)),
)
SUBMIT: Final = Route(
    "POST", JOBS_PATH, name="submitJob", access="submit", body=Submit, headers=(KEY_HEADER,),
    says="Submit a job.\n\nThe answer comes once the log has the job. From then on the job ends with exactly one "
    "result, even if processes or connections fail.",
    answers=ACCEPTED,
    problems={
        400: ("bad_idempotency_key",), 403: ("priority_not_allowed",), 409: ("job_id_taken",), 422: ("deadline_past",),
        429: ("open_jobs_exceeded", "token_budget_exceeded"), 503: ("busy", "log_unavailable", "reads_unavailable"),
    },
)  # fmt: skip
CANCEL: Final = Route(
    "POST", CANCEL_PATH, name="cancelJob", access="submit", ids={"job_id": GivenJobId},
    says="Cancel a job. A job that has ended is not changed.", body=CancelBody, body_required=False,
    answers=(Answer(202, "The log has the cancel.", CancelDocument),),
    problems={404: ("job_not_found", "not_found"), 503: ("log_unavailable",)},
)  # fmt: skip


ID_TAKEN: Final = "This id or key already names a job with another body."
_NOT_ACKNOWLEDGED: Final = (
    "The log did not acknowledge the request in time; the job may still have been accepted. Send it again: with the "
    "same job id or Idempotency-Key a repeat is the same job, without either it may become a second job."
)
_UNCONFIRMED: Final = (
    "The log has the request, but Backstop could not check in time whether another submission took this id first. "
    "Send it again with the same job id or Idempotency-Key to learn which."
)


def job_id_of(key: str, tenant: str) -> str:
    """The job id derived from an `Idempotency-Key`. Never change its form: keys in use would name other jobs."""
    return "job_" + hashlib.sha256(f"{tenant}\n{key}".encode()).hexdigest()[: JOB_ID_BITS // 4]


class JobIngress:
    def __init__(
        self, submissions: Submissions, cancels: Cancels, bodies: SubmittedBodies, random_hex: RandomHex, limits: Limits
    ) -> None:
        self._submissions = submissions
        self._cancels = cancels
        self._memory = bodies.memory
        self._quotas = bodies.quotas
        self._previous = bodies.previous
        self._random_hex = random_hex
        self._limits = limits

    async def submit(self, request: web.Request) -> web.Response:
        limits = self._limits
        tenant = tenant_of(request)
        require_json(request)
        key = idempotency_key(request)
        bytes_max = self._quotas.bytes_max(tenant, limits.submit_bytes_max)
        with self._memory.share() as take:
            body = await read_body(request, bytes_max=bytes_max, within_s=limits.submit_body_s, take=take)
            size_bytes, parse = len(body), partial(parse_submit, body, limits)
            del body
            submit = await self._memory.apart(size_bytes, parse)
            del parse
            await self._memory.apart(size_bytes, partial(self._previous.refuse_foreign, submit, tenant, "#/request"))
            await self._previous.check(submit, tenant)
            # A job id in the body wins over the Idempotency-Key: it names the job, the key only this request.
            chosen = submit.job_id or (job_id_of(key, tenant) if key else None)
            given = chosen or f"job_{self._random_hex(JOB_ID_BITS)}"
            prepared = await self._memory.apart(size_bytes, partial(prepare, submit))
            verdict = await self._submissions.take(
                prepared, qualified_job_id(tenant, given), tenant, chosen=chosen is not None
            )
        if isinstance(verdict, NotTaken):
            if verdict.why == "log" and chosen is None:
                raise _not_acknowledged_as(given, limits.retry_after_s)
            refuse(verdict, limits.retry_after_s)
        return accepted(given, verdict)

    async def cancel(self, request: web.Request) -> web.Response:
        limits = self._limits
        tenant = tenant_of(request)
        given = path_job_id(request)
        body = await read_body(request, bytes_max=limits.cancel_bytes_max, within_s=limits.submit_body_s)
        if body:
            require_json(request)
        asked = parse_body(CancelBody, body, limits.submit_depth_max) if body else CancelBody()
        cancel = Cancel(type="cancel", job_id=given, reason=asked.reason)
        if not await self._submissions.exists(qualified_job_id(tenant, given), tenant):
            raise Refusal(Problem(404, "job_not_found", "There is no such job, or it is not visible yet."))
        await self._cancels.publish(cancel, tenant)
        done: CancelDocument = {"job_id": given, "status": "cancel_requested", "links": _links(given)}
        return _json(202, done)


def _not_acknowledged_as(job_id: str, retry_after_s: int) -> Refusal:
    """For a caller that gave no id: the answer names the id of the possibly accepted job, for use in the repeat."""
    detail = (
        "The log did not acknowledge the job in time; it may still have been accepted. Send it again with "
        f'"job_id": "{job_id}"; without it a repeat may become a second job.'
    )
    headers = {"Retry-After": str(retry_after_s)}
    return Refusal(Problem(503, "log_unavailable", detail, headers=headers, job_id=job_id))


def refuse(verdict: NotTaken, retry_after_s: int) -> NoReturn:
    """:raises Refusal: always."""
    match verdict.why:
        case "conflict":
            raise Refusal(Problem(409, "job_id_taken", ID_TAKEN))
        case "deadline_past":
            past = FieldError("#/deadline_at_ms", "is not in the future")
            raise Refusal(Problem(422, "deadline_past", "The deadline has passed.", errors=(past,)))
        case "begins_too_late":
            late = FieldError("#/not_before_ms", BEGINS_TOO_LATE)
            raise Refusal(Problem(422, "bad_request", "The job could not begin before its end.", errors=(late,)))
        case "busy":
            raise unavailable("busy", "Too many submissions are in progress; send it again.", retry_after_s)
        case "log":
            raise unavailable("log_unavailable", _NOT_ACKNOWLEDGED, retry_after_s)
        case "unconfirmed":
            raise unavailable("log_unavailable", _UNCONFIRMED, retry_after_s)
        case "storage":
            raise unavailable(
                "log_unavailable", "The request could not be stored; nothing was done. Send it again.", retry_after_s
            )
        case "quota" | "cap":
            assert verdict.problem is not None
            raise Refusal(verdict.problem)
        case _:
            assert_never(verdict.why)


def idempotency_key(request: web.Request) -> str | None:
    values = request.headers.getall(IDEMPOTENCY_KEY, ())
    if not values:
        return None
    if len(values) > 1 or not _KEY.fullmatch(values[0]):
        raise Refusal(
            Problem(400, "bad_idempotency_key", "Send one Idempotency-Key of 1 to 255 visible ASCII characters.")
        )
    return values[0]


def path_job_id(request: web.Request) -> str:
    try:
        return _GIVEN_JOB_ID.validate_python(request.match_info["job_id"])
    except ValidationError:
        raise Refusal(Problem(404, "not_found", "This is not a valid job id.")) from None


def parse_submit(body: bytes | bytearray, limits: Limits) -> Submit:
    """:raises Refusal: as `parse_body`."""
    return parse_body(Submit, body, limits.submit_depth_max, limits.submit_values_max)


def _links(job_id: str) -> JobLinks:
    return {"self": f"{JOBS_PATH}/{job_id}", "cancel": CANCEL_PATH.format(job_id=job_id)}


def accepted(job_id: str, taken: TakenSubmission) -> web.Response:
    document: AcceptedDocument = {"job_id": job_id, "status": "accepted", "links": _links(job_id)}
    if taken.deadline_at_ms is not None:
        document["deadline_at_ms"] = taken.deadline_at_ms
    return _json(200 if taken.repeated else 202, document, {"Location": f"{JOBS_PATH}/{job_id}"})


def _json(
    status: int, document: AcceptedDocument | CancelDocument, headers: dict[str, str] | None = None
) -> web.Response:
    return web.Response(
        status=status,
        body=orjson.dumps(document),
        content_type="application/json",
        headers={**SECURITY_HEADERS, **(headers or {})},
    )
