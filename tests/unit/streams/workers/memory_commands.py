"""A topic of commands and a group in memory: it can revoke, refuse a commit, and be read back."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from backstop.runtime.records import Record
from schemas.base import Message
from schemas.codec import encode
from streams.workers.commands import Assignment, ReadBack, Taken
from streams.workers.offsets import Committed


@dataclass
class MemoryCommands:
    """One partition per key of `logs`. `journal` tells in which order things happened."""

    logs: dict[int, list[Record]] = field(default_factory=dict)
    committed: dict[int, int] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    refuse_commits: int = 0
    journal: list[str] = field(default_factory=list)
    read_backs: list[tuple[int, int, int]] = field(default_factory=list)
    epoch: int = 1
    running: bool = False
    _positions: dict[int, int] = field(default_factory=dict)

    def publish(self, *messages: Message | bytes, at_ms: int = 0, partition: int = 0, key: bytes | None = None) -> None:
        log = self.logs.setdefault(partition, [])
        for message in messages:
            value = message if isinstance(message, bytes) else encode(message)
            record_key = key if key is not None else b"" if isinstance(message, bytes) else message.key.encode()
            log.append(Record("t", partition, len(log), at_ms, record_key, value, ()))

    away: set[int] = field(default_factory=set)
    """Partitions of another member."""

    @property
    def partitions(self) -> frozenset[int]:
        return frozenset(self.logs.keys() - self.away)

    async def assignment(self) -> Assignment:
        return Assignment(
            self.epoch, {p: Committed(self.committed.get(p), self.notes.get(p, "")) for p in self.partitions}
        )

    def reassign(self, *away: int) -> None:
        """A rebalance that revokes these and assigns the others again: records without a commit come again."""
        self.epoch += 1
        self.away = set(away)
        self._positions = dict(self.committed)

    async def start(self, stop: asyncio.Event) -> None:
        self.running = True

    async def stop(self) -> None:
        self.running = False

    async def take(self, records_max: int, wait_ms: int) -> Taken:
        for partition, log in self.logs.items():
            if partition in self.away:
                continue
            position = self._positions.get(partition, self.committed.get(partition, 0))
            records = log[position : position + records_max]
            if records:
                self._positions[partition] = position + len(records)
                self.journal += [f"take {record.offset}" for record in records]
                return Taken(self.epoch, {partition: records})
        await asyncio.sleep(0.001)
        return Taken(self.epoch)

    async def commit(self, epoch: int, next_offsets: Mapping[int, int], notes: Mapping[int, str] | None = None) -> bool:
        await asyncio.sleep(0)
        if self.refuse_commits:
            self.refuse_commits -= 1
            self.reassign()
            return False
        if epoch != self.epoch:
            return False
        self.committed |= next_offsets
        self.notes |= notes or {}
        self.journal += [f"commit {offset}" for offset in next_offsets.values()]
        return True

    async def read_back(self, partition: int, before_offset: int, since_ms: int, records_max: int) -> ReadBack:
        self.read_backs.append((partition, before_offset, since_ms))
        all_since = [record for record in self.logs[partition][:before_offset] if record.timestamp_ms >= since_ms]
        records = all_since[-records_max:]
        whole = len(records) == len(all_since)
        return ReadBack(records, since_ms if whole else records[0].timestamp_ms)
