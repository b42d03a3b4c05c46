"""Each ingress refuses ids that name objects of the project at the provider, because all tenants share that project."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from backstop.runtime.blobs import Bodies
from backstop.runtime.records import Record
from receiver.access import keys as live_keys
from receiver.settings import ReceiverSettings
from schemas.base import Message
from schemas.dead_letters import DeadLetter
from schemas.jobs import JobRefused, JobSubmitted
from streams.agents.intake import take_request
from streams.submission import SubmissionPolicy
from tests.simulation.blobs import MemoryBlobs
from tests.support.builders import T0
from tests.unit.receiver.ingress import Ingress, with_ingress
from tests.unit.receiver.reads import MemoryReads
from tests.unit.receiver.sdk_caller import ASKED, QUICK, ended, provided, result_of
from tests.unit.receiver.test_sdk_keys import Ring
from tests.unit.schemas.test_project_names import NAMING

DELETED = "resp_0123456789"


@pytest.fixture
def ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ring:
    monkeypatch.setattr(live_keys, "POLL_AGAIN_S", 0.0)
    return Ring(tmp_path / "keys.json")


def test_no_http_ingress_takes_a_name_of_the_project_from_a_tenant(ring: Ring) -> None:
    acme, ours = ring.add("acme"), ring.add("default")

    async def story(ingress: Ingress) -> None:
        for what, (naming, pointer) in NAMING.items():
            request = {"model": "gpt-5", **naming}
            for path, body, at in (
                ("/v1/jobs", {"request": request}, "#/request"),
                ("/v1/responses", {**request, "background": True}, "#"),
            ):
                status, document, _ = await ingress.call("POST", path, json=body, headers=acme)
                assert status == (422 if path == "/v1/jobs" else 400), (path, what, document)
                if path == "/v1/jobs":
                    assert document["errors"][0]["pointer"] == f"{at}{pointer.removeprefix('#')}", what
        assert ingress.publisher.landed == []
        request = {"model": "gpt-5", **NAMING["a vector store"][0]}
        assert (await ingress.call("POST", "/v1/jobs", json={"request": request}, headers=ours))[0] == 202

    with_ingress(story, keys_file=ring.path, reads=MemoryReads(), limits=QUICK)


@pytest.mark.parametrize("what", NAMING)
def test_the_intake_takes_no_name_of_the_project_from_a_tenant(what: str) -> None:
    request = {"model": "gpt-5", **NAMING[what][0]}
    assert [type(message) for message in asyncio.run(taken(request, "acme"))] == [DeadLetter, JobRefused]
    assert [type(message) for message in asyncio.run(taken(request, "default"))] == [JobSubmitted]


TUNED = "ft:gpt-4o:globex::abc"


def test_no_ingress_takes_a_fallback_to_a_fine_tuned_model_from_a_tenant(ring: Ring) -> None:
    acme, ours = ring.add("acme"), ring.add("default")
    job = {"request": {"model": "gpt-5", "input": "x"}, "fallback": {"to": [{"model": "gpt-5.2"}, {"model": TUNED}]}}

    async def story(ingress: Ingress) -> None:
        status, document, _ = await ingress.call("POST", "/v1/jobs", json=job, headers=acme)
        assert (status, document["errors"][0]["pointer"]) == (422, "#/fallback/to/1/model")
        fallback = {"Backstop-Fallback": f"gpt-5.2,{TUNED}"}
        assert (await ingress.call("POST", "/v1/responses", json=ASKED, headers={**acme, **fallback}))[0] == 400
        assert ingress.publisher.landed == []
        assert (await ingress.call("POST", "/v1/jobs", json=job, headers=ours))[0] == 202

    with_ingress(story, keys_file=ring.path, reads=MemoryReads(), limits=QUICK)
    value = orjson.dumps({"type": "submit", "job_id": "j", **job})
    assert [type(message) for message in asyncio.run(taken_as_sent(value, "acme"))] == [DeadLetter, JobRefused]
    assert [type(message) for message in asyncio.run(taken_as_sent(value, "default"))] == [JobSubmitted]


async def taken(request: dict[str, Any], tenant: str) -> list[Message]:
    return await taken_as_sent(orjson.dumps({"type": "submit", "job_id": "j", "request": request}), tenant)


async def taken_as_sent(value: bytes, tenant: str) -> list[Message]:
    return list(
        await take_request(
            Record("requests", 0, 0, T0, b"j", value, ()), tenant=tenant, now_ms=T0, policy=SubmissionPolicy(),
            bodies=Bodies(MemoryBlobs(), 65_536),
        )
    )  # fmt: skip


def test_what_the_operator_shares_may_be_named(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    acme = ring.add("acme")
    monkeypatch.setenv("BACKSTOP_SUBMISSION_SHARED_IDS", "vs_docs, ft:*")
    assert ReceiverSettings().submission.shared_ids == ("vs_docs", "ft:*")

    async def story(ingress: Ingress) -> None:
        for named, status in ((["vs_docs"], 202), (["vs_docs", "vs_other"], 422)):
            request = {"model": "ft:gpt-5:x", "tools": [{"type": "file_search", "vector_store_ids": named}]}
            assert (await ingress.call("POST", "/v1/jobs", json={"request": request}, headers=acme))[0] == status

    with_ingress(story, keys_file=ring.path)


def test_a_deleted_response_is_followed_by_nothing() -> None:
    reads = MemoryReads()
    ended(reads, DELETED, result_of("completed", provided()))
    reads.owners["resp_provider"] = ("default", DELETED)
    follows = {**ASKED, "previous_response_id": DELETED}
    job = {"request": {"model": "m", "previous_response_id": "resp_provider"}}

    async def story(ingress: Ingress) -> None:
        assert (await ingress.call("POST", "/v1/responses", json=follows))[0] == 200
        assert (await ingress.call("POST", "/v1/jobs", json=job))[0] == 202
        assert (await ingress.call("DELETE", f"/v1/responses/{DELETED}"))[0] == 200
        assert (await ingress.call("POST", "/v1/responses", json=follows))[0] == 400
        assert (await ingress.call("POST", "/v1/jobs", json=job))[0] == 422

    with_ingress(story, reads=reads, limits=QUICK)
