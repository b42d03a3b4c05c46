"""The composition root of `backstop outgoing`."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from aiokafka.errors import KafkaError

from backstop.outgoing.attempts import DeliveryAttempts, SignedPosts
from backstop.outgoing.egress import SystemLookup
from backstop.outgoing.endpoints import EndpointFollower
from backstop.outgoing.metrics import OutgoingMetrics
from backstop.outgoing.resends import ResultsReader
from backstop.outgoing.secrets import SecretKeys
from backstop.outgoing.sender import Sender
from backstop.outgoing.service import DELIVERIES, RESULTS, Service
from backstop.outgoing.settings import OutgoingSettings
from backstop.outgoing.turns import DeliveryTurns
from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.http.health import Health, HealthServer
from backstop.runtime.kafka.broker_clock import BrokerClock
from backstop.runtime.kafka.consumer_group import ConsumerGroup
from backstop.runtime.kafka.publisher import KafkaPublisher
from backstop.runtime.kafka.reporting import Reporting
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.logs import get_logger

log = get_logger("outgoing")

DRAIN_S = 5.0
"""Time for running attempts after the stop signal; the next process repeats what is left."""
STOP_S = 2.0
CONNECT_AGAIN_S = 1.0


class Stoppable(Protocol):
    async def stop(self) -> None: ...


def checked(settings: OutgoingSettings) -> OutgoingSettings:
    """The settings, once all that `serve` makes of them has been made: a wrong one is refused before a broker is asked.

    :raises ConfigurationError: see `serve`.
    """
    SecretKeys(settings.outgoing_keys)
    settings.egress_rules()
    return settings


async def serve(settings: OutgoingSettings, own_now_ms: NowMs, stop: asyncio.Event) -> None:
    """Deliver webhooks until `stop`.

    :raises ConfigurationError: `outgoing_keys` is unusable, or loopback is allowed outside a development system.
    """
    secrets, rules = SecretKeys(settings.outgoing_keys), settings.egress_rules()
    health = Health("outgoing")
    publisher = KafkaPublisher(settings, "outgoing", trouble=health.trouble)
    clock = BrokerClock(own_now_ms, publisher)
    reporting = Reporting(publisher, OutgoingMetrics(), clock.now_ms)
    endpoints = EndpointFollower(settings)
    group = ConsumerGroup(
        settings, topics=[RESULTS, DELIVERIES], group="outgoing",
        session_timeout_ms=settings.outgoing_session_timeout_ms, isolation_level="read_committed",
    )  # fmt: skip
    turns = DeliveryTurns(settings.outgoing_attempts_max, settings.outgoing_endpoint_attempts_max)
    lookup = SystemLookup(settings.outgoing_attempts_max)
    sender = Sender(
        rules, lookup, timeout_s=settings.outgoing_timeout_ms / 1000, connections_max=settings.outgoing_attempts_max
    )
    service = Service(
        group=group, turns=turns, endpoints=endpoints, results=ResultsReader(settings), reporting=reporting,
        resend_max=settings.outgoing_resend_max,
    )  # fmt: skip
    attempts = DeliveryAttempts(
        turns=turns, find=service.find, posts=SignedPosts(endpoints, secrets, sender), reporting=reporting,
        policy=settings.retry_policy(), waiting_max=settings.outgoing_endpoint_waiting_max,
    )  # fmt: skip
    health.watch("deliveries", service.not_ready, "start")
    server = HealthServer(health, settings.outgoing_health_port, settings.health_host)

    async def deliver() -> None:
        await _connect(publisher, clock, group)
        await sender.start()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(service.run(attempts, stop))
            tasks.create_task(service.follow_endpoints(stop))
            tasks.create_task(service.resend(stop))
            tasks.create_task(attempts.run(stop, DRAIN_S))
            tasks.create_task(clock.run(stop))

    await server.start()
    try:
        await _until_stopped(stop, deliver())
    finally:
        lookup.close()
        parts: tuple[Stoppable, ...] = (group, sender, endpoints, publisher, server)
        await asyncio.gather(*map(_stopped, parts))


async def _until_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends after `stop`; cancel it if it still waits for a broker `DRAIN_S` + 1 s later.

    Raises the first exception of any of its tasks.
    """
    running, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({running}, timeout=DRAIN_S + 1)
    finally:
        stopping.cancel()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    if not running.cancelled() and (error := running.exception()) is not None:
        raise error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error


async def _stopped(part: Stoppable) -> None:
    """Stop `part` within `STOP_S`: it says goodbye to the broker, and a frozen broker would hold it for minutes."""
    try:
        async with asyncio.timeout(STOP_S):
            await part.stop()
    except TimeoutError:
        log.warning("stopped_without_an_answer", part=type(part).__name__)


async def _connect(publisher: KafkaPublisher, clock: BrokerClock, group: ConsumerGroup) -> None:
    """Reach the broker, learn its time and join the group; repeats until all succeed."""
    while True:
        try:
            await publisher.start()
            await clock.first()
            await group.join()
        except (BrokerUnavailableError, KafkaError, OSError) as error:
            log.warning("broker_unavailable", reason=str(error))
            await publisher.stop()
            await asyncio.sleep(CONNECT_AGAIN_S)
        else:
            return
