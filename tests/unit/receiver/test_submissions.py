"""One id names one submission: repeats, concurrent submissions, conflicts, and missing acknowledgements."""

import asyncio
import hashlib

import orjson

from receiver.ingress.jobs import job_id_of
from receiver.limits import Limits
from receiver.lookups import KnownJob
from schemas.jobs import JobSubmitted
from schemas.requests import Submit
from streams.submission import submission_sha256
from tests.support.waiting import eventually
from tests.unit.receiver.ingress import NOW_MS, SUBMIT, Ingress, with_ingress

OTHER = {"request": {"model": "gpt-5", "input": "something else"}}


def submitted(ingress: Ingress) -> list[JobSubmitted]:
    return [fact for fact in ingress.publisher.acked if isinstance(fact, JobSubmitted)]


def test_an_idempotency_key_names_the_job() -> None:
    async def story(ingress: Ingress) -> None:
        first = await ingress.submit(Idempotency_Key="order-17")
        again = await ingress.submit(Idempotency_Key="order-17")
        assert (first[0], again[0]) == (202, 200)
        assert first[1] == again[1]
        assert first[1]["job_id"] == job_id_of("order-17", "default")
        assert len(submitted(ingress)) == 1
        assert (await ingress.submit(OTHER, Idempotency_Key="order-17"))[0] == 409
        assert (await ingress.submit(OTHER, Idempotency_Key="order-18"))[0] == 202

    with_ingress(story)


def test_the_form_of_a_derived_job_id_never_changes() -> None:
    assert job_id_of("order-17", "default") == "job_" + hashlib.sha256(b"default\norder-17").hexdigest()[:32]
    assert job_id_of("order-17", "default") != job_id_of("order-17", "other")


def test_a_job_id_of_the_callers_wins_over_the_key() -> None:
    async def story(ingress: Ingress) -> None:
        first = await ingress.submit({**SUBMIT, "job_id": "mine-1"}, Idempotency_Key="k")
        again = await ingress.submit({**SUBMIT, "job_id": "mine-1"}, Idempotency_Key="another")
        assert (first[0], again[0]) == (202, 200)
        assert first[1]["job_id"] == again[1]["job_id"] == "mine-1"
        conflict = await ingress.submit({**OTHER, "job_id": "mine-1"})
        assert (conflict[0], conflict[1]["code"]) == (409, "job_id_taken")

    with_ingress(story)


def test_concurrent_submissions_under_one_key_agree() -> None:
    async def story(ingress: Ingress) -> None:
        ingress.publisher.hold()
        asking = [asyncio.create_task(ingress.submit(Idempotency_Key="k")) for _ in range(10)]
        await eventually(lambda: ingress.publisher.landed, 5, "the first to land")
        other = await ingress.submit(OTHER, Idempotency_Key="k")
        assert other[0] == 409
        ingress.publisher.release()
        answers = await asyncio.gather(*asking)
        assert sorted(status for status, _, _ in answers) == [200] * 9 + [202]
        assert len({orjson.dumps(document) for _, document, _ in answers}) == 1
        assert len(submitted(ingress)) == 1

    with_ingress(story)


def test_concurrent_submissions_whose_first_failed_all_hear_503() -> None:
    async def story(ingress: Ingress) -> None:
        ingress.publisher.hold()
        answers = await asyncio.gather(*(ingress.submit(Idempotency_Key="k") for _ in range(5)))
        assert {status for status, _, _ in answers} == {503}

    with_ingress(story, limits=Limits(publish_s=0.3))


def test_an_id_whose_record_may_have_landed_belongs_to_that_body() -> None:
    async def story(ingress: Ingress) -> None:
        ingress.publisher.hold()
        assert (await ingress.submit({**SUBMIT, "job_id": "j"}))[0] == 503
        ingress.publisher.release()
        assert (await ingress.submit({**OTHER, "job_id": "j"}))[0] == 409
        assert (await ingress.submit({**SUBMIT, "job_id": "j"}))[0] == 202
        assert len(ingress.publisher.landed) == 2  # the same fact id twice: the fold drops the second
        assert len({fact.id for fact in ingress.publisher.landed}) == 1

    with_ingress(story, limits=Limits(publish_s=0.1))


def test_what_is_remembered_is_bounded_and_publishing_again_is_harmless() -> None:
    async def story(ingress: Ingress) -> None:
        for job_id in ("a", "b", "c", "a"):
            assert (await ingress.submit({**SUBMIT, "job_id": job_id}))[0] == 202
        assert (await ingress.submit({**SUBMIT, "job_id": "c"}))[0] == 200

    with_ingress(story, limits=Limits(submissions_remembered_max=2))


def test_the_read_model_is_asked_for_what_this_process_does_not_remember() -> None:
    known = {"old": KnownJob("default", submission_sha256(Submit.model_validate(SUBMIT)), 99)}

    async def find_job(job_id: str) -> KnownJob | None:
        return known.get(job_id)

    async def story(ingress: Ingress) -> None:
        status, document, _ = await ingress.submit({**SUBMIT, "job_id": "old"})
        assert (status, document["deadline_at_ms"]) == (200, 99)
        assert ingress.publisher.landed == []
        assert (await ingress.submit({**OTHER, "job_id": "old"}))[0] == 409
        assert (await ingress.submit({**SUBMIT, "job_id": "new"}))[0] == 202

    with_ingress(story, find_job=find_job)


def test_a_read_model_that_fails_or_hangs_does_not_stop_submissions() -> None:
    async def find_job(job_id: str) -> KnownJob | None:
        if job_id == "hangs":
            await asyncio.Event().wait()
        raise OSError("database down")

    async def story(ingress: Ingress) -> None:
        for job_id in ("fails", "hangs"):
            assert (await ingress.submit({**SUBMIT, "job_id": job_id}))[0] == 202
        assert await ingress.metric("backstop_find_job_failed_total") == 2.0

    with_ingress(story, find_job=find_job, limits=Limits(find_job_s=0.05))


def test_a_deadline_that_has_passed_is_refused_unless_the_job_is_known() -> None:
    async def story(ingress: Ingress) -> None:
        status, document, _ = await ingress.submit({**SUBMIT, "deadline_at_ms": NOW_MS})
        assert (status, document["code"]) == (422, "deadline_past")
        assert document["errors"][0]["pointer"] == "#/deadline_at_ms"
        assert ingress.publisher.landed == []
        late = {**SUBMIT, "deadline_at_ms": NOW_MS + 1_000, "job_id": "j"}
        assert (await ingress.submit(late))[0] == 202
        ingress.clock[0] = NOW_MS + 2_000
        assert (await ingress.submit(late))[0] == 200

    with_ingress(story)
