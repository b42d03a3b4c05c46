"""The receiver as a process: `python -m receiver`. On SIGTERM and SIGINT it finishes open requests and stops."""

import asyncio
import signal
import sys
from functools import partial

import uvloop
from prometheus_client import REGISTRY
from pydantic import ValidationError

from backstop.runtime.blob_stores import open_storage
from backstop.runtime.errors import BackstopError, ConfigurationError
from backstop.runtime.http.health import HealthServer
from backstop.runtime.kafka.publisher import KafkaPublisher
from backstop.runtime.process import failpoints
from backstop.runtime.process.chance import random_hex
from backstop.runtime.process.clock import make_clock
from backstop.runtime.process.files import make_private, private_umask
from backstop.runtime.process.garbage import settle_garbage_collector
from backstop.runtime.process.logs import configure, get_logger
from receiver.app import HEALTH, beside, build_app, serve
from receiver.limits import Limits
from receiver.settings import ReceiverSettings

CONNECT_AGAIN_S = 1.0

log = get_logger("receiver.main")


async def run(settings: ReceiverSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    :raises ConfigurationError: see `build_app`.
    :raises OSError: the address can't be bound.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    publisher = KafkaPublisher(settings, "receiver")
    limits = Limits()
    storage = open_storage(settings)
    now_ms = make_clock(settings.clock_offset_ms)
    app = build_app(
        settings, publisher, storage.blobs, now_ms, random_hex, limits=limits, registry=REGISTRY, claims=storage.claims
    )
    app[HEALTH].watch("blobs", storage.complaint)
    for probe in storage.probing:
        beside(app, "probe-storage", probe)
    for sweep in storage.sweeping:
        beside(app, "sweep-storage", partial(sweep, now_ms))
    app[HEALTH].expect("broker")
    admin = HealthServer(app[HEALTH], settings.admin_port, settings.admin_host)

    async def connect() -> None:
        """Connect to the broker, retrying every `CONNECT_AGAIN_S`. Until then requests are answered 503."""
        while True:
            try:
                await publisher.start()
            except Exception as error:  # any error of Kafka's client: without a connection nothing is accepted
                app[HEALTH].unmet("broker", f"not connected: {type(error).__name__}")
                log.warning("broker_unavailable", error_type=type(error).__name__)
                await publisher.stop()
                await asyncio.sleep(CONNECT_AGAIN_S)
            else:
                app[HEALTH].met("broker")
                return

    connecting = asyncio.create_task(connect(), name="connect")
    try:
        await admin.start()
        await serve(app, settings.host, settings.port, limits, stop, settings.port_file)
    finally:
        await admin.stop()
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        await publisher.stop()


def main() -> int:
    """Exit codes: 0 stopped by a signal, 2 the operator must correct the configuration."""
    private_umask()
    try:
        settings = ReceiverSettings()
        make_private(settings.data_dir)
        configure(settings.log_format, settings.log_level, "receiver")
        try:
            failpoints.arm(settings.failpoints)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        if failpoints.armed():
            log.warning("failpoints_armed", failpoints=failpoints.armed())
        settle_garbage_collector()
        uvloop.run(run(settings))
    except ValidationError as error:
        print(f"backstop receiver: {error}", file=sys.stderr)
        return 2
    except (BackstopError, OSError) as error:
        print(f"backstop receiver: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
