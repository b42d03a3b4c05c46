"""The receiver as a process, on a real broker: what was answered 2xx is on the topic, whatever happens to
either of them.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import TypeAdapter

from backstop.dev.broker import Broker, LocalKafka, Owned
from backstop.runtime.kafka.topics import create_topics
from backstop.runtime.settings import RuntimeSettings
from schemas.base import Message
from schemas.codec import decode
from schemas.dead_letters import DEAD_LETTER
from schemas.jobs import JOB_FACT, CancelRequested, JobSubmitted
from schemas.responses import RESPONSE_FACT, WebhookReceived
from tests.support.reading import records_on
from tests.support.waiting import eventually
from tests.unit.receiver.ingress import SECRET, signed

ROOT = Path(__file__).parents[2]
ADAPTERS: dict[str, TypeAdapter[Any]] = {
    "jobs": JOB_FACT, "responses": RESPONSE_FACT, "dead-letters": DEAD_LETTER,
}  # fmt: skip
PARTITIONS = 2
SERVE = (sys.executable, "-P", "-m", "backstop.cli", "serve")


@dataclass
class Receiver:
    """`backstop serve` and a client that speaks to it."""

    process: subprocess.Popen[bytes]
    url: str
    session: aiohttp.ClientSession

    async def post(self, path: str, **options: object) -> int:
        """The status, or 0 where no answer came."""
        try:
            async with self.session.post(f"{self.url}{path}", **options) as response:  # type: ignore[arg-type]
                await response.read()
                return response.status
        except aiohttp.ClientError:
            return 0

    async def submit(self, job_id: str) -> int:
        return await self.post("/v1/jobs", json={"job_id": job_id, "request": {"model": "m", "input": "x"}})

    async def webhook(self, webhook_id: str, response_id: str = "resp_1", kind: str = "response.completed") -> int:
        body = b'{"type":"%s","created_at":1,"data":{"id":"%s"}}' % (kind.encode(), response_id.encode())
        headers = signed(body, webhook_id=webhook_id, at_s=int(time.time()))
        return await self.post("/webhooks/openai", data=body, headers=headers)

    async def ready(self) -> bool:
        async with self.session.get(f"{self.url}/readyz") as response:
            return response.status == 200

    async def works(self) -> None:
        """Wait until it publishes."""

        async def accepted() -> bool:
            return await self.submit(f"probe-{time.monotonic_ns()}") == 202

        await eventually(accepted, 30, "the receiver to accept again", poll_s=0.2)


@asynccontextmanager
async def running(
    bootstrap: str, prefix: str, folder: Path, failpoints: str = "", under: Sequence[str] = ()
) -> AsyncIterator[Receiver]:
    """`under`: a command that runs the receiver, in its own place."""
    port_file = folder / f"port-{time.monotonic_ns()}"
    environment = {
        **{
            name: value for name, value in os.environ.items() if not name.startswith(("BACKSTOP_", "OPENAI_", "KAFKA_"))
        },
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "BACKSTOP_TOPIC_PREFIX": prefix,
        "BACKSTOP_PARTITIONS": str(PARTITIONS),
        "BACKSTOP_DATA_DIR": str(folder / "data"),
        "BACKSTOP_PORT": "0",
        "BACKSTOP_DEVELOPMENT": "true",
        "BACKSTOP_PORT_FILE": str(port_file),
        "BACKSTOP_WEBHOOK_SECRETS": SECRET,
        "BACKSTOP_FAILPOINTS": failpoints,
    }
    with (folder / "receiver.log").open("ab") as log:
        process = subprocess.Popen([*under, *SERVE], cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        await eventually(lambda: port_file.exists() or process.poll() is not None, 60, "the receiver to listen")
        assert process.poll() is None, (folder / "receiver.log").read_text()
        timeout = aiohttp.ClientTimeout(total=15)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            yield Receiver(process, f"http://127.0.0.1:{port_file.read_text()}", session)
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)
    assert SECRET not in (folder / "receiver.log").read_text()


async def make_topics(bootstrap: str, prefix: str) -> None:
    await create_topics(RuntimeSettings(kafka_bootstrap_servers=bootstrap, topic_prefix=prefix, partitions=PARTITIONS))


async def on_topic(bootstrap: str, prefix: str, name: str) -> list[Message]:
    """Every record that stands on a topic now, decoded; its key is the message's."""
    found = []
    for record in await records_on(bootstrap, f"{prefix}{name}"):
        message = decode(ADAPTERS[name], record.value)
        assert record.key == message.key.encode()
        assert dict(record.headers)["ce_id"] == message.id.encode()
        found.append(message)
    return found


def run(story: Awaitable[None]) -> None:
    async def main() -> None:
        await story

    asyncio.run(main())


def test_what_was_answered_2xx_is_on_the_topic(broker: Owned, prefix: str, tmp_path: Path) -> None:
    async def story() -> None:
        await make_topics(broker.bootstrap, prefix)
        async with running(broker.bootstrap, prefix, tmp_path) as receiver:
            await receiver.works()
            assert await receiver.ready()
            assert await receiver.submit("mine") == 202
            assert await receiver.submit("mine") == 200
            assert await receiver.post("/v1/jobs/mine/cancel") == 202
            assert await receiver.webhook("wh_1") == 200
            assert await receiver.webhook("wh_2", kind="response. no event") == 200
            assert await receiver.webhook("wh_3", kind="batch.completed") == 200, "of no response: counted alone"
            forged = signed(b"{}", secret="whsec_" + "A" * 43 + "=", at_s=int(time.time()))
            assert await receiver.post("/webhooks/openai", data=b"{}", headers=forged) == 401

        mine = [fact for fact in await on_topic(broker.bootstrap, prefix, "jobs") if fact.key == "mine"]
        assert [type(fact) for fact in mine] == [JobSubmitted, CancelRequested]
        (webhook,) = await on_topic(broker.bootstrap, prefix, "responses")
        assert isinstance(webhook, WebhookReceived)
        assert (webhook.webhook_id, webhook.key, webhook.ended_at_ms) == ("wh_1", "resp_1", 1_000)
        (letter,) = await on_topic(broker.bootstrap, prefix, "dead-letters")
        assert letter.id == "wh_2/set-aside"

    run(story())


