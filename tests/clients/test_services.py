"""The services of `examples/` against the whole system, before and after: each document is one job, paid once."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from backstop.dev.ports import Ports
from tests.clients.conftest import Running
from tests.clients.matrix import HERE
from tests.clients.test_clients import jobs_of
from tests.clients.test_others import DOCUMENT, PYTHON
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EXAMPLES = DOCUMENT.parents[1] / "examples/services"
TENANT = "services"


@pytest.fixture(name="port")
def _port() -> Iterator[int]:
    ports = Ports()
    yield ports.draw()
    ports.release()


@contextmanager
def serving(running: Running, command: Sequence[str], port: int) -> Iterator[str]:
    process = subprocess.Popen(command, cwd=EXAMPLES, env=running.environment(TENANT))
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: httpx2.get(f"{url}/nothing").status_code == 404, 60, "the service")
        yield url
    finally:
        process.terminate()
        process.wait(20)


def post(url: str) -> Any:
    return httpx2.post(url, json={"text": "Say hello."}, timeout=60).raise_for_status().json()


def command_of(name: str, port: int, folder: Path) -> list[str]:
    """How to start a service; one of Node from `folder`, where its packages are."""
    if name.startswith("express"):
        (folder / "node_modules").symlink_to(HERE / "node/node_modules", target_is_directory=True)
        return ["node", str(shutil.copy(str(EXAMPLES / f"{name}.mjs"), folder)), str(port)]
    if name.startswith("fastapi"):
        return [PYTHON, "-m", "uvicorn", "--port", str(port), "--log-level", "warning", f"{name}:app"]
    return [PYTHON, f"{name}.py", str(port)]


@pytest.mark.parametrize("name", ["fastapi_after", "django_service", "express_after"])
def test_a_service_begins_a_job_once_and_reads_it_when_it_is_there(
    running: Running, port: int, tmp_path: Path, name: str
) -> None:
    before = jobs_of(running, TENANT)
    begin = "documents" if name == "django_service" else "summaries"
    with serving(running, command_of(name, port, tmp_path), port) as url:
        first, again = [post(f"{url}/{begin}/{name}-1") for _ in range(2)]
        assert first == again
        read = f"{url}/summaries/{first['id']}"
        seen = wait_until(lambda: (got := httpx2.get(read).json())["status"] == "completed" and got, 60, "the summary")
        assert seen["summary"] == "Echo: Say hello."
    assert jobs_of(running, TENANT) == before + 1


@pytest.mark.parametrize("name", ["fastapi_before", "express_before"])
def test_the_service_as_it_was_gets_its_answer_through_backstop_too(
    running: Running, port: int, tmp_path: Path, name: str
) -> None:
    with serving(running, command_of(name, port, tmp_path), port) as url:
        assert post(f"{url}/summaries/1") == {"document": "1", "summary": "Echo: Say hello."}
