"""What an erasure reads in the logs: how far the read model has read, and the response objects that facts refer to."""

from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from contextlib import aclosing
from typing import Protocol

from backstop.readmodel.rows import Position
from backstop.runtime.records import Partition, Record
from schemas.base import BlobBody
from schemas.codec import PoisonError, decode
from schemas.jobs import JOB_FACT, AttemptAccepted, AttemptSettled


class LogReader(Protocol):
    """See `TopicReader`."""

    def partitions(self, topic: str) -> list[Partition]: ...
    async def begins(self, partitions: Collection[Partition]) -> dict[Partition, int]: ...
    async def ends(self, partitions: Collection[Partition]) -> dict[Partition, int]: ...
    def seek(self, positions: Mapping[Partition, int]) -> None: ...
    async def seek_time(self, partitions: Collection[Partition], since_ms: int) -> None: ...
    def read(self, ends: Mapping[Partition, int]) -> AsyncGenerator[list[Record]]: ...


async def unread(
    reader: LogReader, ends: Mapping[Partition, int], offsets: Mapping[Partition, int]
) -> Partition | None:  # fmt: skip
    """A partition that holds a record between these offsets and ends; None if there is none.

    Offsets alone don't tell: the last ones before an end may be markers of transactions.
    """
    behind = {partition: offsets.get(partition, 0) for partition, end in ends.items()}
    behind = {partition: at for partition, at in behind.items() if at < ends[partition]}
    begins = await reader.begins(behind)
    for partition, at in behind.items():
        reader.seek({partition: max(at, begins[partition])})
        async with aclosing(reader.read({partition: ends[partition]})) as batches:
            async for batch in batches:
                if batch:
                    return partition
    return None


async def blobs_at(reader: LogReader, places: Iterable[Position]) -> dict[Position, str]:
    """The blobs of response objects that the facts at these places refer to."""
    wanted = sorted(set(places), key=lambda place: (place.topic, place.partition, place.offset))
    begins = await reader.begins({(place.topic, place.partition) for place in wanted})
    found: dict[Position, str] = {}
    for place in wanted:
        partition = (place.topic, place.partition)
        if begins[partition] > place.offset:
            continue  # retention took the record
        reader.seek({partition: place.offset})
        async for batch in reader.read({partition: place.offset + 1}):
            for record in batch:
                if (sha256 := _blob_of(record.value)) is not None:
                    found[place] = sha256
    return found


def _blob_of(value: bytes | None) -> str | None:
    try:
        fact = decode(JOB_FACT, value)
    except PoisonError:
        return None
    body = fact.response if isinstance(fact, AttemptSettled) else None
    if isinstance(fact, AttemptAccepted) and fact.end is not None:
        body = fact.end.response
    return body.sha256 if isinstance(body, BlobBody) else None
