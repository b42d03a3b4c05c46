"""The shell: turns the records that the group reads into facts and state, from which the attempts take their turns.

Results: each becomes one `DeliveryPlanned` per subscribed endpoint; these are acknowledged before the results are
committed. Deliveries: folded; once a partition is read to its end, its pending deliveries get turns, and the group's
commit of it is a checkpoint (`backstop.outgoing.log`).

Attempts are not fenced: two members that own a partition for a moment send a webhook twice, under one id.
"""

import asyncio
from collections.abc import Iterable, Mapping

from aiokafka.errors import KafkaError

from backstop.outgoing.attempts import DeliveryAttempts
from backstop.outgoing.deliveries import event_of, planned
from backstop.outgoing.endpoints import Endpoints
from backstop.outgoing.fold import Pending
from backstop.outgoing.log import PartitionLog
from backstop.outgoing.metrics import OutgoingMetrics
from backstop.outgoing.resends import PastResults, asked_of
from backstop.outgoing.turns import DeliveryTurns
from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.acknowledged import publish, until_acknowledged
from backstop.runtime.kafka.consumer_group import ConsumerGroup
from backstop.runtime.kafka.dead_letters import dead_letter
from backstop.runtime.kafka.lifetimes import broker_errors
from backstop.runtime.kafka.reporting import Reporting
from backstop.runtime.process.clock import monotonic_s
from backstop.runtime.process.failpoints import failpoint
from backstop.runtime.process.logs import get_logger
from backstop.runtime.process.pausing import pause
from backstop.runtime.records import Partition, Record
from schemas.base import Message
from schemas.codec import PoisonError, decode
from schemas.deliveries import DELIVERY_RECORD, DeliveryMessage, ResendAsked, ResendDone
from schemas.results import RESULT

log = get_logger("backstop.outgoing.service")

RESULTS = "results"
DELIVERIES = "deliveries"
POLL_RECORDS = 500
POLL_WAIT_MS = 200
CHECKPOINT_EVERY_S = 2.0
FOLLOW_EVERY_S = 1.0
RETRY_WAIT_S = 0.5


