"""Ten faults of a running system, and after how many seconds each is named in words, where operators look.

    python -m bench.ten_faults [FAULT ...]     as root, for the fault `disk_full`: it mounts a small disk

Prints a line for each fault: the seconds until `backstop status`, `/v1/attention` (which the page shows) and `backstop
why` of the oldest open job name it, with the words; then the table of docs/ten-faults.md.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from backstop.cli.status import TOLD_AS_WRONG, status_text
from backstop.dev.fast_provider import BRISK
from backstop.dev.system import Shape, System, running_system
from backstop.runtime.http.keys import Scope
from backstop.runtime.process.clock import monotonic_s
from schemas.statuses import OPEN_JOB_STATUSES
from tests.support.api_keys import write_keys

MODEL = "steady-model"
RUN_S = 2.0
RATE_PER_S = 1.5
FLOOD = 400
POISONED = 30
DISK_MIB = 96
SCOPES: dict[str, set[Scope]] = {"default": {"submit", "read", "operate", "admin"}, "globex": {"submit"}}
FREE_MIB_LEFT = 2
WARM_S = 45.0
NAMED_WITHIN_S = 75.0
CALM_WITHIN_S = 150.0
CALM_S = 10.0
LAG_CALM = 50
OPEN = ",".join(OPEN_JOB_STATUSES)
LIMITS = json.dumps([{"model": MODEL, "concurrent": 12}])
PROFILE = {"models": {"*": {"queue": {"kind": "fixed", "s": 0.1}, "run": {"kind": "fixed", "s": RUN_S}}}}


@dataclass
class Scene:
    """The system under faults, and an operator who asks it."""

    system: System
    session: aiohttp.ClientSession
    keys: dict[str, str]
    folder: Path
    flooding: asyncio.Future[Any] | None = None
    strangers: list[AIOKafkaConsumer] = field(default_factory=list)

    async def ask(self, path: str, body: Any = None, tenant: str = "default") -> Any:
        headers = {"Authorization": f"Bearer {self.keys[tenant]}"}
        method = "GET" if body is None else "POST"
        async with self.session.request(method, self.system.url + path, json=body, headers=headers) as answer:
            return await answer.json()

    async def simulator(self, path: str, body: Any = None, method: str = "POST") -> Any:
        assert self.system.simulator_url is not None
        async with self.session.request(method, f"{self.system.simulator_url}/sim/{path}", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def submit(self, tenant: str = "default") -> None:
        await self.ask("/v1/jobs", {"request": {"model": MODEL, "input": "Say hello."}}, tenant)

    def send(self, name: str, number: signal.Signals) -> None:
        """To a process of the system by its name, and to nothing that has taken its place."""
        process = self.system.supervisor._children[name].process  # noqa: SLF001 - a fault is no part of its interface
        if process is not None:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    def signal_broker(self, number: signal.Signals) -> None:
        assert self.system.broker_pid is not None, "a broker of this run's own is needed"
        os.kill(self.system.broker_pid, number)

    async def take_a_partition(self) -> None:
        """Join the submitters as a consumer that another program started under their group's name by mistake."""
        topic, group = (f"{self.system.runtime.topic_prefix}{name}" for name in ("submissions", "submitter"))
        stranger = AIOKafkaConsumer(
            topic, bootstrap_servers=self.system.bootstrap, group_id=group, client_id="stranger",
            enable_auto_commit=False,
        )  # fmt: skip
        await stranger.start()
        self.strangers.append(stranger)

    async def give_the_partition_back(self) -> None:
        await self.strangers.pop().stop()

    async def flood(self) -> None:
        at_once = asyncio.Semaphore(20)

        async def one() -> None:
            async with at_once:
                with suppress(aiohttp.ClientError, TimeoutError):
                    await self.submit("globex")

        self.flooding = asyncio.gather(*(one() for _ in range(FLOOD)))

    async def poison(self) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.system.bootstrap, acks="all")
        await producer.start()
        try:
            for number in range(POISONED):
                topic = f"{self.system.runtime.topic_prefix}requests"
                await producer.send_and_wait(topic, b'{"type": "submit", "job_id', key=b"poisoned-%d" % number)
        finally:
            await producer.stop()

    async def fill_disk(self) -> None:
        disk = self.folder / "worker-1"
        free = os.statvfs(disk)
        size = max(0, free.f_bavail * free.f_frsize - (FREE_MIB_LEFT << 20))
        (disk / "ballast").write_bytes(bytes(size))

    async def free_disk(self) -> None:
        (self.folder / "worker-1" / "ballast").unlink()


