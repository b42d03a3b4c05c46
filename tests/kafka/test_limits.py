"""Limits with two workers on a real broker: the rate of their grants, the order of classes, and what a job says of its
wait.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

import aiohttp
import pytest

from backstop.dev.broker import Owned
from backstop.runtime.process.clock import make_clock
from schemas.base import Priority
from streams.policy.buckets import BURST_S
from tests.kafka.sdk_rig import WORKERS, Running, ask, two_workers
from tests.support.waiting import wait_until

MODEL = "gpt-5.2"
PER_MIN = 120
UNTOLD = "gpt-5.2-mini"
"""The limits of this model are known to the provider only."""
SUBMITTED_WITHIN_MS = 10_000
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def running(broker: Owned, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    limits = json.dumps([{"model": MODEL, "requests_per_min": PER_MIN}, {"model": UNTOLD, "discover": True}])
    with two_workers(broker, tmp_path_factory.mktemp("system"), time_scale=20.0, limits=limits) as running:
        yield running


def of_job(running: Running, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(f"{running.system.url}/v1/jobs{path}", None, running.keys["acme"]))
    return found


async def _submit(
    running: Running, names: Sequence[tuple[str, Priority]], not_before_ms: int, model: str = MODEL
) -> None:
    """All wait from the same time on, however long their submissions take."""
    headers = {"Authorization": f"Bearer {running.keys['acme']}"}
    async with aiohttp.ClientSession(headers=headers) as session:

        async def submit(name: str, priority: Priority) -> None:
            body = {
                "job_id": name, "priority": priority, "not_before_ms": not_before_ms,
                "request": {"model": model, "input": "Hi.", "max_output_tokens": 16},
            }  # fmt: skip
            async with session.post(f"{running.system.url}/v1/jobs", json=body) as answer:
                assert answer.status == 202, await answer.text()

        await asyncio.gather(*(submit(name, priority) for name, priority in names))


def created(running: Running) -> list[str]:
    """The jobs that were created at the provider."""
    lines = (running.system.ledgers / "creates.jsonl").read_text().splitlines()
    return [json.loads(line)["job"].partition(":")[2] for line in lines]


def granted_ms(running: Running, name: str) -> int:
    """When the job had its turn. It has one grant."""
    (grant,) = [entry for entry in of_job(running, f"/{name}/timeline")["entries"] if entry["kind"] == "job_admitted"]
    return int(grant["at_ms"])


def until_told(running: Running, name: str, begins: str) -> None:
    """Until `GET /v1/jobs/{id}/why` says so."""
    wait_until(lambda: of_job(running, f"/{name}/why")["sentences"][0].startswith(begins), 60, begins, poll_s=0.2)


def test_two_workers_keep_a_limit_together_and_let_classes_go_in_order(running: Running) -> None:
    counts: dict[Priority, int] = {"bulk": 24, "normal": 8, "interactive": 8}
    names = [(f"{priority}-{number}", priority) for priority, count in counts.items() for number in range(count)]
    begins_ms = make_clock()() + SUBMITTED_WITHIN_MS
    asyncio.run(_submit(running, names, begins_ms))
    until_told(running, "bulk-23", "The job asked not to begin before")
    until_told(running, "bulk-23", f"The job waits for its turn under the limits of {MODEL}")
    stands = of_job(running, "/bulk-23/why").get("turn", {})
    assert (stands["priority"], 1 <= stands["place"] <= stands["waiting"] <= 24) == ("bulk", True), stands

    wait_until(
        lambda: all(of_job(running, f"/{name}")["status"] == "completed" for name, _ in names),
        150, "all jobs", poll_s=2,
    )  # fmt: skip
    assert sorted(created(running)) == sorted(name for name, _ in names), "each job has one create"
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


def test_a_limit_that_only_the_provider_knows_is_kept_as_its_headers_tell_it(running: Running) -> None:
    limited = {"models": {UNTOLD: {"requests_per_minute": 60, "burst_real_s": 5.0}}}
    ask(f"{running.system.simulator_url}/sim/faults", limited)
    names: list[tuple[str, Priority]] = [(f"untold-{number}", "normal") for number in range(24)]
    asyncio.run(_submit(running, names, make_clock()(), UNTOLD))
    wait_until(
        lambda: all(of_job(running, f"/{name}")["status"] == "completed" for name, _ in names),
        150, "all jobs", poll_s=2,
    )  # fmt: skip
    entries = [entry for name, _ in names for entry in of_job(running, f"/{name}/timeline")["entries"]]
    refused = sum(entry["kind"] == "attempt_rejected" for entry in entries)
    times_ms = sorted(entry["at_ms"] for entry in entries if entry["kind"] == "job_admitted")
    assert len(times_ms) == len(names)
    assert times_ms[-1] - times_ms[0] >= 10_000, "without the headers all would go within seconds"
    assert refused <= 8, entries
