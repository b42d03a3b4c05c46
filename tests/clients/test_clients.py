"""The clients that people use, unmodified, against the whole system: what comes, and what it cost."""

import json
import subprocess
from typing import Any

import httpx2
import pytest

from tests.clients.conftest import SEEN, Running, tenant_of
from tests.clients.losing import breaking_once
from tests.clients.matrix import CLIENTS, Client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HELLO = "Echo: Say hello."
PLACE = {"city": "Paris", "days": 1}
UNMARKED = {"ai-sdk", "litellm"}
"""Clients that ask again, by themselves or by their caller, and send no idempotency key or other sign of it."""

CASES = [(client, feature) for client in CLIENTS for feature in client.features]


def said(running: Running, client: Client, feature: str, url: str | None = None) -> Any:
    """What the client printed."""
    done = subprocess.run(
        [*client.command, feature], cwd=client.folder, env=running.environment(tenant_of(client.name, feature), url),
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def jobs_of(running: Running, tenant: str) -> int:
    headers = {"Authorization": f"Bearer {running.keys[tenant]}"}
    answer = httpx2.get(f"{running.system.url}/v1/jobs?limit=50", headers=headers)
    return len(answer.raise_for_status().json()["data"])


@pytest.mark.parametrize(("client", "feature"), CASES, ids=[f"{client.name}-{feature}" for client, feature in CASES])
def test_a_client_gets_what_it_gets_of_the_provider(running: Running, client: Client, feature: str) -> None:
    tenant = tenant_of(client.name, feature)
    if feature in {"cut", "lost"}:
        port = int(running.system.url.rsplit(":", 1)[1])
        with breaking_once(port, waiting=feature == "cut") as url:
            seen = said(running, client, feature, url)
    else:
        seen = said(running, client, feature)
    calls, told = judge(client, feature, seen)
    assert jobs_of(running, tenant) == calls
    assert running.creates_of(tenant) == (0 if feature == "error" else calls)
    SEEN[client.name, feature] = told


def judge(client: Client, feature: str, seen: Any) -> tuple[int, str]:
    """How many jobs it must have made, and what the page says of it."""
    match feature:
        case "plain":
            assert seen == HELLO
        case "streamed":
            assert "".join(seen) == HELLO
            assert len(seen) > 1, "it came in pieces"
        case "tools":
            assert seen == "The tool said: sunny in Paris for 1"
            return 2, "yes"
        case "structured":
            assert seen == PLACE
        case "error":
            assert seen["raised"] is not None
            assert seen["status"] == 404
            return 1, f"{seen['status']} `{seen['raised'].removeprefix('*')}`"
        case "cut" | "lost":
            assert seen["text"] == (PLACE if client.name == "instructor" else HELLO)
            if feature == "lost" and client.name in UNMARKED:
                return 2, "a second response"
            return 1, "repeats" if seen["asked"] == 1 else "raises"
    return 1, "yes"