async def nothing() -> None:
    """A fault that has passed by itself."""


@dataclass(frozen=True)
class Fault:
    says: str
    names: str
    """What the words must hold to name the cause."""
    begin: Callable[[Scene], Awaitable[Any]]
    end: Callable[[Scene], Awaitable[Any]]


def _signals(name: str, number: signal.Signals) -> Callable[[Scene], Awaitable[None]]:
    async def send(scene: Scene) -> None:
        scene.send(name, number)

    return send


def _broker(number: signal.Signals) -> Callable[[Scene], Awaitable[None]]:
    async def send(scene: Scene) -> None:
        scene.signal_broker(number)

    return send


def _endpoints(on: list[Any]) -> Callable[[Scene], Awaitable[Any]]:
    async def use(scene: Scene) -> Any:
        if not on:
            on.extend((await scene.simulator("webhook", method="GET"))["endpoints"])
            return await scene.simulator("webhook", {"endpoints": []})
        return await scene.simulator(
            "webhook", {"endpoints": [{key: value for key, value in each.items() if key != "disabled"} for each in on]}
        )

    return use


_ENDPOINTS: list[Any] = []
SLOW = {"models": {"*": {"queue": {"kind": "fixed", "s": 0.1}, "run": {"kind": "fixed", "s": 30 * RUN_S}}}}
FAULTS = {
    "worker_frozen": Fault(
        "one of two workers frozen (SIGSTOP)",
        r"no (worker|submitter|poller) holds partition|has not moved since",
        _signals("worker-1", signal.SIGSTOP),
        _signals("worker-1", signal.SIGCONT),
    ),
    "wrong_key": Fault(
        "the provider refuses the key (401)",
        r"invalid_api_key|[Ii]ncorrect API key",
        lambda scene: scene.simulator("incident", {"answer": "401/invalid_api_key", "calls": "all"}),
        lambda scene: scene.simulator("incident", method="DELETE"),
    ),
    "broker_away": Fault(
        "the broker frozen (SIGSTOP)",
        r"broker at .* did not answer",
        _broker(signal.SIGSTOP),
        _broker(signal.SIGCONT),
    ),
    "webhooks_stopped": Fault(
        "the provider sends no webhooks any more", r"webhook", _endpoints(_ENDPOINTS), _endpoints(_ENDPOINTS)
    ),
    "disk_full": Fault(
        f"{FREE_MIB_LEFT} MiB left on the disk of a worker",
        r"MiB left on the disk",
        lambda scene: scene.fill_disk(),
        lambda scene: scene.free_disk(),
    ),
    "partition_alone": Fault(
        "one partition without a worker: a stranger's consumer holds it",
        r"stranger holds partition|no submitter holds",
        lambda scene: scene.take_a_partition(),
        lambda scene: scene.give_the_partition_back(),
    ),
    "provider_slow": Fault(
        "runs at the provider take 30 times as long",
        r"runs? .*longer|slow",
        lambda scene: scene.simulator("faults", SLOW),
        lambda scene: scene.simulator("faults", PROFILE),
    ),
    "flood": Fault(
        f"another tenant submits {FLOOD} jobs at once",
        r"globex",
        lambda scene: scene.flood(),
        lambda _scene: nothing(),
    ),
    "poisoned": Fault(
        f"{POISONED} records on `requests` that can't be read",
        r"not_json",
        lambda scene: scene.poison(),
        lambda _scene: nothing(),
    ),
    "readmodel_behind": Fault(
        "the projection frozen (SIGSTOP)",
        r"no projection holds|projection .*not moved",
        _signals("projection", signal.SIGSTOP),
        _signals("projection", signal.SIGCONT),
    ),
}


def text_of_findings(told: dict[str, Any]) -> str:
    return "; ".join(f"{each['code']} {each['count']}: {each.get('because', '')}" for each in told["findings"])


