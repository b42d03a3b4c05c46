"""The composition root of the worker: both folds in a Faust app, and in the same loop the schedulers, the submitter,
the poller and the follower.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from aiokafka.errors import KafkaError

from backstop.runtime.blob_stores import open_storage, store_id
from backstop.runtime.blobs import Bodies
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.http.health import Health, HealthServer
from backstop.runtime.kafka.broker_clock import BrokerClock
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.former_members import FormerMembers
from backstop.runtime.kafka.publisher import KafkaPublisher
from backstop.runtime.kafka.reporting import Reporting
from backstop.runtime.process.chance import random_hex
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.descriptors import files_probe
from backstop.runtime.process.disk import disk_probe, nearly_full_probe
from backstop.runtime.process.failpoints import failpoint
from backstop.runtime.process.pausing import pause
from schemas.base import DEFAULT_TENANT
from streams import metrics
from streams.agents.agents import Intake, add_fold_agent, add_intake_agent
from streams.agents.fold_shell import FoldShell, both, untaken
from streams.early_creates import EarlyCreates
from streams.faust.app import FoldApp, end_process, make_app, run_app
from streams.faust.security import broker_credentials
from streams.fold.batch import JOB_FOLD, RESPONSE_FOLD, Fold, Folded
from streams.fold.rows import decode_row
from streams.openai.provider import open_openai
from streams.policy.admission import Admission
from streams.policy.lanes import share_of
from streams.policy.latency import Latencies
from streams.policy.polls import Webhooks
from streams.policy.shared_limits import SharedLimits
from streams.results import ResultsPublisher
from streams.scheduler.admissions import Admissions
from streams.scheduler.due import DueIndex, IndexedRows
from streams.scheduler.grants import GrantsAtOnce
from streams.scheduler.hedge_runs import HedgeRuns
from streams.scheduler.hedge_timers import HedgeTimers
from streams.scheduler.hedges import Hedges
from streams.scheduler.job_timers import JobTimers
from streams.scheduler.response_timers import response_timer
from streams.scheduler.service import Scheduler
from streams.settings import StreamSettings
from streams.tables.fold_table import FoldTable
from streams.watchdog import BrokerEnds, Watchdog
from streams.workers.access import ProviderAccess
from streams.workers.command_group import CommandGroup
from streams.workers.command_worker import WorkerParts
from streams.workers.follower import Follower
from streams.workers.lane_board import LaneBoard
from streams.workers.lanes import Lanes
from streams.workers.metrics import FollowerMetrics, WorkerMetrics
from streams.workers.past_runs import PastRuns, read_tail
from streams.workers.pauses import PauseBoard, Pauses
from streams.workers.poll_learning import PollLearning
from streams.workers.poller import Poller
from streams.workers.rate import PollRate
from streams.workers.streamed_rows import StreamedRows
from streams.workers.submitter import Submitter

if TYPE_CHECKING:
    from streams.otel import SpanExport

log = structlog.get_logger()

WATCH_EVERY_S = 10.0
"""Longest time for which a former owner's last batch of rows stays undetected in a changelog."""


async def serve(settings: StreamSettings, now_ms: NowMs, stop: asyncio.Event) -> None:
    """Run a worker until `stop` is set."""
    await Worker(settings, now_ms).run(stop)


