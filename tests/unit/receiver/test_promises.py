"""A request answered 503 leaves no job and no cancel in the log."""

from typing import Any

import pytest

from receiver.lookups import ReadsAwayError
from receiver.partial_output.listeners import TooManyListenersError
from tests.unit.receiver.ingress import Ingress, with_ingress
from tests.unit.receiver.reads import MemoryChanges, MemoryReads
from tests.unit.receiver.sdk_caller import ASKED, QUICK, submitted


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
