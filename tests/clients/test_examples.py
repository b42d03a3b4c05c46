"""The examples of consumers, workflows and frameworks against the whole system: each unit of work is one job."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from tests.clients.conftest import Running
from tests.clients.matrix import HERE
from tests.clients.test_clients import HELLO, jobs_of
from tests.clients.test_others import PYTHON, run
from tests.clients.test_services import TENANT
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EXAMPLES: Final = HERE.parents[1] / "examples"
SAY: Final = "Say hello."
WITHIN_S: Final = 90.0


def named(running: Running) -> dict[str, str]:
    """What the examples read of the environment."""
    return {
        **running.environment(TENANT), "BACKSTOP_URL": running.system.url, "BACKSTOP_API_KEY": running.keys[TENANT],
        "KAFKA_BOOTSTRAP_SERVERS": running.system.bootstrap,
        "BACKSTOP_TOPIC_PREFIX": running.system.runtime.topic_prefix,
    }  # fmt: skip


def ask(running: Running, path: str, body: Any = None) -> Any:
    headers = {"Authorization": f"Bearer {running.keys[TENANT]}"}
    method = "GET" if body is None else "POST"
    return httpx2.request(method, f"{running.system.url}{path}", headers=headers, json=body, timeout=60)


def finished(running: Running, job_id: str) -> str:
    body = {"job_id": job_id, "request": {"model": "gpt-5.2", "input": SAY}}
    ask(running, "/v1/jobs", body).raise_for_status()
    return str(ask(running, f"/v1/jobs/{job_id}?wait=30").raise_for_status().json()["status"])


def beside_node_modules(folder: Path, example: Path) -> Path:
    """A copy of `example` in `folder`, beside the packages that the lock names."""
    (folder / "node_modules").symlink_to(HERE / "node/node_modules", target_is_directory=True)
    return Path(shutil.copy(str(example), folder))


def consume(command: Sequence[str], folder: Path, environment: Mapping[str, str], wanted: str) -> list[str]:
    """What a consumer prints until a line has `wanted`; it is stopped then, as it runs for ever."""
    lines: list[str] = []
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, process_group=0)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.strip())
            if wanted in line:
                return lines
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()
    raise AssertionError(f"{command} ended without {wanted}: {lines}")


def test_a_go_service_reads_each_result_and_goes_on_behind_what_it_committed(running: Running, tmp_path: Path) -> None:
    binary = str(tmp_path / "consumer")
    run(["go", "build", "-o", binary, "."], EXAMPLES / "consumers/go")
    reads_on(running, [binary, "go"], tmp_path, lambda job_id: f"{TENANT}:{job_id} completed")


def test_a_java_service_reads_each_result_and_goes_on_behind_what_it_committed(
    running: Running, tmp_path: Path
) -> None:
    folder, classpath = EXAMPLES / "consumers/java", tmp_path / "classpath"
    run(["mvn", "-q", "dependency:build-classpath", f"-Dmdep.outputFile={classpath}"], folder)
    command = ["java", "-cp", classpath.read_text().strip(), str(folder / "Results.java"), "java"]
    reads_on(running, command, tmp_path, lambda job_id: f"{TENANT}:{job_id} {{")


def reads_on(running: Running, command: Sequence[str], folder: Path, line_of: Any) -> None:
    group = command[-1]
    first, second = (f"{group}-{number}" for number in (1, 2))
    assert finished(running, first) == "completed"
    before = consume(command, folder, named(running), line_of(first))
    assert sum(line.startswith(line_of(first)) for line in before) == 1
    assert finished(running, second) == "completed"
    assert any(line.startswith(line_of(second)) for line in consume(command, folder, named(running), line_of(second)))


def test_a_temporal_activity_that_runs_again_is_the_same_job(running: Running) -> None:
    before = jobs_of(running, TENANT)
    command = [PYTHON, "temporal_activity_run.py", str(EXAMPLES / "workflows"), "workflow-17", SAY]
    told = json.loads(run(command, HERE / "python", named(running)))
    assert told["texts"] == [HELLO, HELLO]
    assert told["beats"] >= 2
    assert jobs_of(running, TENANT) == before + 1
    assert ask(running, "/v1/jobs/workflow-17").json()["status"] == "completed"


def test_a_dbos_workflow_that_is_killed_in_its_step_goes_on_and_is_paid_once(running: Running, tmp_path: Path) -> None:
    before, file = jobs_of(running, TENANT), str(EXAMPLES / "workflows/dbos_step.py")
    creates = running.creates_of(TENANT)
    command = [PYTHON, file, "document-17", SAY]
    killed = subprocess.Popen(command, cwd=tmp_path, env=named(running), process_group=0, stdout=subprocess.DEVNULL)
    wait_until(lambda: jobs_of(running, TENANT) == before + 1, WITHIN_S, "the step's job", poll_s=0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait(20)
    assert HELLO in run(command, tmp_path, named(running))
    assert HELLO in run(command, tmp_path, named(running)), "a workflow that has ended answers from its own record"
    assert jobs_of(running, TENANT) == before + 1
    assert running.creates_of(TENANT) == creates + 1


@pytest.mark.parametrize("name", ["langchain_summary.py", "ai_sdk_summary.mjs"])
def test_a_framework_repeats_a_call_as_the_same_job(running: Running, tmp_path: Path, name: str) -> None:
    before, example = jobs_of(running, TENANT), EXAMPLES / "frameworks" / name
    command = (
        [PYTHON, str(example)] if example.suffix == ".py" else ["node", str(beside_node_modules(tmp_path, example))]
    )
    for _ in range(2):
        assert run([*command, f"{example.stem}-17", SAY], tmp_path, named(running)).strip() == HELLO
    assert jobs_of(running, TENANT) == before + 1
