"""All records of one job and its responses, found by the id of either."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from backstop.audit import timeline
from backstop.runtime.kafka.topic_reader import TopicReader
from backstop.runtime.records import Record

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
        records = [*records, *await fetch("submissions", [job_id]), *await fetch("results", [job_id])]
    if response_ids:
        records = [*records, *await fetch("responses", response_ids), *await fetch("polls", response_ids)]
    return Trace(job_id if of_job else None, tuple(response_ids), tuple(records))


def from_topics(reader: TopicReader, *, everywhere: bool = False) -> Fetch:
    """Reads the keys' partitions from the beginning; with `everywhere`, all partitions of the topic."""

    async def fetch(topic: str, keys: Collection[str]) -> list[Record]:
        wanted = {key.encode() for key in keys}
        partitions = reader.partitions(topic) if everywhere else {reader.partition_of(topic, key) for key in wanted}
        for partition in partitions:
            reader.rewind(partition)
        return [
            record
            async for batch in reader.read(await reader.ends(partitions))
            for record in batch
            if record.key in wanted
        ]

    return fetch


def from_records(records: Sequence[Record]) -> Fetch:
    """Searches records in memory, those of a bundle."""

    async def fetch(topic: str, keys: Collection[str]) -> list[Record]:
        wanted = {key.encode() for key in keys}
        return [record for record in records if record.topic == topic and record.key in wanted]

    return fetch
