"""What a move to other topics does with rows and places, and what it refuses."""

import pytest

from backstop.audit.moving import (
    LEFT,
    READ_BY,
    SLICES,
    BeforeMove,
    MovedRows,
    between,
    moved_topics,
    reader_of,
    refuse,
    slice_ends_ms,
)
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.kafka.holdings import GROUPS
from backstop.runtime.records import Record
from schemas.topics import TOPICS
from streams.fold.rows import encode_row


def record(topic: str, partition: int, offset: int, key: bytes, value: bytes | None = b"fact") -> Record:
    return Record(topic, partition, offset, 1_000 + offset, key, value)


def row(offset: int, key: bytes, partition: int = 0, state: bytes = b"{}") -> Record:
    return record("worker-jobs-changelog", partition, 0, key, encode_row(state, offset))


def test_a_row_has_the_offset_at_which_its_last_record_landed() -> None:
    rows = MovedRows("jobs")
    for each in (row(3, b"a"), row(7, b"b", partition=1), row(4, b"a", state=b'{"newer":1}'), row(9, b"gone")):
        rows.take(each)
    rows.take(record("worker-jobs-changelog", 0, 1, b"gone", None))
    rows.take(row(3, b"a", state=b'{"of a former owner":1}'))
    # `a` has a later record that changed nothing, and a record of another partition has the same offset as `b`'s.
    landings = ((0, 3, b"a"), (0, 4, b"a"), (0, 7, b"a"), (1, 7, b"b"))
    for offset, (partition, old_offset, key) in enumerate(landings, start=20):
        rows.landed(record("jobs", partition, old_offset, key), offset)
    assert dict(rows.rows()) == {b"a": b'21 {"newer":1}', b"b": b"23 {}"}


def test_a_row_whose_record_is_not_in_the_log_is_named() -> None:
    rows = MovedRows("jobs")
    rows.take(row(3, b"job-1"))
    rows.landed(record("jobs", 0, 2, b"job-1"), 0)
    with pytest.raises(ConfigurationError, match=r"1 rows of the table of jobs .*\(job-1\)"):
        rows.rows()


def test_slices_are_in_order_and_not_too_many() -> None:
    day_ms = 86_400_000
    ends = list(slice_ends_ms(0, 90 * day_ms))
    assert ends == sorted(set(ends))
    assert SLICES - 2 <= len(ends) <= SLICES
    assert list(slice_ends_ms(0, 59_000)) == []
    assert list(slice_ends_ms(5, 5)) == []


def test_a_place_outside_of_what_is_copied_is_its_nearest_end() -> None:
    p = [("jobs", number) for number in range(4)]
    low, high = dict.fromkeys(p, 10), dict.fromkeys(p, 20)
    assert between({p[0]: 5, p[1]: 15, p[2]: 25}, low, high) == {p[0]: 10, p[1]: 15, p[2]: 20, p[3]: 10}


def test_each_topic_is_moved_or_left_on_purpose_and_each_group_keeps_its_place() -> None:
    moved = moved_topics(["acme"])
    assert {*moved, *LEFT} == {*(topic.name for topic in TOPICS), "requests.acme"}
    assert reader_of("requests.acme") == "worker"
    for group, topics in GROUPS.items():
        for topic in topics:
            assert group == "readmodel" or READ_BY[topic] == group, "its places are in its own database"


def test_all_reasons_against_a_move_are_said_at_once() -> None:
    refuse(BeforeMove({"old.worker": []}, [], []))
    with pytest.raises(ConfigurationError) as refused:
        refuse(BeforeMove({"old.worker": ["worker/1/a"], "old.poller": []}, ["new.jobs"], ["old.requests"]))
    told = str(refused.value).splitlines()
    assert [line.split(" ", 2)[:2] for line in told] == [
        ["group", "old.worker"], ["the", "new"], ["old.requests", "has"],
    ]  # fmt: skip
    assert "worker/1/a" in told[0]
