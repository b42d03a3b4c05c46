"""The watchdog's polls, one by one."""

import asyncio
from collections.abc import Collection, Mapping

from streams.watchdog import POLLS, Partition, StalledError, Watchdog

JOBS_0, JOBS_1 = ("jobs", 0), ("jobs", 1)


class World:
    """A worker and a broker, as the watchdog sees them."""

    def __init__(self) -> None:
        self.positions: dict[Partition, int] = {JOBS_0: 5, JOBS_1: 7}
        self.found: dict[Partition, int] | None = {JOBS_0: 5, JOBS_1: 7}
        self.stalls: list[str] = []
        self.dog = Watchdog(lambda: dict(self.positions), lambda: self, limit_s=8.0, on_stall=self._stalled)

    async def of(self, partitions: Collection[Partition]) -> Mapping[Partition, int] | None:
        return None if self.found is None else {partition: self.found[partition] for partition in partitions}

    async def close(self) -> None: ...

    def poll(self, times: int = 1, *, beating: bool = True) -> None:
        for _ in range(times):
            self.dog._beats += beating
            asyncio.run(self.dog.poll(self))

    def _stalled(self, error: StalledError) -> None:
        self.stalls.append(str(error))


def test_an_idle_worker_is_left_alone() -> None:
    world = World()
    world.poll(10 * POLLS)
    assert world.stalls == []
    assert world.dog.complaint() is None


def test_a_partition_with_records_and_no_progress_is_told_at_half_of_the_limit_and_ends_the_process_at_the_limit() -> (
    None
):
    world = World()
    world.found = {JOBS_0: 5, JOBS_1: 9}
    world.poll(1 + POLLS // 2)  # the first poll reads positions; from the second on none has moved
    assert world.dog.complaint() == "no progress for 4 s in jobs/1"
    world.poll(POLLS - POLLS // 2 - 1)
    assert world.stalls == []
    world.poll()
    assert world.stalls == ["no progress for 8 s: jobs/1 at 7 of 9"]


def test_a_worker_that_is_behind_and_moves_on_is_left_alone() -> None:
    world = World()
    world.found = {JOBS_0: 5_000, JOBS_1: 9_000}
    for _ in range(3 * POLLS):
        world.poll(2)
        world.positions = {partition: at + 1 for partition, at in world.positions.items()}
    assert world.stalls == []


def test_the_time_for_which_no_broker_answers_does_not_count() -> None:
    world = World()
    world.found = {JOBS_0: 6, JOBS_1: 9}
    world.poll(POLLS)
    world.found = None
    world.poll(5 * POLLS)
    world.found = {JOBS_0: 6, JOBS_1: 9}
    world.poll(POLLS - 1)
    assert world.stalls == []
    world.poll()
    assert len(world.stalls) == 1


def test_partitions_that_move_are_not_stalled() -> None:
    world = World()
    world.found = {JOBS_0: 6, JOBS_1: 9}
    world.poll(POLLS)
    world.positions = {}
    world.poll()
    world.positions = {JOBS_0: 5, JOBS_1: 7}
    world.poll(POLLS)
    assert world.stalls == []


def test_a_loop_that_does_not_turn_ends_the_process_and_one_missed_turn_does_not() -> None:
    world = World()
    world.poll()
    world.poll(POLLS - 1, beating=False)
    world.poll()
    world.poll(POLLS - 1, beating=False)
    assert world.stalls == []
    world.poll(beating=False)
    assert world.stalls == ["the event loop has not run for 8 s"]
