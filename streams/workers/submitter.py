"""Performs creates, at most once each: take the command, commit its offset, and only then `POST /responses`.

After a crash before the commit the command comes again, and nothing was sent. A crash after the commit may lose the
command, and the job's timer then makes the outcome unknown (no report by the report deadline). A command that another
worker may send too is never sent: a batch is sent only after its commit held under the fence of `group`, and a command
id that was seen before is dropped. After an assignment the ids are read back from the partition: further back for a
command older than those remembered. What that does not reach may have been sent: it is dropped without a report.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, assert_never

import structlog

from backstop.runtime.kafka.acknowledged import publish
from backstop.runtime.kafka.dead_letters import dead_letter
from backstop.runtime.process.failpoints import failpoint
from backstop.runtime.records import Record
from backstop.runtime.traces import within_trace
from schemas.base import BlobBody, Cause, Message
from schemas.codec import PoisonError, decode
from schemas.commands import SUBMISSION, CreateResponse
from schemas.fallbacks import asked_instead
from schemas.jobs import AttemptAccepted, AttemptEnd, AttemptRejected, AttemptUnknown
from schemas.pauses import PAUSED_CODE, CreatesPaused
from schemas.told_limits import ToldLimits
from schemas.windows import in_window
from streams.answer_memory import holding
from streams.large_requests import LargeRequest, LargeRequests
from streams.policy.lanes import HELD_MS, Go, Held
from streams.policy.latency import LatencyClass, latency_class
from streams.policy.limits import NO_LIMITS, LimitRules
from streams.provider import Accepted, Rejected, Seen, Unknown
from streams.workers.access import stored
from streams.workers.command_memory import SKEW_MS, CommandMemory
from streams.workers.command_worker import CommandWorker, WorkerParts
from streams.workers.commands import Commands, Taken
from streams.workers.facts import ended_at_create
from streams.workers.lanes import LANES_MAX
from streams.workers.lifetime import run_until
from streams.workers.limits import SubmitterLimits
from streams.workers.metrics import counted_as
from streams.workers.request_memory import RequestMemory
from streams.workers.request_reading import RequestReader
from streams.workers.slots import Slots

log = structlog.get_logger()

WORKER = "submitter"
TAKE_WAIT_MS = 250
"""Longest delay of a stop while no records come."""

REASON_CHARS_MAX = 200

MEMORY_WAIT_MS = 2_000
"""Wait of a create without memory for its request. An upload of 20 MB takes about as long."""


SILENT: Final = Rejected("unsent", "provider_silent", "the provider does not answer, so nothing was sent")


UNGRANTED: Final = Rejected("held", "grant_not_known", "it was written beside a grant that did not follow", 1)
"""The job asks for another turn at once."""


@dataclass(frozen=True, slots=True)
class _Due:
    command: CreateResponse
    written_ms: int


class Submitter(CommandWorker):
    """Performs the commands of `submissions` in the partitions of its group member.

    A create that the provider's edge refused as an attack slows down polls too.
    """

    def __init__(
        self, group: Commands, parts: WorkerParts, limits: SubmitterLimits, rules: LimitRules = NO_LIMITS
    ) -> None:  # fmt: skip
        super().__init__(group, parts)
        self._hedge_at = parts.access.hedge_at
        self._early = parts.early
        self._limits = limits
        self._rules = rules
        self._slots = Slots(limits.concurrency)
        self._memory_of_bodies = RequestMemory(limits.bodies_memory_bytes_max)
        self._requests = RequestReader(self._bodies.blobs, self._metrics, LargeRequests())
        self._memories: dict[int, CommandMemory] = {}
        self._memories_epoch = -1
        self._unheard: set[str] = set()
        """Models whose last create got no answer that tells its outcome. The next one is preceded by a call that costs
        nothing: an outage must not use up the retries of jobs, each of which may be paid."""

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set; then finish creates in flight (at most `limits.drain_ms`) and leave the group.

        Any exception is raised and must end the process: a submitter that goes on after a bug may create twice.
        """
        try:
            await self._group.start(stop)
            await run_until(stop, self._take_all, self._slots.all_free, self._limits.drain_ms / 1_000)
        finally:
            await self._group.stop()

    async def _take_all(self, stop: asyncio.Event, tasks: asyncio.TaskGroup) -> None:
        while not stop.is_set():
            if not await self._slots.some_free(TAKE_WAIT_MS):
                continue
            taken = await self._group.take(self._slots.free, TAKE_WAIT_MS)
            if not taken.by_partition:
                continue
            failpoint("submitter.taken")
            due = await self._sift(taken)
            if not await self._group.commit(taken.epoch, taken.next_offsets):
                self._memories.clear()
                self._metrics.dropped(WORKER, "not_committed", len(due))
                continue
            failpoint("submitter.committed")
            for item in due:
                self._slots.take()
                tasks.create_task(self._perform(item))

    async def _sift(self, taken: Taken) -> list[_Due]:
        """The commands of `taken` that were not seen before, in order; their ids are now remembered."""
        if taken.epoch != self._memories_epoch:
            # Other members may have owned these partitions meanwhile, so the remembered ids have gaps.
            self._memories.clear()
            self._memories_epoch = taken.epoch
        due: list[_Due] = []
        for partition, records in taken.by_partition.items():
            items = [item for record in records if (item := await self._parsed(record)) is not None]
            if items:
                memory = await self._memory(partition, records[0], min(item.command.at_ms for item in items))
                due += [item for item in items if self._is_new(item, memory)]
        return due

    async def _parsed(self, record: Record) -> _Due | None:
        try:
            command = decode(SUBMISSION, record.value)
            if (record.key or b"") != command.key.encode():
                raise PoisonError("wrong_key", "the record's key is not the job id")
        except PoisonError as error:
            self._metrics.dropped(WORKER, "dead_letter")
            await self._report([dead_letter(record, error, WORKER, self._now_ms())])
            return None
        return _Due(command, record.timestamp_ms)

    def _is_new(self, item: _Due, memory: CommandMemory) -> bool:
        command = item.command
        if command.id in memory:
            self._metrics.dropped(WORKER, "duplicate")
            log.info("command_dropped", reason="duplicate", command_id=command.id, job_id=command.job_id)
            return False
        if not memory.covers(command.at_ms):
            self._metrics.dropped(WORKER, "unremembered")
            log.warning("command_dropped", reason="unremembered", command_id=command.id, job_id=command.job_id)
            return False
        memory.remember(command.id, item.written_ms)
        return True

    async def _memory(self, partition: int, first: Record, oldest_at_ms: int) -> CommandMemory:
        """The remembered ids of a partition, read back as far as its oldest new command needs."""
        memory = self._memories.get(partition)
        if memory is None:
            memory = CommandMemory(self._limits.memory_ids_max, first.timestamp_ms)
            await self._read_back(memory, first, first.timestamp_ms - self._limits.memory_ms)
            self._memories[partition] = memory
        if not memory.covers(oldest_at_ms):
            await self._read_back(memory, first, oldest_at_ms - SKEW_MS)
        return memory

    async def _read_back(self, memory: CommandMemory, first: Record, since_ms: int) -> None:
        failpoint("submitter.tail.reading")
        back = await self._group.read_back(first.partition, first.offset, since_ms, self._limits.memory_ids_max)
        memory.add_older(_ids(back.records), back.complete_since_ms)

    async def _perform(self, item: _Due) -> None:
        try:
            self._metrics.in_flight.labels(WORKER).set(self._slots.taken)
            await self._report([await self._fact(item)])
            failpoint("submitter.reported")
        finally:
            self._slots.give_back()
            self._metrics.in_flight.labels(WORKER).set(self._slots.taken)

    async def _fact(self, item: _Due) -> Message:
        command = item.command
        if command.beside_grant and not await self._early.granted(command):
            self._metrics.attempt("held")
            return self._rejected(command, UNGRANTED)
        if (pause := self._pauses.holding(command)) is not None:
            return self._paused(command, pause)
        with self._memory_of_bodies.share(command.tenant, command.request) as granted, holding():
            if granted:
                return await self._fact_within(item)
        self._metrics.attempt("held")
        return self._rejected(
            command, Rejected("held", "memory_full", "large requests fill this worker's memory", MEMORY_WAIT_MS)
        )

    async def _fact_within(self, item: _Due) -> Message:
        command = item.command
        read = await self._requests.read(command)
        if isinstance(read, Rejected):
            return self._rejected(command, read)
        if self._now_ms() > command.not_after_ms:
            return self._expired(command)
        return await self._in_turn(item, read)

    async def _in_turn(self, item: _Due, read: LargeRequest) -> Message:
        """Send the create if its lane is open, or if it is the lane's probe."""
        command = item.command
        turn = await self._lanes.send(command.model, command.id, command.answer_within_ms)
        if isinstance(turn, Go) and command.model in self._unheard and not await self._provider.answers():
            return self._declined(command, SILENT)
        pause = self._pauses.holding(command)
        if pause is not None or self._now_ms() > command.not_after_ms:  # A probe may have waited for its turn.
            if isinstance(turn, Go) and turn.probe:
                self._lanes.failed(command.model, command.id, "odd", "not_sent")
            return self._expired(command) if pause is None else self._paused(command, pause)
        if isinstance(turn, Held):
            self._metrics.attempt("held")
            wait_ms = max(0, turn.until_ms - self._now_ms())
            why = turn.why
            return self._rejected(command, Rejected("held", why.code, why.message, wait_ms), held_for=why.cause)
        request = in_window(read.members, soonest=command.soonest is True, continuation_id=command.continuation_id)
        if command.instead is not None:
            request = asked_instead(request, command.instead)
        return await self._create(item, request, read.rest)

    def _paused(self, command: CreateResponse, pause: CreatesPaused) -> AttemptRejected:
        self._metrics.attempt("held")
        return self._rejected(command, Rejected("held", PAUSED_CODE, pause.words, HELD_MS))

    def _expired(self, command: CreateResponse) -> AttemptRejected:
        self._metrics.attempt("expired")
        return self._rejected(command, Rejected("unsent", "command_expired", "it waited too long to be sent"))

    async def _create(self, item: _Due, request: dict[str, Any], rest: bytes) -> Message:
        command = item.command
        sent_at_ms = self._now_ms()
        self._metrics.picked_up((sent_at_ms - item.written_ms) / 1_000)
        failpoint("submitter.posted")
        with within_trace(command.traceparent):
            answer = await self._provider.create(
                request, job_id=command.job_id, attempt=command.attempt, tenant=command.tenant,
                timeout_ms=command.answer_within_ms, rest=rest,
            )  # fmt: skip
        failpoint("submitter.answered")
        match answer:
            case Accepted():
                return await self._accepted(command, answer, sent_at_ms, _class_of(command, request))
            case Unknown():
                return self._unknown(command, answer)
            case Rejected():
                return self._declined(command, answer)
            case _:
                assert_never(answer)

    async def _accepted(
        self, command: CreateResponse, answer: Accepted, sent_at_ms: int, of: LatencyClass
    ) -> AttemptAccepted:
        self._metrics.attempt("accepted" if answer.end is None else "ended")
        self._unheard.discard(command.model)
        self._lanes.succeeded(command.model, command.id)
        at_ms = self._now_ms()
        end = await self._ended(command, answer.end) if answer.end is not None else None
        response_id = answer.response_id or f"{command.job_id}/{command.attempt}"
        control = self._polls.controls(command.job_id)
        first = self._polls.next_poll(
            response_id=response_id, latency_class=of, accepted_at_ms=at_ms, now_ms=at_ms, polls=0, control=control
        )
        return AttemptAccepted(
            id=f"{command.id}/accepted",
            at_ms=at_ms, job_id=command.job_id, attempt=command.attempt, tenant=command.tenant,
            response_id=response_id,
            status=answer.status,
            sent_at_ms=sent_at_ms,
            poll_at_ms=first.at_ms,
            poll_basis=first.basis,
            latency_class=of,
            control=True if control else None,
            provider_request_id=answer.provider_request_id,
            stream=True if answer.streamed else None,
            end=end,
            hedge_at_ms=self._hedge_at(response_id, command.model, at_ms) if command.hedge and end is None else None,
            limits=self._told(command, answer),
        )  # fmt: skip

    def _told(self, command: CreateResponse, answer: Accepted | Rejected) -> ToldLimits | None:
        return answer.limits if self._rules.apply(command.model, command.tenant) else None

    async def _ended(self, command: CreateResponse, seen: Seen) -> AttemptEnd | None:
        """The end that the answer contains; None if it can't be stored. Then a poll must find it at the provider."""
        try:
            body = await stored(self._bodies.of(command.tenant), seen)
        except (OSError, TypeError, ValueError, RecursionError) as error:
            self._metrics.alarm("blob_not_stored")
            log.error("blob_not_stored", job_id=command.job_id, attempt=command.attempt, error=type(error).__name__)
            return None
        end = ended_at_create(seen, body)
        if seen.said_by is not None:
            self._metrics.alarm("unusable_answer")
            log.error("answer_unusable", job_id=command.job_id, attempt=command.attempt, reason=seen.message)
        log.info("ended_in_create", job_id=command.job_id, attempt=command.attempt, status=end.status)
        if end.cause is not None:
            told = (end.code or "", end.message or "")
            self._lanes.ended(command.model, command.id, end.cause, *told, account_wide=seen.account_wide)
        return end

    def _unknown(self, command: CreateResponse, answer: Unknown) -> AttemptUnknown:
        self._metrics.attempt("unknown")
        if not answer.alarm and len(self._unheard) < LANES_MAX:
            self._unheard.add(command.model)
        reason = answer.reason[:REASON_CHARS_MAX]
        self._lanes.failed(command.model, command.id, "faulty", "unknown_outcome", told_ms=answer.wait_ms)
        if answer.alarm:
            self._metrics.alarm("unusable_answer")
            log.error(
                "answer_unusable", job_id=command.job_id, attempt=command.attempt, reason=reason, begins=answer.said
            )
        else:
            log.warning("attempt_unknown", job_id=command.job_id, attempt=command.attempt, reason=reason)
        return AttemptUnknown(
            id=f"{command.id}/unknown",
            at_ms=self._now_ms(),
            job_id=command.job_id,
            attempt=command.attempt,
            reason=reason,
            message=answer.said,
            answered=True if answer.answered else None,
            taken=True if answer.taken else None,
        )

    def _declined(self, command: CreateResponse, answer: Rejected) -> AttemptRejected:
        if answer.unknown_model and self._lanes.served(command.model):
            # A model that was served before is one that the account has lost, not one that a caller misspelt.
            answer = replace(answer, cause="account", alarm=True)
        if answer.cause != "unsent":
            self._unheard.discard(command.model)
        self._metrics.attempt(counted_as(answer.cause))
        self._lanes.failed(
            command.model, command.id, answer.cause, answer.code, answer.message, answer.wait_ms,
            account_wide=answer.account_wide,
        )  # fmt: skip
        if answer.limited:
            self._rate.object(answer.wait_ms)
        if answer.alarm:
            self._metrics.alarm(_alarm_of(answer))
            log.error("attempt_refused", job_id=command.job_id, code=answer.code, http_status=answer.http_status)
        return self._rejected(command, answer)

    def _rejected(self, command: CreateResponse, answer: Rejected, held_for: Cause | None = None) -> AttemptRejected:
        return AttemptRejected(
            id=f"{command.id}/rejected",
            at_ms=self._now_ms(),
            job_id=command.job_id,
            attempt=command.attempt,
            cause=answer.cause,
            code=answer.code,
            message=answer.message,
            http_status=answer.http_status,
            wait_ms=answer.wait_ms,
            held_for=held_for,
            limits=self._told(command, answer),
        )

    async def _report(self, messages: Sequence[Message]) -> None:
        await publish(self._publisher, messages, WORKER, partial(self._metrics.report_retried, WORKER))


def _alarm_of(answer: Rejected) -> Any:
    if answer.http_status in (401, 403):
        return "credentials"
    return "redirect" if answer.http_status is not None and answer.http_status < 400 else "quota"


def _ids(records: Iterable[Record]) -> list[tuple[str, int]]:
    """Id and time of writing of each command. Unreadable records became dead letters and are skipped."""
    ids: list[tuple[str, int]] = []
    for record in records:
        try:
            ids.append((decode(SUBMISSION, record.value).id, record.timestamp_ms))
        except PoisonError:
            continue
    return ids


def _class_of(command: CreateResponse, request: Mapping[str, Any]) -> LatencyClass:
    reasoning = request.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else None
    size_bytes = command.request.size_bytes if isinstance(command.request, BlobBody) else 0
    return latency_class(command.model, effort if isinstance(effort, str) else None, size_bytes)
