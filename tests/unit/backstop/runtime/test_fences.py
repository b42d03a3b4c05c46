"""Fences by a coordinator as a value: what is asked of it, in which order, and what its answers mean."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    KafkaTimeoutError,
    TopicAuthorizationFailedError,
)  # fmt: skip

from backstop.runtime.kafka.fences import (
    BUSY_TRIES,
    EPOCHS_USED_MAX,
    FENCE_S_MAX,
    PATIENCE_S,
    TRANSACTION_TIMEOUT_MS,
    Fence,
    FencedOffError,
    FencedRecord,
    FencedWriters,
    busy_wait_s,
)  # fmt: skip
from backstop.runtime.kafka.shared_client import RETRY_WAIT_S
from backstop.runtime.process.clock import uptime_s
from backstop.runtime.settings import RuntimeSettings
from tests.simulation.loop import VirtualLoop

T = TypeVar("T")
TP = TopicPartition("results", 0)
LAST_EPOCH = 32_766
CONCURRENT, NOT_COORDINATOR, FENCED, STALE_EPOCH, REFUSED = 51, 16, 90, 47, 29
LOADING, NO_TRANSACTION = 14, 48


@dataclass
class Answer:
    error_code: int = 0
    producer_id: int = -1
    producer_epoch: int = -1

    @property
    def errors(self) -> list[Any]:
        return [("results", [(0, self.error_code)])]


class Cluster:
    """Its metadata."""

    def __init__(self) -> None:
        self.nodes = {1}

    def brokers(self) -> set[int]:
        return self.nodes

    def leader_for_partition(self, _tp: TopicPartition) -> int:
        return 1


@dataclass
class Coordinator:
    """An `AIOKafkaClient`, and the coordinator behind it."""

    producer_id: int = 1
    epoch: int = -1
    answers: list[int] = field(default_factory=list)
    """Error codes of the next requests; then none."""
    silent: list[str] = field(default_factory=list)
    """Requests that are performed, and whose answers are lost."""
    asked: list[str] = field(default_factory=list)
    state: str = "empty"
    former_epoch: int = -1
    """The one that asked for the present one; -1: it was not named."""
    lookups_failed: int = 0
    hangs: str = ""
    too_old: bool = False
    cluster: Cluster = field(default_factory=Cluster)

    async def bootstrap(self) -> None:
        self.asked.append("bootstrap")

    async def add_topic(self, topic: str) -> None:
        assert topic == TP.topic
        await self._hang("add_topic")

    async def close(self) -> None:
        self.asked.append("close")

    async def ready(self, _node: int) -> bool:
        return True

    async def force_metadata_update(self) -> None:
        self.asked.append("metadata")
        await self._hang("metadata")

    async def _hang(self, name: str) -> None:
        if self.hangs == name:
            await asyncio.Event().wait()

    async def coordinator_lookup(self, _kind: Any, key: str) -> int:
        assert key == "results-0"
        if self.lookups_failed:
            self.lookups_failed -= 1
            raise GroupCoordinatorNotAvailableError
        return 1

    async def send(self, _node: int, request: Any, **_: Any) -> Answer:
        if self.too_old:
            raise NotImplementedError
        name = type(request).__name__.strip("_").removesuffix("Request")
        self.asked.append(name)
        code = self.answers.pop(0) if self.answers else 0
        if name == "Produce" or code:
            answer = Answer(code)
        else:
            answer = self._answer(name, request.build(lambda *values: values))
        if name in self.silent:
            self.silent.remove(name)
            await asyncio.Event().wait()
        return answer

    def _answer(self, name: str, values: Any) -> Answer:
        if name == "InitProducerId":
            return self._init(*values[2:4])
        if values[1:3] != (self.producer_id, self.epoch):
            return Answer(STALE_EPOCH)
        if name == "EndTxn" and self.state == "empty":
            return Answer(NO_TRANSACTION)
        self.state = "complete" if name == "EndTxn" else "ongoing"
        return Answer()

    def _init(self, producer_id: int, epoch: int) -> Answer:
        if producer_id not in {-1, self.producer_id}:
            return Answer(STALE_EPOCH)
        if self.state == "ongoing":
            self.time_out()
            return Answer(CONCURRENT)
        if producer_id != -1 and epoch != self.epoch:
            known = epoch == self.former_epoch
            return Answer(0, self.producer_id, self.epoch) if known else Answer(STALE_EPOCH)
        self.former_epoch = epoch
        if self.epoch == LAST_EPOCH:
            self.producer_id, self.epoch = self.producer_id + 1, -1
        self.epoch += 1
        self.state = "empty"
        return Answer(0, self.producer_id, self.epoch)

    def time_out(self) -> None:
        """The coordinator ends a transaction by itself, with an epoch that it tells to no producer."""
        self.epoch, self.former_epoch, self.state = self.epoch + 1, -1, "complete"


def fencing(coordinator: Coordinator) -> FencedWriters:
    return FencedWriters(RuntimeSettings(), "test", lambda: 0, client=lambda **_: coordinator)


def in_virtual_time(scenario: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=lambda: VirtualLoop("order 0")) as runner:
        return runner.run(scenario)


def opened(coordinator: Coordinator, former: Fence | None = None) -> Fence:
    async def scenario() -> Fence:
        writers = fencing(coordinator)
        try:
            return (await writers.open(TP, former)).fence
        finally:
            await writers.stop()

    return in_virtual_time(scenario())


def test_a_fence_is_an_epoch_and_the_end_of_a_transaction_that_holds_nothing() -> None:
    coordinator = Coordinator()
    began_s = uptime_s()
    fence = opened(coordinator)
    assert fence[:2] == (1, 0)
    assert began_s + FENCE_S_MAX <= fence.until_s <= uptime_s() + FENCE_S_MAX
    assert coordinator.asked == ["bootstrap", "InitProducerId", "AddPartitionsToTxn", "EndTxn", "EndTxn", "close"]


def test_it_waits_for_the_marker_which_the_second_answer_to_the_end_proves() -> None:
    coordinator = Coordinator(answers=[0, 0, 0, CONCURRENT, CONCURRENT])
    opened(coordinator)
    assert coordinator.asked.count("EndTxn") == 4


def test_a_coordinator_that_moves_is_looked_for_again() -> None:
    coordinator = Coordinator(answers=[NOT_COORDINATOR], lookups_failed=1)
    assert opened(coordinator)[:2] == (1, 0)
    assert coordinator.asked[1:4] == ["metadata", "InitProducerId", "metadata"]


@pytest.mark.parametrize("code", [STALE_EPOCH, 49, FENCED])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_who_is_overtaken_while_it_opens_is_told_so(at: int, code: int) -> None:
    with pytest.raises(FencedOffError, match="results-0 has a newer writer"):
        opened(Coordinator(answers=[0] * at + [code]))


def test_what_is_no_passing_trouble_is_raised() -> None:
    with pytest.raises(TopicAuthorizationFailedError):
        opened(Coordinator(answers=[0, REFUSED]))


def test_the_last_epochs_of_a_producer_id_only_fence() -> None:
    """A writer under one of them would be refused by no epoch of the next producer id."""
    coordinator = Coordinator(epoch=EPOCHS_USED_MAX - 2)
    assert opened(coordinator)[:2] == (1, EPOCHS_USED_MAX - 1), "the last one that is used"
    coordinator.asked.clear()
    assert opened(coordinator)[:2] == (2, 0)
    assert coordinator.asked.count("EndTxn") == 2 * (LAST_EPOCH - EPOCHS_USED_MAX + 2)


def test_what_the_coordinator_remembers_outlasts_a_writer() -> None:
    assert FENCE_S_MAX * 1000 * 24 <= 86_400_000, "producer.id.expiration.ms; the transactional one is a week"
    assert TRANSACTION_TIMEOUT_MS >= 3_000 * PATIENCE_S, "an opening that failed is continued before its end"


def continued(coordinator: Coordinator, former: Fence | None) -> Fence:
    """Open, fail for want of an answer, and open again as the owner that was not assigned anew."""

    async def scenario() -> Fence:
        writers, fences = fencing(coordinator), [former]
        with pytest.raises(TimeoutError):
            await writers.open(TP, former, fences.append)
        fence = (await writers.open(TP, fences[-1], fences.append)).fence
        assert fences[-1] == fence
        await writers.stop()
        return fence

    return in_virtual_time(scenario())


@pytest.mark.parametrize("unheard", ["InitProducerId", "AddPartitionsToTxn", "EndTxn"])
@pytest.mark.parametrize("former", [None, Fence(1, 5, 0.0)])
def test_an_opening_that_failed_half_way_is_continued_by_the_next(unheard: str, former: Fence | None) -> None:
    coordinator = Coordinator(epoch=5, silent=[unheard], state="complete")
    assert continued(coordinator, former).epoch == coordinator.epoch


@pytest.mark.parametrize("unheard", ["InitProducerId", "AddPartitionsToTxn", "EndTxn"])
def test_so_is_one_whose_former_transaction_could_not_be_ended(unheard: str) -> None:
    """The answer to the first end is lost, then that of another step."""
    coordinator = Coordinator(epoch=5, silent=["EndTxn", unheard], state="ongoing")

    async def scenario() -> Fence:
        writers, fences = fencing(coordinator), [Fence(1, 5, 0.0)]
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await writers.open(TP, fences[-1], fences.append)
        return (await writers.open(TP, fences[-1], fences.append)).fence

    assert in_virtual_time(scenario()).epoch == coordinator.epoch


def test_who_was_overtaken_since_an_opening_that_failed_is_told_so() -> None:
    coordinator = Coordinator(silent=["AddPartitionsToTxn"])

    async def scenario() -> None:
        writers, fences = fencing(coordinator), list[Fence]()
        with pytest.raises(TimeoutError):
            await writers.open(TP, None, fences.append)
        newer = (await fencing(coordinator).open(TP, None)).fence
        with pytest.raises(FencedOffError):
            await writers.open(TP, fences[-1], fences.append)
        assert newer.epoch == coordinator.epoch, "the newer writer goes on"

    in_virtual_time(scenario())


def clients_made(first: Coordinator, appends: bool) -> tuple[list[str], list[str]]:
    """What is asked of a client that gets no answers any more, and of the next one."""
    second = Coordinator(epoch=3)
    clients = iter([first, second])

    async def scenario() -> None:
        writers = FencedWriters(RuntimeSettings(), "test", lambda: 0, client=lambda **_: next(clients))
        if appends:
            writer = await writers.open(TP, None)
            with pytest.raises(KafkaTimeoutError, match="not taken within 30 s"):
                await writer.append([FencedRecord(b"k", b"v", [])])
            with pytest.raises(KafkaTimeoutError, match="was closed"):
                await writer.append([FencedRecord(b"k", b"v", [])])
        else:
            with pytest.raises(TimeoutError):
                await writers.open(TP, None)
        await writers.open(TP, None)
        await writers.stop()

    in_virtual_time(scenario())
    return first.asked, second.asked


NEW = ["bootstrap", "InitProducerId", "AddPartitionsToTxn", "EndTxn", "EndTxn", "close"]


def test_after_an_opening_without_an_answer_the_next_begins_with_the_addresses_of_the_settings() -> None:
    assert clients_made(Coordinator(silent=["InitProducerId"]), appends=False) == (
        ["bootstrap", "InitProducerId", "close"], NEW,
    )  # fmt: skip


def test_so_does_the_next_after_an_append_without_an_answer_and_the_writer_sends_nothing_more() -> None:
    asked, next_asked = clients_made(Coordinator(silent=["Produce"]), appends=True)
    assert (asked[-2:], next_asked) == (["Produce", "close"], NEW)


@pytest.mark.parametrize("hangs", ["add_topic", "metadata"])
def test_no_step_of_an_opening_is_waited_for_without_a_limit(hangs: str) -> None:
    coordinator = Coordinator(hangs=hangs, lookups_failed=1)
    with pytest.raises(TimeoutError):
        opened(coordinator)
    assert coordinator.asked.count("close") == 1


def test_a_coordinator_that_is_long_busy_is_asked_less_often() -> None:
    assert [busy_wait_s(tries) for tries in (0, BUSY_TRIES - 1, BUSY_TRIES, BUSY_TRIES + 1)] == [
        0.002, 0.002, 0.004, 0.008,
    ]  # fmt: skip
    assert busy_wait_s(BUSY_TRIES + 5) == busy_wait_s(100_000) == RETRY_WAIT_S


def test_a_coordinator_that_loads_is_asked_as_often_as_one_that_is_away() -> None:
    async def scenario() -> float:
        loop = asyncio.get_running_loop()
        await fencing(Coordinator(answers=[LOADING] * 20)).open(TP, None)
        return loop.time()

    assert in_virtual_time(scenario()) == pytest.approx(20 * RETRY_WAIT_S)


def test_nothing_is_opened_after_the_stop() -> None:
    made: list[Coordinator] = []

    def new_client(**_: Any) -> Coordinator:
        made.append(Coordinator(hangs="" if made else "add_topic"))
        return made[-1]

    async def scenario() -> None:
        writers = FencedWriters(RuntimeSettings(), "test", lambda: 0, client=new_client)
        opening = asyncio.create_task(writers.open(TP, None))
        await asyncio.sleep(1)
        await writers.stop()
        with pytest.raises((KafkaConnectionError, TimeoutError)):
            await opening
        with pytest.raises(KafkaConnectionError):
            await writers.open(TP, None)

    in_virtual_time(scenario())
    assert [client.asked for client in made] == [["bootstrap", "close"]]


def test_a_broker_that_is_too_old_is_told_with_the_release_that_is_needed() -> None:
    with pytest.raises(IncompatibleBrokerVersion, match=r"InitProducerId.*use Kafka 3\.7 or newer"):
        opened(Coordinator(too_old=True))


def test_a_client_that_knows_no_broker_asks_again() -> None:
    coordinator = Coordinator()
    coordinator.cluster.nodes = set()

    async def scenario() -> int:
        opening = asyncio.create_task(fencing(coordinator).open(TP, None))
        await asyncio.sleep(1)
        coordinator.cluster.nodes = {1}
        return (await opening).fence.epoch

    assert in_virtual_time(scenario()) == 0
    assert "metadata" in coordinator.asked
