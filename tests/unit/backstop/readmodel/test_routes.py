"""The reads over a real HTTP server, on every kind of database."""

import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from backstop.readmodel import store
from backstop.readmodel.feed import ChangeFeed, StreamLimits, Subscription, TooManyFollowersError
from backstop.runtime.blobs import Bodies, FolderBlobs
from schemas.base import BlobBody, Usage
from schemas.jobs import UsageBooked
from tests.support.waiting import eventually
from tests.unit.backstop.readmodel.api import Api, api
from tests.unit.backstop.readmodel.conftest import NOW_MS, Bench
from tests.unit.backstop.readmodel.logs import (
    Log,
    accepted,
    claimed,
    refused,
    rejected,
    result_of,
    settled,
    submitted,
    webhook,
    whole_job,
)
from tests.unit.backstop.readmodel.projection import Projection


@pytest.fixture
def with_api(run, tmp_path: Path):
    def runner(body):
        async def whole(bench: Bench) -> None:
            async with api(bench, tmp_path / "blobs") as served:
                await body(served)

        run(whole)

    return runner


def test_a_finished_job_comes_with_its_result_and_its_output(with_api) -> None:
    async def body(api: Api) -> None:
        await api.take(*whole_job("j", "resp_1", session_id="s", tags=("t",)))
        job = await api.get("/v1/jobs/j")
        result, cost = job.pop("result"), job.pop("cost")
        # The times of these facts are before any price.
        assert (cost["attempts"], cost["unpriced"], cost["output_tokens"], "cost_usd" in cost) == (1, 1, 7, False)
        assert job == {
            "object": "job", "job_id": "j", "status": "completed", "terminal": True, "model": "gpt-5",
            "session_id": "s", "tags": ["t"], "submitted_at_ms": 1_000, "updated_at_ms": 9_000,
            "deadline_at_ms": 10_000_000, "finished_at_ms": 9_000, "attempts": 1, "found_by": "webhook", "version": 4,
        }  # fmt: skip
        assert result["outcome"] == "completed"
        assert result["usage"]["output_tokens"] == 7
        assert result["response"]["output_text"] == "an answer"
        assert await api.get(result["response_url"]) == result["response"]

    with_api(body)


def test_a_large_output_is_linked_and_a_missing_one_is_said_to_be_missing(with_api, tmp_path: Path) -> None:
    async def body(api: Api) -> None:
        blobs = FolderBlobs(tmp_path / "blobs")
        large = await Bodies(blobs, 1_000).put({"text": "x" * 300_000})
        small = await Bodies(blobs, 1_000).put({"text": "y" * 2_000})
        for name, stored in (("large", large), ("small", small)):
            facts = [submitted(name), accepted(name), settled(name).model_copy(update={"response": stored})]
            await api.take(*facts, result_of(*facts))
        assert "response" not in (await api.get("/v1/jobs/large"))["result"]
        assert await api.get("/v1/jobs/large/output") == {"text": "x" * 300_000}
        assert (await api.get("/v1/jobs/small"))["result"]["response"] == {"text": "y" * 2_000}
        assert isinstance(small, BlobBody)
        (tmp_path / "blobs" / small.sha256[:2] / small.sha256).unlink()
        assert (await api.get("/v1/jobs/small"))["result"]["response_missing"] is True
        assert (await api.get("/v1/jobs/small/output", 404))["code"] == "output_missing"

    with_api(body)


def test_without_an_end_or_an_output_there_is_none_to_read(with_api) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted("open"), refused("refused"), result_of(refused("refused")))
        assert (await api.get("/v1/jobs/open/output", 409))["code"] == "not_finished"
        assert (await api.get("/v1/jobs/refused/output", 404))["code"] == "no_output"
        assert (await api.get("/v1/jobs/refused"))["result"]["reason"]["code"] == "invalid"

    with_api(body)


