"""The Faust app that both folds run in, and its life inside a process that runs other services too.

The app is started in the process's own event loop, not through `faust.Worker`: that one owns the loop, the signals and the logging
(and turns the root logger to DEBUG), and this process has its own of each. What is lost with it is exactly-once, which only works
under it, and which we do not use.
"""

import asyncio
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import faust
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.types import TP
from mode import CrashingSupervisor

from backstop.runtime.errors import InvariantError
from streams.faust.consumer import BATCH_RECORDS_MAX, DRAIN_TIMEOUT_S, BatchTransport
from streams.tables.changelog import ChangelogProducer
from streams.tables.fold_table import FoldTable
from streams.tables.partition_db import StoreLimits, new_cache

EXIT_FAILED = 70
"""EX_SOFTWARE: our own failure. Nothing that was in hand is acknowledged; whoever runs the process starts it again."""

COMMIT_INTERVAL_S = 1.0
PARTITION_FETCH_BYTES_MAX = 512 * 1024
"""Of one partition in one answer; a larger record still comes, alone."""


def end_process(error: BaseException) -> None:
    """Say what happened and end, now: no handler, no `finally` and no commit may run after a failure."""
    traceback.print_exception(error, file=sys.stderr)
    sys.stderr.flush()
    os._exit(EXIT_FAILED)


class FoldApp(faust.App):  # type: ignore[misc]  # faust is untyped
    """Faust's app with one way to fail. Made by `make_app`."""

    producer_options: Mapping[str, Any]
    batch_records_max: int
    drain_timeout_s: float
    on_failure: Callable[[BaseException], None]
    now_s: Callable[[], float]
    fold_tables: dict[str, FoldTable]
    """By the full name of the log that each is the fold of, with offsets as its rows' versions: such a log may not lose records."""
    failed: BaseException | None = None
    _block_cache: Any = None
    _changelog_producer: ChangelogProducer | None = None

    def fail(self, error: BaseException) -> None:
        """Our own failure: the process ends before anything more is acknowledged."""
        if self.failed is None:
            self.failed = error
            self.on_failure(error)

    def handled(self) -> Mapping[tuple[str, int], int]:
        """As `BatchConsumer.handled`; empty before the consumer is there. May be called from another thread."""
        return self._consumer.handled() if self._consumer is not None else {}

    def block_cache(self, limits: StoreLimits) -> Any:
        """One cache for all stores of the process, as large as the first who asks says."""
        if self._block_cache is None:
            self._block_cache = new_cache(limits)
        return self._block_cache

    def changelog_producer(self) -> ChangelogProducer:
        """One for all tables of the process."""
        if self._changelog_producer is None:
            self._changelog_producer = ChangelogProducer(self.producer_options, f"{self.conf.id}-changelogs")
        return self._changelog_producer

    async def _on_agent_error(self, agent: Any, exc: BaseException) -> None:
        # Faust would acknowledge the event and start the agent again.
        del agent
        self.fail(exc)


class _Recovery(Recovery):  # type: ignore[misc]  # faust is untyped
    async def _build_offsets(self, consumer: Any, tps: set[TP], destination: Any, title: str) -> None:
        """A store that is ahead of its changelog (the topic was made anew, or lost its tail) is damaged; Faust would crash, at each start."""
        if title == "active":
            for tp in tps:
                offset, highwater = destination[tp], self.active_highwaters[tp]
                if offset is not None and offset > highwater:
                    table = self.tp_to_table[tp]
                    table.data.discard(tp.partition, f"its offset {offset} is beyond the changelog's last, {highwater}")
                    destination[tp] = table.persisted_offset(tp)
        await super()._build_offsets(consumer, tps, destination, title)

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        """Before records flow: every log partition that is ours must have its table partitions here too."""
        consumer, assigned = self.app.consumer, self.app.consumer.assignment()
        for table in self.tables.values():
            changelog = table.changelog_topic_name
            have = {tp.partition for tp in assigned if tp.topic == changelog}
            apart = {tp for tp in assigned if tp.partition not in have}
            apart = {tp for tp in apart if consumer.topic_partitions(tp.topic) == table.partitions}
            if apart and self.app.consumer_generation_id == generation_id:
                self.app.fail(InvariantError(f"{sorted(apart)} are ours, and not the partitions of {changelog}"))
        await super().on_recovery_completed(generation_id)


class _TableManager(TableManager):  # type: ignore[misc]  # faust is untyped
    _recovery: Recovery | None

    async def on_start(self) -> None:
        # As Faust's, without its second of sleep, which waits for tables that are declared late: ours are declared before.
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
    """A Faust app for folds: raw bytes, at least once, batches (see `transport`). Nothing is opened before it starts.

    :param bootstrap: comma-separated host:port.
    :param data_dir: of this process alone; stores are in `<data_dir>/v1/tables`.
    :param now_s: unix seconds, to tell a store that has lain too long.
    :param instance_id: static membership: a restart within the session timeout disturbs nobody; and a stop hands over only after it.
    :param producer_options: connection options (as `backstop.runtime.kafka.client.client_options`) of the changelogs' producers.
    :param on_failure: must not return to a living process outside tests.
    :param settings: further settings of Faust, e.g. `broker_credentials`.
    """
    if not heartbeat_interval_s < session_timeout_s / 2 or drain_timeout_s >= rebalance_timeout_s:
        raise ValueError("heartbeat < session timeout / 2 and drain timeout < rebalance timeout must hold")
    servers = [f"kafka://{server.strip()}" for server in bootstrap.split(",")]
    app = FoldApp(
        app_id,
        broker=servers,
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
    """Run the app until `stop` is set; then let batches in hand end, commit, leave the group, close the stores, return.

    Whatever else ends the app (a crashed service of Faust's, an agent's exception, a lost broker connection that aiokafka gave up
    on) is a failure: `app.on_failure` is called with it, which ends the process with `EXIT_FAILED`, and nothing in hand is
    acknowledged. Signals are the caller's: set `stop`.
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
