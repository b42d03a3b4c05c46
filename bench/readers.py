"""Measures delay and cost of reads: projection and receiver as real processes, on logs that this program writes.

    python bench/readers.py live [--rate 200] [--clients 1000] [--seconds 20]   result → row, → SSE client
    python bench/readers.py get [--requests 10000]                              GET /v1/jobs/{id} of ended jobs

Each prints one JSON object. The facts are valid ones of whole jobs: seven records each, the end a second after the
beginning. Workers, scheduler and provider do not run, as on two cores they would leave no time for the readers. `load`
is the machine's load average before and after: under other load, use the processor seconds and not the delays.
"""

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
import uvloop
from aiokafka import AIOKafkaProducer

from backstop.dev.broker import owned
from backstop.dev.ports import HOST, Ports
from backstop.dev.supervisor import Program, Supervisor
from backstop.readmodel.batch import Fact
from backstop.readmodel.database import Database
from backstop.readmodel.opening import database_at
from backstop.runtime.kafka.topics import create_topics
from backstop.runtime.process.clock import make_clock
from backstop.runtime.settings import RuntimeSettings
from schemas.base import DEFAULT_TENANT
from schemas.codec import encode
from schemas.job_ids import qualified_job_id
from tests.unit.backstop.readmodel.logs import accepted, claimed, observed, result_of, settled, submitted, webhook

PARTITIONS = 8
OUTPUT = "x" * 1_500
"""Length of an answer: some paragraphs."""
RUN_S = 1.0
WARM_S = 5.0
"""Not measured."""
GIVE_UP_S = 60.0
POLL_S = 0.01
HOUR_MS = 3_600_000
SECRET = "whsec_" + "A" * 32
COMPLETED = re.compile(rb'"job_id":"([^"]+)"[^\n]*"status":"completed"')


@dataclass
class Readers:
    """The running processes and their addresses."""

    url: str
    settings: RuntimeSettings
    database: Database
    producer: AIOKafkaProducer
    pids: Mapping[str, int | None]
    acked_s: dict[str, float] = field(default_factory=dict)
    """When the broker acknowledged each job's result, by the monotonic clock."""

    async def send(self, facts: Iterable[Fact]) -> None:
        for fact in facts:
            topic = f"{self.settings.topic_prefix}{fact.topic}"
            sent = await self.producer.send(topic, encode(fact), key=fact.key.encode())
            if fact.topic == "results":
                sent.add_done_callback(lambda _done, key=fact.key: self.acked_s.__setitem__(key, time.monotonic()))

    def cpu_s(self) -> dict[str, float]:
        """Processor seconds of each process so far."""
        tick = os.sysconf("SC_CLK_TCK")
        stats = {
            name: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for name, pid in self.pids.items()
        }
        return {name: (int(fields[11]) + int(fields[12])) / tick for name, fields in stats.items()}

    def resident_mib(self, name: str) -> float:
        (line,) = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.pids[name]}/status").read_text())
        return round(int(line) / 1024, 1)


@asynccontextmanager
async def readers(folder: Path) -> AsyncIterator[Readers]:
    ports = Ports()
    with owned(os.environ) as kafka:
        settings = RuntimeSettings(
            kafka_bootstrap_servers=kafka.bootstrap,
            topic_prefix=f"bench{os.getpid()}.",
            partitions=PARTITIONS,
            data_dir=folder,
        )
        await create_topics(settings)
        url = f"sqlite:///{folder}/readmodel.db"
        serve, projection = ports.draw(), ports.draw()
        environment = {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
            "BACKSTOP_TOPIC_PREFIX": settings.topic_prefix,
            "BACKSTOP_PARTITIONS": str(PARTITIONS),
            "BACKSTOP_DATA_DIR": str(folder),
            "BACKSTOP_DATABASE_URL": url,
            "BACKSTOP_WEBHOOK_SECRETS": SECRET,
            "BACKSTOP_PORT": str(serve),
            "BACKSTOP_DEVELOPMENT": "true",
            "BACKSTOP_READMODEL_HEALTH_PORT": str(projection),
            "BACKSTOP_LOG_LEVEL": "warning",
        }
        programs = [
            Program(
                name,
                (sys.executable, "-P", "-m", "backstop.cli", name),
                environment,
                answers(f"http://{HOST}:{port}/readyz"),
            )
            for name, port in (("serve", serve), ("projection", projection))
        ]
        supervisor = Supervisor(programs, folder / "logs", lambda text: print(text, file=sys.stderr))
        database = database_at(url, make_clock())
        producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, acks="all", enable_idempotence=True)
        try:
            await supervisor.start()
            await database.open()
            await producer.start()
            pids = {name: supervisor.pid(name) for name in ("serve", "projection")}
            if kafka.node is not None:
                pids["broker"] = kafka.node.pid
            yield Readers(f"http://{HOST}:{serve}", settings, database, producer, pids)
        finally:
            await producer.stop()
            await database.close()
            await supervisor.stop()
            ports.release()


