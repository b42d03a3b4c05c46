"""Two workers on one broker: an outage is found once, probed once, and over for both at once; limits are kept together,
classes go in order, and a job says what it waits for. In real time.
"""

import asyncio
import json
import os
import signal
from collections.abc import Iterator, Sequence
from itertools import count, islice
from statistics import mean
from typing import Any

import aiohttp
import pytest

from backstop.dev.broker import Owned
from backstop.runtime.kafka.publisher import KafkaPublisher, partition_of
from backstop.runtime.process.clock import make_clock
from backstop.runtime.settings import RuntimeSettings
from schemas.base import Priority
from streams.policy.buckets import BURST_S
from streams.policy.lanes import FAILURES_MAX, PROBE_WAIT_MS, PROBE_WAIT_MS_MAX, Go
from streams.workers.lane_board import LaneBoard
from streams.workers.lanes import Lanes
from tests.kafka.sdk_rig import WORKERS, Running, ask, two_workers
from tests.support.accepted import accepted
from tests.support.waiting import eventually, wait_until

MODEL = "gpt-5.2"
"""Without limits."""

LIMITED = "gpt-5.2-pro"
PER_MIN = 120
LENT = "gpt-5.2-lent"
"""With a limit of its own, and jobs in one partition alone."""
LENT_PER_MIN = 120
UNTOLD = "gpt-5.2-mini"
"""The limits of this model are known to the provider only."""

