"""A history that the whole system made on a real broker and then stopped; and the `backstop` command on it."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

from aiokafka import AIOKafkaProducer

from backstop.cli.main import main
from backstop.dev.fast_provider import BRISK, TIME_SCALE
from backstop.dev.system import Shape, System, running_system
from tests.support.reading import records_on
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
JOBS = 24
PARTITIONS = 3


@dataclass
class Ran:
    """One call of the command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Recorded:
    """Where the history is. `while_working`: `audit verify` was run while jobs were under way."""

    bootstrap: str
    prefix: str
    folder: Path
    while_working: Ran | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def backstop(self, *arguments: str, **environment: str) -> Ran:
        """The command in this process: starting another for each of a hundred calls takes minutes."""
        return ran_here(arguments, {**self.environment, **environment})

    def process(self, *arguments: str, **environment: str) -> Ran:
        """The command as a process of its own."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "backstop.cli", *arguments], cwd=ROOT, env={**self.environment, **environment},
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        return Ran(done.returncode, done.stdout, done.stderr)

    def publish(self, topic: str, key: bytes | None, value: bytes | None, partition: int | None = None) -> None:
        async def send() -> None:
            producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all")
            await producer.start()
            try:
                await producer.send_and_wait(f"{self.prefix}{topic}", value, key=key, partition=partition)
            finally:
                await producer.stop()

        asyncio.run(send())

    def records(self, topic: str) -> list[Any]:
        """All of a topic, by another way than the code under test: to the end offsets, partition after partition."""

        return asyncio.run(records_on(self.bootstrap, f"{self.prefix}{topic}"))


def ran_here(arguments: Sequence[str], environment: Mapping[str, str]) -> Ran:
    out, err, code = StringIO(), StringIO(), 0
    before = os.umask(0)
    with (
        patch.dict(os.environ, environment, clear=True),
        patch.object(sys, "argv", ["backstop", *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            os.umask(before)
    return Ran(code, out.getvalue(), err.getvalue())


def record(bootstrap: str, prefix: str, folder: Path) -> Recorded:
    """Run the system until every job has its result and the read model has it, and stop it."""
    history = Recorded(bootstrap, prefix, folder)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BACKSTOP_", "OPENAI_"))}
    history.environment = {
        **kept,
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "BACKSTOP_TOPIC_PREFIX": prefix,
        "BACKSTOP_PARTITIONS": str(PARTITIONS),
        "BACKSTOP_STATE_DIR": str(folder / "state"),
        "BACKSTOP_DATA_DIR": str(folder),
    }
    shape = Shape(
        folder=folder,
        keep=True,
        environment={**history.environment, **BRISK},
        partitions=PARTITIONS,
        faults="demo",
        time_scale=TIME_SCALE * 4,
    )

    async def run() -> None:
        async with running_system(shape, lambda _text: None, lambda _kill: None) as system:
            await submit(history)
            history.while_working = await asyncio.to_thread(history.process, "audit", "verify", "-o", "json")
            await eventually(
                lambda: finished(system), 120, "every job to have its result in the read model", poll_s=0.3
            )

    asyncio.run(run())
    return history


async def submit(history: Recorded) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=history.bootstrap, acks="all")
    await producer.start()
    topic = f"{history.prefix}requests"
    try:
        for number in range(JOBS):
            job_id = f"job-{number}"
            request = {"type": "submit", "job_id": job_id, "request": {"model": "gpt-x", "input": f"prompt {number}"}}
            await producer.send_and_wait(topic, json.dumps(request).encode(), key=job_id.encode())
        await producer.send_and_wait(topic, b"no json", key=b"broken")
        await producer.send_and_wait(topic, b'{"type":"submit","reqest":{}}', key=b"typo")
        await producer.send_and_wait(f"{history.prefix}jobs", b'{"v":9}', key=b"of-the-future", partition=0)
    finally:
        await producer.stop()


def finished(system: System) -> bool:
    connection = sqlite3.connect(f"file:{system.database}?mode=ro", uri=True)
    try:
        ((count,),) = connection.execute("SELECT COUNT(*) FROM jobs WHERE result IS NOT NULL").fetchall()
    finally:
        connection.close()
    return bool(count == JOBS + 2)  # each request that named its job has a result, if only `rejected`
