"""A request answered 503 leaves no job and no cancel in the log, or says that it may have left one."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from backstop.runtime.blobs import FolderBlobs
from backstop.runtime.errors import BlobStoreError
from backstop.runtime.http.keys import TenantLimits
from receiver.access import quotas
from receiver.lookups import ReadsAwayError
from receiver.partial_output.listeners import POLL_AGAIN_S, TooManyListenersError
from tests.support.waiting import eventually
from tests.unit.receiver.ingress import Ingress, with_ingress
from tests.unit.receiver.reads import MemoryChanges, MemoryReads
from tests.unit.receiver.sdk_caller import ASKED, QUICK, provided, result_of, submitted
from tests.unit.receiver.test_sdk_keys import Ring, ring

__all__ = ["ring"]


@pytest.mark.parametrize("error", [TooManyListenersError("9"), ReadsAwayError("away")])
def test_a_stream_without_a_place_is_refused_before_the_log_has_its_job(error: Exception) -> None:
    changes = MemoryChanges()
    changes.error = error

    async def story(ingress: Ingress) -> None:
        status, _, _ = await ingress.call("POST", "/v1/responses", json={**ASKED, "stream": True})
        assert status == 503
        assert ingress.publisher.landed == []
        assert (await ingress.call("POST", "/v1/responses", json=ASKED))[0] == 200, "and what needs no place is taken"

    with_ingress(story, reads=MemoryReads(), changes=changes, limits=QUICK)


def test_a_refused_create_gives_its_place_back() -> None:
    changes = MemoryChanges()

    async def story(ingress: Ingress) -> None:
        headers = {"Idempotency-Key": "k"}
        assert (await ingress.call("POST", "/v1/responses", json=ASKED, headers=headers))[0] == 200
        other = {**ASKED, "input": "other", "stream": True}
        assert (await ingress.call("POST", "/v1/responses", json=other, headers=headers))[0] == 409
        assert changes.watchers == 0

    with_ingress(story, reads=MemoryReads(), changes=changes, limits=QUICK)


def test_a_repeat_is_answered_while_the_read_model_is_away() -> None:
    reads = MemoryReads()

    async def story(ingress: Ingress) -> None:
        key = {"Idempotency-Key": "k"}
        first = await ingress.call("POST", "/v1/responses", json=ASKED, headers=key)
        ingress.clock[0] += 10 * QUICK.accepted_shown_s * 1000  # type: ignore[call-overload]
        reads.away = True
        again = await ingress.call("POST", "/v1/responses", json=ASKED, headers=key)
        assert (first[0], again[0]) == (200, 200)
        assert again[1]["id"] == first[1]["id"]
        assert again[2].headers["Backstop-Repeated"] == "true"
        assert len(submitted(ingress)) == 1

    with_ingress(story, reads=reads, limits=QUICK)


class AwayAfter(MemoryReads):
    """A read model that answers a few times and is then unreachable."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    async def job(self, tenant: str, job_id: str) -> Any:
        self.left -= 1
        self.away = self.left < 0
        return await super().job(tenant, job_id)


def test_a_cancel_that_the_log_has_is_not_refused() -> None:
    reads = AwayAfter(1)
    reads.add("default", "resp_123456", status="running")

    async def story(ingress: Ingress) -> None:
        status, document, _ = await ingress.call("POST", "/v1/responses/resp_123456/cancel")
        assert (status, document["status"]) == (200, "in_progress")
        assert len(ingress.publisher.landed) == 1

    with_ingress(story, reads=reads, limits=QUICK)


