"""The declarations of the reads: parameters with their limits, answers and routes."""

import base64
import binascii
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema

from backstop.readmodel.answers import JobEvent, JobPage, JobWithResult, SessionPage, TimelineView
from backstop.readmodel.lists import Cursor
from backstop.runtime.http.routes import EVENT_STREAM, WHOLE, Answer, Header, Query, Route
from schemas.base import JobId
from schemas.requests import SessionId
from schemas.statuses import JobStatus

WAIT_S_MAX: Final = 30
LIMIT_MAX: Final = 200
LIMIT: Final = 50
FILTER_CHARS_MAX: Final = 200
SINCE_MS_MAX: Final = 2**53


def _split(value: Any) -> Any:
    return tuple(filter(None, value.split(","))) if isinstance(value, str) else value


def _from_cursor(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        at_ms, colon, job_id = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).decode().partition(":")
    except (binascii.Error, ValueError):
        colon = at_ms = job_id = ""
    if not (colon and at_ms.isascii() and at_ms.isdecimal() and len(at_ms) <= 16 and "\0" not in job_id):
        raise ValueError("must be the next_cursor of an earlier page")
    return Cursor(int(at_ms), job_id)


FilterText = Annotated[str, StringConstraints(max_length=FILTER_CHARS_MAX, pattern=r"^[^\x00]*$")]
PageMark = Annotated[Cursor, BeforeValidator(_from_cursor), WithJsonSchema({"type": "string"})]


class JobQuery(Query):
    wait: Annotated[int, Field(ge=0, le=WAIT_S_MAX), WHOLE] = Field(
        default=0, description="Seconds to wait for the job to end."
    )


class PageQuery(Query):
    status: Annotated[tuple[JobStatus, ...], BeforeValidator(_split)] = Field(
        default=(), description="Only jobs with one of these statuses, separated by commas."
    )
    model: FilterText | None = Field(default=None, description="Only jobs of this model.")
    tag: FilterText | None = Field(default=None, description="Only jobs with this tag.")
    since: Annotated[int, Field(ge=0, le=SINCE_MS_MAX), WHOLE] | None = Field(
        default=None, description="Only jobs submitted at or after this time, in Unix milliseconds."
    )
    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX), WHOLE] = Field(
        default=LIMIT, description="Jobs per page, at most."
    )
    cursor: PageMark | None = Field(default=None, description="The `next_cursor` of the previous page.")


class ListQuery(PageQuery):
    session: FilterText | None = Field(default=None, description="Only jobs of this session.")


class StreamQuery(Query):
    last_event_id: str | None = Field(
        default=None, description="Replaces the header `Last-Event-ID` for clients that can't set it."
    )
    ticket: str | None = Field(default=None, description="Replaces the key: see `POST /v1/tickets`.")


_JOB: Final = {"job_id": JobId}
_SESSION: Final = {"session_id": SessionId}
_LAST_EVENT: Final = Header("Last-Event-ID", "Resume after the event with this id.")
AWAY: Final = {503: ("reads_unavailable",)}
_NO_JOB: Final = {404: ("job_not_found",), **AWAY}
_NO_SESSION: Final = {404: ("session_not_found",), **AWAY}
_FULL: Final = {503: ("reads_unavailable", "too_many_streams")}
_EVENTS: Final = (
    "\n\nServer-sent events. `job`: the current state of a job, as `GET /v1/jobs/{job_id}` shows it without its "
    "result. `gap`: events after your `Last-Event-ID` are no longer available; the current state follows. Comments "
    "are sent as heartbeats."
)

LIST_JOBS: Final = Route(
    "GET", "/v1/jobs", name="listJobs", access="read", query=ListQuery, says="Jobs, newest first, in pages.",
    answers=(Answer(200, "A page of jobs.", JobPage),), problems=AWAY,
)  # fmt: skip
GET_JOB: Final = Route(
    "GET", "/v1/jobs/{job_id}", name="getJob", access="read", ids=_JOB, query=JobQuery,
    says="The current state of a job, with its result once it has ended.",
    answers=(Answer(200, "The job.", JobWithResult),),
    problems={**_NO_JOB, **_FULL},
)  # fmt: skip
GET_OUTPUT: Final = Route(
    "GET", "/v1/jobs/{job_id}/output", name="getJobOutput", access="read", ids=_JOB,
    says="The complete response object of the provider.", answers=(Answer(200, "The response object.", Any),),
    problems={404: ("job_not_found", "no_output", "output_missing"), 409: ("not_finished",), **AWAY},
)  # fmt: skip
GET_TIMELINE: Final = Route(
    "GET", "/v1/jobs/{job_id}/timeline", name="getJobTimeline", access="read", ids=_JOB,
    says="The facts of a job, each with its topic, partition and offset.",
    answers=(Answer(200, "The timeline.", TimelineView),),
    problems=_NO_JOB,
)  # fmt: skip
FOLLOW_JOB: Final = Route(
    "GET", "/v1/jobs/{job_id}/events", name="followJob", access="read", ids=_JOB, headers=(_LAST_EVENT,),
    query=StreamQuery,
    says=f"Follow a job until it ends.{_EVENTS}",
    answers=(
        Answer(200, "The events, up to the job's end.", JobEvent, EVENT_STREAM),
        Answer(204, "The job has ended, and `Last-Event-ID` names its last event: do not reconnect."),
    ),
    problems={**_NO_JOB, **_FULL},
)  # fmt: skip
GET_SESSION: Final = Route(
    "GET", "/v1/sessions/{session_id}", name="getSession", access="read", ids=_SESSION, query=PageQuery,
    says="The jobs of a session, newest first, in pages.", answers=(Answer(200, "A page of jobs.", SessionPage),),
    problems=_NO_SESSION,
)  # fmt: skip
FOLLOW_SESSION: Final = Route(
    "GET", "/v1/sessions/{session_id}/events", name="followSession", access="read", ids=_SESSION,
    headers=(_LAST_EVENT,), query=StreamQuery, says=f"Follow the jobs of a session.{_EVENTS}",
    answers=(Answer(200, "The events; the stream does not end.", JobEvent, EVENT_STREAM),),
    problems={**_NO_SESSION, **_FULL},
)  # fmt: skip
FOLLOW_ALL: Final = Route(
    "GET", "/v1/events", name="followAll", access="read", headers=(_LAST_EVENT,), query=StreamQuery,
    says=f"Follow all jobs of the tenant.{_EVENTS}",
    answers=(Answer(200, "The events; the stream does not end.", JobEvent, EVENT_STREAM),), problems=_FULL,
)  # fmt: skip