async def look(scene: Scene, oldest: list[str]) -> dict[str, str]:
    """What an operator reads where: by place."""
    seen = {"status": "", "attention": "", "why": ""}
    with suppress(aiohttp.ClientError, TimeoutError, KeyError):
        attention = await scene.ask("/v1/attention")
        seen["attention"] = text_of_findings(attention)
        told = await scene.ask("/v1/status")
        told["findings"] = [each for each in attention["findings"] if each["code"] not in TOLD_AS_WRONG]
        seen["status"] = status_text(told)
    with suppress(aiohttp.ClientError, TimeoutError, KeyError):
        jobs = (await scene.ask(f"/v1/jobs?status={OPEN}&limit=100"))["data"]
        oldest[:] = [job["job_id"] for job in jobs][-1:] or oldest
        if oldest:
            seen["why"] = " ".join((await scene.ask(f"/v1/jobs/{oldest[0]}/why"))["sentences"])
            job = await scene.ask(f"/v1/jobs/{oldest[0]}")
            seen["why"] += f" [{json.dumps(job.get('waiting', {}).get('because', ''))}]"
    return seen


async def watch(scene: Scene, fault: Fault) -> dict[str, tuple[float, str]]:
    """For each place the seconds until it named the fault, and its words."""
    began_s, named, oldest = monotonic_s(), dict[str, tuple[float, str]](), list[str]()
    last: dict[str, str] = {}
    while monotonic_s() - began_s < NAMED_WITHIN_S and len(named) < 3:
        last = await look(scene, oldest)
        for place, text in last.items():
            lines = re.split(r"\n|; ", text)
            found = next((line for line in lines if re.search(fault.names, line, re.IGNORECASE)), None)
            if found is not None and place not in named:
                named[place] = monotonic_s() - began_s, found.strip()[:300]
        await asyncio.sleep(0.5)
    for place in last.keys() - named.keys():
        named[place] = float("inf"), last[place][:300]
    return named


async def calm(scene: Scene) -> float:
    """Seconds until nothing holds jobs up, and has not for `CALM_S`."""
    began_s = calm_s = monotonic_s()
    while monotonic_s() - calm_s < CALM_S and monotonic_s() - began_s < CALM_WITHIN_S:
        await asyncio.sleep(1.0)
        told: dict[str, Any] = {}
        with suppress(aiohttp.ClientError, TimeoutError):
            told = await scene.ask("/v1/status")
        behind = any(each["lag"] > LAG_CALM for each in told.get("partitions", ()))
        if told.get("wrong", True) or behind or not told["broker"]["answers"]:
            calm_s = monotonic_s()
    return calm_s - began_s


async def run(names: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="backstop-faults-") as folder:
        disk = Path(folder) / "worker-1"
        disk.mkdir()
        mounted = "disk_full" in names
        if mounted:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", disk], check=True)
        try:
            await _run(Path(folder), names)
        finally:
            if mounted:
                subprocess.run(["umount", "-l", disk], check=False)


async def _run(folder: Path, names: list[str]) -> None:
    keys_file = folder / "keys.json"
    keys = write_keys(keys_file, SCOPES)
    shape = Shape(
        folder=folder,
        environment={**BRISK, **os.environ},
        settings={"BACKSTOP_KEYS_FILE": str(keys_file), "BACKSTOP_LIMITS": LIMITS},
        port=0,
        workers=2,
        faults=json.dumps(PROFILE),
    )
    timeout = aiohttp.ClientTimeout(total=20)
    async with (
        running_system(shape, lambda text: print(text, file=sys.stderr), lambda _kill: None) as system,
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        scene = Scene(system, session, keys, folder)
        feeding = asyncio.create_task(feed(scene))
        await asyncio.sleep(WARM_S)
        print("calm:", json.dumps(await look(scene, [])), flush=True)
        for name in names:
            fault = FAULTS[name]
            await fault.begin(scene)
            named = await watch(scene, fault)
            await fault.end(scene)
            ended_s = await calm(scene)
            for place in ("status", "attention", "why"):
                print(f"{name:18} {place:10} {named[place][0]:6.1f} s  {named[place][1]}", flush=True)
            print(f"{name:18} calm again after {ended_s:.0f} s", flush=True)
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


async def feed(scene: Scene) -> None:
    while True:
        with suppress(aiohttp.ClientError, TimeoutError):
            await scene.submit()
        await asyncio.sleep(1 / RATE_PER_S)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ten_faults", description=__doc__)
    parser.add_argument("faults", nargs="*", default=[], help=", ".join(FAULTS))
    names = parser.parse_args().faults or list(FAULTS)
    asyncio.run(run(names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
