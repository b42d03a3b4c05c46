"""Ends a worker that is alive but stalled, so that its supervisor restarts it.

Faust's consumers are known to stop taking records while every thread lives and heartbeats are sent: the group sees a
healthy member whose partitions make no progress. So the watchdog has its own thread and connection. It ends the process
when a partition has records and its position has not moved for `limit_s` while the broker answers, or when the event
loop has not run for `limit_s`.

Time is counted in polls, not read from a clock: a process that was frozen for an hour has missed no poll when it wakes
up. While the broker does not answer, no partition can progress, and the counts of partitions start again.
"""

import asyncio
import faulthandler
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from backstop.runtime.errors import BackstopError
from backstop.runtime.kafka.lifetimes import started, stopped

log = structlog.get_logger()

POLLS = 8
"""Polls within `limit_s`: the resolution of the measurement."""

Partition = tuple[str, int]
Positions = Callable[[], Mapping[Partition, int]]
"""The next offset to handle of each owned partition; empty during a rebalance. Called from the watchdog's thread."""


class StalledError(BackstopError):
    """The process is alive but makes no progress. It must end and acknowledge nothing."""


class LogEnds(Protocol):
    """Asks where the logs end, over a connection of its own."""

    async def of(self, partitions: Collection[Partition]) -> Mapping[Partition, int] | None:
        """How far each partition can be read: not beyond a transaction that is open. None if no broker answers."""

    async def close(self) -> None: ...


class Watchdog:
    """Call `start` and `stop` in the watched loop. `on_stall` runs in the watchdog's thread and should not return."""

    def __init__(
        self,
        positions: Positions,
        ends: Callable[[], LogEnds],
        *,
        limit_s: float,
        on_stall: Callable[[StalledError], None],
    ) -> None:
        self._positions = positions
        self._make_ends = ends
        self._every_s = limit_s / POLLS
        self._limit_s = limit_s
        self._on_stall = on_stall
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._beating: asyncio.Task[None] | None = None
        self._beats = 0
        self._silent = 0
        self._seen_beats = -1
        self._seen: dict[Partition, int] = {}
        self._behind: dict[Partition, int] = {}
        """Polls in a row at which an owned partition had records and made no progress."""

    def start(self) -> None:
        self._beating = asyncio.create_task(self._beat(), name="watchdog-beat")
        self._thread = threading.Thread(target=lambda: asyncio.run(self._watch()), name="watchdog", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        self._stopped.set()
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, self._every_s + 1)

    def complaint(self) -> str | None:
        """For `/livez`: the partitions without progress for at least half of the limit; None if there are none."""
        worst = max(self._behind.values(), default=0)
        if worst < POLLS // 2:
            return None
        names = ", ".join(f"{topic}/{number}" for (topic, number), polls in self._behind.items() if polls == worst)
        return f"no progress for {worst * self._every_s:.0f} s in {names}"

    async def _beat(self) -> None:
        while True:
            self._beats += 1
            await asyncio.sleep(self._every_s / 2)

    async def _watch(self) -> None:
        ends = self._make_ends()
        try:
            while not await asyncio.to_thread(self._stopped.wait, self._every_s):
                await self.poll(ends)
        finally:
            await ends.close()

    async def poll(self, ends: LogEnds) -> None:
        """Compare positions with the ends of the logs once; call `on_stall` when the limit is reached."""
        self._silent = self._silent + 1 if self._beats == self._seen_beats else 0
        self._seen_beats = self._beats
        if self._silent >= POLLS:
            self._stall(f"the event loop has not run for {self._limit_s:g} s")
            return
        positions = self._snapshot()
        still = [partition for partition, at in positions.items() if self._seen.get(partition) == at]
        self._seen = dict(positions)
        found = await ends.of(still) if still else {}
        behind = {} if found is None else {p: 1 for p in still if found.get(p, 0) > positions[p]}
        self._behind = {partition: self._behind.get(partition, 0) + 1 for partition in behind}
        stalled = sorted(partition for partition, polls in self._behind.items() if polls >= POLLS)
        if stalled and found is not None:
            lags = ", ".join(
                f"{topic}/{number} at {positions[topic, number]} of {found[topic, number]}" for topic, number in stalled
            )
            self._stall(f"no progress for {self._limit_s:g} s: {lags}")

    def _snapshot(self) -> Mapping[Partition, int]:
        try:
            return self._positions()
        except RuntimeError:  # The loop changed the dictionary during the copy, so the loop runs.
            return {}

    def _stall(self, why: str) -> None:
        log.error("stalled", reason=why)
        faulthandler.dump_traceback(all_threads=True)
        self._on_stall(StalledError(why))


class BrokerEnds:
    """`LogEnds` over a consumer without a group, connected at the first call of `of`. Not for use in several loops."""

    def __init__(self, options: Mapping[str, Any], timeout_s: float) -> None:
        self._options = dict(options)
        self._timeout_s = timeout_s
        self._consumer: AIOKafkaConsumer | None = None

    async def of(self, partitions: Collection[Partition]) -> Mapping[Partition, int] | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._consumer is None:
                    self._consumer = await started(
                        AIOKafkaConsumer(
                            **self._options, client_id="backstop-watchdog", enable_auto_commit=False,
                            # As the worker reads: records behind an open transaction are no stall.
                            isolation_level="read_committed",
                        )
                    )  # fmt: skip
                found = await self._consumer.end_offsets([TopicPartition(*partition) for partition in partitions])
        except (KafkaError, OSError, TimeoutError):
            await self.close()
            return None
        return {(tp.topic, tp.partition): end for tp, end in found.items()}

    async def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stopped(consumer)
