"""The behaviour that every database must share."""

import random
from functools import partial

import pytest

from backstop.readmodel import queries, store
from backstop.readmodel.batch import ParsedRecord, RecordFailedError
from backstop.readmodel.database import Connection, FencedError
from backstop.readmodel.lists import Cursor, JobFilter, list_rows
from backstop.readmodel.sqlite import SqliteDatabase
from backstop.readmodel.store import Move
from tests.unit.backstop.readmodel.conftest import NOW_MS
from tests.unit.backstop.readmodel.logs import (
    Log,
    accepted,
    claimed,
    result_of,
    settled,
    submitted,
    webhook,
    whole_job,
)
from tests.unit.backstop.readmodel.projection import Projection


async def projection(bench) -> Projection:
    return await Projection(bench.another()).take_over()


def test_a_row_comes_back_as_it_was_written(run) -> None:
    async def body(bench) -> None:
        facts = [submitted(session_id="s", tags=("a", "line\nbreak")), accepted(), settled()]
        one = await projection(bench)
        writes = await one.take(Log().put(*facts, result_of(*facts)))
        assert await one.row("j") == writes.rows["j"]
        assert await one.row("unknown") is None

    run(body)


def test_the_view_for_other_programs_shows_the_current_build_and_an_older_build_gets_it(run, bench) -> None:
    async def body(bench) -> None:
        one = await projection(bench)
        await one.take(Log().put(*whole_job("j", "resp_1", tags=("t",))))
        where = "backstop_jobs"
        if isinstance(one.database, SqliteDatabase):
            await one.database.write(lambda conn: conn.execute("DROP VIEW backstop_jobs"))
            await bench.another().open()
        else:
            ((path,),) = await one.database.read(lambda conn: conn.rows("SELECT current_setting('search_path')"))
            where = f"{path.rpartition('_')[0]}.backstop_jobs"
            await one.database.write(lambda conn: conn.execute(f"DROP VIEW {where}"))
            await bench.another().open()
            bench.now_ms += 1
            rebuilt = one.database.for_rebuild()
            await rebuilt.open()
            await one.database.promote(rebuilt)
            assert await one.database.read(lambda conn: conn.rows(f"SELECT * FROM {where}")) == []
            return
        asked = f"SELECT job_id, status, tags, input_tokens FROM {where}"
        assert await one.database.read(lambda conn: conn.rows(asked)) == [("j", "completed", '["t"]', 5)]

    run(body)


def test_texts_of_callers_are_kept_whatever_is_in_them(run) -> None:
    async def body(bench) -> None:
        one = await projection(bench)
        await one.take(Log().put(submitted(model="a\x00b'\"%s ? ü", tags=("\x00", "%(x)s"))))
        row = await one.there("j")
        assert (row.model, row.tags) == ("a\ufffdb'\"%s ? ü", ("\ufffd", "%(x)s"))

    run(body)


def test_batches_of_any_size_give_the_same_digest(run, bench) -> None:
    async def body(bench) -> None:
        one = await projection(bench)
        log = Log()
        records = log.put(*(fact for n in range(20) for fact in whole_job(f"j{n}", f"resp_{n}")))
        empty = await one.database.read(queries.digest)
        chance = random.Random(7)
        while records:
            size = chance.randint(1, 9)
            await one.take(records[:size])
            records = records[size:]
        stepwise = await one.database.read(queries.digest)
        assert stepwise != empty
        await one.database.write(wipe)
        again = await Projection(one.database).take_over()
        await again.take(Log().put(*(fact for n in range(20) for fact in whole_job(f"j{n}", f"resp_{n}"))))
        assert await again.database.read(queries.digest) == stepwise

    run(body)


def wipe(conn: Connection) -> None:
    for table in (
        "jobs",
        "job_tags",
        "held_results",
        "timeline",
        "claims",
        "unclaimed",
        "spends",
        "costs",
        "refusals",
        "consumer_offsets",
    ):
        conn.execute(f"DELETE FROM {table}")


