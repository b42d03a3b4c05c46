"""Concurrent equal creates: n calls of the official SDK give n responses, even if some attempts are refused."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from backstop.runtime.blobs import FolderBlobs
from backstop.runtime.http.keys import TenantLimits
from receiver.limits import Limits
from receiver.responses_api.repeats import EXPECTED_MS, Repeats
from tests.unit.receiver.ingress import Ingress, with_ingress
from tests.unit.receiver.sdk_caller import ASKED, QUICK, sdk, submitted
from tests.unit.receiver.test_sdk_keys import Ring

CALLS = 8


class Refusing(FolderBlobs):
    """A blob store that refuses the first `times` puts."""

    def __init__(self, root: Path, times: int) -> None:
        super().__init__(root)
        self.left = times

    async def put(self, data: bytes | memoryview) -> str:
        if self.left > 0:
            self.left -= 1
            raise OSError(28, "No space left on device")
        return await super().put(data)


async def all_at_once(client: AsyncOpenAI, calls: int = CALLS) -> list[str]:
    return [made.id for made in await asyncio.gather(*(client.responses.create(**ASKED) for _ in range(calls)))]


def check(ingress: Ingress, ids: list[str]) -> None:
    assert len(set(ids)) == len(ids), "each call has a response of its own"
    assert {fact.job_id.rpartition(":")[2] for fact in submitted(ingress)} == set(ids), "and nothing else is paid"


@pytest.mark.parametrize("refused", [0, 1, 4, CALLS])
def test_equal_creates_of_which_the_store_refuses_some_find_a_response_each(tmp_path: Path, refused: int) -> None:
    async def story(ingress: Ingress) -> None:
        async with sdk(ingress, max_retries=3) as client:
            check(ingress, await all_at_once(client))

    with_ingress(story, limits=Limits(appear_s=0.1, retry_after_s=1), blobs=Refusing(tmp_path, refused))


def test_equal_creates_beyond_the_rate_of_their_tenant_find_a_response_each(tmp_path: Path) -> None:
    """They are refused before their body is read."""
    ring = Ring(tmp_path / "keys.json")
    ring.tenants["acme"] = TenantLimits(requests_per_s=4, requests_burst=4)
    token = ring.add("acme")["Authorization"].removeprefix("Bearer ")

    async def story(ingress: Ingress) -> None:
        async with sdk(ingress, max_retries=6) as client:
            check(ingress, await all_at_once(client.with_options(api_key=token)))

    with_ingress(story, limits=QUICK, keys_file=ring.path)


def test_a_refused_create_leaves_nothing_in_the_store(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "keys.json")
    ring.tenants["acme"] = TenantLimits(open_jobs_max=1)
    headers = ring.add("acme")

    async def story(ingress: Ingress) -> None:
        asked: dict[str, Any] = {**ASKED, "input": "x" * 200_000}
        for path, body in (("/v1/responses", asked), ("/v1/jobs", {"request": {"model": "m", "input": "x" * 200_000}})):
            assert (await ingress.call("POST", "/v1/responses", json=ASKED, headers=headers))[0] in {200, 429}
            before = sorted((tmp_path / "blobs").rglob("*"))
            assert (await ingress.call("POST", path, json=body, headers=headers))[0] == 429
            assert sorted((tmp_path / "blobs").rglob("*")) == before

    with_ingress(story, limits=QUICK, keys_file=ring.path, blobs=FolderBlobs(tmp_path / "blobs"))


class Memory(Repeats):
    def __init__(self) -> None:
        super().__init__(900_000, 100)

    def first(self, response_id: str) -> None:
        self.began("acme", "key", "sha", response_id, 0)

    def repeat(self, number: int, now_ms: int = 1_000) -> str | None:
        return self.original("acme", "key", "sha", number, now_ms, 10)


def test_a_repeat_is_given_to_a_refused_create_then_to_an_answered_one_then_to_one_still_open() -> None:
    memory = Memory()
    for name in ("open", "answered", "refused"):
        memory.first(name)
    memory.answered("answered")
    memory.refused("refused", 0)
    assert [memory.repeat(1) for _ in range(4)] == ["refused", "answered", "open", None]


def test_a_create_refused_unread_starts_a_new_response_once() -> None:
    memory = Memory()
    memory.first("answered")
    memory.answered("answered")
    memory.refused_unread("acme", "key", 99, 0, 0)
    memory.refused_unread("acme", "key", 10, 0, 0)
    assert [memory.repeat(1), memory.repeat(1), memory.repeat(1)] == [None, "answered", None]


def test_the_repeat_of_a_refused_create_is_not_expected_for_ever() -> None:
    memory = Memory()
    memory.first("given up")
    memory.first("answered")
    memory.refused("given up", 0)
    memory.answered("answered")
    memory.refused_unread("acme", "key", 10, 0, 0)
    assert memory.repeat(1, EXPECTED_MS + 1) == "answered"
