"""Three brokers, as in production: leaders that move, too few replicas, an election that loses acknowledged records."""

import asyncio
import itertools
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from backstop.audit.report import Report
from backstop.audit.verify import verify
from backstop.cli.read_rows import read_model
from backstop.dev.broker import LocalKafka
from backstop.dev.driver import Driver
from backstop.dev.evidence import collect
from backstop.dev.fast_provider import BRISK, TIME_SCALE
from backstop.dev.judge import judge
from backstop.dev.sample_jobs import sample
from backstop.dev.system import Shape, System, running_system
from backstop.runtime.kafka.topic_reader import open_reader
from backstop.runtime.process.clock import make_clock
from streams.faust.app import EXIT_FAILED
from tests.kafka.faust.scene import Scene, Worker, run
from tests.support.cluster import NODE_IDS, Cluster
from tests.support.waiting import eventually, wait_until

pytestmark = pytest.mark.timeout(150)

PARTITIONS = 3
JOB_TIMEOUT_MS = 60_000
PAST_DEADLINE_S = 20.0
VERIFY_SETTLE_S = 20.0
RATE_PER_S = 8.0
ON_EACH_LEADER = 10
"""Jobs acknowledged while a node is away: what was under way when it went, and more."""


@pytest.fixture(scope="module")
def cluster(local_kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(local_kafka, tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def replicated(cluster: Cluster, prefix: str, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """All nodes up, and the settings of a production system in the environment."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", cluster.bootstrap)
    monkeypatch.setenv("BACKSTOP_TOPIC_PREFIX", prefix)
    monkeypatch.setenv("BACKSTOP_REPLICATION_FACTOR", "3")
    monkeypatch.setenv("BACKSTOP_MIN_INSYNC_REPLICAS", "2")
    cluster.start()
    return cluster


@asynccontextmanager
async def system_on(cluster: Cluster, folder: Path) -> AsyncIterator[tuple[System, Driver]]:
    shape = Shape(
        folder=folder, environment={**BRISK, **os.environ}, partitions=PARTITIONS, port=0, time_scale=TIME_SCALE * 4
    )
    async with running_system(shape, lambda _text: None, lambda _kill: None) as system:
        described = await cluster.describe(system.runtime.topic_prefix)
        assert {len(partition.replicas) for partition in described.values()} == {3}
        driver = Driver(system.runtime, system.url, make_clock())
        await driver.start()
        try:
            yield system, driver
        finally:
            await driver.stop()


async def nothing_is_wrong(system: System, driver: Driver) -> Report:
    """I1, I2, I3, I6 by the four witnesses; I4 and I6 by a refold of the logs."""
    assert await driver.until_finished(JOB_TIMEOUT_MS / 1000 + PAST_DEADLINE_S), f"{driver.open()} jobs have no result"
    verdict = judge(await collect(driver, system))
    assert verdict.violations == ()
    model = await read_model(f"sqlite:///{system.database}")
    async with open_reader(system.runtime) as reader:
        report = await verify(reader, prefix=system.runtime.topic_prefix, settle_s=VERIFY_SETTLE_S, read_model=model)
    assert report.counts == {}, [str(difference) for difference in report.differences]
    return report


@pytest.mark.long
def test_a_leader_that_is_killed_and_another_after_it_cost_no_job_and_repeat_none(
    replicated: Cluster, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with system_on(replicated, tmp_path) as (system, driver):
            prefix = system.runtime.topic_prefix
            jobs_log = (f"{prefix}jobs", 0)
            healed = asyncio.Event()
            submitting = asyncio.create_task(submit_until(healed, driver))
            killed: list[int] = []
            for _ in range(2):
                await acknowledged(driver, ON_EACH_LEADER)
                leader = (await replicated.describe(prefix))[jobs_log].leader
                replicated.kill(leader)
                killed.append(leader)
                await acknowledged(driver, ON_EACH_LEADER)
                assert (await replicated.describe(prefix))[jobs_log].leader != leader
                await asyncio.to_thread(replicated.start, leader)
                await until_in_sync(replicated, prefix)
            assert len(set(killed)) == 2
            healed.set()
            await submitting
            report = await nothing_is_wrong(system, driver)
            assert report.outputs["results"] == {"matched": len(driver.acknowledged), "repeats": 0}

    asyncio.run(scenario())


async def submit_until(healed: asyncio.Event, driver: Driver) -> None:
    """Half over Kafka, half over HTTP."""
    for number in itertools.count():
        await driver.submit(f"moved-{number}", ON_EACH_LEADER, RATE_PER_S, JOB_TIMEOUT_MS, 2)
        if healed.is_set():
            return


async def until_in_sync(cluster: Cluster, prefix: str) -> None:
    async def in_sync() -> bool:
        return await cluster.all_in_sync(prefix)

    await eventually(in_sync, 30, "all replicas in sync")


async def acknowledged(driver: Driver, more: int) -> None:
    wanted = len(driver.acknowledged) + more
    await eventually(lambda: len(driver.acknowledged) >= wanted, 40, f"{more} more acknowledgements")


@pytest.mark.long
def test_with_too_few_replicas_in_sync_the_ingress_promises_nothing_and_keeps_what_it_promised(
    replicated: Cluster, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with system_on(replicated, tmp_path) as (system, driver):
            await driver.submit("before", 20, 40.0, JOB_TIMEOUT_MS, 2)
            prefix = system.runtime.topic_prefix
            leader = (await replicated.describe(prefix))[f"{prefix}jobs", 0].leader
            replicated.kill(*(node_id for node_id in NODE_IDS if node_id != leader))
            refused = await asyncio.gather(*(answer_to(system.url, "refused", number) for number in range(1, 7)))
            assert set(refused) == {503}
            await asyncio.to_thread(replicated.start)
            # Refused, and it may have landed all the same: sent again, as a client would, each ends once.
            await driver.submit("refused", 6, 40.0, JOB_TIMEOUT_MS, 2)
            await driver.submit("after", 20, 40.0, JOB_TIMEOUT_MS, 2)
            await nothing_is_wrong(system, driver)

    asyncio.run(scenario())


async def answer_to(url: str, name: str, number: int) -> int:
    """The status that one job of a driver's gets."""
    body = sample(name, number, JOB_TIMEOUT_MS, 2).model_dump(mode="json", exclude_none=True)
    async with aiohttp.ClientSession(url) as session, session.post("/v1/jobs", json=body) as answer:
        return answer.status


LOSSY = {"unclean.leader.election.enable": "true", "min.insync.replicas": "1"}
SAFE = {"min.insync.replicas": "2"}
KEPT, TAIL, AFTER = 300, 60, 20
LEADER, STALE = 1, 2
"""Nodes that have the lossy topic: one with all of it, and one that was away when its end was written."""


@pytest.fixture
def scene(replicated: Cluster, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(replicated.bootstrap, prefix, tmp_path, partitions=1)
    yield scene
    scene.end()


def until_committed(scene: Scene, end: int) -> None:
    wait_until(lambda: scene.committed() == {0: end}, 30, f"the commit of {end}", poll_s=0.2)


def lose_the_tail(cluster: Cluster, scene: Scene, lossy: str, safe: str) -> Worker:
    """A worker takes all of `scene`'s log. Then the last `TAIL` records of `lossy`, acknowledged by the last replica in
    sync, are lost.
    """
    state = (lossy, 0)
    run(cluster.create(lossy, [LEADER, STALE], LOSSY))
    run(cluster.create(safe, [3, LEADER, STALE], SAFE))
    run(scene.produce(KEPT))
    worker = scene.worker().start()
    until_committed(scene, KEPT)
    cluster.kill(STALE)
    wait_until(lambda: run(cluster.describe(lossy))[state].in_sync == {LEADER}, 20, "a leader alone", poll_s=0.2)
    run(scene.produce(TAIL))
    until_committed(scene, KEPT + TAIL)
    whole = run(scene.ends(lossy))[0]
    cluster.kill(LEADER)
    cluster.start(STALE)
    wait_until(lambda: run(cluster.describe(lossy))[state].leader == STALE, 30, "the unclean election", poll_s=0.2)
    assert run(scene.ends(lossy))[0] == whole - TAIL
    return worker


@pytest.mark.long
def test_a_worker_whose_log_lost_its_end_stops_until_the_table_is_made_anew(replicated: Cluster, scene: Scene) -> None:
    worker = lose_the_tail(replicated, scene, lossy=scene.topic, safe=scene.changelog)
    assert worker.wait() == EXIT_FAILED
    run(scene.produce(TAIL + AFTER))  # The log is longer now than it was: the offsets alone would tell nothing.
    assert worker.start().wait() == EXIT_FAILED
    assert (
        worker.stderr().count(f"LogTruncatedError: {scene.topic} 0 no longer has the record at {KEPT + TAIL - 1}") == 2
    )
    assert scene.committed() == {0: KEPT + TAIL}
    replicated.start()
    run(replicated.delete(scene.changelog))
    shutil.rmtree(worker.folder / "v1")
    wait_until(lambda: run(replicated.rewind(scene.app_id, scene.topic)), 20, "the rewound group", poll_s=0.2)
    worker.start()
    until_committed(scene, KEPT + TAIL + AFTER)
    assert worker.terminate() == 0
    scene.check(worker)


@pytest.mark.long
def test_a_worker_whose_changelog_lost_its_end_stops_and_takes_the_records_of_the_lost_rows_again(
    replicated: Cluster, scene: Scene
) -> None:
    worker = lose_the_tail(replicated, scene, lossy=scene.changelog, safe=scene.topic)
    run(scene.produce(AFTER))
    assert worker.wait() == EXIT_FAILED
    worker.start()
    until_committed(scene, KEPT + TAIL + AFTER)
    assert worker.terminate() == 0
    assert "beyond the changelog's last" in worker.damages()[0]
    scene.check(worker)
