"""Search by any id, and the request of a job, over a real server, on every kind of database."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from backstop.readmodel import search
from backstop.runtime.blobs import Bodies, FolderBlobs
from tests.unit.backstop.readmodel.api import Api, api
from tests.unit.backstop.readmodel.conftest import Bench
from tests.unit.backstop.readmodel.logs import (
    PROMPT,
    accepted,
    adopted,
    claimed,
    refused,
    result_of,
    submitted,
    webhook,
    whole_job,
)

Body = Callable[[Api], Coroutine[Any, Any, None]]


@pytest.fixture
def with_api(run: Any, tmp_path: Path) -> Callable[[Body], None]:
    def runner(body: Body) -> None:
        async def whole(bench: Bench) -> None:
            async with api(bench, tmp_path / "blobs") as served:
                await body(served)

        run(whole)

    return runner


async def found(api: Api, wanted: str, tenant: str = "default") -> list[tuple[str, str]]:
    hits = (await api.get(f"/v1/search?id={wanted}", tenant=tenant))["data"]
    return [(hit["kind"], hit.get("session_id") or hit["job"]["job_id"]) for hit in hits]


def test_a_job_a_response_and_a_session_are_found_by_their_id(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(*whole_job("invoice-1", "resp_1", session_id="billing"))
        await api.take(submitted("acme:invoice-2", tenant="acme"))
        assert await found(api, "invoice-1") == [("job", "invoice-1")]
        assert await found(api, "resp_1") == [("response", "invoice-1")]
        assert await found(api, "billing") == [("session", "billing")]
        assert await found(api, "nothing") == []
        (hit,) = (await api.get("/v1/search?id=resp_1"))["data"]
        assert (hit["response_id"], hit["job"]["status"]) == ("resp_1", "completed")

    with_api(body)


def test_a_hit_says_what_its_job_waits_for_as_the_job_does(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted(), accepted(), claimed(), webhook(at_ms=2_500))
        (hit,) = (await api.get("/v1/search?id=resp_1"))["data"]
        assert hit["job"]["waiting"]["for"] == "poll"
        assert hit["job"]["waiting"] == (await api.get("/v1/jobs/j"))["waiting"]

    with_api(body)


def test_an_id_is_found_by_its_beginning_if_it_is_long_enough(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted("invoice-1"), submitted("invoice-2"), *whole_job("z", "resp_abc"))
        assert await found(api, "invo") == [("job", "invoice-1"), ("job", "invoice-2")]
        assert await found(api, "resp_a") == [("response", "z")]
        assert await found(api, "inv") == []

    with_api(body)


def test_nothing_of_another_tenant_is_found(with_api: Any) -> None:
    async def body(api: Api) -> None:
        theirs = claimed("acme:invoice-1", "resp_1").model_copy(update={"tenant": "acme"})
        await api.take(submitted("acme:invoice-1", tenant="acme", session_id="billing"), theirs)
        for wanted in ("acme:invoice-1", "acme", "invoice-1", "resp_1", "resp_", "billing"):
            assert await found(api, wanted) == [], wanted
        for wanted in ("invoice-1", "invo", "resp_1", "resp_", "billing"):
            assert len(await found(api, wanted, tenant="acme")) == 1, wanted
        assert (await api.get("/v1/jobs/invoice-1/request", 404))["code"] == "job_not_found"

    with_api(body)


def test_at_most_ten_are_told(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(*[submitted(f"invoice-{n:02}") for n in range(12)])
        assert len(await found(api, "invoice-")) == search.HITS_MAX

    with_api(body)


@pytest.mark.parametrize("query", ["", "id=", "id=%00", f"id={'x' * 2_049}"])
def test_a_search_for_no_id_is_refused(with_api: Any, query: str) -> None:
    async def body(api: Api) -> None:
        assert (await api.get(f"/v1/search?{query}", 400))["code"] == "bad_parameter"

    with_api(body)


@pytest.mark.parametrize("wanted", ["'", '"', "%25", "_", "\\", "resp_%F0%9F%98%80", "a%20b", "%2F..%2F"])
def test_any_printable_character_may_stand_in_an_id(with_api: Any, wanted: str) -> None:
    async def body(api: Api) -> None:
        assert await found(api, f"{wanted}xyz") == []

    with_api(body)


def test_a_job_shows_its_request_also_after_its_end(with_api: Any, tmp_path: Path) -> None:
    async def body(api: Api) -> None:
        await api.take(*whole_job("j", "resp_1"))
        told = await api.get("/v1/jobs/j/request")
        assert told == {"object": "request", "job_id": "j", "request": {"model": "gpt-5", "input": PROMPT}}
        large = await Bodies(FolderBlobs(tmp_path / "blobs"), 10).put({"model": "gpt-5", "input": "x" * 100})
        await api.take(submitted("large", request=large))
        assert (await api.get("/v1/jobs/large/request"))["request"]["input"] == "x" * 100
        for file in (tmp_path / "blobs").rglob("*"):
            if file.is_file():
                file.unlink()
        assert (await api.get("/v1/jobs/large/request", 404))["code"] == "request_missing"

    with_api(body)


def test_a_job_without_a_request_says_so(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(adopted("a", "resp_9"), refused("r"), result_of(refused("r")))
        for job_id in ("a", "r"):
            assert (await api.get(f"/v1/jobs/{job_id}/request", 404))["code"] == "no_request"
        assert (await api.get("/v1/jobs/none/request", 404))["code"] == "job_not_found"

    with_api(body)
