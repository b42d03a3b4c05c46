"""Upkeep of the read model on both databases: trim, sweep, wake-up, rebuild, another release."""

import asyncio

import pytest

from backstop.readmodel import postgres, queries, sqlite, store
from backstop.readmodel.batch import ParsedRecord
from backstop.readmodel.database import FencedError
from backstop.readmodel.lists import JobFilter, list_rows
from backstop.readmodel.rows import Position
from backstop.readmodel.sweep import sweep
from backstop.runtime.errors import ConfigurationError
from streams.policy.lanes import TOLD_WAIT_MS_MAX
from tests.support.waiting import eventually
from tests.unit.backstop.readmodel.conftest import NOW_MS
from tests.unit.backstop.readmodel.logs import (
    DEADLINE_MS,
    Log,
    accepted,
    rejected,
    result_of,
    settled,
    submitted,
    webhook,
)
from tests.unit.backstop.readmodel.projection import Projection


def test_trimming_keeps_the_last_changes_and_the_young_ones(run) -> None:
    async def body(bench) -> None:
        one = await Projection(bench.another()).take_over()
        log = Log()
        for at_ms in range(10):
            await one.take(log.put(submitted(f"j{at_ms}")), now_ms=NOW_MS + at_ms)
        seqs = [change.seq for change in await changes(one)]
        await one.database.write(lambda conn: store.trim(conn, 100, NOW_MS + 4, 0))
        assert [change.seq for change in await changes(one)] == seqs[4:]
        await one.database.write(lambda conn: store.trim(conn, 3, 0, 0))
        assert [change.seq for change in await changes(one)] == seqs[-3:]
        await one.database.write(lambda conn: store.trim(conn, 3, NOW_MS * 2, 0))
        assert [change.seq for change in await changes(one)] == seqs[-1:]

    run(body)


async def changes(one: Projection):
    return await one.database.read(lambda conn: queries.changes_after(conn, 0, 100))


def test_unclaimed_entries_are_forgotten(run) -> None:
    async def body(bench) -> None:
        one = await Projection(bench.another()).take_over()
        await one.take(Log().put(webhook("resp_1", at_ms=1_000), webhook("resp_2", at_ms=2_000)))
        await one.database.write(lambda conn: store.trim(conn, 10, 0, 1_000))
        # Old by the clock, but not by the time of the log: its claim may be the next record.
        assert len(await one.database.read(lambda conn: conn.rows("SELECT response_id FROM unclaimed"))) == 2
        await one.database.write(lambda conn: store.trim(conn, 10, 0, 999))
        assert await one.database.read(lambda conn: conn.rows("SELECT response_id FROM unclaimed")) == [("resp_2",)]

    run(body)


def test_a_follower_in_another_process_is_woken(run) -> None:
    async def body(bench) -> None:
        one = await Projection(bench.another()).take_over()
        other = bench.another()
        await other.open()
        waiting = asyncio.create_task(other.changed(0, 30.0))
        await eventually(lambda: not waiting.done(), what="the follower to wait")
        await one.take(Log().put(submitted()))
        async with asyncio.timeout(5):
            await waiting
        assert await other.read(queries.last_seq) > 0
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        await other.changed(await other.read(queries.last_seq), 0.2)
        assert loop.time() - started_s >= 0.15

    run(body)


def test_two_writers_at_once_lose_nothing(run) -> None:
    """Two projections share the partitions: one writes a job's row from `jobs`, the other from `results`."""

    async def body(bench) -> None:
        count = 40
        log = Log()
        jobs = [
            [submitted(f"j{n}"), accepted(f"j{n}", response_id=f"r{n}"), settled(f"j{n}", response_id=f"r{n}")]
            for n in range(count)
        ]
        facts = [log.put(*of) for of in jobs]
        results = [log.put(result_of(*of)) for of in jobs]
        one, other = Projection(bench.another()), Projection(bench.another())
        await one.database.open()
        await other.database.open()
        one.owned = await one.database.write(lambda conn: store.claim(conn, [("jobs", 0)]))
        other.owned = await other.database.write(lambda conn: store.claim(conn, [("results", 0)]))

        async def take(of: Projection, batches: list[list[ParsedRecord]]) -> None:
            for batch in batches:
                await of.take(batch)

        await asyncio.gather(take(one, facts), take(other, results))
        rows = await one.database.read(lambda conn: list_rows(conn, JobFilter("default", limit=count + 1)).rows)
        assert [row.status for row in rows] == ["completed"] * count
        told = [change.seq for change in await one.database.read(lambda conn: queries.changes_after(conn, 0, 1_000))]
        assert told == sorted(set(told))

    run(body)


