"""Erasures, on both databases: what goes, what stays, and that nothing stays half done after a crash."""

import base64
from typing import Any

import pytest

from backstop.readmodel.batch import Known, project
from backstop.readmodel.erasing import SETTLES_MS, NotErasedError
from backstop.readmodel.erasure_rows import INDEXES, make_index
from backstop.readmodel.postgres import PostgresConnection, PostgresDatabase
from backstop.runtime.encrypted_blobs import EncryptedBlobs, payload_keys
from backstop.runtime.errors import BlobMissingError
from backstop.runtime.process import failpoints
from schemas.codec import sha256_hex
from schemas.jobs import CancelRequested
from schemas.prompt_cache import PromptCache
from schemas.results import RESULT
from tests.unit.backstop.readmodel.conftest import NOW_MS
from tests.unit.backstop.readmodel.erasing_desk import SECRET, TAG, asked, desk, finish
from tests.unit.backstop.readmodel.logs import Log, accepted, cancelled, result_of, settled, submitted

KEY = base64.b64encode(bytes(32)).decode()


def test_a_persons_jobs_lose_their_content_everywhere_and_others_lose_nothing(run, tmp_path) -> None:
    async def body(bench) -> None:
        at = await desk(bench, tmp_path)
        shared, own = await at.blob(input="the same"), await at.blob(input="only hers")
        await at.ended("a", shared, tags=(TAG,), session_id="s-ann", request_sha256=own.sha256)
        await at.ended("b", own, tags=(TAG, "t"), request_sha256="b" * 64)
        await at.ended("other", shared, tags=("t",))
        before = await at.projection.there("other")

        done = await finish(at, asked(tag=TAG))

        assert (done.jobs, done.blobs, done.blobs_shared, done.responses) == (2, 3, 1, 2)
        assert at.topics.erased == [("results", "b"), ("results", "a")]
        assert at.provider.stored == {"resp_other"}
        assert await at.blobs.get(shared.sha256)
        with pytest.raises(BlobMissingError):
            await at.blobs.get(own.sha256)
        assert await at.projection.there("other") == before
        row = await at.projection.there("a")
        result = RESULT.validate_json(row.result or b"")
        assert (row.status, row.tags, row.session_id, row.reason_message) == ("completed", (), None, None)
        assert (result.response, result.erased_at_ms, result.outcome) == (None, NOW_MS, "completed")
        assert (row.input_tokens, row.request_sha256) == (5, own.sha256)
        left = await at.content()
        assert TAG not in left
        assert "s-ann" not in left
        assert left.count(shared.sha256) == 1

    run(body)


def test_the_last_job_of_a_scope_takes_a_blob_that_they_shared(run, tmp_path) -> None:
    async def body(bench) -> None:
        at = await desk(bench, tmp_path)
        shared = await at.blob(input="the same")
        await at.ended("a", shared, session_id="s")
        await at.ended("b", shared, session_id="s")
        done = await finish(at, asked(session_id="s"))
        assert (done.jobs, done.blobs, done.blobs_shared) == (2, 3, 0)

    run(body)


def test_a_submission_that_another_job_repeats_word_for_word_stays_for_it(run, tmp_path) -> None:
    async def body(bench) -> None:
        at = await desk(bench, tmp_path)
        kept = await at.blob(request="as it came")
        await at.ended("a", await at.blob(input=1), request_sha256=kept.sha256)
        await at.ended("b", await at.blob(input=2), request_sha256=kept.sha256)
        assert (await finish(at, asked(job_id="a"))).blobs_shared == 1
        assert await at.blobs.get(kept.sha256)
        at.topics.landed.clear()
        at.taken = 0
        assert (await finish(at, asked(job_id="b"))).blobs_shared == 0
        with pytest.raises(BlobMissingError):
            await at.blobs.get(kept.sha256)

    run(body)


@pytest.mark.parametrize("eraser_has_keys", [True, False])
@pytest.mark.parametrize("stored_with_keys", [True, False])
def test_a_submission_is_found_whether_it_came_before_the_keys_or_since(
    run, tmp_path, stored_with_keys: bool, eraser_has_keys: bool
) -> None:
    async def body(bench) -> None:
        at = await desk(bench, tmp_path)
        plain, sealed = at.blobs, EncryptedBlobs(at.blobs, payload_keys(f"default:{KEY}"))
        submission = b'{"request":{"input":"as it came"}}'
        name = await (sealed if stored_with_keys else plain).put(submission)
        await sealed.of("x").put(submission)
        await at.ended("a", await at.blob(input=1), tags=(TAG,), request_sha256=sha256_hex(submission))
        await at.take(submitted("x:theirs", tenant="x", request_sha256=sha256_hex(submission)))
        at.remover = sealed if eraser_has_keys else plain
        done = await finish(at, asked(tag=TAG))
        assert (done.jobs, done.blobs_shared) == (1, 1)
        if stored_with_keys:  # another tenant has its own
            with pytest.raises(BlobMissingError):
                await plain.get_as_it_is(name)
        else:  # the other tenant's job may refer to it
            assert await plain.get(name) == submission
        assert await sealed.get(sealed.name_of("x", sha256_hex(submission))) == submission

    run(body)


