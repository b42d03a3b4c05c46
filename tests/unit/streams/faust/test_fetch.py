"""Which partitions the fetcher lets aiokafka walk through and fetch."""

import asyncio
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.protocol.fetch import FetchResponse_v4
from faust.types import TP

from streams.faust.fetch import SourceFetcher
from tests.hostile.batches import Batch, record

LOG, CHANGELOG = TopicPartition("jobs", 0), TopicPartition("jobs-changelog", 0)


class Consumer:
    """A consumer with its fetcher: what it pauses, what a walk sees, and how often it was woken."""

    def __init__(self) -> None:
        self.states = {tp: SimpleNamespace(paused=False, has_valid_position=True) for tp in (LOG, CHANGELOG)}
        self.woken = 0
        self._fetcher: Any = self
        self._wait_consume_future = None
        self._subscriptions = SimpleNamespace(subscription=SimpleNamespace(assignment=self.assigned()))

    def assigned(self) -> Any:
        return SimpleNamespace(tps=set(self.states), state_value=self.states.__getitem__)

    def _notify(self, _future: None) -> None:
        self.woken += 1

    def _get_actions_per_node(self, assignment: Any) -> set[TopicPartition]:
        return {tp for tp in assignment.tps if assignment.state_value(tp)}

    def assignment(self) -> set[TopicPartition]:
        return set(self.states)

    def paused(self) -> set[TopicPartition]:
        return {tp for tp, state in self.states.items() if state.paused}

    def pause(self, tp: TopicPartition) -> None:
        self.states[tp].paused = True

    def resume(self, tp: TopicPartition) -> None:
        self.states[tp].paused = False

    def walked(self) -> set[TopicPartition]:
        found: set[TopicPartition] = self._fetcher._get_actions_per_node(self._subscriptions.subscription.assignment)
        return found


def thread_wanting(*wanted: TopicPartition) -> SourceFetcher:
    thread = SourceFetcher.__new__(SourceFetcher)
    thread.wanted = frozenset(TP(*tp) for tp in wanted)
    return thread


def test_a_partition_that_is_not_wanted_is_paused_and_not_walked_through() -> None:
    thread, consumer = thread_wanting(LOG), Consumer()
    thread._pause_unwanted(consumer)
    assert consumer.paused() == {CHANGELOG}
    assert consumer.walked() == {LOG}


def test_a_partition_that_is_wanted_again_is_walked_through_at_once() -> None:
    thread, consumer = thread_wanting(LOG), Consumer()
    thread._pause_unwanted(consumer)
    woken = consumer.woken
    thread.wanted = frozenset({TP(*LOG), TP(*CHANGELOG)})
    thread._pause_unwanted(consumer)
    assert consumer.woken == woken + 1
    assert consumer.walked() == {LOG, CHANGELOG}


def test_a_paused_partition_whose_position_is_unknown_stays_in_sight() -> None:
    thread, consumer = thread_wanting(LOG), Consumer()
    thread._pause_unwanted(consumer)
    consumer.states[CHANGELOG].has_valid_position = False
    assert consumer.walked() == {LOG, CHANGELOG}


def test_nothing_is_done_as_long_as_nothing_changes_and_a_new_assignment_is_a_change() -> None:
    thread, consumer = thread_wanting(LOG), Consumer()
    thread._pause_unwanted(consumer)
    thread._pause_unwanted(consumer)
    assert consumer.woken == 1
    consumer.resume(CHANGELOG)  # A new assignment has new states, of which none is paused.
    consumer._subscriptions.subscription.assignment = consumer.assigned()
    thread._pause_unwanted(consumer)
    assert consumer.paused() == {CHANGELOG}


class Leader:
    """Client, cluster and broker in one: the part of each that aiokafka's fetcher calls. Each fetch has one record."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._metadata_max_age_ms = 60_000
        self.cluster = self
        self.fetched: list[set[TopicPartition]] = []

    def leader_for_partition(self, _tp: object) -> int:
        return 1

    async def send(self, _node: int, request: Any) -> Any:
        asked = [(topic, number, at) for topic, numbers in request.topics for number, at, _ in numbers]
        self.fetched.append({TopicPartition(topic, number) for topic, number, _ in asked})
        await asyncio.sleep(0.001)
        return FetchResponse_v4(0, [
            (topic, [(number, 0, at + 1, at + 1, [], Batch((record(b"v"),), base=at).bytes())])
            for topic, number, at in asked
        ])  # fmt: skip


def test_aiokafkas_fetcher_fetches_what_is_wanted_and_at_once_what_is_wanted_again() -> None:
    async def case() -> None:
        subscriptions, leader = SubscriptionState(), Leader()
        subscriptions.assign_from_user({LOG, CHANGELOG})
        for tp in (LOG, CHANGELOG):
            subscriptions.subscription.assignment.state_value(tp).seek(0)
        fetcher = Fetcher(leader, subscriptions)
        consumer = SimpleNamespace(
            _fetcher=fetcher, assignment=subscriptions.assigned_partitions, paused=subscriptions.paused_partitions,
            pause=subscriptions.pause, resume=subscriptions.resume,
        )  # fmt: skip
        thread = thread_wanting(LOG)
        thread.seek_epoch = 0
        try:
            thread._pause_unwanted(consumer)
            seen: dict[TP, int] = {}

            async def read(*wanted: TopicPartition) -> None:
                """Until each wanted partition has come ten times."""
                thread.wanted = frozenset(TP(*tp) for tp in wanted)
                seen.clear()
                async with asyncio.timeout(10):
                    while any(seen.get(TP(*tp), 0) < 10 for tp in wanted):
                        thread._pause_unwanted(consumer)
                        for tp, chunk in thread._take(fetcher).items():
                            seen[tp] = seen.get(tp, 0) + len(chunk.records)
                        await asyncio.sleep(0)

            await read(LOG)
            assert {tp for fetch in leader.fetched[1:] for tp in fetch} == {LOG}
            await read(LOG, CHANGELOG)
            await read(CHANGELOG)
            assert leader.fetched[-1] == {CHANGELOG}
            await read(LOG)
        finally:
            await fetcher.close()

    asyncio.run(case())
