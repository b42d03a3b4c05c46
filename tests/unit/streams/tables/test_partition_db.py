"""The local store of one partition on a real disk: it keeps rows, and never takes damage for data."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from streams.tables.partition_db import (
    OFFSET_KEY,
    PartitionDb,
    StoreDamagedError,
    StoreLimits,
    StoreLockedError,
    mark_damaged,
    new_cache,
    newest_change_s,
)

LIMITS = StoreLimits(memtable_bytes_max=64 * 1024)
BATCHES = 60
Rows = dict[bytes, bytes]
Open = Callable[[Path], PartitionDb]


@pytest.fixture
def open_db() -> Iterator[Open]:
    """Opens stores, and closes them at the end."""
    opened: list[PartitionDb] = []

    def open_one(path: Path) -> PartitionDb:
        opened.append(PartitionDb(path, new_cache(LIMITS), LIMITS))
        return opened[-1]

    yield open_one
    for db in opened:
        db.close()


def batches() -> Iterator[dict[bytes, bytes | None]]:
    draw = random.Random(1)
    for _ in range(BATCHES):
        yield {b"key-%d" % draw.randrange(50): draw.randbytes(400) if draw.random() < 0.9 else None for _ in range(10)}


def fill_and_die(path: Path) -> None:
    db = PartitionDb(path, new_cache(LIMITS), LIMITS)
    for offset, batch in enumerate(batches()):
        db.write(batch.items(), offset)
    os.kill(os.getpid(), signal.SIGKILL)  # not later: a store that goes out of scope is closed, which empties its log


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Rows]]:
    """A store of a process killed after `BATCHES` batches, in table files and log, and the rows as of each offset."""
    path = tmp_path_factory.mktemp("filled") / "rows-0.db"
    script = (
        "import pathlib, tests.unit.streams.tables.test_partition_db as test\n"
        f"test.fill_and_die(pathlib.Path({str(path)!r}))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    states: list[Rows] = []
    for batch in batches():
        merged = {**(states[-1] if states else {}), **batch}
        states.append({key: value for key, value in merged.items() if value is not None})
    assert list(path.glob("*.sst"))
    assert any(log.stat().st_size for log in path.glob("*.log"))
    return path, states


def test_rows_and_their_offset_are_there_after_a_restart(tmp_path: Path, open_db: Open) -> None:
    db = open_db(tmp_path / "a.db")
    assert (list(db.items()), db.offset(), db.get(b"a")) == ([], None, None)
    db.write([(b"b", b"2"), (b"a", b"1"), (b"c", b"")], 7)
    db.write([(b"b", None), (b"unknown", None)], 8)
    db.close()
    again = open_db(tmp_path / "a.db")
    assert (list(again.items()), again.offset()) == ([(b"a", b"1"), (b"c", b"")], 8)


def test_rows_without_an_offset_leave_the_offset_as_it_was(tmp_path: Path, open_db: Open) -> None:
    db = open_db(tmp_path / "a.db")
    db.write([(b"a", b"1")], 7)
    db.write([(b"a", b"2")], None)
    assert (db.get(b"a"), db.offset()) == (b"2", 7)


def test_a_scan_shows_the_rows_as_of_its_beginning(tmp_path: Path, open_db: Open) -> None:
    db = open_db(tmp_path / "a.db")
    db.write([(b"a", b"1"), (b"b", b"1")], 1)
    scan = db.items()
    first = next(scan)
    db.write([(b"b", b"2"), (b"c", b"2")], 2)
    assert [first, *scan] == [(b"a", b"1"), (b"b", b"1")]


def test_a_store_that_is_open_elsewhere_is_locked_and_not_damaged(tmp_path: Path, open_db: Open) -> None:
    open_db(tmp_path / "a.db")
    with pytest.raises(StoreLockedError, match="each process its own data folder"):
        open_db(tmp_path / "a.db")


def test_a_store_that_another_process_has_open_is_locked(tmp_path: Path, open_db: Open) -> None:
    script = f"from rocksdict import Rdict; db = Rdict({str(tmp_path / 'a.db')!r}); print('open', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(StoreLockedError):
            open_db(tmp_path / "a.db")
        other.kill()


def test_a_folder_that_cannot_be_written_is_the_disk_s_fault_and_not_damage(tmp_path: Path, open_db: Open) -> None:
    (tmp_path / "a.db").write_text("a file where the folder should be")
    with pytest.raises((OSError, StoreDamagedError)):
        open_db(tmp_path / "a.db")


def test_a_process_that_was_killed_in_the_middle_leaves_whole_batches(tmp_path: Path, open_db: Open) -> None:
    script = f"""
