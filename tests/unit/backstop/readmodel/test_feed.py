"""The feed of changes: each follower gets what is written while it follows; without followers nothing is read."""

from typing import TypeVar

from prometheus_client import CollectorRegistry

from backstop.readmodel.database import Database, Work
from backstop.readmodel.feed import ChangeFeed, StreamLimits, Subscription
from backstop.readmodel.sqlite import SqliteDatabase
from tests.unit.backstop.readmodel.conftest import Bench
from tests.unit.backstop.readmodel.logs import Log, submitted
from tests.unit.backstop.readmodel.projection import Projection

T = TypeVar("T")
QUIET_S = 0.3
"""Some of the looks at SQLite's files."""


class Counting(SqliteDatabase):
    """Counts what is read from it."""

    reads = 0

    async def read(self, work: Work[T]) -> T:
        self.reads += 1
        return await super().read(work)


def counting(database: Database) -> Counting:
    assert isinstance(database, SqliteDatabase)
    return Counting(database.path, lambda: 0)


def test_a_follower_gets_what_is_written_while_it_follows(run) -> None:
    """Whether others follow or not, and also after a time in which none did."""

    async def body(bench: Bench) -> None:
        projection = await Projection(bench.another()).take_over()
        feed = ChangeFeed(bench.another(), CollectorRegistry(), StreamLimits())
        await feed.start()
        log = Log()
        await projection.take(log.put(submitted("before")))
        for job_id in ("first", "second"):
            follower = Subscription("default")
            async with feed.follow(follower):
                await projection.take(log.put(submitted(job_id)))
                heard = [await follower.next(5)]
                if heard[0] is not None and heard[0].job_id == f"just-before-{job_id}":  # an early change does no harm
                    heard.append(await follower.next(5))
                assert heard[-1] is not None
                assert heard[-1].job_id == job_id
            await projection.take(log.put(submitted("just-before-second")))
        await feed.stop()

    run(body)


def test_a_feed_without_followers_reads_nothing(run) -> None:
    async def body(bench: Bench) -> None:
        projection = await Projection(bench.another()).take_over()
        if not isinstance(projection.database, SqliteDatabase):
            return
        database = counting(projection.database)
        feed = ChangeFeed(database, CollectorRegistry(), StreamLimits())
        await feed.start()
        await projection.database.changed(0, QUIET_S)
        assert database.reads == 0
        async with feed.follow(Subscription("default")):
            assert database.reads
        await feed.stop()
        await database.close()

    run(body)


def test_a_quiet_sqlite_file_is_looked_at_and_not_read(run) -> None:
    async def body(bench: Bench) -> None:
        projection = await Projection(bench.another()).take_over()
        if not isinstance(projection.database, SqliteDatabase):
            return
        database = counting(projection.database)
        await database.changed(0, QUIET_S)
        assert database.reads == 2  # the second, as a write may share the first one's time
        await database.close()

    run(body)
