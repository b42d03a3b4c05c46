"""The Faust app of both folds, and how it starts and stops in a process that also runs other services.

The app is started in the process's event loop, not by `faust.Worker`, which would take over the loop, the signals and
the logging (and set the root logger to DEBUG). Only Faust's exactly-once needs `faust.Worker`, and Backstop does not
use it.
"""

import asyncio
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import faust
from faust.sensors import Monitor
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.types import TP
from mode import CrashingSupervisor, Service

from backstop.runtime.errors import InvariantError
from backstop.runtime.process.identity import own_name
from backstop.runtime.records import Record
from streams.faust.consumer import BATCH_RECORDS_MAX, DRAIN_TIMEOUT_S, BatchTransport
from streams.tables.changelog import ChangelogProducer
from streams.tables.fold_table import FoldTable
from streams.tables.partition_db import StoreLimits, new_cache

EXIT_FAILED = 70
"""EX_SOFTWARE: Backstop failed. No record in hand is acknowledged; the supervisor must restart the process."""

COMMIT_INTERVAL_S = 1.0
PARTITION_FETCH_BYTES_MAX = 512 * 1024
"""Of one partition in one fetch response. A larger record is still delivered, alone."""


def end_process(error: BaseException) -> None:
    """Print the error and end the process at once: no handler, `finally` or commit may run after a failure."""
    traceback.print_exception(error, file=sys.stderr)
    sys.stderr.flush()
    os._exit(EXIT_FAILED)


class FoldApp(faust.App):  # type: ignore[misc]  # faust is untyped
    """Faust's app; every failure goes to `fail`. Made by `make_app`."""

    producer_options: Mapping[str, Any]
    batch_records_max: int
    drain_timeout_s: float
    on_failure: Callable[[BaseException], None]
    joined: Callable[[str, str], None] | None = None
    """Told the group and the member id at each assignment."""
    now_s: Callable[[], float]
    fold_tables: dict[str, FoldTable]
    """Tables by the full name of their log. Their rows' versions are offsets: a truncated log is a failure."""
    failed: BaseException | None = None
    _block_cache: Any = None
    _changelog_producer: ChangelogProducer | None = None

    def fail(self, error: BaseException) -> None:
        """End the process before anything more is acknowledged. Only the first call has an effect."""
        if self.failed is None:
            self.failed = error
            self.on_failure(error)

    def handled(self) -> Mapping[tuple[str, int], int]:
        """As `BatchConsumer.handled`; empty before the consumer exists. May be called from another thread."""
        return self._consumer.handled() if self._consumer is not None else {}

    def landed(self, record: Record) -> None:
        """A record that this process has written is acknowledged: see `BatchConsumer.landed`."""
        if self._consumer is not None:
            self._consumer.landed(record)

    async def write_rows(self) -> None:
        """Return when the rows of all acknowledged records are written, else end the process."""
        try:
            await asyncio.gather(*(table.flush() for table in self.fold_tables.values()))
        except Exception as error:
            self.fail(error)
            raise

    def block_cache(self, limits: StoreLimits) -> Any:
        """The block cache of all stores of the process. The `limits` of the first call set its size."""
        if self._block_cache is None:
            self._block_cache = new_cache(limits)
        return self._block_cache

    def changelog_producer(self) -> ChangelogProducer:
        """The producer of all tables of the process."""
        if self._changelog_producer is None:
            self._changelog_producer = ChangelogProducer(self.producer_options, f"{self.conf.id}-changelogs")
        return self._changelog_producer

    async def _on_agent_error(self, agent: Any, exc: BaseException) -> None:
        # Faust's own handling acknowledges the event and restarts the agent.
        del agent
        self.fail(exc)


class _Recovery(Recovery):  # type: ignore[misc]  # faust is untyped
    async def _build_offsets(self, consumer: Any, tps: set[TP], destination: Any, title: str) -> None:
        """Discard stores ahead of their changelog (recreated or truncated); Faust would crash at each start."""
        if title == "active":
            for tp in tps:
                offset, highwater = destination[tp], self.active_highwaters[tp]
                if offset is not None and offset > highwater:
                    table = self.tp_to_table[tp]
                    table.data.discard(tp.partition, f"its offset {offset} is beyond the changelog's last, {highwater}")
                    destination[tp] = table.persisted_offset(tp)
        await super()._build_offsets(consumer, tps, destination, title)

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        """Check, before records flow, that each owned partition of a log comes with its partitions of the tables."""
        consumer, assigned = self.app.consumer, self.app.consumer.assignment()
        for table in self.tables.values():
            changelog = table.changelog_topic_name
            have = {tp.partition for tp in assigned if tp.topic == changelog}
            apart = {tp for tp in assigned if tp.partition not in have}
            apart = {tp for tp in apart if consumer.topic_partitions(tp.topic) == table.partitions}
            if apart and self.app.consumer_generation_id == generation_id:
                self.app.fail(
                    InvariantError(f"this worker owns {sorted(apart)} without the same partitions of {changelog}")
                )
        await super().on_recovery_completed(generation_id)