class AwayAtTheEnd(MemoryReads):
    """A read model that does not answer the first look at an ended job: too many others look at theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.was_away = False

    async def job(self, tenant: str, job_id: str) -> Any:
        seen = await super().job(tenant, job_id)
        if seen is not None and seen.result is not None and not self.was_away:
            self.was_away = True
            raise ReadsAwayError("too many reads at one time")
        return seen


def test_a_create_that_waits_looks_again_soon_where_its_look_at_the_end_failed() -> None:
    reads, changes = AwayAtTheEnd(), MemoryChanges()

    async def story(ingress: Ingress) -> None:
        waiting = {name: value for name, value in ASKED.items() if name != "background"}
        creating = asyncio.create_task(ingress.call("POST", "/v1/responses", json=waiting))
        await eventually(lambda: changes.watchers == 1, what="the create to wait")
        (fact,) = submitted(ingress)
        result, sha256 = result_of("completed", provided(background=True)), fact.request_sha256
        reads.add("default", fact.job_id, status="completed", request_sha256=sha256, result=result)
        changes.touch(fact.job_id)
        async with asyncio.timeout(POLL_AGAIN_S / 2):
            assert (await creating)[0] == 200
        assert reads.was_away

    with_ingress(story, reads=reads, changes=changes, limits=QUICK)


class Failing(FolderBlobs, MemoryReads):
    """A blob store and a read model of which one call fails, by its number."""

    def __init__(self, root: Path, error: Exception) -> None:
        FolderBlobs.__init__(self, root)
        MemoryReads.__init__(self)
        self.calls = self.fails = 0
        self.error = error

    def fail(self, number: int) -> None:
        self.calls, self.fails = 0, number

    def _ask(self) -> None:
        self.calls += 1
        if self.calls == self.fails:
            raise self.error

    async def put(self, data: bytes | memoryview) -> str:
        self._ask()
        return await super().put(data)

    async def get(self, sha256: str) -> bytes:
        self._ask()
        return await super().get(sha256)


LARGE = {"model": "m", "input": "x" * 100_000}
CREATES: dict[str, tuple[str, dict[str, Any]]] = {
    "a job": ("/v1/jobs", {"request": LARGE}),
    "an adoption": ("/v1/jobs/adopt", {"response_id": "resp_1"}),
    "a response": ("/v1/responses", {**LARGE, "background": True}),
    "a stream": ("/v1/responses", {**LARGE, "stream": True}),
    "a stream that is not stored": ("/v1/responses", {**LARGE, "stream": True, "store": False}),
}


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("name", CREATES)
def test_whichever_call_fails_no_create_is_refused_that_the_log_has(name: str, keyed: bool, tmp_path: Path) -> None:
    path, body = CREATES[name]

    async def story(ingress: Ingress) -> None:
        for error in (BlobStoreError("away"), ReadsAwayError("away"), KeyError("unforeseen")):
            both.error, number = error, 1
            while True:
                both.fail(number)
                named = f"{type(error).__name__}-{number}"
                given = {**body, "response_id": f"resp_{named}"} if name == "an adoption" else body
                headers = {"Idempotency-Key": named} if keyed else {}
                ingress.publisher.landed.clear()
                async with ingress.session.post(f"{ingress.url}{path}", json=given, headers=headers) as answer:
                    said = "" if answer.status < 400 else await answer.text()
                assert not said or not ingress.publisher.landed or "may have been accepted" in said, (named, said)
                if both.calls < number:
                    break
                number += 1
            assert number > 1

    both = Failing(tmp_path, KeyError())
    with_ingress(story, blobs=both, reads=both, changes=MemoryChanges(), limits=QUICK)


def test_a_create_that_is_not_stored_is_hidden_before_the_log_has_it(tmp_path: Path) -> None:
    class NoMarks(FolderBlobs):
        async def put(self, data: bytes | memoryview) -> str:
            if bytes(data[:20]).startswith(b'{"backstop":'):
                raise OSError(28, "No space left on device")
            return await super().put(data)

    async def story(ingress: Ingress) -> None:
        body = {"model": "m", "input": "private", "stream": True, "store": False}
        status, document, _ = await ingress.call("POST", "/v1/responses", json=body)
        assert (status, document["error"]["code"]) == (503, "log_unavailable")
        assert ingress.publisher.landed == []

    with_ingress(story, blobs=NoMarks(tmp_path), reads=MemoryReads(), changes=MemoryChanges(), limits=QUICK)


def test_a_job_that_the_log_may_not_have_does_not_use_up_its_tenants_open_jobs_for_long(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "DOUBTED_S", -1.0)  # the time has passed
    monkeypatch.setattr(quotas, "LOAD_AGE_S_MAX", 0.0)
    acme = ring.add("acme")
    ring.tenants["acme"] = TenantLimits(open_jobs_max=1)
    ring.save()

    async def story(ingress: Ingress) -> None:
        async def submit() -> int:
            return (await ingress.call("POST", "/v1/jobs", json={"request": {"model": "m"}}, headers=acme))[0]

        ingress.publisher.away = True
        assert await submit() == 503
        ingress.publisher.away = False
        assert await submit() == 202
        assert await submit() == 429, "and this one is in the log"

    with_ingress(story, keys_file=ring.path, reads=MemoryReads(), limits=QUICK)