def test_a_job_that_waits_for_its_lane_is_no_finding_while_the_lane_is_probed(run) -> None:
    async def body(bench) -> None:
        one = await Projection(bench.another()).take_over()
        await one.take(
            Log().put(submitted("held"), rejected("held"), submitted("probe"), rejected("probe", at_ms=400_000))
        )

        async def found(now_ms: int) -> tuple[str, ...]:
            swept = await one.database.read(lambda conn: sweep(conn, now_ms, 1_000))
            return swept.without_next_action.job_ids

        assert await found(400_000) == ()
        assert await found(400_000 + TOLD_WAIT_MS_MAX + 1_000) == ()
        assert await found(400_000 + TOLD_WAIT_MS_MAX + 1_001) == ("held", "probe")

    run(body)


def test_the_sweep_finds_what_will_not_move_by_itself(run) -> None:
    async def body(bench) -> None:
        one = await Projection(bench.another()).take_over()
        facts = [submitted("ended"), accepted("ended", response_id="r1"), settled("ended", response_id="r1")]
        early = [submitted("e", at_ms=1), accepted("e"), settled("e")]
        await one.take(Log().put(submitted("open"), *facts, result_of(*early)))
        bound_ms = 1_000
        clean = await one.database.read(lambda conn: sweep(conn, 2_000, bound_ms))
        assert clean.clean
        assert clean.open_by_status == {"submitting": 1, "finishing": 1}
        late = await one.database.read(lambda conn: sweep(conn, DEADLINE_MS + bound_ms + 1, bound_ms))
        assert late.without_next_action.job_ids == ("open",)
        assert late.overdue.job_ids == ("open",)
        assert late.finishing_too_long.job_ids == ("ended",)
        assert late.results_held.job_ids == ("e",)
        assert not late.clean

    run(body)


def test_a_promoted_build_is_used_by_every_process_that_had_the_old_one_open(run) -> None:
    async def body(bench) -> None:
        one = await Projection(bench.another()).take_over()
        reader = bench.another()
        await one.take(Log().put(submitted("old")))
        assert await reader.read(lambda conn: queries.find_known(conn, "old")) is not None
        other = bench.another()
        for _ in range(2):  # the next rebuild removes what a killed one left
            await other.for_rebuild().discard()
            bench.now_ms += 1
            rebuilt = await Projection(other.for_rebuild()).take_over()
            await rebuilt.take(Log().put(submitted("new")))
            await rebuilt.database.close()
        await other.promote(rebuilt.database)
        assert await reader.read(lambda conn: queries.find_known(conn, "old")) is None
        assert await reader.read(lambda conn: queries.find_known(conn, "new")) is not None
        assert reader.build == bench.now_ms
        with pytest.raises(FencedError):
            await one.take([ParsedRecord(Position("jobs", 0, 5), submitted("late"), b"")], old=5)
        again = await Projection(one.database).take_over()
        assert again.owned["jobs", 0].next_offset == 1

    run(body)


def test_only_the_build_before_is_kept(run) -> None:
    async def body(bench) -> None:
        one = bench.another()
        await one.open()
        for _ in range(3):
            bench.now_ms += 1
            rebuilt = one.for_rebuild()
            await rebuilt.open()
            await one.promote(rebuilt)
        assert await one.read(queries.last_seq) == 0
        assert one.build == bench.now_ms
        assert bench.builds() == [bench.now_ms - 1, bench.now_ms]

    run(body)


def test_another_releases_read_model_is_refused_until_a_rebuild_replaces_it(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(bench) -> None:
        old = bench.another()
        await old.open()
        for module in (sqlite, postgres):
            monkeypatch.setattr(module, "SCHEMA_VERSION", 10_000)
        new = bench.another()
        for refused in (new.open(), new.read(queries.last_seq)):
            with pytest.raises(ConfigurationError, match="backstop readmodel rebuild"):
                await refused
        bench.now_ms += 1
        rebuilt = new.for_rebuild()
        await rebuilt.open()
        await new.promote(rebuilt)
        assert await new.read(queries.last_seq) == 0

    run(body)
