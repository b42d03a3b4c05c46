"""Two receivers of one deployment, and an intake beside them: one id is one submission, and whoever sends the other one hears of it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from runtime.claims import FolderClaims
from runtime.door import DoorPolicy
from runtime.records import Record
from schemas.dead_letters import DeadLetter
from schemas.jobs import JobSubmitted
from streams.intake import take_request
from tests.simulation.blobs import MemoryBlobs
from tests.support.builders import T0
from tests.unit.receiver.door import SUBMIT, Door, opened
from tests.unit.receiver.sdk_caller import ASKED, QUICK

OTHER = {"request": {**SUBMIT["request"], "input": "something else"}}


@asynccontextmanager
async def two(**options: Any) -> AsyncIterator[tuple[Door, Door, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder) / "shared"
        for name in ("a", "b"):
            (Path(folder) / name).mkdir()
        async with (
            opened(Path(folder) / "a", blob_dir=shared, limits=QUICK, **options) as first,
            opened(Path(folder) / "b", blob_dir=shared, limits=QUICK, **options) as second,
        ):
            yield first, second, shared


async def sent(door: Door, path: str, body: Any, number: int) -> int:
    if path == "/v1/jobs by id":
        return (await door.call("POST", "/v1/jobs", json={**body, "job_id": f"j{number}"}))[0]
    body = body if path == "/v1/jobs" else {**ASKED, **body["request"]}
    return (await door.call("POST", path, json=body, headers={"Idempotency-Key": f"k{number}"}))[0]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs by id", "/v1/responses"])
@pytest.mark.parametrize("at_once", [True, False])
def test_two_bodies_under_one_id_are_a_job_and_a_conflict(path: str, at_once: bool) -> None:
    async def scenario() -> None:
        async with two() as (first, second, _):
            for number in range(15):
                sends = (sent(first, path, SUBMIT, number), sent(second, path, OTHER, number))
                statuses = await asyncio.gather(*sends) if at_once else [await send for send in sends]
                assert sorted(statuses) in ([200, 409], [202, 409])
            facts = [*first.publisher.landed, *second.publisher.landed]
            assert len(facts) == 15, "nothing of the other body came to the log"

    asyncio.run(scenario())


def test_equal_bodies_under_one_key_are_one_job_whoever_takes_them() -> None:
    async def scenario() -> None:
        async with two() as (first, second, _):
            statuses = [await sent(door, "/v1/jobs", SUBMIT, 1) for door in (first, second)]
            assert set(statuses) <= {200, 202}
            assert len({fact.id for door in (first, second) for fact in door.publisher.landed}) == 1

    asyncio.run(scenario())


def test_a_record_under_an_id_that_http_has_is_a_dead_letter_and_the_other_way_round_a_409() -> None:
    async def scenario() -> None:
        async with two() as (first, second, shared):
            assert await sent(first, "/v1/jobs by id", SUBMIT, 1) == 202
            assert [type(message) for message in await taken(shared, "j1", OTHER)] == [DeadLetter]
            assert [type(message) for message in await taken(shared, "j1", SUBMIT)] == [JobSubmitted], "a repeat"
            assert [type(message) for message in await taken(shared, "j2", OTHER)] == [JobSubmitted]
            assert await sent(second, "/v1/jobs by id", SUBMIT, 2) == 409

    asyncio.run(scenario())


async def taken(shared: Path, job_id: str, body: Any) -> Any:
    value = orjson.dumps({"type": "submit", "job_id": job_id, **body})
    return await take_request(
        Record("requests", 0, 0, T0, job_id.encode(), value, ()), tenant="default", now_ms=T0, policy=DoorPolicy(),
        blobs=MemoryBlobs(), inline_bytes_max=65_536, claims=FolderClaims(shared / "claims"),
    )  # fmt: skip
