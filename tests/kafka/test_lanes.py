"""An outage met by two workers: found once, probed once, and over for both at once. In real time, on a real broker."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from backstop.dev.broker import Owned
from backstop.runtime.kafka.publisher import KafkaPublisher
from backstop.runtime.process.clock import make_clock
from backstop.runtime.settings import RuntimeSettings
from streams.policy.lanes import FAILURES_MAX, PROBE_WAIT_MS, PROBE_WAIT_MS_MAX, Go
from streams.workers.lane_board import LaneBoard
from streams.workers.lanes import Lanes
from tests.kafka.sdk_rig import WORKERS, Running, ask, two_workers
from tests.support.waiting import eventually, wait_until

MODEL = "gpt-5.2"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def running(broker: Owned, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with two_workers(broker, tmp_path_factory.mktemp("system"), time_scale=20.0) as running:
        yield running


def struck(running: Running) -> int:
    """Creates that the incident refused."""
    (incident,) = json.loads(ask(f"{running.system.simulator_url}/sim/incident"))["incidents"]
    return int(incident["calls_struck"])


def submit(running: Running, job_id: str) -> None:
    body = {"job_id": job_id, "request": {"model": MODEL, "input": "Hi."}}
    ask(f"{running.system.url}/v1/jobs", body, running.keys["acme"])


def job(running: Running, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(f"{running.system.url}/v1/jobs/{job_id}", None, running.keys["acme"]))
    return found


def closed(running: Running, worker: str) -> bool:
    """Whether a worker holds the lane closed, by its own metrics."""
    return f'backstop_lane_closed{{model="{MODEL}"' in running.metrics(worker)


@pytest.mark.parametrize("probes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_two_workers_meet_an_outage_as_one(running: Running, probes: int) -> None:
    """`probes`: how many of them fail before a worker dies. Each makes the wait for the next one four times as long."""
    before, first, later, last = (f"{name}-{probes}" for name in ("before", "first", "later", "last"))
    submit(running, before)
    wait_until(lambda: job(running, before)["status"] == "completed", 60, "a calm job")
    ask(f"{running.system.simulator_url}/sim/incident", {"answer": "503/server_is_overloaded/openai"})
    for number in range(FAILURES_MAX):  # one at a time, so that none is in flight when the lane closes
        submit(running, f"{first}-{number}")
        wait_until(lambda least=number + 1: struck(running) >= least, 30, "a create that fails")  # type: ignore[misc]
    wait_until(lambda: all(closed(running, worker) for worker in WORKERS), 10, "both workers to know")
    closed_after = struck(running)
    assert closed_after <= FAILURES_MAX + 1  # a job that backs off may try again beside the next one

    for number in range(30):
        submit(running, f"{later}-{number}")
    wait_until(lambda: struck(running) == closed_after + probes, 60, "the probes: after 4 s, and 16 s later")

    pid = running.system.supervisor.pid("worker-2")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: running.system.supervisor.pid("worker-2") not in (None, pid), 60, "another worker")
    wait_until(lambda: closed(running, "worker-2"), 30, "a lane that is closed from the start")
    for number in range(10):
        submit(running, f"{last}-{number}")
    wait_until(lambda: job(running, f"{last}-9")["status"] == "backing_off", 60, "a job that waits")
    assert struck(running) <= closed_after + probes + 1

    asyncio.run(_end_incidents(running))
    names = [f"{kind}-{number}" for kind, count in ((first, 5), (later, 30), (last, 10)) for number in range(count)]
    within_s = PROBE_WAIT_MS_MAX / 1_000 + 60
    wait_until(
        lambda: all(job(running, name)["status"] == "completed" for name in names), within_s, "all jobs", poll_s=0.5
    )
    wait_until(lambda: not any(closed(running, worker) for worker in WORKERS), 10, "both to be open")
    assert all(running.creates_of(name, "acme") == 1 for name in names)


async def _end_incidents(running: Running) -> None:
    url = f"{running.system.simulator_url}/sim/incident"
    async with aiohttp.ClientSession() as session, session.delete(url) as answer:
        assert answer.status == 200, await answer.text()


def test_without_the_topic_a_worker_goes_on_by_itself(broker: Owned, prefix: str) -> None:
    async def story() -> None:
        settings, now_ms = RuntimeSettings(kafka_bootstrap_servers=broker.bootstrap, topic_prefix=prefix), make_clock()
        lanes, publisher, stop = Lanes(now_ms), KafkaPublisher(settings, "test"), asyncio.Event()
        board = LaneBoard(settings, lanes, publisher, now_ms)
        await publisher.start()
        run = asyncio.create_task(board.run(stop))
        try:
            await board.first_read()
            lanes.failed(MODEL, "c", "account", "invalid_api_key")
            closed_at_ms = now_ms()
            await eventually(lambda: now_ms() > closed_at_ms + PROBE_WAIT_MS, 10, "the time of the probe")
            assert await lanes.send(MODEL, "p") == Go(probe=True)
            lanes.succeeded(MODEL, "p")
            assert await lanes.send(MODEL, "q") == Go()
        finally:
            stop.set()
            await asyncio.wait_for(run, 20)
            await publisher.stop()

    asyncio.run(story())
