"""What needs attention, figures and dead letters, over a real server, on every kind of database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from backstop.readmodel import store
from backstop.readmodel.database import Connection
from backstop.readmodel.queries import ended_since
from backstop.runtime.blob_folders import BlobFolders
from backstop.runtime.kafka.broker_clock import said
from receiver.reads.overview import FAILED_OF_MIN, MISSED_OF_MIN, BesideReadModel, add_overview_routes
from receiver.reads.status import SystemWatch
from schemas.base import InlineBody
from schemas.dead_letters import DeadLetter, DeadLetterResolved
from schemas.jobs import AttemptRejected
from tests.unit.backstop.readmodel.conftest import Bench
from tests.unit.backstop.readmodel.logs import (
    DEADLINE_MS,
    Log,
    accepted,
    refused,
    rejected,
    result_of,
    settled,
    submitted,
    whole_job,
)
from tests.unit.backstop.readmodel.projection import Projection
from tests.unit.backstop.readmodel.serving import RIGHTS, Client, running, served
from tests.unit.backstop.readmodel.test_dead_letters import letter
from tests.unit.receiver.test_status import Told

BOUND_MS = 1_000
ENDED_MS = 9_000
ALL = "read,operate,admin"


class Api(Client):
    def __init__(self, session: aiohttp.ClientSession, projection: Projection) -> None:
        super().__init__(session, projection)
        self.now_ms = ENDED_MS + 500

    async def get(self, path: str, status: int = 200, tenant: str = "default", scopes: str = "read") -> Any:
        headers = {"X-Test-Tenant": tenant, "X-Test-Scopes": scopes}
        async with self.session.get(path, headers=headers) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json(content_type=None)


@asynccontextmanager
async def api(bench: Bench, folders: BlobFolders | None = None, watch: SystemWatch | None = None) -> AsyncIterator[Api]:
    projection = await Projection(bench.another()).take_over()
    app = web.Application()
    held: list[Api] = []
    beside = BesideReadModel(
        folders=folders, system=watch, expiring=lambda tenant: [f"key of {tenant} expires"] * (watch is not None)
    )
    add_overview_routes(app, bench.another(), RIGHTS, lambda: held[0].now_ms, BOUND_MS, beside)
    async with served(app) as session:
        held.append(Api(session, projection))
        yield held[0]


@pytest.fixture
def with_api(run: Any) -> Any:
    return running(run, api)


def test_nothing_needs_attention_until_something_does(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted("open"), submitted("x:theirs", tenant="x"), *whole_job("done", "r"))
        seen = await api.get("/v1/attention")
        assert (seen["findings"], seen["open"], seen["at_ms"]) == ([], {"submitting": 1}, api.now_ms)
        api.now_ms = DEADLINE_MS + BOUND_MS + 1
        for tenant, job_id in (("default", "open"), ("x", "theirs")):
            seen = await api.get("/v1/attention", tenant=tenant)
            assert seen["findings"] == [
                {"code": "jobs_overdue", "count": 1, "job_ids": [job_id]},
                {"code": "jobs_without_next_action", "count": 1, "job_ids": [job_id]},
            ], "each tenant its own, by its own ids"
        await api.take(accepted("open"), settled("open"))
        assert [one["code"] for one in (await api.get("/v1/attention"))["findings"]] == ["jobs_finishing_too_long"]

    with_api(body)


def test_differing_blob_stores_are_told_to_operators(run: Any) -> None:
    folders = BlobFolders("a" * 32, lambda: 0)

    async def whole(bench: Bench) -> None:
        async with api(bench, folders) as served:
            assert (await served.get("/v1/attention", scopes=ALL))["findings"] == []
            folders.heard(said("worker-2", "b" * 32), 0)
            assert (await served.get("/v1/attention", scopes="read"))["findings"] == []
            (found,) = (await served.get("/v1/attention", scopes=ALL))["findings"]
            assert (found["code"], found["count"]) == ("blob_stores_differ", 1)
            assert found["because"].startswith("worker-2 on another machine")
            assert "BACKSTOP_BLOBS" in found["because"]

    run(whole)


def test_jobs_that_wait_for_a_person_or_for_the_provider_are_told_with_the_providers_words(with_api: Any) -> None:
    def declined(job_id: str, **changes: Any) -> AttemptRejected:
        return rejected(job_id).model_copy(update={"message": "no", **changes})

    async def body(api: Api) -> None:
        key = {"cause": "account", "code": "invalid_api_key", "http_status": 401}
        held = {"cause": "held", "code": "invalid_api_key", "http_status": None, "held_for": "account"}
        away = {"cause": "overloaded", "code": "http_503", "http_status": 503}
        for number in range(4):
            await api.take(submitted(f"away{number}"), declined(f"away{number}", **away))
        await api.take(submitted("key"), declined("key", **key), submitted("held"), declined("held", **held))
        await api.take(submitted("x:theirs", tenant="x"), declined("x:theirs", **key))
        (found,) = (await api.get("/v1/attention"))["findings"]
        assert found == {
            "code": "provider_refuses", "count": 2, "job_ids": ["held", "key"], "because": "invalid_api_key: no",
        }  # fmt: skip
        await api.take(submitted("away5"), declined("away5", **{**away, "cause": "held", "held_for": "overloaded"}))
        _, found = (await api.get("/v1/attention"))["findings"]
        assert (found["code"], found["count"], found["because"]) == ("provider_unavailable", 5, "http_503: no")

    with_api(body)


def looked(job_id: str, number: int) -> list[Any]:
    """A job whose end a poll found, before any webhook."""
    facts = [
        submitted(job_id),
        accepted(job_id, response_id=f"r{number}"),
        settled(job_id, response_id=f"r{number}").model_copy(update={"found_by": "poll", "webhook_at_ms": None}),
    ]
    return [*facts, result_of(*facts)]


def test_failing_jobs_are_told_with_their_reasons_where_they_are_many(with_api: Any) -> None:
    async def body(api: Api) -> None:
        for number in range(FAILED_OF_MIN - 1):
            await api.take(*whole_job(f"ok-{number}", f"resp_{number}"))
        for number in range(2):
            facts = [submitted(f"k-{number}"), rejected(f"k-{number}", cause="never")]
            await api.take(*facts, result_of(*facts))
        (found,) = (await api.get("/v1/attention"))["findings"]
        assert {name: found[name] for name in ("code", "count", "of", "because")} == {
            "code": "jobs_failing", "count": 2, "of": FAILED_OF_MIN + 1, "because": "2 × rate_limit_exceeded",
        }  # fmt: skip
        assert sorted(found["job_ids"]) == ["k-0", "k-1"]
        await api.take(*[fact for n in range(9) for fact in whole_job(f"well-{n}", f"resp_well_{n}")])
        assert (await api.get("/v1/attention"))["findings"] == []

    with_api(body)


def test_missing_workers_and_keys_near_their_end_are_findings(run: Any) -> None:
    async def body(bench: Bench) -> None:
        told = Told()
        watch = SystemWatch(told, lambda: told.at_ms)
        await watch.once()
        told.members = {}
        await watch.once()
        async with api(bench, watch=watch) as served:
            missing, keys = (await served.get("/v1/attention"))["findings"]
            assert (missing["code"], missing["count"]) == ("workers_missing", 4)
            assert missing["because"] == "no worker holds partitions 0, 1 since 01:25:47 UTC (jobs, responses)"
            assert keys == {"code": "keys_expire_soon", "count": 1, "because": "key of default expires"}
            told.answers = False
            await watch.once()
            away, _ = (await served.get("/v1/attention"))["findings"]
            assert (away["code"], away["because"]) == ("broker_away", "the broker at b:9092 did not answer")

    run(body)


def test_equal_reasons_are_told_together_the_largest_group_first(with_api: Any) -> None:
    async def body(api: Api) -> None:
        for name in ("a", "b", "c"):
            await api.take(submitted(name), rejected(name, at_ms=8_000, cause="limited"))
        await api.take(submitted("e"), accepted("e"))
        for name in ("x", "y"):
            facts = [submitted(name), rejected(name, cause="never")]
            await api.take(*facts, result_of(*facts))
        await api.take(*whole_job("z", "resp_z"))
        told = await api.get("/v1/reasons?since=0")
        assert [(group["count"], group["for"], group["code"]) for group in told["waiting"]] == [
            (3, "retry", "rate_limit_exceeded"), (1, "webhook", "running"),
        ]  # fmt: skip
        assert told["waiting"][0]["job_ids"] == ["a", "b", "c"]
        assert [(group["count"], group["status"], group.get("code")) for group in told["ended"]] == [
            (2, "failed", "rate_limit_exceeded"), (1, "completed", None),
        ]  # fmt: skip
        assert (told["truncated"], told["object"], told["since_ms"]) == (False, "reasons", 0)
        assert (await api.get("/v1/reasons", tenant="other"))["waiting"] == []
        # Every list shows the reasons, too.
        assert (await api.get(f"/v1/reasons?since={ENDED_MS + 1}"))["ended"] == []

    with_api(body)


def test_missed_webhooks_are_told_where_they_are_many(with_api: Any) -> None:
    async def body(api: Api) -> None:
        lost = MISSED_OF_MIN // 5 + 1
        for number in range(MISSED_OF_MIN - 1):
            await api.take(*(looked(f"j{number}", number) if number < lost else whole_job(f"j{number}", f"r{number}")))
        assert (await api.get("/v1/attention"))["findings"] == [], "of so few a share says nothing"
        await api.take(*whole_job("last", "r-last"))
        (finding,) = (await api.get("/v1/attention"))["findings"]
        assert finding == {"code": "webhooks_missed", "count": lost, "of": MISSED_OF_MIN}
        assert (await api.get("/v1/attention", tenant="x"))["findings"] == []

    with_api(body)


def test_figures_are_a_tenants_own_and_of_the_time_asked_for(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(*whole_job("a", "ra"), *whole_job("b", "rb", model="other"), *looked("c", 3))
        theirs = refused("x:a").model_copy(update={"tenant": "x"})
        await api.take(theirs, result_of(theirs).model_copy(update={"at_ms": ENDED_MS}))
        seen = await api.get("/v1/stats")
        assert (seen["ended"], seen["truncated"], seen["outcomes"]) == (3, False, {"completed": 3})
        assert [(model["model"], model["ended"]) for model in seen["models"]] == [("gpt-5", 2), ("other", 1)]
        assert seen["models"][0]["queued"]["p50_ms"] == 1_000
        assert seen["models"][0]["detection"]["n"] == 2
        assert seen["models"][0]["webhook_lag"]["n"] == 1
        assert (seen["webhooks"]["webhook"], seen["webhooks"]["poll"], seen["webhooks"]["missed"]) == (2, 1, 1)
        assert seen["course"] == [
            {
                "from_ms": 0, "submitted": 3, "ended": 3, "failed": 0, "running_p50_ms": 6_000,
                "running_p95_ms": 6_000, "tokens": 36, "refused": {"limited": 0, "overloaded": 0, "other": 0},
                "spent": {"attempts": 3, "unmeasured": 0, "unpriced": 3},
            }
        ]  # fmt: skip
        assert (await api.get(f"/v1/stats?since={ENDED_MS + 1}"))["ended"] == 0
        assert (await api.get(f"/v1/stats?since={ENDED_MS}"))["ended"] == 3
        assert (await api.get("/v1/stats", tenant="x"))["ended"] == 1
        assert (await api.get("/v1/stats?since=yesterday", 400))["code"] == "bad_parameter"

    with_api(body)


def test_figures_never_read_a_row(run: Any) -> None:
    """Rows carry results of any size. The index covers all that a figure needs, so their size costs no time."""

    async def body(bench: Bench) -> None:
        projection = await Projection(bench.another()).take_over()
        big = InlineBody(value={"text": "x" * 50_000})
        facts = [submitted("j"), accepted("j"), settled("j").model_copy(update={"response": big})]
        await projection.take(Log().put(*facts, result_of(*facts)))

        def plan(conn: Connection) -> str:
            asked: list[str] = []

            class Explaining:
                def rows(self, sql: str, params: Any = ()) -> Any:
                    lead = "EXPLAIN QUERY PLAN " if "sqlite" in type(conn).__module__ else "EXPLAIN "
                    asked.extend(str(row) for row in conn.rows(lead + sql, params))
                    return []

            if "postgres" in type(conn).__module__:
                conn.execute("SET LOCAL enable_seqscan = off")
            ended_since(Explaining(), "default", 0, 10)  # type: ignore[arg-type]  # all that it calls
            return "\n".join(asked)

        told = await projection.database.read(plan)
        assert "COVERING INDEX jobs_by_end" in told or "Index Only Scan using jobs_by_end" in told, told
        assert len(await projection.database.read(lambda conn: ended_since(conn, "default", 0, 10))) == 1

    run(body)


def letters(count: int, topic: str | None = "requests", **changes: Any) -> list[DeadLetter]:
    return [letter(topic=topic, **{"id": f"{topic}:{n}", "at_ms": ENDED_MS + n, **changes}) for n in range(count)]


def test_dead_letters_come_newest_first_in_pages(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(*letters(5))
        found: list[str] = []
        cursor = ""
        for expected in (2, 2, 1):
            page = await api.get(f"/v1/dead-letters?limit=2{cursor}")
            assert len(page["data"]) == expected
            found += [one["id"] for one in page["data"]]
            cursor = f"&cursor={page['next_cursor']}" if "next_cursor" in page else ""
        assert found == [f"requests:{n}" for n in (4, 3, 2, 1, 0)]
        assert page.get("next_cursor") is None
        assert len((await api.get(f"/v1/dead-letters?since={ENDED_MS + 3}"))["data"]) == 2
        assert len((await api.get("/v1/dead-letters?reason=not_json"))["data"]) == 5
        assert (await api.get("/v1/dead-letters?reason=invalid"))["data"] == []
        for wrong in ("state=closed", "reason=mood", "limit=0", "cursor=*"):
            assert (await api.get(f"/v1/dead-letters?{wrong}", 400))["code"] == "bad_parameter"
        assert (await api.get("/v1/attention"))["findings"] == [
            {"code": "dead_letters", "count": 5, "because": "5 × not_json from requests"}
        ]

    with_api(body)


def test_tenant_and_scopes_decide_which_dead_letters_a_caller_sees_and_how_much_of_them(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(*letters(1), *letters(1, "requests.x", record_key="x:j"), *letters(1, None))

        async def seen(tenant: str, scopes: str) -> dict[str, bool]:
            page = await api.get("/v1/dead-letters", tenant=tenant, scopes=scopes)
            return {one["id"]: "preview" in one for one in page["data"]}

        assert await seen("default", "read") == {"requests:0": False}
        assert await seen("default", "read,operate") == {"requests:0": True}
        assert await seen("x", "read,operate") == {"requests.x:0": True}
        assert await seen("x", "read,admin") == {"requests.x:0": False, "None:0": False}
        (mine,) = (await api.get("/v1/dead-letters", tenant="x"))["data"]
        assert (mine["key"], mine["tenant"], mine["size_bytes"]) == ("j", "x", 1), "by its own id"
        assert (await api.get("/v1/attention", scopes=ALL))["findings"][0]["count"] == 2

    with_api(body)


def test_a_decision_closes_a_dead_letter_and_a_repeat_makes_no_other(with_api: Any) -> None:
    async def body(api: Api) -> None:
        (first,) = letters(1)
        await api.take(first, first.model_copy(update={"component": "another"}))
        decision = DeadLetterResolved(
            id="d", at_ms=ENDED_MS + 9, dead_letter_id=first.id, resolution="dropped", by="me"
        )
        await api.take(decision)
        assert (await api.get("/v1/dead-letters"))["data"] == []
        (one,) = (await api.get("/v1/dead-letters?state=all"))["data"]
        assert (one["resolution"], one["resolved_at_ms"], one["component"]) == ("dropped", ENDED_MS + 9, "intake")
        assert (await api.get("/v1/attention"))["findings"] == []

    with_api(body)


def test_only_the_newest_dead_letters_are_kept(run: Any) -> None:
    async def body(bench: Bench) -> None:
        projection = await Projection(bench.another()).take_over()
        await projection.take(Log().put(*letters(7), *letters(2, "jobs", at_ms=ENDED_MS + 6)))
        kept = "SELECT dead_letter_id FROM dead_letters ORDER BY at_ms DESC, dead_letter_id DESC"
        assert await projection.database.write(lambda conn: store.trim_dead_letters(conn, 9)) == 0
        assert await projection.database.write(lambda conn: store.trim_dead_letters(conn, 4)) == 5
        left = await projection.database.read(lambda conn: [row[0] for row in conn.rows(kept)])
        assert left == ["requests:6", "jobs:1", "jobs:0", "requests:5"]

    run(body)
