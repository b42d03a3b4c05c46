"""The composition root of `backstop serve`: ingress and reads on one port."""

import asyncio
from collections.abc import Awaitable
from functools import partial

from aiohttp import web
from aiokafka.errors import KafkaError
from prometheus_client import REGISTRY, CollectorRegistry

from backstop.outgoing.endpoints import EndpointFollower
from backstop.page.routes import add_page
from backstop.readmodel.budgets import Spending
from backstop.readmodel.database import Database, DatabaseAwayError
from backstop.readmodel.feed import ChangeFeed, StreamLimits
from backstop.readmodel.opening import database_at, folder_of
from backstop.readmodel.settings import OVERDUE_BOUND_MS, ProjectionSettings
from backstop.runtime.blob_folders import BlobFolders
from backstop.runtime.blob_stores import open_storage, store_id
from backstop.runtime.errors import BrokerUnavailableError, ConfigurationError
from backstop.runtime.http.health import Health, HealthServer
from backstop.runtime.http.routes import require_declared
from backstop.runtime.kafka.broker_clock import BrokerClock
from backstop.runtime.kafka.publisher import KafkaPublisher, Publisher
from backstop.runtime.kafka.topics import require_topics
from backstop.runtime.kafka.troubles import Troubles
from backstop.runtime.process.chance import random_hex
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.disk import nearly_full_probe
from backstop.runtime.process.logs import get_logger
from backstop.runtime.startup import stop_on_signals
from receiver.access.identity import PAGE, caller_of, tenant_of
from receiver.access.priorities import limited_by
from receiver.app import BLOBS, KEYS, LIVE, PREVIOUS, RESPONSES, SUBMISSIONS, beside, build_app
from receiver.app import serve as serve_app
from receiver.lane_watch import LaneWatch
from receiver.limits import Limits
from receiver.partial_output.tail import PartialTail
from receiver.reads.bulk import add_bulk_routes
from receiver.reads.bulk_retries import Retrying
from receiver.reads.costs import add_cost_routes
from receiver.reads.holding import holding
from receiver.reads.lanes import Publishing, add_lane_routes
from receiver.reads.leads import add_leads
from receiver.reads.letters import add_letter_routes
from receiver.reads.lookups import DatabaseReads, FeedChanges
from receiver.reads.overview import BesideReadModel, Rights, add_overview_routes
from receiver.reads.routes import JustTaken, add_routes
from receiver.reads.search import add_search_routes
from receiver.reads.shown import Shown
from receiver.reads.status import SystemWatch, add_status_route, system_watch
from receiver.reads.why import add_why_route
from receiver.settings import ReceiverSettings
from streams.policy.prices import read_prices
from streams.price_settings import SHIPPED_PRICES

AGAIN_S = 1.0
LANE_WATCH: web.AppKey[LaneWatch] = web.AppKey("lane_watch", LaneWatch)
WEBHOOKS_OFF = "off: BACKSTOP_WEBHOOK_SECRETS is not set, so webhooks are refused, and ends are found by polling"

log = get_logger("serve")


async def run(settings: ReceiverSettings, reads: ProjectionSettings, own_now_ms: NowMs) -> None:
    """Serve until SIGTERM or SIGINT.

    :raises ConfigurationError: settings, topics or the database's schema are wrong, or an address can't be bound.
    """
    stop = asyncio.Event()
    stop_on_signals(stop)
    store = store_id(settings, random_hex)
    health = Health("serve")
    folders_used = [None if settings.blobs else settings.blobs_path, folder_of(reads.readmodel_url)]
    disks = [nearly_full_probe(folder) for folder in folders_used if folder is not None]

    def trouble() -> str | None:
        return health.trouble() or next(filter(None, (low() for low in disks)), None)

    publisher = KafkaPublisher(settings, "receiver", store, trouble)
    clock = BrokerClock(own_now_ms, publisher)
    now_ms = clock.now_ms
    database = database_at(reads.readmodel_url, now_ms)
    limits = Limits()
    health.expect("broker", "readmodel")
    folders = None if store is None else BlobFolders(store, now_ms)
    bound_ms = reads.readmodel_overdue_bound_ms
    watch = system_watch(settings, now_ms, REGISTRY)
    app = application(
        settings,
        publisher,
        database,
        now_ms,
        limits,
        health,
        REGISTRY,
        bound_ms,
        folders,
        Spending(reads.budgets, reads.prices()),
        watch,
    )
    if not settings.webhook_secrets:
        log.warning("webhooks_off", reason=WEBHOOKS_OFF)
    admin = HealthServer(health, settings.admin_port, settings.admin_host)
    # Serve without broker or database too: requests that need them are answered 503, and clients and OpenAI retry.
    opening = [
        asyncio.create_task(_connect(settings, publisher, clock, health, stop), name="connect"),
        asyncio.create_task(_open(database, health), name="open-readmodel"),
        asyncio.create_task(app[LANE_WATCH].run(), name="lane-watch"),
        asyncio.create_task(_tail(settings, app, now_ms, limits, folders, watch.troubles).run(), name="partial-tail"),
        asyncio.create_task(watch.run(), name="watch-system"),
    ]
    failures: list[BaseException] = []
    for task in opening:
        task.add_done_callback(lambda done: _stop_on_failure(done, stop, failures))
    try:
        await _listen(admin.start(), settings.admin_host, settings.admin_port)
        serving = serve_app(app, settings.host, settings.port, limits, stop, settings.port_file)
        await _listen(serving, settings.host, settings.port)
    finally:
        await admin.stop()
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        await publisher.stop()
        await database.close()
    if failures:
        raise failures[0]


