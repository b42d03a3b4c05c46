"""Why a job stands where it does, over HTTP: sentences that are made from its facts when they are asked for."""

from collections.abc import Callable
from typing import Final

from aiohttp import web

from backstop.readmodel.costs import job_cost
from backstop.readmodel.database import Database
from backstop.readmodel.ledger import spends_of
from backstop.readmodel.places import place_of
from backstop.readmodel.queries import find_existing, find_row, timeline_of
from backstop.readmodel.rows import JobRow
from backstop.readmodel.turn_text import turn_of
from backstop.readmodel.waits import Sight, sight_of
from backstop.readmodel.why import JobSituation, WhyView, next_at_ms, next_poll_of, why
from backstop.runtime.http.routes import Answer, Route, declare
from backstop.runtime.process.clock import NowMs
from receiver.lane_watch import LaneWatch
from receiver.reads import problems
from receiver.reads.declarations import AWAY
from receiver.reads.overview import TenantOf
from receiver.reads.parameters import ReadRefusal, guarded, path_id
from receiver.reads.routes import JustTaken
from schemas.base import JobId
from schemas.codec import decode
from schemas.job_ids import qualified_job_id
from schemas.results import RESULT
from streams.fold.job import Absent
from streams.fold.rows import decode_job_state
from streams.policy.prices import Prices
from streams.retries import own_id_of_retry

HoldsUp = Callable[[JobRow, Sight], list[str]]

GET_WHY: Final = Route(
    "GET", "/v1/jobs/{job_id}/why", name="getJobWhy", access="read", ids={"job_id": JobId},
    says="Why a job stands where it does: what it waits for and until when, or why it ended; what happened before; and "
    "what it cost so far.\n\nTwo or three sentences for people, made from the job's facts. Programs read the job "
    "itself.",
    answers=(Answer(200, "The sentences.", WhyView),), problems={404: ("job_not_found",), **AWAY},
)  # fmt: skip


def add_why_route(
    app: web.Application, database: Database, tenant_of: TenantOf, now_ms: NowMs, prices: Prices,
    taken: JustTaken | None = None, watch: LaneWatch | None = None, holds_up: HoldsUp = lambda _row, _sight: [],
) -> None:  # fmt: skip
    """Add `GET /v1/jobs/{job_id}/why` to `app`.

    :param watch: knows the pauses in force.
    :param holds_up: tells what of the system holds up an open job.
    """
    just_taken = taken or JustTaken()

    async def get_why(request: web.Request) -> web.StreamResponse:
        tenant, given = tenant_of(request), path_id(request, "job")
        job_id = qualified_job_id(tenant, given)
        if await just_taken.is_hidden(tenant, given):
            raise ReadRefusal(problems.not_found("job"))
        at_ms = now_ms()
        own_retry_id = own_id_of_retry(job_id)
        row, entries, spends, place, retries = await database.read(
            lambda conn: (
                find_row(conn, tenant, job_id), timeline_of(conn, job_id), spends_of(conn, job_id),
                place_of(conn, tenant, job_id, at_ms),
                find_existing(conn, [qualified_job_id(tenant, own_retry_id)]),
            )
        )  # fmt: skip
        of_system: list[str] = []
        if row is not None and not row.terminal:
            sight = sight_of(entries, row.wait.response_id if row.wait is not None else None)
            of_system = [f"{said[0].upper()}{said[1:]}." for said in holds_up(row, sight)]
        if row is None:
            if just_taken.find(job_id, tenant) is None:
                raise ReadRefusal(problems.not_found("job"))
            seen = JobSituation(Absent(), at_ms)
        else:
            held = () if watch is None else tuple(
                watch.book.holding(model=row.model or "", tenant=tenant, tags=row.tags)
            )  # fmt: skip
            seen = JobSituation(
                decode_job_state(row.fold_state),
                at_ms,
                None if row.result is None else decode(RESULT, row.result),
                job_cost(spends, row.model or "", prices) if spends else None,
                next_poll_of(entries, at_ms),
                held,
                place,
                own_retry_id if retries else None,
            )
        answer: WhyView = {
            "object": "why",
            "job_id": given,
            "status": "submitting" if row is None else row.status,
            "sentences": [*of_system, *why(seen)],
        }
        if place is not None:
            answer["turn"] = turn_of(place)
        due_ms = next_at_ms(seen)
        if due_ms is not None:
            answer["next_at_ms"] = due_ms
        return problems.answer(answer)

    declare(app, GET_WHY, guarded(get_why))
