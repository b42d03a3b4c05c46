"""Retrieves and cancels, at least once: both may be repeated, so an offset is committed after its fact is acknowledged.

Finished commands stay finished through assignments, here and at the next owner (`workers.offsets`). A command that
waits longer than its report deadline is dropped, as its row asks again: so the backlog after a storm stays bounded.

Every call, repeats included, takes a turn of the global rate, and takes a slot only while it is in flight: a stalled
poll delays no other. The outcome of a poll is a fact for the response's log. Without a usable answer after the bounded
repeats the fact is `PollFailed`. Each fact has the time of the next poll.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import structlog

from backstop.runtime.kafka.acknowledged import publish
from backstop.runtime.kafka.dead_letters import dead_letter
from backstop.runtime.process.failpoints import failpoint
from backstop.runtime.records import Record
from schemas.base import DEFAULT_TENANT, Body, Message
from schemas.codec import PoisonError, decode
from schemas.commands import POLL_COMMAND, CancelResponse, RetrieveResponse
from streams.answer_memory import holding
from streams.policy.polls import MISSING_AGAIN_MS, NextPoll, overtaken
from streams.provider import AskAgain, Missing, NotCancelled, Refused, Seen
from streams.workers import facts
from streams.workers.access import stored
from streams.workers.command_worker import CommandWorker, WorkerParts
from streams.workers.commands import Commands, Taken
from streams.workers.lifetime import run_until
from streams.workers.limits import PollerLimits
from streams.workers.offsets import OffsetTracker
from streams.workers.poll_order import PollOrder
from streams.workers.poll_queue import Call, PollQueue
from streams.workers.run_times import Ends
from streams.workers.slots import Slots
from streams.workers.webhook_hints import Hints

log = structlog.get_logger()

WORKER = "poller"
TAKE_WAIT_MS = 250
COMMIT_INTERVAL_S = 0.5
COMMIT_LAST_S = 5.0
ROOM_POLL_S = 0.05
REPEAT_MS_MAX = 30_000
"""With a longer wait the poll counts as failed; the next scheduled poll comes after that wait."""

OFFSETS_HELD_MAX = 100_000
"""Offsets tracked at most. Beyond it no record is taken, until the first unfinished command is finished."""

SWEEP_INTERVAL_MS = 1_000
"""How often a full queue is searched for expired commands; otherwise they are found at their turn."""


class Poller(CommandWorker):
    """Performs the commands of `polls` in the partitions of its group member."""

    def __init__(self, group: Commands, parts: WorkerParts, limits: PollerLimits) -> None:
        super().__init__(group, parts)
        self._limits = limits
        self._ends = Ends()
        self._slots = Slots(limits.concurrency)
        self._queue = PollQueue()
        self._tracker = OffsetTracker()
        self._epoch = 0
        """The assignment that the tracker has."""
        self._swept_at_ms = 0
        self._hints = Hints()
        self._order = PollOrder(parts.polls)

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set; then finish calls in flight (`limits.drain_ms` at most), commit, leave the group.

        Any exception is raised: a bug must end the process.
        """
        try:
            await self._group.start(stop)
            await run_until(
                stop, self._take_all, self._drained, self._limits.drain_ms / 1_000, self._call_all, self._commit_all
            )
            with contextlib.suppress(TimeoutError):  # The broker is away: commands without a commit come again.
                async with asyncio.timeout(COMMIT_LAST_S):
                    await self._commit()
        finally:
            await self._group.stop()

    async def _take_all(self, stop: asyncio.Event, _tasks: asyncio.TaskGroup) -> None:
        while not stop.is_set():
            if self._group.epoch != self._epoch:
                await self._reassigned()
            room = min(self._limits.queue_max - self._tracker.unfinished, OFFSETS_HELD_MAX - len(self._tracker))
            if room <= 0:
                self._sweep()
                await asyncio.sleep(ROOM_POLL_S)
                continue
            taken = await self._group.take(room, TAKE_WAIT_MS)
            if taken.by_partition:
                await self._queue_up(taken)

    async def _reassigned(self) -> None:
        """Keep the work of partitions that are still owned; drop waiting calls of the others."""
        assignment = await self._group.assignment()
        self._epoch = assignment.epoch
        self._tracker.assign(assignment.places)
        moved = self._queue.drop(lambda call: call.partition in assignment.places)
        self._metrics.dropped(WORKER, "moved", len(moved))

    async def _queue_up(self, taken: Taken) -> None:
        failpoint("poller.taken")
        if taken.epoch != self._epoch:
            await self._reassigned()
        if taken.epoch != self._epoch:
            return  # Assigned again meanwhile: the records come again, to this member or another.
        for partition, records in taken.by_partition.items():
            for record in records:
                begun = self._tracker.begin(partition, record.offset, record.timestamp_ms)
                if begun == "known":
                    self._metrics.dropped(WORKER, "known")
                    continue
                if begun == "again":
                    self._metrics.taken_again.inc()
                command = await self._parsed(record)
                if command is None:
                    self._tracker.finish(partition, record.offset)
                else:
                    self._enqueue(Call(command, partition, [record.offset]))
        self._metrics.polls_waiting.set(len(self._queue))

    def _enqueue(self, call: Call) -> None:
        """Queue a call, unless it expired. A waiting call of the same response then answers and finishes both."""
        if self._expired(call):
            self._finish(call)
        elif not self._queue.push(call):
            self._metrics.dropped(WORKER, "merged")

    def _finish(self, call: Call) -> None:
        for offset in call.offsets:
            self._tracker.finish(call.partition, offset)

    async def _parsed(self, record: Record) -> RetrieveResponse | CancelResponse | None:
        try:
            command = decode(POLL_COMMAND, record.value)
            if (record.key or b"") != command.key.encode():
                raise PoisonError("wrong_key", "the record's key is not the response id")
        except PoisonError as error:
            self._metrics.dropped(WORKER, "dead_letter")
            await self._report([dead_letter(record, error, WORKER, self._now_ms())])
            return None
        return command

    async def _call_all(self, stop: asyncio.Event, tasks: asyncio.TaskGroup) -> None:
        """Begin calls one by one: wait for a slot, then for a turn of the rate, and only then choose the call."""
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
        self._order.apply(self._queue, self._now_ms())
        while (call := self._queue.pop()) is not None:
            self._metrics.polls_waiting.set(len(self._queue))
            if call.partition not in self._group.partitions:
                self._metrics.dropped(WORKER, "moved")
            elif all(self._tracker.is_finished(call.partition, offset) for offset in call.offsets):
                self._metrics.dropped(WORKER, "known")
            elif self._expired(call):
                self._finish(call)
            else:
                return call
        return None

    def _expired(self, call: Call) -> bool:
        """Whether the timer of the row has asked again since.

        An unclaimed row asks only five times, so a poll for adoption never expires.
        """
        if isinstance(call.command, RetrieveResponse) and call.command.reason == "adoption":
            return False
        late = overtaken(self._polls.policy, asked_at_ms=call.asked_at_ms, now_ms=self._now_ms())
        if late:
            self._metrics.dropped(WORKER, "overtaken")
        return late

    def _sweep(self) -> None:
        """Drop expired commands of a full queue: while the provider asks for silence, no turn would find them."""
        if self._now_ms() - self._swept_at_ms < SWEEP_INTERVAL_MS:
            return
        self._swept_at_ms = self._now_ms()
        for call in self._queue.drop(lambda call: not self._expired(call)):
            self._finish(call)

    async def _perform(self, call: Call) -> None:
        self._metrics.in_flight.labels(WORKER).set(self._slots.taken)
        try:
            with holding():  # The answer is kept in memory until it is stored.
                fact = await self._fact(call)
            failpoint("poller.answered")
            if fact is None:
                return
            await self._report([fact])
            failpoint("poller.reported")
            self._finish(call)
        finally:
            self._slots.give_back()
            self._metrics.in_flight.labels(WORKER).set(self._slots.taken)

    async def _fact(self, call: Call) -> Message | None:
        """The fact about the call's outcome; None if the call is queued again."""
        response_id = call.command.response_id
        call.tries += 1
        answer: Seen | Missing | AskAgain | Refused | NotCancelled
        job_id = call.command.job_id
        if isinstance(call.command, CancelResponse) and not call.polls_instead:
            answer = await self._provider.cancel(response_id, job_id)
        else:
            include = (call.command.include or ()) if isinstance(call.command, RetrieveResponse) else ()
            answer = await self._provider.poll(response_id, job_id, include)
        if not (isinstance(answer, AskAgain) and answer.limited):
            self._rate.answered()
        match answer:
            case Seen():
                return await self._seen(call, answer)
            case Missing():
                return self._missing(call, answer)
            case AskAgain():
                return self._ask_again(call, answer)
            case NotCancelled():
                self._metrics.poll("not_cancelled")
                call.polls_instead, call.tries = True, 0
                self._enqueue(call)
                return None
            case Refused():
                self._metrics.poll("refused")
                self._metrics.alarm("credentials")
                log.error("poll_refused", response_id=response_id, code=answer.code)
                return self._failed(call, f"refused: {answer.code}", 0)

    def _missing(self, call: Call, answer: Missing) -> Message | None:
        if answer.code is not None and call.tries < self._limits.tries_max:
            return self._ask_again(call, AskAgain(answer.code))
        self._metrics.poll("missing" if answer.code is None else "refused")
        if answer.code is not None:
            log.warning("poll_refused", response_id=call.command.response_id, code=answer.code)
        at_ms, following = self._next_poll(call, 0)
        following = replace(following, at_ms=min(following.at_ms, at_ms + MISSING_AGAIN_MS))
        others = facts.ALONE if answer.code is None else self._ends.others("")
        return facts.missing(call.command, answer, at_ms=at_ms, following=following, others=others)

    async def _seen(self, call: Call, seen: Seen) -> Message | None:
        body: Body | None = None
        if seen.outcome != "running":
            try:
                body = await stored(
                    self._bodies.of(seen.owner.tenant if seen.owner is not None else DEFAULT_TENANT), seen
                )
            except (TypeError, ValueError, RecursionError) as error:
                # Only nesting beyond the JSON writer's limit (254 levels) fails; no model's answer has it.
                return self._failed(call, f"unstorable_object: {type(error).__name__}", 0)
            except OSError as error:
                # The blob store failed: the response is still at the provider, and is retrieved again.
                self._metrics.alarm("blob_not_stored")
                log.error("blob_not_stored", response_id=call.command.response_id, errno=error.errno)
                return self._ask_again(call, AskAgain("blob_not_stored"))
        if seen.over:
            self._hints.ended(call.command.response_id)
        if not seen.code_known:
            self._metrics.alarm("unknown_code")
        if seen.outcome == "odd":
            self._metrics.alarm("unknown_status")
            log.warning("unknown_status", response_id=call.command.response_id, status=seen.raw_status)
        self._metrics.poll("ended" if seen.over else "running")
        at_ms, following = self._next_poll(call, seen.poll_after_ms)
        others = self._compare(call, seen, at_ms)
        return facts.observed(call.command, seen, body, at_ms=at_ms, following=following, others=others)

    def _compare(self, call: Call, seen: Seen, now_ms: int) -> facts.Others:
        """What other responses did; and of this one, where it has ended, remember what it took and how it was found."""
        model = seen.model
        others = self._ends.others(model) if seen.outcome == "running" else facts.ALONE
        if seen.over:
            began_ms, ended_ms = seen.created_at_ms, seen.ended_at_ms
            run_ms = max(0, ended_ms - began_ms) if began_ms is not None and ended_ms is not None else None
            self._ends.ended(model, run_ms, now_ms)
            command = call.command
            if isinstance(command, RetrieveResponse) and command.reason == "timer" and not command.control:
                self._polls.ended_without()
            if seen.cause is not None:
                told = (seen.code or "", seen.message or "")
                self._lanes.ended(model, command.response_id, seen.cause, *told, account_wide=seen.account_wide)
        return others

    def _ask_again(self, call: Call, answer: AskAgain) -> Message | None:
        if answer.limited:
            self._rate.object(answer.wait_ms)
        wait_ms = max(answer.wait_ms, self._limits.repeat_ms << (call.tries - 1))
        if call.tries >= self._limits.tries_max or wait_ms > REPEAT_MS_MAX:
            return self._failed(call, answer.reason, answer.wait_ms)
        self._metrics.poll("asked_again")
        # The call waits without a slot. If the worker stops meanwhile, the command is not committed and comes again.
        asyncio.get_running_loop().call_later(wait_ms / 1_000, self._enqueue, call)
        return None

    def _failed(self, call: Call, reason: str, wait_ms: int) -> Message:
        self._metrics.poll("failed")
        log.warning("poll_failed", response_id=call.command.response_id, reason=reason, tries=call.tries)
        at_ms, following = self._next_poll(call, wait_ms)
        return facts.failed(call.command, reason, at_ms=at_ms, following=following)

    def _next_poll(self, call: Call, wait_ms: int) -> tuple[int, NextPoll]:
        """Now, and the time of the next poll if the response runs on: by the policy, at least `wait_ms` from now."""
        command = call.command
        at_ms = self._now_ms()
        webhook = isinstance(command, RetrieveResponse) and command.reason == "webhook"
        timed = command if isinstance(command, RetrieveResponse) else None
        following = self._polls.next_poll(
            response_id=command.response_id,
            latency_class=(timed.latency_class or ()) if timed else (),
            accepted_at_ms=timed.accepted_at_ms if timed else None,
            now_ms=at_ms,
            polls=timed.polls if timed else 0,
            since_hint=self._hints.in_vain(command.response_id, webhook=webhook),
            control=timed is not None and timed.control is True,
        )
        self._order.polled(command.response_id, at_ms)
        return at_ms, replace(following, at_ms=max(following.at_ms, at_ms + wait_ms))

    async def _report(self, messages: Sequence[Message]) -> None:
        await publish(self._publisher, messages, WORKER, partial(self._metrics.report_retried, WORKER))

    async def _drained(self) -> None:
        await self._slots.all_free()

    async def _commit_all(self, _stop: asyncio.Event, _tasks: asyncio.TaskGroup) -> None:
        while True:
            await asyncio.sleep(COMMIT_INTERVAL_S)
            await self._commit()

    async def _commit(self) -> None:
        oldest_ms = self._tracker.oldest_ms()
        self._metrics.polls_uncommitted.set(len(self._tracker))
        self._metrics.poll_lag_seconds.set(0.0 if oldest_ms is None else max(0, self._now_ms() - oldest_ms) / 1_000)
        progress = self._tracker.progress()
        if progress:
            # A refused commit is made again after the assignment that refused it.
            await self._group.commit(
                self._epoch,
                {partition: at.offset for partition, at in progress.items() if at.offset is not None},
                {partition: at.note for partition, at in progress.items()},
            )