def test_an_overtaken_projection_writes_nothing(run) -> None:
    async def body(bench) -> None:
        zombie = await projection(bench)
        log = Log()
        await zombie.take(log.put(submitted()))
        successor = await projection(bench)
        assert successor.owned["jobs", 0].next_offset == 1
        more = log.put(accepted())
        with pytest.raises(FencedError):
            await zombie.take(more)
        assert (await successor.there("j")).version == 1
        await successor.take(more)
        with pytest.raises(FencedError):
            await zombie.take(log.put(settled()))
        assert (await successor.there("j")).status == "running"

    run(body)


def test_the_same_batch_is_refused_the_second_time(run) -> None:
    async def body(bench) -> None:
        one = await projection(bench)
        batch = Log().put(submitted())
        before = dict(one.owned)
        await one.take(batch)
        one.owned = before
        with pytest.raises(FencedError):
            await one.take(batch)
        assert len(await one.database.read(lambda conn: queries.timeline_of(conn, "j"))) == 1

    run(body)


def test_offsets_may_jump(run) -> None:
    async def body(bench) -> None:
        one = await projection(bench)
        log = Log()
        log.put(submitted("lost"))
        await one.take(log.put(submitted()))
        assert (await one.database.read(store.offsets))["jobs", 0] == 2

    run(body)


def test_an_exception_inside_leaves_no_trace(run) -> None:
    async def body(bench) -> None:
        one = await projection(bench)
        batch = Log().put(submitted())

        def broken(conn: Connection) -> None:
            store.apply(conn, [Move("jobs", 0, 0, 1, one.owned["jobs", 0].epoch)], batch, NOW_MS, 1)
            raise RuntimeError("planted")

        with pytest.raises(RuntimeError, match="planted"):
            await one.database.write(broken)
        assert await one.row("j") is None
        assert (await one.database.read(store.offsets))["jobs", 0] == 0
        await one.take(batch)
        assert await one.row("j") is not None

    run(body)


def test_a_record_that_the_fold_cannot_take_is_named(run) -> None:
    async def body(bench) -> None:
        one = await projection(bench)
        good, bad = Log().put(submitted("good"), submitted("bad"))
        broken = ParsedRecord(bad.position, submitted("bad").model_copy(update={"policy": None}), bad.value)
        with pytest.raises(RecordFailedError) as caught:
            await one.take([good, broken])
        assert caught.value.position == bad.position
        assert await one.row("good") is None

    run(body)


def test_the_database_refuses_to_change_a_terminal_row(run) -> None:
    async def body(bench) -> None:
        one = await projection(bench)
        await one.take(Log().put(*whole_job("j", "resp_1")))
        with pytest.raises(Exception, match="jobs_end_once"):
            await one.database.write(lambda conn: conn.execute("UPDATE jobs SET version = version + 1"))
        assert (await one.there("j")).version == 4

    run(body)


def test_the_database_refuses_a_version_that_falls(run) -> None:
    async def body(bench) -> None:
        one = await projection(bench)
        await one.take(Log().put(submitted(), accepted()))
        with pytest.raises(Exception, match="jobs_go_forward"):
            await one.database.write(lambda conn: conn.execute("UPDATE jobs SET version = version - 1"))
        assert (await one.there("j")).version == 2

    run(body)


def test_a_webhook_waits_in_the_database_for_its_claim(run) -> None:
    async def body(bench) -> None:
        one = await projection(bench)
        log = Log()
        await one.take(log.put(submitted(), webhook()))
        assert [entry.kind for entry in await timeline(one)] == ["job_submitted"]
        await one.take(log.put(claimed(at_ms=9_100)))
        assert [entry.kind for entry in await timeline(one)] == [
            "job_submitted", "webhook_received", "response_claimed",
        ]  # fmt: skip
        assert await one.database.read(lambda conn: conn.rows("SELECT * FROM unclaimed")) == []

    run(body)


async def timeline(one: Projection):
    return await one.database.read(lambda conn: queries.timeline_of(conn, "j"))