def test_an_open_job_is_cancelled_and_erased_once_it_has_ended(run, tmp_path) -> None:
    async def body(bench) -> None:
        at = await desk(bench, tmp_path)
        await at.take(submitted("a"), accepted("a"))
        eraser, erasure = at.eraser(), asked()
        assert not await eraser.pass_over(erasure)
        (cancel,) = at.topics.landed
        assert isinstance(cancel, CancelRequested)
        assert cancel.job_id == "a"
        await at.project()
        await at.take(result_of(submitted("a"), accepted("a"), cancel))
        assert not await eraser.pass_over(erasure)
        assert at.topics.landed == [cancel], "its response still runs"
        late = await at.blob(id="resp_1")
        await at.take(settled("a", at_ms=NOW_MS + 1).model_copy(update={"response": late, "status": "cancelled"}))
        done = await finish(at, erasure)
        assert (done.jobs, done.blobs, (await at.projection.there("a")).status) == (1, 1, "cancelled")
        with pytest.raises(BlobMissingError):
            await at.blobs.get(late.sha256)

    run(body)


def test_a_response_whose_end_never_comes_is_waited_for_only_so_long(run, tmp_path) -> None:
    async def body(bench) -> None:
        at = await desk(bench, tmp_path)
        facts = [submitted("a"), accepted("a"), cancelled("a", at_ms=NOW_MS)]
        await at.take(*facts, result_of(*facts))
        at.now_ms += SETTLES_MS - 1
        assert not await at.eraser().pass_over(asked())
        assert at.topics.landed == []
        at.now_ms += 1
        assert (await finish(at, asked())).jobs == 1

    run(body)


@pytest.mark.parametrize("place", ["erasing.removed", "erasing.told"])
def test_a_process_that_dies_in_the_middle_is_followed_by_one_that_finishes(run, tmp_path, place: str) -> None:
    async def body(bench) -> None:
        at = await desk(bench, tmp_path)
        for n in range(3):
            await at.ended(f"j{n}", await at.blob(input=n))
        failpoints.arm(f"{place}=raise")
        try:
            with pytest.raises(failpoints.FailpointError):
                await at.eraser().pass_over(asked())
        finally:
            failpoints.arm("")
        await at.project()
        await finish(at, asked())
        assert SECRET not in await at.content()
        assert at.provider.stored == set()
        assert not [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]

    run(body)


def test_what_the_provider_refuses_leaves_the_erasure_open_and_says_why(run, tmp_path) -> None:
    async def body(bench) -> None:
        at = await desk(bench, tmp_path)
        await at.ended("a", await at.blob(input=1))
        at.provider.refuses = True
        with pytest.raises(NotErasedError, match="invalid_api_key"):
            await at.eraser().pass_over(asked())
        with pytest.raises(NotErasedError, match="OPENAI_API_KEY"):
            await at.eraser(with_key=False).pass_over(asked())
        assert at.topics.landed == []
        assert RESULT.validate_json((await at.projection.there("a")).result or b"").response is not None

    run(body)


def test_while_the_read_model_lags_nothing_is_removed_and_nothing_is_done(run, tmp_path) -> None:
    async def body(bench) -> None:
        at = await desk(bench, tmp_path)
        shared = await at.blob(input="the same")
        await at.ended("a", shared, session_id="s")
        (unread,) = at.log.put(submitted("b", request=shared, session_id="other", request_sha256="b" * 64))
        at.jobs_log.put(unread)
        for erasure in (asked(session_id="s"), asked(session_id="other")):
            with pytest.raises(NotErasedError, match="has not read jobs/0 to its end"):
                await at.eraser().pass_over(erasure)
        assert at.topics.landed == []
        await at.projection.take([unread])
        done = await finish(at, asked(session_id="s"))
        assert (done.jobs, done.blobs_shared) == (1, 1)
        assert await at.blobs.get(shared.sha256)

    run(body)