def application(
    settings: ReceiverSettings, publisher: Publisher, database: Database, now_ms: NowMs, limits: Limits, health: Health,
    registry: CollectorRegistry, overdue_bound_ms: int = OVERDUE_BOUND_MS, folders: BlobFolders | None = None,
    spending: Spending | None = None, watch: SystemWatch | None = None,
) -> web.Application:  # fmt: skip
    """The application for the public port. Does not open, connect or bind anything.

    :raises ConfigurationError: see `build_app`.
    :raises InvariantError: a route has no declaration.
    """
    storage = open_storage(settings)
    health.watch("blobs", lambda: storage.complaint() or (None if folders is None else folders.not_ready()))
    if not settings.webhook_secrets:
        health.watch("webhooks", lambda: WEBHOOKS_OFF, "note")
    if folders is not None:
        health.watch("blob_stores", folders.difference, "note")
    spending = spending or Spending((), read_prices(SHIPPED_PRICES))
    watch = watch or system_watch(settings, now_ms)
    feed = ChangeFeed(database, registry, StreamLimits())
    endpoints = EndpointFollower(settings)
    app = build_app(
        settings, publisher, storage.blobs, now_ms, random_hex, DatabaseReads(database),
        endpoints=endpoints, limits=limits, registry=registry, health=health, changes=FeedChanges(feed),
        claims=storage.claims, folders=folders,
    )  # fmt: skip
    app.on_cleanup.append(lambda _app: endpoints.stop())
    app.on_cleanup.append(lambda _app: storage.close())
    blobs = app[BLOBS]
    taken = JustTaken(app[SUBMISSIONS].accepted, app[RESPONSES].is_hidden)
    lane_watch = app[LANE_WATCH] = LaneWatch(settings, now_ms)
    watch.lanes = lane_watch.lanes
    shown = Shown(now_ms, holding(watch, lane_watch), spending.prices)
    add_routes(
        app,
        database,
        blobs,
        tenant_of,
        registry,
        taken=taken,
        feed=feed,
        shown=shown,
    )
    rights = Rights(tenant_of, lambda request: caller_of(request).scopes)
    beside_rows = BesideReadModel(spending, folders, lane_watch, watch, app[KEYS].expiring)
    add_overview_routes(app, database, rights, now_ms, overdue_bound_ms, beside_rows)
    add_cost_routes(app, database, tenant_of, now_ms, spending)
    publishing = Publishing(publisher, limits, limited_by(app[KEYS].priorities_of))
    add_lane_routes(app, database, rights, now_ms, lane_watch, publishing)
    add_letter_routes(app, settings, database, rights, now_ms, limits)
    retrying = Retrying(app[SUBMISSIONS], blobs, app[PREVIOUS].allows_again)
    add_bulk_routes(app, database, rights, now_ms, spending.prices, publishing, retrying)
    add_search_routes(app, database, blobs, tenant_of, shown, taken)
    add_status_route(app, watch, now_ms)
    add_why_route(app, database, tenant_of, now_ms, spending.prices, taken, lane_watch, watch.holds_up)
    add_page(app)
    add_leads(app)
    for sweep in storage.sweeping:
        beside(app, "sweep-storage", partial(sweep, now_ms))
    for probe in storage.probing:
        beside(app, "probe-storage", probe)
    require_declared(app, files_below=PAGE)
    return app


async def _listen(serving: Awaitable[None], host: str, port: int) -> None:
    """:raises ConfigurationError: the address can't be bound."""
    try:
        await serving
    except OSError as error:
        raise ConfigurationError(f"can't listen on {host}:{port}: {error.strerror or error}") from error


async def _connect(
    settings: ReceiverSettings, publisher: KafkaPublisher, clock: BrokerClock, health: Health, stop: asyncio.Event
) -> None:
    """Check the topics, start the producer and follow the broker's clock. Retries until connected.

    :raises ConfigurationError: a topic is missing, or its configuration would break Backstop.
    """
    while True:
        try:
            for difference in await require_topics(settings):
                log.warning("topic_differs", topic=difference.topic, difference=str(difference))
            await publisher.start()
            await clock.first()
        except (BrokerUnavailableError, KafkaError, OSError) as error:
            health.unmet("broker", "not connected")  # public: reason and address go to the log only
            log.warning("broker_unavailable", error_type=type(error).__name__, reason=str(error))
            await publisher.stop()
            await asyncio.sleep(AGAIN_S)
        else:
            health.met("broker")
            await clock.run(stop)
            return


def _tail(
    settings: ReceiverSettings, app: web.Application, now_ms: NowMs, limits: Limits, folders: BlobFolders | None,
    troubles: Troubles,
) -> PartialTail:  # fmt: skip
    return PartialTail(settings, app[LIVE], now_ms, int(limits.partials_back_s * 1000), folders, troubles)


async def _open(database: Database, health: Health) -> None:
    """Open the read model. Retries until it is reachable.

    :raises ConfigurationError: the database has the schema of another release.
    """
    while True:
        try:
            await database.open()
        except DatabaseAwayError as error:
            health.unmet("readmodel", "not reachable")
            log.warning("readmodel_unavailable", error_type=type(error).__name__, reason=str(error))
            await asyncio.sleep(AGAIN_S)
        else:
            health.met("readmodel")
            return


def _stop_on_failure(task: "asyncio.Task[None]", stop: asyncio.Event, failures: list[BaseException]) -> None:
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        failures.append(error)
        stop.set()
