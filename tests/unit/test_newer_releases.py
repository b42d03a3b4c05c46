"""Records and rows of a newer release: an unknown value makes a dead letter that names it, and no process stops."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry

from backstop.outgoing.endpoints import EndpointBook
from backstop.outgoing.metrics import OutgoingMetrics
from backstop.outgoing.service import Service
from backstop.outgoing.turns import DeliveryTurns
from backstop.readmodel.parse import parse
from backstop.runtime.kafka.consumer_group import GroupAssignment, GroupRecords
from backstop.runtime.kafka.reporting import Reporting
from backstop.runtime.records import Partition, Record
from schemas.codec import PoisonError, decode, encode
from schemas.dead_letters import DeadLetter
from schemas.deliveries import DeliveryPlanned
from schemas.results import RESULT, JobResult
from streams import metrics
from streams.fold.batch import JOB_FOLD, fold_batch
from streams.fold.job import Finished
from streams.fold.rows import encode_job_state, encode_row
from streams.scheduler.due import DueIndex, IndexedRows
from tests.support.builders import JOB, T0, cancel_requested, submitted
from tests.support.memory_publisher import MemoryPublisher
from tests.unit.backstop.outgoing.facts import ENDPOINT_ID, result, saved

UNKNOWN = "outcome: 'half_done' is not known to this release; it must be "


def of_a_newer_release(known: JobResult) -> bytes:
    return orjson.dumps({**orjson.loads(encode(known)), "outcome": "half_done"})


def record(value: bytes, offset: int, topic: str = "results", key: bytes = b"acme:resp_1") -> Record:
    return Record(topic, 0, offset, T0, key, value, ())


def test_the_reason_names_field_and_value_but_repeats_no_text() -> None:
    with pytest.raises(PoisonError) as named:
        decode(RESULT, of_a_newer_release(result()))
    assert (named.value.reason, named.value.detail[: len(UNKNOWN)]) == ("unknown_value", UNKNOWN)
    text = orjson.dumps({**orjson.loads(encode(result())), "outcome": "Dear sir, my secret is 17"})
    with pytest.raises(PoisonError) as shown:
        decode(RESULT, text)
    assert (shown.value.reason, "secret" in shown.value.detail) == ("unknown_value", False)


class MemoryGroup:
    """Owns partition 0 of both topics. Gives out these records, then none, and says so."""

    owns = True

    def __init__(self, records: list[Record], stop: asyncio.Event) -> None:
        self._records = records
        self._stop = stop
        self._position = 0
        self.committed: dict[Partition, int] = {}

    async def assignment(self) -> GroupAssignment:
        return GroupAssignment(1, {("results", 0): None, ("deliveries", 0): None})

    async def first_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return dict.fromkeys(partitions, 0)

    async def end_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return dict.fromkeys(partitions, 0)

    def seek(self, positions: Mapping[Partition, int]) -> None:
        self._position = positions["results", 0]

    async def take(self, records_max: int, wait_ms: int) -> GroupRecords:
        del wait_ms
        found = self._records[self._position : self._position + records_max]
        self._position += len(found)
        if not found:
            self._stop.set()
        return GroupRecords(1, {("results", 0): found} if found else {})

    async def positions(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return dict.fromkeys(partitions, 0)

    async def commit(self, epoch: int, offsets: Mapping[Partition, int]) -> bool:
        assert epoch == 1
        self.committed |= offsets
        return True


class MemoryEndpoints:
    def __init__(self) -> None:
        self.book = EndpointBook()
        self.book.take(saved())

    async def catch_up(self) -> None:
        pass


class NoResults:
    def between(self, since_ms: int, until_ms: int) -> AsyncIterator[list[JobResult]]:
        raise AssertionError("nothing is asked for")


class Changed:
    """The part of the attempts that `Service.run` uses."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()


def test_outgoing_sets_an_unknown_outcome_aside_and_goes_on() -> None:
    publisher = MemoryPublisher()

    async def body() -> MemoryGroup:
        stop = asyncio.Event()
        records = [record(of_a_newer_release(result()), 0), record(encode(result()), 1)]
        group: Any = MemoryGroup(records, stop)
        endpoints: Any = MemoryEndpoints()
        service = Service(
            group=group, turns=DeliveryTurns(1, 1), endpoints=endpoints, results=NoResults(), resend_max=1,
            reporting=Reporting(publisher, OutgoingMetrics(CollectorRegistry()), lambda: T0),
        )  # fmt: skip
        attempts: Any = Changed()
        await service.run(attempts, stop)
        return group

    group = asyncio.run(body())
    (letter,) = publisher.on(DeadLetter.topic)
    assert isinstance(letter, DeadLetter)
    assert (letter.component, letter.reason, letter.detail[: len(UNKNOWN)]) == ("outgoing", "unknown_value", UNKNOWN)
    (planned,) = publisher.on(DeliveryPlanned.topic)
    assert isinstance(planned, DeliveryPlanned)
    assert planned.delivery.endpoint_id == ENDPOINT_ID
    assert group.committed["results", 0] == 2


def test_the_read_model_sets_an_unknown_outcome_aside() -> None:
    with pytest.raises(PoisonError, match="unknown_value: outcome: 'half_done'"):
        parse(("results", 0), record(of_a_newer_release(result()), 0))


def row_of_a_newer_release(offset: int = 3) -> bytes:
    finished = Finished("default", "a" * 64, "completed", T0, T0 + 1_000, ())
    return encode_row(encode_job_state(finished).replace(b'"completed"', b'"half_done"'), offset)


def test_a_row_of_a_newer_release_stays_as_it_is_and_its_facts_are_set_aside() -> None:
    rows = {JOB.encode(): row_of_a_newer_release()}
    records = [
        record(encode(cancel_requested(T0 + 1)), 4, "jobs", JOB.encode()),
        record(encode(submitted(T0 + 2, job_id="another")), 5, "jobs", b"another"),
    ]
    folded = fold_batch(JOB_FOLD, rows.get, records)
    assert set(folded.rows) == {b"another"}, "the other job goes on"
    ((poisoned, error),) = folded.poisons
    assert (poisoned.offset, error.reason) == (4, "unknown_value")
    assert error.detail.startswith("the row of this key: finished.outcome: 'half_done' is not known to this release")


def test_a_store_with_a_row_of_a_newer_release_opens() -> None:
    """An open job's row is decoded whole when its store opens."""
    index = DueIndex(lambda: T0)
    watch = IndexedRows(JOB_FOLD, index)
    watch.opened(0)
    counter = metrics.ROWS_UNREADABLE.labels(log="jobs")
    before = counter._value.get()
    watch.saw(0, [(b"new", encode_row(b'{"kind":"parked","until_ms":5}', 1)), (JOB.encode(), row_of_a_newer_release())])
    assert counter._value.get() == before + 1
    assert [due.key for due in index.due(T0 + 2_000, 10, {0})] == [JOB.encode()], "what is over needs its time only"
