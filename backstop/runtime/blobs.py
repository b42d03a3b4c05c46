"""Bodies by content hash: a body too large for a record is stored here before the record that refers to it."""

import asyncio
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar

import orjson

from backstop.runtime.errors import BlobMissingError, BlobStoreError
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.files import sync_folder
from backstop.runtime.process.logs import get_logger
from backstop.runtime.process.threads import Threads
from schemas.base import BlobBody, Body, InlineBody
from schemas.codec import DEPTH_MAX, canonical, sha256_hex
from schemas.shape import ShapeLimits, beyond

T = TypeVar("T")

INLINE_DEPTH_MAX = DEPTH_MAX - 16
"""Leaves room for the records and rows that embed it."""

INLINE: Final = ShapeLimits(values_max=4_000, depth_max=INLINE_DEPTH_MAX)
"""A body in a record is parsed, checked and written at every step: 4,000 values cost a few milliseconds each time."""

READ_AGAIN_S: Final = (0.05, 0.2)
"""Waits before a missing or torn blob is read again: a network file system may show it late."""

ANSWER_S: Final = 30.0
"""For the file system to write or read a blob: 64 MiB on a slow network file system. One that hangs never answers."""

PART_SUFFIX: Final = ".part"
SWEPT_SUFFIX: Final = ".swept"
PART_KEPT_MS: Final = 24 * 3_600_000
"""No write takes so long: an older part was left by a crash."""

MARK: Final = b'{"backstop":"'
"""The beginning of marks: contents whose presence is the information, such as a deleted response. They are never swept.
"""

MARK_BYTES_MAX: Final = 1_024
"""A body may begin so, too, but is larger: a request may have any field."""

SWEEP_S: Final = 6 * 3_600.0


log = get_logger("backstop.runtime.blobs")


class BlobStore(Protocol):
    async def put(self, data: bytes | memoryview) -> str:
        """Store `data`, durably on return; return its SHA-256 in hex. Repeated and concurrent puts of the same bytes
        are harmless.

        :raises OSError: not stored (`BlobStoreError`, if the store says why).
        """

    async def get(self, sha256: str) -> bytes | memoryview:
        """:raises BlobMissingError: gone, truncated, or of another hash.
        :raises BlobStoreError: the store can't be read now, so the blob may exist.
        """

    async def has(self, mark: bytes) -> bool:
        """Whether this content, which begins with `MARK`, was stored.

        :raises BlobStoreError: the store can't be read now, so the answer is unknown.
        """


Removal = Literal["removed", "absent", "recent"]


class BlobRemover(Protocol):
    async def remove(self, sha256: str, before_ms: int) -> Removal:
        """Remove a blob, unless it was last put at `before_ms` or later (`recent`): another job may refer to it.

        :raises OSError: it may still be there.
        """


