"""The output of a cancelled stream is booked as far as it was seen, as the provider reports no usage."""

import asyncio

import pytest

from schemas.base import Usage
from schemas.jobs import UsageBooked
from streams.fold.response import Ended, RunningResponse
from tests.support.waiting import eventually
from tests.unit.streams.workers.test_follower import CLAIM, Watched, joined, told, watched


def booked(w: Watched) -> list[UsageBooked]:
    return [message for message in w.publisher.landed if isinstance(message, UsageBooked)]


@pytest.mark.parametrize("status", ["cancelled", "completed"])
def test_the_output_that_was_seen_of_a_cancelled_stream_is_booked_once(status: str) -> None:
    async def case(w: Watched) -> None:
        response_id = await w.created()
        await w.put(response_id, RunningResponse(CLAIM, 10))
        await w.told_to_the_end()
        await w.put(response_id, Ended(CLAIM, status, 20))  # type: ignore[arg-type]  # a status
        await w.put(response_id, Ended(CLAIM, status, 20))  # type: ignore[arg-type]  # as above
        if status != "cancelled":
            assert booked(w) == []
            return
        await eventually(lambda: booked(w), what="what was seen to be booked")
        (fact,) = booked(w)
        tokens = -(-len(joined(w.partials).encode()) // 4)
        assert tokens > 0
        assert (fact.job_id, fact.attempt, fact.tenant, fact.response_id) == ("job_1", 2, "acme", response_id)
        assert (fact.usage, fact.estimated) == (Usage(output_tokens=tokens, total_tokens=tokens), True)

    told(case)


def test_a_stream_that_still_runs_when_its_cancel_is_known_is_booked_when_it_is_let_go() -> None:
    async def case(w: Watched) -> None:
        response_id = await w.created("stream_endless", sim_run_s="0")
        await w.put(response_id, RunningResponse(CLAIM, 10))
        await eventually(lambda: joined(w.partials), what="the beginning of its output")
        seen = len(joined(w.partials).encode())
        await w.put(response_id, Ended(CLAIM, "cancelled", 20))
        await eventually(lambda: booked(w), what="what was seen to be booked")
        (fact,) = booked(w)
        assert fact.usage.output_tokens >= -(-seen // 4) > 0

    told(case, linger_s=0.2)


def test_a_worker_that_stops_books_what_it_saw_of_cancelled_streams_and_of_no_other() -> None:
    async def case() -> None:
        async with watched() as w:
            cancelled, running = [await w.created("stream_endless", sim_run_s="0") for _ in range(2)]
            for response_id in (cancelled, running):
                await w.put(response_id, RunningResponse(CLAIM, 10))
            await eventually(lambda: len({each.response_id for each in w.partials if joined([each])}) == 2)
            await w.put(cancelled, Ended(CLAIM, "cancelled", 20))
            assert booked(w) == []
        (fact,) = booked(w)
        assert fact.response_id == cancelled, "the next owner reads the other from its beginning"
        assert fact.usage.output_tokens > 0

    asyncio.run(case())


def test_a_stop_does_not_wait_long_for_a_broker_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.workers.follower.STOP_BOOKS_S", 0.1)

    async def case() -> None:
        async with watched() as w:
            response_id = await w.created("stream_endless", sim_run_s="0")
            await w.put(response_id, RunningResponse(CLAIM, 10))
            await eventually(lambda: joined(w.partials), what="the beginning of its output")
            await w.put(response_id, Ended(CLAIM, "cancelled", 20))
            w.publisher.away = True
        assert booked(w) == []

    asyncio.run(asyncio.wait_for(case(), 30))
