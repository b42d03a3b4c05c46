"""What befalls whole lanes for a while, and what is counted of it."""

import asyncio
from typing import Any

import openai
import pytest

from backstop.simulator.clock import Clock
from backstop.simulator.lanes import MINUTE_MS, LaneCounts
from tests.support.waiting import eventually
from tests.unit.backstop.simulator.harness import NEVER_S, World, profile, world


@pytest.mark.parametrize(
    ("answer", "status", "code", "has_wait"),
    [
        ("503", 503, None, False),
        ("503/server_is_overloaded/openai/20", 503, "server_is_overloaded", True),
        ("503/slow_down", 503, "slow_down", False),
        ("529//html/5", 529, None, True),
        ("429/rate_limit_exceeded/openai/20", 429, "rate_limit_exceeded", True),
        ("invalid_api_key", 401, "invalid_api_key", False),
        ("insufficient_quota", 429, "insufficient_quota", False),
        ("billing_not_active", 429, "billing_not_active", False),
        ("model_not_found", 404, "model_not_found", False),
        ("403//html", 403, None, False),
        ("503//problem", 503, None, False),
    ],
)
def test_all_creates_are_answered_alike_until_the_incident_ends(
    answer: str, status: int, code: str | None, has_wait: bool
) -> None:
    async def case() -> None:
        async with world() as w:
            before = await w.create(job="job_0", metadata={"sim_run_s": NEVER_S})
            number = (await w.control("POST", "incident", {"answer": answer}))["incident"]
            for _ in range(3):
                with pytest.raises(openai.APIStatusError) as caught:
                    await w.create()
                assert (caught.value.status_code, caught.value.code) == (status, code)
                assert ("retry-after" in caught.value.response.headers) == has_wait
            assert (await w.sdk.responses.retrieve(before.id)).id == before.id
            (shown,) = (await w.control("GET", "incident"))["incidents"]
            assert (shown["incident"], shown["calls_struck"], shown["left_s"]) == (number, 3, None)
            assert await w.control("DELETE", f"incident?incident={number}") == {"incidents": []}
            assert (await w.create()).status == "queued"
            struck = [line["status"] for line in await w.ledger("calls") if line["fault"] == "incident"]
            assert struck == [status] * 3

    asyncio.run(case())


@pytest.mark.parametrize("answer", ["reset", "close", "refused"])
def test_an_incident_may_break_connections(answer: str) -> None:
    async def case() -> None:
        async with world() as w:
            await w.control("POST", "incident", {"answer": answer, "calls": "all"})
            with pytest.raises(openai.APIConnectionError):
                await w.create()
            await w.control("DELETE", "incident")
            assert (await w.create()).status == "queued"

    asyncio.run(case())


def test_an_incident_ends_by_itself() -> None:
    async def case() -> None:
        async with world(time_scale=100) as w:
            await w.control("POST", "incident", {"answer": "503", "for_s": 20})
            assert (await eventually(w.create)).status == "queued"
            assert (await w.control("GET", "incident"))["incidents"] == []

    asyncio.run(case())


@pytest.mark.parametrize("lane", [{"model": "gpt-6-astra"}, {"project": 0}, {"model": "gpt-6-astra", "project": 0}])
def test_an_incident_may_be_about_one_lane(lane: dict[str, Any]) -> None:
    async def case() -> None:
        async with world(api_keys=("sk-test", "sk-other")) as w:
            await w.control("POST", "incident", {"answer": "insufficient_quota", **lane})
            with pytest.raises(openai.RateLimitError):
                await w.create()
            if "model" in lane:
                assert (await w.create(model="gpt-other")).status == "queued"
            if "project" in lane:
                asked = {"model": "gpt-6-astra", "background": True}
                assert (await w.raw("POST", "/responses", key="sk-other", json=asked))[0] == 200

    asyncio.run(case())


@pytest.mark.parametrize(
    ("calls", "struck"), [("polls", {"poll"}), ("cancels", {"cancel"}), ("all", {"poll", "cancel"})]
)
def test_an_incident_may_be_about_other_calls(calls: str, struck: set[str]) -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(metadata={"sim_run_s": NEVER_S})
            await w.control("POST", "incident", {"answer": "403//html", "calls": calls, "model": "gpt-6-astra"})
            found = {
                "poll": (await w.raw("GET", f"/responses/{created.id}"))[0],
                "cancel": (await w.raw("POST", f"/responses/{created.id}/cancel"))[0],
            }
            assert {op for op, status in found.items() if status == 403} == struck

    asyncio.run(case())


def test_an_incident_may_strike_a_share() -> None:
    async def case() -> None:
        async with world() as w:
            await w.control("POST", "incident", {"answer": "503", "share": 0.5})
            answers = {await _status(w, number) for number in range(24)}
            assert answers == {200, 503}

    asyncio.run(case())