def test_a_response_that_is_not_deleted_holds_up_no_other_job_and_none_is_deleted_twice(run, tmp_path) -> None:
    async def body(bench) -> None:
        at = await desk(bench, tmp_path)
        for n in range(6):
            await at.ended(f"j{n}", await at.blob(input=n))
        at.provider.refused, at.provider.busy_each = {"resp_j3"}, 4
        eraser = at.eraser()
        for _ in range(3):
            with pytest.raises(NotErasedError, match="resp_j3"):
                await eraser.pass_over(asked())
            await at.project()
        assert at.provider.stored == {"resp_j3"}
        assert sorted(key for _, key in at.topics.erased) == ["j0", "j1", "j2", "j4", "j5"]
        assert sorted(at.provider.deleted) == [f"resp_{key}" for key in ("j0", "j1", "j2", "j4", "j5")]
        at.provider.refused = set()
        assert not await eraser.pass_over(asked())
        await at.project()
        assert await eraser.pass_over(asked())
        assert len(at.topics.erased) == 6

    run(body)


def test_a_blob_that_was_put_a_moment_ago_may_be_anothers_and_waits(run, tmp_path) -> None:
    async def body(bench) -> None:
        at = await desk(bench, tmp_path, recent_ms=1_000)
        request = await at.blob(input=1)
        await at.ended("a", request)
        at.now_ms = int((tmp_path / "blobs" / request.sha256[:2] / request.sha256).stat().st_mtime * 1000)
        erasure = asked().model_copy(update={"submitted_until_ms": at.now_ms})
        assert not await at.eraser().pass_over(erasure)
        assert at.topics.landed == []
        at.now_ms += 2_000
        assert (await finish(at, erasure)).jobs == 1

    run(body)


def test_a_job_of_later_is_left_alone_and_so_is_another_tenants(run, tmp_path) -> None:
    async def body(bench) -> None:
        at = await desk(bench, tmp_path)
        await at.take(submitted("late", at_ms=NOW_MS + 1), submitted("x:theirs", tenant="x"))
        assert (await finish(at, asked())).jobs == 0
        assert (await at.projection.there("late")).status == "submitting"

    run(body)


def test_an_erased_row_is_the_same_whether_its_result_was_read_or_not(run, tmp_path) -> None:
    async def body(bench) -> None:
        at = await desk(bench, tmp_path)
        facts = await at.ended("a", await at.blob(input=1), tags=(TAG,))
        await finish(at, asked())
        (erased,) = [fact for fact in at.topics.landed if fact.topic == "jobs"]
        live = await at.projection.there("a")
        result = result_of(*facts)
        for order in ([*facts, result, erased], [*facts, erased, result], [*facts, erased], [*facts, erased, erased]):
            records = Log().put(*order)
            writes = project(records, Known())
            assert writes.rows["a"]._replace(position=live.position) == live
            assert (writes.requests, writes.repeated_results) == ({}, [])

    run(body)


def test_the_end_of_one_erasure_is_not_the_end_of_a_later_one_of_the_same_scope(run, tmp_path) -> None:
    async def body(bench) -> None:
        at = await desk(bench, tmp_path)
        first, later = asked(), asked().model_copy(update={"submitted_until_ms": NOW_MS + 9})
        eraser = at.eraser()
        eraser.take(first, 0)
        eraser.take(later, 0)
        assert await eraser.pass_over(first)
        (done,) = at.topics.landed
        assert (done.key == first.key, done.key == later.key) == (True, False)
        assert eraser._open == {later.key: later}

    run(body)


def test_costs_lose_the_persons_name_and_what_is_told_later_falsifies_no_sum(run, tmp_path) -> None:
    async def body(bench) -> None:
        at = await desk(bench, tmp_path)
        named: dict[str, Any] = {"tags": (TAG,), "prompt_cache": PromptCache(policy="as_is", key="ann's")}
        facts = [submitted("a", **named), accepted("a"), cancelled("a", at_ms=NOW_MS)]
        await at.take(*facts, result_of(*facts))
        at.now_ms += SETTLES_MS
        late = settled("a", at_ms=NOW_MS + 5).model_copy(update={"status": "cancelled"})
        await finish(at, asked(tag=TAG))
        await at.take(late)

        def sums(conn: Any) -> list[tuple[Any, ...]]:
            asked = (
                "SELECT about, name, outcome, attempts, input_tokens FROM costs WHERE about <> 'minute' ORDER BY about"
            )
            return conn.rows(asked)

        assert await at.projection.database.read(sums) == [
            (about, "", "cancelled", 1, 5) for about in ("all", "cache_key", "tag")
        ]

    run(body)


def test_making_an_index_has_no_time_limit_and_other_statements_keep_theirs(run) -> None:
    async def body(bench) -> None:
        database = bench.another()
        await database.open()

        def limit(conn: Any) -> str:
            return str(conn.rows("SELECT current_setting('statement_timeout')")[0][0])

        def made(conn: Any) -> str:
            make_index(conn, INDEXES[0])
            return limit(conn) if isinstance(conn, PostgresConnection) else "0"

        assert await database.write(made) == "0"
        if isinstance(database, PostgresDatabase):
            assert await database.write(limit) == "30s"

    run(body)
