"""Whether a broker answers. Blocking, callable with or without a running event loop."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from backstop.runtime.kafka.lifetimes import running

CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 10.0


def reachable(bootstrap: str) -> bool:
    """Whether one of the addresses accepts a connection. Needs no credentials of the broker."""
    return bool(_run(_any_accepts(bootstrap)))


def answers(bootstrap: str) -> bool:
    """Whether a broker at `bootstrap` answers a metadata request with at least one live broker. Never raises."""
    return bool(_run(_answers(bootstrap)))


def _run(coroutine: Coroutine[Any, Any, bool]) -> bool:
    # In a separate thread, so that it also works where an event loop runs.
    with ThreadPoolExecutor(1, thread_name_prefix="broker-ready") as pool:
        return pool.submit(asyncio.run, coroutine).result()


async def _answers(bootstrap: str) -> bool:
    from aiokafka.admin import AIOKafkaAdminClient  # noqa: PLC0415 - most of the time to import this package

    # Try a plain connection first: aiokafka logs an error for a closed port, which is a normal answer here.
    if not await _any_accepts(bootstrap):
        return False
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=int(ANSWER_TIMEOUT_S * 1000))
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S), running(admin):
            cluster = await admin.describe_cluster()
    except Exception:  # any failure means that the broker does not answer
        return False
    return bool(cluster["brokers"])


async def _any_accepts(bootstrap: str) -> bool:
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except (OSError, ValueError, TimeoutError):
            continue
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return True
    return False
