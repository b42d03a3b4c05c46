"""The ingress's queries about tenants, and the reads of a tenant whose ids carry its name."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry

from backstop.readmodel.feed import StreamLimits
from backstop.readmodel.queries import find_owner, find_row, tenant_load
from backstop.runtime.blobs import FolderBlobs
from receiver.ingress.submissions import AcceptedJob
from receiver.reads.routes import JustTaken, add_routes
from tests.unit.backstop.readmodel.conftest import Bench
from tests.unit.backstop.readmodel.logs import Log, accepted, adopted, claimed, submitted, whole_job
from tests.unit.backstop.readmodel.projection import Projection
from tests.unit.backstop.readmodel.serving import served


def test_the_load_of_a_tenant_is_what_is_open_and_what_ended_since(run) -> None:
    async def body(bench: Bench) -> None:
        projection = await Projection(bench.another()).take_over()
        log = Log()
        await projection.take(log.put(*whole_job("done", "resp_done")))
        await projection.take(log.put(submitted("open"), accepted("open")))
        await projection.take(log.put(submitted("x:other", tenant="x")))
        database = bench.another()

        async def load(tenant: str, since_ms: int, *job_ids: str) -> Any:
            return await database.read(lambda conn: tenant_load(conn, tenant, since_ms, job_ids))

        mine = await load("default", 0, "open", "nowhere", "done")
        assert (mine.open_jobs, mine.known) == (1, {"open", "done"})
        assert mine.tokens > 0
        assert (await load("default", 2**50)).tokens == 0, "that was before"
        theirs = await load("x", 0)
        assert (theirs.open_jobs, theirs.tokens) == (1, 0)
        many = await load("default", 0, *(f"none-{number}" for number in range(1_200)), "open")
        assert many.known == {"open"}

    run(body)


def test_the_owner_of_a_response_is_the_job_that_claimed_it(run) -> None:
    async def body(bench: Bench) -> None:
        projection = await Projection(bench.another()).take_over()
        log = Log()
        fact = claimed("x:job", "resp_x")
        await projection.take(log.put(submitted("x:job", tenant="x"), accepted("x:job", response_id="resp_x"), fact))
        database = bench.another()
        assert await database.read(lambda conn: find_owner(conn, fact.response_id)) == ("x", "x:job")
        assert await database.read(lambda conn: find_owner(conn, "resp_foreign")) is None

    run(body)


def test_an_adopting_job_owns_the_response_until_the_job_that_created_it_claims_it(run) -> None:
    async def body(bench: Bench) -> None:
        projection = await Projection(bench.another()).take_over()
        log, database = Log(), bench.another()

        async def owner() -> Any:
            return await database.read(lambda conn: find_owner(conn, "resp_x"))

        await projection.take(
            log.put(adopted("y:a", "resp_x", tenant="y"), claimed("y:a", "resp_x", made_elsewhere=True))
        )
        assert await owner() == ("y", "y:a")
        row = await database.read(lambda conn: find_row(conn, "y", "y:a"))
        assert row is not None
        assert (row.status, row.model, row.attempts) == ("running", None, 1)
        await projection.take(log.put(submitted("x:job", tenant="x"), claimed("x:job", "resp_x")))
        assert await owner() == ("x", "x:job")
        await projection.take(log.put(claimed("y:a", "resp_x", made_elsewhere=True)))
        assert await owner() == ("x", "x:job")

    run(body)


def test_a_tenant_reads_its_jobs_by_its_own_ids_and_those_not_yet_projected(run, tmp_path: Path) -> None:
    taken = {"x:new": AcceptedJob(7, "m", "s", ("t",), 9, "")}

    def find(job_id: str, tenant: str) -> AcceptedJob | None:
        return taken.get(job_id) if job_id.startswith(f"{tenant}:") else None

    async def is_hidden(_tenant: str, given: str) -> bool:
        return given == "resp_deleted"

    async def body(bench: Bench) -> None:
        projection = await Projection(bench.another()).take_over()
        log = Log()
        for job_id in ("x:job", "x:resp_deleted"):
            await projection.take(log.put(submitted(job_id, tenant="x")))
        async for session in serving(bench, tmp_path, JustTaken(find, is_hidden)):

            async def get(path: str, tenant: str, expected: int, session: aiohttp.ClientSession = session) -> Any:
                async with session.get(path, headers={"X-Test-Tenant": tenant}) as answer:
                    assert answer.status == expected, (path, tenant, await answer.text())
                    return await answer.json(content_type=None)

            assert (await get("/v1/jobs/job", "x", 200))["job_id"] == "job"
            assert (await get("/v1/jobs/job/timeline", "x", 200))["job_id"] == "job"
            listed = (await get("/v1/jobs", "x", 200))["data"]
            assert sorted(job["job_id"] for job in listed) == ["job", "resp_deleted"], "a list shows no content"
            for tenant in ("default", "y"):
                for name in ("job", "x:job", "new", "x:new"):
                    for rest in ("", "/output", "/timeline", "/events", "?wait=1"):
                        await get(f"/v1/jobs/{name}{rest}", tenant, 404)
            new = await get("/v1/jobs/new", "x", 200)
            assert (new["status"], new["version"], new["session_id"], new["deadline_at_ms"]) == (
                "submitting",
                0,
                "s",
                9,
            )
            assert (await get("/v1/jobs/new/timeline", "x", 200))["entries"] == []
            assert (await get("/v1/jobs/new/output", "x", 409))["code"] == "not_finished"
            for rest in ("", "/output", "/timeline", "/events"):
                await get(f"/v1/jobs/resp_deleted{rest}", "x", 404)

    run(body)


async def serving(bench: Bench, folder: Path, taken: JustTaken) -> AsyncIterator[aiohttp.ClientSession]:
    app = web.Application()
    add_routes(
        app, bench.another(), FolderBlobs(folder), lambda request: request.headers["X-Test-Tenant"],
        CollectorRegistry(), StreamLimits(appear_s=0.05), taken,
    )  # fmt: skip
    async with served(app) as session:
        yield session