def test_usage_that_came_after_the_end_is_shown_with_the_job(with_api) -> None:
    async def body(api: Api) -> None:
        await api.take(*whole_job("j", "resp_1"))
        assert "late_usage" not in await api.get("/v1/jobs/j")
        usage = Usage(input_tokens=3, output_tokens=4, total_tokens=7)
        late = UsageBooked(
            id="resp_2/usage", at_ms=NOW_MS, job_id="j", tenant="default", attempt=2, response_id="resp_2", usage=usage,
            estimated=True,
        )  # fmt: skip
        await api.take(late)
        (shown,) = (await api.get("/v1/jobs/j"))["late_usage"]
        assert shown == {
            "attempt": 2, "response_id": "resp_2", "estimated": True,
            "usage": {
                "input_tokens": 3, "output_tokens": 4, "total_tokens": 7, "cached_tokens": 0, "reasoning_tokens": 0,
            },
        }  # fmt: skip

    with_api(body)


@pytest.mark.parametrize("path", ["", "/output", "/timeline", "/events", "?wait=0"])
def test_another_tenants_job_does_not_exist(with_api, path: str) -> None:
    async def body(api: Api) -> None:
        await api.take(*whole_job("j", "resp_1", session_id="s"))
        assert (await api.get(f"/v1/jobs/j{path}", 404, tenant="other"))["code"] == "job_not_found"
        assert (await api.get(f"/v1/sessions/s{path if path == '/events' else ''}", 404, tenant="other"))["code"] == (
            "session_not_found"
        )
        assert (await api.get("/v1/jobs", tenant="other"))["data"] == []

    with_api(body)


def test_the_timeline_is_in_order_of_time_and_says_where_each_fact_stands(with_api) -> None:
    async def body(api: Api) -> None:
        await api.take(*whole_job("j", "resp_1"))
        entries = (await api.get("/v1/jobs/j/timeline"))["entries"]
        assert [entry["kind"] for entry in entries] == [
            "job_submitted", "attempt_accepted", "response_claimed", "webhook_received", "response_observed",
            "attempt_settled", "job_result", "timer_fired",
        ]  # fmt: skip
        assert (entries[3]["topic"], entries[3]["partition"], entries[3]["offset"]) == ("responses", 0, 0)
        assert entries[3]["summary"]["webhook_id"] == "wh_resp_1"

    with_api(body)


def test_a_list_is_read_page_by_page(with_api) -> None:
    async def body(api: Api) -> None:
        await api.take(*(submitted(f"j{n}", at_ms=n, session_id="s" if n % 2 else None) for n in range(1, 8)))
        first = await api.get("/v1/jobs?limit=4")
        second = await api.get(f"/v1/jobs?limit=4&cursor={first['next_cursor']}")
        assert [job["job_id"] for job in first["data"] + second["data"]] == [f"j{n}" for n in range(7, 0, -1)]
        assert "next_cursor" not in second
        session = await api.get("/v1/sessions/s?status=submitting,running&since=3")
        assert [job["job_id"] for job in session["data"]] == ["j7", "j5", "j3"]
        assert (await api.get("/v1/jobs?session=s&model=none"))["data"] == []

    with_api(body)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=x", "since=-1", "status=done", "cursor=%21", "cursor=YWJj", "since=9" + "9" * 20],
)
def test_a_parameter_that_makes_no_sense_is_refused(with_api, query: str) -> None:
    async def body(api: Api) -> None:
        problem = await api.get(f"/v1/jobs?{query}", 400)
        assert problem["code"] == "bad_parameter"
        assert query.partition("=")[0] in problem["detail"]

    with_api(body)


@pytest.mark.parametrize("given", ["%00", "a%00", "%0A", "a%20b", "%F0%9F%98%80", "x" * 300])
def test_an_id_that_none_can_have_is_not_there(with_api, given: str) -> None:
    async def body(api: Api) -> None:
        for rest in ("", "/output", "/timeline", "/events"):
            assert (await api.get(f"/v1/jobs/{given}{rest}", 404))["code"] == "job_not_found"
        for rest in ("", "/events"):
            assert (await api.get(f"/v1/sessions/{given}{rest}", 404))["code"] == "session_not_found"
        for name in ("model", "tag", "session", "cursor"):
            if "%00" in given:
                assert (await api.get(f"/v1/jobs?{name}={given}", 400))["code"] == "bad_parameter"

    with_api(body)


