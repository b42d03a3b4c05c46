"""Bodies by content hash: what is too large for a record is written here before the record that refers to it."""

import asyncio
import os
from pathlib import Path
from typing import Any, Protocol

import orjson

from runtime.errors import BlobMissingError
from schemas.base import BlobBody, Body, InlineBody
from schemas.codec import DEPTH_MAX, canonical, deeper_than, sha256_hex

INLINE_DEPTH_MAX = DEPTH_MAX - 16
"""Leaves room for the records and rows around it."""


class BlobStore(Protocol):
    async def put(self, data: bytes) -> str:
        """Durable when it returns; the same bytes again are a no-op. Returns the SHA-256 in hex."""

    async def get(self, sha256: str) -> bytes:
        """:raises BlobMissingError: gone, cut, or of another hash."""


class FolderBlobs:
    """A folder with two levels, shared by all processes of one deployment (one machine, or a network file system)."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, data: bytes) -> str:
        sha256 = sha256_hex(data)
        await asyncio.to_thread(self._write, sha256, data)
        return sha256

    async def get(self, sha256: str) -> bytes:
        return await asyncio.to_thread(self._read, sha256)

    def _path(self, sha256: str) -> Path:
        return self._root / sha256[:2] / sha256

    def _write(self, sha256: str, data: bytes) -> None:
        path = self._path(sha256)
        if path.exists() and path.stat().st_size == len(data):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _read(self, sha256: str) -> bytes:
        try:
            data = self._path(sha256).read_bytes()
        except OSError as error:
            raise BlobMissingError(f"blob {sha256}: {error.strerror or error}") from error
        if sha256_hex(data) != sha256:
            raise BlobMissingError(f"blob {sha256}: the content has another hash; restore it from a copy")
        return data


async def put_body(blobs: BlobStore, value: Any, inline_bytes_max: int) -> Body:
    """`value` (JSON) as a body: inline up to `inline_bytes_max` bytes of canonical JSON, else stored as a blob first.

    What is nested too deep for a record is a blob too.
    """
    data = canonical(value)
    if len(data) <= inline_bytes_max and not deeper_than(value, INLINE_DEPTH_MAX):
        return InlineBody(value=value)
    return BlobBody(sha256=await blobs.put(data), size_bytes=len(data))


async def get_body(blobs: BlobStore, body: Body) -> Any:
    """The JSON value of a body.

    :raises BlobMissingError: see `BlobStore.get`.
    """
    if isinstance(body, InlineBody):
        return body.value
    return orjson.loads(await blobs.get(body.sha256))
