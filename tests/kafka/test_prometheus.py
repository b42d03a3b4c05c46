"""A real Prometheus with the rules of `deploy/`: it scrapes a live system, and alerts fire by faults of that system.

The rules are a copy in which a minute is a second, so that no window is waited for.
"""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import pytest

from backstop.dev.broker import Owned
from backstop.dev.fast_provider import BRISK
from backstop.dev.ports import Ports
from backstop.dev.system import Shape, System
from tests.kafka.held import held
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

RULES: Final = Path(__file__).parents[2] / "deploy/prometheus/alerts.yml"
FIRES_WITHIN_S: Final = 90.0
JOBS: Final = 6
BURN: Final = ("BurnFast", "BurnSlow")
"""Of promises about time, which a busy machine may break in windows of seconds."""


@dataclass(frozen=True)
class Watched:
    """A system, and the Prometheus that watches it."""

    system: System
    url: str

    def ask(self, path: str) -> Any:
        with urlopen(f"{self.url}{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    def firing(self) -> set[str]:
        alerts = self.ask("/api/v1/alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def up(self) -> dict[str, str]:
        return {each["metric"]["job"]: each["value"][1] for each in self.ask("/api/v1/query?query=up")["result"]}

    def submit(self, count: int, fault: str | None = None) -> None:
        metadata = {} if fault is None else {"sim_fault": fault}
        for _ in range(count):
            body = {"request": {"model": "gpt-5.2", "input": "Say hello.", "metadata": metadata}}
            headers = {"Content-Type": "application/json"}
            with urlopen(Request(f"{self.system.url}/v1/jobs", json.dumps(body).encode(), headers), timeout=10):
                pass

    def open_jobs(self) -> int:
        with urlopen(f"{self.system.url}/v1/attention", timeout=10) as answer:
            return sum(json.load(answer)["open"].values())


def quick(rules: str) -> str:
    """The rules with a second for each minute; thresholds stay as they are."""
    spans = re.compile(r"(?<=\[)(\d+)([mh])(?=\])|(?<=for: )(\d+)([mh])\b")

    def shorter(found: re.Match[str]) -> str:
        number, unit = found[1] or found[3], found[2] or found[4]
        return f"{max(5, int(number) * (60 if unit == 'h' else 1))}s"

    return spans.sub(shorter, rules)


def health_ports(system: System) -> dict[str, str]:
    """Where each process shows its metrics."""
    ports = {"serve": "BACKSTOP_PORT", "worker": "BACKSTOP_HEALTH_PORT", "projection": "BACKSTOP_READMODEL_HEALTH_PORT"}
    found = {}
    for name, variable in ports.items():
        pid = system.supervisor.pid(name)
        environment = dict(
            line.split("=", 1) for line in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in line
        )
        found[name] = f"127.0.0.1:{environment[variable]}"
    return found


@contextmanager
def prometheus(binary: str, system: System, folder: Path) -> Iterator[str]:
    (folder / "alerts.yml").write_text(quick(RULES.read_text()))
    jobs = [
        {"job_name": f"backstop-{name}", "static_configs": [{"targets": [address]}]}
        for name, address in health_ports(system).items()
    ]
    timing = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config = {"global": timing, "rule_files": ["alerts.yml"], "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(json.dumps(config))  # YAML contains JSON
    ports = Ports()
    address = f"127.0.0.1:{ports.draw()}"
    command = [
        binary, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}", "--log.level=warn",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: answers(f"http://{address}/-/ready"), 30, "Prometheus", poll_s=0.2)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(20)
        ports.release()


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def watched(broker: Owned, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("ALERTS ARE NOT TRIED IN A REAL PROMETHEUS: none on PATH (Debian: apt-get install prometheus)")
    folder = tmp_path_factory.mktemp("system")
    shape = Shape(
        folder=folder,
        environment={**BRISK, **os.environ, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap},
        port=0,
        partitions=2,
        time_scale=20.0,
    )
    with held(shape) as system, prometheus(binary, system, tmp_path_factory.mktemp("prometheus")) as url:
        yield Watched(system, url)


def test_all_rules_are_evaluated_and_none_fires_in_a_calm_system(watched: Watched) -> None:
    watched.submit(JOBS)
    wait_until(lambda: watched.up() == dict.fromkeys(watched.up(), "1") and len(watched.up()) == 3, 60, "all targets")
    wait_until(lambda: watched.open_jobs() == 0, 60, "the end of all jobs")
    wait_until(lambda: all(rule["health"] == "ok" for rule in rules(watched)), 30, "an evaluation of each rule")
    loaded = {rule["name"] for rule in rules(watched) if rule["type"] == "alerting"}
    assert loaded == set(re.findall(r"alert: (\w+)", RULES.read_text()))
    assert {name for name in watched.firing() if not name.endswith(BURN)} == set()

    def ended() -> bool:
        taken = watched.ask("/api/v1/query?query=sum(backstop_jobs_ended_total)")["result"]
        return bool(taken[0]["value"][1] == str(JOBS))

    wait_until(ended, 30, "all ends in the metrics of this system")


def rules(watched: Watched) -> list[dict[str, Any]]:
    return [rule for group in watched.ask("/api/v1/rules")["groups"] for rule in group["rules"]]


@pytest.mark.long
def test_stopped_webhooks_fire_their_alert(watched: Watched) -> None:
    def fires() -> bool:
        watched.submit(2, "webhook_lost")
        return "BackstopWebhooksMissing" in watched.firing()

    wait_until(fires, FIRES_WITHIN_S, "the alert of missing webhooks", poll_s=1.0)


@pytest.mark.long
def test_a_frozen_worker_fires_and_one_that_goes_on_ends_the_alert(watched: Watched) -> None:
    pid = watched.system.supervisor.pid("worker")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: "BackstopProcessAway" in watched.firing(), FIRES_WITHIN_S, "the alert of a frozen worker")
        assert watched.up()["backstop-worker"] == "0"
        assert watched.up()["backstop-serve"] == "1"
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: "BackstopProcessAway" not in watched.firing(), FIRES_WITHIN_S, "the end of the alert")