def test_a_held_result_survives_in_the_database(run) -> None:
    async def body(bench) -> None:
        one = await projection(bench)
        facts = [submitted(), accepted(), settled()]
        log = Log()
        await one.take(log.put(result_of(*facts)))
        await one.take(log.put(*facts[:2]))
        assert (await one.there("j")).status == "running"
        await one.take(log.put(facts[2]))
        assert (await one.there("j")).status == "completed"
        assert await one.database.read(lambda conn: conn.rows("SELECT * FROM held_results")) == []

    run(body)


def test_tenants_see_their_own_jobs_only(run) -> None:
    async def body(bench) -> None:
        one = await projection(bench)
        await one.take(Log().put(submitted("a"), submitted("other:a", tenant="other")))
        assert await one.row("other:a") is None
        assert (await one.there("other:a", tenant="other")).tenant == "other"
        mine = await one.database.read(lambda conn: list_rows(conn, JobFilter("default")).rows)
        assert [row.job_id for row in mine] == ["a"]
        known = await one.database.read(lambda conn: queries.find_known(conn, "other:a"))
        assert known is not None
        assert (known.tenant, known.request_sha256, known.status) == ("other", "a" * 64, "submitting")
        assert await one.database.read(lambda conn: queries.find_known(conn, "b")) is None

    run(body)


def test_pages_hold_every_job_once_newest_first(run) -> None:
    async def body(bench) -> None:
        one = await projection(bench)
        # Seven jobs a millisecond: a page ends among equals.
        await one.take(Log().put(*(submitted(f"j{n:02}", at_ms=1_000 + n // 7) for n in range(30))))
        seen: list[tuple[int, str]] = []
        after: Cursor | None = None
        while True:
            wanted = JobFilter("default", after=after, limit=4)
            page = (await one.database.read(partial(list_rows, wanted=wanted))).rows
            seen += [(row.submitted_at_ms, row.job_id) for row in page]
            if len(page) < 4:
                break
            after = Cursor(page[-1].submitted_at_ms, page[-1].job_id)
        assert seen == sorted(((1_000 + n // 7, f"j{n:02}") for n in range(30)), reverse=True)

    run(body)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"statuses": ("running",)}, ["b"]),
        ({"statuses": ("running", "submitting")}, ["c", "b", "a"]),
        ({"model": "small"}, ["a"]),
        ({"session_id": "s"}, ["c", "b"]),
        ({"tag": "blue"}, ["c"]),
        ({"since_ms": 2_000}, ["c", "b"]),
        ({"tag": "green"}, []),
    ],
    ids=str,
)
def test_jobs_are_found_by_what_they_are(run, wanted, found) -> None:
    async def body(bench) -> None:
        one = await projection(bench)
        await one.take(
            Log().put(
                submitted("a", model="small"),
                submitted("b", at_ms=2_000, session_id="s"),
                submitted("c", at_ms=3_000, session_id="s", tags=("blue",)),
                accepted("b"),
            )
        )
        rows = await one.database.read(lambda conn: list_rows(conn, JobFilter("default", **wanted)).rows)
        assert [row.job_id for row in rows] == found

    run(body)


def test_changes_tell_each_row_that_changed_in_order_and_bear_the_build(run) -> None:
    async def body(bench) -> None:
        one = await projection(bench)
        log = Log()
        await one.take(log.put(submitted("a"), submitted("b")))
        await one.take(log.put(accepted("a"), submitted("b")))
        told = await one.database.read(lambda conn: queries.changes_after(conn, 0, 100))
        assert [(change.job_id, change.version, change.status) for change in told] == [
            ("a", 1, "submitting"), ("b", 1, "submitting"), ("a", 2, "running"),
        ]  # fmt: skip
        assert [change.seq for change in told] == sorted({change.seq for change in told})
        assert {change.build for change in told} == {one.database.build}
        later = await one.database.read(lambda conn: queries.changes_after(conn, told[0].seq, 100, job_id="a"))
        assert later == [told[2]]

    run(body)
