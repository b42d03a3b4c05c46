"""Two releases at one time: each process of the one before is replaced by one of this one, while jobs run.

The release before is the last commit whose read model has another version, in a worktree of its own, with this
environment's packages. Its short form are the golden logs of `tests/replay` and `tests/unit/test_newer_releases.py`.
"""

import base64
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from backstop.dev.broker import Owned
from backstop.dev.fast_provider import BRISK
from backstop.dev.ports import HOST, Ports
from tests.kafka.recorded import ran_here
from tests.kafka.sdk_rig import ask
from tests.providers.servers import Process
from tests.support.waiting import wait_until
from tests.torture.tree import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

PARTITIONS = 4
EACH = 6
KEY, SECRET = "sk-upgrade", "whsec_" + base64.b64encode(b"the secret of these webhooks").decode()
SCHEMA = "backstop/readmodel/schema.py"


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        pytest.skip(f"TWO RELEASES ARE NOT TESTED: git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


@pytest.fixture
def before(tmp_path: Path) -> Iterator[Path]:
    """The code of the release before."""
    newest = git("log", "-1", "--format=%H", "-G^SCHEMA_VERSION", "--", SCHEMA)
    if not newest:
        pytest.skip(f"TWO RELEASES ARE NOT TESTED: the history has no commit that changed the version in {SCHEMA}")
    folder = tmp_path / "before"
    git("worktree", "add", "--detach", str(folder), f"{newest}^")
    try:
        yield folder
    finally:
        git("worktree", "remove", "--force", str(folder))


class Rolled:
    """Processes by name, each at the port that it keeps, of one release or the other."""

    def __init__(self, broker: Owned, prefix: str, folder: Path) -> None:
        self._folder = folder
        self._ports = Ports()
        self._at = {name: self._ports.draw() for name in ("simulator", "serve", "projection", "worker-1", "worker-2")}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BACKSTOP_", "OPENAI_"))}
        self.url = f"http://{HOST}:{self._at['serve']}"
        openai = f"http://{HOST}:{self._at['simulator']}/v1"
        self.environment = {
            **kept, **BRISK, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap, "BACKSTOP_TOPIC_PREFIX": prefix,
            "BACKSTOP_PARTITIONS": str(PARTITIONS), "BACKSTOP_DATA_DIR": str(folder), "BACKSTOP_HOST": HOST,
            "BACKSTOP_STATE_DIR": str(folder / "state"), "BACKSTOP_DATABASE_URL": f"sqlite:///{folder}/readmodel.db",
            "BACKSTOP_BLOB_DIR": str(folder / "blobs"), "BACKSTOP_DEVELOPMENT": "true", "NO_PROXY": HOST,
            "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": openai, "BACKSTOP_OPENAI_BASE_URL": openai,
            "BACKSTOP_WEBHOOK_SECRETS": SECRET, "SIMULATOR_API_KEYS": KEY, "SIMULATOR_WEBHOOK_SECRETS": SECRET,
            "BACKSTOP_WORKER_SESSION_TIMEOUT_S": "6", "BACKSTOP_WORKER_HEARTBEAT_S": "0.5",
        }  # fmt: skip
        self.running: dict[str, Process] = {}

    def start(self, name: str, code: Path) -> None:
        """Stop the process of this name, and start it with the code of one release."""
        self.stop(name)
        port = str(self._at[name])
        command: tuple[str, ...] = (sys.executable, "-P", "-m", "backstop.cli", name.partition("-")[0])
        own = {"BACKSTOP_PORT": port, "BACKSTOP_READMODEL_HEALTH_PORT": port, "PYTHONPATH": str(code)}
        if name.startswith("worker"):
            own |= {"BACKSTOP_HEALTH_PORT": port, "BACKSTOP_DATA_DIR": str(self._folder / name)}
        ready = f"http://{HOST}:{port}/readyz"
        if name == "simulator":
            command = (
                *(sys.executable, "-P", "-m", "backstop.simulator", "--port", port, "--profile", "calm"),
                *("--ledger-dir", str(self._folder / "ledgers"), "--webhook-url", f"{self.url}/webhooks/openai"),
            )
            ready = f"http://{HOST}:{port}/sim/ledger/creates"
        log = self._folder / f"{name}.log"
        process = self.running[name] = Process(name, command, {**self.environment, **own}, log, ready)
        process.start()

    def stop(self, name: str) -> None:
        process = self.running.pop(name, None)
        if process is not None:
            process.end()

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
        self._ports.release()

    def submit(self, wave: str) -> list[str]:
        """Jobs that end at once, and as many that run on through the next replacement."""
        names = [f"{wave}-{number}" for number in range(EACH)]
        for number, name in enumerate(names):
            metadata = {"sim_queue_s": "0", "sim_run_s": "0.2" if number % 2 else "25"}
            body = {"job_id": name, "request": {"model": "gpt-5.2", "input": name, "metadata": metadata}}
            ask(f"{self.url}/v1/jobs", body)
        wait_until(lambda: set(self.creates()) >= set(names), 90, f"the creates of {wave}", poll_s=0.5)
        return names

    def creates(self) -> Counter[str]:
        lines = (self._folder / "ledgers" / "creates.jsonl").read_text().splitlines()
        return Counter(json.loads(line)["job"] for line in lines)

    def status(self, name: str) -> str:
        return str(json.loads(ask(f"{self.url}/v1/jobs/{name}"))["status"])


def test_processes_of_two_releases_share_all_jobs(broker: Owned, prefix: str, tmp_path: Path, before: Path) -> None:
    rolled = Rolled(broker, prefix, tmp_path)
    with ExitStack() as stack:
        stack.callback(rolled.close)
        made = ran_here(("topics", "create"), rolled.environment)
        assert made.code == 0, made.err
        rolled.start("simulator", ROOT)
        for name in ("serve", "projection", "worker-1", "worker-2"):
            rolled.start(name, before)
        jobs = rolled.submit("before")
        rolled.start("worker-1", ROOT)
        jobs += rolled.submit("one-worker")
        rolled.start("worker-2", ROOT)
        jobs += rolled.submit("both-workers")
        rolled.stop("serve")
        rolled.stop("projection")
        rebuilt = ran_here(("readmodel", "rebuild"), rolled.environment)
        assert rebuilt.code == 0, rebuilt.out + rebuilt.err
        rolled.start("projection", ROOT)
        rolled.start("serve", ROOT)
        jobs += rolled.submit("all")
        wait_until(lambda: all(rolled.status(name) == "completed" for name in jobs), 120, "all jobs", poll_s=1)
        proved = ran_here(("audit", "verify", "-o", "json"), rolled.environment)
        assert proved.code == 0, proved.out + proved.err
        assert proved.json["outputs"]["results"]["matched"] == len(jobs)
        assert rolled.creates() == Counter(jobs), "each job has one create at the provider"
