"""The projection as a process of its own, on a real broker: killed, frozen, doubled, cut off from its database."""

import asyncio
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer

from backstop.readmodel import queries, store
from backstop.readmodel.sqlite import SqliteDatabase
from schemas.codec import decode, encode
from schemas.dead_letters import DEAD_LETTER
from tests.kafka.projection_rig import PARTITIONS, Rig, assert_is_the_fold_of, content, jobs, rebuild, server
from tests.support.waiting import wait_until
from tests.unit.backstop.readmodel.logs import accepted, submitted
from tests.unit.backstop.readmodel.postgres_server import Server

__all__ = ["server"]


@pytest.fixture
def rig(broker, prefix: str, tmp_path: Path) -> Rig:
    return Rig(broker.bootstrap, prefix, tmp_path)


def test_what_is_on_the_logs_is_in_the_database(rig: Rig) -> None:
    facts = jobs(30)
    rig.publish(facts)
    with rig.projection():
        rig.wait_for(facts)
        assert_is_the_fold_of(rig, facts)
        more = jobs(5, first=30)
        rig.publish(more, transactional_id=f"{rig.settings.topic_prefix}tx")
        rig.wait_for(facts, more)
        assert_is_the_fold_of(rig, facts + more)


@pytest.mark.parametrize(
    "failpoints",
    [
        pytest.param(
            f"{name}:{hit}=kill", marks=[] if (name, hit) == ("projection.in_transaction", 3) else [pytest.mark.long]
        )
        for name in ("projection.in_transaction", "projection.committed")
        for hit in (1, 3)
    ],
)
def test_killed_in_mid_batch_it_goes_on_where_it_was(rig: Rig, failpoints: str) -> None:
    facts = jobs(40)
    rig.publish(facts)
    with rig.projection(failpoints) as process:
        wait_until(lambda: process.poll() is not None, 40, "the projection to be killed by its failpoint")
        assert process.returncode == -signal.SIGKILL
    with rig.projection():
        rig.wait_for(facts)
    assert_is_the_fold_of(rig, facts)


@pytest.mark.long
def test_a_database_restored_from_an_old_backup_catches_up_by_itself(rig: Rig) -> None:
    facts, more = jobs(10), jobs(10, first=10)
    rig.publish(facts)
    with rig.projection():
        rig.wait_for(facts)
    file = rig.path.resolve()  # of this build; the path itself is a link
    backup = file.with_suffix(".backup")
    with closing(sqlite3.connect(file)) as live, closing(sqlite3.connect(backup)) as copy:
        live.backup(copy)
    rig.publish(more)
    with rig.projection():
        rig.wait_for(facts, more)
    for part in (file, *file.parent.glob(f"{file.name}-*")):
        part.unlink()
    backup.rename(file)
    assert len(rig.read(content)[0]) == 10
    with rig.projection():
        rig.wait_for(facts, more)
    assert_is_the_fold_of(rig, facts + more)


def test_a_record_that_cannot_be_read_is_set_aside_and_the_others_go_on(rig: Rig) -> None:
    facts = jobs(3)
    rig.publish(facts[:8], raw=[("jobs", b"j1", b"not json"), ("jobs", b"j1", b'{"type":"of another release"}')])
    rig.publish(
        [*facts[8:], submitted("right")], raw=[("results", b"wrong", encode(facts[6])), ("results", b"j9", None)]
    )
    with rig.projection():
        rig.wait_for(facts, [submitted("right")])
        wait_until(lambda: rig.said("readmodel_dead_letter") == 3, 10, "the dead letters")
    letters = dead_letters(rig)
    assert sorted(letter.reason for letter in letters) == ["not_json", "unknown_type", "wrong_key"]
    assert {letter.component for letter in letters} == {"readmodel"}
    assert_is_the_fold_of(rig, [*facts, submitted("right")])


def dead_letters(rig: Rig) -> list:
    async def read() -> list:
        consumer = AIOKafkaConsumer(
            f"{rig.settings.topic_prefix}dead-letters",
            bootstrap_servers=rig.settings.kafka_bootstrap_servers,
            auto_offset_reset="earliest",
        )
        await consumer.start()
        try:
            found: list = []
            async with asyncio.timeout(20):
                while len(found) < 3:
                    batches = await consumer.getmany(timeout_ms=500)
                    found += [decode(DEAD_LETTER, record.value) for of in batches.values() for record in of]
            return found
        finally:
            await consumer.stop()

    return asyncio.run(read())


@pytest.mark.long
def test_two_projections_share_the_partitions_and_a_frozen_one_writes_nothing_when_it_wakes(rig: Rig) -> None:
    first = jobs(10)
    rig.publish(first)
    with rig.projection() as one, rig.projection():
        wait_until(lambda: rig.finished() == 10, 40, "both to project")
        one.send_signal(signal.SIGSTOP)
        second = jobs(10, first=10)
        rig.publish(second)
        wait_until(lambda: rig.finished() == 20, 60, "the other one to take the frozen one's partitions over")
        one.send_signal(signal.SIGCONT)
        third = jobs(10, first=20)
        rig.publish(third)
        rig.wait_for(first, second, third)
    assert_is_the_fold_of(rig, first + second + third)


