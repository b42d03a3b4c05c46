"""Stored JSON objects, of which a large one is read apart: its large members stay text."""

import orjson

from backstop.runtime.blobs import BlobStore, get_body, get_data
from backstop.runtime.errors import BlobMissingError, BlobStoreError
from schemas.base import BlobBody, Body
from streams.large_requests import BYTES_MAX, LargeRequest, LargeRequests


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
