"""Erases jobs that an operator asked to have erased, while everything goes on.

Rules:
- An erasure is a fact on `erasures`. The projection that owns the first partition of `jobs` does the work; a process
  that dies is followed by another, which begins the erasure again. Each step may be repeated.
- A job that is open is cancelled, and erased once it has ended.
- For a page of ended jobs: the responses are deleted at the provider, blobs are removed, tombstones are written to
  `results`, and at last the facts (`JobErased`). Only these facts take content out of the rows, so that a rebuild of
  the read model erases as well. Until its fact is written, a job stands in the scope.
- A blob stays where a job outside of the scope refers to it. One that was put within `RECENT_MS` may belong to a job
  that the read model does not know yet: its job is left for the next pass.
- An erasure is done after a pass that leaves nothing. What fails (provider, store, broker, database) leaves it open.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaConsumer

from backstop.readmodel import erasure_rows
from backstop.readmodel.database import Database, DatabaseAwayError
from backstop.readmodel.erasure_rows import FoundJob, Mark
from backstop.readmodel.rows import Position
from backstop.runtime.blob_folders import HEARD_MS, BlobFolders
from backstop.runtime.blobs import BlobRemover, name_of
from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.publisher import Publisher
from backstop.runtime.kafka.topic_follower import FollowedTopics, TopicFollower, facts_for
from backstop.runtime.kafka.topic_reader import open_reader
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.failpoints import failpoint
from backstop.runtime.process.logs import get_logger
from backstop.runtime.process.pausing import pause
from backstop.runtime.settings import RuntimeSettings
from schemas.base import BlobBody, Body
from schemas.codec import PoisonError, decode, load_object
from schemas.erasures import ERASURE_FACT, ErasureDone, ErasureFact, ErasureRequested, JobErased, without_content
from schemas.jobs import JOB_FACT, AttemptAccepted, AttemptSettled, CancelRequested
from schemas.results import RESULT
from streams.provider import AskAgain, Deleted, Refused

TURN_S: Final = 1.0
AGAIN_S: Final = 5.0
"""The wait after a pass that failed."""
DELETES_AT_ONCE: Final = 16
RECENT_MS: Final = 10_000
"""A read model that has caught up knows a job sooner after its body was put."""

ANY_TIME_MS: Final = 1 << 60

log = get_logger("readmodel.erasing")


class NotErasedError(Exception):
    """A step failed; the erasure stays open, and goes on with the next pass."""


class Tombstones(Publisher, Protocol):
    async def erase(self, topic: str, keys: Sequence[str]) -> None:
        """See `KafkaPublisher.erase`."""


class ResponseDeletes(Protocol):
    async def delete(self, response_id: str) -> Deleted | AskAgain | Refused:
        """See `streams.provider.Provider`."""


@dataclass(slots=True)
class _Tally:
    """What was done by this process, and what a pass left."""

    jobs: int = 0
    blobs: int = 0
    blobs_shared: int = 0
    responses: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class ErasingParts:
    database: Database
    publisher: Tombstones
    remover: BlobRemover
    deletes: ResponseDeletes | None
    """None: this process has no key of the provider."""
    now_ms: NowMs
    acts: Callable[[], bool]
    """Whether this process is the one that erases."""
    store: str | None = None
    """The id of this process's blob store. None: it is not compared with that of others."""