def test_without_its_database_it_waits_and_catches_up_alone(rig: Rig) -> None:
    first = jobs(5)
    rig.publish(first)
    with rig.projection() as process:
        wait_until(lambda: rig.finished() == 5, 40, "the first jobs")
        # A foreign writer that holds the lock for longer than the busy timeout: to a SQLite writer, that is "away".
        blocker = sqlite3.connect(rig.path, isolation_level=None)
        try:
            blocker.execute("BEGIN IMMEDIATE")
            second = jobs(5, first=5)
            rig.publish(second)
            wait_until(lambda: rig.said("readmodel_away") >= 1, 30, "it to notice")
            assert process.poll() is None
            assert rig.finished() == 5
            blocker.execute("ROLLBACK")
        finally:
            blocker.close()
        rig.wait_for(first, second)
    assert_is_the_fold_of(rig, first + second)


def test_a_deleted_database_is_read_again_from_the_beginning(rig: Rig) -> None:
    facts = jobs(5)
    rig.publish(facts)
    with rig.projection():
        wait_until(lambda: rig.finished() == 5, 40, "the first build")
        before = rig.path.resolve()
        for suffix in ("", "-wal", "-shm"):
            before.with_name(before.name + suffix).unlink(missing_ok=True)
        rig.publish([submitted("new"), accepted("new", response_id="r")])
        wait_until(lambda: rig.path.resolve() != before and rig.finished() == 5, 40, "another build")
        rig.wait_for(facts, [submitted("new"), accepted("new", response_id="r")])
    assert_is_the_fold_of(rig, [*facts, submitted("new"), accepted("new", response_id="r")])


def test_a_read_model_of_another_log_is_refused(rig: Rig) -> None:
    async def elsewhere() -> None:
        database = SqliteDatabase(rig.path, lambda: 7)
        await database.open()
        await database.write(lambda conn: store.claim(conn, [("jobs", n) for n in range(PARTITIONS)]))
        await database.write(lambda conn: conn.execute("UPDATE consumer_offsets SET next_offset = 1000"))
        await database.close()

    asyncio.run(elsewhere())
    with rig.projection() as process:
        assert process.wait(40) == 2
    assert "it is another log" in rig.log.read_text()


def test_asked_to_stop_it_stops(rig: Rig) -> None:
    with rig.projection() as process:
        wait_until(lambda: rig.said("readmodel_claimed") >= 1, 40, "it to own its partitions")
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    assert rig.read(queries.last_seq) == 0


def test_a_rebuild_equals_what_it_replaces_and_the_projection_goes_on_in_it(rig: Rig) -> None:
    first = jobs(10)
    rig.publish(first, transactional_id=f"{rig.settings.topic_prefix}tx")
    with rig.projection():
        wait_until(lambda: rig.finished() == 10, 40, "the first jobs")
        before = rig.path.resolve()
        assert rebuild(rig, "projection.rebuilding:1=kill") == -signal.SIGKILL
        assert rig.path.resolve() == before
        assert rebuild(rig) == 0
        assert rig.path.resolve() != before
        assert '"verdict":"equal"' in rig.log.read_text()
        second = jobs(10, first=10)
        rig.publish(second)
        rig.wait_for(first, second)
    assert_is_the_fold_of(rig, first + second)


@pytest.mark.long
def test_a_rebuild_that_differs_is_not_swapped_unless_told(rig: Rig) -> None:
    facts = jobs(3)
    rig.publish(facts)
    with rig.projection():
        rig.wait_for(facts)
    live = sqlite3.connect(rig.path.resolve())
    live.execute("DELETE FROM jobs WHERE job_id = 'j1'")
    live.commit()
    live.close()
    before = rig.path.resolve()
    assert rebuild(rig) == 1
    assert rig.path.resolve() == before
    assert rebuild(rig, "", "--accept-differences") == 0
    assert_is_the_fold_of(rig, facts)


def test_on_postgresql_it_is_killed_loses_its_server_and_is_rebuilt_without_a_difference(
    broker, prefix: str, tmp_path: Path, server: Server
) -> None:
    rig = Rig(broker.bootstrap, prefix, tmp_path, server.url)
    first = jobs(20)
    rig.publish(first)
    for name in ("projection.in_transaction:2", "projection.committed:1"):
        with rig.projection(f"{name}=kill") as process:
            assert process.wait(40) == -signal.SIGKILL
    with rig.projection() as process:
        wait_until(lambda: rig.finished() == 20, 40, "the first jobs")
        server.stop()
        second = jobs(10, first=20)
        rig.publish(second)
        wait_until(lambda: rig.said("readmodel_away") >= 1, 30, "it to notice")
        server.start()
        wait_until(lambda: rig.finished() == 30, 40, "it to catch up")
        assert process.poll() is None
        assert rebuild(rig) == 0
        third = jobs(5, first=30)
        rig.publish(third)
        rig.wait_for(first, second, third)
    assert_is_the_fold_of(rig, first + second + third)
