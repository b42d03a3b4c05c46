"""A hedged job on a real broker, with a real worker and the simulator: the second attempt wins, the first is cancelled,
and both are counted by the provider and here.
"""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.error import HTTPError

import pytest

from backstop.dev.broker import Owned
from backstop.dev.fast_provider import BRISK
from backstop.dev.system import Shape
from tests.kafka.held import held
from tests.kafka.sdk_rig import Running, three_tenants
from tests.kafka.test_costs import ask, backstop, lines
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

MODEL = "gpt-6-luna"
ENDED = 115
"""More than the 100 ends without which nothing is hedged."""

SUBMITTED_AFTER = 90
"""At most, for a budget that is empty after a start: fewer than the ends that permit a hedge."""


@pytest.fixture(scope="module")
def running(broker: Owned, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("system")
    keys_file, keys = three_tenants(folder / "keys.json", "operate")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BACKSTOP_", "OPENAI_"))}
    shape = Shape(
        folder=folder,
        environment={**BRISK, **environment, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap},
        settings={"BACKSTOP_KEYS_FILE": str(keys_file), "BACKSTOP_HEDGE_SHARE": "0.1"},
        port=0,
        partitions=2,
        time_scale=20.0,
    )
    with held(shape) as system:
        yield Running(system, keys)


BRIEF = {"sim_queue_s": "0", "sim_run_s": "0.2"}
"""A run that ends before the age at which it would be hedged, however busy the machine is."""


def submit(
    running: Running,
    job_id: str,
    fault: str | None = None,
    hedge: bool | None = True,
    run: dict[str, str] | None = None,
) -> str:
    request = {"model": MODEL, "input": "Hi.", "metadata": {"sim_fault": fault} if fault else run or {}}
    asked = {} if hedge is None else {"hedge": hedge}
    ask(running, "/v1/jobs", {"job_id": job_id, "request": request, **asked})
    return job_id


def is_over(running: Running, job_id: str) -> bool:
    return bool(ask(running, f"/v1/jobs/{job_id}")["terminal"])


def creates(running: Running) -> Counter[str]:
    return Counter(line["job"].partition(":")[2] for line in lines(running.system.ledgers / "creates.jsonl"))


def test_a_stuck_response_is_overtaken_by_a_second_attempt(running: Running) -> None:
    jobs = [submit(running, f"usual-{number}") for number in range(ENDED)]
    for job_id in jobs:
        wait_until(partial(is_over, running, job_id), 120, job_id, poll_s=0.2)
    slow = submit(running, "slow", "run_stuck_in_progress@1")
    plain = submit(running, "plain", "run_stuck_in_progress@1", hedge=None)
    wait_until(partial(is_over, running, slow), 120, slow, poll_s=0.2)

    job = ask(running, f"/v1/jobs/{slow}")
    result = job["result"]
    assert result["outcome"] == "completed", result
    assert "hedge" in result, ask(running, f"/v1/jobs/{slow}/timeline")
    hedge = result["hedge"]
    assert (hedge["attempt"], hedge["beside"], hedge["won"]) == (2, 1, "hedge"), hedge
    assert hedge["ahead_ms"] > 0
    assert hedge["begun_after_ms"] > 0
    assert [brief["outcome"] for brief in result["attempts"]] == ["running", "completed"]

    made = creates(running)
    assert made[slow] == 2
    assert made[plain] == 1
    assert ask(running, f"/v1/jobs/{plain}")["terminal"] is False
    extra = sum(count - 1 for count in made.values())
    assert extra <= 1 + 0.1 * ENDED, "the budget"

    kinds = wait_until(lambda: _cancelled(running, slow), 60, "the late end of the loser", poll_s=0.5)
    assert kinds["hedge_permitted"] == 1
    costs = ask(running, f"/v1/jobs/{slow}")["cost"]
    assert costs["attempts"] == 2, costs
    ask(running, f"/v1/jobs/{plain}/cancel", {})


def test_after_a_pause_of_an_operator_second_attempts_begin_again(running: Running) -> None:
    pause = ask(running, "/v1/lanes/pause", {"model": MODEL, "why": "the key is rotated"})
    ask(running, "/v1/lanes/resume", {"pause_id": pause["id"], "why": "done"})
    slow = submit(running, "slow-after-a-pause", "run_stuck_in_progress@1")
    wait_until(partial(is_over, running, slow), 120, slow, poll_s=0.2)
    assert ask(running, f"/v1/jobs/{slow}")["result"]["hedge"]["won"] == "hedge"


def _cancelled(running: Running, job_id: str) -> Counter[str] | None:
    entries = ask(running, f"/v1/jobs/{job_id}/timeline")["entries"]
    kinds = Counter(entry["kind"] for entry in entries)
    late = [entry for entry in entries if entry["kind"] == "attempt_settled" and entry["summary"].get("ignored")]
    booked = kinds["usage_booked"] > 0
    return kinds if late or booked else None


@pytest.mark.long
def test_a_worker_that_was_killed_knows_the_run_times_of_before(running: Running) -> None:
    """It has seen fewer than 100 ends since, and permits a hedge: the log tells of the others."""
    worker = running.system.supervisor.pid("worker")
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    # The next process is there once a job is over. A command that waits for it may expire, and attempt 2 is not stuck.
    wait_until(partial(is_over, running, submit(running, "again", run=BRIEF)), 120, "the next process", poll_s=0.1)
    slow = submit(running, "slow-after", "run_stuck_in_progress@1")
    for number in range(SUBMITTED_AFTER):
        # One by one: of many at once some would look slow, and spend the budget.
        job_id = submit(running, f"after-{number}", run=BRIEF)
        wait_until(partial(is_over, running, job_id), 120, job_id, poll_s=0.1)
        if is_over(running, slow):
            break
    wait_until(partial(is_over, running, slow), 120, slow, poll_s=0.2)
    assert ask(running, f"/v1/jobs/{slow}")["result"]["hedge"]["won"] == "hedge"


@pytest.mark.long
def test_the_audit_proves_a_log_that_holds_hedges(running: Running) -> None:
    system = running.system
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": system.bootstrap, "BACKSTOP_TOPIC_PREFIX": system.runtime.topic_prefix,
        "BACKSTOP_DATABASE_URL": f"sqlite:///{system.database}",
    }  # fmt: skip
    done = backstop(running, "acme", "audit", "verify", check=False, environment=environment)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert "proved" in done.stdout


@pytest.mark.long
def test_a_hedge_that_would_do_harm_is_refused_with_the_reason(running: Running) -> None:
    body = {"job_id": "c", "hedge": True, "request": {"model": MODEL, "input": "Hi.", "conversation": "conv_1"}}
    with pytest.raises(HTTPError) as refused:
        ask(running, "/v1/jobs", body)
    told: Any = json.loads(refused.value.read())
    assert refused.value.code == 422
    assert "both attempts would write to its conversation" in json.dumps(told)
