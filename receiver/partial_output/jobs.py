"""`GET /v1/jobs/{job_id}/stream`: the partial output of a job as it arrives, and its result at the end.

The id of an event is `ATTEMPT-NUMBER`; `Last-Event-ID` (or `starting_after`) resumes after it. A `gap` event tells
which events are missing. A higher attempt starts from zero: the output of earlier attempts is not part of the result.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any, Final

from aiohttp import web
from pydantic import Field, StringConstraints

from backstop.runtime.authority import authority_of
from backstop.runtime.http.routes import (
    EVENT_STREAM,
    Answer,
    BadParameterError,
    Header,
    Query,
    Route,
    ServerSentEvent,
    query_of,
)
from backstop.runtime.process.clock import NowMs
from receiver.access.identity import tenant_of
from receiver.ingress.jobs import path_job_id
from receiver.ingress.submissions import APPEAR_POLL_S, Submissions
from receiver.limits import Limits
from receiver.lookups import JobReads, ReadsAwayError, SeenJob
from receiver.partial_output.history import JobHistory
from receiver.partial_output.listeners import Live, listening
from receiver.partial_output.serving import is_recent, serve_events
from receiver.problems import Problem, Refusal, reads_away
from schemas.codec import canonical
from schemas.job_ids import qualified_job_id
from schemas.requests import GivenJobId
from schemas.results import JobResult

IsHidden = Callable[[str, str], Awaitable[bool]]
"""By tenant and the tenant's own id of a response."""

END_ID: Final = "end"
_PLACE = re.compile(r"([1-9]\d{0,8})-(\d{1,16})")
_Place = Annotated[str, StringConstraints(pattern=rf"^({_PLACE.pattern}|{END_ID})$")]


class OutputQuery(Query):
    starting_after: _Place | None = Field(default=None, description="Resume after the event with this id.")
    last_event_id: str | None = Field(
        default=None, description="Replaces the header `Last-Event-ID` for clients that can't set it."
    )
    ticket: str | None = Field(default=None, description="Replaces the key: see `POST /v1/tickets`.")


STREAM: Final = Route(
    "GET", "/v1/jobs/{job_id}/stream", name="streamJobOutput", access="read", ids={"job_id": GivenJobId},
    query=OutputQuery, headers=(Header("Last-Event-ID", "Resume after the event with this id."),),
    says="Follow the partial output of a job to its result.\n\nServer-sent events. `partial`: an event of the "
    "provider's stream, with its attempt; only for a job whose request has `stream: true`. `gap`: the events that are "
    "missing, and why. `result`: always the last event. A higher attempt starts from zero: discard the output of "
    "earlier ones. Listening does not affect the job.",
    answers=(
        Answer(200, "The events, up to the job's result.", ServerSentEvent, EVENT_STREAM),
        Answer(204, "`Last-Event-ID` names the result: do not reconnect."),
    ),
    problems={404: ("job_not_found", "not_found"), 503: ("reads_unavailable", "too_many_streams")},
)  # fmt: skip


class OutputView:
    """The position of one listener in a job's partial output. Numbers are the provider's."""

    def __init__(self, given_job_id: str, attempt: int = 0, number: int = -1) -> None:
        self._given_job_id = given_job_id
        self._attempt = attempt
        self._number = number
        self._truncation_told = False

    def pending(self, history: JobHistory) -> Iterator[bytes]:
        for attempt, run in history.runs.items():
            if attempt < self._attempt:
                continue
            if attempt > self._attempt:
                self._attempt, self._number, self._truncation_told = attempt, -1, False
            if run.start_after > self._number:
                seen, self._number = self._number, run.start_after
                yield self._gap("not_kept", seen, self._number + 1)
            for event in run.after(self._number):
                self._number = event.number
                yield b'id: %d-%d\nevent: partial\ndata: {"attempt":%d,"event":%b}\n\n' % (
                    attempt, event.number, attempt, event.data
                )  # fmt: skip
            if run.truncated is not None and not self._truncation_told:
                self._truncation_told = True
                yield self._gap(run.truncated, self._number, None)

    def is_complete(self, history: JobHistory | None) -> bool:
        runs = list(history.runs.values()) if history is not None else []
        return bool(runs) and (runs[-1].end_number is not None or runs[-1].truncated is not None)

    def end(self, ended: SeenJob, _history: JobHistory | None) -> bytes:
        assert ended.result is not None
        return frame(END_ID, "result", result_of(self._given_job_id, ended.result))

    def _gap(self, reason: str, after: int, before: int | None) -> bytes:
        told: dict[str, Any] = {"attempt": self._attempt, "reason": reason, "after": after}
        if before is not None:
            told["before"] = before
        # Without an event seen there is no id to resume after.
        return frame(f"{self._attempt}-{self._number}" if self._number >= 0 else None, "gap", told)