class Worker:
    """One worker process. Its parts are made in the constructor, and started and stopped by `run`."""

    def __init__(self, settings: StreamSettings, own_now_ms: NowMs) -> None:
        self._settings = settings
        self.health = Health("worker")
        self.health.expect("topics", "job_fold", "response_fold")
        self.health.watch("disk", disk_probe(settings.data_dir))
        self.health.watch("files", files_probe())
        nearly_full = nearly_full_probe(settings.data_dir)
        self._publisher = KafkaPublisher(
            settings, "worker", store_id(settings, random_hex), lambda: self.health.trouble() or nearly_full()
        )
        self._clock = BrokerClock(own_now_ms, self._publisher)
        self._now_ms: NowMs = self._clock.now_ms
        self._results = ResultsPublisher(settings, self._now_ms)
        self._storage = open_storage(settings)
        self.health.watch("blobs", self._storage.complaint)
        self._reporting = Reporting(self._publisher, WorkerMetrics(), self._now_ms)
        self._bodies = Bodies(self._storage.blobs, settings.inline_bytes_max)
        self._rules, self._prices = settings.limit_rules(), settings.prices()
        self._access = self._open_access()
        account = self._access.provider.account
        self._admission = Admission(self._rules, account)
        limits = SharedLimits(self._admission, self._rules, account, random_hex(64), settings.partitions)
        self._admissions = Admissions(self._admission, self._now_ms, settings.partitions, limits)
        self._latencies = Latencies()
        self._hedges = Hedges(
            self._latencies,
            settings.hedge_share,
            ends_min=settings.hedge_ends_min,
            lane_rest_ms=settings.hedge_lane_rest_ms,
            troubled=self._access.lanes.troubled,
            busy=self._would_wait,
        )
        self._hedge_runs = HedgeRuns(self._latencies, self._now_ms)
        self._access = replace(self._access, hedge_at=self._hedges.hedge_at_ms)
        self._board = LaneBoard(settings, self._access.lanes, self._publisher, self._now_ms, limits=limits)
        self._early = EarlyCreates()
        self._pauses = PauseBoard(settings, self._access.pauses, self._now_ms)
        learned = settings.learned_polls()
        self._webhooks = Webhooks(
            settings.poll_policy(), expected=settings.webhooks_expected, learned=learned,
            control_share=settings.poll_control_share,
        )  # fmt: skip
        self._learning: PollLearning | None = None
        if learned is not None:
            self._learning = PollLearning(learned, self._access.rate, self._now_ms, self._reporting.metrics)
        recalls = [self._hedge_runs.recall, *([self._learning.recall] if self._learning is not None else [])]
        self._past_runs = PastRuns(partial(read_tail, settings), recalls, self._now_ms)
        # Partial output must not hold up a fact: it has a producer of its own.
        self._partials = KafkaPublisher(settings, "follower")
        self._follower = Follower(Reporting(self._partials, FollowerMetrics(), self._now_ms), settings.follow_limits())
        self._tables: list[FoldTable] = []
        self._spans = _span_export(settings)
        folder = settings.data_dir / (settings.worker_instance_id or "worker")
        folder.mkdir(parents=True, exist_ok=True)
        self._members = FormerMembers(folder)
        self._app = self._make_app(folder)
        if settings.worker_instance_id is None:  # A static member has its partitions back without that.
            self._app.joined = self._members.joined
        self._watchdog = self._make_watchdog()
        self._schedulers = [
            self._add_fold(JOB_FOLD),
            self._add_fold(RESPONSE_FOLD),
        ]
        requests = f"{settings.topic_prefix}requests"
        add_intake_agent(self._app, requests, self._intake(DEFAULT_TENANT))
        for tenant in settings.request_tenants:
            add_intake_agent(self._app, f"{requests}.{tenant}", self._intake(tenant), f"intake-{tenant}")

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set. If a part fails, the process ends with `EXIT_FAILED` and acknowledges nothing."""
        settings = self._settings
        server = HealthServer(self.health, settings.health_port, settings.health_host)
        await server.start()
        await self._publisher.start()
        await self._partials.start()
        await self._clock.first()
        await self._members.leave(client_options(settings))
        self.health.met("topics")  # Checked by the entry point before.
        submitter, poller = self._workers()
        self._watchdog.start()
        probing = [asyncio.create_task(probe(), name="probe-storage") for probe in self._storage.probing]
        writing = [asyncio.create_task(self._guarded(table.write_gathered())) for table in self._tables]
        reading = asyncio.create_task(self._guarded(self._board.run(stop)))
        pauses = asyncio.create_task(self._guarded(self._pauses.run(stop)))
        try:
            await self._board.first_read()
            await self._pauses.first_read(stop)
            await asyncio.gather(
                reading,
                pauses,
                run_app(self._app, stop),
                *(self._guarded(scheduler.run(stop)) for scheduler in self._schedulers),
                self._guarded(submitter.run(stop)),
                self._guarded(poller.run(stop)),
                self._guarded(self._follower.run(stop, self._access)),
                self._guarded(self._watch_changelogs(stop)),
                self._guarded(self._past_runs.run(stop)),
                *([self._guarded(self._learning.run(stop))] if self._learning is not None else ()),
                self._guarded(self._clock.run(stop)),
            )
        finally:
            for task in (*probing, *writing):
                task.cancel()
            reading.cancel()
            pauses.cancel()
            await self._watchdog.stop()
            await self._results.stop()
            self._members.close()
            await self._publisher.stop()
            await self._partials.stop()
            await self._access.provider.close()
            await self._storage.close()
            await server.stop()
            if self._spans is not None:
                await asyncio.to_thread(self._spans.close)

    def _make_watchdog(self) -> Watchdog:
        settings = self._settings
        limit_s = 2 * settings.worker_session_timeout_s
        watchdog = Watchdog(
            self._app.handled,
            lambda: BrokerEnds(client_options(settings), limit_s / 4),
            limit_s=limit_s,
            on_stall=end_process,
        )
        self.health.watch("progress", watchdog.complaint, "live")
        return watchdog

    async def _watch_changelogs(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            for table in self._tables:
                try:
                    await table.watch_changelog()
                except (KafkaError, TimeoutError) as error:
                    log.warning("changelog not watched", log=table.name, error=repr(error))
                metrics.ROWS_REASSERTED.labels(log=table.name).set(table.rows_reasserted)
            await pause(stop, WATCH_EVERY_S)

    def _intake(self, tenant: str) -> Intake:
        return Intake(
            publisher=self._publisher,
            bodies=self._bodies,
            policy=self._settings.submission,
            now_ms=self._now_ms,
            tenant=tenant,
            claims=self._storage.claims,
            limits=self._rules,
            prices=self._prices,
        )

    def _open_access(self) -> ProviderAccess:
        settings, metrics = self._settings, self._reporting.metrics
        provider = open_openai(settings, settings.call_limits(), metrics, self._now_ms)
        rate = PollRate(
            settings.poll_rate_max_per_s,
            self._now_ms,
            metrics.poll_rate_limit.set,
            settings.poll_rate_recovery_share_per_min,
        )
        lanes = Lanes(self._now_ms, metrics.lane, provider.account)
        return ProviderAccess(
            provider, lanes, rate, Pauses(provider.account, lambda: lanes.share, metrics.pauses.set)
        )  # fmt: skip

    def _workers(self) -> tuple[Submitter, Poller]:
        settings = self._settings
        parts = WorkerParts(self._access, self._reporting, self._bodies, self._webhooks, self._early)
        limits = settings.submitter_limits(settings.submission.create_timeout_ms)
        creates = self._group("submissions", "submitter")
        self._early.performs = lambda partition: partition in creates.partitions
        self._publisher.tell("submissions", self._early.written)
        submitter = Submitter(creates, parts, limits, self._rules)
        return submitter, Poller(self._group("polls", "poller"), parts, settings.poller_limits())

    def _group(self, topic: str, group: str) -> CommandGroup:
        timeout_ms = self._settings.group_session_timeout_ms
        member = CommandGroup(
            self._settings, topic=topic, group=group, session_timeout_ms=timeout_ms, joined=self._members.joined
        )
        self._publisher.tell(topic, member.landed)
        return member

    async def _guarded(self, part: Coroutine[Any, Any, None]) -> None:
        try:
            await part
        except Exception as error:
            end_process(error)

    def _make_app(self, folder: Path) -> FoldApp:
        settings = self._settings
        return make_app(
            f"{settings.topic_prefix}worker",
            settings.kafka_bootstrap_servers,
            folder,
            now_s=lambda: self._now_ms() / 1000,
            instance_id=settings.worker_instance_id,
            session_timeout_s=settings.worker_session_timeout_s,
            heartbeat_interval_s=settings.worker_heartbeat_s,
            batch_records_max=settings.batch_records_max,
            replication_factor=settings.replication_factor,
            producer_options=client_options(settings),
            **broker_credentials(settings),
        )

    def _would_wait(self, model: str, tenant: str) -> bool:
        """Whether a hedge would have to wait: jobs wait, a limit is reached, or an operator paused the creates.

        Whatever holds a job back from its turn must be asked here as well.
        """
        held = self._access.pauses.holds(model, tenant, self._now_ms())
        return held or not self._admissions.room(model, tenant)

    def _taken_by(self, fold: Fold[Any]) -> Callable[[int, Folded[Any]], None]:
        """What learns from the folded batches."""
        if fold is JOB_FOLD:
            taken = both(self._admissions.taken, self._hedges.taken)
            return taken if self._spans is None else both(taken, self._spans.taken)
        return both(self._hedge_runs.taken, untaken if self._learning is None else self._learning.taken)

    def _add_fold(self, fold: Fold[Any]) -> Scheduler:
        settings, index = self._settings, DueIndex(self._now_ms)
        table = FoldTable(
            self._app,
            fold.topic,
            settings.partitions,
            min_insync_replicas=settings.min_insync_replicas,
            on_damage=partial(_damaged, fold.topic),
            row_version=lambda row: decode_row(row)[1],
            after_changelog=lambda: failpoint(f"{fold.name}.changelog.acked"),  # type: ignore[arg-type]
            after_rows=lambda: failpoint(f"{fold.name}.rows.written"),  # type: ignore[arg-type]
        )
        table.watch(IndexedRows(fold, index))
        if fold is JOB_FOLD:
            table.watch(self._admissions)
        streamed = StreamedRows(table)
        if fold is RESPONSE_FOLD:
            table.watch(streamed)
            table.watch(self._hedge_runs)
            if self._learning is not None:
                table.watch(self._learning)
        rows = self._follower.beside(streamed) if fold is RESPONSE_FOLD else table
        held = JobTimers(
            index,
            table.get,
            self._access.lanes.release,
            self._now_ms,
            self._admission,
            self._access.pauses,
            self._access.lanes.closed,
        )
        shell = FoldShell(
            fold, rows=rows, publisher=self._publisher, results=self._results, index=index, now_ms=self._now_ms,
            heard=self._webhooks.heard if fold is RESPONSE_FOLD else None,
            taken=self._taken_by(fold),
        )  # fmt: skip
        if fold is JOB_FOLD:
            shell.grants = GrantsAtOnce(held, self._early, self._now_ms)

        def recovered(active: set[int]) -> None:
            failpoint(f"{fold.name}.recovering")  # type: ignore[arg-type]
            self._access.lanes.share = share_of(active, settings.partitions)
            if fold is JOB_FOLD:
                self._results.reassigned(active)
                self._admissions.own(active)
                self._early.own(active)
            index.own(active)
            if fold is RESPONSE_FOLD:
                streamed.own(active)
                self._follower.rebuilt(active, streamed)
                self._hedge_runs.own(active)
                self._past_runs.own(active)
                if self._learning is not None:
                    self._learning.own(active)
            self.health.met(fold.name)
            log.info("partitions ready", log=fold.topic, partitions=sorted(active), open=len(index))

        table.on_recovered(recovered)
        self._tables.append(table)
        topic = f"{settings.topic_prefix}{fold.topic}"
        self._app.fold_tables[topic] = table
        self._publisher.tell(fold.topic, self._app.landed)
        add_fold_agent(self._app, topic, fold.name, shell)
        parts: dict[str, Any] = {"rows": table, "publisher": self._publisher, "now_ms": self._now_ms}
        if fold is RESPONSE_FOLD:
            polls = partial(response_timer, self._webhooks)
            return Scheduler(fold, index=index, make_timer=HedgeTimers(polls, index, self._hedges), **parts)
        self._publisher.tell(fold.topic, self._early.landed)
        return Scheduler(fold, index=index, make_timer=held, let_go=held.let_go, next_ms=held.next_ms, **parts)


def _span_export(settings: StreamSettings) -> "SpanExport | None":
    """:raises ConfigurationError: OpenTelemetry is asked for, and not installed."""
    if settings.otel_endpoint is None:
        return None
    try:
        from streams.otel import SpanExport  # noqa: PLC0415 - an optional extra, loaded only where it is configured
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"BACKSTOP_OTEL_ENDPOINT needs the package {error.name}: install backstop-jobs with its extra `otel`"
        ) from None
    return SpanExport(settings.otel_endpoint, f"{settings.topic_prefix}results")


def _damaged(topic: str, table: str, partition: int, aside: Any, why: str) -> None:
    metrics.STORES_DAMAGED.labels(log=topic).inc()
    log.error(
        "a damaged store was set aside and is rebuilt", table=table, partition=partition, aside=str(aside), why=why
    )
