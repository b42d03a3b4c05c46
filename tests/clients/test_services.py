"""The services of `examples/` against the whole system, before and after: each document is one job, paid once."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from backstop.dev.ports import Ports
from tests.clients.conftest import Running
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
    process = subprocess.Popen([PYTHON, *command], cwd=EXAMPLES, env=running.environment(TENANT))
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: httpx2.get(f"{url}/nothing").status_code == 404, 60, "the service")
        yield url
    finally:
        process.terminate()
        process.wait(20)


def post(url: str) -> Any:
    return httpx2.post(url, json={"text": "Say hello."}, timeout=60).raise_for_status().json()


@pytest.mark.parametrize("name", ["fastapi", "django"])
def test_a_service_begins_a_job_once_and_reads_it_when_it_is_there(running: Running, port: int, name: str) -> None:
    before = jobs_of(running, TENANT)
    uvicorn = ["-m", "uvicorn", "--port", str(port), "--log-level", "warning", "fastapi_after:app"]
    begin = "summaries" if name == "fastapi" else "documents"
    with serving(running, uvicorn if name == "fastapi" else ["django_service.py", str(port)], port) as url:
        first, again = [post(f"{url}/{begin}/{name}-1") for _ in range(2)]
        assert first == again
        read = f"{url}/summaries/{first['id']}"
        seen = wait_until(lambda: (got := httpx2.get(read).json())["status"] == "completed" and got, 60, "the summary")
        assert seen["summary"] == "Echo: Say hello."
    assert jobs_of(running, TENANT) == before + 1


def test_the_service_as_it_was_gets_its_answer_through_backstop_too(running: Running, port: int) -> None:
    with serving(running, ["-m", "uvicorn", "--port", str(port), "fastapi_before:app"], port) as url:
        assert post(f"{url}/summaries/1") == {"document": "1", "summary": "Echo: Say hello."}
