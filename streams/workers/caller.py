"""Retrieves and cancels, at least once: both may be repeated, so an offset is committed when its fact is acknowledged.

Every call goes through the global rate, its repeats included, and holds a slot only while it is on the wire: a stalled look
delays nobody but itself. What a look saw is a fact for the response's log; where nothing usable came, the bounded repeats
included, that is a fact too (`LookFailed`), with the time at which to look again.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial

import structlog

from runtime.acknowledged import publish
from runtime.blobs import BlobStore, put_body
from runtime.clock import NowMs
from runtime.dead_letters import dead_letter
from runtime.failpoints import failpoint
from runtime.publisher import Publisher
from runtime.records import Record
from schemas.base import Body, Message
from schemas.codec import PoisonError, decode
from schemas.commands import LOOKUP, CancelResponse, RetrieveResponse
from streams.policy.answers import AskAgain, Missing, NotCancelled, Refused, read_cancel, read_look
from streams.policy.looks import LookPolicy, next_look_at_ms, overtaken
from streams.policy.observations import Seen
from streams.workers import facts
from streams.workers.commands import Commands, Taken
from streams.workers.hints import Hints
from streams.workers.lifetime import run_until
from streams.workers.lookqueue import Call, LookQueue
from streams.workers.metrics import WorkerMetrics
from streams.workers.offsets import OffsetTracker
from streams.workers.openai_client import OpenAIClient
from streams.workers.rate import LookRate
from streams.workers.slots import Slots

log = structlog.get_logger()

WORKER = "caller"
TAKE_WAIT_MS = 250
COMMIT_INTERVAL_S = 0.5
COMMIT_LAST_S = 5.0
ROOM_POLL_S = 0.05
REPEAT_MS = 500
"""Before the second try; twice that before the third, and so on."""

REPEAT_MS_MAX = 30_000
"""A longer wait is the schedule's business: the look counts as failed, and the next one comes after the wait."""

OFFSETS_HELD_MAX = 100_000
"""Finished behind one that is not: no more is taken then, as that one must have its turn first."""

UNREPEATABLE = frozenset({"unknown_status"})
"""What another call a second later would bring again."""


