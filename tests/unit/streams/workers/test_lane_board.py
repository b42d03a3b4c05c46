"""A worker's board with a topic that is slow, away, missing or odd: it never delays a create. In virtual time."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import UnknownTopicOrPartitionError

from backstop.runtime.settings import RuntimeSettings
from schemas.base import Message
from schemas.codec import encode
from schemas.lanes import CreateFailed, LaneFact, ProbeClaimed, ShareWanted
from streams.policy.admission import Admission
from streams.policy.lanes import FAILURES_MAX, PROBE_WAIT_MS, Go, Held
from streams.policy.limiter import Limiter
from streams.policy.limits import NO_LIMITS, LimitRules, read_rules
from streams.policy.rates import NotNow
from streams.policy.shared_limits import SharedLimits
from streams.policy.sizes import Asked
from streams.provider import account_name
from streams.workers.lane_board import FIRST_READ_WAIT_S, QUEUE_MAX, READ_AGAIN_S, LaneBoard
from streams.workers.lanes import CLAIM_WAIT_S, Lanes
from tests.simulation.loop import VirtualLoop
from tests.support.memory_publisher import MemoryPublisher

MODEL = "m"
TP = TopicPartition("backstop.lanes", 0)
T0 = 1_795_341_600_000


@dataclass
class Topic:
    """One partition: what was published, and what stood there before."""

    publisher: MemoryPublisher = field(default_factory=MemoryPublisher)
    before: list[tuple[bytes, int]] = field(default_factory=list)
    missing: bool = False
    silent: bool = False
    """Nothing is delivered."""
    starts: int = 0

    def records(self) -> list["Record"]:
        written = [(encode(message), T0) for message in self.publisher.landed]
        return [Record(offset, *each) for offset, each in enumerate(self.before + written)]


@dataclass
class Record:
    offset: int
    value: bytes
    timestamp: int
    topic: str = "lanes"


class Consumer:
    def __init__(self, topic: Topic, name: str, **options: Any) -> None:
        assert (name, options["group_id"]) == (TP.topic, None)
        self._topic = topic
        self._position = 0
        self._fetcher = None

    async def start(self) -> None:
        self._topic.starts += 1
        if self._topic.missing:
            raise UnknownTopicOrPartitionError

    async def stop(self) -> None:
        """Nothing is held."""

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset((TP,))

    async def end_offsets(self, _tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        if self._topic.silent:
            await asyncio.sleep(3_600)
        return {TP: len(self._topic.records())}

    async def position(self, _tp: TopicPartition) -> int:
        return self._position

    def seek(self, _tp: TopicPartition, offset: int) -> None:
        self._position = offset

    async def getmany(self, *, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        await asyncio.sleep(min(timeout_ms, 10) / 1_000)
        found = self._topic.records()[self._position :]
        self._position += len(found)
        return {TP: found} if found else {}


@dataclass
class Worker:
    topic: Topic
    name: str = "w"
    rules: LimitRules = NO_LIMITS
    lanes: Lanes = field(init=False)
    board: LaneBoard = field(init=False)

    def __post_init__(self) -> None:
        self.lanes = Lanes(self.now_ms)
        self.admission = Admission(self.rules, self.lanes.account)
        self.limits = SharedLimits(self.admission, self.rules, self.lanes.account, self.name, partitions=2)
        self.board = LaneBoard(
            RuntimeSettings(), self.lanes, self.topic.publisher, self.now_ms, partial(Consumer, self.topic),
            self.limits,
        )  # fmt: skip

    def own(self, partition: int) -> None:
        self.limits.own((partition,))
        self.admission.own((partition,), 0.5, self.now_ms())
        self.admission.room(Asked("t", MODEL, 4_000, 1_000), self.now_ms())  # The lane is known.

    @property
    def limiter(self) -> Limiter:
        return dict(self.admission.limiters(MODEL))[None]

    async def short_for(self, seconds: int) -> None:
        """Jobs of the worker find no room."""
        for _ in range(2 * seconds):
            self.limiter.short(NotNow("tokens_per_min", 500), self.now_ms())
            await asyncio.sleep(0.5)

    def now_ms(self) -> int:
        return T0 + int(asyncio.get_running_loop().time() * 1_000)

    def close(self) -> None:
        self.lanes.failed(MODEL, "c", "account", "invalid_api_key", "no")


def play(story: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: VirtualLoop("order 0")) as runner:
        runner.run(asyncio.wait_for(story, 600))


async def running(worker: Worker) -> "asyncio.Task[None]":
    task = asyncio.create_task(worker.board.run(asyncio.Event()))
    await worker.board.first_read()
    return task


async def probe_wait() -> None:
    await asyncio.sleep(PROBE_WAIT_MS / 1_000)


def test_a_probe_goes_out_once_its_claim_was_read_back() -> None:
    async def story() -> None:
        one = Worker(topic := Topic())
        two = Worker(topic)
        tasks = [await running(one), await running(two)]
        one.close()
        await probe_wait()
        await asyncio.sleep(1)
        turns = await asyncio.gather(one.lanes.send(MODEL, "p"), two.lanes.send(MODEL, "q"), one.lanes.send(MODEL, "r"))
        assert sorted(isinstance(turn, Go) for turn in turns) == [False, False, True]
        assert [type(fact) for fact in topic.publisher.landed] == [CreateFailed, ProbeClaimed, ProbeClaimed]
        for task in tasks:
            task.cancel()

    play(story())


def test_a_fact_that_cannot_be_written_counts_at_once_for_this_worker() -> None:
    async def story() -> None:
        worker = Worker(Topic())
        worker.topic.publisher.away = True
        task = await running(worker)
        worker.close()
        await probe_wait()
        before_s = asyncio.get_running_loop().time()
        assert await worker.lanes.send(MODEL, "p") == Go(probe=True)
        assert asyncio.get_running_loop().time() - before_s < 1
        assert isinstance(await worker.lanes.send(MODEL, "q"), Held)
        worker.lanes.succeeded(MODEL, "p")
        assert await worker.lanes.send(MODEL, "q") == Go()
        task.cancel()

    play(story())


def test_a_claim_that_is_never_read_back_stands_after_a_while() -> None:
    async def story() -> None:
        worker = Worker(Topic(silent=True))
        begun_s = asyncio.get_running_loop().time()
        task = await running(worker)
        assert asyncio.get_running_loop().time() - begun_s == FIRST_READ_WAIT_S
        worker.close()
        await probe_wait()
        before_s = asyncio.get_running_loop().time()
        assert await worker.lanes.send(MODEL, "p") == Go(probe=True)
        assert asyncio.get_running_loop().time() - before_s == CLAIM_WAIT_S
        task.cancel()

    play(story())


def test_a_missing_topic_holds_nothing_up_and_is_found_when_it_is_there() -> None:
    async def story() -> None:
        worker = Worker(Topic(missing=True, before=[(encode(failed(number)), T0) for number in range(FAILURES_MAX)]))
        task = await running(worker)
        assert asyncio.get_running_loop().time() < 0.1
        assert await worker.lanes.send(MODEL, "a") == Go()
        worker.topic.missing = False
        await asyncio.sleep(READ_AGAIN_S + 1)
        assert worker.topic.starts == 2
        assert isinstance(await worker.lanes.send(MODEL, "b"), Held)
        task.cancel()

    play(story())


def failed(number: int) -> Message:
    return CreateFailed(id=f"c{number}/failed", at_ms=1, account=account_name(), model=MODEL, cause="overloaded")


def test_the_broker_tells_the_age_of_earlier_facts() -> None:
    async def story() -> None:
        minute_ago_ms = T0 - 60_000
        worker = Worker(Topic(before=[(encode(failed(number)), minute_ago_ms) for number in range(FAILURES_MAX)]))
        task = await running(worker)
        closed = worker.lanes.of(MODEL).closed
        assert closed is not None
        assert closed.probe_at_ms == minute_ago_ms + PROBE_WAIT_MS
        task.cancel()

    play(story())


def test_a_record_that_is_no_fact_is_passed_over() -> None:
    async def story() -> None:
        facts = [(encode(failed(number)), T0) for number in range(FAILURES_MAX)]
        worker = Worker(Topic(before=[(b"{}", T0), *facts, (b"\xff", T0)]))
        task = await running(worker)
        assert worker.lanes.of(MODEL).closed is not None
        task.cancel()

    play(story())


def test_the_queue_of_unwritten_facts_is_bounded() -> None:
    async def story() -> None:
        worker = Worker(Topic())
        read: list[LaneFact] = []

        def put(fact: LaneFact) -> None:
            read.append(fact)
            worker.board._put(fact)

        worker.lanes.join(put)
        for number in range(2 * QUEUE_MAX):
            worker.lanes.failed(f"m{number % 900}", f"c{number}", "overloaded", "http_503")
        assert worker.board._queue.qsize() == QUEUE_MAX
        assert len(read) == 2 * QUEUE_MAX

    play(story())


LIMITED = read_rules('[{"tokens_per_min": 100000}]')


def test_what_one_worker_leaves_unused_another_one_has_through_the_topic() -> None:
    async def story() -> None:
        topic = Topic()
        one, two = (Worker(topic, name, LIMITED) for name in ("one", "two"))
        tasks = [await running(one), await running(two)]
        one.own(0)
        two.own(1)
        await one.short_for(4)
        assert one.limiter.share > 0.98
        assert two.limiter.share < 0.02
        topic.publisher.away = True
        await one.short_for(15)
        assert [one.limiter.share, two.limiter.share] == [0.5, 0.5], "facts that can't be written lend nothing"
        topic.publisher.away = False
        await one.short_for(4)
        assert one.limiter.share > 0.98
        for task in tasks:
            task.cancel()

    play(story())


def test_without_limits_a_worker_tells_nothing_and_passes_over_what_others_tell() -> None:
    async def story() -> None:
        topic = Topic()
        limited, free = Worker(topic, "limited", LIMITED), Worker(topic, "free")
        tasks = [await running(limited), await running(free)]
        for number, worker in enumerate((limited, free)):
            worker.own(number)
        await limited.short_for(4)
        assert {fact.worker for fact in topic.publisher.landed if isinstance(fact, ShareWanted)} == {"limited"}
        assert (limited.limiter.share, free.limiter.share) == (0.5, 0.5)
        assert free.lanes.all() == {}
        for task in tasks:
            task.cancel()

    play(story())
