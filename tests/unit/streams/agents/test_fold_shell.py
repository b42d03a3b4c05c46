"""Unreadable records on a log of Backstop's: each becomes a dead letter; too many in a row end the process."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence

import pytest

from backstop.runtime.errors import InvariantError
from backstop.runtime.records import Record
from schemas.base import Message
from schemas.codec import encode
from schemas.dead_letters import DeadLetter, Origin
from schemas.results import JobResult
from streams.agents.fold_shell import POISON_RUN_MAX, FoldShell
from streams.fold.batch import JOB_FOLD
from streams.scheduler.due import DueIndex
from tests.support.builders import T0, submitted
from tests.support.memory_publisher import MemoryPublisher


class Table:
    """Rows in memory."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def partitions(self) -> set[int]:
        return {0, 1}

    def get(self, partition: int, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def items(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.rows.items())

    async def put(self, partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        self.rows.update({key: row for key, row in rows.items() if row is not None})


class NoResults:
    async def publish(self, partition: int, results: Sequence[JobResult]) -> None:
        raise AssertionError(f"no job of these tests ends: {results}")


class Log:
    """Records of a partition, as the transport delivers them."""

    def __init__(self) -> None:
        self.publisher = MemoryPublisher()
        self.table = Table()
        self._offset = 0
        self._shell = FoldShell(
            JOB_FOLD,
            rows=self.table,
            publisher=self.publisher,
            results=NoResults(),
            index=DueIndex(lambda: T0),
            now_ms=lambda: T0,
        )

    def take(self, *values: Message | bytes, partition: int = 0) -> None:
        records = [self._record(value, partition) for value in values]
        asyncio.run(self._shell.take(partition, records))

    def _record(self, value: Message | bytes, partition: int) -> Record:
        self._offset += 1
        raw, key = (value, b"x") if isinstance(value, bytes) else (encode(value), value.key.encode())
        return Record("jobs", partition, self._offset, T0, key, raw, ())


def test_an_unreadable_record_is_a_dead_letter_with_its_origin_and_the_next_one_is_folded() -> None:
    log = Log()
    log.take(b"{", submitted())
    (letter,) = [message for message in log.publisher.landed if isinstance(message, DeadLetter)]
    assert letter.origin == Origin(topic="jobs", partition=0, offset=1, timestamp_ms=T0)
    assert list(log.table.rows) == [submitted().key.encode()]


@pytest.mark.parametrize("batches", [(POISON_RUN_MAX,), (60, POISON_RUN_MAX - 60), (1,) * POISON_RUN_MAX])
def test_too_many_in_a_row_end_the_process_however_they_came(batches: tuple[int, ...]) -> None:
    log = Log()
    *before, last = batches
    for size in before:
        log.take(*[b"{"] * size)
    with pytest.raises(InvariantError, match=f"{POISON_RUN_MAX} records of jobs in a row"):
        log.take(*[b"{"] * last)


def test_a_good_record_between_them_or_another_partition_begins_the_count_anew() -> None:
    log = Log()
    log.take(*[b"{"] * (POISON_RUN_MAX - 1))
    log.take(submitted(), *[b"{"] * (POISON_RUN_MAX - 1))
    log.take(*[b"{"] * (POISON_RUN_MAX - 1), partition=1)
    with pytest.raises(InvariantError):
        log.take(b"{")
