"""Which partitions the consumer's thread lets aiokafka walk through and fetch."""

from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from faust.types import TP

from streams.faust.fetch import FetchThread

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


def thread_wanting(*wanted: TopicPartition) -> FetchThread:
    thread = FetchThread.__new__(FetchThread)
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
