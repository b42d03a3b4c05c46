"""What an operator does with the command, on a real broker: pause and resume a model, cancel many jobs."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from backstop.cli.main import app
from backstop.dev.broker import Owned
from backstop.dev.fast_provider import BRISK
from backstop.dev.system import Shape
from tests.kafka.held import held
from tests.kafka.sdk_rig import Running, ask, three_tenants
from tests.support.waiting import wait_until

MODEL, OTHER = "gpt-5.2", "gpt-5.2-mini"
JOBS = 30

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def running(broker: Owned, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("system")
    keys_file, keys = three_tenants(folder / "keys.json", "operate", "admin")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BACKSTOP_", "OPENAI_"))}
    shape = Shape(
        folder=folder,
        environment={**BRISK, **environment, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap},
        settings={"BACKSTOP_KEYS_FILE": str(keys_file), "BACKSTOP_WORKER_SESSION_TIMEOUT_S": "6",
                  "BACKSTOP_WORKER_HEARTBEAT_S": "0.5"},
        port=0, partitions=2, time_scale=20.0,
    )  # fmt: skip
    with held(shape) as system:
        yield Running(system, keys)


def command(running: Running, *arguments: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """What `backstop …` prints as JSON."""
    environment = {"BACKSTOP_URL": running.system.url, "BACKSTOP_API_KEY": running.keys["acme"]}
    done = CliRunner().invoke(app, [*arguments, "--output", "json"], env=environment)
    assert done.exit_code in codes, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def submit(running: Running, job_id: str, model: str = MODEL, *tags: str, **request: Any) -> None:
    body = {"job_id": job_id, "tags": tags, "request": {"model": model, "input": "Hi.", **request}}
    ask(f"{running.system.url}/v1/jobs", body, running.keys["acme"])


def read(running: Running, path: str, part: str = "data") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ask(f"{running.system.url}{path}", None, running.keys["acme"]))[part]
    return found


def knows(running: Running) -> bool:
    """Whether the worker knows of one pause, by its own metrics."""
    return "backstop_pauses 1.0" in running.metrics("worker")


def status(running: Running, job_id: str) -> str:
    return str(command(running, "jobs", "show", job_id)["status"])


def test_a_paused_model_is_not_sent_until_it_is_resumed(running: Running) -> None:
    submit(running, "before")
    wait_until(lambda: status(running, "before") == "completed", 60, "a calm job")
    made = command(running, "lanes", "pause", "--model", MODEL, "--by", "Ann", "--why", "the key is rotated")
    names = [f"held-{number}" for number in range(JOBS)]
    wait_until(lambda: knows(running), 10, "a worker that knows the pause")
    for name in names:
        submit(running, name)
    submit(running, "other", OTHER)
    wait_until(lambda: status(running, names[-1]) == "backing_off", 60, "a job that waits")
    wait_until(lambda: status(running, "other") == "completed", 60, "a job of another model")
    said = " ".join(command(running, "why", names[0])["sentences"])
    assert "paused by Ann: the key is rotated" in said
    shown = lambda: command(running, "jobs", "show", names[0])["waiting"]  # noqa: E731
    wait_until(
        lambda: shown()["for"] == "resume", 30, "a status that knows the worker, and a job that tells of the pause"
    )
    waiting = shown()
    assert waiting["because"]["code"] == "lane_paused"
    assert waiting["because"]["message"] == "creates are paused by Ann: the key is rotated"
    (listed,) = command(running, "lanes", "list")["pauses"]
    assert listed == made
    lanes = {lane["model"]: lane["state"] for lane in command(running, "lanes", "list")["data"]}
    assert lanes[MODEL] == "paused"

    pid = running.system.supervisor.pid("worker")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: running.system.supervisor.pid("worker") not in (None, pid), 60, "another worker")
    submit(running, "after")
    wait_until(lambda: status(running, "after") == "backing_off", 60, "a job that the new worker holds")
    assert [name for name in [*names, "after"] if running.creates_of(name, "acme")] == []

    command(running, "lanes", "resume", made["id"], "--why", "done")
    for name in [*names, "after"]:
        wait_until(lambda each=name: status(running, each) == "completed", 90, name)  # type: ignore[misc]
    assert {running.creates_of(name, "acme") for name in [*names, "after"]} == {1}


def test_many_jobs_are_planned_and_then_cancelled(running: Running) -> None:
    tag, names = "wrong", [f"wrong-{number}" for number in range(JOBS)]
    made = command(running, "lanes", "pause", "--tag", tag, "--unseen", "--why", "the prompt is wrong")
    wait_until(lambda: knows(running), 10, "a worker that knows the pause")
    for name in names:
        submit(running, name, MODEL, tag)
    stuck = {"metadata": {"sim_fault": "run_stuck_in_progress"}}
    submit(running, "stuck", OTHER, **stuck)
    submit(running, "kept", MODEL)
    wait_until(lambda: status(running, names[-1]) == "backing_off", 60, "a tagged job that waits")
    wait_until(lambda: status(running, "kept") == "completed", 60, "a job without the tag")
    wait_until(lambda: status(running, "stuck") == "running", 60, "a job that runs")

    plan = command(running, "jobs", "cancel", "--tag", tag)
    assert (plan["count"], plan["running"], plan["executed"]) == (JOBS, 0, False)
    assert status(running, names[0]) == "backing_off", "a plan changes nothing"
    done = command(running, "jobs", "cancel", "--tag", tag, "--rate", "10", "--execute", "--why", "wrong prompt")
    assert done["cancelled"] == JOBS
    running_one = command(running, "jobs", "cancel", "stuck", "wrong-0", "--execute", "--why", "stuck", codes=(0, 1))
    assert running_one["cancelled"] >= 1
    for name in (*names, "stuck"):
        wait_until(lambda each=name: status(running, each) == "cancelled", 60, name)  # type: ignore[misc]
    assert {running.creates_of(name, "acme") for name in names} == {0}, "what was never sent cost nothing"
    assert command(running, "jobs", "cancel", "--tag", tag)["count"] == 0
    command(running, "lanes", "resume", made["id"], "--why", "done")


def test_open_jobs_are_changed_and_ended_ones_retried_once(running: Running) -> None:
    tag, names = "night", [f"night-{number}" for number in range(JOBS)]
    made = command(running, "lanes", "pause", "--tenant", "acme", "--tag", tag, "--unseen", "--why", "not now")
    wait_until(lambda: knows(running), 10, "a worker that knows the pause")
    for name in names:
        submit(running, name, MODEL, tag)
    submit(running, "endless", OTHER, metadata={"sim_fault": "run_stuck_in_progress"})
    wait_until(lambda: status(running, names[-1]) == "backing_off", 60, "a tagged job that waits")
    wait_until(lambda: status(running, "endless") == "running", 60, "a job that runs")

    assert command(running, "jobs", "change", "--tag", tag, "--priority", "bulk")["count"] == JOBS
    changes = ("jobs", "change", "--tag", tag, "--priority", "bulk", "--deadline", "3h")
    assert command(running, *changes, "--execute", "--why", "for the night", "--by", "Ann")["changed"] == JOBS
    shown = lambda name: command(running, "jobs", "show", name)  # noqa: E731
    wait_until(lambda: shown(names[0]).get("priority") == "bulk", 30, "a job that shows its priority")
    facts = read(running, f"/v1/jobs/{names[0]}/timeline", "entries")
    (told,) = [fact["summary"] for fact in facts if fact["kind"] == "job_changed"]
    assert (told["why"], told["by"], told["priority"]) == ("for the night", "Ann", "bulk")

    command(running, "jobs", "change", "endless", names[0], "--deadline", "1767225600000", "--execute", "--why", "over")
    for name in ("endless", names[0]):
        wait_until(lambda each=name: status(running, each) == "expired", 60, name)  # type: ignore[misc]
    assert shown("endless")["reason"]["message"].startswith("its deadline was moved to a time that has passed: over")

    command(running, "lanes", "resume", made["id"], "--why", "done")
    for name in names[1:]:
        wait_until(lambda each=name: status(running, each) == "completed", 90, name)  # type: ignore[misc]
    assert command(running, "jobs", "retry", "--tag", tag)["count"] == 1
    retry = ("jobs", "retry", names[0], "--execute", "--why", "a second chance")
    assert command(running, *retry)["retried"] == 1
    command(running, *retry)
    (again,) = [job for job in read(running, f"/v1/jobs?tag={tag}") if "retry_of" in job]
    assert again["retry_of"] == names[0]
    wait_until(lambda: status(running, again["job_id"]) == "completed", 90, "the retry")
    assert (running.creates_of(names[0], "acme"), running.creates_of(again["job_id"], "acme")) == (0, 1)
    assert command(running, "jobs", "retry", "--tag", tag)["retried_before"] == 1
    assert status(running, names[0]) == "expired", "the ended job keeps its one result"
