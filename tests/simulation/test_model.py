"""The model broker, loop and lives: what the simulation stands on does what Kafka and a kernel do."""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from tests.simulation.broker import FencedLog, Group, Log, Member
from tests.simulation.chaos import Chaos, Life
from tests.simulation.loop import DeadlockError, VirtualLoop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop("test")
    yield made
    made.close()


@pytest.fixture
def chaos(loop: VirtualLoop) -> Chaos:
    made = Chaos(1, loop, trace=False)
    made.on = False
    return made


def until_done(loop: VirtualLoop, coroutine: Coroutine[Any, Any, Any]) -> Any:
    return loop.run_until_complete(coroutine)


def test_a_day_of_sleep_takes_no_time(loop: VirtualLoop) -> None:
    until_done(loop, asyncio.sleep(86_400))
    assert loop.time() == 86_400


def test_the_order_of_what_is_ready_is_the_seeds() -> None:
    def order(seed: str) -> list[int]:
        loop, seen = VirtualLoop(seed), []

        async def run(number: int) -> None:
            seen.append(number)

        async def all_of_them() -> None:
            await asyncio.gather(*(run(number) for number in range(9)))

        try:
            loop.run_until_complete(all_of_them())
        finally:
            loop.close()
        return seen

    assert order("a") == order("a")
    assert order("a") != order("b")
    assert sorted(order("a")) == list(range(9))


def test_a_wait_that_can_never_end_is_a_deadlock_and_not_a_hang(loop: VirtualLoop) -> None:
    waiting = asyncio.Event().wait()
    task = loop.create_task(waiting)
    with pytest.raises(DeadlockError):
        loop.run_until_complete(task)
    task.cancel()
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_a_dead_life_never_passes_a_point(loop: VirtualLoop, chaos: Chaos) -> None:
    life, passed = Life(chaos, "w", 0), []

    async def work() -> None:
        await life.point("before")
        passed.append("before")
        await asyncio.sleep(1)
        await life.point("after")
        passed.append("after")

    async def scene() -> None:
        life.spawn(work())
        await asyncio.sleep(0.5)
        life.kill("test")
        await life.gone()

    until_done(loop, scene())
    assert passed == ["before"]


def test_a_stopped_life_goes_on_where_it_was(loop: VirtualLoop, chaos: Chaos) -> None:
    life = Life(chaos, "w", 0)

    async def scene() -> float:
        life.pause(5.0)
        await life.point("anything")
        return loop.time()

    assert until_done(loop, scene()) >= 5.0


def test_a_member_that_fell_silent_loses_its_partitions_and_may_not_commit(loop: VirtualLoop, chaos: Chaos) -> None:
    group = Group("worker", chaos, 2, session_s=3.0, rebalance_s=6.0, static=False)
    zombie, heir = Life(chaos, "zombie", 0), Life(chaos, "heir", 0)

    async def scene() -> None:
        stopped, other = Member(zombie, "a"), Member(heir, "b")
        await group.join(stopped)
        assert stopped.partitions == (0, 1)
        zombie.pause(60.0)
        await group.join(other)
        assert sorted(other.partitions) == [0, 1]
        assert not group.commit(stopped, {("jobs", 0): 7})
        assert group.commit(other, {("jobs", 0): 3})
        assert group.committed == {("jobs", 0): 3}

    until_done(loop, scene())


def test_a_static_member_that_returns_within_its_session_causes_no_rebalance(loop: VirtualLoop, chaos: Chaos) -> None:
    group = Group("worker", chaos, 2, session_s=3.0, rebalance_s=6.0, static=True)

    async def scene() -> None:
        first, again = Member(Life(chaos, "a.1", 0), "a"), Member(Life(chaos, "a.2", 0), "a")
        await group.join(first)
        first.life.kill("test")
        await group.join(again)
        assert (again.partitions, again.generation) == (first.partitions, 1)
        assert not group.commit(first, {("jobs", 0): 1})

    until_done(loop, scene())


def test_the_leader_refuses_an_old_epoch_after_the_marker_of_a_new_one_and_not_before() -> None:
    log = FencedLog()
    old = log.init(None)
    assert old is not None
    assert log.mark(old)
    assert log.append(old, [("a", b"1")])
    new = log.init(None)
    assert new is not None
    assert log.append(old, [("b", b"2")]), "the leader has not heard of the new epoch yet"
    assert not log.mark(old)
    assert log.mark(new)
    assert not log.append(old, [("c", b"3")])
    assert log.append(new, [("d", b"4")])
    assert [job_id for _, job_id, _ in log.records] == ["a", "b", "d"]


def test_the_leader_learns_of_an_epoch_from_its_batches_too() -> None:
    log = FencedLog()
    old, new = log.init(None), log.init(None)
    assert old is not None
    assert new is not None
    assert log.append(new, [("a", b"1")])
    assert not log.append(old, [("b", b"2")])


def test_a_writer_is_continued_only_if_no_other_was_opened() -> None:
    log = FencedLog()
    first = log.init(None)
    continued = log.init(first)
    assert (first, continued) == (1, 2)
    assert log.init(first) == 2, "the answer was lost"
    assert log.init(None) == 3
    assert log.init(continued) is None


def test_compaction_keeps_the_last_old_record_of_each_key_what_is_young_and_all_offsets() -> None:
    log = Log("jobs-changelog", 0)
    for key, at_ms, gap in ((b"a", 0, 0), (b"b", 1, 2), (b"a", 2, 0), (b"a", 9, 0)):
        log.append(key, b"row", at_ms, gap=gap)
    log.compact(before_ms=5)
    assert [(record.key, record.offset) for record in log.records] == [(b"b", 3), (b"a", 4), (b"a", 5)]
    assert log.read(0, 9) == log.records
    assert log.end == 6
