"""Bodies: inline if they fit, else by content hash, and never silently wrong."""

import asyncio
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from backstop.runtime.blobs import INLINE_DEPTH_MAX, MARK, READ_AGAIN_S, Bodies, FolderBlobs, get_body
from backstop.runtime.errors import BlobMissingError
from schemas.base import BlobBody, InlineBody
from schemas.codec import sha256_hex


def stored(root: Path, value: Any, inline_bytes_max: int) -> Any:
    return asyncio.run(Bodies(FolderBlobs(root), inline_bytes_max).put(value))


def test_a_body_is_inline_up_to_the_limit_and_a_blob_above_it(tmp_path: Path) -> None:
    value = {"a": "x" * 100}  # 108 bytes as JSON
    assert isinstance(stored(tmp_path, value, 108), InlineBody)
    body = stored(tmp_path, value, 107)
    assert isinstance(body, BlobBody)
    assert body.size_bytes == 108
    assert asyncio.run(get_body(FolderBlobs(tmp_path), body)) == value


def test_a_body_nested_too_deep_for_a_record_is_a_blob_however_small(tmp_path: Path) -> None:
    value: Any = 1
    for _ in range(INLINE_DEPTH_MAX):
        value = [value]
    assert isinstance(stored(tmp_path, value, 10_000), InlineBody)
    assert isinstance(stored(tmp_path, [value], 10_000), BlobBody)


@pytest.mark.parametrize("harm", ["gone", "cut", "changed"])
def test_a_blob_that_is_gone_cut_or_changed_is_told_apart_from_a_body(tmp_path: Path, harm: str) -> None:
    body = stored(tmp_path, {"a": 1}, 0)
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    with pytest.raises(BlobMissingError, match=body.sha256):
        asyncio.run(get_body(FolderBlobs(tmp_path), body))


@pytest.mark.parametrize("processes", [1, 2])
def test_equal_bodies_at_one_time_are_stored_each_time(tmp_path: Path, processes: int) -> None:
    data = b"x" * 300_000
    stores = [FolderBlobs(tmp_path) for _ in range(processes)]

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(stores[n % processes].put(data) for n in range(24)), return_exceptions=True)

    assert set(asyncio.run(all_at_once())) == {sha256_hex(data)}
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert path.read_bytes() == data


def test_a_torn_blob_of_the_right_size_is_written_anew(tmp_path: Path) -> None:
    store, data = FolderBlobs(tmp_path), b"x" * 1000
    sha256 = asyncio.run(store.put(data))
    (tmp_path / sha256[:2] / sha256).write_bytes(b"x" * 500 + bytes(500))
    asyncio.run(store.put(data))
    assert asyncio.run(store.get(sha256)) == data


def test_a_blob_that_could_not_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    store, data = FolderBlobs(tmp_path), b"x" * 1000
    sha256 = sha256_hex(data)
    (tmp_path / sha256[:2] / sha256).mkdir(parents=True)  # nothing can replace a folder
    with pytest.raises(OSError):
        asyncio.run(store.put(data))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_blob_that_shows_a_moment_late_is_read_again(tmp_path: Path) -> None:
    store = FolderBlobs(tmp_path)
    body = stored(tmp_path, {"a": 1}, 0)
    path = tmp_path / body.sha256[:2] / body.sha256
    data = path.read_bytes()
    path.unlink()

    async def story() -> Any:
        asyncio.get_running_loop().call_later(READ_AGAIN_S[0] / 2, path.write_bytes, data)
        return await get_body(store, body)

    assert asyncio.run(story()) == {"a": 1}


def age(tmp_path: Path, sha256: str) -> Path:
    path = tmp_path / sha256[:2] / sha256
    os.utime(path, (1_000, 1_000))
    return path


def test_a_sweep_removes_what_was_last_put_long_ago_and_nothing_else(tmp_path: Path) -> None:
    store = FolderBlobs(tmp_path)
    old, again, mark = (asyncio.run(store.put(data)) for data in (b"old", b"again", MARK + b'deleted response"}'))
    for sha256 in (old, again, mark):
        age(tmp_path, sha256)
    young = asyncio.run(store.put(b"young"))
    asyncio.run(store.put(b"again"))  # referred to once more
    part, swept = tmp_path / old[:2] / "x.part", tmp_path / young[:2] / f"{young}.swept"
    part.write_bytes(b"x")
    os.utime(part, (1_000, 1_000))
    (tmp_path / young[:2] / young).rename(swept)  # a crash in the middle of a sweep
    assert store.sweep(2_000_000, 2_000_000_000) == 1
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {again, mark, young}
    assert store.sweep(2_000_000, 2_000_000_000) == 0


def test_what_is_put_during_sweeps_is_there_afterwards(tmp_path: Path) -> None:
    """Concurrent puts, ageing and sweeps: each caller whose `put` returned finds its blob."""
    store, data = FolderBlobs(tmp_path), b"x" * 10_000
    sha256 = sha256_hex(data)
    stop = threading.Event()

    def sweep() -> None:
        while not stop.is_set():
            store.sweep(2_000_000, 2_000_000_000)

    sweepers = [threading.Thread(target=sweep) for _ in range(2)]
    for thread in sweepers:
        thread.start()
    try:
        for _ in range(150):
            with suppress(OSError):
                age(tmp_path, sha256)
            body = BlobBody(sha256=asyncio.run(store.put(data)), size_bytes=len(data))
            assert asyncio.run(store_read(store, body)) == data
    finally:
        stop.set()
        for thread in sweepers:
            thread.join()


async def store_read(store: FolderBlobs, body: BlobBody) -> bytes:
    for _ in range(50):
        with suppress(BlobMissingError):  # set aside for a moment, and put back
            return await store.get(body.sha256)
    return await store.get(body.sha256)
