"""Rows that are put are read at once and written together; a flush returns when they are written."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from faust.types import TP

from streams.faust.app import make_app
from streams.tables import fold_table
from streams.tables.changelog import Changelog, OvertakenError
from streams.tables.fold_table import FoldTable, PartitionNotOwnedError

Rows = Mapping[bytes, bytes | None]


class Acknowledged(Changelog):
    """Acknowledges what it is sent when it is told to."""

    def __init__(self) -> None:
        self.sent: list[dict[bytes, bytes | None]] = []
        self.acknowledged = asyncio.Event()
        self.acknowledged.set()

    async def send(self, partition: int, rows: Rows) -> int | None:
        self.sent.append(dict(rows))
        await self.acknowledged.wait()
        return partition + len(self.sent)

    def foreign(self, partition: int) -> bool:
        return partition < 0


def run(folder: Path, scene: Callable[[FoldTable, Acknowledged], Awaitable[None]]) -> None:
    async def main() -> None:
        table = FoldTable(make_app("app", "localhost:1", folder, now_s=lambda: 0.0), "jobs", 4, row_version=int)
        changelog = table._changelog = Acknowledged()
        await table._store.on_rebalance({TP(table.changelog_topic, 0)}, set(), set())
        table._active = {0}
        await scene(table, changelog)
        await table._store.on_stop()

    asyncio.run(main())


def written(table: FoldTable) -> dict[bytes, bytes]:
    return dict(table.items(0))


def test_the_last_row_of_each_key_is_written_once(tmp_path: Path) -> None:
    async def scene(table: FoldTable, changelog: Acknowledged) -> None:
        await table.put(0, {b"a": b"1"})
        await table.put(0, {b"a": b"2", b"b": b"3"})
        assert (table.get(0, b"a"), table.get(0, b"b"), written(table)) == (b"2", b"3", {})
        await table.flush()
        assert changelog.sent == [{b"a": b"2", b"b": b"3"}]
        assert written(table) == {b"a": b"2", b"b": b"3"}
        await table.put(0, {b"a": None})
        assert table.get(0, b"a") is None
        await table.flush()
        assert written(table) == {b"b": b"3"}
        await table.flush()
        assert len(changelog.sent) == 2

    run(tmp_path, scene)


def test_a_flush_also_waits_for_what_is_being_written_and_rows_put_meanwhile_stay(tmp_path: Path) -> None:
    async def scene(table: FoldTable, changelog: Acknowledged) -> None:
        await table.put(0, {b"a": b"1", b"b": b"2"})
        changelog.acknowledged.clear()
        first = asyncio.create_task(table.flush())
        while not changelog.sent:
            await asyncio.sleep(0)
        second = asyncio.create_task(table.flush())
        await table.put(0, {b"a": b"3"})
        await asyncio.wait({first, second}, timeout=0.01)
        assert not first.done()
        assert not second.done()
        assert (table.get(0, b"a"), table.get(0, b"b")) == (b"3", b"2")
        changelog.acknowledged.set()
        await asyncio.gather(first, second)
        assert (changelog.sent, written(table)) == ([{b"a": b"1", b"b": b"2"}, {b"a": b"3"}], {b"a": b"3", b"b": b"2"})

    run(tmp_path, scene)


def test_a_walk_shows_the_newest_rows(tmp_path: Path) -> None:
    async def scene(table: FoldTable, _changelog: Acknowledged) -> None:
        await table.write(0, {b"a": b"1", b"b": b"1", b"c": b"1"})
        await table.put(0, {b"b": b"2", b"c": None})
        assert table.chunk(0, None, 3) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"1")]

    run(tmp_path, scene)


@pytest.mark.parametrize("rows_max", [1, 2, 3, 10])
def test_a_walk_passes_every_row_once_also_those_that_are_not_written(tmp_path: Path, rows_max: int) -> None:
    """A row that a walk misses has no timer: the due times of its partition are read by walks."""

    async def scene(table: FoldTable, _changelog: Acknowledged) -> None:
        await table.write(0, {b"b": b"1", b"d": b"1", b"f": b"1"})
        await table.put(0, {b"a": b"2", b"c": b"2", b"d": b"2", b"e": b"2", b"g": b"2"})
        seen: list[tuple[bytes, bytes]] = []
        while rows := table.chunk(0, seen[-1][0] if seen else None, rows_max):
            seen += rows
            if len(rows) < rows_max:
                break
        assert seen == [(bytes([key]), b"1" if key in b"bf" else b"2") for key in b"abcdefg"]

    run(tmp_path, scene)


@pytest.mark.parametrize("rows", [{b"k%d" % n: b"1" for n in range(501)}, {b"a": b"1".rjust(4 * 1024 * 1024 + 1)}])
def test_too_many_rows_are_written_before_the_next_batch(tmp_path: Path, rows: Rows) -> None:
    async def scene(table: FoldTable, changelog: Acknowledged) -> None:
        await table.put(0, dict(list(rows.items())[:500]) if len(rows) > 1 else {})
        assert not changelog.sent
        await table.put(0, rows)
        assert written(table) == rows

    run(tmp_path, scene)


def test_rows_of_a_partition_that_was_lost_are_forgotten(tmp_path: Path) -> None:
    async def scene(table: FoldTable, changelog: Acknowledged) -> None:
        await table.put(0, {b"a": b"1"})
        table.reassigned(set())
        await table.flush()
        assert not changelog.sent
        with pytest.raises(PartitionNotOwnedError):
            table.get(0, b"a")
        with pytest.raises(PartitionNotOwnedError):
            await table.put(0, {b"a": b"1"})

    run(tmp_path, scene)


def test_what_was_put_before_a_partition_was_assigned_anew_is_not_written_over_what_was_recovered(
    tmp_path: Path,
) -> None:
    """A worker that was frozen may have lost the partition and have it back: another one wrote newer rows."""

    async def scene(table: FoldTable, changelog: Acknowledged) -> None:
        await table.put(0, {b"a": b"1", b"b": b"1"})
        changelog.acknowledged.clear()
        writing = asyncio.create_task(table.flush())
        while not changelog.sent:
            await asyncio.sleep(0)
        await table.put(0, {b"c": b"1"})
        table.reassigned({0})
        table._owned(0).write({b"a": b"7"}.items(), 5)
        table._active = {0}
        assert (table.get(0, b"a"), table.get(0, b"c")) == (b"7", None)
        changelog.acknowledged.set()
        with pytest.raises(PartitionNotOwnedError, match="partition 0 was assigned anew while rows were written"):
            await writing
        await table.flush()
        assert written(table) == {b"a": b"7"}
        assert len(changelog.sent) == 1

    run(tmp_path, scene)


def test_what_is_put_is_written_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_table, "GATHER_S", 0.0)

    async def scene(table: FoldTable, changelog: Acknowledged) -> None:
        writing = asyncio.create_task(table.write_gathered())
        for value in (b"1", b"2"):
            await table.put(0, {b"a": value})
            async with asyncio.timeout(10):
                while written(table) != {b"a": value}:
                    await asyncio.sleep(0)
        writing.cancel()
        assert len(changelog.sent) == 2

    run(tmp_path, scene)


class Overtaken(Acknowledged):
    """A successor's rows lie before what is sent; the real code reads and judges them."""

    def __init__(self, theirs: Rows) -> None:
        super().__init__()
        self._foreign = {0: [(5, 9)]}
        self._theirs = theirs
        self._topic = lambda: "changelog"
        self.reasserted = 0

    def foreign(self, partition: int) -> bool:
        return bool(self._foreign.get(partition))

    async def notice(self, partitions: set[int]) -> None:
        """Noticed before."""

    async def _read(self, partition: int, start: int, end: int) -> dict[bytes, bytes | None]:
        return dict(self._theirs)


