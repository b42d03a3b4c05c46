"""Detects a truncated log: it lost records that its table has taken, for example after an unclean leader election.

It is checked before any record is taken: records written after the loss reuse offsets that the rows have passed, and
the fold would skip them as repeats. Offsets show the loss only while the log is shorter. So the record that the newest
row has taken is read: in a truncated log its offset has another record or none. Not detected: a log that is truncated
and grows to its old length before the running worker fetches from it again.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from faust.types import TP

from backstop.runtime.errors import InvariantError
from backstop.runtime.kafka.lifetimes import running
from schemas.unreadable import Unreadable

READ_TIMEOUT_S = 30.0
FETCH_WAIT_MS = 50


class LogTruncatedError(InvariantError):
    """The operator must act. A worker that went on would skip facts, or its rows would not be a fold of the log."""

    def __init__(self, topic: str, partition: int, taken: int) -> None:
        super().__init__(
            f"{topic} {partition} no longer has the record at {taken} that its table has taken: acknowledged facts are "
            "lost (an unclean leader election?). See docs/operating.md, 'A log that lost records'"
        )


@dataclass(frozen=True, slots=True)
class TableProgress:
    """How far a table is in its log."""

    newest: int
    """The offset that the newest row has taken; -1 without rows."""
    key: bytes
    """The newest row's key."""
    lost: bool
    """Whether newer rows were lost with the end of the changelog."""

    def position(self, committed: int | None, beginning: int, end: int) -> int:
        """The offset to read from: the committed one, unless it is not in the log or rows were lost."""
        if committed is None:
            return beginning
        if beginning <= committed <= end and not self.lost:
            return committed
        # Not the beginning: old facts of keys that are forgotten would create those keys again.
        return min(max(beginning, self.newest + 1), end)


async def refuse_truncated(options: Mapping[str, Any], tables: Mapping[TP, TableProgress]) -> None:
    """Check each log against its table. Records that retention removed are not a truncation.

    :raises LogTruncatedError: a log no longer has the newest record that its table has taken.
    """
    wanted = {
        TopicPartition(tp.topic, tp.partition): (taken.newest, taken.key)
        for tp, taken in tables.items()
        if taken.newest >= 0
    }
    if not wanted:
        return
    reader = AIOKafkaConsumer(**options, enable_auto_commit=False, fetch_max_wait_ms=FETCH_WAIT_MS)
    async with running(reader), asyncio.timeout(READ_TIMEOUT_S):
        ends, beginnings = await reader.end_offsets(list(wanted)), await reader.beginning_offsets(list(wanted))
        for tp, (newest, _) in wanted.items():
            if newest >= ends[tp]:
                raise LogTruncatedError(tp.topic, tp.partition, newest)
        kept = {tp: row for tp, row in wanted.items() if row[0] >= beginnings[tp]}
        reader.assign(list(kept))
        for tp, (newest, _) in kept.items():
            reader.seek(tp, newest)
        for tp, row in kept.items():
            record = await reader.getone(tp)
            # An unreadable record is damaged, not truncated: it was readable when it was folded.
            if (record.offset, record.key) != row and not isinstance(record.value, Unreadable):
                raise LogTruncatedError(tp.topic, tp.partition, row[0])
