"""A partition takes each record once, in the order of its log, from a fetch or from memory."""

from dataclasses import replace

import pytest

from backstop.runtime.records import Record
from schemas.unreadable import Unreadable
from streams.faust.pending import RECORDS_MAX
from streams.faust.source_lane import SourceLane
from streams.tables.lost_tail import LogTruncatedError

BEGIN = 10


def record(offset: int, value: bytes = b"v") -> Record:
    return Record("jobs", 0, offset, 0, b"k", value)


def lane() -> SourceLane:
    return SourceLane("jobs", 0, 1, BEGIN, None)


def offsets(of: SourceLane) -> list[int]:
    return [each.offset for each in of.pending.next_batch(100)]


def test_a_record_that_was_handed_over_is_not_taken_again_from_the_fetch() -> None:
    one = lane()
    assert one.hand_over(record(10))
    assert offsets(one) == [10]
    assert one.hand_over(record(11))
    one.take([record(10)], 11)
    one.take([record(11), record(12)], 13)
    assert (offsets(one), one.fetched, one.expected) == ([11, 12], 13, 13)


def test_while_a_batch_is_out_or_waits_a_record_comes_by_a_fetch() -> None:
    one = lane()
    assert one.hand_over(record(10))
    assert not one.hand_over(record(11))
    one.out = one.pending.next_batch(1)
    assert not one.hand_over(record(11))
    one.take([record(10), record(11)], 12)
    assert offsets(one) == [11]


@pytest.mark.parametrize("offset", [9, 11])
def test_a_record_is_handed_over_only_if_it_is_the_next(offset: int) -> None:
    one = lane()
    assert not one.hand_over(record(offset))
    one.take([record(10), record(11)], 12)
    assert (offsets(one), one.hand_over(record(12)), one.expected) == ([10, 11], True, 13)


def test_after_a_record_of_another_process_the_fetch_decides() -> None:
    one = lane()
    assert one.hand_over(record(10))
    assert not one.hand_over(record(12))
    one.take([record(10), record(11, b"another's"), record(12)], 13)
    assert offsets(one) == [10, 11, 12]


@pytest.mark.parametrize("fetched", [(record(10, b"other"),), (replace(record(10), key=b"other"),), (), (record(11),)])
def test_a_log_that_has_not_the_record_that_was_handed_over_is_truncated(fetched: tuple[Record, ...]) -> None:
    one = lane()
    one.hand_over(record(10))
    with pytest.raises(LogTruncatedError, match="jobs 0 no longer has the record at 10"):
        one.take(fetched, 12)


def test_a_record_that_was_handed_over_and_is_damaged_since_is_not_a_truncation() -> None:
    one = lane()
    one.hand_over(record(10))
    one.take([replace(record(10), value=Unreadable.of("unreadable", "a wrong checksum"))], 11)
    assert offsets(one) == [10]


def test_markers_alone_are_done_only_when_nothing_before_them_is_out() -> None:
    one = lane()
    one.take([], 12)
    assert (one.done, one.handled) == (12, 12)
    one.hand_over(record(12))
    one.out = one.pending.next_batch(1)
    one.take([record(12)], 14)
    assert one.handled == 12


def test_no_more_is_handed_over_than_waits_for_its_fetch_in_memory() -> None:
    one = lane()
    taken = 0
    while one.hand_over(record(BEGIN + taken)):
        one.pending.next_batch(1)
        taken += 1
    assert taken == RECORDS_MAX


def test_what_retention_removed_is_not_awaited() -> None:
    one = lane()
    one.hand_over(record(10))
    one.begin_again(2, 20)
    one.take([record(20)], 21)
    assert (offsets(one), one.epoch) == ([10, 20], 2)
