"""A log that lost records which its table has taken: after an election among replicas that were not in sync, say. Noticed before a
record is taken, for what comes in their place has offsets that rows have behind them, and would be dropped as repeats.

Offsets alone tell only while the log is shorter. So the record that the newest row has taken is looked at: another one stands there,
or none, if the log was cut. What can't be seen: a log that was cut and is as long as before when the running worker fetches from it.
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
    """The operator's: going on would skip what comes in place of the lost facts, or make a table that is no fold."""

    def __init__(self, topic: str, partition: int, taken: int) -> None:
        super().__init__(
            f"{topic} {partition} no longer has the record at {taken} that its table has taken: facts that were acknowledged are lost (an "
            "unclean leader election?). See docs/operating.md, 'A log that lost records'"
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """How far a table is in its log."""

    newest: int
    """The offset that its newest row has taken; -1 for none."""
    key: bytes
    """That row's."""
    lost: bool
    """Whether newer rows are gone with the end of its changelog."""

    def position(self, committed: int | None, beginning: int, end: int) -> int:
        """Where to read on: where was committed, but where that is not in the log, or further than the table."""
        if committed is None:
            return beginning
        if beginning <= committed <= end and not self.lost:
            return committed
        # Not the beginning: there are facts of keys that were forgotten since, and would begin anew.
        return min(max(beginning, self.newest + 1), end)


async def refuse_truncated(options: Mapping[str, Any], tables: Mapping[TP, Taken]) -> None:
    """:raises LogTruncatedError: one of these logs does not have what its table has taken. What retention removed is no cut."""
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
            # One that can't be read any more is damaged, and not cut off: it was folded when it could be.
            if (record.offset, record.key) != row and not isinstance(record.value, Unreadable):
                raise LogTruncatedError(tp.topic, tp.partition, row[0])
