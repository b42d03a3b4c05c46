"""Faults that are aimed at a call, and those that strike all of them for a while."""

import asyncio

import openai
import pytest

from backstop.simulator import outlast
from backstop.simulator.catalogue import FAULTS
from backstop.simulator.profiles import PRESETS
from tests.support.waiting import eventually
from tests.unit.backstop.simulator.harness import NEVER_S, World, profile, world


def test_an_aim_strikes_the_nth_call_that_matches_and_then_no_more() -> None:
    async def case() -> None:
        async with world() as w:
            wanted = {"fault": "create_refuse_500", "job": "job_2", "attempt": "1", "nth": 2}
            await w.control("POST", "aim", wanted)
            await w.create(job="job_1")
            await w.create(job="job_2", attempt="2")
            await w.create(job="job_2")
            with pytest.raises(openai.InternalServerError):
                await w.create(job="job_2")
            await w.create(job="job_2")
            (aim,) = (await w.control("GET", "aim"))["aims"]
            assert (aim["seen"], aim["hits"]) == (2, 1)

    asyncio.run(case())


def test_an_aim_strikes_a_response_or_every_call() -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(metadata={"sim_run_s": NEVER_S})
            await w.control("POST", "aim", {"fault": "poll_503", "response": created.id, "times": 0})
            await w.control("POST", "aim", {"fault": "webhook_lost", "response": created.id})
            for _ in range(3):
                with pytest.raises(openai.InternalServerError):
                    await w.sdk.responses.retrieve(created.id)
            await w.control("DELETE", "aim")
            assert (await w.sdk.responses.retrieve(created.id)).id == created.id

    asyncio.run(case())


def test_a_directive_can_be_meant_for_one_attempt() -> None:
    async def case() -> None:
        async with world() as w:
            with pytest.raises(openai.InternalServerError):
                await w.create(attempt="1", fault="create_refuse_500@1 run_failed@2")
            created = await w.create(attempt="2", fault="create_refuse_500@1 run_failed@2")
            assert (await w.ended(created.id)).status == "failed"

    asyncio.run(case())


def test_a_directive_can_be_meant_for_the_first_calls_of_a_job() -> None:
    async def case() -> None:
        async with world() as w:
            for _ in range(2):
                with pytest.raises(openai.InternalServerError):
                    await w.create(fault="create_refuse_500*2")
            assert (await w.create(fault="create_refuse_500*2")).status == "queued"

    asyncio.run(case())


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("503", openai.InternalServerError),
        ("500", openai.InternalServerError),
        ("html", openai.InternalServerError),
        ("reset", openai.APIConnectionError),
    ],
)
def test_an_outage_strikes_every_call_until_it_ends(mode: str, error: type[Exception]) -> None:
    async def case() -> None:
        async with world() as w:
            await w.control("POST", "outage", {"for_s": 60, "mode": mode})
            with pytest.raises(error):
                await w.create()
            await w.control("POST", "outage", {"for_s": 0})
            assert (await w.create()).status == "queued"

    asyncio.run(case())


def test_runs_that_end_in_an_outage_may_all_fail() -> None:
    async def case() -> None:
        async with world() as w:
            await w.control("POST", "outage", {"for_s": 1_000_000, "mode": "none", "runs": "fail"})
            ended = await w.ended((await w.create()).id)
            assert ended.error is not None
            assert "wfr_" in ended.error.message
            await w.control("POST", "outage", {"for_s": 0})
            await eventually(lambda: _completes(w), what="the end of the outage")

    asyncio.run(case())


def test_a_restart_leaves_every_open_response_stuck() -> None:
    async def case() -> None:
        async with world() as w:
            for number in range(3):
                await w.create(job=f"job_{number}", metadata={"sim_run_s": NEVER_S})
            assert await w.control("POST", "restart") == {"stuck": 3}
            assert (await w.ended((await w.create(job="job_9")).id)).status == "completed"
            stats = await w.control("GET", "stats")
            assert (stats["open"], stats["ended"]) == (3, {"completed": 1})

    asyncio.run(case())


def test_a_wave_makes_runs_slower_while_it_lasts() -> None:
    async def case() -> None:
        async with world() as w:
            await w.control("POST", "wave", {"for_s": 60, "factor": 1_000_000})
            slow = await w.create(job="job_1")
            await w.control("POST", "wave", {"for_s": 0, "factor": 1})
            await w.ended((await w.create(job="job_2")).id)
            assert (await w.sdk.responses.retrieve(slow.id)).status in ("queued", "in_progress")

    asyncio.run(case())


def test_events_of_a_profile_happen_by_themselves() -> None:
    async def case() -> None:
        events = [{"do": "outage", "for_s": 3600, "at_s": 0.05}]
        async with world(profile(events=events)) as w:
            # The machine may be slow: what was accepted before the outage began proves nothing either way.
            await eventually(lambda: _is_refused(w))

    asyncio.run(case())


def test_events_that_come_with_a_change_of_the_profile_are_counted_from_then() -> None:
    async def case() -> None:
        async with world() as w:
            await w.create(metadata={"sim_run_s": NEVER_S})
            await w.control("POST", "faults", {"events": [{"do": "restart", "at_s": 0.05}]})
            await eventually(lambda: _last_truth(w, "stuck"))

    asyncio.run(case())


def test_a_seed_repeats_its_faults_whatever_the_order_of_arrival() -> None:
    async def case(jobs: list[str], seed: int) -> dict[str, bool]:
        wanted = profile(rates={"create_refuse_500": 0.5})
        struck = {}
        async with world(wanted, seed=seed) as w:
            for job in jobs:
                try:
                    await w.create(job=job)
                except openai.InternalServerError:
                    struck[job] = True
                else:
                    struck[job] = False
        return struck

    jobs = [f"job_{number}" for number in range(24)]
    first = asyncio.run(case(jobs, 1))
    assert first == asyncio.run(case(jobs[::-1], 1))
    assert first != asyncio.run(case(jobs, 2))
    assert set(first.values()) == {True, False}


def test_a_share_of_all_calls_may_fail() -> None:
    async def case() -> None:
        async with world(profile(rates={"platform_500": 1.0})) as w:
            with pytest.raises(openai.InternalServerError):
                await w.create()
            await w.control("POST", "faults", {"rates": {"platform_500": 0.0}})
            assert (await w.create()).status == "queued"

    asyncio.run(case())


def test_the_hard_presets_contain_what_the_easy_ones_do() -> None:
    assert PRESETS["calm"].rates == {}
    assert set(PRESETS["demo"].rates) <= set(FAULTS)
    assert set(outlast.RATES) <= set(PRESETS["rough"].rates) <= set(PRESETS["torture"].rates)


async def _is_refused(w: World) -> bool:
    try:
        await w.create()
    except openai.InternalServerError:
        return True
    return False


async def _completes(w: World) -> bool:
    return (await w.ended((await w.create()).id)).status == "completed"


async def _last_truth(w: World, state: str) -> bool:
    return (await w.ledger("truth"))[-1]["state"] == state
