"""`backstop audit verify`: compares the tables, the outputs and the read model with a refold of the logs (I2, I4, I6).

The system may be running meanwhile. Each round reads the logs' ends first and the rest after, so a difference may only
mean that one side is newer. Such differences are checked again, further on in all topics, until they disappear or
`settle_s` is over. Those left then are reported: a table that stays behind its log (no worker runs?) is not proved
either. Each round judges only the differences of the one before, so that the check ends under load too.

Where retention has truncated a log, keys whose history may be incomplete count as not covered, and are no difference
(see `PartitionRefold.covers`); all others are judged as usual.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from typing import Protocol

from backstop.audit.differences import Difference, row_difference
from backstop.audit.outputs import WATCHED, Outputs
from backstop.audit.read_rows import ReadModel, ReadRows
from backstop.audit.refold import FOLDS, PartitionRefold, changelog, digest
from backstop.audit.report import DIFFERENCES_SHOWN_MAX, PartitionReport, Report, counted
from backstop.runtime.process.clock import monotonic_s
from backstop.runtime.records import Partition, Record

POLL_AGAIN_S = 0.25
LOGS = tuple(FOLDS)


class Topics(Protocol):
    """The methods of `backstop.runtime.kafka.topic_reader.TopicReader` that are used here."""

    def partitions(self, topic: str) -> list[Partition]: ...
    def has(self, topic: str) -> bool: ...
    def position(self, partition: Partition) -> int: ...
    async def begins(self, partitions: Collection[Partition]) -> dict[Partition, int]: ...
    async def ends(self, partitions: Collection[Partition]) -> dict[Partition, int]: ...
    async def peek(self, partition: Partition) -> Record | None: ...
    def read(self, ends: Mapping[Partition, int]) -> AsyncIterator[list[Record]]: ...


Progress = Callable[[str, int, int], None]
"""Called with the topic, the records done, and the total (which grows as topics are added)."""


def silent(_topic: str, _done: int, _total: int) -> None:
    """Reports no progress."""


async def verify(
    reader: Topics,
    *,
    prefix: str,
    settle_s: float,
    read_model: ReadModel | None = None,
    progress: Progress = silent,
) -> Report:
    """Refold and compare. Read `read_model` before calling this, so that the logs hold everything it has taken.

    :raises BrokerUnavailableError: the broker became unavailable.
    :raises ConfigurationError: a topic is missing.
    """
    began_s = monotonic_s()
    run = _Verification(reader, prefix, read_model, progress)
    await run.prepare()
    await run.read_on()
    found = run.differences()
    rounds, deadline_s = 1, monotonic_s() + settle_s
    while found and monotonic_s() < deadline_s:
        await asyncio.sleep(POLL_AGAIN_S)
        await run.read_on()
        still = {difference.identity for difference in found}
        found = [difference for difference in run.differences() if difference.identity in still]
        rounds += 1
    return run.report(found, rounds, monotonic_s() - began_s)


class _Verification:
    """Everything read so far. Rows and ids are kept in memory; bodies only within rows of open jobs."""

    def __init__(self, reader: Topics, prefix: str, read_model: ReadModel | None, progress: Progress) -> None:
        self._reader = reader
        self._prefix = prefix
        self._model = read_model
        self._rows = ReadRows(read_model.offsets) if read_model else None
        self._progress = progress
        self._refolds: dict[Partition, PartitionRefold] = {}
        self._tables: dict[Partition, dict[bytes, bytes]] = {}
        """By the changelog's partition: the last value of each key."""
        self._outputs = Outputs()
        self._begins: dict[Partition, int] = {}
        self._not_covered: Counter[str] = Counter()
        self._done = 0
        self._total = 0

    async def prepare(self) -> None:
        """Find the topics, and where retention has truncated each."""
        topics = [*LOGS, *(topic for topic in WATCHED if topic not in LOGS)]
        self._begins = await self._reader.begins([p for topic in topics for p in self._reader.partitions(topic)])
        for topic, fold in FOLDS.items():
            for partition in self._reader.partitions(topic):
                self._refolds[partition] = PartitionRefold(fold, partition[1], self._begins[partition])
            for _, number in self._reader.partitions(topic):
                self._tables[changelog(topic), number] = {}
        await self._find_first_kept()

    async def read_on(self) -> None:
        """Read the logs to their present ends first; then the topics and changelogs that the live system writes."""
        await self._read([p for topic in LOGS for p in self._reader.partitions(topic)], self._take_log)
        # A system that has never run has no changelog: its tables are empty.
        tables = [partition for partition in self._tables if self._reader.has(partition[0])]
        others = [p for topic in WATCHED if topic not in LOGS for p in self._reader.partitions(topic)]
        await self._read([*others, *tables], self._take_other)

    def differences(self) -> list[Difference]:
        """All differences in what has been read."""
        self._not_covered = Counter()
        found = [*self._row_differences(), *self._outputs.differences(self._whole_from_ms())]
        self._not_covered.update(
            {f"outputs on {topic}": count for topic, count in self._outputs.not_judged.items() if count}
        )
        if self._outputs.unfounded:
            self._not_covered["outputs of jobs and responses whose history is not complete"] = self._outputs.unfounded
        if self._rows is not None and self._model is not None:
            found += self._rows.differences(self._model, self._whole_from_ms())
        return found

    def report(self, found: list[Difference], rounds: int, took_s: float) -> Report:
        ignored: Counter[str] = Counter()
        for refold in self._refolds.values():
            ignored.update(refold.ignored)
        return Report(
            partitions=tuple(self._partition_report(at, refold) for at, refold in sorted(self._refolds.items())),
            outputs=self._outputs.counts(),
            read_model_rows=None if self._model is None else len(self._model.rows),
            counts=counted(found),
            differences=tuple(found[:DIFFERENCES_SHOWN_MAX]),
            not_covered=dict(self._not_covered),
            warnings=tuple(self._warnings()),
            rounds=rounds,
            took_s=round(took_s, 2),
            ignored=dict(ignored),
        )

    async def _read(self, partitions: list[Partition], take: Callable[[list[Record]], None]) -> None:
        ends = await self._reader.ends(partitions)
        self._total += sum(
            max(0, end - max(self._reader.position(p), self._begins.get(p, 0))) for p, end in ends.items()
        )
        async for batch in self._reader.read(ends):
            take(batch)
            self._done += len(batch)
            self._progress(batch[0].topic, self._done, self._total)

    def _take_log(self, batch: list[Record]) -> None:
        topic = batch[0].topic
        refold = self._refolds[topic, batch[0].partition]
        self._outputs.expect(refold.take(batch))
        for record in batch:
            self._outputs.find(record)
        if topic == "jobs" and self._rows is not None:
            for record in batch:
                self._rows.take(record)

    def _take_other(self, batch: list[Record]) -> None:
        table = self._tables.get((batch[0].topic, batch[0].partition))
        if table is not None:
            _compact(table, batch)
            return
        for record in batch:
            self._outputs.find(record, self._prefix)
            if record.topic == "results" and self._rows is not None:
                self._rows.take(record)

    def _row_differences(self) -> Iterable[Difference]:
        for (topic, number), refold in self._refolds.items():
            table = self._tables[changelog(topic), number]
            for key in sorted({*refold.rows, *table}):
                expected, found = refold.rows.get(key), table.get(key)
                if expected == found:
                    continue
                if refold.covers(key):
                    yield row_difference(topic, number, key, expected, found)
                else:
                    self._not_covered[f"rows of {topic}"] += 1

    async def _find_first_kept(self) -> None:
        """For truncated output topics: the time of the first retained record."""
        for partition, begin in self._begins.items():
            if begin == 0 or partition[0] not in WATCHED:
                continue
            first = await self._reader.peek(partition)
            # With no record left, any output may be older than the truncation: use a time later than all.
            self._outputs.begins_at(partition[0], first.timestamp_ms if first else (1 << 62))

    def _whole_from_ms(self) -> int:
        """The time from which all partitions of the jobs log are whole; 0 if none is truncated."""
        return max(refold.whole_from_ms for (topic, _), refold in self._refolds.items() if topic == "jobs")

    def _partition_report(self, at: Partition, refold: PartitionRefold) -> PartitionReport:
        return PartitionReport(
            topic=at[0],
            partition=at[1],
            begin=refold.begin,
            end=self._reader.position(at),
            facts=refold.facts,
            rows=len(refold.rows),
            poisons=refold.poisons,
            digest_refold=refold.digest(),
            digest_table=digest(self._tables[changelog(at[0]), at[1]]),
        )

    def _warnings(self) -> Iterable[str]:
        begins = ((f"{topic}:{number}", refold.begin) for (topic, number), refold in sorted(self._refolds.items()))
        truncated = [f"{name} begins at {begin}" for name, begin in begins if begin]
        if truncated:
            yield (
                "retention has truncated the logs ("
                + ", ".join(truncated)
                + "): only keys whose history is certainly whole are judged, "
                "the others count as not covered"
            )


def _compact(table: dict[bytes, bytes], batch: Iterable[Record]) -> None:
    """Apply compaction: keep the last value of each key, and drop keys whose last value is a tombstone."""
    for record in batch:
        if record.key is None:
            continue
        if record.value is None:
            table.pop(record.key, None)
        else:
            table[record.key] = record.value
