"""The pace of fetches: when one may start, and how long the broker may hold it."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from aiokafka import TopicPartition
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v11

from backstop.runtime.kafka import fetch_wait
from backstop.runtime.kafka.fetch_wait import (
    BUSY_WAIT_MS,
    HOLD_MS,
    IDLE_AFTER_S,
    IDLE_WAIT_MS,
    FetchWait,
    GatheringPace,
    unpaused,
)

HERE, THERE = 1, 2
ALL = [TopicPartition("jobs", 0), TopicPartition("jobs", 1), TopicPartition("results", 0)]


class Seen(NamedTuple):
    fetches: list[Any]
    timeout_s: float


class Fetcher:
    """The parts of aiokafka's fetcher that a pace touches; its requests are real ones."""

    _fetch_max_wait_ms = 500
    _fetcher_timeout = 0.2

    def __init__(self, ready: list[TopicPartition], there: tuple[TopicPartition, ...] = ()) -> None:
        self.ready = ready
        self._there = there

    def _select_read_replica(self, partition: TopicPartition) -> int:
        return THERE if partition in self._there else HERE

    def _get_actions_per_node(self, _assignment: Any) -> Any:
        by_node: dict[int, list[Any]] = {}
        for partition in self.ready:
            by_node.setdefault(self._select_read_replica(partition), []).append(
                (partition.topic, [(partition.partition, 0, 1_000)])
            )
        fetches = [
            (node, FetchRequest(self._fetch_max_wait_ms, 1, 1_000, 1, topics)) for node, topics in by_node.items()
        ]
        return fetches, {}, self._fetcher_timeout, False, []


def paced(pace: FetchWait, fetcher: Fetcher) -> Any:
    """A function that asks the fetcher what to fetch, as aiokafka does."""
    pace.saw(SimpleNamespace(_fetcher=fetcher), records=True)

    def ask() -> Seen:
        fetches, _, timeout_s, *_ = fetcher._get_actions_per_node(SimpleNamespace(tps=ALL))
        return Seen(fetches, timeout_s)

    return ask


def held_ms(fetches: list[Any]) -> dict[int, int]:
    """For how long the broker may hold each fetch, as it is written into the request, by node."""
    return {node: request.build(FetchRequest_v11).max_wait_time for node, request in fetches}


@pytest.mark.parametrize("pace", [FetchWait(), GatheringPace(60_000)])
def test_a_fetch_starts_a_gap_after_the_one_before(pace: FetchWait) -> None:
    ask = paced(pace, Fetcher(ALL))
    first, second = ask(), ask()
    assert first.fetches
    assert not second.fetches
    assert 0 < second.timeout_s <= pace.gap_ms / 1_000


def test_a_busy_consumer_lets_the_broker_hold_a_fetch_for_a_moment_only() -> None:
    assert held_ms(paced(FetchWait(), Fetcher(ALL))().fetches) == {HERE: BUSY_WAIT_MS}


def test_a_gathering_reader_lets_the_broker_hold_a_fetch_of_all_partitions() -> None:
    assert held_ms(paced(GatheringPace(50, hold_ms=700), Fetcher(ALL))().fetches) == {HERE: 700}


def test_an_idle_reader_that_holds_fetches_shortly_holds_them_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1_000.0
    monkeypatch.setattr(fetch_wait, "monotonic_s", lambda: now_s)
    ask = paced(GatheringPace(0, HOLD_MS), Fetcher(ALL))
    assert held_ms(ask().fetches) == {HERE: HOLD_MS}
    now_s += IDLE_AFTER_S
    assert held_ms(ask().fetches) == {HERE: HOLD_MS}
    now_s += 0.001
    assert held_ms(ask().fetches) == {HERE: IDLE_WAIT_MS}


def test_a_fetch_without_one_of_its_partitions_ends_soon() -> None:
    """Else a record of that partition would wait until the end of the hold."""
    assert held_ms(paced(GatheringPace(50, hold_ms=700), Fetcher(ALL[:2]))().fetches) == {HERE: BUSY_WAIT_MS}


def test_each_broker_holds_the_fetch_of_its_own_partitions() -> None:
    fetcher = Fetcher(ALL[:2], there=(ALL[1], ALL[2]))
    assert held_ms(paced(GatheringPace(50, hold_ms=700), fetcher)().fetches) == {HERE: 700, THERE: BUSY_WAIT_MS}


def test_a_fetch_without_a_paused_partition_is_held_if_the_reader_says_so() -> None:
    states = {tp: SimpleNamespace(paused=tp is ALL[2]) for tp in ALL}
    fetcher = Fetcher(ALL[:2])
    pace = GatheringPace(50, 700, unpaused)
    pace.saw(SimpleNamespace(_fetcher=fetcher), records=True)
    fetches = fetcher._get_actions_per_node(SimpleNamespace(tps=ALL, state_value=states.__getitem__))[0]
    assert held_ms(fetches) == {HERE: 700}