async def promised_while(receiver: Receiver, name: str, disturb: Callable[[], Awaitable[None]]) -> dict[str, int]:
    """Keep four callers submitting while `disturb` runs: job id to status."""
    heard: dict[str, int] = {}
    over = asyncio.Event()

    async def caller(number: int) -> None:
        count = 0
        while not over.is_set():
            count += 1
            job_id = f"{name}-{number}-{count}"
            heard[job_id] = await receiver.submit(job_id)

    callers = [asyncio.create_task(caller(number)) for number in range(4)]
    try:
        await disturb()
    finally:
        over.set()
        await asyncio.gather(*callers)
    return heard


@pytest.mark.slow
def test_a_broker_that_freezes_or_dies_is_a_503_and_never_a_false_2xx(
    local_kafka: LocalKafka, prefix: str, tmp_path: Path
) -> None:
    async def story(broker: Broker) -> None:
        await make_topics(broker.bootstrap, prefix)
        async with running(broker.bootstrap, prefix, tmp_path) as receiver:
            await receiver.works()

            async def freeze() -> None:
                broker.pause()
                assert await receiver.webhook("wh_frozen") == 503
                assert not await receiver.ready()
                broker.resume()
                await receiver.works()

            async def crash() -> None:
                await asyncio.to_thread(broker.kill)
                assert await receiver.webhook("wh_dead") == 503
                await asyncio.to_thread(broker.start)
                await receiver.works()

            heard = await promised_while(receiver, "freeze", freeze)
            heard |= await promised_while(receiver, "crash", crash)
            assert await receiver.ready()
            assert await receiver.webhook("wh_after") == 200

        assert set(heard.values()) == {202, 503}
        jobs = await on_topic(broker.bootstrap, prefix, "jobs")
        landed = {fact.key for fact in jobs}
        promised = {job_id for job_id, status in heard.items() if status == 202}
        assert promised <= landed
        assert "wh_after/received" in {fact.id for fact in await on_topic(broker.bootstrap, prefix, "responses")}

    with Broker(local_kafka) as broker:
        run(story(broker))


@pytest.mark.slow
@pytest.mark.long
def test_it_starts_without_a_broker_and_works_once_there_is_one(
    local_kafka: LocalKafka, prefix: str, tmp_path: Path
) -> None:
    async def story(broker: Broker) -> None:
        await make_topics(broker.bootstrap, prefix)
        await asyncio.to_thread(broker.kill)
        async with running(broker.bootstrap, prefix, tmp_path) as receiver:
            assert not await receiver.ready()
            assert await receiver.submit("early") == 503
            assert await receiver.webhook("wh_early") == 503
            await asyncio.to_thread(broker.start)
            await receiver.works()
            await eventually(receiver.ready, 10, "the receiver to say that it is ready")

    with Broker(local_kafka) as broker:
        run(story(broker))


@pytest.mark.parametrize(
    ("place", "landed"),
    [
        pytest.param("receiver.webhook.verified", 0, marks=pytest.mark.long),
        pytest.param("receiver.webhook.acked", 1, marks=pytest.mark.long),
        ("receiver.job.acked", 1),
    ],
)
def test_a_receiver_killed_before_its_answer_promised_nothing_and_the_repeat_is_known(
    broker: Owned, prefix: str, tmp_path: Path, place: str, landed: int
) -> None:
    topic = "jobs" if "job" in place else "responses"

    async def ask(receiver: Receiver) -> int:
        return await (receiver.submit("mine") if topic == "jobs" else receiver.webhook("wh_1"))

    async def story() -> None:
        await make_topics(broker.bootstrap, prefix)
        async with running(broker.bootstrap, prefix, tmp_path, f"{place}=kill") as receiver:
            await eventually(receiver.ready, 10, "the receiver to be connected")
            assert await ask(receiver) == 0
            assert await asyncio.to_thread(receiver.process.wait, 10) == -signal.SIGKILL
        assert len(await on_topic(broker.bootstrap, prefix, topic)) == landed
        async with running(broker.bootstrap, prefix, tmp_path) as receiver:
            await eventually(receiver.ready, 10, "the receiver to be connected")
            assert await ask(receiver) in {200, 202}
        repeats = await on_topic(broker.bootstrap, prefix, topic)
        assert len(repeats) == landed + 1
        assert len({fact.id for fact in repeats}) == 1

    run(story())


def test_sigterm_ends_it_in_order(broker: Owned, prefix: str, tmp_path: Path) -> None:
    async def story() -> None:
        await make_topics(broker.bootstrap, prefix)
        async with running(broker.bootstrap, prefix, tmp_path) as receiver:
            await receiver.works()
            receiver.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(receiver.process.wait, 10) == 0

    run(story())


def test_without_a_usable_secret_it_does_not_start_and_says_why(tmp_path: Path) -> None:
    secret = "whsec_" + "c2hvcnQ="
    done = subprocess.run(
        SERVE, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
        env={**os.environ, "BACKSTOP_WEBHOOK_SECRETS": secret, "BACKSTOP_DATA_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2
    assert re.search(r"BACKSTOP_WEBHOOK_SECRETS, secret 1: .*24 to 64 bytes", done.stderr)
    assert secret not in done.stderr + done.stdout
