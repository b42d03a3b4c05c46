"""The move to another number of partitions, by the commands of docs/disaster-recovery.md, with real processes."""

import asyncio
import base64
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backstop.dev.broker import Owned
from backstop.dev.fast_provider import BRISK
from backstop.dev.ports import HOST, Ports
from backstop.dev.system import RealOpenAI, Shape, System
from backstop.runtime.kafka.publisher import partition_of
from backstop.runtime.process.clock import make_clock
from tests.kafka.held import held
from tests.kafka.recorded import Ran, ran_here
from tests.kafka.sdk_rig import ask
from tests.providers.servers import Process
from tests.support.reading import records_on
from tests.support.waiting import wait_until

BEFORE, AFTER = 2, 5
SHORT, LONG, LATE = 12, 8, 4
"""Jobs that end before the move, that run through it, and that begin after it."""
KEY, SECRET = "sk-move", "whsec_" + base64.b64encode(b"the secret of these webhooks").decode()

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(400)]


class Moving:
    """A provider that stays, and the systems before and after, one after the other at the same address."""

    def __init__(self, broker: Owned, prefix: str, folder: Path) -> None:
        self.broker, self.prefix, self.folder = broker, prefix, folder
        self._ports = Ports()
        self.port, self.simulator = self._ports.draw(), self._ports.draw()
        self.kept = {name: value for name, value in os.environ.items() if not name.startswith(("BACKSTOP_", "OPENAI_"))}

    def close(self) -> None:
        self._ports.release()

    def provider(self) -> Process:
        command = (
            *(sys.executable, "-P", "-m", "backstop.simulator", "--port", str(self.simulator), "--profile", "calm"),
            *("--ledger-dir", str(self.folder / "ledgers")),
            *("--webhook-url", f"http://{HOST}:{self.port}/webhooks/openai"),
        )
        secrets = {"SIMULATOR_API_KEYS": KEY, "SIMULATOR_WEBHOOK_SECRETS": SECRET}
        ready = f"http://{HOST}:{self.simulator}/sim/ledger/creates"
        return Process("simulator", command, {**self.kept, **secrets}, self.folder / "simulator.log", ready)

    def environment(self, side: str, partitions: int) -> dict[str, str]:
        return {
            **self.kept, "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap, "BACKSTOP_PARTITIONS": str(partitions),
            "BACKSTOP_TOPIC_PREFIX": f"{self.prefix}{side}.", "BACKSTOP_STATE_DIR": str(self.folder / "state"),
            "BACKSTOP_DATA_DIR": str(self.folder / side), "BACKSTOP_BLOB_DIR": str(self.folder / "blobs"),
            "BACKSTOP_DATABASE_URL": f"sqlite:///{self.folder / side / 'readmodel.db'}",
        }  # fmt: skip

    def backstop(self, side: str, partitions: int, *arguments: str) -> Ran:
        return ran_here(arguments, self.environment(side, partitions))

    @contextmanager
    def system(self, side: str, partitions: int) -> Iterator[System]:
        folder = self.folder / side
        folder.mkdir(exist_ok=True)
        shape = Shape(
            folder=folder, keep=True,
            environment={**self.kept, "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap},
            settings={**BRISK, **{name: value for name, value in self.environment(side, partitions).items() if name in (
                "BACKSTOP_TOPIC_PREFIX", "BACKSTOP_BLOB_DIR")}},
            port=self.port, partitions=partitions,
            openai=RealOpenAI(KEY, f"http://{HOST}:{self.simulator}/v1", SECRET),
        )  # fmt: skip
        with held(shape) as system:
            yield system

    def creates(self) -> Counter[str]:
        lines = (self.folder / "ledgers" / "creates.jsonl").read_text().splitlines()
        return Counter(json.loads(line)["job"] for line in lines)


def submit(system: System, name: str, run_s: float, **more: Any) -> str:
    metadata = {"sim_queue_s": "0", "sim_run_s": f"{run_s:g}"}
    request = {"model": "gpt-5.2", "input": name, "metadata": metadata}
    return ask(f"{system.url}/v1/jobs", {"job_id": name, "request": request, **more})


def status(system: System, name: str) -> Any:
    return json.loads(ask(f"{system.url}/v1/jobs/{name}"))["status"]


def completed(system: System, names: list[str]) -> bool:
    return all(status(system, name) == "completed" for name in names)


@pytest.fixture
def moving(broker: Owned, prefix: str, tmp_path: Path) -> Iterator[Moving]:
    made = Moving(broker, prefix, tmp_path)
    provider = made.provider()
    try:
        provider.start()
        yield made
    finally:
        provider.kill()
        made.close()


def test_open_jobs_go_on_with_more_partitions_and_none_is_created_twice(moving: Moving) -> None:
    short, long, late = ([f"{kind}-{n}" for n in range(count)] for kind, count in
                         (("short", SHORT), ("long", LONG), ("late", LATE)))  # fmt: skip
    with moving.system("old", BEFORE) as system:
        for name in short:
            submit(system, name, 0.2)
        for name in long:
            submit(system, name, 60)
        wait_until(lambda: completed(system, short), 90, "the short jobs", poll_s=0.5)
        wait_until(lambda: set(moving.creates()) >= {*short, *long}, 60, "the creates", poll_s=0.5)
        for name in late:
            submit(system, name, 0.2, not_before_ms=make_clock()() + 60_000)
        refused = moving.backstop("new", AFTER, "topics", "create")
        assert refused.code == 0, refused.err
        refused = moving.backstop("new", AFTER, "topics", "move", "--from", f"{moving.prefix}old.", "--execute")
        assert (refused.code, "has members" in refused.err) == (2, True), refused.err
    read_model_gone = ("audit", "verify", "-o", "json", "--no-readmodel")
    proved = moving.backstop("old", BEFORE, "audit", "verify", "-o", "json")
    assert proved.code == 0, proved.out + proved.err

    from_old = ("topics", "move", "--from", f"{moving.prefix}old.")
    planned = moving.backstop("new", AFTER, *from_old, "-o", "json")
    assert planned.code == 0, planned.err
    moved = moving.backstop("new", AFTER, *from_old, "--execute", "-o", "json")
    assert moved.code == 0, moved.err
    assert moved.json == planned.json
    again = moving.backstop("new", AFTER, *from_old, "--execute")
    assert (again.code, "the new topics have records" in again.err) == (2, True), again.err
    proved = moving.backstop("new", AFTER, *read_model_gone)
    assert proved.code == 0, proved.out + proved.err
    assert len({p["partition"] for p in proved.json["partitions"] if p["facts"]}) > BEFORE, "keys are spread anew"
    places_hold(moving)

    with moving.system("new", AFTER) as system:
        everything = [*short, *long, *late]
        answers = [submit(system, name, 0.2 if name in short else 60) for name in (*short[:2], *long[:2])]
        assert all(json.loads(answer)["job_id"] for answer in answers)
        wait_until(lambda: completed(system, everything), 150, "all jobs", poll_s=1)
        proved = moving.backstop("new", AFTER, "audit", "verify", "-o", "json", "--complete")
        assert proved.code == 0, proved.out + proved.err
        assert proved.json["outputs"]["results"] == {"matched": len(everything), "repeats": 0}
    assert moving.creates() == Counter(everything), "each job has one create at the provider"


def places_hold(moving: Moving) -> None:
    """Each record has the partition of its key, and records of a key their order, value and time."""
    for topic in ("jobs", "responses", "results", "submissions", "polls"):
        old, new = (asyncio.run(records_on(moving.broker.bootstrap, f"{moving.prefix}{side}.{topic}"))
                    for side in ("old", "new"))  # fmt: skip
        for record in new:
            assert record.partition == partition_of(record.key, range(AFTER), range(AFTER))
        assert by_key(new) == by_key(old), topic


def by_key(records: list[Any]) -> dict[bytes, list[tuple[Any, ...]]]:
    found: dict[bytes, list[tuple[Any, ...]]] = {}
    for record in sorted(records, key=lambda each: (each.partition, each.offset)):
        found.setdefault(record.key, []).append((record.timestamp, record.value, tuple(record.headers)))
    return found