class Eraser:
    """See the module."""

    def __init__(
        self, settings: RuntimeSettings, parts: ErasingParts, consumer: Callable[..., Any] = AIOKafkaConsumer,
        recent_ms: int = RECENT_MS,
    ) -> None:  # fmt: skip
        """:param consumer: makes an `AIOKafkaConsumer`, or an object that behaves the same."""
        self._settings = settings
        self._parts = parts
        self._recent_ms = recent_ms
        self._open: dict[str, ErasureRequested] = {}
        self._tallies: dict[str, _Tally] = {}
        self._read = asyncio.Event()
        self._topic = TopicFollower(
            settings, FollowedTopics("erasures", ["erasures"], AGAIN_S), facts_for(self.take, ERASURE_FACT),
            caught_up=self._read.set, consumer=consumer,
        )  # fmt: skip

    def take(self, fact: ErasureFact, _at_ms: int) -> None:
        """Take the next fact of `erasures`."""
        if isinstance(fact, ErasureRequested):
            self._open[fact.key] = fact
        else:
            self._open.pop(fact.key, None)
            self._tallies.pop(fact.key, None)

    async def run(self, stop: asyncio.Event) -> None:
        """Erase until `stop` is set."""
        following = asyncio.create_task(self._topic.run(), name="erasures-topic")
        try:
            while not stop.is_set():
                wait_s = TURN_S
                for asked in list(self._open.values()) if self._read.is_set() and self._parts.acts() else ():
                    try:
                        await self.pass_over(asked)
                    except (NotErasedError, DatabaseAwayError, BrokerUnavailableError, OSError) as error:
                        log.warning("erasure_waits", erasure_id=asked.key, reason=str(error))
                        wait_s = AGAIN_S
                await pause(stop, wait_s)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def pass_over(self, asked: ErasureRequested) -> bool:
        """Erase what can be erased now; whether the erasure is done.

        :raises NotErasedError, DatabaseAwayError, BrokerUnavailableError, OSError: it goes on with the next pass.
        """
        parts, tally = self._parts, self._tallies.setdefault(asked.key, _Tally())
        if asked.at_provider and parts.deletes is None:
            raise NotErasedError(
                "the responses are to be deleted at the provider, and this projection has no key: set OPENAI_API_KEY, "
                "or ask again with --keep-at-provider"
            )
        await self._check_store()
        await parts.database.write(erasure_rows.make_indexes)
        tally.left = 0
        after: Mark | None = None
        while True:
            read = partial(
                erasure_rows.page, scope=asked.scope, submitted_until_ms=asked.submitted_until_ms, after=after
            )
            found = await parts.database.read(read)
            await self._cancel(asked, [job for job in found.jobs if not job.row.terminal], tally)
            await self._erase(asked, [job for job in found.jobs if job.row.terminal and not job.erased], tally)
            if found.next is None or not parts.acts():
                break
            after = found.next
        if tally.left or not parts.acts():
            return False
        done = ErasureDone(
            id=f"{asked.id}/done", at_ms=parts.now_ms(), scope=asked.scope, by=asked.by, why=asked.why,
            at_provider=asked.at_provider, submitted_until_ms=asked.submitted_until_ms, requested_at_ms=asked.at_ms,
            jobs=tally.jobs, blobs=tally.blobs, blobs_shared=tally.blobs_shared, responses=tally.responses,
        )  # fmt: skip
        await parts.publisher.publish([done])
        self.take(done, done.at_ms)  # It is read back as well, which changes nothing.
        log.info("erased", erasure_id=done.key, by=done.by, jobs=done.jobs, blobs=done.blobs, responses=done.responses)
        return True

    async def _check_store(self) -> None:
        """A blob that is missing here counts as removed, so this must be the store that the others write to."""
        if self._parts.store is None:
            return
        folders = BlobFolders(self._parts.store, self._parts.now_ms)
        async with open_reader(self._settings) as reader:
            partitions = reader.partitions("clock")
            await reader.seek_time(partitions, self._parts.now_ms() - HEARD_MS)
            async for batch in reader.read(await reader.ends(partitions)):
                for record in batch:
                    folders.heard(record.value, record.timestamp_ms)
        difference = folders.difference()
        if difference is not None:
            raise NotErasedError(f"another blob store is in use by {difference}")

    async def _cancel(self, asked: ErasureRequested, jobs: Sequence[FoundJob], tally: _Tally) -> None:
        tally.left += len(jobs)
        facts = [
            CancelRequested(
                id=f"{job.row.job_id}/cancel/{asked.key}", at_ms=self._parts.now_ms(), job_id=job.row.job_id,
                tenant=job.row.tenant, ingress="kafka", reason="the job is erased",
            )
            for job in jobs
            if job.row.status != "finishing"
        ]  # fmt: skip
        if facts:
            await self._parts.publisher.publish(facts)

    async def _erase(self, asked: ErasureRequested, jobs: Sequence[FoundJob], tally: _Tally) -> None:
        if not jobs:
            return
        tally.left += len(jobs)  # The next pass sees that their facts were read.
        if self._parts.deletes is not None and asked.at_provider:
            await self._delete(self._parts.deletes, {each for job in jobs for each in job.response_ids}, tally)
        ready = [job for job in jobs if await self._remove_blobs(asked, job, tally)]
        if not ready:
            return
        await self._parts.publisher.erase("results", [job.row.job_id for job in ready])
        failpoint("erasing.removed")
        at_ms = self._parts.now_ms()
        await self._parts.publisher.publish([_erased(asked, job, at_ms) for job in ready])
        failpoint("erasing.told")
        tally.jobs += len(ready)

    async def _delete(self, deletes: ResponseDeletes, response_ids: Iterable[str], tally: _Tally) -> None:
        places = asyncio.Semaphore(DELETES_AT_ONCE)

        async def one(response_id: str) -> Deleted | AskAgain | Refused:
            async with places:
                return await deletes.delete(response_id)

        answers = await asyncio.gather(*(one(response_id) for response_id in sorted(response_ids)))
        tally.responses += sum(isinstance(answer, Deleted) for answer in answers)
        for answer in answers:
            if isinstance(answer, Refused):
                raise NotErasedError(f"the provider refuses to delete a response: {answer.code} {answer.message}")
            if isinstance(answer, AskAgain):
                await asyncio.sleep(min(answer.wait_ms, 60_000) / 1000)
                raise NotErasedError(f"the provider did not delete a response: {answer.reason}")

    async def _remove_blobs(self, asked: ErasureRequested, job: FoundJob, tally: _Tally) -> bool:
        """Remove what only this job, or others of the scope, refer to. False: a blob was put a moment ago."""
        parts, scope, until_ms = self._parts, asked.scope, asked.submitted_until_ms
        shared: list[tuple[str, Callable[[Any], bool]]] = []
        of_request = _blob_of_row(job.request)
        if of_request is not None and job.request is not None:
            body = job.request
            shared.append((of_request, lambda conn: erasure_rows.request_is_shared(conn, body, scope, until_ms)))
        kept = job.row.request_sha256
        if kept:  # The submission as it came, which the Responses API shows.
            shared.append(
                (
                    name_of(parts.remover, job.row.tenant, kept),
                    lambda conn: erasure_rows.submission_is_shared(conn, kept, scope, until_ms),
                )
            )
        for sha256, is_shared in shared:
            if await parts.database.read(is_shared):
                tally.blobs_shared += 1
                continue
            removal = await parts.remover.remove(sha256, parts.now_ms() - self._recent_ms)
            if removal == "recent":
                return False
            tally.blobs += removal == "removed"
        for sha256 in await self._answers(job):  # A response object has the response's id: no two are equal.
            tally.blobs += await parts.remover.remove(sha256, ANY_TIME_MS) == "removed"
        return True

    async def _answers(self, job: FoundJob) -> set[str]:
        """The blobs of the job's response objects: in its result, and in the log those of its other attempts."""
        assert job.row.result is not None, "a terminal row has a result"
        bodies: list[Body | None] = [decode(RESULT, job.row.result).response]
        if len(job.response_ids) > 1:
            bodies += await self._bodies_in_log(job.settled)
        return {body.sha256 for body in bodies if isinstance(body, BlobBody)}

    async def _bodies_in_log(self, places: Sequence[Position]) -> list[Body | None]:
        found: list[Body | None] = []
        async with open_reader(self._settings) as reader:
            for place in places:
                partition = (place.topic, place.partition)
                if (await reader.begins([partition]))[partition] > place.offset:
                    continue  # retention took the record
                reader.seek({partition: place.offset})
                async for batch in reader.read({partition: place.offset + 1}):
                    found += [_body_of(record.value) for record in batch]
        return found


def _erased(asked: ErasureRequested, job: FoundJob, at_ms: int) -> JobErased:
    assert job.row.result is not None, "a terminal row has a result"
    return JobErased(
        id=f"{job.row.job_id}/erased", at_ms=at_ms, job_id=job.row.job_id, tenant=job.row.tenant,
        erasure_id=asked.key, by=asked.by, why=asked.why,
        result=without_content(decode(RESULT, job.row.result), at_ms),
    )  # fmt: skip


def _blob_of_row(body: bytes | None) -> str | None:
    """The hash of a request in the blob store; None for one that stands in its row."""
    if body is None or b'"kind":"blob"' not in body[:20]:
        return None
    return str(load_object(body)["sha256"])


def _body_of(value: bytes | None) -> Body | None:
    try:
        fact = decode(JOB_FACT, value)
    except PoisonError:
        return None
    if isinstance(fact, AttemptSettled):
        return fact.response
    return fact.end.response if isinstance(fact, AttemptAccepted) and fact.end is not None else None