class _NoMonitor(Monitor):  # type: ignore[misc]  # faust is untyped
    @Service.task  # type: ignore[untyped-decorator]  # faust is untyped
    async def _sampler(self) -> None:
        """Off: it wakes each second, and nothing reads its averages."""


class _TableManager(TableManager):  # type: ignore[misc]  # faust is untyped
    _recovery: Recovery | None

    async def on_start(self) -> None:
        # As in Faust, without its sleep of a second for tables that are declared late: here all are declared before.
        await self._update_channels()
        await self.recovery.start()

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:
            self._recovery = _Recovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery


def make_app(
    app_id: str,
    bootstrap: str,
    data_dir: Path,
    *,
    now_s: Callable[[], float],
    instance_id: str | None = None,
    session_timeout_s: float = 15.0,
    heartbeat_interval_s: float = 3.0,
    rebalance_timeout_s: float = 60.0,
    drain_timeout_s: float = DRAIN_TIMEOUT_S,
    batch_records_max: int = BATCH_RECORDS_MAX,
    replication_factor: int = 1,
    producer_options: Mapping[str, Any] | None = None,
    on_failure: Callable[[BaseException], None] = end_process,
    **settings: Any,
) -> FoldApp:
    """A Faust app for folds: raw bytes, at least once, batches (see `BatchConsumer`). Nothing is opened before the
    start.

    :param bootstrap: comma-separated host:port.
    :param data_dir: used by this process alone; stores are in `<data_dir>/v1/tables`.
    :param now_s: Unix seconds, to recognise a store that was unused for too long.
    :param instance_id: static membership: a restart within the session timeout causes no rebalance, and after a stop
        the partitions move only when the session timeout is over.
    :param producer_options: connection options of the changelogs' producer, as
        `backstop.runtime.kafka.client.client_options`.
    :param on_failure: must end the process; it may return only in tests.
    :param settings: further settings of Faust, e.g. `broker_credentials`.
    """
    if not heartbeat_interval_s < session_timeout_s / 2 or drain_timeout_s >= rebalance_timeout_s:
        raise ValueError(
            f"the heartbeat interval ({heartbeat_interval_s:g} s) must be below half the session timeout "
            f"({session_timeout_s:g} s), and the drain timeout ({drain_timeout_s:g} s) below the rebalance timeout "
            f"({rebalance_timeout_s:g} s)"
        )
    servers = [f"kafka://{server.strip()}" for server in bootstrap.split(",")]
    app = FoldApp(
        app_id,
        broker=servers,
        broker_client_id=str(own_name("worker")),
        datadir=str(data_dir),
        store="memory://",
        processing_guarantee="at_least_once",
        key_serializer="raw",
        value_serializer="raw",
        web_enabled=False,
        topic_disable_leader=True,
        topic_replication_factor=replication_factor,
        table_standby_replicas=0,
        TableManager=_TableManager,
        Monitor=_NoMonitor,
        agent_supervisor=CrashingSupervisor,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=PARTITION_FETCH_BYTES_MAX,
        consumer_group_instance_id=instance_id,
        broker_session_timeout=session_timeout_s,
        broker_heartbeat_interval=heartbeat_interval_s,
        broker_rebalance_timeout=rebalance_timeout_s,
        broker_request_timeout=max(90.0, session_timeout_s + 10.0),
        broker_commit_interval=COMMIT_INTERVAL_S,
        stream_wait_empty=True,
        producer_acks=-1,
        recovery_consistency_check=False,
        **settings,
    )
    app.transport = BatchTransport(app.conf.broker_consumer, app)
    app.producer_options = {"bootstrap_servers": bootstrap, **(producer_options or {})}
    app.batch_records_max = batch_records_max
    app.drain_timeout_s = drain_timeout_s
    app.on_failure = on_failure
    app.now_s = now_s
    app.fold_tables = {}
    return app


async def run_app(app: FoldApp, stop: asyncio.Event) -> None:
    """Run the app until `stop` is set; then finish batches in hand, commit, leave the group, close the stores, return.

    If the app ends for another reason (a crashed service of Faust, an agent's exception, a broker connection that
    aiokafka gave up), `app.on_failure` is called, which ends the process with `EXIT_FAILED`; no record in hand is
    acknowledged. The caller handles signals and sets `stop`.
    """
    running = asyncio.create_task(_start(app))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            app.fail(running.exception() or app.crash_reason or RuntimeError("the Faust app ended by itself"))
            return
        await app.stop()
    finally:
        for task in (running, stopping):
            task.cancel()
        await asyncio.gather(running, stopping, return_exceptions=True)


async def _start(app: FoldApp) -> None:
    await app.start()
    await app.wait_until_stopped()


__all__ = ["EXIT_FAILED", "FoldApp", "end_process", "make_app", "run_app"]
