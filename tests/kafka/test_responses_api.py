"""The whole system behind the official SDKs of Python and Node, which have only a base URL and a key of their own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from aiokafka import AIOKafkaProducer

from backstop.dev.broker import Owned
from tests.kafka.sdk_rig import (
    ASKED,
    ENDED_WITHIN_S,
    GUIDE,
    STUCK,
    Losing,
    Running,
    asked_over_http,
    ended,
    node,
    running_system,
)
from tests.support.accepted import accepted
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def running(broker: Owned, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_system(broker, tmp_path_factory.mktemp("system")) as system:
        yield system


@pytest.mark.parametrize(("script", "said"), GUIDE.values(), ids=GUIDE.keys())
def test_a_program_for_openai_runs_with_only_its_environment_changed(running: Running, script: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script], env=running.environment("acme"), capture_output=True, text=True, timeout=120,
        check=False, cwd=running.system.ledgers,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == said


def test_create_poll_cancel_and_delete(running: Running) -> None:
    with running.client("acme", max_retries=0, _strict_response_validation=True) as client:
        created = client.responses.create(**ASKED, metadata={"mine": "kept"})
        assert (created.status, created.metadata) == ("queued", {"mine": "kept"})
        assert client.responses.retrieve(created.id).status in {"queued", "in_progress"}, "there at once"
        done = ended(client, created.id)
        assert (done.id, done.status, done.output_text) == (created.id, "completed", "Echo: Say hello.")
        assert (done.metadata, done.created_at) == ({"mine": "kept"}, created.created_at)
        assert running.creates_of(created.id, "acme") == 1

        stuck = client.responses.create(**STUCK)
        assert client.responses.cancel(stuck.id).status == "cancelled"
        assert client.responses.cancel(stuck.id).status == "cancelled", "twice is once"
        assert client.responses.retrieve(stuck.id).metadata == {**STUCK["metadata"]}
        (item,) = client.responses.input_items.list(stuck.id).data
        assert item.content[0].text == "Say hello."  # type: ignore[index, union-attr]
        client.responses.delete(stuck.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(stuck.id)

        failing = client.responses.create(**ASKED, metadata={"sim_fault": "create_400"})
    with running.client("acme") as client:
        failed = ended(client, failing.id)
        assert (failed.status, failed.error is not None) == ("failed", True)


FOREGROUND: dict[str, Any] = {"model": "gpt-5.2", "input": "Say hello."}


def test_a_create_without_background_waits_for_its_answer(running: Running) -> None:
    with running.client("acme", max_retries=0, _strict_response_validation=True) as client:
        done = client.responses.create(**FOREGROUND, metadata={"mine": "kept"})
        assert (done.status, done.background, done.output_text) == ("completed", False, "Echo: Say hello.")
        assert done.metadata == {"mine": "kept"}
        assert client.responses.retrieve(done.id) == done
        assert running.creates_of(done.id, "acme") == 1
        unstored = client.responses.create(**FOREGROUND, store=False)
        assert unstored.output_text == "Echo: Say hello."
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(unstored.id)
        events = list(client.responses.create(**FOREGROUND, stream=True))
        assert (events[-1].type, events[-1].response.output_text) == ("response.completed", "Echo: Say hello.")
        assert events[-1].response.background is False


def test_a_create_that_waits_survives_a_lost_answer(running: Running) -> None:
    asked = {**FOREGROUND, "input": f"Say at {time.time_ns()}."}
    transport = Losing()
    with running.client("acme", http_client=openai.DefaultHttpx2Client(transport=transport)) as client:
        done = client.responses.create(**asked)
        assert transport.retry_counts == ["0", "1"]
    impatient = {**FOREGROUND, "input": f"Slowly at {time.time_ns()}.", "metadata": {"sim_run_s": "60"}}
    with running.client("acme", max_retries=9, timeout=1.0) as client:
        slow = client.responses.create(**impatient)
    for each in (done, slow):
        assert each.status == "completed"
        assert running.creates_of(each.id, "acme") == 1
    jobs = asyncio.run(asked_over_http(running, "acme", "/v1/jobs?limit=2"))["data"]
    assert [job["job_id"] for job in jobs] == [slow.id, done.id], "and no other was made beside them"


def test_a_conversation_goes_on_by_our_ids(running: Running) -> None:
    with running.client("acme") as client, running.client("globex") as other:
        first = client.responses.create(**ASKED)
        ended(client, first.id)
        second = client.responses.create(**{**ASKED, "input": "And again."}, previous_response_id=first.id)
        done = ended(client, second.id)
        assert (done.status, done.previous_response_id) == ("completed", first.id)
        with pytest.raises(openai.BadRequestError, match="your own"):
            other.responses.create(**ASKED, previous_response_id=first.id)


@pytest.mark.parametrize("headers", [{"Idempotency-Key": "order-17"}, {}], ids=["with a key", "without one"])
def test_an_sdk_that_repeats_a_create_by_itself_makes_one_response(running: Running, headers: dict[str, str]) -> None:
    asked = {**ASKED, "input": f"Say {len(headers)} at {time.time_ns()}."}
    transport = Losing()
    with running.client("acme", http_client=openai.DefaultHttpx2Client(transport=transport)) as client:
        created = client.responses.create(**asked, extra_headers=headers)
        assert transport.retry_counts == ["0", "1"]
        assert ended(client, created.id).status == "completed"
    assert running.creates_of(created.id, "acme") == 1
    jobs = asyncio.run(asked_over_http(running, "acme", "/v1/jobs?limit=2"))["data"]
    assert [job["job_id"] for job in jobs].count(created.id) == 1
    assert jobs[0]["job_id"] == created.id, "and no other was made beside it"


def test_refusals_are_the_sdks_own_exceptions(running: Running) -> None:
    with running.client("acme", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as unstored:
            client.responses.create(**ASKED, store=False)
        assert (unstored.value.param, unstored.value.type) == ("store", "invalid_request_error")
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve("resp_unknown")
        with pytest.raises(openai.AuthenticationError) as wrong:
            client.with_options(api_key="sk-wrong").responses.create(**ASKED)
        assert wrong.value.code == "invalid_api_key"
    with running.client("limited", max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as limited:
            client.responses.create(**ASKED)
        assert limited.value.response.headers["retry-after"] == "5"
        assert "open_jobs_max" in limited.value.message


def test_another_tenants_job_is_on_no_route(running: Running) -> None:
    with running.client("acme") as client:
        created = client.responses.create(**ASKED, extra_headers={"Backstop-Session": "chat-1"})
        ended(client, created.id)

    async def story() -> None:
        reads = [f"/v1/jobs/{created.id}{rest}" for rest in ("", "/output", "/timeline")]
        reads += ["/v1/sessions/chat-1", f"/v1/responses/{created.id}", f"/v1/responses/{created.id}/input_items"]
        for path in reads:
            shown = await asked_over_http(running, "acme", path)
            # The provider's own object, as jobs show it, names the job as the provider knows it.
            for holder in (shown, shown.get("result", {}).get("response", {})):
                holder.pop("metadata", None)
            assert "acme:" not in json.dumps(shown), "no client sees the tenant's name before an id"
            await asked_over_http(running, "globex", path, 404)
        await asked_over_http(running, "globex", f"/v1/jobs/acme:{created.id}", 404)
        await asked_over_http(running, "globex", f"/v1/jobs/{created.id}/events", 404)
        await asked_over_http(running, "globex", f"/v1/jobs/{created.id}/stream", 404)
        await asked_over_http(running, "globex", f"/v1/responses/{created.id}?stream=true", 404)
        await asked_over_http(running, "globex", "/v1/sessions/chat-1/events", 404)
        for method, rest in (("POST", "/cancel"), ("DELETE", "")):
            await asked_over_http(running, "globex", f"/v1/responses/{created.id}{rest}", 404, method)
        await asked_over_http(running, "globex", f"/v1/jobs/{created.id}/cancel", 404, "POST")
        assert (await asked_over_http(running, "globex", "/v1/jobs"))["data"] == []

    asyncio.run(story())


def test_who_writes_to_a_tenants_requests_topic_is_that_tenant(running: Running) -> None:
    system = running.system

    async def story() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=system.bootstrap, acks="all")
        await producer.start()
        try:
            request = {"type": "submit", "job_id": "over-kafka", "request": {"model": "gpt-5.2", "input": "Hi."}}
            await producer.send_and_wait(
                f"{system.runtime.topic_prefix}requests.acme", json.dumps(request).encode(),
                headers=[("tenant", b"globex")],
            )  # fmt: skip
        finally:
            await producer.stop()

        async def completed() -> bool:
            job = await asked_over_http(running, "acme", "/v1/jobs/over-kafka")
            return bool(job["status"] == "completed")

        await eventually(completed, ENDED_WITHIN_S, "the job over Kafka to end", poll_s=0.2)
        await asked_over_http(running, "globex", "/v1/jobs/over-kafka", 404)

    asyncio.run(story())


def test_a_job_is_there_right_after_its_submission(running: Running) -> None:
    async def story() -> None:
        headers = {"Authorization": f"Bearer {running.keys['acme']}"}
        async with aiohttp.ClientSession(running.system.url, headers=headers) as session:
            for number in range(20):
                body = {"job_id": f"at-once-{number}", "request": {"model": "gpt-5.2", "input": "Hi."}}
                await accepted(session, body)
                for rest, statuses in (("", {200}), ("/timeline", {200}), ("/output", {200, 409})):
                    async with session.get(f"/v1/jobs/at-once-{number}{rest}") as answer:
                        assert answer.status in statuses, await answer.text()

    asyncio.run(story())


def test_a_response_survives_the_receiver_that_took_it(running: Running) -> None:
    with running.client("acme", max_retries=20) as client:
        created = client.responses.create(**ASKED, extra_headers={"Idempotency-Key": "across-a-crash"})
        pid = running.system.supervisor.pid("serve")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        # The SDK repeats a call that finds no server; it would not repeat a 404.
        assert client.responses.retrieve(created.id).id == created.id
        again = client.responses.create(**ASKED, extra_headers={"Idempotency-Key": "across-a-crash"})
        assert again.id == created.id
        assert ended(client, created.id).status == "completed"
    assert running.creates_of(created.id, "acme") == 1


def test_a_node_program_for_openai_runs_with_only_its_environment_changed(running: Running, node_folder: Path) -> None:
    assert node(running, node_folder, "background.mjs") == "completed: Echo: Say hello from Node.\n"


def test_the_node_sdk_finds_what_it_relies_on(running: Running, node_folder: Path) -> None:
    seen = json.loads(node(running, node_folder, "contract.mjs"))
    response_id = seen["created"]["id"]
    assert seen["created"] == {
        "id": response_id, "status": "queued", "metadata": {"sim_fault": "run_stuck_in_progress"}, "text": "",
    }  # fmt: skip
    assert seen["read"]["id"] == response_id
    assert seen["read"]["status"] in {"queued", "in_progress"}
    assert seen["cancelled"] == {"id": response_id, "status": "cancelled"}
    assert (seen["again"], seen["items"]) == ("cancelled", ["Say hello."])

    def error(name: str, status: int, code: str | None, kind: str, param: str | None = None) -> dict[str, Any]:
        return {"name": name, "status": status, "code": code, "type": kind, "param": param, "request": "req_"}

    invalid = "invalid_request_error"
    assert seen["deleted"] == seen["unknown"] == error("NotFoundError", 404, None, invalid)
    assert seen["repeated"]["counts"] == seen["keyless"]["counts"] == ["0", "1"]
    assert seen["repeated"]["same"] is True
    assert seen["reused"] == error("ConflictError", 409, "idempotency_key_reused", invalid)
    assert seen["unauthenticated"] == error("AuthenticationError", 401, "invalid_api_key", invalid)
    assert seen["foreground"] == {"status": "completed", "background": False, "text": "Echo: Say hello."}
    assert {**seen["refused"], "code": None} == error("BadRequestError", 400, None, invalid)
    assert seen["limited"] == error("RateLimitError", 429, "rate_limit_exceeded", "requests")
    with running.client("acme") as client:
        for name in ("repeated", "keyless"):
            assert ended(client, seen[name]["id"]).status == "completed"
            assert running.creates_of(seen[name]["id"], "acme") == 1
