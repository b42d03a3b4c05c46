"""The queue of records of one partition is bounded in records and in bytes."""

from backstop.runtime.records import HEADER_BYTES, Record
from streams.faust.pending import BATCH_BYTES_MAX, BYTES_MAX, RECORDS_MAX, PendingRecords


def records(count: int, value: bytes, headers: int = 0) -> list[Record]:
    return [Record("requests", 0, n, 0, b"k", value, (("h", None),) * headers) for n in range(count)]


def test_many_records_fill_it_and_few_large_ones_too() -> None:
    large, many_headers = b"x" * (BYTES_MAX // 2), BYTES_MAX // HEADER_BYTES // 50 + 1
    for given in (records(RECORDS_MAX, b""), records(2, large), records(50, b"", many_headers)):
        pending = PendingRecords()
        pending.add(given[:-1])
        assert not pending.full
        pending.add(given[-1:])
        assert pending.full


def test_a_batch_has_a_bounded_number_of_records_and_of_bytes_and_at_least_one() -> None:
    pending = PendingRecords()
    pending.add(records(7, b"x" * (BATCH_BYTES_MAX // 2)))
    assert [len(pending.next_batch(500)) for _ in range(3)] == [2, 2, 2]
    assert pending.first_offset == 6
    pending.add(records(3, b""))
    assert not pending.full
    assert [len(pending.next_batch(2)) for _ in range(3)] == [2, 2, 0]
    assert not pending
