"""A 503 tells correctly what was done, and its repeat completes the rest."""

import pytest

from schemas.jobs import CancelRequested
from tests.simulation.blobs import MemoryBlobs
from tests.unit.receiver.ingress import SUBMIT, Ingress, with_ingress
from tests.unit.receiver.reads import MemoryReads
from tests.unit.receiver.sdk_caller import ASKED, QUICK, ended, provided, result_of, submitted

IMPATIENT = {"publish_s": 0.05, "appear_s": 0.1, "cancelled_s": 0.1}


class FullBlobs(MemoryBlobs):
    """A blob store that refuses all puts while `full`."""

    full = False

    async def put(self, data: bytes | memoryview) -> str:
        if self.full:
            raise OSError(28, "No space left on device")
        return await super().put(data)


def cancels(ingress: Ingress) -> list[CancelRequested]:
    return [fact for fact in ingress.publisher.landed if isinstance(fact, CancelRequested)]


def test_a_deletion_that_could_not_be_stored_has_done_nothing_and_its_repeat_does_all() -> None:
    blobs = FullBlobs()

    async def story(ingress: Ingress) -> None:
        created = (await ingress.call("POST", "/v1/responses", json=ASKED))[1]
        path = f"/v1/responses/{created['id']}"
        blobs.full = True
        status, document, answer = await ingress.call("DELETE", path)
        assert (status, document["error"]["code"], answer.headers["Retry-After"]) == (503, "log_unavailable", "2")
        assert "nothing was done" in document["error"]["message"]
        assert cancels(ingress) == []
        assert (await ingress.call("GET", path))[0] == 200
        blobs.full = False
        assert (await ingress.call("DELETE", path))[1]["deleted"] is True
        assert len(cancels(ingress)) == 1
        assert (await ingress.call("GET", path))[0] == 404

    with_ingress(story, reads=MemoryReads(), blobs=blobs, limits=QUICK)


def test_a_deletion_whose_cancel_was_not_acknowledged_tells_so_and_its_repeat_cancels() -> None:
    async def story(ingress: Ingress) -> None:
        created = (await ingress.call("POST", "/v1/responses", json=ASKED))[1]
        path = f"/v1/responses/{created['id']}"
        ingress.publisher.away = True
        status, document, _ = await ingress.call("DELETE", path)
        assert status == 503
        assert "The response is deleted" in document["error"]["message"]
        assert (await ingress.call("GET", path))[0] == 404, "as the answer said"
        ingress.publisher.away = False
        assert (await ingress.call("DELETE", path))[:2] == (
            200, {"id": created["id"], "object": "response", "deleted": True},
        )  # fmt: skip
        assert len(cancels(ingress)) == 1

    with_ingress(story, reads=MemoryReads(), limits=QUICK)


def test_a_deletion_is_answered_alike_however_often_it_is_sent() -> None:
    reads = MemoryReads()

    async def story(ingress: Ingress) -> None:
        created = (await ingress.call("POST", "/v1/responses", json=ASKED))[1]
        path = f"/v1/responses/{created['id']}"
        first = await ingress.call("DELETE", path)
        again = await ingress.call("DELETE", path)
        ended(reads, created["id"], result_of("completed", provided()))
        later = await ingress.call("DELETE", path)
        assert first[:2] == again[:2] == later[:2]
        assert {fact.id for fact in cancels(ingress)} == {f"{created['id']}/cancel"}
        assert (await ingress.call("DELETE", "/v1/responses/resp_unknown"))[0] == 404

    with_ingress(story, reads=reads, limits=QUICK)


def test_a_job_whose_acknowledgement_was_not_heard_is_named_so_that_its_repeat_is_the_same_job() -> None:
    async def story(ingress: Ingress) -> None:
        ingress.publisher.hold()
        status, document, _ = await ingress.submit()
        assert (status, document["code"]) == (503, "log_unavailable")
        assert document["job_id"] in document["detail"]
        ingress.publisher.release()
        status, again, _ = await ingress.submit({**SUBMIT, "job_id": document["job_id"]})
        assert status == 202
        assert again["job_id"] == document["job_id"]
        assert len({fact.id for fact in submitted(ingress)}) == 1

    with_ingress(story, limits=QUICK.__class__(**IMPATIENT))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/v1/jobs/j1/cancel", "/v1/responses/j1/cancel"])
def test_a_cancel_without_an_acknowledgement_tells_that_it_may_take_effect(path: str) -> None:
    reads = MemoryReads()

    async def story(ingress: Ingress) -> None:
        assert (await ingress.submit({**SUBMIT, "job_id": "j1"}))[0] == 202
        ingress.publisher.hold()
        status, document, _ = await ingress.call("POST", path)
        detail = document["detail"] if "detail" in document else document["error"]["message"]
        assert status == 503
        assert "may still take effect" in detail
        ingress.publisher.release()
        assert (await ingress.call("POST", path))[0] in (200, 202)
        assert {fact.id for fact in cancels(ingress)} == {"j1/cancel"}

    with_ingress(story, reads=reads, limits=QUICK.__class__(**IMPATIENT))  # type: ignore[arg-type]
