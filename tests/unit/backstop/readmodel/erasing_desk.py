"""A read model, a blob store, a provider and an eraser, without Kafka."""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from backstop.readmodel.batch import ParsedRecord
from backstop.readmodel.erasing import Eraser, ErasingParts
from backstop.runtime.blobs import BlobRemover, FolderBlobs
from backstop.runtime.records import Partition, Record
from backstop.runtime.settings import RuntimeSettings
from schemas.base import BlobBody, Message
from schemas.erasures import ErasureDone, ErasureRequested, ErasureScope
from streams.provider import AskAgain, Deleted, Refused
from tests.support.memory_publisher import MemoryPublisher
from tests.unit.backstop.readmodel.conftest import NOW_MS
from tests.unit.backstop.readmodel.logs import Log, accepted, claimed, result_of, settled, submitted
from tests.unit.backstop.readmodel.projection import Projection

TAG = "subject:ann"
SECRET = "what only the caller and the model may know"


class Tombstones(MemoryPublisher):
    """With the tombstones that would be on a compacted topic."""

    def __init__(self) -> None:
        super().__init__()
        self.erased: list[tuple[str, str]] = []

    async def erase(self, topic: str, keys: Sequence[str]) -> None:
        self.erased += [(topic, key) for key in keys]


class ProviderStore:
    """The responses that the provider keeps."""

    def __init__(self, *stored: str) -> None:
        self.stored = set(stored)
        self.refuses = False
        self.refused: set[str] = set()
        self.busy_each = 0
        """Each so many deletes the provider asks for a repeat; 0 for never."""
        self.asked = 0
        self.deleted: list[str] = []

    async def delete(self, response_id: str) -> Deleted | AskAgain | Refused:
        self.asked += 1
        if self.busy_each and self.asked % self.busy_each == 0:
            return AskAgain("rate_limit_exceeded", 0)
        if self.refuses or response_id in self.refused:
            return Refused("invalid_api_key", "no")
        self.stored.discard(response_id)
        self.deleted.append(response_id)
        return Deleted()


class LogInMemory:
    """The records of `jobs`, as a `TopicReader` reads them."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._at = 0

    @asynccontextmanager
    async def open(self, _settings: RuntimeSettings) -> AsyncIterator["LogInMemory"]:
        yield self

    def put(self, parsed: ParsedRecord) -> None:
        if parsed.position.topic == "jobs":
            self.records.append(Record("jobs", 0, parsed.position.offset, parsed.fact.at_ms, None, parsed.value))

    def partitions(self, topic: str) -> list[Partition]:
        return [(topic, 0)]

    async def begins(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        return dict.fromkeys(partitions, 0)

    async def ends(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """One more than the records: the last offset is a marker of a transaction."""
        return dict.fromkeys(partitions, len(self.records) + 1)

    def seek(self, positions: Mapping[Partition, int]) -> None:
        ((_, self._at),) = positions.items()

    async def seek_time(self, partitions: Collection[Partition], since_ms: int) -> None:
        raise NotImplementedError

    async def read(self, ends: Mapping[Partition, int]) -> AsyncGenerator[list[Record]]:
        ((_, end),) = ends.items()
        yield self.records[self._at : end]


class Desk:
    """A read model, a blob store and an eraser over them."""

    def __init__(self, projection: Projection, folder: Path, recent_ms: int = -(1 << 50)) -> None:
        self.projection = projection
        self.log = Log()
        self.jobs_log = LogInMemory()
        self.blobs = FolderBlobs(folder)
        self.remover: BlobRemover = self.blobs
        self.topics = Tombstones()
        self.provider = ProviderStore()
        self.taken = 0
        self.acts = True
        self.recent_ms = recent_ms
        self.now_ms = NOW_MS

    def eraser(self, *, with_key: bool = True) -> Eraser:
        parts = ErasingParts(
            self.projection.database, self.topics, self.remover, self.provider if with_key else None,
            lambda: self.now_ms, lambda: self.acts,
        )  # fmt: skip
        return Eraser(RuntimeSettings(), parts, recent_ms=self.recent_ms, reader=self.jobs_log.open, behind_s=0)

    async def take(self, *facts: Message) -> None:
        records = self.log.put(*facts)
        for record in records:
            self.jobs_log.put(record)
        await self.projection.take(records)

    async def project(self) -> None:
        """Let the projection read what was published since."""
        fresh = [fact for fact in self.topics.landed[self.taken :] if fact.topic == "jobs"]
        self.taken = len(self.topics.landed)
        if fresh:
            await self.take(*fresh)

    async def blob(self, **value: Any) -> BlobBody:
        data = orjson.dumps({**value, "text": SECRET})
        return BlobBody(sha256=await self.blobs.put(data), size_bytes=len(data))

    async def ended(self, job_id: str, request: BlobBody, **changes: Any) -> list[Message]:
        """A whole job, with its bodies in the blob store."""
        response_id = f"resp_{job_id}"
        answer = await self.blob(id=response_id)
        facts: list[Message] = [
            submitted(job_id, request=request, **changes),
            accepted(job_id, response_id=response_id),
            settled(job_id, response_id=response_id).model_copy(update={"response": answer}),
        ]
        self.provider.stored.add(response_id)
        await self.take(*facts[:2], claimed(job_id, response_id), facts[2], result_of(*facts))
        return facts

    async def content(self) -> str:
        """All that the tables hold, as text."""

        def read(conn: Any) -> str:
            return str(
                [
                    [bytes(each) if isinstance(each, memoryview) else each for each in row]
                    for table in ("jobs", "requests", "job_tags", "held_results", "timeline")
                    for row in conn.rows(f"SELECT * FROM {table}")
                ]
            )

        return await self.projection.database.read(read)


async def desk(bench: Any, folder: Path, **given: Any) -> Desk:
    return Desk(await Projection(bench.another()).take_over(), folder / "blobs", **given)


def asked(**scope: Any) -> ErasureRequested:
    named = ErasureScope(tenant="default", **scope)
    return ErasureRequested(
        id=f"{named.erasure_id}/1", at_ms=NOW_MS, scope=named, by="Ann", why="asked for by the person",
        at_provider=True, submitted_until_ms=NOW_MS,
    )  # fmt: skip


async def finish(at: Desk, erasure: ErasureRequested) -> ErasureDone:
    """Passes of one process, each after the projection has read what the last one wrote."""
    eraser = at.eraser()
    eraser.take(erasure, 0)
    for _ in range(5):
        if await eraser.pass_over(erasure):
            break
        await at.project()
    (done,) = [fact for fact in at.topics.landed if isinstance(fact, ErasureDone)]
    return done
