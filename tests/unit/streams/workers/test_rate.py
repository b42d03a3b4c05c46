"""The rate of polls: it follows the provider's objections, recovers in minutes, and leaves spare turns for streams."""

import asyncio
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams.workers.rate import PollRate
from tests.simulation.loop import VirtualLoop


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


def drain(rate: PollRate) -> int:
    count = 0
    while rate.take() == 0:
        count += 1
    return count


def run(rate: PollRate, clock: Hands, share: float, seconds: float, demand_per_s: float = 250.0, seed: int = 1) -> None:
    """Make all wanted and allowed calls; the provider objects to a `share` of them."""
    chance, wanted = random.Random(seed), 0.0
    for _ in range(int(seconds * 20)):
        clock.ms += 50
        wanted = min(demand_per_s, wanted + demand_per_s / 20)
        while wanted >= 1 and rate.take() == 0:
            wanted -= 1
            rate.object() if chance.random() < share else rate.answered()


def run_limited(rate: PollRate, clock: Hands, limit_per_s: float, seconds: float) -> float:
    """As `run`, against a provider with a limit on calls a second. Returns the share that it objected to."""
    calls = objections = 0
    room = 0.0
    for _ in range(int(seconds * 20)):
        clock.ms += 50
        room = min(limit_per_s, room + limit_per_s / 20)
        while rate.take() == 0:
            calls += 1
            if room >= 1:
                room -= 1
                rate.answered()
            else:
                objections += 1
                rate.object()
    return objections / calls


def test_the_rate_allows_a_second_at_once_and_then_its_pace() -> None:
    clock = Hands()
    rate = PollRate(20.0, clock)
    assert drain(rate) == 20
    assert rate.take() == 50
    clock.ms += 500
    assert drain(rate) == 10
    clock.ms += 60_000
    assert drain(rate) == 20


@pytest.mark.parametrize(
    ("share", "least", "most"), [(0.01, 235, 250), (0.05, 190, 245), (0.3, 110, 190), (0.5, 70, 135), (1.0, 0.5, 2.0)]
)
@pytest.mark.parametrize("seed", range(3))
def test_the_rate_follows_the_share_of_calls_that_are_objected_to(
    share: float, least: float, most: float, seed: int
) -> None:
    clock = Hands()
    rate = PollRate(250.0, clock)
    run(rate, clock, share, 40, seed=seed)
    seen = []
    for second in range(120):
        run(rate, clock, share, 1, seed=seed + 1_000 * second)
        seen.append(rate.per_s)
    assert least <= sum(seen) / len(seen) <= most


@pytest.mark.parametrize("limit_per_s", [5, 10, 30, 100])
def test_at_a_provider_with_a_limit_the_rate_settles_about_it(limit_per_s: float) -> None:
    clock = Hands()
    rate = PollRate(250.0, clock)
    run_limited(rate, clock, limit_per_s, 120)
    assert run_limited(rate, clock, limit_per_s, 300) < 0.15
    assert 0.5 * limit_per_s <= rate.per_s <= 1.5 * limit_per_s + 2


def test_a_block_is_met_with_a_trickle_within_seconds() -> None:
    clock = Hands()
    rate = PollRate(250.0, clock)
    run(rate, clock, 1.0, 20)
    assert rate.per_s <= 8


@pytest.mark.parametrize("blocked_s", [10, 120, 3_600])
def test_after_a_block_half_of_the_rate_is_back_in_a_minute_and_all_of_it_in_minutes(blocked_s: float) -> None:
    clock = Hands()
    rate = PollRate(250.0, clock)
    run(rate, clock, 1.0, blocked_s)
    run(rate, clock, 0.01, 60)
    assert rate.per_s >= 115
    run(rate, clock, 0.01, 360)
    assert rate.per_s >= 235


def test_one_objection_to_a_worker_with_little_to_ask_hardly_counts() -> None:
    clock = Hands()
    rate = PollRate(250.0, clock)
    rate.object()
    clock.ms += 5_000
    assert rate.per_s >= 235


