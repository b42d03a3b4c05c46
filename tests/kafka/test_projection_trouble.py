"""A database that is full, or gives up transactions: the projection waits, says so, and equals the fold again.

No other process notices.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from backstop.dev.broker import Owned
from tests.kafka.projection_rig import Rig, assert_is_the_fold_of, jobs, server
from tests.kafka.test_full_disk import small_disk, use_up
from tests.support.waiting import wait_until
from tests.unit.backstop.readmodel.postgres_server import Server

__all__ = ["server"]

GIVEN_UP = {"deadlock": "40P01", "serialization": "40001", "disk full": "53100", "lock not available": "55P03"}
"""What PostgreSQL ends a transaction with, whatever it was about."""


@pytest.fixture
def on_a_small_disk(broker: Owned, prefix: str, tmp_path: Path) -> Iterator[Rig]:
    with small_disk(tmp_path / "disk", size_bytes=4 << 20) as disk:
        rig = Rig(broker.bootstrap, prefix, disk)
        rig.log = tmp_path / "projection.log"
        yield rig


def _away_more_than(rig: Rig, times: int) -> bool:
    return rig.said("readmodel_away") > times


def test_on_a_full_disk_it_waits_and_catches_up_with_room_again(on_a_small_disk: Rig) -> None:
    rig = on_a_small_disk
    first, second = jobs(5), jobs(60, first=5)
    rig.publish(first)
    with rig.projection() as process:
        wait_until(lambda: rig.finished() == 5, 40, "the first jobs")
        use_up(rig.settings.data_dir)
        rig.publish(second)
        wait_until(lambda: rig.said("readmodel_away") >= 2, 30, "it to notice, and to try again")
        assert process.poll() is None
        assert rig.finished() < 65
        (rig.settings.data_dir / "filler").unlink()
        rig.wait_for(first, second)
    assert_is_the_fold_of(rig, first + second)


@pytest.mark.long
def test_transactions_that_postgresql_gives_up_are_begun_again(
    broker: Owned, prefix: str, tmp_path: Path, server: Server
) -> None:
    psycopg = pytest.importorskip("psycopg")
    rig = Rig(broker.bootstrap, prefix, tmp_path, server.url)
    taken = jobs(5)
    rig.publish(taken)
    with rig.projection() as process:
        wait_until(lambda: rig.finished() == 5, 40, "the first jobs")
        for number, (what, code) in enumerate(GIVEN_UP.items(), start=1):
            said = rig.said("readmodel_away")
            with psycopg.connect(server.url, autocommit=True) as raw:
                table = (
                    raw.execute(
                        "SELECT schemaname FROM pg_tables WHERE tablename = 'jobs' ORDER BY schemaname DESC"
                    ).fetchone()[0]
                    + ".jobs"
                )
                raw.execute(
                    f"CREATE FUNCTION give_up() RETURNS trigger LANGUAGE plpgsql AS "
                    f"$$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '{code}'; END $$"
                )
                raw.execute(f"CREATE TRIGGER give_up BEFORE INSERT ON {table} EXECUTE FUNCTION give_up()")
                more = jobs(3, first=number * 10)
                rig.publish(more)
                wait_until(partial(_away_more_than, rig, said), 30, f"it to notice: {what}")
                raw.execute("DROP FUNCTION give_up CASCADE")
            taken += more
            rig.wait_for(taken)
            assert process.poll() is None
    assert_is_the_fold_of(rig, taken)