async def _status(w: World, number: int) -> int:
    asked = {"model": "m", "background": True, "metadata": {"job": f"job_{number}"}}
    return (await w.raw("POST", "/responses", json=asked))[0]


def test_runs_that_end_in_an_incident_may_fail_with_its_code_or_hang() -> None:
    async def case() -> None:
        async with world(strict=False) as w:
            wanted = {"answer": "none", "runs": "fail", "run_code": "rate_limit_exceeded/30"}
            await w.control("POST", "incident", wanted)
            ended = await w.ended((await w.create()).id)
            assert ended.error is not None
            assert (ended.error.code, ended.usage) == ("rate_limit_exceeded", None)
            assert "try again in 30s" in ended.error.message
            await w.control("DELETE", "incident")
            await w.control("POST", "incident", {"answer": "none", "runs": "stuck"})
            await w.create(job="job_2")
            await eventually(lambda: _last_state(w, "stuck"))
            await w.control("DELETE", "incident")
            assert (await w.ended((await w.create(job="job_3")).id)).status == "completed"

    asyncio.run(case())


async def _last_state(w: World, state: str) -> bool:
    return bool((await w.ledger("truth"))[-1]["state"] == state)


def test_an_incident_of_the_calendar_comes_again() -> None:
    async def case() -> None:
        events = [{"do": "incident", "at_s": 1, "for_s": 10, "every_s": 20, "answer": "503/slow_down"}]
        async with world(profile(events=events), time_scale=20) as w:
            for _ in range(2):
                await eventually(lambda: _answers(w, 503))
                await eventually(lambda: _answers(w, 200))

    asyncio.run(case())


async def _answers(w: World, status: int) -> bool:
    return await _status(w, 1) == status


def test_a_restart_may_strand_a_share_and_refuse_connections_for_a_while() -> None:
    async def case() -> None:
        async with world() as w:
            for number in range(24):
                await w.create(job=f"job_{number}", metadata={"sim_run_s": NEVER_S})
            stuck = (await w.control("POST", "restart", {"share": 0.5, "for_s": 3600}))["stuck"]
            assert 4 <= stuck <= 20
            with pytest.raises(openai.APIConnectionError):
                await w.create()

    asyncio.run(case())


def test_creates_are_counted_by_lane_and_minute() -> None:
    async def case() -> None:
        async with world() as w:
            await w.create()
            await w.create(model="gpt-other")
            await w.control("POST", "incident", {"answer": "503"})
            for _ in range(3):
                await _status(w, 1)
            await w.raw("POST", "/responses", key="sk-wrong", json={"model": "m"})
            await w.raw("POST", "/responses", data=b"no JSON")
            found = {
                (lane["project"], lane["model"]): (
                    sum(minute["creates"] for minute in lane["minutes"]),
                    sum(minute["accepted"] for minute in lane["minutes"]),
                )
                for lane in (await w.control("GET", "lanes"))["lanes"]
            }
            assert found == {
                (0, "gpt-6-astra"): (1, 1),
                (0, "gpt-other"): (1, 1),
                (0, "m"): (3, 0),
                (-1, "m"): (1, 0),
                (0, None): (1, 0),
            }
            lines = [(line["project"], line["model"]) for line in await w.ledger("calls")]
            assert lines[:3] == [(0, "gpt-6-astra"), (0, "gpt-other"), (0, "m")]

    asyncio.run(case())


def test_a_minute_of_a_lane_begins_with_the_minute_of_the_clock() -> None:
    class Stopped(Clock):
        at_ms = 59_999

        def wall_ms(self) -> int:
            return self.at_ms

    clock = Stopped(1)
    lanes = LaneCounts(clock)
    lanes.count(0, "m", accepted=True)
    clock.at_ms += 1
    lanes.count(0, "m", accepted=False)
    (lane,) = lanes.shown()
    assert lane["minutes"] == [
        {"at_ms": 0, "creates": 1, "accepted": 1},
        {"at_ms": MINUTE_MS, "creates": 1, "accepted": 0},
    ]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"answer": "flood"}, "is no known code"),
        ({"answer": "refused", "model": "m"}, "takes no model, project or share"),
        ({"answer": "503", "calls": "posts"}, "calls: 'posts' is not one of"),
        ({"answer": "503", "run_code": "x/soon"}, "must be a number of seconds"),
        ({"answer": "503", "for_s": 10, "every_s": 5}, "every_s must be 0 or more than for_s"),
    ],
)
def test_a_wrong_incident_is_refused_with_its_reason(body: dict[str, Any], words: str) -> None:
    async def case() -> None:
        async with world() as w, w.http.post(f"{w.url}/sim/incident", json=body) as answer:
            assert answer.status == 400
            assert words in (await answer.json())["error"]

    asyncio.run(case())