def test_what_comes_back_in_a_minute_is_the_operators_to_say() -> None:
    back = []
    for share in (0.1, 0.3):
        clock = Hands()
        rate = PollRate(20.0, clock, recovery_share_per_min=share)
        run(rate, clock, 0.5, 20, demand_per_s=20)
        before = rate.per_s
        run(rate, clock, 0.0, 30, demand_per_s=20)
        back.append(rate.per_s - before)
    assert back[1] > 2 * back[0] > 0


def test_the_rate_is_shown_as_it_changes() -> None:
    shown: list[float] = []
    clock = Hands()
    rate = PollRate(250.0, clock, shown.append)
    run(rate, clock, 0.5, 6)
    assert (shown[0], shown[-1]) == (250.0, rate.per_s)


def test_a_pause_stops_all_calls_until_it_is_over_and_gathers_no_burst() -> None:
    clock = Hands()
    rate = PollRate(20.0, clock)
    rate.object(30_000)
    assert rate.take() == 30_000
    rate.object(10_000)
    assert rate.take() == 30_000
    clock.ms += 30_000
    assert drain(rate) <= 1


def test_a_pause_is_at_most_a_minute() -> None:
    rate = PollRate(20.0, Hands())
    rate.object(86_400_000)
    assert rate.take() == 60_000


# -- spare turns


def test_spare_turns_are_what_a_full_bucket_would_spill() -> None:
    clock = Hands()
    rate = PollRate(20.0, clock)
    assert [rate.take_spare() for _ in range(3)] == [True, True, False]
    clock.ms += 1_000
    assert [rate.take_spare() for _ in range(3)] == [True, True, False]
    assert drain(rate) == 20
    clock.ms += 1_000
    assert not rate.take_spare()


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 30)), max_size=40))
@example([(0, 1), (18, 4), (134, 10), (320, 21), (319, 0), (364, 6), (245, 30)])
def test_spare_turns_take_nothing_from_polls(steps: list[tuple[int, int]]) -> None:
    """Polls get the same turns at the same times, whether or not all spare turns are taken."""
    clock = Hands()
    alone, shared = PollRate(30.0, clock), PollRate(30.0, clock)
    for passed_ms, wanted in steps:
        clock.ms += passed_ms
        while shared.take_spare():
            pass
        assert [alone.take() > 0 for _ in range(wanted)] == [shared.take() > 0 for _ in range(wanted)]


def test_an_objection_to_a_stream_stops_streams_alone() -> None:
    clock = Hands()
    rate = PollRate(20.0, clock)
    rate.object_spare(30_000)
    assert rate.take() == 0
    assert not rate.take_spare()
    clock.ms += 29_000
    assert not rate.take_spare()
    clock.ms += 1_000
    assert rate.take_spare()
    assert rate.per_s == 20.0


def test_spare_turns_come_as_soon_as_there_are_any() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        rate = PollRate(100.0, lambda: int(loop.time() * 1_000))
        async with asyncio.timeout(5):
            await asyncio.gather(*(rate.spare_turn() for _ in range(20)))

    asyncio.run(scenario())


def test_a_hundred_streams_take_no_turn_from_a_poller_that_always_polls() -> None:
    loop = VirtualLoop("streams")
    rate = PollRate(30.0, lambda: int(loop.time() * 1_000))
    polls: list[float] = []
    streams: list[float] = []

    async def poll() -> None:
        while True:
            await rate.turn()
            polls.append(loop.time())

    async def follow() -> None:
        while True:
            await rate.spare_turn()
            streams.append(loop.time())

    async def scenario() -> None:
        tasks = [asyncio.ensure_future(follow()) for _ in range(100)]
        await asyncio.sleep(10)
        idle = len(streams)
        assert idle > 250
        polling = asyncio.ensure_future(poll())
        await asyncio.sleep(60)
        assert len(polls) >= 30 * 60
        assert len(streams) - idle <= 5
        for task in (polling, *tasks):
            task.cancel()
        await asyncio.gather(polling, *tasks, return_exceptions=True)

    loop.run_until_complete(scenario())
    loop.close()