def test_a_wait_ends_with_the_job(with_api) -> None:
    async def body(api: Api) -> None:
        facts = [submitted(), accepted(), settled()]
        waiting = asyncio.create_task(api.get("/v1/jobs/j?wait=30"))
        await followers(api, 1)
        await api.take(*facts[:2])
        await api.take(facts[2], result_of(*facts))
        async with asyncio.timeout(5):
            assert (await waiting)["status"] == "completed"

    with_api(body)


def test_a_wait_ends_with_its_time(with_api) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted())
        assert (await api.get("/v1/jobs/j?wait=1"))["status"] == "submitting"
        assert (await api.get("/v1/jobs/unknown?wait=1", 404))["code"] == "job_not_found"
        assert (await api.get("/v1/jobs/j?wait=31", 400))["code"] == "bad_parameter"

    with_api(body)


async def followers(api: Api, count: int) -> None:
    await eventually(lambda: api.registry.get_sample_value("backstop_sse_clients") == count, what=f"{count} followers")


def test_a_jobs_stream_tells_what_is_and_what_comes_and_ends_with_its_end(with_api) -> None:
    async def body(api: Api) -> None:
        facts = [submitted(), accepted(), settled()]
        await api.take(facts[0])
        async with api.follow("/v1/jobs/j/events") as stream:
            assert stream.answer.content_type == "text/event-stream"
            assert int((await stream.next())["retry"]) >= 1_000
            now = await stream.next()
            assert (now["event"], now["data"]["status"]) == ("job", "submitting")
            await api.take(facts[1], submitted("another"))
            running = await stream.next()
            assert running["data"]["status"] == "running"
            await api.take(facts[2], result_of(*facts))
            assert [event["data"]["status"] for event in await stream.rest()] == ["completed"]
        places = [tuple(map(int, event["id"].split("-"))) for event in (now, running)]
        assert places[0][0] == places[1][0] == api.projection.database.build
        assert places[0][1] < places[1][1]

    with_api(body)


def test_a_stream_resumes_after_the_last_event_that_was_seen(with_api) -> None:
    async def body(api: Api) -> None:
        facts = [submitted(), accepted(), settled()]
        await api.take(facts[0])
        async with api.follow("/v1/jobs/j/events") as stream:
            await stream.next()
            seen = await stream.next()
        await api.take(facts[1])
        await api.take(submitted("another"), facts[2], result_of(*facts))
        async with api.follow("/v1/jobs/j/events", seen["id"]) as stream:
            told = await stream.rest()
        assert [event["data"]["status"] for event in told] == ["running", "completed"]
        async with api.follow("/v1/jobs/j/events", told[-1]["id"]) as stream:
            assert stream.answer.status == 204

    with_api(body)


@pytest.mark.parametrize(
    ("last_event_id", "reason"), [("7-1", "rebuilt"), ("nonsense", "unreadable"), ("{build}-0", "trimmed")]
)
def test_missed_events_that_are_no_longer_available_are_a_gap(with_api, last_event_id: str, reason: str) -> None:
    async def body(api: Api) -> None:
        await api.take(*whole_job("j", "resp_1"))
        for n in range(3):
            await api.take(submitted(f"k{n}"))
        await api.projection.database.write(lambda conn: store.trim(conn, 1, NOW_MS, 0))
        asked = last_event_id.format(build=api.projection.database.build)
        async with api.follow("/v1/jobs/j/events", asked) as stream:
            gap, now = await stream.rest()
        assert (gap["event"], gap["data"]) == ("gap", {"reason": reason})
        assert (now["event"], now["data"]["status"]) == ("job", "completed")

    with_api(body)


def test_a_sessions_stream_follows_all_its_jobs_and_goes_on_after_their_ends(with_api) -> None:
    async def body(api: Api) -> None:
        await api.take(*whole_job("a", "resp_a", session_id="s"), submitted("b", session_id="s"))
        async with api.follow("/v1/sessions/s/events") as stream:
            await stream.next()
            now = [await stream.next(), await stream.next()]
            assert {(event["data"]["job_id"], event["data"]["status"]) for event in now} == {
                ("a", "completed"), ("b", "submitting"),
            }  # fmt: skip
            await api.take(submitted("elsewhere"), submitted("c", session_id="s"))
            assert (await stream.next())["data"]["job_id"] == "c"

    with_api(body)


