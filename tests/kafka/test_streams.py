"""Partial output through the whole system: live, across drops and deaths, and of no consequence to the job."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from backstop.dev.broker import Owned
from tests.kafka.sdk_rig import WORKERS, Running, ended, node, two_workers
from tests.support.accepted import accepted
from tests.support.waiting import wait_until

ASKED: dict[str, Any] = {"model": "gpt-5.2", "input": "Say hello.", "background": True}
TEXT = "response.output_text.delta"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def running(broker: Owned, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two workers, in real time."""
    with two_workers(broker, tmp_path_factory.mktemp("system")) as running:
        yield running


def streamed(client: openai.OpenAI, run_s: float, output_bytes: int = 0, **metadata: str) -> Any:
    sized = {"sim_output_bytes": str(output_bytes)} if output_bytes else {}
    asked = {"sim_queue_s": "0", "sim_run_s": str(run_s), **sized, **metadata}
    return client.responses.create(**ASKED, stream=True, metadata=asked)


def read_on(stream: Iterator[Any], events: list[Any]) -> None:
    for event in stream:
        events.append(event)  # noqa: PERF402 - what came before an error counts


def joined(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == TEXT)


def assert_whole(events: list[Any]) -> None:
    """No number is missing, none comes twice, and the text is that of the result."""
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert events[0].response.id == events[-1].response.id
    assert joined(events) == events[-1].response.output_text


