"""`POST /v1/jobs/adopt`: one response is one job for all callers, and no tenant adopts another's response."""

from pathlib import Path
from typing import Any

import pytest

from schemas.jobs import JobSubmitted, ResponseAdopted
from tests.unit.receiver.ingress import NOW_MS, Ingress, with_ingress
from tests.unit.receiver.reads import MemoryReads
from tests.unit.receiver.test_sdk_keys import Ring

RESPONSE = "resp_0123456789abcdef"
LITELLM = "resp_" + "bGl0ZWxsbTpjdXN0b21" * 24 + "=="


async def adopt(ingress: Ingress, response_id: Any = RESPONSE, headers: Any = None, **more: Any) -> tuple[int, Any]:
    body = {"response_id": response_id, **more}
    status, document, _ = await ingress.call("POST", "/v1/jobs/adopt", json=body, headers=headers or {})
    return status, document


def test_a_response_that_was_created_elsewhere_becomes_a_job_once() -> None:
    async def story(ingress: Ingress) -> None:
        status, first = await adopt(ingress, tags=["old"], include=["reasoning.encrypted_content"], timeout_ms=60_000)
        assert (status, first["status"], first["deadline_at_ms"]) == (202, "accepted", NOW_MS + 60_000)
        assert first["links"]["self"] == f"/v1/jobs/{first['job_id']}"
        # The response names the job, not how it is asked for.
        assert await adopt(ingress, timeout_ms=90_000) == (200, first)
        (fact,) = ingress.publisher.landed
        assert isinstance(fact, ResponseAdopted)
        assert (fact.response_id, fact.job_id, fact.tenant) == (RESPONSE, first["job_id"], "default")
        assert (fact.tags, fact.include) == (("old",), ("reasoning.encrypted_content",))
        other = await adopt(ingress, LITELLM)
        assert other[0] == 202
        assert other[1]["job_id"] != first["job_id"]

    with_ingress(story)


def test_the_form_of_an_adopted_jobs_id_never_changes() -> None:
    async def story(ingress: Ingress) -> None:
        assert (await adopt(ingress, "resp_1"))[1]["job_id"] == "adopted_7a8babb8a11671dfe03c4a5e8f77c6db"

    with_ingress(story)


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({}, 422, "#/response_id"),
        ({"response_id": ""}, 422, "#/response_id"),
        ({"response_id": 7}, 422, "#/response_id"),
        ({"response_id": " resp_1"}, 422, "#/response_id"),
        ({"response_id": "resp_\u00e9"}, 422, "#/response_id"),
        ({"response_id": "resp_1\n"}, 422, "#/response_id"),
        ({"response_id": "r" * 1_025}, 422, "#/response_id"),
        ({"response_id": RESPONSE, "timeout_ms": 5_000, "deadline_at_ms": NOW_MS + 9}, 422, "#"),
        ({"response_id": RESPONSE, "deadline_at_ms": NOW_MS}, 422, "#/deadline_at_ms"),
        ({"response_id": RESPONSE, "model": "m"}, 422, "#/model"),
        ([RESPONSE], 422, None),
    ],
)
def test_what_names_no_response_is_refused_and_says_where(body: Any, status: int, pointer: str | None) -> None:
    async def story(ingress: Ingress) -> None:
        seen, document, _ = await ingress.call("POST", "/v1/jobs/adopt", json=body)
        assert seen == status, document
        assert pointer is None or [error["pointer"] for error in document["errors"]] == [pointer]
        assert ingress.publisher.landed == []

    with_ingress(story)


def test_a_response_of_ones_own_job_is_that_job() -> None:
    reads = MemoryReads()
    reads.owners[RESPONSE] = ("default", "job_1")
    reads.add("default", "resp_of_the_ingress")

    async def story(ingress: Ingress) -> None:
        assert (await adopt(ingress))[1]["job_id"] == "job_1"
        # An id that POST /v1/responses gave is a job's id: the provider does not know it.
        status, document = await adopt(ingress, "resp_of_the_ingress")
        assert (status, document["job_id"]) == (200, "resp_of_the_ingress")
        status, created, _ = await ingress.call(
            "POST", "/v1/responses", json={"model": "m", "input": "x", "background": True}
        )
        assert (await adopt(ingress, created["id"]))[1]["job_id"] == created["id"]
        assert [type(fact) for fact in ingress.publisher.landed] == [JobSubmitted]

    with_ingress(story, reads=reads)


def test_an_adoption_is_503_while_the_owner_can_not_be_checked() -> None:
    reads = MemoryReads()
    reads.away = True

    async def story(ingress: Ingress) -> None:
        status, document = await adopt(ingress)
        assert (status, document["code"]) == (503, "reads_unavailable")
        assert ingress.publisher.landed == []

    with_ingress(story, reads=reads)


def test_another_tenants_response_is_refused_as_any_that_is_not_his(tmp_path: Path) -> None:
    ring, reads = Ring(tmp_path / "keys.json"), MemoryReads()
    acme, globex, operator = ring.add("acme"), ring.add("globex"), ring.add("default")
    reads.owners[RESPONSE] = ("acme", "acme:job_1")

    async def story(ingress: Ingress) -> None:
        theirs, nobodys = await adopt(ingress, headers=globex), await adopt(ingress, "resp_unknown", headers=globex)
        assert theirs == nobodys
        assert (theirs[0], theirs[1]["code"]) == (403, "response_not_shared")
        assert (await adopt(ingress, headers=acme))[1]["job_id"] == "job_1"
        status, document = await adopt(ingress, headers=operator)
        assert (status, document["code"]) == (409, "response_taken")
        assert "acme" not in str(document)
        assert ingress.publisher.landed == []

    with_ingress(story, reads=reads, keys_file=ring.path)


def test_where_ids_are_shared_each_tenant_adopts_for_itself(tmp_path: Path) -> None:
    ring, reads = Ring(tmp_path / "keys.json"), MemoryReads()
    acme, globex = ring.add("acme"), ring.add("globex")
    reads.owners["resp_taken"] = ("acme", "acme:job_1")

    async def story(ingress: Ingress) -> None:
        assert (await adopt(ingress, headers=acme))[0] == 202
        assert (await adopt(ingress, headers=globex))[0] == 202  # The log decides which of them it belongs to.
        landed: Any = ingress.publisher.landed
        assert [fact.job_id.partition(":")[0] for fact in landed] == ["acme", "globex"]
        status, document = await adopt(ingress, "resp_taken", headers=globex)
        assert (status, document["code"]) == (409, "response_taken")
        assert "acme" not in str(document)

    with_ingress(story, reads=reads, keys_file=ring.path, submission={"shared_ids": ("resp_*",)})


def test_an_adoption_without_an_acknowledgement_is_503_and_may_be_repeated() -> None:
    async def story(ingress: Ingress) -> None:
        ingress.publisher.away = True
        assert (await adopt(ingress))[0] == 503
        ingress.publisher.away = False
        assert (await adopt(ingress))[0] == 202

    with_ingress(story)
