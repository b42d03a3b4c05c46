"""Search by id over HTTP, and the request of a job."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NotRequired

import orjson
from aiohttp import web
from pydantic import ConfigDict, Field, StringConstraints, with_config
from typing_extensions import TypedDict

from backstop.readmodel.answers import JobView
from backstop.readmodel.database import Connection, Database
from backstop.readmodel.lists import sights_of
from backstop.readmodel.queries import find_row, request_of
from backstop.readmodel.search import BEGINNING_CHARS_MIN, HITS_MAX, Hit, Kind, search
from backstop.readmodel.waits import Sight
from backstop.runtime.blobs import BlobStore, text_of
from backstop.runtime.errors import BlobMissingError
from backstop.runtime.http.routes import Answer, Query, Route, declare, query_of
from receiver.reads import problems
from receiver.reads.declarations import AWAY
from receiver.reads.overview import TenantOf
from receiver.reads.parameters import ReadRefusal, guarded, path_id
from receiver.reads.routes import JustTaken
from receiver.reads.shown import Shown
from schemas.base import ID_CHARS_MAX, JobId
from schemas.job_ids import qualified_job_id

_DOCUMENTED: Final = ConfigDict(use_attribute_docstrings=True)


@with_config(_DOCUMENTED)
class HitView(TypedDict):
    """What has the id."""

    kind: Kind
    response_id: NotRequired[str]
    session_id: NotRequired[str]
    job: NotRequired[JobView]
    """The job, or that of the response."""


class SearchPage(TypedDict):
    """What has the id, or an id that begins so."""

    object: Literal["list"]
    data: list[HitView]


@with_config(_DOCUMENTED)
class RequestView(TypedDict):
    """The request of a job."""

    object: Literal["request"]
    job_id: str
    request: Any
    """As it is sent to the provider, without what Backstop adds to each create."""


class SearchQuery(Query):
    id: Annotated[str, StringConstraints(min_length=1, max_length=ID_CHARS_MAX, pattern=r"^[^\x00]*$")] = Field(
        description=f"The id of a job, of a response of the provider or of a session; or its beginning, of at least "
        f"{BEGINNING_CHARS_MIN} characters, of a job or a response."
    )


SEARCH: Final = Route(
    "GET", "/v1/search", name="search", access="read", query=SearchQuery, problems=AWAY,
    says=f"What has this id; if nothing has, what has an id that begins so, at most {HITS_MAX}.",
    answers=(Answer(200, "What was found; an empty list if nothing was.", SearchPage),),
)  # fmt: skip
GET_REQUEST: Final = Route(
    "GET", "/v1/jobs/{job_id}/request", name="getJobRequest", access="read", ids={"job_id": JobId},
    says="The request of a job.", answers=(Answer(200, "The request.", RequestView),),
    problems={404: ("job_not_found", "no_request", "request_missing"), **AWAY},
)  # fmt: skip


def add_search_routes(
    app: web.Application, database: Database, blobs: BlobStore, tenant_of: TenantOf, shown: Shown,
    taken: JustTaken | None = None,
) -> None:  # fmt: skip
    """Add `GET /v1/search` and `GET /v1/jobs/{job_id}/request` to `app`."""
    just_taken = taken or JustTaken()

    async def find(request: web.Request) -> web.StreamResponse:
        tenant, given = tenant_of(request), query_of(request, SearchQuery).id

        def read(conn: Connection) -> tuple[list[Hit], dict[str, Sight]]:
            hits = search(conn, tenant, given)
            return hits, sights_of(conn, [hit.row for hit in hits if hit.row is not None], shown.now_ms())

        hits, sights = await database.read(read)

        found = [_view(hit, shown, sights) for hit in hits]
        data = [
            view for view in found if "job" not in view or not await just_taken.is_hidden(tenant, view["job"]["job_id"])
        ]
        page: SearchPage = {"object": "list", "data": data}
        return problems.answer(page)

    async def get_request(request: web.Request) -> web.StreamResponse:
        tenant, given = tenant_of(request), path_id(request, "job")
        job_id = qualified_job_id(tenant, given)
        if await just_taken.is_hidden(tenant, given):
            raise ReadRefusal(problems.not_found("job"))
        row, body = await database.read(lambda conn: (find_row(conn, tenant, job_id), request_of(conn, job_id)))
        if row is None:
            raise ReadRefusal(problems.not_found("job"))
        if body is None:
            text = "The response was created elsewhere, or the job was refused: its request is not known here."
            return problems.problem(404, "no_request", text)
        try:
            request_text = await text_of(blobs, body)
        except BlobMissingError:
            return problems.problem(404, "request_missing", "The request is no longer in the blob store.")
        told = orjson.dumps({"object": "request", "job_id": given})  # `RequestView`, whose request costs no parsing
        return problems.answer_of(b'%b,"request":%b}' % (told[:-1], request_text))

    declare(app, SEARCH, guarded(find))
    declare(app, GET_REQUEST, guarded(get_request))


def _view(hit: Hit, shown: Shown, sights: Mapping[str, Sight]) -> HitView:
    view: HitView = {"kind": hit.kind}
    if hit.kind == "session":
        view["session_id"] = hit.found
    if hit.kind == "response":
        view["response_id"] = hit.found
    if hit.row is not None:
        view["job"] = shown.job(hit.row, sights)
    return view
