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
- A page is read once the read model has all that is on `jobs`, whichever process projects it.
- An erasure is done after a pass that leaves nothing. What fails (provider, store, broker, database) leaves it open.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaConsumer

from backstop.readmodel import erasure_rows
from backstop.readmodel.database import Database, DatabaseAwayError
from backstop.readmodel.erasure_log import LogReader, blobs_at, unread
from backstop.readmodel.erasure_rows import FoundJob, Mark
from backstop.readmodel.store import offsets
from backstop.runtime.blob_folders import HEARD_MS, BlobFolders
from backstop.runtime.blobs import BlobRemover
from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.publisher import Publisher
from backstop.runtime.kafka.topic_follower import FollowedTopics, TopicFollower, facts_for
from backstop.runtime.kafka.topic_reader import open_reader
from backstop.runtime.process.clock import NowMs, monotonic_s
from backstop.runtime.process.failpoints import failpoint
from backstop.runtime.process.logs import get_logger
from backstop.runtime.process.pausing import pause
from backstop.runtime.settings import RuntimeSettings
from schemas.base import BlobBody
from schemas.codec import decode
from schemas.erasures import ERASURE_FACT, ErasureDone, ErasureFact, ErasureRequested, JobErased, without_content
from schemas.jobs import CancelRequested
from schemas.results import RESULT
from streams.provider import AskAgain, Deleted, Refused

