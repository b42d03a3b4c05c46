"""The small parts of the workers: rate, offsets, memory, hints, slots, settings."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.workers.hints import Hints
from streams.workers.memory import SKEW_MS, CommandMemory
from streams.workers.offsets import OffsetTracker
from streams.workers.rate import LookRate
from streams.workers.settings import WorkerSettings
from streams.workers.slots import Slots


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


def drain(rate: LookRate) -> int:
    count = 0
    while rate.take() == 0:
        count += 1
    return count


def test_the_rate_allows_a_second_at_once_and_then_its_pace() -> None:
    clock = Hands()
    rate = LookRate(20.0, clock)
    assert drain(rate) == 20
    assert rate.take() == 50
    clock.ms += 500
    assert drain(rate) == 10
    clock.ms += 60_000
    assert drain(rate) == 20


def test_an_objection_halves_the_rate_once_in_five_seconds() -> None:
    clock = Hands()
    shown: list[float] = []
    rate = LookRate(20.0, clock, shown.append)
    rate.object()
    rate.object()
    assert rate.per_s == 10.0
    clock.ms += 5_000
    rate.object()
    assert 5.0 <= rate.per_s < 5.2
    assert shown[:2] == [20.0, 10.0]
    assert drain(rate) == 5


def test_the_rate_recovers_by_a_tenth_of_its_cap_a_minute_and_never_above_it() -> None:
    clock = Hands()
    rate = LookRate(20.0, clock)
    rate.object()
    clock.ms += 60_000
    assert rate.per_s == pytest.approx(12.0)
    clock.ms += 3_600_000
    assert rate.per_s == 20.0


def test_what_comes_back_in_a_minute_is_the_operators_to_say() -> None:
    clock = Hands()
    rate = LookRate(20.0, clock, recovery_share_per_min=0.3)
    rate.object()
    clock.ms += 60_000
    assert rate.per_s == pytest.approx(16.0)


def test_the_rate_never_falls_to_nothing() -> None:
    clock = Hands()
    rate = LookRate(20.0, clock)
    for _ in range(100):
        clock.ms += 5_000
        rate.object()
    assert 0.5 <= rate.per_s < 0.8


def test_a_pause_stops_all_calls_until_it_is_over() -> None:
    clock = Hands()
    rate = LookRate(20.0, clock)
    rate.object(30_000)
    assert rate.take() == 30_000
    rate.object(10_000)
    assert rate.take() == 30_000
    clock.ms += 30_000
    assert rate.take() == 0


def test_a_pause_is_at_most_an_hour() -> None:
    rate = LookRate(20.0, Hands())
    rate.object(86_400_000)
    assert rate.take() == 3_600_000


def test_only_what_is_before_the_first_unfinished_offset_may_be_committed() -> None:
    tracker = OffsetTracker()
    for offset in (5, 6, 9):
        tracker.begin(0, offset)
    tracker.begin(1, 0)
    assert tracker.unfinished == 4
    tracker.finish(0, 6)
    assert (tracker.unfinished, len(tracker)) == (3, 4)
    assert tracker.committable() == {}
    tracker.finish(0, 5)
    assert tracker.committable() == {0: 7}
    tracker.finish(0, 9)
    tracker.finish(0, 9)
    tracker.finish(0, 4)
    assert tracker.committable() == {0: 10}
    assert len(tracker) == 1
    tracker.committed({0: 10})
    assert tracker.committable() == {}


@given(st.lists(st.integers(1, 3), min_size=1, max_size=30), st.randoms(use_true_random=False), st.data())
def test_the_commit_never_passes_an_unfinished_offset(gaps: list[int], order: object, data: st.DataObject) -> None:
    offsets = [sum(gaps[: index + 1]) for index in range(len(gaps))]
    tracker = OffsetTracker()
    for offset in offsets:
        tracker.begin(0, offset)
    open_ones = set(offsets)
    for offset in data.draw(st.permutations(offsets)):
        tracker.finish(0, offset)
        open_ones.discard(offset)
        reached = tracker.committable().get(0, 0)
        assert all(open_one >= reached for open_one in open_ones)
        assert not open_ones or reached <= min(open_ones)
    assert tracker.committable() == {0: offsets[-1] + 1}
    assert len(tracker) == 0


def test_memory_knows_since_when_it_is_complete() -> None:
    memory = CommandMemory(ids_max=2, complete_since_ms=100_000)
    assert memory.covers(100_000 + SKEW_MS)
    assert not memory.covers(100_000 + SKEW_MS - 1)
    for number in range(3):
        memory.remember(f"c{number}", 200_000 + number)
    assert "c0" not in memory
    assert "c1" in memory
    assert not memory.covers(200_000 + SKEW_MS)
    assert memory.covers(200_001 + SKEW_MS)


def test_older_ids_are_put_before_the_known_ones() -> None:
    memory = CommandMemory(ids_max=3, complete_since_ms=100_000)
    memory.remember("c2", 100_000)
    memory.add_older([("c0", 10_000), ("c1", 20_000), ("c2", 30_000)], 5_000)
    assert all(name in memory for name in ("c0", "c1", "c2"))
    assert memory.covers(5_000 + SKEW_MS)
    memory.remember("c3", 110_000)
    assert "c0" not in memory
    assert not memory.covers(10_000 + SKEW_MS)


def test_more_older_ids_than_fit_leave_the_newest() -> None:
    memory = CommandMemory(ids_max=2, complete_since_ms=100_000)
    memory.add_older([("c0", 10_000), ("c1", 20_000), ("c2", 30_000)], 5_000)
    assert "c0" not in memory
    assert "c1" in memory
    assert not memory.covers(10_000 + SKEW_MS)
    assert memory.covers(10_001 + SKEW_MS)


def test_hints_count_the_looks_in_vain_since_the_last_webhook() -> None:
    hints = Hints(hints_max=2)
    assert hints.in_vain("a", webhook=False) is None
    assert [hints.in_vain("a", webhook=True), hints.in_vain("a", webhook=False)] == [0, 1]
    assert hints.in_vain("a", webhook=True) == 0
    hints.ended("a")
    assert hints.in_vain("a", webhook=False) is None
    for name in ("a", "b", "c"):
        hints.in_vain(name, webhook=True)
    assert hints.in_vain("a", webhook=False) is None
    assert hints.in_vain("c", webhook=False) == 1


def test_slots_are_bounded_and_waited_for() -> None:
    async def scenario() -> None:
        slots = Slots(2)
        slots.take()
        slots.take()
        assert slots.free == 0
        assert not await slots.some_free(10)
        with pytest.raises(AssertionError):
            slots.take()
        asyncio.get_running_loop().call_soon(slots.give_back)
        assert await slots.some_free(5_000)
        asyncio.get_running_loop().call_soon(slots.give_back)
        await slots.all_free()
        assert slots.free == 2

    asyncio.run(scenario())


def test_the_settings_come_from_our_names_or_from_those_of_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-sdk")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://sdk/v1")
    assert WorkerSettings().openai_api_key.get_secret_value() == "sk-sdk"
    assert WorkerSettings().openai_base_url == "https://sdk/v1"
    monkeypatch.setenv("BACKSTOP_OPENAI_API_KEY", "sk-ours")
    monkeypatch.setenv("BACKSTOP_OPENAI_BASE_URL", "https://ours/v1")
    monkeypatch.setenv("BACKSTOP_LOOK_SPACING_MIN_MS", "7000")
    settings = WorkerSettings()
    assert settings.openai_api_key.get_secret_value() == "sk-ours"
    assert settings.openai_base_url == "https://ours/v1"
    assert settings.look_policy().spacing_min_ms == 7_000
    assert "sk-ours" not in repr(settings)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="spacing_min_ms"):
        WorkerSettings(look_spacing_min_ms=2_000, look_spacing_max_ms=1_000)
