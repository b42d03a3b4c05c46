"""The composition root of the projection: projector, sweep, and a small server for health and metrics."""

import asyncio
from collections.abc import Sequence

from backstop.readmodel.budget_stops import BudgetStops
from backstop.readmodel.budgets import Spending
from backstop.readmodel.erasing import Eraser, ErasingParts, ResponseDeletes
from backstop.readmodel.metrics import ProjectionMetrics
from backstop.readmodel.opening import database_at
from backstop.readmodel.projector import Projector
from backstop.readmodel.retention import DAY_MS
from backstop.readmodel.settings import ProjectionSettings
from backstop.readmodel.sweep import Kept, Sweeper
from backstop.runtime.blob_stores import open_storage, store_id
from backstop.runtime.http.health import Health, HealthServer
from backstop.runtime.kafka.lifetimes import broker_errors
from backstop.runtime.kafka.publisher import KafkaPublisher
from backstop.runtime.process.chance import random_hex
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.logs import get_logger
from schemas.base import Message

ERASES_WITH = ("jobs", 0)
"""The projection that owns this partition erases: one of them does."""

log = get_logger("readmodel")


class _Rarely:
    """A publisher that connects at its first message: most projections never send one."""

    def __init__(self, settings: ProjectionSettings) -> None:
        self._publisher = KafkaPublisher(settings, "readmodel")
        self._started = False

    async def publish(self, messages: Sequence[Message], timeout_s: float | None = None) -> None:
        await self._start()
        await self._publisher.publish(messages, timeout_s)

    async def erase(self, topic: str, keys: Sequence[str]) -> None:
        await self._start()
        await self._publisher.erase(topic, keys)

    async def _start(self) -> None:
        if not self._started:
            with broker_errors("the producer could not start"):
                await self._publisher.start()
            self._started = True

    async def stop(self) -> None:
        await self._publisher.stop()


class Projection:
    """All writers of the read model, as one task."""

    def __init__(
        self, settings: ProjectionSettings, now_ms: NowMs, metrics: ProjectionMetrics, health: Health,
        deletes: ResponseDeletes | None = None,
    ) -> None:  # fmt: skip
        """:param deletes: deletes responses at the provider. None: there is no key."""
        self._database = database_at(settings.readmodel_url, now_ms)
        self._publisher = _Rarely(settings)
        self.projector = Projector(settings, self._database, self._publisher, now_ms, metrics)
        spending = Spending(settings.budgets, settings.prices())
        self._stops = BudgetStops(settings, self._database, self._publisher, spending, now_ms, metrics)
        self._sweeper = Sweeper(
            self._database,
            now_ms,
            metrics,
            interval_ms=settings.readmodel_sweep_interval_ms,
            bound_ms=settings.readmodel_overdue_bound_ms,
            kept=Kept(
                changes_max=settings.readmodel_changes_max,
                changes_keep_ms=settings.readmodel_changes_keep_ms,
                unclaimed_keep_ms=settings.readmodel_unclaimed_keep_ms,
                dead_letters_max=settings.readmodel_dead_letters_max,
                jobs_keep_ms=settings.readmodel_keep_days * DAY_MS,
            ),
            spending=spending,
        )
        self._storage = open_storage(settings)
        erasing = ErasingParts(
            self._database, self._publisher, self._storage.remover, deletes, now_ms,
            acts=lambda: ERASES_WITH in self.projector.owned and self.projector.not_ready() is None,
            store=store_id(settings, random_hex),
        )  # fmt: skip
        self._eraser = Eraser(settings, erasing)
        health.watch("readmodel", self.projector.not_ready)

    async def run(self, stop: asyncio.Event) -> None:
        """Project and sweep until `stop`.

        :raises ConfigurationError: see `Projector.run`.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._project(stop), name="readmodel-projector")
                tasks.create_task(self._sweeper.run(stop), name="readmodel-sweep")
                tasks.create_task(self._stops.run(stop), name="budget-stops")
                tasks.create_task(self._eraser.run(stop), name="eraser")
        except ExceptionGroup as group:
            # Not `except*`: what is raised there comes as a group of one on CPython before 3.11.4.
            raise group.exceptions[0] from None
        finally:
            await self._storage.close()
            await self._database.close()

    async def _project(self, stop: asyncio.Event) -> None:
        try:
            await self.projector.run(stop)
        finally:
            await self._publisher.stop()


async def serve(
    settings: ProjectionSettings, now_ms: NowMs, stop: asyncio.Event, deletes: ResponseDeletes | None = None
) -> None:  # fmt: skip
    """Run the projection until `stop`; serve health and metrics on their own port, if one is set."""
    health = Health("readmodel")
    server = HealthServer(health, settings.readmodel_health_port, settings.health_host)
    projection = Projection(settings, now_ms, ProjectionMetrics(), health, deletes)
    await server.start()
    try:
        await projection.run(stop)
    finally:
        await server.stop()