def test_a_stream_may_be_opened_before_its_job_is_projected(with_api) -> None:
    async def body(api: Api) -> None:
        async def first() -> str:
            async with api.follow("/v1/jobs/j/events") as stream:
                await stream.next()
                return (await stream.next())["data"]["status"]

        waiting = asyncio.create_task(first())
        await followers(api, 1)
        await api.take(submitted())
        assert await waiting == "submitting"

    with_api(body)


def test_a_quiet_stream_shows_that_it_lives(with_api) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted())
        async with api.follow("/v1/jobs/j/events") as stream:
            await stream.next()
            assert (await stream.next())["event"] == "job"
            assert await stream.next_or_sign_of_life() == {"comment": "still here"}

    with_api(body)


def test_a_slow_follower_is_dropped_and_keeps_its_queued_changes(run) -> None:
    async def body(bench: Bench) -> None:
        projection = await Projection(bench.another()).take_over()
        changes = ChangeFeed(bench.another(), CollectorRegistry(), StreamLimits(queue_max=3))
        await changes.start()
        follower = Subscription("default")
        log = Log()
        async with changes.follow(follower):
            # The feed is at the end before the first change is written, so it misses none.
            await projection.take(log.put(submitted("first")))
            await eventually(lambda: follower._queue.qsize() == 1, what="the first change", timeout_s=5)
            await projection.take(log.put(*(submitted(f"j{n}") for n in range(5))))
            await eventually(lambda: follower.closed is not None, what="the follower to be let go")
            assert follower.closed == "slow"
            assert [change and change.job_id for change in [await follower.next(1) for _ in range(3)]] == [
                "first",
                "j0",
                "j1",
            ]
            assert await follower.next(1) is None
        await changes.stop()

    run(body)


def test_without_its_database_a_read_says_so(run, tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        async with api(bench, tmp_path) as served:
            for database in bench._made:
                await database.close()
            problem = await served.get("/v1/jobs/j", 503)
            assert problem["code"] == "reads_unavailable"

    run(body)


def test_a_server_that_stops_ends_its_streams(with_api) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted(), webhook(), claimed())
        async with api.follow("/v1/jobs/j/events") as stream:
            assert (await stream.next())["retry"]
            stopping = asyncio.create_task(api.runner.cleanup())
            async with asyncio.timeout(4):
                assert [event["data"]["status"] for event in await stream.rest()] == ["submitting"]
                await stopping

    with_api(body)


def test_more_streams_than_one_process_may_serve_are_refused(run) -> None:
    async def body(bench: Bench) -> None:
        database = (await Projection(bench.another()).take_over()).database
        feed = ChangeFeed(database, CollectorRegistry(), StreamLimits(followers_max=1))
        await feed.start()
        async with feed.follow(Subscription("default")):
            with pytest.raises(TooManyFollowersError):
                async with feed.follow(Subscription("default")):
                    pass
        async with feed.follow(Subscription("default")):
            pass
        await feed.stop()

    run(body)


def test_lists_and_events_tell_what_each_open_job_waits_for_and_why_others_failed(with_api) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted("j"), accepted("j"), claimed("j"), webhook("resp_1", at_ms=6_000))
        failed = [submitted("k"), rejected("k", cause="never")]
        await api.take(*failed, result_of(*failed))
        listed = {job["job_id"]: job for job in (await api.get("/v1/jobs"))["data"]}
        assert listed["j"]["waiting"]["for"] == "poll"
        assert listed["j"]["waiting"] == (await api.get("/v1/jobs/j"))["waiting"]
        assert listed["j"]["next_action_at_ms"] == listed["j"]["waiting"]["until_ms"] == 7_000
        assert listed["k"]["reason"]["code"] == "rate_limit_exceeded"
        assert "waiting" not in listed["k"]
        async with api.follow("/v1/jobs/j/events") as events:
            await events.next()  # the time of a retry
            assert (await events.next())["data"]["waiting"] == listed["j"]["waiting"]
            await api.take(settled("j"))
            assert (await events.next())["data"]["waiting"]["for"] == "result"

    with_api(body)