TURN_S: Final = 1.0
AGAIN_S: Final = 5.0
"""The wait after a pass that failed."""
DELETES_AT_ONCE: Final = 16
BEHIND_S: Final = 20.0
"""The wait of a pass for a read model that lags. One that lags for longer is waited for by the next pass."""
CATCH_UP_S: Final = 0.1
NONE_OF_DELETES: Final = 100
"""Deletes of a page: if so many were asked for and none was done, the provider is away, and the pass ends."""
REMOVALS_AT_ONCE: Final = 32
"""A bucket answers within tens of milliseconds."""
RECENT_MS: Final = 10_000
"""A read model that has caught up knows a job sooner after its body was put."""
SETTLES_MS: Final = 900_000
"""The wait for the end of a response whose job has ended. It is cancelled, and looked for until it ends: most take
seconds."""

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
    failed: str = ""
    """What failed last in the pass; empty if nothing did."""
    deleted: set[str] = field(default_factory=set)
    """Responses that are deleted and whose jobs are not erased yet."""


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
        reader: Callable[[RuntimeSettings], AbstractAsyncContextManager[LogReader]] = open_reader,
        behind_s: float = BEHIND_S,
    ) -> None:  # fmt: skip
        """:param consumer: makes an `AIOKafkaConsumer`, or an object that behaves the same. `reader`: likewise."""
        self._reader = reader
        self._behind_s = behind_s
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
                wait_s, began_s = TURN_S, monotonic_s()
                for asked in list(self._open.values()) if self._read.is_set() and self._parts.acts() else ():
                    try:
                        await self.pass_over(asked)
                    except (NotErasedError, DatabaseAwayError, BrokerUnavailableError, OSError) as error:
                        log.warning("erasure_waits", erasure_id=asked.key, reason=str(error))
                        wait_s = AGAIN_S
                # A pass over a large tenant reads each of its rows: it must not be all that the database does.
                await pause(stop, max(wait_s, 2 * (monotonic_s() - began_s)))
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
        async with self._reader(self._settings) as reader:
            await self._check_store(reader)
            for index in erasure_rows.INDEXES:  # each in a transaction of its own: other writers wait meanwhile
                await parts.database.write(partial(erasure_rows.make_index, index=index))
            return await self._pass(asked, tally, reader)

    async def _pass(self, asked: ErasureRequested, tally: _Tally, reader: LogReader) -> bool:
        parts, tally.left, tally.failed = self._parts, 0, ""
        after: Mark | None = None
        while True:
            await self._caught_up(reader)
            read = partial(
                erasure_rows.page, scope=asked.scope, submitted_until_ms=asked.submitted_until_ms, after=after
            )
            found = await parts.database.read(read)
            await self._cancel(asked, [job for job in found.jobs if not job.row.terminal], tally)
            await self._erase(asked, [job for job in found.jobs if job.row.terminal and not job.erased], tally, reader)
            if found.next is None or not parts.acts():
                break
            after = found.next
        if tally.failed:
            raise NotErasedError(tally.failed)
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

    async def _caught_up(self, reader: LogReader) -> None:
        """Wait until the read model has all that is on `jobs` now, from the partitions of other processes, too.

        Without it, jobs would be missed, and so would references to the blobs that are removed.
        """
        ends, began_s = await reader.ends(reader.partitions("jobs")), monotonic_s()
        while (behind := await unread(reader, ends, await self._parts.database.read(offsets))) is not None:
            if monotonic_s() - began_s >= self._behind_s:
                raise NotErasedError(f"the read model has not read {behind[0]}/{behind[1]} to its end yet")
            await asyncio.sleep(CATCH_UP_S)

    async def _check_store(self, reader: LogReader) -> None:
        """A blob that is missing here counts as removed, so this must be the store that the others write to."""
        if self._parts.store is None:
            return
        folders = BlobFolders(self._parts.store, self._parts.now_ms)
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

    async def _erase(
        self, asked: ErasureRequested, jobs: Sequence[FoundJob], tally: _Tally, reader: LogReader
    ) -> None:  # fmt: skip
        if not jobs:
            return
        tally.left += len(jobs)  # The next pass sees that their facts were read.
        jobs = [job for job in jobs if not self._settles_later(job)]
        if self._parts.deletes is not None and asked.at_provider:
            await self._delete(self._parts.deletes, {each for job in jobs for each in job.response_ids}, tally)
            jobs = [job for job in jobs if job.response_ids <= tally.deleted]
        if not jobs:
            return
        ready = await self._ready(asked, jobs, tally, reader)
        if not ready:
            return
        await self._parts.publisher.erase("results", [job.row.job_id for job in ready])
        failpoint("erasing.removed")
        at_ms = self._parts.now_ms()
        await self._parts.publisher.publish([_erased(asked, job, at_ms) for job in ready])
        failpoint("erasing.told")
        tally.jobs += len(ready)
        tally.deleted.difference_update(*(job.response_ids for job in ready))

    def _settles_later(self, job: FoundJob) -> bool:
        """Whether a response of the ended job is still followed: its end will put another blob."""
        ended_ms = job.row.finished_at_ms or job.row.updated_at_ms
        return not job.response_ids <= job.settled_ids and self._parts.now_ms() < ended_ms + SETTLES_MS

    async def _delete(self, deletes: ResponseDeletes, response_ids: set[str], tally: _Tally) -> None:
        """Delete those that are not deleted yet. A failure is told at the end of the pass: other jobs go on.

        :raises NotErasedError: of many the provider deleted none.
        """
        wanted = sorted(response_ids - tally.deleted)
        places = asyncio.Semaphore(DELETES_AT_ONCE)

        async def one(response_id: str) -> Deleted | AskAgain | Refused:
            async with places:
                return await deletes.delete(response_id)

        answers = await asyncio.gather(*map(one, wanted))
        deleted = {each for each, answer in zip(wanted, answers, strict=True) if isinstance(answer, Deleted)}
        tally.responses += len(deleted)
        tally.deleted |= deleted
        wait_ms = 0
        for response_id, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, Refused):
                tally.failed = f"the provider refuses to delete {response_id}: {answer.code} {answer.message}"
            elif isinstance(answer, AskAgain):
                tally.failed = f"the provider did not delete {response_id}: {answer.reason}"
                wait_ms = max(wait_ms, min(answer.wait_ms, 60_000))
        if wait_ms:
            await asyncio.sleep(wait_ms / 1000)
        if not deleted and len(wanted) >= NONE_OF_DELETES:
            raise NotErasedError(tally.failed)

    async def _ready(
        self, asked: ErasureRequested, jobs: Sequence[FoundJob], tally: _Tally, reader: LogReader
    ) -> list[FoundJob]:
        """Remove the blobs of these jobs; the jobs of which none was put a moment ago."""
        read = partial(erasure_rows.shared, jobs=jobs, scope=asked.scope, submitted_until_ms=asked.submitted_until_ms)
        shared = await self._parts.database.read(read)
        in_log = await blobs_at(reader, [place for job in jobs if _answers_elsewhere(job) for place in job.settled])
        places = asyncio.Semaphore(REMOVALS_AT_ONCE)

        async def is_ready(job: FoundJob) -> bool:
            answers = {in_log[place] for place in job.settled if place in in_log} | _answer(job)
            async with places:
                return await self._remove_blobs(job, answers, shared, tally)

        ready = await asyncio.gather(*map(is_ready, jobs))
        return [job for job, is_one in zip(jobs, ready, strict=True) if is_one]

    async def _remove_blobs(
        self, job: FoundJob, answers: Iterable[str], shared: set[str], tally: _Tally
    ) -> bool:  # fmt: skip
        """Remove what only this job, or others of the scope, refer to. False: a blob was put a moment ago."""
        remover = self._parts.remover
        for names in erasure_rows.blob_names(job):
            tally.blobs_shared += not shared.isdisjoint(names)
            for name in names:
                if name in shared:
                    continue
                removal = await remover.remove(name, self._parts.now_ms() - self._recent_ms)
                if removal == "recent":
                    return False
                tally.blobs += removal == "removed"
        for sha256 in answers:  # A response object has the response's id: no two are equal.
            removal = await remover.remove(sha256, ANY_TIME_MS)
            tally.blobs += removal == "removed"
        return True


def _answer(job: FoundJob) -> set[str]:
    """The blob of the response object in the job's result."""
    assert job.row.result is not None, "a terminal row has a result"
    body = decode(RESULT, job.row.result).response
    return {body.sha256} if isinstance(body, BlobBody) else set()


def _answers_elsewhere(job: FoundJob) -> bool:
    """Whether a response object may stand in the log alone: of another attempt, or of one that ended after the job."""
    return len(job.response_ids) > 1 or not _answer(job)


def _erased(asked: ErasureRequested, job: FoundJob, at_ms: int) -> JobErased:
    assert job.row.result is not None, "a terminal row has a result"
    return JobErased(
        id=f"{job.row.job_id}/erased", at_ms=at_ms, job_id=job.row.job_id, tenant=job.row.tenant,
        erasure_id=asked.key, by=asked.by, why=asked.why,
        result=without_content(decode(RESULT, job.row.result), at_ms),
    )  # fmt: skip