def answers(url: str) -> Any:
    async def ask() -> str | None:
        try:
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                return None if answer.status == 200 else (await answer.text())[:500]
        except (aiohttp.ClientError, OSError) as error:
            return repr(error)

    return ask


def job(
    number: int, session_id: str, at_ms: int, tenant: str = DEFAULT_TENANT
) -> tuple[list[Fact], list[Fact]]:  # fmt: skip
    """The facts of a completed job: those of its beginning, and those of its end."""
    job_id, response_id = qualified_job_id(tenant, f"bench-{number:07}"), f"resp_{number:07}"
    due_ms = at_ms + HOUR_MS
    first = submitted(job_id, at_ms=at_ms, session_id=session_id, deadline_at_ms=due_ms, tenant=tenant)
    taken = accepted(job_id, at_ms=at_ms, response_id=response_id).model_copy(update={"poll_at_ms": due_ms})
    claim = claimed(job_id, response_id, at_ms=at_ms).model_copy(update={"poll_at_ms": due_ms})
    end = settled(job_id, at_ms=at_ms + 1_000, response_id=response_id, output=OUTPUT)
    heard, seen = webhook(response_id, at_ms=at_ms + 900), observed(response_id, at_ms=at_ms + 950)
    return [first, taken, claim], [heard, seen, end, result_of(first, taken, end)]


class Listener(asyncio.Protocol):
    """One SSE client, as cheap as possible: this process runs a thousand of them."""

    def __init__(self, host: str, path: str, seen_s: dict[str, float]) -> None:
        self._request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n".encode()
        self._rest = b""
        self._seen_s = seen_s
        self.answered = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        now_s = time.monotonic()
        if not self.answered:
            assert data.startswith(b"HTTP/1.1 200"), data[:200]
            self.answered = True
        whole, _, self._rest = (self._rest + data).rpartition(b"\n\n")
        for found in COMPLETED.finditer(whole):
            self._seen_s.setdefault(found[1].decode(), now_s)

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost = True


async def live(rate: float, clients: int, seconds: float) -> dict[str, Any]:
    before = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="backstop-bench-") as folder:
        async with readers(Path(folder)) as running:
            listeners, heard_s = await listening(running, clients)
            rows_s: dict[str, float] = {}
            watching = asyncio.create_task(watch_rows(running.database, rows_s))
            now_ms = make_clock()
            first = clients  # the jobs before are of the sessions' beginnings
            count, warm = round(rate * (seconds + WARM_S)), round(rate * WARM_S)
            jobs = [job(first + n, f"s{n % clients}", now_ms()) for n in range(count)]
            cpu_before_s: dict[str, float] = {}
            late = round(rate * RUN_S)
            began_s = time.monotonic()
            for n in range(count + late):
                if n == warm:
                    cpu_before_s, measured_from_s = running.cpu_s(), time.monotonic()
                    own_before_s = time.process_time()
                await asyncio.sleep(max(0.0, began_s + n / rate - time.monotonic()))
                if n < count:
                    await running.send(jobs[n][0])
                if n >= late:
                    await running.send(jobs[n - late][1])
            wanted = {f"bench-{first + n:07}" for n in range(warm, count)}
            await until(lambda: wanted <= heard_s.keys() and wanted <= rows_s.keys(), "all results to be read")
            took_s = time.monotonic() - measured_from_s
            cpu_s = {name: round((at - cpu_before_s[name]) / took_s, 2) for name, at in running.cpu_s().items()}
            watching.cancel()
            return {
                "what": "live", "jobs_per_s": round(len(wanted) / seconds, 1), "clients": clients,
                "took_s": round(took_s, 1), "clients_lost": sum(listener.lost for listener in listeners),
                "row_ms": spread(rows_s[name] - running.acked_s[name] for name in wanted),
                "sse_ms": spread(heard_s[name] - running.acked_s[name] for name in wanted),
                "cores": {**cpu_s, "this": round((time.process_time() - own_before_s) / took_s, 2)},
                "serve_mib": running.resident_mib("serve"), "projection_mib": running.resident_mib("projection"),
                "load": [round(load, 1) for load in (before[0], os.getloadavg()[0])],
            }  # fmt: skip