class FolderBlobs:
    """A folder of two levels, shared by all processes of one deployment (on one machine, or a network file system)."""

    def __init__(self, root: Path, answer_s: float = ANSWER_S) -> None:
        self._root = root
        self._answer_s = answer_s
        self._threads = Threads("blobs")

    async def put(self, data: bytes | memoryview) -> str:
        sha256 = await asyncio.to_thread(sha256_hex, data)
        await self.put_as(sha256, data)
        return sha256

    async def put_as(self, name: str, data: bytes | memoryview) -> None:
        await self._in_time(name, partial(self._write, name, data))

    async def get(self, sha256: str) -> bytes:
        data = await self.get_as_it_is(sha256)
        if await asyncio.to_thread(sha256_hex, data) != sha256:
            raise BlobMissingError(f"blob {sha256}: the content has another hash; restore it from a copy")
        return data

    async def get_as_it_is(self, name: str) -> bytes:
        return await self._in_time(name, partial(self._read, name))

    async def _in_time(self, name: str, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(self._answer_s):
                return await self._threads.run(work)
        except TimeoutError as error:
            raise BlobStoreError(f"blob {name}: the folder did not answer within {self._answer_s:g} s") from error

    async def has(self, mark: bytes) -> bool:
        try:
            await self.get(sha256_hex(mark))
        except BlobMissingError:
            return False
        return True

    async def remove(self, sha256: str, before_ms: int) -> Removal:
        return await self._in_time(sha256, partial(self._remove, sha256, before_ms))

    async def sweep_for_ever(self, keep_ms: int, now_ms: NowMs) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            removed = await self._threads.run(self.sweep, now_ms() - keep_ms, now_ms())
            log.info("blobs_swept", removed=removed)

    def sweep(self, before_ms: int, now_ms: int) -> int:
        """Remove blobs last put before `before_ms`; returns how many. Concurrent puts, reads and sweeps are safe."""
        removed = 0
        for path in self._root.glob("[0-9a-f][0-9a-f]/*"):
            try:
                if path.name.endswith(PART_SUFFIX):
                    if _changed_ms(path) < now_ms - PART_KEPT_MS:
                        path.unlink()
                elif path.name.endswith(SWEPT_SUFFIX):
                    removed += _swept(path, before_ms)  # left by a crashed sweep
                elif _changed_ms(path) < before_ms and not _is_mark(path):
                    aside = path.with_name(path.name + SWEPT_SUFFIX)
                    path.rename(aside)
                    removed += _swept(aside, before_ms)
            except OSError:
                continue  # another process was faster, or the next sweep will try again
        return removed

    def _path(self, sha256: str) -> Path:
        return self._root / sha256[:2] / sha256

    def _remove(self, sha256: str, before_ms: int) -> Removal:
        path = self._path(sha256)
        aside = path.with_name(path.name + SWEPT_SUFFIX)
        try:
            if _changed_ms(path) >= before_ms:
                return "recent"
            path.rename(aside)
        except FileNotFoundError:
            pass  # or a removal was killed between its two steps
        try:
            removed = _swept(aside, before_ms)
        except FileNotFoundError:
            return "absent"
        sync_folder(path.parent)
        return "removed" if removed else "recent"

    def _write(self, sha256: str, data: bytes | memoryview) -> None:
        path = self._path(sha256)
        if _is_stored(path, data):
            # The writer may not have come so far yet: a caller relies on the blob once this returns.
            sync_folder(path.parent)
            return
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            sync_folder(self._root)
        # A temporary file per writer: concurrent writers of equal bodies must not share one.
        descriptor, part = tempfile.mkstemp(prefix=f"{sha256}.", suffix=PART_SUFFIX, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(part).replace(path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)

    def _read(self, sha256: str) -> bytes:
        try:
            return self._path(sha256).read_bytes()
        except FileNotFoundError as error:
            raise BlobMissingError(f"blob {sha256}: {error.strerror or error}") from error
        except OSError as error:  # of the disk or a network file system: the blob may exist
            raise BlobStoreError(f"blob {sha256} can't be read: {error.strerror or error}") from error


def _swept(aside: Path, before_ms: int) -> bool:
    """Remove a blob that was set aside, or restore it: a `put` may have refreshed its time just before."""
    if _changed_ms(aside) < before_ms:
        aside.unlink()
        return True
    aside.rename(aside.with_name(aside.name.removesuffix(SWEPT_SUFFIX)))
    return False


def _changed_ms(path: Path) -> float:
    return path.stat().st_mtime * 1000


def is_mark(beginning: bytes | memoryview, size_bytes: int) -> bool:
    return size_bytes <= MARK_BYTES_MAX and bytes(beginning[: len(MARK)]) == MARK


def _is_mark(path: Path) -> bool:
    with path.open("rb") as file:
        return is_mark(file.read(len(MARK)), path.stat().st_size)


def _is_stored(path: Path, data: bytes | memoryview) -> bool:
    """Whether `path` holds `data`. Sets its time of change, so that the sweep spares a blob that is referred to again.

    The content is compared, not the size alone: a torn file is written again.
    """
    try:
        if path.stat().st_size != len(data):
            return False
        # Before the read: if a sweep has set the file aside meanwhile, the read fails and the blob is written again.
        os.utime(path)
        return path.read_bytes() == data
    except OSError:
        return False


class BlobsPerTenant(ABC):
    """A store in which each tenant has blobs of its own. It says so: on CPython 3.11 a check of its members for each
    record took 1 % of a worker's time.
    """

    @abstractmethod
    def of(self, tenant: str) -> BlobStore:
        """The store; what is put there is this tenant's."""

    @abstractmethod
    def name_of(self, tenant: str, sha256: str) -> str:
        """The name of the tenant's body with this hash."""


def blobs_of(blobs: BlobStore, tenant: str) -> BlobStore:
    return blobs.of(tenant) if isinstance(blobs, BlobsPerTenant) else blobs


def name_of(blobs: object, tenant: str, sha256: str) -> str:
    """The name by which a store gives the tenant's body with this hash."""
    return blobs.name_of(tenant, sha256) if isinstance(blobs, BlobsPerTenant) else sha256


def name_with_keys(tenant: str, sha256: str) -> str:
    """The name of an encrypted body with this hash. Never change its form: bodies would be found no more."""
    return sha256_hex(f"{tenant}\n{sha256}".encode())


def names_of(blobs: object, tenant: str, sha256: str) -> tuple[str, ...]:
    """The names by which a body with this hash may be stored: the present one, and that from before there were keys."""
    return tuple(dict.fromkeys((name_of(blobs, tenant, sha256), sha256)))


@dataclass(frozen=True, slots=True)
class Bodies:
    """Stores bodies: inline up to `inline_bytes_max` bytes of canonical JSON, else as a blob.

    A value nested too deep for a record, or with too many values, becomes a blob too.
    """

    blobs: BlobStore
    inline_bytes_max: int

    def of(self, tenant: str) -> "Bodies":
        """For bodies of this tenant."""
        return replace(self, blobs=blobs_of(self.blobs, tenant))

    async def put(self, value: Any) -> Body:
        """`value` (JSON) as a body. A blob is stored when this returns.

        :raises OSError: not stored.
        """
        return await self.put_canonical(value, canonical(value))

    async def put_large(self, data: bytes | memoryview) -> BlobBody:
        """As `put`, where the canonical JSON is known, and known to be too large for a record."""
        return BlobBody(sha256=await self.blobs.put(data), size_bytes=len(data))

    async def put_canonical(self, value: Any, data: bytes | memoryview) -> Body:
        """As `put`, where the canonical JSON of `value` is known to be `data`."""
        if len(data) <= self.inline_bytes_max and beyond(bytes(data), INLINE) is None:
            return InlineBody(value=value)
        return await self.put_large(data)


async def get_body(blobs: BlobStore, body: Body) -> Any:
    """The JSON value of a body.

    :raises BlobMissingError: see `get_data`.
    :raises BlobStoreError: see `BlobStore.get`.
    """
    return body.value if isinstance(body, InlineBody) else orjson.loads(await get_data(blobs, body))


async def text_of(blobs: BlobStore, body: Body) -> bytes:
    """The JSON text of a body, which a large one costs no parsing.

    :raises BlobMissingError: see `get_data`.
    :raises BlobStoreError: see `BlobStore.get`.
    """
    return canonical(body.value) if isinstance(body, InlineBody) else bytes(await get_data(blobs, body))


async def get_data(blobs: BlobStore, body: BlobBody) -> bytes | memoryview:
    """The JSON text of a body. A missing or torn blob is read again, after `READ_AGAIN_S`, before the error is raised.

    :raises BlobMissingError: see `BlobStore.get`.
    :raises BlobStoreError: see `BlobStore.get`.
    """
    for wait_s in READ_AGAIN_S:
        try:
            return await blobs.get(body.sha256)
        except BlobMissingError:
            await asyncio.sleep(wait_s)
    return await blobs.get(body.sha256)
