"""Two receivers of one deployment and an intake: one id is one submission, and the sender of another one is refused."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from backstop.runtime.blob_folders import BlobFolders
from backstop.runtime.blobs import Bodies, FolderBlobs
from backstop.runtime.claims import FolderClaims
from backstop.runtime.kafka.broker_clock import said
from backstop.runtime.records import Record
from receiver.limits import Limits
from receiver.lookups import KnownJob
from receiver.responses_api.creates import to_submit
from receiver.responses_api.handlers import response_id_of
from receiver.responses_api.responses import unstored_marks
from schemas.dead_letters import DeadLetter
from schemas.jobs import JobSubmitted
from schemas.requests import Submit
from streams.agents.intake import take_request
from streams.submission import SubmissionPolicy, submission_sha256
from tests.simulation.blobs import MemoryBlobs
from tests.support.builders import T0
from tests.unit.receiver.ingress import SUBMIT, Ingress, opened
from tests.unit.receiver.reads import MemoryChanges, MemoryReads
from tests.unit.receiver.sdk_caller import ASKED, QUICK

OTHER = {"request": {**SUBMIT["request"], "input": "something else"}}


@asynccontextmanager
async def two(**options: Any) -> AsyncIterator[tuple[Ingress, Ingress, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder) / "shared"
        for name in ("a", "b"):
            (Path(folder) / name).mkdir()
        async with (
            opened(Path(folder) / "a", blob_dir=shared, limits=QUICK, **options) as first,
            opened(Path(folder) / "b", blob_dir=shared, limits=QUICK, **options) as second,
        ):
            yield first, second, shared


async def sent(ingress: Ingress, path: str, body: Any, number: int) -> int:
    if path == "/v1/jobs by id":
        return (await ingress.call("POST", "/v1/jobs", json={**body, "job_id": f"j{number}"}))[0]
    body = body if path == "/v1/jobs" else {**ASKED, **body["request"]}
    return (await ingress.call("POST", path, json=body, headers={"Idempotency-Key": f"k{number}"}))[0]


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


def test_equal_bodies_under_one_key_are_one_job_at_either_receiver() -> None:
    async def scenario() -> None:
        async with two() as (first, second, _):
            statuses = [await sent(ingress, "/v1/jobs", SUBMIT, 1) for ingress in (first, second)]
            assert set(statuses) <= {200, 202}
            assert len({fact.id for ingress in (first, second) for fact in ingress.publisher.landed}) == 1

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
        Record("requests", 0, 0, T0, job_id.encode(), value, ()), tenant="default", now_ms=T0,
        policy=SubmissionPolicy(), bodies=Bodies(MemoryBlobs(), 65_536), claims=FolderClaims(shared / "claims"),
    )  # fmt: skip


SHA = "0" * 64


class Later:
    """A read model that shows a job after some queries: to each the first one in the log."""

    def __init__(self, shows: KnownJob | None, after: int = 2) -> None:
        self.shows = shows
        self.after = after

    async def __call__(self, _job_id: str) -> KnownJob | None:
        self.after -= 1
        return None if self.after >= 0 else self.shows


def foreign() -> BlobFolders:
    folders = BlobFolders("a" * 32, lambda: T0)
    folders.not_ready()
    folders.heard(said("receiver", "b" * 32), T0)
    return folders


@pytest.mark.parametrize("why", ["another folder", "claims that can't be stored"])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs by id", "/v1/responses"])
def test_where_claims_tell_nothing_the_log_decides_before_the_answer(path: str, why: str) -> None:
    async def scenario(shows: str | None) -> int:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if why != "another folder":
                (folder / "blobs").mkdir()
                (folder / "blobs" / "claims").touch()
            find = Later(None if shows is None else KnownJob("default", shows))
            folders = foreign() if why == "another folder" else None
            limits = Limits(appear_s=0.1, confirm_s=0.3)
            async with opened(folder, limits=limits, find_job=find, folders=folders) as ingress:
                status = await sent(ingress, path, SUBMIT, 1)
                if status == 409:
                    assert await sent(ingress, path, SUBMIT, 1) == 409, "and its repeat hears the same"
                if status == 503:
                    find.shows = KnownJob("default", mine(path))
                    assert await sent(ingress, path, SUBMIT, 1) in (200, 202), "and its repeat is the same job"
                return status

    assert asyncio.run(scenario(SHA)) == 409
    assert asyncio.run(scenario(mine(path))) in (200, 202)
    assert asyncio.run(scenario(None)) == 503


def mine(path: str) -> str:
    if path != "/v1/responses":
        return submission_sha256(Submit.model_validate(SUBMIT))
    return submission_sha256(to_submit({**ASKED, **SUBMIT["request"]}, {}, may_stream=False))


def test_a_create_that_is_not_stored_and_loses_its_id_hides_nothing_of_the_other_submission(tmp_path: Path) -> None:
    async def scenario(shows: str) -> bool:
        """Whether the response with the id is hidden."""
        blobs, folder = FolderBlobs(tmp_path / shows), tmp_path / f"data-{shows}"
        folder.mkdir()
        find = Later(KnownJob("default", shows))
        options: Any = {"reads": MemoryReads(), "changes": MemoryChanges(), "blobs": blobs}
        async with opened(folder, limits=Limits(), find_job=find, folders=foreign(), **options) as ingress:
            asked = {"model": "m", "input": "x", "store": False, "stream": True}
            answer = await ingress.session.post(
                f"{ingress.url}/v1/responses", json=asked, headers={"Idempotency-Key": "k"}
            )
            assert answer.status == (409 if shows == SHA else 200)
            answer.close()
        return await blobs.has(unstored_marks("default", response_id_of("k", "default"))[1])

    own = submission_sha256(to_submit({"model": "m", "input": "x", "stream": True}, {}, may_stream=True))
    assert asyncio.run(scenario(own))
    assert not asyncio.run(scenario(SHA))
