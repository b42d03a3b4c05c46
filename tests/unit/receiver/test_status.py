"""What `/v1/status` tells, from what the broker told."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from backstop.cli.status import status_text
from backstop.readmodel.project import evolve
from backstop.readmodel.rows import Position
from backstop.readmodel.waits import UNSEEN, Sight, idle_wait
from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.holdings import GroupSeen, Member, Snapshot
from backstop.runtime.process.identity import own_name
from receiver.reads.status import QUIET_SNAPSHOT_EVERY_S, SNAPSHOT_EVERY_S, STILL_MS_TOLD, SystemWatch, status, wrong
from schemas.lanes import ALL_MODELS, CreateFailed
from streams.policy.lanes import Lane, take
from tests.simulation.loop import VirtualLoop
from tests.unit.backstop.readmodel.logs import accepted, submitted

NOW_MS = 5_147_000
A, B = "worker/0.1.0/node-1/11", "worker/0.1.0/node-2/12"
PARTITIONS = (("jobs", 0), ("jobs", 1), ("responses", 0), ("responses", 1))


class Told:
    """A broker that tells what is put here."""

    def __init__(self) -> None:
        self.members = {A: PARTITIONS[::2], B: PARTITIONS[1::2]}
        self.committed = 5
        self.polls = 0
        self.answers = True
        self.at_ms = NOW_MS
        self.written = 5
        self.snapshots = 0
        self.missing: tuple[str, ...] = ()

    async def snapshot(self) -> Snapshot:
        self.snapshots += 1
        if not self.answers:
            raise BrokerUnavailableError("the broker at b:9092 did not answer")
        members = tuple(Member(name, "10.0.0.1", frozenset(held)) for name, held in self.members.items())
        worker = GroupSeen(
            "worker", "Stable" if members else "Empty", members, dict.fromkeys(PARTITIONS, self.committed)
        )
        poller = GroupSeen("poller", "Stable", (Member(A.replace("worker", "poller"), "10.0.0.1", frozenset()),),
                           {("polls", 0): self.polls})  # fmt: skip
        return Snapshot(
            self.at_ms, (worker, poller), dict.fromkeys(PARTITIONS, 5), 3, {}, {PARTITIONS[0]: self.written},
            self.missing,
        )  # fmt: skip

    async def close(self) -> None:
        """Nothing is open."""


def once(watch: SystemWatch) -> None:
    asyncio.run(watch.once())


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def watch(told: Told) -> SystemWatch:
    return SystemWatch(told, lambda: told.at_ms)


def test_processes_are_told_with_release_parts_and_partitions(told: Told, watch: SystemWatch) -> None:
    once(watch)
    view = status(watch, NOW_MS)
    assert view["wrong"] == []
    assert view["broker"] == {"answers": True, "brokers": 3}
    by_name = {each["name"]: each for each in view["processes"]}
    assert by_name["node-1:11"] == {
        "name": "node-1:11", "version": "0.1.0", "parts": ["poller", "worker"], "address": "10.0.0.1",
        "partitions": ["jobs/0", "responses/0"],
    }  # fmt: skip
    assert by_name[own_name("serve").place]["parts"] == ["serve"]


def test_a_process_that_is_in_no_group_is_told_as_well(watch: SystemWatch) -> None:
    """Such as one that delivers webhooks, or another `serve`."""
    once(watch)
    before = status(watch, NOW_MS)["processes"]
    given = [("process", b"outgoing/0.1.0/node-9/7"), ("life", b"4f0c1d2e3a5b/12")]
    watch.troubles.heard(given, NOW_MS)
    watch.troubles.heard([("process", A.encode()), ("life", b"4f0c1d2e3a5c/12")], NOW_MS)
    heard = {"name": "node-9:7", "version": "0.1.0", "parts": ["outgoing"], "partitions": []}
    after = status(watch, NOW_MS)["processes"]
    assert sorted(after, key=str) == sorted([*before, heard], key=str), "what the groups tell stays"


def test_a_partition_without_a_worker_is_named_and_so_it_is_on_its_jobs(told: Told, watch: SystemWatch) -> None:
    once(watch)
    del told.members[B]
    once(watch)
    assert wrong(watch, NOW_MS) == [
        "no worker holds partition 1 since 01:25:47 UTC (jobs, responses)",
    ]
    told.members = {}
    told.at_ms += 3_000
    once(watch)
    assert wrong(watch, NOW_MS) == [
        "no worker holds partition 0 since 01:25:50 UTC (jobs, responses)",
        "no worker holds partition 1 since 01:25:47 UTC (jobs, responses)",
    ]
    told.members = {A: PARTITIONS[::2]}
    once(watch)
    row = evolve(evolve(None, submitted(), Position("jobs", 1, 0)).row, accepted(), Position("jobs", 1, 1)).row
    assert row is not None
    assert watch.idle(row, UNSEEN) == idle_wait("jobs", 1, NOW_MS)
    other = evolve(None, submitted(), Position("jobs", 0, 0)).row
    assert other is not None
    assert watch.idle(other, UNSEEN) is None
    assert watch.idle(other, Sight(partition=1)) == idle_wait("responses", 1, NOW_MS)


def test_a_worker_that_stands_still_is_named(told: Told, watch: SystemWatch) -> None:
    once(watch)
    told.committed = 3
    told.at_ms += 3_000
    once(watch)
    assert wrong(watch, told.at_ms) == []
    told.at_ms += STILL_MS_TOLD
    once(watch)
    assert wrong(watch, told.at_ms)[0] == (
        "node-1:11 holds partition 0 of jobs, and has not moved since 01:25:50 UTC: 2 records wait"
    )


def test_why_of_a_job_names_what_of_the_system_holds_it_up(told: Told, watch: SystemWatch) -> None:
    once(watch)
    row = evolve(evolve(None, submitted(), Position("jobs", 1, 0)).row, accepted(), Position("jobs", 1, 1)).row
    assert row is not None
    assert watch.holds_up(row, UNSEEN) == []
    told.committed, told.members = 3, {A: PARTITIONS[::2]}
    told.at_ms += 3_000
    once(watch)
    told.at_ms += STILL_MS_TOLD
    once(watch)
    frozen = "node-1:11 holds partition 0 of responses, and has not moved since 01:25:50 UTC: 2 records wait"
    assert watch.holds_up(row, Sight(partition=0)) == ["no worker holds partition 1 since 01:25:50 UTC (jobs)", frozen]
    told.answers = False
    once(watch)
    assert watch.holds_up(row, UNSEEN) == ["the broker at b:9092 did not answer, since 01:26:20 UTC"]


def test_a_transaction_that_a_stranger_left_open_is_named(told: Told, watch: SystemWatch) -> None:
    told.written = 9
    once(watch)
    assert wrong(watch, told.at_ms) == [], "transactions of honest producers are open for moments"
    told.at_ms += STILL_MS_TOLD
    once(watch)
    (sentence,) = wrong(watch, told.at_ms)
    assert sentence.startswith(
        "a transaction that its producer left open at offset 5 of partition 0 of jobs blocks 4 records for the "
        "worker since 01:25:47 UTC"
    )
    told.written = 5
    once(watch)
    assert wrong(watch, told.at_ms) == []


def test_a_topic_that_does_not_exist_is_named(told: Told, watch: SystemWatch) -> None:
    told.missing = ("backstop.polls",)
    once(watch)
    assert wrong(watch, NOW_MS) == [
        "the topic backstop.polls does not exist, or serve may not see it: `backstop topics create` makes it"
    ]
    told.missing = ()
    once(watch)
    assert wrong(watch, NOW_MS) == []


def test_a_broker_that_does_not_answer_is_all_that_is_told(told: Told, watch: SystemWatch) -> None:
    once(watch)
    told.members = {}
    once(watch)
    told.answers = False
    once(watch)
    view = status(watch, NOW_MS)
    assert view["wrong"] == ["the broker at b:9092 did not answer, since 01:25:47 UTC"]
    assert view["broker"]["answers"] is False
    assert "does not answer" in status_text(view)  # type: ignore[arg-type]  # JSON


def test_polls_are_counted_over_the_last_minute(told: Told, watch: SystemWatch) -> None:
    for _ in range(4):
        once(watch)
        told.at_ms += int(SNAPSHOT_EVERY_S * 1000)
        told.polls += 30
    assert status(watch, told.at_ms)["polls_per_s"] == 10.0


def test_a_closed_lane_is_told_with_its_reason(watch: SystemWatch) -> None:
    once(watch)
    fact = CreateFailed(
        id="f", at_ms=NOW_MS, command_id="c", account="0" * 8, model="gpt-5", cause="account", code="invalid_api_key",
        message="No.",
    )  # fmt: skip
    watch.lanes = {("0" * 8, "gpt-5"): take(Lane(), fact, NOW_MS)}
    (lane,) = status(watch, NOW_MS)["lanes"]
    assert (lane["model"], lane["code"], lane["since_ms"]) == ("gpt-5", "invalid_api_key", NOW_MS)
    assert wrong(watch, NOW_MS) == ["creates of gpt-5 wait since 01:25:47 UTC: invalid_api_key No."]
    watch.lanes = {("0" * 8, ALL_MODELS): take(Lane(), fact, NOW_MS)}
    assert wrong(watch, NOW_MS) == ["creates of all models wait since 01:25:47 UTC: invalid_api_key No."]


def test_what_a_process_complains_of_is_wrong_and_other_findings_need_attention(watch: SystemWatch) -> None:
    once(watch)
    watch.troubles.heard([("process", A.encode()), ("trouble", b"2 MiB left on the disk of /data")], NOW_MS)
    assert wrong(watch, NOW_MS) == ["worker node-1:11: 2 MiB left on the disk of /data (since 01:25:47 UTC)"]
    view: dict[str, Any] = {**status(watch, NOW_MS)}
    view["findings"] = [
        {"code": "runs_slow", "count": 5, "of": 6, "because": "5 of 6", "job_ids": ["a", "b", "c", "d"]},
        {"code": "jobs_overdue", "count": 1},
    ]
    assert status_text(view).splitlines()[1:5] == [
        "  worker node-1:11: 2 MiB left on the disk of /data (since 01:25:47 UTC)",
        "Needs attention:", "  runs_slow, 5 of 6: 5 of 6 (a, b, c)", "  jobs_overdue, 1",
    ]  # fmt: skip


def test_the_command_shows_what_is_behind_and_what_is_wrong(told: Told, watch: SystemWatch) -> None:
    once(watch)
    lines = status_text(status(watch, NOW_MS)).splitlines()  # type: ignore[arg-type]  # JSON
    assert lines[:4] == [
        "Nothing holds jobs up.", "broker:      3 brokers, answers", "read model:  0 records behind",
        "polls:       0 per second",
    ]  # fmt: skip
    assert not any(line.startswith("TOPIC") for line in lines)
    del told.members[B]
    once(watch)
    text = status_text(status(watch, NOW_MS))  # type: ignore[arg-type]  # JSON
    assert "Something holds jobs up:\n  no worker holds partition 1 since 01:25:47 UTC (jobs, responses)\n" in text
    assert "jobs       1          worker   none since 01:25:47.000Z  0" in text


def test_lag_that_ages_and_partitions_without_a_worker_are_metrics(told: Told) -> None:
    registry = CollectorRegistry()
    watch = SystemWatch(told, lambda: told.at_ms, registry)

    def of(name: str, partition: str = "1") -> float | None:
        labels = {"group": "worker", "topic": "jobs", "partition": partition}
        return registry.get_sample_value(f"backstop_partition_{name}", labels)

    once(watch)
    told.committed = 3
    told.at_ms += 3_000
    once(watch)
    told.at_ms += 7_000
    del told.members[B]
    once(watch)
    assert (of("lag_records"), of("still_seconds"), of("unassigned"), of("unassigned", "0")) == (2, 7, 1, 0)
    assert registry.get_sample_value("backstop_broker_answers") == 1
    told.answers = False
    once(watch)
    assert registry.get_sample_value("backstop_broker_answers") == 0


QUIET_S = 600


def in_virtual_time(body: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: VirtualLoop("order 0")) as runner:
        runner.run(body)


def snapshots_within(
    watch: SystemWatch, told: Told, seconds: float, meanwhile: Callable[[], object] = lambda: None
) -> int:
    """How often the watch asks within a time, while `meanwhile` is called each second."""

    async def body() -> None:
        running = asyncio.create_task(watch.run())
        for second in range(int(seconds)):
            told.at_ms = NOW_MS + second * 1_000
            await asyncio.sleep(1)
            meanwhile()
        running.cancel()

    before = told.snapshots
    in_virtual_time(body())
    return told.snapshots - before


def test_the_brokers_are_asked_often_only_while_it_matters(told: Told, watch: SystemWatch) -> None:
    often, seldom = QUIET_S / SNAPSHOT_EVERY_S, QUIET_S / QUIET_SNAPSHOT_EVERY_S
    assert snapshots_within(watch, told, QUIET_S) == pytest.approx(seldom, abs=2)
    assert snapshots_within(watch, told, QUIET_S, lambda: status(watch, told.at_ms)) == pytest.approx(often, rel=0.35)
    told.members = {}
    assert snapshots_within(watch, told, QUIET_S) == pytest.approx(often, abs=6)
    told.answers = False
    assert snapshots_within(watch, told, QUIET_S) == pytest.approx(often, abs=6)


def test_status_waits_for_a_snapshot_where_the_last_one_is_old(told: Told, watch: SystemWatch) -> None:
    async def body() -> None:
        running = asyncio.create_task(watch.run())
        await asyncio.sleep(SNAPSHOT_EVERY_S + 1)
        told.members = {A: PARTITIONS[::2]}
        told.at_ms += 4_000
        await watch.fresh()
        assert wrong(watch, told.at_ms), "the partition without a worker is seen"
        running.cancel()

    in_virtual_time(body())