def sim(running: Running, path: str, body: dict[str, Any] | None = None) -> str:
    async def ask() -> str:
        method = "GET" if body is None else "POST"
        url = f"{running.system.simulator_url}/sim/{path}"
        async with aiohttp.ClientSession() as session, session.request(method, url, json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.text()

    return asyncio.run(ask())


def ledger(running: Running, name: str, response_id: str) -> list[dict[str, Any]]:
    """The lines of one job."""
    lines = [json.loads(line) for line in sim(running, f"ledger/{name}").splitlines()]
    return [line for line in lines if line.get("job") == f"acme:{response_id}"]


def test_text_comes_before_the_end_and_the_result_is_that_of_any_other_job(running: Running) -> None:
    with running.client("acme", _strict_response_validation=True) as client:
        events: list[Any] = []
        for event in streamed(client, run_s=3.0):
            events.append(event)
            if event.type == TEXT and len(events) < 8:
                assert client.responses.retrieve(events[0].response.id).status == "in_progress"
        assert_whole(events)
        plain = client.responses.create(**ASKED, metadata={"sim_run_s": "0"})
        assert ended(client, plain.id).output_text == events[-1].response.output_text == "Echo: Say hello."
        assert running.creates_of(events[0].response.id, "acme") == 1
        late = list(client.responses.retrieve(events[0].response.id, stream=True))
        assert [event.type for event in late] == [event.type for event in events]


@pytest.mark.parametrize(
    "fault",
    [
        "stream_drop=6",
        *(pytest.param(each, marks=pytest.mark.long) for each in ("stream_close=7", "stream_twice", "stream_swapped")),
    ],
)
def test_a_providers_stream_that_fails_is_read_on_without_a_loss_or_a_repeat(running: Running, fault: str) -> None:
    with running.client("acme") as client:
        events = list(streamed(client, run_s=1, sim_fault=fault))
        assert_whole(events)
        streams = [line for line in ledger(running, "calls", events[0].response.id) if line["op"] == "stream"]
        assert [line["fault"] for line in streams][:1] == [fault.partition("=")[0]]


def test_a_listener_that_loses_its_stream_goes_on_behind_the_last_event(running: Running) -> None:
    with running.client("acme") as client:
        events: list[Any] = []
        stream = streamed(client, run_s=1.5)
        for event in stream:
            events.append(event)
            if event.type == TEXT:
                stream.close()
                break
        response_id, last = events[0].response.id, events[-1].sequence_number
        events += client.responses.retrieve(response_id, stream=True, starting_after=last)
        assert_whole(events)


def test_a_listener_that_leaves_stops_nothing(running: Running) -> None:
    with running.client("acme") as client, running.client("globex") as other:
        stream = streamed(client, run_s=1)
        response_id = next(iter(stream)).response.id
        stream.close()
        with pytest.raises(openai.NotFoundError):
            other.responses.retrieve(response_id, stream=True)
        assert ended(client, response_id).output_text == "Echo: Say hello."
        assert running.creates_of(response_id, "acme") == 1


def test_a_create_whose_stream_says_nothing_is_heard_of_again_and_ends_once(running: Running) -> None:
    with running.client("acme") as client:
        events = list(streamed(client, run_s=0.5, sim_fault="create_accept_empty_stream"))
        assert events[-1].type == "response.completed"
        assert running.creates_of(events[0].response.id, "acme") == 1


def open_streams(running: Running, worker: str) -> float:
    """How many streams a worker reads, by its own metrics."""
    pid = running.system.supervisor.pid(worker)
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    port = next(
        value for name, _, value in (each.partition(b"=") for each in variables) if name == b"BACKSTOP_HEALTH_PORT"
    )

    async def ask() -> str:
        url = f"http://127.0.0.1:{int(port)}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return await answer.text()

    (line,) = [line for line in asyncio.run(ask()).splitlines() if line.startswith("backstop_streams_open ")]
    return float(line.split()[1])


def test_a_worker_is_killed_in_the_middle_and_another_goes_on(running: Running) -> None:
    with running.client("acme") as client:
        events: list[Any] = []
        stream = iter(streamed(client, run_s=60, output_bytes=40_000))
        while not events or events[-1].type != TEXT:
            events.append(next(stream))
        (follower,) = [worker for worker in WORKERS if open_streams(running, worker)]
        pid = running.system.supervisor.pid(follower)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        response_id = events[0].response.id
        wait_until(
            lambda: len([line for line in ledger(running, "calls", response_id) if line["op"] == "stream"]) == 2,
            60, "another worker to open the stream",
        )  # fmt: skip
        before = len(events)
        while len(events) < before + 20:  # what came in between, and then some that is live
            events.append(next(stream))
        (created,) = ledger(running, "creates", response_id)
        sim(running, "finish", {"response": created["response"]})
        events += stream
        assert_whole(events)
        assert running.creates_of(response_id, "acme") == 1


def test_the_receiver_is_killed_in_the_middle_and_the_stream_goes_on_behind_the_last_event(running: Running) -> None:
    with running.client("acme", max_retries=20) as client:
        events: list[Any] = []
        stream = iter(streamed(client, run_s=3))
        while not joined(events):
            events.append(next(stream))
        pid = running.system.supervisor.pid("serve")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(openai.APIConnectionError):
            read_on(stream, events)
        last = events[-1].sequence_number
        events += client.responses.retrieve(events[0].response.id, stream=True, starting_after=last)
        assert_whole(events)


def test_a_job_of_backstops_own_ingress_is_streamed_too(running: Running) -> None:
    async def story() -> list[str]:
        headers = {"Authorization": f"Bearer {running.keys['acme']}"}
        request = {"model": "gpt-5.2", "input": "Hi.", "stream": True, "metadata": {"sim_run_s": "0.5"}}
        async with aiohttp.ClientSession(running.system.url, headers=headers) as session:
            await accepted(session, {"job_id": "streamed", "request": request})
            async with session.get("/v1/jobs/streamed/stream") as answer:
                lines = (await answer.text()).splitlines()
        kinds = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
        assert kinds == ["partial"] * (len(kinds) - 1) + ["result"]
        told = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        assert told[-1]["result"]["outcome"] == "completed"
        return [each["event"].get("delta", "") for each in told[:-1]]

    assert "".join(asyncio.run(story())) == "Echo: Hi."


def test_the_node_sdk_streams_and_goes_on(running: Running, node_folder: Path) -> None:
    seen = json.loads(node(running, node_folder, "streaming.mjs"))
    assert seen["numbers"] == list(range(len(seen["numbers"])))
    assert (seen["types"][0], seen["types"][-1]) == ("response.created", "response.completed")
    assert (seen["text"], seen["same"], seen["status"]) == ("Echo: Say hello from Node.", True, "completed")
