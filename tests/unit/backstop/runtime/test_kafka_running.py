"""`running` stops a Kafka client however its start, block or stop ends, and our code starts clients in no other way."""

import asyncio
import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from backstop.runtime.kafka.lifetimes import running, started, stopped

ROOT = Path(__file__).parents[4]
PACKAGES = ("backstop", "receiver", "streams")
MADE = re.compile(r"([\w.]+) = AIOKafka(?:Consumer|Producer|AdminClient)\(")
STARTED = re.compile(r"([\w.]+)\.start\(\)")


class Recorded:
    """A client that waits in `start` and `stop` until it is told to go on."""

    def __init__(self) -> None:
        self.may_start, self.may_stop = asyncio.Event(), asyncio.Event()
        self.starting, self.stopping = asyncio.Event(), asyncio.Event()
        self.live = False

    async def start(self) -> None:
        self.live = True
        self.starting.set()
        await self.may_start.wait()

    async def stop(self) -> None:
        self.stopping.set()
        await self.may_stop.wait()
        self.live = False


@pytest.mark.parametrize("make", [AIOKafkaConsumer, AIOKafkaProducer, AIOKafkaAdminClient])
def test_a_client_whose_start_is_cancelled_leaves_no_task_behind(make: Callable[..., Any]) -> None:
    async def main() -> None:
        asked, closed = asyncio.Event(), asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.set()
            await reader.read()
            writer.close()
            closed.set()

        async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            task = asyncio.create_task(started(make(bootstrap_servers=f"127.0.0.1:{port}")))
            await asked.wait()
            before = asyncio.all_tasks() - {task}
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            assert asyncio.all_tasks() <= before
            del task
            async with asyncio.timeout(10):
                while not closed.is_set():
                    gc.collect()  # aiokafka leaves closing its first connection to the garbage collector
                    await asyncio.sleep(0)

    asyncio.run(main())


def test_a_client_that_is_cancelled_in_its_start_or_in_its_block_is_stopped() -> None:
    async def main(*, in_start: bool) -> None:
        client = Recorded()
        client.may_stop.set()
        if not in_start:
            client.may_start.set()
        inside = asyncio.Event()

        async def use() -> None:
            async with running(client):
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(use())
        await (client.starting if in_start else inside).wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not client.live

    asyncio.run(main(in_start=True))
    asyncio.run(main(in_start=False))


def test_a_client_whose_stop_is_cancelled_goes_on_stopping() -> None:
    async def main() -> None:
        client = Recorded()
        client.may_start.set()
        await started(client)
        task = asyncio.create_task(stopped(client))
        await client.stopping.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.live
        client.may_stop.set()
        async with asyncio.timeout(5):
            await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
        assert not client.live

    asyncio.run(main())


def test_nothing_of_ours_starts_a_client_by_other_means() -> None:
    texts = {path: path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    made = {path: set(MADE.findall(text)) for path, text in texts.items()}
    assert any(made.values()), "no module makes a client: is this looking for the right names?"
    by_hand = {path: names & set(STARTED.findall(texts[path])) for path, names in made.items()}
    assert [f"{path.relative_to(ROOT)}: {names}" for path, names in by_hand.items() if names] == []
