"""Fences by a coordinator as a value: what is asked of it, in which order, and what its answers mean."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import GroupCoordinatorNotAvailableError, TopicAuthorizationFailedError

from backstop.runtime.kafka.fences import (
    EPOCHS_USED_MAX,
    FENCE_S_MAX,
    TRANSACTION_TIMEOUT_MS,
    Fence,
    FencedOffError,
    FencedWriters,
)  # fmt: skip
from backstop.runtime.process.clock import uptime_s
from backstop.runtime.settings import RuntimeSettings

TP = TopicPartition("results", 0)
LAST_EPOCH = 32_766
CONCURRENT, NOT_COORDINATOR, FENCED, STALE_EPOCH, REFUSED = 51, 16, 90, 47, 29


@dataclass
class Answer:
    error_code: int = 0
    producer_id: int = -1
    producer_epoch: int = -1

    @property
    def errors(self) -> list[Any]:
        return [("results", [(0, self.error_code)])]


@dataclass
class Coordinator:
    """An `AIOKafkaClient`, and the coordinator behind it. Markers are written one request after the end."""

    producer_id: int = 1
    epoch: int = -1
    answers: list[int] = field(default_factory=list)
    """Error codes of the next requests; then none."""
    asked: list[str] = field(default_factory=list)
    ending: bool = False
    lookups_failed: int = 0

    async def bootstrap(self) -> None:
        """It is there."""

    async def add_topic(self, topic: str) -> None:
        assert topic == TP.topic

    async def close(self) -> None:
        self.asked.append("close")

    async def force_metadata_update(self) -> None:
        self.asked.append("metadata")

    async def coordinator_lookup(self, _kind: Any, key: str) -> int:
        assert key == "results-0"
        if self.lookups_failed:
            self.lookups_failed -= 1
            raise GroupCoordinatorNotAvailableError
        return 1

    async def send(self, _node: int, request: Any, **_: Any) -> Answer:
        name = type(request).__name__.strip("_").removesuffix("Request")
        self.asked.append(name)
        code = self.answers.pop(0) if self.answers else 0
        if code:
            return Answer(code)
        if name == "InitProducerId":
            return self._init(*request.build(lambda *values: values)[2:4])
        assert request.build(lambda *values: values)[1:3] == (self.producer_id, self.epoch)
        if name == "EndTxn":
            self.ending = not self.ending
        return Answer()

    def _init(self, producer_id: int, epoch: int) -> Answer:
        if producer_id != -1 and (producer_id, epoch) != (self.producer_id, self.epoch):
            return Answer(STALE_EPOCH)
        if self.epoch == LAST_EPOCH:
            self.producer_id, self.epoch = self.producer_id + 1, -1
        self.epoch += 1
        return Answer(0, self.producer_id, self.epoch)


def opened(coordinator: Coordinator, former: Fence | None = None) -> Fence:
    async def scenario() -> Fence:
        writers = FencedWriters(RuntimeSettings(), "test", lambda: 0, client=lambda **_: coordinator)
        try:
            return (await writers.open(TP, former)).fence
        finally:
            await writers.stop()

    return asyncio.run(scenario())


def test_a_fence_is_an_epoch_and_the_end_of_a_transaction_that_holds_nothing() -> None:
    coordinator = Coordinator()
    began_s = uptime_s()
    fence = opened(coordinator)
    assert fence[:2] == (1, 0)
    assert began_s + FENCE_S_MAX <= fence.until_s <= uptime_s() + FENCE_S_MAX
    assert coordinator.asked == ["InitProducerId", "AddPartitionsToTxn", "EndTxn", "EndTxn", "close"]


def test_it_waits_for_the_marker_which_the_second_answer_to_the_end_proves() -> None:
    coordinator = Coordinator(answers=[0, 0, 0, CONCURRENT, CONCURRENT])
    opened(coordinator)
    assert coordinator.asked.count("EndTxn") == 4


def test_a_coordinator_that_moves_is_looked_for_again() -> None:
    coordinator = Coordinator(answers=[NOT_COORDINATOR], lookups_failed=1)
    assert opened(coordinator)[:2] == (1, 0)
    assert coordinator.asked[:3] == ["metadata", "InitProducerId", "metadata"]


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
    assert TRANSACTION_TIMEOUT_MS >= 10_000