async def listening(running: Readers, clients: int) -> tuple[list[Listener], dict[str, float]]:
    """A session with one job for each client, and all clients connected."""
    now_ms = make_clock()
    for number in range(clients):
        beginning, end = job(number, f"s{number}", now_ms())
        await running.send([*beginning, *end])
    heard_s: dict[str, float] = {}
    place = urlsplit(running.url)
    host, port = place.hostname, place.port
    assert host
    assert port
    listeners = [Listener(place.netloc, f"/v1/sessions/s{number}/events", heard_s) for number in range(clients)]
    loop = asyncio.get_running_loop()
    for listener in listeners:
        await loop.create_connection(lambda listener=listener: listener, host, port)  # type: ignore[misc]
    await until(lambda: all(listener.answered for listener in listeners), "all streams to begin")
    return listeners, heard_s


async def watch_rows(database: Database, seen_s: dict[str, float]) -> None:
    """When each job was first seen as completed, by a query every few milliseconds."""
    after = 0
    while True:
        found = await database.read(
            lambda conn, after=after: conn.rows(  # type: ignore[misc]
                "SELECT seq, job_id FROM changes WHERE seq > ? AND status = 'completed' ORDER BY seq", (after,)
            )
        )
        now_s = time.monotonic()
        for seq, job_id in found:
            seen_s.setdefault(job_id, now_s)
            after = seq
        await asyncio.sleep(POLL_S)


async def get(requests: int, clients: int) -> dict[str, Any]:
    before = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="backstop-bench-") as folder:
        async with readers(Path(folder)) as running:
            now_ms = make_clock()
            names = []
            for number in range(500):
                beginning, end = job(number, "s", now_ms())
                names.append(beginning[0].key)
                await running.send([*beginning, *end])
            async with aiohttp.ClientSession(running.url, connector=aiohttp.TCPConnector(limit=clients)) as session:

                async def ask(name: str) -> bool:
                    async with session.get(f"/v1/jobs/{name}?wait=30") as answer:
                        document = await answer.json()
                    return bool(document["status"] == "completed" and document["result"]["response"]["output_text"])

                assert all(await asyncio.gather(*(ask(name) for name in names))), "all have ended"
                cpu_before_s, began_s = running.cpu_s(), time.monotonic()

                async def some(count: int) -> None:
                    for number in range(count):
                        async with session.get(f"/v1/jobs/{names[number % len(names)]}") as answer:
                            await answer.read()
                            assert answer.status == 200

                await asyncio.gather(*(some(requests // clients) for _ in range(clients)))
                took_s, cpu_s = time.monotonic() - began_s, running.cpu_s()["serve"] - cpu_before_s["serve"]
            return {
                "what": "get", "requests": requests, "clients": clients, "per_s": round(requests / took_s),
                "per_s_of_a_core": round(requests / cpu_s), "cpu_us_each": round(cpu_s / requests * 1e6),
                "load": [round(load, 1) for load in (before[0], os.getloadavg()[0])],
            }  # fmt: skip


async def until(met: Any, what: str) -> None:
    deadline_s = time.monotonic() + GIVE_UP_S
    while not met():
        assert time.monotonic() < deadline_s, f"gave up waiting for {what}"
        await asyncio.sleep(0.05)


def spread(values_s: Iterable[float]) -> dict[str, float]:
    """In milliseconds; 0 where the acknowledgement arrived after the row was seen."""
    ordered = sorted(max(0.0, value_s) * 1000 for value_s in values_s)
    at = {f"p{p}": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 1) for p in (50, 90, 99)}
    return {**at, "max": round(ordered[-1], 1), "n": len(ordered)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("live", "get"))
    parser.add_argument("--rate", type=float, default=200.0, help="live: jobs a second")
    parser.add_argument("--clients", type=int, help="live: SSE clients (1000); get: connections (16)")
    parser.add_argument("--seconds", type=float, default=20.0, help="live: how long is measured")
    parser.add_argument("--requests", type=int, default=10_000, help="get: how many")
    given = parser.parse_args()
    if given.what == "live":
        figures = live(given.rate, given.clients or 1_000, given.seconds)
    else:
        figures = get(given.requests, given.clients or 16)
    print(json.dumps(uvloop.run(figures)))


if __name__ == "__main__":
    main()
