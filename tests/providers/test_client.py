"""Our client at foreign servers: one POST a create, and each answer is found again by the id of its response."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backstop.dev.ports import Ports
from streams.openai.answers import ProviderAnswer, read_create, read_poll
from streams.openai.client import OpenAIClient
from streams.provider import Accepted, Seen
from tests.providers.servers import LiteLlm, Ogx, Stub
from tests.providers.stub import text_of
from tests.support.accounts import account_at, client_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Provider:
    base_url: str
    key: str
    model: str


@pytest.fixture(scope="module")
def providers(venv: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Provider]]:
    folder, ports = tmp_path_factory.mktemp("providers"), Ports()
    stub = Stub(folder, ports.draw(), run_s=0.2)
    ogx = Ogx(venv, folder / "ogx", ports.draw(), stub)
    proxy = LiteLlm(venv, folder / "litellm", ports.draw(), ogx)
    servers = (stub.process, ogx.process, proxy.process)
    try:
        for server in servers:
            server.start()
        yield {
            "ogx": Provider(ogx.base_url, "", ogx.model),
            "litellm": Provider(proxy.base_url, proxy.key, proxy.model),
        }
    finally:
        for server in servers:
            server.kill()
        ports.release()


CREATE_TIMEOUT_MS = 45_000


@asynccontextmanager
async def connected(provider: Provider) -> AsyncIterator[OpenAIClient]:
    client = client_of(account_at(provider.base_url, provider.key))
    try:
        yield client
    finally:
        await client.close()


async def _created(client: OpenAIClient, provider: Provider, prompt: str) -> Any:
    answer = await client.create(
        {"model": provider.model, "input": prompt}, job_id="job_1", attempt=1, tenant="acme",
        timeout_ms=CREATE_TIMEOUT_MS,
    )  # fmt: skip
    assert isinstance(answer, ProviderAnswer), answer
    assert answer.status == 200, answer
    return answer.body


@pytest.mark.parametrize("name", ["ogx", "litellm"])
def test_a_created_response_is_found_by_its_id_with_its_metadata(name: str, providers: dict[str, Provider]) -> None:
    provider = providers[name]
    prompt = f"hello {os.getpid()} {name}"

    async def scenario() -> tuple[Any, Any]:
        async with connected(provider) as client:
            created = await _created(client, provider, prompt)

            async def ended() -> Any:
                answer = await client.retrieve(created["id"], include=("message.output_text.logprobs",))
                assert isinstance(answer, ProviderAnswer), answer
                assert answer.status == 200, answer
                return answer.body if answer.body["status"] == "completed" else None

            return created, await eventually(ended, 60)

    created, found = asyncio.run(scenario())
    assert created["metadata"] == found["metadata"] == {
        "backstop_job": "job_1", "backstop_attempt": "1", "backstop_tenant": "acme",
    }  # fmt: skip
    assert found["output"][0]["content"][0]["text"] == text_of(prompt)
    assert (created["id"] == found["id"]) == (name == "ogx")  # LiteLLM encrypts anew for each answer
    assert (len(created["id"]) > 200) == (name == "litellm")


@pytest.mark.parametrize("name", ["ogx", "litellm"])
def test_a_missing_and_an_ended_response_are_answered_without_an_error(
    name: str, providers: dict[str, Provider]
) -> None:
    provider = providers[name]

    async def scenario() -> list[Any]:
        async with connected(provider) as client:
            created = await _created(client, provider, f"again {os.getpid()} {name}")

            async def ended() -> bool:
                answer = await client.retrieve(created["id"])
                return isinstance(answer, ProviderAnswer) and answer.body["status"] == "completed"

            await eventually(ended, 60)
            return [await client.retrieve("resp_nowhere"), await client.cancel(created["id"])]

    missing, late = asyncio.run(scenario())
    assert isinstance(missing, ProviderAnswer), missing
    assert isinstance(late, ProviderAnswer), late
    assert 400 <= missing.status < 600, missing
    assert 400 <= late.status < 600, late


@pytest.mark.parametrize("name", ["ogx", "litellm"])
def test_the_policy_takes_the_create_for_accepted_and_the_end_for_the_end(
    name: str, providers: dict[str, Provider]
) -> None:
    provider = providers[name]

    async def scenario() -> tuple[Any, Any]:
        async with connected(provider) as client:
            request = {"model": provider.model, "input": f"read {name}"}
            reply = await client.create(request, job_id="job_1", attempt=1, tenant="acme", timeout_ms=CREATE_TIMEOUT_MS)
            created = read_create(reply, 0)
            assert isinstance(created, Accepted), created

            async def ended() -> Any:
                seen = read_poll(await client.retrieve(created.response_id), 0, "job_1")
                assert isinstance(seen, Seen), seen
                return seen if seen.outcome == "completed" else None

            return created, await eventually(ended, 30)

    _, seen = asyncio.run(scenario())
    assert seen.raw_status == "completed"


def test_a_killed_ogx_does_not_resume_its_responses_and_still_reports_them_as_open(
    venv: Path, ports: Ports, tmp_path: Path
) -> None:
    """The premise of `test_providers`: without a policy for stuck responses such jobs wait for their deadline."""
    stub = Stub(tmp_path, ports.draw(), run_s=1.0)
    ogx = Ogx(venv, tmp_path / "ogx", ports.draw(), stub)
    provider = Provider(ogx.base_url, "", ogx.model)

    async def scenario() -> list[str]:
        async with connected(provider) as client:
            created = [await _created(client, provider, f"prompt {number}") for number in range(15)]
            ogx.process.kill()
            runs = stub.calls().total()
            await asyncio.to_thread(ogx.process.start)
            statuses = []
            for response in created:
                answer = await client.retrieve(response["id"])
                assert isinstance(answer, ProviderAnswer), answer
                statuses.append(answer.body["status"])
            assert stub.calls().total() == runs
            return statuses

    try:
        stub.process.start()
        ogx.process.start()
        statuses = asyncio.run(scenario())
    finally:
        ogx.process.kill()
        stub.process.kill()
    assert {"queued", "in_progress"} & set(statuses), statuses
