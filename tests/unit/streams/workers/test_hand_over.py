"""Commands that are handed over in memory: each once, in the order of the log, and none that the log does not hold."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backstop.runtime.records import Record
from streams.workers.hand_over import QUIET_MS, WAITING_MAX, HandOver


def record(offset: int, partition: int = 0) -> Record:
    return Record("polls", partition, offset, 0, b"k", str(offset).encode())


def at(offset: int | None) -> HandOver:
    """One assignment of partition 0, in which `offset` has landed."""
    hand_over = HandOver()
    hand_over.begin([0])
    if offset is not None:
        hand_over.landed(record(offset))
    return hand_over


def offsets(hand_over: HandOver, position: int | None, room: int = 100, now_ms: float = 0.0) -> list[int]:
    return [each.offset for each in hand_over.take(lambda _: position, room, now_ms).get(0, [])]


def test_the_record_that_comes_next_is_handed_over() -> None:
    assert offsets(at(5), 5) == [5]


def test_a_record_behind_one_of_another_process_is_left_to_the_fetch() -> None:
    hand_over = at(5)
    assert offsets(hand_over, 4) == []
    assert offsets(hand_over, 5) == []


def test_a_record_that_was_fetched_is_not_handed_over_again() -> None:
    assert offsets(at(5), 6) == []


def test_a_record_waits_for_a_reader_that_does_not_know_its_place_yet() -> None:
    hand_over = at(5)
    assert offsets(hand_over, None) == []
    assert offsets(hand_over, 5) == [5]


def test_records_of_an_earlier_assignment_and_of_other_partitions_are_forgotten() -> None:
    hand_over = at(5)
    hand_over.begin([0])
    assert not hand_over.landed(record(5, partition=1))
    assert offsets(hand_over, 5) == []


def test_no_more_is_taken_than_there_is_room_for() -> None:
    hand_over = at(5)
    for offset in (6, 7):
        assert hand_over.landed(record(offset))
    assert offsets(hand_over, 5, room=0) == []
    assert offsets(hand_over, 5, room=2) == [5, 6]
    assert offsets(hand_over, 7, room=2) == [7]


def test_partitions_take_turns_where_there_is_no_room_for_all() -> None:
    hand_over = HandOver()
    hand_over.begin([0, 1, 2])
    for partition in range(3):
        for offset in range(2):
            hand_over.landed(record(offset, partition))
    positions = [0, 0, 0]
    order: list[int] = []
    for _ in range(6):
        for partition in hand_over.take(positions.__getitem__, 1, 0.0):
            positions[partition] += 1
            order.append(partition)
    assert order == [0, 1, 2, 0, 1, 2]


def test_a_reader_that_stands_still_costs_bounded_memory_and_loses_nothing() -> None:
    hand_over = at(0)
    waits = [hand_over.landed(record(offset)) for offset in range(1, WAITING_MAX + 2)]
    assert waits.count(True) == WAITING_MAX
    assert offsets(hand_over, 0) == []  # The fetch brings them all.


def test_a_partition_is_quiet_for_some_time_after_its_last_record_and_not_after_a_gap() -> None:
    hand_over = at(5)
    assert hand_over.quiet(0.0) == {}
    offsets(hand_over, 5, now_ms=100.0)
    assert hand_over.quiet(200.0) == {0: QUIET_MS - 100.0}
    assert hand_over.quiet(100.0 + QUIET_MS) == {}
    hand_over.landed(record(7))
    assert offsets(hand_over, 6, now_ms=300.0) == []
    assert hand_over.quiet(300.0) == {}


class OneReader(RuleBasedStateMachine):
    """A log with two writers, and a reader that fetches and is handed over what the first of them has written."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.untold: list[int] = []
        """Written by this process, in order; the acknowledgement is on its way."""
        self.hand_over = HandOver()
        self.position: int = 0
        self.committed = 0
        self.taken: list[int] = []
        self.assign()

    @rule()
    def assign(self) -> None:
        self.hand_over.begin([0])
        self.position = self.committed
        self.taken = list(range(self.committed))

    @rule(count=st.integers(1, 3))
    def written_here(self, count: int) -> None:
        for _ in range(count):
            self.untold.append(len(self.log))
            self.log.append("here")

    @rule()
    def written_elsewhere(self) -> None:
        self.log.append("elsewhere")

    @precondition(lambda self: self.untold)
    @rule(index=st.integers(0, 3), again=st.booleans())
    def acknowledged(self, index: int, again: bool) -> None:
        """Mostly in order, once; now and then out of order, or twice."""
        offset = self.untold[min(index, len(self.untold) - 1) if index > 1 else 0]
        if not again:
            self.untold.remove(offset)
        self.hand_over.landed(record(offset))

    @precondition(lambda self: self.untold)
    @rule()
    def acknowledgement_lost(self) -> None:
        self.untold.pop(0)

    @rule(room=st.integers(0, 3))
    def handed(self, room: int) -> None:
        for each in self.hand_over.take(lambda _: self.position, room, 0.0).get(0, []):
            self.taken.append(each.offset)
            self.position = each.offset + 1

    @rule(room=st.integers(1, 3))
    def fetched(self, room: int) -> None:
        upto = min(len(self.log), self.position + room)
        self.taken += range(self.position, upto)
        self.position = upto

    @rule()
    def commits(self) -> None:
        self.committed = self.position

    @invariant()
    def each_record_is_taken_once_and_in_the_order_of_the_log(self) -> None:
        assert self.taken == list(range(self.position))
        assert self.position <= len(self.log)


TestOneReader = OneReader.TestCase


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6)), max_size=30), st.integers(0, 6))
def test_partitions_do_not_touch_each_other(landed: list[tuple[int, int]], room: int) -> None:
    hand_over = HandOver()
    hand_over.begin([0, 1, 2])
    for partition, offset in landed:
        hand_over.landed(record(offset, partition))
    found = hand_over.take(lambda partition: partition, room, 0.0)
    assert sum(map(len, found.values())) <= room
    for partition, records in found.items():
        assert [each.offset for each in records] == list(range(partition, partition + len(records)))
        assert set(Counter(each.partition for each in records)) == {partition}
