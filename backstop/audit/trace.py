"""All records of one job and its responses, found by the id of either."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from backstop.audit import timeline
from backstop.audit.places import (
    COMMAND_TOPICS,
    PLACED_TOPICS,
    Places,
    check,
    commands_since_ms,
    commands_until_ms,
    spans,
)
from backstop.runtime.kafka.topic_reader import TopicReader
from backstop.runtime.records import Partition, Record

RESPONSES_MAX = 64
"""Per job. A normal job has at most 1 + its retries."""

Fetch = Callable[[str, Collection[str]], Awaitable[Sequence[Record]]]
"""The records of a topic (logical name) with one of these keys."""


@dataclass(frozen=True, slots=True)
class Trace:
    """`job_id` is None for a response that no job has claimed."""

    job_id: str | None
    response_ids: tuple[str, ...]
    records: tuple[Record, ...]


async def trace(identifier: str, fetch: Fetch) -> Trace | None:
    """None: neither log holds the id."""
    job_id: str | None = identifier
    of_job = list(await fetch("jobs", [identifier]))
    alone: Sequence[Record] = ()
    if not of_job:
        alone = await fetch("responses", [identifier])
        job_id = timeline.job_id(alone)
        of_job = list(await fetch("jobs", [job_id])) if job_id else []
        if not alone:
            return None
    response_ids = timeline.response_ids(of_job)[:RESPONSES_MAX]
    if alone and identifier not in response_ids:
        response_ids.append(identifier)
    records = of_job
    if of_job and job_id is not None:
        records = [*records, *await fetch("results", [job_id])]
    if response_ids:
        records = [*records, *await fetch("responses", response_ids)]
    # Commands last: where they stand is known from the others.
    if of_job and job_id is not None:
        records = [*records, *await fetch("submissions", [job_id])]
    if response_ids:
        records = [*records, *await fetch("polls", response_ids)]
    return Trace(job_id if of_job else None, tuple(response_ids), tuple(records))


def from_topics(reader: TopicReader, *, everywhere: bool = False) -> Fetch:
    """Reads the keys' partitions from the beginning; with `everywhere`, all partitions of the topic."""

    async def fetch(topic: str, keys: Collection[str]) -> list[Record]:
        wanted = {key.encode() for key in keys}
        partitions = reader.partitions(topic) if everywhere else {reader.partition_of(topic, key) for key in wanted}
        for partition in partitions:
            reader.rewind(partition)
        return await _of_keys(reader, await reader.ends(partitions), wanted)

    return fetch


def from_places(reader: TopicReader, places: Places) -> Fetch:
    """Reads what stands at the places, and all that came after the read model's last step.

    A key without places, as of a response that another job holds, is searched for in its whole partition. The fetch
    raises PlacesDifferError where the places are those of other logs.
    """
    whole = from_topics(reader)
    seen: list[Record] = []

    async def fetch(topic: str, keys: Collection[str]) -> list[Record]:
        wanted = {key.encode() for key in keys}
        partitions = {reader.partition_of(topic, key) for key in wanted}
        if topic in PLACED_TOPICS and places.keys.issuperset(keys):
            found = await _at_places(reader, places, partitions, wanted)
        elif topic in COMMAND_TOPICS and seen:
            found = await _commands(reader, partitions, wanted, seen)
        else:
            found = list(await whole(topic, keys))
        seen.extend(found)
        return found

    return fetch


async def _at_places(
    reader: TopicReader, places: Places, partitions: Collection[Partition], wanted: Collection[bytes]
) -> list[Record]:
    begins, ends = await reader.begins(partitions), await reader.ends(partitions)
    applied = {partition: min(places.applied.get(partition, 0), ends[partition]) for partition in partitions}
    offsets = {
        partition: [at for at in places.offsets.get(partition, ()) if at < applied[partition]]
        for partition in partitions
    }
    to_read = {
        partition: [*spans(at for at in offsets[partition] if at >= begins[partition]), (applied[partition], end)]
        for partition, end in ends.items()
    }
    found: list[Record] = []
    while turn := {partition: left.pop(0) for partition, left in to_read.items() if left}:
        reader.seek({partition: max(first, begins[partition]) for partition, (first, _) in turn.items()})
        found += await _of_keys(reader, {partition: end for partition, (_, end) in turn.items()}, wanted)
    for partition in partitions:
        of_it = (record for record in found if (record.topic, record.partition) == partition)
        check(partition, offsets[partition], begins[partition], of_it)
    return found


async def _commands(
    reader: TopicReader, partitions: Collection[Partition], wanted: Collection[bytes], facts: Sequence[Record]
) -> list[Record]:
    until_ms = commands_until_ms(facts)
    await reader.seek_time(partitions, commands_since_ms(facts))
    ends = await reader.ends(partitions) if until_ms is None else await reader.offsets_at(partitions, until_ms)
    return await _of_keys(reader, ends, wanted)


async def _of_keys(reader: TopicReader, ends: Mapping[Partition, int], wanted: Collection[bytes]) -> list[Record]:
    return [record async for batch in reader.read(ends) for record in batch if record.key in wanted]


def from_records(records: Sequence[Record]) -> Fetch:
    """Searches records in memory, those of a bundle."""

    async def fetch(topic: str, keys: Collection[str]) -> list[Record]:
        wanted = {key.encode() for key in keys}
        return [record for record in records if record.topic == topic and record.key in wanted]

    return fetch