import itertools, pathlib
from streams.tables.partition_db import PartitionDb, StoreLimits, new_cache
db = PartitionDb(pathlib.Path({str(tmp_path / "a.db")!r}), new_cache(StoreLimits()), StoreLimits())
for n in itertools.count():
    db.write([(b"a", b"%d" % n), (b"b", b"%d" % n)], n)
    if n == 500: print("going", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"going\n"
        writer.kill()
    db = open_db(tmp_path / "a.db")
    offset = db.offset()
    assert offset is not None
    assert offset >= 500
    assert dict(db.items()) == {b"a": b"%d" % offset, b"b": b"%d" % offset}


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a flipped bit": lambda data, draw: _flipped(data, draw.randrange(len(data)), 1 << draw.randrange(8)),
    "a lost end": lambda data, draw: data[: draw.randrange(len(data))],
    "a page of zeros": lambda data, draw: _zeroed(data, draw.randrange(len(data))),
    "nothing left": lambda _data, _draw: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "kind", ["*.sst", "*.log", *(pytest.param(each, marks=pytest.mark.long) for each in ("MANIFEST-*", "CURRENT"))]
)
def test_a_damaged_file_is_found_or_leaves_an_earlier_state_whole(
    filled: tuple[Path, list[Rows]], tmp_path: Path, kind: str, damage: str
) -> None:
    """Rows are never wrong and always match the stored offset, from which recovery continues."""
    path, states = filled
    draw = random.Random(f"{kind} {damage}")
    outcomes = {"found": 0, "earlier": 0, "unharmed": 0}
    for number in range(12):
        copy = tmp_path / f"{number}" / path.name
        shutil.copytree(path, copy)
        victim = draw.choice(sorted(file for file in copy.glob(kind) if file.stat().st_size))
        victim.write_bytes(DAMAGES[damage](victim.read_bytes(), draw))
        try:
            db = PartitionDb(copy, new_cache(LIMITS), LIMITS)
        except StoreDamagedError:
            outcomes["found"] += 1
            continue
        offset, rows = db.offset(), dict(db.items())
        db.close()
        assert rows == (states[offset] if offset is not None else {}), f"{victim.name}: {damage}, offset {offset}"
        outcomes["unharmed" if offset == BATCHES - 1 else "earlier"] += 1
    assert outcomes["unharmed"] < 12, outcomes  # files have unused bits, but most damage must reach data


def test_the_digest_is_of_the_rows_and_not_of_their_history(tmp_path: Path, open_db: Open) -> None:
    one, other = open_db(tmp_path / "one.db"), open_db(tmp_path / "other.db")
    empty = one.digest()
    one.write([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")], 1)
    other.write([(b"b", b"1"), (b"c", b"9")], 5)
    assert one.digest() != other.digest()
    other.write([(b"b", b"2"), (b"a", b"3"), (b"c", None)], 6)
    assert one.digest() == other.digest() != empty
    one.write([(b"a", None), (b"b", None)], 2)
    assert one.digest() == empty


def test_a_store_with_rows_but_no_digest_is_not_trusted(tmp_path: Path, open_db: Open) -> None:
    with Rdict(str(tmp_path / "a.db"), options=Options(raw_mode=True)) as raw:
        raw[b"a"], raw[OFFSET_KEY] = b"1", b"5"
    with pytest.raises(StoreDamagedError, match="digest"):
        open_db(tmp_path / "a.db")


def test_a_missing_table_file_is_found(filled: tuple[Path, list[Rows]], tmp_path: Path, open_db: Open) -> None:
    copy = tmp_path / "rows-0.db"
    shutil.copytree(filled[0], copy)
    next(iter(sorted(copy.glob("*.sst")))).unlink()
    with pytest.raises(StoreDamagedError):
        open_db(copy)


@pytest.mark.parametrize("value", [b"", b"twelve", b"-3", b"\xff"])
def test_an_offset_that_is_none_is_damage(tmp_path: Path, open_db: Open, value: bytes) -> None:
    db = open_db(tmp_path / "a.db")
    db.write([(OFFSET_KEY, value)], None)
    db.close()
    with pytest.raises(StoreDamagedError, match="offset"):
        open_db(tmp_path / "a.db")


def test_stores_are_set_aside_under_numbers(tmp_path: Path) -> None:
    for expected in ("a.db.damaged-1", "a.db.damaged-2"):
        (tmp_path / "a.db").mkdir()
        assert mark_damaged(tmp_path / "a.db") == tmp_path / expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db.damaged-1", "a.db.damaged-2"]


def test_the_age_of_a_store_is_that_of_its_newest_file(tmp_path: Path) -> None:
    assert newest_change_s(tmp_path / "none.db") is None
    for name, changed_s in (("old", 1_000), ("new", 2_000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (changed_s, changed_s))
    assert newest_change_s(tmp_path) == 2_000


def _flipped(data: bytes, at: int, bits: int) -> bytes:
    return data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]


def _zeroed(data: bytes, at: int) -> bytes:
    end = min(len(data), at + 512)
    return data[:at] + bytes(end - at) + data[end:]
