"""Where a table continues in its log, and how a log or a changelog that lost records is noticed."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiokafka import TopicPartition

from streams.tables.changelog import Changelog, ChangelogProducer, ChangelogTruncatedError
from streams.tables.lost_tail import TableProgress

LOG = (10, 100)
"""Beginning and end."""


@pytest.mark.parametrize(
    ("taken", "committed", "position"),
    [
        (TableProgress(59, b"k", lost=False), 80, 80),  # records after the newest row changed nothing
        (TableProgress(59, b"k", lost=False), None, 10),
        (TableProgress(59, b"k", lost=False), 120, 60),  # never the beginning: forgotten keys would begin again
        (TableProgress(59, b"k", lost=False), 5, 60),
        (TableProgress(3, b"k", lost=False), 5, 10),
        (TableProgress(59, b"k", lost=True), 80, 60),  # the rows of [60, 80) are lost: their records are read again
        (TableProgress(-1, b"", lost=True), 80, 10),
    ],
)
def test_a_table_reads_on_where_it_committed_or_behind_its_newest_row(
    taken: TableProgress, committed: int | None, position: int
) -> None:
    assert taken.position(committed, *LOG) == position


def test_rows_that_land_before_where_the_changelog_ended_are_no_acknowledgement() -> None:
    changelog = Changelog(lambda: "changelog", ChangelogProducer({}, "test"))
    changelog.own({0: 157})
    assert changelog._landed(0, 157, 3, changelog.term) == 159
    with pytest.raises(ChangelogTruncatedError, match="was truncated: a new record got offset 97"):
        changelog._landed(0, 97, 20, changelog.term)


def test_reading_the_end_during_a_write_does_not_report_a_truncation(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ends:
        async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
            return dict.fromkeys(partitions, 160)

    @asynccontextmanager
    async def reader():
        yield Ends()

    changelog = Changelog(lambda: "changelog", ChangelogProducer({}, "test"))
    changelog.own({0: 157})
    monkeypatch.setattr(changelog, "_reader", reader)
    asyncio.run(changelog.notice({0}))  # our three rows are written and not acknowledged yet
    assert changelog._landed(0, 157, 3, changelog.term) == 159


@pytest.mark.parametrize(
    ("recovered_to", "next_offset", "foreign"),
    [
        (157, 160, [(157, 160)]),  # the recovery ended before the batch
        (158, 160, [(158, 160)]),
        (160, 160, []),  # the recovery has read it
        (170, 170, []),
    ],
)
def test_rows_sent_before_the_partition_was_assigned_anew_are_foreign(
    recovered_to: int, next_offset: int, foreign: list[tuple[int, int]]
) -> None:
    changelog = Changelog(lambda: "changelog", ChangelogProducer({}, "test"))
    changelog.own({0: 157})
    term = changelog.term
    changelog.own({0: recovered_to})
    assert changelog._landed(0, 157, 3, term) is None
    assert changelog._foreign.get(0, []) == foreign
    assert changelog._landed(0, next_offset, 1, changelog.term) == next_offset
    assert changelog._foreign.get(0, []) == foreign
