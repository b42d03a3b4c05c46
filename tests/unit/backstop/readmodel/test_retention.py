"""Removal of finished jobs after a time, and usage booked after a job's end, on both databases."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from backstop.readmodel import queries
from backstop.readmodel.metrics import ProjectionMetrics
from backstop.readmodel.retention import BEGINNING, DAY_MS, Removable, removable_of, remove_ended
from backstop.readmodel.sweep import Kept, Sweeper
from schemas.base import Usage
from schemas.jobs import UsageBooked
from streams.submission import SubmissionPolicy
from tests.unit.backstop.readmodel.conftest import NOW_MS
from tests.unit.backstop.readmodel.logs import Log, accepted, claimed, result_of, settled, submitted, webhook
from tests.unit.backstop.readmodel.projection import Projection

POLICY = SubmissionPolicy(forget_after_ms=10_000).stamp(None)
TABLES = ("jobs", "job_tags", "timeline", "claims", "late_usage")


def ended(job_id: str, at_ms: int, **changes: Any) -> list[Any]:
    """A whole job with rows in every table."""
    response_id = f"resp_{job_id}"
    facts = [
        submitted(job_id, at_ms=at_ms - 10, policy=POLICY, tags=("t",), **changes),
        accepted(job_id, at_ms=at_ms - 5, response_id=response_id),
        settled(job_id, at_ms=at_ms, response_id=response_id),
    ]
    return [
        *facts[:2],
        claimed(job_id, response_id),
        webhook(response_id),
        facts[2],
        result_of(*facts),
        booked(job_id, at_ms),
    ]


def booked(
    job_id: str, at_ms: int, response_id: str = "resp_late", tokens: int = 7, *, estimated: bool = False
) -> UsageBooked:
    return UsageBooked(
        id=f"{response_id}/usage", at_ms=at_ms, job_id=job_id, tenant="default", attempt=2, response_id=response_id,
        usage=Usage(input_tokens=tokens, output_tokens=tokens, total_tokens=2 * tokens), estimated=estimated or None,
    )  # fmt: skip


async def counts(one: Projection) -> dict[str, int]:
    return await one.database.read(
        lambda conn: {table: conn.rows(f"SELECT COUNT(*) FROM {table}")[0][0] for table in TABLES}
    )


def test_all_that_a_job_has_leaves_with_it_and_nothing_of_another(run) -> None:
    async def body(bench) -> None:
        one = await Projection(bench.another()).take_over()
        await one.take(Log().put(*ended("kept", 200_000), submitted("open", at_ms=5)))
        before = await counts(one)
        log = Log()
        two = await Projection(bench.another()).take_over()
        await two.database.write(wipe)
        two = await Projection(two.database).take_over()
        await two.take(log.put(*ended("kept", 200_000), submitted("open", at_ms=5), *ended("gone", 100_000)))
        removed = await two.database.write(lambda conn: remove_ended(conn, Removable(200_000, 200_000)))
        assert (removed.jobs, removed.next) == (1, None)
        assert await counts(two) == before
        assert await two.row("gone") is None
        assert await two.row("kept") is not None
        assert await two.database.read(removable_of) == Removable(200_000, 200_000)

    run(body)


def wipe(conn: Any) -> None:
    for table in (*TABLES, "held_results", "unclaimed", "consumer_offsets", "changes"):
        conn.execute(f"DELETE FROM {table}")


def test_a_job_that_its_fold_still_knows_stays_and_keeps_no_other(run) -> None:
    async def body(bench) -> None:
        one = await Projection(bench.another()).take_over()
        slow = SubmissionPolicy(forget_after_ms=10 * DAY_MS).stamp(None)
        facts = [submitted("slow", at_ms=10, policy=slow), accepted("slow", at_ms=20), settled("slow", at_ms=30)]
        await one.take(Log().put(*facts, result_of(*facts), *ended("a", 100), *ended("b", 200)))
        removable = Removable(DAY_MS, DAY_MS)
        first = await one.database.write(lambda conn: remove_ended(conn, removable, limit=1))
        assert (first.jobs, first.next) == (0, (30, "slow"))
        second = await one.database.write(lambda conn: remove_ended(conn, removable, first.next or BEGINNING, limit=1))
        assert (second.jobs, second.next) == (1, (100, "a"))
        third = await one.database.write(lambda conn: remove_ended(conn, removable, second.next or BEGINNING, limit=2))
        assert (third.jobs, third.next) == (1, None)
        assert await one.row("slow") is not None

    run(body)


@pytest.mark.parametrize("keep_days", [0, 30])
def test_the_sweep_removes_what_ended_longer_ago_than_the_setting(run, keep_days: int) -> None:
    async def body(bench) -> None:
        one = await Projection(bench.another()).take_over()
        old, young = NOW_MS - 31 * DAY_MS, NOW_MS - 29 * DAY_MS
        jobs = [fact for number in range(3) for fact in ended(f"old{number}", old + number)]
        await one.take(Log().put(*jobs, *ended("young", young)))
        sweeper = Sweeper(
            one.database, lambda: NOW_MS, ProjectionMetrics(CollectorRegistry()), interval_ms=1_000, bound_ms=1_000,
            kept=Kept(
                1_000, changes_keep_ms=1_000, unclaimed_keep_ms=1_000, dead_letters_max=10,
                jobs_keep_ms=keep_days * DAY_MS,
            ),
        )  # fmt: skip
        await sweeper.once()
        assert [(await one.row(f"old{number}")) is None for number in range(3)] == [keep_days == 30] * 3
        assert await one.row("young") is not None

    run(body)


def test_two_read_models_are_equal_whatever_of_the_removable_each_has_left(run, bench) -> None:
    async def body(bench) -> None:
        one = await Projection(bench.another()).take_over()
        await one.take(Log().put(*ended("a", 100), *ended("b", 200), *ended("c", 300)))
        removable = Removable(250, 1_000_000)
        whole = await one.database.read(lambda conn: queries.digest(conn, removable.ended_before_ms))
        everything = await one.database.read(queries.digest)
        await one.database.write(lambda conn: remove_ended(conn, removable, limit=1))
        assert await one.database.read(lambda conn: queries.digest(conn, removable.ended_before_ms)) == whole
        await one.database.write(lambda conn: remove_ended(conn, removable))
        assert await one.database.read(lambda conn: queries.digest(conn, removable.ended_before_ms)) == whole
        assert await one.database.read(queries.digest) != everything

    run(body)


def test_an_id_whose_job_has_left_begins_anew(run) -> None:
    async def body(bench) -> None:
        one = await Projection(bench.another()).take_over()
        log = Log()
        await one.take(log.put(*ended("j", 100)))
        await one.database.write(lambda conn: remove_ended(conn, Removable(200_000, 200_000)))
        await one.take(log.put(submitted("j", at_ms=900_000, policy=POLICY)))
        row = await one.row("j")
        assert row is not None
        assert (row.status, row.version, row.result) == ("submitting", 1, None)

    run(body)


def test_usage_that_came_after_the_end_is_booked_once_and_counts_for_its_tenant(run) -> None:
    async def body(bench) -> None:
        one = await Projection(bench.another()).take_over()
        log = Log()
        await one.take(log.put(*ended("j", 1_000)[:-1]))
        load = await one.database.read(lambda conn: queries.tenant_load(conn, "default", 0, ()))
        seen = booked("j", 2_000, "resp_2", tokens=3, estimated=True)
        told = booked("j", 3_000, "resp_2", tokens=5)
        await one.take(log.put(seen, seen))
        await one.take(log.put(told, told, seen, booked("j", 4_000, "resp_3", tokens=1)))
        late = await one.database.read(lambda conn: queries.late_usage_of(conn, "j"))
        assert [(each.response_id, each.usage.total_tokens, each.estimated) for each in late] == [
            ("resp_2", 10, False), ("resp_3", 2, False),
        ]  # fmt: skip
        after = await one.database.read(lambda conn: queries.tenant_load(conn, "default", 0, ()))
        assert after.tokens - load.tokens == 12
        entries = await one.database.read(lambda conn: queries.timeline_of(conn, "j"))
        assert sum(entry.kind == "usage_booked" for entry in entries) == 6

    run(body)
