"""Stored JSON objects, of which a large one is read apart: its large members stay text."""

import sys
from collections.abc import Mapping
from typing import Any

import orjson

from backstop.runtime.blobs import BlobStore, get_body, get_data
from backstop.runtime.errors import BlobMissingError, BlobStoreError
from schemas.base import BlobBody, Body
from schemas.long_texts import whole
from streams.large_requests import BYTES_MAX, LargeRequest, LargeRequests
from streams.large_split import small_names


class StoredObjects:
    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._large = LargeRequests()

    async def of(self, body: Body) -> LargeRequest | None:
        """The object of a body; None if it is no object, or no longer stored.

        :raises BlobStoreError: it can't be read now.
        """
        try:
            if isinstance(body, BlobBody) and body.size_bytes > BYTES_MAX:
                return await self._apart(await get_data(self._blobs, body), None)
            value = await get_body(self._blobs, body)
        except BlobMissingError:
            return None
        return LargeRequest(value, b"") if isinstance(value, dict) else None

    async def member(self, sha256: str, name: str) -> LargeRequest | None:
        """The object in a member of a stored object. None, errors: see `of`."""
        try:
            data = await self._blobs.get(sha256)
            if len(data) > BYTES_MAX:
                return await self._apart(data, name)
            whole = orjson.loads(data)
        except (BlobMissingError, orjson.JSONDecodeError):
            return None
        value = whole.get(name) if isinstance(whole, dict) else None
        return LargeRequest(value, b"") if isinstance(value, dict) else None

    async def _apart(self, data: bytes | memoryview, member: str | None) -> LargeRequest | None:
        try:
            return await self._large.read(data, member)
        except OSError as error:  # no memory for a process, or its end
            raise BlobStoreError(f"a large body can't be read now: {error}") from error


def in_short(request: Mapping[str, Any]) -> dict[str, Any]:
    """What is shown of a large request: its small members, by their memory; later reads choose by the length of JSON.

    The events of a stream each have all that is shown: with 40 MB of `instructions` each would hold up the event loop.
    """
    names = small_names({name: _held_bytes(value) for name, value in request.items() if name != "input"})
    return {name: whole(request[name]) for name in names}


def _held_bytes(value: Any) -> int:
    """About the memory of a value. Not the length of its JSON: making that takes long where it is large."""
    held_bytes, left = 0, [value]
    while left:
        each = left.pop()
        held_bytes += sys.getsizeof(each)
        if isinstance(each, dict):
            left += each.keys()
            left += each.values()
        elif isinstance(each, list):
            left += each
    return held_bytes
