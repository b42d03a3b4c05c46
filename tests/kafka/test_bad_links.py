"""A link to the broker that is narrow, or hands everything on in pieces of a few bytes: slower, and nothing else."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from backstop.dev.broker import Broker, LocalKafka
from backstop.dev.broker.jvm import NodeOptions
from tests.kafka.test_receiver import make_topics, on_topic, promised_while, run, running
from tests.support.fault_proxy import HOST, FaultProxy, Faults

BAD_S = 2.0
NARROW = Faults(bytes_per_s=20_000)
SLICED = Faults(slice_bytes=5)


@pytest.fixture(scope="module")
def proxied(local_kafka: LocalKafka) -> Iterator[tuple[Broker, FaultProxy]]:
    """A broker that clients reach through the proxy only. Each test starts the proxy in its loop, on the same port."""
    proxy = FaultProxy(0)

    async def draw() -> None:
        await proxy.start()
        await proxy.stop()

    asyncio.run(draw())
    with Broker(local_kafka, options=NodeOptions(advertised=proxy.address)) as broker:
        proxy.target = (HOST, int(broker.listen.rpartition(":")[2]))
        yield broker, proxy


@pytest.mark.parametrize("faults", [NARROW, pytest.param(SLICED, marks=pytest.mark.long)], ids=["narrow", "sliced"])
def test_over_a_bad_link_every_promise_is_kept_and_every_record_is_read_whole(
    proxied: tuple[Broker, FaultProxy], prefix: str, tmp_path: Path, faults: Faults
) -> None:
    broker, proxy = proxied

    async def story() -> None:
        await proxy.start(proxy.port)
        try:
            await make_topics(broker.direct, prefix)
            async with running(broker.bootstrap, prefix, tmp_path) as receiver:
                await receiver.works()

                async def worsen() -> None:
                    proxy.faults = faults
                    await asyncio.sleep(BAD_S)  # the time that it is bad

                heard = await promised_while(receiver, "bad", worsen)
                promised = {job_id for job_id, status in heard.items() if status == 202}
                assert set(heard.values()) <= {202, 503}
                assert promised, "nothing went through"
                records = await on_topic(broker.direct, prefix, "jobs")
                assert promised <= {fact.key for fact in records}
                async with asyncio.timeout(30):
                    assert len(await on_topic(broker.bootstrap, prefix, "jobs")) >= len(records)
                proxy.heal()
                await receiver.works()
        finally:
            await proxy.stop()

    run(story())