SUBMITTED_WITHIN_MS = 10_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def running(broker: Owned, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    told = {LIMITED: PER_MIN, LENT: LENT_PER_MIN}
    set_limits = [{"model": model, "requests_per_min": per_min} for model, per_min in told.items()]
    limits = json.dumps([*set_limits, {"model": UNTOLD, "discover": True}])
    with two_workers(broker, tmp_path_factory.mktemp("system"), time_scale=20.0, limits=limits) as running:
        yield running


def job(running: Running, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(f"{running.system.url}/v1/jobs/{path}", None, running.keys["acme"]))
    return found


async def _submit(
    running: Running, names: Sequence[tuple[str, Priority]], not_before_ms: int, model: str = LIMITED
) -> None:
    """All wait from the same time on, however long their submissions take."""
    headers = {"Authorization": f"Bearer {running.keys['acme']}"}
    async with aiohttp.ClientSession(running.system.url, headers=headers) as session:

        async def submit(name: str, priority: Priority) -> None:
            body = {
                "job_id": name, "priority": priority, "not_before_ms": not_before_ms,
                "request": {"model": model, "input": "Hi.", "max_output_tokens": 16},
            }  # fmt: skip
            await accepted(session, body)

        await asyncio.gather(*(submit(name, priority) for name, priority in names))


def created(running: Running, among: Sequence[tuple[str, Priority]]) -> list[str]:
    """Those of the jobs that were created at the provider, once for each create."""
    wanted = {name for name, _ in among}
    lines = (running.system.ledgers / "creates.jsonl").read_text().splitlines()
    return [name for line in lines if (name := json.loads(line)["job"].partition(":")[2]) in wanted]


def granted_ms(running: Running, name: str) -> int:
    """When the job had its turn. It has one grant."""
    (grant,) = [entry for entry in job(running, f"{name}/timeline")["entries"] if entry["kind"] == "job_admitted"]
    return int(grant["at_ms"])


def until_told(running: Running, name: str, begins: str) -> None:
    """Until `GET /v1/jobs/{id}/why` says so."""
    wait_until(lambda: job(running, f"{name}/why")["sentences"][0].startswith(begins), 60, begins, poll_s=0.2)


def test_two_workers_keep_a_limit_together_and_let_classes_go_in_order(running: Running) -> None:
    counts: dict[Priority, int] = {"bulk": 24, "normal": 8, "interactive": 8}
    names = [(f"{priority}-{number}", priority) for priority, count in counts.items() for number in range(count)]
    begins_ms = make_clock()() + SUBMITTED_WITHIN_MS
    asyncio.run(_submit(running, names, begins_ms))
    until_told(running, "bulk-23", "The job asked not to begin before")
    until_told(running, "bulk-23", f"The job waits for its turn under the limits of {LIMITED}")
    stands = job(running, "bulk-23/why").get("turn", {})
    assert (stands["priority"], 1 <= stands["place"] <= stands["waiting"] <= 24) == ("bulk", True), stands

    wait_until(
        lambda: all(job(running, name)["status"] == "completed" for name, _ in names),
        150, "all jobs", poll_s=2,
    )  # fmt: skip
    assert sorted(created(running, names)) == sorted(name for name, _ in names), "each job has one create"
    made = sorted((granted_ms(running, name), name) for name, _ in names)
    times_ms = [at_ms for at_ms, _ in made]
    assert times_ms[0] >= begins_ms
    for window_ms in (5_000, 10_000, 20_000):
        most = PER_MIN * (window_ms + BURST_S * 1_000) / 60_000 + len(WORKERS)
        for start_ms in times_ms:
            assert sum(start_ms <= at_ms < start_ms + window_ms for at_ms in times_ms) <= most, times_ms

    places = {priority: [n for n, (_, name) in enumerate(made) if name.startswith(priority)] for priority in counts}
    assert mean(places["interactive"]) < mean(places["normal"]) < mean(places["bulk"]), places
    assert max(places["interactive"]) < max(places["bulk"]), places


@pytest.mark.long
def test_a_worker_at_whose_partitions_all_jobs_lie_uses_the_share_of_the_other_one(running: Running) -> None:
    """Its own share alone would let these jobs begin within 36 s."""
    of_one = (f"lent-{number}" for number in count())
    names: list[tuple[str, Priority]] = [
        (name, "normal") for name in islice((name for name in of_one if in_first_partition(name)), 40)
    ]
    asyncio.run(_submit(running, names, make_clock()() + 5_000, LENT))
    wait_until(
        lambda: all(job(running, name)["status"] == "completed" for name, _ in names),
        150, "all jobs", poll_s=2,
    )  # fmt: skip
    times_ms = sorted(granted_ms(running, name) for name, _ in names)
    assert times_ms[-1] - times_ms[0] <= 30_000, times_ms
    for start_ms in times_ms:
        most = LENT_PER_MIN * (10_000 + BURST_S * 1_000) / 60_000 + len(WORKERS)
        assert sum(start_ms <= at_ms < start_ms + 10_000 for at_ms in times_ms) <= most, times_ms


def in_first_partition(name: str) -> bool:
    return partition_of(f"acme:{name}".encode(), range(4), range(4)) == 0


@pytest.mark.long
def test_a_limit_that_only_the_provider_knows_is_kept_as_its_headers_tell_it(running: Running) -> None:
    limited = {"models": {UNTOLD: {"requests_per_minute": 60, "burst_real_s": 5.0}}}
    ask(f"{running.system.simulator_url}/sim/faults", limited)
    names: list[tuple[str, Priority]] = [(f"untold-{number}", "normal") for number in range(24)]
    asyncio.run(_submit(running, names, make_clock()(), UNTOLD))
    wait_until(
        lambda: all(job(running, name)["status"] == "completed" for name, _ in names),
        150, "all jobs", poll_s=2,
    )  # fmt: skip
    entries = [entry for name, _ in names for entry in job(running, f"{name}/timeline")["entries"]]
    refused = sum(entry["kind"] == "attempt_rejected" for entry in entries)
    times_ms = sorted(entry["at_ms"] for entry in entries if entry["kind"] == "job_admitted")
    assert len(times_ms) == len(names)
    assert times_ms[-1] - times_ms[0] >= 10_000, "without the headers all would go within seconds"
    assert refused <= 8, entries


OVERLOADED = "503/server_is_overloaded/openai"


def begin_incident(running: Running, answer: str) -> None:
    ask(f"{running.system.simulator_url}/sim/incident", {"answer": answer})


def struck(running: Running) -> int:
    """Creates that the incident refused."""
    (incident,) = json.loads(ask(f"{running.system.simulator_url}/sim/incident"))["incidents"]
    return int(incident["calls_struck"])


def submit(running: Running, job_id: str) -> None:
    body = {"job_id": job_id, "request": {"model": MODEL, "input": "Hi."}}
    ask(f"{running.system.url}/v1/jobs", body, running.keys["acme"])


def until_it_is(running: Running, job_id: str, status: str) -> None:
    wait_until(lambda: job(running, job_id)["status"] == status, 60, f"{job_id} to be {status}")


def closed(running: Running, worker: str) -> bool:
    """Whether a worker holds the lane closed, by its own metrics."""
    return f'backstop_lane_closed{{model="{MODEL}"' in running.metrics(worker)


@pytest.mark.parametrize("probes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_two_workers_meet_an_outage_as_one(running: Running, probes: int) -> None:
    """`probes`: how many of them fail before a worker dies. Each makes the wait for the next one four times as long."""
    before, first, later, last = (f"{name}-{probes}" for name in ("before", "first", "later", "last"))
    submit(running, before)
    until_it_is(running, before, "completed")
    # Those that fail before the last one are told to wait, so that none tries again before both workers know.
    begin_incident(running, f"{OVERLOADED}/60")
    for number in range(FAILURES_MAX):  # one at a time, so that none is in flight when the lane closes
        if number == FAILURES_MAX - 1:
            asyncio.run(_end_incidents(running))
            begin_incident(running, OVERLOADED)
        submit(running, f"{first}-{number}")
        until_it_is(running, f"{first}-{number}", "backing_off")
    wait_until(lambda: all(closed(running, worker) for worker in WORKERS), 10, "both workers to know")
    assert struck(running) == 1, "the last one of those that close the lane"

    for number in range(30):
        submit(running, f"{later}-{number}")
    wait_until(lambda: struck(running) == 1 + probes, 60, "the probes: after 4 s, and 16 s later")

    pid = running.system.supervisor.pid("worker-2")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: running.system.supervisor.pid("worker-2") not in (None, pid), 60, "another worker")
    wait_until(lambda: closed(running, "worker-2"), 30, "a lane that is closed from the start")
    for number in range(10):
        submit(running, f"{last}-{number}")
    until_it_is(running, f"{last}-9", "backing_off")
    assert struck(running) <= 1 + probes + 1

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


@pytest.mark.long
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
