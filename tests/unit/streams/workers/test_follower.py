"""The follower against the simulator: what it publishes of a stream, whatever happens to its connections."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from backstop.runtime.kafka.reporting import Reporting
from backstop.runtime.process.clock import make_clock
from schemas.partials import PartialOutput
from streams.fold.response import Ended, ResponseClaim, ResponseState, RunningResponse
from streams.fold.rows import encode_response_state, encode_row
from streams.workers.access import ProviderAccess
from streams.workers.follower import Follower
from streams.workers.lanes import Lanes
from streams.workers.limits import FollowLimits
from streams.workers.metrics import FollowerMetrics
from streams.workers.rate import PollRate
from tests.support.accounts import account_at, provider_of
from tests.support.memory_publisher import MemoryPublisher
from tests.support.waiting import eventually
from tests.unit.backstop.simulator.harness import KEY, World, world

CLAIM = ResponseClaim("job_1", 2, "acme", 1, 2, 3, 4, stream=True)


class MemoryRows:
    def __init__(self) -> None:
        self.rows: dict[int, dict[bytes, bytes]] = {0: {}, 1: {}}

    def partitions(self) -> set[int]:
        return set(self.rows)

    def get(self, partition: int, key: bytes) -> bytes | None:
        return self.rows[partition].get(key)

    def items(self, partition: int) -> Any:
        return iter(self.rows[partition].items())

    async def put(self, partition: int, rows: Any) -> None:
        self.rows[partition] |= rows


class Watched:
    """A running follower and its published records."""

    def __init__(self, w: World, follower: Follower, publisher: MemoryPublisher) -> None:
        self.w = w
        self.follower = follower
        self.publisher = publisher
        self.memory = MemoryRows()
        self.rows = follower.beside(self.memory)

    async def created(self, fault: str = "", **metadata: str) -> str:
        given = {"job": "job_1", "attempt": "2"} | ({"sim_fault": fault} if fault else {}) | metadata
        stream = await self.w.sdk.responses.create(
            model="gpt-6-astra", input="Hello", background=True, stream=True, metadata=given
        )
        async for event in stream:
            await stream.close()
            return str(event.response.id)  # type: ignore[union-attr]
        raise AssertionError("no event")

    async def put(self, response_id: str, state: ResponseState, partition: int = 0) -> None:
        await self.rows.put(partition, {response_id.encode(): encode_row(encode_response_state(state), 1)})

    @property
    def partials(self) -> list[PartialOutput]:
        return [message for message in self.publisher.landed if isinstance(message, PartialOutput)]

    async def told_to_the_end(self) -> list[PartialOutput]:
        await eventually(lambda: any(each.end_number is not None for each in self.partials), what="the end of a stream")
        return self.partials


@asynccontextmanager
async def watched(**limits: Any) -> AsyncIterator[Watched]:
    async with world() as w:
        now_ms = make_clock()
        publisher = MemoryPublisher()
        follower = Follower(
            Reporting(publisher, FollowerMetrics(CollectorRegistry()), now_ms),
            FollowLimits(**{
                "concurrency": 5, "coalesce_ms": 1, "event_bytes_max": 100_000, "response_bytes_max": 1_000_000,
                **limits,
            }),
        )  # fmt: skip
        provider = provider_of(
            account_at(f"{w.url}/v1", KEY), now_ms, streams_max=5, poll_timeout_ms=2_000, stream_silence_ms=500
        )
        stop = asyncio.Event()
        access = ProviderAccess(provider, Lanes(now_ms), PollRate(250, now_ms))
        running = asyncio.create_task(follower.run(stop, access))
        try:
            yield Watched(w, follower, publisher)
        finally:
            stop.set()
            await running
            await provider.close()


def told(case: Callable[[Watched], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with watched(**options) as w:
            await case(w)

    asyncio.run(run())


def joined(partials: list[PartialOutput]) -> str:
    return "".join(str(event.get("delta", "")) for each in partials for event in each.events)


def assert_whole(partials: list[PartialOutput]) -> None:
    """Each number once, in order, each record begins where the one before it ended, and the text is complete."""
    numbers = [int(str(event["sequence_number"])) for each in partials for event in each.events]
    assert numbers == list(range(len(numbers)))
    last = -1
    for each in partials:
        assert each.after == last
        last = max([last, *(int(str(event["sequence_number"])) for event in each.events)])
    assert partials[-1].end_number == len(numbers)
    assert joined(partials) == "Echo: Hello"


@pytest.mark.parametrize(
    "fault",
    ["", "stream_drop=4", "stream_close=4*2", "stream_error=5", "stream_twice", "stream_swapped", "stream_404",
     "stream_429", "stream_500", "stream_html_200", "stream_delay=0.7", "poll_404_at_first=0.1"],
)  # fmt: skip
def test_a_stream_is_told_whole_whatever_becomes_of_its_connections(fault: str) -> None:
    async def case(w: Watched) -> None:
        response_id = await w.created(fault, sim_run_s="0.2")
        await w.put(response_id, RunningResponse(CLAIM, 9))
        partials = await w.told_to_the_end()
        assert_whole(partials)
        assert {(each.job_id, each.attempt, each.tenant, each.response_id) for each in partials} == {
            ("job_1", 2, "acme", response_id)
        }

    told(case)


def test_it_is_told_while_the_response_runs_and_the_first_events_without_the_response() -> None:
    async def case(w: Watched) -> None:
        response_id = await w.created(sim_run_s="1000")
        await w.put(response_id, RunningResponse(CLAIM, 9))
        await eventually(lambda: w.partials)
        assert [event for each in w.partials for event in each.events][:3] == [
            {"type": f"response.{kind}", "sequence_number": number}
            for number, kind in enumerate(("created", "queued", "in_progress"))
        ]
        assert (await w.w.sdk.responses.retrieve(response_id)).status == "in_progress"

    told(case)


def test_only_running_responses_that_stream_are_followed_and_as_many_as_may_be() -> None:
    async def case(w: Watched) -> None:
        first, second = [await w.created(sim_run_s=seconds) for seconds in ("0.3", "0")]
        await w.put("resp_plain", RunningResponse(replace(CLAIM, stream=False), 9))
        await w.put("resp_over", Ended(CLAIM, "completed", 9))
        await w.put(first, RunningResponse(CLAIM, 9))
        await w.put(second, RunningResponse(CLAIM, 9))
        await eventually(lambda: sum(each.end_number is not None for each in w.partials) == 2)
        ends = [each.response_id for each in w.partials if each.end_number is not None]
        assert ends == [first, second], "the second waited for the first"
        assert {each.response_id for each in w.partials} == {first, second}

    told(case, concurrency=1)


def test_a_new_owner_of_a_partition_begins_anew_and_the_old_one_stops() -> None:
    async def case(w: Watched) -> None:
        mine = await w.created(sim_run_s="0.3")
        theirs = await w.created(sim_run_s="1000")
        w.memory.rows[0][mine.encode()] = encode_row(encode_response_state(RunningResponse(CLAIM, 9)), 1)
        await w.put(theirs, RunningResponse(CLAIM, 9), partition=1)
        await eventually(lambda: w.partials)
        w.follower.rebuilt([0], w.rows)
        await w.told_to_the_end()
        assert_whole([each for each in w.partials if each.response_id == mine])
        calls = [line for line in await w.w.ledger("calls") if line["op"] == "stream"]
        assert [line["response"] for line in calls].count(theirs) == 1

    told(case)


def test_a_stream_that_never_ends_is_left_when_its_response_has_ended() -> None:
    async def case(w: Watched) -> None:
        endless, second = await w.created("stream_endless", sim_run_s="0"), await w.created(sim_run_s="0")
        await w.put(endless, RunningResponse(CLAIM, 9))
        await w.put(second, RunningResponse(CLAIM, 9))
        await eventually(lambda: joined(w.partials) == "Echo: Hello")
        await w.put(endless, Ended(CLAIM, "completed", 9))
        await w.told_to_the_end()
        assert {each.response_id for each in w.partials if each.end_number is not None} == {second}

    told(case, concurrency=1, linger_s=0.05)


@pytest.mark.parametrize(
    ("limits", "fault", "cut"),
    [
        ({"event_bytes_max": 60}, "", "event_too_large"),
        ({"response_bytes_max": 400}, "", "response_too_large"),
        ({}, "stream_400", "not_streamable"),
    ],
)
def test_what_is_not_told_on_says_so(limits: dict[str, int], fault: str, cut: str) -> None:
    async def case(w: Watched) -> None:
        await w.put(await w.created(fault, sim_run_s="0"), RunningResponse(CLAIM, 9))
        await eventually(lambda: any(each.truncated for each in w.partials))
        assert w.partials[-1].truncated == cut
        assert all(each.end_number is None for each in w.partials)

    told(case, **limits)


def test_while_the_broker_is_away_the_stream_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.workers.stream_reading.PUBLISH_AGAIN_S", 0.05)

    async def case(w: Watched) -> None:
        w.publisher.away = True
        await w.put(await w.created(sim_run_s="0"), RunningResponse(CLAIM, 9))
        await eventually(lambda: w.w.receiver.got, what="the end of the response")
        assert w.partials == []
        w.publisher.away = False
        assert_whole(await w.told_to_the_end())

    told(case)


def test_small_events_are_gathered() -> None:
    async def case(w: Watched) -> None:
        await w.put(await w.created(sim_run_s="0"), RunningResponse(CLAIM, 9))
        partials = await w.told_to_the_end()
        assert_whole(partials)
        assert len(partials) <= 3

    told(case, coalesce_ms=100)