class Caller:
    """Performs the commands of `lookups` that its group member is given."""

    def __init__(
        self,
        *,
        group: Commands,
        client: OpenAIClient,
        publisher: Publisher,
        blobs: BlobStore,
        now_ms: NowMs,
        metrics: WorkerMetrics,
        looks: LookPolicy,
        rate: LookRate,
        inline_bytes_max: int,
        concurrency: int = 64,
        tries_max: int = 3,
        queue_max: int = 20_000,
        repeat_ms: int = REPEAT_MS,
        drain_ms: int = 45_000,
    ) -> None:
        self._group = group
        self._client = client
        self._publisher = publisher
        self._blobs = blobs
        self._now_ms = now_ms
        self._metrics = metrics
        self._looks = looks
        self._rate = rate
        self._inline_bytes_max = inline_bytes_max
        self._slots = Slots(concurrency)
        self._tries_max = tries_max
        self._queue_max = queue_max
        self._repeat_ms = repeat_ms
        self._drain_s = drain_ms / 1_000
        self._queue = LookQueue()
        self._tracker = OffsetTracker()
        self._tracker_epoch = -1
        self._hints = Hints()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; then what is in flight is finished (for `drain_ms` at most), committed, and the group left.

        Raises what should not happen: a bug must end the process, and be seen.
        """
        try:
            await self._group.start(stop)
            await run_until(stop, self._take_all, self._drained, self._drain_s, self._call_all, self._commit_all)
            with contextlib.suppress(TimeoutError):  # The broker is away: what is not committed comes again.
                async with asyncio.timeout(COMMIT_LAST_S):
                    await self._commit()
        finally:
            await self._group.stop()

    async def _take_all(self, stop: asyncio.Event, _tasks: asyncio.TaskGroup) -> None:
        while not stop.is_set():
            self._drop_moved()
            room = min(self._queue_max - self._tracker.unfinished, OFFSETS_HELD_MAX - len(self._tracker))
            if room <= 0:
                await asyncio.sleep(ROOM_POLL_S)
                continue
            taken = await self._group.take(room, TAKE_WAIT_MS)
            if taken.by_partition:
                await self._queue_up(taken)

    async def _queue_up(self, taken: Taken) -> None:
        failpoint("caller.taken")
        self._drop_moved()
        for partition, records in taken.by_partition.items():
            for record in records:
                self._tracker.begin(partition, record.offset)
                command = await self._parsed(record)
                if command is None or self._overtaken(command):
                    self._tracker.finish(partition, record.offset)
                else:
                    self._enqueue(Call(command, record, taken.epoch))
        self._metrics.looks_waiting.set(len(self._queue))

    def _enqueue(self, call: Call) -> None:
        """Where another call of the response waits, that one does for both: it is not committed, so nothing is lost with this one."""
        if not self._queue.push(call):
            self._metrics.dropped(WORKER, "merged")
            self._finish(call)

    def _finish(self, call: Call) -> None:
        if call.epoch == self._tracker_epoch:
            self._tracker.finish(call.record.partition, call.record.offset)

    async def _parsed(self, record: Record) -> RetrieveResponse | CancelResponse | None:
        try:
            command = decode(LOOKUP, record.value)
            if (record.key or b"") != command.key.encode():
                raise PoisonError("wrong_key", "the record's key is not the response id")
        except PoisonError as error:
            self._metrics.dropped(WORKER, "dead_letter")
            await self._report([dead_letter(record, error, WORKER, self._now_ms())])
            return None
        return command

    async def _call_all(self, stop: asyncio.Event, tasks: asyncio.TaskGroup) -> None:
        """Begin one call after the other: a slot first, then a turn under the rate, and only then the choice of the call."""
        while not stop.is_set():
            await self._queue.some()
            if not await self._slots.some_free(TAKE_WAIT_MS):
                continue
            await self._rate.turn()
            call = self._next_call()
            if call is not None and not stop.is_set():
                self._slots.take()
                tasks.create_task(self._perform(call))

    def _next_call(self) -> Call | None:
        while (call := self._queue.pop()) is not None:
            self._metrics.looks_waiting.set(len(self._queue))
            if call.epoch != self._group.epoch:
                self._metrics.dropped(WORKER, "moved")
            elif self._overtaken(call.command):
                self._finish(call)
            else:
                return call
        return None

    def _overtaken(self, command: RetrieveResponse | CancelResponse) -> bool:
        """What a webhook, a claim or an adoption asked for is made however late; nobody asks for it again."""
        if not isinstance(command, RetrieveResponse) or command.reason != "timer":
            return False
        late = overtaken(self._looks, asked_at_ms=command.at_ms, now_ms=self._now_ms())
        if late:
            self._metrics.dropped(WORKER, "overtaken")
        return late

    def _drop_moved(self) -> None:
        """After an assignment everything that is not committed comes again, to us or to another: forget what waits."""
        if self._group.epoch != self._tracker_epoch:
            self._tracker.clear()
            self._tracker_epoch = self._group.epoch
            self._metrics.dropped(WORKER, "moved", self._queue.clear())

    async def _perform(self, call: Call) -> None:
        self._metrics.in_flight.labels(WORKER).set(self._slots.taken)
        try:
            fact = await self._fact(call)
            failpoint("caller.answered")
            if fact is None:
                return
            await self._report([fact])
            failpoint("caller.reported")
            self._finish(call)
        finally:
            self._slots.give_back()
            self._metrics.in_flight.labels(WORKER).set(self._slots.taken)

    async def _fact(self, call: Call) -> Message | None:
        """What the call brought; None where it will be tried again."""
        response_id = call.command.response_id
        call.tries += 1
        answer: Seen | Missing | AskAgain | Refused | NotCancelled
        if isinstance(call.command, CancelResponse) and not call.looks_instead:
            answer = read_cancel(await self._client.cancel(response_id), response_id, self._now_ms())
        else:
            answer = read_look(await self._client.retrieve(response_id), response_id, self._now_ms())
        match answer:
            case Seen():
                return await self._seen(call, answer)
            case Missing():
                self._metrics.look("missing")
                at_ms, next_ms = self._next_look(call, 0)
                return facts.missing(call.command, at_ms=at_ms, next_look_at_ms=next_ms)
            case AskAgain():
                return self._ask_again(call, answer)
            case NotCancelled():
                self._metrics.look("not_cancelled")
                call.looks_instead, call.tries = True, 0
                self._enqueue(call)
                return None
            case Refused():
                self._metrics.look("refused")
                self._metrics.alarm("credentials")
                log.error("look_refused", response_id=response_id, code=answer.code)
                return self._failed(call, f"refused: {answer.code}", 0)

    async def _seen(self, call: Call, seen: Seen) -> Message | None:
        body: Body | None = None
        if seen.outcome != "running":
            try:
                body = await put_body(self._blobs, seen.body, self._inline_bytes_max)
            except (TypeError, ValueError, RecursionError) as error:
                # Only nesting beyond what our JSON writes (254 levels) comes here; no model's answer has it.
                return self._failed(call, f"unstorable_object: {type(error).__name__}", 0)
            except OSError as error:
                # The disk's trouble, not this response's: it stays at the provider, and is asked for again.
                self._metrics.alarm("blob_not_stored")
                log.error("blob_not_stored", response_id=call.command.response_id, errno=error.errno)
                return self._ask_again(call, AskAgain("blob_not_stored"))
            self._hints.ended(call.command.response_id)
        if not seen.code_known:
            self._metrics.alarm("unknown_code")
        self._metrics.look("running" if seen.outcome == "running" else "ended")
        at_ms, next_ms = self._next_look(call, seen.poll_after_ms)
        return facts.observed(call.command, seen, body, at_ms=at_ms, next_look_at_ms=next_ms)

    def _ask_again(self, call: Call, answer: AskAgain) -> Message | None:
        if answer.limited:
            self._rate.object(answer.wait_ms)
        if answer.reason == "unknown_status":
            self._metrics.alarm("unknown_status")
        wait_ms = max(answer.wait_ms, self._repeat_ms << (call.tries - 1))
        if call.tries >= self._tries_max or wait_ms > REPEAT_MS_MAX or answer.reason in UNREPEATABLE:
            return self._failed(call, answer.reason, answer.wait_ms)
        self._metrics.look("asked_again")
        # It waits outside its slot. A worker that stops meanwhile has not committed it: it comes again.
        asyncio.get_running_loop().call_later(wait_ms / 1_000, self._enqueue, call)
        return None

    def _failed(self, call: Call, reason: str, wait_ms: int) -> Message:
        self._metrics.look("failed")
        log.warning("look_failed", response_id=call.command.response_id, reason=reason, tries=call.tries)
        at_ms, next_ms = self._next_look(call, wait_ms)
        return facts.failed(call.command, reason, at_ms=at_ms, next_look_at_ms=next_ms)

    def _next_look(self, call: Call, wait_ms: int) -> tuple[int, int]:
        """Now, and when to look again if this was not the end: by the policy, and not before `wait_ms` have passed."""
        command = call.command
        at_ms = self._now_ms()
        webhook = isinstance(command, RetrieveResponse) and command.reason == "webhook"
        due_ms = next_look_at_ms(
            self._looks,
            response_id=command.response_id,
            accepted_at_ms=command.accepted_at_ms if isinstance(command, RetrieveResponse) else None,
            now_ms=at_ms,
            looks=command.looks if isinstance(command, RetrieveResponse) else 0,
            since_hint=self._hints.in_vain(command.response_id, webhook=webhook),
        )
        return at_ms, max(due_ms, at_ms + wait_ms)

    async def _report(self, messages: Sequence[Message]) -> None:
        await publish(self._publisher, messages, WORKER, partial(self._metrics.report_retried, WORKER))

    async def _drained(self) -> None:
        await self._slots.all_free()

    async def _commit_all(self, _stop: asyncio.Event, _tasks: asyncio.TaskGroup) -> None:
        while True:
            await asyncio.sleep(COMMIT_INTERVAL_S)
            await self._commit()

    async def _commit(self) -> None:
        done = self._tracker.committable()
        if done and await self._group.commit(self._tracker_epoch, done):
            self._tracker.committed(done)