def frame(event_id: str | None, kind: str, data: dict[str, Any]) -> bytes:
    head = b"" if event_id is None else b"id: %b\n" % event_id.encode()
    return head + b"event: %b\ndata: %b\n\n" % (kind.encode(), canonical(data))


def result_of(given_job_id: str, result: JobResult) -> dict[str, Any]:
    """The result as `GET /v1/jobs/{job_id}` shows it, but without the output."""
    shown = {"outcome", "reason", "usage", "found_by", "timings", "attempts", "rejections"}
    told: dict[str, Any] = {
        "job_id": given_job_id,
        "result": result.model_dump(mode="json", include=shown, exclude_none=True),
        "links": {"self": f"/v1/jobs/{given_job_id}"},
    }
    if result.response is not None:
        told["links"]["output"] = f"/v1/jobs/{given_job_id}/output"
    return told


class JobStreamIngress:
    def __init__(
        self,
        *,
        live: Live,
        reads: JobReads,
        submissions: Submissions,
        is_hidden: IsHidden,
        limits: Limits,
        now_ms: NowMs,
    ) -> None:
        self._live = live
        self._reads = reads
        self._submissions = submissions
        self._is_hidden = is_hidden
        self._limits = limits
        self._now_ms = now_ms

    async def stream(self, request: web.Request) -> web.StreamResponse:
        tenant, given = tenant_of(request), path_job_id(request)
        try:
            asked = query_of(request, OutputQuery)
        except BadParameterError as error:
            raise Refusal(Problem(400, "bad_parameter", f"{error}.")) from None
        place = asked.starting_after or request.headers.get("Last-Event-ID") or asked.last_event_id
        job_id = qualified_job_id(tenant, given)
        await self._must_exist(tenant, job_id, given)
        if place == END_ID:
            return web.Response(status=204)
        found = _PLACE.fullmatch(place or "")
        view = OutputView(given, int(found[1]), int(found[2])) if found is not None else OutputView(given)

        async def poll() -> SeenJob | None:
            try:
                seen = await self._reads.job(tenant, job_id)
            except ReadsAwayError:
                return None
            return seen if seen is not None and seen.result is not None else None

        async with listening(self._live, tenant, job_id, self._limits, authority_of(request)) as listener:
            return await serve_events(
                request, listener, view, poll, self._limits, self._live.metrics, recent=self._is_recent
            )

    def _is_recent(self, ended: SeenJob) -> bool:
        return ended.result is not None and is_recent(ended.result.timings.finished_at_ms, self._now_ms(), self._limits)

    async def _must_exist(self, tenant: str, job_id: str, given: str) -> None:
        """Waits up to `appear_s` for a job that another process accepted.

        :raises Refusal: 404, there is no such job; 503, the read model is not reachable.
        """
        if await self._is_hidden(tenant, given):
            raise _no_such_job()
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._limits.appear_s
        while self._submissions.accepted(job_id, tenant) is None:
            try:
                if await self._reads.job(tenant, job_id) is not None:
                    return
            except ReadsAwayError:
                raise reads_away(self._limits.retry_after_s) from None
            if loop.time() >= deadline_s:
                raise _no_such_job()
            await asyncio.sleep(APPEAR_POLL_S)


def _no_such_job() -> Refusal:
    return Refusal(Problem(404, "job_not_found", "There is no such job, or it is not visible yet."))