def test_rows_of_another_writer_are_in_the_store_when_its_offset_passes_them(tmp_path: Path) -> None:
    """A worker that was frozen has taken the same records since, and may end before it writes their rows: its next
    recovery begins behind them.
    """

    async def scene(table: FoldTable, changelog: Acknowledged) -> None:
        await table._write(0, {b"a": b"1", b"d": b"2"})
        changelog = table._changelog = Overtaken({b"b": b"3", b"c": b"1", b"d": None})
        await table.put(0, {b"a": b"2"})
        changelog.acknowledged.clear()
        writing = asyncio.create_task(table.flush())
        while not changelog.sent:
            await asyncio.sleep(0)
        await table.put(0, {b"b": b"3", b"c": b"4"})
        changelog.acknowledged.set()
        await writing
        assert changelog.sent == [{b"a": b"2"}, {b"c": b"4", b"d": b"2"}]
        assert written(table) == {b"a": b"2", b"b": b"3", b"c": b"4", b"d": b"2"}

    run(tmp_path, scene)


def test_so_are_those_that_an_idle_owner_finds(tmp_path: Path) -> None:
    async def scene(table: FoldTable, changelog: Acknowledged) -> None:
        changelog = table._changelog = Overtaken({b"b": b"3"})
        await table.put(0, {b"b": b"3"})
        await table.watch_changelog()
        assert changelog.sent == []
        assert written(table) == {b"b": b"3"}

    run(tmp_path, scene)


def test_a_flush_that_waits_behind_one_that_was_overtaken_stores_nothing_either(tmp_path: Path) -> None:
    """It would store the offset behind the other worker's rows, and the next recovery would begin there."""

    async def scene(table: FoldTable, _changelog: Acknowledged) -> None:
        table._changelog = Overtaken({b"b": b"9"})
        await table.put(0, {b"a": b"1"})
        ends = await asyncio.gather(table.flush(), table.flush(), return_exceptions=True)
        assert [type(end) for end in ends] == [OvertakenError, OvertakenError]
        assert written(table) == {}

    run(tmp_path, scene)
