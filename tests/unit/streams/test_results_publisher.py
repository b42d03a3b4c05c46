"""The publisher of results by writers as values: what an assignment lets it open, and what a failed opening leaves."""

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import TopicPartition

from backstop.runtime.kafka.fences import Begun, Fence, FencedRecord
from backstop.runtime.settings import RuntimeSettings
from schemas.results import JobResult, Timings
from streams.results import ResultsFencedError, ResultsPublisher
from tests.simulation.loop import VirtualLoop

PARTITION, OTHER = 0, 1
RESULT = JobResult(
    id="a/result", at_ms=2, job_id="a", tenant="default", outcome="completed",
    timings=Timings(submitted_at_ms=1, finished_at_ms=2),
)  # fmt: skip


@dataclass
class Opened:
    fence: Fence
    appended: list[str]

    async def end(self) -> int:
        return 0

    async def append(self, entries: Sequence[FencedRecord]) -> None:
        self.appended += [entry.key.decode() for entry in entries]


@dataclass
class Openings:
    """`Writers`, and of each opening which epoch it continues."""

    failing: int = 0
    on_open: Callable[[], None] = lambda: None
    former: list[int | None] = field(default_factory=list)
    appended: list[str] = field(default_factory=list)

    async def open(self, tp: TopicPartition, former: Fence | None, begun: Begun) -> Opened:
        self.former.append(None if former is None else former.epoch)
        fence = Fence(1, len(self.former), math.inf)
        begun(fence)
        self.on_open()
        if len(self.former) <= self.failing:
            raise TimeoutError
        return Opened(fence, self.appended)

    async def stop(self) -> None:
        """Nothing is held."""


class EmptyTail:
    def __init__(self, **_: Any) -> None: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def assign(self, _tps: Sequence[TopicPartition]) -> None: ...
    def seek(self, _tp: TopicPartition, _offset: int) -> None: ...

    async def beginning_offsets(self, tps: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return dict.fromkeys(tps, 0)

    async def position(self, _tp: TopicPartition) -> int:
        return 0


def publisher(openings: Openings) -> ResultsPublisher:
    return ResultsPublisher(RuntimeSettings(), lambda: 0, writers=openings, consumer=EmptyTail)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: VirtualLoop("order 0")) as runner:
        runner.run(scenario)


def test_an_opening_that_failed_is_continued_and_not_the_one_before_it() -> None:
    openings = Openings(failing=2)
    results = publisher(openings)
    results.reassigned({PARTITION})
    run(results.publish(PARTITION, [RESULT]))
    assert (openings.former, openings.appended) == ([None, 1, 2], ["a"])


def test_after_an_assignment_a_partition_is_opened_in_any_case() -> None:
    openings = Openings()
    results = publisher(openings)

    async def scenario() -> None:
        for _ in range(2):
            results.reassigned({PARTITION})
            await results.publish(PARTITION, [RESULT])

    run(scenario())
    assert openings.former == [None, None]


@pytest.mark.parametrize("assigned", [(), (OTHER,)])
def test_a_partition_that_is_not_owned_is_not_opened(assigned: tuple[int, ...]) -> None:
    openings = Openings()
    results = publisher(openings)
    results.reassigned(assigned)
    with pytest.raises(ResultsFencedError, match="does not own partition 0"):
        run(results.publish(PARTITION, [RESULT]))
    assert openings.former == []


def test_a_publish_that_retries_ends_when_its_partition_is_lost_or_the_worker_stops() -> None:
    openings = Openings(failing=1)
    results = publisher(openings)
    openings.on_open = lambda: results.reassigned({OTHER})
    results.reassigned({PARTITION})
    with pytest.raises(ResultsFencedError, match="does not own partition 0"):
        run(results.publish(PARTITION, [RESULT]))
    assert openings.former == [None]
