"""Rebuilds the read model from the beginning of the logs beside the one in use, compares both, and swaps them
atomically.

The comparison is exact: digest and offsets of the current one are read in one snapshot, and the new one is built up to
those offsets. Readers and the projection go on meanwhile; after the swap the projection finds other offsets in the
database, and continues from them. A change of schema is a rebuild too, without a comparison.
"""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Literal

from backstop.readmodel import store
from backstop.readmodel.batch import ParsedRecord, RecordFailedError
from backstop.readmodel.database import Connection, Database, DatabaseAwayError
from backstop.readmodel.minutes import minutes_before
from backstop.readmodel.parse import parse
from backstop.readmodel.projector import TOPICS
from backstop.readmodel.queries import digest
from backstop.readmodel.retention import BEGINNING, Removable, removable_of, remove_ended
from backstop.readmodel.settings import ProjectionSettings
from backstop.readmodel.store import Move, OwnedPartition
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.kafka.topic_reader import TopicReader, open_reader
from backstop.runtime.process.failpoints import failpoint
from backstop.runtime.process.logs import get_logger
from backstop.runtime.records import Partition
from backstop.runtime.records import Record as RawRecord
from schemas.codec import PoisonError

Verdict = Literal["equal", "different", "not_compared"]

log = get_logger("backstop.readmodel.rebuild")


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The outcome of a rebuild. On `different` there is no swap, unless `accept_differences` was set."""

    verdict: Verdict
    swapped: bool
    build: int
    records: int
    digest_before: str | None
    digest_after: str


@dataclass(frozen=True, slots=True)
class _Live:
    offsets: Mapping[Partition, int]
    digest: str
    removable: Removable
    """Jobs that retention may have removed from it; they are not compared."""
    minutes_before: int
    """The same of minutes."""


async def rebuild(settings: ProjectionSettings, database: Database, *, accept_differences: bool = False) -> Rebuilt:
    """Build, compare, swap. A difference means that retention has truncated the logs, that these are other logs, or
    that the current read model is wrong; an operator must decide.

    :raises DatabaseAwayError: start again; the unfinished build is then discarded.
    :raises BrokerUnavailableError: likewise.
    """
    live = await _snapshot(database)
    await database.for_rebuild().discard()
    rebuilt = database.for_rebuild()
    try:
        await rebuilt.open()
        async with open_reader(settings) as reader:
            records = await _Replay(reader, rebuilt, live).run()
        removable = live.removable if live else Removable()
        await _remove_ended(rebuilt, removable)
        before = live.minutes_before if live else 0
        after = await rebuilt.read(
            partial(digest, ended_before_ms=removable.ended_before_ms, minutes_before=before)
        )  # fmt: skip
        build = rebuilt.build
        verdict: Verdict = "not_compared" if live is None else "equal" if live.digest == after else "different"
        swapped = verdict != "different" or accept_differences
        if swapped:
            await database.promote(rebuilt)
        else:
            await rebuilt.discard()
    finally:
        await rebuilt.close()
    log.info("rebuilt", verdict=verdict, swapped=swapped, build=build, records=records)
    return Rebuilt(verdict, swapped, build, records, live.digest if live else None, after)


async def _snapshot(database: Database) -> _Live | None:
    """The current read model; None if there is none, or its schema is another release's."""
    try:
        return await database.read(_live)
    except (ConfigurationError, DatabaseAwayError) as error:
        log.warning("rebuild_without_comparison", reason=str(error))
        return None


def _live(conn: Connection) -> _Live:
    removable, before = removable_of(conn), minutes_before(conn)
    return _Live(store.offsets(conn), digest(conn, removable.ended_before_ms, before), removable, before)


async def _remove_ended(database: Database, removable: Removable) -> None:
    """Remove from the new build the jobs that retention has removed from the current one."""
    at: tuple[int, str] | None = BEGINNING
    while at is not None:
        removed = await database.write(partial(remove_ended, removable=removable, after=at))
        at = removed.next


class _Replay:
    """Reads from the beginning to the offsets of the current read model, or to the ends of the logs."""

    def __init__(self, reader: TopicReader, rebuilt: Database, live: _Live | None) -> None:
        self._reader = reader
        self._rebuilt = rebuilt
        self._live = live
        self._owned: dict[Partition, OwnedPartition] = {}
        self._records = 0

    async def run(self) -> int:
        """Returns the number of records taken."""
        partitions = [partition for topic in TOPICS for partition in self._reader.partitions(topic)]
        targets = await self._reader.ends(partitions)
        if self._live is not None:
            targets = {partition: min(end, self._live.offsets.get(partition, 0)) for partition, end in targets.items()}
        self._owned = await self._rebuilt.write(lambda conn: store.claim(conn, partitions))
        async with aclosing(self._reader.read_polls(targets)) as polls:
            async for batches in polls:
                await self._take(batches)
        return self._records

    async def _take(self, batch: Mapping[Partition, list[RawRecord]]) -> None:
        moves = [
            Move(*partition, self._owned[partition].next_offset, raws[-1].offset + 1, self._owned[partition].epoch)
            for partition, raws in batch.items()
        ]
        # Unreadable records were dead-lettered when they were first read; skip them here, as then.
        records = [record for partition, raws in batch.items() for raw in raws if (record := _readable(partition, raw))]
        while True:
            try:
                await self._rebuilt.write(partial(_write, moves=moves, records=records))
                break
            except RecordFailedError as error:
                log.error("rebuild_record_failed", record=str(error))
                records = [record for record in records if record.position != error.position]
        for partition, raws in batch.items():
            self._owned[partition] = OwnedPartition(raws[-1].offset + 1, self._owned[partition].epoch)
            self._records += len(raws)
        failpoint("projection.rebuilding")


def _write(conn: Connection, moves: Sequence[Move], records: Sequence[ParsedRecord]) -> None:
    store.apply(conn, moves, records, now_ms=0, build=0, tell=False)


def _readable(partition: Partition, raw: RawRecord) -> ParsedRecord | None:
    try:
        return parse(partition, raw)
    except PoisonError:
        return None