class Service:
    """A member of the group, with the state of its partitions.
    `attempts` is passed to `run`, because it needs `find`.
    """

    def __init__(
        self, *, group: ConsumerGroup, turns: DeliveryTurns, endpoints: Endpoints, results: PastResults,
        reporting: Reporting[OutgoingMetrics], resend_max: int,
    ) -> None:  # fmt: skip
        self._group = group
        self._turns = turns
        self._endpoints = endpoints
        self._results = results
        self._publisher = reporting.publisher
        self._resend_max = resend_max
        self._now_ms = reporting.now_ms
        self._metrics = reporting.metrics
        self._logs: dict[int, PartitionLog] = {}
        self._behind: dict[int, int] = {}
        """Partitions not yet read to the end that they had when assigned, with that end."""
        self._epoch = 0
        self._assigned = False
        self._checkpoint_s = 0.0
        self._uncommitted: dict[Partition, int] = {}

    def find(self, delivery_id: str) -> Pending | None:
        """An open delivery of an assigned partition, or None."""
        for partition in self._logs.values():
            found = partition.open.get(delivery_id)
            if found is not None:
                return found[0]
        return None

    def not_ready(self) -> str | None:
        """Why nothing is sent yet, or None."""
        if not self._assigned:
            return "the group has not assigned its partitions yet"
        return f"{len(self._behind)} partitions are still being read" if self._behind else None

    async def run(self, attempts: DeliveryAttempts, stop: asyncio.Event) -> None:
        """Read and fold until `stop`; waits while the broker is away."""
        while not stop.is_set():
            try:
                with broker_errors("poll"):
                    if self._assigned and not self._group.owns:
                        self._forget()
                    taken = await self._group.take(POLL_RECORDS, POLL_WAIT_MS)
                    if self._group.owns and not (self._assigned and taken.epoch == self._epoch):
                        # A new assignment. Records of it that were taken come again, from the commit on.
                        await self._adopt()
                        continue
                await self._take(taken.by_partition)
                await self._open_what_was_read()
                await self._commit()
            except BrokerUnavailableError as error:
                log.warning("broker_unavailable", reason=str(error))
                await pause(stop, RETRY_WAIT_S)
            attempts.changed.set()
        await self._commit(at_once=True)

    async def follow_endpoints(self, stop: asyncio.Event) -> None:
        """Learn of registered, changed, disabled and removed endpoints within `FOLLOW_EVERY_S`."""
        while not stop.is_set():
            try:
                await self._endpoints.catch_up()
            except BrokerUnavailableError as error:
                log.warning("endpoints_not_read", reason=str(error))
            found = self._endpoints.book.registered()
            self._metrics.endpoints.labels("enabled").set(sum(one.enabled for one in found))
            self._metrics.endpoints.labels("disabled").set(sum(not one.enabled for one in found))
            await pause(stop, FOLLOW_EVERY_S)

    async def resend(self, stop: asyncio.Event) -> None:
        """Perform the open `ResendAsked`, one after the other."""
        while not stop.is_set():
            ask = next((ask for ask, _ in self._open_resends()), None)
            if ask is None:
                await pause(stop, FOLLOW_EVERY_S)
                continue
            try:
                done = await self._resend(ask)
                await publish(self._publisher, [done], "outgoing")
                await self._until_read_back(ask, stop)
            except BrokerUnavailableError as error:
                log.warning("resend_interrupted", resend_id=ask.id, reason=str(error))
                await pause(stop, RETRY_WAIT_S)

    def _forget(self) -> None:
        """The assignment is lost: nothing of it is sent any more."""
        for partition in self._logs.values():
            for delivery_id in partition.open:
                self._turns.drop(delivery_id)
        self._logs, self._behind, self._uncommitted, self._assigned = {}, {}, {}, False
        self._count_open()

    async def _adopt(self) -> None:
        """Read each partition of the assignment from its commit; act on deliveries when they are read to their end."""
        self._forget()
        assignment = await self._group.assignment()
        firsts = await self._group.first_offsets([one for one, at in assignment.places.items() if at is None])
        self._group.seek(firsts | {one: at.offset for one, at in assignment.places.items() if at is not None})
        ends = await self._group.end_offsets([one for one in assignment.places if one[0] == DELIVERIES])
        self._behind = {number: end for (_, number), end in ends.items()}
        self._logs = {number: PartitionLog() for number in self._behind}
        self._epoch, self._assigned = assignment.epoch, True

    async def _take(self, polled: Mapping[Partition, list[Record]]) -> None:
        poisons: list[Message] = []
        for (topic, number), records in polled.items():
            if topic == DELIVERIES and number in self._logs:
                poisons += self._fold(number, records)
        results = [record for (topic, _), records in polled.items() if topic == RESULTS for record in records]
        if results:
            planned_now, unreadable = await self._plan(results)
            poisons += unreadable
            if planned_now:
                await publish(self._publisher, planned_now, "outgoing")
                self._metrics.planned.inc(len(planned_now))
            failpoint("outgoing.planned")
        if poisons:
            await publish(self._publisher, poisons, "outgoing")
        for partition, records in polled.items():
            if partition[0] == RESULTS:
                self._uncommitted[partition] = records[-1].offset + 1

    def _fold(self, number: int, records: Iterable[Record]) -> list[Message]:
        partition, live, poisons = self._logs[number], number not in self._behind, list[Message]()
        for record in records:
            try:
                fact = decode(DELIVERY_RECORD, record.value)
            except PoisonError as error:
                poisons.append(self._dead_letter(record, error))
                continue
            if not isinstance(fact, DeliveryMessage):
                partition.take_resend(fact, record.offset)
                continue
            ignored = partition.take(fact, record.offset)
            if ignored is not None:
                self._metrics.ignored.labels(ignored).inc()
            elif live:
                self._turn(fact.delivery_id, partition)
        self._count_open()
        return poisons

    def _count_open(self) -> None:
        self._metrics.open.set(sum(len(one.open) for one in self._logs.values()))

    def _turn(self, delivery_id: str, partition: PartitionLog) -> None:
        found = partition.open.get(delivery_id)
        if found is None:
            self._turns.drop(delivery_id)
        else:
            delivery = found[0].delivery
            self._turns.put(delivery_id, delivery.endpoint_id, found[0].due_ms, delivery.tenant)

    async def _plan(self, records: Iterable[Record]) -> tuple[list[Message], list[Message]]:
        """The deliveries of these results, and the dead letters of the unreadable records."""
        # Learns every endpoint registered before these results. Waits without end: these records can't be polled again.
        await until_acknowledged(self._endpoints.catch_up, "outgoing")
        facts: list[Message] = []
        poisons: list[Message] = []
        if not self._endpoints.book.any_live:
            return facts, poisons
        for record in records:
            if record.value is None:
                continue  # a tombstone: the result was erased
            try:
                result = decode(RESULT, record.value)
            except PoisonError as error:
                poisons.append(self._dead_letter(record, error))
                continue
            wanting = self._endpoints.book.wanting(result.tenant, event_of(result.outcome), result.at_ms)
            facts += [planned(result, endpoint.id, result.at_ms) for endpoint in wanting]
        return facts, poisons

    async def _open_what_was_read(self) -> None:
        if not self._behind:
            return
        for number, position in (await self._positions(self._behind)).items():
            if position >= self._behind[number]:
                del self._behind[number]
                for delivery_id in self._logs[number].open:
                    self._turn(delivery_id, self._logs[number])

    async def _commit(self, *, at_once: bool = False) -> None:
        now_s = monotonic_s()
        offsets = dict(self._uncommitted)
        if at_once or now_s - self._checkpoint_s >= CHECKPOINT_EVERY_S:
            self._checkpoint_s = now_s
            live = [number for number in self._logs if number not in self._behind]
            for number, position in (await self._positions(live)).items():
                offsets[DELIVERIES, number] = self._logs[number].checkpoint(position)
        if offsets and await self._commit_offsets(offsets):
            self._uncommitted = {}

    async def _commit_offsets(self, offsets: Mapping[Partition, int]) -> bool:
        """False: not committed, as a partition moved or the broker is away. Harmless: the records are read again."""
        try:
            return await self._group.commit(self._epoch, offsets)
        except (KafkaError, ValueError) as error:
            log.warning("commit_refused", error=repr(error))
            return False

    async def _positions(self, numbers: Iterable[int]) -> dict[int, int]:
        """The next offsets to read in these partitions of `deliveries`."""
        with broker_errors("positions"):
            found = await self._group.positions([(DELIVERIES, number) for number in numbers])
        return {number: position for (_, number), position in found.items()}

    def _open_resends(self) -> list[tuple[ResendAsked, int]]:
        return [
            found
            for number, partition in self._logs.items()
            if number not in self._behind
            for found in partition.resends.values()
        ]

    async def _resend(self, ask: ResendAsked) -> ResendDone:
        await self._endpoints.catch_up()
        endpoint = self._endpoints.book.find(ask.endpoint_id, ask.tenant)
        count, complete = 0, True
        if endpoint is not None:
            async for results in self._results.between(ask.since_ms, ask.until_ms):
                facts = asked_of(results, ask, endpoint)
                room = self._resend_max - count
                if facts:
                    await publish(self._publisher, facts[:room], "outgoing")
                    count += len(facts[:room])
                if len(facts) > room:
                    complete = False
                    break
        self._metrics.resent.inc(count)
        log.info("resent", resend_id=ask.id, endpoint_id=ask.endpoint_id, count=count, complete=complete)
        return ResendDone(id=f"{ask.id}/done", at_ms=self._now_ms(), resend_id=ask.id, count=count, complete=complete)

    async def _until_read_back(self, ask: ResendAsked, stop: asyncio.Event) -> None:
        while not stop.is_set() and any(found.id == ask.id for found, _ in self._open_resends()):
            await pause(stop, 0.1)

    def _dead_letter(self, record: Record, error: PoisonError) -> Message:
        log.warning(
            "record_dead_letter", topic=record.topic, partition=record.partition, offset=record.offset,
            reason=error.reason, detail=error.detail,
        )  # fmt: skip
        self._metrics.dead_letters.labels(record.topic.rpartition(".")[2]).inc()
        return dead_letter(record, error, "outgoing", self._now_ms())
